"""A GGUF file gives the same log-probabilities as the folder of its model, or is refused, naming the key."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from tokenizers import pre_tokenizers
from transformers import PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from common import gguf_file
from common.cli import UserError
from common.gguf_file import GgufFile
from common.pretrained import load_config, load_model
from common.tokenizer import load_tokenizer
from tests.conftest import SMOLLM2, tiny_model

HEADS = {"q": 4, "k": 2}
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
NAMES |= {"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"}
NAMES |= {"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
TOP = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
TOP |= {"lm_head.weight": "output.weight"}


def write_gguf(path: Path, model: PreTrainedModel, keys: dict | None = None, tensors: dict | None = None) -> str:
    """Write a Llama in float32 as llama.cpp's converter does. keys, tensors: further ones; keys may replace others."""
    config = model.config
    writer = GGUFWriter(path, "llama")
    of = {"context_length": config.max_position_embeddings, "embedding_length": config.hidden_size}
    of |= {"block_count": config.num_hidden_layers, "feed_forward_length": config.intermediate_size}
    of |= {"attention.head_count": config.num_attention_heads, "vocab_size": config.vocab_size}
    of |= {"attention.head_count_kv": config.num_key_value_heads, "rope.dimension_count": config.head_dim}
    of |= {"attention.layer_norm_rms_epsilon": config.rms_norm_eps}
    of |= {"rope.freq_base": float(config.rope_parameters["rope_theta"])}
    for name, value in ({f"llama.{name}": value for name, value in of.items()} | (keys or {})).items():
        add = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
        add[type(value)](name, value)
    for name, weight in model.state_dict().items():
        array = weight.numpy()
        if name in TOP:
            writer.add_tensor(TOP[name], array)
            continue
        layer, part = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
        if (head := part[-6:-5]) in HEADS and part.endswith("_proj"):  # in GGUF, the pairs of a rotation are adjacent
            array = array.reshape(HEADS[head], 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(f"blk.{layer}.{NAMES[part]}.weight", np.ascontiguousarray(array))
    for name, array in (tensors or {}).items():
        writer.add_tensor(name, array)
    return close(writer, path)


def close(writer: GGUFWriter, path: Path) -> str:
    for part in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        part()
    return str(path)


def llama(**rotation: object) -> PreTrainedModel:
    return tiny_model("llama", rope_parameters={"rope_theta": 10_000.0, "rope_type": "default"} | rotation)


def logprobs(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        return torch.log_softmax(model(input_ids=torch.arange(200)[None] % 256).logits, -1)


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 64}
SCALING = "llama.rope.scaling"


@pytest.mark.parametrize(
    ("rotation", "keys"),
    [
        ({}, {}),
        (LLAMA3, {}),
        ({"rope_theta": 500.0}, {f"{SCALING}.type": "none", "llama.attention.value_length": 12}),
        ({}, {"llama.expert_count": 0, "llama.attention.scale": 1.0, "llama.pooling_type": 1}),
    ],
)
def test_the_file_equals_the_folder(tmp_path, rotation, keys):
    """Log-probabilities agree to 1e-5 nats; without its factors, Llama 3 would be wrong by more than a nat."""
    model = llama(**rotation)
    model.save_pretrained(tmp_path / "folder")
    tensors = {}
    if rotation is LLAMA3:  # llama.cpp's converter writes what the frequencies are divided by
        plain = ROPE_INIT_FUNCTIONS["linear"](llama(rope_type="linear", factor=1.0).config)[0]
        tensors["rope_freqs.weight"] = (plain / ROPE_INIT_FUNCTIONS["llama3"](model.config)[0]).numpy()
    wanted = logprobs(load_model(str(tmp_path / "folder"), "float32", "cpu"))
    file = write_gguf(tmp_path / "model.gguf", model, keys, tensors)
    assert (logprobs(load_model(file, "float32", "cpu")) - wanted).abs().max() < 1e-5
    if rotation is LLAMA3:
        file = write_gguf(tmp_path / "plain.gguf", model)
        assert (logprobs(load_model(file, "float32", "cpu")) - wanted).abs().max() > 1, "the scaling would be missed"


@pytest.mark.parametrize(
    ("keys", "tensors", "named"),
    [
        ({f"{SCALING}.type": "linear", f"{SCALING}.factor": 4.0}, {}, f"it says {SCALING}.type = linear"),
        ({"llama.rope.dimension_count": 6}, {}, "q_proj.weight has the shape (48, 48), its keys say (24, 48)"),
        ({"llama.attention.max_alibi_bias": 8.0}, {}, "it says llama.attention.max_alibi_bias = 8.0"),
        ({"llama.use_parallel_residual": True}, {}, "it says llama.use_parallel_residual = True"),
        ({}, {"rope_freqs.weight": np.full(5, 2, np.float32)}, "it holds the tensor rope_freqs.weight"),
        ({}, {"blk.1.attn_q.bias": np.ones(48, np.float32)}, "it holds the tensor blk.1.attn_q.bias"),
    ],
)
def test_what_is_not_read_is_refused_by_name(tmp_path, keys, tensors, named):
    file = write_gguf(tmp_path / "model.gguf", llama(), keys, tensors)
    with pytest.raises(UserError, match=re.escape(named)):
        load_model(file, "float32", "cpu")


def test_keys_of_layers_with_a_window_and_of_soft_caps():
    """These keys are compared with the configuration: the same value is accepted, another one is refused."""
    config = tiny_model("gemma2", final_logit_softcapping=30.0).config
    said = {"attention.sliding_window": 16, "final_logit_softcapping": 30.0, "attention.value_length": 12}
    said |= {"rope.freq_base": 10_000.0, "rope.dimension_count": 12}
    for name, value in said.items():
        gguf_file.check_config(GgufFile(Path("x"), "other", {f"other.{name}": value}, ()), config)
        with pytest.raises(UserError, match=rf"it says other.{name} = {2 * value}"):
            gguf_file.check_config(GgufFile(Path("x"), "other", {f"other.{name}": 2 * value}, ()), config)


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 40)
    with pytest.raises(UserError, match=r"model\.gguf is not a complete GGUF file"):
        gguf_file.read(str(tmp_path / "model.gguf"))


