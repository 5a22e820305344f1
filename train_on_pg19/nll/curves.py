"""Curves of NLL against position, with standard errors by book; the gap between two models and where it changes sign.

Measurements have shape (documents, L). Documents of one book are alike, so all errors are computed from sums by book.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


def windows(L: int, per_doubling: int = 4) -> np.ndarray:
    """(windows, 2): first and last position, counted from 1, of windows that are 1/per_doubling of a doubling wide.

    The paper smooths over "a small window of positions". On a logarithmic axis, windows that grow with the position
    keep the first positions apart and remove noise from the late ones. Each position is in one window; the last window
    extends to L.
    """
    doublings = np.arange((np.ceil(np.log2(L)) + 1) * per_doubling + 1) / per_doubling
    edges = np.unique(np.round(2**doublings).astype(int))
    first = edges[:-1][edges[1:] <= L + 1]
    return np.column_stack([first, np.append(first[1:] - 1, L)])


def centres(of: np.ndarray) -> np.ndarray:
    """The middle of each window on a logarithmic axis."""
    return np.sqrt(of[:, 0] * of[:, 1])


def doublings(L: int, first: int = 2) -> np.ndarray:
    """(doublings, 2): first and last position, from 1, of each doubling 2^k + 1 … 2^(k+1). 2^k starts at `first`, a
    power of two. Positions after the last whole doubling are in none."""
    ends = first * 2 ** np.arange(max(0, int(np.log2(L / first))) + 1)
    return np.column_stack([ends[:-1] + 1, ends[1:]])


def parts(L: int) -> np.ndarray:
    """(parts, 2): first and last position, from 1, of the widest parts that make up all `windows` and `doublings`."""
    ends = np.unique([0, 1, *windows(L)[:, 1], *doublings(L, 1)[:, 1]])
    return np.column_stack([ends[:-1] + 1, ends[1:]])


def over_windows(values: np.ndarray, parts: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Sum over the parts in each window of `of`: (…, parts) → (…, windows)."""
    summed = np.concatenate([np.zeros_like(values[..., :1]), values.cumsum(axis=-1)], axis=-1)
    first, last = (np.searchsorted(parts[:, 1], at, "right") for at in (of[:, 0] - 1, of[:, 1]))
    return summed[..., last] - summed[..., first]


def book_sums(rows: Iterable[np.ndarray], books: np.ndarray) -> np.ndarray:
    """Sum over the documents of each book, in the order of np.unique: (documents, L) → (books, L) float64.

    rows may be an iterator, for documents that do not fit in memory together.
    """
    index = np.unique(books, return_inverse=True)[1]
    sums = [np.float64(0)] * (index.max() + 1)
    for book, row in zip(index, rows, strict=True):
        sums[book] = sums[book] + row  # the float64 scalar makes the sum float64
    return np.stack(sums)


def mean_by_book(sums: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R = Σ sums / Σ weights over books, and its linearised standard error from the residuals of the books.

    sums: (books, …). weights: (books,), the documents of each book, or with the shape of `sums`, the bytes at each
    position. The error is NaN for a single book.
    """
    n = len(weights)
    weights = weights.reshape(weights.shape + (1,) * (sums.ndim - weights.ndim))
    total = weights.sum(axis=0)
    mean = sums.sum(axis=0) / total
    if n < 2:
        return mean, np.full_like(mean, np.nan)
    residuals = sums - weights * mean
    return mean, np.sqrt(n / (n - 1) * (residuals**2).sum(axis=0)) / total


@dataclass(frozen=True)
class Gap:
    """NLL of a minus NLL of b, above 0 where b is better. Arrays over windows, in nats per unit of the weights."""

    gap: np.ndarray
    error: np.ndarray
    lo95: np.ndarray
    hi95: np.ndarray


def gap(a: Sequence[np.ndarray], b: Sequence[np.ndarray], weights: np.ndarray) -> Gap:
    """The gap between two models on the same documents. a, b: a (books, …) array of sums for each seed of the model.

    weights: as in `mean_by_book`. The variance of the gap is that over books of the mean over seeds, plus the variance
    over seeds for each model that has several. With one seed, the interval does not include how much another seed would
    differ. As books and seeds are few, it uses Student's t with Satterthwaite's degrees of freedom.
    """
    mean, of_books = mean_by_book(np.mean(a, axis=0) - np.mean(b, axis=0), weights)
    parts = [(of_books**2, len(weights) - 1)]
    for model in (a, b):
        if len(model) > 1:
            by_seed = np.array([sums.sum(axis=0) for sums in model]) / weights.sum(axis=0)
            parts.append((by_seed.var(axis=0, ddof=1) / len(model), len(model) - 1))
    variance = sum(part for part, _ in parts)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = variance**2 / sum(part**2 / max(degrees, 1) for part, degrees in parts)
        reach = np.where(variance > 0, stats.t.ppf(0.975, np.maximum(freedom, 1)), 0) * np.sqrt(variance)
    reach = np.where(np.isnan(of_books), np.nan, reach)
    return Gap(mean, np.sqrt(variance), mean - reach, mean + reach)


@dataclass(frozen=True)
class Crossover:
    """The last change of sign of a gap, and the interval in which it may be."""

    position: float = np.nan  # NaN: one of them leads at every position, or they tie
    lo95: float = np.nan  # the last position before it where the gap has the old sign significantly; NaN: none
    hi95: float = np.nan  # the first position after it where the gap has the new sign significantly; NaN: none


def crossover(found: Gap, positions: np.ndarray) -> Crossover:
    """Where a gap changes sign for the last time, and the positions around it where the 95% interval includes 0.

    The gap is interpolated linearly in the logarithm of the position; positions with a gap of exactly 0 are skipped.
    Where the true gap is 0, its interval includes 0 in 95% of cases, so this one includes the true position about as
    often, and less often if the noise of neighbouring positions is independent and the gap is shallow.
    """
    signed = np.flatnonzero(found.gap)
    values, at = found.gap[signed], np.log(positions[signed])
    others = np.flatnonzero(np.sign(values) != np.sign(values[-1:]))
    if not len(others):
        return Crossover()
    i = others[-1]
    where = float(np.exp(at[i] + values[i] / (values[i] - values[i + 1]) * (at[i + 1] - at[i])))
    new, old = (found.lo95 > 0, found.hi95 < 0) if values[-1] > 0 else (found.hi95 < 0, found.lo95 > 0)
    before, after = positions[old & (positions <= where)], positions[new & (positions >= where)]
    return Crossover(where, max(before, default=np.nan), min(after, default=np.nan))
