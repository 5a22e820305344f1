"""Made-up scores.csv and counts.csv: hand-made numbers, known laws, and processes with exactly known information."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from measure_mutual_info.calibration.processes import ExactBackend
from measure_mutual_info.counting.entropy import grassberger_entropy
from measure_mutual_info.scoring import passes
from measure_mutual_info.scoring.tables import BYTES, SCORES, START


def save(folder: Path, scores: pd.DataFrame, record: object = None) -> Path:
    scores.to_csv(folder / "scores.csv", index=False)
    record = {"source": "toy", "tokenizer": "org/tok", "settings": {"model": "org/model"}} if record is None else record
    (folder / "scores.json").write_text(json.dumps(record))
    return folder / "scores.csv"


def save_counts(path: Path, occurrences: list[int], types: list[int], changes: dict | None = None) -> Path:
    """Write counts.csv and its table by book, for 2-grams of a single book. changes: new values of columns."""
    names = {"source": "toy", "tokenizer": "tok", "kind": "ngram", "n_or_d": 2} | (changes or {})
    pd.DataFrame({"occurrences": occurrences, "types": types}).assign(**names).to_csv(path, index=False)
    entropy = grassberger_entropy(np.array(occurrences), np.array(types))
    save_shares(path, ["book"], [int(np.dot(occurrences, types))], [entropy])
    return path


def save_shares(counts: Path, books: list[str], ngrams: list[int], entropies: list[float]) -> None:
    table = pd.DataFrame({"book": books, "ngrams": ngrams, "entropy_nats": entropies})
    table = table.assign(source="toy", tokenizer="tok", kind="ngram", n_or_d=2)
    table.to_csv(counts.with_name(f"{counts.stem}_by_book.csv"), index=False)


def hand_scores() -> pd.DataFrame:
    """Scores of three documents at (ell, L) = (2, 4) and (4, 8); all numbers are exact in binary."""
    rows, start = [], iter([-1, -6, -2, -7, -3, -8])
    for document, x_donor, scale in (("a", "b", 1.0), ("b", "c", 2.0), ("c", "a", 4.0)):
        for ell, L in ((2, 4), (4, 8)):
            base = -ell * scale
            logq = base, base - ell, -0.5 * scale, base - 2 * ell * scale
            rows.append((document, "book", ell, L, *logq, next(start), 4 * ell, x_donor))
    return pd.DataFrame(rows, columns=SCORES)


def power_scores(books: int, documents: int, flavour: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Scores whose direct term is 3 · L^0.6 with noise of the document and, scaled by `flavour`, of its book. The term
    of vCLUB is twice as large, and that of block_entropy is smaller by 1."""
    rng, L, rows = np.random.default_rng(seed), 2 ** np.arange(2, 11), []
    for book in range(books):
        bend = flavour * rng.standard_normal() * np.linspace(0, 1, len(L))
        for number in range(documents):
            noise = 0.2 * rng.standard_normal(len(L)) + 0.2 * rng.standard_normal()
            term = 3 * L**0.6 * (1 + noise + bend)
            alone = -5.0 * L + rng.standard_normal(len(L))
            values = {"document": f"book{book}#{number:04d}", "book": f"book{book}", "ell_tokens": L // 2}
            values |= {"L_tokens": L, "logq_y_given_x_nats": alone + term, "logq_y_nats": alone}
            values |= {"logq_y_first2_nats": -10.0 + rng.standard_normal(), START: alone + 1, BYTES: 1.5 * L}
            values |= {"logq_y_given_other_x_nats": alone - term, "x_donor": f"book{(book + 1) % books}#{number:04d}"}
            rows.append(pd.DataFrame(values, columns=SCORES))
    return pd.concat(rows)


def exact_scores(
    process,
    documents: int,
    L_max: int,
    books: int = 10,
    ratios: tuple[int, ...] = (2,),
    apart: bool = False,
) -> tuple[pd.DataFrame, np.ndarray]:
    """scores.csv of a process with its exact predictor, and the documents, (documents, L_max).

    apart: subtract its number from log q(Y) of each document; without this, coin tosses of equal scores are repeats.
    """
    ids = process.sample(np.random.default_rng(0), documents, L_max)
    points = passes.grid(L_max, ratios=ratios)
    scored = ExactBackend(process).token_logprobs(ids, np.roll(ids, -1, axis=0), passes.branches(points))
    terms = passes.terms(scored, points)
    terms[passes.TERM_OF_RECIPIENT] = np.roll(terms[passes.TERM_OF_RECIPIENT], 1, axis=0)
    values = {f"{name}_nats": of.ravel() for name, of in terms.items()}
    values["logq_y_nats"] = values["logq_y_nats"] - apart * np.arange(documents).repeat(len(points))
    names = np.array([f"d{i:04d}" for i in range(documents)], dtype=object)
    book = np.array([f"b{i % books}" for i in range(documents)], dtype=object)
    ell, L = np.tile(points, (documents, 1)).T
    keys = {"document": names.repeat(len(points)), "book": book.repeat(len(points)), "ell_tokens": ell, "L_tokens": L}
    keys |= {BYTES: 4.0 * (L - ell), "x_donor": np.roll(names, 1).repeat(len(points))}
    return pd.DataFrame(keys | values), ids
