"""Count the n-grams of a corpus of documents: the input of the entropies in the corrections of App. B (Fig. B.3).

    python measure_mutual_info/count_ngrams.py --documents data/documents/books_2048 --out results/mine/counts.csv

Reads a folder written by prepare_dataset.py. Writes counts.csv with the columns source, tokenizer, kind, n_or_d,
occurrences, types: for kind "ngram" and n_or_d = n, `types` distinct n-grams occur exactly `occurrences` times each,
which is all that an entropy needs. No n-gram crosses from one document into another.

Hardware: one CPU core; 20 million tokens in about a second. Memory: some 64 bytes for each distinct n-gram while the
last runs merge, and at most 0.5 GB for a chunk of tokens.
Expect: Σ occurrences · types = the number of tokens for n = 1, and one fewer per document for n = 2.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset
from tqdm import tqdm

from common.cli import UserError, run
from common.record import write_csv
from measure_mutual_info.documents import open_documents

DOCUMENTS_PER_READ = 1000  # one batch of Arrow lists; its tokens stay memory-mapped


@dataclass(frozen=True)
class Settings:
    documents: Path
    """folder of documents, as prepare_dataset.py wrote it"""
    out: Path
    """the CSV to write"""
    n: tuple[int, ...] = (1, 2)
    """lengths of the n-grams in tokens; the paper's correction needs 2, its two-point information 1"""
    chunk_tokens: int = 1 << 24
    """not in the paper: n-grams sorted at a time; 16.8 million take 0.5 GB"""


def ngram_keys(tokens: np.ndarray, ends: np.ndarray, n: int, vocab_size: int) -> np.ndarray:
    """Every n-gram within a document as one integer, in the order of the text.

    tokens: (t,) ids below vocab_size, documents laid end to end. ends: (documents,) where each document ends in
    `tokens`, ascending, the last at most t. Returns uint64 keys Σ_i token_i · vocab_size^(n−1−i); example:
    tokens [1, 2, 3, 4], ends [3, 4], n = 2, vocab_size 10 gives [12, 23].
    """
    if len(tokens) < n:
        return np.empty(0, dtype=np.uint64)
    starts = len(tokens) - n + 1
    keys = np.zeros(starts, dtype=np.uint64)
    for i in range(n):
        keys *= np.uint64(vocab_size)
        keys += tokens[i : i + starts].astype(np.uint64)
    lengths = np.diff(ends, prepend=0)
    end_of_start = np.repeat(ends, lengths)[:starts]
    return keys[np.arange(len(end_of_start)) + n <= end_of_start]


class SortedCounts:
    """Counts of uint64 keys, held as sorted runs of distinct keys that are merged as they grow.

    A run is merged into the one before it when it has reached half its size, so every key is moved about
    log2(chunks) times, and the runs together hold at most about twice the distinct keys.
    """

    def __init__(self) -> None:
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, keys: np.ndarray) -> None:
        """Count `keys` (uint64, any order; sorted in place)."""
        if len(keys) == 0:
            return
        keys.sort()
        firsts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
        self._runs.append((keys[firsts], np.diff(firsts, append=len(keys))))
        while len(self._runs) > 1 and len(self._runs[-2][0]) <= 2 * len(self._runs[-1][0]):
            self._merge_last_two()

    def merged(self) -> tuple[np.ndarray, np.ndarray]:
        """The distinct keys, ascending (uint64), and how often each was added (int64)."""
        while len(self._runs) > 1:
            self._merge_last_two()
        return self._runs[0] if self._runs else (np.empty(0, np.uint64), np.empty(0, np.int64))

    def _merge_last_two(self) -> None:
        pair = sorted((self._runs.pop(), self._runs.pop()), key=lambda run: len(run[0]))
        (small_keys, small_counts), (keys, counts) = pair
        place = np.searchsorted(keys, small_keys)
        known = keys[np.minimum(place, len(keys) - 1)] == small_keys
        counts[place[known]] += small_counts[known]
        new = ~known
        self._runs.append(
            (np.insert(keys, place[new], small_keys[new]), np.insert(counts, place[new], small_counts[new]))
        )


