r"""Log-probabilities behind bipartite mutual information (Eq. 6, 7; Fig. 2b, B.1, B.2, B.3): documents → scores.csv.

    python measure_mutual_info/score_documents.py --documents data/documents/books --model HuggingFaceTB/SmolLM2-135M \
        --out results/mine/scores.csv

For each document and each (ℓ, L) of the grid: log q(Y|X), log q(Y|BOS), the part of it from Y's first two tokens, and
log q(Y|X'). X is the first ℓ tokens, Y the tokens ℓ+1 … L, and X' the first ℓ tokens of another document, the X donor.
"BOS" is the tokenizer's BOS, its EOS if it has no BOS, or --bos; for SmolLM2-Instruct it is the chat marker
<|im_start|>. Scoring takes about 25 s a document for SmolLM2-135M at L = 2048 on two CPU cores.

A killed run continues where it stopped: finished groups of documents lie in `<out>.parts/` until scores.csv is written.
Several processes or machines can share one run (`--shard 0/4` … `--shard 3/4`, the same --out on a shared disk); the
last one to finish writes the CSV.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from tqdm import tqdm

from common.cli import UserError, run
from common.documents import document_lengths, first_of_equal, open_documents
from common.record import write_csv
from measure_mutual_info.scoring import passes, score_store

if TYPE_CHECKING:
    from common.pretrained import StartToken


@dataclass(frozen=True)
class Settings:
    documents: Path
    """folder written by prepare_dataset.py"""
    model: str
    """hub id, local folder or .gguf file"""
    out: Path
    """the scores.csv to write"""
    L_max: int = 2048
    """tokens; longest context + continuation. Shorter documents are left out"""
    ell_max: int | None = None
    """tokens; largest split point ℓ; as far as L_max allows if not given (paper: 1,024)"""
    ratios: tuple[int, ...] = (2, 3, 4)
    """L/ℓ: 2 for Fig. 2b, 3 and 4 for Fig. B.2"""
    n_documents: int | None = None
    """how many documents, drawn at random; all of them if not given. Paper: 1,024"""
    seed: int = 0
    """of the draw of documents and of the permutation that gives each document its X'"""
    backend: Literal["transformers", "vllm"] = "transformers"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_tokens: int = 4096
    """tokens in one pass through the model: bounds memory. A group is batch_tokens / L_max documents, at least one"""
    bos: str | None = None
    """token to put in front of everything; the tokenizer's BOS if not given, or else its EOS"""
    shard: str = "0/1"
    """i/n: score only every n-th group, beginning with group i"""
    device: str = "auto"
    """transformers: auto, cpu, cuda, cuda:1, mps, or split (the layers over all GPUs)"""
    schedule: Literal["auto", "shared", "plain"] = "auto"
    """transformers: reuse key-values of what branches share, or self-contained prompts; auto: shared if possible"""
    tensor_parallel: int = 1
    """vllm: GPUs that share each layer"""
    pipeline_parallel: int = 1
    """vllm: groups of GPUs that hold successive layers"""
    gpu_memory: float = 0.9
    """vllm: share of a GPU's memory to use"""
    vllm_args: str = "{}"
    """vllm: further engine arguments, as JSON"""

    @property
    def points(self) -> list[tuple[int, int]]:
        return passes.grid(self.L_max, self.ell_max, self.ratios)

    @property
    def longest(self) -> int:
        """The longest L of the grid, in tokens: L_max, or the last that fits below it."""
        return max(L for _, L in self.points)

    @property
    def group_size(self) -> int:
        return max(1, self.batch_tokens // self.longest)

    @property
    def shard_of(self) -> tuple[int, int]:
        i, _, n = self.shard.partition("/")
        return int(i), int(n)

    def validate(self) -> None:
        if self.out.suffix != ".csv":
            raise UserError(f"--out {self.out}: give the name of a .csv file")
        if self.ell_max is not None and self.ell_max < 2:
            raise UserError(f"--ell-max {self.ell_max}: the smallest split point is 2 tokens")
        if not self.ratios or min(self.ratios) < 2:
            raise UserError(f"--ratios {self.ratios}: L must lie beyond ℓ, so every ratio L/ℓ must be at least 2")
        if not self.points:
            raise UserError(
                f"--L-max {self.L_max}: no (ℓ, L) fits: the smallest is ℓ = 2, L = {2 * min(self.ratios)}; raise it"
            )
        if self.n_documents is not None and self.n_documents < 2:
            raise UserError(f"--n-documents {self.n_documents}: vCLUB pairs documents, so at least 2 are needed")
        if self.batch_tokens < 1:
            raise UserError(f"--batch-tokens {self.batch_tokens}: at least 1")
        try:
            i, n = self.shard_of
        except ValueError:
            i, n = -1, 0
        if not 0 <= i < n:
            raise UserError(f"--shard {self.shard}: write it i/n with 0 ≤ i < n, e.g. 0/4")


# What --preset sets in place of the defaults above, with which one machine scores small models.
PAPER = {"backend": "vllm", "dtype": "bfloat16", "tensor_parallel": 8, "batch_tokens": 65_536}  # 8 × H100 80 GB
PRESETS = {
    "paper": PAPER,
    "paper-deepseek": PAPER | {"pipeline_parallel": 2},  # DeepSeek V3 takes 16
    "cpu": {},
    "demo": {},
    "smoke": {},
}


@dataclass(frozen=True)
class Sample:
    """The documents to score. ids: (documents, longest L) int32; x_donor[i] lends its X to document i."""

    names: np.ndarray
    books: np.ndarray
    ids: np.ndarray
    x_donor: np.ndarray
    facts: dict


def draw_sample(cfg: Settings) -> Sample:
    """Documents that reach the longest L of the grid, cut to it, n_documents of them drawn by seed; their x_donors.

    A document that repeats an earlier one is left out: as its x_donor it would be no other document.
    UserError if the folder is not one of prepare_dataset.py, or holds fewer than two long enough documents.
    """
    table, facts = open_documents(cfg.documents)
    lengths, longest = document_lengths(table), cfg.longest
    long_enough = np.flatnonzero(lengths >= longest)
    if len(long_enough) < 2:
        raise UserError(
            f"{cfg.documents}: {len(long_enough)} of {len(lengths)} documents have {longest} tokens "
            f"(longest: {lengths.max()}), and 2 are needed: lower --L-max, or prepare longer documents (--min-tokens)"
        )
    if len(long_enough) < len(lengths):
        print(f"{len(lengths) - len(long_enough)} documents are shorter than {longest} tokens and left out")
    first = first_of_equal(table, longest)[long_enough]
    repeats = int((first != long_enough).sum())
    if repeats:
        long_enough = long_enough[first == long_enough]
        print(f"{repeats} documents repeat another's first {longest} tokens and are left out")
    if len(long_enough) < 2:
        raise UserError(
            f"{cfg.documents}: all {repeats + 1} documents of {longest} tokens begin with the same ones, and 2 that "
            "differ are needed: give documents of other texts"
        )
    if cfg.n_documents is not None:
        if cfg.n_documents > len(long_enough):
            raise UserError(
                f"--n-documents {cfg.n_documents}: {cfg.documents} has {len(long_enough)} that are long enough"
                + (" and repeat no other" if repeats else "")
            )
        drawn = np.random.default_rng(cfg.seed).choice(long_enough, cfg.n_documents, replace=False)
        long_enough = np.sort(drawn)
    chosen = table.select(long_enough)
    ids = np.array([row[:longest] for row in chosen["input_ids"]], dtype=np.int32)
    names, books = np.asarray(list(chosen["document"])), np.asarray(list(chosen["book"]))
    return Sample(names, books, ids, passes.x_donors(books, cfg.seed), facts)


def check_model(cfg: Settings, sample: Sample) -> tuple[StartToken, str | None]:
    """Everything about the model that its configuration and tokenizer tell before any weights are loaded.

    Returns the token that stands for BOS, and the model's revision on the hub (None for a local one). UserError:
    context shorter than L, documents of another tokenizer, no BOS, ids outside the vocabulary.
    """
    from common import pretrained  # here, because it takes seconds

    config = pretrained.load_config(cfg.model)
    context = pretrained.context_tokens(config)
    if context is not None and context < cfg.longest:
        raise UserError(f"{cfg.model}: its context is {context} tokens, shorter than L = {cfg.longest}: lower --L-max")
    extent = int(sample.ids.min()), int(sample.ids.max())
    start = pretrained.start_token(cfg.model, config, cfg.bos, cfg.documents, sample.facts, extent)
    return start, getattr(config, "_commit_hash", None)


def load_backend(cfg: Settings, sample: Sample, bos: int) -> passes.Backend:
    if cfg.backend == "vllm":
        from measure_mutual_info.scoring.backend_vllm import VllmBackend

        return VllmBackend(
            model=cfg.model,
            bos=bos,
            dtype=cfg.dtype,
            batch_tokens=cfg.batch_tokens,
            L_max=cfg.longest,
            tensor_parallel=cfg.tensor_parallel,
            pipeline_parallel=cfg.pipeline_parallel,
            gpu_memory=cfg.gpu_memory,
            vllm_args=cfg.vllm_args,
        )
    from measure_mutual_info.scoring.backend_transformers import TransformersBackend

    backend = TransformersBackend(cfg.model, bos, cfg.dtype, cfg.device, cfg.batch_tokens, cfg.schedule)
    backend.check_schedule(sample.ids[:1], sample.ids[sample.x_donor[:1]])
    return backend


def scoring_manifest(cfg: Settings, sample: Sample, bos: int, revision: str | None) -> dict:
    """What must be the same for two runs to be parts of one, `batch_tokens` included: rounding depends on the batch."""
    from common.pretrained import model_fingerprint

    shown = asdict(cfg)
    for free in ("out", "documents", "shard", "device", "tensor_parallel", "pipeline_parallel", "gpu_memory"):
        del shown[free]
    shown["ell_max"] = max(ell for ell, _ in cfg.points)
    digest = hashlib.sha256(sample.ids.tobytes() + sample.x_donor.tobytes() + "\n".join(sample.names).encode())
    model = Path(cfg.model).name if Path(cfg.model).exists() else cfg.model
    files = model_fingerprint(cfg.model)
    # Through JSON and back, so that it compares equal with what is read from disk.
    return json.loads(
        json.dumps(
            shown
            | {"model": model, "revision": revision, "model_files": files}
            | {"bos": bos, "documents": digest.hexdigest()[:16]}
        )
    )


def score_groups(
    cfg: Settings, sample: Sample, backend: passes.Backend, store: score_store.ScoreStore, progress: bool = True
) -> None:
    """Score every group of this shard that is not in the store yet."""
    y_recipient = np.argsort(sample.x_donor)  # y_recipient[i] is the document that gets i's X
    split = passes.branches(cfg.points)
    i, n = cfg.shard_of
    mine = [group for group in range(_groups(cfg, sample)) if group % n == i]
    tokens = passes.tokens_a_document(cfg.points)
    documents = sum(len(_rows(cfg, sample, group)) for group in mine)
    with tqdm(
        total=documents,
        unit="document",
        desc="scoring",
        smoothing=0.05,
        mininterval=2,
        miniters=0,
        disable=not progress,
    ) as bar:
        done = 0
        for group in mine:
            rows = _rows(cfg, sample, group)
            if not store.done(group):
                if progress:  # a group takes most of a minute on a CPU, a pass seconds

                    def tick(passed: int, end: int = done + len(rows)) -> None:
                        bar.n = round(min(bar.n + passed / tokens, end), 2)
                        bar.update(0)  # shows it, if the last time is 2 seconds ago

                    backend.tick = tick
                began = time.time()
                scored = backend.token_logprobs(sample.ids[rows], sample.ids[y_recipient[rows]], split)
                seconds = time.time() - began
                store.write(group, passes.terms(scored, cfg.points) | {"seconds": np.array(seconds)})
                bar.set_postfix_str(f"{tokens * len(rows) / seconds:.0f} tokens/s")
            done += len(rows)
            bar.n = done
            bar.update(0)


def _groups(cfg: Settings, sample: Sample) -> int:
    return -(-len(sample.names) // cfg.group_size)


def _rows(cfg: Settings, sample: Sample, group: int) -> np.ndarray:
    return np.arange(group * cfg.group_size, min(len(sample.names), (group + 1) * cfg.group_size))


def assemble(cfg: Settings, sample: Sample, store: score_store.ScoreStore) -> tuple[pd.DataFrame, int, float]:
    """All groups as the table of scores.csv, how many documents failed, and the seconds that all groups took.

    A document with a log-probability that is not finite has failed: its terms are left empty.
    """
    points, names = cfg.points, list(passes.TERMS)
    values = {name: np.full((len(sample.names), len(points)), np.nan) for name in names}
    y_recipient, seconds = np.argsort(sample.x_donor), 0.0
    for group in range(_groups(cfg, sample)):
        rows = _rows(cfg, sample, group)
        part = store.read(group, {name: (len(rows), len(points)) for name in names} | {"seconds": ()})
        seconds += float(part["seconds"])
        for name in names:
            values[name][y_recipient[rows] if name == passes.TERM_OF_RECIPIENT else rows] = part[name]
    failed = ~np.all([np.isfinite(value).all(axis=1) for value in values.values()], axis=0)
    columns = {f"{name}_nats": np.where(failed[:, None], np.nan, values[name]).round(6).ravel() for name in names}
    ells, Ls = np.array(points).T
    table = pd.DataFrame(
        {
            "document": sample.names.repeat(len(points)),
            "book": sample.books.repeat(len(points)),
            "ell_tokens": np.tile(ells, len(sample.names)),
            "L_tokens": np.tile(Ls, len(sample.names)),
            **columns,
            "x_donor": sample.names[sample.x_donor].repeat(len(points)),
        }
    )
    return table, int(failed.sum()), seconds


def finished_before(cfg: Settings, wanted: dict, parts: Path) -> bool:
    """Whether scores.csv is there already, made with these settings. UserError if it was made with others."""
    if not cfg.out.exists():
        return False
    try:
        found = json.loads(cfg.out.with_suffix(".json").read_text(encoding="utf-8"))["manifest"]
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    score_store.refuse_other_scores(found, wanted, cfg.out)
    shutil.rmtree(parts, ignore_errors=True)  # left behind by a run that was killed right after its last step
    return True


def main(cfg: Settings) -> None:
    cfg.validate()
    sample = draw_sample(cfg)
    start, revision = check_model(cfg, sample)
    wanted = scoring_manifest(cfg, sample, start.id, revision)
    parts = cfg.out.with_name(cfg.out.name + ".parts")
    if finished_before(cfg, wanted, parts):
        print(f"{cfg.out} is complete already, with these settings")
        return
    within = int((sample.books == sample.books[sample.x_donor]).sum())
    print(f"{len(sample.names)} documents of {len(np.unique(sample.books))} books; X' of the same book: {within}")
    started = time.time()
    store = score_store.ScoreStore(parts, wanted)
    i, n = cfg.shard_of
    if any(not store.done(group) for group in range(_groups(cfg, sample)) if group % n == i):
        backend = load_backend(cfg, sample, start.id)
        store.begin()
        score_groups(cfg, sample, backend, store)
    try:
        missing = [group for group in range(_groups(cfg, sample)) if not store.done(group)]
        if missing and not cfg.out.exists():
            print(f"shard {cfg.shard} is done; {len(missing)} groups of the other shards are still missing")
            return
        table, failed, seconds = assemble(cfg, sample, store)
    except UserError:
        if not cfg.out.exists():
            raise
        # Another shard came last, too, and was faster: it has written the same table and taken the parts away.
        print(f"{cfg.out} was written by another shard")
        return
    write_csv(
        cfg.out,
        table,
        cfg,
        inputs=[cfg.documents],
        started=started,
        source=sample.facts["source"],
        tokenizer=sample.facts["tokenizer"],
        start_token=start.text,
        manifest=wanted,
        failed_documents=failed,
        scoring_seconds=round(seconds, 1),
    )
    shutil.rmtree(store.folder, ignore_errors=True)
    if failed:
        print(f"{failed} of {len(sample.names)} documents failed (log-probabilities not finite); their terms are empty")
    print(f"{len(table)} rows in {cfg.out}")


if __name__ == "__main__":
    run(main, Settings, __doc__, PRESETS)
