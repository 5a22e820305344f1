"""The claims of the paper with our numbers and verdicts: committed CSVs → claims.csv and tables in two pages.

    python docs/claims.py

Each claim is a function below, which derives the verdict from the CSVs in results/ that the figures are drawn from.
Writes claims.csv, one row per claim, and Markdown tables between two marker comments of a page: the reasons into
docs/claims.md, all else into README.md. Columns:
    claim, paper     what the paper says, and its number
    ours             our number from the committed results, with its 95% interval where there is one
    verdict, reason  `reproduced`, `contradicted` or `not decided here`, and why
    figure, picture, source    where the paper makes the claim, our picture of it, the CSVs that were read

An exponent is `reproduced` if a power law fits all lengths (p >= 0.05) and its 95% interval includes the paper's value
and is at most ± NARROW, else `not decided here`: the paper's own model is 3,000 times larger, and the short memory of a
small one changes the law. A two-point exponent is also not decided if the paper's fit and the joint fit disagree. A
claim about models trained on books must hold at the ends of both of the last two cosines of training, with two seeds
or more of each model. One CPU core, a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from common.cli import UserError, run
from common.powerlaw import ACCEPTED, PAPER_LAWS
from common.record import ROOT, replace_text, write_csv
from gaussian_synthetic.collapse import NEGLIGIBLE

BEGIN, END = "<!-- claims: written by docs/claims.py -->", "<!-- end of claims -->"
REPRODUCED, CONTRADICTED, UNDECIDED = "reproduced", "contradicted", "not decided here"
FAMILIES = [f"{name}/{table}" for name in ("subvolume", "logarithmic") for table in ("two_point", "gaussian_mi")]
NARROW = 0.1  # half the width of the interval of an exponent that can be reproduced
DIRECT, VCLUB, ALPHA = (PAPER_LAWS[name][1] for name in ("direct", "vclub", "two_point"))  # exponents
COLUMNS = ["claim", "paper", "ours", "verdict", "reason", "figure", "picture", "source"]
RULES: list[tuple[Callable[..., tuple[str, str, str]], str, str, str, str]] = []  # rule, paper, figure, picture, source


@dataclass(frozen=True)
class Settings:
    out: Path = ROOT / "results/claims.csv"  # table to write, with its .json beside it
    page: Path = ROOT / "README.md"  # page for the claims; both pages need the two marker comments
    reasons: Path = ROOT / "docs/claims.md"  # page for the reasons


def claim(figure: str, picture: str, *sources: str, paper: str = "–") -> Callable:
    """Register a function as a row: its docstring is the claim, it takes the sources, tables of results/, and returns
    ours, verdict and reason. picture, sources: without suffix."""

    def add(rule: Callable[..., tuple[str, str, str]]) -> Callable:
        names = " ".join(f"{name}.csv" for name in sources)
        RULES.append((rule, paper, figure, f"results/{picture}.png", names))
        return rule

    return add


class Number(NamedTuple):
    value: float
    lo: float
    hi: float
    p_value: float = math.nan

    def __format__(self, decimals: str) -> str:
        """The value with its interval. decimals: such as "4", or "" for 2."""
        value, lo, hi = (f"{x:,.{decimals or 2}f}".replace("-", "−") for x in self[:3])
        return f"{value} [{lo}, {hi}]"

    def overlaps(self, other: Number) -> bool:
        return self.lo <= other.hi and other.lo <= self.hi

    @property
    def fits(self) -> bool:
        """Whether its law is accepted; with a p-value of NaN it is not."""
        return self.p_value >= ACCEPTED

    @property
    def narrow(self) -> bool:
        return self.hi - self.lo <= 2 * NARROW

    @property
    def p(self) -> str:
        return "p < 0.001" if self.p_value < 0.001 else f"p = {self.p_value:.2g}"


def fitted(table: pd.DataFrame, parameter: str, law: str, estimator: str, ratio: float = 0) -> Number:
    """A parameter of fit.csv with the interval from resampled books, and the p-value of its law. ratio: L/ℓ."""
    rows = table[(table["parameter"] == parameter) & (table["law"] == law) & (table["estimator"] == estimator)]
    (row,) = (rows[rows["L_over_ell"] == ratio] if ratio else rows).to_dict("records")
    return Number(row["value"], row["boot_lo95"], row["boot_hi95"], row["p_value"])


def of_exponent(number: Number, paper: float, reason: str) -> tuple[str, str]:
    """Verdict and reason for an exponent, see the top of the file. reason: the reason if no power law fits."""
    if not number.fits:
        return UNDECIDED, reason
    return decided(number.lo <= paper <= number.hi and number.narrow), f"the law fits ({number.p})"


def decided(reproduced: bool, otherwise: str = UNDECIDED) -> str:
    return REPRODUCED if reproduced else otherwise


@claim("C.6", "figC6/figC6", "figC6/subvolume/fit", paper="β = 0.79")
def subvolume_grows(fit):
    """I(L/2; L) of the Gaussian sub-volume family grows as L^β"""
    last = fit[fit["law"] == "local_power"].iloc[-1]
    ours = f"β = {last['value']:.4f} at L = {last['L_max']:,.0f}; log₄ 3 = {math.log(3, 4):.4f}"
    return ours, decided(round(last["value"], 2) == 0.79, CONTRADICTED), "exact, no sampling"


def halves(mi: pd.DataFrame) -> pd.Series:
    """I(L/2; L) in nats by L."""
    return mi[mi["L"] == 2 * mi["ell"]].set_index("L")["mi_nats"]


@claim("C.6", "figC6/figC6", "figC6/logarithmic/fit", "figC6/logarithmic/gaussian_mi")
def logarithmic_grows(fit, mi):
    """I(L/2; L) of the logarithmic family grows as a logarithm"""
    slope = fit.set_index(["law", "parameter"])["value"]["logarithm_ols", "B"]
    steps = halves(mi).diff()
    steady = abs(steps.iloc[-1] / steps.iloc[-2] - 1) < 0.001
    ours = f"{slope:.4f} · ln L: {steps.iloc[-1]:.4f} nats each time L is multiplied by 4"
    return ours, decided(steady, CONTRADICTED), "exact"


@claim("C.6", "figC6/figC6", *(f"figC6/{name}" for name in FAMILIES))
def families_differ(ends, mi, ends_of_log, mi_of_log):
    """The two families agree in two-point information and differ in bipartite information"""
    ends, ends_of_log = (table.set_index("L")["mi_nats"] for table in (ends, ends_of_log))
    differ = ((ends - ends_of_log).abs() / ends).max()
    longest, large, small = halves(mi).index[-1], halves(mi).iloc[-1], halves(mi_of_log).iloc[-1]
    ours = f"at L = {longest:,}: {large:,.0f} and {small:.2f} nats; "
    ours += f"first and last position: equal to 1 part in 10^{math.floor(-math.log10(differ))}"
    verdict = decided(differ < 1e-6 and large > 10 * small, CONTRADICTED)
    return ours, verdict, "exact; other pairs of positions than the first and last differ"


def bipartite(fit: pd.DataFrame, estimator: str = "direct", ratio: float = 2) -> Number:
    return fitted(fit, "beta", "power", estimator, ratio)


def exponents(models: pd.DataFrame, quantity: str, estimator: str = "direct") -> dict[str, Number]:
    """`quantity` (beta or beta_long) of each model in models.csv."""
    rows = models[(models["quantity"] == quantity) & (models["estimator"] == estimator)]
    return {
        row.model.split(".Q")[0].removesuffix("-Instruct"): Number(row.value, row.lo95, row.hi95, row.p_value)
        for row in rows.itertuples()
    }


def no_law(beta: Number, whole_books: pd.DataFrame, estimator: str) -> str:
    """Why an exponent of the books is not decided. beta: that of SmolLM2 on all texts."""
    bends = exponents(whole_books, "bend", estimator).values()
    curved = "for every model" if min(one.lo for one in bends) > 0 else "not for every model"
    reason = f"SmolLM2 (135M) gives no power law ({beta.p}); on the twelve books alone, without addresses, "
    least = min(bends, key=lambda one: one.value)
    return reason + f"the exponent falls with L {curved}, by {least} or more each time L doubles"


@claim("2b", "figB1/exponent", "fig2b/fit", "figB1/whole_books/models", paper=f"β = {DIRECT}")
def direct_of_books(fit, whole_books):
    """I(L/2; L) of books grows as L^β, direct estimator"""
    beta = bipartite(fit)
    return f"β = {beta}", *of_exponent(beta, DIRECT, no_law(beta, whole_books, "direct"))


@claim("2b", "figB1/exponent", "fig2b/fit", "figB1/whole_books/models", paper=f"β = {VCLUB}")
def vclub_of_books(fit, whole_books):
    """The same, vCLUB estimator"""
    beta = bipartite(fit, "vclub")
    return f"β = {beta}", *of_exponent(beta, VCLUB, no_law(beta, whole_books, "vclub"))


@claim("B.1", "figB1/figB1", "figB1/wikipedia/SmolLM2-135M/fit", "figB1/wikipedia/models")
def other_corpus(fit, models):
    """The law holds on Wikipedia too"""
    beta = bipartite(fit)
    long = ", ".join(f"{of} ({model})" for model, of in exponents(models, "beta_long").items())
    reason = "" if beta.fits else f"no power law ({beta.p}); from L = 256 on β = {long}"
    return f"direct β = {beta}", decided(beta.fits and beta.narrow), reason


@claim("B.2", "figB2/figB2", "fig2b/fit")
def other_cuts(fit):
    """The law holds at L = 3ℓ and 4ℓ too"""
    two, three, four = (bipartite(fit, ratio=ratio) for ratio in (2, 3, 4))
    good = all(beta.fits and beta.narrow and beta.overlaps(two) for beta in (three, four))
    reason = f"at 2ℓ β = {two}" + "; no power law fits" * (not (three.fits or four.fits))
    return f"direct β = {three} and {four}", decided(good), reason


@claim("B.3", "figB3/figB3", "fig2b/bipartite", "fig2b/fit")
def correction(points, fit):
    """The 2-gram correction changes I at small L only"""
    points = points[points["L_tokens"] == 2 * points["ell_tokens"]]
    mi = points.pivot_table(index="L_tokens", columns="estimator", values="mi_nats")
    change = 100 * (mi["direct"] - mi["direct_corrected"]).abs() / mi["direct"]
    first, last = change.iloc[[0, -1]]
    ours = f"by {first:.0f}% at L = {change.index[0]:,} and by {last:.1f}% at {change.index[-1]:,}"
    weighted, line = (
        [fitted(fit, "beta", law, name, 2) for name in ("direct", "direct_corrected")] for law in ("power", "power_ols")
    )
    reason = f"the exponent changes: β goes from {weighted[0]} to {weighted[1]}, that of the paper's fit without "
    reason += f"weights, in which small L count more, from {line[0]} to {line[1]}"
    return ours, decided(first > 20 and last < 5, CONTRADICTED), reason


@claim("App. B.III", "calibration/calibration", "calibration/santa_fe_b0.75_e0.1/coverage")
def estimators_underestimate(coverage):
    """Both estimators underestimate β"""
    exact = coverage.query("predictor == 'exact' and n_documents == 1000 and quantity == 'beta_gls'")
    slope, true = exact.set_index("estimator")["mean"], exact["truth"].iloc[0]
    ours = f"with the exact predictor of a known process: direct {slope['direct']:.2f}, vCLUB {slope['vclub']:.2f}, "
    faulty = coverage.query("predictor != 'exact' and quantity == 'beta_gls'").pivot(
        index="predictor", columns="estimator", values="mean"
    )
    above, memory = (faulty["vclub"] > true + 0.01).sum(), faulty.loc["limited_context"]
    reason = f"vCLUB overestimates β with the exact predictor and with {above} of {len(faulty)} faulty ones; with a "
    reason += f"memory of 64 tokens vCLUB gives {memory['vclub']:.2f} and direct {memory['direct']:.2f}; which of "
    reason += "the two decides on text is not known"
    return ours + f"true β {true:.2f}", decided(above == 0 and slope["vclub"] <= true + 0.01), reason


def two_point(fit: pd.DataFrame, law: str = "paper_eq_b15", parameter: str = "alpha") -> Number:
    return fitted(fit, parameter, law, "grassberger")


def tested(ranges: pd.DataFrame) -> tuple[bool, str]:
    """Whether A d^−α + C, weighted by the books' errors, is accepted on the longest range that can be tested, as text
    with that range and p."""
    rows = ranges[(ranges["law"] == "power_plus_constant") & (ranges["parameter"] == "alpha")].dropna(subset="p_value")
    row = rows.sort_values("L_max").iloc[-1]
    law = Number(0, 0, 0, row["p_value"])
    return law.fits, f"{'accepted' if law.fits else 'rejected'} to d = {row['L_max']:,.0f} ({law.p})"


VOCABULARIES = ("fig2c", "fig2c/tokens_1024")


@claim(
    "2c", "figB4/ranges", *(f"{of}/{name}" for name in ("fit", "ranges") for of in VOCABULARIES), paper=f"α = {ALPHA}"
)
def two_point_of_books(fit, fit_of_many, ranges, ranges_of_many):
    """Two-point information of books falls as d^−α"""
    few, joint = two_point(fit), two_point(fit, "power_plus_constant")
    ours = f"the paper's fit: α = {few} (vocabulary of 384) and {two_point(fit_of_many)} (vocabulary of 1,024); "
    ours += f"joint fit: {joint} (vocabulary of 384)"
    if joint.overlaps(few):
        return ours, *of_exponent(few._replace(p_value=joint.p_value), ALPHA, "no power law fits")
    by_end = ranges[(ranges["law"] == "paper_eq_b15") & (ranges["parameter"] == "alpha") & (ranges["L_max"] >= 64)]
    ends = [f"{row.value:.2f} (to {row.L_max:,.0f})" for row in by_end.iloc[[0, -1]].itertuples()]
    reason = f"our tokens are parts of words; the paper's fit depends on its last distance, {' to '.join(ends)}; "
    reason += f"the joint fit is {tested(ranges)[1]}, with a vocabulary of 1,024 {tested(ranges_of_many)[1]}, the "
    reason += "furthest that 12 books can test"
    return ours, UNDECIDED, reason


@claim("B.4", "figB4/figB4", "fig2c/ranges", "figB4/wikipedia/ranges", "figB4/wikipedia/fit")
def two_point_of_both(of_books, of_articles, fit):
    """Both corpora follow a power law in d"""
    (one, of_books), (other, of_articles) = tested(of_books), tested(of_articles)
    reason = f"the joint fit is {of_books} on books and {of_articles} on Wikipedia; vocabulary of 384"
    return f"Wikipedia: α = {two_point(fit)}; books as above", decided(one and other), reason


CORPORA = {"fig2c": "books, 384 tokens", "fig2c/tokens_1024": "books, 1,024", "figB4/wikipedia": "Wikipedia, 384"}


@claim("B.5", "figB5/figB5", *(f"{folder}/{name}" for name in ("fit", "two_point") for folder in CORPORA))
def plateau(*tables):
    """The bias of counting adds a plateau C, which is subtracted"""
    fits, points = tables[: len(CORPORA)], tables[len(CORPORA) :]
    C = [two_point(fit, parameter="C") for fit in fits]
    last = [table[table["estimator"] == "grassberger"].iloc[-1] for table in points]
    share = [row["independent_nats"] / row["mi_nats"] for row in last]
    each = [f"{100 * part:.0f}% ({name})" for part, name in zip(share, CORPORA.values(), strict=True)]
    reason = f"at the largest d, counting bias (Î of independent pairs with the same tokens) is {', '.join(each)} of "
    reason += "Î; the rest arises because texts differ in how often they use each word"
    seen = min(one.lo for one in C) > 0
    return f"C = {C[0]:4} nats (books), {C[2]:4} (Wikipedia)", decided(seen and min(share) > 0.5), reason


def by_length(summary: pd.DataFrame, column: str, over_seeds: str = "mean") -> pd.DataFrame:
    """A column of summary.csv: one row per model, one column per length; over_seeds: "mean", "min" or "max"."""
    return summary.pivot_table(index="model", columns="L", values=column, aggfunc=over_seeds)


def listed(values: pd.Series) -> str:
    return ", ".join(f"{value:.2g}" if value < 0.1 else f"{value:.2f}" for value in values)


FLAT = 0.98  # share of I(L/2; L) that a model with a flat KL keeps


@claim("3a", "fig3/fig3", "fig3/summary")
def attention_is_flat(summary):
    """GPT2's KL is flat in L"""
    kl, used = by_length(summary, "mean_kl_nats").loc["gpt2-128"], by_length(summary, "utilisation", "min")
    least, share = used.loc["gpt2-128"].min(), (kl / by_length(summary, "mean_kl_nats").loc["independent"]).max()
    ours = f"KL per token at L = {', '.join(map(str, kl.index))}: {listed(kl)} nats, which is "
    ours += f"at most {100 * share:.2f}% of what ignoring the past costs"
    reason = f"it loses at most {100 * (1 - least):.1f}% of I(L/2; L) at any length and seed, and up to "
    reason += f"{100 * (1 - FLAT):.0f}% counts as flat"
    return ours, decided(least >= FLAT), reason


