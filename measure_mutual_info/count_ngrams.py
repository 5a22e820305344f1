r"""Count the n-grams of a corpus and its pairs of tokens at a distance: the input of all entropies (Figs. 2c, B.3–B.5).

    python measure_mutual_info/count_ngrams.py --documents data/documents/books_2048 --out results/mine/counts.csv
    python measure_mutual_info/count_ngrams.py --documents data/documents/pg19_books --out results/pg19/counts.csv \
        --d 1 2 4 8 16 32 64 128 256 512 1024 2048 4096 8192 --processes 16 --memory-gb 16      # the paper's distances

Reads a folder written by prepare_dataset.py. Writes counts.csv with the columns source, tokenizer, kind, n_or_d,
occurrences, types: `types` distinct items occur exactly `occurrences` times each. An entropy needs no more than this.
Kinds: "ngram" (n_or_d = n), "pair" (n_or_d = d: W_i and W_{i+d}), and "left" and "right", the first and the second
tokens of the same pairs. No n-gram or pair crosses from one document into another.

It also writes counts_by_book.csv, for the errors by a bootstrap over books: source, tokenizer, kind, n_or_d, book,
ngrams, entropy_nats, one row for each book. If the corpus is a single book, each row is a document and `book` its name;
if there are more than 128 books, each row is a block of them, named "books 0–446". Grassberger's entropy is the mean of
log N − G(n_y) over everything counted. `ngrams` is the number of terms from this book and `entropy_nats` their mean, so
Σ ngrams · entropy_nats / Σ ngrams is the entropy of the corpus, and the same ratio over books drawn with replacement is
a bootstrap replicate of it.

Memory stays under --memory-gb for a corpus of any size. What does not fit is sorted in runs in `<out>.parts` (up to 8
bytes a token for every distance in work) and merged from there. A killed run continues where it stopped. The result has
the same bytes whatever the interruptions, memory, processes or shards. On several machines, --shard 0/4 … 3/4 write
folders of runs, `<out>.0-of-4.parts` …; the same command with --merge and all of these writes the results.

Hardware: CPU; a core counts about 30 million pairs a second, 16 million where they go through the disk
(benchmarks/counting.py). PG19's 3 billion tokens at 14 distances: 14 × 3·10⁹ / 16·10⁶ s, three quarters of an hour of a
core, plus the time to write once and read twice 24 GB of disk for each distance.
Expect: Σ occurrences · types = Σ ngrams = the number of tokens for n = 1. For pairs it is d fewer per document (none
from a document of d tokens or fewer); with --equal-pairs it is the longest d fewer, at every distance.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from common.cli import UNCHECKED, UserError, run
from common.record import file_hash, replace_text, write_csv
from measure_mutual_info.counting.document_stream import DocumentStream, open_stream
from measure_mutual_info.counting.sorted_runs import run_is_whole
from measure_mutual_info.counting.windows import Job, Measure, count_measure, window_keys

BASE_BYTES = 240e6  # of a process that has counted nothing yet: Python and the packages
BYTES_PER_TOKEN = 16  # of a run: a word of 8 bytes, and at most as much for its marginals
LEAST_CHUNK = 1 << 20  # tokens; smaller ones only where --chunk-tokens asks for them


@dataclass(frozen=True)
class Settings:
    documents: Path
    """folder of documents, as prepare_dataset.py wrote it"""
    out: Path
    """the CSV to write; the one by books gets its name with _by_book before the .csv"""
    n: tuple[int, ...] = (1, 2)
    """lengths of the n-grams in tokens; the paper's correction of the bipartite information needs 2"""
    d: tuple[int, ...] = ()
    """distances of the pairs in tokens; paper: 1 2 4 … 8192"""
    equal_pairs: bool = False
    """not in the paper: the same left tokens at every distance, those with the longest --d still inside their document:
    as many pairs at every distance, so the plateau of Î(d), a bias, has the same height at all of them"""
    memory_gb: float = field(default=2.0, metadata=UNCHECKED)
    """not in the paper: 10^9 bytes, for all processes together"""
    processes: int = 1
    """each counts a length or a distance at a time"""
    shard: str | None = None
    """i/n: count only the i-th of n parts of the documents (from 0), and leave runs to be merged"""
    merge: tuple[Path, ...] = ()
    """the folders of all shards, in any order: merge their runs instead of counting"""
    chunk_tokens: int = 1 << 25
    """not in the paper: tokens in a run at most; fewer where --memory-gb asks for it"""

    @property
    def shard_of(self) -> tuple[int, int]:
        i, _, n = ("0/1" if self.shard is None else self.shard).partition("/")
        return int(i), int(n)

    @property
    def parts(self) -> Path:
        """The folder of what is not finished."""
        shard = "" if self.shard is None else ".{}-of-{}".format(*self.shard_of)
        return self.out.with_name(f"{self.out.name}{shard}.parts")

    @property
    def measures(self) -> list[Measure]:
        """What to count, in the order of the results."""
        at_least = max(self.d, default=0) if self.equal_pairs else 0
        pairs = [Measure("pair", d, at_least) for d in sorted(self.d)]
        return [Measure("ngram", n) for n in sorted(self.n)] + pairs

    def validate(self) -> None:
        if not self.n and not self.d:
            raise UserError("nothing to count: give lengths with --n or distances with --d")
        for name in ("n", "d"):
            if min(getattr(self, name), default=1) < 1:
                values = " ".join(map(str, getattr(self, name)))
                raise UserError(
                    f"--{name} {values}: give one or more {'lengths' if name == 'n' else 'distances'} of at least 1"
                )
        for name in ("chunk_tokens", "processes"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: give at least 1")
        if self.out.suffix != ".csv":
            raise UserError(f"--out {self.out}: give the name of a .csv file")
        try:
            i, n = self.shard_of
        except ValueError:
            i, n = -1, 0
        if not 0 <= i < n:
            raise UserError(f"--shard {self.shard}: write it i/n with 0 ≤ i < n, e.g. 0/4")
        if self.equal_pairs and not self.d:
            raise UserError("--equal-pairs is about pairs: give their distances with --d")
        if self.shard and self.merge:
            raise UserError("--shard counts a part and --merge puts the parts together: give one of them")


# What --preset sets in place of the defaults above; `own`: texts of one's own, of which the shorter ones count as well.
PRESETS = {
    "paper": {"processes": 16, "memory_gb": 32.0},
    "own": {},
    "cpu": {"equal_pairs": True},
    "smoke": {"equal_pairs": True},
}


def ngram_keys(tokens: np.ndarray, ends: np.ndarray, n: int, vocab_size: int) -> np.ndarray:
    """Every n-gram within a document as one integer, in the order of the text.

    tokens: (t,) ids below vocab_size, documents laid end to end. ends: (documents,) where each document ends in
    `tokens`, none before the one in front of it, the last at most t. Returns uint64 keys
    Σ_i token_i · vocab_size^(n−1−i); example: tokens [1, 2, 3, 4], ends [3, 4], n = 2, vocab_size 10 gives [12, 23].
    """
    keys = window_keys(tokens, tuple(range(n)), vocab_size)
    end_of_start = np.repeat(ends, np.diff(ends, prepend=0))[: len(keys)]
    return keys[: len(end_of_start)][np.arange(len(end_of_start)) + n <= end_of_start]


def counts_of_counts(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(occurrences, types): the different values in `counts`, ascending, and how many entries have each."""
    return np.unique(counts, return_counts=True)


def check_fit(measure: Measure, vocab_size: int, stream: DocumentStream, folder: Path) -> None:
    """UserError: keys that do not fit 64 bits, or no document long enough."""
    if vocab_size ** len(measure.offsets) > 2**64:
        if measure.kind == "pair":
            raise UserError(f"pairs of {vocab_size} tokens do not fit a 64-bit key: token ids may have up to 32 bits")
        longest = max((k for k in range(1, 65) if vocab_size**k <= 2**64), default=0)
        raise UserError(
            f"{measure} of {vocab_size} tokens do not fit a 64-bit key: with this vocabulary --n goes up to {longest}"
        )
    longest = int(np.diff(stream.starts).max())
    if longest <= measure.room:
        if measure.kind == "pair":
            raise UserError(
                f"no document in {folder} has a pair at distance {measure.room}, the longest has {longest:,} tokens: "
                "give shorter --d, or longer documents (prepare_dataset.py --boundaries book)"
            )
        raise UserError(f"no document in {folder} has {measure.n_or_d} tokens: no {measure.n_or_d}-gram to count")


def chunk_within(cfg: Settings, stream: DocumentStream, begun: int | None) -> int:
    """Tokens that a process may sort at a time. begun: the number of a run that goes on, which is kept.

    UserError: --memory-gb holds fewer than LEAST_CHUNK of them (or --chunk-tokens, or `begun`).
    """
    # A batch of documents may be there twice (the one in work and the next one), of 8 bytes a token at most.
    fixed = BASE_BYTES + 2 * 8 * stream.batch_tokens + 20 * len(stream.unit)
    processes = cfg.processes + (cfg.processes > 1)
    room = (cfg.memory_gb * 1e9 - (processes - cfg.processes) * BASE_BYTES) / cfg.processes - fixed
    least = begun or min(LEAST_CHUNK, cfg.chunk_tokens)
    if not room >= BYTES_PER_TOKEN * least:
        needed = (processes * BASE_BYTES + cfg.processes * (fixed - BASE_BYTES + BYTES_PER_TOKEN * least)) / 1e9
        who = "1 process needs" if cfg.processes == 1 else f"{cfg.processes} processes need"
        raise UserError(
            f"--memory-gb {cfg.memory_gb:g} is too small: {who} at least {np.ceil(10 * needed) / 10:.1f} here"
        )
    return begun or int(min(cfg.chunk_tokens, room / BYTES_PER_TOKEN))  # room may be infinite


def open_parts(folder: Path, manifest: dict) -> dict | None:
    """The record of the work begun in `folder`, None if there is none. UserError: it is of another work."""
    try:
        found = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if folder.exists() and (not folder.is_dir() or any(folder.glob("[!.]*"))):
            raise UserError(f"{folder} holds something else than counts: choose another --out, or delete it") from None
        return None
    except ValueError:
        found = {}
    differing = [key for key in manifest if found.get(key) != manifest[key]] if isinstance(found, dict) else ["record"]
    if differing:
        raise UserError(
            f"{folder} was made with other settings or documents ({', '.join(differing)} differ): "
            "choose another --out, or delete it"
        )
    return found


def check_shards(folders: tuple[Path, ...], manifest: dict) -> None:
    """UserError unless these are the finished shards of one corpus and the same settings, each of them once."""
    seen: dict[str, Path] = {}
    for folder in folders:
        found = open_parts(folder, manifest)
        if found is None or not found.get("shard"):
            raise UserError(f"{folder} is no shard: give the folders that count_ngrams.py --shard left")
        shard = found["shard"]
        if shard in seen:
            raise UserError(f"shard {shard} is given twice, {seen[shard]} and {folder}: give each shard once")
        seen[shard] = folder
        if not found.get("finished"):
            raise UserError(f"shard {shard} in {folder} is not finished: run it again with --shard {shard}")
        lost = [name for name in found["runs"] if not run_is_whole(folder / name)]
        if lost:
            raise UserError(f"{folder} lacks {lost[0]}, or it is damaged: run again with --shard {shard}")
    of = {shard.partition("/")[2] for shard in seen}
    if len(of) > 1:
        raise UserError(f"shards of different splits ({', '.join(sorted(seen))}): give all shards of one split")
    missing = [shard for i in range(int(*of)) if (shard := f"{i}/{int(*of)}") not in seen]
    if missing:
        raise UserError(f"shard {', '.join(missing)} is missing: count it with --shard, and give its folder too")


_worker: dict[str, Job] = {}


def _start_worker(job: Job) -> None:
    def end_with_parent() -> None:  # a parent that is killed outright cannot tell its workers
        wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and ends its workers
    threading.Thread(target=end_with_parent, daemon=True).start()
    _worker["job"] = job


def _work(measure: Measure) -> None:
    count_measure(_worker["job"], measure)


def count_all(job: Job, measures: list[Measure], processes: int) -> None:
    """Count every measure, a measure a process at a time."""
    tokens = job.last_token - job.first_token
    with tqdm(total=tokens * len(measures), unit="token", unit_scale=True, desc="counting") as bar:
        if processes == 1 or len(measures) == 1:
            for measure in measures:
                bar.set_postfix_str(str(measure))
                count_measure(job, measure, bar.update)
            return
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(processes, len(measures)), context, _start_worker, (job,))
        try:
            for future in as_completed([pool.submit(_work, measure) for measure in measures]):
                future.result()
                bar.update(tokens)
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, probably for memory: run the same command again with fewer --processes"
            ) from error
        except BaseException:
            for child in multiprocessing.active_children():  # or an interrupt would wait for whole distances
                child.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def tables(job: Job, measures: list[Measure], prepared: dict) -> tuple[pd.DataFrame, pd.DataFrame]:
    """counts.csv and counts_by_book.csv of what is finished."""
    tokenizer = prepared["tokenizer"]
    if os.path.isabs(tokenizer):  # the table should read the same on every machine
        tokenizer = Path(tokenizer).name
    counts, by_book = [], []
    for measure in measures:
        for kind in sorted(measure.kinds, key=["ngram", "pair", "left", "right"].index):
            with np.load(job.result(measure, kind)) as found:
                occurrences, types, samples, means = (
                    found[name] for name in ("occurrences", "types", "samples", "means")
                )
            names = {"source": prepared["source"], "tokenizer": tokenizer, "kind": kind, "n_or_d": measure.n_or_d}
            counts.append(pd.DataFrame(names | {"occurrences": occurrences, "types": types}))
            books = block_names(job.stream, job.blocks(measure))
            shares = pd.DataFrame(names | {"book": books, "ngrams": samples, "entropy_nats": means})
            by_book.append(shares[shares["ngrams"] > 0])
            if kind == measure.kinds[-1]:
                print(f"{measure}: {samples.sum():,} in all, {types.sum():,} different")
    return pd.concat(counts), pd.concat(by_book)


def block_names(stream: DocumentStream, blocks: np.ndarray) -> list[str]:
    """ "alice", or "books 0–446" for a block of several; blocks: (units,) the block of each book."""
    firsts = np.flatnonzero(np.diff(blocks, prepend=-1))
    lasts = np.append(firsts[1:], len(blocks)) - 1
    if len(firsts) == len(blocks):
        return stream.names(firsts)
    return [f"{stream.kind_of_unit} {first}–{last}" for first, last in zip(firsts, lasts, strict=True)]


def main(cfg: Settings) -> None:
    started = time.time()
    cfg.validate()
    stream, prepared = open_stream(cfg.documents)
    vocab_size = int(prepared["tokenizer_vocab_size"])
    for measure in cfg.measures:
        check_fit(measure, vocab_size, stream, cfg.documents)
    manifest = {"documents": file_hash(cfg.documents), "n": sorted(cfg.n), "d": sorted(cfg.d)}
    manifest["equal_pairs"] = cfg.equal_pairs
    if cfg.merge:
        check_shards(cfg.merge, manifest)
    shard = {"shard": "{}/{}".format(*cfg.shard_of) if cfg.shard else None}
    begun = open_parts(cfg.parts, manifest | shard)
    chunk_tokens = chunk_within(cfg, stream, begun and begun["chunk_tokens"])

    cfg.parts.mkdir(parents=True, exist_ok=True)
    record = manifest | shard | {"chunk_tokens": chunk_tokens}
    if not begun:
        replace_text(cfg.parts / "manifest.json", json.dumps(record) + "\n")
    i, n = cfg.shard_of
    edges = stream.starts[np.searchsorted(stream.starts, [stream.tokens * i // n, stream.tokens * (i + 1) // n])]
    job = Job(stream, vocab_size, *edges.tolist(), chunk_tokens, cfg.parts, cfg.merge, keep_runs=cfg.shard is not None)
    try:
        count_all(job, cfg.measures, cfg.processes)
    except UserError:
        if not any(cfg.parts.glob("*-*")):  # nothing worth keeping
            shutil.rmtree(cfg.parts)
        raise
    if cfg.shard:
        runs = sorted(path.name for path in cfg.parts.glob("*.run"))
        replace_text(cfg.parts / "manifest.json", json.dumps(record | {"finished": True, "runs": runs}) + "\n")
        print(f"{cfg.parts}: shard {cfg.shard} is finished; when all {n} are, give their folders with --merge")
        return

    counts, by_book = tables(job, cfg.measures, prepared)
    # The counts last: who finds them finds the shares beside them.
    out_by_book = cfg.out.with_name(f"{cfg.out.stem}_by_book.csv")
    for out, table in ((out_by_book, by_book), (cfg.out, counts)):
        write_csv(out, table, cfg, inputs=[cfg.documents], started=started, source=prepared["source"])
    shutil.rmtree(cfg.parts)
    print(f"wrote {cfg.out} and {out_by_book}")


if __name__ == "__main__":
    run(main, Settings, __doc__, PRESETS)
