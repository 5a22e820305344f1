"""How fast and in how much memory count_ngrams.py counts pairs of tokens, beside a Counter over token tuples.

    python benchmarks/counting.py          # two idle CPU cores: 5 minutes, 2 GB of disk

Tokens are drawn from Zipf's law over a vocabulary of 128,256, documents of 4,000, books of 250 documents, and lie on
disk as prepare_dataset.py writes them. Every measurement is a process of its own: seconds from opened documents to the
counts of counts of the pairs at distance 1, reading included, and the peak of its resident memory. Before each of them
another process takes and returns 3 GB, so that none waits for memory that a virtual machine has not got yet.

Writes results/benchmarks/counting.csv: a row a measure, ratio above 1 means ours is better.
  throughput, peak memory        20 million tokens, in memory, against collections.Counter; medians of --rounds. "Counts
                                 alone" is what the Counter does; "with marginals and shares" is all that
                                 count_ngrams.py --d 1 does: every book's share of three entropies besides
  seconds, and their slope       10 to 300 million tokens under a limit of 2 GB, sorted in runs on disk at every size
                                 (--run-tokens; by itself count_ngrams.py would sort up to 33 million in memory)
  --processes 2                  two distances in two processes against one after the other
  extrapolated hours             PG19 on one core: seconds a token of the largest size × 3·10⁹ tokens × 14 distances,
                                 e.g. 18.8 s / (3·10⁸) × 3·10⁹ × 14 / 3600 s/h = 0.73 h. What the disk adds where its
                                 cache is too small for the runs of a distance, 8 bytes × 3·10⁹ tokens = 24 GB at most,
                                 written once and read twice: at 1 GB/s 72 s a distance, 0.28 h in all

Expect: at least 20 times the throughput of the Counter in less than a third of its memory, and a slope of at most 1.1.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset
from tqdm import tqdm

from benchmarks.fresh_process import in_a_process, peak_bytes
from common.cli import UserError, run
from common.record import write_csv
from measure_mutual_info.count_ngrams import count_all
from measure_mutual_info.counting.document_stream import open_stream
from measure_mutual_info.counting.windows import Job, Measure, count_measure
from measure_mutual_info.prepare_dataset import SCHEMA

BOOK_DOCUMENTS = 250  # also what is drawn and written at a time
PG19_TOKENS, DISTANCES = 3e9, 14  # d = 1, 2, 4 … 8192
LIMIT_GB = 2.0


@dataclass(frozen=True)
class Settings:
    out: Path = Path("results/benchmarks/counting.csv")
    tokens: int = 20_000_000
    """of the comparison with a Counter"""
    sizes: tuple[int, ...] = (10_000_000, 30_000_000, 100_000_000, 300_000_000)
    """tokens, ascending, of the growth of time"""
    run_tokens: int = 1 << 22
    """tokens of a sorted run, where time is taken against tokens; below the least size, so that all spill"""
    rounds: int = 3
    vocabulary: int = 128_256
    document_tokens: int = 4000
    folder: Path | None = None
    """where the tokens and the runs go for the time being; default: the system's folder for temporary files"""
    seed: int = 0

    def validate(self) -> None:
        if self.out.suffix != ".csv":
            raise UserError(f"--out {self.out}: give the name of a .csv file")
        if len(self.sizes) < 2 or list(self.sizes) != sorted(self.sizes):
            raise UserError(f"--sizes {' '.join(map(str, self.sizes))}: give two or more, ascending")
        if min(self.rounds, self.run_tokens, self.vocabulary) < 1 or self.document_tokens < 2:
            raise UserError("--rounds, --run-tokens and --vocabulary need at least 1, --document-tokens at least 2")
        book = BOOK_DOCUMENTS * self.document_tokens
        if any(tokens < 1 or tokens % book for tokens in (self.tokens, *self.sizes)):
            raise UserError(f"--tokens and --sizes: give multiples of {book:,}, a book of {BOOK_DOCUMENTS} documents")


def write_zipf_documents(folder: Path, tokens: int, cfg: Settings) -> None:
    """Documents as prepare_dataset.py writes them, a book at a time: p_k ∝ 1/(k + 2.7), k = 1 …, the ids shuffled."""
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


def count_by_sorting(documents: Path, work: Path, chunk_tokens: int, distances: list[int], processes: int) -> dict:
    """Ours, in this process: seconds, peak bytes, and the counts of counts of the last distance's pairs.

    distances: none for distance 1 without marginals and without shares of books, as the Counter counts.
    """
    stream, prepared = open_stream(documents)
    if not distances:
        stream = dataclasses.replace(stream, unit=np.zeros_like(stream.unit))
    job = Job(stream, prepared["tokenizer_vocab_size"], 0, stream.tokens, chunk_tokens, work, (), False)
    measures = [Measure("pair", d) for d in distances] or [Measure("ngram", 2)]
    started = time.perf_counter()
    if processes == 1:
        for measure in measures:
            count_measure(job, measure)
    else:
        count_all(job, measures, processes)
    seconds = time.perf_counter() - started
    with np.load(job.result(measures[-1], measures[-1].kinds[-1])) as found:
        counted = dict(zip(found["occurrences"].tolist(), found["types"].tolist(), strict=True))
    return {"seconds": seconds, "bytes": peak_bytes(), "counts": _digest(counted)}


