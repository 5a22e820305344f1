"""The command line of a small script: flags, and how each kind of failure ends."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from common.cli import UNCHECKED, UserError, check_settings
from tests.conftest import ROOT, call_script, one_line_error

SCRIPT = '''"""Says what it is for."""
import errno
from dataclasses import dataclass
from common.cli import UserError, run

@dataclass(frozen=True)
class Settings:
    fail: str = ""
    """how to fail"""
    ell_max: int = 1024
    """longest X, tokens"""
    L_max: int = 2048
    """longest document, tokens"""

def main(cfg):
    print("ell_max", cfg.ell_max, "L_max", cfg.L_max)
    match cfg.fail:
        case "user":
            raise UserError("no file x.csv: check the name")
        case "nameless disk":
            raise OSError(errno.ENOSPC, "No space left on device")
        case "tokenizers":
            raise Exception("No space left on device (os error 28)")
        case "torch":
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
        case "behind":
            try:
                raise OSError(errno.ENOSPC, "No space left on device", "x.pt")
            except OSError:
                raise RuntimeError("iostream error")
        case "nameless":
            raise OSError(errno.EACCES, "Permission denied")
        case "pipe":
            raise BrokenPipeError
        case "interrupt":
            raise KeyboardInterrupt
        case "bug":
            raise ValueError("a bug")
        case name if name:
            raise OSError(getattr(errno, name), "What the system says", "x.csv")

if __name__ == "__main__":
    run(main, Settings, __doc__)
'''
FREE = "free some space, then run the same command again (nothing written is lost)"
PLACE = "give another place or name, or move away what is there"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT, encoding="utf-8")
    return path


@pytest.fixture
def run(script):
    """Runs the script, as a user would."""

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)

    return run


def test_flags_and_help(run):
    done = run("--ell-max", "8", "--L-max", "16")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ell_max 8 L_max 16\n", "")
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for text in ("Says what it is for.", "--ell-max", "longest X, tokens", "1024"):
        assert text in done.stdout
    done = run("--ell-max", "many")
    assert done.returncode == 2
    assert "many" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("fail", "code", "line"),
    [
        ("user", 2, "error: no file x.csv: check the name"),
        ("ENOSPC", 2, f"error: disk full while writing x.csv: {FREE}"),
        ("EDQUOT", 2, f"error: disk full while writing x.csv: {FREE}"),
        ("nameless disk", 2, f"error: disk full: {FREE}"),
        ("tokenizers", 2, f"error: disk full: {FREE}"),
        ("torch", 2, f"error: disk full: {FREE}"),
        ("behind", 2, f"error: disk full while writing x.pt: {FREE}"),
        *(
            (name, 2, f"error: x.csv: {os.strerror(getattr(errno, name)).lower()}: {PLACE}")
            for name in ("EACCES", "EROFS", "ENAMETOOLONG", "ENOTDIR", "EEXIST", "EISDIR", "ENOENT")
        ),
        ("interrupt", 130, "interrupted: the same command again goes on from what has been saved"),
        ("pipe", 0, ""),  # `script.py | head`
    ],
)
def test_expected_failures_are_one_line(run, fail, code, line):
    done = run("--fail", fail)
    assert done.returncode == code
    assert done.stderr.rstrip("\n") == line


@pytest.mark.parametrize(
    ("fail", "line"), [("bug", "ValueError: a bug"), ("EIO", "OSError"), ("nameless", "PermissionError")]
)
def test_bugs_keep_their_traceback(run, fail, line):
    done = run("--fail", fail)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert line in done.stderr


@pytest.mark.parametrize("out", ["file/out", "loop/out", "x" * 300, "/proc/no/out", "/sys/out"])
@pytest.mark.parametrize(
    ("program", "flags"),
    [
        ("measure_mutual_info/prepare_dataset.py", ("--corpus", "book.txt", "--tokenizer", "bytes", "--min-tokens", 9)),
        ("measure_mutual_info/train_bpe.py", ("--corpus", "book.txt", "--vocab-size", 258)),
        ("measure_mutual_info/fetch_sample.py", ("--parts", "books")),
        ("gaussian_synthetic/exact_mi.py", ("--layers", 1, 2, "--rank-layers", 1)),
        ("measure_mutual_info/calibration/two_point.py", ("--replications", 2, "--books", 4, "--d-max", 4)),
    ],
)
def test_a_place_where_nothing_can_be_written_is_one_line(program, flags, out, tmp_path, monkeypatch):
    if out.startswith("/") and not Path(out).parent.parent.is_dir():
        pytest.skip(f"no {Path(out).parent.parent} here")
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text("Call me Ishmael. " * 9, encoding="utf-8")
    Path("file").touch()
    Path("loop").symlink_to("loop")
    assert out.strip("/").split("/")[0] in one_line_error(call_script(program, *flags, "--out", out))


@pytest.fixture
def presets(script):
    """The script has presets as well, and a setting L, by which one of them chooses."""
    presets = '{"paper": {}, "cpu": {"L_max": 64, "ell_max": {16: 1, 64: 2}}, "bug": {"fail": "bug"}}'
    text = SCRIPT.replace("Settings, __doc__)", f"Settings, __doc__, {presets})")
    script.write_text(text.replace('    fail: str = ""', '    L: int = 256\n    fail: str = ""'), encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "ell_max", "L_max"),
    [
        ("", 1024, 2048),
        ("--preset paper", 1024, 2048),
        ("--preset cpu", 2, 64),
        ("--preset=cpu --L 64", 2, 64),
        ("--preset cpu --L 63", 1, 64),
        ("--L 4 --preset cpu", 1, 64),
        ("--preset cpu --L 16 --L-max 128", 1, 128),
        ("--ell-max 7 --preset cpu --L 16", 7, 64),
        ("--preset cpu --preset paper", 1024, 2048),
    ],
)
def test_a_preset_sets_what_no_flag_does(run, presets, arguments, ell_max, L_max):
    done = run(*arguments.split())
    assert (done.stdout, done.stderr) == (f"ell_max {ell_max} L_max {L_max}\n", "")


@pytest.mark.parametrize("arguments", [["--preset", "huge"], ["--preset=", "--L", "3"], ["--preset"]])
def test_an_unknown_preset_is_one_line(run, presets, arguments):
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (2, "error: --preset: choose one of paper, cpu, bug\n")


def test_help_shows_the_values_of_a_preset(run, presets):
    plain, cpu = run("--help").stdout, run("--help", "--preset", "cpu").stdout
    assert "--preset paper|cpu|bug" in plain
    assert "2048" in plain
    assert "2048" not in cpu
    assert "64" in cpu


def test_names_that_are_not_utf8_can_be_printed(tmp_path):
    program = tmp_path / "says.py"
    program.write_text(SCRIPT.replace('"ell_max", ', r'"\udce9", '), encoding="utf-8")
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}  # as in most locales
    done = subprocess.run([sys.executable, program], capture_output=True, env=strict)
    assert done.stdout.startswith(rb"\udce9 1024"), done.stderr


def test_a_script_of_another_checkout_is_refused(tmp_path):
    """The record would name the commit of the modules, not that of the script."""
    other = tmp_path / "other"
    shutil.copytree(ROOT / "common", other / "common", ignore=shutil.ignore_patterns("__pycache__"))
    program = other / "folder" / "program.py"
    program.parent.mkdir()
    program.write_text(SCRIPT, encoding="utf-8")

    def call(modules: Path) -> subprocess.CompletedProcess:
        environment = os.environ | {"PYTHONPATH": str(modules)}
        return subprocess.run([sys.executable, program], capture_output=True, text=True, env=environment)

    assert call(other).stdout == "ell_max 1024 L_max 2048\n"
    said = one_line_error(refused := call(ROOT))
    assert refused.stdout == ""
    assert said == (
        f"error: {program} would run with the modules of {ROOT}: activate the environment of {other}, or there run "
        "pip install --no-deps -e ."
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data_seed": -1}, "--data-seed -1: give a whole number from 0 to 4294967295"),
        ({"data_seed": 2**32}, "--data-seed 4294967296: give"),
        ({"share": float("nan")}, "--share nan: give a finite number"),
        ({"lengths": (4, 8, 4)}, "--lengths 4 is given twice: give each once"),
        ({"pairs": ((1, 2), (1, 2))}, "--pairs 1 2 is given twice"),
        ({"twice": (3, 3), "data_seed": 2**32 - 1}, None),
    ],
)
def test_settings_that_no_program_can_use(changes, said):
    @dataclass
    class Settings:
        data_seed: int = 0
        share: float | None = None
        lengths: tuple[int, ...] = (1, 2)
        pairs: tuple[tuple[int, int], ...] = ()
        twice: tuple[int, ...] = field(default=(), metadata=UNCHECKED)

    if said is None:
        check_settings(Settings(**changes))
        return
    with pytest.raises(UserError) as error:
        check_settings(Settings(**changes))
    assert str(error.value).startswith(said)
