"""Loading models and their start tokens: whatever is damaged, missing or misread is refused in one line."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from common import pretrained
from common.cli import UserError
from common.pretrained import (
    context_tokens,
    find_device,
    find_dtype,
    load_config,
    load_model,
    model_fingerprint,
    sees_what_follows,
    start_token,
)
from common.tokenizer import load_tokenizer
from tests.conftest import tiny_model


def test_what_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # otherwise it retries for half a minute
    for model, said in (
        (str(tmp_path / "nothing.gguf"), "no such GGUF file"),
        (str(tmp_path), "could not load the configuration.*folder is complete"),
        ("nobody/no-such-model", "hub can be reached"),
    ):
        with pytest.raises(UserError, match=said):
            load_config(model)
    tiny_model("llama").config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"could not load the weights.*folder is complete"):
        load_model(str(tmp_path), "float32", "cpu")


def test_weights_that_are_missing_or_not_used(tmp_path, capsys):
    """Missing weights and an unused bias of a layer, which transformers accepts, are refused; a vision tower is not."""
    model = tiny_model("llama")
    state, one = model.state_dict(), torch.ones(48)
    bias = "model.layers.1.self_attn.q_proj.bias"
    for name, saved, said in (
        ("cut", {name: state[name] for name in state if "layers.1.mlp" not in name}, "3 weights are missing"),
        ("biased", {**state, bias: one}, rf"does not use 1 weights of its own layers \({bias}"),
        ("seeing", {**state, "vision_tower.layers.0.bias": one}, None),
    ):
        model.save_pretrained(tmp_path / name, state_dict=saved)
        if said is None:
            load_model(str(tmp_path / name), "float32", "cpu")
            assert "1 weights are not of the language model" in capsys.readouterr().out
        else:
            with pytest.raises(UserError, match=said):
                load_model(str(tmp_path / name), "float32", "cpu")


def logprobs(model: torch.nn.Module) -> torch.Tensor:
    return torch.log_softmax(model(input_ids=torch.arange(40)[None]).logits, -1)


@pytest.mark.parametrize(
    ("kind", "changes", "right"),
    [
        ("gemma2", {"attn_logit_softcapping": 2.0}, "eager"),
        ("falcon", {"alibi": True}, "sdpa"),
    ],
)
def test_the_attention_that_computes_every_term(tmp_path, monkeypatch, kind, changes, right):
    """sdpa drops Gemma 2's soft-cap, eager adds Falcon's ALiBi twice: the other is used; unknown cases are refused."""
    tiny_model(kind, **changes).save_pretrained(tmp_path)
    found = logprobs(load_model(str(tmp_path), "float32", "cpu"))
    ways = {
        way: logprobs(AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=way).eval())
        for way in ("eager", "sdpa")
    }
    assert (found - ways[right]).abs().max() < 1e-5
    assert (ways["eager"] - ways["sdpa"]).abs().max() > 0.01
    if kind == "falcon":  # its attention cannot be switched
        return
    monkeypatch.setattr(pretrained, "ATTENTION", {})
    with pytest.raises(UserError, match=r'implementations "sdpa" and "eager" differ by \d+\.\d+ nats per token'):
        load_model(str(tmp_path), "float32", "cpu")


def test_rounding_in_16_bits_is_not_taken_for_another_attention(monkeypatch):
    """Attention that differs by a nat in bfloat16 but not in float32 is accepted; a dropped soft-cap is refused."""
    model = tiny_model("llama").to(torch.bfloat16)
    with torch.no_grad():
        model.lm_head.weight *= 30
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight *= 10
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pretrained.check_attention("rounded", model)
    after = model.state_dict()
    assert all(after[name].dtype == value.dtype and after[name].equal(value) for name, value in before.items())
    monkeypatch.setattr(pretrained, "ATTENTION", {})
    capped = tiny_model("gemma2", attn_logit_softcapping=0.5, final_logit_softcapping=None).to(torch.bfloat16)
    with torch.no_grad():
        capped.model.norm.weight += 30
    with pytest.raises(UserError, match='"sdpa" and "eager" differ'):
        pretrained.check_attention("capped", capped)


def test_contexts_by_other_names():
    """MPT calls it max_seq_len, CodeGen n_positions, BLOOM seq_length; no number of Mamba2 is taken for a context."""
    for kind, name in (("mpt", "max_seq_len"), ("codegen", "n_positions"), ("bloom", "seq_length")):
        assert context_tokens(AutoConfig.for_model(kind, **{name: 77})) == 77
    assert context_tokens(AutoConfig.for_model("mamba2")) is None


def test_encoders_are_refused_and_causal_models_are_not(tmp_path):
    tiny_model("bert").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="BertLMHeadModel reads the tokens that follow"):
        load_model(str(tmp_path), "float32", "cpu")
    for kind, changes in (("llama", {}), ("gpt2", {}), ("mistral", {}), ("mamba", {}), ("bert", {"is_decoder": True})):
        for dtype in (torch.float32, torch.bfloat16):
            assert not sees_what_follows(tiny_model(kind, **changes).to(dtype)), kind


def test_the_measurement_behind_auto_leaves_the_number_of_threads():
    threads = torch.get_num_threads()
    assert find_dtype("cpu") in ("float32", "bfloat16")
    assert torch.get_num_threads() == threads


def test_devices():
    assert find_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    for device in ("cpu", "mps", "split"):
        assert find_device(device) == device
    for device in ("gpu", "cuda:", "cuda:x", "cpu0", "" if torch.cuda.is_available() else "cuda:1"):
        with pytest.raises(UserError, match=r"--device .*: give auto, cpu, mps, split"):
            find_device(device)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="mps works here")
def test_a_device_that_torch_lacks_is_named(tmp_path):
    with pytest.raises(UserError, match=r"--device mps: torch cannot use it here \(.*\): give another"):
        load_model(tmp_path, "float32", "mps")


def test_weights_in_the_dtype_that_was_asked_for(tmp_path):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path)
    assert load_config(tmp_path).vocab_size == model.config.vocab_size
    ids = torch.tensor([[1, 2, 3, 4]])
    for dtype in ("float32", "bfloat16"):
        loaded = load_model(tmp_path, dtype, "cpu")
        assert loaded.dtype == getattr(torch, dtype)
        assert not loaded.training
        torch.testing.assert_close(loaded(ids).logits, model.to(loaded.dtype)(ids).logits)


WORDS = {"<s>": 0, "</s>": 1, "a": 2, "b": 3}


def save_tokenizer(folder: Path, **special: str) -> Path:
    """Write a model's folder with a tokenizer of four words and a configuration with ten ids."""
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(WORDS, unk_token="a")), **special)
    words.save_pretrained(folder)
    tiny_model("llama", 10).config.save_pretrained(folder)
    return folder


