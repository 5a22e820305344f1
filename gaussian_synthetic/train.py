"""Train a model on a Gaussian family whose conditionals are known exactly (Fig. 3, G.7, G.8; App. F).

    python gaussian_synthetic/train.py --model gpt2 --L 256 --family subvolume --seed 0 --out runs/gpt2_256_0
    python gaussian_synthetic/train.py --model gpt2-mini --L 64 --preset cpu --out runs/mini      # PRESETS, see below
    torchrun --nproc-per-node 4 gaussian_synthetic/train.py …    # one process a GPU, the same steps and draws

Every step draws fresh sequences, and the loss is the exact conditional KL (Eq. F.37): no data set, no noise of the next
token. Writes into --out:
    checkpoint.pt   model, optimizer, schedule, settings; every --checkpoint-every steps
    log.csv         step, tokens, kl_nats, learning_rate, tokens_per_second; written with the checkpoint. kl_nats is a
                    token's: the sum over its copies, the mean over positions and the steps since the row before

A killed run goes on from its checkpoint by the same command, as if it had not been killed. The paper: one H100 or A100
for each run. Expect kl_nats to begin above 0.2 · copies (12.8 with 64), which ignoring the past gives, and to fall
towards 0, which is exact.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import time
import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm
from transformers import get_cosine_schedule_with_warmup

from common.cli import UserError, run
from common.flops import flops_a_token, peak_flops
from common.record import atomic_file, write_csv
from gaussian_synthetic.exact import families
from gaussian_synthetic.training import models

CHECKPOINT = "checkpoint.pt"
LOG = ["step", "tokens", "kl_nats", "learning_rate", "tokens_per_second"]
RESUME_OK = {"resume_ok": True}  # a setting that may differ from those of the run that is resumed


@dataclass(frozen=True)
class Settings:
    model: str
    """a name of models.py"""
    out: Path = field(metadata=RESUME_OK)
    """folder of this run"""
    L: int = 256
    """tokens: a power of n"""
    family: Literal["subvolume", "logarithmic"] = "subvolume"
    """App. C: three of the four columns copied, or one"""
    k: int | None = None
    """not in the paper: copied columns in the family's place, for information that grows as L^β with β = log_n k"""
    n: int = families.PAPER_N
    """not in the paper: branching, values of a row"""
    copies: int = 64
    """independent sequences side by side in one token (App. F.I)"""
    seed: int = 0
    """of the initial weights and of the draws"""
    steps: int = 500_000
    """optimizer steps"""
    batch: int = 4
    """sequences of L tokens a step, over all processes and micro-batches"""
    learning_rate: float = 5e-5
    """peak, of AdamW; a cosine to 0 at the last step"""
    warmup: int = 2000
    """steps of linear warm-up"""
    weight_decay: float = 0.01
    """AdamW, on all parameters (the paper names no exceptions)"""
    clip: float | None = None
    """not in the paper: largest norm of the gradient"""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """tf32: float32 with faster products on a GPU; bf16: products in bfloat16, weights and loss in float32"""
    log_every: int = 100
    """steps a row of log.csv"""
    accumulate: int = field(default=1, metadata=RESUME_OK)
    """not in the paper: micro-batches a step and process, so that less has to fit memory; the draws stay the same"""
    checkpoint_every: int = field(default=2000, metadata=RESUME_OK)
    """steps, a multiple of log_every"""
    compile: bool = field(default=False, metadata=RESUME_OK)
    """torch.compile"""
    device: str = field(default="auto", metadata=RESUME_OK)
    """auto, cpu, cuda or cuda:1; under torchrun each process takes the GPU of its local rank"""
    peak_tflops: float | None = field(default=None, metadata=RESUME_OK)
    """of one GPU at this precision, for the utilisation shown; known for a few (common/flops.py)"""

    def validate(self) -> None:
        families.layers_of_length(self.L, self.n)
        for name in ("copies", "steps", "batch", "accumulate", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: at least 1")
        for name in ("learning_rate", "weight_decay", "clip", "peak_tflops"):
            value = getattr(self, name)
            if value is not None and not (value >= 0 if name == "weight_decay" else value > 0):
                raise UserError(f"--{name.replace('_', '-')} {value}: above 0")
        if not 0 <= self.warmup < self.steps:
            raise UserError(f"--warmup {self.warmup}: below the number of steps, {self.steps}")
        if self.checkpoint_every % self.log_every:
            raise UserError(f"--checkpoint-every {self.checkpoint_every}: a multiple of --log-every {self.log_every}")
        if self.out.exists() and not self.out.is_dir():
            raise UserError(f"--out {self.out} is a file: give a folder")


def sequences(tokens: int) -> dict[int, int]:
    """--batch for so many tokens a step, by L; at least one sequence."""
    return {4**layers: max(1, tokens // 4**layers) for layers in range(1, 9)}


# What --preset sets in place of the paper's values above. {L: value}: by length, see common.cli.parse.
# Few tokens a step, and so many steps: the same time buys a lower KL than with larger batches. A high learning rate and
# few copies for the same reason. "…-short": fewer steps, for whether the others are enough.
MINI = {"copies": 4, "learning_rate": 4e-3}
CPU = MINI | {"batch": sequences(1024), "steps": {16: 1000, 64: 2000, 256: 4000}, "warmup": {16: 100, 256: 200}}
GPU = MINI | {"batch": sequences(8192), "steps": {64: 4000, 256: 8000}, "warmup": {64: 200, 256: 400}}
PRESETS = {
    "paper": {},
    "gpu": GPU,
    "gpu-short": GPU | {"steps": 4000, "warmup": 200},
    "cpu": CPU,
    "cpu-short": CPU | {"steps": {64: 500, 256: 2000}, "warmup": {64: 50, 256: 200}},
    "smoke": CPU | {"copies": 2, "steps": 30, "warmup": 5, "log_every": 10, "checkpoint_every": 10},
}


@dataclass(frozen=True)
class Distributed:
    """Where this process computes: `rank` of `world` processes (torchrun), each with one device."""

    device: torch.device
    rank: int = 0
    world: int = 1


def init_distributed(name: str) -> Distributed:
    """This process's place, under torchrun within its group of processes. UserError: no such device, or one for all."""
    rank, world, gpu = (int(os.environ.get(key, 0)) for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if world > 1 and ":" in name:
        raise UserError(f"--device {name} for {world} processes: give cuda, and each takes the GPU of its local rank")
    place = Distributed(torch_device(name, gpu), rank, max(world, 1))
    if world > 1:
        dist.init_process_group("nccl" if place.device.type == "cuda" else "gloo")
    return place


def torch_device(name: str, gpu: int = 0) -> torch.device:
    """auto, cpu, cuda (the GPU of number `gpu`) or cuda:1. UserError: no such device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(f"cuda:{gpu}" if name == "cuda" else name)
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


def build_family(name: str, L: int, k: int | None = None, n: int = families.PAPER_N) -> families.Family:
    """The family of a run's settings. UserError: L no power of n, k outside 1 … n."""
    return families.family(families.layers_of_length(L, n), families.NAMED[name] if k is None else k, n)


def generator(seed: int, purpose: str, number: int, device: torch.device | str) -> torch.Generator:
    """The random numbers of one step (purpose "train") or of one draw ("evaluate"), whatever came before them.

    So a resumed run needs no random state, and no number of GPUs or micro-batches changes what is drawn.
    """
    base = int(np.random.SeedSequence((seed, *purpose.encode())).generate_state(1, np.uint64)[0])
    # Counted up rather than hashed: a CPU generator takes 32 bits, of which 500,000 hashes would repeat some.
    return torch.Generator(device).manual_seed((base + number) % 2**64)


def draw_tokens(
    conditionals: families.Conditionals, draws: int, copies: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """z and E[z_t | z_<t], (draws, L, copies) each: `copies` independent sequences side by side make one token."""
    z, mean = families.draw(conditionals, draws * copies, generator)
    return tuple(values.view(len(values), draws, copies).transpose(0, 1) for values in (z, mean))


def conditional_kl(
    mean_q: torch.Tensor, log_std_q: torch.Tensor, mean_p: torch.Tensor, std_p: torch.Tensor
) -> torch.Tensor:
    """KL(p || q) of each variable's conditional law, in nats (Eq. F.37); the shapes broadcast, float32.

    log(σ_q/σ_p) + (σ_p² + (μ_q − μ_p)²)/(2σ_q²) − ½, written so that little cancels where q is near p: a σ_q
    off by the factor 1 + δ costs δ², which is right to 1e-7 · δ.
    """
    log_std_q = log_std_q.float()
    log_ratio = std_p.log() - log_std_q
    shift = (mean_q.float() - mean_p) * torch.exp(-log_std_q)
    return torch.expm1(2 * log_ratio) / 2 - log_ratio + shift**2 / 2


class Training:
    """Model, optimizer and schedule at a step, the rows of the log up to it, and how they come from and go to disk."""

    def __init__(self, cfg: Settings, place: Distributed) -> None:
        """UserError: unknown model or one that the GPU cannot hold, a batch that cannot be split, a folder with another
        run, a damaged checkpoint.
        """
        parts = place.world * cfg.accumulate
        if cfg.batch % parts:
            raise UserError(
                f"--batch {cfg.batch} in {parts} micro-batches ({place.world} processes × --accumulate "
                f"{cfg.accumulate}): give a multiple of {parts}"
            )
        self.cfg, self.place, self.micro_batch = cfg, place, cfg.batch // parts
        self.of = build_family(cfg.family, cfg.L, cfg.k, cfg.n)
        torch.manual_seed(cfg.seed)
        self.model = models.build(cfg.model, cfg.copies, cfg.L).train()
        try:
            self.model.to(place.device)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the weights of {cfg.model} do not fit the free memory of {place.device}: give a smaller --model, "
                "or a GPU that nothing else uses"
            ) from error
        settings = {"lr": cfg.learning_rate, "weight_decay": cfg.weight_decay, "fused": True}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), **settings)
        self.schedule = get_cosine_schedule_with_warmup(self.optimizer, cfg.warmup, cfg.steps)
        self.step, self.saved_step, self.rows = 0, 0, []
        self.identity = training_identity(cfg, self.model)
        self._resume()

    def _resume(self) -> None:
        path = self.cfg.out / CHECKPOINT
        if not path.exists():
            if (self.cfg.out / "log.csv").exists():
                raise UserError(f"{self.cfg.out} holds a log.csv and no checkpoint.pt: give another --out")
            return
        saved = read_checkpoint(path)
        refuse_other_training(saved["identity"], self.identity, self.cfg.out)
        try:
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{path} holds other tensors than {self.cfg.model} has: give another --out") from error
        self.schedule.load_state_dict(saved["schedule"])
        self.step, self.saved_step, self.rows = saved["step"], saved["step"], saved["rows"]

    def save(self, started: float) -> None:
        """checkpoint.pt and log.csv. UserError: weights that are not finite, and then an older checkpoint stays."""
        if self.place.rank:
            return
        if not all(parameter.isfinite().all() for parameter in self.model.parameters()):
            raise UserError(self.diverged(f"the weights are not finite at step {self.step}"))
        state = {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "schedule")}
        state |= {name: getattr(self, name) for name in ("identity", "step", "rows")}
        self.cfg.out.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.cfg.out / CHECKPOINT, "wb") as file:
            torch.save(state, file)
        self.saved_step = self.step
        self.write_log(started)

    def write_log(self, started: float) -> None:
        facts = {"device": str(self.place.device), "processes": self.place.world, "step": self.step}
        write_csv(self.cfg.out / "log.csv", log_table(self.rows, self.cfg.copies), self.cfg, started=started, **facts)

    def log_is_behind(self) -> bool:
        """Whether log.csv lacks rows that the checkpoint has: the run was killed between the two."""
        path = self.cfg.out / "log.csv"
        lines = path.read_bytes().count(b"\n") if path.exists() else 0
        return self.step > 0 and self.place.rank == 0 and lines != len(self.rows) + 1

    def diverged(self, what: str) -> str:
        good = f"{self.cfg.out / CHECKPOINT} holds step {self.saved_step}"
        kept = good if self.saved_step else "there is no checkpoint yet"
        return f"{what}; {kept}. Start again in another --out, with a lower --learning-rate or with --clip 1"


