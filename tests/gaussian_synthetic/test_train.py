"""The loss against another library, optima that are known, and runs that are split, killed, resumed or refused."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, call_script, one_line_error, run_script
from transformers import OlmoeConfig, OlmoeModel, PreTrainedConfig

from common import history_state
from common.cli import UserError
from gaussian_synthetic import train
from gaussian_synthetic.exact import dense, families
from gaussian_synthetic.train import Distributed, Settings, Training
from gaussian_synthetic.training import models

SCRIPT = "gaussian_synthetic/train.py"
TINY = "tiny"
QUICK = ["--model", TINY, "--L", 16, "--copies", 3, "--batch", 4, "--steps", 60, "--warmup", 10, "--log-every", 5]
QUICK += ["--checkpoint-every", 10, "--learning-rate", 3e-3]
CPU = torch.device("cpu")


class Linear(torch.nn.Module):
    """Position by position a linear predictor of the `reach` values before it, the same for all copies."""

    name = "linear"
    reach = 16

    def __init__(self, L: int) -> None:
        super().__init__()
        self.config = PreTrainedConfig()
        self.weight, self.log_std = (torch.nn.Parameter(torch.zeros(shape)) for shape in ((L, L), (L, 1)))
        self.register_buffer("seen", torch.ones(L, L).tril(-1).triu(-self.reach))

    def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.matmul(self.weight * self.seen, z), self.log_std.expand_as(z)


@pytest.fixture
def linear(monkeypatch: pytest.MonkeyPatch) -> type[Linear]:
    monkeypatch.setattr(models, "build", lambda name, copies, L: Linear(L))
    return Linear


def settings(out: Path, **changes) -> Settings:
    small = dict(model=TINY, L=16, copies=3, steps=60, warmup=10, log_every=5, checkpoint_every=10, learning_rate=3e-3)
    return Settings(out=out, **{**small, **changes})


def read_log(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "log.csv")


def without_speed(log: pd.DataFrame) -> pd.DataFrame:
    return log.drop(columns="tokens_per_second")


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
    # A shift of δσ costs δ²/2 and a σ_q off by the factor e^δ costs δ², although 1 + δ² is 1 in float32.
    delta = 1e-4
    shifted = train.conditional_kl(torch.tensor(delta), torch.tensor(0.0), torch.tensor(0.0), torch.tensor(1.0))
    assert shifted.item() == pytest.approx(delta**2 / 2, rel=1e-5)
    wider = train.conditional_kl(torch.tensor(0.0), torch.tensor(1e-3), torch.tensor(0.0), torch.tensor(1.0))
    assert wider.item() == pytest.approx(1e-6, rel=2e-3)


def test_a_token_is_independent_sequences_side_by_side():
    conditionals = families.prepare(families.named("subvolume", 2), torch.float64)
    z, mean = train.draw_tokens(conditionals, 2000, 3, train.generator(0, "train", 0, CPU))
    assert z.shape == mean.shape == (2000, 16, 3)
    for copy in range(3):
        wanted = families.conditional_mean(conditionals, z[:5, :, copy].T.contiguous()).T
        torch.testing.assert_close(mean[:5, :, copy], wanted, rtol=0, atol=1e-10)
    across = torch.einsum("dsa,dtb->asbt", z, z).reshape(48, 48) / len(z)
    wanted = np.kron(np.eye(3), dense.covariance(conditionals.of))
    assert np.abs(across.numpy() - wanted).max() < 5 / np.sqrt(2000) * np.sqrt(2)


def test_every_step_has_random_numbers_of_its_own():
    def first(*which):
        return torch.randn(4, generator=train.generator(*which, CPU)).tolist()

    assert first(0, "train", 7) == first(0, "train", 7)
    others = [(0, "train", 8), (1, "train", 7), (0, "evaluate", 7)]
    assert all(first(0, "train", 7) != first(*which) for which in others)
    seeds = {train.generator(3, "train", step, CPU).initial_seed() % 2**32 for step in range(100_000)}
    assert len(seeds) == 100_000  # a CPU generator has no more than these bits


@pytest.mark.parametrize("reach", [1, 4, 16])
def test_a_linear_predictor_is_trained_to_its_optimum(tmp_path, linear, monkeypatch, reach):
    """Of the last m values: KL = mean over t of ln σ(z_t | m values before) − ln σ(z_t | all before), 0 for m = L."""
    monkeypatch.setattr(linear, "reach", reach)
    cfg = settings(tmp_path, batch=64, copies=8, steps=1500, learning_rate=0.02, log_every=500, checkpoint_every=500)
    train.main(cfg)
    of = families.named("subvolume", 2)
    sigma = dense.covariance(of)
    best = []
    for t in range(16):
        seen = slice(max(0, t - reach), t)
        explained = sigma[t, seen] @ np.linalg.solve(sigma[seen, seen], sigma[seen, t]) if t else 0.0
        best.append(np.log(1 - explained) / 2)
    wanted = np.mean(best) - families.conditional_std(of).log().mean().item()
    kl = read_log(tmp_path)["kl_nats"].iloc[-1]
    assert kl == pytest.approx(8 * wanted, abs=8 * 5e-4)  # of a token of 8 copies


@pytest.mark.parametrize(("L", "steps"), [(4, 300), (16, 1000)])
def test_a_small_model_learns_the_exact_conditionals(tmp_path, L, steps):
    """Within 4e-3 nats a token of four copies, of 0.36 (L = 4) and 0.64 (L = 16) that ignoring the past costs."""
    cfg = settings(tmp_path, L=L, copies=4, batch=64, steps=steps, warmup=30, learning_rate=5e-3, log_every=50)
    train.main(replace_every(cfg))
    log = read_log(tmp_path)
    ignoring = -4 * families.conditional_std(train.build_family("subvolume", L)).log().mean().item()
    assert 0.5 * ignoring < log["kl_nats"].iloc[0] < 1.5 * ignoring
    assert log["kl_nats"].iloc[-1] < 4e-3


def replace_every(cfg: Settings) -> Settings:
    return Settings(**{**vars(cfg), "checkpoint_every": cfg.steps // cfg.log_every * cfg.log_every})


def test_the_loss_at_a_position_depends_on_the_past_alone():
    torch.manual_seed(0)
    model = models.build(TINY, 3, 16)
    conditionals = families.prepare(families.named("subvolume", 2))
    z, mean = train.draw_tokens(conditionals, 1, 3, train.generator(0, "train", 0, CPU))
    z = z.clone().requires_grad_()
    kl = train.conditional_kl(*model(z), mean, conditionals.std[:, None]).sum(dim=(0, 2))
    for position in (0, 7, 15):
        (gradient,) = torch.autograd.grad(kl[position], z, retain_graph=True)
        size = gradient[0].abs().sum(dim=1)
        assert (size[position:] == 0).all()
        assert (size[:position] > 0).all()


def test_log_and_schedule(tmp_path):
    done = call_script(SCRIPT, *QUICK, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    log = read_log(tmp_path)
    assert list(log) == ["step", "tokens", "kl_nats", "learning_rate", "tokens_per_second"]
    assert log["step"].tolist() == list(range(5, 61, 5))
    assert (log["tokens"] == log["step"] * 4 * 16).all()
    step = log["step"].to_numpy()
    cosine = 3e-3 * (1 + np.cos(np.pi * (step - 10) / 50)) / 2
    np.testing.assert_allclose(log["learning_rate"], np.where(step < 10, 3e-3 * step / 10, cosine), atol=1e-12)
    assert "million parameters, 64 tokens a step, 60 of 60 steps" in done.stdout
    assert f"{log['kl_nats'].iloc[-1]:.4g} nats a token" in done.stdout
    before = (tmp_path / "log.csv").read_bytes(), (tmp_path / "log.json").read_bytes()
    again = call_script(SCRIPT, *QUICK, "--out", tmp_path)
    assert "0 of 60 steps to do" in again.stdout
    assert ((tmp_path / "log.csv").read_bytes(), (tmp_path / "log.json").read_bytes()) == before


def test_a_run_of_steps_that_no_row_divides(tmp_path):
    train.main(settings(tmp_path, steps=13))
    assert read_log(tmp_path)["step"].tolist() == [5, 10, 13]


def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path):
    call_script(SCRIPT, *QUICK, "--out", tmp_path / "whole")
    command = [sys.executable, ROOT / SCRIPT, *map(str, QUICK), "--out", tmp_path / "killed"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "killed" / train.CHECKPOINT
    while not checkpoint.exists():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 0 < train.read_checkpoint(checkpoint)["step"] < 60
    done = run_script(SCRIPT, *QUICK, "--out", tmp_path / "killed")
    assert ", 0 of 60 steps" not in done.stdout
    whole, resumed = (train.read_checkpoint(tmp_path / name / train.CHECKPOINT) for name in ("whole", "killed"))
    pd.testing.assert_frame_equal(
        *(without_speed(read_log(tmp_path / name)) for name in ("whole", "killed")), check_exact=True
    )
    assert all(torch.equal(value, resumed["model"][name]) for name, value in whole["model"].items())


def test_a_run_killed_between_checkpoint_and_log_has_its_whole_log_in_the_end(tmp_path):
    train.main(settings(tmp_path))
    whole, path = read_log(tmp_path), tmp_path / "log.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))
    train.main(settings(tmp_path))
    pd.testing.assert_frame_equal(read_log(tmp_path), whole, check_exact=True)


def test_micro_batches_and_processes_change_nothing(tmp_path):
    call_script(SCRIPT, *QUICK, "--out", tmp_path / "one")
    call_script(SCRIPT, *QUICK, "--out", tmp_path / "parts", "--accumulate", 4)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, ROOT / SCRIPT, *map(str, QUICK), "--accumulate", "2", "--out", tmp_path / "two", "--device"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "cpu"], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert "2 × cpu" in done.stdout
    one, parts, two = (without_speed(read_log(tmp_path / name)) for name in ("one", "parts", "two"))
    pd.testing.assert_frame_equal(one, parts, check_exact=False, rtol=1e-4)
    # The halves of a batch meet in another order, and nothing else differs.
    pd.testing.assert_frame_equal(parts, two, check_exact=False, rtol=1e-5)


def test_every_process_takes_another_part_of_the_batch(tmp_path, linear, monkeypatch):
    whole = Training(settings(tmp_path, batch=8), Distributed(CPU))
    conditionals = families.prepare(whole.of)
    z, _ = train.draw_tokens(conditionals, 8, 3, train.generator(0, "train", 0, CPU))
    seen = []
    monkeypatch.setattr(linear, "forward", lambda self, z: seen.append(z) or (z * self.weight.sum(), self.log_std))
    for rank in range(2):
        training = Training(settings(tmp_path, batch=8, accumulate=2), Distributed(CPU, rank))
        training.micro_batch, training.place = 2, Distributed(CPU, rank, 2)
        training.model.no_sync = train.contextlib.nullcontext
        train.train_step(training, training.model, conditionals, conditionals.std[:, None])
    assert torch.equal(torch.cat([seen[0], seen[2], seen[1], seen[3]]), z)


@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"precision": "tf32"}, {"clip": 0.5}, {"k": 2}, {"n": 4}])
def test_other_settings_train_too(tmp_path, changes):
    train.main(settings(tmp_path / "plain"))
    train.main(settings(tmp_path / "other", **changes))
    plain, other = (read_log(tmp_path / name)["kl_nats"] for name in ("plain", "other"))
    assert other.iloc[-1] < other.iloc[0]
    if changes in ({"precision": "tf32"}, {"n": 4}):  # nothing but a GPU rounds to TF32
        assert (other == plain).all()
    else:
        assert not (other == plain).all()
    if "precision" in changes:
        np.testing.assert_allclose(other, plain, rtol=0.05)


def test_a_small_clip_bounds_the_gradient(tmp_path):
    training = Training(settings(tmp_path, clip=1e-3), Distributed(CPU))
    norms = []
    training.optimizer.zero_grad = lambda: norms.append(
        torch.nn.utils.get_total_norm([value.grad for value in training.model.parameters() if value.grad is not None])
    )
    conditionals = families.prepare(training.of)
    train.train_step(training, training.model, conditionals, conditionals.std[:, None])
    assert norms[0] == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--L", 1000], "L = 1000 is no power of n = 4: give 1024 or 256"),
        (["--L", 16, "--n", 3], "L = 16 is no power of n = 3"),
        (["--k", 5], "k = 5 copied columns of n = 4"),
        (["--model", "nothing-of-the-kind"], "nothing-of-the-kind"),
        (["--copies", 0], "--copies 0: at least 1"),
        (["--batch", 4, "--accumulate", 3], "--batch 4 in 3 micro-batches"),
        (["--warmup", 60], "--warmup 60: below the number of steps, 60"),
        (["--checkpoint-every", 7], "--checkpoint-every 7: a multiple of --log-every 5"),
        (["--learning-rate", 0], "--learning-rate 0.0: above 0"),
        (["--weight-decay", -1], "--weight-decay -1.0"),
        (["--clip", 0], "--clip 0.0: above 0"),
        (["--device", "abacus"], "--device abacus: give auto, cpu, cuda or cuda:1"),
        (["--device", "meta"], "--device meta: give auto, cpu, cuda or cuda:1"),
        (["--device", "cuda:7"], "--device cuda:7: no GPU 7"),
    ],
    ids=str,
)
def test_bad_settings(tmp_path, changes, said):
    assert said in one_line_error(call_script(SCRIPT, *QUICK, "--out", tmp_path / "new", *changes))
    assert not (tmp_path / "new").exists()


def test_a_folder_with_another_run_is_refused(tmp_path):
    train.main(settings(tmp_path, steps=15))
    before = (tmp_path / train.CHECKPOINT).read_bytes()
    with pytest.raises(UserError, match=r"holds another run \(copies 3, here 4; seed 0, here 1\): give another --out"):
        train.main(settings(tmp_path, steps=15, seed=1, copies=4))
    assert (tmp_path / train.CHECKPOINT).read_bytes() == before
    train.main(settings(tmp_path, steps=15, accumulate=2, checkpoint_every=15))  # where it may differ


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path, monkeypatch):
    train.main(settings(tmp_path, steps=15))
    build = models.build

    def wider(name, copies, L):
        model = build(name, copies, L)
        model.config.hidden_size *= 2
        return model

    monkeypatch.setattr(models, "build", wider)
    said = r"holds another configuration of the model \((hidden_size|n_embd) \d+, here \d+\)"
    with pytest.raises(UserError, match=said):
        train.main(settings(tmp_path, steps=15))

    def deeper(name, copies, L):
        model = build(name, copies, L)
        model.another = torch.nn.Linear(2, 2)
        return model

    monkeypatch.setattr(models, "build", deeper)
    with pytest.raises(UserError, match=rf"holds other tensors than {TINY} has: give another --out"):
        train.main(settings(tmp_path, steps=15))


@pytest.mark.parametrize("damage", ["cut", "text", "other"])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    train.main(settings(tmp_path, steps=15))
    path = tmp_path / train.CHECKPOINT
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "text":
        path.write_text("nothing")
    else:
        torch.save({"weights": torch.zeros(1)}, path)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"checkpoint.pt is no checkpoint of train.py, or damaged"):
        train.main(settings(tmp_path, steps=15))
    assert path.read_bytes() == before


def test_a_log_without_its_checkpoint_is_refused(tmp_path):
    (tmp_path / "log.csv").write_text("mine")
    with pytest.raises(UserError, match=r"holds a log.csv and no checkpoint.pt"):
        train.main(settings(tmp_path))
    assert (tmp_path / "log.csv").read_text() == "mine"


def fail_at(monkeypatch, call: int, what) -> None:
    """Let the model's `call`-th forward return what(mean), or raise it."""
    calls, forward = [], Linear.forward

    def broken(self, z):
        calls.append(0)
        mean, log_std = forward(self, z)
        return (what(mean) if len(calls) == call else mean), log_std

    monkeypatch.setattr(Linear, "forward", broken)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, linear, monkeypatch):
    fail_at(monkeypatch, 38, lambda mean: mean * torch.nan)
    with pytest.raises(UserError) as error:
        train.main(settings(tmp_path))
    assert "the loss is not finite at step 38" in str(error.value)
    assert f"{tmp_path / train.CHECKPOINT} holds step 30" in str(error.value)
    saved = train.read_checkpoint(tmp_path / train.CHECKPOINT)
    assert saved["step"] == 30
    assert all(value.isfinite().all() for value in saved["model"].values())
    assert read_log(tmp_path)["step"].max() == 30


