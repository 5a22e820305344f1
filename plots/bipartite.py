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
import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.cli import UserError, run

KEY = ["estimator", "ell_tokens", "L_tokens"]
BIPARTITE = ["source", "model", *KEY, "mi_nats", "stderr_nats", "n_documents"]
SWEEP = ["source", "model", "estimator", "L_over_ell", "L_min", "L_max", "beta", "lo95", "hi95", "dof"]
CORRECTION = ["correction_nats", "correction_stderr_nats"]  # of direct_corrected
STYLES = {
    "direct": style.SeriesStyle("direct", "#0072B2", "o", 5.0, filled=False),
    "direct_corrected": style.SeriesStyle("direct, corrected", "#D55E00", "D", 2.6),
    "vclub": style.SeriesStyle("vCLUB", "#009E73", "^", 3.6),
    "direct_unpaired": style.SeriesStyle("direct, unpaired", "#CC79A7", "s", 4.0, filled=False),
}
ESTIMATORS = ("direct", "direct_corrected", "vclub")
LAW_NAMES = {"power_plus_constant": "power + constant", "broken_power": "broken power"}
RATIOS = (2, 3, 4)  # L/ell
Y_LABEL = "Bipartite mutual information\nI({}; L) (nats)"
SLOPE_LABEL = "Local slope\nd\u2009ln\u2009I / d\u2009ln\u2009L"

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
        if not self.results or (len(self.results) > 1 and self.figure != "B.1"):
            raise UserError(f"--results names {len(self.results)} folders: give one, or for --figure B.1 some")


@dataclass(frozen=True)
class Results:
    """The CSVs of one folder."""

    folder: Path
    bipartite: pd.DataFrame
    fits: pd.DataFrame
    windows: pd.DataFrame

    @property
    def title(self) -> str:
        source, model, n = self.bipartite.iloc[0][["source", "model", "n_documents"]]
        return f"{source}, {n:,.0f} documents\n{model}"

    def points(self, estimator: str, ratio: int) -> pd.DataFrame:
        """The rows of an estimator with L = ratio · ell, ascending in L."""
        rows = self.bipartite[self.bipartite["estimator"] == estimator]
        return rows[rows["L_tokens"] == ratio * rows["ell_tokens"]].sort_values("L_tokens")

    def present(self, estimators: Sequence[str], ratio: int) -> list[str]:
        """Those of some estimators that have points. UserError: none has one that a logarithmic axis can show."""
        found = [name for name in estimators if len(self.points(name, ratio))]
        if not any((self.points(name, ratio)["mi_nats"] > 0).any() for name in found):
            names = " or ".join(estimators)
            raise UserError(
                f"{self.folder / 'bipartite.csv'}: no mi_nats of {names} above 0 at L = {ratio} ell, so nothing to "
                "draw: score more documents"
            )
        return found

    def selected(self, estimator: str, ratio: int) -> pd.DataFrame | None:
        """The rows of the selected law, by parameter, if it is accepted."""
        fits = self.fits[(self.fits["estimator"] == estimator) & (self.fits["L_over_ell"] == ratio)]
        fit = fits[(fits["selected"] == "True") & (fits["p_value"] >= style.ACCEPTED)]
        return None if fit.empty else fit.set_index("parameter")

    def sweep(self, estimator: str, ratio: int) -> pd.DataFrame:
        """The rows of sweep.csv."""
        return self.windows[(self.windows["estimator"] == estimator) & (self.windows["L_over_ell"] == ratio)]


Panel = tuple[Results, Sequence[str], int]  # what a panel shows: results, estimators, L/ell


def remedy(folder: Path) -> str:
    program = "python measure_mutual_info/estimate_bipartite.py"
    return f"make it with {program} --scores SCORES.csv --counts COUNTS.csv --out {folder}"


