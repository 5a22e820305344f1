"""Figs. 2c, B.4 and B.5 from made-up CSVs: what is drawn is what they hold, what cannot be drawn is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import image

from tests.plots.made_up import PLOTS, assert_texts_fit, bars_of, caption_of, fails, gid, labels, make_all

import two_point  # isort: skip  # after made_up has put its folder on the path

A, ALPHA, C = 1.2, 0.9, 0.01  # of the law that the plateau is of
LAW = "power_plus_constant_wls"


def tables(source: str = "books", tokenizer: str = "bpe384") -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Î = 1.2 · d^−0.9 + C with 5% errors for d = 1 ... 1024, its laws, its local slopes; another estimator beside."""
    rng = np.random.default_rng(1)
    d = 2 ** np.arange(11)
    names = {"source": source, "tokenizer": tokenizer, "d_tokens": d, "n_pairs": 2_000_000 - 100 * d}
    mi = A * d**-ALPHA * (1 + 0.05 * rng.standard_normal(len(d))) + C
    ours = {"mi_nats": mi, "mi_corrected_nats": mi - C, "stderr_nats": 0.05 * mi, "plateau_nats": C, "plateau_law": LAW}
    naive = dict.fromkeys(ours, np.nan) | {"mi_nats": 9.0 * mi, "plateau_law": ""}
    points = [pd.DataFrame(names | ours).assign(estimator="grassberger")]
    points.append(pd.DataFrame(names | naive).assign(estimator="naive"))
    shared = {"source": source, "model": tokenizer, "L_min": 2.0, "L_max": 512.0, "boot_clusters": "4 books"}
    shared |= {"p_value": 0.2, "selected": False}
    fits = []
    for law, factor in (("power_plus_constant", 2.0), (LAW, 1.0), ("paper_eq_b15", 3.0)):
        for parameter, value in (("A", factor * A), ("alpha", factor * ALPHA), ("C", factor * C)):
            edges = {"lo95": value - 0.001, "hi95": value + 0.002, "boot_lo95": value - 0.03, "boot_hi95": value + 0.04}
            row = shared | {"law": law, "parameter": parameter, "value": value} | edges
            fits += [row | {"estimator": "grassberger"}, row | {"estimator": "naive", "value": 0.5}]
    fits.append(shared | {"estimator": "grassberger", "law": "constant", "parameter": "C", "value": 0.04})
    windows = pd.DataFrame({"L_min": d[:-1], "L_max": d[1:], "alpha": 0.9 + 0.01 * np.arange(10.0), "dof": 0})
    windows = pd.concat([windows, windows.assign(L_max=1024, dof=3)])
    windows = windows.assign(source=source, model=tokenizer, estimator="grassberger")
    windows = windows.assign(lo95=windows["alpha"] - 0.1, hi95=windows["alpha"] + 0.2)
    # Upside down: the order of rows must not matter.
    return pd.concat(points)[::-1], pd.DataFrame(fits)[::-1], windows[::-1]


def save(folder: Path, points: pd.DataFrame, fits: pd.DataFrame, windows: pd.DataFrame) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in (("two_point", points), ("fit", fits), ("sweep", windows)):
        table.to_csv(folder / f"{name}.csv", index=False)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path / "results", *tables())


def draw(figure: str, *folders: Path):
    return two_point.draw(figure, [two_point.read_two_point(folder) for folder in folders])


def rows_of(points: pd.DataFrame) -> pd.DataFrame:
    return points[points["estimator"] == "grassberger"].sort_values("d_tokens")


# What is drawn


def test_fig2c_draws_the_csvs(folder):
    fig = draw("2c", folder)
    assert_texts_fit(fig)
    ax, slopes = fig.axes
    points, _, windows = tables()
    d, mi, low, high = bars_of(ax.containers[0])
    rows = rows_of(points)
    assert d == pytest.approx(rows["d_tokens"].to_numpy())
    assert mi == pytest.approx(rows["mi_corrected_nats"].to_numpy())
    assert low == pytest.approx((rows["mi_corrected_nats"] - rows["stderr_nats"]).to_numpy())
    assert high == pytest.approx((rows["mi_corrected_nats"] + rows["stderr_nats"]).to_numpy())
    (line,) = gid(ax, "fit")
    assert line.get_xdata()[[0, -1]] == pytest.approx([2, 512])
    assert line.get_ydata() == pytest.approx(A * line.get_xdata() ** -ALPHA)
    (paper,) = gid(ax, "paper")
    assert paper.get_xdata().tolist() == [1, 1024]
    assert paper.get_ydata() == pytest.approx([1.10, 1.10 * 1024**-0.91])
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert ax.get_ylim()[0] < mi.min() < mi.max() < ax.get_ylim()[1]
    assert labels(slopes) == ["Î(d) − C: α = 0.90 [0.87, 0.94]", "paper, PG19: 1.10·d^−0.91"]
    d, alpha, low, high = bars_of(slopes.containers[0])
    steps = windows[windows["dof"] == 0]
    assert d == pytest.approx((steps["L_min"] * 2**0.5).to_numpy())
    for found, column in ((alpha, "alpha"), (low, "lo95"), (high, "hi95")):
        assert found == pytest.approx(steps[column].to_numpy())


