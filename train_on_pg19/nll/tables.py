"""The tables of compare.py, from sums of the NLL over the documents of each book.

Losses are in nats per `unit`: a byte of text, or a token if the documents have no text (only ids). Every interval is
over books, and over seeds if a model has several; see curves.gap.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from train_on_pg19.nll import curves
from train_on_pg19.nll.sums import Evaluated, Text

DIGITS = 6


def where(text: Text, of: np.ndarray) -> dict[str, np.ndarray]:
    """The columns with the positions of the windows: in tokens, and in units from the start of a document."""
    start, end = (text.upto(at).sum(axis=0) / text.documents.sum() for at in (of[:, 0] - 1, of[:, 1]))
    middle = {"first": of[:, 0], "last": of[:, 1], "position": curves.centres(of).round(2)}
    return middle | {"position_units": np.sqrt((start + 1) * end).round(2), "unit": text.unit}


def smooth(one: Evaluated, text: Text) -> pd.DataFrame:
    of = curves.windows(text.L)
    mean, error = curves.mean_by_book(text.sums(one.nll, of) / (of[:, 1] - of[:, 0] + 1), text.documents)
    table = {"model": one.name, "L": text.L, "seed": one.seed} | where(text, of)
    table |= {"nll_nats": mean.round(DIGITS), "stderr_nats": error.round(DIGITS)} | loss(one, text, of)
    return pd.DataFrame(table | {"n_documents": text.documents.sum()})


def loss(one: Evaluated, text: Text, of: np.ndarray) -> dict[str, np.ndarray]:
    """Nats per unit in each window, and their standard error."""
    mean, error = curves.mean_by_book(text.sums(one.nll, of), text.within(of))
    return {"nats_per_unit": mean.round(DIGITS), "stderr_per_unit": error.round(DIGITS), "unit": text.unit}


def summary(one: Evaluated, text: Text, **facts: Any) -> pd.DataFrame:
    mean, error = curves.mean_by_book(one.nll.sum(axis=1) / text.L, text.documents)
    table = {"model": one.name, "L": text.L, "seed": one.seed, "nll_nats": mean.round(DIGITS)}
    table |= {"stderr_nats": error.round(DIGITS), "n_documents": text.documents.sum(), "n_books": len(text.documents)}
    return pd.DataFrame(table | loss(one, text, np.array([[1, text.L]])) | facts)


def by_book(one: Evaluated, text: Text) -> pd.DataFrame:
    units = text.units.sum(axis=1)
    table = {"model": one.name, "L": text.L, "seed": one.seed, "book": text.books, "n_documents": text.documents}
    table |= {"nats_per_unit": (one.nll.sum(axis=1) / units).round(DIGITS), "unit": text.unit, "units": units}
    return pd.DataFrame(table)


def information(one: Evaluated, text: Text) -> pd.DataFrame:
    """I(ℓ; 2ℓ) = 2H(ℓ) − H(2ℓ) of a stationary source: the NLL of the first ℓ tokens minus that of the next ℓ."""
    of = np.array([(1, 1), *curves.doublings(text.L, 1)])
    each = text.sums(one.nll, of)
    mean, error = curves.mean_by_book(2 * each.cumsum(axis=1)[:, :-1] - each.cumsum(axis=1)[:, 1:], text.documents)
    table = {"model": one.name, "seed": one.seed, "ell_tokens": of[:-1, 1], "L_tokens": of[1:, 1]}
    table |= {"L_units": (text.upto(of[1:, 1]).sum(axis=0) / text.documents.sum()).round(1), "unit": text.unit}
    return pd.DataFrame(table | {"mi_nats": mean.round(4), "stderr_nats": error.round(4)})


def interval(found: curves.Gap, name: str) -> dict[str, np.ndarray]:
    prefix = "" if name in ("gap", "gain") else f"{name}_"
    columns = {f"{name}_nats": found.gap, f"{prefix}stderr_nats": found.error}
    columns |= {f"{prefix}lo95": found.lo95, f"{prefix}hi95": found.hi95}
    return {key: values.round(DIGITS) for key, values in columns.items()}


def of_pair(a: list[Evaluated], b: list[Evaluated], text: Text) -> dict[str, Any]:
    pair = {"model_a": a[0].name, "model_b": b[0].name, "L": text.L, "n_documents": text.documents.sum()}
    return pair | {"n_books": len(text.documents), "seeds_a": len(a), "seeds_b": len(b)}


def gap(a: list[Evaluated], b: list[Evaluated], text: Text) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of gap.csv and crossover.csv. a, b: one model each, with an element for each seed."""
    of = curves.windows(text.L)
    found = curves.gap(*([text.sums(one.nll, of) for one in model] for model in (a, b)), text.within(of))
    pair = of_pair(a, b, text)
    table = pd.DataFrame(pair | where(text, of) | interval(found, "gap"))
    cross = curves.crossover(found, where(text, of)["position_units"])
    at = {"overtakes_at": round(cross.position, 3), "lo95": round(cross.lo95, 3), "hi95": round(cross.hi95, 3)}
    leader = b if found.gap[-1] > 0 else a
    return table, pd.DataFrame([pair | {"leads_at_the_end": leader[0].name if found.gap[-1] else ""} | at])


def gained(one: Evaluated, text: Text, context: int, of: np.ndarray) -> np.ndarray:
    """Gain from the full context over the last `context` tokens alone, summed in each doubling, (books, doublings)."""
    return text.sums(one.with_last[context] - one.nll, of)


