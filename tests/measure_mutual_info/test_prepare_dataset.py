from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
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

from common.cli import UserError
from common.tokenizer import load_tokenizer
from measure_mutual_info import prepare_dataset
from measure_mutual_info.prepare_dataset import Settings, main
from tests.conftest import ROOT, call_script, one_line_error, prose, run_script
from tests.measure_mutual_info.corpus.test_chunking import plain_documents

SCRIPT = "measure_mutual_info/prepare_dataset.py"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Four books as text files: two of the same length, one short, one empty."""
    folder = tmp_path / "library"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(("b", "a", "more/a")):
        (folder / f"{name}.txt").write_text(prose(120, number), encoding="utf-8")
    (folder / "short.txt").write_text("Call me Ishmael.", encoding="utf-8")
    (folder / "void.txt").write_text(" \n", encoding="utf-8")
    return folder


def table(folder: Path) -> list[dict[str, Any]]:
    return datasets.load_from_disk(str(folder)).to_list()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "prepare.json"}


def test_command_writes_the_documents(library: Path, bpe: Path, tmp_path: Path):
    out = tmp_path / "new" / "documents"
    flags = ["--corpus", library, "--tokenizer", bpe, "--out", out, "--min-tokens", 300, "--source", "ours"]
    result = run_script(SCRIPT, *flags)
    rows = table(out)
    assert datasets.load_from_disk(str(out)).features["input_ids"] == datasets.List(datasets.Value("int32"))
    assert list(rows[0]) == ["document", "book", "input_ids"]
    expected = []
    for name in ("a", "b", "more/a"):
        text = (library / f"{name}.txt").read_text(encoding="utf-8")
        for number, (_, _, ids) in enumerate(plain_documents(text, load_tokenizer(str(bpe)).ids, 300)):
            expected.append({"document": f"{name}#{number:04d}", "book": name, "input_ids": ids})
    assert rows == expected
    record = json.loads((out / "prepare.json").read_text())
    counts = {"documents": len(rows), "books": 3, "tokens": sum(len(row["input_ids"]) for row in rows)}
    counts |= {"rows": 5, "skipped_empty": 1, "skipped_few_words": 0, "skipped_repeated": 0, "skipped_too_short": 1}
    counts |= {"source": "ours", "tokenizer": str(bpe), "tokenizer_vocab_size": 320, "min_tokens": 300}
    counts |= {"tokenizer_hash": load_tokenizer(str(bpe)).hash}
    assert {key: record[key] for key in counts} == counts
    assert record["boundaries"] == record["settings"]["boundaries"] == "sentence"
    assert f"{len(rows):,} documents of 3 books" in result.stdout
    assert "1 rows without text" in result.stdout
    assert sorted(path.name for path in out.iterdir()) == [
        "data-00000.arrow",
        "dataset_info.json",
        "prepare.json",
        "state.json",
    ]
    assert not list(out.parent.glob("*.parts"))
    assert "there already" in call_script(SCRIPT, *flags).stdout


def test_processes_and_shards_change_nothing(library: Path, tmp_path: Path):
    flags = ["--corpus", library, "--tokenizer", "bytes", "--min-tokens", 500, "--shard-megabytes", 0.004]
    for processes in (1, 3):
        run_script(SCRIPT, *flags, "--out", tmp_path / f"{processes}", "--processes", processes)
    assert contents(tmp_path / "1") == contents(tmp_path / "3")
    assert len(list((tmp_path / "1").glob("data-*.arrow"))) == 4
    assert call_script(SCRIPT, *flags[:-2], "--out", tmp_path / "one").returncode == 0
    assert table(tmp_path / "one") == table(tmp_path / "1")


# Python runs this file at its start, in worker processes too: nobody finishes the sixth shard.
STALL = """
import os, time
replace = os.replace
def stall(source, target):
    if str(target).endswith("data-00005.arrow"):
        time.sleep(600)
    replace(source, target)
