"""Every reader of files meets damaged ones: it works, or refuses in one line that names the file. Never a traceback.

FUZZ=200 python -m pytest tests/test_damaged_files.py tries 200 damages a file in place of 4.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import tests.plots.made_up  # noqa: F401  # it puts plots/ on the path, as the scripts there expect
from tests.conftest import ROOT, call_script, tiny_model, write_documents

TRIES = int(os.environ.get("FUZZ", "4"))
RESULTS = ROOT / "results"
CELLS = ["", "nan", "inf", "-1", "0", "1e300", "words", "1.5", "'", '"', "\0", "9" * 30]


def truncated(draw: random.Random, data: bytes) -> bytes:
    return data[: draw.randrange(len(data))]


def flipped(draw: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.randint(1, 8)):
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def inserted(draw: random.Random, data: bytes) -> bytes:
    place = draw.randrange(len(data))
    return data[:place] + draw.randbytes(draw.randint(1, 8)) + data[place:]


def emptied(draw: random.Random, data: bytes) -> bytes:
    return draw.choice([b"", b"\n", b"{}", b"[]", b"null", b"\0" * 64])


def line_lost(draw: random.Random, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    del lines[draw.choice([0, draw.randrange(len(lines))])]
    return b"".join(lines)


def line_doubled(draw: random.Random, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    lines.insert(draw.randrange(len(lines)), draw.choice(lines))
    return b"".join(lines)


def header_alone(draw: random.Random, data: bytes) -> bytes:
    return data.splitlines(keepends=True)[0]


def cell_changed(draw: random.Random, data: bytes) -> bytes:
    """One value of a CSV, or one word of anything else, becomes another."""
    lines = data.decode("utf-8", "replace").split("\n")
    row = draw.randrange(len(lines))
    cells = lines[row].split(",")
    cells[draw.randrange(len(cells))] = draw.choice(CELLS)
    lines[row] = ",".join(cells)
    return "\n".join(lines).encode()


def column_lost(draw: random.Random, data: bytes) -> bytes:
    lines = [line.split(",") for line in data.decode("utf-8", "replace").split("\n")]
    lost = draw.randrange(len(lines[0]))
    return "\n".join(",".join(cells[:lost] + cells[lost + 1 :]) for cells in lines).encode()


DAMAGES: list[Callable[[random.Random, bytes], bytes]] = [
    *(cell_changed, truncated, flipped, inserted, emptied, line_lost, line_doubled, header_alone, column_lost)
]


def rows(table: str, folder: Path, few: int) -> None:
    """The first rows of a committed table: real ones, and few enough to be read often."""
    (folder / Path(table).name).write_text(
        "".join((RESULTS / table).read_text(encoding="utf-8").splitlines(keepends=True)[:few]), encoding="utf-8"
    )


def documents(folder: Path) -> Path:
    draw = random.Random(0)
    ids = {f"book {i}": [[draw.randrange(60) for _ in range(40)] for _ in range(3)] for i in range(5)}
    return write_documents(folder / "documents", ids, 60)


def bipartite(folder: Path) -> list[object]:
    rows("fig2b/scores.csv", folder, 26 * 12 + 1)
    rows("fig2b/counts.csv", folder, 10**6)
    rows("fig2b/counts_by_book.csv", folder, 10**6)
    flags = ["--scores", folder / "scores.csv", "--counts", folder / "counts.csv", "--bootstrap", 2]
    return [*flags, "--out", folder / "out"]


def two_point(folder: Path) -> list[object]:
    rows("figB4/wikipedia/counts.csv", folder, 10**6)
    rows("figB4/wikipedia/counts_by_book.csv", folder, 10**6)
    return ["--counts", folder / "counts.csv", "--bootstrap", 2, "--out", folder / "out"]


def count(folder: Path) -> list[object]:
    return ["--documents", documents(folder), "--d", 1, 2, "--out", folder / "counts.csv"]


def score(folder: Path) -> list[object]:
    tiny_model("llama", 60).save_pretrained(folder / "model")
    flags = ["--documents", documents(folder), "--model", folder / "model", "--bos", 0, "--device", "cpu"]
    return [*flags, "--L-max", 32, "--ell-max", 16, "--out", folder / "scores.csv"]


def prepare_json_lines(folder: Path) -> list[object]:
    (folder / "texts.jsonl").write_text('{"text": "One day. Two days."}\n{"text": "A third."}\n', encoding="utf-8")
    flags = ["--corpus", folder / "texts.jsonl", "--tokenizer", "bytes", "--min-tokens", 4]
    return [*flags, "--out", folder / "documents"]


def prepare_parquet(folder: Path) -> list[object]:
    pd.DataFrame({"text": ["One day. Two days.", "A third."]}).to_parquet(folder / "texts.parquet")
    flags = ["--corpus", folder / "texts.parquet", "--tokenizer", "bytes", "--min-tokens", 4]
    return [*flags, "--out", folder / "documents"]


def gaussian_run(folder: Path) -> list[object]:
    flags = ["--model", "tiny", "--L", 16, "--copies", 2, "--steps", 10, "--warmup", 2, "--log-every", 5]
    flags += ["--checkpoint-every", 5, "--device", "cpu", "--out", folder / "run"]
    assert call_script("gaussian_synthetic/train.py", *flags).returncode == 0
    return flags


def gaussian_resume(folder: Path) -> list[object]:
    return gaussian_run(folder)


def gaussian_evaluate(folder: Path) -> list[object]:
    gaussian_run(folder)
    flags = ["--runs", folder / "run", "--draws", 8, "--device", "cpu", "--out", folder / "out"]
    assert call_script("gaussian_synthetic/evaluate.py", *flags).returncode == 0
    return flags


def collapse(folder: Path) -> list[object]:
    rows("fig3/summary.csv", folder, 10**6)
    return ["--summary", folder / "summary.csv", "--bootstrap", 4, "--out", folder / "collapse.csv"]


def book_run(folder: Path) -> list[object]:
    flags = ["--model", "tiny", "--L", 32, "--batch-tokens", 128, "--epochs", 2, "--held-out", 0.4, "--warmup", 1]
    flags += ["--log-every", 1, "--checkpoint-every", 2, "--device", "cpu", "--documents", documents(folder)]
    flags += ["--out", folder / "run"]
    assert call_script("train_on_pg19/train.py", *flags).returncode == 0
    return flags


def book_evaluate(folder: Path) -> list[object]:
    flags = book_run(folder)
    other = [*flags[:-1], folder / "other", "--seed", 1]
    assert call_script("train_on_pg19/train.py", *other).returncode == 0
    flags = ["--models", folder / "run", folder / "other", "--documents", folder / "documents", "--device", "cpu"]
    flags += ["--out", folder / "out"]
    assert call_script("train_on_pg19/evaluate.py", *flags).returncode == 0
    return flags


def compare(folder: Path) -> list[object]:
    book_evaluate(folder)
    for path in ("run", "other", "documents"):
        shutil.rmtree(folder / path)
    return ["--store", folder / "out" / "nll", "--out", folder / "compared"]


def configuration(folder: Path) -> list[object]:
    (folder / "model").mkdir()
    tiny_model("mistral", 60).config.save_pretrained(folder / "model")
    return ["--model", folder / "model", "--context", 8, 64, "--out", folder / "state.csv"]


def required(folder: Path) -> list[object]:
    rows("condition/state.csv", folder, 200)
    rows("condition/state_information.csv", folder, 10**6)
    rows("fig2b/fit.csv", folder, 10**6)
    flags = [
        "--state",
        folder / "state.csv",
        "--fit",
        folder / "fit.csv",
        "--state-information",
        folder / "state_information.csv",
    ]
    return [*flags, "--out", folder / "out"]


def state_information(folder: Path) -> list[object]:
    rows("fig3/summary.csv", folder, 10**6)
    return ["--summary", folder / "summary.csv", "--out", folder / "state_information.csv"]


def drawn(*tables: str, figure: str = "") -> Callable[[Path], list[object]]:
    def make(folder: Path) -> list[object]:
        for table in tables:
            rows(table, folder, 4000)
        return [*(["--figure", figure] if figure else []), "--results", folder, "--out", folder / "figure"]

    return make


FIG2B = ("fig2b/bipartite.csv", "fig2b/fit.csv", "fig2b/sweep.csv")
FIG2C = ("fig2c/two_point.csv", "fig2c/fit.csv", "fig2c/sweep.csv")
FIG3 = ("fig3/kl.csv", "fig3/summary.csv", "fig3/training.csv")
FIG4 = ("fig4/smooth.csv", "fig4/summary.csv", "fig4/gap.csv", "fig4/crossover.csv")
FIGC6 = tuple(f"figC6/subvolume/{name}.csv" for name in ("gaussian_mi", "two_point", "rank", "fit"))
CONDITION = tuple(
    f"condition/{name}.csv" for name in ("state", "condition", "capacity", "required", "state_information")
)
CASES: list[tuple[str, Callable[[Path], list[object]]]] = [
    ("measure_mutual_info/prepare_dataset.py", prepare_json_lines),
    ("measure_mutual_info/prepare_dataset.py", prepare_parquet),
    ("measure_mutual_info/count_ngrams.py", count),
    ("measure_mutual_info/score_documents.py", score),
    ("measure_mutual_info/estimate_bipartite.py", bipartite),
    ("measure_mutual_info/estimate_two_point.py", two_point),
    ("gaussian_synthetic/train.py", gaussian_resume),
    ("gaussian_synthetic/evaluate.py", gaussian_evaluate),
    ("gaussian_synthetic/collapse.py", collapse),
    ("train_on_pg19/train.py", book_run),
    ("train_on_pg19/evaluate.py", book_evaluate),
    ("train_on_pg19/compare.py", compare),
    ("l2m_condition/state_size.py", configuration),
    ("l2m_condition/required_state.py", required),
    ("l2m_condition/state_information.py", state_information),
    *(("plots/bipartite.py", drawn(*FIG2B, figure=name)) for name in ("2b", "B.1", "B.2", "B.3", "sweep")),
    *(("plots/two_point.py", drawn(*FIG2C, figure=name)) for name in ("2c", "B.4", "B.5")),
    *(("plots/gaussian_models.py", drawn(*FIG3, figure=name)) for name in ("3", "utilisation", "training", "G.7")),
    ("plots/books.py", drawn(*FIG4)),
    ("plots/families.py", drawn(*FIGC6)),
    ("plots/condition.py", drawn(*CONDITION)),
]


@pytest.mark.parametrize(("script", "make"), CASES, ids=[f"{script}-{make.__name__}" for script, make in CASES])
def test_damaged_file(script, make, tmp_path):
    good = tmp_path / "good"
    good.mkdir()
    arguments = make(good)
    files = sorted(path for path in good.rglob("*") if path.is_file() and path.stat().st_size)
    seed = sum(map(ord, script))  # another one for each script, and the same in every run
    refused, wrong = 0, []
    for number in range(TRIES * (1 if script.startswith("plots") else len(files))):
        draw = random.Random(seed + number)
        bad = tmp_path / "bad"
        shutil.rmtree(bad, ignore_errors=True)
        shutil.copytree(good, bad)
        file, damage = bad / draw.choice(files).relative_to(good), draw.choice(DAMAGES)
        file.write_bytes(damage(draw, file.read_bytes()))
        where = f"try {number}, {damage.__name__}, {file.relative_to(bad)}"
        try:
            done = call_script(script, *(str(argument).replace(str(good), str(bad)) for argument in arguments))
        except Exception as error:
            wrong.append(f"{where}: traceback, {type(error).__name__}: {str(error)[:200]}")
            continue
        refused += done.returncode == 2
        said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        if done.returncode not in (0, 2) or len(said) != (done.returncode == 2):
            wrong.append(f"{where}: ended with {done.returncode}: {done.stderr[-300:]}")
        elif said and str(bad) not in said[0] and file.name not in said[0] and "--" not in said[0]:
            wrong.append(f"{where}: names neither a file nor the flag that gave it: {said[0]}")
    assert not wrong, "\n".join([script, *wrong])
    assert refused, f"{script} took every damaged file for a good one"
