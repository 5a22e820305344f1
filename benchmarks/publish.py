"""Writing and showing a table of ratios, the same way in every benchmark."""

from __future__ import annotations

from typing import Any

import pandas as pd

from common.record import write_csv


def publish(table: pd.DataFrame, cfg: Any, started: float, **facts: Any) -> None:
    """Write the agreed columns to cfg.out, values to four digits, and print them."""
    for column in ("baseline_value", "our_value", "ratio"):
        table[column] = [float(f"{value:.4g}") for value in table[column]]
    write_csv(cfg.out, table, cfg, started=started, **facts)
    print(table.drop(columns="benchmark").to_string(index=False))
    print(f"wrote {cfg.out}")
