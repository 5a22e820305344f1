"""KL of models on Gaussian sequences against the steps of their training: which have stopped improving, and which not.

    python plots/training.py --results results/fig3

Not a figure of the paper. Reads training.csv and summary.csv (evaluate.py) from the folder, and training.csv from
`short` in it, runs of the same models with fewer steps, where it is there. Writes results/fig3/training.png and .pdf, a
panel a length: a token's KL, mean over the steps since the row before and over seeds, in full and, dotted, short
runs. A model whose full run ends where its short run does is not limited by the number of steps.

Hardware: one CPU core, three seconds. Expect the long sequences to be still falling where the short ones are flat.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from gaussian_models import REMEDY, Models, log_y, read_models
from matplotlib.figure import Figure
from style import new_figure, plain_ticks, put_legend, read_table, save

from common.cli import UserError, run

TRAINING = ["model", "L", "seed", "steps", "step", "kl_nats"]


@dataclass(frozen=True)
class Settings:
    results: Path = Path("results/fig3")
    """folder with training.csv and summary.csv"""
    out: Path = Path("results/fig3/training")
    """where to write, without the suffix"""


def read_training(folder: Path) -> pd.DataFrame:
    """training.csv. UserError: a bad one, or one without rows."""
    table = read_table(folder / "training.csv", TRAINING, REMEDY, ["model"])
    if table.empty:
        raise UserError(f"{folder / 'training.csv'} has no rows: {REMEDY}")
    return table


def draw(models: Models, training: pd.DataFrame, short: pd.DataFrame | None) -> Figure:
    """short: training.csv of runs with fewer steps, or None."""
    lengths = sorted(training["L"].unique())
    caption = [f"{models.about()} A token's KL while training, mean over seeds."]
    if short is not None:
        caption.append("Dotted: runs with fewer steps, whose learning rate falls to 0 sooner.")
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
            for table, style in ((training, look), (short, look | {"linestyle": ":"})):
                if table is None:
                    continue
                rows = table[(table["model"] == name) & (table["L"] == L)]
                mean = rows.groupby("step")["kl_nats"].mean()
                if len(mean):
                    (line,) = ax.plot(mean.index, mean, **style)
                    drawn.setdefault(name, line)
        steps = training.loc[training["L"] == L, "step"]
        ax.set_xscale("log")
        ax.set_xlim(steps.min() / 1.2, steps.max() * 1.2)
        plain_ticks(ax.xaxis, *ax.get_xlim(), base=10, room=4)
    every = np.concatenate([table["kl_nats"] for table in (training, short) if table is not None])
    for ax in axes:
        log_y(ax, every, models.folder / "training.csv", "kl_nats")
    put_legend(axes[0], list(drawn.values()), list(drawn), columns=4)
    return fig


def main(cfg: Settings) -> None:
    short = cfg.results / "short"
    fewer = read_training(short) if (short / "training.csv").exists() else None
    save(draw(read_models(cfg.results, positions=False), read_training(cfg.results), fewer), cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
