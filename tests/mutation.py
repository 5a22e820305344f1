"""Measure how many small faults the tests find: mutation testing of common/, the estimators and the Gaussian families.

mutmut changes one thing at a time (a sign, a constant, a comparison, an argument, a text) and runs the tests of the
module. For each module, a random sample of these mutants is tried, in a copy of the repository without data and
results. A mutant counts as a survivor even if only the tests of another folder would find it, or if it changes nothing
(the default of an argument that is always given, the name of a progress bar), so the score is a lower bound.

    python tests/mutation.py                # an hour on two cores → results/mutation/
    python tests/mutation.py --modules common/powerlaw.py --sample 1000

Writes `mutation.csv` (one row per module, and a total: mutants, sampled, killed, score and its 95% interval, and the
share of the module's statements that its tests run) and `survivors.csv` (one row per survivor: line before and after).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from scipy.stats import binomtest
from tqdm import tqdm

from common.cli import UserError, run
from common.record import ROOT, write_csv

ESTIMATORS = "tests/measure_mutual_info/test_estimator_properties.py"
BIPARTITE = "tests/measure_mutual_info/test_estimate_bipartite.py"
FITS = "tests/measure_mutual_info/test_estimate_bipartite_fits.py"
TWO_POINT = "tests/measure_mutual_info/test_estimate_two_point.py"
FAMILIES = "tests/gaussian_synthetic/exact/test_family_properties.py"
POWERLAW = ("tests/common/test_powerlaw.py", "tests/common/test_powerlaw_properties.py")
PRETRAINED = tuple(f"tests/common/test_{name}.py" for name in ("pretrained", "gguf_file", "tokenizer"))
# Module → its tests.
MODULES = {
    "common/cli.py": ("tests/common/test_cli.py", "tests/gaussian_synthetic/test_exact_mi.py"),
    "common/documents.py": ("tests/common/test_documents.py",),
    "common/history_state.py": ("tests/common/test_history_state.py",),
    "common/powerlaw.py": (*POWERLAW, "tests/measure_mutual_info/test_compare_models.py"),
    "common/pretrained.py": PRETRAINED,
    "common/record.py": ("tests/common/test_record.py",),
    "measure_mutual_info/counting/entropy.py": ("tests/measure_mutual_info/counting/test_entropy.py", ESTIMATORS),
    "measure_mutual_info/scoring/tables.py": (BIPARTITE, FITS, TWO_POINT),
    "measure_mutual_info/estimate_bipartite.py": (BIPARTITE, FITS, ESTIMATORS),
    "measure_mutual_info/estimate_two_point.py": (TWO_POINT, ESTIMATORS),
    "gaussian_synthetic/exact/families.py": ("tests/gaussian_synthetic/exact/test_families.py", FAMILIES),
    "gaussian_synthetic/exact_mi.py": ("tests/gaussian_synthetic/test_exact_mi.py", FAMILIES),
    "gaussian_synthetic/exact/dense.py": ("tests/gaussian_synthetic/exact/test_families.py", FAMILIES),
}
KILLED, TIMEOUT = (1, 3), (36, 24, -24, 152, 255)  # exit codes of mutmut's workers


@dataclass(frozen=True)
class Settings:
    modules: tuple[str, ...] = tuple(MODULES)
    """modules to put faults into"""
    sample: int = 60
    """mutants to try per module, or all if there are fewer"""
    seed: int = 0
    """seed of the random sample"""
    processes: int = 2
    """mutants tested at once"""
    out: Path = Path("results/mutation")
    """folder for mutation.csv and survivors.csv"""

    def validate(self) -> None:
        unknown = [module for module in self.modules if module not in MODULES]
        if unknown:
            raise UserError(f"no tests are named for {', '.join(unknown)}: add it to MODULES in tests/mutation.py")


def main(cfg: Settings) -> None:
    rows, survivors = [], []
    for module in (bar := tqdm(cfg.modules, unit="module")):
        bar.set_description(module)
        with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
            row, survived = judge(module, cfg, Path(folder))
        rows.append(row)
        survivors.extend(survived)
        # Written after each module, so that a killed run keeps the results so far.
        inputs = [ROOT / path for name in cfg.modules for path in (name, *MODULES[name])]
        write_csv(cfg.out / "mutation.csv", pd.DataFrame([*rows, total(rows)]), cfg, inputs)
        columns = ["module", "mutant", "before", "after"]
        write_csv(cfg.out / "survivors.csv", pd.DataFrame(survivors, columns=columns), cfg, inputs)
    print(pd.DataFrame([*rows, total(rows)]).to_string(index=False))


def judge(module: str, cfg: Settings, folder: Path) -> tuple[dict, list[dict]]:
    """Test mutants of a module in `folder`; returns its row of mutation.csv, and its survivors."""
    # Without data, results, build products and hidden folders (.git, environments).
    aside = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "data", "results", "mutants")
    shutil.copytree(ROOT, folder, ignore=aside, dirs_exist_ok=True)
    tests = json.dumps(MODULES[module])
    config = f"""
