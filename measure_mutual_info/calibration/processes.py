"""Processes whose bipartite mutual information is known exactly, with their predictors, to calibrate the pipeline on.

    NoisySantaFe        I grows about as ℓ^β                  a power law, the shape claimed for text
    BernoulliUniform    I ≈ ½ ln ℓ + a constant               a logarithm
    MarkovChain         I is the same at every ℓ              no growth
    Topics, Shuffled    two-point information only, which falls as a power of d, or is constant

A process has a `name` for tables and folders, which for Santa Fe includes its parameters, and these methods (Topics
and Shuffled: no name, and only the first and the last method):

    sample(rng, documents, L)       independent documents, each with its own hidden variables: (documents, L) int32.
                                    Santa Fe and Bernoulli also take the book of each document; the documents of a
                                    book are then correlated, but each has the same distribution as before
    logprobs(ids, predictor)        log q(token | all before it in its row), nats; ids (rows, n) → (rows, n) float64
    mutual_information(ell, L)      I(first ell tokens; tokens ell+1 … L) in nats, exact
    two_point_information(d)        I(W_i; W_{i+d}) in nats, exact; not for NoisySantaFe

The predictor of a process replaces the language model (`ExactBackend`). It can be misspecified on purpose
(`Predictor`), in the ways in which a language model is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from scipy.special import gammaln, xlogy

from measure_mutual_info.scoring.passes import Branch, TokenLogprobs

LN2 = math.log(2)
ROWS = 250  # rows that the Santa Fe predictor takes at a time, so that their table of sums stays in the CPU cache


@dataclass(frozen=True)
class Predictor:
    """How the predictor differs from the exact one, which is `Predictor()`."""

    temperature: float = 1.0
    """T: the probabilities that depend on the past (the bit given its key for Santa Fe, the next state for Markov, the
    coin for Bernoulli) are raised to 1/T and renormalised. Above 1: underconfident; below 1: overconfident"""
    context: int | None = None  # number of last tokens that it sees, 1 or more; None: all
    wrong_start: bool = False
    """the first token of a row is predicted wrongly, as by a language model that expects a text to begin after BOS"""


PredictorName = Literal["exact", "tempered", "sharpened", "limited_context", "wrong_bos"]
PREDICTORS: dict[PredictorName, Predictor] = {
    "exact": Predictor(),
    "tempered": Predictor(temperature=2.0),
    "sharpened": Predictor(temperature=0.5),
    "limited_context": Predictor(context=64),
    "wrong_bos": Predictor(wrong_start=True),
}


@dataclass(frozen=True)
class NoisySantaFe:
    """Facts about a world, told repeatedly: a token is a key and that key's bit, misread with probability epsilon.

    Keys 0 … n_keys−1 are drawn independently with p_k ∝ (k+1)^(−1/beta); every document has a hidden fair bit Z_k for
    each key. Token id = 2·key + bit. A predictor has to remember one log-odds per key, and I grows about as ℓ^beta. The
    noise keeps vCLUB finite: without it a wrong X' can make Y impossible. The exact I and the samples both use n_keys.
    """

    beta: float = 0.75
    epsilon: float = 0.1
    n_keys: int = 4096

    @property
    def name(self) -> str:
        return f"santa_fe_b{self.beta:g}_e{self.epsilon:g}"

    @cached_property
    def key_probability(self) -> np.ndarray:
        """p_k, shape (n_keys,), descending."""
        weight = np.arange(1, self.n_keys + 1) ** (-1 / self.beta)
        return weight / weight.sum()

    def sample(self, rng: np.random.Generator, documents: int, L: int, book: np.ndarray | None = None) -> np.ndarray:
        """book: that of each document, (documents,) integers from 0; those of a book share their sequence of keys."""
        keys = rng.choice(self.n_keys, size=(documents, L), p=self.key_probability)
        keys = keys if book is None else keys[book]
        truth = rng.integers(0, 2, size=(documents, self.n_keys), dtype=np.int8)
        bits = np.take_along_axis(truth, keys, axis=1) ^ (rng.random((documents, L)) < self.epsilon)
        return (2 * keys + bits).astype(np.int32)

    def logprobs(self, ids: np.ndarray, predictor: Predictor = PREDICTORS["exact"]) -> np.ndarray:
        """wrong_start: all 2·n_keys tokens are equally likely to be the first.

        All that a row says about key k is s_k, the number of its ones minus the number of its zeros: the log-odds of
        Z_k = 1 are s_k ln((1−ε)/ε). By symmetry the probability of a one depends only on s_k, of a zero only on −s_k.
        """
        rows, n = ids.shape
        sums = np.concatenate([self._sums(ids[i : i + ROWS], predictor.context) for i in range(0, rows, ROWS)])
        bit_logprobs = self._bit_logprobs(n, predictor.temperature)
        logprobs = np.log(self.key_probability)[ids >> 1] + bit_logprobs[sums.astype(np.intp) + n]
        if predictor.wrong_start:
            logprobs[:, 0] = -math.log(2 * self.n_keys)
        return logprobs

    def _bit_logprobs(self, n: int, temperature: float) -> np.ndarray:
        """log p(bit | s) for s = −n … n, (2n + 1,); s is s_k for a one and −s_k for a zero."""
        log_odds = np.arange(-n, n + 1) * math.log((1 - self.epsilon) / self.epsilon)
        # P(bit) = σ(λ)(1−ε) + σ(−λ)ε
        right, wrong = -np.logaddexp(0, -log_odds), -np.logaddexp(0, log_odds)
        log_p = np.logaddexp(right + math.log1p(-self.epsilon), wrong + math.log(self.epsilon)) / temperature
        return log_p - np.logaddexp(log_p, log_p[::-1])

    def _sums(self, ids: np.ndarray, context: int | None) -> np.ndarray:
        """For each token, the number of earlier ones of its key with the same bit minus those with the other; int16."""
        rows, n = ids.shape
        sign = np.ascontiguousarray((2 * (ids & 1) - 1).astype(np.int16).T)
        place = np.ascontiguousarray((ids >> 1).T + np.arange(rows) * self.n_keys)
        table = np.zeros(rows * self.n_keys, dtype=np.int16)
        sums = np.empty((n, rows), dtype=np.int16)
        for i in range(n):
            if context is not None and i > context:
                table[place[i - context - 1]] -= sign[i - context - 1]
            told = table[place[i]]
            np.multiply(told, sign[i], out=sums[i])
            table[place[i]] = told + sign[i]
        return sums.T

    def mutual_information(self, ell: int, L: int) -> float:
        """Σ_k E[g_Bin(n,p_k) + g_Bin(m,p_k) − g_Bin(n+m,p_k)] in nats, n = ell, m = L − ell, g as in `_shortfall`."""
        X, Y, both = (self._mean_shortfall(n) for n in (ell, L - ell, L))
        return math.fsum((LN2 - X - Y + both).tolist())

    def _mean_shortfall(self, n: int) -> np.ndarray:
        """E[ln 2 − g_Bin(n, p_k)] for each key, (n_keys,). The sum over the binomial is short: g soon reaches ln 2."""
        shortfall = _shortfall(n, self.epsilon)
        j = np.arange(len(shortfall))
        log_choose = gammaln(n + 1) - gammaln(j + 1) - gammaln(n - j + 1)
        p = self.key_probability
        log_pmf = log_choose + np.outer(np.log(p), j) + np.outer(np.log1p(-p), n - j)
        return np.exp(log_pmf) @ shortfall


@lru_cache(maxsize=64)
def _shortfall(n: int, epsilon: float) -> np.ndarray:
    """ln 2 − g_j for j = 0, 1, … up to n or until it vanishes; g_j: nats that j noisy readings give about a fair bit.

    It is E ln(1 + e^(−λ)), where λ = (j − 2i) ln((1−ε)/ε) is the log-odds of the true value after i of j readings were
    wrong, and i is binomial.
    """
    odds = math.log((1 - epsilon) / epsilon)
    shortfall = [LN2]
    while len(shortfall) <= n and shortfall[-1] > 1e-18:
        j = len(shortfall)
        i = np.arange(j + 1)
        log_pmf = gammaln(j + 1) - gammaln(i + 1) - gammaln(j - i + 1)
        log_pmf += i * math.log(epsilon) + (j - i) * math.log1p(-epsilon)
        shortfall.append(float(np.exp(log_pmf) @ np.logaddexp(0, -(j - 2 * i) * odds)))
    return np.array(shortfall)


@dataclass(frozen=True)
class MarkovChain:
    """A stationary Markov chain: I(ℓ; L) = H(π) − h for all ℓ and L. P: rows of transition probabilities, all > 0."""

    P: tuple[tuple[float, ...], ...] = ((0.90, 0.07, 0.03), (0.10, 0.85, 0.05), (0.05, 0.15, 0.80))
    name = "markov"

    @cached_property
    def stationary(self) -> np.ndarray:
        """π with π P = π, shape (states,)."""
        P = np.array(self.P)
        states = len(P)
        equations = np.vstack([P.T - np.eye(states), np.ones(states)])
        return np.linalg.lstsq(equations, np.append(np.zeros(states), 1.0))[0]

    def sample(self, rng: np.random.Generator, documents: int, L: int) -> np.ndarray:
        uniform = rng.random((L, documents))
        ids = np.empty((L, documents), dtype=np.int32)
        ids[0] = np.searchsorted(np.cumsum(self.stationary)[:-1], uniform[0], side="right")
        upper = np.cumsum(self.P, axis=1)[:, :-1]
        for i in range(1, L):
            ids[i] = (uniform[i][:, None] >= upper[ids[i - 1]]).sum(axis=1)
        return np.ascontiguousarray(ids.T)

    def logprobs(self, ids: np.ndarray, predictor: Predictor = PREDICTORS["exact"]) -> np.ndarray:
        """wrong_start: the stationary probabilities in reverse order. `context` has no effect: one token is enough."""
        start = self.stationary[::-1] if predictor.wrong_start else self.stationary
        log_P = np.log(self.P) / predictor.temperature
        log_P -= np.logaddexp.reduce(log_P, axis=1, keepdims=True)
        return np.concatenate([np.log(start)[ids[:, :1]], log_P[ids[:, :-1], ids[:, 1:]]], axis=1)

    def mutual_information(self, ell: int, L: int) -> float:
        """H(π) − h in nats: Y depends on X only through its last token."""
        pi, P = self.stationary, np.array(self.P)
        return float(-xlogy(pi, pi).sum() + pi @ xlogy(P, P).sum(axis=1))

    def two_point_information(self, d: int) -> float:
        """Σ_ij π_i π_j ((1 + x) ln(1 + x) − x) in nats, x_ij = (P^d)_ij / π_j − 1: this form is accurate at large d."""
        pi = self.stationary
        x = np.linalg.matrix_power(np.array(self.P) - pi, d) / pi
        return float(pi @ ((1 + x) * np.log1p(x) - x) @ pi)


@dataclass(frozen=True)
class BernoulliUniform:
    """Tosses of a coin with unknown bias θ, uniform on (0, 1) and new for each document: I ≈ ½ ln ℓ + a constant."""

    name = "bernoulli"

    def sample(self, rng: np.random.Generator, documents: int, L: int, book: np.ndarray | None = None) -> np.ndarray:
        """book: that of each document, (documents,) integers from 0; documents of a book share their θ."""
        theta = rng.random((documents, 1))
        theta = theta if book is None else theta[book]
        return (rng.random((documents, L)) < theta).astype(np.int32)

    def logprobs(self, ids: np.ndarray, predictor: Predictor = PREDICTORS["exact"]) -> np.ndarray:
        """Laplace's rule: (times seen + 1)/(tosses + 2). wrong_start: the first toss is 1 with probability 0.1."""
        n = ids.shape[1]
        ones = np.concatenate([np.zeros((len(ids), 1)), np.cumsum(ids, axis=1)], axis=1)
        first = np.maximum(0, np.arange(n) - (predictor.context if predictor.context is not None else n))
        ones, seen = ones[:, :-1] - ones[:, first], np.arange(n) - first
        log_one, log_zero = np.log(ones + 1) / predictor.temperature, np.log(seen - ones + 1) / predictor.temperature
        logprobs = np.where(ids == 1, log_one, log_zero) - np.logaddexp(log_one, log_zero)
        if predictor.wrong_start:
            logprobs[:, 0] = np.log(np.where(ids[:, 0] == 1, 0.1, 0.9))
        return logprobs

    def mutual_information(self, ell: int, L: int) -> float:
        """H(ell) + H(L − ell) − H(L) in nats, H(n) = ln(n+1) + Σ_k ln C(n,k) / (n+1): all k are equally likely."""
        return self._entropy(ell) + self._entropy(L - ell) - self._entropy(L)

    def two_point_information(self, d: int) -> float:
        """I(W_i; W_{i+d}) in nats, the same at every d >= 1: p(1,1) = p(0,0) = 1/3, p(0,1) = p(1,0) = 1/6."""
        return 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)

    @staticmethod
    def _entropy(n: int) -> float:
        k = np.arange(n + 1)
        log_choose = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
        return math.log(n + 1) + math.fsum(log_choose.tolist()) / (n + 1)


