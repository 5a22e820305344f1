"""The benchmark of training on books: both sides make the same step, and the rows say what was measured."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from conftest import call_script, one_line_error

from benchmarks import books

SCRIPT = "benchmarks/books.py"


@pytest.mark.parametrize("model", ["gpt2-mini-small", "mamba2-mini-small"])
def test_both_sides_make_the_same_step(model, monkeypatch):
    monkeypatch.setattr(books, "IDS", 300)
    (ours, our_step), (plain, plain_step) = (books.make_step(model, 32, one) for one in (True, False))
    assert type(ours) is not type(plain)
    for _ in range(2):  # the second sees what the first has made of the weights
        assert our_step() == pytest.approx(plain_step(), abs=1e-4)
    there = plain.state_dict()
    assert all(torch.allclose(value, there[name], atol=1e-4) for name, value in ours.state_dict().items())


def test_rows(monkeypatch, tmp_path):
    monkeypatch.setattr(books, "IDS", 2000)
    here = {"benchmarks.books.step_on_cpu": books.step_on_cpu, "benchmarks.books.loss_on_cpu": books.loss_on_cpu}
    monkeypatch.setattr(books, "in_a_process", lambda function, *given: here[function](*given))
    # In one process the peak does not come back down, so it is made up: 4 GB for ours, then 8 GB.
    peaks = iter([0, 4e9, 0, 8e9] * 2)
    monkeypatch.setattr(books, "peak_bytes", lambda: next(peaks))
    done = call_script(SCRIPT, "--L", 64, "--width", 8, "--model", "tiny", "--rounds", 1, "--out", tmp_path / "b.csv")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "b.csv")
    assert table["measure"].tolist() == [
        "peak memory of a step",
        "seconds of a step",
        "peak memory of the loss",
        "seconds of the loss",
    ]
    memory = table[table["unit"] == "GB"]
    assert memory[["baseline_value", "our_value", "ratio"]].to_numpy().tolist() == [[8, 4, 2]] * 2
    seconds = table[table["unit"] == "s"]
    assert seconds["ratio"].to_numpy() == pytest.approx(seconds["baseline_value"] / seconds["our_value"], rel=2e-3)
    assert (seconds["our_value"] > 0).all()
    assert table["setting"][0] == "tiny, 64 × 2,048, fp32, CPU"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--out", "x.txt"], "give the name of a .csv file"),
        (["--rounds", 0], "at least 1 each"),
        (["--model", "gpt5"], "no model 'gpt5'"),
        (["--device", "tpu"], "give cpu or cuda"),
    ],
)
def test_bad_settings(flags, said):
    assert said in one_line_error(call_script(SCRIPT, *flags))
