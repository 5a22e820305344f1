"""Command lines: flags from a settings dataclass, presets of other defaults, and one-line messages for bad input."""

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
Presets = Mapping[str, Mapping[str, Any]]  # preset name → values that replace defaults of a settings class
MAY_BE_EMPTY = {"may_be_empty": True}  # metadata of a field: the flag may be given without values
SEEDS = 2**32  # transformers.set_seed takes only smaller seeds; torch on a CPU ignores higher bits


class UserError(Exception):
    """Bad input. The message is one line that says what was wrong, where, and what to do about it."""


def run(
    main: Callable[[Settings], None],
    settings: type[Settings],
    description: str | None = None,
    presets: Presets | None = None,
) -> None:
    """Parse the command line into `settings`, run `main(cfg)`, and turn expected failures into one line, exit code 2.

    Settings may have a method `validate` that raises UserError. presets: see `parse`. Unexpected errors keep their
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
    except BrokenPipeError:  # as `… | head` does when it has seen enough
        sys.stderr.close()
        sys.exit(0)
    except KeyboardInterrupt:
        _say("interrupted: run the same command again to continue from what was saved")
        sys.exit(130)
    except Exception as error:
        line = _of_the_place(error)
        if line is None:
            raise
        sys.exit(_say(f"error: {line}"))


def parse(
    settings: type[Settings], args: Sequence[str], description: str | None = None, presets: Presets | None = None
) -> Settings:
    """Parse `args` into settings: flags override the preset of `--preset NAME`, which overrides the defaults.

    A preset may give a value for each length, as {16: 1000, 64: 2000}. The setting L then selects the value of the
    largest length that is not above L, or of the smallest length if all are above L. UserError: no such preset.
    """
    # tyro appends a line of text to the line above it, here the last row of an indented list, unless one is empty.
    description = re.sub(r"^( .*\n)(?=\S)", r"\1\n", description or "", flags=re.MULTILINE)
    if not presets:
        return tyro.cli(settings, args=args, description=description)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--preset", choices=presets)
    try:
        name, args = parser.parse_known_args(args)
    except argparse.ArgumentError:
        raise UserError(f"--preset: choose one of {', '.join(presets)}") from None
    choice = f"--preset {'|'.join(presets)}: use other defaults than those below; flags override them"
    description = f"{description.rstrip()}\n\n{choice}"
    values = presets[name.preset] if name.preset else {}
    cfg = tyro.cli(settings, args=args, description=description, default=_with(settings, values))
    if any(isinstance(value, Mapping) for value in values.values()):
        cfg = tyro.cli(settings, args=args, default=_with(settings, values, cfg.L))  # now that L is known
    return cfg


def _with(settings: type[Settings], values: Mapping[str, Any], L: int | None = None) -> Settings:
    """Settings with the values of a preset; tyro.MISSING for required ones it lacks. L: None for its default."""
    known = {one.name: one for one in fields(settings)}
    needed = {name: tyro.MISSING for name, one in known.items() if one.default is one.default_factory is MISSING}
    L = known["L"].default if L is None and "L" in known else L
    chosen = {name: of_length(value, L) if isinstance(value, Mapping) else value for name, value in values.items()}
    return settings(**needed | chosen)


def of_length(table: Mapping[int, Any], L: int) -> Any:
    """The value of the largest length in `table` that is not above L, or of the smallest length if there is none."""
    return table[max((length for length in table if length <= L), default=min(table))]


FULL = (errno.ENOSPC, errno.EDQUOT)
# Disk-full messages of Rust libraries, and of torch, which omits the error number.
FULL_IN_WORDS = re.compile(rf"\(os error ({errno.ENOSPC}|{errno.EDQUOT})\)|unexpected pos \d+ vs|StreamWriter failed")


def _of_the_place(error: BaseException) -> str | None:
    """The message for an error caused by where a file is (full disk, bad path); None for any other error."""
    cause: BaseException | None = error
    while cause is not None:  # a library's error may wrap the system's, or only quote it in its text
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
    """UserError: the script is from another checkout than this module, so records would give the wrong commit."""
    here = Path(__file__).resolve().parents[1]
    parents = Path(script or __file__).resolve().parents
    there = next((folder for folder in parents if (folder / "common" / "cli.py").is_file()), here)
    if there != here:
        raise UserError(f"{script} would run with the modules of {here}: activate the environment of {there}")


def check_settings(cfg: Any) -> None:
    """Refuse what no program can use: a seed out of range, a number that is not finite, a value given twice, or a flag
    without values, except where the field's metadata is MAY_BE_EMPTY.

    UserError names the first of them.
    """
    for one in fields(cfg):
        value, flag = getattr(cfg, one.name), f"--{one.name.replace('_', '-')}"
        if value is None:
            continue
        if one.name.endswith("seed") and not 0 <= value < SEEDS:
            raise UserError(f"{flag} {value}: give a whole number from 0 to {SEEDS - 1}")
        if value == () != one.default and not one.metadata.get("may_be_empty"):
            raise UserError(f"{flag}: give one or more")
        values = value if isinstance(value, tuple) else (value,)
        for i, item in enumerate(values):
            if isinstance(item, float) and not math.isfinite(item):
                raise UserError(f"{flag} {item}: give a finite number")
            if item in values[:i]:
                shown = " ".join(map(str, item)) if isinstance(item, tuple) else item
                raise UserError(f"{flag} {shown} is given twice: remove the duplicate")


def at_least(least: int, cfg: Any, *names: str) -> None:
    """UserError: one of the settings called `names`, or a value in one of them, is below `least`. None passes."""
    for name in names:
        given = getattr(cfg, name)
        for value in given if isinstance(given, tuple) else (given,):
            if value is not None and value < least:
                raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {least}")


def check_csv(out: Path) -> None:
    """UserError: --out is no name of a .csv file."""
    if out.suffix != ".csv" or out.is_dir():
        raise UserError(f"--out {out}: give a file that ends in .csv")


def cause(error: BaseException) -> str:
    """The first line of what an exception says, or its type, for a message of one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip(".: ")


def _say(line: str) -> int:
    print(line, file=sys.stderr)
    return 2
