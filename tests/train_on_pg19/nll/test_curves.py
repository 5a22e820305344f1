"""Windows, errors by book, gaps and crossovers against plain sums, a bootstrap, and known effects."""

from __future__ import annotations

import numpy as np
import pytest

from train_on_pg19.nll import curves


@pytest.mark.parametrize("L", [1, 2, 3, 7, 64, 100, 1000, 8192])
@pytest.mark.parametrize("per_doubling", [1, 3, 8, 64])
def test_windows_hold_every_position_once(L, per_doubling):
    of = curves.windows(L, per_doubling)
    assert of[0, 0] == 1
    assert of[-1, 1] == L
    assert (of[1:, 0] == of[:-1, 1] + 1).all()
    widths = of[:, 1] - of[:, 0] + 1
    assert (widths[:-1] <= np.maximum(1, of[:-1, 0] * (2 ** (1 / per_doubling) - 1) + 1)).all()
    assert widths[-1] >= widths[-2:][0] / 2  # the last one is not so narrow that it is mostly noise


@pytest.mark.parametrize("length", [1, 2, 19, 64, 300])
def test_all_windows_are_made_of_parts(length):
    values, parts = np.random.default_rng(0).normal(size=(3, length)), curves.parts(length)
    by_part = np.stack([values[:, first - 1 : last].sum(axis=1) for first, last in parts], axis=1)
    whole = np.array([[1, length], [1, 0]])
    for of in (curves.windows(length), curves.doublings(length), curves.doublings(length, 8), whole):
        expected = [values[:, first - 1 : last].sum(axis=1) for first, last in of]
        if expected:
            found = curves.over_windows(by_part, parts, of)
            np.testing.assert_allclose(found, np.stack(expected, axis=1), atol=1e-12)
    assert parts[:, 0].tolist() == [1, *(parts[:-1, 1] + 1)]


def test_book_sums_are_plain_sums():
    random = np.random.default_rng(0)
    nll = random.normal(size=(7, 5)).astype(np.float32)
    books = np.array(["b", "a", "b", "c", "a", "b", "NA"])
    sums = curves.book_sums(nll, books)
    assert sums.dtype == np.float64
    np.testing.assert_array_equal(curves.book_sums(iter(nll), books), sums)
    many = curves.book_sums(np.full((10_000, 1), np.float32(1.1)), np.repeat("book", 10_000))
    assert many[0, 0] == pytest.approx(10_000 * float(np.float32(1.1)), rel=1e-12)  # a float32 sum is off by 0.5
    for row, book in enumerate(["NA", "a", "b", "c"]):
        np.testing.assert_allclose(sums[row], nll[books == book].astype(np.float64).sum(axis=0), rtol=1e-12)


def test_the_error_by_book_is_that_of_a_bootstrap():
    random = np.random.default_rng(0)
    weights = random.integers(1, 20, 60)
    sums = weights[:, None] * (2 + random.normal(0, 0.3, (60, 1))) + random.normal(0, 0.5, (60, 1))
    mean, error = curves.mean_by_book(sums, weights)
    drawn = random.integers(60, size=(20_000, 60))
    again = sums[drawn, 0].sum(axis=1) / weights[drawn].sum(axis=1)
    assert mean[0] == pytest.approx(sums.sum() / weights.sum())
    assert error[0] == pytest.approx(again.std(), rel=0.05)
    _, error = curves.mean_by_book(sums, np.full(60, 4))  # equal books: the error of the mean of book means
    assert error[0] == pytest.approx((sums / 4).std(ddof=1) / np.sqrt(60))


def test_one_book_has_a_mean_and_no_error():
    mean, error = curves.mean_by_book(np.array([[2.0, 4.0]]), np.array([2]))
    assert mean.tolist() == [1.0, 2.0]
    assert np.isnan(error).all()
    found = curves.gap([np.array([[2.0, 4.0]])], [np.array([[1.0, 1.0]])], np.array([2]))
    assert found.gap.tolist() == [0.5, 1.5]
    assert np.isnan(found.lo95).all()


@pytest.mark.parametrize(("of_books", "of_seeds"), [(0.3, 0.0), (0.3, 0.2), (0.1, 0.4)])
def test_the_interval_of_a_gap_holds_the_truth(of_books, of_seeds):
    """1,000 draws of 8 unequal books and 3 seeds per model: 92% to 98.5% of the 95% intervals contain the true gap."""
    random, held = np.random.default_rng(1), 0
    weights = np.array([10, 20, 30, 20, 15, 25, 12, 18])
    for _ in range(1000):
        books = random.normal(0, of_books, (8, 1))  # how much worse b is on each book
        common = random.normal(0, 2, (8, 1))  # a hard book is hard for both
        a = [weights[:, None] * (3 + common + random.normal(0, of_seeds)) for _ in range(3)]
        b = [weights[:, None] * (2.5 + common + books + random.normal(0, of_seeds)) for _ in range(3)]
        found = curves.gap(a, b, weights)
        held += found.lo95[0] <= 0.5 <= found.hi95[0]
    assert 0.92 <= held / 1000 <= 0.985


