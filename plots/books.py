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
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from style import COLORS, GREY, new_figure, plain_ticks, put_legend, read_table, save

from common.cli import UserError, run

SMOOTH = ["model", "L", "seed", "first", "last", "position", "nll_nats", "stderr_nats", "n_documents"]
SUMMARY = ["model", "L", "seed", "nll_nats", "stderr_nats", "kind", "parameters", "n_documents", "n_books", "source"]
GAP = ["model_a", "model_b", "L", "position", "gap_nats", "lo95", "hi95", "seeds_a", "seeds_b"]
CROSSOVER = ["model_a", "model_b", "leads_at_the_end", "overtakes_at", "lo95", "hi95"]
REMEDY = "make it with train_on_pg19/evaluate.py, see fig4.sh"
DASHES = ("-", "--", "-.", ":")  # from the largest model of a kind to the smallest


@dataclass(frozen=True)
class Settings:
    results: Path
    """folder with smooth.csv, summary.csv, gap.csv and crossover.csv"""
    out: Path
    """where to write, without the suffix"""
    from_position: int = 8
    """the first positions, where all models are as bad, are left out on the left"""

    def validate(self) -> None:
        if self.from_position < 1:
            raise UserError(f"--from-position {self.from_position}: give 1 or more")


@dataclass(frozen=True)
class Curves:
    """The four CSVs of a folder."""

    smooth: pd.DataFrame
    summary: pd.DataFrame
    gap: pd.DataFrame
    crossover: pd.DataFrame

    def looks(self) -> dict[str, dict[str, object]]:
        """A colour a kind of model, dashes by size, for ax.plot. UserError: more than can be told apart."""
        sizes = self.summary.drop_duplicates("model").sort_values("parameters", ascending=False)
        kinds = list(dict.fromkeys(self.summary["kind"]))
        if len(kinds) > len(COLORS) or sizes.groupby("kind").size().max() > len(DASHES):
            raise UserError(
                f"{len(sizes)} models of {len(kinds)} kinds: at most {len(DASHES)} of each of {len(COLORS)} kinds can "
                "be told apart: evaluate fewer in one folder"
            )
        looks = {}
        for color, kind in zip(COLORS, kinds, strict=False):
            for dash, name in zip(DASHES, sizes.loc[sizes["kind"] == kind, "model"], strict=False):
                looks[name] = {"color": color, "linestyle": dash, "linewidth": 1.0}
        return looks


def read_curves(folder: Path) -> Curves:
    """UserError: a file or column is missing, a number is none, no rows, CSVs of different models."""
    smooth = read_table(folder / "smooth.csv", SMOOTH, REMEDY, ["model"], ["stderr_nats"])
    summary = read_table(folder / "summary.csv", SUMMARY, REMEDY, ["model", "kind", "source"], ["stderr_nats"])
    gap = read_table(folder / "gap.csv", GAP, REMEDY, ["model_a", "model_b"], ["lo95", "hi95"])
    words = ["model_a", "model_b", "leads_at_the_end"]
    crossover = read_table(folder / "crossover.csv", CROSSOVER, REMEDY, words, ["overtakes_at", "lo95", "hi95"])
    if smooth.empty or summary.empty or gap.empty:
        raise UserError(f"{folder}: one of its CSVs has no rows: {REMEDY}")
    names = set(summary["model"])
    if set(smooth["model"]) != names or not {*gap["model_a"], *gap["model_b"]} <= names:
        raise UserError(f"{folder}: its CSVs are of different models: {REMEDY}")
    if len(lengths := {*smooth["L"], *summary["L"], *gap["L"]}) > 1:
        raise UserError(f"{folder}: its CSVs are of L = {', '.join(f'{L:g}' for L in sorted(lengths))}: {REMEDY}")
    return Curves(smooth, summary, gap, crossover)


def label(name: str, curves: Curves) -> str:
    """Name, size, seeds."""
    rows = curves.summary[curves.summary["model"] == name]
    seeds = rows["seed"].nunique()
    size = rows["parameters"].iloc[0] / 1e6
    return f"{name}: {size:.{2 if size < 10 else 0}f} million" + (f", {seeds} seeds" if seeds > 1 else "")


def draw_nll(ax: Axes, curves: Curves, looks: dict[str, dict[str, object]], first: int) -> None:
    handles, shown = [], curves.smooth[curves.smooth["position"] >= first]
    if shown.empty:
        shown = curves.smooth
    for name, look in looks.items():
        mean = shown[shown["model"] == name].groupby("position")["nll_nats"].mean()
        handles += ax.plot(mean.index, mean, **look)
    put_legend(ax, handles, [label(name, curves) for name in looks])


def draw_gap(ax: Axes, curves: Curves) -> None:
    handles, labels = [], []
    for color, ((a, b), rows) in zip(COLORS, curves.gap.groupby(["model_a", "model_b"], sort=False), strict=False):
        handles += ax.plot(rows["position"], rows["gap_nats"], color=color, linewidth=1.0)
        ax.fill_between(rows["position"], rows["lo95"], rows["hi95"], color=color, alpha=0.2, linewidth=0)
        where = curves.crossover[(curves.crossover["model_a"] == a) & (curves.crossover["model_b"] == b)]
        ax.plot(where["overtakes_at"], 0 * where["overtakes_at"], "o", color=color, markersize=4, zorder=5)
        labels.append(f"{a} less {b}")
    ax.axhline(0, color=GREY, linewidth=0.6, zorder=0)
    put_legend(ax, handles, labels)


def draw(curves: Curves, cfg: Settings) -> Figure:
    """UserError: more models or pairs than can be told apart."""
    looks, pairs = curves.looks(), curves.crossover[["model_a", "model_b"]].drop_duplicates()
    if len(pairs) > len(COLORS):
        raise UserError(f"{len(pairs)} pairs: at most {len(COLORS)} can be told apart: give evaluate.py --pairs")
    of = curves.summary.iloc[0]
    caption = [
        f"{of['source']}: {of['n_documents']:g} documents of {of['n_books']:g} books, L = {of['L']:g}. Bands: 95% "
        "interval." + " Dot: one overtakes the other." * bool(curves.crossover["overtakes_at"].notna().any()),
    ]
    fig, axes = new_figure(
        2,
        ["NLL (nats a token)", "Gap in NLL (nats a token)"],
        max(len(looks), len(pairs)),
        caption,
        x_labels=["Position (tokens)"] * 2,
    )
    draw_nll(axes[0], curves, looks, cfg.from_position)
    draw_gap(axes[1], curves)
    for ax, low in zip(axes, (min(cfg.from_position, of["L"]), 1), strict=True):
        ax.set_xscale("log", base=2)
        ax.set_xlim(low / 1.1, of["L"] * 1.1)
        plain_ticks(ax.xaxis, low, of["L"], base=2, room=8)
    return fig


def main(cfg: Settings) -> None:
    cfg.validate()
    save(draw(read_curves(cfg.results), cfg), cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
