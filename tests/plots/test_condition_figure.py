"""The figure of the L²M condition from made-up CSVs: what is drawn is what they hold, names do not cover each other."""

from __future__ import annotations

import io
import itertools
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest

from tests.conftest import call_shell
from tests.plots.made_up import assert_texts_fit, caption_of, fails, make_all

import condition  # isort: skip  # after made_up has put its folder on the path

LENGTHS = [1000, 10_000, 100_000, 1_000_000, 10_000_000]
MODELS = {  # group → model → elements at L
    "full attention": {f"attention-{n}": lambda L, n=n: 10_000 * n * L / 2 for n in range(1, 8)},
    "latent attention": {"latent": lambda L: 15_000 * L / 2},
    "hybrid": {"mixed": lambda L: 1000 * L / 2 + 1e6},
    "bounded": {f"recurrent-{n}": lambda L, n=n: 10**n + 0 * L for n in (5, 6, 7)},
}
LAWS = {"paper-direct": (2.27, 0.76), "paper-vclub": (3.26, 0.71), "books-direct": (3.9, 0.48)}
CAPACITIES = {"16 bits": 11.09, "1 nat": 1.0, "measured": 0.0072}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The CSVs, upside down."""
    rows = [
        {"model": model, "group": group, "L_tokens": L, "state_elements": size(L), "capacity": capacity}
        for group, models in MODELS.items()
        for model, size in models.items()
        for L in LENGTHS
        for capacity in CAPACITIES
    ]
    pd.DataFrame(rows)[::-1].to_csv(tmp_path / "capacity.csv", index=False)
    rows = []
    for law, (A, beta) in LAWS.items():
        for (capacity, nats), L in itertools.product(CAPACITIES.items(), LENGTHS):
            mi = A * L**beta
            ends = {
                "mi_lo95": mi / 2,
                "mi_hi95": mi * 3,
                "required_lo95": mi / 2 / nats,
                "required_hi95": mi * 3 / nats,
            }
            row = {"law": law, "L_tokens": L, "capacity": capacity, "nats_per_element": nats, "mi_nats": mi}
            rows.append(row | {"required_elements": mi / nats} | (ends if law.startswith("books") else {}))
    pd.DataFrame(rows)[::-1].to_csv(tmp_path / "required.csv", index=False)
    rng = np.random.default_rng(0)
    runs = [
        {"model": f"m{size}", "L": L, "seed": seed, "state_size": size, "nats_per_element": rng.uniform(-1, 5)}
        for L in (16, 64, 256)
        for size in (700, 2000, 9000)
        for seed in range(3)
    ]
    information = pd.DataFrame(runs)
    information["nats_per_element"] *= 1e-3
    information[::-1].to_csv(tmp_path / "state_information.csv", index=False)
    return tmp_path


def lines(ax) -> dict:
    return {line.get_gid(): line for line in ax.get_lines()}


def names_of(ax) -> dict[str, object]:
    found = [text for text in ax.texts if isinstance(text, matplotlib.text.Annotation)]
    return {text.get_text(): text for text in found}


def test_draws_the_csvs(folder):
    fig = condition.draw(condition.read_condition(folder))
    assert_texts_fit(fig)
    left, right = fig.axes
    for models in MODELS.values():
        for model, size in models.items():
            L, elements = lines(left)[model].get_data()
            assert list(L) == LENGTHS
            assert elements == pytest.approx([size(x) for x in LENGTHS])
    L, needs = lines(left)["measured"].get_data()
    assert needs == pytest.approx(3.9 * np.array(LENGTHS) ** 0.48)  # at one nat an element
    bands = [band.get_paths()[0].vertices for band in left.collections if band.get_gid() == "paper"]
    assert len(bands) == len(CAPACITIES)
    for band, nats in zip(bands, reversed(CAPACITIES.values()), strict=True):  # the CSV is upside down
        at_end = band[band[:, 0] == LENGTHS[-1], 1]
        assert at_end.min() == pytest.approx(3.26 * 1e7**0.71 / nats)
        assert at_end.max() == pytest.approx(2.27 * 1e7**0.76 / nats)
    legend = [text.get_text() for text in left.get_legend().get_texts()]
    assert legend == [
        "law of the paper (paper-vclub to paper-direct)",
        "books-direct at 1 nat an element, 95% interval",
        "full attention (7 models)",
        "latent attention (1 model)",
        "hybrid (1 model)",
        "bounded (3 models)",
    ]
    information = pd.read_csv(folder / "state_information.csv")
    for L, container in zip((16, 64, 256), right.containers, strict=True):
        rows = information[(information["L"] == L) & (information["nats_per_element"] > 0)]
        points = np.sort(np.array(container.lines[0].get_data()), axis=1)
        assert points == pytest.approx(np.sort(rows[["state_size", "nats_per_element"]].to_numpy().T, axis=1))
    below = [x for line in right.get_lines() if line.get_gid() == "below" for x in line.get_xdata()]
    lost = int((information["nats_per_element"] <= 0).sum())
    assert len(below) == lost > 0
    assert f"▾: {lost} at or below 0" in caption_of(fig)


def test_names_stand_apart_and_within(folder):
    fig = condition.draw(condition.read_condition(folder))
    fig.savefig(io.BytesIO())
    left, right = fig.axes
    names = names_of(left)
    expected = {"attention-1", "attention-7", "latent", "mixed", "recurrent-5", "recurrent-7", "books-direct at 1 nat"}
    assert set(names) == expected | {f"law at {how}/element" for how in ("16 bits", "1 nat", "0.0072 nats")}
    # An annotation's own extent holds its leader.
    boxes = [matplotlib.text.Text.get_window_extent(text) for text in names.values()]
    for one, two in itertools.combinations(boxes, 2):
        assert min(one.y1, two.y1) - max(one.y0, two.y0) < 2  # pixels: ascenders and descenders may meet
    label = right.yaxis.label.get_window_extent()
    for box in boxes:
        assert box.x0 > left.get_window_extent().x1
        assert box.x1 < label.x0
        assert box.y1 <= fig.bbox.y1


def test_spread():
    assert condition.spread(np.array([1.0, 5.0]), 1, 10) == pytest.approx([1, 5])
    assert condition.spread(np.array([1.0, 1.0, 1.0]), 1, 10) == pytest.approx([0, 1, 2])
    assert condition.spread(np.array([1.0, 1.2, 2.1, 9.0]), 1, 10) == pytest.approx(
        [0.43333, 1.43333, 2.43333, 9], abs=1e-4
    )
    assert condition.spread(np.array([9.0, 10.0, 12.0]), 1, 10) == pytest.approx([8, 9, 10])


def test_few_models_are_all_named_and_one_panel_stands_alone(folder):
    (folder / "state_information.csv").unlink()
    capacity = pd.read_csv(folder / "capacity.csv")
    capacity[~capacity["model"].str.startswith("attention")].to_csv(folder / "capacity.csv", index=False)
    required = pd.read_csv(folder / "required.csv")
    required[required["law"].str.startswith("paper")].to_csv(folder / "required.csv", index=False)
    fig = condition.draw(condition.read_condition(folder))
    assert_texts_fit(fig)
    (ax,) = fig.axes
    assert {"latent", "mixed", "recurrent-5", "recurrent-6", "recurrent-7"} <= set(names_of(ax))
    assert "Right" not in caption_of(fig)


def spoil(path: Path, change) -> None:
    change(pd.read_csv(path)).to_csv(path, index=False)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("capacity", lambda t: t.drop(columns="group"), "lacks the column group"),
        ("capacity", lambda t: t.assign(group="novel"), "unknown group 'novel'"),
        ("capacity", lambda t: t[:0], "nothing to draw"),
        ("required", lambda t: t.assign(required_elements="many"), "required_elements is 'many', not a number"),
        ("required", lambda t: t.assign(mi_nats=np.nan), "not a finite number"),
        ("required", lambda t: pd.concat([t, t]), "required.csv has rows twice"),
        ("state_information", lambda t: t.assign(L=range(1, len(t) + 1)), "more than 6 lengths L"),
    ],
)
def test_bad_csvs(folder, monkeypatch, capsys, name, change, said):
    spoil(folder / f"{name}.csv", change)
    assert said in fails(monkeypatch, capsys, condition, "--results", folder, "--out", folder / "figure")


def test_no_folder(monkeypatch, capsys, tmp_path):
    assert "no file" in fails(
        monkeypatch, capsys, condition, "--results", tmp_path / "nowhere", "--out", tmp_path / "f"
    )


def test_make_all_draws_it(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("checkout")
    shutil.copytree(folder, root / "results" / "condition")
    done = make_all(root)
    assert done.returncode == 0, done.stderr
    for kind in ("png", "pdf"):
        assert (root / "results" / "condition" / f"condition.{kind}").stat().st_size > 0


def test_the_figure_from_one_command(tmp_path):
    script = "l2m_condition/condition.sh"
    done = call_shell(script, "--wanted", "100_000", PRESET="smoke", OUT=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "condition.png").stat().st_size > 0
    table = pd.read_csv(tmp_path / "condition.csv")
    assert set(table["capacity"]) == {"16 bits", "1 nat", "measured"}
    assert (table["wanted_tokens"] == 100_000).all()
    verdicts = table.drop_duplicates("model").set_index("model")["verdict"]
    assert verdicts.to_dict() == {"Llama-3.1-8B": "satisfies", "Gemma-3-27B": "satisfies", "Mamba-130M": "violates"}
    done = call_shell(script, PRESET="huge")
    assert (done.returncode, done.stderr.strip()) == (2, "error: PRESET=huge: choose smoke, cpu or paper")
    done = call_shell(script, MODEL="x")
    assert done.returncode != 0
    assert "set OUT" in done.stderr
