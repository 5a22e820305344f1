from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import beta as beta_function
from scipy.stats import binom, chisquare

from measure_mutual_info.calibration import processes
from measure_mutual_info.calibration.processes import (
    PREDICTORS,
    BernoulliUniform,
    ExactBackend,
    MarkovChain,
    NoisySantaFe,
    Predictor,
)
from measure_mutual_info.scoring import passes
from measure_mutual_info.scoring.backend_transformers import TransformersBackend

TINY = [
    (NoisySantaFe(0.6, 0.2, n_keys=2), 4, 5),
    (NoisySantaFe(0.4, 0.03, n_keys=3), 6, 3),
    (MarkovChain(), 3, 6),
    (BernoulliUniform(), 2, 10),
]  # process, size of its vocabulary, length of the rows, all of which are enumerated


def every_row(vocabulary: int, n: int) -> np.ndarray:
    return np.array(list(itertools.product(range(vocabulary), repeat=n)), dtype=np.int32)


def probability_from_hidden(process, row: np.ndarray) -> float:
    """p(row) from the definition, with the hidden variables of the document summed out, or θ integrated out."""
    if isinstance(process, NoisySantaFe):
        total = 0.0
        for truth in itertools.product((0, 1), repeat=process.n_keys):
            told = [1 - process.epsilon if truth[token // 2] == token % 2 else process.epsilon for token in row]
            total += math.prod(told) / 2**process.n_keys
        weights = [(k + 1) ** (-1 / process.beta) for k in range(process.n_keys)]
        return total * math.prod(weights[token // 2] / sum(weights) for token in row)
    if isinstance(process, MarkovChain):
        states = np.linalg.matrix_power(np.array(process.P), 200)[0]
        return states[row[0]] * math.prod(process.P[a][b] for a, b in itertools.pairwise(row))
    ones = int(row.sum())
    return beta_function(ones + 1, len(row) - ones + 1)


@pytest.mark.parametrize(("process", "vocabulary", "n"), TINY)
def test_all_rows(process, vocabulary, n):
    """All rows have the probabilities of the definition, and I is that of their joint distribution."""
    rows = every_row(vocabulary, n)
    logprobs = process.logprobs(rows)
    assert logprobs.shape == rows.shape
    wanted = np.array([probability_from_hidden(process, row) for row in rows])
    assert wanted.sum() == pytest.approx(1, abs=1e-12)
    p = np.exp(logprobs.sum(axis=1))
    np.testing.assert_allclose(p, wanted, rtol=1e-11)
    # Also token by token: the beginning of a row is a row itself.
    shorter = every_row(vocabulary, n - 1)
    beginnings = logprobs[:, :-1].reshape(len(shorter), vocabulary, n - 1)[:, 0]
    np.testing.assert_allclose(beginnings, process.logprobs(shorter), rtol=1e-12)
    for ell in range(1, n):
        joint = p.reshape(vocabulary**ell, -1)
        X, Y = joint.sum(axis=1, keepdims=True), joint.sum(axis=0)
        information = float((joint * np.log(joint / (X * Y))).sum())
        assert process.mutual_information(ell, n) == pytest.approx(information, abs=1e-10)


@pytest.mark.parametrize(("process", "vocabulary"), [(process, vocabulary) for process, vocabulary, _ in TINY])
def test_samples_follow_the_probabilities(process, vocabulary):
    n = 3
    ids = process.sample(np.random.default_rng(1), 50_000, n)
    assert ids.shape == (50_000, n)
    assert ids.dtype == np.int32
    seen = np.bincount(ids @ vocabulary ** np.arange(n)[::-1], minlength=vocabulary**n)
    expected = np.exp(process.logprobs(every_row(vocabulary, n)).sum(axis=1)) * len(ids)
    keep = expected > 5
    observed, expected = np.append(seen[keep], seen[~keep].sum()), np.append(expected[keep], expected[~keep].sum())
    if expected[-1] < 5:
        observed, expected = observed[:-1], expected[:-1] * observed[:-1].sum() / expected[:-1].sum()
    assert chisquare(observed, expected).pvalue > 1e-3
    one, same, other = (process.sample(np.random.default_rng(seed), 5, 40) for seed in (3, 3, 4))
    assert (one == same).all()
    assert (one != other).any()


@pytest.mark.parametrize(("process", "vocabulary"), [(NoisySantaFe(0.6, 0.2, n_keys=2), 4), (BernoulliUniform(), 2)])
def test_documents_of_a_book_are_alike_and_each_has_the_same_law(process, vocabulary):
    alone = process.sample(np.random.default_rng(0), 40_000, 3)
    assert (process.sample(np.random.default_rng(0), 40_000, 3, np.arange(40_000)) == alone).all()
    first, second = (
        process.sample(np.random.default_rng(0), 40_000, 3, np.arange(40_000) // 2).reshape(-1, 2, 3).swapaxes(0, 1)
    )
    seen = np.bincount(second @ vocabulary ** np.arange(3)[::-1], minlength=vocabulary**3)
    assert chisquare(seen, np.exp(process.logprobs(every_row(vocabulary, 3)).sum(axis=1)) * len(second)).pvalue > 1e-3
    same = (first == second).mean(axis=0)
    if vocabulary == 2:
        assert same == pytest.approx(2 / 3, abs=0.02)  # ∫ θ² + (1 − θ)²
    else:
        assert (first >> 1 == second >> 1).all()
        assert same == pytest.approx(1 / 2, abs=0.02)  # the bits are independent


@pytest.mark.parametrize("epsilon", [0.2, 0.4])
def test_santa_fe_sums_the_binomial_exactly(epsilon):
    """The truncated sums against all terms of each binomial, with the textbook form of a key's information."""
    process = NoisySantaFe(0.7, epsilon, n_keys=40)

    def g(j: int) -> float:
        i, e = np.arange(j + 1), process.epsilon
        P = 0.5 * (e**i * (1 - e) ** (j - i) + (1 - e) ** i * e ** (j - i))
        choose = np.array([float(math.comb(j, k)) for k in i])
        return float(-(choose * P * np.log(P)).sum() + j * (e * math.log(e) + (1 - e) * math.log(1 - e)))

    table = np.array([g(j) for j in range(301)])

    def told(n: int) -> float:
        return sum(float(binom.pmf(range(n + 1), n, p) @ table[: n + 1]) for p in process.key_probability)

    assert process.mutual_information(120, 300) == pytest.approx(told(120) + told(180) - told(300), abs=1e-9)
    assert process.mutual_information(180, 300) == pytest.approx(process.mutual_information(120, 300), abs=1e-12)


def test_santa_fe_without_noise():
    """I(n; m) = ln 2 Σ_k [1 − (1−p_k)^n][1 − (1−p_k)^m]."""
    process = NoisySantaFe(0.75, 1e-13, 2**15)
    expected = math.log(2) * ((1 - (1 - process.key_probability) ** 2048) ** 2).sum()
    assert process.mutual_information(2048, 4096) == pytest.approx(expected, abs=1e-8)


def test_known_growth():
    """When ℓ doubles, log2 I of Santa Fe grows by β in the limit, I of the coin by ½ ln 2 nats, of the chain by 0."""
    for beta in (0.5, 0.75):
        process = NoisySantaFe(beta, 0.1, n_keys=30_000)
        small, large = (process.mutual_information(n, 2 * n) for n in (8192, 16_384))
        assert math.log2(large / small) == pytest.approx(beta, abs=0.01)
    small, large = (BernoulliUniform().mutual_information(n, 2 * n) for n in (4096, 8192))
    assert large - small == pytest.approx(0.5 * math.log(2), abs=1e-3)
    assert MarkovChain().mutual_information(1, 2) == MarkovChain().mutual_information(500, 700)


@pytest.mark.parametrize(("process", "vocabulary"), [(process, vocabulary) for process, vocabulary, _ in TINY])
@pytest.mark.parametrize("predictor", [*PREDICTORS.values(), Predictor(context=2), Predictor(0.5, 1, True)])
def test_misspecified_predictors_are_predictors(process, vocabulary, predictor):
    """For any past, the probabilities of the next token are above 0 and sum to 1."""
    past = process.sample(np.random.default_rng(0), 20, 6)
    for length in (0, 1, 6):
        next_token = np.tile(np.arange(vocabulary, dtype=np.int32), 20)[:, None]
        rows = np.concatenate([past[:, :length].repeat(vocabulary, axis=0), next_token], axis=1)
        p = np.exp(process.logprobs(rows, predictor)[:, -1]).reshape(20, vocabulary)
        np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
        assert (p > 0).all()


@pytest.mark.parametrize("process", [NoisySantaFe(0.6, 0.1, n_keys=3), BernoulliUniform()])
@pytest.mark.parametrize("context", [1, 3, 8])
def test_a_limited_context_forgets_what_came_before(process, context):
    rows = process.sample(np.random.default_rng(0), 10, 20)
    seen = process.logprobs(rows, Predictor(context=context))
    for i in range(20):
        fresh = process.logprobs(rows[:, max(0, i - context) : i + 1])[:, -1]
        np.testing.assert_allclose(seen[:, i], fresh, rtol=1e-12)


def test_temperature():
    """For two tokens of a key, the ratio of probabilities is that of the exact predictor to the power 1/T."""
    for process, pair in (
        (NoisySantaFe(0.6, 0.1, n_keys=3), (2, 3)),
        (MarkovChain(), (0, 2)),
        (BernoulliUniform(), (0, 1)),
    ):
        past = process.sample(np.random.default_rng(0), 30, 12)
        gap = {}
        for temperature in (1.0, 2.0, 0.5):
            rows = [np.concatenate([past, np.full((30, 1), token, dtype=np.int32)], axis=1) for token in pair]
            one, other = (process.logprobs(of, Predictor(temperature))[:, -1] for of in rows)
            gap[temperature] = one - other
        np.testing.assert_allclose(gap[2.0], gap[1.0] / 2, atol=1e-12)
        np.testing.assert_allclose(gap[0.5], gap[1.0] * 2, atol=1e-12)
        assert np.abs(gap[1.0]).max() > 0.5


def test_a_wrong_start_costs_at_the_first_token_alone():
    for process in (NoisySantaFe(), MarkovChain(), BernoulliUniform()):
        rows = process.sample(np.random.default_rng(0), 1000, 5)
        cost = process.logprobs(rows) - process.logprobs(rows, PREDICTORS["wrong_bos"])
        assert (cost[:, 1:] == 0).all()
        assert 0.2 < cost[:, 0].mean() < 10


def test_rows_do_not_depend_on_their_neighbours():
    process = NoisySantaFe(0.7, 0.2, n_keys=50)
    rows = process.sample(np.random.default_rng(0), processes.ROWS + 7, 30)
    for predictor in PREDICTORS.values():
        together = process.logprobs(rows, predictor)
        alone = np.concatenate([process.logprobs(row[None], predictor) for row in rows])
        assert (together == alone).all()


class AsModel(torch.nn.Module):
    """A process's exact predictor as a causal model: it takes BOS and ids and returns logits of the next token."""

    def __init__(self, process, vocabulary: int) -> None:
        super().__init__()
        self.process, self.vocabulary, self.device = process, vocabulary, torch.device("cpu")

    def forward(self, input_ids, past_key_values=None, use_cache=False):
        # Before any scoring, the backend tries a row that consists of BOS alone.
        past = input_ids[:, 1:].numpy().astype(np.int32) % self.vocabulary
        logits = torch.full((*input_ids.shape, self.vocabulary + 1), -50.0)  # BOS is never predicted
        for i, token in itertools.product(range(input_ids.shape[1]), range(self.vocabulary)):
            row = np.concatenate([past[:, :i], np.full((len(past), 1), token, dtype=np.int32)], axis=1)
            logits[:, i, token] = torch.tensor(self.process.logprobs(row)[:, -1])
        return SimpleNamespace(logits=logits)


def test_the_same_scores_as_a_torch_model_of_the_process():
    process, vocabulary, _ = TINY[0]
    documents = process.sample(np.random.default_rng(0), 6, 16)
    y_recipients = documents[[3, 0, 1, 2, 5, 4]]
    points = passes.grid(16)
    split = passes.branches(points)
    model = TransformersBackend(AsModel(process, vocabulary), bos=vocabulary, share=False)
    ours, theirs = (
        passes.terms(backend.token_logprobs(documents, y_recipients, split), points)
        for backend in (ExactBackend(process), model)
    )
    for name in passes.TERMS:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-4)
    assert np.abs(ours["logq_y_given_other_x"] - ours["logq_y_given_x"]).max() > 0.1


def test_long_rows_do_not_overflow():
    """After many readings of a bit it is certain: p(token) = p_k (1 − ε), also around 16,384 and at 20,000 tokens."""
    process = NoisySantaFe(0.5, 0.1, n_keys=4)
    ids = np.ones((1, 20_000), dtype=np.int32)
    expected = math.log(process.key_probability[0]) + math.log(0.9)
    assert process.logprobs(ids)[0, [100, 16_383, 16_384, 16_385, 19_999]] == pytest.approx(expected, abs=1e-12)
