"""The size of the state in which a model keeps the past, dim(z) of Def. 5.1, from its configuration alone.

    config = AutoConfig.from_pretrained("state-spaces/mamba-130m-hf")     # or read_settings({"model_type": "mamba", …})
    history_state(config, 4096)           # elements after 4,096 tokens, all layers
    state_by_kind(config, 4096)           # {"mamba_recurrence": …, "mamba_convolution": …}
    parts(config)                         # what each layer keeps, and how it grows with the context

No model is built. Counts are elements per sequence, as held in the tensors of transformers' cache. Everything kept is
counted, although only K − 1 of the K columns of a convolution carry information, and of a chunk only the tokens since
it began. A model type or layer type that is not listed below is refused: its state is not guessed from the names of its
settings.

To add a model type, put its name into ATTENTION or LATENT, or a formula into _FORMULAS. Then add a small configuration
to tests/common/test_history_state.py, which compares the count with the cache of a random model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

from common.cli import UserError


@dataclass(frozen=True)
class Part:
    """One kind of state in one layer: `fixed` elements, plus `per_token` for each of the last `reach` tokens."""

    kind: str
    fixed: int = 0
    per_token: int = 0
    reach: int | None = None  # tokens; None: all of them
    block: int = 1  # tokens that share the `per_token` elements once the block is full
    per_waiting: int = 0  # elements for each token of the unfinished block
    bits: int = 16  # bits per element; most implementations keep recurrent states in float32

    def elements(self, context: int) -> int:
        tokens = context if self.reach is None else min(context, self.reach)
        per_token = self.per_token * (tokens // self.block) + self.per_waiting * (tokens % self.block)
        return self.fixed + per_token

    @property
    def growth(self) -> int:
        """Exponent g in elements ~ ℓ^g."""
        return int(self.per_token > 0 and self.reach is None)


class Layer:
    """The settings of one layer. UserError: a setting is missing or makes no sense (names it)."""

    def __init__(self, config: PreTrainedConfig, layer: int = 0) -> None:
        self._config, self.layer = config, layer

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

    def quotient(self, name: str, divisor: str) -> int:
        """Setting `name` divided by setting `divisor`. UserError: it is not a multiple."""
        whole, part = getattr(self, name), getattr(self, divisor)
        if whole % part:
            raise UserError(f"{name} {whole} is not a multiple of {divisor} {part}: give numbers that divide")
        return whole // part


def attention(c: Layer, kind: str) -> list[Part]:
    """Keys and values, 2 · H_kv · D per token: all tokens, or the last window or chunk less the querying token."""
    reach = None
    if kind == "sliding_attention":
        reach = c.sliding_window - 1
    elif kind == "chunked_attention":
        reach = c.attention_chunk_size - 1
    return [Part(kind, per_token=2 * key_value_heads(c) * head_width(c), reach=reach)]


def key_value_heads(c: Layer) -> int:
    if c.get("multi_query") and not c.get("new_decoder_architecture"):  # Falcon, StarCoder
        return 1
    for name in ("num_key_value_heads", "num_kv_heads"):
        if c.get(name) is not None:
            c.quotient("num_attention_heads", name)
            return getattr(c, name)
    return c.num_attention_heads


def head_width(c: Layer) -> int:
    return c.head_dim if c.get("head_dim") is not None else c.quotient("hidden_size", "num_attention_heads")


def latent(c: Layer, kind: str) -> list[Part]:
    """MLA: the latent that gives all heads' keys and values, plus an indexer's keys; both for every token."""
    found = [Part("latent_attention", per_token=c.kv_lora_rank + c.get("qk_rope_head_dim", 0))]
    # Some layers have no indexer and reuse the selection of a layer below.
    if kind == "indexed_attention" and c.get("indexer_types", ["full"] * (c.layer + 1))[c.layer] == "full":
        found.append(Part("indexer_keys", per_token=c.index_head_dim))
    return found


def compressed(c: Layer, kind: str) -> list[Part]:
    """DeepSeek V4: keys (which are also the values) for a window of tokens, and one for every block of tokens.

    The sparse kind also keeps one narrower key per block for its indexer. Its blocks overlap, so inputs are twice as
    wide, and half of the last full block's inputs are kept. Inputs are kept together with gates of the same width.
    """
    found = [Part("sliding_attention", per_token=c.head_dim, reach=c.sliding_window - 1)]
    if kind == "sliding_attention":
        return found
    rate, sparse = c.compress_rates[kind], kind == "compressed_sparse_attention"
    widths = {"compressed_attention": c.head_dim} | ({"indexer_keys": c.index_head_dim} if sparse else {})
    for name, width in widths.items():
        waiting = 2 * width * (2 if sparse else 1)
        found.append(Part(name, per_token=width, block=rate, per_waiting=waiting))
        if sparse:
            found.append(Part("block_overlap", per_token=2 * rate * width, block=rate, reach=rate))
    return found


def recurrence(name: str, state: int, inputs: int = 0, shift: str = "convolution") -> list[Part]:
    found = [Part(f"{name}_recurrence", state, bits=32)]
    return found + [Part(f"{name}_{shift}", inputs)] * (inputs > 0)


def mamba(inner: int, state: int, kernel: int) -> list[Part]:
    """I · N + I · K: inner width I, state size N, kernel K of the convolution."""
    return recurrence("mamba", inner * state, inner * kernel)


def mamba2(heads: int, width: int, state: int, groups: int, kernel: int) -> list[Part]:
    """H · D · N + (H · D + 2 · groups · N) · K: H heads of width D."""
    return recurrence("mamba2", heads * width * state, (heads * width + 2 * groups * state) * kernel)


def delta(name: str, key_heads: int, key: int, value_heads: int, value: int, kernel: int) -> list[Part]:
    """H_v · D_k · D_v + (2 · H_k · D_k + H_v · D_v) · K: H_k keys of width D_k, H_v values of width D_v."""
    return recurrence(name, value_heads * key * value, (2 * key_heads * key + value_heads * value) * kernel)


def gated_delta(c: Layer) -> list[Part]:
    keys = c.linear_num_key_heads, c.linear_key_head_dim
    return delta("deltanet", *keys, c.linear_num_value_heads, c.linear_value_head_dim, c.linear_conv_kernel_dim)


def kimi_delta(c: Layer) -> list[Part]:
    heads = c.linear_num_heads, c.linear_head_dim
    return delta("kda", *heads, *heads, c.linear_conv_kernel_dim)


_FORMULAS: dict[str, Callable[[Layer], list[Part]]] = {
    "mamba falcon_mamba": lambda c: mamba(c.intermediate_size, c.state_size, c.conv_kernel),
    "jamba zamba": lambda c: mamba(c.mamba_expand * c.hidden_size, c.mamba_d_state, c.mamba_d_conv),
    "mamba2": lambda c: mamba2(c.num_heads, c.head_dim, c.state_size, c.n_groups, c.conv_kernel),
    "bamba falcon_h1 granitemoehybrid": lambda c: mamba2(
        c.mamba_n_heads, c.mamba_d_head, c.mamba_d_state, c.mamba_n_groups, c.mamba_d_conv
    ),
    "nemotron_h": lambda c: mamba2(c.mamba_num_heads, c.mamba_head_dim, c.ssm_state_size, c.n_groups, c.conv_kernel),
    "zamba2": lambda c: mamba2(c.n_mamba_heads, c.mamba_headdim, c.mamba_d_state, c.mamba_ngroups, c.mamba_d_conv),
    "qwen3_next qwen3_5_text qwen3_5_moe_text olmo_hybrid": gated_delta,
    "kimi_linear": kimi_delta,
    "minimax": lambda c: recurrence("lightning", c.num_attention_heads * head_width(c) ** 2),
    "recurrent_gemma": lambda c: recurrence("rglru", c.lru_width, c.lru_width * (c.conv1d_width - 1)),
    "lfm2 lfm2_moe": lambda c: [Part("short_convolution", c.hidden_size * c.conv_L_cache)],
    # rwkv: numerator, denominator, exponent. rwkv7: H matrices of D · D. Both: the previous token, in each half-layer.
    "rwkv": lambda c: recurrence("rwkv4", 3 * c.attention_hidden_size, 2 * c.hidden_size, "shift"),
    "rwkv7": lambda c: recurrence("rwkv7", c.head_dim * c.hidden_size, 2 * c.hidden_size, "shift"),
    "gru": lambda c: recurrence("gru", c.state_size),
    "xlstm": lambda c: recurrence("xlstm", c.num_heads * (c.qk_head_dim * c.v_head_dim + c.qk_head_dim + 1)),
}
# What the recurrent layers of each model type keep; types that are also in ATTENTION or LATENT are hybrids.
RECURRENT = {model_type: formula for types, formula in _FORMULAS.items() for model_type in types.split()}
# Model types whose attention layers keep ordinary keys and values of all tokens, a window or a chunk.
_KEYS_AND_VALUES = """
    apertus arcee bitnet bloom cohere cohere2 dots1 ernie4_5 ernie4_5_moe exaone4 falcon gemma gemma2 gemma3_text
    gemma3n_text gemma4_text glm4 glm4_moe gpt2 gpt_bigcode gpt_neox gpt_oss gptj granite granitemoe hunyuan_v1_moe
    llama llama4_text minimax_m2 ministral3 mistral mixtral mpt nemotron olmo olmo2 olmo3 olmoe opt phi phi3 phimoe
    qwen2 qwen2_moe qwen3 qwen3_moe seed_oss smollm3 stablelm starcoder2
    bamba falcon_h1 granitemoehybrid jamba lfm2 lfm2_moe minimax nemotron_h olmo_hybrid qwen3_5_moe_text
    qwen3_5_text qwen3_next recurrent_gemma zamba zamba2
