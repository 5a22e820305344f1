"""The models that are trained on books (Fig. 4, G.9; Table F.2), and small ones of the same kinds for a CPU.

    model = build("gpt2", vocab=50_277, L=4096)          # of the ids of the GPT-NeoX tokenizer
    loss = model(input_ids, targets=targets).loss        # nats a token
    logits = model(input_ids).logits

They are the models of transformers with random weights, without dropout, and what they save is opened by
`AutoModelForCausalLM.from_pretrained`. Given targets, the loss never holds the logits of the whole batch; attention is
torch's scaled_dot_product_attention without a mask tensor, which takes memory linear in L in float32 too. Mamba and
Mamba2 take the kernels of mamba-ssm where they are installed; without them Mamba takes mambapy's scan.

To add a model, add a line to MODELS: a type of TYPES and what differs from its configuration's defaults.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import transformers
from transformers.modeling_outputs import CausalLMOutput

from common.cli import UserError
from train_on_pg19.training.loss import cross_entropy


class Model(NamedTuple):
    """One line of MODELS."""

    kind: str
    """a type of TYPES"""
    settings: dict[str, Any]
    """of its configuration"""


def _gpt2(layers: int, width: int, heads: int) -> Model:
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    shape = {"n_layer": layers, "n_embd": width, "n_head": heads, "attn_implementation": "sdpa"}
    return Model("gpt2", {**shape, **dropout})


def _gpt_neox(layers: int, width: int, heads: int) -> Model:
    """GPT2's sizes; positions by rotation of all of a head; the embedding is the head's too."""
    shape = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads}
    shape |= {"intermediate_size": 4 * width, "tie_word_embeddings": True, "attn_implementation": "sdpa"}
    rotation = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0}
    return Model("gpt_neox", {**shape, "rope_parameters": rotation})


def _mamba(layers: int, width: int) -> Model:
    return Model("mamba", {"num_hidden_layers": layers, "hidden_size": width, "use_mambapy": True})


def _mamba2(layers: int, width: int, state: int, head: int) -> Model:
    """Inner width 2 · width, one group; the embedding is the head's too, as in its authors' models."""
    heads = {"num_heads": 2 * width // head, "head_dim": head, "n_groups": 1, "tie_word_embeddings": True}
    return Model("mamba2", {"num_hidden_layers": layers, "hidden_size": width, "state_size": state, **heads})


MODELS: dict[str, Model] = {
    # Table F.2; what it does not give is as in the configurations of the same names on the hub.
    "gpt2": _gpt2(12, 768, 12),
    "gpt2-medium": _gpt2(24, 1024, 16),
    "gpt2-large": _gpt2(36, 1280, 20),
    "mamba-130m": _mamba(24, 768),
    "mamba-370m": _mamba(48, 1024),
    "mamba-790m": _mamba(48, 1536),
    # not in the paper: for a CPU, the same three sizes of each kind. As in the table, a recurrent model has twice the
    # layers of the transformer of its size. Without the vocabulary: 0.1, 0.3 and 1.8 million parameters of a
    # transformer, and up to a third more of the others. GPT-NeoX stands beside GPT2 because a table of positions takes
    # longer to learn than a CPU has time for.
    "gpt2-mini-small": _gpt2(2, 64, 2),
    "gpt2-mini-medium": _gpt2(3, 96, 3),
    "gpt2-mini-large": _gpt2(4, 192, 6),
    "gpt_neox-mini-small": _gpt_neox(2, 64, 2),
    "gpt_neox-mini-medium": _gpt_neox(3, 96, 3),
    "gpt_neox-mini-large": _gpt_neox(4, 192, 6),
    "mamba-mini-small": _mamba(4, 64),
    "mamba-mini-medium": _mamba(6, 96),
    "mamba-mini-large": _mamba(8, 192),
    "mamba2-mini-small": _mamba2(4, 64, state=16, head=32),
    "mamba2-mini-medium": _mamba2(6, 96, state=16, head=32),
    "mamba2-mini-large": _mamba2(8, 192, state=16, head=32),
    # not in the paper: for the tests
    "tiny": _gpt2(2, 32, 2),
}


class MemorySavingLoss:
    """A causal language model whose forward, given `targets`, makes the loss and not the logits.

    Unlike transformers' labels, targets are not shifted: targets[:, t] is what follows input_ids[:, : t + 1].
    """

    # What Trainer asks: the loss is a mean over the micro-batch, to be divided by the number of these.
    accepts_loss_kwargs = False

    def forward(self, input_ids: torch.Tensor | None = None, targets: torch.Tensor | None = None, **others: Any) -> Any:
        """With targets, (batch, L): the mean loss, nats a token, alone. Without: as in transformers."""
        if targets is None:
            return super().forward(input_ids, **others)
        hidden = self.base_model(input_ids, **others).last_hidden_state
        return CausalLMOutput(loss=cross_entropy(hidden, self.get_output_embeddings().weight, targets))

    @torch.no_grad()
    def nll(self, input_ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """−log q of each target given what is before it, nats, (batch, L) float32."""
        hidden = self.base_model(input_ids).last_hidden_state
        return cross_entropy(hidden, self.get_output_embeddings().weight, targets, reduction="none")


# Of the same names as in transformers, because a saved model names its class.
class GPT2LMHeadModel(MemorySavingLoss, transformers.GPT2LMHeadModel):
    pass


class GPTNeoXForCausalLM(MemorySavingLoss, transformers.GPTNeoXForCausalLM):
    pass


class MambaForCausalLM(MemorySavingLoss, transformers.MambaForCausalLM):
    pass


class Mamba2ForCausalLM(MemorySavingLoss, transformers.Mamba2ForCausalLM):
    pass


TYPES: dict[str, tuple[type[transformers.PreTrainedConfig], type[transformers.PreTrainedModel]]] = {
    "gpt2": (transformers.GPT2Config, GPT2LMHeadModel),
    "gpt_neox": (transformers.GPTNeoXConfig, GPTNeoXForCausalLM),
    "mamba": (transformers.MambaConfig, MambaForCausalLM),
    "mamba2": (transformers.Mamba2Config, Mamba2ForCausalLM),
}


def padded(vocab: int) -> int:
    """Rows of the embedding for `vocab` ids and a start token: up to a multiple of 256, which suits a GPU.

    For GPT-NeoX's 50,277 the paper's 50,432.
    """
    return -(-(vocab + 1) // 256) * 256


def build(name: str, vocab: int, L: int, rows: int | None = None) -> transformers.PreTrainedModel:
    """A model of MODELS with random weights, for the ids below `vocab` and sequences of at most L tokens.

    Its start token (`config.bos_token_id`) is the id `vocab`, which no text can hold. rows: of the embedding, if not
    `padded`. UserError: another name, or fewer rows than ids.
    """
    if name not in MODELS:
        raise UserError(f"no model {name!r}: choose {', '.join(MODELS)}, or add a line to MODELS of models.py")
    rows = padded(vocab) if rows is None else rows
    if rows <= vocab:
        raise UserError(
            f"--vocab {rows:,}: the tokenizer has {vocab:,} ids, and the start token is one more: give {vocab + 1} or "
            f"more, or leave it out for {padded(vocab)}"
        )
    kind, settings = MODELS[name]
    config_class, model_class = TYPES[kind]
    ids = {"vocab_size": rows, "bos_token_id": vocab, "eos_token_id": None, "pad_token_id": None}
    config = config_class(use_cache=False, **ids, **settings, **_of_length(kind, L))
    return model_class(config)


def _of_length(kind: str, L: int) -> dict[str, int]:
    """Settings that follow from the length: the table of positions, and a chunk of Mamba2 without much padding."""
    if kind == "mamba2":
        # No number depends on the chunk, only the time and memory of the scan; the kernels want a power of two from 16.
        return {"chunk_size": 64 if L >= 64 else 16}
    return {"max_position_embeddings": L} if kind in ("gpt2", "gpt_neox") else {}
