"""The pictures of the calibration from made-up CSVs: every point and bar is one of coverage.csv."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import image

from tests.plots.made_up import PLOTS, assert_texts_fit, bars_of, caption_of, coverage_table, fails, save_coverage

# After made_up has put their folder on the path.
import calibration  # isort: skip

TITLES = ["Noisy Santa Fe, β = 0.5, ε = 0.1", "Noisy Santa Fe, β = 0.75, ε = 0.1", "Markov chain"]
TITLES += ["Bernoulli(θ), θ uniform"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_coverage(tmp_path / "calibration")


def rows(predictor: str, estimator: str, n_documents: int, quantity: str = "mi") -> pd.DataFrame:
    table = coverage_table("markov")
    named = (table["predictor"] == predictor) & (table["estimator"] == estimator) & (table["quantity"] == quantity)
    return table[named & (table["n_documents"] == n_documents)].sort_values("L_tokens")


def labels_of(fig) -> list[str]:
    (legend,) = (ax.get_legend() for ax in fig.axes if ax.get_legend())
    return [text.get_text() for text in legend.get_texts()]


def test_overshoot_draws_means_against_the_exact_curve(folder):
    fig = calibration.draw_overshoot(calibration.read_processes(folder))
    slopes = "slope: exact 0.50, direct 0.52, vCLUB 4.00"
    assert [ax.get_title() for ax in fig.axes] == [f"{title}\n{slopes}" for title in TITLES]
    for ax in fig.axes:
        (truth,) = (line for line in ax.get_lines() if line.get_gid() == "truth")
        L = 2.0 ** np.arange(2, 12)
        assert truth.get_xdata() == pytest.approx(L)
        assert truth.get_ydata() == pytest.approx(L**0.5)
        drawn = [container.lines[0].get_ydata() for container in ax.containers]
        for values, predictor in zip(drawn, ("tempered", "sharpened", "limited_context", "wrong_bos"), strict=False):
            assert values == pytest.approx(rows(predictor, "direct", 1000)["mean"].to_numpy())
        for container, estimator in zip(ax.containers[4:], ("direct", "vclub"), strict=True):
            expected = rows("exact", estimator, 1000)
            x, mean, low, high = bars_of(container)
            assert x == pytest.approx(L)
            assert mean == pytest.approx(expected["mean"].to_numpy())
            assert low == pytest.approx((expected["mean"] - expected["sd"]).to_numpy())
            assert high == pytest.approx((expected["mean"] + expected["sd"]).to_numpy())
        low, high = ax.get_ylim()
        assert low < min(map(min, drawn))
        assert high > max(map(max, drawn))
    assert labels_of(fig) == ["exact I", "vCLUB", "direct"] + [
        f"direct, {name}" for name in ("wrong start", "limited context", "sharpened", "tempered")
    ]
    assert "Means over replications of 1,000 documents" in caption_of(fig)
    assert fig.axes[0].get_ylabel().replace("\n", " ") == "Mutual information I(L/2; L) (nats)"
    assert_texts_fit(fig)


def test_means_below_the_axis_stand_at_its_edge(folder):
    path = folder / "markov" / "coverage.csv"
    table = pd.read_csv(path)
    misspecified = (table["predictor"] == "tempered") & (table["quantity"] == "mi")
    table.loc[misspecified & (table["L_tokens"] <= 8), "mean"] = -0.5
    table.loc[misspecified & (table["L_tokens"] == 16), "mean"] = 1e-9
    table.to_csv(path, index=False)
    fig = calibration.draw_overshoot(calibration.read_processes(folder))
    below = [line.get_xdata().tolist() for line in fig.axes[2].get_lines() if line.get_gid() == "below"]
    assert [L for L in below if L] == [[4, 8, 16]]
    assert "▾: below the axis." in caption_of(fig)
    assert 0.5 < fig.axes[2].get_ylim()[0] < 2, "they do not stretch the axis"


def test_coverage_draws_intervals_of_i_and_beta(folder):
    fig = calibration.draw_coverage(calibration.read_processes(folder))
    assert [ax.get_title() for ax in fig.axes] == [
        f"{title}\nhalf-width of β: GLS 0.038, OLS 0.024" for title in TITLES
    ]
    for ax in fig.axes:
        for container, n in zip(ax.containers, (100, 1000), strict=True):
            expected = pd.concat([rows("exact", "direct", n, quantity) for quantity in ("mi", "beta_gls", "beta_ols")])
            x, covered, low, high = bars_of(container)
            assert covered == pytest.approx(expected["coverage"].to_numpy())
            assert low == pytest.approx(expected["coverage_lo95"].to_numpy())
            assert high == pytest.approx(expected["coverage_hi95"].to_numpy())
            places = dict(zip((text.get_text() for text in ax.get_xticklabels()), ax.get_xticks(), strict=True))
            named = [places[name] for name in ("4", "16", "64", "256", "1024", "β GLS", "β OLS")]
            assert np.abs(x[[0, 2, 4, 6, 8, 10, 11]] - named).max() < 0.4, "each above its label"
        low, _ = ax.get_ylim()
        assert low < 0.55, "ordinary least squares stands at its true value"
        (band,) = ax.patches
        assert band.get_y() == pytest.approx(0.93)
        assert band.get_height() == pytest.approx(0.04)
    assert labels_of(fig) == ["100 documents", "1,000 documents", "93% to 97%"]
    assert "Of 400 replications" in caption_of(fig)
    assert_texts_fit(fig)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_texts_fit_with_any_number_of_processes(tmp_path, count):
    names = [f"santa_fe_b0.{number}25_e0.125" for number in range(count)]
    processes = calibration.read_processes(save_coverage(tmp_path, names))
    for fig in calibration.draw_overshoot(processes), calibration.draw_coverage(processes):
        assert len(fig.axes) == count
        assert_texts_fit(fig)


def test_without_misspecified_predictors_and_with_other_processes(tmp_path):
    """One number of documents, one replication, no ordinary least squares, a process of an unknown name."""
    save_coverage(tmp_path, ["sunspots"])
    path = tmp_path / "sunspots" / "coverage.csv"
    table = pd.read_csv(path)
    table = table[(table["predictor"] == "exact") & (table["n_documents"] == 100) & (table["quantity"] != "beta_ols")]
    table.assign(sd=np.nan, replications=1).to_csv(path, index=False)
    processes = calibration.read_processes(tmp_path)
    fig = calibration.draw_overshoot(processes)
    assert fig.axes[0].get_title().startswith("sunspots\nslope: exact 0.50")
    assert labels_of(fig) == ["exact I", "vCLUB", "direct"]
    assert "misspecified" not in caption_of(fig)
    assert_texts_fit(fig)
    fig = calibration.draw_coverage(processes)
    assert fig.axes[0].get_title() == "sunspots\nhalf-width of β: GLS 0.038"
    assert labels_of(fig) == ["100 documents", "93% to 97%"]


# Command line


def test_writes_two_pictures(folder, tmp_path):
    out = tmp_path / "new folder"
    done = subprocess.run(
        [sys.executable, PLOTS / "calibration.py", "--results", folder, "--out", out], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == [
        f"{name}.{kind}" for name in ("calibration", "coverage") for kind in ("pdf", "png")
    ]
    assert image.imread(out / "coverage.png").shape[1] == 1400


def change(**columns: object):
    return lambda table: table.assign(**columns)


BAD = {
    "column": (lambda t: t.drop(columns=["truth", "coverage_lo95"]), "{} lacks the columns truth, coverage_lo95: make"),
    "no number": (change(mean="much"), "{}, line 2: mean is 'much', not a number: make it with"),
    "nan": (change(coverage=np.nan), "{}, line 2: coverage is '', not a finite number: make it with"),
    "empty": (lambda t: t[:0], "{} has no mi of direct with the exact predictor: make it with"),
    "misspecified only": (
        lambda t: t[t["predictor"] != "exact"],
        "{} has no mi of direct with the exact predictor: make",
    ),
    "no vclub": (lambda t: t[t["estimator"] == "direct"], "{} has no mi of vclub with the exact predictor: make it"),
    "no gls": (lambda t: t[t["quantity"] != "beta_gls"], "{} has no beta_gls of direct with the exact predictor: make"),
    "no lengths": (
        lambda t: t.assign(L_tokens=np.nan).drop_duplicates(calibration.KEY),
        "{} has no mi of direct with the exact predictor",
    ),
    "twice": (lambda t: pd.concat([t, t]), "{} has rows twice: make it with"),
    "two": (lambda t: pd.concat([t, t.assign(process="x")]), "{} is of markov and x: one process in a folder"),
    "below 0": (change(truth=-1.0, mean=-1.0), "no I above 0, which a logarithmic axis could show: make it with"),
    "many": (
        lambda t: pd.concat([t.assign(n_documents=n) for n in range(5)]).drop_duplicates(calibration.KEY),
        "5 numbers of documents, and at most 4 can be drawn",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_csv(tmp_path, monkeypatch, capsys, case):
    change, message = BAD[case]
    path = save_coverage(tmp_path / "calibration", ["markov"]) / "markov" / "coverage.csv"
    change(coverage_table("markov")).to_csv(path, index=False)
    line = fails(monkeypatch, capsys, calibration, "--results", tmp_path / "calibration", "--out", tmp_path / "x")
    assert message.format(path) in line
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"settings": {}}', '{"settings": 1}'])
def test_bad_record(folder, tmp_path, monkeypatch, capsys, text):
    record = folder / "markov" / "coverage.json"
    record.write_text(text)
    line = fails(monkeypatch, capsys, calibration, "--results", folder, "--out", tmp_path / "x")
    assert f"{record} tells no ratio: make it with" in line


def test_files_that_do_not_fit(folder, tmp_path, monkeypatch, capsys):
    def error(results: Path, out: Path = tmp_path / "x") -> str:
        return fails(monkeypatch, capsys, calibration, "--results", results, "--out", out)

    assert f"no file {tmp_path / 'none'}/*/coverage.csv: make it with" in error(tmp_path / "none")
    (tmp_path / "file").write_text("")
    assert "is a file: give a folder" in error(folder, tmp_path / "file")
    record = folder / "markov" / "coverage.json"
    record.write_text(json.dumps({"settings": {"ratio": 3}}))
    assert f"{folder}: its processes differ in ratio: keep one run in a folder" in error(folder)
    record.unlink()
    assert f"no file {record}: make it with python measure_mutual_info/calibration/bipartite.py" in error(folder)


def test_bad_input_on_the_real_command_line(tmp_path):
    done = subprocess.run(
        [sys.executable, PLOTS / "calibration.py", "--results", tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"error: no file {tmp_path}/*/coverage.csv: make it with python "
        "measure_mutual_info/calibration/bipartite.py --out results/calibration\n"
    )
