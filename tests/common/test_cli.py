"""The command line of a small script: flags, and how each kind of failure ends."""

from __future__ import annotations

import subprocess
import sys
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


@pytest.fixture
def run(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    return lambda *arguments: subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)


def test_flags(run):
    done = run("--ell-max", "8", "--L-max", "16")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ell_max 8 L_max 16\n", "")


def test_help(run):
    done = run("--help")
    assert done.returncode == 0
    for text in ("Says what it is for.", "--ell-max", "longest X, tokens", "1024"):
        assert text in done.stdout


@pytest.mark.parametrize(
    ("fail", "code", "line"),
    [
        ("user", 2, "error: no file x.csv: check the name"),
        ("disk", 2, "error: disk full while writing x.csv: free some space"),
        ("nameless disk", 2, "error: disk full: free some space"),
        ("permission", 2, "error: no permission for x.csv: give a place that you may write to"),
        ("interrupt", 130, "interrupted: the same command again goes on from what has been saved"),
    ],
)
def test_expected_failures_are_one_line(run, fail, code, line):
    done = run("--fail", fail)
    assert done.returncode == code
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1


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
