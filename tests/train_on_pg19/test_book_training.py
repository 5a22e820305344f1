"""train.py through its command line: what runs learn, from which sequences, what they write, and what is refused."""

from __future__ import annotations

import math
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.data_loader import SeedableRandomSampler
from conftest import call_script, one_line_error, write_documents
from transformers import AutoModelForCausalLM, Trainer

from common.cli import parse
from common.training import CHECKPOINT, read_checkpoint
from train_on_pg19 import evaluate, train
from train_on_pg19.train import Settings
from train_on_pg19.training import books, models

SCRIPT = "train_on_pg19/train.py"
L, IDS = 32, 60
QUICK = ["--model", "tiny", "--L", L, "--batch-tokens", 4 * L, "--epochs", 16.6, "--held-out", 0.2, "--warmup", 5]
QUICK += ["--log-every", 5, "--checkpoint-every", 10, "--learning-rate", 3e-3, "--device", "cpu"]
CPU = torch.device("cpu")
STEPS = 100  # 16.6 epochs of 24 sequences, 4 a step


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three documents of 40 tokens in each of 10 books: words of 5 tokens from a list of 20."""
    random = np.random.default_rng(0)
    words = random.integers(0, IDS, (20, 5))
    ids = {f"book {i}": [words[random.integers(0, 20, 8)].flatten().tolist() for _ in range(3)] for i in range(10)}
    return write_documents(tmp_path_factory.mktemp("documents") / "words", ids, IDS)


def settings(documents: Path, out: Path, **changes) -> Settings:
    return replace(parse(Settings, [*map(str, QUICK), f"--documents={documents}", f"--out={out}"]), **changes)


def call(documents: Path, out: Path, *changes: object) -> subprocess.CompletedProcess:
    return call_script(SCRIPT, *QUICK, "--documents", documents, "--out", out, *changes)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(list(train.checkpoints(folder).values())[-1]).state_dict()


def sequences(documents: Path, held_out: list[str]) -> list[dict[str, torch.Tensor]]:
    """A batch of all sequences to train on, and one of those held out."""
    shelf, _ = books.open_books(documents, L)
    batches = []
    for rows in books.split(shelf, held_out, L):
        of = books.Sequences(shelf, rows, L, IDS, start=IDS)
        batches.append(torch.utils.data.default_collate([of[i] for i in range(len(of))]))
    return batches


@pytest.fixture(scope="module")
def whole(documents: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all steps without interruption."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    done = call(documents, folder)
    assert done.returncode == 0, done.stderr
    assert "768 tokens in 24 sequences of 8 books to train on, 6 sequences of 2 books held out" in done.stdout
    return folder


def test_what_a_run_writes_and_learns(documents, whole):
    log = pd.read_csv(whole / "log.csv")
    assert list(log) == ["step", "tokens", "nll_nats", "learning_rate", "tokens_per_second"]
    assert log["step"].tolist() == list(range(5, STEPS + 1, 5))
    assert (log["tokens"] == 128 * log["step"]).all()
    # Losses of the Trainer of transformers, on a CPU.
    assert log["nll_nats"].iloc[[0, 9, 19]].tolist() == pytest.approx([5.49573822, 2.89854240, 2.35275459], rel=1e-5)
    names = ["checkpoint-100", "checkpoint.pt", "log.csv", "log.json", "run.json"]
    assert sorted(path.name for path in whole.iterdir()) == names
    assert train.checkpoints(whole) == {STEPS: whole / "checkpoint-100"}
    saved = read_checkpoint(whole / CHECKPOINT)["model"]
    assert all(torch.equal(saved[name], value) for name, value in weights(whole).items())
    found = train.read_run(whole)
    assert found["steps"] == STEPS
    assert found["identity"]["configuration"]["bos_token_id"] == IDS
    # On the held-out books it is better than a uniform distribution over the ids.
    model = models.build("tiny", IDS, L)
    model.load_state_dict(saved)
    _, held_out = sequences(documents, found["held_out_books"])
    assert evaluate.nll_of(model.eval(), **held_out).mean().item() < math.log(IDS)


def test_the_end_of_every_cosine_is_kept(documents, tmp_path):
    """With --steps instead of --epochs; a later call continues, and checkpoints between the ends are deleted."""
    flags = ["--steps", 10, "--restarts", 1, "--checkpoint-every", 5]
    assert call(documents, tmp_path / "run", *flags).returncode == 0
    assert list(train.checkpoints(tmp_path / "run")) == [10, 30]
    assert call(documents, tmp_path / "run", *flags[:2], "--restarts", 2, *flags[4:]).returncode == 0
    assert list(train.checkpoints(tmp_path / "run")) == [10, 30, 70]
    assert pd.read_csv(tmp_path / "run" / "log.csv")["step"].iloc[-1] == 70


def test_every_epoch_sees_every_sequence_once_in_another_order(documents, tmp_path):
    """Holding out two of ten books leaves 24 sequences; with 5 per step, the last 4 fill no step and are left out."""
    task = train.task(settings(documents, tmp_path, epochs=2, batch_tokens=5 * L, warmup=1), CPU)
    assert task.steps == 8  # 2 epochs of 4 whole steps
    seen = [tuple(row) for step in range(8) for row in task.draw(step)[1].tolist()]
    to_train_on, held_out = sequences(documents, task.facts["held_out_books"])
    kept = [tuple(row) for row in to_train_on["targets"].tolist()][:20]
    first, second = seen[:20], seen[20:]
    assert set(first) == set(second) == set(kept)
    assert first != second
    assert not set(seen) & {tuple(row) for row in held_out["targets"].tolist()}
    # The order of accelerate's seedable sampler, which the Trainer of transformers uses.
    sampler = SeedableRandomSampler(range(20), generator=torch.Generator(), data_seed=0)
    sampler.set_epoch(1)
    assert second == [kept[i] for i in sampler]


def test_weight_decay_leaves_out_what_the_trainer_of_transformers_leaves_out(documents, tmp_path):
    for name in ("tiny", "gpt_neox-mini-small", "mamba-mini", "mamba2-mini-small", "qwen3-128"):
        task = train.task(settings(documents, tmp_path, model=name), CPU)
        kept = Trainer.get_decay_parameter_names(None, task.model)
        names = {name for name, _ in task.model.named_parameters()}  # a tied weight has one name here
        assert set(kept) & names == names - task.undecayed


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--held-out", 0.9, "--batch-tokens", 4 * L], "has 3 sequences to train on, and a step takes 4"),
        (["--batch-tokens", 100], "--batch-tokens 100: must be a multiple of --L 32"),
        (["--held-out-books", "moby*"], "--held-out-books moby*: none of 10 books, the first of which is book 0"),
        (["--steps", 0], "--steps 0: must be above 0"),
    ],
    ids=str,
)
def test_bad_settings(documents, tmp_path, changes, said):
    assert said in one_line_error(call(documents, tmp_path / "new", *changes))
    assert not (tmp_path / "new").exists()


def test_a_folder_with_another_run_is_refused(documents, whole, tmp_path):
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    others = write_documents(
        tmp_path / "others", {f"book {i}": [[i, j] * 20 for j in range(3)] for i in range(10)}, IDS
    )
    assert "documents.fingerprint" in one_line_error(call(others, whole))
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before