@pytest.mark.parametrize("law", [LAW, "paper_eq_b15", "constant"])
def test_a_law_is_drawn_where_it_is_a_power_and_accepted(tmp_path, law):
    """The paper's fit claims no p-value, and a constant has no exponent."""
    points, fits, windows = tables()
    fits["p_value"] = fits["p_value"].where(fits["law"] != law, 0.04 if law == LAW else np.nan)
    ax, slopes = draw("2c", save(tmp_path, points.assign(plateau_law=law), fits, windows)).axes
    assert not gid(ax, "fit")
    assert labels(slopes)[0] == "Î(d) − C: no law accepted"


def test_figb4_draws_a_panel_a_folder(folder, tmp_path):
    points, fits, windows = tables("wikipedia", "other/$2$")
    fig = draw("B.4", folder, save(tmp_path / "other", points.assign(n_pairs=978_020), fits, windows))
    assert_texts_fit(fig)
    first, second, *slopes = fig.axes
    assert [ax.get_title() for ax in (first, second)] == ["books, bpe384", "wikipedia, other/$2$"]
    assert first.get_ylim() == second.get_ylim()
    assert slopes[0].get_ylim() == slopes[1].get_ylim()
    assert bars_of(second.containers[0])[1] == pytest.approx(rows_of(points)["mi_corrected_nats"].to_numpy())
    assert "1.90 million to 2.00 million, 978,020." in caption_of(fig)


def test_figb5_draws_with_and_without_the_plateau(folder):
    fig = draw("B.5", folder)
    assert_texts_fit(fig)
    (ax,) = fig.axes
    rows = rows_of(tables()[0])
    for column, above, bars, line in zip(
        ("mi_nats", "mi_corrected_nats"), (C, 0), ax.containers, gid(ax, "fit"), strict=True
    ):
        assert bars_of(bars)[1] == pytest.approx(rows[column].to_numpy())
        assert line.get_ydata() == pytest.approx(A * line.get_xdata() ** -ALPHA + above)
    (plateau,) = gid(ax, "plateau")
    assert plateau.get_ydata()[0] == C
    assert [label.split(":")[0] for label in labels(ax)] == ["Î(d)", "Î(d) − C", "plateau C = 0.01 nats", "paper, PG19"]


def below_0(points: pd.DataFrame) -> pd.DataFrame:
    """Î − C at or below 0 at d = 256 and 512, hardly above at 1024."""
    low = points["d_tokens"].map({256: -0.004, 512: 0.0, 1024: 1e-9})
    corrected = points["mi_corrected_nats"].where(low.isna() | points["mi_corrected_nats"].isna(), low)
    return points.assign(mi_corrected_nats=corrected)


def test_points_that_a_logarithm_cannot_show_stand_at_the_bottom_edge(tmp_path):
    points, *others = tables()
    fig = draw("2c", save(tmp_path, below_0(points), *others))
    ax, _ = fig.axes
    (below,) = gid(ax, "below")
    assert below.get_xdata().tolist() == [256, 512, 1024]
    assert bars_of(ax.containers[0])[0].tolist() == (2 ** np.arange(8)).tolist()
    assert "▾: ≤ 1e-04." in caption_of(fig)
    assert 1e-3 > ax.get_ylim()[0] > 1e-5, "chance stretches no axis"
    points = points[points["d_tokens"] < 1024]
    assert "▾: ≤ 0." in caption_of(draw("2c", save(tmp_path, below_0(points), *others)))


def test_nothing_taken_off_and_no_errors(tmp_path):
    points, fits, windows = tables()
    points = points.assign(mi_corrected_nats=np.nan, stderr_nats=np.nan, plateau_nats=np.nan, plateau_law="")
    one = save(tmp_path, points, fits[:0], windows[:0])
    for figure in ("2c", "B.5"):
        fig = draw(figure, one)
        assert_texts_fit(fig)
        assert labels(fig.axes[-1])[0] == "Î(d): no law accepted"
        assert bars_of(fig.axes[0].containers[0])[1] == pytest.approx(rows_of(points)["mi_nats"].to_numpy())
        assert "No bars" in caption_of(fig)


