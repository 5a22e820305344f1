"""Two-point mutual information I(W_i; W_{i+d}) and its exponent α from the counts of a corpus (Figs. 2c, B.4, B.5).

    python measure_mutual_info/estimate_two_point.py --counts results/fig2c/counts.csv --out results/fig2c

Reads counts.csv and counts_by_book.csv (count_ngrams.py --d …). Writes into the folder --out:
    two_point.csv   Î(d) = Ĥ(left) + Ĥ(right) − Ĥ(pair) by each estimator of entropy, and less the plateau
    fit.csv         the parameters of each law of Î(d), their intervals, goodness, and error of predicting the last Î;
                    `selected`: the law of the least AICc among the first five below
    sweep.csv       α of A d^−α in every window of distances, of Î less the plateau (taken as known); two
                    neighbouring distances give the local slope

Estimators: grassberger (Eq. B.5, the paper's), naive (Eq. B.4), miller_madow, chao_shen. There are far more kinds of
pairs than of tokens, so Ĥ(pair) is biased low more than Ĥ(left) and Ĥ(right), and Î(d) levels off on a plateau C above
the truth. The laws, for d_min <= d <= d_max; `model` in fit.csv is the tokenizer, L_min and L_max are distances:
    power_plus_constant       A d^−α + C by generalised least squares with the covariance over d
    power, exponential        A d^−α and A e^(−d/ξ), the same
    exponential_plus_constant A e^(−d/ξ) + C, the rival on equal terms
    constant                  C alone, the same: whether anything decays at all
    power_plus_constant_wls   A d^−α + C weighted by the errors alone, without their correlations
    paper_eq_b15   least squares of log(Î − C) against log A − α log d, the paper's (Eq. B.15)
Compare and judge laws by the first five. If p rejects all of them, quote the wls: generalised least squares then
follows the small differences between distances, and its curve can lie to one side of all points.

mi_corrected_nats is Î − C. C is that of `constant` if its p >= 0.05 says that no decay is seen (shuffled tokens),
otherwise that of power_plus_constant_wls, or of paper_eq_b15 if there are no weights, or of `constant` again if Î does
not fall. One C for all d is an approximation: the bias is larger with fewer pairs (count with --equal-pairs, or use
documents far longer than d_max) and with more kinds of pairs. calibration/two_point.py measures how much on known
processes.

Errors come from clusters, the rows of counts_by_book.csv: books (documents, if the corpus is a single book).
stderr_nats is the limit of a bootstrap over clusters; lo95 and hi95 use the covariance; boot_lo95 and boot_hi95 come
from fits to resampled clusters. All use Grassberger's estimator; the other estimators have the unweighted fit only. The
errors say how far Î is from its mean for counts of this size. The plateau says how far that mean is from the truth.

Hardware: one CPU core, half a minute. Expect for PG19 and the tokenizer of Llama 3.1 (the paper): 1.10 · d^−0.91.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from tqdm import tqdm

from common.cli import UserError, run
from common.powerlaw import (
    MIN_POINTS,
    Fit,
    NoFitError,
    bootstrap_errors,
    covariance_of_mean,
    fit_law,
    select_law,
    sweep,
)
from common.record import numbers, read_csv, write_csv
from measure_mutual_info.counting import entropy
from measure_mutual_info.estimate_bipartite import FIT_COLUMNS as BIPARTITE_FIT_COLUMNS
from measure_mutual_info.estimate_bipartite import SWEEP_COLUMNS as BIPARTITE_SWEEP_COLUMNS
from measure_mutual_info.scoring.tables import BOOK_COUNTS, COUNTS, last_part

ESTIMATORS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "grassberger": entropy.grassberger_entropy,
    "naive": entropy.naive_entropy,
    "miller_madow": entropy.miller_madow_entropy,
    "chao_shen": entropy.chao_shen_entropy,
}
KINDS = ("left", "right", "pair")
LAWS = ("power_plus_constant", "power", "exponential_plus_constant", "exponential", "constant")
LAWS += ("power_plus_constant_wls",)
LOGARITHMIC = ("A", "xi")  # parameters whose intervals are symmetric in the logarithm
TWO_POINT_COLUMNS = ["source", "tokenizer", "estimator", "d_tokens", "mi_nats", "mi_corrected_nats", "stderr_nats"]
TWO_POINT_COLUMNS += ["n_pairs", "plateau_nats", "plateau_law"]
FIT_COLUMNS = [column for column in BIPARTITE_FIT_COLUMNS if column != "L_over_ell"]
SWEEP_COLUMNS = ["alpha" if name == "beta" else name for name in BIPARTITE_SWEEP_COLUMNS if name != "L_over_ell"]
FLAT = 0.05  # not in the paper: p-value of the same Î at every d from which on no decay is seen
LEAST_ALPHA = 0.02  # not in the paper: of a power that falls more slowly A and C cannot be told apart, see fit_law
COUNT_AGAIN = "count one corpus with count_ngrams.py --d"


@dataclass(frozen=True)
class Settings:
    counts: Path
    """counts.csv of count_ngrams.py; the shares of the books lie beside it as counts_by_book.csv"""
    out: Path
    """folder for two_point.csv, fit.csv and sweep.csv"""
    d_min: int = 1
    """tokens; the fits begin here"""
    d_max: int = 4096
    """tokens; the fits end here. Paper: 4096 on PG19, 256 on Wikipedia"""
    bootstrap: int = 200
    """not in the paper: resamplings of whole books; 0 for none"""
    seed: int = 0
    """of the resamplings"""
    source: str = ""
    """name of the corpus in the tables; by default from counts.csv"""
    tokenizer: str = ""
    """name of the tokenizer in the tables; by default from counts.csv"""

    def validate(self) -> None:
        if not 1 <= self.d_min < self.d_max:
            raise UserError(f"--d-min {self.d_min} --d-max {self.d_max}: give distances d_min < d_max from 1 on")
        if self.bootstrap < 0 or self.bootstrap == 1:
            raise UserError(f"--bootstrap {self.bootstrap}: give 0 for none, or at least 2 resamplings")
        if self.out.exists() and not self.out.is_dir():
            raise UserError(f"--out {self.out} is a file: give a folder")


def unit_values(pairs: np.ndarray, mi_nats: np.ndarray) -> np.ndarray:
    """What each unit says about Î, in nats: (B, p), their mean is Î and the error of their mean is Î's, to first order.

    pairs, mi_nats: (B, p), how many pairs of each distance lie in each of B units, and the mean over them of the terms
    of Î (what they hold where there are none does not matter). Î is the mean over all pairs, a ratio of two sums over
    units. These are the pseudo-values of its delete-one jackknife, shifted to have the mean Î: unlike the ratio's
    linearisation they know that a large unit draws Î to itself (coverage of 95% intervals with 21 books, one as large
    as the 20 others: 0.93 instead of 0.89). The probabilities of tokens and pairs stay as all units give them.
    A distance at which one unit has all pairs is NaN. NoFitError: that is so at every distance.
    """
    total, B = pairs.sum(axis=0), len(pairs)
    alone = pairs.max(axis=0) == total
    if alone.all():
        raise NoFitError("an error needs two units that have pairs")
    sums = np.where(pairs > 0, pairs * mi_nats, 0.0)
    mi = sums.sum(axis=0) / total
    deviation = (B - 1) * (sums - pairs * mi) / np.where(alone, math.nan, total - pairs)
    return mi + deviation - deviation.mean(axis=0)


def read_counts(path: Path) -> tuple[dict[str, dict[int, tuple[np.ndarray, np.ndarray]]], str, str]:
    """Counts of counts by kind ("left", "right", "pair") and distance, (occurrences, types); source; tokenizer.

    Distances ascend. UserError: no such file; columns or kinds missing; no counts of counts of one corpus; marginals
    that are not those of the pairs.
    """
    table = read_csv(path, COUNTS, COUNT_AGAIN)
    columns = ["n_or_d", "occurrences", "types"]
    values = pd.concat([numbers(table[column], path, COUNT_AGAIN) for column in columns], axis=1)
    table = table[table["kind"].isin(KINDS)]
    if table.empty:
        raise UserError(f"{path} has no pairs (kinds {', '.join(KINDS)}): run count_ngrams.py with --d 1 2 4 …")
    for column in ("source", "tokenizer"):
        names = table[column].unique()
        if len(names) > 1:
            raise UserError(f"{path} mixes counts of {column} {' and '.join(names[:2])}: {COUNT_AGAIN}")
    values = values.loc[table.index]
    bad = ~((values >= 1) & (values % 1 == 0)).all(axis=1) | table.duplicated(["kind", "n_or_d", "occurrences"])
    if bad.any():
        raise UserError(f"{path}, line {bad.idxmax() + 2}: no counts of counts, or a line that repeats: {COUNT_AGAIN}")
    values = values.astype(np.int64).assign(kind=table["kind"])
    counts = {kind: {} for kind in KINDS}
    for (kind, d), rows in values.groupby(["kind", "n_or_d"]):
        counts[kind][int(d)] = rows["occurrences"].to_numpy(), rows["types"].to_numpy()
    for d in sorted({d for by_d in counts.values() for d in by_d}):
        missing = [kind for kind in KINDS if d not in counts[kind]]
        if missing:
            raise UserError(f"{path} has no rows of kind {' and '.join(missing)} for d = {d}: {COUNT_AGAIN}")
        left, right, pairs = (entropy.sample_size(*counts[kind][d]) for kind in KINDS)
        if not left == right == pairs:
            raise UserError(
                f"{path}: at d = {d} the pairs are {pairs:,}, their left tokens {left:,} and right tokens {right:,}, "
                f"which should be as many: {COUNT_AGAIN}"
            )
    return counts, table["source"].iloc[0], table["tokenizer"].iloc[0]


def read_shares(
    path: Path, counts: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]], source: str, tokenizer: str
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs and information of each unit as `unit_values` takes them, at the distances of `counts`, ascending.

    path: counts_by_book.csv; counts, source, tokenizer: from `read_counts`.
    UserError: no such file; columns missing; not numbers; shares that are not those of these counts.
    """
    table = read_csv(path, BOOK_COUNTS, COUNT_AGAIN)
    for column in ("n_or_d", "ngrams", "entropy_nats"):
        table[column] = numbers(table[column], path, COUNT_AGAIN)
    table = table[table["kind"].isin(KINDS)]
    other = f"{path} is not of the same corpus as the counts beside it"
    for column, name in (("source", source), ("tokenizer", tokenizer)):
        if (table[column] != name).any():
            raise UserError(f"{other} ({column} {table.loc[table[column] != name, column].iloc[0]}): {COUNT_AGAIN}")
    twice = table.duplicated(["kind", "n_or_d", "book"])
    if twice.any():
        raise UserError(f"{path}, line {twice.idxmax() + 2}: a line that repeats: {COUNT_AGAIN}")
    if table.empty:
        raise UserError(f"{path} has no rows of kinds {', '.join(KINDS)}: {COUNT_AGAIN}")
    wide = table.pivot(index="book", columns=["kind", "n_or_d"], values=["ngrams", "entropy_nats"]).fillna(0.0)
    ngrams, entropies = wide["ngrams"], wide["entropy_nats"]
    for kind in KINDS:
        for d, counted in counts[kind].items():
            if (kind, d) not in ngrams:
                raise UserError(f"{path} has no rows of kind {kind} for d = {d}: {COUNT_AGAIN}")
            total, sums = ngrams[kind, d].sum(), ngrams[kind, d] @ entropies[kind, d]
            wanted = entropy.grassberger_entropy(*counted)
            if total != entropy.sample_size(*counted) or not abs(sums / total - wanted) < 1e-6:
                raise UserError(
                    f"{other} (kind {kind}, d = {d}: {total:,.0f} of entropy {sums / total:.6f} against "
                    f"{entropy.sample_size(*counted):,} of {wanted:.6f}): {COUNT_AGAIN}"
                )
    d = sorted(counts["pair"])
    by_kind = {kind: (ngrams[kind][d].to_numpy(), entropies[kind][d].to_numpy()) for kind in KINDS}
    for kind in ("left", "right"):
        if (by_kind[kind][0] != by_kind["pair"][0]).any():
            raise UserError(f"{path}: the {kind} tokens of a book are not as many as its pairs: {COUNT_AGAIN}")
    mi = by_kind["left"][1] + by_kind["right"][1] - by_kind["pair"][1]
    return by_kind["pair"][0], mi


