"""Two-point information of processes for which it is known exactly, and every fit against an independent method."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import stdtrit

from common.powerlaw import NoFitError
from measure_mutual_info.calibration.processes import MarkovChain
from measure_mutual_info.counting import entropy
from measure_mutual_info.counting.entropy import grassberger_g
from measure_mutual_info.estimate_two_point import (
    FIT_COLUMNS,
    KINDS,
    LAWS,
    SWEEP_COLUMNS,
    TWO_POINT_COLUMNS,
    covariance_is_known,
    fit_all,
    fit_eq_b15,
    fit_weighted,
    plateau,
    read_information,
    read_pairs,
    unit_values,
)
from tests.conftest import call_script, one_line_error

SCRIPT = "measure_mutual_info/estimate_two_point.py"
D = 2 ** np.arange(11)


def count(books: list[np.ndarray], distances: list[int], vocabulary: int):
    """What count_ngrams.py writes: counts of counts, and the pairs and entropy of each book, by kind and distance."""
    counts, shares = {kind: {} for kind in KINDS}, {}
    for d in distances:
        left, right = (np.concatenate([book[part] for book in books]) for part in (np.s_[:-d], np.s_[d:]))
        ngrams = np.array([max(len(book) - d, 0) for book in books])
        owner = np.repeat(np.arange(len(books)), ngrams)
        for kind, keys in zip(KINDS, (left, right, left * vocabulary + right), strict=True):
            repeats = np.bincount(keys)
            counts[kind][d] = np.unique(repeats[repeats > 0], return_counts=True)
            terms = math.log(len(owner)) - grassberger_g(np.maximum(repeats, 1))[keys]
            with np.errstate(invalid="ignore"):
                shares[kind, d] = ngrams, np.bincount(owner, terms, minlength=len(books)) / ngrams
    return counts, shares


def tables(books: list[np.ndarray], distances: list[int], vocabulary: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """counts.csv, with a row of 1-grams that the program must ignore, and counts_by_book.csv."""
    counts, shares = count(books, distances, vocabulary)
    names = {"source": "toy", "tokenizer": "org/tok"}
    rows = [names | {"kind": "ngram", "n_or_d": 1, "occurrences": 3, "types": 2}]
    by_book = []
    for kind in KINDS:
        for d, (occurrences, types) in counts[kind].items():
            key = names | {"kind": kind, "n_or_d": d}
            rows += [key | {"occurrences": n, "types": k} for n, k in zip(occurrences, types, strict=True)]
            by_book += [
                key | {"book": f"book {i}", "ngrams": n, "entropy_nats": h}
                for i, (n, h) in enumerate(zip(*shares[kind, d], strict=True))
            ]
    return pd.DataFrame(rows), pd.DataFrame(by_book)


def save(folder: Path, counts: pd.DataFrame, by_book: pd.DataFrame | None = None) -> Path:
    counts.to_csv(folder / "counts.csv", index=False)
    if by_book is not None:
        by_book.to_csv(folder / "counts_by_book.csv", index=False)
    return folder / "counts.csv"


CHAIN = MarkovChain()


# Processes whose information is known exactly


def test_shuffled_tokens_have_no_information_beside_the_plateau(tmp_path):
    """40 books of 5,000 tokens from Zipf's law: a plateau of some tenths of a nat, and without it 0 within errors."""
    rng, distances = np.random.default_rng(0), [1, 2, 4, 8, 16, 32]
    p = 1 / np.arange(1, 2001)
    books = list(rng.choice(2000, size=(40, 5000), p=p / p.sum()))
    counts = save(tmp_path, *tables(books, distances, 2000))
    done = call_script(SCRIPT, "--counts", counts, "--out", tmp_path, "--bootstrap", 0)
    assert done.returncode == 0, done.stderr
    rows = pd.read_csv(tmp_path / "two_point.csv").query("estimator == 'grassberger'")
    assert (rows["mi_nats"] > 0.1).all()
    assert rows["independent_nats"].to_numpy() == pytest.approx(rows["mi_nats"].to_numpy(), rel=0.03)
    assert (rows["mi_corrected_nats"].abs() <= stdtrit(39, 0.975) * rows["stderr_nats"]).all()
    assert json.loads((tmp_path / "two_point.json").read_text())["plateau_of"] == "constant"
    constant = pd.read_csv(tmp_path / "fit.csv").query("law == 'constant'").iloc[0]
    assert constant["p_value"] >= 0.05
    assert constant["lo95"] < constant["value"] < constant["hi95"]


