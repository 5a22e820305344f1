"""Bipartite mutual information I(ell; L) against the length L: Figs. 2b, B.1, B.2, B.3, and a sweep of the exponent.

    python plots/bipartite.py --figure 2b --results results/fig2b --out results/fig2b/fig2b
    python plots/bipartite.py --figure B.1 --results results/fig2b results/figB1/wikipedia --out results/figB1/figB1

Reads bipartite.csv, fit.csv and sweep.csv (estimate_bipartite.py) from each folder. Writes OUT.png and OUT.pdf:
    2b     I(L/2; L) by each estimator, and under it the local slopes; the paper's lines
    B.1    the same for several corpora or models, a panel a folder
    B.2    the same at L = 2 ell, 3 ell and 4 ell
    B.3    direct with and without the 2-gram correction, and what the correction adds
    sweep  not in the paper: β in every window that ends at the largest L, or begins at the smallest
A law is drawn where its fit is the selected one and accepted (p >= 0.05). See docs/figures.md.

Hardware: one CPU core, two seconds. Expect straight lines in log-log, and flat slopes, for a power law.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from style import (
    ACCEPTED,
    FIT,
    GREY,
    MAY_LACK,
    TEXT,
    SeriesStyle,
    draw_law,
    draw_points,
    draw_slopes,
    length_axis,
    mark_below,
    new_figure,
    one_run,
    plain_ticks,
    put_legend,
    read_table,
    save,
    slope_axes,
    with_interval,
)

from common.cli import UserError, run

BIPARTITE = ["source", "model", "estimator", "ell_tokens", "L_tokens", "mi_nats", "stderr_nats", "n_documents"]
SWEEP = ["source", "model", "estimator", "L_over_ell", "L_min", "L_max", "beta", "lo95", "hi95", "dof"]
CORRECTION = ["correction_nats", "correction_stderr_nats"]  # of direct_corrected
STYLES = {
    "direct": SeriesStyle("direct", "#0072B2", "o", 5.0, filled=False),
    "direct_corrected": SeriesStyle("direct, corrected", "#D55E00", "D", 2.6),
    "vclub": SeriesStyle("vCLUB", "#009E73", "^", 3.6),
    "direct_unpaired": SeriesStyle("direct, unpaired", "#CC79A7", "s", 4.0, filled=False),
}
ESTIMATORS = ("direct", "direct_corrected", "vclub")
LAW_NAMES = {"power_plus_constant": "power + constant", "broken_power": "broken power"}
RATIOS = (2, 3, 4)  # L/ell
Y_LABEL = "Bipartite mutual information\nI({}; L) (nats)"
SLOPE_LABEL = "Local slope\nd\u2009ln\u2009I / d\u2009ln\u2009L"
BARS = "Bars: ±1 standard error; of slopes, 95% interval."
BELOW = " ▾: I ≤ 0."

# Fig. 2b of the paper, PG19 and Llama 3.1 405B: name, A in nats, β, dashes; drawn over its L in tokens
# as far as there are points.
PAPER_FIG_2B = (("direct", 2.27, 0.76, (5, 2)), ("vCLUB", 3.26, 0.71, (1, 1.5)))
PAPER_L = (4, 2048)


@dataclass(frozen=True)
class Settings:
    results: tuple[Path, ...]
    """folders with bipartite.csv, fit.csv and sweep.csv; several for B.1 alone"""
    out: Path
    """where to write, without the suffix"""
    figure: Literal["2b", "B.1", "B.2", "B.3", "sweep"] = "2b"

    def validate(self) -> None:
        if not self.results:
            raise UserError("--results names no folder: give one with bipartite.csv, fit.csv and sweep.csv")
        if len(self.results) > 1 and self.figure != "B.1":
            raise UserError(f"--results names {len(self.results)} folders: give one, or --figure B.1")


@dataclass(frozen=True)
class Results:
    """The CSVs of one folder."""

    folder: Path
    bipartite: pd.DataFrame
    fits: pd.DataFrame
    windows: pd.DataFrame
    source: str
    model: str

    def points(self, estimator: str, ratio: int) -> pd.DataFrame:
        """The rows of an estimator with L = ratio · ell, ascending in L."""
        rows = self.bipartite[self.bipartite["estimator"] == estimator]
        return rows[rows["L_tokens"] / rows["ell_tokens"] == ratio].sort_values("L_tokens")

    def present(self, estimators: Sequence[str], ratio: int) -> list[str]:
        """Those of some estimators that have points. UserError: none has one that a logarithmic axis can show."""
        found = [name for name in estimators if len(self.points(name, ratio))]
        where = f"{self.folder / 'bipartite.csv'}: no points to draw"
        if not found:
            raise UserError(f"{where}: no {' or '.join(estimators)} at L = {ratio} ell: {remedy(self.folder)}")
        if all((self.points(name, ratio)["mi_nats"] <= 0).all() for name in found):
            raise UserError(f"{where}: all at L = {ratio} ell are at or below 0 nats: score more documents")
        return found

    def selected(self, estimator: str, ratio: int) -> pd.DataFrame | None:
        """The rows of the selected law, by parameter, if it is accepted."""
        fits = self.fits[(self.fits["estimator"] == estimator) & (self.fits["L_over_ell"] == ratio)]
        fit = fits[(fits["selected"] == "True") & (fits["p_value"] >= ACCEPTED)]
        return None if fit.empty else fit.set_index("parameter")

    def sweep(self, estimator: str, ratio: int) -> pd.DataFrame:
        """The rows of sweep.csv."""
        windows = self.windows
        return windows[(windows["estimator"] == estimator) & (windows["L_over_ell"] == ratio)]


Panel = tuple[Results, Sequence[str], int]  # what a panel shows: results, estimators, L/ell


def read_results(folder: Path) -> Results:
    """Read and check the CSVs of a folder.

    UserError: a file or a column is missing, a number is none, an estimator is unknown, a point is there twice, or the
    files are of several corpora or models.
    """
    why, tables = remedy(folder), []
    for name, columns in (("bipartite", BIPARTITE), ("fit", ["L_over_ell", *FIT]), ("sweep", SWEEP)):
        tables.append(read_table(folder / f"{name}.csv", columns, why, TEXT, MAY_LACK))
        unknown = set(tables[-1]["estimator"]) - set(STYLES)
        if unknown:
            raise UserError(f"{folder / name}.csv: unknown estimator {min(unknown)!r}; known: {', '.join(STYLES)}")
    if tables[0].empty:
        raise UserError(f"{folder / 'bipartite.csv'} has no rows, so no points to draw: {why}")
    if tables[0].duplicated(["estimator", "ell_tokens", "L_tokens"]).any():
        raise UserError(f"{folder / 'bipartite.csv'} has points twice: keep one run in a folder")
    return Results(folder, *tables, *one_run(folder, tables, ("source", "model")))


def remedy(folder: Path) -> str:
    return (
        "make it with python measure_mutual_info/estimate_bipartite.py --scores SCORES.csv --counts COUNTS.csv "
        f"--out {folder}"
    )


def draw_estimates(ax: Axes, results: Results, estimators: Sequence[str], ratio: int) -> tuple[list, list[str]]:
    """Points ± 1 standard error and accepted laws of some estimators; returns handles and labels for the legend.

    Points at or below 0 have no place on a logarithmic axis: a small downward marker stands at the bottom edge.
    """
    handles, labels = [], []
    for index, name in enumerate(estimators):
        look, points, fit = STYLES[name], results.points(name, ratio), results.selected(name, ratio)
        shown = points[points["mi_nats"] > 0]
        handle = draw_points(ax, shown["L_tokens"], shown["mi_nats"], shown["stderr_nats"], look, index)
        mark_below(ax, points.loc[points["mi_nats"] <= 0, "L_tokens"], index, look.color)
        handles.append(handle if fit is None else (draw_law(ax, fit, look.color), handle))
        labels.append(f"{look.label}: {law_label(fit)}")
    return handles, labels


def law_label(fit: pd.DataFrame | None) -> str:
    """Such as "β = 0.71 [0.68, 0.74]" of a power law, "saturating law, p = 0.16" of another."""
    if fit is None:
        return "no law accepted"
    law, p = fit.iloc[0][["law", "p_value"]]
    return with_interval("β", fit, "beta") if law == "power" else f"{LAW_NAMES.get(law, law)} law, p = {p:.2f}"


def draw_panels(panels: Sequence[Panel], y_label: str, titles: Sequence[str] = (), paper: bool = False) -> Figure:
    """Panels side by side with the same y limits, a panel of local slopes under each and a legend each.

    paper: its lines too.
    """
    entries = max(len(estimators) for _, estimators, _ in panels) + len(PAPER_FIG_2B) * paper
    fig, axes = new_figure(len(panels), y_label, entries, caption(panels, BARS), titles, lower=(SLOPE_LABEL, 1.0))
    upper, lower = axes[: len(panels)], axes[len(panels) :]
    legends, slopes = [], []
    for ax, below, (results, estimators, ratio) in zip(upper, lower, panels, strict=True):
        handles, labels = draw_estimates(ax, results, estimators, ratio)
        for index, name in enumerate(estimators):
            windows = results.sweep(name, ratio)
            steps = windows[windows["dof"] == 0]
            draw_slopes(below, steps, "beta", STYLES[name], index - (len(estimators) - 1) / 2)
            slopes += [*steps["lo95"], *steps["hi95"]]
        if paper:
            L = pd.concat([results.points(name, ratio)["L_tokens"] for name in estimators])
            L = np.clip(PAPER_L, L.min(), L.max())
            for name, A, beta, dashes in PAPER_FIG_2B:
                handles += ax.plot(L, A * L**beta, color=GREY, linewidth=0.8, dashes=dashes, zorder=1, gid="paper")
                labels.append(f"paper, PG19, Llama 3.1 405B: {name} {A}·L^{beta}")
            slopes += paper_exponents([below])
        legends.append((handles, labels))
    slope_axes(lower, slopes)
    log_axes(upper, panels)
    for ax, legend in zip(lower, legends, strict=True):
        put_legend(ax, *legend)
    return fig


def paper_exponents(axes: Sequence[Axes]) -> list[float]:
    """Lines at the paper's β; returns these."""
    for ax in axes:
        for _, _, beta, dashes in PAPER_FIG_2B:
            ax.axhline(beta, color=GREY, linewidth=0.8, dashes=dashes, zorder=1, gid="paper")
    return [beta for _, _, beta, _ in PAPER_FIG_2B]


