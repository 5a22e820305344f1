"""Fig. 4 and G.9: NLL of models on books against the position, and beside it the gap between two models.

    python plots/books.py --results results/fig4 --out results/fig4/fig4
    python plots/books.py --results results/figG9 --out results/figG9/figG9

Reads smooth.csv, summary.csv, gap.csv and crossover.csv (evaluate.py). Writes OUT.png and OUT.pdf: on the
left a line a model, the mean over seeds in each window of positions; on the right a line a pair with its 95% interval,
and a dot where one model overtakes the other. Above 0 the second model is better.

Hardware: one CPU core, three seconds. Expect lines that fall quickly over the first positions and slowly later.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from style import COLORS, GREY, Settings, log_axis, new_figure, put_legend, read_table, save

from common.cli import UserError, run

SMOOTH = ["model", "L", "seed", "position", "nll_nats"]
SUMMARY = ["model", "L", "seed", "kind", "parameters", "n_documents", "n_books", "source"]
GAP = ["model_a", "model_b", "L", "position", "gap_nats", "lo95", "hi95"]
CROSSOVER = ["model_a", "model_b", "overtakes_at"]
REMEDY = "make it with train_on_pg19/evaluate.py, see fig4.sh"
DASHES = ("-", "--", "-.", ":")  # from the largest model of a kind to the smallest
FIRST = 8  # position where the left panel begins: over the first ones all models are as bad


@dataclass(frozen=True)
class Curves:
    """The four CSVs of a folder."""

    smooth: pd.DataFrame
    summary: pd.DataFrame
    gap: pd.DataFrame
    crossover: pd.DataFrame


def read_curves(folder: Path) -> Curves:
    """UserError: a bad CSV, no rows, or CSVs of different models or lengths."""
    smooth = read_table(folder / "smooth.csv", SMOOTH, REMEDY, key=SMOOTH[:4])
    summary = read_table(folder / "summary.csv", SUMMARY, REMEDY, key=SUMMARY[:3])
    gap = read_table(folder / "gap.csv", GAP, REMEDY, ["lo95", "hi95"], key=GAP[:4])
    crossover = read_table(folder / "crossover.csv", CROSSOVER, REMEDY, ["overtakes_at"])
    names, lengths = set(summary["model"]), {*smooth["L"], *summary["L"], *gap["L"]}
    if set(smooth["model"]) != names or not {*gap["model_a"], *gap["model_b"]} <= names or len(lengths) > 1:
        raise UserError(f"{folder}: its CSVs are of different models or lengths L: {REMEDY}")
    return Curves(smooth, summary, gap, crossover)


def draw_nll(ax: Axes, curves: Curves) -> dict[str, Artist]:
    """Means over seeds: a colour a kind of model, dashes by its size; returns the legend."""
    legend, shown = {}, curves.smooth[curves.smooth["position"] >= FIRST]
    for color, (_, models) in zip(cycle(COLORS), curves.summary.groupby("kind", sort=False)):
        sizes = models.groupby("model")["parameters"].max().sort_values(ascending=False)
        for dash, (name, size) in zip(cycle(DASHES), sizes.items()):
            seeds = models.loc[models["model"] == name, "seed"].nunique()
            mean = shown[shown["model"] == name].groupby("position")["nll_nats"].mean()
            label = f"{name}: {size / 1e6:.2f} million" + f", {seeds} seeds" * (seeds > 1)
            (legend[label],) = ax.plot(mean.index, mean, color=color, linestyle=dash)
    log_axis(ax.xaxis, shown["position"], "position", base=2)
    return legend


def draw_gap(ax: Axes, curves: Curves) -> dict[str, Artist]:
    """Lines, bands and dots of the pairs; returns the legend."""
    legend = {}
    for color, ((a, b), rows) in zip(cycle(COLORS), curves.gap.groupby(["model_a", "model_b"], sort=False)):
        (legend[f"{a} less {b}"],) = ax.plot(rows["position"], rows["gap_nats"], color=color)
        ax.fill_between(rows["position"], rows["lo95"], rows["hi95"], color=color, alpha=0.2, linewidth=0)
        where = curves.crossover.query("model_a == @a and model_b == @b")["overtakes_at"]
        ax.plot(where, 0 * where, "o", color=color, markersize=4, zorder=5)
    ax.axhline(0, color=GREY, linewidth=0.6, zorder=0)
    log_axis(ax.xaxis, curves.gap["position"], "position", base=2)
    return legend


def draw(curves: Curves) -> Figure:
    of, y_labels = curves.summary.iloc[0], ["NLL (nats a token)", "Gap in NLL (nats a token)"]
    title = f"{of['source']}, {of['n_documents']:g} documents of {of['n_books']:g} books"
    fig, (left, right), _ = new_figure([title] * 2, y_labels, "Position (tokens)")
    put_legend(left, draw_nll(left, curves))
    put_legend(right, draw_gap(right, curves))
    return fig


def main(cfg: Settings) -> None:
    save(draw(read_curves(cfg.results)), cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
