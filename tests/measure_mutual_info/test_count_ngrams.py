"""Counts of random text equal those of a Counter, however memory, parts and shards divide the work."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from common.resume import Pieces
from measure_mutual_info.counting import windows
from measure_mutual_info.counting.entropy import grassberger_entropy, grassberger_g
from tests.conftest import ROOT, call_script, one_line_error, write_documents

SCRIPT = "measure_mutual_info/count_ngrams.py"
COUNTS = ["source", "tokenizer", "kind", "n_or_d", "occurrences", "types"]
SHARES = ["source", "tokenizer", "kind", "n_or_d", "book", "ngrams", "entropy_nats"]
N, D = (1, 2, 3), (1, 2, 5, 16, 64)
FLAGS = ["--n", *reversed(N), "--d", *reversed(D)]
KINDS = [("ngram", n) for n in N] + [(kind, d) for d in D for kind in ("pair", "left", "right")]


def save(
    folder: Path, documents: list[list[int]], vocab_size: int, books: list[str] | None = None, batch: int = 3
) -> Path:
    """Write a folder of documents in two files, with `batch` documents per batch."""
    write_documents(folder, {}, vocab_size, "org/toy")
    schema = pa.schema({"document": pa.string(), "book": pa.string(), "input_ids": pa.list_(pa.int64())})
    books = books or ["book"] * len(documents)
    rows = [
        {"document": f"{book}#{i:04d}", "book": book, "input_ids": ids}
        for i, (book, ids) in enumerate(zip(books, documents, strict=True))
    ]
    half = -(-len(rows) // 2)
    state = json.loads((folder / "state.json").read_text())
    state["_data_files"] = [{"filename": f"{i}.arrow"} for i in range(2)]
    (folder / "state.json").write_text(json.dumps(state))
    features = datasets.Features.from_arrow_schema(schema).to_dict()
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    for i, part in enumerate((rows[:half], rows[half:])):
        with pa.OSFile(str(folder / f"{i}.arrow"), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
            for first in range(0, len(part), batch):
                writer.write_batch(pa.RecordBatch.from_pylist(part[first : first + batch], schema))
    return folder


def occurring(document: list[int], kind: str, n_or_d: int) -> list[tuple[int, ...]]:
    """All items of a kind in one document, in text order."""
    if kind == "ngram":
        return [tuple(document[i : i + n_or_d]) for i in range(len(document) - n_or_d + 1)]
    pairs = list(zip(document, document[n_or_d:], strict=False))
    return {"pair": pairs, "left": [(a,) for a, _ in pairs], "right": [(b,) for _, b in pairs]}[kind]


def reference(documents: list[list[int]], kind: str, n_or_d: int) -> Counter:
    return Counter(item for document in documents for item in occurring(document, kind, n_or_d))


def share_reference(documents: list[list[int]], labels: list[str], kind: str, n_or_d: int) -> dict:
    """For each label, its number of items and their mean of log N − G(n_y), computed one occurrence at a time."""
    counts, values = reference(documents, kind, n_or_d), {}
    terms = {n: float(np.log(counts.total()) - grassberger_g(n)) for n in set(counts.values())}
    for document, label in zip(documents, labels, strict=True):
        for item in occurring(document, kind, n_or_d):
            values.setdefault(label, []).append(terms[counts[item]])
    return {label: (len(of_label), np.mean(of_label)) for label, of_label in values.items()}


def random_documents(rng: np.random.Generator, vocab_size: int, lengths: list[int]) -> list[list[int]]:
    return [(rng.zipf(1.4, size=n) % vocab_size).tolist() for n in lengths]


def check_counts(out: Path, documents: list[list[int]], kinds: list[tuple[str, int]] = KINDS) -> None:
    """Check that counts.csv is exactly what a Counter gives."""
    table = pd.read_csv(out)
    assert table.columns.tolist() == COUNTS
    assert list(dict.fromkeys(zip(table["kind"], table["n_or_d"], strict=True))) == kinds
    for (kind, n_or_d), rows in table.groupby(["kind", "n_or_d"], sort=False):
        expected = Counter(reference(documents, kind, n_or_d).values())
        assert dict(zip(rows["occurrences"], rows["types"], strict=True)) == expected, (kind, n_or_d)
        assert rows["occurrences"].is_monotonic_increasing


def check_shares(out: Path, documents: list[list[int]], labels: list[str]) -> None:
    """Check counts_by_book.csv against a slow count, and its weighted mean against Grassberger's entropy."""
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


