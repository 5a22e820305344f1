"""state_size.py through its command line: sizes against published ones and against models of its user's own."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from tests.conftest import ROOT, SMOLLM2, call_script, one_line_error, run_script

SCRIPT = "l2m_condition/state_size.py"
COLUMNS = ["model", "layer_kind", "context_tokens", "state_elements", "state_bytes"]
# None of them is in configurations.json.
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
    "of another package": {
        **{"model_type": "gated_deltanet", "num_hidden_layers": 3, "num_heads": 2, "head_dim": 16, "expand_v": 2.0},
        **{"hidden_size": 32, "use_short_conv": True, "conv_size": 4},
    },
}


def sizes(tmp_path, *arguments) -> pd.DataFrame:
    """state.csv, by model, kind and context."""
    done = call_script(SCRIPT, "--out", tmp_path / "state.csv", *arguments)
    assert done.returncode == 0, done.stderr
    return pd.read_csv(tmp_path / "state.csv").set_index(COLUMNS[:3])


@pytest.fixture
def own(tmp_path):
    """Three configurations as JSON files, one of them as a folder's config.json."""
    (tmp_path / "mixed").mkdir()
    paths = [tmp_path / "windowed.json", tmp_path / "mixed", tmp_path / "of another package.json"]
    for path, settings in zip(paths, OWN.values(), strict=True):
        file = path / "config.json" if path.is_dir() else path
        file.write_text(json.dumps(settings), encoding="utf-8")
    return paths


def test_models_of_ones_own(tmp_path, own):
    table = sizes(tmp_path, "--model", *own, "--context", 50, 99, 1000)
    assert table.index.names == COLUMNS[:3]
    # Layers by turns of 100 tokens and of all; two heads of 32.
    for context, kept in ((50, 50), (99, 99), (1000, 99)):
        row = table.loc["windowed", :, context]["state_elements"].to_dict()
        parts = {"sliding_attention": 2 * 2 * 2 * 32 * kept, "full_attention": 2 * 2 * 2 * 32 * context}
        assert row == {**parts, "total": sum(parts.values())}
    # Three layers of Mamba, 96 wide, and one of attention, three heads of 8.
    assert table.loc["mixed", :, 1000]["state_elements"].to_dict() == {
        "mamba_recurrence": 3 * 96 * 8,
        "mamba_convolution": 3 * 96 * 4,
        "full_attention": 2 * 3 * 8 * 1000,
        "total": 3 * 96 * 12 + 48_000,
    }
    assert table.loc["mixed", "total", 1000]["state_bytes"] == 3 * 96 * 8 * 4 + 3 * 96 * 4 * 2 + 48_000 * 2
    assert table.loc["of another package", "total", 99]["state_elements"] == 3 * (2 * 16 * 32 + (2 * 32 + 64) * 4)
    growth = table.loc[:, "total", 50][["growth_exponent", "growth_logarithms"]]
    assert growth.to_numpy().tolist() == [[1, 0], [1, 0], [0, 0]]
    assert table.loc["windowed", "sliding_attention", 50]["growth_exponent"] == 0
    assert table["beyond_maximum"][table["beyond_maximum"]].index.unique("context_tokens").tolist() == [1000]


def test_record_and_words(tmp_path, own):
    out = tmp_path / "new" / "state.csv"
    done = run_script(SCRIPT, "--out", out, "--model", own[0], "GPT-2", "Mamba-130M", "--context", 100, 2000)
    lines = done.stdout.splitlines()
    assert any(line.split()[:3] == ["GPT-2", "3.69", "MB"] and line.endswith("73.7 MB*") for line in lines), lines
    assert "* beyond the maximum of the configuration (max_position_embeddings), in 2 of 3 models" in lines
    assert lines[-1] == f"wrote {out}"
    table = pd.read_csv(out)
    assert list(table.columns) == [*COLUMNS, "beyond_maximum", "growth_exponent", "growth_logarithms"]
    assert table["model"].unique().tolist() == ["windowed", "GPT-2", "Mamba-130M"]
    record = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert record["rows"] == len(table)
    assert {name.split("/")[-1] for name in record["inputs"]} == {"configurations.json", "windowed.json"}


