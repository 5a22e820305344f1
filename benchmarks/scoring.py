r"""What the scoring schedule and the paired estimators save over the paper's; logits in pieces; bfloat16.

    python benchmarks/scoring.py --documents data/documents/books_2048_SmolLM2-135M --scores results/fig2b/scores.csv \
        --model data/sample/model/SmolLM2-135M-Instruct.Q4_1.gguf          # 2 CPU cores: 15 minutes
    python benchmarks/scoring.py --model random-1b --device cuda --dtype bfloat16   # one GPU
    python benchmarks/scoring.py --part pieces --model data/sample/more_models/gemma-3-270m.Q4_K_M.gguf --bos 2
    python benchmarks/scoring.py --part bfloat16 --documents data/documents/four_books_128_SmolLM2-135M --L-max 128 \
        --batch-documents 8

Writes results/benchmarks/scoring.csv or scoring_<part>.csv: one row per measurement; ratios above 1: ours is better.
  schedule   see below
  pieces     one pass of L_max tokens on one CPU thread: peak resident memory above that before the pass, and CPU
             seconds; all logits of a pass at once, against pieces of LOGIT_BYTES
  bfloat16   how much bfloat16 changes I(L/2; L), the mean over batch_documents documents, in nats, against the standard
             error of that mean (two more columns hold I in both types); seconds of this scoring in both types

The paper's schedule scores a pair of documents with one joint pass and, for each of the 10 split points ℓ = 2 … 1024,
one marginal pass and one pass after another X. Every Y runs to the end of the document, so this makes 21 passes. Our
schedule is in passes.py. Both alternate on the same model with the same number of documents per batch, after one
warm-up. "Compute for equal error bars" is the time per document times the variance of its term, see docs/benchmarks.md.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.publish import peak_bytes, publish, row
from common.cli import UserError, run
from common.documents import open_documents
from common.pretrained import find_device, load_config, load_model
from measure_mutual_info.scoring import passes
from measure_mutual_info.scoring.backend_transformers import TransformersBackend
from measure_mutual_info.scoring.tables import read_scores

# Llama-type models with random weights, for machines without access to the hub; sizes in the order of SIZES.
RANDOM_MODELS = {
    "random-tiny": (64, 128, 2, 4, 2),
    "random-1b": (2048, 8192, 16, 32, 8),
    "random-8b": (4096, 14336, 32, 32, 8),
}
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
PAPER, DOUBLE, SHARED = "21 full passes", "shared, L = 2ℓ", "shared, L = 2ℓ, 3ℓ, 4ℓ"
PLAIN = "plain, L = 2ℓ, 3ℓ, 4ℓ"
EQUAL = "compute for equal quoted error bars"


@dataclass(frozen=True)
class Settings:
    part: Literal["schedule", "pieces", "bfloat16"] = "schedule"
    model: str = "data/sample/model/SmolLM2-135M-Instruct.Q4_1.gguf"
    """hub id, folder, .gguf file, or one of random-1b, random-8b"""
    documents: Path | None = None  # folder of prepare_dataset.py; random tokens if not given
    scores: Path | None = None  # scores.csv to take the estimators' variances from; no such rows if not given
    out: Path | None = None  # default: results/benchmarks/scoring.csv, scoring_<part>.csv
    L_max: int = 2048  # tokens
    rounds: int = 3  # how often each schedule is timed, in turn; medians are reported
    batch_documents: int = 2  # documents in one batch, the same for every schedule
    dtype: str = "float32"
    device: str = "auto"
    bos: int = 1
    bootstrap: int = 2000  # resamples of documents for the intervals of variance ratios
    seed: int = 0


def paper_schedule(backend: TransformersBackend, documents: np.ndarray, y_recipients: np.ndarray) -> None:
    """Run the paper's passes for a batch."""
    bos, every = np.full((len(documents), 1), backend.bos), [documents]
    for ell, _ in passes.grid(documents.shape[1], ratios=(2,)):
        every += [documents[:, ell:], np.concatenate([documents[:, :ell], y_recipients[:, ell:]], axis=1)]
    for ids in every:
        inputs = torch.as_tensor(np.concatenate([bos, ids[:, :-1]], axis=1))
        backend.sequence_logprobs(inputs, torch.as_tensor(ids))


