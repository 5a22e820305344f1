"""Exact information of the Gaussian families, up to a million positions and more (App. C, Fig. C.6).

    python gaussian_synthetic/exact_mi.py --family subvolume --out results/figC6/subvolume
    python gaussian_synthetic/exact_mi.py --family logarithmic --copies 64 --layers 6 --ell 100 2048 --out results/mine

Nothing is sampled or estimated. Information is in nats, for --copies independent sequences side by side; positions
count from 1. Writes into --out (the first three CSVs also have the columns family and copies):
    gaussian_mi.csv  L, ell, mi_nats                    I(ℓ; L) between the first ℓ positions and the others
    two_point.csv    L, i, j, mi_nats                   information between the first and the last position
    rank.csv         L, ell, rank                       rank of Cov(X, Y): size of the smallest linear history state
    fit.csv          straight lines through I(L/2; L) for three layers and more: `power_ols` (A, beta) in log-log,
                     `logarithm_ols` (A + B ln L); `selected` marks the one that better predicts the last point from
                     the others; and `local_power` (beta) between neighbouring lengths

Hardware: one CPU core, 5 seconds for 10 layers (L = 1,048,576; 0.5 GB) and the ranks up to L = 1024. Expect
beta = log_4 3 = 0.7925 for subvolume, and B ln 4 = 0.025 nats per layer for logarithmic (paper: 0.79, and a logarithm).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from common.cli import UserError, at_least, run
from common.powerlaw import MIN_POINTS, fit_power_ols
from common.record import remove_csv, write_csv
from gaussian_synthetic.exact import dense, families
from gaussian_synthetic.exact.families import Family

COLUMNS = {  # columns of each CSV, after family and copies
    "gaussian_mi": ["L", "ell", "mi_nats"],
    "two_point": ["L", "i", "j", "mi_nats"],
    "rank": ["L", "ell", "rank"],
}
FIT_COLUMNS = ["source", "model", "estimator", "law", "parameter", "value", "L_min", "L_max", "heldout_error"]
FIT_COLUMNS += ["selected"]
FIT_LAYERS = 3  # smallest number of layers in the lines of fit.csv
SINGULAR = 1e-10  # relative to the largest singular value; smaller ones count as 0 (they drop from 1e-4 to 1e-15)


@dataclass(frozen=True)
class Settings:
    out: Path  # folder for the CSVs
    family: str = "subvolume"  # subvolume, logarithmic (App. C), or a name for your own family, with --k
    copies: int = 1  # independent sequences side by side in one token; the paper trains on 64
    layers: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)  # L = n^layers for each; paper: 1 … 8
    ell: tuple[int, ...] = ()  # not in the paper: more cuts ℓ in tokens besides L/2, used at every L > ℓ
    rank_layers: int = 5
    """not in the paper: compute ranks up to this many layers, at the same cuts; takes O(L²) memory, O(L³) time"""
    k: int | None = None  # not in the paper: copied columns; β = log_n k
    n: int = families.PAPER_N  # not in the paper: branching, values per row

    def validate(self) -> None:
        at_least(1, self, "copies")
        if self.family in families.NAMED and (self.k, self.n) != (None, families.PAPER_N):
            raise UserError(
                f"--family {self.family} is the paper's, with k and n of its own: "
                "give a family with --k or --n another name, e.g. --family mine"
            )
        longest = self.families()[-1].L
        for ell in self.ell:
            if not 1 <= ell < longest:
                raise UserError(f"--ell {ell}: must be from 1 to L − 1 = {longest - 1:,} for the longest sequence")

    def families(self) -> list[Family]:
        """The family for each number of layers, ascending. UserError: as families.named."""
        return [families.named(self.family, layers, self.k, self.n) for layers in sorted(self.layers)]


def bipartite_information(log_std: np.ndarray, ell: np.ndarray | int) -> np.ndarray:
    """I(ℓ; L) of one sequence at one or more cuts, in nats. log_std: (L,) ln std(z_t | z_<t), families.conditional_std.

    I = H(X) + H(Y) − H(X, Y), where each entropy is a sum of log_std up to constants that cancel. The
    distribution is the same backwards (docs/gaussian_families.md), so with S_t the sum of the first t,
    I = S_ℓ + S_{L−ℓ} − S_L. UserError: no cut at ell.
    """
    L, ell, log_std = len(log_std), np.asarray(ell), np.asarray(log_std)
    if not (ell.min() >= 1 and ell.max() < L):
        raise UserError(f"no cut at ell = {ell.max() if ell.min() >= 1 else ell.min()}: give 1 to L − 1 = {L - 1}")
    # A small difference of sums of a million terms: long doubles are more accurate on platforms that have them.
    sums = np.concatenate([[0], np.cumsum(log_std, dtype=np.longdouble)])
    return (sums[ell] + sums[L - ell] - sums[L]).astype(float)


def correlation(of: Family, first: np.ndarray | int, second: np.ndarray | int) -> np.ndarray:
    """corr(z_i, z_j), (m,), for m pairs of positions, first and second (m,) or two numbers, counted from 0.

    Time O(L · different positions).
    Every z_i is a weighted sum of the independent normals of all layers. From the top down, its weights on a layer's
    output give its weights on the layer's fresh normals and on the output of the copies below, by the transposes of
    the steps of a draw in reverse order (mixing, then M). UserError: a position outside the sequence.
    """
    first, second = np.atleast_1d(first, second)
    positions, index = np.unique(np.concatenate([first, second]), return_inverse=True)
    if len(positions) and not (positions[0] >= 0 and positions[-1] < of.L):
        raise UserError(f"positions must lie between 0 and {of.L - 1}")
    weights = torch.zeros(of.L, len(positions), dtype=torch.float64)
    weights[positions, range(len(positions))] = 1
    products = torch.zeros(len(positions), len(positions), dtype=torch.float64)
    for k, (M, mix) in reversed(list(zip(of.copied, families.mixings(of), strict=True))):
        Z = weights.view(len(mix.own), len(M), -1)
        families.mix_rows(Z, mix.own, mix.other)
        X = M.T @ Z
        fresh = X[:, k:].reshape(-1, len(positions))
        products += fresh.T @ fresh
        weights = X[:, :k].flatten(1)
    return products.numpy()[index[: len(first)], index[len(first) :]]


def two_point_information(of: Family, first: np.ndarray | int, second: np.ndarray | int) -> np.ndarray:
    """I(z_i; z_j) = −½ ln(1 − corr²) in one sequence, in nats; infinite for i = j. Arguments: as `correlation`."""
    same = np.equal(first, second)
    return np.where(same, np.inf, dense.information(np.where(same, 0, correlation(of, first, second))))


def cross_rank(sigma: np.ndarray, ell: int) -> int:
    """Rank of Cov(X, Y), X the first ell positions of sigma (L, L): elements that a linear history state of X needs.

    The best prediction of Y is Cov(Y, X) Cov(X)⁻¹ X, so this many linear functions of X tell all that X tells about Y.
    """
    values = np.linalg.svd(sigma[:ell, ell:], compute_uv=False)
    return int((values > SINGULAR * values[0]).sum())


def logarithm_rows(L: np.ndarray, mi_nats: np.ndarray) -> list[dict[str, float | str]]:
    """Rows of fit.csv for A + B ln L, fitted by least squares like fit_power_ols. L, mi_nats: (p,), p ≥ 3."""
    x = np.log(L)
    B, A = np.polyfit(x, mi_nats, 1)
    predicted = np.polyval(np.polyfit(x[:-1], mi_nats[:-1], 1), x[-1])
    line = {"law": "logarithm_ols", "L_min": L[0], "L_max": L[-1], "heldout_error": predicted / mi_nats[-1] - 1}
    return [line | {"parameter": name, "value": value} for name, value in (("A", A), ("B", B))]


def fits(name: str, middle: pd.DataFrame, L_from: int) -> pd.DataFrame:
    """Rows of fit.csv. middle: rows of gaussian_mi.csv at ℓ = L/2, ascending in L; L_from: smallest L in the lines."""
    L, mi = middle["L"].to_numpy(), middle["mi_nats"].to_numpy()
    rows, inside = [], L >= L_from
    if inside.sum() >= MIN_POINTS:
        lines = [fit_power_ols(L[inside], mi[inside]).rows(), logarithm_rows(L[inside], mi[inside])]
        selected = min(lines, key=lambda line: abs(line[0]["heldout_error"]))
        rows += [row | {"selected": line is selected} for line in lines for row in line]
    local = np.diff(np.log(mi)) / np.diff(np.log(L))
    for i, beta in enumerate(local):
        place = {"L_min": L[i], "L_max": L[i + 1], "selected": False}
        rows.append({"law": "local_power", "parameter": "beta", "value": beta} | place)
    shared = {"source": name, "model": "exact", "estimator": "bipartite"}
    return pd.DataFrame([shared | row for row in rows], columns=FIT_COLUMNS)


def main(cfg: Settings) -> None:
    of_length = {of.L: of for of in cfg.families()}
    rows: dict[str, list[tuple]] = {name: [] for name in COLUMNS}
    for L, of in tqdm(of_length.items(), desc="lengths", unit="length"):
        log_std = families.conditional_std(of).log().numpy()
        cuts = sorted({L // 2, *(ell for ell in cfg.ell if ell < L)})
        found = cfg.copies * bipartite_information(log_std, cuts)
        rows["gaussian_mi"] += zip([L] * len(cuts), cuts, found, strict=True)
        ends = two_point_information(of, np.array([0]), np.array([L - 1]))
        rows["two_point"].append((L, 1, L, cfg.copies * ends[0]))
        if of.layers <= cfg.rank_layers:
            families.check_memory(4 * 8 * L**2, f"the covariance of {L:,} positions")
            sigma = dense.covariance(of)
            rows["rank"] += [(L, ell, cfg.copies * cross_rank(sigma, ell)) for ell in cuts]
    tables = {}
    for name, columns in COLUMNS.items():
        table = pd.DataFrame(rows[name], columns=columns)
        names = pd.DataFrame({"family": cfg.family, "copies": cfg.copies}, index=table.index)
        tables[name] = names.join(table)
    mi = tables["gaussian_mi"]
    middle = mi[mi["ell"] == mi["L"] // 2]
    L_from = min((L for L, of in of_length.items() if of.layers >= FIT_LAYERS), default=0)
    tables["fit"] = lines = fits(cfg.family, middle, L_from)
    for name, table in tables.items():
        if len(table):
            write_csv(cfg.out / f"{name}.csv", table, cfg)
        else:
            remove_csv(cfg.out / f"{name}.csv")

    for row in lines[lines["law"] != "local_power"].itertuples():
        print(f"{row.law}: {row.parameter} = {row.value:.5g}, from L = {row.L_min:,} to {row.L_max:,}")
    print(f"wrote {', '.join(f'{name}.csv' for name, table in tables.items() if len(table))} in {cfg.out}")


if __name__ == "__main__":
    run(main, Settings, __doc__)
