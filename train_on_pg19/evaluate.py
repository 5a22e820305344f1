r"""NLL of causal models on books, position by position (Fig. 4, G.9): models + documents → nll.csv.

    python train_on_pg19/evaluate.py --models runs/gpt2_4096 runs/mamba-130m_4096 --out results/fig4 \\
        --documents data/documents/pg19_4096
    python train_on_pg19/evaluate.py --models EleutherAI/pythia-160m --documents data/documents/pg19_4096 --L 2048 \\
        --out results/mine                                      # any causal model of the hub, folder or GGUF file

A folder of train.py is evaluated on the books that were held out from it. All models of one call get the same
documents, so you can add a model of your own if the documents are in its tokens. Writes into --out:
    nll.csv      a row for each position i: nll_nats = −ln q(W_i | W_<i, start), the mean over documents, by seed
    smooth.csv   the same over windows of positions first … last, an eighth of a doubling wide, see nll.curves.windows
    summary.csv  a row for each model and seed: the mean over all positions; bits per byte of text, which compare models
                 with different tokenizers; kind, the type of model, and its parameters
with standard errors of the sums by book. The NLL of every token goes to --store (4 bytes each), from which compare.py
computes the gap between two models. A killed run continues where it stopped. The CSVs have the models of this call
only. 
Memory: the model's activations on batch_tokens tokens; logits are computed 512 tokens at a time. Expect the NLL to fall
quickly over the first positions and slowly later; Fig. 4 shows how long it keeps falling.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch.nn import functional
from tqdm import tqdm
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from common import pretrained
from common.cli import UserError, run
from common.record import printable, write_csv
from common.tokenizer import load_tokenizer
from train_on_pg19 import train
from train_on_pg19.nll import curves, nll_store
from train_on_pg19.training import books
from train_on_pg19.training.loss import ROWS

LN2 = float(np.log(2))
NLL = ["model", "L", "position", "nll_nats", "stderr_nats", "n_documents", "seed"]


@dataclass(frozen=True)
class Settings:
    models: tuple[str, ...]
    """folders of train.py, hub ids, local folders or .gguf files"""
    documents: Path
    """folder that prepare_dataset.py wrote, its documents of L tokens or more"""
    out: Path
    """folder for the CSVs"""
    L: int | None = None
    """tokens of a sequence; default: what the first folder of train.py was trained on"""
    books: Literal["held_out", "training", "all"] = "held_out"
    """of the folders of train.py; where there is none among the models, all books"""
    n_documents: int | None = None
    """how many documents, drawn at random; default: all (paper: 10,000)"""
    seed: int = 0
    """of the draw of documents"""
    store: Path | None = None
    """folder for the NLL of every token; default: nll in --out"""
    bos: str | None = None
    """token to put in front, or its id, for models that are not of train.py; default: the tokenizer's BOS, else EOS"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """of the weights; softmax and sums are float32 and float64"""
    batch_tokens: int = 16_384
    """tokens in one pass, at least one sequence: bounds memory, changes no number beyond rounding"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps, or split (the layers over all GPUs)"""

    def validate(self) -> None:
        if not self.models:
            raise UserError("--models: give at least one")
        for name in ("L", "n_documents", "batch_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} {value}: at least 1")
        if self.out.exists() and not self.out.is_dir():
            raise UserError(f"--out {self.out} is a file: give a folder")

    @property
    def nll_folder(self) -> Path:
        return self.store or self.out / "nll"


@dataclass(frozen=True)
class EvaluatedModel:
    """A model to be evaluated, before its weights are loaded."""

    name: str
    seed: int
    place: str
    """what from_pretrained takes"""
    config: PreTrainedConfig
    steps: int | None
    """of training; None: not of train.py"""
    run: dict[str, Any] | None
    """run.json, of a folder of train.py"""


def find_model(model: str) -> EvaluatedModel:
    """UserError: a folder of train.py without a checkpoint, a damaged one, or a model that cannot be had."""
    folder = Path(model)
    if not (folder / train.RUN).is_file():
        name = printable(folder.name) if folder.exists() else model
        return EvaluatedModel(name, 0, model, pretrained.load_config(model), None, None)
    record = train.read_run(folder)
    checkpoint, step = train.last_checkpoint(folder)
    if checkpoint is None:
        raise UserError(f"{folder} has no checkpoint yet: let train.py come to its first one")
    settings = record["identity"]["settings"]
    if step < record["steps"]:
        print(f"{folder} stands at step {step:,} of {record['steps']:,}: evaluated as it is")
    config = pretrained.load_config(str(checkpoint))
    return EvaluatedModel(settings["model"], settings["seed"], str(checkpoint), config, step, record)


