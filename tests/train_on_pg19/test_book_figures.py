"""The shell files of Figs. 4 and G.9, called as a user would, with tiny models on made-up books."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, call_shell, executable, prose

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
    done = figure("figG9", "--epochs", "2", **mine)
    assert done.returncode == 0, done.stdout + done.stderr
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
    pieces = {path: path.stat().st_mtime_ns for path in (out / "runs/nll").glob("*.npz")}
    (out / "losses/tiny_0.csv").unlink()  # as if killed before it was written
    shutil.rmtree(out / "runs/gpt_neox-mini-small_0")  # as on another machine; its losses are enough
    again = figure("figG9", "--epochs", "2", **mine)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "seed 0: not trained: " in again.stdout
    assert not (out / "runs/gpt_neox-mini-small_0").exists()
    pd.testing.assert_frame_equal(pd.read_csv(out / "summary.csv"), summary)
    assert pieces == {path: path.stat().st_mtime_ns for path in (out / "runs/nll").glob("*.npz")}


def test_a_run_that_fails_is_named(corpus, tmp_path):
    done = figure("fig4", PRESET="smoke", CORPUS=str(corpus), MODELS="gpt5 tiny", OUT=str(tmp_path / "mine"))
    assert done.returncode != 0
    assert "error: gpt5, L = 256, seed 0, see" in done.stderr
    assert "no model 'gpt5'" in done.stderr
    assert not (tmp_path / "mine" / "summary.csv").exists()


def test_pretrained_models_read_tokens_of_their_own(tmp_path):
    """The commands that pretrained.sh calls, recorded by a script in place of Python, in a copy of the shell files."""
    for name in (
        "common/environment.sh",
        "measure_mutual_info/_corpora.sh",
        "measure_mutual_info/_bipartite.sh",
        "train_on_pg19/_books.sh",
        PRETRAINED,
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    python = executable(tmp_path / "python", f'echo "$@" >> {tmp_path}/calls')
    settings = {"PYTHON": str(python), "PRESET": "smoke", "MODELS": "org/one/ org/two", "OUT": str(tmp_path / "out")}
    done = subprocess.run(["bash", PRETRAINED], cwd=tmp_path, env=os.environ | settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text(encoding="utf-8").splitlines()
    for program, flag in (("prepare_dataset.py", "--tokenizer"), ("evaluate.py", "--model")):
        of = [call.split(f"{flag} ")[1].split()[0] for call in calls if program in call]
        assert of == ["org/one/", "org/two"]
    drawn = next(call for call in calls if "plots/books.py" in call)
    assert f"--results results/fig4 --pretrained {tmp_path}/out/one {tmp_path}/out/two" in drawn


def test_bad_calls():
    for environment, said in (
        ({"MODELS": "tiny"}, "set OUT"),
        ({"MODELS": "tiny", "OUT": "x"}, "error: MODELS=tiny: a gap needs two models or more"),
    ):
        done = figure("fig4", **environment)
        assert done.returncode != 0
        assert said in done.stderr
