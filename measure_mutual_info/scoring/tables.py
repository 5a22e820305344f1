"""What score_documents.py and count_ngrams.py wrote, read back and checked before anything is computed from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from common.cli import UserError
from common.documents import REPEAT_TOKENS
from common.record import read_csv
from measure_mutual_info.counting.entropy import grassberger_entropy, sample_size

LOGQ = ["logq_y_given_x_nats", "logq_y_nats", "logq_y_first2_nats", "logq_y_given_other_x_nats"]
OWN = LOGQ[:3]  # the same for the same text, whatever its x_donor
START = "logq_start_nats"
BYTES = "y_bytes"  # empty for a model without a tokenizer
KEY = ["document", "ell_tokens", "L_tokens"]
SCORES = ["document", "book", "ell_tokens", "L_tokens", *LOGQ, START, BYTES, "x_donor"]
COUNTS = ["source", "tokenizer", "kind", "n_or_d", "occurrences", "types"]
BOOK_COUNTS = ["source", "tokenizer", "kind", "n_or_d", "book", "ngrams", "entropy_nats"]
SCORE_AGAIN = "score the documents again with score_documents.py"
COUNT_AGAIN = "count one corpus with count_ngrams.py, n-grams with --n 1 2, pairs with --d 1 2 4 …"


def read_scores(path: Path) -> tuple[pd.DataFrame, str]:
    """The rows of the documents whose every score is finite, and a line that says which documents are left out.

    A document that repeats another, score by score to 0.005 nats, is left out as well: it would count as one more and
    is none. UserError: no such file, columns missing, not numbers, ell >= L, rows twice, a document in two books or
    only in part there, or fewer than two documents left.
    """
    logq = [*LOGQ, START]
    scores = read_csv(path, SCORES, SCORE_AGAIN, [*logq, BYTES], KEY[1:])
    by_document, grid = scores.groupby("document", sort=False), len(scores.drop_duplicates(KEY[1:]))
    checks = {
        "not 1 <= ell < L": (scores["ell_tokens"] < 1) | (scores["ell_tokens"] >= scores["L_tokens"]),
        "a row that is there twice": scores.duplicated(KEY),
        "a document in two books": by_document["book"].transform("nunique") > 1,
        "a document without some of the (ell, L)": by_document["L_tokens"].transform("size") < grid,
    }
    for what, bad in checks.items():
        if bad.any():
            document, ell, L = scores.loc[bad.idxmax(), KEY]
            where = f"line {bad.idxmax() + 2} (document {document}, ell {ell}, L {L})"
            raise UserError(f"{path}, {where}: {what}: {SCORE_AGAIN}")

    empty = scores[logq].isna().any(axis=1).groupby(scores["document"], sort=False).any()
    infinite = np.isinf(scores[logq]).any(axis=1).groupby(scores["document"], sort=False).any()
    bad, line = empty | infinite, f"{len(empty)} documents"
    if bad.any():
        why = f"{empty.sum()} without scores, {(infinite & ~empty).sum()} with an infinite one"
        line += f", {bad.sum()} of them left out ({why}; the first: {bad.idxmax()})"
    if scores["L_tokens"].max() >= REPEAT_TOKENS:
        own = scores.pivot(index="document", columns=KEY[1:], values=OWN).loc[bad.index[~bad]]
        # Rounded: the same text in another batch of the same model differs in the last digits.
        repeats = own.round(2).duplicated()
        if repeats.any():
            line += f", {repeats.sum()} left out that repeat another score by score (the first: {repeats.idxmax()})"
            bad |= repeats.reindex(bad.index, fill_value=False)
    if (~bad).sum() < 2:
        raise UserError(f"{path}: {line}; at least two with scores are needed: {SCORE_AGAIN}")
    return scores[~scores["document"].map(bad)].reset_index(drop=True), line


def read_record(scores: Path) -> tuple[tuple[str, str], dict]:
    """Of the record beside scores.csv: source and model, the latter without the folders in front; and all of it.

    UserError: no record, or one that names no source or no model.
    """
    path = scores.with_suffix(".json")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        names = record["source"], last_part(str(record["settings"]["model"]))
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        names = "", ""
    if not all(names):
        raise UserError(f"{path} is not there, or names no source or no model: {SCORE_AGAIN}")
    return names, record


class Counts(NamedTuple):
    """Counts of counts of one corpus. by_kind: kind to n or d, ascending, to (occurrences, types), int64 (k,) each."""

    by_kind: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]]
    source: str
    tokenizer: str


def read_counts(path: Path, kinds: Sequence[str], source: str | None = None, tokenizer: str | None = None) -> Counts:
    """The rows of counts.csv that are of `kinds`, each of which must be there for every n or d of the others.

    source, tokenizer: that the counts must be of, as far as known (compared by the last part of the name, which is all
    that a record keeps of a local path). UserError: they are of others, or of several; no such file; columns, kinds or
    distances missing; not counts.
    """
    table = _counted(path, COUNTS, kinds, {"source": source, "tokenizer": tokenizer})
    counts = table[["n_or_d", "occurrences", "types"]]
    bad = ~((counts >= 1) & (counts % 1 == 0)).all(axis=1) | table.duplicated(["kind", "n_or_d", "occurrences"])
    if bad.any():
        raise UserError(f"{path}, line {bad.idxmax() + 2}: no counts of counts, or a line that repeats: {COUNT_AGAIN}")
    by_kind: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]] = {kind: {} for kind in kinds}
    for (kind, n), rows in table.groupby(["kind", "n_or_d"]):
        by_kind[kind][int(n)] = tuple(rows[column].to_numpy(np.int64) for column in ("occurrences", "types"))
    if len({tuple(by_n) for by_n in by_kind.values()}) > 1:
        raise UserError(f"{path} has not every n or d for every kind ({', '.join(kinds)}): {COUNT_AGAIN}")
    return Counts(by_kind, table["source"].iloc[0], table["tokenizer"].iloc[0])


def read_shares(path: Path, counts: Counts) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How many n-grams or pairs each book has, and their share of the entropy in nats: books × (kind, n or d), 0 where
    it has none.

    path: of the counts; the shares lie beside it as <name>_by_book.csv. Their mean, weighted by the numbers, is
    Grassberger's entropy. UserError: no such file, columns missing, not numbers, or not the shares of these counts.
    """
    path = path.with_name(f"{path.stem}_by_book.csv")
    names = {"source": counts.source, "tokenizer": counts.tokenizer}
    table = _counted(path, BOOK_COUNTS, list(counts.by_kind), names).fillna({"entropy_nats": 0.0})
    for kind, by_n in counts.by_kind.items():
        for n, counted in by_n.items():
            rows = table[(table["kind"] == kind) & (table["n_or_d"] == n)]
            total, wanted = rows["ngrams"].sum(), grassberger_entropy(*counted) * sample_size(*counted)
            same = total == sample_size(*counted) and abs(rows["ngrams"] @ rows["entropy_nats"] - wanted) < 1e-6 * total
            if not same or rows["book"].duplicated().any():
                what = f"kind {kind}, n or d = {n}"
                raise UserError(f"{path} is not of the same corpus as the counts beside it ({what}): {COUNT_AGAIN}")
    wide = table.pivot(index="book", columns=["kind", "n_or_d"], values=["ngrams", "entropy_nats"]).fillna(0.0)
    return wide["ngrams"], wide["entropy_nats"]


def _counted(path: Path, columns: list[str], kinds: Sequence[str], of: dict[str, str | None]) -> pd.DataFrame:
    """The rows of these kinds, numbers as such. of: the source and the tokenizer that they must have; None: any one."""
    floats = [name for name in columns if name not in ("source", "tokenizer", "kind", "book")]
    table = read_csv(path, columns, COUNT_AGAIN, floats)
    table = table[table["kind"].isin(kinds)]
    if table.empty:
        raise UserError(f"{path} has no rows of kind {', '.join(kinds)}: {COUNT_AGAIN}")
    for column, expected in of.items():
        found = {last_part(name): name for name in table[column].unique()}
        if len(found) > 1 or (expected is not None and last_part(expected) not in found):
            wanted = f", not {expected}" if expected is not None else ""
            raise UserError(f"{path} is of {column} {' and '.join(found.values())}{wanted}: {COUNT_AGAIN}")
    return table


def last_part(name: str) -> str:
    """The name of a model, tokenizer or file without the folders or the owner in front."""
    return name.rstrip("/").rsplit("/", 1)[-1]
