"""Two-point mutual information I(W_i; W_{i+d}) and its exponent α from the counts of a corpus (Figs. 2c, B.4, B.5).

    python measure_mutual_info/estimate_two_point.py --counts results/fig2c/counts.csv --out results/fig2c

Reads counts.csv and counts_by_book.csv (count_ngrams.py --d …). Writes to the folder --out:
    two_point.csv   Î(d) = Ĥ(left) + Ĥ(right) − Ĥ(pair) by each entropy estimator; for grassberger also Î − plateau, and
                    independent_nats: Î of as many independent pairs with the same counts of single tokens, which is the
                    bias of counting alone (drawn at random; empty for more than MOST_CELLS kinds of pairs)
    fit.csv         the parameters of each law of Î(d) with intervals, goodness of fit, and the error of predicting Î at
                    the largest d; `selected` marks the law with the lower AIC of the first two below
    ranges.csv      rows as in fit.csv, for power_plus_constant and paper_eq_b15 fitted from d_min to every later
                    distance (L_max): how α and C depend on where the fit ends
    sweep.csv       α of A d^−α fitted to Î minus the plateau (taken as known) in every window of distances; two
                    neighbouring distances give the local slope

Estimators: grassberger (Eq. B.5, the paper's), naive (Eq. B.4), miller_madow, chao_shen; all but the first get only the
unweighted fit. Laws, for d_min <= d <= d_max (in fit.csv, `model` is the tokenizer, L_min and L_max are distances):
    power_plus_constant       A d^−α + C by generalised least squares with the covariance over d
    constant                  C alone, fitted in the same way: tests whether anything decays at all
    power_plus_constant_wls   A d^−α + C weighted by the errors, without their correlations
    paper_eq_b15              the paper's least squares of log(Î − C) against log A − α log d (Eq. B.15), unweighted
Judge the laws by the first two. If p rejects both, quote the wls fit: generalised least squares then follows the small
differences between distances, and its curve can lie on one side of all points. mi_corrected_nats is Î − C, with C from
the fit that `plateau` chooses. C is equal for all d: the bias of counting, and what is shared at any distance because
texts differ in how often they use each token. p is empty where there are as many distances as books, or more.
Errors come from the rows of counts_by_book.csv: books, or documents of a single book.

Hardware: one CPU core, a minute. Expected for PG19 and the tokenizer of Llama 3.1, from the paper: 1.10 · d^−0.91.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from tqdm import tqdm

from common.cli import UserError, at_least, run
from common.powerlaw import ACCEPTED, MIN_POINTS, Fit, NoFitError, bootstrap_intervals, covariance_of_mean, fit_law
from common.record import write_csv
from measure_mutual_info import estimate_bipartite as bipartite
from measure_mutual_info.counting import entropy
from measure_mutual_info.scoring.tables import COUNT_AGAIN, Counts, last_part, read_counts, read_shares

ESTIMATORS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "grassberger": entropy.grassberger_entropy,
    "naive": entropy.naive_entropy,
    "miller_madow": entropy.miller_madow_entropy,
    "chao_shen": entropy.chao_shen_entropy,
}
KINDS = ("left", "right", "pair")
LAWS = ("power_plus_constant", "constant", "power_plus_constant_wls")
TWO_POINT_COLUMNS = ["source", "tokenizer", "estimator", "d_tokens", "mi_nats", "mi_corrected_nats", "stderr_nats"]
TWO_POINT_COLUMNS += ["n_pairs", "plateau_nats", "plateau_law", "independent_nats"]
FIT_COLUMNS = [column for column in bipartite.FIT_COLUMNS if column not in ("L_over_ell", "fit_units")]
SWEEP_COLUMNS = ["alpha" if name == "beta" else name for name in bipartite.SWEEP_COLUMNS if name != "L_over_ell"]
MOST_CELLS, DRAWS = 20_000_000, 5  # not in the paper: kinds of pairs, and draws, for independent_nats
LEAST_ALPHA = 0.02  # not in the paper: for a smaller α, A and C cannot be told apart, see fit_law


@dataclass(frozen=True)
class Settings:
    counts: Path  # counts.csv of count_ngrams.py, with counts_by_book.csv beside it
    out: Path  # folder for the CSVs
    d_min: int = 1  # tokens; the fits begin here
    d_max: int = 4096  # tokens; the fits end here. Paper: 4096 on PG19, 256 on Wikipedia
    bootstrap: int = 200  # not in the paper: resamplings of whole books; 0 for none
    seed: int = 0  # seed of the resamplings and of independent_nats

    def validate(self) -> None:
        at_least(1, self, "d_min")
        at_least(self.d_min, self, "d_max")
        at_least(0, self, "bootstrap")


def unit_values(pairs: np.ndarray, mi_nats: np.ndarray) -> np.ndarray:
    """Pseudo-values of Î per unit in nats, (B, p). Their mean is Î, and its error is that of Î to first order.

    pairs, mi_nats: (B, p), the number of pairs at each distance in each of B units, and the mean of the terms of Î over
    them (ignored where there are no pairs). Î is the mean over all pairs, a ratio of two sums over units. The
    pseudo-values are those of its delete-one jackknife, shifted to have mean Î. Unlike the linearised ratio, they
    account for the pull of a large unit on Î (coverage of 95% intervals with 21 books, one as large as the 20 others:
    0.93 instead of 0.89). The probabilities of tokens and pairs are not re-estimated: they come from all units.
    A distance at which one unit has all pairs is NaN. NoFitError: this is so at every distance.
    """
    total, B = pairs.sum(axis=0), len(pairs)
    alone = pairs.max(axis=0) == total
    if alone.all():
        raise NoFitError("an error needs two units that have pairs")
    sums = np.where(pairs > 0, pairs * mi_nats, 0.0)
    mi = sums.sum(axis=0) / total
    deviation = (B - 1) * (sums - pairs * mi) / np.where(alone, math.nan, total - pairs)
    return mi + deviation - deviation.mean(axis=0)


def read_pairs(path: Path) -> Counts:
    """Counts of counts of KINDS at each distance. UserError: as `read_counts`, or the totals of the KINDS differ."""
    counts = read_counts(path, KINDS)
    for d in counts.by_kind["pair"]:
        left, right, pairs = (entropy.sample_size(*counts.by_kind[kind][d]) for kind in KINDS)
        if not left == right == pairs:
            raise UserError(f"{path}: at d = {d} left, right and pair have different totals: {COUNT_AGAIN}")
    return counts


def read_information(path: Path, counts: Counts) -> tuple[np.ndarray, np.ndarray]:
    """Number of pairs and information of each unit, the arguments of `unit_values`, at the distances of `counts`.

    path: the counts.csv file. UserError: as `read_shares`.
    """
    pairs, entropies = read_shares(path, counts)
    d = list(counts.by_kind["pair"])
    left, right, both = (entropies[kind][d].to_numpy() for kind in KINDS)
    return pairs["pair"][d].to_numpy(), left + right - both


def mutual_information(
    counts: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]], estimator: str = "grassberger"
) -> np.ndarray:
    """Î(d) = Ĥ(left) + Ĥ(right) − Ĥ(pair) in nats, (p,), by one of ESTIMATORS; counts: `Counts.by_kind` of KINDS."""
    by_kind = {kind: np.array([ESTIMATORS[estimator](*by_d[d]) for d in sorted(by_d)]) for kind, by_d in counts.items()}
    return by_kind["left"] + by_kind["right"] - by_kind["pair"]


def independent_information(
    left: tuple[np.ndarray, np.ndarray], right: tuple[np.ndarray, np.ndarray], rng: np.random.Generator
) -> float:
    """Mean Î by Grassberger's estimator, in nats, of DRAWS tables of independent pairs, whose information is 0.

    left, right: counts of counts of the tokens on either side, of the same total N. A table has a Poisson count for
    each kind of pair, with mean n_i m_j / N, so about N pairs. NaN if there are more than MOST_CELLS kinds.
    """
    n, m = (np.repeat(*of).astype(float) for of in (left, right))
    if len(n) * len(m) > MOST_CELLS:
        return math.nan
    found = []
    for _ in range(DRAWS):
        table = rng.poisson(np.outer(n, m) / n.sum())
        counts = (np.unique(part[part > 0], return_counts=True) for part in (table.sum(1), table.sum(0), table))
        of_left, of_right, of_pairs = (entropy.grassberger_entropy(*of) for of in counts)
        found.append(of_left + of_right - of_pairs)
    return float(np.mean(found))


def fit_weighted(law: str, d: np.ndarray, values: np.ndarray) -> Fit:
    """Fit one of LAWS by generalised least squares, with the covariance over d estimated from the units.

    d: (p,) tokens, values: (units, p) from `unit_values`. Power laws have a parameter alpha = −β. For "…_wls", and for
    every law if there are too few units to estimate the covariance of p points (`covariance_is_known`), the weights are
    the variances alone; chi2, p and AIC treat errors at different d as independent, and lo95 and hi95 are NaN.
    NoFitError as `fit_law`.
    """
    mi, (covariance, shrinkage) = values.mean(axis=0), covariance_of_mean(values)
    name, known = law.removesuffix("_wls"), covariance_is_known(values) and not law.endswith("_wls")
    if not known:
        covariance, shrinkage = np.diag(np.diag(covariance)), 1.0
    fit, parameters = fit_law(name, d, mi, covariance, len(values), shrinkage), {}
    for parameter, (value, low, high) in fit.parameters.items():
        low, high = (low, high) if known else (math.nan, math.nan)
        parameters |= {"alpha": (-value, -high, -low)} if parameter == "beta" else {parameter: (value, low, high)}
    return replace(fit, law=law, parameters=parameters)


def covariance_is_known(values: np.ndarray) -> bool:
    """Whether values, (units, p), leave degrees of freedom if their covariance weights p points, see `fit_law`."""
    _, shrinkage = covariance_of_mean(values)
    return len(values) - 1 > (1 - shrinkage) * (values.shape[1] - 1)


def fit_eq_b15(d: np.ndarray, mi_nats: np.ndarray) -> Fit:
    """The paper's fit: least squares of log(Î − C) against log A − α log d, without weights (Eq. B.15).

    d, mi_nats: (p,). C is searched between 0 and the smallest Î: the plateau of the bias is positive, and without this
    lower bound the sum of squares falls to 0 as C → −∞, where log(Î − C) is flat for any points. C = 0 in the result
    means that the search ended at the bound. The fit has no intervals and no goodness of fit.
    NoFitError: fewer than three points, or a point at or below 0.
    """
    mi = np.asarray(mi_nats, dtype=float)
    if len(mi) < MIN_POINTS:
        raise NoFitError(f"{len(mi)} points, and {MIN_POINTS} are needed")
    if mi.min() <= 0:
        raise NoFitError(f"{(mi <= 0).sum()} of {len(mi)} points lie at or below 0, where Eq. B.15 has no logarithm")
    A, alpha, C = _solve_eq_b15(d, mi)
    heldout = math.nan
    if len(mi) > MIN_POINTS:
        A_before, alpha_before, C_before = _solve_eq_b15(d[:-1], mi[:-1])
        heldout = (A_before * float(d[-1]) ** -alpha_before + C_before) / mi[-1] - 1
    return Fit.unweighted("paper_eq_b15", {"A": A, "alpha": alpha, "C": C}, np.asarray(d), heldout)


def _solve_eq_b15(d: np.ndarray, mi: np.ndarray) -> tuple[float, float, float]:
    """(A, α, C). The line for a given C is exact; C = min Î · (1 − e^−s) is searched on a grid of s, then refined."""
    x = np.log(d) - np.log(d).mean()

    def lines(s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean of y, slope, and sum of squares for each s."""
        y = np.log(mi + mi.min() * np.expm1(-np.atleast_1d(s))[:, None])
        mean, slope = y.mean(axis=1), y @ x / (x @ x)
        return mean, slope, ((y - mean[:, None] - slope[:, None] * x) ** 2).sum(axis=1)

    grid = np.concatenate([[0.0], np.geomspace(1e-3, 30, 300)])
    best, s = int(np.argmin(lines(grid)[2])), 0.0
    if best > 0:
        edges = grid[best - 1], grid[min(best + 1, len(grid) - 1)]
        s = minimize_scalar(lambda s: lines(s)[2][0], bounds=edges, method="bounded", options={"xatol": 1e-9}).x
    (mean,), (slope,), _ = lines(s)
    return math.exp(mean - slope * np.log(d).mean()), float(-slope), float(-mi.min() * np.expm1(-s))


