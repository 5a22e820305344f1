r"""Score documents with a language model, for bipartite mutual information (Eqs. 6, 7; Figs. 2b, B.1, B.2, B.3).

    python measure_mutual_info/score_documents.py --documents data/documents/books --model HuggingFaceTB/SmolLM2-135M \
        --out results/mine/scores.csv

For each document and each (ℓ, L) of the grid, scores.csv has log q(Y|X), log q(Y|BOS), the part of the latter from Y's
first two tokens, log q of the document's first L − ℓ tokens given BOS, log q(Y|X'), and the number of bytes of Y. X is
the first ℓ tokens, Y the tokens ℓ+1 … L, and X' the first ℓ tokens of another document, the X donor.
"BOS" is the tokenizer's BOS, its EOS if it has no BOS, or --bos; for SmolLM2-Instruct it is the chat marker
<|im_start|>. Scoring takes about 25 s per document for SmolLM2-135M at L = 2048 on two CPU cores.

A killed run continues where it stopped: finished groups of documents are in `<out>.parts/` until scores.csv is written.
Several processes or machines can share one run (`--shard 0/4` … `--shard 3/4`, the same --out on a shared disk); the
last one to finish writes the CSV.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from tqdm import tqdm

from common.cli import UserError, at_least, check_csv, run
from common.documents import document_lengths, first_of_equal, open_documents
from common.record import write_csv
from common.resume import RESUME_OK, Pieces, finished, identity, read_identity, shard_of, written_by_another
from common.tokenizer import bytes_upto, load_tokenizer
from measure_mutual_info.scoring import passes


@dataclass(frozen=True)
class Settings:
    documents: Path  # folder written by prepare_dataset.py
    model: str  # hub id, local folder or .gguf file
    out: Path = field(metadata=RESUME_OK)  # the scores.csv to write
    L_max: int = 2048  # tokens; longest context + continuation. Shorter documents are left out
    ell_max: int | None = None  # tokens; largest split point ℓ; if not given, as large as L_max allows (paper: 1,024)
    ratios: tuple[int, ...] = (2, 3, 4)  # L/ℓ: 2 for Fig. 2b, 3 and 4 for Fig. B.2
    documents_per_book: int | None = None  # maximum per book, drawn at random; all if not given
    n_documents: int | None = None  # number of documents, drawn at random; all if not given. Paper: 1,024
    seed: int = 0  # seed for drawing documents and for the permutation that gives each document its X'
    backend: Literal["transformers", "vllm"] = "transformers"
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    """auto: the dtype of the scores in --out; if there are none, bfloat16 on a GPU that supports it or a CPU that is
    faster in it, else float32"""
    batch_tokens: int = 4096
    """tokens per pass through the model; limits memory. A group is batch_tokens // (longest L) documents, or one"""
    bos: str | None = None  # token in front of every text; if not given, the tokenizer's BOS, or else its EOS
    shard: str = field(default="0/1", metadata=RESUME_OK)  # i/n: score only every n-th group, beginning with group i
    device: str = field(default="auto", metadata=RESUME_OK)
    """transformers: auto, cpu, cuda, cuda:1, mps, or split (layers spread over all GPUs)"""
    tensor_parallel: int = field(default=1, metadata=RESUME_OK)  # vllm: GPUs that share each layer
    pipeline_parallel: int = field(default=1, metadata=RESUME_OK)  # vllm: groups of GPUs that hold successive layers
    gpu_memory: float = field(default=0.9, metadata=RESUME_OK)  # vllm: share of a GPU's memory to use
    vllm_args: str = "{}"  # vllm: further engine arguments, as JSON

    @property
    def points(self) -> list[tuple[int, int]]:
        return passes.grid(self.L_max, self.ell_max, self.ratios)

    @property
    def longest(self) -> int:
        """The longest L of the grid, in tokens: the largest that is not above L_max."""
        return max(L for _, L in self.points)

    @property
    def group_size(self) -> int:
        return max(1, self.batch_tokens // self.longest)

    def validate(self) -> None:
        check_csv(self.out)
        if min(self.ratios) < 2 or not self.points:
            given = f"--L-max {self.L_max}, --ell-max {self.ell_max}, --ratios {self.ratios}"
            raise UserError(f"{given}: no (ℓ, L) fits: the smallest is ℓ = 2, L = 4, and L/ℓ is 2 at least")
        at_least(2, self, "n_documents")  # vCLUB pairs documents
        at_least(1, self, "batch_tokens", "documents_per_book")
        shard_of(self.shard)


# Values that --preset sets instead of the defaults above, which suit small models on one machine.
CPU = {"dtype": "auto", "documents_per_book": 3}
PAPER = {"backend": "vllm", "dtype": "bfloat16", "tensor_parallel": 8, "batch_tokens": 65_536}  # 8 × H100 80 GB
PRESETS = {
    "paper": PAPER,
    "paper-deepseek": PAPER | {"pipeline_parallel": 2},  # DeepSeek V3 needs 16 GPUs
    "cpu": CPU,
    "cpu-series": CPU | {"ratios": (2,)},  # for several models
    "cpu-single": CPU | {"ratios": (2,), "documents_per_book": 1},  # one document per article or book
    "demo": {"dtype": "auto"},
    "smoke": {},
}


@dataclass(frozen=True)
class Sample:
    """The documents to score. ids: (documents, longest L) int32; X' of document i is the X of x_donor[i]."""

    names: np.ndarray
    books: np.ndarray
    ids: np.ndarray
    x_donor: np.ndarray
    facts: dict


def draw_sample(cfg: Settings) -> Sample:
    """Draw the documents to score, which reach the longest L of the grid and are cut to it, and their x_donors.

    A document that repeats an earlier one is left out: it could be the x_donor of its own copy.
    UserError: the folder was not written by prepare_dataset.py, or has too few such documents (at least 2).
    """
    table, facts = open_documents(cfg.documents)
    lengths, longest, needed = document_lengths(table), cfg.longest, cfg.n_documents or 2
    short = lengths < longest
    repeats = ~short & (first_of_equal(table, longest) != np.arange(len(lengths)))
    chosen = np.flatnonzero(~short & ~repeats)
    if cfg.documents_per_book is not None:  # the first in a random order, so a larger number adds to a smaller one
        drawn = np.random.default_rng(cfg.seed).permutation(chosen)
        place = pd.Series(drawn).groupby(np.asarray(list(table["book"]))[drawn]).cumcount()
        chosen = np.sort(drawn[place < cfg.documents_per_book])
    if len(chosen) < needed:
        limit = f", at most {cfg.documents_per_book} of each book" if cfg.documents_per_book else ""
        raise UserError(
            f"{cfg.documents}: {len(chosen)} of {len(lengths)} documents have {longest} tokens (longest: "
            f"{lengths.max()}) and repeat no other{limit}, and {needed} are needed: lower --L-max or --n-documents, "
            "raise --documents-per-book, or prepare more or longer documents (--min-tokens)"
        )
    for left_out, why in ((short, "are shorter than"), (repeats, "repeat another's first")):
        if left_out.any():
            print(f"{left_out.sum()} documents {why} {longest} tokens and are left out")
    if cfg.n_documents is not None:
        chosen = np.sort(np.random.default_rng(cfg.seed).choice(chosen, cfg.n_documents, replace=False))
    table = table.select(chosen)
    ids = np.array([row[:longest] for row in table["input_ids"]], dtype=np.int32)
    names, books = np.asarray(list(table["document"])), np.asarray(list(table["book"]))
    return Sample(names, books, ids, passes.x_donors(books, cfg.seed), facts)


def check_model(cfg: Settings, sample: Sample) -> tuple[int, str, str | None]:
    """Id and text of the token used as BOS, and the model's revision on the hub (None for a local model).

    No weights are loaded. UserError: the context is shorter than the longest L, or as `pretrained.start_token`.
    """
    from common import pretrained  # imported here: it takes seconds

    config = pretrained.load_config(cfg.model)
    context = pretrained.context_tokens(config)
    if context is not None and context < cfg.longest:
        raise UserError(f"{cfg.model}: its context is {context} tokens, shorter than L = {cfg.longest}: lower --L-max")
    extent = int(sample.ids.min()), int(sample.ids.max())
    bos, text = pretrained.start_token(cfg.model, config, cfg.bos, cfg.documents, sample.facts, extent)
    return bos, text, getattr(config, "_commit_hash", None)


def load_backend(cfg: Settings, sample: Sample, bos: int) -> passes.Backend:
    if cfg.backend == "vllm":
        from measure_mutual_info.scoring.backend_vllm import VllmBackend

        gpus = (cfg.tensor_parallel, cfg.pipeline_parallel, cfg.gpu_memory)
        return VllmBackend(cfg.model, bos, cfg.dtype, cfg.batch_tokens, cfg.longest, *gpus, cfg.vllm_args)
    from common.pretrained import find_device, load_model
    from measure_mutual_info.scoring.backend_transformers import TransformersBackend

    model = load_model(cfg.model, cfg.dtype, find_device(cfg.device))
    backend = TransformersBackend(model, bos, cfg.batch_tokens)
    backend.check_sharing(sample.ids[:1], sample.ids[sample.x_donor[:1]])
    return backend


def scoring_identity(cfg: Settings, sample: Sample, bos: int, revision: str | None) -> dict:
    """What two runs must share to be parts of one; also `batch_tokens`, because rounding depends on the batch."""
    from common.pretrained import model_fingerprint

    digest = hashlib.sha256(sample.ids.tobytes() + sample.x_donor.tobytes() + "\n".join(sample.names).encode())
    return identity(
        cfg,
        ell_max=max(ell for ell, _ in cfg.points),
        model=Path(cfg.model).name if Path(cfg.model).exists() else cfg.model,
        model_files=model_fingerprint(cfg.model),
        revision=revision,
        bos=bos,
        documents=digest.hexdigest()[:16],
    )


def groups(cfg: Settings, sample: Sample, shard: tuple[int, int] = (0, 1)) -> dict[int, np.ndarray]:
    """Documents that are scored together, by group number. shard: (i, n) for every n-th group, beginning with i."""
    every = np.arange(len(sample.names))
    starts = every[:: cfg.group_size]
    return {g: every[starts[g] : starts[g] + cfg.group_size] for g in range(shard[0], len(starts), shard[1])}


def score_groups(cfg: Settings, sample: Sample, backend: passes.Backend, store: Pieces) -> None:
    """Score every group of this shard that is not yet in `store`."""
    y_recipient = np.argsort(sample.x_donor)  # y_recipient[i] is the document that gets i's X
    split, tokens = passes.branches(cfg.points), passes.tokens_a_document(cfg.points)
    mine = groups(cfg, sample, shard_of(cfg.shard))
    missing = {group: rows for group, rows in mine.items() if not store.done(group)}
    total, left = (tokens * sum(map(len, some.values())) for some in (mine, missing))
    shown = {"unit": "token", "unit_scale": True, "desc": "scoring", "smoothing": 0.05, "mininterval": 2}
    with tqdm(total=total, initial=total - left, **shown) as bar:
        backend.tick = bar.update  # called after every layer: a pass of a large model takes minutes on a CPU
        for group, rows in missing.items():
            began = time.time()
            scored = backend.token_logprobs(sample.ids[rows], sample.ids[y_recipient[rows]], split)
            seconds = np.array(time.time() - began)
            store.write(group, passes.terms(scored, cfg.points) | {"seconds": seconds})
            left -= tokens * len(rows)
            bar.n = total - left  # without shared key-values, more tokens are processed
            bar.refresh()


def continuation_bytes(cfg: Settings, sample: Sample) -> np.ndarray:
    """UTF-8 bytes of each Y, (documents, points); NaN for a model without a tokenizer.

    If a cut splits a character, the number is accurate to within three bytes.
    """
    try:
        tokenizer = load_tokenizer(cfg.model)
    except UserError:  # its documents are token ids only
        return np.full((len(sample.names), len(cfg.points)), np.nan)
    ends = sorted({end for point in cfg.points for end in point})
    upto = [bytes_upto(tokenizer, row.tolist(), ends) for row in sample.ids]
    of = dict(zip(ends, np.array(upto, dtype=float).T, strict=True))
    return np.stack([of[L] - of[ell] for ell, L in cfg.points], axis=1)


def assemble(cfg: Settings, sample: Sample, store: Pieces) -> tuple[pd.DataFrame, int, float]:
    """The table of scores.csv from all groups, the number of failed documents, and the seconds that all groups took.

    A document fails if one of its log-probabilities is not finite; its terms are left empty.
    """
    points, names = cfg.points, list(passes.TERMS)
    values = {name: np.full((len(sample.names), len(points)), np.nan) for name in names}
    y_recipient, seconds = np.argsort(sample.x_donor), 0.0
    for group, rows in groups(cfg, sample).items():
        part = store.read(group, {name: (len(rows), len(points)) for name in names} | {"seconds": ()})
        seconds += float(part["seconds"])
        for name in names:
            values[name][y_recipient[rows] if name == passes.TERM_OF_RECIPIENT else rows] = part[name]
    failed = ~np.all([np.isfinite(value).all(axis=1) for value in values.values()], axis=0)
    columns = {f"{name}_nats": np.where(failed[:, None], np.nan, values[name]).round(6).ravel() for name in names}
    ell, L = np.tile(points, (len(sample.names), 1)).T
    table = {"document": sample.names.repeat(len(points)), "book": sample.books.repeat(len(points))}
    table |= {"ell_tokens": ell, "L_tokens": L, "y_bytes": continuation_bytes(cfg, sample).ravel(), **columns}
    table |= {"x_donor": sample.names[sample.x_donor].repeat(len(points))}
    return pd.DataFrame(table), int(failed.sum()), seconds


def main(cfg: Settings) -> None:
    if cfg.dtype == "auto":
        from common.pretrained import find_device, find_dtype

        there = read_identity(cfg.out.with_suffix(".json"), "identity") if cfg.out.exists() else None
        found = there.get("dtype") if isinstance(there, dict) else None  # so committed scores serve every machine
        cfg = replace(cfg, dtype=found or find_dtype(find_device(cfg.device)))  # so that the record names it
        print(f"computing in {cfg.dtype}")
    if cfg.longest < cfg.L_max:
        print(f"the longest L is {cfg.longest}, the largest of the grid up to --L-max {cfg.L_max}")
    sample = draw_sample(cfg)
    bos, start_text, revision = check_model(cfg, sample)
    wanted = scoring_identity(cfg, sample, bos, revision)
    store = Pieces(cfg.out.with_name(cfg.out.name + ".parts"), wanted)
    if finished(cfg.out, wanted, store):
        return
    within = int((sample.books == sample.books[sample.x_donor]).sum())
    print(f"{len(sample.names)} documents of {len(np.unique(sample.books))} books; X' of the same book: {within}")
    if not all(map(store.done, groups(cfg, sample, shard_of(cfg.shard)))):
        score_groups(cfg, sample, load_backend(cfg, sample, bos), store)
    missing = sum(not store.done(group) for group in groups(cfg, sample))
    if missing:
        if not written_by_another(cfg.out, wanted):
            print(f"shard {cfg.shard} is done; {missing} groups of the other shards are still missing")
        return
    try:
        table, failed, seconds = assemble(cfg, sample, store)
    except UserError:  # also if another shard finished at the same time and removes the groups
        if written_by_another(cfg.out, wanted):
            return
        raise
    facts = {"source": sample.facts["source"], "tokenizer": sample.facts["tokenizer"], "start_token": start_text}
    facts |= {"identity": wanted, "failed_documents": failed, "scoring_seconds": round(seconds, 1)}
    write_csv(cfg.out, table, cfg, inputs=[cfg.documents], **facts)
    store.remove()
    if failed:
        print(f"{failed} of {len(sample.names)} documents failed (log-probabilities not finite); their terms are empty")
    print(f"{len(table)} rows in {cfg.out}")


if __name__ == "__main__":
    run(main, Settings, __doc__, PRESETS)
