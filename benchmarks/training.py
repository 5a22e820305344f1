"""What training costs: a step of the loop beside another checkout's, Muon beside AdamW, and the memory-saving loss.

    python benchmarks/training.py --part loop --other ../other-checkout --documents data/documents/my_books_256
    python benchmarks/training.py --part optimizers          # one CPU core: 40 minutes
    python benchmarks/training.py --part loss                # two CPU cores: 5 minutes, 12 GB of memory

Writes results/benchmarks/training_<part>.csv: a row a measure, ratio above 1 means ours is better.
  loop         milliseconds of a step, one thread: both checkouts train by their command lines in turn, --rounds times;
               of a run the fastest row of its log counts, of the rounds the median, with the smallest and largest ratio
  optimizers   the smallest of --budgets (steps of a cosine to 0, by bisection) whose last row, a twentieth of the
               steps, has a KL of --goal or less with one of --rates; then its seconds at the speed of that run's
               fastest row. Muon's rate is five times AdamW's. L = 64, 4 copies, 1,024 tokens a step, one thread
  loss         peak memory above what was held before, and seconds, of the loss and its gradient at the width of GPT2,
               and of a whole step of a small model, 8,192 tokens over 50,432; beside all logits at once

Expect: the loops to take the same time, Muon a third of AdamW's steps with GPT2, the loss a tenth of the memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import transformers
from tqdm import tqdm

from benchmarks.fresh_process import in_a_process, peak_bytes
from benchmarks.publish import median_seconds, publish
from common.cli import UserError, parse, run
from common.record import ROOT
from gaussian_synthetic import train
from train_on_pg19.training import loss, models

IDS, WIDTH = 50_277, 768  # of the GPT-NeoX tokenizer, and the width of GPT2
GAUSSIAN = ("gpt2-mini", "window-mini", "mamba2-mini-256", "mamba2-mini-8192")
BOOKS = ("gpt_neox-mini-small", "mamba2-mini-small")


@dataclass(frozen=True)
class Settings:
    part: Literal["loop", "optimizers", "loss"] = "loop"
    out: Path | None = None
    """default: results/benchmarks/training_<part>.csv"""
    other: Path | None = None
    """loop: folder of the other checkout"""
    documents: Path | None = None
    """loop: documents of 256 tokens or more, for the models of books; without them these are left out"""
    steps: int = 40
    """loop: of a run"""
    rounds: int = 5
    """loop: pairs of runs; loss: repetitions"""
    models: tuple[str, ...] = ("gpt2-mini", "mamba2-mini-8192")
    """optimizers"""
    budgets: tuple[int, ...] = (200, 300, 400, 600, 800, 1200, 1600, 2400)
    """optimizers: steps, ascending"""
    rates: tuple[float, ...] = (8e-3, 4e-3)
    """optimizers: of AdamW"""
    goal: float = 0.005
    """optimizers: nats a token"""
    L: int = 8192
    """loss: tokens"""

    def validate(self) -> None:
        if self.out is not None and self.out.suffix != ".csv":
            raise UserError(f"--out {self.out}: give the name of a .csv file")
        if self.rounds < 1 or self.steps < 20 or min(self.budgets) < 20:
            raise UserError("--rounds: at least 1; --steps and --budgets: at least 20")
        if self.part == "loop" and (self.other is None or not (self.other / "gaussian_synthetic/train.py").is_file()):
            raise UserError(f"--other {self.other}: give the folder of another checkout")


def row(setting: str, measure: str, unit: str, baseline: str, base: float, ours: float, **more: Any) -> dict[str, Any]:
    """Less is better."""
    names = {"benchmark": "training", "setting": setting, "measure": measure, "unit": unit, "baseline": baseline}
    return names | {"baseline_value": base, "our_value": ours, "ratio": base / ours} | more


def step_seconds(log: pd.DataFrame) -> float:
    """Of the fastest row: all else on the machine only makes a step slower."""
    return (log["tokens"] / log["step"]).iloc[0] / log["tokens_per_second"].max()


def loop_rows(cfg: Settings) -> list[dict[str, Any]]:
    rows = []
    for model in GAUSSIAN + (BOOKS if cfg.documents else ()):
        script = "train_on_pg19/train.py" if model in BOOKS else "gaussian_synthetic/train.py"
        flags = ["--model", model, "--warmup", 5, "--log-every", 5, "--checkpoint-every", cfg.steps, "--device", "cpu"]
        if model in BOOKS:
            flags += ["--preset", "smoke", "--L", 256, "--documents", cfg.documents.resolve(), "--epochs", 2]
        else:
            flags += ["--preset", "cpu", "--L", 64, "--steps", cfg.steps]
        seconds: list[tuple[float, float]] = []
        for i in tqdm(range(cfg.rounds), desc=model):
            pair = {}
            for place in (cfg.other.resolve(), ROOT)[:: 1 if i % 2 else -1]:
                pair[place] = _seconds_of_run(place, script, flags)
            seconds.append((pair[cfg.other.resolve()], pair[ROOT]))
        base, ours = np.median(seconds, axis=0) * 1000
        ratios = [one / other for one, other in seconds]
        spread = {"ratio_min": round(min(ratios), 3), "ratio_max": round(max(ratios), 3)}
        made = row(f"{model}, one thread", "time of a step", "ms", "other checkout", base, ours, **spread)
        rows.append(made | {"ratio": np.median(ratios)})
    return rows


def _seconds_of_run(place: Path, script: str, flags: list[object]) -> float:
    environment = os.environ | {"PYTHONPATH": str(place), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, script, *flags, "--out", f"{folder}/run"]
        done = subprocess.run(list(map(str, command)), cwd=place, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{place / script}: {done.stderr.strip().splitlines()[-1]}")
        return step_seconds(pd.read_csv(f"{folder}/run/log.csv"))


def optimizer_rows(cfg: Settings, model: str, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every run that was made is added to `runs`."""
    torch.set_num_threads(1)
    (base, base_seconds), (ours, seconds) = (_smallest_budget(cfg, model, one, runs) for one in ("adamw", "muon"))
    of, goal = f"{model}, L = 64, 1,024 tokens a step", f"to a KL of {cfg.goal:g} nats a token"
    return [
        row(of, f"steps {goal}", "", "AdamW", base, ours),
        row(of, f"seconds {goal}", "s", "AdamW", base * base_seconds, ours * seconds),
    ]


