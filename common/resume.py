"""Resuming: a killed run continues from the pieces it finished, and never from those of another run.

The `identity` of a run is everything that determines its numbers. It is stored with the run's output and compared by
`refuse_other` when the same folder or file is used again. Long work is divided into pieces with keys, each written in
one step by `Pieces`; a checkpoint of a training run or a shard of documents is a piece as well.
"""

from __future__ import annotations

import json
import shutil
import zipfile
import zlib
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import UserError
from common.record import atomic_file, printable, replace_text

# Metadata of a setting that may change when a run is resumed: it affects only rounding, or how long the run goes on.
RESUME_OK = {"resume_ok": True}
MANIFEST = "manifest.json"
SHOWN = 3  # number of differences named in a message
DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)  # what np.load may raise


def identity(cfg: Any, **facts: Any) -> dict[str, Any]:
    """What must be the same for a run to be resumed: the settings without the metadata RESUME_OK, and `facts`.

    It has been through JSON, so that it compares equal to what is read from disk.
    """
    kept = [one.name for one in fields(cfg) if not one.metadata.get("resume_ok")]
    settings = asdict(cfg)
    return json.loads(json.dumps({name: settings[name] for name in kept} | facts, default=str))


def refuse_other(found: Any, wanted: dict[str, Any], where: Path, remedy: str | None = None) -> None:
    """UserError: `found`, read from `where`, is not the identity `wanted`; names what differs."""
    remedy = remedy or f"choose another --out (OUT= of a shell file), or delete {where}"
    if not isinstance(found, dict):
        raise UserError(f"{where} belongs to something else, or is damaged: {remedy}")
    found, wanted = _flat(found), _flat(wanted)
    differing = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
    if differing:
        shown = "; ".join(f"{key} {_brief(found, key)} there, {_brief(wanted, key)} here" for key in differing[:SHOWN])
        more = f"; {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
        raise UserError(f"{where} was made with other settings ({shown}{more}): {remedy}")


def _flat(nested: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Flatten {"model": {"width": 64}} to {"model.width": 64}."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) and value else {f"{above}{key}": value}
    return flat


def _brief(values: dict[str, Any], key: str) -> str:
    text = json.dumps(values[key], ensure_ascii=False) if key in values else "nothing"
    return printable(text if len(text) <= 60 else text[:57] + "…")


def read_identity(path: Path, key: str) -> Any:
    """The value under `key` in the JSON file `path`; None if there is no such file or key."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def begun(folder: Path, wanted: dict[str, Any], record: str = MANIFEST) -> bool:
    """Whether `folder` belongs to this run, according to the `identity` in its file `record`; False if it is empty.

    A missing folder counts as empty. UserError: the folder is a file, has a name that is not UTF-8, holds other files,
    or belongs to a run with other settings.
    """
    if printable(str(folder)) != str(folder):
        raise UserError(
            f"{printable(str(folder))} is not valid UTF-8, so libraries cannot open it: choose another --out"
        )
    if folder.is_file():
        raise UserError(f"{folder} is a file: name a folder with --out")
    if not folder.exists() or not any(path for path in folder.iterdir() if not path.name.startswith(f".{record}.")):
        return False
    if not (folder / record).is_file():
        raise UserError(f"{folder} holds files and no {record}: choose another --out, or empty it")
    refuse_other(read_identity(folder / record, "identity"), wanted, folder)
    return True


def begin(folder: Path, wanted: dict[str, Any], record: str = MANIFEST, **facts: Any) -> None:
    """Create `folder` and its file `record`; call this after every check that can refuse the run."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / record, json.dumps({"identity": wanted} | facts, indent=2, ensure_ascii=False) + "\n")


def finished(result: Path, wanted: dict[str, Any], *pieces: Pieces) -> bool:
    """Whether the CSV `result` exists and has the identity `wanted` in its record; if so, print that it is complete.

    pieces: those of the run. They are left over if it was killed right after its last step, and are removed here.
    UserError: the result was made with other settings.
    """
    if not result.exists():
        return False
    refuse_other(read_identity(result.with_suffix(".json"), "identity"), wanted, result)
    for one in pieces:
        one.remove()
    print(f"{result} is complete already, with these settings")
    return True


def shard_of(shard: str | None) -> tuple[int, int]:
    """(i, n) of --shard i/n, which does every n-th piece, the first being i. UserError: it is not of this form."""
    i, _, n = (shard or "0/1").partition("/")
    if not (i.isdecimal() and n.isdecimal() and int(i) < int(n)):
        raise UserError(f"--shard {shard}: write it i/n with 0 ≤ i < n, e.g. 0/4")
    return int(i), int(n)


def written_by_another(result: Path, wanted: dict[str, Any]) -> bool:
    """Whether the CSV `result` exists and has the identity `wanted`; if so, print that another shard wrote it."""
    written = result.exists() and read_identity(result.with_suffix(".json"), "identity") == wanted
    if written:
        print(f"{result} was written by another shard")
    return written


class Pieces:
    """The finished pieces of a run: a folder with its identity, and one .npz file of named arrays per key."""

    def __init__(self, folder: Path, wanted: dict[str, Any]) -> None:
        """UserError: as in `begun`. Nothing is written before the first piece."""
        self.folder, self.wanted = folder, wanted
        self._begun = begun(folder, wanted)

    def path(self, key: int | str) -> Path:
        return self.folder / (f"{key:06d}.npz" if isinstance(key, int) else f"{key}.npz")

    def done(self, key: int | str) -> bool:
        return self.path(key).exists()

    def write(self, key: int | str, arrays: dict[str, np.ndarray]) -> None:
        """Store a piece in one step. OSError: the disk is full; no partial file is left. UserError: as in `begun`."""
        if not self._begun and not begun(self.folder, self.wanted):  # another shard may have begun it
            begin(self.folder, self.wanted)
            self._begun = True
        with atomic_file(self.path(key), "wb") as file:
            np.savez(file, **arrays)

    def read(self, key: int | str, shapes: dict[str, tuple[int, ...] | None]) -> dict[str, np.ndarray]:
        """The arrays of a piece. shapes: name → expected shape, or None for any.

        UserError: the file is missing, damaged, or holds other names or shapes.
        """
        path, arrays, reason = self.path(key), {}, "unexpected contents"
        try:
            with np.load(path) as file:
                arrays = {name: file[name] for name in file.files}
        except DAMAGED as error:
            reason = type(error).__name__
        if arrays.keys() != shapes.keys() or any(
            shape is not None and arrays[name].shape != shape for name, shape in shapes.items()
        ):
            raise UserError(f"{path} is damaged ({reason}): delete this file and run the same command again")
        return arrays

    def remove(self) -> None:
        """Remove the pieces, once the result has them. The manifest goes last, so that a next run knows the folder."""
        for piece in self.folder.glob("*.npz"):
            piece.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
