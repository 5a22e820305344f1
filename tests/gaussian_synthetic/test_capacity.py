from __future__ import annotations

import contextlib
import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from common.cli import UserError
from gaussian_synthetic import capacity
from gaussian_synthetic.exact import dense, families
from tests.conftest import call_script, one_line_error

SCRIPT = "gaussian_synthetic/capacity.py"


def problem(layers: int, k: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Σ, and ln √p_t at every position."""
    of = families.Family(layers, k)
    return dense.covariance(of), families.conditional_std(of).log().numpy()


@pytest.mark.parametrize(("layers", "k"), [(2, 3), (3, 3), (2, 1), (3, 1)])
def test_the_spectrum_holds_the_information(layers, k):
    sigma, _ = problem(layers, k)
    rank = np.linalg.matrix_rank(sigma[: len(sigma) // 2, len(sigma) // 2 :])
    rho = capacity.canonical_correlations(sigma, len(sigma) // 2)
    assert capacity.rank_of(rho) == rank
    mi = dense.mutual_information(sigma, len(sigma) // 2)
    np.testing.assert_allclose(capacity.beyond(rho, np.array([0, rank, 99])), [mi, 0, 0], atol=1e-10)


def slow_lower_bounds(sigma: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The slow way: every pair of cuts, each with its own decomposition."""
    best = [np.zeros(len(d))]
    for b in range(1, len(sigma) + 1):
        sums = [best[0]]
        for a in range(1, b):
            rho = capacity.canonical_correlations(sigma[:b, :b], a)
            sums.append(best[a] + [-np.log1p(-(rho[one:] ** 2)).sum() / 2 for one in d])
        best.append(np.max(sums, axis=0))
    return best[-1]


@pytest.mark.parametrize("k", [1, 3])
def test_bounds_and_attained_values(k):
    sigma, log_std = problem(2, k)
    d = np.arange(7)
    lower = capacity.lower_bounds(sigma, d)
    np.testing.assert_allclose(lower, slow_lower_bounds(sigma, d), atol=1e-8)
    attained = np.array([capacity.best_filter(sigma, log_std, one, 200)[0] for one in d])
    middle = capacity.beyond(capacity.canonical_correlations(sigma, 8), d)
    assert (middle <= lower + 1e-9).all()
    assert (lower <= attained + 1e-8).all()
    assert (np.diff(attained) < 1e-8).all()
    independent = -log_std.sum()  # every variance is 1
    np.testing.assert_allclose([lower[0], attained[0]], independent)
    np.testing.assert_allclose([lower[-1], attained[-1]], 0, atol=1e-9)
    if k == 3:  # the greedy filter is improved
        assert attained[2] < 0.95 * capacity.best_filter(sigma, log_std, 2, 1)[0]


def test_a_simulated_filter_has_the_exact_kl():
    """The filter runs on draws, and predicts each value by regression on its states."""
    d, layers = 2, 2
    sigma, log_std = problem(layers)
    wanted, maps = capacity.best_filter(sigma, log_std, d, 200)
    z, mean_p = families.draw(families.prepare(families.Family(layers, 3), torch.float64), 100_000)
    z, mean_p, std_p = z.numpy(), mean_p.numpy(), np.exp(log_std)
    state, kl = np.empty((0, z.shape[1])), 0.0
    for t, now in enumerate(z):
        by_state = np.linalg.lstsq(state.T, now, rcond=None)[0]  # the states have mean zero
        mean_q = by_state @ state
        std_q = math.sqrt(((now - mean_q) ** 2).mean())
        shift = (mean_q - mean_p[t]) ** 2
        kl += (math.log(std_q / std_p[t]) + (std_p[t] ** 2 + shift) / (2 * std_q**2) - 0.5).mean()
        joint = np.concatenate([state, (now - mean_q)[None] / std_q])
        state = joint if t < d else maps[t - d] @ joint if t < len(z) - 1 else joint
    assert kl == pytest.approx(wanted, abs=0.01)


def test_command_line(tmp_path):
    flags = ["--L", 16, "--d", 0, 2, 9, "--copies", 4, "--out", tmp_path / "out"]
    done = call_script(SCRIPT, *flags)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "out" / "capacity.csv")
    assert table["d"].tolist() == [0, 2, 9]
    np.testing.assert_allclose(table["attained_kl_nats"], table["attained_nats"] * 4 / 16)
    np.testing.assert_allclose(table.loc[2, ["middle_nats", "lower_nats", "attained_nats"]].astype(float), 0, atol=1e-9)
    spectrum = pd.read_csv(tmp_path / "out" / "spectrum.csv")
    assert spectrum["information_nats"].sum() == pytest.approx(table["mi_nats"][0])
    assert json.loads((tmp_path / "out" / "capacity.json").read_text())["settings"]["L"] == [16]
    assert not (tmp_path / "out" / "capacity.parts").exists()
    done = call_script(SCRIPT, "--L", 4, 64, 256, "--cuts", "middle", "--out", tmp_path / "middle")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "middle" / "capacity.csv")
    assert table.groupby("L")["rank"].first().tolist() == [1, 16, 49]
    assert set(table["k"]) == {3}
    assert table["attained_nats"].isna().all()


@pytest.mark.parametrize(("flags", "says"), [(["--d", "-1"], "--d -1"), (["--L", str(4**10)], "the dense algebra")])
def test_refusals(flags, says, tmp_path):
    assert says in one_line_error(call_script(SCRIPT, *flags, "--out", tmp_path))


def test_what_is_of_other_settings_is_refused(tmp_path):
    cfg = capacity.Settings(out=tmp_path, L=(16,), d=(1,))
    for run in (cfg, dataclasses.replace(cfg, iterations=5)):
        pieces = capacity.Pieces(tmp_path / "capacity.parts", capacity.identity(cfg))
        pieces.write("16-1", {"attained_nats": np.float64(7)})
        with contextlib.nullcontext() if run is cfg else pytest.raises(UserError, match="other settings"):
            capacity.main(run)
    assert pd.read_csv(tmp_path / "capacity.csv")["attained_nats"].tolist() == [7]  # the piece was not made again
