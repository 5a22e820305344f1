r"""Which history states are large enough for a law of I(L/2; L) (Sec. 5: Theorem 5.2, L²M condition).

    python l2m_condition/state_size.py --out results/mine/state.csv
    python l2m_condition/required_state.py --state results/mine/state.csv --fit results/fig2b/fit.csv \
        --out results/mine

The law, in nats, is I(L/2; L) = A · L^β: the paper's two (`--law`), and those of fit.csv (estimate_bipartite.py) with
their intervals. It is compared with what the state after L/2 tokens can hold,
    I(L/2; L) <= C · dim(z_{L/2}) + ln M        (Theorem 5.2; M is the size of the vocabulary)
which README.md of this folder derives. C, in nats an element, is an assumption that every row names (`capacity`):
    16 bits      --bits-per-element, C = bits · ln 2: the state takes no more than 2^(bits · dim(z)) values
    bytes        --follow-bytes, the same from state.csv's state_bytes, 8 bits each
    1 nat        --nats-per-element
    measured     --state-information, the largest of state_information.csv: information per state element of models
                 trained here
A context of ℓ tokens in state.csv is the state at the cut of L = L_over_ell · ℓ tokens.

Writes into the folder --out:
    condition.csv  a row a model, law and capacity: verdict, min_context_tokens, max_context_tokens, satisfies_wanted
    capacity.csv   a row a model, L and capacity: elements of the state of L/2 tokens, and the nats that they hold
    required.csv   a row a law, L and capacity: I(L/2; L), and the smallest state, required_elements
The verdict depends on the exponents only, not on C:
    satisfies      the state grows at least as L^β: the model can satisfy the condition at every length
    violates       the state is bounded or grows more slowly: only ever larger models can satisfy it
    undecided      the interval of β contains the exponent, or the growth of the state is unknown
max_context_tokens is the length at which I(L/2; L) exceeds what the state can hold. `exceeded` says how it was found:
"at" this length, "never" (infinite), "nowhere held" (empty), or "not before" the end of the table or 10^40 tokens.

One CPU core, seconds. Expect 82,000 nats (paper-direct) and 59,000 (paper-vclub) at a million tokens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from common.cli import UserError, run
from common.record import numbers, read_csv, write_csv
from l2m_condition.tables.states import State, read_states

FIT = ["source", "estimator", "L_over_ell", "law", "parameter", "value", "lo95", "hi95", "boot_lo95", "boot_hi95"]
FIT += ["L_min", "L_max", "p_value"]
FIT_REMEDY = "make it with python measure_mutual_info/estimate_bipartite.py"
INFORMATION_REMEDY = "make it with python l2m_condition/state_information.py"
PAPER = {"paper-direct": (2.27, 0.76), "paper-vclub": (3.26, 0.71)}  # A in nats, β: Fig. 2b, without an interval
HORIZON = 1e40  # tokens up to which a crossing is looked for where the state's growth is known
SIDES = (0, -1, 1)  # of a law: its value, and the lower and upper end of its interval
NO_POWER_LAW = 0.001  # p-value of a fit below which its points are said to be none


@dataclass(frozen=True)
class Settings:
    state: Path
    """state.csv of state_size.py"""
    out: Path
    """folder for condition.csv, capacity.csv and required.csv"""
    law: tuple[Literal["paper-direct", "paper-vclub"], ...] = ("paper-direct", "paper-vclub")
    """the paper's laws to compare with; none: --law"""
    fit: tuple[Path, ...] = ()
    """fit.csv files of estimate_bipartite.py, a law each, with its interval"""
    estimator: str = "direct"
    """of fit.csv"""
    fit_law: Literal["power", "power_ols"] = "power"
    """of fit.csv: by generalised least squares, or the paper's line without weights"""
    L_over_ell: int = 2
    """the cut: information of I(ℓ; L) and state after ℓ tokens. Theorem 5.2: 2"""
    bits_per_element: float = 16.0
    """not in the paper: bits that an element of the state can hold; 16 is the size of a bfloat16"""
    follow_bytes: bool = False
    """not in the paper: add a capacity of 8 bits for each of the state's bytes"""
    nats_per_element: tuple[float, ...] = (1.0,)
    """not in the paper: further constants C"""
    state_information: Path | None = None
    """state_information.csv of state_information.py: its largest nats an element are one more C"""
    vocabulary: int = 128_256
    """M. Llama 3.1, whose tokens the paper's laws count"""
    wanted: int = 1_000_000
    """tokens: the context that a model should hold"""
    lengths: tuple[int, ...] = (*(m * 10**k for k in range(3, 7) for m in (1, 2, 5)), 10_000_000)
    """L in tokens of capacity.csv and required.csv; those under a table's first context are left out"""

    def validate(self) -> None:
        if not self.law and not self.fit:
            raise UserError("no law: give --fit fit.csv, or --law paper-direct")
        if self.law and self.L_over_ell != 2:
            raise UserError(f"--L-over-ell {self.L_over_ell}: the paper's laws are of L/2: give --law without a name")
        if self.L_over_ell < 2:
            raise UserError(f"--L-over-ell {self.L_over_ell}: give 2 or more")
        if self.bits_per_element <= 0:
            raise UserError(f"--bits-per-element {self.bits_per_element:g}: give a number above 0")
        if not all(c > 0 for c in self.nats_per_element):
            raise UserError(f"--nats-per-element {' '.join(f'{c:g}' for c in self.nats_per_element)}: all above 0")
        if self.vocabulary < 1:
            raise UserError(f"--vocabulary {self.vocabulary}: give the number of tokens, 1 or more")
        if self.wanted <= 0:
            raise UserError(f"--wanted {self.wanted}: give a context in tokens, above 0")
        if not self.lengths or min(self.lengths) <= 0:
            raise UserError("--lengths: give one or more lengths in tokens, above 0")
        if self.out.exists() and not self.out.is_dir():
            raise UserError(f"--out {self.out} is a file: give a folder")


