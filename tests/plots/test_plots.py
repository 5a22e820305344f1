"""Figures from made-up CSVs: what is drawn equals what the CSVs hold, and what cannot be drawn is said."""

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
    make_all,
    save,
    save_coverage,
    sweep_table,
    tables,
)

# After made_up has put their folder on the path.
import fig2b  # isort: skip
import figB1  # isort: skip
import figB2  # isort: skip
import figB3  # isort: skip
import style  # isort: skip

PANELS = {"fig2b": 1, "figB1": 2, "figB2": 3, "figB3": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path / "results", *tables())


def assert_drawn(
    ax, bipartite: pd.DataFrame, fits: pd.DataFrame, estimators: list[str], ratio: int, legend=None
) -> None:
    """Points, bars, lines and labels of a panel are those of the CSVs."""
    assert len(ax.containers) == len(estimators)
    lines = [line for line in ax.get_lines() if line.get_gid() == "fit"]
    labels = [text.get_text().replace("\n", ": ") for text in (legend or ax.get_legend()).get_texts()]
    for index, estimator in enumerate(estimators):
        rows = bipartite[
            (bipartite["estimator"] == estimator) & (bipartite["L_tokens"] == ratio * bipartite.ell_tokens)
        ]
        rows = rows[rows["mi_nats"] > 0].sort_values("L_tokens")
        L, mi, low, high = bars_of(ax.containers[index])
        assert L == pytest.approx(rows["L_tokens"].to_numpy())
        assert mi == pytest.approx(rows["mi_nats"].to_numpy())
        assert low == pytest.approx((rows["mi_nats"] - rows["stderr_nats"]).to_numpy())
        assert high == pytest.approx((rows["mi_nats"] + rows["stderr_nats"]).to_numpy())

        fit = fits[(fits["estimator"] == estimator) & (fits["L_over_ell"] == ratio) & (fits["law"] == "power")]
        A, beta = (fit[fit["parameter"] == name].iloc[0] for name in ("A", "beta"))
        L = np.array([beta["L_min"], beta["L_max"]])
        assert lines[index].get_xdata() == pytest.approx(L)
        assert lines[index].get_ydata() == pytest.approx(A["value"] * L ** beta["value"])
        expected = f"β = {beta['value']:.2f} [{beta['boot_lo95']:.2f}, {beta['boot_hi95']:.2f}]"
        expected += f", χ²/dof {beta['chi2']:.0f}/{beta['dof']:.0f}"
        assert labels[index] == f"{style.STYLES[estimator].label}: {expected}"
        low, high = ax.get_ylim()
        assert low < rows["mi_nats"].min()
        assert high > rows["mi_nats"].max()


def figures(folder: Path) -> dict:
    results = style.read_results(folder)
    return {
        "fig2b": fig2b.draw(results),
        "figB1": figB1.draw([results, results]),
        "figB2": figB2.draw(results),
        "figB3": figB3.draw(results),
    }


# What is drawn


def test_fig2b_draws_the_csv(folder):
    fig = fig2b.draw(style.read_results(folder))
    (ax,) = fig.axes
    assert_drawn(ax, *tables(), ESTIMATORS, 2)
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert ax.get_xlabel() == "Sequence length L (tokens)"
    assert ax.get_ylabel().replace("\n", " ") == "Bipartite mutual information I(L/2; L) (nats)"
    direct, vclub = (line for line in ax.get_lines() if line.get_gid() == "paper")
    assert direct.get_ydata() == pytest.approx([2.27 * 4**0.76, 2.27 * 2048**0.76])
    assert vclub.get_ydata() == pytest.approx([3.26 * 4**0.71, 3.26 * 2048**0.71])
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[3:] == [
        "paper: PG19, Llama 3.1 405B: direct 2.27·L^0.76",
        "paper: PG19, Llama 3.1 405B: vCLUB 3.26·L^0.71",
    ]
    assert caption_of(fig) == (
        "books, tiny-model, 1,024 documents. Bars: ±1 standard error over documents. Lines: A·L^β over the fit's "
        "range, β with its 95% interval from 4 resampled books. Corrected: the entropy of Y's first two tokens in part "
        "from 2-gram counts."
    )
    ticks = [label.get_text() for label in ax.get_xticklabels()]
    assert ticks == ["4", "16", "64", "256", "1024"]


