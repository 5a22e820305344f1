"""What a training step on books costs: memory with and without the memory-saving loss, and on a GPU tokens a second.

    python benchmarks/books.py                    # two CPU cores: 5 minutes, 12 GB of memory
    python benchmarks/books.py --device cuda --out results/benchmarks/books_gpu.csv     # one H200: a minute or two

Writes results/benchmarks/books.csv: a row a measure, ratio above 1 means ours is better; seconds are medians.
  peak memory of a step     CPU: one sequence of 8,192 tokens over 50,432, forward, backward and AdamW, in a process of
                            its own, above what it held before; beside the same model with all logits at once
  peak memory of the loss   the loss and its gradient alone, at the width of GPT2 (768)
  seconds                   of both: what the saving costs
  tokens/s                  GPU: GPT2 (124 million parameters of its own) and Mamba-130m at L = 8,192 in float32 and
                            bf16, beside a plain loop in float32: attention with explicit matrices, all logits at once,
                            AdamW that is not fused. Empty where that does not fit the GPU
  model FLOPs utilisation   GPU: of the same, beside the 50% aimed at
  peak memory of a step     GPU: of the same

Expect: a step to take a tenth of the memory or less. Time goes either way: the logits are made twice, but need not go
through memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
import transformers

from benchmarks.fresh_process import in_a_process, peak_bytes
from benchmarks.gaussian import median_seconds
from benchmarks.publish import publish
from common.cli import UserError, run
from common.flops import flops_a_token, peak_flops
from train_on_pg19.training import loss, models

IDS = 50_277  # of the GPT-NeoX tokenizer, and 50,432 rows
AIM = 0.5


@dataclass(frozen=True)
class Settings:
    out: Path = Path("results/benchmarks/books.csv")
    model: str = "gpt2-mini-small"
    """of the step on a CPU; its width is 64, so that the logits are what takes memory"""
    L: int = 8192
    """tokens"""
    width: int = 768
    """of the loss alone"""
    gpu_models: tuple[str, ...] = ("gpt2", "mamba-130m")
    rounds: int = 3
    device: str = "cpu"
    """cpu, or cuda for the GPU's rows alone"""

    def validate(self) -> None:
        if self.out.suffix != ".csv":
            raise UserError(f"--out {self.out}: give the name of a .csv file")
        if self.rounds < 1 or self.L < 1 or self.width < 1:
            raise UserError(f"--rounds {self.rounds} --L {self.L} --width {self.width}: at least 1 each")
        if unknown := {self.model, *self.gpu_models} - set(models.MODELS):
            raise UserError(f"no model {min(unknown)!r}: choose {', '.join(models.MODELS)}")
        if self.device not in ("cpu", "cuda"):
            raise UserError(f"--device {self.device}: give cpu or cuda")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: torch sees no GPU here")


def make_step(
    name: str, L: int, ours: bool, precision: str = "fp32", device: str = "cpu"
) -> tuple[torch.nn.Module, Callable[[], float]]:
    """A model, and a function that makes one optimizer step on one sequence of random ids and returns the loss.

    ours: the models of models.py; else the same weights in transformers' own class, with explicit attention matrices
    and all logits.
    """
    torch.manual_seed(0)
    model = models.build(name, IDS, L)
    if not ours:
        plain = getattr(transformers, type(model).__name__)(model.config)
        plain.load_state_dict(model.state_dict())
        model = plain
        if model.config.model_type == "gpt2":
            model.set_attn_implementation("eager")
    model = model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=ours)
    ids = torch.randint(IDS, (1, L + 1), generator=torch.Generator().manual_seed(1)).to(device)
    given, targets = ids[:, :-1], ids[:, 1:]

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            # transformers' labels are shifted by its loss, unless they come as shift_labels
            out = model(given, targets=targets) if ours else model(given, labels=targets, shift_labels=targets)
        out.loss.backward()
        optimizer.step()
        return out.loss.item()

    return model, step


