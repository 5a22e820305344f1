"""Loading models and tokenizers: what is damaged or missing is said in a line."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from common.cli import UserError
from common.pretrained import find_device, load_config, load_model
from tests.conftest import tiny_model


def test_no_such_gguf_file(tmp_path):
    with pytest.raises(UserError, match="no such GGUF file"):
        load_config(str(tmp_path / "nothing.gguf"))


def test_folder_without_configuration(tmp_path):
    with pytest.raises(UserError, match=r"could not load the configuration.*folder is complete"):
        load_config(str(tmp_path))


def test_folder_without_weights(tmp_path):
    tiny_model("llama").config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"could not load the weights.*folder is complete"):
        load_model(str(tmp_path), "float32", "cpu")


def test_some_weights_missing(tmp_path):
    model = tiny_model("llama")
    state = {name: value for name, value in model.state_dict().items() if "layers.1.mlp" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    assert AutoModelForCausalLM.from_pretrained(tmp_path) is not None, "transformers itself only warns"
    with pytest.raises(UserError, match="3 weights are missing"):
        load_model(str(tmp_path), "float32", "cpu")


def test_hub_out_of_reach(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # or it tries for half a minute
    with pytest.raises(UserError, match="hub can be reached"):
        load_config("nobody/no-such-model")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu():
    with pytest.raises(UserError, match="torch sees no GPU"):
        find_device("cuda")
