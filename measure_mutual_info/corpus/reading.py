"""Corpora as streams of books: local text, JSONL and parquet files, and datasets of the Hugging Face hub.

A row of a corpus is (name of the book, its text or None). Nothing here holds more than one book in memory, and of the
others their names and hashes. The settings are those of prepare_dataset.py.
"""

from __future__ import annotations

import codecs
import contextlib
import glob
import hashlib
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from common.cli import UserError
from common.record import printable


class Settings(Protocol):
    """What a program says of a corpus, see prepare_dataset.py."""

    corpus: str
    config: str | None
    split: str
    streaming: bool
    text_column: str
    book_column: str
    min_book_words: int
    max_books: int


BOOK_COLUMNS = ("short_book_title", "title", "id")
KINDS = (".txt", ".jsonl", ".parquet")  # what a folder is searched for
ROWS = 'write its rows as .jsonl (a line each: {"text": "…"}) or .parquet'
UNPACK = "unpack it and give the .txt, .jsonl or .parquet files inside"
EXTRACT = "extract its text into a .txt file"
REFUSED = {  # suffixes of files that no one means to have read as plain text, and what to do with them
    **dict.fromkeys((".csv", ".tsv", ".json", ".ndjson", ".arrow", ".feather", ".xls", ".xlsx"), ROWS),
    **dict.fromkeys((".gz", ".tgz", ".zip", ".bz2", ".xz", ".zst", ".7z", ".rar", ".tar"), UNPACK),
    **dict.fromkeys((".pdf", ".html", ".htm", ".xml", ".epub", ".doc", ".docx", ".odt", ".rtf"), EXTRACT),
}

Rows = Iterator[tuple[str, Any]]


@dataclass(frozen=True)
class Corpus:
    rows: Callable[[], Rows]
    total: int | None  # how many rows, where known without reading
    files: dict[str, str]  # name → SHA-256 of each local file


def open_corpus(cfg: Settings) -> Corpus:
    """The corpus behind `cfg.corpus`; local files are read once here, to check them and to take their hash.

    UserError: nothing there, a file that is no plain text or damaged or lacks the column, a dataset that does not load.
    """
    if not is_local(cfg.corpus):
        return open_hub(cfg)
    files = local_files(cfg.corpus)
    for file in files:
        if remedy := REFUSED.get(suffix(file)):
            raise UserError(f"{file} is no plain text ({file.suffix}): {remedy}")
    root = Path(os.path.commonpath([file.parent for file in files]))
    readers: list[Callable[[], Rows]] = []
    hashes, totals = {}, []
    for file in tqdm(files, desc="checking files", unit="file", disable=len(files) < 1000):
        name = printable(file.relative_to(root).with_suffix("").as_posix())
        hashes[printable(file.relative_to(root).as_posix())] = check_file(file)
        opener = {".parquet": open_parquet, ".jsonl": open_jsonl}.get(suffix(file), open_text)
        reader, total = opener(file, name, cfg)
        readers.append(reader)
        totals.append(total)
    rows = None if None in totals else sum(totals)
    return Corpus(lambda: itertools.chain.from_iterable(reader() for reader in readers), rows, hashes)


def is_local(corpus: str) -> bool:
    """Whether `corpus` means files: it exists, is a glob, ends as a file does, or cannot be the name of a dataset."""
    return os.path.exists(corpus) or bool(
        glob.has_magic(corpus)
        or suffix(corpus) in (*KINDS, *REFUSED, ".md")
        or not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", corpus)
    )


def suffix(file: Path | str) -> str:
    return Path(file).suffix.lower()


def local_files(corpus: str) -> list[Path]:
    """The files of a path, folder (its .txt, .jsonl and .parquet, however deep) or glob, sorted."""
    if os.path.isdir(corpus):
        there = [p for p in Path(corpus).rglob("*") if p.is_file()]
        files = [p for p in there if suffix(p) in KINDS]
        if not files:
            endings = Counter(p.suffix for p in there).most_common(1)
            example = f'"{Path(corpus)}/**/*{endings[0][0] if endings else ".py"}"'
            raise UserError(f"{corpus} holds no .txt, .jsonl or .parquet file: name others by a glob, e.g. {example}")
    elif os.path.exists(corpus):
        files = [Path(corpus)]
    else:
        files = [Path(name) for name in glob.glob(corpus, recursive=True) if os.path.isfile(name)]
        if not files and glob.has_magic(corpus):
            raise UserError(f"no file matches {corpus}: check the pattern (and quote it against the shell)")
        if not files:
            raise UserError(f"no such file or folder: {corpus}; check the path, from the folder you are in")
    return sorted(files)


def check_file(file: Path) -> str:
    """SHA-256 of a file. UserError: a text file that holds NUL bytes or is not UTF-8."""
    digest, decoder = hashlib.sha256(), codecs.getincrementaldecoder("utf-8")()
    with open(file, "rb") as stream:
        more = True
        while more:
            block = stream.read(1 << 22)
            more = bool(block)
            digest.update(block)
            if suffix(file) == ".parquet":
                continue
            if b"\0" in block:
                raise UserError(f"{file} is a binary file (it holds NUL bytes): give text in UTF-8, or leave it out")
            try:
                decoder.decode(block, final=not more)  # a file can end within a character
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{file} is not UTF-8 ({error.reason}): convert it (iconv -t utf-8), or leave it out"
                ) from error
    return digest.hexdigest()


def open_text(file: Path, name: str, cfg: Settings) -> tuple[Callable[[], Rows], int | None]:
    """A whole file is one book."""
    return lambda: iter([(name, file.read_text(encoding="utf-8-sig"))]), 1


