"""Estimates and intervals held against processes of known information: overshoot, and coverage.

    python plots/calibration.py --results results/calibration

Reads coverage.csv, and from coverage.json beside it L/ell, of each process (calibrate.py), in folders of their own.
Writes into the folder --out, as PNG and PDF, a panel a process:
    calibration   exact I(L/2; L) as a line, mean estimates of direct and vCLUB, and direct with misspecified predictors
    coverage      how often the 95% intervals of direct hold the truth: of I at each L, and of β by generalised and by
                  ordinary least squares

Hardware: one CPU core, two seconds. Expect direct on the line and in the band, and vCLUB far above the line.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from bipartite import STYLES
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from style import GREY, LOOKS, SeriesStyle, draw_points, log_axis, new_figure, put_legend, read_table, save

from common.cli import UserError, run

KEY = ["process", "predictor", "estimator", "n_documents", "quantity", "L_tokens"]
COVERAGE = [*KEY, "truth", "mean", "sd", "mean_half_width", "coverage", "coverage_lo95", "coverage_hi95"]
MAY_LACK = ["L_tokens", "mean", "sd", "mean_half_width"]  # β has no L, one replication no spread
REMEDY = "make it with python measure_mutual_info/calibration/bipartite.py --out results/calibration"
LAST = ("markov", "bernoulli")  # they have no power law

BAND = (0.93, 0.97)  # where coverage is to lie
SPOILED = {
    "tempered": SeriesStyle("tempered", "#5EA3CF", "x", 3.4),
    "sharpened": SeriesStyle("sharpened", "#5EA3CF", "+", 4.4),
    "limited_context": SeriesStyle("limited context", "#5EA3CF", "d", 3.2, filled=False),
    "wrong_bos": SeriesStyle("wrong start", "#5EA3CF", "s", 2.8, filled=False),
}


@dataclass(frozen=True)
class Settings:
    results: Path = Path("results/calibration")
    """folder with a folder for each process, coverage.csv and coverage.json in it"""
    out: Path = Path("results/calibration")
    """folder for the pictures"""


@dataclass(frozen=True)
class Process:
    """coverage.csv of one process, and L/ell."""

    table: pd.DataFrame
    name: str
    ratio: int

    @property
    def title(self) -> str:
        """Such as "Noisy Santa Fe, β = 0.5, ε = 0.1"."""
        if found := re.fullmatch(r"santa_fe_b([\d.]+)_e([\d.]+)", self.name):
            return f"Noisy Santa Fe, β = {found[1]}, ε = {found[2]}"
        return {"markov": "Markov chain", "bernoulli": "Bernoulli(θ), θ uniform"}.get(self.name, self.name)

    def rows(self, predictor: str, estimator: str, quantity: str, n_documents: float | None = None) -> pd.DataFrame:
        """Of one number of documents, the largest there is if none is given; ascending in L."""
        t = self.table
        t = t[(t["predictor"] == predictor) & (t["estimator"] == estimator) & (t["quantity"] == quantity)]
        wanted = t["n_documents"].max() if n_documents is None else n_documents
        return t[t["n_documents"] == wanted].sort_values("L_tokens")


def read_process(folder: Path) -> Process:
    """UserError: a file is missing or bad, or has no I(L) of direct and vclub with the exact predictor."""
    path, record = folder / "coverage.csv", folder / "coverage.json"
    table = read_table(path, COVERAGE, REMEDY, MAY_LACK, KEY)
    if table["process"].nunique() > 1:
        raise UserError(f"{path} is of {' and '.join(table['process'].unique())}: one process in a folder")
    try:
        ratio = json.loads(record.read_text(encoding="utf-8"))["settings"]["ratio"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{record} is not there or tells no ratio: {REMEDY}") from error
    process = Process(table, table["process"].iloc[0], ratio)
    for estimator in ("direct", "vclub"):
        for quantity in ("mi", "beta_gls"):
            rows = process.rows("exact", estimator, quantity)
            if rows.empty or (quantity == "mi" and rows["L_tokens"].isna().any()):
                raise UserError(f"{path} has no {quantity} of {estimator} with the exact predictor: {REMEDY}")
    return process


def read_processes(folder: Path) -> list[Process]:
    """All processes of a folder: Santa Fe first, then those without a power law."""
    processes = [read_process(path.parent) for path in sorted(folder.glob("*/coverage.csv"))]
    if not processes:
        raise UserError(f"no file {folder}/*/coverage.csv: {REMEDY}")
    if len({process.ratio for process in processes}) > 1:
        raise UserError(f"{folder}: its processes differ in ratio: keep one run in a folder")
    return sorted(processes, key=lambda process: LAST.index(process.name) if process.name in LAST else -1)


def slopes(process: Process) -> str:
    """β over the window: of the exact curve, and the mean of the estimates."""
    exact, vclub = (process.rows("exact", name, "beta_gls").iloc[0] for name in ("direct", "vclub"))
    found = {"exact": exact["truth"], "direct": exact["mean"], "vCLUB": vclub["mean"]}
    return "slope: " + ", ".join(f"{name} {round(value, 2) + 0.0:.2f}" for name, value in found.items())  # no "-0.00"


def half_widths(process: Process) -> str:
    """Of the 95% intervals of β, on average, at the largest number of documents."""
    rows = {name: process.rows("exact", "direct", f"beta_{name.lower()}") for name in ("GLS", "OLS")}
    found = [f"{name} {of['mean_half_width'].iloc[0]:.3f}" for name, of in rows.items() if len(of)]
    return "half-width of β: " + ", ".join(found)


def draw_overshoot(processes: list[Process]) -> Figure:
    """A panel a process: the exact curve, mean estimates at the largest number of documents."""
    series = [(name, "direct", look) for name, look in SPOILED.items()]
    series = [key for key in series if any(len(one.rows(*key[:2], "mi")) for one in processes)]
    series += [("exact", name, STYLES[name]) for name in ("direct", "vclub")]
    exact = pd.concat([one.rows("exact", name, "mi") for one in processes for name in ("direct", "vclub")])
    values = pd.concat([exact["truth"], exact["mean"]])
    low = values[values > 0].min() / 2  # what is misspecified may lie far below
    titles, legend = [f"{one.title}\n{slopes(one)}" for one in processes], {}
    y_label = f"Mutual information\nI(L/{processes[0].ratio}; L) (nats)"
    fig, axes, _ = new_figure(len(processes), y_label, titles=titles, entries=1, columns=2)
    for ax, process in zip(axes, processes, strict=True):
        truth = process.rows("exact", "direct", "mi")
        (legend["exact I"],) = ax.plot(truth["L_tokens"], truth["truth"], "k", linewidth=0.9, zorder=2, gid="truth")
        for index, (predictor, estimator, look) in enumerate(series):
            rows = process.rows(predictor, estimator, "mi")
            bars, label = (rows["sd"], look.label) if predictor == "exact" else (None, f"direct, {look.label}")
            legend[label] = draw_points(ax, rows["L_tokens"], rows["mean"], bars, look, index, low)
        log_axis(ax.xaxis, exact["L_tokens"], "L_tokens", base=2)
    spoiled = pd.concat([one.rows(*key[:2], "mi")["mean"] for one in processes for key in series])
    log_axis(axes[0].yaxis, [*values, *spoiled[spoiled > low]], "I of direct and vclub")
    put_legend(fig, legend, columns=4 if len(processes) > 1 else 2)
    return fig


def draw_coverage(processes: list[Process]) -> Figure:
    """A panel a process: coverage of I at each L and of β, direct with the exact predictor, by number of documents."""
    direct = pd.concat([one.table for one in processes]).query("predictor == 'exact' and estimator == 'direct'")
    numbers, L = sorted(direct["n_documents"].unique()), sorted(direct["L_tokens"].dropna().unique())
    if len(numbers) > len(LOOKS):
        raise UserError(f"coverage.csv: {len(numbers)} numbers of documents, and at most {len(LOOKS)} can be drawn")
    x_label = f"I(L/{processes[0].ratio}; L) at L (tokens), and exponent β"
    titles, legend = [f"{one.title}\n{half_widths(one)}" for one in processes], {}
    fig, axes, _ = new_figure(len(processes), "Coverage of nominal 95% intervals", x_label, titles, 1, columns=2)
    places = {"beta_gls": len(L) + 0.9, "beta_ols": len(L) + 2.7}
    for ax, process in zip(axes, processes, strict=True):
        for index, n in enumerate(numbers):
            rows = pd.concat([process.rows("exact", "direct", quantity, n) for quantity in ("mi", *places)])
            x = rows["L_tokens"].map(L.index, na_action="ignore").fillna(rows["quantity"].map(places)).astype(float)
            x += 0.3 * (index - (len(numbers) - 1) / 2)
            bars = [rows["coverage"] - rows["coverage_lo95"], rows["coverage_hi95"] - rows["coverage"]]
            legend[f"{n:,.0f} documents"] = draw_points(ax, x, rows["coverage"], bars, LOOKS[index], index, -math.inf)
        legend[f"{BAND[0]:.0%} to {BAND[1]:.0%}"] = ax.axhspan(*BAND, color="0.88", linewidth=0, zorder=0)
        ax.axvline(len(L) - 0.1, color=GREY, linewidth=0.5, zorder=1)
        ax.axhline(0.95, color=GREY, linewidth=0.5, zorder=1)
        every = range(0, len(L), math.ceil(len(L) / 5))
        ax.set_xticks([*every, *places.values()], [*(f"{L[i]:g}" for i in every), "β GLS", "β OLS"])
        ax.set_xticks(range(len(L)), minor=True)
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    put_legend(fig, legend, columns=4 if len(processes) > 1 else 1)
    return fig


def main(cfg: Settings) -> None:
    if cfg.out.exists() and not cfg.out.is_dir():
        raise UserError(f"--out {cfg.out} is a file: give a folder")
    processes = read_processes(cfg.results)
    figures = {"calibration": draw_overshoot(processes), "coverage": draw_coverage(processes)}
    for name, fig in figures.items():
        save(fig, cfg.out / name)


if __name__ == "__main__":
    run(main, Settings, __doc__)
