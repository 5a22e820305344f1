"""Which interval contains the truth when documents come from books? Coverage of I and of β for correlated documents.

    python measure_mutual_info/calibration/clustered.py --out results/calibration --workers 2

Documents of a book resemble each other. Here the documents of a book share their coin (Bernoulli) or their sequence of
keys (Santa Fe; see processes.py). So they are correlated, but the distribution of each document, and with it I, is the
same as before. All go through the estimators, errors and fits of a real measurement, with the exact predictor. This is
not in the paper. Writes clustered.csv: one row per process, estimator, number of books, quantity and interval,
summarised over the replications (`summed_up`). Quantities and intervals (95%):

    mi      I at L_max. documents: Student's t with the standard error for independent documents; books: Student's t
            with the standard error by book and (number of books − 1) degrees of freedom
    beta    β of a power law fitted from L_fit_min on by generalised least squares. documents: fitted to the documents'
            terms; books: fitted to the rows of `by_book`; resampled_books: `bootstrap_power` with the rows and units of
            `fit_units`, as for boot_lo95 and boot_hi95 of estimate_bipartite.py. truth: as in bipartite.py

Hardware: one CPU core, 15 minutes; a killed run continues where it stopped. Expect for `direct` with four books: the
interval by documents contains I in 49% (Bernoulli) and 69% (Santa Fe) of the replications, and that from resampled
books contains β from L = 128 in 96%.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from common.cli import UserError, at_least, run
from common.powerlaw import NoFitError
from common.resume import RESUME_OK, Pieces
from measure_mutual_info import estimate_bipartite as estimate
from measure_mutual_info.calibration import bipartite
from measure_mutual_info.calibration.bipartite import POOLED
from measure_mutual_info.calibration.processes import BernoulliUniform, NoisySantaFe, Process
from measure_mutual_info.calibration.replications import Arrays, blocks, replicated, summed_up, write_table

PROCESSES = (NoisySantaFe(0.5, 0.1), BernoulliUniform())
INTERVALS = ("documents", "books", "resampled_books")
COLUMNS = ["process", "estimator", "n_documents", "books", "quantity", "L_tokens", "L_fit_min", "interval", "truth"]
COLUMNS += ["mean", "bias", "sd", "mean_half_width", "median_half_width", "coverage", "coverage_lo95", "coverage_hi95"]
COLUMNS += ["coverage_of_mean", "replications", "failed"]


@dataclass(frozen=True)
class Settings:
    out: Path = field(default=Path("results/calibration"), metadata=RESUME_OK)  # folder for clustered.csv
    n_documents: int = 100  # documents per replication
    books: tuple[int, ...] = (4, 12, 38)  # numbers of books; the documents are divided among them nearly equally
    replications: int = 300  # replications of each process and number of books
    bootstrap: int = 50  # resamplings of whole books per replication
    L_max: int = bipartite.Settings.L_max  # tokens; the largest L, with L = 2ℓ
    L_fit_mins: tuple[int, ...] = (4, 128)  # tokens; the smallest L of each fit
    pool_documents: int = bipartite.Settings.pool_documents  # documents that weight the exact curve for the true β
    workers: int = field(default=1, metadata=RESUME_OK)  # processes in parallel; no result depends on it
    seed: int = 0  # seed of the first replication

    def calibration(self, L_fit_min: int = 0) -> bipartite.Settings:
        names = ("replications", "L_max", "pool_documents", "workers", "seed")
        shared = {name: getattr(self, name) for name in names}
        return bipartite.Settings(n_documents=(self.n_documents,), L_fit_min=L_fit_min, **shared)

    def validate(self) -> None:
        for first in self.L_fit_mins:
            self.calibration(first).validate()
        for count in self.books:
            if not 2 <= count <= self.n_documents:
                raise UserError(f"--books {count}: give at least 2, at most --n-documents {self.n_documents}")
        at_least(2, self, "bootstrap")


# What --preset sets in place of the defaults above.
SMOKE = {"n_documents": 40, "books": (4, 20), "replications": 10, "bootstrap": 10, "L_max": 64, "L_fit_mins": (4, 8)}
PRESETS = {"paper": {"workers": 2}, "cpu": {"workers": 2}, "smoke": SMOKE | {"pool_documents": 1000}}


def replicate(cfg: Settings, process: Process, kind: str, documents: int, number: int) -> Arrays:
    """Value, lo95 and hi95 for each of POOLED and INTERVALS. kind: the number of books, or POOL as in bipartite.py.

    mi: (POOLED, 2, 3) in nats, by documents and by books. beta: (POOLED, L_fit_mins, INTERVALS, 3). NaN: no fit.
    """
    if kind == bipartite.POOL:
        return bipartite.replicate(cfg.calibration(), process, kind, documents, number)
    book = np.arange(documents) * int(kind) // documents
    found = bipartite.document_terms(cfg.calibration(), process, "exact", documents, cfg.seed + number, book=book)
    mi, beta = [], []
    for terms in (found[name] for name in POOLED):
        of = pd.Series(book, index=terms.index)
        last = estimate.estimate_table(terms, terms, of).iloc[-1]
        errors = np.array([last["stderr_nats"], last["stderr_by_book_nats"]])
        half = stdtrit(np.array([documents, int(kind)]) - 1, 0.975) * errors
        mi.append(last["mi_nats"] + np.outer(half, [0, -1, 1]))
        beta.append([slopes(terms, of, first, cfg.bootstrap, number) for first in cfg.L_fit_mins])
    return {"mi": np.array(mi), "beta": np.array(beta)}


def slopes(terms: pd.DataFrame, book: pd.Series, L_min: int, bootstrap: int, seed: int) -> np.ndarray:
    """β of the power law over L >= L_min with lo95 and hi95, (INTERVALS, 3); NaN where there is none."""
    fitted, _, units, _ = estimate.fit_units(terms, book)
    found = np.full((len(INTERVALS), 3), math.nan)
    for row, of in zip(found, (terms, estimate.by_book(terms, book)), strict=False):
        with contextlib.suppress(NoFitError):
            row[:] = estimate.fit_terms("power", *estimate.at_ratio(of, 2, L_min)).parameters["beta"]
    with contextlib.suppress(NoFitError):
        boot = estimate.bootstrap_power(*estimate.at_ratio(fitted, 2, L_min), units, lambda drawn: 0.0, bootstrap, seed)
        found[-1] = found[int(fitted is not terms), 0], *boot["power", "beta"]
    return found


def summary(cfg: Settings, mi: float, betas: np.ndarray, found: Arrays) -> pd.DataFrame:
    """Rows of clustered.csv for one process and number of books.

    mi, in nats, and betas, (POOLED, L_fit_mins): the truth. found: arrays of `replicate`, stacked over replications.
    """
    L, rows = cfg.calibration().points[-1][1], []
    for (e, estimator), (i, interval) in itertools.product(enumerate(POOLED), enumerate(INTERVALS)):
        cells = [(mi, found["mi"][:, e, i], {"quantity": "mi", "L_tokens": L})] if i < found["mi"].shape[2] else []
        for w, first in enumerate(cfg.L_fit_mins):
            cells.append((betas[e, w], found["beta"][:, e, w, i], {"quantity": "beta", "L_fit_min": first}))
        for true, values, names in cells:
            half = pd.Series(values[:, 2] - values[:, 1]).median() / 2
            names |= {"estimator": estimator, "interval": interval, "median_half_width": half}
            rows.append(names | summed_up(*values.T, true))
    return pd.DataFrame(rows)


def of_process(cfg: Settings, process: Process, pieces: Pieces) -> pd.DataFrame:
    """Rows of clustered.csv for one process."""
    mean, scatter = bipartite.pooled(cfg.calibration(), process, pieces)
    betas = np.empty((len(POOLED), len(cfg.L_fit_mins)))
    for (e, w), _ in np.ndenumerate(betas):
        window = cfg.calibration(cfg.L_fit_mins[w])
        mi, slope = bipartite.truth(window, process, mean[:, e], scatter[:, e])
        betas[e, w] = slope["gls"]
    tables = []
    for count in cfg.books:
        work, what = blocks(str(count), cfg.n_documents, cfg.replications), f"{process.name}, {count} books"
        parts = replicated(work, partial(replicate, cfg, process), ("mi", "beta"), pieces, cfg.workers, what)
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        tables.append(summary(cfg, mi[-1], betas, found).assign(books=count))
    table = pd.concat(tables).assign(process=process.name, n_documents=cfg.n_documents)
    return table[COLUMNS].astype({"L_tokens": "Int64", "L_fit_min": "Int64"})


def main(cfg: Settings) -> None:
    write_table(cfg, cfg.out / "clustered.csv", PROCESSES, of_process)


if __name__ == "__main__":
    run(main, Settings, __doc__, PRESETS)
