"""Words, runs on disk and their merge against a Counter and a plain sort."""

from __future__ import annotations

import errno
import itertools
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from common.cli import UserError
from measure_mutual_info.counting import sorted_runs
from measure_mutual_info.counting.entropy import grassberger_entropy, grassberger_g
from measure_mutual_info.counting.sorted_runs import Layout, merged_ranges, run_is_whole, summarise, write_run


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Slabs, index and table so small that every piece of code meets their edges."""
    monkeypatch.setattr(sorted_runs, "SLAB", 16)
    monkeypatch.setattr(sorted_runs, "INDEX_STRIDE", 4)
    monkeypatch.setattr(sorted_runs, "SMALL", 8)


def unpacked(words: np.ndarray, layout: Layout) -> Counter:
    """How often each (key, block) occurs, a word at a time."""
    found: Counter = Counter()
    for word in words.tolist():
        block = word >> layout.count_bits & (1 << layout.block_bits) - 1
        found[word >> layout.key_shift, block] += (word & (1 << layout.count_bits) - 1) + 1
    return found


def sample(rng: np.random.Generator, size: int, keys: int, blocks: int) -> tuple[np.ndarray, np.ndarray]:
    return (rng.zipf(1.3, size) % keys).astype(np.uint64), rng.integers(blocks, size=size)


def words_of(layout: Layout, keys: np.ndarray, block: np.ndarray) -> np.ndarray:
    parts = [layout.words(keys[block == b], int(b)) for b in np.unique(block)]
    return np.sort(np.concatenate([np.empty(0, np.uint64), *parts]))


def test_layout():
    assert Layout.of(128_256**2, 128) == Layout(7, 23)
    assert Layout.of(2**64, 1) == Layout(0, 0)
    assert Layout.of(1, 1) == Layout(0, 32)
    assert Layout.of(2**60, 16) == Layout(4, 0)
    with pytest.raises(ValueError, match="65 bits"):
        Layout.of(2**60, 17)


def test_word():
    layout = Layout(3, 4)
    assert layout.words(np.array([5, 0]), 6).tolist() == [(5 << 3 | 6) << 4, 6 << 4]
    assert layout.words(np.array([5]), 6, np.array([3])).tolist() == [(5 << 3 | 6) << 4 | 2]
    assert layout.words(np.array([2**57 - 1]), 7, np.array([16])).tolist() == [2**64 - 1]
    # 40 repeats are 8 + 16 + 16
    split = layout.words(np.array([1, 5, 9]), 0, np.array([1, 40, 16]))
    assert layout.repeats(split).tolist() == [1, 8, 16, 16, 16]
    assert unpacked(split, layout) == {(1, 0): 1, (5, 0): 40, (9, 0): 16}


@pytest.mark.parametrize("count_bits", [0, 1, 3, 30])
@pytest.mark.parametrize("size", [0, 1, 16, 500])
def test_combined_words(count_bits, size):
    rng, layout = np.random.default_rng(size), Layout(2, count_bits)
    keys, block = sample(rng, size, 40, 3)
    words = words_of(layout, keys, block)
    expected = Counter(zip(keys.tolist(), block.tolist(), strict=True))
    once = layout.combine(words.copy(), once=True)
    assert unpacked(once, layout) == expected
    assert (np.diff(once.astype(object)) >= 0).all()
    again = layout.combine(np.sort(np.concatenate([once, once])))
    assert unpacked(again, layout) == Counter({key: 2 * n for key, n in expected.items()})
    full = 1 << count_bits
    assert len(once) == sum(-(-n // full) for n in expected.values())
    assert len(again) <= len(once) * (2 if count_bits < 4 else 1)


@pytest.mark.parametrize("runs", [0, 1, 2, 7, 40])
@pytest.mark.parametrize("range_words", [1, 50, 10**6])
def test_merged_runs_equal_a_sort(tmp_path, runs, range_words):
    rng, layout = np.random.default_rng(runs), Layout(2, 3)
    paths, everything = [], [np.empty(0, np.uint64)]
    for i in range(runs):
        words = layout.combine(words_of(layout, *sample(rng, int(rng.integers(0, 60)), 200, 4)), once=True)
        paths.append(tmp_path / f"{i}.run")
        write_run(paths[-1], words)
        everything.append(words)
    ranges = [part.copy() for part in merged_ranges(paths, layout, range_words)]
    np.testing.assert_array_equal(np.concatenate([everything[0], *ranges]), np.sort(np.concatenate(everything)))
    keys = [part >> np.uint64(layout.key_shift) for part in ranges if len(part)]
    assert all(before[-1] < after[0] for before, after in itertools.pairwise(keys))
    if runs == 40 and range_words == 1:
        assert len(ranges) > 20
    # A key is not cut: so many words at most for one, beside the strides of the index.
    most = max([np.unique(np.concatenate(keys), return_counts=True)[1].max()] if keys else [0])
    assert max(map(len, ranges)) <= max(range_words, sorted_runs.INDEX_STRIDE * (2 * runs + 1)) + most


def test_ranges_hold_what_memory_does(tmp_path):
    rng, layout = np.random.default_rng(0), Layout(0, 8)
    paths = [tmp_path / f"{i}.run" for i in range(5)]
    for path in paths:
        write_run(path, np.sort(rng.integers(2**63, size=2000, dtype=np.uint64)))
    sizes = [len(part) for part in merged_ranges(paths, layout, 600)]
    assert sum(sizes) == 10_000
    assert max(sizes) <= 600
    assert len(sizes) < 30


def slow_summary(keys: np.ndarray, block: np.ndarray, blocks: int) -> tuple[dict, np.ndarray]:
    counts = Counter(keys.tolist())
    surprise = {key: np.log(len(keys)) - grassberger_g(n) for key, n in counts.items()}
    means = [np.mean([surprise[key] for key in keys[block == b].tolist()] or np.nan) for b in range(blocks)]
    return Counter(counts.values()), np.array(means)


@pytest.mark.parametrize("count_bits", [0, 2, 30])
@pytest.mark.parametrize("ranges", [1, 5])
def test_summary_equals_a_slow_count(count_bits, ranges):
    rng, layout, blocks = np.random.default_rng(7), Layout(3, count_bits), 6
    keys, block = sample(rng, 900, 300, blocks - 1)  # one block is empty
    words = words_of(layout, keys, block)
    if count_bits:
        words = layout.combine(words, once=True)
    cuts = np.searchsorted(words >> np.uint64(layout.key_shift), np.linspace(0, 300, ranges + 1)[1:-1])
    samples = np.bincount(block, minlength=blocks)
    occurrences, types, means = summarise(lambda: np.split(words, cuts), layout, samples)
    expected_counts, expected_means = slow_summary(keys, block, blocks)
    assert dict(zip(occurrences.tolist(), types.tolist(), strict=True)) == expected_counts
    assert (np.diff(occurrences) > 0).all()
    np.testing.assert_allclose(means, expected_means, atol=1e-12)
    assert np.isnan(means[-1])
    whole = np.nansum(samples * means) / samples.sum()
    assert whole == pytest.approx(grassberger_entropy(occurrences, types), abs=1e-10)


def test_summary_has_the_same_bits_whatever_the_runs_and_ranges(tmp_path):
    """Floating-point sums are taken in the order of the keys, not of the files."""
    rng, blocks = np.random.default_rng(3), 5
    keys, block = sample(rng, 3000, 500, blocks)
    samples = np.bincount(block, minlength=blocks)
    plain = Layout(3, 0)
    expected = summarise(lambda: [words_of(plain, keys, block)], plain, samples)
    for pieces, range_words in ((1, 10**6), (3, 100), (11, 10), (40, 1)):
        layout, paths = Layout(3, int(rng.integers(1, 20))), []
        for i, part in enumerate(np.array_split(rng.permutation(3000), pieces)):
            paths.append(tmp_path / f"{pieces}-{i}.run")
            write_run(paths[-1], layout.combine(words_of(layout, keys[part], block[part]), once=True))
        found = summarise(lambda p=paths, lay=layout, r=range_words: merged_ranges(p, lay, r), layout, samples)
        for array, same in zip(found, expected, strict=True):
            assert array.tobytes() == same.tobytes()


def test_summary_of_too_few_words():
    layout = Layout(0, 0)
    with pytest.raises(ValueError, match="3 words for 4 samples"):
        summarise(lambda: [np.array([1, 1, 2], np.uint64)], layout, np.array([4]))
    with pytest.raises(ValueError):
        summarise(lambda: [], layout, np.array([0]))


def test_a_run_cut_short_is_known(tmp_path):
    path = tmp_path / "a.run"
    write_run(path, np.arange(100, dtype=np.uint64))
    assert run_is_whole(path)
    assert not run_is_whole(tmp_path / "b.run")
    os.truncate(path, path.stat().st_size - 8)
    assert not run_is_whole(path)
    with pytest.raises(UserError, match=r"a\.run is damaged"):
        list(merged_ranges([path], Layout(0, 0), 100))
    path.write_bytes(b"")
    assert not run_is_whole(path)
    write_run(path, np.empty(0, np.uint64))
    assert run_is_whole(path)
    assert [len(part) for part in merged_ranges([path], Layout(0, 0), 100)] == [0]


def test_full_disk_leaves_nothing_partial(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "a.run"
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError) as caught:
        write_run(path, np.arange(10, dtype=np.uint64))
    assert (caught.value.errno, Path(caught.value.filename)) == (errno.ENOSPC, path)
    assert list(tmp_path.iterdir()) == []
