"""Figures of two-point information from made-up CSVs: what is drawn is what they hold, what cannot be drawn is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import image

from tests.plots.made_up import PLOTS, assert_texts_fit, bars_of, caption_of, fails, make_all

# After made_up has put their folder on the path.
import fig2c  # isort: skip
import figB4  # isort: skip
import figB5  # isort: skip
import two_point  # isort: skip

LAWS = {  # A, alpha, C, all different
    "power_plus_constant": (1.3, 0.8, 0.02),
    "power_plus_constant_wls": (1.2, 0.9, 0.01),
    "paper_eq_b15": (1.1, 1.0, 0.03),
}
SCRIPTS = [fig2c, figB4, figB5]


def tables(
    source: str = "books", tokenizer: str = "bpe384", law: str = "power_plus_constant_wls"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Î = 1.2 · d^−0.9 + C with 5% errors for d = 1 ... 1024, less the C of `law`; another estimator beside it."""
    rng = np.random.default_rng(1)
    d = 2 ** np.arange(11)
    plateau = LAWS[law][2]
    names = {"source": source, "tokenizer": tokenizer, "d_tokens": d, "n_pairs": 2_000_000 - 100 * d}
    mi = 1.2 * d**-0.9 * (1 + 0.05 * rng.standard_normal(len(d))) + plateau
    ours = names | {"mi_nats": mi, "mi_corrected_nats": mi - plateau, "stderr_nats": 0.05 * mi}
    naive = names | {"mi_nats": 9.0 * mi, "mi_corrected_nats": np.nan, "stderr_nats": np.nan}
    points = [pd.DataFrame(ours).assign(estimator="grassberger"), pd.DataFrame(naive).assign(estimator="naive")]
    shared = {"source": source, "model": tokenizer, "L_min": 2.0, "L_max": 512.0, "dof": 6, "scale": "linear"}
    fits = []
    for name, values in LAWS.items():
        weighted = name != "paper_eq_b15"
        shared |= {"chi2": 8.3 if weighted else np.nan, "p_value": 0.2 if weighted else np.nan, "aicc": 14.0}
        for parameter, value in zip(("A", "alpha", "C"), values, strict=True):
            edges = {"lo95": value - 0.001, "hi95": value + 0.002, "boot_lo95": value - 0.03, "boot_hi95": value + 0.04}
            fits.append(
                shared | {"estimator": "grassberger", "law": name, "parameter": parameter, "value": value} | edges
            )
        fits.append(shared | {"estimator": "naive", "law": name, "parameter": "C", "value": 0.5})
    fits.append(shared | {"estimator": "grassberger", "law": "power", "parameter": "alpha", "value": 0.3})
    fits.append(shared | {"estimator": "grassberger", "law": "constant", "parameter": "C", "value": 0.04})
    # Upside down: the order of rows must not matter.
    return pd.concat(points)[::-1], pd.DataFrame(fits).assign(boot_clusters="4 books")[::-1]


def save(folder: Path, points: pd.DataFrame, fits: pd.DataFrame) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    points.to_csv(folder / "two_point.csv", index=False)
    fits.to_csv(folder / "fit.csv", index=False)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path / "results", *tables())


def read(folder: Path) -> two_point.TwoPoint:
    return two_point.read_two_point(folder)


def rows_of(points: pd.DataFrame) -> pd.DataFrame:
    return points[points["estimator"] == "grassberger"].sort_values("d_tokens")


def lines(ax, gid: str) -> list:
    return [line for line in ax.get_lines() if line.get_gid() == gid]