# Single functions


def test_no_errors_from_one_unit():
    values = unit_values(np.array([[3, 3], [3, 0], [3, 0]]), np.arange(6.0).reshape(3, 2))
    assert np.isnan(values).tolist() == [[False, True]] * 3
    short = unit_values(np.array([[2, 1], [2, 0], [2, 3]]), np.array([[0.5, 1], [1, math.nan], [0, 2]]))
    assert short.mean(axis=0) == pytest.approx([0.5, 7 / 4])  # a book shorter than the second distance
    for pairs in ([[3, 3]], [[3, 0], [0, 3]]):
        with pytest.raises(NoFitError, match="needs two units that have pairs"):
            unit_values(np.array(pairs), np.ones((len(pairs), 2)))


def test_eq_b15_finds_exact_curves():
    fit = fit_eq_b15(D, 1.1 * D**-0.91 + 0.05)
    assert fit.law == "paper_eq_b15"
    assert [value for value, _, _ in fit.parameters.values()] == pytest.approx([1.1, 0.91, 0.05], rel=1e-5)
    assert list(fit.parameters) == ["A", "alpha", "C"]
    assert fit.heldout_error == pytest.approx(0, abs=1e-5)
    assert (fit.dof, fit.L_min, fit.L_max) == (8, 1, 1024)
    pure = fit_eq_b15(D, 1.1 * D**-0.91)
    assert pure.parameters["C"][0] == pytest.approx(0, abs=1e-6)
    assert pure.parameters["alpha"][0] == pytest.approx(0.91, rel=1e-3)
    with pytest.raises(NoFitError, match="1 of 11 points lie at or below 0"):
        fit_eq_b15(D, np.r_[np.ones(10), 0.0])
    with pytest.raises(NoFitError, match="2 points, and 3 are needed"):
        fit_eq_b15(D[:2], np.ones(2))


def test_eq_b15_is_the_least_of_a_fine_search():
    """No C on a fine grid, with the line fitted by polyfit, gives a smaller sum of squares."""
    rng = np.random.default_rng(0)
    for _ in range(8):
        mi = (0.7 * D**-0.8 + 0.03) * np.exp(0.1 * rng.standard_normal(11))
        fit = fit_eq_b15(D, mi)
        A, alpha, C = (value for value, _, _ in fit.parameters.values())
        cost = np.sum((np.log(mi - C) - np.log(A) + alpha * np.log(D)) ** 2)
        y = np.log(mi[:, None] - np.linspace(0, mi.min() * (1 - 1e-9), 2000))
        assert cost <= np.polyfit(np.log(D), y, 1, full=True)[1].min() * (1 + 1e-9)
        assert 0 <= C < mi.min()


def made_up(rng: np.random.Generator, units: int = 40, spread: float = 0.05) -> np.ndarray:
    """(units, 11) values around 1.1 d^−0.91 + 0.05; noise is correlated over d, and part of it is the same at all d."""
    correlation = 0.7 ** np.abs(np.subtract.outer(np.arange(11), np.arange(11)))
    noise = rng.standard_normal((units, 11)) @ np.linalg.cholesky(correlation).T + rng.standard_normal((units, 1))
    return 1.1 * D**-0.91 + 0.05 + spread * (0.3 + D**-0.5) * noise


TRUTH = {"A": 1.1, "alpha": 0.91, "C": 0.05}


def test_weighted_intervals_hold_the_truth():
    rng, inside = np.random.default_rng(0), Counter()
    for _ in range(200):
        fit = fit_weighted("power_plus_constant", D, made_up(rng))
        assert list(fit.parameters) == ["A", "alpha", "C"]
        inside.update(name for name, (_, low, high) in fit.parameters.items() if low <= TRUTH[name] <= high)
    assert all(0.92 <= inside[name] / 200 <= 0.985 for name in TRUTH), inside


def test_resampled_intervals_hold_the_truth():
    rng, inside = np.random.default_rng(1), Counter()
    for _ in range(30):
        values = made_up(rng, spread=0.02)
        fits, intervals, _ = fit_all(D, values.mean(axis=0), values, 12, 0, ["power_plus_constant_wls"])
        for fit in fits:  # that law, and the paper's
            for name, (value, *_) in fit.parameters.items():
                low, high = intervals[fit.law, name]
                assert (math.sqrt(low * high) if name == "A" else (low + high) / 2) == pytest.approx(value)
                inside[fit.law, name] += low <= TRUTH[name] <= high
    assert len(inside) == 6
    assert min(inside.values()) >= 0.83 * 30, inside