def step_on_cpu(name: str, L: int, ours: bool, rounds: int) -> dict[str, float]:
    """Peak bytes above what was there before, and seconds, of a step."""
    _, step = make_step(name, L, ours)
    before = peak_bytes()
    step()
    peak = peak_bytes() - before
    return {"bytes": peak, "seconds": median_seconds(step, rounds)}


def loss_on_cpu(L: int, width: int, ours: bool, rounds: int) -> dict[str, float]:
    """The same of the loss and its gradient alone."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(L, width, requires_grad=True), torch.randn(models.padded(IDS), width)
    weight.mul_(width**-0.5).requires_grad_()
    targets = torch.randint(IDS, (L,))
    plain = torch.nn.functional

    def work() -> None:
        hidden.grad = weight.grad = None
        if ours:
            loss.cross_entropy(hidden, weight, targets).backward()
        else:
            plain.cross_entropy(plain.linear(hidden, weight), targets).backward()

    before = peak_bytes()
    work()
    peak = peak_bytes() - before
    return {"bytes": peak, "seconds": median_seconds(work, rounds)}


def row(setting: str, measure: str, unit: str, baseline: str, base: float, value: float, more: bool) -> dict:
    """more: whether a larger value is better."""
    names = {"benchmark": "books", "setting": setting, "measure": measure, "unit": unit, "baseline": baseline}
    ratio = value / base if more else base / value
    return names | {"baseline_value": base, "our_value": value, "ratio": ratio}


def cpu_rows(cfg: Settings) -> list[dict]:
    rows = []
    for what, function, given in (
        ("a step", "benchmarks.books.step_on_cpu", (cfg.model, cfg.L)),
        ("the loss", "benchmarks.books.loss_on_cpu", (cfg.L, cfg.width)),
    ):
        ours, plain = (in_a_process(function, *given, one, cfg.rounds) for one in (True, False))
        of = cfg.model if what == "a step" else f"width {cfg.width}"
        setting = f"{of}, {cfg.L:,} × {models.padded(IDS):,}, fp32, CPU"
        baseline = "all logits at once"
        values = (plain["bytes"] / 1e9, ours["bytes"] / 1e9)
        rows.append(row(setting, f"peak memory of {what}", "GB", baseline, *values, more=False))
        rows.append(row(setting, f"seconds of {what}", "s", baseline, plain["seconds"], ours["seconds"], more=False))
    return rows


def on_gpu(cfg: Settings, name: str, ours: bool, precision: str) -> tuple[float, float]:
    """Seconds and peak GB of a step; NaN where it does not fit."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        _, step = make_step(name, cfg.L, ours, precision, "cuda")
        seconds = median_seconds(step, cfg.rounds, "cuda")
    except torch.OutOfMemoryError:
        return float("nan"), float("nan")
    return seconds, torch.cuda.max_memory_allocated() / 1e9


def gpu_rows(cfg: Settings) -> list[dict]:
    rows, gpu = [], torch.cuda.get_device_name()
    torch.set_float32_matmul_precision("highest")
    for name in cfg.gpu_models:
        slow, large = on_gpu(cfg, name, ours=False, precision="fp32")
        flops = flops_a_token(models.build(name, IDS, cfg.L), cfg.L)
        for precision in ("fp32", "bf16"):
            seconds, memory = on_gpu(cfg, name, ours=True, precision=precision)
            setting = f"{name}, {cfg.L:,} × {models.padded(IDS):,}, {precision}, {gpu}"
            plain = "plain loop, fp32"
            rows.append(row(setting, "tokens/s", "1/s", plain, cfg.L / slow, cfg.L / seconds, more=True))
            rows.append(row(setting, "peak memory of a step", "GB", plain, large, memory, more=False))
            used = flops * cfg.L / seconds / peak_flops(precision, torch.device("cuda"))
            rows.append(row(setting, "model FLOPs utilisation", "", "aim", AIM, used, more=True))
    return rows


def main(cfg: Settings) -> None:
    started = time.time()
    cfg.validate()
    table = pd.DataFrame(gpu_rows(cfg) if cfg.device == "cuda" else cpu_rows(cfg))
    publish(table, cfg, started)


if __name__ == "__main__":
    run(main, Settings, __doc__)
