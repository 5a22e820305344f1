"""Shared by all benchmarks: time work, here or in a fresh process, and write and print a table of ratios."""

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

from common.record import ROOT, significant, write_csv

WARM_BYTES = 3_000_000_000


def median_seconds(work: Callable[[], object], rounds: int) -> float:
    """Median seconds of `rounds` calls, after one call that is not counted."""
    return statistics.median(timeit.repeat(work, repeat=rounds + 1, number=1)[1:])


def row(
    benchmark: str, setting: str, measure: str, unit: str, baseline: str, base: float, ours: float, **more: Any
) -> dict[str, Any]:
    """One row of a table of ratios; the ratio assumes that lower is better, unless `more` has one."""
    names = {"benchmark": benchmark, "setting": setting, "measure": measure, "unit": unit, "baseline": baseline}
    return names | {"baseline_value": base, "our_value": ours, "ratio": base / ours} | more


def publish(table: pd.DataFrame, cfg: Any, out: Path | None = None, **facts: Any) -> None:
    """Write the table to cfg.out (or `out`), with values and ratios rounded to four digits, and print it."""
    for column in ("baseline_value", "our_value", "ratio"):
        table[column] = significant(table[column], 4)
    write_csv(out or cfg.out, table, cfg, **facts)
    print(table.drop(columns="benchmark").to_string(index=False))
    print(f"wrote {out or cfg.out}")


def in_a_process(function: str, *arguments: object) -> dict:
    """Call a function by its full name, such as "benchmarks.gaussian.ours", in a fresh process and return its result.

    arguments: paths, or values that repr() writes as code. The result must be representable in JSON. Another process
    first allocates and frees WARM_BYTES, so that the call does not wait for memory that a virtual machine still lacks.
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
    """Peak resident bytes of this program (Linux); getrusage's would start from the peak of the parent process."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
