"""What a training step on Gaussian sequences costs: drawing beside the model, tokens a second, use of the GPU.

    python benchmarks/training.py                    # two idle CPU cores: 2 minutes
    python benchmarks/training.py --device cuda --out results/benchmarks/training_gpu.csv     # one H200: 80 seconds

Writes results/benchmarks/training.csv: a row a measure, ratio above 1 means ours is better; seconds are medians.
  drawing, share of a step      samples with their exact conditionals, of a whole step of GPT2 (124 million parameters
                                with a vocabulary), 64 copies, L = 4,096; beside the 5% that it may cost. On a CPU one
                                sequence a step, on a GPU the paper's four
  tokens/s                      of each mini model at L = 256, 4 copies, 1,024 tokens a step, one thread (CPU)
  model FLOPs utilisation       GPU: GPT2-medium at L = 4,096, bf16 with torch.compile, beside the 50% aimed at
  tokens/s                      GPU: the same, beside a plain loop: float32 (no TF32), attention with explicit matrices,
                                one sequence at a time (those of four take 100 GB), AdamW that is not fused, nothing
                                compiled

Expect: drawing to be below 1% of a step on a CPU.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from benchmarks.gaussian import median_seconds
from benchmarks.publish import publish
from common.cli import UserError, run
from common.flops import flops_a_token, peak_flops
from gaussian_synthetic import train
from gaussian_synthetic.exact import families
from gaussian_synthetic.training import models

DESK = [name for name in models.MODELS if "-mini" in name]
MOST, AIM = 0.05, 0.5


@dataclass(frozen=True)
class Settings:
    out: Path = Path("results/benchmarks/training.csv")
    model: str = "gpt2"
    """of which a step is beside the drawing"""
    large_model: str = "gpt2-medium"
    """of the GPU's utilisation"""
    L: int = 4096
    """tokens, of both"""
    mini_models: tuple[str, ...] = tuple(DESK)
    rounds: int = 5
    """of the mini models, and on a GPU of all; the large step on a CPU is timed once"""
    device: str = "cpu"
    """cpu, or cuda for the GPU's rows alone"""

    def validate(self) -> None:
        if self.out.suffix != ".csv":
            raise UserError(f"--out {self.out}: give the name of a .csv file")
        if self.rounds < 1:
            raise UserError(f"--rounds {self.rounds}: give at least 1")
        if unknown := {self.model, self.large_model, *self.mini_models} - set(models.MODELS):
            raise UserError(f"no model {min(unknown)!r}: choose {', '.join(models.MODELS)}")
        families.layers_of_length(self.L)
        if self.device not in ("cpu", "cuda"):
            raise UserError(f"--device {self.device}: give cpu or cuda")


def step(
    model: str, L: int, place: train.Distributed, **settings: object
) -> tuple[Callable[[], object], train.Training]:
    """A function that makes one whole optimizer step, drawing included, and what it works on."""
    with tempfile.TemporaryDirectory() as empty:
        training = train.Training(train.Settings(model, Path(empty) / "run", L=L, **settings), place)
    conditionals = families.prepare(training.of, device=place.device)
    if training.cfg.compile:
        training.model.compile()
    return lambda: train.train_step(training, training.model, conditionals, conditionals.std[:, None]), training


def draw(training: train.Training) -> Callable[[], object]:
    """A function that draws what one step needs."""
    conditionals, cfg = families.prepare(training.of, device=training.place.device), training.cfg
    random = torch.Generator(training.place.device).manual_seed(0)
    return lambda: train.draw_tokens(conditionals, cfg.batch, cfg.copies, random)


def measure(cfg: Settings) -> pd.DataFrame:
    rows: list[dict] = []
    place = train.Distributed(train.torch_device(cfg.device))
    gpu = cfg.device == "cuda"
    where = torch.cuda.get_device_name() if gpu else "CPU"

    def row(setting: str, what: str, unit: str, baseline: str, base: float, value: float, ratio: float) -> None:
        names = {"benchmark": "training", "setting": f"{setting}, {where}", "measure": what, "unit": unit}
        rows.append(names | {"baseline": baseline, "baseline_value": base, "our_value": value, "ratio": ratio})

    train.allow_tf32(False)
    batch = 4 if gpu else 1
    whole, training = step(cfg.model, cfg.L, place, batch=batch)
    setting = f"{cfg.model}, {batch} × {cfg.L:,} tokens of 64 copies, fp32"
    drawing = median_seconds(draw(training), cfg.rounds, cfg.device)
    seconds = median_seconds(whole, cfg.rounds, cfg.device) if gpu else seconds_of_one(whole)
    row(setting, "seconds of a step, drawing included", "s", "", float("nan"), seconds, float("nan"))
    row(setting, "drawing, share of a step", "", "at most", MOST, drawing / seconds, MOST * seconds / drawing)
    del whole, training
    if gpu:
        gpu_rows(cfg, place, row)
        return pd.DataFrame(rows)
    torch.set_num_threads(1)
    for name in tqdm(cfg.mini_models, desc="mini models"):
        whole, _ = step(name, 256, place, batch=4, copies=4)
        seconds = median_seconds(whole, cfg.rounds)
        row(f"{name}, 4 × 256 tokens of 4 copies, one thread", "tokens/s", "1/s", "", *_nan(1024 / seconds))
    return pd.DataFrame(rows)


def _nan(value: float) -> tuple[float, float, float]:
    """Of a measure beside which there is nothing."""
    return float("nan"), value, float("nan")


def seconds_of_one(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def gpu_rows(cfg: Settings, place: train.Distributed, row: Callable[..., None]) -> None:
    plain, training = step(cfg.large_model, cfg.L, place, accumulate=4)
    training.model.backbone.set_attn_implementation("eager")
    training.optimizer = torch.optim.AdamW(training.model.parameters(), foreach=False, fused=False)
    slow = median_seconds(plain, cfg.rounds, cfg.device)
    del plain, training
    fast, training = step(cfg.large_model, cfg.L, place, precision="bf16", compile=True)
    quick = median_seconds(fast, cfg.rounds, cfg.device)
    tokens = training.cfg.batch * cfg.L
    share = flops_a_token(training.model, cfg.L) * tokens / quick / peak_flops("bf16", place.device)
    setting = f"{cfg.large_model}, {training.cfg.batch} × {cfg.L:,} tokens of 64 copies, bf16, torch.compile"
    row(setting, "model FLOPs utilisation", "", "aim", AIM, share, share / AIM)
    row(setting, "tokens/s", "1/s", "plain fp32 eager loop", tokens / slow, tokens / quick, slow / quick)


def main(cfg: Settings) -> None:
    started = time.time()
    cfg.validate()
    table = measure(cfg)
    publish(table, cfg, started)


if __name__ == "__main__":
    run(main, Settings, __doc__)
