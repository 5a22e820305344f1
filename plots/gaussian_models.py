"""Models trained on Gaussian sequences: Figs. 3, G.7 and G.8, and how they used their state and training.

    python plots/gaussian_models.py --figure 3 --results results/fig3 --out results/fig3/fig3

Reads summary.csv (evaluate.py) from the folder, kl.csv for G.7 and G.8, and training.csv for `training`. Writes OUT.png
and OUT.pdf:
    3            average KL against L for models whose state grows with L (a) and for models of fixed state (b); for the
                 latter also against I(L/2; L) / dim(z) (c), and minus the KL of the best linear state (d)
    G.7          KL by position, one panel per length
    G.8          NLL by position, and the exact entropy, which no model can beat
    utilisation  not in the paper: share of I(L/2; L) that a model uses, against L
    training     not in the paper: KL against the steps of training
    frontier     not in the paper: KL against state elements per copy, and the best linear state

Hardware: one CPU core, three seconds. With enough training, expect a to be flat, b to rise the earlier the smaller
the state is, and c to be a single curve. See docs/figures.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import style
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from style import COLORS, GREY, L_AXIS, draw_points, log_axis, new_figure, put_legend, read_table, save

from common.cli import UserError, run
from common.record import ROOT

KEY = ["model", "L", "seed"]
SUMMARY = [*KEY, "state_size", "mi_nats", "mean_kl_nats", "utilisation", "converged", "copies", "family", "k", "n"]
FRONTIER = ["frontier_lo_nats", "frontier_hi_nats"]  # NaN if the state grows, or if capacity.csv lacks this L
CAPACITY = ["family", "k", "n", "L", "d", "mi_nats", "lower_nats", "attained_nats"]
KL = [*KEY, "position", "kl_nats", "nll_nats", "entropy_nats"]
TRAINING = [*KEY, "steps", "step", "kl_nats"]
INDEPENDENT = "independent"  # the predictor that ignores the past
MARKERS = "oD^svP"
# Last positions of the bins of G.7 and G.8: logarithmic; beyond 4, in whole rows of four, as a pattern repeats there.
EDGES = sorted({2**i for i in range(25)} | {3 * 2**i for i in range(2, 25)})
REMEDY = "make it with python gaussian_synthetic/evaluate.py --runs … --out results/mine"


@dataclass(frozen=True)
class Settings(style.Settings):
    figure: Literal["3", "G.7", "G.8", "utilisation", "training", "frontier"] = "3"
    capacity: Path = ROOT / "results/capacity/capacity.csv"  # KL of the best linear state, for 3 and frontier
    L: tuple[int, ...] = ()  # lengths of G.7 and G.8, one panel each; default: the three longest


@dataclass(frozen=True)
class Models:
    """summary.csv of one folder. names: the models, those with a growing state first, then by size of the state."""

    folder: Path
    summary: pd.DataFrame
    names: list[str]

    @property
    def copies(self) -> int:
        return int(self.summary["copies"].iloc[0])

    @property
    def lengths(self) -> list[int]:
        return sorted(self.summary["L"].astype(int).unique())

    def constant(self, name: str) -> bool:
        """Whether a model's history state has the same size at every length, as in a recurrent model."""
        return self.summary.loc[self.summary["model"] == name, "state_size"].nunique() == 1

    def look(self, name: str, color: str = "", filled: bool = True) -> dict[str, object]:
        """Look of points: one marker per kind (mamba2-… or gru-…) and one color per model; fixed states go from light
        to dark with their size. color: replaces that of the model.
        """
        kinds = list(dict.fromkeys(of.split("-")[0] for of in self.names))
        fixed = [of for of in self.names if self.constant(of)]
        if name in fixed:
            own = colormaps["viridis_r"](np.linspace(0.05, 1, len(fixed))[fixed.index(name)])
        else:
            own = COLORS[self.names.index(name) % len(COLORS)]
        marker = MARKERS[kinds.index(name.split("-")[0]) % len(MARKERS)]
        return style.look(color or to_hex(own), marker, filled=filled)

    def line(self, name: str) -> dict[str, object]:
        """Look of a line of ax.plot, without markers: solid if the state has a fixed size, else dashed."""
        dash = "-" if self.constant(name) else "--"
        return {"color": self.look(name)["color"], "linestyle": dash, "linewidth": 0.8}


