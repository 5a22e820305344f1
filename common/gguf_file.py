"""What a GGUF file says and transformers does not read: taken over, or refused by name.

transformers passes over every key and every tensor that it has no use for, so a model with scaled positions, a window
or a soft-cap would be scored without them, wrong by nats a token. Here each key of the model (`llama.…`) that is left
over is compared with the configuration that was made from the file, and each tensor with the model's own.

    file = read("model.gguf")
    complete_config(file, config)     # before the weights are loaded
    complete_model(file, model)       # after
    complete_tokenizer(file, tokenizer)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import normalizers, pre_tokenizers
from transformers import PreTrainedConfig, PreTrainedModel

from common.cli import UserError

# What changes the computation if it is passed over; other keys that are left over are named in a note.
SENSITIVE = re.compile(r"rope|alibi|window|swa|scal|softcap|clamp|bias|position|temperature|parallel|rms")
# Keys that a setting of transformers stands for, where the configuration has it.
SETTINGS = {
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "attention.clamp_kqv": "clip_qkv",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "attention.sliding_window": "sliding_window",
}
ROTATION = ("rope.dimension_count", "rope.freq_base", "rope.freq_base_swa")
HARMLESS = ("context_length", "vocab_size", "block_count", "feed_forward_length", "tensor_data_layout")
YARN = {
    "original_max_position_embeddings": "rope.scaling.original_context_length",
    "beta_fast": "rope.scaling.yarn_beta_fast",
    "beta_slow": "rope.scaling.yarn_beta_slow",
}
# Tensors that stand for no weight: rope_freqs is applied to the model here, attn_rot_embd repeats what the keys say.
NO_WEIGHTS = re.compile(r"rope_freqs\.weight|blk\.\d+\.attn_rot_embd(\.weight)?")
# The pre-tokenizers (`tokenizer.ggml.pre`) that cut as GPT-2 does, and those that take every digit out first.
LIKE_GPT2 = ("default", "gpt-2", "gpt2", "phi-2", "mpt", "olmo", "jais", "trillion")
DIGITS_FIRST = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum")


@dataclass(frozen=True)
class GgufFile:
    path: Path
    architecture: str
    keys: dict[str, Any]
    """metadata; of an array of strings its length"""
    tensors: tuple[str, ...]

    def refuse(self, what: str) -> UserError:
        return UserError(
            f"{self.path}: {what}, and transformers does not read that: the model would be another; give its folder or "
            "its name on the hub instead of the GGUF file"
        )

    def refuse_key(self, name: str, value: Any) -> UserError:
        return self.refuse(f"it says {self.architecture}.{name} = {value}")


def local_path(name: str) -> str:
    """Where the file of this name lies: itself, or what was fetched of owner/repository/file.gguf of the hub."""
    if Path(name).is_file():
        return name
    from transformers.utils import cached_file

    return cached_file(*name.rsplit("/", 1))


@cache
def read(path: Path | str) -> GgufFile:
    """The metadata of a file, and the names of its tensors. UserError: damaged, or no GGUF file."""
    from transformers.integrations.gguf import read_gguf_metadata

    try:
        keys, tensors = read_gguf_metadata(str(path))
    except Exception as error:  # whatever a cut or foreign file leads the reader into
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} is no whole GGUF file ({reason}): fetch it again") from error
    return GgufFile(Path(path), keys["general.architecture"], keys, tensors)


def keys_left_over(file: GgufFile) -> dict[str, Any]:
    """The keys of the model, without their architecture, that transformers does not make a setting of."""
    from transformers.modeling_gguf_pytorch_utils import GGUF_TO_TRANSFORMERS_MAPPING

    prefix = f"{file.architecture}."
    kind = {"gpt-oss": "gpt_oss", "qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe", "minimax-m2": "minimax_m2"}
    known = GGUF_TO_TRANSFORMERS_MAPPING["config"].get(kind.get(file.architecture, file.architecture), {})
    keys = {name.removeprefix(prefix): value for name, value in file.keys.items() if name.startswith(prefix)}
    return {name: value for name, value in keys.items() if known.get(name) is None}


def complete_config(file: GgufFile, config: PreTrainedConfig) -> None:
    """Take over into `config` what the file's keys say of positions, windows and soft-caps.

    UserError: a key that changes the computation and cannot be taken over.
    """
    left = keys_left_over(file)
    scaling = {name: left.pop(name) for name in list(left) if name.startswith(("rope.scaling.", "rope.scale_linear"))}
    _scale_positions(file, config, scaling)
    unread = []
    for name, value in left.items():
        if name in (*SETTINGS, *ROTATION):
            if not _take_over(config, name, value):
                raise file.refuse_key(name, value)
        elif SENSITIVE.search(name) and (value is True or value not in (0, 1.0, "none")):
            raise file.refuse_key(name, value)
        elif name not in HARMLESS:
            unread.append(f"{file.architecture}.{name}")
    if unread:
        print(f"{file.path.name}: transformers does not read {', '.join(unread)}")


def _take_over(config: PreTrainedConfig, name: str, value: Any) -> bool:
    """Let `config` say what the key `name` says; False where it cannot."""
    rotation = getattr(config, "rope_parameters", None) or {}
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    match name:
        case "rope.dimension_count":
            share = rotation.get("partial_rotary_factor") or getattr(config, "partial_rotary_factor", None) or 1.0
            return value == int(head_dim * share)
        case "rope.freq_base" if "rope_theta" in rotation:
            rotation["rope_theta"] = value
            return True
        case "rope.freq_base" | "rope.freq_base_swa":
            layers = "full_attention" if name == "rope.freq_base" else "sliding_attention"
            return rotation.get(layers, {}).get("rope_theta") == value
        case "attention.key_length" | "attention.value_length" if value == head_dim:
            return True
        case "attention.sliding_window" if value >= (getattr(config, "max_position_embeddings", None) or np.inf):
            return True  # a window that reaches as far as the context is none
        case "attention.sliding_window" if "sliding_attention" not in (getattr(config, "layer_types", None) or ()):
            return False
    if known := hasattr(config, SETTINGS[name]):
        setattr(config, SETTINGS[name], value)
    return known


def _scale_positions(file: GgufFile, config: PreTrainedConfig, scaling: dict[str, Any]) -> None:
    """Linear and YaRN scaling. Llama 3's is a tensor, see `complete_model`."""
    kind = scaling.pop("rope.scaling.type", "linear" if "rope.scale_linear" in scaling else "none")
    linear = scaling.pop("rope.scale_linear", 1.0)
    of = {"rope_type": kind, "factor": scaling.pop("rope.scaling.factor", linear)}
    scaling.pop("rope.scaling.finetuned", None)
    if kind == "yarn":
        for setting, name in YARN.items():
            if name in scaling:
                of[setting] = scaling.pop(name)
    if scaling:
        raise file.refuse_key(*next(iter(scaling.items())))
    if kind == "none":
        return
    if kind not in ("linear", "yarn") or (kind == "yarn" and "original_max_position_embeddings" not in of):
        raise file.refuse_key("rope.scaling.type", kind)
    rotation = config.rope_parameters
    if "rope_theta" in rotation:
        rotation.update(of)
    elif kind == "linear" and "full_attention" in rotation:  # Gemma 3: layers with a window keep their positions
        rotation["full_attention"].update(of)
    else:
        raise file.refuse_key("rope.scaling.type", kind)


