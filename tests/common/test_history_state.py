"""The formulas against the tensors that random models really keep in their cache after a prompt."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from common import history_state as hs
from common.cli import UserError

SMALL = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
GQA = {**SMALL, "num_key_value_heads": 2}
EXPERTS = dict(num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16)
MAMBA = dict(mamba_d_state=8, mamba_d_conv=3, mamba_expand=2)
MAMBA2 = dict(**MAMBA, mamba_n_heads=8, mamba_d_head=8, mamba_n_groups=2)
DELTA = dict(linear_num_key_heads=2, linear_key_head_dim=8, linear_num_value_heads=4, linear_value_head_dim=12)
DELTA |= {"linear_conv_kernel_dim": 3}
BOTH = ["linear_attention", "full_attention"]
WINDOWED = ["sliding_attention", "full_attention"]
MODELS = {
    "multi-head": ("llama", SMALL),
    "grouped heads": ("llama", GQA),
    "one key-value head": ("llama", {**SMALL, "num_key_value_heads": 1}),
    "heads of another width": ("qwen3", {**GQA, "head_dim": 24}),
    "gpt2": ("gpt2", dict(n_embd=32, n_layer=2, n_head=4, n_positions=64)),
    "gpt_neox": ("gpt_neox", SMALL),
    "gptj": ("gptj", dict(n_embd=32, n_layer=2, n_head=4, n_positions=64, rotary_dim=4)),
    "opt": (
        "opt",
        dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48, word_embed_proj_dim=32),
    ),
    "a window in all layers": ("mistral", {**GQA, "sliding_window": 16}),
    "no window": ("mistral", {**GQA, "sliding_window": None}),
    "mixtral": ("mixtral", {**GQA, "sliding_window": 16, "num_local_experts": 2}),
    "qwen2": ("qwen2", GQA),
    "qwen2, windows above": (
        "qwen2",
        {**GQA, "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
    ),
    "qwen2_moe": ("qwen2_moe", {**GQA, **EXPERTS, "shared_expert_intermediate_size": 16}),
    "qwen3_moe": ("qwen3_moe", {**GQA, **EXPERTS, "head_dim": 8}),
    "gemma": ("gemma", {**GQA, "head_dim": 16}),
    "gemma2": ("gemma2", {**GQA, "head_dim": 16, "sliding_window": 16, "layer_types": WINDOWED}),
    "gemma3": ("gemma3_text", {**GQA, "head_dim": 16, "sliding_window": 16, "layer_types": WINDOWED}),
    "phi": ("phi", GQA),
    "phi3": ("phi3", {**GQA, "sliding_window": 16}),
    "ministral": ("ministral", {**GQA, "head_dim": 8, "sliding_window": 16, "layer_types": WINDOWED}),
    "olmo": ("olmo", GQA),
    "olmo2": ("olmo2", GQA),
    "olmo3": ("olmo3", {**GQA, "sliding_window": 16, "layer_types": WINDOWED}),
    "cohere": ("cohere", GQA),
    "cohere2": ("cohere2", {**GQA, "sliding_window": 16, "layer_types": WINDOWED}),
    "smollm3": ("smollm3", GQA),
    "starcoder2": ("starcoder2", {**GQA, "sliding_window": 16}),
    "gpt_oss": (
        "gpt_oss",
        {
            **GQA,
            "head_dim": 8,
            "sliding_window": 16,
            "layer_types": WINDOWED,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
        },
    ),
    "granite": ("granite", GQA),
    "stablelm": ("stablelm", GQA),
    "mamba": ("mamba", dict(hidden_size=32, num_hidden_layers=2, state_size=8, conv_kernel=3, expand=3)),
    "falcon_mamba": ("falcon_mamba", dict(hidden_size=32, num_hidden_layers=2, state_size=8)),
    "mamba2": (
        "mamba2",
        dict(hidden_size=32, num_hidden_layers=2, num_heads=8, head_dim=8, state_size=12, n_groups=2, conv_kernel=3),
    ),
    "jamba": (
        "jamba",
        {**GQA, **MAMBA, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "use_mamba_kernels": False},
    ),
    "bamba": ("bamba", {**GQA, **MAMBA2, "attn_layer_indices": [1]}),
    "falcon_h1": ("falcon_h1", {**GQA, **MAMBA2, "head_dim": 8, "mamba_d_ssm": 64}),
    "granitemoehybrid": ("granitemoehybrid", {**GQA, **MAMBA2, "layer_types": BOTH, "num_local_experts": 2}),
    "nemotron_h": (
        "nemotron_h",
        dict(
            **{name: value for name, value in GQA.items() if name != "num_hidden_layers"},
            **dict(head_dim=8, ssm_state_size=12, mamba_num_heads=8, mamba_head_dim=8, n_groups=2, conv_kernel=3),
            **dict(layers_block_type=["linear_attention", "mlp", "full_attention"], use_mamba_kernels=False),
        ),
    ),
    "qwen3_next": (
        "qwen3_next",
        {**GQA, **DELTA, **EXPERTS, "head_dim": 8, "layer_types": BOTH, "mlp_only_layers": [0, 1]},
    ),
    "qwen3_5": ("qwen3_5_text", {**GQA, **DELTA, "head_dim": 8, "layer_types": BOTH}),
    "olmo_hybrid": ("olmo_hybrid", {**GQA, **DELTA, "layer_types": BOTH}),
    "lfm2": ("lfm2", {**GQA, "layer_types": ["conv", "full_attention"], "conv_L_cache": 3}),
}


def configuration(name: str) -> PreTrainedConfig:
    kind, settings = MODELS[name]
    ids = dict(vocab_size=17, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    return AutoConfig.for_model(kind, **ids, **settings)


def tensors(cache) -> list[torch.Tensor]:
    """All that a cache holds: keys and values, and the states of convolutions and recurrences."""
    found = []
    for layer in cache.layers:
        found += [getattr(layer, name, None) for name in ("keys", "values")]
        for name in ("conv_states", "recurrent_states"):
            found += list(getattr(layer, name, {}).values())
    return [tensor for tensor in found if tensor is not None]


@pytest.mark.parametrize("name", MODELS)
def test_as_many_elements_as_the_cache_holds(name):
    config = configuration(name)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for context in (1, 5, 16, 40):
            output = model(torch.arange(context)[None] % 17, use_cache=True)
            cache = output.cache_params if "cache_params" in output else output.past_key_values
            assert hs.history_state(config, context) == sum(map(torch.Tensor.numel, tensors(cache)))


def test_every_model_type_is_tested():
    tried = {kind for kind, _ in MODELS.values()}
    on_a_gpu = {"gated_deltanet", "rwkv7", "log_linear_mamba2"}  # flash-linear-attention: tested by hand below
    assert tried | on_a_gpu == {*hs.ATTENTION, *hs.RECURRENT}


def test_by_kind_and_how_each_part_grows():
    config = configuration("falcon_h1")
    kinds = {"full_attention": 2 * 2 * 2 * 8 * 10, "mamba2_recurrence": 2 * 64 * 8}
    kinds["mamba2_convolution"] = 2 * (64 + 2 * 2 * 8) * 3
    assert hs.state_by_kind(config, 10) == kinds
    assert hs.history_state(config, 10) == sum(kinds.values())
    windowed = hs.parts(configuration("gemma2"))
    assert [(part.layer, part.kind, part.per_token, part.reach) for part in windowed] == [
        (0, "sliding_attention", 64, 15),
        (1, "full_attention", 64, None),
    ]
    assert [windowed[0].elements(context) for context in (1, 15, 16, 1000)] == [64, 960, 960, 960]


def test_published_sizes():
    """The paper's models: 12 layers of 2 · 768 for each token, and 24 of 1536 · (16 + 4) whatever the length."""
    gpt2 = AutoConfig.for_model("gpt2")
    assert [hs.history_state(gpt2, context) for context in (1, 1024)] == [12 * 2 * 768, 12 * 2 * 768 * 1024]
    mamba = AutoConfig.for_model("mamba", hidden_size=768, num_hidden_layers=24)
    assert [hs.history_state(mamba, context) for context in (1, 10**6)] == [24 * 1536 * 20] * 2


