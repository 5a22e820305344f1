"""The architectures to train, by name: those of Tables F.1 and F.2, and small ones for a CPU.

    config = configuration("mamba2-130m", L=1024, vocab_size=50_432)      # a configuration of transformers

`AutoModel.from_config(config)` and similar classes build a model with random weights; no model has dropout. Mamba and
Mamba2 use the kernels of mamba-ssm if they are installed; without them Mamba uses mambapy's scan.

To add one, add a line to MODELS: a model type of transformers, and the settings that differ from its defaults.
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig

import common.gru  # noqa: F401  # makes its model type known
from common.cli import UserError


class Architecture(NamedTuple):
    """One line of MODELS."""

    kind: str  # a model type of transformers
    settings: dict[str, Any]  # of its configuration, where they differ from the defaults
    positions: bool = False
    """not in the paper: whether a model of Gaussian sequences adds learned position embeddings to its tokens"""


def _gpt2(layers: int, width: int, heads: int, **settings: Any) -> Architecture:
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return Architecture("gpt2", {"n_layer": layers, "n_embd": width, "n_head": heads, **dropout, **settings})


def _attention(kind: str, layers: int, width: int, heads: int, mlp: int, **settings: Any) -> Architecture:
    shape = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads, "intermediate_size": mlp}
    return Architecture(kind, {**shape, **settings})


def _gpt_neox(layers: int, width: int, heads: int) -> Architecture:
    """GPT2's sizes; rotary positions over the full width of each head; output layer tied to the embedding."""
    rotation = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0}
    return _attention("gpt_neox", layers, width, heads, 4 * width, tie_word_embeddings=True, rope_parameters=rotation)


def _mamba(layers: int, width: int, **settings: Any) -> Architecture:
    return Architecture("mamba", {"num_hidden_layers": layers, "hidden_size": width, "use_mambapy": True, **settings})


