"""The gap between two models by position, and where one overtakes the other (Fig. 4, G.9): NLL → gap.csv.

    python train_on_pg19/compare.py --store results/fig4/nll --out results/fig4
    python train_on_pg19/compare.py --store results/mine/nll --pairs gpt2:mamba-130m --out results/mine

Reads the NLL of every token from the store of evaluate.py; a model's seeds are pooled. Writes into --out:
    gap.csv        a row for each pair and window of positions: gap_nats = NLL of model_a − NLL of model_b on the same
                   documents, above 0 where model_b is better, with its 95% interval over books, and over seeds if a
                   model has several (seeds_a, seeds_b)
    crossover.csv  a row for each pair: the model that leads at the last positions, and the position from which it leads
                   (overtakes_at; empty if the other leads nowhere). Up to lo95 the other model leads significantly,
                   from hi95 on this one; empty where neither is significant
CPU only, seconds. The paper: Mamba leads early positions, GPT2 the late ones, and the gap closes as models grow.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from common.cli import UserError, run
from common.record import write_csv
from train_on_pg19.nll import curves, nll_store


@dataclass(frozen=True)
class Settings:
    store: Path
    """folder of evaluate.py with the NLL of every token"""
    out: Path
    """folder for the CSVs"""
    pairs: tuple[str, ...] = ()
    """model_a:model_b; default: every two models"""
    per_doubling: int = 8
    """windows of positions in a doubling"""

    def validate(self) -> None:
        if self.per_doubling < 1:
            raise UserError(f"--per-doubling {self.per_doubling}: at least 1")
        if self.out.exists() and not self.out.is_dir():
            raise UserError(f"--out {self.out} is a file: give a folder")


def wanted_pairs(cfg: Settings, models: list[str]) -> list[tuple[str, str]]:
    """UserError: a pair of models that the store does not have, or fewer than two models."""
    if len(models) < 2:
        raise UserError(f"{cfg.store} has one model, {models[0]}: evaluate another one beside it")
    if not cfg.pairs:
        return list(itertools.combinations(models, 2))
    found = []
    for pair in cfg.pairs:
        # A name may hold a colon, so any place to cut will do that gives two names.
        ways = [(pair[:i], pair[i + 1 :]) for i, sign in enumerate(pair) if sign == ":"]
        known = [way for way in ways if set(way) <= set(models) and way[0] != way[1]]
        if not known:
            raise UserError(f"--pairs {pair}: give model_a:model_b, two of {', '.join(models)}")
        found.append(known[0])
    return found


def read_sums(cfg: Settings, names: np.ndarray) -> tuple[int, np.ndarray, dict[str, list[np.ndarray]]]:
    """L, the windows, and for each model one (books, windows) array a seed. UserError: arrays of different shapes."""
    measured = nll_store.read(cfg.store)
    shapes = {one.nll.shape for one in measured}
    if shapes != {(len(names), L := measured[0].nll.shape[1])}:
        raise UserError(f"{cfg.store} holds NLL of different lengths or documents: evaluate anew in another --store")
    of, sums = curves.windows(L, cfg.per_doubling), {}
    for one in measured:
        sums.setdefault(one.model, []).append(curves.over_windows(curves.book_sums(one.nll, names), of))
    return L, of, sums


def main(cfg: Settings) -> None:
    started = time.time()
    cfg.validate()
    names = nll_store.read_books(cfg.store)
    L, of, sums = read_sums(cfg, names)
    documents, positions = curves.counts(names), curves.centres(of)
    gaps, crossings = [], []
    for a, b in wanted_pairs(cfg, list(sums)):
        pair = {"model_a": a, "model_b": b, "L": L}
        number = {"n_documents": len(names), "n_books": len(documents)}
        number |= {"seeds_a": len(sums[a]), "seeds_b": len(sums[b])}
        found = curves.gap(sums[a], sums[b], documents)
        values = {"gap_nats": found.gap, "stderr_nats": found.error, "lo95": found.lo95, "hi95": found.hi95}
        columns = {"first": of[:, 0], "last": of[:, 1], "position": positions.round(2)}
        columns |= {name: column.round(6) for name, column in values.items()}
        gaps.append(pd.DataFrame({**pair, **columns, **number}))
        where = curves.crossover_interval(found, positions)
        at = {"overtakes_at": where.position, "lo95": where.lo95, "hi95": where.hi95}
        at = {name: round(float(value), 3) for name, value in at.items()}
        leader, other = (b, a) if found.gap[-1] > 0 else (a, b)
        crossings.append({**pair, "leads_at_the_end": leader if found.gap[-1] else "", **at, **number})
        since = f"from position {where.position:.4g} on" if where.direction else "everywhere"
        print(f"{leader} leads {other} {since}; by {abs(found.gap[-1]):.3g} nats a token in the last window")
    for name, table in (("gap", pd.concat(gaps)), ("crossover", pd.DataFrame(crossings))):
        inputs = [cfg.store / nll_store.DOCUMENTS, *(one.path for one in nll_store.read(cfg.store))]
        write_csv(cfg.out / f"{name}.csv", table, cfg, inputs=inputs, started=started)


if __name__ == "__main__":
    run(main, Settings, __doc__)
