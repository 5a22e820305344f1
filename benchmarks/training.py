"""Cost of training: Muon against AdamW, learning rates, and speed.

    python benchmarks/training.py --part optimizers          # one CPU core: 40 minutes
    python benchmarks/training.py --part rates               # one CPU core: 7 minutes
    python benchmarks/training.py --part books --documents data/documents/results_figG9_512  # one CPU core: 20 minutes
    python benchmarks/training.py --part speed --documents data/documents/results_fig4_2048  # one CPU core: 20 minutes

Writes results/benchmarks/training_<part>.csv: one row per measurement; a ratio above 1 means that ours is better.
  optimizers   the smallest of --budgets (steps of a cosine to 0, found by bisection) at which the last row of the log,
               a twentieth of the steps, has a KL of --goal or less with one of --rates; and its seconds, at the speed
               of its fastest row. Muon's rate is five times AdamW's. L = 64, 4 copies, 1,024 tokens a step, one thread
  rates        another table, one row per run: the KL in the last row of the log of each model of --rated at each rate
               of --sweep, for the first cosine of --preset cpu of gaussian_synthetic/train.py at L = 64, no restarts
  books        the same for two models of books at the first of --lengths: the NLL of the last 50 of 300 steps, all
               within the first epoch, so on texts that the model has not seen before
  speed        another table: tokens per second of each model of books at each of --lengths, in the fastest of --rounds
               rows of 10 steps, one thread, bfloat16 products; operations per second according to common.flops, and
               their share of what the same core reaches in a product of two 2,048 × 2,048 bfloat16 matrices, the best
               of ten before and ten after; then tokens per second with --compile, right after the run without

Expect Muon to need half of AdamW's steps with GPT2.
"""

from __future__ import annotations

import tempfile
import timeit
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from benchmarks.publish import publish, row
from common.cli import UserError, parse, run
from common.flops import flops_a_token
from common.record import write_csv
from gaussian_synthetic import train as gaussian
from train_on_pg19 import train as books
from train_on_pg19.training.models import build

VOCABULARY = 2048  # tokens, for the models of books
STEPS = 300  # books: steps per run
OF_GAUSSIANS = ["--L", 64, "--copies", 4, "--batch", 16]
BOOKS = ("gpt_neox-mini-small", "mamba2-mini-small")  # for the part books
OF_BOOKS = (*BOOKS, "mamba2-mini-small-state1", "gpt_neox-mini-medium", "mamba2-mini-medium")  # for speed


@dataclass(frozen=True)
class Settings:
    part: Literal["optimizers", "rates", "books", "speed"]
    out: Path | None = None  # default: results/benchmarks/training_<part>.csv
    documents: Path | None = None  # books, speed: documents of 512 tokens or more
    held_out_books: str = "held_out/*"  # books, speed: as in train.py
    lengths: tuple[int, ...] = (512, 2048)  # books, speed: L in tokens
    rounds: int = 5  # speed: rows per log
    models: tuple[str, ...] = ("gpt2-mini", "mamba2-mini-8192")  # optimizers
    budgets: tuple[int, ...] = (200, 300, 400, 600, 800, 1200, 1600, 2400)  # optimizers: steps, ascending
    rates: tuple[float, ...] = (8e-3, 4e-3)  # optimizers: learning rates of AdamW
    goal: float = 0.005  # optimizers: KL to reach, in nats per token
    rated: tuple[str, ...] = ("gpt2-128", "qwen3-128", "window-128", "mamba2-128-1024", "gru-128-256")  # rates
    sweep: tuple[float, ...] = (2e-3, 4e-3, 8e-3, 1.6e-2)  # rates, books: AdamW's rates; Muon's are five times these
    seeds: tuple[int, ...] = (0,)  # rates, books

    def validate(self) -> None:
        if self.rounds < 1 or min(self.budgets) < 20:
            raise UserError("--rounds: at least 1; --budgets: at least 20")
        if self.part in ("books", "speed") and self.documents is None:
            raise UserError("--documents: give the documents that train_on_pg19/fig4.sh or figG9.sh prepares")


def step_seconds(log: pd.DataFrame) -> float:
    """Seconds per step in the fastest row of a log: other work on the machine can only make a step slower."""
    return (log["tokens"] / log["step"]).iloc[0] / log["tokens_per_second"].max()