def test_weights_that_are_not_finite_are_not_saved(tmp_path, linear, monkeypatch):
    """The last step before a checkpoint can spoil the weights with a loss that was finite."""
    fail_at(monkeypatch, 10, lambda mean: mean.detach() + torch.sqrt(mean * 0))
    with pytest.raises(UserError, match="the weights are not finite at step 10; there is no checkpoint yet"):
        train.main(settings(tmp_path))
    assert not (tmp_path / train.CHECKPOINT).exists()


@pytest.mark.parametrize(
    ("batch", "accumulate", "said"),
    [
        (8, 1, "8 sequences of 16 tokens at a time do not fit the memory of cpu: give --accumulate 2, which takes 4"),
        (6, 2, "3 sequences of 16 tokens at a time do not fit the memory of cpu: give --accumulate 6, which takes 1"),
        (2, 2, "use --precision bf16, a shorter --L or a smaller model"),
    ],
)
def test_too_little_memory_on_the_gpu(tmp_path, linear, monkeypatch, batch, accumulate, said):
    def full(mean):
        raise torch.OutOfMemoryError("CUDA out of memory")

    fail_at(monkeypatch, 25, full)
    with pytest.raises(UserError, match=re.escape(said)):
        train.main(settings(tmp_path, batch=batch, accumulate=accumulate))


