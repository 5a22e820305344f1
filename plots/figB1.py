"""Fig. B.1: bipartite mutual information I(L/2; L) of several corpora or models side by side.

    python plots/figB1.py --results results/fig2b results/figB1/wikipedia

Reads bipartite.csv and fit.csv (estimate_bipartite.py) from each folder. Writes results/figB1/figB1.png and .pdf: a
panel a folder, titled with its corpus and model, all with the same y axis; points and lines as in Fig. 2b.

Hardware: one CPU core, two seconds. Expect straight lines in log-log, with 0 < β < 1 for each corpus and model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fig2b import ESTIMATORS, RATIO, Y_LABEL
from matplotlib.figure import Figure
from style import Results, draw_panels, read_results, save

from common.cli import UserError, run


@dataclass(frozen=True)
class Settings:
    results: tuple[Path, ...]
    """folders with bipartite.csv and fit.csv, a panel each"""
    out: Path = Path("results/figB1/figB1")
    """where to write, without the suffix"""


def draw(results: list[Results]) -> Figure:
    """A panel for each. UserError: one has no points that a logarithmic axis can show."""
    panels = [(one, one.present(ESTIMATORS, RATIO), RATIO) for one in results]
    titles = [f"{one.source}, {one.model}" for one in results]
    sources = [one.source for one in results]
    return draw_panels(panels, titles, Y_LABEL, names=sources if len(set(sources)) == len(sources) else titles)


def main(cfg: Settings) -> None:
    if not cfg.results:
        raise UserError("--results names no folder: give one or more with bipartite.csv and fit.csv")
    save(draw([read_results(folder) for folder in cfg.results]), cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