@pytest.mark.parametrize("panels", [1, 2, 3])
def test_no_text_covers_a_panel_or_leaves_the_figure(tmp_path, panels):
    points, fits, windows = tables("a-rather-long-name-of-a-corpus", "a-tokenizer-of-one-hundred-thousand-tokens")
    one = save(tmp_path, below_0(points), fits, windows)
    for figure in ("B.4", "B.5"):
        assert_texts_fit(draw(figure, *[one] * panels), caption_lines=4)


@pytest.mark.parametrize(
    ("n", "told"), [(978_020, "978,020"), (1.8319e6, "1.83 million"), (3.1e9, "3.10 billion"), (2.5e8, "250 million")]
)
def test_large_numbers(n, told):
    assert two_point.compact(n) == told


# Command lines


@pytest.mark.parametrize("figure", ["2c", "B.4", "B.5"])
def test_writes_png_and_pdf(folder, tmp_path, figure):
    out = tmp_path / "new folder" / "picture"
    folders = [folder] if figure == "2c" else [folder, save(tmp_path / "other", *tables())]
    command = [sys.executable, PLOTS / "two_point.py", "--figure", figure, "--results", *folders, "--out", out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"wrote {out}.png and {out}.pdf\n"
    assert image.imread(f"{out}.png").shape[1] == (680 if figure == "2c" else 1400)  # 3.4 in or 7 in at 200 dpi
    assert Path(f"{out}.pdf").read_bytes().startswith(b"%PDF")


def test_make_all_draws_two_point_figures(tmp_path):
    results = tmp_path / "results"
    save(results / "figB4" / "wikipedia", *tables("wikipedia"))
    save(results / "fig2c", *tables())
    done = make_all(tmp_path)
    assert done.returncode == 0, done.stderr
    assert (results / "fig2c" / "fig2c.png").stat().st_size > 10_000
    for name in ("figB4", "figB5"):
        assert image.imread(results / name / f"{name}.png").shape[1] == 1400, "two panels"


# Bad input


def test_missing_csvs_and_folders(folder, tmp_path, monkeypatch, capsys):
    for name in ("sweep.csv", "fit.csv", "two_point.csv"):
        (folder / name).unlink()
        line = fails(monkeypatch, capsys, two_point, "--results", folder, "--out", tmp_path / "x")
        assert f"no file {folder / name}: check the name, or make it with python measure_mutual_info/estim" in line
    line = fails(monkeypatch, capsys, two_point, "--results", "--out", tmp_path / "x")
    assert "--results names no folder: give one" in line
    assert not list(tmp_path.glob("x*"))


def change(**columns: object):
    return lambda p, f, w: (p.assign(**columns), f, w)


BAD = {
    "column missing": (
        lambda p, f, w: (p.drop(columns=["n_pairs", "plateau_nats"]), f, w),
        "two_point.csv lacks the columns n_pairs, plateau_nats: make it",
    ),
    "no rows": (lambda p, f, w: (p[:0], f, w), "two_point.csv has no rows of grassberger, so no points to draw: make"),
    "other estimators": (change(estimator="naive"), "two_point.csv has no rows of grassberger"),
    "all below 0": (change(mi_nats=-1.0, mi_corrected_nats=-1.01), "all are at or below 0 nats: count a larger corpus"),
    "no number": (change(mi_nats="much"), "two_point.csv, line 2: mi_nats is 'much', not a number"),
    "nan": (change(mi_nats=np.nan), "two_point.csv, line 2: mi_nats is '', not a finite number"),
    "twice": (lambda p, f, w: (pd.concat([p, p]), f, w), "two_point.csv has points twice: keep one run in a folder"),
    "two runs": (
        lambda p, f, w: (p, f.assign(model="bytes"), w),
        "its CSVs are of books, bpe384 and books, bytes: keep one corpus and tokenizer in a folder",
    ),
    "half corrected": (
        lambda p, f, w: (p.assign(mi_corrected_nats=p["mi_corrected_nats"].where(p["d_tokens"] > 8)), f, w),
        "two_point.csv has mi_corrected_nats at some distances only: make it",
    ),
    "no exponent": (
        lambda p, f, w: (p, f.assign(value=f["value"].where(f["parameter"] != "alpha")), w),
        "not a finite number: make it",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_csv(tmp_path, monkeypatch, capsys, case):
    spoil, message = BAD[case]
    folder = save(tmp_path / "results", *spoil(*tables()))
    assert message in fails(monkeypatch, capsys, two_point, "--results", folder, "--out", tmp_path / "x")
    assert not list(tmp_path.glob("x*"))
