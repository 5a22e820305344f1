"""Results on disk: a tidy CSV, and beside it a JSON file that says how it was made.

`x.csv` holds one row per observation. `x.json` holds the command, the settings, the commit, the versions, the machine,
the SHA-256 of every input file and the seconds since the program started. Both are written under a temporary name and
moved into place, the CSV last, so that a reader never sees half a file or a new CSV without its record.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import glob
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import psutil

from common.cli import UserError, cause

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "vllm", "numpy", "scipy", "pandas")
_IMPORTED = time.time()


def write_csv(
    path: Path | str,
    table: pd.DataFrame,
    settings: Any,
    inputs: Iterable[Path | str] = (),
    **facts: Any,
) -> None:
    """Write `table` to `path` (a .csv) and its provenance to the .json beside it.

    settings: the script's settings dataclass, or a dict. inputs: files (or folders of files) that were read; each is
    recorded with its SHA-256. facts: anything else worth keeping, e.g. device="cuda". OSError: the disk is full; an
    older pair of files is kept.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    provenance = {
        # In `--out=/somewhere/x.csv` the path follows the "=".
        "command": " ".join(["python", *("=".join(_portable(argument.split("=", 1))) for argument in sys.argv)]),
        "settings": _portable(dataclasses.asdict(settings) if dataclasses.is_dataclass(settings) else dict(settings)),
        "rows": len(table),
        "seconds": round(time.time() - _IMPORTED, 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "versions": versions(),
        "machine": machine(),
        "inputs": _hashes(inputs),
        **_portable(facts),
    }
    record = json.dumps(provenance, indent=2, ensure_ascii=False) + "\n"  # fails before anything is written
    # The CSV marks the work as finished, so it is moved into place after its record. Its bytes are on the disk before
    # that, so that a full disk leaves an older pair intact.
    with atomic_file(path) as file:
        file.write(table.to_csv(index=False, lineterminator="\n"))
        file.flush()
        os.fsync(file.fileno())
        replace_text(path.with_suffix(".json"), record)


def remove_csv(path: Path) -> None:
    """Remove a table and its record, if they are there, so that those of an earlier run are not taken for new ones."""
    for suffix in (".csv", ".json"):
        path.with_suffix(suffix).unlink(missing_ok=True)


def read_csv(
    path: Path | str, columns: Sequence[str], remedy: str, floats: Sequence[str] = (), whole: Sequence[str] = ()
) -> pd.DataFrame:
    """Read `columns` of a CSV as text (a document may be called "NA" or "1e5"), `floats` and `whole` as numbers.

    remedy: what to do about a bad file; error messages end with it. UserError: no such file, not a CSV table, missing
    columns, or as in `numbers` and `whole_numbers`.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"no file {path}: check the name, or {remedy}") from error
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(f"{path} is no CSV table ({cause(error)}): {remedy}") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first of surplus fields for an index
        raise UserError(f"{path} is no CSV table (rows have more fields than the header; decimal commas?): {remedy}")
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise UserError(f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}: {remedy}")
    table = table[list(columns)].astype(object)
    for read, names in ((whole_numbers, whole), (numbers, floats)):
        for name in names:
            table[name] = read(table[name], path, remedy)
    return table


def numbers(column: pd.Series, path: Path | str, remedy: str) -> pd.Series:
    """A column of `read_csv` as float64; an empty cell is NaN. UserError: a cell is not a number (names its line)."""
    values = pd.to_numeric(column.str.strip(), errors="coerce").astype(float)
    bad = values.isna() & ~column.str.strip().str.lower().isin(["", "nan"])
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise UserError(f"{path}, line {row + 2}: {column.name} is {column.iloc[row]!r}, not a number: {remedy}")
    return values


def whole_numbers(column: pd.Series, path: Path | str, remedy: str) -> pd.Series:
    """A column of `read_csv` as int64. UserError: a cell is not a whole number below 2^53 (names its line)."""
    values = numbers(column, path, remedy)
    bad = ~(np.abs(values) < 2**53) | (values != np.round(values))  # the first is also True for NaN
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise UserError(f"{path}, line {row + 2}: {column.name} is {column.iloc[row]!r}, not a whole number: {remedy}")
    return values.astype(int)


@contextlib.contextmanager
def atomic_file(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file to write ("w" for UTF-8, or "wb"), which becomes `path` in one step, synced to disk, when the block ends.

    Text is made `printable`, which loses nothing in JSON, because \\udce9 is JSON's own notation. If the block ends
    early (a crash, a full disk), an older file stays intact and no partial new one is left. An OSError in writing names
    `path`. Partial files that killed runs of this host left behind are removed first.
    """
    stem = f".{path.name}.{platform.node()}"  # the host, as several may write to a shared disk
    for leftover in path.parent.glob(f"{glob.escape(stem)}.*.tmp"):
        with contextlib.suppress(OSError, ValueError):
            # A writer in another container of the same name has no process here, but its file is recent.
            if not psutil.pid_exists(int(leftover.suffixes[-2][1:])) and time.time() - leftover.stat().st_mtime > 60:
                leftover.unlink()
    temporary = path.with_name(f"{stem}.{os.getpid()}.tmp")
    text = {} if "b" in mode else {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    try:
        with open(temporary, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # otherwise it is about a file that the block reads
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def significant(values: Iterable[float], digits: int) -> list[float]:
    """Round to significant digits, so that a CSV stays small."""
    return [float(f"{value:.{digits}g}") for value in values]


def replace_text(path: Path, text: str) -> None:
    """Write `text` to `path` in one step, see `atomic_file`."""
    with atomic_file(path) as file:
        file.write(text)


def printable(text: str) -> str:
    """The text with what UTF-8 cannot encode escaped (\\udce9): bytes of file names, lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()


def file_hash(path: Path | str) -> str:
    """SHA-256 of a file; for a folder, of the lines "<SHA-256 of a file>  <its name>", sorted by name."""
    path = Path(path)
    if not path.is_dir():
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    lines = "".join(f"{file_hash(path / name)}  {name}\n" for name in names)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that results can depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def machine() -> dict[str, Any]:
    """Processor, cores usable by this process, and the GPUs if torch is loaded and sees any."""
    facts: dict[str, Any] = {"system": platform.system(), "processor": _processor(), "cores": cores()}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        facts["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return facts


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        named = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return platform.processor() or platform.machine()
    return named[1] if named else platform.machine()


def _commit() -> str:
    """The commit of the code, with '+changes' if a .py file differs from it; 'unknown' outside a checkout."""
    git = ["git", "-C", str(ROOT)]
    try:
        commit = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True, stderr=subprocess.DEVNULL).strip()
        changed = subprocess.check_output([*git, "status", "--porcelain", "--", "*.py"], text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+changes" if changed else "")


def _hashes(inputs: Iterable[Path | str]) -> dict[str, str]:
    hashes: dict[str, str] = {}
    for file in map(Path, inputs):
        name, parts = _portable(str(file)), file.resolve().parts
        length = 1
        while name in hashes:  # files of the same name from different folders
            length += 1
            name = "/".join(parts[-length:])
        hashes[name] = file_hash(file)
    return hashes


def _portable(value: Any) -> Any:
    """The same value with absolute paths made relative to the repository, or reduced to their last part outside it."""
    if isinstance(value, dict):
        return {key: _portable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_portable(item) for item in value]
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str) and os.path.isabs(value):
        path = Path(value).resolve()
        return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
    return value
