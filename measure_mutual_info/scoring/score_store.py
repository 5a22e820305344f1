"""Finished groups of a scoring run on disk, so that a killed run goes on and never mixes with another one.

`scores.csv.parts/` holds manifest.json (what was asked: model, documents, grid, …) and one `00012.npz` a group, each
written in one step. When every group is there they become scores.csv and the folder goes away.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path

import numpy as np

from common.cli import UserError
from common.record import atomic_file, replace_text


def refuse_other_scores(found: object, manifest: dict, where: Path) -> None:
    """UserError unless `found`, what lies at `where`, was made with exactly the settings of `manifest`."""
    if not isinstance(found, dict):
        raise UserError(f"{where}: not the record of a scoring run: choose another --out, or delete it")
    differing = sorted(key for key in {*found, *manifest} if found.get(key) != manifest.get(key))
    if differing:
        shown = "; ".join(
            f"{key}: {_brief(found.get(key))} there, {_brief(manifest.get(key))} now" for key in differing[:3]
        )
        raise UserError(f"{where}: made with other settings ({shown}): choose another --out, or delete it")


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"


class ScoreStore:
    """The folder of parts of one run. UserError if it belongs to another run or cannot be read."""

    def __init__(self, folder: Path, manifest: dict) -> None:
        self.folder, self.manifest = folder, manifest
        record = folder / "manifest.json"
        if record.exists():
            try:
                found = json.loads(record.read_text(encoding="utf-8"))
            except ValueError:
                found = None
            refuse_other_scores(found, manifest, folder)
        elif folder.exists() and any(folder.glob("[!.]*")):
            refuse_other_scores(None, manifest, folder)

    def begin(self) -> None:
        """Make the folder, once everything that can refuse the run has had its say."""
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_text(self.folder / "manifest.json", json.dumps(self.manifest, indent=2, ensure_ascii=False) + "\n")

    def path(self, group: int) -> Path:
        return self.folder / f"{group:06d}.npz"

    def done(self, group: int) -> bool:
        return self.path(group).exists()

    def write(self, group: int, arrays: dict[str, np.ndarray]) -> None:
        """Store one group's arrays in one step. OSError if the disk is full; nothing partial stays."""
        with atomic_file(self.path(group), "wb") as file:
            np.savez(file, **arrays)

    def read(self, group: int, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        """One group's arrays. UserError if the file is damaged or holds other names or shapes than `shapes`."""
        path = self.path(group)
        try:
            with np.load(path) as file:
                arrays = {name: file[name] for name in file.files}
            reason = "unexpected contents"
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            arrays, reason = {}, type(error).__name__
        if {name: array.shape for name, array in arrays.items()} != shapes:
            raise UserError(
                f"{path}: damaged part of a scoring run ({reason}): delete this file and run the same command again"
            )
        return arrays
