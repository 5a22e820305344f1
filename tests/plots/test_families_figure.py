"""Fig. C.6 from CSVs of exact_mi.py: what is drawn is what they hold, what cannot be drawn is said."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.conftest import call_script, call_shell
from tests.plots.made_up import assert_texts_fit, caption_of, fails

import families  # isort: skip  # after made_up has put its folder on the path


@pytest.fixture(scope="module")
def exact(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exact")
    for family in ("subvolume", "logarithmic"):
        flags = ["--layers", 1, 2, 3, 4, 5, 6, "--ell", 3, "--pairs", 2, 4, "--rank-layers", 3]
        done = call_script("gaussian_synthetic/exact_mi.py", "--family", family, "--out", folder / family, *flags)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def folders(exact, tmp_path) -> list[Path]:
    """Copies that a test may spoil."""
    for path in exact.glob("*/*.csv"):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        (tmp_path / path.parent.name / path.name).write_bytes(path.read_bytes())
    return [tmp_path / "subvolume", tmp_path / "logarithmic"]


def draw(folders: list[Path]):
    return families.draw([families.read_exact(folder) for folder in folders])


def test_draws_the_csvs(folders):
    fig = draw(folders)
    assert_texts_fit(fig)
    wanted = {
        "gaussian_mi": ("mi_nats", "ell == L // 2"),
        "two_point": ("mi_nats", "i == 1 and j == L"),
        "rank": ("rank", "ell == L // 2"),
    }
    for ax, (name, (column, which)) in zip(fig.axes, wanted.items(), strict=True):
        assert len(ax.containers) == 2
        for folder, container in zip(folders, ax.containers, strict=True):
            rows = pd.read_csv(folder / f"{name}.csv").query(which)
            x, y = container.lines[0].get_data()
            assert x == pytest.approx(rows["L"].to_numpy())
            assert y == pytest.approx(rows[column].to_numpy())
    power, logarithm = (pd.read_csv(folder / "fit.csv").set_index(["law", "parameter"])["value"] for folder in folders)
    power, logarithm = power["power_ols"], logarithm["logarithm_ols"]
    lines = [line for line in fig.axes[0].get_lines() if len(line.get_xdata()) == 100]
    L = lines[0].get_xdata()
    assert L[[0, -1]] == pytest.approx([64, 4096])
    assert lines[0].get_ydata() == pytest.approx(power["A"] * L ** power["beta"])
    assert lines[1].get_ydata() == pytest.approx(logarithm["A"] + logarithm["B"] * np.log(L))
    labels = [text.get_text() for text in fig.axes[0].get_legend().get_texts()]
    assert labels[0] == f"sub-volume: {power['A']:.3f}·L^{power['beta']:.3f}"
    assert labels[1] == f"logarithmic: {logarithm['A']:.3f} + {logarithm['B']:.4f}·ln L"
    assert "one sequence" in caption_of(fig)


def test_without_ranks_and_without_lines(folders):
    for folder in folders:
        (folder / "rank.csv").unlink()
        (folder / "fit.csv").unlink()
    fig = draw(folders)
    assert len(fig.axes) == 2
    labels = [text.get_text() for text in fig.axes[0].get_legend().get_texts()]
    assert labels == ["sub-volume", "logarithmic"]


def spoil(path: Path, change) -> None:
    change(pd.read_csv(path)).to_csv(path, index=False)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("gaussian_mi", lambda t: t.drop(columns="ell"), "lacks the column ell"),
        ("gaussian_mi", lambda t: t[t["ell"] != t["L"] // 2], "has not one value at L/2"),
        ("gaussian_mi", lambda t: pd.concat([t, t]), "has not one value at L/2"),
        ("rank", lambda t: t.assign(copies=64), "several families or copies"),
        ("two_point", lambda t: t.assign(mi_nats="many"), "mi_nats is 'many', not a number"),
        ("fit", lambda t: t.drop(columns="law"), "lacks the column law"),
    ],
)
def test_bad_csvs(folders, monkeypatch, capsys, name, change, said):
    spoil(folders[0] / f"{name}.csv", change)
    assert said in fails(monkeypatch, capsys, families, "--results", *folders, "--out", folders[0].parent / "figure")


def test_bad_folders(folders, monkeypatch, capsys, tmp_path):
    out = ["--out", tmp_path / "figure"]
    assert "no file" in fails(monkeypatch, capsys, families, "--results", tmp_path / "nowhere", *out)
    for path in folders[1].glob("*.csv"):
        if path.stem != "fit":
            spoil(path, lambda t: t.assign(copies=2))
    assert "different numbers of copies" in fails(monkeypatch, capsys, families, "--results", *folders, *out)
    many = [shutil.copytree(folders[0], tmp_path / f"copy {i}") for i in range(5)]
    assert "give 1 to 4" in fails(monkeypatch, capsys, families, "--results", *many, *out)


def test_the_figure_from_one_command(tmp_path):
    done = call_shell("gaussian_synthetic/figC6.sh", PRESET="smoke", OUT=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "figC6.png").stat().st_size > 0
    assert pd.read_csv(tmp_path / "logarithmic" / "gaussian_mi.csv")["L"].max() == 1024
    done = call_shell("gaussian_synthetic/figC6.sh", PRESET="huge")
    assert (done.returncode, done.stderr.strip()) == (2, "error: PRESET=huge: choose smoke, cpu or paper")
