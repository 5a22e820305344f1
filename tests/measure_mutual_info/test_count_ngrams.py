"""Counts equal to a Counter's, on random and on real text, however memory, processes and shards cut the work."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from measure_mutual_info.count_ngrams import Settings, chunk_within, counts_of_counts, ngram_keys
from measure_mutual_info.counting import sorted_runs, windows
from measure_mutual_info.counting.document_stream import open_stream
from measure_mutual_info.counting.entropy import grassberger_entropy, grassberger_g
from measure_mutual_info.counting.sorted_runs import Layout, summarise
from measure_mutual_info.counting.windows import window_keys
from tests.conftest import ROOT, call_script, one_line_error, run_script, write_documents

SCRIPT = "measure_mutual_info/count_ngrams.py"
COUNTS = ["source", "tokenizer", "kind", "n_or_d", "occurrences", "types"]
SHARES = ["source", "tokenizer", "kind", "n_or_d", "book", "ngrams", "entropy_nats"]
N, D = (1, 2, 3), (1, 2, 5, 16, 64)
FLAGS = ["--n", *reversed(N), "--d", *reversed(D)]
KINDS = [("ngram", n) for n in N] + [(kind, d) for d in D for kind in ("pair", "left", "right")]


def save(
    folder: Path,
    documents: list[list[int]],
    vocab_size: int,
    tokenizer: str = "toy",
    books: list[str] | None = None,
    batch: int = 3,
    dtype: pa.DataType | None = None,
) -> Path:
    """A folder of documents in two files, a few documents a batch."""
    folder.mkdir(parents=True)
    schema = pa.schema({"document": pa.string(), "book": pa.string(), "input_ids": pa.list_(dtype or pa.int32())})
    rows = [
        {"document": f"book#{i:04d}", "book": books[i] if books else "book", "input_ids": ids}
        for i, ids in enumerate(documents)
    ]
    half = -(-len(rows) // 2)
    halves = [rows[:half], rows[half:]] if len(rows) > 1 else [rows]
    paths = [folder / f"data-{i:05d}.arrow" for i in range(len(halves))]
    for path, part in zip(paths, halves, strict=True):
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
            for first in range(0, len(part), batch):
                writer.write_batch(pa.RecordBatch.from_pylist(part[first : first + batch], schema))
    info = {"features": datasets.Features.from_arrow_schema(schema).to_dict()}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    state = {"_data_files": [{"filename": path.name} for path in paths], "_fingerprint": "0", "_split": None}
    state |= {"_format_columns": None, "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False}
    (folder / "state.json").write_text(json.dumps(state))
    prepared = {"source": "test", "tokenizer": tokenizer, "tokenizer_vocab_size": vocab_size}
    (folder / "prepare.json").write_text(json.dumps(prepared))
    return folder


def occurring(document: list[int], kind: str, n_or_d: int) -> list[tuple[int, ...]]:
    """Everything of a kind in one document, in the order of the text."""
    if kind == "ngram":
        return [tuple(document[i : i + n_or_d]) for i in range(len(document) - n_or_d + 1)]
    pairs = list(zip(document, document[n_or_d:], strict=False))
    return {"pair": pairs, "left": [(a,) for a, _ in pairs], "right": [(b,) for _, b in pairs]}[kind]


def reference(documents: list[list[int]], kind: str, n_or_d: int) -> Counter:
    return Counter(item for document in documents for item in occurring(document, kind, n_or_d))


def share_reference(documents: list[list[int]], labels: list[str], kind: str, n_or_d: int) -> dict:
    """Of each label how much lies in it and its mean of log N − G(n_y), an occurrence at a time."""
    counts, values = reference(documents, kind, n_or_d), {}
    for document, label in zip(documents, labels, strict=True):
        for item in occurring(document, kind, n_or_d):
            values.setdefault(label, []).append(float(np.log(counts.total()) - grassberger_g(counts[item])))
    return {label: (len(of_label), np.mean(of_label)) for label, of_label in values.items()}


def random_documents(rng: np.random.Generator, vocab_size: int, lengths: list[int]) -> list[list[int]]:
    return [(rng.zipf(1.4, size=n) % vocab_size).tolist() for n in lengths]


def real_documents() -> tuple[list[list[int]], int]:
    """English text that comes with Python, a document a topic, a number a word."""
    words = [re.findall(r"\w+|[^\w\s]", text) for text in topics.values()]
    number = {word: i for i, word in enumerate(sorted({word for document in words for word in document}))}
    return [[number[word] for word in document] for document in words], len(number)


def check_counts(out: Path, documents: list[list[int]], kinds: list[tuple[str, int]] = KINDS) -> None:
    """counts.csv is exactly what a Counter gives."""
    table = pd.read_csv(out)
    assert table.columns.tolist() == COUNTS
    assert list(dict.fromkeys(zip(table["kind"], table["n_or_d"], strict=True))) == kinds
    for (kind, n_or_d), rows in table.groupby(["kind", "n_or_d"], sort=False):
        expected = Counter(reference(documents, kind, n_or_d).values())
        assert dict(zip(rows["occurrences"], rows["types"], strict=True)) == expected, (kind, n_or_d)
        assert rows["occurrences"].is_monotonic_increasing


def check_shares(out: Path, documents: list[list[int]], labels: list[str]) -> None:
    """counts_by_book.csv is what a slow count gives, and its weighted mean is Grassberger's entropy."""
    counts, shares = pd.read_csv(out), pd.read_csv(out.with_name(f"{out.stem}_by_book.csv"), dtype={"book": str})
    assert shares.columns.tolist() == SHARES
    assert counts[["kind", "n_or_d"]].drop_duplicates().to_numpy().tolist() == (
        shares[["kind", "n_or_d"]].drop_duplicates().to_numpy().tolist()
    )
    for (kind, n_or_d), rows in shares.groupby(["kind", "n_or_d"], sort=False):
        expected = share_reference(documents, labels, kind, n_or_d)
        assert sorted(rows["book"]) == sorted(expected)
        for book, ngrams, entropy in rows[["book", "ngrams", "entropy_nats"]].itertuples(index=False):
            assert (ngrams, entropy) == pytest.approx(expected[book], abs=1e-12), (kind, n_or_d, book)
        of_kind = counts[(counts["kind"] == kind) & (counts["n_or_d"] == n_or_d)]
        whole = np.average(rows["entropy_nats"], weights=rows["ngrams"])
        assert whole == pytest.approx(grassberger_entropy(of_kind["occurrences"], of_kind["types"]), abs=1e-10)


