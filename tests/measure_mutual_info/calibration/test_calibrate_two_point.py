"""The exact two-point information against an independent computation, and the calibration's tables row by row."""

from __future__ import annotations

import functools
import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.stats import binomtest
from scipy.stats import t as student

from measure_mutual_info.calibration.processes import BernoulliUniform, MarkovChain, Shuffled, Topics
from measure_mutual_info.calibration.replications import summed_up
from measure_mutual_info.calibration.two_point import Settings, count, replicate, summary
from measure_mutual_info.estimate_two_point import KINDS, read_information, read_pairs
from tests.conftest import call_script, flags_of, one_line_error, write_documents

SCRIPT = "measure_mutual_info/calibration/two_point.py"
SMALL = {"books": 12, "tokens": 120, "d_max": 8, "replications": 6}
COLUMNS = "process quantity d_tokens units tokens pairs truth mean bias sd mean_stderr mean_half_width coverage"
COLUMNS += " coverage_lo95 coverage_hi95 coverage_of_mean replications failed"


def of_joint(joint: np.ndarray) -> float:
    """Σ p_ab ln(p_ab / p_a p_b), nats."""
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / independent[seen])).sum())


# The exact information


def test_markov_chain_against_all_rows():
    chain = MarkovChain()
    for d in (1, 2, 6):
        rows, joint = np.array(list(itertools.product(range(3), repeat=d + 1))), np.zeros((3, 3))
        np.add.at(joint, (rows[:, 0], rows[:, -1]), np.exp(chain.logprobs(rows).sum(axis=1)))
        assert chain.two_point_information(d) == pytest.approx(of_joint(joint), rel=1e-11)
    # At large d it is proportional to λ^2d, with λ the second eigenvalue, even where it is below rounding.
    second = np.sort(np.abs(np.linalg.eigvals(np.array(chain.P))))[-2]
    ratio = chain.two_point_information(104) / chain.two_point_information(100)
    assert ratio == pytest.approx(second**8, rel=1e-5)


def test_coins_against_the_integral_over_their_bias():
    both, neither = (quad(of, 0, 1)[0] for of in (lambda theta: theta**2, lambda theta: (1 - theta) ** 2))
    joint = np.array([[neither, 0.5 - both], [0.5 - both, both]])
    for d in (1, 7):
        assert BernoulliUniform().two_point_information(d) == pytest.approx(of_joint(joint), rel=1e-12)


def joint_of_topics(process: Topics, same: float) -> np.ndarray:
    """p(a, b) of two tokens that are in the same segment with probability `same`, summed over the topics."""
    spread = np.full((process.topics, process.vocab_size), (1 - process.own) / process.vocab_size)
    for topic in range(process.topics):
        spread[topic, topic * process.words : (topic + 1) * process.words] += process.own / process.words
    mean = spread.mean(axis=0)
    return same * spread.T @ spread / process.topics + (1 - same) * np.outer(mean, mean)


