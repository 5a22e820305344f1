"""Count the n-grams of a corpus of documents: the input of the entropies in the corrections of App. B (Fig. B.3).

    python measure_mutual_info/count_ngrams.py --documents data/documents/books_2048 --out results/mine/counts.csv

Reads a folder written by prepare_dataset.py. Writes counts.csv with the columns source, tokenizer, kind, n_or_d,
occurrences, types: for kind "ngram" and n_or_d = n, `types` distinct n-grams occur exactly `occurrences` times each,
which is all that an entropy needs. No n-gram crosses from one document into another.

Beside it goes counts_by_book.csv, for the error of that entropy by a bootstrap over books: source, tokenizer, kind,
n_or_d, book, ngrams, entropy_nats, a row a book (where the corpus is one book, a row a document, and `book` is its
name). Grassberger's entropy is a mean over the n-grams of the text, each with its log N − G(n_y); `ngrams` is how many
of them lie in the book and `entropy_nats` is their mean, so Σ ngrams · entropy_nats / Σ ngrams is the entropy of the
corpus, and the same ratio over books drawn with replacement is a replicate of it.

Hardware: one CPU core; 20 million tokens in five seconds. Memory: some 64 bytes for each distinct n-gram while the
last runs merge, and at most 0.5 GB for a chunk of tokens.
Expect: Σ occurrences · types = Σ ngrams = the number of tokens for n = 1, and one fewer per document for n = 2.
"""

from __future__ import annotations

import math
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
from measure_mutual_info.entropy import grassberger_entropy, grassberger_g, sample_size

DOCUMENTS_PER_READ = 1000  # one batch of Arrow lists; its tokens stay memory-mapped


@dataclass(frozen=True)
class Settings:
    documents: Path
    """folder of documents, as prepare_dataset.py wrote it"""
    out: Path
    """the CSV to write; the one by books gets its name with _by_book before the .csv"""
    n: tuple[int, ...] = (1, 2)
    """lengths of the n-grams in tokens; the paper's correction needs 2, its two-point information 1"""
    chunk_tokens: int = 1 << 24
    """not in the paper: n-grams sorted at a time; 16.8 million take 0.5 GB"""