def load(cfg: Settings) -> torch.nn.Module:
    if cfg.model not in RANDOM_MODELS:
        return load_model(cfg.model, cfg.dtype, find_device(cfg.device))
    sizes = dict(zip(SIZES, RANDOM_MODELS[cfg.model], strict=True))
    config = LlamaConfig(**sizes, vocab_size=128_256, max_position_embeddings=131_072)
    with torch.device(find_device(cfg.device)):
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, cfg.dtype))


def read_ids(cfg: Settings, vocabulary: int) -> np.ndarray:
    """(batches, 2, batch_documents, L_max) ids: documents and their y_recipients, spread evenly over the corpus."""
    shape = (cfg.rounds + 1, 2, cfg.batch_documents, cfg.L_max)
    if cfg.documents is None:
        return np.random.default_rng(cfg.seed).integers(0, vocabulary, shape)
    rows = [row for row in open_documents(cfg.documents)[0]["input_ids"] if len(row) >= cfg.L_max]
    if not rows:
        raise UserError(f"{cfg.documents}: no document has {cfg.L_max} tokens: lower --L-max")
    chosen = np.linspace(0, len(rows) - 1, int(np.prod(shape[:3]))).astype(int)  # repeated if there are too few
    return np.array([rows[i][: cfg.L_max] for i in chosen]).reshape(shape)


def time_in_turn(ways: dict[str, Callable[[np.ndarray, np.ndarray], object]], batches: np.ndarray) -> dict[str, float]:
    """Median seconds per batch of each way. The ways alternate; the first batch is a warm-up and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for documents, y_recipients in tqdm(batches, unit="batch", desc="timing"):
        for name, way in ways.items():
            began = time.perf_counter()
            way(documents, y_recipients)  # the result is on the CPU, so the device is done
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(found[1:]) for name, found in seconds.items()}


def pooled_variance(values: np.ndarray, book: np.ndarray) -> float:
    """Variance around the mean of each value's book. book: numbers from 0, shaped like values; all 0 for one pool."""
    count = np.bincount(book)
    means = np.bincount(book, weights=values) / np.maximum(count, 1)
    return float(((values - means[book]) ** 2).sum() / (len(values) - (count > 0).sum()))


def variance_ratios(cfg: Settings) -> pd.DataFrame:
    """Ratio of documents needed for the same standard error: variance of a term, unpaired over paired, at L = 2ℓ.

    In the paired form, the two log-probabilities of a term belong to the same Y. In the unpaired form (the paper's),
    they belong to the Ys of two documents, and their variances add. Pairs come from any two books, or from one book
    (variances around the means of the books), which ignores how books differ. 95% intervals: bootstrap of documents.
    Columns: estimator, pairs, L, unpaired, paired (nats²), ratio, lo95, hi95.
    """
    scores, _ = read_scores(cfg.scores)
    rng, rows = np.random.default_rng(cfg.seed), []
    for estimator, subtracted in (("direct", "logq_y_nats"), ("vclub", "logq_y_given_other_x_nats")):
        for L, group in scores[scores["L_tokens"] == 2 * scores["ell_tokens"]].groupby("L_tokens"):
            terms = group[["logq_y_given_x_nats", subtracted]].to_numpy()
            books = np.unique(group["book"], return_inverse=True)[1]
            for pairs, book in (("any books", np.zeros_like(books)), ("one book", books)):
                draws = [np.arange(len(terms))]
                draws += [rng.integers(0, len(terms), len(terms)) for _ in range(cfg.bootstrap)]
                found = []
                for drawn in draws:
                    (a, b), among = terms[drawn].T, book[drawn]
                    unpaired = pooled_variance(a, among) + pooled_variance(b, among)
                    found.append((unpaired, pooled_variance(a - b, among)))
                unpaired, paired = np.array(found).T
                lo, hi = np.quantile((unpaired / paired)[1:], [0.025, 0.975])
                rows.append((estimator, pairs, L, unpaired[0], paired[0], unpaired[0] / paired[0], lo, hi))
    return pd.DataFrame(rows, columns=["estimator", "pairs", "L", "unpaired", "paired", "ratio", "lo95", "hi95"])


