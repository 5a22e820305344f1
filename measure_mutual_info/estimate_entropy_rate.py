r"""Fit the decay of the entropy per token with its position, h(n) = −E log q(w_n|BOS w_1 … w_{n−1}), and derive β.

    python measure_mutual_info/estimate_entropy_rate.py --scores results/fig2b/scores.csv --out results/fig2b

Not in the paper. Reads scores.csv (score_documents.py): log q(Y|X) at L = 2 ell is the sum over the tokens ell + 1 …
2 ell, so the scores give h(n) block by block. Writes to the folder --out:
    entropy_rate.csv      nats per token in each block, with standard errors over documents and over books
    entropy_rate_fit.csv  h(n) = h + A n^−gamma, with the intervals of fit.csv (estimate_bipartite.py); beta = 1 − gamma

If h(n) follows this law, I(ell; 2 ell) = 2 H(ell) − H(2 ell) grows as ell^(1−gamma) (Cagnetta, Raventós, Ganguli and
Wyart, arXiv 2602.07488). The fit is refused if gamma is not clearly above 0, because h is then undetermined.

Hardware: one CPU core, half a minute. Expect 1 − gamma to be close to the exponent of I if the model is good and the
text stationary. Its errors are those of block_entropy, which are larger than those of direct.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from common.cli import UserError, at_least, run
from common.powerlaw import Fit, NoFitError, bootstrap_intervals
from common.record import write_csv
from measure_mutual_info.estimate_bipartite import FIT_COLUMNS, by_book, fit_rows, fit_terms, fit_units
from measure_mutual_info.scoring import tables

FITTED = [name for name in FIT_COLUMNS if name not in ("estimator", "L_over_ell", "selected")]


@dataclass(frozen=True)
class Settings:
    scores: Path  # scores.csv of score_documents.py, with L = 2 ell
    out: Path  # folder for entropy_rate.csv and entropy_rate_fit.csv
    n_fit_min: int = 0  # tokens; the fit uses the blocks that start after this token
    bootstrap: int = 500  # resamplings of whole books; 0 for none
    seed: int = 0  # seed of the resamplings

    def validate(self) -> None:
        at_least(0, self, "n_fit_min", "bootstrap")


def block_rates(scores: pd.DataFrame) -> pd.DataFrame:
    """−log q per token in nats, documents × (ell_tokens, L_tokens): the mean over the tokens ell + 1 … L = 2 ell.

    scores: as returned by `read_scores`.
    """
    blocks = scores[scores["L_tokens"] == 2 * scores["ell_tokens"]]
    rates = blocks.assign(rate=-blocks[tables.LOGQ[0]] / blocks["ell_tokens"])
    return rates.pivot(index="document", columns=tables.KEY[1:], values="rate").sort_index(axis=1)


def middle(blocks: pd.MultiIndex) -> np.ndarray:
    """The geometric midpoint of each block, ell + 1 … L.

    There n^−gamma equals its mean over the block up to a factor, the same for all blocks within 0.35% for gamma <= 1.
    """
    ell, L = (blocks.get_level_values(name).to_numpy() for name in tables.KEY[1:])
    return np.sqrt((ell + 0.5) * (L + 0.5))


def fit_decay(n: np.ndarray, rates: np.ndarray) -> Fit:
    """h(n) = h + A n^−gamma by generalised least squares, with beta = 1 − gamma. NoFitError as `fit_terms`.

    n: (p,) tokens; rates: (documents or books, p) nats per token.
    """
    fit = fit_terms("power_plus_constant", n, rates)
    slope, low, high = fit.parameters["beta"]
    named = {"A": fit.parameters["A"], "gamma": (-slope, -high, -low), "beta": (1 + slope, 1 + low, 1 + high)}
    return replace(fit, parameters=named | {"h": fit.parameters["C"]})


def fit_table(
    here: dict[str, str], n: np.ndarray, rates: np.ndarray, units: np.ndarray, clusters: str, cfg: Settings
) -> list[dict]:
    """Rows of entropy_rate_fit.csv. NoFitError: as `fit_decay`, or gamma is not clearly above 0.

    n, rates: as in `fit_decay`. units: the resampling unit of each row of rates; clusters: a name for these units.
    """
    fit, boot = fit_decay(n, rates), {}
    if not fit.parameters["gamma"][1] > 0:  # also true for NaN
        raise NoFitError("gamma is not clearly above 0, and so h could be anything")
    if cfg.bootstrap:
        boot = bootstrap_intervals(units, lambda rows, _: [fit_decay(n, rates[rows])], cfg.bootstrap, cfg.seed)
    return fit_rows(here, [fit], boot, clusters)


def main(cfg: Settings) -> None:
    scores, documents_line = tables.read_scores(cfg.scores)
    (source, model), _ = tables.read_record(cfg.scores)
    here = {"source": source, "model": model}
    rates = block_rates(scores)
    if rates.empty:
        raise UserError(f"{cfg.scores} has no L = 2 ell: score the documents with --ratios 2")
    book = scores.drop_duplicates("document").set_index("document")["book"]
    ell, L = (rates.columns.get_level_values(name) for name in tables.KEY[1:])
    columns = {"first_token": ell + 1, "last_token": L, "nats_per_token": rates.mean().to_numpy()}
    columns["stderr_nats"] = rates.sem().to_numpy()
    columns["stderr_by_book_nats"] = by_book(rates, book).sem().to_numpy()
    curve = pd.DataFrame(columns).assign(n_documents=len(rates), n_books=book.nunique(), **here)
    curve = curve[[*here, *curve.columns.difference(here, sort=False)]]

    fitted, of_units, units, clusters = fit_units(rates.loc[:, ell >= cfg.n_fit_min], book)
    try:
        rows = fit_table(
            here | {"fit_units": of_units}, middle(fitted.columns), fitted.to_numpy(), units, clusters, cfg
        )
        said = ", ".join(f"{row['parameter']} = {row['value']:.3f}" for row in rows) + f", p = {rows[0]['p_value']:.2g}"
    except NoFitError as error:
        rows, said = [], f"no fit: {error}"
    fits = pd.DataFrame(rows, columns=FITTED).rename(columns={"L_min": "n_min", "L_max": "n_max"})
    write_csv(cfg.out / "entropy_rate.csv", curve, cfg, [cfg.scores])
    write_csv(cfg.out / "entropy_rate_fit.csv", fits, cfg, [cfg.scores])
    print(f"{documents_line}; h(n) = h + A n^-gamma: {said}; in {cfg.out}")


if __name__ == "__main__":
    run(main, Settings, __doc__)
