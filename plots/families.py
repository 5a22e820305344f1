"""Fig. C.6: two Gaussian families with the same two-point information and very different bipartite information.

    python plots/families.py --results results/figC6/subvolume results/figC6/logarithmic --out results/figC6/figC6

Reads gaussian_mi.csv, two_point.csv, fit.csv and, if it exists, rank.csv (exact_mi.py) from each folder. Writes
OUT.png and OUT.pdf, three panels against L with one series per family:
    I(L/2; L), with the law that is `selected` in fit.csv: a power or a logarithm
    I between the first and the last position
    not in the paper: the rank of Cov(X, Y) at L/2, the size of the smallest linear history state

Hardware: one CPU core, two seconds. Expect a straight line of slope 0.79 and a nearly flat curve, then a single curve.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import style
from matplotlib.figure import Figure
from style import LOOKS, draw_law, draw_points, log_axis, new_figure, one_run, put_legend, read_table, save

from common.cli import UserError, run

# For each CSV: its columns, of which the last one is drawn, and a query for the rows that are drawn.
TABLES = {
    "gaussian_mi": (["family", "copies", "L", "ell", "mi_nats"], "ell == L // 2"),
    "two_point": (["family", "copies", "L", "i", "j", "mi_nats"], "i == 1 and j == L"),
    "rank": (["family", "copies", "L", "ell", "rank"], "ell == L // 2"),
}
Y_LABELS = ["I(L/2; L) (nats)", "I of first and last\nposition (nats)", "Rank of Cov(X, Y) at L/2"]
FIT = ["law", "parameter", "value", "L_min", "L_max", "selected"]


@dataclass(frozen=True)
class Settings(style.Settings):
    results: tuple[Path, ...]  # folders with the CSVs, one per family


@dataclass(frozen=True)
class Exact:
    """The CSVs of one folder. tables: the drawn rows of each CSV that exists, in ascending order of L."""

    family: str
    copies: float
    tables: dict[str, pd.DataFrame]
    fit: pd.DataFrame  # the rows of the selected law, by parameter


def read_exact(folder: Path) -> Exact:
    """Read the CSVs of a folder. UserError: a bad CSV, or several families or numbers of copies."""
    why = f"make it with python gaussian_synthetic/exact_mi.py --family subvolume --out {folder}"
    tables = {}
    for name, (columns, drawn) in TABLES.items():
        path = folder / f"{name}.csv"
        if name != "rank" or path.exists():
            tables[name] = read_table(path, columns, why).query(drawn).sort_values("L")
            if tables[name].empty or tables[name]["L"].duplicated().any():
                raise UserError(f"{path} needs exactly one value at L/2 for each L: {why}")
    run_of = one_run(folder, list(tables.values()), ("family", "copies"))
    fit = read_table(folder / "fit.csv", FIT, why)
    return Exact(*run_of, tables, fit[fit["selected"] == "True"].set_index("parameter"))


def draw(results: list[Exact]) -> Figure:
    """Draw the panels. UserError: no family, more than LOOKS has, or different numbers of copies."""
    if not 1 <= len(results) <= len(LOOKS):
        raise UserError(f"--results names {len(results)} folders: give 1 to {len(LOOKS)}")
    if len({one.copies for one in results}) > 1:
        raise UserError("the folders are of different numbers of copies: make them with the same --copies")
    fig, axes, _ = new_figure([""] * len(TABLES), Y_LABELS)
    legend = {}
    for ax, (name, (columns, _)) in zip(axes, TABLES.items(), strict=True):
        every = pd.concat([one.tables.get(name, pd.DataFrame(columns=columns)) for one in results])
        for index, (one, look) in enumerate(zip(results, LOOKS, strict=False)):
            rows = every[every["family"] == one.family]
            drawn = draw_points(ax, rows["L"], rows[columns[-1]], None, look, index)
            if name == "gaussian_mi":
                label = one.family
                if len(one.fit):
                    drawn = (draw_law(ax, one.fit, look["color"]), drawn)
                    form = "A·L^β, β" if "beta" in one.fit.index else "A + B·ln L, B"
                    label += f": {form} = {one.fit['value'].iloc[1]:.4f}"
                legend[label] = drawn
        for axis, column in ((ax.xaxis, "L"), (ax.yaxis, columns[-1])):
            if (every[column] > 0).any():
                log_axis(axis, every[column], column)
    put_legend(fig, legend, columns=2)
    return fig


def main(cfg: Settings) -> None:
    save(draw([read_exact(folder) for folder in cfg.results]), cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
