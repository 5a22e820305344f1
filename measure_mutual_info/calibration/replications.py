"""Replications of a calibration: done in blocks, in parallel, kept so that a killed run goes on, and summed up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from tqdm import tqdm

from common.parallel import in_parallel
from common.record import write_csv
from common.resume import Pieces, finished, identity

BLOCK = 10  # replications that are done and stored together
Arrays = dict[str, np.ndarray]


class Block(NamedTuple):
    """Replications of one kind, a predictor or a process, by their numbers; documents of each."""

    kind: str
    documents: int
    numbers: range

    @property
    def key(self) -> str:
        return f"{self.kind}-{self.documents}-{self.numbers[0]}"


def blocks(kind: str, documents: int, replications: int) -> list[Block]:
    numbers = range(replications)
    return [Block(kind, documents, numbers[first : first + BLOCK]) for first in numbers[::BLOCK]]


def replicated(
    work: list[Block],
    replicate: Callable[[str, int, int], Arrays],
    names: Sequence[str],
    pieces: Pieces,
    workers: int,
    what: str,
) -> list[Arrays]:
    """The arrays of each block, those of its replications stacked; what lies in `pieces` is not done again.

    replicate: takes kind, documents and number of a replication, and returns arrays with these names; a function of a
    module, or a partial of one. what: in front of the progress bar. UserError: a piece is damaged.
    """
    missing = [block for block in work if not pieces.done(block.key)]
    total = sum(len(block.numbers) * block.documents for block in missing)
    with tqdm(total=total, unit="document", desc=what, smoothing=0.05, disable=not missing) as bar:
        for block, arrays in in_parallel(partial(_do, replicate), missing, workers, "fewer --workers"):
            pieces.write(block.key, arrays)
            bar.update(len(block.numbers) * block.documents)
    return [pieces.read(block.key, dict.fromkeys(names)) for block in work]


def _do(replicate: Callable[[str, int, int], Arrays], block: Block) -> Arrays:
    results = [replicate(block.kind, block.documents, number) for number in block.numbers]
    return {name: np.stack([result[name] for result in results]) for name in results[0]}


def summed_up(values: np.ndarray, low: np.ndarray, high: np.ndarray, truth: float) -> dict[str, float]:
    """Columns of a table of coverage. values, low, high: (replications,) estimates with their 95% intervals, or NaN.

    mean_half_width: of the interval, on average. sd: over replications, what the mean standard error should be.
    coverage: how often the interval held the truth, with the 95% interval of Clopper and Pearson; a replication
    without a fit does not. Nothing where none claims an interval. coverage_of_mean: how often it held the mean of all
    replications; if that is 0.95 and coverage is not, the errors are right and the estimate is biased.
    """
    values, mean = pd.Series(values), pd.Series(values).mean()
    found = {"truth": truth, "mean": mean, "bias": mean - truth, "sd": values.std(ddof=1)}
    found |= {"mean_half_width": pd.Series((high - low) / 2).mean()}
    if np.isfinite(truth) and (np.isfinite(low).any() or values.isna().all()):
        held = (low <= truth) & (truth <= high)
        interval = binomtest(int(held.sum()), len(held)).proportion_ci()
        found |= {"coverage": held.mean(), "coverage_lo95": interval.low, "coverage_hi95": interval.high}
        found |= {"coverage_of_mean": ((low <= mean) & (mean <= high)).mean()}
    return found | {"replications": len(values), "failed": int(values.isna().sum())}


def write_table(
    cfg: Any, out: Path, processes: Sequence[Any], rows: Callable[[Any, Any, Pieces], pd.DataFrame], **facts: Any
) -> None:
    """Write to `out` the rows(cfg, process, pieces) of all processes, unless it is there already."""
    started, wanted = time.time(), identity(cfg, processes={one.name: asdict(one) for one in processes})
    pieces = [Pieces(out.with_name(f"{out.name}.{one.name}.parts"), wanted) for one in processes]
    if finished(out, wanted, *pieces):
        return
    table = pd.concat([rows(cfg, *one) for one in zip(processes, pieces, strict=True)], ignore_index=True)
    write_csv(out, rounded(table), cfg, started=started, identity=wanted, **facts)
    for one in pieces:
        one.remove()
    print(f"wrote {out}")


def rounded(table: pd.DataFrame, digits: dict[str, int] | None = None) -> pd.DataFrame:
    """The table with these columns cut to so many significant digits; all with a fraction to 6 by default."""
    digits = digits or dict.fromkeys(table.select_dtypes("float").columns, 6)
    return table.assign(**{name: [float(f"{x:.{n}g}") for x in table[name]] for name, n in digits.items()})
