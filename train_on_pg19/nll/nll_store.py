"""−ln q of every token of every document, on disk: what evaluate.py measures, and what compare.py reads.

`<folder>/documents.csv` names the documents, one a row, and the book of each. `<folder>/<model>_<seed>.npy` holds the
NLL of one model, (documents, L) float32 in nats, and `<model>_<seed>.json` what it was made from; a name that makes no
plain file name is cleaned, and digits of its hash follow. A row of NaN is a document that is still to do, so that a
killed evaluation goes on where it stopped. `<folder>/models.csv` names the models of the last evaluation that came to
its end, which alone are read: others may lie beside them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import pandas as pd
from numpy.lib.format import open_memmap, write_array_header_1_0

from common.cli import UserError
from common.record import atomic_file, read_csv, replace_text, whole_numbers

DOCUMENTS, MODELS = "documents.csv", "models.csv"
DAMAGED = (OSError, ValueError, EOFError, SyntaxError, TokenError)  # what NumPy raises for a file that is none of its


@dataclass(frozen=True)
class Measured:
    """One finished model of a store."""

    model: str
    seed: int
    nll: np.ndarray
    """(documents, L) float32, nats, memory-mapped"""
    path: Path


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

    What was made from other weights, other documents or with other settings is begun anew. UserError: the file is of
    another model (where a disk does not tell "A" from "a").
    """
    path = _path(folder, model, seed)
    manifest = {"model": model, "seed": seed, **manifest}
    manifest = json.loads(json.dumps(manifest))  # so that it compares equal with what is read from disk
    try:
        found = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        open_memmap(path, mode="r")  # it refuses a file cut short, which "r+" would fill up with zeros
        array = open_memmap(path, mode="r+")
        found["model"]
    except (*DAMAGED, KeyError, TypeError):  # none there, or damaged
        found, array = None, None
    if found is not None and found["model"] != model:
        raise UserError(f"{path} holds the NLL of {found['model']}, not of {model}: give another --store")
    if found == manifest and array is not None and array.shape == shape and array.dtype == np.float32:
        return array
    if found is not None:
        print(f"{path} was made from something else, and is begun anew")
    path.with_suffix(".json").unlink(missing_ok=True)
    # Written, not mapped: a map onto a full disk ends the process (SIGBUS), without a word.
    with atomic_file(path, "wb") as file:
        write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        row = np.full(shape[1], np.nan, dtype="<f4").tobytes()
        file.writelines(row for _ in range(shape[0]))
    array = open_memmap(path, mode="r+")
    replace_text(path.with_suffix(".json"), json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    return array


def missing(array: np.ndarray) -> np.ndarray:
    """Numbers of the documents that are still to do."""
    return np.flatnonzero(np.isnan(array).any(axis=1))


def read_books(folder: Path) -> np.ndarray:
    """The book of each document of a store. UserError: not a store."""
    return read_csv(folder / DOCUMENTS, ["book"], "give a --store of evaluate.py")["book"].to_numpy()


def finish(folder: Path, keys: Sequence[tuple[str, int]]) -> None:
    """Write models.csv: these models and seeds are the ones to be read."""
    table = pd.DataFrame(keys, columns=["model", "seed"])
    replace_text(folder / MODELS, table.to_csv(index=False, lineterminator="\n"))


def read(folder: Path) -> list[Measured]:
    """The models of models.csv, by name and seed. UserError: none there, a damaged or an unfinished one."""
    remedy = "run evaluate.py to its end"
    table = read_csv(folder / MODELS, ["model", "seed"], remedy)
    if table.empty:
        raise UserError(f"{folder / MODELS} names no model: {remedy}")
    found = []
    for model, seed in zip(table["model"], whole_numbers(table["seed"], folder / MODELS, remedy), strict=True):
        path = _path(folder, model, seed)
        try:
            nll = np.load(path, mmap_mode="r")
        except DAMAGED as error:
            raise UserError(f"{path} is missing or damaged ({type(error).__name__}): {remedy}") from error
        if len(left := missing(nll)):
            raise UserError(f"{path}: {len(left)} of {len(nll)} documents are still to do: {remedy}")
        found.append(Measured(model, seed, nll, path))
    return sorted(found, key=lambda one: (one.model, one.seed))


def _path(folder: Path, model: str, seed: int) -> Path:
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", model)[:100]
    if plain != model:  # others become the same: "a/b" and "a b", all names without a Latin letter
        plain += f"-{hashlib.sha256(model.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    return folder / f"{plain}_{seed}.npy"
