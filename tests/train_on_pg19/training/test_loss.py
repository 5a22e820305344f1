"""The memory-saving loss against the plain one: values, gradients, precision, and what it holds in memory."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from train_on_pg19.training.loss import cross_entropy

BATCH, L, WIDTH, VOCABULARY = 3, 50, 24, 700


def inputs(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, weights of the head, and targets. The logits vary so much that some tokens are nearly certain."""
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(BATCH, L, WIDTH, generator=random, dtype=dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, generator=random, dtype=dtype).requires_grad_()
    return hidden, weight, torch.randint(VOCABULARY, (BATCH, L), generator=random)


def plain(hidden, weight, targets):
    nats = functional.cross_entropy((hidden @ weight.T).flatten(0, -2), targets.flatten(), reduction="none")
    return nats.view(targets.shape)


def gradients(loss, hidden, weight):
    return torch.autograd.grad(loss, (hidden, weight))


@pytest.mark.parametrize("rows", [1, 7, 64, 150, 512])
def test_it_equals_the_plain_loss_in_value_and_gradient(rows):
    """In float32 to 1e-5, gradients relative to the largest one; 7 and 64 do not divide the 150 positions."""
    hidden, weight, targets = inputs()
    ours, theirs = cross_entropy(hidden, weight, targets, rows), plain(hidden, weight, targets)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    # Upstream gradients that differ between positions, as for a mean over some of them only.
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    found, wanted = (gradients((nats * upstream).sum(), hidden, weight) for nats in (ours, theirs))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * other.abs().max().item())


def test_bf16_loses_nothing_by_chunks():
    """Products are in bfloat16, but the loss and the sum of the head's gradient over chunks are in float32.

    For 2,000 equal tokens, a gradient summed in bfloat16 would stop growing at 256 times that of one token.
    """
    hidden, weight, _ = inputs()
    targets = torch.zeros(2000, dtype=torch.long)
    same = hidden[0, :1].detach().expand(2000, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy(same, weight, targets, rows=1).sum()
        one = cross_entropy(same[:1], weight, targets[:1], rows=1).sum()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(2000 * one.item(), rel=1e-5)
    (many,), (single,) = torch.autograd.grad(loss, weight), torch.autograd.grad(one, weight)
    assert many.dtype == torch.float32
    torch.testing.assert_close(many, 2000 * single, rtol=1e-4, atol=1e-4)
    rounded = plain(same[:1].bfloat16().float(), weight.bfloat16().float(), targets[:1])
    assert one.item() == pytest.approx(rounded.item(), abs=0.05)


class Largest(TorchDispatchMode):
    """Records the largest number of elements in the result of any operation."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        sizes = [value.numel() for value in tree_leaves(made) if isinstance(value, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return made


def held_for_backward(loss) -> int:
    """Elements of the tensors that a loss keeps between forward and backward, each counted once."""
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
        loss()
    return sum(value.numel() for value in kept.values())


def test_no_operation_makes_more_logits_than_rows():
    hidden, weight, targets = inputs()
    with Largest() as largest:
        cross_entropy(hidden, weight, targets, rows=16).mean().backward()
    assert largest.elements <= max(16 * VOCABULARY, VOCABULARY * WIDTH)
    with Largest() as largest:
        plain(hidden, weight, targets).mean().backward()
    assert largest.elements == BATCH * L * VOCABULARY
    assert held_for_backward(lambda: plain(hidden, weight, targets)) > BATCH * L * VOCABULARY
    given = sum(value.numel() for value in (hidden, weight, targets))
    assert held_for_backward(lambda: cross_entropy(hidden, weight, targets, rows=16)) <= given
