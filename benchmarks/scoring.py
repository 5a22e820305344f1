r"""What the scoring schedule and the paired estimators save, against the paper's own schedule and estimators.

    python benchmarks/scoring.py --documents data/documents/books_2048 --scores results/fig2b/scores.csv \
        --model data/sample/model/SmolLM2-135M-Instruct.Q4_1.gguf          # 2 CPU cores: 15 minutes
    python benchmarks/scoring.py --model random-1b --device cuda --dtype bfloat16   # one GPU

Writes results/benchmarks/scoring.csv: a row a measure, ratio above 1 means ours is better.

The paper's schedule scores a pair of documents by one joint pass and, for each of the 10 split points ℓ = 2 … 1024,
one marginal and one pass behind another X, every Y to the end of the document: 21 passes. Ours: passes.py. Both go
through the same model, the same log-softmax and batches of equally many documents, in turn, after one warm-up.

"Compute for equal error bars" multiplies the time of a document by the variance of one document's term. In the paper's
form the subtracted term belongs to another document's Y; in ours to the same Y. The standard error that each form
quotes is compared. If the paper's pairs are a permutation of the documents, both forms have the same mean and the
paper's error bars are too wide; if the pairs are drawn afresh, its estimates themselves are that much noisier.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, LlamaConfig

from common.cli import UserError, run
from common.record import write_csv
from measure_mutual_info.estimate_bipartite import read_scores
from measure_mutual_info.scoring import passes
from measure_mutual_info.scoring.backend_transformers import TransformersBackend

# Llama-type models with random weights, for machines without a hub: hidden, MLP, layers, heads, key-value heads.
RANDOM_MODELS = {
    "random-tiny": (64, 128, 2, 4, 2),
    "random-1b": (2048, 8192, 16, 32, 8),
    "random-3b": (3072, 8192, 28, 24, 8),
    "random-8b": (4096, 14336, 32, 32, 8),
}
VOCABULARY = 128_256
EQUAL = "compute for equal quoted error bars"


@dataclass(frozen=True)
class Settings:
    model: str = "data/sample/model/SmolLM2-135M-Instruct.Q4_1.gguf"
    """hub id, folder, .gguf file, or one of random-1b, random-3b, random-8b"""
    documents: Path | None = None
    """documents of prepare_dataset.py; random tokens if not given"""
    scores: Path | None = None
    """scores.csv to take the estimators' variances from; no such rows if not given"""
    out: Path = Path("results/benchmarks/scoring.csv")
    L_max: int = 2048
    """tokens"""
    rounds: int = 3
    """how often each schedule is timed, in turn; medians are reported"""
    batch_documents: int = 2
    """documents in one batch, the same for every schedule"""
    dtype: str = "float32"
    device: str = "auto"
    bos: int = 1
    packed: bool = True
    """time also the branches packed into one sequence under a 4D mask"""
    bootstrap: int = 2000
    """resamples of documents behind the intervals of variance ratios"""
    seed: int = 0


def paper_schedule(
    backend: TransformersBackend, documents: np.ndarray, y_recipients: np.ndarray, ells: list[int]
) -> int:
    """The paper's passes for a batch; returns the tokens that went through the model, BOS included."""
    bos = np.full((len(documents), 1), backend.bos)
    tokens = 0
    passes = [documents]
    for ell in ells:
        passes.append(documents[:, ell:])
        passes.append(np.concatenate([documents[:, :ell], y_recipients[:, ell:]], axis=1))
    for ids in passes:
        ids = torch.as_tensor(np.concatenate([bos, ids], axis=1))
        backend.sequence_logprobs(ids[:, :-1], ids[:, 1:])
        tokens += ids[:, 1:].numel()
    return tokens


