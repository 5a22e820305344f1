"""Count n-grams or pairs without a hash table, by sorting 64-bit words, as many at a time as fit in memory.

A word consists of the key (the item counted, e.g. a pair of tokens) and, in its lowest bits, the block (the part of the
corpus where it was seen). Sorted words show how often each key occurs and in which blocks. A corpus with more words
than fit in memory is read several times, each time for the keys in one range of a hash. No key is in two ranges, so
their counts of counts simply add up. If there are few possible keys, as for single tokens, they are counted in a table.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import reduce
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from common.cli import UserError
from measure_mutual_info.counting.document_stream import MAX_BLOCKS, DocumentStream
from measure_mutual_info.counting.entropy import grassberger_g

PART_KEYS = 1 << 29  # about this many words are one piece of work, half a minute
TABLE_CELLS = 1 << 25  # maximum size of a table, 0.27 GB
SLAB = 1 << 16  # words processed at a time: data in the CPU cache is several times faster
FREQUENT = 256  # keys that occur at least this often are processed one by one
HASHES = 2**64
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, for hashes unrelated to their keys


class Measure(NamedTuple):
    """What is counted: n-grams (n_or_d = n), pairs at distance n_or_d = d, or their left or right tokens."""

    kind: str
    n_or_d: int
    room: int  # tokens that must follow the first one in its document
    part: int = 0
    parts: int = 1  # number of ranges of the hash; only the keys in range `part` are counted

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.n_or_d}.{self.part:03d}-of-{self.parts:03d}"

    @property
    def offsets(self) -> tuple[int, ...]:
        """Positions, relative to the first token, of the tokens that make up one counted item."""
        d = self.n_or_d
        return {"ngram": tuple(range(d)), "pair": (0, d), "left": (0,), "right": (d,)}[self.kind]

    def __str__(self) -> str:
        return f"{self.n_or_d}-grams" if self.kind == "ngram" else f"pairs at distance {self.n_or_d}"

    def keys(self, stream: DocumentStream) -> int:
        """Number of possible keys."""
        return stream.vocab_size ** len(self.offsets)

    def blocks(self, stream: DocumentStream) -> np.ndarray:
        """(units,) block of each unit of the stream: one unit, or several if there are many or 64 bits are too few."""
        most = min(stream.units, MAX_BLOCKS, 2 ** (64 - (self.keys(stream) - 1).bit_length()))
        return np.arange(stream.units) * most // stream.units

    def samples(self, stream: DocumentStream) -> np.ndarray:
        """(blocks,) number of n-grams or pairs in each block."""
        windows = np.maximum(np.diff(stream.starts) - self.room, 0)
        return np.bincount(self.blocks(stream)[stream.unit], windows).astype(np.int64)

    def by_table(self, stream: DocumentStream, capacity: int = TABLE_CELLS) -> bool:
        """Whether a table of keys and blocks, with 8 more numbers per key for its evaluation, is small enough."""
        cells = self.keys(stream) * (min(stream.units, MAX_BLOCKS) + 8)
        return cells <= min(capacity, TABLE_CELLS, stream.tokens)

    def cut(self, stream: DocumentStream) -> list[Measure]:
        """The pieces of work. They do not depend on the memory limit, which may change when a run is resumed."""
        parts = 1 if self.by_table(stream) else max(1, math.ceil(self.samples(stream).sum() / PART_KEYS))
        return [self._replace(part=part, parts=parts) for part in range(parts)]


class Counts(NamedTuple):
    """Counts of counts by block. Those of different parts of the keys add up, exactly and in any order."""

    occurrences: np.ndarray  # (k,) int64, ascending, at least 1
    of_block: np.ndarray  # (k, blocks) int64: items in each block whose key occurs `occurrences` times in the corpus

    @property
    def types(self) -> np.ndarray:
        """(k,) number of different keys that occur `occurrences` times each."""
        return self.of_block.sum(axis=1) // self.occurrences

    def with_part(self, other: Counts) -> Counts:
        occurrences = np.union1d(self.occurrences, other.occurrences)
        of_block = np.zeros((len(occurrences), self.of_block.shape[1]), np.int64)
        for part in (self, other):
            of_block[np.searchsorted(occurrences, part.occurrences)] += part.of_block
        return Counts(occurrences, of_block)

    def shares(self) -> np.ndarray:
        """(blocks,) each block's share of Grassberger's entropy: the mean of log N − G(n_y) over its samples, in nats.

        NaN for a block without samples. The entropy, log N − (1/N) Σ_y n_y G(n_y) (Eq. B.5), is the mean over all N
        samples: Σ samples · share / Σ samples. A bootstrap of these shares is correct to first order. It lacks the bias
        of recounting the drawn blocks, where an item drawn twice looks frequent. Its errors are 5 to 15% smaller than
        the spread over new corpora (60 books, 3 to 40% of 2-grams seen once).
        """
        samples = self.of_block.sum(axis=0)
        values = math.log(samples.sum()) - grassberger_g(self.occurrences)
        sums = (np.ascontiguousarray(self.of_block.T) * values).sum(axis=1)
        return np.divide(sums, samples, out=np.full(len(samples), np.nan), where=samples > 0)


def window_keys(tokens: np.ndarray, offsets: tuple[int, ...], vocab_size: int) -> np.ndarray:
    """The tokens at i + offsets as one integer, for every i where all of them exist; document ends are ignored.

    Example: tokens [1, 2, 3, 4], offsets (0, 2), vocab_size 10 gives [13, 24], uint64.
    """
    starts = max(len(tokens) - offsets[-1], 0)
    keys = tokens[offsets[0] : offsets[0] + starts].astype(np.uint64)
    for offset in offsets[1:]:
        keys *= np.uint64(vocab_size)
        keys += tokens[offset : offset + starts].astype(np.uint64)
    return keys


def windows(stream: DocumentStream, measure: Measure) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(keys, blocks), uint64 each, SLAB at a time; the block after the last marks keys that cross a document's end.

    UserError: a token id outside the vocabulary.
    """
    block_of_unit = measure.blocks(stream)
    for tokens, first, last in stream.read():
        for worst in (tokens.min(initial=0), tokens.max(initial=0)):
            if not 0 <= worst < stream.vocab_size:
                raise UserError(
                    f"--documents hold token id {worst}, outside the vocabulary of {stream.vocab_size}: "
                    "prepare them again with the tokenizer that prepare.json names"
                )
        edges = stream.starts[first : last + 1] - stream.starts[first]
        block = block_of_unit[stream.unit[first:last]]
        end = len(tokens) - measure.room
        for low in range(0, end, SLAB):
            high = min(low + SLAB, end)
            here = slice(np.searchsorted(edges, low, side="right") - 1, np.searchsorted(edges, high))
            begins, ends = np.clip(edges[:-1][here], low, high), np.clip(edges[1:][here], low, high)
            whole = np.clip(edges[1:][here] - measure.room, begins, ends)
            marks = np.stack([block[here], np.full(len(whole), block_of_unit[-1] + 1)], axis=1).astype(np.uint64)
            lengths = np.stack([whole - begins, ends - whole], axis=1)
            keys = window_keys(tokens[low : high + measure.offsets[-1]], measure.offsets, stream.vocab_size)
            yield keys, np.repeat(marks.ravel(), lengths.ravel())