def count_ngrams(documents: Dataset, n: int, vocab_size: int, chunk_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Distinct n-gram keys (ascending, see `ngram_keys`) and their counts over all documents.

    UserError: a token id outside the vocabulary; n-grams too many for a key of 64 bits.
    """
    _check_keys_fit(n, vocab_size)
    counts = SortedCounts()
    with tqdm(total=len(documents), desc=f"{n}-grams", unit="doc") as progress:
        for tokens, ends, finished in token_chunks(documents, chunk_tokens, overlap=n - 1):
            if len(tokens) and (tokens.min() < 0 or tokens.max() >= vocab_size):
                worst = tokens.min() if tokens.min() < 0 else tokens.max()
                raise UserError(
                    f"the documents hold token id {worst}, outside the vocabulary of {vocab_size}: "
                    "prepare them again with the tokenizer that prepare.json names"
                )
            counts.add(ngram_keys(tokens, ends, n, vocab_size))
            progress.update(finished)
    return counts.merged()


def token_chunks(documents: Dataset, chunk_tokens: int, overlap: int) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Chunks (tokens, ends, documents finished) of at most chunk_tokens + overlap tokens, as `ngram_keys` wants them.

    Where a chunk ends inside a document, the next one repeats nothing: this one carries `overlap` tokens more, so that
    each window of overlap + 1 tokens starts in exactly one chunk.
    """
    for batch in documents.select_columns("input_ids").with_format("arrow").iter(batch_size=DOCUMENTS_PER_READ):
        lists = batch["input_ids"].combine_chunks()
        tokens = lists.flatten().to_numpy(zero_copy_only=False)
        ends = np.cumsum(lists.value_lengths().to_numpy(zero_copy_only=False), dtype=np.int64)
        done = 0
        for start in range(0, len(tokens), chunk_tokens):
            stop = min(start + chunk_tokens + overlap, len(tokens))
            finished = int(np.searchsorted(ends, min(start + chunk_tokens, len(tokens)), side="right"))
            # Windows that start in the overlap belong to the next chunk: `stop` leaves them no room.
            yield tokens[start:stop], np.unique(np.clip(ends - start, 0, stop - start)), finished - done
            done = finished


def counts_of_counts(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(occurrences, types): the different values in `counts`, ascending, and how many entries have each."""
    return np.unique(counts, return_counts=True)


def _check_keys_fit(n: int, vocab_size: int) -> None:
    if vocab_size**n > 2**64:
        longest = max(k for k in range(1, 65) if vocab_size**k <= 2**64)
        raise UserError(
            f"{n}-grams of {vocab_size} tokens do not fit a 64-bit key: with this vocabulary --n goes up to {longest}"
        )


def main(cfg: Settings) -> None:
    started = time.time()
    if not cfg.n or min(cfg.n) < 1:
        raise UserError(f"--n {' '.join(map(str, cfg.n))}: give one or more lengths of at least 1")
    if cfg.chunk_tokens < 1:
        raise UserError(f"--chunk-tokens {cfg.chunk_tokens}: give at least 1")
    if cfg.out.suffix != ".csv":
        raise UserError(f"--out {cfg.out}: give the name of a .csv file")
    documents, prepared = open_documents(cfg.documents)
    vocab_size = int(prepared["tokenizer_vocab_size"])
    for n in cfg.n:
        _check_keys_fit(n, vocab_size)

    tokenizer = prepared["tokenizer"]
    if os.path.isabs(tokenizer):  # the table should read the same on every machine
        tokenizer = Path(tokenizer).name
    tables = []
    for n in sorted(set(cfg.n)):
        _, counts = count_ngrams(documents, n, vocab_size, cfg.chunk_tokens)
        if len(counts) == 0:
            raise UserError(f"no document in {cfg.documents} has {n} tokens: no {n}-gram to count")
        occurrences, types = counts_of_counts(counts)
        names = {"source": prepared["source"], "tokenizer": tokenizer}
        tables.append(pd.DataFrame(names | {"kind": "ngram", "n_or_d": n, "occurrences": occurrences, "types": types}))
        print(f"{n}-grams: {counts.sum():,} in all, {len(counts):,} different")
    write_csv(cfg.out, pd.concat(tables), cfg, inputs=[cfg.documents], started=started, source=prepared["source"])
    print(f"wrote {cfg.out}")


if __name__ == "__main__":
    run(main, Settings, __doc__)
