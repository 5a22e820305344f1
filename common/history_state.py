"""How many numbers a model carries from the past into the future, by its configuration alone: dim(z) of Def. 5.1.

    config = AutoConfig.from_pretrained("state-spaces/mamba-130m-hf")
    history_state(config, 4096)           # elements after 4,096 tokens, all layers
    state_by_kind(config, 4096)           # {"mamba_recurrence": …, "mamba_convolution": …}
    parts(config)                         # what each layer keeps, and how that grows

Elements of one sequence, as the tensors of the cache hold them; no model is built. Formulas, with H heads of width D,
kernel K of the convolution and state size N, for each layer:
    attention               2 · H_kv · D for each token, of all (full) or of the last window − 1 (sliding)
    Mamba                   I · N + I · K, I the inner width
    Mamba2                  H · D · N + (H · D + 2 · groups · N) · K
    gated DeltaNet          H_v · D_k · D_v + (2 · H_k · D_k + H_v · D_v) · K
    short convolution       width · K
    RWKV-7                  H · D · D_v + 2 · width (the token before, in both halves of a layer)
    log-linear Mamba2       Mamba2's recurrence for each level of ⌊log₂ ℓ⌋ + 1, and its convolution
Of the K columns of a convolution the cache holds, K − 1 carry information; they are counted as they are kept. A model
type that is not listed here is refused: its state is not guessed from the names of its settings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from common.cli import UserError


@dataclass(frozen=True)
class Part:
    """What one layer keeps of one kind: `fixed` elements, and `per_token` for each of the last `reach` tokens."""

    layer: int
    kind: str
    fixed: int = 0
    per_token: int = 0
    reach: int | None = None
    """tokens; None: all of them"""
    per_level: int = 0
    """elements for each level of a hierarchy over the tokens, of which ℓ tokens have ⌊log₂ ℓ⌋ + 1"""

    def elements(self, context: int) -> int:
        tokens = context if self.reach is None else min(context, self.reach)
        return self.fixed + self.per_token * tokens + self.per_level * context.bit_length()


def history_state(config: PreTrainedConfig, context: int) -> int:
    """Elements of the history state after `context` tokens. UserError: as `parts`, or fewer than one token."""
    return sum(state_by_kind(config, context).values())


def state_by_kind(config: PreTrainedConfig, context: int) -> dict[str, int]:
    """The same by kind of part, over all layers, in the order in which the kinds first appear. UserError as there."""
    if context < 1:
        raise UserError(f"a context of {context} tokens: give at least 1")
    elements: dict[str, int] = {}
    for part in parts(config):
        elements[part.kind] = elements.get(part.kind, 0) + part.elements(context)
    return elements


def parts(config: PreTrainedConfig) -> list[Part]:
    """What every layer keeps, bottom first. UserError that names a model type or layer type of unknown state."""
    config = config.get_text_config(decoder=True)
    if config.model_type not in RECURRENT and config.model_type not in ATTENTION:
        known = ", ".join(sorted({*RECURRENT, *ATTENTION}))
        raise UserError(f"the history state of model type {config.model_type!r} is not known here, but of: {known}")
    if getattr(config, "attn", None):  # flash-linear-attention: attention in some layers, with settings of its own
        raise UserError(f"model type {config.model_type!r} with attention layers (attn): its state is not known here")
    return [part for layer, kind in enumerate(layer_types(config)) for part in _layer(config, layer, kind)]


def layer_types(config: PreTrainedConfig) -> list[str]:
    """transformers' name for each layer; a window that holds for all layers may stand in the configuration alone."""
    named = getattr(config, "layer_types", None)
    if named is not None:
        return list(named)
    if config.model_type in ATTENTION:
        kind = "full_attention" if getattr(config, "sliding_window", None) is None else "sliding_attention"
    else:
        kind = "linear_attention"
    return [kind] * config.num_hidden_layers


def _layer(config: PreTrainedConfig, layer: int, kind: str) -> list[Part]:
    recurrent = RECURRENT.get(config.model_type)
    if kind in ("moe", "mlp"):  # layers of their own in some hybrids
        return []
    if kind in ("full_attention", "sliding_attention") and config.model_type in ATTENTION:
        return [_attention(config, layer, kind)]
    if kind in ("linear_attention", "conv") and recurrent:
        return recurrent(config, layer)
    if kind == "hybrid" and recurrent and config.model_type in ATTENTION:  # both, side by side
        return [_attention(config, layer, "full_attention"), *recurrent(config, layer)]
    raise UserError(
        f"layer {layer} of model type {config.model_type!r} is {kind!r}, whose history state is not known here"
    )


