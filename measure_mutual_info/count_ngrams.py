r"""Count the n-grams of a corpus and its token pairs at given distances, to estimate entropies (Figs. 2c, B.3–B.5).

    python measure_mutual_info/count_ngrams.py --documents data/documents/books_2048 --out results/mine/counts.csv
    python measure_mutual_info/count_ngrams.py --documents data/documents/pg19_books --out results/pg19/counts.csv \
        --d 1 2 4 8 16 32 64 128 256 512 1024 2048 4096 8192 --processes 16 --memory-gb 16      # the paper's distances

Reads a folder written by prepare_dataset.py. Writes counts.csv with the columns source, tokenizer, kind, n_or_d,
occurrences, types: `types` distinct items occur exactly `occurrences` times each. Entropies need nothing else. Kinds:
"ngram" (n_or_d = n), "pair" (n_or_d = d: W_i and W_{i+d}), and "left" and "right", the first and the second tokens of
the same pairs. No n-gram or pair crosses from one document into another.

It also writes counts_by_book.csv, for bootstrap errors over books, with the columns source, tokenizer, kind, n_or_d,
book, ngrams, entropy_nats and one row per book. If the corpus is a single book, each row is a document and `book` its
name. More than 128 books are grouped into blocks, one row each, named e.g. "books 0–446". Grassberger's entropy is the
mean of log N − G(n_y) over everything counted. `ngrams` is the number of terms from this book and `entropy_nats` their
mean, so Σ ngrams · entropy_nats / Σ ngrams is the entropy of the corpus, and the same ratio over books drawn with
replacement is a bootstrap replicate of it.

Memory use stays under --memory-gb for a corpus of any size. A large count is done in parts, each for the keys (e.g.
pairs of tokens) in one range of a hash. The documents are read once per part, and more often if a part does not fit in
memory. Finished parts are kept in `<out>.parts` until all are done, so a killed run can be resumed. Several machines
can share one run (`--shard 0/4` … `--shard 3/4`, the same --out on a shared disk); the last one to finish writes the
results. Interruptions, memory limit, processes and shards do not change a byte of the results.

Hardware: CPU only. One core counts about 35 million pairs per second, including marginals and shares, if the pairs fit
in memory (8 bytes each). Each further pass over the tokens adds 4 ns per token (benchmarks/counting.py). With 2 GB,
PG19's 3 billion tokens are read 18 times for each of 14 distances: 14 × 3·10⁹ × (28 + 18 × 4) ns, 1.2 core-hours.
Expect: Σ occurrences · types = Σ ngrams = the number of tokens for n = 1. For pairs it is d fewer per document (none
from a document of d tokens or fewer); with --equal-pairs it is the longest d fewer, at every distance.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from functools import partial, reduce
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from common.cli import MAY_BE_EMPTY, UserError, at_least, check_csv, run
from common.documents import content_hash
from common.parallel import in_parallel
from common.record import write_csv
from common.resume import RESUME_OK, Pieces, identity, read_identity, shard_of, written_by_another
from measure_mutual_info.counting.document_stream import MAX_BLOCKS, DocumentStream, open_stream
from measure_mutual_info.counting.windows import Counts, Measure, count_part

BASE_BYTES = 240e6  # memory of a process before it counts anything: Python and the packages
LEAST_KEYS = 1 << 20  # least number of keys in memory: with fewer, the documents would be read too often


@dataclass(frozen=True)
class Settings:
    documents: Path = field(metadata=RESUME_OK)  # folder that prepare_dataset.py wrote
    out: Path = field(metadata=RESUME_OK)  # CSV to write; the table by book goes to <name>_by_book.csv beside it
    n: tuple[int, ...] = field(default=(1, 2), metadata=MAY_BE_EMPTY)
    """lengths of the n-grams; the paper's correction of the bipartite information needs 2"""
    d: tuple[int, ...] = ()  # distances of the pairs in tokens; paper: 1 2 4 … 8192
    equal_pairs: bool = False
    """not in the paper: use only left tokens that have a partner at the longest --d in their document. Every distance
    then has the same number of pairs, and the plateau of Î(d), a bias, has the same height at all of them"""
    memory_gb: float = field(default=2.0, metadata=RESUME_OK)  # not in the paper: 10^9 bytes for all processes together
    processes: int = field(default=1, metadata=RESUME_OK)  # each counts one part of one length or distance at a time
    shard: str | None = field(default=None, metadata=RESUME_OK)  # i/n: count only every n-th part, the first being i

    @property
    def out_by_book(self) -> Path:
        return self.out.with_name(f"{self.out.stem}_by_book.csv")

    @property
    def measures(self) -> list[Measure]:
        """What to count, in the order of the results."""
        follow = max(self.d, default=0) if self.equal_pairs else 0
        pairs = [Measure(kind, d, max(d, follow)) for d in sorted(self.d) for kind in ("pair", "left", "right")]
        return [Measure("ngram", n, n - 1) for n in sorted(self.n)] + pairs

    def validate(self) -> None:
        if not self.n and not self.d:
            raise UserError("nothing to count: give lengths with --n or distances with --d")
        at_least(1, self, "n", "d", "processes")
        check_csv(self.out)
        shard_of(self.shard)
        if self.equal_pairs and not self.d:
            raise UserError("--equal-pairs is about pairs: give their distances with --d")


