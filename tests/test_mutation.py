"""The mutation run: what it counts, on a module whose mutants are known, and what it refuses."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from tests import mutation
from tests.conftest import call_script, one_line_error

SCRIPT = "tests/mutation.py"


def test_a_module_through_the_command_line(tmp_path, monkeypatch):
    """Of the function that the tests see every fault is found, of the other none."""
    root, module, test = tmp_path / "root", "toy/sums.py", "tests/test_sums.py"
    files = {
        module: "def seen(a, b):\n    return a + b\n\n\ndef unseen(a, b):\n    return a * b\n",
        "toy/__init__.py": "",
        test: "from toy.sums import seen\n\n\ndef test_seen():\n    assert seen(2, 3) == 5\n",
        "pyproject.toml": "",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(mutation, "ROOT", root)
    monkeypatch.setitem(mutation.MODULES, module, (test,))
    done = call_script(SCRIPT, "--modules", module, "--sample", 99, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    table, survivors = pd.read_csv(tmp_path / "mutation.csv"), pd.read_csv(tmp_path / "survivors.csv")
    assert table["module"].tolist() == [module, "total"]
    assert table["coverage"].tolist() == [pytest.approx(3 / 4)] * 2
    assert table.loc[0, ["mutants", "sampled", "killed", "statements"]].tolist() == [2, 2, 1, 4]
    assert survivors[["before", "after"]].to_numpy().tolist() == [["return a * b", "return a / b"]]
    assert len(json.loads((tmp_path / "mutation.json").read_text(encoding="utf-8"))["inputs"]) == 2


def test_scores_by_hand():
    tried = {"module": "a", "mutants": 300, "sampled": 100, "killed": 90, "timeouts": 2}
    row = mutation.scored(tried) | {"statements": 30, "coverage": 1.0}
    assert row["score"] == 0.9
    # Wilson by its formula: (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n)
    assert (row["lo95"], row["hi95"]) == pytest.approx((0.82563, 0.94477), abs=1e-5)
    whole = mutation.scored({"module": "b", "mutants": 100, "sampled": 100, "killed": 50, "timeouts": 0})
    total = mutation.total([row, whole | {"statements": 10, "coverage": 0.8}])
    assert total["coverage"] == pytest.approx(38 / 40)
    assert total["score"] == pytest.approx(0.75 * 0.9 + 0.25 * 0.5)
    # Only the first was sampled: 0.75 · √(0.892 · 0.108 / 100 · 2/3)
    assert total["hi95"] - total["score"] == pytest.approx(1.96 * 0.75 * 0.025334, rel=1e-3)


def test_bad_settings(tmp_path):
    done = call_script(SCRIPT, "--out", tmp_path, "--modules", "common/nothing.py")
    assert "no tests are named for common/nothing.py: add it to MODULES" in one_line_error(done)
