"""Loading models and tokenizers: what is damaged or missing is said in a line."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from common.cli import UserError
from common.pretrained import (
    context_tokens,
    find_device,
    load_config,
    load_model,
    model_fingerprint,
    sees_what_follows,
    start_token,
)
from common.tokenizer import load_tokenizer
from tests.conftest import tiny_model


def test_what_is_not_there(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no such GGUF file"):
        load_config(str(tmp_path / "nothing.gguf"))
    with pytest.raises(UserError, match=r"could not load the configuration.*folder is complete"):
        load_config(str(tmp_path))
    tiny_model("llama").config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"could not load the weights.*folder is complete"):
        load_model(str(tmp_path), "float32", "cpu")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # or it tries for half a minute
    with pytest.raises(UserError, match="hub can be reached"):
        load_config("nobody/no-such-model")


def test_some_weights_missing(tmp_path):
    model = tiny_model("llama")
    state = {name: value for name, value in model.state_dict().items() if "layers.1.mlp" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    assert AutoModelForCausalLM.from_pretrained(tmp_path) is not None, "transformers itself only warns"
    with pytest.raises(UserError, match=r"3 weights are missing \(model.layers.1.mlp.down_proj.weight, "):
        load_model(str(tmp_path), "float32", "cpu")


def test_weights_that_are_not_used(tmp_path, capsys):
    """A bias that the configuration does not speak of makes another model; a vision tower is none of its layers."""
    state = tiny_model("llama").state_dict()
    for name, said in {
        "model.layers.1.self_attn.q_proj.bias": None,
        "vision_tower.layers.0.bias": "1 weights are not of",
    }.items():
        folder = tmp_path / name
        tiny_model("llama").save_pretrained(folder, state_dict={**state, name: torch.ones(48)})
        if said is None:
            with pytest.raises(UserError, match=rf"has no use for 1 weights of its own layers \({name}"):
                load_model(str(folder), "float32", "cpu")
        else:
            load_model(str(folder), "float32", "cpu")
            assert said in capsys.readouterr().out


def logprobs(model: torch.nn.Module) -> torch.Tensor:
    return torch.log_softmax(model(input_ids=torch.arange(40)[None]).logits, -1)


@pytest.mark.parametrize(
    ("kind", "changes", "right"),
    [
        ("gemma2", {"attn_logit_softcapping": 2.0}, "eager"),
        ("vaultgemma", {"attn_logit_softcapping": 2.0}, "eager"),
        ("falcon", {"alibi": True}, "sdpa"),
    ],
)
def test_the_attention_that_computes_every_term(tmp_path, kind, changes, right):
    """sdpa drops the soft-cap of Gemma 2, and eager adds Falcon's ALiBi twice."""
    tiny_model(kind, **changes).save_pretrained(tmp_path)
    found = logprobs(load_model(str(tmp_path), "float32", "cpu"))
    ways = {
        way: logprobs(AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=way).eval())
        for way in ("eager", "sdpa")
    }
    assert (found - ways[right]).abs().max() < 1e-5
    assert (ways["eager"] - ways["sdpa"]).abs().max() > 0.01


def test_attention_that_differs_for_an_unknown_reason(tmp_path, monkeypatch):
    tiny_model("gemma2", attn_logit_softcapping=2.0).save_pretrained(tmp_path)
    monkeypatch.setattr("common.pretrained.ATTENTION", {})
    with pytest.raises(UserError, match=r'implementations "sdpa" and "eager" differ by 0\.\d+ nats a token'):
        load_model(str(tmp_path), "float32", "cpu")


def test_contexts_by_other_names():
    """MPT says max_seq_len, CodeGen n_positions; a number that is no context does not count."""
    for kind, name in (("mpt", "max_seq_len"), ("codegen", "n_positions"), ("bloom", "seq_length")):
        assert context_tokens(AutoConfig.for_model(kind, **{name: 77})) == 77
    assert context_tokens(AutoConfig.for_model("mamba2")) is None


def test_encoder_is_refused(tmp_path):
    tiny_model("bert").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="BertLMHeadModel reads the tokens that follow"):
        load_model(str(tmp_path), "float32", "cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("kind", "changes"),
    [("llama", {}), ("gpt2", {}), ("mistral", {}), ("mamba", {}), ("bert", {"is_decoder": True})],
)
def test_causal_models_see_nothing_that_follows(kind, changes, dtype):
    assert not sees_what_follows(tiny_model(kind, **changes).to(dtype))


def test_devices():
    assert find_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    for device in ("cpu", "mps", "split"):
        assert find_device(device) == device
    for device in ("gpu", "cuda:", "cuda:x", "cpu0", ""):
        with pytest.raises(UserError, match=r"--device .*: give auto, cpu, cuda"):
            find_device(device)
    if torch.cuda.is_available():
        assert [find_device(device) for device in ("cuda", "cuda:12")] == ["cuda", "cuda:12"]
    else:
        with pytest.raises(UserError, match="--device cuda: torch sees no GPU"):
            find_device("cuda")


