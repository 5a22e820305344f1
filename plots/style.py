"""What every figure shares: reading and checking the CSVs, colours, axes, labels, and saving as PNG and PDF.

Nothing is computed here: points and error bars are those of bipartite.csv, lines and β with its interval those of
fit.csv.
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
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter
from matplotlib.transforms import blended_transform_factory

from common.cli import UserError
from common.record import atomic_file, numbers, read_csv

COLUMN_IN, PAGE_IN = 3.4, 7.0  # widths of a figure in one column and across the page
LEFT_IN, RIGHT_IN, TOP_IN = 0.74, 0.1, 0.08  # margins; the left one holds the y label and its ticks'
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


STYLES = {
    "direct": SeriesStyle("direct", "#0072B2", "o", 5.0, filled=False),
    "direct_corrected": SeriesStyle("direct, corrected", "#D55E00", "D", 2.6),
    "vclub": SeriesStyle("vCLUB", "#009E73", "^", 3.6),
    "direct_unpaired": SeriesStyle("direct, unpaired", "#CC79A7", "s", 4.0, filled=False),
}
BARS = "Bars: ±1 standard error over documents."
NO_POWER_LAW = 0.001  # not in the paper: p-value of a fit below which the caption warns of its line
INDEPENDENT = "with documents taken as independent"  # the interval where no books were resampled
CORRECTED = "Corrected: the entropy of Y's first two tokens in part from 2-gram counts."

BIPARTITE = ["source", "model", "estimator", "ell_tokens", "L_tokens", "mi_nats", "stderr_nats", "n_documents"]
FIT = ["source", "model", "estimator", "L_over_ell", "law", "parameter", "value", "lo95", "hi95", "boot_lo95"]
FIT += ["boot_hi95", "boot_clusters", "L_min", "L_max", "chi2", "dof", "p_value", "aicc", "scale"]
TEXT = ["source", "model", "estimator", "law", "parameter", "boot_clusters", "scale"]
MAY_LACK = ["lo95", "hi95", "boot_lo95", "boot_hi95", "chi2", "p_value", "aicc"]  # NaN where a fit claims nothing


@dataclass(frozen=True)
class Results:
    """bipartite.csv and fit.csv of one folder."""

    folder: Path
    bipartite: pd.DataFrame
    fits: pd.DataFrame
    source: str
    model: str

    def points(self, estimator: str, ratio: int) -> pd.DataFrame:
        """The rows of an estimator with L = ratio · ell, ascending in L."""
        rows = self.bipartite[self.bipartite["estimator"] == estimator]
        return rows[rows["L_tokens"] / rows["ell_tokens"] == ratio].sort_values("L_tokens")

    def present(self, estimators: Sequence[str], ratio: int) -> list[str]:
        """Those of some estimators that have points. UserError: none has one that a logarithmic axis can show."""
        found = [name for name in estimators if len(self.points(name, ratio))]
        where = f"{self.folder / 'bipartite.csv'}: no points to draw"
        if not found:
            raise UserError(f"{where}: no {' or '.join(estimators)} at L = {ratio} ell: {remedy(self.folder)}")
        if all((self.points(name, ratio)["mi_nats"] <= 0).all() for name in found):
            raise UserError(f"{where}: all at L = {ratio} ell are at or below 0 nats: score more documents")
        return found

    def fit(self, estimator: str, ratio: int) -> pd.DataFrame | None:
        """Rows A and beta of the fit I = A · L^β by generalised least squares; None where there is none."""
        fits = self.fits
        fits = fits[(fits["estimator"] == estimator) & (fits["L_over_ell"] == ratio) & (fits["law"] == "power")]
        if fits.empty:
            return None
        if sorted(fits["parameter"]) != ["A", "beta"]:
            raise UserError(
                f"{self.folder / 'fit.csv'} has not one A and one beta for {estimator}, L = {ratio} ell: "
                "run estimate_bipartite.py again"
            )
        return fits.set_index("parameter")


Panel = tuple[Results, Sequence[str], int]  # what a panel shows: results, estimators, L/ell


def read_results(folder: Path) -> Results:
    """Read and check bipartite.csv and fit.csv of a folder.

    UserError: a file or a column is missing, a number is none, an estimator is unknown, a point is there twice, or the
    files are of several corpora or models.
    """
    bipartite = read_table(folder / "bipartite.csv", BIPARTITE, remedy(folder), TEXT)
    fits = read_table(folder / "fit.csv", FIT, remedy(folder), TEXT, MAY_LACK)
    if bipartite.empty:
        raise UserError(f"{folder / 'bipartite.csv'} has no rows, so no points to draw: {remedy(folder)}")
    known_estimators(folder / "bipartite.csv", bipartite)
    known_estimators(folder / "fit.csv", fits)
    if bipartite.duplicated(["estimator", "ell_tokens", "L_tokens"]).any():
        raise UserError(f"{folder / 'bipartite.csv'} has points twice: keep one run in a folder")
    runs = pd.concat([bipartite, fits])[["source", "model"]].drop_duplicates()
    if len(runs) > 1:
        found = " and ".join(f"{source}, {model}" for source, model in runs.itertuples(index=False))
        raise UserError(f"{folder}: its CSVs are of {found}: keep one corpus and model in a folder")
    source, model = runs.iloc[0]
    return Results(folder, bipartite, fits, source, model)


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


def remedy(folder: Path) -> str:
    return (
        "make it with python measure_mutual_info/estimate_bipartite.py --scores SCORES.csv --counts COUNTS.csv "
        f"--out {folder}"
    )


def known_estimators(path: Path, table: pd.DataFrame) -> None:
    """UserError: the table has an estimator that is not one of STYLES."""
    unknown = [name for name in table["estimator"].unique() if name not in STYLES]
    if unknown:
        raise UserError(f"{path}: unknown estimator {unknown[0]!r}; known: {', '.join(STYLES)}")


def beta_interval(fit: pd.DataFrame) -> tuple[float, float, str]:
    """The 95% interval of β and where it comes from: of resampled books where there is one."""
    low, high, units = fit.loc["beta", ["boot_lo95", "boot_hi95", "boot_clusters"]]
    if math.isfinite(low) and math.isfinite(high):
        return low, high, f"from {units.replace(' ', ' resampled ')}"  # "4 books"
    return *fit.loc["beta", ["lo95", "hi95"]], INDEPENDENT


def beta_label(fit: pd.DataFrame | None) -> str:
    """Such as "β = 0.71 [0.68, 0.74], χ²/dof 9/8"; a third digit where two would hide the 95% interval.

    Where χ² is far above its degrees of freedom the points are no power law, and the interval means little.
    """
    if fit is None:
        return "no fit"
    beta, chi2, dof = fit.loc["beta", ["value", "chi2", "dof"]]
    low, high, _ = beta_interval(fit)
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"β = {beta:.2f} [no interval], χ²/dof {chi2:.0f}/{dof:.0f}"
    digits = 2 if high - low >= 0.02 else 3
    return f"β = {beta:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}], χ²/dof {chi2:.0f}/{dof:.0f}"


def draw_series(ax: Axes, results: Results, estimators: Sequence[str], ratio: int) -> tuple[list, list[str]]:
    """Points ± 1 standard error and fitted lines of some estimators; returns handles and labels for the legend.

    Points at or below 0 have no place on a logarithmic axis: a small downward marker stands at the bottom edge.
    """
    handles, labels = [], []
    for index, estimator in enumerate(estimators):
        look, points, fit = STYLES[estimator], results.points(estimator, ratio), results.fit(estimator, ratio)
        shown = points[points["mi_nats"] > 0]
        bar = ax.errorbar(
            shown["L_tokens"],
            shown["mi_nats"],
            yerr=shown["stderr_nats"],
            **look.marks(),
            capsize=1.5,
            capthick=0.6,
            zorder=3 + index,
        )
        handle = bar
        if fit is not None:
            L = fit.loc["A", ["L_min", "L_max"]].to_numpy(float)
            A, beta = fit["value"]["A"], fit["value"]["beta"]
            (line,) = ax.plot(L, A * L**beta, color=look.color, linewidth=0.9, zorder=2, gid="fit")
            handle = (line, bar)
        mark_below(ax, points.loc[points["mi_nats"] <= 0, "L_tokens"], index, look.color)
        handles.append(handle)
        labels.append(f"{look.label}: {beta_label(fit)}")
    return handles, labels


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


def draw_panels(
    panels: Sequence[Panel], titles: Sequence[str], y_label: str, names: Sequence[str] | None = None
) -> Figure:
    """Panels side by side under their titles, with the same y limits and a legend each.

    names: what the caption calls them; their titles if not given.
    """
    series = max(len(estimators) for _, estimators, _ in panels)
    fig, axes = new_figure(len(panels), y_label, series, notes(panels, names or titles), titles)
    legends = [draw_series(ax, *panel) for ax, panel in zip(axes, panels, strict=True)]
    log_axes(axes, panels)
    for ax, legend in zip(axes, legends, strict=True):
        put_legend(ax, *legend)
    return fig


def notes(panels: Sequence[Panel], names: Sequence[str] = ()) -> list[str]:
    """The caption: corpus, model and documents; points at the bottom edge, by panel; what bars and lines mean.

    names: of the panels, or none where there is one.
    """
    below, linear, intervals, misfit = [], [], {}, False
    for panel, (results, estimators, ratio) in enumerate(panels):
        where = f"{names[panel]}: " if names else ""
        points = {STYLES[name].label: results.points(name, ratio) for name in estimators}
        counts = [
            f"{(rows['mi_nats'] <= 0).sum()} of {len(rows)} ({label})"
            for label, rows in points.items()
            if (rows["mi_nats"] <= 0).any()
        ]
        if counts:
            below.append(f"▾\u00a0{where}points at or below 0 nats: {', '.join(counts)}.")
        fits = {STYLES[name].label: results.fit(name, ratio) for name in estimators}
        fits = {label: fit for label, fit in fits.items() if fit is not None}
        misfit |= any(fit["p_value"]["beta"] < NO_POWER_LAW for fit in fits.values())
        labels = [label for label, fit in fits.items() if fit["scale"]["beta"] == "linear"]
        if labels:
            linear.append(where + ", ".join(labels))
        origins: dict[str, list[str]] = {}
        for label, fit in fits.items():
            origins.setdefault(beta_interval(fit)[2], []).append(label)
        for origin, labels in origins.items():
            of = where + ", ".join(labels) if len(origins) > 1 else where.removesuffix(": ")
            intervals.setdefault(origin, []).append(of)
    how = [BARS]
    if intervals:
        how.append("Lines: A·L^β over the fit's range, β with its 95% interval")
        if len(intervals) == 1:
            how[-1] += f" {next(iter(intervals))}."
        else:
            how[-1] += " " + "; ".join(f"{origin} ({', '.join(of)})" for origin, of in intervals.items()) + "."
    if any("direct_corrected" in estimators for _, estimators, _ in panels):
        how.append(CORRECTED)
    if linear:
        how.append(f"Fitted to I, not to log I, because of points near 0: {'; '.join(linear)}.")
    if misfit:
        how.append("Where χ² is far above dof the points are no power law, and the line may run beside them.")
    sources = dict.fromkeys(source_line(*panel) for panel in panels)
    return ["; ".join(sources) + ".", *below, " ".join(how)]


def source_line(results: Results, estimators: Sequence[str], ratio: int) -> str:
    """Corpus, model and number of documents."""
    n_documents = pd.concat([results.points(name, ratio)["n_documents"] for name in estimators])
    low, high = n_documents.min(), n_documents.max()
    documents = f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"
    return f"{results.source}, {results.model}, {documents} documents"


def wrap(text: str, width_in: float) -> list[str]:
    """Lines of the small font that fit into a width in inches."""
    return textwrap.wrap(text, int(width_in * CHARACTERS_PER_IN))


def new_figure(
    panels: int,
    y_label: str | Sequence[str],
    entries: int,
    caption: Sequence[str],
    titles: Sequence[str] = (),
    lower_in: float = 0.0,
    x_labels: Sequence[str] = (),
    one_legend: bool = False,
    columns: int | None = None,
) -> tuple[Figure, list[Axes]]:
    """Panels of one size, each with room for a legend under it, and a grey caption under everything.

    y_label: of all panels, which then share their y ticks, or one a panel. entries: lines of the legend. caption: its
    paragraphs. titles: one a panel, or none. lower_in: height of a further panel under a single one, with the same x
    axis; it is the last of the axes returned. x_labels: one a panel; L where none are given. one_legend: room for one
    legend under all panels instead of one under each. columns: panels side by side; up to three if not given.
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
    row_in = above_in + panel_in + lower_in + X_LABEL_IN + (0 if one_legend else legend_in + 0.14)
    foot_in = len(lines) * CAPTION_LINE_IN + 0.05 + (legend_in + 0.14 if one_legend else 0)
    height = rows * row_in + foot_in
    fig = Figure(figsize=(width, height))

    axes: list[Axes] = []

    def add(left: float, bottom: float, high: float, sharex: Axes | None = None) -> None:
        box = (left / width, bottom / height, panel_width / width, high / height)
        axes.append(fig.add_axes(box, sharex=sharex))
        axes[-1].set_xlabel(x_labels[len(axes) - 1] if x_labels else L_AXIS)
        axes[-1].yaxis.set_label_coords((0.31 - LEFT_IN) / panel_width, 0.5)

    for index in range(panels):
        row, column = divmod(index, columns)
        left = LEFT_IN + column * (panel_width + between_in)
        bottom = height - row * row_in - above_in - panel_in
        add(left, bottom, panel_in)
        if not shared:
            axes[-1].set_ylabel(y_label[index])
        elif column == 0:
            axes[-1].set_ylabel(y_label)
        else:
            axes[-1].tick_params(labelleft=False)
    for ax, title in zip(axes, titles, strict=False):
        ax.set_title("\n".join(title))
    if lower_in:
        add(LEFT_IN, bottom - lower_in, lower_in - 0.1, sharex=axes[0])
        axes[0].tick_params(labelbottom=False)
        axes[0].set_xlabel("")
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


