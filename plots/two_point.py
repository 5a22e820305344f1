"""Two-point mutual information I(W_i; W_{i+d}) against the distance d: Figs. 2c, B.4 and B.5.

    python plots/two_point.py --figure 2c --results results/fig2c --out results/fig2c/fig2c
    python plots/two_point.py --figure B.4 --results results/fig2c results/figB4/wikipedia --out results/figB4/figB4

Reads two_point.csv, fit.csv and sweep.csv (estimate_two_point.py) from each folder. Writes OUT.png and OUT.pdf:
    2c   Grassberger's Î(d) less the plateau C, under it the local slopes, and the paper's line
    B.4  the same for several corpora, a panel a folder
    B.5  Î(d) with and without the plateau, a panel a folder
The power law that C is of is drawn where it is accepted (p >= 0.05). See docs/figures.md.

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

ESTIMATOR = "grassberger"  # the paper's; the others are for comparison in two_point.csv
TWO_POINT = ["source", "tokenizer", "estimator", "d_tokens", "mi_nats", "mi_corrected_nats", "stderr_nats", "n_pairs"]
TWO_POINT += ["plateau_nats", "plateau_law"]
SWEEP = ["source", "model", "estimator", "L_min", "L_max", "alpha", "lo95", "hi95", "dof"]
D_AXIS = "Distance d (tokens)"
Y_LABEL = "Two-point mutual\ninformation (nats)"
SLOPE_LABEL = "Local slope\n−d\u2009ln\u2009I / d\u2009ln\u2009d"
DECADES = 4  # not in the paper: a point that chance puts that far below the highest stretches the axis no further

PAPER_FIG_2C = 1.10, 0.91  # A in nats and α: PG19, tokens of Llama 3.1
STYLES = {
    "mi_nats": SeriesStyle("Î(d)", "#D55E00", "o", 5.0, filled=False),
    "mi_corrected_nats": SeriesStyle("Î(d) − C", "#0072B2", "D", 2.6),
}


@dataclass(frozen=True)
class Settings:
    results: tuple[Path, ...]
    """folders with two_point.csv, fit.csv and sweep.csv, a panel each"""
    out: Path
    """where to write, without the suffix"""
    figure: Literal["2c", "B.4", "B.5"] = "2c"

    def validate(self) -> None:
        if not self.results:
            raise UserError("--results names no folder: give one or more with two_point.csv, fit.csv and sweep.csv")


@dataclass(frozen=True)
class TwoPoint:
    """The CSVs of one folder, those rows that are of ESTIMATOR, ascending in d."""

    folder: Path
    points: pd.DataFrame
    fits: pd.DataFrame
    windows: pd.DataFrame
    source: str
    tokenizer: str

    @property
    def corrected(self) -> bool:
        """Whether a plateau was taken off."""
        return bool(self.points["mi_corrected_nats"].notna().any())

    @property
    def fit(self) -> pd.DataFrame | None:
        """The rows of the law that the plateau is of, by parameter, if it is a power law and accepted."""
        fit = self.fits[self.fits["law"] == self.points["plateau_law"].iloc[0]].set_index("parameter")
        return fit if "alpha" in fit.index and fit["p_value"].iloc[0] >= ACCEPTED else None


def remedy(folder: Path) -> str:
    return f"make it with python measure_mutual_info/estimate_two_point.py --counts COUNTS.csv --out {folder}"


def read_two_point(folder: Path) -> TwoPoint:
    """Read and check the CSVs of a folder.

    UserError: a file or a column is missing, a number is none, nothing is of ESTIMATOR, a point is there twice, or the
    files are of several corpora or tokenizers.
    """
    path, why, tables = folder / "two_point.csv", remedy(folder), []
    may_lack = [*MAY_LACK, "mi_corrected_nats", "stderr_nats", "plateau_nats"]
    for name, columns in (("two_point", TWO_POINT), ("fit", FIT), ("sweep", SWEEP)):
        table = read_table(folder / f"{name}.csv", columns, why, TEXT, may_lack)
        tables.append(table[table["estimator"] == ESTIMATOR].rename(columns={"model": "tokenizer"}))
    points = tables[0].sort_values("d_tokens")
    if points.empty:
        raise UserError(f"{path} has no rows of {ESTIMATOR}, so no points to draw: {why}")
    if points["d_tokens"].duplicated().any():
        raise UserError(f"{path} has points twice: keep one run in a folder")
    if points["mi_corrected_nats"].isna().any() and points["mi_corrected_nats"].notna().any():
        raise UserError(f"{path} has mi_corrected_nats at some distances only: {why}")
    return TwoPoint(folder, points, *tables[1:], *one_run(folder, tables, ("source", "tokenizer")))


Panel = tuple[TwoPoint, Sequence[str]]  # what a panel shows: results, columns of two_point.csv


def draw_series(ax: Axes, results: TwoPoint, shown: Sequence[str], floor: float) -> tuple[list, list[str]]:
    """Points ± 1 standard error and, where it is accepted, their law; returns handles and labels for the legend.

    Points at or below `floor` have no place on the axis: a small downward marker stands at the bottom edge.
    """
    handles, labels, fit = [], [], results.fit
    for index, column in enumerate(shown):
        look, points = STYLES[column], results.points
        above = points[points[column] > floor]
        handle = draw_points(ax, above["d_tokens"], above[column], above["stderr_nats"].fillna(0), look, index)
        mark_below(ax, points.loc[points[column] <= floor, "d_tokens"], index, look.color)
        label = look.label
        if fit is not None:
            less = 0.0 if column == "mi_nats" else points["plateau_nats"].iloc[0]
            handle = (draw_law(ax, fit, look.color, less), handle)
        if column == shown[-1]:
            label += ": no law accepted" if fit is None else f": {with_interval('α', fit, 'alpha')}"
        handles.append(handle)
        labels.append(label)
    return handles, labels


def draw(figure: str, results: Sequence[TwoPoint]) -> Figure:
    """Log-log panels side by side with one y axis, a legend each. UserError: no point above 0 in a panel."""
    panels = []
    for one in results:
        columns = ["mi_corrected_nats" if one.corrected else "mi_nats"]
        panels.append((one, list(STYLES) if figure == "B.5" and one.corrected else columns))
        if not (one.points[panels[-1][1]] > 0).to_numpy().any():
            path = one.folder / "two_point.csv"
            raise UserError(f"{path}: no points to draw: all are at or below 0 nats: count a larger corpus")
    floor, titles = _floor(panels), [f"{one.source}, {one.tokenizer}" for one in results] if len(results) > 1 else ()
    lower = None if figure == "B.5" else (SLOPE_LABEL, 1.0)
    entries = max(len(shown) for _, shown in panels) + 1 + (figure == "B.5")
    text = caption(panels, floor, slopes=lower is not None)
    fig, axes = new_figure(len(panels), Y_LABEL, entries, text, titles, lower, [D_AXIS] * len(panels))
    legends, (A, alpha) = [], PAPER_FIG_2C
    for ax, (one, shown) in zip(axes, panels, strict=False):
        handles, labels = draw_series(ax, one, shown, floor)
        if figure == "B.5" and one.corrected:
            C = one.points["plateau_nats"].iloc[0]
            look = {"color": STYLES["mi_nats"].color, "linewidth": 0.8, "linestyle": ":"}
            handles.append(ax.axhline(C, **look, zorder=1, gid="plateau"))
            labels.append(f"plateau C = {C:.2g} nats")
        d = one.points["d_tokens"].agg(["min", "max"]).to_numpy()
        handles += ax.plot(d, A * d**-alpha, color=GREY, linewidth=0.8, dashes=(5, 2), zorder=1, gid="paper")
        legends.append((handles, [*labels, f"paper, PG19: {A:.2f}·d^−{alpha:.2f}"]))
    _axes(axes[: len(panels)], panels, floor)
    slopes = []
    for ax, (one, shown) in zip(axes[len(panels) :], panels, strict=False):
        steps = one.windows[one.windows["dof"] == 0]
        draw_slopes(ax, steps, "alpha", STYLES[shown[-1]], 0)
        ax.axhline(alpha, color=GREY, linewidth=0.8, dashes=(5, 2), zorder=1, gid="paper")
        slopes += [alpha, *steps["lo95"], *steps["hi95"]]
    slope_axes(axes[len(panels) :], slopes)
    for ax, legend in zip(axes[-len(panels) :], legends, strict=True):
        put_legend(ax, *legend)
    return fig


def _floor(panels: Sequence[Panel]) -> float:
    """0 nats, or what lies DECADES below the highest point where some point lies between."""
    values = np.concatenate([results.points[list(shown)].to_numpy().ravel() for results, shown in panels])
    floor = values.max() / 10**DECADES
    return floor if ((values > 0) & (values <= floor)).any() else 0.0


def _axes(axes: Sequence[Axes], panels: Sequence[Panel], floor: float) -> None:
    """Log-log axes around all points above the floor; a long error bar or a line runs out of them at the bottom."""
    values = np.concatenate([results.points[list(shown)].to_numpy().ravel() for results, shown in panels])
    paper = [line.get_ydata() for ax in axes for line in ax.get_lines() if line.get_gid() == "paper"]
    low, high = min(values[values > floor].min(), np.min(paper)), max(values.max(), np.max(paper))
    margin = max(high / low, 2) ** 0.05
    below = max(int((results.points[list(shown)] <= floor).any().sum()) for results, shown in panels)
    low, high = low / margin ** (1 + 2 * below), high * margin  # markers at the bottom edge cover no point
    d = pd.concat([results.points["d_tokens"] for results, _ in panels])
    for ax in axes:
        length_axis(ax, d)
        ax.set_yscale("log")
        ax.set_ylim(low, high)
        plain_ticks(ax.yaxis, low, high, base=10, room=12)


def caption(panels: Sequence[Panel], floor: float, slopes: bool) -> list[str]:
    """Corpora, tokenizers, pairs; what the bars are, and markers at the bottom edge."""
    runs, below = {}, False
    for results, shown in panels:
        pairs = " to ".join(dict.fromkeys(compact(n) for n in results.points["n_pairs"].agg(["min", "max"])))
        runs.setdefault((results.source, results.tokenizer), pairs)
        below |= bool((results.points[list(shown)] <= floor).any(axis=None))
    if all(results.points["stderr_nats"].isna().all() for results, _ in panels):
        text = "No bars: too few books for an error."
    else:
        text = "Bars: ±1 standard error" + "; of slopes, 95% interval." * slopes + " over books." * (not slopes)
    text += f" ▾: ≤ {f'{floor:.0e}' if floor else 0}." * below
    if len(runs) == 1:
        ((source, tokenizer),) = runs
        return [f"{source}, {tokenizer}, {runs[source, tokenizer]} pairs at each d.", text]
    return [f"Pairs at each d: {', '.join(runs.values())}. {text}"]


def compact(n: float) -> str:
    """Three digits of a large number: "978,020", "1.60 million", "3.10 billion"."""
    for size, name in ((1e9, " billion"), (1e6, " million")):
        if n >= size:
            return f"{n / size:#.3g}".rstrip(".") + name
    return f"{n:,.0f}"


def main(cfg: Settings) -> None:
    cfg.validate()
    save(draw(cfg.figure, [read_two_point(folder) for folder in cfg.results]), cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
