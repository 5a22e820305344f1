"""The models that are trained on Gaussian sequences: any backbone between two small networks (App. F; Table F.1).

    model = build("mamba-130m", copies=64, L=1024)
    mean, log_std = model(z)              # z: (draws, L, copies) → the law of z_t given z_<t, for every t at once

A token is a vector of `copies` numbers. The vocabulary embedding is replaced by a two-layer network (copies → width),
the output layer by one to a mean and a standard deviation for each copy. A zero token goes in front and the last token
is left out, so that the prediction of token t rests on the tokens before it alone.

Backbones are those of transformers from random weights, without dropout, and on a GPU a few of flash-linear-attention.
Mamba and Mamba2 take the kernels of mamba-ssm where they are installed; without them Mamba takes mambapy's scan.

To add a model, add a line to MODELS: a type below and what differs from its configuration's defaults.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from common.cli import UserError
from common.history_state import history_state


class Model(NamedTuple):
    """One line of MODELS."""

    kind: str
    """a type of TRANSFORMERS or FLA"""
    settings: dict[str, Any]
    """of its configuration"""
    positions: bool = False
    """not in the paper: whether a table of learned positions is added to the tokens"""


def _gpt2(layers: int, width: int, heads: int) -> Model:
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return Model("gpt2", {"n_layer": layers, "n_embd": width, "n_head": heads, **dropout})


def _mamba(layers: int, width: int, **settings: Any) -> Model:
    return Model("mamba", {"num_hidden_layers": layers, "hidden_size": width, "use_mambapy": True, **settings})


def _mamba2(layers: int, width: int, state: int = 128, head: int = 64, **settings: Any) -> Model:
    """Of its authors: inner width 2 · width, one group. The recurrence keeps layers · 2 · width · state elements."""
    heads = {"num_heads": 2 * width // head, "head_dim": head, "n_groups": 1}
    return Model(
        "mamba2", {"num_hidden_layers": layers, "hidden_size": width, "state_size": state, **heads, **settings}
    )


def _attention(kind: str, layers: int, width: int, heads: int, mlp: int, **settings: Any) -> Model:
    shape = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads, "intermediate_size": mlp}
    return Model(kind, {**shape, **settings})


def _hybrid(layers: int, width: int, heads: int, mlp: int, every: int) -> Model:
    """Gated DeltaNet, and in every `every`-th layer attention with half as many key-value heads."""
    names = ["linear_attention" if i % every else "full_attention" for i in range(1, layers + 1)]
    head = width // heads
    linear = {"linear_num_key_heads": heads, "linear_num_value_heads": heads}
    linear |= {"linear_key_head_dim": head, "linear_value_head_dim": head, "layer_types": names}
    return _attention(
        "qwen3_5_text", layers, width, heads, mlp, num_key_value_heads=heads // 2, head_dim=head, **linear
    )


def _with_positions(model: Model) -> Model:
    return model._replace(positions=True)


MODELS: dict[str, Model] = {
    # Table F.1; what it does not give is as in the configurations of the same names on the hub.
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
    # not in the paper: other architectures of about 130 million parameters with a vocabulary
    "gpt-neox-160m": _attention("gpt_neox", 12, 768, 12, 3072),
    "qwen3-130m": _attention("qwen3", 12, 768, 12, 2048, num_key_value_heads=4, head_dim=64),
    "window-130m": _attention("mistral", 12, 768, 12, 2048, num_key_value_heads=4, sliding_window=128),
    "hybrid-130m": _hybrid(12, 768, 12, 2048, every=4),
    "gated-deltanet-130m": Model(
        "gated_deltanet", {"num_hidden_layers": 12, "hidden_size": 768, "num_heads": 6, "head_dim": 128}
    ),
    "rwkv7-130m": Model("rwkv7", {"num_hidden_layers": 12, "hidden_size": 768}),
    "log-linear-130m": Model(
        "log_linear_mamba2",
        {"num_hidden_layers": 12, "hidden_size": 768, "num_heads": 24, "head_dim": 64, "n_groups": 1},
    ),
    # not in the paper: two layers, for a CPU. All have a table of positions: without one a recurrent model this small
    # stays far above what its state allows, perhaps because it has to learn to count (rows of 4, of 16, …), as the one
    # named no-pos shows. The number behind mamba2-mini is the size of its two recurrent states together; the kernel
    # of its convolutions is 2, so that they add only 520 to 768 to that.
    "gpt2-mini": _with_positions(_gpt2(2, 64, 8)),
    "gpt2-mini-32": _with_positions(_gpt2(2, 32, 4)),
    "gpt2-mini-128": _with_positions(_gpt2(2, 128, 8)),
    "qwen3-mini": _with_positions(_attention("qwen3", 2, 64, 8, 128, num_key_value_heads=4, head_dim=8)),
    "window-mini": _with_positions(_attention("mistral", 2, 64, 8, 128, num_key_value_heads=8, sliding_window=16)),
    "hybrid-mini": _with_positions(_hybrid(2, 64, 4, 128, every=2)),
    "mamba-mini": _with_positions(_mamba(2, 64, state_size=4)),
    "mamba-mini-32": _with_positions(_mamba(2, 32, state_size=4)),
    "mamba2-mini-256": _with_positions(_mamba2(2, 64, state=1, head=16, conv_kernel=2)),
    "mamba2-mini-512": _with_positions(_mamba2(2, 64, state=2, head=16, conv_kernel=2)),
    "mamba2-mini-2048": _with_positions(_mamba2(2, 64, state=8, head=16, conv_kernel=2)),
    "mamba2-mini-8192": _with_positions(_mamba2(2, 64, state=32, head=16, conv_kernel=2)),
    "mamba2-mini-2048-no-pos": _mamba2(2, 64, state=8, head=16, conv_kernel=2),
    # not in the paper: for the tests
    "tiny": _gpt2(2, 32, 2),
}
TRANSFORMERS: dict[str, tuple[type[PreTrainedConfig], type[PreTrainedModel]]] = {
    "gpt2": (transformers.GPT2Config, transformers.GPT2Model),
    "gpt_neox": (transformers.GPTNeoXConfig, transformers.GPTNeoXModel),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3Model),
    "mistral": (transformers.MistralConfig, transformers.MistralModel),
    "qwen3_5_text": (transformers.Qwen3_5TextConfig, transformers.Qwen3_5TextModel),
    "mamba": (transformers.MambaConfig, transformers.MambaModel),
    "mamba2": (transformers.Mamba2Config, transformers.Mamba2Model),
}
# flash-linear-attention's names; it needs a GPU.
FLA = {"gated_deltanet": "GatedDeltaNet", "rwkv7": "RWKV7", "log_linear_mamba2": "LogLinearMamba2"}


class GaussianModel(nn.Module):
    """A backbone between two small networks; `config` is the backbone's configuration."""

    def __init__(self, name: str, backbone: PreTrainedModel, copies: int, positions: int = 0) -> None:
        """positions: rows of a table of positions; 0 for none."""
        super().__init__()
        self.name, self.config = name, backbone.config
        width = backbone.config.hidden_size
        self.positions = nn.Embedding(positions, width) if positions else None
        if self.positions is not None:
            nn.init.normal_(self.positions.weight, std=0.5)  # the size of an embedded token
        # not in the paper: the inner width of both networks is the backbone's, their activation GELU
        self.embed = nn.Sequential(nn.Linear(copies, width), nn.GELU(), nn.Linear(width, width))
        self.backbone = backbone
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 2 * copies))

    def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log standard deviation of z_t given z_<t, (draws, L, copies) each; z: the same shape."""
        before = nn.functional.pad(z[:, :-1], (0, 0, 1, 0))
        tokens = self.embed(before)
        if self.positions is not None:
            tokens = tokens + self.positions.weight[: z.shape[1]]
        hidden = self.backbone(inputs_embeds=tokens, use_cache=False).last_hidden_state
        # not in the paper: the deviation comes as its logarithm, so that it is positive and near 1 at first
        mean, log_std = self.head(hidden).chunk(2, dim=-1)
        return mean, log_std


def build(name: str, copies: int, L: int) -> GaussianModel:
    """A model of MODELS with random weights, for tokens of `copies` numbers and sequences of at most L tokens.

    UserError: another name or kind, one that needs flash-linear-attention where that or a GPU is missing, or one whose
    history state is not known.
    """
    if name not in MODELS:
        raise UserError(f"no model {name!r}: choose {', '.join(MODELS)}, or add a line to MODELS of models.py")
    kind, settings, positions = MODELS[name]
    if kind not in TRANSFORMERS and kind not in FLA:
        raise UserError(f"model {name}: no kind {kind!r}: add a line to TRANSFORMERS of models.py")
    config_class, model_class = TRANSFORMERS[kind] if kind in TRANSFORMERS else _from_fla(name, kind)
    # A vocabulary of one: its embedding is never used, and thrown away below.
    ids = {"vocab_size": 1, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = config_class(use_cache=False, **ids, **settings, **_of_length(kind, L))
    history_state(config, L)  # a state that evaluate.py could not count is refused before any training
    backbone = model_class(config)
    backbone.set_input_embeddings(nn.Identity())
    return GaussianModel(name, backbone, copies, positions=L if positions else 0)


def _of_length(kind: str, L: int) -> dict[str, int]:
    """Settings that follow from the length: the table of positions, and a chunk of Mamba2 without much padding."""
    if kind == "mamba2":
        # No number depends on the chunk, only the time and memory of the scan; the kernels want a power of two from 16.
        return {"chunk_size": 64 if L >= 64 else 16}
    return {"max_position_embeddings": L} if kind in ("gpt2", "gpt_neox", "qwen3", "mistral", "qwen3_5_text") else {}


def _from_fla(name: str, kind: str) -> tuple[Callable[..., PreTrainedConfig], Callable[..., PreTrainedModel]]:
    """Imported only here: it is optional, and takes over transformers' names mamba and mamba2.

    UserError: it or a GPU is missing.
    """
    if not torch.cuda.is_available():
        raise UserError(f"model {name} runs on an NVIDIA GPU only, and none is seen here: choose another model")
    try:
        from fla import models as fla
    except ImportError as error:
        raise UserError(
            f"model {name} needs flash-linear-attention ({error}): pip install flash-linear-attention==0.6.0"
        ) from error
    return getattr(fla, f"{FLA[kind]}Config"), getattr(fla, f"{FLA[kind]}Model")
