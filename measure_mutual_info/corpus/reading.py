"""Read corpora as streams of books: text files, and, by `datasets`, JSONL and parquet files and datasets of the hub.

A row of a corpus is (name of the book, its text or None). At most a few books are in memory at a time, plus the names
and hashes of the others.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from tqdm import tqdm

from common.cli import UserError, at_least, cause
from common.record import file_hash, printable
from common.resume import RESUME_OK, identity
from common.tokenizer import HUB_ID


@dataclass(frozen=True, kw_only=True)
class CorpusSettings:
    """The settings that describe a corpus."""

    corpus: str
    """a .txt, .jsonl or .parquet file; a folder or a glob of them; a folder of save_to_disk; or a dataset of the hub"""
    config: str | None = None  # hub datasets: which configuration, e.g. 20231101.en of wikimedia/wikipedia
    split: str = "train"  # hub datasets, and folders of save_to_disk with several splits: which one
    streaming: bool = field(default=False, metadata=RESUME_OK)  # hub datasets: read over the network, download nothing
    text_column: str = "text"
    book_column: str = ""  # column that names the book; default: the first of short_book_title, title, id that exists
    min_book_words: int = 0  # books with fewer words are left out (paper: 5,000 on PG19)
    max_books: int = 0  # stop after this many books, not counting those left out; 0: no limit

    def validate(self) -> None:
        at_least(0, self, "min_book_words", "max_books")

    def identity(self, corpus: Corpus, **facts: Any) -> dict[str, Any]:
        """As common.resume.identity, with the hashes of local files in place of their path."""
        return identity(self, corpus=None if corpus.files else self.corpus, files=corpus.files, **facts)


BOOK_COLUMNS = ("short_book_title", "title", "id")
TABLES = {".jsonl": {"path": "json"}, ".parquet": {"path": "parquet", "batch_size": 64}}  # arguments of load_dataset
KINDS = (".txt", *TABLES)  # files that a folder is searched for
REFUSED = (".csv", ".tsv", ".json", ".html", ".htm", ".xml", ".rtf")  # text, but not plain text

Rows = Iterator[tuple[str, Any]]


@dataclass(frozen=True)
class Corpus:
    rows: Callable[[], Rows]
    total: int | None  # number of rows, if known without reading
    files: dict[str, str]  # name → SHA-256 of each local file


def open_corpus(cfg: CorpusSettings) -> Corpus:
    """Open the corpus `cfg.corpus`. Local files are read once here, to check and hash them.

    UserError: nothing there; a file is not plain text, is damaged or lacks the column; a dataset does not load.
    """
    if not is_local(cfg.corpus):
        data = open_table(cfg.corpus, cfg, path=cfg.corpus, name=cfg.config, split=cfg.split, streaming=cfg.streaming)
        return Corpus(partial(table_rows, data, "", cfg.corpus, cfg), getattr(data, "num_rows", None), {})
    names = {path.name for path in Path(cfg.corpus).glob("*.json")}
    if "dataset_dict.json" in names or names >= {"state.json", "dataset_info.json"}:  # written by save_to_disk
        data = open_table(cfg.corpus, cfg, saved_split, folder=cfg.corpus, split=cfg.split)
        files = {printable(Path(cfg.corpus).name): file_hash(cfg.corpus)}
        return Corpus(partial(table_rows, data, "", cfg.corpus, cfg), data.num_rows, files)
    files = local_files(cfg.corpus)
    root = Path(os.path.commonpath([file.parent for file in files]))
    readers, hashes = [], {}
    for file in tqdm(files, desc="checking files", unit="file", disable=len(files) < 1000):
        name = printable(file.relative_to(root).with_suffix("").as_posix())
        hashes[printable(file.relative_to(root).as_posix())] = file_hash(file)
        if suffix(file) == ".jsonl" and not file.stat().st_size:  # `datasets` refuses it
            readers.append(lambda name=name: iter([(name, "")]))
        elif kind := TABLES.get(suffix(file)):
            data = open_table(str(file), cfg, **kind, data_files=glob.escape(str(file)), split="train", streaming=True)
            readers.append(partial(table_rows, data, f"{name} ", str(file), cfg))
        else:
            read_text(file)
            readers.append(lambda file=file, name=name: iter([(name, read_text(file))]))
    total = None if any(suffix(file) in TABLES for file in files) else len(files)
    return Corpus(lambda: itertools.chain.from_iterable(reader() for reader in readers), total, hashes)


def is_local(corpus: str) -> bool:
    """Whether `corpus` names local files: it exists, has the suffix of a file, or cannot be the name of a dataset."""
    return os.path.exists(corpus) or not HUB_ID.fullmatch(corpus) or suffix(corpus) in (*KINDS, *REFUSED)


def suffix(file: Path | str) -> str:
    return Path(file).suffix.lower()


def local_files(corpus: str) -> list[Path]:
    """The files of a path, folder (its .txt, .jsonl and .parquet files, at any depth) or glob, sorted.

    Hidden files and folders of a folder are left out. Prints how many files of a folder are of other kinds.
    """
    folder = os.path.isdir(corpus)
    found = Path(corpus).rglob("*") if folder else map(Path, glob.glob(corpus, recursive=True) or [corpus])
    files = [path for path in found if path.is_file()]
    if folder:
        files = [path for path in files if not any(part.startswith(".") for part in path.relative_to(corpus).parts)]
        others = [path for path in files if suffix(path) not in KINDS]
        files = [path for path in files if suffix(path) in KINDS]
        if files and others:
            kinds = ", ".join(sorted({suffix(path) or "no suffix" for path in others}))
            print(f"{len(others)} files of other kinds ignored ({printable(kinds)})")
    if not files:
        kinds = ".txt, .jsonl or .parquet file in" if folder else "file at"
        raise UserError(f'no {kinds} {corpus}: check the path, and name others by a quoted pattern, "my_code/**/*.py"')
    for file in files:
        if suffix(file) in REFUSED:
            raise UserError(
                f'{file} is not plain text: give .txt, .parquet or .jsonl (one object per line: {{"text": "…"}})'
            )
    return sorted(files)


def read_text(file: Path) -> str:
    """Read a text file. UserError: it is not UTF-8, or holds NUL bytes as binary files do."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        reason = "it holds NUL bytes" if "\0" in text else ""
    except UnicodeDecodeError as error:
        reason = error.reason
    if reason:
        raise UserError(f"{file} is not text in UTF-8 ({reason}): convert it (iconv -t utf-8) or leave it out")
    return text