def same_training(candidates: Sequence[EvaluatedModel]) -> None:
    """UserError: runs of one name that differ in more than their seed, which would pass for seeds of one model."""
    first: dict[str, EvaluatedModel] = {}
    for candidate in candidates:
        if candidate.run is None:
            continue
        before = first.setdefault(candidate.name, candidate)
        one, other = (of.run["identity"]["settings"] | {"seed": 0} for of in (before, candidate))
        keys = [key for key in one if one[key] != other.get(key)]
        if keys or before.steps != candidate.steps:
            what = ", ".join(keys) or "the step they stand at"
            raise UserError(
                f"--models: the runs of {candidate.name} differ in {what}, not in the seed alone: evaluate them apart"
            )


def choose_documents(cfg: Settings, candidates: Sequence[EvaluatedModel], documents: Dataset, L: int) -> np.ndarray:
    """Numbers of the documents, ascending, none of which repeats another or one that the runs were trained on.

    UserError: runs that held out different books, or none of these.
    """
    names = books.book_of_each(documents)
    held_out = {tuple(candidate.run["held_out_books"]) for candidate in candidates if candidate.run}
    if len(held_out) > 1 and cfg.books != "all":
        raise UserError(
            "--models: these runs held out different books, so no document is new to all of them: evaluate them one by "
            "one, or train with one --split-seed and --held-out"
        )
    if not held_out or cfg.books == "all":
        if cfg.books != "all":
            print("no folder of train.py among the models, so no book is held out: all are taken")
        rows, _ = books.split(documents, [], L)
        repeats = len(names) - len(rows)
    else:
        # What a run was trained on may equal a held-out document in the run's own L tokens and differ after them.
        L = min(
            L,
            *(candidate.run["identity"]["settings"]["L"] for candidate in candidates if candidate.run),
        )
        training, evaluation = books.split(documents, held_out.pop(), L)
        repeats = len(names) - len(training) - len(evaluation)
        if not len(evaluation):
            raise UserError(f"{cfg.documents} has none of the books that the runs held out: give other --documents")
        rows = evaluation if cfg.books == "held_out" else training
    if repeats:
        print(f"{repeats:,} documents of {cfg.documents} repeat another's first {L:,} tokens and are left out")
    if cfg.n_documents is not None and cfg.n_documents < len(rows):
        rows = np.sort(np.random.default_rng(cfg.seed).choice(rows, cfg.n_documents, replace=False))
    return rows


def start_of(cfg: Settings, candidate: EvaluatedModel, L: int, documents: Dataset, facts: dict[str, Any]) -> int:
    """The id of the model's start token. UserError: documents of another tokenizer, or too long for the model."""
    config = candidate.config
    context = pretrained.context_tokens(config)
    if context is not None and context < L:
        raise UserError(f"{candidate.name}: its context is {context:,} tokens, shorter than L = {L:,}: lower --L")
    if candidate.run is None:
        column = documents.data.column("input_ids")
        extents = [pc.min_max(chunk.flatten()).as_py() for chunk in column.chunks]
        extent = min(one["min"] for one in extents), max(one["max"] for one in extents)
        return pretrained.start_token(candidate.place, config, cfg.bos, cfg.documents, facts, extent).id
    theirs = (
        candidate.run["tokenizer_hash"],
        config.bos_token_id,
    )  # the start token is the id past the tokenizer's own
    if (facts.get("tokenizer_hash"), facts["tokenizer_vocab_size"]) != theirs:
        raise UserError(
            f"{cfg.documents}: tokenised with {facts['tokenizer']}, and {candidate.name} was trained on tokens of "
            f"{candidate.run['tokenizer']}: give --documents of these"
        )
    return config.bos_token_id


NllFunction = Callable[[PreTrainedModel, torch.Tensor, torch.Tensor], torch.Tensor]


@torch.inference_mode()
def nll_at_once(model: PreTrainedModel, input_ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """−ln q of each target given what is before it, nats, (batch, L) float32, from all logits at once.

    input_ids, targets: (batch, L), where targets[:, t] follows input_ids[:, : t + 1].
    """
    logits = model(input_ids=input_ids, use_cache=False).logits
    nll = functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten().to(logits.device), reduction="none")
    return nll.view(targets.shape)


