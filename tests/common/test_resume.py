from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from common.cli import UserError
from common.resume import RESUME_OK, Pieces, begin, begun, finished, identity, refuse_other


@dataclass(frozen=True)
class Settings:
    L: tuple[int, ...] = (4, 8)
    out: Path = field(default=Path("out"), metadata=RESUME_OK)


ARRAYS = {"a": np.arange(3), "b": np.ones((2, 2))}
SHAPES = {"a": (3,), "b": None}


def test_identity_is_what_json_gives_back():
    assert identity(Settings(), model={"width": 64}) == {"L": [4, 8], "model": {"width": 64}}


def test_refusal_names_what_differs():
    wanted = identity(Settings(), model={"width": 64, "heads": 2})
    refuse_other(wanted, wanted, Path("x"))
    other = wanted | {"L": [4, 9], "model": {"width": 32, "heads": 2}}
    with pytest.raises(
        UserError, match=r"x was made with other settings \(L \[4, 9\] there, \[4, 8\] here; model.width"
    ):
        refuse_other(other, wanted, Path("x"))
    with pytest.raises(UserError, match=r"seed nothing there, 0 here"):
        refuse_other(wanted, wanted | {"seed": 0}, Path("x"))
    remedy = r"choose another --out \(OUT= of a shell file\), or delete x$"
    with pytest.raises(UserError, match=f"x belongs to something else, or is damaged: {remedy}"):
        refuse_other(None, wanted, Path("x"))


def test_pieces_are_kept_for_the_same_run_alone(tmp_path):
    wanted = identity(Settings())
    pieces = Pieces(tmp_path / "parts", wanted)
    assert not (tmp_path / "parts").exists()
    pieces.write(3, ARRAYS)
    pieces.write("pair-4", ARRAYS)
    again = Pieces(tmp_path / "parts", wanted)
    assert again.done(3)
    assert not again.done(4)
    for key in (3, "pair-4"):
        np.testing.assert_equal(again.read(key, SHAPES), ARRAYS)
    with pytest.raises(UserError, match="parts was made with other settings"):
        Pieces(tmp_path / "parts", wanted | {"seed": 1})
    again.remove()
    assert not (tmp_path / "parts").exists()


def test_damaged_pieces_are_named(tmp_path):
    pieces = Pieces(tmp_path / "parts", {"L": 4})
    pieces.write(0, ARRAYS)
    whole = pieces.path(0).read_bytes()
    pieces.write(1, {"c": ARRAYS["a"]})
    pieces.write(2, ARRAYS | {"a": np.arange(4)})
    pieces.path(3).write_bytes(whole[:-30])
    pieces.path(4).touch()
    for key in (1, 2, 3, 4, 5):  # other name, other shape, truncated, empty, missing
        with pytest.raises(UserError, match=rf"00000{key}.npz is damaged \(.*\): delete this file and run the same"):
            pieces.read(key, SHAPES)


def test_a_folder_of_something_else_is_refused(tmp_path):
    assert not begun(tmp_path, {"L": 4})
    (tmp_path / ".manifest.json.17.tmp").touch()  # left by a run that was killed in `begin`
    assert not begun(tmp_path, {"L": 4})
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"holds files and no manifest.json: choose another --out, or empty it"):
        begun(tmp_path, {"L": 4})
    with pytest.raises(UserError, match="is a file: name a folder"):
        begun(tmp_path / "notes.txt", {"L": 4})
    begin(tmp_path, {"L": 4}, steps=10)
    assert begun(tmp_path, {"L": 4})
    assert json.loads((tmp_path / "manifest.json").read_text()) == {"identity": {"L": 4}, "steps": 10}
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="something else, or is damaged"):
        begun(tmp_path, {"L": 4})


def test_a_finished_result_is_of_its_settings(tmp_path):
    result = tmp_path / "x.csv"
    assert not finished(result, {"L": 4})
    result.write_text("a\n1\n")
    with pytest.raises(UserError, match="something else, or is damaged"):
        finished(result, {"L": 4})
    result.with_suffix(".json").write_text('{"identity": {"L": 4}}')
    left = Pieces(tmp_path / "left.parts", {"L": 4})
    left.write(0, {"nll": np.zeros(3)})
    assert finished(result, {"L": 4}, left, Pieces(tmp_path / "none.parts", {"L": 4}))
    assert not left.folder.exists()
    with pytest.raises(UserError, match=r"x.csv was made with other settings \(L 4 there, 8 here\)"):
        finished(result, {"L": 8})
