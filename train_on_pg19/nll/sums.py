"""The file that evaluate.py writes for compare.py: the NLL of a model on books, summed over the documents of each book.

    ends = {24_576_000: Evaluated("gpt2", 0, nll, {64: with_last})}         # by tokens of training
    write_csv(path, rows(ends, text), cfg, evaluated=facts)
    run = read(path)                                                        # run.ends, run.text, run.facts

Positions are summed over `curves.parts`; every window in the tables consists of such parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.cli import UserError
from common.documents import matching
from common.record import read_csv
from common.resume import read_identity, refuse_other
from train_on_pg19.nll import curves

KEY = ["tokens", "book", "first", "last"]
COLUMNS = ["model", "L", "seed", *KEY, "n_documents", "units", "nll_nats"]
WHOLE = ["L", "seed", "tokens", "first", "last", "n_documents"]
SAME = ("L", "documents", "unit", "source", "contexts", "reach")  # facts that must be equal to compare models
FACTS = (*SAME, "kind", "parameters", "dtype", "training")
REMEDY = "make it with train_on_pg19/evaluate.py"
AGAIN = (
    "evaluate all models on the same documents with the same --L, --contexts and --reach, and seeds of one model alike"
)


@dataclass(frozen=True)
class Text:
    """What a model read: the first L tokens of each document, summed over the documents of each book."""

    L: int
    books: np.ndarray  # (books,): names, sorted
    documents: np.ndarray  # (books,)
    units: np.ndarray  # (books, parts): bytes of UTF-8, or tokens where the documents have no text
    unit: str = "byte"

    def within(self, of: np.ndarray) -> np.ndarray:
        """Units in each window of positions, (books, windows)."""
        return self.sums(self.units, of)

    def upto(self, positions: np.ndarray) -> np.ndarray:
        """Units in the tokens up to each position, (books, positions)."""
        return self.within(np.column_stack([np.ones_like(positions), positions]))

    def sums(self, values: np.ndarray, of: np.ndarray) -> np.ndarray:
        """Sum over the parts in each window: (…, parts) → (…, windows)."""
        return curves.over_windows(values, curves.parts(self.L), of)


@dataclass(frozen=True)
class Evaluated:
    """The NLL of one model, summed over the documents of each book, (books, parts) nats."""

    name: str
    seed: int
    nll: np.ndarray
    with_last: dict[int, np.ndarray] = field(default_factory=dict)  # NLL given only the last c to 2c − 1 tokens, by c


@dataclass(frozen=True)
class Run:
    """The contents of a file of evaluate.py."""

    path: Path
    name: str
    seed: int
    text: Text
    ends: dict[int, Evaluated]  # by training tokens, ascending; 0: not a model of train.py
    facts: dict[str, Any]  # keys: FACTS


def column(context: int) -> str:
    return f"last{context}_nats"


def measured_parts(context: int, L: int) -> np.ndarray:
    """(parts,) bool: the parts that have an NLL given the last `context` tokens: none up to position 2 · context, where
    these can be all tokens, and none after the last multiple of `context` in L."""
    of = curves.parts(L)
    return (of[:, 0] > 2 * context) & (of[:, 1] <= L // context * context)


def rows(ends: dict[int, Evaluated], text: Text) -> pd.DataFrame:
    """A row for each number of training tokens, book and part; see `measured_parts` for the empty cells."""
    of, books, parts = curves.parts(text.L), len(text.books), []
    contexts = sorted({context for one in ends.values() for context in one.with_last})
    first, last = np.tile(of, (books, 1)).T
    for tokens, one in ends.items():
        table = {"model": one.name, "L": text.L, "seed": one.seed, "tokens": tokens}
        table |= {"book": np.repeat(text.books, len(of)), "first": first, "last": last}
        table |= {"n_documents": np.repeat(text.documents, len(of)), "units": text.units.flatten()}
        table |= {"nll_nats": one.nll.flatten().round(5)}
        for context in contexts:
            nll = np.full(one.nll.shape, np.nan)
            if context in one.with_last:
                nll = np.where(measured_parts(context, text.L), one.with_last[context].round(5), np.nan)
            table[column(context)] = nll.flatten()
        parts.append(pd.DataFrame(table))
    return pd.concat(parts)


def read(path: Path, patterns: Sequence[str] = ()) -> Run:
    """Read a file of evaluate.py. patterns: names or patterns of the books to keep; default: all books.

    UserError: no such file, or a damaged one; no record of evaluate.py beside it; a pattern that matches no book.
    """
    facts = read_identity(path.with_suffix(".json"), "evaluated")
    good = isinstance(facts, dict) and set(FACTS) <= facts.keys() and isinstance(facts["contexts"], list)
    if not good or not all(isinstance(context, int) for context in facts["contexts"]):
        raise UserError(f"{path.with_suffix('.json')} is not there, or is no record of evaluate.py: {REMEDY}")
    with_last = {context: column(context) for context in facts["contexts"]}
    floats = ["units", "nll_nats", *with_last.values()]
    table = read_csv(path, [*COLUMNS, *with_last.values()], REMEDY, floats, WHOLE)
    if patterns and len(table):
        table = table[table["book"].isin(matching(sorted(set(table["book"])), "--books", patterns))]
    same = table[["model", "seed", "L"]].drop_duplicates()
    if len(same) != 1 or same["L"].iloc[0] != facts["L"] or same["L"].iloc[0] < 1:
        raise UserError(f"{path} is not of one model, seed and L: {REMEDY}")
    model, seed, L = str(same["model"].iloc[0]), *map(int, same[["seed", "L"]].iloc[0])
    books, of = np.unique(table["book"].astype(str)), curves.parts(L)
    blocks = {int(tokens): block.sort_values(KEY[1:]) for tokens, block in table.groupby("tokens")}
    whole = [(book, *part) for book in books for part in of.tolist()]
    good = all(list(block[KEY[1:]].itertuples(index=False, name=None)) == whole for block in blocks.values())
    good &= bool(np.isfinite(table[["nll_nats", "units"]]).all(axis=None) and (table["n_documents"] > 0).all())
    good &= bool((table.groupby("book")["units"].sum() > 0).all())  # one part may have ≤ 0: see text_of of evaluate.py

    def by_book(block: pd.DataFrame, name: str) -> np.ndarray:
        return block[name].to_numpy().reshape(len(books), len(of))

    ends = {}
    for tokens, block in blocks.items() if good else ():
        contexts = {}
        for context, name in with_last.items():
            nll, there = by_book(block, name), measured_parts(context, L)
            if context == facts["reach"] or not np.isnan(nll).all():  # others: only after the last cosine
                contexts[context] = np.where(there, nll, 0)
                good &= bool(np.isfinite(contexts[context]).all() and np.isnan(nll[:, ~there]).all())
        ends[tokens] = Evaluated(model, seed, by_book(block, "nll_nats"), contexts)
    if not good:
        raise UserError(f"{path} lacks rows or numbers, or has rows that are there twice: {REMEDY}")
    block = next(iter(blocks.values()))
    text = Text(L, books, by_book(block, "n_documents")[:, 0], by_book(block, "units"), str(facts["unit"]))
    return Run(path, model, seed, text, ends, facts)


def refuse_others(runs: Sequence[Run]) -> None:
    """UserError: runs on different documents, or runs of one name that differ in more than the seed, which would be
    taken for seeds of one model."""
    for i, this in enumerate(runs):
        for before in runs[:i]:
            keys = [*SAME, "training", "dtype"] if before.name == this.name else SAME
            found, wanted = ({key: of.facts[key] for key in keys} for of in (this, before))
            refuse_other(found, wanted, this.path, AGAIN)
            if (before.name, before.seed) == (this.name, this.seed):
                raise UserError(
                    f"--losses: {before.path} and {this.path} are both of {this.name}, seed {this.seed}: give each once"
                )
