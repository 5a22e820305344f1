"""Every picture from the committed CSVs: its points, bars, lines and bands are what these hold."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from tests.conftest import ROOT, call_shell
from tests.plots.made_up import RESULTS, assert_points, assert_texts_fit, committed, gid, labels

# After made_up has put their folder on the path.
import bipartite  # isort: skip
import books  # isort: skip
import calibration  # isort: skip
import drawings  # isort: skip
import families  # isort: skip
import gaussian_models  # isort: skip
import style  # isort: skip
import two_point  # isort: skip


def table(name: str, query: str = "index >= 0") -> pd.DataFrame:
    return pd.read_csv(RESULTS / f"{name}.csv").query(query)


def seeds(rows: pd.DataFrame, by: str, column: str) -> tuple:
    """x, mean, least and largest seed."""
    found = rows.groupby(by)[column].agg(["mean", "min", "max"])
    return found.index, found["mean"], found["min"], found["max"]


# One run of every script by its command line


def test_make_all_draws_every_committed_picture(tmp_path):
    pictures = {path.relative_to(RESULTS) for kind in ("png", "pdf") for path in RESULTS.rglob(f"*.{kind}")}
    for folder in ("plots", "common"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    needed = {"nll", "scores", "counts", "counts_by_book", "calibration", "calibration_fit"}
    for path in (*RESULTS.rglob("*.csv"), *RESULTS.rglob("coverage.json")):
        if path.stem not in needed:
            to = tmp_path / path.relative_to(ROOT)
            to.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(path, to)
    done = call_shell(tmp_path / "plots/make_all.sh", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    drawn = {path.relative_to(tmp_path / "results") for path in (tmp_path / "results").rglob("*.p[nd][gf]")}
    committed_ones = {path for path in pictures if path.parts[0] not in ("smoke", "demo")}
    assert drawn == committed_ones
    assert all((tmp_path / "results" / path).stat().st_size > 5_000 for path in drawn)


def test_same_csvs_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        style.save(two_point.draw("2c", [two_point.read_two_point(RESULTS / "fig2c")]), tmp_path / name)
    for kind in ("png", "pdf"):
        assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"two.{kind}").read_bytes()


# Bipartite information


def bipartite_figure(figure: str, *folders: Path):
    fig = bipartite.draw(figure, [bipartite.read_results(folder) for folder in folders])
    assert_texts_fit(fig)
    return fig


def assert_estimates(ax, folder: str, estimators: list[str], ratio: int) -> None:
    """Points ± stderr, and markers at the bottom edge for those at or below 0."""
    points = table(f"{folder}/bipartite", f"L_tokens == {ratio} * ell_tokens and estimator in {estimators}")
    for container, below, estimator in zip(ax.containers, gid(ax, "below"), estimators, strict=True):
        rows = points[points["estimator"] == estimator]
        shown = rows[rows["mi_nats"] > 0]
        L, mi, bars = (shown[name] for name in ("L_tokens", "mi_nats", "stderr_nats"))
        assert_points(container, L, mi, mi - bars, mi + bars)
        assert below.get_xdata().tolist() == rows.loc[rows["mi_nats"] <= 0, "L_tokens"].tolist()
    assert ax.get_ylim()[0] < points.loc[points["mi_nats"] > 0, "mi_nats"].min()
    assert ax.get_ylim()[1] > points["mi_nats"].max()


def assert_slopes(ax, rows: pd.DataFrame, where: pd.Series, estimators: list[str]) -> None:
    """β and its interval of some windows, each estimator shifted its own way by less than to the next length."""
    shifts = []
    for container, estimator in zip(ax.containers, estimators, strict=True):
        mine = rows[rows["estimator"] == estimator]
        x = np.sort(container.lines[0].get_xdata())
        shift = x / np.sort(where[mine.index])
        assert shift == pytest.approx(shift[0])
        shifts.append(shift[0])
        assert_points(container, where[mine.index] * shift[0], mine["beta"], mine["lo95"], mine["hi95"])
    assert 0.7 < shifts[0] < shifts[-1] < 1.4


def middle(rows: pd.DataFrame) -> pd.Series:
    return np.sqrt(rows["L_min"] * rows["L_max"])


ALL = ["direct", "direct_corrected", "vclub"]


def test_fig2b(tmp_path):
    fig = bipartite_figure("2b", committed(tmp_path, *(f"fig2b/{name}" for name in ("bipartite", "fit", "sweep"))))
    ax, slopes = fig.axes
    assert_estimates(ax, "fig2b", ALL, 2)
    assert gid(ax, "below")[1].get_xdata().tolist() == [4]
    steps = table("fig2b/sweep", "dof == 0 and L_over_ell == 2")
    assert_slopes(slopes, steps, middle(steps), ALL)
    direct, vclub = gid(ax, "paper")
    assert direct.get_ydata() == pytest.approx([2.27 * 4**0.76, 2.27 * 2048**0.76])
    assert vclub.get_ydata() == pytest.approx([3.26 * 4**0.71, 3.26 * 2048**0.71])
    assert [line.get_ydata()[0] for line in gid(slopes, "paper")] == [0.76, 0.71]
    (law,) = gid(ax, "fit")  # vCLUB's, which saturates; the others have none that is accepted
    fit = table("fig2b/fit", "law == 'saturating' and estimator == 'vclub' and L_over_ell == 2")
    value, L = fit.set_index("parameter")["value"], law.get_xdata()
    assert L[[0, -1]] == pytest.approx([4, 2048])
    assert law.get_ydata() == pytest.approx(value["I_inf"] / (1 + (value["L_0"] / L) ** value["beta"]))
    said = ["direct: no law accepted", "direct, corrected: no law accepted", "vCLUB: saturating law, p = 0.16"]
    assert labels(fig)[:3] == said


def test_a_power_law_is_drawn_where_it_is_selected_and_accepted(tmp_path):
    """Its line ends with its range, and the paper's with the points."""

    def chosen(fits: pd.DataFrame) -> pd.DataFrame:
        fits["selected"] = fits["law"] == "power"
        return fits.assign(p_value=np.where(fits["estimator"] == "direct", 0.2, 0.04), L_max=64)

    names = [f"fig2b/{name}" for name in ("bipartite", "fit", "sweep")]
    folder = committed(tmp_path, *names, fit=chosen, bipartite=lambda t: t[t["L_tokens"] <= 64])
    fig = bipartite_figure("2b", folder)
    ((law,), paper) = gid(fig.axes[0], "fit"), gid(fig.axes[0], "paper")
    fit = table("fig2b/fit", "law == 'power' and estimator == 'direct' and L_over_ell == 2").set_index("parameter")
    L, value = law.get_xdata(), fit["value"]
    assert L[[0, -1]] == pytest.approx([4, 64])
    assert law.get_ydata() == pytest.approx(value["A"] * L ** value["beta"])
    assert [line.get_xdata().tolist() for line in paper] == [[4, 64]] * 2
    beta, low, high = fit.loc["beta", ["value", "boot_lo95", "boot_hi95"]]
    assert labels(fig)[:2] == [f"direct: β = {beta:.2f} [{low:.2f}, {high:.2f}]", "direct, corrected: no law accepted"]


