"""Figs. 3, G.7, G.8, utilisation and training from made-up CSVs: what is drawn is what they hold."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.plots.made_up import assert_texts_fit, bars_of, caption_of, fails, make_all

import gaussian_models  # isort: skip  # after made_up has put its folder on the path

LENGTHS = (16, 64, 256)
STATES = {"gpt2-mini": 256, "mamba2-mini-256": 776, "mamba2-mini-2048": 2624}  # the first one's grows: times L/2


def state(model: str, L: int) -> int:
    return STATES[model] * (L // 2 if model == "gpt2-mini" else 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """CSVs of three models at three lengths with two seeds, all numbers different; upside down."""
    rng = np.random.default_rng(0)
    summary, kl, log = [], [], []
    for L in LENGTHS:
        shared = {"L": L, "mi_nats": 0.1 * L, "copies": 4, "k": 3, "family": "subvolume", "steps": 100}
        summary.append(shared | {"model": "independent", "seed": 0, "state_size": 0, "mean_kl_nats": 1.0})
        for model in STATES:
            for seed in (0, 1):
                names = {"model": model, "L": L, "seed": seed}
                positions = np.arange(1, L + 1)
                values = rng.uniform(0.001, 0.5, L)
                kl.append(pd.DataFrame({"position": positions, "kl_nats": values, "entropy_nats": 5.0, **names}))
                kl[-1]["nll_nats"] = kl[-1]["entropy_nats"] + values
                summary.append(shared | names | {"state_size": state(model, L), "mean_kl_nats": values.mean()})
                steps = np.arange(10, 101, 10)
                log.append(pd.DataFrame({**names, "steps": 100, "step": steps, "kl_nats": 1 / steps + 0.01 * seed}))
    table = pd.DataFrame(summary)
    table["utilisation"] = 1 - table["mean_kl_nats"]
    table["mean_nll_nats"], table["mean_entropy_nats"] = 5.3, 5.0
    table[::-1].to_csv(tmp_path / "summary.csv", index=False)
    pd.concat(kl)[::-1].to_csv(tmp_path / "kl.csv", index=False)
    pd.concat(log)[::-1].to_csv(tmp_path / "training.csv", index=False)
    return tmp_path


def draw(folder: Path, figure: str, **settings):
    fig = gaussian_models.draw(gaussian_models.Settings(folder, folder / "x", figure, **settings))
    assert_texts_fit(fig)
    return fig


def models(folder: Path) -> gaussian_models.Models:
    return gaussian_models.read_models(folder)


def means(folder: Path, model: str, column: str) -> pd.DataFrame:
    rows = pd.read_csv(folder / "summary.csv").query("model == @model")
    return rows.groupby("L")[column].agg(["mean", "min", "max"])


def test_models_of_growing_state_come_first(folder):
    assert models(folder).names == ["gpt2-mini", "mamba2-mini-256", "mamba2-mini-2048"]


def test_fig3_draws_the_csvs(folder):
    fig = draw(folder, "3")
    attention, fixed, against = fig.axes
    for ax, names in ((attention, ["gpt2-mini"]), (fixed, ["mamba2-mini-256", "mamba2-mini-2048"])):
        for name, container in zip(names, ax.containers, strict=True):
            wanted = means(folder, name, "mean_kl_nats")
            L, mean, low, high = bars_of(container)
            assert L.tolist() == list(LENGTHS)
            for found, column in ((mean, "mean"), (low, "min"), (high, "max")):
                assert found == pytest.approx(wanted[column].to_numpy())
    for name, container in zip(["mamba2-mini-256", "mamba2-mini-2048"], against.containers, strict=True):
        x, y, *_ = bars_of(container)
        assert x == pytest.approx([0.1 * L / state(name, L) for L in LENGTHS])
        assert y == pytest.approx(means(folder, name, "mean_kl_nats")["mean"].to_numpy())
    assert "k = 3, 4 copies a token" in caption_of(fig)


def test_fig3_without_fixed_states(folder):
    table = pd.read_csv(folder / "summary.csv")
    table[~table["model"].str.startswith("mamba")].to_csv(folder / "summary.csv", index=False)
    assert [text.get_text() for text in draw(folder, "3").axes[2].texts] == ["no model of fixed state"]


def test_lines_without_markers_differ(folder):
    table = pd.read_csv(folder / "summary.csv")
    fixed = table[table["model"] == "mamba2-mini-256"]
    more = [fixed.assign(model=f"mamba-{i}", state_size=10_000 + i) for i in range(9)]
    pd.concat([table, *more]).to_csv(folder / "summary.csv", index=False)
    lines = models(folder).lines()
    assert len(lines) == 12
    assert len({(line["color"], line["linestyle"]) for line in lines.values()}) == 12


@pytest.mark.parametrize(("figure", "quantity"), [("G.7", "kl"), ("G.8", "nll")])
def test_figs_g7_and_g8_draw_the_csv(folder, figure, quantity):
    fig = draw(folder, figure)
    assert [ax.get_title() for ax in fig.axes] == ["L = 16", "L = 64", "L = 256"]
    kl = pd.read_csv(folder / "kl.csv")
    for ax, L in zip(fig.axes, LENGTHS, strict=True):
        lines = ax.get_lines()
        assert len(lines) == 3 + (quantity == "nll")
        for line, name in zip(lines, STATES, strict=False):
            rows = kl[(kl["model"] == name) & (kl["L"] == L)]
            wanted = rows.groupby((rows["position"] - 1) // 4)[f"{quantity}_nats"].mean()
            assert line.get_ydata() == pytest.approx(wanted.to_numpy())
            assert line.get_xdata() == pytest.approx(np.arange(L // 4) * 4 + 2.5)
        if quantity == "nll":
            assert lines[-1].get_ydata() == pytest.approx(np.full(L // 4, 5.0))


def test_lengths_can_be_chosen(folder):
    assert [ax.get_title() for ax in draw(folder, "G.7", L=(64,)).axes] == ["L = 64"]


def test_utilisation_draws_the_csv(folder):
    (ax,) = draw(folder, "utilisation").axes
    for name, container in zip(STATES, ax.containers, strict=True):
        assert bars_of(container)[1] == pytest.approx(means(folder, name, "utilisation")["mean"].to_numpy())


def test_training_draws_both_budgets(folder):
    log = pd.read_csv(folder / "training.csv")
    short = log[log["step"] <= 50].assign(kl_nats=lambda t: 2 * t["kl_nats"])
    (folder / "short").mkdir()
    short.to_csv(folder / "short" / "training.csv", index=False)
    fig = draw(folder, "training")
    for ax, L in zip(fig.axes, LENGTHS, strict=True):
        full, fewer = ax.get_lines()[:2]
        rows = log[(log["model"] == "gpt2-mini") & (log["L"] == L)].groupby("step")["kl_nats"].mean()
        assert full.get_ydata() == pytest.approx(rows.to_numpy())
        assert fewer.get_ydata() == pytest.approx(2 * rows[:5].to_numpy())
    assert "Dotted" in caption_of(fig)


def test_writes_png_and_pdf(folder, monkeypatch):
    monkeypatch.setattr("sys.argv", ["script", "--results", str(folder), "--out", str(folder / "pictures" / "figure")])
    gaussian_models.run(gaussian_models.main, gaussian_models.Settings)
    assert (folder / "pictures" / "figure.png").stat().st_size > 0
    assert (folder / "pictures" / "figure.pdf").stat().st_size > 0


def test_make_all_draws_them(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    shutil.copytree(folder, root / "results" / "fig3")
    done = make_all(root)
    assert done.returncode == 0, done.stderr
    made = {str(path.relative_to(root / "results")) for path in root.rglob("*.png") if path.parent.name != "drawings"}
    assert made == {"fig3/fig3.png", "fig3/utilisation.png", "fig3/training.png", "figG7/figG7.png", "figG8/figG8.png"}


def spoil(path: Path, change) -> None:
    change(pd.read_csv(path)).to_csv(path, index=False)


@pytest.mark.parametrize(
    ("figure", "name", "change", "said"),
    [
        ("3", "summary", lambda t: t.drop(columns="state_size"), "lacks the column state_size"),
        ("3", "summary", lambda t: t[t["model"] == "independent"], "has no models"),
        ("3", "summary", lambda t: t.assign(mi_nats="much"), "mi_nats is 'much', not a number"),
        ("G.7", "kl", lambda t: t.drop(columns="position"), "lacks the column position"),
        ("training", "training", lambda t: t[:0], "has no rows"),
        (
            "utilisation",
            "summary",
            lambda t: pd.concat([t.assign(model=t["model"] + str(i)) for i in range(5)]),
            "at most 14 can be told apart",
        ),
    ],
)
def test_bad_csvs(folder, monkeypatch, capsys, figure, name, change, said):
    spoil(folder / f"{name}.csv", change)
    flags = ["--figure", figure, "--results", folder, "--out", folder / "figure"]
    assert said in fails(monkeypatch, capsys, gaussian_models, *flags)


def test_bad_lengths(folder, monkeypatch, capsys):
    flags = ["--figure", "G.7", "--results", folder, "--out", folder / "figure"]
    assert "--L 17" in fails(monkeypatch, capsys, gaussian_models, *flags, "--L", 17)
    assert "--row 0" in fails(monkeypatch, capsys, gaussian_models, *flags, "--row", 0)
