"""−ln q of every token of every document, on disk: what evaluate.py measures, and what compare.py reads.

`<folder>/documents.csv` names the documents, one a row, and the book of each. `<folder>/<model>_<seed>.npy` holds the
NLL of one model, (documents, L) float32 in nats, and `<model>_<seed>.json` what it was made from. A row of NaN is a
document that is still to do, so that a killed evaluation goes on where it stopped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.lib.format import open_memmap

from common.cli import UserError
from common.record import read_csv, replace_text

DOCUMENTS = "documents.csv"


@dataclass(frozen=True)
class Measured:
    """One finished model of a store."""

    model: str
    seed: int
    nll: np.ndarray
    """(documents, L) float32, nats, memory-mapped"""
    manifest: dict[str, Any]


def begin(folder: Path, names: Sequence[str], books: Sequence[str]) -> None:
    """Make the folder for these documents. UserError: it holds others."""
    table = pd.DataFrame({"document": names, "book": books})
    path = folder / DOCUMENTS
    if path.exists():
        if not read_csv(path, ["document", "book"], "give another --store").equals(table.astype(object)):
            raise UserError(f"{folder} holds the NLL of other documents: give another --store, or delete it")
        return
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} holds files and no {DOCUMENTS}: give another --store, or empty it")
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(path, table.to_csv(index=False, lineterminator="\n"))


def open_to_write(folder: Path, model: str, seed: int, shape: tuple[int, int], manifest: dict[str, Any]) -> np.ndarray:
    """The array of one model, memory-mapped, NaN where there is nothing yet.

    What was made from other weights, other documents or with other settings is begun anew.
    """
    path = _path(folder, model, seed)
    manifest = {"model": model, "seed": seed, **manifest}
    manifest = json.loads(json.dumps(manifest))  # so that it compares equal with what is read from disk
    try:
        found = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        open_memmap(path, mode="r")  # it refuses a file cut short, which "r+" would fill up with zeros
        array = open_memmap(path, mode="r+")
    except (OSError, ValueError):  # none there, or damaged
        found, array = None, None
    if found == manifest and array is not None and array.shape == shape and array.dtype == np.float32:
        return array
    path.with_suffix(".json").unlink(missing_ok=True)
    array = open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    array[:] = np.nan
    array.flush()
    replace_text(path.with_suffix(".json"), json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    return array


def missing(array: np.ndarray) -> np.ndarray:
    """Numbers of the documents that are still to do."""
    return np.flatnonzero(np.isnan(array).any(axis=1))


def read_books(folder: Path) -> np.ndarray:
    """The book of each document of a store. UserError: not a store."""
    return read_csv(folder / DOCUMENTS, ["book"], "give a --store of evaluate.py")["book"].to_numpy()


def read(folder: Path) -> list[Measured]:
    """All models of a store, by name and seed. UserError: none there, a damaged or an unfinished one."""
    found = []
    for path in sorted(folder.glob("*.npy")):
        try:
            manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            nll = np.load(path, mmap_mode="r")
            found.append(Measured(manifest["model"], manifest["seed"], nll, manifest))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is damaged ({type(error).__name__}): delete it and evaluate the model again"
            ) from error
        if len(left := missing(nll)):
            raise UserError(f"{path}: {len(left)} of {len(nll)} documents are still to do: run evaluate.py to its end")
    if not found:
        raise UserError(f"{folder} holds no NLL of a model: give a --store of evaluate.py")
    return sorted(found, key=lambda one: (one.model, one.seed))


def _path(folder: Path, model: str, seed: int) -> Path:
    return folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', model)}_{seed}.npy"
