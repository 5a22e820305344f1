"""What every figure shares: reading CSVs, looks, panels, logarithmic axes, legends, and saving as PNG and PDF.

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
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation

from common.cli import UserError
from common.powerlaw import LAWS
from common.record import atomic_file, numbers, read_csv

COLUMN_IN, PAGE_IN = 3.4, 7.0  # widths of a figure in one column and across the page
PANEL_IN, LOWER_IN, LABELS_IN = 2.0, 0.9, 0.5  # heights: a panel, the low one under it, the labels under both
SMALL, NORMAL = 7, 8  # points
GREY = "0.4"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # of Okabe and Ito
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
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "legend.borderpad": 0,
    "legend.borderaxespad": 0,
    "legend.labelspacing": 0.25,
    "pdf.fonttype": 42,  # text stays text in the PDF
}
L_AXIS = "Sequence length L (tokens)"
PAPER = {"color": GREY, "linewidth": 0.8, "zorder": 1, "gid": "paper"}  # lines of the paper's laws
ACCEPTED = 0.05  # not in the paper: the least p-value of a fitted law that is drawn

FIT = ["source", "model", "estimator", "law", "parameter", "value", "lo95", "hi95", "boot_lo95", "boot_hi95"]
FIT += ["L_min", "L_max", "p_value", "selected"]
MAY_LACK = ["lo95", "hi95", "boot_lo95", "boot_hi95", "p_value"]  # NaN where a fit claims nothing
# Columns of any CSV that hold words, and columns of lengths, which stand on logarithmic axes.
TEXT = {"source", "model", "tokenizer", "estimator", "law", "parameter", "selected", "plateau_law", "family", "kind"}
TEXT |= {
    "model_a",
    "model_b",
    "leads_at_the_end",
    "process",
    "predictor",
    "quantity",
    "group",
    "capacity",
    "layer_kind",
}
LENGTHS = {"L", "L_tokens", "ell_tokens", "d_tokens", "context_tokens", "L_min", "L_max", "position", "step"}


@dataclass(frozen=True)
class SeriesStyle:
    """How an estimator is drawn; shape and filling tell the series apart without colour."""

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


LOOKS = (  # of series that have none of their own; one that equals the one before surrounds it
    SeriesStyle("", "#0072B2", "o", 3.6),
    SeriesStyle("", "#D55E00", "D", 4.2, filled=False),
    SeriesStyle("", "#009E73", "^", 3.6),
    SeriesStyle("", "#CC79A7", "s", 4.0, filled=False),
)


def read_table(
    path: Path, columns: Sequence[str], remedy: str, may_lack: Sequence[str] = (), key: Sequence[str] = ()
) -> pd.DataFrame:
    """These columns of a CSV: words (see TEXT) as `drawable`, the others as finite numbers, or NaN in `may_lack`.

    key: what no two rows may share; there must be rows then. remedy: what to do about a bad file. UserError: no such
    file, no table, columns missing, a number is none, a length is not above 0, no rows, rows twice.
    """
    table = read_csv(path, columns, remedy)
    for column in columns:
        if column in TEXT:
            table[column] = table[column].map(drawable)
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


@cache
def drawable(name: str) -> str:
    """The name of a corpus or model, with \\uXXXX in place of what the font cannot draw; a "$" begins no formula."""
    known = get_font(findfont("DejaVu Sans")).get_charmap()
    spelt = "".join(sign if ord(sign) in known else sign.encode("unicode_escape").decode() for sign in name)
    return spelt.replace("$", r"\$")


def one_run(folder: Path, tables: Sequence[pd.DataFrame], names: Sequence[str]) -> list:
    """The values that columns (corpus, model) have in all CSVs of a folder. UserError: there are several."""
    runs = pd.concat(tables)[list(names)].drop_duplicates()
    if len(runs) > 1:
        found = " and ".join(", ".join(map(str, run)) for run in runs.itertuples(index=False))
        raise UserError(f"{folder}: its CSVs are of {found}: keep one {' and '.join(names)} in a folder")
    return runs.iloc[0].tolist()


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


def new_figure(
    panels: int,
    y_label: str | Sequence[str],
    x_label: str | Sequence[str] = L_AXIS,
    titles: Sequence[str] = (),
    entries: int = 0,
    lower: str = "",
    columns: int = 3,
    **grid: object,
) -> tuple[Figure, list[Axes], list[Axes]]:
    """Panels of one size, up to `columns` side by side, and low ones under them; the layout is matplotlib's.

    y_label: of all panels, which then have one y axis, or one a panel. x_label: likewise. entries: lines of the legend
    under a panel, for which there must be room. lower: y label of a low panel under each, with the same x axis; none if
    empty. grid: for the GridSpec, e.g. width_ratios.
    """
    matplotlib.rcParams.update(RC)
    columns = min(panels, columns)
    rows = math.ceil(panels / columns)
    shared = isinstance(y_label, str)
    width, heights = PAGE_IN if columns > 1 else COLUMN_IN, [PANEL_IN, *[LOWER_IN] * bool(lower)] * rows
    wrapped = [[textwrap.fill(line, int(14 * width / columns)) for line in title.split("\n")] for title in titles]
    titles = ["\n".join(lines) for lines in wrapped]
    lines = max([title.count("\n") + 1 for title in titles], default=0) + entries
    fig = Figure((width, sum(heights) + rows * (LABELS_IN + lines * 0.13)), layout="constrained")
    places = fig.add_gridspec(len(heights), columns, height_ratios=heights, **grid)
    upper, below = [], []
    for index in range(panels):
        row, column = index // columns * (1 + bool(lower)), index % columns
        upper.append(fig.add_subplot(places[row, column], sharey=upper[-1] if shared and upper else None))
        pair = [upper[-1]]
        if lower:
            last = below[-1] if below else None
            below.append(fig.add_subplot(places[row + 1, column], sharex=upper[-1], sharey=last))
            below[-1].locator_params(axis="y", nbins=4)
            upper[-1].tick_params(labelbottom=False)
            pair.append(below[-1])
        for ax, label in zip(pair, (y_label if shared else y_label[index], lower), strict=False):
            ax.set_ylabel("" if shared and column else label)
            ax.tick_params(labelleft=not (shared and column))
        pair[-1].set_xlabel(x_label if isinstance(x_label, str) else x_label[index])
        upper[-1].set_title(titles[index] if titles else "")
    return fig, upper, below


def put_legend(where: Axes | Figure, handles: dict[str, Artist], columns: int = 1) -> None:
    """Under the x label of a panel, or under all panels. handles: by label, which narrow panels break at ": "."""
    if isinstance(where, Figure):
        where.legend(handles.values(), handles, loc="outside lower left", ncols=columns, borderaxespad=0.5)
        return
    panels = where.figure.axes[-1].get_subplotspec().get_gridspec().ncols
    if panels == 1:
        return put_legend(where.figure, handles)
    labels = [label.replace(": ", "\n") if panels > 2 else label for label in handles]
    below = where.transAxes + ScaledTranslation(0, -0.42, where.figure.dpi_scale_trans)
    where.legend(handles.values(), labels, loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=below)


def draw_points(
    ax: Axes, x: pd.Series, y: pd.Series, bars: object, look: SeriesStyle, index: int = 0, floor: float = 0.0
) -> Artist:
    """Points of the series `index` of a panel, with bars as for ax.errorbar: None, half lengths, or both lengths.

    At or below `floor` a logarithmic axis shows none: small downward markers stand at the bottom edge instead.
    """
    shown = (y > floor).to_numpy()
    edge = np.full((~shown).sum(), 0.02 + 0.03 * index)
    ax.plot(x[~shown], edge, "v", markersize=3, color=look.color, transform=ax.get_xaxis_transform(), gid="below")
    bars = None if bars is None else np.asarray(bars)[..., shown]
    return ax.errorbar(x[shown], y[shown], bars, **look.marks(), zorder=3 + index)


def draw_slopes(ax: Axes, windows: pd.DataFrame, column: str, look: SeriesStyle, shift: float, at: str = "") -> Artist:
    """A column of sweep.csv with its 95% interval, `shift` lengths to the right so that bars do not overlap.

    at: the column of x; between L_min and L_max if not given.
    """
    x = windows[at] if at else np.sqrt(windows["L_min"] * windows["L_max"])
    bars = [windows[column] - windows["lo95"], windows["hi95"] - windows[column]]
    return ax.errorbar(x * 2 ** (0.18 * shift), windows[column], bars, **look.marks(0.8), zorder=4)


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


def log_axis(
    axis: Axis, values: object, where: str, base: int = 10, label: Callable[[float], str] = "{:.10g}".format
) -> None:
    """A logarithmic axis around those values that are above 0, with plain numbers at powers of the base.

    Where few powers of ten are within: at 1, 2 and 5 times these too, or else in even steps. UserError: no value above
    0; `where` says of what.
    """
    values = np.asarray(values, dtype=float)
    if not (values > 0).any():
        raise UserError(f"{where} is nowhere above 0, which a logarithmic axis could show")
    low, high = values[values > 0].min(), values.max()
    span, name = max(high / low, 2), axis.axis_name
    bottom = low / span ** (0.1 if name == "y" else 0.04)  # there is room for the markers of draw_points
    axis.axes.set(**{f"{name}scale": "log", f"{name}lim": (bottom, high * span**0.04)})
    few = span < (1000 if name == "y" else 30)  # labels side by side need more room
    axis.set_major_locator(LogLocator(base, (1, 2, 5) if base == 10 and few else (1,)))
    axis.set_minor_locator(LogLocator(base, numticks=99))
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