def read_results(folder: Path) -> Results:
    """Read and check the CSVs of a folder.

    UserError: a CSV is bad, an estimator is unknown, or the files are of several corpora or models.
    """
    why = remedy(folder)
    tables = [
        style.read_table(folder / "bipartite.csv", BIPARTITE, why, key=KEY),
        style.read_table(folder / "fit.csv", ["L_over_ell", *style.FIT], why, style.MAY_LACK),
        style.read_table(folder / "sweep.csv", SWEEP, why, style.MAY_LACK),
    ]
    style.one_run(folder, tables, ("source", "model"))
    if unknown := set(pd.concat(tables)["estimator"]) - set(STYLES):
        raise UserError(f"{folder}: its CSVs have the unknown estimator {min(unknown)!r}; known: {', '.join(STYLES)}")
    return Results(folder, *tables)


def law_label(fit: pd.DataFrame | None) -> str:
    """Such as "β = 0.71 [0.68, 0.74]" of a power law, "saturating law, p = 0.16" of another."""
    if fit is None:
        return "no law accepted"
    law, p = fit.iloc[0][["law", "p_value"]]
    return style.with_interval("β", fit, "beta") if law == "power" else f"{LAW_NAMES.get(law, law)} law, p = {p:.2f}"


def draw_estimates(ax: Axes, results: Results, estimators: Sequence[str], ratio: int) -> dict[str, Artist]:
    """Points ± 1 standard error and accepted laws of some estimators; returns the legend."""
    legend = {}
    for index, name in enumerate(estimators):
        look, points, fit = STYLES[name], results.points(name, ratio), results.selected(name, ratio)
        drawn = style.draw_points(ax, points["L_tokens"], points["mi_nats"], points["stderr_nats"], look, index)
        label = f"{look.label}: {law_label(fit)}"
        legend[label] = drawn if fit is None else (style.draw_law(ax, fit, look.color), drawn)
    return legend


def log_axes(axes: Sequence[Axes], panels: Sequence[Panel]) -> None:
    """Log-log axes around all points and the paper's lines; a bar that reaches far down runs out of them."""
    points = pd.concat([results.points(name, ratio) for results, names, ratio in panels for name in names])
    shown = points[points["mi_nats"] > 0]
    mi, bars = shown["mi_nats"], shown["stderr_nats"]
    paper = [line.get_ydata() for line in axes[0].get_lines() if line.get_gid() == "paper"]
    for ax in axes:
        style.log_axis(ax.xaxis, points["L_tokens"], "L_tokens", base=2)
        style.log_axis(ax.yaxis, np.concatenate([np.maximum(mi - bars, mi / 2), mi + bars, *paper]), "mi_nats")


def draw_panels(
    panels: Sequence[Panel], cut: str, titles: Sequence[str], paper: bool = False, heading: str = ""
) -> Figure:
    """Panels side by side with the same y limits, a panel of local slopes under each and a legend each.

    cut: where L is cut, for the y label. paper: its lines too. heading: above all panels.
    """
    entries = max(len(estimators) for _, estimators, _ in panels) * (2 if len(panels) > 2 else 1) + 2 * paper
    y_label = Y_LABEL.format(cut)
    fig, upper, lower = style.new_figure(len(panels), y_label, titles=titles, entries=entries + 2, lower=SLOPE_LABEL)
    if heading:
        fig.suptitle(heading, fontsize="medium")
    for ax, below, (results, estimators, ratio) in zip(upper, lower, panels, strict=True):
        legend = draw_estimates(ax, results, estimators, ratio)
        for index, name in enumerate(estimators):
            windows = results.sweep(name, ratio)
            style.draw_slopes(
                below, windows[windows["dof"] == 0], "beta", STYLES[name], index - (len(estimators) - 1) / 2
            )
        if paper:
            L = pd.concat([results.points(name, ratio)["L_tokens"] for name in estimators])
            L = np.clip(PAPER_L, L.min(), L.max())
            for name, A, beta, dashes in PAPER_FIG_2B:
                label = f"paper, PG19, Llama 3.1 405B: {name} {A}·L^{beta}"
                (legend[label],) = ax.plot(L, A * L**beta, dashes=dashes, **style.PAPER)
                below.axhline(beta, dashes=dashes, **style.PAPER)
        style.put_legend(below, legend)
    log_axes(upper, panels)
    return fig