def read_models(folder: Path) -> Models:
    """Read summary.csv of a folder. UserError: a bad CSV, or one without models."""
    summary = read_table(folder / "summary.csv", [*SUMMARY, *FRONTIER], REMEDY, ["utilisation", *FRONTIER], KEY)
    summary["converged"] = summary["converged"].astype(str) == "True"
    sizes = summary[summary["model"] != INDEPENDENT].groupby("model")["state_size"].agg(["max", "nunique"])
    if sizes.empty:
        raise UserError(f"{folder / 'summary.csv'} has no models: {REMEDY}")
    sizes["constant"] = sizes["nunique"] == 1
    return Models(folder, summary, sizes.sort_values(["constant", "max"], kind="stable").index.tolist())


def draw_cells(
    ax: Axes, models: Models, name: str, rows: pd.DataFrame, x: str, y: str, color: str = "", floor: float = -np.inf
) -> Artist:
    """Draw one point per L of a model: the mean over seeds, with bars from the smallest to the largest seed.

    Points are hollow if a seed has not converged. floor: see draw_points. Returns the entry of the legend.
    """
    cells = rows.groupby("L").agg(x=(x, "mean"), y=(y, "mean"), lo=(y, "min"), hi=(y, "max"), done=("converged", "all"))
    for filled, some in cells.groupby("done"):
        bars = [some["y"] - some["lo"], some["hi"] - some["y"]]
        draw_points(ax, some["x"], some["y"], bars, models.look(name, color, bool(filled)), floor=floor)
    return Line2D([], [], linestyle="", **_of_line(models.look(name, color)))


def _of_line(look: dict[str, object]) -> dict[str, object]:
    """Convert a look of ax.errorbar into one of Line2D."""
    return {"marker": look["fmt"]} | {key: value for key, value in look.items() if key not in ("fmt", "elinewidth")}


def draw_over_lengths(ax: Axes, models: Models, names: Sequence[str], column: str) -> dict[str, Artist]:
    """Draw a column of summary.csv against L, one line per model; returns the legend."""
    legend = {}
    for name in names:
        rows = models.summary[models.summary["model"] == name]
        legend[name] = draw_cells(ax, models, name, rows, "L", column)
        mean = rows.groupby("L")[column].mean()
        ax.plot(mean.index, mean, color=models.look(name)["color"], linewidth=0.8)
    return legend


def hollow() -> dict[str, Artist]:
    return {"not converged": Line2D([], [], linestyle="", **_of_line(style.look(GREY, "o", filled=False)))}


