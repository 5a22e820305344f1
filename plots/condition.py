"""History states of models against the mutual information that they must hold (the L²M condition, Sec. 5).

    python plots/condition.py --results results/condition --out results/condition/condition

Not a figure of the paper. Reads state.csv (l2m_condition/state_size.py), condition.csv and required.csv
(required_state.py) from the folder. Writes OUT.png and OUT.pdf: the elements of the state after L/2 tokens, one
line per model, coloured by kind of growth (the legend names those of each kind with the smallest and largest state);
and the elements that the laws of I(L/2; L) require, at one nat per element and the other constants of required.csv.

Hardware: one CPU core, two seconds. Expect lines of slope 1 and flat ones; the paper's laws, of slope 0.7, cross these.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from style import COLORS, Settings, log_axis, new_figure, put_legend, read_table, save

from common.cli import UserError, run

STATE = ["model", "layer_kind", "context_tokens", "state_elements"]
REQUIRED = ["law", "L_tokens", "capacity", "nats_per_element", "required_elements", "required_lo95", "required_hi95"]
REMEDY = "make it with bash l2m_condition/condition.sh"
GROUPS = {  # colour and dashes; the dashes tell groups apart without colour
    "full attention": (COLORS[0], "-"),
    "latent attention": (COLORS[2], (0, (1, 1))),
    "hybrid": (COLORS[3], (0, (5, 1.5))),
    "sublinear": (COLORS[4], (0, (3, 1, 1, 1, 1, 1))),
    "bounded": (COLORS[1], (0, (4, 1, 1, 1))),
}
PAPER, MEASURED = "0.15", "#A87400"


def read_states(folder: Path) -> pd.DataFrame:
    """Read model, group, L and state_elements, one row per model and L. UserError: a bad CSV."""
    states = read_table(folder / "state.csv", STATE, REMEDY)
    groups = read_table(folder / "condition.csv", ["model", "group"], REMEDY).drop_duplicates()
    states = states[states["layer_kind"] == "total"].merge(groups, on="model")
    return states.assign(L=2 * states["context_tokens"]).sort_values("L")


def draw_laws(ax: Axes, required: pd.DataFrame) -> dict[str, Artist]:
    """Draw the band between the paper's laws at each capacity, labelled at its end, and the measured laws at one nat
    (or the nearest constant) with their intervals; returns the legend."""
    legend, paper = {}, required["law"].str.startswith("paper-")
    for capacity, rows in required[paper].groupby("capacity", sort=False):
        needs = rows.pivot(index="L_tokens", columns="law", values="required_elements")
        band = needs.index, needs.min(axis=1), needs.max(axis=1)
        label = f"law of the paper ({' to '.join(needs)})"
        legend[label] = ax.fill_between(*band, color=PAPER, alpha=0.45, linewidth=0.8, zorder=4, gid="paper")
        how = f"{rows['nats_per_element'].iloc[0]:.2g} nats" if capacity == "linear" else capacity
        ax.annotate(f" at {how}/element", (needs.index[-1], needs.iloc[-1].mean()), va="center", color=PAPER)
    one_nat = required["capacity"][np.log(required["nats_per_element"]).abs().idxmin()]
    for law, rows in required[~paper & (required["capacity"] == one_nat)].groupby("law", sort=False):
        x, ends = rows["L_tokens"], (rows["required_lo95"], rows["required_hi95"])
        band = ax.fill_between(x, *ends, color=MEASURED, alpha=0.3, linewidth=0)
        (line,) = ax.plot(x, rows["required_elements"], color=MEASURED, linewidth=1.2, zorder=5, gid="measured")
        legend[f"{law} at {one_nat} an element, 95% interval"] = (band, line)
    return legend


def draw_states(ax: Axes, states: pd.DataFrame) -> dict[str, Artist]:
    """Draw one line per model; returns the legend, with one entry per group."""
    legend = {}
    for group, (color, dash) in GROUPS.items():
        mine = states[states["group"] == group]
        for model, rows in mine.groupby("model"):
            (line,) = ax.plot(rows["L"], rows["state_elements"], color=color, linestyle=dash, linewidth=0.8, gid=model)
        if len(mine):
            last = mine.groupby("model")["state_elements"].last().sort_values()
            ends = dict.fromkeys((last.index[0], last.index[-1]))
            legend[f"{group}: {' to '.join(ends)}" + f" ({len(last)} models)" * (len(last) > 2)] = line
    return legend


def draw(folder: Path) -> Figure:
    """Draw states and laws of a folder. UserError: as `read_states`, or they share fewer than two L."""
    states, key = read_states(folder), ["law", "capacity", "L_tokens"]
    required = read_table(folder / "required.csv", REQUIRED, REMEDY, REQUIRED[-2:], key).sort_values("L_tokens")
    required = required[required["L_tokens"].between(states["L"].min(), states["L"].max())]
    low, high = required["L_tokens"].min(), required["L_tokens"].max()
    if not low < high:
        raise UserError(f"{folder}: state.csv and required.csv share no two L, so nothing to draw: {REMEDY}")
    fig, (ax,), _ = new_figure([""], "State after L/2 tokens (elements)")
    fig.set_size_inches(5, 3.2)
    put_legend(fig, draw_laws(ax, required) | draw_states(ax, states))
    log_axis(ax.xaxis, required["L_tokens"], "L_tokens")
    ax.set_xlim(low, high)
    drawn = states.loc[states["L"].between(low, high), "state_elements"]
    log_axis(ax.yaxis, pd.concat([drawn, required["required_elements"]]), "state_elements")
    return fig


def main(cfg: Settings) -> None:
    save(draw(cfg.results), cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
