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
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from style import (
    GREY,
    SeriesStyle,
    above_zero,
    length_axis,
    mark_below,
    new_figure,
    plain_ticks,
    put_legend,
    read_table,
    save,
)

from common.cli import UserError, run

COVERAGE = ["process", "predictor", "estimator", "n_documents", "quantity", "L_tokens", "truth", "mean", "sd"]
COVERAGE += ["mean_half_width", "coverage", "coverage_lo95", "coverage_hi95", "replications"]
KEY = ["predictor", "estimator", "n_documents", "quantity", "L_tokens"]
TEXT = ["process", "predictor", "estimator", "quantity"]
MAY_LACK = ["L_tokens", "mean", "sd", "mean_half_width"]  # β has no L, one replication no spread
REMEDY = "make it with python measure_mutual_info/calibration/bipartite.py --out results/calibration"

BAND = (0.93, 0.97)  # where coverage is to lie
SPOILED = {
    "tempered": SeriesStyle("tempered", "#5EA3CF", "x", 3.4),
    "sharpened": SeriesStyle("sharpened", "#5EA3CF", "+", 4.4),
    "limited_context": SeriesStyle("limited context", "#5EA3CF", "d", 3.2, filled=False),
    "wrong_bos": SeriesStyle("wrong start", "#5EA3CF", "s", 2.8, filled=False),
}
DOCUMENTS = (  # looks of the numbers of documents, ascending
    SeriesStyle("", "#0072B2", "o", 3.6, filled=False),
    SeriesStyle("", "#D55E00", "D", 2.6),
    SeriesStyle("", "#009E73", "^", 3.2),
    SeriesStyle("", "#CC79A7", "s", 3.0, filled=False),
)


@dataclass(frozen=True)
class Settings:
    results: Path = Path("results/calibration")
    """folder with a folder for each process, coverage.csv and coverage.json in it"""
    out: Path = Path("results/calibration")
    """folder for the pictures"""


@dataclass(frozen=True)
class Process:
    """coverage.csv of one process."""

    path: Path
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
    path = folder / "coverage.csv"
    table = read_table(path, COVERAGE, REMEDY, TEXT, MAY_LACK)
    if table["process"].nunique() > 1:
        raise UserError(f"{path} is of {' and '.join(table['process'].unique())}: one process in a folder")
    if table.duplicated(KEY).any():
        raise UserError(f"{path} has rows twice: {REMEDY}")
    record = path.with_suffix(".json")
    try:
        ratio = json.loads(record.read_text(encoding="utf-8"))["settings"]["ratio"]
    except FileNotFoundError as error:
        raise UserError(f"no file {record}: {REMEDY}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{record} tells no ratio: {REMEDY}") from error
    process = Process(path, table, table["process"].iloc[0] if len(table) else "", ratio)
    for estimator in ("direct", "vclub"):
        for quantity in ("mi", "beta_gls"):
            rows = process.rows("exact", estimator, quantity)
            if rows.empty or (quantity == "mi" and rows["L_tokens"].isna().any()):
                raise UserError(f"{path} has no {quantity} of {estimator} with the exact predictor: {REMEDY}")
    return process


def read_processes(folder: Path) -> list[Process]:
    """All processes of a folder: Santa Fe first, then those without a power law."""
    paths = sorted(folder.glob("*/coverage.csv"))
    if not paths:
        raise UserError(f"no file {folder}/*/coverage.csv: {REMEDY}")
    processes = [read_process(path.parent) for path in paths]
    if len({process.ratio for process in processes}) > 1:
        raise UserError(f"{folder}: its processes differ in ratio: keep one run in a folder")
    last = ("markov", "bernoulli")
    return sorted(processes, key=lambda process: last.index(process.name) if process.name in last else -1)


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
    first = processes[0]
    series = [("exact", "direct", STYLES["direct"]), ("exact", "vclub", STYLES["vclub"])]
    misspecified = [name for name in SPOILED if any(len(one.rows(name, "direct", "mi")) for one in processes)]
    series = [(name, "direct", SPOILED[name]) for name in misspecified] + series
    shown = {(one.name, *key[:2]): one.rows(*key[:2], "mi") for one in processes for key in series}
    exact = pd.concat([rows for (_, predictor, _), rows in shown.items() if predictor == "exact"])
    values = pd.concat([exact["truth"], exact["mean"]])
    low = above_zero(values, first.path, "I", REMEDY).min() / 2
    high = max(values.max(), *(rows["mean"].max() for rows in shown.values())) * 1.5

    n_documents = sorted({f"{n:,.0f}" for n in exact["n_documents"]})
    text = f"Means over replications of {' or '.join(n_documents)} documents; bars: ±1 standard deviation."
    caption = [text + " ▾: below the axis." * any((rows["mean"] <= low).any() for rows in shown.values())]
    columns = 4 if len(processes) > 1 else 2  # of the legend
    fig, axes = new_figure(
        len(processes),
        f"Mutual information\nI(L/{first.ratio}; L) (nats)",
        math.ceil((len(series) + 1) / columns),
        caption,
        [f"{one.title}\n{slopes(one)}" for one in processes],
        one_legend=True,
        columns=2,
    )
    for ax, process in zip(axes, processes, strict=True):
        handles, labels = [], []
        for index, (predictor, estimator, look) in enumerate(series):
            rows = shown[process.name, predictor, estimator]
            above = rows[rows["mean"] > low]
            bars = above["sd"] if predictor == "exact" else None
            handles.append(ax.errorbar(above["L_tokens"], above["mean"], bars, **look.marks(), zorder=3 + index))
            labels.append(look.label if predictor == "exact" else f"direct, {look.label}")
            mark_below(ax, rows.loc[rows["mean"] <= low, "L_tokens"], index, look.color)
        truth = process.rows("exact", "direct", "mi")
        handles += ax.plot(truth["L_tokens"], truth["truth"], color="black", linewidth=0.9, zorder=2, gid="truth")
        labels.append("exact I")
        length_axis(ax, exact["L_tokens"])
        ax.set_yscale("log")
        ax.set_ylim(low, high)
        plain_ticks(ax.yaxis, low, high, base=10 if high / low > 1000 else 2, room=10)
    put_legend(lower_left(axes), handles[::-1], labels[::-1], columns)
    return fig


