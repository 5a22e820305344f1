"""Fig. C.6: two Gaussian families with the same information of two positions and wholly different ones of two halves.

    python plots/families.py --results results/figC6/subvolume results/figC6/logarithmic --out results/figC6/figC6

Reads gaussian_mi.csv, two_point.csv, fit.csv and, where it is there, rank.csv (exact_mi.py) from each folder. Writes
OUT.png and OUT.pdf, three panels against L, a series a family:
    I(L/2; L), with the line that fit.csv has selected: a power or a logarithm
    I of the first and the last position
    not in the paper: the rank of Cov(X, Y) at L/2, the size of the smallest linear history state

Hardware: one CPU core, two seconds. Expect a straight line of slope 0.79 beside a nearly flat curve, then one curve.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from style import GREY, SeriesStyle, mark_below, new_figure, plain_ticks, put_legend, read_table, save

from common.cli import UserError, run

NUMBERS = {
    "gaussian_mi": ["family", "copies", "L", "ell", "mi_nats"],
    "two_point": ["family", "copies", "L", "i", "j", "mi_nats"],
    "rank": ["family", "copies", "L", "ell", "rank"],
}
FIT = ["source", "law", "parameter", "value", "L_min", "L_max", "selected"]
STYLES = (
    SeriesStyle("", "#0072B2", "o", 3.6),
    SeriesStyle("", "#D55E00", "D", 4.2, filled=False),
    SeriesStyle("", "#009E73", "^", 3.6),
    SeriesStyle("", "#CC79A7", "s", 4.0, filled=False),
)
NAMES = {"subvolume": "sub-volume"}


@dataclass(frozen=True)
class Settings:
    results: tuple[Path, ...]
    """folders with the CSVs, a family each"""
    out: Path
    """where to write, without the suffix"""


@dataclass(frozen=True)
class Exact:
    """The CSVs of one folder, ascending in L: bipartite and rank at L/2, two_point of the first and last position."""

    family: str
    copies: int
    bipartite: pd.DataFrame
    two_point: pd.DataFrame
    rank: pd.DataFrame | None
    fits: pd.DataFrame

    @property
    def line(self) -> pd.Series | None:
        """The parameters of the selected law, its name as `law`; None without fits."""
        fit = self.fits[self.fits["selected"] == "True"].set_index("parameter")
        return None if fit.empty else pd.concat([fit["value"], fit.iloc[0][["law", "L_min", "L_max"]]])


def remedy(folder: Path) -> str:
    return f"make it with python gaussian_synthetic/exact_mi.py --family subvolume --out {folder}"


def read_exact(folder: Path) -> Exact:
    """UserError: a file or column is missing, a number is none, or the files are of several families."""
    why = remedy(folder)
    tables = {}
    for name, columns in NUMBERS.items():
        if name != "rank" or (folder / "rank.csv").exists():
            table = read_table(folder / f"{name}.csv", columns, why, ["family"]).sort_values("L")
            if name == "two_point":
                table = table[(table["i"] == 1) & (table["j"] == table["L"])]
            else:
                table = table[table["ell"] == table["L"] // 2]
            if table.empty or table["L"].duplicated().any():
                raise UserError(f"{folder / f'{name}.csv'} has not one value at L/2 for each L: {why}")
            tables[name] = table
    found = pd.concat([table[["family", "copies"]] for table in tables.values()]).drop_duplicates()
    if len(found) > 1:
        raise UserError(f"{folder}: its CSVs are of several families or copies: keep one in a folder")
    fits = pd.DataFrame(columns=FIT)
    if (folder / "fit.csv").exists():
        fits = read_table(folder / "fit.csv", FIT, why, ["source", "law", "parameter", "selected"])
    family, copies = found.iloc[0]
    return Exact(family, int(copies), tables["gaussian_mi"], tables["two_point"], tables.get("rank"), fits)


def draw(results: list[Exact]) -> Figure:
    """The panels. UserError: more families than there are looks, or of different numbers of copies."""
    if not 1 <= len(results) <= len(STYLES):
        raise UserError(f"{len(results)} folders: give 1 to {len(STYLES)}")
    if len({one.copies for one in results}) > 1:
        raise UserError("the folders are of different numbers of copies: make them with the same --copies")
    copies = results[0].copies
    caption = ["Exact; one sequence." if copies == 1 else f"Exact; {copies} independent sequences side by side."]
    y_labels = ["I(L/2; L) (nats)", "I of first and last\nposition (nats)"]
    with_rank = [one for one in results if one.rank is not None]
    if with_rank:
        y_labels.append("Rank of Cov(X, Y) at L/2")
    if any((values <= 0).any() for one in results for values in (one.bipartite["mi_nats"], one.two_point["mi_nats"])):
        caption[0] += " ▾: no information."
    fig, axes = new_figure(
        len(y_labels), y_labels, -(-len(results) // 2), caption, one_legend=True, columns=len(y_labels)
    )
    handles, labels = [], []
    for index, (look, one) in enumerate(zip(STYLES, results, strict=False)):
        handle = _points(axes[0], one.bipartite, look, index)
        _points(axes[1], one.two_point, look, index)
        if one.rank is not None:
            _points(axes[2], one.rank, look, index)
        label, line = NAMES.get(one.family, one.family), one.line
        if line is not None:
            L = np.geomspace(line["L_min"], line["L_max"], 100)
            power = line["law"] == "power_ols"
            mi = line["A"] * L ** line["beta"] if power else line["A"] + line["B"] * np.log(L)
            (drawn,) = axes[0].plot(L, mi, color=look.color, linewidth=0.9, zorder=1)
            handle = (drawn, handle)
            label += f": {line['A']:.3f}·L^{line['beta']:.3f}" if power else ""
            label += "" if power else f": {line['A']:.3f} + {line['B']:.4f}·ln L"
        handles.append(handle)
        labels.append(label)
    for ax, column in zip(axes, ("bipartite", "two_point", "rank"), strict=False):
        _axes(ax, pd.concat([getattr(one, column) for one in results if getattr(one, column) is not None]))
    put_legend(axes[0], handles, labels, columns=2)
    return fig


def _points(ax: Axes, points: pd.DataFrame, look: SeriesStyle, index: int) -> ErrorbarContainer:
    """The last column against L; what is 0, as of two positions that are independent, at the bottom edge."""
    shown = points[points[points.columns[-1]] > 0]
    mark_below(ax, points.loc[points.index.difference(shown.index), "L"], index, look.color)
    return ax.errorbar(shown["L"], shown[shown.columns[-1]], **look.marks())


def _axes(ax: Axes, points: pd.DataFrame) -> None:
    values = points[points.columns[-1]]
    ax.set_xscale("log", base=2)
    ax.set_xlim(points["L"].min() / 2, points["L"].max() * 2)
    plain_ticks(ax.xaxis, *ax.get_xlim(), base=4, room=4)
    values = values[values > 0]
    if values.empty:
        ax.set_yticks([])
        ax.text(0.5, 0.5, "all 0", color=GREY, ha="center", transform=ax.transAxes)
        return
    low, high = values.min() / 2, values.max() * 2
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    plain_ticks(ax.yaxis, low, high, base=10, room=8, label=_exponent if low < 1e-4 else "{:.10g}".format)


def _exponent(value: float) -> str:
    """1e-5, 2.5e-5."""
    return np.format_float_scientific(value, precision=4, trim="-", exp_digits=1).replace("+", "")


def main(cfg: Settings) -> None:
    if not cfg.results:
        raise UserError("--results names no folder: give one or more of exact_mi.py")
    save(draw([read_exact(folder) for folder in cfg.results]), cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
