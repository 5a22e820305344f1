"""How much of what the first half of a Gaussian sequence says about the second each model makes use of, against L.

    python plots/utilisation.py --results results/fig3

Not a figure of the paper. Reads summary.csv (evaluate.py) from the folder: utilisation = 1 − Σ_{i>L/2} D_i / I(L/2; L).
Writes results/fig3/utilisation.png and .pdf: a series a model against L, 1 for the exact law.

Hardware: one CPU core, two seconds. Expect, where training is long enough, attention to stay, and a fixed state to lose
its share as L grows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gaussian_models import INDEPENDENT, Models, draw_by_length, draw_independent, length_ticks, read_models
from matplotlib.figure import Figure
from style import GREY, new_figure, put_legend, save

from common.cli import run


@dataclass(frozen=True)
class Settings:
    results: Path = Path("results/fig3")
    """folder with summary.csv"""
    out: Path = Path("results/fig3/utilisation")
    """where to write, without the suffix"""


def draw(models: Models) -> Figure:
    caption = [
        f"{models.about()} U = 1 − Σ D_i / I(L/2; L), the sum over the second half: 1 exact, 0 no better than the "
        "exact law of the second half alone. Bars: from the least to the largest seed. Open: state grows with L."
    ]
    fig, (ax,) = new_figure(1, "Utilisation of I(L/2; L)", len(models.names) + 1, caption)
    handles, labels = draw_by_length(ax, models, models.names, "utilisation")
    (line,) = draw_independent(ax, models, "utilisation")
    length_ticks(ax, models.lengths)
    ax.axhline(1, color=GREY, linewidth=0.5, zorder=0)
    ax.axhline(0, color=GREY, linewidth=0.5, zorder=0)
    # The models decide; the predictor that ignores the past may run out at the bottom.
    values = models.summary.loc[models.summary["model"] != INDEPENDENT, "utilisation"]
    ax.set_ylim(min(values.min(), 0) - 0.05, 1.05)
    put_legend(ax, [*handles, line], [*labels, INDEPENDENT])
    return fig


def main(cfg: Settings) -> None:
    save(draw(read_models(cfg.results, positions=False)), cfg.out)


if __name__ == "__main__":
    run(main, Settings, __doc__)