def saved_split(folder: str, split: str) -> datasets.Dataset:
    found = datasets.load_from_disk(folder)
    return found[split] if isinstance(found, datasets.DatasetDict) else found


def open_table(
    where: str, cfg: CorpusSettings, load: Callable[..., Any] | None = None, **given: Any
) -> datasets.Dataset | datasets.IterableDataset:
    """Call `load(**given)`, by default `datasets.load_dataset`, and keep only the columns that are read.

    UserError: it does not load, or lacks the text column, or the book column if `cfg.book_column` names one.
    """
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it would log what the message below says
    try:
        data = (load or datasets.load_dataset)(**given)
        columns = data.column_names or list(next(iter(data), {cfg.text_column: None}))
    except Exception as error:  # the library, pyarrow and remote services raise almost anything
        raise unreadable(where, error) from error
    for option, column in (("--text-column", cfg.text_column), ("--book-column", cfg.book_column)):
        if column and column not in columns:
            raise UserError(f'{where} has no column "{column}", only {", ".join(columns)}: choose with {option}')
    name = cfg.book_column or next((name for name in BOOK_COLUMNS if name in columns), None)
    wanted = [cfg.text_column, *([name] if name else [])]
    return data if data.column_names == [] else data.select_columns(wanted)  # no columns: a file of {} lines


def table_rows(data: Iterable[dict[str, Any]], prefix: str, where: str, cfg: CorpusSettings) -> Rows:
    """One book per row, named by the other column, else "<prefix>row <number>". UserError: a damaged row."""
    rows = enumerate(data, 1)
    while True:
        try:
            number, row = next(rows, (0, {}))
        except Exception as error:
            raise unreadable(where, error) from error
        if not number:
            return
        text = row.pop(cfg.text_column)
        if text is not None and not isinstance(text, str):
            raise UserError(f'{where}, row {number}: "{cfg.text_column}" holds {type(text).__name__}, not a string')
        name = next((name for name in row.values() if name is not None), "")
        yield printable(" ".join(str(name).split())) or f"{prefix}row {number}", text


def unreadable(where: str, error: Exception) -> UserError:
    if os.path.exists(where):
        return UserError(f"{where} cannot be read ({cause(error)}): repair it, or download or write it again")
    remedy = "check the network, its name, --config and --split, or name a copy in parquet (PG19: emozilla/pg19)"
    here = f"there is no file or folder {where} here, and"
    return UserError(f"{here} the hub dataset {where} cannot be read: {cause(error)}; {remedy}")


def books(rows: Rows, cfg: CorpusSettings, counts: Counter[str]) -> Iterator[tuple[str, str]]:
    """(name, text) of each book that is not left out, with distinct names.

    A text that repeats an earlier one is left out: copies would be treated as independent books. counts: gets the
    number of "rows", of rows "read", and of those left out, by reason ("empty", "few words", "repeated").
    """
    times: Counter[str] = Counter()
    seen: set[bytes] = set()
    for plain, text in rows:
        counts["rows"] += 1
        if not text or text.isspace():
            counts["empty"] += 1
            continue
        if cfg.min_book_words and len(text.split()) < cfg.min_book_words:
            counts["few words"] += 1
            continue
        digest = hashlib.blake2b(text.strip().encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if digest in seen:
            counts["repeated"] += 1
            continue
        seen.add(digest)
        name = plain
        while times[name]:  # the title was used before, or is like one numbered here: "Poems", "Poems (2)"
            times[plain] += 1
            name = f"{plain} ({times[plain]})"
        times[name] += 1
        counts["read"] += 1
        yield name, text
        if counts["read"] == cfg.max_books:
            return
