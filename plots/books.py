"""Figs. 4 and G.9: loss of models on books by position, the gap between two models, and the gain from context.

    python plots/books.py --results results/fig4 --out results/fig4/fig4
    python plots/books.py --results results/fig4 --out results/fig4/training --figure training
    python plots/books.py --results results/fig4 --pretrained results/fig4/pretrained/* --out results/fig4/fig4

Reads smooth.csv, summary.csv, gap.csv, crossover.csv and gains.csv (compare.py), and counting.csv (counting_floor.py)
if it exists. Writes OUT.png and OUT.pdf, with means over seeds:
  left    the loss, one line per model; a dotted line for the model that counts (PPM)
  middle  the gap of each pair with its 95% interval, above 0 where the second model is better; a dot where one
          overtakes the other, if each leads significantly on its side
  right   the gain of the whole context over its last tokens only, per doubling of the position, with 95% intervals
--pretrained: folders of compare.py for models that read the same books in their own tokens; added left and right.
--figure training: against the tokens of training, from summary.csv, tokens.csv, token_gaps.csv and counting.csv:
  left    the mean loss over all positions
  middle  the gap in loss of each pair, in the last half of the positions
  right   the gap in the gain of the whole context over its last tokens, in the last half of the positions

Hardware: one CPU core, three seconds. Expect lines that fall quickly over the first positions and slowly later.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Literal

import pandas as pd
import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from style import COLORS, GREY, log_axis, new_figure, put_legend, read_table, save

from common.cli import UserError, run

SMOOTH = ["model", "L", "seed", "position_units", "nats_per_unit", "unit"]
SUMMARY = ["model", "L", "seed", "kind", "parameters", "n_documents", "n_books", "source"]
GAP = ["model_a", "model_b", "L", "position_units", "gap_nats", "lo95", "hi95"]
CROSSOVER = ["model_a", "model_b", "overtakes_at", "lo95", "hi95"]
GAINS = ["model", "context", "position_units", "gain_nats", "lo95", "hi95"]
COUNTING = ["order", "nats_per_byte"]
TOKENS = ["model", "L", "tokens", "nats_per_unit", "unit"]
TOKEN_GAPS = ["model_a", "model_b", "tokens", "last", "gap_nats", "lo95", "hi95"]
GAIN_GAPS = ["context", "gain_gap_nats", "gain_gap_lo95", "gain_gap_hi95"]  # NaN where the position is too early
REMEDY = "make it with train_on_pg19/compare.py, see fig4.sh"
DASHES = ("-", "--", "-.", ":")  # from the largest model of a kind to the smallest
FIRST = 16  # units of text: where the left and middle panels begin; before, all models are equally bad
CONTEXT = 64  # tokens: the right panel shows the gain over this context, or the longest below it


@dataclass(frozen=True)
class Settings(style.Settings):
    figure: Literal["4", "training"] = "4"
    pretrained: tuple[Path, ...] = ()  # folders of compare.py, for models that read the same books


@dataclass(frozen=True)
class Curves:
    """The CSVs of a folder."""

    smooth: pd.DataFrame
    summary: pd.DataFrame
    gap: pd.DataFrame
    crossover: pd.DataFrame
    gains: pd.DataFrame
    counting: pd.DataFrame  # empty if there is no such file

    @property
    def unit(self) -> str:
        return self.smooth["unit"].iloc[0]


def read_models(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Read smooth.csv, summary.csv, and the drawn rows of gains.csv. UserError: a bad CSV or different models."""
    smooth = read_table(folder / "smooth.csv", SMOOTH, REMEDY, key=SMOOTH[:4])
    summary = read_table(folder / "summary.csv", SUMMARY, REMEDY, key=SUMMARY[:3])
    gains = read_table(folder / "gains.csv", GAINS, REMEDY, ["lo95", "hi95"], key=GAINS[:3])
    if set(smooth["model"]) != set(summary["model"]) or not set(gains["model"]) <= set(summary["model"]):
        raise UserError(f"{folder}: its CSVs are of different models: {REMEDY}")
    contexts = gains["context"][gains["context"] <= CONTEXT]
    return smooth, summary, gains[gains["context"] == (contexts if len(contexts) else gains["context"]).max()]


