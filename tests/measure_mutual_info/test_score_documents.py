from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from common.tokenizer import load_tokenizer
from measure_mutual_info import score_documents
from measure_mutual_info.scoring import passes
from tests.conftest import ROOT, call_script, one_line_error, run_script, tiny_model, write_documents
from tests.measure_mutual_info.scoring.test_backend_transformers import BOS, slow_reference

SCRIPT = "measure_mutual_info/score_documents.py"
LOGQ = [f"{name}_nats" for name in passes.TERMS]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Eleven documents of three books, of 64 … 80 random bytes, and a tiny Llama without a tokenizer."""
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
    run_script(SCRIPT, *arguments(inputs, out))
    return out


def test_the_csv_holds_what_a_slow_reference_gives(inputs, uninterrupted):
    table = pd.read_csv(uninterrupted)
    assert list(table.columns) == ["document", "book", "ell_tokens", "L_tokens", *LOGQ, "x_donor"]
    points = passes.grid(64)
    assert len(table) == 11 * len(points)
    import datasets

    documents = {row["document"]: row["input_ids"] for row in datasets.load_from_disk(str(inputs / "documents"))}
    model = tiny_model("llama")
    for row in table[table["L_tokens"].isin([8, 64])].itertuples():
        mine, other = np.array(documents[row.document]), np.array(documents[row.x_donor])
        wanted = slow_reference(model, mine, mine, row.ell_tokens, row.L_tokens)
        # the same Y behind the other document's X
        wanted["logq_y_given_other_x"] = slow_reference(model, other, mine, row.ell_tokens, row.L_tokens)[
            "logq_y_given_other_x"
        ]
        for name, value in wanted.items():
            assert getattr(row, f"{name}_nats") == pytest.approx(value, abs=1e-4 * (row.L_tokens - row.ell_tokens))
    assert (table["book"] != table["x_donor"].str.split("#").str[0]).all(), "a x_donor is of another book"


def test_provenance(uninterrupted):
    facts = json.loads(uninterrupted.with_suffix(".json").read_text())
    assert facts["source"] == "toy"
    assert facts["settings"]["L_max"] == 64
    assert facts["settings"]["model"] == "model"
    assert len(facts["inputs"]["documents"]) == 64
    assert not uninterrupted.with_name("scores.csv.parts").exists(), "nothing is left behind"


def test_run_again_reuses(inputs, uninterrupted):
    before = uninterrupted.read_bytes(), uninterrupted.stat().st_mtime_ns
    assert "complete already" in call_script(SCRIPT, *arguments(inputs, uninterrupted)).stdout
    assert (uninterrupted.read_bytes(), uninterrupted.stat().st_mtime_ns) == before


def test_killed_and_started_again_gives_the_same_bytes(inputs, tmp_path):
    rng = np.random.default_rng(3)
    books = {book: [rng.integers(0, 255, 64).tolist() for _ in range(30)] for book in "ab"}
    documents = write_documents(tmp_path / "documents", books)
    whole, out, parts = tmp_path / "whole.csv", tmp_path / "scores.csv", tmp_path / "scores.csv.parts"
    one_by_one = {"documents": documents, "batch-tokens": 1}  # 60 groups: the kill lands among them
    run_script(SCRIPT, *arguments(inputs, whole, **one_by_one))
    command = [sys.executable, str(ROOT / SCRIPT), *arguments(inputs, out, **one_by_one)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(parts.glob("0*.npz"))) < 5 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in parts.glob("0*.npz")}
    assert 5 <= len(kept) < 60, "killed in the middle"
    assert not out.exists()
    run_script(SCRIPT, *arguments(inputs, out, **one_by_one))
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("left", ["record without table", "parts"])
def test_killed_in_the_last_step(inputs, uninterrupted, tmp_path, left):
    """Right before the CSV is in place, and right before the parts are gone."""
    out, parts = tmp_path / "scores.csv", tmp_path / "scores.csv.parts"
    call_script(SCRIPT, *arguments(inputs, out, shard="0/2"))
    if left == "record without table":
        shutil.copy(uninterrupted.with_suffix(".json"), tmp_path)  # the record comes first, the table last
    else:
        shutil.copy(uninterrupted, tmp_path)
        shutil.copy(uninterrupted.with_suffix(".json"), tmp_path)
    assert call_script(SCRIPT, *arguments(inputs, out)).returncode == 0
    assert out.read_bytes() == uninterrupted.read_bytes()
    assert not parts.exists()


def test_kept_parts_are_not_scored_again(inputs, uninterrupted, tmp_path):
    out = tmp_path / "scores.csv"
    call_script(SCRIPT, *arguments(inputs, out, shard="0/2"))
    parts = tmp_path / "scores.csv.parts"
    before = {path.name: path.stat().st_mtime_ns for path in parts.glob("0*.npz")}
    assert sorted(before) == ["000000.npz", "000002.npz", "000004.npz"]
    shown = call_script(SCRIPT, *arguments(inputs, out, shard="0/2")).stdout
    assert "3 groups of the other shards are still missing" in shown
    assert {path.name: path.stat().st_mtime_ns for path in parts.glob("0*.npz")} == before
    call_script(SCRIPT, *arguments(inputs, out, shard="1/2"))
    assert out.read_bytes() == uninterrupted.read_bytes()


def test_a_document_that_fails_is_recorded_and_the_run_goes_on(inputs, tmp_path):
    """One token's embedding is NaN: documents that hold it, or whose other X does, have failed; the rest have not."""
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[255] = float("nan")
    model.save_pretrained(tmp_path / "model")
    rng = np.random.default_rng(1)
    books = {book: [rng.integers(0, 255, 32).tolist() for _ in range(3)] for book in "ab"}
    books["a"][1][10] = 255
    write_documents(tmp_path / "documents", books)
    out = tmp_path / "scores.csv"
    done = run_script(SCRIPT, *arguments(tmp_path, out, **{"L-max": 32}))
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
    """Twelve documents of eight contents: one of each of two books in three more, another twice in its own book."""
    rng = np.random.default_rng(4)
    books = {book: [rng.integers(0, 255, 70).tolist() for _ in range(2)] for book in "abcd"}
    for book in "bcd":
        books[book][0] = books["a"][0]
    books["d"] += [[*books["d"][1][:64], 1, 2, 3]] + [rng.integers(0, 255, 70).tolist() for _ in range(3)]
    return write_documents(tmp_path / "documents", books)


