"""Cut a book into documents: at sentence ends, anywhere, or not at all.

A document of whole sentences has the fewest that give the wanted number of tokens when tokenised on their own.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import numpy as np
import nupunkt

from common.tokenizer import Tokenizer

BLOCK = 1_000_000  # characters tokenised at once if a text is not cut at sentences; limits memory
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


def sentence_documents(text: str, tokenizer: Tokenizer, min_tokens: int) -> Iterator[list[int]]:
    """Token ids of each document of a book.

    A document is the fewest whole sentences that give at least `min_tokens` tokens when their text is tokenised on its
    own; the next document begins with the next sentence. ValueError: min_tokens is below 1.
    """
    if min_tokens < 1:
        raise ValueError(f"min_tokens {min_tokens}: must be at least 1")
    spans = sentence_spans(text)
    # Estimated number of tokens before each sentence, [sentences + 1]. Each sentence is tokenised by itself, with the
    # white space before it, as tokens rarely cross that. The exact end of a document is found by trial below.
    ends = [0, *(end for _, end in spans)]
    before = np.cumsum([0, *(len(tokenizer.ids(text[start:end])) for start, end in itertools.pairwise(ends))])
    first = 0
    while first < len(spans):
        start, last, ids = spans[first][0], first - 1, []
        while len(ids) < min_tokens and last + 1 < len(spans):
            wanted = before[last + 1] + min_tokens - len(ids)
            last = min(max(int(np.searchsorted(before, wanted)) - 1, last + 1), len(spans) - 1)
            ids = tokenizer.ids(text[start : spans[last][1]])
        if len(ids) < min_tokens:
            return
        while last > first and len(fewer := tokenizer.ids(text[start : spans[last - 1][1]])) >= min_tokens:
            last, ids = last - 1, fewer
        yield ids
        first = last + 1


def piece_documents(text: str, tokenizer: Tokenizer, min_tokens: int) -> Iterator[list[int]]:
    """Consecutive pieces of a book of exactly `min_tokens` tokens, cut anywhere; a shorter remainder is dropped."""
    waiting: list[int] = []
    for start in range(0, len(text), BLOCK):
        waiting += tokenizer.ids(text[start : start + BLOCK])
        whole = len(waiting) - len(waiting) % min_tokens
        yield from (waiting[i : i + min_tokens] for i in range(0, whole, min_tokens))
        waiting = waiting[whole:]


def whole_book(text: str, tokenizer: Tokenizer) -> list[int]:
    """Token ids of a whole book, including white space.

    A book of more than BLOCK characters is tokenised in pieces that end before a space, which tokens rarely cross.
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
