"""Models on Gaussian sequences: Figs. 3, G.7 and G.8, and how they used their state and their training.

    python plots/gaussian_models.py --figure 3 --results results/fig3 --out results/fig3/fig3

Reads summary.csv (evaluate.py) from the folder, kl.csv for G.7 and G.8, and training.csv for `training`. Writes OUT.png
and OUT.pdf:
    3            average KL against L of models whose state grows with L (a) and of those of fixed state (b), and
                 that of the latter against I(L/2; L) / dim(z) (c)
    G.7          KL position by position, a panel a length
    G.8          NLL position by position, and the exact entropy below which no model comes
    utilisation  not in the paper: share of I(L/2; L) that a model makes use of, against L
    training     not in the paper: KL against the steps of training

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
import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from style import COLORS, GREY, L_AXIS, draw_points, log_axis, new_figure, put_legend, read_table, save

from common.cli import UserError, run

KEY = ["model", "L", "seed"]
SUMMARY = [*KEY, "state_size", "mi_nats", "mean_kl_nats", "utilisation"]
KL = [*KEY, "position", "kl_nats", "nll_nats", "entropy_nats"]
TRAINING = [*KEY, "steps", "step", "kl_nats"]
INDEPENDENT = "independent"  # the predictor that ignores the past
MARKERS = "oD^svP"
ROW = 4  # positions that G.7 and G.8 average into a point: rows of four repeat a pattern
REMEDY = "make it with python gaussian_synthetic/evaluate.py --runs … --out results/mine"


@dataclass(frozen=True)
class Settings(style.Settings):
    figure: Literal["3", "G.7", "G.8", "utilisation", "training"] = "3"
    L: tuple[int, ...] = ()  # lengths of G.7 and G.8, a panel each; default: the three longest


@dataclass(frozen=True)
class Models:
    """summary.csv of one folder. names: the models, those of growing state first, then by the size of their state."""

    folder: Path
    summary: pd.DataFrame
    names: list[str]

    @property
    def lengths(self) -> list[int]:
        return sorted(self.summary["L"].astype(int).unique())

    def constant(self, name: str) -> bool:
        """Whether a model's history state is as large at every length, as a recurrent model's is."""
        return self.summary.loc[self.summary["model"] == name, "state_size"].nunique() == 1

    def look(self, name: str) -> dict[str, object]:
        """Of points, filled where the state is of fixed size."""
        i = self.names.index(name)
        return style.look(COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)], filled=self.constant(name))

    def line(self, name: str) -> dict[str, object]:
        """For ax.plot without markers: solid where the state is of fixed size."""
        dash = "-" if self.constant(name) else "--"
        return {"color": self.look(name)["color"], "linestyle": dash, "linewidth": 0.8}


def read_models(folder: Path) -> Models:
    """UserError: a bad CSV, or one without models."""
    summary = read_table(folder / "summary.csv", SUMMARY, REMEDY, ["utilisation"], KEY)
    sizes = summary[summary["model"] != INDEPENDENT].groupby("model")["state_size"].agg(["max", "nunique"])
    if sizes.empty:
        raise UserError(f"{folder / 'summary.csv'} has no models: {REMEDY}")
    sizes["constant"] = sizes["nunique"] == 1
    return Models(folder, summary, sizes.sort_values(["constant", "max"], kind="stable").index.tolist())


def draw_seeds(ax: Axes, models: Models, names: Sequence[str], column: str, by: pd.Series) -> dict[str, Artist]:
    """Means of a column of summary.csv over seeds against `by`, L or another, bars from the least seed to the largest.

    A line joins those of a model where `by` is L. Returns the legend.
    """
    legend = {}
    for name in names:
        rows = models.summary[models.summary["model"] == name]
        found = rows.groupby(by[rows.index])[column].agg(["mean", "min", "max"])
        bars = [found["mean"] - found["min"], found["max"] - found["mean"]]
        legend[name] = draw_points(ax, found.index.to_series(), found["mean"], bars, models.look(name), floor=-np.inf)
        if by.name == "L":
            ax.plot(found.index, found["mean"], color=models.look(name)["color"], linewidth=0.8)
    return legend


def draw_fig3(models: Models) -> Figure:
    titles = ["a  state grows with L", "b  state of fixed size", "c  against I/dim(z)"]
    x_labels = [L_AXIS, L_AXIS, "I(L/2; L) / dim(z) (nats an element)"]
    fig, axes, _ = new_figure(titles, "Average KL (nats a token)", x_labels)
    fixed = [name for name in models.names if models.constant(name)]
    summary, path, legend = models.summary, models.folder / "summary.csv", {}
    for ax, names in zip(axes, ([name for name in models.names if name not in fixed], fixed), strict=False):
        legend |= draw_seeds(ax, models, names, "mean_kl_nats", summary["L"])
        found = summary[summary["model"] == INDEPENDENT].groupby("L")["mean_kl_nats"].mean()
        (line,) = ax.plot(found.index, found, color=GREY, linestyle=":", linewidth=0.9, zorder=1)
        log_axis(ax.xaxis, models.lengths, f"{path}: L", base=2)
    if fixed:
        ratio = summary["mi_nats"] / summary["state_size"].where(summary["state_size"] > 0)
        draw_seeds(axes[2], models, fixed, "mean_kl_nats", ratio)
        log_axis(axes[2].xaxis, ratio[summary["model"].isin(fixed)], f"{path}: mi_nats / state_size")
    log_axis(axes[0].yaxis, summary["mean_kl_nats"], f"{path}: mean_kl_nats")
    put_legend(fig, legend | {INDEPENDENT: line}, columns=4)
    return fig


def draw_utilisation(models: Models) -> Figure:
    fig, (ax,), _ = new_figure([""], "Utilisation of I(L/2; L)")
    put_legend(fig, draw_seeds(ax, models, models.names, "utilisation", models.summary["L"]), columns=2)
    for y in (0, 1):
        ax.axhline(y, color=GREY, linewidth=0.5, zorder=0)
    log_axis(ax.xaxis, models.lengths, f"{models.folder / 'summary.csv'}: L", base=2)
    return fig


def draw_lines(models: Models, table: pd.DataFrame, lengths: Sequence[int], by: str, column: str) -> Figure:
    """A panel a length: means of a column against `by`, a line a model. `by`: position, or step of training."""
    x_label, base = {"position": ("Position (tokens)", 2), "step": ("Optimizer steps", 10)}[by]
    y_label = f"{column.removesuffix('_nats').upper()} (nats a token)"
    fig, axes, _ = new_figure([f"L = {L:g}" for L in lengths], y_label, x_label)
    legend = {}
    for ax, L in zip(axes, lengths, strict=True):
        here = table[table["L"] == L]
        for name in models.names:
            mean = here[here["model"] == name].groupby(by)[column].mean()
            (legend[name],) = ax.plot(mean.index, mean, **models.line(name))
        if column == "nll_nats":
            exact = here.groupby(by)["entropy_nats"].mean()
            (legend["exact entropy"],) = ax.plot(exact.index, exact, color="black", linewidth=1.2, zorder=1)
        log_axis(ax.xaxis, here[by], x_label, base)
    if column == "kl_nats":
        means = np.concatenate([line.get_ydata() for ax in axes for line in ax.get_lines()])
        log_axis(axes[0].yaxis, means, f"{models.folder}: {column}")
    put_legend(fig, legend, columns=4)
    return fig


def draw_positions(models: Models, column: str, lengths: Sequence[int]) -> Figure:
    """Figs. G.7 and G.8. UserError: a length that there is not."""
    kl = read_table(models.folder / "kl.csv", KL, REMEDY, key=[*KEY, "position"])
    lengths = lengths or [L for L in models.lengths if L > ROW][-3:]
    if missing := set(lengths or [0]) - set(kl["L"]):
        raise UserError(f"--L {min(missing)}: kl.csv in {models.folder} has L = {', '.join(map(str, set(kl['L'])))}")
    kl["position"] = (kl["position"] - 1) // ROW * ROW + (ROW + 1) / 2
    return draw_lines(models, kl, lengths, "position", column)


def draw(cfg: Settings) -> Figure:
    """UserError: bad CSVs, or a length that there is not."""
    models = read_models(cfg.results)
    if cfg.figure in ("G.7", "G.8"):
        return draw_positions(models, "kl_nats" if cfg.figure == "G.7" else "nll_nats", cfg.L)
    if cfg.figure == "training":
        training = read_table(cfg.results / "training.csv", TRAINING, REMEDY, key=[*KEY, "steps", "step"])
        return draw_lines(models, training, sorted(training["L"].unique()), "step", "kl_nats")
    return draw_fig3(models) if cfg.figure == "3" else draw_utilisation(models)


def main(cfg: Settings) -> None:
    save(draw(cfg), cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
