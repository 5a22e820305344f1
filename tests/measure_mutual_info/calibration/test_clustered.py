from __future__ import annotations

import functools
import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from common.powerlaw import covariance_of_mean, fit_law
from measure_mutual_info.calibration import bipartite
from measure_mutual_info.calibration.clustered import INTERVALS, Settings, slopes
from measure_mutual_info.calibration.processes import NoisySantaFe
from measure_mutual_info.estimate_bipartite import bootstrap_power, by_book
from tests.conftest import call_script, flags_of, one_line_error

SCRIPT = "measure_mutual_info/calibration/clustered.py"
SMALL = {"n_documents": 40, "books": (4, 20), "replications": 3, "bootstrap": 5, "L_max": 32, "L_fit_mins": (4, 8)}
SMALL |= {"pool_documents": 1000}
CFG, LENGTHS = Settings(**SMALL), np.array([4, 8, 16, 32])


arguments = functools.partial(flags_of, **SMALL)


def terms_of(process, books: int, seed: int, estimator: str = "direct") -> tuple[pd.DataFrame, pd.Series]:
    book = np.repeat(np.arange(books), 40 // books)
    terms = bipartite.document_terms(CFG.calibration(), process, "exact", 40, seed, book=book)[estimator]
    return terms, pd.Series(book, index=terms.index)


@pytest.mark.parametrize("books", [4, 20])
def test_three_intervals_of_the_slope(books):
    terms, book = terms_of(NoisySantaFe(0.5, 0.1), books, 1)
    found = slopes(terms, book, 8, 20, 3)
    rows = by_book(terms, book)
    for i, of in enumerate((terms, rows)):
        values = of.to_numpy()[:, 1:]
        covariance, shrinkage = covariance_of_mean(values)
        fit = fit_law("power", LENGTHS[1:], values.mean(axis=0), covariance, len(values), shrinkage)
        assert found[i].tolist() == pytest.approx(fit.parameters["beta"])
    fitted = int(books >= 20)  # from MIN_BOOKS = 20 on, the rows of books are resampled
    values, units = (terms, rows)[fitted].to_numpy()[:, 1:], (book, rows.index)[fitted].to_numpy()
    boot = bootstrap_power(LENGTHS[1:], values, units, lambda drawn: 0.0, 20, 3)["power", "beta"]
    assert found[2].tolist() == pytest.approx([found[fitted, 0], *boot])
    assert np.isfinite(found).all()


def test_no_fit_is_nan():
    """Two books are too few for a covariance of three lengths; terms that scatter around 0 have no power law."""
    terms, book = terms_of(NoisySantaFe(0.5, 0.1), 2, 0)
    assert np.isfinite(slopes(terms, book, 8, 5, 0)).all(axis=1).tolist() == [True, False, True]
    assert np.isnan(slopes(terms - terms.mean(), book, 8, 5, 0)).all()


def test_whole_run(tmp_path):
    done = call_script(SCRIPT, *arguments(tmp_path))
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "clustered.csv")
    cell = ["process", "estimator", "books", "quantity", "interval"]
    assert len(table) == 2 * 2 * 2 * (2 + 2 * len(INTERVALS))
    assert not table.duplicated([*cell, "L_fit_min"]).any()
    assert (table["replications"] == 3).all()
    table = table.set_index(cell).sort_index()

    process, mi = NoisySantaFe(0.5, 0.1), NoisySantaFe(0.5, 0.1).mutual_information(16, 32)
    found = {"documents": [], "books": []}
    for seed in range(3):
        values = terms_of(process, 20, seed)[0].to_numpy()[:, -1]
        sums = (values - values.mean()).reshape(20, 2).sum(axis=1)
        of_books = math.sqrt((sums**2).sum() * 20 / 19) / 40  # the cluster-robust error of a mean
        found["documents"].append((values.mean(), student.ppf(0.975, 39) * values.std(ddof=1) / math.sqrt(40)))
        found["books"].append((values.mean(), student.ppf(0.975, 19) * of_books))
    for interval, rows in found.items():
        mean, half = np.transpose(rows)
        row = table.loc[(process.name, "direct", 20, "mi", interval)]
        assert (row["truth"], row["L_tokens"]) == (pytest.approx(mi, rel=1e-5), 32)
        assert row[["mean", "mean_half_width"]].tolist() == pytest.approx([mean.mean(), half.mean()], rel=1e-4)
        assert row["coverage"] == pytest.approx((np.abs(mean - mi) <= half).mean(), rel=1e-5)

    pool = bipartite.document_terms(CFG.calibration(), process, "exact", 1000, 0, pool=True)["direct"]
    exact = np.array([process.mutual_information(L // 2, L) for L in LENGTHS])
    for first, skipped in ((4, 0), (8, 1)):
        covariance = np.cov(pool.to_numpy()[:, skipped:].T) / 1000
        wanted = fit_law("power", LENGTHS[skipped:], exact[skipped:], covariance).parameters["beta"][0]
        truth = table.loc[(process.name, "direct")].query("L_fit_min == @first")["truth"]
        assert truth.to_numpy() == pytest.approx(wanted, rel=1e-5)
        wanted = [slopes(*terms_of(process, 4, seed), first, 5, seed) for seed in range(3)]
        for interval, of in zip(INTERVALS, np.swapaxes(wanted, 0, 1), strict=True):
            rows = table.loc[[(process.name, "direct", 4, "beta", interval)]]
            row = rows.query("L_fit_min == @first").iloc[0]
            assert row["mean"] == pytest.approx(pd.Series(of[:, 0]).mean(), rel=1e-4, nan_ok=True)
            half = pd.Series(of[:, 2] - of[:, 1]).mean() / 2
            assert row["mean_half_width"] == pytest.approx(half, rel=1e-4, nan_ok=True)
            half = np.nanmedian(of[:, 2] - of[:, 1]) / 2
            assert row["median_half_width"] == pytest.approx(half, rel=1e-4)

    assert not list(tmp_path.glob("*.parts"))
    assert "complete already" in call_script(SCRIPT, *arguments(tmp_path, workers=2)).stdout
    assert "bootstrap 5 there, 6 here" in one_line_error(call_script(SCRIPT, *arguments(tmp_path, bootstrap=6)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"books": (1, 4)}, "--books 1: give at least 2, at most --n-documents 40"),
        ({"books": 41}, "--books 41: give at least 2, at most --n-documents 40"),
        ({"bootstrap": 1}, "--bootstrap 1: must be at least 2"),
        ({"L_fit_mins": (4, 16)}, "only 2 values of L to fit, and 3 are needed"),
    ],
)
def test_bad_settings(tmp_path, changes, message):
    assert message in one_line_error(call_script(SCRIPT, *arguments(tmp_path / "out", **changes)))
    assert not (tmp_path / "out").exists()
