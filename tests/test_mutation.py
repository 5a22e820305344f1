"""The mutation run: what it counts, on one module, and what it refuses."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from tests import mutation
from tests.conftest import call_script, one_line_error

SCRIPT = "tests/mutation.py"
ENTROPY = "measure_mutual_info/counting/entropy.py"


def test_a_module_through_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setitem(
        mutation.MODULES, ENTROPY, ("tests/measure_mutual_info/counting/test_entropy.py",)
    )  # the quick half
    done = call_script(SCRIPT, "--modules", ENTROPY, "--sample", 3, "--seed", 0, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "mutation.csv")
    assert table["module"].tolist() == [ENTROPY, "total"]
    row, survivors = table.iloc[0], pd.read_csv(tmp_path / "survivors.csv")
    assert row["mutants"] > 100
    assert row["sampled"] == 3 == row["killed"] + len(survivors)
    assert row["killed"] >= 1
    assert 0.9 < row["coverage"] <= 1
    assert table["coverage"][1] == pytest.approx(row["coverage"])
    source = (mutation.ROOT / ENTROPY).read_text(encoding="utf-8")
    assert all(line in source for line in survivors["before"])
    assert (survivors["before"] != survivors["after"]).all()
    record = json.loads((tmp_path / "mutation.json").read_text(encoding="utf-8"))
    assert any(name.endswith(ENTROPY) for name in record["inputs"])


def test_scores_by_hand():
    tried = {"module": "a", "mutants": 300, "sampled": 100, "killed": 90, "timeouts": 2}
    row = mutation.scored(tried) | {"statements": 30, "coverage": 1.0}
    assert row["score"] == 0.9
    # Wilson by its formula: (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n)
    assert (row["lo95"], row["hi95"]) == pytest.approx((0.82563, 0.94477), abs=1e-5)
    whole = mutation.scored({"module": "b", "mutants": 100, "sampled": 100, "killed": 50, "timeouts": 0})
    whole |= {"statements": 10, "coverage": 0.8}
    total = mutation.total([row, whole])
    assert total["coverage"] == pytest.approx(38 / 40)
    assert total["score"] == pytest.approx(0.75 * 0.9 + 0.25 * 0.5)
    assert (total["mutants"], total["sampled"], total["killed"], total["timeouts"]) == (400, 200, 140, 2)
    # Only the first was sampled: 0.75 · √(0.892 · 0.108 / 100 · 2/3)
    assert total["hi95"] - total["score"] == pytest.approx(1.96 * 0.75 * 0.025334, rel=1e-3)
    all_killed = mutation.total([row | mutation.scored(tried | {"killed": 100})])
    assert all_killed["lo95"] < 1 == all_killed["hi95"], "not every mutant was tried"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--modules", "common/nothing.py"], "no tests are named for common/nothing.py: add it to MODULES"),
        (["--sample", 0], "--sample and --processes must be 1 or more"),
        (["--processes", 0], "--sample and --processes must be 1 or more"),
    ],
)
def test_bad_settings(tmp_path, flags, message):
    assert message in one_line_error(call_script(SCRIPT, "--out", tmp_path, *flags))