def packed_schedule(
    backend: TransformersBackend, documents: np.ndarray, y_recipients: np.ndarray, split: list[passes.Branch]
) -> np.ndarray:
    """Our passes for a batch as one sequence: the document, then every branch, kept apart by a 4D attention mask.

    Returns the log-probabilities (documents, positions) in order: own, then marginal and other of each branch.
    """
    count, L = documents.shape
    bos = np.full((count, 1), backend.bos)
    inputs, targets = [bos, documents[:, :-1]], [documents]
    positions, owner, sees = [np.arange(L)], [np.zeros(L, int)], [0]
    for ell, end in split:
        n = end - ell
        inputs += [bos, documents[:, ell : end - 1], documents[:, ell - 1 : ell], y_recipients[:, ell : end - 1]]
        targets += [documents[:, ell:end], y_recipients[:, ell:end]]
        positions += [np.arange(n), ell + np.arange(n)]
        owner += [np.full(n, len(sees)), np.full(n, len(sees) + 1)]
        sees += [0, ell]  # how many tokens of the document's own pass the branch may look at
    owner, position = np.concatenate(owner), np.concatenate(positions)
    device = backend.model.device
    owner_t, index = torch.as_tensor(owner, device=device), torch.arange(len(owner), device=device)
    prefix = torch.as_tensor(np.array(sees)[owner], device=device)
    mask = (owner_t[:, None] == owner_t[None, :]) & (index[None, :] <= index[:, None])
    mask |= index[None, :] < prefix[:, None]
    ids = torch.as_tensor(np.concatenate(inputs, axis=1), device=device)
    wanted = torch.as_tensor(np.concatenate(targets, axis=1), device=device)
    place = torch.as_tensor(position, device=device).expand(count, -1)
    hidden = backend.model.base_model(
        input_ids=ids, attention_mask=mask[None, None].expand(count, 1, -1, -1), position_ids=place, use_cache=False
    ).last_hidden_state
    head = backend.model.get_output_embeddings()
    pieces = [
        -torch.nn.functional.cross_entropy(head(some).flatten(0, 1).float(), goal.flatten(), reduction="none")
        for some, goal in zip(hidden.split(512, dim=1), wanted.split(512, dim=1), strict=True)
    ]
    sizes = [piece.numel() // count for piece in pieces]
    return torch.cat([p.view(count, n) for p, n in zip(pieces, sizes, strict=True)], dim=1).cpu().numpy()


def load(cfg: Settings) -> TransformersBackend:
    if cfg.model not in RANDOM_MODELS:
        return TransformersBackend(cfg.model, cfg.bos, cfg.dtype, cfg.device, cfg.batch_documents * cfg.L_max, "auto")
    hidden, mlp, layers, heads, kv_heads = RANDOM_MODELS[cfg.model]
    device = cfg.device if cfg.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=VOCABULARY,
        max_position_embeddings=131_072,
    )
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, cfg.dtype))
    return TransformersBackend.from_model(model, cfg.bos, cfg.batch_documents * cfg.L_max)


def read_ids(cfg: Settings, vocabulary: int) -> np.ndarray:
    """(batches, 2, batch_documents, L_max): documents and those that get their X, spread evenly over the corpus."""
    shape = (cfg.rounds + 1, 2, cfg.batch_documents, cfg.L_max)
    count = int(np.prod(shape[:3]))
    if cfg.documents is None:
        return np.random.default_rng(cfg.seed).integers(0, vocabulary, shape)
    from common.documents import open_documents

    rows = [row for row in open_documents(cfg.documents)[0]["input_ids"] if len(row) >= cfg.L_max]
    if len(rows) < count:
        raise UserError(
            f"{cfg.documents}: {len(rows)} documents of {cfg.L_max} tokens, {count} are needed: lower --rounds"
        )
    return np.array([rows[i][: cfg.L_max] for i in np.linspace(0, len(rows) - 1, count).astype(int)]).reshape(shape)


