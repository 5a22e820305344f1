"""What the figures of two-point information share: reading and checking their CSVs, points, lines, axes, captions.

Nothing is computed here: Î(d), Î(d) − C and their errors are those of two_point.csv, lines and α with its interval
those of fit.csv.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from style import (
    FIT,
    GREY,
    MAY_LACK,
    NO_POWER_LAW,
    TEXT,
    SeriesStyle,
    length_axis,
    mark_below,
    new_figure,
    plain_ticks,
    put_legend,
    read_table,
)

from common.cli import UserError

ESTIMATOR = "grassberger"  # the paper's; the others are for comparison in two_point.csv
TWO_POINT = ["source", "tokenizer", "estimator", "d_tokens", "mi_nats", "mi_corrected_nats", "stderr_nats", "n_pairs"]
FITS = [column for column in FIT if column != "L_over_ell"]
D_AXIS = "Distance d (tokens)"
Y_LABEL = "Two-point mutual\ninformation (nats)"
DECADES = 4  # not in the paper: a point that chance puts that far below the highest stretches the axis no further

PAPER_FIG_2C = 1.10, 0.91  # A in nats and α: PG19, tokens of Llama 3.1
PAPER_LABEL = "paper, PG19: {:.2f}·d^−{:.2f}".format(*PAPER_FIG_2C)

STYLES = {
    "mi_nats": SeriesStyle("Î(d)", "#D55E00", "o", 5.0, filled=False),
    "mi_corrected_nats": SeriesStyle("Î(d) − C", "#0072B2", "D", 2.6),
}
UNWEIGHTED = "paper_eq_b15"  # the paper's
HOW = {  # the laws that C may be of, as estimate_two_point.py calls them; the first where two have the same
    "power_plus_constant_wls": "fitted with the errors as weights",
    "power_plus_constant": "fitted by generalised least squares",
    UNWEIGHTED: "least squares of log(Î\u00a0−\u00a0C) without weights (Eq.\u00a0B.15)",
}


@dataclass(frozen=True)
class TwoPoint:
    """two_point.csv and fit.csv of one folder, those rows that are of ESTIMATOR, ascending in d."""

    folder: Path
    points: pd.DataFrame
    fits: pd.DataFrame
    source: str
    tokenizer: str

    @property
    def corrected(self) -> bool:
        """Whether a plateau was taken off."""
        return bool(self.points["mi_corrected_nats"].notna().any())

    @property
    def law(self) -> str | None:
        """The law whose C was taken off: the one with that C. UserError: none has."""
        if not self.corrected:
            return None
        taken = (self.points["mi_nats"] - self.points["mi_corrected_nats"]).iloc[0]
        plateaus = self.fits[self.fits["parameter"] == "C"]
        found = plateaus.loc[(plateaus["value"] - taken).abs() < 1e-9 + 1e-9 * abs(taken), "law"]
        if found.empty:
            raise UserError(
                f"{self.folder}: no law of fit.csv has the C that two_point.csv took off: {remedy(self.folder)}"
            )
        return sorted(found, key=[*HOW, *found].index)[0]

    def fit(self, law: str | None) -> pd.DataFrame | None:
        """Rows A, alpha and C of A·d^−α + C; None where the law is another, or was not fitted."""
        fit = self.fits[self.fits["law"] == law]
        if fit.empty or law not in HOW:
            return None
        if sorted(fit["parameter"]) != ["A", "C", "alpha"]:
            raise UserError(f"{self.folder / 'fit.csv'} has not one A, alpha and C of {law}: {remedy(self.folder)}")
        return fit.set_index("parameter")


def remedy(folder: Path) -> str:
    return f"make it with python measure_mutual_info/estimate_two_point.py --counts COUNTS.csv --out {folder}"


def read_two_point(folder: Path) -> TwoPoint:
    """Read and check two_point.csv and fit.csv of a folder.

    UserError: a file or a column is missing, a number is none, nothing is of ESTIMATOR, a point is there twice, or the
    files are of several corpora or tokenizers.
    """
    path, why = folder / "two_point.csv", remedy(folder)
    text = [*TEXT, "tokenizer"]
    points = read_table(path, TWO_POINT, why, text, may_lack=("mi_corrected_nats", "stderr_nats"))
    fits = read_table(folder / "fit.csv", FITS, why, text, [*MAY_LACK, "dof"])
    points, fits = points[points["estimator"] == ESTIMATOR], fits[fits["estimator"] == ESTIMATOR]
    if points.empty:
        raise UserError(f"{path} has no rows of {ESTIMATOR}, so no points to draw: {why}")
    if points["d_tokens"].duplicated().any():
        raise UserError(f"{path} has points twice: keep one run in a folder")
    runs = pd.concat([points, fits.rename(columns={"model": "tokenizer"})])[["source", "tokenizer"]].drop_duplicates()
    if len(runs) > 1:
        found = " and ".join(f"{source}, {tokenizer}" for source, tokenizer in runs.itertuples(index=False))
        raise UserError(f"{folder}: its CSVs are of {found}: keep one corpus and tokenizer in a folder")
    if points["mi_corrected_nats"].isna().any() and points["mi_corrected_nats"].notna().any():
        raise UserError(f"{path} has mi_corrected_nats at some distances only: {why}")
    return TwoPoint(folder, points.sort_values("d_tokens"), fits, *runs.iloc[0])


Panel = tuple[TwoPoint, Sequence[str]]  # what a panel shows: results, columns of two_point.csv


def columns(results: TwoPoint) -> list[str]:
    """What Figs. 2c and B.4 show: Î − C, or Î where nothing was taken off."""
    return ["mi_corrected_nats" if results.corrected else "mi_nats"]


def fit_label(fit: pd.DataFrame) -> str:
    """Two lines, such as "1.19·d^−α, α = 1.50 [1.42, 1.59]" and "C = 0.0032, χ²/dof 8/6"."""
    A, C = fit["value"][["A", "C"]]
    chi2, dof = fit.loc["alpha", ["chi2", "dof"]]
    goodness = f", χ²/dof {chi2:.0f}/{dof:.0f}" if math.isfinite(chi2) else ""
    return f"{A:.3g}·d^−α, {alpha_label(fit)}\nC = {C:.2g} nats{goodness}"


def alpha_label(fit: pd.DataFrame) -> str:
    """Such as "α = 1.50 [1.42, 1.59]"."""
    low, high, _ = interval(fit)
    between = f"[{low:.2f}, {high:.2f}]" if math.isfinite(low) else "[no interval]"
    return f"α = {fit['value']['alpha']:.2f} {between}"


def interval(fit: pd.DataFrame) -> tuple[float, float, str]:
    """The 95% interval of α and where it comes from: of resampled units where there is one."""
    low, high, units = fit.loc["alpha", ["boot_lo95", "boot_hi95", "boot_clusters"]]
    if math.isfinite(low) and math.isfinite(high):
        return low, high, f"from {units.replace(' ', ' resampled ')}"  # "4 books"
    return *fit.loc["alpha", ["lo95", "hi95"]], "from the books taken as independent"


def draw_series(ax: Axes, results: TwoPoint, shown: Sequence[str], floor: float) -> tuple[list, list[str]]:
    """Points ± 1 standard error and their line: A·d^−α, + C for Î; returns handles and labels for the legend.

    Points at or below `floor` have no place on the axis: a small downward marker stands at the bottom edge.
    """
    handles, labels = [], []
    fit = results.fit(results.law)
    for index, column in enumerate(shown):
        look, points = STYLES[column], results.points
        above = points[points[column] > floor]
        bar = ax.errorbar(
            above["d_tokens"],
            above[column],
            yerr=above["stderr_nats"].fillna(0),
            **look.marks(),
            capsize=1.5,
            capthick=0.6,
            zorder=3 + index,
        )
        handle = bar
        if fit is not None:
            A, alpha, C = fit["value"][["A", "alpha", "C"]]
            d = np.geomspace(*fit.loc["A", ["L_min", "L_max"]].to_numpy(float), 100)
            line = A * d**-alpha + (C if column == "mi_nats" else 0)
            drawn = ax.plot(d[line > 0], line[line > 0], color=look.color, linewidth=0.9, zorder=2, gid="fit")
            handle = (drawn[0], bar)
        mark_below(ax, points.loc[points[column] <= floor, "d_tokens"], index, look.color)
        handles.append(handle)
        if column == "mi_nats":
            labels.append(look.label if results.corrected else f"{look.label}: no fit")
        else:
            labels.append(f"{look.label}: {'no decay seen' if fit is None else fit_label(fit)}")
    return handles, labels


def draw_panels(panels: Sequence[Panel], titles: Sequence[str] = (), paper: bool = True) -> Figure:
    """Log-log panels side by side with one y axis, a legend each. titles: one a panel, or none. paper: its line too.

    UserError: no point above 0 in a panel.
    """
    for results, shown in panels:
        if not (results.points[list(shown)] > 0).to_numpy().any():
            path = results.folder / "two_point.csv"
            raise UserError(f"{path}: no points to draw: all are at or below 0 nats: count a larger corpus")
    entries = max(len(shown) + results.corrected for results, shown in panels) + paper  # Î − C has two lines
    floor = _floor(panels)
    caption = notes(panels, [results.source for results, _ in panels] if len(panels) > 1 else [], floor)
    fig, axes = new_figure(len(panels), Y_LABEL, entries, caption, titles, x_labels=[D_AXIS] * len(panels))
    legends = []
    for ax, (results, shown) in zip(axes, panels, strict=True):
        handles, labels = draw_series(ax, results, shown, floor)
        if paper:
            A, alpha = PAPER_FIG_2C
            d = results.points["d_tokens"].agg(["min", "max"]).to_numpy()
            handles += ax.plot(d, A * d**-alpha, color=GREY, linewidth=0.8, dashes=(5, 2), zorder=1, gid="paper")
            labels.append(PAPER_LABEL)
        legends.append((handles, labels))
    _axes(axes, panels, floor)
    for ax, legend in zip(axes, legends, strict=True):
        put_legend(ax, *legend)
    return fig


def _floor(panels: Sequence[Panel]) -> float:
    """0 nats, or what lies DECADES below the highest point where some point lies between."""
    values = np.concatenate([results.points[list(shown)].to_numpy().ravel() for results, shown in panels])
    floor = values.max() / 10**DECADES
    return floor if ((values > 0) & (values <= floor)).any() else 0.0


def _axes(axes: Sequence[Axes], panels: Sequence[Panel], floor: float) -> None:
    """Log-log axes around all points above the floor; a long error bar or a line runs out of them at the bottom."""
    values = np.concatenate([results.points[list(shown)].to_numpy().ravel() for results, shown in panels])
    low, high = values[values > floor].min(), values.max()
    paper = [line.get_ydata() for ax in axes for line in ax.get_lines() if line.get_gid() == "paper"]
    if paper:
        low, high = min(low, np.min(paper)), max(high, np.max(paper))
    margin = max(high / low, 2) ** 0.05
    below = max(int((results.points[list(shown)] <= floor).any().sum()) for results, shown in panels)
    low, high = low / margin ** (1 + 2 * below), high * margin  # markers at the bottom edge cover no point
    d = pd.concat([results.points["d_tokens"] for results, _ in panels])
    for ax in axes:
        length_axis(ax, d)
        ax.set_yscale("log")
        ax.set_ylim(low, high)
        plain_ticks(ax.yaxis, low, high, base=10, room=12)


def notes(panels: Sequence[Panel], names: Sequence[str], floor: float) -> list[str]:
    """The caption: corpora, tokenizers, pairs; points at the bottom edge; what bars, lines and C are.

    names: of the panels, or none where there is one.
    """
    sources, below, fitted, unweighted, misfit = [], [], {}, [], False
    for panel, (results, shown) in enumerate(panels):
        where = f"{names[panel]}: " if names else ""
        pairs = " to ".join(dict.fromkeys(compact(n) for n in results.points["n_pairs"].agg(["min", "max"])))
        sources.append(f"{results.source}, tokens of {results.tokenizer}, {pairs} pairs at each d")
        hidden = {column: int((results.points[column] <= floor).sum()) for column in shown}
        told = [f"{n} of {len(results.points)} ({STYLES[column].label})" for column, n in hidden.items() if n]
        if told:
            below.append(f"▾\u00a0{where}points at or below {floor:.1g} nats: {', '.join(told)}.")
        fit = results.fit(results.law)
        if fit is not None:
            misfit |= bool(fit["p_value"]["alpha"] < NO_POWER_LAW)
            d = "{:g} to {:g}".format(*fit.loc["alpha", ["L_min", "L_max"]])
            low, _, origin = interval(fit)
            told = f"{HOW[results.law]} to d = {d}" + (
                f", α with its 95% interval {origin}" if math.isfinite(low) else ""
            )
            fitted.setdefault(told, []).append(where.removesuffix(": "))
        elif results.corrected:
            fitted.setdefault("C alone, no decay seen", []).append(where.removesuffix(": "))
        ols = results.fit(UNWEIGHTED)
        if ols is not None and results.law != UNWEIGHTED:
            unweighted.append(f"{where}{alpha_label(ols)}, C = {ols['value']['C']:.2g}")
    bars = "Bars: ±1 standard error over books; points at all d are of the same books and err together."
    if any(results.points["stderr_nats"].isna().any() for results, _ in panels):
        bars = "Without bars: no books to tell the error."
    how = [bars]
    if len(fitted) == 1:
        how.append(f"A·d^−α + C: {next(iter(fitted))}.")
    elif fitted:
        how.append("A·d^−α + C: " + "; ".join(f"{told} ({', '.join(of)})" for told, of in fitted.items()) + ".")
    if unweighted:
        how.append(f"The paper's fit (Eq.\u00a0B.15, without weights): {'; '.join(unweighted)}.")
    if misfit:
        how.append("Where χ² is far above dof this is not the law of the points.")
    return ["; ".join(dict.fromkeys(sources)) + ".", *below, " ".join(how)]


def compact(n: float) -> str:
    """Three digits of a large number: "978,020", "1.60 million", "3.10 billion"."""
    for size, name in ((1e9, " billion"), (1e6, " million")):
        if n >= size:
            return f"{n / size:#.3g}".rstrip(".") + name
    return f"{n:,.0f}"
