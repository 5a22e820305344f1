"""What the pages say is true: paths and links exist, and commands parse. Numbers: test_page_numbers.py."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest
from conftest import ROOT

import tests.plots.made_up  # noqa: F401  # it puts plots/ on the path, as the scripts there expect
from common.cli import parse

FRONT = ROOT / "README.md"
PAGES = [FRONT, *sorted(ROOT.glob("[!.]*/README.md")), *sorted(ROOT.glob("docs/*.md"))]
# Paths that need not exist: made by the commands on the pages, or the reader's own.
THEIRS = re.compile(r"data/|results/smoke|results/demo|runs/|my_|mine|…|\*|<|>|\$|…")
FOLDERS = (
    "benchmarks|common|docs|gaussian_synthetic|l2m_condition|measure_mutual_info|plots|results|tests|train_on_pg19"
)


def relative(page: Path) -> str:
    return str(page.relative_to(ROOT))


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_paths_and_programs_exist(page):
    """A file in backticks is named relative to the page's folder or to the root; in docs/, a bare name is enough."""
    text = text_of(page)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    for target in targets:
        if not target.startswith("http"):
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), target
    paths = set(re.findall(rf"(?<![\w/.-])((?:{FOLDERS})/[\w./*…-]*[\w/])", text))
    assert not [path for path in paths if not THEIRS.search(path) and not (ROOT / path).exists()]
    for name in set(re.findall(r"`([\w./]+\.(?:py|sh))\b", text)):
        found = any((folder / name).is_file() for folder in (page.parent, ROOT))
        bare = page.parent.name == "docs" and "/" not in name and list(ROOT.glob(f"*/**/{name}"))
        assert found or bare, name
    assert page != FRONT or (len(targets) > 20 and len(paths) > 30)


def commands(page: Path) -> list[str]:
    """The commands in code blocks, tables and text."""
    text = text_of(page)
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    inline = re.findall(r"`((?:[A-Z]+=\S+ )*(?:bash|python) [^`]+)`", text)
    lines = blocks.splitlines() + inline
    return [part.strip() for line in lines for part in line.split("&&") if re.search(r"\b(bash|python)\b", part)]


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_commands_parse(page):
    """Each Python script accepts the flags on the page; each shell file exists and accepts the settings."""
    found = commands(page)
    for command in found:
        words = shlex.split(command, comments=True)
        settings = {word.split("=")[0] for word in words if re.match(r"[A-Z_]+=", word)} - {"PRESET", "PYTHON"}
        program, script, *flags = [word for word in words if not re.match(r"[A-Z_]+=", word)]
        assert (ROOT / script).is_file(), command
        if script.endswith(".sh"):
            taken = re.search(r"^begin\b(.*)", text_of(ROOT / script), re.MULTILINE)
            assert settings <= set(taken[1].split() if taken else []), command
        elif program == "python" and "…" not in command:
            module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
            # A wrong flag raises SystemExit: the test fails and names the flag
            parse(module.Settings, flags, presets=getattr(module, "PRESETS", None))
    assert page != FRONT or len(found) > 20


def test_the_table_of_figures_names_every_command():
    section = text_of(FRONT).split("## Figures")[1].split("\n## ")[0]
    named = set(re.findall(r"`bash ([\w./]+\.sh)`", section))
    figures = [*ROOT.glob("*/fig*.sh"), *ROOT.glob("*/condition.sh"), *ROOT.glob("*/start_token.sh")]
    figures += [*ROOT.glob("*/*/calibration.sh"), ROOT / "plots/make_all.sh", ROOT / "train_on_pg19/pretrained.sh"]
    assert {str(file.relative_to(ROOT)) for file in figures} == named


def test_every_csv_has_its_record():
    for table in (ROOT / "results").glob("**/*.csv"):
        if "smoke" not in table.parts and "demo" not in table.parts:
            assert table.with_suffix(".json").is_file(), table