os.replace = stall
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_goes_on(processes: int, tmp_path: Path):
    corpus = tmp_path / "corpus.jsonl"
    books = [{"title": f"Book {i % 30}", "text": prose(100, i)} for i in range(60)]
    corpus.write_text("\n".join(json.dumps(row) for row in books), encoding="utf-8")
    flags = ["--corpus", corpus, "--tokenizer", "bytes", "--min-tokens", 300, "--shard-megabytes", 0.025]
    killed, parts = ["--out", tmp_path / "killed", "--processes", processes], tmp_path / "killed.parts"
    (tmp_path / "sitecustomize.py").write_text(STALL)
    run = subprocess.Popen(
        [sys.executable, ROOT / SCRIPT, *map(str, flags + killed)],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )
    before = [parts / f"data-0000{i}.json" for i in range(5)]  # the fourth may come after the fifth
    while not all(path.exists() for path in before) or not list(parts.glob(".data-00005.arrow.*.tmp")):
        assert run.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    tasks = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    workers = [Path("/proc") / pid for pid in tasks.read_text().split()] if tasks.exists() else []
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (tmp_path / "killed").exists()
    deadline = time.time() + 20
    while any(worker.exists() for worker in workers):  # they end when their parent does
        assert time.time() < deadline
        time.sleep(0.02)
    inodes = {
        path.name: path.stat().st_ino for path in parts.glob("data-*.arrow") if path.with_suffix(".json").exists()
    }
    assert set(inodes) >= {f"data-0000{i}.arrow" for i in range(5)}
    assert not (parts / "data-00005.arrow").exists()
    run_script(SCRIPT, *flags, *killed)
    assert call_script(SCRIPT, *flags, "--out", tmp_path / "whole", "--processes", 1).returncode == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert len(list((tmp_path / "whole").glob("data-*.arrow"))) > 12
    assert {name: (tmp_path / "killed" / name).stat().st_ino for name in inodes} == inodes
    assert not list((tmp_path / "killed").glob(".*"))
    names = [row["document"] for row in table(tmp_path / "whole")]
    assert len(set(names)) == len(names)
    assert "Book 3 (2)#0000" in names


def settings(corpus: Any, out: Path, **more: Any) -> Settings:
    return Settings(**{"tokenizer": "bytes", "min_tokens": 300, "processes": 1} | more, corpus=str(corpus), out=out)


def call(**values: Any) -> subprocess.CompletedProcess:
    """The script called with the flags of these settings, the others as in `settings`."""
    values = {"tokenizer": "bytes", "min_tokens": 300, "processes": 1} | values
    flags = ((f"--{name.replace('_', '-')}", value) for name, value in values.items())
    return call_script(SCRIPT, *itertools.chain(*flags))


