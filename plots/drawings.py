"""Fig. 1 and Fig. 2a, which are drawings: what has to pass the cut, and the two kinds of information. No data.

    python plots/drawings.py

Writes results/drawings/fig1.png and fig2a.png, and both as PDF. One CPU core, two seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from style import COLUMN_IN, GREY, NORMAL, PAGE_IN, RC, save

from common.cli import run

PAST, FUTURE, STATE = "#0072B2", "#D55E00", "#009E73"  # of Okabe and Ito
TOKENS = 12
SIDE, GAP = 0.8, 0.2  # of a token's box, and between two


@dataclass(frozen=True)
class Settings:
    out: Path = Path("results/drawings")
    """folder to write to"""


def blank(fig: Figure, box: tuple[float, float, float, float], width: float, height: float) -> Axes:
    """Axes without axes, in units of a token's place."""
    ax = fig.add_axes(box)
    ax.set_xlim(0, width)
    ax.set_ylim(0, height)
    ax.set_aspect("equal")
    ax.set_axis_off()
    return ax


def tokens(ax: Axes, y: float, colors: list[str]) -> None:
    """A row of boxes, W_1 … W_L from left to right."""
    for i, color in enumerate(colors):
        ax.add_patch(Rectangle((i + GAP / 2, y), SIDE, SIDE, facecolor=color, edgecolor="black", linewidth=0.5))


def bracket(ax: Axes, left: float, right: float, y: float, text: str, above: bool = True) -> None:
    """From one place to another, with a text in the middle."""
    sign = 1 if above else -1
    ax.plot([left, left, right, right], [y, y + 0.25 * sign, y + 0.25 * sign, y], color="black", linewidth=0.7)
    align = "bottom" if above else "top"
    ax.text((left + right) / 2, y + 0.4 * sign, text, ha="center", va=align, fontsize=NORMAL)


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], color: str) -> None:
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color=color, linewidth=1.2))


def draw_fig1() -> Figure:
    """What the second half owes to the first has to pass through the history state."""
    matplotlib.rcParams.update(RC)
    fig = Figure(figsize=(PAGE_IN, 2.0))
    ax = blank(fig, (0.01, 0.02, 0.58, 0.96), TOKENS, 5.6)
    half = TOKENS // 2
    tokens(ax, 0.9, [PAST] * half + [FUTURE] * half)
    ax.text(half / 2, 0.6, r"first half $X$", ha="center", va="top", color=PAST, fontsize=NORMAL)
    ax.text(half * 1.5, 0.6, r"second half $Y$", ha="center", va="top", color=FUTURE, fontsize=NORMAL)
    ax.plot([half, half], [0.3, 2.1], color="black", linewidth=0.8, linestyle="--")
    ax.add_patch(Rectangle((half - 1.6, 2.7), 3.2, 1.0, facecolor="none", edgecolor=STATE, linewidth=1.2))
    ax.text(half, 3.2, r"history state $z_{L/2}$", ha="center", va="center", color=STATE, fontsize=NORMAL)
    arrow(ax, (half / 2, 1.85), (half - 1.7, 3.1), PAST)
    arrow(ax, (half + 1.7, 3.1), (half * 1.5, 1.85), FUTURE)
    law = r"$I(X; Y) \sim L^\beta$ nats have to pass:  $I(X; Y) \leq C \cdot \dim(z_{L/2}) + \ln M$"
    ax.text(half, 4.6, law, ha="center", va="center", fontsize=NORMAL)

    sizes = fig.add_axes((0.68, 0.2, 0.30, 0.70))
    L = np.geomspace(1, 1000, 50)
    for size, color, style, text in (
        (30 * L, PAST, "-", r"attention: $L$"),
        (3 * L**0.7, "black", "--", r"what the law asks for: $L^\beta$"),
        (40 + 0 * L, STATE, "-.", "recurrence: constant"),
    ):
        sizes.plot(L, size, color=color, linestyle=style, linewidth=1.2, label=text)
    sizes.set_xscale("log")
    sizes.set_yscale("log")
    sizes.tick_params(which="both", length=0, labelbottom=False, labelleft=False)
    sizes.set_xlabel(r"sequence length $L$")
    sizes.set_ylabel("history state")
    sizes.legend(frameon=False, loc="upper left", handlelength=2.4, borderaxespad=0)
    sizes.set_ylim(1, 1e7)
    return fig


def draw_fig2a() -> Figure:
    """Two tokens at a distance, and two halves."""
    matplotlib.rcParams.update(RC)
    fig = Figure(figsize=(COLUMN_IN, 2.3))
    ax = blank(fig, (0.02, 0.01, 0.96, 0.98), TOKENS, 8.0)
    first, second = 2, 9
    colors = ["white"] * TOKENS
    colors[first], colors[second] = PAST, FUTURE
    tokens(ax, 5.2, colors)
    bracket(ax, first + 0.5, second + 0.5, 6.2, r"two tokens: $I(W_i; W_{i+d}) \sim d^{-\alpha}$")
    ax.text((first + second + 1) / 2, 4.9, r"distance $d$", ha="center", va="top", color=GREY, fontsize=NORMAL)
    half = TOKENS // 2
    tokens(ax, 1.6, [PAST] * half + [FUTURE] * half)
    bracket(ax, 0.1, TOKENS - 0.1, 2.6, r"two halves: $I(L/2; L) = I(X; Y) \sim L^\beta$")
    bracket(ax, 0.1, half - 0.1, 1.4, r"$X$", above=False)
    bracket(ax, half + 0.1, TOKENS - 0.1, 1.4, r"$Y$", above=False)
    return fig


def main(cfg: Settings) -> None:
    save(draw_fig1(), cfg.out / "fig1")
    save(draw_fig2a(), cfg.out / "fig2a")


if __name__ == "__main__":
    run(main, Settings, __doc__)