def test_few_units_weigh_by_their_variances():
    values = made_up(np.random.default_rng(4), units=4, spread=0.01)
    fit = fit_weighted("power_plus_constant", D, values)
    alone = fit_weighted("power_plus_constant_wls", D, values)
    assert {name: value for name, (value, *_) in fit.parameters.items()} == (
        {name: value for name, (value, *_) in alone.parameters.items()}
    )
    assert np.isnan([fit.parameters["alpha"][1:], alone.parameters["C"][1:]]).all()
    many = made_up(np.random.default_rng(4), units=60)
    assert np.isfinite(fit_weighted("power_plus_constant", D, many).parameters["alpha"][1])
    assert np.isnan(fit_weighted("power_plus_constant_wls", D, many).parameters["alpha"][1])
    # Correlations of independent distances are shrunk away, so 6 units are enough for 9; for equal ones they are not.
    noise = np.random.default_rng(0).standard_normal((6, 9))
    assert covariance_is_known(noise)
    assert not covariance_is_known(np.outer(noise[:, 0], np.ones(9)) + 1e-3 * noise)


def test_which_plateau_is_taken_off():
    rng = np.random.default_rng(5)
    values = made_up(rng)
    falling = [fit_weighted(law, D, values) for law in ("power_plus_constant", "constant", "power_plus_constant_wls")]
    unweighted = fit_eq_b15(D, values.mean(axis=0))
    assert plateau([*falling, unweighted]).law == "power_plus_constant_wls"
    assert plateau([unweighted]).law == "paper_eq_b15"
    assert plateau([]) is None
    flat = values - 1.1 * D**-0.91
    fits = [fit_weighted(law, D, flat) for law in ("constant", "power_plus_constant_wls")]
    assert plateau(fits).law == "constant"
    growing = values[:, ::-1]
    fits = [fit_weighted(law, D, growing) for law in ("constant", "power_plus_constant_wls")]
    assert fits[1].parameters["alpha"][0] < 0
    assert plateau(fits).law == "constant"
    slow = replace(falling[2], parameters=falling[2].parameters | {"alpha": (0.01, math.nan, math.nan)})
    assert plateau([falling[1], slow]).law == "constant"  # almost a logarithm: the fit could choose any C
    # With as many distances as units there is no p-value, and the AIC decides.
    for few, law in ((values[:8], "power_plus_constant_wls"), (flat[:8], "constant")):
        fits = [fit_weighted(law, D, few) for law in LAWS]
        assert math.isnan(fits[1].p_value)
        assert plateau(fits).law == law


# Through the command line


@pytest.fixture(scope="module")
def chain_tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    books = CHAIN.sample(np.random.default_rng(0), 20, 3000)
    return tables(list(books), [1, 2, 4, 8], 3)


