"""Cross entropy over a large vocabulary that never holds all logits in memory.

    nats = cross_entropy(hidden, head.weight, targets)

For a batch of 16,384 tokens and 50,432 ids, the logits take 3.3 GB in float32, and a plain loss holds them three times.
Here they are computed for `rows` tokens at a time, and again in the backward pass: one more product with the head.
"""

from __future__ import annotations

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

ROWS = 512  # tokens at a time: 0.1 GB of logits for 50,432 ids, and enough to keep a GPU busy


def cross_entropy(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, rows: int = ROWS) -> torch.Tensor:
    """−ln softmax(W h)[target] at every position, in nats, float32, with the shape of targets.

    hidden: (…, width); weight W: (vocabulary, width), without a bias; targets: (…). Under autocast the products use its
    precision; softmax, sums and the gradient of W over the chunks stay float32.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    # reshape, not view: a slice of positions is not contiguous
    chunks = zip(hidden.reshape(-1, hidden.shape[-1]).split(rows), targets.reshape(-1).split(rows), strict=True)
    # _chunk draws no random numbers, so the random state need not be saved.
    again = {"use_reentrant": False, "preserve_rng_state": False}
    nats = [checkpoint(_chunk, part, weight, wanted, dtype, **again) for part, wanted in chunks]
    return torch.cat(nats).view(targets.shape)


def _chunk(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    # With autocast on, W would be rounded once for all chunks, and their gradients summed in the lower precision.
    with torch.autocast(hidden.device.type, enabled=False):
        logits = functional.linear(hidden.to(dtype), weight.to(dtype)).float()
        return functional.cross_entropy(logits, targets, reduction="none")
