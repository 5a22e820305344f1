"""The loss against torch.distributions, training against known optima, and the effects of the settings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import call_script, one_line_error
from transformers import PreTrainedConfig

from common import training
from gaussian_synthetic import train
from gaussian_synthetic.exact import dense, families
from gaussian_synthetic.train import Settings
from gaussian_synthetic.training import models

SCRIPT = "gaussian_synthetic/train.py"
TINY = "tiny"
QUICK = ["--model", TINY, "--L", 16, "--copies", 3, "--batch", 4, "--steps", 100, "--warmup", 10, "--log-every", 5]
QUICK += ["--checkpoint-every", 10, "--learning-rate", 3e-3]
CPU = torch.device("cpu")


class Linear(torch.nn.Module):
    """Predicts each position linearly from the value before it; the weights are the same for all copies."""

    def __init__(self, L: int) -> None:
        super().__init__()
        self.config = PreTrainedConfig()
        self.weight, self.log_std = (torch.nn.Parameter(torch.zeros(shape)) for shape in ((L, L), (L, 1)))
        self.register_buffer("seen", torch.ones(L, L).tril(-1).triu(-1))

    def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.matmul(self.weight * self.seen, z), self.log_std.expand_as(z)


def settings(out: Path, **changes) -> Settings:
    small = dict(model=TINY, L=16, copies=3, warmup=10, learning_rate=3e-3)
    return Settings(out=out, **{**small, **changes})


def read_log(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "log.csv")


def test_the_loss_is_the_kl_of_two_gaussians():
    random = torch.Generator().manual_seed(0)
    mean_q, log_std_q, mean_p = torch.randn(3, 5, 16, 4, generator=random)
    std_p = torch.rand(16, 1, generator=random) + 0.1
    wanted = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean_p, std_p.expand_as(mean_p)),
        torch.distributions.Normal(mean_q, log_std_q.exp()),
    )
    torch.testing.assert_close(train.conditional_kl(mean_q, log_std_q, mean_p, std_p), wanted, rtol=1e-5, atol=1e-5)


def test_the_loss_of_the_exact_predictor_is_zero_and_small_ones_are_not_lost():
    conditionals = families.prepare(families.named("subvolume", 2))
    _, mean = train.draw_tokens(conditionals, 2, 3, train.generator(0, "train", 0, CPU))
    std = conditionals.std[:, None]
    assert train.conditional_kl(mean, std.log().expand_as(mean), mean, std).abs().max() == 0
    # A shift of δσ costs δ²/2, although 1 + δ² is 1 in float32. A σ_q that is off by a factor e^δ costs δ².
    delta = 1e-4
    shifted = train.conditional_kl(torch.tensor(delta), torch.tensor(0.0), torch.tensor(0.0), torch.tensor(1.0))
    assert shifted.item() == pytest.approx(delta**2 / 2, rel=1e-5)
    wider = train.conditional_kl(torch.tensor(0.0), torch.tensor(1e-3), torch.tensor(0.0), torch.tensor(1.0))
    assert wider.item() == pytest.approx(1e-6, rel=2e-3)


def test_a_token_is_independent_sequences_side_by_side():
    conditionals = families.prepare(families.named("subvolume", 2), torch.float64)
    z, mean = train.draw_tokens(conditionals, 2000, 3, train.generator(0, "train", 0, CPU))
    assert z.shape == mean.shape == (2000, 16, 3)
    sigma = dense.covariance(conditionals.of)
    for copy in range(3):
        wanted, _ = dense.conditionals(sigma, z[:5, :, copy].T.numpy())
        np.testing.assert_allclose(mean[:5, :, copy].T.numpy(), wanted, rtol=0, atol=1e-10)
    across = torch.einsum("dsa,dtb->asbt", z, z).reshape(48, 48) / len(z)
    wanted = np.kron(np.eye(3), sigma)
    assert np.abs(across.numpy() - wanted).max() < 5 / np.sqrt(2000) * np.sqrt(2)


def test_every_step_has_random_numbers_of_its_own():
    def first(*which):
        return torch.randn(4, generator=train.generator(*which, CPU)).tolist()

    assert first(0, "train", 7) == first(0, "train", 7)
    others = [(0, "train", 8), (1, "train", 7), (0, "evaluate", 7)]
    assert all(first(0, "train", 7) != first(*which) for which in others)
    seeds = {train.generator(3, "train", step, CPU).initial_seed() % 2**32 for step in range(100_000)}
    assert len(seeds) == 100_000  # a CPU generator uses only these 32 bits


def test_a_linear_predictor_is_trained_to_its_optimum(tmp_path):
    """Its KL is the mean over t of ln σ(z_t | the value before) − ln σ(z_t | all before)."""
    cfg = settings(tmp_path, batch=64, copies=8, steps=1500, learning_rate=0.02, log_every=500, checkpoint_every=500)
    with training.processes(cfg) as accelerator:
        task = train.task(cfg, CPU)
        task.model = task.backbone = Linear(16)
        training.train(cfg, task, accelerator)
    of = families.named("subvolume", 2)
    sigma = dense.covariance(of)
    best = np.log(1 - np.diag(sigma, -1) ** 2).sum() / 2 / 16  # every value has the variance 1
    wanted = best - families.conditional_std(of).log().mean().item()
    kl = read_log(tmp_path)["kl_nats"].iloc[-1]
    assert kl == pytest.approx(8 * wanted, abs=8 * 5e-4)  # per token of 8 copies


def test_a_small_model_learns_the_exact_conditionals(tmp_path):
    """KL falls below 1% of what ignoring the past costs: 0.64 nats per token of four copies."""
    cfg = settings(tmp_path, copies=4, batch=64, steps=300, warmup=30, learning_rate=5e-3, optimizer="muon")
    train.main(replace(cfg, log_every=15, checkpoint_every=300))
    log = read_log(tmp_path)
    ignoring = -4 * families.conditional_std(families.named("subvolume", 2)).log().mean().item()
    assert 0.5 * ignoring < log["kl_nats"].iloc[0] < 1.5 * ignoring
    assert log["kl_nats"].iloc[-1] < 0.01 * ignoring


def test_a_run_by_its_command_line(tmp_path):
    done = call_script(SCRIPT, *QUICK, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    log = read_log(tmp_path)
    assert list(log) == ["step", "tokens", "kl_nats", "learning_rate", "tokens_per_second"]
    assert log["step"].tolist() == list(range(5, 101, 5))
    assert (log["tokens"] == log["step"] * 4 * 16).all()
    # Losses of the previous version of the training loop, on a CPU.
    assert log["kl_nats"].iloc[[0, 9, 19]].tolist() == pytest.approx([0.648563960, 0.372031532, 0.354759707], rel=1e-5)
    # The loss of the first step is that of the seed's initial weights on its first draws.
    torch.manual_seed(0)
    model, conditionals = models.build(TINY, 3, 16), families.prepare(families.named("subvolume", 2))
    z, mean = train.draw_tokens(conditionals, 4, 3, train.generator(0, "train", 0, CPU))
    nats = train.conditional_kl(*model(z), mean, conditionals.std[:, None]).mean().item()
    call_script(SCRIPT, *QUICK, "--out", tmp_path / "one", "--log-every", 1, "--steps", 11)
    assert read_log(tmp_path / "one")["kl_nats"].iloc[0] == pytest.approx(3 * nats, rel=1e-6)


@pytest.mark.parametrize("changes", [{"k": 2}, {"family": "logarithmic"}, {"n": 4}, {"seed": 1}])
def test_the_family_and_the_seed_of_the_settings(tmp_path, changes):
    plain, other = (train.task(settings(tmp_path, **some), CPU).draw(0)[0] for some in ({}, changes))
    assert torch.equal(plain, other) == (changes == {"n": 4})


def test_bad_settings(tmp_path):
    done = call_script(SCRIPT, *QUICK, "--out", tmp_path / "new", "--copies", 0)
    assert "--copies 0: must be at least 1" in one_line_error(done)
    assert not (tmp_path / "new").exists()


def test_a_run_begins_with_the_weights_of_a_shorter_one(tmp_path):
    """Its tables of positions repeat those of the shorter run; all other weights are equal."""
    short = ["--model", "gpt2-mini", "--copies", 2, "--batch", 8, "--steps", 20, "--warmup", 2, "--log-every", 10]
    short += ["--checkpoint-every", 10, "--learning-rate", 3e-3, "--optimizer", "muon"]
    assert call_script(SCRIPT, *short, "--L", 4, "--out", tmp_path / "short").returncode == 0
    weights = training.read_checkpoint(tmp_path / "short" / training.CHECKPOINT)["model"]
    cfg = Settings(model="gpt2-mini", out=tmp_path, L=16, copies=2, start=tmp_path / "short")
    begun = train.task(cfg, CPU).model.state_dict()
    tables = {name for name, value in begun.items() if value.shape != weights[name].shape}
    assert tables == {"positions.weight", "backbone.wpe.weight"}
    for name, value in begun.items():
        assert torch.equal(value, weights[name].repeat(4, 1) if name in tables else weights[name])
    long = ["--L", 16, "--start", tmp_path / "short", "--out", tmp_path / "long"]
    assert call_script(SCRIPT, *short, *long).returncode == 0
    facts = json.loads((tmp_path / "long" / "run.json").read_text(encoding="utf-8"))
    assert facts["start"] == str(tmp_path / "short")
    assert call_script(SCRIPT, *short, *long[:2], "--out", tmp_path / "cold").returncode == 0
    assert read_log(tmp_path / "long")["kl_nats"].iloc[0] < 0.8 * read_log(tmp_path / "cold")["kl_nats"].iloc[0]
    other = call_script(SCRIPT, *short, *long[:4], "--copies", 3, "--out", tmp_path / "other")
    assert "is of another model, width or number of copies" in one_line_error(other)
    assert not (tmp_path / "other").exists()