def test_markov_chain_from_end_to_end(tmp_path, chain_tables):
    counts, distances = save(tmp_path, *chain_tables), [1, 2, 4, 8]
    done = call_script(SCRIPT, "--counts", counts, "--out", tmp_path / "out", "--bootstrap", 20)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "out" / "two_point.csv")
    assert table.columns.tolist() == TWO_POINT_COLUMNS
    assert table["d_tokens"].tolist() == distances * 4
    assert table["n_pairs"].tolist() == [20 * (3000 - d) for d in distances] * 4
    assert set(table["source"]) == {"toy"}
    assert set(table["tokenizer"]) == {"tok"}
    by_kind = {key: (rows["occurrences"], rows["types"]) for key, rows in chain_tables[0].groupby(["kind", "n_or_d"])}
    for name in ("grassberger", "naive", "miller_madow", "chao_shen"):
        rows, estimate = table[table["estimator"] == name], getattr(entropy, f"{name}_entropy")
        left, right, pair = (np.array([estimate(*by_kind[kind, d]) for d in distances]) for kind in KINDS)
        assert rows["mi_nats"].to_numpy() == pytest.approx(left + right - pair, abs=1e-12)
        for column in ("stderr_nats", "mi_corrected_nats"):
            assert rows[column].notna().all() == (name == "grassberger")
    main_rows = table[table["estimator"] == "grassberger"]
    error = unit_values(*read_information(counts, read_pairs(counts))).std(axis=0, ddof=1) / math.sqrt(20)
    assert main_rows["stderr_nats"].to_numpy() == pytest.approx(error, rel=1e-12)
    truth = np.array([CHAIN.two_point_information(d) for d in distances])
    assert (np.abs(main_rows["mi_nats"] - truth) < 4 * main_rows["stderr_nats"]).all()

    fits = pd.read_csv(tmp_path / "out" / "fit.csv")
    assert fits.columns.tolist() == FIT_COLUMNS
    assert set(fits["model"]) == {"tok"}
    mine = fits[fits["estimator"] == "grassberger"].set_index(["law", "parameter"])
    gls, wls, b15 = ([(law, name) for name in TRUTH] for law in (LAWS[0], LAWS[2], "paper_eq_b15"))
    assert mine.index.tolist() == [*gls, ("constant", "C"), *wls, *b15]
    row = mine.loc[("power_plus_constant", "alpha")]
    assert row["lo95"] < row["value"] < row["hi95"]
    assert row["boot_lo95"] < row["value"] < row["boot_hi95"]
    assert row["boot_clusters"] == "20 units"
    assert set(fits[fits["estimator"] == "naive"]["law"]) == {"paper_eq_b15"}
    plateau_of = json.loads((tmp_path / "out" / "fit.json").read_text())["plateau_of"]
    C = mine.loc[(plateau_of, "C"), "value"]
    assert (main_rows["mi_nats"] - main_rows["mi_corrected_nats"]).to_numpy() == pytest.approx(C, abs=1e-12)
    assert (main_rows["plateau_nats"] == C).all()
    assert (main_rows["plateau_law"] == plateau_of).all()
    compared = mine[~mine.index.get_level_values("law").str.endswith("_wls")]
    assert set(compared.index.get_level_values("law")[compared["selected"]]) == {compared["aic"].idxmin()[0]}
    assert not fits.loc[fits["estimator"] == "naive", "selected"].any()

    windows = pd.read_csv(tmp_path / "out" / "sweep.csv")
    assert windows.columns.tolist() == SWEEP_COLUMNS
    step = windows.set_index(["L_min", "L_max"]).loc[(1, 2)]
    left = main_rows.set_index("d_tokens")["mi_corrected_nats"]
    assert step["alpha"] == pytest.approx(math.log2(left[1] / left[2]))
    assert step["lo95"] < step["alpha"] < step["hi95"]
    assert f"plateau: C = {C:.5f} of {plateau_of}" in done.stdout
    assert "source toy, tokenizer tok, 4 distances, 20 units" in done.stdout

    # With four distances, the only fits in ranges.csv are those to all of them, and equal those in fit.csv.
    ranges = pd.read_csv(tmp_path / "out" / "ranges.csv")
    assert ranges.columns.tolist() == FIT_COLUMNS
    last = fits[(fits["estimator"] == "grassberger") & fits["law"].isin(["power_plus_constant", "paper_eq_b15"])]
    assert sorted(ranges["L_max"].unique()) == [8]
    pd.testing.assert_frame_equal(ranges.drop(columns="selected"), last.drop(columns="selected").reset_index(drop=True))


def test_window_of_the_fits(tmp_path, chain_tables):
    arguments = ["--counts", save(tmp_path, *chain_tables), "--out", tmp_path, "--bootstrap", 0]
    assert call_script(SCRIPT, *arguments, "--d-min", 2).returncode == 0
    assert set(pd.read_csv(tmp_path / "fit.csv")["L_min"]) == {2}
    done = call_script(SCRIPT, *arguments, "--d-max", 2)
    assert done.returncode == 0, done.stderr
    assert "2 points, and 3 are needed" in done.stdout
    assert pd.read_csv(tmp_path / "fit.csv").empty
    assert pd.read_csv(tmp_path / "two_point.csv")["mi_corrected_nats"].isna().all()


