"""Entropy estimators on Zipf samples whose entropy is known: Grassberger's (Eq. B.5) beside its rivals.

    python benchmarks/entropy.py          # one CPU core: half a minute

Draws tokens from p_k ∝ k^−s over a finite vocabulary, and pairs of independent such tokens (entropy 2H, vocabulary
V²: as sparse as the 2-grams of a text), estimates the entropy of each sample in each way, and writes
results/benchmarks/entropy.csv: for every distribution, sample size and estimator the mean, bias with its standard
error, and RMSE over replications, in nats, the true entropy beside them.

Estimators: grassberger, naive (Eq. B.4), miller_madow (naive + (K − 1)/(2N), K outcomes seen). All three see the same
samples. Expect: Grassberger has the smallest bias and RMSE of the three wherever a good part of the outcomes is rare.
Where every outcome was seen often (256 outcomes, 10,000 samples and more) Miller and Madow's is as good or better, by
less than a thousandth of a nat; where nearly every outcome was seen once, all three are too low by nats.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from common.cli import UserError, run
from common.record import write_csv
from measure_mutual_info.counting.entropy import grassberger_entropy, miller_madow_entropy, naive_entropy

ESTIMATORS = {"grassberger": grassberger_entropy, "naive": naive_entropy, "miller_madow": miller_madow_entropy}
CELL = ("distribution", "vocabulary", "exponent", "n_samples")
ERRORS = ("bias_nats", "bias_stderr_nats", "rmse_nats")


@dataclass(frozen=True)
class Settings:
    out: Path = Path("results/benchmarks/entropy.csv")
    exponents: tuple[float, ...] = (0.8, 1.0, 1.2)
    """not in the paper: Zipf exponents s; text is near 1"""
    vocabularies: tuple[int, ...] = (256, 50_000)
    """not in the paper: outcomes of a token: bytes, and a usual tokenizer"""
    n_samples: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    """not in the paper: tokens, or pairs, in one sample"""
    replications: int = 40
    """not in the paper: samples of each size"""
    seed: int = 0

    def validate(self) -> None:
        if self.out.suffix != ".csv":
            raise UserError(f"--out {self.out}: give the name of a .csv file")
        least = {"vocabularies": 2, "exponents": 0, "n_samples": 1}
        for name, lowest in least.items():
            if min(getattr(self, name), default=-1) < lowest:
                raise UserError(f"--{name.replace('_', '-')}: give one or more, of at least {lowest}")
        if self.replications < 2:
            raise UserError(f"--replications {self.replications}: an error over replications needs at least 2")


def zipf(exponent: float, vocabulary: int) -> np.ndarray:
    """Probabilities (vocabulary,) of the Zipf law p_k ∝ k^−exponent, k = 1 … vocabulary."""
    weights = np.arange(1, vocabulary + 1, dtype=float) ** -exponent
    return weights / weights.sum()


def draw_counts(p: np.ndarray, pairs: bool, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Counts of counts (occurrences, types) of n draws from p, or of n pairs of independent draws from p."""
    if pairs:
        first, second = rng.choice(len(p), size=(2, n), p=p)
        counts = np.unique(first * len(p) + second, return_counts=True)[1]
    else:
        counts = rng.multinomial(n, p)
    return np.unique(counts[counts > 0], return_counts=True)


def errors(cfg: Settings) -> pd.DataFrame:
    """The table: a row for each distribution, vocabulary, exponent, sample size and estimator."""
    cells = list(itertools.product(("tokens", "pairs"), cfg.vocabularies, cfg.exponents, cfg.n_samples))
    rng = np.random.default_rng(cfg.seed)
    rows = []
    with tqdm(total=len(cells) * cfg.replications, unit="sample", desc="entropies") as bar:
        for kind, vocabulary, exponent, n in cells:
            p = zipf(exponent, vocabulary)
            order = 2 if kind == "pairs" else 1
            true = -order * float(np.sum(p * np.log(p)))
            found = np.empty((cfg.replications, len(ESTIMATORS)))
            for replication in range(cfg.replications):
                occurrences, types = draw_counts(p, kind == "pairs", n, rng)
                found[replication] = [estimate(occurrences, types) for estimate in ESTIMATORS.values()]
                bar.update()
            cell = (kind, vocabulary**order, exponent, n)
            for name, values in zip(ESTIMATORS, found.T, strict=True):
                stderr, rmse = values.std(ddof=1) / np.sqrt(len(values)), np.sqrt(np.mean((values - true) ** 2))
                rows.append((*cell, name, true, values.mean(), values.mean() - true, stderr, rmse, len(values)))
    return pd.DataFrame(rows, columns=[*CELL, "estimator", "entropy_true_nats", "mean_nats", *ERRORS, "replications"])


def main(cfg: Settings) -> None:
    started = time.time()
    cfg.validate()
    table = errors(cfg)
    write_csv(cfg.out, table.round(7), cfg, started=started)
    for measure in ("bias_nats", "rmse_nats"):
        wide = table.pivot(index=[*CELL, "entropy_true_nats"], columns="estimator", values=measure)[list(ESTIMATORS)]
        won = wide.abs().idxmin(axis=1) == "grassberger"
        print(f"\n{measure}\n{wide.round(4).assign(smallest=won.map({True: '', False: 'another'})).to_string()}")
        print(f"Grassberger has the smallest {measure} in {won.sum()} of {len(won)} rows")
    print(f"wrote {cfg.out}")


if __name__ == "__main__":
    run(main, Settings, __doc__)