def fit_all(
    d: np.ndarray,
    mi_nats: np.ndarray,
    values: np.ndarray | None,
    replications: int,
    seed: int,
    laws: Sequence[str] = LAWS,
) -> tuple[list[Fit], dict[tuple[str, str], tuple[float, float]], list[str]]:
    """Fits of `laws` and of Eq. B.15, bootstrap intervals by (law, parameter), and why any of these are missing.

    d, mi_nats: (p,). values: (units, p) from `unit_values`; without them only Eq. B.15 is fitted, without intervals.
    """
    fits, intervals, failed = [], {}, {}
    weighted = {law: lambda some, law=law: fit_weighted(law, d, some) for law in laws if values is not None}
    unweighted = {"paper_eq_b15": lambda some: fit_eq_b15(d, some.mean(axis=0))}
    for law, fit in tqdm(
        (weighted | unweighted).items(), desc="laws", disable=not replications or values is None, leave=False
    ):
        try:
            fits.append(fit(values if values is not None else mi_nats[None]))
            if replications and values is not None:
                again = lambda rows, drawn, fit=fit: [fit(values[rows])]  # noqa: E731
                intervals |= bootstrap_intervals(np.arange(len(values)), again, replications, seed)
        except NoFitError as error:
            failed.setdefault(str(error), []).append(law)
    return fits, intervals, [f"{', '.join(laws)}: {reason}" for reason, laws in failed.items()]


