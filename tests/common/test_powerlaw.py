"""Fits compared with scipy and with regression on control variates, and how often intervals contain the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import curve_fit

from common.powerlaw import (
    LAWS,
    Fit,
    NoFitError,
    bootstrap_intervals,
    covariance_of_mean,
    fit_law,
    fit_power_ols,
    sweep,
)

L = 2 ** np.arange(2, 11)


def correlated(rng: np.random.Generator, documents: int, rho: float) -> np.ndarray:
    """Standard normal numbers (documents, 9); columns i and j have correlation rho^|i − j|."""
    correlation = rho ** np.abs(np.subtract.outer(np.arange(len(L)), np.arange(len(L))))
    return rng.standard_normal((documents, len(L))) @ np.linalg.cholesky(correlation).T


def samples(rng: np.random.Generator, documents: int, rho: float = 0.8, spread: float = 0.3) -> np.ndarray:
    """Log-normal terms (documents, 9) whose mean is 2 · L^0.75."""
    return 2 * L**0.75 * np.exp(spread * correlated(rng, documents, rho) - spread**2 / 2)


# For each law: parameters with which it equals none of the others, and the same as θ.
EXAMPLES = {
    "power": ((2.27, 0.76), (math.log(2.27), 0.76)),
    "power_plus_constant": ((1.6, 0.6, 2.0), (math.log(1.6), 0.6, 2.0)),
    "logarithm": ((1.0, 2.0), (1.0, 2.0)),
    "saturating": ((20.0, 55.0, 0.8), tuple(np.log([20.0, 55.0, 0.8]))),
    "broken_power": ((1.6, 0.9, 0.4, 60.0), (math.log(1.6), 0.9, 0.4, math.log(60.0))),
    "constant": ((2.5,), (2.5,)),
}
FORMULAS = {
    "power": lambda L, A, beta: A * L**beta,
    "power_plus_constant": lambda L, A, beta, C: A * L**beta + C,
    "logarithm": lambda L, A, B: A + B * np.log(L),
    "saturating": lambda L, top, L_0, beta: top / (1 + (L_0 / L) ** beta),
    "broken_power": lambda L, A, b1, b2, L_b: A * L**b1 * (1 + (L / L_b) ** 4) ** ((b2 - b1) / 4),
    "constant": lambda L, C: C + 0 * L,
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("scale", ["log", "linear"])
def test_exact_curves_are_found_exactly(law, scale):
    values, theta = EXAMPLES[law]
    mi = FORMULAS[law](L.astype(float), *values)
    assert LAWS[law].mi(np.array(theta), np.log(L)) == pytest.approx(mi, rel=1e-12)
    error = 0.01 * mi
    if scale == "linear":
        error[0] = mi[0]  # one point within 3 errors of 0
    fit = fit_law(law, L, mi, np.diag(error**2))
    assert fit.scale == ("linear" if law == "constant" else scale)
    found = [fit.parameters[name][0] for name in fit.parameters]
    assert found == pytest.approx(values, rel=1e-5)
    for value, low, high in fit.parameters.values():
        assert low < value < high
    assert fit.chi2 == pytest.approx(0, abs=1e-9)
    assert fit.heldout_error == pytest.approx(0, abs=1e-4)
    assert (fit.dof, fit.L_min, fit.L_max) == (9 - len(values), 4, 1024)


@pytest.mark.parametrize("law", LAWS)
def test_aic_calls_the_law_by_its_name(law):
    rng = np.random.default_rng(0)
    truth = FORMULAS[law](L.astype(float), *EXAMPLES[law][0])
    called = []
    for _ in range(4):
        terms = truth * (1 + 0.1 * correlated(rng, 400, 0.8))
        covariance, shrinkage = covariance_of_mean(terms)
        fits = [fit_law(name, L, terms.mean(axis=0), covariance, 400, shrinkage) for name in LAWS]
        called.append(min(fits, key=lambda fit: fit.aic).law)
    assert called.count(law) >= 3, called


def test_a_steep_fall_onto_a_low_plateau():
    """Here, all lines in d^β go below 0, and a search on the log scale that starts from one has no slope to follow."""
    mi = np.array([0.678, 0.278, 0.063, 0.013, 0.0031, 0.0022, 0.0017, 0.0017, 0.0012])
    error = np.array([0.0176, 0.0137, 0.0092, 0.0036, 0.00065, 0.00045, 0.0003, 0.00029, 0.00024])
    covariance = np.outer(error, error) * (0.65 + 0.35 * np.eye(9))
    constant, power = (fit_law(law, L // 4, mi, covariance) for law in ("power_plus_constant", "power"))
    assert constant.chi2 < power.chi2
    assert 0.001 < constant.parameters["C"][0] < 0.003


def test_against_scipy_curve_fit():
    """With a known covariance, parameters, errors and chi2 are those of scipy's weighted fit of the line."""
    terms = samples(np.random.default_rng(0), 200)
    mi, covariance = terms.mean(axis=0), np.cov(terms.T) / 200
    fit = fit_law("power", L, mi, covariance)
    log_covariance = covariance / np.outer(mi, mi)
    (log_A, beta), errors, info, *_ = curve_fit(
        lambda x, a, b: a + b * x, np.log(L), np.log(mi), sigma=log_covariance, absolute_sigma=True, full_output=True
    )
    half = 1.959963984540054 * np.sqrt(np.diag(errors))
    assert fit.parameters["beta"] == pytest.approx((beta, beta - half[1], beta + half[1]), rel=1e-6)
    assert fit.parameters["A"] == pytest.approx(np.exp([log_A, log_A - half[0], log_A + half[0]]), rel=1e-6)
    assert fit.chi2 == pytest.approx(np.sum(info["fvec"] ** 2), rel=1e-6)
    assert fit.aic == pytest.approx(fit.chi2 + 4, rel=1e-12)
    assert fit.p_value == pytest.approx(stats.chi2.sf(fit.chi2, 7), rel=1e-9)


