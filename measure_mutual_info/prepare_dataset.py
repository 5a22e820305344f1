r"""Cut a corpus into tokenised documents, each starting at a sentence start, for every measurement on text (Fig. 2, B).

    python measure_mutual_info/prepare_dataset.py --corpus data/sample/books \
        --tokenizer data/sample/model/SmolLM2-135M-Instruct.Q4_1.gguf --out data/documents/books_2048
    python measure_mutual_info/prepare_dataset.py --corpus emozilla/pg19 --streaming --min-book-words 5000 \
        --tokenizer meta-llama/Llama-3.1-8B --out data/documents/pg19_2048       # the paper's own corpus
    python measure_mutual_info/prepare_dataset.py --corpus data/sample/books --boundaries book \
        --tokenizer characters --out data/documents/books_characters            # whole texts, for two-point information

A document is a sequence of whole sentences of one book: the fewest that give `min_tokens` tokens when tokenised on
their own. The next document starts at the next sentence. The last one of a book is kept if it is long enough, and none
crosses books. With `boundaries` "book" each whole text is one document. A text that repeats an earlier one (apart from
white space at its ends) is left out.

CPU only. The sample takes ten seconds. A core cuts about 250,000 tokens a second (PG19: 3 hours of one core), and
each process needs memory for a few times `shard_megabytes` of text. A killed run continues at the first unfinished
shard. The result has the same bytes whatever the interruptions and the number of processes.

Writes the folder `out`, which `datasets.load_from_disk(out)` opens: columns document ("<book>#<number>"), book and
input_ids (no special tokens added). prepare.json in it records the settings, the outcome, and a fingerprint of the
tokenizer. Unfinished work lies in `out`.parts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import nupunkt
import pyarrow as pa
from tqdm import tqdm

from common.cli import UserError, run
from common.record import ROOT, atomic_file, printable, replace_text, same_run, versions
from common.tokenizer import Tokenizer, load_tokenizer
from measure_mutual_info.corpus.chunking import piece_documents, sentence_documents, whole_book
from measure_mutual_info.corpus.reading import Corpus, books, open_corpus

BATCH = 1 << 20  # tokens held before they are written, a document more at most
UNKNOWN_MOST = 0.03  # share of tokens that the tokenizer does not know, above which they are no measurement of the text
SCHEMA = pa.schema({"document": pa.string(), "book": pa.string(), "input_ids": pa.list_(pa.int32())})


@dataclass(frozen=True)
class Settings:
    corpus: str  # a .txt, .jsonl or .parquet file; a folder or a glob of them; or a dataset of the hub
    tokenizer: str  # hub id, local folder or GGUF file, of the model that will read them; or "bytes"; or "characters"
    out: Path  # folder to write
    source: str = ""  # short name of the corpus in every result; default: from `corpus`
    config: str | None = None  # hub datasets: which configuration, e.g. 20231101.en of wikimedia/wikipedia
    split: str = "train"  # hub datasets: which split
    streaming: bool = False  # hub datasets: read over the network instead of downloading all of it first
    text_column: str = "text"
    book_column: str = ""  # column that names the book; default: the first there is of short_book_title, title, id
    boundaries: str = "sentence"  # "none": consecutive pieces of min_tokens, for code, DNA; "book": a text uncut
    min_tokens: int = 2048  # length of a document in tokens, at least (paper: 2,048); shorter texts are left out
    shuffle_seed: int | None = None  # not in the paper: tokens of each document in random order, which tell nothing
    min_book_words: int = 0  # books with fewer are left out (paper: 5,000 on PG19)
    max_documents_per_book: int = 0  # 0: all of them
    max_books: int = 0  # stop after so many books that are not left out; 0: all of them
    shard_megabytes: float = 32.0  # not in the paper: text a process holds at a time
    processes: int = 0  # 0: one a core

    def validate(self) -> None:
        if self.boundaries not in ("sentence", "none", "book"):
            raise UserError(f'unknown --boundaries "{self.boundaries}": give "sentence", "none" or "book"')
        for name, least in (("min_tokens", 1), ("min_book_words", 0), ("max_documents_per_book", 0), ("max_books", 0)):
            if getattr(self, name) < least:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}: give {least} or more")
        if not self.shard_megabytes > 0:
            raise UserError(f"--shard-megabytes is {self.shard_megabytes}: give more than 0")

    @property
    def name(self) -> str:
        """The source: as given, else the last telling part of `corpus` ("emozilla/pg19" → "pg19")."""
        parts = [
            part for part in Path(self.corpus).parts if not set(part) & set("*?[") and part not in ("/", ".", "..")
        ]
        return printable(self.source or (Path(parts[-1]).stem if parts else "corpus"))


def documents(text: str, tokenizer: Tokenizer, cfg: Settings) -> Iterator[list[int]]:
    """Token ids of each document of a book."""
    if cfg.boundaries == "book":
        ids = whole_book(text, tokenizer)
        found = iter([ids] if len(ids) >= cfg.min_tokens else [])
    elif cfg.boundaries == "none":
        found = piece_documents(text, tokenizer, cfg.min_tokens)
    else:
        found = (ids for _, _, ids in sentence_documents(text, tokenizer, cfg.min_tokens))
    if cfg.shuffle_seed is not None:
        found = (shuffled(ids, cfg.shuffle_seed) for ids in found)
    return itertools.islice(found, cfg.max_documents_per_book or None)


def shuffled(ids: list[int], seed: int) -> list[int]:
    """The tokens in a random order, which the seed and the tokens themselves decide: the null of every measurement."""
    tokens = np.array(ids, dtype=np.int64)
    return np.random.default_rng([seed, zlib.crc32(tokens.tobytes())]).permutation(tokens).tolist()


def write_shard(
    path: Path,
    shard: list[tuple[str, str]],
    tokenizer: Tokenizer,
    cfg: Settings,
    tick: Callable[[], Any] = lambda: None,
) -> dict[str, Any]:
    """Cut the books of one shard, write the Arrow file `path`, then the .json beside it that says it is finished."""
    facts: dict[str, Any] = {"input": shard_hash(shard), "books_read": len(shard), "books": 0, "documents": 0}
    facts |= {"tokens": 0, "unknown_tokens": 0, "longest_document": 0, "longest_short_book": [0, ""]}
    with atomic_file(path, "wb") as file, pa.ipc.new_stream(file, SCHEMA) as writer:
        rows: list[dict[str, Any]] = []
        held = 0  # tokens in rows
        for name, text in shard:
            count = 0
            for ids in documents(text, tokenizer, cfg):
                rows.append({"document": f"{name}#{count:04d}", "book": name, "input_ids": ids})
                count += 1
                held += len(ids)
                facts["tokens"] += len(ids)
                facts["unknown_tokens"] += 0 if tokenizer.unknown is None else ids.count(tokenizer.unknown)
                facts["longest_document"] = max(facts["longest_document"], len(ids))
                if len(rows) == 256 or held > BATCH:
                    writer.write_batch(pa.RecordBatch.from_pylist(rows, SCHEMA))
                    rows, held = [], 0
            facts["documents"] += count
            facts["books"] += count > 0
            if not count:
                short = [len(tokenizer.ids(text.strip())), name]
                facts["longest_short_book"] = max(facts["longest_short_book"], short)
            tick()
        if rows:
            writer.write_batch(pa.RecordBatch.from_pylist(rows, SCHEMA))
    if facts["unknown_tokens"] > UNKNOWN_MOST * facts["tokens"]:
        path.unlink()
        share = facts["unknown_tokens"] / facts["tokens"]
        raise UserError(
            f"{cfg.tokenizer} does not know {share:.0%} of the tokens of {cfg.corpus} (at most {UNKNOWN_MOST:.0%}): "
            "give a --tokenizer made for such text"
        )
    facts["bytes"] = path.stat().st_size
    replace_text(path.with_suffix(".json"), json.dumps(facts) + "\n")
    return facts


def shard_hash(shard: list[tuple[str, str]]) -> str:
    digest = hashlib.sha256()
    for part in itertools.chain.from_iterable(shard):
        digest.update(f"{len(part)}:{part}".encode("utf-8", "replace"))
    return digest.hexdigest()


def make_shards(found: Iterator[tuple[str, str]], cfg: Settings) -> Iterator[list[tuple[str, str]]]:
    """Consecutive books, `shard_megabytes` of text (in million characters) at a time: the same for any run."""
    shard, size = [], 0
    for name, text in found:
        shard.append((name, text))
        size += len(text)
        if size >= cfg.shard_megabytes * 1e6:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


def finished(path: Path, shard: list[tuple[str, str]]) -> dict[str, Any] | None:
    """What an earlier run noted of this shard, if it finished it. UserError: it was made from other text."""
    try:
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if path.stat().st_size != facts["bytes"]:
            return None
    except (OSError, ValueError, KeyError):
        return None
    if facts["input"] != shard_hash(shard):
        raise UserError(
            f"{path} was made from other text: the corpus has changed; delete {path.parent}, then run again"
        )
    return facts


_worker: dict[str, Tokenizer] = {}  # one tokenizer a process


def _start_worker(name: str) -> None:
    def end_with_parent() -> None:  # a parent that is killed outright cannot tell its workers
        wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and ends its workers
    threading.Thread(target=end_with_parent, daemon=True).start()
    _worker["tokenizer"] = load_tokenizer(name)


def _work(path: Path, shard: list[tuple[str, str]], cfg: Settings) -> dict[str, Any]:
    return write_shard(path, shard, _worker["tokenizer"], cfg)


def write_shards(
    jobs: Iterator[tuple[Path, list[tuple[str, str]]]], tokenizer: Tokenizer, cfg: Settings, bar: tqdm
) -> Iterator[dict[str, Any]]:
    """Work through (path, shard) pairs, in several processes where there are several; facts of each, in order."""
    processes = cfg.processes or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    ahead = list(itertools.islice(jobs, 2))
    jobs = itertools.chain(ahead, jobs)
    if processes == 1 or len(ahead) < 2:
        for path, shard in jobs:
            yield write_shard(path, shard, tokenizer, cfg, bar.update)
        return
    # spawn, not fork: threads of the tokenizer and of the hub client do not survive a fork
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, _start_worker, (cfg.tokenizer,))
    pending: deque[Future[dict[str, Any]]] = deque()
    try:
        while pending or ahead:
            ahead = list(itertools.islice(jobs, processes + 1 - len(pending)))
            pending.extend(pool.submit(_work, path, shard, cfg) for path, shard in ahead)
            if pending:
                facts = pending.popleft().result()
                bar.update(facts["books_read"])
                yield facts
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed, probably for memory: run the same command again with fewer --processes, or "
            "in another --out with smaller --shard-megabytes"
        ) from error
    except BaseException:
        for child in multiprocessing.active_children():  # or an interrupt would wait for whole shards
            child.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def corpus_identity(cfg: Settings, corpus: Corpus, tokenizer: Tokenizer) -> dict[str, Any]:
    """All that decides what the documents are: settings, and the hashes of local files in place of their paths."""
    key = dataclasses.asdict(cfg) | {"source": cfg.name}
    for irrelevant in ("out", "processes", "streaming", *(["corpus"] if corpus.files else [])):
        del key[irrelevant]
    if cfg.shuffle_seed is None:
        del key["shuffle_seed"]
    if os.path.exists(cfg.tokenizer):
        path = Path(cfg.tokenizer).resolve()
        key["tokenizer"] = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
    return key | {"files": corpus.files, "tokenizer_hash": tokenizer.hash}


def write_folder_files(folder: Path, shards: list[Path], key: dict[str, Any]) -> None:
    """The two files that make a folder of Arrow streams one that `datasets.load_from_disk` opens."""
    feature = {"dtype": "string", "_type": "Value"}
    ids = {"feature": {"dtype": "int32", "_type": "Value"}, "_type": "List"}
    info = {"features": {"document": feature, "book": feature, "input_ids": ids}}
    fingerprint = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    state = {"_data_files": [{"filename": path.name} for path in shards], "_fingerprint": fingerprint}
    state |= {"_format_columns": None, "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False}
    replace_text(folder / "dataset_info.json", json.dumps(info, indent=2) + "\n")
    replace_text(folder / "state.json", json.dumps(state | {"_split": None}, indent=2) + "\n")


def nothing_found(cfg: Settings, skipped: Counter[str], read: int, longest: list[Any]) -> UserError:
    """Why there is not a single document."""
    if read:
        return UserError(
            f"{cfg.corpus}: none of {read:,} books has a document of {cfg.min_tokens:,} tokens, the longest "
            f"({longest[1]}) has {longest[0]:,} in all: give longer texts, or --min-tokens {max(longest[0], 1)} or less"
        )
    if skipped["few words"]:
        return UserError(
            f"{cfg.corpus}: all {skipped['few words']:,} books have fewer than {cfg.min_book_words:,} words: "
            "lower --min-book-words"
        )
    return UserError(f"{cfg.corpus} is empty: {skipped['rows']:,} rows, none with text; give a corpus that has some")


def remove_notes(folder: Path) -> None:
    """Of the shards, see `finished`: a folder that is complete needs them no longer."""
    for path in folder.glob("data-*.json"):
        path.unlink()


def main(cfg: Settings) -> None:
    started = time.time()
    cfg.validate()
    corpus = open_corpus(cfg)
    tokenizer = load_tokenizer(cfg.tokenizer)
    key = corpus_identity(cfg, corpus, tokenizer)
    if same_run(cfg.out, key):
        remove_notes(cfg.out)  # of a run that was killed at its very end
        made = json.loads((cfg.out / "prepare.json").read_text(encoding="utf-8"))
        print(f"{cfg.out}: there already, {made['documents']:,} documents of {made['books']:,} books")
        return
    parts = cfg.out.with_name(cfg.out.name + ".parts")
    if not same_run(parts, key):
        parts.mkdir(parents=True, exist_ok=True)
        replace_text(parts / "prepare.json", json.dumps({"identity": key}, indent=2, ensure_ascii=False) + "\n")

    skipped: Counter[str] = Counter()
    facts: list[dict[str, Any]] = []
    paths: list[Path] = []
    done: dict[Path, dict[str, Any]] = {}
    with tqdm(desc="documents", unit="book", total=corpus.total) as bar:

        def unfinished() -> Iterator[tuple[Path, list[tuple[str, str]]]]:
            for shard in make_shards(books(corpus.rows(), cfg, skipped), cfg):
                path = parts / f"data-{len(paths):05d}.arrow"
                paths.append(path)
                if known := finished(path, shard):
                    done[path] = known
                    bar.update(len(shard))
                else:
                    yield path, shard

        try:
            facts = list(write_shards(unfinished(), tokenizer, cfg, bar))
        except UserError:
            if not any(parts.glob("data-*")):  # nothing worth keeping
                shutil.rmtree(parts)
            raise
    facts += done.values()
    if len(facts) != len(paths) or sorted(parts.glob("data-*.arrow")) != paths:
        raise UserError(f"{parts} does not hold the {len(paths)} shards of this corpus: delete it, then run again")

    sums = ("books_read", "books", "documents", "tokens", "unknown_tokens")
    total = Counter({name: sum(f[name] for f in facts) for name in sums})
    if not total["documents"]:
        shutil.rmtree(parts)
        raise nothing_found(
            cfg, skipped, total["books_read"], max((f["longest_short_book"] for f in facts), default=[])
        )
    write_folder_files(parts, paths, key)
    record = {
        "source": cfg.name,
        "tokenizer": cfg.tokenizer,
        "tokenizer_vocab_size": tokenizer.size,
        "tokenizer_hash": tokenizer.hash,
        "min_tokens": cfg.min_tokens,
        "boundaries": cfg.boundaries,
        **{name: total[name] for name in ("documents", "books", "tokens", "unknown_tokens")},
        "longest_document_tokens": max(f["longest_document"] for f in facts),
        "rows": skipped["rows"],
        "skipped_empty": skipped["empty"],
        "skipped_few_words": skipped["few words"],
        "skipped_repeated": skipped["repeated"],
        "skipped_too_short": total["books_read"] - total["books"],
        "settings": dataclasses.asdict(cfg) | {"out": str(cfg.out)},
        "identity": key,
        "versions": versions() | {"nupunkt": nupunkt.__version__},
        "seconds": round(time.time() - started, 1),
    }
    replace_text(parts / "prepare.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    for leftover in parts.glob(".*.tmp"):
        leftover.unlink()
    os.rename(parts, cfg.out)
    remove_notes(cfg.out)
    print(
        f"{cfg.out}: {total['documents']:,} documents of {total['books']:,} books, {total['tokens']:,} tokens; "
        f"left out: {record['skipped_empty']:,} rows without text, {record['skipped_few_words']:,} books of too few "
        f"words, {record['skipped_repeated']:,} that repeat another, {record['skipped_too_short']:,} too short for a "
        "document"
    )
    if total["unknown_tokens"]:
        print(f"note: {total['unknown_tokens']:,} tokens are unknown to the tokenizer")
    if cfg.boundaries == "sentence" and record["longest_document_tokens"] > 4 * cfg.min_tokens:
        print(
            f"note: the longest document has {record['longest_document_tokens']:,} tokens: a text with few sentence "
            "ends; --boundaries none cuts anywhere"
        )


if __name__ == "__main__":
    run(main, Settings, __doc__)
