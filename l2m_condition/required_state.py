r"""Which history states are large enough for a law of I(L/2; L) (Sec. 5: Theorem 5.2, L²M condition).

    python l2m_condition/required_state.py --state results/mine/state.csv --fit results/fig2b/fit.csv \
        --out results/mine

The law I(L/2; L) = A · L^β, in nats, is one of the paper's two, or one from fit.csv (estimate_bipartite.py) with its
interval. It is compared with what the state after L/2 tokens can hold,
    I(L/2; L) <= C · dim(z_{L/2}) + ln M        (Theorem 5.2; M is the size of the vocabulary)
C, in nats per element, is an assumption (see README.md of this folder), named in every row (`capacity`):
    16 bits      --bits-per-element, C = bits · ln 2: the state takes no more than 2^(bits · dim(z)) values
    1 nat        --nats-per-element
    linear       --capacity, what the smallest linear state that loses nothing holds for a Gaussian family
Writes into the folder --out:
    condition.csv  a row per model, law and capacity: verdict, from the exponents alone; satisfies_wanted, whether the
                   state can hold what --wanted tokens require; max_context_tokens, the largest L for which it can: inf
                   if it grows at least as fast as the law, empty if it holds too little at every row of state.csv
    required.csv   a row per law, L and capacity: I(L/2; L), and the smallest sufficient state, required_elements
Their columns, where lo95 and hi95 are the ends of the 95% interval of the fit (empty for the paper's laws):
    A, beta, mi_nats             the law, and I(L/2; L) at L_tokens or at wanted_tokens
    group                        bounded, sublinear, hybrid, full attention, latent attention: how the state grows
    growth_exponent              g of the whole state in elements ~ L^g
    capacity, nats_per_element   name and value of C
    state_elements               of the model's state after wanted_tokens / 2
    capacity_nats                C · state_elements + ln M
    required_elements            the smallest state for which C · elements + ln M reaches mi_nats

One CPU core, seconds. Expect 82,000 nats (paper-direct) and 59,000 (paper-vclub) at a million tokens.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from common.cli import MAY_BE_EMPTY, UserError, run
from common.powerlaw import PAPER_LAWS
from common.record import read_csv, write_csv

STATE = ["model", "layer_kind", "context_tokens", "state_elements", "growth_exponent"]
STATE_REMEDY = "make it with python l2m_condition/state_size.py"
FIT = ["source", "estimator", "L_over_ell", "law", "parameter"]
FIT_NUMBERS = ["value", "lo95", "hi95", "boot_lo95", "boot_hi95", "L_min", "L_max"]
FIT_REMEDY = "make it with python measure_mutual_info/estimate_bipartite.py"
PAPER = {f"paper-{name}": PAPER_LAWS[name] for name in ("direct", "vclub")}  # Fig. 2b, without an interval
CONDITION = ["model", "group", "law", "beta", "beta_lo95", "beta_hi95", "growth_exponent", "verdict", "capacity"]
CONDITION += ["nats_per_element", "max_context_tokens", "wanted_tokens", "mi_nats", "mi_lo95", "mi_hi95"]
CONDITION += ["state_elements", "capacity_nats", "satisfies_wanted"]
REQUIRED = ["law", "A", "beta", "L_tokens", "mi_nats", "mi_lo95", "mi_hi95", "capacity", "nats_per_element"]
REQUIRED += ["required_elements", "required_lo95", "required_hi95"]
LENGTHS = {m * 10**k for k in range(3, 7) for m in (1, 2, 5)} | {10_000_000}  # L of required.csv, in tokens
SIDES = (0, -1, 1)  # the value of a law, and the lower and upper end of its interval


@dataclass(frozen=True)
class Settings:
    state: Path  # state.csv of state_size.py
    out: Path  # folder for the CSVs
    fit: tuple[Path, ...] = ()  # fit.csv files of estimate_bipartite.py; each adds a law to the paper's two
    estimator: str = "direct"  # the estimator to use from fit.csv
    bits_per_element: float = 16.0
    """not in the paper: bits that an element of the state can hold; 16 is the size of a bfloat16"""
    nats_per_element: tuple[float, ...] = field(default=(1.0,), metadata=MAY_BE_EMPTY)
    """not in the paper: further values of C"""
    capacity: Path | None = None
    """capacity.csv of gaussian_synthetic/capacity.py; I/rank at its longest L is one more value of C"""
    vocabulary: int = 128_256  # M; the default is that of Llama 3.1, whose tokens the paper's laws count
    wanted: int = 1_000_000  # tokens: the context that a model should hold

    def validate(self) -> None:
        given = (self.bits_per_element, *self.nats_per_element, self.vocabulary, self.wanted)
        if min(given) <= 0:
            raise UserError("--bits-per-element, --nats-per-element, --vocabulary, --wanted: give numbers above 0")


@dataclass(frozen=True)
class ScalingLaw:
    """I(L/2; L) = A · L^β in nats, with the 95% interval of the fit (NaN: none)."""

    name: str
    A: float
    beta: float
    half_log_A: float = math.nan  # half the width of the interval of ln A
    half_beta: float = math.nan
    L_min: float = math.nan
    L_max: float = math.nan

    def mi(self, L: float, side: int = 0) -> float:
        """I in nats at L; side −1 or +1: the lower or upper end of the 95% interval.

        fit.csv has no covariance of ln A and β. But the level of a line in the middle of the fitted range, at x_0 in
        x = ln L, is about independent of its slope, so the half-widths h satisfy
            h(x)² = h_lnA² − h_β² · x_0² + h_β² · (x − x_0)²
        (with x_0 at most h_lnA / h_β). This covers the errors of the fit only, not whether the law holds so far out.
        """
        x, half = math.log(L), 0.0
        if side:
            middle = math.log(self.L_min * self.L_max) / 2
            middle = min(middle, self.half_log_A / self.half_beta) if self.half_beta else 0.0
            half = np.sqrt(np.maximum(self.half_log_A**2 + self.half_beta**2 * ((x - middle) ** 2 - middle**2), 0))
        return float(np.exp(math.log(self.A) + self.beta * x + side * half))

    def verdict(self, exponent: float) -> str:
        """For a state that grows as L^exponent: `satisfies`, `violates`, or `undecided` if β's interval contains it."""
        half = 0 if math.isnan(self.half_beta) else self.half_beta
        if exponent >= self.beta + half:
            return "satisfies"
        return "violates" if exponent < self.beta - half else "undecided"


