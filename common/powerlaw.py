"""Fits of I(L) = A · L^β (the paper's Fig. 2b): generalised least squares, and the paper's straight line beside it.

Points at different L come from the same documents, so their errors are correlated; `fit_power` uses the documents'
covariance and gives intervals, `fit_power_ols` is the unweighted line in log-log, which knows none. Natural
logarithms; I in nats, L in tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

MIN_POINTS = 3  # two points fit any power law
MIN_SIGNIFICANCE = 3.0  # standard errors above 0 under which log I is no longer near normal


class NoFitError(ValueError):
    """The points allow no fit; the message is one line that says why."""


@dataclass(frozen=True)
class Fit:
    """A fitted law. `parameters`: name to (value, lo95, hi95); NaN where nothing is claimed."""

    law: str
    parameters: dict[str, tuple[float, float, float]]
    L_min: float
    L_max: float
    chi2: float
    dof: int
    aicc: float
    left_out: tuple[float, ...]
    """values of L that were given and not used"""

    def rows(self) -> list[dict[str, float | str]]:
        """One row of fit.csv for each parameter."""
        shared = {"L_min": self.L_min, "L_max": self.L_max, "chi2": self.chi2, "dof": self.dof, "aicc": self.aicc}
        return [
            {"law": self.law, "parameter": name, "value": value, "lo95": low, "hi95": high, **shared}
            for name, (value, low, high) in self.parameters.items()
        ]


def fit_power(
    L: np.ndarray,
    mi_nats: np.ndarray,
    covariance: np.ndarray,
    n_documents: int | None = None,
    shrinkage: float = 0.0,
) -> Fit:
    """Fit log I = log A + β log L by generalised least squares.

    L: (p,) tokens. mi_nats: (p,) means over documents. covariance: (p, p) of these means in nats², which the delta
    method takes to the log scale, cov(log I) = cov / (I Iᵀ). Points less than 3 standard errors above 0 are left out.
    n_documents, shrinkage: given where `covariance` was estimated (`covariance_of_mean`) rather than known. The p − 2
    directions in which the points can miss the line serve as control variates with estimated weights, which costs as
    many degrees of freedom (those that shrinkage has decided need no estimate): with ν = n − 1 and
    q = (1 − shrinkage)(p − 2) the variances grow by ν/(ν − q) · (1 + χ²/ν) and the intervals are Student's with ν − q
    (exact for normal data without shrinkage; C. R. Rao, Biometrika 54 (1967) 49).

    The 95% intervals take documents as independent. Where several come from one book they are too short.
    chi2 is rᵀ C⁻¹ r with dof = p − 2, aicc = chi2 + 2k + 2k(k+1)/(p − k − 1) with k = 2 (NaN for p = 3).
    NoFitError: fewer than three usable points, or a covariance that is singular or comes from too few documents.
    """
    L, mi, covariance = np.asarray(L), np.asarray(mi_nats, dtype=float), np.asarray(covariance, dtype=float)
    usable = (mi > 0) & (mi >= MIN_SIGNIFICANCE * np.sqrt(np.diag(covariance)))
    left_out = tuple(L[~usable].tolist())
    L, mi, covariance = L[usable], mi[usable], covariance[np.ix_(usable, usable)]
    if len(L) < MIN_POINTS:
        raise NoFitError(
            f"{len(L)} of {len(usable)} points lie {MIN_SIGNIFICANCE:g} standard errors above 0, "
            f"and {MIN_POINTS} are needed"
        )
    points, k = len(L), 2

    # Whitened by the Cholesky factor, scaled to unit variances first: the condition is then that of the correlations.
    error = np.sqrt(np.diag(covariance))
    try:
        factor = np.linalg.cholesky(covariance / np.outer(error, error)) if error.min() > 0 else np.zeros((1, 1))
    except np.linalg.LinAlgError:
        factor = np.zeros((1, 1))
    if np.diag(factor).min() < 1e-6:
        raise NoFitError(f"the covariance of the {points} points is singular (too few documents, or all of them alike)")
    design = np.stack([np.ones(points), np.log(L)], axis=1)
    whitened = np.linalg.solve(factor, np.column_stack([design, np.log(mi)]) / (error / mi)[:, None])
    design, target = whitened[:, :k], whitened[:, k]
    # By QR rather than normal equations, which square the condition and can give negative variances.
    Q, R = np.linalg.qr(design)
    if np.abs(np.diag(R)).min() < 1e-9 * np.abs(R).max():
        raise NoFitError(f"the covariance of the {points} points leaves their slope undetermined")
    inverse = np.linalg.inv(R)
    parameter_covariance = inverse @ inverse.T
    log_A, beta = inverse @ Q.T @ target
    chi2 = float(np.sum((target - design @ [log_A, beta]) ** 2))

    half_width = ndtri(0.975)
    if n_documents is not None:
        nu = n_documents - 1
        left = nu - (1 - shrinkage) * (points - k)
        if left <= 0:
            raise NoFitError(f"{n_documents} documents are too few for the covariance of {points} points")
        parameter_covariance *= nu / left * (1 + chi2 / nu)
        half_width = stdtrit(left, 0.975)
    error_log_A, error_beta = half_width * np.sqrt(np.diag(parameter_covariance))
    return Fit(
        law="power",
        parameters={
            "A": (math.exp(log_A), *np.exp([log_A - error_log_A, log_A + error_log_A]).tolist()),
            "beta": (float(beta), float(beta - error_beta), float(beta + error_beta)),
        },
        L_min=L.min().item(),
        L_max=L.max().item(),
        chi2=chi2,
        dof=points - k,
        aicc=chi2 + 2 * k + 2 * k * (k + 1) / (points - k - 1) if points > k + 1 else math.nan,
        left_out=left_out,
    )


def fit_power_ols(L: np.ndarray, mi_nats: np.ndarray) -> Fit:
    """The paper's straight line through log I against log L, without weights; points with I <= 0 are left out.

    L: (p,) tokens, mi_nats: (p,). It claims no interval and no goodness: these are NaN in the result.
    NoFitError: fewer than three points above 0.
    """
    L, mi = np.asarray(L), np.asarray(mi_nats, dtype=float)
    usable = mi > 0
    if usable.sum() < MIN_POINTS:
        raise NoFitError(f"{usable.sum()} of {len(L)} points lie above 0, and {MIN_POINTS} are needed")
    beta, log_A = np.polyfit(np.log(L[usable]), np.log(mi[usable]), 1)
    return Fit(
        law="power_ols",
        parameters={"A": (math.exp(log_A), math.nan, math.nan), "beta": (float(beta), math.nan, math.nan)},
        L_min=L[usable].min().item(),
        L_max=L[usable].max().item(),
        chi2=math.nan,
        dof=int(usable.sum()) - 2,
        aicc=math.nan,
        left_out=tuple(L[~usable].tolist()),
    )


def covariance_of_mean(samples: np.ndarray) -> tuple[np.ndarray, float]:
    """Covariance of the mean over documents, its correlations shrunk, and by how much (0 = not at all, 1 = to none).

    samples: (n, p), a row a document, n >= 2. Returns ((p, p), λ). The variances stay; the correlations are multiplied
    by 1 − λ, λ = Σ_{i≠j} Var(r_ij) / Σ_{i≠j} r_ij² cut to [0, 1] (Schäfer and Strimmer, Stat. Appl. Genet. Mol. Biol.
    4 (2005) 32, target D), so that the matrix has an inverse where documents are few. λ falls as 1/n.
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
