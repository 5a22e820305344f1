"""Runs by their command line: what they learn, and runs that are split, killed, resumed or refused."""

from __future__ import annotations

import gc
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, call_script, one_line_error, write_documents
from transformers import AutoModelForCausalLM

from common.cli import UserError
from train_on_pg19 import train
from train_on_pg19.train import Settings
from train_on_pg19.training import books, loss, models

SCRIPT = "train_on_pg19/train.py"
L, IDS = 32, 60
QUICK = ["--model", "tiny", "--L", L, "--batch-tokens", 4 * L, "--epochs", 10, "--held-out", 0.2, "--warmup", 5]
QUICK += ["--log-every", 5, "--checkpoint-every", 10, "--learning-rate", 3e-3, "--device", "cpu"]
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


def assert_same_run(one: Path, other: Path) -> None:
    pd.testing.assert_frame_equal(read_log(one), read_log(other), check_exact=True)
    there = weights(other)
    assert all(torch.equal(value, there[name]) for name, value in weights(one).items())


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
    # The rate of the step itself, after as many steps before it.
    before = log["step"].to_numpy() - 1
    cosine = 3e-3 * (1 + np.cos(np.pi * (before - 5) / 55)) / 2
    np.testing.assert_allclose(log["learning_rate"], np.where(before < 5, 3e-3 * before / 5, cosine), atol=1e-12)
    assert [path.name for path in whole.glob("checkpoint-*")] == ["checkpoint-60"]
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


def test_a_finished_run_is_left_as_it_is(documents, whole):
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    again = call(documents, whole)
    assert "0 of 60 steps to do" in again.stdout
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


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


def test_every_epoch_sees_every_sequence_once_in_another_order(documents, tmp_path, monkeypatch):
    """Two of ten books held out leave 24 sequences; with 5 a step, the last 4 of them fill none."""
    seen, get = [], books.Sequences.__getitem__
    monkeypatch.setattr(books.Sequences, "__getitem__", lambda self, i: seen.append(int(self.rows[i])) or get(self, i))
    train.main(settings(documents, tmp_path, epochs=2, batch_tokens=5 * L, warmup=1))
    shelf, _ = books.open_books(documents, L)
    rows, held_out = books.split(shelf, train.read_run(tmp_path)["held_out_books"], L)
    assert len(seen) == 40  # 2 epochs of 4 whole steps
    first, second = seen[:20], seen[20:]
    assert sorted(first) == sorted(second) == rows[:20].tolist()
    assert first != second
    assert not set(seen) & set(held_out)


def test_repeats_are_trained_on_once_and_not_held_out(documents, tmp_path, monkeypatch):
    """Beside the ten books, four copies of one of them: no sequence of a step equals another or a held-out one."""
    shelf, _ = books.open_books(documents, L)
    ids: dict[str, list] = {}
    for row in shelf:
        ids.setdefault(row["book"], []).append(row["input_ids"])
    again = write_documents(tmp_path / "again", ids | {f"copy {i}": ids["book 3"] for i in range(4)}, IDS)
    seen, get = [], books.Sequences.__getitem__

    def noted(self, i: int) -> dict[str, torch.Tensor]:
        seen.append(tuple(get(self, i)["targets"].tolist()))
        return get(self, i)

    monkeypatch.setattr(books.Sequences, "__getitem__", noted)
    done = call(again, tmp_path / "run", "--held-out", 0.4, "--batch-tokens", L, "--epochs", 1, "--split-seed", 3)
    assert "12 documents repeat another's first 32 tokens and are left out" in done.stdout, done.stderr
    assert len(seen) == len(set(seen))
    held_out = train.read_run(tmp_path / "run")["held_out_books"]
    names = ["book 3", *(f"copy {i}" for i in range(4))]
    assert 0 < sum(name in held_out for name in names) < 5
    kept = [name for name in held_out if name not in names]
    assert f"{3 * len(kept)} sequences of {len(kept)} books held out" in done.stdout
    assert not set(seen) & {tuple(one[:L]) for name in kept for one in ids[name]}
    assert set(seen) >= {tuple(one[:L]) for one in ids["book 3"]}


def test_a_killed_run_goes_on_as_if_it_had_not_been(documents, whole, tmp_path):
    out = tmp_path / "killed"
    command = [sys.executable, ROOT / SCRIPT, *QUICK, "--documents", documents, "--out", out]
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (out / "checkpoint-20" / train.STATE).exists():  # perhaps half written, and then that of 10 is there
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    (out / "checkpoint-55").mkdir()  # one that was cut short
    (out / "checkpoint-55" / "model.safetensors").write_bytes(b"half a file")
    done = call(documents, out)
    assert re.search(r"(?<!\d)(50|40|30|20|10) of 60 steps to do", done.stdout), done.stdout + done.stderr
    assert_same_run(whole, out)
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-60"]


