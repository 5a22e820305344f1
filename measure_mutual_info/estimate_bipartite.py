r"""Bipartite mutual information I(ell; L) and its exponent β from the scores of documents (Figs. 2b, B.1, B.2, B.3).

    python measure_mutual_info/estimate_bipartite.py --scores results/fig2b/scores.csv \
        --counts results/fig2b/counts.csv --out results/fig2b

Reads scores.csv (score_documents.py) and, for the 2-gram correction, counts.csv and counts_by_book.csv
(count_ngrams.py). Writes to the folder --out, for each estimator and L/ell:
    bipartite.csv   I and its standard errors at each ell, L; for direct_corrected also what the correction adds
    books.csv       for each book: I by three estimators, and the loss of the continuations, nats per token and byte
    fit.csv         the parameters of each law of I(L) with intervals, goodness of fit, and the error of predicting I at
                    the largest L; `selected` marks the law with the lowest AIC
    sweep.csv       β of the power law in every window of lengths; two neighbouring lengths give the local slope
                    (both within --L-fit-min, --L-fit-max)
    summary.txt     a summary in two lines

Estimators (`per_document_terms`): direct (Eq. 6), direct_corrected (by counted 2-grams, Eq. B.7), vclub (Eq. 7),
block_entropy (not in the paper), and, with --unpaired, direct_unpaired, the variant in the authors' release.
context_mismatch_nats is above 0 if a wrong context is worse for the model than no context.

Documents of the same book are not independent. stderr_by_book_nats accounts for this. With at least MIN_BOOKS books, so
do all fits, p-values and the intervals lo95, hi95; with fewer, they treat documents as independent (column fit_units).
boot_lo95, boot_hi95 come from resampling whole books (documents of a single book), including their 2-gram entropy.

Hardware: one CPU core, half a minute. Expected for PG19 and Llama 3.1 405B, from the paper: direct 2.27 · L^0.76,
vclub 3.26 · L^0.71.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common import powerlaw
from common.cli import UserError, at_least, run
from common.powerlaw import GROWTH_LAWS, Fit, NoFitError, longest_accepted
from common.record import replace_text, write_csv
from measure_mutual_info.counting.entropy import grassberger_entropy, sample_size
from measure_mutual_info.scoring import tables

SUMMED_UP = ("direct", "vclub", "block_entropy")  # the estimators of summary.txt
MEMORISED = 0.6  # books.csv: a book whose loss is below this share of the median book's counts as memorised
MIN_BOOKS = 20  # with at least this many, the covariance over books is known well enough to weight ten lengths
NGRAM_WEIGHT = 0.8  # weight of the counted 2-gram entropy; the rest is the model's own (App. B.IV: 4/5 and 1/5)
FIT_COLUMNS = ["source", "model", "estimator", "L_over_ell", "law", "parameter", "value", "lo95", "hi95"]
FIT_COLUMNS += ["boot_lo95", "boot_hi95", "boot_clusters", "L_min", "L_max", "chi2", "dof", "p_value", "aic"]
FIT_COLUMNS += ["heldout_error", "scale", "selected", "fit_units"]
SWEEP_COLUMNS = ["source", "model", "estimator", "L_over_ell", "L_min", "L_max", "A", "beta", "lo95", "hi95"]
SWEEP_COLUMNS += ["chi2", "dof", "p_value", "scale", "fit_units"]


@dataclass(frozen=True)
class Settings:
    scores: Path  # scores.csv of score_documents.py
    out: Path  # folder for the CSVs and summary.txt
    counts: Path | None = None  # counts.csv of count_ngrams.py for the same corpus and tokenizer; adds direct_corrected
    unpaired: bool = False  # add direct_unpaired
    L_fit_min: int = 0  # tokens; fits and windows begin here. Paper: all lengths
    L_fit_max: int | None = None  # tokens; fits and windows end here; all lengths if not given
    bootstrap: int = 500  # not in the paper: resamplings of whole books; 0 for none
    seed: int = 0  # seed of the resamplings

    def validate(self) -> None:
        at_least(0, self, "L_fit_min", "bootstrap")
        at_least(self.L_fit_min, self, "L_fit_max")


def per_document_terms(scores: pd.DataFrame, estimator: str, first2_entropy_nats: float | None = None) -> pd.DataFrame:
    """Contribution of each document to an estimator in nats; the mean over documents is the estimate of I(ell; L).

    scores: as returned by `read_scores`. Returns documents × (ell_tokens, L_tokens), ascending.

    direct (Eq. 6), vclub (Eq. 7), context_mismatch and block_entropy are differences of two columns. block_entropy is
    log q(Y|X) minus log q of the first L − ell tokens given BOS. In a stationary source these tokens have the entropy
    of Y, so its mean is H(ell) + H(L − ell) − H(L), or 2 H(ell) − H(2 ell) at L = 2 ell. direct_corrected needs
    first2_entropy_nats, the counted 2-gram entropy Ĥ. Within −E log q(Y), Eq. B.7 replaces −E log q(first2) by
    (1−w)·(−E log q(first2)) + w·Ĥ, w = NGRAM_WEIGHT, which adds w·(log q(first2) + Ĥ) to each document's direct term.
    The spread over documents does not include the error of Ĥ. direct_unpaired subtracts log q(Y) of the document's
    `x_donor`; it is NaN if the x_donor has no scores. If the x_donors are a permutation of the documents, its mean
    equals that of direct whatever the pairing; the spread of its terms would be the error only for pairs drawn
    independently.
    """

    def of_documents(column: str) -> pd.DataFrame:
        return scores.pivot(index="document", columns=tables.KEY[1:], values=column).sort_index(axis=1)

    given_x, alone, first2, given_other_x = map(of_documents, tables.LOGQ)
    if estimator == "block_entropy":
        return given_x - of_documents(tables.START)
    if estimator == "direct_corrected":
        return given_x - alone + NGRAM_WEIGHT * (first2 + first2_entropy_nats)
    if estimator == "direct_unpaired":
        x_donor = scores.drop_duplicates("document").set_index("document")["x_donor"]
        return given_x - alone.reindex(x_donor[given_x.index]).set_axis(given_x.index)
    pairs = {"direct": (given_x, alone), "vclub": (given_x, given_other_x), "context_mismatch": (alone, given_other_x)}
    with_x, without = pairs[estimator]
    return with_x - without


def by_book(terms: pd.DataFrame, book: pd.Series) -> pd.DataFrame:
    """One row per book: the mean of the rows is that of all documents, and their spread treats books as independent.

    terms: documents × (ell, L); book: the book of each document. With B books and n documents, the row of a book is
    u = mean + (B/n) Σ (term − mean), summed over its documents. The standard error of mean u is the cluster-robust one.
    """
    mean, books = terms.mean(), book[terms.index]
    return mean + (terms - mean).groupby(books).sum() * books.nunique() / len(terms)


def fit_units(terms: pd.DataFrame, book: pd.Series) -> tuple[pd.DataFrame, str, np.ndarray, str]:
    """The rows that the fits treat as independent (`by_book` from MIN_BOOKS books on, else documents), and their name.

    Also returns the resampling unit of each row (its book, or its document if there is only one book), and its name.
    """
    books, documents = book[terms.index].nunique(), f"{len(terms)} documents"
    if books >= MIN_BOOKS:
        rows = by_book(terms, book)
        return rows, f"{books} books", rows.index.to_numpy(), f"{books} books"
    if books > 1:
        return terms, documents, book[terms.index].to_numpy(), f"{books} books"
    return terms, documents, terms.index.to_numpy(), documents


def estimate_table(terms: pd.DataFrame, context_mismatch: pd.DataFrame, book: pd.Series | None = None) -> pd.DataFrame:
    """Rows of bipartite.csv from the terms of one estimator, documents × (ell, L): mean and standard errors, nats.

    book: the book of each document. With None, or a single book, the errors by book are NaN.
    """
    context_mismatch = context_mismatch.loc[terms.index]
    several = book is not None and book[terms.index].nunique() > 1
    return pd.DataFrame(
        {
            "mi_nats": terms.mean(),
            "stderr_nats": terms.sem(),
            "stderr_by_book_nats": by_book(terms, book).sem() if several else math.nan,
            "n_documents": len(terms),
            "n_books": book[terms.index].nunique() if book is not None else len(terms),
            "context_mismatch_nats": context_mismatch.mean(),
            "context_mismatch_stderr_nats": context_mismatch.sem(),
        }
    ).reset_index()


def fit_ratio(
    terms: pd.DataFrame, ratio: float, L_min: float = 0, L_max: float = math.inf, laws: Sequence[str] = GROWTH_LAWS
) -> tuple[list[Fit], list[str]]:
    """Fits of `laws` and of the unweighted line to the points with L = ratio · ell, and why others failed.

    terms: documents, or books (`by_book`), × (ell, L). L_min, L_max: the range of L, inclusive. The intervals treat the
    rows as independent.
    """
    L, values = at_ratio(terms, ratio, L_min, L_max)
    fits, failed = [], {}
    for law in (*laws, "power_ols"):
        try:
            fits.append(fit_terms(law, L, values))
        except NoFitError as error:
            failed.setdefault(str(error), []).append(law)
    return fits, [f"no fit ({', '.join(laws)}): {reason}" for reason, laws in failed.items()]


def fit_terms(law: str, L: np.ndarray, values: np.ndarray) -> Fit:
    """Fit a law, or the line "power_ols", to the means of values, (documents or books, p). NoFitError as `fit_law`."""
    if law == "power_ols":
        return powerlaw.fit_power_ols(L, values.mean(axis=0))
    covariance, shrinkage = powerlaw.covariance_of_mean(values)
    return powerlaw.fit_law(law, L, values.mean(axis=0), covariance, len(values), shrinkage)


def bootstrap_power(
    L: np.ndarray,
    values: np.ndarray,
    units: np.ndarray,
    shift_nats: Callable[[np.ndarray], float],
    replications: int,
    seed: int,
) -> dict[tuple[str, str], tuple[float, float]]:
    """`bootstrap_intervals` of A and β from resampled books, for the weighted and the unweighted least-squares fit.

    L: (p,). values: (documents or books, p) terms in nats. units: the resampling unit of each row. shift_nats: maps how
    often each unit was drawn to what is added to every term. The unweighted line always uses the lengths whose mean is
    above 0 in `values`; a resampling with a mean <= 0 at one of them is left out. The books of X' are not resampled.
    """
    above = values.mean(axis=0) > 0

    def fits(rows: np.ndarray, drawn: np.ndarray) -> list[Fit]:
        again = values[rows] + shift_nats(drawn)
        if (again.mean(axis=0)[above] <= 0).any():
            raise NoFitError("a length of the line is at or below 0")
        return [fit_terms("power", L, again), fit_terms("power_ols", L[above], again[:, above])]

    return powerlaw.bootstrap_intervals(units, fits, replications, seed)


def fit_rows(
    here: dict[str, Any], fits: Sequence[Fit], intervals: dict[tuple[str, str], tuple[float, float]], clusters: str
) -> list[dict[str, Any]]:
    """Rows of fit.csv. here: columns common to all rows; clusters: what was resampled for the intervals."""
    compared = [fit for fit in fits if math.isfinite(fit.aic) and not fit.law.endswith("_wls")]
    rows, selected = [], min(compared, key=lambda fit: fit.aic).law if compared else None
    for row in (row for fit in fits for row in fit.rows()):
        low, high = intervals.get((row["law"], row["parameter"]), (math.nan, math.nan))
        boot = {"boot_lo95": low, "boot_hi95": high, "boot_clusters": clusters if low == low else ""}
        rows.append(here | row | boot | {"selected": row["law"] == selected})
    return rows


def sweep_rows(here: dict[str, Any], L: np.ndarray, values: np.ndarray, less_nats: float = 0.0) -> list[dict[str, Any]]:
    """Rows of sweep.csv: power laws fitted to the means of values, (n, p), minus `less_nats`, in every window of L."""
    covariance, shrinkage = powerlaw.covariance_of_mean(values)
    fits = powerlaw.sweep(L, values.mean(axis=0) - less_nats, covariance, len(values), shrinkage)
    power = [(fit.rows()[0], fit.parameters["A"][0], *fit.parameters["beta"]) for fit in fits]
    return [here | row | {"A": A, "beta": beta, "lo95": low, "hi95": high} for row, A, beta, low, high in power]


def at_ratio(
    terms: pd.DataFrame, ratio: float, L_min: float = 0, L_max: float = math.inf
) -> tuple[np.ndarray, np.ndarray]:
    """(L (p,), terms (documents, p)) of the columns with L = ratio · ell and L_min <= L <= L_max."""
    chosen = [L / ell == ratio and L_min <= L <= L_max for ell, L in terms.columns]
    return terms.columns.get_level_values("L_tokens").to_numpy()[chosen], terms.loc[:, chosen].to_numpy()


def _ratios(terms: pd.DataFrame) -> list[float]:
    return sorted({L / ell for ell, L in terms.columns})


def _entropy_shift(shares: pd.DataFrame, books: np.ndarray, entropy_nats: float) -> Callable[[np.ndarray], float]:
    """How resampling shifts the terms of direct_corrected: NGRAM_WEIGHT · (entropy of resampled books − entropy_nats).

    shares: ngrams and entropy_nats by book. Books that were counted but not scored are not resampled.
    """
    place = shares.index.get_indexer(books)

    def shift(drawn: np.ndarray) -> float:
        times = np.ones(len(shares))
        times[place] = drawn
        return NGRAM_WEIGHT * (np.average(shares["entropy_nats"], weights=times * shares["ngrams"]) - entropy_nats)

    return shift


def read_first2(path: Path, source: str | None, tokenizer: str | None) -> tuple[float, pd.DataFrame]:
    """Grassberger's 2-gram entropy in nats, and a table of ngrams and entropy_nats by book.

    Prints the share of 2-grams seen only once, which is about the probability that the next one is new (Good and
    Turing). If it is not small, as with only a few books, the entropy is well below the true one.
    UserError: no 2-grams, or as `read_counts`, `read_shares`.
    """
    counts = tables.read_counts(path, ["ngram"], source, tokenizer)
    if 2 not in counts.by_kind["ngram"]:
        raise UserError(f"{path} has no 2-grams (kind ngram, n_or_d 2): run count_ngrams.py with --n 1 2")
    occurrences, types = counts.by_kind["ngram"][2]
    entropy, total = grassberger_entropy(occurrences, types), sample_size(occurrences, types)
    once = types[occurrences == 1].sum() / total
    print(
        f"2-gram entropy {entropy:.3f} nats from {total:,} 2-grams, {once:.1%} of them seen only once; too low if many"
    )
    ngrams, entropies = tables.read_shares(path, counts)
    return entropy, pd.DataFrame({"ngrams": ngrams["ngram", 2], "entropy_nats": entropies["ngram", 2]})


def book_table(scores: pd.DataFrame, ratio: float) -> pd.DataFrame:
    """Rows of books.csv: for each book, the loss of Y given X and I by SUMMED_UP, at the longest L = ratio · ell.

    memorised: the loss per token is below MEMORISED times that of the median book.
    """
    rows = scores[scores["L_tokens"] == ratio * scores["ell_tokens"]]
    rows = rows[rows["L_tokens"] == rows["L_tokens"].max()].set_index("document")
    of_book, loss = rows.groupby("book"), -rows[tables.LOGQ[0]].groupby(rows["book"]).sum()
    tokens = (rows["L_tokens"] - rows["ell_tokens"]).groupby(rows["book"]).sum()
    found = {"n_documents": of_book.size(), "L_tokens": of_book["L_tokens"].first()}
    found |= {"loss_nats_per_token": loss / tokens, "memorised": loss / tokens < MEMORISED * (loss / tokens).median()}
    found["loss_nats_per_byte"] = loss / of_book[tables.BYTES].sum(min_count=1)
    for name in SUMMED_UP:
        terms = per_document_terms(rows.reset_index(), name).iloc[:, 0]
        found[f"mi_{name}_nats"] = terms.groupby(rows["book"]).mean()
    return pd.DataFrame(found).reset_index()


def headline(bipartite: pd.DataFrame, windows: pd.DataFrame, ratio: float) -> list[str]:
    """Two lines: I at the largest L with L = ratio · ell, and β where a power law is accepted (`longest_accepted`)."""
    shown = bipartite[bipartite["L_tokens"] / bipartite["ell_tokens"] == ratio]
    last = shown[(shown["L_tokens"] == shown["L_tokens"].max()) & shown["estimator"].isin(SUMMED_UP)]
    last = last.assign(error=last["stderr_by_book_nats"].fillna(last["stderr_nats"]))
    found = []
    for row in last.itertuples():
        digits = 1 if not row.error > 0 else max(1, 1 - math.floor(math.log10(row.error)))  # two of the error
        found.append(f"{row.mi_nats:.{digits}f} ± {row.error:.{digits}f} ({row.estimator})")
    betas = []
    for name in SUMMED_UP:
        best = longest_accepted(windows[(windows["estimator"] == name) & (windows["L_over_ell"] == ratio)])
        if best is not None:
            interval = f"{best['beta']:.2f} [{best['lo95']:.2f}, {best['hi95']:.2f}]"
            betas.append(f"{interval} ({name}, L = {best['L_min']} to {best['L_max']}, p = {best['p_value']:.2f})")
    return [
        f"I(L/{ratio:g}; L) at L = {shown['L_tokens'].max()}: {', '.join(found)} nats, ± standard error",
        f"beta of I ~ L^beta where it is not rejected: {', '.join(betas) or 'nowhere'}, 95% interval by "
        f"{'books' if windows['fit_units'].str.endswith('books').any() else 'documents (too short for few books)'}",
    ]


def main(cfg: Settings) -> None:
    scores, documents_line = tables.read_scores(cfg.scores)
    L = scores["L_tokens"]
    if not L.between(cfg.L_fit_min, math.inf if cfg.L_fit_max is None else cfg.L_fit_max).any():
        raise UserError(
            f"--L-fit-min, --L-fit-max: none of the L of {cfg.scores} ({L.min()} to {L.max()}) is between them"
        )
    estimators = ["direct", *["direct_corrected"] * bool(cfg.counts), "vclub", "block_entropy"]
    estimators += ["direct_unpaired"] * cfg.unpaired
    (source, model), record = tables.read_record(cfg.scores)
    first2_entropy, shares, inputs = None, None, [cfg.scores]
    book = scores.drop_duplicates("document").set_index("document")["book"]
    start = record.get("start_token", "unknown")
    print(f"source {source}, model {model}, {documents_line}; books: {book.nunique()}; start token (BOS): {start}")
    if cfg.counts:
        first2_entropy, shares = read_first2(cfg.counts, source, record.get("tokenizer"))
        inputs += [cfg.counts, cfg.counts.with_name(f"{cfg.counts.stem}_by_book.csv")]
    if book.nunique() == 1:
        print("one book: the resampling is over its documents, and says nothing about other books")

    direct, context_mismatch = (per_document_terms(scores, name) for name in ("direct", "context_mismatch"))
    estimates, fit_table, sweep_table = [], [], []
    for estimator in estimators:
        terms = per_document_terms(scores, estimator, first2_entropy)
        without_donor = terms.isna().any(axis=1)
        if without_donor.any():
            print(f"{estimator}: {without_donor.sum()} documents left out, because the document of X' has no scores")
            terms = terms[~without_donor]
        if len(terms) < 2:
            raise UserError(f"{estimator}: {len(terms)} documents are left, and two are needed: {tables.SCORE_AGAIN}")
        fitted, of_units, units, boot_clusters = fit_units(terms, book)
        corrected, shift = estimator == "direct_corrected", lambda drawn: 0.0
        if corrected and np.isin(units, shares.index).all():
            shift = _entropy_shift(shares, np.unique(units), first2_entropy)
        elif corrected:
            print(f"{estimator}: no shares of these {boot_clusters}: resampling leaves the 2-gram entropy as it is")
        names = {"source": source, "model": model, "estimator": estimator}
        correction = terms - direct if corrected else terms * math.nan
        table = estimate_table(terms, context_mismatch, book).assign(**names)
        table["correction_nats"] = correction.mean().to_numpy()
        table["correction_stderr_nats"] = correction.sem().to_numpy()
        estimates.append(table)
        for ratio in _ratios(fitted):
            window = ratio, cfg.L_fit_min, math.inf if cfg.L_fit_max is None else cfg.L_fit_max
            here = names | {"L_over_ell": ratio, "fit_units": of_units}
            (fits, notes), boot = fit_ratio(fitted, *window), {}
            try:
                if cfg.bootstrap:
                    boot = bootstrap_power(*at_ratio(fitted, *window), units, shift, cfg.bootstrap, cfg.seed)
            except NoFitError as error:
                notes.append(f"no resampled interval: {error}")
            fit_table += fit_rows(here, fits, boot, boot_clusters)
            sweep_table += sweep_rows(here, *at_ratio(fitted, *window))
            for note in notes:
                print(f"{estimator}, L = {ratio:g} ell: {note}")

    bipartite = pd.concat(estimates, ignore_index=True)
    bipartite = bipartite[[*names, *[column for column in bipartite.columns if column not in names]]]
    fits = pd.DataFrame(fit_table, columns=FIT_COLUMNS)
    windows = pd.DataFrame(sweep_table, columns=SWEEP_COLUMNS)
    ratios = _ratios(direct)
    ratio = 2.0 if 2.0 in ratios else ratios[0]
    books = book_table(scores, ratio)
    books.insert(0, "source", source)
    books.insert(1, "model", model)
    for name, table in (("bipartite", bipartite), ("fit", fits), ("sweep", windows), ("books", books)):
        facts = {"first2_entropy_nats": first2_entropy, "ngram_weight": NGRAM_WEIGHT, "start_token": start}
        write_csv(cfg.out / f"{name}.csv", table, cfg, inputs, **facts)
    lines = headline(bipartite, windows, ratio)
    replace_text(cfg.out / "summary.txt", "\n".join(lines) + "\n")
    print(f"wrote bipartite.csv, fit.csv, sweep.csv, books.csv and summary.txt in {cfg.out}", *lines, sep="\n")


if __name__ == "__main__":
    run(main, Settings, __doc__)