@pytest.mark.parametrize("law", ["power", "power_plus_constant", "saturating", "constant"])
def test_linear_scale_against_scipy_curve_fit(law):
    """If a point lies near 0, the residuals are those of I itself, so the fit is scipy's fit of the formula."""
    rng = np.random.default_rng(5)
    terms = FORMULAS[law](L.astype(float), *EXAMPLES[law][0]) * (1 + 0.3 * correlated(rng, 200, 0.8))
    terms[:, 0] += 30 * rng.standard_normal(200)
    mi, covariance = terms.mean(axis=0), np.cov(terms.T) / 200
    assert mi[0] < 3 * math.sqrt(covariance[0, 0])
    fit = fit_law(law, L, mi, covariance)
    values, errors, info, *_ = curve_fit(
        FORMULAS[law], L.astype(float), mi, EXAMPLES[law][0], sigma=covariance, absolute_sigma=True, full_output=True
    )
    assert fit.scale == "linear"
    assert [value for value, _, _ in fit.parameters.values()] == pytest.approx(values, rel=1e-3)
    assert fit.chi2 == pytest.approx(np.sum(info["fvec"] ** 2), rel=1e-6)
    assert fit.aic == pytest.approx(fit.chi2 + 2 * len(values))
    name = "C" if law == "constant" else "beta"
    _, low, high = fit.parameters[name]
    half = 1.959963984540054 * math.sqrt(np.diag(errors)[list(fit.parameters).index(name)])
    if law == "saturating":  # its β is positive: the interval is symmetric in log β
        low, high, half = math.log(low), math.log(high), half / values[2]
    assert (high - low) / 2 == pytest.approx(half, rel=1e-2)