def mutual_information(
    counts: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]], estimator: str = "grassberger"
) -> np.ndarray:
    """Î(d) = Ĥ(left) + Ĥ(right) − Ĥ(pair) in nats, (p,), by one of ESTIMATORS; counts as from `read_counts`."""
    by_kind = {kind: np.array([ESTIMATORS[estimator](*by_d[d]) for d in sorted(by_d)]) for kind, by_d in counts.items()}
    return by_kind["left"] + by_kind["right"] - by_kind["pair"]


def fit_weighted(law: str, d: np.ndarray, values: np.ndarray) -> Fit:
    """One of LAWS by generalised least squares with the covariance over d that the units give.

    d: (p,) tokens, values: (units, p) from `unit_values`. Power laws have −β as the parameter alpha. "…_wls", and every
    law where the units are too few for the covariance of so many points (`covariance_is_known`): the variances alone
    are the weights, chi2, p and AICc take the errors at different d as independent, and lo95 and hi95 are NaN.
    NoFitError as `fit_law`.
    """
    mi, (covariance, shrinkage) = values.mean(axis=0), covariance_of_mean(values)
    name, known = law.removesuffix("_wls"), covariance_is_known(values) and not law.endswith("_wls")
    if not known:
        covariance, shrinkage = np.diag(np.diag(covariance)), 1.0
    fit = fit_law(name, d, mi, covariance, len(values), shrinkage)
    if not known:
        unclaimed = {name: (value, math.nan, math.nan) for name, (value, *_) in fit.parameters.items()}
        fit = replace(fit, law=law, parameters=unclaimed)
    return falling(fit)