# Values that --preset sets instead of the defaults above; `own`: for the user's own texts, including short ones.
PRESETS = {
    "paper": {"processes": 16, "memory_gb": 32.0},
    "own": {},
    "cpu": {"equal_pairs": True},
    "smoke": {"equal_pairs": True},
}


def check_fit(measure: Measure, stream: DocumentStream) -> None:
    """UserError: the keys do not fit in 64 bits, or no document is long enough."""
    if measure.keys(stream) > 2**64:
        raise UserError(f"{measure} of {stream.vocab_size} tokens do not fit a 64-bit key: give a smaller --n")
    if (longest := int(np.diff(stream.starts).max())) <= measure.room:
        raise UserError(
            f"no document has {measure} with {measure.room} tokens after the first, the longest has {longest:,}: give "
            "shorter --n and --d, or longer documents (prepare_dataset.py --boundaries book)"
        )


def keys_in_memory(cfg: Settings, stream: DocumentStream) -> int:
    """How many keys each process may hold in memory. UserError: --memory-gb leaves room for fewer than LEAST_KEYS."""
    # Two batches of documents (the current one and the next) may be in memory, at most 8 bytes per token. Counts of
    # counts have at most √(2N) rows, as no more distinct positive integers add up to N; two such tables are added.
    tables = 2 * 8 * MAX_BLOCKS * math.sqrt(2 * stream.tokens)
    fixed = BASE_BYTES + 2 * 8 * stream.batch_tokens + 40 * len(stream.unit) + tables
    parent = BASE_BYTES + tables if cfg.processes > 1 else 0
    room = ((cfg.memory_gb * 1e9 - parent) / cfg.processes - fixed) / 8
    if room < LEAST_KEYS:
        needed = (parent + cfg.processes * (fixed + 8 * LEAST_KEYS)) / 1e9
        raise UserError(f"--memory-gb {cfg.memory_gb:g} is too small: give {needed + 0.05:.1f} or fewer --processes")
    return int(room)


def count_all(cfg: Settings, stream: DocumentStream, parts: list[Measure], pieces: Pieces) -> None:
    """Count the parts that are not yet stored in `pieces`."""
    work = partial(count_part, stream, keys_in_memory(cfg, stream))
    todo = [part for part in parts if not pieces.done(part.name)]
    total, left = (sum(stream.tokens / part.parts for part in some) for some in (parts, todo))
    with tqdm(total=total, initial=total - left, unit="token", unit_scale=True, desc="counting") as bar:
        for part, counts in in_parallel(work, todo, cfg.processes):
            pieces.write(part.name, counts._asdict())
            bar.set_postfix_str(str(part), refresh=False)
            bar.update(stream.tokens / part.parts)


