"""Estimates against hand-made scores and against a Markov chain whose information is known in closed form."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.cli import UserError
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
from measure_mutual_info.scoring.tables import BYTES, LOGQ, SCORES, START, read_provenance, read_scores
from tests.conftest import call_script, one_line_error

SCRIPT = "measure_mutual_info/estimate_bipartite.py"
BIPARTITE = ["source", "model", "estimator", "ell_tokens", "L_tokens", "mi_nats", "stderr_nats", "stderr_by_book_nats"]
BIPARTITE += ["n_documents", "n_books"]
BIPARTITE += ["context_mismatch_nats", "context_mismatch_stderr_nats", "correction_nats", "correction_stderr_nats"]

# A chain of three states: transition and stationary probabilities, entropy of a state and of a step, in nats.
P = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.3, 0.1, 0.6]])
PI = np.linalg.matrix_power(P, 200)[0]
H_STATE = -np.sum(PI * np.log(PI))
H_STEP = -np.sum(PI[:, None] * P * np.log(P))
INFORMATION = H_STATE - H_STEP


def run(folder: Path, scores: pd.DataFrame, *flags: object, out: str = ".", **saved: object) -> str:
    """Estimate from these scores; what the program prints. The tables are in folder / out."""
    done = call_script(SCRIPT, "--scores", save(folder, scores, **saved), "--out", folder / out, *flags)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refusal(folder: Path, scores: pd.DataFrame, *flags: object, **saved: object) -> str:
    """One line of error for these scores, and nothing written."""
    done = call_script(SCRIPT, "--scores", save(folder, scores, **saved), "--out", folder / "refused", *flags)
    assert not (folder / "refused").exists()
    return one_line_error(done)


def save(folder: Path, scores: pd.DataFrame, provenance: dict | None = None) -> Path:
    scores.to_csv(folder / "scores.csv", index=False)
    if provenance is None:
        provenance = {"source": "toy", "tokenizer": "org/tok", "settings": {"model": "org/tiny-model"}}
    (folder / "scores.json").write_text(json.dumps(provenance))
    return folder / "scores.csv"


def save_counts(path: Path, occurrences: list[int], types: list[int], changes: dict | None = None) -> Path:
    table = pd.DataFrame({"occurrences": occurrences, "types": types})
    names = {"source": "toy", "tokenizer": "tok", "kind": "ngram", "n_or_d": 2}
    table.assign(**names | (changes or {})).to_csv(path, index=False)
    return path


def hand_scores() -> pd.DataFrame:
    """Three documents at (2, 4) and (4, 8); all numbers exact in binary."""
    rows = []
    for document, x_donor, scale in (("a", "b", 1.0), ("b", "c", 2.0), ("c", "a", 4.0)):
        for ell, L in ((2, 4), (4, 8)):
            base = -ell * scale
            rows.append((document, "book", ell, L, base, base - ell, -0.5 * scale, base - 2 * ell * scale, x_donor))
    return pd.DataFrame(rows, columns=SCORES)


def chain_scores(documents: int, seed: int, L_max: int = 32) -> tuple[pd.DataFrame, np.ndarray]:
    """Exact scores of sampled chains under the chain itself, and the chains, (documents, L_max)."""
    rng = np.random.default_rng(seed)
    chains = np.zeros((documents, L_max), dtype=int)
    chains[:, 0] = rng.choice(3, size=documents, p=PI)
    for t in range(1, L_max):
        chains[:, t] = (rng.random(documents)[:, None] > np.cumsum(P, axis=1)[chains[:, t - 1]]).sum(axis=1)
    x_donor = np.roll(np.arange(documents), 1)
    steps = np.log(P[chains[:, :-1], chains[:, 1:]])  # steps[:, t] is that from token t to t + 1
    tables = []
    for ell in (2, 4, 8, 16):
        for L in [ratio * ell for ratio in (2, 3, 4) if ratio * ell <= L_max]:
            first, inside = np.log(PI[chains[:, ell]]), steps[:, ell : L - 1].sum(axis=1)
            values = {
                "document": [f"chain#{i:04d}" for i in range(documents)],
                "book": "chain",
                "ell_tokens": ell,
                "L_tokens": L,
                "logq_y_given_x_nats": steps[:, ell - 1] + inside,
                "logq_y_nats": first + inside,
                "logq_y_first2_nats": first + steps[:, ell],
                "logq_y_given_other_x_nats": np.log(P[chains[x_donor, ell - 1], chains[:, ell]]) + inside,
                "x_donor": [f"chain#{i:04d}" for i in x_donor],
            }
            tables.append(pd.DataFrame(values, columns=SCORES))
    return pd.concat(tables), chains


def with_start(scores: pd.DataFrame, chains: np.ndarray) -> pd.DataFrame:
    """The scores of `chain_scores` with the column that block_entropy needs."""
    steps = np.log(P[chains[:, :-1], chains[:, 1:]])
    upto = np.cumsum(np.concatenate([np.log(PI[chains[:, :1]]), steps], axis=1), axis=1)
    row = scores["document"].str.removeprefix("chain#").astype(int)
    return scores.assign(**{START: upto[row, scores["L_tokens"] - scores["ell_tokens"] - 1]})


# Algebra on hand-made scores


def test_terms_of_each_document():
    scores = hand_scores()
    expected = {
        "direct": [[2, 4], [2, 4], [2, 4]],
        "vclub": [[4, 8], [8, 16], [16, 32]],
        "context_mismatch": [[2, 4], [6, 12], [14, 28]],
        # log q(Y) of the x_donor is −scale · ell − ell, with scale 2, 4, 1
        "direct_unpaired": [[-2 + 6, -4 + 12], [-4 + 10, -8 + 20], [-8 + 4, -16 + 8]],
    }
    for estimator, values in expected.items():
        terms = per_document_terms(scores.sample(frac=1, random_state=1), estimator)
        assert terms.to_numpy().tolist() == values
        assert terms.index.tolist() == ["a", "b", "c"]
        assert terms.columns.tolist() == [(2, 4), (4, 8)]
        assert terms.columns.names == ["ell_tokens", "L_tokens"]


def test_block_entropy_by_hand():
    scores = hand_scores().assign(**{START: [-1, -6, -2, -7, -3, -8]})
    terms = per_document_terms(scores.sample(frac=1, random_state=1), "block_entropy")
    assert terms.to_numpy().tolist() == [[-2 + 1, -4 + 6], [-4 + 2, -8 + 7], [-8 + 3, -16 + 8]]
    assert terms.columns.tolist() == [(2, 4), (4, 8)]


def test_correction_replaces_the_models_head():
    """As in Eq. B.7: cross entropy without first2, plus 1/5 of the model's first2 and 4/5 of the counted."""
    scores, counted = hand_scores(), 3.0
    terms = per_document_terms(scores, "direct_corrected", counted)
    at = scores[scores["ell_tokens"] == 4].mean(numeric_only=True)
    tail = -at["logq_y_nats"] + at["logq_y_first2_nats"]
    entropy_of_y = tail + 1 / 5 * -at["logq_y_first2_nats"] + 4 / 5 * counted
    assert terms[(4, 8)].mean() == pytest.approx(entropy_of_y + at["logq_y_given_x_nats"], abs=1e-12)
    # All weight on the counts; none on them is direct.
    assert per_document_terms(scores, "direct_corrected", counted, 1.0)[(2, 4)].tolist() == [4.5, 4, 3]
    assert per_document_terms(scores, "direct_corrected", counted, 0.0).equals(per_document_terms(scores, "direct"))


