"""A gated recurrent network as the transformers model type `gru`: a plain RNN with a state of any size.

    model = AutoModel.from_config(AutoConfig.for_model("gru", hidden_size=128, state_size=16))

Each layer adds the projected output of a GRU (Cho et al., 2014) to its input. The GRU's `state_size` elements are all
that the layer keeps of the past. Importing this module registers the type with AutoConfig and AutoModel.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


class GRUConfig(PreTrainedConfig):
    """state_size: number of elements in the state of each layer."""

    model_type = "gru"
    hidden_size: int = 128
    state_size: int = 64
    num_hidden_layers: int = 1
    vocab_size: int = 1
    use_cache: bool = False


class GRULayer(nn.Module):
    def __init__(self, width: int, state: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.recurrence = nn.GRU(width, state, batch_first=True)
        self.out = nn.Linear(state, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.out(self.recurrence(self.norm(x))[0])


class GRUModel(PreTrainedModel):
    config_class = GRUConfig
    _no_split_modules: ClassVar = ["GRULayer"]

    def __init__(self, config: GRUConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        layers = range(config.num_hidden_layers)
        self.layers = nn.ModuleList(GRULayer(config.hidden_size, config.state_size) for _ in layers)
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, inputs_embeds: torch.Tensor, use_cache: bool = False) -> BaseModelOutput:
        """inputs_embeds: (sequences, L, hidden_size). There is no cache: each call reads whole sequences."""
        x = inputs_embeds
        for layer in self.layers:
            x = layer(x)
        return BaseModelOutput(last_hidden_state=self.norm(x))


AutoConfig.register("gru", GRUConfig)
AutoModel.register(GRUConfig, GRUModel)
