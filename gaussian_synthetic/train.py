"""Train a model on a Gaussian family whose conditionals are known exactly (Fig. 3, G.7, G.8; App. F).

    python gaussian_synthetic/train.py --model gpt2 --L 256 --family subvolume --seed 0 --out runs/gpt2_256_0
    python gaussian_synthetic/train.py --model gpt2-mini --L 64 --preset cpu --out runs/mini      # PRESETS, see below
    torchrun --nproc-per-node 4 gaussian_synthetic/train.py …    # one process per GPU, the same steps and draws

Every step draws fresh sequences, and the loss is the exact conditional KL (Eq. F.37), so there is no data set, and no
noise from the next token. The training loop is in common/training.py, which also says what is written into --out.
kl_nats in log.csv is per token: summed over copies, averaged over positions and over the steps since the previous row.

The paper uses one H100 or A100 per run. Expect kl_nats to start above 0.2 · copies (12.8 with 64), which is what
ignoring the past costs, and to fall towards 0, the value of an exact model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from common import training
from common.cli import UserError, at_least, run
from common.record import file_hash
from common.resume import RESUME_OK
from gaussian_synthetic.exact import families
from gaussian_synthetic.training import models


@dataclass(frozen=True, kw_only=True)
class Settings(training.Settings):
    L: int = 256  # tokens: a power of n
    family: Literal["subvolume", "logarithmic"] = "subvolume"  # App. C: three of the four columns copied, or one
    k: int | None = None
    """not in the paper: copied columns, instead of the family's; information then grows as L^β with β = log_n k"""
    n: int = families.PAPER_N  # not in the paper: branching, values per row
    copies: int = 64  # independent sequences side by side in one token (App. F.I)
    steps: int = 500_000  # optimizer steps
    batch: int = 4  # sequences of L tokens per step, over all processes and micro-batches
    start: Path | None = field(default=None, metadata=RESUME_OK)
    """not in the paper: a run of the same model and copies at a shorter L, whose weights this run starts from"""

    def validate(self) -> None:
        families.layers_of_length(self.L, self.n)
        at_least(1, self, "copies", "steps", "batch")
        super().validate()


