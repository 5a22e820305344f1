r"""How many documents a wanted 95% interval of β needs, and what they cost, from the scores of a pilot.

    python measure_mutual_info/plan_documents.py --scores results/fig2b/scores.csv --half-width 0.02 \
        --out results/fig2b/plan.csv

Reads a pilot's scores.csv (score_documents.py); 100 documents give the number needed to a factor of about 1.5. Writes
plan.csv, a row for each estimator and range of lengths: documents for the wanted half-width of β, the model tokens that
they take if scored to the range's L_max at this L/ell only, and hours at the pilot's speed. Ranges differ in more than
cost: if the points follow no power law, each range has its own β.

With ν = n − 1 and q = p − 2 for p lengths, the interval that n documents give (`fit_law`) has the half-width

    h(n) = t(ν − q) · √( V/n · (1 + (q + n·δ²)/(ν − q − 1)) )

on average. V/n is the variance of β if the covariance were known. n·δ² is how far χ² exceeds its expectation if the
points follow no power law. `spread_of_beta` estimates V and δ² from the pilot. Documents of one book resemble each
other: with at least 8 books in the pilot, h grows by the root of the design effect, for as many documents per book as
in the pilot. (The design effect is known to a third from 12 books and to a sixth from 40, which the interval of n does
not include.) With fewer books it is taken as 1.

Hardware: one CPU core, seconds. Expect from the 126 committed documents, L = 4 to 2048: direct to ±0.02 needs 217,
vclub 162.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from scipy.special import ndtri, stdtrit
from tqdm import tqdm

from common.cli import UserError, run
from common.powerlaw import MIN_POINTS, NoFitError, covariance_of_mean, fit_law
from common.record import write_csv
from measure_mutual_info.estimate_bipartite import at_ratio, per_document_terms
from measure_mutual_info.scoring import passes
from measure_mutual_info.scoring.tables import last_part, read_provenance, read_scores

MIN_BOOKS = 8  # fewer tell nothing about how books differ
COLUMNS = ["source", "model", "estimator", "L_over_ell", "L_min", "L_max", "n_documents_pilot", "beta_pilot"]
COLUMNS += ["half_width_pilot", "half_width_wanted", "n_documents", "n_documents_lo95", "n_documents_hi95"]
COLUMNS += ["design_effect", "n_books", "tokens_a_document", "tokens_total", "hours"]


@dataclass(frozen=True)
class Settings:
    scores: Path
    """scores.csv of the pilot"""
    out: Path
    """the CSV to write"""
    half_width: float = 0.02
    """wanted half-width of the 95% interval of β"""
    ratio: float = 2
    """L/ell of the points that are fitted. Paper: 2 (Fig. 2b)"""
    estimators: tuple[Literal["direct", "vclub"], ...] = ("direct", "vclub")
    """which to plan for"""
    L_fit_min: tuple[int, ...] = (0, 16, 64)
    """not in the paper: tokens; fits may begin at the first length of the pilot from each of these on"""
    least_L_max: int = 256
    """not in the paper: tokens; fits may end at each length from here on, or else at the last one"""
    resamplings: int = 200
    """of the pilot's documents, for the uncertainty of the plan"""
    seed: int = 0
    """of the resamplings"""

    def validate(self) -> None:
        if self.half_width < 1e-4:
            raise UserError(f"--half-width {self.half_width:g}: give a half-width of at least 0.0001, such as 0.02")
        if self.out.suffix != ".csv":
            raise UserError(f"--out {self.out}: give the name of a .csv file")
        if not self.estimators or not self.L_fit_min:
            raise UserError("--estimators and --L-fit-min: give at least one each")
        if self.resamplings < 2:
            raise UserError(f"--resamplings {self.resamplings}: give at least 2")


