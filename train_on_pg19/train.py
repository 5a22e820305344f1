r"""Train a model on books from scratch (Fig. 4, G.9; App. F.II, F.III).

    python measure_mutual_info/prepare_dataset.py --corpus emozilla/pg19 --streaming --min-tokens 4916 \
        --tokenizer EleutherAI/gpt-neox-20b --out data/documents/pg19_4096
    python train_on_pg19/train.py --model gpt2 --L 4096 --documents data/documents/pg19_4096 --out runs/gpt2_4096
    torchrun --nproc-per-node 4 train_on_pg19/train.py …         # one process per GPU, the same steps; --fsdp to shard
    accelerate launch train_on_pg19/train.py …                   # the same, as `accelerate config` has it

A fraction of the books is held out for evaluation, always whole books. common/training.py has the training loop and
describes what it writes into --out; nll_nats in log.csv is the mean per token since the previous row. In addition:
    run.json        also holds the tokenizer and the names of the held-out books
    checkpoint-N    the model after N steps, as transformers saves it: the latest, and those at the end of a cosine

The paper: 5 epochs of 16,384 tokens per step, about 475,000 steps. Expect nll_nats to start at the logarithm of the
vocabulary size, 10.8 for GPT-NeoX, and to fall quickly at first, as the model learns which tokens are frequent.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_pt_utils import get_parameter_names
from transformers.utils import logging

from common import training
from common.cli import UserError, at_least, run
from common.resume import RESUME_OK, identity, refuse_other
from common.tokenizer import NAMED
from common.training import RUN
from train_on_pg19.nll import sums
from train_on_pg19.training import books, models

# Biases and norms, as the transformers Trainer identifies them.
UNDECAYED = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]


@dataclass(frozen=True, kw_only=True)
class Settings(training.Settings):
    documents: Path = field(metadata=RESUME_OK)
    """folder that prepare_dataset.py wrote, with documents of L tokens or more (paper: about 1.2 L)"""
    L: int = 4096  # tokens per sequence (paper: 4,096 and 8,192)
    epochs: float = 5.0  # passes over all sequences, except the last ones that do not fill a whole step
    steps: int | None = None  # not in the paper: instead of --epochs, so that two lengths get the same tokens
    batch_tokens: int = 16_384  # tokens per step, over all processes and micro-batches; a multiple of L
    held_out: float = 0.03
    """not in the paper: share of the books held out for evaluation (the paper's 10,000 samples are about 3% of PG19)"""
    split_seed: int = 0  # seed for choosing the held-out books; independent of --seed
    held_out_books: tuple[str, ...] = ()
    """not in the paper: names of the books to hold out, or patterns of names ("held_out/*"), instead of --held-out"""
    vocab: int | None = None
    """rows of the embedding; default: ids and a start token, rounded up to a multiple of 256 (paper: 50,432)"""
    clip: float | None = 1.0  # not in the paper: maximum norm of the gradient; None: no limit
    losses: Path | None = field(default=None, metadata=RESUME_OK)
    """CSV of evaluate.py; if it has the losses of this training at its last step, no new run is started"""

    def validate(self) -> None:
        at_least(1, self, "L", "batch_tokens")
        if self.epochs <= 0 or (self.steps is not None and self.steps < 1):
            raise UserError(f"--epochs {self.epochs}, --steps {self.steps}: must be above 0")
        if not 0 < self.held_out < 1:
            raise UserError(f"--held-out {self.held_out}: a share of the books between 0 and 1")
        if self.batch_tokens % self.L:
            raise UserError(f"--batch-tokens {self.batch_tokens}: must be a multiple of --L {self.L}")
        super().validate()

    @property
    def batch(self) -> int:
        """Sequences per step."""
        return self.batch_tokens // self.L


# What --preset sets instead of the paper's values above. {L: value}: by length, see common.cli.parse.
SMALL = {"held_out": 0.2, "log_every": 50, "checkpoint_every": 100}
# For one H200 (gpu) and two cores (cpu). Muon has five times AdamW's rate (results/benchmarks/training_books.csv). Each
# restart takes twice as many steps as the cosine before, to measure what more tokens change (tokens.csv of compare.py).
MUON = {"optimizer": "muon", "learning_rate": 8e-3, "precision": "bf16", "warmup": 100}
PRESETS = {
    "paper": {},
    "gpu": SMALL | MUON | {"batch_tokens": 16_384, "steps": 600, "restarts": 1},
    # 24.6 million tokens in all.
    "cpu": SMALL | MUON | {"batch_tokens": 4096, "steps": 400, "restarts": 3},
    "smoke": MUON
    | {"batch_tokens": {128: 512, 256: 1024}, "steps": 10, "warmup": 2, "restarts": 1}
    | {"held_out": 0.34, "log_every": 5, "checkpoint_every": 10},
}


def read_run(folder: Path) -> dict[str, Any]:
    """run.json: `identity`, `held_out_books`, `steps`, `versions`, and of the documents `source`, `tokenizer` and
    `tokenizer_hash`. UserError: it is missing or damaged."""
    path = folder / RUN
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        _ = [found[name] for name in ("held_out_books", "steps", "tokenizer", "tokenizer_hash")]
        _ = [found["identity"][name] for name in ("settings", "configuration", "documents")]
    except FileNotFoundError as error:
        raise UserError(f"no file {path}: give the folder of a run of train.py") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not of train.py, or damaged: train again in another --out") from error
    return found


def shared_by_seeds(settings: dict[str, Any], documents: str, held_out_books: Sequence[str]) -> dict[str, Any]:
    """What all seeds of one training have in common: settings, fingerprint of the documents, held-out books.

    The configuration is left out: it follows from the model's name, and versions of transformers write it differently.
    """
    same = {name: value for name, value in settings.items() if name != "seed"}
    return same | {"documents": documents, "held_out_books": list(held_out_books)}


def evaluated(cfg: Settings, of: training.Task) -> bool:
    """Whether --out has no run yet and --losses already has the losses at the last step of this training.

    UserError: the losses are of another training, or damaged.
    """
    if cfg.losses is None or not cfg.losses.exists() or (cfg.out / RUN).exists():
        return False
    found = sums.read(cfg.losses)
    wanted = shared_by_seeds(identity(cfg), of.identity["documents"]["fingerprint"], of.facts["held_out_books"])
    there, here = {"seed": found.seed, **found.facts["training"]}, {"seed": cfg.seed, **wanted}
    refuse_other(there, here, cfg.losses, "name another --losses, or delete it to train again")
    return training.cosine_ends(of.steps, cfg.restarts)[-1] * cfg.batch_tokens in found.ends


def checkpoints(folder: Path) -> dict[int, Path]:
    """The folders of the saved models, by number of steps, ascending."""
    found = {path: re.fullmatch(r"checkpoint-(\d+)", path.name) for path in folder.glob("checkpoint-*")}
    return dict(sorted((int(of[1]), path) for path, of in found.items() if of))


def undecayed(model: torch.nn.Module) -> set[str]:
    """Names of the parameters without weight decay: biases and norms."""
    names = {name for name, _ in model.named_parameters()}
    return names - set(get_parameter_names(model, [torch.nn.LayerNorm], UNDECAYED))


def task(cfg: Settings, device: torch.device) -> training.Task:
    """The model of these settings, the sequences of each step, and their loss.

    UserError: unknown model; documents that are missing, too short or too few, or cannot be split by book.
    """
    documents, facts = books.open_books(cfg.documents, cfg.L)
    held_out = books.held_out_books(documents, cfg.held_out, cfg.split_seed, cfg.held_out_books)
    rows, others = books.split(documents, held_out, cfg.L)
    repeats = len(documents) - len(rows) - len(others)
    if len(rows) < cfg.batch:
        raise UserError(
            f"{cfg.documents} has {len(rows)} sequences to train on, and a step takes {cfg.batch}: give more "
            "documents, a lower --batch-tokens or a lower --held-out"
        )
    steps, ids = cfg.steps or math.ceil(cfg.epochs * (len(rows) // cfg.batch)), facts["tokenizer_vocab_size"]
    ends = training.cosine_ends(steps, cfg.restarts)
    torch.manual_seed(cfg.seed)
    model = models.build(cfg.model, ids, cfg.L, cfg.vocab)
    if facts["tokenizer"] in NAMED:  # a checkpoint has no tokenizer files to tell this
        model.config.tokenizer = facts["tokenizer"]
    # The last documents that do not fill a whole step are left out, so that all steps have the same size.
    rows = rows[: len(rows) // cfg.batch * cfg.batch]
    sequences = books.Sequences(documents, rows, cfg.L, ids, model.config.bos_token_id)

    @lru_cache(1)
    def order(epoch: int) -> torch.Tensor:
        return torch.randperm(len(rows), generator=torch.Generator().manual_seed(cfg.seed + epoch))

    def draw(step: int) -> list[torch.Tensor]:
        epoch, at = divmod(step * cfg.batch, len(rows))
        found = [sequences[int(i)] for i in order(epoch)[at : at + cfg.batch]]
        return [torch.stack([one[name] for one in found]).to(device) for name in ("input_ids", "targets")]

    def loss(model: torch.nn.Module, part: Sequence[torch.Tensor]) -> torch.Tensor:
        input_ids, targets = part
        return model(input_ids, targets=targets).loss

    def export(step: int, weights: dict[str, torch.Tensor]) -> None:
        """Write checkpoint-N atomically, then delete older ones except those at the end of a cosine."""
        half, whole = cfg.out / ".checkpoint.tmp", cfg.out / f"checkpoint-{step}"
        for old in (half, whole):
            shutil.rmtree(old, ignore_errors=True)
        model.save_pretrained(half, state_dict=dict(weights))  # save_pretrained empties the dict
        half.replace(whole)
        for old in set(cfg.out.glob("checkpoint-*")) - {whole, *(cfg.out / f"checkpoint-{end}" for end in ends)}:
            shutil.rmtree(old)

    names = books.book_of_each(documents)
    trained = f"{len(rows):,} sequences of {len(set(names[rows])):,} books to train on"
    kept = f"{len(others):,} sequences of {len(set(names[others])):,} books held out"
    notes = [f"{len(rows) * cfg.L:,} tokens in {trained}, {kept}"]
    if repeats:
        notes.append(f"{repeats:,} documents repeat another's first {cfg.L:,} tokens and are left out")
    return training.Task(
        model,
        model.base_model,
        steps,
        cfg.batch,
        cfg.L,
        draw,
        loss,
        "nll_nats",
        undecayed=undecayed(model),
        identity={"documents": {"fingerprint": books.fingerprint(cfg.documents)}},
        facts={"held_out_books": held_out} | {key: facts.get(key) for key in ("source", "tokenizer", "tokenizer_hash")},
        notes=notes,
        export=export,
    )


def main(cfg: Settings) -> None:
    logging.disable_progress_bar()  # shown for the one file of each checkpoint
    with training.processes(cfg) as accelerator:
        of = task(cfg, accelerator.device)
        if evaluated(cfg, of):
            accelerator.print(f"not trained: {cfg.losses} has the losses of this training")
        else:
            training.train(cfg, of, accelerator)


if __name__ == "__main__":
    run(main, Settings, __doc__, PRESETS)
