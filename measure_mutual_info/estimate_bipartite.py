"""Bipartite mutual information I(ell; L) and its exponent β from the scores of documents (Figs. 2b, B.1, B.2, B.3).

    python measure_mutual_info/estimate_bipartite.py --scores results/fig2b/scores.csv \
        --counts results/fig2b/counts.csv --out results/fig2b

Reads scores.csv (score_documents.py) and, for the 2-gram correction, counts.csv (count_ngrams.py). Writes into the
folder --out bipartite.csv (I and its standard error for each estimator and each ell, L) and fit.csv (A and β of
I = A · L^β for each estimator and L/ell).

Estimators, in the terms q of the model, each a mean over documents:
    direct            log q(Y|X) − log q(Y), both of one document's Y (Eq. 6)
    direct_corrected  the same, with the entropy of Y's first two tokens taken in part from 2-gram counts (Eq. B.7)
    vclub             log q(Y|X) − log q(Y|X'), X' of another document (Eq. 7)
    direct_unpaired   (--unpaired) log q(Y|X) − log q(Y'), Y' of another document: the paper's own form of direct

Beside them the topic-switch cost, the mean of log q(Y) − log q(Y|X'): above 0 where a wrong beginning misleads the
model more than none.

Hardware: one CPU core, seconds. Expect for PG19 and Llama 3.1 405B (the paper): direct 2.27 · L^0.76,
vclub 3.26 · L^0.71.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from common.cli import UserError, run
from common.powerlaw import Fit, NoFitError, covariance_of_mean, fit_power, fit_power_ols
from common.record import write_csv
from measure_mutual_info.entropy import grassberger_entropy, sample_size

Estimator = Literal["direct", "direct_corrected", "vclub", "direct_unpaired"]
LOGQ = ["logq_y_given_x_nats", "logq_y_nats", "logq_y_head2_nats", "logq_y_given_other_x_nats"]
TEXT = ["document", "book", "other_document"]
KEY = ["document", "ell_tokens", "L_tokens"]
COUNT_COLUMNS = ["source", "tokenizer", "kind", "n_or_d", "occurrences", "types"]
FIT_COLUMNS = ["source", "model", "estimator", "L_over_ell", "law", "parameter", "value", "lo95", "hi95"]
FIT_COLUMNS += ["L_min", "L_max", "chi2", "dof", "aicc"]


@dataclass(frozen=True)
class Settings:
    scores: Path
    """scores.csv of score_documents.py"""
    out: Path
    """folder for bipartite.csv and fit.csv"""
    counts: Path | None = None
    """counts.csv of count_ngrams.py, of the same corpus and tokenizer; for direct_corrected"""
    estimators: tuple[Estimator, ...] = ()
    """which to compute; by default direct, vclub, and direct_corrected where --counts is given"""
    unpaired: bool = False
    """add direct_unpaired"""
    ngram_weight: float = 0.8
    """weight of the counted 2-gram entropy beside the model's own (App. B.IV: 4/5 and 1/5)"""
    source: str = ""
    """name of the corpus in the tables; by default from scores.json"""
    model: str = ""
    """name of the model in the tables; by default from scores.json"""


def per_document_terms(
    scores: pd.DataFrame,
    estimator: str,
    head2_entropy_nats: float | None = None,
    ngram_weight: float = 0.8,
) -> pd.DataFrame:
    """What each document adds to an estimator, in nats: its mean over documents is the estimate of I(ell; L).

    scores: the columns of scores.csv, finite, each document with the same (ell, L) (`read_scores` sees to both).
    Returns documents × (ell_tokens, L_tokens), ascending.

    direct (Eq. 6), vclub (Eq. 7) and topic_switch are differences of two columns. direct_corrected needs
    head2_entropy_nats, the counted 2-gram entropy Ĥ: Eq. B.7 puts (1−w)·(−E log q(head2)) + w·Ĥ in the place of
    −E log q(head2) within −E log q(Y), which adds w·(log q(head2) + Ĥ) to each document's direct term; the error of Ĥ
    itself is not in the documents' spread. direct_unpaired subtracts log q(Y) of `other_document`; a document whose
    partner has no scores is NaN there. Where the partners are a permutation of the documents its mean is that of
    direct, whatever the pairing: the spread of its terms is the error only of pairs drawn afresh.
    ValueError: unknown estimator.
    """
    given_x, alone, head2, given_other_x = (
        scores.pivot(index="document", columns=["ell_tokens", "L_tokens"], values=column).sort_index(axis=1)
        for column in LOGQ
    )
    partner = scores.drop_duplicates("document").set_index("document")["other_document"]
    match estimator:
        case "direct":
            return given_x - alone
        case "direct_corrected":
            if head2_entropy_nats is None:
                raise ValueError("direct_corrected needs head2_entropy_nats")
            return given_x - alone + ngram_weight * (head2 + head2_entropy_nats)
        case "vclub":
            return given_x - given_other_x
        case "topic_switch":
            return alone - given_other_x
        case "direct_unpaired":
            return given_x - alone.reindex(partner[given_x.index]).set_axis(given_x.index)
    raise ValueError(f"unknown estimator {estimator!r}")


