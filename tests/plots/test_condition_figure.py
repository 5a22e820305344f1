"""The figure of the L²M condition: it shows what the committed CSVs hold, and one command makes it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.conftest import call_shell, printer
from tests.plots.made_up import RESULTS, assert_texts_fit, committed, draw, labels

import condition  # isort: skip  # after made_up has put its folder on the path


def test_draws_the_csvs(tmp_path):
    names = [f"condition/{name}" for name in ("state", "condition", "required")]
    fig = condition.draw(committed(tmp_path, *names))
    assert_texts_fit(fig)
    (ax,) = fig.axes
    lines = {line.get_gid(): line.get_data() for line in ax.get_lines()}
    states, groups, required = (pd.read_csv(RESULTS / f"{name}.csv") for name in names)
    states = states[states["layer_kind"] == "total"]
    for model, rows in states.groupby("model"):
        assert lines[model][0].tolist() == (2 * rows["context_tokens"]).tolist()
        assert lines[model][1] == pytest.approx(rows["state_elements"])
    measured = required[(required["law"] == "books-direct") & (required["capacity"] == "1 nat")]
    assert lines["measured"][1] == pytest.approx(measured["required_elements"])
    last = required["L_tokens"].max()
    ends = [band.get_paths()[0].vertices for band in ax.collections if band.get_gid() == "paper"]
    ends = sorted((at_end.min(), at_end.max()) for at_end in (band[band[:, 0] == last, 1] for band in ends))
    paper = required[required["law"].str.startswith("paper-") & (required["L_tokens"] == last)]
    wanted = paper.groupby("capacity")["required_elements"].agg(["min", "max"])
    assert np.array(ends) == pytest.approx(wanted.sort_values("min").to_numpy())
    bounded = groups.loc[groups["group"] == "bounded", "model"].unique()
    of_bounded = states[states["model"].isin(bounded)].groupby("model")["state_elements"].last().sort_values().index
    assert labels(fig)[-1] == f"bounded: {of_bounded[0]} to {of_bounded[-1]} ({len(bounded)} models)"


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
