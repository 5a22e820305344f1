"""How well one curve in I(L/2; L) / dim(z) explains the KL of all models and lengths (Fig. 3c), as one number.

    python gaussian_synthetic/collapse.py --summary results/fig3/summary.csv --out results/fig3/collapse.csv

Reads summary.csv (evaluate.py) and uses the models whose history state has the same size at every length, like Mamba's.
A cell is one model at one length, with ln KL averaged over seeds. For each predictor below, a polynomial in the
logarithm of the predictor is fitted to the cells that are kept, and predicts ln KL of the cells that are left out:
    explained = 1 − Σ (ln KL − predicted)² / Σ (ln KL − mean of the cells that are kept)²
This is 1 if one curve explains everything, and 0 or less if the curve is useless. Predictors:
    mi_per_state      I(L/2; L) / dim(z), the paper's claim
    L, state_size
    parameters        number of parameters at the model's shortest length, since a table of positions grows with L
    frontier          the KL of the best linear state of the same size (capacity.py), plus the fraction NEGLIGIBLE of
                      what ignoring the past costs, because that KL is 0 above some size
The 95% intervals treat cells as independent: linearised error of a ratio of two sums over cells, with Student's t.
Rows such as `mi_per_state − L` hold the difference on the same cells; above 0, the paper's claim explains more.

Writes collapse.csv: kl_of (`trained`, or `linear`: the KL of the best linear states of all sizes in capacity.csv, at
the lengths of the models, where it is above NEGLIGIBLE), cells_of (all, or only those that converged at every seed),
left_out (one cell at a time, or one length), degree, predictor, explained, lo95, hi95, residual_sd (of ln KL), cells,
runs. One CPU core, seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from common.cli import UserError, run
from common.record import ROOT, read_csv, write_csv
from gaussian_synthetic.capacity import read_capacity

COLUMNS = ["L", "seed", "state_size", "mi_nats", "mean_kl_nats", "parameters", "frontier_hi_nats", "k", "n", "copies"]
WORDS = ["model", "converged", "family"]
CLAIM = "mi_per_state"
PREDICTORS = (CLAIM, "L", "state_size", "parameters", "frontier")
NEGLIGIBLE = 0.002  # fraction of the KL of `independent`; a run below it has converged (evaluate.py)
MIN_CELLS = 8
RESULT = ["kl_of", "cells_of", "left_out", "degree", "predictor", "explained", "lo95", "hi95", "residual_sd"]
RESULT += ["cells", "runs"]
REMEDY = "make it with python gaussian_synthetic/evaluate.py --runs … --out results/mine"


@dataclass(frozen=True)
class Settings:
    summary: Path  # summary.csv of evaluate.py
    out: Path  # the CSV to write
    capacity: Path = ROOT / "results/capacity/capacity.csv"  # capacity.csv of capacity.py


def read_runs(path: Path) -> pd.DataFrame:
    """Runs of models with a fixed state and several lengths; adds mi_per_state, frontier, floor and ln_kl. UserError: a
    bad file, too few cells.
    """
    table = read_csv(path, [*WORDS, *COLUMNS], REMEDY, COLUMNS)
    table["converged"] = table["converged"] == "True"
    ignoring = table[table["state_size"] == 0].groupby("L")["mean_kl_nats"].mean()
    table = table[table["state_size"] > 0]  # `independent` keeps nothing
    models = table.groupby("model")
    table = table[(models["state_size"].transform("nunique") == 1) & (models["L"].transform("nunique") > 1)]
    if not (table[["mean_kl_nats", "mi_nats", "L", "parameters"]] > 0).all(axis=None):
        raise UserError(f"{path}: a number is 0 or negative, so it has no logarithm: {REMEDY}")
    cells = table.groupby(["model", "L"]).ngroups
    if cells < MIN_CELLS:
        raise UserError(f"{path} has {cells} cells (see --help) and {MIN_CELLS} are needed: evaluate more runs")
    table["parameters"] = table.groupby("model")["parameters"].transform("min")
    table["floor"] = NEGLIGIBLE * table["L"].map(ignoring)
    table["frontier"] = table["frontier_hi_nats"].fillna(0) + table["floor"]
    return table.assign(mi_per_state=table["mi_nats"] / table["state_size"], ln_kl=np.log(table["mean_kl_nats"]))


def left_out_errors(x: np.ndarray, y: np.ndarray, degree: int, groups: np.ndarray) -> np.ndarray:
    """(cells,): y minus the prediction of a polynomial in x fitted to the other groups. x, y, groups: (cells,)."""
    X = np.vander(x - x.mean(), degree + 1)
    errors = np.empty(len(y))
    for group in np.unique(groups):
        out = groups == group
        # The solution of least norm if too few cells are left to determine the polynomial.
        errors[out] = y[out] - X[out] @ np.linalg.lstsq(X[~out], y[~out], rcond=None)[0]
    return errors


def ratio(parts: np.ndarray, whole: np.ndarray) -> tuple[float, float]:
    """Σ parts / Σ whole over cells, and the half width of its 95% interval, linearised. parts, whole: (cells,)."""
    n, value = len(whole), parts.sum() / whole.sum()
    error = np.sqrt(n / (n - 1) * ((parts - value * whole) ** 2).sum()) / whole.sum()
    return value, stats.t.ppf(0.975, n - 1) * error


def linear_cells(capacity: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """A cell per L and d of capacity.csv, for the runs' family and lengths, if its KL is above the floor.

    state_size is per copy, kl per token of all copies.
    """
    of = runs.groupby("L").agg(floor=("floor", "first"), copies=("copies", "first"))
    here = capacity[capacity["L"].isin(of.index) & (capacity["d"] > 0)]
    for name in ("family", "k", "n"):
        here = here[here[name] == runs[name].iloc[0]]
    kl = here["attained_nats"] * here["L"].map(of["copies"]) / here["L"]
    table = here.assign(state_size=here["d"], mi_per_state=here["mi_nats"] / here["d"], kl=kl, runs=0, converged=True)
    table = table[table["kl"] > table["L"].map(of["floor"])]
    return table.assign(ln_kl=np.log(table["kl"]))


def explained(cells: pd.DataFrame, predictors: Sequence[str], left_out: str, degree: int) -> pd.DataFrame:
    """Rows of collapse.csv. cells: columns L, ln_kl and the predictors; left_out: "cell" or "length"."""
    y, groups = cells["ln_kl"].to_numpy(), (cells["L"] if left_out == "length" else cells.index).to_numpy()
    whole = left_out_errors(np.zeros(len(y)), y, 0, groups) ** 2
    left = {name: left_out_errors(np.log(cells[name].to_numpy(float)), y, degree, groups) ** 2 for name in predictors}
    rows = []
    for name, squares in left.items():
        unexplained, reach = ratio(squares, whole)
        ends = unexplained * np.exp(np.array([1, -1]) * reach / unexplained)  # in the logarithm, to stay above 0
        rows.append((name, 1 - unexplained, *(1 - ends), np.sqrt(squares.mean())))
    for name in predictors[1:]:
        difference, reach = ratio(left[name] - left[CLAIM], whole)
        rows.append((f"{CLAIM} − {name}", difference, difference - reach, difference + reach, np.nan))
    table = pd.DataFrame(rows, columns=["predictor", "explained", "lo95", "hi95", "residual_sd"])
    return table.assign(left_out=left_out, degree=degree, cells=len(cells))


def collapse(runs: pd.DataFrame, capacity: pd.DataFrame) -> pd.DataFrame:
    """All rows of collapse.csv. runs: from `read_runs`; capacity: the table in capacity.csv."""
    tables = []
    means = {name: (name, "mean") for name in (*PREDICTORS[2:], CLAIM, "ln_kl")}
    every = (
        runs.groupby(["model", "L"]).agg(**means, converged=("converged", "all"), runs=("seed", "size")).reset_index()
    )
    chosen = [("trained", "all", every, PREDICTORS), ("trained", "converged", every[every["converged"]], PREDICTORS)]
    chosen.append(("linear", "all", linear_cells(capacity, runs), PREDICTORS[:3]))
    for kl_of, cells_of, cells, predictors in chosen:
        for left_out in ("cell", "length"):
            for degree in (1, 2):
                if len(cells) >= MIN_CELLS and cells["L"].nunique() > 1:
                    table = explained(cells.reset_index(drop=True), predictors, left_out, degree)
                    tables.append(table.assign(kl_of=kl_of, cells_of=cells_of, runs=cells["runs"].sum()))
    return pd.concat(tables, ignore_index=True)[RESULT]


def main(cfg: Settings) -> None:
    runs = read_runs(cfg.summary)
    table, models = collapse(runs, read_capacity(cfg.capacity)), sorted(runs["model"].unique())
    write_csv(cfg.out, table, cfg, [cfg.summary, cfg.capacity], models=models)
    print(f"{len(runs)} runs of {', '.join(models)}")
    shown = table[(table["degree"] == 2) & (table["left_out"] == "cell") & table["residual_sd"].notna()]
    print(shown[RESULT[:-2]].round(3).to_string(index=False))
    print(f"wrote {cfg.out}")


if __name__ == "__main__":
    run(main, Settings, __doc__)