@claim("3a, b", "fig3/fig3", "fig3/summary")
def fixed_states_grow(summary):
    """The KL of small fixed states grows with L"""
    worst, best = by_length(summary, "mean_kl_nats", "max").iloc[:, 0], by_length(summary, "mean_kl_nats", "min")
    last = best.columns[-1]
    bound = summary[(summary["L"] == last) & (summary["frontier_lo_nats"] > 0)]["model"].unique()
    growth, used = (best[last] / worst)[bound], by_length(summary, "utilisation", "max")[last][bound]
    kl, size = by_length(summary, "mean_kl_nats"), summary.drop_duplicates("model").set_index("model")["state_size"]
    states = kl.index[kl.index.str.startswith("mamba2")].sort_values(key=lambda names: size[names])
    small, large = states[1], states[-1]
    ours = f"Mamba2 of {size[small]:,.0f} elements: {listed(kl.loc[small])}; the largest fixed state, of "
    ours += f"{size[large]:,.0f}, stays at or below {kl.loc[large].max():.2g}"
    done = summary[summary["L"] == last].groupby("model")["converged"].all()
    floor = NEGLIGIBLE * kl.loc["independent", last]  # a KL below this says nothing about the state
    ordered = kl.loc[[name for name in states if done[name]], last].clip(lower=floor).is_monotonic_decreasing
    reason = f"from L = {worst.name} to {last} at least {growth.min():.2g} times where the rank exceeds the state, "
    reason += f"Mamba2 at least {growth.filter(like='mamba2').min():.0f} times, all seeds; the utilisation of "
    reason += f"these states at {last} is at most {used.max():.2f}; ".replace("-", "−")
    reason += f"the converged sizes of Mamba2 are {'' if ordered else 'not '}in the order of their KL at {last}, where "
    reason += f"that is above {100 * NEGLIGIBLE:g}% of what ignoring the past costs"
    return ours, decided(growth.min() > 1 and used.max() < FLAT and ordered), reason


