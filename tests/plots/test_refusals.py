"""CSVs that cannot be drawn are refused in one line that names the file; missing fits and short axes are drawn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.plots.made_up import assert_texts_fit, committed, refusal

# Imported after made_up has put plots/ on the path.
import bipartite  # isort: skip
import style  # isort: skip
import two_point  # isort: skip

CSVS = {
    "bipartite": ["fig2b/bipartite", "fig2b/sweep"],
    "two_point": ["fig2c/two_point", "fig2c/fit", "fig2c/sweep"],
    "gaussian_models": ["fig3/summary", "fig3/kl", "fig3/training"],
    "books": [f"figG9/{name}" for name in ("smooth", "summary", "gap", "crossover", "gains")],
    "families": [f"figC6/subvolume/{name}" for name in ("gaussian_mi", "two_point", "rank", "fit")],
    "calibration": ["calibration/markov/coverage"],
    "condition": [f"condition/{name}" for name in ("state", "condition", "required")],
}
BAD = [
    ("bipartite", "bipartite", lambda t: t.assign(mi_nats=np.inf), "mi_nats is 'inf', not a finite number"),
    ("bipartite", "bipartite", lambda t: t.assign(L_tokens=0), "L_tokens is '0', not a number above 0"),
    ("bipartite", "bipartite", lambda t: t[:0], "has no rows, so nothing to draw"),
    ("bipartite", "bipartite", lambda t: pd.concat([t, t]), "has rows twice"),
    ("bipartite", "bipartite", lambda t: t.assign(mi_nats=-1.0), "has no value above 0"),
    ("bipartite", "sweep", lambda t: t.assign(estimator="mine"), "unknown estimator 'mine'"),
    ("two_point", "two_point", lambda t: t.assign(estimator=t["estimator"] + "x"), "no rows of grassberger"),
    ("two_point", "fit", lambda t: t.assign(parameter="alpha", p_value=0.5), "cannot be drawn"),
    ("gaussian_models", "summary", lambda t: t[t["model"] == "independent"], "has no models"),
    ("gaussian_models G.7", "kl", lambda t: t[t["L"] != 64], "--L 64"),
    ("families", "gaussian_mi", lambda t: t[t["ell"] != t["L"] // 2], "needs exactly one value at L/2"),
    ("families", "rank", lambda t: t.assign(copies=64), "keep one family and copies in a folder"),
    ("calibration", "coverage", lambda t: t[t["estimator"] == "direct"], "no mi of direct or vclub with the exact"),
    ("condition", "state", lambda t: t[t["context_tokens"] == 500], "share no two L, so nothing to draw"),
]


def arguments(what: str, folder, **changes) -> list[object]:
    """Script and flags of a figure, such as "bipartite 2b", with changed copies of its CSVs."""
    script, *figure = what.split()
    committed(folder / "one" if script == "calibration" else folder, *CSVS[script], **changes)
    figure = ["--figure", *figure] if figure else []
    return [f"plots/{script}.py", *figure, "--results", folder, "--out", folder / "x"]


@pytest.mark.parametrize(("what", "name", "change", "said"), BAD)
def test_bad_csvs(what, name, change, said, tmp_path):
    line = refusal(*arguments(what, tmp_path, **{name: change}))
    assert said in line
    assert str(tmp_path) in line or "fit.csv" in line
    assert not list(tmp_path.glob("x*"))


def test_missing_files_and_numbers_of_folders(tmp_path):
    script, *flags = arguments("bipartite B.2", tmp_path)
    (tmp_path / "sweep.csv").unlink()
    assert f"no file {tmp_path}/sweep.csv: check the name, or make it with python measure" in refusal(script, *flags)
    assert "--results: give one or more" in refusal("plots/two_point.py", "--results", "--out", tmp_path / "x")
    assert "--results: give one or more" in refusal("plots/families.py", "--results", "--out", tmp_path / "x")


def test_without_fits_windows_and_errors(tmp_path):
    """Figures without fits, windows or errors are drawn, as when all points are near 0."""
    empty = {name: lambda t: t[:0] for name in ("fit", "sweep")}
    results = bipartite.read_results(committed(tmp_path / "1", *CSVS["bipartite"], **empty))
    for figure in ("2b", "sweep"):
        assert_texts_fit(bipartite.draw(figure, results))
    lost = dict.fromkeys(("mi_corrected_nats", "stderr_nats", "plateau_nats"), np.nan)
    change = {"two_point": lambda t: t.assign(**lost, plateau_law=""), **empty}
    folder = committed(tmp_path / "2", *CSVS["two_point"], **change)
    for figure in ("2c", "B.5"):
        assert_texts_fit(two_point.draw(figure, [two_point.read_two_point(folder)]))


@pytest.mark.parametrize("factor", [1.2, 2.5, 9, 70])
@pytest.mark.parametrize("low", [0.0031, 1.7, 23_000])
def test_axes_have_ticks_whatever_their_range(low, factor):
    """At least two ticks have labels, which state their values, even if no power of ten is in range."""
    fig, (ax,), _ = style.new_figure([""], "y")
    style.log_axis(ax.xaxis, [low, low * factor], "x")
    style.log_axis(ax.yaxis, [0, -1, low, low * factor], "y")
    fig.draw_without_rendering()
    for axis in (ax.xaxis, ax.yaxis):
        bottom, top = axis.get_view_interval()
        assert bottom < low < low * factor < top < 2 * low * factor
        ticks = zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=True)
        seen = {at: label.get_text() for at, label in ticks if bottom <= at <= top and label.get_text()}
        assert len(seen) >= 2
        plain = {at: label.replace("k", "e3").replace("M", "e6") for at, label in seen.items()}
        assert all(float(label) == pytest.approx(at) for at, label in plain.items())
