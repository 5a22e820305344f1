"""Exact information of the Gaussian families, to a million positions and beyond (App. C, Fig. C.6).

    python gaussian_synthetic/exact_mi.py --family subvolume --out results/figC6/subvolume
    python gaussian_synthetic/exact_mi.py --family logarithmic --copies 64 --layers 6 --ell 100 2048 --out results/mine

Nothing is sampled or estimated. Information is in nats, for --copies independent sequences side by side; positions
count from 1. Writes into --out, each CSV with the columns family and copies:
    gaussian_mi.csv  L, ell, mi_nats                    I(ℓ; L) of the first ℓ positions and the others
    two_point.csv    L, i, j, mi_nats                   of two positions: first and last, and --pairs
    by_position.csv  L, position, entropy_nats          of W_t given W_<t
                     past_nats                          I(W_<t; W_t): what the past tells about this position
                     past_future_nats                   I(W_≤t; W_>t): what past and present tell about the rest
    rank.csv         L, ell, rank                       of Cov(X, Y): elements of the smallest linear history state
    fit.csv          straight lines through I(L/2; L) from --fit-layers on: `power_ols` (A, beta) in log-log,
                     `logarithm_ols` (A + B ln L), `selected` the one that predicts the last point better from the
                     others; and between neighbouring lengths `local_power` (beta)

Hardware: one CPU core, 2 seconds for 10 layers (L = 1,048,576; 0.5 GB), 10 more for the ranks to L = 1024. Expect
beta = log_4 3 = 0.7925 for subvolume, and B ln 4 = 0.025 nats a layer for logarithmic (paper: 0.79, and a logarithm).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from common.cli import UNCHECKED, UserError, run
from common.powerlaw import MIN_POINTS, Fit, fit_power_ols
from common.record import write_csv
from gaussian_synthetic.exact import dense, families
from gaussian_synthetic.exact.families import Family

COLUMNS = {  # of each CSV, behind family and copies
    "gaussian_mi": ["L", "ell", "mi_nats"],
    "two_point": ["L", "i", "j", "mi_nats"],
    "by_position": ["L", "position", "entropy_nats", "past_nats", "past_future_nats"],
    "rank": ["L", "ell", "rank"],
}
FIT_COLUMNS = ["source", "model", "estimator", "law", "parameter", "value", "L_min", "L_max", "heldout_error"]
FIT_COLUMNS += ["selected"]
SINGULAR = 1e-10  # singular values of a covariance below this times the largest are 0; they fall from 1e-4 to 1e-15


@dataclass(frozen=True)
class Settings:
    out: Path
    """folder for the CSVs"""
    family: str = "subvolume"
    """subvolume, logarithmic (App. C), or any name for one of your own, with --k"""
    copies: int = 1
    """independent sequences side by side in one token; the paper trains on 64"""
    layers: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    """L = n^layers for each; paper: 1 … 8. With several --n or --k: one number, as many as there are of these"""
    ell: tuple[int, ...] = ()
    """not in the paper: cuts ℓ in tokens beside L/2, at every L that is longer"""
    pairs: tuple[tuple[int, int], ...] = ()
    """not in the paper: further pairs of positions, `--pairs 1 100 7 64`, at every L that is as long"""
    position_layers: tuple[int, ...] = (4,)
    """not in the paper: the lengths of by_position.csv, as layers, where they are among --layers"""
    rank_layers: int = 5
    """not in the paper: ranks up to this many layers, at the same cuts; takes O(L²) memory, O(L³) time"""
    fit_layers: int = 3
    """the lines of fit.csv begin at this many layers"""
    k: tuple[int, ...] = field(default=(), metadata=UNCHECKED)
    """not in the paper: copied columns, one number or one for each layer above the first; β = log_n k"""
    n: tuple[int, ...] = field(default=(families.PAPER_N,), metadata=UNCHECKED)
    """not in the paper: branching, one number or one a layer"""
    coupling: float | None = None
    """not in the paper: correlation of two values of a row; −1/n if not given, the paper's −1/4"""

    def validate(self) -> None:
        if not self.layers:
            raise UserError("--layers names none: give one or more numbers of layers, e.g. --layers 1 2 3")
        if self.copies < 1:
            raise UserError(f"--copies {self.copies}: give at least 1")
        if self.family not in families.NAMED and not self.k:
            raise UserError(f"no family {self.family!r}: choose {' or '.join(families.NAMED)}, or give --k")
        if self.family in families.NAMED and (self.k or self.n != (families.PAPER_N,) or self.coupling is not None):
            raise UserError(
                f"--family {self.family} is the paper's, with k, n and coupling of its own: "
                "give a family with --k, --n or --coupling another name, e.g. --family mine"
            )
        if (len(self.k) > 1 or len(self.n) > 1) and len(self.layers) > 1:
            raise UserError(
                f"--layers {' '.join(map(str, self.layers))}: give one number where --k or --n has one a layer"
            )
        if self.out.exists() and not self.out.is_dir():
            raise UserError(f"--out {self.out} is a file: give a folder")
        lengths = [of.L for of in self.families(self.layers)]
        longest = max(lengths)
        for ell in self.ell:
            if not 1 <= ell < longest:
                raise UserError(f"--ell {ell}: cuts lie from 1 to L − 1 = {longest - 1:,} of the longest sequence")
        for i, j in self.pairs:
            if not (1 <= i <= longest and 1 <= j <= longest and i != j):
                raise UserError(f"--pairs {i} {j}: give two different positions from 1 to L = {longest:,}")

    @property
    def fit_from(self) -> int:
        """The L at which the lines of fit.csv begin."""
        return min((of.L for of in self.families(self.layers) if of.layers >= self.fit_layers), default=0)

    def families(self, layers: Iterable[int]) -> list[Family]:
        """Of each number of layers, ascending. UserError as families.family."""
        k = self.k or (families.NAMED[self.family],)
        n = self.n[0] if len(self.n) == 1 else self.n
        return [families.family(i, k[0] if len(k) == 1 else k, n, self.coupling) for i in sorted(layers)]


