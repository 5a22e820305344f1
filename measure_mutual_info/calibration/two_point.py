"""Is two-point information estimated correctly? Î(d), its intervals and plateau for processes that are known exactly.

    python measure_mutual_info/calibration/two_point.py --out results/calibration --workers 2

Books of each process (processes.py) are counted as count_ngrams.py --equal-pairs does, and go through the estimator,
the errors and the fits of estimate_two_point.py. This is not in the paper. Processes:

    markov      three states: I(d) falls exponentially, and nine pairs are counted without bias
    bernoulli   a separate coin for each book: I(d) is the same at every d, and is real information
    topics      256 distinct tokens in segments of all lengths: I(d) falls about as d^−0.9, and most pairs are rare
    shuffled    the books of topics with their tokens in random order: nothing decays

Writes two_point.csv: one row per process, quantity and distance, summarised over the replications (`summed_up`):
    mi              Î(d) as estimated, with its plateau
    mi_corrected    Î(d) − C, with the interval of Î(d). truth: I(d) less the part that is the same at every distance
                    because books differ; no fit can separate that part from the plateau, so C removes both
    C               the constant that was subtracted (plateau() chooses the law); it has no true value
    alpha_gls, _wls, _ols   topics: α of power_plus_constant with its interval; of power_plus_constant_wls and
                    paper_eq_b15 without one. truth: the same law fitted to the exact I(d), weighted by the errors of
                    all replications together

Hardware: one CPU core, 5 to 8 minutes; a killed run continues where it stopped. Expect the table in
measure_mutual_info/README.md: correct intervals of Î where pairs are not rare, and 0.37 by the paper's fit (ols) where
α is 0.85.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from common.cli import UserError, at_least, run
from common.powerlaw import ACCEPTED
from common.record import write_csv
from common.resume import RESUME_OK, Pieces, finished, identity
from measure_mutual_info.calibration.processes import BernoulliUniform, MarkovChain, Shuffled, Topics
from measure_mutual_info.calibration.replications import Arrays, blocks, replicated, rounded, summed_up
from measure_mutual_info.counting.entropy import grassberger_g
from measure_mutual_info.estimate_two_point import KINDS, fit_all, mutual_information, plateau, unit_values

ProcessName = Literal["markov", "bernoulli", "topics", "shuffled"]
EXPONENTS = {"gls": "power_plus_constant", "wls": "power_plus_constant_wls", "ols": "paper_eq_b15"}
ARRAYS = ("mi", "values", "C", "alpha")
COLUMNS = ["process", "quantity", "d_tokens", "units", "tokens", "pairs", "truth", "mean", "bias", "sd", "mean_stderr"]
COLUMNS += ["mean_half_width", "coverage", "coverage_lo95", "coverage_hi95", "coverage_of_mean"]
COLUMNS += ["replications", "failed"]


@dataclass(frozen=True)
class Settings:
    out: Path = field(default=Path("results/calibration"), metadata=RESUME_OK)  # folder for two_point.csv
    processes: tuple[ProcessName, ...] = get_args(ProcessName)  # see the top of this file
    books: int = 100  # books per replication; the errors take them as units
    tokens: int = 1000  # tokens per book
    d_max: int = 256  # tokens; pairs are counted at distances 1, 2, 4, … up to d_max
    replications: int = 600  # replications of each process
    workers: int = field(default=1, metadata=RESUME_OK)  # processes in parallel; no result depends on it
    seed: int = 0  # seed of all replications

    @property
    def distances(self) -> list[int]:
        return [2**i for i in range(self.d_max.bit_length()) if 2**i <= self.d_max]

    def validate(self) -> None:
        at_least(2, self, "books", "replications")
        at_least(1, self, "workers")
        if not 4 <= self.d_max < self.tokens:
            raise UserError(f"--d-max {self.d_max}: give at least 4, for a fit, and less than --tokens {self.tokens}")


# What --preset sets in place of the defaults above.
SMOKE = {"replications": 10, "books": 30, "tokens": 200, "d_max": 16, "workers": 2}
PRESETS = {"paper": {"workers": 2}, "cpu": {"workers": 2}, "smoke": SMOKE}


def source(name: ProcessName, tokens: int) -> MarkovChain | BernoulliUniform | Topics:
    """The process of this name. tokens: length of a book."""
    made = {"markov": MarkovChain(), "bernoulli": BernoulliUniform(), "topics": Topics()}
    return made.get(name) or Shuffled(tokens=tokens)


def count(
    ids: np.ndarray, distances: list[int]
) -> tuple[dict[str, dict[int, tuple[np.ndarray, np.ndarray]]], np.ndarray, np.ndarray]:
    """Counts of counts by kind and distance; for `unit_values`, pairs and information per book, (books, distances).
    ids: (books, tokens). Every distance uses the same left tokens: those with a partner at the longest distance.
    """
    counts, information, starts = {kind: {} for kind in KINDS}, [], ids.shape[1] - max(distances)
    left = ids[:, :starts]
    for d in distances:
        right, entropies = ids[:, d : d + starts], []
        for kind, keys in zip(KINDS, (left, right, left * (ids.max() + 1) + right), strict=True):
            seen = np.bincount(keys.ravel())
            occurrences, place, types = np.unique(seen[seen > 0], return_inverse=True, return_counts=True)
            counts[kind][d] = occurrences, types
            g = np.zeros(len(seen))
            g[seen > 0] = grassberger_g(occurrences)[place]
            entropies.append(math.log(keys.size) - g[keys].mean(axis=1))
        information.append(entropies[0] + entropies[1] - entropies[2])
    return counts, np.full((len(ids), len(distances)), starts), np.stack(information, axis=1)


def replicate(cfg: Settings, name: ProcessName, books: int, number: int) -> Arrays:
    """Sample, count, estimate and fit. The books depend on the seed, the process and the number of the replication.

    mi: Î(d) in nats, (p,). values: from `unit_values`, (units, p). C: the plateau in nats. alpha: α with its interval,
    (EXPONENTS, 3). NaN where there is none.
    """
    rng = np.random.default_rng([cfg.seed, number, zlib.crc32(name.encode())])
    ids = source(name, cfg.tokens).sample(rng, books, cfg.tokens)
    counts, pairs, information = count(ids, cfg.distances)
    mi, values = mutual_information(counts), unit_values(pairs, information)
    fit = partial(fit_all, np.array(cfg.distances), mi, values, 0, 0)
    fits = fit(["constant"])[0]
    # If nothing decays, `plateau` takes the constant, so the other laws, which are slow to fit, are skipped.
    if name == "topics" or not any(fit.law == "constant" and fit.p_value >= ACCEPTED for fit in fits):
        fits = fit(["constant", EXPONENTS["wls"], *[EXPONENTS["gls"]] * (name == "topics")])[0]
    taken_off, by_law = plateau(fits), {fit.law: fit for fit in fits}
    C = taken_off.parameters["C"][0] if taken_off else math.nan
    alpha = [by_law[law].parameters["alpha"] if law in by_law else (math.nan,) * 3 for law in EXPONENTS.values()]
    return {"mi": mi, "values": values, "C": np.array(C), "alpha": np.array(alpha)}


def summary(cfg: Settings, name: ProcessName, found: Arrays) -> pd.DataFrame:
    """The rows of two_point.csv for one process. found: the arrays of `replicate`, stacked over replications."""
    mi, values, C, alpha = (found[array] for array in ARRAYS)
    units = values.shape[1]
    t, error = stdtrit(units - 1, 0.975), values.std(axis=1, ddof=1) / math.sqrt(units)
    of, distances, rows = source(name, cfg.tokens), np.array(cfg.distances), []
    truth = np.array([of.two_point_information(d) for d in cfg.distances])
    constant = truth[0] if name in ("bernoulli", "shuffled") else 0.0  # the part that is the same at every distance
    for quantity, estimates, true in (("mi", mi, truth), ("mi_corrected", mi - C[:, None], truth - constant)):
        for i, d in enumerate(cfg.distances):
            one, half = estimates[:, i], t * error[:, i]
            row = summed_up(one, one - half, one + half, true[i]) | {"mean_stderr": error[:, i].mean()}
            rows.append(row | {"quantity": quantity, "d_tokens": d})
    none = np.full(len(C), math.nan)
    rows.append(summed_up(C, none, none, math.nan) | {"quantity": "C"})
    if name == "topics":
        pool = (values - values.mean(axis=1, keepdims=True)).reshape(-1, len(truth))
        # The same laws, fitted to the exact curve with the covariance over all replications together.
        fits = {fit.law: fit.parameters for fit in fit_all(distances, truth, pool - pool.mean(axis=0) + truth, 0, 0)[0]}
        for i, (method, law) in enumerate(EXPONENTS.items()):
            exact = fits[law]["alpha"][0] if law in fits else math.nan
            rows.append(summed_up(*alpha[:, i].T, exact) | {"quantity": f"alpha_{method}"})
    pairs = cfg.books * (cfg.tokens - max(cfg.distances))
    size = {"process": name, "units": units, "tokens": cfg.books * cfg.tokens, "pairs": pairs}
    table = pd.DataFrame(rows).assign(**size).reindex(columns=COLUMNS)
    return rounded(table.drop(columns="d_tokens")).assign(d_tokens=table["d_tokens"].astype("Int64"))[COLUMNS]


def main(cfg: Settings) -> None:
    out = cfg.out / "two_point.csv"
    wanted = identity(cfg)
    pieces, tables = Pieces(out.with_name("two_point.csv.parts"), wanted), []
    if finished(out, wanted, pieces):
        return
    for name in cfg.processes:
        work = blocks(name, cfg.books, cfg.replications)
        parts = replicated(work, partial(replicate, cfg), ARRAYS, pieces, cfg.workers, name)
        tables.append(summary(cfg, name, {array: np.concatenate([part[array] for part in parts]) for array in ARRAYS}))
    write_csv(out, pd.concat(tables, ignore_index=True), cfg, identity=wanted)
    pieces.remove()
    print(f"wrote {out}")


if __name__ == "__main__":
    run(main, Settings, __doc__, PRESETS)