def caption(panels: Sequence[Panel], bars: str) -> list[str]:
    """Corpus, model, documents; what bars are, and markers at the bottom edge."""
    runs, below = {}, False
    for results, estimators, ratio in panels:
        points = pd.concat([results.points(name, ratio) for name in estimators])
        documents = " to ".join(dict.fromkeys(f"{n:,.0f}" for n in points["n_documents"].agg(["min", "max"])))
        runs.setdefault((results.source, results.model), documents)
        below |= bool((points["mi_nats"] <= 0).any())
    if len(runs) == 1:
        ((source, model),) = runs
        return [f"{source}, {model}, {runs[source, model]} documents.", bars + BELOW * below]
    return [f"Documents: {', '.join(runs.values())}. {bars}{BELOW * below}"]


def log_axes(axes: Sequence[Axes], panels: Sequence[Panel]) -> None:
    """Log-log axes around all that can be shown, with plain numbers at powers of two or ten; one y axis for all.

    An error bar or a law that reaches far down runs out of the axis instead of stretching it.
    """
    points = pd.concat([results.points(name, ratio) for results, names, ratio in panels for name in names])
    shown = points[points["mi_nats"] > 0]
    low = np.maximum(shown["mi_nats"] - shown["stderr_nats"], shown["mi_nats"] / 2).min()
    high = (shown["mi_nats"] + shown["stderr_nats"]).max()
    for line in (line for ax in axes for line in ax.get_lines() if line.get_gid() == "paper"):
        low, high = min(low, *line.get_ydata()), max(high, *line.get_ydata())
    margin = max(high / low, 2) ** 0.04
    below = points.loc[points["mi_nats"] <= 0, "estimator"].nunique()
    low, high = low / margin ** (1 + 2 * below), high * margin  # markers of points at or below 0 stand at the bottom
    for ax in axes:
        length_axis(ax, points["L_tokens"])
        ax.set_yscale("log")
        ax.set_ylim(low, high)
        plain_ticks(ax.yaxis, low, high, base=10 if high / low > 1000 else 2, room=12)


