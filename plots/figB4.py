"""Fig. B.4: two-point mutual information I(W_i; W_{i+d}) of several corpora side by side.

    python plots/figB4.py --results results/fig2c results/figB4/wikipedia

Reads two_point.csv and fit.csv (estimate_two_point.py) from each folder. Writes results/figB4/figB4.png and .pdf: a
panel a folder, titled with its corpus and tokenizer, all with the same y axis; points and lines as in Fig. 2c.

Hardware: one CPU core, two seconds. Expect straight lines in log-log for each corpus, each with its own α.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from style import save
from two_point import TwoPoint, columns, draw_panels, read_two_point

from common.cli import UserError, run


@dataclass(frozen=True)
class Settings:
    results: tuple[Path, ...]
    """folders with two_point.csv and fit.csv, a panel each"""
    out: Path = Path("results/figB4/figB4")
    """where to write, without the suffix"""


def draw(results: list[TwoPoint]) -> Figure:
    """A panel for each. UserError: one has no points that a logarithmic axis can show."""
    return draw_panels([(one, columns(one)) for one in results], [f"{one.source}, {one.tokenizer}" for one in results])


def main(cfg: Settings) -> None:
    if not cfg.results:
        raise UserError("--results names no folder: give one or more with two_point.csv and fit.csv")
    save(draw([read_two_point(folder) for folder in cfg.results]), cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
