"""The models for books (Fig. 4, G.9): the architectures of common/architectures.py with a vocabulary.

    model = build("gpt2", vocab=50_277, L=4096)          # of the ids of the GPT-NeoX tokenizer
    loss = model(input_ids, targets=targets).loss        # nats per token
    logits = model(input_ids).logits

These are transformers models with random weights; `AutoModelForCausalLM.from_pretrained` opens what they save. With
targets, the forward pass never holds the logits of the whole batch. Attention is torch's scaled_dot_product_attention
without a mask tensor, whose memory is linear in L, also in float32.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from common.architectures import configuration
from common.cli import UserError
from train_on_pg19.training.loss import cross_entropy


class MemorySavingLoss:
    """A causal language model whose forward, given `targets`, returns the loss without the logits.

    Unlike transformers' labels, targets are not shifted: targets[:, t] is what follows input_ids[:, : t + 1].
    """

    def forward(self, input_ids: torch.Tensor | None = None, targets: torch.Tensor | None = None, **others: Any) -> Any:
        """With targets, (batch, L): only the mean loss, in nats per token. Without targets: as in transformers."""
        if targets is None:
            return super().forward(input_ids, **others)
        hidden = self.base_model(input_ids, **others).last_hidden_state
        return CausalLMOutput(loss=cross_entropy(hidden, self.get_output_embeddings().weight, targets).mean())


@lru_cache
def _with_memory_saving_loss(model: type[PreTrainedModel]) -> type[PreTrainedModel]:
    # The class keeps its transformers name, because a saved model records the name of its class.
    return type(model.__name__, (MemorySavingLoss, model), {})


def padded(vocab: int) -> int:
    """Rows of the embedding for `vocab` ids and a start token, rounded up to a multiple of 256, which suits a GPU.

    GPT-NeoX's 50,277 ids give the paper's 50,432 rows.
    """
    return -(-(vocab + 1) // 256) * 256


def build(name: str, vocab: int, L: int, rows: int | None = None) -> PreTrainedModel:
    """A model with random weights, for the ids below `vocab` and sequences of at most L tokens.

    Its start token (`config.bos_token_id`) is the id `vocab`, which no text contains. rows: rows of the embedding;
    default: `padded(vocab)`. UserError: see `configuration`; or too few rows for the ids and the start token.
    """
    rows = padded(vocab) if rows is None else rows
    if rows <= vocab:
        raise UserError(
            f"--vocab {rows:,}: the tokenizer has {vocab:,} ids, and the start token is one more: give {vocab + 1} or "
            f"more, or leave it out for {padded(vocab)}"
        )
    config = configuration(name, L, vocab_size=rows, bos_token_id=vocab, eos_token_id=None, pad_token_id=None)
    return _with_memory_saving_loss(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)])(config)
