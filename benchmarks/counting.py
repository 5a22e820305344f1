"""How fast and in how much memory count_ngrams.py counts pairs of tokens, beside a Counter over token tuples.

    python benchmarks/counting.py          # one CPU core: 15 minutes, 5 GB of disk
    python benchmarks/counting.py --other ../another_checkout      # and beside the count_ngrams.py of that one

Tokens are drawn from Zipf's law over a vocabulary of 128,256, documents of 4,000, books of 250 documents, and lie on
disk as prepare_dataset.py writes them. Every measurement is a process of its own; seconds are those of the processor,
which other work on the machine lengthens less than those of the clock, and memory is the peak of what was resident.

Writes results/benchmarks/counting.csv: a row a measure, ratio above 1 means ours is better.
  throughput, peak memory   the smallest of --sizes, from opened documents to the counts of counts of the pairs at
                            distance 1, against collections.Counter; medians of --rounds. "Counts alone" is what the
                            Counter does; "with marginals and shares" is all that count_ngrams.py --d 1 does: every
                            book's share of three entropies besides
  seconds, peak memory      every size, the whole command count_ngrams.py --n --d 1 --memory-gb 2, start-up and SHA-256
                            of the documents included, against the other checkout or a limit: as many seconds a token
                            as for the second size, and the 2 GB

Expect: at least 20 times the throughput of the Counter in less than a third of its memory.
"""

from __future__ import annotations

import itertools
import json
import os
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
from tqdm import tqdm

from benchmarks.fresh_process import in_a_process, peak_bytes
from benchmarks.publish import publish
from common.cli import UserError, run
from common.record import ROOT
from measure_mutual_info.counting.document_stream import open_stream
from measure_mutual_info.counting.windows import Measure, count_part
from measure_mutual_info.prepare_dataset import SCHEMA, write_folder_files

BOOK_DOCUMENTS = 250  # also what is drawn and written at a time
LIMIT_GB = 2.0


@dataclass(frozen=True)
class Settings:
    out: Path = Path("results/benchmarks/counting.csv")
    sizes: tuple[int, ...] = (20_000_000, 300_000_000, 1_000_000_000)
    """tokens, ascending; the first of them is also given to a Counter, which takes 2.4 GB for 20 million"""
    other: Path | None = None
    """another checkout of this repository, e.g. of an older commit (git worktree add)"""
    rounds: int = 3
    """of the first size"""
    vocabulary: int = 128_256
    document_tokens: int = 4000
    folder: Path | None = None
    """where the tokens go for the time being; default: the system's folder for temporary files"""
    seed: int = 0

    def validate(self) -> None:
        if self.out.suffix != ".csv":
            raise UserError(f"--out {self.out}: give the name of a .csv file")
        book = BOOK_DOCUMENTS * self.document_tokens
        if len(self.sizes) < 2 or list(self.sizes) != sorted(self.sizes) or any(size % book for size in self.sizes):
            raise UserError(f"--sizes: give two or more, ascending, multiples of {book:,}, a book of {BOOK_DOCUMENTS}")


def write_zipf_documents(folder: Path, tokens: int, cfg: Settings) -> None:
    """Documents as prepare_dataset.py writes them, a book at a time: p_k ∝ 1/(k + 2.7), k = 1 …, the ids shuffled."""
    rng = np.random.default_rng(cfg.seed)
    edges = np.cumsum(1 / (np.arange(cfg.vocabulary) + 3.7))
    ids = rng.permutation(cfg.vocabulary).astype(np.int32)
    folder.mkdir()
    path = folder / "data-00000.arrow"
    offsets = pa.array(np.arange(BOOK_DOCUMENTS + 1, dtype=np.int32) * cfg.document_tokens)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, SCHEMA) as writer:
        for book in range(tokens // (BOOK_DOCUMENTS * cfg.document_tokens)):
            drawn = edges[-1] * rng.random(BOOK_DOCUMENTS * cfg.document_tokens)
            texts = pa.ListArray.from_arrays(offsets, pa.array(ids[np.searchsorted(edges, drawn, side="right")]))
            names = pa.array([f"book{book}#{i:04d}" for i in range(BOOK_DOCUMENTS)])
            books = pa.array([f"book{book}"] * BOOK_DOCUMENTS)
            writer.write_batch(pa.record_batch([names, books, texts], schema=SCHEMA))
    write_folder_files(folder, [path], {"tokens": tokens, "seed": cfg.seed})
    prepared = {"source": "zipf", "tokenizer": "zipf", "tokenizer_vocab_size": cfg.vocabulary}
    (folder / "prepare.json").write_text(json.dumps(prepared), encoding="utf-8")


def count_by_sorting(documents: Path, alone: bool) -> dict:
    """Ours, in this process: seconds, peak bytes, and the counts of counts of the pairs at distance 1.

    alone: without marginals and without books, as the Counter counts.
    """
    stream, _ = open_stream(documents)
    started = time.process_time()
    if alone:
        stream = replace(stream, unit=np.zeros_like(stream.unit))
    counts = [count_part(stream, stream.tokens, Measure(kind, 1, 1)) for kind in ("left", "right", "pair")[2 * alone :]]
    shares, types = [found.shares() for found in counts], counts[-1].types
    seconds = time.process_time() - started
    assert len(shares) == len(counts)
    return _found(seconds, dict(zip(counts[-1].occurrences.tolist(), types.tolist(), strict=True)))


def count_with_counter(documents: Path) -> dict:
    """The baseline, in this process: as `count_by_sorting` with `alone`."""
    stream, _ = open_stream(documents)
    started, counter = time.process_time(), Counter()
    for tokens, first, last in stream.read():
        for ids in np.split(tokens, stream.starts[first + 1 : last] - stream.starts[first]):
            counter.update(itertools.pairwise(ids.tolist()))
    counted = Counter(counter.values())
    return _found(time.process_time() - started, counted)


def _found(seconds: float, counted: dict[int, int]) -> dict:
    return {"seconds": seconds, "bytes": peak_bytes(), "counts": json.dumps(sorted(counted.items()))}


def count_by_command(checkout: Path, documents: Path) -> dict:
    """count_ngrams.py of a checkout in a process of its own: as `count_by_sorting`."""
    with tempfile.TemporaryDirectory(dir=documents.parent) as folder:
        out = Path(folder) / "counts.csv"
        flags = ["--n", "--d", "1", "--memory-gb", str(LIMIT_GB), "--documents", documents.resolve(), "--out", out]
        command = [sys.executable, checkout / "measure_mutual_info" / "count_ngrams.py", *flags]
        environment = os.environ | {"PYTHONPATH": str(checkout.resolve())}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, cwd=checkout, env=environment, **quiet)
        _, status, used = os.wait4(process.pid, 0)
        if status:
            raise RuntimeError(f"{command} failed")
        bytes_of = 1 if sys.platform == "darwin" else 1024
        counts = {"counts": out.read_text(encoding="utf-8")}
        return counts | {"seconds": used.ru_utime + used.ru_stime, "bytes": used.ru_maxrss * bytes_of}


