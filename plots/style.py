"""Shared by all figures: reading CSVs, looks, panels, logarithmic axes, legends, and saving as PNG and PDF.

Nothing is fitted or selected here: the CSVs have all that a figure needs.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from matplotlib.transforms import blended_transform_factory

from common.cli import UserError
from common.powerlaw import LAWS
from common.record import atomic_file, numbers, read_csv

COLUMN_IN, PAGE_IN, NARROW_IN = 3.4, 7.0, 2.3  # widths: one-column figure, full page, narrowest panel
PANEL_IN, LOWER_IN, LABELS_IN = 2.0, 0.9, 0.8  # heights: panel, low panel under it, labels and titles
NORMAL = 8  # font size in points
GREY = "0.4"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # by Okabe and Ito
RC = {
    "font.size": 7,
    "axes.labelsize": NORMAL,
    "axes.titlesize": NORMAL,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.0,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.labelspacing": 0.25,
    "text.parse_math": False,  # a "$" in a name does not begin a formula
    "pdf.fonttype": 42,  # text stays text in the PDF
}
L_AXIS = "Sequence length L (tokens)"
PAPER = {"color": GREY, "linewidth": 0.8, "zorder": 1, "gid": "paper"}  # lines of the paper's laws

FIT = ["source", "model", "estimator", "law", "parameter", "value", "lo95", "hi95", "boot_lo95", "boot_hi95"]
FIT += ["L_min", "L_max", "p_value", "selected"]
MAY_LACK = ["lo95", "hi95", "boot_lo95", "boot_hi95", "p_value"]  # NaN where a fit has none
# Columns of any CSV that hold text, and columns of lengths, which are drawn on logarithmic axes.
TEXT = {"source", "model", "model_a", "model_b", "tokenizer", "estimator", "law", "parameter", "selected"}
TEXT |= {"plateau_law", "family", "kind", "process", "predictor", "quantity", "group", "capacity", "layer_kind"}
TEXT |= {"converged", "unit"}
LENGTHS = {"L", "L_tokens", "ell_tokens", "d_tokens", "context_tokens", "L_min", "L_max", "position", "step"}


@dataclass(frozen=True)
class Settings:
    """Settings of a program that draws the CSVs of one folder."""

    results: Path  # folder with the CSVs
    out: Path  # where to write, without the suffix


def look(color: str, marker: str, size: float = 3.6, filled: bool = True) -> dict[str, object]:
    """Look of a series for ax.errorbar: points without a line; shape and fill tell series apart without colour."""
    face, edge = (color, 0.4) if filled else ("none", 0.9)
    edges = {"markeredgewidth": edge, "elinewidth": 0.8}
    return {"fmt": marker, "color": color, "markersize": size, "markerfacecolor": face, **edges}


LOOKS = (  # where two series coincide, both markers stay visible
    look(COLORS[0], "o", 5.0, filled=False),
    look(COLORS[1], "D", 2.6),
    look(COLORS[2], "^"),
    look(COLORS[3], "s", 4.0, filled=False),
)


def read_table(
    path: Path, columns: Sequence[str], remedy: str, may_lack: Sequence[str] = (), key: Sequence[str] = ()
) -> pd.DataFrame:
    """Read columns of a CSV: text (see TEXT) unchanged, the others as finite numbers; NaN is allowed in `may_lack`.

    key: columns that tell rows apart; if given, there must be rows. remedy: what to do about a bad file. UserError: no
    such file, not a table, missing columns, a bad number, a length not above 0, no rows, or rows with the same key.
    """
    table = read_csv(path, columns, remedy)
    for column in columns:
        if column in TEXT:
            continue
        values = numbers(table[column], path, remedy)
        bad = (values <= 0) & (column in LENGTHS)
        if column not in may_lack:
            bad |= ~np.isfinite(values)
        if bad.any():
            row, what = int(np.argmax(bad)), "a number above 0" if column in LENGTHS else "a finite number"
            raise UserError(f"{path}, line {row + 2}: {column} is {table[column].iloc[row]!r}, not {what}: {remedy}")
        table[column] = values
    if key and table.empty:
        raise UserError(f"{path} has no rows, so nothing to draw: {remedy}")
    if key and table.duplicated(list(key)).any():
        raise UserError(f"{path} has rows twice: keep one run in a folder, or {remedy}")
    return table


def one_run(folder: Path, tables: Sequence[pd.DataFrame], names: Sequence[str]) -> list:
    """The values of columns (corpus, model) that all CSVs of a folder must share. UserError: they differ."""
    runs = pd.concat(tables)[list(names)].drop_duplicates()
    if len(runs) > 1:
        found = " and ".join(", ".join(map(str, run)) for run in runs.itertuples(index=False))
        raise UserError(f"{folder}: its CSVs are of {found}: keep one {' and '.join(names)} in a folder")
    return runs.iloc[0].tolist()


def new_figure(
    titles: Sequence[str],
    y_label: str | Sequence[str],
    x_label: str | Sequence[str] = L_AXIS,
    lower: str = "",
    columns: int = 0,
) -> tuple[Figure, list[Axes], list[Axes]]:
    """Panels of equal size, `columns` side by side (0: all), and optional low panels below; matplotlib lays them out.

    titles: one per panel. y_label: one for all panels, which then share the y axis, or one per panel. x_label: one for
    all, or one per panel. lower: y label of the low panels, which share the x axis of those above; "": none.
    Returns the figure, the panels, and the low panels (without any, the panels again).
    """
    matplotlib.rcParams.update(RC)
    n, columns = len(titles), columns or len(titles)
    rows = 2 if lower else math.ceil(n / columns)
    width = COLUMN_IN if columns == 1 else max(PAGE_IN, NARROW_IN * columns)
    heights = [PANEL_IN, LOWER_IN] if lower else [PANEL_IN + LABELS_IN] * rows
    fig = Figure((width, sum(heights) + LABELS_IN * bool(lower)), layout="constrained")
    shared = isinstance(y_label, str)
    sharing = {"sharex": "col" if lower else False, "sharey": ("row" if lower else "all") if shared else False}
    axes = fig.subplots(rows, columns, squeeze=False, height_ratios=heights, **sharing).ravel().tolist()
    upper, below = axes[:n], axes[n:] if lower else axes[:n]
    for rest in axes[2 * n if lower else n :]:
        rest.remove()
    for index, title in enumerate(titles):
        lines = [textwrap.fill(line, int(14 * width / columns)) for line in title.split("\n")]
        upper[index].set_title("\n".join(lines))
        upper[index].set_ylabel(y_label[index] if not shared else "" if index % columns else y_label)
        below[index].set_xlabel(x_label if isinstance(x_label, str) else x_label[index])
    if lower:
        below[0].set_ylabel(lower)
        below[0].locator_params(axis="y", nbins=4)
    return fig, upper, below


def put_legend(where: Axes | Figure, handles: dict[str, Artist], columns: int = 1) -> None:
    """Put a legend below the figure, starting at the left edge of a panel or of the figure. handles: by label."""
    fig = where.figure
    if where is fig:
        across, labels = fig.transFigure, list(handles)
    else:
        room = int(16 * fig.get_figwidth() / where.get_subplotspec().get_gridspec().ncols) - 6
        across, labels = where.transAxes, [textwrap.fill(label, room) for label in handles]
    place = {"bbox_to_anchor": (0, 0), "bbox_transform": blended_transform_factory(across, fig.transFigure)}
    legend = where.legend(handles.values(), labels, loc="upper left", ncols=columns, **place)
    legend.set_in_layout(False)  # the panels keep their size; `save` makes room for the legend


def draw_points(
    ax: Axes, x: pd.Series, y: pd.Series, bars: object, look: dict[str, object], index: int = 0, floor: float = 0.0
) -> Artist:
    """Draw series number `index` of a panel as points. bars: as in ax.errorbar, None, symmetric, or lower and upper.

    Points at or below `floor`, which a logarithmic axis cannot show, become small downward markers at the bottom edge.
    """
    shown = (y > floor).to_numpy()
    edge = np.full((~shown).sum(), 0.02 + 0.03 * index)
    ax.plot(x[~shown], edge, "v", markersize=3, color=look["color"], transform=ax.get_xaxis_transform(), gid="below")
    bars = None if bars is None else np.asarray(bars)[..., shown]
    return ax.errorbar(x[shown], y[shown], bars, **look, zorder=3 + index)


def draw_slopes(ax: Axes, windows: pd.DataFrame, column: str, look: dict[str, object], shift: float, at: str) -> Artist:
    """Draw a column of sweep.csv with 95% intervals, 0.18 · `shift` doublings to the right so that bars do not overlap.

    at: the column for x, or "" for the geometric mean of L_min and L_max.
    """
    x = windows[at] if at else np.sqrt(windows["L_min"] * windows["L_max"])
    bars = [windows[column] - windows["lo95"], windows["hi95"] - windows[column]]
    return ax.errorbar(x * 2 ** (0.18 * shift), windows[column], bars, **look, zorder=4)


def draw_law(ax: Axes, fit: pd.DataFrame, color: str, less: float = 0.0) -> Line2D:
    """Draw the law of some rows of fit.csv (indexed by `parameter`) over the range of its fit, lowered by `less` nats.

    UserError: the law is unknown, or the parameters are not those of its formula.
    """
    law, low, high = fit.iloc[0][["law", "L_min", "L_max"]]
    values = fit["value"].to_dict()
    try:
        form = LAWS[law.removesuffix("_wls").removesuffix("_ols")]
        values |= {"beta": -values["alpha"]} if "alpha" in values else {}
        theta = [math.log(values[name]) if name in form.positive else values[name] for name in form.parameters]
    except (KeyError, ValueError) as error:
        raise UserError(f"fit.csv: {law} with {', '.join(fit.index)} cannot be drawn") from error
    L = np.geomspace(low, high, 100)
    mi = form.mi(np.array(theta), np.log(L)) - less
    (line,) = ax.plot(L[mi > 0], mi[mi > 0], color=color, linewidth=0.9, zorder=2, gid="fit")
    return line


def plain(value: float, _: object = None) -> str:
    """Format a number of an axis: 0.002, 512, 10k, 1M."""
    return EngFormatter(sep="")(value) if value >= 10_000 and value % 1000 == 0 else f"{value:.10g}"


def log_axis(axis: Axis, values: object, where: str, base: int = 10) -> None:
    """Make an axis logarithmic, with limits around the values above 0 and plain numbers at powers of the base.

    base: 10 or 2. On a short axis, 2 and 5 times the powers of ten, or 1.5 times those of two, have numbers too.
    UserError: no value above 0; `where` names the values.
    """
    values = np.asarray(values, dtype=float)
    if not (values > 0).any():
        raise UserError(f"{where} has no value above 0, so a logarithmic axis cannot show it")
    low, high = values[values > 0].min(), values.max()
    span, name = max(high / low, 2), axis.axis_name
    bottom = low / span ** (0.1 if name == "y" else 0.04)  # leaves room for the markers of draw_points
    axis.axes.set(**{f"{name}scale": "log", f"{name}lim": (bottom, high * span**0.04)})
    few = span < (1000 if name == "y" else 30)  # labels side by side need more room
    between = {10: (2, 5) if few else (), 2: (1.5,) if span < 4 else ()}
    axis.set_major_locator(LogLocator(base, (1, *between[base])))
    axis.set_minor_locator(LogLocator(base, numticks=99))
    axis.set_major_formatter(plain)
    axis.set_minor_formatter(NullFormatter())


def save(fig: Figure, out: Path) -> None:
    """Write OUT.png (200 dpi) and OUT.pdf, each atomically; the same CSVs give the same bytes."""
    out = out.with_suffix("") if out.suffix in (".png", ".pdf") else out
    # Neither file records when it was drawn.
    for kind, options in (("png", {"dpi": 200}), ("pdf", {"metadata": {"CreationDate": None}})):
        path = out.with_name(f"{out.name}.{kind}")
        path.parent.mkdir(parents=True, exist_ok=True)
        outside = [*fig.findobj(Legend), *(text for ax in fig.axes for text in ax.texts)]
        with atomic_file(path, "wb") as file:
            fig.savefig(file, format=kind, bbox_inches="tight", bbox_extra_artists=outside, **options)
    print(f"wrote {out}.png and {out}.pdf")
