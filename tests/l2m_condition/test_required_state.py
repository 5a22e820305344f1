"""Theorem 5.2 as code: the inequality on exact processes, the paper's numbers, crossings in closed form."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, call_script, one_line_error

from common.powerlaw import fit_law
from gaussian_synthetic import exact_mi
from gaussian_synthetic.exact import dense, families
from l2m_condition import state_information
from l2m_condition.required_state import Capacity, ScalingLaw, paper_law, required, verdict
from l2m_condition.tables import states
from l2m_condition.tables.states import State

SCRIPT, INFORMATION = "l2m_condition/required_state.py", "l2m_condition/state_information.py"
CONTEXTS = [2**k for k in range(8, 21)]
KINDS = {  # model → kind → elements of t tokens
    "attention": {"full_attention": lambda t: 100 * t},
    "latent": {"latent_attention": lambda t: 30 * t},
    "constant": {"mamba_recurrence": lambda t: 5000, "mamba_convolution": lambda t: 1000},
    "windows": {"sliding_attention": lambda t: 10 * min(t, 4095)},
    "hybrid": {"full_attention": lambda t: 7 * t, "sliding_attention": lambda t: 10 * min(t, 1023)},
    "levels": {"log_linear_recurrence": lambda t: 500 * t.bit_length()},
}


def state_table(kinds: dict = KINDS, contexts: list[int] = CONTEXTS, total: bool = True) -> pd.DataFrame:
    rows = []
    for model, parts in kinds.items():
        for t in contexts:
            rows += [(model, kind, t, size(t), 2 * size(t)) for kind, size in parts.items()]
            if total:
                whole = sum(size(t) for size in parts.values())
                rows.append((model, "total", t, whole, 2 * whole))
    return pd.DataFrame(rows, columns=states.STATE)


def save(table: pd.DataFrame, path: Path) -> Path:
    table.to_csv(path, index=False)
    return path


def fit_table(A: float = 2.0, beta: float = 0.6, half_log_A: float = 0.2, half_beta: float = 0.05) -> pd.DataFrame:
    """fit.csv of two estimators at two ratios; the books' interval is wider than the documents'."""
    rows = []
    for index, (estimator, ratio) in enumerate(itertools.product(("direct", "vclub"), (2.0, 3.0))):
        for parameter, value, half in (("A", A + index, half_log_A), ("beta", beta + 0.01 * index, half_beta)):
            ends = {}
            for prefix, share in (("", 0.5), ("boot_", 1.0)):
                low, high = value - share * half, value + share * half
                if parameter == "A":
                    low, high = value * math.exp(-share * half), value * math.exp(share * half)
                ends |= {f"{prefix}lo95": low, f"{prefix}hi95": high}
            names = {"source": "books", "model": "tiny", "estimator": estimator, "L_over_ell": ratio, "law": "power"}
            rows.append(names | {"parameter": parameter, "value": value, "L_min": 4, "L_max": 2048} | ends)
    return pd.DataFrame(rows).assign(p_value=0.4, boot_clusters="4 books")


def run_it(tmp_path: Path, *flags: object, table: pd.DataFrame | None = None) -> tuple[pd.DataFrame, str]:
    """condition.csv and what was printed."""
    state = save(state_table() if table is None else table, tmp_path / "state.csv")
    done = call_script(SCRIPT, "--state", state, "--out", tmp_path / "out", *flags)
    assert done.returncode == 0, done.stderr
    return pd.read_csv(tmp_path / "out" / "condition.csv"), done.stdout


# ---- the inequality on exact truth -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("elements", "vocabulary", "half"), [(1, 2, 4), (2, 2, 5), (3, 3, 3), (1, 3, 3)])
def test_machines_of_a_few_bits_obey_theorem_5_2(elements, vocabulary, half):
    """A random automaton of so many bits emits by (z, current token): I(X; Y) by counting every sequence."""
    worst = 0.0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        step = rng.integers(2**elements, size=(2**elements, vocabulary))  # z' = step[z, w]
        emit = rng.dirichlet(np.full(vocabulary, 0.1), size=(2**elements, vocabulary))  # q(w' | z, w)
        joint = np.zeros((vocabulary**half, vocabulary**half))
        for word in itertools.product(range(vocabulary), repeat=2 * half):
            z, p = 0, 1 / vocabulary
            for now, after in itertools.pairwise(word):
                z = step[z, now]
                p *= emit[z, now, after]
            index = int("".join(map(str, word)), vocabulary)
            joint[divmod(index, vocabulary**half)] = p
        product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
        seen = joint > 0
        mi = float((joint[seen] * np.log(joint[seen] / product[seen])).sum())
        assert joint.sum() == pytest.approx(1)
        law = ScalingLaw("exact", mi, 0.0)
        needs = required(law, 2 * half, Capacity("1 bit", math.log(2)), vocabulary)[0]
        assert needs <= elements
        worst = max(worst, mi / (elements * math.log(2) + math.log(vocabulary)))
    assert worst > 0.3  # the bound is not idle


def test_a_copy_needs_a_bit_an_element():
    """Y = X, n fair bits: I = n ln 2, and a state of n bits is what it takes."""
    law = ScalingLaw("copy", math.log(2) / 2, 1.0)  # I(L/2; L) = L/2 · ln 2
    for n in (1, 5, 100):
        assert required(law, 2 * n, Capacity("1 bit", math.log(2)), 1)[0] == pytest.approx(n)
        assert required(law, 2 * n, Capacity("16 bits", 16 * math.log(2)), 1)[0] == pytest.approx(n / 16)


@pytest.mark.parametrize("name", ["subvolume", "logarithmic"])
def test_gaussian_channels_carry_what_the_rank_allows(name):
    """I = Σ ½ ln(1 + SNR_i) over the rank of Cov(X, Y) canonical pairs, so I <= rank · ½ ln(1 + SNR_max)."""
    for layers in (2, 3, 4):
        sigma = dense.covariance(families.named(name, layers))
        half = len(sigma) // 2
        whiten = [np.linalg.inv(np.linalg.cholesky(block)) for block in (sigma[:half, :half], sigma[half:, half:])]
        rho = np.linalg.svd(whiten[0] @ sigma[:half, half:] @ whiten[1].T, compute_uv=False)
        rank, mi = exact_mi.cross_rank(sigma, half), dense.mutual_information(sigma, half)
        channels = 0.5 * np.log1p(rho**2 / (1 - rho**2))[:rank]
        assert channels.sum() == pytest.approx(mi)
        exact = ScalingLaw("exact", mi, 0.0)
        assert required(exact, 2 * half, Capacity("best channel", channels[0]), 1)[0] <= rank
        assert required(exact, 2 * half, Capacity("mean channel", mi / rank), 1)[0] == pytest.approx(rank)


@pytest.mark.parametrize(("tokens", "slope"), [(1, 4.0), (20, 1.0), (50, 4.0)])
def test_a_gentle_law_of_a_bounded_state_obeys_the_grid_bound(tokens, slope):
    """One element z in [−1, 1], coins of bias sigmoid(slope · z): ln q is λ-Lipschitz in z, λ = slope · tokens."""
    z = np.linspace(-1, 1, 2001)
    heads = np.arange(tokens + 1)
    log_choose = [math.lgamma(tokens + 1) - math.lgamma(k + 1) - math.lgamma(tokens - k + 1) for k in heads]
    log_q = np.array(log_choose) + slope * np.outer(z, heads) - tokens * np.logaddexp(0, slope * z)[:, None]
    q = np.exp(log_q)  # (z, number of heads), a sufficient statistic
    mi = float((q * (log_q - np.log(q.mean(axis=0)))).sum(axis=1).mean())
    steepness = slope * tokens
    assert np.abs(np.diff(slope * np.outer(z, heads) - tokens * np.logaddexp(0, slope * z)[:, None], axis=0)).max() <= (
        steepness * (z[1] - z[0])
    )
    assert 0.2 < mi <= 1 + math.log(math.ceil(steepness))  # d = 1, R = 1, no current token


def test_smallest_linear_states_of_the_gaussian_family_are_a_single_model(tmp_path):
    """Rank 3r + 1 a layer, 5 at L = 16, and I ~ L^log_4 3: the state grows as the law does."""
    rank, rows = 5, []
    for layer in range(2, 14):
        rows.append(("linear", "total", 4**layer // 2, rank, 8 * rank))
        rank = 3 * rank + 1
    fit = save(fit_table(A=0.1012, beta=0.7924, half_beta=0.0), tmp_path / "fit.csv")
    table, _ = run_it(
        tmp_path, "--law", "--fit", fit, "--nats-per-element", 0.16, 0.18, "--vocabulary", 1,
        table=pd.DataFrame(rows, columns=states.STATE),
    )  # fmt: skip
    assert table["growth_exponent"].to_numpy() == pytest.approx(math.log(3, 4), abs=1e-5)
    assert (table["verdict"] == "satisfies").all()
    held = table.set_index("capacity")["exceeded"]
    assert held["0.18 nats"] == "never"
    assert held["0.16 nats"] == "nowhere held"  # six elements a nat is what it takes: 1/6 = 0.167


# ---- the paper's numbers ---------------------------------------------------------------------------------------------


def test_a_million_tokens(tmp_path):
    """More than 60,000 nats, give or take (82,000 and 59,000): 10^5 to 10^6 elements where one holds 1 to 0.1 nats."""
    _, said = run_it(tmp_path, "--nats-per-element", 1, 0.1)
    needs = pd.read_csv(tmp_path / "out" / "required.csv").query("L_tokens == 1_000_000").set_index(["law", "capacity"])
    for law, nats, printed in (("paper-direct", 82_419, "82,419"), ("paper-vclub", 59_322, "59,322")):
        rows = needs.loc[law]
        assert rows["mi_nats"].to_numpy() == pytest.approx(nats, abs=1)
        ln_M = math.log(128_256)
        assert rows["required_elements"]["1 nat"] == pytest.approx(nats - ln_M, abs=1)
        assert rows["required_elements"]["0.1 nats"] == pytest.approx(10 * (nats - ln_M), abs=10)
        assert rows["required_elements"]["16 bits"] == pytest.approx((nats - ln_M) / (16 * math.log(2)), abs=1)
        assert rows["mi_lo95"].isna().all()  # the paper gives no interval
        assert f"{printed} nats at 1,000,000 tokens" in said
    assert 1e4 < needs["required_elements"].xs("1 nat", level="capacity").min() < 1e5
    assert 5e5 < needs["required_elements"].xs("0.1 nats", level="capacity").min() < 1e6


# ---- lengths, exponents, verdicts ------------------------------------------------------------------------------------


def test_crossings_in_closed_form(tmp_path):
    table, _ = run_it(tmp_path, "--law", "paper-direct", "--bits-per-element", 4, "--nats-per-element", 0.1)
    rows, ln_M = table.set_index(["model", "capacity"]), math.log(128_256)
    for capacity, C in (("4 bits", 4 * math.log(2)), ("0.1 nats", 0.1)):
        for model, elements in (("constant", 6000), ("windows", 10 * 4095)):
            row = rows.loc[model, capacity]
            assert row["max_context_tokens"] == pytest.approx(((C * elements + ln_M) / 2.27) ** (1 / 0.76), rel=1e-9)
            assert (row["verdict"], row["exceeded"], row["growth_exponent"]) == ("violates", "at", 0)
            wanted = 2.27 * 1e6**0.76
            assert row["mi_nats"] == pytest.approx(wanted)
            assert row["capacity_nats"] == pytest.approx(C * elements + ln_M)
            assert row["nats_per_element"] == pytest.approx(C)
            assert row["satisfies_wanted"] == ("yes" if C * elements + ln_M >= wanted else "no")
        for model in ("attention", "latent", "hybrid"):
            row = rows.loc[model, capacity]
            assert (row["verdict"], row["growth_exponent"]) == ("satisfies", 1)
            assert (row["max_context_tokens"], row["exceeded"]) == (math.inf, "never")
        row = rows.loc["levels", capacity]
        x = row["max_context_tokens"]
        between = 500 * (21 + math.log2(x / 2**21)) if x > 2**21 else 500 * np.interp(
            x / 2, CONTEXTS, [t.bit_length() for t in CONTEXTS]
        )  # fmt: skip
        assert 2.27 * x**0.76 == pytest.approx(C * between + ln_M, rel=1e-6)
        assert (row["verdict"], row["exceeded"], row["growth_exponent"]) == ("violates", "at", 0)
    groups = table.drop_duplicates("model").set_index("model")["group"]
    assert groups.to_dict() == {
        "attention": "full attention",
        "latent": "latent attention",
        "constant": "bounded",
        "windows": "bounded",
        "hybrid": "hybrid",
        "levels": "logarithmic",
    }


def test_attention_of_weak_elements_holds_from_a_length_on(tmp_path):
    """C · a · L/2 = A · L^β at L = (2A/(C·a))^(1/(1−β)), below which the law asks for more."""
    flags = ["--law", "paper-direct", "--vocabulary", 1, "--nats-per-element", 0.004]
    table, _ = run_it(tmp_path, *flags, table=state_table({"weak": {"full_attention": lambda t: 100 * t}}))
    row = table.set_index("capacity").loc["0.004 nats"]
    assert row["min_context_tokens"] == pytest.approx((2 * 2.27 / 0.4) ** (1 / 0.24), rel=1e-9)
    assert row["max_context_tokens"] == math.inf
    assert table.set_index("capacity").loc["16 bits", "min_context_tokens"] == 2 * CONTEXTS[0]


def test_states_that_grow_by_a_power(tmp_path):
    root = {"root": {"own": lambda t: round(900 * t**0.5)}, "faster": {"own": lambda t: round(9 * t**0.9)}}
    flags = ["--law", "paper-direct", "--vocabulary", 1, "--nats-per-element", 1]
    table, _ = run_it(tmp_path, *flags, table=state_table(root, total=False))
    rows = table[table["capacity"] == "1 nat"].set_index("model")
    assert rows["growth_exponent"].to_numpy() == pytest.approx([0.5, 0.9], abs=1e-3)
    assert rows["verdict"].to_list() == ["violates", "satisfies"]
    assert rows.loc["root", "max_context_tokens"] == pytest.approx((900 / 2**0.5 / 2.27) ** (1 / 0.26), rel=0.01)
    assert rows.loc["faster", "exceeded"] == "never"
    # So little slower than the law that 10^40 tokens do not tell.
    close = {"close": {"own": lambda t: round(900 * t**0.75)}}
    row = run_it(tmp_path, *flags, table=state_table(close, total=False))[0].set_index("capacity").loc["16 bits"]
    assert (row["verdict"], row["exceeded"], row["max_context_tokens"]) == ("violates", "not before", 1e40)


def test_the_growth_that_the_table_names_counts(tmp_path):
    """A window that is not full grows as attention does, and only the table knows better."""
    short = [256, 512, 1024]
    plain = state_table({"windows": KINDS["windows"]}, short)
    named = plain.assign(growth_exponent=0, growth_logarithms=0)
    naive, _ = run_it(tmp_path, table=plain)
    assert (naive["verdict"] == "satisfies").all()
    table, _ = run_it(tmp_path, table=named)
    assert (table["verdict"] == "violates").all()
    assert (table["exceeded"] == "not before").all()
    assert (table["max_context_tokens"] == 2 * 1024).all()
    assert (table["satisfies_wanted"] == "unknown").all()  # its size at half a million tokens is not in the table
    levels = state_table({"levels": KINDS["levels"]}, [1000, 1500, 2000, 10_000])  # powers of two between some
    table, _ = run_it(tmp_path, table=levels.assign(growth_exponent=0, growth_logarithms=1))
    assert (table["group"] == "logarithmic").all()
    assert (table["verdict"] == "violates").all()
    assert (table["exceeded"] == "at").all()  # beyond the table, on a logarithm through its ends
    row = table.set_index(["law", "capacity"]).loc["paper-direct", "1 nat"]
    size = 500 * (14 + 4 * math.log10(row["max_context_tokens"] / 2 / 10_000))
    assert row["mi_nats"] > size
    assert 2.27 * row["max_context_tokens"] ** 0.76 == pytest.approx(size + math.log(128_256))


@pytest.mark.parametrize(
    ("exponent", "interval", "said"),
    [
        (0.76, (), "satisfies"),
        (0.75, (), "violates"),
        (1.0, (0.7, 0.8), "satisfies"),
        (0.8, (0.7, 0.8), "satisfies"),
        (0.75, (0.7, 0.8), "undecided"),
        (0.7, (0.7, 0.8), "undecided"),
        (0.69, (0.7, 0.8), "violates"),
        (1.0, (0.9, 1.1), "undecided"),
        (math.nan, (0.7, 0.8), "undecided"),
        (math.nan, (), "undecided"),
    ],
)
def test_verdicts(exponent, interval, said):
    assert verdict(exponent, 0.76, *interval) == said


def test_a_fit_and_its_interval(tmp_path):
    fit = save(fit_table(), tmp_path / "fit.csv")
    table, said = run_it(tmp_path, "--fit", fit, "--estimator", "vclub", "--lengths", 1000, 10_000_000)
    rows = table[table["law"] == "books-vclub"]
    assert rows["beta"].to_numpy() == pytest.approx(0.62)  # the third block of the table: vclub at L = 2 ell
    assert rows["beta_lo95"].to_numpy() == pytest.approx(0.57)  # the books', not the documents'
    assert rows["beta_hi95"].to_numpy() == pytest.approx(0.67)
    row = rows[(rows["model"] == "constant") & (rows["capacity"] == "1 nat")].iloc[0]
    assert row["max_context_lo95"] < row["max_context_tokens"] < row["max_context_hi95"]
    assert row["mi_lo95"] < row["mi_nats"] < row["mi_hi95"]
    assert "measured to L = 2048: 1,000,000 tokens are extrapolated" in said
    needs = pd.read_csv(tmp_path / "out" / "required.csv").query("law == 'books-vclub' and capacity == '1 nat'")
    at = needs.set_index("L_tokens").loc[1_000_000]
    assert at["required_hi95"] == pytest.approx(row["mi_hi95"] - math.log(128_256))
    facts = json.loads((tmp_path / "out" / "condition.json").read_text())
    assert facts["ln_vocabulary_nats"] == pytest.approx(11.76, abs=0.01)
    assert set(facts["inputs"]) == {"state.csv", "fit.csv"}
    # At another cut it is another law, and the state of a third of the tokens.
    table, _ = run_it(tmp_path, "--law", "--fit", fit, "--L-over-ell", 3, "--wanted", 3000)
    assert table["beta"].to_numpy() == pytest.approx(0.61)
    row = table[table["capacity"] == "1 nat"].set_index("model").loc["attention"]
    assert row["state_elements"] == pytest.approx(100 * 1000)
    assert row["capacity_nats"] == pytest.approx(100 * 1000 + math.log(128_256))


def test_wanted_is_undecided_within_the_interval(tmp_path):
    fit = save(fit_table(), tmp_path / "fit.csv")
    rows = run_it(tmp_path, "--law", "--fit", fit)[0].drop_duplicates("model")
    low, high = rows.iloc[0][["mi_lo95", "mi_hi95"]]
    sizes = {"small": low - 20, "within": (low + high) / 2, "large": high + 1}
    kinds = {name: {"own": lambda t, size=size: round(size)} for name, size in sizes.items()}
    table, _ = run_it(tmp_path, "--law", "--fit", fit, table=state_table(kinds))
    held = table[table["capacity"] == "1 nat"].set_index("model")["satisfies_wanted"]
    assert held.to_dict() == {"small": "no", "within": "undecided", "large": "yes"}


def test_interval_is_that_of_a_line():
    """Points of equal independent errors: what fit.csv tells of a line is all there is to know of it."""
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


def test_bytes_are_a_capacity_of_their_own(tmp_path):
    table, _ = run_it(tmp_path, "--law", "paper-vclub", "--follow-bytes")  # two bytes an element
    both = table.pivot(index="model", columns="capacity", values="capacity_nats")
    assert both["bytes"].to_numpy() == pytest.approx(both["16 bits"].to_numpy())
    capacity = pd.read_csv(tmp_path / "out" / "capacity.csv").set_index(["model", "capacity", "L_tokens"])
    row = capacity.loc[("hybrid", "bytes", 10_000)]
    assert row["state_elements"] == pytest.approx(7 * 5000 + 10 * 1023)
    assert row["capacity_nats"] == pytest.approx(16 * math.log(2) * row["state_elements"] + math.log(128_256))
    assert capacity.index.get_level_values("L_tokens").min() == 1000  # the state of 500 tokens: the table begins at 256
    assert 100 not in capacity.index.get_level_values("L_tokens")


def test_totals_alone_and_lines_beyond_the_table():
    state = State("own", np.array([10.0, 20.0]), {"total": np.array([30.0, 60.0])}, {})
    assert state.end == math.inf
    known = states.growth(state.tokens, state.sizes["total"])
    assert (known.exponent, float(known.beyond(np.float64(50)))) == (1.0, 150.0)
    unknown = states.growth(np.array([10.0, 20.0]), np.array([30.0, 50.0]))  # fixed and per token, or a power?
    assert math.isnan(unknown.exponent)
    affine = states.growth(np.array([10.0, 20.0, 40.0]), np.array([30.0, 50.0, 90.0]))
    assert (affine.exponent, float(affine.beyond(np.float64(100)))) == (1.0, 210.0)
    assert paper_law("paper-direct").mi(1.0) == pytest.approx(2.27)


# ---- information per state element


def test_carried(tmp_path):
    runs = [("a", 16, 0, 100, 4.0, 0.9, 0.01), ("a", 64, 0, 100, 11.0, -0.5, 0.02), ("b", 64, 1, 500, 11.0, 1.0, 0.0)]
    runs.append(("independent", 64, 0, 0, 11.0, -3.0, 0.0))
    summary = save(pd.DataFrame(runs, columns=state_information.COLUMNS), tmp_path / "summary.csv")
    done = call_script(INFORMATION, "--summary", summary, "--out", tmp_path / "state_information.csv")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "state_information.csv")
    assert table["used_nats"].to_numpy() == pytest.approx([3.6, -5.5, 11.0])
    assert table["nats_per_element"].to_numpy() == pytest.approx([0.036, -0.055, 0.022])
    assert table["stderr_nats_per_element"].to_numpy() == pytest.approx([0.0004, 0.0022, 0])
    assert "0.036" in done.stdout
    table, _ = run_it(tmp_path, "--state-information", tmp_path / "state_information.csv")
    assert table[table["capacity"] == "measured"]["nats_per_element"].to_numpy() == pytest.approx(0.036)


def test_carried_refuses(tmp_path):
    def said(table: pd.DataFrame, out: str = "state_information.csv") -> str:
        summary = save(table, tmp_path / "summary.csv")
        return one_line_error(call_script(INFORMATION, "--summary", summary, "--out", tmp_path / out))

    run = pd.DataFrame([("a", 16, 0, 100, 4.0, 0.9, 0.01)], columns=state_information.COLUMNS)
    assert "lacks the column utilisation" in said(run.drop(columns="utilisation"))
    assert "has no run with a state" in said(run.assign(state_size=0))
    assert "without a utilisation" in said(run.assign(utilisation=np.nan))
    assert "mi_nats is 'much', not a number" in said(run.assign(mi_nats="much"))
    assert "give the name of a .csv file" in said(run, "measured")


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--bits-per-element", -1], "--bits-per-element -1: give a number above 0"),
        (["--bits-per-element", "nan"], "--bits-per-element nan"),
        (["--nats-per-element", 1, 0], "--nats-per-element 1 0: all above 0"),
        (["--wanted", 0], "--wanted 0: give a context"),
        (["--wanted", -5], "--wanted -5"),
        (["--wanted", 100], "begins at 256 tokens for attention"),
        (["--vocabulary", 0], "--vocabulary 0"),
        (["--lengths", 0], "--lengths"),
        (["--law"], "no law: give --fit fit.csv, or --law paper-direct"),
        (["--L-over-ell", 3], "the paper's laws are of L/2"),
        (["--law", "--fit", "FIT", "--L-over-ell", 1], "--L-over-ell 1: give 2 or more"),
        (["--fit", "FIT", "--estimator", "guess"], "but power of direct at L = 2 ell"),
        (["--fit", "FIT", "--fit-law", "power_ols"], "has not one A and one beta of the law power_ols of direct"),
        (["--fit", "FIT", "SAME"], "two laws are called books-direct"),
        (["--fit", "nowhere.csv"], "no file nowhere.csv"),
        (["--fit", "STATE"], "lacks the columns source, estimator"),
        (["--state-information", "STATE"], "lacks the column nats_per_element"),
        (["--out", "STATE"], "is a file: give a folder"),
    ],
)
def test_bad_settings(tmp_path, flags, said):
    files = {"FIT": save(fit_table(), tmp_path / "fit.csv"), "STATE": save(state_table(), tmp_path / "state.csv")}
    files["SAME"] = save(fit_table(), tmp_path / "same.csv")
    flags = [files.get(flag, flag) for flag in flags]
    done = call_script(SCRIPT, "--state", files["STATE"], "--out", tmp_path / "out", *flags)
    assert said in one_line_error(done)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop(columns="state_elements"), "lacks the column state_elements"),
        (lambda t: t.drop(columns=["model", "layer_kind"]), "lacks the columns model, layer_kind"),
        (lambda t: t[:0], "has no rows"),
        (lambda t: t[t["context_tokens"] == 256], "has attention at one context only"),
        (lambda t: pd.concat([t, t]), "twice"),
        (lambda t: t.assign(state_elements=-1), "line 2: context_tokens from 1 on and sizes from 0 on"),
        (lambda t: t.assign(state_elements="many"), "state_elements is 'many', not a number"),
        (lambda t: t.drop(index=0), "the kinds of attention have different contexts"),
        (
            lambda t: t.assign(state_elements=t["state_elements"] + (t["layer_kind"] == "total")),
            "total of attention is not the sum",
        ),
    ],
)
def test_bad_states(tmp_path, change, said):
    state = save(change(state_table()), tmp_path / "state.csv")
    done = call_script(SCRIPT, "--state", state, "--out", tmp_path / "out")
    assert said in one_line_error(done)


@pytest.mark.parametrize("change", [{"value": -1.0}, {"value": np.nan}])
def test_bad_fits(tmp_path, change):
    fit = save(fit_table().assign(**change), tmp_path / "fit.csv")
    done = call_script(
        SCRIPT, "--state", save(state_table(), tmp_path / "s.csv"), "--fit", fit, "--out", tmp_path / "o"
    )
    assert "are no law that grows" in one_line_error(done)


# ---- the page --------------------------------------------------------------------------------------------------------


def test_the_table_of_the_page_is_that_of_the_csv():
    table = pd.read_csv(ROOT / "results" / "condition" / "condition.csv")
    table = table[table["law"] == "paper-direct"].set_index(["model", "capacity"])
    page = (ROOT / "l2m_condition" / "README.md").read_text(encoding="utf-8")
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.endswith(" |") and "**" not in line]
    rows = [[cell.strip() for cell in row] for row in rows if len(row) == 8 and row[0].strip() in table.index.levels[0]]
    assert len(rows) == 12
    for model, group, state, exponent, said, *held in rows:
        for capacity, tokens in zip(("16 bits", "1 nat", "measured"), held, strict=True):
            row = table.loc[model, capacity]
            assert (group, said, float(exponent)) == (row["group"], row["verdict"], row["growth_exponent"]), model
            assert state == f"{row['state_elements'] / 1e6:,.1f}"
            if tokens == "always":
                assert (row["exceeded"], row["min_context_tokens"]) == ("never", 512)  # where the table begins
            else:
                assert (row["exceeded"], tokens) == ("at", f"{row['max_context_tokens'] / 1e6:,.2f}")


def test_the_numbers_of_the_page_are_those_of_the_csvs():
    results = ROOT / "results" / "condition"
    page = " ".join((ROOT / "l2m_condition" / "README.md").read_text(encoding="utf-8").split())
    needs = pd.read_csv(results / "required.csv").query("L_tokens == 1_000_000").set_index(["law", "capacity"])
    direct, vclub = (needs.loc[law]["required_elements"] for law in ("paper-direct", "paper-vclub"))
    assert f"{direct['16 bits']:,.0f} and {vclub['16 bits']:,.0f} elements at 16 bits" in page
    assert f"{direct['1 nat']:,.0f} and {vclub['1 nat']:,.0f} at one nat" in page
    assert f"{direct['measured'] / 1e6:.0f} and {vclub['measured'] / 1e6:.0f} million at what was measured" in page
    runs = pd.read_csv(results / "state_information.csv")
    best = runs.loc[runs["nats_per_element"].idxmax()]
    assert f"{best['nats_per_element']:.4f} nats an element, of Mamba2 with {best['state_size']:,} elements" in page
    assert best["model"].startswith("mamba2")
    table = pd.read_csv(results / "condition.csv")
    assert (table.groupby("model")["verdict"].nunique() == 1).all()  # "all verdicts are the same under our own law"
    row = table.query("law == 'paper-direct' and capacity == 'measured' and model == 'Mamba-130M'").iloc[0]
    assert f"Mamba-130M reaches it at {round(row['max_context_tokens'], -3):,.0f} tokens" in page
    ours = table[table["law"] == "books-direct"].iloc[0]
    assert f"{ours['beta']:.2f} [{ours['beta_lo95']:.2f}, {ours['beta_hi95']:.2f}]" in page
    # 16 bits: "no published model is anywhere near its bound", of a series that is 400 million tokens and more
    assert table.query("law == 'paper-direct' and capacity == '16 bits'")["max_context_tokens"].min() > 4e8


def test_a_crossing_at_the_first_length_of_the_table(tmp_path):
    """exp(ln 512) is below 512, where the table has nothing; the condition first fails, and holds from there on."""
    tokens = [256 * 2**i for i in range(10)]
    rows = [("one", "total", t, 65_536 * t, 131_072 * t) for t in tokens]
    pd.DataFrame(rows, columns=states.STATE).to_csv(tmp_path / "state.csv", index=False)
    flags = ["--state", tmp_path / "state.csv", "--out", tmp_path, "--law", "paper-direct"]
    done = call_script(SCRIPT, *flags, "--nats-per-element", 1.478e-5)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "condition.csv")
    row = table[table["capacity"] == "1.478e-05 nats"].iloc[0]
    assert 512 <= row["min_context_tokens"] < 520
    assert row["exceeded"] == "never"
