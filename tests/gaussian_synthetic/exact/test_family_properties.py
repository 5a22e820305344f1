"""For any family, the conditionals equal those of its dense covariance, and information has its known properties.

The families are random: 1 to 4 layers, any branching from 3 to 6, any number of copies, and any possible coupling.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gaussian_synthetic.exact import dense, families
from gaussian_synthetic.exact.families import Family
from gaussian_synthetic.exact_mi import bipartite_information, cross_rank, two_point_information

LONGEST = 320  # positions: the dense reference takes O(L³) time
exact = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def any_family(draw: st.DrawFn) -> Family:
    n = draw(st.integers(3, 6))
    layers = draw(st.integers(1, int(math.log(LONGEST, n))))
    lowest = -1 / (n - 1)
    # If the values of a row nearly determine one another, the dense reference loses its digits.
    share = draw(st.floats(0.05, 0.95))
    return Family(layers, draw(st.integers(1, n)), n, lowest + share * (1 - lowest))


@exact
@given(any_family(), st.integers(0, 2**32 - 1))
def test_every_conditional(of: Family, seed: int):
    sigma = dense.covariance(of)
    conditionals = families.prepare(of, torch.float64)
    z, mean = families.draw(conditionals, 3, torch.Generator().manual_seed(seed))
    wanted_mean, wanted_std = dense.conditionals(sigma, z.numpy())
    np.testing.assert_allclose(np.diag(sigma), 1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(sigma[::-1, ::-1], sigma, rtol=0, atol=1e-12)  # the same law backwards
    np.testing.assert_allclose(mean.numpy(), wanted_mean, rtol=0, atol=1e-9)
    np.testing.assert_allclose(families.conditional_std(of).numpy(), wanted_std, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(conditionals.std.numpy(), families.conditional_std(of).numpy())


@exact
@given(any_family(), st.data())
def test_information_at_every_cut(of: Family, data: st.DataObject):
    log_std, sigma = families.conditional_std(of).log().numpy(), dense.covariance(of)
    cuts = np.arange(1, of.L)
    information = bipartite_information(log_std, cuts)
    assert information.min() > -1e-12
    ell = data.draw(st.integers(1, of.L - 1), label="ell")
    assert abs(information[ell - 1] - dense.mutual_information(sigma, ell)) < 1e-8
    assert 0 <= cross_rank(sigma, ell) <= min(ell, of.L - ell)
    # Moving one value across the cut lowers the information by at most I(z_<t; z_t).
    past = -log_std  # I(z_<t; z_t): every position has the variance 1
    assert past.min() >= -1e-12
    assert (information[1:] >= information[:-1] - past[1:-1] - 1e-9).all()
    # The chain rule: the sum of log_std is ½ ln det Σ.
    np.testing.assert_allclose(log_std.sum(), np.linalg.slogdet(sigma)[1] / 2, rtol=1e-10, atol=1e-8)


@exact
@given(any_family(), st.data())
def test_two_points_know_less_than_two_halves(of: Family, data: st.DataObject):
    sigma = dense.covariance(of)
    places = st.integers(0, of.L - 1)
    first, second = (np.array(data.draw(st.lists(places, min_size=5, max_size=5))) for _ in range(2))
    assume((first != second).all())
    found = two_point_information(of, first, second)
    np.testing.assert_allclose(found, -np.log1p(-(sigma[first, second] ** 2)) / 2, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found, two_point_information(of, second, first), rtol=0, atol=1e-15)
    log_std = families.conditional_std(of).log().numpy()
    cut = np.minimum(first, second) + 1  # X ends with the first of the two
    assert (found <= bipartite_information(log_std, cut) + 1e-10).all()
