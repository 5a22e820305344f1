"""The difference that another start token makes: paired by document, its error by book."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.conftest import call_script, one_line_error
from tests.measure_mutual_info.test_estimate_bipartite import power_scores

SCRIPT = "measure_mutual_info/compare_start_tokens.py"


def save(folder: Path, scores: pd.DataFrame, token: str, seed: int = 0) -> Path:
    folder.mkdir()
    scores.to_csv(folder / "scores.csv", index=False)
    record = {"source": "toy", "settings": {"model": "org/tiny"}, "start_token": token}
    record["identity"] = {"bos": hash(token), "seed": seed}
    (folder / "scores.json").write_text(json.dumps(record))
    return folder / "scores.csv"


def test_paired_by_document_with_errors_by_book(tmp_path):
    """log q(Y) falls by an amount of each book: the difference is its mean, the error that of a mean over books."""
    scores = power_scores(books=4, documents=40)
    fall = scores["book"].map({book: 1.0 + i for i, book in enumerate(scores["book"].unique())})
    other = scores.assign(logq_y_nats=scores["logq_y_nats"] - fall)
    files = save(tmp_path / "a", scores, "<s>"), save(tmp_path / "b", other, "</s>")
    done = call_script(SCRIPT, "--scores", *files, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "start_token.csv").set_index(["start_token", "estimator"])
    of_book = fall.groupby(scores["book"]).first().to_numpy()
    direct = table.loc[("</s>", "direct")]
    assert direct["difference_nats"].to_numpy() == pytest.approx(of_book.mean())
    assert direct["difference_stderr_nats"].to_numpy() == pytest.approx(of_book.std(ddof=1) / np.sqrt(4))
    assert (table.loc[("</s>", "vclub"), "difference_nats"] == 0).all()
    assert (table.loc["<s>"][["difference_nats", "difference_stderr_nats"]] == 0).all(axis=None)
    assert set(table["n_books"]) == {4}
    assert "</s>, direct, L = 4: " in done.stdout
    assert (tmp_path / "start_token.json").exists()


def test_scores_that_cannot_be_compared(tmp_path):
    scores = power_scores(books=2, documents=8)
    files = save(tmp_path / "a", scores, "<s>"), save(tmp_path / "b", scores, "</s>", seed=1)
    said = "b/scores.csv was made with other settings (seed 1 there, 0 here): score the same documents"
    assert said in one_line_error(call_script(SCRIPT, "--scores", *files, "--out", tmp_path))
    line = one_line_error(call_script(SCRIPT, "--scores", files[0], "--out", tmp_path))
    assert "--scores: give the scores of two start tokens or more" in line
