r"""Compare I(L/2; L) and its exponent β between models (Fig. B.1), or between start tokens of one model.

    python measure_mutual_info/compare_models.py --scores results/figB1/SmolLM2/scores.csv \
        results/figB1/gemma/scores.csv results/figB1/qwen/scores.csv --out results/figB1

Reads the scores.csv files (score_documents.py, rows with L = 2 ell) of several models on the same texts, or of one
model with several start tokens. Writes to the folder --out:
    models.csv  one row per model, estimator and quantity, the model with the highest loss first:
                beta       exponent of the power law over all L, as in fit.csv, with the p-value of the law
                beta_long  the same over L >= --L-long-min tokens
                bend       how much the local exponent falls each time L doubles, on average: −2 ln 2 times the
                           quadratic coefficient of ln I against ln L, by least squares without weights
                mi         I at each L, in nats
                and, without an estimator, for the tokens L/2 + 1 … L of the longest L, given all tokens before them:
                loss_nats_per_byte, loss_nats_per_token, bytes_per_token; start_nats_per_token is the loss of the first
                L/2 tokens after the start token
    trend.csv   difference: each quantity of model_b minus that of model_a, for each pair of models; model_b has the
                lower loss per byte. slope: of the line through beta, or beta_long, against loss_nats_per_byte, with one
                point per model (at least three); below 0, the exponent grows as the loss falls. models_lo95,
                models_hi95: its interval from the scatter of the models about the line, which says how other models
                might lie; the other interval is for these models on other books

All intervals come from one bootstrap over books: each replication draws the same books for all models, takes all their
documents and recomputes everything above. `paired` is "documents" if two models scored the same documents, cut at the
same places. Different tokenizers cut different documents from the same books; `paired` is then "books".

Hardware: one CPU core, 15 seconds for four models with 114 documents each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtrit
from scipy.stats import linregress

from common.cli import UserError, at_least, run
from common.documents import matching
from common.powerlaw import NoFitError, half_width
from common.record import write_csv
from measure_mutual_info.estimate_bipartite import SUMMED_UP, at_ratio, fit_terms, fit_units, per_document_terms
from measure_mutual_info.scoring import tables

EXPONENTS = ("beta", "beta_long")
LOSS = ("", "loss_nats_per_byte", 0.0)
MODELS_COLUMNS = ["source", "model", "start_token", "estimator", "quantity", "value", "lo95", "hi95", "p_value"]
MODELS_COLUMNS += ["L_min", "L_max", "n_documents", "n_books"]
TREND_COLUMNS = ["source", "kind", "model_a", "start_a", "model_b", "start_b", "paired", "estimator", "quantity"]
TREND_COLUMNS += ["L_max", "value", "lo95", "hi95", "models_lo95", "models_hi95", "n_models", "n_books"]
Key = tuple[str, str, float]  # estimator, quantity, and L (for mi; otherwise 0)


@dataclass(frozen=True)
class Settings:
    scores: tuple[Path, ...]  # scores.csv files of score_documents.py for the same texts, one per model or start token
    out: Path  # folder for models.csv and trend.csv
    books: tuple[str, ...] = ()  # use only these books: names or patterns ("books/*"); default: all
    name: str | None = None  # name of these books in the column source; default: the source of the scores
    L_long_min: int = 256  # tokens; beta_long is fitted to L >= this
    bootstrap: int = 500  # resamplings of whole books
    seed: int = 0  # seed of the resamplings

    def validate(self) -> None:
        at_least(2, self, "bootstrap")


@dataclass(frozen=True)
class Model:
    """The scores of one model at L = 2 ell; each table has one row per document."""

    path: Path
    source: str
    name: str
    start: str  # token in front of every text
    terms: pd.DataFrame  # documents × (estimator, ell_tokens, L_tokens), nats
    last: pd.DataFrame  # documents × (loss_nats, tokens, bytes: of Y at the longest L; start_nats: of the first L/2)
    book: pd.Series  # book of each document
    documents: str  # identifier, equal for models that scored the same documents

    @property
    def lengths(self) -> set[int]:
        return set(self.terms.columns.get_level_values("L_tokens"))

    @cached_property
    def rows_of(self) -> list[np.ndarray]:
        """Row numbers of each book's documents, with the books sorted by name."""
        return list(pd.Series(range(len(self.book))).groupby(self.book.to_numpy()).indices.values())

    def only(self, documents: np.ndarray) -> Model:
        """A copy with only the documents for which the mask `documents`, (documents,), is True."""
        return replace(self, terms=self.terms[documents], last=self.last[documents], book=self.book[documents])


class Quantity(NamedTuple):
    value: float  # NaN where there is none
    L_min: float = math.nan
    L_max: float = math.nan
    p_value: float = math.nan
    why_not: str = ""