def optimizer_rows(cfg: Settings, model: str, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The two rows of a model. Every run that this takes is appended to `runs`."""
    torch.set_num_threads(1)
    (base, base_seconds), (ours, seconds) = (_smallest_budget(cfg, model, one, runs) for one in ("adamw", "muon"))
    of, goal = f"{model}, L = 64, 1,024 tokens a step", f"to a KL of {cfg.goal:g} nats a token"
    return [
        row("training", of, f"steps {goal}", "", "AdamW", base, ours),
        row("training", of, f"seconds {goal}", "s", "AdamW", base * base_seconds, ours * seconds),
    ]


def _smallest_budget(cfg: Settings, model: str, optimizer: str, runs: list[dict[str, Any]]) -> tuple[float, float]:
    """Steps, and seconds per step, found by bisection of --budgets; NaN if no budget reaches the goal."""
    found, low, high = (np.nan, np.nan), -1, len(cfg.budgets)
    while high - low > 1:
        middle = (low + high) // 2
        steps, reached = cfg.budgets[middle], False
        for rate in cfg.rates:
            flags = ["--model", model, *OF_GAUSSIANS, "--optimizer", optimizer, "--device", "cpu"]
            flags += ["--steps", steps, "--warmup", steps // 10, "--learning-rate", rate]
            log = _run_here(gaussian, [*flags, "--log-every", steps // 20, "--checkpoint-every", steps // 20 * 20])
            kl, seconds = float(log["kl_nats"].iloc[-1]), step_seconds(log)
            names = {"model": model, "optimizer": optimizer, "steps": steps, "learning_rate": rate}
            runs.append(names | {"kl_nats": kl, "seconds_a_step": seconds})
            if kl <= cfg.goal:
                found, reached = (steps, seconds), True
                break
        low, high = (low, middle) if reached else (middle, high)
    return found


def rate_rows(cfg: Settings) -> pd.DataFrame:
    torch.set_num_threads(1)
    if cfg.part == "books":
        program, models, L, loss = books, BOOKS, cfg.lengths[0], "nll_nats"
        given = ["--documents", cfg.documents, "--held-out-books", cfg.held_out_books, "--steps", STEPS]
    else:
        program, models, L, loss, given = gaussian, cfg.rated, 64, "kl_nats", []
    rows = []
    for model in models:
        for rate in cfg.sweep:
            for seed in cfg.seeds:
                flags = ["--model", model, "--L", L, "--preset", "cpu", "--restarts", 0, "--learning-rate", rate]
                made = {"model": model, "L": L, "learning_rate": rate, "seed": seed}
                log = _run_here(program, [*flags, *given, "--seed", seed, "--device", "cpu"])
                rows.append(made | {"steps": log["step"].iloc[-1], loss: log[loss].iloc[-1]})
    return pd.DataFrame(rows)


def speed_rows(cfg: Settings) -> pd.DataFrame:
    torch.set_num_threads(1)
    rows = []
    for L in cfg.lengths:
        for name in OF_BOOKS:
            flags = ["--model", name, "--L", L, "--preset", "cpu", "--restarts", 0, "--documents", cfg.documents]
            flags += ["--held-out-books", cfg.held_out_books, "--steps", 10 * cfg.rounds, "--warmup", 5]
            peak = _peak_here()
            log = _run_here(books, [*flags, "--log-every", 10, "--device", "cpu"])
            peak, speed = max(peak, _peak_here()), log["tokens_per_second"].max()
            torch.compiler.reset()  # without this, it gives up after a few models
            compiled = _run_here(books, [*flags, "--log-every", 10, "--device", "cpu", "--compile"])
            compiled = compiled["tokens_per_second"].max()
            model = build(name, VOCABULARY, L, None)
            used = flops_a_token(model, L) * speed
            row_of = {"model": name, "L": L, "parameters": model.num_parameters(), "tokens_per_second": round(speed)}
            row_of |= {"gflops": used / 1e9, "peak_gflops": peak / 1e9, "share": round(used / peak, 3)}
            rows.append(row_of | {"compiled_tokens_per_second": round(compiled), "ratio": round(compiled / speed, 3)})
    return pd.DataFrame(rows)


def _peak_here() -> float:
    """Operations per second in the fastest of ten matrix products."""
    one = torch.randn(2048, 2048, dtype=torch.bfloat16)
    return 2 * 2048**3 / min(timeit.repeat(lambda: one @ one, repeat=10, number=1))


def _run_here(program: ModuleType, flags: list[object]) -> pd.DataFrame:
    """Run a train.py in this process and return its log."""
    with tempfile.TemporaryDirectory() as folder:
        given = [*map(str, flags), "--out", f"{folder}/run"]
        cfg = parse(program.Settings, given, presets=program.PRESETS)
        cfg.validate()
        program.main(cfg)
        return pd.read_csv(f"{folder}/run/log.csv")


def main(cfg: Settings) -> None:
    out = cfg.out or Path(f"results/benchmarks/training_{cfg.part}.csv")
    if cfg.part in ("rates", "books", "speed"):
        write_csv(out, speed_rows(cfg) if cfg.part == "speed" else rate_rows(cfg), cfg)
        return
    rows, runs = [], []
    for model in cfg.models:
        rows += optimizer_rows(cfg, model, runs)
        publish(pd.DataFrame(rows), cfg, out, runs=runs)


if __name__ == "__main__":
    run(main, Settings, __doc__)