def sequences(tokens: int) -> dict[int, int]:
    """The --batch that gives `tokens` tokens per step, for each L = 4 … 4^8; at least one sequence."""
    return {4**layers: max(1, tokens // 4**layers) for layers in range(1, 9)}


# What --preset sets instead of the paper's values above. {L: value}: by length, see common.cli.parse.
# Few tokens per step and therefore many steps give a lower KL in the same time than larger batches; few copies help for
# the same reason. After the first `steps`, training restarts for twice as many, then twice as many again, until two
# restarts lower the KL by less than CONVERGED each, or it is below 0.2% of what ignoring the past costs at L = 16.
CONVERGED = 0.1  # a restart that lowers the KL by less than this share changes little
LONG = {"restarts": {16: 6, 64: 7, 256: 3}, "stop_below": CONVERGED, "negligible": 0.005}
MUON = {"optimizer": "muon", "clip": 1.0, "precision": "bf16", "log_every": 50, "checkpoint_every": 500}
MUON |= {"learning_rate": 8e-3}  # results/benchmarks/training_rates.csv
STEPS = {"steps": {64: 500, 256: 1000, 1024: 2000}, "warmup": {64: 50, 256: 100}}
CPU = LONG | MUON | STEPS | {"copies": 16, "batch": sequences(1024)}
GPU = CPU | {"batch": sequences(8192), "restarts": {16: 3, 256: 2}}
PRESETS = {
    "paper": {},
    "gpu": GPU,
    "cpu": CPU,
    "cpu-few": CPU | {"copies": 4, "negligible": 0.001},  # few copies: more elements of the state for each
    "smoke": CPU | {"copies": 2, "steps": 30, "warmup": 5, "log_every": 10, "checkpoint_every": 10, "restarts": 1},
}


def generator(seed: int, purpose: str, number: int, device: torch.device | str) -> torch.Generator:
    """The random generator of one step (purpose "train") or one draw ("evaluate"), whatever was drawn before.

    So a resumed run needs no random state, and the number of GPUs or micro-batches does not change what is drawn.
    """
    base = int(np.random.SeedSequence((seed, *purpose.encode())).generate_state(1, np.uint64)[0])
    # Counted up rather than hashed: a CPU generator uses 32 bits of the seed, and some of 500,000 hashes would collide.
    return torch.Generator(device).manual_seed((base + number) % 2**64)


def draw_tokens(
    conditionals: families.Conditionals, draws: int, copies: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """z and E[z_t | z_<t], (draws, L, copies) each: a token holds `copies` independent sequences side by side."""
    z, mean = families.draw(conditionals, draws * copies, generator)
    return tuple(values.view(len(values), draws, copies).transpose(0, 1) for values in (z, mean))


def conditional_kl(
    mean_q: torch.Tensor, log_std_q: torch.Tensor, mean_p: torch.Tensor, std_p: torch.Tensor
) -> torch.Tensor:
    """KL(p || q) of each variable's conditional law, in nats (Eq. F.37), float32; the shapes broadcast.

    log(σ_q/σ_p) + (σ_p² + (μ_q − μ_p)²)/(2σ_q²) − ½, written to avoid cancellation where q is near p: a σ_q
    that is off by a factor 1 + δ costs δ², and the error of the result is about 1e-7 · δ.
    """
    log_std_q = log_std_q.float()
    log_ratio = std_p.log() - log_std_q
    shift = (mean_q.float() - mean_p) * torch.exp(-log_std_q)
    return torch.expm1(2 * log_ratio) / 2 - log_ratio + shift**2 / 2


def start_from(model: models.GaussianModel, run: Path) -> str:
    """Load the weights of another run into the model, and return their hash. A shorter table of positions is repeated.

    UserError: no checkpoint, or one of another model or number of copies.
    """
    weights, own = training.read_checkpoint(run / training.CHECKPOINT)["model"], model.state_dict()
    for name in weights.keys() & own.keys():
        if "positions" in name or "wpe" in name:  # row i gets row i mod rows: blocks of 4, 16, … repeat
            rows, wanted = len(weights[name]), len(own[name])
            weights[name] = weights[name].repeat(-(-wanted // rows), 1)[:wanted]
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"--start {run} is of another model, width or number of copies than --model here") from error
    return file_hash(run / training.CHECKPOINT)[:16]


def task(cfg: Settings, device: torch.device) -> training.Task:
    """The model of these settings, the draws of each step, and their exact KL. UserError: unknown model."""
    of = families.named(cfg.family, families.layers_of_length(cfg.L, cfg.n), cfg.k, cfg.n)
    conditionals = families.prepare(of, device=device)
    torch.manual_seed(cfg.seed)
    model = models.build(cfg.model, cfg.copies, cfg.L)

    def draw(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        return draw_tokens(conditionals, cfg.batch, cfg.copies, generator(cfg.seed, "train", step, device))

    def loss(model: torch.nn.Module, part: Sequence[torch.Tensor]) -> torch.Tensor:
        z, mean = part
        return conditional_kl(*model(z), mean, conditionals.std[:, None]).mean()

    of = (model, model.backbone, cfg.steps, cfg.batch, cfg.L, draw, loss)
    began = {"start": str(cfg.start), "start_checkpoint": start_from(model, cfg.start)} if cfg.start else {}
    return training.Task(*of, column="kl_nats", scale=cfg.copies, facts=began)


def main(cfg: Settings) -> None:
    with training.processes(cfg) as accelerator:
        training.train(cfg, task(cfg, accelerator.device), accelerator)


if __name__ == "__main__":
    run(main, Settings, __doc__, PRESETS)