class StoppedError(Exception):
    pass


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """End a run within a step, as if it had been killed."""
    on_step_end = train.Watch.on_step_end

    def stop(self, args, state, control, **others):
        if state.global_step == step:
            raise StoppedError
        on_step_end(self, args, state, control, **others)

    monkeypatch.setattr(train.Watch, "on_step_end", stop)


def test_a_run_may_go_on_in_other_micro_batches(documents, whole, tmp_path, monkeypatch):
    """And within an epoch, whose steps are 6."""
    with monkeypatch.context() as patch:
        stop_at(patch, 27)
        with pytest.raises(StoppedError):
            train.main(settings(documents, tmp_path))
    assert train.last_checkpoint(tmp_path)[0].name == "checkpoint-20"
    passes = spoil(monkeypatch, 0, None)
    train.main(settings(documents, tmp_path, accumulate=4, gradient_checkpointing=True, checkpoint_every=15))
    assert len(passes) == 4 * 40  # and none of the 20 steps before
    pd.testing.assert_frame_equal(read_log(whole), read_log(tmp_path), check_exact=False, rtol=1e-5)


def test_a_run_killed_between_checkpoint_and_log_has_its_whole_log_in_the_end(documents, tmp_path):
    train.main(settings(documents, tmp_path, epochs=3))
    kept, path = read_log(tmp_path), tmp_path / "log.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))
    train.main(settings(documents, tmp_path, epochs=3))
    pd.testing.assert_frame_equal(read_log(tmp_path), kept, check_exact=True)


def test_two_processes_take_the_steps_of_one(documents, whole, tmp_path):
    call(documents, tmp_path / "parts", "--accumulate", 2)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", ROOT / SCRIPT]
    command = [*torchrun, *QUICK, "--documents", documents, "--out", tmp_path / "two"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert "60 of 60 steps to do, 2 × cpu" in done.stdout
    assert done.stdout.count("million parameters") == 1
    logs = [read_log(folder) for folder in (whole, tmp_path / "parts", tmp_path / "two")]
    pd.testing.assert_frame_equal(logs[0], logs[1], check_exact=False, rtol=1e-5)
    # The halves of a batch meet in another order, and nothing else differs.
    pd.testing.assert_frame_equal(logs[1], logs[2], check_exact=False, rtol=1e-5)


def alive() -> int:
    return sum(type(thing) is train.Trainer for thing in gc.get_objects())


def test_what_shares_the_gradients_is_gone_before_the_group_of_processes(documents, tmp_path, monkeypatch):
    """The last to hold the group would wait at its end for a thread that waits for Python."""
    gc.collect()
    before, held = alive(), []
    group = SimpleNamespace(is_initialized=lambda: True, destroy_process_group=lambda: held.append(alive()))
    monkeypatch.setattr(train, "dist", group)
    gc.disable()  # nothing but the script itself lets go of it
    try:
        train.main(settings(documents, tmp_path, epochs=1))
    finally:
        gc.enable()
    assert held == [before]


@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"precision": "tf32"}, {"clip": None}, {"clip": 1e-3}])
def test_other_settings_train_too(documents, whole, tmp_path, changes):
    train.main(settings(documents, tmp_path, **changes))
    plain, other = read_log(whole)["nll_nats"], read_log(tmp_path)["nll_nats"]
    assert other.iloc[-1] < other.iloc[0] - 1
    assert (other == plain).all() == (changes == {"precision": "tf32"})  # nothing but a GPU rounds to TF32
    if "precision" in changes:
        np.testing.assert_allclose(other, plain, rtol=0.01)


@pytest.mark.parametrize("name", ["mamba-mini-small", "mamba2-mini-small"])
def test_recurrent_models_train_too(documents, tmp_path, name):
    train.main(settings(documents, tmp_path, model=name, epochs=2))
    log = read_log(tmp_path)
    assert log["nll_nats"].iloc[-1] < log["nll_nats"].iloc[0] - 0.5
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-12")).__name__.startswith("Mamba")


