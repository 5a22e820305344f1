"""The tables of claims are what docs/claims.py makes of the committed CSVs, and its rules for verdicts are right."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from common.cli import UserError
from docs import claims
from tests.conftest import ROOT

PAGE = ROOT / "README.md"


def test_the_page_and_the_csv_hold_what_the_results_give():
    found = claims.claims()
    for page, made in ((PAGE, claims.front), (ROOT / "docs/claims.md", claims.reasons)):
        text = page.read_text(encoding="utf-8")
        assert claims.on_page(text, made(found), page) == text, "run python docs/claims.py"
    table = pd.read_csv(ROOT / "results/claims.csv", dtype=str, keep_default_na=False)
    assert table.to_dict("records") == found.to_dict("records"), "run python docs/claims.py"
    assert all((ROOT / picture).is_file() for picture in found["picture"])
    size = pd.read_csv(ROOT / "results/fig4/summary.csv").groupby("model")["parameters"].first()
    assert claims.SIZES == {of: f"{size[f'gpt_neox-mini-{of}'] / 1e6:.2g}M" for of in claims.SIZES}
    # Known without the program: the exponent of the exact family, and that no power law fits the books.
    by_claim = found.set_index("claim")
    exact = by_claim.loc["I(L/2; L) of the Gaussian sub-volume family grows as L^β"]
    assert exact["verdict"] == claims.REPRODUCED
    assert f"{math.log(3) / math.log(4):.4f}" in exact["ours"]
    books = by_claim.loc["I(L/2; L) of books grows as L^β, direct estimator"]
    assert (books["verdict"], books["ours"]) == (claims.UNDECIDED, "β = 0.44 [0.39, 0.49]")


@pytest.mark.parametrize(
    ("half", "p_value", "paper", "verdict"),
    [
        (0.1, 0.5, 0.5, claims.REPRODUCED),
        (0.1, 0.5, 0.7, claims.UNDECIDED),  # the short memory of a model changes the exponent, too
        (0.2, 0.5, 0.5, claims.UNDECIDED),
        (0.1, 0.001, 0.5, claims.UNDECIDED),
        (0.1, math.nan, 0.5, claims.UNDECIDED),
    ],
)
def test_rule_for_exponents(half, p_value, paper, verdict):
    number = claims.Number(0.5, 0.5 - half, 0.5 + half, p_value)
    assert claims.of_exponent(number, paper, "no law")[0] == verdict


@pytest.mark.parametrize(("share", "verdict"), [(0.9, claims.REPRODUCED), (0.4, claims.UNDECIDED)])
def test_rule_for_the_plateau(share, verdict):
    fit = {"law": "paper_eq_b15", "parameter": "C", "estimator": "grassberger", "p_value": math.nan, "value": 0.02}
    fit = pd.DataFrame([fit | {"boot_lo95": 0.01, "boot_hi95": 0.03}])
    points = pd.DataFrame({"estimator": "grassberger", "mi_nats": [0.5, 0.02], "independent_nats": [0, 0.02 * share]})
    assert claims.plateau(*[fit] * 3, *[points] * 3)[1] == verdict


def test_how_far_a_law_can_be_tested():
    p = [0.3, 0.01, math.nan]
    rows = {"law": "power_plus_constant", "parameter": "alpha", "L_max": [512, 1024, 2048], "p_value": p}
    assert claims.tested(pd.DataFrame(rows)) == (False, "rejected to d = 1,024 (p = 0.01)")
    assert claims.tested(pd.DataFrame(rows)[:1]) == (True, "accepted to d = 512 (p = 0.3)")


def test_numbers_are_shown_with_their_interval():
    assert f"{claims.Number(-0.5, -1234.5, 0.25):1}" == "−0.5 [−1,234.5, 0.2]"
    assert claims.Number(0, 1, 2).overlaps(claims.Number(0, 2, 3))
    assert not claims.Number(0, 1, 2).overlaps(claims.Number(0, 2.1, 3))


def test_only_the_table_of_a_page_with_markers_changes():
    page = f"before\n{claims.BEGIN}\nold\n{claims.END}\nafter\n"
    assert claims.on_page(page, "new", PAGE) == page.replace("old", "new")
    with pytest.raises(UserError, match="needs one line"):
        claims.on_page(f"{claims.BEGIN}\n{claims.BEGIN}\n{claims.END}", "table", PAGE)


def token_gaps(**gaps: tuple[float, float]) -> pd.DataFrame:
    """Gaps ± 0.05 after 1 and 3 million tokens. gaps: size → gaps in the doublings that end at positions 16 and 64."""
    rows = [
        (f"mamba2-mini-{size}", 64, tokens, last, gap)
        for size, each in gaps.items()
        for tokens in (1e6, 3e6)
        for last, gap in zip((16, 64), each, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["model_b", "L", "tokens", "last", "gap_nats"]).assign(seeds_a=2, seeds_b=2)
    table = table.assign(lo95=table["gap_nats"] - 0.05, hi95=table["gap_nats"] + 0.05)
    for columns in (claims.GAIN, claims.GREW):
        table = table.join(table[claims.LOSS].rename(columns=dict(zip(claims.LOSS, columns, strict=True))))
    return table


def tokens(fell: float) -> pd.DataFrame:
    both = {"model": ["a", "a"], "seed": 0, "tokens": [1e6, 3e6], "nats_per_unit": 1.0, "fell_nats": [math.nan, fell]}
    return pd.DataFrame(both)


def test_a_fall_is_a_share_of_the_loss_before_it():
    """A loss of 1 that was 1.25 before fell by a fifth."""
    falls, said = claims.falling(tokens(0.25))
    assert (falls, "lowered the losses by 20.0 to 20.0%" in said) == (True, True)


@pytest.mark.parametrize(
    ("early", "late", "fell", "verdict"),
    [
        (0.1, -0.1, 0.001, claims.REPRODUCED),
        (0.1, -0.1, 0.1, claims.REPRODUCED),
        (0.1, 0.1, 0.001, claims.CONTRADICTED),
        (-0.1, -0.1, 0.001, claims.CONTRADICTED),
        (0.1, 0.0, 0.001, claims.UNDECIDED),
        (0.1, 0.1, 0.1, claims.UNDECIDED),  # still learning, so the transformer may yet lead
    ],
)
def test_rule_for_who_leads(early, late, fell, verdict):
    gaps, fallen = token_gaps(small=(early, late), medium=(early, late)), tokens(fell)

    def found() -> str:
        return claims.who_leads(gaps, fallen)[1]

    assert found() == verdict
    gaps["seeds_b"] = 1
    assert found() == claims.UNDECIDED
    gaps["seeds_b"] = 2
    gaps.loc[(gaps["tokens"] == 1e6) & (gaps["last"] == 64), claims.LOSS] = [0.0, -0.05, 0.05]
    assert found() in (claims.UNDECIDED, claims.CONTRADICTED)  # gap 0 after 1e6 tokens
    assert early < 0 or found() == claims.UNDECIDED


@pytest.mark.parametrize(
    ("small", "medium", "verdict"),
    [(-0.2, -0.06, claims.REPRODUCED), (-0.2, -0.16, claims.UNDECIDED), (0.2, 0.0, claims.UNDECIDED)],
)
def test_rule_for_the_gap_that_closes(small, medium, verdict):
    assert claims.gap_closes(token_gaps(small=(0, small), medium=(0, medium)), tokens(0.1))[1] == verdict


@pytest.mark.parametrize(("more", "verdict"), [(0.1, claims.REPRODUCED), (0.01, claims.UNDECIDED)])
def test_rule_for_the_curve_that_flattens(more, verdict):
    """Reproduced only if the gain of the transformer grows more, on both sets of books and after both numbers of
    tokens, and with two seeds."""
    gaps = token_gaps(small=(0, more), medium=(0, more))

    def judged(here: pd.DataFrame, there: pd.DataFrame) -> str:
        return claims.flattens(here, there)[1]

    assert judged(gaps, gaps) == verdict
    assert judged(gaps.assign(seeds_a=1), gaps) == claims.UNDECIDED
    level = gaps.copy()
    level.loc[level["tokens"] == 1e6, claims.GREW] = [0.0, -0.05, 0.05]
    assert judged(level, gaps) == judged(gaps, level) == claims.UNDECIDED