@pytest.mark.parametrize(
    ("intervals", "text"),
    [
        ((0.7042, 0.7211), "β = 0.713 [0.704, 0.721]"),
        ((0.7042, 0.7211, 0.6, 0.8), "β = 0.71 [0.60, 0.80]"),  # that of resampled books
        ((np.nan, np.nan), "β = 0.71 [no interval]"),
    ],
)
def test_intervals_in_legends(intervals, text):
    edges = dict(zip(("lo95", "hi95", "boot_lo95", "boot_hi95"), [*intervals, np.nan, np.nan], strict=False))
    assert style.with_interval("β", pd.DataFrame({"value": 0.7126, **edges}, index=["beta"]), "beta") == text


def test_figb1():
    fig = bipartite_figure("B.1", RESULTS / "fig2b", RESULTS / "figB1/wikipedia")
    first, below, second, below_second = fig.axes
    assert_estimates(first, "fig2b", ALL, 2)
    assert_estimates(second, "figB1/wikipedia", ALL, 2)
    assert len(gid(second, "fit")) == 3
    assert first.get_ylim() == second.get_ylim()
    assert below.get_ylim() == below_second.get_ylim()
    assert [ax.get_title().split(",")[0] for ax in (first, second)] == ["books", "wikipedia"]


def test_figb2():
    fig = bipartite_figure("B.2", RESULTS / "fig2b")
    for ax, below, ratio in zip(fig.axes[::2], fig.axes[1::2], (2, 3, 4), strict=True):
        assert_estimates(ax, "fig2b", ["direct_corrected", "vclub"], ratio)
        steps = table("fig2b/sweep", f"dof == 0 and L_over_ell == {ratio}")
        assert_slopes(below, steps, middle(steps), ["direct_corrected", "vclub"])


