"""Fig. B.2: bipartite mutual information I(ell; L) against L at L = 2 ell, 3 ell and 4 ell.

    python plots/figB2.py --results results/fig2b

Reads bipartite.csv and fit.csv (estimate_bipartite.py) from the folder, the same run as Fig. 2b's. Writes
results/figB2/figB2.png and .pdf: a panel a ratio, all with the same y axis, with direct_corrected (direct where there
is none) and vclub, each with its line A · L^β.

Hardware: one CPU core, two seconds. Expect nearly the same β at every ratio.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from style import Results, draw_panels, read_results, save

from common.cli import run

RATIOS = (2, 3, 4)  # L/ell
Y_LABEL = "Bipartite mutual information\nI(ℓ; L) (nats)"


@dataclass(frozen=True)
class Settings:
    results: Path = Path("results/fig2b")
    """folder with bipartite.csv and fit.csv"""
    out: Path = Path("results/figB2/figB2")
    """where to write, without the suffix"""


def draw(results: Results) -> Figure:
    """A panel for each ratio. UserError: one has no points that a logarithmic axis can show."""
    direct = "direct_corrected" if (results.bipartite["estimator"] == "direct_corrected").any() else "direct"
    panels = [(results, results.present((direct, "vclub"), ratio), ratio) for ratio in RATIOS]
    titles = [f"L = {ratio}ℓ" for ratio in RATIOS]
    return draw_panels(panels, titles, Y_LABEL)


def main(cfg: Settings) -> None:
    save(draw(read_results(cfg.results)), cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