"""
ATTENTION = set(_KEYS_AND_VALUES.split())
# Model types whose attention layers keep a latent from which the keys and values of all heads are computed.
LATENT = {"deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "kimi_linear", "minicpm3"}
# Model types whose layers keep one entry per block of tokens, plus a window.
COMPRESSED = {"deepseek_v4"}
KNOWN = frozenset({*ATTENTION, *COMPRESSED, *LATENT, *RECURRENT})
# Settings that no configuration may leave to the defaults of transformers, with alternatives that a type's own
# attribute_map lacks: lists of layers, the widths of BLOOM and xLSTM.
REQUIRED = {
    "num_hidden_layers": ("layers_block_type", "hybrid_override_pattern"),
    "hidden_size": ("n_embed", "embedding_dim"),
    "num_attention_heads": (),
}
ALIASES = {"kimi_k2": "deepseek_v3"}  # the same model, under the name in its own code on the hub


def history_state(config: PreTrainedConfig, context: int) -> int:
    """Elements of the history state after `context` tokens. UserError: as in `parts`."""
    return sum(state_by_kind(config, context).values())


def state_by_kind(config: PreTrainedConfig, context: int) -> dict[str, int]:
    """`history_state` split by kind of part, summed over layers, in the order in which the kinds first appear."""
    elements: dict[str, int] = {}
    for part in parts(config):
        elements[part.kind] = elements.get(part.kind, 0) + part.elements(context)
    return elements


def parts(config: PreTrainedConfig) -> list[Part]:
    """What every layer keeps, from the bottom up. UserError: unusable model type, layer type or setting (names it)."""
    if config.is_encoder_decoder:
        raise UserError(f"model type {config.model_type!r} has an encoder: give a model that is a decoder alone")
    config = config.get_text_config(decoder=True)
    if _model_type(config) not in KNOWN:
        raise UserError(
            f"the history state of model type {config.model_type!r} is not known here: "
            "write down what its layers keep in common/history_state.py"
        )
    kinds = layer_types(config)
    # The last layers of some models reuse the keys and values of a layer below.
    own = len(kinds) - (getattr(config, "num_kv_shared_layers", None) or 0)
    return [part for layer, kind in enumerate(kinds[:own]) for part in _layer(config, layer, kind)]


def layer_types(config: PreTrainedConfig) -> list[str]:
    """transformers' name for the type of each layer; without `layer_types`, `sliding_window` holds for all layers."""
    number = Layer(config).num_hidden_layers
    named = getattr(config, "layer_types", None)
    if config.model_type == "recurrent_gemma":
        kinds = {"recurrent": "linear_attention", "attention": "sliding_attention"}
        named = [kinds.get(kind, kind) for kind in config.layers_block_type]
    if named is not None:
        return list(named)
    if config.model_type in ATTENTION:
        kind = "full_attention" if getattr(config, "sliding_window", None) is None else "sliding_attention"
    else:
        kind = "full_attention" if _model_type(config) in LATENT else "linear_attention"
    return [kind] * number


