"""A measurement in a process of its own: its peak of memory is its own, and nothing is warm from the one before."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from common.record import ROOT

WARM_BYTES = 3_000_000_000


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