@claim("3c", "fig3/fig3", "fig3/collapse")
def one_curve(collapse):
    """The KL of all sizes and lengths falls on one curve in I/dim(z)"""
    rows = collapse[(collapse["left_out"] == "cell") & (collapse["degree"] == 2)]
    rows = rows.set_index(["kl_of", "cells_of", "predictor"])[["explained", "lo95", "hi95", "residual_sd"]]
    ours, linear = (rows.loc[(*of, "mi_per_state")] for of in (("trained", "converged"), ("linear", "all")))
    shown = [
        f"{Number(*of[:3])} of the variance of ln KL (scatter: a factor of {math.exp(of.residual_sd):.1f})"
        for of in (ours, linear)
    ]
    better = {}
    for cells in ("all", "converged"):
        others = [("trained", cells, f"mi_per_state − {name}") for name in ("L", "state_size", "parameters")]
        better[cells] = bool((rows.loc[others, "lo95"] > 0).all())
    clear = {True: "clearly more", False: "not clearly more"}
    reason = f"{clear[better['all']]} than a curve in L, in the state or in the parameters on all cells, "
    reason += f"{clear[better['converged']]} on the converged ones; best linear states: {shown[1]}, "
    return f"I/dim(z) explains {shown[0]}", decided(all(better.values())), reason + "which bounds linear states only"


