"""Counting by table, by sorting and in parts of the keys, against a Counter, also at the edges of slabs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import chain

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.cli import UserError
from measure_mutual_info.counting import windows
from measure_mutual_info.counting.document_stream import DocumentStream
from measure_mutual_info.counting.entropy import grassberger_g
from measure_mutual_info.counting.windows import HASHES, Counts, Measure, count_by_sorting, count_by_table, count_part


@dataclass(frozen=True)
class Lists(DocumentStream):
    """A stream of documents given as lists, read `batch` at a time."""

    documents: tuple[list[int], ...] = ()
    batch: int = 3

    @classmethod
    def of(cls, documents: list[list[int]], units: list[int], vocab_size: int, batch: int = 3) -> Lists:
        starts = np.cumsum([0, *map(len, documents)])
        return cls(vocab_size, starts, np.array(units, np.int32), documents=tuple(documents), batch=batch)

    def read(self) -> Iterator[tuple[np.ndarray, int, int]]:
        for first in range(0, len(self.documents), self.batch):
            part = self.documents[first : first + self.batch]
            yield np.array(list(chain(*part)), np.int32), first, first + len(part)


def slowly(documents: list[list[int]], blocks: list[int], measure: Measure) -> tuple[Counter, list[Counter]]:
    """For each n, the number of keys that occur n times, and of their items by block. blocks: that of each document."""
    found = [
        (tuple(document[i + offset] for offset in measure.offsets), block)
        for document, block in zip(documents, blocks, strict=True)
        for i in range(len(document) - measure.room)
    ]
    n = Counter(key for key, _ in found)
    of_block = [Counter(n[key] for key, of in found if of == block) for block in range(max(blocks) + 1)]
    return Counter(n.values()), of_block


def check(counts: Counts, types: Counter, of_block: list[Counter]) -> None:
    assert dict(zip(counts.occurrences.tolist(), counts.types.tolist(), strict=True)) == types
    assert (np.diff(counts.occurrences) > 0).all()
    for column, expected in zip(counts.of_block.T, of_block, strict=True):
        assert column.tolist() == [expected[n] for n in counts.occurrences.tolist()]
    N = counts.of_block.sum()
    for share, expected in zip(counts.shares(), of_block, strict=True):
        terms = [np.log(N) - grassberger_g(n) for n in expected.elements()]
        assert share == pytest.approx(np.mean(terms), abs=1e-12) if terms else np.isnan(share)


MEASURES = st.one_of(
    st.integers(1, 4).map(lambda n: Measure("ngram", n, n - 1)),
    st.tuples(st.sampled_from(["pair", "left", "right"]), st.integers(1, 5), st.integers(0, 7)).map(
        lambda drawn: Measure(drawn[0], drawn[1], max(drawn[1:]))
    ),
)


@given(
    st.lists(st.lists(st.integers(0, 4), max_size=12), min_size=1, max_size=12),
    st.lists(st.integers(0, 3), min_size=12, max_size=12),
    MEASURES,
    st.integers(5, 30),
    st.integers(1, 9),
)
@settings(max_examples=100, deadline=None)
@example([[0] * 12] * 12, list(range(12)), Measure("left", 5, 7), 5, 3)
def test_every_way_of_counting_equals_a_counter(documents, units, measure, room, parts):
    units = np.unique(units[: len(documents)], return_inverse=True)[1].tolist()
    if not any(len(document) > measure.room for document in documents):
        documents[0] = [0, 1, 2, 3, 4] * 3
    stream = Lists.of(documents, units, 5)
    types, of_block = slowly(documents, units, measure)
    # The memory holds the most frequent key, which cannot be split, `room` times.
    check(count_by_sorting(stream, room * max(types), measure, 0, HASHES), types, of_block)
    check(count_by_table(stream, measure), types, of_block)
    check(count_part(stream, 10**6, measure), types, of_block)
    of_parts = [count_part(stream, 10**6, measure._replace(part=part, parts=parts)) for part in range(parts)]
    check(reduce(Counts.with_part, of_parts), types, of_block)


@pytest.fixture(scope="module")
def large() -> tuple[Lists, np.ndarray]:
    """290,000 tokens from Zipf's law: slabs end inside documents, and inside the words of rare and frequent pairs."""
    ids = (np.random.default_rng(0).zipf(1.3, size=(29, 10_000)) % 1000).astype(np.int32)
    assert ids.size > 4 * windows.SLAB
    return Lists.of(ids.tolist(), list(range(29)), 1000, batch=29), ids