def range_rows(here: dict, d: np.ndarray, mi_nats: np.ndarray, values: np.ndarray, cfg: Settings) -> list[dict]:
    """Rows of ranges.csv: the fits to the first 4, 5, … of the distances d, (p,). values: (units, p)."""
    rows = []
    for end in range(MIN_POINTS + 1, len(d) + 1):
        some = d[:end], mi_nats[:end], values[:, :end]
        fits, intervals, _ = fit_all(*some, cfg.bootstrap, cfg.seed, LAWS[:1])
        rows += bipartite.fit_rows(here, fits, intervals, f"{len(values)} units")
    return rows


def plateau(fits: list[Fit]) -> Fit | None:
    """The fit whose C is subtracted from Î; None if there is none.

    It is the constant if it is ACCEPTED or, where units are too few for a p-value, if its AIC is below that of
    power_plus_constant; else the first of power_plus_constant_wls and paper_eq_b15 with α >= LEAST_ALPHA; else
    the constant.
    """
    by_law = {fit.law: fit for fit in fits}
    constant, falling = by_law.get("constant"), by_law.get("power_plus_constant")
    if constant is not None:
        lower = math.isnan(constant.p_value) and falling is not None and constant.aic < falling.aic
        if lower or constant.p_value >= ACCEPTED:
            return constant
    for law in ("power_plus_constant_wls", "paper_eq_b15"):
        if law in by_law and by_law[law].parameters["alpha"][0] >= LEAST_ALPHA:  # a rising curve has its C at small d
            return by_law[law]
    return constant


