"""Does the pipeline recover a known answer? Estimates and intervals for processes whose information is known exactly.

    python measure_mutual_info/calibration/bipartite.py --out results/calibration --workers 2

Documents of each process (processes.py) go through the scoring, the estimators and the fits of a real measurement, with
the process's own predictor in place of the language model: exact, or misspecified in one of four ways. This is not in
the paper. Each process gets a folder under --out:

    calibration.csv      I(L) of each replication with its error, the truth, and whether the 95% interval contains it
    calibration_fit.csv  β of each replication with its interval, by generalised (gls) and ordinary (ols) least squares
    coverage.csv         mean, bias, spread and coverage over the replications

One CPU core: 0.3 s for a replication of 1,000 documents of 2,048 tokens, 25 minutes in all. A killed run continues
where it stopped. Expect for the exact predictor: a coverage of 0.93 to 0.98 by `direct`, both of I(L) and of β (gls);
vCLUB at 2 to 80 times the truth, with β = 1.05 and 1.13 where Santa Fe's β is 0.5 and 0.75.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy.special import stdtrit
from scipy.stats import linregress

from common.cli import UserError, run
from common.powerlaw import MIN_POINTS, NoFitError, fit_law, fit_power_ols
from common.record import write_csv
from common.resume import RESUME_OK, Pieces, finished, identity
from measure_mutual_info.calibration import processes
from measure_mutual_info.calibration.processes import PREDICTORS, ExactBackend, PredictorName, Process
from measure_mutual_info.calibration.replications import Arrays, Block, blocks, replicated, rounded, summed_up
from measure_mutual_info.estimate_bipartite import estimate_table, fit_ratio, per_document_terms
from measure_mutual_info.scoring import passes

ESTIMATORS = ("direct", "vclub", "block_entropy")  # names in `per_document_terms`; one added here is calibrated too
POOLED = ("direct", "block_entropy")  # their covariance weights the exact curve for their true β; vclub uses direct's
METHODS = ("gls", "ols")  # generalised and ordinary least squares
LAWS = ("power", "logarithm")  # laws to select from
RATIO = 2  # L/ell, as in Fig. 2b
FIT_VALUES = ["beta", "lo95", "hi95", "chi2", "p_value", "selected"]  # selected: index into LAWS
KINDS = ["process", "predictor", "estimator", "n_documents"]
ESTIMATE_COLUMNS = ["process", "predictor", "estimator", "L_tokens", "n_documents", "seed"]
ESTIMATE_COLUMNS += ["mi_nats", "stderr_nats", "mi_true_nats", "covered"]
FIT_COLUMNS = [*KINDS, "seed", "method", *FIT_VALUES[:3], "beta_true", "covered", *FIT_VALUES[3:]]
COVERAGE_COLUMNS = [*KINDS, "quantity", "L_tokens", "truth", "mean", "bias", "sd", "mean_half_width"]
COVERAGE_COLUMNS += ["coverage", "coverage_lo95", "coverage_hi95", "replications", "failed", "mean_stderr"]
COVERAGE_COLUMNS += [f"selected_{law}" for law in LAWS]
POOL, POOL_PIECE = "pool", 1000  # kind of block, and documents of the pool sampled at a time


@dataclass(frozen=True)
class Settings:
    out: Path = field(default=Path("results/calibration"), metadata=RESUME_OK)
    """folder; each process gets a subfolder"""
    processes: tuple[Literal["santa_fe", "markov", "bernoulli"], ...] = field(
        default=("santa_fe", "markov", "bernoulli"), metadata=RESUME_OK
    )
    """see processes.py"""
    betas: tuple[float, ...] = field(default=(0.5, 0.75), metadata=RESUME_OK)  # santa_fe: exponents, 0.05 to 0.999
    epsilons: tuple[float, ...] = field(default=(0.1,), metadata=RESUME_OK)
    """santa_fe: probabilities that a bit is misread, 0.001 to 0.45; each is combined with each beta"""
    predictors: tuple[PredictorName, ...] = get_args(PredictorName)  # what replaces the language model
    n_documents: tuple[int, ...] = (100, 1000)  # documents per replication
    replications: int = 800  # replications with the exact predictor, for each number of documents
    replications_misspecified: int = 20  # replications with each other predictor, for the largest number of documents
    L_max: int = 2048  # tokens; as in the paper
    L_fit_min: int = 128  # tokens; the smallest L of the fits: below 128 the exact curves are not yet power laws
    pool_documents: int = 20_000
    """documents whose covariance weights the exact curve in the fit for the true β of gls; rounded up to thousands"""
    workers: int = field(default=1, metadata=RESUME_OK)  # processes in parallel; no result depends on it
    seed: int = 0  # seed of the first replication; each later one adds 1

    @property
    def points(self) -> list[tuple[int, int]]:
        """The (ell, L) in tokens."""
        return passes.grid(self.L_max, ratios=(RATIO,))

    @property
    def window(self) -> list[int]:
        """The L of the fits, in tokens."""
        return [L for _, L in self.points if L >= self.L_fit_min]

    @property
    def sources(self) -> list[Process]:
        """The processes, with Santa Fe once for every pair of beta and epsilon."""
        made = {"markov": [processes.MarkovChain()], "bernoulli": [processes.BernoulliUniform()]}
        made["santa_fe"] = [processes.NoisySantaFe(beta, epsilon) for beta in self.betas for epsilon in self.epsilons]
        return [process for kind in self.processes for process in made[kind]]

    @property
    def work(self) -> list[Block]:
        """The replications of a process, in the order of the tables."""
        kinds = [(name, n, self.replications) for name in self.predictors if name == "exact" for n in self.n_documents]
        other = [name for name in self.predictors if name != "exact"]
        kinds += [(name, max(self.n_documents), self.replications_misspecified) for name in other]
        return [block for kind in kinds for block in blocks(*kind)]

    def validate(self) -> None:
        # vCLUB is infinite at epsilon = 0, and a bit says nothing at 0.5. vCLUB pairs documents. Sums have 16 bits.
        inside = {"betas": (0.05, 0.999), "epsilons": (0.001, 0.45), "L_max": (2, 32_767)}
        inside |= dict.fromkeys(("replications", "pool_documents", "workers"), (1, math.inf))
        inside["n_documents"] = (2, math.inf)
        for name, (least, most) in inside.items():
            for value in np.atleast_1d(getattr(self, name)):
                if not least <= value <= most:
                    raise UserError(f"--{name.replace('_', '-')} {value:g}: give at least {least:g}, at most {most:g}")
        if len(self.window) < MIN_POINTS:
            raise UserError(
                f"only {len(self.window)} values of L to fit, and {MIN_POINTS} are needed: lower --L-fit-min or raise "
                "--L-max"
            )


# What --preset sets in place of the defaults above. "…-noise": Santa Fe with less and with more noise, for which 200
# replications show the same as more would. The paper has no calibration, but measures on 1,024 documents.
CPU = {"replications": 1000, "workers": 2}
NOISE = {"processes": ("santa_fe",), "epsilons": (0.05, 0.2), "replications": 200}
PAPER = CPU | {"n_documents": (100, 1024)}
SMOKE = {"replications": 20, "replications_misspecified": 5, "n_documents": (30, 100), "L_max": 256, "L_fit_min": 32}
SMOKE |= {"pool_documents": 2000, "workers": 2}
PRESETS = {"paper": PAPER, "paper-noise": PAPER | NOISE, "cpu": CPU, "cpu-noise": CPU | NOISE, "smoke": SMOKE}


def document_terms(
    cfg: Settings,
    process: Process,
    predictor: PredictorName,
    documents: int,
    seed: int,
    pool: bool = False,
    x_donor: np.ndarray | None = None,
    book: np.ndarray | None = None,
) -> dict[str, pd.DataFrame]:
    """Sample documents and score them. Returns the terms of each of ESTIMATORS, documents × (ell, L), in nats.

    The documents depend on the process, their number, the seed, `pool` and their books, not on the predictor.
    x_donor: (documents,), see `passes.x_donors`; drawn from the seed if not given. book: see `sample` of the process.
    """
    rng = np.random.default_rng([seed, documents, zlib.crc32(process.name.encode()), pool])
    names = np.array([f"{i:06d}" for i in range(documents)], dtype=object)
    ells, Ls = np.array(cfg.points).T
    ids = process.sample(rng, documents, Ls.max(), *([] if book is None else [book]))
    x_donor = passes.x_donors(names, seed) if x_donor is None else x_donor
    backend = ExactBackend(process, PREDICTORS[predictor])
    scored = backend.token_logprobs(ids, ids[np.argsort(x_donor)], passes.branches(cfg.points))
    found = passes.terms(scored, cfg.points)
    found[passes.TERM_OF_RECIPIENT] = found[passes.TERM_OF_RECIPIENT][x_donor]
    # Rounded to six decimals, as in scores.csv.
    scores = pd.DataFrame({f"{name}_nats": values.round(6).ravel() for name, values in found.items()})
    scores["document"], scores["x_donor"] = names.repeat(len(ells)), names[x_donor].repeat(len(ells))
    scores["ell_tokens"], scores["L_tokens"] = np.tile(ells, documents), np.tile(Ls, documents)
    return {estimator: per_document_terms(scores, estimator) for estimator in ESTIMATORS}


def replicate(cfg: Settings, process: Process, predictor: str, documents: int, number: int) -> Arrays:
    """The arrays of one replication: mi, stderr, (estimators, points) in nats, and gls, ols, (estimators, FIT_VALUES).

    predictor POOL: instead, the mean and scatter of the terms of each of POOLED.
    """
    if predictor == POOL:
        terms = document_terms(cfg, process, "exact", documents, cfg.seed + number, pool=True)
        values = [terms[name].to_numpy() for name in POOLED]
        means = [of.mean(axis=0) for of in values]
        scatter = [(of - mean).T @ (of - mean) for of, mean in zip(values, means, strict=True)]
        return {"mean": np.stack(means), "scatter": np.stack(scatter)}
    terms = document_terms(cfg, process, predictor, documents, cfg.seed + number)
    tables = [estimate_table(terms[name], terms[name]) for name in ESTIMATORS]
    return {
        "mi": np.stack([table["mi_nats"] for table in tables]),
        "stderr": np.stack([table["stderr_nats"] for table in tables]),
        "gls": np.stack([gls(cfg, terms[name]) for name in ESTIMATORS]),
        "ols": np.stack([ols(cfg, terms[name]) for name in ESTIMATORS]),
    }


def gls(cfg: Settings, terms: pd.DataFrame) -> np.ndarray:
    """FIT_VALUES of the power law over the window by generalised least squares; NaN if it could not be fitted."""
    found = {fit.law: fit for fit in fit_ratio(terms, RATIO, L_min=cfg.L_fit_min, laws=LAWS)[0]}
    if "power" not in found:
        return np.full(len(FIT_VALUES), np.nan)
    # Both laws have two parameters, so the difference in AIC is the difference in χ².
    selected = LAWS.index(min((law for law in LAWS if law in found), key=lambda law: found[law].chi2))
    power = found["power"]
    return np.array([*power.parameters["beta"], power.chi2, power.p_value, selected])


def ols(cfg: Settings, terms: pd.DataFrame) -> np.ndarray:
    """FIT_VALUES of the paper's straight line over the window, with the textbook interval of its slope."""
    mi, values = terms.mean(), np.full(len(FIT_VALUES), np.nan)
    mi = mi[(mi.index.get_level_values("L_tokens") >= cfg.L_fit_min) & (mi > 0)]
    if len(mi) >= MIN_POINTS:
        line = linregress(np.log(mi.index.get_level_values("L_tokens")), np.log(mi))
        half = stdtrit(len(mi) - 2, 0.975) * line.stderr
        values[:3] = line.slope, line.slope - half, line.slope + half
    return values