def open_jsonl(file: Path, name: str, cfg: Settings) -> tuple[Callable[[], Rows], int | None]:
    """A line is one book. UserError: a line that is no JSON object, or (in the first) has no text column."""

    def lines() -> Iterator[tuple[int, dict[str, Any]]]:
        with open(file, encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise UserError(f"{file}, line {number} is not JSON ({error}): mend or remove that line") from error
                if not isinstance(row, dict):
                    raise UserError(f'{file}, line {number} is no JSON object: give lines like {{"text": "…"}}')
                yield number, row

    first = next(lines(), (0, None))[1]
    column = None if first is None else pick_columns(list(first), str(file), cfg)

    def rows() -> Rows:
        for number, row in lines():
            text = row.get(cfg.text_column)
            if text is not None and not isinstance(text, str):
                raise UserError(f'{file}, line {number}: "{cfg.text_column}" is {type(text).__name__}, no string')
            # JSON can hold halves of surrogate pairs, which are no text
            text = text and text.encode("utf-8", "replace").decode()
            yield named(row.get(column) if column else None, f"{name} row {number}"), text

    return rows, None


def open_parquet(file: Path, name: str, cfg: Settings) -> tuple[Callable[[], Rows], int | None]:
    """A row is one book. UserError: no parquet file, no text column, or one that does not hold strings."""

    @contextlib.contextmanager
    def opened() -> Iterator[pq.ParquetFile]:
        try:
            with open(file, "rb") as stream, pq.ParquetFile(stream) as parquet:  # pyarrow takes names in UTF-8 alone
                yield parquet
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            what = f"{file} is not a whole parquet file ({first_line(error)})"
            raise UserError(f"{what}: fetch or write it again") from error

    with opened() as parquet:
        schema, total = parquet.schema_arrow, parquet.metadata.num_rows
    column = pick_columns(schema.names, str(file), cfg)
    kind = schema.field(cfg.text_column).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise UserError(f'{file}: column "{cfg.text_column}" holds {kind}, no strings: name another with --text-column')

    def rows() -> Rows:
        with opened() as parquet:
            number = 0
            for batch in parquet.iter_batches(64, columns=[cfg.text_column, *([column] if column else [])]):
                for row in batch.to_pylist():
                    number += 1
                    yield named(row[column] if column else None, f"{name} row {number}"), row[cfg.text_column]

    return rows, total


def open_hub(cfg: Settings) -> Corpus:
    """A dataset of the Hugging Face hub: a row is one book. UserError: it does not load, or lacks the column."""
    import datasets

    def trouble(error: Exception) -> UserError:
        said = first_line(error)
        if "script" in said.lower():
            remedy = "name a copy in parquet" + ("; for PG19: emozilla/pg19" if "pg19" in cfg.corpus else "")
        elif isinstance(error, (ConnectionError, TimeoutError)):
            remedy = "check the network, or give local files (there is no local file or folder of this name)"
        else:
            remedy = "check its name, --config and --split (there is no local file or folder of this name)"
        return UserError(f"the hub dataset {cfg.corpus} cannot be read: {said.rstrip('.')}; {remedy}")

    try:
        data = datasets.load_dataset(cfg.corpus, cfg.config, split=cfg.split, streaming=cfg.streaming)
        columns = data.column_names or list(next(iter(data)))
    except Exception as error:  # whatever a remote service and its client come up with
        raise trouble(error) from error
    column = pick_columns(columns, cfg.corpus, cfg)
    data = data.select_columns([cfg.text_column, *([column] if column else [])])

    def rows() -> Rows:
        try:
            for number, row in enumerate(data, 1):
                yield named(row[column] if column else None, f"row {number}"), row[cfg.text_column]
        except Exception as error:
            raise trouble(error) from error

    return Corpus(rows, None if cfg.streaming else len(data), {})


def pick_columns(columns: list[str], where: str, cfg: Settings) -> str | None:
    """The column that names the book, if any. UserError: the columns asked for are not there."""
    for option, column in (("--text-column", cfg.text_column), ("--book-column", cfg.book_column)):
        if column and column not in columns:
            raise UserError(f'{where} has no column "{column}", only {", ".join(columns)}: choose with {option}')
    return cfg.book_column or next((name for name in BOOK_COLUMNS if name in columns), None)


def named(name: Any, otherwise: str) -> str:
    """The name of a book, printable and on one line, or `otherwise` if it has none."""
    return printable(" ".join(str(name).split())) or otherwise if name is not None else otherwise


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def books(rows: Rows, cfg: Settings, skipped: Counter[str]) -> Iterator[tuple[str, str]]:
    """(name, text) of each book that is not left out, names made distinct; the others are counted in `skipped`.

    A text that repeats an earlier one is left out: copies would pass for books that are independent of each other.
    """
    times: Counter[str] = Counter()
    seen: set[bytes] = set()
    given = 0
    for plain, text in rows:
        skipped["rows"] += 1
        if not text or text.isspace():
            skipped["empty"] += 1
            continue
        if cfg.min_book_words and len(text.split()) < cfg.min_book_words:
            skipped["few words"] += 1
            continue
        digest = hashlib.blake2b(text.strip().encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if digest in seen:
            skipped["repeated"] += 1
            continue
        seen.add(digest)
        name = plain
        while times[name]:  # a title that came before, or looks like one told apart: "Poems", "Poems (2)"
            times[plain] += 1
            name = f"{plain} ({times[plain]})"
        times[name] += 1
        yield name, text
        given += 1
        if given == cfg.max_books:
            return
