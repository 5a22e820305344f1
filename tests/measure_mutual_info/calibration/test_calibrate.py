from __future__ import annotations

import functools
import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import linregress
from scipy.stats import t as student

from common.powerlaw import covariance_of_mean, fit_law
from measure_mutual_info.calibration import bipartite
from measure_mutual_info.calibration.processes import BernoulliUniform, MarkovChain, NoisySantaFe
from tests.conftest import ROOT, call_script, flags_of, one_line_error

SCRIPT = "measure_mutual_info/calibration/bipartite.py"
SMALL = {
    "processes": ("bernoulli",),
    "n_documents": (20, 50),
    "replications": 12,
    "replications_misspecified": 3,
    "L_max": 64,
    "L_fit_min": 8,
    "pool_documents": 2000,
}
CFG, POINTS = bipartite.Settings(**SMALL), [4, 8, 16, 32, 64]


arguments = functools.partial(flags_of, **SMALL)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("calibration")
    done = call_script(SCRIPT, *arguments(out))
    assert done.returncode == 0, done.stderr
    assert "bernoulli, fits over L = 8 to 64" in done.stdout
    return out / "bernoulli"


def read(folder, name) -> pd.DataFrame:
    table = pd.read_csv(folder / f"{name}.csv")
    return table.fillna({"selected": ""}) if name == "calibration_fit" else table


