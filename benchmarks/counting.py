"""Speed and memory of count_ngrams.py when it counts pairs of tokens, compared with a Counter over token tuples.

    python benchmarks/counting.py          # one CPU core: 15 minutes, 5 GB of disk

Tokens are drawn from Zipf's law over a vocabulary of 128,256, in documents of 4,000 tokens and books of 250 documents,
and are stored on disk as prepare_dataset.py writes them. Every measurement runs in its own process. Seconds are CPU
time, which other work on the machine affects less than wall-clock time; memory is the peak resident size.

Writes results/benchmarks/counting.csv: one row per measurement; a ratio above 1 means that ours is better.
  throughput, peak memory   the smallest of --sizes, from opened documents to the counts of counts of the pairs at
                            distance 1, against collections.Counter; medians of --rounds. "Counts alone" is what the
                            Counter does; "with marginals and shares" is all that count_ngrams.py --d 1 does: it also
                            computes every book's share of three entropies
  seconds, peak memory      every size, the whole command count_ngrams.py --n --d 1 --memory-gb 2, including start-up
                            and the SHA-256 of the documents, against the seconds per token of the smallest size and
                            the memory limit

Expect: at least 20 times the throughput of the Counter in less than a third of its memory.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset
from tqdm import tqdm

from benchmarks.publish import in_a_process, peak_bytes, publish, row
from common.cli import UserError, check_csv, run
from common.record import ROOT
from measure_mutual_info.counting.document_stream import open_stream
from measure_mutual_info.counting.windows import Measure, count_part
from measure_mutual_info.prepare_dataset import SCHEMA

BOOK_DOCUMENTS = 250  # documents are drawn and written one book at a time
LIMIT_GB = 2.0


@dataclass(frozen=True)
class Settings:
    out: Path = Path("results/benchmarks/counting.csv")
    sizes: tuple[int, ...] = (20_000_000, 300_000_000, 1_000_000_000)
    """tokens, ascending; the first size is also counted with a Counter, which takes 2.4 GB for 20 million tokens"""
    rounds: int = 3  # repetitions at the first size
    vocabulary: int = 128_256
    document_tokens: int = 4000
    folder: Path | None = None
    """folder for the temporary files with tokens; default: the system's temporary folder"""
    seed: int = 0

    def validate(self) -> None:
        check_csv(self.out)
        book = BOOK_DOCUMENTS * self.document_tokens
        if len(self.sizes) < 2 or list(self.sizes) != sorted(self.sizes) or any(size % book for size in self.sizes):
            raise UserError(f"--sizes: give two or more, ascending, multiples of {book:,}, a book of {BOOK_DOCUMENTS}")