def read_scores(path: Path) -> tuple[pd.DataFrame, str]:
    """The rows of the documents whose every score is finite, and a line that says which documents are left out.

    UserError: no such file, columns missing, not numbers, ell >= L, rows twice, documents that are only in part there,
    or fewer than two documents left.
    """
    scores = _read_table(path, ["document", "book", "ell_tokens", "L_tokens", *LOGQ, "other_document"], text=TEXT)
    remedy = "score the documents again with score_documents.py"
    for column in ["ell_tokens", "L_tokens", *LOGQ]:
        scores[column] = _numbers(scores[column], path)
    ell, L = scores["ell_tokens"], scores["L_tokens"]
    whole = np.isfinite(ell) & np.isfinite(L) & (ell % 1 == 0) & (L % 1 == 0)
    for bad, why in (((~whole), "no whole ell and L"), ((ell < 1) | (ell >= L), "not 1 <= ell < L")):
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise UserError(f"{path}, line {row + 2}: {why} (ell_tokens {ell[row]:g}, L_tokens {L[row]:g}): {remedy}")
    scores = scores.astype({"ell_tokens": int, "L_tokens": int})

    twice = scores.duplicated(KEY)
    if twice.any():
        document, ell, L = scores.loc[twice, KEY].iloc[0]
        raise UserError(
            f"{path} has document {document}, ell {ell}, L {L} more than once ({twice.sum()} such rows): "
            "keep one set of scores in a file"
        )
    grid = len(scores.drop_duplicates(["ell_tokens", "L_tokens"]))
    rows = scores.groupby("document", sort=False).size()
    if (rows < grid).any():
        document = rows.index[rows < grid][0]
        raise UserError(
            f"{path} has {rows[document]} of {grid} (ell, L) for document {document} ({(rows < grid).sum()} documents "
            "are incomplete): run the same score_documents.py command again, it goes on where it stopped"
        )

    empty = scores[LOGQ].isna().any(axis=1).groupby(scores["document"]).any()
    infinite = np.isinf(scores[LOGQ]).any(axis=1).groupby(scores["document"]).any()
    bad = empty | infinite
    line = f"{len(bad)} documents"
    if bad.any():
        line += (
            f", {bad.sum()} of them left out ({empty.sum()} without scores, {(infinite & ~empty).sum()} with an "
            f"infinite one; the first: {bad.index[bad][0]})"
        )
    if (~bad).sum() < 2:
        raise UserError(f"{path}: {line}; at least two with scores are needed: {remedy}")
    return scores[~scores["document"].map(bad)].reset_index(drop=True), line


def read_head2_entropy(path: Path, source: str | None, tokenizer: str | None) -> tuple[float, str]:
    """Grassberger's 2-gram entropy in nats from counts.csv, and a line that says how far to trust it.

    The share of 2-grams seen only once is about the chance that the next one is new (Good and Turing): where it is not
    small, as in a few books, the entropy is still well below the truth.

    source, tokenizer: of the scores, as far as known; the counts must be of the same (tokenizers are compared by the
    last part of their names, which is all that a record keeps of a local path). UserError: they are not; no such file;
    columns missing; no 2-grams; not counts.
    """
    counts = _read_table(path, COUNT_COLUMNS, text=["source", "tokenizer", "kind"])
    for column, expected in (("source", source), ("tokenizer", tokenizer)):
        found = counts[column].unique()
        if expected is not None and any(_last_part(name) != _last_part(expected) for name in found):
            raise UserError(
                f"{path} counts {column} {', '.join(found)} but the scores are of {column} {expected}: "
                "run count_ngrams.py on the documents that were scored"
            )
    for column in ("n_or_d", "occurrences", "types"):
        counts[column] = _numbers(counts[column], path)
    bigrams = counts[(counts["kind"] == "ngram") & (counts["n_or_d"] == 2)]
    if bigrams.empty:
        raise UserError(f"{path} has no 2-grams (kind ngram, n_or_d 2): run count_ngrams.py with --n 1 2")
    numbers = bigrams[["occurrences", "types"]]
    if bigrams.duplicated("occurrences").any() or not ((numbers >= 1) & (numbers % 1 == 0)).all(axis=None):
        raise UserError(f"{path} holds no counts of counts of one corpus's 2-grams: run count_ngrams.py again")
    occurrences, types = (bigrams[column].to_numpy(np.int64) for column in ("occurrences", "types"))
    entropy, total = grassberger_entropy(occurrences, types), sample_size(occurrences, types)
    once = types[occurrences == 1].sum() / total
    return entropy, f"2-gram entropy {entropy:.3f} nats from {total:,} 2-grams, {once:.1%} of them seen only once"


