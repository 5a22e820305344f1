"""Operations needed by training, and the peak of a GPU: their ratio is the model FLOPs utilisation.

flops_a_token(model, L) * tokens / seconds / peak_flops("bf16", torch.device("cuda"))
"""

from __future__ import annotations

import math

import torch

from common.history_state import layer_types

# Dense matrix products, 10^12 operations per second, from NVIDIA's data sheets (SXM version if there are several).
PEAK_TFLOPS = {
    "H100": {"fp32": 67, "tf32": 495, "bf16": 989},
    "H200": {"fp32": 67, "tf32": 495, "bf16": 989},
    "A100": {"fp32": 19.5, "tf32": 156, "bf16": 312},
    "L40S": {"fp32": 91.6, "tf32": 183, "bf16": 362},
}


def flops_a_token(model: torch.nn.Module, L: int) -> float:
    """Operations of training per token: 6 per weight, plus 12 · layers · width · L for attention.

    model: has a transformers `config`. Embeddings that are only looked up are not counted, an output layer is. For
    sliding-window layers, L is at most the window. Attention is counted as if it were not causal, as kernels differ in
    what they skip. The scans of recurrent layers are left out: they are small compared with the projections.
    """
    computing = (module for module in model.modules() if not isinstance(module, torch.nn.Embedding))
    values = (value for module in computing for value in module.parameters(recurse=False))
    weights = 6 * sum(value.numel() for value in values if value.ndim > 1)
    config = model.config
    heads = getattr(config, "num_attention_heads", None)
    if heads is None:
        return weights
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    reach = {"full_attention": L, "sliding_attention": min(L, getattr(config, "sliding_window", None) or L)}
    return weights + 12 * width * sum(reach.get(kind, 0) for kind in layer_types(config))


def peak_flops(precision: str, device: torch.device) -> float:
    """Peak operations per second of the device; NaN for a CPU, or a GPU that PEAK_TFLOPS lacks."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    known = [peak[precision] for card, peak in PEAK_TFLOPS.items() if card in name]
    return 1e12 * (known or [math.nan])[0]
