"""What the pages say of files and commands is so: paths exist, commands parse, pictures come from CSVs beside them."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest
from conftest import ROOT

import tests.plots.made_up  # noqa: F401  # it puts plots/ on the path, as the scripts there expect
from common.cli import parse

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("*/README.md"))]
# Made by the commands of the pages, or the reader's own.
THEIRS = re.compile(r"data/|results/smoke|runs/|my_|mine|…|\*|<|>|\$|…")
PICTURES = ("calibration", "condition", "drawings", "fig[0-9]*", "fig[A-Z][0-9]")
FOLDERS = "benchmarks|common|gaussian_synthetic|l2m_condition|measure_mutual_info|plots|results|tests|train_on_pg19"


def relative(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_and_pictures_exist(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    assert targets or page.parent != ROOT
    for target in targets:
        if not target.startswith("http"):
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_paths_exist(page):
    text = page.read_text(encoding="utf-8")
    paths = re.findall(rf"(?<![\w/.-])((?:{FOLDERS})/[\w./*…-]*[\w/])", text)
    if page == ROOT / "README.md":
        assert len(paths) > 50
    for path in set(paths):
        if not THEIRS.search(path):
            assert (ROOT / path).exists(), path


def commands(page: Path) -> list[str]:
    """The commands of the code blocks, and those in the tables and the text."""
    text = page.read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    inline = re.findall(r"`((?:[A-Z]+=\S+ )*(?:bash|python) [^`]+)`", text)
    lines = blocks.splitlines() + inline
    return [part.strip() for line in lines for part in line.split("&&") if re.search(r"\b(bash|python)\b", part)]


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_commands_parse(page):
    """Each python script takes the flags that the page gives it; each shell file is there."""
    found = commands(page)
    for command in found:
        words = [word for word in shlex.split(command, comments=True) if not re.match(r"[A-Z_]+=", word)]
        program, script, *flags = words
        assert (ROOT / script).is_file(), command
        if program == "python" and "…" not in command:
            module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
            parse(
                module.Settings, flags, presets=getattr(module, "PRESETS", None)
            )  # SystemExit: the test fails and says which flag
    if page == ROOT / "README.md":
        assert len(found) > 20


def test_every_picture_lies_beside_its_csvs():
    for page in PAGES:
        for target in re.findall(r"!\[[^]]*\]\(([^)]+\.png)\)", page.read_text(encoding="utf-8")):
            folder = (page.parent / target).resolve().parent
            if folder.name == "drawings":
                continue
            assert any(folder.glob("*.csv")) or any(folder.glob("*/*.csv")), target


def gallery() -> list[list[str]]:
    """Cells of the README's table of figures: figure, command, hardware, CSV, paper, ours."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Figures")[1].split("\n## ")[0]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows[1:]]


def test_the_gallery_shows_every_figure_and_where_its_numbers_lie():
    rows = gallery()
    shown = set()
    for figure, _, hardware, tables, _, ours in rows:
        shown |= set(re.findall(r"src=\"(results/[^\"]+)\"", figure))
        assert all((hardware, ours)), figure
        folders = re.findall(r"`(results/[^`]+)`", tables)
        assert folders or tables in ("none", "the same"), figure
        for place in folders:
            place = ROOT / place
            csvs = sorted(place.rglob("*.csv")) if place.is_dir() else [place]
            assert csvs, figure
            assert all(csv.with_suffix(".json").is_file() for csv in csvs), figure
    drawn = [picture for folder in PICTURES for picture in ROOT.glob(f"results/{folder}/*.png")]
    assert len(drawn) > 15
    assert {str(picture.relative_to(ROOT)) for picture in drawn} == shown


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_shell_files_take_the_settings_that_the_pages_give_them(page):
    for command in commands(page):
        *settings, _, script = re.match(r"((?:[A-Z_]+=(?:\"[^\"]*\"|\S+) )*)(\w+) (\S+)", command).groups()
        names = set(re.findall(r"([A-Z_]+)=", settings[0])) - {"PRESET", "PYTHON"}
        if script.endswith(".sh"):
            lines = (ROOT / script).read_text(encoding="utf-8").splitlines()
            taken = [line.split()[1:] for line in lines if re.match(r"begin\b", line)]
            assert names <= set(taken[0] if taken else []), command


def test_every_csv_has_its_record():
    for table in (ROOT / "results").glob("**/*.csv"):
        if "smoke" not in table.parts and "demo" not in table.parts:
            assert table.with_suffix(".json").is_file(), table