@pytest.mark.parametrize("changes", [{}, {"n_documents": 7}, {"L_max": 16, "ell_max": 8}])
def test_documents_that_repeat_others_are_no_x_donors(inputs, with_repeats, tmp_path, capsys, changes):
    """Compared are the tokens up to the longest L, or 32 of them."""
    given = {"documents": with_repeats, "model": "none", "out": tmp_path / "scores.csv", "L_max": 64} | changes
    sample = score_documents.draw_sample(score_documents.Settings(**given))
    assert (sample.ids != sample.ids[sample.x_donor]).any(axis=1).all()
    assert len(np.unique(sample.ids, axis=0)) == len(sample.ids) == changes.get("n_documents", 8)
    assert not {"b#0000", "c#0000", "d#0000", "d#0002"} & set(sample.names)
    assert f"4 documents repeat another's first {score_documents.Settings(**given).longest}" in capsys.readouterr().out
    for seed in range(20):
        again = score_documents.draw_sample(score_documents.Settings(**given | {"seed": seed}))
        assert (again.ids != again.ids[again.x_donor]).any(axis=1).all()


def test_without_repeats_the_sample_is_what_it_was(inputs, tmp_path, capsys):
    for n_documents, digest in ((None, "697cb329bf3f21b8"), (6, "f5dd7bad21c15425")):
        cfg = score_documents.Settings(inputs / "documents", "none", tmp_path / "s.csv", 64, n_documents=n_documents)
        sample = score_documents.draw_sample(cfg)
        held = sample.ids.tobytes() + sample.x_donor.tobytes() + "\n".join(sample.names).encode()
        assert hashlib.sha256(held).hexdigest()[:16] == digest
    assert capsys.readouterr().out == ""


