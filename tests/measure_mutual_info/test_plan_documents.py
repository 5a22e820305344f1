"""Plans from simulated pilots against what the planned documents then give, and against exact covariances."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.powerlaw import NoFitError, covariance_of_mean, fit_law
from measure_mutual_info.plan_documents import (
    COLUMNS,
    design_effect,
    documents_needed,
    half_width,
    plan,
    spread_of_beta,
    spread_of_plan,
    windows,
)
from measure_mutual_info.scoring import passes
from tests.conftest import ROOT, call_script, one_line_error, run_script

SCRIPT = "measure_mutual_info/plan_documents.py"
L = 2.0 ** np.arange(2, 10)
EXACT = 2 * L**0.6
BENT = EXACT * np.exp(-0.06 * (np.log(L) - 4) ** 2)
# Neighbouring lengths correlated by 0.85; each with a spread of 0.9 of the exact information.
CORRELATION = 0.85 ** np.abs(np.subtract.outer(np.arange(len(L)), np.arange(len(L))))
COVARIANCE = CORRELATION * np.outer(0.9 * EXACT, 0.9 * EXACT)


def draw(rng: np.random.Generator, mi: np.ndarray, n: int, covariance: np.ndarray = COVARIANCE) -> np.ndarray:
    """Normal terms, (n, lengths)."""
    return mi + rng.standard_normal((n, len(L))) @ np.linalg.cholesky(covariance).T


def fit(values: np.ndarray) -> tuple[float, float]:
    """β and the half-width of its interval, as estimate_bipartite.py has them."""
    covariance, shrinkage = covariance_of_mean(values)
    beta, low, high = fit_law("power", L, values.mean(axis=0), covariance, len(values), shrinkage).parameters["beta"]
    return beta, (high - low) / 2


def save_scores(folder: Path, values: np.ndarray, books: int, lengths: np.ndarray = L, **provenance) -> Path:
    """scores.csv whose direct terms are `values`, (documents, lengths), at L = 2 ell; vclub is twice that."""
    documents = [f"d{i:04d}" for i in range(len(values))]
    tables = [
        pd.DataFrame(
            {
                "document": documents,
                "book": [f"b{i % books}" for i in range(len(values))],
                "ell_tokens": int(length) // 2,
                "L_tokens": int(length),
                "logq_y_given_x_nats": of_length,
                "logq_y_nats": 0.0,
                "logq_y_first2_nats": 0.0,
                "logq_y_given_other_x_nats": -of_length,
                "x_donor": np.roll(documents, 1),
            }
        )
        for length, of_length in zip(lengths, values.T, strict=True)
    ]
    table = pd.concat(tables)
    table.to_csv(folder / "scores.csv", index=False)
    facts = {"source": "toy", "settings": {"model": "org/tiny"}, "rows": len(table)} | provenance
    (folder / "scores.json").write_text(json.dumps(facts))
    return folder / "scores.csv"


# The plan against what comes of it


def test_planned_documents_give_the_wanted_interval():
    rng, wanted = np.random.default_rng(0), 0.03
    found = []
    for _ in range(60):
        n = plan(L, draw(rng, EXACT, 100), wanted)
        found += [fit(draw(rng, EXACT, n)) for _ in range(10)]
    beta, half = np.array(found).T
    assert half.mean() == pytest.approx(wanted, rel=0.05)
    assert 1.96 * beta.std() == pytest.approx(wanted, rel=0.1)


def test_points_off_the_power_law_need_more():
    rng, wanted = np.random.default_rng(1), 0.03
    plans, half = [], []
    for _ in range(40):
        plans.append(plan(L, draw(rng, BENT, 100), wanted))
        half += [fit(draw(rng, BENT, plans[-1]))[1] for _ in range(5)]
    assert np.mean(half) == pytest.approx(wanted, rel=0.05)
    assert np.mean(plans) > 1.2 * np.mean([plan(L, draw(rng, EXACT, 100), wanted) for _ in range(40)])


def test_pilot_with_points_near_zero():
    """At 100 documents the first lengths lie 2.5 errors above 0 and the fit is one of I; the planned is of log I."""
    rng, wanted = np.random.default_rng(2), 0.03
    noise = np.r_[4, 3.6, np.full(len(L) - 2, 0.9)] * EXACT
    covariance = CORRELATION * np.outer(noise, noise)
    half = []
    for _ in range(10):
        n = plan(L, draw(rng, EXACT, 100, covariance), wanted)
        half += [fit(draw(rng, EXACT, n, covariance))[1] for _ in range(10)]
    assert np.mean(half) == pytest.approx(wanted, rel=0.1)


def test_uncertainty_of_the_plan_is_that_of_fresh_pilots():
    rng = np.random.default_rng(3)
    pilots = [draw(rng, BENT, 100) for _ in range(80)]
    claimed = [spread_of_plan(L, pilot, 0.03, 50, rng) for pilot in pilots[:15]]
    assert np.mean(claimed) == pytest.approx(np.log([plan(L, pilot, 0.03) for pilot in pilots]).std(ddof=1), rel=0.25)


def test_spread_of_beta_is_unbiased():
    """Against generalised least squares with the true covariance, from pilots of 30 documents."""
    rng = np.random.default_rng(4)
    covariance, mi = COVARIANCE / 100, EXACT * (BENT / EXACT) ** 0.1  # log I of 30 documents is then close to normal
    log_covariance = covariance / np.outer(mi, mi)
    weights = np.linalg.inv(log_covariance)
    design = np.stack([np.ones(len(L)), np.log(L)], axis=1)
    inverse = np.linalg.inv(design.T @ weights @ design)
    residual = np.log(mi) - design @ inverse @ design.T @ weights @ np.log(mi)
    found = np.mean([spread_of_beta(L, draw(rng, mi, 30, covariance)) for _ in range(600)], axis=0)
    assert found[0] == pytest.approx(inverse[1, 1], rel=0.03)
    assert found[1] == pytest.approx(residual @ weights @ residual, rel=0.08)


@pytest.mark.parametrize("n", [20, 60])
def test_half_width_of_few_documents(n):
    """Given V and δ² of plenty of documents: the mean over fits to n, whose covariance is their own."""
    rng = np.random.default_rng(11)
    covariance, mi = COVARIANCE / 100, EXACT * (BENT / EXACT) ** 0.1
    found = []
    for _ in range(400):
        values = draw(rng, mi, n, covariance)
        _, low, high = fit_law("power", L, values.mean(axis=0), np.cov(values.T) / n, n).parameters["beta"]
        found.append((high - low) / 2)
    expected = half_width(n, *spread_of_beta(L, draw(rng, mi, 20_000, covariance)), len(L))
    assert np.mean(found) == pytest.approx(expected, rel=0.05)


def test_no_interval():
    """Slopes end at 5 where the first point lies too near 0 for a logarithm."""
    rng = np.random.default_rng(12)
    with pytest.raises(NoFitError, match="leave beta open"):
        spread_of_beta(L[:4], L[:4] ** 7 * (1 + rng.standard_normal((30, 4)) * np.array([9, 0.1, 0.1, 0.1])))


def test_smallest_number_that_does():
    for wanted in (0.02, 0.1, 0.5, 5.0):
        n = documents_needed(wanted, 0.3, 0.5, 8)
        assert half_width(n, 0.3, 0.5, 8) <= wanted
        assert n == 9 or half_width(n - 1, 0.3, 0.5, 8) > wanted
    # Many documents: the normal interval, widened by the misfit.
    assert documents_needed(0.01, 0.3, 0.5, 8) == pytest.approx(1.96**2 * 0.3 * 1.5 / 0.01**2, rel=0.01)


# Books


def draw_books(rng: np.random.Generator, books: int, each: int, tilt: float) -> tuple[np.ndarray, np.ndarray]:
    """Terms of documents whose book bends them all alike, and their books."""
    of_book = tilt * rng.standard_normal((books, 1)) * (np.log(L) - np.log(L).mean())
    return draw(rng, EXACT, books * each) + EXACT * of_book.repeat(each, axis=0), np.arange(books).repeat(each)


@pytest.mark.parametrize("tilt", [0.0, 0.15])
def test_design_effect(tilt):
    """Against the spread of β in many corpora of 30 books, beside that of as many documents a book each."""
    rng = np.random.default_rng(5)
    variances = [
        np.var([fit(draw_books(rng, *shape, tilt)[0])[0] for _ in range(400)]) for shape in ((30, 6), (180, 1))
    ]
    found = [design_effect(L, *draw_books(rng, 30, 6, tilt)) for _ in range(12)]
    assert np.mean(found) == pytest.approx(variances[0] / variances[1], rel=0.2)
    assert (np.mean(found) > 1.5) == (tilt > 0)


def test_design_effect_of_single_documents_and_of_few_books():
    values, _ = draw_books(np.random.default_rng(6), 30, 1, 0.15)
    assert design_effect(L, values, np.arange(30)) == pytest.approx(1)
    opposite = np.concatenate([values, 2 * values.mean(axis=0) - values])  # two of a book cancel
    assert design_effect(L, opposite, np.tile(np.arange(30), 2)) == 1
    assert np.isnan(design_effect(L, values, np.arange(30) % 7))


# The command line


def test_windows():
    lengths = np.array([4, 8, 16, 32, 64])
    assert windows(lengths, (0, 10), 32) == [(4, 32), (4, 64), (16, 64)]
    assert windows(lengths, (0, 4), 100) == [(4, 64)]
    assert windows(lengths, (32,), 0) == []


def test_command_line(tmp_path):
    rng = np.random.default_rng(7)
    # As scored: 50 documents, 1,000 model tokens a second.
    points = [(int(length) // 2, int(length)) for length in L]
    seconds = 50 * passes.tokens_a_document(points) / 1000
    scores = save_scores(tmp_path, draw(rng, EXACT, 50), books=4, scoring_seconds=seconds)
    out = tmp_path / "results" / "plan.csv"
    done = run_script(SCRIPT, "--scores", scores, "--out", out, "--half-width", 0.05, "--resamplings", 20)
    table = pd.read_csv(out)
    assert table.columns.tolist() == COLUMNS
    assert table.groupby("estimator").size().to_dict() == {"direct": 6, "vclub": 6}
    first = table[(table["estimator"] == "direct") & (table["L_min"] == 4) & (table["L_max"] == 512)].iloc[0]
    short = table[(table["estimator"] == "direct") & (table["L_min"] == 4) & (table["L_max"] == 256)].iloc[0]
    values = pd.read_csv(scores).pivot(index="document", columns="L_tokens", values="logq_y_given_x_nats").to_numpy()
    assert first["n_documents"] == plan(L, values, 0.05)
    assert short["n_documents"] == plan(L[:-1], values[:, :-1], 0.05)
    assert (first["beta_pilot"], first["half_width_pilot"]) == pytest.approx(fit(values))
    # The longest document, and marginal and other branches of 2 + 4 + … tokens.
    assert first["tokens_a_document"] == 512 + 2 * (2 + 4 + 8 + 16 + 32 + 64 + 128 + 256)
    assert short["tokens_a_document"] == 256 + 2 * (2 + 4 + 8 + 16 + 32 + 64 + 128)
    assert (table["tokens_total"] == table["n_documents"] * table["tokens_a_document"]).all()
    assert table["hours"].to_numpy() == pytest.approx(table["tokens_total"] / 1000 / 3600)
    assert (table["n_documents_lo95"] < table["n_documents"]).all()
    assert (table["n_documents"] < table["n_documents_hi95"]).all()
    assert table[["design_effect", "n_books"]].isna().all(axis=None)
    assert "fewer than 8 books" in done.stdout
    n, total, hours = (first[name] for name in ("n_documents", "tokens_total", "hours"))
    answer = f"beta of direct over L = 4 to 512 to ±0.05: {n:,} documents, {total:,} tokens, {hours:.2g} hours"
    assert answer in done.stdout
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["settings"]["half_width"] == 0.05
    assert record["inputs"]


def test_books_through_the_command_line(tmp_path):
    rng = np.random.default_rng(8)
    values, _ = draw_books(rng, 10, 6, 0.3)
    scores = save_scores(tmp_path, values.reshape(10, 6, len(L)).transpose(1, 0, 2).reshape(60, -1), books=10)
    done = call_script(SCRIPT, "--scores", scores, "--out", tmp_path / "plan.csv", "--resamplings", 5, "--L-fit-min", 4)
    row = pd.read_csv(tmp_path / "plan.csv").iloc[-1]
    assert row["design_effect"] > 1.5
    again = pd.read_csv(scores).pivot(index="document", columns="L_tokens", values="logq_y_given_x_nats").to_numpy()
    assert row["n_documents"] == plan(L, 2 * again, 0.02 / row["design_effect"] ** 0.5)
    assert row["n_books"] == np.ceil(row["n_documents"] / 6)
    assert row["half_width_pilot"] == pytest.approx(fit(2 * again)[1] * row["design_effect"] ** 0.5)
    assert np.isnan(row["hours"])
    assert f"of {row['n_books']:,.0f} books (design effect" in done.stdout
    assert "hours at" not in done.stdout


def test_half_the_width_takes_four_times_the_documents_of_the_sample(tmp_path):
    needed = {}
    for wanted in (0.02, 0.01):
        out = tmp_path / "plan.csv"
        scores = ROOT / "results" / "fig2b" / "scores.csv"
        call_script(
            SCRIPT, "--scores", scores, "--out", out, "--half-width", wanted, "--resamplings", 2, "--L-fit-min", 0
        )
        table = pd.read_csv(out)
        assert sorted(set(table["L_max"])) == [256, 512, 1024, 2048]
        needed[wanted] = table["n_documents"].to_numpy()
    assert needed[0.01] / needed[0.02] == pytest.approx(np.full(8, 4), rel=0.07)


def drop_column(scores: Path) -> None:
    pd.read_csv(scores).drop(columns="logq_y_nats").to_csv(scores, index=False)


def one_document(scores: Path) -> None:
    pd.read_csv(scores).query("document == 'd0000'").to_csv(scores, index=False)


def two_lengths(scores: Path) -> None:
    pd.read_csv(scores).query("L_tokens <= 8").to_csv(scores, index=False)


def negative(scores: Path) -> None:
    table = pd.read_csv(scores)
    swapped = {"logq_y_given_x_nats": -table["logq_y_given_x_nats"]}
    table.assign(**swapped, logq_y_given_other_x_nats=0.0).to_csv(scores, index=False)


def few_documents(scores: Path) -> None:
    pd.read_csv(scores).query("document < 'd0008'").to_csv(scores, index=False)


def all_alike(scores: Path) -> None:
    """Every document the same up to a factor: a covariance of rank 1."""
    table = pd.read_csv(scores)
    size = 1 + table["document"].str[1:].astype(int) / 10
    values = size * table["L_tokens"] ** 0.5
    table.assign(logq_y_given_x_nats=values, logq_y_given_other_x_nats=0.0, logq_y_nats=0.0).to_csv(scores, index=False)


@pytest.mark.parametrize(
    ("spoil", "flags", "message"),
    [
        (None, ["--half-width", 0], "--half-width 0: give a half-width of at least 0.0001"),
        (None, ["--half-width", -0.1], "--half-width -0.1: give"),
        (None, ["--out", "plan.txt"], "--out plan.txt: give the name of a .csv file"),
        (None, ["--ratio", 3], "has 0 lengths with L = 3 ell, and a fit needs 3: choose another --ratio"),
        (None, ["--L-fit-min", 256], "--L-fit-min 256: "),
        (None, ["--L-fit-min", 4000], "has fewer than 3 lengths from there on"),
        (None, ["--resamplings", 1], "--resamplings 1"),
        (None, ["--estimators"], "give at least one each"),
        (None, ["--scores", "nowhere.csv"], "no file nowhere.csv"),
        (drop_column, [], "lacks the column logq_y_nats"),
        (one_document, [], "1 documents; at least two with scores are needed"),
        (two_lengths, [], "has 2 lengths with L = 2 ell, and a fit needs 3"),
        (negative, [], "allows no plan (direct, L = 4 to 256: 0 of 7 points lie 3 standard errors above 0"),
        (few_documents, ["--L-fit-min", 0], "8 documents are too few for the covariance of 8 lengths, 9 are needed"),
        (all_alike, [], "singular"),
    ],
)
def test_bad_input(tmp_path, spoil, flags, message):
    scores = save_scores(tmp_path, draw(np.random.default_rng(9), EXACT, 30), books=3)
    if spoil:
        spoil(scores)
    given = {"--scores": [scores], "--out": [tmp_path / "plan.csv"], "--resamplings": [2]}
    if spoil is few_documents:
        given["--least-L-max"] = [512]
    if flags:
        given[flags[0]] = flags[1:]
    done = call_script(SCRIPT, *(word for name, words in given.items() for word in (name, *words)))
    assert message in one_line_error(done)
    assert not (tmp_path / "plan.csv").exists()


def test_windows_without_a_plan_are_named(tmp_path):
    """Eight documents suffice for seven lengths, not for eight."""
    scores = save_scores(tmp_path, draw(np.random.default_rng(10), EXACT, 8) + 4 * EXACT, books=3)
    done = call_script(SCRIPT, "--scores", scores, "--out", tmp_path / "plan.csv", "--resamplings", 2, "--L-fit-min", 4)
    assert "no plan for direct, L = 4 to 512: 8 documents are too few" in done.stdout
    assert set(pd.read_csv(tmp_path / "plan.csv")["L_max"]) == {256}