def expected_of(ids: np.ndarray, d: int) -> tuple[np.ndarray, np.ndarray]:
    """`occurrences` and `of_block` of the pairs at distance d by numpy, with one block per row."""
    pairs = 1000 * ids[:, :-d].astype(np.int64) + ids[:, d:]
    _, inverse, n = np.unique(pairs.ravel(), return_inverse=True, return_counts=True)
    occurrences, row = np.unique(n[inverse], return_inverse=True)
    of_block = np.zeros((len(occurrences), len(ids)), np.int64)
    np.add.at(of_block, (row, np.repeat(np.arange(len(ids)), pairs.shape[1])), 1)
    return occurrences, of_block


@pytest.mark.parametrize("capacity", [40_000, 100_000, 10**6])
def test_slabs_and_memory_do_not_change_a_count(large, capacity):
    stream, ids = large
    occurrences, of_block = expected_of(ids, 3000)
    found = count_by_sorting(stream, capacity, Measure("pair", 3000, 3000), 0, HASHES)
    assert occurrences[-1] > 20 * windows.FREQUENT > occurrences[0]
    np.testing.assert_array_equal(found.occurrences, occurrences)
    np.testing.assert_array_equal(found.of_block, of_block)


def test_a_frequent_key_larger_than_memory_is_refused(large):
    """About one in fifteen pairs is the most frequent one, while memory holds one in 290."""
    stream, _ = large
    with pytest.raises(UserError, match="pairs at distance 1: a single one of them is so frequent"):
        count_by_sorting(stream, 1000, Measure("pair", 1, 1), 0, HASHES)


def test_keys_of_sorted_slabs_that_end_anywhere():
    """Keys of few words, or of many, that cross the end of a slab, up to the largest possible word."""
    for size in (windows.SLAB - 1, windows.SLAB, windows.SLAB + 1, 3 * windows.SLAB):
        for run in (1, 2, windows.FREQUENT - 1, windows.FREQUENT, windows.FREQUENT + 1, windows.SLAB + 1):
            keys = np.uint64(2**63 - 1) - (np.arange(size, dtype=np.uint64)[::-1] // np.uint64(run))
            blocks = np.arange(size, dtype=np.uint64) % np.uint64(2)
            found = windows.tabulate(np.sort(keys << np.uint64(1) | blocks), 2)
            rest = [size % run] if size % run else []
            n = Counter([run] * (size // run) + rest)
            assert dict(zip(found.occurrences.tolist(), found.types.tolist(), strict=True)) == n
            assert found.of_block.sum(axis=0).tolist() == [-(-size // 2), size // 2]


def test_parts_do_not_depend_on_memory():
    few = DocumentStream(100, np.arange(11) * 10_000, np.arange(10, dtype=np.int32))
    many = DocumentStream(128_256, np.array([0, 3 * 10**9]), np.zeros(1, np.int32))
    assert Measure("left", 1, 1).by_table(few)
    assert Measure("left", 1, 1).by_table(many)
    assert not Measure("left", 1, 1).by_table(many, 1000)
    assert Measure("left", 1, 1).cut(many) == [Measure("left", 1, 1)]
    assert not Measure("pair", 1, 1).by_table(few)
    assert [part.name for part in Measure("pair", 1, 1).cut(many)][::5] == ["pair-1.000-of-006", "pair-1.005-of-006"]


def test_keys_of_windows():
    assert windows.window_keys(np.array([1, 2, 3, 4], np.int32), (0, 2), 10).tolist() == [13, 24]
    assert windows.window_keys(np.array([1, 2, 3, 4]), (2,), 10).tolist() == [3, 4]
    assert windows.window_keys(np.array([1, 2, 3, 4]), (0, 4), 10).tolist() == []
    assert windows.window_keys(np.array([2**32 - 1] * 2), (0, 1), 2**32).tolist() == [2**64 - 1]
