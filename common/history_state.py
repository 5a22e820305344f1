"""The size of the state in which a model keeps the past, dim(z) of Def. 5.1, from its configuration alone.

    config = AutoConfig.from_pretrained("state-spaces/mamba-130m-hf")     # or read_settings({"model_type": "mamba", …})
    history_state(config, 4096)           # elements after 4,096 tokens, all layers
    state_by_kind(config, 4096)           # {"mamba_recurrence": …, "mamba_convolution": …}
    parts(config)                         # what each layer keeps, and how it grows with the context

No model is built. common/history_state_layers.py says what the layers of each model type keep. A model type or layer
type that is not listed there is refused: its state is not guessed from the names of its settings.
"""

from __future__ import annotations

from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

from common import history_state_layers as layers
from common.cli import UserError
from common.history_state_layers import ATTENTION, COMPRESSED, LATENT, RECURRENT, Layer, Part

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
            "write down what its layers keep in common/history_state_layers.py"
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
        return layers.attention(c, kind)
    if kind in ("full_attention", "indexed_attention") and of in LATENT:
        return layers.latent(c, kind)
    if kind.endswith(("compressed_attention", "sparse_attention", "sliding_attention")) and of in COMPRESSED:
        return layers.compressed(c, kind)
    if kind in ("linear_attention", "conv") and recurrent:
        return recurrent(c)
    if kind == "hybrid" and recurrent and of in ATTENTION:  # both, in parallel
        return [*layers.attention(c, "full_attention"), *recurrent(c)]
    raise UserError(f"layer {layer} of model type {of!r} is {kind!r}, whose history state is not known here")