class OnAGPU(PreTrainedConfig):
    """flash-linear-attention's names of settings, which the tests can read without it."""

    def __init__(self, model_type: str, **settings) -> None:
        super().__init__()
        self.model_type = model_type
        for name, value in {"num_hidden_layers": 2, "attn": None, **settings}.items():
            setattr(self, name, value)


def test_layers_of_flash_linear_attention():
    delta = OnAGPU("gated_deltanet", num_heads=3, head_dim=8, expand_v=2.0, num_v_heads=None, conv_size=4)
    delta.use_short_conv = True
    assert hs.history_state(delta, 7) == 2 * (3 * 8 * 16 + (2 * 3 * 8 + 3 * 16) * 4)
    delta.use_short_conv = False
    assert hs.history_state(delta, 7) == 2 * 3 * 8 * 16
    rwkv = OnAGPU("rwkv7", hidden_size=64, head_dim=16, value_dim=[64, 128])
    assert hs.history_state(rwkv, 7) == 16 * 64 + 16 * 128 + 2 * 2 * 64
    mamba2 = dict(num_heads=4, head_dim=8, state_size=5, n_groups=1, conv_kernel=4)
    levels = {1: 1, 2: 2, 3: 2, 4: 3, 1023: 10, 1024: 11}
    for context, number in levels.items():
        elements = 2 * (number * 4 * 8 * 5 + (4 * 8 + 2 * 5) * 4)
        assert hs.history_state(OnAGPU("log_linear_mamba2", **mamba2), context) == elements
    rwkv.attn = {"layers": [1]}
    with pytest.raises(UserError, match=r"'rwkv7' with attention layers \(attn\)"):
        hs.history_state(rwkv, 7)


def test_the_text_part_of_a_model_of_images_and_text():
    text = dict(**GQA, head_dim=16, sliding_window=16, layer_types=WINDOWED, vocab_size=17)
    whole = AutoConfig.for_model("gemma3", text_config=text)
    assert hs.history_state(whole, 40) == 64 * 15 + 64 * 40


def test_what_is_not_known_is_refused():
    with pytest.raises(UserError, match=r"the history state of model type 'bert' is not known here, but of: bamba, "):
        hs.history_state(AutoConfig.for_model("bert"), 10)
    config = configuration("qwen3_5")
    config.layer_types = ["linear_attention", "chunked_attention"]
    with pytest.raises(UserError, match=r"layer 1 of model type 'qwen3_5_text' is 'chunked_attention'"):
        hs.history_state(config, 10)
    config = configuration("gpt2")
    config.layer_types = ["linear_attention"] * 2  # no recurrence of GPT2 is known
    with pytest.raises(UserError, match=r"layer 0 of model type 'gpt2' is 'linear_attention'"):
        hs.history_state(config, 10)
    with pytest.raises(UserError, match="a context of 0 tokens: give at least 1"):
        hs.history_state(config, 0)
