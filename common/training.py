"""The training loop of both training programs: steps on several processes (Accelerate), log, checkpoints, resuming.

    with processes(cfg) as accelerator:              # those of torchrun or accelerate launch, or this one alone
        train(cfg, task, accelerator)

A program gives its `Settings` and a `Task`: a model, the batch of each step, and the loss of a part of it. Writes into
cfg.out:
    run.json        the identity of the run (see common/resume.py), and facts of the program
    checkpoint.pt   model, optimizers, schedules, rows of the log; every --checkpoint-every steps
    log.csv         step, tokens, the loss by its own name, learning_rate, tokens_per_second; with the checkpoint

A killed run goes on from its checkpoint by the same command, as if it had not been killed. A batch follows from the
seed and the number of its step alone, so no number of processes or micro-batches changes the steps either.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import time
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from accelerate import Accelerator
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from tqdm import tqdm
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup
from transformers.pytorch_utils import Conv1D

from common.cli import UserError
from common.flops import flops_a_token, peak_flops
from common.record import atomic_file, versions, write_csv
from common.resume import RESUME_OK, begin, begun, identity

RUN, CHECKPOINT = "run.json", "checkpoint.pt"
PREDICT_AFTER = 10.0  # seconds of steps that tell the hours of the others
MUON_RATE, MUON_DECAY = 5.0, 0.1  # of AdamW's rate, and Muon's own weight decay, torch's default
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)  # of all processes' shards together


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What both programs can be told; each adds its own."""

    model: str
    """a name of common/architectures.py"""
    out: Path = field(metadata=RESUME_OK)
    """folder of this run"""
    seed: int = 0
    """of the initial weights and of the batches"""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon, not in the paper: for the matrices inside the network, and AdamW for all else"""
    learning_rate: float = 5e-5
    """peak, of AdamW; a cosine to 0 at the last step"""
    muon_learning_rate: float | None = None
    """not in the paper: peak, of Muon; default: five times --learning-rate"""
    warmup: int = 2000
    """steps of linear warm-up"""
    weight_decay: float = 0.01
    """of AdamW; Muon has its own"""
    clip: float | None = None
    """not in the paper: largest norm of the gradient"""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """tf32: float32 with faster products on a GPU; bf16: products in bfloat16, weights and loss in float32"""
    log_every: int = 100
    """steps a row of log.csv"""
    accumulate: int = field(default=1, metadata=RESUME_OK)
    """not in the paper: micro-batches a step and process, so that less has to fit memory; the steps stay the same"""
    checkpoint_every: int = field(default=2000, metadata=RESUME_OK)
    """steps, a multiple of log_every"""
    compile: bool = field(default=False, metadata=RESUME_OK)
    """torch.compile"""
    gradient_checkpointing: bool = field(default=False, metadata=RESUME_OK)
    """make the activations of each layer again on the way back: a third more time, far less memory"""
    fsdp: bool = field(default=False, metadata=RESUME_OK)
    """under torchrun: shard weights and optimizer over the processes (FSDP), for a model that does not fit one GPU"""
    device: str = field(default="auto", metadata=RESUME_OK)
    """auto, cpu, cuda or cuda:1; under torchrun each process takes the GPU of its local rank"""
    peak_tflops: float | None = field(default=None, metadata=RESUME_OK)
    """of one GPU at this precision, for the utilisation shown; known for a few (common/flops.py)"""

    def validate(self) -> None:
        for name in ("accumulate", "log_every", "checkpoint_every"):
            self.at_least_one(name)
        for name in ("learning_rate", "muon_learning_rate", "weight_decay", "clip", "peak_tflops"):
            value = getattr(self, name)
            if value is not None and not (value >= 0 if name == "weight_decay" else value > 0):
                raise UserError(f"--{name.replace('_', '-')} {value}: above 0")
        if self.warmup < 0:
            raise UserError(f"--warmup {self.warmup}: at least 0")
        if self.checkpoint_every % self.log_every:
            raise UserError(f"--checkpoint-every {self.checkpoint_every}: a multiple of --log-every {self.log_every}")
        if self.optimizer == "adamw" and self.muon_learning_rate is not None:
            raise UserError("--muon-learning-rate is for --optimizer muon")
        if self.optimizer == "muon" and self.fsdp:
            raise UserError("--optimizer muon works on whole matrices, and --fsdp shards them: leave one out")

    def at_least_one(self, name: str) -> None:
        if getattr(self, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: at least 1")


@dataclass
class Task:
    """What one program trains."""

    model: torch.nn.Module
    """with the configuration of transformers as `config`"""
    backbone: PreTrainedModel
    """the part of it whose matrices Muon takes"""
    steps: int
    batch: int
    """sequences a step, over all processes and micro-batches"""
    L: int
    """tokens of a sequence"""
    draw: Callable[[int], Sequence[torch.Tensor]]
    """the batch of a step, first dimension `batch`, on the device of this process"""
    loss: Callable[[torch.nn.Module, Sequence[torch.Tensor]], torch.Tensor]
    """of the model (as the processes share it) and a part of the batch: the mean loss, a scalar"""
    table: Callable[[list[tuple]], pd.DataFrame]
    """log.csv of rows (step, tokens, loss, learning rate, tokens a second); the loss is its third column"""
    rate_of_next: bool = False
    """whether a row has the learning rate of the step to come, rather than of its last step"""
    undecayed: Collection[str] = ()
    """names of the parameters without weight decay"""
    identity: dict[str, Any] = field(default_factory=dict)
    """beside settings and configuration"""
    facts: dict[str, Any] = field(default_factory=dict)
    """for run.json"""
    notes: Sequence[str] = ()
    """lines to print at the start"""
    export: Callable[[int, dict[str, torch.Tensor]], None] | None = None
    """writes the weights of a step in another form as well"""


def torch_device(name: str, gpu: int | None = None) -> torch.device:
    """auto, cpu, cuda (the GPU of number `gpu`) or cuda:1. UserError: no such device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(f"cuda:{gpu or 0}" if name == "cuda" else name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: give auto, cpu, cuda or cuda:1") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: give auto, cpu, cuda or cuda:1")
    if device.type == "cuda":
        if device.index >= torch.cuda.device_count():
            raise UserError(f"--device {name}: no GPU {device.index}, {torch.cuda.device_count()} are seen here")
        torch.cuda.set_device(device)
    return device


