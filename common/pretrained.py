"""Load models from the Hugging Face hub, a local folder or a GGUF file, the same way in every program.

A model is refused if what is loaded would not be what its files describe: weights are missing or left over,
transformers ignores keys of a GGUF file, or an attention implementation drops a term.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
import timeit
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from common import gguf_file
from common.cli import UserError, cause
from common.tokenizer import HubTokenizer, load_tokenizer

# Names under which configurations give the longest sequence, in tokens.
CONTEXT = ("max_position_embeddings", "max_seq_len", "max_sequence_length", "max_seq_length", "model_max_length")
CONTEXT += ("n_positions", "n_ctx", "seq_length")
# Settings on which two attention implementations of transformers differ, and the implementation that is right.
ATTENTION = {
    "attn_logit_softcapping": "eager",  # sdpa drops the soft-cap (Gemma 2, VaultGemma)
    "alibi": "sdpa",  # eager adds the bias twice (Falcon)
}
FASTER = 1.2  # a processor computes in bfloat16 if that is so many times as fast as float32
LOGIT_ROWS = 512  # rows of logits turned into log-probabilities at a time: limits the size of the fp32 copy
MASKS = re.compile(r"(attn|attention)\.(masked_)?bias$")  # attention masks stored in old checkpoints


def _from_pretrained(kind: Any, what: str, model: str, **options: Any) -> Any:
    """`kind.from_pretrained` of a hub id, a folder or a .gguf file (for transformers, a folder and a file name)."""
    path = Path(model)
    if gguf := path.suffix == ".gguf":
        options["gguf_file"] = path.name
        if not path.is_file():
            raise UserError(f"{model}: no such GGUF file: give the path of a file that is there")
    try:
        return kind.from_pretrained(str(path.parent) if gguf else model, **options)
    except torch.OutOfMemoryError as error:
        raise UserError(f"{model}: the {what} do not fit the GPU: use --dtype bfloat16, or --device split") from error
    except Exception as error:  # transformers may raise almost anything on a damaged file
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(
            f"{model}: could not load the {what}: check that the folder is complete (config.json, tokenizer files, "
            f"weights), or the spelling and that the hub can be reached ({reason})"
        ) from error


def load_config(model: str | Path) -> PreTrainedConfig:
    """The configuration of the text model, without weights. UserError: it cannot be loaded."""
    return _load_whole_config(str(model)).get_text_config(decoder=True)


def _load_whole_config(model: str) -> PreTrainedConfig:
    config = _from_pretrained(AutoConfig, "configuration", model)
    if model.endswith(".gguf"):
        gguf_file.check_config(gguf_file.read(model), config)
    return config


def load_model(model: str | Path, dtype: str, device: str) -> PreTrainedModel:
    """A causal model in evaluation mode. dtype: float32, bfloat16 or float16; device: see `find_device`.

    UserError: no such device; the model cannot be loaded, lacks weights, has layer weights that would not be used, or
    sees the tokens that it should predict; or its attention implementations differ and it is not known which is right.
    """
    model = str(model)
    if device != "split":
        try:
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"--device {device}: torch cannot use it here ({cause(error)}): give another") from error
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
    """Print how many weights of a checkpoint the model does not use.

    UserError: weights are missing (transformers would initialise them at random and only warn), or an unused weight
    belongs to a layer of the model (a bias, a norm), so that the layer differs from the checkpoint's.
    """
    if missing := sorted(missing):
        raise UserError(f"{name}: {len(missing)} weights are missing ({missing[0]} …): download the model again")
    left_over = sorted(weight for weight in left_over if not MASKS.search(weight))
    layers = tuple(f"{path}." for path, _ in model.named_modules() if re.search(r"\.\d+$", path))
    if within := [weight for weight in left_over if weight.startswith(layers)]:
        raise UserError(
            f"{name}: {type(model).__name__} does not use {len(within)} weights of its own layers ({within[0]} …), "
            "so it is not the model that was saved: check config.json (biases, norms, model_type)"
        )
    if left_over:
        print(f"{name}: {len(left_over)} weights are not of the language model and are not used ({left_over[0]} …)")


def _known_attention(config: PreTrainedConfig) -> str | None:
    return next((kind for term, kind in ATTENTION.items() if getattr(config, term, None)), None)


@torch.inference_mode()
def check_attention(name: str, model: PreTrainedModel, tokens: int = 64) -> None:
    """Compare the chosen attention implementation with the plain one, "eager", on a short text.

    UserError: they differ, and ATTENTION does not say which is right.
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

    exact = 1e-3  # rounding alone gives 1e-5 in float32, usually 0.05 in bfloat16
    try:
        off, most = difference(), exact if model.dtype == torch.float32 else 0.2
        if off > most > exact:  # in 16 bits "eager" alone can be this far off: 0.5 nats for Qwen2.5 1.5B
            with in_float32(model):
                off, most = difference(), exact
    except (ValueError, RuntimeError, AttributeError, TypeError):  # it has no eager implementation
        return
    finally:
        model.set_attn_implementation(chosen)
    if off > most:  # False if `off` is NaN, which says nothing about a difference
        raise UserError(
            f'{name}: its attention implementations "{chosen}" and "eager" differ by {off:.2g} nats per token: find '
            "out which is right, and add the setting that tells to ATTENTION in common/pretrained.py"
        )


