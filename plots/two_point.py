"""Two-point mutual information I(W_i; W_{i+d}) against the distance d: Figs. 2c, B.4 and B.5.

    python plots/two_point.py --figure 2c --results results/fig2c --out results/fig2c/fig2c
    python plots/two_point.py --figure B.4 --results results/fig2c results/figB4/wikipedia --out results/figB4/figB4

Reads two_point.csv, fit.csv and sweep.csv (estimate_two_point.py) from each folder. Writes OUT.png and OUT.pdf:
    2c   Grassberger's Î(d) minus the plateau C, with the paper's line, and the local slopes below
    B.4  the same for several corpora, a panel per folder
    B.5  Î(d) with and without the plateau, a panel per folder
    ranges  not in the paper: α against the distance at which the fit ends (ranges.csv), a panel per folder
The power law that C comes from is drawn if it is accepted (p >= 0.05). See docs/figures.md.

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
from common.powerlaw import ACCEPTED, PAPER_LAWS

ESTIMATOR = "grassberger"  # the paper's; the others are for comparison in two_point.csv
TWO_POINT = ["source", "tokenizer", "estimator", "d_tokens", "mi_nats", "mi_corrected_nats", "stderr_nats", "n_pairs"]
TWO_POINT += ["plateau_nats", "plateau_law"]
SWEEP = ["source", "model", "estimator", "L_min", "L_max", "alpha", "lo95", "hi95", "dof"]
Y_LABEL = "Two-point mutual\ninformation (nats)"
SLOPE_LABEL = "Local slope\n−d\u2009ln\u2009I / d\u2009ln\u2009d"
DECADES = 4  # not in the paper: points further than this below the highest do not extend the axis

PAPER_A, PAPER_ALPHA = PAPER_LAWS["two_point"]  # PG19, tokens of Llama 3.1
RANGE_LAWS = {"power_plus_constant": "A d^−α + C, errors by book", "paper_eq_b15": "the paper's fit (Eq. B.15)"}
LABELS = {"mi_nats": "Î(d)", "mi_corrected_nats": "Î(d) − C"}
STYLES = dict(zip(LABELS, style.LOOKS, strict=False))


@dataclass(frozen=True)
class Settings(style.Settings):
    results: tuple[Path, ...]  # folders with two_point.csv, fit.csv and sweep.csv, one panel each
    figure: Literal["2c", "B.4", "B.5", "ranges"] = "2c"


@dataclass(frozen=True)
class TwoPoint:
    """The rows of ESTIMATOR in the CSVs of one folder; points in ascending order of d."""

    folder: Path
    points: pd.DataFrame
    fits: pd.DataFrame
    windows: pd.DataFrame

    @property
    def corrected(self) -> bool:
        """Whether a plateau was subtracted."""
        return bool(self.points["mi_corrected_nats"].notna().any())

    @property
    def fit(self) -> pd.DataFrame | None:
        """The rows of the law that the plateau comes from, by parameter; None unless it is an accepted power law."""
        fit = self.fits[self.fits["law"] == self.points["plateau_law"].iloc[0]].set_index("parameter")
        return fit if "alpha" in fit.index and fit["p_value"].iloc[0] >= ACCEPTED else None

    @property
    def title(self) -> str:
        source, tokenizer, n = self.points.iloc[0][["source", "tokenizer", "n_pairs"]]
        return f"{source}, {n / 1e6:,.2f} million pairs\n{tokenizer}"


def read_two_point(folder: Path) -> TwoPoint:
    """Read and check the CSVs of a folder.

    UserError: a CSV is bad, has no rows of ESTIMATOR, or the files are from several corpora or tokenizers.
    """
    path = folder / "two_point.csv"
    why = f"make it with python measure_mutual_info/estimate_two_point.py --counts COUNTS.csv --out {folder}"
    may_lack = [*style.MAY_LACK, "mi_corrected_nats", "stderr_nats", "plateau_nats"]
    tables = [
        style.read_table(path, TWO_POINT, why, may_lack, key=["estimator", "d_tokens"]),
        style.read_table(folder / "fit.csv", style.FIT, why, may_lack).rename(columns={"model": "tokenizer"}),
        style.read_table(folder / "sweep.csv", SWEEP, why, may_lack).rename(columns={"model": "tokenizer"}),
    ]
    points, fits, windows = (table[table["estimator"] == ESTIMATOR] for table in tables)
    if points.empty:
        raise UserError(f"{path} has no rows of {ESTIMATOR}, so no points to draw: {why}")
    style.one_run(folder, [points, fits, windows], ("source", "tokenizer"))
    return TwoPoint(folder, points.sort_values("d_tokens"), fits, windows)


def draw_panel(ax: Axes, results: TwoPoint, shown: Sequence[str], floor: float) -> dict[str, Artist]:
    """Draw points ± 1 standard error, their law if accepted, the paper's, and C beside Î; returns the legend."""
    points, fit, legend = results.points, results.fit, {}
    C = points["plateau_nats"].iloc[0]
    for index, column in enumerate(shown):
        look, label, bars = STYLES[column], LABELS[column], points["stderr_nats"].fillna(0)
        drawn = style.draw_points(ax, points["d_tokens"], points[column], bars, look, index, floor)
        if fit is not None:
            less = 0.0 if column == "mi_nats" else C
            drawn = (style.draw_law(ax, fit, look["color"], less), drawn)
        said = "no law accepted"
        if fit is not None:
            of = fit.loc["alpha"]
            interval = "" if np.isnan(of["boot_lo95"]) else f" [{of['boot_lo95']:.2f}, {of['boot_hi95']:.2f}]"
            said = f"α = {of['value']:.2f}{interval}"
        legend[f"{label}: {said}" if column == shown[-1] else label] = drawn
    if len(shown) > 1:
        line = ax.axhline(C, color=STYLES["mi_nats"]["color"], linewidth=0.8, linestyle=":", zorder=1, gid="plateau")
        legend[f"plateau C = {C:.2g} nats"] = line
    d = points["d_tokens"].agg(["min", "max"]).to_numpy()
    label = f"paper, PG19: {PAPER_A:.2f}·d^−{PAPER_ALPHA:.2f}"
    (legend[label],) = ax.plot(d, PAPER_A * d**-PAPER_ALPHA, dashes=(5, 2), **style.PAPER)
    return legend


