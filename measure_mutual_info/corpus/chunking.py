"""Cutting a book into documents: where sentences begin, how many tokens lie between, and which pieces that makes.

A document is the fewest whole sentences that give the wanted number of tokens when they are tokenised on their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import nupunkt

from common.tokenizer import Tokenizer

BLOCK = 1_000_000  # characters tokenised at once to find the cuts; bounds the memory of a very long book


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
