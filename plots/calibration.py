"""Estimates held against processes of known information: how far vCLUB and misspecified predictors lie off.

    python plots/calibration.py --results results/calibration --out results/calibration/calibration

Reads coverage.csv, and from coverage.json beside it L/ell, of each process (calibrate.py), in folders of their own.
Writes OUT.png and OUT.pdf, a panel a process: exact I(L/2; L) as a line, mean estimates of direct and vCLUB, and direct
with misspecified predictors. Expect direct on the line, and vCLUB far above it. One CPU core, two seconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from bipartite import LABELS, STYLES
from matplotlib.figure import Figure
from style import Settings, draw_points, log_axis, look, new_figure, put_legend, read_table, save

from common.cli import UserError, run

KEY = ["process", "predictor", "estimator", "n_documents", "quantity", "L_tokens"]
COVERAGE = [*KEY, "truth", "mean", "sd"]
MAY_LACK = ["L_tokens", "mean", "sd"]  # β has no L, one replication no spread
REMEDY = "make it with python measure_mutual_info/calibration/bipartite.py --out results/calibration"

SPOILED = {
    "tempered": look("#5EA3CF", "x", 3.4),
    "sharpened": look("#5EA3CF", "+", 4.4),
    "limited_context": look("#5EA3CF", "d", 3.2, filled=False),
    "wrong_bos": look("#5EA3CF", "s", 2.8, filled=False),
}


@dataclass(frozen=True)
class Process:
    """coverage.csv of one process, and L/ell."""

    table: pd.DataFrame
    ratio: int

    @property
    def title(self) -> str:
        return self.table["process"].iloc[0].replace("_b", ", β = ").replace("_e", ", ε = ").replace("_", " ")

    def rows(self, predictor: str, estimator: str, quantity: str) -> pd.DataFrame:
        """Of the largest number of documents, ascending in L."""
        t = self.table.query("predictor == @predictor and estimator == @estimator and quantity == @quantity")
        return t[t["n_documents"] == t["n_documents"].max()].sort_values("L_tokens")


def read_process(folder: Path) -> Process:
    """UserError: a file is missing or bad, or has no I(L) and β of direct and vclub with the exact predictor."""
    path, record = folder / "coverage.csv", folder / "coverage.json"
    table = read_table(path, COVERAGE, REMEDY, MAY_LACK, KEY)
    try:
        process = Process(table, json.loads(record.read_text(encoding="utf-8"))["settings"]["ratio"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{record} is not there or tells no ratio: {REMEDY}") from error
    for estimator in ("direct", "vclub"):
        mi, beta = (process.rows("exact", estimator, quantity) for quantity in ("mi", "beta_gls"))
        if mi.empty or beta.empty or mi["L_tokens"].isna().any():
            raise UserError(f"{path} has no I(L) or β of {estimator} with the exact predictor: {REMEDY}")
    return process


def read_processes(folder: Path) -> list[Process]:
    """All processes of a folder."""
    processes = [read_process(path.parent) for path in sorted(folder.glob("*/coverage.csv"))]
    if len({process.ratio for process in processes}) != 1:
        raise UserError(f"no file {folder}/*/coverage.csv, or some of different ratios L/ell: {REMEDY}")
    return processes


def slopes(process: Process) -> str:
    """β over the window: of the exact curve, and the mean of the estimates."""
    exact, vclub = (process.rows("exact", name, "beta_gls").iloc[0] for name in ("direct", "vclub"))
    found = {"exact": exact["truth"], "direct": exact["mean"], "vCLUB": vclub["mean"]}
    return "slope " + ", ".join(f"{name} {round(value, 2) + 0.0:.2f}" for name, value in found.items())  # no "-0.00"


def draw(processes: list[Process]) -> Figure:
    """A panel a process: the exact curve, mean estimates at the largest number of documents."""
    series = {("exact", name): (LABELS[name], STYLES[name]) for name in ("direct", "vclub")}
    series |= {(name, "direct"): (f"direct, {name.replace('_', ' ')}", light) for name, light in SPOILED.items()}
    exact = pd.concat([one.rows(*key, "mi") for one in processes for key in list(series)[:2]])
    values = pd.concat([exact["truth"], exact["mean"]])
    low = values[values > 0].min() / 2  # what is misspecified may lie far below
    titles, legend = [f"{one.title}\n{slopes(one)}" for one in processes], {}
    y_label = f"Mutual information\nI(L/{processes[0].ratio}; L) (nats)"
    fig, axes, _ = new_figure(titles, y_label, columns=min(4, len(titles)))
    for ax, process in zip(axes, processes, strict=True):
        truth = process.rows("exact", "direct", "mi")
        (legend["exact I"],) = ax.plot(truth["L_tokens"], truth["truth"], "k", linewidth=0.9, zorder=2, gid="truth")
        for index, (key, (label, drawn_as)) in enumerate(series.items()):
            rows = process.rows(*key, "mi")
            bars = rows["sd"] if key[0] == "exact" else None
            legend[label] = draw_points(ax, rows["L_tokens"], rows["mean"], bars, drawn_as, index, low)
        log_axis(ax.xaxis, exact["L_tokens"], "L_tokens", base=2)
    spoiled = pd.concat([one.rows(*key, "mi")["mean"] for one in processes for key in series])
    log_axis(axes[0].yaxis, [*values, *spoiled[spoiled > low]], "I of direct and vclub")
    put_legend(fig, legend, columns=4)
    return fig


def main(cfg: Settings) -> None:
    save(draw(read_processes(cfg.results)), cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