# ---- the left side ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScalingLaw:
    """I(ℓ; L) = A · L^β in nats, with the 95% interval that the fit claims (NaN: none)."""

    name: str
    A: float
    beta: float
    half_log_A: float = math.nan
    """half the width of the interval of ln A"""
    half_beta: float = math.nan
    L_min: float = math.nan
    L_max: float = math.nan
    p_value: float = math.nan

    def mi(self, L: np.ndarray | float, side: int = 0) -> np.ndarray | float:
        """Nats at L; side −1, +1: the ends of the 95% interval.

        fit.csv has no covariance of ln A and β. In the middle of the fitted range, at x_0 in ln L, level and slope
        of a line are about independent, so that with h the half-widths and x = ln L
            h(x)² = h_lnA² − h_β² · x_0² + h_β² · (x − x_0)²
        (x_0 nearer 0 where h_lnA allows no less). Only the fit's errors: not whether the law holds so far out.
        """
        x = np.log(L)
        if not side:
            return np.exp(math.log(self.A) + self.beta * x)
        middle = min(math.log(self.L_min * self.L_max) / 2, self.half_log_A / self.half_beta) if self.half_beta else 0.0
        square = self.half_log_A**2 + self.half_beta**2 * ((x - middle) ** 2 - middle**2)
        return np.exp(math.log(self.A) + self.beta * x + side * np.sqrt(np.maximum(square, 0)))

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.half_log_A + self.half_beta)

    def exponent(self, side: int = 0) -> float:
        """β, or an end of its interval."""
        return self.beta + side * self.half_beta if side else self.beta


def paper_law(name: str) -> ScalingLaw:
    return ScalingLaw(name, *PAPER[name])