@contextlib.contextmanager
def in_float32(model: PreTrainedModel) -> Iterator[None]:
    """Weights in float32 inside the block, then as before. Buffers, e.g. the frequencies of RoPE, are left alone."""
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
    """Whether changing the last token changes earlier logits; transformers also loads encoders as causal models."""
    ids = torch.zeros(2, tokens, dtype=torch.long, device=model.device)
    ids[1, -1] = 1
    before = model(input_ids=ids).logits[:, :-1].float()
    # Rounding in bfloat16 is a hundredth of this threshold; in an encoder the change is many times larger.
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
    """Resolve "auto" to "cuda" or "cpu". "split" spreads layers over all GPUs. UserError: unknown name, or no GPU."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    known = r"cpu|mps|split" + r"|cuda(:\d+)?" * torch.cuda.is_available()
    if not re.fullmatch(known, device):
        raise UserError(f"--device {device}: give auto, cpu, mps, split, or cuda, cuda:1 … where torch sees a GPU")
    return device


def find_dtype(device: str) -> str:
    """bfloat16 if a GPU supports it in hardware, or a CPU multiplies matrices FASTER times as fast in it, else float32.

    device: from `find_device`. Some CPUs that have instructions for bfloat16 are slower in it.
    """
    if device.startswith("cuda") or (device == "split" and torch.cuda.is_available()):
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = device != "mps" and _product_seconds(torch.float32) > FASTER * _product_seconds(torch.bfloat16)
    return "bfloat16" if able else "float32"


def _product_seconds(dtype: torch.dtype) -> float:
    """CPU seconds of a product of matrices on one thread: other programs on the machine hardly change them."""
    a, b, threads = torch.ones(256, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype), torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for each other, which counts as CPU time
    try:
        return min(timeit.repeat(lambda: a @ b, timer=time.process_time, number=1, repeat=7))
    finally:
        torch.set_num_threads(threads)


def context_tokens(config: PreTrainedConfig) -> int | None:
    """Longest sequence the model takes, BOS included, in tokens; None if there is no limit (recurrent models)."""
    return next((value for name in CONTEXT if isinstance(value := getattr(config, name, None), int)), None)


def start_token(
    model: str,
    config: PreTrainedConfig,
    bos: str | None,
    documents: Path,
    facts: dict[str, Any],
    extent: tuple[int, int],
) -> tuple[int, str]:
    """Print and return the id and text of the token put before every text (the paper's "BOS"), and check the documents.

    bos: a token or its id; None: the tokenizer's BOS, or else its EOS (for a model that train.py trained on bytes or
    characters, its start token). facts: prepare.json of the documents; extent: the smallest and largest id in them.
    UserError: documents made with another tokenizer, no such token, or ids outside the vocabulary.
    """
    given = int(bos) if bos is not None and bos.isdecimal() else None
    try:
        tokenizer = load_tokenizer(model)
    except UserError:
        if given is None:
            raise
        tokenizer = None  # a model without its own tokenizer (DNA, say): the ids are checked below
    # Bytes and characters have no fingerprint, but the size of the vocabulary tells them apart.
    of_documents = facts.get("tokenizer_hash") or facts["tokenizer_vocab_size"]
    if tokenizer is not None and of_documents != (tokenizer.hash or tokenizer.size):
        raise UserError(
            f"{documents}: tokenised with {facts['tokenizer']}, which is not the tokenizer of {model} (another "
            f"vocabulary, or other cuts): prepare the documents with --tokenizer {model}"
        )
    hub = tokenizer.tokenizer if isinstance(tokenizer, HubTokenizer) else None
    if bos is not None:
        number, why = hub.get_vocab().get(bos) if hub is not None and given is None else given, "--bos"
    elif hub is None:  # train.py uses the first id after the tokenizer's as the start token
        number, why = config.bos_token_id, "its own"
    elif hub.bos_token_id is not None:
        number, why = hub.bos_token_id, "the tokenizer's BOS"
    else:  # models without BOS (Qwen, GPT-NeoX, …) saw their EOS between documents: the next best start token
        number, why = hub.eos_token_id, "the tokenizer's EOS, as it has no BOS"
    if number is None:
        what = "it has neither BOS nor EOS" if bos is None else f"--bos {bos} is not one of its tokens"
        raise UserError(f"{model}: {what}: give a start token, or its id, with --bos")
    for worst in (max(extent[1], number), extent[0]):
        if tokenizer is not None and config.vocab_size <= worst < tokenizer.size:
            raise UserError(
                f"{model}: its tokenizer has more tokens ({tokenizer.size}) than its embedding ({config.vocab_size}), "
                f"and token id {worst} is used: call resize_token_embeddings, train the new rows, and save it again"
            )
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
    """A hash of each file of a local model, to tell it from another model of the same name.

    For files over 1 GB, only the size and 64 megabytes, spread evenly, are hashed. Empty for a model of the hub, which
    its revision identifies.
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
