from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

from common.tokenizer import load_tokenizer
from tests.conftest import call_script, one_line_error, prose
from tests.measure_mutual_info.corpus.test_chunking import plain_documents

SCRIPT = "measure_mutual_info/prepare_dataset.py"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Five books as text files: three of 120 sentences, one short, one empty."""
    folder = tmp_path / "library"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(("b", "a", "more/a")):
        (folder / f"{name}.txt").write_text(prose(120, number), encoding="utf-8")
    (folder / "short.txt").write_text("Call me Ishmael.", encoding="utf-8")
    (folder / "void.txt").write_text(" \n", encoding="utf-8")
    return folder


def call(**values: Any) -> subprocess.CompletedProcess:
    """Call the script with flags for these settings."""
    values = {"tokenizer": "bytes", "min_tokens": 300, "processes": 1} | values
    flags = ((f"--{name.replace('_', '-')}", value) for name, value in values.items())
    return call_script(SCRIPT, *itertools.chain(*flags))


def prepared(out: Path, **values: Any) -> list[dict[str, Any]]:
    """Call the script and return the documents with all their columns."""
    done = call(out=out, **values)
    assert done.returncode == 0, done.stderr
    return datasets.load_from_disk(str(out)).to_list()


def record(out: Path) -> dict[str, Any]:
    return json.loads((out / "prepare.json").read_text(encoding="utf-8"))


def books_of(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["book"] for row in rows))


def save_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_command_writes_the_documents(library: Path, bpe: Path, tmp_path: Path):
    out = tmp_path / "new" / "documents"
    flags = ["--corpus", library, "--tokenizer", bpe, "--out", out, "--min-tokens", 300, "--source", "ours"]
    result = call_script(SCRIPT, *flags)
    assert result.returncode == 0, result.stderr
    found = datasets.load_from_disk(str(out))
    assert found.features["input_ids"] == datasets.List(datasets.Value("int32"))
    rows = found.to_list()
    assert list(rows[0]) == ["document", "book", "input_ids"]
    expected = []
    for name in ("a", "b", "more/a"):
        text = (library / f"{name}.txt").read_text(encoding="utf-8")
        for number, ids in enumerate(plain_documents(text, load_tokenizer(str(bpe)).ids, 300)):
            expected.append({"document": f"{name}#{number:04d}", "book": name, "input_ids": ids})
    assert rows == expected
    lengths = [len(row["input_ids"]) for row in rows]
    facts = {"documents": len(rows), "books": 3, "tokens": sum(lengths), "longest_document_tokens": max(lengths)}
    facts |= {"rows": 5, "skipped_empty": 1, "skipped_few_words": 0, "skipped_repeated": 0, "skipped_too_short": 1}
    facts |= {"source": "ours", "tokenizer": str(bpe), "tokenizer_vocab_size": 320, "unknown_tokens": 0}
    facts |= {"tokenizer_hash": load_tokenizer(str(bpe)).hash}
    assert {key: record(out)[key] for key in facts} == facts
    assert f"{len(rows):,} documents of 3 books" in result.stdout
    assert "left out: 1 empty, 0 few words, 0 repeated, 1 too short" in result.stdout
    assert not list(out.parent.glob("*.parts"))
    assert "already exists" in call_script(SCRIPT, *flags).stdout


def hub(rows: list[dict[str, Any]], asked: list[tuple] | None = None, broken: bool = False) -> Any:
    """Replaces load_dataset, as tests do not use the hub. broken: the connection ends after the last row."""

    def generate() -> Any:
        yield from rows
        raise ConnectionError("peer went away")

    def load_dataset(path: str, name: str | None, split: str, streaming: bool) -> Any:
        if asked is not None:
            asked.append((path, name, split))
        if broken:
            return datasets.IterableDataset.from_generator(generate)
        data = datasets.Dataset.from_list(rows)
        return data.to_iterable_dataset() if streaming else data

    return load_dataset


def test_every_kind_of_corpus_and_of_work_gives_the_same(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = [
        {"id": path.relative_to(library).with_suffix("").as_posix(), "text": path.read_text(encoding="utf-8"), "n": [1]}
        for path in sorted(library.rglob("*.txt"))
    ]
    rows.append({"id": "none", "text": None, "n": [2]})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows[1].parquet")
    found = {"folder": prepared(tmp_path / "folder", corpus=library)}
    found["shards"] = prepared(tmp_path / "shards", corpus=library, shard_megabytes=0.004, processes=3)
    states = [(tmp_path / name / "state.json").read_bytes() for name in found]
    assert states[0] == states[1]  # trained models identify their documents by this file
    found["glob"] = prepared(tmp_path / "glob", corpus=f"{library}/**/*.txt")
    lines = save_lines(tmp_path / "rows.JSONL", rows)
    found["jsonl"] = prepared(tmp_path / "jsonl", corpus=lines)
    found["parquet"] = prepared(tmp_path / "parquet", corpus=tmp_path / "rows[1].parquet")
    asked: list[tuple] = []
    monkeypatch.setattr(datasets, "load_dataset", hub(rows, asked))
    found["hub"] = prepared(tmp_path / "hub", corpus="owner/name", config="c")
    flags = ("--corpus", "owner/name", "--tokenizer", "bytes", "--min-tokens", 300, "--out", tmp_path / "stream")
    assert call_script(SCRIPT, *flags, "--streaming", "--split", "test").returncode == 0
    found["stream"] = datasets.load_from_disk(str(tmp_path / "stream")).to_list()
    assert asked == [("owner/name", "c", "train"), ("owner/name", None, "test")]
    assert len(found["folder"]) > 20
    for name, documents in found.items():
        assert documents == found["folder"]
        assert record(tmp_path / name)["skipped_empty"] == (1 if name in ("folder", "shards", "glob") else 2)
    assert record(tmp_path / "hub")["source"] == "name"
    assert record(tmp_path / "glob")["source"] == library.name


def test_books_are_named_by_the_column_asked_for(tmp_path: Path):
    names = [("Poems", "A"), ("Poems\n(2)", "B"), ("Poems", "B"), ("", None), (7, "C")]
    rows = [{"title": title, "author": author, "text": prose(20, i)} for i, (title, author) in enumerate(names)]
    corpus = save_lines(tmp_path / "c.jsonl", rows)
    by_title, by_author = (prepared(tmp_path / c, corpus=corpus, book_column=c) for c in ("title", "author"))
    assert books_of(by_title) == ["Poems", "Poems (2)", "Poems (3)", "c row 4", "7"]
    assert books_of(by_author) == ["A", "B", "B (2)", "c row 4", "C"]


def test_limits_on_books_and_documents(library: Path, tmp_path: Path):
    limits = {"max_documents_per_book": 2, "max_books": 2, "min_book_words": 10}
    few = prepared(tmp_path / "few", corpus=library, **limits)
    assert [row["document"] for row in few] == ["a#0000", "a#0001", "b#0000", "b#0001"]
    prepared(tmp_path / "long", corpus=library, min_book_words=10, min_tokens=5)
    assert (record(tmp_path / "long")["books"], record(tmp_path / "long")["skipped_few_words"]) == (3, 1)


def test_a_text_that_comes_again_is_one_book(tmp_path: Path):
    """Four rows equal except for white space at the ends, three other rows, and a repeat of one of those."""
    one, *others = (prose(40, i) for i in range(4))
    texts = [others[0], one, one, f" \n{one}", others[1], f"{one}\n", others[0], others[2]]
    corpus = save_lines(tmp_path / "c.jsonl", [{"title": f"{i}", "text": text} for i, text in enumerate(texts)])
    for limit, books, repeated in ((0, ["0", "1", "4", "7"], 4), (3, ["0", "1", "4"], 2)):
        out = tmp_path / f"{limit}"
        found = prepared(out, corpus=corpus, max_books=limit, shard_megabytes=0.003)
        assert books_of(found) == books
        assert (record(out)["books"], record(out)["skipped_repeated"]) == (len(books), repeated)
        assert len({tuple(row["input_ids"]) for row in found}) == record(out)["documents"]


def test_shuffled_documents_keep_their_tokens_and_lose_their_order(library: Path, tmp_path: Path):
    flags = {"corpus": library, "boundaries": "book", "min_tokens": 100}
    text = prepared(tmp_path / "text", **flags)
    settings = {"a": {"shuffle_seed": 0}, "b": {"shuffle_seed": 0, "shard_megabytes": 0.001}, "c": {"shuffle_seed": 1}}
    found = {name: prepared(tmp_path / name, **flags, **more) for name, more in settings.items()}
    for before, after in zip(text, found["a"], strict=True):
        assert before["input_ids"] != after["input_ids"]
        assert sorted(before["input_ids"]) == sorted(after["input_ids"])
    assert found["a"] == found["b"] != found["c"]


def test_a_folder_is_searched_for_its_texts_alone(library: Path, tmp_path: Path):
    """Hidden files and folders are passed over, and the print says how many files are of other kinds."""
    expected = prepared(tmp_path / "expected", corpus=library)
    (library / ".ipynb_checkpoints").mkdir()
    for name in (".ipynb_checkpoints/b.txt", "._x.txt", "notes.csv", "more/a.gz", "README"):
        (library / name).write_bytes(b"\xff")
    done = call(corpus=library, out=tmp_path / "again")
    assert "3 files of other kinds ignored (.csv, .gz, no suffix)" in done.stdout
    assert datasets.load_from_disk(str(tmp_path / "again")).to_list() == expected


def test_what_save_to_disk_wrote(tmp_path: Path):
    """A dataset, or the chosen split of several."""
    rows = [{"title": f"{i}", "text": prose(40, i)} for i in range(4)]
    data = datasets.Dataset.from_list(rows)
    data.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": data.select([0]), "test": data}).save_to_disk(str(tmp_path / "splits"))
    one = prepared(tmp_path / "a", corpus=tmp_path / "one")
    assert books_of(one) == ["0", "1", "2", "3"]
    assert prepared(tmp_path / "b", corpus=tmp_path / "splits", split="test") == one
    assert "splits cannot be read" in one_line_error(call(corpus=tmp_path / "splits", split="x", out=tmp_path / "c"))


def test_no_boundaries(tmp_path: Path):
    draw = np.random.default_rng(0)
    texts = {name: "".join(draw.choice(list("ACGT"), 1000)) for name in ("x", "y")}
    for name, text in texts.items():
        (tmp_path / f"{name}.fa").write_text(text)
    rows = prepared(tmp_path / "dna", corpus=f"{tmp_path}/*.fa", boundaries="none")
    assert [row["document"] for row in rows] == [f"{book}#{i:04d}" for book in "xy" for i in range(3)]
    assert bytes(itertools.chain(*(row["input_ids"] for row in rows[:3]))).decode() == texts["x"][:900]
    assert (record(tmp_path / "dna")["tokenizer_vocab_size"], record(tmp_path / "dna")["tokenizer_hash"]) == (256, None)


def test_whole_books(library: Path, tmp_path: Path):
    flags = {"corpus": library, "tokenizer": "characters", "boundaries": "book"}
    texts = {book: (library / f"{book}.txt").read_text(encoding="utf-8") for book in ("a", "b", "more/a")}
    assert prepared(tmp_path / "out", **flags, min_tokens=100) == [
        {"document": f"{book}#0000", "book": book, "input_ids": list(map(ord, text))} for book, text in texts.items()
    ]
    assert record(tmp_path / "out")["tokenizer_vocab_size"] == 0x110000


def test_other_settings_are_refused(library: Path, bpe: Path, tmp_path: Path):
    shutil.copytree(bpe, tmp_path / "bpe")
    flags = {"corpus": library, "tokenizer": tmp_path / "bpe", "out": tmp_path / "out"}
    assert call(**flags).returncode == 0
    path = tmp_path / "bpe" / "tokenizer.json"
    backend = json.loads(path.read_text())
    backend["model"]["merges"].reverse()  # the same name, but it tokenises differently
    path.write_text(json.dumps(backend))
    (library / "a.txt").write_text("Another text.", encoding="utf-8")
    line = one_line_error(call(**flags))
    assert "tokenizer_hash" in line
    assert "files.a.txt" in line


def test_a_run_that_broke_off_keeps_its_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """After the connection to the hub broke, shards are reused, and a text that has changed since is cut again."""
    rows = [{"title": f"{i}", "text": prose(40, i)} for i in range(6)]
    flags = {"corpus": "owner/name", "out": tmp_path / "out", "shard_megabytes": 0.001}
    parts = tmp_path / "out.parts"
    monkeypatch.setattr(datasets, "load_dataset", hub(rows[:4], broken=True))
    said = one_line_error(call(**flags))
    assert said.startswith("error: there is no file or folder owner/name here, and the hub dataset")
    assert "owner/name cannot be read: peer went away; check the network" in said
    assert not (tmp_path / "out").exists()
    shards = sorted(parts.glob("*.arrow"))
    assert len(shards) == 4
    assert "out.parts was made with other settings" in one_line_error(call(**flags, boundaries="none"))
    shards[0].write_bytes(shards[1].read_bytes())  # shows that it is read, not cut again
    rows[2]["text"] += "More."
    monkeypatch.setattr(datasets, "load_dataset", hub(rows))
    found = prepared(**flags)
    assert books_of(found) == ["1", "2", "3", "4", "5"]
    assert not parts.exists()
    whole = [row for row in prepared(tmp_path / "whole", corpus="owner/name") if row["book"] != "0"]
    assert found[-len(whole) :] == whole


def test_a_tokenizer_that_does_not_know_the_text(tmp_path: Path):
    """Unknown tokens are counted; a text with too large a share of them is refused."""
    letters = Tokenizer(WordLevel({"[UNK]": 0, **{chr(97 + i): i + 1 for i in range(26)}}, unk_token="[UNK]"))
    letters.pre_tokenizer = Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=letters, unk_token="[UNK]").save_pretrained(tmp_path / "letters")
    for name, line in {"poor": "a" * 39 + "!", "good": "a" * 99 + "!", "known": "a" * 999}.items():
        (tmp_path / f"{name}.txt").write_text((line + "\n\n") * 50)
    flags = {"tokenizer": tmp_path / "letters", "boundaries": "none", "min_tokens": 100}
    line = one_line_error(call(corpus=tmp_path / "poor.txt", out=tmp_path / "poor", **flags))
    assert "letters does not know 7% of the tokens of" in line
    assert not list(tmp_path.glob("*.parts"))
    # The share is that of the whole corpus, not of the texts that are cut at a time.
    assert len(prepared(tmp_path / "both", corpus=tmp_path / "*o*.txt", shard_megabytes=0.001, **flags))
    rows = prepared(tmp_path / "good", corpus=tmp_path / "good.txt", **flags)
    assert record(tmp_path / "good")["unknown_tokens"] == sum(row["input_ids"].count(0) for row in rows) > 0


BAD_FILES = {  # name of the file → its content, and part of the error
    "nul.txt": (b"text\0text", "is not text in UTF-8 (it holds NUL bytes)"),
    "empty.txt": (b"", "gives no document: of 1 rows 1 are empty"),
    "empty.jsonl": (b"", "gives no document: of 1 rows 1 are empty"),
    "broken.jsonl": (b'{"text": \n', "cannot be read (JSON parse error"),
    "other.jsonl": (b'{"body": "a", "title": "b"}\n', 'no column "text", only body, title: choose with --text-column'),
    "broken.parquet": (b"PAR1 no", "cannot be read (Parquet file size is 7 bytes"),
    "table.csv": (b"text\na\n", "is not plain text: give .txt"),
}


def test_bad_input_is_one_line(tmp_path: Path):
    good = tmp_path / "good.fa"
    good.write_text(prose(10, 0), encoding="utf-8")
    cases: list[tuple[str, dict[str, Any]]] = [
        (f"no file at {tmp_path}/**/*.rs", {"corpus": f"{tmp_path}/**/*.rs"}),
        ("1 of too few tokens: give longer texts, or lower", {"min_tokens": 100_000}),
        ("--min-tokens 0: must be at least 1", {"min_tokens": 0}),
        ("--max-books -1: must be at least 0", {"max_books": -1}),
    ]
    for name, (content, said) in BAD_FILES.items():
        (tmp_path / name).write_bytes(content)
        cases.append((said, {"corpus": tmp_path / name}))
    for said, change in cases:
        line = one_line_error(call(**{"corpus": good, "out": tmp_path / "out"} | change))
        assert said in line
        assert "corpus" not in change or str(change["corpus"]) in line
        assert not list(tmp_path.glob("out*"))
