"""The shell files' common part: help, settings, the Python that is taken, a GPU for each worker."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, call_shell

SHELLS = sorted(str(path.relative_to(ROOT)) for where in ("*", "*/calibration") for path in ROOT.glob(f"{where}/*.sh"))
SOURCED = ["common/environment.sh", "measure_mutual_info/_bipartite.sh", "measure_mutual_info/_two_point.sh"]
SOURCED.append("train_on_pg19/_books.sh")
FIGURES = [name for name in SHELLS if name not in SOURCED]


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def shell(commands: str, cwd: Path = ROOT, **settings: str) -> subprocess.CompletedProcess:
    command = ["bash", "-c", f"set -euo pipefail; . {ROOT}/common/environment.sh; {commands}"]
    clean = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    return subprocess.run(command, cwd=cwd, env=clean | settings, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", [*FIGURES, "run_demo.sh", "run_tests.sh"])
def test_help_is_the_head_of_the_file(name):
    done = call_shell(name, "--help", PRESET="huge")  # so that none would run
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    text = (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert lines == [line[2:] for line in text[1 : 1 + len(lines)]]
    assert text[1 + len(lines)].startswith("set -euo")


@pytest.mark.parametrize("name", FIGURES)
def test_settings_that_a_figure_does_not_read_are_refused(name):
    """Whatever its text uses it takes, and the other way round: 'begin' says what the file and those it calls read."""
    (taken,) = re.findall(r"^begin(.*)$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    takes = taken.split()
    for setting in ("MODEL", "CORPUS", "LENGTHS", "WORKERS", "OUT"):
        if setting in takes:
            continue
        done = call_shell(name, PRESET="huge", **{setting: "mine"})
        assert done.returncode == 2
        assert f"takes no {setting}, and it is set to 'mine': unset it" in done.stderr
        assert done.stderr.count("\n") == 1


def test_the_python_that_is_active_is_taken_where_it_has_the_packages(tmp_path):
    made = executable(tmp_path / ".venv" / "bin" / "python", 'echo "$@"')
    executable(tmp_path / "bare" / "python", "exit 1")
    (tmp_path / "requirements.txt").write_text("tyro\n", encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text("\n", encoding="utf-8")
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").touch()
    ready = "echo $(cat requirements.txt pyproject.toml | cksum) > .venv/requirements.cksum; begin; echo python=$python"
    ours = str(Path(sys.executable).parent)
    path = os.environ["PATH"]
    assert shell(ready, tmp_path).stdout == "python=.venv/bin/python\n"
    mine = {"PYTHONPATH": str(tmp_path)}  # where an environment made here finds the modules
    active = shell(ready, tmp_path, VIRTUAL_ENV="x", PATH=f"{ours}:{path}", **mine)
    assert active.stdout == "python=python\n", active.stderr
    assert shell(ready, tmp_path, PYTHON=sys.executable, **mine).stdout == f"python={sys.executable}\n"
    bare = shell(ready, tmp_path, CONDA_PREFIX="x", PATH=f"{tmp_path}/bare:{path}")
    assert bare.stdout == (
        "== python has not all that requirements.txt names: taking .venv instead\npython=.venv/bin/python\n"
    ), bare.stderr
    assert made.exists()

    taken = "taking .venv instead\npython=.venv/bin/python\n"
    other = shell(ready, tmp_path, PYTHON=sys.executable, PYTHONPATH=str(ROOT))
    assert other.stdout == f"== {sys.executable} has not the modules of this checkout: {taken}", other.stderr


def test_a_copied_environment_is_brought_up_to_date(tmp_path):
    """It has all that is needed, and finds the modules of the checkout that it was made in."""
    moved = 'case "$1" in -P) exit 1 ;; *) echo "$@" ;; esac'
    executable(tmp_path / ".venv" / "bin" / "python", moved)
    (tmp_path / "requirements.txt").write_text("tyro\n", encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text("\n", encoding="utf-8")
    done = shell("echo $(cat requirements.txt pyproject.toml | cksum) > .venv/requirements.cksum; begin", tmp_path)
    assert done.stdout.splitlines()[0] == "== installing requirements.txt into .venv (minutes)", done.stderr
    assert "-m pip install --requirement requirements.txt" in done.stdout


@pytest.fixture
def checkout(tmp_path) -> Path:
    """With a figure that says its settings, and one that calls it."""
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "common").mkdir()
    (root / "common" / "__init__.py").touch()
    (root / "common" / "environment.sh").symlink_to(ROOT / "common" / "environment.sh")
    names = "MODEL CORPUS TOKENIZER FIT RUNS OUT"
    begin = f'set -euo pipefail; cd "$(dirname "$0")/.."; . common/environment.sh; begin {names}'
    says = f'for name in {names}; do if [ -n "${{!name:-}}" ]; then echo "$name=${{!name}}"; fi; done'
    executable(root / "folder" / "figure.sh", f"{begin}\n{says}")
    executable(root / "folder" / "another.sh", f"{begin}\nbash folder/figure.sh")
    (tmp_path / "away" / "texts" / "more").mkdir(parents=True)
    (tmp_path / "away" / "texts" / "more" / "a.txt").touch()
    (tmp_path / "away" / "my model").mkdir()
    return root


SETTINGS = [  # as given, and as the root sees them; HERE: the folder where the person stands
    {"OUT": ("results/mine", "HERE/results/mine"), "RUNS": ("/absolute", "/absolute")},
    {"FIT": ("texts/more/a.txt", "HERE/texts/more/a.txt"), "CORPUS": ("texts", "HERE/texts")},
    {"FIT": ("results/fit.csv", "results/fit.csv"), "CORPUS": ("texts/**/more/*.txt", "HERE/texts/**/more/*.txt")},
    {"MODEL": ("Qwen/Qwen3-8B texts", "Qwen/Qwen3-8B HERE/texts"), "CORPUS": ("nowhere/*.txt", "nowhere/*.txt")},
    {"MODEL": ("my model", "HERE/my model"), "TOKENIZER": ("bytes", "bytes"), "CORPUS": ("a/b", "a/b")},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_paths_are_from_where_the_person_stands(settings, checkout):
    away = checkout.parent / "away"
    for figure, place in (("figure.sh", away), ("another.sh", away), ("figure.sh", checkout)):
        clean = {"PATH": os.environ["PATH"], "PYTHON": sys.executable, "PYTHONPATH": str(checkout)}
        given = {name: value for name, (value, _) in settings.items()}
        flags = ["bash", str(checkout / "folder" / figure)]
        done = subprocess.run(flags, cwd=place, env=clean | given, capture_output=True, text=True)
        seen = {name: value.replace("HERE", str(away)) for name, (_, value) in settings.items()}
        wanted = given if place == checkout else seen
        assert sorted(done.stdout.splitlines()) == sorted(f"{k}={v}" for k, v in wanted.items()), done.stderr


def test_a_relative_python_is_from_there_too(checkout):
    python = executable(checkout.parent / "away" / "bin" / "python", f'exec {sys.executable} "$@"')
    clean = {"PATH": os.environ["PATH"], "PYTHON": "bin/python", "PYTHONPATH": str(checkout), "OUT": "x"}
    command = ["bash", str(checkout / "folder" / "figure.sh")]
    done = subprocess.run(command, cwd=python.parents[1], env=clean, capture_output=True, text=True)
    assert done.stdout == f"OUT={checkout.parent / 'away' / 'x'}\n", done.stderr


def test_each_worker_has_a_gpu_to_itself(tmp_path):
    calls = "run() { echo $1-$2 $CUDA_VISIBLE_DEVICES; sleep 0.3; }; export -f run; "
    calls += "seq 6 | sed 's/$/ x/' | at_a_time 3 run"
    listed = executable(tmp_path / "several" / "nvidia-smi", "printf '0\\n1\\n2\\n'").parent
    done = shell(calls, PATH=f"{listed}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    words = [line.split() for line in done.stdout.splitlines()]
    assert sorted(call for call, _ in words) == [f"{i}-x" for i in range(1, 7)]
    assert sorted(device for _, device in words[:3]) == ["0", "1", "2"]

    one_node = shell(calls, PATH=f"{listed}:{os.environ['PATH']}", CUDA_VISIBLE_DEVICES="5,7")
    assert {line.split()[1] for line in one_node.stdout.splitlines()} == {"5", "7"}, one_node.stderr
    alone = shell(calls, CUDA_VISIBLE_DEVICES="4")
    assert {line.split()[1] for line in alone.stdout.splitlines()} == {"4"}, "one GPU is left as it is"


@pytest.mark.parametrize("settings", [{}, {"CUDA_VISIBLE_DEVICES": ""}, {"CUDA_VISIBLE_DEVICES": "0,1"}])
def test_no_further_run_begins_after_one_that_failed(settings):
    calls = "run() { echo $1; return $([ $1 = 2 ] && echo 255); }; export -f run; seq 5 | at_a_time 1 run"
    done = shell(calls, **settings)
    assert done.returncode != 0
    assert done.stdout.split() == ["1", "2"]


def test_the_papers_mamba_models_want_their_kernels(tmp_path):
    for name in ("gaussian_synthetic/fig3.sh", "train_on_pg19/fig4.sh", "train_on_pg19/figG9.sh"):
        done = call_shell(name, PRESET="paper")
        assert done.returncode == 2
        assert "without the CUDA kernels of causal-conv1d and mamba-ssm: install them" in done.stderr