def read_law(path: Path, estimator: str, L_over_ell: int, law: str) -> ScalingLaw:
    """One power law of fit.csv; the interval of resampled books where there is one. UserError: not exactly one."""
    table = read_csv(path, FIT, FIT_REMEDY)
    for column in ("L_over_ell", "value", "lo95", "hi95", "boot_lo95", "boot_hi95", "L_min", "L_max", "p_value"):
        table[column] = numbers(table[column], path, FIT_REMEDY)
    rows = table[(table["law"] == law) & (table["estimator"] == estimator) & (table["L_over_ell"] == L_over_ell)]
    if sorted(rows["parameter"]) != ["A", "beta"]:
        has = table[["estimator", "L_over_ell", "law"]].drop_duplicates().itertuples(index=False)
        known = "; ".join(f"{row.law} of {row.estimator} at L = {row.L_over_ell:g} ell" for row in has)
        raise UserError(
            f"{path} has not one A and one beta of the law {law} of {estimator} at L = {L_over_ell} ell, "
            f"but {known or 'no rows'}: choose with --estimator, --L-over-ell, --fit-law"
        )
    rows = rows.set_index("parameter")
    A, beta = rows["value"]["A"], rows["value"]["beta"]
    if not (A > 0 and beta > 0 and math.isfinite(A * beta)):
        raise UserError(f"{path}: A = {A:g}, beta = {beta:g} of {estimator} are no law that grows: choose another")
    half = {}
    for name, scale in (("A", np.log), ("beta", np.asarray)):
        low, high = scale(rows.loc[name, ["boot_lo95", "boot_hi95"]].to_numpy(float))
        if not math.isfinite(high - low):
            low, high = scale(rows.loc[name, ["lo95", "hi95"]].to_numpy(float))
        half[name] = (high - low) / 2
    range_ = rows.loc["beta", ["L_min", "L_max", "p_value"]].astype(float)
    return ScalingLaw(f"{rows['source']['A']}-{estimator}", A, beta, half["A"], half["beta"], *range_)


# ---- the right side --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Capacity:
    """A constant C: nats for each unit of a column of state.csv."""

    name: str
    nats: float
    column: str = "state_elements"


def capacities(cfg: Settings) -> list[Capacity]:
    found = [Capacity(f"{cfg.bits_per_element:g} bits", cfg.bits_per_element * math.log(2))]
    if cfg.follow_bytes:
        found.append(Capacity("bytes", 8 * math.log(2), "state_bytes"))
    found += [Capacity(f"{nats:g} nat{'s' * (nats != 1)}", nats) for nats in cfg.nats_per_element]
    if cfg.state_information is not None:
        column = "nats_per_element"
        best = numbers(
            read_csv(cfg.state_information, [column], INFORMATION_REMEDY)[column],
            cfg.state_information,
            INFORMATION_REMEDY,
        ).max()
        if not best > 0:
            raise UserError(f"{cfg.state_information} has no {column} above 0, so no C: {INFORMATION_REMEDY}")
        found.append(Capacity("measured", float(best)))
    return found


# ---- both sides ------------------------------------------------------------------------------------------------------


def verdict(exponent: float, beta: float, low: float = math.nan, high: float = math.nan) -> str:
    """`satisfies`, `violates` or `undecided`, see above. low, high: β's interval, NaN where there is none."""
    if math.isnan(high - low):
        low = high = beta
    if exponent >= high:
        return "satisfies"
    return "violates" if exponent < low else "undecided"  # a NaN too


def holding(
    capacity: Callable[[np.ndarray], np.ndarray],
    need: Callable[[np.ndarray], np.ndarray],
    knots: Sequence[float],
    end: float,
    outgrows: bool,
) -> tuple[float, float, str]:
    """From and to which L capacity(L) >= need(L) holds, and how the end was found: `exceeded` of condition.csv.

    knots: L of the table's rows, ascending; the search begins at the first. end: L up to which the capacity is known.
    outgrows: the capacity grows at least as fast as the need. Where it holds in several stretches: the last.
    """
    horizon = min(end, HORIZON)
    L = np.unique([*np.geomspace(knots[0], horizon, 4000), *knots])
    L = L[L <= horizon]
    holds = capacity(L) >= need(L)
    if not holds.any():
        return math.nan, math.nan, "nowhere held"

    def crossing(left: int) -> float:
        low, high = L[left : left + 2]

        def excess(x: float) -> float:
            within = min(max(math.exp(x), low), high)  # rounding must not leave what the table holds
            return float(capacity(within) - need(within))

        return math.exp(brentq(excess, math.log(low), math.log(high), xtol=1e-12))

    last = int(np.flatnonzero(holds)[-1])
    failed = np.flatnonzero(~holds[:last])
    start = crossing(failed[-1]) if len(failed) else L[0]
    if last + 1 < len(L):
        return start, crossing(last), "at"
    if outgrows and math.isinf(end):
        return start, math.inf, "never"
    return start, horizon, "not before"


