"""The share that a curve explains: on made-up runs that follow one curve exactly, on ones that do not, on bad input."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from conftest import call_script, one_line_error

from gaussian_synthetic import collapse

SCRIPT = "gaussian_synthetic/collapse.py"
LENGTHS = {16: 0.9, 64: 2.7, 256: 8.2, 1024: 24.7}  # L to I(L/2; L)
STATES = [100, 300, 1000, 5000]


def made_up(kl, noise: float = 0.0, seeds: int = 2) -> pd.DataFrame:
    """Runs of four models at four lengths; kl: (mi, state, L) to the mean KL. One model's state grows with L."""
    rng, rows = np.random.default_rng(0), []
    for L, mi in LENGTHS.items():
        for state in STATES:
            for seed in range(seeds):
                value = kl(mi, state, L) * np.exp(noise * rng.standard_normal())
                shared = {"L": L, "seed": seed, "mi_nats": mi, "mean_kl_nats": value}
                rows.append({"model": f"mamba-{state}", "state_size": state, "parameters": 10_000 + state, **shared})
        rows.append({**shared, "model": "gpt2", "state_size": 64 * L, "parameters": 9999, "mean_kl_nats": 1e-3})
        rows.append({**shared, "model": "independent", "state_size": 0, "parameters": 0})
    return pd.DataFrame(rows)


def shares(table: pd.DataFrame, tmp_path, replications: int = 200) -> pd.DataFrame:
    table.to_csv(tmp_path / "summary.csv", index=False)
    runs = collapse.read_runs(tmp_path / "summary.csv", ())
    assert set(runs["model"]) == {f"mamba-{state}" for state in STATES}
    return collapse.collapse(runs, replications, 0).set_index("predictor")


def test_runs_on_one_curve_collapse(tmp_path):
    found = shares(made_up(lambda mi, state, L: 3 * (mi / state) ** 0.7), tmp_path)
    assert found.loc["mi_per_state", "explained"] == pytest.approx(1, abs=1e-9)
    assert found.loc["mi_per_state", "residual_sd"] == pytest.approx(0, abs=1e-9)
    assert found.loc["L_and_state", "explained"] > 0.99  # ln I is nearly a line in ln L
    for name in ("L", "state_size", "parameters"):
        assert found.loc[name, "explained"] < 0.8
        assert found.loc[f"mi_per_state − {name}", "lo95"] > 0
    assert (found["cells"] == 16).all()
    assert (found["runs"] == 32).all()


def test_runs_that_go_by_length_alone_do_not(tmp_path):
    found = shares(made_up(lambda mi, state, L: 0.01 * L**0.8, noise=0.1), tmp_path)
    assert found.loc["L", "explained"] > 0.95
    assert found.loc["mi_per_state", "explained"] < 0.6
    assert found.loc["mi_per_state − L", "hi95"] < 0


def test_the_intervals_hold_where_lengths_and_states_are_few():
    """Of 3 lengths and 4 states, cells drawn with replacement leave parabolas with nothing to go by: once −300."""
    rows = made_up(lambda mi, state, L: (mi / state) ** 0.7, noise=0.1, seeds=3)
    rows = rows[rows["model"].str.startswith("mamba") & (rows["L"] < 1024)]
    found = collapse.collapse(rows.assign(mi_per_state=rows["mi_nats"] / rows["state_size"]), 200, 0)
    assert (found["cells"] == 12).all()
    assert (found["lo95"] < found["explained"]).all()
    assert (found["explained"] < found["hi95"]).all()
    found = found.set_index("predictor")
    assert found.loc["mi_per_state", "lo95"] > 0.9
    assert (found.loc[list(collapse.PREDICTORS), "lo95"] > -3).all()


def test_a_surface_holds_every_curve_in_a_mixture():
    """L² as the information, so that ln I is a line in ln L: a bent curve in it and the state is the surface too."""
    rows = made_up(lambda mi, state, L: np.exp(0.2 * np.log(L**2 / state) ** 2), seeds=1)
    rows = rows[rows["model"].str.startswith("mamba")]
    rows = rows.assign(mi_per_state=rows["L"] ** 2.0 / rows["state_size"])
    found = collapse.collapse(rows, 2, 0).set_index("predictor")["explained"]
    assert found["mi_per_state"] == pytest.approx(1, abs=1e-9)
    assert found["L_and_state"] == pytest.approx(1, abs=1e-9)


