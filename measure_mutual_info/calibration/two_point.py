"""Does two-point information come out right? Î(d), its intervals and plateau for processes that are known exactly.

    python measure_mutual_info/calibration/two_point.py --out results/calibration

Books of each process (processes.py) are counted as by count_ngrams.py --equal-pairs, and go through the estimator, the
errors and the fits of estimate_two_point.py. This is not in the paper. Processes:

    markov      three states: I(d) falls exponentially, and three times three pairs are counted without a bias
    bernoulli   a coin of its own for every book: I(d) is the same at every d, and real
    topics      256 tokens in segments of all lengths: I(d) falls about as d^−0.9, and most pairs are rare
    shuffled    the books of topics with their tokens in random order: nothing decays

Writes two_point.csv, a row for each process, quantity and distance, over the replications: truth, mean, bias, spread
(sd, which mean_stderr should equal), and the coverage of the 95% interval, ± Student's t (clusters − 1) · stderr.
coverage_of_mean is how often the interval contains the mean of all replications instead; if that is 0.95 and coverage
is not, the errors are right and the estimate is biased. Quantities:

    mi              Î(d) as it is, with its plateau
    mi_corrected    Î(d) − C, with the interval of Î(d). truth: I(d) less the part that is the same at every distance,
                    as between books that differ; no fit can separate that part from the plateau, so C removes both
    C               what was subtracted (plateau() chooses the law); it has no truth
    alpha_gls, _wls, _ols   topics: α of power_plus_constant with its interval, and of _wls and _ols without one.
                    truth: the same law fitted to the exact I(d), weighted by the errors of all replications together

Hardware: one CPU core, 5 to 8 minutes. Expect this coverage from 600 replications of 100 books (each ± 0.02):
    mi            0.93 to 0.94 for bernoulli, and 0.92 to 0.94 for markov up to d = 16. None for topics: Î is nine
                  standard errors too high at d = 256. The first-order errors are 6% too small for markov and up to 15%
                  for topics, whose pairs are rare; their intervals contain the mean in 0.90 to 0.96
    mi_corrected  0.97 to 0.98 for shuffled, where the truth is 0. For topics 0.62, 0.82, 0.89 at d = 1, 2, 4 and 0.92
                  to 1.00 beyond: the bias differs between distances (0.048 nats at d = 1, 0.036 at 256), and what C
                  leaves of it is 8% of I(1). For markov 0.90 to 0.94 up to d = 8 and none from 32 on: it is no power
                  law, and C comes out at −0.0008, which is more than I
    alpha         for topics 0.81 ± 0.07 by gls and 0.82 by wls, both right, with a coverage of 0.93; by ols, the
                  paper's, 0.37 ± 0.15 where 0.85 is right: if Î − C is as small as its errors, C goes to 0
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from scipy.special import stdtrit
from tqdm import tqdm

from common.cli import UserError, run
from common.powerlaw import MIN_POINTS, Fit, NoFitError
from common.record import write_csv
from measure_mutual_info.calibration.coverage import rounded, share_covered
from measure_mutual_info.calibration.processes import BernoulliUniform, MarkovChain, Topics
from measure_mutual_info.counting.document_stream import ArrayStream
from measure_mutual_info.counting.windows import Measure, count_part
from measure_mutual_info.estimate_two_point import (
    FLAT,
    KINDS,
    fit_all,
    fit_eq_b15,
    fit_weighted,
    mutual_information,
    plateau,
    unit_values,
)

ProcessName = Literal["markov", "bernoulli", "topics", "shuffled"]
EXPONENTS = {"gls": "power_plus_constant", "wls": "power_plus_constant_wls", "ols": "paper_eq_b15"}
DIGITS = 6


@dataclass(frozen=True)
class Settings:
    out: Path = Path("results/calibration")
    """folder for two_point.csv"""
    processes: tuple[ProcessName, ...] = get_args(ProcessName)
    """see the head of this file"""
    books: int = 100
    """of a replication: the units of the errors, in blocks where they are more than 128"""
    tokens: int = 1000
    """of a book"""
    d_max: int = 256
    """tokens; the pairs are at 1, 2, 4 … d_max"""
    replications: int = 600
    """of each process"""
    seed: int = 0
    """of all replications"""

    @property
    def distances(self) -> list[int]:
        return [2**i for i in range(self.d_max.bit_length()) if 2**i <= self.d_max]

    def validate(self) -> None:
        if self.out.exists() and not self.out.is_dir():
            raise UserError(f"--out {self.out} is a file: give a folder")
        if not self.processes:
            raise UserError(f"nothing to do: give --processes, some of {', '.join(get_args(ProcessName))}")
        for name in ("books", "replications"):
            if getattr(self, name) < 2:
                raise UserError(f"--{name} {getattr(self, name)}: give at least 2")
        if self.d_max < 1 or len(self.distances) < MIN_POINTS:
            raise UserError(f"--d-max {self.d_max}: a fit needs {MIN_POINTS} distances, so at least 4")
        if self.tokens <= self.d_max:
            raise UserError(f"--tokens {self.tokens} --d-max {self.d_max}: a book must be longer than the distance")


# What --preset sets in place of the defaults above.
PRESETS = {"paper": {}, "cpu": {}, "smoke": {"replications": 10, "books": 30, "tokens": 200, "d_max": 16}}


class Source(NamedTuple):
    """A process that is held against the truth."""

    vocab_size: int
    sample: Callable[[np.random.Generator, int, int], np.ndarray]
    """(generator, documents, L) to (documents, L) int32 token ids"""
    information: Callable[[int], float]
    """I(W_i; W_{i+d}) in nats, exact"""
    constant: float
    """nats of it that every distance has"""
    decays_as_power: bool = False


def source(name: ProcessName, tokens: int) -> Source:
    """One of the processes; tokens: of a document, which the information of shuffled ones depends on."""
    if name == "markov":
        chain = MarkovChain()
        return Source(len(chain.P), chain.sample, chain.two_point_information, 0.0)
    if name == "bernoulli":
        coins = BernoulliUniform()
        return Source(2, coins.sample, coins.two_point_information, coins.two_point_information(1))
    topics = Topics()
    if name == "topics":
        return Source(topics.vocab_size, topics.sample, topics.two_point_information, 0.0, decays_as_power=True)
    left = topics.two_point_information_shuffled(tokens)

    def sample(rng: np.random.Generator, documents: int, L: int) -> np.ndarray:
        return rng.permuted(topics.sample(rng, documents, L), axis=1)

    return Source(topics.vocab_size, sample, lambda d: left, left)


def count(
    ids: np.ndarray, distances: list[int], vocab_size: int
) -> tuple[dict[str, dict[int, tuple[np.ndarray, np.ndarray]]], np.ndarray, np.ndarray]:
    """Counts of counts by kind and distance, as of read_counts; pairs and information of each unit, as of read_shares.

    ids: (books, tokens). Every distance has the same left tokens, those with the longest distance inside their book.
    """
    stream = ArrayStream.of(ids, vocab_size)
    counts, pairs, information = {kind: {} for kind in KINDS}, [], []
    for d in distances:
        found = {kind: count_part(stream, ids.size, Measure(kind, d, max(distances))) for kind in KINDS}
        for kind in KINDS:
            counts[kind][d] = found[kind].occurrences, found[kind].types
        left, right, pair = (found[kind].shares() for kind in KINDS)
        pairs.append(found["pair"].of_block.sum(axis=0))
        information.append(left + right - pair)
    return counts, np.stack(pairs, axis=1), np.stack(information, axis=1)


class Replication(NamedTuple):
    mi: np.ndarray
    """(p,) Î(d), nats"""
    values: np.ndarray
    """(units, p) of `unit_values`"""
    fits: dict[str, Fit]
    """by law; a law that could not be fitted is missing"""
    C: float
    """the plateau, nats; NaN where there is none"""


def replicate(cfg: Settings, name: ProcessName, number: int) -> Replication:
    """Sample, count, estimate and fit. The books depend on the seed, the process and the number of the replication."""
    rng, of = np.random.default_rng([cfg.seed, number, zlib.crc32(name.encode())]), source(name, cfg.tokens)
    counts, pairs, information = count(of.sample(rng, cfg.books, cfg.tokens), cfg.distances, of.vocab_size)
    mi, values = mutual_information(counts), unit_values(pairs, information)
    fits = fit_some(np.array(cfg.distances), mi, values, of.decays_as_power)
    taken_off = plateau(fits)
    C = taken_off.parameters["C"][0] if taken_off else math.nan
    return Replication(mi, values, {fit.law: fit for fit in fits}, C)


def fit_some(d: np.ndarray, mi: np.ndarray, values: np.ndarray, exponents: bool) -> list[Fit]:
    """The fits of `fit_all` that `plateau` looks at, and those of EXPONENTS if they are wanted."""
    fits, _, _ = fit_all(d, mi, values, 0, 0, ["constant"])
    flat = any(fit.law == "constant" and fit.p_value >= FLAT for fit in fits)
    if flat and not exponents:  # then `plateau` takes the constant, and the others are slow to fit
        return fits
    laws = ["constant", EXPONENTS["wls"], *([EXPONENTS["gls"]] if exponents else [])]
    return fit_all(d, mi, values, 0, 0, laws)[0]


def exact_exponent(law: str, distances: list[int], mi: np.ndarray, values: np.ndarray) -> float:
    """α of a law fitted to the exact curve mi, (p,) nats, with the covariance of values, (units, p); NaN: no fit."""
    d = np.array(distances)
    try:
        if law == EXPONENTS["ols"]:
            return fit_eq_b15(d, mi).parameters["alpha"][0]
        return fit_weighted(law, d, values - values.mean(axis=0) + mi).parameters["alpha"][0]
    except NoFitError:
        return math.nan


def summary(cfg: Settings, name: ProcessName, found: list[Replication]) -> pd.DataFrame:
    """The rows of two_point.csv of one process."""
    of, units = source(name, cfg.tokens), len(found[0].values)
    t = stdtrit(units - 1, 0.975)
    pairs = cfg.books * (cfg.tokens - max(cfg.distances))
    size = {"units": units, "tokens": cfg.books * cfg.tokens, "pairs": pairs}
    rows = []

    def row(quantity: str, d: float, truth: float, values: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict:
        """values, low, high: (replications,) the estimates and their intervals, NaN where they claim none."""
        made, mean = np.isfinite(values), float(np.nanmean(values)) if np.isfinite(values).any() else math.nan
        here = {"process": name, "quantity": quantity, "d_tokens": d} | size
        here |= {"truth": truth, "mean": mean, "bias": mean - truth, "sd": pd.Series(values).std(ddof=1)}
        here |= {"mean_half_width": pd.Series((high - low) / 2).mean()}
        if np.isfinite(low).any() and math.isfinite(truth):
            here |= share_covered(pd.Series((low <= truth) & (truth <= high)))
            here |= {"coverage_of_mean": ((low <= mean) & (mean <= high)).mean()}
        return here | {"replications": len(values), "failed": int((~made).sum())}

    mi, C = np.stack([one.mi for one in found]), np.array([one.C for one in found])
    error = np.stack([one.values.std(axis=0, ddof=1) for one in found]) / math.sqrt(units)
    truth = np.array([of.information(d) for d in cfg.distances])
    for quantity, values, true in (("mi", mi, truth), ("mi_corrected", mi - C[:, None], truth - of.constant)):
        for i, d in enumerate(cfg.distances):
            half = t * error[:, i]
            at = row(quantity, d, true[i], values[:, i], values[:, i] - half, values[:, i] + half)
            rows.append(at | {"mean_stderr": error[:, i].mean()})
    none = np.full(len(found), math.nan)
    rows.append(row("C", math.nan, math.nan, C, none, none))
    if of.decays_as_power:
        pool = np.concatenate([one.values - one.values.mean(axis=0) for one in found])
        for method, law in EXPONENTS.items():
            fitted = [one.fits[law].parameters["alpha"] if law in one.fits else (math.nan,) * 3 for one in found]
            exact = exact_exponent(law, cfg.distances, truth, pool)
            rows.append(row(f"alpha_{method}", math.nan, exact, *np.array(fitted).T))
    columns = ["process", "quantity", "d_tokens", *size, "truth", "mean", "bias", "sd", "mean_stderr"]
    columns += ["mean_half_width", "coverage", "coverage_lo95", "coverage_hi95", "coverage_of_mean"]
    columns += ["replications", "failed"]
    table = pd.DataFrame(rows).reindex(columns=columns).astype({"d_tokens": "Int64"})
    return rounded(table, dict.fromkeys(table.select_dtypes("float").columns, DIGITS))


def print_summary(table: pd.DataFrame) -> None:
    """What two_point.csv says, a line a row."""
    print(f"\n{'process':<11}{'quantity':<14}{'d':>5}{'truth':>10}{'mean':>10}{'sd':>9}{'stderr':>9}", end="")
    print(f"{'covered':>9}{'95%':>16}{'of mean':>9}")
    for row in table.itertuples():
        d = "" if pd.isna(row.d_tokens) else f"{row.d_tokens}"
        line = f"{row.process:<11}{row.quantity:<14}{d:>5}{row.truth:>10.5f}{row.mean:>10.5f}{row.sd:>9.5f}"
        if math.isfinite(row.mean_stderr):
            line += f"{row.mean_stderr:>9.5f}"
        if math.isfinite(row.coverage):
            line = f"{line:<77}{row.coverage:>9.3f}{f'{row.coverage_lo95:.3f} to {row.coverage_hi95:.3f}':>16}"
            line += f"{row.coverage_of_mean:>9.3f}"
        print(line)


def main(cfg: Settings) -> None:
    started = time.time()
    cfg.validate()
    tables = []
    for name in cfg.processes:
        numbers = tqdm(range(cfg.replications), desc=name, unit="replication")
        tables.append(summary(cfg, name, [replicate(cfg, name, number) for number in numbers]))
    table = pd.concat(tables, ignore_index=True)
    write_csv(cfg.out / "two_point.csv", table, cfg, started=started)
    print_summary(table)
    print(f"\nwrote {cfg.out / 'two_point.csv'}")


if __name__ == "__main__":
    run(main, Settings, __doc__, PRESETS)
