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
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from style import COLORS, GREY, L_AXIS, SeriesStyle, above_zero, new_figure, plain_ticks, put_legend, read_table, save

from common.cli import UserError, run

SUMMARY = ["model", "L", "seed", "state_size", "mi_nats", "mean_kl_nats", "utilisation", "copies", "k", "family"]
KL = ["model", "L", "seed", "position", "kl_nats", "nll_nats", "entropy_nats"]
TRAINING = ["model", "L", "seed", "steps", "step", "kl_nats"]
INDEPENDENT = "independent"  # the predictor that ignores the past
MARKERS = ("o", "D", "^", "s", "v", "P")
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
        """UserError: more models than can be told apart."""
        if len(self.names) > MOST:
            raise UserError(f"{self.folder} has {len(self.names)} models, and at most {MOST} can be told apart")
        both = {}
        for i, name in enumerate(self.names):
            color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
            both[name] = SeriesStyle(name, color, marker, 3.6, filled=self.constant(name))
        return both

    def lines(self) -> dict[str, dict[str, object]]:
        """Colour and dashes of each model, for ax.plot without markers. UserError as `looks`."""
        looks = enumerate(self.looks().values())
        return {
            look.label: {"color": look.color, "linestyle": DASHES[look.filled, i // len(COLORS)], "linewidth": 0.8}
            for i, look in looks
        }

    def by_length(self, name: str, column: str) -> pd.DataFrame:
        """Mean over seeds, least and largest (columns mean, min, max) of a column of summary.csv; the index is L."""
        rows = self.summary[self.summary["model"] == name]
        return rows.groupby("L")[column].agg(["mean", "min", "max"])

    def about(self) -> str:
        """The first line of a caption."""
        family, k, copies = self.summary.iloc[0][["family", "k", "copies"]]
        name = {"subvolume": "sub-volume"}.get(family, family)
        return f"Gaussian {name} family, k = {k:g}, {copies:g} copies a token."


def read_models(folder: Path) -> Models:
    """UserError: a file or column is missing, a number is none, no models."""
    summary = read_table(folder / "summary.csv", SUMMARY, REMEDY, ["model", "family"], ["utilisation"])
    if (summary["model"] == INDEPENDENT).all():
        raise UserError(f"{folder / 'summary.csv'} has no models: {REMEDY}")
    return Models(folder, summary)


def draw_by_length(ax: Axes, models: Models, names: Sequence[str], column: str) -> tuple[list, list[str]]:
    """A column of summary.csv against L, a series a model, bars from the least seed to the largest. For the legend."""
    handles, looks = [], models.looks()
    for name in names:
        found = models.by_length(name, column)
        bars = [found["mean"] - found["min"], found["max"] - found["mean"]]
        mark = looks[name].marks() | {"fmt": f"{looks[name].marker}-"}
        handles.append(ax.errorbar(found.index, found["mean"], bars, linewidth=0.8, **mark))
    ax.set_xscale("log", base=2)
    ax.set_xlim(models.lengths[0] / 1.5, models.lengths[-1] * 1.5)
    plain_ticks(ax.xaxis, models.lengths[0], models.lengths[-1], base=4, room=6)
    return handles, list(names)


def draw_independent(ax: Axes, models: Models, column: str) -> list:
    """The predictor that ignores the past, a grey line; its handle."""
    found = models.by_length(INDEPENDENT, column)
    return ax.plot(found.index, found["mean"], color=GREY, linestyle=":", linewidth=0.9, zorder=1)


def log_y(ax: Axes, values: np.ndarray, path: Path, column: str) -> None:
    """Logarithmic, around all values above 0. UserError: there is none, and path and column say of what."""
    values = above_zero(values, path, column, REMEDY)
    low, high = values.min() / 1.3, values.max() * 1.3
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    plain_ticks(ax.yaxis, low, high, base=10 if high / low > 30 else 2, room=8, label=_short)


def _short(value: float) -> str:
    """1/32 in full would reach into the label of the axis."""
    return f"{value:.2g}" if value < 1 else f"{value:g}"


def draw_fig3(models: Models) -> Figure:
    growing = [name for name in models.names if not models.constant(name)]
    fixed = [name for name in models.names if models.constant(name)]
    caption = [f"{models.about()} Means over seeds; bars: from the least to the largest seed."]
    x_labels = [L_AXIS, L_AXIS, "I(L/2; L) / dim(z) (nats an element)"]
    titles = ["a  state grows with L", "b  state of fixed size", "c  against I/dim(z)"]
    entries = -(-(len(models.names) + 1) // 3)
    fig, axes = new_figure(3, "Average KL (nats a token)", entries, caption, titles, x_labels=x_labels, one_legend=True)
    handles, labels = [], []
    for ax, names in zip(axes, (growing, fixed), strict=False):
        found, called = draw_by_length(ax, models, names, "mean_kl_nats")
        handles, labels = handles + found, labels + called
        line = draw_independent(ax, models, "mean_kl_nats")
    looks, summary, path = models.looks(), models.summary, models.folder / "summary.csv"
    ratio = summary["mi_nats"] / summary["state_size"].where(summary["state_size"] > 0)
    for name in fixed:
        rows = summary.assign(ratio=ratio)[summary["model"] == name]
        by_ratio = rows.groupby("ratio")["mean_kl_nats"].agg(["mean", "min", "max"])
        bars = [by_ratio["mean"] - by_ratio["min"], by_ratio["max"] - by_ratio["mean"]]
        axes[2].errorbar(by_ratio.index, by_ratio["mean"], bars, **looks[name].marks())
    for ax in axes:
        log_y(ax, summary["mean_kl_nats"].to_numpy(), path, "mean_kl_nats")
    if fixed:
        found = above_zero(ratio[summary["model"].isin(fixed)], path, "mi_nats / state_size", REMEDY)
        axes[2].set_xscale("log")
        axes[2].set_xlim(found.min() / 1.6, found.max() * 1.6)
        plain_ticks(axes[2].xaxis, *axes[2].get_xlim(), base=10, room=5)
    else:
        axes[2].text(0.5, 0.5, "no model of fixed state", color=GREY, ha="center", transform=axes[2].transAxes)
    put_legend(axes[0], [*handles, *line], [*labels, INDEPENDENT], columns=3)
    return fig


def by_row(rows: pd.DataFrame, column: str, row: int) -> pd.Series:
    """Mean over seeds and over `row` neighbouring positions; the index is the mean position."""
    mean = rows.groupby("position")[column].mean()
    group = (np.arange(len(mean)) // row).tolist()
    return pd.Series(mean.groupby(group).mean().to_numpy(), mean.index.to_series().groupby(group).mean())


def draw_positions(models: Models, cfg: Settings) -> Figure:
    """Figs. G.7 and G.8. UserError: a length that there is not."""
    kl = read_table(models.folder / "kl.csv", KL, REMEDY, ["model"])
    lengths = list(cfg.L) or [L for L in models.lengths if L > cfg.row][-3:]
    if missing := set(lengths) - set(models.lengths) or ({0} if not lengths else set()):
        raise UserError(f"--L {min(missing)}: {models.folder} has {', '.join(map(str, models.lengths))}")
    column, looks = "kl_nats" if cfg.figure == "G.7" else "nll_nats", models.lines()
    columns = 4 if len(lengths) > 1 else 2  # of the legend
    y_label = "KL (nats a token)" if cfg.figure == "G.7" else "NLL (nats a token)"
    caption = [f"{models.about()} Points: means over seeds and {cfg.row} positions."]
    fig, axes = new_figure(
        len(lengths),
        y_label,
        -(-(len(looks) + 1) // columns),
        caption,
        [f"L = {L}" for L in lengths],
        x_labels=["Position (tokens)"] * len(lengths),
        one_legend=True,
    )
    drawn, values = {}, []
    for ax, L in zip(axes, lengths, strict=True):
        here = kl[kl["L"] == L]
        for name, look in looks.items():
            rows = here[here["model"] == name]
            if len(rows):
                found = by_row(rows, column, cfg.row)
                (drawn[name],) = ax.plot(found.index, found, **look)
                values.append(found.to_numpy())
        if cfg.figure == "G.8":
            exact = by_row(here, "entropy_nats", cfg.row)
            (drawn["exact entropy"],) = ax.plot(exact.index, exact, color="black", linewidth=1.2, zorder=1)
            values.append(exact.to_numpy())
        ax.set_xscale("log", base=2)
        ax.set_xlim(1, L * 1.2)
        plain_ticks(ax.xaxis, 1, L, base=4, room=6)
    every = np.concatenate(values)
    for ax in axes:
        if cfg.figure == "G.7":
            log_y(ax, every, models.folder / "kl.csv", column)
        else:
            ax.set_ylim(every.min() - 0.03 * np.ptp(every), every.max() + 0.03 * np.ptp(every))
    put_legend(axes[0], list(drawn.values()), list(drawn), columns=columns)
    return fig


def draw_utilisation(models: Models) -> Figure:
    caption = [models.about(), "Means over seeds; bars: least to largest seed."]
    fig, (ax,) = new_figure(1, "Utilisation of I(L/2; L)", len(models.names), caption)
    handles, labels = draw_by_length(ax, models, models.names, "utilisation")
    ax.axhline(1, color=GREY, linewidth=0.5, zorder=0)
    ax.axhline(0, color=GREY, linewidth=0.5, zorder=0)
    values = models.summary.loc[models.summary["model"] != INDEPENDENT, "utilisation"]
    ax.set_ylim(min(values.min(), 0) - 0.05, 1.05)
    put_legend(ax, handles, labels)
    return fig


def read_training(folder: Path) -> pd.DataFrame:
    """training.csv. UserError: a bad one, or one without rows."""
    table = read_table(folder / "training.csv", TRAINING, REMEDY, ["model"])
    if table.empty:
        raise UserError(f"{folder / 'training.csv'} has no rows: {REMEDY}")
    return table


def draw_training(models: Models) -> Figure:
    tables = {"full": read_training(models.folder)}
    if (models.folder / "short" / "training.csv").exists():
        tables["short"] = read_training(models.folder / "short")
    lengths = sorted(tables["full"]["L"].unique())
    caption = [f"{models.about()} Means over seeds." + " Dotted: runs of fewer steps." * ("short" in tables)]
    fig, axes = new_figure(
        len(lengths),
        "KL (nats a token)",
        -(-len(models.names) // 4),
        caption,
        [f"L = {L:g}" for L in lengths],
        x_labels=["Optimizer steps"] * len(lengths),
        one_legend=True,
    )
    drawn = {}
    for ax, L in zip(axes, lengths, strict=True):
        for name, look in models.lines().items():
            for budget, table in tables.items():
                rows = table[(table["model"] == name) & (table["L"] == L)]
                mean = rows.groupby("step")["kl_nats"].mean()
                if len(mean):
                    (line,) = ax.plot(mean.index, mean, **look | ({"linestyle": ":"} if budget == "short" else {}))
                    drawn.setdefault(name, line)
        steps = tables["full"].loc[tables["full"]["L"] == L, "step"]
        ax.set_xscale("log")
        ax.set_xlim(steps.min() / 1.2, steps.max() * 1.2)
        plain_ticks(ax.xaxis, *ax.get_xlim(), base=10, room=4)
    every = np.concatenate([table["kl_nats"] for table in tables.values()])
    for ax in axes:
        log_y(ax, every, models.folder / "training.csv", "kl_nats")
    put_legend(axes[0], list(drawn.values()), list(drawn), columns=4)
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
