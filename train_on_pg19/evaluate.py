r"""NLL of causal models on books, position by position (Fig. 4, G.9): models + documents → nll.csv.

    python train_on_pg19/evaluate.py --models runs/gpt2_4096 runs/mamba-130m_4096 --out results/fig4 \\
        --documents data/documents/pg19_4096
    python train_on_pg19/evaluate.py --models EleutherAI/pythia-160m --documents data/documents/pg19_4096 --L 2048 \\
        --out results/mine                                      # any causal model of the hub, folder or GGUF file

All models of one call get the same documents: of the books that were held out from folders of train.py, or without
such a folder of all books. Runs of train.py are compared after as many tokens of training, at the end of the last
cosine that all of them have come to. Writes into --out:
    nll.csv          a row for each position i: nll_nats = −ln q(W_i | W_<i, start), the mean over documents, by seed
    smooth.csv       the same over windows of positions first … last, a quarter of a doubling wide, also in nats per
                     byte (nats_per_unit), and after how many bytes of a document the window lies (position_units)
    summary.csv      a row for each model and seed: the mean over all positions; kind, the type of model; its parameters
    books.csv        the same for each book
    gap.csv          a row for each pair and window: gap_nats = loss of model_a − loss of model_b on the same documents,
                     above 0 where model_b is better, with its 95% interval over books, and over seeds if a model has
                     several (seeds_a, seeds_b)
    crossover.csv    a row for each pair: the model that leads at the last positions, and the byte from which it leads
                     (overtakes_at; empty if the other leads nowhere). Up to lo95 the other model leads
                     significantly, from hi95 on this one; empty where neither is significant
    gains.csv        a row for each model, number c of --contexts and doubling of the position: gain_nats, the loss of
                     the model with the last c to 2c − 1 tokens only, less its loss with all of them, and growth_nats,
                     the gain less that in the doubling before
    gain_gaps.csv    the same for each pair: the gain of model_a less that of model_b
    information.csv  a row for each model, seed and ℓ: I(ℓ; 2ℓ) by block entropy, NLL of the first ℓ tokens less that
                     of the next
    tokens.csv       a row for each run of train.py and end of a cosine: the loss against the tokens it was trained on;
                     fell_nats, by how much it fell since the end before; late_gain_nats, what all of the context gains
                     over the last --reach tokens in the last doubling of the position
    token_gaps.csv   the same for each pair and doubling of the position: gap_nats, and gain_gap_nats, by how much more
                     model_a gains over the last --reach tokens
All but nll_nats and mi_nats is in nats per byte of text, or per token where the documents have no text (column `unit`),
with standard errors of the sums by book. The NLL of every token is kept in --store (4 bytes each) and not computed
again, so a killed run continues where it stopped.

Memory: activations and logits of batch_tokens tokens. Expect the NLL to fall quickly over the first positions and
slowly later. The paper: Mamba leads early positions, GPT2 the late ones, and the gap closes as models grow.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
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

from common import pretrained, training
from common.cli import UserError, run
from common.record import printable, write_csv
from common.resume import Pieces
from common.tokenizer import load_tokenizer
from train_on_pg19 import train
from train_on_pg19.nll import curves, tables
from train_on_pg19.training import books
from train_on_pg19.training.loss import ROWS

PIECE_TOKENS = 2**17  # of the documents of a book whose NLL is stored at once, at most: seconds of work


@dataclass(frozen=True, kw_only=True)
class Settings(books.Choice):
    models: tuple[str, ...]  # folders of train.py, hub ids, local folders or .gguf files
    documents: Path  # folder that prepare_dataset.py wrote, its documents of L tokens or more
    out: Path  # folder for the CSVs
    L: int | None = None  # tokens of a sequence; default: what the first folder of train.py was trained on
    store: Path | None = None  # folder for the NLL of every token; default: nll in --out
    pairs: tuple[str, ...] = ()  # of gap.csv, model_a:model_b; default: every two models
    contexts: tuple[int, ...] = (8, 64, 512)
    """tokens, powers of two, of gains.csv; above a quarter of --L none is used. Each takes as long as two passes"""
    reach: int = 64
    """tokens: of --contexts this one, or the greatest below it, is measured at the end of every cosine, too"""
    bos: str | None = None
    """token to put in front, or its id, for models that are not of train.py; default: the tokenizer's BOS, else EOS"""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "auto"
    """of the weights; softmax and sums are float32 and float64. auto: float32 for models of train.py, for others
    bfloat16 on a processor (AVX512-BF16, AMX) or GPU that computes in it"""
    batch_tokens: int = 8192
    """tokens in one pass, at least one sequence: bounds memory, changes no number beyond rounding"""
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps, or split (the layers over all GPUs)

    def validate(self) -> None:
        if not self.models:
            raise UserError("--models: give at least one")
        for name in ("L", "batch_tokens"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: at least 1")
        for context in self.contexts:
            if context < 1 or context & (context - 1):
                raise UserError(f"--contexts {context}: a power of two")
        super().validate()


@dataclass(frozen=True)
class Candidate:
    """A model to be evaluated, before its weights are loaded."""

    name: str
    seed: int
    place: str  # what from_pretrained takes
    config: PreTrainedConfig
    run: dict[str, Any] | None = None  # run.json, of a folder of train.py
    tokens: int = 0  # of training; 0: not of train.py
    places: dict[int, str] = field(default_factory=dict)  # at the end of each cosine, by tokens of training

    @property
    def steps(self) -> int | None:
        """Of training."""
        return self.tokens // self.settings["batch_tokens"] if self.run else None

    @property
    def settings(self) -> dict[str, Any]:
        """Of its training."""
        return self.run["identity"]["settings"] if self.run else {}


def find_model(model: str) -> Candidate:
    """UserError: a folder of train.py without a checkpoint, a damaged one, or a model that cannot be had."""
    folder = Path(model)
    if not (folder / train.RUN).is_file():
        name = printable(folder.name) if folder.exists() else model
        return Candidate(name, 0, model, pretrained.load_config(model))
    record = train.read_run(folder)
    settings, saved = record["identity"]["settings"], train.checkpoints(folder)
    if not saved:
        raise UserError(f"{folder} has no checkpoint yet: let train.py come to its first one")
    step, ends = max(saved), training.cosine_ends(record["steps"], 30)
    kept = [one for one in saved if one in ends]
    if step not in ends:
        later = next(end for end in ends if end > step)
        how = "taken at the end of the one before" if kept else "evaluated as it is"
        print(f"{folder} stands at step {step:,}, amid a cosine that ends at {later:,}: {how}")
    places = {one * settings["batch_tokens"]: str(saved[one]) for one in kept or [step]}
    config = pretrained.load_config(str(saved[step]))
    return Candidate(settings["model"], settings["seed"], "", config, record, 0, places)


def after_as_many_tokens(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Runs of train.py as they are after the last number of tokens that all of them have in `places`, or each after its
    own last one where there is none."""
    runs = [set(candidate.places) for candidate in candidates if candidate.run]
    shared = set.intersection(*runs) if runs else set()
    found = []
    for one in candidates:
        tokens = max(shared or one.places, default=0)
        if one.run and tokens < max(one.places):
            print(f"{one.name}, seed {one.seed}: has gone on, and is compared after {tokens:,} tokens, as others are")
        found.append(replace(one, tokens=tokens, place=one.places[tokens]) if one.run else one)
    return found


def same_training(candidates: Sequence[Candidate]) -> None:
    """UserError: models of one name that differ in more than their seed, which would pass for seeds of one model."""
    for before, this in itertools.combinations(candidates, 2):
        one, other = ({**of.settings, "the step they stand at": of.steps} for of in (before, this))
        keys = [key for key in one if one[key] != other.get(key)]
        if before.name == this.name and keys != ["seed"]:
            how = f"differ in {', '.join(keys)}" if keys else "are the same"
            raise UserError(f"--models: two runs of {this.name} {how}, not in the seed alone: evaluate them apart")


def choose_documents(cfg: Settings, candidates: Sequence[Candidate], documents: Dataset, L: int) -> np.ndarray:
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


def nll_with_last(model: PreTrainedModel, ids: torch.Tensor, start: int, context: int, rows: int) -> torch.Tensor:
    """The NLL of each token from number 2 · context on given the last `context` to 2 · context − 1 tokens and a start.

    ids: (batch, L). Segments of 2 · context tokens, at each multiple of context, of which the second half counts;
    `rows` of them in one pass. Returns (batch, L − 2 · context), without what does not fill a segment. Afterwards the
    model is slow on longer sequences (see chunk_size).
    """
    for module in model.modules():  # Mamba2 pads to whole chunks, which only take time
        if hasattr(module, "chunk_size"):
            module.chunk_size = min(model.config.chunk_size, 2 * context)
    segments = ids.unfold(1, 2 * context, context)[:, 1:]  # the first one has all that there is
    flat = segments.flatten(0, 1)
    given = torch.cat([torch.full_like(flat[:, :1], start), flat[:, :-1]], dim=1)
    parts = zip(given.split(rows), flat.split(rows), strict=True)
    return torch.cat([nll_of(model, one, wanted)[:, context:].cpu() for one, wanted in parts]).view(len(ids), -1)


def in_pieces(documents: Dataset, size: int) -> Iterator[tuple[range, np.ndarray]]:
    """The documents in their order, at most `size` of one book at a time: their numbers and names."""
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
    """The NLL of the documents in their order, (some, L) float32 at a time; what `pieces` lack is computed.

    load: gives the model. digest: what the keys of the pieces begin with; they end with a hash of the documents' names,
    so another choice of books finds what it has in common with this one. context: see `nll_with_last`, 0 for all of
    it; 0 nats stand where there is no such NLL. UserError: NLL not finite, a batch that does not fit.
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


def text_of(sequences: books.Sequences, facts: dict[str, Any], names: np.ndarray) -> tables.Text:
    """Bytes of UTF-8 that the first tokens of the documents stand for, as far as the tables ask.

    A character that is cut counts as the three bytes of U+FFFD. Without its tokenizer there are no bytes.
    """
    L, names_of, documents = sequences.L, *np.unique(names, return_counts=True)
    doublings = curves.doublings(L, 1)
    ends = np.unique([0, 1, L, *curves.windows(L)[:, 1], *doublings[:, 1], *(doublings[:, 0] - 1)])
    if facts["tokenizer"] == "bytes":
        return tables.Text(L, names_of, documents, ends, np.multiply.outer(documents, ends).astype(float))
    try:
        tokenizer = load_tokenizer(facts["tokenizer"])
    except UserError as error:
        print(f"no nats per byte: {error}")
        return tables.Text(L, names_of, documents)
    ids = (sequences[row]["targets"].tolist() for row in range(len(sequences)))
    rows = (np.array([len(tokenizer.text(one[:end]).encode("utf-8", "replace")) for end in ends]) for one in ids)
    return tables.Text(L, names_of, documents, ends, curves.book_sums(rows, names))


def dtype_of(cfg: Settings, candidate: Candidate) -> str:
    if cfg.dtype != "auto":
        return cfg.dtype
    return "float32" if candidate.run else pretrained.find_dtype(pretrained.find_device(cfg.device))


def parameters(config: PreTrainedConfig) -> int:
    with torch.device("meta"):  # an embedding that is the head's too counts once
        return AutoModelForCausalLM.from_config(config).num_parameters()


def wanted_pairs(cfg: Settings, names: Sequence[str]) -> list[tuple[str, str]]:
    """UserError: a pair of models that are not evaluated."""
    models = sorted(set(names))
    known = {f"{a}:{b}": (a, b) for a, b in itertools.permutations(models, 2)}
    for pair in cfg.pairs:
        if pair not in known:
            raise UserError(f"--pairs {pair}: give model_a:model_b, two of {', '.join(models)}")
    return [known[pair] for pair in cfg.pairs] or list(itertools.combinations(models, 2))


def evaluate(
    cfg: Settings,
    candidate: Candidate,
    sequences: books.Sequences,
    names: np.ndarray,
    pieces: Pieces,
    contexts: list[int],
    reach: int | None,
) -> tuple[dict[int, tables.Evaluated], str]:
    """The model in each of its places by its tokens of training, and the hash of the weights after `candidate.tokens`.

    These have the NLL with each of the contexts, the others with `reach`, if it is not None.
    """
    dtype, found, chosen = dtype_of(cfg, candidate), {}, ""
    for tokens, place in (candidate.places or {0: candidate.place}).items():
        weights = pretrained.model_fingerprint(place)
        made_by = [candidate.name, weights, getattr(candidate.config, "_commit_hash", None), sequences.start, dtype]
        digest = hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:16]

        load = lru_cache(1)(partial(pretrained.load_model, place, dtype, pretrained.find_device(cfg.device)))
        sums = {}
        wanted = contexts if tokens == candidate.tokens else [reach] * bool(reach)
        for context in (0, *wanted):  # all of it first: see nll_with_last
            parts = measured(cfg, candidate.name, load, sequences, pieces, digest, context)
            sums[context] = curves.book_sums(itertools.chain.from_iterable(parts), names)
        found[tokens] = tables.Evaluated(candidate.name, candidate.seed, sums.pop(0), sums)
        chosen = weights if tokens == candidate.tokens else chosen
    return found, chosen


def main(cfg: Settings) -> None:
    started = time.time()
    cfg.validate()
    candidates = after_as_many_tokens([find_model(model) for model in cfg.models])
    same_training(candidates)
    pairs = wanted_pairs(cfg, [candidate.name for candidate in candidates])
    L = cfg.L or next((candidate.settings["L"] for candidate in candidates if candidate.run), None)
    if L is None:
        raise UserError("--L: say how many tokens of each document, as no model is a folder of train.py")
    documents, facts = books.open_books(cfg.documents, L)
    rows = choose_documents(cfg, candidates, documents, L)
    starts = [start_of(cfg, candidate, L, documents, facts) for candidate in candidates]
    chosen, names = documents.select(rows), books.book_of_each(documents)[rows]
    print(f"{len(rows):,} documents of {len(np.unique(names)):,} books, {L:,} tokens each")
    pieces = Pieces(cfg.store or cfg.out / "nll", {"documents": books.fingerprint(cfg.documents), "L": L})
    of_start = {
        start: books.Sequences(chosen, np.arange(len(rows)), L, facts["tokenizer_vocab_size"], start)
        for start in {0, *starts}
    }
    text = text_of(of_start[0], facts, names)
    contexts = [c for c in cfg.contexts if 4 * c <= L]
    reach = max((c for c in contexts if c <= cfg.reach), default=None)
    done, models, ends, weights = defaultdict(list), defaultdict(list), defaultdict(list), []
    for candidate, start in zip(candidates, starts, strict=True):
        found, made_of = evaluate(cfg, candidate, of_start[start], names, pieces, contexts, reach)
        one = found[candidate.tokens]
        models[candidate.name].append(one)
        weights.append(made_of)
        facts_of = {"kind": candidate.config.model_type, "parameters": parameters(candidate.config)}
        facts_of |= {"steps": candidate.steps, "dtype": dtype_of(cfg, candidate), "source": facts["source"]}
        done["nll"].append(tables.by_position(one, text))
        done["smooth"].append(tables.smooth(one, text))
        done["summary"].append(tables.summary(one, text, **facts_of))
        done["books"].append(tables.by_book(one, text))
        done["information"].append(tables.information(one, text))
        if candidate.run:
            ends[candidate.name].append(found)
            done["tokens"].append(tables.tokens(found, reach, text))
        mean, error = done["summary"][-1].loc[0, ["nll_nats", "stderr_nats"]]
        print(f"{candidate.name}, seed {candidate.seed}: {mean:.4g} ± {error:.2g} nats per token")
    for model in models.values():
        if contexts:
            done["gains"].append(tables.gains(model, text))
    for a, b in pairs:
        if contexts:
            done["gain_gaps"].append(tables.gain_gaps(models[a], models[b], text))
        if ends[a] and ends[b] and len(table := tables.token_gaps(ends[a], ends[b], reach, text)):
            done["token_gaps"].append(table)
        gap, crossing = tables.gap(models[a], models[b], text)
        done["gap"].append(gap)
        done["crossover"].append(crossing)
        at, leader = crossing.loc[0, "overtakes_at"], crossing.loc[0, "leads_at_the_end"]
        by = f"by {abs(gap['gap_nats'].iloc[-1]):.3g} nats a {text.unit} in the last window"
        print(f"{leader} leads {f'from {text.unit} {at:.4g} on' if at == at else 'everywhere'}; {by}")
    about = {"tokenizer": facts["tokenizer"], "source": facts["source"], "weights": weights}
    about |= {"device": pretrained.find_device(cfg.device)}
    for name, parts in done.items():
        write_csv(cfg.out / f"{name}.csv", pd.concat(parts), cfg, [cfg.documents / "state.json"], started, **about)


if __name__ == "__main__":
    run(main, Settings, __doc__)