def test_paper_lines_end_where_the_points_do(tmp_path):
    bipartite, fits = tables()
    short = save(tmp_path, bipartite[bipartite["L_tokens"] <= 64], fits.assign(L_max=64))
    (ax,) = fig2b.draw(style.read_results(short)).axes
    for line in (line for line in ax.get_lines() if line.get_gid() == "paper"):
        assert line.get_xdata().tolist() == [4, 64]


def test_figb1_draws_a_panel_a_folder(folder, tmp_path):
    bipartite, fits = tables("wikipedia", "other/model_$2$")
    only = bipartite["estimator"].isin(["direct", "vclub"])
    other = save(tmp_path / "other", bipartite[only].assign(mi_nats=lambda t: t["mi_nats"] / 50, n_documents=64), fits)
    fig = figB1.draw([style.read_results(folder), style.read_results(other)])
    first, second = fig.axes
    assert_drawn(first, *tables(), ESTIMATORS, 2)
    second_bars = bipartite[only].assign(mi_nats=lambda t: t["mi_nats"] / 50)
    assert_drawn(second, second_bars, fits, ["direct", "vclub"], 2)
    assert first.get_ylim() == second.get_ylim()
    assert [bool(ax.get_ylabel()) for ax in fig.axes] == [True, False]
    assert [ax.get_title() for ax in fig.axes] == ["books, tiny-model", "wikipedia, other/model_$2$"]
    assert not second.title.get_parse_math(), "a dollar sign is no formula"
    assert caption_of(fig).startswith("books, tiny-model, 1,024 documents; wikipedia, other/model_$2$, 64 documents.")


def test_the_caption_tells_intervals_of_different_origin_apart(tmp_path):
    bipartite, fits = tables()
    one_book = fits.assign(boot_clusters=fits["boot_clusters"].replace("4 books", "64 documents"))
    unsampled = fits.assign(boot_clusters="", boot_lo95=np.nan, boot_hi95=np.nan)
    vclub = fits["estimator"] == "vclub"
    folders = [
        save(tmp_path / "one", bipartite, pd.concat([fits[~vclub], unsampled[vclub]])),
        save(tmp_path / "two", bipartite.assign(source="novel"), one_book.assign(source="novel")),
    ]
    fig = figB1.draw([style.read_results(folder) for folder in folders])
    assert (
        "β with its 95% interval from 4 resampled books (books: direct, direct, corrected); "
        "with documents taken as independent (books: vCLUB); from 64 resampled documents (novel)."
    ) in caption_of(fig)
    labels = [text.get_text() for text in fig.axes[0].get_legend().get_texts()]
    assert labels[0] == "direct: β = 0.62 [0.52, 0.73], χ²/dof 7/6"
    assert labels[2] == "vCLUB: β = 0.82 [0.79, 0.86], χ²/dof 7/6", "the interval of documents"


def test_the_caption_names_fits_of_i_itself(tmp_path):
    bipartite, fits = tables()
    linear = (fits["estimator"] == "direct_corrected") & (fits["L_over_ell"] == 2)
    fits.loc[linear, "scale"] = "linear"
    results = style.read_results(save(tmp_path, bipartite, fits))
    assert "Fitted to I, not to log I, because of points near 0: direct, corrected." in caption_of(fig2b.draw(results))
    assert "because of points near 0: L = 2ℓ: direct, corrected." in caption_of(figB2.draw(results))


def test_the_caption_warns_of_lines_that_are_no_power_law(tmp_path):
    bipartite, fits = tables()
    warning = "the points are no power law, and the line may run beside them."
    assert warning not in caption_of(fig2b.draw(style.read_results(save(tmp_path, bipartite, fits))))
    fits.loc[(fits["estimator"] == "vclub") & (fits["law"] == "power"), "p_value"] = 1e-5
    assert warning in caption_of(fig2b.draw(style.read_results(save(tmp_path, bipartite, fits))))


@pytest.mark.parametrize("direct", ["direct_corrected", "direct"])
def test_figb2_draws_a_panel_a_ratio(tmp_path, direct):
    bipartite, fits = tables()
    if direct == "direct":
        bipartite = bipartite[bipartite["estimator"] != "direct_corrected"]
    fig = figB2.draw(style.read_results(save(tmp_path, bipartite, fits)))
    for ax, ratio in zip(fig.axes, (2, 3, 4), strict=True):
        assert_drawn(ax, bipartite, fits, [direct, "vclub"], ratio)
        assert ax.get_title() == f"L = {ratio}ℓ"
        assert ax.get_ylim() == fig.axes[0].get_ylim()
    assert ("Corrected:" in caption_of(fig)) == (direct == "direct_corrected")