@dataclass(frozen=True)
class Topics:
    """Text that keeps to a topic for a while, sometimes a long one: I(W_i; W_{i+d}) falls about as d^(−2·decay).

    A document is cut into segments, each with one of `topics` topics. A token is from the topic's own group of `words`
    tokens with probability `own`, otherwise from any group; all tokens of a group are equally likely. Two tokens at
    distance d >= 1 are in the same segment with probability ½ d^−decay, and the information is about a constant times
    its square. Token id = words · group + word; more words make pairs harder to count, but do not change the truth.
    """

    topics: int = 8
    words: int = 32
    own: float = 0.7
    decay: float = 0.45

    @property
    def vocab_size(self) -> int:
        return self.topics * self.words

    def same_segment(self, d: np.ndarray) -> np.ndarray:
        """Probability that two tokens at each distance d (integers from 0) are in the same segment."""
        return np.where(d == 0, 1.0, 0.5 * np.maximum(d, 1.0) ** -self.decay)

    def sample(self, rng: np.random.Generator, documents: int, L: int) -> np.ndarray:
        """A document begins at a random place in a segment, so that all its tokens have the same distribution.

        The first segment has more than d tokens in the document with probability same_segment(d). Each later one has
        more than k tokens with a probability proportional to same_segment(k) − same_segment(k + 1).
        """
        longer = self.same_segment(np.arange(L + 1))
        begins = longer[:-1] - longer[1:]
        lengths = np.searchsorted(-begins / begins[0], -rng.random((documents, L)))
        lengths[:, 0] = np.searchsorted(-longer[:-1], -rng.random(documents))
        starts = np.zeros((documents, L + 1), bool)
        np.put_along_axis(starts, np.minimum(np.cumsum(lengths, axis=1), L), True, axis=1)
        topic_of_segment = rng.integers(0, self.topics, (documents, L))
        topic = np.take_along_axis(topic_of_segment, np.cumsum(starts[:, :L], axis=1), axis=1)
        group = np.where(rng.random((documents, L)) < self.own, topic, rng.integers(0, self.topics, (documents, L)))
        return (self.words * group + rng.integers(0, self.words, (documents, L))).astype(np.int32)

    def information(self, same: float) -> float:
        """Information in nats between two tokens that are in the same segment with probability `same`.

        It is ln T + r ln r + (1 − r) ln((1 − r)/(T − 1)), where r is the probability that both are from the same group.
        """
        T = self.topics
        own, other = self.own + (1 - self.own) / T, (1 - self.own) / T
        r = same * (own**2 + (T - 1) * other**2) + (1 - same) / T
        return math.log(T) + r * math.log(r) + (1 - r) * math.log((1 - r) / (T - 1))

    def two_point_information(self, d: int) -> float:
        """I(W_i; W_{i+d}) in nats."""
        return self.information(float(self.same_segment(np.array(d))))


