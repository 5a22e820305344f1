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

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from style import GREY, LOOKS, draw_points, log_axis, new_figure, one_run, put_legend, read_table, save

from common.cli import UserError, run

# Of each CSV: what holds its values, and the rows that are drawn.
TABLES = {
    "gaussian_mi": (["family", "copies", "L", "ell", "mi_nats"], "ell == L // 2"),
    "two_point": (["family", "copies", "L", "i", "j", "mi_nats"], "i == 1 and j == L"),
    "rank": (["family", "copies", "L", "ell", "rank"], "ell == L // 2"),
}
Y_LABELS = ["I(L/2; L) (nats)", "I of first and last\nposition (nats)", "Rank of Cov(X, Y) at L/2"]
FIT = ["law", "parameter", "value", "L_min", "L_max", "selected"]
NAMES = {"subvolume": "sub-volume"}


@dataclass(frozen=True)
class Settings:
    results: tuple[Path, ...]
    """folders with the CSVs, a family each"""
    out: Path
    """where to write, without the suffix"""


@dataclass(frozen=True)
class Exact:
    """The CSVs of one folder. tables: of those that are there, the drawn rows, ascending in L."""

    family: str
    copies: float
    tables: dict[str, pd.DataFrame]
    fits: pd.DataFrame

    @property
    def line(self) -> pd.Series | None:
        """The parameters of the selected law, its name as `law`; None without fits."""
        fit = self.fits[self.fits["selected"] == "True"].set_index("parameter")
        return None if fit.empty else pd.concat([fit["value"], fit.iloc[0][["law", "L_min", "L_max"]]])


def read_exact(folder: Path) -> Exact:
    """UserError: a bad CSV, or the files are of several families."""
    why = f"make it with python gaussian_synthetic/exact_mi.py --family subvolume --out {folder}"
    tables = {}
    for name, (columns, drawn) in TABLES.items():
        path = folder / f"{name}.csv"
        if name != "rank" or path.exists():
            tables[name] = read_table(path, columns, why).query(drawn).sort_values("L")
            if tables[name].empty or tables[name]["L"].duplicated().any():
                raise UserError(f"{path} has not one value at L/2 for each L: {why}")
    run_of = one_run(folder, list(tables.values()), ("family", "copies"))
    there = (folder / "fit.csv").exists()
    return Exact(*run_of, tables, read_table(folder / "fit.csv", FIT, why) if there else pd.DataFrame(columns=FIT))


def draw(results: list[Exact]) -> Figure:
    """The panels. UserError: more families than there are looks, or of different numbers of copies."""
    if not 1 <= len(results) <= len(LOOKS):
        raise UserError(f"--results names {len(results)} folders: give 1 to {len(LOOKS)}")
    if len({one.copies for one in results}) > 1:
        raise UserError("the folders are of different numbers of copies: make them with the same --copies")
    names = [name for name in TABLES if any(name in one.tables for one in results)]
    fig, axes, _ = new_figure(len(names), Y_LABELS[: len(names)], entries=len(results))
    legend = {}
    for ax, name in zip(axes, names, strict=True):
        column, found = TABLES[name][0][-1], [one.tables.get(name) for one in results]
        for index, (table, look) in enumerate(zip(found, LOOKS, strict=False)):
            if table is not None:
                drawn = draw_points(ax, table["L"], table[column], None, look, index)
            if name == "gaussian_mi":
                line, label = results[index].line, NAMES.get(results[index].family, results[index].family)
                if line is not None:
                    L = np.geomspace(line["L_min"], line["L_max"], 100)
                    power = line["law"] == "power_ols"
                    mi = line["A"] * L ** line["beta"] if power else line["A"] + line["B"] * np.log(L)
                    (law,) = ax.plot(L, mi, color=look.color, linewidth=0.9, zorder=1)
                    drawn = (law, drawn)
                    label += f": {line['A']:.3f}·L^{line['beta']:.3f}" if power else ""
                    label += "" if power else f": {line['A']:.3f} + {line['B']:.4f}·ln L"
                legend[label] = drawn
        every = pd.concat([table for table in found if table is not None])
        log_axis(ax.xaxis, every["L"], "L", base=4, label=lambda L: f"$4^{{{math.log(L, 4):.3g}}}$")
        if (every[column] > 0).any():
            log_axis(ax.yaxis, every[column], column)
        else:
            ax.set_yticks([])
            ax.text(0.5, 0.5, "all 0", color=GREY, ha="center", transform=ax.transAxes)
    put_legend(fig, legend, columns=2)
    return fig


def main(cfg: Settings) -> None:
    save(draw([read_exact(folder) for folder in cfg.results]), cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