def allow_tf32(allowed: bool) -> None:
    """Whether float32 products may be rounded to TF32 on a GPU; torch rounds those of convolutions unless told."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


@contextlib.contextmanager
def processes(cfg: Settings) -> Iterator[Accelerator]:
    """This process's place among those of torchrun or accelerate launch; its `device` is where the model goes.

    UserError: no such device, one device for all processes, a GPU without bfloat16, FSDP without processes.
    """
    allow_tf32(cfg.precision == "tf32")
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world > 1 and ":" in cfg.device:
        raise UserError(f"--device {cfg.device} for {world} processes: give cuda, and each takes its own GPU")
    if world == 1 and cfg.fsdp:
        raise UserError("--fsdp shards over several processes: start it with torchrun")
    device = torch_device(cfg.device, int(os.environ.get("LOCAL_RANK", 0)))
    if cfg.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError(f"--precision bf16: {torch.cuda.get_device_name()} has none, use fp32")
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no")  # `train_step` has its own autocast
    try:
        yield accelerator
    finally:
        # What still shares gradients when the group of processes ends can wait for it for ever (gloo).
        accelerator.free_memory()
        accelerator.end_training()


# What torch.load raises for the many ways in which a file is not one of its own.
DAMAGED = (OSError, RuntimeError, ValueError, AttributeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `Run.save` wrote, tensors mapped from disk as they are used. UserError: no or a damaged checkpoint."""
    try:
        saved = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        if not {"identity", "model", "optimizers", "schedules", "step", "rows"} <= saved.keys():
            raise ValueError("keys missing")
    except FileNotFoundError as error:
        raise UserError(f"no checkpoint {path}: give the folder of a run of train.py") from error
    except DAMAGED as error:
        raise UserError(f"{path} is no checkpoint of train.py, or damaged: delete it and train again") from error
    return saved


def make_optimizers(cfg: Settings, task: Task) -> list[torch.optim.Optimizer]:
    """AdamW, and for `muon` Muon beside it, which takes the weights of the linear layers inside the backbone.

    Embeddings, tables of positions, the layers around the backbone, norms, convolutions and vectors stay AdamW's.
    """
    linear = [module for module in task.backbone.modules() if isinstance(module, (torch.nn.Linear, Conv1D))]
    matrices = [module.weight for module in linear] if cfg.optimizer == "muon" else []
    taken = set(map(id, matrices))
    named = [(name in task.undecayed, value) for name, value in task.model.named_parameters() if id(value) not in taken]
    groups = [
        {"params": values, "weight_decay": decay}
        for bare, decay in ((False, cfg.weight_decay), (True, 0.0))
        if (values := [value for of, value in named if of == bare])
    ]
    made: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=cfg.learning_rate, fused=True)]
    if matrices:
        rate = cfg.muon_learning_rate or MUON_RATE * cfg.learning_rate
        made.append(torch.optim.Muon(matrices, lr=rate, weight_decay=MUON_DECAY))
    return made


