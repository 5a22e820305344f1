"""The sequences for training and evaluation: documents of books, split by book (App. F.III).

    documents, facts = open_books(Path("data/documents/pg19_4096"), 4096)
    held_out = held_out_books(documents, share=0.03, seed=0)
    training, evaluation = split(documents, held_out, 4096)        # numbers of documents
    sequences = Sequences(documents, training, 4096, vocabulary=facts["tokenizer_vocab_size"], start=50_277)

A sequence is the first L tokens of a document. It begins at the start of a sentence; with documents of 1.2 L tokens or
more, as in the paper, it can end anywhere. The input is a start token and all tokens but the last. The model predicts
all L tokens, the first one from the start token alone:

    document    the   whale  of    the   sea  …              L = 4
    input_ids   start the    whale of
    targets     the   whale  of    the

Training and evaluation both take their sequences from here, so all this is the same in both. Every sequence has L
tokens: there is no padding, and every position counts.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset

from common.cli import UserError, at_least
from common.documents import document_lengths, first_of_equal, matching, open_documents
from common.record import file_hash


def open_books(folder: Path, L: int) -> tuple[Dataset, dict[str, Any]]:
    """The documents of a folder (memory-mapped), and its prepare.json.

    UserError: not a folder that prepare_dataset.py wrote and finished, or documents of fewer than L tokens.
    """
    documents, facts = open_documents(folder)
    lengths = document_lengths(documents)
    short = int((lengths < L).sum())
    if short:
        raise UserError(
            f"{folder}: {short:,} of {len(lengths):,} documents have fewer than L = {L:,} tokens, the shortest "
            f"{lengths.min():,}: prepare it with --min-tokens {math.ceil(1.2 * L)}, or give --L {lengths.min()} or less"
        )
    return documents, facts


def fingerprint(folder: Path) -> str:
    """16 hex digits that identify prepared documents, wherever their folder is."""
    return file_hash(folder / "state.json")[:16]


def book_of_each(documents: Dataset) -> np.ndarray:
    """The name of each document's book, shape (documents,)."""
    return documents.data.column("book").to_numpy()


def held_out_books(documents: Dataset, share: float, seed: int, patterns: Sequence[str] = ()) -> list[str]:
    """Sorted names of the books to hold out: those that match a pattern, or without patterns a `share` of all books.

    With a share, the choice depends only on the seed and the names, not on the order or number of their documents.
    UserError: no book is left for one of the two parts, or a pattern matches no book.
    """
    names = sorted(set(book_of_each(documents)))
    if patterns:
        chosen = matching(names, "--held-out-books", patterns)
    else:
        order = sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
        chosen = sorted(order[: round(share * len(names))])
    if not 0 < len(chosen) < len(names):
        option = f"--held-out-books {' '.join(patterns)}" if patterns else f"--held-out {share}"
        raise UserError(
            f"{option} of {len(names):,} books holds out {len(chosen)}: at least 1 must be held out, and 1 left to "
            "train on; hold out others, or give documents of more books"
        )
    return chosen


def split(documents: Dataset, held_out: Sequence[str], L: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the training documents and of the held-out documents (those of the books `held_out`), in their order.

    Of documents with the same first L tokens (`first_of_equal`) only one is kept, in the training part if one of them
    is there: no text is both trained on and held out. UserError: this leaves no held-out document.
    """
    names, chosen = book_of_each(documents), set(held_out)
    out = np.fromiter((name in chosen for name in names), bool, len(names))
    first = first_of_equal(documents, L)

    def distinct(rows: np.ndarray) -> np.ndarray:
        return rows[np.sort(np.unique(first[rows], return_index=True)[1])]

    training = distinct(np.flatnonzero(~out))
    evaluation = distinct(np.flatnonzero(out & ~np.isin(first, first[training])))
    if out.any() and not len(evaluation):
        raise UserError(
            f"all {out.sum():,} documents of the held-out books repeat documents of others: hold out other books "
            "(--split-seed of train.py), or give documents of other texts"
        )
    return training, evaluation


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Settings of the evaluation programs: which of the held-out documents to use."""

    books: tuple[str, ...] = ()  # names of books, or patterns of names ("held_out/1*"); default: all held-out books
    max_documents_per_book: int = 0  # drawn at random; 0: all documents
    n_documents: int | None = None  # how many of these documents, drawn at random; default: all (paper: 10,000)
    seed: int = 0  # seed for drawing documents

    def validate(self) -> None:
        at_least(0, self, "max_documents_per_book")
        at_least(1, self, "n_documents")


def drawn(documents: Dataset, rows: np.ndarray, choice: Choice) -> np.ndarray:
    """The document numbers among `rows` that `choice` selects, ascending. UserError: a pattern matches no book.

    Without --n-documents, the documents drawn from a book do not depend on --books, so a stored NLL serves any --books.
    """
    rows = np.random.default_rng(choice.seed).permutation(rows)
    names = book_of_each(documents)[rows]
    if choice.books:
        kept = np.isin(names, matching(sorted(set(names)), "--books", choice.books))
        rows, names = rows[kept], names[kept]
    if choice.max_documents_per_book:
        number = pd.Series(rows).groupby(names).cumcount().to_numpy()
        rows = rows[number < choice.max_documents_per_book]
    return np.sort(rows[: choice.n_documents])


class Sequences(torch.utils.data.Dataset):
    """`input_ids` and `targets` of some documents, (L,) int64 each; see the module docstring."""

    def __init__(self, documents: Dataset, rows: np.ndarray, L: int, vocabulary: int, start: int) -> None:
        """rows: numbers of the documents. vocabulary: number of tokenizer ids. start: id of the start token."""
        self.documents, self.rows, self.L, self.vocabulary, self.start = documents, rows, L, vocabulary, start
        self.ids = documents.with_format("numpy", columns=["input_ids"])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """UserError: an id that the tokenizer does not have."""
        row = int(self.rows[index])
        tokens = torch.from_numpy(self.ids[row]["input_ids"][: self.L].astype(np.int64))
        if tokens.min() < 0 or tokens.max() >= self.vocabulary:
            raise UserError(
                f"document {self.documents[row]['document']} holds the id {tokens.max()}, but its tokenizer has "
                f"{self.vocabulary:,}: prepare the documents again"
            )
        return {"input_ids": torch.cat([torch.tensor([self.start]), tokens[:-1]]), "targets": tokens}