def test_one_document_has_no_errors(tmp_path):
    counts, shares = tables([CHAIN.sample(np.random.default_rng(0), 1, 3000)[0]], [1, 2, 4, 8], 3)
    done = call_script(SCRIPT, "--counts", save(tmp_path, counts, shares), "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no errors and no weights" in done.stdout
    assert pd.read_csv(tmp_path / "two_point.csv")["stderr_nats"].isna().all()
    assert set(pd.read_csv(tmp_path / "fit.csv")["law"]) == {"paper_eq_b15"}


def test_a_distance_that_one_book_has_alone_is_left_out_of_the_fits(tmp_path):
    ids = CHAIN.sample(np.random.default_rng(0), 6, 2000)
    counts = save(tmp_path, *tables([ids[0], *ids[1:, :1000]], [1, 2, 4, 8, 1200], 3))
    done = call_script(SCRIPT, "--counts", counts, "--out", tmp_path, "--bootstrap", 0)
    assert "left out of the fits, as one unit has all pairs: d = [1200]" in done.stdout
    rows = pd.read_csv(tmp_path / "two_point.csv").query("estimator == 'grassberger'").set_index("d_tokens")
    assert rows["stderr_nats"].isna().tolist() == [False] * 4 + [True]
    assert set(pd.read_csv(tmp_path / "fit.csv")["L_max"]) == {8}


def test_information_at_or_below_zero(tmp_path):
    """Independent fair coins: some Î are below 0, so of all laws only the constant is fitted, with C about 0."""
    books = list(np.random.default_rng(1).integers(0, 2, (12, 400)))
    done = call_script(SCRIPT, "--counts", save(tmp_path, *tables(books, [1, 2, 4, 8], 2)), "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (pd.read_csv(tmp_path / "two_point.csv")["mi_nats"] <= 0).any()
    assert "points lie at or below 0, where Eq. B.15 has no logarithm" in done.stdout
    assert "0 of 4 points lie 3 standard errors above 0" in done.stdout
    weighted = pd.read_csv(tmp_path / "fit.csv").query("estimator == 'grassberger' and law != 'paper_eq_b15'")
    assert set(weighted["law"]) == {"constant"}
    assert weighted["lo95"].item() < 0 < weighted["hi95"].item()


# Bad input


def change(column: str, value: object, **where: object):
    def spoil(table: pd.DataFrame) -> pd.DataFrame:
        chosen = np.logical_and.reduce([table[name] == wanted for name, wanted in where.items()])
        table = table.astype({column: object})
        table.loc[chosen, column] = value
        return table

    return spoil


def leave_out(**where: object):
    return lambda table: table[~np.logical_and.reduce([table[name] == wanted for name, wanted in where.items()])]


@pytest.mark.parametrize(
    ("of", "spoil", "message"),
    [
        ("counts", lambda t: t[t["kind"] == "ngram"], "has no rows of kind left, right, pair: count one corpus"),
        ("counts", leave_out(kind="pair", n_or_d=4), "does not have every n or d for every kind (left, right, pair)"),
        ("counts", change("source", "other", kind="pair"), "is of source toy and other"),
        ("counts", lambda t: pd.concat([t, t.iloc[[1]]]), "a duplicate line"),
        ("counts", change("types", 7, kind="right", n_or_d=8), "at d = 8 left, right and pair have different totals"),
        ("counts", change("types", 0.5, kind="left", n_or_d=1), "line 3: not counts of counts"),
        ("shares", leave_out(book="book 3"), "is not of the same corpus as the counts beside it (kind left, n or d ="),
        ("shares", change("entropy_nats", 1.0, book="book 3"), "is not of the same corpus"),
        ("shares", lambda t: t.assign(source="other"), "is of source other, not toy"),
        ("shares", leave_out(kind="right", n_or_d=2), "(kind right, n or d = 2)"),
        ("shares", lambda t: pd.concat([t, t.iloc[[5]].assign(ngrams=0)]), "is not of the same corpus"),
        ("shares", change("ngrams", "some", book="book 3"), "ngrams is 'some', not a number"),
    ],
)
def test_bad_tables(tmp_path, chain_tables, of, spoil, message):
    counts, by_book = chain_tables
    counts, by_book = (spoil(counts), by_book) if of == "counts" else (counts, spoil(by_book))
    done = call_script(SCRIPT, "--counts", save(tmp_path, counts, by_book), "--out", tmp_path / "out")
    assert message in one_line_error(done)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--d-min", 9, "--d-max", 3], "--d-max 3: must be at least 9"),
        (["--d-min", 3000], "counts.csv (1 to 8) is between them"),
    ],
)
def test_bad_ranges(tmp_path, chain_tables, flags, message):
    done = call_script(SCRIPT, "--counts", save(tmp_path, *chain_tables), "--out", tmp_path / "out", *flags)
    assert message in one_line_error(done)
    assert not (tmp_path / "out").exists()
