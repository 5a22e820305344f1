from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks import entropy
from tests.conftest import call_script, one_line_error

COLUMNS = ["distribution", "vocabulary", "exponent", "n_samples", "estimator", "entropy_true_nats", "mean_nats"]
COLUMNS += ["bias_nats", "bias_stderr_nats", "rmse_nats", "replications"]
SMALL = ("--vocabularies", 300, "--exponents", 1.0, "--n-samples", 200, 20000, "--replications", 20)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> pd.DataFrame:
    out = tmp_path_factory.mktemp("entropy") / "entropy.csv"
    done = call_script("benchmarks/entropy.py", *SMALL, "--out", out)
    assert done.returncode == 0, done.stderr
    assert out.with_suffix(".json").exists()
    return pd.read_csv(out)


def test_table(table):
    assert list(table.columns) == COLUMNS
    cells = table[["distribution", "vocabulary", "n_samples", "estimator"]]
    assert not cells.duplicated().any()
    assert len(table) == 2 * 2 * 3
    law = stats.zipfian(1.0, 300)
    truth = stats.entropy(law.pmf(np.arange(1, 301)))
    for kind, vocabulary, wanted in (("tokens", 300, truth), ("pairs", 300**2, 2 * truth)):
        rows = table[table["distribution"] == kind]
        assert (rows["vocabulary"] == vocabulary).all()
        assert rows["entropy_true_nats"].to_numpy() == pytest.approx(wanted, abs=1e-6)
    assert (table["mean_nats"] - table["entropy_true_nats"]).to_numpy() == pytest.approx(table["bias_nats"], abs=1e-6)
    # rmse² = bias² + variance · (n − 1)/n, and the variance is n times the squared error of the mean.
    wanted = np.sqrt(table["bias_nats"] ** 2 + 19 * table["bias_stderr_nats"] ** 2)
    assert table["rmse_nats"].to_numpy() == pytest.approx(wanted, abs=1e-5)


def test_who_wins(table):
    """Where outcomes are rare: Grassberger, then Miller and Madow. All converge to the truth, which is known."""
    bias = table.pivot(index=["distribution", "n_samples"], columns="estimator", values="bias_nats")
    for rare in (("tokens", 200), ("pairs", 200), ("pairs", 20000)):
        row = bias.loc[rare].abs()
        assert row["grassberger"] < row["miller_madow"] < row["naive"], rare
    errors = table.set_index(["distribution", "n_samples", "estimator"])["bias_stderr_nats"]
    for estimator in ("grassberger", "miller_madow"):
        assert abs(bias.loc["tokens", 20000][estimator]) < 4 * errors["tokens", 20000, estimator]


def test_pairs_are_independent_tokens():
    p = entropy.zipf(1.0, 3)
    assert p == pytest.approx(np.array([6, 3, 2]) / 11)
    occurrences, types = entropy.draw_counts(p, True, 200_000, np.random.default_rng(0))
    counts = np.sort(np.repeat(occurrences, types))
    assert counts == pytest.approx(np.sort(np.outer(p, p).ravel()) * 200_000, abs=5 * math.sqrt(200_000 / 4))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--out", "table.txt"), "give the name of a .csv file"),
        (("--vocabularies", 1), "--vocabularies: give one or more, of at least 2"),
        (("--exponents", -0.5), "of at least 0"),
        (("--n-samples", 0), "of at least 1"),
        (("--replications", 1), "needs at least 2"),
    ],
)
def test_bad_input(flags, message):
    assert message in one_line_error(call_script("benchmarks/entropy.py", *flags))