def read_law(path: Path, estimator: str) -> ScalingLaw:
    """The power law in fit.csv at L = 2ℓ, with resampled books' interval if there is one. UserError: no valid law."""
    table = read_csv(path, FIT + FIT_NUMBERS, FIT_REMEDY, ["L_over_ell", *FIT_NUMBERS])
    rows = table[(table["law"] == "power") & (table["estimator"] == estimator) & (table["L_over_ell"] == 2)]
    if sorted(rows["parameter"]) != ["A", "beta"]:
        known = ", ".join(map(str, table["estimator"].unique())) or "no rows"
        raise UserError(
            f"{path} does not have exactly one power law of {estimator} at L = 2 ell: choose --estimator from {known}"
        )
    rows = rows.set_index("parameter")
    A, beta = rows["value"]["A"], rows["value"]["beta"]
    extent = rows.loc["beta", ["L_min", "L_max"]].astype(float)
    if not (0 < A < 1e30 and 0 < beta < 2 and 0 < extent["L_min"] <= extent["L_max"] < 1e30):
        raise UserError(f"{path}: A = {A:g}, beta = {beta:g} of {estimator} do not give a valid law: {FIT_REMEDY}")
    half = []
    for name, scale in (("A", np.log), ("beta", np.asarray)):
        low, high = scale(rows.loc[name, ["boot_lo95", "boot_hi95"]].to_numpy(float))
        if not math.isfinite(high - low):
            low, high = scale(rows.loc[name, ["lo95", "hi95"]].to_numpy(float))
        half.append((high - low) / 2)
    return ScalingLaw(f"{rows['source']['A']}-{estimator}", A, beta, *half, *extent)


