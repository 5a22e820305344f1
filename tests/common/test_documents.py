"""Folders of documents: what is read from a good one, and the error message for each bad one."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets

from common.cli import UserError
from common.documents import content_hash, document_lengths, first_of_equal, open_documents
from tests.conftest import write_documents

BOOKS = {"one": [[1, 2, 3], [4]], "two": [[5, 6]]}


@pytest.fixture
def folder(tmp_path):
    return write_documents(tmp_path / "documents", BOOKS, 10)


def test_good_folder(folder):
    documents, facts = open_documents(folder)
    assert documents["book"] == ["one", "one", "two"]
    assert documents["input_ids"] == [[1, 2, 3], [4], [5, 6]]
    assert facts["tokenizer_vocab_size"] == 10
    assert facts == json.loads((folder / "prepare.json").read_text(encoding="utf-8"))


def test_hash_of_the_documents_alone(folder, tmp_path):
    before = content_hash(folder)
    (folder / "prepare.json").write_text('{"seconds": 3.2}', encoding="utf-8")
    assert content_hash(folder) == before
    assert content_hash(write_documents(tmp_path / "other", BOOKS | {"two": [[5, 7]]}, 10)) != before


def test_lengths_of_several_chunks(folder):
    documents, _ = open_documents(folder)
    assert document_lengths(documents).tolist() == [3, 1, 2]
    many = Dataset.from_dict({"input_ids": [[0] * n for n in range(50)]})
    halves = many.select(range(20)), many.select(range(20, 50))
    np.testing.assert_array_equal(document_lengths(concatenate_datasets(halves)), np.arange(50))


def test_first_of_equal():
    """Against a comparison of all pairs, for documents of 1 to 80 tokens in several chunks, many of them equal."""
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 9, 80) for _ in range(4)]
    rows = [texts[rng.integers(4)][: rng.choice([1, 31, 32, 40, 60, 80])].tolist() for _ in range(60)]
    for i in range(0, 60, 7):
        rows[i][-1] += 1
    parts = [Dataset.from_dict({"input_ids": rows[i:j]}) for i, j in ((0, 1), (1, 25), (25, 60))]
    documents = concatenate_datasets(parts)
    assert len(documents.data.column("input_ids").chunks) == 3
    for tokens in (1, 40, 60, 1000):
        cut = [row[: max(tokens, 32)] for row in rows]
        wanted = [cut.index(one) if len(one) >= 32 else i for i, one in enumerate(cut)]
        assert first_of_equal(documents, tokens).tolist() == wanted
        assert 0 < sum(i != first for i, first in enumerate(wanted)) < 55


def rewritten(folder, data) -> None:
    """Replace the documents in the folder by those of `data`."""
    facts = (folder / "prepare.json").read_text(encoding="utf-8")
    shutil.rmtree(folder)
    data.save_to_disk(str(folder))
    (folder / "prepare.json").write_text(facts, encoding="utf-8")


def names_damaged(folder) -> None:
    (file,) = folder.glob("*.arrow")
    data = file.read_bytes()
    assert data.count(b"oneonetwo") == 1
    file.write_bytes(data.replace(b"oneonetwo", b"one\xffnetwo"))  # no longer UTF-8


DAMAGES = {  # start of the message → how to damage the folder
    "no folder {folder}: ": shutil.rmtree,
    "no prepare.json in {folder}: ": lambda folder: (folder / "prepare.json").unlink(),
    "no documents in {folder}: ": lambda folder: rewritten(folder, Dataset.from_dict({"input_ids": []})),
    "cannot read the documents in {folder} (Expecting": lambda folder: (folder / "prepare.json").write_text("{"),
    "{folder} lacks source, tokenizer: ": lambda folder: (folder / "prepare.json").write_text(
        '{"tokenizer_vocab_size": 10}'
    ),
    "{folder} lacks book: ": lambda folder: rewritten(
        folder, Dataset.from_dict({"document": ["a"], "input_ids": [[1]]})
    ),
    "cannot read the documents in {folder} (Column 1: In chunk 0: Invalid: Invalid UTF8 sequence": names_damaged,
}


@pytest.mark.parametrize("said", DAMAGES)
def test_bad_folder(folder, said):
    DAMAGES[said](folder)
    with pytest.raises(UserError) as caught:
        open_documents(folder)
    assert str(caught.value).startswith(said.format(folder=folder))
    assert str(caught.value).endswith("give a folder written by prepare_dataset.py")
