"""Every script given a damaged file works, or refuses in one line that names the file or flag; never a traceback.

FUZZ=200 python -m pytest tests/test_damaged_files.py tries 200 damages per file instead of 4 (plots: per script).
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

import tests.plots.made_up  # noqa: F401  # it puts plots/ on the path, as the scripts there expect
from tests.conftest import ROOT, TINY_RUN, call_script, tiny_model, tiny_scoring, toy_books, trained
from tests.measure_mutual_info.test_compare_models import made_scores, save

TRIES = int(os.environ.get("FUZZ", "4"))
RESULTS = ROOT / "results"
CELLS = ["", "nan", "inf", "-1", "0", "1e300", "words", "1.5", "'", '"', "\0", "9" * 30]


def line_lost(draw: random.Random, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    del lines[draw.choice([0, draw.randrange(len(lines))])]
    return b"".join(lines)


def bits_flipped(draw: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.randint(1, 8)):
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def cell_changed(draw: random.Random, data: bytes) -> bytes:
    """Replace one cell of a CSV, or one piece between commas in any other file."""
    lines = [line.split(b",") for line in data.split(b"\n")]
    cells = draw.choice(lines)
    cells[draw.randrange(len(cells))] = draw.choice(CELLS).encode()
    return b"\n".join(map(b",".join, lines))


def column_lost(draw: random.Random, data: bytes) -> bytes:
    lines = [line.split(b",") for line in data.split(b"\n")]
    lost = draw.randrange(len(lines[0]))
    return b"\n".join(b",".join(cells[:lost] + cells[lost + 1 :]) for cells in lines)


DAMAGES: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "truncated": lambda draw, data: data[: draw.randrange(len(data))],
    "inserted": lambda draw, data: data[: (i := draw.randrange(len(data)))] + draw.randbytes(3) + data[i:],
    "emptied": lambda draw, data: draw.choice([b"", b"\n", b"{}", b"[]", b"null", b"\0" * 64]),
    "header alone": lambda draw, data: data.splitlines(keepends=True)[0],
    **{one.__name__: one for one in (cell_changed, bits_flipped, line_lost, column_lost)},
}


def rows(table: str, folder: Path, few: int) -> None:
    """Copy the first `few` lines of a committed table: real rows, and few enough to read often."""
    (folder / Path(table).name).write_text(
        "".join((RESULTS / table).read_text(encoding="utf-8").splitlines(keepends=True)[:few]), encoding="utf-8"
    )


def bipartite(folder: Path) -> list[object]:
    scores = pd.read_csv(RESULTS / "fig2b/scores.csv", nrows=28 * 12).query("L_tokens == 2 * ell_tokens")
    scores.to_csv(folder / "scores.csv", index=False)
    for name in ("scores.json", "counts.csv", "counts_by_book.csv"):
        shutil.copy(RESULTS / "fig2b" / name, folder)
    flags = ["--scores", folder / "scores.csv", "--counts", folder / "counts.csv", "--bootstrap", 2]
    return [*flags, "--out", folder / "out"]


def two_point(folder: Path) -> list[object]:
    for name in ("counts.csv", "counts_by_book.csv"):
        table = pd.read_csv(RESULTS / "figB4/wikipedia" / name, dtype=str, keep_default_na=False)
        table[table["n_or_d"].isin(["1", "2", "4", "8"])].to_csv(folder / name, index=False)
    return ["--counts", folder / "counts.csv", "--bootstrap", 2, "--out", folder / "out"]


def compare(folder: Path) -> list[object]:
    files = [save(folder, f"m{i}", made_scores(0.5, 1.0, books=3, documents=1, seed=i)) for i in (0, 1)]
    return ["--scores", *files, "--bootstrap", 2, "--out", folder / "out"]


def models_figure(folder: Path) -> list[object]:
    script, *flags = "measure_mutual_info/compare_models.py", *compare(folder)
    assert call_script(script, *flags).returncode == 0
    for i in (0, 1):
        flags = ["--scores", folder / f"m{i}/scores.csv", "--out", folder / f"m{i}", "--bootstrap", 0]
        assert call_script("measure_mutual_info/estimate_bipartite.py", *flags).returncode == 0
    flags = ["--compared", folder / "out/models.csv", "--results", folder / "m0", folder / "m1"]
    return [*flags, "--out", folder / "figure"]


def count(folder: Path) -> list[object]:
    return ["--documents", toy_books(folder / "documents", 40, 3), "--d", 1, 2, "--out", folder / "counts.csv"]


def score(folder: Path) -> list[object]:
    return [*tiny_scoring(folder, 40, 3), "--L-max", 32, "--ell-max", 16, "--out", folder / "scores.csv"]


def prepare_json_lines(folder: Path) -> list[object]:
    (folder / "texts.jsonl").write_text('{"text": "One day. Two days."}\n{"text": "A third."}\n', encoding="utf-8")
    flags = ["--corpus", folder / "texts.jsonl", "--tokenizer", "bytes", "--min-tokens", 4]
    return [*flags, "--out", folder / "documents"]


def gaussian_train(folder: Path) -> list[object]:
    trained(of := "gaussian_synthetic/train.py", folder / "run", "--steps", 10)
    return [*TINY_RUN[of], "--steps", 10, "--out", folder / "run"]


def gaussian_evaluate(folder: Path) -> list[object]:
    trained("gaussian_synthetic/train.py", folder / "run", "--steps", 10)
    flags = ["--runs", folder / "run", "--draws", 8, "--device", "cpu", "--out", folder / "out"]
    assert call_script("gaussian_synthetic/evaluate.py", *flags).returncode == 0
    return flags


def collapse(folder: Path) -> list[object]:
    shutil.copy(RESULTS / "fig3/summary.csv", folder)
    return ["--summary", folder / "summary.csv", "--out", folder / "collapse.csv"]


def book_train(folder: Path) -> list[object]:
    flags = ["--documents", toy_books(folder / "documents", 40, 3)]
    trained(of := "train_on_pg19/train.py", folder / "run", *flags)
    return [*TINY_RUN[of], *flags, "--out", folder / "run"]


def book_evaluate(folder: Path) -> list[object]:
    documents, of = toy_books(folder / "documents", 40, 3), "train_on_pg19/train.py"
    run = trained(of, folder / "run", "--documents", documents)
    flags = ["--model", run, "--documents", documents, "--device", "cpu", "--out", folder / "losses.csv"]
    assert call_script("train_on_pg19/evaluate.py", *flags).returncode == 0
    return flags


def book_compare(folder: Path) -> list[object]:
    *_, losses = book_evaluate(folder)
    for name in ("documents", "run", "losses.parts"):
        shutil.rmtree(folder / name)
    return ["--losses", losses, "--out", folder / "out"]


def configuration(folder: Path) -> list[object]:
    (folder / "model").mkdir()
    tiny_model("mistral", 60).config.save_pretrained(folder / "model")
    return ["--model", folder / "model", "--context", 8, 64, "--out", folder / "state.csv"]


def required(folder: Path) -> list[object]:
    table = pd.read_csv(RESULTS / "condition/state.csv")
    table[table["model"].isin(["Llama-3.1-8B", "Jamba-v0.1", "Mamba-130M"])].to_csv(folder / "state.csv", index=False)
    for table in ("capacity/capacity.csv", "fig2b/fit.csv"):
        shutil.copy(RESULTS / table, folder)
    flags = [f"--{name}={folder / name}.csv" for name in ("state", "fit", "capacity")]
    return [*flags, "--out", folder / "out"]


def drawn(of: str, *tables: str, figure: str = "") -> Callable[[Path], list[object]]:
    def make(folder: Path) -> list[object]:
        for table in tables:
            rows(f"{of}/{table}.csv", folder, 4000)
        return [*(["--figure", figure] if figure else []), "--results", folder, "--out", folder / "figure"]

    return make


CASES: list[tuple[str, Callable[[Path], list[object]]]] = [
    ("measure_mutual_info/prepare_dataset.py", prepare_json_lines),
    ("measure_mutual_info/count_ngrams.py", count),
    ("measure_mutual_info/score_documents.py", score),
    ("measure_mutual_info/estimate_bipartite.py", bipartite),
    ("measure_mutual_info/compare_models.py", compare),
    ("measure_mutual_info/estimate_two_point.py", two_point),
    ("gaussian_synthetic/train.py", gaussian_train),
    ("gaussian_synthetic/evaluate.py", gaussian_evaluate),
    ("gaussian_synthetic/collapse.py", collapse),
    ("train_on_pg19/train.py", book_train),
    ("train_on_pg19/evaluate.py", book_evaluate),
    ("train_on_pg19/compare.py", book_compare),
    ("l2m_condition/state_size.py", configuration),
    ("l2m_condition/required_state.py", required),
    ("plots/bipartite.py", drawn("fig2b", "bipartite", "fit", "sweep", figure="2b")),
    ("plots/models.py", models_figure),
    ("plots/two_point.py", drawn("fig2c", "two_point", "fit", "sweep", figure="2c")),
    ("plots/gaussian_models.py", drawn("fig3", "kl", "summary", figure="G.7")),
    ("plots/books.py", drawn("fig4", "smooth", "summary", "gap", "crossover", "gains")),
    ("plots/families.py", drawn("figC6/subvolume", "gaussian_mi", "two_point", "rank", "fit")),
    ("plots/condition.py", drawn("condition", "state", "condition", "required")),
]


@pytest.mark.parametrize(("script", "make"), CASES, ids=[script for script, _ in CASES])
def test_damaged_file(script, make, tmp_path, monkeypatch):
    if TRIES == 4:  # writing a picture takes longest
        monkeypatch.setattr(Figure, "savefig", lambda fig, *_, **__: fig.draw_without_rendering())
    good = tmp_path / "good"
    good.mkdir()
    arguments = make(good)
    files = sorted(path for path in good.rglob("*") if path.is_file() and path.stat().st_size)
    seed = sum(map(ord, script))  # differs between scripts, the same in every run
    bad = tmp_path / "bad"
    shutil.copytree(good, bad)
    here = [str(argument).replace(str(good), str(bad)) for argument in arguments]
    done = call_script(script, *here)
    assert done.returncode == 0, f"{script} refuses undamaged files: {done.stderr}"
    refused, wrong = 0, []
    for number in range(TRIES * (1 if script.startswith("plots") else min(len(files), 6))):
        draw = random.Random(seed + number)
        shutil.rmtree(bad, ignore_errors=True)
        shutil.copytree(good, bad)
        file, damage = bad / draw.choice(files).relative_to(good), draw.choice(list(DAMAGES))
        file.write_bytes(DAMAGES[damage](draw, file.read_bytes()))
        where = f"try {number}, {damage}, {file.relative_to(bad)}"
        try:
            done = call_script(script, *here)
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
    assert refused, f"{script} accepted every damaged file"