class TestBadInput:
    """Each is refused with one line that names the culprit and the remedy."""

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"L-max": 3}, "no (ℓ, L) fits"),
            ({"ratios": 1}, "every ratio L/ℓ must be at least 2"),
            ({"ell-max": 1}, "smallest split point is 2"),
            ({"n-documents": 1}, "at least 2 are needed"),
            ({"n-documents": 12}, "has 11 that are long enough"),
            ({"L-max": 100}, "0 of 11 documents have 96 tokens (longest: 80)"),
            ({"shard": "4/4"}, "0 ≤ i < n"),
            ({"shard": "half"}, "0 ≤ i < n"),
            ({"batch-tokens": 0}, "--batch-tokens 0"),
            ({"documents": "/nonexistent"}, "no folder /nonexistent"),
            ({"model": "/nonexistent/model.gguf"}, "no such GGUF file"),
            ({"bos": 260}, "token id 260 is outside the vocabulary"),
            ({"bos": "<s>"}, "it has no tokenizer files"),
            ({"device": "gpu"}, "give auto, cpu, cuda"),
        ],
    )
    def test_settings(self, inputs, tmp_path, changes, message):
        done = call_script(SCRIPT, *arguments(inputs, tmp_path / "scores.csv", **changes))
        assert message in one_line_error(done)
        assert not list(tmp_path.iterdir()), "nothing is left behind"

    def test_out_that_is_no_csv(self, inputs, tmp_path):
        done = call_script(SCRIPT, *arguments(inputs, tmp_path / "scores.json"))
        assert "give the name of a .csv file" in one_line_error(done)

    @pytest.mark.parametrize("facts", ["[]", "{}", '{"source": "toy"}', "not JSON"])
    def test_documents_without_their_facts(self, inputs, tmp_path, facts):
        shutil.copytree(inputs / "documents", tmp_path / "documents")
        (tmp_path / "documents" / "prepare.json").write_text(facts)
        done = call_script(SCRIPT, *arguments(inputs, tmp_path / "s.csv", documents=tmp_path / "documents"))
        assert "give a folder written by prepare_dataset.py" in one_line_error(done)

    def test_no_documents(self, inputs, tmp_path):
        documents = write_documents(tmp_path / "documents", {})
        done = call_script(SCRIPT, *arguments(inputs, tmp_path / "s.csv", documents=documents))
        assert "give a folder written by prepare_dataset.py" in one_line_error(done)

    def test_nothing_but_repeats(self, inputs, tmp_path):
        row = list(range(64))
        documents = write_documents(tmp_path / "documents", {"a": [row, [*row, 1]], "b": [row], "c": [[1, 2]]})
        done = call_script(SCRIPT, *arguments(inputs, tmp_path / "s.csv", documents=documents))
        said = "all 3 documents of 64 tokens begin with the same ones, and 2 that differ are needed: give documents of"
        assert said in one_line_error(done)

    def test_more_documents_than_differ(self, inputs, with_repeats, tmp_path):
        changes = {"documents": with_repeats, "n-documents": 9}
        done = call_script(SCRIPT, *arguments(inputs, tmp_path / "s.csv", **changes))
        assert "has 8 that are long enough and repeat no other" in one_line_error(done)

    def test_truncated_weights(self, inputs, tmp_path):
        shutil.copytree(inputs / "model", tmp_path / "model")
        weights = tmp_path / "model" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1000])
        done = call_script(SCRIPT, *arguments(inputs, tmp_path / "s.csv", model=tmp_path / "model"))
        assert "could not load the weights: check that the folder is complete" in one_line_error(done)

    def test_context_too_short(self, inputs, tmp_path):
        tiny_model("gpt2", n_positions=32).save_pretrained(tmp_path / "model")
        done = call_script(SCRIPT, *arguments(inputs, tmp_path / "s.csv", model=tmp_path / "model"))
        assert "its context is 32 tokens, shorter than L = 64" in one_line_error(done)

    def test_ids_outside_the_vocabulary(self, inputs, tmp_path):
        tiny_model("llama", vocabulary=200).save_pretrained(tmp_path / "model")
        changes = {"model": tmp_path / "model", "bos": 0}
        done = call_script(SCRIPT, *arguments(inputs, tmp_path / "s.csv", **changes))
        assert "token id 254 is outside the vocabulary" in one_line_error(done)

    def test_model_folder_incomplete(self, inputs, tmp_path):
        shutil.copytree(inputs / "model", tmp_path / "model")
        (tmp_path / "model" / "model.safetensors").unlink()
        done = call_script(SCRIPT, *arguments(inputs, tmp_path / "s.csv", model=tmp_path / "model"))
        assert "could not load the weights: check that the folder is complete" in one_line_error(done)

    def test_scores_of_another_run(self, inputs, uninterrupted):
        before = uninterrupted.read_bytes()
        done = call_script(SCRIPT, *arguments(inputs, uninterrupted, seed=7))
        assert "made with other settings" in one_line_error(done)
        assert "seed: 0 there, 7 now" in one_line_error(done)
        assert uninterrupted.read_bytes() == before

    def test_parts_of_another_model(self, inputs, tmp_path):
        out = tmp_path / "scores.csv"
        call_script(SCRIPT, *arguments(inputs, out, shard="0/2"))
        with torch.no_grad():
            other = tiny_model("llama")
            other.lm_head.weight.mul_(1.5)
        other.save_pretrained(tmp_path / "model")
        done = call_script(SCRIPT, *arguments(inputs, out, model=tmp_path / "model"))
        assert "model_files" in one_line_error(done)

    def test_truncated_part(self, inputs, uninterrupted, tmp_path):
        out = tmp_path / "scores.csv"
        call_script(SCRIPT, *arguments(inputs, out, shard="0/2"))
        part = tmp_path / "scores.csv.parts" / "000002.npz"
        part.write_bytes(part.read_bytes()[:-100])
        done = call_script(SCRIPT, *arguments(inputs, out, shard="1/2"))
        assert "000002.npz: damaged part" in one_line_error(done)
        part.unlink()
        call_script(SCRIPT, *arguments(inputs, out))
        assert out.read_bytes() == uninterrupted.read_bytes(), "after the remedy that the message gives"

    @pytest.mark.parametrize("manifest", [None, "", "[1, 2]", "{}"])
    def test_foreign_store(self, inputs, tmp_path, manifest):
        parts = tmp_path / "scores.csv.parts"
        parts.mkdir()
        (parts / "holiday.jpg").write_text("not ours")
        if manifest is not None:
            (parts / "manifest.json").write_text(manifest)
        done = call_script(SCRIPT, *arguments(inputs, tmp_path / "scores.csv"))
        assert "choose another --out, or delete it" in one_line_error(done)
        assert (parts / "holiday.jpg").exists()

    def test_vllm_not_installed(self, inputs, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "vllm", None)
        done = call_script(SCRIPT, *arguments(inputs, tmp_path / "scores.csv", backend="vllm"))
        assert "vllm is not installed" in one_line_error(done)

    def test_disk_full(self, inputs, tmp_path, monkeypatch, uninterrupted):
        """The disk fills up at the third group: one line, the first two groups stay, and a second try ends well."""
        out, real, calls = tmp_path / "scores.csv", os.fsync, []

        def full(descriptor):
            calls.append(descriptor)
            if len(calls) == 4:  # the manifest and two groups went well
                raise OSError(errno.ENOSPC, "No space left on device")
            real(descriptor)

        monkeypatch.setattr(os, "fsync", full)
        assert "error: disk full while writing" in one_line_error(call_script(SCRIPT, *arguments(inputs, out)))
        assert sorted(path.name for path in (tmp_path / "scores.csv.parts").iterdir()) == [
            "000000.npz",
            "000001.npz",
            "manifest.json",
        ]
        monkeypatch.undo()
        call_script(SCRIPT, *arguments(inputs, out))
        assert out.read_bytes() == uninterrupted.read_bytes()


