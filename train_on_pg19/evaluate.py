r"""NLL of a causal model on books, position by position (Fig. 4, G.9): a model and documents → a CSV for compare.py.

    python train_on_pg19/evaluate.py --model runs/gpt2_4096 --documents data/documents/pg19_4096 \
        --out results/fig4/losses/gpt2_0.csv
    python train_on_pg19/evaluate.py --model EleutherAI/pythia-160m --documents data/documents/pg19_4096 --L 2048 \
        --out results/mine/losses.csv                           # any causal model of the hub, folder or GGUF file

A run of train.py reads the books that it held out, other models read all books; --books selects some of these. A run is
evaluated at the end of each cosine of its learning rate. Writes a row for each number of training tokens, book and part
of the positions, first … last:
    nll_nats        −ln q(W_i | W_<i, start), summed over these positions and the documents of the book
    last64_nats     the same given only the last 64 to 127 tokens; one column for each of --contexts. Empty where these
                    can be all tokens (up to position 128), after the last multiple of the context in L, and at cosine
                    ends where it was not measured (see --reach)
    units           bytes of text of these tokens, or without a tokenizer the number of tokens
    tokens          number of training tokens; 0: not a model of train.py
The .json file beside the CSV records the documents and the model. The NLL of every token is kept in --store (4 bytes
each) and not computed again, so a killed run continues where it stopped.

Memory: activations and logits of batch_tokens tokens. Expect the NLL to fall quickly over the first positions and
slowly later.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from common import pretrained, training
from common.cli import MAY_BE_EMPTY, UserError, at_least, check_csv, run
from common.record import printable, write_csv
from common.resume import Pieces
from common.tokenizer import bytes_upto, load_tokenizer
from train_on_pg19 import train
from train_on_pg19.nll import curves, sums
from train_on_pg19.training import books

PIECE_TOKENS = 2**17  # most tokens of one book whose NLL is stored at a time: seconds of work


@dataclass(frozen=True, kw_only=True)
class Settings(books.Choice):
    model: str  # a folder of train.py, hub id, local folder or .gguf file
    documents: Path  # folder that prepare_dataset.py wrote, with documents of L tokens or more
    out: Path  # CSV to write; a .json file is written beside it
    L: int | None = None  # tokens per sequence; default for a model of train.py: that of its training
    store: Path | None = None  # folder for the NLL of every token; default: --out with .parts instead of .csv
    contexts: tuple[int, ...] = field(default=(8, 64, 512), metadata=MAY_BE_EMPTY)
    """tokens, powers of two; those above a quarter of --L are not used. Each takes as long as two passes"""
    reach: int = 64
    """tokens: this one of --contexts, or the largest below it, is measured at the end of every cosine, the others only
    after the last cosine"""
    bos: str | None = None
    """token to put first, or its id, for a model that is not of train.py; default: the tokenizer's BOS, else EOS"""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "auto"
    """dtype of the weights; softmax is in float32, sums are in float64. auto: float32 for a model of train.py; for
    other models bfloat16 on a GPU that supports it or a CPU that is faster in it, else float32"""
    batch_tokens: int = 8192
    """tokens in one pass, at least one sequence: limits memory, changes results only by rounding"""
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps, or split (layers spread over all GPUs)

    def validate(self) -> None:
        check_csv(self.out)
        at_least(1, self, "L", "batch_tokens")
        for context in self.contexts:
            if context < 1 or context & (context - 1):
                raise UserError(f"--contexts {context}: a power of two")
        super().validate()


@dataclass(frozen=True)
class Candidate:
    """A model to evaluate, before its weights are loaded."""

    name: str
    seed: int
    config: PreTrainedConfig
    places: dict[int, str]  # argument of from_pretrained, by training tokens, ascending; 0: not a model of train.py
    run: dict[str, Any] | None = None  # run.json of a folder of train.py