def time_in_turn(ways: dict[str, Callable[[np.ndarray, np.ndarray], object]], batches: np.ndarray) -> pd.DataFrame:
    """Seconds and peak GPU bytes of every way on every batch, in turn; the first batch, the warm-up, is not counted."""
    rows = []
    with tqdm(total=len(ways) * len(batches), unit="pass", desc="timing") as bar:
        for number, (documents, y_recipients) in enumerate(batches):
            for name, way in ways.items():
                if torch.cuda.is_available():
                    torch.cuda.reset_peak_memory_stats()
                    torch.cuda.synchronize()
                began = time.perf_counter()
                way(documents, y_recipients)  # ends on the CPU, so the device is done
                seconds = time.perf_counter() - began
                peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
                rows.append({"way": name, "round": number, "seconds": seconds, "peak_bytes": peak})
                bar.update()
    table = pd.DataFrame(rows)
    return table[table["round"] > 0]


def pooled_variance(values: np.ndarray, book: np.ndarray) -> float:
    """Variance around the mean of each value's own book. book: numbers from 0, shape as values; all 0 for one pool."""
    count = np.bincount(book)
    means = np.bincount(book, weights=values) / np.maximum(count, 1)
    return float(((values - means[book]) ** 2).sum() / (len(values) - (count > 0).sum()))


def variance_ratios(cfg: Settings) -> pd.DataFrame:
    """Documents needed for the same standard error: variance of a document's term, unpaired over paired, at L = 2ℓ.

    Paired, the two log-probabilities of a term belong to the same Y. Unpaired (the paper's form) they belong to the Ys
    of two documents, and their variances add. Pairs may be of any two books, or of one book (variances around the
    means of the books), which does not count how much books differ. 95% intervals by a bootstrap over documents.
    Columns: estimator, pairs, L, unpaired, paired (nats²), ratio, lo95, hi95.
    """
    scores, _ = read_scores(cfg.scores)
    rng = np.random.default_rng(cfg.seed)
    rows = []
    for estimator, subtracted in (("direct", "logq_y_nats"), ("vclub", "logq_y_given_other_x_nats")):
        for L, group in scores[scores["L_tokens"] == 2 * scores["ell_tokens"]].groupby("L_tokens"):
            first, second = group["logq_y_given_x_nats"].to_numpy(), group[subtracted].to_numpy()
            books = np.unique(group["book"], return_inverse=True)[1]
            for pairs, book in (("any books", np.zeros_like(books)), ("one book", books)):

                def both(drawn: np.ndarray, first=first, second=second, book=book) -> tuple[float, float]:
                    a, b, among = first[drawn], second[drawn], book[drawn]
                    return pooled_variance(a, among) + pooled_variance(b, among), pooled_variance(a - b, among)

                unpaired, paired = both(np.arange(len(first)))
                drawn = [both(rng.integers(0, len(first), len(first))) for _ in range(cfg.bootstrap)]
                lo, hi = np.quantile([theirs / ours for theirs, ours in drawn], [0.025, 0.975])
                rows.append((estimator, pairs, L, unpaired, paired, unpaired / paired, lo, hi))
    return pd.DataFrame(rows, columns=["estimator", "pairs", "L", "unpaired", "paired", "ratio", "lo95", "hi95"])