def test_against_regression_on_control_variates():
    """With an estimated covariance, the parameters are the intercepts of a regression on the deviations from a line."""
    n = 25
    logs = np.log(L) * 0.7 + 1 + 0.1 * correlated(np.random.default_rng(3), n, 0.6)  # rows: documents
    means = np.exp(logs.mean(axis=0))
    # The delta method divides by the means, which turns this covariance into np.cov(logs) / n.
    fit = fit_law("power", L, means, np.cov(logs.T) / n * np.outer(means, means), n_documents=n)

    design = np.stack([np.ones(9), np.log(L)], axis=1)
    line, miss = np.linalg.pinv(design), np.linalg.svd(design)[0][:, 2:]
    controls = np.column_stack([np.ones(n), logs @ miss])
    for name, response in zip(("A", "beta"), (logs @ line.T).T, strict=True):
        solution, residual, *_ = np.linalg.lstsq(controls, response, rcond=None)
        error = math.sqrt(residual[0] / (n - 8) * np.linalg.inv(controls.T @ controls)[0, 0])
        half = stats.t.ppf(0.975, n - 8) * error
        expected = np.array([solution[0], solution[0] - half, solution[0] + half])
        assert fit.parameters[name] == pytest.approx(np.exp(expected) if name == "A" else expected, rel=1e-9)


def held(spread: float, noise: float, documents: int, rho: float, experiments: int) -> tuple[np.ndarray, float, float]:
    """How often intervals of A and β contain the truth (2 · L^0.75), how often I <= 0, how often the scale is linear.

    Terms have log-normal noise of size `spread` or, if that is 0, normal noise of size `noise` at every L.
    """
    rng, inside, below, linear = np.random.default_rng(documents), np.zeros(2), 0, 0
    for _ in range(experiments):
        terms = (
            samples(rng, documents, rho, spread) if spread else 2 * L**0.75 + noise * correlated(rng, documents, rho)
        )
        covariance, shrinkage = covariance_of_mean(terms)
        fit = fit_law("power", L, terms.mean(axis=0), covariance, documents, shrinkage)
        for i, (name, truth) in enumerate((("A", 2), ("beta", 0.75))):
            _, low, high = fit.parameters[name]
            inside[i] += low <= truth <= high
        below += (terms.mean(axis=0) <= 0).any()
        linear += fit.scale == "linear"
    return inside / experiments, below / experiments, linear / experiments


@pytest.mark.parametrize(
    ("documents", "rho", "at_most"),
    [(40, 0.8, 0.971), (8, 0.6, 1.0)],  # with so few documents, they may be too wide
)
def test_intervals_hold_the_truth(documents, rho, at_most):
    """Coverage in 1,000 seeded experiments (log-normal, correlated) is within 3 binomial errors (0.021) of 95%."""
    inside, _, _ = held(0.3, 0, documents, rho, 1000)
    assert (inside >= 0.929).all()
    assert (inside <= at_most).all()


def test_intervals_hold_the_truth_where_points_lie_near_zero():
    """If the first points are within their errors of 0, and often below, none is left out and coverage is still 95%."""
    (_, beta), below, linear = held(0, 60, 100, 0.5, 300)
    assert below > 0.1
    assert linear > 0.9
    assert 0.91 <= beta <= 0.985


@pytest.mark.parametrize(("documents", "rho"), [(20, 0.6), (100, 0.95)])
def test_p_values_are_uniform_under_the_law(documents, rho):
    """Kolmogorov–Smirnov test on normal terms whose mean is a power law, with few documents and shrinkage to undo."""
    rng, found = np.random.default_rng(documents), []
    for _ in range(1000):
        terms = 2 * L**0.75 * (1 + 0.1 * correlated(rng, documents, rho))
        covariance, shrinkage = covariance_of_mean(terms)
        found.append(fit_law("power", L, terms.mean(axis=0), covariance, documents, shrinkage).p_value)
        if len(found) == 1:  # as many documents as points cannot test a law
            few = terms[: len(L)]
            covariance, shrinkage = covariance_of_mean(few)
            assert math.isnan(fit_law("power", L, few.mean(axis=0), covariance, len(L), shrinkage).p_value)
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.021)