def test_estimates(whole):
    table = read(whole, "calibration")
    columns = "process predictor estimator L_tokens n_documents seed mi_nats stderr_nats mi_true_nats covered"
    assert list(table.columns) == columns.split()
    kinds = table.groupby(["predictor", "estimator", "n_documents"], sort=False)["seed"].nunique().to_dict()
    assert kinds == {("exact", estimator, n): 12 for n in (20, 50) for estimator in bipartite.ESTIMATORS} | {
        (predictor, estimator, 50): 3
        for predictor in ("tempered", "sharpened", "limited_context", "wrong_bos")
        for estimator in bipartite.ESTIMATORS
    }
    assert not table.duplicated(["predictor", "estimator", "n_documents", "seed", "L_tokens"]).any()
    process = BernoulliUniform()
    for L, rows in table.groupby("L_tokens"):
        np.testing.assert_allclose(rows["mi_true_nats"], process.mutual_information(L // 2, L), rtol=1e-5)
    half = student.ppf(0.975, table["n_documents"] - 1) * table["stderr_nats"]
    covered = (table["mi_nats"] - table["mi_true_nats"]).abs() <= half
    assert (table["covered"] == covered).all()
    assert 0 < covered.sum() < len(table)


def test_a_row_is_what_its_documents_give(whole):
    """The mean and standard error of the terms of its documents, which are drawn again from the seed."""
    process = BernoulliUniform()
    keys = ["predictor", "estimator", "n_documents", "seed", "L_tokens"]
    table = read(whole, "calibration").set_index(keys).sort_index()
    for predictor, n, seed in (("exact", 20, 3), ("sharpened", 50, 2)):
        terms = bipartite.document_terms(CFG, process, predictor, n, seed)
        for estimator in bipartite.ESTIMATORS:
            values = terms[estimator].to_numpy()
            rows = table.loc[predictor, estimator, n, seed]
            np.testing.assert_allclose(rows["mi_nats"], values.mean(axis=0), rtol=1e-5)
            np.testing.assert_allclose(rows["stderr_nats"], values.std(axis=0, ddof=1) / math.sqrt(n), rtol=1e-3)


def test_replications_are_new_documents_and_predictors_share_them():
    def terms(*which: object, **more: bool) -> np.ndarray:
        return bipartite.document_terms(CFG, MarkovChain(), *which, **more)["direct"].to_numpy()

    one = terms("exact", 20, 0)
    assert (terms("exact", 20, 0) == one).all()
    assert (terms("limited_context", 20, 0) == one).all()  # a context of 64 tokens covers these documents
    for other in (terms("exact", 20, 1), terms("exact", 21, 0)[:20], terms("exact", 20, 0, pool=True)):
        assert (other != one).any()


def test_fits(whole):
    table = read(whole, "calibration_fit")
    columns = "process predictor estimator n_documents seed method beta lo95 hi95 beta_true covered chi2 p_value"
    assert list(table.columns) == [*columns.split(), "selected"]
    committed = ROOT / "results" / "calibration" / "markov" / "calibration_fit.csv"
    assert list(table.columns) == list(pd.read_csv(committed, nrows=0).columns)
    covered = (table["lo95"] <= table["beta_true"]) & (table["beta_true"] <= table["hi95"])
    assert (table["covered"] == covered).all()
    assert (table["selected"].isin(["power", "logarithm"]) == (table["method"].eq("gls") & table["beta"].notna())).all()

    values = bipartite.document_terms(CFG, BernoulliUniform(), "exact", 50, 1)["direct"].to_numpy()[:, 1:]  # L from 8
    L, (covariance, shrinkage) = np.array(POINTS[1:]), covariance_of_mean(values)
    fits = {law: fit_law(law, L, values.mean(axis=0), covariance, 50, shrinkage) for law in ("power", "logarithm")}
    row = table[(table["predictor"] == "exact") & (table["estimator"] == "direct")]
    row = row[(row["n_documents"] == 50) & (row["seed"] == 1)].set_index("method")
    found = row.loc["gls", ["beta", "lo95", "hi95", "chi2", "p_value"]].astype(float)
    power = fits["power"]
    np.testing.assert_allclose(found, [*power.parameters["beta"], power.chi2, power.p_value], rtol=1e-3)
    assert row.loc["gls", "selected"] == min(fits, key=lambda law: fits[law].chi2)
    line = linregress(np.log(L), np.log(values.mean(axis=0)))
    half = student.ppf(0.975, 2) * line.stderr
    found = row.loc["ols", ["beta", "lo95", "hi95"]].astype(float)
    np.testing.assert_allclose(found, [line.slope, line.slope - half, line.slope + half], rtol=1e-4)
    assert row.loc["ols", "selected"] == ""


def test_true_slopes(whole):
    """ols: the straight line through the exact curve. gls: a power law weighted by the covariance of many documents."""
    every = read(whole, "calibration_fit").groupby(["estimator", "method"])["beta_true"].unique()
    truth = every["direct"]
    L = np.array(POINTS[1:])
    mi = np.array([BernoulliUniform().mutual_information(n // 2, n) for n in L])
    assert truth["ols"][0] == pytest.approx(np.polyfit(np.log(L), np.log(mi), 1)[0], rel=1e-5)
    pools = [bipartite.document_terms(CFG, BernoulliUniform(), "exact", 1000, seed, pool=True) for seed in (0, 1)]
    for estimator in ("direct", "block_entropy"):
        covariance = np.cov(np.concatenate([pool[estimator].to_numpy() for pool in pools])[:, 1:].T) / 2000
        gls = fit_law("power", L, mi, covariance).parameters["beta"][0]
        assert every[estimator, "gls"][0] == pytest.approx(gls, rel=1e-5)
        assert abs(gls - truth["ols"][0]) > 0.005, "the curve is bent, so weights matter"
    assert every.map(len).eq(1).all()
    assert every["block_entropy", "gls"][0] != truth["gls"][0] == every["vclub", "gls"][0]
    assert every["block_entropy", "ols"][0] == truth["ols"][0] == every["vclub", "ols"][0]


def test_coverage_sums_up_the_other_two(whole):
    """Each row summarises its own replications; `summed_up` itself is tested in test_calibrate_two_point.py."""
    summary, estimates, fits = (read(whole, name) for name in ("coverage", "calibration", "calibration_fit"))
    assert len(summary) == 3 * (2 + 4) * (len(POINTS) + 2)
    for _, row in summary[summary["n_documents"] == 50].iterrows():
        part, value, true = estimates[estimates["L_tokens"] == row["L_tokens"]], "mi_nats", "mi_true_nats"
        if row["quantity"] != "mi":
            part, value, true = fits[fits["method"] == row["quantity"].removeprefix("beta_")], "beta", "beta_true"
        kind = ["predictor", "estimator", "n_documents"]
        mine = part[(part[kind] == row[kind]).all(axis=1)]
        assert row["replications"] == len(mine) == (12 if row["predictor"] == "exact" else 3)
        assert row["truth"] == pytest.approx(mine[true].iloc[0], rel=1e-5)
        assert row["mean"] == pytest.approx(mine[value].mean(), rel=1e-4, nan_ok=True)
        assert row["coverage"] == pytest.approx(mine["covered"].mean(), rel=1e-5)
        for law in ("logarithm", "power") if row["quantity"] == "beta_gls" else ():
            assert row[f"selected_{law}"] == pytest.approx((mine["selected"] == law).mean(), rel=1e-5)
        if row["quantity"] == "mi":
            assert row["mean_stderr"] == pytest.approx(mine["stderr_nats"].mean(), rel=1e-3)


def test_run_again_reuses_and_other_settings_are_refused(whole):
    facts = json.loads((whole / "coverage.json").read_text())
    assert facts["window_L_tokens"] == POINTS[1:]
    assert not list(whole.glob("*.parts"))
    before = (whole / "coverage.csv").stat().st_mtime_ns
    assert "complete already" in call_script(SCRIPT, *arguments(whole.parent, workers=2)).stdout
    refused = one_line_error(call_script(SCRIPT, *arguments(whole.parent, L_fit_min=16)))
    assert "L_fit_min 8 there, 16 here" in refused
    assert (whole / "coverage.csv").stat().st_mtime_ns == before


def test_a_replication_without_a_fit_is_a_row(tmp_path):
    """Two documents are too few for a covariance, so gls has no fit."""
    changes = {"n_documents": (2,), "predictors": "exact"}
    assert call_script(SCRIPT, *arguments(tmp_path, **changes)).returncode == 0
    fits = read(tmp_path / "bernoulli", "calibration_fit")
    gls = fits[fits["method"] == "gls"]
    assert len(gls) == 3 * 12
    assert gls["beta"].isna().all()
    assert not gls["covered"].any()
    summary = read(tmp_path / "bernoulli", "coverage").set_index(["estimator", "quantity"])
    assert summary.loc[("direct", "beta_gls"), "failed"] == 12
    assert summary.loc[("direct", "beta_gls"), "coverage"] == 0


def test_estimators_find_what_they_should():
    """1,000 documents: direct and block entropy find I plus the cost of a wrong start, vCLUB I plus its overshoot."""
    chain = MarkovChain()
    truth, pi = chain.mutual_information(1, 2), chain.stationary
    vclub = truth + float(pi @ np.log(pi / np.array(chain.P)) @ pi)  # I + KL(p_X p_Y || p_XY)
    for predictor, start in (("exact", pi), ("wrong_bos", pi[::-1])):
        found = bipartite.document_terms(CFG, chain, predictor, 1000, 0)
        of_start = truth + float(pi @ np.log(pi / start))
        for estimator, wanted in (("direct", of_start), ("block_entropy", of_start), ("vclub", vclub)):
            mean, error = found[estimator].to_numpy().mean(axis=0), found[estimator].to_numpy().std(axis=0) / 1000**0.5
            assert (np.abs(mean - wanted) < 4 * error).all(), (predictor, estimator)
            assert (error < 0.06).all() or estimator == "block_entropy"

    santa_fe = NoisySantaFe(0.75, 0.1, n_keys=500)
    cfg = bipartite.Settings(L_max=512)
    exact = np.array([santa_fe.mutual_information(ell, L) for ell, L in cfg.points])
    exact_terms, short_terms = (
        bipartite.document_terms(cfg, santa_fe, predictor, 1000, 0) for predictor in ("exact", "limited_context")
    )
    for estimator in ("direct", "block_entropy"):
        terms = exact_terms[estimator].to_numpy()
        assert (np.abs(terms.mean(axis=0) - exact) < 4 * terms.std(axis=0) / math.sqrt(1000)).all()
    assert (exact_terms["vclub"].mean() > 1.5 * exact).all()
    short = short_terms["direct"].mean().to_numpy()
    assert short[-1] == pytest.approx(short[-2], rel=0.1), "64 tokens of context: no more to be had from L = 256 on"
    assert exact[-1] > 1.5 * exact[-2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilons": (0.1, 0.0)}, "--epsilons 0: give at least 0.001, at most 0.45"),
        ({"n_documents": (100, 1)}, "--n-documents 1: give at least 2"),
        ({"replications": 0}, "--replications 0: give at least 1"),
        ({"L_fit_min": 32}, "only 2 values of L to fit, and 3 are needed: lower --L-fit-min or raise --L-max"),
    ],
)
def test_bad_settings(tmp_path, changes, message):
    assert message in one_line_error(call_script(SCRIPT, *arguments(tmp_path / "out", **changes)))
    assert not (tmp_path / "out").exists()