def read_model(path: Path) -> Model:
    """UserError: as `read_scores`, `read_record`; no rows with L = 2 ell; y_bytes missing or not above 0."""
    scores, line = tables.read_scores(path)
    (source, name), record = tables.read_record(path)
    identity = record.get("identity")
    print(f"{name}: {line}")
    scores = scores[scores["L_tokens"] == 2 * scores["ell_tokens"]]
    if scores.empty:
        raise UserError(f"{path} has no rows with L = 2 ell: {tables.SCORE_AGAIN}")
    terms = pd.concat({name: per_document_terms(scores, name) for name in SUMMED_UP}, axis=1, names=["estimator"])
    rows = scores[scores["L_tokens"] == scores["L_tokens"].max()].set_index("document").loc[terms.index]
    if not (np.isfinite(rows[tables.BYTES]) & (rows[tables.BYTES] > 0)).all():
        again = f"{tables.SCORE_AGAIN} and a model that has a tokenizer"
        raise UserError(f"{path} lacks the bytes of each continuation (column {tables.BYTES}): {again}")
    last = {"loss_nats": -rows[tables.LOGQ[0]], "tokens": rows["L_tokens"] - rows["ell_tokens"]}
    last |= {"bytes": rows[tables.BYTES], "start_nats": -rows[tables.START]}
    documents = identity.get("documents") if isinstance(identity, dict) else None
    start = str(record.get("start_token", "unknown"))
    return Model(path, source, name, start, terms, pd.DataFrame(last), rows["book"], str(documents or path))


def refuse_strangers(models: Sequence[Model]) -> None:
    """UserError: the models have different sources, or two have the same name and start token."""
    for a, b in combinations(models, 2):
        if a.source != b.source:
            files = f"{a.path} is of source {a.source}, {b.path} of {b.source}"
            raise UserError(f"--scores: {files}: compare the models of one source at a time")
        if (a.name, a.start) == (b.name, b.start):
            files = f"{a.path} and {b.path}"
            raise UserError(f"--scores: {files} are both of {a.name} with start token {a.start}: give each once")


def in_common(models: Sequence[Model]) -> list[Model]:
    """The models that reach the longest L, restricted to the L and books they all have; prints what is left out.

    Models that scored the same documents keep only the documents for which all of them have scores. UserError: they
    share fewer than two books.
    """
    longest = max(max(model.lengths) for model in models)
    for model in models:
        if max(model.lengths) < longest:
            print(f"{model.name} is left out: its longest L is {max(model.lengths)}, that of others {longest}")
    models = [model for model in models if max(model.lengths) == longest]
    lengths = [model.lengths for model in models]
    shared = set.intersection(*lengths)
    if others := set.union(*lengths) - shared:
        print(f"left out, as not all models have it: L = {', '.join(map(str, sorted(others)))}")

    kept = []
    for model in models:
        indices = [one.book.index for one in models if one.documents == model.documents]
        chosen = np.logical_and.reduce([model.book.index.isin(index) for index in indices])
        if not chosen.all():
            print(f"{model.name}: {(~chosen).sum()} documents left out, for which another model has no scores")
        columns = model.terms.columns.get_level_values("L_tokens").isin(shared)
        kept.append(replace(model, terms=model.terms.loc[:, columns]).only(chosen))
    books = [set(model.book) for model in kept]
    shared = set.intersection(*books)
    if others := set.union(*books) - shared:
        print(f"{len(others)} books left out, as not all models have them (the first: {min(others)})")
    if len(shared) < 2:
        raise UserError(f"--scores: the models share {len(shared)} books, two are needed: score the same texts by each")
    return [model.only(model.book.isin(shared).to_numpy()) for model in kept]


def quantities(model: Model, drawn: np.ndarray, L_long_min: float) -> dict[Key, Quantity]:
    """The values in models.csv, from all documents of the drawn books; a book drawn twice counts as two books.

    drawn: (books,) indices into the sorted book names.
    """
    rows, numbers = np.concatenate([model.rows_of[b] for b in drawn]), [len(model.rows_of[b]) for b in drawn]
    terms = model.terms.iloc[rows].set_axis(range(len(rows)))
    fitted, *_ = fit_units(terms, pd.Series(np.repeat(np.arange(len(drawn)), numbers)))
    found = {}
    for estimator in terms.columns.unique("estimator"):
        L, values = at_ratio(fitted[estimator], 2)
        for name, first in zip(EXPONENTS, (0, L_long_min), strict=True):
            if first > L[-1]:
                continue
            try:
                fit = fit_terms("power", L[L >= first], values[:, L >= first])
                found[estimator, name, 0.0] = Quantity(fit.parameters["beta"][0], fit.L_min, fit.L_max, fit.p_value)
            except NoFitError as error:
                found[estimator, name, 0.0] = Quantity(math.nan, why_not=str(error))
        if len(L) >= 3 and (values.mean(axis=0) > 0).all():
            quadratic = np.polyfit(np.log(L), np.log(values.mean(axis=0)), 2)[0]
            found[estimator, "bend", 0.0] = Quantity(-2 * math.log(2) * quadratic, L[0], L[-1])
        found |= {(estimator, "mi", at): Quantity(mi, at, at) for at, mi in zip(L, values.mean(axis=0), strict=True)}
    loss, tokens, size, start = model.last.to_numpy()[rows].sum(axis=0)
    of_loss = {"loss_nats_per_byte": loss / size, "loss_nats_per_token": loss / tokens}
    of_loss |= {"bytes_per_token": size / tokens, "start_nats_per_token": start / tokens}
    return found | {("", name, 0.0): Quantity(value, L[-1], L[-1]) for name, value in of_loss.items()}


