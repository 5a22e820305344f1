"""Fig. 2c: two-point mutual information I(W_i; W_{i+d}) of a corpus against the distance d, with the fitted exponent α.

    python plots/fig2c.py --results results/fig2c

Reads two_point.csv and fit.csv (estimate_two_point.py) from the folder. Writes results/fig2c/fig2c.png and .pdf:
Grassberger's Î(d) less the plateau C, the line A · d^−α of the fit that C is of, and the paper's published line.

Hardware: one CPU core, two seconds. Expect a straight line in log-log; for PG19 and tokens of Llama 3.1 the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from style import save
from two_point import TwoPoint, columns, draw_panels, read_two_point

from common.cli import run


@dataclass(frozen=True)
class Settings:
    results: Path = Path("results/fig2c")
    """folder with two_point.csv and fit.csv"""
    out: Path = Path("results/fig2c/fig2c")
    """where to write, without the suffix"""


def draw(results: TwoPoint) -> Figure:
    """One panel. UserError: no points that a logarithmic axis can show."""
    return draw_panels([(results, columns(results))])


def main(cfg: Settings) -> None:
    save(draw(read_two_point(cfg.results)), cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
