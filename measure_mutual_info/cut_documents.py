"""Cutting a book into documents: where sentences begin, how many tokens lie between, and which pieces that makes.

A document is the fewest whole sentences that give the wanted number of tokens when they are tokenised on their own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import nupunkt

from common.cli import UserError
from common.record import vocabulary_hash
from measure_mutual_info.read_corpus import first_line

BLOCK = 1_000_000  # characters tokenised at once to find the cuts; bounds the memory of a very long book


class Tokenizer(Protocol):
    size: int  # how many ids there are
    hash: str | None  # `vocabulary_hash`; None where the ids are bytes or code points

    def ids(self, text: str) -> list[int]:
        """Token ids of `text` by itself, without special tokens."""

    def starts(self, text: str) -> np.ndarray | None:
        """Position in `text` of each token's first character, ascending; None if the tokenizer does not tell."""


class ByteTokenizer:
    """The bytes of UTF-8 are the tokens."""

    size = 256
    hash = None

    def ids(self, text: str) -> list[int]:
        return list(text.encode("utf-8"))

    def starts(self, text: str) -> np.ndarray | None:
        # UTF-8 spends 1 byte on code points below 0x80, 2 below 0x800, 3 below 0x10000, else 4
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        widths = 1 + (points >= 0x80).astype(int) + (points >= 0x800) + (points >= 0x10000)
        return np.repeat(np.arange(len(points)), widths)


class CharacterTokenizer:
    """The code points of Unicode are the tokens.

    A text uses a hundred or so of them, so a million characters measure the entropy of pairs well, where the words of
    a usual tokenizer would need billions (Sec. B.VI). A letter beyond ASCII stays one token, unlike with bytes, whose
    pairs within a letter are alike at a distance for no other reason.
    """

    size = 0x110000
    hash = None

    def ids(self, text: str) -> list[int]:
        return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32).tolist()

    def starts(self, text: str) -> np.ndarray | None:
        return np.arange(len(text))


class HubTokenizer:
    """A tokenizer of transformers. What looks like a special token in a text is taken as plain characters."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.size = len(tokenizer)

    @property
    def hash(self) -> str:
        return vocabulary_hash(self.tokenizer.get_vocab())

    def ids(self, text: str) -> list[int]:
        return self._call(text).input_ids

    def starts(self, text: str) -> np.ndarray | None:
        if not self.tokenizer.is_fast:
            return None
        offsets = self._call(text, return_offsets_mapping=True).offset_mapping
        return np.maximum.accumulate(np.fromiter((start for start, _ in offsets), dtype=np.int64, count=len(offsets)))

    def _call(self, text: str, **more: Any) -> Any:
        return self.tokenizer(
            text,
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            verbose=False,
            **more,
        )


def load_tokenizer(name: str) -> Tokenizer:
    """Hub id, local folder, GGUF file (local, or owner/repository/file.gguf of the hub), "bytes" or "characters".

    UserError: it is not there, or incomplete.
    """
    if name == "bytes":
        return ByteTokenizer()
    if name == "characters":
        return CharacterTokenizer()
    place, file = os.path.split(name) if name.endswith(".gguf") else (name, None)
    here = os.path.isfile(name) if file else os.path.isdir(name)
    if not here and (os.path.isfile(name) or not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", place)):
        raise UserError(f'no tokenizer at {name}: give a folder, a .gguf file, a hub id, "bytes" or "characters"')
    from transformers import AutoTokenizer, logging

    logging.set_verbosity_error()
    try:
        tokenizer = HubTokenizer(AutoTokenizer.from_pretrained(place or ".", **({"gguf_file": file} if file else {})))
        if not tokenizer.ids("a b"):
            raise ValueError("it makes no tokens")
    except Exception as error:  # the loaders of transformers raise almost anything at a damaged file
        remedy = (
            "the folder needs tokenizer.json (or tokenizer.model) and tokenizer_config.json"
            if here and not file
            else "the file is damaged or incomplete; fetch it again"
            if here
            else "check the name and the network, or give a local folder (there is none of this name)"
        )
        raise UserError(f"tokenizer {name} cannot be loaded: {first_line(error).rstrip('.: ')}; {remedy}") from error
    return tokenizer


STOPS = re.compile(r"[。！？।]+[」』”’）]*\s*")  # sentence ends of scripts that the Punkt model does not know


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of each sentence, without the white space around it. An empty line always ends a sentence."""
    spans = nupunkt.sentence_spans(text)
    if not STOPS.search(text):
        return spans
    finer = []
    for start, end in spans:
        for stop in STOPS.finditer(text, start, end):
            finer.append((start, start + len(text[start : stop.end()].rstrip())))
            start = stop.end()
        if start < end:
            finer.append((start, end))
    return finer