def test_a_model_that_the_gpu_cannot_hold(tmp_path, linear, monkeypatch):
    def full(self, device):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(linear, "to", full)
    with pytest.raises(UserError, match="the weights of tiny do not fit the free memory of cpu: give a smaller"):
        train.main(settings(tmp_path))


def test_the_hours_predicted_are_those_of_the_steps_after_the_first(tmp_path, linear, monkeypatch, capsys):
    """A first step of 100 s, which compiles, and further ones of 1 s: 48 are left when 11 s have passed."""
    clock = [0.0]

    def train_step(training, *_):
        clock[0] += 1 if training.step else 100
        return torch.zeros(())

    monkeypatch.setattr(train, "train_step", train_step)
    monkeypatch.setattr(train.time, "perf_counter", lambda: clock[0])
    train.main(settings(tmp_path))
    assert f"about {48 / 3600:.2g} hours for the 48 steps to come" in capsys.readouterr().out


def test_share_of_the_peak(tmp_path, linear, monkeypatch, capsys):
    """Steps of one second on a device that could do them in half a second."""
    clock = [0.0]

    def train_step(*_):
        clock[0] += 1
        return torch.zeros(())

    monkeypatch.setattr(train, "train_step", train_step)
    monkeypatch.setattr(train.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(train, "flops_a_token", lambda model, L: 3e9)
    tokens_a_step = settings(tmp_path).batch * 16
    train.main(settings(tmp_path, peak_tflops=2 * 3e9 * tokens_a_step / 1e12))
    assert "50% of the peak" in capsys.readouterr().err


def test_the_line_that_opens_a_run(tmp_path):
    done = call_script(SCRIPT, *QUICK, "--out", tmp_path, "--steps", 20)
    assert re.match(rf"{TINY}: [\d.]+ million parameters, 64 tokens a step, 20 of 20 steps to do, 1 × ", done.stdout)
    assert "KL" in done.stderr
    assert "tokens/s" in done.stderr
    assert "of the peak" not in done.stderr


def test_processes_do_not_share_a_gpu(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="--device cuda:1 for 2 processes: give cuda"):
        train.init_distributed("cuda:1")


def test_a_model_of_unknown_state_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setitem(models.TRANSFORMERS, "olmoe", (OlmoeConfig, OlmoeModel))
    small = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    monkeypatch.setitem(models.MODELS, "mine", ("olmoe", small | {"num_experts": 2}, False))
    monkeypatch.setattr(history_state, "KNOWN", history_state.KNOWN - {"olmoe"})
    done = call_script("gaussian_synthetic/train.py", "--model", "mine", "--L", 16, "--out", tmp_path / "run")
    assert "history state of model type 'olmoe' is not known here" in one_line_error(done)
    assert not (tmp_path / "run").exists()