def ngram_keys(tokens: np.ndarray, ends: np.ndarray, n: int, vocab_size: int) -> np.ndarray:
    """Every n-gram within a document as one integer, in the order of the text.

    tokens: (t,) ids below vocab_size, documents laid end to end. ends: (documents,) where each document ends in
    `tokens`, none before the one in front of it, the last at most t. Returns uint64 keys
    Σ_i token_i · vocab_size^(n−1−i); example: tokens [1, 2, 3, 4], ends [3, 4], n = 2, vocab_size 10 gives [12, 23].
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
        self._runs.append(_run_lengths(keys))
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
        for tokens, ends, _, finished in token_chunks(documents, chunk_tokens, overlap=n - 1):
            if len(tokens) and (tokens.min() < 0 or tokens.max() >= vocab_size):
                worst = tokens.min() if tokens.min() < 0 else tokens.max()
                raise UserError(
                    f"the documents hold token id {worst}, outside the vocabulary of {vocab_size}: "
                    "prepare them again with the tokenizer that prepare.json names"
                )
            counts.add(ngram_keys(tokens, ends, n, vocab_size))
            progress.update(finished)
    return counts.merged()


def entropy_by_unit(
    documents: Dataset,
    unit: np.ndarray,
    keys: np.ndarray,
    counts: np.ndarray,
    n: int,
    vocab_size: int,
    chunk_tokens: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The share of each unit (a book) in Grassberger's entropy of all documents: its n-grams, and their entropy, nats.

    log N − (1/N) Σ_y n_y G(n_y) (Eq. B.5) is the mean of log N − G(n_y) over the N n-grams of the text, each y as often
    as it occurs. unit: (documents,) which unit each document is of, from 0. keys, counts: from `count_ngrams`.
    Returns how many of the N n-grams lie in each unit, int64, and their mean of log N − G(n_y), NaN where there are
    none; both (units,).

    A bootstrap of these shares is one to first order: it has not the bias of a recount, which takes what is drawn twice
    for frequent, and its errors are 5 to 15% short of the spread of fresh corpora (60 books, 3 to 40% of 2-grams once).
    """
    occurrences, types = counts_of_counts(counts)
    entropy, total = grassberger_entropy(occurrences, types), sample_size(occurrences, types)
    # As deviations from their mean, whose sums over billions of n-grams keep more digits.
    deviation = (math.log(total) - entropy - grassberger_g(occurrences))[np.searchsorted(occurrences, counts)]
    ngrams, deviations = np.zeros(unit.max() + 1, dtype=np.int64), np.zeros(unit.max() + 1)
    with tqdm(total=len(documents), desc=f"{n}-grams by book", unit="doc") as progress:
        for tokens, ends, first, finished in token_chunks(documents, chunk_tokens, overlap=n - 1):
            here, label = np.unique(unit[first : first + len(ends)], return_inverse=True)
            windows = np.maximum(np.diff(ends, prepend=0) - (n - 1), 0)
            chunk_keys, owner = ngram_keys(tokens, ends, n, vocab_size), np.repeat(label.astype(np.uint64), windows)
            # Key and owner are sorted as one number, key · width + owner, many times faster than by an argsort. Where
            # 64 bits do not hold that for all owners of the chunk, they are taken some at a time.
            width = min(len(here), 2**64 // vocab_size**n)
            for low in range(0, len(here), width):
                mine = (owner >= low) & (owner < low + width)
                packed = chunk_keys[mine] * np.uint64(width) + (owner[mine] - np.uint64(low))
                packed.sort()
                packed, repeats = _run_lengths(packed)
                # The keys ascend, so these look-ups walk through `keys` in order, which the caches like.
                values = deviation[np.searchsorted(keys, packed // np.uint64(width))] * repeats
                sums = np.bincount((packed % np.uint64(width)).astype(np.int64), values, minlength=width)
                deviations[here[low : low + width]] += sums[: len(here) - low]
            ngrams[here] += np.bincount(label, windows, minlength=len(here)).astype(np.int64)
            progress.update(finished)
    return ngrams, entropy + np.divide(deviations, ngrams, out=np.full(len(ngrams), np.nan), where=ngrams > 0)


def units(documents: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """What a bootstrap draws: the books, or the documents where all are of one book.

    Returns the unit of each document, (documents,) from 0 in the order of the text, and the units' names.
    """
    names = documents.select_columns(["document", "book"]).to_pandas()
    return pd.factorize(names["book"] if names["book"].nunique() > 1 else names["document"])


def token_chunks(
    documents: Dataset, chunk_tokens: int, overlap: int
) -> Iterator[tuple[np.ndarray, np.ndarray, int, int]]:
    """Chunks of at most chunk_tokens + overlap tokens: (tokens, ends, first document, documents finished).

    tokens, ends: as `ngram_keys` wants them; ends[i] is that of document `first` + i, also where it has no tokens here.
    Where a chunk ends inside a document, the next one repeats nothing: this one carries `overlap` tokens more, so that
    each window of overlap + 1 tokens starts in exactly one chunk.
    """
    first = 0
    for batch in documents.select_columns("input_ids").with_format("arrow").iter(batch_size=DOCUMENTS_PER_READ):
        lists = batch["input_ids"].combine_chunks()
        tokens = lists.flatten().to_numpy(zero_copy_only=False)
        ends = np.cumsum(lists.value_lengths().to_numpy(zero_copy_only=False), dtype=np.int64)
        done = 0
        for start in range(0, len(tokens), chunk_tokens):
            stop = min(start + chunk_tokens + overlap, len(tokens))
            finished = int(np.searchsorted(ends, min(start + chunk_tokens, len(tokens)), side="right"))
            # Windows that start in the overlap belong to the next chunk: `stop` leaves them no room.
            yield tokens[start:stop], np.clip(ends - start, 0, stop - start), first, finished - done
            done = finished
        first += len(lists)


def _run_lengths(ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values of an array in order, and how often each stands there."""
    firsts = np.flatnonzero(np.concatenate(([len(ordered) > 0], ordered[1:] != ordered[:-1])))
    return ordered[firsts], np.diff(firsts, append=len(ordered))


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
    unit, unit_names = units(documents)
    tables, by_unit = [], []
    for n in sorted(set(cfg.n)):
        keys, counts = count_ngrams(documents, n, vocab_size, cfg.chunk_tokens)
        if len(counts) == 0:
            raise UserError(f"no document in {cfg.documents} has {n} tokens: no {n}-gram to count")
        occurrences, types = counts_of_counts(counts)
        names = {"source": prepared["source"], "tokenizer": tokenizer, "kind": "ngram", "n_or_d": n}
        tables.append(pd.DataFrame(names | {"occurrences": occurrences, "types": types}))
        ngrams, entropy = entropy_by_unit(documents, unit, keys, counts, n, vocab_size, cfg.chunk_tokens)
        shares = pd.DataFrame(names | {"book": unit_names, "ngrams": ngrams, "entropy_nats": entropy})
        by_unit.append(shares[shares["ngrams"] > 0])
        print(f"{n}-grams: {counts.sum():,} in all, {len(counts):,} different")
    # The counts last: who finds them finds the shares beside them.
    out_by_unit = cfg.out.with_name(f"{cfg.out.stem}_by_book.csv")
    for out, table in ((out_by_unit, by_unit), (cfg.out, tables)):
        write_csv(out, pd.concat(table), cfg, inputs=[cfg.documents], started=started, source=prepared["source"])
    print(f"wrote {cfg.out} and {out_by_unit}")


if __name__ == "__main__":
    run(main, Settings, __doc__)
