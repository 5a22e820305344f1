"""The table of architectures: sizes against published parameter counts, names, and models that cannot be built."""

from __future__ import annotations

import itertools

import pytest
import torch
from transformers import AutoModel

from common.architectures import MODELS, Architecture, architecture, configuration
from common.cli import UserError
from common.history_state import history_state, state_by_kind


def gpt2_size(layers: int, width: int) -> int:
    """1,024 positions; per layer, attention 4w² + 4w, MLP 8w² + 5w and two norms of 2w; a norm of 2w at the end."""
    return 1024 * width + layers * (12 * width**2 + 13 * width) + 2 * width


def mamba_size(layers: int, width: int) -> int:
    """Per layer: in 4w², convolution 5 · 2w, to Δ, B, C 2w(r + 32), Δ 2w(r + 1), A and D 17 · 2w, out 2w², norm w."""
    rank = width // 16
    return layers * (6 * width**2 + 2 * width * (5 + (rank + 32) + (rank + 1) + 17) + width) + width


def mamba2_size(layers: int, width: int) -> int:
    """Per layer of h heads and c = 2w + 256 convolved channels: in w(2w + c + h), 5c, 3h, norm 2w, out 2w², norm w."""
    heads, channels = width // 32, 2 * width + 256
    layer = width * (2 * width + channels + heads) + 5 * channels + 3 * heads + 2 * width**2 + 3 * width
    return layers * layer + width


# Parameters of the published checkpoint, those of its vocabulary embedding, and the rest by formula.
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
SIZED = ["gru-16-5", "gru-128-64", "mamba2-64-32", "mamba2-128-1024-no-pos", "mamba2-128-16384"]


@pytest.mark.parametrize("name", [*MODELS, *SIZED])
def test_every_model_is_built_without_dropout_and_its_size_and_state_are_known(name):
    """Sizes match formulas and checkpoints; for Mamba, the number in the name is right within a tenth."""
    L = 1024 if name in PUBLISHED else 4096
    config = configuration(name, L, vocab_size=3, bos_token_id=2)
    assert (config.vocab_size, config.bos_token_id, config.use_cache) == (3, 2, False)
    assert history_state(config, L) > 0
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    assert not any(module.p for module in model.modules() if isinstance(module, torch.nn.Dropout))
    if hasattr(config, "max_position_embeddings"):
        assert config.max_position_embeddings == L
    if name in PUBLISHED:
        whole, embedding, by_formula = PUBLISHED[name]
        size = sum(parameter.numel() for parameter in model.parameters())
        assert size - config.vocab_size * config.hidden_size == by_formula
        assert whole in (None, by_formula + embedding)
        if name.startswith("mamba"):
            number = float(name.split("-")[1][:-1]) * {"m": 1e6, "b": 1e9}[name[-1]]
            assert by_formula + embedding == pytest.approx(number, rel=0.1)
    kind, _, size = name.removesuffix("-no-pos").partition("-")
    if size.rpartition("-")[2].isdigit() and kind in ("gru", "mamba2"):
        # The number in a name is the size of the recurrent state, without the convolutions.
        assert state_by_kind(config, 128)[f"{kind}_recurrence"] == int(size.rpartition("-")[2])
        assert architecture(name).positions == ("no-pos" not in name)


def test_names_are_told_apart():
    shapes = [(*model[::2], *sorted(map(str, model.settings.items()))) for model in MODELS.values()]
    assert all(one != other for one, other in itertools.combinations(shapes, 2))


def test_the_chunk_of_mamba2_goes_by_the_length():
    assert [configuration("mamba2-mini-256", L).chunk_size for L in (16, 31, 32, 1024)] == [16, 16, 32, 32]


def test_what_cannot_be_built_is_refused(monkeypatch):
    with pytest.raises(UserError, match=r"no model 'gpt5': choose gpt2, .* or add a line to common/architectures.py"):
        configuration("gpt5", 16)
    for name, said in [
        ("mamba2-128-1000", "no state of 1000 elements: give a multiple of 32, e.g. 992"),
        ("mamba2-128-3", "e.g. 32"),
        ("gru-0-8", "at least 1"),
    ]:
        with pytest.raises(UserError, match=said):
            configuration(name, 16)
    monkeypatch.setitem(MODELS, "mine", Architecture("my_architecture", {}))
    with pytest.raises(UserError, match=r"^model mine: transformers has no model type 'my_architecture'"):
        configuration("mine", 16)
    monkeypatch.setitem(MODELS, "mine", Architecture("mistral", {"hidden_size": 32, "sliding_windows": 8}))
    with pytest.raises(UserError, match=r"^model mine: mistral has no setting sliding_windows: correct its line"):
        configuration("mine", 16)
    monkeypatch.setitem(MODELS, "mine", Architecture("llama", {"hidden_size": 100, "num_attention_heads": 3}))
    with pytest.raises(UserError, match=r"^model mine: The hidden size \(100\) .*: correct its line in MODELS$"):
        configuration("mine", 16)
