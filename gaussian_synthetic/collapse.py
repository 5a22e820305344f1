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
    L_and_state       a quadratic surface in both, which includes every parabola in a mixture of the two
The intervals weight cells at random (exponential weights, the Bayesian bootstrap) and draw their seeds with
replacement. Drawing cells instead would leave some lengths or states with one cell or none, too few for a parabola
through three lengths. Rows such as `mi_per_state − L` hold the difference in the same draws; above 0 the paper's claim
explains more.

Writes collapse.csv: predictor, explained, lo95, hi95, residual_sd (of ln KL), cells, runs. One CPU core, seconds.
Expect: near 1 for mi_per_state if the state limits the models, rather than their training.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import trange

from common.cli import UserError, run
from common.record import numbers, read_csv, write_csv

COLUMNS = ["model", "L", "seed", "state_size", "mi_nats", "mean_kl_nats", "parameters"]
CLAIM = "mi_per_state"
PREDICTORS = {
    CLAIM: (CLAIM,),
    "L": ("L",),
    "state_size": ("state_size",),
    "parameters": ("parameters",),
    "L_and_state": ("L", "state_size"),
}
MIN_CELLS = 8
REMEDY = "make it with python gaussian_synthetic/evaluate.py --runs … --out results/mine"


@dataclass(frozen=True)
class Settings:
    summary: Path
    """summary.csv of evaluate.py"""
    out: Path
    """the CSV to write"""
    models: tuple[str, ...] = ()
    """names; default: all whose state_size is the same at every L"""
    bootstrap: int = 1000
    """not in the paper: draws of weights and seeds behind the intervals"""
    seed: int = 0
    """of these draws"""

    def validate(self) -> None:
        if self.out.suffix != ".csv":
            raise UserError(f"--out {self.out}: give the name of a .csv file")
        if self.bootstrap < 2:
            raise UserError(f"--bootstrap {self.bootstrap}: give at least 2")


def read_runs(path: Path, models: tuple[str, ...]) -> pd.DataFrame:
    """The runs of summary.csv that count, with mi_per_state. UserError: a bad file, unknown models, too few cells."""
    table = read_csv(path, COLUMNS, REMEDY)
    for column in COLUMNS[1:]:
        table[column] = numbers(table[column], path, REMEDY)
    table = table[table["state_size"] > 0]  # `independent` keeps nothing
    if unknown := set(models) - set(table["model"]):
        there = ", ".join(sorted(table["model"].unique()))
        raise UserError(f"--models {' '.join(sorted(unknown))}: not in {path}, which has {there}")
    constant = table.groupby("model")["state_size"].nunique() == 1
    several = table.groupby("model")["L"].nunique() > 1
    table = table[table["model"].isin(models or constant[constant & several].index)]
    if not (table["mean_kl_nats"] > 0).all():
        raise UserError(f"{path}: a mean_kl_nats is not above 0, and has no logarithm: {REMEDY}")
    table = table.assign(mi_per_state=table["mi_nats"] / table["state_size"])
    table["parameters"] = table.groupby("model")["parameters"].transform("min")
    cells = table.groupby(["model", "L"]).ngroups
    if cells < MIN_CELLS:
        raise UserError(
            f"{path} has {cells} cells (a model at a length) of models whose state is the same at every length, and "
            f"{MIN_CELLS} are needed: evaluate more runs, or name models with --models"
        )
    return table


def design(cells: pd.DataFrame, names: tuple[str, ...]) -> np.ndarray:
    """A constant, ln x and (ln x)² of each predictor, and the products of two: (cells, 3), or 6 for two; centred."""
    x = [np.log(cells[name].to_numpy(float)) for name in names]
    x = [values - values.mean() for values in x]
    powers = [power for values in x for power in (values, values**2)]
    return np.column_stack([np.ones(len(cells)), *powers, *(a * b for a, b in combinations(x, 2))])


def explained(X: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Share of the variance of y predicted for cells left out one by one, and the standard deviation of the errors.

    X: (cells, parameters), y: (cells,), weight: (cells,) above 0, how much each cell counts.
    """
    errors, spread = np.empty((2, len(y)))
    for cell in range(len(y)):
        others = np.arange(len(y)) != cell
        root = np.sqrt(weight[others])
        beta = np.linalg.lstsq(X[others] * root[:, None], y[others] * root, rcond=None)[0]
        errors[cell] = y[cell] - X[cell] @ beta
        spread[cell] = y[cell] - np.average(y[others], weights=weight[others])
    left = weight @ errors**2
    return 1 - left / (weight @ spread**2), float(np.sqrt(left / weight.sum()))


def collapse(runs: pd.DataFrame, replications: int, seed: int) -> pd.DataFrame:
    """The rows of collapse.csv; runs: from `read_runs`."""
    runs = runs.assign(ln_kl=np.log(runs["mean_kl_nats"]))
    grouped = runs.groupby(["model", "L"])
    cells = grouped[["L", "state_size", "parameters", CLAIM, "ln_kl"]].mean().reset_index(drop=True)
    kl_of_cell = [group.to_numpy() for _, group in grouped["ln_kl"]]
    designs = {name: design(cells, variables) for name, variables in PREDICTORS.items()}
    y = cells["ln_kl"].to_numpy()
    found = {name: explained(X, y, np.ones(len(y))) for name, X in designs.items()}

    rng, drawn = np.random.default_rng(seed), {name: np.empty(replications) for name in designs}
    for i in trange(replications, desc="resampling"):
        weight = rng.exponential(size=len(y))
        again = np.array([rng.choice(values, len(values)).mean() for values in kl_of_cell])
        for name, X in designs.items():
            drawn[name][i] = explained(X, again, weight)[0]
    rows = []
    for name, (share, sd) in found.items():
        rows.append((name, share, *np.quantile(drawn[name], [0.025, 0.975]), sd))
    for name in ("L", "state_size", "parameters"):
        difference = np.quantile(drawn[CLAIM] - drawn[name], [0.025, 0.975])
        rows.append((f"{CLAIM} − {name}", found[CLAIM][0] - found[name][0], *difference, np.nan))
    table = pd.DataFrame(rows, columns=["predictor", "explained", "lo95", "hi95", "residual_sd"])
    return table.assign(cells=len(y), runs=len(runs))


def main(cfg: Settings) -> None:
    started = time.time()
    cfg.validate()
    runs = read_runs(cfg.summary, cfg.models)
    table = collapse(runs, cfg.bootstrap, cfg.seed)
    models = sorted(runs["model"].unique())
    write_csv(cfg.out, table, cfg, [cfg.summary], started, models=models)
    print(f"{len(runs)} runs of {', '.join(models)}")
    print(table.drop(columns=["cells", "runs"]).round(3).to_string(index=False))
    print(f"wrote {cfg.out}")


if __name__ == "__main__":
    run(main, Settings, __doc__)