def slope(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Slope of the least-squares line through the points, (…, points) → (…)."""
    x, y = (values - values.mean(axis=-1, keepdims=True) for values in (x, y))
    return (x * y).sum(axis=-1) / (x * x).sum(axis=-1)


def with_interval(values: np.ndarray, books: int) -> tuple[float, float, float]:
    """An estimate and its 95% interval, NaN if fewer than half of the replications, or fewer than two, have a value.

    values: (1 + replications,), the estimate first; NaN where there is no value.
    """
    here, drawn = float(values[0]), values[1:][np.isfinite(values[1:])]
    half = half_width(drawn, books) if len(drawn) >= max(2, len(values[1:]) / 2) else math.nan
    return here, here - half, here + half


def main(cfg: Settings) -> None:
    models = [read_model(path) for path in cfg.scores]
    refuse_strangers(models)
    if cfg.books:
        chosen = matching(sorted(set().union(*(model.book for model in models))), "--books", cfg.books)
        models = [model.only(model.book.isin(chosen).to_numpy()) for model in models]
    models = in_common(models)
    source, books, rng = cfg.name or models[0].source, models[0].book.nunique(), np.random.default_rng(cfg.seed)
    models.sort(key=lambda model: -model.last["loss_nats"].sum() / model.last["bytes"].sum())
    found = [[quantities(model, np.arange(books), cfg.L_long_min) for model in models]]
    for _ in range(cfg.bootstrap):
        drawn = rng.integers(books, size=books)
        found.append([quantities(model, drawn, cfg.L_long_min) for model in models])
    none, keys = Quantity(math.nan), sorted(set().union(*found[0]), key=lambda key: (key[0] == "", key))
    # (1 + replications, models, keys)
    values = np.array([[[of.get(key, none).value for key in keys] for of in each] for each in found])

    rows, trend = [], []
    for m, model in enumerate(models):
        for k, (estimator, name, _) in enumerate(keys):
            of = found[0][m].get(keys[k], none)
            if of.why_not:
                print(f"{model.name}, {estimator}: no {name}: {of.why_not}")
            numbers = (*with_interval(values[:, m, k], books), of.p_value, of.L_min, of.L_max, len(model.book), books)
            rows.append((source, model.name, model.start, estimator, name, *numbers))
    for a, b in combinations(range(len(models)), 2):
        paired = "documents" if models[a].documents == models[b].documents else "books"
        pair = (models[a].name, models[a].start, models[b].name, models[b].start, paired)
        for k, (*names, L) in enumerate(keys):
            less = with_interval(values[:, b, k] - values[:, a, k], books)
            trend.append((source, "difference", *pair, *names, L or math.nan, *less, math.nan, math.nan, 2, books))
    for k, (*names, _) in enumerate(keys):
        there = np.isfinite(values[0, :, k])
        if names[1] in EXPONENTS and there.sum() >= 3:
            x, y = values[:, there, keys.index(LOSS)], values[:, there, k]
            of, half = slope(x, y), stdtrit(there.sum() - 2, 0.975) * linregress(x[0], y[0]).stderr
            line = (*with_interval(of, books), of[0] - half, of[0] + half, there.sum(), books)
            trend.append((source, "slope", *[""] * 5, *names, math.nan, *line))

    rows = pd.DataFrame(rows, columns=MODELS_COLUMNS).dropna(subset="value")
    trend = pd.DataFrame(trend, columns=TREND_COLUMNS).dropna(subset="value")
    for name, table in (("models", rows), ("trend", trend)):
        write_csv(cfg.out / f"{name}.csv", table, cfg, cfg.scores)
    print(f"{source}, {books} books; 95% intervals by book; wrote models.csv and trend.csv in {cfg.out}")
    shown = pd.concat([rows, trend[trend["kind"] == "slope"].assign(model="slope against the loss per byte")])
    for row in shown[shown["quantity"].isin([*EXPONENTS, LOSS[1]])].fillna({"start_token": ""}).itertuples():
        what = " ".join(filter(None, (row.start_token, row.estimator, row.quantity)))
        print(f"{row.model}: {what} {row.value:.3f} [{row.lo95:.3f}, {row.hi95:.3f}]")


if __name__ == "__main__":
    run(main, Settings, __doc__)
