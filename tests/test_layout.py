"""Imports: folders import only themselves and `common/`, only commands import commands, and nothing is circular."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

FOLDERS = ("common", "measure_mutual_info", "gaussian_synthetic", "train_on_pg19", "l2m_condition", "plots")
COMMANDS_BELOW = ("measure_mutual_info/calibration",)  # commands that call those of the folder above


def modules() -> dict[str, Path]:
    """Every module of the project by its name, e.g. measure_mutual_info.corpus.reading."""
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imports(file: Path, known: dict[str, Path]) -> set[str]:
    """The project's modules that a file imports, including imports within functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{name.name}" for name in node.names}
            found |= (inner & known.keys()) or {node.module}
    return found & known.keys()


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: imports(file, known) - {name} for name, file in known.items()}


def test_folders_import_common_and_themselves_and_what_lies_below_no_command(graph):
    """A command is a module directly in its folder, or one in calibration/."""
    for name, others in graph.items():
        strangers = [other for other in others if other.split(".")[0] not in ("common", name.split(".")[0])]
        assert not strangers, f"{name} imports {strangers[0]}"
        inner = name.count(".") >= 2 and not name.replace(".", "/").startswith(COMMANDS_BELOW)
        commands = [other for other in others if other.count(".") == 1 and not other.startswith("common.")]
        assert not (inner and commands), f"{name} imports the command {commands[0]}"


def test_no_circle(graph):
    left = {name: set(others) for name, others in graph.items()}
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"these import each other: {', '.join(sorted(left))}"


def test_commands_stand_on_top():
    """Modules directly in a folder are programs to run; modules without a main are one level down."""
    for folder in FOLDERS[1:-1]:
        for file in (ROOT / folder).glob("*.py"):
            if file.name != "__init__.py":
                assert '__name__ == "__main__"' in file.read_text(encoding="utf-8"), f"{file.name} is not a program"
