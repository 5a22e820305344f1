"""The entropy per token by position, for processes for which it is known, and the exponent fitted to it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.powerlaw import covariance_of_mean, fit_law
from measure_mutual_info.calibration.processes import BernoulliUniform, MarkovChain
from measure_mutual_info.estimate_entropy_rate import block_rates, middle
from measure_mutual_info.scoring.tables import SCORES
from tests.conftest import call_script, one_line_error
from tests.measure_mutual_info.made_up import exact_scores, hand_scores, save

SCRIPT = "measure_mutual_info/estimate_entropy_rate.py"
CURVE = ["source", "model", "first_token", "last_token", "nats_per_token", "stderr_nats", "stderr_by_book_nats"]
CURVE += ["n_documents", "n_books"]


def run(folder: Path, scores: pd.DataFrame, *flags: object) -> tuple[str, pd.DataFrame, pd.DataFrame]:
    """Run the program. Returns its output, entropy_rate.csv and entropy_rate_fit.csv."""
    done = call_script(SCRIPT, "--scores", save(folder, scores), "--out", folder, *flags)
    assert done.returncode == 0, done.stderr
    assert (folder / "entropy_rate.json").is_file()
    assert (folder / "entropy_rate_fit.json").is_file()
    return done.stdout, *(pd.read_csv(folder / f"{name}.csv") for name in ("entropy_rate", "entropy_rate_fit"))


def test_rates_by_hand():
    rates = block_rates(hand_scores())
    assert rates.columns.tolist() == [(2, 4), (4, 8)]
    assert rates.to_numpy().tolist() == [[1, 1], [2, 2], [4, 4]]
    other = pd.DataFrame([("a", "book", 2, 6, -9.0, 0, 0, 0, 0, 0, "b")], columns=SCORES)
    assert block_rates(pd.concat([hand_scores(), other])).equals(rates), "L = 2 ell alone"


@pytest.mark.parametrize("gamma", [0.2, 0.5, 1.0])
def test_the_middle_of_a_block(gamma):
    """Means of n^−gamma over blocks are proportional to the power of their middle, so the exponent is kept."""
    blocks = pd.MultiIndex.from_tuples([(2**k, 2 ** (k + 1)) for k in range(1, 11)], names=["ell_tokens", "L_tokens"])
    means = np.array([np.mean(np.arange(ell + 1, L + 1.0) ** -gamma) for ell, L in blocks])
    factor = means * middle(blocks) ** gamma
    assert np.ptp(factor) < 0.0035 * factor.mean()
    assert factor == pytest.approx(1, abs=0.023)


def test_tosses_of_an_unknown_coin(tmp_path):
    """h(n) = ln 2 − I(1; n) falls to ½ nat about as 1/(2n). The fit is compared with one of the exact curve."""
    process = BernoulliUniform()
    scores, _ = exact_scores(process, 4000, 128, apart=True)
    printed, curve, fits = run(tmp_path, scores, "--bootstrap", 40)
    assert curve.columns.tolist() == CURVE
    assert curve["first_token"].tolist() == [3, 5, 9, 17, 33, 65]
    assert curve["last_token"].tolist() == [4, 8, 16, 32, 64, 128]
    assert set(curve["n_documents"]) == {4000}
    assert set(curve["n_books"]) == {10}
    h = np.array([math.log(2) - process.mutual_information(1, n) for n in range(2, 129)])  # of tokens 2 … 128
    exact = np.array([h[row.first_token - 2 : row.last_token - 1].mean() for row in curve.itertuples()])
    for row, wanted in zip(curve.itertuples(), exact, strict=True):
        assert abs(row.nats_per_token - wanted) < 4 * row.stderr_nats
        assert 0.3 * row.stderr_nats < row.stderr_by_book_nats < 2 * row.stderr_nats
    fit = fits.set_index("parameter")
    assert fit.index.tolist() == ["A", "gamma", "beta", "h"]
    rates = block_rates(scores)
    covariance, _ = covariance_of_mean(rates.to_numpy())
    limit = fit_law("power_plus_constant", middle(rates.columns), exact, covariance).parameters
    slope, constant = limit["beta"][0], limit["C"][0]
    assert 0.7 < -slope < 1.1
    assert constant == pytest.approx(0.5, abs=0.01)
    for name, wanted in (("gamma", -slope), ("beta", 1 + slope), ("h", constant)):
        assert fit.loc[name, "lo95"] < wanted < fit.loc[name, "hi95"]
        assert fit.loc[name, "boot_lo95"] < fit.loc[name, "value"] < fit.loc[name, "boot_hi95"]
    assert fit.loc["beta", "value"] == pytest.approx(1 - fit.loc["gamma", "value"])
    assert fit.loc["beta", "boot_hi95"] == pytest.approx(1 - fit.loc["gamma", "boot_lo95"])
    assert set(fit["boot_clusters"]) == {"10 books"}
    assert f"gamma = {fit.loc['gamma', 'value']:.3f}" in printed
    later = run(tmp_path, scores, "--bootstrap", 0, "--n-fit-min", 8)[2]
    assert (later["n_min"] > 8).all()
    assert later["boot_lo95"].isna().all()


def test_documents_of_one_book_alike(tmp_path):
    """A shift common to all documents of a book raises the error by book, but hardly that for independent documents."""
    scores, _ = exact_scores(BernoulliUniform(), 400, 16, apart=True)
    shift = scores["book"].str.removeprefix("b").astype(float)
    scores["logq_y_given_x_nats"] -= shift * scores["ell_tokens"]
    curve = run(tmp_path, scores, "--bootstrap", 0)[1]
    assert curve["stderr_by_book_nats"].to_numpy() == pytest.approx(np.arange(10).std(ddof=1) / 10**0.5, rel=0.1)
    assert (curve["stderr_nats"] < 0.2).all()


def test_no_exponent_where_nothing_falls(tmp_path):
    """A Markov chain's h(n) is its entropy rate from the second token on: the curve is written, but no fit."""
    chain = MarkovChain()
    printed, curve, fits = run(tmp_path, exact_scores(chain, 500, 128)[0], "--bootstrap", 0)
    P, pi = np.array(chain.P), chain.stationary
    rate = float(-pi @ (P * np.log(P)).sum(axis=1))
    assert ((curve["nats_per_token"] - rate).abs() < 4 * curve["stderr_nats"]).all()
    assert "no fit: " in printed
    assert fits.empty
    assert {"parameter", "value", "n_min", "n_max", "p_value"} <= set(fits.columns)
    assert "no fit: 0 points" in run(tmp_path, exact_scores(chain, 50, 16)[0], "--n-fit-min", 100)[0]
    done = call_script(SCRIPT, "--scores", tmp_path / "scores.csv", "--out", tmp_path, "--bootstrap", -5)
    assert "--bootstrap -5: must be at least 0" in one_line_error(done)


def test_scores_without_halves(tmp_path):
    scores = hand_scores()
    scores["L_tokens"] += scores["ell_tokens"]
    done = call_script(SCRIPT, "--scores", save(tmp_path, scores), "--out", tmp_path / "out")
    assert "has no L = 2 ell: score the documents with --ratios 2" in one_line_error(done)
    assert not (tmp_path / "out").exists()
