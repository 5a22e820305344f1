"""Does averaging over several donors correct vCLUB? Its overshoot with K donors of X', and the cost of the passes.

    python measure_mutual_info/calibration/contrast.py --out results/calibration --workers 2

vCLUB is the mean of log q(Y|X) − log q(Y|X'), with the X' of one other document. With K donors the second term is
log (1/K) Σ_k q(Y|X'_k): the leave-one-out upper bound (Poole, Ozair, van den Oord, Alemi and Tucker, "On variational
bounds of mutual information", ICML 2019). For an exact q it is above I for any K, and decreases as K grows. This is
not in the paper. The processes have a known I (processes.py); all are scored with the exact predictor, Santa Fe with
β = 0.5 also with the misspecified ones. Writes into --out:

    contrast.csv    for `direct` and each K: the mean over replications of I(L) and of the slope β (gls, as in
                    bipartite.py), the 95% interval of this mean from their spread (lo95, hi95), overshoot = mean −
                    truth, ratio = mean / truth, mean_stderr: standard error of one replication

relative_tokens: tokens that the model processes for a document, relative to one donor (passes.tokens_a_document).

Hardware: one CPU core, 5 minutes. A killed run continues where it stopped. Expect for Santa Fe with β = 0.5 and K = 1,
4 and 8: a ratio of 66, 22 and 12 at L = 2,048, and slopes of 1.05, 1.11 and 1.14 where the truth is 0.53.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import logsumexp, stdtrit

from common.cli import UserError, run
from common.resume import RESUME_OK, Pieces
from measure_mutual_info.calibration import bipartite
from measure_mutual_info.calibration.processes import PREDICTORS, NoisySantaFe, Process
from measure_mutual_info.calibration.replications import Arrays, blocks, replicated, write_table
from measure_mutual_info.estimate_bipartite import estimate_table
from measure_mutual_info.scoring import passes

ALL_PREDICTORS = NoisySantaFe(0.5, 0.1)  # the process that is scored with every predictor
ARRAYS = ("mi", "stderr", "beta")
COLUMNS = ["process", "predictor", "estimator", "donors", "relative_tokens", "quantity", "L_tokens", "n_documents"]
COLUMNS += ["replications", "failed", "truth", "mean", "lo95", "hi95", "overshoot", "ratio", "sd", "mean_stderr"]


@dataclass(frozen=True)
class Settings:
    out: Path = field(default=Path("results/calibration"), metadata=RESUME_OK)  # folder for the CSV
    donors: tuple[int, ...] = (1, 4, 8)  # K: how many documents lend their X to each Y
    n_documents: int = 400  # documents per replication
    replications: int = 20  # replications of each process and predictor
    L_max: int = bipartite.Settings.L_max  # tokens; the largest L, with L = 2ℓ
    L_fit_min: int = bipartite.Settings.L_fit_min  # tokens; the smallest L of the fits
    pool_documents: int = bipartite.Settings.pool_documents  # documents that weight the exact curve for the true β
    workers: int = field(default=1, metadata=RESUME_OK)  # processes in parallel; no result depends on it
    seed: int = 0  # seed of the first replication

    @property
    def calibration(self) -> bipartite.Settings:
        names = ("replications", "L_max", "L_fit_min", "pool_documents", "workers", "seed")
        shared = {name: getattr(self, name) for name in names}
        return bipartite.Settings(n_documents=(self.n_documents,), **shared)

    def validate(self) -> None:
        self.calibration.validate()
        if not 1 <= min(self.donors) <= max(self.donors) < self.n_documents:
            given = " ".join(map(str, self.donors))
            raise UserError(f"--donors {given}: give at least 1, and fewer than --n-documents {self.n_documents}")


# What --preset sets in place of the defaults above.
SMOKE = {"donors": (1, 2), "n_documents": 50, "replications": 3, "L_max": 64, "L_fit_min": 8, "pool_documents": 1000}
PRESETS = {"paper": {"workers": 2}, "cpu": {"workers": 2}, "smoke": SMOKE}


def x_donors(documents: int, count: int, seed: int) -> np.ndarray:
    """`count` donors of X for each document: permutations that give no document its own X or the same one twice.

    Returns (count, documents) indices. The documents are put in a random order, and rotated. ValueError if count is
    not below documents.
    """
    rng = np.random.default_rng(seed)
    order, donors = rng.permutation(documents), np.empty((count, documents), dtype=int)
    for donor, shift in zip(donors, 1 + rng.permutation(documents - 1)[:count], strict=True):
        donor[order] = np.roll(order, shift)
    return donors


def contrast(vclub: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """log q(Y|X) − log (1/K) Σ_k q(Y|X'_k) for each document in nats, from the vCLUB terms v_k of K donors.

    This equals −log (1/K) Σ_k exp(−v_k). vclub: K tables, documents × (ell, L), like the result.
    """
    values = math.log(len(vclub)) - logsumexp([-of.to_numpy() for of in vclub], axis=0)
    return pd.DataFrame(values, vclub[0].index, vclub[0].columns)


def replicate(cfg: Settings, process: Process, kind: str, documents: int, number: int) -> Arrays:
    """mi, stderr: (1 + len(donors), points) in nats; beta: (1 + len(donors),): `direct`, then each K.

    kind: a predictor, or POOL as in bipartite.py.
    """
    shared, seed = cfg.calibration, cfg.seed + number
    if kind == bipartite.POOL:
        return bipartite.replicate(shared, process, kind, documents, number)
    lent = x_donors(documents, max(cfg.donors), seed)
    found = [bipartite.document_terms(shared, process, kind, documents, seed, x_donor=donor) for donor in lent]
    vclub = [terms["vclub"] for terms in found]
    terms = [found[0]["direct"], *(contrast(vclub[:count]) for count in cfg.donors)]
    tables = [estimate_table(of, of) for of in terms]
    return {
        "mi": np.stack([table["mi_nats"] for table in tables]),
        "stderr": np.stack([table["stderr_nats"] for table in tables]),
        "beta": np.array([bipartite.gls(shared, of)[0] for of in terms]),
    }


def kinds(cfg: Settings) -> pd.DataFrame:
    """A row for `direct` and for each K: estimator, donors, relative_tokens."""
    donors, points = np.array([0, *cfg.donors]), cfg.calibration.points
    tokens = [passes.tokens_a_document(points, count) / passes.tokens_a_document(points) for count in donors.tolist()]
    return pd.DataFrame(
        {"estimator": np.where(donors > 0, "vclub", "direct"), "donors": donors, "relative_tokens": tokens}
    )


def summary(cfg: Settings, mi: np.ndarray, beta: float, found: Arrays) -> pd.DataFrame:
    """Rows of contrast.csv for one process and predictor. mi, (points,), and beta: the truth; found: of `replicate`."""
    n, rows = len(found["beta"]), []
    for e, kind in enumerate(kinds(cfg).to_dict("records")):
        points = [
            ("mi", L, mi[i], found["mi"][:, e, i], found["stderr"][:, e, i].mean())
            for i, (_, L) in enumerate(cfg.calibration.points)
        ]
        for quantity, L, true, values, stderr in [*points, ("beta_gls", None, beta, found["beta"][:, e], math.nan)]:
            values = pd.Series(values)
            mean, half = values.mean(), stdtrit(values.count() - 1, 0.975) * values.sem()
            row = {"quantity": quantity, "L_tokens": L, "truth": true, "mean": mean, "lo95": mean - half}
            row |= {"hi95": mean + half, "overshoot": mean - true, "sd": values.std(), "mean_stderr": stderr}
            row |= {"ratio": mean / true if quantity == "mi" else math.nan, "failed": values.isna().sum()}
            rows.append(kind | row)
    return pd.DataFrame(rows).assign(n_documents=cfg.n_documents, replications=n).astype({"L_tokens": "Int64"})


def of_process(cfg: Settings, process: Process, pieces: Pieces) -> pd.DataFrame:
    """Rows of contrast.csv for one process."""
    mean, scatter = bipartite.pooled(cfg.calibration, process, pieces)
    direct = bipartite.POOLED.index("direct")
    mi, beta = bipartite.truth(cfg.calibration, process, mean[:, direct], scatter[:, direct])
    tables = []
    for predictor in PREDICTORS if process == ALL_PREDICTORS else ("exact",):
        work = blocks(predictor, cfg.n_documents, cfg.replications)
        do, what = partial(replicate, cfg, process), f"{process.name}, {predictor}"
        parts = replicated(work, do, ARRAYS, pieces, cfg.workers, what)
        found = {name: np.concatenate([part[name] for part in parts]) for name in ARRAYS}
        tables.append(summary(cfg, mi, beta["gls"], found).assign(process=process.name, predictor=predictor))
    return pd.concat(tables)[COLUMNS]


def main(cfg: Settings) -> None:
    of = cfg.calibration
    write_table(cfg, cfg.out / "contrast.csv", of.sources, of_process, window_L_tokens=of.window)


if __name__ == "__main__":
    run(main, Settings, __doc__, PRESETS)