def write_vocabulary(path: Path, pre: str | None, bpe: Path) -> str:
    """Write a GGUF file that holds only the tokenizer of the folder `bpe`, with `pre` as its pre-tokenizer."""
    backend = load_tokenizer(str(bpe)).tokenizer.backend_tokenizer
    vocabulary = sorted(backend.get_vocab(), key=backend.token_to_id)
    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(vocabulary)
    writer.add_token_types([1] * len(vocabulary))
    writer.add_token_merges([" ".join(merge) for merge in json.loads(backend.to_str())["model"]["merges"]])
    writer.add_eos_token_id(0)
    return close(writer, path)


def test_the_pre_tokenizer_that_the_file_names(tmp_path, bpe, capsys):
    """SmolLM2 and Qwen separate digits; Qwen composes letters first; no name means GPT-2; unknown names are refused."""
    tokenizers = {
        pre: load_tokenizer(write_vocabulary(tmp_path / f"{pre}.gguf", pre, bpe))
        for pre in ("gpt-2", "smollm", "qwen2")
    }
    cut = {pre: of.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a 12") for pre, of in tokenizers.items()}
    pieces = {pre: [piece for piece, _ in found] for pre, found in cut.items()}
    assert pieces == {"gpt-2": ["a", "Ġ12"], "smollm": ["a", "Ġ", "1", "2"], "qwen2": ["a", "Ġ", "1", "2"]}
    assert tokenizers["qwen2"].ids("e\u0301") == tokenizers["qwen2"].ids("é") != tokenizers["gpt-2"].ids("e\u0301")
    assert tokenizers["qwen2"].hash not in {tokenizers["gpt-2"].hash, tokenizers["smollm"].hash}
    unnamed = load_tokenizer(write_vocabulary(tmp_path / "unnamed.gguf", None, bpe))
    assert unnamed.hash == tokenizers["gpt-2"].hash
    assert capsys.readouterr().out.startswith("unnamed.gguf names no pre-tokenizer: using GPT-2's")
    with pytest.raises(UserError, match=r"it says tokenizer\.ggml\.pre = elvish"):
        load_tokenizer(write_vocabulary(tmp_path / "elvish.gguf", "elvish", bpe))


@pytest.mark.skipif(not SMOLLM2.exists(), reason="the sample model is missing: measure_mutual_info/fetch_sample.py")
def test_the_sample_model_cuts_as_its_original(capsys):
    """Ids of a probe text are those by the rule of the original tokenizer, which separates every digit first."""
    tokenizer = load_tokenizer(str(SMOLLM2))
    load_config(str(SMOLLM2))
    assert capsys.readouterr().out == "", "every key of the model is read"
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    text = "In 1850,  12 whales\n\n3 of 1,234 (5%)"
    pieces = [piece for piece, _ in digits.pre_tokenize_str(text)]
    alone = [token for piece in pieces for token in tokenizer.tokenizer.backend_tokenizer.model.tokenize(piece)]
    assert tokenizer.ids(text) == [token.id for token in alone]
