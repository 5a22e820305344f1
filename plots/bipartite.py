"""Bipartite mutual information I(ell; L) against the length L: Figs. 2b, B.2, B.3, and a sweep of the exponent.

    python plots/bipartite.py --figure 2b --results results/fig2b --out results/fig2b/fig2b

Reads bipartite.csv and sweep.csv (estimate_bipartite.py) from a folder. Writes OUT.png and OUT.pdf:
    2b     I(L/2; L) by each estimator, with the paper's lines, and the local slopes below
    B.2    the same at L = 2 ell, 3 ell and 4 ell
    B.3    direct with and without the 2-gram correction
    sweep  not in the paper: β in every window that ends at the largest L, or begins at the smallest
A power law is drawn over the longest window of lengths in which it is accepted (p >= 0.05). See docs/figures.md.

Hardware: one CPU core, two seconds. For a power law, expect straight lines in log-log, and flat slopes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.cli import UserError, run
from common.powerlaw import PAPER_LAWS, longest_accepted

KEY = ["estimator", "ell_tokens", "L_tokens"]
BIPARTITE = ["source", "model", *KEY, "mi_nats", "stderr_nats", "stderr_by_book_nats", "n_documents", "n_books"]
SWEEP = ["source", "model", "estimator", "L_over_ell", "L_min", "L_max", "A", "beta", "lo95", "hi95", "dof", "p_value"]
LABELS = {"direct": "direct", "direct_corrected": "direct, corrected", "vclub": "vCLUB"}
LABELS |= {"direct_unpaired": "direct, unpaired", "block_entropy": "block entropy"}
STYLES = dict(zip(LABELS, (*style.LOOKS, style.look(style.COLORS[4], "X", 4.0)), strict=True))
ESTIMATORS = ("direct", "direct_corrected", "vclub", "block_entropy")  # drawn if the CSV has them
Y_LABEL = "Bipartite mutual information\nI({}; L) (nats)"
SLOPE_LABEL = "Local slope\nd\u2009ln\u2009I / d\u2009ln\u2009L"

# Fig. 2b of the paper (PG19, Llama 3.1 405B): name, A in nats, β, dashes. Drawn over the paper's range of L in tokens,
# cut to the range of our points.
DASHES = {"direct": (5, 2), "vclub": (1, 1.5)}
PAPER_FIG_2B = [(LABELS[name], *PAPER_LAWS[name], dashes) for name, dashes in DASHES.items()]
PAPER_L = (4, 2048)


@dataclass(frozen=True)
class Settings(style.Settings):
    figure: Literal["2b", "B.2", "B.3", "sweep"] = "2b"


@dataclass(frozen=True)
class Results:
    """The CSVs of one folder."""

    folder: Path
    bipartite: pd.DataFrame
    windows: pd.DataFrame

    @property
    def title(self) -> str:
        source, model, n, books = self.bipartite.iloc[0][["source", "model", "n_documents", "n_books"]]
        return f"{source}, {n:,.0f} documents of {books:.0f} texts\n{model}"

    def points(self, estimators: Sequence[str], ratio: int) -> pd.DataFrame:
        """The rows of these estimators with L = ratio · ell, in ascending order of L."""
        rows = self.bipartite[self.bipartite["estimator"].isin(estimators)]
        return rows[rows["L_tokens"] == ratio * rows["ell_tokens"]].sort_values("L_tokens")

    def there(self, estimators: Sequence[str], ratio: int) -> list[str]:
        """The estimators that have points."""
        found = set(self.points(estimators, ratio)["estimator"])
        return [name for name in estimators if name in found]

    def accepted(self, estimator: str, ratio: int) -> pd.Series | None:
        """The window of sweep.csv over which a power law is drawn, or None; see `longest_accepted`."""
        windows = self.windows[(self.windows["estimator"] == estimator) & (self.windows["L_over_ell"] == ratio)]
        shown = self.points([estimator], ratio)["L_tokens"].max()
        return longest_accepted(windows[windows["L_max"] <= shown])

    def draw_slopes(
        self, ax: Axes, estimators: Sequence[str], ratio: int, which: str, at: str = ""
    ) -> dict[str, Artist]:
        """Draw β in windows of sweep.csv that the query `which` picks, see style.draw_slopes; returns the legend."""
        windows, legend = self.windows[self.windows["L_over_ell"] == ratio].query(which), {}
        there = self.there(estimators, ratio)
        for index, name in enumerate(there):
            rows, shift = windows[windows["estimator"] == name], index - (len(there) - 1) / 2
            legend[LABELS[name]] = style.draw_slopes(ax, rows, "beta", STYLES[name], shift, at)
        return legend


Panel = tuple[Sequence[str], int]  # what a panel shows: estimators, L/ell


def read_results(folder: Path) -> Results:
    """Read and check the CSVs of a folder.

    UserError: a CSV is bad, an estimator is unknown, or the files are from several corpora or models.
    """
    program = "python measure_mutual_info/estimate_bipartite.py"
    why = f"make it with {program} --scores SCORES.csv --counts COUNTS.csv --out {folder}"
    tables = [
        style.read_table(folder / "bipartite.csv", BIPARTITE, why, ["stderr_by_book_nats"], KEY),
        style.read_table(folder / "sweep.csv", SWEEP, why, style.MAY_LACK),
    ]
    style.one_run(folder, tables, ("source", "model"))
    if unknown := set(pd.concat(tables)["estimator"]) - set(STYLES):
        raise UserError(f"{folder}: its CSVs have the unknown estimator {min(unknown)!r}; known: {', '.join(STYLES)}")
    return Results(folder, *tables)


def draw_estimates(ax: Axes, results: Results, estimators: Sequence[str], ratio: int) -> dict[str, Artist]:
    """Draw points ± 1 standard error (by book if there are several) and accepted power laws of the estimators that
    have points; returns the legend.
    """
    legend = {}
    for index, name in enumerate(results.there(estimators, ratio)):
        points, power, said = results.points([name], ratio), results.accepted(name, ratio), "no power law"
        bars = points["stderr_by_book_nats"].fillna(points["stderr_nats"])
        drawn = style.draw_points(ax, points["L_tokens"], points["mi_nats"], bars, STYLES[name], index)
        if power is not None:
            said = f"β = {power['beta']:.2f} [{power['lo95']:.2f}, {power['hi95']:.2f}]"
            L = power[["L_min", "L_max"]].to_numpy(float)
            if list(L) != [points["L_tokens"].min(), points["L_tokens"].max()]:
                said += f", L\u00a0=\u00a0{L[0]:.0f}–{L[1]:.0f}"
            line = {"color": STYLES[name]["color"], "linewidth": 0.9, "zorder": 2, "gid": "fit"}
            drawn = (*ax.plot(L, power["A"] * L ** power["beta"], **line), drawn)
        legend[f"{LABELS[name]}: {said}"] = drawn
    return legend


def draw_panels(
    results: Results, panels: Sequence[Panel], cut: str, titles: Sequence[str], paper: bool = False
) -> Figure:
    """Log-log panels side by side with the same y limits, each with a panel of local slopes and a legend below it.

    cut: where L is cut, for the y label. paper: also draw the paper's lines. UserError: no point above 0.
    """
    fig, upper, lower = style.new_figure(titles, Y_LABEL.format(cut), lower=SLOPE_LABEL)
    points = pd.concat([results.points(*panel) for panel in panels])
    shown = points[points["mi_nats"] > 0]
    L = np.clip(PAPER_L, points["L_tokens"].min(), points["L_tokens"].max())
    # Error bars that reach far down do not extend the axis.
    y = [
        np.maximum(shown["mi_nats"] - shown["stderr_nats"], shown["mi_nats"] / 2),
        shown["mi_nats"] + shown["stderr_nats"],
    ]
    for ax, below, panel in zip(upper, lower, panels, strict=True):
        legend = draw_estimates(ax, results, *panel)
        results.draw_slopes(below, *panel, "dof == 0")
        for name, A, beta, dashes in PAPER_FIG_2B * (paper and len(shown) > 0):
            label = f"paper, PG19, Llama 3.1 405B: {name} {A}·L^{beta}"
            (legend[label],) = ax.plot(L, A * L**beta, dashes=dashes, **style.PAPER)
            below.axhline(beta, dashes=dashes, **style.PAPER)
            y.append(A * L**beta)
        style.put_legend(below, legend)
    for ax in upper:
        style.log_axis(ax.xaxis, points["L_tokens"], "L_tokens", base=2)
        style.log_axis(ax.yaxis, np.concatenate(y), f"mi_nats in {results.folder}")
    return fig


def draw_sweep(results: Results) -> Figure:
    """Two panels: β against the first L of the fit, and against the last L."""
    L = results.points(ESTIMATORS, 2)["L_tokens"]
    ends = [f"Fits that end at L = {L.max():g}", f"Fits that begin at L = {L.min():g}"]
    x_labels = ["First L of the fit (tokens)", "Last L of the fit (tokens)"]
    titles = [f"{results.title}\n{end}" for end in ends]
    fig, axes, _ = style.new_figure(titles, "Exponent β of I(L/2; L)", x_labels)
    for ax, which, x in zip(axes, (f"L_max == {L.max()}", f"L_min == {L.min()}"), ("L_min", "L_max"), strict=True):
        legend = results.draw_slopes(ax, ESTIMATORS, 2, which, x)
        for name, _, beta, dashes in PAPER_FIG_2B:
            legend[f"paper, PG19, 405B: {name} {beta}"] = ax.axhline(beta, dashes=dashes, **style.PAPER)
        style.log_axis(ax.xaxis, L, "L_tokens", base=2)
    style.put_legend(fig, legend, columns=len(legend))
    return fig


def draw(figure: str, results: Results) -> Figure:
    """Draw the figure of this name. UserError: no value that a logarithmic axis can show."""
    if figure == "sweep":
        return draw_sweep(results)
    if figure == "B.2":
        panels = [(ESTIMATORS, ratio) for ratio in (2, 3, 4)]
        return draw_panels(results, panels, "ℓ", [f"{results.title}\nL = {ratio}ℓ" for _, ratio in panels])
    names = ESTIMATORS[:2] if figure == "B.3" else ESTIMATORS
    return draw_panels(results, [(names, 2)], "L/2", [results.title], paper=figure == "2b")


def main(cfg: Settings) -> None:
    style.save(draw(cfg.figure, read_results(cfg.results)), cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
