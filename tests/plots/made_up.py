"""What the tests of the figures share: committed CSVs, changed; what a panel holds; whether its texts fit."""

from __future__ import annotations

import io
import itertools
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

from tests.conftest import ROOT, call_script, one_line_error

matplotlib.use("Agg")
PLOTS, RESULTS = ROOT / "plots", ROOT / "results"
sys.path.insert(0, str(PLOTS))  # as when a script runs: its own folder comes first


def copied(names: str, folder: Path, **changes: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
    """A copy of the committed CSVs results/<names>*.csv, a pattern, upside down: the order of rows must not matter.

    changes: by the name of a CSV, what becomes of its table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in RESULTS.glob(f"{names}.csv"):
        table = pd.read_csv(path, dtype=str, keep_default_na=False)[::-1] if path.stem in changes else None
        if table is None:
            shutil.copy(path, folder)
        else:
            table = table.apply(pd.to_numeric, errors="ignore") if False else pd.read_csv(path)[::-1]
            changes[path.stem](table).to_csv(folder / path.name, index=False)
    return folder