def estimate_table(terms: pd.DataFrame, topic_switch: pd.DataFrame) -> pd.DataFrame:
    """Rows of bipartite.csv from the terms of one estimator, documents × (ell, L): mean and standard error, nats."""
    topic_switch = topic_switch.loc[terms.index]
    return pd.DataFrame(
        {
            "mi_nats": terms.mean(),
            "stderr_nats": _standard_error(terms),
            "n_documents": len(terms),
            "topic_switch_nats": topic_switch.mean(),
            "topic_switch_stderr_nats": _standard_error(topic_switch),
        }
    ).reset_index()


def fit_ratio(terms: pd.DataFrame, ratio: float) -> tuple[list[Fit], list[str]]:
    """The fits over the points with L = ratio · ell, and a line for each that could not be made or left points out.

    terms: documents × (ell, L). The intervals take documents as independent, also those of one book.
    """
    terms = terms.loc[:, [L / ell == ratio for ell, L in terms.columns]]
    L = terms.columns.get_level_values("L_tokens").to_numpy()
    mi = terms.mean().to_numpy()
    covariance, shrinkage = covariance_of_mean(terms.to_numpy())
    fits, notes = [], []
    for law, fit in (
        ("power", lambda: fit_power(L, mi, covariance, n_documents=len(terms), shrinkage=shrinkage)),
        ("power_ols", lambda: fit_power_ols(L, mi)),
    ):
        try:
            fits.append(fit())
        except NoFitError as error:
            notes.append(f"no fit ({law}): {error}")
        else:
            if left_out := fits[-1].left_out:
                notes.append(f"fit ({law}) leaves out L = {', '.join(f'{x:g}' for x in left_out)}: too near 0")
    return fits, notes


def _read_table(path: Path, columns: list[str], text: list[str]) -> pd.DataFrame:
    try:
        # Every column as text first: a document may be called "NA" or "1e5", and a bad number gets its line named.
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError as error:
        raise UserError(f"no file {path}: check the name") from error
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(f"{path} is no CSV table ({str(error).strip().splitlines()[0]})") from error
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise UserError(f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}")
    if table.empty:
        raise UserError(f"{path} has no rows: the program that writes it found nothing or was stopped")
    return table[columns].astype({column: object for column in text})


def _numbers(column: pd.Series, path: Path) -> pd.Series:
    numbers = pd.to_numeric(column.str.strip(), errors="coerce").astype(float)
    bad = numbers.isna() & ~column.str.strip().str.lower().isin(["", "nan"])
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise UserError(f"{path}, line {row + 2}: {column.name} is {column.iloc[row]!r}, not a number")
    return numbers


def _read_provenance(scores: Path) -> dict:
    path = scores.with_suffix(".json")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no object")
        return found
    except FileNotFoundError:
        return {}
    except ValueError as error:
        remedy = "restore it, or remove it and give --source, --model"
        raise UserError(f"{path} is not the record of a run ({error}): {remedy}") from error


def _last_part(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1]


def _standard_error(terms: pd.DataFrame) -> pd.Series:
    return terms.std(ddof=1) / np.sqrt(len(terms))


def _ratios(terms: pd.DataFrame) -> list[float]:
    return sorted({L / ell for ell, L in terms.columns})