def test_every_kind_of_corpus_gives_the_same(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = [
        {"id": path.relative_to(library).with_suffix("").as_posix(), "text": path.read_text(encoding="utf-8")}
        for path in sorted(library.rglob("*.txt"))
    ]
    rows.append({"id": "none", "text": None})
    (tmp_path / "rows.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    asked = []

    def load_dataset(name: str, config: str | None, *, split: str, streaming: bool) -> Any:
        asked.append((name, config, split))
        data = datasets.Dataset.from_list(rows)
        return data.to_iterable_dataset() if streaming else data

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    main(settings(library, tmp_path / "folder"))
    main(settings(f"{library}/**/*.txt", tmp_path / "glob"))
    main(settings(tmp_path / "rows.jsonl", tmp_path / "jsonl"))
    main(settings(tmp_path / "rows.parquet", tmp_path / "parquet"))
    main(settings("owner/name", tmp_path / "hub", config="c"))
    main(settings("owner/name", tmp_path / "stream", streaming=True, split="test"))
    assert asked == [("owner/name", "c", "train"), ("owner/name", None, "test")]
    first = table(tmp_path / "folder")
    assert len(first) > 20
    for other in ("glob", "jsonl", "parquet", "hub", "stream"):
        assert table(tmp_path / other) == first
        record = json.loads((tmp_path / other / "prepare.json").read_text())
        assert record["skipped_empty"] == (1 if other == "glob" else 2)
    assert json.loads((tmp_path / "hub" / "prepare.json").read_text())["source"] == "name"


def test_books_are_named_by_the_column_asked_for(tmp_path: Path):
    rows = [
        {"title": title, "author": author, "text": "Half a surrogate pair: \ud800. " + prose(20, i)}
        for i, (title, author) in enumerate([("Poems", "A"), ("Poems\n(2)", "B"), ("Poems", "B"), ("", None), (7, "C")])
    ]
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    main(settings(tmp_path / "c.jsonl", tmp_path / "by_title"))
    names = list(dict.fromkeys(row["book"] for row in table(tmp_path / "by_title")))
    assert names == ["Poems", "Poems (2)", "Poems (3)", "c row 4", "7"]
    main(settings(tmp_path / "c.jsonl", tmp_path / "by_author", book_column="author"))
    names = list(dict.fromkeys(row["book"] for row in table(tmp_path / "by_author")))
    assert names == ["A", "B", "B (2)", "c row 4", "C"]


def test_names_that_are_no_text_are_written_out(tmp_path: Path):
    """Files whose names are not UTF-8, and titles with half a surrogate pair: distinct, all the way to the counts."""
    library = tmp_path / os.fsdecode(b"b\xfccher")
    inner = library / os.fsdecode(b"\xe9")
    inner.mkdir(parents=True)
    for number, name in enumerate((b"caf\xe8.txt", b"caf\xe9.txt")):
        (library / os.fsdecode(name)).write_text(prose(20, number), encoding="utf-8")
    titles = ("half \ud800", "half \udc00", None)
    rows = [{"title": title, "text": prose(20, 4 + number)} for number, title in enumerate(titles)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (inner / os.fsdecode(b"rows\xff.jsonl")).write_text(lines, encoding="utf-8")
    with open(inner / os.fsdecode(b"z\xfe.parquet"), "wb") as file:
        pq.write_table(pa.Table.from_pylist([{"id": "1", "text": prose(20, 3)}]), file)

    out = tmp_path / "documents"
    flags = ["--corpus", library, "--tokenizer", "bytes", "--min-tokens", 50, "--out", out]
    made = run_script(SCRIPT, *flags)
    names = [r"caf\udce8", r"caf\udce9", r"half \ud800", r"half \udc00", r"\udce9/rows\udcff row 3", "1"]
    assert list(dict.fromkeys(row["book"] for row in table(out))) == names
    record = json.loads((out / "prepare.json").read_text(encoding="utf-8"))
    assert record["source"] == r"b\udcfccher"
    assert len(record["identity"]["files"]) == 4
    assert not list(tmp_path.glob("*.parts")), made.stderr
    assert "there already" in run_script(SCRIPT, *flags).stdout
    run_script("measure_mutual_info/count_ngrams.py", "--documents", out, "--out", tmp_path / "counts.csv")
    counted = (tmp_path / "counts_by_book.csv").read_text(encoding="utf-8")
    assert all(name in counted for name in names)


def test_a_folder_that_no_library_would_open_is_refused(library: Path, tmp_path: Path):
    out = tmp_path / os.fsdecode(b"\xfc")
    line = one_line_error(call_script(SCRIPT, "--corpus", library, "--tokenizer", "bytes", "--out", out))
    assert line == rf"error: {tmp_path}/\udcfc is no UTF-8, so no library would open it: choose another --out"


def test_limits_on_books_and_documents(library: Path, tmp_path: Path):
    main(settings(library, tmp_path / "few", max_documents_per_book=2, max_books=2, min_book_words=10))
    assert [row["document"] for row in table(tmp_path / "few")] == ["a#0000", "a#0001", "b#0000", "b#0001"]
    main(settings(library, tmp_path / "long", min_book_words=10, min_tokens=5))
    record = json.loads((tmp_path / "long" / "prepare.json").read_text())
    assert (record["books"], record["skipped_few_words"]) == (3, 1)


@pytest.mark.parametrize("flags", [(), ("--processes", 2), ("--max-books", 3)])
def test_a_text_that_comes_again_is_one_book(flags: tuple, tmp_path: Path):
    """Four equal rows, their ends of white space aside, among three others and a repeat of one of these."""
    one, *others = (prose(40, i) for i in range(4))
    texts = [others[0], one, one, f" \n{one}", others[1], f"{one}\n", others[0], others[2]]
    rows = [{"title": f"{i}", "text": text} for i, text in enumerate(texts)]
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    given = ["--corpus", tmp_path / "c.jsonl", "--tokenizer", "bytes", "--min-tokens", 300, "--shard-megabytes", 0.003]
    result = call_script(SCRIPT, *given, *flags, "--out", tmp_path / "out")
    record = json.loads((tmp_path / "out" / "prepare.json").read_text())
    books = ["0", "1", "4"] if "--max-books" in flags else ["0", "1", "4", "7"]
    repeated = 2 if "--max-books" in flags else 4
    assert list(dict.fromkeys(row["book"] for row in table(tmp_path / "out"))) == books
    assert (record["books"], record["skipped_repeated"]) == (len(books), repeated)
    assert f"of {len(books)} books" in result.stdout
    assert f"{repeated} that repeat another" in result.stdout
    assert len({tuple(row["input_ids"]) for row in table(tmp_path / "out")}) == record["documents"]


def test_shuffled_documents_keep_their_tokens_and_lose_their_order(library, tmp_path: Path):
    flags = {"corpus": library, "boundaries": "book", "min_tokens": 100, "tokenizer": "bytes"}
    main(settings(out=tmp_path / "text", **flags))
    text = [row["input_ids"] for row in datasets.load_from_disk(str(tmp_path / "text"))]
    found = {}
    for name, seed, processes in (("a", 0, 1), ("b", 0, 2), ("c", 1, 1)):
        main(settings(out=tmp_path / name, shuffle_seed=seed, processes=processes, **flags))
        found[name] = [row["input_ids"] for row in datasets.load_from_disk(str(tmp_path / name))]
    for before, after in zip(text, found["a"], strict=True):
        assert before != after
        assert sorted(before) == sorted(after)
    assert found["a"] == found["b"]
    assert found["a"] != found["c"]


def test_no_boundaries(tmp_path: Path):
    draw = np.random.default_rng(0)
    for name in ("x", "y"):
        (tmp_path / f"{name}.fa").write_text("".join(draw.choice(list("ACGT"), 1000)))
    main(settings(f"{tmp_path}/*.fa", tmp_path / "dna", boundaries="none"))
    rows = table(tmp_path / "dna")
    assert [row["document"] for row in rows] == [f"{book}#{i:04d}" for book in "xy" for i in range(3)]
    assert (
        bytes(itertools.chain(*(row["input_ids"] for row in rows[:3]))).decode()
        == (tmp_path / "x.fa").read_text()[:900]
    )
    record = json.loads((tmp_path / "dna" / "prepare.json").read_text())
    assert (record["tokenizer_vocab_size"], record["tokenizer_hash"]) == (256, None)


@pytest.mark.parametrize("tokenizer", ["characters", "bytes", "bpe"])
def test_whole_books(tokenizer: str, library: Path, bpe: Path, tmp_path: Path):
    name = str(bpe) if tokenizer == "bpe" else tokenizer
    flags = {"corpus": library, "tokenizer": name, "boundaries": "book", "min_tokens": 100}
    result = call(**flags, out=tmp_path / "out")
    assert result.returncode == 0, result.stderr
    texts = {book: (library / f"{book}.txt").read_text(encoding="utf-8") for book in ("a", "b", "more/a")}
    ids = load_tokenizer(name).ids
    assert table(tmp_path / "out") == [
        {"document": f"{book}#0000", "book": book, "input_ids": ids(text)} for book, text in texts.items()
    ]
    record = json.loads((tmp_path / "out" / "prepare.json").read_text())
    assert (record["boundaries"], record["books"], record["documents"]) == ("book", 3, 3)
    assert (record["skipped_too_short"], record["skipped_empty"]) == (1, 1)
    sizes = {"characters": 0x110000, "bytes": 256, "bpe": 320}
    assert record["tokenizer_vocab_size"] == sizes[tokenizer]
    assert "longest document" not in result.stdout
    for limit, kept in ((len(ids("Call me Ishmael.")), 4), (max(map(len, map(ids, texts.values()))), 1)):
        assert call(**flags | {"min_tokens": limit}, out=tmp_path / f"{limit}").returncode == 0
        assert len(table(tmp_path / f"{limit}")) == kept


def test_long_books_are_written_in_small_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prepare_dataset, "BATCH", 2500)
    rows = [{"title": f"{i}", "text": f"{i}" * 1000} for i in range(8)]
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    main(settings(tmp_path / "c.jsonl", tmp_path / "out", boundaries="book"))
    with pa.ipc.open_stream(tmp_path / "out" / "data-00000.arrow") as stream:
        assert [batch.num_rows for batch in stream] == [3, 3, 2]


def test_other_settings_are_refused(library: Path, tmp_path: Path):
    out = tmp_path / "out"
    main(settings(library, out))
    with pytest.raises(UserError, match=r"out was made with other settings \(min_tokens = 300, now 200\)"):
        main(settings(library, out, min_tokens=200))
    (library / "a.txt").write_text(prose(120, 99), encoding="utf-8")
    with pytest.raises(UserError, match="other files"):
        main(settings(library, out))


def test_an_unfinished_run_of_other_settings_is_refused(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(prepare_dataset, "write_shard", interrupt)
        with pytest.raises(KeyboardInterrupt):
            main(settings(library, out))
    with pytest.raises(UserError, match=r"out\.parts was made with other settings"):
        main(settings(library, out, boundaries="none"))
    main(settings(library, out))


def test_a_corpus_that_changed_behind_the_hub_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = [{"title": str(i), "text": prose(40, i)} for i in range(3)]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list(rows))
    cfg = settings("owner/name", tmp_path / "out", shard_megabytes=0.001)
    with monkeypatch.context() as patch:
        patch.setattr(prepare_dataset, "write_folder_files", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main(cfg)
    rows[1]["text"] += "More."
    with pytest.raises(UserError, match="the corpus has changed"):
        main(cfg)


def test_foreign_folders_are_left_alone(library: Path, tmp_path: Path):
    for name in ("out", "other.parts"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.tex").write_text("dear")
    for name, culprit in (("out", "out"), ("other", r"other\.parts")):
        with pytest.raises(UserError, match=rf"{culprit} holds something else than documents"):
            main(settings(library, tmp_path / name))
    assert (tmp_path / "out" / "thesis.tex").read_text() == "dear"


def test_a_full_disk_is_one_line_and_loses_nothing(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    replace, calls = os.replace, itertools.count()

    def full(source: Any, target: Any) -> None:
        if Path(target).name == "data-00002.arrow" and next(calls) == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    flags = {"corpus": library, "out": tmp_path / "out", "shard_megabytes": 0.004}
    said = one_line_error(call(**flags))
    assert said.startswith(f"error: disk full while writing {tmp_path}/out.parts/data-00002.arrow")
    assert sorted(path.name for path in (tmp_path / "out.parts").glob("data-*")) == [
        f"data-0000{i}.{kind}" for i in range(2) for kind in ("arrow", "json")
    ]
    assert not list((tmp_path / "out.parts").glob(".*"))
    assert call(**flags).returncode == 0
    main(settings(library, tmp_path / "whole", shard_megabytes=0.004))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def bad(tmp_path: Path, name: str, content: bytes) -> Path:
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


def test_bad_input_is_one_line_naming_culprit_and_remedy(tmp_path: Path):
    good = bad(tmp_path, "good.txt", prose(10, 0).encode())
    nul = bad(tmp_path, "nul.txt", b"text\0text")
    latin = bad(tmp_path, "latin.txt", "été".encode("latin-1"))
    cut = bad(tmp_path, "cut.txt", "été".encode()[:-1] + b"\n")
    half = bad(tmp_path, "half.txt", "été".encode()[:-1])
    empty = bad(tmp_path, "empty.txt", b"")
    broken = bad(tmp_path, "broken.jsonl", b'{"text": "a"}\n{"text": \n')
    listed = bad(tmp_path, "listed.jsonl", b"[1]\n")
    number = bad(tmp_path, "number.jsonl", b'{"text": 3}\n')
    other = bad(tmp_path, "other.jsonl", b'{"body": "a", "title": "b"}\n')
    parquet = bad(tmp_path, "broken.parquet", b"PAR1 no")
    numbers = tmp_path / "numbers.parquet"
    pq.write_table(pa.table({"text": [1, 2]}), numbers)
    (tmp_path / "bare").mkdir()
    (tmp_path / "genome").mkdir()
    for name in ("README", "a.fa", "b.fa"):
        (tmp_path / "genome" / name).write_text("ACGT")
    (tmp_path / "taken").write_text("")
    cases: list[tuple[str, dict[str, Any]]] = [
        (f"no such file or folder: {tmp_path}/absent.txt", {"corpus": tmp_path / "absent.txt"}),
        (f"no file matches {tmp_path}/**/*.rs", {"corpus": f"{tmp_path}/**/*.rs"}),
        (
            f'genome holds no .txt, .jsonl or .parquet file: name others by a glob, e.g. "{tmp_path}/genome/**/*.fa"',
            {"corpus": tmp_path / "genome"},
        ),
        ("nul.txt is a binary file (it holds NUL bytes)", {"corpus": nul}),
        ("latin.txt is not UTF-8", {"corpus": latin}),
        ("cut.txt is not UTF-8", {"corpus": cut}),
        ("half.txt is not UTF-8 (unexpected end of data)", {"corpus": half}),
        ("empty.txt is empty: 1 rows, none with text", {"corpus": empty}),
        ("broken.jsonl, line 2 is not JSON", {"corpus": broken}),
        ("listed.jsonl, line 1 is no JSON object", {"corpus": listed}),
        ('number.jsonl, line 1: "text" is int, no string', {"corpus": number}),
        ('other.jsonl has no column "text", only body, title: choose with --text-column', {"corpus": other}),
        (
            'other.jsonl has no column "author", only body, title: choose with --book-column',
            {"corpus": other, "text_column": "body", "book_column": "author"},
        ),
        ("broken.parquet is not a whole parquet file", {"corpus": parquet}),
        ('numbers.parquet: column "text" holds int64, no strings', {"corpus": numbers}),
        ("none of 1 books has a document of 100,000 tokens, the longest (good) has", {"min_tokens": 100_000}),
        ("all 1 books have fewer than 10,000 words: lower --min-book-words", {"min_book_words": 10_000}),
        ('unknown --boundaries "word": give "sentence", "none" or "book"', {"boundaries": "word"}),
        ("none of 1 books has a document of 100,000 tokens", {"min_tokens": 100_000, "boundaries": "book"}),
        ("--min-tokens is 0: give 1 or more", {"min_tokens": 0}),
        ("--shard-megabytes is 0.0: give more than 0", {"shard_megabytes": 0}),
        (f"no tokenizer at {tmp_path}/absent:", {"tokenizer": f"{tmp_path}/absent"}),
        (f"no tokenizer at {tmp_path}/absent.gguf:", {"tokenizer": f"{tmp_path}/absent.gguf"}),
        ("bare cannot be loaded: ", {"tokenizer": f"{tmp_path}/bare"}),
        ("taken is a file: name a folder with --out", {"out": tmp_path / "taken"}),
    ]
    for said, change in cases:
        assert said in one_line_error(call(**{"corpus": good, "out": tmp_path / "out"} | change))
        assert not (tmp_path / "out").exists()
        assert not (tmp_path / "out.parts").exists()
    main(settings(good, tmp_path / "good"))  # the same settings without a fault work


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("table.csv", "write its rows as .jsonl"),
        ("array.JSON", "write its rows as .jsonl"),
        ("book.txt.gz", "unpack it"),
        ("books.zip", "unpack it"),
        ("dump.xml.bz2", "unpack it"),
        ("paper.pdf", "extract its text"),
        ("page.html", "extract its text"),
    ],
)
def test_containers_are_not_read_as_text(name: str, remedy: str, tmp_path: Path):
    text = prose(40, 0).encode()
    file = bad(tmp_path, name, text)
    for corpus in (file, f"{tmp_path}/*{file.suffix}"):
        said = one_line_error(call(corpus=corpus, out=tmp_path / "out"))
        assert said.startswith(f"error: {file} is no plain text ({file.suffix}): {remedy}")
        assert not (tmp_path / "out.parts").exists()
    file.unlink()
    assert f"no such file or folder: {file}" in one_line_error(call(corpus=file, out=tmp_path / "out"))


def test_any_other_suffix_is_plain_text(tmp_path: Path):
    for name in ("a.py", "b.md", "c.fasta", "d"):
        assert call(corpus=bad(tmp_path, name, prose(40, 0).encode()), out=tmp_path / "out" / name).returncode == 0
    (tmp_path / "UPPER.JSONL").write_text(json.dumps({"title": "One", "text": prose(40, 0)}))
    assert call(corpus=tmp_path / "UPPER.JSONL", out=tmp_path / "out" / "jsonl").returncode == 0
    assert {row["book"] for row in table(tmp_path / "out" / "jsonl")} == {"One"}


def test_a_tokenizer_of_the_same_name_that_cuts_otherwise(library: Path, bpe: Path, tmp_path: Path):
    shutil.copytree(bpe, tmp_path / "bpe")
    given = settings(library, tmp_path / "out", tokenizer=str(tmp_path / "bpe"))
    main(given)
    main(given)
    path = tmp_path / "bpe" / "tokenizer.json"
    backend = json.loads(path.read_text())
    backend["model"]["merges"].reverse()
    path.write_text(json.dumps(backend))
    with pytest.raises(
        UserError, match=r"out was made with other settings \(tokenizer_hash = .*, now .*: choose another"
    ):
        main(given)


def test_a_tokenizer_that_does_not_know_the_text(library: Path, tmp_path: Path):
    """Unknown tokens are counted; above a few per cent they are no measurement of the text."""
    letters = Tokenizer(WordLevel({"[UNK]": 0, **{chr(97 + i): i + 1 for i in range(26)}}, unk_token="[UNK]"))
    letters.pre_tokenizer = Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=letters, unk_token="[UNK]").save_pretrained(tmp_path / "letters")
    lines = {"poor.txt": "a" * 39 + "!", "good.txt": "a" * 99 + "!"}
    for name, line in lines.items():
        (tmp_path / name).write_text((line + "\n\n") * 50)
    call_with = {"tokenizer": tmp_path / "letters", "boundaries": "none", "min_tokens": 100}
    line = one_line_error(call(corpus=tmp_path / "poor.txt", out=tmp_path / "poor", **call_with))
    assert "letters does not know 7% of the tokens of" in line
    assert not (tmp_path / "poor.parts").exists()
    done = call(corpus=tmp_path / "good.txt", out=tmp_path / "good", **call_with)
    made = json.loads((tmp_path / "good" / "prepare.json").read_text())
    assert 0 < made["unknown_tokens"] < 0.03 * made["tokens"]
    assert f"{made['unknown_tokens']} tokens are unknown to the tokenizer" in done.stdout


def test_command_exits_with_2_and_one_line(tmp_path: Path):
    nul = bad(tmp_path, "nul.txt", b"text\0text")
    result = run_script(SCRIPT, "--corpus", nul, "--tokenizer", "bytes", "--out", tmp_path / "out", check=False)
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        f"error: {nul} is a binary file (it holds NUL bytes): give text in UTF-8, or leave it out"
    ]


def test_hub_out_of_reach_is_one_line(tmp_path: Path):
    more = {"check": False, "env": {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}}
    out = ["--out", tmp_path / "out"]
    line = one_line_error(run_script(SCRIPT, "--corpus", "owner/name", "--tokenizer", "bytes", *out, **more))
    assert line.startswith("error: the hub dataset owner/name cannot be read: ")
    assert "check the network" in line
    good = bad(tmp_path, "good.txt", prose(10, 0).encode())
    line = one_line_error(run_script(SCRIPT, "--corpus", good, "--tokenizer", "owner/name", *out, **more))
    assert line.startswith("error: tokenizer owner/name cannot be loaded: ")
    assert "check the name and the network" in line


def test_script_datasets_point_to_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def load_dataset(*_: Any, **__: Any) -> None:
        raise RuntimeError("Dataset scripts are no longer supported, but found pg19.py")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError, match=r"deepmind/pg19 cannot be read: .* for PG19: emozilla/pg19"):
        main(settings("deepmind/pg19", tmp_path / "out"))


def test_a_stream_that_breaks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def rows() -> Any:
        yield {"text": "A sentence."}
        raise ConnectionError("peer went away")

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.IterableDataset.from_generator(rows))
    with pytest.raises(UserError, match="owner/name cannot be read: peer went away; check the network"):
        main(settings("owner/name", tmp_path / "out", streaming=True))
