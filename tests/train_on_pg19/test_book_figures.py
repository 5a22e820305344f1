"""The shell files of Figs. 4 and G.9, called as a user would, with tiny models on made-up books."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, call_shell, printer, prose, recorded, recorder

from tests.plots.made_up import draw

PRETRAINED = "train_on_pg19/pretrained.sh"


def figure(name: str, *flags: str, **environment: str) -> subprocess.CompletedProcess:
    return call_shell(f"train_on_pg19/{name}.sh", *flags, **environment)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for book in range(6):
        (folder / f"book{book}.txt").write_text(prose(60, book), encoding="utf-8")
    return folder


def test_from_a_corpus_to_the_picture(corpus, tmp_path):
    out = tmp_path / "mine"
    mine = {"PRESET": "smoke", "CORPUS": str(corpus), "MODELS": "tiny gpt_neox-mini-small", "OUT": str(out)}
    done = figure("figG9", "--epochs", "2", **mine, PYTHON=printer(tmp_path, "plots/*"))
    assert done.returncode == 0, done.stdout + done.stderr
    draw(done.stdout)
    assert "2 runs, 2 at a time" in done.stdout
    assert (out / "figG9.png").stat().st_size > 0
    summary = pd.read_csv(out / "summary.csv")
    assert set(summary["model"]) == {"tiny", "gpt_neox-mini-small"}
    assert (summary["L"] == 128).all()
    assert (summary["n_books"] == 2).all()
    gap = pd.read_csv(out / "gap.csv")
    assert gap[["model_a", "model_b"]].drop_duplicates().to_numpy().tolist() == [["gpt_neox-mini-small", "tiny"]]
    log = pd.read_csv(out / "runs" / "tiny_0" / "log.csv")
    assert log["tokens"].diff().dropna().max() == 5 * 4 * 128  # log_every and batch_tokens of the preset at L = 128


def test_a_run_that_exists_is_evaluated_and_one_that_fails_is_named(corpus, tmp_path):
    """Where train.py leaves no run, because the losses are there, nothing is evaluated."""
    out = tmp_path / "mine"
    (out / "runs/tiny_0").mkdir(parents=True)
    (out / "runs/tiny_0/run.json").touch()
    mine = {"PRESET": "smoke", "CORPUS": str(corpus), "OUT": str(out), "PYTHON": recorder(tmp_path)}
    done = figure("figG9", MODELS="tiny gpt2", **mine)
    assert done.returncode == 0, done.stderr
    calls = recorded(tmp_path)
    trained = [call for call in calls if "train.py" in call]
    assert sorted(call.split(" --losses ")[1].split()[0] for call in trained) == [
        f"{out}/losses/{name}_0.csv" for name in ("gpt2", "tiny")
    ]
    (evaluated,) = [call for call in calls if "evaluate.py" in call]
    assert f"--model {out}/runs/tiny_0 " in evaluated
    assert f"--store {out}/runs/nll --out {out}/losses/tiny_0.csv" in evaluated
    (compared,) = [call for call in calls if "compare.py" in call]
    assert f"--losses {out}/losses/tiny_0.csv {out}/losses/gpt2_0.csv --out {out}" in compared
    done = figure("fig4", MODELS="gpt5 tiny", **mine)
    assert done.returncode != 0
    assert "error: gpt5, L = 256, seed 0, see" in done.stderr
    assert "no model gpt5" in done.stderr
    assert not [call for call in recorded(tmp_path) if "compare.py" in call]


def test_pretrained_models_read_tokens_of_their_own(tmp_path):
    """In a copy of the shell files."""
    for name in (
        "common/environment.sh",
        "measure_mutual_info/_corpora.sh",
        "measure_mutual_info/_bipartite.sh",
        "train_on_pg19/_books.sh",
        PRETRAINED,
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    settings = {
        "PYTHON": recorder(tmp_path),
        "PRESET": "smoke",
        "MODELS": "org/one/ org/two",
        "OUT": str(tmp_path / "out"),
    }
    done = subprocess.run(["bash", PRETRAINED], cwd=tmp_path, env=os.environ | settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    calls = recorded(tmp_path)
    for program, flag in (("prepare_dataset.py", "--tokenizer"), ("evaluate.py", "--model")):
        of = [call.split(f"{flag} ")[1].split()[0] for call in calls if program in call]
        assert of == ["org/one/", "org/two"]
    drawn = next(call for call in calls if "plots/books.py" in call)
    assert f"--results results/fig4 --pretrained {tmp_path}/out/one {tmp_path}/out/two" in drawn


def test_bad_calls(tmp_path):
    for environment, said in (
        ({"MODELS": "tiny"}, "set OUT"),
        ({"MODELS": "tiny", "OUT": "x"}, "error: MODELS=tiny: a gap needs two models or more"),
        ({"SPLIT": "2", "CORPUS": "mine", "OUT": "x"}, "error: SPLIT=2: it chooses books of the sample"),
        ({"SPLIT": "2", "PRESET": "paper", "MODELS": "gpt2 tiny", "OUT": "x"}, "error: SPLIT=2: it chooses books of"),
    ):
        done = figure("fig4", PYTHON=recorder(tmp_path), **environment)
        assert done.returncode == 2
        assert said in done.stderr
    done = call_shell(PRETRAINED, "--dtype", "float32", PYTHON=recorder(tmp_path))
    assert (done.returncode, "set OUT" in done.stderr) == (2, True)
