"""Properties of fits to any points: units and order do not matter, and known curves are recovered."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from common.powerlaw import LAWS, covariance_of_mean, fit_law, fit_power_ols

many = settings(max_examples=40, deadline=None, derandomize=True)
LENGTHS = 2.0 ** np.arange(3, 12)


@st.composite
def documents(draw: st.DrawFn) -> np.ndarray:
    """(n, 9) terms whose mean is near a random power law, with noise that neighbouring lengths share."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, A, beta = draw(st.integers(12, 80)), draw(st.floats(0.1, 10)), draw(st.floats(-0.5, 1.2))
    noise = rng.standard_normal((n, 9)).cumsum(axis=1) * draw(st.floats(0.01, 0.1))
    return A * LENGTHS**beta * (1 + noise)


def fitted(law: str, L: np.ndarray, terms: np.ndarray):
    covariance, shrinkage = covariance_of_mean(terms)
    return fit_law(law, L, terms.mean(axis=0), covariance, len(terms), shrinkage)


@many
@given(documents(), st.floats(0.01, 100), st.integers(2, 50))
def test_units_do_not_matter(terms, nats, tokens):
    here, there = fitted("power", LENGTHS, terms), fitted("power", tokens * LENGTHS, nats * terms)
    assert here.scale == "log"
    for name in ("chi2", "p_value", "aic", "heldout_error"):
        assert getattr(there, name) == pytest.approx(getattr(here, name), rel=1e-5, abs=1e-7)
    np.testing.assert_allclose(there.parameters["beta"], here.parameters["beta"], rtol=0, atol=1e-7)
    beta = here.parameters["beta"][0]
    wanted = here.parameters["A"][0] * nats * tokens**-beta
    assert there.parameters["A"][0] == pytest.approx(wanted, rel=1e-6)
    mi = terms.mean(axis=0)
    line, scaled = fit_power_ols(LENGTHS, mi), fit_power_ols(tokens * LENGTHS, nats * mi)
    assert scaled.parameters["beta"][0] == pytest.approx(line.parameters["beta"][0], abs=1e-9)
    assert scaled.heldout_error == pytest.approx(line.heldout_error, abs=1e-9)


@many
@given(documents(), st.randoms(use_true_random=False))
def test_order_of_documents_does_not_matter(terms, random):
    covariance, shrinkage = covariance_of_mean(terms)
    again = covariance_of_mean(terms[random.sample(range(len(terms)), len(terms))])
    np.testing.assert_allclose(again[0], covariance, rtol=1e-9, atol=1e-15)
    assert again[1] == pytest.approx(shrinkage, abs=1e-9)
    np.testing.assert_allclose(np.diag(covariance), terms.var(axis=0, ddof=1) / len(terms), rtol=1e-12)
    np.testing.assert_array_equal(covariance, covariance.T)
    assert np.linalg.eigvalsh(covariance).min() > -1e-12 * covariance.max()
    columns = random.sample(range(9), 9)
    moved, same = covariance_of_mean(terms[:, columns])
    np.testing.assert_allclose(moved, covariance[np.ix_(columns, columns)], rtol=1e-9, atol=1e-15)
    assert same == pytest.approx(shrinkage, abs=1e-9)


curves = {
    "power": st.tuples(st.floats(-3, 3), st.floats(-1, 1.2)),
    "power_plus_constant": st.tuples(st.floats(-3, 2), st.floats(-1.2, -0.3) | st.floats(0.3, 1.1), st.floats(0.1, 3)),
    "logarithm": st.tuples(st.floats(0.1, 5), st.floats(0.05, 3)),
    "saturating": st.tuples(st.floats(-1, 3), st.floats(4, 6.5), st.floats(-0.5, 0.5)),
    "broken_power": st.tuples(st.floats(-2, 2), st.floats(0.6, 1.2), st.floats(0, 0.4), st.floats(3.7, 5.8)),
    "constant": st.tuples(st.floats(0.1, 9)),
}


@pytest.mark.parametrize("law", LAWS)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.data())
def test_a_curve_without_noise_comes_back(law, data):
    """The search does not start from the curve's parameters, so chi2 is near 0 only if it finds the minimum."""
    theta = np.array(data.draw(curves[law], label="theta"))
    mi = LAWS[law].mi(theta, np.log(LENGTHS))
    assume(mi.min() > 1e-3 * mi.max())
    fit = fit_law(law, LENGTHS, mi, np.diag((0.02 * mi) ** 2))
    assert fit.chi2 < 1e-4  # no point is off by more than a hundredth of its error
    assert abs(fit.heldout_error) < 0.02