def test_published_models_and_published_sizes(tmp_path):
    """Bytes a token in 16 bits: DeepSeek's comparison of V3 with Llama-3.1-405B, and well-known figures of others."""
    table = sizes(tmp_path)
    models = table.index.unique("model")
    listed = json.loads((ROOT / "l2m_condition" / "configurations.json").read_text(encoding="utf-8"))["models"]
    assert list(models) == list(listed)
    assert len(models) >= 35
    assert all(entry["source"] and isinstance(entry["checked"], bool) for entry in listed.values())
    assert table.index.unique("context_tokens").tolist() == [4**i for i in range(5, 12)] + [10_485_760]
    a_token = {"DeepSeek-V3": 70_272, "Llama-3.1-405B": 516_096, "GPT-2-xl": 300 * 1024, "Llama-3.1-8B": 128 * 1024}
    for model, size in a_token.items():
        assert table.loc[model, "total", 4096]["state_bytes"] == 4096 * size
    # Jamba's paper: keys and values of 256 thousand tokens take 4 GB, those of Mixtral 32, of Llama-2-7B 128.
    at = 2**18
    assert table.loc["Jamba-v0.1", "full_attention", at]["state_bytes"] == 4 * 2**30
    assert table.loc["Mixtral-8x7B-v0.1", "total", at]["state_bytes"] == 32 * 2**30
    assert table.loc["Llama-2-7B", "total", at]["state_bytes"] == 128 * 2**30
    # Beyond what they announce; a model without attention announces nothing.
    beyond = table["beyond_maximum"].xs("total", level="layer_kind").groupby(level="model").sum()
    assert beyond[["GPT-2", "Llama-3.1-8B", "Llama-4-Scout", "RWKV-4-14B", "Mamba-130M"]].tolist() == [7, 4, 0, 0, 0]
    # A total is the sum of its kinds, and only that of a model with some attention to all tokens grows.
    kinds = table.drop("total", level="layer_kind")[["state_elements", "state_bytes"]]
    totals = table.xs("total", level="layer_kind")
    pd.testing.assert_frame_equal(
        kinds.groupby(level=["model", "context_tokens"], sort=False).sum(), totals[kinds.columns], check_like=True
    )
    bounded = totals[totals["growth_exponent"] == 0].index.unique("model")
    constant = [model for model in models if model.startswith(("Mamba", "Falcon-Mamba", "RWKV", "xLSTM"))]
    assert list(bounded) == ["Mistral-7B-v0.1", *constant, "RecurrentGemma-2B", "RecurrentGemma-9B"]
    last = totals["state_elements"].unstack()[[4_194_304, 10_485_760]]
    grows = last[10_485_760] > last[4_194_304]
    assert set(grows[~grows].index) == set(bounded)


def test_bits_and_expanded_latents(tmp_path):
    arguments = ("--model", "DeepSeek-V3", "Qwen3-Next-80B-A3B", "--context", 1024)
    plain = sizes(tmp_path, *arguments)
    few = sizes(
        tmp_path,
        *(*arguments, "--cache-bits", 4, "--recurrent-bits", 16, "--input-bits", 8, "--group", 64),
        *("--group-overhead-bits", 32),
    )
    assert (few["state_elements"] == plain["state_elements"]).all()
    ratio = few["state_bytes"] / plain["state_bytes"]
    assert ratio["DeepSeek-V3", "latent_attention", 1024] == (4 + 32 / 64) / 16
    assert ratio["Qwen3-Next-80B-A3B", "deltanet_recurrence", 1024] == 0.5
    assert ratio["Qwen3-Next-80B-A3B", "deltanet_convolution", 1024] == 0.5
    expanded = sizes(tmp_path, *arguments, "--expand-latents")
    assert expanded.loc["DeepSeek-V3", "total", 1024]["state_elements"] == 1024 * 61 * 128 * (192 + 128)
    assert expanded.loc["Qwen3-Next-80B-A3B"].equals(plain.loc["Qwen3-Next-80B-A3B"])


def test_a_gguf_file(tmp_path):
    if not SMOLLM2.exists():
        pytest.skip("the sample model is missing: python measure_mutual_info/fetch_sample.py")
    table = sizes(tmp_path, "--model", SMOLLM2, "SmolLM2-135M", "--context", 100)
    elements = table["state_elements"].xs("total", level="layer_kind").tolist()
    assert elements == [100 * 30 * 2 * 3 * 64] * 2


BAD = {
    "no csv": (["--out", "x.txt"], r"--out x.txt: give a file that ends in .csv"),
    "a context of nothing": (["--context", 0], "--context 0: give at least 1 token"),
    "a context twice": (["--context", 10, 10], "--context 10 is given twice"),
    "a model twice": (["--model", "GPT-2", "GPT-2"], "--model GPT-2 is given twice"),
    "no file": (["--model", "none.json"], "no file none.json: give a model's config.json"),
    "an unknown name": (
        ["--model", "GPT-17"],
        "GPT-17: no name of configurations.json, no file or folder, and not to be",
    ),
    "no bits": (["--cache-bits", 0], "bits: cache is 0: give at least 1"),
    "a negative group": (["--group", -1], "bits: group is -1: give at least 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings(tmp_path, name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    arguments, message = BAD[name]
    out = [] if "--out" in arguments else ["--out", tmp_path / "state.csv"]
    error = one_line_error(call_script(SCRIPT, *out, *arguments))
    assert error.startswith(f"error: {message}"), error
    assert not list(tmp_path.iterdir())


def test_bad_configurations(tmp_path, own):
    def refused(text: str, name: str = "bad.json") -> str:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return one_line_error(call_script(SCRIPT, "--out", tmp_path / "state.csv", "--model", path))

    assert "bad.json is no JSON (" in refused("{]")
    assert "bad.json holds no settings by name" in refused("[1, 2]")
    assert "bad.json has no model_type" in refused("{}")
    error = refused(json.dumps({**OWN["windowed"], "sliding_window": -3}))
    assert error == "error: bad: sliding_window of model type 'gemma2' is -3: give a positive number"
    error = refused(json.dumps({**OWN["mixed"], "num_key_value_heads": 4}))
    assert "bad: num_attention_heads 6 is not a multiple of num_key_value_heads 4" in error
    assert "of model type 'mine' is not known here" in refused(json.dumps({**OWN["mixed"], "model_type": "mine"}))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mixed.json").write_text(json.dumps(OWN["mixed"]), encoding="utf-8")
    arguments = ("--out", tmp_path / "state.csv", "--model", own[1], tmp_path / "other" / "mixed.json")
    assert "two of --model are called mixed" in one_line_error(call_script(SCRIPT, *arguments))
    assert not (tmp_path / "state.csv").exists()
