"""The share that one curve explains, for made-up runs that follow one curve and runs that do not; and bad input."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from conftest import call_script, one_line_error

from gaussian_synthetic import collapse

SCRIPT = "gaussian_synthetic/collapse.py"
LENGTHS = {16: 0.9, 64: 2.7, 256: 8.2, 1024: 24.7}  # L to I(L/2; L)
STATES = [100, 300, 1000, 5000]


def frontier(mi: float, state: int) -> float:
    """Made-up KL of the best linear state: 0 from 50 elements per nat on."""
    return max(0.0, mi / state - 0.02)


def made_up(kl, noise: float = 0.0) -> pd.DataFrame:
    """Two seeds of four models at four lengths, one model whose state grows with L, and `independent`.

    kl: (mi, state, L) → the mean KL. The smallest model has not converged for one seed at the longest length.
    """
    rng, rows = np.random.default_rng(0), []
    for L, mi in LENGTHS.items():
        for state in STATES:
            for seed in range(2):
                value = kl(mi, state, L) * np.exp(noise * rng.standard_normal())
                shared = {"L": L, "seed": seed, "mi_nats": mi, "mean_kl_nats": value}
                shared |= {"family": "subvolume", "k": 3, "n": 4, "copies": 1}
                shared |= {"converged": (L, seed, state) != (1024, 1, 100), "frontier_hi_nats": frontier(mi, state)}
                # The number of parameters grows with L, as with a table of positions.
                rows.append({"model": f"mamba-{state}", "state_size": state, "parameters": state + 64 * L, **shared})
        rows.append({**shared, "model": "gpt2", "state_size": 64 * L, "parameters": 9999, "mean_kl_nats": 1e-3})
        rows.append({**shared, "model": "independent", "state_size": 0, "parameters": 0, "mean_kl_nats": 1.0})
    return pd.DataFrame(rows)


CAPACITY = pd.DataFrame(
    {"family": "subvolume", "k": 3, "n": 4, "L": L, "d": d, "mi_nats": mi, "lower_nats": 0.0}
    | {"attained_nats": L * frontier(mi, d)}
    for L, mi in [*LENGTHS.items(), (4096, 74.0)]
    for d in range(20, 200, 20)
)
CAPACITY = pd.concat([CAPACITY, CAPACITY.assign(family="logarithmic", k=1, attained_nats=9.0)])  # of other runs


def shares(table: pd.DataFrame, tmp_path) -> pd.DataFrame:
    table.to_csv(tmp_path / "summary.csv", index=False)
    runs = collapse.read_runs(tmp_path / "summary.csv")
    assert set(runs["model"]) == {f"mamba-{state}" for state in STATES}
    assert (runs["parameters"] == runs["state_size"] + 64 * 16).all()
    table = collapse.collapse(runs, CAPACITY)
    assert len(table) == len(table.drop_duplicates(["kl_of", "cells_of", "left_out", "degree", "predictor"]))
    cells = table.groupby(["kl_of", "cells_of"])["cells"].unique().str[0]
    assert cells.to_dict() == {("trained", "all"): 16, ("trained", "converged"): 15, ("linear", "all"): 26}
    return table.query("kl_of == 'trained' and cells_of == 'all' and left_out == 'cell' and degree == 2").set_index(
        "predictor"
    )


def test_runs_on_one_curve_collapse(tmp_path):
    found = shares(made_up(lambda mi, state, L: 3 * (mi / state) ** 0.7, noise=0.01), tmp_path)
    assert found.loc["mi_per_state", "explained"] > 0.999
    assert found.loc["mi_per_state", "residual_sd"] < 0.02
    for name in ("L", "state_size", "parameters"):
        assert found.loc[name, "explained"] < 0.8
        assert found.loc[f"mi_per_state − {name}", "lo95"] > 0
    row, y = found.loc["L"], np.log(3 * np.array([(mi / state) ** 0.7 for mi in LENGTHS.values() for state in STATES]))
    x = np.repeat(np.log(list(LENGTHS)), len(STATES))
    value, reach = collapse.ratio(*(collapse.left_out_errors(x, y, degree, np.arange(16)) ** 2 for degree in (2, 0)))
    assert row["explained"] == pytest.approx(1 - value, abs=0.02)
    assert np.log((1 - row["lo95"]) / (1 - row["hi95"])) == pytest.approx(2 * reach / value, rel=0.05)
    assert ((found["lo95"] < found["explained"]) & (found["explained"] < found["hi95"])).all()
    assert (found.loc[list(collapse.PREDICTORS), "hi95"] < 1).all()
    assert (found["cells"] == 16).all()
    assert (found["runs"] == 32).all()


def test_runs_at_the_frontier_follow_it(tmp_path):
    found = shares(made_up(lambda mi, state, L: 3 * (frontier(mi, state) + collapse.NEGLIGIBLE), noise=0.01), tmp_path)
    assert found.loc["frontier", "explained"] > 0.999
    assert found.loc["mi_per_state − frontier", "hi95"] < 0


def test_runs_that_go_by_length_alone_or_by_nothing_do_not(tmp_path):
    found = shares(made_up(lambda mi, state, L: 0.01 * L**0.8, noise=0.1), tmp_path)
    assert found.loc["L", "explained"] > 0.95
    assert found.loc["mi_per_state", "explained"] < 0.6
    assert found.loc["mi_per_state − L", "hi95"] < 0
    assert found.loc["parameters", "explained"] < 0.1  # taken at the shortest length: they do not depend on L
    noise = shares(made_up(lambda mi, state, L: 1.0, noise=1.0), tmp_path)
    assert (noise.loc[list(collapse.PREDICTORS), "explained"] < 0.3).all()


@pytest.mark.parametrize("degree", [0, 2])
def test_errors_are_those_of_fits_without_the_cell(degree):
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((2, 9))
    groups = np.array([0, 0, 1, 1, 1, 2, 3, 4, 5])
    for cell, error in enumerate(collapse.left_out_errors(x, y, degree, groups)):
        others = groups != groups[cell]
        assert error == pytest.approx(y[cell] - np.polyval(np.polyfit(x[others], y[others], degree), x[cell]))


def test_the_interval_of_a_ratio_holds_the_truth():
    """1,000 draws of 12 cells with correlated sums and a true ratio of 2, which 93% to 97% of the intervals contain."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(1000):
        whole = rng.gamma(4, size=12)
        value, reach = collapse.ratio(2 * whole + rng.normal(0, 1, 12), whole)
        held += abs(value - 2) < reach
    assert 0.93 < held / 1000 < 0.97