def both(out: Path) -> tuple[bytes, bytes]:
    return out.read_bytes(), out.with_name(f"{out.stem}_by_book.csv").read_bytes()


LENGTHS = [0, 40, 1, 2, 3, 17, 0, 64, 65, 5, 1, 90, 0, 300]
BOOKS = list("aabacbdbbceddd")  # they come again, and "e" has one token


@pytest.fixture
def small_parts(monkeypatch):
    """Slabs, index, buffers and tables so small that every piece of code meets their edges."""
    for module, name, value in (
        (sorted_runs, "SLAB", 16),
        (sorted_runs, "INDEX_STRIDE", 4),
        (sorted_runs, "SMALL", 8),
        (windows, "SLAB", 16),
        (windows, "TOKEN_BUFFER", 32),
    ):
        monkeypatch.setattr(module, name, value)


def test_keys_stay_inside_documents():
    tokens, ends = np.array([1, 2, 3, 4, 5, 6]), np.array([3, 4, 6])
    assert ngram_keys(tokens, ends, 2, 10).tolist() == [12, 23, 56]
    assert ngram_keys(tokens, ends, 3, 10).tolist() == [123]
    assert ngram_keys(tokens, ends, 4, 10).tolist() == []
    assert ngram_keys(tokens[:1], np.array([1]), 2, 10).tolist() == []
    assert ngram_keys(tokens[:0], np.array([0]), 1, 10).tolist() == []


def test_keys_of_windows():
    assert window_keys(np.array([1, 2, 3, 4], np.int32), (0, 2), 10).tolist() == [13, 24]
    assert window_keys(np.array([1, 2, 3, 4]), (0, 4), 10).tolist() == []
    assert window_keys(np.array([2**32 - 1] * 2), (0, 1), 2**32).tolist() == [2**64 - 1]


