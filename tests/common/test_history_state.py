"""The formulas, compared with the tensors that random models really keep in their cache after a prompt."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, DynamicCache, PreTrainedConfig

from common import architectures
from common import history_state as hs
from common.cli import UserError

SMALL = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
GQA = {**SMALL, "num_key_value_heads": 2}
EXPERTS = dict(num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16)
ROUTED = {**EXPERTS, "num_local_experts": 2, "n_routed_experts": 2, "n_shared_experts": 1, "n_group": 1}
ROUTED |= {"topk_group": 1, "shared_expert_intermediate_size": 16}
MAMBA = dict(mamba_d_state=8, mamba_d_conv=3, mamba_expand=2)
MAMBA2 = dict(**MAMBA, mamba_n_heads=8, mamba_d_head=8, mamba_n_groups=2)
DELTA = dict(linear_num_key_heads=2, linear_key_head_dim=8, linear_num_value_heads=4, linear_value_head_dim=12)
DELTA |= {"linear_conv_kernel_dim": 3}
BOTH = ["linear_attention", "full_attention"]
ONCE_MORE = ["linear_attention", "hybrid", "hybrid"]
WINDOWED = ["sliding_attention", "full_attention"]
WINDOW = {**GQA, "head_dim": 8, "sliding_window": 16, "layer_types": WINDOWED}
SHARED = {**WINDOW, "num_hidden_layers": 5, "layer_types": [*WINDOWED, *WINDOWED, "full_attention"]}
SHARED |= {"num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 17}
LATENT = {**SMALL, "num_key_value_heads": 4, "kv_lora_rank": 24, "q_lora_rank": 20, "v_head_dim": 10}
LATENT |= {"qk_rope_head_dim": 8, "qk_nope_head_dim": 12, "moe_intermediate_size": 16, "n_routed_experts": 4}
LATENT |= {"num_experts_per_tok": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
INDEXED = {**LATENT, "index_topk": 8, "index_head_dim": 16, "index_n_heads": 2}
FALCON = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
TWO = dict(hidden_size=32, num_hidden_layers=2)
WIDE = {**TWO, "hidden_size": 64, "chunk_size": 4}
CHUNKED = {**GQA, "head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 48, "attention_chunk_size": 16}
BLOCKS = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, head_dim=16, q_lora_rank=12, o_groups=2)
BLOCKS |= dict(moe_intermediate_size=16, n_routed_experts=4, num_experts_per_tok=1, mlp_layer_types=["moe"] * 3)
BLOCKS |= dict(compress_rates={"heavily_compressed_attention": 8, "compressed_sparse_attention": 4}, sliding_window=16)
BLOCKS |= dict(layer_types=["heavily_compressed_attention", "compressed_sparse_attention", "sliding_attention"])
BLOCKS |= dict(index_n_heads=2, index_head_dim=8, index_topk=4, o_lora_rank=8, hc_mult=2)
ZAMBA = {**SMALL, **MAMBA, "num_hidden_layers": 3, "layers_block_type": ONCE_MORE, "use_mamba_kernels": False}
NEMOTRON = {name: value for name, value in GQA.items() if name != "num_hidden_layers"}
NEMOTRON |= dict(head_dim=8, ssm_state_size=12, mamba_num_heads=8, mamba_head_dim=8, n_groups=2, conv_kernel=3)
NEMOTRON |= dict(layers_block_type=["linear_attention", "mlp", "full_attention"], use_mamba_kernels=False)
GRIFFIN = {**GQA, "num_hidden_layers": 5, "lru_width": 48, "attention_window_size": 16, "conv1d_width": 3}
KIMI = {**LATENT, "q_lora_rank": None, "num_local_experts": 4, "layer_types": BOTH, "linear_head_dim": 8}
GEMMA4 = {**SHARED, "global_head_dim": 16, "num_global_key_value_heads": 1, "attention_k_eq_v": True}
JAMBA = {**GQA, **MAMBA, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "use_mamba_kernels": False}
CONVOLVED = {**GQA, "layer_types": ["conv", "full_attention"], "conv_L_cache": 3}
QWEN_DELTA = {**GQA, **DELTA, "head_dim": 8, "layer_types": BOTH}
GPT2 = dict(n_embd=32, n_layer=2, n_head=4, n_positions=64)

# To test another model type with plain attention, add its name here; settings that a type lacks change nothing.
MULTI_HEAD = "bloom gpt_neox mpt"
GROUPED = """
    apertus arcee bitnet cohere ernie4_5 ernie4_5_moe gemma glm4 glm4_moe granite granitemoe hunyuan_v1_moe minimax_m2
    nemotron olmo olmo2 olmoe phi qwen2 qwen2_moe qwen3_moe seed_oss smollm3 stablelm
