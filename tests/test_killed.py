"""Every long script, killed at random moments and restarted, ends with the same results as an undisturbed run.

KILLS=50 python -m pytest tests/test_killed.py kills each script 50 times instead of 2. The runs are children of a
process that has already loaded the libraries, so that they are killed while they work and not while they import.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.conftest import TINY_RUN, call_script, prose, tiny_scoring, toy_books, trained

KILLS = int(os.environ.get("KILLS", "2"))
MOMENTS = ("finished", "seconds", "scoring_seconds")  # entries of a record that differ between equal runs


def texts(folder: Path) -> Path:
    rows = [{"title": f"Book {i}", "text": prose(200, i)} for i in range(40)]
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder / "texts.jsonl"


def prepare(folder: Path) -> list[object]:
    flags = ["--corpus", texts(folder), "--tokenizer", "characters", "--min-tokens", 300, "--shard-megabytes", 0.02]
    return [*flags, "--processes", 1, "--out", "OUT/documents"]


def count(folder: Path) -> list[object]:
    flags = ["--documents", toy_books(folder / "documents", 400, 20), "--d", 1, 2, 4, 8]
    return [*flags, "--processes", 1, "--out", "OUT/counts.csv"]


def score(folder: Path) -> list[object]:
    flags = ["--L-max", 64, "--ell-max", 32, "--batch-tokens", 64, "--out", "OUT/scores.csv"]
    return [*tiny_scoring(folder, 64, 10), *flags]


def calibrate(folder: Path) -> list[object]:
    flags = ["--processes", "bernoulli", "--n-documents", 60, "--replications", 120, "--replications-misspecified", 3]
    flags += ["--predictors", "exact", "--L-max", 64, "--L-fit-min", 8]
    return [*flags, "--pool-documents", 500, "--out", "OUT"]


def calibrate_clustered(folder: Path) -> list[object]:
    flags = ["--n-documents", 20, "--books", 4, "--replications", 21, "--bootstrap", 2, "--L-max", 32]
    return [*flags, "--L-fit-mins", 8, "--pool-documents", 500, "--out", "OUT"]


def gaussian_train(folder: Path) -> list[object]:
    return [*TINY_RUN["gaussian_synthetic/train.py"], "--restarts", 1, "--out", "OUT/run"]


def gaussian_evaluate(folder: Path) -> list[object]:
    of = "gaussian_synthetic/train.py"
    runs = [trained(of, folder / f"run {seed}", "--seed", seed) for seed in range(4)]
    return ["--runs", *runs, "--draws", 64, "--device", "cpu", "--out", "OUT"]


def book_train(folder: Path) -> list[object]:
    flags = ["--steps", 6, "--restarts", 1, "--documents", toy_books(folder / "documents", 40, 6), "--out", "OUT/run"]
    return [*TINY_RUN["train_on_pg19/train.py"], *flags]


def book_evaluate(folder: Path) -> list[object]:
    documents, of = toy_books(folder / "documents", 40, 6), "train_on_pg19/train.py"
    run = trained(of, folder / "run", "--documents", documents, "--steps", 3, "--restarts", 3)
    given = ["--model", run, "--documents", documents, "--batch-tokens", 32, "--device", "cpu"]
    return [*given, "--out", "OUT/losses.csv"]


CASES: dict[str, Callable[[Path], list[object]]] = {
    "measure_mutual_info/prepare_dataset.py": prepare,
    "measure_mutual_info/count_ngrams.py": count,
    "measure_mutual_info/score_documents.py": score,
    "measure_mutual_info/calibration/bipartite.py": calibrate,
    "measure_mutual_info/calibration/clustered.py": calibrate_clustered,
    "gaussian_synthetic/train.py": gaussian_train,
    "gaussian_synthetic/evaluate.py": gaussian_evaluate,
    "train_on_pg19/train.py": book_train,
    "train_on_pg19/evaluate.py": book_evaluate,
}


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    modules = [script.removesuffix(".py").replace("/", ".") for script in CASES]
    context.set_forkserver_preload([__name__, *modules])
    return context


def child(script: str, arguments: list[str]) -> None:
    os.setsid()  # so that the processes it starts are killed with it
    torch.set_num_threads(1)
    done = call_script(script, *arguments)
    assert done.returncode == 0, done.stderr


def attempt(processes, script: str, arguments: list[str], limit: float | None = None) -> float | None:
    """Seconds that a run took, or None if it was killed after `limit` seconds."""
    started = time.perf_counter()
    process = processes.Process(target=child, args=(script, arguments))
    process.start()
    process.join(limit)
    if process.exitcode is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # too early: it does not lead its own process group yet
            process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        return None
    assert process.exitcode == 0
    return time.perf_counter() - started


def results(folder: Path) -> dict[str, object]:
    """Contents by file name: CSVs without the speed, JSON without MOMENTS, weights of checkpoints, else the bytes."""
    found = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.suffix == ".csv":
            table = pd.read_csv(file, dtype=str, keep_default_na=False)
            found[name] = table.drop(columns="tokens_per_second", errors="ignore").to_csv(index=False)
        elif file.name == "checkpoint.pt":
            found[name] = {key: value.tolist() for key, value in torch.load(file, weights_only=True)["model"].items()}
        elif file.suffix == ".json":
            facts = json.loads(file.read_text(encoding="utf-8").replace(str(folder), ""))
            found[name] = {key: value for key, value in facts.items() if key not in MOMENTS}
        elif file.is_file() and not file.name.endswith(".tmp"):  # not a partial file, see common.record.atomic_file
            found[name] = file.read_bytes()
    return found


@pytest.mark.parametrize("script", CASES)
def test_killed_at_random_moments(script, processes, tmp_path):
    arguments = list(map(str, CASES[script](tmp_path)))
    # Records hold the last part of a path, so both folders end alike.
    runs = {name: [a.replace("OUT", str(tmp_path / name / "out")) for a in arguments] for name in ("whole", "killed")}
    seconds = attempt(processes, script, runs["whole"])
    draw = random.Random(script)
    kills = 0
    while kills < KILLS:
        taken = attempt(processes, script, runs["killed"], draw.uniform(0.02, seconds))
        if taken is None:
            kills += 1
        else:  # the machine was busier when the run was timed: start over, and kill earlier
            seconds = min(seconds, taken)
            shutil.rmtree(tmp_path / "killed")
    attempt(processes, script, runs["killed"])
    whole, killed = (results(tmp_path / name) for name in runs)
    assert killed.keys() == whole.keys()
    assert not [name for name in whole if killed[name] != whole[name]]
