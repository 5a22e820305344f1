"""Operations of a training step, against torch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from common.flops import flops_a_token
from gaussian_synthetic.training import models as gaussian_models
from train_on_pg19.training import models as book_models


def counted(step) -> int:
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        step()
    return counter.get_total_flops()


def test_against_a_counter_on_gaussian_sequences():
    torch.manual_seed(0)
    model = gaussian_models.build("gpt2-mini", 64, 64)
    z = torch.randn(2, 64, 64)
    assert flops_a_token(model, 64) * 128 == pytest.approx(counted(lambda: sum(model(z)).sum().backward()), rel=0.05)


@pytest.mark.parametrize("name", ["gpt2-mini", "gpt_neox-mini-medium"])
def test_against_a_counter_on_books(name):
    """The output layer is counted, whether or not it shares the embedding; looking up an embedding is not."""
    model = book_models.build(name, 256, 64)
    ids = torch.randint(256, (2, 64))
    found = counted(lambda: model(ids).logits.sum().backward())
    assert flops_a_token(model, 64) * 128 == pytest.approx(found, rel=0.05)
