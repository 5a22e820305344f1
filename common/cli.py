"""Command lines: a settings dataclass gives the flags, presets other defaults, and bad input is one line."""

from __future__ import annotations

import argparse
import errno
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

import tyro

Settings = TypeVar("Settings")
Presets = Mapping[str, Mapping[str, Any]]  # by name, what a preset sets in place of the defaults of a settings class
SEEDS = 2**32  # transformers.set_seed takes no larger one, torch on a CPU leaves further bits out


class UserError(Exception):
    """Bad input. The message is one line that says what was wrong, where, and what to do about it."""


def run(
    main: Callable[[Settings], None],
    settings: type[Settings],
    description: str | None = None,
    presets: Presets | None = None,
) -> None:
    """Parse the command line into `settings`, run `main(cfg)`, and turn expected failures into one line, exit code 2.

    Settings may have a method `validate` that raises UserError. presets: see `parse`. Anything unexpected keeps its
    traceback: a bug should look like one.
    """
    if getattr(sys.stdout, "errors", None) == "strict":  # printing a file name that is not UTF-8 must not end a run
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        cfg = parse(settings, sys.argv[1:], description, presets)
        _same_checkout(getattr(sys.modules["__main__"], "__file__", None))
        check_settings(cfg)
        if hasattr(cfg, "validate"):
            cfg.validate()
        main(cfg)
    except UserError as error:
        sys.exit(_say(f"error: {error}"))
    except BrokenPipeError:  # `… | head` has seen enough
        sys.stderr.close()
        sys.exit(0)
    except KeyboardInterrupt:
        _say("interrupted: the same command again goes on from what has been saved")
        sys.exit(130)
    except Exception as error:
        line = _of_the_place(error)
        if line is None:
            raise
        sys.exit(_say(f"error: {line}"))


def parse(
    settings: type[Settings], args: Sequence[str], description: str | None = None, presets: Presets | None = None
) -> Settings:
    """The settings that these arguments give: flags before the preset of `--preset NAME`, before the defaults.

    A preset may set a value by length, as {16: 1000, 64: 2000}: it goes by the setting L, and an L in between takes the
    value of the next shorter one, an L below all of them that of the shortest. UserError: no such preset.
    """
    if not presets:
        return tyro.cli(settings, args=args, description=description)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--preset", choices=presets)
    try:
        name, args = parser.parse_known_args(args)
    except argparse.ArgumentError:
        raise UserError(f"--preset: choose one of {', '.join(presets)}") from None
    choice = f"--preset {'|'.join(presets)}: other defaults than those below; flags override them"
    description = f"{(description or '').rstrip()}\n\n{choice}"
    values = presets[name.preset] if name.preset else {}
    cfg = tyro.cli(settings, args=args, description=description, default=_with(settings, values))
    if any(isinstance(value, Mapping) for value in values.values()):
        cfg = tyro.cli(settings, args=args, default=_with(settings, values, cfg.L))  # now that L is known
    return cfg


def _with(settings: type[Settings], values: Mapping[str, Any], L: int | None = None) -> Settings:
    """The settings with the values of a preset, tyro.MISSING where one has to be given. L: None, its default."""
    known = {one.name: one for one in fields(settings)}
    needed = {name: tyro.MISSING for name, one in known.items() if one.default is one.default_factory is MISSING}
    L = known["L"].default if L is None and "L" in known else L
    chosen = {name: of_length(value, L) if isinstance(value, Mapping) else value for name, value in values.items()}
    return settings(**needed | chosen)


def of_length(table: Mapping[int, Any], L: int) -> Any:
    """The value of the largest length in `table` that is not above L, or of the smallest."""
    return table[max((length for length in table if length <= L), default=min(table))]


FULL = (errno.ENOSPC, errno.EDQUOT)
# Of libraries in Rust, and of torch, which does not give the number.
FULL_IN_WORDS = re.compile(rf"\(os error ({errno.ENOSPC}|{errno.EDQUOT})\)|unexpected pos \d+ vs|StreamWriter failed")


def _of_the_place(error: BaseException) -> str | None:
    """The line for an error that a file's place explains; None for any other."""
    cause: BaseException | None = error
    while cause is not None:  # a library's own error can hide the system's behind it, or tell it in words alone
        full = isinstance(cause, OSError) and cause.errno in FULL
        if full or FULL_IN_WORDS.search(str(cause)):
            where = f" while writing {cause.filename}" if full and cause.filename else ""
            return f"disk full{where}: free some space, then run the same command again (nothing written is lost)"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, OSError) and error.filename is not None:
        reason = os.strerror(error.errno).lower()
        return f"{error.filename}: {reason}: give another place or name, or move away what is there"
    return None


def _same_checkout(script: str | None) -> None:
    """UserError: the script is of another checkout than this module, whose commit the records would give."""
    here, there = (Path(file).resolve().parents[1] for file in (__file__, script or __file__))
    if there != here and (there / "common" / "cli.py").is_file():
        raise UserError(f"{script} would run with the modules of {here}: activate the environment of {there}")


def check_settings(cfg: Any) -> None:
    """What no program can use, whatever it does: a seed out of range, a number that is not finite, a value given twice.

    UserError names the first of them.
    """
    for one in fields(cfg):
        value, flag = getattr(cfg, one.name), f"--{one.name.replace('_', '-')}"
        if value is None:
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


def at_least(least: int, cfg: Any, *names: str) -> None:
    """UserError: a setting of one of these names is below `least`; None is not given."""
    for name in names:
        if (value := getattr(cfg, name)) is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} {value}: at least {least}")


def _say(line: str) -> int:
    print(line, file=sys.stderr)
    return 2