"""
SOME_WINDOWS = "cohere2 dots1 exaone4 gemma2 gemma3_text gpt_oss olmo3"
ONE_WINDOW = "ministral3 mistral mixtral phi3 phimoe starcoder2"
LATENTS = "deepseek_v2 deepseek_v3 glm4_moe_lite minicpm3"
INDEXERS = "deepseek_v32 glm_moe_dsa"
ALIKE = [
    (MULTI_HEAD, {**SMALL, **GPT2, "ffn_dim": 48}),
    (GROUPED, {**GQA, **ROUTED, "head_dim": 8}),
    (SOME_WINDOWS, {**WINDOW, **ROUTED}),
    (ONE_WINDOW, {**GQA, **ROUTED, "head_dim": 8, "sliding_window": 16}),
    (LATENTS, LATENT),
    (INDEXERS, INDEXED),
]
MODELS = {kind: (kind, settings) for kinds, settings in ALIKE for kind in kinds.split()} | {
    "multi-head": ("llama", SMALL),
    "grouped heads": ("llama", GQA),
    "one key-value head": ("llama", {**SMALL, "num_key_value_heads": 1}),
    "heads of another width": ("qwen3", {**GQA, "head_dim": 24}),
    "gpt2": ("gpt2", GPT2),
    "gptj": ("gptj", {**GPT2, "rotary_dim": 4}),
    "opt": ("opt", {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "no window": ("mistral", {**GQA, "sliding_window": None}),
    "windows above": ("qwen2", {**GQA, "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}),
    "falcon 7B": ("falcon", {**FALCON, "multi_query": True}),
    "falcon RW": ("falcon", {**FALCON, "multi_query": False, "alibi": True}),
    "starcoder": ("gpt_bigcode", {**GPT2, "multi_query": True}),
    "starcoder, multi-head": ("gpt_bigcode", {**GPT2, "multi_query": False}),
    "gemma3n": ("gemma3n_text", {**SHARED, "laurel_rank": 4}),
    "gemma4": ("gemma4_text", GEMMA4),
    "llama4": ("llama4_text", {**CHUNKED, "layer_types": ["chunked_attention", "full_attention"]}),
    "an indexer for two": ("glm_moe_dsa", {**INDEXED, "indexer_types": ["full", "shared"]}),
    "deepseek_v4": ("deepseek_v4", BLOCKS),
    "mamba": ("mamba", {**TWO, "state_size": 8, "conv_kernel": 3, "expand": 3}),
    "falcon_mamba": ("falcon_mamba", {**TWO, "state_size": 8}),
    "mamba2": ("mamba2", {**TWO, "num_heads": 8, "head_dim": 8, "state_size": 12, "n_groups": 2, "conv_kernel": 3}),
    "rwkv": ("rwkv", TWO),
    "xlstm": ("xlstm", {**WIDE, "num_heads": 2, "qk_dim_factor": 1.0, "v_dim_factor": 2.0}),
    "jamba": ("jamba", JAMBA),
    "zamba": ("zamba", {**ZAMBA, "num_key_value_heads": 4, "n_mamba_heads": 2}),
    "zamba2": ("zamba2", {**ZAMBA, "n_mamba_heads": 4, "mamba_ngroups": 2}),
    "bamba": ("bamba", {**GQA, **MAMBA2, "attn_layer_indices": [1]}),
    "falcon_h1": ("falcon_h1", {**GQA, **MAMBA2, "head_dim": 8, "mamba_d_ssm": 64}),
    "granitemoehybrid": ("granitemoehybrid", {**GQA, **MAMBA2, "layer_types": BOTH, "num_local_experts": 2}),
    "nemotron_h": ("nemotron_h", NEMOTRON),
    "recurrent_gemma": ("recurrent_gemma", {**GRIFFIN, "block_types": ["recurrent", "attention"]}),
    "qwen3_next": ("qwen3_next", {**QWEN_DELTA, **EXPERTS, "mlp_only_layers": [0, 1]}),
    "qwen3_5": ("qwen3_5_text", QWEN_DELTA),
    "qwen3_5_moe": ("qwen3_5_moe_text", {**QWEN_DELTA, **ROUTED}),
    "olmo_hybrid": ("olmo_hybrid", {**GQA, **DELTA, "layer_types": BOTH}),
    "kimi_linear": ("kimi_linear", {**KIMI, "linear_num_heads": 3, "linear_conv_kernel_dim": 3}),
    "minimax": ("minimax", {**GQA, **ROUTED, "head_dim": 8, "block_size": 8, "layer_types": BOTH}),
    "lfm2": ("lfm2", CONVOLVED),
    "lfm2_moe": ("lfm2_moe", {**CONVOLVED, **EXPERTS, "num_dense_layers": 1}),
}


def configuration(name: str) -> PreTrainedConfig:
    kind, settings = MODELS[name]
    ids = dict(vocab_size=17, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    return AutoConfig.for_model(kind, **ids, **settings)


def random_model(config: PreTrainedConfig) -> torch.nn.Module:
    torch.manual_seed(0)
    whole = AutoModelForCausalLM if type(config) in AutoModelForCausalLM._model_mapping else AutoModel
    return whole.from_config(config).eval()


def tensors(kept) -> list[torch.Tensor]:
    """All floating-point tensors in what a model kept: a cache of transformers, its layers, lists, dicts or tensors."""
    if isinstance(kept, torch.Tensor):
        return [kept] if kept.is_floating_point() and kept.numel() else []
    if isinstance(kept, (list, tuple)):
        inside = list(kept)
    elif isinstance(kept, dict) or "Cache" in type(kept).__name__ or "Layer" in type(kept).__name__:
        named = dict(kept if isinstance(kept, dict) else vars(kept))
        if named.get("keys") is not None and torch.equal(named["keys"], named["values"]):
            del named["values"]  # DeepSeek V4 stores its keys again as its values
        inside = list(named.values())
    else:
        inside = []
    return [tensor for item in inside for tensor in tensors(item)]


def kept(model: torch.nn.Module, context: int) -> list[torch.Tensor]:
    """The tensors that a model keeps after a prompt of `context` tokens."""
    options = {}
    if model.config.model_type == "recurrent_gemma":  # its output has no cache, and its states are in its layers
        options["past_key_values"] = DynamicCache(config=model.config)
    with torch.no_grad():
        output = model(1 + torch.arange(context)[None] % 16, use_cache=True, **options)
    output = {**output, **options}
    found = tensors([output[name] for name in ("past_key_values", "cache_params", "state") if name in output])
    for module in model.modules():
        found += [getattr(module, name) for name in ("conv1d_state", "recurrent_states") if hasattr(module, name)]
    return found


@pytest.mark.parametrize("name", MODELS)
def test_as_many_elements_as_the_cache_holds(name):
    config = configuration(name)
    model = random_model(config)
    for context in (5, 15, 16, 17, 39):  # windows and chunks of 16, blocks of 4 and 8
        assert hs.history_state(config, context) == sum(map(torch.Tensor.numel, kept(model, context))), context


def test_every_model_type_is_tested():
    # transformers lacks these two; they are tested by hand below.
    assert {kind for kind, _ in MODELS.values()} | {"rwkv7", "gru"} == hs.KNOWN


def test_falcon_40b_keeps_copies_of_its_heads():
    """Its cache in transformers holds a key-value head once for each head that reads it; the state holds it once."""
    config = AutoConfig.for_model("falcon", **FALCON, num_kv_heads=2, new_decoder_architecture=True, vocab_size=17)
    keys = kept(random_model(config), 9)[0]
    assert keys.shape == (1, 4, 9, 8)
    assert torch.equal(keys[:, 0], keys[:, 1])
    assert torch.equal(keys[:, 2], keys[:, 3])
    assert hs.history_state(config, 9) == 2 * 2 * 2 * 9 * 8


def test_by_kind():
    config = configuration("falcon_h1")
    kinds = {"full_attention": 2 * 2 * 2 * 8 * 10, "mamba2_recurrence": 2 * 64 * 8}
    kinds["mamba2_convolution"] = 2 * (64 + 2 * 2 * 8) * 3
    assert hs.state_by_kind(config, 10) == kinds
    assert hs.history_state(config, 10) == sum(kinds.values())
    assert [part.bits for part in hs.parts(config)] == [16, 32, 16] * 2
    windowed, full = hs.parts(configuration("gemma2"))
    assert [windowed.elements(context) for context in (1, 15, 16, 1000)] == [32, 480, 480, 480]
    assert [full.elements(context) for context in (1, 15, 16, 1000)] == [32, 480, 512, 32_000]


BOUNDED = ("mistral", "recurrent_gemma", "mamba", "mamba2", "rwkv", "xlstm")
GROWING = ("multi-head", "no window", "gemma2", "gemma4", "llama4", "deepseek_v3", "deepseek_v32", "deepseek_v4")
GROWING += ("jamba", "zamba2", "falcon_h1", "nemotron_h", "qwen3_next", "kimi_linear", "minimax", "lfm2")


@pytest.mark.parametrize(("names", "growth"), [(BOUNDED, 0), (GROWING, 1)])
def test_growth(names, growth):
    """The growth stated by the parts is that of the sizes at lengths far beyond any window."""
    for config in map(configuration, names):
        assert max(part.growth for part in hs.parts(config)) == growth
        near, far = (hs.history_state(config, 10**power) for power in (9, 12))
        assert math.log(far / near, 1000) == pytest.approx(growth, abs=0.01)


def test_kinds_of_sparse_attention():
    """An indexer chooses which tokens to read, and keeps its own key of each token; two layers may share one."""
    kinds = hs.state_by_kind(configuration("deepseek_v32"), 10)
    assert kinds == {"latent_attention": 2 * 32 * 10, "indexer_keys": 2 * 16 * 10}
    assert hs.state_by_kind(configuration("an indexer for two"), 10)["indexer_keys"] == 16 * 10
    # Layers with blocks of 8, blocks of 4 and an indexer, no blocks; windows of 15. 7 and 3 of 39 tokens are left over.
    assert hs.state_by_kind(configuration("deepseek_v4"), 39) == {
        "sliding_attention": 3 * 15 * 16,
        "compressed_attention": (4 * 16 + 7 * 2 * 16) + (9 * 16 + 3 * 4 * 16),
        "block_overlap": 2 * 4 * (16 + 8),
        "indexer_keys": 9 * 8 + 3 * 4 * 8,
    }


def test_the_text_part_of_a_model_of_images_and_text():
    text = dict(**GQA, head_dim=16, sliding_window=16, layer_types=WINDOWED, vocab_size=17)
    whole = AutoConfig.for_model("gemma3", text_config=text)
    assert hs.history_state(whole, 40) == 64 * 15 + 64 * 40


LLAMA = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4}
MISTRAL = {**LLAMA, "model_type": "mistral", "num_key_value_heads": 2}
REFUSED = [
    ({"hidden_size": 32}, "mine.json has no model_type: give the config.json of a model"),
    ({"d_model": 768, "n_layer": 24}, "mine.json is a configuration of mamba_ssm: give that of its conversion"),
    ({"model_type": "bert"}, "the history state of model type 'bert' is not known here: write down"),
    ({"model_type": "whisper"}, "model type 'whisper' has an encoder: give a model that is"),
    ({"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 32}, "does not say num_attention_heads: add it"),
    ({"model_type": "xlstm", "num_blocks": 12, "embedding_dim": 768}, "does not say num_hidden_layers: add it"),
    ({**LLAMA, "model_type": "minimax", "attn_type_list": [0, 1]}, "does not say layer_types: add it"),
    ({**LLAMA, "num_hidden_layers": 0}, "num_hidden_layers of model type 'llama' is 0: give a positive number"),
    ({**LLAMA, "num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
    ({**LLAMA, "hidden_size": 30}, r"mine.json: transformers refuses .* hidden size \(30\) is not a multiple"),
    ({"model_type": "gpt2", "n_layer": 2, "n_embd": 30, "n_head": 4}, "hidden_size 30 is not a multiple of num_att"),
    ({**MISTRAL, "sliding_window": -8}, "sliding_window of model type 'mistral' is -8"),
    ({**LLAMA, "layer_types": WINDOWED}, "a configuration of model type 'llama' without sliding_window: add it"),
    ({**LLAMA, "layer_types": ["linear_attention"] * 2}, "layer 0 of model type 'llama' is 'linear_attention', whose"),
    ({**LLAMA, "model_type": "rwkv7"}, "a configuration of model type 'rwkv7' without head_dim: add it"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        hs.history_state(hs.read_settings(settings, "mine.json"), 10)


def test_settings_by_hand():
    """A recurrent model without heads; rwkv7, which transformers lacks; kimi_k2 (deepseek_v3), and in kimi_k25."""
    mamba = hs.read_settings({"model_type": "mamba", "num_hidden_layers": 2, "hidden_size": 32})
    assert hs.history_state(mamba, 7) == 2 * 64 * (16 + 4)
    rwkv = hs.read_settings(dict(model_type="rwkv7", num_hidden_layers=3, hidden_size=64, head_dim=16))
    assert hs.state_by_kind(rwkv, 7) == {"rwkv7_recurrence": 3 * 16 * 64, "rwkv7_shift": 3 * 2 * 64}
    kimi = {**LLAMA, "model_type": "kimi_k2", "kv_lora_rank": 24, "qk_rope_head_dim": 8}
    for settings in (kimi, {"model_type": "kimi_k25", "text_config": kimi}):
        assert hs.state_by_kind(hs.read_settings(settings), 7) == {"latent_attention": 2 * 32 * 7}


def test_a_gru_keeps_what_its_last_step_hands_on():
    config = architectures.configuration("gru-16-5", 64)
    model = AutoModel.from_config(config)
    (layer,) = model.layers
    x = torch.randn(2, 24, 16)
    _, state = layer.recurrence(layer.norm(x[:, :10]))
    assert hs.history_state(config, 10) == hs.history_state(config, 1000) == state[:, 0].numel() == 5
    rest = layer.recurrence(layer.norm(x[:, 10:]), state)[0]
    torch.testing.assert_close(
        model(inputs_embeds=x).last_hidden_state[:, 10:], model.norm(x[:, 10:] + layer.out(rest))
    )
