"""Fit laws of how information grows with length (Figs. 2b, 2c, B.1, B.2, B.4, C.6), with intervals and p-values.

Points at different L come from the same documents, so their errors are correlated. `fit_law` is generalised least
squares with the documents' covariance. It fits log I, or I itself if a point is so close to 0 that its logarithm is far
from normal. `fit_power_ols` is the paper's unweighted straight line in log-log. `sweep` fits the power law over every
window of lengths; `bootstrap_intervals` resamples whole books, not single documents. Logarithms are natural; I is in
nats, L in tokens (d for two-point information).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import least_squares
from scipy.special import fdtrc, gammaincc, ndtri, stdtrit

MIN_POINTS = 3  # two points fit any power law
MIN_SIGNIFICANCE = 3.0  # fewer standard errors above 0 than this, and log I is far from normal
ACCEPTED = 0.05  # not in the paper: smallest p-value of a law that is drawn or quoted
PAPER_LAWS = {"direct": (2.27, 0.76), "vclub": (3.26, 0.71), "two_point": (1.10, 0.91)}  # A in nats, exponent; Fig. 2
BREAK_SHARPNESS = 4.0  # not in the paper: broken_power changes slope within about a factor of 2 in L


class NoFitError(ValueError):
    """No fit to the points is possible; the message is one line that says why."""


class FitForm(NamedTuple):
    """I(L) as a function of parameters θ. Those in `positive` are stored in θ as logarithms, the others as they are."""

    parameters: tuple[str, ...]
    positive: tuple[str, ...]
    mi: Callable[[np.ndarray, np.ndarray], np.ndarray]  # (θ, x = log L) → I in nats
    starts: Callable[[np.ndarray, np.ndarray], Sequence[Sequence[float]]]
    """(x, I > 0) → values of θ from which to start a search"""


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Intercept and slope of the least-squares line."""
    slope, intercept = np.polyfit(x, y, 1)
    return float(intercept), float(slope)


def _plus_constant_starts(x: np.ndarray, mi: np.ndarray) -> list[Sequence[float]]:
    starts = []
    for beta in (-1.5, -0.8, -0.3, 0.1, 0.4, 0.8, 1.3):
        C, A = _line(np.exp(beta * x), mi)
        if A > 0:
            starts.append((math.log(A), beta, C))
    if starts and not any((np.exp(log_A + beta * x) + C).min() > 0 for log_A, beta, C in starts):
        starts.append((*_line(x, np.log(mi)), 0.0))  # on a log scale, a search from a curve below 0 gets stuck
    return starts