def draw_b2(results: Results) -> Figure:
    """A panel for each ratio. UserError: one has no points that a logarithmic axis can show."""
    direct = "direct_corrected" if (results.bipartite["estimator"] == "direct_corrected").any() else "direct"
    panels = [(results, results.present((direct, "vclub"), ratio), ratio) for ratio in RATIOS]
    return draw_panels(panels, Y_LABEL.format("ℓ"), [f"L = {ratio}ℓ" for ratio in RATIOS])


def draw_b3(results: Results) -> Figure:
    """Two panels: the estimates, and what the correction adds. UserError: it is missing."""
    path = results.folder / "bipartite.csv"
    table = read_table(
        path, ["estimator", "L_tokens", "ell_tokens", *CORRECTION], remedy(results.folder), TEXT, CORRECTION
    )
    added = table[(table["estimator"] == "direct_corrected") & (table["L_tokens"] == 2 * table["ell_tokens"])]
    if added.empty or added[CORRECTION].isna().any(axis=None):
        raise UserError(f"{path}: no direct_corrected at L = 2 ell: run estimate_bipartite.py with --counts")
    panel = results, results.present(("direct", "direct_corrected"), 2), 2
    text = caption([panel], "Bars: ±1 standard error over documents.")
    fig, (ax, lower) = new_figure(1, Y_LABEL.format("L/2"), 2, text, lower=("corrected −\ndirect (nats)", 1.0))
    legend = draw_estimates(ax, *panel)
    log_axes([ax], [panel])
    lower.axhline(0, color=GREY, linewidth=0.6, zorder=1)
    draw_points(lower, added["L_tokens"], added["correction_nats"], added[CORRECTION[1]], STYLES["direct_corrected"])
    lower.margins(y=0.15)
    put_legend(lower, *legend)
    return fig