def main(cfg: Settings) -> None:
    started = time.time()
    variances = variance_ratios(cfg) if cfg.scores is not None else None  # first: a wrong file should cost no timing
    backend = load(cfg)
    vocabulary = backend.model.config.get_text_config().vocab_size
    batches = read_ids(cfg, vocabulary)
    points = passes.grid(cfg.L_max)
    double = [(ell, L) for ell, L in points if L == 2 * ell]
    ells = [ell for ell, _ in double]
    every, only_double = passes.branches(points), passes.branches(double)

    plain = TransformersBackend.from_model(backend.model, cfg.bos, backend.batch_tokens, "plain")
    ways = {
        "paper": lambda d, f: paper_schedule(backend, d, f, ells),
        "shared, L = 2ℓ": lambda d, f: backend.token_logprobs(d, f, only_double),
        "shared, L = 2ℓ, 3ℓ, 4ℓ": lambda d, f: backend.token_logprobs(d, f, every),
        "plain, L = 2ℓ, 3ℓ, 4ℓ": lambda d, f: plain.token_logprobs(d, f, every),
    }
    if cfg.packed:
        ways["packed, L = 2ℓ, 3ℓ, 4ℓ"] = lambda d, f: packed_schedule(backend, d, f, every)
    with torch.inference_mode():
        timed = time_in_turn(ways, batches)
    seconds = {way: statistics.median(group["seconds"]) / cfg.batch_documents for way, group in timed.groupby("way")}
    peak = timed.groupby("way")["peak_bytes"].max() / 2**30

    where = f"{Path(cfg.model).name}, {cfg.dtype}, {backend.model.device.type}, L_max = {cfg.L_max}"
    rows = []

    def add(setting: str, measure: str, unit: str, baseline: str, theirs: float, ours: float, ratio: float) -> None:
        row = (
            "scoring",
            f"{where}, {setting}",
            measure,
            unit,
            baseline,
            round(theirs, 4),
            round(ours, 4),
            round(ratio, 3),
        )
        rows.append(row)

    tokens = {
        "paper": sum([cfg.L_max, *(cfg.L_max - ell for ell in ells), cfg.L_max * len(ells)]),
        "shared, L = 2ℓ": passes.tokens_a_document(double),
        "shared, L = 2ℓ, 3ℓ, 4ℓ": passes.tokens_a_document(points),
        "plain, L = 2ℓ, 3ℓ, 4ℓ": passes.tokens_a_document(points) + sum(ell for ell, _ in every),
        "packed, L = 2ℓ, 3ℓ, 4ℓ": passes.tokens_a_document(points),
    }
    for way in ways:
        if way == "paper":
            continue
        for measure, unit, of in (("tokens a document", "tokens", tokens), ("seconds a document", "s", seconds)):
            add(way, measure, unit, "21 full passes", of["paper"], of[way], of["paper"] / of[way])
    shared = "shared, L = 2ℓ, 3ℓ, 4ℓ"
    for way in [name for name in ways if name.endswith("4ℓ") and name != shared]:
        add(shared, "seconds a document", "s", way, seconds[way], seconds[shared], seconds[way] / seconds[shared])
    rates = {way: tokens[way] / seconds[way] for way in ways}
    add(
        shared,
        "tokens a second",
        "tokens/s",
        "21 full passes",
        rates["paper"],
        rates[shared],
        rates[shared] / rates["paper"],
    )
    if peak.max() > 0:
        for way in [name for name in ways if name != shared]:
            add(shared, "peak GPU memory", "GiB", way, peak[way], peak[shared], peak[way] / peak[shared])

    if variances is not None:
        for row in variances.itertuples():
            interval = f"95% interval of the ratio {row.lo95:.1f} … {row.hi95:.1f}"
            setting = f"{row.estimator}, pairs of {row.pairs}, L = {row.L}, {interval}"
            add(setting, "variance of a term", "nats²", "unpaired", row.unpaired, row.paired, row.ratio)
        baseline = "21 full passes, unpaired"
        for way in ("shared, L = 2ℓ", "shared, L = 2ℓ, 3ℓ, 4ℓ"):
            total = []
            for row in variances[variances["L"] >= 512].itertuples():
                theirs, ours = row.unpaired * seconds["paper"], row.paired * seconds[way]
                total.append(theirs / ours)
                setting = f"{row.estimator}, pairs of {row.pairs}, L = {row.L}, {way}"
                add(setting, EQUAL, "s · nats²", baseline, theirs, ours, total[-1])
            if total:
                worst = min(total)
                add(
                    f"HEADLINE, {way}: smallest over L ≥ 512",
                    EQUAL,
                    "relative",
                    baseline,
                    worst,
                    1,
                    worst,
                )

    columns = ["benchmark", "setting", "measure", "unit", "baseline", "baseline_value", "our_value", "ratio"]
    table = pd.DataFrame(rows, columns=columns)
    inputs = [path for path in (cfg.documents, cfg.scores) if path is not None]
    write_csv(cfg.out, table, cfg, inputs=inputs, started=started, device=str(backend.model.device))
    print(table[["setting", "measure", "baseline", "baseline_value", "our_value", "ratio"]].to_string(index=False))
    print(f"→ {cfg.out}")


if __name__ == "__main__":
    run(main, Settings, __doc__)