REACH = 64  # tokens: a gain from context further back needs memory
SETTLED = 0.02  # share of the loss: if the last restart lowers it by less, models have learnt what they can
SIZES = {"small": "1.1M", "medium": "3.7M"}  # parameters of GPT-NeoX
BOOKS = ["fig4/token_gaps", "fig4/tokens"]
LOSS, GAIN = ["gap_nats", "lo95", "hi95"], ["gain_gap_nats", "gain_gap_lo95", "gain_gap_hi95"]
GREW = ["gain_gap_grew_nats", "gain_gap_grew_lo95", "gain_gap_grew_hi95"]


def after_training(token_gaps: pd.DataFrame, last: int, columns: list[str]) -> dict[str, list[Number]]:
    """GPT-NeoX minus Mamba2 in the doubling that ends at position `last`, by size, at the ends of the last two cosines
    of training. columns: LOSS, GAIN or GREW; in nats per byte."""
    rows = token_gaps[token_gaps["last"] == last].sort_values("tokens").set_index("model_b")[columns]
    return {size: [Number(*row) for row in rows.loc[f"mamba2-mini-{size}"].tail(2).to_numpy()] for size in SIZES}


def seeds(token_gaps: pd.DataFrame) -> dict[str, int]:
    """The number of seeds of each size, or the smaller one of the two models."""
    least = token_gaps.set_index("model_b")[["seeds_a", "seeds_b"]].min(axis=1)
    return {size: int(least[[f"mamba2-mini-{size}"]].min()) for size in SIZES}