def pooled(cfg: Settings, process: Process, pieces: Pieces) -> tuple[np.ndarray, np.ndarray]:
    """Mean (pools, POOLED, points) and scatter (pools, POOLED, points, points) of a process's pools, for `truth`."""
    pools = blocks(POOL, POOL_PIECE, -(-cfg.pool_documents // POOL_PIECE))
    do, names = partial(replicate, cfg, process), ("mean", "scatter")
    found = replicated(pools, do, names, pieces, cfg.workers, f"{process.name}, truth")
    mean, scatter = (np.concatenate([part[name] for part in found]) for name in names)
    return mean, scatter


def truth(
    cfg: Settings, process: Process, mean: np.ndarray, scatter: np.ndarray
) -> tuple[np.ndarray, dict[str, float]]:
    """The exact I in nats, (points,), and the β that each of METHODS gives for it, as from infinitely many documents.

    mean: (pools, points) and scatter: (pools, points, points) of pools of POOL_PIECE documents. Weights matter where
    the exact curve is not quite straight: gls weights its points by the covariance of all pools together, or not at all
    if there are too few documents for weights.
    """
    mi = np.array([process.mutual_information(ell, L) for ell, L in cfg.points])
    L = np.array([L for _, L in cfg.points])
    n = POOL_PIECE * len(mean)
    spread = mean - mean.mean(axis=0)
    covariance = (scatter.sum(axis=0) + POOL_PIECE * spread.T @ spread) / (n - 1) / n
    inside = L >= cfg.L_fit_min
    local = fit_power_ols(L[inside], mi[inside]).parameters["beta"][0]
    try:
        weighted = fit_law("power", L[inside], mi[inside], covariance[np.ix_(inside, inside)]).parameters["beta"][0]
    except NoFitError:
        weighted = local
    slopes = np.round([weighted, local], 9) + 0.0  # the slope of a constant is 0, not -1e-17
    return mi, dict(zip(METHODS, slopes.tolist(), strict=True))


def tables(
    cfg: Settings, process: Process, mi: np.ndarray, beta: dict[str, dict[str, float]], parts: list[Arrays]
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The tables calibration.csv, calibration_fit.csv and coverage.csv of one process.

    mi, and beta for each of POOLED: from `truth`. parts: the arrays of each block of cfg.work.
    """
    L, laws = np.array([L for _, L in cfg.points]), np.array([*LAWS, ""])
    estimates, fits = [], []
    for block, part in zip(cfg.work, parts, strict=True):
        seeds = cfg.seed + np.array(block.numbers)
        for e, estimator in enumerate(ESTIMATORS):
            names = dict(zip(KINDS, (process.name, block.kind, estimator, block.documents), strict=True))
            rows = {"L_tokens": np.tile(L, len(seeds)), "seed": seeds.repeat(len(L))}
            rows |= {"mi_nats": part["mi"][:, e].ravel(), "stderr_nats": part["stderr"][:, e].ravel()}
            estimates.append(pd.DataFrame(rows | {"mi_true_nats": np.tile(mi, len(seeds))}).assign(**names))
            for method in METHODS:
                rows = pd.DataFrame(part[method][:, e], columns=FIT_VALUES)
                rows["selected"] = laws[rows["selected"].fillna(-1).astype(int)]
                true = beta.get(estimator, beta["direct"])[method]
                fits.append(rows.assign(**names, seed=seeds, method=method, beta_true=true))
    estimates, fits = pd.concat(estimates, ignore_index=True), pd.concat(fits, ignore_index=True)
    half = stdtrit(estimates["n_documents"] - 1, 0.975) * estimates["stderr_nats"]
    estimates["lo95"], estimates["hi95"] = estimates["mi_nats"] - half, estimates["mi_nats"] + half
    estimates["covered"] = (estimates["mi_nats"] - estimates["mi_true_nats"]).abs() <= half
    fits["covered"] = (fits["lo95"] <= fits["beta_true"]) & (fits["beta_true"] <= fits["hi95"])
    summary = coverage(estimates, fits)
    estimates = rounded(estimates[ESTIMATE_COLUMNS], {"mi_nats": 6, "stderr_nats": 4, "mi_true_nats": 6})
    digits = dict.fromkeys(("beta", "lo95", "hi95", "beta_true"), 6) | {"chi2": 4, "p_value": 4}
    return estimates, rounded(fits[FIT_COLUMNS], digits), summary


def coverage(estimates: pd.DataFrame, fits: pd.DataFrame) -> pd.DataFrame:
    """Rows of coverage.csv (see `summed_up`): one for each predictor, estimator, number of documents, and quantity.

    selected_power, selected_logarithm: the share of replications that select this law.
    """

    def row(part: pd.DataFrame, value: str, true: str, **more: object) -> dict:
        found = summed_up(*(part[name].to_numpy() for name in (value, "lo95", "hi95")), part[true].iloc[0])
        return part.iloc[0][KINDS].to_dict() | found | more

    rows = []
    for key, part in estimates.groupby(KINDS, sort=False):
        for L, at in part.groupby("L_tokens"):
            more = {"quantity": "mi", "L_tokens": L, "mean_stderr": at["stderr_nats"].mean()}
            rows.append(row(at, "mi_nats", "mi_true_nats", **more))
        for method, of in fits[(fits[KINDS] == list(key)).all(axis=1)].groupby("method"):
            selected = {f"selected_{law}": (of["selected"] == law).mean() for law in LAWS if method == "gls"}
            rows.append(row(of, "beta", "beta_true", quantity=f"beta_{method}", **selected))
    return rounded(pd.DataFrame(rows).reindex(columns=COVERAGE_COLUMNS).astype({"L_tokens": "Int64"}))


def calibrate(cfg: Settings, process: Process, pieces: Pieces) -> None:
    """Calibrate with one process: compute what is missing, then write its three CSVs, coverage.csv last."""
    folder, do = cfg.out / process.name, partial(replicate, cfg, process)
    mean, scatter = pooled(cfg, process, pieces)
    exact = [truth(cfg, process, mean[:, e], scatter[:, e]) for e in range(len(POOLED))]
    mi, beta = exact[0][0], {name: beta for name, (_, beta) in zip(POOLED, exact, strict=True)}
    found = replicated(cfg.work, do, ("mi", "stderr", *METHODS), pieces, cfg.workers, f"{process.name}, replications")
    facts = {"identity": pieces.wanted, "window_L_tokens": cfg.window}
    names = ("calibration", "calibration_fit", "coverage")
    for name, table in zip(names, tables(cfg, process, mi, beta, found), strict=True):
        write_csv(folder / f"{name}.csv", table, cfg, **facts)
    pieces.remove()


def main(cfg: Settings) -> None:
    todo = []
    for process in cfg.sources:  # refuse results of other settings before any work is done
        result = cfg.out / process.name / "coverage.csv"
        wanted = identity(cfg, ratio=RATIO, process=process.name, **asdict(process))
        pieces = Pieces(result.with_name("coverage.csv.parts"), wanted)
        if not finished(result, wanted, pieces):
            todo.append((process, pieces))
    for process, pieces in todo:
        calibrate(cfg, process, pieces)
        print(f"{process.name}, fits over L = {cfg.window[0]} to {cfg.window[-1]}, in {cfg.out / process.name}")


if __name__ == "__main__":
    run(main, Settings, __doc__, PRESETS)
