"""Coverage of intervals: the replications of bipartite.py become the rows of coverage.csv."""

from __future__ import annotations

import math

import pandas as pd
from scipy.special import stdtrit
from scipy.stats import binomtest

METHODS = ("gls", "ols")  # generalised and ordinary least squares


def coverage(estimates: pd.DataFrame, fits: pd.DataFrame, beta_exact_local: float) -> pd.DataFrame:
    """Rows of coverage.csv: one for each predictor, estimator, number of documents, and quantity.

    mean_half_width: of the 95% interval, on average. sd: over replications, what mean_stderr (I only) should be.
    coverage with the 95% interval of Clopper and Pearson; a replication without a fit does not cover.
    beta_exact_local: slope of the straight line through the exact curve in log-log; coverage_local: how often the
    interval of β held that. selected_power, selected_logarithm: shares of the replications.
    """
    rows = []
    keys = ["process", "predictor", "estimator", "n_documents"]

    def row(key: tuple, quantity: str, L: float, part: pd.DataFrame, value: str, true: float, half: pd.Series) -> dict:
        return dict(zip(keys, key, strict=True)) | {
            "quantity": quantity,
            "L_tokens": L,
            "truth": true,
            "mean": part[value].mean(),
            "bias": part[value].mean() - true,
            "sd": part[value].std(ddof=1),
            "mean_half_width": half.mean(),
            **share_covered(part["covered"]),
            "replications": len(part),
            "failed": int(part[value].isna().sum()),
        }

    for key, part in estimates.groupby(keys, sort=False):
        for L, at in part.groupby("L_tokens"):
            half = stdtrit(key[-1] - 1, 0.975) * at["stderr_nats"]
            errors = {"mean_stderr": at["stderr_nats"].mean()}
            rows.append(row(key, "mi", L, at, "mi_nats", at["mi_true_nats"].iloc[0], half) | errors)
        ours = fits[(fits[keys] == list(key)).all(axis=1)]
        for method, of in ours.groupby("method"):
            held = (of["lo95"] <= beta_exact_local) & (beta_exact_local <= of["hi95"])
            more = {"beta_exact_local": beta_exact_local, "coverage_local": held.mean()}
            if method == "gls":
                more |= {f"selected_{law}": (of["selected"] == law).mean() for law in ("power", "logarithm")}
            half = (of["hi95"] - of["lo95"]) / 2
            rows.append(row(key, f"beta_{method}", math.nan, of, "beta", of["beta_true"].iloc[0], half) | more)
    table = pd.DataFrame(rows).astype({"L_tokens": "Int64"})
    numbers = table.select_dtypes("float").columns
    return rounded(table, dict.fromkeys(numbers, 6))


def share_covered(covered: pd.Series) -> dict[str, float]:
    """The share of intervals that held the truth, with its 95% interval (Clopper and Pearson). covered: booleans."""
    interval = binomtest(int(covered.sum()), len(covered)).proportion_ci()
    return {"coverage": covered.mean(), "coverage_lo95": interval.low, "coverage_hi95": interval.high}


def rounded(table: pd.DataFrame, digits: dict[str, int]) -> pd.DataFrame:
    """The table with these columns cut to so many significant digits."""
    return table.assign(**{name: [float(f"{x:.{n}g}") for x in table[name]] for name, n in digits.items()})


def print_summary(summary: pd.DataFrame) -> None:
    """What coverage.csv says, a line for each predictor, estimator and number of documents."""
    keys = ["predictor", "estimator", "n_documents"]
    for key, rows in summary.groupby(keys, sort=False):
        mi = rows[rows["quantity"] == "mi"]
        ratio = mi["mean"] / mi["truth"]
        line = f"  {key[0]:<16}{key[1]:<8}{key[2]:>5} documents: I/truth {ratio.min():.3f} to {ratio.max():.3f}, "
        line += f"covered {mi['coverage'].min():.3f} to {mi['coverage'].max():.3f}"
        for method in METHODS:
            of = rows[rows["quantity"] == f"beta_{method}"].iloc[0]
            line += f"; beta {method} {of['mean']:.3f} ± {of['sd']:.3f} (true {of['truth']:.3f}), "
            line += f"covered {of['coverage']:.3f}"
        print(line)