def several(token_gaps: pd.DataFrame) -> bool:
    """Whether every model has two seeds or more."""
    return min(seeds(token_gaps).values()) > 1


def by_size(found: dict[str, list[Number]], token_gaps: pd.DataFrame) -> str:
    """The intervals of models with one seed are over books alone, so they are too short."""
    number = seeds(token_gaps)
    said = {size: SIZES[size] + ", one seed" * (number[size] == 1) for size in SIZES}
    return ", ".join(f"{found[size][-1]:4} ({said[size]})" for size in SIZES)


def falling(tokens: pd.DataFrame) -> tuple[bool, str]:
    """Whether a loss fell by SETTLED or more in the last restart, and a text on how much the losses fell."""
    last = tokens.groupby("model").tail(1)
    percent = 100 * last["fell_nats"] / (last["nats_per_unit"] + last["fell_nats"])
    said = f"the last restart, over half of the training, lowered the losses by {percent.min():.1f} to "
    said += f"{percent.max():.1f}%"
    return percent.max() >= 100 * SETTLED, said


@claim("4, G.9", "fig4/fig4", *BOOKS)
def who_leads(token_gaps, tokens):
    """Mamba leads at early positions, GPT2 at late ones"""
    early, late = (after_training(token_gaps, last, LOSS) for last in (16, token_gaps["L"].max()))
    all_early, all_late = ([gap for size in SIZES for gap in of[size]] for of in (early, late))
    as_said = all(gap.lo > 0 for gap in all_early) and all(gap.hi < 0 for gap in all_late)
    otherwise = any(all(gap.hi < 0 for gap in early[size]) or all(gap.lo > 0 for gap in late[size]) for size in SIZES)
    falls, said = falling(tokens)
    ours = f"loss(GPT-NeoX) − loss(Mamba2), last half of the positions: {by_size(late, token_gaps)} nats per byte"
    verdict = decided(as_said, CONTRADICTED if otherwise and not falls else UNDECIDED)
    return (
        ours,
        verdict if several(token_gaps) else UNDECIDED,
        f"at positions 9 to 16: {by_size(early, token_gaps)} nats per byte; {said}",
    )


