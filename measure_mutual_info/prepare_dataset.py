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
each process needs memory for about ten times `shard_megabytes` of text. A killed run continues with the shards it has
not finished. The documents are the same whatever the interruptions and the number of processes.

Writes the folder `out`, which `datasets.load_from_disk(out)` opens: columns document ("<book>#<number>"), book and
input_ids (no special tokens added). prepare.json in it records the settings, the outcome, and a fingerprint of the
tokenizer. Unfinished work lies in `out`.parts.
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

import numpy as np
import nupunkt
import pyarrow as pa
from datasets import Dataset, concatenate_datasets
from tqdm import tqdm

from common.cli import UserError, run
from common.documents import document_lengths
from common.parallel import in_parallel
from common.record import atomic_file, cores, printable, replace_text, versions
from common.resume import RESUME_OK, begin, begun, identity
from common.tokenizer import Tokenizer, load_tokenizer
from measure_mutual_info.corpus.chunking import piece_documents, sentence_documents, whole_book
from measure_mutual_info.corpus.reading import books, open_corpus

RECORD = "prepare.json"
UNKNOWN_MOST = 0.03  # share of tokens that the tokenizer does not know, above which they are no measurement of the text
SCHEMA = pa.schema({"document": pa.string(), "book": pa.string(), "input_ids": pa.list_(pa.int32())})
Shard = list[tuple[str, str]]  # consecutive books: name, text


@dataclass(frozen=True)
class Settings:
    corpus: str  # a .txt, .jsonl or .parquet file; a folder or a glob of them; or a dataset of the hub
    tokenizer: str  # hub id, local folder or GGUF file, of the model that will read them; or "bytes"; or "characters"
    out: Path = field(metadata=RESUME_OK)  # folder to write
    source: str = ""  # short name of the corpus in every result; default: from `corpus`
    config: str | None = None  # hub datasets: which configuration, e.g. 20231101.en of wikimedia/wikipedia
    split: str = "train"  # hub datasets: which split
    streaming: bool = field(default=False, metadata=RESUME_OK)  # hub datasets: read over the network, download nothing
    text_column: str = "text"
    book_column: str = ""  # column that names the book; default: the first there is of short_book_title, title, id
    boundaries: str = "sentence"  # "none": consecutive pieces of min_tokens, for code, DNA; "book": a text uncut
    min_tokens: int = 2048  # length of a document in tokens, at least (paper: 2,048); shorter texts are left out
    shuffle_seed: int | None = None  # not in the paper: tokens of each document in random order, which tell nothing
    min_book_words: int = 0  # books with fewer are left out (paper: 5,000 on PG19)
    max_documents_per_book: int = 0  # 0: all of them
    max_books: int = 0  # stop after so many books that are not left out; 0: all of them
    shard_megabytes: float = field(default=8.0, metadata=RESUME_OK)  # not in the paper: text a process holds at a time
    processes: int = field(default=0, metadata=RESUME_OK)  # 0: one a core

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


def cut(task: tuple[Path, Shard], tokenizer: Tokenizer, cfg: Settings) -> pa.Table:
    """The documents of one shard."""
    columns: dict[str, list] = {name: [] for name in SCHEMA.names}
    for name, text in task[1]:
        for number, ids in enumerate(documents(text, tokenizer, cfg)):
            row = {"document": f"{name}#{number:04d}", "book": name, "input_ids": np.array(ids, np.int32)}
            for column, value in row.items():
                columns[column].append(value)
    return pa.table(columns, SCHEMA)


def make_shards(found: Iterator[tuple[str, str]], cfg: Settings) -> Iterator[Shard]:
    """Consecutive books, `shard_megabytes` of text (in million characters) at a time."""
    shard, size = [], 0
    for name, text in found:
        shard.append((name, text))
        size += len(text)
        if size >= cfg.shard_megabytes * 1e6:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


def shard_hash(shard: Shard) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in itertools.chain.from_iterable(shard):
        digest.update(f"{len(part)}:{part}".encode("utf-8", "replace"))
    return digest.hexdigest()


def count_unknown(ids: pa.ChunkedArray, tokenizer: Tokenizer, cfg: Settings) -> int:
    """Tokens that the tokenizer does not know. UserError: they are more than UNKNOWN_MOST."""
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


def nothing_found(cfg: Settings, counts: Counter[str]) -> UserError:
    """Why there is not a single document."""
    if counts["read"]:
        why = f"none of {counts['read']:,} books has a document of {cfg.min_tokens:,} tokens: lower --min-tokens"
    elif counts["few words"]:
        few = f"all {counts['few words']:,} books have fewer than {cfg.min_book_words:,} words"
        why = f"{few}: lower --min-book-words"
    else:
        why = f"{counts['rows']:,} rows, none with text: give a corpus that has some"
    return UserError(f"{cfg.corpus}: {why}")


