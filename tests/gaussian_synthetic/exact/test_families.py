"""The families against dense linear algebra, the paper's check values, and the covariance of samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from common.cli import UserError
from gaussian_synthetic.exact import dense, families
from gaussian_synthetic.exact.families import Family, named, prepare
from gaussian_synthetic.exact_mi import bipartite_information

KINDS = {
    "one layer": named("subvolume", 1),
    "subvolume": named("subvolume", 3),
    "logarithmic": named("logarithmic", 3),
    "k = 2": Family(3, 2),
    "all columns copied": Family(3, 4),
    "n = 3": Family(4, 2, n=3),
    "n = 5, positive coupling": Family(3, 2, n=5, coupling=0.4),
    "no coupling": Family(3, 3, coupling=0.0),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def middle_information(of: Family) -> float:
    """I(L/2; L) in nats."""
    return float(bipartite_information(families.conditional_std(of).log().numpy(), of.L // 2))


@pytest.mark.parametrize("of", KINDS.values(), ids=KINDS.keys())
def test_samples_have_the_covariance(of: Family):
    """Errors of the empirical covariance, divided by their standard errors, are distributed like standard normals."""
    draws = 20_000
    sigma = dense.covariance(of)
    z = families.draw(prepare(of, torch.float64), draws, generator(1))[0].numpy()
    error = np.sqrt((np.outer(np.diag(sigma), np.diag(sigma)) + sigma**2) / draws)
    standard = ((z @ z.T / draws - sigma) / error)[np.triu_indices(of.L)]
    assert np.abs(standard).max() < 5
    if of.L > 4:  # ten entries are too few for a spread
        assert abs(standard.mean()) < 0.5
        assert 0.8 < standard.std() < 1.2


def test_the_papers_families_have_the_known_information():
    """I(L/2; L) of both families against known values; with one copied column, each layer adds a constant."""
    known = {"subvolume": {1: 0.293893, 2: 0.901313, 3: 2.730142, 5: 24.675880}}
    known["logarithmic"] = {2: 0.317959, 3: 0.342234, 5: 0.391752}
    for name, values in known.items():
        for layers, wanted in values.items():
            assert middle_information(named(name, layers)) == pytest.approx(wanted, abs=5e-7)
    middle = [middle_information(named("logarithmic", i)) for i in range(4, 9)]
    np.testing.assert_allclose(np.diff(middle), 0.0249, atol=1e-4)


@pytest.mark.parametrize("n", [3, 4, 5, 7])
@pytest.mark.parametrize("coupling", [-0.16, 0.0, 0.7])
def test_rows_have_unit_norm_and_the_coupling(n, coupling):
    M = families.row_matrix(n, coupling)
    wanted = np.full((n, n), coupling) + (1 - coupling) * np.eye(n)
    np.testing.assert_allclose((M @ M.T).numpy(), wanted, rtol=0, atol=1e-12)
    # Reversing the rows changes only the signs of columns: this makes a family's law the same backwards.
    sign = (M.flip(0) / M).mean(dim=0).sign()
    np.testing.assert_allclose(M.flip(0).numpy(), (M * sign).numpy(), rtol=0, atol=1e-12)


def test_the_matrix_of_the_paper():
    gamma, rho = math.sqrt(5) / 4, 1 / 4
    signs = np.array([[1, 1, 1, 1], [-1, 1, -1, 1], [-1, -1, 1, 1], [1, -1, -1, 1]])
    np.testing.assert_allclose(families.row_matrix(4, -0.25).numpy(), signs * [gamma, gamma, gamma, rho], atol=1e-15)


@pytest.mark.parametrize(("n", "k", "layers"), [(4, 2, 6), (4, 3, 6), (4, 4, 6), (6, 4, 5), (8, 3, 4)])
def test_information_grows_with_the_copies(n, k, layers):
    """β = log_n k: in the limit each layer multiplies the information between the halves by k."""
    shorter, longer = Family(layers - 1, k, n), Family(layers, k, n)
    before, after = middle_information(shorter), middle_information(longer)
    assert after / before == pytest.approx(k, rel=0.02)


def test_float32_is_near_float64():
    conditionals = prepare(named("subvolume", 5))
    z, mean = families.draw(conditionals, 8, generator())
    wanted, std = dense.conditionals(dense.covariance(conditionals.of), z.double().numpy())
    assert (np.abs(mean.numpy() - wanted) / std[:, None]).max() < 2e-6
    np.testing.assert_allclose(conditionals.std.numpy(), std, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Family(0, 3), "0 layers"),
        (lambda: named("volume", 3), "no family 'volume': choose subvolume or logarithmic"),
        (lambda: Family(3, 5), "k = 5 copied columns of n = 4: give 1 to n"),
        (lambda: Family(3, 0), "k = 0 copied columns"),
        (lambda: Family(3, 1, n=2), "n = 2: give at least 3"),
        (lambda: Family(3, 3, coupling=-1 / 3), "coupling -0.333333: rows of unit norm"),
        (lambda: Family(3, 3, coupling=1.0), "coupling 1"),
        (lambda: families.layers_of_length(1000), "L = 1000 is not a power of n = 4: give 1024, the nearest"),
        (lambda: families.layers_of_length(1), "L = 1 is not a power of n = 4: give 4, the nearest"),
        (lambda: families.layers_of_length(4, 1), "n = 1: give at least 3"),
        (lambda: prepare(named("logarithmic", 20)), "the conditionals of 1,099,511,627,776 positions need"),
    ],
)
def test_bad_families(make, said):
    with pytest.raises(UserError) as error:
        make()
    assert said in str(error.value)


def test_lengths():
    assert [families.layers_of_length(4**i) for i in (1, 2, 10)] == [1, 2, 10]
    assert families.layers_of_length(243, 3) == 5
    assert Family(3, 2, n=5).L == 125