def _saturating(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.exp(theta[0] - np.logaddexp(0, math.exp(theta[2]) * (theta[1] - x)))


def _saturating_starts(x: np.ndarray, mi: np.ndarray) -> list[Sequence[float]]:
    return [(math.log(mi.max()) + 0.3, at, log_beta) for at in (x.mean(), x[-1]) for log_beta in (-0.7, 0.0)]


def _broken(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    log_A, beta_1, beta_2, log_break = theta
    bend = np.logaddexp(0, BREAK_SHARPNESS * (x - log_break)) / BREAK_SHARPNESS
    return np.exp(log_A + beta_1 * x + (beta_2 - beta_1) * bend)


def _broken_starts(x: np.ndarray, mi: np.ndarray) -> list[Sequence[float]]:
    starts = []
    for cut in range(2, len(x) - 1):
        (log_A, beta_1), (_, beta_2) = (_line(x[part], np.log(mi[part])) for part in (np.s_[:cut], np.s_[cut - 1 :]))
        starts.append((log_A, beta_1, beta_2, (x[cut - 1] + x[cut]) / 2))
    return starts


def _power(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.exp(theta[0] + theta[1] * x)


LAWS = {
    # A · L^β
    "power": FitForm(("A", "beta"), ("A",), _power, lambda x, mi: [_line(x, np.log(mi))]),
    # A · L^β + C; with β = −α also the two-point law of Eq. B.15
    "power_plus_constant": FitForm(
        ("A", "beta", "C"), ("A",), lambda theta, x: _power(theta, x) + theta[2], _plus_constant_starts
    ),
    # A + B · ln L
    "logarithm": FitForm(
        ("A", "B"), (), lambda theta, x: theta[0] + theta[1] * x, lambda x, mi: [_line(x[[0, -1]], mi[[0, -1]])]
    ),
    # I_inf / (1 + (L_0/L)^β): a power law far below L_0, a constant far above
    "saturating": FitForm(("I_inf", "L_0", "beta"), ("I_inf", "L_0", "beta"), _saturating, _saturating_starts),
    # A · L^β1 below L_break, exponent β2 above
    "broken_power": FitForm(("A", "beta_1", "beta_2", "L_break"), ("A", "L_break"), _broken, _broken_starts),
    # C: neither growth nor decay. C may be negative, so it is never fitted on a log scale
    "constant": FitForm(("C",), (), lambda theta, x: theta[0] + 0 * x, lambda x, mi: []),
}
LINEAR = (("power", "log"), ("logarithm", "linear"), ("constant", "linear"))  # linear in θ: solved without a search
GROWTH_LAWS = ("power", "power_plus_constant", "logarithm", "saturating", "broken_power")  # bipartite information


@dataclass(frozen=True)
class Fit:
    """A fitted law. `parameters` maps each name to (value, lo95, hi95), with NaN where no interval is known."""

    law: str
    parameters: dict[str, tuple[float, float, float]]
    L_min: float
    L_max: float
    chi2: float
    dof: int
    p_value: float
    """probability that points which follow the law deviate from it by more; how it is computed: see `fit_law`"""
    aic: float
    heldout_error: float  # of I at the largest L, predicted from the other points: predicted / measured − 1
    scale: str  # "log" if log I was fitted, "linear" if I itself

    @classmethod
    def unweighted(cls, law: str, values: dict[str, float], L: np.ndarray, heldout_error: float) -> Fit:
        """A fit of log I without known errors, and so without intervals, chi2 or p-value."""
        parameters = {name: (value, math.nan, math.nan) for name, value in values.items()}
        ends, dof = (L.min().item(), L.max().item()), len(L) - len(values)
        return cls(law, parameters, *ends, math.nan, dof, math.nan, math.nan, float(heldout_error), "log")

    def rows(self) -> list[dict[str, float | str]]:
        """One row of fit.csv for each parameter."""
        names = ("L_min", "L_max", "chi2", "dof", "aic", "p_value", "heldout_error", "scale")
        shared = {name: getattr(self, name) for name in names}
        return [
            {"law": self.law, "parameter": name, "value": value, "lo95": low, "hi95": high, **shared}
            for name, (value, low, high) in self.parameters.items()
        ]


def fit_law(
    law: str,
    L: np.ndarray,
    mi_nats: np.ndarray,
    covariance: np.ndarray,
    n_documents: int | None = None,
    shrinkage: float = 0.0,
) -> Fit:
    """Fit one of LAWS by generalised least squares.

    L: (p,) tokens, ascending. mi_nats: (p,) means over documents. covariance: (p, p) of these means, in nats². If every
    point lies MIN_SIGNIFICANCE standard errors above 0, the residuals are those of log I, with covariance cov / (I Iᵀ).
    Otherwise, and always for "constant", they are those of I, and points at or below 0 are included.
    n_documents, shrinkage: given if `covariance` was estimated (`covariance_of_mean`), not known. The p − k directions
    in which the points can deviate from a law of k parameters serve as control variates with estimated weights. This
    costs q = (1 − shrinkage)(p − k) degrees of freedom (what shrinkage fixes needs no estimate): with ν = n − 1, the
    variances grow by ν/(ν − q) · (1 + χ²/ν), and the intervals are Student's with ν − q degrees of freedom (exact for
    normal data, laws linear in θ, no shrinkage; C. R. Rao, Biometrika 54 (1967) 49).

    The 95% intervals assume independent documents. For positive parameters they are symmetric in the logarithm; for a
    parameter at the edge of its range, or that the points do not determine, they are NaN. chi2 is rᵀ C⁻¹ r with
    dof = p − k, and aic = chi2 + 2k, as the covariance is not fitted. p_value is that of χ² or, if the covariance was
    estimated, of Hotelling's T² with the covariance before shrinkage. It is NaN for p documents or fewer, as these
    cannot test a law: with the shrunk covariance almost any law is accepted. aic and p_value are NaN for p <= k. A
    power_plus_constant with |β| below about
    0.02 is a logarithm, and its A and C mean nothing. ValueError: L not ascending, or a number that is not finite.
    NoFitError: fewer than three points or than parameters; fewer than three points MIN_SIGNIFICANCE standard errors
    above 0 (except for "constant"); a covariance that is singular or from too few documents; or no solution.
    """
    points = _Points.of(L, mi_nats, covariance, n_documents, shrinkage)
    significant, needed = int(points.significant.sum()), max(MIN_POINTS, len(LAWS[law].parameters))
    if len(points.mi) < needed:
        raise NoFitError(f"{len(points.mi)} points, and {needed} are needed")
    if significant < MIN_POINTS and law != "constant":
        clear = f"{significant} of {len(points.mi)} points lie {MIN_SIGNIFICANCE:g} standard errors above 0"
        raise NoFitError(f"{clear}, and {MIN_POINTS} are needed")
    return _fit(law, points)


def fit_power_ols(L: np.ndarray, mi_nats: np.ndarray) -> Fit:
    """The paper's straight line through log I against log L, without weights; points with I <= 0 are left out.

    L: (p,) tokens, mi_nats: (p,). NoFitError: fewer than three points above 0.
    """
    L, mi = np.asarray(L), np.asarray(mi_nats, dtype=float)
    usable = mi > 0
    if usable.sum() < MIN_POINTS:
        raise NoFitError(f"{usable.sum()} of {len(L)} points lie above 0, and {MIN_POINTS} are needed")
    log_A, beta = _line(np.log(L[usable]), np.log(mi[usable]))
    heldout = math.nan
    if usable[-1]:
        before = usable & (L < L[-1])
        fewer = _line(np.log(L[before]), np.log(mi[before]))
        heldout = math.exp(fewer[0] + fewer[1] * math.log(L[-1])) / mi[-1] - 1
    return Fit.unweighted("power_ols", {"A": math.exp(log_A), "beta": beta}, L[usable], heldout)


def sweep(
    L: np.ndarray, mi_nats: np.ndarray, covariance: np.ndarray, n_documents: int | None = None, shrinkage: float = 0.0
) -> list[Fit]:
    """Fit the power law over every window of successive L; arguments as in `fit_law`.

    A window of two points gives the local slope log(I'/I) / log(L'/L). Windows are left out if fewer than two points
    (three in a longer window) lie MIN_SIGNIFICANCE standard errors above 0, or if no fit is possible.
    """
    points, fits = _Points.of(L, mi_nats, covariance, n_documents, shrinkage), []
    for first in range(len(points.mi)):
        for last in range(first + 1, len(points.mi)):
            window = points.part(slice(first, last + 1))
            if window.significant.sum() >= min(len(window.mi), MIN_POINTS):
                with contextlib.suppress(NoFitError):
                    fits.append(_fit("power", window))
    return fits


def longest_accepted(windows: pd.DataFrame) -> pd.Series | None:
    """The longest window in which the power law is accepted, a row of sweep.csv; of several, the one at the largest L.

    None: no window of three or more lengths is accepted. As many windows were tried, the p-value shows where the law
    may hold, but does not test it.
    """
    accepted = windows[(windows["dof"] > 0) & (windows["p_value"] >= ACCEPTED)]
    return None if accepted.empty else accepted.sort_values(["dof", "L_max"]).iloc[-1]


def covariance_of_mean(samples: np.ndarray) -> tuple[np.ndarray, float]:
    """Covariance of the mean over documents with shrunk correlations, and the shrinkage (0 = none, 1 = to zero).

    samples: (n, p), one row per document, n >= 2. Returns ((p, p), λ). The variances are kept; the correlations are
    multiplied by 1 − λ, with λ = Σ_{i≠j} Var(r_ij) / Σ_{i≠j} r_ij² clipped to [0, 1] (Schäfer and Strimmer, Stat. Appl.
    Genet. Mol. Biol. 4 (2005) 32, target D), so that the matrix is invertible for few documents. λ falls as 1/n.
    """
    samples = np.asarray(samples, dtype=float)
    n, p = samples.shape
    error = samples.std(axis=0, ddof=1)
    z = (samples - samples.mean(axis=0)) / np.where(error > 0, error, 1)
    correlation = z.T @ z / (n - 1)
    # Var(r_ij) = n/(n−1)³ Σ_k (w_kij − w̄_ij)², with w_kij = z_ki z_kj and w̄ = (n−1)/n · r.
    squares = (z**2).T @ z**2 - (n - 1) ** 2 / n * correlation**2
    off_diagonal = ~np.eye(p, dtype=bool)
    spread = n / (n - 1) ** 3 * squares[off_diagonal].sum()
    signal = (correlation[off_diagonal] ** 2).sum()
    shrinkage = float(np.clip(spread / signal, 0, 1)) if signal > 0 else 1.0
    shrunk = np.where(off_diagonal, (1 - shrinkage) * correlation, correlation)
    return shrunk * np.outer(error, error) / n, shrinkage


def bootstrap_intervals(
    units: np.ndarray, fits: Callable[[np.ndarray], Sequence[Fit]], replications: int = 500, seed: int = 0
) -> dict[tuple[str, str], tuple[float, float]]:
    """95% intervals of fitted parameters, by resampling whole units and repeating every fit.

    units: (n,) the book of each document (or the document itself), B different ones. fits: called with the row numbers
    of the resampled documents and how often each unit was drawn (in the order of np.unique(units)); replications in
    which it raises NoFitError are dropped. Returns (law, parameter) → (lo95, hi95): the estimate ± `half_width`, for A
    in the logarithm. They are NaN if the spread is 0 (a parameter at the edge of its range). NoFitError: fewer than two
    units, no fit of the original documents, or fewer than half of the replications left.
    """
    _, unit = np.unique(units, return_inverse=True)
    B = unit.max() + 1
    if B < 2:
        raise NoFitError("a bootstrap needs at least two books or documents")

    def estimate(drawn: np.ndarray) -> dict[tuple[str, str], float]:
        found = fits(np.repeat(np.arange(len(unit)), drawn[unit]), drawn)
        values = {(fit.law, name): of[0] for fit in found for name, of in fit.parameters.items()}
        return {key: math.log(value) if key[1] == "A" else value for key, value in values.items()}

    rng, drawn = np.random.default_rng(seed), []
    here = estimate(np.ones(B, dtype=int))
    for _ in range(replications):
        with contextlib.suppress(NoFitError):
            drawn.append(list(estimate(rng.multinomial(B, np.full(B, 1 / B))).values()))
    if len(drawn) < max(2, replications / 2):
        raise NoFitError(f"{len(drawn)} of {replications} resamplings allow a fit")
    half = half_width(np.array(drawn), B)
    edges = np.array(list(here.values())) + np.outer((-1, 1), np.where(half > 0, half, math.nan))
    with np.errstate(over="ignore"):
        edges = [np.exp(pair) if name == "A" else pair for (_, name), pair in zip(here, edges.T, strict=True)]
    return {key: tuple(pair.tolist()) for key, pair in zip(here, edges, strict=True)}


def half_width(drawn: np.ndarray, units: int) -> np.ndarray:
    """Half the width of 95% intervals. drawn: (replications, …) estimates from resamplings of B = `units` units.

    t times the standard deviation over replications times √(B/(B − 1)), as resampling B units understates the spread.
    t is Student's 97.5% point with B − 1 degrees of freedom, because a few books tell little about how books differ.
    """
    return float(stdtrit(units - 1, 0.975)) * np.std(drawn, axis=0, ddof=1) * math.sqrt(units / (units - 1))


@dataclass(frozen=True)
class _Points:
    """L, I, and the covariance of I as standard errors and correlations, with `n_documents` (None if it is known)."""

    L: np.ndarray
    mi: np.ndarray
    error: np.ndarray
    correlation: np.ndarray
    n_documents: int | None
    shrinkage: float

    @classmethod
    def of(cls, L: np.ndarray, mi_nats: np.ndarray, covariance: np.ndarray, *estimated: float | None) -> _Points:
        mi, covariance = np.asarray(mi_nats, dtype=float), np.asarray(covariance, dtype=float)
        error = np.sqrt(np.diag(covariance))
        scale = np.where(error > 0, error, 1)
        if not (np.isfinite(mi).all() and np.isfinite(covariance).all() and (np.diff(L) > 0).all()):
            raise ValueError("L must ascend, and I and its covariance be finite")
        return cls(np.asarray(L), mi, error, covariance / np.outer(scale, scale), *estimated)

    @property
    def significant(self) -> np.ndarray:
        return self.mi >= MIN_SIGNIFICANCE * self.error

    def part(self, window: slice) -> _Points:
        arrays = {name: getattr(self, name)[window] for name in ("L", "mi", "error")}
        return replace(self, **arrays, correlation=self.correlation[window, window])


def _fit(law: str, points: _Points) -> Fit:
    p, k, n = len(points.mi), len(LAWS[law].parameters), points.n_documents
    log_scale = law != "constant" and bool(points.significant.all())
    theta, theta_covariance, chi2 = _solve(law, points, log_scale)

    half_width, goodness = ndtri(0.975), gammaincc((p - k) / 2, chi2 / 2) if p > k else math.nan
    if n is not None:
        left = n - 1 - (1 - points.shrinkage) * (p - k)
        if left <= 0:
            raise NoFitError(f"{n} documents are too few for the covariance of {p} points")
        theta_covariance = theta_covariance * (n - 1) / left * (1 + chi2 / (n - 1))
        half_width = stdtrit(left, 0.975)
        goodness = _hotelling(law, points, log_scale, theta) if p > k else math.nan
    error = half_width * np.sqrt(np.diag(theta_covariance))

    parameters = {}
    for name, value, half in zip(LAWS[law].parameters, theta, error, strict=True):
        interval = [value, value - half, value + half]
        with np.errstate(over="ignore"):
            interval = np.exp(interval) if name in LAWS[law].positive else np.array(interval)
        parameters[name] = tuple(interval.tolist())
    return Fit(
        law=law,
        parameters=parameters,
        L_min=points.L[0].item(),
        L_max=points.L[-1].item(),
        chi2=chi2,
        dof=p - k,
        p_value=float(goodness),
        aic=chi2 + 2 * k if p > k else math.nan,
        heldout_error=_heldout_error(law, points, log_scale, theta),
        scale="log" if log_scale else "linear",
    )


def _hotelling(law: str, points: _Points, log_scale: bool, theta: np.ndarray) -> float:
    """p-value of the law by Hotelling's T² of the residuals, with the documents' covariance before shrinkage.

    Shrunk correlations overstate the errors of the residuals of strongly correlated points, so χ² comes out too small.
    NaN for p documents or fewer, whose covariance before shrinkage is singular.
    """
    nu, p, missing = points.n_documents - 1, len(points.mi), len(points.mi) - len(theta)
    if points.n_documents <= p:
        return math.nan
    estimated = points.shrinkage
    if points.shrinkage < 1:
        estimated = 0.0
        off_diagonal = ~np.eye(p, dtype=bool)
        whole = np.where(off_diagonal, points.correlation / (1 - points.shrinkage), points.correlation)
        points = replace(points, correlation=whole)
    try:
        *_, chi2 = _solve(law, points, log_scale, [theta])
    except NoFitError:
        return math.nan
    left = nu - (1 - estimated) * missing + 1
    return float(fdtrc(missing, left, chi2 * left / (nu * missing)))


def _heldout_error(law: str, points: _Points, log_scale: bool, theta: np.ndarray) -> float:
    if len(points.mi) <= max(2, len(theta)) or points.mi[-1] <= 0:
        return math.nan
    try:
        theta, *_ = _solve(law, points.part(slice(-1)), log_scale, [theta])
    except NoFitError:
        return math.nan
    return float(LAWS[law].mi(theta, np.log(points.L[-1:]))[0] / points.mi[-1] - 1)


def _solve(
    law: str, points: _Points, log_scale: bool, starts: Sequence[np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray, float]:
    """θ, its covariance (taking that of the points as known), and χ²."""
    x, mi, error = np.log(points.L), points.mi, points.error
    # Whiten by the Cholesky factor of the correlations: unit variances keep the condition number small.
    alike = error <= 1e-12 * np.abs(mi)
    if alike.any():
        raise NoFitError(f"all documents have the same term at L = {points.L[alike][0]:g}: fit other lengths")
    try:
        factor = np.linalg.cholesky(points.correlation)
    except np.linalg.LinAlgError:
        factor = np.zeros((1, 1))
    if np.diag(factor).min() < 1e-6:
        raise NoFitError(f"the covariance of {len(mi)} points is singular (too few documents, or terms all alike)")
    if log_scale:
        error = error / mi

    def whitened(values: np.ndarray) -> np.ndarray:
        return np.linalg.solve(factor, (values.T / error).T)

    target = np.log(mi) if log_scale else mi
    if (law, "log" if log_scale else "linear") in LINEAR:
        jacobian = whitened(np.stack([np.ones(len(x)), x], axis=1)[:, : len(LAWS[law].parameters)])
        # QR, not normal equations, which square the condition number and can give negative variances.
        Q, R = np.linalg.qr(jacobian)
        wanted = whitened(target)
        if np.abs(np.diag(R)).min() < 1e-9 * np.abs(R).max():
            raise NoFitError(f"the covariance of {len(mi)} points leaves their slope undetermined")
        theta = np.linalg.solve(R, Q.T @ wanted)
        chi2 = float(np.sum((wanted - jacobian @ theta) ** 2))
        inverse = np.linalg.inv(R)
        return theta, inverse @ inverse.T, chi2

    def residuals(theta: np.ndarray) -> np.ndarray:
        value = LAWS[law].mi(theta, x)
        return whitened((np.log(np.maximum(value, 1e-300)) if log_scale else value) - target)

    (lower, upper), best, positive = _range(law, x), None, mi > 0
    for start in starts if starts is not None else LAWS[law].starts(x[positive], mi[positive]):
        with np.errstate(over="ignore", invalid="ignore"):
            start = np.clip(start, lower + 1e-6, upper - 1e-6)
            if not np.isfinite(residuals(start)).all():
                continue
            found = least_squares(
                residuals, start, "3-point", (lower, upper), x_scale="jac", ftol=1e-10, xtol=1e-10, max_nfev=100
            )
        if best is None or found.cost < best.cost:
            best = found
    if best is None:
        raise NoFitError(f"no {law} law was found near the {len(mi)} points")
    return best.x, _covariance_of_theta(best.jac, best.active_mask), float(2 * best.cost)


def _range(law: str, x: np.ndarray) -> np.ndarray:
    """Bounds of θ, (2, parameters), which keep a law from degenerating into another one."""
    edges = {"A": (-60, 60), "I_inf": (-60, 60), "L_break": (x[0], x[-1]), "L_0": (x[0] - 20, x[-1] + 20)}
    edges |= dict.fromkeys(("beta", "beta_1", "beta_2"), (-5, 5))
    if law == "saturating":
        edges["beta"] = (-4, 1.6)  # bounds of log β
    if law == "logarithm":
        del edges["A"]
    return np.array([edges.get(name, (-np.inf, np.inf)) for name in LAWS[law].parameters], dtype=float).T


def _covariance_of_theta(jacobian: np.ndarray, at_edge: np.ndarray) -> np.ndarray:
    """(JᵀJ)⁻¹ of the free parameters; NaN for those at a bound, and for all if the points do not determine them."""
    free = np.flatnonzero(at_edge == 0)
    covariance = np.full((len(at_edge), len(at_edge)), np.nan)
    scale = np.sqrt((jacobian[:, free] ** 2).sum(axis=0))
    if len(free) and scale.min() > 0:
        R = np.linalg.qr(jacobian[:, free] / scale, mode="r")
        if np.abs(np.diag(R)).min() > 1e-8:
            inverse = np.linalg.inv(R) / scale[:, None]
            covariance[np.ix_(free, free)] = inverse @ inverse.T
    return covariance
