"""Fits, windows and resampled books of the bipartite estimates, for made-up power laws."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from common.powerlaw import GROWTH_LAWS
from measure_mutual_info.counting.entropy import grassberger_entropy
from measure_mutual_info.estimate_bipartite import (
    FIT_COLUMNS,
    MIN_BOOKS,
    SWEEP_COLUMNS,
    _entropy_shift,
    at_ratio,
    bootstrap_power,
    by_book,
    fit_ratio,
    per_document_terms,
)
from tests.measure_mutual_info.made_up import power_scores, save_counts, save_shares
from tests.measure_mutual_info.test_estimate_bipartite import run


def test_laws_windows_and_books_through_the_command_line(tmp_path):
    printed = run(tmp_path, power_scores(8, 10), "--bootstrap", 50)
    fits = pd.read_csv(tmp_path / "fit.csv")
    assert fits.columns.tolist() == FIT_COLUMNS
    direct = fits[fits["estimator"] == "direct"]
    assert direct["law"].drop_duplicates().tolist() == [*GROWTH_LAWS, "power_ols"]
    assert direct.set_index("law").loc["broken_power", "parameter"].tolist() == ["A", "beta_1", "beta_2", "L_break"]
    (selected,) = direct.loc[direct["selected"], "law"].unique()
    assert selected == direct.loc[direct["aic"].idxmin(), "law"]
    power = direct[direct["law"] == "power"].set_index("parameter")
    assert power.loc["beta", "lo95"] < 0.6 < power.loc["beta", "hi95"]
    assert power.loc["beta", "boot_lo95"] < 0.6 < power.loc["beta", "boot_hi95"]
    assert power.loc["A", "boot_lo95"] < 3 < power.loc["A", "boot_hi95"]
    assert (power["boot_clusters"] == "8 books").all()
    assert (power["scale"] == "log").all()
    assert direct[direct["law"] == "power_ols"][["boot_lo95", "boot_hi95"]].notna().all(axis=None)
    assert direct[direct["law"] == "saturating"][["boot_lo95", "boot_hi95"]].isna().all(axis=None)
    assert 0 < power.loc["beta", "p_value"] < 1
    assert abs(power.loc["beta", "heldout_error"]) < 0.3

    windows = pd.read_csv(tmp_path / "sweep.csv")
    assert windows.columns.tolist() == SWEEP_COLUMNS
    assert set(windows["estimator"]) == {"direct", "vclub", "block_entropy"}
    windows = windows[windows["estimator"] == "direct"].set_index(["L_min", "L_max"])
    assert len(windows) == 9 * 8 / 2
    mi = pd.read_csv(tmp_path / "bipartite.csv").set_index(["estimator", "L_tokens"])["mi_nats"]["direct"]
    assert windows.loc[(64, 128), "beta"] == pytest.approx(math.log2(mi[128] / mi[64]))
    whole = [power.loc["A", "value"], *power.loc["beta", ["value", "lo95", "hi95"]]]
    assert windows.loc[(4, 1024), ["A", "beta", "lo95", "hi95"]].tolist() == pytest.approx(whole)

    information, exponent = (tmp_path / "summary.txt").read_text(encoding="utf-8").splitlines()
    assert printed.splitlines()[-2:] == [information, exponent]
    assert "(block_entropy)" in information
    table = pd.read_csv(tmp_path / "bipartite.csv").query("L_tokens == 1024 and estimator == 'direct'")
    error = table["stderr_by_book_nats"].item()
    assert f"at L = 1024: {table['mi_nats'].item():.1f} ± {error:.1f} (direct)" in information
    row = power.loc["beta"]
    interval = f"{row['value']:.2f} [{row['lo95']:.2f}, {row['hi95']:.2f}]"
    assert f"{interval} (direct, L = 4 to 1024, p = {row['p_value']:.2f})" in exponent
    assert "95% interval by documents (too short for few books)" in exponent


def test_window_of_the_fits(tmp_path):
    printed = run(tmp_path, power_scores(1, 30), "--L-fit-min", 16, "--L-fit-max", 256, "--bootstrap", 20)
    assert "one book: the resampling is over its documents" in printed
    fits = pd.read_csv(tmp_path / "fit.csv")
    assert set(fits["L_min"]) == {16}
    assert set(fits["L_max"]) == {256}
    assert set(fits["boot_clusters"].dropna()) == {"30 documents"}
    windows = pd.read_csv(tmp_path / "sweep.csv")
    assert (windows["L_min"].min(), windows["L_max"].max()) == (16, 256)
    assert len(pd.read_csv(tmp_path / "bipartite.csv")) == 3 * 9


def test_books_that_differ_widen_the_resampled_interval_alone(tmp_path):
    scores = power_scores(6, 40, flavour=0.3)
    terms = per_document_terms(scores, "direct")
    L, values = at_ratio(terms, 2)
    units = scores.drop_duplicates("document").set_index("document")["book"][terms.index].to_numpy()
    interval = bootstrap_power(L, values, units, lambda drawn: 0.0, 200, seed=0)
    (power, *_), _ = fit_ratio(terms, 2)
    beta, low, high = power.parameters["beta"]
    assert np.mean(interval["power", "beta"]) == pytest.approx(beta, abs=1e-12)
    assert math.sqrt(math.prod(interval["power", "A"])) == pytest.approx(power.parameters["A"][0], rel=1e-12)
    width = np.diff(interval["power", "beta"])[0]
    assert width > 2 * (high - low)
    assert np.diff(interval["power_ols", "beta"])[0] > 2 * (high - low)


def test_fits_take_many_books_as_the_units(tmp_path):
    """From MIN_BOOKS books on, each book is a row: the same mean as over documents, and the cluster-robust error."""
    scores = power_scores(MIN_BOOKS, 3, flavour=0.3)
    last = scores["document"].isin([f"book0#{number:04d}" for number in range(1, 3)])
    scores = scores[~last]  # so that books differ in size
    terms, book = per_document_terms(scores, "direct"), scores.drop_duplicates("document").set_index("document")["book"]
    rows = by_book(terms, book)
    assert rows.mean().to_numpy() == pytest.approx(terms.mean().to_numpy())
    residuals = (terms - terms.mean()).groupby(book[terms.index]).sum()
    robust = np.sqrt((residuals**2).sum() * MIN_BOOKS / (MIN_BOOKS - 1)) / len(terms)  # Liang and Zeger, 1986
    assert (rows.std() / math.sqrt(MIN_BOOKS)).to_numpy() == pytest.approx(robust.to_numpy())
    run(tmp_path, scores, "--bootstrap", 0)
    table = pd.read_csv(tmp_path / "bipartite.csv").query("estimator == 'direct'")
    assert table["stderr_by_book_nats"].tolist() == pytest.approx(robust.tolist())
    assert (table["stderr_by_book_nats"] > table["stderr_nats"]).iloc[-1]
    fit = pd.read_csv(tmp_path / "fit.csv").query("estimator == 'direct' and law == 'power'").set_index("parameter")
    assert fit["boot_lo95"].isna().all()  # --bootstrap 0
    assert set(fit["fit_units"]) == {f"{MIN_BOOKS} books"}
    (wanted, *_), _ = fit_ratio(rows, 2)
    assert fit.loc["beta", ["value", "lo95", "hi95"]].tolist() == pytest.approx(wanted.parameters["beta"])
    whole = pd.read_csv(tmp_path / "sweep.csv").query("estimator == 'direct' and L_min == 4 and L_max == 1024").iloc[0]
    assert whole[["beta", "lo95", "hi95"]].tolist() == pytest.approx(wanted.parameters["beta"])
    assert "95% interval by books" in (tmp_path / "summary.txt").read_text(encoding="utf-8")


def test_what_each_book_costs(tmp_path):
    scores = power_scores(4, 2)
    scores.loc[scores["book"] == "book1", "logq_y_given_x_nats"] *= 0.5
    run(tmp_path, scores, "--bootstrap", 0)
    books = pd.read_csv(tmp_path / "books.csv").set_index("book")
    last = scores[scores["L_tokens"] == 1024].assign(term=lambda s: s["logq_y_given_x_nats"] - s["logq_y_nats"])
    by = last.groupby("book")
    assert books["mi_direct_nats"].to_dict() == pytest.approx(by["term"].mean().to_dict())
    loss = -by["logq_y_given_x_nats"].mean() / 512
    assert books["loss_nats_per_token"].to_dict() == pytest.approx(loss.to_dict())
    assert books["loss_nats_per_byte"].to_dict() == pytest.approx((loss / 3).to_dict())
    assert books.index[books["memorised"]].tolist() == ["book1"]


def test_two_gram_entropy_is_resampled_with_its_books(tmp_path):
    """If books differ in 2-gram entropy, resampling them changes Ĥ, and with it every term of direct_corrected."""
    scores, every = power_scores(5, 8), [f"book{i}" for i in range(5)]
    counts = save_counts(tmp_path / "counts.csv", [1, 2], [5000, 2500])
    entropy = grassberger_entropy(np.array([1, 2]), np.array([5000, 2500]))

    def width(books: list[str]) -> float:
        """Width of the resampled interval of β if the entropies of the books are −4 to 4 nats above the corpus's."""
        save_shares(counts, books, [2000] * 5, list(entropy + np.arange(-4, 5, 2)))
        printed = run(tmp_path, scores, "--counts", counts, "--bootstrap", 60)
        fits = pd.read_csv(tmp_path / "fit.csv").query("estimator == 'direct_corrected' and law == 'power_ols'")
        row = fits[fits["parameter"] == "beta"].iloc[0]
        assert ("leaves the 2-gram entropy as it is" in printed) == ("elsewhere" in books)
        return row["boot_hi95"] - row["boot_lo95"]

    assert width(every) > 1.3 * width([*every[:4], "elsewhere"])