def measure_passes(cfg: Settings) -> dict[str, list[list[float]]]:
    """Peak bytes above those before, and CPU seconds, of each round; pieces and whole alternate (Linux, on the CPU)."""
    torch.set_num_threads(1)
    backend = TransformersBackend(load(replace(cfg, device="cpu")), cfg.bos)
    rows = {"pieces": backend.logit_rows, "whole": None}
    ids = torch.as_tensor(np.random.default_rng(0).integers(0, backend.model.config.vocab_size, (1, cfg.L_max + 1)))
    backend.sequence_logprobs(ids[:, :64], ids[:, 1:65])
    found: dict[str, list[list[float]]] = {way: [] for way in rows}
    for _ in range(cfg.rounds):
        for way, backend.logit_rows in rows.items():
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak to what is resident now
            before, began = peak_bytes(), time.process_time()
            backend.sequence_logprobs(ids[:, :-1], ids[:, 1:])
            found[way].append([peak_bytes() - before, time.process_time() - began])
    return found


def pieces_rows(cfg: Settings) -> list[dict[str, Any]]:
    found = measure_passes(cfg)
    whole, pieces = (np.median(found[way], axis=0) for way in ("whole", "pieces"))
    setting = f"{Path(cfg.model).name}, {cfg.dtype}, one pass of {cfg.L_max} tokens, one thread"
    kinds = (("peak memory above weights", "GB", 1e9), ("seconds of the processor", "s", 1))
    return [
        row("scoring", setting, measure, unit, "all logits of a pass", base / scale, ours / scale)
        for (measure, unit, scale), base, ours in zip(kinds, whole, pieces, strict=True)
    ]


def bfloat16_rows(cfg: Settings) -> list[dict[str, Any]]:
    """The rows of part bfloat16. Each document gives its X to the Y of the next one."""
    device, points, found = find_device(cfg.device), passes.grid(cfg.L_max, ratios=(2,)), {}
    twice_as_many = read_ids(replace(cfg, rounds=0), load_config(cfg.model).vocab_size)
    documents = twice_as_many.reshape(-1, cfg.L_max)[::2]  # spread over the corpus
    seconds = []
    for dtype in ("float32", "bfloat16"):
        backend = TransformersBackend(load_model(cfg.model, dtype, device), cfg.bos, documents.size)
        began = time.perf_counter()
        scored = backend.token_logprobs(documents, np.roll(documents, -1, axis=0), passes.branches(points))
        seconds.append(time.perf_counter() - began)
        terms = passes.terms(scored, points)
        other = np.roll(terms["logq_y_given_other_x"], 1, axis=0)
        found[dtype] = {
            name: terms["logq_y_given_x"] - less for name, less in (("direct", terms["logq_y"]), ("vclub", other))
        }
    setting = f"{Path(cfg.model).name}, {len(documents)} documents of {cfg.L_max} tokens, {device}"
    rows = [row("scoring", setting, "seconds of the scoring", "s", "float32", *seconds)]
    for estimator, exact in found["float32"].items():
        rounded = found["bfloat16"][estimator]
        for (_, L), a, b in zip(points, exact.T, rounded.T, strict=True):
            setting = f"{Path(cfg.model).name}, {estimator}, L = {L}, {len(a)} documents"
            error, change = a.std(ddof=1) / np.sqrt(len(a)), abs(np.mean(b - a))
            more = {"float32_nats": round(a.mean(), 4), "bfloat16_nats": round(b.mean(), 4)}
            measure = "change of I by bfloat16"
            rows.append(row("scoring", setting, measure, "nats", "standard error of I", error, change, **more))
    return rows


