"""Fingerprints that tell tokenizers apart, and folders without a tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from transformers import AutoTokenizer

from common.cli import UserError
from common.tokenizer import PROBE, ByteTokenizer, CharacterTokenizer, load_tokenizer
from tests.conftest import call_script, one_line_error, prose, tiny_model, write_documents


def variant(bpe: Path, folder: Path, change) -> Path:
    """Copy the tokenizer in `bpe` to `folder` and apply `change` to its backend's JSON."""
    shutil.copytree(bpe, folder)
    backend = json.loads((folder / "tokenizer.json").read_text())
    change(backend)
    (folder / "tokenizer.json").write_text(json.dumps(backend))
    return folder


def swap_merges(backend: dict) -> None:
    merges = backend["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]


def space_behind(backend: dict) -> None:
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    whole = backend["pre_tokenizer"] | {"use_regex": False}
    backend["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, whole]}


def lower(backend: dict) -> None:
    backend["normalizer"] = {"type": "Lowercase"}


def test_fingerprints_tell_what_a_tokenizer_does(bpe, tmp_path):
    """With one vocabulary, merges, pre-tokenizer and normalizer change the hash; saving again and padding do not."""
    same = load_tokenizer(str(bpe))
    found = {same.hash}
    for change in (swap_merges, space_behind, lower):
        other = load_tokenizer(str(variant(bpe, tmp_path / change.__name__, change)))
        assert other.tokenizer.get_vocab() == same.tokenizer.get_vocab()
        found.add(other.hash)
    assert len(found) == 4
    padded = variant(bpe, tmp_path / "padded", lambda backend: backend.update(truncation=None, post_processor=None))
    tokenizer = AutoTokenizer.from_pretrained(padded, padding_side="left", model_max_length=7)
    tokenizer.save_pretrained(tmp_path / "saved_again")
    assert load_tokenizer(str(tmp_path / "saved_again")).hash == same.hash


def test_documents_of_a_tokenizer_that_cuts_elsewhere(bpe, tmp_path):
    """Both readers refuse documents of a tokenizer that splits differently; on others, their NLL and bytes agree."""
    model = tmp_path / "model"
    tiny_model("llama", 320).save_pretrained(model)
    shutil.copytree(bpe, model, dirs_exist_ok=True)
    (tmp_path / "book.txt").write_text(prose(200, 0))
    prepare = ("--corpus", tmp_path / "book.txt", "--min-tokens", 64, "--boundaries", "none")
    for name, tokenizer in (("right", model), ("wrong", variant(bpe, tmp_path / "other", space_behind))):
        given = (*prepare, "--tokenizer", tokenizer, "--out", tmp_path / name)
        assert call_script("measure_mutual_info/prepare_dataset.py", *given).returncode == 0
        score = ("--model", model, "--L-max", 16, "--out", tmp_path / f"{name}.csv")
        scored = call_script("measure_mutual_info/score_documents.py", "--documents", tmp_path / name, *score)
        evaluate = ("--model", model, "--L", 16, "--dtype", "float32", "--out", tmp_path / f"{name}_losses.csv")
        read = call_script("train_on_pg19/evaluate.py", "--documents", tmp_path / name, *evaluate)
        for done in (scored, read):
            if name == "right":
                assert done.returncode == 0, done.stderr
            else:
                assert "wrong: tokenised with" in one_line_error(done)
    scores, losses = (pd.read_csv(tmp_path / name) for name in ("right.csv", "right_losses.csv"))
    pieces = [np.load(path) for path in (tmp_path / "right_losses.parts").glob("*.npz")]
    nll = {name: of for piece in pieces for name, of in zip(piece["documents"], piece["nll"], strict=True)}
    for row in scores.itertuples():
        mine = nll[row.document][row.ell_tokens : row.L_tokens].astype(float).sum()
        assert mine == pytest.approx(-row.logq_y_given_x_nats, abs=1e-3)
    y_bytes = scores.query("ell_tokens == 8 and L_tokens == 16")["y_bytes"]
    assert len(y_bytes) == len(nll) > 1
    assert losses.loc[losses["first"] > 8, "units"].sum() == y_bytes.sum()


def test_a_folder_without_tokenizer_files_has_none(tmp_path):
    tiny_model("gpt2").save_pretrained(tmp_path)
    assert len(AutoTokenizer.from_pretrained(tmp_path)) < 12, "transformers makes one up"
    for reason in ("it has no tokenizer files", ".*"):
        with pytest.raises(UserError, match=rf"cannot be loaded: {reason}.*; check .* a folder needs tokenizer.json"):
            load_tokenizer(str(tmp_path))
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))


def test_a_checkpoint_trained_on_bytes_is_scored(tmp_path):
    """A checkpoint says that its tokens are bytes and has its own start token; documents of characters are refused."""
    books = {
        name: [list(prose(9, i).encode("ascii", "ignore")[:80]) for i in (k, k + 1)] for k, name in enumerate("ac")
    }
    bytes_ = write_documents(tmp_path / "bytes", books, 256, "bytes")
    characters = write_documents(tmp_path / "characters", books, 0x110000, "characters")
    train = ("--model", "tiny", "--L", 64, "--batch-tokens", 64, "--epochs", 2, "--warmup", 0, "--held-out", 0.5)
    done = call_script("train_on_pg19/train.py", *train, "--documents", bytes_, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    assert isinstance(load_tokenizer(str(checkpoint)), ByteTokenizer)
    score = ("--model", checkpoint, "--L-max", 64, "--out", tmp_path / "scores.csv", "--documents")
    done = call_script("measure_mutual_info/score_documents.py", *score, bytes_)
    assert "start token in front of every text: <start> (id 256, its own)" in done.stdout
    done = call_script("measure_mutual_info/score_documents.py", *score, characters)
    assert "which is not the tokenizer of" in one_line_error(done)


def test_text_of_ids():
    for tokenizer in (ByteTokenizer(), CharacterTokenizer()):
        assert tokenizer.text(tokenizer.ids(PROBE)) == PROBE