def contexts(*models: list[Evaluated]) -> list[int]:
    """The contexts with which all these models were evaluated."""
    every = [one.with_last for model in models for one in model]
    return [context for context in every[0] if all(context in one for one in every)]


def gains(model: list[Evaluated], text: Text) -> list[pd.DataFrame]:
    """Rows of gains.csv for one model, given by seed. growth: the gain minus that in the previous doubling."""
    parts = []
    for context in contexts(model):
        of = curves.doublings(text.L, 2 * context)
        units, none = text.within(of), [np.zeros((len(text.documents), len(of)))]
        each = [gained(one, text, context, of) for one in model]
        found = curves.gap(each, none, units)
        steps = [np.diff(rate, axis=1, prepend=np.nan) for rate in rates(each, text, units)]
        growth = curves.gap(steps, none, text.documents)
        about = {"model": model[0].name, "L": text.L, "seeds": len(model), "context": context}
        columns = where(text, of) | interval(found, "gain") | interval(growth, "growth")
        parts.append(pd.DataFrame(about | columns | {"n_documents": text.documents.sum(), "n_books": len(units)}))
    return parts


def rates(each: list[np.ndarray], text: Text, units: np.ndarray) -> list[np.ndarray]:
    """Nats per unit of each book times its documents, for each seed.

    Doublings differ in their number of units, so they are compared in nats per unit, weighted by documents, which are
    the same for all.
    """
    return [values * text.documents[:, None] / units for values in each]


def gain_gaps(a: list[Evaluated], b: list[Evaluated], text: Text) -> list[pd.DataFrame]:
    """Rows of gain_gaps.csv: how much more model a gains from the full context than model b."""
    parts = []
    for context in contexts(a, b):
        of = curves.doublings(text.L, 2 * context)
        found = curves.gap(*([gained(one, text, context, of) for one in model] for model in (a, b)), text.within(of))
        columns = {"context": context} | where(text, of) | interval(found, "gap")
        parts.append(pd.DataFrame(of_pair(a, b, text) | columns))
    return parts


def minus(later: list[np.ndarray], earlier: list[np.ndarray]) -> list[np.ndarray]:
    """The difference of each seed's sums, so that the interval is that of paired values."""
    return [one - other for one, other in zip(later, earlier, strict=True)]


def tokens(model: list[dict[int, Evaluated]], context: int | None, text: Text) -> pd.DataFrame:
    """Rows of tokens.csv for one model. model: for each seed, the evaluations at the cosine ends by training tokens.

    fell: how much the loss fell since the previous end, on the same documents. late_gain: what the full context gains
    over the last `context` tokens alone, in the last doubling, and late_gain_rose: how much that rose since the
    previous end; left out if `context` is None.
    """
    whole, late, rows, before = np.array([[1, text.L]]), curves.doublings(text.L, 1)[-1:], [], None
    none = [np.zeros((len(text.documents), 1))]
    for count in sorted(set.intersection(*map(set, model))):
        now = [text.sums(ends[count].nll, whole) for ends in model]
        found = curves.gap(now, none, text.within(whole))
        row = {"model": next(iter(model[0].values())).name, "L": text.L, "seeds": len(model), "tokens": count}
        row |= {"nats_per_unit": found.gap.round(DIGITS), "stderr_per_unit": found.error.round(DIGITS)}
        row |= {"unit": text.unit}
        if before:
            row |= interval(curves.gap(minus(before[0], now), none, text.within(whole)), "fell")
        gain = [gained(ends[count], text, context, late) for ends in model] if context else []
        if context:
            row |= {"context": context} | interval(curves.gap(gain, none, text.within(late)), "late_gain")
        if context and before:
            row |= interval(curves.gap(minus(gain, before[1]), none, text.within(late)), "late_gain_rose")
        rows.append(pd.DataFrame(row))
        before = now, gain
    return pd.concat(rows) if rows else pd.DataFrame()


def token_gaps(
    a: list[dict[int, Evaluated]], b: list[dict[int, Evaluated]], context: int | None, text: Text
) -> pd.DataFrame:
    """Rows of token_gaps.csv: two models after the same number of training tokens, in each doubling of the position.

    a, b: as `model` in `tokens`. No rows if they have no number of training tokens in common. gain_gap: how much more a
    than b gains from the full context over the last `context` tokens alone. gain_gap_rose: how much that rose since the
    previous number of training tokens. gain_gap_grew: how much it grew from the first of these doublings to this one,
    in nats per unit of each book, weighted by documents.
    """
    of, rows, before = curves.doublings(text.L, 1), [pd.DataFrame()], None
    units, far = text.within(of), of[:, 0] > 2 * (context or text.L)
    for count in sorted(set.intersection(*(set(ends) for ends in (*a, *b)))):
        pair = [[ends[count] for ends in model] for model in (a, b)]
        found = curves.gap(*([text.sums(one.nll, of) for one in model] for model in pair), units)
        table = pd.DataFrame(of_pair(*pair, text) | {"tokens": count} | where(text, of) | interval(found, "gap"))
        if context:
            gain = [[gained(one, text, context, of[far]) for one in model] for model in pair]
            columns = {"context": context} | interval(curves.gap(*gain, units[:, far]), "gain_gap")
            if before:
                columns |= interval(curves.gap(*map(minus, gain, before), units[:, far]), "gain_gap_rose")
            grew = [[rate - rate[:, :1] for rate in rates(model, text, units[:, far])] for model in gain]
            columns |= interval(curves.gap(*grew, text.documents), "gain_gap_grew")
            table, before = table.join(pd.DataFrame(columns, index=table.index[far])), gain
        rows.append(table)
    return pd.concat(rows)