def count_with_counter(documents: Path) -> dict:
    """The baseline, in this process: as `count_by_sorting`, for distance 1."""
    stream, _ = open_stream(documents)
    started, counter = time.perf_counter(), Counter()
    for tokens, first_token, first, last in stream.read(0, stream.tokens):
        for start, stop in zip(stream.starts[first:last], stream.starts[first + 1 : last + 1], strict=True):
            ids = tokens[start - first_token : stop - first_token].tolist()
            counter.update(itertools.pairwise(ids))
    counted = Counter(counter.values())
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "bytes": peak_bytes(), "counts": _digest(counted)}


def _digest(counted: dict[int, int]) -> str:
    return json.dumps(sorted(counted.items()))


def ours(documents: Path, chunk_tokens: int, distances: tuple[int, ...] = (1,), processes: int = 1) -> dict:
    with tempfile.TemporaryDirectory(dir=documents.parent) as work:
        arguments = documents, Path(work), chunk_tokens, list(distances), processes
        return in_a_process("benchmarks.counting.count_by_sorting", *arguments)


def measure(cfg: Settings, folder: Path) -> pd.DataFrame:
    """The table; `folder` is for the tokens and runs."""
    rows: list[dict] = []

    def row(
        setting: str, what: str, unit: str, baseline: str, baseline_value: float, value: float, ratio: float
    ) -> None:
        names = {"benchmark": "counting", "setting": setting, "measure": what, "unit": unit, "baseline": baseline}
        rows.append(names | {"baseline_value": baseline_value, "our_value": value, "ratio": ratio})

    zipf = f"Zipf tokens, vocabulary {cfg.vocabulary:,}, documents of {cfg.document_tokens:,}, d = 1"
    with tqdm(total=3 * cfg.rounds + len(cfg.sizes) + 2, desc="counting", unit="run") as bar:
        documents = folder / "compared"
        write_zipf_documents(documents, cfg.tokens, cfg)
        ways = {
            "counter": lambda: in_a_process("benchmarks.counting.count_with_counter", documents),
            "counts alone": lambda: ours(documents, cfg.tokens, ()),
            "with marginals and shares": lambda: ours(documents, cfg.tokens),
        }
        found: dict[str, list[dict]] = {way: [] for way in ways}
        for _ in range(cfg.rounds):
            for way, count in ways.items():
                found[way].append(count())
                bar.update()
        if len({one["counts"] for several in found.values() for one in several}) > 1:
            raise AssertionError("the counts differ")
        rate, peak = {}, {}
        for way, several in found.items():
            rate[way] = cfg.tokens / statistics.median(one["seconds"] for one in several)
            peak[way] = statistics.median(one["bytes"] for one in several) / 1e9
        counter = "collections.Counter over token tuples"
        for way in list(ways)[1:]:
            setting = f"{cfg.tokens / 1e6:g} million {zipf}, in memory, {way}"
            faster, smaller = rate[way] / rate["counter"], peak["counter"] / peak[way]
            row(setting, "throughput", "tokens/s", counter, rate["counter"], rate[way], faster)
            row(setting, "peak memory", "GB", counter, peak["counter"], peak[way], smaller)

        spilled = []
        for tokens in cfg.sizes:
            documents = folder / f"{tokens}"
            write_zipf_documents(documents, tokens, cfg)
            spilled.append(ours(documents, cfg.run_tokens))
            bar.update()
            setting = f"{tokens / 1e6:g} million {zipf}, runs of {cfg.run_tokens / 1e6:.1f} million on disk"
            linear = spilled[0]["seconds"] * tokens / cfg.sizes[0]
            what = f"linear from {cfg.sizes[0] / 1e6:g} million"
            row(setting, "seconds", "s", what, linear, spilled[-1]["seconds"], linear / spilled[-1]["seconds"])
            peak_gb = spilled[-1]["bytes"] / 1e9
            row(setting, "peak memory", "GB", "limit", LIMIT_GB, peak_gb, LIMIT_GB / peak_gb)
            if tokens == cfg.sizes[-2]:
                both = [ours(documents, cfg.run_tokens, (1, 2), processes)["seconds"] for processes in (1, 2)]
                bar.update(2)
                setting = setting.replace("d = 1", "d = 1 and 2")
                row(setting, "seconds", "s", "--processes 1", both[0], both[1], both[0] / both[1])
            for file in documents.iterdir():
                file.unlink()
    slope = np.polyfit(np.log(cfg.sizes), np.log([one["seconds"] for one in spilled]), 1)[0]
    setting = f"{cfg.sizes[0] / 1e6:g} to {cfg.sizes[-1] / 1e6:g} million {zipf}, runs on disk"
    row(setting, "log-log slope of seconds against tokens", "", "limit", 1.1, slope, 1.1 / slope)
    by_counter = PG19_TOKENS * DISTANCES / 3600 / rate["counter"]
    hours = spilled[-1]["seconds"] / cfg.sizes[-1] * PG19_TOKENS * DISTANCES / 3600
    what = f"{counter}, were there memory"
    setting = (
        f"PG19: {PG19_TOKENS:g} tokens × {DISTANCES} distances at the seconds a token of the largest size, one core"
    )
    row(setting, "extrapolated hours", "h", what, by_counter, hours, by_counter / hours)
    return pd.DataFrame(rows)


def main(cfg: Settings) -> None:
    started = time.time()
    cfg.validate()
    with tempfile.TemporaryDirectory(dir=cfg.folder, prefix="counting-") as folder:
        table = measure(cfg, Path(folder))
    write_csv(cfg.out, table.round(4), cfg, started=started)
    print(table.drop(columns="benchmark").to_string(index=False))
    print(f"wrote {cfg.out}")


if __name__ == "__main__":
    run(main, Settings, __doc__)