def _mamba2(layers: int, width: int, state: int = 128, head: int = 64, **settings: Any) -> Architecture:
    """As in its authors' models: inner width 2 · width, one group, output layer tied to the embedding.

    The recurrences keep layers · 2 · width · state elements.
    """
    heads = {"num_heads": 2 * width // head, "head_dim": head, "n_groups": 1, "tie_word_embeddings": True}
    shape = {"num_hidden_layers": layers, "hidden_size": width, "state_size": state}
    return Architecture("mamba2", {**shape, **heads, **settings})


def _hybrid(layers: int, width: int, heads: int, mlp: int, every: int) -> Architecture:
    """Gated DeltaNet layers; every `every`-th layer is attention instead, with `heads` // 2 key-value heads."""
    names = ["linear_attention" if i % every else "full_attention" for i in range(1, layers + 1)]
    head = width // heads
    linear = {"linear_num_key_heads": heads, "linear_num_value_heads": heads}
    linear |= {"linear_key_head_dim": head, "linear_value_head_dim": head, "layer_types": names}
    return _attention(
        "qwen3_5_text", layers, width, heads, mlp, num_key_value_heads=heads // 2, head_dim=head, **linear
    )


def _with_positions(model: Architecture) -> Architecture:
    return model._replace(positions=True)


MODELS: dict[str, Architecture] = {
    # Tables F.1 and F.2; what they do not give is taken from the configurations of the same names on the hub.
    "gpt2": _gpt2(12, 768, 12),
    "gpt2-medium": _gpt2(24, 1024, 16),
    "gpt2-large": _gpt2(36, 1280, 20),
    "mamba-50m": _mamba(12, 512),
    "mamba-70m": _mamba(24, 512),
    "mamba-130m": _mamba(24, 768),
    "mamba-370m": _mamba(48, 1024),
    "mamba-790m": _mamba(48, 1536),
    "mamba-1.4b": _mamba(48, 2048),
    "mamba2-130m": _mamba2(24, 768),
    "mamba2-370m": _mamba2(48, 1024),
    "mamba2-790m": _mamba2(48, 1536),
    # not in the paper: two layers for Gaussian sequences on a CPU. All have learned position embeddings. Without them
    # the loss of such a small recurrent model stays far above what its state allows (see the names in -no-pos), perhaps
    # because it has to learn to count (rows of 4, of 16, …). The number after mamba2-mini is the total size of its two
    # recurrent states; its convolutions, with a kernel of 2, add only 520 or 768 elements.
    "gpt2-mini": _with_positions(_gpt2(2, 64, 8)),
    "hybrid-mini": _with_positions(_hybrid(2, 64, 4, 128, every=2)),
    "mamba-mini": _with_positions(_mamba(2, 64, state_size=4)),
    "mamba2-mini-256": _with_positions(_mamba2(2, 64, state=1, head=16, conv_kernel=2)),
    "mamba2-mini-8192": _with_positions(_mamba2(2, 64, state=32, head=16, conv_kernel=2)),
    # not in the paper: two layers of width 128 for Fig. 3 on a CPU; for other state sizes see `architecture` below.
    "gpt2-128": _with_positions(_gpt2(2, 128, 8)),
    "qwen3-128": _with_positions(_attention("qwen3", 2, 128, 8, 256, num_key_value_heads=8, head_dim=16)),
    "window-128": _with_positions(_attention("mistral", 2, 128, 8, 256, num_key_value_heads=8, sliding_window=16)),
    # not in the paper: for books on a CPU. Small, medium and large transformers have 0.8, 3.1 and 19 million parameters
    # without the vocabulary, and rotary positions, which need not be learnt. Mamba2 has about as many, in twice as many
    # layers, as in the tables. The recurrences of mamba2-mini keep 32,768, 65,536 and 196,608 elements, those of
    # -state1 a 16th of that.
    "gpt_neox-mini-small": _gpt_neox(4, 128, 4),
    "gpt_neox-mini-medium": _gpt_neox(4, 256, 8),
    "gpt_neox-mini-large": _gpt_neox(6, 512, 16),
    "mamba2-mini-small": _mamba2(8, 128, state=16, head=32),
    "mamba2-mini-small-state1": _mamba2(8, 128, state=1, head=32),
    "mamba2-mini-medium": _mamba2(8, 256, state=16, head=32),
    "mamba2-mini-medium-state1": _mamba2(8, 256, state=1, head=32),
    "mamba2-mini-large": _mamba2(12, 512, state=16, head=32),
    # not in the paper: for the tests
    "tiny": _gpt2(2, 32, 2),
}


SIZED = re.compile(r"(gru|mamba2)-(\d+)-(\d+)(-no-pos)?")
HEAD = 16  # width of the heads of mamba2-WIDTH-STATE


def architecture(name: str) -> Architecture:
    """The architecture called `name`: one of MODELS, or gru-WIDTH-STATE or mamba2-WIDTH-STATE, e.g. gru-128-64.

    STATE: elements of all recurrent states together. A suffix -no-pos leaves out the position embeddings. UserError: no
    such name, or a size that the states of this kind cannot have.
    """
    if name in MODELS:
        return MODELS[name]
    if not (found := SIZED.fullmatch(name)):
        named = f"{', '.join(MODELS)}, gru-WIDTH-STATE or mamba2-WIDTH-STATE"
        raise UserError(f"no model {name!r}: choose {named}, or add a line to common/architectures.py")
    kind, width, state = found[1], int(found[2]), int(found[3])
    if min(width, state) < 1:
        raise UserError(f"model {name}: width and state are at least 1")
    gru = {"num_hidden_layers": 1, "hidden_size": width, "state_size": state}
    sized = Architecture("gru", gru) if kind == "gru" else _narrow_mamba2(width, state)
    return sized if found[4] else _with_positions(sized)


def _narrow_mamba2(width: int, elements: int) -> Architecture:
    """Two Mamba2 layers whose recurrences keep `elements`, 2 · inner width · N with N state columns; kernel 2.

    The inner width is as close to 8 · N as possible, and may be below `width`. In addition, the convolutions keep
    2 · (inner width + 2 · N) elements per layer.
    """
    layers = 2
    product, rest = divmod(elements, layers * HEAD)
    if rest or not product:
        nearest = layers * HEAD * max(1, round(elements / (layers * HEAD)))
        raise UserError(
            f"mamba2 has no state of {elements} elements: give a multiple of {layers * HEAD}, e.g. {nearest}"
        )
    heads = min(
        (heads for heads in range(1, product + 1) if product % heads == 0),
        key=lambda heads: abs(math.log(heads * HEAD / (product / heads) / 8)),
    )
    shape = {"num_hidden_layers": layers, "hidden_size": width, "state_size": product // heads, "conv_kernel": 2}
    heads_of = {"expand": heads * HEAD / width, "num_heads": heads, "head_dim": HEAD, "n_groups": 1}
    return Architecture("mamba2", {**shape, **heads_of})


def configuration(name: str, L: int, **ids: int | None) -> PreTrainedConfig:
    """The configuration of an `architecture`, for at most L tokens; ids: vocab_size and ids of special tokens.

    UserError: an unknown name, a model type or a setting that transformers lacks, or sizes that it refuses.
    """
    kind, settings, _ = architecture(name)
    # transformers' Mamba2 works with an inner width below the width, but its configuration needs an integer `expand`.
    narrow = {key: settings[key] for key in ("expand", "num_heads", "head_dim") if settings.get("expand")}
    whole = {"expand": 1, "num_heads": 1, "head_dim": settings["hidden_size"]} if narrow else {}
    try:
        default = AutoConfig.for_model(kind)
    except ValueError as error:
        raise UserError(f"model {name}: transformers has no model type {kind!r}: correct its line in MODELS") from error
    unknown = [key for key in settings if not hasattr(default, key)]  # transformers would keep and ignore them
    if unknown:
        raise UserError(f"model {name}: {kind} has no setting {', '.join(unknown)}: correct its line in MODELS")
    try:
        config = AutoConfig.for_model(kind, use_cache=False, **ids, **settings | whole)
    except StrictDataclassError as error:  # sizes that do not divide
        reason = str(error).splitlines()[-1].strip().removeprefix("ValueError: ").rstrip(".!")
        raise UserError(f"model {name}: {reason}: correct its line in MODELS") from error
    vars(config).update(narrow)
    if hasattr(config, "max_position_embeddings"):
        config.max_position_embeddings = L
    if kind == "mamba2":
        # The chunk changes only the time and memory of the scan; the kernels need a power of two of at least 16.
        config.chunk_size = 32 if L >= 32 else 16
    return config
