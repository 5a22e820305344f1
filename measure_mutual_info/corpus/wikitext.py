"""Convert MediaWiki markup to plain prose, for the Wikipedia articles of the sample."""

from __future__ import annotations

import html
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import IO

import mwparserfromhell
from mwparserfromhell.nodes import Tag, Template, Text, Wikilink

# Sections at the end of an article that hold lists and notes.
NO_PROSE = """see also|references|external links|further reading|bibliography|sources|works cited|selected bibliography|
filmography|publications|gallery|reference literature|etymological bibliography""".replace("\n", "").split("|")
# Templates that stand for words of the sentence → the number (from 1) of the argument that holds the words.
TEXT_TEMPLATES = dict.fromkeys(("nowrap", "smaller", "small", "big", "angbr", "vanchor", "ipa", "sc", "nihongo"), 1)
TEXT_TEMPLATES |= {"quote": 1, "ill": 1, "linktext": 1, "lang": 2}
DROPPED_TAGS = ("ref", "references", "table", "gallery", "math", "source")


def wikitext_to_prose(wikitext: str) -> str:
    """Convert an article in MediaWiki markup to plain paragraphs, separated by empty lines.

    Kept: prose, list items, section titles that have text below them. Dropped: footnotes, tables, images, galleries,
    formulas, categories, links to other languages, and the sections of NO_PROSE with their subsections.
    """
    # Sections are parsed one by one, so that an unclosed quote or table spoils only its own section.
    pieces = re.split(
        r"^(={2,6})[ \t]*(.+?)[ \t]*\1[ \t]*$", re.sub(r"<!--.*?-->", "", wikitext, flags=re.S), flags=re.M
    )
    sections = [(1, "", pieces[0])]
    sections += [(len(pieces[i]), pieces[i + 1], pieces[i + 2]) for i in range(1, len(pieces), 3)]
    kept: list[str] = []
    titles: list[tuple[int, str]] = []  # headings above, not yet written, as they have no prose so far
    dropped_level = 7  # headings deeper than this are in a dropped section; 7: none are
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
        # File, Category and other languages (fr, zh-yue), but not a title that merely contains a colon.
        if re.match(r"\s*((?i:file|image|category|media)|[a-z]{2}(-[a-z-]+)?)\s*:", title):
            return ""
        return _plain_code(node.text) if node.text is not None else title.lstrip(":")
    if isinstance(node, Tag):
        name = str(node.tag).strip().lower()
        if name in DROPPED_TAGS:
            return ""
        return "\n" if name == "br" else _plain_code(node.contents)
    if isinstance(node, Template):
        return _template(node)
    plain = getattr(node, "__strip__", None)
    return (plain(normalize=True, collapse=True, keep_template_params=False) or "") if plain else ""


def _template(node: Template) -> str:
    name = str(node.name).strip().lower()
    values = [p.value for p in node.params if not p.showkey]
    if name == "convert" and len(values) >= 2:
        return f"{_plain_code(values[0]).strip()} {_plain_code(values[1]).strip()}"
    if name == "as of" and values:
        return f"{'as' if node.has('lc') else 'As'} of {_plain_code(values[0]).strip()}"
    if name == "'s":
        return "'s"
    argument = TEXT_TEMPLATES.get(name, 1 if name.startswith("lang-") else 0)
    return _plain_code(values[argument - 1]) if 0 < argument <= len(values) else ""


def _paragraphs(text: str) -> list[str]:
    """Non-empty paragraphs, with the gaps that dropped templates left repaired: "( ; born 1809)", "tall ,"."""
    text = re.sub(r"<ref[^<]*</ref>|</?\w[^<>\n]*>", "", text)  # tags that the parser took for text
    text = re.sub(r"'{2,}(?!s\b)|'{2}(?='s\b)", "", html.unescape(text))
    text = re.sub(r"[ \t\xa0]+", " ", text)
    text = re.sub(r"\(\s*([;,]\s*)*", "(", text)
    text = re.sub(r"\s*[;,]\s*\)", ")", text)
    text = re.sub(r" ?\(\s*\)", "", text)
    text = re.sub(r" +([,.;:!?)])", r"\1", text)
    lines = [line for line in map(str.strip, text.splitlines()) if not line or re.search(r"\w", line)]
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