def bipartite_information(log_std: np.ndarray, ell: np.ndarray | int) -> np.ndarray:
    """I(ℓ; L) of one sequence at a cut or several, in nats. log_std: (L,) ln std(z_t | z_<t), families.conditional_std.

    H(X) + H(Y) − H(X, Y), entropies up to constants sums of log_std: with S_t the sum of the first t, and the law the
    same backwards (README.md), S_ℓ + S_{L−ℓ} − S_L. UserError: no cut at ell.
    """
    L, ell = len(log_std), np.asarray(ell)
    if not (ell.min() >= 1 and ell.max() < L):
        raise UserError(f"no cut at ell = {ell.max() if ell.min() >= 1 else ell.min()}: give 1 to L − 1 = {L - 1}")
    # Sums of a million terms whose difference counts: with the digits that long doubles add where there are any.
    sums = np.concatenate([[0], np.cumsum(log_std, dtype=np.longdouble)])
    return (sums[ell] + sums[L - ell] - sums[L]).astype(float)


def correlation(of: Family, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """corr(z_i, z_j) for m pairs of positions counted from 0, first and second (m,). Time O(L + layers · m).

    From the top down: a value depends on its row and, where it was mixed, on one beside it, so two neighbouring values
    of a layer come out of two neighbouring rows, whose copied columns are two neighbouring values of the layer below.
    From the bottom up: the 2 × 2 correlations of two such windows give those of the layer above.
    UserError: a position outside the sequence.
    """
    positions = [np.asarray(first), np.asarray(second)]
    if any(len(some) and not (some.min() >= 0 and some.max() < of.L) for some in positions):
        raise UserError(f"positions from 0 to {of.L - 1} make pairs, not others")
    # starts[side][layer]: where the window of two values begins.
    starts = [[np.minimum(some, of.L - 2)] for some in positions]
    for side in starts:
        for n, length in zip(reversed(of.n[1:]), reversed(of.lengths[:-1]), strict=True):
            rows_before = side[-1] // n - (side[-1] % n == 0)
            side.append(np.clip(rows_before, 0, length - 2))
        side.reverse()
    below, rows = np.zeros((len(positions[0]), 2, 2)), [np.zeros_like(some) for some in positions]
    for layer, (M, mix) in enumerate(families.mixings(of)):
        M, k, n = M.numpy(), of.k[layer], of.n[layer]
        own, other = mix.own.numpy(), mix.other.numpy()
        here = [side[layer] for side in starts]
        weights = [_weights(n, own, other, start, row) for start, row in zip(here, rows, strict=True)]
        copied, fresh = M[:, :k] @ M[:, :k].T, M[:, k:] @ M[:, k:].T
        same = (rows[0][:, None, None] + np.arange(2)[:, None]) == (rows[1][:, None, None] + np.arange(2))
        # a, b: which of the two values; s, t: which of the two rows; x, y: columns.
        one, two = "pasx,xy,pbty,pst->pab", (weights[0], weights[1])
        below = np.einsum(one, two[0], copied, two[1], below, optimize=True)
        below = below + np.einsum(one, two[0], fresh, two[1], same.astype(float), optimize=True)
        rows = here
    offset = [some - start for some, start in zip(positions, here, strict=True)]
    return below[np.arange(len(below)), offset[0], offset[1]]


def _weights(n: int, own: np.ndarray, other: np.ndarray, start: np.ndarray, row: np.ndarray) -> np.ndarray:
    """(m, 2, 2, n): the values start and start + 1 as sums over rows row and row + 1 and their columns, unmixed."""
    weights = np.zeros((len(start), 2, 2, n))
    m = np.arange(len(start))
    for which in range(2):
        of_row, column = np.divmod(start + which, n)
        at = of_row - row  # 0 or 1
        last = (column == n - 1) & (of_row < len(own) - 1)
        first = (column == 0) & (of_row > 0)
        pair = np.where(first, of_row - 1, of_row)  # the mixing of rows pair and pair + 1
        mixed = first | last
        weights[m, which, at, column] = np.where(mixed, own[pair], 1.0)
        beside = np.where(first, at - 1, at + 1)[mixed]
        weights[m[mixed], which, beside, np.where(first, n - 1, 0)[mixed]] = other[pair[mixed]]
    return weights


def two_point_information(of: Family, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """I(z_i; z_j) = −½ ln(1 − corr²) of one sequence, in nats; arguments as `correlation`."""
    return -np.log1p(-(correlation(of, first, second) ** 2)) / 2


def cross_rank(sigma: np.ndarray, ell: int) -> int:
    """Rank of Cov(X, Y), X the first ell positions of sigma (L, L): what a linear history state of X has to hold.

    The best prediction of Y is Cov(Y, X) Cov(X)⁻¹ X, so `rank` linear functions of X say all that X says about Y.
    """
    values = np.linalg.svd(sigma[:ell, ell:], compute_uv=False)
    return int((values > SINGULAR * values[0]).sum())


def fit_logarithm_ols(L: np.ndarray, mi_nats: np.ndarray) -> Fit:
    """A + B ln L by ordinary least squares, as common.powerlaw.fit_power_ols fits its line. L, mi_nats: (p,), p ≥ 3."""
    x, mi = np.log(L), np.asarray(mi_nats, dtype=float)
    B, A = np.polyfit(x, mi, 1)
    before = np.polyfit(x[:-1], mi[:-1], 1)
    return Fit(
        law="logarithm_ols",
        parameters={name: (float(value), math.nan, math.nan) for name, value in (("A", A), ("B", B))},
        L_min=L[0].item(),
        L_max=L[-1].item(),
        chi2=math.nan,
        dof=len(L) - 2,
        p_value=math.nan,
        aicc=math.nan,
        heldout_error=float(np.polyval(before, x[-1]) / mi[-1] - 1),
        scale="linear",
    )


def fits(name: str, middle: pd.DataFrame, L_from: int) -> pd.DataFrame:
    """Rows of fit.csv. middle: rows of gaussian_mi.csv at ℓ = L/2, ascending in L; L_from: where the lines begin."""
    L, mi = middle["L"].to_numpy(), middle["mi_nats"].to_numpy()
    rows = []
    inside = L >= L_from
    if inside.sum() >= MIN_POINTS:
        lines = [fit(L[inside], mi[inside]) for fit in (fit_power_ols, fit_logarithm_ols)]
        selected = min(lines, key=lambda line: abs(line.heldout_error)).law
        rows += [row | {"selected": row["law"] == selected} for line in lines for row in line.rows()]
    for i in range(len(L) - 1):
        beta = math.log(mi[i + 1] / mi[i]) / math.log(L[i + 1] / L[i])
        local = {"law": "local_power", "parameter": "beta", "value": beta, "selected": False}
        rows.append(local | {"L_min": L[i], "L_max": L[i + 1]})
    shared = {"source": name, "model": "exact", "estimator": "bipartite"}
    return pd.DataFrame([shared | row for row in rows], columns=FIT_COLUMNS)


def position_rows(log_std: np.ndarray, copies: int) -> list[tuple]:
    """The rows of by_position.csv for one length; log_std: (L,), see `bipartite_information`."""
    L = len(log_std)
    entropy = copies * (math.log(2 * math.pi * math.e) / 2 + log_std)
    past = 0.0 - copies * log_std  # every position has the variance 1
    past_future = np.append(copies * bipartite_information(log_std, np.arange(1, L)), 0.0)
    return list(zip([L] * L, range(1, L + 1), entropy, past, past_future, strict=True))


def main(cfg: Settings) -> None:
    started = time.time()
    cfg.validate()
    of_length = {of.L: of for of in cfg.families(cfg.layers)}
    rows: dict[str, list[tuple]] = {name: [] for name in COLUMNS}
    for L, of in tqdm(of_length.items(), desc="lengths", unit="length"):
        log_std = families.conditional_std(of).log().numpy()
        cuts = sorted({L // 2, *(ell for ell in cfg.ell if ell < L)})
        found = cfg.copies * bipartite_information(log_std, cuts)
        rows["gaussian_mi"] += zip([L] * len(cuts), cuts, found, strict=True)
        pairs = list(dict.fromkeys([(1, L), *(pair for pair in cfg.pairs if max(pair) <= L)]))
        first, second = np.array(pairs).T
        found = cfg.copies * two_point_information(of, first - 1, second - 1)
        rows["two_point"] += zip([L] * len(pairs), first, second, found, strict=True)
        if of.layers in cfg.position_layers:
            rows["by_position"] += position_rows(log_std, cfg.copies)
        if of.layers <= cfg.rank_layers:
            families.check_memory(4 * 8 * L**2, f"the covariance of {L:,} positions", "cpu")
            sigma = dense.covariance(of)
            rows["rank"] += [(L, ell, cfg.copies * cross_rank(sigma, ell)) for ell in cuts]
    tables = {name: pd.DataFrame(rows[name], columns=columns) for name, columns in COLUMNS.items() if rows[name]}
    for name, table in tables.items():
        names = pd.DataFrame({"family": cfg.family, "copies": cfg.copies}, index=table.index)
        write_csv(cfg.out / f"{name}.csv", names.join(table), cfg, started=started)
    mi = tables["gaussian_mi"]
    middle = mi[mi["ell"] == mi["L"] // 2]
    lines = fits(cfg.family, middle, cfg.fit_from)
    if len(lines):
        write_csv(cfg.out / "fit.csv", lines, cfg, started=started)

    for row in middle.itertuples():
        print(f"L = {row.L:>9,}  I(L/2; L) = {row.mi_nats:,.6f} nats")
    for row in lines[lines["law"] != "local_power"].itertuples():
        print(f"{row.law}: {row.parameter} = {row.value:.5g}, from L = {row.L_min:,} to {row.L_max:,}")
    print(f"wrote {', '.join(f'{name}.csv' for name in [*tables, *['fit'] * (len(lines) > 0)])} in {cfg.out}")


if __name__ == "__main__":
    run(main, Settings, __doc__)
