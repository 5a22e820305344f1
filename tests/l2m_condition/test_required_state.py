"""Theorem 5.2 as code: the paper's numbers, crossings in closed form, fitted laws, and the numbers in README.md."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, call_script, one_line_error

from common.powerlaw import fit_law
from l2m_condition.required_state import PAPER, STATE, ScalingLaw, read_law

SCRIPT = "l2m_condition/required_state.py"
CONTEXTS = [2**k for k in range(8, 21)]
LN_M = math.log(128_256)
KINDS = {  # model → layer kind → growth exponent, elements after t tokens
    "attention": {"full_attention": (1, lambda t: 100 * t)},
    "latent": {"latent_attention": (1, lambda t: 30 * t)},
    "constant": {"mamba_recurrence": (0, lambda t: 5000), "mamba_convolution": (0, lambda t: 1000)},
    "windows": {"sliding_attention": (0, lambda t: 10 * min(t, 4095))},
    "hybrid": {"full_attention": (1, lambda t: 7 * t), "sliding_attention": (0, lambda t: 10 * min(t, 1023))},
    "root": {"total": (0.5, lambda t: 900 * t**0.5)},
}
GROUPS = ["full attention", "latent attention", "bounded", "bounded", "hybrid", "sublinear"]


def state_table(kinds: dict = KINDS, contexts: list[int] = CONTEXTS) -> pd.DataFrame:
    rows = [
        (model, kind, t, size(t), exponent)
        for model, parts in kinds.items()
        for kind, (exponent, size) in parts.items()
        for t in contexts
    ]
    return pd.DataFrame(rows, columns=STATE)


def save(table: pd.DataFrame, path: Path) -> Path:
    table.to_csv(path, index=False)
    return path


def fit_table(A: float = 2.0, beta: float = 0.6, half_log_A: float = 0.2, half_beta: float = 0.05) -> pd.DataFrame:
    """fit.csv of two estimators at two ratios L/ℓ; the interval by books is wider than that by documents."""
    rows = []
    for index, (estimator, ratio) in enumerate(itertools.product(("direct", "vclub"), (2.0, 3.0))):
        for parameter, value, half in (("A", A + index, half_log_A), ("beta", beta + 0.01 * index, half_beta)):
            ends = {}
            for prefix, share in (("", 0.5), ("boot_", 1.0)):
                low, high = value - share * half, value + share * half
                if parameter == "A":
                    low, high = value * math.exp(-share * half), value * math.exp(share * half)
                ends |= {f"{prefix}lo95": low, f"{prefix}hi95": high}
            names = {"source": "books", "estimator": estimator, "L_over_ell": ratio, "law": "power"}
            rows.append(names | {"parameter": parameter, "value": value, "L_min": 4, "L_max": 2048} | ends)
    return pd.DataFrame(rows).assign(p_value=0.4)


def run_it(tmp_path: Path, *flags: object, table: pd.DataFrame | None = None) -> tuple[pd.DataFrame, str]:
    """condition.csv, and the printed text."""
    state = save(state_table() if table is None else table, tmp_path / "state.csv")
    done = call_script(SCRIPT, "--state", state, "--out", tmp_path / "out", *flags)
    assert done.returncode == 0, done.stderr
    return pd.read_csv(tmp_path / "out" / "condition.csv"), done.stdout


def test_a_million_tokens(tmp_path):
    """By the paper's laws 82,419 and 59,322 nats: about 10^5 to 10^6 elements, if an element holds 1 to 0.1 nats."""
    _, said = run_it(tmp_path, "--nats-per-element", 1, 0.1)
    needs = pd.read_csv(tmp_path / "out" / "required.csv").query("L_tokens == 1_000_000").set_index(["law", "capacity"])
    for law, nats in (("paper-direct", 82_419), ("paper-vclub", 59_322)):
        rows = needs.loc[law]
        assert rows["mi_nats"].to_numpy() == pytest.approx(nats, abs=1)
        for capacity, C in (("1 nat", 1), ("0.1 nats", 0.1), ("16 bits", 16 * math.log(2))):
            assert rows["required_elements"][capacity] == pytest.approx((nats - LN_M) / C, rel=1e-5)
        assert rows["mi_lo95"].isna().all()  # the paper gives no interval
        assert f"{nats:,} nats at 1,000,000 tokens" in said


