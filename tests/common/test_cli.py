"""The command line of a small script: flags, and how each kind of failure ends."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from common import cli
from common.cli import MAY_BE_EMPTY, UserError, at_least, check_settings
from tests.conftest import ROOT, call_script, one_line_error

SCRIPT = '''"""Says what it is for."""
from dataclasses import dataclass
from common.cli import run

@dataclass(frozen=True)
class Settings:
    ell_max: int = 1024
    """longest X, tokens"""

def main(cfg):
    print("ell_max", cfg.ell_max, "\\udce9")

if __name__ == "__main__":
    run(main, Settings, __doc__)
'''
FREE = "free some space, then run the same command again (nothing written is lost)"
PLACE = "give another place or name, or move away what is there"
FULL = OSError(errno.ENOSPC, "No space left on device", "x.pt")


@dataclass(frozen=True)
class Settings:
    L: int = 256
    ell_max: int = 1024
    L_max: int = 2048


def call(monkeypatch, capsys, main, *arguments: str, presets=None) -> tuple[object, str, str]:
    """Exit code, stdout and stderr of a program with these settings."""
    monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
    code = 0
    try:
        cli.run(main, Settings, "Says what it is for:\n    a.csv  a row\nExpect much.", presets)
    except SystemExit as stopped:
        code = stopped.code
    return code, *capsys.readouterr()


def behind(error: Exception) -> Exception:
    """The error as a library raises it, with the system's error as its context."""
    other = RuntimeError("iostream error")
    other.__context__ = error
    return other


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no file x.csv: check the name"), 2, "error: no file x.csv: check the name"),
        (FULL, 2, f"error: disk full while writing x.pt: {FREE}"),
        (behind(FULL), 2, f"error: disk full while writing x.pt: {FREE}"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 2, f"error: disk full: {FREE}"),
        (Exception("No space left on device (os error 28)"), 2, f"error: disk full: {FREE}"),
        (RuntimeError("[enforce fail] . unexpected pos 576 vs 534"), 2, f"error: disk full: {FREE}"),
        (OSError(errno.EACCES, "what the system says", "x.csv"), 2, f"error: x.csv: permission denied: {PLACE}"),
        (KeyboardInterrupt(), 130, "interrupted: run the same command again to continue from what was saved"),
    ],
)
def test_expected_failures_are_one_line(monkeypatch, capsys, error, code, line):
    def main(cfg):
        raise error

    assert call(monkeypatch, capsys, main) == (code, "", f"{line}\n")


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError(errno.EACCES, "of no file")])
def test_bugs_keep_their_traceback(monkeypatch, capsys, error):
    def main(cfg):
        raise error

    with pytest.raises(type(error)):
        call(monkeypatch, capsys, main)


@pytest.mark.parametrize("out", ["file/out", "loop/out", "x" * 300])
def test_a_place_where_nothing_can_be_written_is_one_line(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("loop").symlink_to("loop")
    flags = ("--layers", 1, 2, "--rank-layers", 1, "--out", out)
    assert out.split("/")[0] in one_line_error(call_script("gaussian_synthetic/exact_mi.py", *flags))


PRESETS = {"paper": {}, "cpu": {"L_max": 64, "ell_max": {16: 1, 64: 2}}}


@pytest.mark.parametrize(
    ("arguments", "ell_max", "L_max"),
    [
        ("", 1024, 2048),
        ("--preset paper", 1024, 2048),
        ("--preset cpu", 2, 64),
        ("--preset=cpu --L 64", 2, 64),
        ("--preset cpu --L 63", 1, 64),
        ("--L 4 --preset cpu", 1, 64),
        ("--ell-max 7 --preset cpu --L 16 --L-max 128", 7, 128),
    ],
)
def test_a_preset_sets_what_no_flag_does(monkeypatch, capsys, arguments, ell_max, L_max):
    def main(cfg):
        print(cfg.ell_max, cfg.L_max)

    said = call(monkeypatch, capsys, main, *arguments.split(), presets=PRESETS)
    assert said == (0, f"{ell_max} {L_max}\n", "")


def test_presets_in_the_help_and_unknown_ones(monkeypatch, capsys):
    for arguments in (["--preset", "huge"], ["--preset=", "--L", "3"], ["--preset"]):
        code, _, said = call(monkeypatch, capsys, print, *arguments, presets=PRESETS)
        assert (code, said) == (2, "error: --preset: choose one of paper, cpu\n")
    _, plain, _ = call(monkeypatch, capsys, print, "--help", presets=PRESETS)
    _, cpu, _ = call(monkeypatch, capsys, print, "--help", "--preset", "cpu", presets=PRESETS)
    assert (
        "Says what it is for:\n    a.csv  a row\n\nExpect much." in plain
    )  # its own paragraph, not the end of the row
    assert "--preset paper|cpu" in plain
    assert "2048" in plain
    assert "2048" not in cpu


def test_names_that_are_not_utf8_can_be_printed(tmp_path):
    (tmp_path / "says.py").write_text(SCRIPT, encoding="utf-8")
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}  # as in most locales
    command = [sys.executable, tmp_path / "says.py", "--ell-max", "8"]
    done = subprocess.run(command, capture_output=True, env=strict)
    assert done.stdout == b"ell_max 8 \\udce9\n", done.stderr


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data_seed": -1}, "--data-seed -1: give a whole number from 0 to 4294967295"),
        ({"data_seed": 2**32}, "--data-seed 4294967296: give"),
        ({"share": float("nan")}, "--share nan: give a finite number"),
        ({"lengths": (4, 8, 4)}, "--lengths 4 is given twice: remove the duplicate"),
        ({"pairs": ((1, 2), (1, 2))}, "--pairs 1 2 is given twice"),
        ({"lengths": ()}, "--lengths: give one or more"),
        ({"data_seed": 2**32 - 1, "more": ()}, None),
    ],
)
def test_settings_that_no_program_can_use(changes, said):
    @dataclass
    class Settings:
        data_seed: int = 0
        share: float | None = None
        lengths: tuple[int, ...] = (1, 2)
        pairs: tuple[tuple[int, int], ...] = ()
        more: tuple[int, ...] = field(default=(1,), metadata=MAY_BE_EMPTY)

    if said is None:
        check_settings(Settings(**changes))
        return
    with pytest.raises(UserError) as error:
        check_settings(Settings(**changes))
    assert str(error.value).startswith(said)


def test_at_least():
    for value in (4, None):
        at_least(4, Settings(ell_max=value), "L", "ell_max")
    with pytest.raises(UserError, match=r"^--ell-max 3: must be at least 4$"):
        at_least(4, Settings(ell_max=3), "L", "ell_max")


def test_a_script_of_another_checkout_is_refused(tmp_path):
    """Otherwise the record would name the commit of the modules, not that of the script."""
    for file, text in (("common/cli.py", ""), ("folder/inner/program.py", SCRIPT)):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, tmp_path / "folder/inner/program.py"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert f"program.py would run with the modules of {ROOT}" in one_line_error(done)
