"""The shell file of Fig. 3, as a user calls it, with tiny models."""

from __future__ import annotations

import json
import subprocess

import pandas as pd
from conftest import call_shell, executable, printer

from tests.plots.made_up import draw


def figure(name: str, *flags: str, **environment: str) -> subprocess.CompletedProcess:
    return call_shell(f"gaussian_synthetic/{name}.sh", *flags, **environment)


def test_from_models_to_the_pictures(tmp_path):
    out = tmp_path / "my own"
    out.mkdir()
    (out / "collapse.csv").write_text("of other runs", encoding="utf-8")
    mine = {"PRESET": "smoke", "MODELS": "mamba2-mini-256", "LENGTHS": "4 16", "OUT": str(out)}
    flags = ["--family", "logarithmic", "--steps", "20"]
    done = figure("fig3", *flags, **mine, PYTHON=printer(tmp_path, "plots/*"))
    assert done.returncode == 0, done.stdout + done.stderr
    draw(done.stdout)
    assert "2 runs, 2 at a time" in done.stdout
    assert "no collapse.csv" in done.stdout  # one fixed state is too few for it
    assert "cells (see --help) and 8 are needed" in done.stderr
    assert not (out / "collapse.csv").exists()
    for made in ("kl.csv", "training.csv", "fig3.png", "utilisation.png", "training.png"):
        assert (out / made).stat().st_size > 0
    summary = pd.read_csv(out / "summary.csv")
    assert set(summary["model"]) == {"independent", "mamba2-mini-256"}
    assert (summary["family"] == "logarithmic").all()
    assert (summary.loc[summary["model"] != "independent", "draws"] == 16).all()
    short, long = (
        json.loads((out / "runs/full" / f"mamba2-mini-256_{L}_0" / "log.json").read_text(encoding="utf-8"))["settings"]
        for L in (4, 16)
    )
    assert (short["start"], long["start"]) == (None, "mamba2-mini-256_4_0")
    assert (short["steps"], short["copies"], short["batch"]) == (20, 2, 256)  # a flag; two of the preset


def test_flags_alone_leave_the_runs_of_the_preset_and_a_run_that_fails_is_named(tmp_path):
    refuses = 'case "$*" in *"train.py "*" --copies 0 "*) echo "error: --copies 0: must be at least 1"; exit 2 ;; esac'
    mine = {"PRESET": "smoke", "OUT": str(tmp_path / "mine"), "RUNS": str(tmp_path / "runs")}
    done = figure("fig3", "--copies", "0", **mine, PYTHON=str(executable(tmp_path / "python", refuses)))
    assert "16 runs, 2 at a time" in done.stdout
    assert "error: full: " in done.stderr
    assert "--copies 0: must be at least 1" in done.stderr
    assert not (tmp_path / "mine").exists()


def test_bad_calls():
    done = figure("fig3", MODELS="tiny")
    assert done.returncode != 0
    assert "set OUT" in done.stderr
