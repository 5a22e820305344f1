"""Counting n-grams or pairs of documents, in memory or by sorted runs: what each process of count_ngrams.py does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.cli import UserError
from common.record import atomic_file
from measure_mutual_info.counting.document_stream import DocumentStream
from measure_mutual_info.counting.sorted_runs import (
    SLAB,
    Layout,
    damaged,
    merged_ranges,
    run_is_whole,
    summarise,
    write_run,
)

MAX_BLOCKS = 128  # rows of a kind in counts_by_book.csv
TOKEN_BUFFER = 1 << 20  # single tokens counted at a time


@dataclass(frozen=True)
class Measure:
    """What is counted in one go: n-grams (n_or_d = n), or pairs at distance n_or_d = d with both their marginals."""

    kind: str
    n_or_d: int
    at_least: int = 0
    """tokens that must follow the first one in its document, even where n_or_d asks for fewer"""

    @property
    def offsets(self) -> tuple[int, ...]:
        """Which tokens, from the first of them on, make one thing to be counted."""
        return tuple(range(self.n_or_d)) if self.kind == "ngram" else (0, self.n_or_d)

    @property
    def reach(self) -> int:
        return self.offsets[-1]

    @property
    def room(self) -> int:
        """How many tokens must follow the first."""
        return max(self.reach, self.at_least)

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("ngram",) if self.kind == "ngram" else ("left", "right", "pair")

    def tokens_of(self, kind: str) -> int:
        """How many tokens a key of this kind has."""
        return 1 if kind in ("left", "right") else len(self.offsets)

    def __str__(self) -> str:
        return f"{self.n_or_d}-grams" if self.kind == "ngram" else f"pairs at distance {self.n_or_d}"


@dataclass(frozen=True)
class Job:
    """What every process needs to count any measure."""

    stream: DocumentStream
    vocab_size: int
    first_token: int
    last_token: int
    """of this shard: the tokens first … last − 1, whole documents"""
    chunk_tokens: int
    folder: Path
    """of the runs and of what is finished"""
    shards: tuple[Path, ...]
    """folders whose runs are to be merged; empty: count"""
    keep_runs: bool
    """this is a shard: leave its runs"""

    @property
    def pieces(self) -> list[tuple[int, int]]:
        tokens = range(self.first_token, self.last_token, self.chunk_tokens)
        return [(start, min(start + self.chunk_tokens, self.last_token)) for start in tokens]

    def blocks(self, measure: Measure) -> np.ndarray:
        """The block of each unit of the stream: a book, or several where there are many, or 64 bits short."""
        most = min(self.stream.units, MAX_BLOCKS, 2 ** (64 - _key_bits(measure, self.vocab_size)))
        return np.arange(self.stream.units) * most // self.stream.units

    def samples(self, measure: Measure) -> np.ndarray:
        """How many n-grams or pairs of the corpus lie in each block."""
        windows = np.maximum(np.diff(self.stream.starts) - measure.room, 0)
        return np.bincount(self.blocks(measure)[self.stream.unit], windows).astype(np.int64)

    def result(self, measure: Measure, kind: str) -> Path:
        return self.folder / f"{kind}-{measure.n_or_d}.npz"


class Result(NamedTuple):
    """Of one kind: counts of counts, and of each block how much was counted in it and its share, see `summarise`."""

    occurrences: np.ndarray
    types: np.ndarray
    samples: np.ndarray
    means: np.ndarray


def window_keys(tokens: np.ndarray, offsets: tuple[int, ...], vocab_size: int) -> np.ndarray:
    """The tokens at i + offsets as one integer, for every i where there are all, whatever document they are of.

    Example: tokens [1, 2, 3, 4], offsets (0, 2), vocab_size 10 gives [13, 24], uint64.
    """
    starts = max(len(tokens) - offsets[-1], 0)
    keys = tokens[:starts].astype(np.uint64)
    for offset in offsets[1:]:
        keys *= np.uint64(vocab_size)
        keys += tokens[offset : offset + starts].astype(np.uint64)
    return keys


class TokenCounts:
    """Counts of single tokens by block, as words; tables rather than sorting, because a vocabulary is small."""

    def __init__(self, vocab_size: int, layout: Layout) -> None:
        self.vocab_size, self.layout = vocab_size, layout
        self._buffer, self._fill, self._block = np.empty(TOKEN_BUFFER, np.int64), 0, 0
        self._parts: list[np.ndarray] = []
        self._compact_at = 4 * TOKEN_BUFFER

    def add(self, tokens: np.ndarray, block: int) -> None:
        """At most SLAB tokens of a block."""
        if block != self._block or self._fill + len(tokens) > len(self._buffer):
            self._flush()
            self._block = block
        self._buffer[self._fill : self._fill + len(tokens)] = tokens
        self._fill += len(tokens)

    def words(self) -> np.ndarray:
        """All counts so far, sorted; a (token, block) may have several words."""
        self._flush()
        words = np.concatenate(self._parts)
        words.sort()
        return words

    def _flush(self) -> None:
        tokens, self._fill = self._buffer[: self._fill], 0
        if not len(tokens) and self._parts:
            return
        if 8 * len(tokens) < self.vocab_size:
            seen, counts = np.unique(tokens, return_counts=True)
        else:
            counts = np.bincount(tokens)
            seen = np.flatnonzero(counts)
            counts = counts[seen]
        self._parts.append(self.layout.words(seen, self._block, counts))
        if sum(map(len, self._parts)) > self._compact_at:
            self._parts = [self.layout.combine(self.words())]
            self._compact_at = max(self._compact_at, 2 * len(self._parts[0]))


def count_piece(job: Job, measure: Measure, start: int, stop: int, layouts: dict[str, Layout]) -> dict[str, np.ndarray]:
    """All n-grams or pairs whose first token is one of start … stop − 1, and the marginals: sorted words by kind.

    Those of more than one token stand for one each and are not combined. UserError: a token id outside the vocabulary.
    """
    blocks, main = job.blocks(measure), measure.kinds[-1]
    singles = {
        kind: TokenCounts(job.vocab_size, layouts[kind]) for kind in measure.kinds if measure.tokens_of(kind) == 1
    }
    shift, reach = np.uint64(layouts[main].key_shift), measure.reach
    tags = [layouts[main].words(np.zeros(1, np.uint64), block)[0] for block in range(int(blocks[-1]) + 1)]
    words, fill = np.empty(0 if main in singles else stop - start, np.uint64), 0
    for tokens, first_token, first, last in job.stream.read(start, stop):
        _check_tokens(tokens, job.vocab_size)
        # Windows begin in [begins, ends) of each document.
        edges = job.stream.starts[first : last + 1] - first_token
        begins = np.maximum(edges[:-1], start - first_token)
        ends = np.minimum(edges[1:] - measure.room, stop - first_token)
        block = blocks[job.stream.unit[first:last]]
        for low in range(max(start - first_token, 0), min(stop - first_token, len(tokens) - reach), SLAB):
            high = min(low + SLAB, stop - first_token, len(tokens) - reach)
            here = np.s_[np.searchsorted(ends, low, side="right") : np.searchsorted(begins, high)]
            whole = zip(begins[here].tolist(), ends[here].tolist(), block[here].tolist(), strict=True)
            inside = [(max(begin, low), min(end, high), b) for begin, end, b in whole if begin < end]
            if inside and main not in singles:
                keys = window_keys(tokens[low : high + reach], measure.offsets, job.vocab_size) << shift
            for begin, end, b in inside:
                if main not in singles:
                    np.bitwise_or(keys[begin - low : end - low], tags[b], out=words[fill : fill + end - begin])
                    fill += end - begin
                for kind, single in singles.items():
                    offset = reach if kind == "right" else 0
                    single.add(tokens[begin + offset : end + offset], b)
    found = {kind: single.words() for kind, single in singles.items()}
    if main not in singles:
        found[main] = words[:fill]
        found[main].sort()
    return found


def count_measure(job: Job, measure: Measure, tick: Callable[[int], object] = lambda tokens: None) -> None:
    """Count a measure, or merge what shards counted, and write a result for each of its kinds, or this shard's runs."""
    layouts = {kind: _layout(job, measure, kind) for kind in measure.kinds}
    if all(job.result(measure, kind).exists() for kind in measure.kinds):
        return
    if not job.keep_runs and not job.shards and len(job.pieces) == 1:
        for kind, result in count_in_memory(job, measure).items():
            _write_result(job, measure, kind, result)
        tick(job.last_token - job.first_token)
        return

    for number, (start, stop) in enumerate([] if job.shards else job.pieces):
        paths = {kind: _run_path(job.folder, measure, kind, number) for kind in measure.kinds}
        if not all(run_is_whole(path) for path in paths.values()):
            for kind, words in count_piece(job, measure, start, stop, layouts).items():
                once = measure.tokens_of(kind) > 1
                write_run(paths[kind], layouts[kind].combine(words, once=True) if once else words)
        tick(stop - start)
    if job.keep_runs:
        return
    for kind in measure.kinds:
        runs = [path for folder in job.shards or (job.folder,) for path in _runs(folder, measure, kind)]
        ranges = lambda runs=runs, kind=kind: merged_ranges(runs, layouts[kind], job.chunk_tokens)  # noqa: E731
        try:
            _write_result(job, measure, kind, _result(job, measure, ranges, layouts[kind]))
        except ValueError as error:
            raise damaged(runs[0].parent) from error
    for kind in measure.kinds:
        for path in _runs(job.folder, measure, kind):
            path.unlink()