BOOKS = list("aabacbdbbceddd")  # books recur, and "e" has a single token
LENGTHS = [0, 40, 1, 2, 3, 17, 0, 64, 65, 5, 1, 90, 0, 300]


@pytest.mark.parametrize("vocab_size", [50, 2**21, 2**32])
def test_random_documents_equal_a_counter(tmp_path, vocab_size):
    """3-grams of 2^21 ids leave one bit of 64 for the book, which allows two blocks; pairs of 2^32 ids leave none."""
    documents = random_documents(np.random.default_rng(1), 50, LENGTHS)
    documents = [[token * (vocab_size // 50) + vocab_size % 50 for token in document] for document in documents]
    folder = save(tmp_path / "documents", documents, vocab_size, books=BOOKS)
    out, n = tmp_path / "counts.csv", N if vocab_size < 2**32 else (1, 2)
    done = call_script(SCRIPT, "--documents", folder, "--out", out, "--n", *n, "--d", *reversed(D))
    assert done.returncode == 0, done.stderr
    check_counts(out, documents, [kind for kind in KINDS if kind[0] != "ngram" or kind[1] in n])
    shares = pd.read_csv(out.with_name("counts_by_book.csv")).set_index(["kind", "n_or_d"])
    if vocab_size == 50:
        check_shares(out, documents, BOOKS)
    elif vocab_size == 2**21:
        assert shares.loc[("ngram", 3), "book"].tolist() == ["books 0–2", "books 3–4"]
        assert set(shares.loc["pair", "book"]) <= set("abcde")
    else:
        assert shares.loc[("pair", 1), "book"] == "books 0–4"
    assert sorted(path.name for path in tmp_path.glob("counts*")) == [
        f"counts{rest}" for rest in (".csv", ".json", "_by_book.csv", "_by_book.json")
    ]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[Path, Path]:
    """A folder of documents, and its counts from one run in a separate process, with a record beside each CSV."""
    tmp_path = tmp_path_factory.mktemp("corpus")
    lengths = np.random.default_rng(2).integers(0, 400, size=60).tolist()
    documents = random_documents(np.random.default_rng(3), 300, lengths)
    labels = [f"b{i // 4}" for i in range(60)]
    folder = save(tmp_path / "documents", documents, 300, books=labels)
    prepared = json.loads((folder / "prepare.json").read_text()) | {"tokenizer": "/somewhere/else/toy"}
    (folder / "prepare.json").write_text(json.dumps(prepared))
    out = tmp_path / "results" / "counts.csv"
    done = call_script(SCRIPT, "--documents", folder, "--out", out, "--processes", 2, *FLAGS)
    assert done.returncode == 0, done.stderr
    assert f"2-grams: {sum(max(len(ids) - 1, 0) for ids in documents):,} in all" in done.stdout
    check_counts(out, documents)
    check_shares(out, documents, labels)
    for path in (out, out.with_name("counts_by_book.csv")):
        assert set(pd.read_csv(path)["tokenizer"]) == {"toy"}  # the name of the folder, without its path
        assert json.loads(path.with_suffix(".json").read_text())["inputs"]
    return folder, out


def test_shards_in_any_order_give_the_same_bytes(tmp_path, corpus, monkeypatch):
    """The last shard writes the results. A part has about 6,000 keys here, and the first shard has nothing to do."""
    monkeypatch.setattr(windows, "PART_KEYS", 6000)
    folder, expected = corpus
    out = tmp_path / "counts.csv"
    flags = ["--documents", folder, "--out", out, *FLAGS]
    for shard in ("33/34", *(f"{i}/5" for i in reversed(range(5)))):
        assert not out.exists()
        done = call_script(SCRIPT, *flags, "--shard", shard)
        assert done.returncode == 0, done.stderr
        assert (f"shard {shard} is done" in done.stdout) == (shard != "0/5")
    assert both(out) == both(expected)
    assert not (tmp_path / "counts.csv.parts").exists()
    assert "is complete, with these settings" in call_script(SCRIPT, *flags, "--shard", "0/5").stdout
    assert call_script(SCRIPT, *flags[:4], "--n", 1).returncode == 0  # other settings: counted again
    assert len(pd.read_csv(out)) < len(pd.read_csv(expected))


def test_two_shards_that_finish_together(tmp_path, corpus, monkeypatch):
    """Another shard writes the results and removes the parts while this one reads them."""
    folder, expected = corpus
    out, read = tmp_path / "counts.csv", Pieces.read
    flags = ["--documents", folder, "--out", out, *FLAGS]

    def overtaken(pieces: Pieces, *given: object) -> dict:
        monkeypatch.setattr(Pieces, "read", read)
        assert call_script(SCRIPT, *flags).returncode == 0
        return pieces.read(*given)

    monkeypatch.setattr(Pieces, "read", overtaken)
    done = call_script(SCRIPT, *flags)
    assert (done.returncode, "counts.csv was written by another shard" in done.stdout) == (0, True)
    assert both(out) == both(expected)
    prepared = folder / "prepare.json"  # prepared again: other seconds, the same documents
    before = prepared.read_text(encoding="utf-8")
    prepared.write_text(json.dumps(json.loads(before) | {"seconds": 1.5}), encoding="utf-8")
    assert "is complete, with these settings" in call_script(SCRIPT, *flags).stdout
    prepared.write_text(before, encoding="utf-8")


def test_another_run_is_not_mixed_in(tmp_path, corpus):
    """Other settings are refused, and so is a piece with the right name but other counts."""
    flags = ["--documents", corpus[0], "--out", tmp_path / "counts.csv", "--d"]
    assert call_script(SCRIPT, *flags, 4, "--shard", "0/2").returncode == 0
    assert "(d [4] there, [8] here)" in one_line_error(call_script(SCRIPT, *flags, 8, "--shard", "0/2"))
    piece = tmp_path / "counts.csv.parts" / "left-4.000-of-001.npz"
    np.savez(piece, occurrences=np.array([1]), of_block=np.ones((1, 15), np.int64))
    assert "is damaged, not all pairs at distance 4 are there" in one_line_error(call_script(SCRIPT, *flags, 4))


def test_many_books_are_taken_in_blocks(tmp_path):
    """At most 128 rows: with more books, several consecutive ones share a row, and the rows still add up."""
    documents = random_documents(np.random.default_rng(9), 40, [20] * 300)
    folder = save(tmp_path / "documents", documents, 40, books=[f"b{i}" for i in range(300)], batch=50)
    out = tmp_path / "counts.csv"
    assert call_script(SCRIPT, "--documents", folder, "--out", out, "--d", 3).returncode == 0
    starts = [i for i in range(300) if i == 0 or i * 128 // 300 != (i - 1) * 128 // 300]
    ends = [*(start - 1 for start in starts[1:]), 299]
    labels = [f"books {first}–{last}" for first, last in zip(starts, ends, strict=True) for _ in range(first, last + 1)]
    assert len(set(labels)) == 128
    check_shares(out, documents, labels)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read the peak memory from")
def test_memory_stays_under_the_limit(tmp_path):
    """Peak memory with 16 million tokens: their keys alone take 128 MB, and only 24 MB are left for sorting."""
    rng = np.random.default_rng(0)
    tokens = (100_000 * rng.random(16_000_000, np.float32) ** 4).astype(np.int32)
    folder = save(tmp_path / "documents", [], 100_000)
    schema = pa.ipc.open_stream((folder / "1.arrow").read_bytes()).schema
    with pa.OSFile(str(folder / "0.arrow"), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for i, part in enumerate(np.split(tokens, 64)):
            ids = pa.ListArray.from_arrays(pa.array([0, len(part)], pa.int32()), pa.array(part.astype(np.int64)))
            writer.write_batch(pa.record_batch([pa.array([f"{i}"]), pa.array([f"{i}"]), ids], schema=schema))
    measured = """if 1:
        import pathlib, runpy, sys
        sys.argv = sys.argv[1:]
        runpy.run_path(sys.argv[0], run_name="__main__")
        print(pathlib.Path("/proc/self/status").read_text())
    """
    peaks = {}
    for limit in (0.28, 2.0):
        flags = ["--documents", folder, "--out", tmp_path / f"{limit}.csv", "--n", "--d", 7, "--memory-gb", limit]
        done = subprocess.run(
            [sys.executable, "-c", measured, ROOT / SCRIPT, *map(str, flags)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        peaks[limit] = 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", done.stdout)[1])
    assert peaks[0.28] < 0.26e9 < 0.3e9 < peaks[2.0] < 2.0e9, peaks
    assert both(tmp_path / "0.28.csv") == both(tmp_path / "2.0.csv")


@pytest.mark.parametrize(
    ("documents", "vocab_size", "flags", "message"),
    [
        ([[1, 2]], 128_256, ["--n", 4], "4-grams of 128256 tokens do not fit a 64-bit key: give a smaller --n"),
        ([[1, 2]], 10, ["--n"], "nothing to count: give lengths with --n or distances with --d"),
        ([[1, 2], [1, 2, 3]], 10, ["--d", 1, 3], "no document has pairs at distance 3"),
        ([[-1, 2]], 10, [], "token id -1, outside the vocabulary of 10"),
        ([[1, 2]], 10, ["--processes", 4, "--memory-gb", 1], "--memory-gb 1 is too small: give 1.3 or fewer"),
        ([], 10, [], "no documents in"),
    ],
)
def test_bad_settings(tmp_path, documents, vocab_size, flags, message):
    folder = save(tmp_path / "documents", documents, vocab_size)
    flags = ["--documents", folder, "--out", tmp_path / "counts.csv", *flags]
    assert message in one_line_error(call_script(SCRIPT, *flags))
    assert [path.name for path in tmp_path.iterdir()] == ["documents"]


def test_equal_pairs(tmp_path: Path):
    """All distances use the left tokens with a partner at d = 64, as if documents ended 64 − d tokens earlier."""
    rng = np.random.default_rng(2)
    documents = random_documents(rng, 30, [200, 64, 65, 1, 130, 300])
    folder, out = save(tmp_path / "documents", documents, 30), tmp_path / "counts.csv"
    call_script(SCRIPT, "--documents", folder, "--out", out, "--n", 1, "--d", *D, "--equal-pairs")
    counts = pd.read_csv(out)
    pairs = {(kind, d): rows for (kind, d), rows in counts[counts["kind"] != "ngram"].groupby(["kind", "n_or_d"])}
    assert len(pairs) == 3 * len(D)
    for (kind, d), rows in pairs.items():
        shorter = [document[: max(len(document) - max(D) + d, 0)] for document in documents]
        expected = Counter(reference(shorter, kind, d).values())
        assert dict(zip(rows["occurrences"], rows["types"], strict=True)) == expected, (kind, d)
    shares = pd.read_csv(tmp_path / "counts_by_book.csv")
    assert shares[shares["kind"] == "pair"].groupby("n_or_d")["ngrams"].sum().tolist() == [136 + 1 + 66 + 236] * len(D)