def start(folder: Path, bos: str | None = None, extent=(0, 3), **facts: object) -> int:
    with contextlib.suppress(UserError):  # a folder without a tokenizer
        facts = {"tokenizer_hash": load_tokenizer(folder).hash} | facts
    of = {"tokenizer": "org/other", "tokenizer_vocab_size": 4} | facts
    return start_token(str(folder), load_config(str(folder)), bos, Path("my_documents"), of, extent)[0]


def test_start_token(tmp_path, capsys):
    both = save_tokenizer(tmp_path / "both", bos_token="<s>", eos_token="</s>")
    assert [start(both, bos) for bos in (None, "b", "2", "9", "0")] == [0, 3, 2, 9, 0]
    assert start(save_tokenizer(tmp_path / "eos", eos_token="</s>")) == 1
    tiny_model("llama", 10).config.save_pretrained(tmp_path / "none")
    assert start(tmp_path / "none", "4", (0, 9)) == 4
    said = ["<s> (id 0, the tokenizer's BOS)", "b (id 3, --bos)", "a (id 2, --bos)", "? (id 9, --bos)"]
    said += ["<s> (id 0, --bos)", "</s> (id 1, the tokenizer's EOS, as it has no BOS)", "? (id 4, --bos)"]
    printed = capsys.readouterr().out.splitlines()
    assert printed == [f"start token in front of every text: {line}" for line in said]
    with pytest.raises(UserError, match="has neither BOS nor EOS: give a start token, or its id, with --bos"):
        start(save_tokenizer(tmp_path / "words"))
    with pytest.raises(UserError, match=r"a folder needs tokenizer\.json"):
        start(tmp_path / "none")


OTHER = "my_documents: tokenised with org/other, which is not the tokenizer of .*prepare the documents"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"bos": "zzz"}, "--bos zzz is not one of its tokens"),
        ({"tokenizer_hash": "0" * 16}, OTHER),
        ({"tokenizer_hash": None, "tokenizer_vocab_size": 256}, OTHER),
        ({"bos": "10"}, r"my_documents: token id 10 is outside the vocabulary of .* \(0 … 9\): prepare"),
        ({"extent": (-2, 11)}, "token id 11 is outside"),
        ({"extent": (-2, 3)}, "token id -2 is outside"),
    ],
)
def test_documents_of_another_model(tmp_path, given, said):
    folder = save_tokenizer(tmp_path, bos_token="<s>")
    with pytest.raises(UserError, match=said):
        start(folder, **given)


def test_more_tokens_than_embeddings(tmp_path):
    folder = save_tokenizer(tmp_path, bos_token="<s>")
    tiny_model("llama", 3).config.save_pretrained(folder)
    with pytest.raises(UserError, match=r"more tokens \(4\) than its embedding \(3\).*resize_token_embeddings"):
        start(folder)


def test_fingerprint(tmp_path):
    """Each file is hashed; of a large one (sparse on disk), 64 megabytes that include the first and the last."""
    assert model_fingerprint("org/name") == {}
    data = np.random.default_rng(0).bytes((1 << 20) + 5)
    (tmp_path / "weights").write_bytes(data)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    wanted = {"config.json": b"2{}", "weights": str(len(data)).encode() + data}
    wanted = {name: hashlib.sha256(held).hexdigest()[:16] for name, held in wanted.items()}
    assert model_fingerprint(str(tmp_path)) == wanted
    assert model_fingerprint(str(tmp_path / "weights")) == {"weights": wanted["weights"]}
    found = set()
    for place in (None, 0, (1 << 30) + 4):
        with open(tmp_path / "large", "wb") as file:
            file.truncate((1 << 30) + 5)
            if place is not None:
                file.seek(place)
                file.write(b"x")
        found.add(model_fingerprint(str(tmp_path / "large"))["large"])
    assert len(found) == 3