def log_axes(axes: Sequence[Axes], panels: Sequence[Panel]) -> None:
    """Log-log axes around all that can be shown, with plain numbers at powers of two or ten; one y axis for all.

    panels: the results, estimators and L/ell of each. An error bar that reaches far down runs out of the axis instead
    of stretching it.
    """
    points = pd.concat([results.points(name, ratio) for results, names, ratio in panels for name in names])
    shown = points[points["mi_nats"] > 0]
    low = np.maximum(shown["mi_nats"] - shown["stderr_nats"], shown["mi_nats"] / 2).min()
    high = (shown["mi_nats"] + shown["stderr_nats"]).max()
    for line in (line for ax in axes for line in ax.get_lines() if line.get_gid() in ("fit", "paper")):
        low, high = min(low, *line.get_ydata()), max(high, *line.get_ydata())
    margin = max(high / low, 2) ** 0.04
    below = points.loc[points["mi_nats"] <= 0, "estimator"].nunique()
    low, high = low / margin ** (1 + 2 * below), high * margin  # markers of points at or below 0 stand at the bottom
    for ax in axes:
        length_axis(ax, points["L_tokens"])
        ax.set_yscale("log")
        ax.set_ylim(low, high)
        plain_ticks(ax.yaxis, low, high, base=10 if high / low > 1000 else 2, room=12)


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
