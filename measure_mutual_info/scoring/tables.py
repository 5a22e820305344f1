"""Read the tables that score_documents.py and count_ngrams.py wrote, and check them before use."""

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
OWN = LOGQ[:3]  # the scores that do not depend on the x_donor
START = "logq_start_nats"
BYTES = "y_bytes"  # empty for a model without a tokenizer
KEY = ["document", "ell_tokens", "L_tokens"]
SCORES = ["document", "book", "ell_tokens", "L_tokens", *LOGQ, START, BYTES, "x_donor"]
COUNTS = ["source", "tokenizer", "kind", "n_or_d", "occurrences", "types"]
BOOK_COUNTS = ["source", "tokenizer", "kind", "n_or_d", "book", "ngrams", "entropy_nats"]
SCORE_AGAIN = "score the documents again with score_documents.py"
COUNT_AGAIN = "count one corpus with count_ngrams.py, n-grams with --n 1 2, pairs with --d 1 2 4 …"


def read_scores(path: Path) -> tuple[pd.DataFrame, str]:
    """Read the rows of all documents with only finite scores, and a line that says which documents are left out.

    A document that repeats an earlier one adds no information and is also left out: their OWN scores agree when rounded
    to 0.01 nats (checked if the largest L is at least REPEAT_TOKENS). UserError: no such file, missing columns, not
    numbers, not 1 <= ell < L, duplicate rows, a document in two books or without some of the (ell, L), a
    log-probability above 0 (by more than rounding), or fewer than two documents left.
    """
    logq = [*LOGQ, START]
    scores = read_csv(path, SCORES, SCORE_AGAIN, [*logq, BYTES], KEY[1:])
    by_document, grid = scores.groupby("document", sort=False), len(scores.drop_duplicates(KEY[1:]))
    checks = {
        "not 1 <= ell < L": (scores["ell_tokens"] < 1) | (scores["ell_tokens"] >= scores["L_tokens"]),
        "a duplicate row": scores.duplicated(KEY),
        "a document in two books": by_document["book"].transform("nunique") > 1,
        "a document without some of the (ell, L)": by_document["L_tokens"].transform("size") < grid,
        "a log-probability above 0 (a loss?)": (scores[logq] > 1e-3).any(axis=1),
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
        # Rounded, because scores of the same text in different batches differ in the last digits.
        repeats = own.round(2).duplicated()
        if repeats.any():
            line += f", {repeats.sum()} left out with the same scores as another (the first: {repeats.idxmax()})"
            bad |= repeats.reindex(bad.index, fill_value=False)
    if (~bad).sum() < 2:
        raise UserError(f"{path}: {line}; at least two with scores are needed: {SCORE_AGAIN}")
    return scores[~scores["document"].map(bad)].reset_index(drop=True), line


def read_record(scores: Path) -> tuple[tuple[str, str], dict]:
    """Read the record beside scores.csv: (source, model), the model without leading folders, and the whole record.

    UserError: there is no record, or it names no source or no model.
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
    """Counts of counts of one corpus. by_kind[kind][n or d] is (occurrences, types), int64 (k,) each; n, d ascend."""

    by_kind: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]]
    source: str
    tokenizer: str


def read_counts(path: Path, kinds: Sequence[str], source: str | None = None, tokenizer: str | None = None) -> Counts:
    """Read the rows of counts.csv with these kinds; every kind must have the same values of n or d.

    source, tokenizer: what the counts must come from, if known. Only the last part of the name is compared, since a
    record keeps no more of a local path. UserError: the counts come from another source or tokenizer, or from several;
    no such file; missing columns, kinds or distances; values that are not counts.
    """
    table = _counted(path, COUNTS, kinds, {"source": source, "tokenizer": tokenizer})
    counts = table[["n_or_d", "occurrences", "types"]]
    bad = ~((counts >= 1) & (counts % 1 == 0)).all(axis=1) | table.duplicated(["kind", "n_or_d", "occurrences"])
    if bad.any():
        raise UserError(f"{path}, line {bad.idxmax() + 2}: not counts of counts, or a duplicate line: {COUNT_AGAIN}")
    by_kind: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]] = {kind: {} for kind in kinds}
    for (kind, n), rows in table.groupby(["kind", "n_or_d"]):
        by_kind[kind][int(n)] = tuple(rows[column].to_numpy(np.int64) for column in ("occurrences", "types"))
    if len({tuple(by_n) for by_n in by_kind.values()}) > 1:
        raise UserError(f"{path} does not have every n or d for every kind ({', '.join(kinds)}): {COUNT_AGAIN}")
    return Counts(by_kind, table["source"].iloc[0], table["tokenizer"].iloc[0])


def read_shares(path: Path, counts: Counts) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the number of n-grams or pairs in each book and their share of the entropy in nats: two tables, books ×
    (kind, n or d), 0 where a book has none.

    path: the file of the counts; the shares are beside it in <name>_by_book.csv. Their mean, weighted by the numbers of
    n-grams, is Grassberger's entropy. UserError: no such file, missing columns, not numbers, or shares of other counts.
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
    """The rows of these kinds, with numbers parsed. of: the required source and tokenizer; None: any, but only one."""
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
