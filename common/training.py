"""The training loop of both training programs: steps on several processes (Accelerate), log, checkpoints, resuming.

    with processes(cfg) as accelerator:              # those of torchrun or accelerate launch, or this one alone
        train(cfg, task, accelerator)

A program supplies its `Settings` and a `Task`: a model, the batch of each step, and the loss of part of a batch. The
loop writes into cfg.out:
    run.json        the identity of the run (see common/resume.py), and facts of the program
    checkpoint.pt   model, optimizers, schedules, rows of the log; every --checkpoint-every steps
    log.csv         step, tokens, the loss (Task.column), learning_rate, tokens_per_second; with each checkpoint

The same command resumes a killed run from its checkpoint, as if it had not been killed. A batch depends only on the
seed and the step number, so the number of processes or micro-batches does not change the steps either.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from common.cli import UserError, at_least
from common.flops import flops_a_token, peak_flops
from common.record import atomic_file, versions, write_csv
from common.resume import RESUME_OK, begin, begun, identity

RUN, CHECKPOINT = "run.json", "checkpoint.pt"
MUON_RATE, MUON_DECAY = 5.0, 0.1  # Muon's rate relative to AdamW's, and its weight decay (torch's default)
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)  # gathers the shards of all processes


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that both training programs share; each adds its own."""

    model: str  # a name from common/architectures.py
    out: Path = field(metadata=RESUME_OK)  # folder of this run
    seed: int = 0  # seed of the initial weights and of the batches
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon (not in the paper): Muon for the matrices inside the network, at five times the rate, AdamW for all else"""
    learning_rate: float = 5e-5  # peak rate of AdamW; falls as a cosine to 0 at the last step
    warmup: int = 2000  # steps of linear warm-up
    restarts: int = field(default=0, metadata=RESUME_OK)
    """not in the paper: how often, at most, the learning rate starts again, each time for twice as many steps"""
    stop_below: float = field(default=0.0, metadata=RESUME_OK)
    """with restarts: stop after two in a row that each lowered the loss by less than this fraction of it"""
    negligible: float = field(default=0.0, metadata=RESUME_OK)
    """with restarts: also stop at the end of a cosine if the loss is below this, in nats per token"""
    weight_decay: float = 0.01  # weight decay of AdamW; Muon has its own
    clip: float | None = None  # not in the paper: clip the gradient to this norm
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """tf32: float32 with faster products on a GPU; bf16: products in bfloat16, weights and loss in float32"""
    log_every: int = 100  # steps per row of log.csv
    accumulate: int = field(default=1, metadata=RESUME_OK)
    """not in the paper: micro-batches per step and process; more take less memory, and the steps stay the same"""
    checkpoint_every: int = field(default=2000, metadata=RESUME_OK)  # in steps, a multiple of log_every
    compile: bool = field(default=False, metadata=RESUME_OK)  # use torch.compile; it changes the rounding
    gradient_checkpointing: bool = field(default=False, metadata=RESUME_OK)
    """recompute the activations of each layer in the backward pass: a third more time, far less memory"""
    fsdp: bool = field(default=False, metadata=RESUME_OK)
    """under torchrun: shard weights and optimizer over the processes (FSDP), for a model that does not fit one GPU"""
    device: str = field(default="auto", metadata=RESUME_OK)
    """auto, cpu, cuda or cuda:1; under torchrun each process takes the GPU of its local rank"""

    def validate(self) -> None:
        at_least(1, self, "accumulate", "log_every", "checkpoint_every")
        if not (self.learning_rate > 0 and (self.clip is None or self.clip > 0)):
            raise UserError(f"--learning-rate {self.learning_rate}, --clip {self.clip}: must be above 0")
        at_least(0, self, "warmup", "weight_decay", "restarts", "stop_below", "negligible")
        if self.checkpoint_every % self.log_every:
            every = f"--checkpoint-every {self.checkpoint_every}"
            raise UserError(f"{every}: must be a multiple of --log-every {self.log_every}")
        if self.optimizer == "muon" and self.fsdp:
            raise UserError("--optimizer muon works on whole matrices, and --fsdp shards them: leave one out")


@dataclass
class Task:
    """What a program trains, and how."""

    model: nn.Module  # has its transformers configuration as `config`
    backbone: PreTrainedModel  # the part of `model` whose matrices Muon optimises
    steps: int  # number in the first cosine; without restarts, all steps
    batch: int  # sequences per step, over all processes and micro-batches
    L: int  # tokens per sequence
    draw: Callable[[int], Sequence[torch.Tensor]]
    """step → its batch: tensors of first dimension `batch`, on the device of this process"""
    loss: Callable[[nn.Module, Sequence[torch.Tensor]], torch.Tensor]
    """(model, as wrapped for several processes; part of a batch) → the mean loss, a scalar"""
    column: str  # name of the loss in log.csv
    scale: float = 1.0  # log.csv holds scale · loss, in nats per token
    undecayed: Collection[str] = ()  # names of parameters without weight decay
    identity: dict[str, Any] = field(default_factory=dict)  # what identifies the run besides settings and configuration
    facts: dict[str, Any] = field(default_factory=dict)  # further entries of run.json
    notes: Sequence[str] = ()  # lines to print at the start
    export: Callable[[int, dict[str, torch.Tensor]], None] | None = None
    """(step, weights) → also writes the weights in another form"""


def torch_device(name: str, gpu: int | None = None) -> torch.device:
    """The device called auto, cpu, cuda (GPU number `gpu`) or cuda:1. UserError: no such device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UserError(f"--device {name}: give auto, cpu, cuda or cuda:1")
    device = torch.device(f"cuda:{gpu or 0}" if name == "cuda" else name)
    if device.type == "cuda":
        if device.index >= torch.cuda.device_count():
            raise UserError(f"--device {name}: no GPU {device.index}, torch sees {torch.cuda.device_count()}")
        torch.cuda.set_device(device)
    return device


