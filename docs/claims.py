"""The claims of the paper, our number beside each, and a verdict: committed CSVs → claims.csv and a table in README.md.

    python docs/claims.py

Reads the CSVs in results/ that the figures are drawn from. Writes claims.csv, one row for each claim:
    claim, paper     what the paper says, and its number
    ours             our number from the committed results, with its 95% interval where there is one
    verdict, reason  `reproduced`, `contradicted` or `not decided here`, and why
    figure, picture, source    where the claim stands in the paper, our picture of it, the CSVs that were read
and the same rows as a Markdown table between two marker comments of the page --page.

A verdict follows from the numbers by a rule written beside it: an exponent is `reproduced` if the power law fits
(p >= 0.05) and the 95% interval holds the paper's value, `contradicted` if the law fits and the interval does not hold
it, and `not decided here` if no power law fits, because the paper's own model is 3,000 times larger than ours.

Hardware: one CPU core, a second.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from common.cli import UserError, run
from common.record import ROOT, replace_text, write_csv

BEGIN, END = "<!-- claims: written by docs/claims.py -->", "<!-- end of claims -->"
REPRODUCED, CONTRADICTED, UNDECIDED = "reproduced", "contradicted", "not decided here"
SIGNIFICANT = 0.05
# The paper's numbers: exponents of Figs. 2b, 2c and C.6, and what its laws give at a million tokens.
PAPER = {"direct": 0.76, "vclub": 0.71, "two_point": 0.91, "subvolume": 0.79, "million": 60_000}


@dataclass(frozen=True)
class Settings:
    out: Path = ROOT / "results/claims.csv"
    """table to write; its .json lies beside it"""
    page: Path = ROOT / "README.md"
    """page that has the two marker comments"""


class Claim(NamedTuple):
    claim: str
    paper: str
    ours: str
    verdict: str
    reason: str
    figure: str
    picture: str
    source: tuple[str, ...]


class Number(NamedTuple):
    value: float
    lo: float
    hi: float
    p_value: float = math.nan
    digits: int = 2

    def __str__(self) -> str:
        shown = [f"{x:,.{self.digits}f}".replace("-", "−") for x in (self.value, self.lo, self.hi)]
        return f"{shown[0]} [{shown[1]}, {shown[2]}]"

    def overlaps(self, other: Number) -> bool:
        return self.lo <= other.hi and other.lo <= self.hi


def read(name: str) -> pd.DataFrame:
    path = ROOT / "results" / name
    if not path.is_file():
        raise UserError(f"no file {path}: run the figure that writes it, or fetch the committed results")
    return pd.read_csv(path)


def fitted(table: pd.DataFrame, parameter: str, digits: int = 2, **where: object) -> Number:
    """A parameter of fit.csv with the interval from resampled books, and the p-value of its law."""
    rows = table[table["parameter"] == parameter]
    for column, value in where.items():
        rows = rows[rows[column] == value]
    (row,) = rows.to_dict("records")
    return Number(row["value"], row["boot_lo95"], row["boot_hi95"], row.get("p_value", math.nan), digits)


def p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def of_exponent(number: Number, paper: float, reason: str) -> tuple[str, str]:
    """The rule for an exponent, see the top of the file. reason: what to say where no power law fits."""
    if not number.p_value >= SIGNIFICANT:
        return UNDECIDED, reason
    if number.lo <= paper <= number.hi:
        return REPRODUCED, f"the law fits ({p_text(number.p_value)})"
    return CONTRADICTED, f"the law fits ({p_text(number.p_value)})"


def bipartite_of_books() -> list[Claim]:
    """Figs. 2b, B.1, B.2, B.3."""
    books, wikipedia = read("fig2b/fit.csv"), read("figB1/wikipedia/fit.csv")
    beta = {
        (name, ratio): fitted(books, "beta", estimator=name, L_over_ell=ratio, law="power")
        for name in ("direct", "vclub", "direct_corrected")
        for ratio in (2.0, 3.0, 4.0)
    }
    direct, vclub = beta["direct", 2.0], beta["vclub", 2.0]
    reader = "SmolLM2 (135M) gives no power law ({}); the exponent is that of this reader"
    claims = [
        Claim(
            "I(L/2; L) of books grows as L^β, direct estimator",
            f"β = {PAPER['direct']}",
            f"β = {direct}",
            *of_exponent(direct, PAPER["direct"], reader.format(p_text(direct.p_value))),
            "2b",
            "results/fig2b/fig2b.png",
            ("fig2b/fit.csv",),
        ),
        Claim(
            "The same, vCLUB estimator",
            f"β = {PAPER['vclub']}",
            f"β = {vclub}",
            *of_exponent(vclub, PAPER["vclub"], f"as above ({p_text(vclub.p_value)})"),
            "2b",
            "results/fig2b/fig2b.png",
            ("fig2b/fit.csv",),
        ),
    ]
    other = fitted(wikipedia, "beta", estimator="direct", L_over_ell=2.0, law="power")
    claims.append(
        Claim(
            "The law holds on Wikipedia too",
            "–",
            f"direct β = {other}",
            *((REPRODUCED, "") if other.p_value >= SIGNIFICANT else (UNDECIDED, f"as above ({p_text(other.p_value)})")),
            "B.1",
            "results/figB1/figB1.png",
            ("figB1/wikipedia/fit.csv",),
        )
    )
    ratios = [beta["direct", 3.0], beta["direct", 4.0]]
    agree = all(number.overlaps(direct) for number in ratios)
    fits = all(number.p_value >= SIGNIFICANT for number in ratios)
    claims.append(
        Claim(
            "The law holds at L = 3ℓ and 4ℓ too",
            "–",
            f"direct β = {ratios[0]} and {ratios[1]}",
            REPRODUCED if fits and agree else UNDECIDED,
            f"β {'agrees' if agree else 'disagrees'} with that at 2ℓ" + ("" if fits else ", but no power law fits"),
            "B.2",
            "results/figB2/figB2.png",
            ("fig2b/fit.csv",),
        )
    )
    points = read("fig2b/bipartite.csv")
    points = points[points["L_tokens"] == 2 * points["ell_tokens"]]
    mi = points.pivot_table(index="L_tokens", columns="estimator", values="mi_nats")
    change = 100 * (mi["direct"] - mi["direct_corrected"]).abs() / mi["direct"]
    first, last = change.index[0], change.index[-1]
    corrected = beta["direct_corrected", 2.0]
    claims.append(
        Claim(
            "The 2-gram correction changes I at small L only",
            "–",
            f"by {change[first]:.0f}% at L = {first:,} and by {change[last]:.1f}% at {last:,}",
            REPRODUCED if change[first] > 20 and change[last] < 5 else CONTRADICTED,
            f"β becomes {corrected}" + (", intervals overlap" if corrected.overlaps(direct) else ""),
            "B.3",
            "results/figB3/figB3.png",
            ("fig2b/bipartite.csv", "fig2b/fit.csv"),
        )
    )
    exact = read("calibration/santa_fe_b0.75_e0.1/coverage.csv")
    exact = exact[(exact["predictor"] == "exact") & (exact["n_documents"] == 1000) & (exact["quantity"] == "beta_gls")]
    slope = exact.set_index("estimator")["mean"]
    true = exact["truth"].iloc[0]
    above = [name for name, label in (("direct", "direct"), ("vclub", "vCLUB")) if slope[name] > true + 0.01]
    claims.append(
        Claim(
            "Both estimators underestimate β",
            "–",
            f"with the exact predictor of a known process: direct {slope['direct']:.2f}, vCLUB {slope['vclub']:.2f}, "
            f"true β {true:.2f}",
            CONTRADICTED if above else UNDECIDED,
            "vCLUB overestimates β when the model is exact" if above == ["vclub"] else "",
            "App. B.III",
            "results/calibration/calibration.png",
            ("calibration/santa_fe_b0.75_e0.1/coverage.csv",),
        )
    )
    return claims


def two_point_of_text() -> list[Claim]:
    """Figs. 2c, B.4, B.5."""
    files = "fig2c/fit.csv", "fig2c/tokens_1024/fit.csv", "figB4/wikipedia/fit.csv", "fig2c/shuffled/fit.csv"
    books, larger, wikipedia, shuffled = (read(name) for name in files)
    by_paper = {"estimator": "grassberger", "law": "paper_eq_b15"}
    few, many = (fitted(table, "alpha", **by_paper) for table in (books, larger))
    weighted = fitted(books, "alpha", estimator="grassberger", law="power_plus_constant_wls")
    stable = weighted.overlaps(few)
    fits = [fitted(t, "alpha", estimator="grassberger", law="power_plus_constant").p_value for t in (books, wikipedia)]
    article = fitted(wikipedia, "alpha", **by_paper)
    plateau = [fitted(table, "C", digits=4, **by_paper) for table in (books, wikipedia)]
    null = fitted(shuffled, "C", digits=4, estimator="grassberger", law="constant")
    seen = min(number.lo for number in (*plateau, null)) > 0 and null.overlaps(plateau[0])
    return [
        Claim(
            "Two-point information of books falls as d^−α",
            f"α = {PAPER['two_point']}",
            f"α = {few} (384 tokens), {many} (1,024 tokens)",
            *(
                of_exponent(few._replace(p_value=fits[0]), PAPER["two_point"], "no power law fits")
                if stable
                else (UNDECIDED, f"our tokens are parts of words, and α depends on the fit: {weighted} when weighted")
            ),
            "2c",
            "results/fig2c/fig2c.png",
            (files[0], files[1]),
        ),
        Claim(
            "Both corpora follow a power law in d",
            "–",
            f"Wikipedia: α = {article}; books as above",
            REPRODUCED if min(fits) >= SIGNIFICANT else UNDECIDED,
            f"a power law fits books ({p_text(fits[0])}) and not Wikipedia ({p_text(fits[1])}); 384 tokens",
            "B.4",
            "results/figB4/figB4.png",
            (files[0], files[2]),
        ),
        Claim(
            "The bias of counting adds a plateau C, which is subtracted",
            "–",
            f"C = {plateau[0]} nats (books), {plateau[1]} (Wikipedia)",
            REPRODUCED if seen else UNDECIDED,
            f"shuffled books have as much: {null}",
            "B.5",
            "results/figB5/figB5.png",
            (files[0], files[2], files[3]),
        ),
    ]


def gaussian_families() -> list[Claim]:
    """Fig. C.6."""
    families = ("subvolume", "logarithmic")
    fits = {name: read(f"figC6/{name}/fit.csv") for name in families}
    local = fits["subvolume"][fits["subvolume"]["law"] == "local_power"]
    last = local.iloc[-1]
    exact = math.log(3, 4)
    halves, ends = {}, {}
    for name in families:
        mi = read(f"figC6/{name}/gaussian_mi.csv")
        halves[name] = mi[mi["L"] == 2 * mi["ell"]].set_index("L")["mi_nats"]
        ends[name] = read(f"figC6/{name}/two_point.csv").set_index("L")["mi_nats"]
    longest = halves["subvolume"].index[-1]
    steps = halves["logarithmic"].diff().dropna()
    differ = ((ends["subvolume"] - ends["logarithmic"]).abs() / ends["subvolume"]).max()
    logarithm = fits["logarithmic"].set_index(["law", "parameter"])["value"]["logarithm_ols", "B"]
    picture = "results/figC6/figC6.png"
    steady = steps.iloc[-1] / steps.iloc[-2]
    return [
        Claim(
            "I(L/2; L) of the Gaussian sub-volume family grows as L^β",
            f"β = {PAPER['subvolume']}",
            f"β = {last['value']:.4f} at L = {longest:,}; log₄ 3 = {exact:.4f}",
            REPRODUCED if round(last["value"], 2) == PAPER["subvolume"] else CONTRADICTED,
            "exact, no sampling",
            "C.6",
            picture,
            ("figC6/subvolume/fit.csv",),
        ),
        Claim(
            "I(L/2; L) of the logarithmic family grows as a logarithm",
            "–",
            f"{logarithm:.4f} · ln L: {steps.iloc[-1]:.4f} nats each time L is multiplied by 4",
            REPRODUCED if abs(steady - 1) < 0.001 else CONTRADICTED,
            "exact",
            "C.6",
            picture,
            ("figC6/logarithmic/fit.csv", "figC6/logarithmic/gaussian_mi.csv"),
        ),
        Claim(
            "The two families agree in two-point information and differ in bipartite information",
            "–",
            f"at L = {longest:,}: {halves['subvolume'][longest]:,.0f} and {halves['logarithmic'][longest]:.2f} nats; "
            f"first and last position: equal to 1 part in 10^{math.floor(-math.log10(differ))}",
            REPRODUCED if differ < 1e-6 and halves["subvolume"][longest] > 10 * halves["logarithmic"][longest] else "",
            "exact",
            "C.6",
            picture,
            tuple(f"figC6/{name}/{table}.csv" for name in families for table in ("two_point", "gaussian_mi")),
        ),
    ]


def models_on_gaussians() -> list[Claim]:
    """Figs. 3a, b, c."""
    runs = read("fig3/summary.csv")
    runs = runs[runs["model"] != "independent"]
    kl = runs.groupby(["model", "L"])["mean_kl_nats"].agg(["mean", "min", "max"])
    lengths = sorted(runs["L"].unique())

    def shown(model: str) -> str:
        return ", ".join(f"{kl.loc[(model, length), 'mean']:.3f}" for length in lengths)

    def grows(model: str, a: int, b: int) -> bool:
        """Every seed is worse at b than every seed at a."""
        return kl.loc[(model, b), "min"] > kl.loc[(model, a), "max"]

    at = ", ".join(f"{length}" for length in lengths)
    gpt = "gpt2-mini"
    fixed = runs[runs["model"].str.startswith("mamba")].drop_duplicates("model").set_index("model")["state_size"]
    small, large = fixed.idxmin(), fixed.idxmax()
    flat = [length for length in lengths[1:] if not grows(gpt, lengths[0], length)]
    worse = all(grows(model, lengths[0], lengths[1]) for model in fixed.index)
    short = read("fig3/short/summary.csv").set_index(["model", "L"])["mean_kl_nats"]
    gain = 1 - kl.loc[(gpt, lengths[-1]), "mean"] / short[gpt, lengths[-1]]
    collapse = read("fig3/collapse.csv").set_index("predictor")
    by_state, by_length = (Number(*collapse.loc[name, ["explained", "lo95", "hi95"]]) for name in ("mi_per_state", "L"))
    return [
        Claim(
            "GPT2's KL is flat in L",
            "–",
            f"KL a token at L = {at}: {shown(gpt)} nats",
            REPRODUCED if flat == lengths[1:] else UNDECIDED,
            f"flat to L = {max(flat, default=lengths[0])}; at {lengths[-1]} training has not ended: "
            f"twice the steps lower the KL by {100 * gain:.0f}%",
            "3a",
            "results/fig3/fig3.png",
            ("fig3/summary.csv", "fig3/short/summary.csv"),
        ),
        Claim(
            "The KL of small fixed states grows with L",
            "–",
            f"Mamba2 of {fixed[small]:,} elements: {shown(small)}; of {fixed[large]:,}: {shown(large)}",
            REPRODUCED if worse and lengths[1] in flat else UNDECIDED,
            f"L = {lengths[0]} to {lengths[1]}, beyond the scatter of three seeds; part of it is training",
            "3a, b",
            "results/fig3/fig3.png",
            ("fig3/summary.csv",),
        ),
        Claim(
            "The KL of all sizes and lengths falls on one curve in I/dim(z)",
            "–",
            f"explains {by_state} of ln KL; one curve in L alone {by_length}",
            REPRODUCED if by_state.lo > by_length.value else UNDECIDED,
            "the two cannot be told apart",
            "3c",
            "results/fig3/fig3.png",
            ("fig3/collapse.csv",),
        ),
    ]


def models_on_books() -> list[Claim]:
    """Figs. 4 and G.9."""
    ends, ahead = {}, []
    for name in ("fig4", "figG9"):
        gap = read(f"{name}/gap.csv")
        gap = gap[gap["model_a"].str.startswith("gpt_neox")]
        for model, windows in gap.groupby("model_a", sort=False):
            last = windows.iloc[-1]
            ends[name, model.split("-")[-1]] = Number(last["gap_nats"], last["lo95"], last["hi95"])
            unsure = windows.loc[windows["lo95"] <= 0, "last"]
            ahead.append(1 if unsure.empty else int(unsure.max()) + 1)
    end = ends["fig4", "small"]
    parameters = read("fig4/summary.csv").groupby("model")["parameters"].first()
    sizes = [f"{parameters[f'gpt_neox-mini-{size}'] / 1e6:.2g}M" for size in ("small", "medium")]
    shrinks = all(ends[name, "medium"].hi < ends[name, "small"].lo for name in ("fig4", "figG9"))
    length = read("fig4/summary.csv")["L"].iloc[0]
    return [
        Claim(
            "Mamba leads at early positions, GPT2 at late ones",
            "–",
            f"Mamba2 leads GPT-NeoX from position {max(ahead)} on; at L = {length:,} bytes by {end} nats a byte "
            f"({sizes[0]})",
            UNDECIDED,
            "half an epoch: the transformers are far from trained",
            "4, G.9",
            "results/fig4/fig4.png",
            ("fig4/gap.csv", "figG9/gap.csv", "fig4/summary.csv"),
        ),
        Claim(
            "The gap closes as models grow",
            "–",
            f"from {end} ({sizes[0]}) to {ends['fig4', 'medium']} ({sizes[1]})",
            UNDECIDED,
            ("it shrinks, but it" if shrinks else "it") + " is the transformer that lags",
            "4, G.9",
            "results/fig4/fig4.png",
            ("fig4/gap.csv", "figG9/gap.csv", "fig4/summary.csv"),
        ),
    ]


def the_condition() -> list[Claim]:
    """Sec. 5: states against the law, and a million tokens."""
    verdicts = read("condition/condition.csv").drop_duplicates(["model", "law"])
    each = verdicts.groupby("model")["verdict"].agg(lambda column: "/".join(sorted(set(column))))
    group = verdicts.drop_duplicates("model").set_index("model")["group"]
    same = (each[group.isin(["full attention", "latent attention"])] == "satisfies").all()
    same &= (each[group == "bounded"] == "violates").all()
    wanted = read("condition/required.csv").query("L_tokens == 1_000_000").drop_duplicates("law").set_index("law")
    by_paper = [wanted.loc[law, "mi_nats"] for law in ("paper-direct", "paper-vclub")]
    own = Number(*wanted.loc["books-direct", ["mi_nats", "mi_lo95", "mi_hi95"]], digits=0)
    picture = "results/condition/condition.png"
    return [
        Claim(
            "Bounded states violate the L²M condition; full attention satisfies it",
            "–",
            f"of {len(each)} published models {(each == 'satisfies').sum()} satisfy it and "
            f"{(each == 'violates').sum()} violate it, under each of {verdicts['law'].nunique()} laws",
            REPRODUCED if same else CONTRADICTED,
            "counted from configurations",
            "Sec. 5",
            picture,
            ("condition/condition.csv",),
        ),
        Claim(
            "A million tokens hold more than 60,000 nats",
            f"> {PAPER['million']:,} nats",
            f"{by_paper[0]:,.0f} and {by_paper[1]:,.0f} by the paper's laws; {own} by ours",
            REPRODUCED if own.lo > PAPER["million"] else UNDECIDED,
            "extrapolated, and our law does not fit",
            "Sec. 5",
            picture,
            ("condition/required.csv",),
        ),
    ]


def claims() -> list[Claim]:
    """All claims: reproduced first, then contradicted, then the others; in the order of the figures."""
    found = gaussian_families() + bipartite_of_books() + two_point_of_text()
    found += models_on_gaussians() + models_on_books() + the_condition()
    order = (REPRODUCED, CONTRADICTED, UNDECIDED)
    unknown = [claim.claim for claim in found if claim.verdict not in order]
    if unknown:
        raise UserError(f"the results no longer support a verdict on {unknown[0]!r}: look at its rule in {__file__}")
    return sorted(found, key=lambda claim: order.index(claim.verdict))


def markdown(found: list[Claim]) -> str:
    """What stands between the marker comments: a sentence of counts, and the table."""
    count = {verdict: sum(claim.verdict == verdict for claim in found) for verdict in (REPRODUCED, CONTRADICTED)}
    rest = len(found) - sum(count.values())
    lines = [
        f"Of {len(found)} claims, {count[REPRODUCED]} are reproduced, {count[CONTRADICTED]} contradicted, and {rest} "
        "not decided here, because the models and texts that two CPU cores can handle are too small.",
        "",
        "| claim of the paper | paper | ours [95% interval] | verdict | figure |",
        "|---|---|---|---|---|",
    ]
    for claim in found:
        verdict = f"**{claim.verdict}**" + (f": {claim.reason}" if claim.reason else "")
        lines.append(
            f"| {claim.claim} | {claim.paper} | {claim.ours} | {verdict} | [{claim.figure}]({claim.picture}) |"
        )
    return "\n".join(lines)


def on_page(text: str, table: str, page: Path) -> str:
    """The page with `table` between the markers. UserError: a marker is missing or stands twice."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise UserError(f"{page} needs one line {BEGIN!r} and one line {END!r}: put them where the table belongs")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}"


def main(cfg: Settings) -> None:
    started = time.time()
    found = claims()
    page = on_page(cfg.page.read_text(encoding="utf-8"), markdown(found), cfg.page)
    table = pd.DataFrame(found).assign(source=[" ".join(claim.source) for claim in found])
    sources = sorted({ROOT / "results" / name for claim in found for name in claim.source})
    write_csv(cfg.out, table, cfg, sources, started)
    replace_text(cfg.page, page)
    print(f"{len(found)} claims: wrote {cfg.out} and the table of {cfg.page}")


if __name__ == "__main__":
    run(main, Settings, __doc__)
