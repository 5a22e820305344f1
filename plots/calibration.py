"""Estimates for processes of known information: how far off vCLUB and misspecified predictors are.

    python plots/calibration.py --results results/calibration --out results/calibration/calibration

Reads coverage.csv from the folder of each process.
Writes OUT.png and OUT.pdf, one panel per process: the exact I(L/2; L) as a line, mean estimates of direct, vCLUB and
(if present) block entropy, and direct with misspecified predictors. Expect direct and block entropy on the line, and
vCLUB far above it. One CPU core, two seconds.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from bipartite import LABELS, STYLES
from matplotlib.figure import Figure
from style import Settings, draw_points, log_axis, look, new_figure, put_legend, read_table, save

from common.cli import UserError, run

KEY = ["process", "predictor", "estimator", "n_documents", "quantity", "L_tokens"]
COVERAGE = [*KEY, "truth", "mean", "sd"]
MAY_LACK = ["L_tokens", "mean", "sd"]  # β has no L, and one replication has no spread
REMEDY = "make it with python measure_mutual_info/calibration/bipartite.py --out results/calibration"

SPOILED = {
    "tempered": look("#5EA3CF", "x", 3.4),
    "sharpened": look("#5EA3CF", "+", 4.4),
    "limited_context": look("#5EA3CF", "d", 3.2, filled=False),
    "wrong_bos": look("#5EA3CF", "s", 2.8, filled=False),
}


def read_processes(folder: Path) -> pd.DataFrame:
    """Read I(L) of all processes at their largest number of documents, in ascending order of L.

    UserError: a file is missing or bad, or has no I(L) of direct and vclub with the exact predictor.
    """
    tables = []
    for path in sorted(folder.glob("*/coverage.csv")):
        table = read_table(path, COVERAGE, REMEDY, MAY_LACK, KEY)
        table = table[(table["quantity"] == "mi") & (table["n_documents"] == table["n_documents"].max())]
        if not {"direct", "vclub"} <= set(table.query("predictor == 'exact'")["estimator"]):
            raise UserError(f"{path} has no mi of direct or vclub with the exact predictor: {REMEDY}")
        tables.append(table.sort_values("L_tokens"))
    if not tables:
        raise UserError(f"no file {folder}/*/coverage.csv: {REMEDY}")
    return pd.concat(tables)


def draw(table: pd.DataFrame) -> Figure:
    """One panel per process with the exact curve and mean estimates. table: from `read_processes`."""
    series = {("exact", name): (LABELS[name], STYLES[name]) for name in ("direct", "vclub", "block_entropy")}
    series |= {(name, "direct"): (f"direct, {name.replace('_', ' ')}", light) for name, light in SPOILED.items()}
    exact = table[(table["predictor"] == "exact") & table["estimator"].isin(["direct", "vclub"])]
    values = pd.concat([exact["truth"], exact["mean"]])
    low = values[values > 0].min() / 2  # misspecified predictors may lie far below
    processes, legend = list(table.groupby("process", sort=False)), {}
    titles = [name.replace("_b", ", β = ").replace("_e", ", ε = ").replace("_", " ") for name, _ in processes]
    fig, axes, _ = new_figure(titles, "Mutual information\nI(L/2; L) (nats)", columns=min(4, len(titles)))
    for ax, (_, of) in zip(axes, processes, strict=True):
        truth = of.query("predictor == 'exact' and estimator == 'direct'")
        (legend["exact I"],) = ax.plot(truth["L_tokens"], truth["truth"], "k", linewidth=0.9, zorder=2, gid="truth")
        for index, ((predictor, estimator), (label, drawn_as)) in enumerate(series.items()):
            rows = of[(of["predictor"] == predictor) & (of["estimator"] == estimator)]
            bars = rows["sd"] if predictor == "exact" else None
            legend[label] = draw_points(ax, rows["L_tokens"], rows["mean"], bars, drawn_as, index, low)
        log_axis(ax.xaxis, exact["L_tokens"], "L_tokens", base=2)
    log_axis(axes[0].yaxis, [*values, *table.loc[table["mean"] > low, "mean"]], "I of direct and vclub")
    put_legend(fig, legend, columns=4)
    return fig


def main(cfg: Settings) -> None:
    save(draw(read_processes(cfg.results)), cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
