"""The training loop: its steps compared with plain torch; runs that are split, interrupted, refused, or fail."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import ROOT
from transformers import AutoModel, PreTrainedConfig

from common import training
from common.architectures import configuration
from common.cli import UserError
from common.training import CHECKPOINT, Settings, Task

L, WIDTH = 8, 4


class Net(torch.nn.Module):
    """A tiny GPT2 as backbone between two linear layers; the tests train it on the cumulative sums of its input."""

    def __init__(self) -> None:
        super().__init__()
        config = configuration("tiny", L, vocab_size=1, bos_token_id=None, eos_token_id=None)
        self.backbone = AutoModel.from_config(config)
        self.backbone.set_input_embeddings(torch.nn.Identity())
        self.config, self.before = config, torch.nn.Linear(WIDTH, 32)
        self.after = torch.nn.Linear(32, WIDTH)
        self.spoil: dict[int, Callable[[torch.Tensor], torch.Tensor]] = {}  # changes of the output, by call number
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        y = self.after(self.backbone(inputs_embeds=self.before(x), use_cache=False).last_hidden_state)
        return self.spoil[self.calls](y) if self.calls in self.spoil else y


def draw(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(8, L, WIDTH, generator=torch.Generator().manual_seed(step))
    return x, x.cumsum(1)


def loss(model: torch.nn.Module, part: list[torch.Tensor]) -> torch.Tensor:
    x, y = part
    return (model(x) - y).square().mean()


def task(**changes: object) -> Task:
    torch.manual_seed(0)
    model = Net()
    return replace(Task(model, model.backbone, 30, 8, L, draw, loss, "error"), **changes)


def settings(out: Path, **changes: object) -> Settings:
    small = dict(model="net", warmup=5, log_every=5, checkpoint_every=10, learning_rate=3e-3, device="cpu")
    return Settings(out=out, **{**small, **changes})


def run(cfg: Settings, of: Task | None = None) -> pd.DataFrame:
    """Train; returns log.csv without the speed."""
    cfg.validate()
    with training.processes(cfg) as accelerator:
        training.train(cfg, of or task(), accelerator)
    return read_log(cfg.out)


def read_log(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "log.csv").drop(columns="tokens_per_second")


def test_the_steps_are_those_of_plain_torch(tmp_path):
    """Every row of the log: AdamW, cosine, clipping, parameters without decay; the last row has fewer steps."""
    bare = {"after.bias", "before.bias"}
    log = run(settings(tmp_path, clip=0.5, weight_decay=0.3), task(steps=33, undecayed=bare, scale=2))
    model = task().model.train()
    named = dict(model.named_parameters())
    groups = [{"params": [v for n, v in named.items() if n not in bare], "weight_decay": 0.3}]
    groups.append({"params": [named[name] for name in bare], "weight_decay": 0.0})
    optimizer, losses, rates = torch.optim.AdamW(groups), [], []
    for step in range(33):
        factor = step / 5 if step < 5 else (1 + math.cos(math.pi * (step - 5) / 28)) / 2
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * factor
        nats = loss(model, draw(step))
        optimizer.zero_grad()
        nats.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        losses.append(nats.item())
        rates.append(3e-3 * factor)
    last = [4, 9, 14, 19, 24, 29, 32]
    means = [sum(losses[a + 1 : b + 1]) / (b - a) for a, b in zip([-1, *last], last, strict=False)]
    assert log["step"].tolist() == [number + 1 for number in last]
    assert (log["tokens"] == 64 * log["step"]).all()
    assert (log["error"] / 2).tolist() == pytest.approx(means, rel=1e-5)
    assert log["learning_rate"].tolist() == pytest.approx([rates[i] for i in last], abs=1e-12)
    saved = training.read_checkpoint(tmp_path / CHECKPOINT)["model"]
    torch.testing.assert_close(saved["after.weight"], model.after.weight.detach(), rtol=1e-4, atol=1e-5)


def test_a_run_that_was_cut_goes_on_as_if_it_had_not_been(tmp_path):
    """With Muon, which leaves a part of the weights to AdamW."""
    cut = settings(tmp_path / "cut", optimizer="muon")
    whole = run(replace(cut, out=tmp_path / "whole"))
    of = task()
    of.model.spoil[24] = lambda y: y / 0 * 0
    with pytest.raises(UserError):
        run(cut, of)
    again = task()
    pd.testing.assert_frame_equal(run(cut, again), whole, check_exact=True)
    assert again.model.calls == 10
    ends = [training.read_checkpoint(tmp_path / name / CHECKPOINT)["model"] for name in ("whole", "cut")]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    before = (tmp_path / "cut" / "log.json").read_bytes()
    run(cut)  # finished: nothing is written
    assert (tmp_path / "cut" / "log.json").read_bytes() == before


def test_restarts(tmp_path):
    """Each restart doubles the steps; training stops when restarts change little; a finished run may be given more."""
    plain = run(settings(tmp_path / "plain", warmup=0), task(steps=10))
    whole = run(settings(tmp_path / "whole", warmup=0, restarts=2), task(steps=10))
    assert whole["step"].tolist() == list(range(5, 75, 5))
    pd.testing.assert_frame_equal(whole[:2], plain, check_exact=True)
    rates = []
    for start, end in ((0, 10), (10, 30), (30, 70)):
        rates += [(1 + math.cos(math.pi * i / (end - start))) / 2 for i in range(end - start)]
    assert whole["learning_rate"].tolist() == pytest.approx([3e-3 * rates[i] for i in range(4, 70, 5)], abs=1e-12)
    more = tmp_path / "more"
    assert run(settings(more, warmup=0, restarts=1), task(steps=10))["step"].max() == 30
    pd.testing.assert_frame_equal(run(settings(more, warmup=0, restarts=2), task(steps=10)), whole, check_exact=True)
    error = whole.set_index("step")["error"]
    assert training.ends_of_cosines(error.to_dict(), 10) == [error[10], error[30], error[70]]
    for factor, steps in ((1.01, 30), (0.99, 70)):
        stopping = settings(tmp_path / f"low{factor}", warmup=0, restarts=2, negligible=factor * error[30])
        assert run(stopping, task(steps=10))["step"].max() == steps
    least = max(1 - error[30] / error[10], 1 - error[70] / error[30])
    for factor, steps in ((1.01, 70), (0.99, 150)):
        stopping = settings(tmp_path / f"gain{factor}", warmup=0, restarts=3, stop_below=factor * least)
        assert run(stopping, task(steps=10))["step"].max() == steps
    assert not training.settled([1.0, 0.5, 0.49], 0.1, 0.01)  # one small gain is not enough
    assert training.settled([1.0, 0.5, 0.49, 0.48], 0.1, 0.01)
    with pytest.raises(UserError, match="12 steps must be a multiple of --log-every 5"):
        run(settings(tmp_path / "odd", warmup=0, restarts=1), task(steps=12))


def test_muon_takes_the_matrices_inside_the_backbone(tmp_path):
    of = task()
    adamw, muon = training.make_optimizers(settings(tmp_path, optimizer="muon"), of)
    names = {id(value): name for name, value in of.model.named_parameters()}
    taken, rest = ([names[id(p)] for group in one.param_groups for p in group["params"]] for one in (muon, adamw))
    layer = [f"{part}.weight" for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")]
    assert taken == [f"backbone.h.{i}.{part}" for i in range(2) for part in layer]
    assert sorted(taken + rest) == sorted(names.values())
    assert {"before.weight", "after.weight", "backbone.wpe.weight", "backbone.h.0.ln_1.weight"} <= set(rest)
    assert (adamw.defaults["lr"], muon.defaults["lr"]) == (3e-3, pytest.approx(15e-3))
    assert len(training.make_optimizers(settings(tmp_path), of)) == 1
    mamba = AutoModel.from_config(configuration("mamba-mini", L, vocab_size=1))
    (_, muon) = training.make_optimizers(settings(tmp_path, optimizer="muon"), task(model=mamba, backbone=mamba))
    taken, mixer = {id(p) for p in muon.param_groups[0]["params"]}, mamba.layers[0].mixer
    assert id(mixer.A_log) not in taken  # has two dimensions, but is not of a linear layer
    assert id(mixer.in_proj.weight) in taken


def test_muon_makes_orthogonal_steps(tmp_path):
    """The largest singular value of a matrix's first step is Muon's rate; the rates of Muon and AdamW fall together."""
    cfg = settings(tmp_path, optimizer="muon", warmup=0)
    with training.processes(cfg) as accelerator:
        one = training.Run(cfg, task(), accelerator)
        matrix = one.task.backbone.h[0].mlp.c_fc.weight
        before = matrix.detach().clone()
        one.train_step()
        change = (matrix.detach() - before * (1 - 15e-3 * training.MUON_DECAY)) / 15e-3
        assert torch.linalg.svdvals(change).max().item() == pytest.approx(1, abs=0.3)
        for _ in range(14):
            one.train_step()
        rates = [group["lr"] for optimizer in one.optimizers for group in optimizer.param_groups]
        assert rates == pytest.approx([1.5e-3, 7.5e-3])


TWO_RUNS = """
from pathlib import Path
from common import training
from tests.common.test_training import settings, task
folder = Path(__file__).parent
shards = settings(folder / "shards", fsdp=True, clip=1e9)
with training.processes(shards) as accelerator:
    for cfg in (shards, settings(folder / "two", optimizer="muon", accumulate=2)):
        training.train(cfg, task(), accelerator)
