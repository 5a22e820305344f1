"""What every benchmark does: time work, here or in a fresh process, and write and show a table of ratios."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from common.record import ROOT, write_csv

WARM_BYTES = 3_000_000_000


def median_seconds(work: Callable[[], object], rounds: int) -> float:
    """Of `rounds` calls, after one that is not counted."""
    return statistics.median(timeit.repeat(work, repeat=rounds + 1, number=1)[1:])


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


def in_a_process(function: str, *arguments: object) -> dict:
    """What a function of a module, such as "benchmarks.counting.ours", returns when called in a fresh process.

    arguments: paths and what repr() writes. The function returns what JSON can say. Before it another process takes and
    returns WARM_BYTES, so that none waits for memory that a virtual machine has not got yet.
    """
    module, _, name = function.rpartition(".")
    parts = ", ".join(f"Path({str(a)!r})" if isinstance(a, Path) else repr(a) for a in arguments)
    code = f"import json\nfrom pathlib import Path\nfrom {module} import {name}\nprint(json.dumps({name}({parts})))"
    subprocess.run([sys.executable, "-c", f"import numpy; numpy.ones({WARM_BYTES // 8})"], check=True)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{function}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def peak_bytes() -> int:
    """Peak resident bytes of this program (Linux); getrusage's would begin with those of the one that started it."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
