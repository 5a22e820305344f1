"""Figs. 4 and G.9 from made-up CSVs: what is drawn is what they hold."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.plots.made_up import assert_texts_fit, caption_of, fails, make_all

import books  # isort: skip  # after made_up has put its folder on the path

MODELS = {"gpt2": ("gpt2", 124e6), "gpt2-large": ("gpt2", 774e6), "mamba-130m": ("mamba", 129e6)}
POSITION = 2 ** np.arange(0, 12.0, 0.5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """CSVs of three models with two seeds and of two pairs, all numbers different; the models upside down."""
    random = np.random.default_rng(0)
    smooth, summary, gaps, crossover = [], [], [], []
    for model, (kind, parameters) in MODELS.items():
        for seed in (0, 1):
            names = {"model": model, "L": 4096, "seed": seed, "n_documents": 400}
            columns = {"first": POSITION, "last": POSITION, "position": POSITION, "stderr_nats": 0.01}
            columns["nll_nats"] = 4 - np.log(POSITION) / 8 + random.uniform(0, 0.1)
            smooth.append(pd.DataFrame({**names, **columns}))
            row = {"nll_nats": 3.0, "stderr_nats": 0.02, "kind": kind, "parameters": parameters}
            summary.append(names | row | {"n_books": 8, "source": "books"})
    for i, (a, b) in enumerate((("gpt2", "mamba-130m"), ("gpt2-large", "mamba-130m"))):
        pair = {"model_a": a, "model_b": b, "L": 4096}
        gap = 0.3 - 0.05 * np.log2(POSITION) + i
        columns = {"position": POSITION, "gap_nats": gap, "lo95": gap - 0.1, "hi95": gap + 0.2}
        gaps.append(pd.DataFrame({**pair, **columns, "seeds_a": 2, "seeds_b": 2}))
        at = {"overtakes_at": 64.0, "lo95": 50.0, "hi95": 80.0} if i == 0 else {}
        crossover.append(pair | {"leads_at_the_end": a} | at)
    pd.concat(smooth[::-1]).to_csv(tmp_path / "smooth.csv", index=False)
    pd.DataFrame(summary).to_csv(tmp_path / "summary.csv", index=False)
    pd.concat(gaps).to_csv(tmp_path / "gap.csv", index=False)
    pd.DataFrame(crossover).to_csv(tmp_path / "crossover.csv", index=False)
    return tmp_path


def drawn(folder: Path, **settings):
    return books.draw(books.read_curves(folder), books.Settings(folder, folder / "x", **settings))


def test_the_curves_are_those_of_the_csvs(folder):
    fig = drawn(folder, from_position=4)
    assert_texts_fit(fig)
    left, right = fig.axes
    labels = [text.get_text() for text in left.get_legend().get_texts()]
    assert labels == [
        "gpt2-large: 774 million, 2 seeds",
        "gpt2: 124 million, 2 seeds",
        "mamba-130m: 129 million, 2 seeds",
    ]
    table = pd.read_csv(folder / "smooth.csv")
    for line, model in zip(left.lines, ["gpt2-large", "gpt2", "mamba-130m"], strict=True):
        expected = table[(table["model"] == model) & (table["position"] >= 4)].groupby("position")["nll_nats"].mean()
        np.testing.assert_allclose(line.get_xdata(), expected.index)
        np.testing.assert_allclose(line.get_ydata(), expected)
    looks = [(line.get_color(), line.get_linestyle()) for line in left.lines]
    assert looks[0][0] == looks[1][0] != looks[2][0]  # a colour a kind
    assert looks[0][1] == looks[2][1] == "-"  # the largest of each
    assert looks[1][1] == "--"
    gap = pd.read_csv(folder / "gap.csv")
    lines = [line for line in right.lines if len(line.get_xdata()) == len(POSITION)]
    for line, a, band in zip(lines, ["gpt2", "gpt2-large"], right.collections, strict=True):
        rows = gap[gap["model_a"] == a]
        np.testing.assert_allclose(line.get_ydata(), rows["gap_nats"])
        heights = band.get_paths()[0].vertices[:, 1]
        assert heights.min() == pytest.approx(rows["lo95"].min())
        assert heights.max() == pytest.approx(rows["hi95"].max())
    dots = [line.get_xdata().tolist() for line in right.lines if line.get_marker() == "o"]
    assert dots[0] == [64.0]
    assert np.isnan(dots[1]).all()
    assert [text.get_text() for text in right.get_legend().get_texts()] == [
        "gpt2 less mamba-130m",
        "gpt2-large less mamba-130m",
    ]
    assert caption_of(fig).startswith("books: 400 documents of 8 books, L = 4096.")


def test_short_sequences_and_one_book(folder):
    """Fewer positions than are left out, and no errors."""
    for name in ("smooth", "summary", "gap", "crossover"):
        table = pd.read_csv(folder / f"{name}.csv").assign(L=4)
        if name in ("smooth", "gap"):
            table = table[table["position"] <= 4]
        table.assign(**{c: np.nan for c in ("stderr_nats", "lo95", "hi95") if c in table}).to_csv(
            folder / f"{name}.csv", index=False
        )
    assert_texts_fit(drawn(folder))


def test_too_many(folder):
    table = pd.read_csv(folder / "summary.csv")
    more = [table.iloc[:1].assign(model=f"gpt2-{i}", parameters=1e6 + i) for i in range(4)]
    curves = books.read_curves(folder)
    many = books.Curves(curves.smooth, pd.concat([table, *more]), curves.gap, curves.crossover)
    with pytest.raises(books.UserError, match="at most 4 of each of 7 kinds"):
        many.looks()
    pairs = pd.concat([curves.crossover.assign(model_b=f"m{i}") for i in range(8)])
    with pytest.raises(books.UserError, match=r"give evaluate\.py --pairs"):
        books.draw(books.Curves(curves.smooth, curves.summary, curves.gap, pairs), books.Settings(folder, folder / "x"))


def test_command_line(folder, monkeypatch):
    monkeypatch.setattr("sys.argv", ["books.py", "--results", str(folder), "--out", str(folder / "made" / "fig4")])
    books.run(books.main, books.Settings)
    assert (folder / "made" / "fig4.png").stat().st_size > 10_000
    assert (folder / "made" / "fig4.pdf").stat().st_size > 1000


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("smooth", lambda table: table.drop(columns="position"), "lacks the column position"),
        ("smooth", lambda table: table[:0], "has no rows"),
        ("gap", lambda table: table.assign(model_a="other"), "are of different models"),
        ("gap", lambda table: table.assign(L=512), "are of L = 512, 4096"),
        ("summary", lambda table: table.assign(parameters="many"), "parameters is 'many', not a number"),
        ("gap", lambda table: table.assign(gap_nats=np.nan), "gap_nats is '', not a finite number"),
    ],
)
def test_bad_csvs(folder, monkeypatch, capsys, name, change, said):
    change(pd.read_csv(folder / f"{name}.csv")).to_csv(folder / f"{name}.csv", index=False)
    assert said in fails(monkeypatch, capsys, books, "--results", folder, "--out", folder / "fig4")
    assert not (folder / "fig4.png").exists()


def test_a_missing_csv(folder, monkeypatch, capsys):
    (folder / "gap.csv").unlink()
    line = fails(monkeypatch, capsys, books, "--results", folder, "--out", folder / "fig4")
    assert "gap.csv" in line
    assert "evaluate.py" in line


def test_make_all_draws_them(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    for name in ("fig4", "figG9"):
        shutil.copytree(folder, root / "results" / name)
    done = make_all(root)
    assert done.returncode == 0, done.stderr
    for name in ("fig4", "figG9"):
        assert (root / "results" / name / f"{name}.png").stat().st_size > 0