def test_hand_scores_through_the_command_line(tmp_path):
    counts = save_counts(tmp_path / "counts.csv", [1, 2], [2, 1])
    printed = run(tmp_path, hand_scores(), "--counts", counts, "--unpaired", out="out")
    table = pd.read_csv(tmp_path / "out" / "bipartite.csv")
    assert table.columns.tolist() == BIPARTITE
    assert set(table["source"]) == {"toy"}
    assert set(table["model"]) == {"tiny-model"}
    assert (table["n_documents"] == 3).all()
    table = table.set_index(["estimator", "ell_tokens", "L_tokens"])
    estimators = ["direct", "direct_corrected", "vclub", "direct_unpaired"]
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
    assert len(record["inputs"]) == 2


# A Markov chain, known in closed form


def test_markov_chain_from_end_to_end(tmp_path):
    scores, chains = chain_scores(400, seed=0)
    pairs = np.unique(chains[:, :-1] * 3 + chains[:, 1:], return_counts=True)[1]
    occurrences, types = np.unique(pairs, return_counts=True)
    counts = save_counts(tmp_path / "counts.csv", occurrences.tolist(), types.tolist())
    printed = run(tmp_path, scores, "--counts", counts, "--bootstrap", 50)
    table = pd.read_csv(tmp_path / "bipartite.csv")
    assert table[["ell_tokens", "L_tokens"]].drop_duplicates().to_numpy().tolist() == (
        [[2, 4], [2, 6], [2, 8], [4, 8], [4, 12], [4, 16], [8, 16], [8, 24], [8, 32], [16, 32]]
    )
    # Two independent tokens, scored as the chain's step: vCLUB's excess over the information.
    excess = np.sum(PI[:, None] * PI * np.log(PI / P))
    truth = {"direct": INFORMATION, "direct_corrected": INFORMATION, "vclub": INFORMATION + excess}
    for row in table.itertuples():
        assert abs(row.mi_nats - truth[row.estimator]) < 4 * row.stderr_nats
        assert abs(row.context_mismatch_nats - excess) < 4 * row.context_mismatch_stderr_nats
        if row.estimator == "direct":  # everything but the step from X into Y cancels
            before, after = chains[:, row.ell_tokens - 1], chains[:, row.ell_tokens]
            information = np.log(P[before, after] / PI[after])
            assert row.mi_nats == pytest.approx(np.mean(information), abs=1e-12)
            assert row.stderr_nats == pytest.approx(np.std(information, ddof=1) / 20, abs=1e-12)

    fits = pd.read_csv(tmp_path / "fit.csv")
    assert fits.columns.tolist() == FIT_COLUMNS
    power = fits[(fits["law"] == "power") & (fits["L_over_ell"] == 2)]
    assert sorted(zip(power["estimator"], power["parameter"], strict=True)) == [
        (estimator, parameter) for estimator in sorted(truth) for parameter in ("A", "beta")
    ]
    assert (power["lo95"] < power["value"]).all()
    assert (power["value"] < power["hi95"]).all()
    assert (power[power["parameter"] == "beta"]["value"].abs() < 0.2).all()
    line = fits[(fits["law"] == "power_ols") & (fits["L_over_ell"] == 2)]
    assert len(line) == 6
    assert line[["lo95", "hi95", "chi2", "aic"]].isna().all(axis=None)
    # 3·ell reaches 32 at three points, 4·ell at three: both have a fit.
    assert set(fits["L_over_ell"]) == {2, 3, 4}
    assert "source toy, model tiny-model, 400 documents; books: 1; start token (BOS): unknown\n" in printed


