from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from benchmarks import counting, fresh_process
from measure_mutual_info.counting.document_stream import open_stream
from tests.conftest import call_script, one_line_error

SCRIPT = "benchmarks/counting.py"
SMALL = ["--tokens", 5000, "--sizes", 2500, 10_000, "--document-tokens", 10, "--vocabulary", 50]


@pytest.fixture
def documents(tmp_path):
    cfg = counting.Settings(vocabulary=50, document_tokens=10)
    counting.write_zipf_documents(tmp_path / "documents", 5000, cfg)
    return tmp_path / "documents"


def test_tokens_follow_zipfs_law(documents):
    stream, prepared = open_stream(documents)
    assert (stream.tokens, stream.units, prepared["tokenizer_vocab_size"]) == (5000, 2, 50)
    assert set(np.diff(stream.starts)) == {10}
    tokens = np.concatenate([part for part, *_ in stream.read(0, 5000)])
    p = 1 / (np.arange(50) + 3.7)
    seen = np.sort(np.bincount(tokens, minlength=50))[::-1] / 5000
    assert np.abs(seen - p / p.sum()).max() < 0.02


def test_both_ways_count_the_same_pairs(documents, tmp_path):
    """The rival that is timed computes the same numbers, or the timing would mean nothing."""
    stream, _ = open_stream(documents)
    tokens = np.concatenate([part for part, *_ in stream.read(0, 5000)]).reshape(-1, 10)
    pairs = Counter(zip(tokens[:, :-1].ravel().tolist(), tokens[:, 1:].ravel().tolist(), strict=True))
    expected = json.dumps(sorted(Counter(pairs.values()).items()))
    assert counting.count_with_counter(documents)["counts"] == expected
    for chunk_tokens in (700, 1 << 20):
        work = tmp_path / str(chunk_tokens)
        work.mkdir()
        for distances in ([1], []):
            assert counting.count_by_sorting(documents, work, chunk_tokens, distances, 1)["counts"] == expected


def test_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr(fresh_process, "WARM_BYTES", 8)
    out = tmp_path / "counting.csv"
    flags = [*SMALL, "--out", out, "--run-tokens", 1000, "--rounds", 1, "--folder", tmp_path]
    done = call_script(SCRIPT, *flags)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(out, keep_default_na=False)
    assert table.columns.tolist() == [
        *("benchmark", "setting", "measure", "unit", "baseline", "baseline_value", "our_value", "ratio")
    ]
    assert set(table["benchmark"]) == {"counting"}
    slope = "log-log slope of seconds against tokens"
    assert table["measure"].tolist() == [
        *(
            "throughput",
            "peak memory",
            "throughput",
            "peak memory",
            "seconds",
            "peak memory",
            "seconds",
            "seconds",
            "peak memory",
            slope,
        ),
        "extrapolated hours",
    ]
    assert (table.loc[table["measure"] != slope, ["baseline_value", "our_value", "ratio"]] > 0).all(axis=None)
    for row in table[table["measure"] != slope].itertuples():
        better = row.our_value / row.baseline_value
        assert row.ratio == pytest.approx(better if row.measure == "throughput" else 1 / better, rel=0.05)
    hours = table.set_index("measure")["our_value"]["extrapolated hours"]
    seconds = table[(table["measure"] == "seconds") & table["setting"].str.startswith("0.01 million")]["our_value"]
    assert hours == pytest.approx(seconds.iloc[-1] / 10_000 * 3e9 * 14 / 3600, rel=0.01)
    assert json.loads(out.with_suffix(".json").read_text())["settings"]["tokens"] == 5000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["counting.csv", "counting.json"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out", "x.txt"], "--out x.txt: give the name of a .csv file"),
        (["--sizes", 2500], "--sizes 2500: give two or more, ascending"),
        (["--sizes", 5000, 2500], "--sizes 5000 2500: give two or more, ascending"),
        (["--rounds", 0], "need at least 1"),
        (["--tokens", 5001], "give multiples of 2,500"),
    ],
)
def test_bad_settings(tmp_path, flags, message):
    assert message in one_line_error(call_script(SCRIPT, *SMALL, "--out", tmp_path / "x.csv", *flags))
    assert not list(tmp_path.iterdir())