def find_model(model: str) -> Candidate:
    """The candidate of --model. UserError: a folder of train.py without a checkpoint or damaged, a model not found."""
    folder = Path(model)
    if not (folder / train.RUN).is_file():
        name = printable(folder.name) if folder.exists() else model
        return Candidate(name, 0, pretrained.load_config(model), {0: model})
    record = train.read_run(folder)
    settings, saved = record["identity"]["settings"], train.checkpoints(folder)
    if not saved:
        raise UserError(f"{folder} has no checkpoint yet: wait until train.py has written one")
    step, ends = max(saved), training.cosine_ends(record["steps"])
    kept = [one for one in saved if one in ends]
    if step not in ends:
        later = next(end for end in ends if end > step)
        how = "taken at the end of the one before" if kept else "evaluated as it is"
        print(f"{folder} is at step {step:,}, in the middle of a cosine that ends at {later:,}: {how}")
    places = {one * settings["batch_tokens"]: str(saved[one]) for one in kept or [step]}
    return Candidate(settings["model"], settings["seed"], pretrained.load_config(str(saved[step])), places, record)


def choose_documents(cfg: Settings, run: dict[str, Any] | None, documents: Dataset, L: int) -> np.ndarray:
    """Numbers of the documents to read, ascending, without those that repeat another or one that the run trained on.

    run: run.json of a run of train.py, whose held-out books are read; None: all books. UserError: none of these books
    in the documents.
    """
    if run:
        # A training document may equal a held-out document in the run's own L tokens, and differ after them.
        L = min(L, run["identity"]["settings"]["L"])
        others, rows = books.split(documents, run["held_out_books"], L)
    else:
        rows, others = books.split(documents, [], L)
    if not len(rows):
        raise UserError(f"{cfg.documents} has none of the books that the run held out: give other --documents")
    if repeats := len(documents) - len(rows) - len(others):
        print(f"{repeats:,} documents of {cfg.documents} repeat another's first {L:,} tokens and are left out")
    return books.drawn(documents, rows, cfg)


def start_of(cfg: Settings, candidate: Candidate, L: int, documents: Dataset, facts: dict[str, Any]) -> int:
    """The id of the model's start token. UserError: documents of another tokenizer, or too long for the model."""
    config = candidate.config
    context = pretrained.context_tokens(config)
    if context is not None and context < L:
        raise UserError(f"{candidate.name}: its context is {context:,} tokens, shorter than L = {L:,}: lower --L")
    if candidate.run is None:
        extent = pc.min_max(pc.list_flatten(documents.data.column("input_ids"))).as_py()
        extent = extent["min"], extent["max"]
        return pretrained.start_token(cfg.model, config, cfg.bos, cfg.documents, facts, extent)[0]
    theirs = candidate.run["tokenizer_hash"], config.bos_token_id  # the start token is the id after the tokenizer's
    if (facts.get("tokenizer_hash"), facts["tokenizer_vocab_size"]) != theirs:
        trained = f"{candidate.name} was trained on tokens of {candidate.run['tokenizer']}"
        raise UserError(
            f"{cfg.documents}: tokenised with {facts['tokenizer']}, and {trained}: give documents of that tokenizer"
        )
    return config.bos_token_id


