"""Models of the Hugging Face hub, of a local folder or of a GGUF file, the same way in every program.

A model is refused where what is loaded would not be what its files describe: weights missing or left over, keys of a
GGUF file that transformers does not read, an attention implementation that drops a term.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from common import gguf_file
from common.cli import UserError
from common.tokenizer import HubTokenizer, load_tokenizer

# Longest sequence, in tokens, under the names that configurations give it.
CONTEXT = ("max_position_embeddings", "max_seq_len", "max_sequence_length", "max_seq_length", "model_max_length")
CONTEXT += ("n_positions", "n_ctx", "seq_length")
# Where two attention implementations of transformers differ: which one computes all that the configuration names.
ATTENTION = {
    "attn_logit_softcapping": "eager",  # sdpa drops the soft-cap (Gemma 2, VaultGemma)
    "alibi": "sdpa",  # eager adds the bias twice (Falcon)
}
LOGIT_ROWS = 512  # rows of logits that are turned into log-probabilities at a time: bounds the fp32 copy
MASKS = re.compile(r"(attn|attention)\.(masked_)?bias$")  # that old checkpoints keep


def _from_pretrained(kind: Any, what: str, model: str, **options: Any) -> Any:
    """Of the hub, a folder or a .gguf file, which transformers wants by its folder and its name."""
    path = Path(model)
    if gguf := path.suffix == ".gguf":
        options["gguf_file"] = path.name
        if not path.is_file():
            raise UserError(f"{model}: no such GGUF file: give the path of a file that is there")
    try:
        return kind.from_pretrained(str(path.parent) if gguf else model, **options)
    except torch.OutOfMemoryError as error:
        raise UserError(f"{model}: the {what} do not fit the GPU: use --dtype bfloat16, or --device split") from error
    except Exception as error:  # the loaders raise almost anything at a damaged file
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(
            f"{model}: could not load the {what}: check that the folder is complete (config.json, tokenizer files, "
            f"weights), or the spelling and that the hub can be reached ({reason})"
        ) from error


def load_config(model: str) -> PreTrainedConfig:
    """The text model's configuration, without weights. UserError if it cannot be had."""
    return _load_whole_config(model).get_text_config(decoder=True)


def _load_whole_config(model: str) -> PreTrainedConfig:
    config = _from_pretrained(AutoConfig, "configuration", model)
    if model.endswith(".gguf"):
        gguf_file.check_config(gguf_file.read(model), config)
    return config


def load_model(model: str, dtype: str, device: str) -> PreTrainedModel:
    """A causal model, for evaluation. dtype: float32, bfloat16 or float16; device: see `find_device`.

    UserError: it cannot be had, is not whole, has weights that would not be used, or sees the tokens that it should
    predict; its attention implementations differ and which is right is not known.
    """
    config = _load_whole_config(model)
    place = "auto" if device == "split" else device
    options = {"config": config, "device_map": place, "dtype": getattr(torch, dtype), "output_loading_info": True}
    if implementation := _known_attention(config.get_text_config(decoder=True)):
        options["attn_implementation"] = implementation
    loaded, report = _from_pretrained(AutoModelForCausalLM, "weights", model, **options)
    _check_weights(model, loaded, report["missing_keys"], report["unexpected_keys"])
    if model.endswith(".gguf"):
        gguf_file.complete_model(gguf_file.read(model), loaded)
    if sees_what_follows(loaded.eval()):
        raise UserError(
            f"{model}: {type(loaded).__name__} reads the tokens that follow as well (an encoder, as BERT), so its "
            "log-probabilities are no predictions: give a causal model"
        )
    check_attention(model, loaded)
    return loaded


