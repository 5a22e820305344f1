"""Fig. B.3: what the 2-gram correction does to the direct estimate of I(L/2; L).

    python plots/figB3.py --results results/fig2b

Reads bipartite.csv and fit.csv (estimate_bipartite.py, with --counts) from the folder, the same run as Fig. 2b's.
Writes results/figB3/figB3.png and .pdf: direct and direct_corrected at L = 2 ell with their lines A · L^β, and under
them their difference in nats.

Hardware: one CPU core, two seconds. Expect a difference of much the same size at every L, so that only small L, where I
is small, changes to the eye.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fig2b import RATIO, Y_LABEL
from matplotlib.figure import Figure
from style import GREY, STYLES, Results, draw_series, log_axes, new_figure, notes, put_legend, read_results, save

from common.cli import UserError, run

PAIR = ("direct", "direct_corrected")


@dataclass(frozen=True)
class Settings:
    results: Path = Path("results/fig2b")
    """folder with bipartite.csv and fit.csv, both with direct and direct_corrected"""
    out: Path = Path("results/figB3/figB3")
    """where to write, without the suffix"""


def draw(results: Results) -> Figure:
    """Two panels: the estimates, and corrected minus direct. UserError: one of them is missing."""
    plain, corrected = (results.points(name, RATIO).set_index("L_tokens")["mi_nats"] for name in PAIR)
    if sorted(plain.index) != sorted(corrected.index) or plain.empty:
        raise UserError(
            f"{results.folder / 'bipartite.csv'}: no direct and direct_corrected at the same L = {RATIO} ell: "
            "run estimate_bipartite.py with --counts"
        )
    panel = results, results.present(PAIR, RATIO), RATIO
    caption = [*notes([panel]), "Difference without bars: both estimates are of the same documents."]
    fig, (ax, lower) = new_figure(1, Y_LABEL, len(PAIR), caption, lower_in=0.9)
    legend = draw_series(ax, *panel)
    log_axes([ax], [panel])
    lower.axhline(0, color=GREY, linewidth=0.6, zorder=1)
    look = STYLES["direct_corrected"]
    difference = corrected - plain
    lower.plot(difference.index, difference, marker=look.marker, markersize=look.size, color=look.color, linewidth=0.6)
    lower.margins(y=0.15)
    lower.set_ylabel("corrected −\ndirect (nats)")
    put_legend(lower, *legend)
    return fig


def main(cfg: Settings) -> None:
    save(draw(read_results(cfg.results)), cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
