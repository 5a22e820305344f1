"""Scoring with Hugging Face transformers: any causal model from the hub, a local folder or a GGUF file, on CPU or GPU.

Work that the branches of a document share is done once: the whole document goes through the model, and every branch
that scores another document's Y after its X starts from the key-values of that X. Models that keep more or less than
the keys and values of all tokens (state-space models, sliding windows, hybrids) get self-contained prompts instead.

Logits of a whole pass are held only if a model allows no other way: for 4,096 tokens and 262,144 ids they take 4.3 GB,
and as much again for each further step of the model or the softmax. Instead the body of the model runs once, and its
output layer, with everything the model does to its logits, is applied to pieces of at most LOGIT_BYTES.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from common.cli import UserError
from common.pretrained import context_tokens, target_logprobs
from measure_mutual_info.scoring.passes import Branch, TokenLogprobs, gather_plain, plain_prompts

LOGIT_BYTES = 1 << 27  # size of a piece of logits in float32; soft-cap and softmax hold up to four at once


class TransformersBackend:
    """See passes.Backend. share: False to use self-contained prompts for any model."""

    def __init__(self, model: torch.nn.Module, bos: int, batch_tokens: int = 4096, share: bool = True) -> None:
        self.model, self.bos, self.batch_tokens = model.eval(), bos, batch_tokens
        self.tick = lambda tokens: None
        self._tick_layer = 0.0  # tokens of a pass / (its layers and the head); 0 between passes
        layers = max((one for one in model.modules() if isinstance(one, torch.nn.ModuleList)), key=len, default=())
        self._shares = len(layers) + 1
        for layer in layers:
            layer.register_forward_hook(self._after_layer)
        self.logit_rows = self._find_logit_rows()
        self.share = share and self._keeps_plain_key_values()

    def _after_layer(self, *_: Any) -> None:  # a hook that returns a value replaces the layer's output
        self.tick(self._tick_layer)

    @torch.inference_mode()
    def _find_logit_rows(self, tokens: int = 64) -> int | None:
        """Rows of logits that fit in LOGIT_BYTES; None if pieces fail or give different numbers than the whole.

        Both ways are compared on a short text in two rows, with pieces that do not end where a row ends.
        """
        if not hasattr(self.model, "config"):  # not a transformers model: its head cannot be separated from its body
            return None
        config = self.model.config.get_text_config(decoder=True)
        tokens = 2 * min(tokens // 2, context_tokens(config) or tokens)
        ids = (torch.arange(tokens, device=self.model.device) % config.vocab_size).view(2, -1)
        whole = torch.log_softmax(self.model(input_ids=ids, use_cache=False).logits.flatten(0, 1).float(), -1)

        def difference() -> torch.Tensor:
            pieces = torch.cat(list(self._logits_in_pieces(ids, None, tokens // 3)))
            return torch.log_softmax(pieces.float(), -1) - whole

        otherwise = "all logits of a pass are held at once, which takes more memory"
        agree = self._agree("pieces of logits", difference, otherwise)
        return max(1, LOGIT_BYTES // (4 * whole.shape[-1])) if agree else None

    def _agree(self, what: str, difference: Callable[[], torch.Tensor], otherwise: str) -> bool:
        """Whether log-probabilities computed in two ways differ only by rounding; prints a line if they do not.

        Rounding is 1e-5 nats in float32 and 0.05 in bfloat16; a wrong way is off by nats per token, or raises.
        """
        try:
            worst = float(abs(difference()).mean())
            found = f"change its log-probabilities by {worst:.2g} nats per token"
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # models from the hub raise almost anything
            worst, found = np.inf, f"make it fail ({type(error).__name__})"
        agree = not worst > (1e-3 if self.model.dtype == torch.float32 else 0.2)
        if not agree:
            print(f"{what} {found}: {otherwise}")
        return agree

    @torch.inference_mode()
    def _keeps_plain_key_values(self) -> bool:
        """Whether a prefix of the cache belongs to a prefix of the text, as with full attention in every layer.

        False if the rotary embedding depends on the length of the text, if the cache keeps more than key-values
        (MiniMax), or if the model raises when it is asked for a cache.
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
        except Exception:  # models from the hub raise almost anything
            return False

    def check_sharing(self, documents: np.ndarray, y_recipients: np.ndarray, tokens: int = 64) -> None:
        """Score the first tokens of a group both ways; if they differ or the model raises, use plain prompts."""
        if not self.share:
            return
        tokens = min(tokens, documents.shape[1])
        documents, y_recipients, split = documents[:, :tokens], y_recipients[:, :tokens], [Branch(tokens // 2, tokens)]
        plain = self._plain(documents, y_recipients, split).other[0]
        if np.isfinite(plain).all():  # a document that fails without sharing says nothing about it
            otherwise = "scored with plain prompts, which takes about four times as long"
            self.share = self._agree(
                "reused key-values", lambda: self._shared(documents, y_recipients, split).other[0] - plain, otherwise
            )

    def token_logprobs(
        self, documents: np.ndarray, y_recipients: np.ndarray, branches: Sequence[Branch]
    ) -> TokenLogprobs:
        """See passes.Backend. UserError: the GPU's memory is too small for the group."""
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
            # Key-values of BOS x_1 … x_{ℓ−1}; x_ℓ is fed again, as the input that predicts the first token of Y.
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
        return gather_plain(scored, len(documents))

    @torch.inference_mode()
    def sequence_logprobs(
        self, inputs: torch.Tensor, targets: torch.Tensor, cache: DynamicCache | None = None
    ) -> np.ndarray:
        """Log-probabilities (rows, n) of `targets`, where inputs[:, i] is the token right before targets[:, i].

        With a cache, `inputs` continues its text, is added to it, and is processed in pieces of at most `batch_tokens`.
        """
        rows, n = inputs.shape
        piece = n if cache is None else max(1, self.batch_tokens // rows)
        out = np.empty((rows, n))
        for start in range(0, n, piece):
            ids = inputs[:, start : start + piece].to(self.model.device)
            self._tick_layer = ids.numel() / self._shares
            wanted, found = targets[:, start : start + piece].flatten(), []
            for logits in self._logits(ids, cache):
                of_piece, wanted = wanted.tensor_split([len(logits)])
                found.append(target_logprobs(logits[None], of_piece[None].to(logits.device))[0])
                self.tick(len(logits) / self._shares)
            out[:, start : start + piece] = torch.cat(found).view(ids.shape).cpu().numpy()
        self._tick_layer = 0.0
        return out

    def _logits(self, ids: torch.Tensor, cache: DynamicCache | None) -> Iterator[torch.Tensor]:
        """Yield the logits of ids (rows, n) in order, for some of the rows · n tokens at a time: (some, vocabulary)."""
        if self.logit_rows is None:
            yield self.model(input_ids=ids, past_key_values=cache, use_cache=cache is not None).logits.flatten(0, 1)
        else:
            yield from self._logits_in_pieces(ids, cache, self.logit_rows)

    def _logits_in_pieces(self, ids: torch.Tensor, cache: DynamicCache | None, rows: int) -> Iterator[torch.Tensor]:
        """Call the model once per piece, but compute its body (everything below the head) only the first time.

        So everything that the model does between its body and its logits (head, scale, soft-cap) is done to each piece.
        """
        body, computed = self.model.base_model, None
        compute = body.forward

        def forward(*args: Any, **options: Any) -> Any:
            nonlocal computed
            computed = computed or compute(*args, **options)
            hidden = computed.last_hidden_state.flatten(0, 1)[None, piece]
            return type(computed)(**{**computed, "last_hidden_state": hidden})

        for start in range(0, ids.numel(), rows):
            piece = slice(start, start + rows)
            with _in_place_of_forward(body, forward):
                logits = self.model(input_ids=ids, past_key_values=cache, use_cache=cache is not None).logits
            yield logits[0]


@contextmanager
def _in_place_of_forward(module: torch.nn.Module, forward: Any) -> Iterator[None]:
    own = vars(module).get("forward")  # None if only the class has one; set where layers are split over GPUs
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
