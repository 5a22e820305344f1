from __future__ import annotations

import numpy as np
import pytest
import torch

from common.pretrained import load_model
from measure_mutual_info.scoring import backend_transformers, passes
from measure_mutual_info.scoring.backend_transformers import TransformersBackend
from tests.conftest import SMOLLM2, tiny_model

BOS = 257


def slow_reference(model: torch.nn.Module, document, y_recipient, ell: int, L: int, bos: int = BOS) -> dict[str, float]:
    """The terms of one document at (ell, L), each from its own prompt, with the softmax and sums in float64."""

    def logq(y, *before) -> np.ndarray:
        ids = torch.as_tensor(np.concatenate([[bos], *before, y]), dtype=torch.long)[None]
        with torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False).logits[0].double()
        every = torch.log_softmax(logits, -1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
        return every[len(every) - len(y) :].numpy()

    y = document[ell:L]
    return {
        "logq_y_given_x": logq(y, document[:ell]).sum(),
        "logq_y": logq(y).sum(),
        "logq_y_first2": logq(y)[:2].sum(),
        "logq_start": logq(document[: L - ell]).sum(),
        "logq_y_given_other_x": logq(y_recipient[ell:L], document[:ell]).sum(),
    }


def pieces(ids: np.ndarray, count: int, L: int) -> tuple[np.ndarray, np.ndarray]:
    cut = ids[1000 : 1000 + 2 * count * L].reshape(2 * count, L)
    return cut[:count], cut[count:]


def assert_equals_reference(backend, documents, y_recipients, points, tolerance=1e-4):
    found = passes.terms(backend.token_logprobs(documents, y_recipients, passes.branches(points)), points)
    for row, (document, y_recipient) in enumerate(zip(documents, y_recipients, strict=True)):
        for column, (ell, L) in enumerate(points):
            for name, wanted in slow_reference(backend.model, document, y_recipient, ell, L, backend.bos).items():
                off = abs(found[name][row, column] - wanted) / (L - ell)
                assert off < tolerance, f"{name} at ell={ell}, L={L}: {off:.2g} nats per token"


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox"])
def test_shared_prefixes_equal_separate_prompts(kind, book_bytes):
    """For rotary positions (Llama, GPT-NeoX) and learned ones (GPT-2), on real text, to 1e-4 nats per token."""
    backend, told, points = TransformersBackend(tiny_model(kind), BOS, 64), [], passes.grid(128)
    documents, y_recipients = pieces(book_bytes, 2, 128)
    backend.check_sharing(documents, y_recipients)
    assert backend.share
    backend.tick = lambda tokens: told.append(tokens) or True  # tqdm's update returns a value too
    assert_equals_reference(backend, documents, y_recipients, points)
    assert sum(told) == pytest.approx(2 * passes.tokens_a_document(points)), "the progress bar is told of every pass"
    assert max(told) <= 64 / 3, "and of each of its two layers and the head"
    a, b = (slow_reference(backend.model, document, y_recipients[0], 64, 128) for document in documents)
    assert abs(a["logq_y_given_other_x"] - b["logq_y_given_other_x"]) / 64 > 0.05, "a wrong prefix would be seen"


STRETCHED = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
LONG = {"rope_type": "longrope", "rope_theta": 10_000.0, "factor": 2.0, "original_max_position_embeddings": 32}
LONG |= {"short_factor": [1.0] * 6, "long_factor": [2.0] * 6}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("mistral", {}),
        ("mamba", {}),
        ("minimax", {"head_dim": 12, "num_local_experts": 2, "block_size": 16}),
        ("llama", {"rope_parameters": STRETCHED, "max_position_embeddings": 64}),
        ("llama", {"rope_parameters": LONG, "max_position_embeddings": 64}),
    ],
)
def test_models_without_plain_key_values_get_plain_prompts(kind, changes, book_bytes):
    """A cache that forgets or cannot be cut, a state beside it, or positions that depend on the length of the text."""
    backend = TransformersBackend(tiny_model(kind, **changes), BOS)
    assert not backend.share
    if kind in ("mistral", "mamba"):
        assert_equals_reference(backend, *pieces(book_bytes, 2, 48), passes.grid(48))


@pytest.mark.parametrize("share", [True, False])
def test_batches_and_pieces_change_nothing(share, book_bytes):
    """Four documents at once, or one by one in pieces of 32 tokens, give the same to 1e-4 nats per token."""
    model = tiny_model("llama")
    documents, y_recipients = pieces(book_bytes, 4, 96)
    split = passes.branches(passes.grid(96))
    together = TransformersBackend(model, BOS, 4096, share).token_logprobs(documents, y_recipients, split)
    small = TransformersBackend(model, BOS, 32, share)
    for row in range(4):
        alone = small.token_logprobs(documents[row : row + 1], y_recipients[row : row + 1], split)
        assert np.abs(alone.own[0] - together.own[row]).max() < 1e-4
        for one, all_ in zip(alone.marginal + alone.other, together.marginal + together.other, strict=True):
            assert np.abs(one[0] - all_[row]).max() < 1e-4


