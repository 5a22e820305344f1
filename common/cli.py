"""Command lines: a settings dataclass becomes the flags, and bad input becomes one line instead of a traceback."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from typing import TypeVar

import tyro

Settings = TypeVar("Settings")


class UserError(Exception):
    """Bad input. The message is one line that says what was wrong, where, and what to do about it."""


def run(main: Callable[[Settings], None], settings: type[Settings], description: str | None = None) -> None:
    """Parse the command line into `settings`, run `main(cfg)`, and turn expected failures into one line, exit code 2.

    Anything unexpected keeps its traceback: a bug should look like one.
    """
    cfg = tyro.cli(settings, description=description)
    try:
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


def _say(line: str) -> int:
    print(line, file=sys.stderr)
    return 2