def labels(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


# What is drawn


@pytest.mark.parametrize("law", LAWS)
def test_fig2c_draws_the_csv(tmp_path, law):
    points, fits = tables(law=law)
    fig = fig2c.draw(read(save(tmp_path, points, fits)))
    (ax,) = fig.axes
    (bars,) = ax.containers
    d, mi, low, high = bars_of(bars)
    rows = rows_of(points)
    assert d == pytest.approx(rows["d_tokens"].to_numpy())
    assert mi == pytest.approx(rows["mi_corrected_nats"].to_numpy())
    assert low == pytest.approx((rows["mi_corrected_nats"] - rows["stderr_nats"]).to_numpy())
    assert high == pytest.approx((rows["mi_corrected_nats"] + rows["stderr_nats"]).to_numpy())
    A, alpha, C = LAWS[law]
    (line,) = lines(ax, "fit")
    assert line.get_xdata()[[0, -1]] == pytest.approx([2, 512])
    assert line.get_ydata() == pytest.approx(A * line.get_xdata() ** -alpha)
    (paper,) = lines(ax, "paper")
    assert paper.get_xdata().tolist() == [1, 1024]
    assert paper.get_ydata() == pytest.approx([1.10, 1.10 * 1024**-0.91])
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Distance d (tokens)", "Two-point mutual\ninformation (nats)")
    goodness = "" if law == "paper_eq_b15" else ", χ²/dof 8/6"
    assert labels(ax) == [
        f"Î(d) − C: {A}·d^−α, α = {alpha:.2f} [{alpha - 0.03:.2f}, {alpha + 0.04:.2f}]\nC = {C:.2g} nats{goodness}",
        "paper, PG19: 1.10·d^−0.91",
    ]
    low, high = ax.get_ylim()
    assert low < mi.min()
    assert high > mi.max()


def test_the_caption_says_what_is_drawn(folder):
    assert caption_of(fig2c.draw(read(folder))) == (
        "books, tokens of bpe384, 1.90 million to 2.00 million pairs at each d. Bars: ±1 standard error over books; "
        "points at all d are of the same books and err together. A·d^−α + C: fitted with the errors as weights to d = "
        "2 to 512, α with its 95% interval from 4 resampled books. The paper's fit (Eq. B.15, without "
        "weights): α = 1.00 [0.97, 1.04], C = 0.03."
    )


def test_weights_without_a_covariance_are_called_so(tmp_path):
    """Where the covariance is not known both weighted laws are the same fit."""
    points, fits = tables()
    weighted = fits[fits["law"] == "power_plus_constant_wls"]
    others = fits[~fits["law"].str.startswith("power_plus_constant") | (fits["law"] == "paper_eq_b15")]
    for order in (1, -1):
        same = pd.concat([weighted.assign(law="power_plus_constant"), weighted, others][::order])
        caption = caption_of(fig2c.draw(read(save(tmp_path, points, same))))
        assert "A·d^−α + C: fitted with the errors as weights to d" in caption


def test_a_law_that_misses_the_points_is_warned_of(tmp_path):
    points, fits = tables()
    warning = "Where χ² is far above dof this is not the law of the points."
    other = fits["law"] != "power_plus_constant_wls"
    missed = fits.assign(p_value=fits["p_value"].where(other, 1e-9))
    assert warning in caption_of(fig2c.draw(read(save(tmp_path, points, missed))))
    missed = fits.assign(p_value=fits["p_value"].where(~other, 1e-9))  # laws that are not drawn
    assert warning not in caption_of(fig2c.draw(read(save(tmp_path, points, missed))))


def test_figb4_draws_a_panel_a_folder(folder, tmp_path):
    points, fits = tables("wikipedia", "other/$2$", law="paper_eq_b15")
    other = save(tmp_path / "other", points, fits)
    fig = figB4.draw([read(folder), read(other)])
    first, second = fig.axes
    assert [ax.get_title() for ax in fig.axes] == ["books, bpe384", "wikipedia, other/$2$"]
    assert first.get_ylim() == second.get_ylim()
    for ax, law in ((first, "power_plus_constant_wls"), (second, "paper_eq_b15")):
        (line,) = lines(ax, "fit")
        A, alpha, _ = LAWS[law]
        assert line.get_ydata() == pytest.approx(A * line.get_xdata() ** -alpha)
        assert len(lines(ax, "paper")) == 1
    _, mi, _, _ = bars_of(second.containers[0])
    assert mi == pytest.approx(rows_of(points)["mi_corrected_nats"].to_numpy())
    assert "from 4 resampled books (books); least squares of log(Î − C) without weights" in caption_of(fig)
    assert "The paper's fit (Eq. B.15, without weights): books: α = 1.00" in caption_of(fig)


def test_figb5_draws_with_and_without_the_plateau(folder):
    (ax,) = figB5.draw([read(folder)]).axes
    rows = rows_of(tables()[0])
    A, alpha, C = LAWS["power_plus_constant_wls"]
    for column, plateau, bars, line in zip(
        ("mi_nats", "mi_corrected_nats"), (C, 0), ax.containers, lines(ax, "fit"), strict=True
    ):
        assert bars_of(bars)[1] == pytest.approx(rows[column].to_numpy())
        assert line.get_ydata() == pytest.approx(A * line.get_xdata() ** -alpha + plateau)
    assert [label.split(":")[0] for label in labels(ax)] == ["Î(d)", "Î(d) − C", "paper, PG19"]


def below_0(points: pd.DataFrame) -> pd.DataFrame:
    """Î − C at or below 0 at d = 256 and 512, hardly above at 1024."""
    values = {256: -0.004, 512: 0.0, 1024: 1e-9}
    ours = points["estimator"] == "grassberger"
    low = points["d_tokens"].map(values)
    return points.assign(
        mi_corrected_nats=points["mi_corrected_nats"].where(~ours | low.isna(), low),
        mi_nats=points["mi_nats"].where(~ours | low.isna(), low + 0.01),
    )


def test_points_that_a_logarithm_cannot_show_stand_at_the_bottom_edge(tmp_path):
    points, fits = tables()
    points = below_0(points)
    fig = fig2c.draw(read(save(tmp_path, points, fits)))
    (ax,) = fig.axes
    (below,) = lines(ax, "below")
    assert below.get_xdata().tolist() == [256, 512, 1024]
    assert bars_of(ax.containers[0])[0].tolist() == (2 ** np.arange(8)).tolist()
    highest = rows_of(points)["mi_corrected_nats"].max()
    assert f"▾ points at or below {highest / 1e4:.1g} nats: 3 of 11 (Î(d) − C)." in caption_of(fig)
    low, _ = ax.get_ylim()
    assert 1e-3 > low > 1e-5, "chance stretches no axis"
    without = points[points["d_tokens"] < 1024]
    caption = caption_of(fig2c.draw(read(save(tmp_path, without, fits))))
    assert "▾ points at or below 0 nats: 2 of 10 (Î(d) − C)." in caption


def test_no_decay_and_no_fit_are_said(tmp_path):
    points, fits = tables()
    flat = points.assign(mi_corrected_nats=points["mi_nats"] - 0.04)
    (ax,) = fig2c.draw(read(save(tmp_path, flat, fits))).axes
    assert labels(ax)[0] == "Î(d) − C: no decay seen"
    assert not lines(ax, "fit")
    none = points.assign(mi_corrected_nats=np.nan, stderr_nats=np.nan)
    fig = fig2c.draw(read(save(tmp_path, none, fits[:0])))
    (ax,) = fig.axes
    assert labels(ax)[0] == "Î(d): no fit"
    assert bars_of(ax.containers[0])[1] == pytest.approx(rows_of(points)["mi_nats"].to_numpy())
    assert "Without bars: no books to tell the error." in caption_of(fig)


def test_interval_of_the_covariance_where_nothing_was_resampled(tmp_path):
    points, fits = tables()
    fits = fits.assign(boot_lo95=np.nan, boot_hi95=np.nan, boot_clusters="")
    fig = fig2c.draw(read(save(tmp_path, points, fits)))
    assert "α = 0.90 [0.90, 0.90]" in labels(fig.axes[0])[0]
    assert "interval from the books taken as independent" in caption_of(fig)
    fits = fits.assign(lo95=np.nan, hi95=np.nan)
    fig = fig2c.draw(read(save(tmp_path, points, fits)))
    assert "α = 0.90 [no interval]" in labels(fig.axes[0])[0]
    assert "95% interval" not in caption_of(fig)


@pytest.mark.parametrize("law", [*LAWS, None])
@pytest.mark.parametrize("panels", [1, 2, 3])
def test_no_text_covers_a_panel_or_leaves_the_figure(tmp_path, panels, law):
    """With long names, points at the bottom edge, and all that the caption can say."""
    points, fits = tables(
        "a-rather-long-name-of-a-corpus", "a-tokenizer-of-one-hundred-thousand-tokens", law or "power_plus_constant"
    )
    points = below_0(points) if law is None else points
    points.loc[points["d_tokens"] == 1024, ["mi_nats", "mi_corrected_nats"]] -= 1
    if law is None:
        points["mi_corrected_nats"] = points["mi_nats"] - 0.04
    results = read(save(tmp_path, points, fits.assign(p_value=1e-9, chi2=12345.6)))
    assert_texts_fit(figB4.draw([results] * panels))
    assert_texts_fit(figB5.draw([results] * panels))


@pytest.mark.parametrize(
    ("n", "told"), [(978_020, "978,020"), (1.8319e6, "1.83 million"), (3.1e9, "3.10 billion"), (2.5e8, "250 million")]
)
def test_large_numbers(n, told):
    assert two_point.compact(n) == told


# Command lines


@pytest.mark.parametrize("script", SCRIPTS)
def test_writes_png_and_pdf(folder, tmp_path, script):
    out = tmp_path / "new folder" / "picture"
    folders = [folder] if script is fig2c else [folder, save(tmp_path / "other", *tables())]
    done = subprocess.run(
        [sys.executable, PLOTS / f"{script.__name__}.py", "--results", *folders, "--out", out],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"wrote {out}.png and {out}.pdf\n"
    pixels = image.imread(f"{out}.png")
    assert pixels.shape[1] == (680 if script is fig2c else 1400)  # 3.4 in or 7 in at 200 dpi
    assert (np.ptp(pixels[..., :3], axis=2) > 0.2).mean() > 0.002, "colours are drawn"
    assert Path(f"{out}.pdf").read_bytes().startswith(b"%PDF")


def test_make_all_draws_two_point_figures(tmp_path):
    results = tmp_path / "results"
    points, fits = tables("wikipedia")
    # Points that no law fits are no fault.
    save(results / "figB4" / "wikipedia", points.assign(mi_corrected_nats=np.nan), fits[:0])
    save(results / "fig2c", *tables())
    done = make_all(tmp_path)
    assert done.returncode == 0, done.stderr
    assert (results / "fig2c" / "fig2c.png").stat().st_size > 10_000
    for name in ("figB4", "figB5"):
        assert image.imread(results / name / f"{name}.png").shape[1] == 1400, "two panels"


# Bad input


@pytest.mark.parametrize("script", SCRIPTS)
def test_missing_csv(folder, tmp_path, monkeypatch, capsys, script):
    for name in ("fit.csv", "two_point.csv"):
        (folder / name).unlink()
        line = fails(monkeypatch, capsys, script, "--results", folder, "--out", tmp_path / "x")
        assert f"no file {folder / name}: check the name, or make it with python measure_mutual_info/estim" in line
    assert not list(tmp_path.glob("x*"))


@pytest.mark.parametrize("script", [figB4, figB5])
def test_no_folder(monkeypatch, capsys, script):
    assert "--results names no folder: give one" in fails(monkeypatch, capsys, script, "--results")


def change(**columns: object):
    return lambda points, fits: (points.assign(**columns), fits)


BAD = {
    "column missing": (
        lambda p, f: (p.drop(columns=["n_pairs", "tokenizer"]), f),
        "two_point.csv lacks the columns tokenizer, n_pairs: make it",
    ),
    "fit column missing": (
        lambda p, f: (p, f.drop(columns="boot_clusters")),
        "fit.csv lacks the column boot_clusters: make",
    ),
    "no rows": (lambda p, f: (p[:0], f), "two_point.csv has no rows of grassberger, so no points to draw: make it"),
    "other estimators": (change(estimator="naive"), "two_point.csv has no rows of grassberger"),
    "all below 0": (change(mi_nats=-1.0, mi_corrected_nats=-1.01), "all are at or below 0 nats: count a larger corpus"),
    "no number": (change(mi_nats="much"), "two_point.csv, line 2: mi_nats is 'much', not a number"),
    "nan": (change(mi_nats=np.nan), "two_point.csv, line 2: mi_nats is '', not a finite number"),
    "twice": (lambda p, f: (pd.concat([p, p]), f), "two_point.csv has points twice: keep one run in a folder"),
    "two runs": (
        lambda p, f: (p, f.assign(model="bytes")),
        "its CSVs are of books, bpe384 and books, bytes: keep one corpus and tokenizer in a folder",
    ),
    "half corrected": (
        lambda p, f: (p.assign(mi_corrected_nats=p["mi_corrected_nats"].where(p["d_tokens"] > 8)), f),
        "two_point.csv has mi_corrected_nats at some distances only: make it",
    ),
    "another C": (
        lambda p, f: (p.assign(mi_corrected_nats=p["mi_nats"] - 0.77), f),
        "no law of fit.csv has the C that two_point.csv took off: make it",
    ),
    "half a fit": (
        lambda p, f: (p, f[f["parameter"] != "A"]),
        "fit.csv has not one A, alpha and C of power_plus_constant_wls: make it",
    ),
    "no exponent": (
        lambda p, f: (p, f.assign(value=f["value"].where(f["parameter"] != "alpha"))),
        "not a finite number: make it",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_csv(tmp_path, monkeypatch, capsys, case):
    spoil, message = BAD[case]
    folder = save(tmp_path / "results", *spoil(*tables()))
    assert message in fails(monkeypatch, capsys, fig2c, "--results", folder, "--out", tmp_path / "x")
    assert not list(tmp_path.glob("x*"))
