"""Each part of the benchmark of training, at a small size."""

from __future__ import annotations

import json
import timeit

import pandas as pd
import pytest
import torch

from benchmarks import training
from common.flops import flops_a_token
from gaussian_synthetic import train
from tests.conftest import call_script, one_line_error, toy_books
from train_on_pg19.training.models import build

SCRIPT = "benchmarks/training.py"


@pytest.fixture(autouse=True)
def threads():
    """Restore the number of threads, which the benchmark sets for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def rows(folder, *flags: object) -> pd.DataFrame:
    done = call_script(SCRIPT, "--out", folder / "made.csv", *flags)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(folder / "made.csv")
    assert (table["benchmark"] == "training").all()
    return table


def test_optimizers(tmp_path):
    """Bisection finds the smallest budget that reaches an easy goal."""
    flags = ["--models", "tiny", "--goal", 0.72, "--budgets", 20, 40, 60]
    table = rows(tmp_path, "--part", "optimizers", *flags)
    runs = pd.DataFrame(json.loads((tmp_path / "made.json").read_text(encoding="utf-8"))["runs"])
    assert set(runs["optimizer"]) == {"adamw", "muon"}
    for optimizer, column in (("adamw", "baseline_value"), ("muon", "our_value")):
        of = runs[runs["optimizer"] == optimizer]
        reached = of.loc[of["kl_nats"] <= 0.72, "steps"]
        found = table[column][0]
        assert found == reached.min()
        if found > 20:
            below = of[of["steps"] < found]
            assert below["steps"].max() == found - 20
            assert (below["kl_nats"] > 0.72).all()


def test_learning_rates(tmp_path, monkeypatch):
    small = {"batch": 2, "copies": 1, "steps": 20, "warmup": 2, "log_every": 10, "checkpoint_every": 10}
    monkeypatch.setitem(train.PRESETS, "cpu", train.PRESETS["cpu"] | small)
    flags = ["--rated", "tiny", "--sweep", 1e-3, 1e-2, "--seeds", 0, 3, "--out", tmp_path / "made.csv"]
    done = call_script(SCRIPT, "--part", "rates", *flags)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "made.csv")
    keys = [("tiny", 64, rate, seed, 20) for rate in (1e-3, 1e-2) for seed in (0, 3)]
    assert list(table.drop(columns="kl_nats").itertuples(index=False, name=None)) == keys
    assert table["kl_nats"].nunique() == 4


def test_books(tmp_path, monkeypatch):
    """Parts books and speed: learning rates and speed of a tiny model."""
    for name in ("BOOKS", "OF_BOOKS"):
        monkeypatch.setattr(training, name, ("tiny",))
    monkeypatch.setattr(training, "STEPS", 30)
    small = {"batch_tokens": 128, "warmup": 2, "log_every": 10, "checkpoint_every": 10}
    monkeypatch.setitem(training.books.PRESETS, "cpu", training.books.PRESETS["cpu"] | small)
    flags = ["--documents", toy_books(tmp_path / "documents", 64, 20, 256), "--lengths", 64]
    flags += ["--out", tmp_path / "made.csv", "--held-out-books", "*1*", "--rounds", 2]
    done = call_script(SCRIPT, "--part", "books", *flags, "--sweep", 1e-4, 1e-2)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "made.csv")
    assert table[["L", "learning_rate", "steps"]].to_numpy().tolist() == [[64, 1e-4, 30], [64, 1e-2, 30]]
    assert table["nll_nats"][1] < table["nll_nats"][0]
    monkeypatch.setattr(timeit, "repeat", lambda work, **_: [timeit.timeit(work, number=1)])
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda model: compiled.append(model))  # the real one takes 30 s
    done = call_script(SCRIPT, "--part", "speed", *flags)
    assert done.returncode == 0, done.stderr
    assert len(compiled) == 1
    row = pd.read_csv(tmp_path / "made.csv").iloc[0]
    weights = row["gflops"] * 1e9 / row["tokens_per_second"]
    assert weights == pytest.approx(flops_a_token(build("tiny", training.VOCABULARY, 64, None), 64), rel=0.01)
    assert row["ratio"] == pytest.approx(row["compiled_tokens_per_second"] / row["tokens_per_second"], abs=2e-3)
    assert row["share"] == pytest.approx(row["gflops"] / row["peak_gflops"], abs=1e-3)


def test_bad_settings():
    assert "--documents" in one_line_error(call_script(SCRIPT, "--part", "speed"))