def read_curves(folder: Path) -> Curves:
    """Read the CSVs of a folder. UserError: a bad CSV, no rows, or CSVs of different models or lengths."""
    smooth, summary, gains = read_models(folder)
    gap = read_table(folder / "gap.csv", GAP, REMEDY, ["lo95", "hi95"], key=GAP[:4])
    crossover = read_table(folder / "crossover.csv", CROSSOVER, REMEDY, CROSSOVER[2:])
    names, lengths = set(summary["model"]), {*smooth["L"], *summary["L"], *gap["L"]}
    if not {*gap["model_a"], *gap["model_b"]} <= names or len(lengths) > 1:
        raise UserError(f"{folder}: its CSVs are of different models or lengths L: {REMEDY}")
    return Curves(smooth, summary, gap, crossover, gains, read_counting(folder))


def read_counting(folder: Path) -> pd.DataFrame:
    if not (folder / "counting.csv").exists():
        return pd.DataFrame(columns=COUNTING)
    return read_table(folder / "counting.csv", COUNTING, "make it with train_on_pg19/counting_floor.py")


def looks(summary: pd.DataFrame) -> dict[str, tuple[str, str, str]]:
    """Colour, dashes and label of each model: one colour per kind of model, dashes by size."""
    found = {}
    for color, (_, models) in zip(cycle(COLORS), summary.groupby("kind", sort=False)):
        sizes = models.groupby("model")["parameters"].max().sort_values(ascending=False)
        for dash, (name, size) in zip(cycle(DASHES), sizes.items()):
            seeds = models.loc[models["model"] == name, "seed"].nunique()
            label = f"{name.split('.Q')[0]}: {size / 1e6:.3g}M" + f", {seeds}\N{NO-BREAK SPACE}seeds" * (seeds > 1)
            found[name] = color, dash, label
    return found


def draw_loss(
    ax: Axes, smooth: pd.DataFrame, counting: pd.DataFrame, models: dict[str, tuple[str, str, str]]
) -> dict[str, Artist]:
    legend, shown = {}, smooth[smooth["position_units"] >= FIRST]
    for name, (color, dash, label) in models.items():
        mean = shown[shown["model"] == name].groupby("position_units")["nats_per_unit"].mean()
        (legend[label],) = ax.plot(mean.index, mean, color=color, linestyle=dash)
    log_axis(ax.xaxis, shown["position_units"], "position", base=2)
    return legend | draw_counting(ax, counting)


def draw_counting(ax: Axes, counting: pd.DataFrame) -> dict[str, Artist]:
    if counting.empty:
        return {}
    best = counting.loc[counting["nats_per_byte"].idxmin()]
    line = ax.axhline(best["nats_per_byte"], color=GREY, linestyle=":", linewidth=1.2)
    return {f"counting (PPM, {best['order']:g} bytes)": line}


def draw_gap(ax: Axes, curves: Curves) -> dict[str, Artist]:
    """Draw the line, band and dots of each pair; returns the legend."""
    legend, shown = {}, curves.gap[curves.gap["position_units"] >= FIRST]
    for color, ((a, b), rows) in zip(cycle(COLORS), shown.groupby(["model_a", "model_b"], sort=False)):
        at = rows["position_units"]
        (legend[f"{a} less {b}"],) = ax.plot(at, rows["gap_nats"], color=color)
        ax.fill_between(at, rows["lo95"], rows["hi95"], color=color, alpha=0.2, linewidth=0)
        where = curves.crossover.query("model_a == @a and model_b == @b").dropna()["overtakes_at"]
        ax.plot(where, 0 * where, "o", color=color, markersize=4, zorder=5)
    ax.axhline(0, color=GREY, linewidth=0.6, zorder=0)
    log_axis(ax.xaxis, shown["position_units"], "position", base=2)
    return legend


