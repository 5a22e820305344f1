"""What the figures of models on Gaussian sequences share: reading summary.csv and kl.csv, a look for each model.

Nothing is computed here but means over seeds and, so that lines can be told apart, over neighbouring positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from style import GREY, SeriesStyle, above_zero, plain_ticks, read_table

from common.cli import UserError

SUMMARY = ["model", "L", "seed", "state_size", "mi_nats", "mean_kl_nats", "steps", "utilisation", "mean_nll_nats"]
SUMMARY += ["mean_entropy_nats", "copies", "k", "family"]
KL = ["model", "L", "seed", "position", "kl_nats", "nll_nats", "entropy_nats"]
INDEPENDENT = "independent"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "D", "^", "s", "v", "P")
# Of lines without markers, by whether the state is of fixed size and how often the colour has come before.
DASHES = {(True, 0): "-", (False, 0): "--", (True, 1): "-.", (False, 1): (0, (5, 1, 1, 1, 1, 1))}
MOST = len(COLORS) * 2
REMEDY = "make it with python gaussian_synthetic/evaluate.py --runs … --out results/mine"


@dataclass(frozen=True)
class Models:
    """summary.csv and kl.csv of one folder."""

    folder: Path
    summary: pd.DataFrame
    kl: pd.DataFrame

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
        seeds = self.summary[self.summary["model"] != INDEPENDENT].groupby(["model", "L"])["seed"].nunique()
        of = " to ".join(dict.fromkeys(f"{n:g}" for n in (seeds.min(), seeds.max())))
        name = {"subvolume": "sub-volume"}.get(family, family)
        word = "seed" if of == "1" else "seeds"
        return f"Gaussian {name} family (k = {k:g}), {copies:g} copies a token; {of} {word} a point."


def read_models(folder: Path, positions: bool = True) -> Models:
    """positions: whether kl.csv is wanted. UserError: a file or column is missing, a number is none, no models."""
    summary = read_table(folder / "summary.csv", SUMMARY, REMEDY, ["model", "family"], ["utilisation"])
    if (summary["model"] == INDEPENDENT).all():
        raise UserError(f"{folder / 'summary.csv'} has no models: {REMEDY}")
    kl = read_table(folder / "kl.csv", KL, REMEDY, ["model"]) if positions else pd.DataFrame(columns=KL)
    return Models(folder, summary, kl)


def draw_by_length(
    ax: Axes, models: Models, names: Sequence[str], column: str, scale: float = 1.0
) -> tuple[list, list[str]]:
    """A column of summary.csv against L, a series a model, bars from the least seed to the largest. For the legend."""
    handles, looks = [], models.looks()
    for name in names:
        found = models.by_length(name, column) * scale
        bars = [found["mean"] - found["min"], found["max"] - found["mean"]]
        mark = looks[name].marks() | {"fmt": f"{looks[name].marker}-"}
        handles.append(ax.errorbar(found.index, found["mean"], bars, linewidth=0.8, **mark))
    return handles, list(names)


def length_ticks(ax: Axes, lengths: Sequence[int]) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xlim(min(lengths) / 1.5, max(lengths) * 1.5)
    plain_ticks(ax.xaxis, min(lengths), max(lengths), base=4, room=6)


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


def draw_independent(ax: Axes, models: Models, column: str, scale: float = 1.0) -> list:
    """The predictor that ignores the past, a grey line; its handle."""
    found = models.by_length(INDEPENDENT, column)
    return ax.plot(found.index, scale * found["mean"], color=GREY, linestyle=":", linewidth=0.9, zorder=1)
