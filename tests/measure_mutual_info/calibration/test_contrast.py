from __future__ import annotations

import functools
import itertools
import json
import math
import zlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from measure_mutual_info.calibration import bipartite
from measure_mutual_info.calibration.contrast import Settings, contrast, x_donors
from measure_mutual_info.calibration.processes import MarkovChain
from tests.conftest import call_script, flags_of, one_line_error

SCRIPT = "measure_mutual_info/calibration/contrast.py"
SMALL = {"donors": (1, 3), "n_documents": 20, "replications": 2, "L_max": 32, "L_fit_min": 8, "pool_documents": 1000}


arguments = functools.partial(flags_of, **SMALL)


@settings(max_examples=100, deadline=None)
@given(documents=st.integers(2, 30), count=st.integers(1, 5), seed=st.integers(0, 10))
def test_donors_are_other_documents_and_differ(documents, count, seed):
    count = min(count, documents - 1)
    donors = x_donors(documents, count, seed)
    for k, donor in enumerate(donors):
        assert sorted(donor) == list(range(documents)), "every document lends its X once"
        assert (donor != np.arange(documents)).all()
        assert (donors[:k] != donor).all(), "nobody gets the same X twice"
    assert (x_donors(documents, count, seed) == donors).all()
    assert documents < 20 or (x_donors(documents, count, seed + 1) != donors).any()


def test_contrast_of_a_chain_is_its_expectation():
    """K = 1 is vCLUB. K = 2 is compared with a sum over all last tokens of X, X'_1, X'_2 and first tokens of Y."""
    chain, cfg = MarkovChain(), bipartite.Settings(L_max=8, L_fit_min=2)
    lent = x_donors(5000, 2, 0)
    vclub = [bipartite.document_terms(cfg, chain, "exact", 5000, 0, x_donor=donor)["vclub"] for donor in lent]
    np.testing.assert_allclose(contrast(vclub[:1]), vclub[0], atol=1e-12)
    assert (vclub[0] != vclub[1]).any(axis=None)
    pi, P, wanted = chain.stationary, np.array(chain.P), 0.0
    for x, y, one, other in itertools.product(range(3), repeat=4):
        wanted += pi[x] * P[x, y] * pi[one] * pi[other] * math.log(P[x, y] / ((P[one, y] + P[other, y]) / 2))
    found = contrast(vclub)
    assert (np.abs(found.mean() - wanted) < 4 * found.sem()).all()
    assert (np.abs(vclub[0].mean() - wanted) > 10 * found.sem()).all()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("contrast")
    done = call_script(SCRIPT, *arguments(out))
    assert done.returncode == 0, done.stderr
    return out


def test_rows(whole):
    table = pd.read_csv(whole / "contrast.csv")
    kinds = table.groupby(["process", "predictor"], sort=False).ngroups
    assert (kinds, len(table)) == (4 + 4, (4 + 4) * 3 * (4 + 1))
    tokens = [32 + (1 + count) * 30 for count in table["donors"]]
    assert table["relative_tokens"].to_numpy() == pytest.approx(np.array(tokens) / (32 + 2 * 30), rel=1e-5)
    mi = table[table["quantity"] == "mi"]
    assert mi["overshoot"].to_numpy() == pytest.approx((mi["mean"] - mi["truth"]).to_numpy(), abs=1e-4)
    assert mi["ratio"].to_numpy() == pytest.approx((mi["mean"] / mi["truth"]).to_numpy(), rel=1e-4)

    # Two replications of the chain, computed again: log q(Y|X) − log of the mean of q(Y|X'), at ell = 16, L = 32.
    chain, terms = MarkovChain(), []
    for seed in (0, 1):
        ids = chain.sample(np.random.default_rng([seed, 20, zlib.crc32(b"markov"), 0]), 20, 32)
        given = [chain.logprobs(ids)[:, 16:].sum(axis=1)]
        for donor in x_donors(20, 3, seed):
            given.append(chain.logprobs(np.concatenate([ids[donor, :16], ids[:, 16:]], axis=1))[:, 16:].sum(axis=1))
        terms.append(given[0] - np.log(np.exp(given[1:]).mean(axis=0)))
    row = mi[(mi["process"] == "markov") & (mi["donors"] == 3) & (mi["L_tokens"] == 32)].iloc[0]
    means = np.mean(terms, axis=1)
    half = student.ppf(0.975, 1) * means.std(ddof=1) / math.sqrt(2)
    wanted = [means.mean(), means.mean() - half, means.mean() + half, means.std(ddof=1)]
    assert row[["mean", "lo95", "hi95", "sd"]].tolist() == pytest.approx(wanted, rel=1e-4)
    errors = np.std(terms, axis=1, ddof=1) / math.sqrt(20)
    assert (row["truth"], row["mean_stderr"]) == pytest.approx(
        (chain.mutual_information(1, 2), errors.mean()), rel=1e-4
    )

    shared = Settings(**SMALL).calibration
    slopes = [
        bipartite.gls(shared, bipartite.document_terms(shared, chain, "exact", 20, s)["direct"])[0] for s in (0, 1)
    ]
    row = table[(table["process"] == "markov") & (table["donors"] == 0) & (table["quantity"] == "beta_gls")].iloc[0]
    assert (row["mean"], row["truth"]) == (pytest.approx(np.nanmean(slopes), nan_ok=True, rel=1e-4), 0)
    assert row["failed"] == np.isnan(slopes).sum()


def test_run_again_reuses_and_other_settings_are_refused(whole):
    assert json.loads((whole / "contrast.json").read_text())["window_L_tokens"] == [8, 16, 32]
    assert not list(whole.glob("*.parts"))
    assert "complete already" in call_script(SCRIPT, *arguments(whole, workers=2)).stdout
    assert "donors [1, 3] there, [1, 2] here" in one_line_error(call_script(SCRIPT, *arguments(whole, donors=(1, 2))))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"donors": (0, 1)}, "--donors 0 1: give at least 1, and fewer than --n-documents 20"),
        ({"donors": 20}, "--donors 20: give at least 1, and fewer than --n-documents 20"),
        ({"L_fit_min": 16}, "only 2 values of L to fit, and 3 are needed"),
    ],
)
def test_bad_settings(tmp_path, changes, message):
    assert message in one_line_error(call_script(SCRIPT, *arguments(tmp_path / "out", **changes)))
    assert not (tmp_path / "out").exists()