def spread_of_beta(L: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """(V, δ²): the variance of β times documents, were the covariance known, and what each adds to χ² by misfit.

    L: (p,). values: (documents, p) terms of the pilot, nats. With its own covariance, not shrunk, the variance of least
    squares comes out (ν − q)/ν times too small on average, and χ² of a true power law averages νq/(ν − q − 1)
    (Hotelling); both are mended, so V and δ² are unbiased for normal data, but for the cut at δ² >= 0. Here
    ν = documents − 1 and q = p − 2.
    NoFitError: no fit with an interval, or fewer than p + 1 documents.
    """
    documents, p = values.shape
    nu, q = documents - 1, p - 2
    if documents < p + 1:
        raise NoFitError(f"{documents} documents are too few for the covariance of {p} lengths, {p + 1} are needed")
    fit = fit_law("power", L, values.mean(axis=0), np.cov(values.T) / documents)
    _, low, high = fit.parameters["beta"]
    if not low < high:
        raise NoFitError(f"the {p} points leave beta open")
    variance = documents * ((high - low) / 2 / ndtri(0.975)) ** 2 * nu / (nu - q)
    misfit = (fit.chi2 * (nu - q - 1) / nu - q) / documents
    return variance, max(0.0, misfit)


def half_width(n: int, variance: float, misfit: float, p: int) -> float:
    """h(n) of the module's docstring for n >= p + 1 independent documents; p lengths."""
    nu, q = n - 1, p - 2
    return stdtrit(nu - q, 0.975) * math.sqrt(variance / n * (1 + (q + n * misfit) / (nu - q - 1)))


def documents_needed(wanted: float, variance: float, misfit: float, p: int) -> int:
    """The smallest n with half_width(n) <= wanted; it falls with n."""
    low = high = p + 1
    while half_width(high, variance, misfit, p) > wanted:
        low, high = high + 1, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if half_width(middle, variance, misfit, p) > wanted else (low, middle)
    return low


def plan(L: np.ndarray, values: np.ndarray, wanted: float) -> int:
    """Documents for the wanted half-width of β, all independent. Arguments and errors as `spread_of_beta`."""
    return documents_needed(wanted, *spread_of_beta(L, values), len(L))


def spread_of_plan(
    L: np.ndarray, values: np.ndarray, wanted: float, resamplings: int, rng: np.random.Generator
) -> float:
    """Standard deviation of log n over resampled pilots; NaN where fewer than half of them allow a plan."""
    found = []
    for _ in range(resamplings):
        try:
            found.append(plan(L, values[rng.integers(len(values), size=len(values))], wanted))
        except NoFitError:
            continue
    return float(np.log(found).std(ddof=1)) if len(found) >= max(2, resamplings / 2) else math.nan


def design_effect(L: np.ndarray, values: np.ndarray, books: np.ndarray) -> float:
    """Variance of β from whole books over that from single documents, at least 1; NaN for fewer than 8 books.

    books: (documents,); the others as `spread_of_beta`. What a document does to β is how β moves when it is left out,
    its part in the covariance included; those of a book add up, and their sums are squared in place of themselves.
    """
    names, book = np.unique(books, return_inverse=True)
    n, B = len(values), len(names)
    if B < MIN_BOOKS:
        return math.nan
    left_out = np.empty(n)
    for i in range(n):
        others = np.delete(values, i, axis=0)
        fit = fit_law("power", L, others.mean(axis=0), np.cov(others.T) / (n - 1))
        left_out[i] = fit.parameters["beta"][0]
    influence = left_out - left_out.mean()
    of_books = B / (B - 1) * np.sum(np.bincount(book, influence) ** 2)
    return max(1.0, float(of_books / (n / (n - 1) * np.sum(influence**2))))


def plan_row(L: np.ndarray, values: np.ndarray, books: np.ndarray, cfg: Settings) -> dict[str, float]:
    """A row of plan.csv but for its names and costs. Arguments as `design_effect`; NoFitError: no plan."""
    covariance, shrinkage = covariance_of_mean(values)
    fit = fit_law("power", L, values.mean(axis=0), covariance, len(values), shrinkage)
    beta, low, high = fit.parameters["beta"]
    effect = design_effect(L, values, books)
    widening = 1.0 if math.isnan(effect) else math.sqrt(effect)
    wanted = cfg.half_width / widening  # for as many documents that are independent
    n = plan(L, values, wanted)
    factor = math.exp(1.96 * spread_of_plan(L, values, wanted, cfg.resamplings, np.random.default_rng(cfg.seed)))
    n_books = math.nan if math.isnan(effect) else n / len(values) * len(np.unique(books))
    return {
        "L_over_ell": cfg.ratio,
        "L_min": int(L[0]),
        "L_max": int(L[-1]),
        "n_documents_pilot": len(values),
        "beta_pilot": beta,
        "half_width_pilot": (high - low) / 2 * widening,
        "half_width_wanted": cfg.half_width,
        "n_documents": n,
        "n_documents_lo95": math.floor(n / factor) if math.isfinite(factor) else math.nan,
        "n_documents_hi95": math.ceil(n * factor) if math.isfinite(factor) else math.nan,
        "design_effect": effect,
        "n_books": np.ceil(n_books),
    }


def windows(L: np.ndarray, L_min: tuple[int, ...], least_L_max: int) -> list[tuple[int, int]]:
    """The (first, last) lengths of the fits, at least three points each; L ascending."""
    firsts = {int(L[L >= first][0]) for first in L_min if (L >= first).any()}
    lasts = {int(last) for last in L if last >= least_L_max} or {int(L[-1])}
    found = [(first, last) for first in sorted(firsts) for last in sorted(lasts)]
    return [window for window in found if ((window[0] <= L) & (window[1] >= L)).sum() >= MIN_POINTS]


def seconds_a_token(provenance: dict, scores: pd.DataFrame) -> float:
    """Of the pilot's scoring, by its scores.json; NaN where that does not say."""
    points = list(scores[["ell_tokens", "L_tokens"]].drop_duplicates().itertuples(index=False, name=None))
    rows, seconds = provenance.get("rows"), provenance.get("scoring_seconds")
    if not all(isinstance(number, int | float) and number > 0 for number in (rows, seconds)):
        return math.nan
    return seconds / (rows / len(points) * passes.tokens_a_document(points))


def main(cfg: Settings) -> None:
    started = time.time()
    cfg.validate()
    scores, documents_line = read_scores(cfg.scores)
    provenance = read_provenance(cfg.scores)
    model = last_part(str(provenance.get("settings", {}).get("model", "")))
    terms = {estimator: per_document_terms(scores, estimator) for estimator in cfg.estimators}
    L_all, _ = at_ratio(terms[cfg.estimators[0]], cfg.ratio)
    if len(L_all) < MIN_POINTS:
        raise UserError(
            f"{cfg.scores} has {len(L_all)} lengths with L = {cfg.ratio:g} ell, and a fit needs {MIN_POINTS}: choose "
            "another --ratio, or score the pilot to a larger --L-max"
        )
    chosen = windows(L_all, cfg.L_fit_min, cfg.least_L_max)
    if not chosen:
        first = min(cfg.L_fit_min)
        raise UserError(
            f"--L-fit-min {first}: {cfg.scores} has fewer than {MIN_POINTS} lengths from there on: lower it"
        )
    book = scores.drop_duplicates("document").set_index("document")["book"][terms[cfg.estimators[0]].index].to_numpy()
    books = len(np.unique(book))
    print(f"pilot: {documents_line}; books: {books}")
    if books < MIN_BOOKS:
        print(
            f"fewer than {MIN_BOOKS} books: how alike the documents of one are cannot be known, and they are taken as "
            "independent; where they are not, more are needed"
        )

    seconds, rows, notes = seconds_a_token(provenance, scores), [], []
    for estimator, (L_min, L_max) in tqdm([(e, w) for e in terms for w in chosen], desc="planning", unit="fit"):
        L, values = at_ratio(terms[estimator], cfg.ratio, L_min, L_max)
        try:
            row = plan_row(L, values, book, cfg)
        except NoFitError as error:
            notes.append(f"{estimator}, L = {L_min} to {L_max}: {error}")
            continue
        scored = [(round(length / cfg.ratio), int(length)) for length in L_all if length <= L_max]
        tokens = passes.tokens_a_document(scored)
        total = tokens * row["n_documents"]
        row |= {"source": provenance.get("source", ""), "model": model, "estimator": estimator}
        row |= {"tokens_a_document": tokens, "tokens_total": total, "hours": total * seconds / 3600}
        rows.append(row)
    if not rows:
        raise UserError(f"{cfg.scores} allows no plan ({notes[0]}): score more documents, or with a stronger model")
    table = pd.DataFrame(rows, columns=COLUMNS)
    write_csv(cfg.out, table, cfg, inputs=[cfg.scores], started=started)
    _print_plan(table, notes)
    print(f"wrote {cfg.out}; to score so: score_documents.py --ratios {cfg.ratio:g} --L-max … --n-documents …")


def _print_plan(table: pd.DataFrame, notes: list[str]) -> None:
    heads = f"{'L':>14}{'beta':>8}{'pilot ±':>9}{'documents':>11}{'(95%)':>16}{'tokens':>16}{'hours':>9}"
    print(f"\n{'estimator':<10}{heads}")
    for row in table.itertuples():
        low, high = row.n_documents_lo95, row.n_documents_hi95
        between = "unknown" if math.isnan(low) else f"{low:.0f}–{high:.0f}"
        print(
            f"{row.estimator:<10}{f'{row.L_min}–{row.L_max}':>14}{row.beta_pilot:>8.3f}{row.half_width_pilot:>9.3f}"
            f"{row.n_documents:>11,}{between:>16}{row.tokens_total:>16,}{_hours(row.hours):>9}"
        )
    for note in notes:
        print(f"no plan for {note}")
    print()
    widest = table[table["L_min"] == table["L_min"].min()]
    for row in widest[widest["L_max"] == widest["L_max"].max()].itertuples():
        needs = [f"{row.n_documents:,} documents", f"{row.tokens_total:,} tokens"]
        if not math.isnan(row.n_books):
            needs[0] += f" of {row.n_books:,.0f} books (design effect {row.design_effect:.1f})"
        if not math.isnan(row.hours):
            needs.append(f"{_hours(row.hours)} hours at the pilot's speed")
        print(
            f"beta of {row.estimator} over L = {row.L_min} to {row.L_max} to ±{row.half_width_wanted:g}: "
            + ", ".join(needs)
        )


def _hours(hours: float) -> str:
    return "" if math.isnan(hours) else f"{hours:,.1f}" if hours >= 1 else f"{hours:.2g}"


if __name__ == "__main__":
    run(main, Settings, __doc__)