def _smallest_budget(cfg: Settings, model: str, optimizer: str, runs: list[dict[str, Any]]) -> tuple[float, float]:
    """Steps, and seconds of a step, by bisection of --budgets; not a number where none reaches the goal."""
    found, low, high = (np.nan, np.nan), -1, len(cfg.budgets)
    while high - low > 1:
        middle = (low + high) // 2
        steps, reached = cfg.budgets[middle], False
        for rate in cfg.rates:
            with tempfile.TemporaryDirectory() as folder:
                flags = ["--model", model, "--L", 64, "--preset", "cpu", "--optimizer", optimizer, "--device", "cpu"]
                flags += ["--steps", steps, "--warmup", steps // 10, "--learning-rate", rate, "--out", f"{folder}/run"]
                flags += ["--log-every", steps // 20, "--checkpoint-every", steps // 20 * 20]
                train.main(parse(train.Settings, list(map(str, flags)), presets=train.PRESETS))
                log = pd.read_csv(f"{folder}/run/log.csv")
            kl, seconds = float(log["kl_nats"].iloc[-1]), step_seconds(log)
            names = {"model": model, "optimizer": optimizer, "steps": steps, "learning_rate": rate}
            runs.append(names | {"kl_nats": kl, "seconds_a_step": seconds})
            if kl <= cfg.goal:
                found, reached = (steps, seconds), True
                break
        low, high = (low, middle) if reached else (middle, high)
    return found


def step_on_cpu(L: int, ours: bool, rounds: int) -> dict[str, float]:
    """Peak bytes above what was there before, and seconds, of a step of the smallest GPT2.

    ours: else the same weights in transformers' own class, with explicit attention matrices and all logits.
    """
    torch.manual_seed(0)
    model = models.build("gpt2-mini-small", IDS, L)
    if not ours:
        plain = getattr(transformers, type(model).__name__)(model.config)
        plain.load_state_dict(model.state_dict())
        model = plain
        model.set_attn_implementation("eager")
    model = model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=ours)
    ids = torch.randint(IDS, (1, L + 1), generator=torch.Generator().manual_seed(1))
    given, targets = ids[:, :-1], ids[:, 1:]

    def step() -> float:
        optimizer.zero_grad()
        # transformers' labels are shifted by its loss, unless they come as shift_labels
        out = model(given, targets=targets) if ours else model(given, labels=targets, shift_labels=targets)
        out.loss.backward()
        optimizer.step()
        return out.loss.item()

    return _measured(step, rounds)


def loss_on_cpu(L: int, ours: bool, rounds: int) -> dict[str, float]:
    """The same of the loss and its gradient alone."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(L, WIDTH, requires_grad=True), torch.randn(models.padded(IDS), WIDTH)
    weight.mul_(WIDTH**-0.5).requires_grad_()
    targets, plain = torch.randint(IDS, (L,)), torch.nn.functional

    def work() -> float:
        hidden.grad = weight.grad = None
        if ours:
            nats = loss.cross_entropy(hidden, weight, targets)
        else:
            nats = plain.cross_entropy(plain.linear(hidden, weight), targets)
        nats.backward()
        return nats.item()

    return _measured(work, rounds)


def _measured(work: Any, rounds: int) -> dict[str, float]:
    before = peak_bytes()
    nats = work()
    peak = peak_bytes() - before
    return {"bytes": peak, "seconds": median_seconds(work, rounds), "nats": nats}


def loss_rows(cfg: Settings) -> list[dict[str, Any]]:
    rows = []
    for what, function, of in (
        ("a step", "step_on_cpu", "gpt2-mini-small"),
        ("the loss", "loss_on_cpu", f"width {WIDTH}"),
    ):
        ours, plain = (in_a_process(f"benchmarks.training.{function}", cfg.L, one, cfg.rounds) for one in (True, False))
        names = (f"{of}, {cfg.L:,} × {models.padded(IDS):,}, fp32, CPU", "all logits at once")
        memory = (plain["bytes"] / 1e9, ours["bytes"] / 1e9)
        rows.append(row(names[0], f"peak memory of {what}", "GB", names[1], *memory))
        rows.append(row(names[0], f"seconds of {what}", "s", names[1], plain["seconds"], ours["seconds"]))
    return rows


def main(cfg: Settings) -> None:
    started = time.time()
    cfg.validate()
    out = cfg.out or Path(f"results/benchmarks/training_{cfg.part}.csv")
    if cfg.part != "optimizers":
        rows = loop_rows(cfg) if cfg.part == "loop" else loss_rows(cfg)
        publish(pd.DataFrame(rows), cfg, started, out)
        return
    rows, runs = [], []
    for model in cfg.models:
        rows += optimizer_rows(cfg, model, runs)
        publish(pd.DataFrame(rows), cfg, started, out, runs=runs)


if __name__ == "__main__":
    run(main, Settings, __doc__)
