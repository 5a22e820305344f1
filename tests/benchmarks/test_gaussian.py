from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import gaussian
from gaussian_synthetic.exact import dense, families
from tests.conftest import call_script, one_line_error

SCRIPT = "benchmarks/gaussian.py"
SMALL = ["--dense-layers", 2, "--layers", 2, 3, "--rounds", 1]


@pytest.mark.parametrize("triangular", [True, False])
def test_the_rival_draws_the_family(tmp_path, triangular):
    """The timed baseline has the family's covariance and conditional means; else timing means nothing."""
    gaussian.write_factor(2, tmp_path / "factor.npy")
    C, random = np.load(tmp_path / "factor.npy"), torch.Generator().manual_seed(0)
    z, mean = (values.double() for values in gaussian.draw_by_dense(C, 30_000, random, triangular))
    sigma = dense.covariance(families.named("subvolume", 2))
    np.testing.assert_allclose((z @ z.T / z.shape[1]).numpy(), sigma, atol=0.04)
    wanted, _ = dense.conditionals(sigma, z.numpy())
    np.testing.assert_allclose(mean.numpy(), wanted, atol=1e-5)


def test_command_line(tmp_path, monkeypatch):
    """In this process alone; the command line of benchmarks/counting.py is tested with new processes."""
    monkeypatch.setattr(gaussian, "in_a_process", lambda name, *of: getattr(gaussian, name.split(".")[-1])(*of))
    out = tmp_path / "gaussian.csv"
    done = call_script(SCRIPT, "--out", out, *SMALL)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(out)
    assert table.columns.tolist() == [
        *("benchmark", "setting", "measure", "unit", "baseline", "baseline_value", "our_value", "ratio")
    ]
    slope = "log-log slope of seconds against L"
    measures = ["seconds", "peak memory", "seconds before the first draw", "seconds", "seconds", slope]
    assert table["measure"].tolist() == measures
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gaussian.csv", "gaussian.json"]


def test_bad_settings(tmp_path):
    assert "--layers: two or more values" in one_line_error(call_script(SCRIPT, *SMALL, "--layers", 3))
