"""What a figure cannot show is refused in one line that names the file; odd names and short axes are drawn."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from tests.conftest import call_script
from tests.plots.made_up import assert_texts_fit, committed, refusal

# After made_up has put their folder on the path.
import bipartite  # isort: skip
import families  # isort: skip
import style  # isort: skip
import two_point  # isort: skip

CSVS = {
    "bipartite": ["fig2b/bipartite", "fig2b/fit", "fig2b/sweep"],
    "two_point": ["fig2c/two_point", "fig2c/fit", "fig2c/sweep"],
    "gaussian_models": ["fig3/summary", "fig3/kl", "fig3/training"],
    "books": ["figG9/smooth", "figG9/summary", "figG9/gap", "figG9/crossover"],
    "families": [f"figC6/subvolume/{name}" for name in ("gaussian_mi", "two_point", "rank", "fit")],
    "calibration": ["calibration/markov/coverage"],
}
BAD = [
    ("bipartite 2b", "bipartite", lambda t: t.drop(columns=["stderr_nats", "n_documents"]), "lacks the columns stderr"),
    ("bipartite 2b", "bipartite", lambda t: t.assign(mi_nats="many"), "line 2: mi_nats is 'many', not a number"),
    ("bipartite 2b", "bipartite", lambda t: t.assign(mi_nats=np.inf), "mi_nats is 'inf', not a finite number"),
    ("bipartite 2b", "bipartite", lambda t: t.assign(L_tokens=0), "L_tokens is '0', not a number above 0"),
    ("bipartite 2b", "bipartite", lambda t: t[:0], "has no rows, so nothing to draw"),
    ("bipartite 2b", "bipartite", lambda t: pd.concat([t, t]), "has rows twice"),
    ("bipartite 2b", "bipartite", lambda t: t.assign(mi_nats=-1.0), "above 0 at L = 2 ell"),
    ("bipartite 2b", "sweep", lambda t: t.assign(estimator="mine"), "unknown estimator 'mine'"),
    ("bipartite 2b", "fit", lambda t: t.assign(source="news"), "news, SmolLM2"),
    ("bipartite B.2", "bipartite", lambda t: t[t["L_tokens"] != 4 * t["ell_tokens"]], "above 0 at L = 4 ell"),
    ("bipartite B.3", "bipartite", lambda t: t[t["estimator"] == "direct"], "no direct_corrected at L = 2 ell"),
    ("two_point 2c", "two_point", lambda t: t.assign(estimator=t["estimator"] + "x"), "no rows of grassberger"),
    ("two_point 2c", "two_point", lambda t: t.assign(mi_corrected_nats=-1.0), "all points are at or below 0 nats"),
    (
        "two_point B.5",
        "two_point",
        lambda t: t.assign(mi_corrected_nats=t["mi_corrected_nats"].where(t["d_tokens"] > 8)),
        "mi_corrected_nats at some distances only",
    ),
    ("gaussian_models 3", "summary", lambda t: t[t["model"] == "independent"], "has no models"),
    ("gaussian_models 3", "summary", lambda t: t.assign(mean_kl_nats=0), "mean_kl_nats is nowhere above 0"),
    (
        "gaussian_models utilisation",
        "summary",
        lambda t: pd.concat([t.assign(model=t["model"] + str(i)) for i in range(3)]),
        "at most 14 can be told apart",
    ),
    ("gaussian_models G.7", "kl", lambda t: t[t["L"] != 64], "--L 64"),
    ("gaussian_models training", "training", lambda t: t[:0], "has no rows"),
    ("books", "gap", lambda t: t.assign(model_a="other"), "are of different models"),
    ("books", "gap", lambda t: t.assign(L=4096), "are of L = 512, 4096"),
    (
        "books",
        "summary",
        lambda t: t.assign(kind="one"),
        "5 models of 1 kinds: at most 4 of each",
    ),
    (
        "books",
        "gap",
        lambda t: pd.concat([t.assign(model_b=name) for name in {*t["model_a"], *t["model_b"]}]),
        "8 pairs: at most 7",
    ),
    ("families", "gaussian_mi", lambda t: t[t["ell"] != t["L"] // 2], "has not one value at L/2"),
    ("families", "rank", lambda t: t.assign(copies=64), "keep one family and copies in a folder"),
    ("calibration", "coverage", lambda t: t[t["estimator"] == "direct"], "no mi of vclub with the exact predictor"),
    ("calibration", "coverage", lambda t: pd.concat([t, t.assign(process="x")]), "one process in a folder"),
    (
        "calibration",
        "coverage",
        lambda t: pd.concat([t.assign(n_documents=n) for n in range(5)]).drop_duplicates(
            ["predictor", "estimator", "n_documents", "quantity", "L_tokens"]
        ),
        "5 numbers of documents",
    ),
]


def arguments(what: str, folder, **changes) -> list[object]:
    """Script and flags of a figure, such as "bipartite 2b", whose CSVs are changed."""
    script, *figure = what.split()
    committed(folder / "one" if script == "calibration" else folder, *CSVS[script], **changes)
    return [
        f"plots/{script}.py",
        *(["--figure", *figure] if figure else []),
        "--results",
        folder,
        "--out",
        folder / "x",
    ]


@pytest.mark.parametrize(("what", "name", "change", "said"), BAD)
def test_bad_csvs(what, name, change, said, tmp_path):
    line = refusal(*arguments(what, tmp_path, **{name: change}))
    assert said in line
    assert str(tmp_path) in line or "--L" in line or "told apart" in line or "numbers of" in line
    assert not list(tmp_path.glob("x*"))


def test_bad_flags_and_missing_files(tmp_path):
    script, *flags = arguments("bipartite B.2", tmp_path)
    assert "--results names 0 folders" in refusal(script, "--results", "--out", tmp_path / "x")
    assert "--results names 2 folders" in refusal(script, "--results", tmp_path, "/", "--out", tmp_path / "x")
    assert "fit.csv" in refusal(script, *flags[:-1], tmp_path / "fit.csv" / "x")
    (tmp_path / "fit.csv").write_bytes(b"")
    assert "fit.csv is no CSV table" in refusal(script, *flags)
    (tmp_path / "fit.csv").unlink()
    assert f"no file {tmp_path}/fit.csv: check the name, or make it with python measure" in refusal(script, *flags)
    assert "--results names no folder" in refusal("plots/two_point.py", "--results", "--out", tmp_path / "x")
    assert "give 1 to 4" in refusal("plots/families.py", "--results", "--out", tmp_path / "x")
    assert "--from-position 0" in refusal(*arguments("books", tmp_path / "books"), "--from-position", 0)
    script, *flags = arguments("gaussian_models G.7", tmp_path / "models")
    assert "--L 17" in refusal(script, *flags, "--L", 17)
    assert "--row 0" in refusal(script, *flags, "--row", 0)
    assert "no file" in refusal("plots/calibration.py", "--results", tmp_path / "none")
    script, *flags = arguments("calibration", tmp_path / "processes")
    (tmp_path / "processes/one/coverage.json").write_text('{"settings": 1}')
    assert "coverage.json is not there or tells no ratio" in refusal(script, *flags)
    assert "is a file: give a folder" in refusal(script, *flags[:-1], tmp_path / "processes/one/coverage.json")


def test_families_of_different_copies(tmp_path):
    folders = [committed(tmp_path / name, *CSVS["families"]) for name in ("one", "two")]
    for path in (tmp_path / "two").glob("*.csv"):
        if path.stem != "fit":
            pd.read_csv(path).assign(copies=2).to_csv(path, index=False)
    assert "numbers of copies" in refusal("plots/families.py", "--results", *folders, "--out", tmp_path / "x")


@pytest.mark.parametrize("keep", [lambda t: t[:0], lambda t: t[t["L_over_ell"] == 3]])
def test_a_sweep_without_windows_is_no_fault(tmp_path, keep):
    """Points too near 0 have no exponent: the line says so, and what called it goes on."""
    done = call_script(*arguments("bipartite sweep", tmp_path, sweep=keep))
    assert done.returncode == 0
    assert "x.png: too few points" in done.stdout
    assert not list(tmp_path.glob("x*"))


def test_without_fits_windows_and_errors(tmp_path):
    folder = committed(tmp_path / "1", *CSVS["bipartite"], fit=lambda t: t[:0], sweep=lambda t: t[:0])
    assert_texts_fit(bipartite.draw("2b", [bipartite.read_results(folder)]))
    lost = {name: np.nan for name in ("mi_corrected_nats", "stderr_nats", "plateau_nats")}
    empty = {name: lambda t: t[:0] for name in ("fit", "sweep")}
    folder = committed(
        tmp_path / "2", *CSVS["two_point"], two_point=lambda t: t.assign(**lost, plateau_law=""), **empty
    )
    for figure in ("2c", "B.5"):
        assert_texts_fit(two_point.draw(figure, [two_point.read_two_point(folder)]))


NAME = "紅樓夢 रामायण 🦙 é $x$"
SPELT = "\\u7d05\\u6a13\\u5922 \\u0930\\u093e\\u092e\\u093e\\u092f\\u0923 \\U0001f999 é \\$x\\$"


def test_names_that_the_font_cannot_draw_are_spelt_out(tmp_path):
    def renamed(rows: pd.DataFrame) -> pd.DataFrame:
        return rows.assign(source=NAME)

    folder = committed(tmp_path, *CSVS["bipartite"], bipartite=renamed, fit=renamed, sweep=renamed)
    fig = bipartite.draw("B.1", [bipartite.read_results(folder)] * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a glyph that is missing
        fig.draw_without_rendering()
    said = "".join(text.get_text() for text in fig.findobj(Text))
    assert "".join(SPELT.split()) in "".join(said.split())
    for name in ("pg19", "Llama-3.1-8B, Q4_1 (é, ß, ÿ)", "Война и мир", "ℓ·10⁷", r"a\b"):
        assert style.drawable(name) == name


@pytest.mark.parametrize("factor", [1.2, 2.5, 9, 70])
@pytest.mark.parametrize("low", [0.0031, 1.7, 23_000])
def test_axes_have_ticks_whatever_their_range(low, factor):
    """Labels tell the place of their tick, though no power of ten is within."""
    fig, (ax,), _ = style.new_figure(1, "y")
    style.log_axis(ax.xaxis, [low, low * factor], "x")
    style.log_axis(ax.yaxis, [0, -1, low, low * factor], "y")
    fig.draw_without_rendering()
    for axis in (ax.xaxis, ax.yaxis):
        bottom, top = axis.get_view_interval()
        assert bottom < low < low * factor < top < 2 * low * factor
        ticks = zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=True)
        seen = {at: label.get_text() for at, label in ticks if bottom <= at <= top and label.get_text()}
        assert len(seen) >= 2
        assert all(float(label) == pytest.approx(at) for at, label in seen.items())


def test_long_names_fit(tmp_path):
    def renamed(rows: pd.DataFrame) -> pd.DataFrame:
        return rows.assign(
            source="a-rather-long-name-of-a-corpus of some books", model="SmolLM2-135M-Instruct.Q4_1.gguf"
        )

    folder = committed(tmp_path, *CSVS["bipartite"], bipartite=renamed, fit=renamed, sweep=renamed)
    for panels in (1, 2, 3, 4):
        assert_texts_fit(bipartite.draw("B.1", [bipartite.read_results(folder)] * panels))
    exact = families.read_exact(committed(tmp_path / "exact", *CSVS["families"]))
    assert_texts_fit(families.draw([exact] * 4))
