"""What one layer of each model type keeps of the past; common/history_state.py adds the layers up.

Elements of one sequence, as the tensors of transformers' cache hold them. With H heads of width D, kernel K of the
convolution and state size N:
    attention               2 · H_kv · D a token: of all (full), of the last window − 1 (sliding) or chunk − 1 (chunked)
    latent attention (MLA)  kv_lora_rank + qk_rope_head_dim a token, from which all heads' keys and values follow
    indexer                 index_head_dim a token beside it (sparse attention still keeps every token)
    compressed attention    D a token of the last window − 1, D for each whole block of tokens, and an unfinished block
    Mamba                   I · N + I · K, I the inner width
    Mamba2                  H · D · N + (H · D + 2 · groups · N) · K
    gated DeltaNet          H_v · D_k · D_v + (2 · H_k · D_k + H_v · D_v) · K, and Kimi's the same with H_k = H_v
    lightning attention     H · D · D
    RG-LRU                  width + width · (K − 1)
    short convolution       width · K
    RWKV-4                  3 · width (numerator, denominator, exponent), and the token before, in both halves
    RWKV-7                  H · D · D_v, and the token before, in both halves of a layer, 2 · width
    xLSTM                   H · (D_k · D_v + D_k + 1)
    log-linear Mamba2       Mamba2's recurrence for each level of ⌊log₂ ℓ⌋ + 1, and its convolution
Of the K columns of a convolution that a cache holds, K − 1 carry information, and of a chunk those since it began; they
are counted as they are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from transformers import PreTrainedConfig

from common.cli import UserError


class Growth(NamedTuple):
    """A size grows as ℓ^exponent · (ln ℓ)^logarithms."""

    exponent: int
    logarithms: int


@dataclass(frozen=True)
class Bits:
    """Bits of one element, by what it is."""

    cache: int = 16
    """keys, values, latents and indexer keys: 16 as computed; 8, 4, … quantised"""
    recurrent: int = 32
    """recurrent states, which most implementations keep in float32"""
    inputs: int = 16
    """the last inputs that convolutions and token shifts hold"""
    group: int = 0
    """elements of a quantised cache that share a scale; 0: no scales"""
    group_overhead: int = 32
    """bits a group: a scale and a zero point of 16 each"""

    def validate(self) -> None:
        for name, least in dict(cache=1, recurrent=1, inputs=1, group=0, group_overhead=0).items():
            if getattr(self, name) < least:
                raise UserError(f"bits: {name} is {getattr(self, name)}: give at least {least}")


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
    block: int = 1
    """tokens that share the `per_token` elements once there are that many"""
    per_waiting: int = 0
    """elements for each token of the unfinished block"""
    store: str = "cache"
    """which of Bits an element has: cache, recurrent or inputs"""

    def elements(self, context: int) -> int:
        tokens = context if self.reach is None else min(context, self.reach)
        per_token = self.per_token * (tokens // self.block) + self.per_waiting * (tokens % self.block)
        return self.fixed + per_token + self.per_level * context.bit_length()

    def bits(self, context: int, bits: Bits) -> int:
        elements = self.elements(context)
        scales = -(-elements // bits.group) * bits.group_overhead if self.store == "cache" and bits.group else 0
        return elements * getattr(bits, self.store) + scales

    @property
    def growth(self) -> Growth:
        if self.per_token and self.reach is None:
            return Growth(1, 0)
        return Growth(0, 1 if self.per_level else 0)


class Settings:
    """The settings of one layer, so that one that is missing or makes no sense is an error that names it."""

    def __init__(self, config: PreTrainedConfig) -> None:
        self._config = config

    def get(self, name: str, default: Any = None) -> Any:
        value = getattr(self._config, name, None)
        return default if value is None else value

    def __getattr__(self, name: str) -> Any:
        value, model_type = self.get(name), self._config.model_type
        if value is None:
            raise UserError(f"a configuration of model type {model_type!r} without {name}: add it")
        if isinstance(value, str) or (isinstance(value, (int, float)) and not isinstance(value, bool) and value <= 0):
            raise UserError(f"{name} of model type {model_type!r} is {value!r}: give a positive number")
        return value


def attention(c: Settings, layer: int, kind: str) -> list[Part]:
    """Keys and values. The cache holds window − 1 tokens: the last of the window is the one that asks."""
    reach = None
    if kind == "sliding_attention":
        reach = c.sliding_window - 1
    elif kind == "chunked_attention":
        reach = c.attention_chunk_size - 1
    return [Part(layer, kind, per_token=2 * key_value_heads(c) * head_width(c), reach=reach)]


def key_value_heads(c: Settings) -> int:
    if c.get("multi_query") and not c.get("new_decoder_architecture"):  # Falcon, StarCoder
        return 1
    heads = c.num_attention_heads
    grouped = c.num_key_value_heads if c.get("num_key_value_heads") is not None else c.get("num_kv_heads", heads)
    if heads % grouped:
        raise UserError(
            f"num_attention_heads {heads} is not a multiple of num_key_value_heads {grouped}: each key-value head "
            "serves equally many"
        )
    return grouped


def head_width(c: Settings) -> int:
    if c.get("head_dim") is not None:
        return c.head_dim
    if c.hidden_size % c.num_attention_heads:
        raise UserError(
            f"hidden_size {c.hidden_size} is not a multiple of num_attention_heads {c.num_attention_heads}: "
            "give head_dim, or numbers that divide"
        )
    return c.hidden_size // c.num_attention_heads


def latent(c: Settings, layer: int, kind: str, expand: bool) -> list[Part]:
    """MLA. expand: as a cache would hold it that keeps the keys and values of all heads instead of their latent."""
    rope = c.get("qk_rope_head_dim", 0)
    per_token = c.kv_lora_rank + rope
    if expand:
        per_token = c.num_attention_heads * (c.qk_nope_head_dim + rope + c.v_head_dim)
    found = [Part(layer, "expanded_latent" if expand else "latent_attention", per_token=per_token)]
    # Some layers reuse the choice that the indexer of a layer below made.
    if kind == "indexed_attention" and c.get("indexer_types", ["full"] * (layer + 1))[layer] == "full":
        found.append(Part(layer, "indexer_keys", per_token=c.index_head_dim))
    return found


def compressed(c: Settings, layer: int, kind: str) -> list[Part]:
    """DeepSeek V4: keys that are also the values, of a window, and one for each block of tokens, however far back.

    The sparse kind keeps a second, smaller row of blocks for its indexer; its blocks overlap, so that inputs are twice
    as wide and half of those of the last whole block stay. Inputs wait with their gates, of the same width.
    """
    found = [Part(layer, "sliding_attention", per_token=c.head_dim, reach=c.sliding_window - 1)]
    if kind == "sliding_attention":
        return found
    rate, sparse = c.compress_rates[kind], kind == "compressed_sparse_attention"
    widths = {"compressed_attention": c.head_dim} | ({"indexer_keys": c.index_head_dim} if sparse else {})
    for name, width in widths.items():
        waiting = 2 * width * (2 if sparse else 1)
        found.append(Part(layer, name, per_token=width, block=rate, per_waiting=waiting))
        if sparse:
            found.append(Part(layer, "block_overlap", per_token=2 * rate * width, block=rate, reach=rate))
    return found


def recurrence(layer: int, name: str, state: int, inputs: int, shift: str = "convolution") -> list[Part]:
    found = [Part(layer, f"{name}_recurrence", state, store="recurrent")]
    return found + [Part(layer, f"{name}_{shift}", inputs, store="inputs")] * (inputs > 0)


def mamba(layer: int, inner: int, state: int, kernel: int) -> list[Part]:
    return recurrence(layer, "mamba", inner * state, inner * kernel)


def mamba2(layer: int, heads: int, width: int, state: int, groups: int, kernel: int) -> list[Part]:
    return recurrence(layer, "mamba2", heads * width * state, (heads * width + 2 * groups * state) * kernel)


def delta(layer: int, name: str, key_heads: int, key: int, value_heads: int, value: int, kernel: int) -> list[Part]:
    return recurrence(layer, name, value_heads * key * value, (2 * key_heads * key + value_heads * value) * kernel)


def _of_mamba(c: Settings, layer: int) -> list[Part]:
    return mamba(layer, c.intermediate_size, c.state_size, c.conv_kernel)


def _of_mamba2(c: Settings, layer: int) -> list[Part]:
    return mamba2(layer, c.num_heads, c.head_dim, c.state_size, c.n_groups, c.conv_kernel)


def _of_jamba(c: Settings, layer: int) -> list[Part]:
    return mamba(layer, c.mamba_expand * c.hidden_size, c.mamba_d_state, c.mamba_d_conv)


def _of_bamba(c: Settings, layer: int) -> list[Part]:
    return mamba2(layer, c.mamba_n_heads, c.mamba_d_head, c.mamba_d_state, c.mamba_n_groups, c.mamba_d_conv)


def _of_nemotron(c: Settings, layer: int) -> list[Part]:
    return mamba2(layer, c.mamba_num_heads, c.mamba_head_dim, c.ssm_state_size, c.n_groups, c.conv_kernel)


def _of_zamba2(c: Settings, layer: int) -> list[Part]:
    return mamba2(layer, c.n_mamba_heads, c.mamba_headdim, c.mamba_d_state, c.mamba_ngroups, c.mamba_d_conv)


def _of_qwen(c: Settings, layer: int) -> list[Part]:
    heads = c.linear_num_key_heads, c.linear_key_head_dim, c.linear_num_value_heads, c.linear_value_head_dim
    return delta(layer, "deltanet", *heads, c.linear_conv_kernel_dim)


def _of_kimi(c: Settings, layer: int) -> list[Part]:
    heads = c.linear_num_heads, c.linear_head_dim
    return delta(layer, "kda", *heads, *heads, c.linear_conv_kernel_dim)


def _of_fla_delta(c: Settings, layer: int, name: str) -> list[Part]:
    value_heads, kernel = c.get("num_v_heads", c.num_heads), c.conv_size if c.use_short_conv else 0
    return delta(layer, name, c.num_heads, c.head_dim, value_heads, int(c.head_dim * c.expand_v), kernel)


def _of_lfm2(c: Settings, layer: int) -> list[Part]:
    return [Part(layer, "short_convolution", c.hidden_size * c.conv_L_cache, store="inputs")]


def _of_minimax(c: Settings, layer: int) -> list[Part]:
    return recurrence(layer, "lightning", c.num_attention_heads * head_width(c) ** 2, 0)


def _of_recurrent_gemma(c: Settings, layer: int) -> list[Part]:
    return recurrence(layer, "rglru", c.lru_width, c.lru_width * (c.conv1d_width - 1))


def _of_rwkv4(c: Settings, layer: int) -> list[Part]:
    return recurrence(layer, "rwkv4", 3 * c.attention_hidden_size, 2 * c.hidden_size, "shift")


def _of_rwkv7(c: Settings, layer: int) -> list[Part]:
    values = c.get("value_dim", c.hidden_size)
    values = values[layer] if isinstance(values, (list, tuple)) else values
    return recurrence(layer, "rwkv7", c.head_dim * values, 2 * c.hidden_size, "shift")


def _of_xlstm(c: Settings, layer: int) -> list[Part]:
    return recurrence(layer, "xlstm", c.num_heads * (c.qk_head_dim * c.v_head_dim + c.qk_head_dim + 1), 0)


def _of_log_linear(c: Settings, layer: int) -> list[Part]:
    state, convolution = _of_mamba2(c, layer)
    return [Part(layer, "log_linear_recurrence", per_level=state.fixed, store="recurrent"), convolution]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Model types by what their recurrent layers keep; those in ATTENTION or LATENT too are hybrids.
RECURRENT: dict[str, Callable[[Settings, int], list[Part]]] = {
    "mamba": _of_mamba,
    "falcon_mamba": _of_mamba,
    "mamba2": _of_mamba2,
    "jamba": _of_jamba,
    "bamba": _of_bamba,
    "falcon_h1": _of_bamba,
    "granitemoehybrid": _of_bamba,
    "nemotron_h": _of_nemotron,
    "zamba": _of_jamba,
    "zamba2": _of_zamba2,
    "qwen3_next": _of_qwen,
    "qwen3_5_text": _of_qwen,
    "qwen3_5_moe_text": _of_qwen,
    "olmo_hybrid": _of_qwen,
    "kimi_linear": _of_kimi,
    "minimax": _of_minimax,
    "recurrent_gemma": _of_recurrent_gemma,
    "lfm2": _of_lfm2,
    "lfm2_moe": _of_lfm2,
    "rwkv": _of_rwkv4,
    "xlstm": _of_xlstm,
    "gated_deltanet": partial(_of_fla_delta, name="deltanet"),
    "kda": partial(_of_fla_delta, name="kda"),
    "rwkv7": _of_rwkv7,
    "log_linear_mamba2": _of_log_linear,
}
# Model types whose attention layers keep ordinary keys and values, of all tokens, of a window or of a chunk.
ATTENTION = _names(
    """
    afmoe apertus arcee aria_text biogpt bitnet bloom codegen cohere cohere2 cohere2_moe ctrl cwm diffllama dots1
    ernie4_5 ernie4_5_moe exaone4 exaone_moe falcon flex_olmo gemma gemma2 gemma3_text gemma3n_text gemma4_text
    glm glm4 glm4_moe gpt2 gpt_bigcode gpt_neox gpt_oss gptj granite granite_swa granitemoe granitemoe_swa
    granitemoeshared helium hunyuan_v1_dense hunyuan_v1_moe hy_v3 hyperclovax jais2 jetmoe llama llama4_text
    mellum minimax_m2 ministral ministral3 mistral mixtral mpt nanochat nemotron olmo olmo2 olmo3 olmoe opt
    persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_moe seed_oss smollm3 solar_open stablelm starcoder2
    vaultgemma xglm
    bamba falcon_h1 granitemoehybrid jamba lfm2 lfm2_moe minimax nemotron_h olmo_hybrid qwen3_5_moe_text
    qwen3_5_text qwen3_next recurrent_gemma zamba zamba2
    """
)
# Model types whose attention layers keep the latent from which the keys and values of all heads are made.
LATENT = _names(
    """
    axk1 axk2 deepseek_v2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa hy_v4 kimi_linear longcat_flash minicpm3
    mistral4 youtu
    """
)
# Model types whose layers keep one entry for a block of tokens, beside a window.
COMPRESSED = frozenset(["deepseek_v4"])