def complete_model(file: GgufFile, model: PreTrainedModel) -> None:
    """Apply the factors of `rope_freqs` (Llama 3), and hold the file's tensors against the model's weights.

    UserError: a tensor that the model does not have, or one of another shape than the file's keys say.
    """
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in type(model)(model.config).named_parameters()}
    for name, weight in model.named_parameters():  # transformers puts them in place whatever their shape
        if weight.shape != shapes[name]:
            raise UserError(
                f"{file.path}: {name} has the shape {tuple(weight.shape)}, and its keys (sizes, heads) say "
                f"{tuple(shapes[name])}: fetch the file again, or another one of this model"
            )
    if "rope_freqs.weight" in file.tensors:
        _divide_frequencies(file, model)
    try:
        processor = TENSOR_PROCESSORS.get(file.architecture, TensorProcessor)(config=model.config.to_dict())
        wanted = set(get_gguf_hf_weights_map(model, processor))
    except NotImplementedError:  # an architecture of transformers' newer reader, whose report names what is left over
        return
    layers = model.config.num_hidden_layers  # those past the last one predict further tokens, and are not used
    left = [
        name
        for name in file.tensors
        if not {name, name.removesuffix(".weight")} & wanted
        and not NO_WEIGHTS.fullmatch(name)
        and not ((block := re.match(r"blk\.(\d+)\.", name)) and int(block[1]) >= layers)
    ]
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise file.refuse(f"it holds the tensor {left[0]}{more}")


def _divide_frequencies(file: GgufFile, model: PreTrainedModel) -> None:
    from transformers.integrations.gguf import GgufHeader, load_gguf_state_dict

    factors = load_gguf_state_dict(GgufHeader.from_file(str(file.path)))["rope_freqs.weight"][:].float().flatten()
    if bool((factors == 1).all()):
        return
    rotations = [module for module in model.modules() if hasattr(module, "inv_freq")]
    if len(rotations) != 1 or rotations[0].inv_freq.shape != factors.shape:
        raise file.refuse("it holds the tensor rope_freqs.weight")
    with torch.no_grad():
        rotations[0].inv_freq /= factors.to(rotations[0].inv_freq.device)


def complete_tokenizer(file: GgufFile, tokenizer: Any) -> None:
    """Give `tokenizer` the pre-tokenizer that the file names. UserError: one that is not known here."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    kind, pre = file.keys.get("tokenizer.ggml.model"), file.keys.get("tokenizer.ggml.pre", "default")
    backend = tokenizer.backend_tokenizer
    if kind == "llama" and file.keys.get("tokenizer.ggml.add_space_prefix") is False:
        first = backend.encode("a", add_special_tokens=False).tokens[:1]
        if first and first[0].startswith("▁"):
            raise file.refuse("it says tokenizer.ggml.add_space_prefix = False")
    if kind == "gpt2" and pre == "default":
        print(f"{file.path.name} names no pre-tokenizer: GPT-2's is taken, which may cut elsewhere than the original")
    if kind != "gpt2" or pre in LIKE_GPT2:
        return
    if pre in DIGITS_FIRST:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    elif pre not in GGUF_PRE_TOKENIZER_SPLITS:
        raise file.refuse(f"it says tokenizer.ggml.pre = {pre}")
    if pre in ("qwen2", "qwen35"):
        backend.normalizer = normalizers.NFC()