def test_crossings_in_closed_form(tmp_path):
    table, _ = run_it(tmp_path, "--bits-per-element", 4, "--nats-per-element", 0.1)
    rows = table.set_index(["law", "model", "capacity"])
    laws = itertools.product(PAPER.items(), {"4 bits": 4 * math.log(2), "0.1 nats": 0.1}.items())
    for (law, (A, beta)), (capacity, C) in laws:
        found, wanted = rows.loc[law].xs(capacity, level="capacity"), A * 1e6**beta
        assert found["nats_per_element"].to_numpy() == pytest.approx(C)
        assert found["mi_nats"].to_numpy() == pytest.approx(wanted)
        for model, elements in (("constant", 6000), ("windows", 10 * 4095)):
            row, held = found.loc[model], C * elements + LN_M
            assert (row["verdict"], row["growth_exponent"], row["state_elements"]) == ("violates", 0, elements)
            assert row["max_context_tokens"] == pytest.approx((held / A) ** (1 / beta), rel=1e-9)
            assert row["capacity_nats"] == pytest.approx(held)
            assert row["satisfies_wanted"] == ("yes" if held >= wanted else "no")
        for model in ("attention", "latent", "hybrid"):
            assert (found["verdict"][model], found["max_context_tokens"][model]) == ("satisfies", math.inf)
        L = found["max_context_tokens"]["root"]
        assert A * L**beta == pytest.approx(C * 900 * (L / 2) ** 0.5 + LN_M, rel=0.03)  # linear between rows
        assert found["verdict"]["root"] == "violates"
    groups = table.drop_duplicates("model")
    assert groups["group"].tolist() == GROUPS
    assert rows.loc["paper-direct", "hybrid", "4 bits"]["state_elements"] == pytest.approx(7 * 500_000 + 10 * 1023)


def test_beyond_the_table(tmp_path):
    """Beyond the last row, states are linear, constant or a power; NaN for a state that is too small at every row."""
    short = state_table(contexts=[1024, 2048, 4096, 8192])
    table, _ = run_it(tmp_path, "--vocabulary", 1, "--nats-per-element", 1e-4, table=short)
    sizes = table.drop_duplicates("model").set_index("model")["state_elements"]
    expected = {"attention": 5e7, "latent": 1.5e7, "constant": 6000, "windows": 40_950, "hybrid": 3.5e6 + 10_230}
    expected |= {"root": 900 * 5e5**0.5}
    assert sizes.to_dict() == pytest.approx(expected)
    held = table[table["capacity"] == "0.0001 nats"].set_index("model")["max_context_tokens"]
    assert held[["constant", "windows", "root"]].isna().all()


def test_verdicts():
    cases = {(0.76, math.nan): "satisfies", (0.75, math.nan): "violates", (1, 0.05): "satisfies", (1, 0.3): "undecided"}
    cases |= {(0.8, 0.05): "undecided", (0.72, 0.05): "undecided", (0.7, 0.05): "violates"}
    for (exponent, half), said in cases.items():
        assert ScalingLaw("law", 2.0, 0.76, 0.1, half).verdict(exponent) == said


def test_a_fit_without_resampled_books_has_the_interval_by_documents(tmp_path):
    bare = fit_table().assign(boot_lo95=math.nan, boot_hi95=math.nan)
    assert read_law(save(bare, tmp_path / "fit.csv"), "direct").half_beta == pytest.approx(0.025)


def test_a_fit_and_its_interval(tmp_path):
    fit = save(fit_table(), tmp_path / "fit.csv")
    sizes = {"small": 1, "within": 20_000, "large": 1e6}
    kinds = KINDS | {name: {"total": (0, lambda t, size=size: size)} for name, size in sizes.items()}
    flags = ["--fit", fit, "--estimator", "vclub"]
    table, said = run_it(tmp_path, *flags, table=state_table(kinds))
    rows = table[table["law"] == "books-vclub"]
    # The third block of the table is vclub at L = 2 ell; the interval is that by books, not by documents.
    for column, beta in (("beta", 0.62), ("beta_lo95", 0.57), ("beta_hi95", 0.67)):
        assert rows[column].to_numpy() == pytest.approx(beta)
    row = rows[(rows["model"] == "constant") & (rows["capacity"] == "1 nat")].iloc[0]
    assert row["mi_lo95"] < row["mi_nats"] < row["mi_hi95"]
    assert "nats at 1,000,000 tokens, extrapolated from L = 2048" in said
    needs = pd.read_csv(tmp_path / "out" / "required.csv").query("law == 'books-vclub' and capacity == '1 nat'")
    assert needs.set_index("L_tokens")["required_hi95"][1_000_000] == pytest.approx(row["mi_hi95"] - LN_M)
    held = rows[rows["capacity"] == "1 nat"].set_index("model")["satisfies_wanted"]
    assert row["mi_lo95"] < 20_000 + LN_M < row["mi_hi95"]
    assert held[list(sizes)].tolist() == ["no", "undecided", "yes"]


def test_what_an_element_of_a_linear_state_holds(tmp_path):
    capacity = pd.DataFrame([(16, 0.9, 5), (256, 8.2165, 49), (256, 8.2165, 49)], columns=["L", "mi_nats", "rank"])
    table, _ = run_it(tmp_path, "--capacity", save(capacity, tmp_path / "capacity.csv"))
    assert table[table["capacity"] == "linear"]["nats_per_element"].to_numpy() == pytest.approx(8.2165 / 49)


