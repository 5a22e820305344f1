"""Counting without a hash table: keys packed into 64-bit words, sorted in runs on disk, merged a key range at a time.

A word is key · block · (repeats − 1), from the high bits to the low ones (`Layout`): the key is what is counted, a pair
of tokens say, the block the part of the corpus that it was seen in. One sort of words thus gives both how often a key
occurs and how often in each block. What is counted within memory is sorted, its equal words are merged into one with
more repeats, and the result goes to disk as a run. A merge then takes every run's words of one range of keys, as many
as memory holds, sorts them once more, and goes on to the next range. Nothing else ever has to be in memory.

Runs are plain numbers, so those of several machines merge as those of one do. Only numpy is needed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.cli import UserError
from measure_mutual_info.counting.entropy import grassberger_entropy, grassberger_g, sample_size

SLAB = 1 << 16  # words worked on at a time: what lies in the processor's cache is several times faster
SMALL = 1 << 12  # occurrences below are counted in a table
INDEX_STRIDE = 4096  # words of a run between two of its index
WORD = np.dtype("<u8")


@dataclass(frozen=True)
class Layout:
    """Where key, block and repeats lie in a word of 64 bits: count_bits lowest, block_bits above, the key on top."""

    block_bits: int
    count_bits: int

    @classmethod
    def of(cls, keys: int, blocks: int) -> Layout:
        """For keys 0 … keys − 1 and blocks 0 … blocks − 1. ValueError: they do not fit."""
        key_bits, block_bits = (keys - 1).bit_length(), (blocks - 1).bit_length()
        if key_bits + block_bits > 64:
            raise ValueError(f"{keys} keys in {blocks} blocks need {key_bits + block_bits} bits")
        return cls(block_bits, min(64 - key_bits - block_bits, 32))

    @property
    def key_shift(self) -> int:
        return self.block_bits + self.count_bits

    def words(self, keys: np.ndarray, block: int, repeats: np.ndarray | None = None) -> np.ndarray:
        """Words (uint64) of keys seen in a block, once each or `repeats` times (split where they exceed their bits)."""
        words = (keys.astype(np.uint64) << np.uint64(self.key_shift)) | np.uint64(block << self.count_bits)
        return words if repeats is None else self._with_repeats(words, repeats)

    def repeats(self, words: np.ndarray) -> np.ndarray:
        return (words & np.uint64((1 << self.count_bits) - 1)).astype(np.int64) + 1

    def combine(self, words: np.ndarray, once: bool = False) -> np.ndarray:
        """Sorted words with those of equal key and block made one, in place: the part of `words` that they take up.

        once: every word stands for one (its repeats are not read).
        """
        fill = 0
        for slab in _slabs(words, self.count_bits):
            starts = _starts(slab, self.count_bits)
            repeats = _lengths(starts, len(slab)) if once else _sums(slab, starts, self)
            full = np.uint64((1 << self.count_bits) - 1)
            part = self._with_repeats(slab[starts] & ~full, repeats)
            words[fill : fill + len(part)] = part  # never more than were read
            fill += len(part)
        return words[:fill]

    def _with_repeats(self, words: np.ndarray, repeats: np.ndarray) -> np.ndarray:
        more, full = repeats - 1, 1 << self.count_bits
        if len(more) and more.max() >= full:
            times = more // full + 1  # so many words, all but the first of them full
            words, first = np.repeat(words, times), np.cumsum(times) - times
            rest, more = more % full, np.full(len(words), full - 1)
            more[first] = rest
        return words | more.astype(np.uint64)


def write_run(path: Path, words: np.ndarray) -> None:
    """Write sorted words to `path` in one step: their number, the words, and every INDEX_STRIDE-th of them again.

    Not synced to the disk, which would cost more than all else: a kill leaves whole runs, and a run that a power cut
    damaged is known by its size (`run_is_whole`) or its sum. OSError names `path`; nothing partial stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            for part in (np.array([len(words)], WORD), words, words[::INDEX_STRIDE]):
                file.write(memoryview(np.ascontiguousarray(part, WORD)).cast("B"))
        os.replace(temporary, path)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def run_is_whole(path: Path) -> bool:
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            n = int.from_bytes(file.read(8), "little")
    except OSError:
        return False
    return size >= 8 and size == 8 * (1 + n + -(-n // INDEX_STRIDE))


def merged_ranges(paths: Sequence[Path], layout: Layout, range_words: int) -> Iterator[np.ndarray]:
    """All words of some runs in ascending order, at most about `range_words` at a time, no key in two of the arrays.

    Each array is overwritten when the next one is asked for. Equal words are not combined. `range_words` is exceeded
    by what a stride of every run's index holds. UserError: a run is damaged.
    """
    indices = [_read_index(path) for path in paths]
    every = np.sort(np.concatenate(indices)) if indices else np.empty(0, WORD)
    # Between two successive entries of all indices together lie at most one stride of words and the rest of one of
    # each run, so ranges of `step` entries hold at most (step + runs) strides.
    step = max(range_words // INDEX_STRIDE - len(paths), 1)
    cuts = np.unique(every[step::step] >> np.uint64(layout.key_shift)) << np.uint64(layout.key_shift)
    sizes, done = [_run_size(path) for path in paths], [0] * len(paths)
    room = min((step + len(paths)) * INDEX_STRIDE, sum(sizes)) + INDEX_STRIDE
    buffer = np.empty(room, WORD)
    for cut in [*cuts, None]:
        fill = 0
        for i, (path, index) in enumerate(zip(paths, indices, strict=True)):
            stop = sizes[i]
            if cut is not None:  # up to the first word of the index that is not below the cut, then less what is above
                stop = min(stop, INDEX_STRIDE * int(np.searchsorted(index, cut)))
            wanted = max(stop - done[i], 0)
            if fill + wanted > len(buffer):
                buffer = np.concatenate([buffer[:fill], np.empty(wanted + INDEX_STRIDE, WORD)])
            part = buffer[fill : fill + wanted]
            _read_words(path, done[i], part)
            if cut is not None:
                part = part[: np.searchsorted(part, cut)]
            done[i] += len(part)
            fill += len(part)
        buffer[:fill].sort()
        yield buffer[:fill]


def summarise(
    ranges: Callable[[], Iterable[np.ndarray]], layout: Layout, samples: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts of counts, and every block's share of Grassberger's entropy.

    ranges: called twice, gives the sorted words, no key in two of the arrays. samples: (blocks,) how many of what was
    counted lie in each block. Returns occurrences and types, as entropy.py wants them, and for each block the mean of
    log N − G(n_y) over its samples in nats, NaN where there are none. The entropy, log N − (1/N) Σ_y n_y G(n_y)
    (Eq. B.5), is the mean over all N samples, each y as often as it occurs: Σ samples · mean / Σ samples.
    ValueError: the words are not so many as the samples.

    A bootstrap of these shares is one to first order: it has not the bias of a recount, which takes what is drawn twice
    for frequent, and its errors are 5 to 15% short of the spread of fresh corpora (60 books, 3 to 40% of 2-grams once).
    """
    blocks = len(samples)
    occurrences, types = _counts_of_counts(ranges(), layout)
    total = sample_size(occurrences, types)
    if total != samples.sum():
        raise ValueError(f"{total} words for {samples.sum()} samples")
    entropy = grassberger_entropy(occurrences, types)
    if blocks == 1:
        return occurrences, types, np.array([entropy])
    # As deviations from their mean, whose sums over billions of samples keep more digits.
    deviation = math.log(total) - entropy - grassberger_g(occurrences)
    table = np.zeros(min(SMALL, int(occurrences[-1]) + 1))
    table[occurrences[occurrences < len(table)]] = deviation[occurrences < len(table)]

    sums = np.zeros(blocks)
    block_mask = np.uint64((1 << layout.block_bits) - 1)
    for words in ranges():
        for slab in _slabs(words, layout.key_shift):
            entries, repeats = _entries(slab, layout)
            starts = _starts(entries, layout.block_bits)
            n = _occurrences(slab, layout)
            values = table.take(n, mode="clip")
            if n.max() >= len(table):
                values[n >= len(table)] = deviation[np.searchsorted(occurrences, n[n >= len(table)])]
            # The sums so far stand in front: one long addition in the order of the keys, whatever the ranges, so that
            # its rounding is the same too.
            block, weights = np.empty(blocks + len(entries), np.intp), np.empty(blocks + len(entries))
            block[:blocks], weights[:blocks] = np.arange(blocks), sums
            np.bitwise_and(entries, block_mask, out=block[blocks:].view(np.uint64))
            np.multiply(np.repeat(values, _lengths(starts, len(entries))), repeats, out=weights[blocks:])
            sums = np.bincount(block, weights, minlength=blocks)
    means = entropy + np.divide(sums, samples, out=np.full(blocks, np.nan), where=samples > 0)
    return occurrences, types, means


def _counts_of_counts(ranges: Iterable[np.ndarray], layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    small, large = np.zeros(SMALL, np.int64), []
    for words in ranges:
        for slab in _slabs(words, layout.key_shift):
            n = _occurrences(slab, layout)
            types = np.bincount(np.minimum(n, SMALL - 1), minlength=SMALL)
            if types[-1]:
                large.append(n[n >= SMALL - 1])
                types[-1] = 0
            small += types
    values, types = np.unique(np.concatenate([np.empty(0, np.int64), *large]), return_counts=True)
    few = np.flatnonzero(small)
    return np.concatenate([few, values]), np.concatenate([small[few], types])


def _slabs(words: np.ndarray, shift: int) -> Iterator[np.ndarray]:
    """Sorted words in pieces of about SLAB, none of which ends among words that are equal above their `shift` bits."""
    start = 0
    while start < len(words):
        stop = min(start + SLAB, len(words))
        last = words[stop - 1] | np.uint64((1 << shift) - 1)
        stop += int(np.searchsorted(words[stop:], last, side="right"))
        yield words[start:stop]
        start = stop


def _starts(words: np.ndarray, shift: int) -> np.ndarray:
    """Where a new number begins among sorted words (at least one) looked at without their `shift` lowest bits."""
    above = words >> np.uint64(shift) if shift else words
    new = np.empty(len(words), bool)
    new[0] = True
    np.not_equal(above[1:], above[:-1], out=new[1:])
    return np.flatnonzero(new)


def _entries(slab: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """The distinct (key, block) of sorted words, their count bits cut off, and how often each occurs."""
    starts = _starts(slab, layout.count_bits)
    return slab[starts] >> np.uint64(layout.count_bits), _sums(slab, starts, layout)


def _occurrences(slab: np.ndarray, layout: Layout) -> np.ndarray:
    """How often each distinct key of sorted words occurs."""
    return _sums(slab, _starts(slab, layout.key_shift), layout)


def _sums(slab: np.ndarray, starts: np.ndarray, layout: Layout) -> np.ndarray:
    if layout.count_bits:
        return np.add.reduceat(layout.repeats(slab), starts)
    return _lengths(starts, len(slab))  # every word stands for one


def _lengths(starts: np.ndarray, end: int) -> np.ndarray:
    """np.diff(starts, append=end), without its copy."""
    lengths = np.empty(len(starts), np.int64)
    np.subtract(starts[1:], starts[:-1], out=lengths[:-1])
    lengths[-1] = end - starts[-1]
    return lengths


def _run_size(path: Path) -> int:
    return int(_read(path, 0, 1)[0])


def _read_index(path: Path) -> np.ndarray:
    if not run_is_whole(path):
        raise damaged(path)
    n = _run_size(path)
    return _read(path, 1 + n, -(-n // INDEX_STRIDE))


def _read(path: Path, first: int, count: int) -> np.ndarray:
    out = np.empty(count, WORD)
    _read_words(path, first - 1, out)
    return out


def _read_words(path: Path, first: int, out: np.ndarray) -> None:
    """Fill `out` with the words of a run from number `first` on."""
    with open(path, "rb", buffering=0) as file:
        file.seek(8 * (1 + first))
        rest = memoryview(out).cast("B")
        while len(rest):  # one read ends at 2 GB
            got = file.readinto(rest)
            if not got:
                raise damaged(path)
            rest = rest[got:]


def damaged(path: Path) -> UserError:
    return UserError(f"{path} is damaged: delete it, then run again the command that made it")
