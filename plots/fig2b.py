"""Fig. 2b: bipartite mutual information I(L/2; L) of a corpus against the length L, with the fitted exponents β.

    python plots/fig2b.py --results results/fig2b

Reads bipartite.csv and fit.csv (estimate_bipartite.py) from the folder. Writes results/fig2b/fig2b.png and .pdf: the
estimators direct, direct_corrected and vclub as far as they are there, at L = 2 ell, each with its line A · L^β, and
the paper's two published lines.

Hardware: one CPU core, two seconds. Expect straight lines in log-log; for PG19 and Llama 3.1 405B those of the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from style import GREY, Results, draw_series, log_axes, new_figure, notes, put_legend, read_results, save

from common.cli import run

ESTIMATORS = ("direct", "direct_corrected", "vclub")
RATIO = 2  # L/ell
Y_LABEL = "Bipartite mutual information\nI(L/2; L) (nats)"

# Fig. 2b of the paper, PG19 and Llama 3.1 405B: name, A in nats, β, dashes; drawn over its L in tokens
# as far as there are points.
PAPER_FIG_2B = (("direct", 2.27, 0.76, (5, 2)), ("vCLUB", 3.26, 0.71, (1, 1.5)))
PAPER_L = (4, 2048)


@dataclass(frozen=True)
class Settings:
    results: Path = Path("results/fig2b")
    """folder with bipartite.csv and fit.csv"""
    out: Path = Path("results/fig2b/fig2b")
    """where to write, without the suffix"""


def draw(results: Results) -> Figure:
    """One panel: points, fits, and the paper's lines. UserError: no points that a logarithmic axis can show."""
    panel = results, results.present(ESTIMATORS, RATIO), RATIO
    fig, (ax,) = new_figure(1, Y_LABEL, len(panel[1]) + len(PAPER_FIG_2B), notes([panel]))
    handles, labels = draw_series(ax, *panel)
    shown = [results.points(name, RATIO)["L_tokens"] for name in panel[1]]
    L = np.clip(PAPER_L, min(map(min, shown)), max(map(max, shown)))
    for name, A, beta, dashes in PAPER_FIG_2B:
        handles += ax.plot(L, A * L**beta, color=GREY, linewidth=0.8, dashes=dashes, zorder=1, gid="paper")
        labels.append(f"paper: PG19, Llama 3.1 405B: {name} {A}·L^{beta}")
    log_axes([ax], [panel])
    put_legend(ax, handles, labels)
    return fig


def main(cfg: Settings) -> None:
    save(draw(read_results(cfg.results)), cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
