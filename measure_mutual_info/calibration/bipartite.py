"""Does the pipeline return a known answer? Estimates and intervals for processes whose information is known exactly.

    python measure_mutual_info/calibration/bipartite.py --out results/calibration --workers 2

Documents of each process (processes.py) go through the scoring, the estimators and the fits of a real measurement, with
the process's own predictor in place of the language model: exact, and misspecified in four ways. This is not in the
paper. Each process gets a folder under --out:

    calibration.csv      I(L) of each replication with its error, the truth, and whether the 95% interval contains it
    calibration_fit.csv  β of each replication with its interval, by generalised (gls) and ordinary (ols) least squares
    coverage.csv         over the replications: mean, bias, spread, and coverage

One CPU core: 0.3 s for a replication of 1,000 documents of 2,048 tokens, 25 minutes in all. A killed run continues
where it stopped. Expect for the exact predictor: coverage of 0.93 to 0.98 for `direct`, both of I(L) and of β by gls;
vCLUB 2 to 80 times the truth, with β = 1.05 and 1.13 where Santa Fe's is 0.5 and 0.75.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from scipy.special import stdtrit
from scipy.stats import linregress
from tqdm import tqdm

from common.cli import UserError, run
from common.powerlaw import GROWTH_LAWS, MIN_POINTS, NoFitError, fit_law, fit_power_ols
from common.record import write_csv
from measure_mutual_info import score_documents
from measure_mutual_info.calibration.coverage import METHODS, coverage, print_summary, rounded
from measure_mutual_info.calibration.processes import (
    PREDICTORS,
    BernoulliUniform,
    ExactBackend,
    MarkovChain,
    NoisySantaFe,
    PredictorName,
    Process,
)
from measure_mutual_info.estimate_bipartite import estimate_table, fit_ratio, per_document_terms
from measure_mutual_info.scoring import score_store

ESTIMATORS = ("direct", "vclub")
FIT_VALUES = (
    "beta",
    "lo95",
    "hi95",
    "chi2",
    "p_value",
    "selected",
    "selected_of_all",
)  # selected: index into GROWTH_LAWS
ROWS_A_GROUP = 250
POOL_PIECE = 1000  # documents of the pool that are sampled at a time


@dataclass(frozen=True)
class Settings:
    out: Path = Path("results/calibration")
    """folder; each process gets one within it"""
    processes: tuple[Literal["santa_fe", "markov", "bernoulli"], ...] = ("santa_fe", "markov", "bernoulli")
    """see processes.py"""
    betas: tuple[float, ...] = (0.5, 0.75)
    """santa_fe: exponents, from 0.05 up to 1"""
    epsilons: tuple[float, ...] = (0.1,)
    """santa_fe: probabilities that a bit is misread, 0.001 to 0.45; each goes with each beta"""
    n_keys: int = 4096
    """santa_fe: keys, in samples and truth alike"""
    predictors: tuple[PredictorName, ...] = get_args(PredictorName)
    """what stands in the place of the language model"""
    n_documents: tuple[int, ...] = (100, 1000)
    """documents of a replication"""
    replications: int = 800
    """with the exact predictor, for each number of documents"""
    replications_misspecified: int = 20
    """with each other predictor, at the largest number of documents"""
    replications_all_laws: int = 100
    """of the exact predictor's, how many try all laws, not only power and logarithm: the others are slow to fit"""
    L_max: int = 2048
    """tokens; as in the paper"""
    ratio: int = 2
    """L/ell; as in Fig. 2b"""
    L_fit_min: int = 128
    """tokens, first L of the fits: below it the exact curves are no power laws yet"""
    pool_documents: int = 20_000
    """documents whose covariance weighs the exact curve in the fit that gives the true β of gls; whole thousands"""
    block: int = 10
    """replications that are done and stored together"""
    workers: int = 1
    """processes in parallel; no result depends on it"""
    seed: int = 0
    """of the first replication; the next ones count on from it"""

    @property
    def window(self) -> list[int]:
        """The L of the fits, in tokens."""
        return [L for _, L in self.scoring.points if L >= self.L_fit_min]

    @property
    def scoring(self) -> score_documents.Settings:
        """The settings of score_documents.py that a replication goes through."""
        return score_documents.Settings(
            documents=Path(),
            model="exact predictor",
            out=Path("scores.csv"),
            L_max=self.L_max,
            ell_max=max(2, self.L_max // self.ratio),
            ratios=(self.ratio,),
            batch_tokens=ROWS_A_GROUP * self.L_max,
        )

    @property
    def sources(self) -> list[Process]:
        """The processes, Santa Fe with every beta and epsilon."""
        made: dict[str, list[Process]] = {
            "santa_fe": [NoisySantaFe(beta, epsilon, self.n_keys) for beta in self.betas for epsilon in self.epsilons],
            "markov": [MarkovChain()],
            "bernoulli": [BernoulliUniform()],
        }
        return [process for kind in self.processes for process in made[kind]]

    def validate(self) -> None:
        if self.out.exists() and not self.out.is_dir():
            raise UserError(f"--out {self.out} is a file: give a folder")
        if bad := [beta for beta in self.betas if not 0.05 <= beta < 1]:
            raise UserError(f"--betas {bad[0]:g}: give exponents of at least 0.05 and below 1")
        if bad := [epsilon for epsilon in self.epsilons if not 0.001 <= epsilon <= 0.45]:
            raise UserError(
                f"--epsilons {bad[0]:g}: give probabilities from 0.001 to 0.45 "
                "(at 0 vCLUB is infinite, at 0.5 a bit tells nothing)"
            )
        names = [process.name for process in self.sources]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"--betas, --epsilons: two processes are called {twice[0]}: names tell six digits apart")
        if not 2 <= self.n_keys <= 100_000:
            raise UserError(f"--n-keys {self.n_keys}: give 2 to 100000")
        if self.ratio < 2:
            raise UserError(f"--ratio {self.ratio}: L must lie beyond ell, so at least 2")
        if self.L_max > 32_767:
            raise UserError(f"--L-max {self.L_max}: at most 32767, the predictor counts in 16 bits")
        if not self.sources:
            raise UserError("nothing to do: give --processes, and for santa_fe --betas and --epsilons")
        if not self.n_documents or min(self.n_documents) < 2:
            shown = " ".join(map(str, self.n_documents))
            raise UserError(f"--n-documents {shown}: vCLUB pairs documents, so at least 2")
        if len(self.window) < MIN_POINTS:
            raise UserError(
                f"--L-fit-min {self.L_fit_min} --L-max {self.L_max} --ratio {self.ratio}: {len(self.window)} L in the "
                f"window of the fits, and {MIN_POINTS} are needed: lower --L-fit-min or raise --L-max"
            )
        for name in ("pool_documents", "replications", "block", "workers"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: give at least 1")
        for name in ("replications_misspecified", "replications_all_laws"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: give 0 or more")
        if all(job.predictor == "pool" for job in jobs(self)):
            raise UserError("nothing to do: give --predictors, and more than 0 replications of each")


# What --preset sets in place of the defaults above. "…-noise": Santa Fe with less noise and with more, of which 200
# replications say the same. The paper calibrates nothing, but measures on 1,024 documents.
CPU = {"replications": 1000, "workers": 2}
NOISE = {"processes": ("santa_fe",), "epsilons": (0.05, 0.2), "replications": 200}
PAPER = CPU | {"n_documents": (100, 1024)}
PRESETS = {
    "paper": PAPER,
    "paper-noise": PAPER | NOISE,
    "cpu": CPU,
    "cpu-noise": CPU | NOISE,
    "smoke": {
        "replications": 20,
        "replications_misspecified": 5,
        "n_documents": (30, 100),
        "L_max": 256,
        "L_fit_min": 32,
        "pool_documents": 2000,
        "workers": 2,
    },
}


class Job(NamedTuple):
    """Replications `first` … `first + count − 1` of one kind. predictor "pool": documents of the fit of the truth."""

    predictor: str
    n_documents: int
    first: int
    count: int


def jobs(cfg: Settings) -> list[Job]:
    """All the work on one process, in the order of the tables."""

    def blocks(predictor: str, n_documents: int, replications: int) -> Iterator[Job]:
        for first in range(0, replications, cfg.block):
            yield Job(predictor, n_documents, first, min(cfg.block, replications - first))

    found = list(blocks("pool", POOL_PIECE, -(-cfg.pool_documents // POOL_PIECE)))
    for predictor in cfg.predictors:
        if predictor == "exact":
            for n in cfg.n_documents:
                found += blocks(predictor, n, cfg.replications)
        else:
            found += blocks(predictor, max(cfg.n_documents), cfg.replications_misspecified)
    return found


class _MemoryStore:
    """Groups of one replication; the interface of score_store.ScoreStore that scoring needs."""

    def __init__(self) -> None:
        self.parts: dict[int, dict[str, np.ndarray]] = {}

    def done(self, group: int) -> bool:
        return group in self.parts

    def write(self, group: int, arrays: dict[str, np.ndarray]) -> None:
        self.parts[group] = arrays

    def read(self, group: int, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        return self.parts[group]


def replicate(
    cfg: Settings, process: Process, predictor: str, n_documents: int, seed: int, pool: bool = False
) -> dict[str, pd.DataFrame]:
    """Sample documents, score and estimate: for each of ESTIMATORS the terms, documents × (ell, L), nats.

    The documents depend on the process, their number and the seed, not on the predictor.
    """
    rng = np.random.default_rng([seed, n_documents, zlib.crc32(process.name.encode()), pool])
    names = np.array([f"{i:06d}" for i in range(n_documents)], dtype=object)
    scoring, store = cfg.scoring, _MemoryStore()
    ids = process.sample(rng, n_documents, scoring.longest)
    sample = score_documents.Sample(names, names, ids, score_documents.passes.x_donors(names, seed), {})
    score_documents.score_groups(scoring, sample, ExactBackend(process, PREDICTORS[predictor]), store, progress=False)
    scores, failed, _ = score_documents.assemble(scoring, sample, store)
    if failed:
        raise RuntimeError(f"{process.name}, {predictor}: {failed} documents with infinite log-probabilities")
    return {estimator: per_document_terms(scores, estimator) for estimator in ESTIMATORS}


def do_job(cfg: Settings, process: Process, job: Job) -> dict[str, np.ndarray]:
    """The results of one job as arrays, see `shapes`."""
    results = []
    for seed in range(cfg.seed + job.first, cfg.seed + job.first + job.count):
        if job.predictor == "pool":
            terms = replicate(cfg, process, "exact", job.n_documents, seed, pool=True)["direct"].to_numpy()
            mean = terms.mean(axis=0)
            results.append({"mean": mean, "scatter": (terms - mean).T @ (terms - mean)})
            continue
        terms = replicate(cfg, process, job.predictor, job.n_documents, seed)
        tables = {name: estimate_table(values, values) for name, values in terms.items()}
        some = job.predictor == "exact" and seed - cfg.seed < cfg.replications_all_laws
        results.append(
            {
                "mi": np.stack([tables[name]["mi_nats"] for name in ESTIMATORS]),
                "stderr": np.stack([tables[name]["stderr_nats"] for name in ESTIMATORS]),
                "gls": np.stack([gls(cfg, terms[name], some and name == "direct") for name in ESTIMATORS]),
                "ols": np.stack([ols(cfg, terms[name]) for name in ESTIMATORS]),
            }
        )
    return {name: np.stack([result[name] for result in results]) for name in results[0]}


def shapes(cfg: Settings, job: Job) -> dict[str, tuple[int, ...]]:
    p, e = len(cfg.scoring.points), len(ESTIMATORS)
    if job.predictor == "pool":
        return {"mean": (job.count, p), "scatter": (job.count, p, p)}
    fit = (job.count, e, len(FIT_VALUES))
    return {"mi": (job.count, e, p), "stderr": (job.count, e, p), "gls": fit, "ols": fit}


def gls(cfg: Settings, terms: pd.DataFrame, all_laws: bool) -> np.ndarray:
    """FIT_VALUES of the power law over the window by generalised least squares; NaN where nothing could be fitted.

    selected: the law of the smaller AICc of power and logarithm; selected_of_all: of all laws, where `all_laws`.
    """
    laws = GROWTH_LAWS if all_laws else ("power", "logarithm")
    fits, _ = fit_ratio(terms, cfg.ratio, L_min=cfg.L_fit_min, laws=laws)
    found = {fit.law: fit for fit in fits if fit.law in laws}
    if "power" not in found:
        return np.full(len(FIT_VALUES), np.nan)
    # Power and logarithm have two parameters each: their AICc differ as their χ² do, which three points give, too.
    two = [name for name in ("power", "logarithm") if name in found]
    selected = GROWTH_LAWS.index(min(two, key=lambda law: found[law].chi2))
    comparable = [name for name in found if math.isfinite(found[name].aicc)]
    of_all = math.nan
    if all_laws and comparable:
        of_all = GROWTH_LAWS.index(min(comparable, key=lambda law: found[law].aicc))
    power = found["power"]
    return np.array([*power.parameters["beta"], power.chi2, power.p_value, selected, of_all])


def ols(cfg: Settings, terms: pd.DataFrame) -> np.ndarray:
    """FIT_VALUES of the paper's straight line over the window, with the textbook interval of its slope."""
    mi = terms.mean()
    mi = mi[mi.index.get_level_values("L_tokens") >= cfg.L_fit_min]
    mi = mi[mi > 0]
    values = np.full(len(FIT_VALUES), np.nan)
    if len(mi) >= MIN_POINTS:
        line = linregress(np.log(mi.index.get_level_values("L_tokens")), np.log(mi))
        half = stdtrit(len(mi) - 2, 0.975) * line.stderr
        values[:3] = line.slope, line.slope - half, line.slope + half
    return values


class Truth(NamedTuple):
    """mi: (points,) nats. beta: of each of METHODS, from infinitely many documents; of ols it is the curve's slope."""

    mi: np.ndarray
    beta: dict[str, float]


def truth(cfg: Settings, process: Process, mean: np.ndarray, scatter: np.ndarray) -> Truth:
    """From the exact curve; mean: (pools, points) and scatter: (pools, points, points) of pools of POOL_PIECE.

    Weights matter where the exact curve is not quite straight: gls weighs its points by the pool's covariance.
    """
    points = cfg.scoring.points
    mi = np.array([process.mutual_information(ell, L) for ell, L in points])
    L = np.array([L for _, L in points])
    n = POOL_PIECE * len(mean)
    spread = mean - mean.mean(axis=0)
    covariance = (scatter.sum(axis=0) + POOL_PIECE * spread.T @ spread) / (n - 1) / n
    inside = L >= cfg.L_fit_min
    local = fit_power_ols(L[inside], mi[inside]).parameters["beta"][0]
    try:
        fit = fit_law("power", L[inside], mi[inside], covariance[np.ix_(inside, inside)])
    except NoFitError as error:
        raise UserError(f"{process.name}: no fit of the exact curve ({error}): raise --pool-documents") from error
    slopes = np.round([fit.parameters["beta"][0], local], 9) + 0.0  # the slope of a constant is 0, not -1e-17
    return Truth(mi, dict(zip(METHODS, slopes.tolist(), strict=True)))


def tables(
    cfg: Settings, process: Process, exact: Truth, work: list[Job], parts: list[dict[str, np.ndarray]]
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """calibration.csv, calibration_fit.csv and coverage.csv of one process."""
    L = np.array([L for _, L in cfg.scoring.points])
    laws = np.array([*GROWTH_LAWS, ""])
    estimates, fits = [], []
    for job, part in zip(work, parts, strict=True):
        for e, estimator in enumerate(ESTIMATORS):
            names = {"process": process.name, "predictor": job.predictor, "estimator": estimator}
            seeds = cfg.seed + job.first + np.arange(job.count)
            estimates.append(
                pd.DataFrame(
                    names
                    | {
                        "L_tokens": np.tile(L, job.count),
                        "n_documents": job.n_documents,
                        "seed": seeds.repeat(len(L)),
                        "mi_nats": part["mi"][:, e].ravel(),
                        "stderr_nats": part["stderr"][:, e].ravel(),
                        "mi_true_nats": np.tile(exact.mi, job.count),
                    }
                )
            )
            for method in METHODS:
                values = dict(zip(FIT_VALUES, part[method][:, e].T, strict=True))
                for name in ("selected", "selected_of_all"):
                    values[name] = laws[np.nan_to_num(values[name], nan=len(GROWTH_LAWS)).astype(int)]
                fits.append(
                    pd.DataFrame(
                        names
                        | {"n_documents": job.n_documents, "seed": seeds, "method": method}
                        | values
                        | {"beta_true": exact.beta[method]}
                    )
                )
    estimates, fits = pd.concat(estimates, ignore_index=True), pd.concat(fits, ignore_index=True)
    half = stdtrit(estimates["n_documents"] - 1, 0.975) * estimates["stderr_nats"]
    estimates["covered"] = (estimates["mi_nats"] - estimates["mi_true_nats"]).abs() <= half
    fits["covered"] = (fits["lo95"] <= fits["beta_true"]) & (fits["beta_true"] <= fits["hi95"])
    columns = ["process", "predictor", "estimator", "n_documents", "seed", "method", "beta", "lo95", "hi95"]
    columns += ["beta_true", "covered", "chi2", "p_value", "selected", "selected_of_all"]
    return estimates, fits[columns], coverage(estimates, fits, exact.beta["ols"])


def calibration_manifest(cfg: Settings, process: Process) -> dict:
    """What must be the same for two runs to be parts of one."""
    shown = asdict(cfg)
    for free in ("out", "workers", "processes", "betas", "epsilons", "n_keys"):
        del shown[free]
    return json.loads(json.dumps(shown | {"process": process.name} | asdict(process)))


def finish(
    cfg: Settings, process: Process, work: list[Job], numbers: list[int], store: score_store.ScoreStore
) -> list[dict[str, np.ndarray]]:
    """Do the jobs of these numbers that are not in the store yet. Returns the arrays of all of them."""
    missing = [i for i in numbers if not store.done(i)]
    documents = sum(work[i].count * work[i].n_documents for i in missing)
    what = f"{process.name}, {'truth' if work[numbers[0]].predictor == 'pool' else 'replications'}"
    with tqdm(total=documents, unit="document", desc=what, smoothing=0.05, disable=not missing) as bar:
        for i, arrays in in_parallel(cfg, process, work, missing):
            store.write(i, arrays)
            bar.update(work[i].count * work[i].n_documents)
    return [store.read(i, shapes(cfg, work[i])) for i in numbers]


def in_parallel(
    cfg: Settings, process: Process, work: list[Job], missing: list[int]
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """(number of the job, its arrays) as they are finished, in any order."""
    workers = min(cfg.workers, len(missing))
    if workers <= 1:
        yield from ((i, do_job(cfg, process, work[i])) for i in missing)
        return
    # "spawn", not "fork": a fork of a process with threads, which some imports start, may hang.
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_follow_parent) as pool:
        futures = {pool.submit(do_job, cfg, process, work[i]): i for i in missing}
        try:
            yield from ((futures[future], future.result()) for future in as_completed(futures))
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, probably for memory: run the same command again with fewer --workers"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """In a worker: leave Ctrl-C to the parent, and end with it even where it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def open_store(cfg: Settings, process: Process) -> score_store.ScoreStore | None:
    """The store of one process's parts; None if its results are complete. UserError if they have other settings."""
    wanted, parts = calibration_manifest(cfg, process), cfg.out / process.name / "coverage.csv.parts"
    results = replace(cfg.scoring, out=cfg.out / process.name / "coverage.csv")
    return None if score_documents.finished_before(results, wanted, parts) else score_store.ScoreStore(parts, wanted)


def calibrate(cfg: Settings, process: Process, store: score_store.ScoreStore) -> pd.DataFrame:
    """All of one process: do what is missing, then write its three CSVs, coverage.csv last. Returns the last."""
    started, folder, work = time.time(), cfg.out / process.name, jobs(cfg)
    store.begin()
    pools, rest = ([i for i, job in enumerate(work) if (job.predictor == "pool") == pool] for pool in (True, False))
    # The truth first: where it cannot be had, all the rest would be in vain.
    found = finish(cfg, process, work, pools, store)
    exact = truth(cfg, process, *(np.concatenate([part[name] for part in found]) for name in ("mean", "scatter")))
    found = finish(cfg, process, work, rest, store)
    estimates, fits, summary = tables(cfg, process, exact, [work[i] for i in rest], found)
    estimates = rounded(estimates, {"mi_nats": 6, "stderr_nats": 4, "mi_true_nats": 6})
    fits = rounded(fits, dict.fromkeys(("beta", "lo95", "hi95", "beta_true"), 6) | {"chi2": 4, "p_value": 4})
    for name, table in (("calibration", estimates), ("calibration_fit", fits), ("coverage", summary)):
        write_csv(
            folder / f"{name}.csv", table, cfg, started=started, manifest=store.manifest, window_L_tokens=cfg.window
        )
    shutil.rmtree(store.folder, ignore_errors=True)
    return summary


def main(cfg: Settings) -> None:
    cfg.validate()
    stores = [(process, open_store(cfg, process)) for process in cfg.sources]
    for process, store in stores:
        if store is None:
            print(f"{cfg.out / process.name} is complete already, with these settings")
            continue
        summary = calibrate(cfg, process, store)
        print(f"{process.name}, fits over L = {cfg.window[0]} to {cfg.window[-1]}, in {cfg.out / process.name}")
        print_summary(summary)


if __name__ == "__main__":
    run(main, Settings, __doc__, PRESETS)