@claim("4, G.9", "fig4/fig4", *BOOKS)
def gap_closes(token_gaps, tokens):
    """The gap closes as models grow"""
    late = after_training(token_gaps, token_gaps["L"].max(), LOSS)
    pairs = list(zip(late["small"], late["medium"], strict=True))
    closes = all(small.hi < 0 and small.hi < medium.lo and abs(medium.value) < -small.value for small, medium in pairs)
    reason = falling(tokens)[1] if pairs[-1][0].hi < 0 else "there is no lead of the transformer to close"
    return "as above", decided(closes and several(token_gaps)), reason


@claim("4, G.9", "fig4/fig4", "fig4/token_gaps", "fig4/addresses/token_gaps")
def flattens(token_gaps, of_addresses):
    """Mamba's curve flattens"""
    last = token_gaps["L"].max()
    more, grew = (after_training(token_gaps, last, columns) for columns in (GAIN, GREW))
    there = after_training(of_addresses, last, GREW)
    ours = f"gain from context more than {REACH} tokens back, GPT-NeoX − Mamba2, last half: "
    ours += f"{by_size(more, token_gaps)} nats per byte"
    longer = all(gap.lo > 0 for each in (*grew.values(), *there.values()) for gap in each)
    reason = f"from positions {2 * REACH + 1} to {4 * REACH} to the last half the difference in gain grows by "
    reason += f"{by_size(grew, token_gaps)}, on the addresses by {by_size(there, token_gaps)}"
    return ours, decided(longer and several(token_gaps)), reason


