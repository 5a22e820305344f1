from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from benchmarks import counting, publish
from measure_mutual_info.counting.document_stream import open_stream
from tests.conftest import call_script, one_line_error

SCRIPT = "benchmarks/counting.py"
SMALL = ["--sizes", 5000, 10_000, "--document-tokens", 10, "--vocabulary", 50]


@pytest.fixture
def documents(tmp_path):
    cfg = counting.Settings(vocabulary=50, document_tokens=10)
    counting.write_zipf_documents(tmp_path / "documents", 5000, cfg)
    return tmp_path / "documents"


def test_both_ways_count_the_same_pairs_of_zipfs_law(documents):
    """Documents follow Zipf's law, and the timed baseline counts the same as our code; else timing means nothing."""
    stream, prepared = open_stream(documents)
    assert (stream.tokens, stream.units, prepared["tokenizer_vocab_size"]) == (5000, 2, 50)
    assert set(np.diff(stream.starts)) == {10}
    tokens = np.concatenate([part for part, *_ in stream.read()]).reshape(-1, 10)
    p = 1 / (np.arange(50) + 3.7)
    seen = np.sort(np.bincount(tokens.ravel(), minlength=50))[::-1] / 5000
    assert np.abs(seen - p / p.sum()).max() < 0.02
    pairs = Counter(zip(tokens[:, :-1].ravel().tolist(), tokens[:, 1:].ravel().tolist(), strict=True))
    expected = json.dumps(sorted(Counter(pairs.values()).items()))
    assert counting.count_with_counter(documents)["counts"] == expected
    assert counting.count_by_sorting(documents, True)["counts"] == expected
    assert counting.count_by_sorting(documents, False)["counts"] == expected


def test_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "WARM_BYTES", 8)
    out = tmp_path / "counting.csv"
    flags = [*SMALL, "--out", out, "--rounds", 1, "--folder", tmp_path]
    done = call_script(SCRIPT, *flags)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(out, keep_default_na=False)
    assert table.columns.tolist() == [
        *("benchmark", "setting", "measure", "unit", "baseline", "baseline_value", "our_value", "ratio")
    ]
    assert table["measure"].tolist() == ["throughput", "peak memory"] * 2 + ["seconds", "peak memory"] * 2
    for row in table.itertuples():
        better = row.our_value / row.baseline_value
        assert row.ratio == pytest.approx(better if row.measure == "throughput" else 1 / better, rel=0.01)
    assert json.loads(out.with_suffix(".json").read_text())["settings"]["sizes"] == [5000, 10_000]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["counting.csv", "counting.json"]


def test_bad_settings(tmp_path):
    line = one_line_error(call_script(SCRIPT, *SMALL, "--out", tmp_path / "x.csv", "--sizes", 5001, 7500))
    assert "multiples of 2,500" in line
    assert not list(tmp_path.iterdir())
