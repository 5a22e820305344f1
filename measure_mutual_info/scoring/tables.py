"""What score_documents.py and count_ngrams.py wrote, read back and checked before anything is computed from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from common.cli import UserError
from common.documents import REPEAT_TOKENS
from common.record import numbers, read_csv
from measure_mutual_info.counting.entropy import grassberger_entropy, sample_size

LOGQ = ["logq_y_given_x_nats", "logq_y_nats", "logq_y_first2_nats", "logq_y_given_other_x_nats"]
OWN = LOGQ[:3]  # the same for the same text, whatever its x_donor
KEY = ["document", "ell_tokens", "L_tokens"]
SCORES = ["document", "book", "ell_tokens", "L_tokens", *LOGQ, "x_donor"]
COUNTS = ["source", "tokenizer", "kind", "n_or_d", "occurrences", "types"]
BOOK_COUNTS = ["source", "tokenizer", "kind", "n_or_d", "book", "ngrams", "entropy_nats"]
SCORE_AGAIN = "score the documents again with score_documents.py"
COUNT_AGAIN = "run count_ngrams.py on the documents that were scored"


def read_scores(path: Path) -> tuple[pd.DataFrame, str]:
    """The rows of the documents whose every score is finite, and a line that says which documents are left out.

    A document that repeats another, score by score to 0.005 nats, is left out as well: it would count as one more and
    is none. UserError: no such file, columns missing, no rows, not numbers, ell >= L, rows twice, a document in two
    books or only in part there, or fewer than two documents left.
    """
    scores = _rows(path, SCORES, SCORE_AGAIN)
    for column in ["ell_tokens", "L_tokens", *LOGQ]:
        scores[column] = numbers(scores[column], path, SCORE_AGAIN)
    ell, L = scores["ell_tokens"], scores["L_tokens"]
    whole = np.isfinite(ell) & np.isfinite(L) & (ell % 1 == 0) & (L % 1 == 0)
    for bad, why in (((~whole), "no whole ell and L"), ((ell < 1) | (ell >= L), "not 1 <= ell < L")):
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise UserError(
                f"{path}, line {row + 2}: {why} (ell_tokens {ell[row]:g}, L_tokens {L[row]:g}): {SCORE_AGAIN}"
            )
    scores = scores.astype({"ell_tokens": int, "L_tokens": int})

    twice = scores.duplicated(KEY)
    if twice.any():
        document, ell, L = scores.loc[twice, KEY].iloc[0]
        raise UserError(
            f"{path} has document {document}, ell {ell}, L {L} more than once ({twice.sum()} such rows): "
            "keep one set of scores in a file"
        )
    books = scores.groupby("document", sort=False)["book"].nunique()
    if (books > 1).any():
        raise UserError(
            f"{path} has document {books.idxmax()} in {books.max()} books: keep one set of scores in a file"
        )
    grid = len(scores.drop_duplicates(["ell_tokens", "L_tokens"]))
    rows = scores.groupby("document", sort=False).size()
    if (rows < grid).any():
        document = rows.index[rows < grid][0]
        raise UserError(
            f"{path} has {rows[document]} of {grid} (ell, L) for document {document} ({(rows < grid).sum()} documents "
            "are incomplete): run the same score_documents.py command again, it goes on where it stopped"
        )

    empty = scores[LOGQ].isna().any(axis=1).groupby(scores["document"], sort=False).any()
    infinite = np.isinf(scores[LOGQ]).any(axis=1).groupby(scores["document"], sort=False).any()
    bad, line = empty | infinite, f"{len(empty)} documents"
    if bad.any():
        line += (
            f", {bad.sum()} of them left out ({empty.sum()} without scores, {(infinite & ~empty).sum()} with an "
            f"infinite one; the first: {bad.index[bad][0]})"
        )
    if scores["L_tokens"].max() >= REPEAT_TOKENS:
        own = scores[~scores["document"].map(bad)].pivot(index="document", columns=KEY[1:], values=OWN)
        # Rounded: the same text in another batch of the same model differs in the last digits.
        repeats = own.loc[[document for document in bad.index if not bad[document]]].round(2).duplicated()
        if repeats.any():
            line += f", {repeats.sum()} left out that repeat another score by score (the first: {repeats.idxmax()})"
            bad |= repeats.reindex(bad.index, fill_value=False)
    if (~bad).sum() < 2:
        raise UserError(f"{path}: {line}; at least two with scores are needed: {SCORE_AGAIN}")
    return scores[~scores["document"].map(bad)].reset_index(drop=True), line


def read_provenance(scores: Path) -> dict:
    """The record beside scores.csv; empty where there is none. UserError: it is not one, `settings` included."""
    path = scores.with_suffix(".json")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not isinstance(found.get("settings", {}), dict):
            raise ValueError("no object with settings")
        return found
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{path} is not the record of a run ({error}): restore it, or remove it") from error


def read_first2_entropy(path: Path, source: str | None, tokenizer: str | None) -> tuple[float, str]:
    """Grassberger's 2-gram entropy in nats from counts.csv, and a line that says how far to trust it.

    The share of 2-grams seen only once is about the chance that the next one is new (Good and Turing): where it is not
    small, as in a few books, the entropy is still well below the truth.

    source, tokenizer: of the scores, as far as known; the counts must be of the same (tokenizers are compared by the
    last part of their names, which is all that a record keeps of a local path). UserError: they are not; no such file;
    columns missing; no 2-grams; not counts.
    """
    bigrams = _bigrams(path, COUNTS, source, tokenizer)
    counts = bigrams[["occurrences", "types"]]
    if bigrams.duplicated("occurrences").any() or not ((counts >= 1) & (counts % 1 == 0)).all(axis=None):
        raise UserError(f"{path} holds no counts of counts of one corpus's 2-grams: {COUNT_AGAIN}")
    occurrences, types = (bigrams[column].to_numpy(np.int64) for column in ("occurrences", "types"))
    entropy, total = grassberger_entropy(occurrences, types), sample_size(occurrences, types)
    once = types[occurrences == 1].sum() / total
    return entropy, f"2-gram entropy {entropy:.3f} nats from {total:,} 2-grams, {once:.1%} of them seen only once"


def read_first2_by_book(counts: Path, entropy_nats: float) -> pd.DataFrame | None:
    """Each book's share of the 2-gram entropy: ngrams and entropy_nats by book; None where count_ngrams.py left none.

    It lies beside counts.csv as <name>_by_book.csv; the mean of entropy_nats weighted by ngrams is the 2-gram entropy.
    UserError: columns missing, not numbers, or shares of another corpus.
    """
    path = counts.with_name(f"{counts.stem}_by_book.csv")
    if not path.exists():
        return None
    shares = _bigrams(path, BOOK_COUNTS, None, None).set_index("book")[["ngrams", "entropy_nats"]]
    if shares.index.duplicated().any() or not ((shares["ngrams"] >= 1) & (shares["ngrams"] % 1 == 0)).all():
        raise UserError(f"{path} holds no shares of books, one row each, in one corpus's 2-grams: {COUNT_AGAIN}")
    if not abs(np.average(shares["entropy_nats"], weights=shares["ngrams"]) - entropy_nats) < 1e-6:
        raise UserError(f"{path} is not of the same corpus as {counts.name}: {COUNT_AGAIN}")
    return shares


def _bigrams(path: Path, columns: list[str], source: str | None, tokenizer: str | None) -> pd.DataFrame:
    counts = _rows(path, columns, COUNT_AGAIN)
    for column, expected in (("source", source), ("tokenizer", tokenizer)):
        found = counts[column].unique()
        if expected is not None and any(last_part(name) != last_part(expected) for name in found):
            raise UserError(
                f"{path} counts {column} {', '.join(found)} but the scores are of {column} {expected}: {COUNT_AGAIN}"
            )
    for column in [name for name in columns if name not in ("source", "tokenizer", "kind", "book")]:
        counts[column] = numbers(counts[column], path, COUNT_AGAIN)
    bigrams = counts[(counts["kind"] == "ngram") & (counts["n_or_d"] == 2)]
    if bigrams.empty:
        raise UserError(f"{path} has no 2-grams (kind ngram, n_or_d 2): run count_ngrams.py with --n 1 2")
    return bigrams


def _rows(path: Path, columns: list[str], remedy: str) -> pd.DataFrame:
    table = read_csv(path, columns, remedy)
    if table.empty:
        raise UserError(f"{path} has no rows: the program that writes it found nothing or was stopped: {remedy}")
    return table


def last_part(name: str) -> str:
    """The name of a model, tokenizer or file without the folders or the owner in front."""
    return name.rstrip("/").rsplit("/", 1)[-1]