def main(cfg: Settings) -> None:
    counts = read_pairs(cfg.counts)
    inputs, d = [cfg.counts], np.array(list(counts.by_kind["pair"]))
    inside = (cfg.d_min <= d) & (d <= cfg.d_max)
    if not inside.any():
        raise UserError(f"--d-min, --d-max: none of the d of {cfg.counts} ({d.min()} to {d.max()}) is between them")
    by_book = read_information(cfg.counts, counts)
    inputs.append(cfg.counts.with_name(f"{cfg.counts.stem}_by_book.csv"))
    values, error, unit = None, np.full(len(d), math.nan), f"{len(by_book[0])} units"
    try:
        values = unit_values(*by_book)
        error = values.std(axis=0, ddof=1) / math.sqrt(len(values))
        if np.isnan(error[inside]).any():
            print(f"left out of the fits, as one unit has all pairs: d = {d[inside & np.isnan(error)].tolist()}")
            inside &= ~np.isnan(error)
    except NoFitError as reason:
        print(f"no errors and no weights: {reason} ({unit})")
    names = {"source": counts.source, "tokenizer": last_part(counts.tokenizer)}
    print(f"source {names['source']}, tokenizer {names['tokenizer']}, {len(d)} distances, {unit}")

    n_pairs = [entropy.sample_size(*of) for of in counts.by_kind["pair"].values()]
    if values is not None and not covariance_is_known(values[:, inside]):
        few = f"{unit} are too few for the covariance of {inside.sum()} distances"
        print(f"{few}: chi2, p and AIC treat them as independent")
    tables, fit_table, sweep_table, range_table, corrected_by = [], [], [], [], None
    for estimator in ESTIMATORS:
        mi, main_one = mutual_information(counts.by_kind, estimator), estimator == "grassberger"
        these = values[:, inside] if main_one and values is not None else None
        fits, intervals, notes = fit_all(d[inside], mi[inside], these, cfg.bootstrap, cfg.seed)
        for note in notes:
            print(f"{estimator}, {note}")
        here = {"source": names["source"], "model": names["tokenizer"], "estimator": estimator}
        fit_table += bipartite.fit_rows(here, fits, intervals, unit)
        table = pd.DataFrame({"d_tokens": d, "mi_nats": mi}).assign(**names, estimator=estimator, n_pairs=n_pairs)
        if main_one:
            C, table["stderr_nats"], corrected_by = 0.0, error, plateau(fits)
            rng = np.random.default_rng(cfg.seed)
            sides = zip(counts.by_kind["left"].values(), counts.by_kind["right"].values(), strict=True)
            table["independent_nats"] = [independent_information(left, right, rng) for left, right in sides]
            if corrected_by is not None:
                C = corrected_by.parameters["C"][0]
                table = table.assign(mi_corrected_nats=mi - C, plateau_nats=C, plateau_law=corrected_by.law)
                print(f"plateau: C = {C:.5f} of {corrected_by.law}")
            if values is not None:
                known = ~np.isnan(error)
                sweep_table = bipartite.sweep_rows(here, d[known], values[:, known], C)
                far = known & (d >= cfg.d_min)
                range_table = range_rows(here, d[far], mi[far], values[:, far], cfg)
        tables.append(table)
    table = pd.concat(tables, ignore_index=True).reindex(columns=TWO_POINT_COLUMNS)
    fits, ranges = (pd.DataFrame(rows, columns=FIT_COLUMNS) for rows in (fit_table, range_table))
    windows = pd.DataFrame(sweep_table, columns=bipartite.SWEEP_COLUMNS)
    windows = windows.assign(alpha=-windows["beta"], lo95=-windows["hi95"], hi95=-windows["lo95"])[SWEEP_COLUMNS]
    for name, rows in (("two_point", table), ("fit", fits), ("sweep", windows), ("ranges", ranges)):
        plateau_of = corrected_by.law if corrected_by else None
        write_csv(cfg.out / f"{name}.csv", rows, cfg, inputs, plateau_of=plateau_of)
    shown = ["law", "parameter", "value", "boot_lo95", "boot_hi95", "chi2", "dof", "p_value", "selected"]
    shown = fits.loc[fits["estimator"] == "grassberger", shown]
    print(shown.to_string(index=False, float_format="{:.5g}".format))
    print(f"wrote two_point.csv, fit.csv, sweep.csv and ranges.csv in {cfg.out}")


if __name__ == "__main__":
    run(main, Settings, __doc__)
