"""Figs. 2b, B.1, B.2, B.3 and the sweep from made-up CSVs: what is drawn is what they hold, what cannot be is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import image

from tests.plots.made_up import (
    ESTIMATORS,
    PLOTS,
    assert_texts_fit,
    bars_of,
    caption_of,
    fails,
    gid,
    labels,
    make_all,
    save,
    save_coverage,
    sweep_table,
    tables,
)

# After made_up has put their folder on the path.
import bipartite  # isort: skip
import style  # isort: skip

PANELS = {"2b": 2, "B.1": 4, "B.2": 6, "B.3": 2, "sweep": 2}  # those of slopes, or of the correction, included
LENGTHS = 2.0 ** np.arange(2, 12)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path / "results", *tables())


def draw(figure: str, *folders: Path):
    return bipartite.draw(figure, [bipartite.read_results(one) for one in folders])


def assert_drawn(ax, points: pd.DataFrame, estimators: list[str], ratio: int) -> None:
    """Points and bars of a panel are those of the CSV."""
    for container, estimator in zip(ax.containers, estimators, strict=True):
        rows = points[(points["estimator"] == estimator) & (points["L_tokens"] == ratio * points["ell_tokens"])]
        rows = rows.sort_values("L_tokens")
        L, mi, low, high = bars_of(container)
        assert L == pytest.approx(rows["L_tokens"].to_numpy())
        assert mi == pytest.approx(rows["mi_nats"].to_numpy())
        assert low == pytest.approx((rows["mi_nats"] - rows["stderr_nats"]).to_numpy())
        assert high == pytest.approx((rows["mi_nats"] + rows["stderr_nats"]).to_numpy())
        assert ax.get_ylim()[0] < rows["mi_nats"].min()
        assert ax.get_ylim()[1] > rows["mi_nats"].max()


def assert_slopes(ax, rows: pd.DataFrame, where: np.ndarray, estimators: list[str] = ESTIMATORS) -> None:
    """β and its interval of some windows, each estimator shifted its own way by less than to the next length."""
    shifts = []
    for container, estimator in zip(ax.containers, estimators, strict=True):
        mine = rows[rows["estimator"] == estimator].sort_values(["L_min", "L_max"])
        L, beta, low, high = bars_of(container)
        for found, column in ((beta, "beta"), (low, "lo95"), (high, "hi95")):
            assert found == pytest.approx(mine[column].to_numpy())
        shifts.append(L / where)
        assert shifts[-1] == pytest.approx(shifts[-1][0])
    assert 0.7 < shifts[0][0] < shifts[-1][0] < 1.4


def steps(ratio: int = 2) -> pd.DataFrame:
    windows = sweep_table()
    return windows[(windows["L_over_ell"] == ratio) & (windows["dof"] == 0)]


# What is drawn


def test_fig2b_draws_the_csvs(folder):
    fig = draw("2b", folder)
    assert_texts_fit(fig)
    ax, slopes = fig.axes
    assert_drawn(ax, tables()[0], ESTIMATORS, 2)
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert ax.get_xlim() == slopes.get_xlim()
    direct, vclub = gid(ax, "paper")
    assert direct.get_ydata() == pytest.approx([2.27 * 4**0.76, 2.27 * 2048**0.76])
    assert vclub.get_ydata() == pytest.approx([3.26 * 4**0.71, 3.26 * 2048**0.71])
    assert [line.get_ydata()[0] for line in gid(slopes, "paper")] == [0.76, 0.71]
    assert_slopes(slopes, steps(), np.sqrt(LENGTHS[:-1] * LENGTHS[1:]))
    assert [label.split(":")[0] for label in labels(slopes)] == [
        "direct",
        "direct, corrected",
        "vCLUB",
        *["paper, PG19, Llama 3.1 405B"] * 2,
    ]


def test_a_law_is_drawn_where_it_is_selected_and_accepted(folder):
    ax, slopes = draw("2b", folder).axes
    power, saturating = gid(ax, "fit")  # that of direct_corrected has p = 0.04
    L = power.get_xdata()
    assert L[[0, -1]] == pytest.approx([8, 1024])
    assert power.get_ydata() == pytest.approx(2.3 * L**0.62)
    assert saturating.get_ydata() == pytest.approx(900 / (1 + (512 / L) ** 0.8))
    assert labels(slopes)[:3] == [
        "direct: β = 0.62 [0.52, 0.73]",
        "direct, corrected: no law accepted",
        "vCLUB: saturating law, p = 0.40",
    ]


@pytest.mark.parametrize(
    ("intervals", "text"),
    [
        ((0.7042, 0.7211), "β = 0.713 [0.704, 0.721]"),
        ((0.6, 0.8), "β = 0.71 [0.60, 0.80]"),
        ((0.7042, 0.7211, 0.6, 0.8), "β = 0.71 [0.60, 0.80]"),  # that of resampled books
        ((np.nan, np.nan), "β = 0.71 [no interval]"),
    ],
)
def test_intervals_in_legends(intervals, text):
    edges = dict(zip(("lo95", "hi95", "boot_lo95", "boot_hi95"), [*intervals, np.nan, np.nan], strict=False))
    assert style.with_interval("β", pd.DataFrame({"value": 0.7126, **edges}, index=["beta"]), "beta") == text


def test_paper_lines_end_where_the_points_do(tmp_path):
    points, fits = tables()
    ax, _ = draw("2b", save(tmp_path, points[points["L_tokens"] <= 64], fits.assign(L_max=64))).axes
    assert [line.get_xdata().tolist() for line in gid(ax, "paper")] == [[4, 64]] * 2


def test_figb1_draws_a_panel_a_folder(folder, tmp_path):
    points, fits = tables("wikipedia", "other/model_$2$")
    points = points[points["estimator"] != "direct_corrected"].assign(n_documents=64)
    points["mi_nats"] /= 50
    fig = draw("B.1", folder, save(tmp_path / "other", points, fits))
    assert_texts_fit(fig)
    first, second, *slopes = fig.axes
    assert_drawn(first, tables()[0], ESTIMATORS, 2)
    assert_drawn(second, points, ["direct", "vclub"], 2)
    assert first.get_ylim() == second.get_ylim()
    assert slopes[0].get_ylim() == slopes[1].get_ylim()
    assert [ax.get_title() for ax in (first, second)] == ["books, tiny-model", "wikipedia, other/model_$2$"]
    assert not second.title.get_parse_math(), "a dollar sign is no formula"
    assert "1,024, 64" in caption_of(fig)


@pytest.mark.parametrize("direct", ["direct_corrected", "direct"])
def test_figb2_draws_a_panel_a_ratio(tmp_path, direct):
    points, fits = tables()
    if direct == "direct":
        points = points[points["estimator"] != "direct_corrected"]
    fig = draw("B.2", save(tmp_path, points, fits))
    for ax, ratio in zip(fig.axes[:3], (2, 3, 4), strict=True):
        assert_drawn(ax, points, [direct, "vclub"], ratio)
        assert ax.get_title() == f"L = {ratio}ℓ"
        assert ax.get_ylim() == fig.axes[0].get_ylim()
    L = 1.5 * LENGTHS
    assert_slopes(fig.axes[4], steps(3), np.sqrt(L[:-1] * L[1:]), [direct, "vclub"])


def test_figb3_draws_both_and_the_correction(folder):
    upper, lower = draw("B.3", folder).axes
    points, _ = tables()
    assert_drawn(upper, points, ["direct", "direct_corrected"], 2)
    rows = points[(points["estimator"] == "direct_corrected") & (points["L_tokens"] == 2 * points["ell_tokens"])]
    L, added, low, high = bars_of(lower.containers[0])
    assert L == pytest.approx(rows["L_tokens"].to_numpy())
    assert added == pytest.approx(rows["correction_nats"].to_numpy())
    assert (high - low) / 2 == pytest.approx(rows["correction_stderr_nats"].to_numpy())
    assert lower.get_yscale() == "linear"


def test_the_sweep_draws_the_windows(folder):
    windows = sweep_table()
    windows = windows[windows["L_over_ell"] == 2]
    fig = draw("sweep", folder)
    assert_texts_fit(fig)
    assert_slopes(fig.axes[0], windows[windows["L_max"] == 2048], LENGTHS[:-1])
    assert_slopes(fig.axes[1], windows[windows["L_min"] == 4], LENGTHS[1:])
    assert fig.axes[0].get_ylim() == fig.axes[1].get_ylim()
    assert [line.get_ydata()[0] for line in gid(fig.axes[0], "paper")] == [0.76, 0.71]
    assert labels(fig.axes[0])[:3] == ["direct", "direct, corrected", "vCLUB"]


def test_points_at_or_below_0_stand_at_the_bottom_edge(tmp_path):
    points, fits = tables()
    points = points.set_index(["estimator", "ell_tokens", "L_tokens"])
    points.loc[[("direct", 2, 4), ("vclub", 2, 4)], "mi_nats"] = -0.5
    points.loc[[("vclub", 4, 8)], "mi_nats"] = 0.0
    points.loc[[("vclub", 8, 16)], "stderr_nats"] = 1e3  # a bar that reaches below 0 does not stretch the axis
    points = points.reset_index()
    fig = draw("2b", save(tmp_path, points, fits))
    ax, _ = fig.axes
    assert [line.get_xdata().tolist() for line in gid(ax, "below")] == [[4], [], [4, 8]]
    assert "▾: I ≤ 0." in caption_of(fig)
    shown = points[points["mi_nats"] > 0]["mi_nats"].min()
    assert shown / 10 < ax.get_ylim()[0] < shown
    lowest_point = ax.transAxes.inverted().transform(ax.transData.transform((4, shown)))[1]
    heights = [y for line in gid(ax, "below") for y in line.get_ydata()]
    assert 0 < min(heights) <= max(heights) < 0.1 < lowest_point, "markers at the bottom edge cover no point"


def test_without_fits_and_windows(tmp_path):
    points, fits = tables()
    windows = sweep_table()
    windows.loc[windows["estimator"] == "vclub", ["lo95", "hi95"]] = np.nan
    fig = draw("2b", save(tmp_path / "one", points, fits[:0], windows[windows["estimator"] != "direct"]))
    assert labels(fig.axes[1])[0] == "direct: no law accepted"
    assert [len(container.lines[0].get_xdata()) for container in fig.axes[1].containers] == [0, 9, 9]
    assert not gid(fig.axes[0], "fit")
    assert_texts_fit(draw("2b", save(tmp_path / "two", points, fits, windows[:0])))


@pytest.mark.parametrize("figure", PANELS)
def test_no_text_covers_a_panel_or_leaves_the_figure(tmp_path, figure):
    """With long names, points at the bottom edge and third digits: all that makes text longer."""
    points, fits = tables("a-rather-long-name-of-a-corpus", "SmolLM2-135M-Instruct.Q4_1.gguf")
    points.loc[points["L_tokens"] == 4, "mi_nats"] = -1
    fits.loc[fits["law"] == "power", ["boot_lo95", "boot_hi95"]] = [0.701, 0.709]
    one = save(tmp_path, points, fits)
    fig = draw(figure, *[one] * (2 if figure == "B.1" else 1))
    assert len(fig.axes) == PANELS[figure]
    assert_texts_fit(fig, caption_lines=3)


# Command lines


@pytest.mark.parametrize("figure", PANELS)
def test_writes_png_and_pdf(folder, tmp_path, figure):
    out = tmp_path / "new folder" / "v1.5"
    folders = [folder, save(tmp_path / "other", *tables())] if figure == "B.1" else [folder]
    command = [sys.executable, PLOTS / "bipartite.py", "--figure", figure, "--results", *folders, "--out", out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"wrote {out}.png and {out}.pdf\n"
    pixels = image.imread(f"{out}.png")
    assert pixels.shape[1] == (680 if figure in ("2b", "B.3") else 1400)  # 3.4 in or 7 in at 200 dpi
    assert (np.ptp(pixels[..., :3], axis=2) > 0.2).mean() > 0.002, "colours are drawn"
    assert Path(f"{out}.pdf").read_bytes().startswith(b"%PDF")


def test_same_csvs_give_the_same_bytes(folder, tmp_path):
    for name in ("one", "two"):
        style.save(draw("2b", folder), tmp_path / name)
    for kind in ("png", "pdf"):
        assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"two.{kind}").read_bytes()


@pytest.mark.parametrize("keep", [lambda t: t[:0], lambda t: t[t["L_over_ell"] == 3]])
def test_a_sweep_without_windows_is_no_fault(folder, tmp_path, capsys, keep):
    """Points too near 0 have no exponent: the line says so, and what called it goes on."""
    save(folder, *tables(), keep(sweep_table()))
    bipartite.main(bipartite.Settings((folder,), tmp_path / "sweep", "sweep"))
    assert "sweep.png: too few points" in capsys.readouterr().out
    assert not (tmp_path / "sweep.png").exists()


def test_make_all_draws_what_there_is(tmp_path):
    nothing = make_all(tmp_path)
    assert nothing.returncode == 2
    assert nothing.stderr.startswith("nothing to draw: no results/fig2b/bipartite.csv")

    results = tmp_path / "results"
    save_coverage(results / "calibration")
    save(results / "fig2b", *tables())
    save(results / "figB1" / "wikipedia", *tables("wikipedia"))
    done = make_all(tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("fig2b/fig2b", "fig2b/sweep", "figB1/figB1", "figB1/wikipedia/sweep", "figB2/figB2", "figB3/figB3"):
        assert (results / f"{name}.png").stat().st_size > 10_000
    for name in ("calibration", "coverage"):
        assert (results / "calibration" / f"{name}.pdf").stat().st_size > 5_000


# Bad input


def test_bad_input_on_the_real_command_line(tmp_path):
    command = [sys.executable, PLOTS / "bipartite.py", "--results", tmp_path / "none", "--out", tmp_path / "x"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: no file {tmp_path}/none/bipartite.csv: check the name, or make it with python "
        f"measure_mutual_info/estimate_bipartite.py --scores SCORES.csv --counts COUNTS.csv --out {tmp_path}/none\n"
    )


def only(estimator: str):
    return lambda b, f, w: (b[b["estimator"] == estimator], f, w)


BAD = {
    "column missing": (
        "2b",
        lambda b, f, w: (b.drop(columns=["stderr_nats", "n_documents"]), f, w),
        "bipartite.csv lacks the columns stderr_nats, n_documents: make it",
    ),
    "fit column missing": (
        "2b",
        lambda b, f, w: (b, f.drop(columns="selected"), w),
        "fit.csv lacks the column selected: make",
    ),
    "sweep column missing": (
        "sweep",
        lambda b, f, w: (b, f, w.drop(columns="dof")),
        "sweep.csv lacks the column dof: make",
    ),
    "unknown estimator": (
        "2b",
        lambda b, f, w: (b.assign(estimator="infonce"), f, w),
        "bipartite.csv: unknown estimator 'infonce'; known: direct, direct_corrected, vclub, direct_unpaired",
    ),
    "unknown estimator in sweep": (
        "2b",
        lambda b, f, w: (b, f, w.assign(estimator="mine")),
        "sweep.csv: unknown estimator 'mine'",
    ),
    "no rows": ("2b", lambda b, f, w: (b[:0], f, w), "bipartite.csv has no rows, so no points to draw: make it"),
    "no L = 4 ell": (
        "B.2",
        lambda b, f, w: (b[b["L_tokens"] != 4 * b["ell_tokens"]], f, w),
        "no points to draw: no direct_corrected or vclub at L = 4 ell",
    ),
    "all below 0": (
        "2b",
        lambda b, f, w: (b.assign(mi_nats=-1.0), f, w),
        "all at L = 2 ell are at or below 0 nats: score",
    ),
    "no correction": (
        "B.3",
        only("direct"),
        "no direct_corrected at L = 2 ell: run estimate_bipartite.py with --counts",
    ),
    "no number": (
        "2b",
        lambda b, f, w: (b.assign(mi_nats="many"), f, w),
        "bipartite.csv, line 2: mi_nats is 'many', not a number",
    ),
    "nan": (
        "2b",
        lambda b, f, w: (b.assign(stderr_nats=np.nan), f, w),
        "line 2: stderr_nats is '', not a finite number",
    ),
    "infinite": (
        "2b",
        lambda b, f, w: (b.assign(mi_nats=np.inf), f, w),
        "line 2: mi_nats is 'inf', not a finite number",
    ),
    "no length": ("2b", lambda b, f, w: (b, f, w.assign(L_min=np.nan)), "sweep.csv, line 2: L_min is '', not a finite"),
    "twice": (
        "2b",
        lambda b, f, w: (pd.concat([b, b]), f, w),
        "bipartite.csv has points twice: keep one run in a folder",
    ),
    "two runs": (
        "2b",
        lambda b, f, w: (b, f.assign(source="news"), w),
        "its CSVs are of books, tiny-model and news, tiny-model: keep one corpus and model in a folder",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_csv(tmp_path, monkeypatch, capsys, case):
    figure, spoil, message = BAD[case]
    folder = save(tmp_path / "results", *spoil(*tables(), sweep_table()))
    flags = ["--figure", figure, "--results", folder, "--out", tmp_path / "x"]
    assert message in fails(monkeypatch, capsys, bipartite, *flags)
    assert not list(tmp_path.glob("x*"))


def test_bad_files_and_folders(folder, tmp_path, monkeypatch, capsys):
    def said(*flags: object) -> str:
        return fails(monkeypatch, capsys, bipartite, *flags)

    (tmp_path / "file").write_text("")
    line = said("--results", folder, "--out", tmp_path / "file" / "x")
    assert line.startswith(f"error: {tmp_path / 'file'}: file exists: give another place")
    out = ["--out", tmp_path / "x"]
    assert "--results names no folder" in said("--results", *out)
    assert "--results names 2 folders: give one" in said("--results", folder, tmp_path, *out)
    (folder / "fit.csv").write_bytes(b"")
    assert "fit.csv is no CSV table" in said("--results", folder, *out)
    (folder / "fit.csv").unlink()
    assert f"no file {folder / 'fit.csv'}: check the name, or make it with python" in said("--results", folder, *out)