def draw_gains(ax: Axes, gains: pd.DataFrame, models: dict[str, tuple[str, str, str]]) -> None:
    shift = {name: 1.03 ** (number - len(models) / 2) for number, name in enumerate(models)}  # bars side by side
    at_all = gains["position_units"] * gains["model"].map(shift)
    for name, (color, dash, _) in models.items():
        rows = gains[gains["model"] == name]
        at = at_all[gains["model"] == name]
        bars = [rows["gain_nats"] - rows["lo95"], rows["hi95"] - rows["gain_nats"]]
        ax.errorbar(at, rows["gain_nats"], bars, color=color, linestyle=dash, marker=".", elinewidth=0.8)
    ax.axhline(0, color=GREY, linewidth=0.6, zorder=0)
    log_axis(ax.xaxis, at_all, "position", base=2)


def draw(curves: Curves, pretrained: list[tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]] = ()) -> Figure:
    tables = [(curves.smooth, curves.summary, curves.gains), *pretrained]
    smooth, summary, gains = (pd.concat(parts) for parts in zip(*tables, strict=True))
    if set(smooth["unit"]) != {curves.unit}:
        raise UserError("--pretrained: its losses are of another unit: evaluate texts with a tokenizer")
    models = looks(summary)
    of, unit, last = curves.summary.iloc[0], curves.unit, "/".join(f"{c:g}" for c in sorted(set(gains["context"])))
    title = f"{of['source']}, {of['n_documents']:g} documents of {of['n_books']:g} books"
    y_labels = [f"Loss (nats per {unit})", f"Gap in loss (nats per {unit})"]
    y_labels += [f"Gain over the last {last}\ntokens (nats per {unit})"]
    fig, (left, middle, right), _ = new_figure([title, "", ""], y_labels, f"Position ({unit}s)")
    put_legend(left, draw_loss(left, smooth, curves.counting, models))
    put_legend(middle, draw_gap(middle, curves))
    draw_gains(right, gains, models)
    return fig


def draw_training(folder: Path) -> Figure:
    """Loss and gaps against the tokens of training. UserError: a bad CSV."""
    summary = read_table(folder / "summary.csv", SUMMARY, REMEDY, key=SUMMARY[:3])
    tokens = read_table(folder / "tokens.csv", TOKENS, REMEDY, key=TOKENS[:3])
    gaps = read_table(folder / "token_gaps.csv", TOKEN_GAPS + GAIN_GAPS, REMEDY, ["lo95", "hi95", *GAIN_GAPS])
    gaps, unit, models = gaps[gaps["last"] == gaps["last"].max()].copy(), tokens["unit"].iloc[0], looks(summary)
    said = [f"Loss (nats per {unit})", f"Gap in loss, last half\n(nats per {unit})"]
    said += [f"Gap in gain over the last {gaps['context'].max():g}\ntokens, last half (nats per {unit})"]
    of = summary.iloc[0]
    title = f"{of['source']}, {of['n_documents']:g} documents of {of['n_books']:g} books"
    fig, (left, *others), _ = new_figure([title, "", ""], said, "Tokens of training")
    legend = {}
    for name, (color, dash, label) in models.items():
        of = tokens[tokens["model"] == name]
        (legend[label],) = left.plot(of["tokens"], of["nats_per_unit"], color=color, linestyle=dash, marker=".")
    log_axis(left.xaxis, tokens["tokens"], "tokens")
    put_legend(left, legend | draw_counting(left, read_counting(folder)))
    gaps["at"] = gaps["tokens"] * 1.05 ** gaps.groupby(["model_a", "model_b"], sort=False).ngroup()  # side by side
    for ax, (value, low, high) in zip(others, (TOKEN_GAPS[-3:], GAIN_GAPS[1:]), strict=True):
        pairs = {}
        for color, ((a, b), rows) in zip(cycle(COLORS), gaps.groupby(["model_a", "model_b"], sort=False)):
            bars = [rows[value] - rows[low], rows[high] - rows[value]]
            pairs[f"{a} less {b}"] = ax.errorbar(rows["at"], rows[value], bars, color=color, marker=".", elinewidth=0.8)
        ax.axhline(0, color=GREY, linewidth=0.6, zorder=0)
        log_axis(ax.xaxis, gaps["at"], "tokens")
    put_legend(others[0], pairs)
    return fig


def main(cfg: Settings) -> None:
    if cfg.figure == "training":
        save(draw_training(cfg.results), cfg.out)
        return
    save(draw(read_curves(cfg.results), [read_models(folder) for folder in cfg.pretrained]), cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
