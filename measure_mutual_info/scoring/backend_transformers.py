"""Scoring with Hugging Face transformers: any causal model of the hub, a local folder or a GGUF file, on CPU or GPU.

What the branches of a document share is computed once: the document goes through the model in full, and every branch
that puts another document's Y behind its X starts from the key-values of that X. Models whose memory is no list of
keys and values (state-space models, sliding windows, hybrids) get self-contained prompts instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from common.cli import UserError
from measure_mutual_info.scoring.passes import Branch, TokenLogprobs, gather_plain, plain_prompts

LOGIT_ROWS = 512  # rows of logits that are turned into log-probabilities at a time: bounds the fp32 copy


class TransformersBackend:
    """See passes.Backend. share: False for self-contained prompts whatever the model keeps."""

    def __init__(self, model: torch.nn.Module, bos: int, batch_tokens: int = 4096, share: bool = True) -> None:
        self.model, self.bos, self.batch_tokens = model.eval(), bos, batch_tokens
        self.tick = lambda tokens: None
        self.share = share and self._keeps_plain_key_values()

    @torch.inference_mode()
    def _keeps_plain_key_values(self) -> bool:
        """Whether a prefix of the cache stands for a prefix of the text: true of full attention in every layer.

        Not where the rotation of positions depends on how long the text is, nor of a kind of cache that keeps more than
        key-values (MiniMax), nor where the model raises at a cache.
        """
        rotation = str(getattr(getattr(self.model, "config", None), "rope_parameters", None))
        if "longrope" in rotation or "dynamic" in rotation:
            return False
        try:
            out = self.model(input_ids=torch.full((1, 2), self.bos, device=self.model.device), use_cache=True)
            cache = getattr(out, "past_key_values", None)
            return type(cache) is DynamicCache and all(type(layer) is DynamicLayer for layer in cache.layers)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # models of the hub raise almost anything
            return False

    def check_sharing(self, documents: np.ndarray, y_recipients: np.ndarray, tokens: int = 64) -> None:
        """Score the first tokens of a group both ways; where they differ, or the model raises, prompts are plain.

        Such a model would be wrong silently, by nats a token; rounding is 1e-5 in float32 and 0.05 in bfloat16.
        """
        if not self.share:
            return
        tokens = min(tokens, documents.shape[1])
        documents, y_recipients, split = documents[:, :tokens], y_recipients[:, :tokens], [Branch(tokens // 2, tokens)]
        plain = self._plain(documents, y_recipients, split).other[0]
        try:
            worst = float(np.abs(self._shared(documents, y_recipients, split).other[0] - plain).mean())
            found = f"change its log-probabilities by {worst:.2g} nats a token"
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # models of the hub raise almost anything
            worst, found = np.inf, f"make it fail ({type(error).__name__})"
        # A document that fails in itself is no sign against sharing.
        if worst > (1e-3 if self.model.dtype == torch.float32 else 0.2) and np.isfinite(plain).all():
            print(f"reused key-values {found}: scored with plain prompts, which takes about four times as long")
            self.share = False

    def token_logprobs(
        self, documents: np.ndarray, y_recipients: np.ndarray, branches: Sequence[Branch]
    ) -> TokenLogprobs:
        """See passes.Backend. UserError if the GPU's memory is too small for the group."""
        score = self._shared if self.share else self._plain
        try:
            return score(documents, y_recipients, branches)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"out of GPU memory with {len(documents)} documents of {documents.shape[1]} tokens in a batch: "
                f"lower --batch-tokens (now {self.batch_tokens}), use --dtype bfloat16, or --device split"
            ) from error

    def _shared(self, documents: np.ndarray, y_recipients: np.ndarray, branches: Sequence[Branch]) -> TokenLogprobs:
        documents, y_recipients = (torch.as_tensor(ids, dtype=torch.long) for ids in (documents, y_recipients))
        bos = torch.full((len(documents), 1), self.bos)
        cache = DynamicCache()
        own = self.sequence_logprobs(torch.cat([bos, documents[:, :-1]], dim=1), documents, cache)
        marginal, other = [], []
        for ell, end in branches:
            mine, theirs = documents[:, ell:end], y_recipients[:, ell:end]
            marginal.append(self.sequence_logprobs(torch.cat([bos, mine[:, :-1]], dim=1), mine, DynamicCache()))
            # Key-values of BOS x_1 … x_{ℓ−1}; x_ℓ goes in again, as the input that predicts the first token of Y.
            prefix = DynamicCache([(layer.keys[:, :, :ell], layer.values[:, :, :ell]) for layer in cache.layers])
            inputs = torch.cat([documents[:, ell - 1 : ell], theirs[:, :-1]], dim=1)
            other.append(self.sequence_logprobs(inputs, theirs, prefix))
        return TokenLogprobs(own, marginal, other)

    def _plain(self, documents: np.ndarray, y_recipients: np.ndarray, branches: Sequence[Branch]) -> TokenLogprobs:
        prompts = plain_prompts(documents, y_recipients, branches, self.bos)
        scored: list[np.ndarray] = []
        for start in range(0, len(prompts), len(documents)):  # prompts of one kind are equally long: no padding
            ids = torch.as_tensor(np.stack([prompt for prompt, _ in prompts[start : start + len(documents)]]))
            unscored = prompts[start][1]
            scored.extend(self.sequence_logprobs(ids[:, :-1], ids[:, 1:])[:, unscored - 1 :])
        return gather_plain(scored, len(documents), branches)

    @torch.inference_mode()
    def sequence_logprobs(
        self, inputs: torch.Tensor, targets: torch.Tensor, cache: DynamicCache | None = None
    ) -> np.ndarray:
        """Log-probabilities (rows, n) of `targets`, where inputs[:, i] is the token right before targets[:, i].

        With a cache, `inputs` goes on from it, is added to it, and goes through in pieces of at most `batch_tokens`.
        """
        rows, n = inputs.shape
        piece = n if cache is None else max(1, self.batch_tokens // rows)
        out = np.empty((rows, n))
        for start in range(0, n, piece):
            ids = inputs[:, start : start + piece].to(self.model.device)
            logits = self.model(input_ids=ids, past_key_values=cache, use_cache=cache is not None).logits
            wanted = targets[:, start : start + piece].to(logits.device)
            out[:, start : start + piece] = target_logprobs(logits, wanted).cpu().numpy()
            self.tick(ids.numel())
        return out


def target_logprobs(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log softmax(logits)[target] in float32: logits (rows, n, vocabulary), targets (rows, n) → (rows, n), in nats."""
    flat, wanted = logits.flatten(0, 1), targets.flatten()
    pieces = [
        -torch.nn.functional.cross_entropy(some.float(), ids, reduction="none")
        for some, ids in zip(flat.split(LOGIT_ROWS), wanted.split(LOGIT_ROWS), strict=True)
    ]
    return torch.cat(pieces).view(targets.shape)