def _check_weights(name: str, model: PreTrainedModel, missing: Iterable[str], left_over: Iterable[str]) -> None:
    """Print which weights of a checkpoint the model has no use for.

    UserError: some are missing (transformers would fill them up at random and warn); one that is left over lies within
    a layer of the model (a bias, a norm), so that the layer is another than the checkpoint's.
    """
    if missing := sorted(missing):
        raise UserError(f"{name}: {len(missing)} weights are missing ({missing[0]} …): fetch the model again")
    left_over = sorted(weight for weight in left_over if not MASKS.search(weight))
    layers = tuple(f"{path}." for path, _ in model.named_modules() if re.search(r"\.\d+$", path))
    if within := [weight for weight in left_over if weight.startswith(layers)]:
        raise UserError(
            f"{name}: {type(model).__name__} has no use for {len(within)} weights of its own layers ({within[0]} …), "
            "so it is not the model that was saved: check config.json (biases, norms, model_type)"
        )
    if left_over:
        print(f"{name}: {len(left_over)} weights are not of the language model and are not used ({left_over[0]} …)")


def _known_attention(config: PreTrainedConfig) -> str | None:
    return next((kind for term, kind in ATTENTION.items() if getattr(config, term, None)), None)


@torch.inference_mode()
def check_attention(name: str, model: PreTrainedModel, tokens: int = 64) -> None:
    """Compare the attention implementation that was chosen with the plain one on a short text.

    UserError: they differ, and ATTENTION does not know which one is right.
    """
    chosen = getattr(model.config, "_attn_implementation", None)
    text = model.config.get_text_config(decoder=True)
    if chosen in (None, "eager") or _known_attention(text):
        return
    ids = torch.arange(min(tokens, context_tokens(text) or tokens), device=model.device)[None] % text.vocab_size

    def difference() -> float:
        found = []
        for implementation in ("eager", chosen):
            model.set_attn_implementation(implementation)
            found.append(torch.log_softmax(model(input_ids=ids, use_cache=False).logits.float(), -1))
        return float((found[0] - found[1]).abs().mean())

    exact = 1e-3  # rounding is 1e-5 in float32, mostly 0.05 in bfloat16
    try:
        off, most = difference(), exact if model.dtype == torch.float32 else 0.2
        if off > most > exact:  # in 16 bits the plain one alone can be as far off: 0.5 nats for Qwen2.5 1.5B
            with in_float32(model):
                off, most = difference(), exact
    except (ValueError, RuntimeError, AttributeError, TypeError):  # it has no plain one
        return
    finally:
        model.set_attn_implementation(chosen)
    if off > most:  # not where it is NaN, which is no sign of either
        raise UserError(
            f'{name}: its attention implementations "{chosen}" and "eager" differ by {off:.2g} nats per token: find '
            "out which is right, and add the setting that tells to ATTENTION in common/pretrained.py"
        )


@contextlib.contextmanager
def in_float32(model: PreTrainedModel) -> Iterator[None]:
    """Weights in float32 for a while, then as they were; buffers, e.g. the frequencies of RoPE, stay as they are."""
    of = [(value, value.dtype) for value in model.parameters()]
    try:
        for value, _ in of:
            value.data = value.data.float()
        yield
    finally:
        for value, dtype in of:
            value.data = value.data.to(dtype)


@torch.inference_mode()
def sees_what_follows(model: PreTrainedModel, tokens: int = 8) -> bool:
    """Whether another last token changes the logits before it. transformers loads encoders as causal models, too."""
    ids = torch.zeros(2, tokens, dtype=torch.long, device=model.device)
    ids[1, -1] = 1
    before = model(input_ids=ids).logits[:, :-1].float()
    # Rounding in bfloat16 is a hundredth of this, what an encoder sees many times as much.
    return bool((before[0] - before[1]).abs().max() > 0.05 * before.std())