def test_command_line(tmp_path):
    made_up(lambda mi, state, L: (mi / state) ** 0.7, noise=0.1).to_csv(tmp_path / "summary.csv", index=False)
    out = tmp_path / "out" / "collapse.csv"
    CAPACITY.to_csv(tmp_path / "capacity.csv", index=False)
    done = call_script(
        SCRIPT, "--summary", tmp_path / "summary.csv", "--capacity", tmp_path / "capacity.csv", "--out", out
    )
    assert done.returncode == 0, done.stderr
    expected = collapse.collapse(collapse.read_runs(tmp_path / "summary.csv"), CAPACITY)
    pd.testing.assert_frame_equal(pd.read_csv(out), expected)
    left_out = expected.query("cells_of == 'all' and degree == 1 and predictor == 'mi_per_state'")
    assert set(zip(left_out["kl_of"], left_out["left_out"], strict=True)) == {
        (kl_of, out) for kl_of in ("trained", "linear") for out in ("cell", "length")
    }
    assert "32 runs of mamba-100, mamba-1000, mamba-300, mamba-5000" in done.stdout


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.assign(mi_nats="much"), "mi_nats is 'much', not a number"),
        (lambda t: t.assign(mean_kl_nats=0.0), "a number is 0 or negative"),
        (lambda t: t[t["model"].isin(["mamba-100", "gpt2"])], "has 4 cells"),
    ],
)
def test_bad_input(tmp_path, change, said):
    change(made_up(lambda mi, state, L: mi / state)).to_csv(tmp_path / "summary.csv", index=False)
    shared = ["--summary", tmp_path / "summary.csv", "--out", tmp_path / "collapse.csv"]
    assert said in one_line_error(call_script(SCRIPT, *shared))
    assert not (tmp_path / "collapse.csv").exists()
