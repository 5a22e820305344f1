"""Exact information against dense linear algebra, the paper's check values, and the command line."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

from common.cli import UserError
from gaussian_synthetic import exact_mi
from gaussian_synthetic.exact import dense, families
from gaussian_synthetic.exact.families import Family, named
from gaussian_synthetic.exact_mi import bipartite_information, correlation, cross_rank, two_point_information
from tests.conftest import call_script, one_line_error
from tests.gaussian_synthetic.exact.test_families import KINDS

SCRIPT = "gaussian_synthetic/exact_mi.py"


def log_std(of: Family) -> np.ndarray:
    return families.conditional_std(of).log().numpy()


def test_a_cut_of_a_million_positions():
    """It agrees with exactly rounded sums (math.fsum) to 1e-8."""
    values = log_std(named("subvolume", 10))
    for ell in (7, 4096, 300_001):
        wanted = math.fsum(values[: len(values) - ell]) - math.fsum(values[ell:])
        assert bipartite_information(values, ell) == pytest.approx(wanted, abs=1e-8)


def test_correlations_of_all_positions():
    of = KINDS["n = 5, positive coupling"]
    first, second = (some.ravel() for some in np.meshgrid(np.arange(of.L), np.arange(of.L), indexing="ij"))
    wanted = dense.covariance(of)[first, second]
    np.testing.assert_allclose(correlation(of, first, second), wanted, rtol=0, atol=1e-13)
    information = two_point_information(of, first, second)  # that of a position with itself is infinite
    assert (np.isinf(information) == (first == second)).all()
    assert two_point_information(of, 0, 5) == two_point_information(of, np.array([0]), np.array([5]))
    assert bipartite_information(families.conditional_std(of).log(), 3) > 0  # a tensor serves, too


def test_no_such_cut_or_position():
    of = named("subvolume", 2)
    for ell in (0, 16, -3, [3, 17]):
        with pytest.raises(UserError, match="no cut at ell"):
            bipartite_information(log_std(of), ell)
    for pair in ([0, 16], [-1, 3]):
        with pytest.raises(UserError, match="positions must lie between 0 and 15"):
            correlation(of, *np.array(pair)[:, None])


@pytest.mark.parametrize(("name", "ranks"), [("subvolume", [1, 5, 16, 49, 148]), ("logarithmic", [1, 3, 5, 7, 9])])
def test_ranks(name, ranks):
    assert [cross_rank(dense.covariance(named(name, i)), 4**i // 2) for i in (1, 2, 3, 4, 5)] == ranks


def test_every_csv_of_a_run(tmp_path):
    done = call_script(SCRIPT, "--out", tmp_path, "--layers", 1, 2, 3, 4, "--ell", 1, 5, 100, "--copies", 2)
    assert done.returncode == 0, done.stderr
    tables = {path.stem: pd.read_csv(path) for path in tmp_path.glob("*.csv")}
    assert set(tables) == {"gaussian_mi", "two_point", "rank", "fit"}
    mi, rank = tables["gaussian_mi"], tables["rank"]
    assert mi.columns.tolist() == ["family", "copies", "L", "ell", "mi_nats"]
    cuts = {4: [1, 2], 16: [1, 5, 8], 64: [1, 5, 32], 256: [1, 5, 100, 128]}
    assert mi.groupby("L")["ell"].apply(list).to_dict() == cuts
    assert rank.groupby("L")["ell"].apply(list).to_dict() == cuts
    assert rank.query("L == 256 and ell == 128")["rank"].tolist() == [2 * 49]
    sigma = dense.covariance(named("subvolume", 4))
    assert mi["mi_nats"].iloc[-2] == pytest.approx(2 * dense.mutual_information(sigma, 100), abs=1e-8)
    pairs = tables["two_point"]
    assert pairs[["L", "i", "j"]].to_numpy().tolist() == [[L, 1, L] for L in cuts]
    ends = np.array([dense.covariance(named("subvolume", layers))[0, -1] for layers in (1, 2, 3, 4)])
    np.testing.assert_allclose(pairs["mi_nats"], -np.log1p(-(ends**2)), rtol=1e-6)  # for two copies
    fit = tables["fit"].query("law == 'local_power'")
    assert fit["value"].iloc[-1] == pytest.approx(math.log(mi["mi_nats"].iloc[-1] / mi["mi_nats"].iloc[7], 4))
    assert json.loads((tmp_path / "fit.json").read_text())["settings"]["copies"] == 2


@pytest.mark.parametrize(
    ("name", "law", "parameter", "wanted"),
    [
        ("subvolume", "power_ols", "beta", math.log(3, 4)),
        ("logarithmic", "logarithm_ols", "B", 0.0249 / math.log(4)),
    ],
)
def test_lines_through_the_exact_curves(tmp_path, name, law, parameter, wanted):
    layers = range(1, 9)
    done = call_script(SCRIPT, "--family", name, "--out", tmp_path, "--layers", *layers, "--rank-layers", 0)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "rank.csv").exists()
    fit = pd.read_csv(tmp_path / "fit.csv").set_index(["law", "parameter"])
    assert fit.loc[(law, parameter), "value"] == pytest.approx(wanted, rel=2e-3)
    assert fit.loc[(law, parameter), "L_min"] == 64
    # The family's own law predicts the longest length, the other one does not.
    other = {"power_ols": "logarithm_ols", "logarithm_ols": "power_ols"}[law]
    missed = fit["heldout_error"].abs().groupby("law").first()
    assert missed[law] < 0.01
    assert missed[other] > 5 * missed[law]
    assert set(fit.index[fit["selected"]].get_level_values("law")) == {law}


def test_logarithm_by_hand():
    """A line through (0, 1), (1, 3), (2, 4), (3, 8) in ln L; one through the first three predicts 17/3 for the last."""
    rows = pd.DataFrame(exact_mi.logarithm_rows(np.exp(np.arange(4.0)), np.array([1.0, 3, 4, 8])))
    assert rows["parameter"].tolist() == ["A", "B"]
    np.testing.assert_allclose(rows["value"], [0.7, 2.2])
    np.testing.assert_allclose(rows["heldout_error"], 17 / 3 / 8 - 1)


def test_a_family_of_ones_own(tmp_path):
    flags = ["--family", "mine", "--k", 2, "--n", 3, "--layers", 4, "--rank-layers"]
    for layers in (4, 3):
        done = call_script(SCRIPT, "--out", tmp_path, *flags, layers)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "rank.csv").exists() == (layers == 4)  # that of an earlier call is removed
    found = pd.read_csv(tmp_path / "gaussian_mi.csv")
    sigma = dense.covariance(families.Family(4, 2, 3))
    assert found["family"].tolist() == ["mine"]
    assert found["mi_nats"].iloc[0] == pytest.approx(dense.mutual_information(sigma, 40), abs=1e-8)
    assert not (tmp_path / "fit.csv").exists()  # no line through one length


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--k", 2], "--family subvolume is the paper's"),
        (["--n", 3], "--family subvolume is the paper's"),
        (["--layers", 2, "--ell", 16], "--ell 16: must be from 1 to L − 1 = 15"),
        (["--layers", 2, "--ell", 0], "--ell 0: must be from 1"),
        (["--copies", 0], "--copies 0: must be at least 1"),
        (["--layers", 25], "the conditionals of 1,125,899,906,842,624 positions need"),
        (["--layers", 9, "--rank-layers", 9], "the covariance of 262,144 positions need"),
    ],
)
def test_bad_input(tmp_path, flags, said):
    out = tmp_path / "out"
    assert said in one_line_error(call_script(SCRIPT, "--out", out, *flags))
    assert not out.exists()