def _attention(config: PreTrainedConfig, layer: int, kind: str) -> Part:
    """Keys and values. The cache holds window − 1 tokens: the last of the window is the one that asks."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    reach = config.sliding_window - 1 if kind == "sliding_attention" else None
    return Part(layer, kind, per_token=2 * heads * width, reach=reach)


def _mamba(layer: int, inner: int, state: int, kernel: int) -> list[Part]:
    return [Part(layer, "mamba_recurrence", inner * state), Part(layer, "mamba_convolution", inner * kernel)]


def _mamba2(layer: int, heads: int, width: int, state: int, groups: int, kernel: int) -> list[Part]:
    convolution = (heads * width + 2 * groups * state) * kernel
    return [Part(layer, "mamba2_recurrence", heads * width * state), Part(layer, "mamba2_convolution", convolution)]


def _delta(layer: int, key_heads: int, key: int, value_heads: int, value: int, kernel: int) -> list[Part]:
    convolution = (2 * key_heads * key + value_heads * value) * kernel
    return [
        Part(layer, "deltanet_recurrence", value_heads * key * value),
        Part(layer, "deltanet_convolution", convolution),
    ]


def _of_mamba(c: Any, layer: int) -> list[Part]:
    return _mamba(layer, c.intermediate_size, c.state_size, c.conv_kernel)


def _of_mamba2(c: Any, layer: int) -> list[Part]:
    return _mamba2(layer, c.num_heads, c.head_dim, c.state_size, c.n_groups, c.conv_kernel)


def _of_jamba(c: Any, layer: int) -> list[Part]:
    return _mamba(layer, c.mamba_expand * c.hidden_size, c.mamba_d_state, c.mamba_d_conv)


def _of_bamba(c: Any, layer: int) -> list[Part]:
    return _mamba2(layer, c.mamba_n_heads, c.mamba_d_head, c.mamba_d_state, c.mamba_n_groups, c.mamba_d_conv)


def _of_nemotron(c: Any, layer: int) -> list[Part]:
    return _mamba2(layer, c.mamba_num_heads, c.mamba_head_dim, c.ssm_state_size, c.n_groups, c.conv_kernel)


def _of_qwen(c: Any, layer: int) -> list[Part]:
    heads = c.linear_num_key_heads, c.linear_key_head_dim, c.linear_num_value_heads, c.linear_value_head_dim
    return _delta(layer, *heads, c.linear_conv_kernel_dim)


def _of_lfm2(c: Any, layer: int) -> list[Part]:
    return [Part(layer, "short_convolution", c.hidden_size * c.conv_L_cache)]


def _of_gated_deltanet(c: Any, layer: int) -> list[Part]:
    value_heads, kernel = c.num_v_heads or c.num_heads, c.conv_size if c.use_short_conv else 0
    return _delta(layer, c.num_heads, c.head_dim, value_heads, int(c.head_dim * c.expand_v), kernel)


def _of_rwkv7(c: Any, layer: int) -> list[Part]:
    values = c.value_dim[layer] if isinstance(c.value_dim, (list, tuple)) else c.value_dim or c.hidden_size
    return [Part(layer, "rwkv7_recurrence", c.head_dim * values), Part(layer, "rwkv7_shift", 2 * c.hidden_size)]


def _of_log_linear(c: Any, layer: int) -> list[Part]:
    recurrence, convolution = _of_mamba2(c, layer)
    return [Part(layer, "log_linear_recurrence", per_level=recurrence.fixed), convolution]


# Model types by what their recurrent layers keep; those in ATTENTION too are hybrids.
RECURRENT: dict[str, Callable[[Any, int], list[Part]]] = {
    "mamba": _of_mamba,
    "falcon_mamba": _of_mamba,
    "mamba2": _of_mamba2,
    "jamba": _of_jamba,
    "bamba": _of_bamba,
    "falcon_h1": _of_bamba,
    "granitemoehybrid": _of_bamba,
    "nemotron_h": _of_nemotron,
    "qwen3_next": _of_qwen,
    "qwen3_5_text": _of_qwen,
    "olmo_hybrid": _of_qwen,
    "lfm2": _of_lfm2,
    "gated_deltanet": _of_gated_deltanet,
    "rwkv7": _of_rwkv7,
    "log_linear_mamba2": _of_log_linear,
}
# Model types whose attention layers keep ordinary keys and values, of all tokens or of a window.
ATTENTION = frozenset(
    (
        *("gpt2", "gptj", "gpt_neox", "opt", "llama", "mistral", "mixtral", "ministral", "qwen2", "qwen2_moe", "qwen3"),
        *("qwen3_moe", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "olmo", "olmo2", "olmo3", "cohere", "cohere2"),
        *("smollm3", "starcoder2", "gpt_oss", "granite", "stablelm"),
        *("jamba", "bamba", "falcon_h1", "granitemoehybrid", "nemotron_h", "qwen3_next", "qwen3_5_text"),
        *("olmo_hybrid", "lfm2"),
    )
)
