"""The loss by counting against compressions of the whole text, and counting_floor.py through its command line."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyppmd
import pytest
from conftest import call_script, one_line_error, prose, trained, write_documents
from scipy import stats

from train_on_pg19.counting_floor import growth

SCRIPT = "train_on_pg19/counting_floor.py"


def compressed(text: bytes, order: int) -> int:
    encoder = pyppmd.Ppmd7Encoder(order, 16 << 20)
    return len(encoder.encode(text)) + len(encoder.flush())


@pytest.mark.parametrize("order", [2, 6])
def test_growth_is_that_of_whole_compressions(order):
    training, documents = prose(300, 0).encode(), [prose(20, 1).encode(), prose(5, 2).encode(), b""]
    expected = [compressed(training + text, order) - compressed(training, order) for text in documents]
    assert growth(training, documents, order, 16).tolist() == expected
    assert expected[0] > 100


def test_known_text_costs_less_and_bad_calls(tmp_path):
    ids = {
        f"book {i}": [list(prose(30, 10 * i + j).encode("ascii", "replace")[:500]) for j in range(3)] for i in range(5)
    }
    documents = write_documents(tmp_path / "documents", ids, 256)
    flags = ["--L", 400, "--batch-tokens", 400, "--epochs", 0.5, "--held-out-books", "book [01]"]
    run = trained("train_on_pg19/train.py", tmp_path / "run", "--documents", documents, *flags)
    losses = tmp_path / "losses.csv"
    given = ["--losses", losses, "--documents", documents, "--out", tmp_path / "out", "--orders", 2, 4]
    flags = ["--model", run, "--documents", documents, "--out", losses, "--device", "cpu"]
    assert call_script("train_on_pg19/evaluate.py", *flags).returncode == 0
    assert "books.csv" in one_line_error(call_script(SCRIPT, *given))  # compare.py writes it
    assert call_script("train_on_pg19/compare.py", "--losses", losses, "--out", tmp_path / "out").returncode == 0
    done = call_script(SCRIPT, *given, "--megabytes", 16)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "out" / "counting.csv")
    assert table[["order", "L", "n_documents", "n_books", "training_bytes"]].to_numpy().tolist() == [
        [2, 400, 6, 2, 3600],
        [4, 400, 6, 2, 3600],
    ]
    learned = b"".join(
        bytes(text[:400]) for name, texts in ids.items() if name not in ("book 0", "book 1") for text in texts
    )
    held = [[bytes(text[:400]) for text in ids[f"book {i}"]] for i in range(2)]
    sizes = np.array([[compressed(learned + text, 4) - compressed(learned, 4) for text in texts] for texts in held])
    rates = sizes.sum(axis=1) * 8 * np.log(2) / 1200
    assert table["nats_per_byte"].iloc[1] == pytest.approx(rates.mean(), abs=1e-5)
    assert table["stderr_nats_per_byte"].iloc[1] == pytest.approx(rates.std(ddof=1) / np.sqrt(2), abs=1e-5)
    loss = pd.read_csv(tmp_path / "out" / "books.csv").set_index("book")["nats_per_unit"].to_numpy()
    margin = pd.read_csv(tmp_path / "out" / "margin.csv").iloc[0]
    assert table["nats_per_byte"].argmin() == 1
    assert margin["margin_nats"] == pytest.approx((rates - loss).mean(), abs=2e-5)
    error = (rates - loss).std(ddof=1) / np.sqrt(2)
    assert margin["hi95"] - margin["margin_nats"] == pytest.approx(stats.t.ppf(0.975, 1) * error, abs=1e-4)
    assert margin[["n_books_better", "n_books"]].tolist() == [(loss < rates).sum(), 2]
    books = pd.read_csv(tmp_path / "out" / "counting_books.csv")
    assert books[["order", "book"]].to_numpy().tolist() == [[4, "book 0"], [4, "book 1"]]
    np.testing.assert_allclose(books["nats_per_byte"], rates, atol=1e-5)
    few = call_script(SCRIPT, *given, "--max-documents-per-book", 2)
    assert "books.csv: not made from these documents: give --books" in one_line_error(few)
    others = write_documents(tmp_path / "others", {"book 7": ids["book 0"], "book 8": ids["book 1"]}, 256)
    for changes, said in (
        (["--orders", 1], "--orders 1: from 2 to 64 bytes"),
        (["--megabytes", 0], "--megabytes 0: from 1 to 4,095"),
        (["--documents", others], f"{others}: not the documents that the run of {losses} was trained on"),
        (["--losses", tmp_path / "none.csv"], "none.json is not there"),
    ):
        assert said in one_line_error(call_script(SCRIPT, *given, *changes))
