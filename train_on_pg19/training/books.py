"""The sequences that a model is trained on and evaluated on: documents of books, split by book (App. F.III).

    documents, facts = open_books(Path("data/documents/pg19_4096"), 4096)
    held_out = held_out_books(documents, share=0.03, seed=0)
    training, evaluation = split(documents, held_out, 4096)        # numbers of documents
    sequences = Sequences(documents, training, 4096, vocabulary=facts["tokenizer_vocab_size"], start=50_277)

A sequence is the first L tokens of a document, which begins at a sentence start; with documents of 1.2 L tokens or
more, as in the paper, it ends anywhere. The model is given a start token and all but the last of them, and predicts all
L, the first one from the start token alone:

    document    the   whale  of    the   sea  …              L = 4
    input_ids   start the    whale of
    targets     the   whale  of    the

Training and evaluation take their sequences from here, so this is the same in both. Every sequence has all L tokens:
there is no padding, and every position counts.
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
    """16 hex digits that tell prepared documents apart, wherever their folder lies."""
    return file_hash(folder / "state.json")[:16]


def book_of_each(documents: Dataset) -> np.ndarray:
    """The name of each document's book, shape (documents,)."""
    return documents.data.column("book").to_numpy()


def held_out_books(documents: Dataset, share: float, seed: int, patterns: Sequence[str] = ()) -> list[str]:
    """Names of the books that no model is trained on, sorted: those that a pattern matches, else `share` of them.

    Which ones a share holds out follows from the seed and the names alone, not from the order or number of their
    documents. UserError: that leaves no book for one of the two parts, or a pattern matches no book.
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
    """Numbers of the documents of all other books, and of those of the held-out ones, in their order.

    Of documents with the same first L tokens (`first_of_equal`) one stays, of another book where there is one: what a
    model was trained on is not held out. UserError: that leaves none of the held-out documents.
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
    """Settings of the programs that evaluate: which of the held-out documents."""

    books: tuple[str, ...] = ()  # names of books, or patterns of them ("held_out/1*"); default: all that are held out
    max_documents_per_book: int = 0  # drawn at random; 0: all of them
    n_documents: int | None = None  # how many of those, drawn at random; default: all (paper: 10,000)
    seed: int = 0  # of the draws

    def validate(self) -> None:
        at_least(0, self, "max_documents_per_book")
        at_least(1, self, "n_documents")


def drawn(documents: Dataset, rows: np.ndarray, choice: Choice) -> np.ndarray:
    """Those of these numbers of documents that are chosen, ascending. UserError: a pattern matches no book.

    The documents of a book do not depend on --books, so the NLL that is stored of them serves every choice of books.
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
    """`input_ids` and `targets` of some documents, (L,) int64 each, see the top of this file."""

    def __init__(self, documents: Dataset, rows: np.ndarray, L: int, vocabulary: int, start: int) -> None:
        """rows: numbers of the documents. vocabulary: ids of their tokenizer. start: id of the start token."""
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
