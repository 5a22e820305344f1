"""Open a folder written by measure_mutual_info/prepare_dataset.py, the same way in every program that reads one."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, load_from_disk

from common.cli import UserError, cause
from common.record import file_hash

COLUMNS = ("document", "book", "input_ids")
FACTS = ("source", "tokenizer", "tokenizer_vocab_size")
REPEAT_TOKENS = 32  # documents that share this many tokens do not do so by chance


def open_documents(folder: Path) -> tuple[Dataset, dict]:
    """The documents of a folder (memory-mapped), and its prepare.json.

    UserError: prepare_dataset.py did not write and finish the folder, or it holds no documents.
    """
    description = folder / "prepare.json"
    said = f"no folder {folder}" if not folder.is_dir() else f"no prepare.json in {folder}"
    if description.is_file():
        try:
            facts = json.loads(description.read_text(encoding="utf-8"))
            documents = load_from_disk(str(folder))
            columns = list(documents.column_names)
            documents.data.table.validate(full=True)  # offsets and names only, so quick: any integer may be a token
            if not len(documents):
                raise IndexError
            lacking = [name for name in COLUMNS if name not in columns] + [key for key in FACTS if key not in facts]
            if not lacking:
                return documents, facts
            said = f"{folder} lacks {', '.join(lacking)}"
        except IndexError:  # also what `datasets` raises for a table without rows
            said = f"no documents in {folder}"
        except (OSError, ValueError, KeyError, AttributeError, TypeError, pa.ArrowException) as error:
            said = f"cannot read the documents in {folder} ({cause(error)})"
    raise UserError(f"{said}: give a folder written by prepare_dataset.py")


def content_hash(folder: Path) -> str:
    """A hash of the documents in a folder, without prepare.json, which holds when and where they were prepared."""
    files = [folder / "state.json", *sorted(folder.glob("*.arrow"))]
    return hashlib.sha256("".join(map(file_hash, files)).encode()).hexdigest()


def document_lengths(documents: Dataset) -> np.ndarray:
    """Number of tokens of each document, shape (documents,), without reading the tokens themselves."""
    # Chunk by chunk: one Arrow list array holds at most 2^31 tokens, and a large corpus has more.
    chunks = documents.data.column("input_ids").chunks
    return np.concatenate([np.asarray(chunk.value_lengths()) for chunk in chunks])


def first_of_equal(documents: Dataset, tokens: int) -> np.ndarray:
    """For each document, the index of the first one that begins with the same tokens (its own if none comes before it).

    tokens: how many tokens to compare, but at least REPEAT_TOKENS. A document shorter than REPEAT_TOKENS gets its own
    index, because it may equal another by chance. Returns shape (documents,), int64.
    """
    lengths, compared = document_lengths(documents), max(tokens, REPEAT_TOKENS)
    hashes = np.empty(len(lengths), np.uint64)  # not the tokens: those of millions of documents do not fit in memory
    ends, number = np.minimum(lengths, compared).astype(np.int64), 0
    for chunk in documents.data.column("input_ids").chunks:
        ids, start = chunk.flatten().to_numpy(zero_copy_only=False), 0
        for length in np.asarray(chunk.value_lengths()).tolist():
            digest = hashlib.blake2b(ids[start : start + ends[number]], digest_size=8).digest()
            hashes[number] = int.from_bytes(digest, "big")
            start, number = start + length, number + 1
    first, long_enough = np.arange(len(lengths)), np.flatnonzero(lengths >= REPEAT_TOKENS)
    _, before, same = np.unique(hashes[long_enough], return_index=True, return_inverse=True)
    first[long_enough] = long_enough[before[same]]
    return first


def matching(names: Sequence[str], option: str, patterns: Sequence[str]) -> list[str]:
    """The names of books that match a pattern ("held_out/1*"; * also matches /). UserError: a pattern matches none."""
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UserError(f"{option} {pattern}: none of {len(names):,} books, the first of which is {names[0]}")
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
