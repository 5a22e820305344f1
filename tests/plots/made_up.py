"""Shared by the tests of figures: changed copies of committed CSVs, contents of panels, and whether texts fit."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.legend import Legend

from tests.conftest import ROOT, call_script, one_line_error

matplotlib.use("Agg")
RESULTS = ROOT / "results"
sys.path.insert(0, str(ROOT / "plots"))  # as when a script runs: its own folder comes first


def committed(folder: Path, *names: str, **changes: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
    """Copy CSVs of results/ with their rows reversed, because the order of rows must not matter.

    changes: name of a CSV → a function that changes its table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in (RESULTS / f"{name}.csv" for name in names):
        table = pd.read_csv(path)[::-1]
        changes.get(path.stem, lambda same: same)(table).to_csv(folder / path.name, index=False)
        if path.stem == "coverage":
            (folder / "coverage.json").write_bytes(path.with_suffix(".json").read_bytes())
    return folder


def assert_points(container, x, y, low=None, high=None) -> None:
    """Assert the points and the ends of their bars, in any order of x."""
    points, _, bars = container.lines
    order = np.argsort(points.get_xdata())
    assert points.get_xdata()[order] == pytest.approx(np.sort(x))
    expected = np.argsort(np.asarray(x))
    assert points.get_ydata()[order] == pytest.approx(np.asarray(y)[expected])
    if low is not None:
        ends = np.array(bars[0].get_segments())[:, :, 1][order]
        assert ends[:, 0] == pytest.approx(np.asarray(low)[expected])
        assert ends[:, 1] == pytest.approx(np.asarray(high)[expected])


def gid(ax, name: str) -> list:
    """The lines of a panel with this gid."""
    return [line for line in ax.get_lines() if line.get_gid() == name]


def labels(where) -> list[str]:
    """The labels of the first legend of a panel or figure."""
    return [text.get_text().replace("\n", " ") for text in where.findobj(Legend)[0].get_texts()]


def refusal(script: str, *arguments: object) -> str:
    """The error line of a script that refuses these arguments."""
    return one_line_error(call_script(script, *arguments))


def draw(printed: str) -> None:
    """Draw in this process, which saves the seconds of imports, what a shell file printed with `printer`."""
    for line in printed.splitlines():
        if line.startswith("plots/"):
            drawn = call_script(*line.split("\t"))
            assert drawn.returncode == 0, drawn.stderr


def assert_texts_fit(fig) -> None:
    """Assert that no label, title or legend covers a panel or another text, and that tick labels do not overlap."""
    fig.draw_without_rendering()  # lays the texts out
    texts = [label for ax in fig.axes for label in (ax.xaxis.label, ax.yaxis.label, ax.title) if label.get_text()]
    boxes = [text.get_window_extent() for text in [*texts, *fig.findobj(Legend)]]
    panels = [ax.get_window_extent() for ax in fig.axes]
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in [*panels, *boxes[:index]])
    for ax in fig.axes:
        ticks = [label for label in ax.get_xticklabels() if label.get_text()]
        ends = sorted((box.x0, box.x1) for box in (label.get_window_extent() for label in ticks))
        assert all(left[1] < right[0] for left, right in itertools.pairwise(ends))
