r"""Train a model on books from scratch, with the Trainer of transformers (Fig. 4, G.9; App. F.II, F.III).

    python measure_mutual_info/prepare_dataset.py --corpus emozilla/pg19 --streaming --min-tokens 4916 \\
        --tokenizer EleutherAI/gpt-neox-20b --out data/documents/pg19_4096
    python train_on_pg19/train.py --model gpt2 --L 4096 --documents data/documents/pg19_4096 --out runs/gpt2_4096
    torchrun --nproc-per-node 4 train_on_pg19/train.py …         # one process a GPU, the same steps; --fsdp to shard
    accelerate launch train_on_pg19/train.py …                   # the same, as `accelerate config` has it

A fraction of the books is held out whole for evaluation. Writes into --out:
    run.json        settings, configuration of the model, the tokenizer, the names of the held-out books
    checkpoint-N    after N steps, the last one only: a model of transformers, and the state of training
    log.csv         step, tokens, nll_nats, learning_rate, tokens_per_second; written with the checkpoint. nll_nats is
                    a token's: the mean over the steps since the row before

The same command continues a killed run from its checkpoint, with the same result. The paper: 5 epochs of
16,384 tokens a step, about 475,000 steps. Expect nll_nats to begin at the logarithm of the vocabulary, 10.8 for
GPT-NeoX's, and to fall quickly at first, as a model learns which tokens are frequent.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
import torch.distributed as dist
from tqdm import tqdm
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging

from common.cli import UserError, run
from common.record import replace_text, versions, write_csv
from common.tokenizer import NAMED
from train_on_pg19.training import books, models

RUN, STATE = "run.json", "trainer_state.json"
LOG = ["step", "tokens", "nll_nats", "learning_rate", "tokens_per_second"]
PREDICT_AFTER = 10.0  # seconds of steps that tell the hours of the others
RESUME_OK = {"resume_ok": True}  # a setting that may differ from those of the run that is resumed


@dataclass(frozen=True)
class Settings:
    model: str
    """a name of models.py"""
    documents: Path = field(metadata=RESUME_OK)
    """folder that prepare_dataset.py wrote, its documents of L tokens or more (paper: about 1.2 L)"""
    out: Path = field(metadata=RESUME_OK)
    """folder of this run"""
    L: int = 4096
    """tokens of a sequence (paper: 4,096 and 8,192)"""
    epochs: float = 5.0
    """times that every sequence is seen, but for the last ones that fill no whole step"""
    batch_tokens: int = 16_384
    """tokens a step, over all processes and micro-batches; a multiple of L"""
    held_out: float = 0.03
    """not in the paper: share of the books left for evaluation (its 10,000 samples are about so much of PG19)"""
    split_seed: int = 0
    """of the choice of the held-out books, the same for every seed"""
    seed: int = 0
    """of the initial weights and of the order of the sequences"""
    vocab: int | None = None
    """rows of the embedding; default: tokenizer's ids and a start token, up to a multiple of 256 (paper: 50,432)"""
    learning_rate: float = 5e-5
    """peak, of AdamW; a cosine to 0 at the last step"""
    warmup: int = 2000
    """steps of linear warm-up"""
    weight_decay: float = 0.01
    """AdamW, on all parameters but biases and norms, as the Trainer has it"""
    clip: float | None = 1.0
    """not in the paper: largest norm of the gradient, the Trainer's own default; None: no bound"""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """tf32: float32 with faster products on a GPU; bf16: products in bfloat16, weights and loss in float32"""
    log_every: int = 100
    """steps a row of log.csv"""
    accumulate: int = field(default=1, metadata=RESUME_OK)
    """not in the paper: micro-batches a step and process, so that less has to fit memory; the steps stay the same"""
    checkpoint_every: int = field(default=2000, metadata=RESUME_OK)
    """steps, a multiple of log_every"""
    gradient_checkpointing: bool = field(default=False, metadata=RESUME_OK)
    """make the activations of each layer again on the way back: a third more time, far less memory"""
    fsdp: bool = False
    """under torchrun: shard weights and optimizer over the GPUs (FSDP), for a model that does not fit one"""
    device: Literal["auto", "cpu"] = field(default="auto", metadata=RESUME_OK)
    """auto: a GPU if there is one; which one, CUDA_VISIBLE_DEVICES says"""

    def validate(self) -> None:
        for name in ("L", "batch_tokens", "accumulate", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: at least 1")
        for name in ("epochs", "learning_rate", "weight_decay", "clip"):
            value = getattr(self, name)
            if value is not None and not (value >= 0 if name == "weight_decay" else value > 0):
                raise UserError(f"--{name.replace('_', '-')} {value}: above 0")
        if not 0 < self.held_out < 1:
            raise UserError(f"--held-out {self.held_out}: a share of the books between 0 and 1")
        if self.batch_tokens % self.L:
            raise UserError(f"--batch-tokens {self.batch_tokens}: a multiple of --L {self.L}")
        if self.checkpoint_every % self.log_every:
            raise UserError(f"--checkpoint-every {self.checkpoint_every}: a multiple of --log-every {self.log_every}")
        if self.warmup < 0:
            raise UserError(f"--warmup {self.warmup}: at least 0")
        if self.fsdp and (world() == 1 or on_cpu(self)):
            raise UserError("--fsdp shards over several GPUs: start it with torchrun where there are some")
        if self.out.exists() and not self.out.is_dir():
            raise UserError(f"--out {self.out} is a file: give a folder")

    @property
    def batch(self) -> int:
        """Sequences a step."""
        return self.batch_tokens // self.L


# What --preset sets in place of the paper's values above. {L: value}: by length, see common.cli.parse.
PRESETS = {
    "paper": {},
    "gpu": {
        "epochs": 5.0,
        "batch_tokens": 8192,
        "learning_rate": 3e-3,
        "warmup": 300,
        "held_out": 0.2,
        "log_every": 50,
        "checkpoint_every": 500,
    },
    "cpu": {  # few tokens a step, and so many steps, which is what a transformer lacks
        "epochs": 0.5,
        "batch_tokens": {512: 2048, 4096: 4096},
        "learning_rate": 5e-3,
        "warmup": 100,
        "held_out": 0.2,
        "log_every": 50,
        "checkpoint_every": 250,
    },
    "smoke": {
        "epochs": 1.0,
        "batch_tokens": {128: 512, 256: 1024},
        "learning_rate": 5e-3,
        "warmup": 2,
        "held_out": 0.34,
        "log_every": 5,
        "checkpoint_every": 10,
    },
}


def world() -> int:
    """Processes of this run, as torchrun says; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def on_cpu(cfg: Settings) -> bool:
    return cfg.device == "cpu" or not torch.cuda.is_available()


def micro_batch(cfg: Settings) -> int:
    """Sequences that a process takes at a time. UserError: the batch cannot be split so."""
    parts = world() * cfg.accumulate
    if cfg.batch % parts:
        raise UserError(
            f"--batch-tokens {cfg.batch_tokens} are {cfg.batch} sequences, in {parts} micro-batches ({world()} "
            f"processes × --accumulate {cfg.accumulate}): give a multiple of {parts} × {cfg.L}"
        )
    return cfg.batch // parts


def number_of_steps(cfg: Settings, sequences: int) -> int:
    """Of the whole run. UserError: no step, or the warm-up has no end."""
    if sequences < cfg.batch:
        raise UserError(
            f"{cfg.documents} has {sequences} sequences to train on, and a step takes {cfg.batch}: give more "
            "documents, a lower --batch-tokens or a lower --held-out"
        )
    steps = math.ceil(cfg.epochs * (sequences // cfg.batch))
    if cfg.warmup >= steps:
        raise UserError(f"--warmup {cfg.warmup}: below the number of steps, {steps} ({cfg.epochs:g} epochs)")
    return steps


def run_identity(cfg: Settings, model: PreTrainedModel) -> dict[str, Any]:
    """What must be the same for a run to go on: settings that change its numbers, the model, the documents."""
    settings = {key.name: getattr(cfg, key.name) for key in fields(cfg) if "resume_ok" not in key.metadata}
    config = {key: value for key, value in model.config.to_dict().items() if key != "transformers_version"}
    of = {"settings": settings, "configuration": config, "documents": {"fingerprint": books.fingerprint(cfg.documents)}}
    # Through JSON and back, so that it compares equal with what is read from disk.
    return json.loads(json.dumps(of, default=str))


def refuse_other_run(cfg: Settings, wanted: dict[str, Any]) -> None:
    """UserError: --out holds something else than this run, and what differs."""
    if not (cfg.out / RUN).exists():
        if cfg.out.exists() and any(path for path in cfg.out.iterdir() if not path.name.startswith(f".{RUN}.")):
            raise UserError(f"{cfg.out} holds files and no {RUN}: give another --out, or empty it")
        return
    found = read_run(cfg.out)["identity"]
    kinds = {"settings": "run", "configuration": "configuration of the model", "documents": "set of documents"}
    for part, kind in kinds.items():
        keys = sorted(found[part].keys() | wanted[part].keys())
        pairs = [(key, found[part].get(key), wanted[part].get(key)) for key in keys]
        differing = [f"{key} {there}, here {here}" for key, there, here in pairs if there != here]
        if differing:
            raise UserError(f"{cfg.out} holds another {kind} ({'; '.join(differing)}): give another --out")


def read_run(folder: Path) -> dict[str, Any]:
    """run.json: `identity`, `held_out_books`, `steps`, `versions`, and of the documents `source`, `tokenizer` and
    `tokenizer_hash`. UserError: none there, or a damaged one."""
    path = folder / RUN
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not {"identity", "held_out_books", "steps", "tokenizer", "tokenizer_hash"} <= found.keys():
            raise ValueError("keys missing")
        if not {"settings", "configuration", "documents"} <= found["identity"].keys():
            raise ValueError("keys missing")
    except FileNotFoundError as error:
        raise UserError(f"no file {path}: give the folder of a run of train.py") from error
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path} is not of train.py, or damaged: train again in another --out") from error
    return found


def last_checkpoint(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    """The last checkpoint that was written to its end, and its trainer_state.json; (None, {}) if there is none."""
    numbers = [int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*") if re.search(r"-\d+$", path.name)]
    for number in sorted(numbers, reverse=True):
        path = folder / f"checkpoint-{number}"
        try:  # the Trainer writes this file last, so a checkpoint without it was cut short
            state = json.loads((path / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(state, dict) and {"global_step", "log_history"} <= state.keys():
            return path, state
    return None, {}


def begin(cfg: Settings, record: dict[str, Any]) -> None:
    """Write run.json, if this run has none yet."""
    cfg.out.mkdir(parents=True, exist_ok=True)
    if not (cfg.out / RUN).exists():
        replace_text(cfg.out / RUN, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def log_table(history: list[dict[str, Any]], cfg: Settings) -> pd.DataFrame:
    """The rows of log.csv, from what the Trainer noted."""
    rows = [
        (row["step"], row["step"] * cfg.batch_tokens, row["loss"], row["learning_rate"], row["tokens_per_second"])
        for row in history
        if "loss" in row
    ]
    return pd.DataFrame(rows, columns=LOG)


def write_log(history: list[dict[str, Any]], cfg: Settings, device: torch.device, started: float) -> None:
    facts = {"device": str(device), "processes": world(), "step": history[-1]["step"]}
    write_csv(cfg.out / "log.csv", log_table(history, cfg), cfg, started=started, **facts)


def mend_log(history: list[dict[str, Any]], cfg: Settings, device: torch.device, started: float) -> None:
    """Write log.csv where it lacks what the checkpoint has: the run was killed between the two."""
    path = cfg.out / "log.csv"
    lines = path.read_bytes().count(b"\n") if path.exists() else 0
    if history and lines != len(log_table(history, cfg)) + 1:
        write_log(history, cfg, device, started)


class Watch(TrainerCallback):
    """Progress, the hours to come, log.csv, and an end to a run that diverges."""

    def __init__(self, cfg: Settings, started: float) -> None:
        self.cfg, self.started, self.predicted = cfg, started, False
        self.bar = tqdm(disable=True)  # until the Trainer knows where it begins
        self.stepped = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        settings = {"total": state.max_steps, "initial": state.global_step, "unit": "step", "desc": self.cfg.model}
        self.bar = tqdm(**settings, disable=not state.is_world_process_zero)
        self.began = self.row_began = time.perf_counter()
        self.row_step = state.global_step

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.stepped = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar.update()
        elapsed = time.perf_counter() - self.began
        if not self.predicted and not self.bar.disable and elapsed > PREDICT_AFTER:
            left = state.max_steps - state.global_step
            hours = left * elapsed / (state.global_step - self.bar.initial) / 3600
            self.bar.write(f"about {hours:.2g} hours for the {left:,} steps to come")
            self.predicted = True
        if state.global_step == state.max_steps:
            control.should_log = True  # steps that make no whole row

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        row = state.log_history[-1]
        if "loss" not in row:  # the summary at the end
            return
        steps, seconds = state.global_step - self.row_step, time.perf_counter() - self.row_began
        row["tokens_per_second"] = round(steps * self.cfg.batch_tokens / seconds, 1)
        if not math.isfinite(row["loss"]):
            raise UserError(self.diverged(f"the loss is not finite in steps {self.row_step + 1} to {row['step']}"))
        # Of a step whose loss was finite; a row comes before the checkpoint of the same step.
        if control.should_save and not all(parameter.isfinite().all() for parameter in model.parameters()):
            raise UserError(self.diverged(f"the weights are not finite at step {row['step']}"))
        self.bar.set_postfix_str(f"{row['loss']:.4g} nats a token, {row['tokens_per_second']:,.0f} tokens/s")
        self.row_began, self.row_step = time.perf_counter(), state.global_step

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            write_log(state.log_history, self.cfg, args.device, self.started)
        self.row_began = time.perf_counter()

    def diverged(self, what: str) -> str:
        good, _ = last_checkpoint(self.cfg.out)
        kept = f"{good} is the last checkpoint" if good else "there is no checkpoint yet"
        return f"{what}; {kept}. Start again in another --out, with a lower --learning-rate or a lower --clip"


def arguments(cfg: Settings, steps: int) -> TrainingArguments:
    """Of the Trainer; joins the group of processes, if there is one. UserError: a GPU without bfloat16."""
    cpu = on_cpu(cfg)
    if cfg.precision == "bf16" and not cpu and not torch.cuda.is_bf16_supported():
        raise UserError(f"--precision bf16: {torch.cuda.get_device_name()} has none, use fp32")
    torch.set_float32_matmul_precision("high" if cfg.precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = cfg.precision == "tf32"
    made = TrainingArguments(
        output_dir=str(cfg.out),
        max_steps=steps,
        per_device_train_batch_size=micro_batch(cfg),
        gradient_accumulation_steps=cfg.accumulate,
        learning_rate=cfg.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=cfg.warmup,
        weight_decay=cfg.weight_decay,
        optim="adamw_torch_fused",
        max_grad_norm=cfg.clip or 0.0,
        bf16=cfg.precision == "bf16",
        gradient_checkpointing=cfg.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if cfg.gradient_checkpointing else None,
        fsdp=cfg.fsdp or None,
        seed=cfg.seed,
        data_seed=cfg.seed,
        logging_steps=cfg.log_every,
        logging_nan_inf_filter=False,  # it would show the loss before in place of one that is not finite
        save_steps=cfg.checkpoint_every,
        save_total_limit=1,
        dataloader_drop_last=True,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
        use_cpu=cpu,
        ddp_backend="gloo" if cpu and world() > 1 else None,
        ddp_find_unused_parameters=False,
    )
    assert made.device is not None  # by which it joins
    made._n_gpu = min(made.n_gpu, 1)  # one process, one GPU: otherwise it would split the batch over all it sees
    return made


def optimize(
    cfg: Settings,
    model: PreTrainedModel,
    given: TrainingArguments,
    sequences: books.Sequences,
    checkpoint: Path | None,
    started: float,
) -> list[dict[str, Any]]:
    """All steps after those of the checkpoint; what the Trainer noted of the whole run.

    The Trainer ends with this function, before the group of processes does: whatever still shares gradients when the
    group is destroyed can wait for it for ever (gloo).

    UserError: loss or weights not finite, a micro-batch that does not fit the GPU.
    """
    watch = Watch(cfg, started)
    trainer = Trainer(model, given, train_dataset=sequences, callbacks=[watch])
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError as error:
        raise UserError(does_not_fit(cfg, given.device)) from error
    except Exception as error:  # each file of a checkpoint has its own ways of being damaged
        if checkpoint is None or watch.stepped:
            raise
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"cannot go on from {checkpoint} ({why}): if it is damaged, delete it and run again") from error
    finally:
        watch.bar.close()
    return trainer.state.log_history


def does_not_fit(cfg: Settings, device: torch.device) -> str:
    """What to do when the memory of a GPU is too small."""
    size = micro_batch(cfg)
    fewer = size if size % 2 else 2
    fits = f"give --accumulate {fewer * cfg.accumulate}, which takes {size // fewer} at a time in the same steps"
    if size == 1:
        fits = "give --gradient-checkpointing, or --precision bf16 or a smaller model in another --out"
    return f"{size} sequences of {cfg.L} tokens at a time do not fit the memory of {device}: {fits}"


def main(cfg: Settings) -> None:
    started = time.time()
    cfg.validate()
    logging.disable_progress_bar()  # of the single file that a checkpoint writes
    documents, facts = books.open_books(cfg.documents, cfg.L)
    held_out = books.held_out_books(documents, cfg.held_out, cfg.split_seed)
    rows, others = books.split(documents, held_out, cfg.L)
    repeats = len(documents) - len(rows) - len(others)
    steps = number_of_steps(cfg, len(rows))
    micro_batch(cfg)
    set_seed(cfg.seed)
    ids = facts["tokenizer_vocab_size"]
    model = models.build(cfg.model, ids, cfg.L, cfg.vocab)
    if facts["tokenizer"] in NAMED:  # a checkpoint has no tokenizer files that would say it
        model.config.tokenizer = facts["tokenizer"]
    of = run_identity(cfg, model)
    refuse_other_run(cfg, of)
    checkpoint, state = last_checkpoint(cfg.out)
    # The last documents that fill no whole step stay out, so that every step of every split has the same size.
    rows = rows[: len(rows) // cfg.batch * cfg.batch]
    sequences = books.Sequences(documents, rows, cfg.L, ids, model.config.bos_token_id)
    given = arguments(cfg, steps)  # from here on, no process is still looking at what --out holds
    try:
        if given.process_index == 0:
            record = {"identity": of, "steps": steps, "held_out_books": held_out, "versions": versions()}
            begin(cfg, record | {key: facts.get(key) for key in ("source", "tokenizer", "tokenizer_hash")})
            mend_log(state.get("log_history", []), cfg, given.device, started)
            size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
            left = steps - state.get("global_step", 0)
            work = f"{cfg.batch_tokens:,} tokens a step, {left:,} of {steps:,} steps to do"
            print(f"{cfg.model}: {size:.3g} million parameters, {work}, {world()} × {given.device}")
            trained = f"{len(rows):,} sequences of {len(set(books.book_of_each(documents)[rows])):,} books to train on"
            kept = f"{len(others):,} sequences of {len(set(books.book_of_each(documents)[others])):,} books held out"
            print(f"{len(rows) * cfg.L:,} tokens in {trained}, {kept}", flush=True)
            if repeats:
                print(f"{repeats:,} documents repeat another's first {cfg.L:,} tokens and are left out", flush=True)
        history = optimize(cfg, model, given, sequences, checkpoint, started)
        if given.process_index == 0:
            nll = log_table(history, cfg)["nll_nats"].iloc[-1]
            print(f"{nll:.4g} nats a token in the last row of {cfg.out / 'log.csv'}")
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    run(main, Settings, __doc__, PRESETS)