def read_settings(settings: dict[str, Any], where: str = "the configuration") -> PreTrainedConfig:
    """The configuration in a config.json; a bare PreTrainedConfig for model types that transformers lacks.

    where: the file, for messages. UserError: no model type, settings that transformers refuses, or no number of layers,
    width or number of heads, for which transformers would use its default.
    """
    model_type = settings.get("model_type") if isinstance(settings, dict) else None
    if isinstance(settings, dict) and model_type is None and {"d_model", "n_layer"} <= settings.keys():
        example = "give that of its conversion to transformers, e.g. state-spaces/mamba-130m-hf"
        raise UserError(f"{where} is a configuration of mamba_ssm: {example}")
    if not isinstance(model_type, str):
        raise UserError(f"{where} has no model_type: give the config.json of a model")
    model_type = ALIASES.get(model_type, model_type)
    if model_type not in CONFIG_MAPPING:
        config = PreTrainedConfig.from_dict(settings)
        config.model_type = model_type
        return config
    try:
        config = CONFIG_MAPPING[model_type].from_dict(settings)
    except Exception as error:  # transformers may raise almost anything on wrong settings
        reason = " ".join(str(error).split())[:250]
        raise UserError(f"{where}: transformers refuses these settings: {reason}") from error
    if model_type in KNOWN:  # not multimodal models: these settings are in their parts, and some rely on defaults
        attention = model_type in ATTENTION | COMPRESSED | LATENT
        for name in list(REQUIRED) if attention else list(REQUIRED)[:2]:
            spellings = (name, config.attribute_map.get(name), *REQUIRED[name])
            if all(settings.get(spelling) is None for spelling in spellings):
                raise UserError(f"{where} does not say {name}: add it")
    if model_type == "minimax" and not settings.get("layer_types"):  # by default every other layer would be linear
        raise UserError(f"{where} does not say layer_types: add it, one of linear_attention, full_attention per layer")
    return config


def _model_type(config: PreTrainedConfig) -> str:
    return ALIASES.get(config.model_type, config.model_type)


def _layer(config: PreTrainedConfig, layer: int, kind: str) -> list[Part]:
    c, of = Layer(config.per_layer_config[layer], layer), _model_type(config)
    recurrent = RECURRENT.get(of)
    if kind in ("moe", "mlp"):  # separate layers in some hybrids
        return []
    if kind in ("full_attention", "sliding_attention", "chunked_attention") and of in ATTENTION:
        return attention(c, kind)
    if kind in ("full_attention", "indexed_attention") and of in LATENT:
        return latent(c, kind)
    if kind.endswith(("compressed_attention", "sparse_attention", "sliding_attention")) and of in COMPRESSED:
        return compressed(c, kind)
    if kind in ("linear_attention", "conv") and recurrent:
        return recurrent(c)
    if kind == "hybrid" and recurrent and of in ATTENTION:  # both, in parallel
        return [*attention(c, "full_attention"), *recurrent(c)]
    raise UserError(f"layer {layer} of model type {of!r} is {kind!r}, whose history state is not known here")