def draw_fig3(models: Models, frontier: pd.DataFrame) -> Figure:
    titles = ["a  state grows with L", "b  state of fixed size"]
    titles += ["c  against I/dim(z)", "d  above the best linear state"]
    x_labels = [L_AXIS, L_AXIS, "I(L/2; L) / dim(z) (nats per element)", "Elements of the state, dim(z)"]
    fig, axes, _ = new_figure(titles, "Average KL (nats per token)", x_labels, columns=2)
    fixed = [name for name in models.names if models.constant(name)]
    summary, path = models.summary, models.folder / "summary.csv"
    legend, colors = {}, dict(zip(models.lengths, cycle(COLORS), strict=False))
    for ax, names in zip(axes, ([name for name in models.names if name not in fixed], fixed), strict=False):
        legend |= draw_over_lengths(ax, models, names, "mean_kl_nats")
        found = summary[summary["model"] == INDEPENDENT].groupby("L")["mean_kl_nats"].mean()
        (line,) = ax.plot(found.index, found, color=GREY, linestyle=":", linewidth=0.9, zorder=1, gid="independent")
        log_axis(ax.xaxis, models.lengths, f"{path}: L", base=2)
    bottom = summary["mean_kl_nats"].min()
    for name in fixed:
        rows = summary[(summary["model"] == name) & (summary["frontier_lo_nats"] > bottom)].drop_duplicates("L")
        bars = (rows[column] for column in ("L", *FRONTIER))
        axes[1].vlines(*bars, color=models.look(name)["color"], linewidth=5, alpha=0.4, zorder=1, gid="frontier")
    legend |= hollow() | {INDEPENDENT: line}
    table = summary[summary["model"].isin(fixed)].copy()
    if fixed:
        table["ratio"] = table["mi_nats"] / table["state_size"]
        table["above"] = table["mean_kl_nats"] - table[FRONTIER[1]]
        for name in fixed:
            for L, rows in table[table["model"] == name].groupby("L"):
                draw_cells(axes[2], models, name, rows, "ratio", "mean_kl_nats", colors[L])
                draw_cells(axes[3], models, name, rows, "state_size", "above", colors[L], floor=0.0)
        for L, color in colors.items():
            legend[f"L = {L}"] = Line2D([], [], color=color, linewidth=2)
            curve = frontier[(frontier["L"] == L) & (frontier["d"] > 0) & (frontier["attained_nats"] > 0)]
            kl = models.copies * curve["attained_nats"] / L
            axes[2].plot(curve["mi_nats"] / curve["d"], kl, color=color, linewidth=0.9, zorder=1, gid=f"linear {L}")
            above = table[table["L"] == L].groupby("state_size")["above"].mean()
            axes[3].plot(above.index, above.where(above > 0), color=color, linewidth=0.6, zorder=1)
        legend |= {"best linear state": Line2D([], [], color=GREY, linewidth=0.9)}
        log_axis(axes[2].xaxis, np.append(table["ratio"], 1.0), f"{path}: mi_nats / state_size")
        log_axis(axes[3].xaxis, table["state_size"], f"{path}: state_size")
    log_axis(axes[0].yaxis, summary["mean_kl_nats"], f"{path}: mean_kl_nats")
    put_legend(fig, legend, columns=4)
    return fig


def draw_frontier(models: Models, frontier: pd.DataFrame) -> Figure:
    """KL against state elements per copy, one panel per length, with the bounds of the best linear state."""
    fixed = [name for name in models.names if models.constant(name)]
    table = models.summary[models.summary["model"].isin(fixed)].copy()
    table["d"] = table["state_size"] / models.copies
    titles = [f"L = {L}" for L in models.lengths]
    fig, axes, _ = new_figure(titles, "Average KL (nats per token)", "dim(z) / copies (elements)")
    legend = {}
    for ax, L in zip(axes, models.lengths, strict=True):
        curve = frontier[(frontier["L"] == L) & (frontier["d"] > 0) & (frontier["attained_nats"] > 0)]
        bounds = (models.copies * curve[name] / L for name in ("lower_nats", "attained_nats"))
        legend["best linear state"] = ax.fill_between(
            curve["d"], *bounds, color=GREY, alpha=0.4, linewidth=0.8, gid="linear"
        )
        for name in fixed:
            rows = table[(table["model"] == name) & (table["L"] == L)]
            legend[name] = draw_cells(ax, models, name, rows, "d", "mean_kl_nats")
        log_axis(ax.xaxis, np.append(table["d"], 1), "dim(z) / copies", base=2)
        ignoring = models.summary[(models.summary["model"] == INDEPENDENT) & (models.summary["L"] == L)]["mean_kl_nats"]
        legend[INDEPENDENT] = ax.axhline(ignoring.iloc[0], color=GREY, linestyle=":", linewidth=0.9)
    log_axis(axes[0].yaxis, models.summary["mean_kl_nats"], f"{models.folder / 'summary.csv'}: mean_kl_nats")
    put_legend(fig, legend | hollow(), columns=4)
    return fig


