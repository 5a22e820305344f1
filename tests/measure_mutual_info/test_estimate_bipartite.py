"""Estimates from hand-made scores, and for a Markov chain whose information is known in closed form."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.cli import UserError
from measure_mutual_info.calibration.processes import MarkovChain
from measure_mutual_info.counting.entropy import grassberger_entropy
from measure_mutual_info.estimate_bipartite import FIT_COLUMNS, SWEEP_COLUMNS, headline, per_document_terms
from measure_mutual_info.scoring.tables import LOGQ, START, read_record, read_scores
from tests.conftest import call_script, one_line_error
from tests.measure_mutual_info.made_up import exact_scores, hand_scores, save, save_counts

SCRIPT = "measure_mutual_info/estimate_bipartite.py"
BIPARTITE = ["source", "model", "estimator", "ell_tokens", "L_tokens", "mi_nats", "stderr_nats", "stderr_by_book_nats"]
BIPARTITE += ["n_documents", "n_books"]
BIPARTITE += ["context_mismatch_nats", "context_mismatch_stderr_nats", "correction_nats", "correction_stderr_nats"]

CHAIN = MarkovChain(((0.7, 0.2, 0.1), (0.1, 0.6, 0.3), (0.3, 0.1, 0.6)))


def run(folder: Path, scores: pd.DataFrame, *flags: object, out: str = ".", **saved: object) -> str:
    """Run the program on these scores and return its output. The tables are in folder / out."""
    done = call_script(SCRIPT, "--scores", save(folder, scores, **saved), "--out", folder / out, *flags)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refusal(folder: Path, scores: pd.DataFrame, *flags: object, **saved: object) -> str:
    """The one-line error for these scores; also checks that nothing was written."""
    done = call_script(SCRIPT, "--scores", save(folder, scores, **saved), "--out", folder / "refused", *flags)
    assert not (folder / "refused").exists()
    return one_line_error(done)


# Algebra on hand-made scores


def test_terms_of_each_document():
    scores = hand_scores()
    expected = {
        "direct": [[2, 4], [2, 4], [2, 4]],
        "vclub": [[4, 8], [8, 16], [16, 32]],
        "context_mismatch": [[2, 4], [6, 12], [14, 28]],
        # log q(Y) of the x_donor is −scale · ell − ell, with scale 2, 4, 1
        "direct_unpaired": [[-2 + 6, -4 + 12], [-4 + 10, -8 + 20], [-8 + 4, -16 + 8]],
        "block_entropy": [[-2 + 1, -4 + 6], [-4 + 2, -8 + 7], [-8 + 3, -16 + 8]],
    }
    for estimator, values in expected.items():
        terms = per_document_terms(scores.sample(frac=1, random_state=1), estimator)
        assert terms.to_numpy().tolist() == values
        assert terms.index.tolist() == ["a", "b", "c"]
        assert terms.columns.tolist() == [(2, 4), (4, 8)]
        assert terms.columns.names == ["ell_tokens", "L_tokens"]


def test_hand_scores_through_the_command_line(tmp_path):
    counts = save_counts(tmp_path / "counts.csv", [1, 2], [2, 1])
    printed = run(tmp_path, hand_scores(), "--counts", counts, "--unpaired", out="out")
    table = pd.read_csv(tmp_path / "out" / "bipartite.csv")
    assert table.columns.tolist() == BIPARTITE
    assert set(table["source"]) == {"toy"}
    assert set(table["model"]) == {"model"}
    assert (table["n_documents"] == 3).all()
    table = table.set_index(["estimator", "ell_tokens", "L_tokens"])
    estimators = ["direct", "direct_corrected", "vclub", "block_entropy", "direct_unpaired"]
    assert table.index.get_level_values(0).unique().tolist() == estimators
    vclub = table.loc[("vclub", 2, 4)]
    assert vclub["mi_nats"] == pytest.approx(28 / 3)
    assert vclub["stderr_nats"] == pytest.approx(np.std([4, 8, 16], ddof=1) / math.sqrt(3))
    assert table.loc[("direct", 4, 8), "mi_nats"] == 4
    assert table.loc[("direct", 4, 8), "stderr_nats"] == 0
    assert table.loc[("direct_unpaired", 2, 4), "mi_nats"] == pytest.approx(2)
    entropy = grassberger_entropy(np.array([1, 2]), np.array([2, 1]))
    assert table.loc[("direct_corrected", 4, 8), "mi_nats"] == pytest.approx(4 + 0.8 * (entropy - 3.5 / 3))
    corrected, direct = table.loc["direct_corrected"], table.loc["direct"]
    added = (corrected["mi_nats"] - direct["mi_nats"]).to_numpy()
    assert corrected["correction_nats"].to_numpy() == pytest.approx(added, abs=1e-12)
    spread = 0.8 * hand_scores().query("ell_tokens == 4")["logq_y_first2_nats"].std() / math.sqrt(3)
    assert corrected.loc[(4, 8), "correction_stderr_nats"] == pytest.approx(spread)
    assert direct[["correction_nats", "correction_stderr_nats"]].isna().all(axis=None)
    for estimator in estimators:
        row = table.loc[(estimator, 2, 4)]
        assert row["context_mismatch_nats"] == pytest.approx(22 / 3)
        assert row["context_mismatch_stderr_nats"] == pytest.approx(np.std([2, 6, 14], ddof=1) / math.sqrt(3))
    record = json.loads((tmp_path / "out" / "bipartite.json").read_text())
    assert record["ngram_weight"] == 0.8
    assert record["first2_entropy_nats"] == pytest.approx(entropy)
    assert f"2-gram entropy {entropy:.3f} nats from 4 2-grams, 50.0% of them seen only once" in printed
    assert len(record["inputs"]) == 3


# A Markov chain whose information is known in closed form


def test_markov_chain_from_end_to_end(tmp_path):
    scores, chains = exact_scores(CHAIN, 400, 32, books=1, ratios=(2, 3, 4))
    P, pi, information = np.array(CHAIN.P), CHAIN.stationary, CHAIN.mutual_information(1, 2)
    pairs = np.unique(chains[:, :-1] * 3 + chains[:, 1:], return_counts=True)[1]
    occurrences, types = np.unique(pairs, return_counts=True)
    counts = save_counts(tmp_path / "counts.csv", occurrences.tolist(), types.tolist())
    printed = run(tmp_path, scores, "--counts", counts, "--bootstrap", 50)
    table = pd.read_csv(tmp_path / "bipartite.csv")
    assert table[["ell_tokens", "L_tokens"]].drop_duplicates().to_numpy().tolist() == (
        [[2, 4], [2, 6], [2, 8], [4, 8], [4, 12], [4, 16], [8, 16], [8, 24], [8, 32], [16, 32]]
    )
    # How far vCLUB is above the information: the mean of log π_y / P_xy over independent tokens x and y.
    excess = np.sum(pi[:, None] * pi * np.log(pi / P))
    truth = dict.fromkeys(("direct", "direct_corrected", "block_entropy"), information)
    truth["vclub"] = information + excess
    for row in table.itertuples():
        assert abs(row.mi_nats - truth[row.estimator]) < 4 * row.stderr_nats
        assert abs(row.context_mismatch_nats - excess) < 4 * row.context_mismatch_stderr_nats
        if row.estimator == "direct":  # all but the step from X to Y cancels
            before, after = chains[:, row.ell_tokens - 1], chains[:, row.ell_tokens]
            step = np.log(P[before, after] / pi[after])
            assert row.mi_nats == pytest.approx(np.mean(step), abs=1e-12)
            assert row.stderr_nats == pytest.approx(np.std(step, ddof=1) / 20, abs=1e-12)

    fits = pd.read_csv(tmp_path / "fit.csv")
    assert fits.columns.tolist() == FIT_COLUMNS
    power = fits[(fits["law"] == "power") & (fits["L_over_ell"] == 2)]
    power = power[power["estimator"] != "block_entropy"]  # its errors may be too large for a fit
    assert sorted(zip(power["estimator"], power["parameter"], strict=True)) == [
        (estimator, parameter) for estimator in ("direct", "direct_corrected", "vclub") for parameter in ("A", "beta")
    ]
    assert (power["lo95"] < power["value"]).all()
    assert (power["value"] < power["hi95"]).all()
    assert (power[power["parameter"] == "beta"]["value"].abs() < 0.2).all()
    line = fits[(fits["law"] == "power_ols") & (fits["L_over_ell"] == 2)]
    assert len(line) == 8
    assert line[["lo95", "hi95", "chi2", "aic"]].isna().all(axis=None)
    # There are three points with L = 3 ell and three with L = 4 ell, enough for a fit of each.
    assert set(fits["L_over_ell"]) == {2, 3, 4}
    assert "source toy, model model, 400 documents; books: 1; start token (BOS): unknown\n" in printed


# What is left out, and what is printed about it


def test_failed_documents_are_left_out_and_counted(tmp_path):
    scores = pd.concat([hand_scores(), hand_scores().replace({"document": {"a": "d", "b": "e", "c": "f"}})])
    clean = per_document_terms(scores, "vclub")
    scores.loc[scores["document"] == "d", LOGQ] = np.nan
    scores = scores.astype({START: object})  # of block_entropy, checked like the others
    scores.loc[(scores["document"] == "f") & (scores["ell_tokens"] == 4), START] = "-inf"
    printed = run(tmp_path, scores, "--unpaired")
    assert "6 documents, 2 of them left out (1 without scores, 1 with an infinite one; the first: d)" in printed
    table = pd.read_csv(tmp_path / "bipartite.csv").set_index(["estimator", "ell_tokens"])
    assert table.loc[("vclub", 2), "n_documents"] == 4
    assert table.loc[("vclub", 2), "mi_nats"] == clean[(2, 4)].drop(["d", "f"]).mean()
    # a, b, c and e have the x_donors b, c, a and c.
    assert table.loc[("direct_unpaired", 2), "n_documents"] == 4
    assert np.isfinite(table.dropna(axis=1, how="all").select_dtypes("number")).all(axis=None)

    scores.loc[scores["document"] == "a", START] = np.nan
    assert "direct_unpaired: 1 documents left out, because the document of X'" in run(tmp_path, scores, "--unpaired")
    table = pd.read_csv(tmp_path / "bipartite.csv").set_index(["estimator", "ell_tokens"])
    assert table.loc[("direct", 2), "n_documents"] == 3
    assert table.loc[("direct_unpaired", 2), "n_documents"] == 2
    assert table.loc[("direct_unpaired", 2), "context_mismatch_nats"] == pytest.approx((6 + 6) / 2)


def test_too_few_lengths_for_a_fit(tmp_path):
    scores, _ = exact_scores(CHAIN, 300, 8, books=1, ratios=(2, 3, 4))
    printed = run(tmp_path, scores)
    laws = "power, power_plus_constant, logarithm, saturating"
    assert f"direct, L = 2 ell: no fit ({laws}): 2 points, and 3 are needed" in printed
    assert "direct, L = 2 ell: no fit (broken_power): 2 points, and 4 are needed" in printed
    assert "direct, L = 2 ell: no fit (power_ols): 2 of 2 points lie above 0, and 3 are needed" in printed
    assert len(pd.read_csv(tmp_path / "bipartite.csv")) == 3 * 4
    fits = pd.read_csv(tmp_path / "fit.csv")
    assert fits.empty
    assert fits.columns.tolist() == FIT_COLUMNS


def test_names_that_look_like_numbers_or_gaps(tmp_path):
    names = {"a": "NA", "b": "007", "c": "1e3"}
    scores, line = read_scores(save(tmp_path, hand_scores().replace({"document": names, "x_donor": names})))
    assert line == "3 documents"
    assert per_document_terms(scores, "direct_unpaired").loc[["NA", "007", "1e3"], (2, 4)].tolist() == [4, 6, -4]


def test_the_headline_has_two_digits_of_the_error():
    for mi, error, said in (
        (104.67, 18.52, "104.7 ± 18.5"),
        (0.05321, 0.00412, "0.0532 ± 0.0041"),
        (2.0, 0.0, "2.0 ± 0.0"),
        (2.0, math.nan, "2.0 ± nan"),
    ):
        row = {"estimator": "direct", "ell_tokens": 4, "L_tokens": 8, "mi_nats": mi, "stderr_nats": error}
        bipartite, windows = (
            pd.DataFrame([row | {"stderr_by_book_nats": math.nan}]),
            pd.DataFrame(columns=SWEEP_COLUMNS),
        )
        assert headline(bipartite, windows, 2)[0] == f"I(L/2; L) at L = 8: {said} (direct) nats, ± standard error"


# Bad input


def put(column: str, value: object, document: str | None = None):
    def change(scores: pd.DataFrame) -> pd.DataFrame:
        scores = scores.astype({column: object})
        scores.loc[scores["document"] == document if document else slice(None), column] = value
        return scores

    return change


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda scores: scores.drop(columns=["logq_y_nats", "book"]), "lacks the columns book, logq_y_nats"),
        (lambda scores: scores.assign(book=["book"] * 3 + ["other"] + ["book"] * 2), "b, ell 2, L 4): a document in"),
        (lambda scores: scores.iloc[:0], "0 documents; at least two with scores are needed"),
        (lambda scores: pd.concat([scores, scores.iloc[[3]]]), "line 8 (document b, ell 4, L 8): a duplicate row"),
        (lambda scores: scores.iloc[:-1], "line 6 (document c, ell 2, L 4): a document without some of the (ell, L)"),
        (lambda scores: scores[scores["document"] == "a"], "1 documents; at least two with scores are needed"),
        (put("logq_y_nats", "many", "b"), "line 4: logq_y_nats is 'many', not a number"),
        (lambda scores: scores.assign(**{START: "many"}), f"line 2: {START} is 'many', not a number"),
        (put("L_tokens", 2, "b"), "line 4 (document b, ell 2, L 2): not 1 <= ell < L"),
        (put("logq_y_nats", 3.0, "b"), "line 4 (document b, ell 2, L 4): a log-probability above 0 (a loss?)"),
        (put("ell_tokens", 2.5, "c"), "line 6: ell_tokens is '2.5', not a whole number"),
    ],
)
def test_bad_scores(tmp_path, spoil, message):
    assert message in refusal(tmp_path, spoil(hand_scores()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer": "other"}, "is of tokenizer other, not org/tok"),
        ({"source": "other"}, "is of source other, not toy"),
        ({"n_or_d": 1}, "has no 2-grams"),
        ({"kind": "pair"}, "has no rows of kind ngram"),
        ({"occurrences": 1}, "line 3: not counts of counts, or a duplicate line"),
        ({"types": 0}, "line 2: not counts of counts"),
    ],
)
def test_bad_counts(tmp_path, changes, message):
    counts = save_counts(tmp_path / "counts.csv", [1, 2], [2, 1], changes)
    assert message in refusal(tmp_path, hand_scores(), "--counts", counts)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--L-fit-min", 8, "--L-fit-max", 4], "--L-fit-max 4: must be at least 8"),
        (["--L-fit-min", 1000], "scores.csv (4 to 8) is between them"),
    ],
)
def test_bad_ranges(tmp_path, flags, message):
    assert message in refusal(tmp_path, hand_scores(), *flags)


def test_bad_records(tmp_path):
    for record in ({"source": "toy"}, {"source": "toy", "settings": None}, {"settings": {"model": "m"}}, []):
        said = f"{tmp_path / 'scores.json'} is not there, or names no source or no model: score the documents again"
        assert said in refusal(tmp_path, hand_scores(), record=record)
    record = tmp_path / "scores.json"
    for spoil in (lambda: record.write_text("{"), record.unlink):
        spoil()
        with pytest.raises(UserError, match="is not there, or names no source or no model"):
            read_record(tmp_path / "scores.csv")