def falling(fit: Fit) -> Fit:
    """The same fit with −β as the parameter alpha, where it has a β."""
    if "beta" not in fit.parameters:
        return fit
    parameters = dict(fit.parameters)
    beta, low, high = parameters.pop("beta")
    return replace(fit, parameters={"A": parameters.pop("A"), "alpha": (-beta, -high, -low), **parameters})


def sweep_windows(d: np.ndarray, values: np.ndarray, plateau_nats: float) -> list[dict[str, float | str]]:
    """Rows of sweep.csv: the power law of Î − C over every window of distances; d, values as in `fit_weighted`.

    C is taken as known. Windows whose points do not lie clearly above it are left out.
    """
    covariance, shrinkage = covariance_of_mean(values)
    fits = sweep(d, values.mean(axis=0) - plateau_nats, covariance, len(values), shrinkage)
    rows = []
    for fit in map(falling, fits):
        alpha, low, high = fit.parameters["alpha"]
        rows.append(fit.rows()[0] | {"A": fit.parameters["A"][0], "alpha": alpha, "lo95": low, "hi95": high})
    return rows


def covariance_is_known(values: np.ndarray) -> bool:
    """Whether (units, p) values leave degrees of freedom when their covariance weighs p points, see `fit_law`."""
    _, shrinkage = covariance_of_mean(values)
    return len(values) - 1 > (1 - shrinkage) * (values.shape[1] - 1)