def test_a_parameter_that_the_points_leave_open_has_no_interval():
    fit = fit_law("saturating", L, 2 * L**0.7, np.diag((0.02 * L**0.7) ** 2))  # no saturation in sight
    assert fit.parameters["beta"][0] == pytest.approx(0.7, abs=1e-3)
    _, low, high = fit.parameters["L_0"]
    assert math.isnan(low) or high / low > 1e6


def test_a_constant_may_be_fitted_to_nothing_but_noise():
    """A text without information has no significant point, and only a constant can be fitted to it."""
    mi = np.array([0.2, -0.1, 0.3, 0.0])
    fit = fit_law("constant", L[:4], mi, np.eye(4))
    C, low, high = fit.parameters["C"]
    assert (C, high - C, C - low) == pytest.approx((0.1, 1.96 / 2, 1.96 / 2), rel=1e-3)
    with pytest.raises(NoFitError, match="0 of 4 points lie 3 standard errors above 0, and 3 are needed"):
        fit_law("power", L[:4], mi, np.eye(4))


def test_heldout_error_is_of_the_fit_to_the_others():
    mi = 2 * L**0.5
    mi[-1] *= 1.25
    covariance = np.diag((0.01 * mi) ** 2)
    assert fit_law("power", L, mi, covariance).heldout_error == pytest.approx(1 / 1.25 - 1, rel=1e-9)
    assert fit_power_ols(L, mi).heldout_error == pytest.approx(1 / 1.25 - 1, rel=1e-9)
    assert math.isnan(fit_law("broken_power", L[:4], mi[:4], covariance[:4, :4]).heldout_error)


def test_sweep_over_windows():
    terms = samples(np.random.default_rng(2), 200)
    mi = terms.mean(axis=0)
    covariance, shrinkage = covariance_of_mean(terms)
    fits = {(fit.L_min, fit.L_max): fit for fit in sweep(L, mi, covariance, 200, shrinkage)}
    assert len(fits) == 9 * 8 / 2
    whole = fit_law("power", L, mi, covariance, 200, shrinkage)
    assert fits[4, 1024] == whole
    local = fits[64, 128]
    assert local.parameters["beta"][0] == pytest.approx(math.log2(mi[5] / mi[4]), rel=1e-12)
    # The delta method for a difference of two logarithms, and Student's t.
    pair = covariance[4:6, 4:6] / np.outer(mi[4:6], mi[4:6])
    half = stats.t.ppf(0.975, 199) * math.sqrt(pair[0, 0] + pair[1, 1] - 2 * pair[0, 1]) / math.log(2)
    assert local.parameters["beta"][2] - local.parameters["beta"][0] == pytest.approx(half, rel=1e-9)
    assert (local.dof, local.chi2) == (0, pytest.approx(0, abs=1e-15))
    assert math.isnan(local.p_value)


def test_sweep_leaves_out_what_lies_near_zero():
    mi = 2 * L**0.5
    mi[2] = -1.0
    windows = {(fit.L_min, fit.L_max): fit.scale for fit in sweep(L, mi, np.eye(9) * 1e-4)}
    assert (16, 32) not in windows
    assert (8, 32) not in windows
    assert windows[8, 64] == "linear"
    assert windows[32, 64] == "log"
    # A length without spread spoils only its own windows.
    terms = samples(np.random.default_rng(3), 50)
    terms[:, 4] = terms[:, 4].mean()
    covariance, shrinkage = covariance_of_mean(terms)
    windows = {(fit.L_min, fit.L_max) for fit in sweep(L, terms.mean(axis=0), covariance, 50, shrinkage)}
    assert len(windows) == 4 * 3 / 2 + 4 * 3 / 2
    assert (128, 1024) in windows
    with pytest.raises(NoFitError, match="the same term at L = 64: fit other lengths"):
        fit_law("power", L, terms.mean(axis=0), covariance, 50, shrinkage)