def tables(
    stream: DocumentStream, parts: list[Measure], pieces: Pieces, names: dict
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """counts.csv and counts_by_book.csv, with `names` as first columns. UserError: a piece is missing or damaged."""
    counts, by_book = [], []
    for measure, of_measure in groupby(parts, lambda part: part._replace(part=0)):
        read = (pieces.read(part.name, dict.fromkeys(Counts._fields)) for part in of_measure)
        found = reduce(Counts.with_part, (Counts(**arrays) for arrays in read))
        samples, types = measure.samples(stream), found.types
        if not np.array_equal(found.of_block.sum(axis=0), samples):
            raise UserError(f"{pieces.folder} is damaged, not all {measure} are there: delete it and run again")
        columns = names | {"kind": measure.kind, "n_or_d": measure.n_or_d}
        counts.append(pd.DataFrame(columns | {"occurrences": found.occurrences, "types": types}))
        columns["book"] = block_names(stream, measure.blocks(stream))
        shares = pd.DataFrame(columns | {"ngrams": samples, "entropy_nats": found.shares()})
        by_book.append(shares[shares["ngrams"] > 0])
        if measure.kind in ("ngram", "pair"):
            print(f"{measure}: {samples.sum():,} in all, {types.sum():,} different")
    return pd.concat(counts), pd.concat(by_book)


def block_names(stream: DocumentStream, blocks: np.ndarray) -> list[str]:
    """Name of each block: "alice", or "books 0–446" for several books. blocks: (units,) the block of each book."""
    firsts = np.flatnonzero(np.diff(blocks, prepend=-1))
    if len(firsts) == len(blocks):
        return list(stream.names)
    lasts = np.append(firsts[1:], len(blocks)) - 1
    return [f"{stream.kind_of_unit} {first}–{last}" for first, last in zip(firsts, lasts, strict=True)]


def main(cfg: Settings) -> None:
    stream, prepared = open_stream(cfg.documents)
    for measure in cfg.measures:
        check_fit(measure, stream)
    wanted = identity(cfg, documents=content_hash(cfg.documents), n=sorted(cfg.n), d=sorted(cfg.d))
    pieces = Pieces(cfg.out.with_name(f"{cfg.out.name}.parts"), wanted)
    # Results made with other settings are replaced.
    there = cfg.out.exists() and cfg.out_by_book.exists()
    if there and read_identity(cfg.out.with_suffix(".json"), "identity") == wanted:
        print(f"{cfg.out} is complete, with these settings")
        pieces.remove()  # left by a run that was killed after the last step
        return
    parts = [part for measure in cfg.measures for part in measure.cut(stream)]
    i, n = shard_of(cfg.shard)
    count_all(cfg, stream, parts[i::n], pieces)
    if missing := sum(not pieces.done(part.name) for part in parts):
        if not written_by_another(cfg.out, wanted):
            print(f"shard {cfg.shard} is done; {missing} parts of the other shards are still missing")
        return
    # The table should be the same on every machine.
    names = {"source": prepared["source"], "tokenizer": prepared["tokenizer"]}
    if os.path.isabs(names["tokenizer"]):
        names["tokenizer"] = Path(names["tokenizer"]).name
    try:
        counts, by_book = tables(stream, parts, pieces, names)
    except UserError:  # also if another shard finished at the same time and removes the parts
        if written_by_another(cfg.out, wanted):
            return
        raise
    # The counts are written last: if they exist, so do the shares beside them.
    for out, table in ((cfg.out_by_book, by_book), (cfg.out, counts)):
        facts = {"source": prepared["source"], "identity": wanted}
        write_csv(out, table, cfg, inputs=[cfg.documents], **facts)
    pieces.remove()
    print(f"wrote {cfg.out} and {cfg.out_by_book}")


if __name__ == "__main__":
    run(main, Settings, __doc__, PRESETS)
