"""Fig. 3: average KL of models on Gaussian sequences against L, and against I(L/2; L) / dim(z).

    python plots/fig3.py --results results/fig3

Reads summary.csv (evaluate.py) and, where it is there, collapse.csv (collapse.py) from the folder. Writes
results/fig3/fig3.png and .pdf, three panels:
    a  models whose history state grows with the sequence (attention)
    b  models of a history state of fixed size (Mamba, Mamba2), and the predictor that ignores the past
    c  those of b at every L against I(L/2; L) / dim(z): one curve, where the state is what limits them

Hardware: one CPU core, two seconds. Expect, where training is long enough: a flat, b rising the sooner the smaller the
state, c one curve. training.png shows whether it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from gaussian_models import (
    INDEPENDENT,
    REMEDY,
    Models,
    draw_by_length,
    draw_independent,
    length_ticks,
    log_y,
    read_models,
)
from matplotlib.figure import Figure
from style import GREY, L_AXIS, above_zero, new_figure, plain_ticks, put_legend, read_table, save

from common.cli import UserError, run

COLLAPSE = ["predictor", "explained", "lo95", "hi95"]
COLLAPSE_REMEDY = "make it with python gaussian_synthetic/collapse.py --summary summary.csv --out collapse.csv"


@dataclass(frozen=True)
class Settings:
    results: Path = Path("results/fig3")
    """folder with summary.csv and, if wanted, collapse.csv"""
    out: Path = Path("results/fig3/fig3")
    """where to write, without the suffix"""


def read_collapse(folder: Path) -> pd.DataFrame | None:
    """None without a collapse.csv. UserError: a bad one."""
    path = folder / "collapse.csv"
    if not path.exists():
        return None
    table = read_table(path, COLLAPSE, COLLAPSE_REMEDY, ["predictor"]).set_index("predictor")
    if not {"mi_per_state", "L", "parameters"} <= set(table.index):
        raise UserError(f"{path} lacks a predictor: {COLLAPSE_REMEDY}")
    return table


def draw(models: Models, collapse: pd.DataFrame | None) -> Figure:
    growing = [name for name in models.names if not models.constant(name)]
    fixed = [name for name in models.names if models.constant(name)]
    caption = [
        f"{models.about()} KL of a token given all before it, mean over positions; points: means over seeds, bars: "
        "from the least to the largest seed. Dotted: the predictor that ignores the past."
    ]
    if collapse is not None:
        told = {name: "{:.2f} [{:.2f}, {:.2f}]".format(*collapse.loc[name]) for name in collapse.index}
        caption.append(
            f"c: a parabola in ln I/dim(z), fitted to all points but one, predicts {told['mi_per_state']} of the "
            f"variance of ln KL of that one; a parabola in ln L {told['L']}, in ln parameters {told['parameters']} "
            "(95%, cells weighted at random)."
        )
    if alone := [name for name in fixed if len(models.by_length(name, "mean_kl_nats")) == 1]:
        caption.append(f"At one length alone, where no state can be seen to grow, and so in b: {', '.join(alone)}.")
    sizes = {name: models.by_length(name, "state_size")["mean"].to_numpy() for name in growing}
    if full := [name for name, size in sizes.items() if len(size) > 1 and size[-1] == size[-2]]:
        caption.append(f"Grows until its window is full, before the longest L: {', '.join(full)}.")
    x_labels = [L_AXIS, L_AXIS, "I(L/2; L) / dim(z) (nats an element)"]
    titles = ["a  state grows with L", "b  state of fixed size", "c  against I/dim(z)"]
    entries = -(-(len(models.names) + 1) // 3)
    fig, axes = new_figure(3, "Average KL (nats a token)", entries, caption, titles, x_labels=x_labels, one_legend=True)
    values = models.summary["mean_kl_nats"].to_numpy()
    handles, labels = [], []
    for ax, names in zip(axes, (growing, fixed), strict=False):
        found, called = draw_by_length(ax, models, names, "mean_kl_nats")
        handles, labels = handles + found, labels + called
        line = draw_independent(ax, models, "mean_kl_nats")
        length_ticks(ax, models.lengths)
    looks = models.looks()
    ratio = models.summary["mi_nats"] / models.summary["state_size"].where(models.summary["state_size"] > 0)
    for name in fixed:
        rows = models.summary.assign(ratio=ratio)[models.summary["model"] == name]
        by_ratio = rows.groupby("ratio")["mean_kl_nats"].agg(["mean", "min", "max"])
        bars = [by_ratio["mean"] - by_ratio["min"], by_ratio["max"] - by_ratio["mean"]]
        axes[2].errorbar(by_ratio.index, by_ratio["mean"], bars, **looks[name].marks())
    for ax in axes:
        log_y(ax, values, models.folder / "summary.csv", "mean_kl_nats")
    if fixed:
        found = ratio[models.summary["model"].isin(fixed)]
        found = above_zero(found, models.folder / "summary.csv", "mi_nats / state_size", REMEDY)
        axes[2].set_xscale("log")
        axes[2].set_xlim(found.min() / 1.6, found.max() * 1.6)
        plain_ticks(axes[2].xaxis, *axes[2].get_xlim(), base=10, room=5)
    else:
        axes[2].text(0.5, 0.5, "no model of fixed state", color=GREY, ha="center", transform=axes[2].transAxes)
    put_legend(axes[0], [*handles, *line], [*labels, INDEPENDENT], columns=3)
    return fig


def main(cfg: Settings) -> None:
    save(draw(read_models(cfg.results, positions=False), read_collapse(cfg.results)), cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
