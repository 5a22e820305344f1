"""History states of models against the mutual information that they must hold (the L²M condition, Sec. 5).

    python plots/condition.py --results results/condition --out results/condition/condition

Not a figure of the paper. Reads state.csv (l2m_condition/state_size.py), condition.csv and required.csv
(required_state.py) from the folder. Writes OUT.png and OUT.pdf: elements of the state after L/2 tokens, a line a model,
in a colour for each kind of growth; and how many elements the laws of I(L/2; L) ask for, at one nat an element and at
the other constants of required.csv. Of more than ten models, those of each kind with the least and the largest state
at the right edge are named.

Hardware: one CPU core, two seconds. Expect lines of slope 1 and flat ones; the laws, of slope 0.7, cross the flat ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter
from style import SMALL, log_axis, new_figure, put_legend, read_table, save

from common.cli import UserError, run

STATE = ["model", "layer_kind", "context_tokens", "state_elements"]
REQUIRED = ["law", "L_tokens", "capacity", "nats_per_element", "required_elements", "required_lo95", "required_hi95"]
REMEDY = "make it with bash l2m_condition/condition.sh"
GROUPS = {  # colours of Okabe and Ito, and a dash each, so that they differ without colour
    "full attention": ("#0072B2", "-"),
    "latent attention": ("#009E73", (0, (1, 1))),
    "hybrid": ("#CC79A7", (0, (5, 1.5))),
    "logarithmic": ("#56B4E9", (0, (3, 1, 1, 1, 1, 1))),
    "bounded": ("#D55E00", (0, (4, 1, 1, 1))),
}
SHORT = EngFormatter(sep="")  # 1k, 10M, 1T
NAMED = 10  # models up to which each has its name at the right edge
WIDTH_IN, LINE_IN = 5.0, 0.125  # of the figure, and the height of a name at its right
PAPER, MEASURED = "0.15", "#A87400"


@dataclass(frozen=True)
class Settings:
    results: Path = Path("results/condition")
    """folder with state.csv, condition.csv and required.csv"""
    out: Path = Path("results/condition/condition")
    """where to write, without the suffix"""


def read_states(folder: Path) -> pd.DataFrame:
    """model, group, L, elements: a row a model and L. UserError: a column is missing, or a group is unknown."""
    path = folder / "state.csv"
    states = read_table(path, STATE, REMEDY)
    groups = read_table(folder / "condition.csv", ["model", "group"], REMEDY).drop_duplicates()
    if unknown := set(groups["group"]) - {*GROUPS}:
        raise UserError(f"{folder / 'condition.csv'}: unknown group {unknown.pop()!r}; known: {', '.join(GROUPS)}")
    states = states[states["layer_kind"] == "total"].merge(groups, on="model")
    if not (states["state_elements"] > 0).any():
        raise UserError(f"{path}: no state_elements above 0, so nothing to draw: {REMEDY}")
    return states.assign(L=2 * states["context_tokens"]).sort_values("L")


def draw(folder: Path) -> Figure:
    """UserError: as `read_states`, or the states and the laws share no two L."""
    states, path = read_states(folder), folder / "required.csv"
    required = read_table(path, REQUIRED, REMEDY, REQUIRED[-2:], ["law", "capacity", "L_tokens"]).sort_values(
        "L_tokens"
    )
    required = required[required["L_tokens"].between(states["L"].min(), states["L"].max())]
    if required["L_tokens"].nunique() < 2:
        raise UserError(f"{folder}: state.csv and required.csv share no two L, so nothing to draw: {REMEDY}")
    groups = [name for name in GROUPS if (states["group"] == name).any()]
    entries = len(groups) + required["law"].nunique() - 1  # the paper's two share a line
    fig, (ax,), _ = new_figure(1, "State after L/2 tokens (elements)", entries=entries)
    fig.set_size_inches(WIDTH_IN, fig.get_figheight() + 0.4)
    legend, names = draw_states(ax, states, required, groups)
    put_legend(ax, legend)
    fig.get_layout_engine().execute(fig)  # from here on the height of the panel is known
    put_names(ax, sorted((name for name in names if name[0] > 0), reverse=True))
    return fig


def draw_states(ax: Axes, states: pd.DataFrame, required: pd.DataFrame, groups: list[str]) -> tuple[dict, list]:
    """Lines and bands; returns the legend, and the names for the right edge as (y, name, colour)."""
    low, high = required["L_tokens"].min(), required["L_tokens"].max()
    names, legend = [], {}
    paper = required["law"].str.startswith("paper-")
    for capacity, rows in required[paper].groupby("capacity", sort=False):
        needs = rows.pivot(index="L_tokens", columns="law", values="required_elements")
        least, most = needs.min(axis=1), needs.max(axis=1)
        ax.fill_between(needs.index, least, most, color=PAPER, alpha=0.45, linewidth=0.8, zorder=4, gid="paper")
        how = f"{rows['nats_per_element'].iloc[0]:.2g} nats" if capacity == "measured" else capacity
        names.append((float(np.sqrt(least.iloc[-1] * most.iloc[-1])), f"law at {how}/element", PAPER))
    laws = " to ".join(required["law"][paper].unique())
    legend[f"law of the paper ({laws})"] = Patch(color=PAPER, alpha=0.45, linewidth=0)
    one_nat = required["capacity"][np.log(required["nats_per_element"]).abs().idxmin()]  # or the nearest
    for law, rows in required[~paper & (required["capacity"] == one_nat)].groupby("law", sort=False):
        x, line = rows["L_tokens"], {"color": MEASURED, "linewidth": 1.2}
        ax.plot(x, rows["required_elements"], zorder=5, gid="measured", **line)
        ax.fill_between(x, rows["required_lo95"], rows["required_hi95"], color=MEASURED, alpha=0.3, linewidth=0)
        names.append((rows["required_elements"].iloc[-1], f"{law} at {one_nat}", MEASURED))
        label = f"{law} at {one_nat} an element" + ", 95% interval" * bool(rows["required_hi95"].notna().all())
        legend[label] = (Patch(color=MEASURED, alpha=0.3, linewidth=0), Line2D([], [], **line))
    for group in groups:
        (color, dash), last = GROUPS[group], {}
        for model, rows in states[states["group"] == group].groupby("model", sort=False):
            ax.plot(rows["L"], rows["state_elements"], color=color, linestyle=dash, linewidth=0.8, gid=model)
            last[model] = float(np.interp(high, rows["L"], rows["state_elements"]))
        every = states["model"].nunique() <= NAMED
        chosen = last if every else dict.fromkeys((max(last, key=last.get), min(last, key=last.get)))
        names += [(last[model], model, color) for model in chosen]
        legend[f"{group} ({len(last)} model{'s' * (len(last) > 1)})"] = Line2D([], [], color=color, linestyle=dash)
    log_axis(ax.xaxis, required["L_tokens"], "L_tokens", label=SHORT)
    ax.set_xlim(low, high)
    drawn = pd.concat([states.loc[states["L"].between(low, high), "state_elements"], required["required_elements"]])
    log_axis(ax.yaxis, drawn, "state_elements", label=SHORT)
    return legend, names


def put_names(ax: Axes, names: list[tuple[float, str, str]]) -> None:
    """(y, name, colour) from the top down, beside the right edge at y or under the name before, with a leader."""
    low, high = np.log(ax.get_ylim())
    panel_in = ax.get_position().height * ax.figure.get_figheight()
    place = np.inf
    for y, name, color in names:
        start = (np.log(y) - low) / (high - low) * panel_in
        place = min(start, place - LINE_IN)
        leader = {"arrowstyle": "-", "color": color, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 0, "relpos": (0, 0.5)}
        look = {"color": color, "fontsize": SMALL, "va": "center", "arrowprops": leader}
        units = {"xycoords": "axes fraction", "textcoords": "offset points"}
        ax.annotate(name, (1, start / panel_in), (8, (place - start) * 72), **units, **look)


def main(cfg: Settings) -> None:
    save(draw(cfg.results), cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