@dataclass(frozen=True)
class State:
    """A model's history state: its elements after each number of tokens; both (contexts,), ascending."""

    model: str
    group: str  # sets the colour in the figure
    exponent: float  # g in dim(z) ~ t^g as t → ∞: that of the layer kind that grows fastest
    tokens: np.ndarray
    elements: np.ndarray

    def size(self, tokens: float) -> float:
        """Elements after `tokens`: linear between rows (exact for full attention); beyond them linear, or a·t^g."""
        t, s = self.tokens, self.elements
        if tokens <= t[-1]:
            return float(np.interp(tokens, t, s))
        if self.exponent == 1:
            return float(s[-1] + (s[-1] - s[-2]) / (t[-1] - t[-2]) * (tokens - t[-1]))
        return float(s[-1] * (tokens / t[-1]) ** self.exponent)


def read_states(path: Path) -> list[State]:
    """The models of state.csv in its order. UserError: columns missing, bad numbers, a row twice, or see `_state`."""
    table = read_csv(path, STATE, STATE_REMEDY, STATE[2:])
    sensible = (table[STATE[2:]] >= [1, 0, 0]) & (table[STATE[2:]] <= [1e18, 1e30, 2])
    if table.empty or not sensible.all(axis=None) or table.duplicated(STATE[:3]).any():
        raise UserError(f"{path} has no rows, a number that no model has, or one row twice: {STATE_REMEDY}")
    return [_state(path, model, rows) for model, rows in table.groupby("model", sort=False)]


def _state(path: Path, model: str, rows: pd.DataFrame) -> State:
    """The state of one model. UserError: layer kinds with different contexts, only one context, or a window that is not
    full at the last context, so that its size beyond is unknown.
    """
    parts = rows[rows["layer_kind"] != "total"]
    rows = parts if len(parts) else rows  # a table written by hand may have only totals
    sizes = rows.pivot(index="context_tokens", columns="layer_kind", values="state_elements").sort_index()
    if len(sizes) < 2 or sizes.isna().any(axis=None):
        raise UserError(f"{path}: the layer kinds of {model} do not share two or more contexts: {STATE_REMEDY}")
    growth = rows.groupby("layer_kind")["growth_exponent"].max()
    constant = growth.index[growth == 0]
    if (sizes[constant].iloc[-1] != sizes[constant].iloc[-2]).any():
        raise UserError(f"{path}: a window of {model} is not full at its last context: give state_size.py longer ones")
    growing = growth.index[growth > 0]
    if not len(growing):
        group = "bounded"
    elif growth.max() < 1:
        group = "sublinear"
    elif len(constant):
        group = "hybrid"
    else:
        group = "latent attention" if any("latent" in kind for kind in growing) else "full attention"
    return State(model, group, growth.max(), sizes.index.to_numpy(float), sizes.sum(axis=1).to_numpy())


def linear(path: Path) -> float:
    """I(L/2; L) divided by the rank of Cov(X, Y), in nats, at the longest L of capacity.csv. UserError: a bad file."""
    remedy, columns = "make it with python gaussian_synthetic/capacity.py", ["L", "mi_nats", "rank"]
    table = read_csv(path, columns, remedy, columns)
    longest = (table["mi_nats"] / table["rank"])[table["L"] == table["L"].max()].dropna()
    nats = longest.iloc[0] if len(longest) else math.nan
    if not 0 < nats < math.inf:
        raise UserError(f"{path} has no row with mi_nats and rank above 0: {remedy}")
    return float(nats)


def max_context(law: ScalingLaw, state: State, nats: float, vocabulary: int) -> float:
    """The L beyond which the law requires more than the state after L/2 tokens holds; NaN: at every L of its table."""
    if state.exponent >= law.beta:
        return math.inf

    def surplus(x: float) -> float:
        held = nats * state.size(math.exp(x) / 2) + math.log(vocabulary)
        return math.log(max(held, 1e-300) / law.A) - law.beta * x

    held = [x for x in np.log(2 * state.tokens) if surplus(x) >= 0]
    if not held:
        return math.nan
    return math.inf if surplus(300.0) > 0 else math.exp(brentq(surplus, held[-1], 300.0, xtol=1e-13))  # 10^130 tokens


