"""Replications of a calibration: run in parallel blocks, stored so that a killed run continues, and summarised."""

from __future__ import annotations

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
from common.record import significant, write_csv
from common.resume import Pieces, finished, identity

BLOCK = 10  # replications that are run and stored together
Arrays = dict[str, np.ndarray]


class Block(NamedTuple):
    """The replications `numbers` of one kind (such as a predictor or a process), each with so many `documents`."""

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
    """The arrays of each block, stacked over its replications; blocks that `pieces` already has are not run again.

    replicate: takes the kind, documents and number of a replication and returns arrays with these `names`; it must be a
    module-level function, or a partial of one. what: label of the progress bar. UserError: a piece is damaged.
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
    """Columns of a coverage table. values, low, high: (replications,) estimates with their 95% intervals, or NaN.

    mean_half_width: of the intervals. sd: over replications; the mean standard error should be equal to it.
    coverage: how often the interval contains the truth, with the 95% interval of Clopper and Pearson; a replication
    without a fit counts as a miss. Left out if the truth is not known, or if the estimates have no intervals.
    coverage_of_mean: how often the interval contains the mean of all replications; if that is 0.95 and coverage is not,
    the errors are right and the estimate is biased.
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
    """Write the rows(cfg, process, pieces) of all processes to `out`, unless it is already complete."""
    wanted = identity(cfg, processes={one.name: asdict(one) for one in processes})
    pieces = [Pieces(out.with_name(f"{out.name}.{one.name}.parts"), wanted) for one in processes]
    if finished(out, wanted, *pieces):
        return
    table = pd.concat([rows(cfg, *one) for one in zip(processes, pieces, strict=True)], ignore_index=True)
    write_csv(out, rounded(table), cfg, identity=wanted, **facts)
    for one in pieces:
        one.remove()
    print(f"wrote {out}")


def rounded(table: pd.DataFrame, digits: dict[str, int] | None = None) -> pd.DataFrame:
    """The table with these columns rounded to so many significant digits; by default, all float columns to 6."""
    digits = digits or dict.fromkeys(table.select_dtypes("float").columns, 6)
    return table.assign(**{name: significant(table[name], n) for name, n in digits.items()})
