"""How I(L/2; L) and its exponent change with the model: Fig. B.1, and the exponent against the loss.

    python plots/models.py --figure B.1 --compared results/figB1/books/models.csv results/figB1/wikipedia/models.csv \
        --results results/figB1/books/*/ results/figB1/wikipedia/*/ --out results/figB1/figB1
    python plots/models.py --figure exponent --compared results/figB1/books/models.csv \
        results/figB1/wikipedia/models.csv --out results/figB1/exponent

Reads models.csv (compare_models.py) of each corpus, and for B.1 bipartite.csv and sweep.csv (estimate_bipartite.py)
from the folder of each model. Writes OUT.png and OUT.pdf, one column per corpus:
    B.1       the direct estimate of I(L/2; L) ± 1 standard error by book against L in bytes, one line per model, and
              the local slopes below
    exponent  not in the paper: β over all L, and below it β over long L, against the loss per byte; thin lines join
              the models in the order of their loss
Intervals are 95% intervals. L in bytes is L in tokens times the bytes per token of models.csv.

Hardware: one CPU core, two seconds. At short L, models also differ in what they expect after their start token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Literal

import bipartite
import numpy as np
import pandas as pd
import style
from bipartite import LABELS, PAPER_FIG_2B, SLOPE_LABEL, STYLES, Y_LABEL
from matplotlib.figure import Figure

from common.cli import UserError, run

MODELS = ["source", "model", "estimator", "quantity", "value", "lo95", "hi95", "L_min", "L_max", "n_books"]
LOOKS = (*style.LOOKS, *(style.look(color, marker) for color, marker in zip(style.COLORS[4:], "XvP", strict=True)))
ESTIMATOR = "direct"  # in Fig. B.1
REMEDY = "make it with measure_mutual_info/compare_models.py, see figB1.sh"
X_LABEL = "Loss (nats per byte)"
PAPER = "paper, PG19, Llama 3.1 405B: {} {}"
NOT_OF_THE_NAME = r"([.-](I?Q\d\w*|B?F(16|32)))?(\.gguf)?$"  # quantisation and file extension


@dataclass(frozen=True)
class Settings:
    compared: tuple[Path, ...]  # models.csv of compare_models.py, one per corpus
    out: Path  # where to write, without the suffix
    results: tuple[Path, ...] = ()  # for B.1: folders with bipartite.csv and sweep.csv, one per corpus and model
    figure: Literal["B.1", "exponent"] = "B.1"


def read_compared(paths: Sequence[Path]) -> pd.DataFrame:
    """Read models.csv of all corpora. UserError: a bad file, a corpus in two files, a model without a loss."""
    tables = [style.read_table(path, MODELS, REMEDY, ["lo95", "hi95"], [*MODELS[:4], "L_max"]) for path in paths]
    sources = [source for table in tables for source in table["source"].unique()]
    if len(set(sources)) < len(sources):
        raise UserError(f"--compared names models.csv of the corpora {', '.join(sources)}: give one of each")
    for path, table in zip(paths, tables, strict=True):
        for quantity in ("loss_nats_per_byte", "bytes_per_token"):
            if lacking := set(table["model"]) - set(table.loc[table["quantity"] == quantity, "model"]):
                raise UserError(f"{path} has no {quantity} of {min(lacking)}: {REMEDY}")
    return pd.concat(tables, ignore_index=True)


def read_results(folders: Sequence[Path]) -> dict[tuple[str, str], tuple[pd.DataFrame, pd.DataFrame]]:
    """Read what Fig. B.1 shows of each run, by corpus and model. UserError: a bad CSV, or a run given twice."""
    found = {}
    for folder in folders:
        results = bipartite.read_results(folder)
        run_of = tuple(results.bipartite.iloc[0][["source", "model"]])
        if run_of in found:
            raise UserError(
                f"{folder}: {' and '.join(run_of)} are those of another folder of --results: give each once"
            )
        windows = results.windows.query("estimator == @ESTIMATOR and L_over_ell == 2 and dof == 0")
        found[run_of] = results.points([ESTIMATOR], 2), windows
    return found


def short_names(models: Sequence[str]) -> dict[str, str]:
    """Labels such as "SmolLM2 135M" for "SmolLM2-135M-Instruct.Q4_1.gguf"; full names if two labels would be equal."""
    short = {name: re.sub(NOT_OF_THE_NAME, "", name, flags=re.IGNORECASE) for name in models}
    short = {name: text.removesuffix("-Instruct").replace("-", " ") for name, text in short.items()}
    return short if len(set(short.values())) == len(short) else {name: name for name in models}


def in_color(look: dict[str, object], color: str) -> dict[str, object]:
    """The same marker in another colour."""
    filled = look["markerfacecolor"] != "none"
    return look | {"color": color, "markerfacecolor": color if filled else "none"}


def title(rows: pd.DataFrame, what: str) -> str:
    return f"{rows['source'].iloc[0]}, {rows['n_books'].iloc[0]:g} texts\n{what}"


def draw_lines(compared: pd.DataFrame, results: dict[tuple[str, str], tuple[pd.DataFrame, pd.DataFrame]]) -> Figure:
    """Fig. B.1: points ± 1 standard error by book, or by document for a single book. UserError: models differ."""
    runs = list(compared[["source", "model"]].drop_duplicates().itertuples(index=False, name=None))
    if different := sorted({*runs} ^ results.keys()):
        where = "in models.csv and not in --results" if different[0] in runs else "in --results and not in models.csv"
        raise UserError(f"{' and '.join(different[0])}: {where}: give the folders of the models that were compared")
    looks = dict(zip(compared["model"].unique(), cycle(LOOKS)))
    corpora = [rows for _, rows in compared.groupby("source", sort=False)]
    titles, x_label = [title(rows, f"{ESTIMATOR} estimator") for rows in corpora], "Sequence length L (bytes)"
    fig, upper, lower = style.new_figure(titles, Y_LABEL.format("L/2"), x_label, SLOPE_LABEL)
    names, legend, x, y = short_names(list(looks)), {}, [], []
    for ax, below, rows in zip(upper, lower, corpora, strict=True):
        sizes = rows[rows["quantity"] == "bytes_per_token"].set_index("model")["value"]
        for index, model in enumerate(model for model in looks if model in sizes):
            size = sizes[model]
            points, windows = results[rows["source"].iloc[0], model]
            look, L = looks[model] | {"fmt": f"{looks[model]['fmt']}-", "linewidth": 0.7}, points["L_tokens"] * size
            bars = points["stderr_by_book_nats"].fillna(points["stderr_nats"])
            legend[names[model]] = style.draw_points(ax, L, points["mi_nats"], bars, look, index)
            windows = windows.assign(L_min=windows["L_min"] * size, L_max=windows["L_max"] * size)
            style.draw_slopes(below, windows, "beta", looks[model], index - (len(sizes) - 1) / 2, "")
            x += [*L]
            y += [*np.maximum(points["mi_nats"] - bars, points["mi_nats"] / 2), *points["mi_nats"] + bars]
        name, _, beta, dashes = PAPER_FIG_2B[0]
        legend[PAPER.format(name, beta)] = below.axhline(beta, dashes=dashes, **style.PAPER)
    for ax in upper:
        style.log_axis(ax.xaxis, x, "L in bytes", base=2)
        style.log_axis(ax.yaxis, y, f"mi_nats of {ESTIMATOR}")
    style.put_legend(fig, legend, columns=len(corpora))
    return fig


def draw_exponents(compared: pd.DataFrame) -> Figure:
    """One row of panels with β over all L, and one with β over long L: a marker per model, a colour per estimator."""
    corpora, models = [rows for _, rows in compared.groupby("source", sort=False)], compared["model"].unique()
    looks, names, legend = dict(zip(models, cycle(LOOKS))), short_names(models), {}
    panels = [(rows, rows[rows["quantity"] == quantity]) for quantity in ("beta", "beta_long") for rows in corpora]
    ranges = [f"L = {of['L_min'].min():g} to {of['L_max'].max():g} tokens" if len(of) else "no fit" for _, of in panels]
    titles = [title(rows, within) for (rows, _), within in zip(panels, ranges, strict=True)]
    fig, axes, _ = style.new_figure(titles, "Exponent β of I(L/2; L)", X_LABEL, columns=len(corpora))
    estimators = [name for name in LABELS if name in set(compared["estimator"])]
    for ax, (rows, of) in zip(axes, panels, strict=True):
        loss = rows[rows["quantity"] == "loss_nats_per_byte"].set_index("model")["value"]
        step = 0.03 * (loss.max() - loss.min())  # shift to the right, so that bars do not overlap
        for index, estimator in enumerate(estimators):
            color, points = STYLES[estimator]["color"], of[of["estimator"] == estimator].set_index("model")
            x = loss[points.index] + step * (index - (len(estimators) - 1) / 2)
            (legend[LABELS[estimator]],) = ax.plot(x, points["value"], color=color, linewidth=0.6, gid="estimator")
            for model, point in points.iterrows():
                bars = [[point["value"] - point["lo95"]], [point["hi95"] - point["value"]]]
                ax.errorbar([x[model]], [point["value"]], bars, **in_color(looks[model], color), zorder=4)
        for name, _, beta, dashes in PAPER_FIG_2B:
            legend[PAPER.format(name, beta)] = ax.axhline(beta, dashes=dashes, **style.PAPER)
    legend |= {names[model]: axes[0].errorbar([], [], **in_color(looks[model], style.GREY)) for model in models}
    style.put_legend(fig, legend, columns=len(corpora))
    return fig


def main(cfg: Settings) -> None:
    compared = read_compared(cfg.compared)
    fig = draw_exponents(compared) if cfg.figure == "exponent" else draw_lines(compared, read_results(cfg.results))
    style.save(fig, cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
