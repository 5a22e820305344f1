"""Predictors whose KL is known by hand, the columns of both CSVs, resuming, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import call_script, one_line_error

from common import history_state, training
from common.cli import UserError
from gaussian_synthetic import evaluate, train
from gaussian_synthetic.exact import dense, families
from gaussian_synthetic.training import models

SCRIPT = "gaussian_synthetic/evaluate.py"
COPIES = 3
OF = families.named("subvolume", 2)
MI = 0.901313  # I(8; 16) of one copy, in nats: README.md of the folder
CPU = torch.device("cpu")


class Predictor(torch.nn.Module):
    """Means weight · z, and the deviations, of every position; weight: (L, L), std: (L,), the same for all copies."""

    def __init__(self, weight: np.ndarray, std: np.ndarray) -> None:
        super().__init__()
        self.weight = torch.tensor(weight, dtype=torch.float32)
        self.log_std = torch.tensor(std, dtype=torch.float32).log()[:, None]

    def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.matmul(self.weight, z), self.log_std.expand_as(z)


def regressed(seen_from) -> Predictor:
    """The exact law of z_t given z_s … z_{t−1}, s = seen_from(t); positions count from 0."""
    sigma = dense.covariance(OF)
    sigma, weight, variance = np.asarray(sigma), np.zeros((16, 16)), np.ones(16)
    for t in range(16):
        seen = slice(seen_from(t), t)
        if seen_from(t) < t:
            weight[t, seen] = np.linalg.solve(sigma[seen, seen], sigma[seen, t])
            variance[t] -= weight[t, seen] @ sigma[seen, t]
    return Predictor(weight, np.sqrt(variance))


EXACT = regressed(lambda t: 0)
HALVES = regressed(lambda t: 0 if t < 8 else 8)  # X exactly, and Y by its own law alone
INDEPENDENT = regressed(lambda t: t)


def measured(model: torch.nn.Module, draws: int = 64, **changes) -> tuple[np.ndarray, np.ndarray]:
    conditionals = families.prepare(OF)
    return evaluate.measure(model, conditionals, COPIES, draws, **{"batch": 8, "seed": 0, "progress": False, **changes})


def train_one(out: Path, **changes) -> Path:
    small = dict(model="tiny", L=16, copies=COPIES, steps=20, warmup=2, log_every=10, checkpoint_every=10)
    train.main(train.Settings(out=out, **{**small, "learning_rate": 3e-3, **changes}))
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    """Two seeds of one model, and another length."""
    folder = tmp_path_factory.mktemp("runs")
    changes = {"a": {}, "b": {"seed": 1}, "c": {"L": 4}}
    return [train_one(folder / name, **change) for name, change in changes.items()]


def call(runs, out: Path, *arguments: object):
    return call_script(SCRIPT, "--runs", *runs, "--out", out, "--draws", 16, *arguments)


def tables(out: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    return pd.read_csv(out / "kl.csv"), pd.read_csv(out / "summary.csv")


def test_the_exact_predictor_uses_all_information():
    kl, nll = measured(EXACT)
    assert np.abs(kl).max() < 1e-9
    used, error = evaluate.utilisation(kl, COPIES * MI)
    assert used == pytest.approx(1, abs=1e-9)
    assert error < 1e-9
    entropy = COPIES * (0.5 * np.log(2 * np.pi * np.e) + families.conditional_std(OF).log().numpy())
    mean, stderr = evaluate.mean_and_error(nll)
    assert (np.abs(mean - entropy) < 4.5 * stderr).all()


def test_the_law_of_the_second_half_alone_uses_none():
    """Its KL on the second half is I(X; Y), so utilisation is 0; on the first half it is exact."""
    kl, _ = measured(HALVES, draws=2000, batch=500)
    assert np.abs(kl[:, :8]).max() < 1e-9
    used, error = evaluate.utilisation(kl, COPIES * MI)
    assert error < 0.03
    assert abs(used) < 4 * error


def test_worse_than_none_is_below_zero():
    used, _ = evaluate.utilisation(measured(INDEPENDENT)[0], COPIES * MI)
    assert used < -0.5


def test_the_row_of_the_independent_predictor_is_exact():
    row = evaluate.independent_row(OF, COPIES)
    kl, nll = measured(INDEPENDENT, draws=2000, batch=500)
    sampled = evaluate.summary_row(kl, nll, OF, COPIES)
    for name in ("mean_kl", "mean_nll"):
        error = sampled[f"{name}_stderr_nats"]
        assert abs(sampled[f"{name}_nats"] - row[f"{name}_nats"]) < 4 * error
        assert row[f"{name}_stderr_nats"] == pytest.approx(0, abs=1e-12)
    assert abs(sampled["utilisation"] - row["utilisation"]) < 4 * sampled["utilisation_stderr"]
    assert row["mi_nats"] == pytest.approx(COPIES * MI, abs=1e-5)
    assert row["mean_kl_nats"] == pytest.approx(-COPIES * families.conditional_std(OF).log().mean().item())
    assert row["mean_nll_nats"] == pytest.approx(row["mean_entropy_nats"] + row["mean_kl_nats"])
    assert row["state_size"] == row["parameters"] == row["steps"] == 0


def test_kl_and_entropy_are_the_nll():
    """Position by position, within the error of their difference, for a predictor that is far from exact."""
    kl, nll = measured(Predictor(0.3 * EXACT.weight.numpy() - 0.2 * np.eye(16, k=-1), np.full(16, 0.8)), draws=1000)
    entropy = COPIES * (0.5 * np.log(2 * np.pi * np.e) + families.conditional_std(OF).log().numpy())
    mean, stderr = evaluate.mean_and_error(nll - kl - entropy)
    assert (np.abs(mean) < 4.5 * stderr).all()
    assert evaluate.mean_and_error(kl)[0].min() > 0.05


def test_neither_batch_nor_number_of_draws_changes_a_draw():
    torch.manual_seed(0)
    model = models.build("tiny", COPIES, 16).eval()
    whole = measured(model, draws=8)
    np.testing.assert_allclose(whole, measured(model, draws=8, batch=1), rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(np.array(whole)[:, :5], measured(model, draws=5, batch=3), rtol=2e-5, atol=1e-5)
    assert not np.allclose(whole, measured(model, draws=8, seed=1))


def test_both_tables(runs, tmp_path):
    done = call(runs, tmp_path)
    assert done.returncode == 0, done.stderr
    positions, summary = tables(tmp_path)
    assert list(positions)[:7] == ["model", "L", "seed", "position", "kl_nats", "nll_nats", "entropy_nats"]
    assert {"model", "L", "seed", "state_size", "mi_nats", "mean_kl_nats", "steps"} <= set(summary)
    assert positions.groupby(["L", "seed"]).size().to_dict() == {(4, 0): 4, (16, 0): 16, (16, 1): 16}
    keys = summary[["model", "L", "seed"]].values.tolist()
    assert keys == [["independent", 4, 0], ["independent", 16, 0], ["tiny", 4, 0], ["tiny", 16, 0], ["tiny", 16, 1]]
    mi = {4: 0.293893, 16: MI}
    np.testing.assert_allclose(summary["mi_nats"], [COPIES * mi[L] for L in summary["L"]], rtol=1e-5)
    config = models.build("tiny", COPIES, 16).config
    trained = summary[summary["model"] == "tiny"]
    assert trained["state_size"].tolist() == [history_state.history_state(config, L // 2) for L in trained["L"]]
    assert (trained["steps"] == 20).all()
    for row in trained.itertuples():
        these = positions[(positions["L"] == row.L) & (positions["seed"] == row.seed)]
        assert these["kl_nats"].mean() == pytest.approx(row.mean_kl_nats, rel=1e-3)
        used = 1 - these["kl_nats"][row.L // 2 :].sum() / row.mi_nats
        assert row.utilisation == pytest.approx(used, abs=1e-3)
        past = COPIES * 0.5 * np.log(2 * np.pi * np.e) - these["entropy_nats"]
        np.testing.assert_allclose(these["share_of_past"][1:], 1 - (these["kl_nats"] / past)[1:], atol=2e-3)
        assert np.isnan(these["share_of_past"].iloc[0])
    facts = json.loads((tmp_path / "kl.json").read_text())
    assert facts["settings"]["draws"] == 16
    assert f"kl.csv, training.csv, summary.csv are in {tmp_path}" in done.stdout


def test_the_kl_while_training_is_kept(runs, tmp_path):
    call(runs, tmp_path)
    training = pd.read_csv(tmp_path / "training.csv")
    assert training.columns.tolist() == ["model", "L", "seed", "steps", "step", "kl_nats"]
    for folder in runs:
        log, settings = pd.read_csv(folder / "log.csv"), evaluate.read_run(folder).settings
        same = (training[["L", "seed"]] == [settings["L"], settings["seed"]]).all(axis=1)
        assert training.loc[same, "step"].tolist() == log["step"].tolist()
        np.testing.assert_allclose(training.loc[same, "kl_nats"], log["kl_nats"], rtol=1e-3)
    assert (training["steps"] == 20).all()


def test_a_run_is_evaluated_once(runs, tmp_path):
    call(runs[:1], tmp_path)
    alone = tables(tmp_path)
    done = call(runs[:2], tmp_path)
    assert f"{runs[0]} is in {tmp_path} already" in done.stdout
    both = tables(tmp_path)
    for one, two in zip(alone, both, strict=True):
        pd.testing.assert_frame_equal(two[two["seed"] == 0].reset_index(drop=True), one)
        assert (two["seed"] == 1).any()
    before = (tmp_path / "kl.csv").read_bytes()
    call(runs[:2], tmp_path)
    assert (tmp_path / "kl.csv").read_bytes() == before
    done = call(runs[:1], tmp_path, "--seed", 1)  # other draws
    assert "already" not in done.stdout
    again, _ = tables(tmp_path)
    assert len(again) == len(both[0])
    old, new = (table.loc[table["seed"] == 0, "kl_nats"].to_numpy() for table in (both[0], again))
    assert (old != new).any()


def test_a_run_that_went_on_is_evaluated_again(tmp_path, monkeypatch):
    def cut(now, save=training.Run.save):
        save(now)
        if now.step == 10:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training.Run, "save", cut)
        with pytest.raises(KeyboardInterrupt):
            train_one(tmp_path / "run")
    done = call([tmp_path / "run"], tmp_path / "out")
    assert "stands at step 10 of 20: evaluated as it is" in done.stdout
    half = tables(tmp_path / "out")[1]
    train_one(tmp_path / "run")
    done = call([tmp_path / "run"], tmp_path / "out")
    assert "already" not in done.stdout
    whole = tables(tmp_path / "out")[1]
    assert half["steps"].tolist() == [0, 10]
    assert whole["steps"].tolist() == [0, 20]
    assert whole["mean_kl_nats"][1] < half["mean_kl_nats"][1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--draws", 1], "--draws 1: a standard error needs at least 2"),
        (["--batch", 0], "--batch 0: at least 1"),
        (["--device", "abacus"], "--device abacus: give auto, cpu, cuda or cuda:1"),
    ],
)
def test_bad_settings(runs, tmp_path, arguments, said):
    assert said in one_line_error(call(runs[:1], tmp_path / "out", *arguments))
    assert not (tmp_path / "out").exists()


def test_runs_that_cannot_stand_together(runs, tmp_path):
    same = train_one(tmp_path / "same")
    assert "are both tiny, L = 16, seed 0: give one" in one_line_error(call([runs[0], same], tmp_path / "out"))
    other = train_one(tmp_path / "other", family="logarithmic", seed=2)
    assert "give each family its own --out" in one_line_error(call([runs[0], other], tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    call(runs[:1], tmp_path / "out")
    assert "give each family its own --out" in one_line_error(call([other], tmp_path / "out"))


def test_what_is_no_run_or_no_table(runs, tmp_path):
    said = one_line_error(call([tmp_path / "nowhere"], tmp_path / "out"))
    assert f"no checkpoint {tmp_path / 'nowhere' / 'checkpoint.pt'}: give the folder of a run of train.py" in said
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "checkpoint.pt").write_text("nothing")
    assert "damaged: delete it and train again" in one_line_error(call([tmp_path / "damaged"], tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "summary.csv").write_text("mine\n1\n")
    assert "summary.csv lacks the columns model, L" in one_line_error(call(runs[:1], tmp_path / "out"))
    assert (tmp_path / "out" / "summary.csv").read_text() == "mine\n1\n"
    (tmp_path / "file").write_text("")
    assert f"--out {tmp_path / 'file'} is a file" in one_line_error(call(runs[:1], tmp_path / "file"))


def test_a_checkpoint_of_other_tensors(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(models.MODELS, "tiny", models.MODELS["gpt2-mini"])
    with pytest.raises(UserError, match="holds other tensors than tiny has here: train again"):
        evaluate.load_model(runs[0])


def test_a_model_that_is_not_finite_is_refused(tmp_path, runs, monkeypatch):
    monkeypatch.setattr(evaluate, "load_model", lambda folder, device: Broken(models.build("tiny", COPIES, 16)))
    assert "the KL of the model is not finite: train it again" in one_line_error(call(runs[:1], tmp_path / "out"))


@pytest.mark.parametrize(("batch", "said"), [(8, "give --batch 4, which"), (1, "give --device cpu, which")])
def test_too_little_memory_on_the_gpu(tmp_path, runs, monkeypatch, batch, said):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(evaluate, "measure", full)
    wanted = f"{runs[0]}: {batch} sequences of 16 tokens at a time do not fit the memory of cpu: {said}"
    assert wanted in one_line_error(call(runs[:1], tmp_path / "out", "--batch", batch, "--device", "cpu"))


class Broken(torch.nn.Module):
    def __init__(self, model: models.GaussianModel) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_std = self.model(z)
        return mean * torch.nan, log_std
