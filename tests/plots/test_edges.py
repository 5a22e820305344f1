"""Pictures at the edge, script by script: names that the font cannot draw, axes with nothing or little to show."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from tests.conftest import call_script, one_line_error
from tests.plots.made_up import assert_texts_fit, caption_of, save_coverage
from tests.test_damaged_files import CASES, CONDITION, FIG2B, FIG2C, FIG3, FIG4, FIGC6, drawn

import style  # isort: skip  # after made_up has put its folder on the path

SCRIPTS = [case for case in CASES if case[0].startswith("plots")]
NAMES = {"source", "model", "tokenizer", "model_a", "model_b", "leads_at_the_end", "family"}
NAME = "紅樓夢 रामायण 🦙 é"
SPELT = "\\u7d05\\u6a13\\u5922 \\u0930\\u093e\\u092e\\u093e\\u092f\\u0923 \\U0001f999 é"


@pytest.fixture
def figures(monkeypatch) -> list[Figure]:
    """Those that were to be saved, laid out but not written, which takes most of the time."""
    found = []

    def lay_out(fig: Figure, *_, **__) -> None:
        fig.draw_without_rendering()
        found.append(fig)

    monkeypatch.setattr(Figure, "savefig", lay_out)
    return found


def change(path: Path, how) -> None:
    how(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(path, index=False)


def renamed(table: pd.DataFrame) -> pd.DataFrame:
    for column in NAMES & {*table.columns}:
        table[column] = [old if old == "independent" else f"{NAME} {old}" for old in table[column]]
    return table


def calibration(folder: Path) -> list[object]:
    return ["--results", save_coverage(folder, [NAME]), "--out", folder]


@pytest.mark.parametrize(("script", "make"), [*SCRIPTS, ("plots/calibration.py", calibration)])
def test_names_that_the_font_cannot_draw_are_spelt_out(script, make, tmp_path, figures):
    arguments = make(tmp_path)
    for path in tmp_path.glob("*.csv"):
        change(path, renamed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a glyph that is missing
        done = call_script(script, *arguments)
    assert done.returncode == 0, done.stderr
    said = "".join(text.get_text() for fig in figures for text in fig.findobj(Text))
    assert SPELT.replace(" ", "") in "".join(said.split())


def test_ordinary_names_stay():
    for name in ("pg19", "Llama-3.1-8B, Q4_1 (é, ß, ÿ)", "Война и мир", "ℓ·10⁷", r"a\b$c$"):
        assert style.drawable(name) == name


@pytest.mark.parametrize(
    ("script", "tables", "figure", "column"),
    [
        *(("bipartite.py", FIG2B, figure, "bipartite.mi_nats") for figure in ("2b", "B.1", "B.2", "B.3", "sweep")),
        *(("two_point.py", FIG2C, figure, "two_point.d_tokens") for figure in ("2c", "B.4", "B.5")),
        ("bipartite.py", FIG2B, "2b", "bipartite.L_tokens"),
        ("bipartite.py", FIG2B, "sweep", "sweep.L_min"),
        ("gaussian_models.py", FIG3, "3", "summary.mean_kl_nats"),
        ("gaussian_models.py", FIG3, "3", "summary.mi_nats"),
        ("gaussian_models.py", FIG3, "utilisation", "summary.L"),
        ("gaussian_models.py", FIG3, "training", "training.kl_nats"),
        ("gaussian_models.py", FIG3, "training", "training.step"),
        ("gaussian_models.py", FIG3, "G.7", "kl.kl_nats"),
        ("books.py", FIG4, "", "gap.position"),
        ("families.py", FIGC6, "", "rank.L"),
        ("condition.py", CONDITION, "", "state.context_tokens"),
        ("condition.py", CONDITION, "", "state.state_elements"),
    ],
)
def test_nothing_for_a_logarithmic_axis(script, tables, figure, column, tmp_path):
    table, column = column.split(".")
    arguments = drawn(*tables, figure=figure)(tmp_path)
    change(tmp_path / f"{table}.csv", lambda t: t.assign(**{column: "0"}))
    said = one_line_error(call_script(f"plots/{script}", *arguments))
    assert f"{tmp_path / table}.csv" in said
    assert column in said or "0 nats" in said
    assert not list(tmp_path.glob("figure*"))


def test_a_position_that_a_logarithmic_axis_has_not(tmp_path):
    done = call_script("plots/books.py", *drawn(*FIG4)(tmp_path), "--from-position", 0)
    assert "--from-position 0: give 1 or more" in one_line_error(done)


def test_one_panel_of_fig_c6_with_nothing_above_0(tmp_path, figures):
    """Two positions may be independent where two halves are not."""
    arguments = drawn(*FIGC6)(tmp_path)
    change(tmp_path / "two_point.csv", lambda t: t.assign(mi_nats="0"))
    assert call_script("plots/families.py", *arguments).returncode == 0
    assert [[text.get_text() for text in ax.texts] for ax in figures[0].axes] == [[], ["all 0"], []]
    assert "▾: no information." in caption_of(figures[0])
    assert_texts_fit(figures[0])


def test_a_condition_without_lines(tmp_path):
    arguments = drawn(*CONDITION)(tmp_path)
    change(tmp_path / "state.csv", lambda t: t[t["context_tokens"] == "256"])
    assert "share no two L, so nothing to draw" in one_line_error(call_script("plots/condition.py", *arguments))


def labels(axis) -> dict[float, str]:
    """The labels that are seen, by their place."""
    low, high = sorted(axis.get_view_interval())
    ticks = zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=True)
    return {at: label.get_text() for at, label in ticks if low <= at <= high and label.get_text()}


@pytest.mark.parametrize("factor", [1.2, 2.5, 9, 70])
@pytest.mark.parametrize("low", [0.0031, 1.7, 23_000])
def test_axes_have_ticks_whatever_their_range(low, factor, tmp_path):
    """Labels tell the place of their tick, though no power of ten is within."""
    fig, (ax,) = style.new_figure(1, "y", 1, [])
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(low, low * factor)
    ax.set_ylim(low, low * factor)
    style.plain_ticks(ax.xaxis, low, low * factor, base=10, room=8)
    style.plain_ticks(ax.yaxis, low, low * factor, base=2, room=8)
    fig.draw_without_rendering()
    assert min(len(labels(ax.xaxis)), len(labels(ax.yaxis))) >= 2
    for at, label in (labels(ax.xaxis) | labels(ax.yaxis)).items():
        assert float(label) == pytest.approx(at)


def test_a_condition_within_a_decade(tmp_path, figures):
    """As of a few models of one size, from 2,000 to 8,000 tokens: no power of ten on either axis."""
    arguments = drawn(*CONDITION)(tmp_path)
    for name, at, column in (
        ("state", "context_tokens", "state_elements"),
        ("required", "L_tokens", "required_elements"),
    ):
        table = pd.read_csv(tmp_path / f"{name}.csv").query(f"500 <= {at} <= 5000")
        table[column] = np.linspace(23_000, 41_000, len(table))
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    assert call_script("plots/condition.py", *arguments).returncode == 0
    left = figures[0].axes[0]
    assert labels(left.xaxis) == {2000: "2k", 5000: "5k"}
    assert labels(left.yaxis) == {20_000: "20k", 50_000: "50k"}
