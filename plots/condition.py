"""History states of models against the mutual information that they must hold (the L²M condition, Sec. 5).

    python plots/condition.py --results results/condition --out results/condition/condition

Not a figure of the paper. Reads capacity.csv and required.csv (l2m_condition/required_state.py) and, where it is there,
state_information.csv (state_information.py) from the folder. Writes results/condition/condition.png and .pdf:
    left   elements of the state after L/2 tokens, a line a model, in a colour for each kind of growth; and how many
           elements the laws of I(L/2; L) ask for, at one nat an element and at the other constants of required.csv.
           Of each kind the models of the least and the largest state at the right edge are named.
    right  information per state element of models trained on Gaussian sequences, a point a run

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
from style import (
    COLUMN_IN,
    GREY,
    LEFT_IN,
    PAGE_IN,
    RIGHT_IN,
    SMALL,
    SeriesStyle,
    above_zero,
    mark_below,
    new_figure,
    plain_ticks,
    put_legend,
    read_table,
    save,
)

from common.cli import UserError, run

CAPACITY = ["model", "group", "L_tokens", "state_elements"]
REQUIRED = ["law", "L_tokens", "capacity", "nats_per_element", "mi_nats", "mi_lo95", "mi_hi95"]
REQUIRED += ["required_elements", "required_lo95", "required_hi95"]
MAY_LACK = ["mi_lo95", "mi_hi95", "required_lo95", "required_hi95"]  # the paper's laws have no interval
INFORMATION = ["model", "L", "state_size", "nats_per_element"]
REMEDY = "make it with bash l2m_condition/condition.sh"
GROUPS = {  # colours of Okabe and Ito, and a dash each, so that they differ without colour
    "full attention": ("#0072B2", "-"),
    "latent attention": ("#009E73", (0, (1, 1))),
    "hybrid": ("#CC79A7", (0, (5, 1.5))),
    "logarithmic": ("#56B4E9", (0, (3, 1, 1, 1, 1, 1))),
    "bounded": ("#D55E00", (0, (4, 1, 1, 1))),
    "unknown": ("0.6", "-"),
}
LENGTHS = (
    SeriesStyle("", "#0072B2", "o", 3.4, filled=False),
    SeriesStyle("", "#D55E00", "D", 2.6),
    SeriesStyle("", "#009E73", "^", 3.6),
    SeriesStyle("", "#CC79A7", "s", 3.4, filled=False),
    SeriesStyle("", "#E69F00", "v", 3.6),
    SeriesStyle("", "0.2", "P", 3.8),
)
NAMED = 10  # models up to which each has its name at the right edge
LABELS_IN, LINE_IN = 1.35, 0.112  # beside the left panel: the names, and the height of one
PAPER, MEASURED = "0.15", "#A87400"


@dataclass(frozen=True)
class Settings:
    results: Path = Path("results/condition")
    """folder with capacity.csv, required.csv and perhaps state_information.csv"""
    out: Path = Path("results/condition/condition")
    """where to write, without the suffix"""


@dataclass(frozen=True)
class Condition:
    """The CSVs of a folder; states: a row a model and L."""

    states: pd.DataFrame
    required: pd.DataFrame
    information: pd.DataFrame | None


def read_condition(folder: Path) -> Condition:
    """UserError: a file or column is missing, a number is none, nothing to draw, or an unknown group."""
    states = read_table(folder / "capacity.csv", CAPACITY, REMEDY, ["model", "group"]).drop_duplicates()
    required = read_table(folder / "required.csv", REQUIRED, REMEDY, ["law", "capacity"], MAY_LACK)
    if required.duplicated(["law", "capacity", "L_tokens"]).any():
        raise UserError(f"{folder / 'required.csv'} has rows twice: {REMEDY}")
    required = required[required["L_tokens"].between(states["L_tokens"].min(), states["L_tokens"].max())]
    if states.empty or required.empty:
        raise UserError(f"{folder}: capacity.csv and required.csv share no L, so nothing to draw: {REMEDY}")
    if states["L_tokens"].nunique() < 2:
        raise UserError(f"{folder}: one L makes no lines: give required_state.py two or more --lengths")
    above_zero(states["state_elements"], folder / "capacity.csv", "state_elements", REMEDY)
    if unknown := set(states["group"]) - set(GROUPS):
        raise UserError(f"{folder / 'capacity.csv'}: unknown group {unknown.pop()!r}; known: {', '.join(GROUPS)}")
    information = None
    if (folder / "state_information.csv").exists():
        information = read_table(folder / "state_information.csv", INFORMATION, REMEDY, ["model"])
        if information.empty:
            raise UserError(
                f"{folder / 'state_information.csv'} has no rows: make it again with state_information.py, or delete it"
            )
        above_zero(information["state_size"], folder / "state_information.csv", "state_size", REMEDY)
        if information["L"].nunique() > len(LENGTHS):
            raise UserError(f"{folder / 'state_information.csv'} has more than {len(LENGTHS)} lengths L: keep fewer")
    return Condition(states.sort_values("L_tokens"), required.sort_values("L_tokens"), information)


def draw(found: Condition) -> Figure:
    groups = [name for name in GROUPS if (found.states["group"] == name).any()]
    two = found.information is not None
    y_labels = ["State after L/2 tokens (elements)", "Information per state element (nats)"][: 1 + two]
    x_labels = ["Sequence length L (tokens)", "State (elements)"][: 1 + two]
    lengths = sorted(found.information["L"].unique()) if two else []
    handles, labels = _laws(found.required)
    entries = max(len(groups) + len(labels), len(lengths))
    fig, axes = new_figure(1 + two, y_labels, entries, caption(found), x_labels=x_labels)
    _place(axes)
    names = draw_states(axes[0], found, groups)
    put_names(axes[0], [name for name in names if name[0] > 0])
    for name in groups:
        color, dash = GROUPS[name]
        handles.append(Line2D([], [], color=color, linestyle=dash))
        number = found.states.loc[found.states["group"] == name, "model"].nunique()
        labels.append(f"{name} ({number} model{'s' * (number > 1)})")
    put_legend(axes[0], handles, labels)
    if two:
        put_legend(axes[1], *draw_information(axes[1], found.information, lengths))
    return fig


def _place(axes: list[Axes]) -> None:
    """Room for the names between the panels, or at the right of a single one."""
    fig = axes[0].figure
    width, box = fig.get_figwidth(), axes[0].get_position()
    if len(axes) == 1:
        wide = [COLUMN_IN - LEFT_IN - RIGHT_IN - LABELS_IN]
        lefts = [LEFT_IN]
    else:
        room = PAGE_IN - 2 * LEFT_IN - RIGHT_IN - LABELS_IN
        wide = [0.6 * room, 0.4 * room]
        lefts = [LEFT_IN, PAGE_IN - RIGHT_IN - wide[1]]
    for ax, left, panel in zip(axes, lefts, wide, strict=True):
        ax.set_position((left / width, box.y0, panel / width, box.height))
        ax.yaxis.set_label_coords((0.31 - LEFT_IN) / panel, 0.5)


def draw_states(ax: Axes, found: Condition, groups: list[str]) -> list[tuple[float, str, str]]:
    """Lines and bands; returns what stands at the right edge: y, name, colour."""
    states, required = found.states, found.required
    low, high = states["L_tokens"].min(), states["L_tokens"].max()
    names = []
    paper = required["law"].str.startswith("paper-")
    for capacity, rows in required[paper].groupby("capacity", sort=False):
        needs = rows.pivot(index="L_tokens", columns="law", values="required_elements")
        least, most = needs.min(axis=1), needs.max(axis=1)
        ax.fill_between(needs.index, least, most, color=PAPER, alpha=0.45, linewidth=0.8, zorder=4, gid="paper")
        nats = rows["nats_per_element"].iloc[0]
        how = f"{nats:.2g} nats" if capacity == "measured" else capacity
        names.append((float(np.sqrt(least.iloc[-1] * most.iloc[-1])), f"law at {how}/element", PAPER))
    measured = required[~paper & (required["capacity"] == reference(required))]
    for law, rows in measured.groupby("law", sort=False):
        ax.plot(rows["L_tokens"], rows["required_elements"], color=MEASURED, linewidth=1.2, zorder=5, gid="measured")
        names.append((rows["required_elements"].iloc[-1], f"{law} at {reference(required)}", MEASURED))
        ax.fill_between(
            rows["L_tokens"], rows["required_lo95"], rows["required_hi95"], color=MEASURED, alpha=0.3, linewidth=0
        )
    for group in groups:
        color, dash = GROUPS[group]
        last = {}
        for model, rows in states[states["group"] == group].groupby("model", sort=False):
            ax.plot(rows["L_tokens"], rows["state_elements"], color=color, linestyle=dash, linewidth=0.8, gid=model)
            if rows["L_tokens"].max() == high:
                last[model] = rows["state_elements"].iloc[-1]
        if last:
            every = states["model"].nunique() <= NAMED
            chosen = last if every else dict.fromkeys((max(last, key=last.get), min(last, key=last.get)))
            names += [(last[model], model, color) for model in chosen]
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    room = ax.get_position().width * ax.figure.get_figwidth() / 0.35
    plain_ticks(ax.xaxis, low, high, base=10, room=room, label=readable)
    drawn = pd.concat([states["state_elements"], required["required_elements"]])
    bottom, top = drawn[drawn > 0].min() / 2, drawn.max() * 2
    ax.set_yscale("log")
    ax.set_ylim(bottom, top)
    plain_ticks(ax.yaxis, bottom, top, base=10, room=8, label=power)
    return names


def reference(required: pd.DataFrame) -> str:
    """The capacity at which measured laws are drawn: of one nat an element, or the nearest."""
    nearest = np.log(required["nats_per_element"]).abs().idxmin()
    return required["capacity"][nearest]


def _laws(required: pd.DataFrame) -> tuple[list, list[str]]:
    handles, labels = [], []
    paper = required["law"].str.startswith("paper-")
    if paper.any():
        handles.append(Patch(color=PAPER, alpha=0.45, linewidth=0))
        labels.append(f"law of the paper ({' to '.join(required['law'][paper].unique())})")
    for law, rows in required[~paper].groupby("law", sort=False):
        handles.append((Patch(color=MEASURED, alpha=0.3, linewidth=0), Line2D([], [], color=MEASURED, linewidth=1.2)))
        interval = ", 95% interval" if rows["mi_hi95"].notna().all() else ""
        labels.append(f"{law} at {reference(required)} an element{interval}")
    return handles, labels


def put_names(ax: Axes, names: list[tuple[float, str, str]]) -> None:
    """Beside the right edge, each at its line or pushed up or down as far as the others make it, with a thin leader."""
    low, high = np.log(ax.get_ylim())
    panel_in = ax.get_position().height * ax.figure.get_figheight()
    names = sorted(names)
    wanted = (np.log([y for y, _, _ in names]) - low) / (high - low) * panel_in
    for (_, name, color), start, at in zip(names, wanted, spread(wanted, LINE_IN, panel_in), strict=True):
        ax.annotate(
            name,
            (1, start / panel_in),
            (8, at * 72 - start * 72),
            xycoords="axes fraction",
            textcoords="offset points",
            color=color,
            fontsize=SMALL,
            va="center",
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 0.5,
                "shrinkA": 1,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )


def spread(wanted: np.ndarray, gap: float, top: float) -> np.ndarray:
    """Places at least `gap` apart, near those wanted (ascending): runs of neighbours that touch share their middle."""
    wanted = np.minimum(wanted, top - gap * np.arange(len(wanted))[::-1])
    runs = [[float(y), 1] for y in wanted]  # middle, how many
    index = 0
    while index + 1 < len(runs):
        (y, n), (above, m) = runs[index : index + 2]
        if above - y < gap * (n + m) / 2 - 1e-12:
            runs[index : index + 2] = [[(n * y + m * above) / (n + m), n + m]]
            index = max(index - 1, 0)
        else:
            index += 1
    return np.concatenate([y + gap * (np.arange(n) - (n - 1) / 2) for y, n in runs]) if runs else wanted


def draw_information(ax: Axes, information: pd.DataFrame, lengths: list[float]) -> tuple[list, list[str]]:
    """Points by L; runs that used none stand as small markers at the bottom edge."""
    handles, labels = [], []
    for index, (L, look) in enumerate(zip(lengths, LENGTHS, strict=False)):
        rows = information[information["L"] == L]
        shown = rows[rows["nats_per_element"] > 0]
        handles.append(ax.errorbar(shown["state_size"], shown["nats_per_element"], **look.marks()))
        mark_below(ax, rows.loc[rows["nats_per_element"] <= 0, "state_size"], index, look.color)
        labels.append(f"L = {L:,.0f}")
    positive = information.loc[information["nats_per_element"] > 0, "nats_per_element"]
    ax.set_xscale("log")
    sizes = information.loc[information["state_size"] > 0, "state_size"]
    ax.set_xlim(sizes.min() / 2, sizes.max() * 2)
    plain_ticks(ax.xaxis, *ax.get_xlim(), base=10, room=4, label=readable)
    if len(positive):
        best, low = positive.max(), positive.min() / 4
        ax.set_yscale("log")
        ax.axhline(best, color=GREY, linewidth=0.6, linestyle=(0, (4, 3)), zorder=1)
        ax.set_ylim(low, best * 2)
        ax.text(0.98, best, f"{best:.2g}", transform=ax.get_yaxis_transform(), ha="right", va="bottom", color=GREY)
        plain_ticks(ax.yaxis, low, best * 2, base=10, room=8, label=power)
    else:
        ax.set_yticks([])
        ax.text(0.5, 0.5, "no run used any information", color=GREY, ha="center", transform=ax.transAxes)
    return handles, labels


def power(value: float) -> str:
    """10⁷; what is no power of ten as `readable`."""
    exponent = round(np.log10(value))
    if not np.isclose(value, 10.0**exponent, rtol=1e-9):
        return readable(value)
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def readable(value: float) -> str:
    """1000 as 1k, 10⁷ as 10M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def caption(found: Condition) -> list[str]:
    if found.information is None:
        return ["A model whose line lies below a law cannot", "hold I(L/2; L)."]
    below = int((found.information["nats_per_element"] <= 0).sum())
    right = "Right: runs on Gaussian sequences" + f"; ▾: {below} at or below 0." * bool(below)
    return ["Left: a model whose line lies below a law cannot hold I(L/2; L).", right]


def main(cfg: Settings) -> None:
    save(draw(read_condition(cfg.results)), cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
