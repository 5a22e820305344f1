"""state_size.py through its command line: published models against published sizes, and a user's own models."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from common.architectures import configuration
from tests.conftest import ROOT, SMOLLM2, call_script, one_line_error

SCRIPT = "l2m_condition/state_size.py"
# Models that are not in configurations.json.
OWN = {
    "windowed": {
        **{"model_type": "gemma2", "num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4},
        **{"num_key_value_heads": 2, "head_dim": 32, "sliding_window": 100, "max_position_embeddings": 500},
    },
    "mixed": {
        **{"model_type": "jamba", "num_hidden_layers": 4, "hidden_size": 48, "num_attention_heads": 6},
        **{"num_key_value_heads": 3, "attn_layer_period": 4, "attn_layer_offset": 2, "mamba_d_state": 8},
        **{"mamba_d_conv": 4, "mamba_expand": 2},
    },
    "other": {"model_type": "rwkv7", "num_hidden_layers": 3, "hidden_size": 32, "head_dim": 16},
}


def sizes(tmp_path, *arguments) -> pd.DataFrame:
    """state.csv, indexed by model, kind and context."""
    done = call_script(SCRIPT, "--out", tmp_path / "state.csv", *arguments)
    assert done.returncode == 0, done.stderr
    return pd.read_csv(tmp_path / "state.csv").set_index(["model", "layer_kind", "context_tokens"])


def test_models_of_ones_own(tmp_path):
    """Given as a JSON file, a folder, or the config.json in a folder; against sizes computed by hand."""
    paths = [tmp_path / "windowed.json", tmp_path / "mixed" / "config.json", tmp_path / "other" / "config.json"]
    for path, settings in zip(paths, OWN.values(), strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(settings), encoding="utf-8")
    table = sizes(tmp_path, "--model", paths[0], tmp_path / "mixed", paths[2], "--context", 50, 99, 1000)
    # Layers alternate between a window of 100 tokens and full attention; two heads of 32.
    for context, kept in ((50, 50), (99, 99), (1000, 99)):
        row = table.loc["windowed", :, context]["state_elements"].to_dict()
        parts = {"sliding_attention": 2 * 2 * 2 * 32 * kept, "full_attention": 2 * 2 * 2 * 32 * context}
        assert row == {**parts, "total": sum(parts.values())}
    # Three Mamba layers of width 96, and one attention layer with three heads of 8.
    assert table.loc["mixed", :, 1000]["state_elements"].to_dict() == {
        "mamba_recurrence": 3 * 96 * 8,
        "mamba_convolution": 3 * 96 * 4,
        "full_attention": 2 * 3 * 8 * 1000,
        "total": 3 * 96 * 12 + 48_000,
    }
    assert table.loc["mixed", "total", 1000]["state_bytes"] == 3 * 96 * 8 * 4 + 3 * 96 * 4 * 2 + 48_000 * 2
    assert table.loc["other", "total", 99]["state_elements"] == 3 * (16 * 32 + 2 * 32)
    assert table.loc[:, "total", 50]["growth_exponent"].tolist() == [1, 1, 0]
    assert table.loc["windowed", "sliding_attention", 50]["growth_exponent"] == 0
    assert table["beyond_maximum"][table["beyond_maximum"]].index.unique("context_tokens").tolist() == [1000]


def test_a_saved_model_with_an_infinite_setting(tmp_path):
    """transformers saves Mamba2's time_step_limit, which ends at infinity, in a notation of its own."""
    config = configuration("mamba2-mini-small", 1024)
    config.save_pretrained(tmp_path / "mine")
    assert "Infinity" in (tmp_path / "mine/config.json").read_text(encoding="utf-8")
    table = sizes(tmp_path, "--model", tmp_path / "mine", "--context", 1024)
    # Eight layers of inner width 256 with 16 state columns, and a convolution of kernel 4 over 256 + 2 · 16 channels.
    assert table.loc["mine", "total", 1024]["state_elements"] == 8 * (256 * 16 + (256 + 2 * 16) * 4)


