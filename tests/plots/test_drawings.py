"""Figs. 1 and 2a: drawn from nothing, the same bytes each time, no text beyond the edge."""

from __future__ import annotations

import io

import matplotlib.text
import pytest
from conftest import call_script

import tests.plots.made_up  # noqa: F401  # it puts plots/ on the path

import drawings  # isort: skip


@pytest.mark.parametrize("draw", [drawings.draw_fig1, drawings.draw_fig2a])
def test_texts_stay_within_the_figure_and_apart(draw):
    fig = draw()
    fig.savefig(io.BytesIO())
    texts = [text for text in fig.findobj(matplotlib.text.Text) if text.get_text().strip() and text.get_visible()]
    boxes = [text.get_window_extent() for text in texts]
    assert len(boxes) >= 5
    for i, box in enumerate(boxes):
        assert fig.bbox.x0 <= box.x0 < box.x1 <= fig.bbox.x1
        assert fig.bbox.y0 <= box.y0 < box.y1 <= fig.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:i])
    assert min(text.get_fontsize() for text in texts) >= 7


def test_command_line(tmp_path):
    for folder in ("one", "two"):
        assert call_script("plots/drawings.py", "--out", tmp_path / folder).returncode == 0
    for name in ("fig1.png", "fig2a.png", "fig1.pdf", "fig2a.pdf"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
