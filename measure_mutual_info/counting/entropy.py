"""Estimate the entropy of a distribution, in nats, from counts of its outcomes (paper's App. B, Eqs. B.4 to B.6).

The estimators need only the counts of counts: `types[k]` distinct outcomes were seen `occurrences[k]` times each.
The naive one is biased low if most outcomes are rare, as with n-grams. Grassberger's corrects more of this bias than
Miller and Madow's (docs/benchmarks.md). Chao and Shen's also allows for unseen outcomes.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import digamma


def grassberger_entropy(occurrences: np.ndarray, types: np.ndarray) -> float:
    """Grassberger's entropy in nats: log N − (1/N) Σ_y n_y G(n_y) (Eq. B.5).

    occurrences, types: integer arrays (k,), see `sample_size`. ValueError: not counts of counts.
    """
    total = sample_size(occurrences, types)
    return math.log(total) - _mean_over_samples(occurrences, types, grassberger_g(occurrences), total)


def naive_entropy(occurrences: np.ndarray, types: np.ndarray) -> float:
    """The plug-in entropy in nats: log N − (1/N) Σ_y n_y log n_y (Eq. B.4). Arguments as `grassberger_entropy`."""
    total = sample_size(occurrences, types)
    return math.log(total) - _mean_over_samples(occurrences, types, np.log(occurrences), total)


def miller_madow_entropy(occurrences: np.ndarray, types: np.ndarray) -> float:
    """The naive entropy plus (K − 1)/(2N), in nats, which removes its first-order bias; K outcomes were seen.

    G. A. Miller, in Information Theory in Psychology (1955) 95. Arguments as `grassberger_entropy`.
    """
    seen = sum(np.asarray(types).tolist())
    return naive_entropy(occurrences, types) + (seen - 1) / (2 * sample_size(occurrences, types))


def chao_shen_entropy(occurrences: np.ndarray, types: np.ndarray) -> float:
    """Chao and Shen's entropy in nats: −Σ_y q_y log q_y / (1 − (1 − q_y)^N), q_y = (1 − f/N) · n_y/N.

    f outcomes were seen once, so f/N is about the probability of a new one (Good and Turing), and 1 − (1 − q_y)^N that
    of seeing an outcome at all (Horvitz and Thompson). Environ. Ecol. Stat. 10 (2003) 429. If all outcomes were seen
    once, all q_y would be 0, so f = N − 1 is used. Arguments as `grassberger_entropy`.
    """
    total = sample_size(occurrences, types)
    occurrences, types = np.asarray(occurrences, dtype=float), np.asarray(types, dtype=float)
    once = float(types[occurrences == 1].sum())
    q = (1 - min(once, total - 1) / total) * occurrences / total
    with np.errstate(divide="ignore"):  # a single outcome: q = 1
        seen = -np.expm1(total * np.log1p(-q))
    return -math.fsum((types * q * np.log(q) / seen).tolist())


def grassberger_g(n: np.ndarray) -> np.ndarray:
    """G(n) = ψ(n) + (−1)^n/2 · [ψ((n+1)/2) − ψ(n/2)] (Eq. B.6) for integers n >= 1; G(n) → log n for large n.

    The bracket is about 1/n, and its cancellation error is below the rounding of ψ(n), so this is stable for any n.
    """
    n = np.asarray(n)
    x = n.astype(float)
    sign = np.where(n % 2 == 0, 0.5, -0.5)
    return digamma(x) + sign * (digamma((x + 1) / 2) - digamma(x / 2))


def sample_size(occurrences: np.ndarray, types: np.ndarray) -> int:
    """N = Σ_k occurrences[k] · types[k], in exact integers.

    ValueError: the arrays are not integers, not both of shape (k,) with k >= 1, or have an entry below 1.
    """
    occurrences, types = np.asarray(occurrences), np.asarray(types)
    if occurrences.shape != types.shape or occurrences.ndim != 1 or occurrences.size == 0:
        raise ValueError(f"occurrences {occurrences.shape} and types {types.shape} must be of one shape (k,), k >= 1")
    for name, values in (("occurrences", occurrences), ("types", types)):
        if not np.issubdtype(values.dtype, np.integer) or values.min() < 1:
            raise ValueError(f"{name} must be integers of at least 1")
    return sum(n * k for n, k in zip(occurrences.tolist(), types.tolist(), strict=True))


def _mean_over_samples(occurrences: np.ndarray, types: np.ndarray, values: np.ndarray, total: int) -> float:
    weights = np.asarray(occurrences, dtype=float) * np.asarray(types, dtype=float)
    return math.fsum((weights * values).tolist()) / total
