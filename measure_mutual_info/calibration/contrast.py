"""Does averaging over several donors correct vCLUB? Its overshoot with K donors of X', and the cost of the passes.

    python measure_mutual_info/calibration/contrast.py --out results/calibration --workers 2
    python measure_mutual_info/calibration/contrast.py --documents data/documents/books --model MODEL --L-max 256 \\
        --n-documents 100 --out results/mine

vCLUB is the mean of log q(Y|X) − log q(Y|X'), with the X' of one other document. With K donors the second term is
log (1/K) Σ_k q(Y|X'_k): the leave-one-out upper bound (Poole, Ozair, van den Oord, Alemi and Tucker, "On variational
bounds of mutual information", ICML 2019). For an exact q it is above I for any K, and decreases as K grows. This is
not in the paper. Writes one of these into --out:

    contrast.csv        processes with known I (processes.py) and the exact predictor, for Santa Fe with β = 0.5 also
                        the misspecified ones. For `direct` and each K: the mean over replications of I(L) and of the
                        slope β (gls, as in bipartite.py), the 95% interval of this mean from their spread (lo95, hi95),
                        overshoot = mean − truth, ratio = mean / truth, mean_stderr: standard error of one replication
    contrast_text.csv   with --documents and --model: a language model on text, whose I is not known. I by `direct` and
                        by each K, and context_mismatch_nats, which is log q(Y|BOS) − log (1/K) Σ_k q(Y|X'_k), with
                        errors by document and by book

relative_tokens: tokens that the model processes for a document, relative to one donor (passes.tokens_a_document).

Hardware: one CPU core, 5 minutes; text takes as long as score_documents.py for each of the donors, one after another.
A killed run continues where it stopped. Expect for Santa Fe with β = 0.5 and K = 1, 4 and 8: a ratio of 66, 22 and 12
at L = 2,048, and slopes of 1.05, 1.11 and 1.15 where the truth is 0.53.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import logsumexp, stdtrit

from common.cli import UserError, run
from common.record import write_csv
from common.resume import RESUME_OK, Pieces, finished, identity
from measure_mutual_info import score_documents
from measure_mutual_info.calibration import bipartite
from measure_mutual_info.calibration.processes import PREDICTORS, NoisySantaFe, Process
from measure_mutual_info.calibration.replications import Arrays, blocks, replicated, rounded, write_table
from measure_mutual_info.estimate_bipartite import estimate_table, per_document_terms
from measure_mutual_info.scoring import passes

ALL_PREDICTORS = NoisySantaFe(0.5, 0.1)  # the process that is scored with every predictor
ARRAYS = ("mi", "stderr", "beta")
COLUMNS = ["process", "predictor", "estimator", "donors", "relative_tokens", "quantity", "L_tokens", "n_documents"]
COLUMNS += ["replications", "failed", "truth", "mean", "lo95", "hi95", "overshoot", "ratio", "sd", "mean_stderr"]


@dataclass(frozen=True)
class Settings:
    out: Path = field(default=Path("results/calibration"), metadata=RESUME_OK)  # folder for the CSV
    documents: Path | None = None  # text: folder of prepare_dataset.py; with --model, replaces the processes
    model: str | None = None  # text: hub id, local folder or .gguf file
    bos: str | None = None  # text: as in score_documents.py
    donors: tuple[int, ...] = (1, 4, 8)  # K: how many documents lend their X to each Y
    n_documents: int = 400  # documents per replication, or drawn from the text
    replications: int = 20  # replications of each process and predictor
    L_max: int = bipartite.Settings.L_max  # tokens; the largest L, with L = 2ℓ
    L_fit_min: int = bipartite.Settings.L_fit_min  # tokens; the smallest L of the fits
    pool_documents: int = bipartite.Settings.pool_documents  # documents that weight the exact curve for the true β
    workers: int = field(default=1, metadata=RESUME_OK)  # processes in parallel; no result depends on it
    seed: int = 0  # seed of the first replication; for text, of the draws of documents and donors

    @property
    def calibration(self) -> bipartite.Settings:
        names = ("replications", "L_max", "L_fit_min", "pool_documents", "workers", "seed")
        shared = {name: getattr(self, name) for name in names}
        return bipartite.Settings(n_documents=(self.n_documents,), **shared)

    @property
    def scoring(self) -> score_documents.Settings:
        names = ("documents", "model", "bos", "n_documents", "L_max", "seed")
        shared = {name: getattr(self, name) for name in names}
        return score_documents.Settings(out=self.out / "contrast_text.csv", ratios=(2,), **shared)

    def validate(self) -> None:
        if (self.documents is None) != (self.model is None):
            raise UserError("--documents and --model go together: give both for text, none for the processes")
        (self.scoring if self.documents else self.calibration).validate()
        if not 1 <= min(self.donors) <= max(self.donors) < self.n_documents:
            given = " ".join(map(str, self.donors))
            raise UserError(f"--donors {given}: give at least 1, and fewer than --n-documents {self.n_documents}")


# What --preset sets in place of the defaults above.
SMOKE = {"donors": (1, 2), "n_documents": 50, "replications": 3, "L_max": 64, "L_fit_min": 8, "pool_documents": 1000}
PRESETS = {"paper": {"workers": 2}, "cpu": {"workers": 2}, "smoke": SMOKE}


def x_donors(books: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`count` donors of X for each document: permutations that give no document its own X, one from its own book, or
    the same one twice.

    books: (documents,). Returns (count, documents) indices. The documents are put in a random order that keeps each
    book together, and rotated by at least the size of the largest book. UserError: there are too few such donors.
    """
    rng = np.random.default_rng(seed)
    _, book, sizes = np.unique(books, return_inverse=True, return_counts=True)
    order = np.lexsort((rng.permutation(len(book)), rng.permutation(len(sizes))[book]))
    places = rng.permutation(np.arange(sizes.max(), len(book) - sizes.max() + 1))
    if len(places) < count:
        raise UserError(
            f"--donors {count}: {len(book)} documents, {sizes.max()} of them of one book, allow at most {len(places)} "
            f"donors each: lower --donors, or take more books"
        )
    donors = np.empty((count, len(book)), dtype=int)
    for donor, place in zip(donors, places, strict=False):
        donor[order] = np.roll(order, place)
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
    lent = x_donors(np.arange(documents), max(cfg.donors), seed)
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


