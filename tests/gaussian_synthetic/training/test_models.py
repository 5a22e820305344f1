"""Every architecture: its size against published counts, what a prediction rests on, what a batch must not change."""

from __future__ import annotations

import sys

import pytest
import torch

from common import history_state
from common.cli import UserError
from gaussian_synthetic.training import models

COPIES, L = 3, 24
ON_A_GPU = [name for name, model in models.MODELS.items() if model.kind in models.FLA]
# One model of each kind, small enough for a CPU.
KINDS = ["tiny", "gpt2-mini", "qwen3-mini", "neox", "window-mini", "hybrid-mini", "mamba-mini-32", "mamba2-mini-512"]


@pytest.fixture(autouse=True)
def neox(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one kind that has no small model in the table."""
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    monkeypatch.setitem(models.MODELS, "neox", models.Model("gpt_neox", small))


def draws(number: int) -> torch.Tensor:
    return torch.randn(number, L, COPIES, generator=torch.Generator().manual_seed(0))


def built(name: str) -> models.GaussianModel:
    torch.manual_seed(0)
    return models.build(name, COPIES, L).eval()


def on_meta(name: str, length: int = 1024) -> models.GaussianModel:
    with torch.device("meta"):
        return models.build(name, 64, length)


def gpt2_size(layers: int, width: int) -> int:
    """1,024 positions; a layer: attention 4 w² + 4 w, network 8 w² + 5 w, two norms of 2 w; one norm at the end."""
    return 1024 * width + layers * (12 * width**2 + 13 * width) + 2 * width


def mamba_size(layers: int, width: int) -> int:
    """A layer: in 4 w², convolution 5 · 2w, to Δ, B, C 2w (r + 32), Δ 2w (r + 1), A and D 2w · 17, out 2 w², norm w."""
    rank = width // 16
    return layers * (6 * width**2 + 2 * width * (5 + (rank + 32) + (rank + 1) + 17) + width) + width


def mamba2_size(layers: int, width: int) -> int:
    """A layer of h heads and 2w + 256 convolved channels c: in w (2w + c + h), 5 c, 3 h, norm 2w, out 2 w², norm w."""
    heads, channels = width // 32, 2 * width + 256
    return (
        layers * (width * (2 * width + channels + heads) + 5 * channels + 3 * heads + 2 * width**2 + 3 * width) + width
    )


# Parameters of the published checkpoints, and the size of the vocabulary embedding in them.
PUBLISHED = {
    "gpt2": (124_439_808, 50_257 * 768, gpt2_size(12, 768)),
    "gpt2-medium": (354_823_168, 50_257 * 1024, gpt2_size(24, 1024)),
    "gpt2-large": (774_030_080, 50_257 * 1280, gpt2_size(36, 1280)),
    "mamba-130m": (129_135_360, 50_280 * 768, mamba_size(24, 768)),
    "mamba-370m": (371_516_416, 50_280 * 1024, mamba_size(48, 1024)),
    "mamba-790m": (793_204_224, 50_280 * 1536, mamba_size(48, 1536)),
    "mamba-1.4b": (1_372_178_432, 50_280 * 2048, mamba_size(48, 2048)),
    "mamba2-130m": (128_989_632, 50_288 * 768, mamba2_size(24, 768)),
    "mamba2-370m": (None, 50_288 * 1024, mamba2_size(48, 1024)),
    "mamba2-790m": (None, 50_288 * 1536, mamba2_size(48, 1536)),
    "mamba-50m": (None, 50_280 * 512, mamba_size(12, 512)),
    "mamba-70m": (None, 50_280 * 512, mamba_size(24, 512)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_models_of_table_f1_have_their_published_sizes(name):
    whole, embedding, by_formula = PUBLISHED[name]
    model = on_meta(name)
    assert sum(parameter.numel() for parameter in model.backbone.parameters()) == by_formula
    if whole is not None:
        assert by_formula == whole - embedding


def test_the_names_say_the_size():
    """mamba2-370m: 370 million parameters with its vocabulary, within a tenth."""
    for name, (_, embedding, by_formula) in PUBLISHED.items():
        if name.startswith("mamba"):
            number = float(name.split("-")[1][:-1]) * {"m": 1e6, "b": 1e9}[name[-1]]
            assert by_formula + embedding == pytest.approx(number, rel=0.1), name


@pytest.mark.parametrize("name", [name for name in models.MODELS if name not in ON_A_GPU])
def test_every_model_is_built_and_its_history_state_is_known(name):
    model = on_meta(name, 4096)
    assert model.name == name
    assert model.config.hidden_size == model.embed[-1].out_features
    dropped = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert not any(dropped)
    assert not model.config.use_cache
    assert not any("embed_tokens" in key or "wte" in key or "embeddings" in key for key in model.state_dict())
    assert history_state.history_state(model.config, 2048) > 0


def test_states_of_the_mini_series():
    """The number in a name counts the recurrences, without the convolutions."""
    for size in (256, 512, 2048, 8192):
        kinds = history_state.state_by_kind(on_meta(f"mamba2-mini-{size}").config, 128)
        assert kinds["mamba2_recurrence"] == size
    for name in models.MODELS:
        if "mini" in name:
            assert (on_meta(name, 64).positions is None) == name.endswith("no-pos")


@pytest.mark.parametrize("name", KINDS)
def test_shapes(name):
    mean, log_std = built(name)(draws(2))
    assert mean.shape == log_std.shape == (2, L, COPIES)
    assert mean.isfinite().all()
    assert log_std.isfinite().all()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_a_prediction_rests_on_the_tokens_before_it(name, training):
    """By gradients: zero at and after the token, and before it not, as far back as a model of windows reaches."""
    model, z = built(name).train(training), draws(2).requires_grad_()
    mean, log_std = model(z)
    for position in (0, 1, 7, L - 1):
        for values in (mean, log_std):
            (gradient,) = torch.autograd.grad(values[0, position].sum(), z, retain_graph=True)
            size = gradient.abs().sum(dim=2)
            assert (size[0, position:] == 0).all()
            assert (size[0, :position] > 0).all()
            assert (size[1] == 0).all()


def test_a_window_ends():
    """Two layers of a window of 16 tokens reach 30 tokens back, and no further."""
    torch.manual_seed(0)
    model = models.build("window-mini", COPIES, 64).eval()
    z = torch.randn(1, 64, COPIES, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(z)[0][0, 50].sum(), z)
    size = gradient[0].abs().sum(dim=1)
    # Token t − 1 is what position t is given; two layers add 15 tokens each.
    assert size.nonzero().flatten().tolist() == list(range(50 - 1 - 30, 50))


@pytest.mark.parametrize("name", KINDS)
def test_a_batch_changes_nothing(name):
    model, z = built(name), draws(8)
    with torch.inference_mode():
        together = model(z)
        alone = [torch.cat(values) for values in zip(*(model(z[i : i + 1]) for i in range(8)), strict=True)]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["mamba2-mini-2048", "mamba-mini-32", "hybrid-mini"])
def test_a_longer_sequence_changes_no_earlier_prediction(name):
    """Across the chunks in which a scan is computed: 96 tokens at once, and the first 40 alone."""
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
        model = models.build("mamba2-mini-2048-no-pos", COPIES, length).eval()
        outcomes.append((model.config.chunk_size, model(z)[0]))
    (short, one), (long, other) = outcomes
    assert short < long
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_every_parameter_takes_part():
    """Processes that share a step wait for every gradient."""
    for name in KINDS:
        model = built(name)
        mean, log_std = model(draws(1))
        (mean.square().sum() + log_std.square().sum()).backward()
        idle = [key for key, value in model.named_parameters() if value.grad is None]
        assert not idle, name


def test_an_unknown_model_is_refused():
    with pytest.raises(
        UserError, match=r"no model 'gpt5': choose gpt2, gpt2-medium, .* or add a line to MODELS of models"
    ):
        models.build("gpt5", COPIES, L)


@pytest.mark.parametrize("name", ON_A_GPU)
def test_a_model_that_needs_a_gpu_says_so(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=f"model {name} runs on an NVIDIA GPU only"):
        models.build(name, COPIES, L)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "fla", None)
    with pytest.raises(UserError, match=f"model {name} needs flash-linear-attention .*: pip install flash-linear"):
        models.build(name, COPIES, L)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ON_A_GPU)
def test_models_of_flash_linear_attention(name):
    pytest.importorskip("fla")
    torch.manual_seed(0)
    model = models.build(name, COPIES, 128).cuda()
    z = torch.randn(2, 128, COPIES, device="cuda", requires_grad=True)
    mean, log_std = model(z)
    assert mean.shape == log_std.shape == z.shape
    (gradient,) = torch.autograd.grad(mean[0, 70].sum(), z)
    size = gradient.abs().sum(dim=2)
    assert (size[0, 70:] == 0).all()
    assert (size[0, :70] > 0).any()
    assert history_state.history_state(model.config, 64) > 0


def test_a_kind_of_no_package_is_named(monkeypatch):
    monkeypatch.setitem(models.MODELS, "mine", ("my_architecture", {}, False))
    with pytest.raises(UserError, match=r"^model mine: no kind 'my_architecture': add a line to TRANSFORMERS"):
        models.build("mine", copies=3, L=16)