def test_figb3():
    upper, lower = bipartite_figure("B.3", RESULTS / "fig2b").axes
    assert_estimates(upper, "fig2b", ["direct", "direct_corrected"], 2)
    rows = table("fig2b/bipartite", "estimator == 'direct_corrected' and L_tokens == 2 * ell_tokens")
    added, bars = rows["correction_nats"], rows["correction_stderr_nats"]
    assert_points(lower.containers[0], rows["L_tokens"], added, added - bars, added + bars)


def test_the_sweep():
    left, right = bipartite_figure("sweep", RESULTS / "fig2b").axes
    windows = table("fig2b/sweep", "L_over_ell == 2")
    assert_slopes(left, windows[windows["L_max"] == 2048], windows["L_min"], ALL)
    assert_slopes(right, windows[windows["L_min"] == 4], windows["L_max"], ALL)
    assert left.get_ylim() == right.get_ylim()
    assert [line.get_ydata()[0] for line in gid(left, "paper")] == [0.76, 0.71]


# Two-point information


def two_point_figure(figure: str, *folders: Path):
    fig = two_point.draw(figure, [two_point.read_two_point(folder) for folder in folders])
    assert_texts_fit(fig)
    return fig


def assert_two_point(container, folder: str, column: str) -> None:
    rows = table(f"{folder}/two_point", f"estimator == 'grassberger' and {column} > 0")
    mi, bars = rows[column], rows["stderr_nats"]
    assert_points(container, rows["d_tokens"], mi, mi - bars, mi + bars)


def test_fig2c(tmp_path):
    fig = two_point_figure("2c", committed(tmp_path, *(f"fig2c/{name}" for name in ("two_point", "fit", "sweep"))))
    ax, slopes = fig.axes
    assert_two_point(ax.containers[0], "fig2c", "mi_corrected_nats")
    (law,), (paper,), (below,) = (gid(ax, name) for name in ("fit", "paper", "below"))
    assert below.get_xdata().tolist() == [512, 1024, 2048, 4096, 8192]
    fit = table("fig2c/fit", "estimator == 'grassberger' and law == 'power_plus_constant_wls'").set_index("parameter")
    value = fit["value"]
    assert law.get_ydata() == pytest.approx(value["A"] * law.get_xdata() ** -value["alpha"])
    assert paper.get_xdata().tolist() == [1, 8192]
    assert paper.get_ydata() == pytest.approx([1.10, 1.10 * 8192**-0.91])
    steps = table("fig2c/sweep", "estimator == 'grassberger' and dof == 0")
    assert_points(slopes.containers[0], middle(steps), steps["alpha"], steps["lo95"], steps["hi95"])
    assert labels(fig)[0] == "Î(d) − C: α = 1.94 [1.76, 2.12]"


