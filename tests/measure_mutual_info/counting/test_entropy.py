"""Entropies against values computed by hand, another library's estimator, and distributions of known entropy."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from dit.inference import entropy_2
from scipy.special import digamma

from measure_mutual_info.counting.entropy import (
    chao_shen_entropy,
    grassberger_entropy,
    grassberger_g,
    miller_madow_entropy,
    naive_entropy,
    sample_size,
)

EULER = 0.5772156649015329


def counts_of_counts(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.unique(np.unique(samples, return_counts=True)[1], return_counts=True)


def test_g_equals_its_closed_form():
    # G(2k) = G(2k+1) = −γ − ln 2 + Σ_{j<k} 2/(2j+1), and G(1) is the empty sum.
    for n in range(1, 60):
        harmonic = float(sum(Fraction(2, 2 * j + 1) for j in range(n // 2)))
        assert grassberger_g(np.array([n]))[0] == pytest.approx(-EULER - math.log(2) + harmonic, abs=1e-13)


@pytest.mark.parametrize("n", [10**6, 10**6 + 1, 2**40, 2**53 + 1, 2**62])
def test_g_of_large_counts_is_the_logarithm(n):
    # They agree to 1/(6n²) for even n; an odd n has the value of n − 1, which differs by 1/n.
    assert abs(grassberger_g(np.array([n]))[0] - math.log(n)) < 0.17 / n**2 + 1.1 / n * (n % 2) + 2e-14
    even = n - n % 2
    assert grassberger_g(np.array([even]))[0] == pytest.approx(grassberger_g(np.array([even + 1]))[0], abs=2e-14)


def test_hand_values():
    # a a b c: N = 4, one type twice, two types once.
    occurrences, types = np.array([1, 2]), np.array([2, 1])
    assert naive_entropy(occurrences, types) == pytest.approx(1.5 * math.log(2), abs=1e-15)
    # log 4 − ¼ [2·(−γ − ln 2) + 2·(2 − γ − ln 2)] = 3 ln 2 + γ − 1
    assert grassberger_entropy(occurrences, types) == pytest.approx(3 * math.log(2) + EULER - 1, abs=1e-14)
    assert miller_madow_entropy(occurrences, types) == pytest.approx(1.5 * math.log(2) + (3 - 1) / 8, abs=1e-15)
    # The coverage is 1/2: q = 1/4, 1/8, 1/8, and each term is divided by the probability to be among four draws.
    expected = math.log(4) / 4 / (1 - 0.75**4) + 2 * math.log(8) / 8 / (1 - 0.875**4)
    assert chao_shen_entropy(occurrences, types) == pytest.approx(expected, abs=1e-14)
    assert sample_size(occurrences, types) == 4


def chao_shen_slowly(counts: list[int]) -> float:
    """The definition (Chao and Shen 2003, eqs. 5 to 7), outcome by outcome, in exact fractions except the logarithm."""
    n, entropy = sum(counts), 0.0
    singletons = sum(count == 1 for count in counts)
    coverage = 1 - Fraction(min(singletons, n - 1), n)
    for count in counts:
        q = coverage * Fraction(count, n)
        entropy -= float(q) * math.log(q) / float(1 - (1 - q) ** n)
    return entropy


@pytest.mark.parametrize(
    "counts",
    [[4, 2, 3, 2, 4, 2, 1, 1], [1, 1, 1], [7], [5, 5, 5], [300, 40, 7, 1, 1, 1, 1, 1, 2, 2, 9], [1] * 40 + [2] * 9],
)
def test_chao_shen_equals_its_definition(counts):
    occurrences, types = np.unique(counts, return_counts=True)
    assert chao_shen_entropy(occurrences, types) == pytest.approx(chao_shen_slowly(counts), rel=1e-12, abs=1e-15)


def test_chao_shen_of_what_was_seen_often_is_the_plug_in():
    occurrences, types = np.array([10**9, 2**40]), np.array([3, 2])
    assert chao_shen_entropy(occurrences, types) == pytest.approx(naive_entropy(occurrences, types), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_against_dit(seed):
    """dit has ψ(N) in place of the log N of Eq. B.5, and returns bits."""
    samples = np.random.default_rng(seed).zipf(1.5, size=3000).clip(max=500)
    theirs = entropy_2(samples.tolist(), 1) * math.log(2) - digamma(3000) + math.log(3000)
    assert grassberger_entropy(*counts_of_counts(samples)) == pytest.approx(theirs, abs=1e-10)


def test_counts_larger_than_32_bits():
    """Two outcomes seen 2^40 times each have entropy ln 2, and N is exact."""
    occurrences, types = np.array([2**40]), np.array([2])
    assert sample_size(occurrences, types) == 2**41
    assert grassberger_entropy(occurrences, types) == pytest.approx(math.log(2), abs=1e-12)


@pytest.mark.parametrize(
    ("occurrences", "types"),
    [
        (np.array([], dtype=int), np.array([], dtype=int)),
        (np.array([1, 2]), np.array([1])),
        (np.array([0, 1]), np.array([1, 1])),
        (np.array([1]), np.array([-1])),
        (np.array([1.5]), np.array([1])),
    ],
)
def test_what_are_no_counts_of_counts(occurrences, types):
    for entropy in (grassberger_entropy, naive_entropy, miller_madow_entropy, chao_shen_entropy):
        with pytest.raises(ValueError, match="must be"):
            entropy(occurrences, types)
