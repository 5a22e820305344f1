"""A CSV and its record: what they contain, and that neither is ever half written."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common import record
from common.cli import UserError
from common.record import ROOT, atomic_file, file_hash, numbers, read_csv, replace_text, whole_numbers, write_csv


@dataclass(frozen=True)
class Settings:
    out: Path = Path("x.csv")
    n: tuple[int, ...] = (1, 2)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read(path: Path) -> dict:
    return json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def test_table_and_record(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "_IMPORTED", time.time() - 100)
    source = tmp_path / "scores.csv"
    source.write_bytes(b"scores")
    table = pd.DataFrame({"name": ["ä", "b"], "mi_nats": [0.1 + 0.2, np.nan]})
    path = tmp_path / "new" / "folder" / "x.csv"
    write_csv(path, table, Settings(), inputs=[source], device="cuda", seed=7)

    assert path.read_bytes() == "name,mi_nats\nä,0.30000000000000004\nb,\n".encode()
    found = read(path)
    assert found["settings"] == {"out": "x.csv", "n": [1, 2]}
    assert found["rows"] == 2
    assert set(found) == {
        *("command", "settings", "rows", "seconds", "finished", "commit", "versions", "machine", "inputs"),
        *("device", "seed"),
    }
    assert 100 <= found["seconds"] < 110
    assert found["inputs"] == {"scores.csv": sha256(b"scores")}
    assert (found["device"], found["seed"]) == ("cuda", 7)
    assert found["versions"]["numpy"] == np.__version__
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["processor"]
    assert sorted(file.name for file in path.parent.iterdir()) == ["x.csv", "x.json"]


def test_no_paths_of_this_machine(tmp_path, monkeypatch):
    """A path inside the repository becomes relative to it; of a path outside, only the last part is kept."""
    for folder in "abc":
        (tmp_path / folder / "t").mkdir(parents=True)
        (tmp_path / folder / "t" / "scores.csv").write_text(folder)
    model = tmp_path / "model"
    script = str(ROOT / "measure_mutual_info" / "script.py")
    monkeypatch.setattr(sys, "argv", [script, "--model", str(model), f"--out={tmp_path}/x.csv", "--flag", "--a=b=/c"])
    inputs = [tmp_path / folder / "t" / "scores.csv" for folder in "abc"]
    settings = {"out": tmp_path / "x.csv", "model": str(model), "results": ROOT / "results"}
    write_csv(tmp_path / "x.csv", pd.DataFrame({"a": [1]}), settings, inputs, to=[model])
    found = read(tmp_path / "x.csv")
    assert found["command"] == "python measure_mutual_info/script.py --model model --out=x.csv --flag --a=b=/c"
    assert (found["settings"], found["to"]) == ({"out": "x.csv", "model": "model", "results": "results"}, ["model"])
    assert found["inputs"] == {
        "scores.csv": sha256(b"a"),
        "t/scores.csv": sha256(b"b"),
        "c/t/scores.csv": sha256(b"c"),
    }
    assert str(tmp_path) not in (tmp_path / "x.json").read_text()


@pytest.fixture
def small_disk():
    """Limit the files of this process to 4 kB: a write beyond that fails, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


def test_full_disk_leaves_the_old_pair(tmp_path, small_disk):
    """A write that fails leaves the old CSV and record intact, and the error names the file it is about."""
    path = tmp_path / "x.csv"
    write_csv(path, pd.DataFrame({"a": [1]}), {"n": 1})
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for full, rows, fact in (("x.csv", 1100, ""), ("x.json", 1, "long" * 2000)):
        with pytest.raises(OSError, match="too large") as error:
            write_csv(path, pd.DataFrame({"a": range(rows)}), {"n": 2}, fact=fact)
        assert error.value.filename == str(tmp_path / full)
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    with pytest.raises(FileNotFoundError) as error, atomic_file(path):
        (tmp_path / "input").read_text()
    assert error.value.filename == str(tmp_path / "input")


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.bin"

    def write(data: bytes, error: type[BaseException] | None = None) -> None:
        with atomic_file(path, "wb") as file:
            file.write(data)
            assert [found.name for found in tmp_path.iterdir()] == [f".x.bin.{platform.node()}.{os.getpid()}.tmp"]
            if error:
                raise error

    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error):
            write(b"half", error)
        assert list(tmp_path.iterdir()) == []
    write(b"whole\n")
    assert path.read_bytes() == b"whole\n"


def test_what_killed_runs_left_is_removed(tmp_path):
    """Partial files are removed, unless they are of another host or recent, or their process exists."""
    host = platform.node()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    old, new, mine, elsewhere, other = (
        tmp_path / f".{name}.tmp"
        for name in (
            *(f"x.csv.{host}.{pid}" for pid in (gone.pid, f"1{gone.pid}", os.getppid())),
            f"x.csv.another.{gone.pid}",
            f"y.csv.{host}.{gone.pid}",
        )
    )
    for path in (old, new, mine, elsewhere, other, tmp_path / ".x.csv.notes.tmp"):
        path.write_text("half")
        if path != new:
            os.utime(path, (time.time() - 120,) * 2)
    replace_text(tmp_path / "x.csv", "whole")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"x.csv", new.name, mine.name, elsewhere.name, other.name, ".x.csv.notes.tmp"}