def allow_tf32(allowed: bool) -> None:
    """Set whether float32 products may be rounded to TF32 on a GPU; by default torch does so in convolutions."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


@contextlib.contextmanager
def processes(cfg: Settings) -> Iterator[Accelerator]:
    """The Accelerator of this process, under torchrun, accelerate launch or alone; the model goes to its `device`.

    UserError: no such device, or FSDP without torchrun.
    """
    allow_tf32(cfg.precision == "tf32")
    if cfg.fsdp and "WORLD_SIZE" not in os.environ:
        raise UserError("--fsdp shards over several processes: start it with torchrun")
    device = torch_device(cfg.device, int(os.environ.get("LOCAL_RANK", 0)))
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no")  # `train_step` has its own autocast
    try:
        yield accelerator
    finally:
        # A model that still shares gradients when the process group ends can hang for ever (gloo).
        accelerator.free_memory()
        accelerator.end_training()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `Run.save` wrote; tensors are memory-mapped. UserError: the checkpoint is missing or damaged."""
    try:
        saved = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        if not {"identity", "model", "optimizers", "schedules", "step", "rows"} <= saved.keys():
            raise ValueError("keys missing")
    except FileNotFoundError as error:
        raise UserError(f"no checkpoint {path}: give the folder of a run of train.py") from error
    except Exception as error:  # torch.load may raise almost anything on a file that is not its own
        raise UserError(f"{path} is no checkpoint of train.py, or damaged: delete it and train again") from error
    return saved


def cosine_ends(steps: int, restarts: int = 30) -> list[int]:
    """The steps at which the cosines end: the first after `steps`, each later one twice as long as the one before.

    The default is more restarts than any run has.
    """
    return [steps * (2 ** (i + 1) - 1) for i in range(restarts + 1)]


def learning_rate(step: int, warmup: int, ends: list[int]) -> float:
    """The rate at a step as a fraction of the peak: each cosine is a linear warm-up, then half a cosine to 0."""
    start, end = max(((a, b) for a, b in zip([0, *ends], ends, strict=False) if a <= step), default=(0, ends[0]))
    if step - start < warmup:
        return (step - start) / warmup
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * (step - start - warmup) / (end - start - warmup))))


def ends_of_cosines(losses: dict[int, float], steps: int) -> list[float]:
    """The loss at the end of each cosine so far. losses: step → loss in the log; steps: length of the first cosine."""
    return [losses[end] for end in cosine_ends(steps) if end in losses]


def settled(ends: list[float], little: float, negligible: float) -> bool:
    """Whether more steps would change little. ends: from `ends_of_cosines`.

    Either the last loss is below `negligible`, or the last two restarts each lowered it by less than the fraction
    `little`. One such restart is not enough: some models leave a plateau later.
    """
    gains = [(before - after) / before for before, after in pairwise(ends)]
    return ends[-1] < negligible or (len(gains) > 1 and max(gains[-2:]) < little)


def log_table(rows: list[tuple], column: str) -> pd.DataFrame:
    """The table of log.csv from the rows of a checkpoint; column: name of the loss."""
    return pd.DataFrame(rows, columns=["step", "tokens", column, "learning_rate", "tokens_per_second"])


