"""Sequences against the documents that they come from, the split by book, and folders that are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_documents

from common.cli import UserError
from train_on_pg19.training.books import (
    Choice,
    Sequences,
    book_of_each,
    drawn,
    held_out_books,
    open_books,
    split,
)

L = 16


def library(folder: Path, books: int = 20, documents: int = 3, vocabulary: int = 256) -> Path:
    """Books of random documents of L to 2 L tokens."""
    random = np.random.default_rng(0)
    ids = {
        f"book {book}": [random.integers(0, vocabulary, random.integers(L, 2 * L)).tolist() for _ in range(documents)]
        for book in range(books)
    }
    return write_documents(folder, ids, vocabulary)


def sequences(folder: Path, **changes) -> Sequences:
    documents, facts = open_books(folder, L)
    settings = {"vocabulary": facts["tokenizer_vocab_size"], "start": 256, "rows": np.arange(len(documents))}
    return Sequences(documents, L=L, **{**settings, **changes})


def test_a_sequence_is_the_first_tokens_behind_a_start_token(tmp_path):
    folder = library(tmp_path / "books")
    found = sequences(folder)
    documents, _ = open_books(folder, L)
    assert len(found) == 60
    for i in range(60):
        tokens = documents[i]["input_ids"][:L]  # L tokens: no padding
        assert found[i]["targets"].tolist() == tokens
        assert found[i]["input_ids"].tolist() == [256, *tokens[:-1]]
        assert {values.dtype for values in found[i].values()} == {torch.int64}
    some = sequences(folder, rows=np.array([41, 2]))
    assert [some[i]["targets"].tolist() for i in (0, 1)] == [found[i]["targets"].tolist() for i in (41, 2)]


def equal_pairs(documents, some: np.ndarray, others: np.ndarray, length: int) -> list[tuple[int, int]]:
    ids = documents["input_ids"]
    return [(i, j) for i in some.tolist() for j in others.tolist() if i != j and ids[i][:length] == ids[j][:length]]


def copies(folder: Path) -> Path:
    """Twelve books of two documents of 60 tokens: four books are equal, two others share 40 tokens of one document."""
    random = np.random.default_rng(0)
    ids = {f"book {i}": [random.integers(0, 256, 60).tolist() for _ in range(2)] for i in range(12)}
    for i in (5, 8, 11):
        ids[f"book {i}"] = ids["book 2"]
    ids["book 9"][0][:40] = ids["book 0"][1][:40]
    return write_documents(folder, ids)


@pytest.mark.parametrize(("length", "left_out"), [(60, 6), (40, 7), (16, 7)])
def test_no_document_repeats_another_of_either_part(tmp_path, length, left_out):
    documents, _ = open_books(copies(tmp_path / "books"), length)
    kept = []
    for seed in range(20):
        held_out = held_out_books(documents, 0.4, seed)
        training, evaluation = split(documents, held_out, length)
        assert len(training) + len(evaluation) == 24 - left_out
        both = np.concatenate([training, evaluation])
        assert not equal_pairs(documents, both, both, max(length, 32))
        assert set(book_of_each(documents)[evaluation]) <= set(held_out)
        of_copies = {"book 2", "book 5", "book 8", "book 11"}
        kept.append(bool(of_copies & set(book_of_each(documents)[evaluation])))
        assert kept[-1] == (of_copies <= set(held_out))  # if one copy is trained on, none is held out
        assert training.tolist() == sorted(training)
        assert evaluation.tolist() == sorted(evaluation)


def test_held_out_books_that_are_copies_are_refused(tmp_path):
    documents, _ = open_books(copies(tmp_path / "books"), L)
    with pytest.raises(UserError, match="all 4 documents of the held-out books repeat documents of others: hold out"):
        split(documents, ["book 2", "book 8"], L)


def test_the_split_follows_from_seed_and_names(tmp_path):
    documents, _ = open_books(library(tmp_path / "one"), L)
    again, _ = open_books(library(tmp_path / "two", documents=1), L)
    assert held_out_books(documents, 0.25, 0) == held_out_books(again, 0.25, 0)
    assert held_out_books(documents.select(range(59, -1, -1)).flatten_indices(), 0.25, 0) == held_out_books(
        documents, 0.25, 0
    )
    choices = [tuple(held_out_books(documents, 0.25, seed)) for seed in range(20)]
    assert len(set(choices)) > 15
    assert {name for choice in choices for name in choice} == {f"book {i}" for i in range(20)}
    assert set(held_out_books(documents, 0.1, 0)) < set(held_out_books(documents, 0.5, 0))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_split_without_a_book_in_one_part_is_refused(tmp_path, share):
    documents, _ = open_books(library(tmp_path / "books", documents=1), L)
    with pytest.raises(UserError, match=rf"--held-out {share} of 20 books holds out {20 * share:.0f}"):
        held_out_books(documents, share, 0)


def test_the_documents_that_are_drawn(tmp_path):
    documents, _ = open_books(library(tmp_path / "books"), L)
    rows = np.arange(7, 60)

    def of(**choice) -> np.ndarray:
        found = drawn(documents, rows, Choice(**choice))
        assert set(found.tolist()) <= set(rows.tolist())
        assert (np.diff(found) > 0).all()
        return found

    names = book_of_each(documents)
    assert of().tolist() == rows.tolist()
    assert set(names[of(books=("book 1*", "book 7"))]) == {"book 7", *(f"book {i}" for i in range(10, 20))}
    assert np.unique(names[of(max_documents_per_book=2)], return_counts=True)[1].tolist() == [2] * 18
    some = of(max_documents_per_book=2)
    assert of(max_documents_per_book=2, books=("book 7",)).tolist() == some[names[some] == "book 7"].tolist()
    assert len(of(n_documents=5)) == len(of(n_documents=5, max_documents_per_book=1)) == 5
    assert len({tuple(of(max_documents_per_book=2, seed=seed)) for seed in range(5)}) == 5
    assert of(n_documents=5).tolist() == of(n_documents=5).tolist()
    with pytest.raises(UserError, match="--books book 0: none of 18 books, the first of which is book 10"):
        of(books=("book 0",))


def test_documents_shorter_than_the_length_are_refused(tmp_path):
    ids = {"long": [[1] * 20, [2] * 30], "short": [[3] * 15, [4] * 12, [5] * 16]}
    folder = write_documents(tmp_path / "books", ids)
    with pytest.raises(UserError, match="2 of 5 documents have fewer than L = 16 tokens, the shortest 12"):
        open_books(folder, L)
    assert len(open_books(folder, 12)[0]) == 5


def test_ids_that_the_tokenizer_lacks_are_refused(tmp_path):
    folder = write_documents(tmp_path / "books", {"one": [[1] * L, [*[1] * 7, 256, *[1] * 20]], "two": [[1] * L]})
    found = sequences(folder)
    found[0]
    with pytest.raises(UserError, match="document one#0001 holds the id 256, but its tokenizer has 256: prepare"):
        found[1]