def test_what_resampled_books_do_to_the_entropy():
    shares = pd.DataFrame({"ngrams": [100, 300, 600], "entropy_nats": [8.0, 9.0, 10.0]}, index=["a", "b", "elsewhere"])
    entropy = (800 + 2700 + 6000) / 1000
    shift = _entropy_shift(shares, np.array(["a", "b"]), entropy)
    assert shift(np.array([1, 1])) == pytest.approx(0, abs=1e-12)
    assert shift(np.array([2, 0])) == pytest.approx(0.8 * ((1600 + 6000) / 800 - entropy))


def test_documents_that_repeat_another_are_left_out(tmp_path):
    scores = power_scores(3, 3)
    copy = scores[scores["document"] == "book0#0001"]
    copy = copy.assign(document="copy", book="other", logq_y_given_other_x_nats=-9)
    printed = run(tmp_path, pd.concat([scores, copy]), "--bootstrap", 0)
    assert "10 documents, 1 left out with the same scores as another (the first: copy)" in printed
    assert set(pd.read_csv(tmp_path / "bipartite.csv")["n_documents"]) == {9}


def test_a_line_keeps_to_its_lengths_when_books_are_resampled():
    """The line leaves out a length with a negative estimate, even in resamplings where it is positive."""
    scores = power_scores(6, 10)
    terms = per_document_terms(scores, "direct")
    L, values = at_ratio(terms, 2)
    values = values - np.r_[values[:, 0].mean() + 0.01, np.zeros(8)]
    units = np.repeat(np.arange(6), 10)
    interval = bootstrap_power(L, values, units, lambda drawn: 0.0, 100, seed=0)["power_ols", "beta"]
    without = bootstrap_power(L[1:], values[:, 1:], units, lambda drawn: 0.0, 100, seed=0)["power_ols", "beta"]
    assert interval == pytest.approx(without, rel=1e-9)


def test_estimates_below_zero_and_documents_all_alike(tmp_path):
    """I is still reported; instead of a fit, the reason why there is none is printed."""
    scores = power_scores(3, 4)
    scores["logq_y_given_x_nats"], scores["logq_y_nats"] = scores["logq_y_nats"], scores["logq_y_given_x_nats"]
    printed = run(tmp_path, scores, "--bootstrap", 10)
    assert "0 of 9 points lie 3 standard errors above 0, and 3 are needed" in printed
    table, fits, windows = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("bipartite", "fit", "sweep"))
    assert (table.loc[table["estimator"] == "direct", "mi_nats"] < 0).all()
    assert set(fits["estimator"]) == set(windows["estimator"]) == {"vclub"}

    alike = power_scores(3, 4)
    alike["logq_y_given_x_nats"] = alike["logq_y_nats"] + alike["L_tokens"] ** 0.5
    assert "all documents have the same term at L = " in run(tmp_path, alike, "--bootstrap", 10)
