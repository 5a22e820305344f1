"""Every kind of model: which tokens a prediction depends on, and that batches or longer sequences do not change it."""

from __future__ import annotations

import pytest
import torch

from common import history_state
from common.architectures import MODELS, Architecture, architecture
from common.cli import UserError
from gaussian_synthetic.training import models

COPIES, L = 3, 24
# One model of each kind, small enough for a CPU.
KINDS = ["tiny", "gpt2-mini", "qwen3-128", "neox", "window-128", "hybrid-mini", "mamba-mini", "mamba2-mini-256"]
KINDS += ["gru-32-8", "mamba2-32-64"]


@pytest.fixture(autouse=True)
def neox(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add a GPT-NeoX model to MODELS, which has none of this kind as small as the others here."""
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    monkeypatch.setitem(MODELS, "neox", Architecture("gpt_neox", small))


def draws(number: int) -> torch.Tensor:
    return torch.randn(number, L, COPIES, generator=torch.Generator().manual_seed(0))


def built(name: str) -> models.GaussianModel:
    torch.manual_seed(0)
    return models.build(name, COPIES, L).eval()


@pytest.mark.parametrize("name", KINDS)
def test_shapes(name):
    model = built(name)
    mean, log_std = model(draws(2))
    assert model.name == name
    assert (model.positions is None) != architecture(name).positions
    assert not any("embed_tokens" in key or "wte" in key or "embeddings" in key for key in model.state_dict())
    assert mean.shape == log_std.shape == (2, L, COPIES)
    assert mean.isfinite().all()
    assert log_std.isfinite().all()
    (mean.square().sum() + log_std.square().sum()).backward()
    assert all(value.grad is not None for value in model.parameters())  # with several processes, a step waits for each


@pytest.mark.parametrize("name", KINDS)
def test_a_prediction_rests_on_the_tokens_before_it(name):
    """Gradients are zero for the token itself and later ones, nonzero for all earlier ones, which windows reach too."""
    model, z = built(name).train(), draws(2).requires_grad_()
    mean, log_std = model(z)
    for position in (0, 7, L - 1):
        for values in (mean, log_std):
            (gradient,) = torch.autograd.grad(values[0, position].sum(), z, retain_graph=True)
            size = gradient.abs().sum(dim=2)
            assert (size[0, position:] == 0).all()
            assert (size[0, :position] > 0).all()
            assert (size[1] == 0).all()  # the other draw of the batch has no influence


def test_a_window_ends():
    """Two layers of a window of 16 tokens reach 30 tokens back, and no further."""
    torch.manual_seed(0)
    model = models.build("window-128", COPIES, 64).eval()
    z = torch.randn(1, 64, COPIES, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(z)[0][0, 50].sum(), z)
    size = gradient[0].abs().sum(dim=1)
    # The input at position t is token t − 1; each of the two layers reaches 15 tokens further back.
    assert size.nonzero().flatten().tolist() == list(range(50 - 1 - 30, 50))


@pytest.mark.parametrize("name", ["mamba2-mini-8192", "mamba2-32-64", "gru-32-8", "mamba-mini", "hybrid-mini"])
def test_a_longer_sequence_changes_no_earlier_prediction(name):
    """The first 40 predictions are the same for 96 tokens and for 40, although a scan is computed in chunks."""
    torch.manual_seed(0)
    model = models.build(name, COPIES, 96).eval()
    z = torch.randn(2, 96, COPIES)
    with torch.inference_mode():
        for whole, part in zip(model(z), model(z[:, :40]), strict=True):
            torch.testing.assert_close(whole[:, :40], part, rtol=1e-5, atol=1e-5)


def test_the_chunk_of_mamba2_changes_no_number():
    z = torch.randn(2, 96, COPIES)
    outcomes = []
    for length in (16, 96):
        torch.manual_seed(0)
        model = models.build("mamba2-64-1024-no-pos", COPIES, length).eval()
        outcomes.append((model.config.chunk_size, model(z)[0]))
    (short, one), (long, other) = outcomes
    assert short < long
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_model_of_unknown_state_is_refused(monkeypatch):
    small = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    monkeypatch.setitem(MODELS, "mine", Architecture("olmoe", small | {"num_experts": 2}))
    monkeypatch.setattr(history_state, "KNOWN", history_state.KNOWN - {"olmoe"})
    with pytest.raises(UserError, match="history state of model type 'olmoe' is not known here"):
        models.build("mine", COPIES, L)