def test_published_models_and_published_sizes(tmp_path):
    """Bytes per token in 16 bits against DeepSeek's figures for V3 and Llama-3.1-405B, and known figures of others."""
    table = sizes(tmp_path)
    listed = json.loads((ROOT / "l2m_condition" / "configurations.json").read_text(encoding="utf-8"))["models"]
    assert list(table.index.unique("model")) == list(listed)
    a_token = {"DeepSeek-V3": 70_272, "Llama-3.1-405B": 516_096, "GPT-2-xl": 300 * 1024, "Llama-3.1-8B": 128 * 1024}
    for model, size in a_token.items():
        assert table.loc[model, "total", 4096]["state_bytes"] == 4096 * size
    # Jamba's paper: its keys and values for 256 thousand tokens take 4 GB, Mixtral's 32 GB, Llama-2-7B's 128 GB.
    at = 2**18
    assert table.loc["Jamba-v0.1", "full_attention", at]["state_bytes"] == 4 * 2**30
    assert table.loc["Mixtral-8x7B-v0.1", "total", at]["state_bytes"] == 32 * 2**30
    assert table.loc["Llama-2-7B", "total", at]["state_bytes"] == 128 * 2**30
    # Contexts beyond the announced maximum; a model without attention announces none.
    beyond = table["beyond_maximum"].xs("total", level="layer_kind").groupby(level="model").sum()
    assert beyond[["GPT-2", "Llama-3.1-8B", "Llama-4-Scout", "RWKV-4-14B", "Mamba-130M"]].tolist() == [7, 4, 0, 0, 0]
    # Only the state of a model with some full attention grows, according to growth_exponent and to the sizes.
    totals = table.xs("total", level="layer_kind")
    bounded = totals[totals["growth_exponent"] == 0].index.unique("model")
    constant = [model for model in listed if model.startswith(("Mamba", "Falcon-Mamba", "RWKV", "xLSTM"))]
    assert list(bounded) == ["Mistral-7B-v0.1", *constant, "RecurrentGemma-2B", "RecurrentGemma-9B"]
    last = totals["state_elements"].unstack()[[4_194_304, 10_485_760]]
    assert set(last.index[last[10_485_760] == last[4_194_304]]) == set(bounded)


def test_a_gguf_file(tmp_path):
    if not SMOLLM2.exists():
        pytest.skip("the sample model is missing: python measure_mutual_info/fetch_sample.py")
    table = sizes(tmp_path, "--model", SMOLLM2, "SmolLM2-135M", "--context", 100)
    elements = table["state_elements"].xs("total", level="layer_kind").tolist()
    assert elements == [100 * 30 * 2 * 3 * 64] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x.txt"], "--out x.txt: give a file that ends in .csv"),
        (["--model", "GPT-17"], "GPT-17: not a name in configurations.json, a JSON file"),
        (["--model", "Llama-3.1-8b"], "check the spelling; listed: Llama-3.1-8B"),
        (["--model", "none.json"], "no file none.json: check the name"),
        (["--model", "HALF.json"], "HALF.json is not valid JSON: Expecting property name enclosed in double quotes"),
        (["--model", "LATIN.json"], "LATIN.json is not valid JSON: 'utf-8' codec can't decode byte 0xe9"),
        (["--model", "mine", "mine/config.json"], "mine and mine/config.json are both called mine: rename one"),
        (["--model", "BAD.json"], "BAD.json has no model_type: give the config.json of a model"),
        (["--model", "ODD.json"], "ODD: sliding_window of model type 'gemma2' is -3: give a positive number"),
    ],
)
def test_bad_settings(tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "BAD.json").write_text("[1, 2]")
    (tmp_path / "HALF.json").write_text('{"model_type": "llama",')
    (tmp_path / "LATIN.json").write_bytes(b'{"model_type": "caf\xe9"}')
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.json").write_text(json.dumps(OWN["windowed"]))
    (tmp_path / "ODD.json").write_text(json.dumps({**OWN["windowed"], "sliding_window": -3}))
    out = [] if "--out" in arguments else ["--out", tmp_path / "state.csv"]
    assert message in one_line_error(call_script(SCRIPT, *out, *arguments))
    assert not list(tmp_path.glob("*.csv"))