def tokens_before(text: str, spans: list[tuple[int, int]], tokenizer: Tokenizer) -> tuple[np.ndarray, int]:
    """Tokens of the book in front of each sentence, and in all, shape [sentences + 1]; and how far to trust them.

    The book is tokenised in blocks of whole sentences. A document tokenised on its own may have a few tokens more or
    less than this count; the second value says how many are to be expected.
    """
    starts = np.array([start for start, _ in spans] + [len(text)])
    before = np.zeros(len(starts), dtype=np.int64)
    first, trust = 0, 16
    while first < len(spans):
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + BLOCK, side="right")) - 1)
        positions = tokenizer.starts(text[starts[first] : starts[last]])
        if positions is None:
            trust = 256
            lengths = [len(tokenizer.ids(text[starts[i] : starts[i + 1]])) for i in range(first, last)]
            before[first + 1 : last + 1] = before[first] + np.cumsum(lengths)
        else:
            ends = starts[first + 1 : last + 1] - starts[first]
            before[first + 1 : last + 1] = before[first] + np.searchsorted(positions, ends)
        first = last
    return before, trust


def sentence_documents(text: str, tokenizer: Tokenizer, min_tokens: int) -> Iterator[tuple[int, int, list[int]]]:
    """(start, end, token ids) of each document of a book, start and end in characters.

    A document is the fewest whole sentences that give at least `min_tokens` tokens when text[start:end] is tokenised
    on its own; the next begins with the next sentence.
    """
    spans = sentence_spans(text)
    before, trust = tokens_before(text, spans, tokenizer)
    first = 0
    while first < len(spans):
        start = spans[first][0]
        last = min(max(int(np.searchsorted(before, before[first] + min_tokens)) - 1, first), len(spans) - 1)
        ids = tokenizer.ids(text[start : spans[last][1]])
        while len(ids) < min_tokens and last + 1 < len(spans):
            last += 1
            ids = tokenizer.ids(text[start : spans[last][1]])
        if len(ids) < min_tokens:
            return
        while last > first and before[last] - before[first] + trust >= min_tokens:
            fewer = tokenizer.ids(text[start : spans[last - 1][1]])
            if len(fewer) < min_tokens:
                break
            last, ids = last - 1, fewer
        yield start, spans[last][1], ids
        first = last + 1


def piece_documents(text: str, tokenizer: Tokenizer, min_tokens: int) -> Iterator[list[int]]:
    """Consecutive pieces of exactly `min_tokens` tokens of a book, wherever they begin; a shorter rest is dropped."""
    waiting: list[int] = []
    for start in range(0, len(text), BLOCK):
        waiting += tokenizer.ids(text[start : start + BLOCK])
        whole = len(waiting) - len(waiting) % min_tokens
        yield from (waiting[i : i + min_tokens] for i in range(0, whole, min_tokens))
        waiting = waiting[whole:]


def whole_book(text: str, tokenizer: Tokenizer) -> list[int]:
    """Token ids of a whole book, white space and all.

    A book of more than BLOCK characters is tokenised in pieces that end before a space, where hardly a token crosses.
    """
    ids: list[int] = []
    start = 0
    while start < len(text):
        end = start + BLOCK
        if end < len(text):
            space = text.rfind(" ", start + BLOCK // 2, end)
            end = space if space > start else end
        ids += tokenizer.ids(text[start:end])
        start = end
    return ids