@dataclass(frozen=True)
class Shuffled(Topics):
    """Documents of Topics with their `tokens` tokens in random order: any two tokens may come from any two places."""

    tokens: int = 1000

    def sample(self, rng: np.random.Generator, documents: int, L: int) -> np.ndarray:
        return rng.permuted(super().sample(rng, documents, L), axis=1)

    def two_point_information(self, d: int) -> float:
        L, apart = self.tokens, np.arange(1, self.tokens)
        return self.information(float((L - apart) @ self.same_segment(apart)) / (L * (L - 1) / 2))


Process = NoisySantaFe | MarkovChain | BernoulliUniform


@dataclass(frozen=True)
class ExactBackend:
    """A process's predictor in place of a language model, see passes.Backend."""

    process: Process
    predictor: Predictor = PREDICTORS["exact"]

    def token_logprobs(
        self, documents: np.ndarray, y_recipients: np.ndarray, branches: Sequence[Branch]
    ) -> TokenLogprobs:
        """See passes.Backend. The first token of a row counts as the token after BOS."""

        def logprobs(*parts: np.ndarray) -> np.ndarray:
            return self.process.logprobs(np.concatenate(parts, axis=1), self.predictor)

        return TokenLogprobs(
            own=logprobs(documents),
            marginal=[logprobs(documents[:, ell:end]) for ell, end in branches],
            other=[logprobs(documents[:, :ell], y_recipients[:, ell:end])[:, ell:] for ell, end in branches],
        )