def test_the_table_comes_last(tmp_path):
    """A run killed between the two leaves no CSV without its record; a fact that JSON refuses leaves neither."""
    with pytest.raises(TypeError):
        write_csv(tmp_path / "x.csv", pd.DataFrame({"a": [1]}), {}, fact=object())
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "x.csv").mkdir()  # a file cannot replace a folder
    with pytest.raises(IsADirectoryError):
        write_csv(tmp_path / "x.csv", pd.DataFrame({"a": [1]}), {})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.csv", "x.json"]


def test_file_names_that_are_not_utf8(tmp_path):
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    odd.mkdir()
    (odd / os.fsdecode(b"\xff.txt")).write_text("x")
    table = pd.DataFrame({"book": [record.printable(odd.name)]})
    write_csv(odd / "x.csv", table, {"corpus": odd.name}, inputs=[odd / os.fsdecode(b"\xff.txt")])
    assert (odd / "x.csv").read_text(encoding="utf-8") == "book\ncaf\\udce9\n"
    assert json.loads((odd / "x.json").read_text(encoding="utf-8"))["settings"] == {"corpus": odd.name}
    lines = b"".join(f"{file_hash(file)}  ".encode() + os.fsencode(file.name) + b"\n" for file in sorted(odd.iterdir()))
    assert file_hash(odd) == hashlib.sha256(lines).hexdigest()


def test_hash_of_a_file_and_a_folder(tmp_path):
    def folder(name: str, files: dict[str, str]) -> str:
        for relative, text in files.items():
            (tmp_path / name / relative).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / relative).write_text(text)
        return file_hash(tmp_path / name)

    first = folder("1", {"b/c": "y", "a": "x"})
    assert file_hash(tmp_path / "1" / "a") == sha256(b"x")
    assert first == sha256(f"{sha256(b'x')}  a\n{sha256(b'y')}  b/c\n".encode())
    others = [{"a": "x", "b/c": "z"}, {"a": "x", "b/d": "y"}, {"a": "x"}, {"a": "xb/c", "y": ""}, {"ab/cy": "x"}]
    hashes = {folder(str(10 + i), files) for i, files in enumerate(others)}
    assert len(hashes | {first}) == 6


def test_commit_of_a_checkout(tmp_path, monkeypatch):
    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert record._commit.__wrapped__() == "unknown"
    git("init", "-q")
    (tmp_path / "script.py").write_text("1")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    (tmp_path / "results.csv").write_text("results are no change of the code")
    assert record._commit.__wrapped__() == git("rev-parse", "HEAD")
    (tmp_path / "script.py").write_text("2")
    assert record._commit.__wrapped__() == git("rev-parse", "HEAD") + "+changes"


def test_columns_are_read_as_text_and_numbers_are_checked(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("document,mi,left\nNA,1.5,\n007, inf ,2\n", encoding="utf-8")
    table = read_csv(path, ["document", "mi"], "do this")
    assert table.columns.tolist() == ["document", "mi"]
    assert table["document"].tolist() == ["NA", "007"]
    column = pd.Series([" 1.5", "", "nan", "NaN", "-inf", "2e3 "], name="mi_nats")
    np.testing.assert_array_equal(numbers(column, "x.csv", "score again"), [1.5, *[np.nan] * 3, -np.inf, 2000])
    assert numbers(table["mi"], path, "do this").tolist() == [1.5, np.inf]
    assert numbers(read_csv(path, ["left"], "do this")["left"], path, "do this").isna().tolist() == [True, False]
    with pytest.raises(UserError, match=r"x\.csv, line 2: document is 'NA', not a number: do this"):
        numbers(table["document"], path, "do this")
    with pytest.raises(UserError, match=r"x\.csv lacks the columns ell, L: do this"):
        read_csv(path, ["ell", "document", "L"], "do this")
    with pytest.raises(UserError, match=r"no file .*y\.csv: check the name, or do this"):
        read_csv(tmp_path / "y.csv", ["mi"], "do this")
    for text in ("document,mi\na,1,5\nb,2,5\n", "document,mi\n0,a,1,5\n0,b,2,5\n"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=r"rows have more fields than the header; decimal commas\?\): do this"):
            read_csv(path, ["mi"], "do this", ["mi"])
    path.write_text("mi\n", encoding="utf-8")
    assert read_csv(path, ["mi"], "do this").empty
    path.write_bytes(b"\x80\xff")
    with pytest.raises(UserError, match=r"x\.csv is no CSV table .*: do this"):
        read_csv(path, ["mi"], "do this")

    good = pd.Series(["-3", " 4", "5.0", "1e3"], name="seed")
    whole = whole_numbers(good, "x.csv", "")
    assert (whole.tolist(), whole.dtype) == ([-3, 4, 5, 1000], np.int64)
    for bad in ("", "nan", "inf", "1.5", "9007199254740993"):
        with pytest.raises(UserError, match=r"x.csv, line 3: seed is '.*', not a whole number: run it"):
            whole_numbers(pd.Series(["1", bad, "2"], name="seed"), "x.csv", "run it")