def condition(cfg: Settings, laws: Sequence[ScalingLaw], found: Sequence[Capacity]) -> pd.DataFrame:
    """The rows of condition.csv. UserError: --wanted lies before a table's first context."""
    states = {column: read_states(cfg.state, column) for column in dict.fromkeys(one.column for one in found)}
    rows = []
    for index, state in enumerate(states["state_elements"]):
        first = cfg.L_over_ell * state.tokens[0]
        if cfg.wanted < first:
            raise UserError(
                f"--wanted {cfg.wanted}: {cfg.state} begins at {state.tokens[0]:g} tokens for {state.model}, the state "
                f"at the cut of {first:g}: want at least these, or give state_size.py shorter contexts"
            )
        rows += [condition_row(cfg, law, one, state, states[one.column][index]) for law in laws for one in found]
    return pd.DataFrame(rows)


def condition_row(cfg: Settings, law: ScalingLaw, one: Capacity, state: State, sized: State) -> dict[str, object]:
    """sized: the same model in the capacity's own unit, elements or bytes."""
    ln_M, ratio = math.log(cfg.vocabulary), cfg.L_over_ell

    def capacity(L: np.ndarray | float) -> np.ndarray:
        return one.nats * sized.size(np.asarray(L) / ratio) + ln_M

    held = {0: (math.nan, math.nan, ""), -1: (math.nan, math.nan, ""), 1: (math.nan, math.nan, "")}
    for side in SIDES if law.has_interval else SIDES[:1]:
        outgrows = state.exponent >= law.exponent(side)
        need = partial(law.mi, side=side)
        held[side] = holding(capacity, need, ratio * sized.tokens, ratio * sized.end, outgrows)
    has, size = float(capacity(cfg.wanted)), float(state.size(cfg.wanted / ratio))
    needs = [float(law.mi(cfg.wanted, side)) for side in SIDES]
    return {
        "model": state.model,
        "group": state.group,
        "law": law.name,
        "beta": law.beta,
        "beta_lo95": law.exponent(-1),
        "beta_hi95": law.exponent(1),
        "growth_exponent": state.exponent,
        "verdict": verdict(state.exponent, law.beta, law.exponent(-1), law.exponent(1)),
        "capacity": one.name,
        "nats_per_element": (has - ln_M) / size if size else math.nan,
        "min_context_tokens": held[0][0],
        "max_context_tokens": held[0][1],
        "exceeded": held[0][2],
        "max_context_lo95": held[1][1],  # more to carry, a shorter context
        "max_context_hi95": held[-1][1],
        "wanted_tokens": cfg.wanted,
        **dict(zip(("mi_nats", "mi_lo95", "mi_hi95"), needs, strict=True)),
        "state_elements": size,
        "capacity_nats": has,
        "satisfies_wanted": _holds(has, *needs),
    }


def _holds(capacity: float, need: float, low: float, high: float) -> str:
    if math.isnan(capacity):
        return "unknown"  # beyond the table
    low, high = (need, need) if math.isnan(high - low) else (low, high)
    return "yes" if capacity >= high else "no" if capacity < low else "undecided"


def capacity_table(cfg: Settings, found: Sequence[Capacity]) -> pd.DataFrame:
    """The rows of capacity.csv, without lengths that a table does not have."""
    rows = []
    elements = read_states(cfg.state)
    for one in found:
        for state, sized in zip(elements, read_states(cfg.state, one.column), strict=True):
            for L in cfg.lengths:
                size, units = float(state.size(L / cfg.L_over_ell)), float(sized.size(L / cfg.L_over_ell))
                if not math.isnan(size):
                    nats = one.nats * units + math.log(cfg.vocabulary)
                    rows.append((state.model, state.group, L, size, one.name, nats))
    columns = ["model", "group", "L_tokens", "state_elements", "capacity", "capacity_nats"]
    return pd.DataFrame(rows, columns=columns)


def required(law: ScalingLaw, L: float, capacity: Capacity, vocabulary: int) -> tuple[float, float, float]:
    """The smallest dim(z) for C · dim(z) + ln M >= I(L/2; L), and its interval, in elements."""
    ln_M = math.log(vocabulary)
    return tuple(float(np.maximum(law.mi(L, side) - ln_M, 0)) / capacity.nats for side in SIDES)


