"""Predictors whose KL is known by hand, the columns of the CSVs, resuming, and bad input."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, call_script, one_line_error, trained

from common import history_state
from common.training import cosine_ends
from gaussian_synthetic import evaluate
from gaussian_synthetic.exact import dense, families
from gaussian_synthetic.training import models

SCRIPT = "gaussian_synthetic/evaluate.py"
COPIES = 3
OF = families.named("subvolume", 2)
LOG_STD = families.conditional_std(OF).log().numpy()
MI = 0.901313  # I(8; 16) of one copy, in nats, from docs/gaussian_families.md
ENTROPY = COPIES * (0.5 * np.log(2 * np.pi * np.e) + LOG_STD)


class Predictor(torch.nn.Module):
    """Predicts the mean weight · z and the deviation std; weight: (L, L), std: (L,), the same for all copies."""

    def __init__(self, weight: np.ndarray, std: np.ndarray) -> None:
        super().__init__()
        self.weight = torch.tensor(weight, dtype=torch.float32)
        self.log_std = torch.tensor(std, dtype=torch.float32).log()[:, None]

    def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.matmul(self.weight, z), self.log_std.expand_as(z)


def regressed(seen_from) -> Predictor:
    """The exact law of z_t given z_s … z_{t−1}, s = seen_from(t); positions count from 0."""
    sigma, weight, variance = dense.covariance(OF), np.zeros((16, 16)), np.ones(16)
    for t in range(16):
        seen = slice(seen_from(t), t)
        if seen_from(t) < t:
            weight[t, seen] = np.linalg.solve(sigma[seen, seen], sigma[seen, t])
            variance[t] -= weight[t, seen] @ sigma[seen, t]
    return Predictor(weight, np.sqrt(variance))


EXACT = regressed(lambda t: 0)
HALVES = regressed(lambda t: 0 if t < 8 else 8)  # exact for X; for Y, its law without X
INDEPENDENT = regressed(lambda t: t)


def measured(model: torch.nn.Module, draws: int = 64, **changes) -> tuple[np.ndarray, np.ndarray]:
    conditionals = families.prepare(OF)
    return evaluate.measure(model, conditionals, COPIES, draws, **{"batch": 8, "seed": 0, **changes})


def train_one(out: Path, *changes: object) -> Path:
    return trained("gaussian_synthetic/train.py", out, "--copies", COPIES, "--learning-rate", 3e-3, *changes)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    """Runs of one model: two seeds, and another length."""
    folder = tmp_path_factory.mktemp("runs")
    changes = {"a": (), "b": ("--seed", 1), "c": ("--L", 4)}
    return [train_one(folder / name, *change) for name, change in changes.items()]


def call(runs, out: Path, *arguments: object):
    return call_script(SCRIPT, "--out", out, "--draws", 16, "--runs", *runs, *arguments)


def tables(out: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    return pd.read_csv(out / "kl.csv"), pd.read_csv(out / "summary.csv")


def test_the_exact_predictor_uses_all_information():
    kl, nll = measured(EXACT)
    assert np.abs(kl).max() < 1e-9
    used, error = evaluate.utilisation(kl, COPIES * MI)
    assert used == pytest.approx(1, abs=1e-9)
    assert error < 1e-9
    mean, stderr = evaluate.mean_and_error(nll)
    assert (np.abs(mean - ENTROPY) < 4.5 * stderr).all()


def test_the_law_of_the_second_half_alone_uses_none():
    """Its KL on the second half is I(X; Y), so utilisation is 0; on the first half it is exact."""
    kl, _ = measured(HALVES, draws=2000, batch=500)
    assert np.abs(kl[:, :8]).max() < 1e-9
    used, error = evaluate.utilisation(kl, COPIES * MI)
    assert error < 0.03
    assert abs(used) < 4 * error


def test_the_row_of_the_independent_predictor_is_exact():
    row = evaluate.independent_row(LOG_STD, COPIES)
    kl, nll = measured(INDEPENDENT, draws=2000, batch=500)
    sampled = evaluate.summary_row(kl, nll, LOG_STD, COPIES)
    assert row["utilisation"] < -0.5  # worse than the law of Y alone
    for name in ("mean_kl", "mean_nll"):
        error = sampled[f"{name}_stderr_nats"]
        assert abs(sampled[f"{name}_nats"] - row[f"{name}_nats"]) < 4 * error
        assert row[f"{name}_stderr_nats"] == pytest.approx(0, abs=1e-12)
    assert abs(sampled["utilisation"] - row["utilisation"]) < 4 * sampled["utilisation_stderr"]
    assert row["mi_nats"] == pytest.approx(COPIES * MI, abs=1e-5)
    assert row["mean_kl_nats"] == pytest.approx(-COPIES * LOG_STD.mean())
    assert row["mean_nll_nats"] == pytest.approx(row["mean_entropy_nats"] + row["mean_kl_nats"])


def test_kl_and_entropy_are_the_nll():
    """NLL = KL + entropy at every position, within 4.5 standard errors, for a predictor that is far from exact."""
    kl, nll = measured(Predictor(0.3 * EXACT.weight.numpy() - 0.2 * np.eye(16, k=-1), np.full(16, 0.8)), draws=1000)
    mean, stderr = evaluate.mean_and_error(nll - kl - ENTROPY)
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
    alone = summary[summary["model"] == "independent"].iloc[0]
    assert alone[["state_size", "parameters", "steps", "draws"]].tolist() == [0, 0, 0, 0]
    training = pd.read_csv(tmp_path / "training.csv")
    for folder in runs:
        log, settings = pd.read_csv(folder / "log.csv"), evaluate.read_run(folder).settings
        same = (training[["L", "seed"]] == [settings["L"], settings["seed"]]).all(axis=1)
        assert training.loc[same, "step"].tolist() == log["step"].tolist()
        np.testing.assert_allclose(training.loc[same, "kl_nats"], log["kl_nats"], rtol=1e-3)
    assert (training["steps"] == 20).all()


def test_convergence_by_hand():
    def of(*losses: float) -> dict:
        log = pd.DataFrame({"step": cosine_ends(10, len(losses) - 1), "kl_nats": losses})
        return evaluate.Run(Path("x"), {"steps": 10}, 0, "", log).convergence(100.0)

    assert of(1.0, 0.8)["last_gain"] == pytest.approx(0.2)
    cases = ((1.0, 0.91, 0.83), (1.0, 0.89, 0.81), (1.0, 0.95), (0.21,), (0.19,))
    assert [of(*losses)["converged"] for losses in cases] == [True, False, False, False, True]


def test_convergence_and_the_best_linear_state(tmp_path):
    """Runs with one restart; the frontier against sums by hand from capacity.csv, and NaN where the state grows."""
    long = ("--steps", 40, "--restarts", 1)
    runs = [train_one(tmp_path / name, "--model", name, *long) for name in ("gru-16-7", "tiny")]
    known = pd.read_csv(ROOT / "results/capacity/capacity.csv")
    others = known.assign(family="logarithmic", k=1, lower_nats=9.0, attained_nats=9.0)
    pd.concat([known, others]).to_csv(tmp_path / "both.csv", index=False)
    assert call(runs, tmp_path / "out", "--capacity", tmp_path / "both.csv").returncode == 0
    summary = tables(tmp_path / "out")[1].set_index("model")
    for run, name in zip(runs, ("gru-16-7", "tiny"), strict=True):
        log, row = pd.read_csv(run / "log.csv").set_index("step")["kl_nats"], summary.loc[name]
        assert log.index[-1] == row["steps"] == 120
        assert row["last_gain"] == pytest.approx(1 - log[120] / log[40], rel=1e-5)
        assert not row["converged"]  # only one restart, and the KL is far from 0
    capacity = known.query("L == 16").set_index("d")
    for column, name in (("frontier_lo_nats", "lower_nats"), ("frontier_hi_nats", "attained_nats")):
        # 7 elements for 3 copies: two copies have 2, one has 3.
        wanted = (2 * capacity.loc[2, name] + capacity.loc[3, name]) / 16
        assert summary.loc["gru-16-7", column] == pytest.approx(wanted, rel=1e-6)
        assert np.isnan(summary.loc["tiny", column])
    nowhere = call(runs, tmp_path / "other", "--capacity", tmp_path / "capacity.csv")
    assert "capacity.csv" in one_line_error(nowhere)


def test_what_is_there_is_not_computed_again(runs, tmp_path):
    """Stored results are used again; other weights are evaluated, and other draws in the same folder are refused."""
    run = shutil.copytree(runs[0], tmp_path / "run")
    call([run], tmp_path / "out")
    alone = tables(tmp_path / "out")
    (piece,) = (tmp_path / "out" / "kl.parts").glob("*.npz")
    before = piece.stat().st_mtime_ns
    call([run, runs[1]], tmp_path / "out")
    assert piece.stat().st_mtime_ns == before
    for one, two in zip(alone, tables(tmp_path / "out"), strict=True):
        pd.testing.assert_frame_equal(two[two["seed"] == 0].reset_index(drop=True), one)
        assert (two["seed"] == 1).any()
    assert "was made with other settings" in one_line_error(call([run], tmp_path / "out", "--seed", 1))
    saved = torch.load(run / "checkpoint.pt", weights_only=True)
    saved |= {"step": 10, "model": {name: 0.5 * value for name, value in saved["model"].items()}}
    torch.save(saved, run / "checkpoint.pt")
    assert "is at step 10 of 20: evaluated as it is" in call([run], tmp_path / "out").stdout
    new = tables(tmp_path / "out")[1]
    assert new["steps"].tolist() == [0, 10]
    assert new["mean_kl_nats"][1] != alone[1]["mean_kl_nats"][1]


def test_runs_are_added_to_those_of_the_csvs(runs, tmp_path):
    """--add gives the CSVs of all runs at once without the other checkpoints, and refuses another number of copies."""
    call(runs, tmp_path / "at_once")
    wanted = {name: (tmp_path / "at_once" / f"{name}.csv").read_text() for name in evaluate.TABLES}
    call(runs[:2], tmp_path / "out")
    shutil.rmtree(tmp_path / "out/kl.parts")
    for _ in range(2):  # the second time it replaces its own rows
        assert call(runs[2:], tmp_path / "out", "--add").returncode == 0
        assert {name: (tmp_path / "out" / f"{name}.csv").read_text() for name in evaluate.TABLES} == wanted
    shutil.rmtree(tmp_path / "out/kl.parts")
    said = one_line_error(call([train_one(tmp_path / "more", "--copies", 2)], tmp_path / "out", "--add"))
    assert not (tmp_path / "out/kl.parts").exists()  # refused before anything was computed
    assert all(part in said for part in ("'copies': '3'", "'copies': '2'", "give another --out"))
    assert {name: (tmp_path / "out" / f"{name}.csv").read_text() for name in evaluate.TABLES} == wanted
    assert "evaluate all without it" in one_line_error(call(runs, tmp_path / "new", "--add"))


def test_bad_input(runs, tmp_path, monkeypatch):
    nan, damaged, wider = (shutil.copytree(runs[0], tmp_path / name) for name in ("nan", "damaged", "wider"))
    saved = torch.load(nan / "checkpoint.pt", weights_only=True)
    torch.save(saved | {"model": {name: torch.nan * x for name, x in saved["model"].items()}}, nan / "checkpoint.pt")
    saved["identity"]["settings"]["model"] = "gpt2-mini"
    torch.save(saved, wider / "checkpoint.pt")
    (damaged / "checkpoint.pt").write_text("nothing")
    for arguments, said in [
        ([runs[0], "--draws", 1], "--draws 1: must be at least 2"),
        ([damaged], "damaged: delete it and train again"),
        ([wider], "does not match model gpt2-mini: train again"),
        ([nan], "the KL of the model is not finite: train it again"),
        ([runs[0], nan], "are both {'model': 'tiny', 'L': 16, 'seed': 0}: give one"),
        (
            [runs[0], train_one(tmp_path / "other", "--family", "logarithmic", "--seed", 2)],
            "use a separate --out for each",
        ),
    ]:
        assert said in one_line_error(call(arguments, tmp_path / "out"))
        assert not (tmp_path / "out").exists()

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(evaluate, "measure", full)
    said = one_line_error(call(runs[:1], tmp_path / "out", "--device", "cpu"))
    assert f"{runs[0]}: 8 sequences of 16 tokens at a time do not fit the memory of cpu: lower --batch" in said
