"""What a history state of d elements can tell about the future of a Gaussian sequence, exactly (not in the paper).

    python gaussian_synthetic/capacity.py --out results/capacity                       # L = 16, 64, 256: minutes
    python gaussian_synthetic/capacity.py --L 1024 4096 --cuts middle --out results/mine

A model that keeps d linear functions of the past for each of its independent copies cannot predict better than these
numbers allow, whatever it is trained for. There are three for each L and d, in nats per copy:
    middle     what any d linear functions of X lose about Y at the cut L/2: −½ Σ_{i>d} ln(1 − ρ_i²), with ρ the
               canonical correlations of X and Y in descending order
    lower      a state must serve every cut: divide the sequence into segments [a, b); the state at a loses at least
               what `middle` says for Y = Y_[a,b); the largest sum over all divisions (dynamic programming)
    attained   Σ_t ½ ln(v_t/p_t) of a filter s_t = U_t (s_{t−1}, y_t), found by L-BFGS from a greedy start; p_t is the
               variance of y_t given the whole past, v_t its variance given s_{t−1}
The loss of the best linear state lies between `lower` and `attained`. Caveats: these limits do not apply to a state
that is a nonlinear function of the past, and a model that sees the current token as well as its state has about one
more element per copy. Copies are independent and `middle` is convex in d, so S elements for c copies mean d = S/c.

Writes into --out:
    spectrum.csv   family, k, n, L, i, rho, information_nats: the canonical correlations at the middle cut
    capacity.csv   family, k, n, L, d, rank, mi_nats; for middle, lower and attained the columns <name>_nats, the sum
                   over positions for one copy, and <name>_kl_nats, the KL per token of --copies copies
A killed run resumes from `<out>/capacity.parts`. One CPU core: half a minute up to L = 64, 15 minutes up to 256.
Expect: rank 5, 16, 49 at L = 16, 64, 256; half of I(L/2; L) is lost at about 0.63 nats per element.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize
from tqdm import tqdm

from common.cli import at_least, run
from common.parallel import in_parallel
from common.record import read_csv, write_csv
from common.resume import RESUME_OK, Pieces, identity
from gaussian_synthetic.exact import dense, families

RANK_NATS = 1e-10  # a canonical direction with less information is a rounding error
CAPACITY = ["family", "k", "n", "L", "d", "mi_nats", "lower_nats", "attained_nats"]  # columns that other programs read
BYTES_A_PAIR = 6 * 8  # memory per pair of positions: Σ and its factors in float64
_sigma = lru_cache(maxsize=2)(dense.covariance)


@dataclass(frozen=True)
class Settings:
    out: Path = field(metadata=RESUME_OK)  # folder for the CSVs
    L: tuple[int, ...] = (16, 64, 256)  # tokens: powers of n
    d: tuple[int, ...] = ()
    """elements of the state per copy; default: from 0 to the rank, all up to 16, then about 8 values per doubling"""
    family: Literal["subvolume", "logarithmic"] = "subvolume"  # App. C: three of the four columns copied, or one
    k: int | None = None  # copied columns, instead of the family's
    n: int = families.PAPER_N  # branching: values per row
    copies: int = 64  # independent sequences side by side in one token, for the KL per token
    cuts: Literal["all", "middle"] = "all"  # middle: skips lower and attained, which take O(L³) time for each d
    iterations: int = 300  # maximum iterations of L-BFGS, starting from the greedy filter
    processes: int = field(default=1, metadata=RESUME_OK)  # each works on one L and d at a time

    def validate(self) -> None:
        for L in self.L:
            self.build(L)
            needed = BYTES_A_PAIR * L**2
            families.check_memory(needed, f"the dense algebra of L = {L:,}")
        at_least(0, self, "d")
        at_least(1, self, "copies", "iterations", "processes")

    def build(self, L: int) -> families.Family:
        return families.named(self.family, families.layers_of_length(L, self.n), self.k, self.n)


def canonical_correlations(sigma: np.ndarray, cut: int) -> np.ndarray:
    """ρ between the first `cut` positions and the others, descending, (min(cut, L − cut),). sigma: (L, L)."""
    return np.linalg.svd(_whitened_cross(sigma, cut), compute_uv=False)


def _whitened_cross(sigma: np.ndarray, cut: int) -> np.ndarray:
    """C_X⁻¹ Σ_XY C_Y⁻ᵀ, (cut, L − cut). Its first j columns depend only on X and the first j positions of Y."""
    of_x, of_y = (torch.from_numpy(np.linalg.cholesky(block)) for block in (sigma[:cut, :cut], sigma[cut:, cut:]))
    cross = torch.linalg.solve_triangular(of_x, torch.from_numpy(sigma[:cut, cut:].copy()), upper=False)
    return torch.linalg.solve_triangular(of_y, cross.T.contiguous(), upper=False).T.numpy()


def beyond(rho: np.ndarray, d: np.ndarray) -> np.ndarray:
    """−½ Σ_{i>d} ln(1 − ρ_i²) in nats, (…, len(d)). rho: (…, r), descending."""
    lost = dense.information(rho)
    tails = np.concatenate([lost[..., ::-1].cumsum(axis=-1)[..., ::-1], np.zeros_like(lost[..., :1])], axis=-1)
    return tails[..., np.minimum(d, rho.shape[-1])]


def lower_bounds(sigma: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The largest sum over segments of what d elements at a segment's start lose about it, in nats, (len(d),)."""
    L = len(sigma)
    best = np.zeros((L + 1, len(d)))  # largest sum for the positions before each cut; the first segment loses nothing
    for a in range(1, L):
        cross = _whitened_cross(sigma, a)
        _, values, right = np.linalg.svd(cross, full_matrices=False)
        kept = int(np.searchsorted(-values, -math.sqrt(2 * RANK_NATS) / L))
        rows = torch.from_numpy(values[:kept, None] * right[:kept])  # same inner products of columns, fewer rows
        grams = torch.einsum("ij,kj->jik", rows, rows).cumsum(dim=0)  # Gram matrices of the first 1, 2, … columns
        squares = torch.linalg.eigvalsh(grams).flip(1).clamp(0, 1 - 1e-15).numpy()
        best[a + 1 :] = np.maximum(best[a + 1 :], best[a] + beyond(np.sqrt(squares), d))
    return best[L]


