"""The command line of a small script: flags, and how each kind of failure ends."""

from __future__ import annotations

import contextlib
import io
import runpy
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

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
        case "disk":
            raise OSError(errno.ENOSPC, "No space left on device", "x.csv")
        case "full quota":
            raise OSError(errno.EDQUOT, "Quota exceeded", "x.csv")
        case "nameless disk":
            raise OSError(errno.ENOSPC, "No space left on device")
        case "permission":
            raise OSError(errno.EACCES, "Permission denied", "x.csv")
        case "pipe":
            raise BrokenPipeError
        case "other":
            raise OSError(errno.EIO, "Input/output error", "x.csv")
        case "interrupt":
            raise KeyboardInterrupt
        case "bug":
            raise ValueError("a bug")

if __name__ == "__main__":
    run(main, Settings, __doc__)
'''
FREE = "free some space, then run the same command again (nothing written is lost)"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT, encoding="utf-8")
    return path


@pytest.fixture
def run(script, monkeypatch):
    """Runs the script within this process, as `python script.py` would."""

    def run(*arguments: str) -> subprocess.CompletedProcess:
        out, err, code = io.StringIO(), Kept(), 0
        monkeypatch.setattr(sys, "argv", [str(script), *arguments])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                runpy.run_path(str(script), run_name="__main__")
            except SystemExit as stopped:
                code = stopped.code
            except BaseException:
                err.write(traceback.format_exc())
                code = 1
        return subprocess.CompletedProcess(sys.argv, code, out.getvalue(), err.text)

    return run


class Kept(io.StringIO):
    """A stream whose text is still there when it has been closed."""

    text = ""

    def write(self, text: str) -> int:
        self.text += text
        return super().write(text)


def test_a_process_of_its_own_ends_the_same_way(run, script):
    for arguments in ([], ["--fail", "user"], ["--fail", "interrupt"], ["--fail", "pipe"], ["--fail", "bug"]):
        wanted = run(*arguments)
        done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (wanted.returncode, wanted.stdout)
        assert done.stderr.splitlines()[-1:] == wanted.stderr.splitlines()[-1:]


def test_flags(run):
    done = run("--ell-max", "8", "--L-max", "16")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ell_max 8 L_max 16\n", "")


def test_help(run):
    done = run("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for text in ("Says what it is for.", "--ell-max", "longest X, tokens", "1024"):
        assert text in done.stdout


@pytest.mark.parametrize(
    ("fail", "code", "line"),
    [
        ("user", 2, "error: no file x.csv: check the name"),
        ("disk", 2, f"error: disk full while writing x.csv: {FREE}"),
        ("full quota", 2, f"error: disk full while writing x.csv: {FREE}"),
        ("nameless disk", 2, f"error: disk full: {FREE}"),
        ("permission", 2, "error: no permission for x.csv: give a place that you may write to"),
        ("interrupt", 130, "interrupted: the same command again goes on from what has been saved"),
    ],
)
def test_expected_failures_are_one_line(run, fail, code, line):
    done = run("--fail", fail)
    assert done.returncode == code
    assert done.stderr == line + "\n"


@pytest.mark.parametrize(("fail", "line"), [("bug", "ValueError: a bug"), ("other", "OSError")])
def test_bugs_keep_their_traceback(run, fail, line):
    done = run("--fail", fail)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert line in done.stderr


def test_a_reader_that_leaves_early_is_no_failure(run):
    """Such as `script.py | head`."""
    done = run("--fail", "pipe")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [["--no-such-flag", "1"], ["--ell-max", "many"]])
def test_bad_flags(run, arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert arguments[0 if "such" in arguments[0] else 1] in done.stderr
    assert "Traceback" not in done.stderr
