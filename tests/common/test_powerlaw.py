"""The fits against scipy, against regression on control variates, and by how often their intervals hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import curve_fit

from common.powerlaw import NoFitError, covariance_of_mean, fit_power, fit_power_ols

L = 2 ** np.arange(2, 11)


def correlated(rng: np.random.Generator, documents: int, rho: float) -> np.ndarray:
    """Standard normal (documents, 9), neighbours correlated by rho."""
    correlation = rho ** np.abs(np.subtract.outer(np.arange(len(L)), np.arange(len(L))))
    return rng.standard_normal((documents, len(L))) @ np.linalg.cholesky(correlation).T


def samples(rng: np.random.Generator, documents: int, rho: float = 0.8, spread: float = 0.3) -> np.ndarray:
    """Log-normal terms (documents, 9) whose mean is 2 · L^0.75."""
    return 2 * L**0.75 * np.exp(spread * correlated(rng, documents, rho) - spread**2 / 2)


def test_exact_power_law_is_found_exactly():
    fit = fit_power(L, 2.27 * L**0.76, np.diag((0.01 * L) ** 2))
    assert fit.parameters["A"][0] == pytest.approx(2.27, abs=1e-12)
    assert fit.parameters["beta"][0] == pytest.approx(0.76, abs=1e-12)
    assert fit.chi2 == pytest.approx(0, abs=1e-15)
    assert (fit.dof, fit.L_min, fit.L_max, fit.left_out) == (7, 4, 1024, ())


def test_against_scipy_curve_fit():
    """With a covariance that is known: the same parameters, errors and chi2 as a weighted fit of the line by scipy."""
    terms = samples(np.random.default_rng(0), 200)
    mi, covariance = terms.mean(axis=0), np.cov(terms.T) / 200
    fit = fit_power(L, mi, covariance)
    log_covariance = covariance / np.outer(mi, mi)
    (log_A, beta), errors, info, *_ = curve_fit(
        lambda x, a, b: a + b * x, np.log(L), np.log(mi), sigma=log_covariance, absolute_sigma=True, full_output=True
    )
    half = 1.959963984540054 * np.sqrt(np.diag(errors))
    assert fit.parameters["beta"] == pytest.approx((beta, beta - half[1], beta + half[1]), rel=1e-6)
    assert fit.parameters["A"] == pytest.approx(np.exp([log_A, log_A - half[0], log_A + half[0]]), rel=1e-6)
    assert fit.chi2 == pytest.approx(np.sum(info["fvec"] ** 2), rel=1e-6)
    assert fit.aicc == pytest.approx(fit.chi2 + 4 + 12 / 6, rel=1e-12)


def test_against_regression_on_control_variates():
    """With an estimated covariance the parameters are the intercepts of a regression on what misses the line."""
    n = 25
    logs = np.log(L) * 0.7 + 1 + 0.1 * correlated(np.random.default_rng(3), n, 0.6)  # rows: documents
    means = np.exp(logs.mean(axis=0))
    # This covariance is np.cov(logs) / n once the delta method has divided by the means.
    fit = fit_power(L, means, np.cov(logs.T) / n * np.outer(means, means), n_documents=n)

    design = np.stack([np.ones(9), np.log(L)], axis=1)
    line, miss = np.linalg.pinv(design), np.linalg.svd(design)[0][:, 2:]
    controls = np.column_stack([np.ones(n), logs @ miss])
    for name, response in zip(("A", "beta"), (logs @ line.T).T, strict=True):
        solution, residual, *_ = np.linalg.lstsq(controls, response, rcond=None)
        error = math.sqrt(residual[0] / (n - 8) * np.linalg.inv(controls.T @ controls)[0, 0])
        half = stats.t.ppf(0.975, n - 8) * error
        expected = np.array([solution[0], solution[0] - half, solution[0] + half])
        assert fit.parameters[name] == pytest.approx(np.exp(expected) if name == "A" else expected, rel=1e-9)


@pytest.mark.parametrize(
    ("documents", "rho", "at_most"),
    [(300, 0.8, 0.971), (40, 0.8, 0.971), (8, 0.6, 1.0)],  # with as few as the points they may be too wide
)
def test_intervals_hold_the_truth(documents, rho, at_most):
    """Log-normal, correlated, seeded: 1,000 experiments, within 3 binomial errors (0.021) of 95%."""
    rng = np.random.default_rng(documents)
    held = np.zeros(2)
    for _ in range(1000):
        terms = samples(rng, documents, rho)
        covariance, shrinkage = covariance_of_mean(terms)
        fit = fit_power(L, terms.mean(axis=0), covariance, n_documents=documents, shrinkage=shrinkage)
        for i, (name, truth) in enumerate((("A", 2), ("beta", 0.75))):
            _, low, high = fit.parameters[name]
            held[i] += low <= truth <= high
    assert (held / 1000 >= 0.929).all()
    assert (held / 1000 <= at_most).all()


def test_points_near_zero_are_left_out_and_named():
    mi = 2 * L**0.5
    error = 0.1 * mi
    error[[0, 4]] = mi[[0, 4]] / 2.9
    mi[2] = -1.0
    fit = fit_power(L, mi, np.diag(error**2))
    assert fit.left_out == (4, 16, 64)
    assert (fit.dof, fit.L_min) == (4, 8)
    assert fit.parameters["beta"][0] == pytest.approx(0.5, abs=1e-12)


def test_three_points_have_no_aicc():
    fit = fit_power(L[:3], L[:3] ** 0.5, np.eye(3) * 1e-4)
    assert fit.dof == 1
    assert math.isnan(fit.aicc)


def test_no_fit():
    mi = 2 * L**0.5
    with pytest.raises(NoFitError, match="2 of 9 points lie 3 standard errors above 0"):
        fit_power(L, mi, np.diag(np.r_[0.1, 0.1, np.full(7, 1e4)]))
    with pytest.raises(NoFitError, match="0 of 9"):
        fit_power(L, -mi, np.eye(9))
    with pytest.raises(NoFitError, match="singular"):
        fit_power(L, mi, np.full((9, 9), 1e-4))
    with pytest.raises(NoFitError, match="singular"):
        fit_power(L, mi, np.zeros((9, 9)))
    with pytest.raises(NoFitError, match="8 documents are too few for the covariance of 9 points"):
        fit_power(L, mi, np.eye(9) * 1e-4, n_documents=8)
    with pytest.raises(NoFitError, match="2 of 9 points lie above 0"):
        fit_power_ols(L, np.r_[1.0, 2.0, np.full(7, -1.0)])


def test_straight_line_against_scipy_linregress():
    mi = samples(np.random.default_rng(1), 20).mean(axis=0)
    mi[3] = -0.5
    kept = mi > 0
    line = stats.linregress(np.log(L[kept]), np.log(mi[kept]))
    fit = fit_power_ols(L, mi)
    assert fit.law == "power_ols"
    assert fit.parameters["beta"][0] == pytest.approx(line.slope, rel=1e-12)
    assert fit.parameters["A"][0] == pytest.approx(math.exp(line.intercept), rel=1e-12)
    assert np.isnan([fit.parameters["A"][1:], fit.parameters["beta"][1:]]).all()
    assert np.isnan([fit.chi2, fit.aicc]).all()
    assert (fit.dof, fit.left_out) == (6, (32,))


def test_rows_of_the_table():
    rows = fit_power(L[:4], L[:4] ** 0.5, np.eye(4) * 1e-4).rows()
    assert [row["parameter"] for row in rows] == ["A", "beta"]
    for row in rows:
        assert list(row) == ["law", "parameter", "value", "lo95", "hi95", "L_min", "L_max", "chi2", "dof", "aicc"]
        assert row["law"] == "power"
        assert row["lo95"] < row["value"] < row["hi95"]


@pytest.mark.parametrize("documents", [5, 12, 400])
def test_shrinkage_equals_its_definition(documents):
    x = samples(np.random.default_rng(documents), documents)
    covariance, shrinkage = covariance_of_mean(x)
    z = (x - x.mean(axis=0)) / x.std(axis=0, ddof=1)
    variance = square = 0.0
    for i in range(9):
        for j in range(9):
            if i != j:
                w = z[:, i] * z[:, j]
                variance += documents / (documents - 1) ** 3 * np.sum((w - w.mean()) ** 2)
                square += (w.sum() / (documents - 1)) ** 2
    assert shrinkage == pytest.approx(min(1, variance / square), rel=1e-10)
    expected = np.cov(x.T) / documents
    off = ~np.eye(9, dtype=bool)
    assert np.diag(covariance) == pytest.approx(np.diag(expected), rel=1e-12)
    assert covariance[off] == pytest.approx((1 - shrinkage) * expected[off], rel=1e-10)
    np.linalg.cholesky(covariance)  # also where there are fewer documents than points


def test_many_documents_are_hardly_shrunk():
    assert covariance_of_mean(samples(np.random.default_rng(0), 20_000))[1] < 0.01


def test_documents_without_spread():
    covariance, _ = covariance_of_mean(np.ones((5, 3)))
    assert (covariance == 0).all()
