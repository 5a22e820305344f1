"""Models for Gaussian sequences: any backbone between two small networks (App. F; Table F.1).

    model = build("mamba-130m", copies=64, L=1024)
    mean, log_std = model(z)              # z: (draws, L, copies) → the law of z_t given z_<t, for every t at once

A token is a vector of `copies` numbers. The vocabulary embedding is replaced by a two-layer network (copies → width),
and the output layer by one that gives a mean and a standard deviation for each copy. The input is shifted: it starts
with a zero token and leaves out the last token, so that token t is predicted only from the tokens before it. The
backbones are those of common/architectures.py.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel

from common.architectures import architecture, configuration
from common.history_state import history_state


class GaussianModel(nn.Module):
    """A backbone between two small networks; `config` is the backbone's configuration."""

    def __init__(self, name: str, backbone: PreTrainedModel, copies: int, positions: int = 0) -> None:
        """positions: rows of a table of learned positions; 0 for no table."""
        super().__init__()
        self.name, self.config = name, backbone.config
        width = backbone.config.hidden_size
        self.positions = nn.Embedding(positions, width) if positions else None
        if self.positions is not None:
            nn.init.normal_(self.positions.weight, std=0.5)  # about the size of an embedded token
        # not in the paper: both networks have the backbone's width inside, and GELU as activation
        self.embed = nn.Sequential(nn.Linear(copies, width), nn.GELU(), nn.Linear(width, width))
        self.backbone = backbone
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 2 * copies))

    def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log standard deviation of z_t given z_<t, (draws, L, copies) each; z: the same shape."""
        before = nn.functional.pad(z[:, :-1], (0, 0, 1, 0))
        tokens = self.embed(before)
        if self.positions is not None:
            tokens = tokens + self.positions.weight[: z.shape[1]]
        hidden = self.backbone(inputs_embeds=tokens, use_cache=False).last_hidden_state
        # not in the paper: the head gives the log of the deviation, which is then positive and near 1 at first
        mean, log_std = self.head(hidden).chunk(2, dim=-1)
        return mean, log_std


def build(name: str, copies: int, L: int) -> GaussianModel:
    """A model with random weights, for tokens of `copies` numbers and sequences of at most L tokens.

    UserError: see `configuration`; or a model whose history state is not known.
    """
    # A vocabulary of one: its embedding is never used, and is replaced below.
    config = configuration(name, L, vocab_size=1, bos_token_id=None, eos_token_id=None, pad_token_id=None)
    history_state(config, L)  # raises before any training if evaluate.py could not count the state
    backbone = AutoModel.from_config(config)
    backbone.set_input_embeddings(nn.Identity())
    return GaussianModel(name, backbone, copies, positions=L if architecture(name).positions else 0)
