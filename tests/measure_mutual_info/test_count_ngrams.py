"""Counts equal to a Counter's, on random and on real text, however the documents are cut into chunks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from measure_mutual_info import count_ngrams
from measure_mutual_info.count_ngrams import SortedCounts, counts_of_counts, entropy_by_unit, ngram_keys, units
from measure_mutual_info.documents import open_documents
from measure_mutual_info.entropy import grassberger_entropy, grassberger_g

SCRIPT = Path(count_ngrams.__file__)


def save(
    folder: Path, documents: list[list[int]], vocab_size: int, tokenizer: str = "toy", books: list[str] | None = None
) -> Path:
    columns = {
        "document": [f"book#{i:04d}" for i in range(len(documents))],
        "book": books or ["book"] * len(documents),
        "input_ids": documents,
    }
    Dataset.from_dict(columns).save_to_disk(str(folder))
    prepared = {"source": "test", "tokenizer": tokenizer, "tokenizer_vocab_size": vocab_size}
    (folder / "prepare.json").write_text(json.dumps(prepared))
    return folder


def reference(documents: list[list[int]], n: int) -> Counter:
    return Counter(tuple(d[i : i + n]) for d in documents for i in range(len(d) - n + 1))


def random_documents(rng: np.random.Generator, vocab_size: int, lengths: list[int]) -> list[list[int]]:
    return [(rng.zipf(1.4, size=n) % vocab_size).tolist() for n in lengths]


def real_documents() -> tuple[list[list[int]], int]:
    """English text that comes with Python, a document a topic, a number a word."""
    words = [re.findall(r"\w+|[^\w\s]", text) for text in topics.values()]
    number = {word: i for i, word in enumerate(sorted({word for document in words for word in document}))}
    return [[number[word] for word in document] for document in words], len(number)


def unpack(keys: np.ndarray, n: int, vocab_size: int) -> list[tuple[int, ...]]:
    return [tuple(int(key) // vocab_size**i % vocab_size for i in reversed(range(n))) for key in keys]


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True)


def test_keys_stay_inside_documents():
    tokens, ends = np.array([1, 2, 3, 4, 5, 6]), np.array([3, 4, 6])
    assert ngram_keys(tokens, ends, 2, 10).tolist() == [12, 23, 56]
    assert ngram_keys(tokens, ends, 3, 10).tolist() == [123]
    assert ngram_keys(tokens, ends, 4, 10).tolist() == []
    assert ngram_keys(tokens[:1], np.array([1]), 2, 10).tolist() == []


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("chunk_tokens", [1, 7, 64, 1 << 24])
def test_random_documents_equal_a_counter(tmp_path, n, chunk_tokens, monkeypatch):
    monkeypatch.setattr(count_ngrams, "DOCUMENTS_PER_READ", 3)
    rng = np.random.default_rng(n)
    documents = random_documents(rng, 50, [0, 40, 1, 2, 3, 17, 0, 64, 65, 5, 1, 90])
    folder = save(tmp_path / "documents", documents, 50)
    table, _ = open_documents(folder)
    keys, counts = count_ngrams.count_ngrams(table, n, 50, chunk_tokens)
    assert dict(zip(unpack(keys, n, 50), counts.tolist(), strict=True)) == reference(documents, n)
    assert (np.diff(keys.astype(object)) > 0).all()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_real_text_equals_a_counter(tmp_path, n):
    documents, vocab_size = real_documents()
    assert sum(map(len, documents)) > 50_000
    folder = save(tmp_path / "documents", documents, vocab_size)
    keys, counts = count_ngrams.count_ngrams(open_documents(folder)[0], n, vocab_size, 5000)
    assert dict(zip(unpack(keys, n, vocab_size), counts.tolist(), strict=True)) == reference(documents, n)


def share_reference(documents: list[list[int]], labels: list[str], n: int) -> dict[str, tuple[int, float]]:
    """Of each label its n-grams and their mean of log N − G(n_y), an n-gram at a time."""
    counts, values = reference(documents, n), {}
    for document, label in zip(documents, labels, strict=True):
        for i in range(len(document) - n + 1):
            surprise = np.log(counts.total()) - grassberger_g(counts[tuple(document[i : i + n])])
            values.setdefault(label, []).append(float(surprise))
    return {label: (len(of_label), np.mean(of_label)) for label, of_label in values.items()}


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("chunk_tokens", [1, 7, 64, 1 << 24])
@pytest.mark.parametrize("vocab_size", [50, 2**21])  # 2^21 cubed leaves a bit of the key, so two books at a time
def test_shares_of_books_equal_a_slow_count(tmp_path, n, chunk_tokens, vocab_size, monkeypatch):
    monkeypatch.setattr(count_ngrams, "DOCUMENTS_PER_READ", 6)
    documents = random_documents(np.random.default_rng(n), 50, [0, 40, 1, 2, 3, 17, 0, 64, 65, 5, 1, 90, 0])
    documents = [[token * (vocab_size // 50) for token in document] for document in documents]
    books = list("aabacbdbbceda")  # they come again, and "e" has one token
    folder = save(tmp_path / "documents", documents, vocab_size, books=books)
    table, _ = open_documents(folder)
    keys, counts = count_ngrams.count_ngrams(table, n, vocab_size, chunk_tokens)
    unit, names = units(table)
    ngrams, entropy = entropy_by_unit(table, unit, keys, counts, n, vocab_size, chunk_tokens)
    expected = share_reference(documents, books, n)
    assert names.tolist() == list("abcde")
    for name, found_ngrams, found_entropy in zip(names, ngrams, entropy, strict=True):
        if name in expected:
            assert (found_ngrams, found_entropy) == pytest.approx(expected[name], abs=1e-12)
        else:
            assert found_ngrams == 0
            assert np.isnan(found_entropy)
    whole = np.nansum(ngrams * entropy) / ngrams.sum()
    assert whole == pytest.approx(grassberger_entropy(*counts_of_counts(counts)), abs=1e-12)


def test_bootstrap_over_books():
    """Shares of books drawn with replacement: the spread of a recount, without its bias, and that of fresh corpora.

    60 books of about 1,000 tokens of Zipf's law, in each some words more frequent than elsewhere. A recount of drawn
    books takes the 2-grams of a book drawn twice for frequent ones, so it lies low.
    """
    rng = np.random.default_rng(0)
    books, vocab_size = 60, 100

    def corpus() -> Dataset:
        zipf = 1 / (np.arange(vocab_size) + 2.7)
        ids = []
        for _ in range(books):
            p = zipf * np.exp(0.5 * rng.standard_normal(vocab_size))
            ids.append(rng.choice(vocab_size, size=rng.integers(500, 1500), p=p / p.sum()).astype(np.int32))
        names = [f"book{i}" for i in range(books)]
        return Dataset.from_dict({"document": names, "book": names, "input_ids": ids})

    def shares(documents: Dataset) -> tuple[float, np.ndarray, np.ndarray]:
        keys, counts = count_ngrams.count_ngrams(documents, 2, vocab_size, 1 << 24)
        unit, _ = units(documents)
        ngrams, entropy = entropy_by_unit(documents, unit, keys, counts, 2, vocab_size, 1 << 24)
        return grassberger_entropy(*counts_of_counts(counts)), ngrams, entropy

    documents = corpus()
    entropy, ngrams, of_book = shares(documents)
    drawn = rng.multinomial(books, np.full(books, 1 / books), size=400)
    first_order = drawn @ (ngrams * of_book) / (drawn @ ngrams)

    pairs = [np.asarray(ids[:-1]) * vocab_size + ids[1:] for ids in documents.with_format("numpy")["input_ids"]]
    counts_of_book = np.array([np.bincount(of, minlength=vocab_size**2) for of in pairs])
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
    """Two tokens of a vocabulary of 2^32 fill the key to its last bit."""
    documents = [[2**31 - 1, 2**31 - 1, 0, 2**31 - 1, 2**31 - 1]]
    folder = save(tmp_path / "documents", documents, 2**32)
    keys, counts = count_ngrams.count_ngrams(open_documents(folder)[0], 2, 2**32, 100)
    assert dict(zip(unpack(keys, 2, 2**32), counts.tolist(), strict=True)) == reference(documents, 2)
    tokens = np.array([2**32 - 1, 2**32 - 1])
    assert ngram_keys(tokens, np.array([2]), 2, 2**32).tolist() == [2**64 - 1]


def test_merged_runs_hold_no_more_than_twice_the_distinct_keys():
    rng = np.random.default_rng(0)
    counts, added = SortedCounts(), Counter()
    for _ in range(200):
        keys = rng.integers(2000, size=rng.integers(0, 100), dtype=np.uint64)
        added.update(keys.tolist())
        counts.add(keys)
        assert sum(len(run) for run, _ in counts._runs) <= 2 * len(added) + 100
    keys, numbers = counts.merged()
    assert dict(zip(keys.tolist(), numbers.tolist(), strict=True)) == added


def test_nothing_counted():
    keys, counts = SortedCounts().merged()
    assert len(keys) == len(counts) == 0


def test_command_line(tmp_path):
    documents = random_documents(np.random.default_rng(5), 300, [200, 1, 500, 33])
    folder = save(tmp_path / "documents", documents, 300, tokenizer="/somewhere/else/toy")
    out = tmp_path / "results" / "counts.csv"
    done = run("--documents", folder, "--out", out, "--n", 2, 1, 3)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(out)
    assert table.columns.tolist() == ["source", "tokenizer", "kind", "n_or_d", "occurrences", "types"]
    assert set(table["source"]) == {"test"}
    assert set(table["tokenizer"]) == {"toy"}  # a folder's name, not where it lay
    assert set(table["kind"]) == {"ngram"}
    for n in (1, 2, 3):
        rows = table[table["n_or_d"] == n]
        expected = Counter(reference(documents, n).values())
        assert dict(zip(rows["occurrences"], rows["types"], strict=True)) == expected
    by_book = out.with_name("counts_by_book.csv")
    for path in (out, by_book):
        record = json.loads(path.with_suffix(".json").read_text())
        assert record["settings"]["n"] == [2, 1, 3]
        assert record["inputs"]


@pytest.mark.parametrize("books", [["a", "b", "a", "c"], ["a", "a", "a", "a"]])
def test_shares_through_the_command_line(tmp_path, books):
    """By book; by document where there is one book only. The one document without a pair has no row there."""
    documents = random_documents(np.random.default_rng(5), 300, [200, 33, 500, 1])
    folder = save(tmp_path / "documents", documents, 300, books=books)
    assert run("--documents", folder, "--out", tmp_path / "mine.csv").returncode == 0
    counts, shares = pd.read_csv(tmp_path / "mine.csv"), pd.read_csv(tmp_path / "mine_by_book.csv")
    assert shares.columns.tolist() == ["source", "tokenizer", "kind", "n_or_d", "book", "ngrams", "entropy_nats"]
    assert shares[["source", "tokenizer"]].drop_duplicates().to_numpy().tolist() == [["test", "toy"]]
    labels = books if len(set(books)) > 1 else [f"book#{i:04d}" for i in range(4)]
    for n in (1, 2):
        rows = shares[(shares["kind"] == "ngram") & (shares["n_or_d"] == n)]
        expected = share_reference(documents, labels, n)
        assert rows["book"].tolist() == list(expected)
        assert rows["ngrams"].tolist() == [ngrams for ngrams, _ in expected.values()]
        assert rows["entropy_nats"].tolist() == pytest.approx([entropy for _, entropy in expected.values()], abs=1e-12)
        whole = np.average(rows["entropy_nats"], weights=rows["ngrams"])
        of_n = counts[counts["n_or_d"] == n]
        assert whole == pytest.approx(grassberger_entropy(of_n["occurrences"], of_n["types"]), abs=1e-10)


def test_default_is_single_tokens_and_pairs(tmp_path):
    folder = save(tmp_path / "documents", [[1, 2, 1, 2]], 3, tokenizer="org/toy")
    assert run("--documents", folder, "--out", tmp_path / "counts.csv").returncode == 0
    table = pd.read_csv(tmp_path / "counts.csv")
    assert table[["n_or_d", "occurrences", "types"]].to_numpy().tolist() == [[1, 2, 2], [2, 1, 1], [2, 2, 1]]
    assert set(table["tokenizer"]) == {"org/toy"}


def test_counts_of_counts():
    occurrences, types = counts_of_counts(np.array([1, 3, 1, 1, 7]))
    assert occurrences.tolist() == [1, 3, 7]
    assert types.tolist() == [3, 1, 1]


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
def test_spoilt_folder(tmp_path, spoil, message):
    folder = save(tmp_path / "documents", [[1, 2, 9, 2]], 10)
    spoil(folder)
    refused(run("--documents", folder, "--out", tmp_path / "counts.csv"), message)
    assert not (tmp_path / "counts.csv").exists()


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
        ([[1, 2]], 10, ["--n", 0], "--n 0: give one or more lengths"),
        ([[1, 2]], 10, ["--n", 3], "has 3 tokens: no 3-gram to count"),
        ([[-1, 2]], 10, [], "token id -1, outside the vocabulary of 10"),
        ([[1, 2]], 10, ["--chunk-tokens", 0], "--chunk-tokens 0"),
        ([], 10, [], "no documents in"),
    ],
)
def test_bad_settings(tmp_path, documents, vocab_size, flags, message):
    folder = save(tmp_path / "documents", documents, vocab_size)
    refused(run("--documents", folder, "--out", tmp_path / "counts.csv", *flags), message)


def test_bad_names(tmp_path):
    refused(run("--documents", tmp_path / "nowhere", "--out", tmp_path / "counts.csv"), "no folder")
    refused(run("--documents", tmp_path, "--out", tmp_path / "counts"), "give the name of a .csv file")


def refused(done: subprocess.CompletedProcess, message: str) -> None:
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in done.stderr