def fit_eq_b15(d: np.ndarray, mi_nats: np.ndarray) -> Fit:
    """The paper's fit: least squares of log(Î − C) against log A − α log d, without weights (Eq. B.15).

    d, mi_nats: (p,). C is searched from 0 up to the smallest Î: the plateau of the bias is positive, and without that
    edge the sum of squares falls to 0 as C → −∞, where log(Î − C) is flat whatever the points are. C = 0 in the result
    means that the edge was met. It claims no interval and no goodness.
    NoFitError: fewer than three points, or one at or below 0.
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
    values = {"A": A, "alpha": alpha, "C": C}
    return Fit(
        law="paper_eq_b15",
        parameters={name: (value, math.nan, math.nan) for name, value in values.items()},
        L_min=d[0].item(),
        L_max=d[-1].item(),
        chi2=math.nan,
        dof=len(mi) - 3,
        p_value=math.nan,
        aicc=math.nan,
        heldout_error=float(heldout),
        scale="log",
    )


def _solve_eq_b15(d: np.ndarray, mi: np.ndarray) -> tuple[float, float, float]:
    """(A, α, C). For each C the line is solved; C = min Î · (1 − e^−s) is searched on a grid of s, then refined."""
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


def bootstrap_intervals(
    fit: Callable[[np.ndarray], Fit], values: np.ndarray, replications: int, seed: int
) -> dict[str, tuple[float, float]]:
    """95% intervals of a fit's parameters from resampled units, everything fitted anew.

    fit: from (units, p) values of `unit_values`. Returns parameter to (lo95, hi95): the estimate ± Student's t times
    the spread of the resampled ones, for A and xi in the logarithm; NaN where they have none, at an edge. NoFitError as
    `bootstrap_errors`.
    """
    units = np.arange(len(values))

    def estimate(drawn: np.ndarray) -> np.ndarray:
        parameters = fit(values[np.repeat(units, drawn)]).parameters
        return np.array([math.log(value) if name in LOGARITHMIC else value for name, (value, *_) in parameters.items()])

    here = estimate(np.ones(len(units), dtype=int))
    error, t = bootstrap_errors(units, estimate, replications, seed)
    error[error == 0] = math.nan
    edges = np.stack([here - t * error, here + t * error], axis=1)
    with np.errstate(over="ignore"):
        return {
            name: tuple((np.exp(edge) if name in LOGARITHMIC else edge).tolist())
            for name, edge in zip(fit(values).parameters, edges, strict=True)
        }


def fit_all(
    d: np.ndarray,
    mi_nats: np.ndarray,
    values: np.ndarray | None,
    replications: int,
    seed: int,
    laws: Sequence[str] = LAWS,
) -> tuple[list[Fit], dict[tuple[str, str], tuple[float, float]], list[str]]:
    """Fits of the laws and Eq. B.15's, the resampled intervals by (law, parameter), and why others failed.

    d, mi_nats: (p,). values: (units, p) from `unit_values`; without them there is the unweighted fit alone.
    """
    fits, intervals, failed = [], {}, {}
    weighted = {law: lambda some, law=law: fit_weighted(law, d, some) for law in laws if values is not None}
    unweighted = {"paper_eq_b15": lambda some: fit_eq_b15(d, some.mean(axis=0))}
    for law, fit in tqdm((weighted | unweighted).items(), desc="laws", disable=not replications or values is None):
        try:
            fits.append(fit(values if values is not None else mi_nats[None]))
        except NoFitError as error:
            failed.setdefault(f"no fit: {error}", []).append(law)
            continue
        if replications and values is not None:
            try:
                found = bootstrap_intervals(fit, values, replications, seed)
                intervals |= {(law, name): edges for name, edges in found.items()}
            except NoFitError as error:
                failed.setdefault(f"no resampled interval: {error}", []).append(law)
    return fits, intervals, [f"{', '.join(laws)}: {reason}" for reason, laws in failed.items()]


def plateau(fits: list[Fit]) -> Fit | None:
    """The fit whose C is taken off Î, see the head of this file; None where there is none."""
    by_law = {fit.law: fit for fit in fits}
    constant = by_law.get("constant")
    if constant is not None and constant.p_value >= FLAT:
        return constant
    for law in ("power_plus_constant_wls", "paper_eq_b15"):
        if law in by_law and by_law[law].parameters["alpha"][0] >= LEAST_ALPHA:  # what grows has its C at small d
            return by_law[law]
    return constant


def _print_tables(
    table: pd.DataFrame, once: np.ndarray, fits: pd.DataFrame, corrected_by: Fit | None, unit: str
) -> None:
    shown = table.pivot(index="d_tokens", columns="estimator", values="mi_nats")[list(ESTIMATORS)]
    main_rows = table[table["estimator"] == "grassberger"].set_index("d_tokens")
    print(f"\nI(d), nats; ± standard error over {unit}; pairs seen once: the more, the higher the plateau")
    print(f"{'d':>7}{'grassberger':>22}" + "".join(f"{name:>14}" for name in list(ESTIMATORS)[1:]), end="")
    print(f"{'less plateau':>14}{'pairs':>16}{'once':>8}")
    for (d, row), share in zip(main_rows.iterrows(), once, strict=True):
        cells = f"{row['mi_nats']:.5f} ± {row['stderr_nats']:.5f}"
        others = "".join(f"{shown.loc[d, name]:>14.5f}" for name in list(ESTIMATORS)[1:])
        print(f"{d:>7}{cells:>22}{others}{row['mi_corrected_nats']:>14.5f}{row['n_pairs']:>16,.0f}{share:>8.1%}")
    if (fewest := main_rows["n_pairs"].min() / main_rows["n_pairs"].max()) < 0.95:
        print(f"at some distance there are {fewest:.0%} of the pairs of another: fewer pairs, higher plateau")
    if corrected_by is not None:
        print(f"plateau: C = {corrected_by.parameters['C'][0]:.5f} of {corrected_by.law}")
    for (estimator, law), rows in fits.groupby(["estimator", "law"], sort=False):
        first = rows.iloc[0]
        print(f"\n{law}, {estimator}, d = {first['L_min']:g} to {first['L_max']:g}", end="")
        if math.isfinite(first["chi2"]):
            print(f": AICc {first['aicc']:.1f}, chi2 {first['chi2']:.1f} of {first['dof']:g}", end="")
            print(f" (p = {first['p_value']:.2g})", end="")
        print(f"; last I predicted {first['heldout_error']:+.1%} off")
        for row in rows.itertuples():
            intervals = [
                f"{low:.4g} to {high:.4g} by {by}"
                for low, high, by in (
                    (row.lo95, row.hi95, "the covariance"),
                    (row.boot_lo95, row.boot_hi95, f"resampled {row.boot_clusters}"),
                )
                if math.isfinite(low)
            ]
            print(f"    {row.parameter:<6}{row.value:.4g}" + (f"  (95%: {'; '.join(intervals)})" if intervals else ""))


def main(cfg: Settings) -> None:
    started = time.time()
    cfg.validate()
    counts, source, tokenizer = read_counts(cfg.counts)
    by_book, inputs = cfg.counts.with_name(f"{cfg.counts.stem}_by_book.csv"), [cfg.counts]
    d = np.array(sorted(counts["pair"]))
    inside = (cfg.d_min <= d) & (d <= cfg.d_max)
    values, error, unit = None, np.full(len(d), math.nan), "no units"
    if by_book.exists():
        inputs.append(by_book)
        pairs, shares = read_shares(by_book, counts, source, tokenizer)
        unit = f"{len(pairs)} units"
        try:
            values = unit_values(pairs, shares)
            error = values.std(axis=0, ddof=1) / math.sqrt(len(values))
            if np.isnan(error[inside]).any():
                print(f"left out of the fits, as one unit has all pairs: d = {d[inside & np.isnan(error)].tolist()}")
                inside &= ~np.isnan(error)
        except NoFitError as reason:
            print(f"no errors and no weights: {reason} ({by_book} has {len(pairs)})")
    else:
        print(f"no errors and no weights: no {by_book} beside the counts")
    names = {"source": cfg.source or source, "tokenizer": cfg.tokenizer or last_part(tokenizer)}
    print(f"source {names['source']}, tokenizer {names['tokenizer']}, {len(d)} distances, {unit}")

    n_pairs = [entropy.sample_size(*counts["pair"][int(distance)]) for distance in d]
    once = [float(types[occurrences == 1].sum()) for occurrences, types in (counts["pair"][int(x)] for x in d)]
    tables, fit_rows, sweep_rows, corrected_by = [], [], [], None
    if values is not None and not covariance_is_known(values[:, inside]):
        print(f"{unit} tell no covariance of {inside.sum()} distances: chi2, p and AICc take them as independent")
    for estimator in ESTIMATORS:
        mi, main_one = mutual_information(counts, estimator), estimator == "grassberger"
        these = values[:, inside] if main_one and values is not None else None
        fits, intervals, notes = fit_all(d[inside], mi[inside], these, cfg.bootstrap, cfg.seed)
        for note in notes:
            print(f"{estimator}, {note}")
        columns = {"d_tokens": d, "mi_nats": mi, "mi_corrected_nats": math.nan, "stderr_nats": math.nan}
        columns |= {"plateau_nats": math.nan, "plateau_law": ""}
        selected = select_law([fit for fit in fits if not fit.law.endswith("_wls")])
        if main_one:
            corrected_by = plateau(fits)
            columns["stderr_nats"] = error
            C = corrected_by.parameters["C"][0] if corrected_by is not None else 0.0
            if corrected_by is not None:
                columns |= {"mi_corrected_nats": mi - C, "plateau_nats": C, "plateau_law": corrected_by.law}
            if values is not None:
                known = ~np.isnan(error)
                here = {"source": names["source"], "model": names["tokenizer"], "estimator": estimator}
                sweep_rows = [here | row for row in sweep_windows(d[known], values[:, known], C)]
        tables.append(pd.DataFrame(columns).assign(**names, estimator=estimator, n_pairs=n_pairs))
        for row in (row for fit in fits for row in fit.rows()):
            low, high = intervals.get((row["law"], row["parameter"]), (math.nan, math.nan))
            resampled = {"boot_lo95": low, "boot_hi95": high, "boot_clusters": unit if low == low else ""}
            here = {"source": names["source"], "model": names["tokenizer"], "estimator": estimator}
            fit_rows.append(here | row | resampled | {"selected": row["law"] == selected})
    table = pd.concat(tables, ignore_index=True)[TWO_POINT_COLUMNS]
    fits = pd.DataFrame(fit_rows, columns=FIT_COLUMNS)
    seen_once = dict(zip(d.tolist(), (np.array(once) / n_pairs).tolist(), strict=True))
    facts = {"pairs_seen_once": seen_once, "plateau_of": corrected_by.law if corrected_by else None}
    windows = pd.DataFrame(sweep_rows, columns=SWEEP_COLUMNS)
    for name, rows in (("two_point", table), ("fit", fits), ("sweep", windows)):
        write_csv(cfg.out / f"{name}.csv", rows, cfg, inputs, started, **facts)
    _print_tables(table, np.array(once) / n_pairs, fits, corrected_by, unit)
    print(f"\nwrote two_point.csv, fit.csv and sweep.csv in {cfg.out}")


if __name__ == "__main__":
    run(main, Settings, __doc__)