def test_chance_stretches_no_axis(tmp_path):
    """A point 9 decades below the highest stands at the bottom edge, too."""

    def low(points: pd.DataFrame) -> pd.DataFrame:
        return points.assign(mi_corrected_nats=points["mi_corrected_nats"].where(points["d_tokens"] != 256, 1e-9))

    names = [f"fig2c/{name}" for name in ("two_point", "fit", "sweep")]
    ax, _ = two_point_figure("2c", committed(tmp_path, *names, two_point=low)).axes
    assert 256 in gid(ax, "below")[0].get_xdata()
    assert ax.get_ylim()[0] > 1e-5


def test_figs_b4_and_b5():
    folders = [RESULTS / "fig2c", RESULTS / "figB4/wikipedia"]
    for figure, panels in ("B.4", slice(0, 4, 2)), ("B.5", slice(0, 2)):
        fig = two_point_figure(figure, *folders)
        for ax, folder in zip(fig.axes[panels], ("fig2c", "figB4/wikipedia"), strict=True):
            columns = ["mi_corrected_nats"] if figure == "B.4" else ["mi_nats", "mi_corrected_nats"]
            for container, column in zip(ax.containers, columns, strict=True):
                assert_two_point(container, folder, column)
            assert ax.get_ylim() == fig.axes[0].get_ylim()
    C = table("fig2c/two_point", "estimator == 'grassberger'")["plateau_nats"].iloc[0]
    assert gid(fig.axes[0], "plateau")[0].get_ydata()[0] == C
    with_plateau, without = (line.get_ydata() for line in gid(fig.axes[0], "fit"))
    assert with_plateau[: len(without)] == pytest.approx(without + C)
    assert not gid(fig.axes[1], "fit"), "no law is accepted"


# Models on Gaussian sequences


def gaussian_figure(figure: str, **settings):
    fig = gaussian_models.draw(gaussian_models.Settings(RESULTS / "fig3", Path("x"), figure, **settings))
    assert_texts_fit(fig)
    return fig


GROWING = ["window-mini", "gpt2-mini"]
FIXED = [f"mamba2-mini-{size}" for size in (256, 512, 2048, 8192)]  # by the size of the state


def test_fig3_and_utilisation():
    summary = table("fig3/summary")
    growing, fixed, against = gaussian_figure("3").axes
    for ax, names in ((growing, GROWING), (fixed, FIXED)):
        for container, name in zip(ax.containers, names, strict=True):
            assert_points(container, *seeds(summary[summary["model"] == name], "L", "mean_kl_nats"))
    summary["ratio"] = summary["mi_nats"] / summary["state_size"].where(summary["state_size"] > 0)
    for container, name in zip(against.containers, FIXED, strict=True):
        assert_points(container, *seeds(summary[summary["model"] == name], "ratio", "mean_kl_nats"))
    independent = fixed.get_lines()[-1].get_ydata()
    assert independent == pytest.approx(summary[summary["model"] == "independent"].sort_values("L")["mean_kl_nats"])
    (ax,) = gaussian_figure("utilisation").axes
    for container, name in zip(ax.containers, [*GROWING, *FIXED], strict=True):
        assert_points(container, *seeds(summary[summary["model"] == name], "L", "utilisation"))


