from __future__ import annotations

import pandas as pd
import pytest
import torch

from benchmarks import training
from gaussian_synthetic import train
from tests.conftest import call_script, one_line_error

SCRIPT = "benchmarks/training.py"
SMALL = ["--model", "tiny", "--large-model", "tiny", "--L", 16, "--mini-models", "tiny", "gpt2-mini", "--rounds", 1]


@pytest.fixture(autouse=True)
def threads():
    """The benchmark sets their number for its whole process, which here goes on."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_what_is_timed_is_a_step_of_the_training():
    """Two steps change the weights as two steps of the training do; and each draws anew."""
    place = train.Distributed(torch.device("cpu"))
    step, now = training.step("tiny", 16, place, batch=2, copies=3)
    before = [parameter.clone() for parameter in now.model.parameters()]
    first, second = step(), step()
    assert first > 0
    assert any((a != b).any() for a, b in zip(before, now.model.parameters(), strict=True))
    z, mean = training.draw(now)()
    assert z.shape == mean.shape == (2, 16, 3)
    assert torch.isfinite(second)


def test_command_line(tmp_path):
    out = tmp_path / "training.csv"
    done = call_script(SCRIPT, "--out", out, *SMALL)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(out)
    assert table["measure"].tolist() == [
        *("seconds of a step, drawing included", "drawing, share of a step", "tokens/s", "tokens/s"),
    ]
    share = table.iloc[1]
    assert 0 < share["our_value"] < 1
    assert share["ratio"] == pytest.approx(0.05 / share["our_value"], rel=1e-2)
    assert (table["our_value"] > 0).all()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--out", "x.txt"], "--out x.txt: give the name of a .csv file"),
        (["--model", "gpt5"], "no model 'gpt5'"),
        (["--L", 17], "L = 17 is no power of n = 4"),
        (["--rounds", 0], "--rounds 0: give at least 1"),
        (["--device", "tpu"], "--device tpu: give cpu or cuda"),
    ],
)
def test_bad_settings(tmp_path, flags, said):
    assert said in one_line_error(call_script(SCRIPT, "--out", tmp_path / "x.csv", *SMALL, *flags))
    assert not list(tmp_path.iterdir())
