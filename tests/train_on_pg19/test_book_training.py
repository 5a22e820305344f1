"""Runs by their command line: what they learn, on which sequences, what they write, and what is refused."""

from __future__ import annotations

import json
import math
import re
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.data_loader import SeedableRandomSampler
from conftest import call_script, one_line_error, write_documents
from transformers import AutoModelForCausalLM, Trainer

from common.cli import UserError
from common.training import CHECKPOINT, Run, processes, read_checkpoint
from train_on_pg19 import train
from train_on_pg19.train import Settings
from train_on_pg19.training import books, models

SCRIPT = "train_on_pg19/train.py"
L, IDS = 32, 60
QUICK = ["--model", "tiny", "--L", L, "--batch-tokens", 4 * L, "--epochs", 10, "--held-out", 0.2, "--warmup", 5]
QUICK += ["--log-every", 5, "--checkpoint-every", 10, "--learning-rate", 3e-3, "--device", "cpu"]
CPU = torch.device("cpu")
STEPS = 60  # 10 epochs of 24 sequences, 4 a step


@pytest.fixture(scope="session")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three documents of 40 tokens in each of 10 books: words of 5 tokens from a list of 20."""
    random = np.random.default_rng(0)
    words = random.integers(0, IDS, (20, 5))
    ids = {f"book {i}": [words[random.integers(0, 20, 8)].flatten().tolist() for _ in range(3)] for i in range(10)}
    return write_documents(tmp_path_factory.mktemp("documents") / "words", ids, IDS)


def settings(documents: Path, out: Path, **changes) -> Settings:
    small = dict(model="tiny", L=L, batch_tokens=4 * L, epochs=10, held_out=0.2, warmup=5, log_every=5)
    small |= dict(checkpoint_every=10, learning_rate=3e-3, device="cpu")
    return Settings(documents=documents, out=out, **{**small, **changes})


def call(documents: Path, out: Path, *changes: object) -> subprocess.CompletedProcess:
    return call_script(SCRIPT, *QUICK, "--documents", documents, "--out", out, *changes)


def read_log(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "log.csv").drop(columns="tokens_per_second")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(train.last_checkpoint(folder)[0]).state_dict()


@pytest.fixture(scope="session")
def whole(documents: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from its first step to its last."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    done = call(documents, folder)
    assert done.returncode == 0, done.stderr
    (folder / "said.txt").write_text(done.stdout, encoding="utf-8")
    return folder


def test_what_a_run_says_and_writes(documents, whole):
    said = (whole / "said.txt").read_text(encoding="utf-8").splitlines()
    assert said[0] == "tiny: 0.0347 million parameters, 128 tokens a step, 60 of 60 steps to do, 1 × cpu"
    assert said[1] == ("768 tokens in 24 sequences of 8 books to train on, 6 sequences of 2 books held out")
    log = pd.read_csv(whole / "log.csv")
    assert list(log) == ["step", "tokens", "nll_nats", "learning_rate", "tokens_per_second"]
    assert log["step"].tolist() == list(range(5, 61, 5))
    assert (log["tokens"] == 128 * log["step"]).all()
    assert (log["tokens_per_second"] > 0).all()
    assert said[2] == f"{log['nll_nats'].iloc[-1]:.4g} nats a token in the last row of {whole / 'log.csv'}"
    # Of the Trainer of transformers, on a CPU.
    assert log["nll_nats"].iloc[[0, 5, 11]].tolist() == pytest.approx([5.49573822, 3.67864380, 3.24938354], rel=1e-5)
    # The rate of the step itself, after as many steps before it.
    before = log["step"].to_numpy() - 1
    cosine = 3e-3 * (1 + np.cos(np.pi * (before - 5) / 55)) / 2
    np.testing.assert_allclose(log["learning_rate"], np.where(before < 5, 3e-3 * before / 5, cosine), atol=1e-12)
    assert sorted(path.name for path in whole.iterdir()) == [
        *("checkpoint-60", "checkpoint.pt", "log.csv", "log.json", "run.json", "said.txt")
    ]
    assert train.last_checkpoint(whole) == (whole / "checkpoint-60", STEPS)
    saved = read_checkpoint(whole / CHECKPOINT)["model"]
    assert all(torch.equal(saved[name], value) for name, value in weights(whole).items())
    assert "0 of 60 steps to do" in call(documents, whole).stdout
    found = train.read_run(whole)
    assert found["steps"] == STEPS
    assert found["identity"]["configuration"]["bos_token_id"] == IDS
    assert len(found["held_out_books"]) == 2


def test_a_run_of_steps_that_no_row_divides(documents, tmp_path):
    """One and a half epochs of 6 steps."""
    train.main(settings(documents, tmp_path, epochs=1.5))
    assert read_log(tmp_path)["step"].tolist() == [5, 9]


def test_what_stands_in_a_preset_is_what_a_run_records(documents, tmp_path, monkeypatch):
    changed = train.PRESETS["smoke"] | {"batch_tokens": {16: 64, 64: 128}, "held_out": 0.3, "learning_rate": 1e-3}
    monkeypatch.setitem(train.PRESETS, "smoke", changed)
    given = ["--model", "tiny", "--documents", documents, "--preset", "smoke", "--epochs", 2, "--device", "cpu"]
    done = call_script(SCRIPT, *given, "--L", L, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    found = train.read_run(tmp_path)["identity"]["settings"]
    assert (found["batch_tokens"], found["held_out"], found["learning_rate"], found["log_every"]) == (64, 0.3, 1e-3, 5)
    assert found["epochs"] == 2  # a flag comes before the preset


def test_it_begins_at_the_logarithm_of_the_vocabulary_and_learns(documents, whole):
    log = read_log(whole)
    assert log["nll_nats"].iloc[0] == pytest.approx(math.log(256), abs=0.2)
    assert log["nll_nats"].iloc[-1] < 3.6
    # And not the books alone: on those held out it is better than their tokens' own frequencies.
    shelf, _ = books.open_books(documents, L)
    _, held_out = books.split(shelf, train.read_run(whole)["held_out_books"], L)
    sequences = books.Sequences(shelf, held_out, L, IDS, start=IDS)
    batch = torch.utils.data.default_collate([sequences[i] for i in range(len(sequences))])
    model = models.build("tiny", IDS, L)
    model.load_state_dict(weights(whole))
    assert model.eval().nll(**batch).mean().item() < math.log(IDS)


def test_the_first_row_is_the_mean_loss_of_the_first_steps(documents, tmp_path):
    """At a learning rate that changes nothing: the mean over an epoch is that over all sequences to train on."""
    cfg = settings(documents, tmp_path, learning_rate=1e-12, epochs=1, warmup=0, log_every=6, checkpoint_every=6)
    train.main(cfg)
    shelf, _ = books.open_books(documents, L)
    rows, _ = books.split(shelf, train.read_run(tmp_path)["held_out_books"], L)
    sequences = books.Sequences(shelf, rows, L, IDS, start=IDS)
    batch = torch.utils.data.default_collate([sequences[i] for i in range(len(sequences))])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-6").eval()
    logits = model(batch["input_ids"]).logits.detach()
    wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())
    assert read_log(tmp_path)["nll_nats"].item() == pytest.approx(wanted.item(), rel=1e-6)


def test_every_epoch_sees_every_sequence_once_in_another_order(documents, tmp_path):
    """Two of ten books held out leave 24 sequences; with 5 a step, the last 4 of them fill none."""
    task = train.task(settings(documents, tmp_path, epochs=2, batch_tokens=5 * L, warmup=1), CPU)
    assert task.steps == 8  # 2 epochs of 4 whole steps
    seen = [tuple(row) for step in range(8) for row in task.draw(step)[1].tolist()]
    shelf, _ = books.open_books(documents, L)
    rows, held_out = books.split(shelf, task.facts["held_out_books"], L)
    kept, out = ({tuple(shelf[int(i)]["input_ids"][:L]) for i in some} for some in (rows[:20], held_out))
    first, second = seen[:20], seen[20:]
    assert set(first) == set(second) == kept
    assert first != second
    assert not set(seen) & out
    # The order of accelerate's seedable sampler, which the Trainer of transformers uses.
    sampler = SeedableRandomSampler(rows[:20], generator=torch.Generator(), data_seed=0)
    sampler.set_epoch(1)
    assert second == [tuple(shelf[int(rows[i])]["input_ids"][:L]) for i in sampler]


def test_weight_decay_leaves_out_what_the_trainer_of_transformers_leaves_out(documents, tmp_path):
    for name in ("tiny", "gpt_neox-mini-small", "mamba-mini-small", "mamba2-mini-small", "qwen3-mini"):
        task = train.task(settings(documents, tmp_path, model=name), CPU)
        kept = Trainer.get_decay_parameter_names(None, task.model)
        names = {name for name, _ in task.model.named_parameters()}  # a tied weight has one name here
        assert set(kept) & names == names - task.undecayed


def test_repeats_are_trained_on_once_and_not_held_out(documents, tmp_path):
    """Beside the ten books, four copies of one of them: no sequence of a step equals another or a held-out one."""
    shelf, _ = books.open_books(documents, L)
    ids: dict[str, list] = {}
    for row in shelf:
        ids.setdefault(row["book"], []).append(row["input_ids"])
    again = write_documents(tmp_path / "again", ids | {f"copy {i}": ids["book 3"] for i in range(4)}, IDS)
    cfg = settings(again, tmp_path, held_out=0.4, batch_tokens=L, epochs=1, split_seed=3)
    task = train.task(cfg, CPU)
    assert "12 documents repeat another's first 32 tokens and are left out" in task.notes
    seen = [tuple(task.draw(step)[1][0].tolist()) for step in range(task.steps)]
    assert len(seen) == len(set(seen))
    held_out, names = task.facts["held_out_books"], ["book 3", *(f"copy {i}" for i in range(4))]
    assert 0 < sum(name in held_out for name in names) < 5
    kept = [name for name in held_out if name not in names]
    assert f"{3 * len(kept)} sequences of {len(kept)} books held out" in task.notes[0]
    assert not set(seen) & {tuple(one[:L]) for name in kept for one in ids[name]}
    assert set(seen) >= {tuple(one[:L]) for one in ids["book 3"]}


@pytest.mark.parametrize(("name", "optimizer"), [("mamba-mini-small", "adamw"), ("mamba2-mini-small", "muon")])
def test_recurrent_models_train_too(documents, tmp_path, name, optimizer):
    train.main(settings(documents, tmp_path, model=name, epochs=2, optimizer=optimizer))
    log = read_log(tmp_path)
    assert log["nll_nats"].iloc[-1] < log["nll_nats"].iloc[0] - 0.5
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-12")).__name__.startswith("Mamba")


def test_a_run_goes_on_from_its_checkpoint(documents, whole, tmp_path):
    """Killed after it had exported one more model, half written; it ends as the whole run did, within an epoch."""
    half = settings(documents, tmp_path / "half")
    task = train.task(half, CPU)
    with processes(half) as accelerator:
        one = Run(half, task, accelerator)
        for _ in range(20):
            one.train_step()
        one.save()
    (tmp_path / "half" / ".checkpoint.tmp").mkdir()
    assert train.last_checkpoint(tmp_path / "half") == (tmp_path / "half" / "checkpoint-20", 20)
    assert "40 of 60 steps to do" in call(documents, tmp_path / "half").stdout
    there = weights(whole)
    assert all(torch.equal(value, there[name]) for name, value in weights(tmp_path / "half").items())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--model", "nothing-of-the-kind"], "no model 'nothing-of-the-kind'"),
        (["--L", 41, "--batch-tokens", 82], "30 of 30 documents have fewer than L = 41 tokens, the shortest 40"),
        (["--held-out", 0.01], "--held-out 0.01 of 10 books leaves no held-out book: give 0.10 to 0.90"),
        (["--held-out", 0.9, "--batch-tokens", 4 * L], "has 3 sequences to train on, and a step takes 4"),
        (["--vocab", 60], "--vocab 60: the tokenizer has 60 ids, and the start token is one more: give 61 or more"),
        (["--batch-tokens", 100], "--batch-tokens 100: a multiple of --L 32"),
        (["--accumulate", 3], "4 sequences a step in 3 micro-batches (1 processes × --accumulate 3)"),
        (["--warmup", 60], "--warmup 60: below the number of steps, 60 (10 epochs)"),
        (["--epochs", 0], "--epochs 0.0: above 0"),
    ],
    ids=str,
)
def test_bad_settings(documents, tmp_path, changes, said):
    assert said in one_line_error(call(documents, tmp_path / "new", *changes))
    assert not (tmp_path / "new").exists()


def test_documents_with_ids_that_the_tokenizer_lacks_are_refused(tmp_path):
    folder = write_documents(tmp_path / "words", {f"book {i}": [[i] * L, [i, *[IDS] * L]] for i in range(4)}, IDS)
    said = one_line_error(call(folder, tmp_path / "new", "--held-out", 0.25))
    assert re.search(r"document book \d#0001 holds the id 60, but its tokenizer has 60: prepare", said)


def test_a_folder_with_another_run_is_refused(documents, whole, tmp_path):
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    said = one_line_error(call(documents, whole, "--seed", 1, "--epochs", 5))
    assert "settings.epochs 10.0 there, 5.0 here; settings.seed 0 there, 1 here" in said
    ids = {f"book {i}": [[i, j] * 20 for j in range(3)] for i in range(10)}
    others = write_documents(tmp_path / "others", ids, IDS)
    assert "documents.fingerprint" in one_line_error(call(others, whole))
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("damage", ["{", "[]", json.dumps({"identity": {}})])
def test_a_damaged_run_is_refused(documents, tmp_path, damage):
    (tmp_path / "run.json").write_text(damage)
    with pytest.raises(UserError, match=r"run.json is not of train.py, or damaged"):
        train.read_run(tmp_path)
    with pytest.raises(UserError, match=r"damaged|made with other settings"):
        train.main(settings(documents, tmp_path))