def test_block_entropy_of_a_markov_chain_at_every_ratio(tmp_path):
    """H(ell) + H(L − ell) − H(L), H(n) = H(state) + (n − 1) · H(step): the same as direct finds, with larger errors."""
    scores = with_start(*chain_scores(1000, seed=1))
    printed = run(tmp_path, scores, "--bootstrap", 0)
    assert "block_entropy is left out" not in printed
    table = pd.read_csv(tmp_path / "bipartite.csv").set_index(["estimator", "ell_tokens", "L_tokens"])
    block, direct = table.loc["block_entropy"], table.loc["direct"]
    assert sorted({L / ell for ell, L in block.index}) == [2, 3, 4]
    assert ((block["mi_nats"] - INFORMATION).abs() < 4 * block["stderr_nats"]).all()
    assert ((block["mi_nats"] - direct["mi_nats"]).abs() < 4 * block["stderr_nats"]).all()
    assert (block["stderr_nats"] > direct["stderr_nats"]).all()
    shortest = block.loc[(2, 4)]
    at = scores[(scores["ell_tokens"] == 2) & (scores["L_tokens"] == 4)]
    terms = at["logq_y_given_x_nats"] - at[START]
    assert shortest["mi_nats"] == pytest.approx(terms.mean())
    assert shortest["stderr_nats"] == pytest.approx(terms.std() / math.sqrt(1000))
    assert "(block_entropy)" in (tmp_path / "summary.txt").read_text(encoding="utf-8").splitlines()[0]
    windows = pd.read_csv(tmp_path / "sweep.csv")
    assert "block_entropy" in set(windows["estimator"])


def test_without_its_column_block_entropy_is_left_out(tmp_path):
    printed = run(tmp_path, hand_scores())
    assert len([line for line in printed.splitlines() if "block_entropy" in line]) == 1
    said = (
        f"block_entropy is left out: {tmp_path}/scores.csv has no column {START}; score_documents.py with another --out"
    )
    assert said in printed
    assert set(pd.read_csv(tmp_path / "bipartite.csv")["estimator"]) == {"direct", "vclub"}
    assert "block_entropy" not in (tmp_path / "summary.txt").read_text(encoding="utf-8")


