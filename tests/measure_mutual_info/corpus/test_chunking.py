from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from common.tokenizer import ByteTokenizer, load_tokenizer
from measure_mutual_info.corpus import chunking
from measure_mutual_info.corpus.chunking import piece_documents, sentence_documents, sentence_spans, whole_book
from tests.conftest import prose


def plain_documents(text: str, ids: Any, least: int) -> list[list[int]]:
    """A slow reference that follows the definition: add sentences until there are at least `least` tokens."""
    found, spans, first = [], sentence_spans(text), 0
    while first < len(spans):
        for last in range(first, len(spans)):
            start, end = spans[first][0], spans[last][1]
            if len(ids(text[start:end])) >= least:
                found.append(ids(text[start:end]))
                break
        else:
            return found
        first = last + 1
    return found


class Jumpy:
    """A tokenizer that adds `extra` tokens to the words of a text, so that counts of single sentences do not add up."""

    def __init__(self, extra: int) -> None:
        self.extra = extra

    def ids(self, text: str) -> list[int]:
        pieces = text.split()
        return list(range(max(len(pieces) + self.extra, 1)))


@pytest.mark.parametrize("kind", ["bpe", "bytes", "characters", 5, -3])
@pytest.mark.parametrize("least", [1, 60, 400])
def test_documents_are_the_fewest_sentences_that_suffice(kind: str | int, least: int, bpe: Path):
    name = str(bpe) if kind == "bpe" else kind
    tokenizer = Jumpy(kind) if isinstance(kind, int) else load_tokenizer(name)
    text = prose(150, seed=least)
    slow = plain_documents(text, tokenizer.ids, least)
    assert len(slow) > 3
    assert list(sentence_documents(text, tokenizer, least)) == slow
    with pytest.raises(ValueError, match="min_tokens -3: must be at least 1"):
        next(sentence_documents(text, tokenizer, -3))


def test_special_tokens_in_a_text_are_characters(bpe: Path):
    tokenizer = load_tokenizer(str(bpe))
    special = tokenizer.tokenizer.eos_token_id
    assert tokenizer.tokenizer("<|end|>").input_ids == [special]
    assert special not in tokenizer.ids("a <|end|> b")
    assert tokenizer.tokenizer.decode(tokenizer.ids("a <|end|> b")) == "a <|end|> b"


@pytest.mark.parametrize("kind", ["bpe", "bytes", "characters"])
def test_a_whole_book_is_the_tokens_of_its_text(kind: str, bpe: Path, monkeypatch: pytest.MonkeyPatch):
    """Tokenised in blocks of at most 100 characters, cut at spaces where possible, against the whole text at once."""
    tokenizer = load_tokenizer(kind if kind in ("bytes", "characters") else str(bpe))
    longest, ids = 0, tokenizer.ids

    def noted(part: str) -> list[int]:
        nonlocal longest
        longest = max(longest, len(part))
        return ids(part)

    monkeypatch.setattr(chunking, "BLOCK", 100)
    monkeypatch.setattr(tokenizer, "ids", noted)
    words = " ".join(prose(80, 1).split())
    for text in (words, "\n " + prose(80, 1) + "\n\n", "x" * 700, "鯨 " * 400 + " " * 300, "a", ""):
        whole, parts = ids(text), whole_book(text, tokenizer)
        if kind == "bpe":
            assert tokenizer.tokenizer.decode(parts) == text
            # A block may end inside a run of spaces or a long word, where a token would not.
            assert parts == whole or text != words
            assert len(whole) <= len(parts) <= len(whole) + 2 * (len(text) // 50)
        else:
            assert parts == whole
    assert 90 < longest <= 100


@pytest.mark.parametrize("text", ["第一句。「第二句！」 第三句", "पहला। दूसरा।"])
def test_sentences_of_other_scripts_end_too(text: str):
    spans = sentence_spans(text)
    assert len(spans) == len(text.replace("」", "").rstrip("।").split("।" if "।" in text else " ")) + ("。" in text)
    assert "".join(text[s:e] for s, e in spans) == text.replace(" ", "")


def test_pieces_follow_one_another(monkeypatch: pytest.MonkeyPatch):
    text = "ACGT" * 1000 + "鯨"
    whole = list(text.encode())
    for block in (1_000_000, 37):
        monkeypatch.setattr(chunking, "BLOCK", block)
        pieces = list(piece_documents(text, ByteTokenizer(), 64))
        assert {len(piece) for piece in pieces} == {64}
        assert list(itertools.chain(*pieces)) == whole[: len(whole) - len(whole) % 64]
