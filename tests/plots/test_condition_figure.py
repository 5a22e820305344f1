"""The figure of the L²M condition: it shows what made-up CSVs hold, and one command makes it."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.conftest import call_shell, printer
from tests.plots.made_up import assert_texts_fit, draw, labels

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
CAPACITIES = {"16 bits": 11.09, "1 nat": 1.0, "linear": 0.168}


def made_up(folder: Path) -> Path:
    """Write the CSVs, with their rows reversed."""
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
        pd.DataFrame(rows, columns=names)[::-1].to_csv(folder / f"{name}.csv", index=False)
    return folder


def test_draws_the_csvs(tmp_path):
    fig = condition.draw(made_up(tmp_path))
    assert_texts_fit(fig)
    (ax,) = fig.axes
    lines = {line.get_gid(): line.get_data() for line in ax.get_lines()}
    for model, size in SIZES.items():
        assert list(lines[model][0]) == LENGTHS
        assert lines[model][1] == pytest.approx([size(L) for L in LENGTHS])
    assert lines["measured"][1] == pytest.approx(3.9 * np.array(LENGTHS) ** 0.48)  # at one nat per element
    bands = [band.get_paths()[0].vertices for band in ax.collections if band.get_gid() == "paper"]
    for band, nats in zip(bands, reversed(CAPACITIES.values()), strict=True):  # the rows are reversed
        at_end = band[band[:, 0] == LENGTHS[-1], 1]
        assert at_end.min() == pytest.approx(3.26 * 1e7**0.71 / nats)
        assert at_end.max() == pytest.approx(2.27 * 1e7**0.76 / nats)
    assert labels(fig)[-1] == "bounded: recurrent-5 to recurrent-7 (3 models)"


def test_the_figure_from_one_command(tmp_path):
    script = "l2m_condition/condition.sh"
    settings = {"PRESET": "smoke", "OUT": str(tmp_path), "PYTHON": printer(tmp_path, "plots/*")}
    done = call_shell(script, "--wanted", "100_000", **settings)
    assert done.returncode == 0, done.stderr
    draw(done.stdout)
    assert (tmp_path / "condition.png").stat().st_size > 0
    table = pd.read_csv(tmp_path / "condition.csv")
    assert set(table["capacity"]) == {"16 bits", "1 nat", "linear"}
    assert (table["wanted_tokens"] == 100_000).all()
    verdicts = table.drop_duplicates("model").set_index("model")["verdict"]
    assert verdicts.to_dict() == {"Llama-3.1-8B": "satisfies", "Gemma-3-27B": "satisfies", "Mamba-130M": "violates"}
    for settings, said in (({"PRESET": "huge"}, "choose smoke, cpu or paper"), ({"MODELS": "x"}, "set OUT")):
        done = call_shell(script, **settings)
        assert done.returncode != 0
        assert said in done.stderr
