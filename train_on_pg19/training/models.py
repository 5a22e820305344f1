"""The models for books (Fig. 4, G.9): the architectures of common/architectures.py with a vocabulary.

    model = build("gpt2", vocab=50_277, L=4096)          # of the ids of the GPT-NeoX tokenizer
    loss = model(input_ids, targets=targets).loss        # nats per token
    logits = model(input_ids).logits

These are transformers models with random weights; `AutoModelForCausalLM.from_pretrained` opens what they save. With
targets, the forward pass never holds the logits of the whole batch, except in model types that have more than weights
between hidden states and logits (Cohere's scale, Gemma 2's cap, Phi's bias). Attention is torch's
scaled_dot_product_attention without a mask tensor, whose memory is linear in L, also in float32.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch.nn import functional
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from common.architectures import configuration
from common.cli import UserError
from common.history_state import KNOWN, history_state
from train_on_pg19.training.loss import cross_entropy


class MemorySavingLoss:
    """A causal language model whose forward, given `targets`, returns the loss without the logits.

    Unlike transformers' labels, targets are not shifted: targets[:, t] is what follows input_ids[:, : t + 1].
    """

    head_alone: bool  # see `_head_alone`

    def forward(self, input_ids: torch.Tensor | None = None, targets: torch.Tensor | None = None, **others: Any) -> Any:
        """With targets, (batch, L): only the mean loss, in nats per token. Without targets: as in transformers."""
        if targets is None:
            return super().forward(input_ids, **others)
        if not self.head_alone:
            logits = super().forward(input_ids, **others).logits.float()
            return CausalLMOutput(loss=functional.cross_entropy(logits.flatten(0, 1), targets.flatten()))
        hidden = self.base_model(input_ids, **others).last_hidden_state
        return CausalLMOutput(loss=cross_entropy(hidden, self.get_output_embeddings().weight, targets).mean())


@lru_cache
def _with_memory_saving_loss(model: type[PreTrainedModel]) -> type[PreTrainedModel]:
    # The class keeps its transformers name, because a saved model records the name of its class.
    return type(model.__name__, (MemorySavingLoss, model), {})


@torch.no_grad()
def _head_alone(model: PreTrainedModel) -> bool:
    """Whether the logits are the head's weights times the hidden states: no bias, no scale and no cap.

    The head is given hidden states for logits of 100, which a cap changes too.
    """
    head, base = model.get_output_embeddings(), model.base_model
    if not isinstance(head, torch.nn.Linear) or head.bias is not None or base is model:
        return False
    if head.weight.is_meta:  # no numbers to compare
        return True
    rows = head.weight[None, :2]
    hidden = 100 * rows / rows.square().sum(dim=2, keepdim=True)

    def replace(_: Any, __: Any, output: Any) -> Any:
        output.last_hidden_state = hidden
        return output

    hook = base.register_forward_hook(replace)
    logits = model.eval()(torch.zeros(rows.shape[:2], dtype=int)).logits
    model.train()
    hook.remove()
    return torch.allclose(logits, functional.linear(hidden, head.weight), rtol=1e-4, atol=1e-2)


def padded(vocab: int) -> int:
    """Rows of the embedding for `vocab` ids and a start token, rounded up to a multiple of 256, which suits a GPU.

    GPT-NeoX's 50,277 ids give the paper's 50,432 rows.
    """
    return -(-(vocab + 1) // 256) * 256


def build(name: str, vocab: int, L: int, rows: int | None = None) -> PreTrainedModel:
    """A model with random weights, for the ids below `vocab` and sequences of at most L tokens.

    Its start token (`config.bos_token_id`) is the id `vocab`, which no text contains. rows: rows of the embedding;
    default: `padded(vocab)`. UserError: see `configuration`; too few rows for the ids and the start token; a model type
    without a language model; sizes that do not divide.
    """
    rows = padded(vocab) if rows is None else rows
    if rows <= vocab:
        raise UserError(
            f"--vocab {rows:,}: the tokenizer has {vocab:,} ids, and the start token is one more: give {vocab + 1} or "
            f"more, or leave it out for {padded(vocab)}"
        )
    config = configuration(name, L, vocab_size=rows, bos_token_id=vocab, eos_token_id=None, pad_token_id=None)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        lacking = f"model {name}: model type {config.model_type!r} has no language model in transformers"
        raise UserError(f"{lacking}: it can be trained on Gaussian sequences only")
    if config.model_type in KNOWN:
        try:
            history_state(config, L)  # raises where sizes do not divide
        except UserError as error:
            raise UserError(f"model {name}: {error}") from error
    model = _with_memory_saving_loss(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)])(config)
    model.head_alone = _head_alone(model)
    return model