@pytest.mark.parametrize(("figure", "quantity"), [("G.7", "kl"), ("G.8", "nll")])
def test_figs_g7_and_g8(figure, quantity):
    kl = table("fig3/kl")
    for ax, L in zip(gaussian_figure(figure).axes, (16, 64, 256), strict=True):
        for line, name in zip(ax.get_lines(), [*GROWING, *FIXED], strict=False):
            rows = kl[(kl["model"] == name) & (kl["L"] == L)]
            assert line.get_ydata() == pytest.approx(
                rows.groupby((rows["position"] - 1) // 4)[f"{quantity}_nats"].mean()
            )
            assert line.get_xdata() == pytest.approx(np.arange(L // 4) * 4 + 2.5)
        exact = kl[kl["L"] == L].groupby((kl["position"] - 1) // 4)["entropy_nats"].mean()
        assert (quantity == "kl") or ax.get_lines()[-1].get_ydata() == pytest.approx(exact)
    assert [ax.get_title() for ax in gaussian_figure(figure, L=(64,)).axes] == ["L = 64"]


def test_training():
    def mean(name: str) -> pd.Series:
        return table(name, "model == 'gpt2-mini' and L == 64").groupby("step")["kl_nats"].mean()

    lines = gaussian_figure("training").axes[1].get_lines()
    full, short = [line for line in lines if line.get_color() == style.COLORS[1]]
    for line, name in ((full, "fig3/training"), (short, "fig3/short/training")):
        assert line.get_xdata() == pytest.approx(mean(name).index)
        assert line.get_ydata() == pytest.approx(mean(name))
    assert short.get_linestyle() == ":"


def test_looks_differ_up_to_the_most_that_can_be_told_apart(tmp_path):
    def more(rows: pd.DataFrame) -> pd.DataFrame:
        fixed = rows[rows["model"] == FIXED[0]]
        return pd.concat([rows, *(fixed.assign(model=f"mamba-{i}", state_size=10_000 + i) for i in range(6))])

    folder = committed(tmp_path, "fig3/summary", summary=more)
    lines = gaussian_models.read_models(folder).lines().values()
    assert len({(line["color"], line["linestyle"]) for line in lines}) == len(lines) == 12


# Models on books, the Gaussian families, the calibration, the drawings


def test_figg9(tmp_path):
    """With a crossover, which the committed results lack."""
    names = [f"figG9/{name}" for name in ("smooth", "summary", "gap", "crossover")]
    folder = committed(tmp_path, *names, crossover=lambda t: t.assign(overtakes_at=64.0))
    fig = books.draw(books.read_curves(folder), books.Settings(folder, folder / "x"))
    assert_texts_fit(fig)
    left, right = fig.axes
    order = [label.split(":")[0] for label in labels(left)]
    looks = {name: (line.get_color(), line.get_linestyle()) for name, line in zip(order, left.lines, strict=True)}
    assert looks["mamba2-mini-medium"][0] == looks["mamba2-mini-small"][0] != looks["gpt2-mini-small"][0]
    assert [looks[f"mamba2-mini-{size}"][1] for size in ("medium", "small")] == ["-", "--"]
    smooth, gap = table("figG9/smooth", "position >= 8"), table("figG9/gap")
    for name, line in zip(order, left.lines, strict=True):
        expected = smooth[smooth["model"] == name].groupby("position")["nll_nats"].mean()
        assert line.get_xdata() == pytest.approx(expected.index)
        assert line.get_ydata() == pytest.approx(expected)
    for label, line, dot, band in zip(
        labels(right), right.lines[:-1:2], right.lines[1::2], right.collections, strict=True
    ):
        rows = gap[gap["model_a"] == label.split(" less ")[0]]
        assert np.sort(line.get_ydata()) == pytest.approx(np.sort(rows["gap_nats"]))
        heights = band.get_paths()[0].vertices[:, 1]
        assert (heights.min(), heights.max()) == pytest.approx((rows["lo95"].min(), rows["hi95"].max()))
        assert dot.get_xdata().tolist() == [64.0]


def test_figc6(tmp_path):
    folders = [RESULTS / "figC6/subvolume", RESULTS / "figC6/logarithmic"]
    fig = families.draw([families.read_exact(folder) for folder in folders])
    assert_texts_fit(fig)
    for ax, (name, (columns, which)) in zip(fig.axes, families.TABLES.items(), strict=True):
        for folder, container in zip(folders, ax.containers, strict=True):
            rows = pd.read_csv(folder / f"{name}.csv").query(which)
            assert_points(container, rows["L"], rows[columns[-1]])
    power, logarithm = (pd.read_csv(folder / "fit.csv").set_index(["law", "parameter"])["value"] for folder in folders)
    lines = [line for line in fig.axes[0].get_lines() if len(line.get_xdata()) == 100]
    L, power, logarithm = lines[0].get_xdata(), power["power_ols"], logarithm["logarithm_ols"]
    assert lines[0].get_ydata() == pytest.approx(power["A"] * L ** power["beta"])
    assert lines[1].get_ydata() == pytest.approx(logarithm["A"] + logarithm["B"] * np.log(lines[1].get_xdata()))
    assert labels(fig)[0] == f"sub-volume: {power['A']:.3f}·L^{power['beta']:.3f}"
    # Two positions may be independent where two halves are not; ranks and fits may be missing.
    names = [f"figC6/subvolume/{name}" for name in ("gaussian_mi", "two_point")]
    folder = committed(tmp_path, *names, two_point=lambda t: t.assign(mi_nats=0))
    fig = families.draw([families.read_exact(folder)])
    assert [[text.get_text() for text in ax.texts] for ax in fig.axes] == [[], ["all 0"]]
    assert labels(fig) == ["sub-volume"]


def test_calibration(tmp_path):
    def spoiled(rows: pd.DataFrame) -> pd.DataFrame:
        tempered = (rows["predictor"] == "tempered") & (rows["L_tokens"] <= 8)
        return rows.assign(mean=rows["mean"].where(~tempered, -0.5))

    for name in ("markov", "santa_fe_b0.5_e0.1"):
        committed(tmp_path / name, f"calibration/{name}/coverage", coverage=spoiled)
    processes = calibration.read_processes(tmp_path)
    assert [process.name for process in processes] == ["santa_fe_b0.5_e0.1", "markov"]
    overshoot, coverage = calibration.draw_overshoot(processes), calibration.draw_coverage(processes)
    for fig in (overshoot, coverage):
        assert_texts_fit(fig)
    shown = dict(zip(labels(overshoot)[1:], overshoot.axes[1].containers, strict=True))
    exact = table("calibration/markov/coverage", "predictor == 'exact'")
    mi = exact[(exact["quantity"] == "mi") & (exact["n_documents"] == 1000)]
    for name, estimator in (("direct", "direct"), ("vCLUB", "vclub")):
        rows = mi[mi["estimator"] == estimator]
        L, mean, sd = rows["L_tokens"], rows["mean"], rows["sd"]
        assert_points(shown[name], L, mean, mean - sd, mean + sd)
        assert gid(overshoot.axes[1], "truth")[0].get_ydata() == pytest.approx(rows["truth"])
    below = [x for line in gid(overshoot.axes[1], "below") for x in line.get_xdata()]
    assert sorted(below) == [4, 8]
    assert overshoot.axes[1].get_ylim()[0] > 0.001, "they do not stretch the axis"
    ax = coverage.axes[1]
    places = dict(zip((text.get_text() for text in ax.get_xticklabels()), ax.get_xticks(), strict=True))
    for container, n in zip(ax.containers, (100, 1000), strict=True):
        rows = exact[(exact["estimator"] == "direct") & (exact["n_documents"] == n)].set_index("quantity")
        rows = rows.loc[["mi", "beta_gls", "beta_ols"]]
        x = container.lines[0].get_xdata()
        assert_points(container, x, rows["coverage"], rows["coverage_lo95"], rows["coverage_hi95"])
        assert np.abs(x[[0, 2, -2, -1]] - [places[name] for name in ("4", "16", "β GLS", "β OLS")]).max() < 0.4
    (band,) = ax.patches
    assert (band.get_y(), band.get_height()) == pytest.approx((0.93, 0.04))


@pytest.mark.parametrize("draw", [drawings.draw_fig1, drawings.draw_fig2a])
def test_texts_of_the_drawings_stay_within_and_apart(draw):
    fig = draw()
    fig.draw_without_rendering()
    texts = [text for text in fig.findobj(Text) if text.get_text().strip() and text.get_visible()]
    boxes = [text.get_window_extent() for text in texts]
    assert len(boxes) >= 5
    for i, box in enumerate(boxes):
        assert fig.bbox.x0 <= box.x0 < box.x1 <= fig.bbox.x1
        assert fig.bbox.y0 <= box.y0 < box.y1 <= fig.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:i])