def draw_sweep(results: Results) -> Figure | None:
    """Two panels: β by the first L, β by the last L. None where no window allows an exponent."""
    estimators = [name for name in results.present(ESTIMATORS, 2) if len(results.sweep(name, 2))]
    if not estimators:
        return None
    L = pd.concat([results.points(name, 2)["L_tokens"] for name in estimators])
    titles = [f"Fits that end at L = {L.max():g}", f"Fits that begin at L = {L.min():g}"]
    x_labels = ["First L of the fit (tokens)", "Last L of the fit (tokens)"]
    text = [caption([(results, estimators, 2)], "")[0], "Bars: 95% interval, documents taken as independent."]
    fig, axes = new_figure(2, "Exponent β of I(L/2; L)", 1, text, titles, x_labels=x_labels, one_legend=True)
    handles, shown = [], paper_exponents(axes)
    for index, name in enumerate(estimators):
        windows, shift = results.sweep(name, 2), index - (len(estimators) - 1) / 2
        for ax, fixed, x in ((axes[0], ("L_max", L.max()), "L_min"), (axes[1], ("L_min", L.min()), "L_max")):
            rows = windows[windows[fixed[0]] == fixed[1]]
            handle = draw_slopes(ax, rows, "beta", STYLES[name], shift, rows[x])
            shown += [*rows["lo95"], *rows["hi95"]]
        handles.append(handle)
    for ax in axes:
        length_axis(ax, L)
    slope_axes(axes, shown)
    labels = [STYLES[name].label for name in estimators]
    labels += [f"paper, PG19, 405B: {name} {beta}" for name, _, beta, _ in PAPER_FIG_2B]
    put_legend(axes[0], [*handles, *axes[0].get_lines()[: len(PAPER_FIG_2B)]], labels, columns=len(labels))
    return fig


def draw(figure: str, results: Sequence[Results]) -> Figure | None:
    """UserError: nothing that a logarithmic axis can show. None: a sweep without windows."""
    one = results[0]
    if figure == "B.2":
        return draw_b2(one)
    if figure == "B.3":
        return draw_b3(one)
    if figure == "sweep":
        return draw_sweep(one)
    panels = [(each, each.present(ESTIMATORS, 2), 2) for each in results]
    titles = [f"{each.source}, {each.model}" for each in results] if figure == "B.1" else ()
    return draw_panels(panels, Y_LABEL.format("L/2"), titles, paper=figure == "2b")


def main(cfg: Settings) -> None:
    cfg.validate()
    fig = draw(cfg.figure, [read_results(folder) for folder in cfg.results])
    if fig is None:  # a finding, not a fault: the other pictures of the run are to be drawn all the same
        print(f"no {cfg.out}.png: too few points of {cfg.results[0]} lie clearly above 0, score more documents")
        return
    save(fig, cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