"""


def test_processes_micro_batches_and_shards_change_nothing(tmp_path):
    """Two processes, with whole (Muon) or sharded weights (FSDP), and micro-batches give the same steps as one."""
    one = run(settings(tmp_path / "one", clip=1e9))
    for name, changes in {"parts": {"accumulate": 4}, "again": {"gradient_checkpointing": True}}.items():
        of = task()
        pd.testing.assert_frame_equal(run(settings(tmp_path / name, clip=1e9, **changes), of), one, rtol=1e-4)
        assert of.backbone.is_gradient_checkpointing == (name == "again")
    (tmp_path / "two_runs.py").write_text(TWO_RUNS)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [*torchrun, tmp_path / "two_runs.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("30 of 30 steps to do, 2 × cpu") == 2
    pd.testing.assert_frame_equal(read_log(tmp_path / "shards"), one, rtol=1e-4)
    whole, shards = (training.read_checkpoint(tmp_path / name / CHECKPOINT) for name in ("one", "shards"))
    assert {name: value.shape for name, value in whole["model"].items()} == {
        name: value.shape for name, value in shards["model"].items()
    }
    assert whole["optimizers"]["state"].keys() == shards["optimizers"]["state"].keys()
    run(settings(tmp_path / "shards", clip=1e9))  # finished: its checkpoint opens without shards
    muon = run(settings(tmp_path / "muon", optimizer="muon"))
    pd.testing.assert_frame_equal(read_log(tmp_path / "two"), muon, rtol=1e-3)


def test_bfloat16_is_near_and_tf32_changes_nothing_on_a_cpu(tmp_path):
    plain, bf16, tf32 = (run(settings(tmp_path / name, precision=name)) for name in ("fp32", "bf16", "tf32"))
    assert bf16["error"].tolist() == pytest.approx(plain["error"].tolist(), rel=0.05)
    assert (bf16["error"] != plain["error"]).any()
    pd.testing.assert_frame_equal(tf32, plain, check_exact=True)


def test_a_loss_or_weights_that_are_not_finite_stop_the_run(tmp_path):
    of = task()
    of.model.spoil[18] = lambda y: y * torch.nan
    with pytest.raises(UserError) as error:
        run(settings(tmp_path / "a"), of)
    assert "the loss is not finite at step 18" in str(error.value)
    assert f"{tmp_path / 'a' / CHECKPOINT} holds step 10" in str(error.value)
    assert read_log(tmp_path / "a")["step"].max() == 10
    of = task()
    of.model.spoil[10] = lambda y: y.detach() + torch.sqrt(y * 0)  # a finite loss, and gradients that are not
    with pytest.raises(UserError, match="the weights are not finite at step 10; there is no checkpoint yet"):
        run(settings(tmp_path / "b"), of)
    assert not (tmp_path / "b" / CHECKPOINT).exists()


def test_too_little_memory_on_the_gpu(tmp_path):
    def full(_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    of = task()
    of.model.spoil[3] = full
    with pytest.raises(UserError, match=r"8 sequences of 8 tokens in 2 parts .* memory of cpu .* give --accumulate 4"):
        run(settings(tmp_path, accumulate=2), of)


def test_other_runs_and_damaged_checkpoints_are_refused(tmp_path):
    run(settings(tmp_path))
    path = tmp_path / CHECKPOINT
    before = path.read_bytes()
    of = task()
    of.model.config = PreTrainedConfig(architectures=["another"])
    for cfg, other, said in (
        (settings(tmp_path, optimizer="muon"), task(), 'settings.optimizer "adamw" there, "muon" here'),
        (settings(tmp_path), of, "configuration"),
        (settings(tmp_path), task(identity={"documents": "others"}), "documents nothing there"),
        (settings(tmp_path, accumulate=3), task(), "8 sequences per step in 3 micro-batches"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            run(cfg, other)
    assert path.read_bytes() == before
    run(settings(tmp_path, accumulate=2, checkpoint_every=5))  # these settings may differ
    for damage in (before[:1000], b"nothing"):
        path.write_bytes(damage)
        with pytest.raises(UserError, match=r"checkpoint.pt is no checkpoint of train.py, or damaged"):
            run(settings(tmp_path))
        assert path.read_bytes() == damage


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"checkpoint_every": 7}, "--checkpoint-every 7: must be a multiple of --log-every 5"),
        ({"warmup": 30}, "--warmup 30: must be below the number of steps, 30"),
        ({"optimizer": "muon", "fsdp": True}, "--optimizer muon works on whole matrices"),
        ({"fsdp": True}, "--fsdp shards over several processes"),
        ({"device": "cuda:7"}, "--device cuda:7: no GPU 7"),
    ],
    ids=str,
)
def test_bad_settings(tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        run(settings(tmp_path / "new", **changes))
    assert not (tmp_path / "new").exists()