class Run:
    """Model, optimizers and schedules at a step, and the rows of the log up to it."""

    def __init__(self, cfg: Settings, task: Task, accelerator: Accelerator) -> None:
        """UserError: a batch that cannot be split, a model that the GPU cannot hold, a folder with another run, a
        damaged checkpoint.
        """
        self.cfg, self.task, self.accelerator, self.started = cfg, task, accelerator, time.time()
        parts = accelerator.num_processes * cfg.accumulate
        if task.batch % parts:
            raise UserError(
                f"{task.batch} sequences a step in {parts} micro-batches ({accelerator.num_processes} processes × "
                f"--accumulate {cfg.accumulate}): give a step a multiple of {parts} sequences"
            )
        self.micro_batch = task.batch // parts
        self.step, self.saved_step, self.rows = 0, 0, []
        config = {key: value for key, value in task.model.config.to_dict().items() if key != "transformers_version"}
        of = {"settings": identity(cfg), "configuration": config, **task.identity}
        self.identity = json.loads(json.dumps(of, default=str))  # so that it equals what is read from disk
        found = begun(cfg.out, self.identity, RUN)
        accelerator.wait_for_everyone()  # nobody writes while another is still looking at what is there
        if not found and accelerator.is_main_process:
            begin(cfg.out, self.identity, RUN, steps=task.steps, versions=versions(), **task.facts)
        if cfg.gradient_checkpointing:
            task.backbone.gradient_checkpointing_enable({"use_reentrant": False})
        try:
            self.model = self._place()
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the weights of {cfg.model} do not fit the free memory of {accelerator.device}: give a smaller "
                "--model, or a GPU that nothing else uses"
            ) from error
        self.optimizers = make_optimizers(cfg, task)
        self.schedules = [get_cosine_schedule_with_warmup(one, cfg.warmup, task.steps) for one in self.optimizers]
        self._resume()

    def _place(self) -> torch.nn.Module:
        """The model on its device, as the processes share it."""
        model = self.task.model.train()
        if self.cfg.compile:
            model.compile()
        if not self.cfg.fsdp:
            return self.accelerator.prepare_model(model)
        model.to(self.accelerator.device)
        for layer in list(self.task.backbone.modules()):
            if type(layer).__name__ in (self.task.backbone._no_split_modules or ()):
                fully_shard(layer)
        return fully_shard(model)

    def _resume(self) -> None:
        path = self.cfg.out / CHECKPOINT
        if not path.exists():
            return
        saved = read_checkpoint(path)
        states = {"model_state_dict": saved["model"], "optim_state_dict": saved["optimizers"]}
        try:
            set_state_dict(self.model, self.optimizers, **states, options=WHOLE)
            for schedule, state in zip(self.schedules, saved["schedules"], strict=True):
                schedule.load_state_dict(state)
        except (RuntimeError, ValueError, KeyError, AttributeError, TypeError) as error:
            why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"{path} does not fit {self.cfg.model} ({why[:200]}): delete it and train again") from error
        self.step, self.saved_step, self.rows = saved["step"], saved["step"], [tuple(row) for row in saved["rows"]]
        csv = self.cfg.out / "log.csv"
        lines = csv.read_bytes().count(b"\n") if csv.exists() else 0
        if lines != len(self.rows) + 1:  # killed between the two
            self.write_log()

    def save(self) -> None:
        """checkpoint.pt and log.csv. UserError: weights that are not finite, and then an older checkpoint stays."""
        model, optimizers = get_state_dict(self.model, self.optimizers, options=WHOLE)
        if not self.accelerator.is_main_process:
            return
        if not all(value.isfinite().all() for value in model.values()):
            raise UserError(self.diverged(f"the weights are not finite at step {self.step}"))
        if self.task.export:
            self.task.export(self.step, model)
        state = {"model": model, "optimizers": optimizers, "schedules": [one.state_dict() for one in self.schedules]}
        state |= {name: getattr(self, name) for name in ("identity", "step", "rows")}
        with atomic_file(self.cfg.out / CHECKPOINT, "wb") as file:
            torch.save(state, file)
        self.saved_step = self.step
        self.write_log()

    def write_log(self) -> None:
        if self.accelerator.is_main_process:
            facts = {"device": str(self.accelerator.device), "processes": self.accelerator.num_processes}
            table = self.task.table(self.rows)
            write_csv(self.cfg.out / "log.csv", table, self.cfg, started=self.started, **facts, step=self.step)

    def train_step(self) -> torch.Tensor:
        """One optimizer step; the mean loss of this process's share, still on its device."""
        cfg, place = self.cfg, self.accelerator
        # Every process has the whole batch and takes its part: that is cheap, and no split changes what is drawn.
        batch = self.task.draw(self.step)
        total = torch.zeros((), device=place.device)
        for i in range(cfg.accumulate):
            first = self.micro_batch * (i * place.num_processes + place.process_index)
            part = [values[first : first + self.micro_batch] for values in batch]
            whole = i == cfg.accumulate - 1 or place.num_processes == 1
            with contextlib.nullcontext() if whole else place.no_sync(self.model):
                with torch.autocast(place.device.type, torch.bfloat16, enabled=cfg.precision == "bf16"):
                    loss = self.task.loss(self.model, part)
                (loss / cfg.accumulate).backward()
            total += loss.detach() / cfg.accumulate
        if cfg.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), cfg.clip)
        for one in (*self.optimizers, *self.schedules):
            one.step()
        for one in self.optimizers:  # together they have every parameter
            one.zero_grad()
        self.step += 1
        return total

    def rate(self) -> float:
        """AdamW's, of the step that is next."""
        return self.schedules[0].get_last_lr()[0]

    def diverged(self, what: str) -> str:
        kept = f"{self.cfg.out / CHECKPOINT} holds step {self.saved_step}"
        kept = kept if self.saved_step else "there is no checkpoint yet"
        return f"{what}; {kept}. Start again in another --out, with a lower --learning-rate or a --clip of 1 or less"

    def does_not_fit(self) -> str:
        """What to do when the memory of a GPU is too small."""
        size, fewer = self.micro_batch, self.micro_batch if self.micro_batch % 2 else 2
        fits = f"give --accumulate {fewer * self.cfg.accumulate}, which takes {size // fewer} at a time"
        if size == 1:
            fits = "give --gradient-checkpointing, or --precision bf16 or a smaller model in another --out"
        where = f"do not fit the memory of {self.accelerator.device}"
        return f"{size} sequences of {self.task.L} tokens at a time {where}: {fits}"


