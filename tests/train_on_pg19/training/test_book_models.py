"""The models for books: size, the loss against that of the logits, memory, saving, vocabulary."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForCausalLM

from common.architectures import MODELS, Architecture
from common.cli import UserError
from tests.train_on_pg19.training.test_loss import Largest
from train_on_pg19 import evaluate
from train_on_pg19.training import loss, models

VOCAB, L = 300, 24
KINDS = ["tiny", "gpt_neox-mini-small", "mamba-mini", "mamba2-mini-small"]  # one of each kind
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
OTHERS = ["cohere", "gemma2", "phi"]  # model types with a scale, a cap or a bias after the head
NEOX = 50_277  # ids of the GPT-NeoX tokenizer


def built(name: str, length: int = L) -> torch.nn.Module:
    torch.manual_seed(0)
    return models.build(name, VOCAB, length)


def on_meta(name: str, length: int = 4096) -> torch.nn.Module:
    with torch.device("meta"):
        return models.build(name, NEOX, length)


def size(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def text(batch: int = 2, length: int = L) -> tuple[torch.Tensor, torch.Tensor]:
    """The inputs, which are a start token and all targets but the last, and random targets."""
    targets = torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(1))
    return torch.cat([torch.full((batch, 1), VOCAB), targets[:, :-1]], dim=1), targets


def test_the_mini_series_is_alike_in_size():
    for step, wanted in (("small", 0.8e6), ("medium", 3.16e6), ("large", 18.9e6)):
        both = [on_meta(f"{kind}-mini-{step}", 1024) for kind in ("gpt_neox", "mamba2")]
        transformer, mamba2 = (size(model) - model.lm_head.weight.numel() for model in both)
        assert transformer == pytest.approx(wanted, rel=0.05)
        assert 0.95 * transformer <= mamba2 < 1.4 * transformer


@pytest.mark.parametrize("name", [*KINDS, "gpt2", "qwen3-128", "window-128", "hybrid-mini"])
def test_the_head_and_the_vocabulary(name):
    model = on_meta(name)
    if name in (*KINDS, "gpt2"):
        assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model.lm_head.bias is None  # the loss takes no bias
    assert model.config.bos_token_id == NEOX
    assert model.config.vocab_size == 50_432  # the paper's padded size


@pytest.mark.parametrize("name", [*KINDS, "qwen3-128", *OTHERS])
def test_the_loss_is_that_of_the_logits(name, monkeypatch):
    """The loss, the NLL of each token and all gradients against those from the logits, within 1e-5 in float32."""
    monkeypatch.setattr(loss.cross_entropy, "__defaults__", (20,))
    monkeypatch.setitem(MODELS, name, MODELS.get(name) or Architecture(name, SMALL))
    model, (inputs, targets) = built(name), text()
    assert model.head_alone == (name not in OTHERS)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(30)  # a cap changes large logits
    ours = model(inputs, targets=targets).loss
    nats, logits = evaluate.nll_of(model, inputs, targets), model(inputs).logits
    assert logits.shape == (2, L, 512)
    assert not nats.requires_grad
    each = -logits.log_softmax(2).gather(2, targets[:, :, None]).squeeze(2)
    torch.testing.assert_close(nats, each, rtol=1e-5, atol=1e-5)
    theirs = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    parameters = list(model.parameters())
    for one, other in zip(torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * max(1, other.abs().max().item()))


def largest(length: int) -> int:
    model, (inputs, targets) = built("tiny", length), text(1, length)
    with Largest() as seen, sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # not the backend with L × L scores
        model(inputs, targets=targets).loss.backward()
    return seen.elements


def test_attention_takes_memory_linear_in_the_length():
    """In float32, forward and backward, the largest tensor grows linearly with L; none, such as a mask, is L × L."""
    short, long = largest(512), largest(2048)
    assert long <= 4.1 * short
    assert long < 2048 * 2048 / 8


@pytest.mark.parametrize("name", KINDS)
def test_a_saved_model_is_one_of_transformers(name, tmp_path):
    model, (inputs, _) = built(name).eval(), text()
    model.save_pretrained(tmp_path)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(opened).__module__.startswith("transformers.")
    assert opened.config.architectures == [type(opened).__name__]
    assert opened.config.bos_token_id == VOCAB
    with torch.inference_mode():
        torch.testing.assert_close(opened(inputs).logits, model(inputs).logits, rtol=0, atol=0)


def test_the_rows_of_the_vocabulary():
    """One row per id and one for the start token, rounded up to a multiple of 256; or the number given, if enough."""
    assert models.padded(NEOX) == 50_432
    assert [models.padded(ids) for ids in (1, 255, 256, 511, 512)] == [256, 256, 512, 512, 768]
    assert models.build("tiny", VOCAB, L, VOCAB + 1).config.vocab_size == 301
    with pytest.raises(UserError, match=r"--vocab 300: the tokenizer has 300 ids, .* give 301 or more, or .* 512"):
        models.build("tiny", VOCAB, L, VOCAB)


def test_models_that_cannot_be_built(monkeypatch):
    monkeypatch.setitem(MODELS, "mine", Architecture("qwen3", SMALL))  # transformers' default: 32 key-value heads
    for name, said in {
        "gru-64-32": "model gru-64-32: model type 'gru' has no language model in transformers: .* Gaussian",
        "mine": "model mine: num_attention_heads 4 is not a multiple of num_key_value_heads 32",
    }.items():
        with pytest.raises(UserError, match=said):
            models.build(name, VOCAB, L)
