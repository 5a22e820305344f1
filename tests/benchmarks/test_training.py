"""The benchmark of training: its two parts, small."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch

from benchmarks import training
from tests.conftest import ROOT, call_script, one_line_error, write_documents

SCRIPT = "benchmarks/training.py"


@pytest.fixture(autouse=True)
def threads():
    """The benchmark sets their number for its whole process, which here goes on."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def rows(folder, *flags: object) -> pd.DataFrame:
    done = call_script(SCRIPT, "--out", folder / "made.csv", *flags)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(folder / "made.csv")
    assert (table["benchmark"] == "training").all()
    return table


def test_a_step_of_two_checkouts(tmp_path, monkeypatch):
    """This one beside itself."""
    monkeypatch.setattr(training, "GAUSSIAN", ("tiny",))
    monkeypatch.setattr(training, "BOOKS", ("gpt_neox-mini-small",))
    books = {f"book {i}": [[(i * j + k) % 256 for j in range(256)] for k in range(20)] for i in range(6)}
    documents = write_documents(tmp_path / "documents", books)
    flags = ["--other", ROOT, "--documents", documents, "--rounds", 1, "--steps", 20]
    table = rows(tmp_path, "--part", "loop", *flags)
    assert table["setting"].tolist() == ["tiny, one thread", "gpt_neox-mini-small, one thread"]
    assert (table["ratio_min"] <= table["ratio"] + 1e-3).all()
    assert (table["ratio"] <= table["ratio_max"] + 1e-3).all()


def test_optimizers(tmp_path):
    """Budgets of which the larger ones reach an easy goal, found by halving."""
    flags = ["--models", "tiny", "--goal", 0.62, "--budgets", 20, 40, 60, 80]
    table = rows(tmp_path, "--part", "optimizers", *flags)
    runs = pd.DataFrame(json.loads((tmp_path / "made.json").read_text(encoding="utf-8"))["runs"])
    assert set(runs["optimizer"]) == {"adamw", "muon"}
    for optimizer, column in (("adamw", "baseline_value"), ("muon", "our_value")):
        of = runs[runs["optimizer"] == optimizer]
        reached = of.loc[of["kl_nats"] <= 0.62, "steps"]
        found = table[column][0]
        assert found == reached.min() if len(reached) else pd.isna(found)
        if found > 20:
            below = of[of["steps"] < found]
            assert below["steps"].max() == found - 20
            assert (below["kl_nats"] > 0.62).all()


@pytest.mark.parametrize("flags", [["--out", "x.txt"], ["--rounds", 0], ["--part", "loop", "--other", "nowhere"]])
def test_bad_settings(flags):
    assert "-" in one_line_error(call_script(SCRIPT, "--part", "optimizers", *flags))
