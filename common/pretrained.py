"""Models and tokenizers of the Hugging Face hub, of a local folder or of a GGUF file, the same way in every program.

config = load_config("HuggingFaceTB/SmolLM2-135M")                   # without weights
model = load_model("data/sample/model/SmolLM2-135M-Instruct.Q4_1.gguf", "float32", find_device("auto"))
start = start_token("HuggingFaceTB/SmolLM2-135M", config, None, folder, facts, (0, 49_151))
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from common.cli import UserError
from common.record import vocabulary_hash


def locate(model: str) -> tuple[str, dict[str, str]]:
    """Split a model's name into what `from_pretrained` wants: a .gguf file is named by its folder and `gguf_file`."""
    path = Path(model)
    return (str(path.parent), {"gguf_file": path.name}) if path.suffix == ".gguf" else (model, {})


def _from_pretrained(kind: Any, what: str, model: str, **options: Any) -> Any:
    name, gguf = locate(model)
    if gguf and not Path(model).is_file() and not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise UserError(f"{model}: no such GGUF file: give the path of a file that is there")
    try:
        return kind.from_pretrained(name, **gguf, **options)
    except torch.OutOfMemoryError as error:
        raise UserError(f"{model}: the {what} do not fit the GPU: use --dtype bfloat16, or --device split") from error
    except Exception as error:  # the loaders raise almost anything at a damaged file
        reason = " ".join(str(error).split())[:300]
        remedy = (
            "check that the folder is complete (config.json, tokenizer files, weights)"
            if Path(name).exists()
            else "check the spelling, or that the hub can be reached; a local folder or a .gguf file works without it"
        )
        raise UserError(f"{model}: could not load the {what}: {remedy} ({type(error).__name__}: {reason})") from error


def load_config(model: str) -> PreTrainedConfig:
    """The text model's configuration, without weights. UserError if it cannot be had."""
    return _from_pretrained(AutoConfig, "configuration", model).get_text_config(decoder=True)


def load_tokenizer(model: str) -> Any:
    """The model's tokenizer. UserError if it cannot be had."""
    return _from_pretrained(AutoTokenizer, "tokenizer", model)


def load_model(model: str, dtype: str, device: str) -> PreTrainedModel:
    """A causal model, for evaluation. dtype: float32, bfloat16 or float16; device: see `find_device`.

    UserError: it cannot be had, is not whole, or sees the tokens that it should predict.
    """
    options = {"device_map": "auto" if device == "split" else device, "dtype": getattr(torch, dtype)}
    # An incomplete checkpoint would otherwise be filled up with random weights and a warning.
    loaded, report = _from_pretrained(AutoModelForCausalLM, "weights", model, output_loading_info=True, **options)
    if report["missing_keys"]:
        some = ", ".join(sorted(report["missing_keys"])[:3])
        raise UserError(f"{model}: {len(report['missing_keys'])} weights are missing ({some} …): fetch the model again")
    if sees_what_follows(loaded.eval()):
        raise UserError(
            f"{model}: {type(loaded).__name__} reads the tokens that follow as well (an encoder, as BERT), so its "
            "log-probabilities are no predictions: give a causal model"
        )
    return loaded


@torch.inference_mode()
def sees_what_follows(model: PreTrainedModel, tokens: int = 8) -> bool:
    """Whether another last token changes the logits before it. transformers loads encoders as causal models, too."""
    ids = torch.zeros(2, tokens, dtype=torch.long, device=model.device)
    ids[1, -1] = 1
    before = model(input_ids=ids).logits[:, :-1].float()
    # Rounding in bfloat16 is a hundredth of this, what an encoder sees many times as much.
    return bool((before[0] - before[1]).abs().max() > 0.05 * before.std())


def find_device(device: str) -> str:
    """auto: a GPU if there is one. split: the layers over all GPUs. UserError: an unknown name, a GPU without one."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|mps|split|cuda(:\d+)?", device):
        raise UserError(f"--device {device}: give auto, cpu, cuda, cuda:1 or the like, mps, or split")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {device}: torch sees no GPU here: use --device cpu, or a CUDA build of torch")
    return device


def context_tokens(config: PreTrainedConfig) -> int | None:
    """Longest sequence the model takes, BOS included, in tokens; None if nothing bounds it (recurrent models)."""
    return getattr(config, "max_position_embeddings", None)


def start_token(
    model: str,
    config: PreTrainedConfig,
    bos: str | None,
    documents: Path,
    facts: dict[str, Any],
    extent: tuple[int, int],
) -> int:
    """The id that stands in front of every text, once the documents have been found to be the model's.

    bos: a token or its id; None: the tokenizer's BOS, or else its EOS. facts: prepare.json of the documents;
    extent: the least and the largest id in them. UserError: documents of another tokenizer, no BOS, ids outside the
    vocabulary.
    """
    start = int(bos) if bos is not None and bos.isdecimal() else None
    try:
        tokenizer = load_tokenizer(model)
    except UserError:
        if start is None:
            raise
        # A model without a tokenizer of its own (bytes, DNA): the ids themselves are checked below.
    else:
        start = _bos(model, tokenizer, bos) if start is None else start
        if facts.get("tokenizer_hash") != vocabulary_hash(tokenizer.get_vocab()):
            raise UserError(
                f"{documents}: tokenised with {facts['tokenizer']}, whose vocabulary is not that of {model}: prepare "
                f"the documents with --tokenizer {model}"
            )
    largest = max(extent[1], start)
    if largest >= config.vocab_size or extent[0] < 0:
        worst = largest if largest >= config.vocab_size else extent[0]
        raise UserError(
            f"{documents}: token id {worst} is outside the vocabulary of {model} (0 … {config.vocab_size - 1}): "
            f"prepare the documents with --tokenizer {model}, or give a --bos within it"
        )
    return start


def _bos(model: str, tokenizer: Any, bos: str | None) -> int:
    if bos is not None:
        if bos not in tokenizer.get_vocab():
            raise UserError(f"--bos {bos}: not a token of {model}: give one of its tokens, or a token id")
        return tokenizer.convert_tokens_to_ids(bos)
    if tokenizer.bos_token_id is not None:
        return tokenizer.bos_token_id
    if tokenizer.eos_token_id is None:
        raise UserError(f"{model}: its tokenizer has neither BOS nor EOS: name a token to begin with by --bos")
    # Models without BOS (Qwen, GPT-NeoX, …) saw their EOS between documents: the next best beginning of a text.
    print(f"{model} has no BOS token: {tokenizer.eos_token} stands for it")
    return tokenizer.eos_token_id


def model_fingerprint(model: str) -> dict[str, str]:
    """What tells a local model from another of the same name: a hash of each file.

    Of files over 1 GB the size and 64 megabytes spread evenly over them are hashed. Empty for a model of the hub, which
    its revision tells.
    """
    path = Path(model)
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path] if path.is_file() else []
    found = {}
    for file in files:
        size, block = file.stat().st_size, 1 << 20
        digest = hashlib.sha256(str(size).encode())
        places = range(0, size, block) if size <= 1 << 30 else np.linspace(0, size - block, 64).astype(int).tolist()
        with open(file, "rb") as stream:
            for place in places:
                stream.seek(place)
                digest.update(stream.read(block))
        found[file.name] = digest.hexdigest()[:16]
    return found