def main(cfg: Settings) -> None:
    started = time.time()
    cfg.validate()
    corpus = open_corpus(cfg)
    tokenizer = load_tokenizer(cfg.tokenizer)
    name = None if corpus.files else cfg.corpus  # of local files the hashes, in place of the path
    wanted = identity(cfg, source=cfg.name, corpus=name, files=corpus.files, tokenizer_hash=tokenizer.hash)
    parts = cfg.out.with_name(cfg.out.name + ".parts")
    if begun(cfg.out, wanted, RECORD):
        shutil.rmtree(parts, ignore_errors=True)  # of a run that was killed at its very end
        made = json.loads((cfg.out / RECORD).read_text(encoding="utf-8"))
        print(f"{cfg.out}: there already, {made['documents']:,} documents of {made['books']:,} books")
        return
    resumed = begun(parts, wanted, RECORD)
    counts: Counter[str] = Counter()
    paths: list[Path] = []
    with tqdm(desc="documents", unit="book", total=corpus.total) as bar:

        def unfinished() -> Iterator[tuple[Path, Shard]]:
            for shard in make_shards(books(corpus.rows(), cfg, counts), cfg):
                # Named by its text: a corpus that changes behind the hub, or other shards, are cut anew.
                paths.append(parts / f"{len(paths):05d}-{shard_hash(shard)}.arrow")
                if paths[-1].exists():
                    bar.update(len(shard))
                else:
                    yield paths[-1], shard

        work = partial(cut, tokenizer=tokenizer, cfg=cfg)
        remedy = "fewer --processes or a smaller --shard-megabytes"
        for (path, shard), table in in_parallel(work, unfinished(), cfg.processes or cores(), remedy):
            count_unknown(table["input_ids"], tokenizer, cfg)
            if not resumed:
                begin(parts, wanted, RECORD)
                resumed = True
            with atomic_file(path, "wb") as file, pa.ipc.new_stream(file, SCHEMA) as writer:
                writer.write_table(table)
            bar.update(len(shard))
    record = finish(cfg, parts, paths, tokenizer, wanted, counts, started)
    print(
        f"{cfg.out}: {record['documents']:,} documents of {record['books']:,} books, {record['tokens']:,} tokens; "
        f"left out: {counts['empty']:,} rows without text, {counts['few words']:,} books of too few words, "
        f"{counts['repeated']:,} that repeat another, {record['skipped_too_short']:,} too short for a document"
    )
    if record["unknown_tokens"]:
        print(f"note: {record['unknown_tokens']:,} tokens are unknown to the tokenizer")
    longest = record["longest_document_tokens"]
    if cfg.boundaries == "sentence" and longest > 4 * cfg.min_tokens:
        print(
            f"note: the longest document has {longest:,} tokens: a text with few sentence ends; --boundaries none cuts "
            "anywhere"
        )


def finish(
    cfg: Settings,
    parts: Path,
    paths: list[Path],
    tokenizer: Tokenizer,
    wanted: dict,
    counts: Counter[str],
    started: float,
) -> dict:
    """Move the shards `paths` into one folder of documents, `cfg.out`; its prepare.json. UserError: there are none."""
    whole = concatenate_datasets([Dataset.from_file(str(path)) for path in paths]) if paths else []
    if not len(whole):
        shutil.rmtree(parts, ignore_errors=True)
        raise nothing_found(cfg, counts)
    lengths, n_books = document_lengths(whole), len(whole.unique("book"))
    record = {
        "source": cfg.name,
        "tokenizer": cfg.tokenizer,
        "tokenizer_vocab_size": tokenizer.size,
        "tokenizer_hash": tokenizer.hash,
        "min_tokens": cfg.min_tokens,
        "boundaries": cfg.boundaries,
        "documents": len(whole),
        "books": n_books,
        "tokens": int(lengths.sum()),
        "unknown_tokens": count_unknown(whole.data.column("input_ids"), tokenizer, cfg),
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
    # The library's own fingerprint has the paths of the shards in it.
    fingerprint = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]
    folder = parts / "whole"
    shutil.rmtree(folder, ignore_errors=True)
    Dataset(whole.data, whole.info, fingerprint=fingerprint).save_to_disk(folder)
    replace_text(folder / RECORD, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    os.rename(folder, cfg.out)  # in one step: a folder that is there is whole
    shutil.rmtree(parts)
    return record


if __name__ == "__main__":
    run(main, Settings, __doc__)