def test_figb3_draws_both_and_their_difference(folder):
    bipartite, fits = tables()
    upper, lower = figB3.draw(style.read_results(folder)).axes
    assert upper.get_legend() is None
    assert_drawn(upper, bipartite, fits, ["direct", "direct_corrected"], 2, lower.get_legend())
    points = bipartite[bipartite["L_tokens"] == 2 * bipartite["ell_tokens"]]
    mi = points.pivot(index="L_tokens", columns="estimator", values="mi_nats")
    line = lower.get_lines()[-1]
    assert line.get_xdata().tolist() == mi.index.tolist()
    assert line.get_ydata() == pytest.approx((mi["direct_corrected"] - mi["direct"]).to_numpy())
    assert lower.get_yscale() == "linear"
    assert lower.get_xlim() == upper.get_xlim()


def test_points_at_or_below_0_stand_at_the_bottom_edge_and_are_counted(tmp_path):
    bipartite, fits = tables()
    bipartite = bipartite.set_index(["estimator", "ell_tokens", "L_tokens"])
    bipartite.loc[[("direct", 2, 4), ("vclub", 2, 4)], "mi_nats"] = -0.5
    bipartite.loc[[("vclub", 4, 8)], "mi_nats"] = 0.0
    # A bar that reaches below 0 does not stretch the axis.
    bipartite.loc[[("vclub", 8, 16)], "stderr_nats"] = 1e3
    bipartite = bipartite.reset_index()
    fig = fig2b.draw(style.read_results(save(tmp_path, bipartite, fits)))
    (ax,) = fig.axes
    below = [line for line in ax.get_lines() if line.get_gid() == "below"]
    assert [line.get_xdata().tolist() for line in below] == [[4], [], [4, 8]]
    assert {line.get_marker() for line in below} == {"v"}
    for line in below:
        assert all(0 < y < 0.1 for y in line.get_ydata())  # a fraction of the height of the panel
        assert line.get_transform().transform((4, 0))[1] == pytest.approx(ax.transAxes.transform((0, 0))[1])
    assert "▾ points at or below 0 nats: 1 of 10 (direct), 2 of 10 (vCLUB)." in caption_of(fig)
    low, _ = ax.get_ylim()
    shown = bipartite[bipartite["mi_nats"] > 0]["mi_nats"].min()
    assert shown / 10 < low < shown
    lowest_point = ax.transAxes.inverted().transform(ax.transData.transform((4, shown)))[1]
    assert lowest_point > 0.1, "markers at the bottom edge cover no point"


def test_without_a_fit_the_legend_says_so(tmp_path):
    bipartite, fits = tables()
    fits = fits[(fits["estimator"] != "vclub") | (fits["law"] != "power")]
    (ax,) = fig2b.draw(style.read_results(save(tmp_path, bipartite, fits))).axes
    assert ax.get_legend().get_texts()[2].get_text() == "vCLUB: no fit"
    assert len([line for line in ax.get_lines() if line.get_gid() == "fit"]) == 2


def test_without_any_fit_the_caption_promises_no_lines(tmp_path):
    bipartite, fits = tables()
    fig = fig2b.draw(style.read_results(save(tmp_path, bipartite, fits[:0])))
    assert fig.axes[0].get_legend().get_texts()[0].get_text() == "direct: no fit"
    assert "Bars: ±1 standard error over documents. Corrected:" in caption_of(fig)


def test_a_narrow_interval_gets_a_third_digit_and_none_is_told():
    def label(lo: float, hi: float, boot_lo: float = np.nan, boot_hi: float = np.nan) -> str:
        row = dict(
            value=[0.7126], lo95=[lo], hi95=[hi], boot_lo95=[boot_lo], boot_hi95=[boot_hi], boot_clusters=["3 books"]
        )
        return style.beta_label(pd.DataFrame(row | dict(chi2=[8.7], dof=[8]), index=["beta"]))

    assert label(0.7042, 0.7211) == "β = 0.713 [0.704, 0.721], χ²/dof 9/8"
    assert label(0.6, 0.8) == "β = 0.71 [0.60, 0.80], χ²/dof 9/8"
    assert label(0.7042, 0.7211, 0.6, 0.8) == "β = 0.71 [0.60, 0.80], χ²/dof 9/8"
    assert label(np.nan, np.nan) == "β = 0.71 [no interval], χ²/dof 9/8"