def test_the_loss_of_training_is_the_memory_saving_one(documents, tmp_path, monkeypatch):
    shapes = []
    plain = loss.functional.cross_entropy

    def seen(logits, targets, **others):
        shapes.append(tuple(logits.shape))
        return plain(logits, targets, **others)

    monkeypatch.setattr(loss.functional, "cross_entropy", seen)
    monkeypatch.setattr(loss.cross_entropy, "__defaults__", ("mean", 50))
    train.main(settings(documents, tmp_path, epochs=1))
    assert set(shapes) == {(50, 256), (28, 256)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--model", "nothing-of-the-kind"], "no model 'nothing-of-the-kind'"),
        (["--L", 41, "--batch-tokens", 82], "30 of 30 documents have fewer than L = 41 tokens, the shortest 40"),
        (["--held-out", 0.01], "--held-out 0.01 of 10 books leaves no held-out book: give 0.10 to 0.90"),
        (["--held-out", 0.9, "--batch-tokens", 4 * L], "has 3 sequences to train on, and a step takes 4"),
        (["--vocab", 60], "--vocab 60: the tokenizer has 60 ids, and the start token is one more: give 61 or more"),
        (["--batch-tokens", 100], "--batch-tokens 100: a multiple of --L 32"),
        (["--accumulate", 3], "--batch-tokens 128 are 4 sequences, in 3 micro-batches (1 processes × --accumulate 3)"),
        (["--warmup", 60], "--warmup 60: below the number of steps, 60 (10 epochs)"),
        (["--epochs", 0], "--epochs 0.0: above 0"),
        (["--checkpoint-every", 7], "--checkpoint-every 7: a multiple of --log-every 5"),
        (["--weight-decay", -1], "--weight-decay -1.0"),
        (["--fsdp"], "--fsdp shards over several GPUs"),
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
    assert "holds another run (epochs 10.0, here 5.0; seed 0, here 1): give another --out" in said
    said = one_line_error(call(documents, whole, "--model", "gpt2-mini-small"))
    assert "holds another run (model tiny, here gpt2-mini-small): give another --out" in said
    ids = {f"book {i}": [[i, j] * 20 for j in range(3)] for i in range(10)}
    others = write_documents(tmp_path / "others", ids, IDS)
    said = one_line_error(call(others, whole))
    assert "holds another set of documents (fingerprint" in said
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


def test_a_model_that_was_changed_is_refused(documents, whole, monkeypatch):
    monkeypatch.setitem(models.MODELS, "tiny", models.MODELS["gpt2-mini-small"])
    with pytest.raises(UserError, match=r"holds another configuration of the model \(n_embd 32, here 64\)"):
        train.main(settings(documents, whole))


def test_a_folder_with_something_else_is_refused(documents, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    assert f"{tmp_path} holds files and no run.json" in one_line_error(call(documents, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("damage", ["{", "[]", json.dumps({"identity": {}})])
def test_a_damaged_run_is_refused(documents, tmp_path, damage):
    (tmp_path / "run.json").write_text(damage)
    with pytest.raises(UserError, match=r"run.json is not of train.py, or damaged"):
        train.main(settings(documents, tmp_path))


def spoil(monkeypatch: pytest.MonkeyPatch, call_number: int, what) -> list:
    """Let the model's forward of this number (0: none) return what(loss), or raise it; a list as long as its calls."""
    calls, forward = [], models.MemorySavingLoss.forward

    def broken(self, *args, **others):
        calls.append(0)
        made = forward(self, *args, **others)
        if len(calls) == call_number:
            made["loss"] = what(made["loss"])
        return made

    monkeypatch.setattr(models.GPT2LMHeadModel, "forward", broken)
    return calls


def test_a_loss_that_is_not_finite_stops_the_run(documents, tmp_path, monkeypatch):
    spoil(monkeypatch, 38, lambda loss: loss * torch.nan)
    with pytest.raises(UserError) as error:
        train.main(settings(documents, tmp_path))
    assert "the loss is not finite in steps 36 to 40" in str(error.value)
    assert f"{tmp_path / 'checkpoint-30'} is the last checkpoint" in str(error.value)
    assert read_log(tmp_path)["step"].max() == 30


def test_weights_that_are_not_finite_are_not_saved(documents, tmp_path, monkeypatch):
    """The last step before a checkpoint can spoil the weights with a loss that was finite."""
    spoil(monkeypatch, 10, lambda loss: loss.detach() + torch.sqrt(loss * 0))
    with pytest.raises(UserError, match="the weights are not finite at step 10; there is no checkpoint yet"):
        train.main(settings(documents, tmp_path))
    assert not list(tmp_path.glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("batch", "accumulate", "said"),
    [
        (8, 1, "8 sequences of 32 tokens at a time do not fit the memory of cpu: give --accumulate 2, which takes 4"),
        (6, 2, "3 sequences of 32 tokens at a time do not fit the memory of cpu: give --accumulate 6, which takes 1"),
        (2, 2, "give --gradient-checkpointing, or --precision bf16 or a smaller model"),
    ],
)
def test_too_little_memory_on_the_gpu(documents, tmp_path, monkeypatch, batch, accumulate, said):
    def full(loss):
        raise torch.OutOfMemoryError("CUDA out of memory")

    spoil(monkeypatch, 3, full)
    with pytest.raises(UserError, match=re.escape(said)):
        train.main(settings(documents, tmp_path, batch_tokens=batch * L, accumulate=accumulate, warmup=0))


def test_the_hours_to_come_are_predicted(documents, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "PREDICT_AFTER", 0.0)
    said = call(documents, tmp_path).stdout
    assert re.search(r"^about [\d.e-]+ hours for the \d\d steps to come$", said, re.MULTILINE), said
    assert said.count("hours for") == 1
