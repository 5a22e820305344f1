"""Command lines: a settings dataclass becomes the flags, and bad input becomes one line instead of a traceback."""

from __future__ import annotations

import errno
import math
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import tyro

Settings = TypeVar("Settings")
UNCHECKED = {"unchecked": True}  # metadata of a setting that `check_settings` lets through
SEEDS = 2**32  # transformers.set_seed takes no larger one, torch on a CPU leaves further bits out


class UserError(Exception):
    """Bad input. The message is one line that says what was wrong, where, and what to do about it."""


def run(main: Callable[[Settings], None], settings: type[Settings], description: str | None = None) -> None:
    """Parse the command line into `settings`, run `main(cfg)`, and turn expected failures into one line, exit code 2.

    Anything unexpected keeps its traceback: a bug should look like one.
    """
    cfg = tyro.cli(settings, description=description)
    try:
        check_settings(cfg)
        main(cfg)
    except UserError as error:
        sys.exit(_say(f"error: {error}"))
    except PermissionError as error:
        sys.exit(_say(f"error: no permission for {error.filename}: give a place that you may write to"))
    except BrokenPipeError:  # `… | head` has seen enough
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        sys.exit(
            _say(f"error: disk full{where}: free some space, then run the same command again (nothing written is lost)")
        )
    except KeyboardInterrupt:
        _say("interrupted: the same command again goes on from what has been saved")
        sys.exit(130)


def check_settings(cfg: Any) -> None:
    """What no program can use, whatever it does: a seed out of range, a number that is not finite, a value given twice.

    UserError names the first of them. A field with the metadata UNCHECKED is not looked at.
    """
    for one in fields(cfg):
        value, flag = getattr(cfg, one.name), f"--{one.name.replace('_', '-')}"
        if value is None or one.metadata.get("unchecked"):
            continue
        if one.name.endswith("seed") and not 0 <= value < SEEDS:
            raise UserError(f"{flag} {value}: give a whole number from 0 to {SEEDS - 1}")
        values = value if isinstance(value, tuple) else (value,)
        for i, item in enumerate(values):
            if isinstance(item, float) and not math.isfinite(item):
                raise UserError(f"{flag} {item}: give a finite number")
            if item in values[:i]:
                shown = " ".join(map(str, item)) if isinstance(item, tuple) else item
                raise UserError(f"{flag} {shown} is given twice: give each once")


def _say(line: str) -> int:
    print(line, file=sys.stderr)
    return 2