def draw_b2(results: Results) -> Figure:
    """A panel for each ratio. UserError: one has no points that a logarithmic axis can show."""
    direct = "direct_corrected" if (results.bipartite["estimator"] == "direct_corrected").any() else "direct"
    panels = [(results, results.present((direct, "vclub"), ratio), ratio) for ratio in RATIOS]
    return draw_panels(panels, "ℓ", [f"L = {ratio}ℓ" for ratio in RATIOS], heading=results.title.replace("\n", ", "))


def draw_b3(results: Results) -> Figure:
    """Two panels: the estimates, and what the correction adds. UserError: it is missing."""
    path = results.folder / "bipartite.csv"
    table = style.read_table(path, [*KEY, *CORRECTION], remedy(results.folder), CORRECTION)
    added = table[(table["estimator"] == "direct_corrected") & (table["L_tokens"] == 2 * table["ell_tokens"])]
    if added.empty or added[CORRECTION].isna().any(axis=None):
        raise UserError(f"{path}: no direct_corrected at L = 2 ell: run estimate_bipartite.py with --counts")
    panel = results, results.present(("direct", "direct_corrected"), 2), 2
    labels = Y_LABEL.format("L/2"), "corrected −\ndirect (nats)"
    fig, (ax,), (lower,) = style.new_figure(1, labels[0], titles=[results.title], entries=2, lower=labels[1])
    style.put_legend(lower, draw_estimates(ax, *panel))
    log_axes([ax], [panel])
    lower.axhline(0, color=style.GREY, linewidth=0.6, zorder=1)
    bars = added["correction_stderr_nats"]
    style.draw_points(
        lower, added["L_tokens"], added["correction_nats"], bars, STYLES["direct_corrected"], floor=-np.inf
    )
    return fig


def draw_sweep(results: Results) -> Figure | None:
    """Two panels: β by the first L, β by the last L. None where no window allows an exponent."""
    estimators = [name for name in results.present(ESTIMATORS, 2) if len(results.sweep(name, 2))]
    if not estimators:
        return None
    L = pd.concat([results.points(name, 2)["L_tokens"] for name in estimators])
    titles = [f"Fits that end at L = {L.max():g}", f"Fits that begin at L = {L.min():g}"]
    x_labels = ["First L of the fit (tokens)", "Last L of the fit (tokens)"]
    fig, axes, _ = style.new_figure(2, "Exponent β of I(L/2; L)", x_labels, titles, entries=2)
    fig.suptitle(results.title.replace("\n", ", "), fontsize="medium")
    legend = {}
    for ax, fixed, end, x in ((axes[0], "L_max", L.max(), "L_min"), (axes[1], "L_min", L.min(), "L_max")):
        for index, name in enumerate(estimators):
            rows, shift = results.sweep(name, 2), index - (len(estimators) - 1) / 2
            rows = rows[rows[fixed] == end]
            legend[STYLES[name].label] = style.draw_slopes(ax, rows, "beta", STYLES[name], shift, x)
        for name, _, beta, dashes in PAPER_FIG_2B:
            legend[f"paper, PG19, 405B: {name} {beta}"] = ax.axhline(beta, dashes=dashes, **style.PAPER)
        style.log_axis(ax.xaxis, L, "L_tokens", base=2)
    style.put_legend(fig, legend, columns=len(legend))
    return fig


def draw(figure: str, results: Sequence[Results]) -> Figure | None:
    """UserError: nothing that a logarithmic axis can show. None: a sweep without windows."""
    if figure in ("B.2", "B.3", "sweep"):
        return {"B.2": draw_b2, "B.3": draw_b3, "sweep": draw_sweep}[figure](results[0])
    panels = [(each, each.present(ESTIMATORS, 2), 2) for each in results]
    return draw_panels(panels, "L/2", [each.title for each in results], paper=figure == "2b")


def main(cfg: Settings) -> None:
    cfg.validate()
    fig = draw(cfg.figure, [read_results(folder) for folder in cfg.results])
    if fig is None:  # a finding, not a fault: the other pictures of the run are to be drawn all the same
        print(f"no {cfg.out}.png: too few points of {cfg.results[0]} lie clearly above 0, score more documents")
        return
    style.save(fig, cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
