r"""NLL of causal models on books, position by position (Fig. 4, G.9): models + documents → nll.csv.

    python train_on_pg19/evaluate.py --models runs/gpt2_4096 runs/mamba-130m_4096 --out results/fig4 \\
        --documents data/documents/pg19_4096
    python train_on_pg19/evaluate.py --models EleutherAI/pythia-160m --documents data/documents/pg19_4096 --L 2048 \\
        --out results/mine                                      # any causal model of the hub, folder or GGUF file

All models of one call get the same documents: of the books that were held out from folders of train.py, or without
such a folder of all books. Writes into --out:
    nll.csv        a row for each position i: nll_nats = −ln q(W_i | W_<i, start), the mean over documents, by seed
    smooth.csv     the same over windows of positions first … last, an eighth of a doubling wide, see nll.curves.windows
    summary.csv    a row for each model and seed: the mean over all positions; bits per byte of text, which compare
                   models with different tokenizers; kind, the type of model, and its parameters
    gap.csv        a row for each pair and window: gap_nats = NLL of model_a − NLL of model_b on the same documents,
                   above 0 where model_b is better, with its 95% interval over books, and over seeds if a model has
                   several (seeds_a, seeds_b)
    crossover.csv  a row for each pair: the model that leads at the last positions, and the position from which it leads
                   (overtakes_at; empty if the other leads nowhere). Up to lo95 the other model leads significantly,
                   from hi95 on this one; empty where neither is significant
with standard errors of the sums by book, of the models of this call. The NLL of every token is kept in --store (4 bytes
each) and not computed again, so a killed run continues where it stopped.

Memory: activations and logits of batch_tokens tokens. Expect the NLL to fall quickly over the first positions and
slowly later. The paper: Mamba leads early positions, GPT2 the late ones, and the gap closes as models grow.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch.nn import functional
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from common import pretrained
from common.cli import UserError, run
from common.record import printable, write_csv
from common.resume import Pieces
from common.tokenizer import load_tokenizer
from train_on_pg19 import train
from train_on_pg19.nll import curves
from train_on_pg19.training import books
from train_on_pg19.training.loss import ROWS

PIECE_TOKENS = 2**17  # of the documents whose NLL is stored at once: seconds of work


@dataclass(frozen=True)
class Settings:
    models: tuple[str, ...]  # folders of train.py, hub ids, local folders or .gguf files
    documents: Path  # folder that prepare_dataset.py wrote, its documents of L tokens or more
    out: Path  # folder for the CSVs
    L: int | None = None  # tokens of a sequence; default: what the first folder of train.py was trained on
    n_documents: int | None = None  # how many documents, drawn at random; default: all (paper: 10,000)
    seed: int = 0  # of the draw of documents
    store: Path | None = None  # folder for the NLL of every token; default: nll in --out
    pairs: tuple[str, ...] = ()  # of gap.csv, model_a:model_b; default: every two models
    bos: str | None = None
    """token to put in front, or its id, for models that are not of train.py; default: the tokenizer's BOS, else EOS"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """of the weights; softmax and sums are float32 and float64"""
    batch_tokens: int = 8192
    """tokens in one pass, at least one sequence: bounds memory, changes no number beyond rounding"""
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps, or split (the layers over all GPUs)

    def validate(self) -> None:
        if not self.models:
            raise UserError("--models: give at least one")
        for name in ("L", "n_documents", "batch_tokens"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: at least 1")


@dataclass(frozen=True)
class EvaluatedModel:
    """A model to be evaluated, before its weights are loaded."""

    name: str
    seed: int
    place: str  # what from_pretrained takes
    config: PreTrainedConfig
    steps: int | None  # of training; None: not of train.py
    run: dict[str, Any] | None  # run.json, of a folder of train.py

    @property
    def settings(self) -> dict[str, Any]:
        """Of its training."""
        return self.run["identity"]["settings"] if self.run else {}


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
    """UserError: models of one name that differ in more than their seed, which would pass for seeds of one model."""
    for before, this in itertools.combinations(candidates, 2):
        one, other = ({**of.settings, "the step they stand at": of.steps} for of in (before, this))
        keys = [key for key in one if one[key] != other.get(key)]
        if before.name == this.name and keys != ["seed"]:
            how = f"differ in {', '.join(keys)}" if keys else "are the same"
            raise UserError(f"--models: two runs of {this.name} {how}, not in the seed alone: evaluate them apart")


def choose_documents(cfg: Settings, candidates: Sequence[EvaluatedModel], documents: Dataset, L: int) -> np.ndarray:
    """Numbers of the documents, ascending, none of which repeats another or one that the runs were trained on.

    UserError: runs that held out different books, or none of these.
    """
    runs = [candidate for candidate in candidates if candidate.run]
    held_out = {tuple(candidate.run["held_out_books"]) for candidate in runs}
    if len(held_out) > 1:
        raise UserError("--models: these runs held out different books, so none is new to all: evaluate them apart")
    if runs:
        # What a run was trained on may equal a held-out document in the run's own L tokens and differ after them.
        L = min(L, *(candidate.settings["L"] for candidate in runs))
        others, rows = books.split(documents, held_out.pop(), L)
    else:
        rows, others = books.split(documents, [], L)
    if not len(rows):
        raise UserError(f"{cfg.documents} has none of the books that the runs held out: give other --documents")
    if repeats := len(documents) - len(rows) - len(others):
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
        extent = pc.min_max(pc.list_flatten(documents.data.column("input_ids"))).as_py()
        extent = extent["min"], extent["max"]
        return pretrained.start_token(candidate.place, config, cfg.bos, cfg.documents, facts, extent)[0]
    theirs = candidate.run["tokenizer_hash"], config.bos_token_id  # the start token is the id past the tokenizer's own
    if (facts.get("tokenizer_hash"), facts["tokenizer_vocab_size"]) != theirs:
        trained = f"{candidate.name} was trained on tokens of {candidate.run['tokenizer']}"
        raise UserError(f"{cfg.documents}: tokenised with {facts['tokenizer']}, and {trained}: give such --documents")
    return config.bos_token_id


@torch.inference_mode()
def nll_of(model: PreTrainedModel, input_ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """−ln q of each target given what is before it, nats, (batch, L) float32.

    input_ids, targets: (batch, L), where targets[:, t] follows input_ids[:, : t + 1].
    """
    logits = model(input_ids=input_ids.to(model.device), use_cache=False).logits.flatten(0, 1)
    rows = zip(logits.split(ROWS), targets.flatten().to(logits.device).split(ROWS), strict=True)
    nll = [functional.cross_entropy(part.float(), wanted, reduction="none") for part, wanted in rows]
    return torch.cat(nll).view(targets.shape)


def measured(
    cfg: Settings, candidate: EvaluatedModel, sequences: books.Sequences, pieces: Pieces, digest: str
) -> Iterator[np.ndarray]:
    """The NLL of the documents in their order, (some, L) float32 at a time; what `pieces` lack is computed.

    digest: what the keys of the pieces begin with. UserError: NLL not finite, a batch that does not fit.
    """
    size, batch = max(1, PIECE_TOKENS // sequences.L), max(1, cfg.batch_tokens // sequences.L)
    model = None
    with tqdm(total=len(sequences), unit="document", desc=candidate.name) as bar:
        for first in range(0, len(sequences), size):
            rows, key = range(first, min(first + size, len(sequences))), f"{digest}-{first // size:06d}"
            if not pieces.done(key):
                model = model or pretrained.load_model(candidate.place, cfg.dtype, pretrained.find_device(cfg.device))
                try:
                    batches = DataLoader(Subset(sequences, rows), batch)
                    nll = torch.cat([nll_of(model, one["input_ids"], one["targets"]).cpu() for one in batches]).numpy()
                except torch.OutOfMemoryError as error:
                    what = f"{candidate.name}: {batch} sequences of {sequences.L:,} tokens at a time do not fit memory"
                    raise UserError(f"{what}: lower --batch-tokens, or give --dtype bfloat16") from error
                if not np.isfinite(nll).all():
                    raise UserError(f"{candidate.name}: its NLL is not finite: try --dtype float32, or train it again")
                pieces.write(key, {"nll": nll})
            yield pieces.read(key, {"nll": (len(rows), sequences.L)})["nll"]
            bar.update(len(rows))


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


def tables_of(
    candidate: EvaluatedModel, L: int, sums: np.ndarray, documents: np.ndarray, text: np.ndarray | None
) -> dict[str, pd.DataFrame]:
    """Rows of the first three CSVs. sums: (books, L) NLL; documents, text: (books,) documents, and bytes, of each."""
    seed, of, totals = {"seed": candidate.seed}, curves.windows(L), sums.sum(axis=1)

    def curve(before: dict[str, Any], values: np.ndarray, digits: int, after: dict[str, Any]) -> pd.DataFrame:
        mean, error = curves.mean_by_book(values, documents)
        nll = {"nll_nats": mean.round(digits), "stderr_nats": error.round(digits), "n_documents": documents.sum()}
        return pd.DataFrame({"model": candidate.name, "L": L} | before | nll | after)

    middle = {"first": of[:, 0], "last": of[:, 1], "position": curves.centres(of).round(2)}
    bits = (np.nan, np.nan) if text is None else curves.mean_by_book(totals / np.log(2), text)
    more = {"n_books": len(documents), "bits_per_byte": np.round(bits[0], 6)}
    more |= {"bits_per_byte_stderr": np.round(bits[1], 6), "kind": candidate.config.model_type}
    with torch.device("meta"):  # an embedding that is the head's too counts once
        more["parameters"] = AutoModelForCausalLM.from_config(candidate.config).num_parameters()
    return {
        "nll": curve({"position": np.arange(1, L + 1)}, sums, 5, seed),
        "smooth": curve(seed | middle, curves.over_windows(sums, of), 6, {}),
        "summary": curve(seed, totals[:, None] / L, 6, more | {"steps": candidate.steps}),
    }


def wanted_pairs(cfg: Settings, names: Sequence[str]) -> list[tuple[str, str]]:
    """UserError: a pair of models that are not evaluated."""
    models = sorted(set(names))
    known = {f"{a}:{b}": (a, b) for a, b in itertools.permutations(models, 2)}
    for pair in cfg.pairs:
        if pair not in known:
            raise UserError(f"--pairs {pair}: give model_a:model_b, two of {', '.join(models)}")
    return [known[pair] for pair in cfg.pairs] or list(itertools.combinations(models, 2))


def gap_tables(
    pairs: list[tuple[str, str]], L: int, sums: dict[str, list[np.ndarray]], documents: np.ndarray
) -> dict[str, pd.DataFrame]:
    """gap.csv and crossover.csv. sums: of each model one (books, windows) array a seed; documents: (books,)."""
    of = curves.windows(L)
    positions, gaps, crossings = curves.centres(of), [], []
    for a, b in pairs:
        pair = {"model_a": a, "model_b": b, "L": L}
        number = {"n_documents": documents.sum(), "n_books": len(documents)}
        number |= {"seeds_a": len(sums[a]), "seeds_b": len(sums[b])}
        found = curves.gap(sums[a], sums[b], documents)
        columns = {"first": of[:, 0], "last": of[:, 1], "position": positions.round(2), "gap_nats": found.gap.round(6)}
        columns |= {"stderr_nats": found.error.round(6), "lo95": found.lo95.round(6), "hi95": found.hi95.round(6)}
        gaps.append(pd.DataFrame(pair | columns | number))
        where = curves.crossover(found, positions)
        at = {"overtakes_at": round(where.position, 3), "lo95": round(where.lo95, 3), "hi95": round(where.hi95, 3)}
        leader, other = (b, a) if found.gap[-1] > 0 else (a, b)
        crossings.append(pair | {"leads_at_the_end": leader if found.gap[-1] else ""} | at | number)
        since = f"from position {where.position:.4g} on" if where.direction else "everywhere"
        print(f"{leader} leads {other} {since}; by {abs(found.gap[-1]):.3g} nats a token in the last window")
    return {"gap": pd.concat(gaps), "crossover": pd.DataFrame(crossings)} if pairs else {}


def main(cfg: Settings) -> None:
    started = time.time()
    cfg.validate()
    candidates = [find_model(model) for model in cfg.models]
    same_training(candidates)
    pairs = wanted_pairs(cfg, [candidate.name for candidate in candidates])
    L = cfg.L or next((candidate.settings["L"] for candidate in candidates if candidate.run), None)
    if L is None:
        raise UserError("--L: say how many tokens of each document, as no model is a folder of train.py")
    documents, facts = books.open_books(cfg.documents, L)
    rows = choose_documents(cfg, candidates, documents, L)
    starts = [start_of(cfg, candidate, L, documents, facts) for candidate in candidates]
    chosen, names = documents.select(rows), books.book_of_each(documents)[rows]
    documents_of_book = curves.counts(names)
    print(f"{len(rows):,} documents of {len(documents_of_book):,} books, {L:,} tokens each")
    of = {"documents": books.fingerprint(cfg.documents), "names": list(chosen["document"]), "L": L}
    pieces = Pieces(cfg.store or cfg.out / "nll", of)

    def sequences(start: int) -> books.Sequences:
        return books.Sequences(chosen, np.arange(len(rows)), L, facts["tokenizer_vocab_size"], start)

    text = bytes_of_text(sequences(0), facts)
    of_book = None if text is None else curves.book_sums(text[:, None], names)[:, 0]
    tables, windows, weights = defaultdict(list), defaultdict(list), []
    for candidate, start in zip(candidates, starts, strict=True):
        weights.append(pretrained.model_fingerprint(candidate.place))
        made_by = [candidate.name, weights[-1], getattr(candidate.config, "_commit_hash", None), start, cfg.dtype]
        digest = hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:16]
        blocks = measured(cfg, candidate, sequences(start), pieces, digest)
        sums = curves.book_sums(itertools.chain.from_iterable(blocks), names)
        windows[candidate.name].append(curves.over_windows(sums, curves.windows(L)))
        for name, table in tables_of(candidate, L, sums, documents_of_book, of_book).items():
            tables[name].append(table)
        mean, error = tables["summary"][-1].loc[0, ["nll_nats", "stderr_nats"]]
        print(f"{candidate.name}, seed {candidate.seed}: {mean:.4g} ± {error:.2g} nats a token")
    done = {name: pd.concat(parts) for name, parts in tables.items()}
    done["summary"] = done["summary"].assign(dtype=cfg.dtype, source=facts["source"])
    done |= gap_tables(pairs, L, windows, documents_of_book)
    about = {"tokenizer": facts["tokenizer"], "source": facts["source"], "weights": weights}
    about |= {"device": pretrained.find_device(cfg.device)}
    for name, table in done.items():
        write_csv(cfg.out / f"{name}.csv", table, cfg, [cfg.documents / "state.json"], started, **about)


if __name__ == "__main__":
    run(main, Settings, __doc__)