def test_pairing_takes_out_what_is_hard_for_both():
    random = np.random.default_rng(0)
    weights = np.full(8, 10)
    common = random.normal(0, 2, (8, 4))
    a, b = 10 * (3 + common), 10 * (2.9 + common + random.normal(0, 0.01, (8, 4)))
    found = curves.gap([a], [b], weights)
    _, alone = curves.mean_by_book(a, weights)
    assert (found.error < alone / 50).all()
    assert (found.lo95 > 0).all()
    tie = curves.gap([a], [a], weights)
    assert not np.any([tie.gap, tie.lo95, tie.hi95])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([-1.0, -1.0, 1.0, 1.0], np.sqrt(8)),
        ([1.0, 1.0, -1.0, -1.0], np.sqrt(8)),
        ([1.0, -1.0, 1.0, 3.0], np.sqrt(8)),  # the last of several changes
        ([-3.0, -3.0, -3.0, 1.0], 4 * 2**0.75),
        ([1.0, 1.0, 1.0, 2.0], np.nan),
        ([1.0, 0.0, 1.0, 2.0], np.nan),  # 0 has no sign
        ([-1.0, 0.0, 1.0, 0.0], 2.0),
        ([0.0, 0.0, 0.0, 0.0], np.nan),
    ],
)
def test_crossover(values, expected):
    gap = curves.Gap(np.array(values), *np.full((3, 4), np.nan))
    found = curves.crossover(gap, np.array([1.0, 2.0, 4.0, 8.0]))
    np.testing.assert_allclose(found.position, expected)
    assert np.isnan([found.lo95, found.hi95]).all()


def made_up_pair(of_books: float, of_seeds: float, random: np.random.Generator):
    """A gap and its positions: b is worse by 0.2 at position 1 and gains 0.1 per doubling, so it overtakes a at 4."""
    positions = 2 ** np.arange(0, 10, 1 / 16)
    weights = np.array([10, 20, 30, 20, 15, 25, 12, 18])
    gap = -0.2 + 0.1 * np.log2(positions)
    better = random.normal(0, of_books, (8, 1))
    a = [weights[:, None] * (3 + random.normal(0, of_seeds) + better + gap) for _ in range(3)]
    b = [weights[:, None] * (3 + random.normal(0, of_seeds) + 0 * gap) for _ in range(3)]
    return curves.gap(a, b, weights), positions


def test_a_crossover_without_noise_is_exact():
    found = curves.crossover(*made_up_pair(0, 0, np.random.default_rng(0)))
    assert found.position == pytest.approx(4)
    below, above = 2 ** (2 - 1 / 16), 2 ** (2 + 1 / 16)  # the positions next to it, where the sign is certain
    assert found.lo95 == pytest.approx(below)
    assert found.hi95 == pytest.approx(above)


@pytest.mark.parametrize(("of_books", "of_seeds"), [(0.2, 0.0), (0.1, 0.05)])
def test_the_interval_of_a_crossover_holds_the_truth(of_books, of_seeds):
    """In 93% to 99.5% of draws (above 95%, as its ends are positions of the curve); a missing end sets no bound."""
    random, held, crossed = np.random.default_rng(1), 0, 0
    for _ in range(600):
        gap, positions = made_up_pair(of_books, of_seeds, random)
        found = curves.crossover(gap, positions)
        if gap.gap[-1] > 0 and not np.isnan(found.position):
            crossed += 1
            held += not found.lo95 > 4 and not found.hi95 < 4
            assert not found.lo95 > found.position
            assert not found.hi95 < found.position
    assert crossed > 400
    assert 0.93 <= held / crossed <= 0.995


def test_the_other_direction_is_the_mirror():
    found, positions = made_up_pair(0.1, 0.05, np.random.default_rng(2))
    mirrored = curves.Gap(-found.gap, found.error, -found.hi95, -found.lo95)
    one, other = (curves.crossover(gap, positions) for gap in (found, mirrored))
    assert not np.isnan(one.position)
    np.testing.assert_equal((one.position, one.lo95, one.hi95), (other.position, other.lo95, other.hi95))
