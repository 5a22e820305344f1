"""Scoring with vLLM: large models, split over several GPUs (tensor and pipeline parallelism) or several machines.

vLLM does its own scheduling and batching. It takes self-contained prompts and returns the log-probability of every
prompt token. To split a model over several machines, start a Ray cluster on them and pass
`--vllm-args '{"distributed_executor_backend": "ray"}'`. To use more GPUs than the model needs, run several processes
with --shard. Set --batch-tokens to about 65536 for large groups of prompts; `max_batch_tokens` limits a step of vLLM.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from common.cli import UserError
from common.pretrained import load_config
from measure_mutual_info.scoring.passes import Branch, TokenLogprobs, gather_plain, plain_prompts

LOGITS_BYTES = 2 << 30  # limit on the memory for the logits of one step; see max_batch_tokens


class VllmBackend:
    """See passes.Backend. Arguments: as in score_documents.py; L_max: length of the longest document, in tokens."""

    def __init__(
        self,
        model: str,
        bos: int,
        dtype: str,
        batch_tokens: int,
        L_max: int,
        tensor_parallel: int = 1,
        pipeline_parallel: int = 1,
        gpu_memory: float = 0.9,
        vllm_args: str = "{}",
    ) -> None:
        """Start the engine. UserError: it cannot start with these arguments; raised before loading where possible."""
        try:
            extra = dict(json.loads(vllm_args))
        except (ValueError, TypeError):
            raise UserError(f"--vllm-args {vllm_args}: give a JSON object such as '{{\"seed\": 1}}'") from None
        if Path(model).suffix == ".gguf":
            raise UserError(
                f"{model}: vLLM does not read GGUF files: give the folder or hub name of its safetensors weights, "
                "or use --backend transformers"
            )
        # vLLM logs a lot, and warns about the missing tokenizer, which is not needed here.
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        try:
            import vllm
            from vllm.platforms import current_platform
        except ModuleNotFoundError as error:
            remedy = "pip install -r requirements-gpu.txt, or use --backend transformers"
            raise UserError(f"--backend vllm ({error}): {remedy}") from error
        tokens = max_batch_tokens(batch_tokens, load_config(model).vocab_size, dtype)
        may_change = {
            "max_num_seqs": min(256, tokens),  # vLLM's default, and never more sequences than tokens
            "enforce_eager": current_platform.is_cpu(),  # compiling for a CPU takes minutes and needs a C++ compiler
            "use_tqdm_on_load": False,
        }
        fixed = {
            "model": model,
            "dtype": dtype,
            # BOS, the document, and the one token that vLLM always generates.
            "max_model_len": L_max + 2,
            "max_num_batched_tokens": tokens,
            "tensor_parallel_size": tensor_parallel,
            "pipeline_parallel_size": pipeline_parallel,
            "gpu_memory_utilization": gpu_memory,
            # vLLM computes no logits at cached positions, so the next token would have no log-probability.
            "enable_prefix_caching": False,
            "logprobs_mode": "raw_logprobs",
            "skip_tokenizer_init": True,  # token ids in, log-probabilities out
            "disable_log_stats": True,
        }
        if set_here := sorted(extra.keys() & fixed.keys()):
            raise UserError(
                f"--vllm-args: {set_here[0]} is set by score_documents.py, or has its own flag: leave it out"
            )
        try:
            self.engine = vllm.LLM(**may_change | extra | fixed)
        except (TypeError, ValueError, RuntimeError, OSError) as error:
            raise UserError(_explain(f"{model}: vLLM did not start", error)) from error
        self.bos = bos
        self._prompt = vllm.TokensPrompt
        self._sampling = vllm.SamplingParams(
            max_tokens=1,
            temperature=0,
            prompt_logprobs=0,  # of each prompt token itself, not of any alternatives
            flat_logprobs=True,  # plain lists; a dict per position makes post-processing 25 times slower
            detokenize=False,
        )

    def token_logprobs(
        self, documents: np.ndarray, y_recipients: np.ndarray, branches: Sequence[Branch]
    ) -> TokenLogprobs:
        """See passes.Backend. Larger groups fill vLLM's batches better. UserError: out of memory, or the engine died.

        −inf and NaN are returned unchanged.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        prompts = [(ids.tolist(), skip) for ids, skip in plain_prompts(documents, y_recipients, branches, self.bos)]
        asked = [self._prompt(prompt_token_ids=ids) for ids, _ in prompts]
        try:
            outputs = self.engine.generate(asked, self._sampling, use_tqdm=False)
        except (torch.OutOfMemoryError, EngineDeadError) as error:
            raise UserError(_explain("vLLM stopped while scoring", error)) from error
        scored = [
            prompt_logprobs(output, ids)[skip - 1 :] for output, (ids, skip) in zip(outputs, prompts, strict=True)
        ]
        return gather_plain(scored, len(documents))


def max_batch_tokens(wanted: int, vocabulary: int, dtype: str) -> int:
    """Tokens per step: `wanted`, or fewer to keep the logits of a step within LOGITS_BYTES; at least 1.

    For prompt log-probabilities vLLM holds a step's logits in the model's dtype and their log-softmax in float32: with
    16 bits, 6 bytes per token and vocabulary entry. vLLM's memory profiling does not count them, so they must fit into
    what --gpu-memory leaves free: a tenth of 24 GB is 2.4 GB. With 128,256 entries, 8192 tokens would take 8192 ·
    128256 · 6 bytes = 6.3 GB; 2 GiB allow 2790 tokens, or 7121 with 50,257 entries, enough to keep a GPU busy.
    """
    entry = (4 if dtype == "float32" else 2) + 4
    return max(1, min(wanted, LOGITS_BYTES // (vocabulary * entry)))


def prompt_logprobs(output, prompt: Sequence[int]) -> np.ndarray:
    """Log-probabilities in nats of prompt[1:] from one of vLLM's outputs, shape (len(prompt) − 1,), float64.

    UserError: vLLM took a position from a cache. RuntimeError: the output belongs to another prompt.
    """
    if output.num_cached_tokens:
        raise UserError(
            f"vLLM took {output.num_cached_tokens} positions of a prompt from a cache, where it computes no "
            "log-probabilities: take what switches a cache on out of --vllm-args"
        )
    flat = output.prompt_logprobs
    # The first token has no log-probability: its entry is empty. Every other position has one entry, that of the
    # prompt's own token, so the flat lists line up with prompt[1:].
    if flat is None or len(flat) != len(prompt) or list(flat.token_ids) != list(prompt[1:]):
        raise RuntimeError(f"vLLM returned log-probabilities of other tokens than the {len(prompt)} of the prompt")
    return np.array(flat.logprobs, dtype=np.float64)


def _explain(what: str, error: Exception) -> str:
    """One line for an engine error. An engine in a separate process prints the cause itself and passes on less."""
    return (
        f"{what} ({type(error).__name__}: {' '.join(str(error).split())[:300]}; the cause may be printed above): if "
        "memory is short, lower --batch-tokens or --L-max, use --dtype bfloat16 or more GPUs (--tensor-parallel), or "
        "fit --gpu-memory to what is free; otherwise check that there is a GPU, the model's context and --vllm-args"
    )