def test_interval_is_that_of_a_line():
    """For points with equal, independent errors, the interval of a law is that of a fitted straight line."""
    L = 2.0 ** np.arange(2, 12)
    mi, error = 2 * L**0.6, 0.05
    fit = fit_law("power", L, mi, np.diag((error * mi) ** 2))
    (A, A_lo, A_hi), (beta, low, high) = fit.parameters["A"], fit.parameters["beta"]
    law = ScalingLaw("line", A, beta, math.log(A_hi / A_lo) / 2, (high - low) / 2, L[0], L[-1])
    x = np.log(L)
    for at in (4.0, 100.0, 1e6):
        half = 1.959964 * error * math.sqrt(1 / len(L) + (math.log(at) - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum())
        assert math.log(law.mi(at, 1) / law.mi(at)) == pytest.approx(half, rel=1e-4)
        assert math.log(law.mi(at, -1) / law.mi(at)) == pytest.approx(-half, rel=1e-4)


def test_the_middle_of_a_law_is_limited():
    law = ScalingLaw("x", 2.0, 0.6, 0.2, 0.05, 4, 2048)  # h_lnA / h_beta = 4, below the middle, 4.5
    for x, half in ((6, 0.1), (4, 0.0)):
        assert math.log(law.mi(math.exp(x), 1) / law.mi(math.exp(x))) == pytest.approx(half, abs=1e-7)


@pytest.mark.parametrize(
    ("flags", "change", "said"),
    [
        (["--wanted", 100], None, "begins at L = 512 tokens"),
        (["--fit", "FIT", "SAME"], None, "two laws are called books-direct"),
        (["--fit", "BAD"], None, "A = -1, beta = -1 of direct do not give a valid law"),
        (["--capacity", "NONE"], None, "has no row with mi_nats and rank above 0"),
        ([], lambda t: pd.concat([t, t]), "has no rows, a number that no model has, or one row twice"),
        ([], lambda t: t[t["context_tokens"] <= 2048], "a window of windows is not full at its last context"),
    ],
)
def test_bad_input(tmp_path, flags, change, said):
    files = {name: save(fit_table(), tmp_path / f"{name}.csv") for name in ("FIT", "SAME")}
    files["BAD"] = save(fit_table().assign(value=-1), tmp_path / "BAD.csv")
    files["NONE"] = save(pd.DataFrame([(16, 0, 5)], columns=["L", "mi_nats", "rank"]), tmp_path / "NONE.csv")
    table = state_table({"attention": KINDS["hybrid"], "windows": KINDS["windows"]})
    state = save(change(table) if change else table, tmp_path / "state.csv")
    done = call_script(SCRIPT, "--state", state, "--out", tmp_path / "out", *(files.get(flag, flag) for flag in flags))
    assert said in one_line_error(done)
    assert not (tmp_path / "out").exists()


def test_the_table_of_the_page_is_that_of_the_csv():
    table = pd.read_csv(ROOT / "results" / "condition" / "condition.csv")
    table = table[table["law"] == "paper-direct"].set_index(["model", "capacity"])
    page = (ROOT / "l2m_condition" / "README.md").read_text(encoding="utf-8")
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.endswith(" |") and "**" not in line]
    rows = [[cell.strip() for cell in row] for row in rows if len(row) == 8 and row[0].strip() in table.index.levels[0]]
    assert len(rows) == 12
    for model, group, state, exponent, said, *held in rows:
        for capacity, tokens in zip(("16 bits", "1 nat", "linear"), held, strict=True):
            row = table.loc[model, capacity]
            assert (group, said, float(exponent)) == (row["group"], row["verdict"], row["growth_exponent"]), model
            assert state == f"{row['state_elements'] / 1e6:,.1f}"
            assert tokens.replace("always", "inf") == f"{row['max_context_tokens'] / 1e6:,.2f}"


def test_the_numbers_of_the_page_are_those_of_the_csvs():
    results = ROOT / "results"
    page = " ".join((ROOT / "l2m_condition" / "README.md").read_text(encoding="utf-8").split())
    needs = pd.read_csv(results / "condition" / "required.csv").query("L_tokens == 1_000_000")
    needs = needs.pivot(index="law", columns="capacity", values="required_elements")
    direct, vclub = needs.loc["paper-direct"], needs.loc["paper-vclub"]
    assert f"{direct['16 bits']:,.0f} and {vclub['16 bits']:,.0f} elements at 16 bits" in page
    assert f"{direct['1 nat']:,.0f} and {vclub['1 nat']:,.0f} at one nat" in page
    assert f"{direct['linear']:,.0f} and {vclub['linear']:,.0f} at that of the linear state" in page
    nats = pd.read_csv(results / "condition" / "required.csv").query("capacity == 'linear'")["nats_per_element"].iloc[0]
    assert f"{nats:.2f} nats per element" in page
    table = pd.read_csv(results / "condition" / "condition.csv")
    assert (table.groupby("model")["verdict"].nunique() == 1).all()  # "all verdicts are the same under our own law"
    ours = table[table["law"] == "books-direct"].iloc[0]
    assert f"{ours['beta']:.2f} [{ours['beta_lo95']:.2f}, {ours['beta_hi95']:.2f}]" in page
