from __future__ import annotations

import hashlib
import json
import shutil

import datasets
import numpy as np
import pandas as pd
import pytest
import torch

from common import pretrained
from common.resume import Pieces
from measure_mutual_info import score_documents
from measure_mutual_info.scoring import passes
from measure_mutual_info.scoring.tables import BYTES
from tests.conftest import call_script, one_line_error, tiny_model, write_documents
from tests.measure_mutual_info.scoring.test_backend_transformers import BOS, slow_reference

SCRIPT = "measure_mutual_info/score_documents.py"
LOGQ = [f"{name}_nats" for name in passes.TERMS]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Eleven documents of 64 to 80 random bytes from three books, and a tiny Llama without a tokenizer."""
    folder = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(0)
    books = {
        book: [rng.integers(0, 255, 64 + 4 * i).tolist() for i in range(count)]
        for book, count in (("a", 5), ("b", 4), ("c", 2))
    }
    write_documents(folder / "documents", books)
    tiny_model("llama").save_pretrained(folder / "model")
    return folder


def arguments(inputs, out, **changes) -> list[str]:
    settings = {
        "documents": inputs / "documents",
        "model": inputs / "model",
        "out": out,
        "L-max": 64,
        "bos": BOS,
        "batch-tokens": 128,
        **changes,
    }
    return [str(part) for name, value in settings.items() for part in (f"--{name}", value)]


@pytest.fixture(scope="module")
def uninterrupted(inputs, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "scores.csv"
    done = call_script(SCRIPT, *arguments(inputs, out))
    assert done.returncode == 0, done.stderr
    return out


def test_the_csv_holds_what_a_slow_reference_gives(inputs, uninterrupted):
    table = pd.read_csv(uninterrupted)
    assert list(table.columns) == ["document", "book", "ell_tokens", "L_tokens", BYTES, *LOGQ, "x_donor"]
    assert table[BYTES].isna().all(), "the model has no tokenizer"
    points = passes.grid(64)
    assert len(table) == 11 * len(points)
    documents = {row["document"]: row["input_ids"] for row in datasets.load_from_disk(str(inputs / "documents"))}
    model = tiny_model("llama")
    for row in table[table["L_tokens"].isin([8, 64])].itertuples():
        mine, other = np.array(documents[row.document]), np.array(documents[row.x_donor])
        wanted = slow_reference(model, mine, mine, row.ell_tokens, row.L_tokens)
        behind_other = slow_reference(model, other, mine, row.ell_tokens, row.L_tokens)  # Y after X'
        wanted["logq_y_given_other_x"] = behind_other["logq_y_given_other_x"]
        for name, value in wanted.items():
            assert getattr(row, f"{name}_nats") == pytest.approx(value, abs=1e-4 * (row.L_tokens - row.ell_tokens))
    assert (table["book"] != table["x_donor"].str.split("#").str[0]).all(), "an x_donor is from another book"


def test_a_finished_run_has_its_record_and_is_used_again(inputs, uninterrupted):
    facts = json.loads(uninterrupted.with_suffix(".json").read_text())
    assert (facts["source"], facts["start_token"], facts["failed_documents"]) == ("toy", "?", 0)
    assert (facts["settings"]["L_max"], facts["settings"]["model"]) == (64, "model")
    assert (facts["identity"]["bos"], facts["identity"]["ell_max"], facts["identity"]["model"]) == (BOS, 32, "model")
    assert len(facts["inputs"]["documents"]) == 64
    assert not uninterrupted.with_name("scores.csv.parts").exists(), "nothing is left behind"
    before = uninterrupted.read_bytes(), uninterrupted.stat().st_mtime_ns
    assert "complete already" in call_script(SCRIPT, *arguments(inputs, uninterrupted, device="cpu")).stdout
    rounded = call_script(SCRIPT, *arguments(inputs, uninterrupted.with_name("other.csv"), **{"L-max": 9})).stdout
    assert "the longest L is 8, the largest of the grid up to --L-max 9" in rounded
    said = one_line_error(call_script(SCRIPT, *arguments(inputs, uninterrupted, seed=7)))
    assert "scores.csv was made with other settings (" in said
    assert "seed 0 there, 7 here" in said
    assert (uninterrupted.read_bytes(), uninterrupted.stat().st_mtime_ns) == before


def test_the_identity_has_the_dtype_that_auto_means(inputs, tmp_path, monkeypatch):
    """Where auto means another dtype, an unfinished run is not continued, but finished scores are used."""
    out, auto = tmp_path / "scores.csv", {"L-max": 8, "dtype": "auto", "device": "cpu"}

    def processor(able: bool) -> None:
        monkeypatch.setattr(pretrained, "_product_seconds", lambda dtype: 1 + able * (dtype == torch.float32))

    processor(True)
    assert "computing in bfloat16" in call_script(SCRIPT, *arguments(inputs, out, **auto)).stdout
    facts = json.loads(out.with_suffix(".json").read_text())
    assert facts["identity"]["dtype"] == facts["settings"]["dtype"] == "bfloat16"
    assert "complete already" in call_script(SCRIPT, *arguments(inputs, out, **auto | {"dtype": "bfloat16"})).stdout
    half, auto_half = tmp_path / "half.csv", auto | {"batch-tokens": 32}
    call_script(SCRIPT, *arguments(inputs, half, **auto_half, shard="0/2"))
    processor(False)
    assert "complete already" in call_script(SCRIPT, *arguments(inputs, out, **auto)).stdout
    said = one_line_error(call_script(SCRIPT, *arguments(inputs, half, **auto_half, shard="1/2")))
    assert '(dtype "bfloat16" there, "float32" here' in said


def test_two_shards_that_finish_together(inputs, uninterrupted, tmp_path, monkeypatch):
    """Another shard writes the scores and removes the groups while this one reads them."""
    out, read = tmp_path / "scores.csv", Pieces.read
    call_script(SCRIPT, *arguments(inputs, out, shard="0/2"))

    def overtaken(pieces: Pieces, *given: object) -> dict:
        monkeypatch.setattr(Pieces, "read", read)
        assert call_script(SCRIPT, *arguments(inputs, out)).returncode == 0
        return pieces.read(*given)

    monkeypatch.setattr(Pieces, "read", overtaken)
    done = call_script(SCRIPT, *arguments(inputs, out, shard="1/2"))
    assert (done.returncode, "scores.csv was written by another shard" in done.stdout) == (0, True)
    assert out.read_bytes() == uninterrupted.read_bytes()


def test_shards_share_a_run_and_the_last_step_can_be_killed(inputs, uninterrupted, tmp_path):
    """Each group is scored only once, and parts scored by another model are refused."""
    out = tmp_path / "scores.csv"
    call_script(SCRIPT, *arguments(inputs, out, shard="0/2"))
    parts = tmp_path / "scores.csv.parts"
    before = {path.name: path.stat().st_mtime_ns for path in parts.glob("0*.npz")}
    assert sorted(before) == ["000000.npz", "000002.npz", "000004.npz"]
    shown = call_script(SCRIPT, *arguments(inputs, out, shard="0/2")).stdout
    assert "3 groups of the other shards are still missing" in shown
    assert {path.name: path.stat().st_mtime_ns for path in parts.glob("0*.npz")} == before
    other = tiny_model("llama")
    with torch.no_grad():
        other.lm_head.weight.mul_(1.5)
    other.save_pretrained(tmp_path / "model")
    said = one_line_error(call_script(SCRIPT, *arguments(inputs, out, shard="1/2", model=tmp_path / "model")))
    assert "scores.csv.parts was made with other settings (model_files.model.safetensors" in said
    shutil.copytree(parts, tmp_path / "kept")
    shutil.copy(uninterrupted.with_suffix(".json"), tmp_path)  # as if killed right before writing the CSV
    call_script(SCRIPT, *arguments(inputs, out, shard="1/2"))
    assert out.read_bytes() == uninterrupted.read_bytes()
    assert not parts.exists()
    (tmp_path / "kept").rename(parts)  # as if killed right before deleting the parts
    assert "complete already" in call_script(SCRIPT, *arguments(inputs, out)).stdout
    assert not parts.exists()


def test_a_document_that_fails_is_recorded_and_the_run_goes_on(inputs, tmp_path):
    """The embedding of one token is NaN: documents fail if they contain it or their X donor does; others do not."""
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[255] = float("nan")
    model.save_pretrained(tmp_path / "model")
    rng = np.random.default_rng(1)
    books = {book: [rng.integers(0, 255, 32).tolist() for _ in range(3)] for book in "ab"}
    books["a"][1][10] = 255
    write_documents(tmp_path / "documents", books)
    out = tmp_path / "scores.csv"
    done = call_script(SCRIPT, *arguments(tmp_path, out, **{"L-max": 32}))
    table = pd.read_csv(out)
    failed = set(table.loc[table[LOGQ].isna().any(axis=1), "document"])
    got_its_x = set(table.loc[table["x_donor"] == "a#0001", "document"])
    assert failed == {"a#0001"} | got_its_x
    assert f"{len(failed)} of 6 documents failed" in done.stdout
    assert table.groupby("document")[LOGQ].apply(lambda rows: rows.isna().all().all() or rows.notna().all().all()).all()
    assert len(table) == 6 * len(passes.grid(32)), "failed documents keep their rows"
    assert json.loads(out.with_suffix(".json").read_text())["failed_documents"] == len(failed)


@pytest.fixture
def with_repeats(tmp_path):
    """A document of book a recurs in books b, c and d; the first 64 tokens of another recur within book d."""
    rng = np.random.default_rng(4)
    books = {book: [rng.integers(0, 255, 70).tolist() for _ in range(2)] for book in "abcd"}
    for book in "bcd":
        books[book][0] = books["a"][0]
    books["d"] += [[*books["d"][1][:64], 1, 2, 3]] + [rng.integers(0, 255, 70).tolist() for _ in range(3)]
    return write_documents(tmp_path / "documents", books)


@pytest.mark.parametrize("changes", [{}, {"n_documents": 7}, {"L_max": 16, "ell_max": 8}])
def test_documents_that_repeat_others_are_no_x_donors(with_repeats, tmp_path, capsys, changes):
    """Twelve documents, eight of them different; compared are the tokens up to the longest L, but at least 32."""
    for seed in range(20):
        given = {"documents": with_repeats, "model": "none", "out": tmp_path / "s.csv", "L_max": 64, "seed": seed}
        cfg = score_documents.Settings(**given | changes)
        sample = score_documents.draw_sample(cfg)
        assert (sample.ids != sample.ids[sample.x_donor]).any(axis=1).all()
        assert len(np.unique(sample.ids, axis=0)) == len(sample.ids) == changes.get("n_documents", 8)
        assert not {"b#0000", "c#0000", "d#0000", "d#0002"} & set(sample.names)
        assert f"4 documents repeat another's first {cfg.longest}" in capsys.readouterr().out


def test_the_sample_is_what_it_was(inputs, tmp_path, capsys):
    """The seed draws the same documents and x_donors as before, by their hash: committed scores depend on them."""
    for n_documents, digest in ((None, "697cb329bf3f21b8"), (6, "f5dd7bad21c15425")):
        cfg = score_documents.Settings(inputs / "documents", "none", tmp_path / "s.csv", 64, n_documents=n_documents)
        sample = score_documents.draw_sample(cfg)
        held = sample.ids.tobytes() + sample.x_donor.tobytes() + "\n".join(sample.names).encode()
        assert hashlib.sha256(held).hexdigest()[:16] == digest
    assert capsys.readouterr().out == ""


def test_so_many_documents_of_each_book(inputs, tmp_path):
    """The books have 5, 4 and 2 documents. A smaller draw is part of a larger one, and another seed draws others."""

    def names(per_book: int, seed: int = 0, **changes: int) -> list[str]:
        given = {"documents": inputs / "documents", "model": "none", "out": tmp_path / "s.csv", "L_max": 64}
        cfg = score_documents.Settings(**given, documents_per_book=per_book, seed=seed, **changes)
        return score_documents.draw_sample(cfg).names.tolist()

    assert [sum(name.startswith(book) for name in names(3)) for book in "abc"] == [3, 3, 2]
    assert set(names(1)) < set(names(2)) < set(names(3)) < set(names(9))
    assert (len(names(9)), len(names(3, n_documents=4))) == (11, 4)
    assert names(1) != names(1, seed=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": "scores.json"}, "give a file that ends in .csv"),
        ({"L-max": 3}, "no (ℓ, L) fits"),
        ({"n-documents": 1}, "--n-documents 1: must be at least 2"),
        ({"n-documents": 12}, "11 of 11 documents have 64 tokens (longest: 80) and repeat no other, and 12 are needed"),
        ({"documents-per-book": 0}, "--documents-per-book 0: must be at least 1"),
        ({"documents-per-book": 1, "n-documents": 4}, "at most 1 of each book, and 4 are needed: lower"),
        ({"L-max": 100}, "0 of 11 documents have 96 tokens (longest: 80)"),
        ({"shard": "half"}, "0 ≤ i < n"),
    ],
)
def test_bad_settings_are_refused_in_a_line(inputs, tmp_path, changes, message):
    changes = {"out": tmp_path / changes.get("out", "scores.csv")} | {k: v for k, v in changes.items() if k != "out"}
    assert message in one_line_error(call_script(SCRIPT, *arguments(inputs, **changes)))
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_documents_and_models_that_do_not_fit(inputs, tmp_path):
    row = list(range(64))
    same = write_documents(tmp_path / "same", {"a": [row, [*row, 1]], "b": [row], "c": [[1, 2]]})
    tiny_model("gpt2", n_positions=32).save_pretrained(tmp_path / "short")
    for changes, message in (
        ({"documents": same}, "1 of 4 documents have 64 tokens (longest: 65) and repeat no other, and 2 are needed"),
        ({"model": tmp_path / "short"}, "its context is 32 tokens, shorter than L = 64"),
    ):
        done = call_script(SCRIPT, *arguments(inputs, tmp_path / "s.csv", **changes))
        assert message in one_line_error(done)
