"""Cross entropy over a large vocabulary without ever holding all of its logits.

    nats = cross_entropy(hidden, head.weight, targets)

The logits of a batch of 16,384 tokens over 50,432 take 3.3 GB in float32, and a plain loss holds them three times. Here
they are made `rows` tokens at a time, and made again on the way back, which costs one more product with the head.
"""

from __future__ import annotations

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

ROWS = 512  # tokens at a time: 0.1 GB of logits over 50,432, and enough of them to keep a GPU busy


def cross_entropy(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, rows: int = ROWS) -> torch.Tensor:
    """−ln softmax(W h)[target] of every position, nats, float32, the shape of targets.

    hidden: (…, width); weight W: (vocabulary, width), without a bias; targets: (…). Under autocast the products are of
    its precision; softmax, sums and the gradient of W over the chunks stay float32.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    # reshape, not view: a slice of positions is not contiguous
    chunks = zip(hidden.reshape(-1, hidden.shape[-1]).split(rows), targets.reshape(-1).split(rows), strict=True)
    # No random numbers are drawn within, so their state need not be kept.
    again = {"use_reentrant": False, "preserve_rng_state": False}
    nats = [checkpoint(_chunk, part, weight, wanted, dtype, **again) for part, wanted in chunks]
    return torch.cat(nats).view(targets.shape)


def _chunk(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    # Autocast would round W once for all chunks, and then add up their gradients in that precision.
    with torch.autocast(hidden.device.type, enabled=False):
        logits = functional.linear(hidden.to(dtype), weight.to(dtype)).float()
        return functional.cross_entropy(logits, targets, reduction="none")