def count_in_memory(job: Job, measure: Measure) -> dict[str, Result]:
    """The result of each kind, of a job of one piece, without runs and without repeats in the words."""
    layouts, main = {kind: _layout(job, measure, kind) for kind in measure.kinds}, measure.kinds[-1]
    if measure.tokens_of(main) > 1:
        layouts[main] = Layout(layouts[main].block_bits, 0)
    (piece,) = job.pieces
    found = count_piece(job, measure, *piece, layouts)
    return {kind: _result(job, measure, lambda words=words: [words], layouts[kind]) for kind, words in found.items()}


def _result(job: Job, measure: Measure, ranges: Callable[[], Iterable[np.ndarray]], layout: Layout) -> Result:
    samples = job.samples(measure)
    occurrences, types, means = summarise(ranges, layout, samples)
    return Result(occurrences, types, samples, means)


def _write_result(job: Job, measure: Measure, kind: str, result: Result) -> None:
    with atomic_file(job.result(measure, kind), "wb") as file:
        np.savez(file, **result._asdict())


def _run_path(folder: Path, measure: Measure, kind: str, number: int) -> Path:
    return folder / f"{kind}-{measure.n_or_d}.{number:06d}.run"


def _runs(folder: Path, measure: Measure, kind: str) -> list[Path]:
    return sorted(folder.glob(f"{kind}-{measure.n_or_d}.*.run"))


def _key_bits(measure: Measure, vocab_size: int) -> int:
    return (vocab_size ** len(measure.offsets) - 1).bit_length()


def _layout(job: Job, measure: Measure, kind: str) -> Layout:
    return Layout.of(job.vocab_size ** measure.tokens_of(kind), int(job.blocks(measure)[-1]) + 1)


def _check_tokens(tokens: np.ndarray, vocab_size: int) -> None:
    if len(tokens) and (tokens.min() < 0 or tokens.max() >= vocab_size):
        worst = tokens.min() if tokens.min() < 0 else tokens.max()
        raise UserError(
            f"--documents hold token id {worst}, outside the vocabulary of {vocab_size}: "
            "prepare them again with the tokenizer that prepare.json names"
        )