class TestBeginningOfText:
    """Which token stands for BOS, and that documents and model share a vocabulary."""

    @pytest.fixture
    def model(self, inputs, tmp_path):
        """Save the model with a byte-level tokenizer of given special tokens; prepare.json names its vocabulary."""
        letters = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]

        def save(**special: str) -> dict:
            tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
            tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
            shutil.copytree(inputs / "model", tmp_path / "model")
            tokenizer.save_pretrained(tmp_path / "model")
            shutil.copytree(inputs / "documents", tmp_path / "documents")
            path = tmp_path / "documents" / "prepare.json"
            facts = json.loads(path.read_text()) | {"tokenizer_hash": load_tokenizer(str(tmp_path / "model")).hash}
            path.write_text(json.dumps(facts))
            return {"model": tmp_path / "model", "documents": tmp_path / "documents", "out": tmp_path / "scores.csv"}

        return save

    def score(self, inputs, changes: dict, *more: str) -> subprocess.CompletedProcess:
        given = arguments(inputs, **changes)
        bos = given.index("--bos")
        return call_script(SCRIPT, *given[:bos], *given[bos + 2 :], *more)

    @pytest.mark.parametrize(
        ("special", "more", "bos"),
        [
            ({"bos_token": "<s>", "eos_token": "</s>"}, (), 0),
            ({"eos_token": "</s>"}, (), 1),
            ({"bos_token": "<s>", "eos_token": "</s>"}, ("--bos", "</s>"), 1),
            ({}, ("--bos", "7"), 7),
        ],
    )
    def test_which(self, inputs, model, special, more, bos):
        changes = model(**special)
        done = self.score(inputs, changes, *more)
        assert done.returncode == 0, done.stderr
        record = json.loads(changes["out"].with_suffix(".json").read_text())
        letters = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
        assert (record["manifest"]["bos"], record["start_token"]) == (bos, letters[bos])
        why = (
            "--bos" if more else "the tokenizer's BOS" if len(special) == 2 else "the tokenizer's EOS, as it has no BOS"
        )
        assert f"start token in front of every text: {letters[bos]} (id {bos}, {why})" in done.stdout

    def test_none(self, inputs, model):
        assert "neither BOS nor EOS: name a token" in one_line_error(self.score(inputs, model()))

    def test_not_a_token(self, inputs, model):
        done = self.score(inputs, model(bos_token="<s>"), "--bos", "<start>")
        assert "--bos <start>: not a token" in one_line_error(done)

    @pytest.mark.parametrize("more", [(), ("--bos", "7")])
    def test_documents_of_another_tokenizer(self, inputs, model, more):
        """Of the same size even: the tokens, not their number, must be the same."""
        changes = model(bos_token="<s>")
        changes["documents"] = inputs / "documents"
        done = self.score(inputs, changes, *more)
        assert "which is not the tokenizer of" in one_line_error(done)
