"""Figs. 1 and 2a, drawings without data: what has to pass the cut, and the two kinds of information.

    python plots/drawings.py

Writes results/drawings/fig1.png and fig2a.png, and both as PDF. One CPU core, two seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from style import COLORS, COLUMN_IN, GREY, NORMAL, RC, save

from common.cli import run

PAST, FUTURE, STATE = COLORS[:3]
TOKENS, HALF = 12, 6


@dataclass(frozen=True)
class Settings:
    out: Path = Path("results/drawings")  # folder to write to


def blank(height: float) -> tuple[Figure, Axes]:
    """A one-column figure without axes, in units of the width of a token."""
    matplotlib.rcParams.update(RC | {"text.parse_math": True})
    fig = Figure((COLUMN_IN, COLUMN_IN * height / TOKENS))
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, TOKENS), ylim=(0, height))
    ax.set_axis_off()
    return fig, ax


def tokens(ax: Axes, y: float, colors: list[str]) -> None:
    """Draw a row of boxes, W_1 … W_L from left to right."""
    for i, color in enumerate(colors):
        ax.add_patch(Rectangle((i + 0.1, y), 0.8, 0.8, facecolor=color, edgecolor="black", linewidth=0.5))


def say(ax: Axes, x: float, y: float, text: str, color: str = "black") -> None:
    ax.text(x, y, text, ha="center", va="center", color=color, fontsize=NORMAL)


def bracket(ax: Axes, left: float, right: float, y: float, text: str) -> None:
    """Draw a bracket from `left` to `right`, with a text above its middle."""
    ax.plot([left, left, right, right], [y, y + 0.25, y + 0.25, y], color="black", linewidth=0.7)
    say(ax, (left + right) / 2, y + 0.8, text)


def draw_fig1() -> Figure:
    """Fig. 1: all information that the second half shares with the first has to pass through the history state."""
    fig, ax = blank(5.6)
    tokens(ax, 0.9, [PAST] * HALF + [FUTURE] * HALF)
    say(ax, HALF / 2, 0.4, r"first half $X$", PAST)
    say(ax, HALF * 1.5, 0.4, r"second half $Y$", FUTURE)
    ax.plot([HALF, HALF], [0.3, 2.1], color="black", linewidth=0.8, linestyle="--")
    box = {"boxstyle": "square,pad=0.6", "facecolor": "none", "edgecolor": STATE}
    ax.text(HALF, 3.2, r"history state $z_{L/2}$", ha="center", va="center", color=STATE, fontsize=NORMAL, bbox=box)
    ends = ((HALF - 2.3, 3), (HALF / 2, 1.85), PAST), ((HALF * 1.5, 1.85), (HALF + 2.3, 3), FUTURE)
    for end, start, color in ends:
        ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 1.2})
    say(ax, HALF, 5, r"$I(X; Y) \sim L^\beta$ nats have to pass:  $I(X; Y) \leq C \cdot \dim(z_{L/2}) + \ln M$")
    return fig


def draw_fig2a() -> Figure:
    """Fig. 2a: two tokens at a distance, and two halves."""
    fig, ax = blank(7.4)
    first, second = 2, 9
    colors = ["white"] * TOKENS
    colors[first], colors[second] = PAST, FUTURE
    tokens(ax, 4.8, colors)
    bracket(ax, first + 0.5, second + 0.5, 5.8, r"two tokens: $I(W_i; W_{i+d}) \sim d^{-\alpha}$")
    say(ax, (first + second + 1) / 2, 4.4, r"distance $d$", GREY)
    tokens(ax, 1.2, [PAST] * HALF + [FUTURE] * HALF)
    bracket(ax, 0.1, TOKENS - 0.1, 2.2, r"two halves: $I(L/2; L) = I(X; Y) \sim L^\beta$")
    say(ax, HALF / 2, 0.6, r"$X$", PAST)
    say(ax, HALF * 1.5, 0.6, r"$Y$", FUTURE)
    return fig


def main(cfg: Settings) -> None:
    save(draw_fig1(), cfg.out / "fig1")
    save(draw_fig2a(), cfg.out / "fig2a")


if __name__ == "__main__":
    run(main, Settings, __doc__)