@torch.inference_mode()
def nll_in_pieces(
    model: PreTrainedModel, input_ids: torch.Tensor, targets: torch.Tensor, rows: int = ROWS
) -> torch.Tensor:
    """The same with the logits of about `rows` tokens at a time.

    The layers run once over all positions. Then the model is called on some positions after the others, its layers
    giving back the hidden states of these, so that whatever a kind of model does to its logits is done.
    """
    body = getattr(model, model.base_model_prefix)
    whole = body(input_ids=input_ids, use_cache=False)
    step, forward, parts = max(1, rows // len(input_ids)), body.forward, []
    try:
        for first in range(0, input_ids.shape[1], step):
            here = slice(first, first + step)
            given = type(whole)(last_hidden_state=whole.last_hidden_state[:, here])
            body.forward = lambda *_, given=given, **__: given
            parts.append(nll_at_once(model, input_ids[:, here], targets[:, here]))
    finally:
        body.forward = forward
    return torch.cat(parts, dim=1)


def nll_function(model: PreTrainedModel, input_ids: torch.Tensor, targets: torch.Tensor) -> NllFunction:
    """`nll_in_pieces`, unless it errs on the first 64 tokens of a document: not all models call their layers so."""
    input_ids, targets = input_ids[:1, :64], targets[:1, :64]
    whole = nll_at_once(model, input_ids, targets)
    try:
        worst = (whole - nll_in_pieces(model, input_ids, targets, rows=5)).abs().max().item()
    except (AttributeError, TypeError, RuntimeError):
        worst = float("inf")
    if worst < (1e-3 if model.dtype == torch.float32 else 0.2) or not whole.isfinite().all():
        return nll_in_pieces
    print(f"{type(model).__name__}: all logits of a batch are held at once; if memory is short lower --batch-tokens")
    return nll_at_once


def measure(cfg: Settings, candidate: EvaluatedModel, sequences: books.Sequences, array: np.ndarray) -> None:
    """Fill the rows of `array` that are still to do. UserError: NLL not finite, a batch that does not fit."""
    left = nll_store.missing(array)
    if not len(left):
        print(f"{candidate.name}, seed {candidate.seed}: all {len(array):,} documents are there already")
        return
    model = pretrained.load_model(candidate.place, cfg.dtype, pretrained.find_device(cfg.device))
    nll_of = nll_function(model, *read_batch(sequences, left[:1], model.device))
    size = max(1, cfg.batch_tokens // sequences.L)
    with tqdm(total=len(array), initial=len(array) - len(left), unit="document", desc=candidate.name) as bar:
        for rows in np.array_split(left, range(size, len(left), size)):
            try:
                nll = nll_of(model, *read_batch(sequences, rows, model.device)).cpu().numpy()
            except torch.OutOfMemoryError as error:
                fewer = f"--batch-tokens {size // 2 * sequences.L}, which changes no number"
                fits = fewer if size > 1 else "--dtype bfloat16, or --device split"
                raise UserError(
                    f"{candidate.name}: {size} sequences of {sequences.L:,} tokens at a time do not fit memory: give "
                    f"{fits}"
                ) from error
            if not np.isfinite(nll).all():
                raise UserError(f"{candidate.name}: its NLL is not finite: try --dtype float32, or train it again")
            array[rows] = nll
            bar.update(len(rows))
    array.flush()


def read_batch(sequences: books.Sequences, rows: np.ndarray, device: torch.device) -> tuple[torch.Tensor, ...]:
    """input_ids and targets, (rows, L) each."""
    batch = [sequences[row] for row in rows]
    return tuple(torch.stack([one[key] for one in batch]).to(device) for key in ("input_ids", "targets"))


def bytes_of_text(sequences: books.Sequences, facts: dict[str, Any]) -> np.ndarray | None:
    """Bytes of UTF-8 that the L tokens of each document stand for; None if their tokenizer cannot be had.

    A character that is cut at the end of a document counts as the three bytes of U+FFFD.
    """
    name = facts["tokenizer"]
    if name == "bytes":
        return np.full(len(sequences), sequences.L)
    try:
        tokenizer = load_tokenizer(name)
    except UserError as error:
        print(f"no bits per byte: {error}")
        return None
    tokens = (sequences[row]["targets"].tolist() for row in range(len(sequences)))
    return np.array([len(tokenizer.text(ids).encode()) for ids in tokens])


def position_table(candidate: EvaluatedModel, L: int, sums: np.ndarray, documents: np.ndarray) -> pd.DataFrame:
    """Rows of nll.csv. sums: (books, L); documents: (books,)."""
    mean, error = curves.mean_by_book(sums, documents)
    names = {"model": candidate.name, "L": L, "seed": candidate.seed, "n_documents": documents.sum()}
    columns = {"position": np.arange(1, L + 1), "nll_nats": mean.round(5), "stderr_nats": error.round(5)}
    return pd.DataFrame({**columns, **names})[NLL]


def smooth_table(candidate: EvaluatedModel, L: int, sums: np.ndarray, documents: np.ndarray) -> pd.DataFrame:
    """Rows of smooth.csv, the same over windows; position is the middle of the window on a logarithmic axis."""
    of = curves.windows(L)
    mean, error = curves.mean_by_book(curves.over_windows(sums, of), documents)
    names = {"model": candidate.name, "L": L, "seed": candidate.seed, "n_documents": documents.sum()}
    columns = {"first": of[:, 0], "last": of[:, 1], "position": curves.centres(of).round(2)}
    table = pd.DataFrame({**columns, "nll_nats": mean.round(6), "stderr_nats": error.round(6), **names})
    return table[["model", "L", "seed", "first", "last", "position", "nll_nats", "stderr_nats", "n_documents"]]


def summary_row(
    candidate: EvaluatedModel, L: int, sums: np.ndarray, documents: np.ndarray, text: np.ndarray | None
) -> dict:
    """A row of summary.csv. text: bytes by book, (books,)."""
    totals = sums.sum(axis=1)
    mean, error = curves.mean_by_book(totals / L, documents)
    row = {"model": candidate.name, "L": L, "seed": candidate.seed, "nll_nats": round(float(mean), 6)}
    row |= {"stderr_nats": round(float(error), 6), "n_documents": documents.sum(), "n_books": len(documents)}
    bits = (np.nan, np.nan) if text is None else curves.mean_by_book(totals / LN2, text)
    row |= {"bits_per_byte": round(float(bits[0]), 6), "bits_per_byte_stderr": round(float(bits[1]), 6)}
    return row | {
        "kind": candidate.config.model_type,
        "parameters": parameters(candidate.config),
        "steps": candidate.steps,
    }


def parameters(config: PreTrainedConfig) -> int:
    """Of the whole model, an embedding that is the head's too counted once; without making it."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config).num_parameters()


def main(cfg: Settings) -> None:
    started = time.time()
    cfg.validate()
    candidates = [find_model(model) for model in cfg.models]
    keys = [(candidate.name, candidate.seed) for candidate in candidates]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise UserError(f"--models: {twice[0][0]} with seed {twice[0][1]} is there twice: name each model once")
    same_training(candidates)
    L = cfg.L or next(
        (candidate.run["identity"]["settings"]["L"] for candidate in candidates if candidate.run),
        None,
    )
    if L is None:
        raise UserError("--L: say how many tokens of each document, as no model is a folder of train.py")
    documents, facts = books.open_books(cfg.documents, L)
    rows = choose_documents(cfg, candidates, documents, L)
    starts = [start_of(cfg, candidate, L, documents, facts) for candidate in candidates]
    chosen = documents.select(rows)
    names = books.book_of_each(documents)[rows]
    documents_of_book = curves.counts(names)
    print(f"{len(rows):,} documents of {len(documents_of_book):,} books, {L:,} tokens each")
    if len(documents_of_book) == 1:
        print("one book: no standard errors, which are of differences between books")
    nll_store.begin(cfg.nll_folder, list(chosen["document"]), list(names))
    text = bytes_of_text(books.Sequences(chosen, np.arange(len(rows)), L, facts["tokenizer_vocab_size"], 0), facts)
    of_book = None if text is None else curves.book_sums(text[:, None], names)[:, 0]
    tables: dict[str, list] = {"nll": [], "smooth": [], "summary": []}
    for candidate, start in zip(candidates, starts, strict=True):
        made_by = {"weights": pretrained.model_fingerprint(candidate.place), "start": start, "dtype": cfg.dtype}
        made_by |= {"revision": getattr(candidate.config, "_commit_hash", None)}
        made_by |= {"documents": books.fingerprint(cfg.documents), "L": L, "steps": candidate.steps}
        array = nll_store.open_to_write(cfg.nll_folder, candidate.name, candidate.seed, (len(rows), L), made_by)
        sequences = books.Sequences(chosen, np.arange(len(rows)), L, facts["tokenizer_vocab_size"], start)
        measure(cfg, candidate, sequences, array)
        sums = curves.book_sums(array, names)
        tables["nll"].append(position_table(candidate, L, sums, documents_of_book))
        tables["smooth"].append(smooth_table(candidate, L, sums, documents_of_book))
        row = summary_row(candidate, L, sums, documents_of_book, of_book)
        tables["summary"].append(pd.DataFrame([row | {"dtype": cfg.dtype, "source": facts["source"]}]))
        print(f"{candidate.name}, seed {candidate.seed}: {row['nll_nats']:.4g} ± {row['stderr_nats']:.2g} nats a token")
    nll_store.finish(cfg.nll_folder, keys)
    of = {"tokenizer": facts["tokenizer"], "source": facts["source"], "device": pretrained.find_device(cfg.device)}
    inputs = [cfg.documents / "state.json", *(one.path for one in nll_store.read(cfg.nll_folder))]
    for name, parts in tables.items():
        write_csv(cfg.out / f"{name}.csv", pd.concat(parts), cfg, inputs, started, **of)


if __name__ == "__main__":
    run(main, Settings, __doc__)