def test_topics_are_drawn_as_they_say():
    """At any place, two tokens at distance d share a group as often as expected, and all tokens are equally likely."""
    process, documents = Topics(topics=4, words=2, own=0.9, decay=0.6), 40_000
    ids = process.sample(np.random.default_rng(0), documents, 60)
    assert ids.shape == (documents, 60)
    assert ids.dtype == np.int32
    for place in (0, 1, 27):
        for d in (1, 2, 5, 32):
            joint = joint_of_topics(process, 0.5 * d**-0.6)
            wanted = sum(joint[2 * g : 2 * g + 2, 2 * g : 2 * g + 2].sum() for g in range(4))
            found = (ids[:, place] // 2 == ids[:, place + d] // 2).mean()
            assert found == pytest.approx(wanted, abs=4 * math.sqrt(wanted * (1 - wanted) / documents)), (place, d)
        frequency = np.bincount(ids[:, place], minlength=8) / documents
        assert frequency == pytest.approx(np.full(8, 1 / 8), abs=4 * math.sqrt(1 / 8 / documents))
    process = Topics(topics=3, words=4, own=0.6)
    for same in (1.0, 0.3, 0.001):
        assert process.information(same) == pytest.approx(of_joint(joint_of_topics(process, same)), rel=1e-9)
    exact = Topics()
    assert [exact.two_point_information(d) for d in (1, 64)] == pytest.approx(
        [of_joint(joint_of_topics(exact, 0.5 * d**-0.45)) for d in (1, 64)], rel=1e-9
    )
    slopes = np.diff(np.log([exact.two_point_information(2**i) for i in range(9)])) / math.log(2)
    assert ((slopes > -0.9) & (slopes < -0.8)).all(), "about a power law"


def test_shuffled_documents_keep_what_they_are_about():
    """The information between two places in 400,000 documents of five shuffled tokens, against the closed form."""
    process = Shuffled(topics=2, words=1, own=1.0, decay=0.3, tokens=5)
    ids = process.sample(np.random.default_rng(0), 400_000, 5)
    for i, j in ((0, 1), (1, 4)):
        joint = np.bincount(2 * ids[:, i] + ids[:, j], minlength=4).reshape(2, 2) / len(ids)
        assert process.two_point_information(abs(i - j)) == pytest.approx(of_joint(joint), rel=0.03)


def test_truth_of_an_exponent_is_that_of_the_exact_curve(monkeypatch):
    """For a power law plus a constant, all three fits find the known exponent."""
    d, values = 2 ** np.arange(9), 1e-3 * np.random.default_rng(0).standard_normal((3, 50, 9))
    curve = dict(zip(d.tolist(), (0.3 * d**-0.7 + 0.01).tolist(), strict=True))
    monkeypatch.setattr(Topics, "two_point_information", lambda self, d: curve[d])
    found = {"mi": values.mean(axis=1), "values": values, "C": np.zeros(3), "alpha": np.zeros((3, 3, 3))}
    table = summary(Settings(d_max=256), "topics", found).set_index("quantity")
    assert table.loc[["alpha_gls", "alpha_wls", "alpha_ols"], "truth"].to_numpy() == pytest.approx(0.7, rel=1e-4)


# Counts


def test_counts_in_memory_are_those_of_count_ngrams(tmp_path):
    ids, distances = Topics(topics=3, words=5).sample(np.random.default_rng(0), 9, 150), [1, 2, 4, 8, 16]
    documents = write_documents(tmp_path / "documents", {f"b{i}": [row.tolist()] for i, row in enumerate(ids)}, 15)
    out = tmp_path / "counts.csv"
    flags = ["--documents", documents, "--out", out, "--d", *distances, "--equal-pairs"]
    done = call_script("measure_mutual_info/count_ngrams.py", *flags)
    assert done.returncode == 0, done.stderr
    wanted = read_pairs(out)
    wanted_pairs, wanted_information = read_information(out, wanted)
    counts, pairs, information = count(ids, distances)
    for kind in KINDS:
        assert list(counts[kind]) == distances
        for d in distances:
            assert np.array_equal(counts[kind][d], wanted.by_kind[kind][d]), (kind, d)
    assert np.array_equal(pairs, wanted_pairs)
    assert information == pytest.approx(wanted_information, abs=1e-12)


# Coverage


def replicated(cfg: Settings, name: str) -> dict[str, np.ndarray]:
    found = [replicate(cfg, name, cfg.books, number) for number in range(cfg.replications)]
    return {array: np.stack([one[array] for one in found]) for array in found[0]}


def test_intervals_hold_the_truth_of_shuffled_books():
    """100 replications. With a true coverage of 0.95, one below 0.88 at any distance has a probability below 1/200."""
    cfg = Settings(books=60, tokens=100, d_max=4, replications=100)
    rows = summary(cfg, "shuffled", replicated(cfg, "shuffled")).set_index("quantity").loc["mi_corrected"]
    assert rows["d_tokens"].tolist() == [1, 2, 4]
    assert (rows["coverage"] >= 0.88).all(), rows


def test_a_plateau_is_seen_and_taken_off():
    cfg = Settings(books=60, tokens=400, d_max=16, replications=40)
    table = summary(cfg, "topics", replicated(cfg, "topics")).set_index("quantity")
    raw, corrected = table.loc["mi"], table.loc["mi_corrected"]
    assert (raw["coverage"] == 0).all()
    assert (raw["coverage_of_mean"] >= 0.7).all()  # most pairs are seen once, and the errors are too small
    assert (corrected["bias"].abs().to_numpy() < 0.2 * raw["bias"].to_numpy()).all()
    assert corrected["bias"].to_numpy() == pytest.approx(raw["bias"].to_numpy() - table.loc["C", "mean"], abs=2e-6)
    assert table.loc["alpha_gls", "coverage"] > 0.8


def test_a_row_sums_up_its_replications():
    half = student.ppf(0.975, 1) * 0.1
    shifts = np.array([0.0, 0.9, -0.9, 1.2]) * half
    values = 0.5 + shifts
    row = summed_up(values, values - half, values + half, 0.5)
    assert (row["truth"], row["replications"], row["failed"]) == (0.5, 4, 0)
    assert row["bias"] == pytest.approx(shifts.mean())
    assert row["sd"] == pytest.approx(shifts.std(ddof=1))
    assert row["mean_half_width"] == pytest.approx(half)
    interval = binomtest(3, 4).proportion_ci()
    found = row["coverage"], row["coverage_lo95"], row["coverage_hi95"]
    assert found == pytest.approx((0.75, interval.low, interval.high))
    assert row["coverage_of_mean"] == 0.75  # −0.9 lies 1.2 half-widths below the mean
    values[0] = math.nan
    row = summed_up(values, values - half, values + half, 0.5)
    assert (row["coverage"], row["failed"], row["mean"]) == (0.5, 1, pytest.approx(0.5 + shifts[1:].mean()))
    none = np.full(4, math.nan)
    assert "coverage" not in summed_up(0 * shifts, none, none, 0.5)
    assert summed_up(none, none, none, 0.5)["coverage"] == 0  # nothing could be fitted


# Through the command line


arguments = functools.partial(flags_of, **SMALL)


def test_whole_run(tmp_path):
    done = call_script(SCRIPT, *arguments(tmp_path))
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "two_point.csv")
    assert list(table.columns) == COLUMNS.split()
    everywhere = [*["mi"] * 4, *["mi_corrected"] * 4, "C"]
    assert table["process"].unique().tolist() == ["markov", "bernoulli", "topics", "shuffled"]
    for name, rows in table.groupby("process", sort=False):
        exponents = ["alpha_gls", "alpha_wls", "alpha_ols"] if name == "topics" else []
        assert rows["quantity"].tolist() == everywhere + exponents
        assert rows["d_tokens"].tolist()[:8] == [1, 2, 4, 8] * 2
        assert rows[["replications", "tokens", "pairs"]].drop_duplicates().to_numpy().tolist() == [[6, 1440, 12 * 112]]
    cfg = Settings(**SMALL)
    mi = np.array([replicate(cfg, "bernoulli", 12, number)["mi"] for number in range(6)])
    rows = table[(table["process"] == "bernoulli") & (table["quantity"] == "mi")]
    assert rows["mean"].to_numpy() == pytest.approx(mi.mean(axis=0), rel=1e-5)
    assert rows["sd"].to_numpy() == pytest.approx(mi.std(axis=0, ddof=1), rel=1e-5)
    assert (rows["sd"] > 0).all(), "replications differ"
    other = replicate(Settings(**SMALL, seed=1), "bernoulli", 12, 0)["mi"]
    assert (other != mi[0]).all()
    assert json.loads((tmp_path / "two_point.json").read_text())["settings"]["books"] == 12
    assert "complete already" in call_script(SCRIPT, *arguments(tmp_path, workers=2)).stdout
    assert "books 12 there, 13 here" in one_line_error(call_script(SCRIPT, *arguments(tmp_path, books=13)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"books": 1}, "--books 1: must be at least 2"),
        ({"d_max": 3}, "--d-max 3: give at least 4, for a fit, and less than --tokens 120"),
        ({"d_max": 120}, "--d-max 120: give at least 4, for a fit, and less than --tokens 120"),
    ],
)
def test_bad_settings(tmp_path, changes, message):
    assert message in one_line_error(call_script(SCRIPT, *arguments(tmp_path / "out", **changes)))
    assert not (tmp_path / "out").exists()