def _print_tables(bipartite: pd.DataFrame, fits: pd.DataFrame, ratio: float) -> None:
    shown = bipartite[bipartite["L_tokens"] == ratio * bipartite["ell_tokens"]]
    estimators = shown["estimator"].unique()
    cells = {
        name: [f"{mi:.3f} ± {error:.3f}" for mi, error in zip(rows["mi_nats"], rows["stderr_nats"], strict=True)]
        for name, rows in shown.groupby("estimator", sort=False)
    }
    first = shown[shown["estimator"] == estimators[0]]
    switch = zip(first["topic_switch_nats"], first["topic_switch_stderr_nats"], strict=True)
    cells["topic switch"] = [f"{mean:.3f} ± {error:.3f}" for mean, error in switch]
    print(f"\nI(ell; L) at L = {ratio:g} ell, nats, ± standard error over documents")
    print(f"{'ell':>6}{'L':>7}" + "".join(f"{name:>20}" for name in cells))
    for row, (ell, L) in enumerate(zip(first["ell_tokens"], first["L_tokens"], strict=True)):
        print(f"{ell:>6}{L:>7}" + "".join(f"{column[row]:>20}" for column in cells.values()))

    at_ratio = fits[(fits["L_over_ell"] == ratio) & (fits["parameter"] == "beta")]
    for name in estimators:
        for fit in at_ratio[at_ratio["estimator"] == name].itertuples():
            line = f"beta, {name}, {fit.law}, L = {fit.L_min:g} to {fit.L_max:g}: {fit.value:.3f}"
            if fit.law == "power":
                line += f"  (95%: {fit.lo95:.3f} to {fit.hi95:.3f}; chi2 {fit.chi2:.1f}, dof {fit.dof})"
            print(line)


def main(cfg: Settings) -> None:
    started = time.time()
    estimators = list(dict.fromkeys(cfg.estimators)) or ["direct", *["direct_corrected"] * bool(cfg.counts), "vclub"]
    if cfg.unpaired and "direct_unpaired" not in estimators:
        estimators.append("direct_unpaired")
    if "direct_corrected" in estimators and cfg.counts is None:
        raise UserError("direct_corrected needs the 2-gram counts: give --counts counts.csv (count_ngrams.py)")
    if not 0 <= cfg.ngram_weight <= 1:
        raise UserError(f"--ngram-weight {cfg.ngram_weight:g}: give a weight from 0 to 1")
    if cfg.out.exists() and not cfg.out.is_dir():
        raise UserError(f"--out {cfg.out} is a file: give a folder")
    scores, documents_line = read_scores(cfg.scores)
    provenance = _read_provenance(cfg.scores)
    source = cfg.source or provenance.get("source")
    model = cfg.model or _last_part(str(provenance.get("settings", {}).get("model", "")))
    if not source or not model:
        raise UserError(f"{cfg.scores.with_suffix('.json')} names no source or no model: give --source and --model")
    head2_entropy, entropy_line = None, ""
    if "direct_corrected" in estimators:
        head2_entropy, entropy_line = read_head2_entropy(
            cfg.counts, provenance.get("source"), provenance.get("tokenizer")
        )

    print(f"source {source}, model {model}, {documents_line}; books: {scores['book'].nunique()}")
    if entropy_line:
        print(f"{entropy_line}: the more, the further it is below the truth")
    topic_switch = per_document_terms(scores, "topic_switch")
    tables, fit_rows = [], []
    for estimator in estimators:
        terms = per_document_terms(scores, estimator, head2_entropy, cfg.ngram_weight)
        unpartnered = terms.isna().any(axis=1)
        if unpartnered.any():
            print(f"{estimator}: {unpartnered.sum()} documents left out whose partner has no scores")
            terms = terms[~unpartnered]
        if len(terms) < 2:
            raise UserError(f"{estimator}: {len(terms)} documents have a partner with scores, and two are needed")
        names = {"source": source, "model": model, "estimator": estimator}
        tables.append(estimate_table(terms, topic_switch).assign(**names))
        for ratio in _ratios(terms):
            fits, notes = fit_ratio(terms, ratio)
            fit_rows += [names | {"L_over_ell": ratio} | row for fit in fits for row in fit.rows()]
            for note in notes:
                print(f"{estimator}, L = {ratio:g} ell: {note}")

    bipartite = pd.concat(tables, ignore_index=True)
    values = [c for c in bipartite.columns if c not in names]
    bipartite = bipartite[[*names, *values]]
    fits = pd.DataFrame(fit_rows, columns=FIT_COLUMNS)
    inputs = [cfg.scores, *([cfg.counts] if head2_entropy is not None else [])]
    for name, table in (("bipartite", bipartite), ("fit", fits)):
        write_csv(cfg.out / f"{name}.csv", table, cfg, inputs, started, head2_entropy_nats=head2_entropy)
    ratios = _ratios(topic_switch)
    _print_tables(bipartite, fits, 2.0 if 2.0 in ratios else ratios[0])
    print(f"wrote {cfg.out / 'bipartite.csv'} and {cfg.out / 'fit.csv'}")


if __name__ == "__main__":
    run(main, Settings, __doc__)