def required_table(cfg: Settings, laws: Sequence[ScalingLaw], found: Sequence[Capacity]) -> pd.DataFrame:
    """The rows of required.csv, at --lengths and --wanted; capacities by bytes have no C that is the same for all."""
    rows = []
    for law in laws:
        for one in (one for one in found if one.column == "state_elements"):
            for L in sorted({*cfg.lengths, cfg.wanted}):
                values = {"law": law.name, "A": law.A, "beta": law.beta, "L_tokens": L}
                for name, side in zip(("mi_nats", "mi_lo95", "mi_hi95"), SIDES, strict=True):
                    values[name] = float(law.mi(L, side))
                values |= {"capacity": one.name, "nats_per_element": one.nats}
                needs = required(law, L, one, cfg.vocabulary)
                rows.append(
                    values | dict(zip(("required_elements", "required_lo95", "required_hi95"), needs, strict=True))
                )
    return pd.DataFrame(rows)


def read_laws(cfg: Settings) -> list[ScalingLaw]:
    laws = [paper_law(name) for name in cfg.law]
    laws += [read_law(path, cfg.estimator, cfg.L_over_ell, cfg.fit_law) for path in cfg.fit]
    names = [law.name for law in laws]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"two laws are called {twice.pop()}: give each corpus once, or rename its source in fit.csv")
    return laws


def report(cfg: Settings, laws: Sequence[ScalingLaw], table: pd.DataFrame, needs: pd.DataFrame) -> None:
    """What the CSVs say, for a reader of the terminal."""
    for law in laws:
        rows = needs[(needs["law"] == law.name) & (needs["L_tokens"] == cfg.wanted)]
        nats, low, high = rows.iloc[0][["mi_nats", "mi_lo95", "mi_hi95"]]
        interval = "" if math.isnan(high) else f" [{low:,.0f}, {high:,.0f}]"
        print(
            f"{law.name}: {law.A:.3g} · L^{law.beta:.2f}; {nats:,.0f}{interval} nats at {cfg.wanted:,} tokens; state:"
        )
        print("   ", ", ".join(f"{row.required_elements:,.0f} elements at {row.capacity}" for row in rows.itertuples()))
        if law.p_value < NO_POWER_LAW:
            print("    its points are no power law (p < 0.001): read it as one number among others")
        if cfg.wanted > law.L_max:
            print(f"    measured to L = {law.L_max:g}: {cfg.wanted:,} tokens are extrapolated")
    for law in laws:
        counts = table[table["law"] == law.name].drop_duplicates("model")["verdict"].value_counts()
        print(f"{law.name}: {', '.join(f'{n} {what}' for what, n in counts.items())}")
    rows = table[table["law"] == laws[0].name]
    first = rows.drop_duplicates("model").set_index("model")[["state_elements", "growth_exponent", "verdict"]]
    held = rows.pivot(index="model", columns="capacity", values="max_context_tokens").loc[first.index]
    held = held[list(dict.fromkeys(rows["capacity"]))]
    print(f"\n{laws[0].name}: state at the cut of {cfg.wanted:,} tokens, and to how many tokens the condition holds at")
    print(first.join(held).to_string(float_format=lambda value: f"{value:.4g}"))


def main(cfg: Settings) -> None:
    started = time.time()
    cfg.validate()
    laws, found = read_laws(cfg), capacities(cfg)
    inputs = [path for path in (cfg.state, *cfg.fit, cfg.state_information) if path]
    facts = {"ln_vocabulary_nats": math.log(cfg.vocabulary), "nats_per_unit": {one.name: one.nats for one in found}}
    table, needs = condition(cfg, laws, found), required_table(cfg, laws, found)
    write_csv(cfg.out / "capacity.csv", capacity_table(cfg, found), cfg, inputs, started, **facts)
    write_csv(cfg.out / "required.csv", needs, cfg, inputs, started, **facts)
    write_csv(cfg.out / "condition.csv", table, cfg, inputs, started, **facts)
    report(cfg, laws, table, needs)
    print(f"wrote {cfg.out}/condition.csv, capacity.csv, required.csv")


if __name__ == "__main__":
    run(main, Settings, __doc__)