def test_a_table_of_positions_is_not_the_size_of_a_model(tmp_path):
    """Parameters that grow with L, as those of the mini models do, must not predict what goes by L alone."""
    table = made_up(lambda mi, state, L: 0.01 * L**0.8)
    table["parameters"] += 64 * table["L"]
    found = shares(table, tmp_path, 2)
    assert found.loc["parameters", "explained"] < 0.1
    assert found.loc["L", "explained"] > 0.95


def test_pure_noise_is_not_explained(tmp_path):
    found = shares(made_up(lambda mi, state, L: 1.0, noise=1.0), tmp_path)
    assert (found.loc[list(collapse.PREDICTORS), "explained"] < 0.3).all()


def test_explained_is_that_of_fits_without_the_cell():
    """Against a fit by polyfit with one cell left out at a time; a weight of 2 is a cell twice."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal(9)
    y = x**2 + 0.3 * rng.standard_normal(9)
    X = np.column_stack([np.ones(9), x, x**2])

    def by_polyfit(cells: list[int]) -> float:
        errors, spread = [], []
        for cell in cells:
            others = [other for other in cells if other != cell]
            errors.append(y[cell] - np.polyval(np.polyfit(x[others], y[others], 2), x[cell]))
            spread.append(y[cell] - y[others].mean())
        return 1 - np.sum(np.square(errors)) / np.sum(np.square(spread))

    assert collapse.explained(X, y, np.ones(9))[0] == pytest.approx(by_polyfit(list(range(9))))
    weight = np.array([2, 0, 1, 1, 1, 1, 2, 1, 0.0])
    drawn = np.repeat(np.arange(9), weight.astype(int)).tolist()
    assert collapse.explained(X, y, weight)[0] == pytest.approx(by_polyfit(drawn))


def test_command_line(tmp_path):
    made_up(lambda mi, state, L: (mi / state) ** 0.7, noise=0.1).to_csv(tmp_path / "summary.csv", index=False)
    out = tmp_path / "out" / "collapse.csv"
    flags = ["--summary", tmp_path / "summary.csv", "--out", out, "--bootstrap", 50]
    done = call_script(SCRIPT, *flags)
    assert done.returncode == 0, done.stderr
    first = out.read_bytes()
    table = pd.read_csv(out)
    assert table.columns.tolist() == ["predictor", "explained", "lo95", "hi95", "residual_sd", "cells", "runs"]
    assert "32 runs of mamba-100, mamba-1000, mamba-300, mamba-5000" in done.stdout
    call_script(SCRIPT, *flags)
    assert out.read_bytes() == first
    done = call_script(SCRIPT, *flags, "--models", "mamba-100", "mamba-5000")
    assert "16 runs of mamba-100, mamba-5000" in done.stdout


@pytest.mark.parametrize(
    ("change", "flags", "said"),
    [
        (lambda t: t.drop(columns="parameters"), [], "lacks the column parameters"),
        (lambda t: t.assign(mi_nats="much"), [], "mi_nats is 'much', not a number"),
        (lambda t: t.assign(mean_kl_nats=0.0), [], "a mean_kl_nats is not above 0"),
        (lambda t: t[t["L"] < 64], [], "has 0 cells"),
        (lambda t: t[t["model"].isin(["mamba-100", "gpt2"])], [], "has 4 cells"),
        (lambda t: t, ["--models", "mamba-7"], "summary.csv, which has "),
        (lambda t: t, ["--bootstrap", 1], "--bootstrap 1: give at least 2"),
        (lambda t: t, ["--out", "x.txt"], "--out x.txt: give the name of a .csv file"),
    ],
)
def test_bad_input(tmp_path, change, flags, said):
    change(made_up(lambda mi, state, L: mi / state)).to_csv(tmp_path / "summary.csv", index=False)
    shared = ["--summary", tmp_path / "summary.csv", "--out", tmp_path / "collapse.csv"]
    assert said in one_line_error(call_script(SCRIPT, *shared, *flags))
    assert not (tmp_path / "collapse.csv").exists()