def draw(figure: str, results: Sequence[TwoPoint]) -> Figure:
    """Log-log panels side by side with a shared y axis, each with a legend and, except in B.5, local slopes.

    UserError: no point above 0.
    """
    panels = []
    for one in results:
        columns = ["mi_corrected_nats"] if one.corrected else ["mi_nats"]
        panels.append((one, list(LABELS) if figure == "B.5" and one.corrected else columns))
    values = np.concatenate([one.points[shown].to_numpy().ravel() for one, shown in panels])
    floor = max(values.max() / 10**DECADES, 0)
    y, lower = [values[values > floor]], "" if figure == "B.5" else SLOPE_LABEL
    titles = [one.title for one in results]
    fig, upper, below = style.new_figure(titles, Y_LABEL, "Distance d (tokens)", lower=lower)
    for ax, slopes, (one, shown) in zip(upper, below, panels, strict=True):
        style.put_legend(slopes, draw_panel(ax, one, shown, floor))
        y += [line.get_ydata() for line in ax.get_lines() if line.get_gid() == "paper"] * bool(len(y[0]))
        if lower:
            steps = one.windows[one.windows["dof"] == 0]
            style.draw_slopes(slopes, steps, "alpha", STYLES[shown[-1]], 0, "")
            slopes.axhline(PAPER_ALPHA, dashes=(5, 2), **style.PAPER)
    for ax in upper:
        style.log_axis(ax.xaxis, pd.concat([one.points["d_tokens"] for one in results]), "d_tokens", base=2)
        style.log_axis(ax.yaxis, np.concatenate(y), f"{one.folder / 'two_point.csv'}: mi_nats less its plateau")
    return fig


def draw_ranges(folders: Sequence[Path]) -> Figure:
    """α of each law against the last distance of the fit, with 95% intervals from resampled books.

    UserError: a bad ranges.csv.
    """
    why = "make it with python measure_mutual_info/estimate_two_point.py --counts COUNTS.csv --out FOLDER"
    tables = [style.read_table(folder / "ranges.csv", style.FIT, why, style.MAY_LACK) for folder in folders]
    if any(table[table["parameter"] == "alpha"].empty for table in tables):
        raise UserError(f"--results names a folder whose ranges.csv has no alpha: {why}")
    titles = [f"{table['source'].iloc[0]}\n{table['model'].iloc[0]}" for table in tables]
    fig, axes, _ = style.new_figure(titles, "Exponent α", "Last distance of the fit (tokens)")
    legend = {}
    for ax, table in zip(axes, tables, strict=True):
        alpha = table[table["parameter"] == "alpha"]
        for index, (law, label) in enumerate(RANGE_LAWS.items()):
            rows = alpha[alpha["law"] == law]
            bars = [rows["value"] - rows["boot_lo95"], rows["boot_hi95"] - rows["value"]]
            shifted = rows["L_max"] * 2 ** (0.18 * index)  # so that bars do not overlap
            legend[label] = style.draw_points(ax, shifted, rows["value"], bars, style.LOOKS[index], index, -np.inf)
        legend[f"paper, PG19: α = {PAPER_ALPHA}"] = ax.axhline(PAPER_ALPHA, dashes=(5, 2), **style.PAPER)
        style.log_axis(ax.xaxis, alpha["L_max"], "L_max", base=2)
    style.put_legend(fig, legend, columns=3)
    return fig


def main(cfg: Settings) -> None:
    if cfg.figure == "ranges":
        style.save(draw_ranges(cfg.results), cfg.out)
        return
    style.save(draw(cfg.figure, [read_two_point(folder) for folder in cfg.results]), cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