@pytest.mark.parametrize("chunk_tokens", [23, 64, 1 << 24])
@pytest.mark.parametrize("vocab_size", [50, 2**21])  # 2^21 cubed leaves one bit for book and repeats: two blocks
def test_random_documents_equal_a_counter(tmp_path, chunk_tokens, vocab_size, small_parts):
    documents = random_documents(np.random.default_rng(1), 50, LENGTHS)
    documents = [[token * (vocab_size // 50) for token in document] for document in documents]
    folder = save(tmp_path / "documents", documents, vocab_size, books=BOOKS)
    out = tmp_path / "counts.csv"
    done = call_script(SCRIPT, "--documents", folder, "--out", out, *FLAGS, "--chunk-tokens", chunk_tokens)
    assert done.returncode == 0, done.stderr
    check_counts(out, documents)
    if vocab_size == 50:
        check_shares(out, documents, BOOKS)
    else:
        shares = pd.read_csv(out.with_name("counts_by_book.csv"))
        assert shares[(shares["kind"] == "ngram") & (shares["n_or_d"] == 3)]["book"].tolist() == [
            "books 0–2",
            "books 3–4",
        ]
        assert set(shares[shares["kind"] == "pair"]["book"]) <= set("abcde")
    assert not out.with_name("counts.csv.parts").exists()


@pytest.mark.parametrize("chunk_tokens", [5000, 1 << 24])
def test_real_text_equals_a_counter(tmp_path, chunk_tokens):
    documents, vocab_size = real_documents()
    assert sum(map(len, documents)) > 50_000
    folder = save(tmp_path / "documents", documents, vocab_size, batch=20)
    out, d = tmp_path / "counts.csv", [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048]
    flags = ["--d", *d, "--chunk-tokens", chunk_tokens]
    assert call_script(SCRIPT, "--documents", folder, "--out", out, *flags).returncode == 0
    check_counts(out, documents, KINDS[:2] + [(kind, i) for i in d for kind in ("pair", "left", "right")])


def test_nothing_crosses_from_one_document_into_another(tmp_path, small_parts):
    """Every document has one token of its own, over and over: whatever holds two different ones has crossed."""
    lengths = [5, 1, 9, 0, 17, 40, 3]
    folder = save(tmp_path / "documents", [[i] * n for i, n in enumerate(lengths)], 10)
    for chunk_tokens in (2, 1000):
        out = tmp_path / f"{chunk_tokens}.csv"
        flags = ["--n", 2, "--d", 1, 8, 39, "--chunk-tokens", chunk_tokens]
        assert call_script(SCRIPT, "--documents", folder, "--out", out, *flags).returncode == 0
        table = pd.read_csv(out)
        for (_, n_or_d), rows in table.groupby(["kind", "n_or_d"]):
            reach = 1 if n_or_d == 2 else n_or_d
            expected = sorted(n - reach for n in lengths if n > reach)
            assert sorted(np.repeat(rows["occurrences"], rows["types"])) == expected
    assert both(tmp_path / "2.csv") == both(tmp_path / "1000.csv")


def test_marginals_are_those_of_the_pairs(tmp_path):
    """The first d tokens of a document are no right one, the last d no left one."""
    folder = save(tmp_path / "documents", [[1, 1, 2, 3, 3, 3]], 5)
    out = tmp_path / "counts.csv"
    assert call_script(SCRIPT, "--documents", folder, "--out", out, "--d", 2).returncode == 0
    table = pd.read_csv(out).set_index("kind")[["occurrences", "types"]]
    assert table.loc[["left"]].to_numpy().tolist() == [[1, 2], [2, 1]]  # 1 1 2 3
    assert table.loc[["right"]].to_numpy().tolist() == [[1, 1], [3, 1]]  # 2 3 3 3
    assert table.loc[["pair"]].to_numpy().tolist() == [[1, 4]]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[Path, Path]:
    """A folder of documents, and its counts made in one go."""
    tmp_path = tmp_path_factory.mktemp("corpus")
    lengths = np.random.default_rng(2).integers(0, 400, size=60).tolist()
    documents = random_documents(np.random.default_rng(3), 300, lengths)
    folder = save(tmp_path / "documents", documents, 300, books=[f"b{i // 4}" for i in range(60)])
    out = tmp_path / "counts.csv"
    done = call_script(SCRIPT, "--documents", folder, "--out", out, *FLAGS)
    assert done.returncode == 0, done.stderr
    check_counts(out, documents)
    return folder, out


@pytest.mark.parametrize("n", [1, 2, 3, 7, 80])  # 80: some shards have no document
def test_any_split_merges_to_the_same_bytes(tmp_path, corpus, n):
    folder, expected = corpus
    flags, folders = ["--documents", folder, "--out", tmp_path / "counts.csv", *FLAGS], []
    for i in range(n):
        done = call_script(SCRIPT, *flags, "--shard", f"{i}/{n}", "--chunk-tokens", 300 + 777 * i)
        assert done.returncode == 0, done.stderr
        folders.append(tmp_path / f"counts.csv.{i}-of-{n}.parts")
    assert not (tmp_path / "counts.csv").exists()
    done = call_script(SCRIPT, *flags, "--merge", *reversed(folders), "--chunk-tokens", 1000)
    assert done.returncode == 0, done.stderr
    assert both(tmp_path / "counts.csv") == both(expected)
    assert all(path.exists() for path in folders)


def test_two_processes_give_the_same_bytes(tmp_path, corpus):
    folder, expected = corpus
    out = tmp_path / "counts.csv"
    run_script(SCRIPT, "--documents", folder, "--out", out, *FLAGS, "--processes", 2, "--chunk-tokens", 2000)
    assert both(out) == both(expected)


STALL = """
import os, time
replace = os.replace
def stall(source, target):
    if str(target).endswith("{name}"):
        time.sleep(600)
    replace(source, target)
os.replace = stall
"""


REFUSE = """
import os
replace = os.replace
def refuse(source, target):
    assert os.path.basename(str(target)) not in {names!r}, "made again"
    replace(source, target)
os.replace = refuse
"""


@pytest.mark.parametrize(
    ("processes", "stall_at", "finished"),
    [
        (1, "pair-5.000002.run", ["pair-5.000001.run", "left-5.000001.run", "pair-2.npz"]),  # amid the runs
        (1, "left-16.npz", ["right-16.000003.run", "pair-5.npz"]),  # amid a merge
        (2, "pair-64.000001.run", ["pair-64.000000.run"]),
        (1, "counts.csv", ["pair-64.npz"]),  # when all is counted
    ],
)
def test_a_killed_run_goes_on(tmp_path, corpus, processes, stall_at, finished):
    folder, expected = corpus
    out, parts = tmp_path / "counts.csv", tmp_path / "counts.csv.parts"
    flags = ["--documents", folder, "--out", out, *FLAGS, "--chunk-tokens", 2000, "--processes", processes]
    (tmp_path / "sitecustomize.py").write_text(STALL.format(name=stall_at))
    run = subprocess.Popen(
        [sys.executable, ROOT / SCRIPT, *map(str, flags)],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )
    stalled = [parts, tmp_path][stall_at == "counts.csv"]
    while not list(stalled.glob(f".{stall_at}.*.tmp")) or not all((parts / name).exists() for name in finished):
        assert run.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not out.exists()
    (tmp_path / "sitecustomize.py").write_text(REFUSE.format(names=finished))
    # Another number of processes, another memory: the runs that are there fix their size.
    flags[-1] = 3 - processes
    again = [*flags, "--chunk-tokens", 500]
    run_script(SCRIPT, *again, env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
    assert both(out) == both(expected)
    assert not parts.exists()


def test_a_shard_goes_on(tmp_path, corpus, monkeypatch):
    folder, expected = corpus
    flags = ["--documents", folder, "--out", tmp_path / "counts.csv", *FLAGS]
    assert call_script(SCRIPT, *flags, "--shard", "1/2", "--chunk-tokens", 1000).returncode == 0
    write_run = windows.write_run
    written = []

    def full(path: Path, words: np.ndarray) -> None:
        if path.name == "left-5.000001.run" and not written:
            written.append(path)
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_run(path, words)

    monkeypatch.setattr(windows, "write_run", full)
    first = [*flags, "--shard", "0/2", "--chunk-tokens", 1000]
    message = one_line_error(call_script(SCRIPT, *first))
    assert "disk full while writing" in message
    assert "left-5.000001.run" in message
    parts = tmp_path / "counts.csv.0-of-2.parts"
    kept = {path.name: path.stat().st_ino for path in parts.glob("*.run")}
    assert "pair-5.000000.run" in kept
    merge = [*flags, "--merge", parts, tmp_path / "counts.csv.1-of-2.parts"]
    assert "shard 0/2" in (message := one_line_error(call_script(SCRIPT, *merge)))
    assert "is not finished: run it again with --shard 0/2" in message
    assert call_script(SCRIPT, *first).returncode == 0
    assert {name: (parts / name).stat().st_ino for name in kept} == kept
    assert call_script(SCRIPT, *merge).returncode == 0
    assert both(tmp_path / "counts.csv") == both(expected)


def test_full_disk_loses_nothing(tmp_path, corpus, monkeypatch):
    """At the end as well: the older results stay, and the next run takes up what was counted."""
    folder, expected = corpus
    out = tmp_path / "counts.csv"
    out.write_text("older\n")
    flags = ["--documents", folder, "--out", out, *FLAGS]
    replace = os.replace

    def full(source: str, target: str) -> None:
        if str(target).endswith("counts_by_book.csv"):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    assert "disk full while writing" in one_line_error(call_script(SCRIPT, *flags))
    assert out.read_text() == "older\n"
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(windows, "count_piece", None)
    assert call_script(SCRIPT, *flags).returncode == 0
    assert both(out) == both(expected)


def test_bootstrap_over_books():
    """Shares of books drawn with replacement: the spread of a recount, without its bias, and that of fresh corpora.

    60 books of about 1,000 tokens of Zipf's law, in each some words more frequent than elsewhere. A recount of drawn
    books takes the 2-grams of a book drawn twice for frequent ones, so it lies low.
    """
    rng = np.random.default_rng(0)
    books, vocab_size = 60, 100
    layout = Layout.of(vocab_size**2, books)

    def corpus() -> list[np.ndarray]:
        """The 2-grams of each book."""
        zipf, pairs = 1 / (np.arange(vocab_size) + 2.7), []
        for _ in range(books):
            p = zipf * np.exp(0.5 * rng.standard_normal(vocab_size))
            ids = rng.choice(vocab_size, size=rng.integers(500, 1500), p=p / p.sum())
            pairs.append(window_keys(ids, (0, 1), vocab_size))
        return pairs

    def shares(pairs: list[np.ndarray]) -> tuple[float, np.ndarray, np.ndarray]:
        ngrams = np.array([len(of) for of in pairs])
        words = np.sort(np.concatenate([layout.words(of, book) for book, of in enumerate(pairs)]))
        occurrences, types, means = summarise(lambda: [words], layout, ngrams)
        return grassberger_entropy(occurrences, types), ngrams, means

    pairs = corpus()
    entropy, ngrams, of_book = shares(pairs)
    drawn = rng.multinomial(books, np.full(books, 1 / books), size=400)
    first_order = drawn @ (ngrams * of_book) / (drawn @ ngrams)

    counts_of_book = np.array([np.bincount(of.astype(int), minlength=vocab_size**2) for of in pairs])
    recounts = drawn @ counts_of_book
    recounted = np.array([grassberger_entropy(*counts_of_counts(counts[counts > 0])) for counts in recounts])

    assert first_order.std() == pytest.approx(recounted.std(), rel=0.15)
    assert abs(first_order.mean() - entropy) < 0.15 * first_order.std()
    assert recounted.mean() - entropy < -2 * recounted.std()
    fresh, errors = [], []
    for _ in range(100):
        entropy, ngrams, of_book = shares(corpus())
        fresh.append(entropy)
        errors.append(np.sqrt(np.sum((ngrams * (of_book - entropy)) ** 2)) / ngrams.sum())
    assert np.mean(errors) == pytest.approx(np.std(fresh, ddof=1), rel=0.2)


def test_keys_up_to_64_bits(tmp_path):
    """Two tokens of a vocabulary of 2^32 fill the key to its last bit: no bit is left for a book or for repeats."""
    documents = [[2**32 - 1, 2**32 - 1, 0, 2**32 - 1, 2**32 - 1], [2**32 - 1, 2**32 - 1, 5]]
    folder = save(tmp_path / "documents", documents, 2**32, books=["a", "b"], dtype=pa.int64())
    for chunk_tokens in (3, 100):
        out = tmp_path / "counts.csv"
        flags = ["--d", 1, 2, "--chunk-tokens", chunk_tokens]
        assert call_script(SCRIPT, "--documents", folder, "--out", out, *flags).returncode == 0
        kinds = [("ngram", 1), ("ngram", 2)] + [(kind, d) for d in (1, 2) for kind in ("pair", "left", "right")]
        check_counts(out, documents, kinds)
        shares = pd.read_csv(out.with_name("counts_by_book.csv")).set_index(["kind", "n_or_d"])
        assert shares.loc[("pair", 1), "book"] == "books 0–1"


def test_command_line(tmp_path):
    """Through its own process, on documents as another program may have saved them, with provenance beside both."""
    documents = random_documents(np.random.default_rng(5), 300, [200, 1, 500, 33])
    folder = write_documents(tmp_path / "documents", {"a": documents[:2], "b": documents[2:]}, 300)
    prepared = json.loads((folder / "prepare.json").read_text()) | {"tokenizer": "/somewhere/else/toy"}
    (folder / "prepare.json").write_text(json.dumps(prepared))
    out = tmp_path / "results" / "counts.csv"
    done = run_script(SCRIPT, "--documents", folder, "--out", out, *FLAGS)
    assert f"2-grams: {sum(max(len(ids) - 1, 0) for ids in documents)} in all" in done.stdout
    assert "pairs at distance 64: 572 in all" in done.stdout.replace(",", "")
    check_counts(out, documents)
    check_shares(out, documents, list("aabb"))
    for path in (out, out.with_name("counts_by_book.csv")):
        table = pd.read_csv(path)
        assert set(table["source"]) == {"toy"}
        assert set(table["tokenizer"]) == {"toy"}  # a folder's name, not where it lay
        record = json.loads(path.with_suffix(".json").read_text())
        assert record["settings"]["d"] == list(reversed(D))
        assert record["inputs"]


def test_documents_stand_in_for_books_where_there_is_one(tmp_path):
    """The one document without a pair has no row there."""
    documents = random_documents(np.random.default_rng(5), 300, [200, 33, 500, 1])
    folder, out = save(tmp_path / "documents", documents, 300), tmp_path / "mine.csv"
    assert call_script(SCRIPT, "--documents", folder, "--out", out, "--d", 32).returncode == 0
    check_shares(out, documents, [f"book#{i:04d}" for i in range(4)])
    shares = pd.read_csv(tmp_path / "mine_by_book.csv")
    assert shares[shares["kind"] == "pair"]["book"].tolist() == ["book#0000", "book#0001", "book#0002"]


@pytest.mark.parametrize("books", [128, 300])
def test_many_books_are_taken_in_blocks(tmp_path, books):
    """Rows for 128 at most; where books are more, several in a row share one, and the rows still add up."""
    documents = random_documents(np.random.default_rng(9), 40, [20] * books)
    labels = [f"b{i}" for i in range(books)]
    folder, out = save(tmp_path / "documents", documents, 40, books=labels, batch=50), tmp_path / "counts.csv"
    assert call_script(SCRIPT, "--documents", folder, "--out", out, "--d", 3, "--chunk-tokens", 999).returncode == 0
    if books == 300:
        starts = [i for i in range(300) if i == 0 or i * 128 // 300 != (i - 1) * 128 // 300]
        ends = [*(start - 1 for start in starts[1:]), 299]
        labels = [
            f"books {first}–{last}" for first, last in zip(starts, ends, strict=True) for _ in range(first, last + 1)
        ]
        assert len(set(labels)) == 128
    check_shares(out, documents, labels)


def test_default_is_single_tokens_and_pairs(tmp_path):
    folder = save(tmp_path / "documents", [[1, 2, 1, 2]], 3, tokenizer="org/toy")
    assert call_script(SCRIPT, "--documents", folder, "--out", tmp_path / "counts.csv").returncode == 0
    table = pd.read_csv(tmp_path / "counts.csv")
    assert table[["n_or_d", "occurrences", "types"]].to_numpy().tolist() == [[1, 2, 2], [2, 1, 1], [2, 2, 1]]
    assert set(table["tokenizer"]) == {"org/toy"}


def test_counts_of_counts():
    occurrences, types = counts_of_counts(np.array([1, 3, 1, 1, 7]))
    assert occurrences.tolist() == [1, 3, 7]
    assert types.tolist() == [3, 1, 1]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to tell the peak of memory")
def test_memory_stays_under_the_limit(tmp_path):
    """16 million tokens, whose keys alone take 128 MB, where 20 MB are left to sort in."""
    rng = np.random.default_rng(0)
    tokens = (100_000 * rng.random(16_000_000, np.float32) ** 4).astype(np.int32)
    folder = save(tmp_path / "documents", [], 100_000)
    schema = pa.schema({"document": pa.string(), "book": pa.string(), "input_ids": pa.list_(pa.int32())})
    with pa.OSFile(str(folder / "data-00000.arrow"), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for i, part in enumerate(np.split(tokens, 64)):
            ids = pa.ListArray.from_arrays(pa.array([0, len(part)], pa.int32()), pa.array(part))
            writer.write_batch(pa.record_batch([pa.array([f"{i}"]), pa.array([f"{i}"]), ids], schema=schema))
    measured = """if 1:
        import pathlib, runpy, sys
        sys.argv = sys.argv[1:]
        runpy.run_path(sys.argv[0], run_name="__main__")
        print(pathlib.Path("/proc/self/status").read_text())
    """
    peaks = {}
    for limit in (0.28, 2.0):
        flags = ["--documents", folder, "--out", tmp_path / f"{limit}.csv", "--n", 2, "--d", 7, "--memory-gb", limit]
        done = subprocess.run(
            [sys.executable, "-c", measured, ROOT / SCRIPT, *map(str, flags)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        peaks[limit] = 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", done.stdout)[1])
    assert peaks[0.28] < 0.26e9 < 0.3e9 < peaks[2.0] < 2.0e9, peaks
    assert both(tmp_path / "0.28.csv") == both(tmp_path / "2.0.csv")


def test_memory_of_several_processes(tmp_path):
    """They share the limit, and what a run is made of does not change while it goes on."""
    folder = save(tmp_path / "documents", [[1, 2, 3]], 5)
    stream, _ = open_stream(folder)

    def chunk(begun: int | None = None, **settings) -> int:
        return chunk_within(Settings(folder, tmp_path / "counts.csv", **settings), stream, begun)

    assert chunk(memory_gb=2) == 1 << 25
    assert chunk(memory_gb=0.5) < 1 << 25
    assert chunk(memory_gb=4, processes=8) < chunk(memory_gb=4, processes=4) <= 1 << 25
    assert chunk(memory_gb=2, chunk_tokens=77) == 77
    assert chunk(memory_gb=float("inf"), chunk_tokens=77) == 77
    assert chunk(begun=12345, memory_gb=2, chunk_tokens=77) == 12345


def no_prepare_json(folder: Path) -> None:
    (folder / "prepare.json").unlink()


def broken_prepare_json(folder: Path) -> None:
    (folder / "prepare.json").write_text("{")


def prepare_json_without_tokenizer(folder: Path) -> None:
    (folder / "prepare.json").write_text('{"source": "test", "tokenizer_vocab_size": 10}')


def no_arrow_files(folder: Path) -> None:
    for file in folder.iterdir():
        if file.name != "prepare.json":
            file.unlink()


def small_vocabulary(folder: Path) -> None:
    (folder / "prepare.json").write_text('{"source": "test", "tokenizer": "toy", "tokenizer_vocab_size": 5}')


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_prepare_json, "no prepare.json in"),
        (broken_prepare_json, "cannot read the documents"),
        (prepare_json_without_tokenizer, "lacks tokenizer"),
        (no_arrow_files, "cannot read the documents"),
        (small_vocabulary, "token id 9, outside the vocabulary of 5"),
    ],
)
def test_damaged_folder(tmp_path, spoil, message):
    folder = save(tmp_path / "documents", [[1, 2, 9, 2]], 10)
    spoil(folder)
    assert message in one_line_error(call_script(SCRIPT, "--documents", folder, "--out", tmp_path / "counts.csv"))
    assert [path.name for path in tmp_path.iterdir()] == ["documents"]


@pytest.mark.parametrize(
    ("documents", "vocab_size", "flags", "message"),
    [
        (
            [[1, 2]],
            128_256,
            ["--n", 4],
            "4-grams of 128256 tokens do not fit a 64-bit key: with this vocabulary --n goes up to 3",
        ),
        ([[1, 2]], 2**32 + 1, [], "2-grams of 4294967297 tokens do not fit a 64-bit key"),
        ([[1, 2]], 2**65, ["--n", 1], "1-grams of 36893488147419103232 tokens do not fit a 64-bit key"),
        (
            [[1, 2]],
            2**32 + 1,
            ["--n", 1, "--d", 1],
            "pairs of 4294967297 tokens do not fit a 64-bit key: token ids may have up to 32 bits",
        ),
        ([[1, 2]], 10, ["--n", 0], "--n 0: give one or more lengths"),
        ([[1, 2]], 10, ["--d", 1, 0], "--d 1 0: give one or more distances of at least 1"),
        ([[1, 2]], 10, ["--d", -4], "--d -4: give one or more distances of at least 1"),
        ([[1, 2]], 10, ["--n"], "nothing to count: give lengths with --n or distances with --d"),
        ([[1, 2]], 10, ["--n", 3], "has 3 tokens: no 3-gram to count"),
        (
            [[1, 2], [1, 2, 3]],
            10,
            ["--d", 1, 3],
            "has a pair at distance 3, the longest has 3 tokens: give shorter --d, or longer documents",
        ),
        ([[-1, 2]], 10, [], "token id -1, outside the vocabulary of 10"),
        ([[2**32, 2]], 10, ["--d", 1], "token id 4294967296, outside the vocabulary of 10"),
        ([[1, 2]], 10, ["--chunk-tokens", 0], "--chunk-tokens 0: give at least 1"),
        ([[1, 2]], 10, ["--processes", 0], "--processes 0: give at least 1"),
        ([[1, 2]], 10, ["--memory-gb", 0.1], "--memory-gb 0.1 is too small: 1 process needs at least 0.3 here"),
        ([[1, 2]], 10, ["--memory-gb", "nan"], "--memory-gb nan is too small"),
        ([[1, 2]], 10, ["--processes", 4], "--memory-gb 1 is too small: 4 processes need at least 1.3 here"),
        ([[1, 2]], 10, ["--shard", "2/2"], "--shard 2/2: write it i/n with 0 ≤ i < n, e.g. 0/4"),
        ([[1, 2]], 10, ["--shard", "1"], "--shard 1: write it i/n"),
        ([[1, 2]], 10, ["--shard", ""], "--shard : write it i/n"),
        ([[1, 2]], 10, ["--shard", "0/1", "--merge", "x"], "--shard counts a part and --merge puts the parts together"),
        ([], 10, [], "no documents in"),
    ],
)
def test_bad_settings(tmp_path, documents, vocab_size, flags, message):
    folder = save(tmp_path / "documents", documents, vocab_size, dtype=pa.int64())
    if "--processes" in flags:
        flags = [*flags, "--memory-gb", 1]
    assert message in one_line_error(
        call_script(SCRIPT, "--documents", folder, "--out", tmp_path / "counts.csv", *flags)
    )
    assert [path.name for path in tmp_path.iterdir()] == ["documents"]


def test_bad_names(tmp_path):
    flags = ["--documents", tmp_path / "nowhere", "--out", tmp_path / "counts.csv"]
    assert "no folder" in one_line_error(call_script(SCRIPT, *flags))
    flags = ["--documents", tmp_path, "--out", tmp_path / "counts"]
    assert "give the name of a .csv file" in one_line_error(call_script(SCRIPT, *flags))


@pytest.fixture(scope="module")
def shards(tmp_path_factory, corpus) -> Path:
    """Two and three shards of the corpus, of the same settings."""
    tmp_path = tmp_path_factory.mktemp("shards")
    for shard in ("0/2", "1/2", "0/3"):
        flags = ["--documents", corpus[0], "--out", tmp_path / "counts.csv", "--d", 4, "--shard", shard]
        assert call_script(SCRIPT, *flags).returncode == 0
    return tmp_path


def nothing(_: Path) -> None:
    pass


def spoil_a_run(folder: Path) -> None:
    path = folder / "counts.csv.1-of-2.parts" / "pair-4.000000.run"
    os.truncate(path, path.stat().st_size - 8)


def lose_a_run(folder: Path) -> None:
    (folder / "counts.csv.1-of-2.parts" / "pair-4.000000.run").unlink()


def spoil_a_manifest(folder: Path) -> None:
    (folder / "counts.csv.1-of-2.parts" / "manifest.json").write_text("{")


@pytest.mark.parametrize(
    ("merge", "flags", "spoil", "message"),
    [
        (["0-of-2"], [], nothing, "shard 1/2 is missing: count it with --shard, and give its folder too"),
        (["0-of-2", "copy"], [], nothing, "shard 0/2 is given twice"),
        (["0-of-2", "1-of-2", "copy"], [], nothing, "shard 0/2 is given twice"),
        (["0-of-2", "0-of-3"], [], nothing, "shards of different splits (0/2, 0/3): give all shards of one split"),
        (["0-of-3"], [], nothing, "shard 1/3, 2/3 is missing"),
        (["0-of-2", "nowhere"], [], nothing, "is no shard: give the folders that count_ngrams.py --shard left"),
        (["0-of-2", "1-of-2"], ["--d", 4, 8], nothing, "was made with other settings or documents (d differ)"),
        (["0-of-2", "1-of-2"], [], spoil_a_run, "1-of-2.parts lacks pair-4.000000.run, or it is damaged"),
        (
            ["0-of-2", "1-of-2"],
            [],
            lose_a_run,
            "1-of-2.parts lacks pair-4.000000.run, or it is damaged: run again with --shard 1/2",
        ),
        (["0-of-2", "1-of-2"], [], spoil_a_manifest, "was made with other settings or documents"),
    ],
)
def test_bad_shards(tmp_path, corpus, shards, merge, flags, spoil: Callable[[Path], None], message):
    for i in ("0-of-2", "1-of-2", "0-of-3"):
        subprocess.run(["cp", "-r", shards / f"counts.csv.{i}.parts", tmp_path], check=True)
    subprocess.run(["cp", "-r", shards / "counts.csv.0-of-2.parts", tmp_path / "counts.csv.copy.parts"], check=True)
    spoil(tmp_path)
    folders = [tmp_path / f"counts.csv.{i}.parts" for i in merge]
    flags = ["--documents", corpus[0], "--out", tmp_path / "merged.csv", "--merge", *folders, *(flags or ["--d", 4])]
    assert message in one_line_error(call_script(SCRIPT, *flags))
    assert not (tmp_path / "merged.csv").exists()


def test_another_run_is_not_mixed_in(tmp_path, corpus):
    folder, _ = corpus
    flags = ["--documents", folder, "--out", tmp_path / "counts.csv"]
    assert call_script(SCRIPT, *flags, "--d", 4, "--shard", "0/2").returncode == 0
    message = one_line_error(call_script(SCRIPT, *flags, "--d", 8, "--shard", "0/2"))
    assert "was made with other settings or documents (d differ): choose another --out, or delete it" in message
    other = save(tmp_path / "documents", [[1, 2, 3, 4, 5, 6]] * 9, 300)
    flags[1] = other
    assert "(documents differ)" in one_line_error(call_script(SCRIPT, *flags, "--d", 4, "--shard", "0/2"))
    (tmp_path / "counts.csv.parts").mkdir()
    (tmp_path / "counts.csv.parts" / "notes.txt").write_text("mine")
    assert "holds something else than counts" in one_line_error(call_script(SCRIPT, *flags))


@pytest.mark.parametrize("flags", [(), ("--chunk-tokens", "50")], ids=["in memory", "in runs"])
def test_equal_pairs(tmp_path: Path, flags: tuple[str, ...]):
    """At every distance the left tokens are those with d = 64 inside: as if documents ended 64 − d tokens earlier."""
    rng = np.random.default_rng(2)
    documents = random_documents(rng, 30, [200, 64, 65, 1, 130, 300])
    folder, out = save(tmp_path / "documents", documents, 30), tmp_path / "counts.csv"
    run_script(SCRIPT, "--documents", folder, "--out", out, "--n", "1", "--d", *D, "--equal-pairs", *flags)
    counts = pd.read_csv(out)
    pairs = {(kind, d): rows for (kind, d), rows in counts[counts["kind"] != "ngram"].groupby(["kind", "n_or_d"])}
    assert len(pairs) == 3 * len(D)
    for (kind, d), rows in pairs.items():
        shorter = [document[: max(len(document) - max(D) + d, 0)] for document in documents]
        expected = Counter(reference(shorter, kind, d).values())
        assert dict(zip(rows["occurrences"], rows["types"], strict=True)) == expected, (kind, d)
    shares = pd.read_csv(tmp_path / "counts_by_book.csv")
    assert shares[shares["kind"] == "pair"].groupby("n_or_d")["ngrams"].sum().tolist() == [136 + 1 + 66 + 236] * len(D)


def test_equal_pairs_of_no_distance(tmp_path: Path):
    folder = save(tmp_path / "documents", [[1, 2, 3]], 30)
    line = one_line_error(call_script(SCRIPT, "--documents", folder, "--out", tmp_path / "c.csv", "--equal-pairs"))
    assert "--equal-pairs is about pairs: give their distances with --d" in line