def draw_coverage(processes: list[Process]) -> Figure:
    """A panel a process: coverage of I at each L and of β, direct with the exact predictor, by number of documents."""
    first = processes[0]
    exact = pd.concat([one.table[one.table["predictor"] == "exact"] for one in processes])
    direct = exact[exact["estimator"] == "direct"]
    numbers = sorted(direct["n_documents"].unique())
    if len(numbers) > len(DOCUMENTS):
        raise UserError(f"{first.path}: {len(numbers)} numbers of documents, and at most {len(DOCUMENTS)} can be drawn")
    replications = direct["replications"].min(), direct["replications"].max()
    times = " to ".join(dict.fromkeys(f"{n:,.0f}" for n in replications))
    caption = [f"Of {times} replications of direct with the exact predictor; bars: binomial 95% intervals."]
    labels = [*(f"{n:,.0f} documents" for n in numbers), f"{BAND[0]:.0%} to {BAND[1]:.0%}"]
    columns = len(labels) if len(processes) > 1 else 1  # of the legend
    fig, axes = new_figure(
        len(processes),
        "Coverage of nominal 95% intervals",
        len(labels) // columns,
        caption,
        [f"{one.title}\n{half_widths(one)}" for one in processes],
        x_labels=[f"I(L/{first.ratio}; L) at L (tokens), and exponent β"] * len(processes),
        one_legend=True,
        columns=2,
    )
    L = sorted(direct["L_tokens"].dropna().unique())
    where = {"beta_gls": len(L) + 0.9, "beta_ols": len(L) + 2.7}
    low = min(0.9, direct["coverage_lo95"].min())
    for ax, process in zip(axes, processes, strict=True):
        handles = []
        for index, n in enumerate(numbers):
            rows = pd.concat([process.rows("exact", "direct", quantity, n) for quantity in ("mi", *where)])
            x = rows["L_tokens"].map(dict(zip(L, range(len(L)), strict=True))).fillna(rows["quantity"].map(where))
            look = DOCUMENTS[index]
            handles.append(
                ax.errorbar(
                    x + 0.3 * (index - (len(numbers) - 1) / 2),
                    rows["coverage"],
                    yerr=[rows["coverage"] - rows["coverage_lo95"], rows["coverage_hi95"] - rows["coverage"]],
                    **look.marks(),
                    zorder=3 + index,
                )
            )
        handles.append(ax.axhspan(*BAND, color="0.88", linewidth=0, zorder=0))
        ax.axvline(len(L) - 0.1, color=GREY, linewidth=0.5, zorder=1)
        ax.axhline(0.95, color=GREY, linewidth=0.5, zorder=1)
        every = range(0, len(L), math.ceil(len(L) / 5))
        ax.set_xticks([*every, *where.values()], [*(f"{L[i]:g}" for i in every), "β GLS", "β OLS"])
        ax.set_xticks(range(len(L)), minor=True)
        ax.set_xlim(-0.7, len(L) + 3.5)
        ax.set_ylim(low - 0.04 * (1 - low), 1 + 0.06 * (1 - low))
        ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    put_legend(lower_left(axes), handles, labels, columns)
    return fig


def lower_left(axes: list[Axes]) -> Axes:
    """The panel above the legend."""
    return min(axes, key=lambda ax: (round(ax.get_position().y0, 6), ax.get_position().x0))


def main(cfg: Settings) -> None:
    if cfg.out.exists() and not cfg.out.is_dir():
        raise UserError(f"--out {cfg.out} is a file: give a folder")
    processes = read_processes(cfg.results)
    figures = {"calibration": draw_overshoot(processes), "coverage": draw_coverage(processes)}
    for name, fig in figures.items():
        save(fig, cfg.out / name)


if __name__ == "__main__":
    run(main, Settings, __doc__)
