"""Fig. B.5: two-point mutual information with and without its plateau: Î(d), and Î(d) − C.

    python plots/figB5.py --results results/fig2c results/figB4/wikipedia

Reads two_point.csv and fit.csv (estimate_two_point.py) from each folder, the same runs as those of Figs. 2c and B.4.
Writes results/figB5/figB5.png and .pdf: a panel a folder with both, and the fitted A · d^−α + C and A · d^−α.

Hardware: one CPU core, two seconds. Expect Î to level off at C, where the entropy of the pairs lacks more than those of
their tokens, and Î − C to fall on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from style import save
from two_point import STYLES, TwoPoint, draw_panels, read_two_point

from common.cli import UserError, run


@dataclass(frozen=True)
class Settings:
    results: tuple[Path, ...]
    """folders with two_point.csv and fit.csv, a panel each"""
    out: Path = Path("results/figB5/figB5")
    """where to write, without the suffix"""


def draw(results: list[TwoPoint]) -> Figure:
    """A panel for each, of Î alone where nothing was taken off. UserError: one has no point above 0."""
    panels = [(one, list(STYLES) if one.corrected else ["mi_nats"]) for one in results]
    return draw_panels(panels, [f"{one.source}, {one.tokenizer}" for one in results])


def main(cfg: Settings) -> None:
    if not cfg.results:
        raise UserError("--results names no folder: give one or more with two_point.csv and fit.csv")
    save(draw([read_two_point(folder) for folder in cfg.results]), cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
