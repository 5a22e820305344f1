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
    size = pd.read_csv(ROOT / "results/fig4/sizes/summary.csv").set_index("model")["parameters"]
    assert claims.SIZES == {of: f"{size[f'gpt_neox-mini-{of}'] / 1e6:.2g}M" for of in claims.SIZES}
    # Known without the program: the exponent of the exact family, and that no power law fits the books.
    by_claim = found.set_index("claim")
    exact = by_claim.loc["I(L/2; L) of the Gaussian sub-volume family grows as L^β"]
    assert exact["verdict"] == claims.REPRODUCED
    assert f"{math.log(3) / math.log(4):.4f}" in exact["ours"]
    books = by_claim.loc["I(L/2; L) of books grows as L^β, direct estimator"]
    assert (books["verdict"], books["ours"]) == (claims.UNDECIDED, "β = 0.44 [0.39, 0.49]")


@pytest.mark.parametrize(
    ("p_value", "paper", "verdict"),
    [
        (0.5, 0.5, claims.REPRODUCED),
        (0.5, 0.7, claims.CONTRADICTED),
        (0.001, 0.5, claims.UNDECIDED),
        (math.nan, 0.5, claims.UNDECIDED),
    ],
)
def test_rule_for_exponents(p_value, paper, verdict):
    assert claims.of_exponent(claims.Number(0.5, 0.4, 0.6, p_value), paper, "no law")[0] == verdict


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
    table = pd.DataFrame(rows, columns=["model_b", "L", "tokens", "last", "gap_nats"])
    table = table.assign(lo95=table["gap_nats"] - 0.05, hi95=table["gap_nats"] + 0.05)
    names = dict(zip(claims.LOSS, claims.GAIN, strict=True))
    return table.join(table[claims.LOSS].rename(columns=names))


def tokens(fell: float) -> pd.DataFrame:
    both = {"model": ["a", "a"], "seed": 0, "tokens": [1e6, 3e6], "nats_per_unit": 1.0, "fell_nats": [math.nan, fell]}
    return pd.DataFrame(both)


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
        return claims.who_leads(gaps, gaps, fallen, fallen)[1]

    assert found() == verdict
    gaps.loc[(gaps["tokens"] == 1e6) & (gaps["last"] == 64), claims.LOSS] = [0.0, -0.05, 0.05]
    assert found() in (claims.UNDECIDED, claims.CONTRADICTED)  # gap 0 after 1e6 tokens
    assert early < 0 or found() == claims.UNDECIDED


@pytest.mark.parametrize(
    ("small", "medium", "verdict"),
    [(-0.2, -0.06, claims.REPRODUCED), (-0.2, -0.16, claims.UNDECIDED), (0.2, 0.0, claims.UNDECIDED)],
)
def test_rule_for_the_gap_that_closes(small, medium, verdict):
    several, one = token_gaps(small=(0, small)), token_gaps(small=(9, 9), medium=(0, medium))
    assert claims.gap_closes(several, one, tokens(0.1), tokens(0.1))[1] == verdict


@pytest.mark.parametrize(
    ("grows", "more", "verdict"),
    [(True, 0.1, claims.REPRODUCED), (False, 0.1, claims.UNDECIDED), (True, 0.01, claims.UNDECIDED)],
)
def test_rule_for_the_curve_that_flattens(grows, more, verdict):
    """Reproduced only if the transformer's gain grows for longer on both sets of books, and is larger after both
    numbers of tokens."""
    names = [f"{kind}-mini-{size}" for kind in ("gpt_neox", "mamba2") for size in ("small", "medium")]
    rows = [(name, last, last > 64 and grows and "neox" in name) for name in names for last in (64, 128)]
    gains = pd.DataFrame(rows, columns=["model", "last", "growing"]).assign(context=claims.REACH, seeds=1)
    gains["growth_lo95"] = gains["growing"].map({True: 0.1, False: -0.1})
    gaps, fallen = token_gaps(small=(0, more), medium=(0, more)), tokens(0.1)

    def judged(there: pd.DataFrame) -> tuple[str, str]:
        return claims.flattens(gaps, gaps, fallen, fallen, gains, gains, there, there)[1:]

    found, reason = judged(gains)
    assert found == verdict
    assert f"{'128 and 128' if grows else 'never and never'} (gpt_neox-mini-medium), never and never (mamba2" in reason
    level = gains.assign(growth_lo95=-0.1)
    assert judged(level)[0] == claims.UNDECIDED
    gaps.loc[gaps["tokens"] == 1e6, claims.GAIN] = [0.0, -0.05, 0.05]
    assert judged(gains)[0] == claims.UNDECIDED
