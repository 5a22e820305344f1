"""How far to trust an exponent: β of I(L/2; L) in every window of lengths, and the laws that fit better.

    python plots/sweep.py --results results/fig2b

Reads bipartite.csv, fit.csv and sweep.csv (estimate_bipartite.py) from the folder. Writes sweep.png and .pdf there,
with one y axis: the local slopes between neighbouring L; β of the fits that end at the largest L, against their first;
β of those that begin at the smallest, against their last. The caption names the laws of the smallest AICc.

Hardware: one CPU core, two seconds. Expect flat points where I(L/2; L) is a power law, in all three panels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from fig2b import ESTIMATORS, PAPER_FIG_2B, RATIO
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from style import (
    GREY,
    INDEPENDENT,
    STYLES,
    TEXT,
    Results,
    known_estimators,
    length_axis,
    new_figure,
    put_legend,
    read_results,
    read_table,
    remedy,
    save,
    source_line,
)

from common.cli import UserError, run

SWEEP = ["source", "model", "estimator", "L_over_ell", "L_min", "L_max", "beta", "lo95", "hi95", "dof"]
LAW_NAMES = {"power_plus_constant": "power + constant", "broken_power": "broken power"}
APART = 2**0.18  # factor between the L of neighbouring estimators, so that their bars do not overlap
CLOSE = 2.0  # not in the paper: laws whose AICc differ by less are named together


@dataclass(frozen=True)
class Settings:
    results: Path = Path("results/fig2b")
    """folder with bipartite.csv, fit.csv and sweep.csv"""
    out: Path | None = None
    """where to write, without the suffix; `sweep` in the folder of the results if not given"""


def read_sweep(results: Results) -> pd.DataFrame:
    """sweep.csv of the folder at L = 2 ell. UserError: it is missing or bad, or is of another run."""
    path = results.folder / "sweep.csv"
    table = read_table(path, SWEEP, remedy(results.folder), TEXT, may_lack=("lo95", "hi95"))
    known_estimators(path, table)
    others = table[(table["source"] != results.source) | (table["model"] != results.model)]
    if len(others):
        found = f"{others['source'].iloc[0]}, {others['model'].iloc[0]}"
        raise UserError(f"{path} is of {found}, bipartite.csv of {results.source}, {results.model}: keep one run")
    return table[(table["L_over_ell"] == RATIO) & table["estimator"].isin(ESTIMATORS)]


def best_laws(results: Results, estimators: list[str]) -> list[str]:
    """A sentence for each range of fits: by estimator the law with the smallest AICc, and those within CLOSE of it."""
    fits = results.fits[(results.fits["L_over_ell"] == RATIO) & np.isfinite(results.fits["aicc"])]
    found: dict[tuple[float, float], list[str]] = {}
    for name in estimators:
        mine = fits[fits["estimator"] == name].drop_duplicates("law").sort_values("aicc", kind="stable")
        close = mine[mine["aicc"] < mine["aicc"].min() + CLOSE]
        if close.empty:
            continue
        laws = [f"{LAW_NAMES.get(fit.law, fit.law)} ({p_value(fit.p_value)})" for fit in close.itertuples()]
        span = close.iloc[0]["L_min"], close.iloc[0]["L_max"]
        found.setdefault(span, []).append(f"{STYLES[name].label}: {' or '.join(laws)}")
    return [
        f"Law with the smallest AICc (or within {CLOSE:g} of it), L = {low:g} to {high:g}: {'; '.join(parts)}."
        for (low, high), parts in found.items()
    ]


def p_value(p: float) -> str:
    """Of the χ² of a fit, such as "p = 0.22"."""
    if math.isnan(p):
        return "no p-value"
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def draw_windows(ax: Axes, windows: pd.DataFrame, estimators: list[str], L: pd.Series) -> list:
    """β and its 95% interval of some windows, at their `L`, shifted a little by estimator. Returns the handles."""
    handles = []
    for index, name in enumerate(estimators):
        look, rows = STYLES[name], windows[windows["estimator"] == name]
        rows = rows.assign(L=L[rows.index]).sort_values("L")
        bars = np.stack([rows["beta"] - rows["lo95"], rows["hi95"] - rows["beta"]])
        handles.append(
            ax.errorbar(
                rows["L"] * APART ** (index - (len(estimators) - 1) / 2),
                rows["beta"],
                yerr=bars,
                **look.marks(0.8),
                zorder=3 + index,
            )
        )
    return handles


def draw(results: Results, windows: pd.DataFrame) -> Figure:
    """Three panels: local slopes, β by first L, β by last L. UserError: nothing in them to draw."""
    estimators = [name for name in results.present(ESTIMATORS, RATIO) if (windows["estimator"] == name).any()]
    if not estimators:
        raise UserError(f"{results.folder}: bipartite.csv and sweep.csv share no estimator: {remedy(results.folder)}")
    L = pd.concat([results.points(name, RATIO)["L_tokens"] for name in estimators])
    first, last = L.min(), L.max()
    steps = windows[windows["dof"] == 0]
    panels = [
        (steps, np.sqrt(steps["L_min"] * steps["L_max"])),
        (windows[windows["L_max"] == last], windows["L_min"]),
        (windows[windows["L_min"] == first], windows["L_max"]),
    ]
    titles = [
        "Local slopes",
        f"Fits that end at L = {last:g}",
        f"Fits that begin at L = {first:g}",
    ]
    x_labels = ["Middle of neighbouring L (tokens)", "First L of the fit (tokens)", "Last L of the fit (tokens)"]
    caption = [
        source_line(results, estimators, RATIO) + ". Local slope: of log I between neighbouring L. A "
        "power law would give the same β everywhere. "
        f"Bars: 95% intervals {INDEPENDENT}; points share documents, so neighbours err together.",
        *best_laws(results, estimators),
    ]
    if len(caption) > 1:
        caption[-1] += " p: how often points that follow the law would miss it by more."
    labels = [STYLES[name].label for name in estimators]
    labels += [f"paper, PG19, 405B: {name} {beta}" for name, _, beta, _ in PAPER_FIG_2B]
    fig, axes = new_figure(3, "Exponent β of I(L/2; L)", 1, caption, titles, x_labels=x_labels, one_legend=True)
    for ax, (rows, where) in zip(axes, panels, strict=True):
        handles = draw_windows(ax, rows, estimators, where)
        for _, _, beta, dashes in PAPER_FIG_2B:
            handles.append(ax.axhline(beta, color=GREY, linewidth=0.8, dashes=dashes, zorder=1, gid="paper"))
        length_axis(ax, L)
    shown = pd.concat([rows for rows, _ in panels])
    paper = [beta for _, _, beta, _ in PAPER_FIG_2B]
    low, high = min(shown["beta"].min(), *paper), max(shown["beta"].max(), *paper)
    margin = 0.12 * (high - low)  # a longer bar runs out of the axis instead of stretching it
    for ax in axes:
        ax.set_ylim(low - margin, high + margin)
        ax.yaxis.set_major_locator(MaxNLocator(6))
    put_legend(axes[0], handles, labels, columns=len(labels))
    return fig


def main(cfg: Settings) -> None:
    results = read_results(cfg.results)
    windows = read_sweep(results)
    if windows.empty:  # a finding, not a fault: the other pictures of the run are to be drawn all the same
        print(
            f"no sweep.png: too few points of {cfg.results} lie clearly above 0 for an exponent, score more documents"
        )
        return
    save(draw(results, windows), cfg.out or cfg.results / "sweep")


if __name__ == "__main__":
    run(main, Settings, __doc__)