# Whole books


def mean_of(terms: np.ndarray, law: str = "power_ols", name: str = "beta"):
    """A `fits` for `bootstrap_intervals` whose only parameter is the mean of the resampled terms."""
    return lambda rows, drawn: [Fit.unweighted(law, {name: float(terms[rows].mean())}, L, math.nan)]


def test_bootstrap_of_books_against_the_formula():
    """If books differ, the interval is Student's from the means of the books, whatever the number of documents."""
    rng = np.random.default_rng(0)
    books = np.repeat(np.arange(25), 8)
    terms = rng.standard_normal(25)[books] + 0.1 * rng.standard_normal(200)
    intervals = bootstrap_intervals(books, mean_of(terms), replications=4000)
    (low, high), again = intervals["power_ols", "beta"], bootstrap_intervals(books, mean_of(terms), replications=4000)
    assert again == intervals
    half = stats.t.ppf(0.975, 24) * terms.reshape(25, 8).mean(axis=1).std(ddof=1) / 5
    assert (low + high) / 2 == pytest.approx(terms.mean(), abs=1e-12)
    assert (high - low) / 2 == pytest.approx(half, rel=0.04)
    # The interval of A is symmetric in log A; `drawn` is how often each book was drawn.
    low, high = bootstrap_intervals(books, mean_of(np.exp(terms), name="A"), replications=50)["power_ols", "A"]
    assert math.sqrt(low * high) == pytest.approx(np.exp(terms).mean(), rel=1e-9)

    def weighted(rows: np.ndarray, drawn: np.ndarray) -> list[Fit]:
        assert np.array_equal(np.bincount(books[rows], minlength=25), 8 * drawn)
        return mean_of(terms)(rows, drawn)

    bootstrap_intervals(books, weighted, replications=3)
    assert np.isnan(bootstrap_intervals(books, mean_of(np.ones(200)), 10)["power_ols", "beta"]).all()


