"""Apply what transformers ignores in a GGUF file, or refuse the file with an error that names it.

transformers ignores every key and tensor that it has no use for. A model with scaled positions, a window or a soft-cap
would be scored without them, with errors of nats per token. Here each ignored key of the model (`llama.…`) is compared
with the configuration that was made from the file, and each tensor with the weights of the model. `check_config` does
the first before the weights are loaded, `complete_model` the second afterwards.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import normalizers, pre_tokenizers
from transformers import PreTrainedConfig, PreTrainedModel

from common.cli import UserError

# Keys that change the computation if ignored; other ignored keys are only printed.
SENSITIVE = re.compile(r"rope|alibi|window|swa|scal|softcap|clamp|bias|position|temperature|parallel|rms")
HARMLESS = ("context_length", "vocab_size", "block_count", "feed_forward_length", "tensor_data_layout")
# Tensors that are not weights: rope_freqs is applied to the model here, attn_rot_embd repeats what the keys say.
NO_WEIGHTS = re.compile(r"rope_freqs\.weight|blk\.\d+\.attn_rot_embd(\.weight)?")
# Pre-tokenizers (`tokenizer.ggml.pre`) that split text as GPT-2 does, and those that first separate every digit.
LIKE_GPT2 = ("default", "gpt-2", "gpt2", "phi-2", "mpt", "olmo", "jais", "trillion")
DIGITS_FIRST = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum")


@dataclass(frozen=True)
class GgufFile:
    path: Path
    architecture: str
    keys: dict[str, Any]  # metadata; for an array of strings, its length
    tensors: tuple[str, ...]

    def refusal(self, what: str) -> UserError:
        return UserError(
            f"{self.path}: {what}, which transformers ignores, so it would load a different model: give the model's "
            "folder or its name on the hub instead of the GGUF file"
        )


@cache
def read(path: Path | str) -> GgufFile:
    """Read the metadata of a file and the names of its tensors. UserError: damaged, or not a GGUF file."""
    from transformers.integrations.gguf import read_gguf_metadata

    try:
        keys, tensors = read_gguf_metadata(str(path))
    except Exception as error:  # the reader may raise almost anything on a truncated or foreign file
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} is not a complete GGUF file ({reason}): download it again") from error
    return GgufFile(Path(path), keys["general.architecture"], keys, tensors)


def check_config(file: GgufFile, config: PreTrainedConfig) -> None:
    """Compare the keys that transformers ignores with the configuration that it made; print the keys it lacks.

    UserError: the configuration contradicts a key, or lacks one that changes the computation.
    """
    from transformers.modeling_gguf_pytorch_utils import GGUF_TO_TRANSFORMERS_MAPPING

    kind = {"gpt-oss": "gpt_oss", "qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe", "minimax-m2": "minimax_m2"}
    known = GGUF_TO_TRANSFORMERS_MAPPING["config"].get(kind.get(file.architecture, file.architecture), {})
    unread = []
    for key, value in file.keys.items():
        name = key.removeprefix(f"{file.architecture}.")
        if name == key or known.get(name) is not None:  # not about the model, or read by transformers
            continue
        said = _said_by(config, name)
        switched_off = value is not True and value in (0, 1.0, "none")
        if (said is not None and said != value) or (said is None and SENSITIVE.search(name) and not switched_off):
            raise file.refusal(f"it says {key} = {value}")
        if said is None and name not in HARMLESS:
            unread.append(key)
    if unread:
        print(f"{file.path.name}: transformers does not read {', '.join(unread)}")


def _said_by(config: PreTrainedConfig, name: str) -> Any:
    """The value in the configuration that corresponds to the key `name`; None if there is none."""
    rotation = getattr(config, "rope_parameters", None) or {}
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    match name:
        case "rope.dimension_count":
            share = rotation.get("partial_rotary_factor") or getattr(config, "partial_rotary_factor", None) or 1.0
            return int(head_dim * share)
        case "rope.freq_base":
            return rotation.get("rope_theta") or rotation.get("full_attention", {}).get("rope_theta")
        case "rope.freq_base_swa":
            return rotation.get("sliding_attention", {}).get("rope_theta")
        case "attention.key_length" | "attention.value_length":
            return head_dim
        case "attention.sliding_window" if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
            return config.sliding_window
        case "attn_logit_softcapping" | "final_logit_softcapping":
            return getattr(config, name, None)
    return None


def complete_model(file: GgufFile, model: PreTrainedModel) -> None:
    """Apply the factors of `rope_freqs` (Llama 3), and compare the file's tensors with the model's weights.

    UserError: the model does not have a tensor, or its shape differs from what the file's keys say.
    """
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in type(model)(model.config).named_parameters()}
    for name, weight in model.named_parameters():  # transformers assigns weights of any shape
        if weight.shape != shapes[name]:
            raise file.refusal(f"{name} has the shape {tuple(weight.shape)}, its keys say {tuple(shapes[name])}")
    if "rope_freqs.weight" in file.tensors:
        _divide_frequencies(file, model)
    try:
        processor = TENSOR_PROCESSORS.get(file.architecture, TensorProcessor)(config=model.config.to_dict())
        wanted = set(get_gguf_hf_weights_map(model, processor))
    except NotImplementedError:  # transformers' newer reader for some architectures, which reports leftovers itself
        return
    for name in file.tensors:
        block = re.match(r"blk\.(\d+)\.", name)
        beyond = block and int(block[1]) >= model.config.num_hidden_layers  # predicts further tokens; not used
        if not {name, name.removesuffix(".weight")} & wanted and not NO_WEIGHTS.fullmatch(name) and not beyond:
            raise file.refusal(f"it holds the tensor {name}")


def _divide_frequencies(file: GgufFile, model: PreTrainedModel) -> None:
    from transformers.integrations.gguf import GgufHeader, load_gguf_state_dict

    factors = load_gguf_state_dict(GgufHeader.from_file(str(file.path)))["rope_freqs.weight"][:].float().flatten()
    if bool((factors == 1).all()):
        return
    rotations = [module for module in model.modules() if hasattr(module, "inv_freq")]
    if len(rotations) != 1 or rotations[0].inv_freq.shape != factors.shape:
        raise file.refusal("it holds the tensor rope_freqs.weight")
    with torch.no_grad():
        rotations[0].inv_freq /= factors.to(rotations[0].inv_freq.device)


def complete_tokenizer(file: GgufFile, tokenizer: Any) -> None:
    """Give `tokenizer` the pre-tokenizer that the file names. UserError: unknown here, or an unwanted prefix space."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    kind, pre = file.keys.get("tokenizer.ggml.model"), file.keys.get("tokenizer.ggml.pre", "default")
    backend = tokenizer.backend_tokenizer
    no_prefix = kind == "llama" and file.keys.get("tokenizer.ggml.add_space_prefix") is False
    if no_prefix and backend.encode("a", add_special_tokens=False).tokens[0].startswith("▁"):
        raise file.refusal("it says tokenizer.ggml.add_space_prefix = False")
    if kind != "gpt2":
        return
    if pre == "default":
        print(f"{file.path.name} names no pre-tokenizer: using GPT-2's, which may split text differently")
    if pre in DIGITS_FIRST:
        digits, like_gpt2 = pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, like_gpt2])
    elif pre not in (*LIKE_GPT2, *GGUF_PRE_TOKENIZER_SPLITS):
        raise file.refusal(f"it says tokenizer.ggml.pre = {pre}")
    if pre in ("qwen2", "qwen35"):
        backend.normalizer = normalizers.NFC()