def test_its_column_is_checked_like_the_others(tmp_path):
    scores = hand_scores().assign(**{START: -3.0})
    scores.loc[scores["document"] == "b", START] = np.nan
    assert "3 documents, 1 of them left out (1 without scores" in run(tmp_path, scores)
    assert set(pd.read_csv(tmp_path / "bipartite.csv")["n_documents"]) == {2}
    scores[START] = [-3.0, -3.0, -3.0, -np.inf, -3.0, -3.0]
    assert "1 of them left out (0 without scores, 1 with an infinite one; the first: b)" in run(tmp_path, scores)


# Laws, windows, and whole books


def power_scores(books: int, documents: int, flavour: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Scores whose direct term is 3 · L^0.6 but for noise of the document and of its book; vCLUB's is twice that."""
    rng, L, rows = np.random.default_rng(seed), 2 ** np.arange(2, 11), []
    for book in range(books):
        bend = flavour * rng.standard_normal() * np.linspace(0, 1, len(L))
        for number in range(documents):
            noise = 0.2 * rng.standard_normal(len(L)) + 0.2 * rng.standard_normal()
            term = 3 * L**0.6 * (1 + noise + bend)
            alone = -5.0 * L + rng.standard_normal(len(L))
            values = {
                "document": f"book{book}#{number:04d}",
                "book": f"book{book}",
                "ell_tokens": L // 2,
                "L_tokens": L,
                "logq_y_given_x_nats": alone + term,
                "logq_y_nats": alone,
                "logq_y_first2_nats": -10.0 + rng.standard_normal(),
                "logq_y_given_other_x_nats": alone - term,
                "x_donor": f"book{(book + 1) % books}#{number:04d}",
            }
            rows.append(pd.DataFrame(values, columns=SCORES))
    return pd.concat(rows)


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
    windows = windows[windows["estimator"] == "direct"].set_index(["L_min", "L_max"])
    assert len(windows) == 9 * 8 / 2
    mi = pd.read_csv(tmp_path / "bipartite.csv").set_index(["estimator", "L_tokens"])["mi_nats"]["direct"]
    assert windows.loc[(64, 128), "beta"] == pytest.approx(math.log2(mi[128] / mi[64]))
    whole = [power.loc["A", "value"], *power.loc["beta", ["value", "lo95", "hi95"]]]
    assert windows.loc[(4, 1024), ["A", "beta", "lo95", "hi95"]].tolist() == pytest.approx(whole)

    information, exponent = (tmp_path / "summary.txt").read_text(encoding="utf-8").splitlines()
    assert printed.splitlines()[-2:] == [information, exponent]
    table = pd.read_csv(tmp_path / "bipartite.csv").query("L_tokens == 1024 and estimator == 'direct'")
    error = table["stderr_by_book_nats"].item()
    assert f"at L = 1024: {table['mi_nats'].item():.1f} ± {error:.1f} (direct)" in information
    row = power.loc["beta"]
    interval = f"{row['value']:.2f} [{row['lo95']:.2f}, {row['hi95']:.2f}]"
    assert f"{interval} (direct, L = 4 to 1024, p = {row['p_value']:.2f})" in exponent
    assert "95% interval by documents" in exponent


def test_window_of_the_fits(tmp_path):
    printed = run(tmp_path, power_scores(1, 30), "--L-fit-min", 16, "--L-fit-max", 256, "--bootstrap", 20)
    assert "one book: the resampling is over its documents" in printed
    fits = pd.read_csv(tmp_path / "fit.csv")
    assert set(fits["L_min"]) == {16}
    assert set(fits["L_max"]) == {256}
    assert set(fits["boot_clusters"].dropna()) == {"30 documents"}
    assert len(pd.read_csv(tmp_path / "bipartite.csv")) == 2 * 9
    run(tmp_path, power_scores(1, 30), "--bootstrap", 0)
    assert pd.read_csv(tmp_path / "fit.csv")["boot_lo95"].isna().all()


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
    """A book counts once, however many documents it has; its rows have the mean of all documents."""
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
    assert set(fit["fit_units"]) == {f"{MIN_BOOKS} books"}
    (wanted, *_), _ = fit_ratio(rows, 2)
    assert fit.loc["beta", ["value", "lo95", "hi95"]].tolist() == pytest.approx(wanted.parameters["beta"])
    assert "95% interval by books" in (tmp_path / "summary.txt").read_text(encoding="utf-8")


def test_what_each_book_costs(tmp_path):
    scores = power_scores(4, 2).assign(**{BYTES: lambda rows: 3.0 * (rows["L_tokens"] - rows["ell_tokens"])})
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
    """Books of different 2-gram entropy: their share moves Ĥ, and with it every term of direct_corrected."""
    scores, path = power_scores(5, 8), tmp_path / "counts_by_book.csv"
    counts = save_counts(tmp_path / "counts.csv", [1, 2], [5000, 2500])
    entropy = grassberger_entropy(np.array([1, 2]), np.array([5000, 2500]))

    def width(added: tuple[float, ...] | None, books: tuple[str, ...] = tuple(f"book{i}" for i in range(5))) -> float:
        """Of the resampled interval of β, where the books' entropies are this much above that of all."""
        if added is not None:
            shares = pd.DataFrame({"book": books, "ngrams": 2000, "entropy_nats": entropy + np.array(added)})
            shares.assign(source="toy", tokenizer="tok", kind="ngram", n_or_d=2).to_csv(path, index=False)
        printed = run(tmp_path, scores, "--counts", counts, "--bootstrap", 60)
        fits = pd.read_csv(tmp_path / "fit.csv").query("estimator == 'direct_corrected' and law == 'power_ols'")
        row = fits[fits["parameter"] == "beta"].iloc[0]
        assert ("leaves the 2-gram entropy as it is" in printed) == (added is None or "elsewhere" in books)
        return row["boot_hi95"] - row["boot_lo95"]

    none = width(None)
    assert width((0,) * 5) == pytest.approx(none, rel=1e-9)
    assert width((-4, -2, 0, 2, 4)) > 1.3 * none
    assert width((0,) * 5, ("book0", "book1", "book2", "book3", "elsewhere")) == pytest.approx(none, rel=1e-9)


def test_what_resampled_books_do_to_the_entropy():
    shares = pd.DataFrame({"ngrams": [100, 300, 600], "entropy_nats": [8.0, 9.0, 10.0]}, index=["a", "b", "elsewhere"])
    entropy = (800 + 2700 + 6000) / 1000
    shift = _entropy_shift(shares, np.array(["a", "b"]), entropy, 0.8)
    assert shift(np.array([1, 1])) == pytest.approx(0, abs=1e-12)
    assert shift(np.array([2, 0])) == pytest.approx(0.8 * ((1600 + 6000) / 800 - entropy))


def test_documents_that_repeat_another_are_left_out(tmp_path):
    scores = power_scores(3, 3)
    copy = scores[scores["document"] == "book0#0001"]
    copy = copy.assign(document="copy", book="other", logq_y_given_other_x_nats=-9)
    printed = run(tmp_path, pd.concat([scores, copy]), "--bootstrap", 0)
    assert "10 documents, 1 left out that repeat another score by score (the first: copy)" in printed
    assert set(pd.read_csv(tmp_path / "bipartite.csv")["n_documents"]) == {9}


def test_a_line_keeps_to_its_lengths_when_books_are_resampled():
    """A length that is negative here and positive in a resampling would be a lever that the estimate has not."""
    scores = power_scores(6, 10)
    terms = per_document_terms(scores, "direct")
    L, values = at_ratio(terms, 2)
    values = values - np.r_[values[:, 0].mean() + 0.01, np.zeros(8)]
    units = np.repeat(np.arange(6), 10)
    interval = bootstrap_power(L, values, units, lambda drawn: 0.0, 100, seed=0)["power_ols", "beta"]
    without = bootstrap_power(L[1:], values[:, 1:], units, lambda drawn: 0.0, 100, seed=0)["power_ols", "beta"]
    assert interval == pytest.approx(without, rel=1e-9)


def test_estimates_below_zero_and_documents_all_alike(tmp_path):
    """I is reported, the fit is not, and the reason is."""
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


# What is left out, and said


def test_failed_documents_are_left_out_and_counted(tmp_path):
    scores = pd.concat([hand_scores(), hand_scores().replace({"document": {"a": "d", "b": "e", "c": "f"}})])
    clean = per_document_terms(scores, "vclub")
    scores.loc[scores["document"] == "d", LOGQ] = np.nan
    scores = scores.astype({LOGQ[1]: object})
    scores.loc[(scores["document"] == "f") & (scores["ell_tokens"] == 4), LOGQ[1]] = "-inf"
    printed = run(tmp_path, scores, "--unpaired")
    assert "6 documents, 2 of them left out (1 without scores, 1 with an infinite one; the first: d)" in printed
    table = pd.read_csv(tmp_path / "bipartite.csv").set_index(["estimator", "ell_tokens"])
    assert table.loc[("vclub", 2), "n_documents"] == 4
    assert table.loc[("vclub", 2), "mi_nats"] == clean[(2, 4)].drop(["d", "f"]).mean()
    # a, b, c and e have the x_donors b, c, a and c.
    assert table.loc[("direct_unpaired", 2), "n_documents"] == 4
    assert np.isfinite(table.dropna(axis=1, how="all").select_dtypes("number")).all(axis=None)

    scores.loc[scores["document"] == "a", LOGQ] = np.nan
    assert "direct_unpaired: 1 documents left out whose X' is of" in run(tmp_path, scores, "--unpaired")
    table = pd.read_csv(tmp_path / "bipartite.csv").set_index(["estimator", "ell_tokens"])
    assert table.loc[("direct", 2), "n_documents"] == 3
    assert table.loc[("direct_unpaired", 2), "n_documents"] == 2
    assert table.loc[("direct_unpaired", 2), "context_mismatch_nats"] == pytest.approx((6 + 6) / 2)


def test_too_few_lengths_for_a_fit(tmp_path):
    scores, _ = chain_scores(300, seed=3, L_max=8)
    printed = run(tmp_path, scores)
    laws = "power, power_plus_constant, logarithm, saturating"
    assert f"direct, L = 2 ell: no fit ({laws}): 2 points, and 3 are needed" in printed
    assert "direct, L = 2 ell: no fit (broken_power): 2 points, and 4 are needed" in printed
    assert "direct, L = 2 ell: no fit (power_ols): 2 of 2 points lie above 0, and 3 are needed" in printed
    assert len(pd.read_csv(tmp_path / "bipartite.csv")) == 2 * 4
    fits = pd.read_csv(tmp_path / "fit.csv")
    assert fits.empty
    assert fits.columns.tolist() == FIT_COLUMNS


def test_names_that_look_like_numbers_or_gaps(tmp_path):
    names = {"a": "NA", "b": "007", "c": "1e3"}
    scores, line = read_scores(save(tmp_path, hand_scores().replace({"document": names, "x_donor": names})))
    assert line == "3 documents"
    assert per_document_terms(scores, "direct_unpaired").loc[["NA", "007", "1e3"], (2, 4)].tolist() == [4, 6, -4]


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
        (lambda scores: pd.concat([scores, scores.iloc[[3]]]), "line 8 (document b, ell 4, L 8): a row that is there"),
        (lambda scores: scores.iloc[:-1], "line 6 (document c, ell 2, L 4): a document without some of the (ell, L)"),
        (lambda scores: scores[scores["document"] == "a"], "1 documents; at least two with scores are needed"),
        (put("logq_y_nats", "many", "b"), "line 4: logq_y_nats is 'many', not a number"),
        (lambda scores: scores.assign(**{START: "many"}), f"line 2: {START} is 'many', not a number"),
        (put("L_tokens", 2, "b"), "line 4 (document b, ell 2, L 2): not 1 <= ell < L"),
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
        ({"occurrences": 1}, "line 3: no counts of counts, or a line that repeats"),
        ({"types": 0}, "line 2: no counts of counts"),
    ],
)
def test_bad_counts(tmp_path, changes, message):
    counts = save_counts(tmp_path / "counts.csv", [1, 2], [2, 1], changes)
    assert message in refusal(tmp_path, hand_scores(), "--counts", counts)


def test_bad_records(tmp_path):
    for record, message in (
        ({"source": "toy"}, "names no source or no model: score the documents again"),
        ({"settings": None}, "scores.json is not the record of a run: restore it, or"),
        ([], "scores.json is not the record of a run: restore it, or"),
    ):
        assert message in refusal(tmp_path, hand_scores(), provenance=record)
    record = tmp_path / "scores.json"
    record.write_text("{")
    with pytest.raises(UserError, match="is not the record of a run"):
        read_provenance(tmp_path / "scores.csv")
    record.unlink()
    assert read_provenance(tmp_path / "scores.csv") == {}
