"""What every benchmark does: time work, and write and show a table of ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from common.record import write_csv


def median_seconds(work: Callable[[], object], rounds: int) -> float:
    """Of `rounds` calls, after one that is not counted."""
    seconds = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def row(
    benchmark: str, setting: str, measure: str, unit: str, baseline: str, base: float, ours: float, **more: Any
) -> dict[str, Any]:
    """One of a table of ratios, of a measure of which less is better."""
    names = {"benchmark": benchmark, "setting": setting, "measure": measure, "unit": unit, "baseline": baseline}
    return names | {"baseline_value": base, "our_value": ours, "ratio": base / ours} | more


def publish(table: pd.DataFrame, cfg: Any, started: float, out: Path | None = None, **facts: Any) -> None:
    """Write the agreed columns to cfg.out (or `out`), values to four digits, and print them."""
    for column in ("baseline_value", "our_value", "ratio"):
        table[column] = [float(f"{value:.4g}") for value in table[column]]
    write_csv(out or cfg.out, table, cfg, started=started, **facts)
    print(table.drop(columns="benchmark").to_string(index=False))
    print(f"wrote {out or cfg.out}")
