"""The figure of the L²M condition from made-up CSVs: what is drawn is what they hold, names do not cover each other."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest

from tests.conftest import call_shell
from tests.plots.made_up import assert_texts_fit, refusal

import condition  # isort: skip  # after made_up has put its folder on the path

LENGTHS = [1000, 10_000, 100_000, 1_000_000, 10_000_000]
MODELS = {  # group → model → elements at L
    "full attention": {f"attention-{n}": lambda L, n=n: 10_000 * n * L / 2 for n in range(1, 8)},
    "latent attention": {"latent": lambda L: 15_000 * L / 2},
    "hybrid": {"mixed": lambda L: 1000 * L / 2 + 1e6},
    "bounded": {f"recurrent-{n}": lambda L, n=n: 10**n + 0 * L for n in (5, 6, 7)},
}
SIZES = {model: size for models in MODELS.values() for model, size in models.items()}
LAWS = {"paper-direct": (2.27, 0.76), "paper-vclub": (3.26, 0.71), "books-direct": (3.9, 0.48)}
CAPACITIES = {"16 bits": 11.09, "1 nat": 1.0, "measured": 0.0072}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The CSVs, upside down."""
    states = [(model, "total", L // 2, size(L)) for model, size in SIZES.items() for L in LENGTHS]
    groups = [(model, group) for group, models in MODELS.items() for model in models]
    required = []
    for (law, (A, beta)), (capacity, nats), L in itertools.product(LAWS.items(), CAPACITIES.items(), LENGTHS):
        needs = A * L**beta / nats
        ends = (needs / 2, needs * 3) if law.startswith("books") else (np.nan, np.nan)
        required.append((law, L, capacity, nats, needs, *ends))
    columns = {
        "state": (states, ["model", "layer_kind", "context_tokens", "state_elements"]),
        "condition": (groups, ["model", "group"]),
        "required": (required, condition.REQUIRED),
    }
    for name, (rows, names) in columns.items():
        pd.DataFrame(rows, columns=names)[::-1].to_csv(tmp_path / f"{name}.csv", index=False)
    return tmp_path


def names_of(ax) -> dict[str, object]:
    found = [text for text in ax.texts if isinstance(text, matplotlib.text.Annotation)]
    return {text.get_text(): text for text in found}


def test_draws_the_csvs(folder):
    fig = condition.draw(folder)
    assert_texts_fit(fig)
    (ax,) = fig.axes
    lines = {line.get_gid(): line.get_data() for line in ax.get_lines()}
    for model, size in SIZES.items():
        assert list(lines[model][0]) == LENGTHS
        assert lines[model][1] == pytest.approx([size(L) for L in LENGTHS])
    assert lines["measured"][1] == pytest.approx(3.9 * np.array(LENGTHS) ** 0.48)  # at one nat an element
    bands = [band.get_paths()[0].vertices for band in ax.collections if band.get_gid() == "paper"]
    for band, nats in zip(bands, reversed(CAPACITIES.values()), strict=True):  # the CSV is upside down
        at_end = band[band[:, 0] == LENGTHS[-1], 1]
        assert at_end.min() == pytest.approx(3.26 * 1e7**0.71 / nats)
        assert at_end.max() == pytest.approx(2.27 * 1e7**0.76 / nats)
    names = names_of(ax)
    expected = {"attention-1", "attention-7", "latent", "mixed", "recurrent-5", "recurrent-7", "books-direct at 1 nat"}
    assert set(names) == expected | {f"law at {how}/element" for how in ("16 bits", "1 nat", "0.0072 nats")}
    # An annotation's own extent holds its leader.
    fig.savefig(io.BytesIO())
    boxes = [matplotlib.text.Text.get_window_extent(text) for text in names.values()]
    for one, two in itertools.combinations(boxes, 2):
        assert min(one.y1, two.y1) - max(one.y0, two.y0) < 1  # pixels: ascenders and descenders may meet
    assert all(box.x0 > ax.get_window_extent().x1 and box.y1 <= fig.bbox.y1 for box in boxes)


def test_few_models_are_all_named(folder):
    spoil(folder / "condition.csv", lambda t: t[t["model"] != "attention-2"])
    spoil(folder / "condition.csv", lambda t: t[~t["model"].isin(["attention-3", "attention-4"])])
    (ax,) = condition.draw(folder).axes
    assert {*SIZES} - {"attention-2", "attention-3", "attention-4"} <= set(names_of(ax))


def spoil(path: Path, change) -> None:
    change(pd.read_csv(path)).to_csv(path, index=False)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("state", lambda t: t.drop(columns="layer_kind"), "lacks the column layer_kind"),
        ("state", lambda t: t.assign(context_tokens=0), "context_tokens is '0', not a number above 0"),
        ("state", lambda t: t.assign(state_elements=0), "no state_elements above 0"),
        ("state", lambda t: t[t["context_tokens"] == 500], "share no two L, so nothing to draw"),
        ("condition", lambda t: t.assign(group="novel"), "unknown group 'novel'"),
        ("required", lambda t: t[:0], "nothing to draw"),
        ("required", lambda t: t.assign(required_elements="many"), "required_elements is 'many', not a number"),
        ("required", lambda t: pd.concat([t, t]), "required.csv has rows twice"),
    ],
)
def test_bad_csvs(folder, name, change, said):
    spoil(folder / f"{name}.csv", change)
    assert said in refusal("plots/condition.py", "--results", folder, "--out", folder / "figure")


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