@pytest.mark.parametrize("name", PANELS)
def test_no_text_covers_a_panel_or_leaves_the_figure(tmp_path, name):
    """With long names, points at the bottom edge and third digits: all that makes text longer."""
    bipartite, fits = tables("a-rather-long-name-of-a-corpus", "SmolLM2-135M-Instruct.Q4_1.gguf")
    bipartite.loc[bipartite["L_tokens"] == 4, "mi_nats"] = -1
    fits.loc[fits["law"] == "power", ["boot_lo95", "boot_hi95"]] = [0.701, 0.709]
    fits["scale"] = "linear"
    fig = figures(save(tmp_path, bipartite, fits))[name]
    assert len(fig.axes) == PANELS[name]
    assert_texts_fit(fig)


# Command lines


@pytest.mark.parametrize("name", PANELS)
def test_writes_png_and_pdf(folder, tmp_path, name):
    out = tmp_path / "new folder" / "v1.5"
    folders = [folder, save(tmp_path / "other", *tables())] if name == "figB1" else [folder]
    done = subprocess.run(
        [sys.executable, PLOTS / f"{name}.py", "--results", *folders, "--out", out], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"wrote {out}.png and {out}.pdf\n"
    assert sorted(path.name for path in out.parent.iterdir()) == ["v1.5.pdf", "v1.5.png"]
    pixels = image.imread(f"{out}.png")
    assert pixels.shape[1] == (680 if PANELS[name] == 1 or name == "figB3" else 1400)  # 3.4 in or 7 in at 200 dpi
    grey = np.ptp(pixels[..., :3], axis=2)
    assert (grey > 0.2).mean() > 0.002, "colours are drawn"
    pdf = Path(f"{out}.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 5000


def test_same_csvs_give_the_same_bytes(folder, tmp_path):
    for name in ("one", "two"):
        style.save(fig2b.draw(style.read_results(folder)), tmp_path / name)
    for kind in ("png", "pdf"):
        assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"two.{kind}").read_bytes()


def test_make_all_draws_what_there_is(tmp_path):
    nothing = make_all(tmp_path)
    assert nothing.returncode == 2
    assert nothing.stderr.startswith("nothing to draw: no results/fig2b/bipartite.csv")

    results = tmp_path / "results"
    save_coverage(results / "calibration")
    done = make_all(tmp_path)
    assert done.returncode == 0, done.stderr
    assert (results / "calibration" / "coverage.png").stat().st_size > 10_000

    save(results / "fig2b", *tables())
    wikipedia = save(results / "figB1" / "wikipedia", *tables("wikipedia"))
    sweep_table("wikipedia").to_csv(wikipedia / "sweep.csv", index=False)
    done = make_all(tmp_path)
    assert done.returncode == 0, done.stderr
    for name in PANELS:
        assert (results / name / f"{name}.png").stat().st_size > 10_000
        assert (results / name / f"{name}.pdf").stat().st_size > 5_000
    assert image.imread(results / "figB1" / "figB1.png").shape[1] == 1400, "two panels"
    assert [path.parent for path in results.rglob("sweep.png")] == [wikipedia], "a sweep where there is a sweep.csv"
    assert (results / "calibration" / "calibration.pdf").stat().st_size > 5_000


# Bad input


def test_bad_input_on_the_real_command_line(tmp_path):
    done = subprocess.run(
        [sys.executable, PLOTS / "fig2b.py", "--results", tmp_path / "none"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"error: no file {tmp_path}/none/bipartite.csv: check the name, or make it with python "
        f"measure_mutual_info/estimate_bipartite.py --scores SCORES.csv --counts COUNTS.csv --out {tmp_path}/none\n"
    )


@pytest.mark.parametrize("script", [fig2b, figB1, figB2, figB3])
def test_missing_csv(folder, tmp_path, monkeypatch, capsys, script):
    (folder / "fit.csv").unlink()
    line = fails(monkeypatch, capsys, script, "--results", folder, "--out", tmp_path / "x")
    assert f"no file {folder / 'fit.csv'}: check the name, or make it with python measure_mutual_info/estim" in line
    assert not list(tmp_path.glob("x*"))


def change_bipartite(**columns: object):
    return lambda bipartite, fits: (bipartite.assign(**columns), fits)


BAD = {
    "column missing": (
        lambda b, f: (b.drop(columns=["stderr_nats", "model"]), f),
        "bipartite.csv lacks the columns model, stderr_nats: make it",
    ),
    "fit column missing": (lambda b, f: (b, f.drop(columns="L_over_ell")), "fit.csv lacks the column L_over_ell: make"),
    "unknown estimator": (
        change_bipartite(estimator="infonce"),
        "bipartite.csv: unknown estimator 'infonce'; known: direct, direct_corrected, vclub, direct_unpaired",
    ),
    "unknown estimator in fit": (lambda b, f: (b, f.assign(estimator="mine")), "fit.csv: unknown estimator 'mine'"),
    "no rows": (lambda b, f: (b[:0], f), "bipartite.csv has no rows, so no points to draw: make it"),
    "no L = 2 ell": (
        lambda b, f: (b[b["L_tokens"] != 2 * b["ell_tokens"]], f),
        "bipartite.csv: no points to draw: no direct or direct_corrected or vclub at L = 2 ell",
    ),
    "other estimators only": (
        lambda b, f: (b[b["estimator"] == "direct"].assign(estimator="direct_unpaired"), f),
        "bipartite.csv: no points to draw: no direct or direct_corrected or vclub at L = 2 ell",
    ),
    "all below 0": (
        change_bipartite(mi_nats=-1.0),
        "no points to draw: all at L = 2 ell are at or below 0 nats: score",
    ),
    "no number": (change_bipartite(mi_nats="many"), "bipartite.csv, line 2: mi_nats is 'many', not a number"),
    "nan": (change_bipartite(stderr_nats=np.nan), "bipartite.csv, line 2: stderr_nats is '', not a finite number"),
    "infinite": (change_bipartite(mi_nats=np.inf), "bipartite.csv, line 2: mi_nats is 'inf', not a finite number"),
    "no exponent": (lambda b, f: (b, f.assign(value=np.nan)), "fit.csv, line 2: value is '', not a finite number"),
    "bad interval": (lambda b, f: (b, f.assign(boot_lo95="low")), "fit.csv, line 2: boot_lo95 is 'low', not a number"),
    "no resampling": (
        lambda b, f: (b, f.drop(columns=["boot_lo95", "boot_hi95", "boot_clusters"])),
        "fit.csv lacks the columns boot_lo95, boot_hi95, boot_clusters: make it",
    ),
    "twice": (lambda b, f: (pd.concat([b, b]), f), "bipartite.csv has points twice: keep one run in a folder"),
    "two runs": (
        lambda b, f: (b, f.assign(source="wikipedia")),
        "its CSVs are of books, tiny-model and wikipedia, tiny-model: keep one corpus and model in a folder",
    ),
    "half a fit": (
        lambda b, f: (b, f[f["parameter"] == "beta"]),
        "fit.csv has not one A and one beta for direct, L = 2 ell",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_csv(tmp_path, monkeypatch, capsys, case):
    change, message = BAD[case]
    folder = save(tmp_path / "results", *change(*tables()))
    assert message in fails(monkeypatch, capsys, fig2b, "--results", folder, "--out", tmp_path / "x")
    assert not list(tmp_path.glob("x*"))


def test_no_table(folder, tmp_path, monkeypatch, capsys):
    (folder / "bipartite.csv").write_bytes(b"")
    assert "bipartite.csv is no CSV table" in fails(monkeypatch, capsys, fig2b, "--results", folder)
    assert "--results names no folder" in fails(monkeypatch, capsys, figB1, "--results")


def test_figb2_needs_every_ratio(tmp_path, monkeypatch, capsys):
    bipartite, fits = tables()
    folder = save(tmp_path, bipartite[bipartite["L_tokens"] != 4 * bipartite["ell_tokens"]], fits)
    line = fails(monkeypatch, capsys, figB2, "--results", folder, "--out", tmp_path / "x")
    assert "bipartite.csv: no points to draw: no direct_corrected or vclub at L = 4 ell: make it" in line


def test_figb3_needs_both(tmp_path, monkeypatch, capsys):
    bipartite, fits = tables()
    folder = save(tmp_path, bipartite[bipartite["estimator"] != "direct_corrected"], fits)
    line = fails(monkeypatch, capsys, figB3, "--results", folder, "--out", tmp_path / "x")
    assert "no direct and direct_corrected at the same L = 2 ell: run estimate_bipartite.py with --counts" in line


def test_out_that_cannot_be_written(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    line = fails(monkeypatch, capsys, fig2b, "--results", folder, "--out", tmp_path / "file" / "x")
    assert line.startswith(f"error: {tmp_path / 'file'} is there and is no folder: give another place")