def target_logprobs(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log softmax(logits)[target] in float32: logits (rows, n, vocabulary), targets (rows, n) → (rows, n), in nats."""
    flat, wanted = logits.flatten(0, 1), targets.flatten()
    pieces = [
        -torch.nn.functional.cross_entropy(some.float(), ids, reduction="none")
        for some, ids in zip(flat.split(LOGIT_ROWS), wanted.split(LOGIT_ROWS), strict=True)
    ]
    return torch.cat(pieces).view(targets.shape)


def find_device(device: str) -> str:
    """auto: a GPU if there is one. split: the layers over all GPUs. UserError: an unknown name, a GPU without one."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    known = r"cpu|mps|split" + r"|cuda(:\d+)?" * torch.cuda.is_available()
    if not re.fullmatch(known, device):
        raise UserError(f"--device {device}: give auto, cpu, mps, split, or cuda, cuda:1 … where torch sees a GPU")
    return device


def find_dtype(device: str) -> str:
    """bfloat16 if a device of `find_device` computes in it (CPU: AVX512-BF16 or AMX), else float32."""
    if device.startswith("cuda") or (device == "split" and torch.cuda.is_available()):
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = device != "mps" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return "bfloat16" if able else "float32"


def context_tokens(config: PreTrainedConfig) -> int | None:
    """Longest sequence the model takes, BOS included, in tokens; None if nothing bounds it (recurrent models)."""
    return next((value for name in CONTEXT if isinstance(value := getattr(config, name, None), int)), None)


def start_token(
    model: str,
    config: PreTrainedConfig,
    bos: str | None,
    documents: Path,
    facts: dict[str, Any],
    extent: tuple[int, int],
) -> tuple[int, str]:
    """Id and text of the token in front of every text (the paper's "BOS"), once the documents fit the model; prints it.

    bos: a token or its id; None: the tokenizer's BOS, or else its EOS; of a model that train.py trained on bytes or
    characters, its start token. facts: prepare.json of the documents; extent: the least and the largest id in them.
    UserError: documents of another tokenizer, no BOS, ids outside the vocabulary.
    """
    given = int(bos) if bos is not None and bos.isdecimal() else None
    try:
        tokenizer = load_tokenizer(model)
    except UserError:
        if given is None:
            raise
        tokenizer = None  # a model without one of its own (DNA, say): the ids themselves are checked below
    # Bytes and characters have no fingerprint, but how many there are tells them apart.
    of_documents = facts.get("tokenizer_hash") or facts["tokenizer_vocab_size"]
    if tokenizer is not None and of_documents != (tokenizer.hash or tokenizer.size):
        raise UserError(
            f"{documents}: tokenised with {facts['tokenizer']}, which is not the tokenizer of {model} (another "
            f"vocabulary, or other cuts): prepare the documents with --tokenizer {model}"
        )
    hub = tokenizer.tokenizer if isinstance(tokenizer, HubTokenizer) else None
    if bos is not None:
        number, why = hub.get_vocab().get(bos) if hub is not None and given is None else given, "--bos"
    elif hub is None:  # train.py makes the first id past the tokenizer's own the start
        number, why = config.bos_token_id, "its own"
    elif hub.bos_token_id is not None:
        number, why = hub.bos_token_id, "the tokenizer's BOS"
    else:  # models without BOS (Qwen, GPT-NeoX, …) saw their EOS between documents: the next best beginning of a text
        number, why = hub.eos_token_id, "the tokenizer's EOS, as it has no BOS"
    if number is None:
        what = "it has neither BOS nor EOS" if bos is None else f"--bos {bos} is none of its tokens"
        raise UserError(f"{model}: {what}: name a token to begin with by --bos, or its id")
    for worst in (max(extent[1], number), extent[0]):
        if not 0 <= worst < config.vocab_size:
            raise UserError(
                f"{documents}: token id {worst} is outside the vocabulary of {model} (0 … {config.vocab_size - 1}): "
                f"prepare the documents with --tokenizer {model}, or give a --bos within it"
            )
    text = hub.convert_ids_to_tokens(number) if hub is not None and number < len(hub) else "?"
    text = "<start>" if why == "its own" else text
    print(f"start token in front of every text: {text} (id {number}, {why})")
    return number, text


def model_fingerprint(model: str) -> dict[str, str]:
    """What tells a local model from another of the same name: a hash of each file.

    Of files over 1 GB the size and 64 megabytes spread evenly over them are hashed. Empty for a model of the hub, which
    its revision tells.
    """
    path, block, found = Path(model), 1 << 20, {}
    for file in sorted(file for file in (path, *path.glob("*")) if file.is_file()):
        size = file.stat().st_size
        digest = hashlib.sha256(str(size).encode())
        places = range(0, size, block) if size <= 1 << 30 else np.linspace(0, size - block, 64).astype(int).tolist()
        with open(file, "rb") as stream:
            for place in places:
                stream.seek(place)
                digest.update(stream.read(block))
        found[file.name] = digest.hexdigest()[:16]
    return found
