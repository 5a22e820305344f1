"""The sweep of an exponent from made-up CSVs: its points are those of sweep.csv, its caption tells the better laws."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from tests.plots.made_up import PLOTS, assert_texts_fit, bars_of, caption_of, fails, save, sweep_table, tables

# After made_up has put their folder on the path.
import style  # isort: skip
import sweep  # isort: skip

LENGTHS = 2 ** np.arange(2, 12)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "results", *tables())
    sweep_table().to_csv(tmp_path / "results" / "sweep.csv", index=False)
    return tmp_path / "results"


def draw(folder: Path):
    results = style.read_results(folder)
    return sweep.draw(results, sweep.read_sweep(results))


def test_draws_the_windows_of_sweep_csv(folder):
    fig = draw(folder)
    windows = sweep_table()
    windows = windows[windows["L_over_ell"] == 2]
    steps = windows[windows["dof"] == 0]
    panels = [
        (steps, np.sqrt(LENGTHS[:-1] * LENGTHS[1:])),
        (windows[windows["L_max"] == 2048], LENGTHS[:-1]),
        (windows[windows["L_min"] == 4], LENGTHS[1:]),
    ]
    for ax, (rows, where) in zip(fig.axes, panels, strict=True):
        assert ax.get_xscale() == "log"
        assert ax.get_ylim() == fig.axes[0].get_ylim()
        assert len(ax.containers) == 3
        drawn = []
        for container, estimator in zip(ax.containers, ("direct", "direct_corrected", "vclub"), strict=True):
            mine = rows[rows["estimator"] == estimator].sort_values(["L_min", "L_max"])
            L, beta, low, high = bars_of(container)
            assert beta == pytest.approx(mine["beta"].to_numpy())
            assert low == pytest.approx(mine["lo95"].to_numpy())
            assert high == pytest.approx(mine["hi95"].to_numpy())
            drawn.append(L / where)
        # Shifted by less than to the next length, each estimator its own way.
        assert drawn[0] == pytest.approx(drawn[0][0])
        assert 0.7 < drawn[0][0] < drawn[1][0] < drawn[2][0] < 1.4
        assert drawn[1] == pytest.approx(1)
        paper = [line.get_ydata()[0] for line in ax.get_lines() if line.get_gid() == "paper"]
        assert paper == [0.76, 0.71]
    assert [ax.get_title() for ax in fig.axes] == [
        "Local slopes",
        "Fits that end at L = 2048",
        "Fits that begin at L = 4",
    ]
    (legend,) = (ax.get_legend() for ax in fig.axes if ax.get_legend())
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels[:3] == ["direct", "direct, corrected", "vCLUB"]
    assert labels[3:] == ["paper, PG19, 405B: direct 0.76", "paper, PG19, 405B: vCLUB 0.71"]
    assert_texts_fit(fig)


def test_the_caption_names_the_laws_of_the_smallest_aicc(folder):
    """power 13.0 and saturating 14.5 lie within 2, the logarithm at 96 does not; the line without weights has none."""
    assert caption_of(draw(folder)).endswith(
        "Law with the smallest AICc (or within 2 of it), L = 8 to 1024: direct: power (p = 0.32) or saturating (p = "
        "0.4); direct, corrected: power (p = 0.32) or saturating (p = 0.4); vCLUB: power (p = 0.32) or saturating (p = "
        "0.4). p: how often points that follow the law would miss it by more."
    )


def test_the_caption_tells_ranges_apart_and_small_p(tmp_path):
    bipartite, fits = tables()
    vclub = fits["estimator"] == "vclub"
    fits.loc[vclub, "L_min"] = 32
    fits.loc[vclub & (fits["law"] == "saturating"), ["aicc", "p_value"]] = 12.0, 1e-7
    fits = fits[(fits["estimator"] != "direct_corrected")]
    sweep_table().to_csv(save(tmp_path, bipartite, fits) / "sweep.csv", index=False)
    caption = caption_of(draw(tmp_path))
    assert "L = 8 to 1024: direct: power (p = 0.32) or saturating (p = 0.4). Law" in caption
    assert "L = 32 to 1024: vCLUB: saturating (p < 0.001) or power (p = 0.32). p: how often" in caption


def test_draws_what_there_is(tmp_path):
    """No fits, an estimator without windows, intervals that are open, a bar far longer than the others."""
    bipartite, fits = tables()
    windows = sweep_table()
    windows = windows[windows["estimator"] != "direct_corrected"]
    vclub = (windows["estimator"] == "vclub") & (windows["L_over_ell"] == 2)
    windows.loc[vclub & (windows["L_min"] == 4), ["lo95", "hi95"]] = np.nan
    windows.loc[vclub & (windows["L_max"] == 2048), "hi95"] = 50.0
    windows.to_csv(save(tmp_path, bipartite, fits[:0]) / "sweep.csv", index=False)
    fig = draw(tmp_path)
    assert [len(ax.containers) for ax in fig.axes] == [2, 2, 2]
    assert "AICc" not in caption_of(fig)
    low, high = fig.axes[0].get_ylim()
    assert low < windows.loc[windows["L_over_ell"] == 2, "beta"].min()
    assert high < 1.2, "a long bar does not stretch the axis"


def test_panels_may_be_empty(folder):
    windows = sweep_table()
    windows[(windows["L_max"] == 32) & (windows["L_min"] == 16)].to_csv(folder / "sweep.csv", index=False)
    assert [len(ax.containers[0].lines[0].get_xdata()) for ax in draw(folder).axes] == [1, 0, 0]


# Command line


def test_writes_beside_the_csvs(folder, tmp_path):
    done = subprocess.run([sys.executable, PLOTS / "sweep.py", "--results", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"wrote {folder}/sweep.png and {folder}/sweep.pdf\n"
    assert image.imread(folder / "sweep.png").shape[1] == 1400
    assert (folder / "sweep.pdf").read_bytes().startswith(b"%PDF")
    sweep.main(sweep.Settings(folder, out=tmp_path / "new" / "x.png"))
    assert (tmp_path / "new" / "x.png").read_bytes() == (folder / "sweep.png").read_bytes()


@pytest.mark.parametrize("keep", [lambda t: t[:0], lambda t: t[t["L_over_ell"] == 3]])
def test_no_windows_are_no_fault(folder, capsys, keep):
    """Points too near 0 have no exponent: the line says so, and what called it goes on."""
    keep(sweep_table()).to_csv(folder / "sweep.csv", index=False)
    sweep.main(sweep.Settings(folder))
    assert "no sweep.png: too few points" in capsys.readouterr().out
    assert not (folder / "sweep.png").exists()


BAD = {
    "missing": (None, "no file {}: check the name, or make it with python measure_mutual_info/estimate_bipartite.py"),
    "column": (lambda t: t.drop(columns=["dof", "beta"]), "{} lacks the columns beta, dof: make it with"),
    "no number": (lambda t: t.assign(beta="steep"), "{}, line 2: beta is 'steep', not a number: make it with"),
    "nan": (lambda t: t.assign(L_min=np.nan), "{}, line 2: L_min is '', not a finite number: make it with"),
    "estimator": (lambda t: t.assign(estimator="infonce"), "{}: unknown estimator 'infonce'; known: direct, direct_c"),
    "other run": (
        lambda t: t.assign(source="news"),
        "{} is of news, tiny-model, bipartite.csv of books, tiny-model: k",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_csv(folder, tmp_path, monkeypatch, capsys, case):
    change, message = BAD[case]
    path = folder / "sweep.csv"
    if change:
        change(sweep_table()).to_csv(path, index=False)
    else:
        path.unlink()
    line = fails(monkeypatch, capsys, sweep, "--results", folder, "--out", tmp_path / "x")
    assert message.format(path) in line
    assert not list(tmp_path.glob("x*"))


def test_estimators_of_other_points(tmp_path, monkeypatch, capsys):
    bipartite, fits = tables()
    windows = sweep_table()
    folder = save(tmp_path, bipartite[bipartite["estimator"] == "direct"], fits)
    windows[windows["estimator"] == "vclub"].to_csv(folder / "sweep.csv", index=False)
    line = fails(monkeypatch, capsys, sweep, "--results", folder)
    assert "bipartite.csv and sweep.csv share no estimator: make it with" in line