def log_table(rows: list[tuple], copies: int) -> pd.DataFrame:
    """The rows of log.csv, kl_nats a token's, from those of a checkpoint, which hold the loss: a variable's."""
    table = pd.DataFrame(rows, columns=LOG)
    return table.assign(kl_nats=copies * table["kl_nats"])


def training_identity(cfg: Settings, model: models.GaussianModel) -> dict[str, Any]:
    """What must be the same for a run to go on: the settings that change its numbers, and the model's configuration."""
    settings = {key.name: getattr(cfg, key.name) for key in fields(cfg) if "resume_ok" not in key.metadata}
    config = {key: value for key, value in model.config.to_dict().items() if key != "transformers_version"}
    # Through JSON and back, so that it compares equal with what is read from disk.
    return json.loads(json.dumps({"settings": settings, "configuration": config}, default=str))


def refuse_other_training(found: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    """UserError that names what differs between the identity in a folder and the one wanted."""
    for part in ("settings", "configuration"):
        keys = sorted(found[part].keys() | wanted[part].keys())
        pairs = [(key, found[part].get(key), wanted[part].get(key)) for key in keys]
        differing = [f"{key} {there}, here {here}" for key, there, here in pairs if there != here]
        if differing:
            of = "run" if part == "settings" else "configuration of the model"
            raise UserError(f"{folder} holds another {of} ({'; '.join(differing)}): give another --out")


# What torch.load raises for the many ways in which a file is not one of its own.
DAMAGED = (OSError, RuntimeError, ValueError, AttributeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `Training.save` wrote, tensors mapped from disk as they are used. UserError: no or a damaged checkpoint."""
    try:
        saved = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        if not {"identity", "model", "step", "rows"} <= saved.keys():
            raise ValueError("keys missing")
    except FileNotFoundError as error:
        raise UserError(f"no checkpoint {path}: give the folder of a run of train.py") from error
    except DAMAGED as error:
        raise UserError(f"{path} is no checkpoint of train.py, or damaged: delete it and train again") from error
    return saved


def optimize(training: Training) -> None:
    """All steps that are left. UserError: loss or weights not finite, a micro-batch that does not fit the GPU."""
    cfg, place, model, started = training.cfg, training.place, training.model, time.time()
    conditionals = families.prepare(training.of, device=place.device)
    std = conditionals.std[:, None]
    if cfg.compile:
        model.compile()
    forward = DistributedDataParallel(model) if place.world > 1 else model
    amount = flops_a_token(model, cfg.L)
    peak = 1e12 * cfg.peak_tflops if cfg.peak_tflops else peak_flops(cfg.precision, place.device)
    losses = torch.zeros(cfg.log_every, device=place.device)  # read once a row: reading waits for the GPU
    if training.log_is_behind():
        training.write_log(started)
    row_began, predicted, steady = time.perf_counter(), place.rank > 0, None
    with tqdm(total=cfg.steps, initial=training.step, unit="step", desc=cfg.model, disable=place.rank > 0) as bar:
        while training.step < cfg.steps:
            slot = training.step % cfg.log_every
            losses[slot] = train_step(training, forward, conditionals, std)
            training.step += 1
            bar.update()
            if steady is None:  # the first step of a process may compile for minutes
                steady, after_first = time.perf_counter(), training.step
            elif not predicted and (passed := time.perf_counter() - steady) > 10:
                hours = (cfg.steps - training.step) * passed / (training.step - after_first) / 3600
                bar.write(f"about {hours:.2g} hours for the {cfg.steps - training.step:,} steps to come")
                predicted = True
            if slot + 1 < cfg.log_every and training.step < cfg.steps:
                continue
            if place.world > 1:
                dist.all_reduce(losses)
                losses /= place.world
            row = losses[: slot + 1].double().cpu()
            if not row.isfinite().all():
                bad = training.step - slot + int(row.isfinite().logical_not().nonzero()[0])
                raise UserError(training.diverged(f"the loss is not finite at step {bad}"))
            speed = (slot + 1) * cfg.batch * cfg.L / (time.perf_counter() - row_began)
            rate = training.schedule.get_last_lr()[0]
            training.rows.append(
                (training.step, training.step * cfg.batch * cfg.L, row.mean().item(), rate, round(speed, 1))
            )
            share = amount * speed / peak / place.world
            used = f", {share:.0%} of the peak" if math.isfinite(share) else ""
            bar.set_postfix_str(f"KL {cfg.copies * row.mean():.4g} nats, {speed:,.0f} tokens/s{used}")
            if training.step % cfg.checkpoint_every == 0 or training.step == cfg.steps:
                training.save(started)
            row_began = time.perf_counter()


def train_step(
    training: Training, forward: torch.nn.Module, conditionals: families.Conditionals, std: torch.Tensor
) -> torch.Tensor:
    """One optimizer step on fresh draws; the mean KL of this process's share, nats a variable, still on its device."""
    cfg, place = training.cfg, training.place
    # Every process draws the whole batch and takes its part: drawing is cheap, and no split changes the draws.
    z, mean = draw_tokens(
        conditionals, cfg.batch, cfg.copies, generator(cfg.seed, "train", training.step, place.device)
    )
    total = torch.zeros((), device=place.device)
    for i in range(cfg.accumulate):
        part = slice(*(training.micro_batch * (i * place.world + place.rank + edge) for edge in (0, 1)))
        last = i == cfg.accumulate - 1
        with contextlib.nullcontext() if last or place.world == 1 else forward.no_sync():
            with torch.autocast(place.device.type, torch.bfloat16, enabled=cfg.precision == "bf16"):
                predicted = forward(z[part])
            loss = conditional_kl(*predicted, mean[part], std).mean() / cfg.accumulate
            loss.backward()
        total += loss.detach()
    if cfg.clip is not None:
        torch.nn.utils.clip_grad_norm_(training.model.parameters(), cfg.clip)
    training.optimizer.step()
    training.schedule.step()
    training.optimizer.zero_grad()
    return total


def does_not_fit(training: Training) -> str:
    """What to do when the memory of a GPU is too small."""
    cfg, size = training.cfg, training.micro_batch
    fewer = size if size % 2 else 2
    fits = f"give --accumulate {fewer * cfg.accumulate}, which takes {size // fewer} at a time and draws the same"
    if size == 1:
        fits = "use --precision bf16, a shorter --L or a smaller model, in another --out"
    return f"{size} sequences of {cfg.L} tokens at a time do not fit the memory of {training.place.device}: {fits}"


def main(cfg: Settings) -> None:
    cfg.validate()
    place = init_distributed(cfg.device)
    allow_tf32(cfg.precision == "tf32")
    try:
        training = Training(cfg, place)
        if not place.rank:
            size = sum(parameter.numel() for parameter in training.model.parameters()) / 1e6
            work = f"{cfg.batch * cfg.L:,} tokens a step, {cfg.steps - training.step:,} of {cfg.steps:,} steps to do"
            print(f"{cfg.model}: {size:.3g} million parameters, {work}, {place.world} × {place.device}", flush=True)
        try:
            optimize(training)
        except torch.OutOfMemoryError as error:
            raise UserError(does_not_fit(training)) from error
        if not place.rank:
            kl = log_table(training.rows, cfg.copies)["kl_nats"].iloc[-1]
            print(f"KL {kl:.4g} nats a token in the last row of {cfg.out / 'log.csv'}")
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    run(main, Settings, __doc__, PRESETS)
