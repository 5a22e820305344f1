r"""Information per state element, in nats, of models trained on Gaussian sequences (not in the paper).

    python l2m_condition/state_information.py --summary results/fig3/summary.csv \
        --out results/condition/state_information.csv

Theorem 5.2 bounds I(L/2; L) by C · dim(z) and leaves C open. This program measures it. A model that has read the first
half X predicts the second half Y better than the law of Y alone does, by
    E[log q(Y|X)] − E[log p(Y)] = U · I(L/2; L)   (nats; U = `utilisation` of summary.csv)
A prediction from (z, current token) can gain at most I(z, token; Y). So state and current token together hold at least
U · I(L/2; L) / dim(z) nats an element. The contribution of the token, which is small if the half is long, is not
subtracted. This is no upper limit: longer or better training would use more. The largest of many runs is slightly too
large by chance.

Writes state_information.csv, a row a run: model, L, seed, state_size (elements after L/2 tokens), mi_nats, utilisation,
used_nats, nats_per_element, stderr_nats_per_element (over draws). One CPU core, a second.
Expect with PRESET=cpu: at most 0.007 nats an element; a linear state of the smallest size holds 0.17.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from common.cli import UserError, run
from common.record import numbers, read_csv, write_csv

COLUMNS = ["model", "L", "seed", "state_size", "mi_nats", "utilisation", "utilisation_stderr"]
REMEDY = "make it with python gaussian_synthetic/evaluate.py --runs … --out results/mine"


@dataclass(frozen=True)
class Settings:
    summary: Path = Path("results/fig3/summary.csv")
    """summary.csv of gaussian_synthetic/evaluate.py"""
    out: Path = Path("results/condition/state_information.csv")
    """the CSV to write"""

    def validate(self) -> None:
        if self.out.suffix != ".csv":
            raise UserError(f"--out {self.out}: give the name of a .csv file")


def information_per_element(path: Path) -> pd.DataFrame:
    """The rows of state_information.csv, of the runs that keep a state. UserError: a bad file, or no such run."""
    table = read_csv(path, COLUMNS, REMEDY)
    for column in COLUMNS[1:]:
        table[column] = numbers(table[column], path, REMEDY)
    table = table[table["state_size"] > 0].astype({"L": int, "seed": int, "state_size": int})  # not `independent`
    if table.empty or not table["utilisation"].notna().all():
        raise UserError(f"{path} has no run with a state, or one without a utilisation: {REMEDY}")
    nats = table["utilisation"] * table["mi_nats"]
    error = table.pop("utilisation_stderr") * table["mi_nats"] / table["state_size"]
    each = nats / table["state_size"]
    return table.assign(used_nats=nats, nats_per_element=each, stderr_nats_per_element=error)


def main(cfg: Settings) -> None:
    started = time.time()
    cfg.validate()
    table = information_per_element(cfg.summary)
    write_csv(cfg.out, table, cfg, [cfg.summary], started)
    best = table.loc[table["nats_per_element"].idxmax()]
    print(f"{len(table)} runs; at most {best['nats_per_element']:.3g} ± {best['stderr_nats_per_element']:.1g}")
    print(f"nats an element: {best['model']}, L = {best['L']}, seed {best['seed']}, {best['state_size']} elements")
    print(f"wrote {cfg.out}")


if __name__ == "__main__":
    run(main, Settings, __doc__)