@claim("Sec. 5", "condition/condition", "condition/condition")
def condition(verdicts):
    """Bounded states violate the L²M condition; full attention satisfies it"""
    each = verdicts.groupby("model")["verdict"].agg(lambda column: "/".join(sorted(set(column))))
    group = verdicts.drop_duplicates("model").set_index("model")["group"]
    same = (each[group.isin(["full attention", "latent attention"])] == "satisfies").all()
    same &= (each[group == "bounded"] == "violates").all()
    found = [f"{len(of)} {name}: {'/'.join(sorted(set(of)))}" for name, of in each.groupby(group)]
    ours = f"published models, under each of {verdicts['law'].nunique()} laws: {'; '.join(found)}"
    return ours, decided(same, CONTRADICTED), "counted from configurations"


@claim("Sec. 5", "condition/condition", "condition/required", paper="> 60,000 nats")
def million_tokens(required):
    """A million tokens hold more than 60,000 nats"""
    wanted = required.query("L_tokens == 1_000_000").drop_duplicates("law").set_index("law")
    own = Number(*wanted.loc["books-direct", ["mi_nats", "mi_lo95", "mi_hi95"]])
    direct, vclub = wanted["mi_nats"][["paper-direct", "paper-vclub"]]
    ours = f"{direct:,.0f} and {vclub:,.0f} by the paper's laws; {own:0} by ours"
    return ours, decided(own.lo > 60_000), "extrapolated, and our law does not fit"


def claims() -> pd.DataFrame:
    """One row per claim: reproduced, contradicted, then undecided ones, each in the order of the functions above."""
    rows = []
    for rule, paper, figure, picture, source in RULES:
        tables = [pd.read_csv(ROOT / "results" / name) for name in source.split()]
        rows.append((rule.__doc__, paper, *rule(*tables), figure, picture, source))
    order = [REPRODUCED, CONTRADICTED, UNDECIDED].index
    return pd.DataFrame(sorted(rows, key=lambda row: order(row[3])), columns=COLUMNS)


def front(table: pd.DataFrame) -> str:
    """Text for README.md: a sentence with the counts, and the table of claims without reasons."""
    counts = table["verdict"].value_counts().reindex([REPRODUCED, CONTRADICTED, UNDECIDED], fill_value=0)
    lines = [
        f"Of {len(table)} claims, {counts[REPRODUCED]} are reproduced, "
        f"{counts[CONTRADICTED] or 'none is'} contradicted, and {counts[UNDECIDED]} are not decided here, mostly "
        "because the models and texts that two CPU cores can handle are too small.",
        "",
        "| claim of the paper | paper | ours [95% interval] | verdict | figure |",
        "|---|---|---|---|---|",
    ]
    for one in table.itertuples():
        lines.append(f"| {one.claim} | {one.paper} | {one.ours} | {one.verdict} | [{one.figure}]({one.picture}) |")
    return "\n".join(lines)


def reasons(table: pd.DataFrame) -> str:
    """Text for docs/claims.md: a table of the reasons, and of the CSVs that decide."""
    lines = ["| claim of the paper | verdict | why | decided by, in `results/` |", "|---|---|---|---|"]
    for one in table.itertuples():
        sources = ", ".join(f"[`{name}`](../results/{name})" for name in one.source.split())
        lines.append(f"| {one.claim} | {one.verdict} | {one.reason} | {sources} |")
    return "\n".join(lines)


def on_page(text: str, table: str, page: Path) -> str:
    """The page with `table` between the markers. UserError: a marker is missing or occurs twice."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise UserError(f"{page} needs one line {BEGIN!r} and one line {END!r}: put them where the table belongs")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}"


def main(cfg: Settings) -> None:
    table = claims()
    pages = {
        page: on_page(page.read_text(encoding="utf-8"), text, page)
        for page, text in ((cfg.page, front(table)), (cfg.reasons, reasons(table)))
    }
    sources = sorted({ROOT / "results" / name for names in table["source"] for name in names.split()})
    write_csv(cfg.out, table, cfg, sources)
    for page, text in pages.items():
        replace_text(page, text)
    print(f"{len(table)} claims: wrote {cfg.out} and the tables of {cfg.page} and {cfg.reasons}")


if __name__ == "__main__":
    run(main, Settings, __doc__)