def count_part(stream: DocumentStream, capacity: int, measure: Measure) -> Counts:
    """Count a measure, or one part of it. capacity: how many 8-byte numbers fit in memory besides everything else.

    UserError: a token id outside the vocabulary, or a single key too frequent to fit in memory.
    """
    if measure.parts == 1 and measure.by_table(stream, capacity):
        return count_by_table(stream, measure)
    low, high = (HASHES * part // measure.parts for part in (measure.part, measure.part + 1))
    return count_by_sorting(stream, capacity, measure, low, high)


def count_by_table(stream: DocumentStream, measure: Measure) -> Counts:
    keys, blocks = measure.keys(stream), int(measure.blocks(stream)[-1]) + 1
    table = np.zeros((blocks + 1) * keys, np.int64)
    for key, block in windows(stream, measure):
        np.add.at(table, (block * np.uint64(keys) + key).view(np.int64), 1)
    table = table.reshape(blocks + 1, keys)[:blocks]
    occurrences, row = np.unique(table.sum(axis=0), return_inverse=True)
    of_block = [np.bincount(row, of, len(occurrences)) for of in table]
    seen = occurrences > 0
    return Counts(occurrences[seen], np.stack(of_block, axis=1)[seen].astype(np.int64))


def count_by_sorting(stream: DocumentStream, capacity: int, measure: Measure, low: int, high: int) -> Counts:
    """Count the keys whose hash is in low … high − 1, in several ranges if more than `capacity` of them occur."""
    blocks, samples = int(measure.blocks(stream)[-1]) + 1, int(measure.samples(stream).sum())
    shift, expected = np.uint64((blocks - 1).bit_length()), samples * (high - low) / HASHES
    fits, fill, words = expected <= capacity, 0, np.empty(min(samples, capacity), np.uint64)
    for keys, block in windows(stream, measure) if fits else ():
        taken = block < np.uint64(blocks)
        if high - low < HASHES:
            taken &= keys * MULTIPLIER - np.uint64(low) <= np.uint64(high - low - 1)
        taken = np.flatnonzero(taken)
        fits = fill + len(taken) <= len(words)
        if not fits:
            break
        words[fill : fill + len(taken)] = (keys[taken] << shift) | block[taken]
        fill += len(taken)
    if fits:
        words[:fill].sort()
        return tabulate(words[:fill], blocks)
    if 64 * expected < capacity:
        raise UserError(f"{measure}: a single one of them is so frequent that it does not fit: give more --memory-gb")
    del words
    ranges = max(2, math.ceil(1.05 * expected / capacity))  # 5% more, as hashes are not spread evenly
    edges = [low + (high - low) * i // ranges for i in range(ranges + 1)]
    found = (count_by_sorting(stream, capacity, measure, *pair) for pair in pairwise(edges))
    return reduce(Counts.with_part, found)


def tabulate(words: np.ndarray, blocks: int) -> Counts:
    """Counts from sorted words (key, block), with the block in the (blocks − 1).bit_length() lowest bits."""
    bits = (blocks - 1).bit_length()
    shift, mask = np.uint64(bits), np.uint64((1 << bits) - 1)
    rare, frequent, begin = np.zeros((FREQUENT, blocks), np.int64), {}, 0
    while begin < len(words):
        key = words[begin : begin + SLAB] >> shift
        starts = np.concatenate([[0], np.flatnonzero(key[1:] != key[:-1]) + 1])
        # The last key may continue after the slab, up to `end`; the slab is extended to it unless the key is frequent.
        last = begin + int(starts[-1])
        end = last + int(np.searchsorted(words[last:], words[last] | mask, side="right"))
        slab = words[begin : min(end, begin + SLAB + FREQUENT)]
        n = np.diff(starts, append=end - begin)
        for start, of_key in zip(starts[n >= FREQUENT] + begin, n[n >= FREQUENT].tolist(), strict=True):
            first_of_block = (words[start] & ~mask) + np.arange(blocks, dtype=np.uint64)
            of_block = np.diff(np.searchsorted(words[start : start + of_key], first_of_block), append=of_key)
            frequent[of_key] = frequent.get(of_key, 0) + of_block
        cells = np.repeat(np.where(n < FREQUENT, n * blocks, 0), np.diff(starts, append=len(slab)))
        cells += (slab & mask).view(np.int64)
        np.add.at(rare.reshape(-1), cells, 1)
        begin = end
    rare[0] = 0  # this row collected the frequent keys
    found = np.flatnonzero(rare.any(axis=1))
    occurrences = np.concatenate([found, np.array(sorted(frequent), np.int64)])
    return Counts(occurrences, np.concatenate([rare[found], *(frequent[n][None] for n in sorted(frequent))]))
