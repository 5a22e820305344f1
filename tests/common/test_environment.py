"""What all shell files share: help, settings, the choice of Python, and a GPU for each worker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, call_shell, executable

FIGURES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*/*.sh", "*/calibration/*.sh")
    for path in ROOT.glob(pattern)
    if path.name[0] != "_" and path.parent.name != "common"
)


def shell(commands: str, cwd: Path = ROOT, **settings: str) -> subprocess.CompletedProcess:
    command = ["bash", "-c", f"set -euo pipefail; . {ROOT}/common/environment.sh; {commands}"]
    clean = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    return subprocess.run(command, cwd=cwd, env=clean | settings, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", [*FIGURES, "run_demo.sh", "run_tests.sh"])
def test_help_is_the_head_of_the_file_and_other_settings_are_refused(name):
    """--help prints the comment at the top; settings that the file's `begin` does not name are refused in one line."""
    here, settings = (ROOT / name).parent, os.environ | {"PRESET": "huge"}  # so that no figure would run
    command = ["bash", Path(name).name, "--help"]
    done = subprocess.run(command, cwd=here, env=settings, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    text = (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert lines == [line[2:] for line in text[1 : 1 + len(lines)]]
    assert text[1 + len(lines)].startswith("set -euo")
    if name in FIGURES and name != "plots/make_all.sh":
        done = call_shell(name, PRESET="huge")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: PRESET=huge: choose smoke")
    takes = [line.split() for line in text if line.startswith("begin")]
    assert len(takes) == (name in FIGURES)
    for setting in ("CORPUS", "LENGTHS", "OUT"):
        if takes and setting not in takes[0]:
            done = call_shell(name, PRESET="huge", **{setting: "mine"})
            assert done.returncode == 2
            assert f"takes no {setting}, and it is set to 'mine': unset it" in done.stderr
            assert done.stderr.count("\n") == 1


@pytest.fixture
def made(tmp_path) -> Path:
    """A checkout that already has a .venv, with a shell script in place of its Python."""
    executable(tmp_path / ".venv" / "bin" / "python", 'echo "$@"')
    (tmp_path / "requirements.txt").write_text("tyro\n", encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text("\n", encoding="utf-8")
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").touch()
    return tmp_path


READY = "echo $(cat requirements.txt pyproject.toml | cksum) > .venv/requirements.cksum; begin cpu; echo python=$python"


def test_the_python_that_is_active_is_taken_where_it_has_the_packages(made):
    executable(made / "bare" / "python", "exit 1")
    ours, path = str(Path(sys.executable).parent), os.environ["PATH"]
    assert shell(READY, made).stdout == "python=.venv/bin/python\n"
    mine = {"PYTHONPATH": str(made)}  # as if the environment had been made in this checkout
    active = shell(READY, made, VIRTUAL_ENV="x", PATH=f"{ours}:{path}", **mine)
    assert active.stdout == "python=python\n", active.stderr
    assert shell(READY, made, PYTHON=sys.executable, **mine).stdout == f"python={sys.executable}\n"
    taken = "taking .venv instead\npython=.venv/bin/python\n"
    bare = shell(READY, made, CONDA_PREFIX="x", PATH=f"{made}/bare:{path}")
    assert bare.stdout == f"== python lacks packages of requirements.txt: {taken}", bare.stderr
    other = shell(READY, made, PYTHON=sys.executable, PYTHONPATH=str(ROOT))
    assert other.stdout == f"== {sys.executable} lacks the modules of this checkout: {taken}", other.stderr


def test_a_copied_environment_is_brought_up_to_date(made):
    """A copied .venv has all packages, but finds the modules of the checkout that it was made in."""
    executable(made / ".venv" / "bin" / "python", 'case "$1" in -P) exit 1 ;; *) echo "$@" ;; esac')
    done = shell(READY, made)
    assert done.stdout.splitlines()[0] == "== installing requirements.txt into .venv (minutes)", done.stderr
    assert "-m pip install --requirement requirements.txt" in done.stdout


SETTINGS = [  # setting → as given, and as seen from the root; HERE: the caller's folder
    {
        "OUT": ("results/mine", "HERE/results/mine"),
        "RUNS": ("/absolute", "/absolute"),
        "CORPUS": ("texts", "HERE/texts"),
    },
    {"MODEL": ("my model", "HERE/my model"), "CORPUS": ("texts/**/*.txt", "HERE/texts/**/*.txt")},
    {"MODELS": ("texts/a.txt a/b texts", "HERE/texts/a.txt a/b HERE/texts")},
    {"FIT": ("results/fit.csv", "results/fit.csv"), "MODEL": ("a/b c", "a/b c"), "CORPUS": ("no/*.txt", "no/*.txt")},
]


def test_paths_are_from_where_the_person_stands(tmp_path):
    """Paths and PYTHON start from the caller's folder, for a figure or one that calls it; at the root, none changes."""
    root, away = tmp_path / "root", tmp_path / "away"
    (root / "common").mkdir(parents=True)
    (root / "common" / "__init__.py").touch()
    (root / "common" / "environment.sh").symlink_to(ROOT / "common" / "environment.sh")
    names = "MODEL MODELS CORPUS TOKENIZER FIT RUNS OUT"
    begin = f'set -euo pipefail; cd "$(dirname "$0")/.."; . common/environment.sh; begin cpu {names}'
    says = f'for name in {names}; do if [ -n "${{!name:-}}" ]; then echo "$name=${{!name}}"; fi; done'
    executable(root / "folder" / "figure.sh", f"{begin}\n{says}")
    executable(root / "folder" / "another.sh", f"{begin}\nbash folder/figure.sh")
    (away / "texts").mkdir(parents=True)
    (away / "texts" / "a.txt").touch()
    (away / "my model").mkdir()
    executable(away / "bin" / "python", f'exec {sys.executable} "$@"')
    cases = [(settings, "figure.sh", away) for settings in SETTINGS]
    cases += [(SETTINGS[0], "another.sh", away), (SETTINGS[0], "figure.sh", root)]
    for settings, figure, place in cases:
        python = "bin/python" if place == away else sys.executable
        clean = {"PATH": os.environ["PATH"], "PYTHON": python, "PYTHONPATH": str(root)}
        given = {name: value for name, (value, _) in settings.items()}
        command = ["bash", str(root / "folder" / figure)]
        done = subprocess.run(command, cwd=place, env=clean | given, capture_output=True, text=True)
        seen = {name: value.replace("HERE", str(away)) for name, (_, value) in settings.items()}
        wanted = given if place == root else seen
        assert sorted(done.stdout.splitlines()) == sorted(f"{k}={v}" for k, v in wanted.items()), done.stderr


def test_models_on_several_lines_and_flags_that_need_a_folder():
    begin = "begin cpu MODELS PREPARE_FLAGS OUT"
    python = {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    assert shell(f"{begin}; echo $MODELS", MODELS="a\nb", **python).stdout == "a b\n"
    done = shell(begin, PREPARE_FLAGS="--max-books 3", **python)
    assert (done.returncode, "set OUT, e.g. OUT=results/mine" in done.stderr) == (2, True)


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


@pytest.mark.parametrize("devices", ["", "0,1"])
def test_no_further_run_begins_after_one_that_failed(devices):
    calls = "run() { echo $1; return $([ $1 = 2 ] && echo 255); }; export -f run; seq 5 | at_a_time 1 run"
    done = shell(calls, CUDA_VISIBLE_DEVICES=devices)
    assert done.returncode != 0
    assert done.stdout.split() == ["1", "2"]


def test_the_papers_mamba_models_want_their_kernels():
    for name in ("gaussian_synthetic/fig3.sh", "train_on_pg19/fig4.sh"):
        done = call_shell(name, PRESET="paper")
        assert done.returncode == 2
        assert "without the CUDA kernels of causal-conv1d and mamba-ssm: install them" in done.stderr
