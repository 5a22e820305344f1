"""state.csv as functions of the context: how large each model's history state is, and how it grows.

states = read_states(Path("results/condition/state.csv"))
states[0].size(500_000)          # elements after so many tokens, over all kinds
states[0].exponent               # g of dim(z) ~ t^g as t → ∞
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.cli import UserError
from common.record import numbers, read_csv

STATE = ["model", "layer_kind", "context_tokens", "state_elements", "state_bytes"]
GROWTH = ["growth_exponent", "growth_logarithms"]  # of a kind; state.csv has them, a table of your own need not
STATE_REMEDY = "make it with python l2m_condition/state_size.py"


@dataclass(frozen=True)
class Form:
    """How one kind of layer goes on beyond the table: its exponent as tokens → ∞, and its size there."""

    exponent: float
    """NaN: not known"""
    beyond: Callable[[np.ndarray], np.ndarray] | None
    """tokens → elements; None: the table's last rows do not tell"""
    grows: bool = True
    """without bound"""


def growth(tokens: np.ndarray, size: np.ndarray, known: tuple[float, float] | None = None) -> Form:
    """Of one kind, ascending in tokens. Beyond the table it goes on as a constant, a + b·t, a + b·ln t, or a·t^b.

    known: growth_exponent and growth_logarithms of state.csv. Without them the last rows tell: two a constant, and a
    size proportional to tokens; what is neither takes three. A window that is not full yet is bounded, at a size that
    the table does not have; that takes `known`.
    """
    t, s = tokens[-3:].astype(float), size[-3:].astype(float)
    slope = (s[-1] - s[-2]) / (t[-1] - t[-2])

    span = math.log(tokens[-1] / tokens[0])

    def line(tokens: np.ndarray) -> np.ndarray:
        return s[-1] + slope * (tokens - t[-1])

    def logarithm(tokens: np.ndarray) -> np.ndarray:  # over the whole table: it may rise in steps
        return s[-1] + (size[-1] - size[0]) * np.log(tokens / t[-1]) / span

    if known == (0, 0) or (known is None and slope == 0):
        return Form(0.0, line if slope == 0 else None, grows=False)
    if known == (1, 0):
        return Form(1.0, line)
    if known == (0, 1):
        return Form(0.0, logarithm)
    if known is not None or slope < 0:
        return Form(known[0] if known else math.nan, None)
    if _straight(t, s) or (len(t) == 2 and np.isclose(s[1] * t[0], s[0] * t[1])):
        return Form(1.0, line)
    if _straight(np.log(t), s):
        return Form(0.0, logarithm)
    if s.min() > 0 and _straight(np.log(t), np.log(s)):
        power = math.log(s[-1] / s[-2]) / math.log(t[-1] / t[-2])
        return Form(power, lambda tokens: s[-1] * (tokens / t[-1]) ** power)
    return Form(math.nan, None)


def _straight(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether three points lie on a line, but for what rounding to whole elements or blocks does."""
    return len(x) == 3 and bool(np.isclose((y[2] - y[1]) * (x[1] - x[0]), (y[1] - y[0]) * (x[2] - x[1]), rtol=1e-3))


@dataclass(frozen=True)
class State:
    """A model's history state by tokens of context.

    sizes: by kind, (contexts,) elements or bytes. forms: how these grow.
    """

    model: str
    tokens: np.ndarray
    sizes: dict[str, np.ndarray]
    forms: dict[str, Form]

    @property
    def exponent(self) -> float:
        """g of dim(z) ~ t^g as t → ∞: the fastest kind's; NaN where one is not known."""
        found = [form.exponent for form in self.forms.values()]
        return math.nan if any(map(math.isnan, found)) else max(found)

    @property
    def group(self) -> str:
        """What the figure colours by."""
        forms = {kind: form for kind, form in self.forms.items() if self.sizes[kind][-1] > 0}
        growing = [kind for kind, form in forms.items() if form.exponent > 0]
        if math.isnan(self.exponent):
            return "unknown"
        if not growing:
            logarithmic = any(form.grows for form in forms.values())
            return "logarithmic" if logarithmic else "bounded"
        if len(growing) < len(forms):
            return "hybrid"
        return "latent attention" if any("latent" in kind or "mla" in kind for kind in growing) else "full attention"

    @property
    def end(self) -> float:
        """Tokens up to which the size is known."""
        return float(self.tokens[-1]) if any(form.beyond is None for form in self.forms.values()) else math.inf

    def size(self, tokens: np.ndarray | float) -> np.ndarray:
        """Over all kinds; NaN outside of what is known. Between rows linear in tokens, exact for full attention."""
        tokens = np.asarray(tokens, dtype=float)
        total = np.zeros(tokens.shape)
        for kind, form in self.forms.items():
            inside = np.interp(tokens, self.tokens, self.sizes[kind])
            outside = np.full(tokens.shape, math.nan) if form.beyond is None else form.beyond(tokens)
            total += np.where(tokens <= self.tokens[-1], inside, outside)
        return np.where(tokens < self.tokens[0], math.nan, total)


def read_states(path: Path, column: str = "state_elements") -> list[State]:
    """The models of state.csv in its order; column: elements or bytes.

    UserError: columns missing, a number is none, negative or there twice, kinds of different contexts, a total that is
    not their sum, or a model with one context only, which does not tell how its state grows.
    """
    columns = STATE + GROWTH
    try:
        table = read_csv(path, columns, STATE_REMEDY)
    except UserError:  # a table of one's own may do without
        columns = STATE
        table = read_csv(path, columns, STATE_REMEDY)
    for name in columns[2:]:
        table[name] = numbers(table[name], path, STATE_REMEDY)
    if table.empty:
        raise UserError(f"{path} has no rows: {STATE_REMEDY}")
    bad = table.index[~(table["context_tokens"] >= 1) | ~(table[column] >= 0) | ~np.isfinite(table[column])]
    if len(bad):
        raise UserError(f"{path}, line {bad[0] + 2}: context_tokens from 1 on and sizes from 0 on: {STATE_REMEDY}")
    if table.duplicated(STATE[:3]).any():
        model, kind, tokens = table.loc[table.duplicated(STATE[:3]), STATE[:3]].iloc[0]
        raise UserError(f"{path} has {model}, {kind}, {tokens:g} tokens twice: {STATE_REMEDY}")
    states = []
    for model, rows in table.groupby("model", sort=False):
        sizes = rows.pivot(index="context_tokens", columns="layer_kind", values=column).sort_index()
        if len(sizes) < 2:
            raise UserError(f"{path} has {model} at one context only: give state_size.py several, to see it grow")
        if sizes.isna().any(axis=None):
            raise UserError(f"{path}: the kinds of {model} have different contexts: {STATE_REMEDY}")
        kinds = sizes.drop(columns="total", errors="ignore")
        if "total" in sizes and len(kinds.columns) and not np.allclose(kinds.sum(axis=1), sizes["total"]):
            raise UserError(f"{path}: the total of {model} is not the sum of its kinds: {STATE_REMEDY}")
        kinds = kinds if len(kinds.columns) else sizes
        tokens, known = kinds.index.to_numpy(float), {}
        if columns != STATE:
            known = {row.layer_kind: (row.growth_exponent, row.growth_logarithms) for row in rows.itertuples()}
        parts = {kind: kinds[kind].to_numpy() for kind in kinds.columns}
        forms = {kind: growth(tokens, size, known.get(kind)) for kind, size in parts.items()}
        states.append(State(model, tokens, parts, forms))
    return states