def of_text(cfg: Settings) -> None:
    out, scoring = cfg.out / "contrast_text.csv", cfg.scoring
    sample = score_documents.draw_sample(scoring)
    bos, start_text, revision = score_documents.check_model(scoring, sample)
    samples = [replace(sample, x_donor=donor) for donor in x_donors(sample.books, max(cfg.donors), cfg.seed)]
    identities = [score_documents.scoring_identity(scoring, one, bos, revision) for one in samples]
    wanted = identity(cfg) | identities[0]
    stores = [Pieces(out.with_name(f"{out.name}.{k}.parts"), one) for k, one in enumerate(identities)]
    if finished(out, wanted, *stores):
        return
    backend = score_documents.load_backend(scoring, sample, bos)
    for one, store in zip(samples, stores, strict=True):
        score_documents.score_groups(scoring, one, backend, store)
    scores = [score_documents.assemble(scoring, *one)[0] for one in zip(samples, stores, strict=True)]
    direct, vclub = per_document_terms(scores[0], "direct"), [per_document_terms(one, "vclub") for one in scores]
    kept = np.isfinite([of.to_numpy() for of in (direct, *vclub)]).all(axis=(0, 2))
    direct, vclub = direct[kept], [of[kept] for of in vclub]
    print(f"{len(direct)} documents of {len(np.unique(sample.books))} books; failed: {(~kept).sum()}")

    books, tables = pd.Series(sample.books, index=sample.names), []
    for kind in kinds(cfg).to_dict("records"):
        terms = contrast(vclub[: kind["donors"]]) if kind["donors"] else direct
        mismatch = terms - direct if kind["donors"] else terms * math.nan
        by_book = estimate_table(mismatch, mismatch, books)["stderr_by_book_nats"]
        table = estimate_table(terms, mismatch, books).assign(**kind, context_mismatch_stderr_by_book_nats=by_book)
        tables.append(table[[*kind, *table.columns.drop([*kind])]])
    facts = {"source": sample.facts["source"], "start_token": start_text, "identity": wanted}
    table = rounded(pd.concat(tables, ignore_index=True))
    write_csv(out, table, cfg, [cfg.documents], **facts)
    for store in stores:
        store.remove()
    print(f"wrote {out}")


def main(cfg: Settings) -> None:
    if cfg.documents:
        return of_text(cfg)
    of = cfg.calibration
    write_table(cfg, cfg.out / "contrast.csv", of.sources, of_process, window_L_tokens=of.window)


if __name__ == "__main__":
    run(main, Settings, __doc__, PRESETS)