def draw_utilisation(models: Models) -> Figure:
    fig, (ax,), _ = new_figure([""], "Utilisation of I(L/2; L)")
    put_legend(fig, draw_over_lengths(ax, models, models.names, "utilisation") | hollow(), columns=2)
    for y in (0, 1):
        ax.axhline(y, color=GREY, linewidth=0.5, zorder=0)
    log_axis(ax.xaxis, models.lengths, f"{models.folder / 'summary.csv'}: L", base=2)
    return fig


def draw_lines(models: Models, table: pd.DataFrame, lengths: Sequence[int], by: str, column: str) -> Figure:
    """One panel per length: means of a column against `by` (position, or step of training), one line per model."""
    x_label, base = {"position": ("Position (tokens)", 2), "step": ("Optimizer steps", 10)}[by]
    y_label = f"{column.removesuffix('_nats').upper()} (nats per token)"
    fig, axes, _ = new_figure([f"L = {L:g}" for L in lengths], y_label, x_label)
    legend = {}
    for ax, L in zip(axes, lengths, strict=True):
        here = table[table["L"] == L]
        for name in models.names:
            mean = here[here["model"] == name].groupby(by)[column].mean()
            (legend[name],) = ax.plot(mean.index, mean, **models.line(name))
        if column == "nll_nats":
            exact = here.groupby(by)["entropy_nats"].mean()
            (legend["exact entropy"],) = ax.plot(exact.index, exact, color="black", linewidth=1.2, zorder=1)
        log_axis(ax.xaxis, here[by], x_label, base)
    if column == "kl_nats":
        means = np.concatenate([line.get_ydata() for ax in axes for line in ax.get_lines()])
        log_axis(axes[0].yaxis, means, f"{models.folder}: {column}")
    put_legend(fig, legend, columns=4)
    return fig


def draw_positions(models: Models, column: str, lengths: Sequence[int]) -> Figure:
    """Figs. G.7 and G.8. UserError: a length that kl.csv lacks."""
    kl = read_table(models.folder / "kl.csv", KL, REMEDY, key=[*KEY, "position"])
    lengths = lengths or models.lengths[-3:]
    if missing := set(lengths or [0]) - set(kl["L"]):
        raise UserError(f"--L {min(missing)}: kl.csv in {models.folder} has L = {', '.join(map(str, set(kl['L'])))}")
    last = np.searchsorted(EDGES, kl["position"])
    kl["position"] = np.sqrt(np.take([1, *(edge + 1 for edge in EDGES)], last) * np.take(EDGES, last))
    return draw_lines(models, kl, lengths, "position", column)


def draw(cfg: Settings) -> Figure:
    """Draw the figure of cfg. UserError: bad CSVs, or a length that kl.csv lacks."""
    models = read_models(cfg.results)
    if cfg.figure in ("G.7", "G.8"):
        return draw_positions(models, "kl_nats" if cfg.figure == "G.7" else "nll_nats", cfg.L)
    if cfg.figure == "training":
        training = read_table(cfg.results / "training.csv", TRAINING, REMEDY, key=[*KEY, "steps", "step"])
        return draw_lines(models, training, sorted(training["L"].unique()), "step", "kl_nats")
    if cfg.figure == "utilisation":
        return draw_utilisation(models)
    frontier = read_table(cfg.capacity, CAPACITY, "make it with python gaussian_synthetic/capacity.py", CAPACITY[6:])
    same = [frontier[name] == models.summary[name].iloc[0] for name in ("family", "k", "n")]
    frontier = frontier[np.logical_and.reduce(same)]
    return draw_fig3(models, frontier) if cfg.figure == "3" else draw_frontier(models, frontier)


def main(cfg: Settings) -> None:
    save(draw(cfg), cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