def make_optimizers(cfg: Settings, task: Task) -> list[torch.optim.Optimizer]:
    """AdamW; for `muon` also Muon, which takes the weight matrices of linear and recurrent layers in the backbone.

    Embeddings, position tables, layers outside the backbone, norms, convolutions and vectors are left to AdamW.
    """
    linear = [module for module in task.backbone.modules() if isinstance(module, (nn.Linear, Conv1D, nn.RNNBase))]
    weights = [value for module in linear for value in module.parameters() if value.ndim == 2]
    matrices = weights if cfg.optimizer == "muon" else []
    taken = set(map(id, matrices))
    named = [(name in task.undecayed, value) for name, value in task.model.named_parameters() if id(value) not in taken]
    groups = [
        {"params": values, "weight_decay": decay}
        for bare, decay in ((False, cfg.weight_decay), (True, 0.0))
        if (values := [value for of, value in named if of == bare])
    ]
    made: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=cfg.learning_rate, fused=True)]
    if matrices:
        made.append(torch.optim.Muon(matrices, lr=MUON_RATE * cfg.learning_rate, weight_decay=MUON_DECAY))
    return made


class Run:
    """Model, optimizers and schedules at a step, and the rows of the log up to it."""

    def __init__(self, cfg: Settings, task: Task, accelerator: Accelerator) -> None:
        """UserError: a batch that cannot be split, a warm-up as long as the first cosine, a folder of another run, a
        damaged checkpoint, or, with restarts, a number of steps that log_every does not divide.
        """
        self.cfg, self.task, self.accelerator = cfg, task, accelerator
        parts = accelerator.num_processes * cfg.accumulate
        if task.batch % parts:
            raise UserError(
                f"{task.batch} sequences per step in {parts} micro-batches ({accelerator.num_processes} processes × "
                f"--accumulate {cfg.accumulate}): give a step a multiple of {parts} sequences"
            )
        if cfg.warmup >= task.steps:
            raise UserError(f"--warmup {cfg.warmup}: must be below the number of steps, {task.steps}")
        if cfg.restarts and task.steps % cfg.log_every:
            raise UserError(f"--restarts: {task.steps} steps must be a multiple of --log-every {cfg.log_every}")
        self.ends = cosine_ends(task.steps, cfg.restarts)
        self.micro_batch = task.batch // parts
        self.step, self.saved_step, self.rows = 0, 0, []
        config = {key: value for key, value in task.model.config.to_dict().items() if key != "transformers_version"}
        of = {"settings": identity(cfg), "configuration": config, **task.identity}
        self.identity = json.loads(json.dumps(of, default=str))  # so that it equals what is read from disk
        found = begun(cfg.out, self.identity, RUN)
        accelerator.wait_for_everyone()  # no process writes while another still inspects the folder
        if not found and accelerator.is_main_process:
            begin(cfg.out, self.identity, RUN, steps=task.steps, versions=versions(), **task.facts)
        if cfg.gradient_checkpointing:
            task.backbone.gradient_checkpointing_enable({"use_reentrant": False})
        self.model = self._place()
        self.optimizers = make_optimizers(cfg, task)
        share = partial(learning_rate, warmup=cfg.warmup, ends=self.ends)
        self.schedules = [torch.optim.lr_scheduler.LambdaLR(one, share) for one in self.optimizers]
        if (path := cfg.out / CHECKPOINT).exists():
            saved = read_checkpoint(path)
            states = {"model_state_dict": saved["model"], "optim_state_dict": saved["optimizers"]}
            set_state_dict(self.model, self.optimizers, **states, options=WHOLE)
            for schedule, state in zip(self.schedules, saved["schedules"], strict=True):
                schedule.load_state_dict(state)
                for group, peak in zip(schedule.optimizer.param_groups, schedule.base_lrs, strict=True):
                    group["lr"] = peak * share(saved["step"])  # more restarts give the last step another rate
            self.step, self.saved_step, self.rows = saved["step"], saved["step"], [tuple(row) for row in saved["rows"]]

    def ended(self) -> bool:
        """Whether all steps are done, or the last cosines changed too little to go on."""
        if self.step not in self.ends or self.step == self.ends[-1]:
            return self.step >= self.ends[-1]
        ends = ends_of_cosines({row[0]: row[2] for row in self.rows}, self.task.steps)
        return settled(ends, self.cfg.stop_below, self.cfg.negligible)

    def _place(self) -> nn.Module:
        """The model on its device, wrapped for several processes."""
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

    def save(self) -> None:
        """Write log.csv and checkpoint.pt. UserError: the weights are not finite; an older checkpoint is kept."""
        model, optimizers = get_state_dict(self.model, self.optimizers, options=WHOLE)
        if not self.accelerator.is_main_process:
            self.saved_step = self.step
            return
        if not all(value.isfinite().all() for value in model.values()):
            raise UserError(self.diverged(f"the weights are not finite at step {self.step}"))
        if self.task.export:
            self.task.export(self.step, model)
        # The checkpoint is written last: a run that is killed before that computes the same rows again.
        facts = {"device": str(self.accelerator.device), "processes": self.accelerator.num_processes}
        table = log_table(self.rows, self.task.column)
        write_csv(self.cfg.out / "log.csv", table, self.cfg, **facts, step=self.step)
        state = {"model": model, "optimizers": optimizers, "schedules": [one.state_dict() for one in self.schedules]}
        state |= {name: getattr(self, name) for name in ("identity", "step", "rows")}
        with atomic_file(self.cfg.out / CHECKPOINT, "wb") as file:
            torch.save(state, file)
        self.saved_step = self.step

    def train_step(self) -> torch.Tensor:
        """Take one optimizer step; returns the mean loss over this process's share, still on its device."""
        cfg, place = self.cfg, self.accelerator
        # Every process draws the whole batch and takes its part. This is cheap, and no split changes what is drawn.
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
            nn.utils.clip_grad_norm_(self.model.parameters(), cfg.clip)
        for one in (*self.optimizers, *self.schedules):
            one.step()
        for one in self.optimizers:  # together they hold every parameter
            one.zero_grad()
        self.step += 1
        return total

    def diverged(self, what: str) -> str:
        kept = f"{self.cfg.out / CHECKPOINT} holds step {self.saved_step}"
        kept = kept if self.saved_step else "there is no checkpoint yet"
        return f"{what}; {kept}. Start again in another --out, with a lower --learning-rate or a --clip of 1 or less"