def main(cfg: Settings) -> None:
    if cfg.part == "schedule":
        return schedule(replace(cfg, out=cfg.out or Path("results/benchmarks/scoring.csv")))
    inputs = [path for path in (Path(cfg.model), cfg.documents) if path and path.exists()]
    rows = {"pieces": pieces_rows, "bfloat16": bfloat16_rows}[cfg.part](cfg)
    publish(pd.DataFrame(rows), cfg, cfg.out or Path(f"results/benchmarks/scoring_{cfg.part}.csv"), inputs=inputs)


def schedule(cfg: Settings) -> None:
    variances = variance_ratios(cfg) if cfg.scores is not None else None  # first, to fail early on a bad file
    model = load(cfg)
    shared, plain = (
        TransformersBackend(model, cfg.bos, cfg.batch_documents * cfg.L_max, share) for share in (True, False)
    )
    points, double = passes.grid(cfg.L_max), passes.grid(cfg.L_max, ratios=(2,))
    every, only_double = passes.branches(points), passes.branches(double)
    ways = {
        PAPER: lambda d, f: paper_schedule(shared, d, f),
        DOUBLE: lambda d, f: shared.token_logprobs(d, f, only_double),
        SHARED: lambda d, f: shared.token_logprobs(d, f, every),
        PLAIN: lambda d, f: plain.token_logprobs(d, f, every),
    }
    with torch.inference_mode():
        timed = time_in_turn(ways, read_ids(cfg, model.config.get_text_config().vocab_size))
    seconds = {way: of_batch / cfg.batch_documents for way, of_batch in timed.items()}
    tokens = {
        PAPER: cfg.L_max + sum(2 * cfg.L_max - ell for ell, _ in double),
        DOUBLE: passes.tokens_a_document(double),
        SHARED: passes.tokens_a_document(points),
        PLAIN: passes.tokens_a_document(points) + sum(ell for ell, _ in every),
    }

    where, rows = f"{Path(cfg.model).name}, {cfg.dtype}, {model.device.type}, L_max = {cfg.L_max}", []

    def add(setting: str, measure: str, unit: str, baseline: str, theirs: float, ours: float) -> None:
        rows.append(row("scoring", f"{where}, {setting}", measure, unit, baseline, theirs, ours))

    for way in (DOUBLE, SHARED, PLAIN):
        add(way, "tokens a document", "tokens", PAPER, tokens[PAPER], tokens[way])
        add(way, "seconds a document", "s", PAPER, seconds[PAPER], seconds[way])
    add(SHARED, "seconds a document", "s", PLAIN, seconds[PLAIN], seconds[SHARED])
    for found in variances.itertuples() if variances is not None else ():
        interval = f"95% interval of the ratio {found.lo95:.1f} … {found.hi95:.1f}"
        setting = f"{found.estimator}, pairs of {found.pairs}, L = {found.L}"
        add(f"{setting}, {interval}", "variance of a term", "nats²", "unpaired", found.unpaired, found.paired)
        for way in (DOUBLE, SHARED) if found.L >= 512 else ():
            costs = found.unpaired * seconds[PAPER], found.paired * seconds[way]
            add(f"{setting}, {way}", EQUAL, "s · nats²", f"{PAPER}, unpaired", *costs)
    for way in (DOUBLE, SHARED):
        if ratios := [one["ratio"] for one in rows if one["measure"] == EQUAL and one["setting"].endswith(way)]:
            setting = f"HEADLINE, {way}: smallest over L ≥ 512"
            add(setting, EQUAL, "relative", f"{PAPER}, unpaired", min(ratios), 1)

    inputs = [path for path in (cfg.documents, cfg.scores) if path is not None]
    publish(pd.DataFrame(rows), cfg, inputs=inputs, device=str(model.device))


if __name__ == "__main__":
    run(main, Settings, __doc__)
