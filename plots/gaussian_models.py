"""Models on Gaussian sequences: Figs. 3, G.7 and G.8, and how they used their state and their training.

    python plots/gaussian_models.py --figure 3 --results results/fig3 --out results/fig3/fig3

Reads summary.csv (evaluate.py) from the folder, kl.csv for G.7 and G.8, and training.csv for `training`. Writes OUT.png
and OUT.pdf:
    3            average KL against L of models whose state grows with L (a) and of those of fixed state (b), and
                 that of the latter against I(L/2; L) / dim(z) (c)
    G.7          KL position by position, a panel a length
    G.8          NLL position by position, and the exact entropy below which no model comes
    utilisation  not in the paper: share of I(L/2; L) that a model makes use of, against L
    training     not in the paper: KL against the steps of training; dotted, runs of fewer steps, from the folder
                 `short` in the results where there is one

Hardware: one CPU core, three seconds. Expect, where training is long enough: a flat, b rising the sooner the smaller
the state, c one curve. See docs/figures.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from style import COLORS, GREY, L_AXIS, SeriesStyle, draw_points, log_axis, new_figure, put_legend, read_table, save

from common.cli import UserError, run

KEY = ["model", "L", "seed"]
SUMMARY = [*KEY, "state_size", "mi_nats", "mean_kl_nats", "utilisation"]
KL = [*KEY, "position", "kl_nats", "nll_nats", "entropy_nats"]
TRAINING = [*KEY, "steps", "step", "kl_nats"]
INDEPENDENT = "independent"  # the predictor that ignores the past
MARKERS = "oD^svP"
# Of lines without markers, by whether the state is of fixed size and how often the colour has come before.
DASHES = {(True, 0): "-", (False, 0): "--", (True, 1): "-.", (False, 1): (0, (5, 1, 1, 1, 1, 1))}
MOST = len(COLORS) * 2
REMEDY = "make it with python gaussian_synthetic/evaluate.py --runs … --out results/mine"


@dataclass(frozen=True)
class Settings:
    results: Path
    """folder with summary.csv, kl.csv and training.csv"""
    out: Path
    """where to write, without the suffix"""
    figure: Literal["3", "G.7", "G.8", "utilisation", "training"] = "3"
    L: tuple[int, ...] = ()
    """lengths of G.7 and G.8, a panel each; default: the three longest"""
    row: int = 4
    """positions that G.7 and G.8 average into a point: rows of four repeat a pattern"""

    def validate(self) -> None:
        if self.row < 1:
            raise UserError(f"--row {self.row}: give at least 1")


@dataclass(frozen=True)
class Models:
    """summary.csv of one folder."""

    folder: Path
    summary: pd.DataFrame

    @property
    def lengths(self) -> list[int]:
        return sorted(self.summary["L"].astype(int).unique())

    @property
    def names(self) -> list[str]:
        """The models, those of growing state first, then by the size of their state."""
        rows = self.summary[self.summary["model"] != INDEPENDENT]
        size = rows.groupby("model")["state_size"].max()
        return sorted(size.index, key=lambda name: (self.constant(name), size[name], name))

    def constant(self, name: str) -> bool:
        """Whether a model's history state is as large at every length, as a recurrent model's is."""
        return self.summary.loc[self.summary["model"] == name, "state_size"].nunique() == 1

    def looks(self) -> dict[str, SeriesStyle]:
        """Of points, filled where the state is of fixed size. UserError: more models than can be told apart."""
        if len(self.names) > MOST:
            raise UserError(f"{self.folder} has {len(self.names)} models, and at most {MOST} can be told apart")
        looks = [(name, COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(self.names)]
        return {name: SeriesStyle(name, color, marker, 3.6, self.constant(name)) for name, color, marker in looks}

    def lines(self) -> dict[str, dict[str, object]]:
        """Colour and dashes of each model, for ax.plot without markers. UserError as `looks`."""
        dashes = [DASHES[self.constant(name), i // len(COLORS)] for i, name in enumerate(self.names)]
        looks = zip(self.looks().values(), dashes, strict=True)
        return {look.label: {"color": look.color, "linestyle": dash, "linewidth": 0.8} for look, dash in looks}


def read_models(folder: Path) -> Models:
    """UserError: a bad CSV, or one without models."""
    summary = read_table(folder / "summary.csv", SUMMARY, REMEDY, ["utilisation"], KEY)
    if (summary["model"] == INDEPENDENT).all():
        raise UserError(f"{folder / 'summary.csv'} has no models: {REMEDY}")
    return Models(folder, summary)


def draw_seeds(ax: Axes, models: Models, names: Sequence[str], column: str, by: pd.Series) -> dict[str, Artist]:
    """Means of a column of summary.csv over seeds against `by`, L or another, bars from the least seed to the largest.

    A line joins those of a model where `by` is L. Returns the legend.
    """
    legend, looks = {}, models.looks()
    for name in names:
        rows = models.summary[models.summary["model"] == name]
        found = rows.groupby(by[rows.index])[column].agg(["mean", "min", "max"])
        bars = [found["mean"] - found["min"], found["max"] - found["mean"]]
        legend[name] = draw_points(ax, found.index.to_series(), found["mean"], bars, looks[name], floor=-np.inf)
        if by.name == "L":
            ax.plot(found.index, found["mean"], color=looks[name].color, linewidth=0.8)
    return legend


def draw_fig3(models: Models) -> Figure:
    titles = ["a  state grows with L", "b  state of fixed size", "c  against I/dim(z)"]
    x_labels = [L_AXIS, L_AXIS, "I(L/2; L) / dim(z) (nats an element)"]
    fig, axes, _ = new_figure(3, "Average KL (nats a token)", x_labels, titles, entries=len(models.names) // 3)
    fixed = [name for name in models.names if models.constant(name)]
    summary, path, legend = models.summary, models.folder / "summary.csv", {}
    for ax, names in zip(axes, ([name for name in models.names if name not in fixed], fixed), strict=False):
        legend |= draw_seeds(ax, models, names, "mean_kl_nats", summary["L"])
        found = summary[summary["model"] == INDEPENDENT].groupby("L")["mean_kl_nats"].mean()
        (line,) = ax.plot(found.index, found, color=GREY, linestyle=":", linewidth=0.9, zorder=1)
        log_axis(ax.xaxis, models.lengths, f"{path}: L", base=2)
    ratio = summary["mi_nats"] / summary["state_size"].where(summary["state_size"] > 0)
    if fixed:
        draw_seeds(axes[2], models, fixed, "mean_kl_nats", ratio)
        log_axis(axes[2].xaxis, ratio[summary["model"].isin(fixed)], f"{path}: mi_nats / state_size")
    else:
        axes[2].text(0.5, 0.5, "no model of fixed state", color=GREY, ha="center", transform=axes[2].transAxes)
    log_axis(axes[0].yaxis, summary["mean_kl_nats"], f"{path}: mean_kl_nats")
    put_legend(fig, legend | {INDEPENDENT: line}, columns=4)
    return fig


def draw_utilisation(models: Models) -> Figure:
    fig, (ax,), _ = new_figure(1, "Utilisation of I(L/2; L)", entries=len(models.names))
    put_legend(ax, draw_seeds(ax, models, models.names, "utilisation", models.summary["L"]))
    for y in (0, 1):
        ax.axhline(y, color=GREY, linewidth=0.5, zorder=0)
    log_axis(ax.xaxis, models.lengths, f"{models.folder / 'summary.csv'}: L", base=2)
    return fig


Curve = tuple[str, pd.Series, dict[str, object]]  # label, values by x, look


def draw_curves(curves: dict[int, list[Curve]], y_label: str, x_label: str, base: int) -> Figure:
    """A panel a length, each curve as a line against x, whose axis is logarithmic to this base."""
    titles = [f"L = {L:g}" for L in curves]
    fig, axes, _ = new_figure(len(curves), y_label, x_label, titles, entries=3)
    legend = {}
    for ax, here in zip(axes, curves.values(), strict=True):
        for name, values, look in here:
            (line,) = ax.plot(values.index, values, **look)
            legend.setdefault(name, line)
        log_axis(ax.xaxis, np.concatenate([values.index for _, values, _ in here]), x_label, base)
    put_legend(fig, legend, columns=4 if len(curves) > 1 else 2)
    return fig


def by_row(rows: pd.DataFrame, column: str, row: int) -> pd.Series:
    """Mean over seeds and over `row` neighbouring positions; the index is the mean position."""
    mean = rows.groupby("position")[column].mean().reset_index()
    return mean.groupby(mean.index // row).mean().set_index("position")[column]


def draw_positions(models: Models, cfg: Settings) -> Figure:
    """Figs. G.7 and G.8. UserError: a length that there is not."""
    path = models.folder / "kl.csv"
    kl = read_table(path, KL, REMEDY, key=[*KEY, "position"])
    lengths = list(cfg.L) or [L for L in models.lengths if L > cfg.row][-3:]
    if missing := set(lengths or [0]) - set(kl["L"]):
        raise UserError(f"--L {min(missing)}: {models.folder} has {', '.join(map(str, models.lengths))}")
    name = "KL" if cfg.figure == "G.7" else "NLL"
    column, curves = f"{name.lower()}_nats", {}
    for L in lengths:
        rows = [(model, kl[(kl["model"] == model) & (kl["L"] == L)], look) for model, look in models.lines().items()]
        curves[L] = [(model, by_row(found, column, cfg.row), look) for model, found, look in rows if len(found)]
        if name == "NLL":
            exact = by_row(kl[kl["L"] == L], "entropy_nats", cfg.row)
            curves[L].append(("exact entropy", exact, {"color": "black", "linewidth": 1.2, "zorder": 1}))
    fig = draw_curves(curves, f"{name} (nats a token)", "Position (tokens)", base=2)
    if name == "KL":
        values = np.concatenate([values for here in curves.values() for _, values, _ in here])
        log_axis(fig.axes[0].yaxis, values, f"{path}: {column}")
    return fig


def draw_training(models: Models) -> Figure:
    """KL against steps; dotted, that of shorter runs in the folder `short`."""
    tables = {}
    for path in (models.folder / "training.csv", models.folder / "short" / "training.csv"):
        if path.exists() or not tables:
            tables[path] = read_table(path, TRAINING, REMEDY, key=[*KEY, "steps", "step"])
    full, curves = next(iter(tables.values())), {}
    for L in sorted(full["L"].unique()):
        curves[L] = []
        for name, look in models.lines().items():
            for path, table in tables.items():
                mean = table[(table["model"] == name) & (table["L"] == L)].groupby("step")["kl_nats"].mean()
                dotted = {"linestyle": ":"} if path.parent.name == "short" else {}
                if len(mean):
                    curves[L].append((name, mean, look | dotted))
    fig = draw_curves(curves, "KL (nats a token)", "Optimizer steps", base=10)
    values = np.concatenate([table["kl_nats"] for table in tables.values()])
    log_axis(fig.axes[0].yaxis, values, f"{models.folder / 'training.csv'}: kl_nats")
    return fig


def draw(cfg: Settings) -> Figure:
    """UserError: bad CSVs, a length that there is not, or more models than can be told apart."""
    models = read_models(cfg.results)
    if cfg.figure in ("G.7", "G.8"):
        return draw_positions(models, cfg)
    return {"3": draw_fig3, "utilisation": draw_utilisation, "training": draw_training}[cfg.figure](models)


def main(cfg: Settings) -> None:
    cfg.validate()
    save(draw(cfg), cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