@pytest.mark.parametrize("fails", [False, True])
def test_a_cache_that_lies_or_fails_is_not_used(book_bytes, fails, capsys):
    """A model that ignores its cache would be silently wrong, and another raises: both get plain prompts."""
    model = tiny_model("llama")
    backend, honest = TransformersBackend(model, BOS), model.forward

    def forward(input_ids, past_key_values=None, use_cache=False, **rest):
        if past_key_values is not None and past_key_values.get_seq_length():
            if fails:
                raise IndexError("list index out of range")
            past_key_values = None
        return honest(input_ids=input_ids, past_key_values=past_key_values, use_cache=use_cache, **rest)

    model.forward = forward
    documents, y_recipients = pieces(book_bytes, 1, 64)
    backend.check_sharing(documents, y_recipients)
    assert not backend.share
    assert "scored with plain prompts" in capsys.readouterr().out
    assert_equals_reference(backend, documents, y_recipients, [(16, 32)])


ABOVE_THE_HEAD = [("gemma2", {"final_logit_softcapping": 2.0}), ("cohere", {}), ("granite", {})]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("llama", {}), ("gpt2", {}), ("gpt_neox", {}), ("falcon", {}), ("mistral", {}), ("mamba", {}), *ABOVE_THE_HEAD],
)
def test_logits_in_pieces_are_those_of_the_whole(kind, changes, book_bytes, monkeypatch, capsys):
    """Including soft-caps and scales. The head never returns more rows than a piece has, and the body runs once."""
    monkeypatch.setattr(backend_transformers, "LOGIT_BYTES", 7 * 4 * 260)
    model = tiny_model(kind, **changes)
    backend = TransformersBackend(model, BOS)
    assert backend.logit_rows == 7
    assert not capsys.readouterr().out
    ids = torch.as_tensor(book_bytes[: 2 * 31].reshape(2, 31))
    rows, bodies = [], []
    model.get_output_embeddings().register_forward_hook(lambda _, __, logits: rows.append(logits[..., 0].numel()))
    model.get_input_embeddings().register_forward_hook(lambda *_: bodies.append(1))
    pieces = backend.sequence_logprobs(ids[:, :-1], ids[:, 1:])
    assert (max(rows), sum(rows), len(bodies)) == (7, 60, 1)
    with torch.inference_mode():
        wanted = torch.log_softmax(model(input_ids=ids[:, :-1], use_cache=False).logits.double(), -1)
    wanted = wanted.gather(2, ids[:, 1:, None])[..., 0].numpy()
    assert np.abs(pieces - wanted).max() < 1e-5
    backend.logit_rows = None
    assert np.abs(pieces - backend.sequence_logprobs(ids[:, :-1], ids[:, 1:])).max() < 1e-5


@pytest.mark.parametrize("fails", [False, True])
def test_a_model_that_mixes_positions_above_its_body_gets_whole_logits(book_bytes, fails, capsys):
    """So does a model whose body cannot be separated from the rest."""
    model = tiny_model("llama")
    if fails:
        model.base_model_prefix = "no such part"
    else:
        head = model.lm_head.forward
        model.lm_head.forward = lambda hidden: head(hidden.cumsum(dim=1))
    backend = TransformersBackend(model, BOS, share=False)
    assert backend.logit_rows is None
    assert "all logits of a pass are held at once" in capsys.readouterr().out
    assert_equals_reference(backend, *pieces(book_bytes, 1, 32), [(8, 16)])


def test_target_logprobs_is_a_log_softmax():
    logits, targets = torch.randn(2, 700, 11) * 5, torch.randint(11, (2, 700))
    wanted = torch.log_softmax(logits.double(), -1).gather(2, targets[..., None])[..., 0]
    assert torch.allclose(backend_transformers.target_logprobs(logits, targets).double(), wanted, atol=1e-5)


@pytest.mark.skipif(not SMOLLM2.exists(), reason="the sample model is missing: measure_mutual_info/fetch_sample.py")
def test_sample_model(book_bytes):
    """SmolLM2-135M from its GGUF file: shared prefixes equal separate prompts to 1e-4 nats per token."""
    backend = TransformersBackend(load_model(str(SMOLLM2), "float32", "cpu"), bos=1)
    assert backend.share
    documents, y_recipients = pieces(book_bytes, 1, 64)
    assert_equals_reference(backend, documents, y_recipients, [(4, 8), (16, 64)])
