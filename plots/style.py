"""What every figure shares: reading and checking CSVs, colours, axes, legends, and saving as PNG and PDF.

Nothing is fitted or selected here: what a picture needs stands in the CSVs.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter
from matplotlib.transforms import blended_transform_factory

from common.cli import UserError
from common.powerlaw import LAWS
from common.record import atomic_file, numbers, read_csv

COLUMN_IN, PAGE_IN = 3.4, 7.0  # widths of a figure in one column and across the page
LEFT_IN, RIGHT_IN, TOP_IN = 0.74, 0.14, 0.08  # margins; the left one holds the y label and its ticks'
BETWEEN_IN = 0.12  # between panels side by side
X_LABEL_IN = 0.42  # under a panel: tick labels and the x label
LEGEND_LINE_IN, CAPTION_LINE_IN, TITLE_LINE_IN = 0.122, 0.108, 0.14
SMALL, NORMAL = 7, 8  # points
CHARACTERS_PER_IN = 18.5  # of the small font, on average
TWO_LINES_IN = 2.4  # under a panel less wide, an entry of the legend has two lines
GREY = "0.4"

RC = {
    "font.size": SMALL,
    "axes.labelsize": NORMAL,
    "axes.titlesize": NORMAL,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.0,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "text.parse_math": False,  # a "$" in the name of a corpus is a "$"
    "pdf.fonttype": 42,  # text stays text in the PDF
}

L_AXIS = "Sequence length L (tokens)"
# Columns of lengths: they stand on logarithmic axes.
LENGTHS = ("L", "L_tokens", "ell_tokens", "d_tokens", "L_min", "L_max", "position", "step")


@dataclass(frozen=True)
class SeriesStyle:
    """How an estimator is drawn. Colours of Okabe and Ito; shape and filling tell them apart without colour."""

    label: str
    color: str
    marker: str
    size: float
    filled: bool = True

    def marks(self, scale: float = 1.0) -> dict[str, object]:
        """For ax.errorbar: points without a line between them, their bars. scale: of the marker."""
        return {
            "fmt": self.marker,
            "color": self.color,
            "markersize": scale * self.size,
            "markerfacecolor": self.color if self.filled else "none",
            "markeredgewidth": 0.4 if self.filled else 0.9,
            "elinewidth": 0.8,
        }


COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # of Okabe and Ito
ACCEPTED = 0.05  # not in the paper: the least p-value of a fitted law that is drawn

FIT = ["source", "model", "estimator", "law", "parameter", "value", "lo95", "hi95", "boot_lo95", "boot_hi95"]
FIT += ["L_min", "L_max", "p_value", "selected"]
TEXT = ["source", "model", "tokenizer", "estimator", "law", "parameter", "selected", "plateau_law"]
MAY_LACK = ["lo95", "hi95", "boot_lo95", "boot_hi95", "p_value"]  # NaN where a fit claims nothing


def read_table(
    path: Path, columns: Sequence[str], remedy: str, text: Sequence[str], may_lack: Sequence[str] = ()
) -> pd.DataFrame:
    """These columns of a CSV, all but those of `text` as finite numbers, or any numbers and NaN in those of `may_lack`.

    Text is `drawable`. remedy: what to do about a bad file. UserError: no such file, no table, columns missing, a
    number is none, a length is not above 0.
    """
    table = read_csv(path, columns, remedy)
    found = {column: numbers(table[column], path, remedy) for column in columns if column not in text}
    for column, values in found.items():
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad) and column not in may_lack:
            value = table[column].iloc[bad[0]]
            raise UserError(f"{path}, line {bad[0] + 2}: {column} is {value!r}, not a finite number: {remedy}")
        bad = np.flatnonzero(values <= 0)
        if len(bad) and column in LENGTHS:
            raise UserError(f"{path}, line {bad[0] + 2}: {column} is {values.iloc[bad[0]]:g}, not above 0: {remedy}")
    return table.assign(**found, **{column: table[column].map(drawable) for column in columns if column in text})


@cache
def drawable(name: str) -> str:
    """The name of a corpus or model, with \\uXXXX in place of what the font of the figures cannot draw."""
    known = get_font(findfont("DejaVu Sans")).get_charmap()
    return "".join(sign if ord(sign) in known else sign.encode("unicode_escape").decode() for sign in name)


def above_zero(values: pd.Series, path: Path, column: str, remedy: str) -> pd.Series:
    """Those that a logarithmic axis can show. UserError: there is none."""
    if not (values > 0).any():
        raise UserError(f"{path}: no {column} above 0, which a logarithmic axis could show: {remedy}")
    return values[values > 0]


def one_run(folder: Path, tables: Sequence[pd.DataFrame], names: tuple[str, str]) -> tuple[str, str]:
    """Corpus and model (or tokenizer) of the CSVs of a folder. UserError: there are several."""
    runs = pd.concat(tables)[list(names)].drop_duplicates()
    if len(runs) > 1:
        found = " and ".join(", ".join(run) for run in runs.itertuples(index=False))
        raise UserError(f"{folder}: its CSVs are of {found}: keep one corpus and {names[1]} in a folder")
    return tuple(runs.iloc[0])


def with_interval(symbol: str, fit: pd.DataFrame, parameter: str) -> str:
    """Such as "β = 0.71 [0.68, 0.74]": a 95% interval of resampled books where there is one; a third digit where two
    would hide it. fit: rows of fit.csv, their parameters as index.
    """
    value, lo95, hi95, low, high = fit.loc[parameter, ["value", "lo95", "hi95", "boot_lo95", "boot_hi95"]]
    low, high = (low, high) if math.isfinite(low) and math.isfinite(high) else (lo95, hi95)
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{symbol} = {value:.2f} [no interval]"
    digits = 2 if high - low >= 0.02 else 3
    return f"{symbol} = {value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def draw_law(ax: Axes, fit: pd.DataFrame, color: str, less: float = 0.0) -> Line2D:
    """The law of some rows of fit.csv, `parameter` their index, over its range; `less` nats below."""
    law, low, high = fit.iloc[0][["law", "L_min", "L_max"]]
    form, values = LAWS[law.removesuffix("_wls")], fit["value"]
    if "alpha" in values:
        values = pd.concat([values, pd.Series({"beta": -values["alpha"]})])
    theta = [math.log(values[name]) if name in form.positive else values[name] for name in form.parameters]
    L = np.geomspace(low, high, 100)
    mi = form.mi(np.array(theta), np.log(L)) - less
    (line,) = ax.plot(L[mi > 0], mi[mi > 0], color=color, linewidth=0.9, zorder=2, gid="fit")
    return line


def draw_points(ax: Axes, x: pd.Series, y: pd.Series, error: pd.Series, look: SeriesStyle, index: int = 0) -> Artist:
    """Points ± 1 standard error, the series `index` of the panel."""
    return ax.errorbar(x, y, yerr=error, **look.marks(), capsize=1.5, capthick=0.6, zorder=3 + index)


def draw_slopes(
    ax: Axes, windows: pd.DataFrame, column: str, look: SeriesStyle, shift: float, x: pd.Series | None = None
) -> Artist:
    """A column of sweep.csv with its 95% interval, `shift` lengths to the right so that bars do not overlap.

    x: where; between L_min and L_max if not given.
    """
    x = np.sqrt(windows["L_min"] * windows["L_max"]) if x is None else x
    bars = [windows[column] - windows["lo95"], windows["hi95"] - windows[column]]
    return ax.errorbar(x * 2 ** (0.18 * shift), windows[column], yerr=bars, **look.marks(0.8), zorder=4)


def slope_axes(axes: Sequence[Axes], values: Sequence[float]) -> None:
    """One y axis around these numbers, NaN apart."""
    values = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(values), max(values)
    margin = max(0.06 * (high - low), 0.05)
    for ax in axes:
        ax.set_ylim(low - margin, high + margin)
        ax.yaxis.set_major_locator(MaxNLocator(4 if ax.get_position().height * ax.figure.get_figheight() < 1 else 6))


def mark_below(ax: Axes, L: pd.Series, index: int, color: str) -> None:
    """Small downward markers at the bottom edge, in the row `index`, for points that a logarithm cannot show."""
    ax.plot(
        L,
        np.full(len(L), 0.02 + 0.03 * index),
        linestyle="",
        marker="v",
        markersize=3,
        color=color,
        transform=blended_transform_factory(ax.transData, ax.transAxes),
        gid="below",
    )


def wrap(text: str, width_in: float) -> list[str]:
    """Lines of the small font that fit into a width in inches."""
    return textwrap.wrap(text, int(width_in * CHARACTERS_PER_IN))


def new_figure(
    panels: int,
    y_label: str | Sequence[str],
    entries: int,
    caption: Sequence[str],
    titles: Sequence[str] = (),
    lower: tuple[str, float] | None = None,
    x_labels: Sequence[str] = (),
    one_legend: bool = False,
    columns: int | None = None,
) -> tuple[Figure, list[Axes]]:
    """Panels of one size, each with room for a legend under it, and a short grey caption under everything.

    y_label: of all panels, which then share their y ticks, or one a panel. entries: lines of the legend. caption: its
    lines, two at most. titles: one a panel, or none. lower: y label and height in inches of a further panel under each,
    with the same x axis; these follow the others in the axes returned. x_labels: one a panel; L where none are given.
    one_legend: room for one legend under all panels instead of one under each. columns: panels side by side; up to
    three if not given.
    """
    matplotlib.rcParams.update(RC)
    columns = min(panels, columns or (2 if panels in (2, 4) else 3))
    rows = math.ceil(panels / columns)
    width = COLUMN_IN if columns == 1 else PAGE_IN
    shared = isinstance(y_label, str)
    between_in = BETWEEN_IN if shared else LEFT_IN
    panel_width = (width - LEFT_IN - RIGHT_IN - (columns - 1) * between_in) / columns
    panel_in = 2.3 if columns < 3 and rows == 1 else 2.0
    legend_in = entries * LEGEND_LINE_IN * (2 if panel_width < TWO_LINES_IN and not one_legend else 1)
    room = panel_width * SMALL / NORMAL
    titles = [[line for part in title.split("\n") for line in wrap(part, room)] for title in titles]
    above_in = TOP_IN + max([len(title) for title in titles], default=0) * TITLE_LINE_IN
    lines = [line for paragraph in caption for line in wrap(paragraph, width - 0.1)]
    lower_label, lower_in = lower or ("", 0.0)
    row_in = above_in + panel_in + lower_in + X_LABEL_IN + (0 if one_legend else legend_in + 0.14)
    foot_in = len(lines) * CAPTION_LINE_IN + 0.05 + (legend_in + 0.14 if one_legend else 0)
    height = rows * row_in + foot_in
    fig = Figure(figsize=(width, height))

    def add(index: int, label: str | Sequence[str], below_in: float, high: float, sharex: Axes | None = None) -> Axes:
        row, column = divmod(index, columns)
        left = LEFT_IN + column * (panel_width + between_in)
        bottom = height - row * row_in - above_in - panel_in - below_in
        ax = fig.add_axes((left / width, bottom / height, panel_width / width, high / height), sharex=sharex)
        ax.set_xlabel(x_labels[index] if x_labels else L_AXIS)
        ax.yaxis.set_label_coords((0.31 - LEFT_IN) / panel_width, 0.5)
        if column == 0 or not isinstance(label, str):
            ax.set_ylabel(label if isinstance(label, str) else label[index])
        else:
            ax.tick_params(labelleft=False)
        return ax

    axes = [add(index, y_label, 0, panel_in) for index in range(panels)]
    for ax, title in zip(axes, titles, strict=False):
        ax.set_title("\n".join(title))
    if lower:
        for index, ax in enumerate(axes[:panels]):
            axes.append(add(index, lower_label, lower_in, lower_in - 0.1, sharex=ax))
            ax.tick_params(labelbottom=False)
            ax.set_xlabel("")
    fig.text(0.05 / width, 0.05 / height, "\n".join(lines), fontsize=SMALL, color=GREY, va="bottom", linespacing=1.0)
    return fig, axes


def put_legend(ax: Axes, handles: list, labels: list[str], columns: int = 1) -> None:
    """The legend under the x label, where no point can be; of a figure one column wide from its left edge.

    columns: of one legend for several panels; `ax` is then the panel at the lower left.
    """
    fig = ax.figure
    width, height = fig.get_size_inches()
    box = ax.get_position()
    left = 0.05 if width == COLUMN_IN or columns > 1 else box.x0 * width
    if box.width * width < TWO_LINES_IN and columns == 1:
        labels = [label.replace(": ", "\n") for label in labels]
    ax.legend(
        handles,
        labels,
        loc="upper left",
        ncols=columns,
        bbox_to_anchor=(left / width, box.y0 - X_LABEL_IN / height),
        bbox_transform=fig.transFigure,
        borderaxespad=0,
        borderpad=0,
        frameon=False,
        fontsize=SMALL,
        handlelength=2.2,
        handletextpad=0.6,
        labelspacing=0.25,
    )


def length_axis(ax: Axes, L: pd.Series) -> None:
    """A logarithmic x axis around all L, with plain numbers at as many powers of two as there is room for."""
    ax.set_xscale("log", base=2)
    ax.set_xlim(L.min() / 2**0.4, L.max() * 2**0.4)
    plain_ticks(ax.xaxis, *ax.get_xlim(), base=2, room=ax.get_position().width * ax.figure.get_figwidth() / 0.27)


def plain_ticks(
    axis: Axis, low: float, high: float, base: int, room: float, label: Callable[[float], str] = "{:.10g}".format
) -> None:
    """Ticks at powers of the base, labelled with plain numbers: all, or every so many that there is room for.

    Where fewer than two powers lie between low and high: at 1, 2 and 5 times powers of ten, or else in even steps.
    """
    exponents = range(math.ceil(math.log(low, base) - 1e-9), math.floor(math.log(high, base) + 1e-9) + 1)
    step = max(1, math.ceil(len(exponents) / room))
    axis.set_major_locator(FixedLocator([float(base) ** k for k in exponents if k % step == 0]))
    axis.set_minor_locator(FixedLocator([float(base) ** k for k in exponents]))
    if len(exponents) < 2:
        tens = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [tick for k in tens for tick in (10.0**k, 2 * 10.0**k, 5 * 10.0**k) if low <= tick <= high]
        axis.set_major_locator(FixedLocator(ticks) if len(ticks) > 1 else MaxNLocator(4, steps=[1, 2, 5, 10]))
    # Even steps are asked for labels outside the axis too, at 0 and below.
    axis.set_major_formatter(FuncFormatter(lambda value, _: label(value) if value > 0 else ""))
    axis.set_minor_formatter(NullFormatter())


def save(fig: Figure, out: Path) -> None:
    """Write OUT.png (200 dpi) and OUT.pdf, each in one step; the same CSVs give the same bytes."""
    out = out.with_suffix("") if out.suffix in (".png", ".pdf") else out
    # Neither file tells when it was drawn.
    for kind, options in (("png", {"dpi": 200}), ("pdf", {"metadata": {"CreationDate": None}})):
        path = out.with_name(f"{out.name}.{kind}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, "wb") as file:
            fig.savefig(file, format=kind, **options)
    print(f"wrote {out}.png and {out}.pdf")
