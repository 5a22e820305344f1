"""How well one curve in I(L/2; L) / dim(z) explains the KL of all models and lengths (Fig. 3c), as one number.

    python gaussian_synthetic/collapse.py --summary results/fig3/summary.csv --out results/fig3/collapse.csv

Reads summary.csv (evaluate.py) and uses the models whose history state is the same at every length, like Mamba's. A
cell is a model at a length, with the mean over seeds of ln KL. For each predictor below, a parabola in the logarithm of
the predictor is fitted to all cells but one and predicts ln KL of that one:
    explained = 1 − Σ (ln KL − predicted)² / Σ (ln KL − mean of the others)²
This is 1 if one curve explains everything, and 0 or less if the curve is useless. Predictors:
    mi_per_state      I(L/2; L) / dim(z), the paper's claim
    L, state_size
    parameters        of the model at its shortest length; with its table of positions they would depend on L
The 95% intervals take cells as independent: the linearised error of a ratio of two sums over cells, and Student's t.
Rows such as `mi_per_state − L` hold the difference on the same cells; above 0 the paper's claim explains more.

Writes collapse.csv: predictor, explained, lo95, hi95, residual_sd (of ln KL), cells, runs. One CPU core, seconds.
Expect: near 1 for mi_per_state if the state limits the models, rather than their training.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from common.cli import UserError, run
from common.record import numbers, read_csv, write_csv

COLUMNS = ["model", "L", "seed", "state_size", "mi_nats", "mean_kl_nats", "parameters"]
CLAIM = "mi_per_state"
PREDICTORS = (CLAIM, "L", "state_size", "parameters")
MIN_CELLS = 8
REMEDY = "make it with python gaussian_synthetic/evaluate.py --runs … --out results/mine"


@dataclass(frozen=True)
class Settings:
    summary: Path  # summary.csv of evaluate.py
    out: Path  # the CSV to write


def read_runs(path: Path) -> pd.DataFrame:
    """The runs of summary.csv that count, with mi_per_state and ln_kl. UserError: a bad file, too few cells."""
    table = read_csv(path, COLUMNS, REMEDY)
    for column in COLUMNS[1:]:
        table[column] = numbers(table[column], path, REMEDY)
    table = table[table["state_size"] > 0]  # `independent` keeps nothing
    models = table.groupby("model")
    table = table[(models["state_size"].transform("nunique") == 1) & (models["L"].transform("nunique") > 1)]
    if not (table[["mean_kl_nats", "mi_nats", "L", "parameters"]] > 0).all(axis=None):
        raise UserError(f"{path}: a number that is not above 0 has no logarithm: {REMEDY}")
    cells = table.groupby(["model", "L"]).ngroups
    if cells < MIN_CELLS:
        raise UserError(f"{path} has {cells} cells (see --help) and {MIN_CELLS} are needed: evaluate more runs")
    table["parameters"] = table.groupby("model")["parameters"].transform("min")
    return table.assign(mi_per_state=table["mi_nats"] / table["state_size"], ln_kl=np.log(table["mean_kl_nats"]))


def left_out_errors(x: np.ndarray, y: np.ndarray, degree: int) -> np.ndarray:
    """(cells,): y less what a polynomial in x, fitted to all other cells, predicts. x, y: (cells,)."""
    X = np.vander(x - x.mean(), degree + 1)
    errors = np.empty(len(y))
    for cell in range(len(y)):
        others = np.arange(len(y)) != cell
        # Least norm where the others are too few for a parabola.
        errors[cell] = y[cell] - X[cell] @ np.linalg.lstsq(X[others], y[others], rcond=None)[0]
    return errors


def ratio(parts: np.ndarray, whole: np.ndarray) -> tuple[float, float]:
    """Σ parts / Σ whole over cells, and how far its 95% interval reaches, linearised. parts, whole: (cells,)."""
    n, value = len(whole), parts.sum() / whole.sum()
    error = np.sqrt(n / (n - 1) * ((parts - value * whole) ** 2).sum()) / whole.sum()
    return value, stats.t.ppf(0.975, n - 1) * error


def collapse(runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of collapse.csv; runs: from `read_runs`."""
    cells = runs.groupby(["model", "L"])[["state_size", "parameters", CLAIM, "ln_kl"]].mean().reset_index()
    y = cells["ln_kl"].to_numpy()
    whole = left_out_errors(y, y, 0) ** 2
    left = {name: left_out_errors(np.log(cells[name].to_numpy(float)), y, 2) ** 2 for name in PREDICTORS}
    rows = []
    for name, squares in left.items():
        unexplained, reach = ratio(squares, whole)
        ends = unexplained * np.exp(np.array([1, -1]) * reach / unexplained)  # in the logarithm: it is above 0
        rows.append((name, 1 - unexplained, *(1 - ends), np.sqrt(squares.mean())))
    for name in PREDICTORS[1:]:
        difference, reach = ratio(left[name] - left[CLAIM], whole)
        rows.append((f"{CLAIM} − {name}", difference, difference - reach, difference + reach, np.nan))
    table = pd.DataFrame(rows, columns=["predictor", "explained", "lo95", "hi95", "residual_sd"])
    return table.assign(cells=len(y), runs=len(runs))


def main(cfg: Settings) -> None:
    started = time.time()
    runs = read_runs(cfg.summary)
    table, models = collapse(runs), sorted(runs["model"].unique())
    write_csv(cfg.out, table, cfg, [cfg.summary], started, models=models)
    print(f"{len(runs)} runs of {', '.join(models)}")
    print(table.drop(columns=["cells", "runs"]).round(3).to_string(index=False))
    print(f"wrote {cfg.out}")


if __name__ == "__main__":
    run(main, Settings, __doc__)