@pytest.mark.parametrize("books", [4, 30])
def test_bootstrap_intervals_hold_the_truth(books):
    """Intervals from 4 or 30 books that differ (Student's t) contain β in 90% or more; from documents, less often."""
    rng, held, held_documents = np.random.default_rng(books), 0, 0
    unit = np.repeat(np.arange(books), 120 // books)
    for _ in range(150):
        flavour = 0.1 * rng.standard_normal(books)[unit, None] * np.linspace(0, 1, 9)
        terms = 2 * L**0.75 * (1 + flavour + 0.2 * correlated(rng, len(unit), 0.8))

        def fits(rows: np.ndarray, drawn: np.ndarray, terms: np.ndarray = terms) -> list[Fit]:
            return [fit_power_ols(L, terms[rows].mean(axis=0))]

        covariance, shrinkage = covariance_of_mean(terms)
        alone = fit_law("power", L, terms.mean(axis=0), covariance, len(terms), shrinkage).parameters["beta"]
        resampled = bootstrap_intervals(unit, fits, replications=60)["power_ols", "beta"]
        held += resampled[0] <= 0.75 <= resampled[1]
        held_documents += alone[1] <= 0.75 <= alone[2]
    assert held / 150 >= 0.90
    assert held_documents < held


def test_bootstrap_that_cannot_be():
    with pytest.raises(NoFitError, match="a bootstrap needs at least two books or documents"):
        bootstrap_intervals(np.zeros(5), mean_of(np.ones(5)))

    def never(rows: np.ndarray, drawn: np.ndarray) -> list[Fit]:
        if (drawn != 1).any():
            raise NoFitError("no")
        return mean_of(np.arange(30.0))(rows, drawn)

    with pytest.raises(NoFitError, match="0 of 100 resamplings allow a fit"):
        bootstrap_intervals(np.arange(30), never, replications=100)


def test_no_fit():
    mi = 2 * L**0.5
    for bad_L, bad_mi in ((L[::-1], mi), (L, np.r_[np.nan, mi[1:]])):
        with pytest.raises(ValueError, match="L must ascend, and I and its covariance be finite"):
            fit_law("power", bad_L, bad_mi, np.eye(9))
    for law, points, covariance, message in (
        ("power", mi[:2], np.eye(2) * 1e-4, "2 points, and 3 are needed"),
        ("broken_power", mi[:3], np.eye(3) * 1e-4, "3 points, and 4 are needed"),
        ("power", mi, np.diag(np.r_[0.1, 0.1, np.full(7, 1e4)]), "2 of 9 points lie 3 standard errors above 0"),
        ("power", -mi, np.eye(9), "0 of 9"),
        ("power", mi, np.full((9, 9), 1e-4), "singular"),
        ("power", mi, np.zeros((9, 9)), "the same term at L = 4"),
    ):
        with pytest.raises(NoFitError, match=message):
            fit_law(law, L[: len(points)], points, covariance)
    with pytest.raises(NoFitError, match="8 documents are too few for the covariance of 9 points"):
        fit_law("power", L, mi, np.eye(9) * 1e-4, n_documents=8)
    with pytest.raises(NoFitError, match="2 of 9 points lie above 0"):
        fit_power_ols(L, np.r_[1.0, 2.0, np.full(7, -1.0)])
    exact = fit_law("broken_power", L[:4], L[:4] ** 0.5, np.eye(4) * 1e-4)
    assert exact.dof == 0
    assert math.isnan(exact.aic)


def test_straight_line_against_scipy_linregress():
    mi = samples(np.random.default_rng(1), 20).mean(axis=0)
    mi[3] = -0.5
    kept = mi > 0
    line = stats.linregress(np.log(L[kept]), np.log(mi[kept]))
    fit = fit_power_ols(L, mi)
    columns = "law parameter value lo95 hi95 L_min L_max chi2 dof aic p_value heldout_error scale"
    assert [list(row) for row in fit.rows()] == [columns.split()] * 2
    assert [(row["law"], row["parameter"]) for row in fit.rows()] == [("power_ols", "A"), ("power_ols", "beta")]
    assert fit.parameters["beta"][0] == pytest.approx(line.slope, rel=1e-12)
    assert fit.parameters["A"][0] == pytest.approx(math.exp(line.intercept), rel=1e-12)
    assert np.isnan([fit.parameters["A"][1:], fit.parameters["beta"][1:]]).all()
    assert np.isnan([fit.chi2, fit.aic]).all()
    assert fit.dof == 6


@pytest.mark.parametrize(("documents", "rho"), [(5, 0.8), (12, 0.8), (400, 0.8), (11, 0.0)])
def test_shrinkage_equals_its_definition(documents, rho):
    x = samples(np.random.default_rng(documents), documents, rho)
    covariance, shrinkage = covariance_of_mean(x)
    z = (x - x.mean(axis=0)) / x.std(axis=0, ddof=1)
    variance = square = 0.0
    for i in range(9):
        for j in range(9):
            if i != j:
                w = z[:, i] * z[:, j]
                variance += documents / (documents - 1) ** 3 * np.sum((w - w.mean()) ** 2)
                square += (w.sum() / (documents - 1)) ** 2
    assert (variance > square) == (rho == 0)
    assert shrinkage == pytest.approx(min(1, variance / square), rel=1e-10)
    expected = np.cov(x.T) / documents
    off = ~np.eye(9, dtype=bool)
    assert np.diag(covariance) == pytest.approx(np.diag(expected), rel=1e-12)
    assert covariance[off] == pytest.approx((1 - shrinkage) * expected[off], rel=1e-10)
    np.linalg.cholesky(covariance)  # also with fewer documents than points
    assert (covariance_of_mean(np.ones((5, 3)))[0] == 0).all()