def filter_variances(sigma: torch.Tensor, maps: torch.Tensor | None, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    """v_t = Var(y_t | s_{t−1}), (L,), of a filter that keeps d elements, and its maps Q_t, (L − d − 1, d, d+1).

    State and innovation, z_t = (s_{t−1}, (y_t − E[y_t | s_{t−1}])/√v_t), have the identity as covariance, and
    s_t = Q_t z_t, where Q_t has orthonormal rows. Q_t is maps[t − d], orthonormalised; if `maps` is None, it selects
    the d directions of z_t that tell most about the future. The first d states keep everything.
    """
    L = len(sigma)
    cross = sigma.new_empty(0, L)  # Cov(s_{t−1}, y_t …)
    variances, used = [], []
    for t in range(L):
        now = cross[:, 0]
        variances.append(1 - now @ now)
        innovation = (sigma[t, t + 1 :] - now @ cross[:, 1:]) / variances[-1].sqrt()
        joint = torch.cat([cross[:, 1:], innovation[None]])
        if t < d:
            cross = joint
        elif t < L - 1:
            if maps is None:
                of_future = torch.linalg.cholesky(sigma[t + 1 :, t + 1 :])
                whitened = torch.linalg.solve_triangular(of_future, joint.T, upper=False)
                keep = torch.linalg.svd(whitened, full_matrices=True)[2][:d]
            else:
                given = maps[t - d]  # not QR: its arbitrary signs would change the basis that later maps assume
                keep = torch.linalg.solve_triangular(torch.linalg.cholesky(given @ given.T), given, upper=False)
            used.append(keep)
            cross = keep @ joint
    return torch.stack(variances), torch.stack(used) if used else sigma.new_empty(0, d, d + 1)


def best_filter(sigma: np.ndarray, log_std: np.ndarray, d: int, iterations: int) -> tuple[float, np.ndarray]:
    """Σ_t ½ ln(v_t/p_t) of the best filter found, in nats per copy, and its maps. log_std: (L,), ½ ln p_t."""
    cov, floor = torch.from_numpy(sigma), float(log_std.sum())

    def loss(maps: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        variances, used = filter_variances(cov, maps, d)
        return variances.log().sum() / 2 - floor, used

    def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        maps = torch.from_numpy(flat.reshape(start.shape)).requires_grad_()
        value = loss(maps)[0]
        value.backward()
        return value.item(), maps.grad.numpy().ravel()

    with torch.no_grad():
        value, maps = loss(None)
    if d == 0 or not len(maps):
        return value.item(), maps.numpy()
    start = maps.numpy()
    options = {"maxiter": iterations, "maxfun": 2 * iterations, "maxcor": 20, "ftol": 1e-10, "gtol": 1e-9}
    found = minimize(value_and_gradient, start.ravel(), jac=True, method="L-BFGS-B", options=options)
    with torch.no_grad():
        value, maps = loss(torch.from_numpy(found.x.reshape(start.shape)))
    return value.item(), maps.numpy()


def rank_of(rho: np.ndarray) -> int:
    """Number of canonical directions with more information than rounding errors produce (RANK_NATS)."""
    return int((beyond(rho, np.arange(len(rho))) > RANK_NATS).sum())


def default_d(rank: int) -> list[int]:
    """0 … 16, then about 8 values per doubling, and the rank."""
    beyond_16 = np.unique(np.round(2 ** np.arange(4, math.log2(max(rank, 16)) + 1e-9, 1 / 8)).astype(int))
    return sorted({*range(min(rank, 16) + 1), *(int(d) for d in beyond_16 if d < rank), rank})


def _attained(task: tuple[int, int], cfg: Settings) -> float:
    torch.set_num_threads(1)
    L, d = task
    of = cfg.build(L)
    return best_filter(_sigma(of), families.conditional_std(of).log().numpy(), d, cfg.iterations)[0]


def tables(cfg: Settings, pieces: Pieces) -> tuple[pd.DataFrame, pd.DataFrame]:
    """spectrum.csv and capacity.csv. The attained values, which take most of the time, are stored as pieces."""
    spectra, rows, wanted = [], [], []
    for L in cfg.L:
        of = cfg.build(L)
        names = {"family": cfg.family, "k": of.k, "n": cfg.n, "L": L}
        sigma = _sigma(of)
        rho = canonical_correlations(sigma, L // 2)
        rank = rank_of(rho)
        numbers, information = np.arange(1, rank + 1), dense.information(rho[:rank])
        spectra.append(pd.DataFrame(names | {"i": numbers, "rho": rho[:rank], "information_nats": information}))
        d = np.array(sorted(cfg.d) or default_d(rank))
        table = pd.DataFrame(names | {"d": d, "rank": rank, "mi_nats": information.sum()})
        table["middle_nats"] = np.where(d >= rank, 0.0, beyond(rho, d))
        table["lower_nats"] = lower_bounds(sigma, d) if cfg.cuts == "all" else np.nan
        rows.append(table)
        wanted += [(L, int(one)) for one in d]
    attained = dict.fromkeys(wanted, math.nan)
    if cfg.cuts == "all":
        left = [(L, d) for L, d in wanted if not pieces.done(f"{L}-{d}")]
        with tqdm(total=len(wanted), initial=len(wanted) - len(left), desc="filters") as bar:
            for (L, d), value in in_parallel(partial(_attained, cfg=cfg), left, cfg.processes):
                pieces.write(f"{L}-{d}", {"attained_nats": np.float64(value)})
                bar.update()
        attained = {(L, d): float(pieces.read(f"{L}-{d}", {"attained_nats": ()})["attained_nats"]) for L, d in wanted}
    table = pd.concat(rows, ignore_index=True)
    table["attained_nats"] = [attained[key] for key in zip(table["L"], table["d"], strict=True)]
    for name in ("middle", "lower", "attained"):
        table[f"{name}_kl_nats"] = cfg.copies * table[f"{name}_nats"] / table["L"]
    return pd.concat(spectra, ignore_index=True), table


def read_capacity(path: Path) -> pd.DataFrame:
    """Read capacity.csv. UserError: the file is missing or damaged."""
    return read_csv(path, CAPACITY, "make it with python gaussian_synthetic/capacity.py", CAPACITY[1:])


def main(cfg: Settings) -> None:
    pieces = Pieces(cfg.out / "capacity.parts", identity(cfg))
    spectrum, capacity = tables(cfg, pieces)
    write_csv(cfg.out / "spectrum.csv", spectrum, cfg)
    write_csv(cfg.out / "capacity.csv", capacity, cfg)
    pieces.remove()
    for L, rows in capacity.groupby("L"):
        print(f"L = {L}: rank {rows['rank'].iloc[0]}, I(L/2; L) = {rows['mi_nats'].iloc[0]:.4g} nats per copy")
    print(f"spectrum.csv and capacity.csv are in {cfg.out}")


if __name__ == "__main__":
    run(main, Settings, __doc__)