def test_weights_in_the_dtype_that_was_asked_for(tmp_path):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path)
    ids = torch.tensor([[1, 2, 3, 4]])
    for dtype in ("float32", "bfloat16"):
        loaded = load_model(str(tmp_path), dtype, "cpu")
        assert loaded.dtype == getattr(torch, dtype)
        assert not loaded.training
        rounded = model.to(loaded.dtype)
        torch.testing.assert_close(loaded(ids).logits, rounded(ids).logits)
    assert load_config(str(tmp_path)).model_type == "llama"


WORDS = {"<s>": 0, "</s>": 1, "a": 2, "b": 3}


def save_tokenizer(folder: Path, **special: str) -> Path:
    """A model's folder with a tokenizer of four words and a configuration of ten ids."""
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(WORDS, unk_token="a")), **special)
    words.save_pretrained(folder)
    tiny_model("llama", 10).config.save_pretrained(folder)
    return folder


def start(folder: Path, bos: str | None = None, extent=(0, 3), **facts: object) -> int:
    with contextlib.suppress(UserError):  # a folder without a tokenizer
        facts = {"tokenizer_hash": load_tokenizer(str(folder)).hash} | facts
    of = {"tokenizer": "org/other", "tokenizer_vocab_size": 4} | facts
    return start_token(str(folder), load_config(str(folder)), bos, Path("my_documents"), of, extent).id


def test_start_token(tmp_path, capsys):
    both = save_tokenizer(tmp_path / "both", bos_token="<s>", eos_token="</s>")
    assert start(both) == 0
    assert [start(both, bos) for bos in ("b", "2", "9", "0")] == [3, 2, 9, 0]
    start_of = "start token in front of every text: "
    said = (
        "<s> (id 0, the tokenizer's BOS)",
        "b (id 3, --bos)",
        "a (id 2, --bos)",
        "? (id 9, --bos)",
        "<s> (id 0, --bos)",
    )
    assert capsys.readouterr().out.splitlines() == [start_of + line for line in said]
    assert start(save_tokenizer(tmp_path / "eos", eos_token="</s>")) == 1
    assert "</s> (id 1, the tokenizer's EOS, as it has no BOS)" in capsys.readouterr().out


def test_models_without_tokenizer_or_start(tmp_path):
    with pytest.raises(UserError, match="has neither BOS nor EOS: name a token to begin with by --bos"):
        start(save_tokenizer(tmp_path / "words"))
    tiny_model("llama", 10).config.save_pretrained(tmp_path / "none")
    assert start(tmp_path / "none", "4", (0, 9)) == 4
    for bos in (None, "<s>"):
        with pytest.raises(UserError, match=r"it has no tokenizer files; the folder needs tokenizer.json"):
            start(tmp_path / "none", bos)


OTHER = "my_documents: tokenised with org/other, which is not the tokenizer of .*prepare the documents"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"bos": "zzz"}, "--bos zzz: not a token of .*: give one of its tokens, or a token id"),
        ({"tokenizer_hash": "0" * 16}, OTHER),
        ({"tokenizer_hash": None, "tokenizer_vocab_size": 256}, OTHER),
        ({"bos": "10"}, r"my_documents: token id 10 is outside the vocabulary of .* \(0 … 9\): prepare"),
        ({"extent": (0, 11)}, "token id 11 is outside"),
        ({"extent": (-2, 11)}, "token id 11 is outside"),
        ({"extent": (-2, 3)}, "token id -2 is outside"),
    ],
)
def test_documents_of_another_model(tmp_path, given, said):
    folder = save_tokenizer(tmp_path, bos_token="<s>")
    with pytest.raises(UserError, match=said):
        start(folder, **given)


def test_fingerprint(tmp_path):
    assert model_fingerprint("org/name") == {}
    data = np.random.default_rng(0).bytes((1 << 20) + 5)
    (tmp_path / "weights").write_bytes(data)
    (tmp_path / "config.json").write_text(json.dumps({}), encoding="utf-8")
    (tmp_path / "folder").mkdir()
    wanted = {
        "config.json": hashlib.sha256(b"2" + b"{}").hexdigest()[:16],
        "weights": hashlib.sha256(str(len(data)).encode() + data).hexdigest()[:16],
    }
    assert model_fingerprint(str(tmp_path)) == wanted
    assert list(model_fingerprint(str(tmp_path))) == sorted(wanted)
    assert model_fingerprint(str(tmp_path / "weights")) == {"weights": wanted["weights"]}


def test_fingerprint_of_a_large_file(tmp_path):
    """It reads 64 of its megabytes, the first and the last among them. The file is sparse and takes no disk."""
    path = tmp_path / "weights"
    found = set()
    for place in (None, 0, (1 << 30) + 4):
        with open(path, "wb") as file:
            file.truncate((1 << 30) + 5)
            if place is not None:
                file.seek(place)
                file.write(b"x")
        found.add(model_fingerprint(str(path))["weights"])
    assert len(found) == 3