def measure(cfg: Settings, folder: Path) -> pd.DataFrame:
    """The table; `folder` is for the tokens and results."""
    rows: list[dict] = []

    def row(setting: str, what: str, baseline: str, baseline_value: float, value: float) -> None:
        unit, better_if_less = {"throughput": ("tokens/s", -1), "seconds": ("s", 1), "peak memory": ("GB", 1)}[what]
        names = {"benchmark": "counting", "setting": setting, "measure": what, "unit": unit, "baseline": baseline}
        ratio = (baseline_value / value) ** better_if_less
        rows.append(names | {"baseline_value": baseline_value, "our_value": value, "ratio": ratio})

    def medians(*counted: list[dict]) -> list[tuple[float, float]]:
        """Seconds and GB of several ways of counting, which must all give the same."""
        if len({one["counts"] for several in counted for one in several}) > 1:
            raise AssertionError("the counts differ")
        of = [[statistics.median(one[name] for one in several) for name in ("seconds", "bytes")] for several in counted]
        return [(seconds, size / 1e9) for seconds, size in of]

    zipf = f"Zipf tokens, vocabulary {cfg.vocabulary:,}, documents of {cfg.document_tokens:,}, d = 1"
    for size in tqdm(cfg.sizes, desc="counting", unit="size"):
        documents, setting = folder / f"{size}", f"{size / 1e6:g} million {zipf}"
        write_zipf_documents(documents, size, cfg)
        if size == cfg.sizes[0]:
            rounds = range(cfg.rounds)
            counter = [in_a_process("benchmarks.counting.count_with_counter", documents) for _ in rounds]
            for alone, way in ((True, "counts alone"), (False, "with marginals and shares")):
                ours = [in_a_process("benchmarks.counting.count_by_sorting", documents, alone) for _ in rounds]
                (seconds, peak), (our_seconds, our_peak) = medians(counter, ours)
                name = "collections.Counter over token tuples"
                row(f"{setting}, {way}", "throughput", name, size / seconds, size / our_seconds)
                row(f"{setting}, {way}", "peak memory", name, peak, our_peak)
        commands = [ROOT] if cfg.other is None else [ROOT, cfg.other]
        repeats = cfg.rounds if size == cfg.sizes[0] else 1
        found = medians(*[[count_by_command(checkout, documents) for _ in range(repeats)] for checkout in commands])
        baseline = f"linear from {size / 1e6:g} million, and the limit", (found[0][0], LIMIT_GB)
        if size == cfg.sizes[1]:
            a_token = found[0][0] / size
        elif size > cfg.sizes[1]:
            baseline = f"linear from {cfg.sizes[1] / 1e6:g} million, and the limit", (a_token * size, LIMIT_GB)
        if cfg.other is not None:
            baseline = "the other checkout", found[1]
        for what, theirs, our in zip(("seconds", "peak memory"), baseline[1], found[0], strict=True):
            row(f"{setting}, the whole command within {LIMIT_GB:g} GB", what, baseline[0], theirs, our)
        for file in documents.iterdir():
            file.unlink()
    return pd.DataFrame(rows)


def main(cfg: Settings) -> None:
    started = time.time()
    cfg.validate()
    with tempfile.TemporaryDirectory(dir=cfg.folder, prefix="counting-") as folder:
        table = measure(cfg, Path(folder))
    publish(table, cfg, started)


if __name__ == "__main__":
    run(main, Settings, __doc__)
