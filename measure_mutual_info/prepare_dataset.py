r"""Cut a corpus into tokenised documents that begin with a sentence, for all measurements on text (Figs. 2, B.1–B.5).

    python measure_mutual_info/prepare_dataset.py --corpus data/sample/books \
        --tokenizer data/sample/model/SmolLM2-135M-Instruct.Q4_1.gguf --out data/documents/books_2048
    python measure_mutual_info/prepare_dataset.py --corpus emozilla/pg19 --streaming --min-book-words 5000 \
        --tokenizer meta-llama/Llama-3.1-8B --out data/documents/pg19_2048       # the paper's own corpus
    python measure_mutual_info/prepare_dataset.py --corpus data/sample/books --boundaries book \
        --tokenizer characters --out data/documents/books_characters            # whole texts, for two-point information

A document is a sequence of whole sentences of one book: the fewest that give `min_tokens` tokens when tokenised on
their own. The next document starts at the next sentence; the last one of a book is left out if it is too short. With
`boundaries` "book", each whole text is one document. A text that repeats an earlier one is left out.

CPU only: ten seconds for the sample, 3 hours of one core for PG19. Each process needs about ten times `shard_megabytes`
of memory. A killed run can be resumed; neither this nor the number of processes changes the documents.

Writes the folder `out` for `datasets.load_from_disk`, with the columns document ("<book>#<number>"), book and input_ids
(no special tokens added). Its prepare.json has the settings and the outcome. Unfinished work is in `out`.parts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import shutil
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import nupunkt
import pyarrow as pa
from datasets import Dataset, concatenate_datasets
from tqdm import tqdm

from common.cli import UserError, at_least, run
from common.documents import document_lengths
from common.parallel import in_parallel
from common.record import atomic_file, cores, printable, replace_text, versions
from common.resume import RESUME_OK, begin, begun
from common.tokenizer import Tokenizer, load_tokenizer
from measure_mutual_info.corpus.chunking import piece_documents, sentence_documents, whole_book
from measure_mutual_info.corpus.reading import Corpus, CorpusSettings, books, open_corpus

RECORD = "prepare.json"
UNKNOWN_MOST = 0.03  # maximum share of unknown tokens; with more, the tokens do not represent the text
SCHEMA = pa.schema({"document": pa.string(), "book": pa.string(), "input_ids": pa.list_(pa.int32())})
Shard = list[tuple[str, str]]  # consecutive books: name, text


@dataclass(frozen=True, kw_only=True)
class Settings(CorpusSettings):
    tokenizer: str  # hub id, local folder or GGUF file of the model that will read them; or "bytes"; or "characters"
    out: Path = field(metadata=RESUME_OK)  # folder to write
    source: str = ""  # short name of the corpus in every result; default: derived from `corpus`
    boundaries: Literal["sentence", "none", "book"] = "sentence"
    """"none": consecutive pieces of min_tokens tokens, for code or DNA; "book": whole texts"""
    min_tokens: int = 2048  # minimum length of a document in tokens (paper: 2,048); shorter texts are left out
    shuffle_seed: int | None = None  # not in the paper: shuffle the tokens of each document, as a null test
    max_documents_per_book: int = 0  # 0: no limit
    shard_megabytes: float = field(default=8.0, metadata=RESUME_OK)  # not in the paper: text per process at a time
    processes: int = field(default=0, metadata=RESUME_OK)  # 0: one per core

    def validate(self) -> None:
        super().validate()
        at_least(1, self, "min_tokens")
        at_least(0, self, "max_documents_per_book", "shard_megabytes", "processes")

    @property
    def name(self) -> str:
        """`source` if given, else the last part of `corpus` without wildcards ("emozilla/pg19" → "pg19")."""
        parts = [part for part in Path(self.corpus).parts if not set(part) & set("*?[/") and part not in (".", "..")]
        return printable(self.source or (Path(parts[-1]).stem if parts else "corpus"))


def documents(text: str, tokenizer: Tokenizer, cfg: Settings) -> Iterator[list[int]]:
    """Token ids of each document of a book."""
    if cfg.boundaries == "book":
        ids = whole_book(text, tokenizer)
        found = iter([ids] if len(ids) >= cfg.min_tokens else [])
    elif cfg.boundaries == "none":
        found = piece_documents(text, tokenizer, cfg.min_tokens)
    else:
        found = sentence_documents(text, tokenizer, cfg.min_tokens)
    if cfg.shuffle_seed is not None:
        found = (shuffled(ids, cfg.shuffle_seed) for ids in found)
    return itertools.islice(found, cfg.max_documents_per_book or None)


def shuffled(ids: list[int], seed: int) -> list[int]:
    """The tokens in a random order that depends on the seed and the tokens: the null of every measurement."""
    tokens = np.array(ids, dtype=np.int64)
    return np.random.default_rng([seed, zlib.crc32(tokens.tobytes())]).permutation(tokens).tolist()


def cut(task: tuple[Path, Shard], tokenizer: Tokenizer, cfg: Settings) -> pa.Table:
    """The documents of one shard."""
    rows = [
        (f"{name}#{number:04d}", name, np.array(ids, np.int32))
        for name, text in task[1]
        for number, ids in enumerate(documents(text, tokenizer, cfg))
    ]
    return pa.table([list(column) for column in zip(*rows, strict=True)] or [[], [], []], SCHEMA)


def make_shards(found: Iterator[tuple[str, str]], cfg: Settings) -> Iterator[Shard]:
    """Group consecutive books into shards of about `shard_megabytes` million characters."""
    shard, size = [], 0
    for name, text in found:
        shard.append((name, text))
        size += len(text)
        if size >= cfg.shard_megabytes * 1e6:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


def count_unknown(ids: pa.ChunkedArray, tokenizer: Tokenizer, cfg: Settings) -> int:
    """Number of tokens unknown to the tokenizer. UserError: their share is above UNKNOWN_MOST."""
    if tokenizer.unknown is None:
        return 0
    flat = [chunk.flatten().to_numpy() for chunk in ids.chunks]
    unknown = sum(int(np.count_nonzero(chunk == tokenizer.unknown)) for chunk in flat)
    if unknown > UNKNOWN_MOST * (total := sum(map(len, flat))):
        raise UserError(
            f"{cfg.tokenizer} does not know {unknown / total:.0%} of the tokens of {cfg.corpus} (at most "
            f"{UNKNOWN_MOST:.0%}): give a --tokenizer made for such text"
        )
    return unknown


def cut_shards(
    cfg: Settings, corpus: Corpus, tokenizer: Tokenizer, parts: Path, wanted: dict, counts: Counter[str]
) -> list[Path]:
    """Cut the corpus into the folder `parts`, one file per shard, and skip files that exist. counts: see `books`."""
    resumed, paths = begun(parts, wanted, RECORD), []
    with tqdm(desc="documents", unit="book", total=corpus.total) as bar:

        def unfinished() -> Iterator[tuple[Path, Shard]]:
            for shard in make_shards(books(corpus.rows(), cfg, counts), cfg):
                # The name has a hash of the text: if the corpus on the hub or the shards change, they are cut again.
                digest = hashlib.blake2b(json.dumps(shard).encode(), digest_size=16).hexdigest()
                paths.append(parts / f"{len(paths):05d}-{digest}.arrow")
                if paths[-1].exists():
                    bar.update(len(shard))
                else:
                    yield paths[-1], shard

        work = partial(cut, tokenizer=tokenizer, cfg=cfg)
        remedy = "fewer --processes or a smaller --shard-megabytes"
        for (path, shard), table in in_parallel(work, unfinished(), cfg.processes or cores(), remedy):
            if not resumed:
                begin(parts, wanted, RECORD)
                resumed = True
            with atomic_file(path, "wb") as file, pa.ipc.new_stream(file, SCHEMA) as writer:
                writer.write_table(table)
            bar.update(len(shard))
    return paths


def main(cfg: Settings) -> None:
    started = time.time()
    corpus = open_corpus(cfg)
    tokenizer = load_tokenizer(cfg.tokenizer)
    wanted = cfg.identity(corpus, source=cfg.name, tokenizer_hash=tokenizer.hash)
    parts = cfg.out.with_name(cfg.out.name + ".parts")
    if begun(cfg.out, wanted, RECORD):
        shutil.rmtree(parts, ignore_errors=True)  # left by a run that was killed at its very end
        print(f"{cfg.out} already exists")
        return
    counts: Counter[str] = Counter()
    paths = cut_shards(cfg, corpus, tokenizer, parts, wanted, counts)
    whole = concatenate_datasets([Dataset.from_file(str(path)) for path in paths]) if paths else []
    if not len(whole):
        shutil.rmtree(parts, ignore_errors=True)
        raise UserError(
            f"{cfg.corpus} gives no document: of {counts['rows']:,} rows {counts['empty']:,} are empty, "
            f"{counts['few words']:,} of too few words, {counts['read']:,} of too few tokens: give longer texts, or "
            "lower --min-book-words or --min-tokens"
        )
    try:
        unknown = count_unknown(whole.data.column("input_ids"), tokenizer, cfg)
    except UserError:
        shutil.rmtree(parts)
        raise
    lengths, n_books = document_lengths(whole), len(whole.unique("book"))
    record = {
        "source": cfg.name,
        "tokenizer": cfg.tokenizer,
        "tokenizer_vocab_size": tokenizer.size,
        "tokenizer_hash": tokenizer.hash,
        "documents": len(whole),
        "books": n_books,
        "tokens": int(lengths.sum()),
        "unknown_tokens": unknown,
        "longest_document_tokens": int(lengths.max()),
        "rows": counts["rows"],
        "skipped_empty": counts["empty"],
        "skipped_few_words": counts["few words"],
        "skipped_repeated": counts["repeated"],
        "skipped_too_short": counts["read"] - n_books,
        "settings": dataclasses.asdict(cfg) | {"out": str(cfg.out)},
        "identity": wanted,
        "versions": versions() | {"nupunkt": nupunkt.__version__},
        "seconds": round(time.time() - started, 1),
    }
    # The library's own fingerprint depends on the paths of the shards.
    fingerprint = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]
    folder = parts / "whole"
    shutil.rmtree(folder, ignore_errors=True)
    Dataset(whole.data, whole.info, fingerprint=fingerprint).save_to_disk(folder)
    replace_text(folder / RECORD, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    os.rename(folder, cfg.out)  # in one step: if the folder exists, it is complete
    shutil.rmtree(parts)
    skipped = ", ".join(f"{record[key]:,} {key[8:].replace('_', ' ')}" for key in record if key.startswith("skipped_"))
    print(f"{cfg.out}: {len(whole):,} documents of {n_books:,} books, {record['tokens']:,} tokens; left out: {skipped}")
    if cfg.boundaries == "sentence" and (longest := int(lengths.max())) > 4 * cfg.min_tokens:
        print(f"note: the longest document has {longest:,} tokens: few sentence ends; --boundaries none cuts anywhere")


if __name__ == "__main__":
    run(main, Settings, __doc__)
