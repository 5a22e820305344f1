"""The tokens of a folder of documents, in the order of the text and in little memory, however large the corpus.

`open_documents` maps the files into memory, and what was read of them counts as used memory until they are closed. Here
a batch of documents (as prepare_dataset.py wrote them, some hundred) is read at a time and given back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pandas import factorize
from pandas.util import hash_array

from common.cli import UserError
from common.documents import open_documents


@dataclass(frozen=True)
class DocumentStream:
    """Where the documents lie. Token numbers count through the corpus, documents laid end to end."""

    files: tuple[str, ...]
    batches: np.ndarray
    """(batches, 3) int64: number of the file, byte at which the batch begins, its first document"""
    starts: np.ndarray
    """(documents + 1,) int64: the first token of each document, and the number of all tokens"""
    unit: np.ndarray
    """(documents,) int32: the book of each document, from 0 in the order of the text; of one book, the document"""
    kind_of_unit: str
    """"books" or "documents" """

    @property
    def tokens(self) -> int:
        return int(self.starts[-1])

    @property
    def units(self) -> int:
        return int(self.unit.max()) + 1

    @property
    def batch_tokens(self) -> int:
        """Tokens of the largest batch: what is in memory at a time."""
        return int(np.diff(self.starts[np.append(self.batches[:, 2], len(self.unit))]).max())

    def read(self, start: int, stop: int) -> Iterator[tuple[np.ndarray, int, int, int]]:
        """The batches with tokens start … stop − 1: (all their tokens, number of the first, first document, end)."""
        first_documents = np.append(self.batches[:, 2], len(self.unit))
        first_tokens = self.starts[first_documents]
        for i, (file, place, _) in enumerate(self.batches.tolist()):
            if first_tokens[i] < stop and first_tokens[i + 1] > start:
                with pa.OSFile(self.files[file]) as source:
                    schema = pa.ipc.read_schema(pa.ipc.read_message(source))
                    source.seek(place)
                    batch = pa.ipc.read_record_batch(pa.ipc.read_message(source), schema)
                tokens = batch.column("input_ids").flatten().to_numpy(zero_copy_only=False)
                yield tokens, int(first_tokens[i]), int(first_documents[i]), int(first_documents[i + 1])

    def names(self, units: np.ndarray) -> list[str]:
        """The names of some units (books or documents); reads no tokens."""
        column, first = self.kind_of_unit.removesuffix("s"), np.unique(self.unit, return_index=True)[1]
        wanted, found = first[units], {}
        for file, place, first_document in self.batches.tolist():
            with pa.memory_map(self.files[file]) as source:
                schema = pa.ipc.read_schema(pa.ipc.read_message(source))
                source.seek(place)
                names = pa.ipc.read_record_batch(pa.ipc.read_message(source), schema).column(column)
                here = wanted[(wanted >= first_document) & (wanted < first_document + len(names))]
                found |= {document: names[document - first_document].as_py() for document in here.tolist()}
        return [found[document] for document in wanted.tolist()]


@dataclass(frozen=True)
class ArrayStream(DocumentStream):
    """Documents of one length in memory, each a book of its own. They have no names."""

    ids: np.ndarray
    """(documents, L) token ids"""

    @classmethod
    def of(cls, ids: np.ndarray) -> ArrayStream:
        documents, L = ids.shape
        starts, unit = np.arange(documents + 1, dtype=np.int64) * L, np.arange(documents, dtype=np.int32)
        return cls((), np.zeros((1, 3), np.int64), starts, unit, "books", ids)

    def read(self, start: int, stop: int) -> Iterator[tuple[np.ndarray, int, int, int]]:
        """See DocumentStream: all of it is one batch."""
        yield self.ids.ravel(), 0, 0, len(self.unit)


def open_stream(folder: Path) -> tuple[DocumentStream, dict]:
    """A folder of documents, and its prepare.json. UserError as `open_documents`."""
    documents, prepared = open_documents(folder)
    files = tuple(dict.fromkeys(file["filename"] for file in documents.cache_files))
    rows, batches, lengths, books, ids = len(documents), [], [], [], []
    del documents
    total = 0
    for number, file in enumerate(files):
        with pa.memory_map(file) as source:
            schema = pa.ipc.read_schema(pa.ipc.read_message(source))
            while True:
                place = source.tell()
                try:
                    batch = pa.ipc.read_record_batch(pa.ipc.read_message(source), schema)
                except EOFError:
                    break
                if batch.num_rows:
                    batches.append((number, place, total))
                    total += batch.num_rows
                    lengths.append(batch.column("input_ids").value_lengths().to_numpy(zero_copy_only=False))
                    # Hashes: the names of millions of articles do not fit memory.
                    for column, hashes in (("book", books), ("document", ids)):
                        names = batch.column(column).to_numpy(zero_copy_only=False)
                        hashes.append(hash_array(names, categorize=False))
    if total != rows:
        raise UserError(f"{folder} holds {total:,} documents in its files and {rows:,} in its index: prepare it again")
    if not total:
        raise UserError(f"no documents in {folder}: give a folder written by prepare_dataset.py")
    unit, names = factorize(np.concatenate(books))
    kind = "books"
    if len(names) == 1:
        unit, _ = factorize(np.concatenate(ids))
        kind = "documents"
    starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths), dtype=np.int64)])
    return DocumentStream(files, np.array(batches), starts, unit.astype(np.int32), kind), prepared
