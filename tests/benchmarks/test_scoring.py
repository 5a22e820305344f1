from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import scoring
from measure_mutual_info.scoring import backend_transformers, passes
from tests.conftest import call_script, tiny_model, toy_books

COLUMNS = ["benchmark", "setting", "measure", "unit", "baseline", "baseline_value", "our_value", "ratio"]


def test_pooled_variance():
    values, book = np.array([1.0, 3.0, 10.0, 14.0, 12.0]), np.array([0, 0, 2, 2, 2])
    assert scoring.pooled_variance(values, book) == pytest.approx((1 + 1 + 4 + 4 + 0) / 3)
    assert scoring.pooled_variance(values, np.zeros(5, int)) == pytest.approx(values.var(ddof=1))


def test_command(tmp_path):
    rng = np.random.default_rng(0)
    count = 60
    names = np.array([f"a#{i:04d}" for i in range(count)])
    alone, x_donor = rng.normal(-3000, 100, count), np.roll(np.arange(count), 1)
    scores = pd.DataFrame(
        {
            "document": names,
            "book": "a",
            "ell_tokens": 256,
            "L_tokens": 512,
            "logq_y_given_x_nats": alone + rng.normal(100, 10, count),
            "logq_y_nats": alone,
            "logq_y_first2_nats": -15.0,
            "logq_y_given_other_x_nats": alone + rng.normal(-10, 10, count),
            "logq_start_nats": alone,
            "y_bytes": 1000,
            "x_donor": names[x_donor],
        }
    )
    scores.to_csv(tmp_path / "scores.csv", index=False)
    out = tmp_path / "scoring.csv"
    done = call_script(
        *("benchmarks/scoring.py", "--model", "random-tiny", "--L-max", 32, "--rounds", 1, "--out", out),
        *("--scores", tmp_path / "scores.csv", "--device", "cpu", "--bootstrap", 20),
    )
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(out)
    assert list(table.columns) == COLUMNS
    assert out.with_suffix(".json").exists()
    tokens = table[(table["measure"] == "tokens a document") & table["setting"].str.contains("shared, L = 2ℓ, 3ℓ")]
    wanted = 32 + sum(32 - ell + 32 for ell in (2, 4, 8, 16)), passes.tokens_a_document(passes.grid(32))
    assert (tokens["baseline_value"].item(), tokens["our_value"].item()) == wanted
    given, other = scores["logq_y_given_x_nats"], scores["logq_y_given_other_x_nats"]
    for estimator, subtracted in (("direct", scores["logq_y_nats"]), ("vclub", other)):
        found = table[(table["measure"] == "variance of a term") & table["setting"].str.contains(estimator)]
        wanted = (given.var() + subtracted.var()) / (given - subtracted).var()
        assert found["ratio"].to_numpy() == pytest.approx([wanted, wanted], rel=1e-3), "one book: both kinds agree"
    totals = table[table["measure"] == scoring.EQUAL]
    for way in ("shared, L = 2ℓ", "shared, L = 2ℓ, 3ℓ, 4ℓ"):
        headline = totals["setting"].str.contains(f"HEADLINE, {way}:", regex=False)
        parts = totals["setting"].str.endswith(f"L = 512, {way}")
        assert parts.sum() == 4, "two estimators, two kinds of pairs"
        assert totals.loc[headline, "ratio"].item() == totals.loc[parts, "ratio"].min()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads a peak of memory as Linux tells it")
def test_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(backend_transformers, "LOGIT_BYTES", 1 << 26)
    flags = ["--part", "pieces", "--model", "random-tiny", "--L-max", 512, "--rounds", 1, "--out", tmp_path / "s.csv"]
    done = call_script("benchmarks/scoring.py", *flags)
    assert done.returncode == 0, done.stderr
    memory, seconds = pd.read_csv(tmp_path / "s.csv").itertuples()
    assert (memory.unit, seconds.unit) == ("GB", "s")
    assert memory.baseline_value > 512 * 128_256 * 4 / 1e9, "all logits"
    assert memory.ratio > 1.5


def test_bfloat16(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path / "model")
    flags = ["--model", tmp_path / "model", "--documents", toy_books(tmp_path / "documents", 20, 4), "--device", "cpu"]
    flags += ["--L-max", 16, "--batch-documents", 6, "--bos", 0, "--out", tmp_path / "s.csv"]
    done = call_script("benchmarks/scoring.py", "--part", "bfloat16", *flags)
    assert done.returncode == 0, done.stderr
    seconds, table = (rows for _, rows in pd.read_csv(tmp_path / "s.csv").groupby(lambda i: i > 0))
    assert seconds["unit"].item() == "s"
    assert seconds["our_value"].item() > 0
    assert table["setting"].str.extract(r"(direct|vclub), L = (\d+), 6 documents").to_numpy().tolist() == [
        [estimator, L] for estimator in ("direct", "vclub") for L in ("4", "8", "16")
    ]
    change = (table["float32_nats"] - table["bfloat16_nats"]).abs()
    assert table["our_value"].to_numpy() == pytest.approx(change.to_numpy(), abs=2e-4)
    assert (table["our_value"] > 0).all(), "the types differ"
    assert np.median(table["ratio"]) > 3, "rounding is small beside the spread of documents"
