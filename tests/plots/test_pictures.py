"""Every picture shows the committed CSVs: its points, bars, lines and bands have their values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from tests.conftest import call_script, call_shell, printer
from tests.plots.made_up import RESULTS, assert_points, assert_texts_fit, committed, gid, labels

# Imported after made_up has put plots/ on the path.
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


def test_make_all_draws_every_committed_picture(tmp_path, monkeypatch):
    """Its command lines, run in this process, draw every committed picture; drawing one twice gives the same bytes."""
    render = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda fig, *_, **__: fig.draw_without_rendering())  # takes a third as long
    done = call_shell("plots/make_all.sh", PYTHON=printer(tmp_path, "plots/*"))
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        script, *flags = line.split("\t")
        flags = [str(tmp_path / flag) if flags[i - 1] == "--out" else flag for i, flag in enumerate(flags)]
        drawn = call_script(script, *(flags or ["--out", tmp_path / "results/drawings"]))
        assert drawn.returncode == 0, drawn.stderr
    made = {path.relative_to(tmp_path / "results") for path in tmp_path.rglob("*.p[nd][gf]")}
    there = {path.relative_to(RESULTS) for path in RESULTS.rglob("*.p[nd][gf]")}
    assert made == {path for path in there if path.parts[0] not in ("smoke", "demo")}
    monkeypatch.setattr(Figure, "savefig", render)
    for name in ("first", "again"):
        style.save(two_point.draw("2c", [two_point.read_two_point(RESULTS / "fig2c")]), tmp_path / name)
    for kind in ("png", "pdf"):
        assert (tmp_path / f"first.{kind}").read_bytes() == (tmp_path / f"again.{kind}").read_bytes()


# Bipartite information

ALL = ["direct", "direct_corrected", "vclub", "block_entropy"]
FIG2B = [f"fig2b/{name}" for name in ("bipartite", "sweep")]


def bipartite_figure(figure: str, folder: Path):
    fig = bipartite.draw(figure, bipartite.read_results(folder))
    assert_texts_fit(fig)
    return fig


def assert_estimates(ax, folder: str, estimators: list[str], ratio: int) -> None:
    """Assert points ± their errors by book, and markers at the bottom edge for those at or below 0."""
    points = table(f"{folder}/bipartite", f"L_tokens == {ratio} * ell_tokens and estimator in {estimators}")
    for container, below, estimator in zip(ax.containers, gid(ax, "below"), estimators, strict=True):
        rows = points[points["estimator"] == estimator]
        shown = rows[rows["mi_nats"] > 0]
        L, mi, bars = (shown[name] for name in ("L_tokens", "mi_nats", "stderr_by_book_nats"))
        assert_points(container, L, mi, mi - bars, mi + bars)
        assert below.get_xdata().tolist() == rows.loc[rows["mi_nats"] <= 0, "L_tokens"].tolist()
    assert ax.get_ylim()[0] < points.loc[points["mi_nats"] > 0, "mi_nats"].min()
    assert ax.get_ylim()[1] > points["mi_nats"].max()


def assert_slopes(ax, rows: pd.DataFrame, where: pd.Series, estimators: list[str]) -> None:
    """Assert β and its interval in `rows`; each estimator has its own shift in x, less than to the next length."""
    shifts = []
    for container, estimator in zip(ax.containers, estimators, strict=True):
        mine = rows[rows["estimator"] == estimator]
        shift = np.sort(container.lines[0].get_xdata()) / np.sort(where[mine.index])
        assert shift == pytest.approx(shift[0])
        shifts.append(shift[0])
        assert_points(container, where[mine.index] * shift[0], mine["beta"], mine["lo95"], mine["hi95"])
    assert 0.7 < shifts[0] < shifts[-1] < 1.4


def middle(rows: pd.DataFrame) -> pd.Series:
    return np.sqrt(rows["L_min"] * rows["L_max"])


def test_fig2b(tmp_path):
    fig = bipartite_figure("2b", committed(tmp_path, *FIG2B))
    ax, slopes = fig.axes
    assert_estimates(ax, "fig2b", ALL, 2)
    steps = table("fig2b/sweep", "dof == 0 and L_over_ell == 2")
    assert_slopes(slopes, steps, middle(steps), ALL)
    direct, vclub = gid(ax, "paper")
    assert direct.get_ydata() == pytest.approx([2.27 * 4**0.76, 2.27 * 2048**0.76])
    assert vclub.get_ydata() == pytest.approx([3.26 * 4**0.71, 3.26 * 2048**0.71])
    assert [line.get_ydata()[0] for line in gid(slopes, "paper")] == [0.76, 0.71]
    windows = table("fig2b/sweep", "L_over_ell == 2 and dof > 0 and p_value >= 0.05")
    for law, name, label in zip(gid(ax, "fit"), ALL, labels(fig), strict=False):
        rows = windows[windows["estimator"] == name]
        longest = rows[rows["dof"] == rows["dof"].max()].sort_values("L_max").iloc[-1]
        L = longest[["L_min", "L_max"]].to_numpy(float)
        assert law.get_xdata().tolist() == L.tolist()
        assert law.get_ydata() == pytest.approx(longest["A"] * L ** longest["beta"])
        interval = f"{longest['beta']:.2f} [{longest['lo95']:.2f}, {longest['hi95']:.2f}]"
        assert f"β = {interval}, L\u00a0=\u00a0{L[0]:.0f}–{L[1]:.0f}" in label
    assert len(gid(ax, "fit")) == 4


def test_a_power_law_is_drawn_where_it_is_accepted(tmp_path):
    """The label of a law accepted at all lengths has no range; others are not drawn; paper lines end at our points."""

    def chosen(windows: pd.DataFrame) -> pd.DataFrame:
        return windows.assign(p_value=np.where(windows["estimator"] == "direct", 0.2, 0.04))

    def few_books(points: pd.DataFrame) -> pd.DataFrame:
        return points[points["L_tokens"] <= 64].assign(stderr_by_book_nats=np.nan, n_books=1)

    fig = bipartite_figure("2b", committed(tmp_path, *FIG2B, sweep=chosen, bipartite=few_books))
    ((law,), paper) = gid(fig.axes[0], "fit"), gid(fig.axes[0], "paper")
    row = table("fig2b/sweep", "estimator == 'direct' and L_over_ell == 2 and L_min == 4 and L_max == 64").iloc[0]
    assert law.get_ydata() == pytest.approx(row["A"] * np.array([4, 64]) ** row["beta"])
    assert [line.get_xdata().tolist() for line in paper] == [[4, 64]] * 2
    interval = f"{row['beta']:.2f} [{row['lo95']:.2f}, {row['hi95']:.2f}]"
    assert labels(fig)[:2] == [f"direct: β = {interval}", "direct, corrected: no power law"]
    points = table("fig2b/bipartite", "estimator == 'direct' and L_tokens == 2 * ell_tokens and L_tokens <= 64")
    bars = points["stderr_nats"]
    ends = points["mi_nats"] - bars, points["mi_nats"] + bars
    assert_points(fig.axes[0].containers[0], points["L_tokens"], points["mi_nats"], *ends)


def test_fig_b2_and_the_sweep():
    windows, fig = table("fig2b/sweep"), bipartite_figure("B.2", RESULTS / "fig2b")
    for ax, below, ratio in zip(fig.axes[:3], fig.axes[3:], (2, 3, 4), strict=True):
        assert_estimates(ax, "fig2b", ALL, ratio)
        steps = windows.query(f"dof == 0 and L_over_ell == {ratio}")
        assert_slopes(below, steps, middle(steps), ALL)
        assert ax.get_ylim() == fig.axes[0].get_ylim()
    left, right = bipartite_figure("sweep", RESULTS / "fig2b").axes
    windows = windows.query("L_over_ell == 2")
    assert_slopes(left, windows[windows["L_max"] == 2048], windows["L_min"], ALL)
    assert_slopes(right, windows[windows["L_min"] == 4], windows["L_max"], ALL)
    assert len(bipartite_figure("B.3", RESULTS / "fig2b").axes[0].containers) == 2


# Two-point information


def two_point_figure(figure: str, *folders: Path):
    fig = two_point.draw(figure, [two_point.read_two_point(folder) for folder in folders])
    assert_texts_fit(fig)
    return fig


def accepted(fits: pd.DataFrame) -> pd.DataFrame:
    return fits.assign(p_value=0.5)


def test_fig2c(tmp_path):
    """A point nine decades below the highest is marked at the bottom edge, like those below 0; an accepted law."""

    def low(points: pd.DataFrame) -> pd.DataFrame:
        return points.assign(mi_corrected_nats=points["mi_corrected_nats"].where(points["d_tokens"] != 256, 1e-9))

    names = [f"fig2c/{name}" for name in ("two_point", "fit", "sweep")]
    folder = committed(tmp_path, *names, two_point=low, fit=accepted)
    fig = two_point_figure("2c", folder)
    ax, slopes = fig.axes
    rows = table("fig2c/two_point", "estimator == 'grassberger' and mi_corrected_nats > 0 and d_tokens != 256")
    mi, bars = rows["mi_corrected_nats"], rows["stderr_nats"]
    assert_points(ax.containers[0], rows["d_tokens"], mi, mi - bars, mi + bars)
    (law,), (paper,), (below,) = (gid(ax, name) for name in ("fit", "paper", "below"))
    lengths = table("fig2c/two_point", "estimator == 'grassberger'")["d_tokens"]
    assert below.get_xdata().tolist() == lengths[~lengths.isin(rows["d_tokens"])].tolist()
    assert ax.get_ylim()[0] > 1e-5
    fit = table("fig2c/fit", "estimator == 'grassberger' and law == 'power_plus_constant_wls'").set_index("parameter")
    value = fit["value"]
    assert law.get_ydata() == pytest.approx(value["A"] * law.get_xdata() ** -value["alpha"])
    assert paper.get_ydata() == pytest.approx([1.10, 1.10 * 8192**-0.91])
    steps = table("fig2c/sweep", "estimator == 'grassberger' and dof == 0")
    assert_points(slopes.containers[0], middle(steps), steps["alpha"], steps["lo95"], steps["hi95"])
    low, alpha, high = (f"{fit.loc['alpha', name]:.2f}" for name in ("boot_lo95", "value", "boot_hi95"))
    assert labels(fig)[0] == f"Î(d) − C: α = {alpha} [{low}, {high}]"
    results = two_point.read_two_point(folder)
    results.fits[["boot_lo95", "boot_hi95"]] = np.nan  # as with --bootstrap 0
    assert labels(two_point.draw("2c", [results]))[0] == f"Î(d) − C: α = {alpha}"


def test_ranges():
    folders = ("fig2c", "figB4/wikipedia")
    fig = two_point.draw_ranges([RESULTS / folder for folder in folders])
    assert_texts_fit(fig)
    for ax, folder in zip(fig.axes, folders, strict=True):
        for index, (container, law) in enumerate(
            zip(ax.containers, ("power_plus_constant", "paper_eq_b15"), strict=True)
        ):
            rows = table(f"{folder}/ranges", f"parameter == 'alpha' and law == '{law}'")
            ends = rows["boot_lo95"], rows["boot_hi95"]
            assert_points(container, rows["L_max"] * 2 ** (0.18 * index), rows["value"], *ends)


def test_figb5(tmp_path):
    folders = ("fig2c", "figB4/wikipedia")
    copy = committed(tmp_path, *(f"fig2c/{name}" for name in ("two_point", "fit", "sweep")), fit=accepted)
    fig = two_point_figure("B.5", copy, RESULTS / folders[1])
    for ax, folder in zip(fig.axes, folders, strict=True):
        for container, column in zip(ax.containers, ("mi_nats", "mi_corrected_nats"), strict=True):
            rows = table(f"{folder}/two_point", f"estimator == 'grassberger' and {column} > 0")
            assert_points(container, rows["d_tokens"], rows[column])
    C = table("fig2c/two_point", "estimator == 'grassberger'")["plateau_nats"].iloc[0]
    assert gid(fig.axes[0], "plateau")[0].get_ydata()[0] == C
    with_plateau, without = (line.get_ydata() for line in gid(fig.axes[0], "fit"))
    assert with_plateau[: len(without)] == pytest.approx(without + C)
    assert not gid(fig.axes[1], "fit"), "no law is accepted"


# Models on Gaussian sequences


def gaussian_figure(figure: str, folder: str = "fig3", **settings):
    fig = gaussian_models.draw(gaussian_models.Settings(RESULTS / folder, Path("x"), figure, **settings))
    assert_texts_fit(fig)
    return fig


def models_by_state(folder: str = "fig3") -> tuple[pd.DataFrame, list[str], list[str]]:
    """summary.csv without the predictor that ignores the past, models with growing state, models with fixed state."""
    summary = table(f"{folder}/summary", "model != 'independent'")
    of = summary.groupby("model")["state_size"].agg(["max", "nunique"]).sort_values("max", kind="stable")
    return summary, of.index[of["nunique"] > 1].tolist(), of.index[of["nunique"] == 1].tolist()


def drawn_cells(ax) -> pd.DataFrame:
    """The points of a panel: x, y and whether filled, sorted by x and y."""
    points = []
    for container in ax.containers:
        line = container.lines[0]
        filled = line.get_markerfacecolor() != "none"
        points += [(x, y, filled) for x, y in zip(*line.get_data(), strict=True)]
    return pd.DataFrame(points, columns=["x", "y", "filled"]).sort_values(["x", "y"], ignore_index=True)


def cells(rows: pd.DataFrame, x: str, y: str = "mean_kl_nats") -> pd.DataFrame:
    found = rows.groupby(["model", "L"]).agg(x=(x, "mean"), y=(y, "mean"), filled=("converged", "all"))
    return found.sort_values(["x", "y"], ignore_index=True)


def test_fig3():
    summary, growing, fixed = models_by_state()
    axes = gaussian_figure("3").axes
    summary["ratio"] = summary["mi_nats"] / summary["state_size"]
    summary["above"] = summary["mean_kl_nats"] - summary["frontier_hi_nats"]
    of_fixed = summary[summary["model"].isin(fixed)]
    wanted = [cells(summary[summary["model"].isin(growing)], "L"), cells(of_fixed, "L"), cells(of_fixed, "ratio")]
    above = cells(of_fixed, "state_size", "above")
    for ax, points in zip(axes, [*wanted, above[above["y"] > 0].reset_index(drop=True)], strict=True):
        pd.testing.assert_frame_equal(drawn_cells(ax), points, check_dtype=False)
    independent = table("fig3/summary", "model == 'independent'").sort_values("L")["mean_kl_nats"]
    assert gid(axes[1], "independent")[0].get_ydata() == pytest.approx(independent)
    capacity = table("capacity/capacity", "L == 64 and d > 0 and attained_nats > 0")
    curve = gid(axes[2], "linear 64")[0]
    assert curve.get_xdata() == pytest.approx(capacity["mi_nats"] / capacity["d"])
    assert curve.get_ydata() == pytest.approx(summary["copies"].iloc[0] * capacity["attained_nats"] / 64)
    bars = [bar for bars in axes[1].collections if bars.get_gid() == "frontier" for bar in bars.get_segments()]
    low = of_fixed[of_fixed["frontier_lo_nats"] > summary["mean_kl_nats"].min()].drop_duplicates(["model", "L"])
    assert sorted(bar[0, 1] for bar in bars) == pytest.approx(sorted(low["frontier_lo_nats"]))
    assert sorted(bar[1, 1] for bar in bars) == pytest.approx(sorted(low["frontier_hi_nats"]))


@pytest.mark.parametrize("folder", ["fig3", "fig3/few_copies"])
def test_the_frontier(folder):
    summary, _, fixed = models_by_state(folder)
    summary["d"] = summary["state_size"] / summary["copies"]
    for ax, L in zip(gaussian_figure("frontier", folder).axes, sorted(summary["L"].unique()), strict=True):
        here = summary[(summary["L"] == L) & summary["model"].isin(fixed)]
        pd.testing.assert_frame_equal(drawn_cells(ax), cells(here, "d"), check_dtype=False)
        (band,) = (band for band in ax.collections if band.get_gid() == "linear")
        capacity = table("capacity/capacity", f"L == {L} and d == 1").iloc[0] * summary["copies"].iloc[0]
        at_one = band.get_paths()[0].vertices
        at_one = at_one[at_one[:, 0] == 1, 1]
        assert at_one.min() == pytest.approx(capacity["lower_nats"] / L)
        assert at_one.max() == pytest.approx(capacity["attained_nats"] / L)


@pytest.mark.parametrize(("figure", "quantity"), [("G.7", "kl"), ("G.8", "nll")])
def test_figs_g7_and_g8(figure, quantity):
    """Lines are means over logarithmic bins, which beyond position 4 consist of whole rows of four positions."""
    kl, (_, growing, fixed) = table("fig3/kl", "L == 64"), models_by_state()
    kl["bin"] = pd.cut(kl["position"], [0, 1, 2, 4, 8, 12, 16, 24, 32, 48, 64])
    (ax,) = gaussian_figure(figure, L=(64,)).axes
    assert len(ax.get_lines()) == len(growing) + len(fixed) + (quantity == "nll")
    for line, name in zip(ax.get_lines(), [*growing, *fixed], strict=False):
        rows = kl[kl["model"] == name].groupby("bin", observed=True)
        assert line.get_ydata() == pytest.approx(rows[f"{quantity}_nats"].mean())
        assert line.get_xdata() == pytest.approx(np.sqrt(rows["position"].min() * rows["position"].max()))
    exact = kl.groupby("bin", observed=True)["entropy_nats"].mean()
    assert (quantity == "kl") or ax.get_lines()[-1].get_ydata() == pytest.approx(exact)


# Models on books, the Gaussian families, the calibration, the drawings


def test_figg9(tmp_path):
    """With all crossovers at position 64, and a pretrained model from another folder."""
    names = [f"figG9/{name}" for name in ("smooth", "summary", "gap", "crossover", "gains", "counting")]
    folder = committed(tmp_path / "ours", *names, crossover=lambda t: t.assign(overtakes_at=64.0, lo95=32.0, hi95=99.0))

    def first(of: pd.DataFrame) -> pd.DataFrame:
        return of[of["model"] == "gpt_neox-mini-small"].assign(model="pretrained")

    other = committed(tmp_path / "other", *[names[i] for i in (0, 1, 4)], smooth=first, summary=first, gains=first)
    fig = books.draw(books.read_curves(folder), [books.read_models(other)])
    assert_texts_fit(fig)
    left, right, gained = fig.axes
    smooth, gap = (table(f"figG9/{name}", f"position_units >= {books.FIRST}") for name in ("smooth", "gap"))
    drawn = {label.split(":")[0]: line for label, line in zip(labels(left), left.lines, strict=True)}
    counting = next(drawn.pop(name) for name in list(drawn) if name.startswith("counting"))
    assert counting.get_ydata()[0] == table("figG9/counting")["nats_per_byte"].min()
    smooth = pd.concat([smooth, first(smooth)])
    for name, line in drawn.items():
        expected = smooth[smooth["model"] == name].groupby("position_units")["nats_per_unit"].mean()
        assert line.get_xdata() == pytest.approx(expected.index)
        assert line.get_ydata() == pytest.approx(expected)
    parts = zip(labels(right), right.lines[:-1:2], right.lines[1::2], right.collections, strict=True)
    for label, line, dot, band in parts:
        rows = gap[gap["model_a"] == label.split(" less ")[0]]
        assert np.sort(line.get_ydata()) == pytest.approx(np.sort(rows["gap_nats"]))
        heights = band.get_paths()[0].vertices[:, 1]
        assert (heights.min(), heights.max()) == pytest.approx((rows["lo95"].min(), rows["hi95"].max()))
        assert dot.get_xdata().tolist() == [64.0]
    unclear = committed(tmp_path / "unclear", *names, crossover=lambda t: t.assign(overtakes_at=64.0, lo95=np.nan))
    _, gaps, _ = books.draw(books.read_curves(unclear)).axes
    assert not [dot for dot in gaps.lines[1::2] if len(dot.get_xdata())]
    gains = table("figG9/gains", f"context == {books.CONTEXT}")
    gains = pd.concat([gains, first(gains)])
    for container, name in zip(gained.containers, drawn, strict=True):
        expected = gains[gains["model"] == name]["gain_nats"].sort_values()
        assert np.sort(container.lines[0].get_ydata()) == pytest.approx(expected)


def test_training_on_books():
    """Points are those of tokens.csv and token_gaps.csv, and the model that counts has one line."""
    fig = books.draw_training(RESULTS / "fig4")
    assert_texts_fit(fig)
    left, *others = fig.axes
    tokens, gaps = table("fig4/tokens"), table("fig4/token_gaps", "last == 2048")
    drawn = {label.split(":")[0]: line for label, line in zip(labels(left), left.lines, strict=True)}
    for name, rows in tokens.groupby("model"):
        assert drawn[name].get_xdata() == pytest.approx(rows["tokens"])
        assert drawn[name].get_ydata() == pytest.approx(rows["nats_per_unit"])
    assert len(drawn) == tokens["model"].nunique() + 1
    for ax, column in zip(others, ("gap_nats", "gain_gap_nats"), strict=True):
        for label, container in zip(labels(others[0]), ax.containers, strict=True):
            rows = gaps[gaps["model_a"] + " less " + gaps["model_b"] == label]
            assert container.lines[0].get_ydata() == pytest.approx(rows[column])


def test_figc6():
    folders = [RESULTS / "figC6/subvolume", RESULTS / "figC6/logarithmic"]
    fig = families.draw([families.read_exact(folder) for folder in folders])
    assert_texts_fit(fig)
    for ax, (name, (columns, which)) in zip(fig.axes, families.TABLES.items(), strict=True):
        for folder, container in zip(folders, ax.containers, strict=True):
            rows = pd.read_csv(folder / f"{name}.csv").query(which)
            assert_points(container, rows["L"], rows[columns[-1]])
    power, logarithm = (pd.read_csv(folder / "fit.csv").set_index(["law", "parameter"])["value"] for folder in folders)
    lines, power, logarithm = gid(fig.axes[0], "fit"), power["power_ols"], logarithm["logarithm_ols"]
    assert lines[0].get_ydata() == pytest.approx(power["A"] * lines[0].get_xdata() ** power["beta"])
    assert lines[1].get_ydata() == pytest.approx(logarithm["A"] + logarithm["B"] * np.log(lines[1].get_xdata()))
    assert labels(fig)[0] == f"subvolume: A·L^β, β = {power['beta']:.4f}"


def test_calibration(tmp_path):
    def changed(rows: pd.DataFrame) -> pd.DataFrame:
        tempered = (rows["predictor"] == "tempered") & (rows["L_tokens"] <= 8)
        return rows.assign(mean=rows["mean"].where(~tempered, -0.5))

    for name in ("markov", "santa_fe_b0.5_e0.1"):
        committed(tmp_path / name, f"calibration/{name}/coverage", coverage=changed)
    fig = calibration.draw(calibration.read_processes(tmp_path))
    assert_texts_fit(fig)
    ax = fig.axes[0]
    shown = dict(zip(labels(fig)[1:], ax.containers, strict=True))
    mi = table("calibration/markov/coverage", "predictor == 'exact' and quantity == 'mi' and n_documents == 1000")
    for name, estimator in (("direct", "direct"), ("vCLUB", "vclub"), ("block entropy", "block_entropy")):
        rows = mi[mi["estimator"] == estimator]
        L, mean, sd = rows["L_tokens"], rows["mean"], rows["sd"]
        assert_points(shown[name], L, mean, mean - sd, mean + sd)
        assert gid(ax, "truth")[0].get_ydata() == pytest.approx(rows["truth"])
    assert sorted(x for line in gid(ax, "below") for x in line.get_xdata()) == [4, 8]
    assert ax.get_ylim()[0] > 0.001, "they do not stretch the axis"


@pytest.mark.parametrize("draw", [drawings.draw_fig1, drawings.draw_fig2a])
def test_texts_of_the_drawings_stay_apart(draw):
    fig = draw()
    fig.draw_without_rendering()
    texts = [text for text in fig.findobj(Text) if text.get_text().strip() and text.get_visible()]
    boxes = [text.get_window_extent() for text in texts]
    assert len(boxes) >= 4
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
