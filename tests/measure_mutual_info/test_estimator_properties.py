"""Properties of the estimators that hold for any scores, counts and models: bounds, identities, invariances.

The truth for joint counts is the plug-in information of their distribution, computed by the dit library.
"""

from __future__ import annotations

import dit
import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from measure_mutual_info.counting import entropy
from measure_mutual_info.estimate_bipartite import estimate_table, per_document_terms
from measure_mutual_info.estimate_two_point import ESTIMATORS, fit_eq_b15, mutual_information, unit_values
from measure_mutual_info.scoring.tables import LOGQ, START

many = settings(max_examples=60, deadline=None, derandomize=True)
some_counts = st.lists(st.integers(1, 30), min_size=1, max_size=12)
joint_counts = arrays(np.int64, (3, 4), elements=st.integers(0, 6)).filter(lambda counts: counts.sum() > 1)
probabilities = arrays(float, (3, 4), elements=st.floats(0.01, 1))
numbers = st.floats(-50, 0, allow_nan=False)


def counts_of_counts(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.unique(counts[counts > 0], return_counts=True)


def information(counts: np.ndarray) -> float:
    """Mutual information, in nats, of the joint distribution proportional to `counts`, (x, y), by dit."""
    outcomes = [(x, y) for x, y in np.ndindex(*counts.shape) if counts[x, y]]
    joint = dit.Distribution(outcomes, [counts[place] / counts.sum() for place in outcomes])
    return dit.shannon.mutual_information(joint, [0], [1]) * np.log(2)


@many
@given(some_counts, st.randoms(use_true_random=False))
def test_entropies_see_counts_alone(counts, random):
    occurrences, types = counts_of_counts(np.array(counts))
    order = random.sample(range(len(types)), len(types))
    one_by_one = np.array(counts), np.ones(len(counts), dtype=int)
    for estimate in (*ESTIMATORS.values(), entropy.miller_madow_entropy):
        wanted = estimate(occurrences, types)
        np.testing.assert_allclose(estimate(occurrences[order], types[order]), wanted, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(estimate(*one_by_one), wanted, rtol=1e-12, atol=1e-12)
    naive = entropy.naive_entropy(occurrences, types)
    p = np.array(counts) / sum(counts)
    np.testing.assert_allclose(naive, -(p * np.log(p)).sum(), rtol=1e-12, atol=1e-12)
    assert -1e-12 <= naive <= np.log(len(counts)) + 1e-12
    wanted = naive + (len(counts) - 1) / (2 * sum(counts))
    np.testing.assert_allclose(entropy.miller_madow_entropy(occurrences, types), wanted, rtol=1e-12, atol=1e-12)


@many
@given(some_counts)
def test_seen_ten_thousand_times_as_often_all_entropies_agree(counts):
    occurrences, types = counts_of_counts(np.array(counts) * 10_000)
    wanted = entropy.naive_entropy(occurrences, types)
    for estimate in (*ESTIMATORS.values(), entropy.miller_madow_entropy):
        assert abs(estimate(occurrences, types) - wanted) < len(counts) / 10_000


@many
@given(joint_counts)
def test_two_point_information_of_any_joint_counts(joint):
    kinds = {"left": joint.sum(axis=1), "right": joint.sum(axis=0), "pair": joint}
    counts = {kind: {7: counts_of_counts(some)} for kind, some in kinds.items()}
    swapped = counts | {"left": counts["right"], "right": counts["left"]}
    for name in ESTIMATORS:
        (found,), (again,) = mutual_information(counts, name), mutual_information(swapped, name)
        assert abs(found - again) < 1e-12
    (naive,) = mutual_information(counts, "naive")
    assert abs(naive - information(joint)) < 1e-9


@many
@given(
    arrays(np.int64, (5, 3), elements=st.integers(0, 40)).filter(lambda n: ((n > 0).sum(axis=0) > 1).all()),
    arrays(float, (5, 3), elements=st.floats(-2, 5)),
)
def test_unit_values_are_the_jackknifes(pairs, mi):
    found = unit_values(pairs, mi)
    whole = (pairs * mi).sum(axis=0) / pairs.sum(axis=0)
    np.testing.assert_allclose(found.mean(axis=0), whole, rtol=0, atol=1e-10)
    others = [np.delete(np.arange(5), unit) for unit in range(5)]
    left_out = np.array([(pairs[rest] * mi[rest]).sum(axis=0) / pairs[rest].sum(axis=0) for rest in others])
    np.testing.assert_allclose(found - whole, -4 * (left_out - left_out.mean(axis=0)), rtol=0, atol=1e-9)
    np.testing.assert_allclose(unit_values(pairs, 3 * mi + 1), 3 * found + 1, rtol=0, atol=1e-9)
    np.testing.assert_allclose(unit_values(7 * pairs, mi), found, rtol=0, atol=1e-9)


@many
@given(st.floats(0.1, 3), st.floats(0.2, 1.5), st.floats(0, 0.5), st.floats(0.1, 10))
def test_eq_b15_knows_no_unit_of_information(A, alpha, C, scale):
    d = 2.0 ** np.arange(8)
    mi = A * d**-alpha + C
    fit, scaled = fit_eq_b15(d, mi), fit_eq_b15(d, scale * mi)
    np.testing.assert_allclose(A_alpha_C(fit), [A, alpha, C], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(A_alpha_C(scaled), np.multiply(A_alpha_C(fit), [scale, 1, scale]), rtol=1e-3, atol=1e-3)


def A_alpha_C(fit) -> list[float]:  # noqa: N802 - the symbols of the equation
    return [fit.parameters[name][0] for name in ("A", "alpha", "C")]


def table(log_q: np.ndarray, x_donors: list[int]) -> pd.DataFrame:
    """scores.csv with a single (ell, L). log_q: (documents, 4), in the order of LOGQ."""
    names = np.array([f"d{i:02d}" for i in range(len(log_q))])
    columns = dict(zip(LOGQ, log_q.T, strict=True))
    cells = {"document": names, "ell_tokens": 4, "L_tokens": 8, "x_donor": names[x_donors]}
    return pd.DataFrame(cells | columns)


@st.composite
def any_scores(draw: st.DrawFn) -> pd.DataFrame:
    documents = draw(st.integers(2, 8))
    log_q = draw(arrays(float, (documents, 4), elements=numbers))
    return table(log_q, draw(st.permutations(range(documents))))


@settings(many, max_examples=25)
@given(any_scores(), st.floats(0, 12), st.randoms(use_true_random=False))
def test_identities_of_the_terms(scores, first2_entropy, random):
    def terms(name: str, of: pd.DataFrame = scores) -> np.ndarray:
        found = per_document_terms(of, name, first2_entropy)
        assert list(found.index) == sorted(scores["document"])
        return found.to_numpy()[:, 0]

    def same(one: np.ndarray, other: np.ndarray) -> None:
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)

    same(terms("vclub"), terms("direct") + terms("context_mismatch"))
    first2 = scores.set_index("document")[LOGQ[2]]
    same(terms("direct_corrected"), terms("direct") + 4 / 5 * (first2 + first2_entropy).sort_index())  # Eq. B.7
    same(terms("direct_unpaired").mean(), terms("direct").mean())  # the x_donors are a permutation
    # A shift that is the same for all of a document, e.g. from its style, cancels.
    given_x, alone, _, given_other_x = LOGQ
    shift = np.arange(len(scores))
    same(
        terms("direct", scores.assign(**{given_x: scores[given_x] + shift, alone: scores[alone] + shift})),
        terms("direct"),
    )
    moved = {given_x: scores[given_x] + shift, given_other_x: scores[given_other_x] + shift}
    same(terms("vclub", scores.assign(**moved)), terms("vclub"))
    shuffled = scores.iloc[random.sample(range(len(scores)), len(scores))]
    for name in ("direct", "direct_corrected", "vclub", "direct_unpaired"):
        same(terms(name, shuffled), terms(name))
    mean = estimate_table(per_document_terms(scores, "direct"), per_document_terms(scores, "context_mismatch"))
    same(mean["mi_nats"].item(), terms("direct").mean())
    same(mean["stderr_nats"].item(), terms("direct").std(ddof=1) / len(scores) ** 0.5)


@many
@given(arrays(float, (3, 3), elements=st.floats(0.01, 1)), st.sampled_from([(1, 2), (1, 3), (2, 4), (1, 4), (3, 4)]))
def test_block_entropy_and_direct_of_a_stationary_chain_are_its_information(weights, cut):
    """For any chain with a stationary start and its exact predictor: the expectation over all possible rows."""
    ell, L = cut
    P = weights / weights.sum(axis=1, keepdims=True)
    pi = np.linalg.matrix_power(P, 4096)[0]
    rows = np.stack(np.meshgrid(*[range(3)] * L, indexing="ij"), axis=-1).reshape(-1, L)

    def log_q(ids: np.ndarray) -> np.ndarray:
        return np.log(pi[ids[:, 0]]) + np.log(P[ids[:, :-1], ids[:, 1:]]).sum(axis=1)

    given_x, alone, start = log_q(rows) - log_q(rows[:, :ell]), log_q(rows[:, ell:]), log_q(rows[:, : L - ell])
    columns = np.stack([given_x, alone, alone, alone], axis=1)
    names = np.array([f"d{i:02d}" for i in range(len(rows))])
    scores = table(columns, list(range(len(rows)))).assign(**{"document": names, START: start})
    p = np.exp(log_q(rows))
    truth = float(-pi @ np.log(pi) + pi @ (P * np.log(P)).sum(axis=1))
    for estimator in ("block_entropy", "direct"):
        assert abs(p @ per_document_terms(scores, estimator).to_numpy()[:, 0] - truth) < 1e-9, estimator


@many
@given(arrays(np.int64, (3, 4), elements=st.integers(1, 4)), probabilities)
def test_direct_is_a_lower_bound_and_vclub_of_the_true_model_an_upper_one(joint, q):
    """There is one document per occurrence of (x, y), so means over documents are expectations.

    With the true q(y), the direct estimate is I minus the mean of KL(p(y|x) ‖ q(y|x)) (Barber and Agakov). vCLUB with
    the true conditionals, averaged over x', is an upper bound (Cheng et al., 2020).
    """
    p, q = joint / joint.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    p_y, p_x = joint.sum(axis=0) / joint.sum(), joint.sum(axis=1) / joint.sum()
    x, y = np.repeat(np.argwhere(joint), joint.flatten(), axis=0).T
    truth = information(joint)
    x_donors = list(range(len(x)))
    zero = np.zeros(len(x))
    found = per_document_terms(table(np.log([q[x, y], p_y[y], zero + 1, zero + 1]).T, x_donors), "direct").to_numpy()
    divergence = (joint / joint.sum() * np.log(p / q)).sum()
    assert abs(found.mean() - (truth - divergence)) < 1e-9
    assert found.mean() <= truth + 1e-12
    others = p_x @ np.log(p)[:, y]  # the mean over x' instead of a single draw
    found = per_document_terms(table(np.stack([np.log(p[x, y]), zero, zero, others], axis=1), x_donors), "vclub")
    assert found.to_numpy().mean() >= truth - 1e-12