def train(cfg: Settings, task: Task, accelerator: Accelerator) -> None:
    """Do all remaining steps. UserError: as in `Run`; loss or weights not finite; too little memory."""
    try:
        run = Run(cfg, task, accelerator)
        size = sum(parameter.numel() for parameter in task.model.parameters()) / 1e6
        work = f"{task.batch * task.L:,} tokens per step, {run.ends[-1] - run.step:,} of {run.ends[-1]:,} steps to do"
        what = f"{cfg.model}: {size:.3g} million parameters, {work}, {accelerator.num_processes} × {accelerator.device}"
        accelerator.print(what, *task.notes, sep="\n", flush=True)
        _steps(run)
    except RuntimeError as error:  # on a CPU, torch says only in its text that the memory is full
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        raise UserError(
            f"{task.batch} sequences of {task.L:,} tokens in {cfg.accumulate} parts a step do not fit the memory of "
            f"{accelerator.device} beside {cfg.model}: give --accumulate {2 * cfg.accumulate} or more, "
            "--gradient-checkpointing, or in another --out --precision bf16 or a smaller --model"
        ) from error
    accelerator.print(f"{run.rows[-1][2]:.4g} nats per token in the last row of {cfg.out / 'log.csv'}")


def _steps(run: Run) -> None:
    cfg, task, place = run.cfg, run.task, run.accelerator
    amount, tokens = flops_a_token(task.model, task.L), task.batch * task.L
    losses = torch.zeros(cfg.log_every, device=place.device)  # read once per row, because reading waits for the GPU
    row_began, quiet = time.perf_counter(), not place.is_main_process
    with tqdm(total=run.ends[-1], initial=run.step, unit="step", desc=cfg.model, disable=quiet) as bar:
        while not run.ended():
            slot, rate = run.step % cfg.log_every, run.schedules[0].get_last_lr()[0]  # AdamW's rate in the next step
            losses[slot] = run.train_step()
            bar.update()
            if slot + 1 < cfg.log_every and run.step < run.ends[-1]:
                continue
            row = place.reduce(losses, "mean")[: slot + 1].double().cpu()
            if not row.isfinite().all():
                bad = run.step - slot + int(row.isfinite().logical_not().nonzero()[0])
                raise UserError(run.diverged(f"the loss is not finite at step {bad}"))
            value, speed = task.scale * row.mean().item(), (slot + 1) * tokens / (time.perf_counter() - row_began)
            run.rows.append((run.step, run.step * tokens, value, rate, round(speed, 1)))
            share = amount * speed / peak_flops(cfg.precision, place.device) / place.num_processes
            used = f", {share:.0%} of the peak" if math.isfinite(share) else ""
            bar.set_postfix_str(f"{value:.4g} nats per token, {speed:,.0f} tokens/s{used}")
            if run.step % cfg.checkpoint_every == 0 or run.step in run.ends:
                run.save()
            row_began = time.perf_counter()
