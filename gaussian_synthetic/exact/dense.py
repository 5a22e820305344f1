"""The same families by plain, slow, dense linear algebra: the reference for tests and benchmarks.

The covariance takes O(L²) memory and time, all else O(L³) time. Only the definition of a family is from families.py.
"""

from __future__ import annotations

import numpy as np
import torch

from gaussian_synthetic.exact.families import WEIGHT_BESIDE, WEIGHT_OWN, Family, row_matrix


def covariance(of: Family) -> np.ndarray:
    """Σ of one sequence, (L, L) float64, with unit variances; follows App. C literally."""
    sigma = np.eye(1)
    M, n = row_matrix(of.n, of.coupling).numpy(), of.n
    for k in of.copied:
        rows = len(sigma)
        sigma = np.kron(sigma, M[:, :k] @ M[:, :k].T) + np.kron(np.eye(rows), M[:, k:] @ M[:, k:].T)
        last = np.arange(n - 1, rows * n - 1, n)  # last value of each row, mixed with the first of the next row
        T = []
        for i in last:
            old = sigma[i, i + 1]
            new = WEIGHT_BESIDE * (sigma[i - 1, i] + sigma[i + 1, i + 2]) + WEIGHT_OWN * old
            T.append(_root(new) @ np.linalg.inv(_root(old)))
        T = np.array(T).reshape(-1, 2, 2, 1)
        for _ in range(2):  # the rows of Σ, then its columns
            one, two = sigma[last], sigma[last + 1]
            sigma[last] = T[:, 0, 0] * one + T[:, 0, 1] * two
            sigma[last + 1] = T[:, 1, 0] * one + T[:, 1, 1] * two
            sigma = sigma.T
    return sigma


def _root(correlation: float) -> np.ndarray:
    """The symmetric square root of the 2 × 2 correlation matrix."""
    values, vectors = np.linalg.eigh(np.array([[1, correlation], [correlation, 1]]))
    return vectors * np.sqrt(values) @ vectors.T


def conditionals(sigma: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means (L, batch) and standard deviations (L,) of z_t given z_<t. z: (L, batch), sigma: (L, L).

    With Σ = C Cᵀ and z = C ε, z_t has mean Σ_{s<t} C_ts ε_s and standard deviation C_tt.
    """
    C = np.linalg.cholesky(sigma)
    noise = torch.linalg.solve_triangular(torch.from_numpy(C), torch.from_numpy(z), upper=False).numpy()
    return z - np.diag(C)[:, None] * noise, np.diag(C).copy()


def information(rho: np.ndarray) -> np.ndarray:
    """−½ ln(1 − ρ²), the information between two normal variables with correlation ρ, in nats."""
    return -np.log1p(-(rho**2)) / 2


def mutual_information(sigma: np.ndarray, ell: int) -> float:
    """I(ℓ; L) = ½ (log det Σ_XX + log det Σ_YY − log det Σ) in nats; X: the first ell positions of sigma."""
    halves = np.linalg.slogdet(sigma[:ell, :ell])[1] + np.linalg.slogdet(sigma[ell:, ell:])[1]
    return float(halves - np.linalg.slogdet(sigma)[1]) / 2
