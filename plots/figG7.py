"""Fig. G.7: KL of models on Gaussian sequences, position by position; and with --quantity nll Fig. G.8, their NLL.

    python plots/figG7.py --results results/fig3
    python plots/figG7.py --results results/fig3 --quantity nll --out results/figG8/figG8

Reads kl.csv and summary.csv (evaluate.py) from the folder. Writes results/figG7/figG7.png and .pdf, a panel a length:
a line a model, the mean over seeds and, because rows of four positions repeat a pattern, over each such row. For NLL
also the exact entropy of each position, below which no model comes; the average NLL of a run is in summary.csv.

Hardware: one CPU core, three seconds. Expect models of small state to fall behind where others go on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from gaussian_models import Models, log_y, read_models
from matplotlib.figure import Figure
from style import new_figure, plain_ticks, put_legend, save

from common.cli import UserError, run

Y_LABEL = {"kl": "KL (nats a token)", "nll": "NLL (nats a token)"}


@dataclass(frozen=True)
class Settings:
    results: Path = Path("results/fig3")
    """folder with kl.csv and summary.csv"""
    out: Path = Path("results/figG7/figG7")
    """where to write, without the suffix"""
    quantity: Literal["kl", "nll"] = "kl"
    """kl: D_i (Fig. G.7); nll: −log q of what was drawn (Fig. G.8)"""
    L: tuple[int, ...] = ()
    """lengths, a panel each; default: the three longest"""
    row: int = 4
    """positions that are averaged into a point"""

    def validate(self) -> None:
        if self.row < 1:
            raise UserError(f"--row {self.row}: give at least 1")


def by_row(rows: pd.DataFrame, column: str, row: int) -> pd.Series:
    """Mean over seeds and over `row` neighbouring positions; the index is the mean position."""
    mean = rows.groupby("position")[column].mean()
    group = (np.arange(len(mean)) // row).tolist()
    return pd.Series(mean.groupby(group).mean().to_numpy(), mean.index.to_series().groupby(group).mean())


def draw(models: Models, cfg: Settings) -> Figure:
    """UserError: a length that there is not."""
    lengths = list(cfg.L) or [L for L in models.lengths if L > cfg.row][-3:]
    if missing := set(lengths) - set(models.lengths) or ({0} if not lengths else set()):
        raise UserError(f"--L {min(missing)}: {models.folder} has {', '.join(map(str, models.lengths))}")
    column, looks = f"{cfg.quantity}_nats", models.lines()
    columns = 4 if len(lengths) > 1 else 2  # of the legend
    caption = [f"{models.about()} Each point: mean over seeds and {cfg.row} positions."]
    if cfg.quantity == "nll":
        caption.append("Black: the exact entropy of a position given all before it.")
    fig, axes = new_figure(
        len(lengths),
        Y_LABEL[cfg.quantity],
        -(-(len(looks) + 1) // columns),
        caption,
        [f"L = {L}" for L in lengths],
        x_labels=["Position (tokens)"] * len(lengths),
        one_legend=True,
    )
    drawn, values = {}, []
    for ax, L in zip(axes, lengths, strict=True):
        here = models.kl[models.kl["L"] == L]
        for name, look in looks.items():
            rows = here[here["model"] == name]
            if len(rows):
                found = by_row(rows, column, cfg.row)
                (drawn[name],) = ax.plot(found.index, found, **look)
                values.append(found.to_numpy())
        if cfg.quantity == "nll":
            exact = by_row(here, "entropy_nats", cfg.row)
            (drawn["exact entropy"],) = ax.plot(exact.index, exact, color="black", linewidth=1.2, zorder=1)
            values.append(exact.to_numpy())
        ax.set_xscale("log", base=2)
        ax.set_xlim(1, L * 1.2)
        plain_ticks(ax.xaxis, 1, L, base=4, room=6)
    every = np.concatenate(values)
    for ax in axes:
        if cfg.quantity == "kl":
            log_y(ax, every, models.folder / "kl.csv", column)
        else:
            ax.set_ylim(every.min() - 0.03 * np.ptp(every), every.max() + 0.03 * np.ptp(every))
    put_legend(axes[0], list(drawn.values()), list(drawn), columns=columns)
    return fig


def main(cfg: Settings) -> None:
    cfg.validate()
    save(draw(read_models(cfg.results), cfg), cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