@torch.inference_mode()
def nll_of(model: PreTrainedModel, input_ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """−ln q of each target given all tokens before it, in nats, (batch, L) float32.

    input_ids, targets: (batch, L), where targets[:, t] follows input_ids[:, : t + 1].
    """
    logits = model(input_ids=input_ids.to(model.device), use_cache=False).logits
    return -pretrained.target_logprobs(logits, targets.to(logits.device))


def nll_with_last(model: PreTrainedModel, ids: torch.Tensor, start: int, context: int, rows: int) -> torch.Tensor:
    """NLL of each token given only a start token and the last `context` to 2 · context − 1 tokens before it.

    ids: (batch, L). Segments of 2 · context tokens start at each multiple of context, and the second half of each is
    scored; `rows` segments in one pass. Returns (batch, L // context · context − 2 · context), from token 2 · context
    (counted from 0) on. Afterwards the model is slow on longer sequences (see chunk_size).
    """
    for module in model.modules():  # Mamba2 pads to whole chunks, which only costs time
        if hasattr(module, "chunk_size"):
            module.chunk_size = min(model.config.chunk_size, 2 * context)
    segments = ids.unfold(1, 2 * context, context)[:, 1:]  # without the first, which has the full context
    flat = segments.flatten(0, 1)
    given = torch.cat([torch.full_like(flat[:, :1], start), flat[:, :-1]], dim=1)
    parts = zip(given.split(rows), flat.split(rows), strict=True)
    return torch.cat([nll_of(model, one, wanted)[:, context:].cpu() for one, wanted in parts]).view(len(ids), -1)


def in_pieces(documents: Dataset, size: int) -> Iterator[tuple[range, np.ndarray]]:
    """The documents in order, at most `size` at a time and never of two books: their numbers and names."""
    of_book, names = np.array(documents["book"]), np.array(documents["document"])
    for part in np.split(np.arange(len(names)), np.flatnonzero(of_book[1:] != of_book[:-1]) + 1):
        for first in range(part[0], part[-1] + 1, size):
            rows = range(first, min(first + size, part[-1] + 1))
            yield rows, names[rows]


def measured(
    cfg: Settings,
    name: str,
    load: Callable[[], PreTrainedModel],
    sequences: books.Sequences,
    pieces: Pieces,
    digest: str,
    context: int = 0,
) -> Iterator[np.ndarray]:
    """The NLL of the documents in order, (some, L) float32 at a time. Computes what is not in `pieces` yet.

    load: returns the model. digest: start of the keys of the pieces. The keys end with a hash of the documents' names,
    so that another choice of books finds the pieces that it shares with this one. context: see `nll_with_last`; 0: full
    context. Tokens without such an NLL get 0 nats. UserError: the NLL is not finite, a batch does not fit in memory.
    """
    L = sequences.L
    size, batch = max(1, PIECE_TOKENS // L), max(1, cfg.batch_tokens // L)
    skipped, width = (2 * context, L // context * context - 2 * context) if context else (0, L)
    what = f"{name}, last {context} tokens" if context else name
    with tqdm(total=len(sequences), unit="document", desc=what) as bar:
        for rows, names in in_pieces(sequences.documents, size):
            these = hashlib.sha256(json.dumps(names.tolist()).encode()).hexdigest()[:16]
            key = f"{digest}-{f'last{context}-' * bool(context)}{these}"
            if not pieces.done(key):
                model, parts = load(), []
                try:
                    for one in DataLoader(Subset(sequences, rows), batch):
                        if context:
                            segments = max(1, cfg.batch_tokens // (2 * context))
                            parts.append(nll_with_last(model, one["targets"], sequences.start, context, segments))
                        else:
                            parts.append(nll_of(model, one["input_ids"], one["targets"]).cpu())
                        bar.update(len(one["targets"]))
                except torch.OutOfMemoryError as error:
                    failed = f"{name}: {batch} sequences of {L:,} tokens at a time do not fit memory"
                    raise UserError(f"{failed}: lower --batch-tokens, or give --dtype bfloat16") from error
                nll = torch.cat(parts).numpy()
                if not np.isfinite(nll).all():
                    raise UserError(f"{name}: its NLL is not finite: try --dtype float32, or train it again")
                pieces.write(key, {"nll": nll, "documents": names})
            found = pieces.read(key, {"nll": (len(rows), width), "documents": (len(rows),)})["nll"]
            yield np.pad(found, ((0, 0), (skipped, L - skipped - width)))
            bar.update(rows.stop - bar.n)


def text_of(sequences: books.Sequences, facts: dict[str, Any], names: np.ndarray) -> sums.Text:
    """The first L tokens of the documents, in bytes of their text, or in tokens if their tokenizer is not found."""
    L, names_of, documents = sequences.L, *np.unique(names, return_counts=True)
    parts = curves.parts(L)
    widths = np.multiply.outer(documents, parts[:, 1] - parts[:, 0] + 1)
    if facts["tokenizer"] == "bytes":
        return sums.Text(L, names_of, documents, widths)
    try:
        tokenizer = load_tokenizer(facts["tokenizer"])
    except UserError as error:
        print(f"no nats per byte: {error}")
        return sums.Text(L, names_of, documents, widths, "token")
    ids = (sequences[row]["targets"].tolist() for row in range(len(sequences)))
    ends = [0, *parts[:, 1]]
    rows = (np.diff(bytes_upto(tokenizer, one, ends)) for one in ids)
    return sums.Text(L, names_of, documents, curves.book_sums(rows, names).astype(int))


def parameters(config: PreTrainedConfig) -> int:
    with torch.device("meta"):  # an embedding shared with the head counts once
        return AutoModelForCausalLM.from_config(config).num_parameters()


def evaluate(
    cfg: Settings,
    candidate: Candidate,
    sequences: books.Sequences,
    names: np.ndarray,
    contexts: list[int],
    reach: int | None,
) -> tuple[dict[int, sums.Evaluated], list[str]]:
    """The evaluated model at each of its places, by training tokens, and the hashes of the weights there.

    cfg: its dtype and device are not `auto`.
    The last place has the NLL with each of the contexts, the others only with `reach`, if it is not None.
    """
    parts, found, made_of = curves.parts(sequences.L), {}, []
    digests = {"documents": books.fingerprint(cfg.documents), "L": sequences.L}
    pieces = Pieces(cfg.store or cfg.out.with_suffix(".parts"), digests)
    for tokens, place in candidate.places.items():
        weights = pretrained.model_fingerprint(place)
        made_by = [candidate.name, weights, getattr(candidate.config, "_commit_hash", None), sequences.start, cfg.dtype]
        digest = hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:16]

        load = lru_cache(1)(partial(pretrained.load_model, place, cfg.dtype, cfg.device))
        nll = {}
        wanted = contexts if tokens == max(candidate.places) else [reach] * bool(reach)
        for context in (0, *wanted):  # full context first: see nll_with_last
            stored = itertools.chain.from_iterable(
                measured(cfg, candidate.name, load, sequences, pieces, digest, context)
            )
            by_part = (np.add.reduceat(row, parts[:, 0] - 1, dtype=float) for row in stored)
            nll[context] = curves.book_sums(by_part, names)
        found[tokens] = sums.Evaluated(candidate.name, candidate.seed, nll.pop(0), nll)
        made_of.append(weights)
    return found, made_of


def main(cfg: Settings) -> None:
    candidate = find_model(cfg.model)
    L = cfg.L or (candidate.run["identity"]["settings"]["L"] if candidate.run else None)
    if L is None:
        raise UserError("--L: say how many tokens of each document, as the model is no folder of train.py")
    documents, facts = books.open_books(cfg.documents, L)
    rows = choose_documents(cfg, candidate.run, documents, L)
    start = start_of(cfg, candidate, L, documents, facts)
    cfg = replace(cfg, device=pretrained.find_device(cfg.device))
    if cfg.dtype == "auto":
        cfg = replace(cfg, dtype="float32" if candidate.run else pretrained.find_dtype(cfg.device))
    chosen, names = documents.select(rows), books.book_of_each(documents)[rows]
    print(f"{len(rows):,} documents of {len(np.unique(names)):,} books, {L:,} tokens each")
    sequences = books.Sequences(chosen, np.arange(len(rows)), L, facts["tokenizer_vocab_size"], start)
    text = text_of(sequences, facts, names)
    contexts = [c for c in cfg.contexts if 4 * c <= L]
    reach = max((c for c in contexts if c <= cfg.reach), default=None)
    ends, weights = evaluate(cfg, candidate, sequences, names, contexts, reach)
    loss = ends[max(ends)].nll.sum() / text.units.sum()
    print(f"{candidate.name}, seed {candidate.seed}: {loss:.4g} nats per {text.unit}")
    read = hashlib.sha256(json.dumps(chosen["document"][:]).encode())
    for row in range(len(sequences)):
        read.update(sequences[row]["targets"].numpy().tobytes())
    evaluated = {"L": L, "documents": read.hexdigest()[:16], "unit": text.unit}
    evaluated |= {"source": facts["source"], "contexts": contexts, "reach": reach}
    evaluated |= {"kind": candidate.config.model_type, "parameters": parameters(candidate.config)}
    evaluated |= {"dtype": cfg.dtype}
    evaluated["training"] = {}
    if trained := candidate.run:
        known = trained["identity"]
        digest = known["documents"]["fingerprint"]
        evaluated["training"] = train.shared_by_seeds(known["settings"], digest, trained["held_out_books"])
    about = {"tokenizer": facts["tokenizer"], "weights": weights, "device": cfg.device}
    table, inputs = sums.rows(ends, text), [cfg.documents / "state.json"]
    write_csv(cfg.out, table, cfg, inputs, evaluated=evaluated, **about)


if __name__ == "__main__":
    run(main, Settings, __doc__)