def train(cfg: Settings, task: Task, accelerator: Accelerator) -> None:
    """All steps that are left. UserError: see `Run`, loss or weights not finite, a micro-batch that does not fit."""
    run = Run(cfg, task, accelerator)
    say = print if accelerator.is_main_process else lambda *_, **__: None
    size = sum(parameter.numel() for parameter in task.model.parameters()) / 1e6
    work = f"{task.batch * task.L:,} tokens a step, {task.steps - run.step:,} of {task.steps:,} steps to do"
    where = f"{accelerator.num_processes} × {accelerator.device}"
    say(f"{cfg.model}: {size:.3g} million parameters, {work}, {where}", *task.notes, sep="\n", flush=True)
    try:
        _steps(run)
    except torch.OutOfMemoryError as error:
        raise UserError(run.does_not_fit()) from error
    last = task.table(run.rows).iloc[-1]
    say(f"{last.iloc[2]:.4g} nats a token in the last row of {cfg.out / 'log.csv'}")


def _steps(run: Run) -> None:
    cfg, task, place = run.cfg, run.task, run.accelerator
    amount, tokens = flops_a_token(task.model, task.L), task.batch * task.L
    peak = 1e12 * cfg.peak_tflops if cfg.peak_tflops else peak_flops(cfg.precision, place.device)
    losses = torch.zeros(cfg.log_every, device=place.device)  # read once a row: reading waits for the GPU
    row_began, predicted, steady = time.perf_counter(), False, None
    quiet = not place.is_main_process
    with tqdm(total=task.steps, initial=run.step, unit="step", desc=cfg.model, disable=quiet) as bar:
        while run.step < task.steps:
            slot, rate = run.step % cfg.log_every, run.rate()
            losses[slot] = run.train_step()
            bar.update()
            if steady is None:  # the first step of a process may compile for minutes
                steady, after_first = time.perf_counter(), run.step
            elif not predicted and (passed := time.perf_counter() - steady) > PREDICT_AFTER:
                hours = (task.steps - run.step) * passed / (run.step - after_first) / 3600
                bar.write(f"about {hours:.2g} hours for the {task.steps - run.step:,} steps to come")
                predicted = True
            if slot + 1 < cfg.log_every and run.step < task.steps:
                continue
            row = place.reduce(losses, "mean")[: slot + 1].double().cpu()
            if not row.isfinite().all():
                bad = run.step - slot + int(row.isfinite().logical_not().nonzero()[0])
                raise UserError(run.diverged(f"the loss is not finite at step {bad}"))
            speed = (slot + 1) * tokens / (time.perf_counter() - row_began)
            rate = run.rate() if task.rate_of_next else rate
            run.rows.append((run.step, run.step * tokens, row.mean().item(), rate, round(speed, 1)))
            share = amount * speed / peak / place.num_processes
            used = f", {share:.0%} of the peak" if math.isfinite(share) else ""
            value = task.table(run.rows[-1:]).iloc[0, 2]
            bar.set_postfix_str(f"{value:.4g} nats a token, {speed:,.0f} tokens/s{used}")
            if run.step % cfg.checkpoint_every == 0 or run.step == task.steps:
                run.save()
            row_began = time.perf_counter()