def condition(cfg: Settings, laws: list[ScalingLaw], capacities: dict[str, float]) -> pd.DataFrame:
    """The rows of condition.csv. UserError: --wanted is below twice the first context of a model."""
    rows, ln_M = [], math.log(cfg.vocabulary)
    for state, law in itertools.product(read_states(cfg.state), laws):
        if cfg.wanted < 2 * state.tokens[0]:
            raise UserError(f"--wanted {cfg.wanted}: {cfg.state} begins at L = {2 * state.tokens[0]:g} tokens")
        elements, needs = state.size(cfg.wanted / 2), [law.mi(cfg.wanted, side) for side in SIDES]
        low, high = needs[:1] * 2 if math.isnan(law.half_beta) else needs[1:]
        exponents = (law.beta, law.beta - law.half_beta, law.beta + law.half_beta, state.exponent)
        for capacity, nats in capacities.items():
            holds, most = nats * elements + ln_M, max_context(law, state, nats, cfg.vocabulary)
            enough = "yes" if holds >= high else "no" if holds < low else "undecided"
            row = (state.model, state.group, law.name, *exponents, law.verdict(state.exponent), capacity, nats, most)
            rows.append((*row, cfg.wanted, *needs, elements, holds, enough))
    return pd.DataFrame(rows, columns=CONDITION)


def required(cfg: Settings, laws: list[ScalingLaw], capacities: dict[str, float]) -> pd.DataFrame:
    """The rows of required.csv, at LENGTHS and --wanted: the smallest dim(z) for C · dim(z) + ln M >= I(L/2; L)."""
    rows = []
    for law, (capacity, nats), L in itertools.product(laws, capacities.items(), sorted(LENGTHS | {cfg.wanted})):
        needs = [law.mi(L, side) for side in SIDES]
        elements = [np.maximum(mi - math.log(cfg.vocabulary), 0) / nats for mi in needs]
        rows.append((law.name, law.A, law.beta, L, *needs, capacity, nats, *elements))
    return pd.DataFrame(rows, columns=REQUIRED)


def report(cfg: Settings, laws: list[ScalingLaw], table: pd.DataFrame) -> None:
    for law in laws:
        counts = table[table["law"] == law.name].drop_duplicates("model")["verdict"].value_counts()
        said = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
        far = f", extrapolated from L = {law.L_max:g}" if cfg.wanted > law.L_max else ""
        nats = f"{law.mi(cfg.wanted):,.0f} nats at {cfg.wanted:,} tokens{far}"
        print(f"{law.name}: {law.A:.3g} · L^{law.beta:.2f}, {nats}: {said}")


def main(cfg: Settings) -> None:
    laws = [ScalingLaw(name, *parameters) for name, parameters in PAPER.items()]
    laws += [read_law(path, cfg.estimator) for path in cfg.fit]
    names = [law.name for law in laws]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"two laws are called {twice.pop()}: give each corpus once, or rename its source in fit.csv")
    capacities = {f"{cfg.bits_per_element:g} bits": cfg.bits_per_element * math.log(2)}
    capacities |= {f"{nats:g} nat{'s' * (nats != 1)}": nats for nats in cfg.nats_per_element}
    if cfg.capacity is not None:
        capacities["linear"] = linear(cfg.capacity)
    table, needs = condition(cfg, laws, capacities), required(cfg, laws, capacities)
    inputs = [cfg.state, *cfg.fit, *filter(None, [cfg.capacity])]
    write_csv(cfg.out / "required.csv", needs, cfg, inputs)
    write_csv(cfg.out / "condition.csv", table, cfg, inputs)
    report(cfg, laws, table)
    print(f"wrote condition.csv and required.csv into {cfg.out}")


if __name__ == "__main__":
    run(main, Settings, __doc__)