def write_zipf_documents(folder: Path, tokens: int, cfg: Settings) -> None:
    """Write documents as prepare_dataset.py does, one book at a time: p_k ∝ 1/(k + 2.7), k = 1 …, with shuffled ids."""
    rng = np.random.default_rng(cfg.seed)
    edges = np.cumsum(1 / (np.arange(cfg.vocabulary) + 3.7))
    ids = rng.permutation(cfg.vocabulary).astype(np.int32)
    path = folder.with_suffix(".arrow")
    offsets = pa.array(np.arange(BOOK_DOCUMENTS + 1, dtype=np.int32) * cfg.document_tokens)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, SCHEMA) as writer:
        for book in range(tokens // (BOOK_DOCUMENTS * cfg.document_tokens)):
            drawn = edges[-1] * rng.random(BOOK_DOCUMENTS * cfg.document_tokens)
            texts = pa.ListArray.from_arrays(offsets, pa.array(ids[np.searchsorted(edges, drawn, side="right")]))
            names = pa.array([f"book{book}#{i:04d}" for i in range(BOOK_DOCUMENTS)])
            books = pa.array([f"book{book}"] * BOOK_DOCUMENTS)
            writer.write_batch(pa.record_batch([names, books, texts], schema=SCHEMA))
    Dataset.from_file(str(path)).save_to_disk(folder)
    path.unlink()
    prepared = {"source": "zipf", "tokenizer": "zipf", "tokenizer_vocab_size": cfg.vocabulary}
    (folder / "prepare.json").write_text(json.dumps(prepared), encoding="utf-8")


def count_by_sorting(documents: Path, alone: bool) -> dict:
    """Run our counting in this process: seconds, peak bytes, and the counts of counts of the pairs at distance 1.

    alone: leave out the marginals and the books, like the Counter.
    """
    stream, _ = open_stream(documents)
    started = time.process_time()
    if alone:
        stream = replace(stream, unit=np.zeros_like(stream.unit))
    for kind in ["pair"] if alone else ["left", "right", "pair"]:
        found = count_part(stream, stream.tokens, Measure(kind, 1, 1))
        found.shares()
    return _measured(started, dict(zip(found.occurrences.tolist(), found.types.tolist(), strict=True)))


def count_with_counter(documents: Path) -> dict:
    """Run the baseline in this process; returns the same as `count_by_sorting` with `alone`."""
    stream, _ = open_stream(documents)
    started, counter = time.process_time(), Counter()
    for tokens, first, last in stream.read():
        for ids in np.split(tokens, stream.starts[first + 1 : last] - stream.starts[first]):
            counter.update(itertools.pairwise(ids.tolist()))
    return _measured(started, Counter(counter.values()))


def _measured(started: float, counted: dict[int, int]) -> dict:
    seconds = time.process_time() - started
    return {"seconds": seconds, "bytes": peak_bytes(), "counts": json.dumps(sorted(counted.items()))}


def count_by_command(documents: Path) -> dict:
    """Run count_ngrams.py in its own process; like `count_by_sorting`, but `counts` is its CSV text."""
    with tempfile.TemporaryDirectory(dir=documents.parent) as folder:
        out = Path(folder) / "counts.csv"
        flags = ["--n", "--d", "1", "--memory-gb", str(LIMIT_GB), "--documents", documents, "--out", out]
        command = [sys.executable, ROOT / "measure_mutual_info" / "count_ngrams.py", *flags]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        if status:
            raise RuntimeError(f"{command} failed")
        bytes_of = 1 if sys.platform == "darwin" else 1024
        counts = {"counts": out.read_text(encoding="utf-8")}
        return counts | {"seconds": used.ru_utime + used.ru_stime, "bytes": used.ru_maxrss * bytes_of}


def medians(*ways: list[dict]) -> list[tuple[float, float]]:
    """Median seconds and GB of each way of counting over its rounds. AssertionError: the counts differ."""
    if len({one["counts"] for rounds in ways for one in rounds}) > 1:
        raise AssertionError("the counts differ")
    of = [[statistics.median(one[name] for one in rounds) for name in ("seconds", "bytes")] for rounds in ways]
    return [(seconds, size / 1e9) for seconds, size in of]


def measure(cfg: Settings, folder: Path) -> pd.DataFrame:
    """Run all measurements and return the table. `folder` holds the tokens and results meanwhile."""
    rows, a_token = [], None
    zipf = f"Zipf tokens, vocabulary {cfg.vocabulary:,}, documents of {cfg.document_tokens:,}, d = 1"
    for size in tqdm(cfg.sizes, desc="counting", unit="size"):
        documents, setting, first = folder / f"{size}", f"{size / 1e6:g} million {zipf}", size == cfg.sizes[0]
        write_zipf_documents(documents, size, cfg)
        rounds = range(cfg.rounds if first else 1)
        if first:
            counter = [in_a_process("benchmarks.counting.count_with_counter", documents) for _ in rounds]
            for alone, way in ((True, f"{setting}, counts alone"), (False, f"{setting}, with marginals and shares")):
                ours = [in_a_process("benchmarks.counting.count_by_sorting", documents, alone) for _ in rounds]
                (base, base_peak), (seconds, peak) = medians(counter, ours)
                speeds, name = (size / base, size / seconds), "collections.Counter over token tuples"
                rows.append(row("counting", way, "throughput", "tokens/s", name, *speeds, ratio=base / seconds))
                rows.append(row("counting", way, "peak memory", "GB", name, base_peak, peak))
        ((seconds, peak),) = medians([count_by_command(documents) for _ in rounds])
        a_token = a_token or seconds / size
        way = f"{setting}, the whole command within {LIMIT_GB:g} GB"
        name = f"linear from {cfg.sizes[0] / 1e6:g} million, and the limit"
        rows.append(row("counting", way, "seconds", "s", name, a_token * size, seconds))
        rows.append(row("counting", way, "peak memory", "GB", name, LIMIT_GB, peak))
        shutil.rmtree(documents)
    return pd.DataFrame(rows)


def main(cfg: Settings) -> None:
    with tempfile.TemporaryDirectory(dir=cfg.folder, prefix="counting-") as folder:
        table = measure(cfg, Path(folder))
    publish(table, cfg)


if __name__ == "__main__":
    run(main, Settings, __doc__)