[tool.mutmut]
source_paths = ["{module.split("/")[0]}"]
only_mutate = ["{module}"]
also_copy = {json.dumps(sorted(path.name for path in folder.iterdir() if path.name != "tests"))}
pytest_add_cli_args_test_selection = {tests}
process_isolation = "forkserver"  # torch does not survive a plain fork
timeout_constant = 5.0
"""
    with open(folder / "pyproject.toml", "a", encoding="utf-8") as file:
        file.write(config)
    # No mutant has this name, so mutmut generates all mutants, times the tests and stops.
    output = mutmut(folder, "none")
    meta = folder / "mutants" / f"{module}.meta"
    if not meta.is_file():
        raise UserError(f"mutmut made no mutants of {module}; it says: {output[-2000:]}")
    covered = statement_coverage(folder, module)
    names = sorted(json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"])
    chosen = sorted(random.Random(cfg.seed).sample(names, min(cfg.sample, len(names))))
    output = mutmut(folder, "--max-children", str(cfg.processes), *chosen)
    codes = json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"]
    if None in [codes[name] for name in chosen]:
        raise UserError(f"mutmut did not try all mutants of {module}; it says: {output[-2000:]}")
    survivors = [name for name in chosen if codes[name] not in KILLED + TIMEOUT]
    row = {"module": module, "mutants": len(names), "sampled": len(chosen), "killed": len(chosen) - len(survivors)}
    row["timeouts"] = sum(codes[name] in TIMEOUT for name in chosen)
    return scored(row) | covered, [{"module": module, **changed_line(folder, name)} for name in survivors]


def statement_coverage(folder: Path, module: str) -> dict:
    """Number of statements of the module, and the share of them that its tests run."""
    report = folder / "coverage.json"
    measured = f"--cov={module.removesuffix('.py').replace('/', '.')}"
    command = [sys.executable, "-m", "pytest", "-q", measured, f"--cov-report=json:{report}", *MODULES[module]]
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True)
    if done.returncode != 0 or not report.is_file():
        raise UserError(f"the tests of {module} fail on the unchanged code; pytest says: {done.stdout[-2000:]}")
    found = json.loads(report.read_text(encoding="utf-8"))["files"][module]["summary"]
    return {"statements": found["num_statements"], "coverage": found["covered_lines"] / found["num_statements"]}


def environment(imports: Path) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(imports)}


def scored(row: dict) -> dict:
    """The row with its score and Wilson's 95% interval."""
    interval = binomtest(row["killed"], row["sampled"]).proportion_ci(method="wilson")
    return row | {"score": row["killed"] / row["sampled"], "lo95": interval.low, "hi95": interval.high}


def total(rows: list[dict]) -> dict:
    """The row of all modules, each weighted by its number of mutants; the interval is from the binomial variances."""
    table = pd.DataFrame(rows)
    weight = table["mutants"] / table["mutants"].sum()
    score = (weight * table["score"]).sum()
    # A module whose mutants were all tried has no sampling error; one whose sampled mutants were all killed has some.
    unseen = 1 - table["sampled"] / table["mutants"]
    likely = (table["killed"] + 1) / (table["sampled"] + 2)
    error = (weight**2 * likely * (1 - likely) / table["sampled"] * unseen).sum() ** 0.5
    counts = table[["mutants", "sampled", "killed", "timeouts", "statements"]].sum().to_dict()
    found = {"score": score, "lo95": score - 1.96 * error, "hi95": min(score + 1.96 * error, 1.0)}
    coverage = (table["coverage"] * table["statements"]).sum() / counts["statements"]
    return {"module": "total"} | counts | found | {"coverage": coverage}


def mutmut(folder: Path, *arguments: str) -> str:
    """Run mutmut and return its output; its exit code is an error even if it has nothing to do or mutants survive."""
    command = [sys.executable, "-m", "mutmut", "run", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment(folder / "mutants"), capture_output=True, text=True)
    return done.stdout + done.stderr


def changed_line(folder: Path, name: str) -> dict:
    show = [sys.executable, "-m", "mutmut", "show", name]
    lines = subprocess.run(show, cwd=folder, capture_output=True, text=True).stdout.splitlines()
    before = " ".join(line[1:].strip() for line in lines if line.startswith("-") and not line.startswith("---"))
    after = " ".join(line[1:].strip() for line in lines if line.startswith("+") and not line.startswith("+++"))
    return {"mutant": name.split(".")[-1], "before": before, "after": after}


if __name__ == "__main__":
    run(main, Settings)
