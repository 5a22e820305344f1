"""Read the tokens of a folder of documents in text order, with little memory for a corpus of any size.

`open_documents` maps the files into memory, and what was read counts as used memory until they are closed. Here, one
batch of documents (as prepare_dataset.py wrote them, some hundred) is read at a time and then released.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset
from pandas import factorize
from pandas.util import hash_array

from common.documents import document_lengths, open_documents

MAX_BLOCKS = 128  # maximum number of rows per kind and n_or_d in counts_by_book.csv


@dataclass(frozen=True)
class DocumentStream:
    """Positions of the documents in the corpus. Tokens are numbered through all documents, laid end to end."""

    vocab_size: int
    starts: np.ndarray  # (documents + 1,) int64: the first token of each document, and the total number of tokens
    unit: np.ndarray
    """(documents,) int32: number of each document's book, from 0 in text order; of the document if there is one book"""
    files: tuple[str, ...] = ()
    kind_of_unit: str = "books"  # or "documents"
    names: tuple[str, ...] = ()  # names of the first MAX_BLOCKS units
    batch_tokens: int = 0  # tokens of the largest batch, which is read at once

    @property
    def tokens(self) -> int:
        return int(self.starts[-1])

    @property
    def units(self) -> int:
        return int(self.unit.max()) + 1

    def read(self) -> Iterator[tuple[np.ndarray, int, int]]:
        """The batches in order: (their tokens, number of the first document, number after that of the last)."""
        first = 0
        for file in self.files:
            with pa.OSFile(file) as source, pa.ipc.open_stream(source) as batches:
                for batch in batches:
                    tokens = batch.column("input_ids").flatten().to_numpy(zero_copy_only=False)
                    yield tokens, first, first + batch.num_rows
                    first += batch.num_rows


def open_stream(folder: Path) -> tuple[DocumentStream, dict]:
    """Open a folder of documents; returns the stream and its prepare.json. UserError as `open_documents`."""
    documents, prepared = open_documents(folder)
    files = tuple(dict.fromkeys(file["filename"] for file in documents.cache_files))
    starts = np.concatenate([[0], np.cumsum(document_lengths(documents), dtype=np.int64)])
    batches = np.cumsum([0, *(len(chunk) for chunk in documents.data.column("input_ids").chunks)])
    column, unit = "book", _numbers(documents, "book")
    if not unit.any():
        column, unit = "document", _numbers(documents, "document")
    first = np.unique(unit, return_index=True)[1][:MAX_BLOCKS]
    names = tuple(documents.data.column(column)[i].as_py() for i in first.tolist())
    vocab_size, batch_tokens = int(prepared["tokenizer_vocab_size"]), int(np.diff(starts[batches]).max())
    return DocumentStream(vocab_size, starts, unit, files, f"{column}s", names, batch_tokens), prepared


def _numbers(documents: Dataset, column: str) -> np.ndarray:
    """Number the names in a column, equal names equally, from 0 in text order; (documents,) int32."""
    # Hashes, because the names of millions of articles do not fit in memory.
    chunks = documents.data.column(column).chunks
    hashes = [hash_array(chunk.to_numpy(zero_copy_only=False), categorize=False) for chunk in chunks]
    return factorize(np.concatenate(hashes))[0].astype(np.int32)
