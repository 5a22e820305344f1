"""The small BPE: its merges against a slow reference, the folder that the command writes, and one-line errors."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import datasets
import pytest

from common.tokenizer import load_tokenizer
from measure_mutual_info.train_bpe import train
from tests.conftest import call_script, one_line_error, prose

SCRIPT = "measure_mutual_info/train_bpe.py"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    (tmp_path / "library").mkdir()
    for name, seed in (("a", 0), ("b", 1)):
        (tmp_path / "library" / f"{name}.txt").write_text(prose(60, seed), encoding="utf-8")
    return tmp_path / "library"


def merges_of(words: list[str], wanted: int) -> list[str]:
    """A slow reference that follows the definition: repeatedly merge the most frequent pair of neighbours."""
    counts, pieces, found = Counter(words), {word: list(word) for word in words}, []
    while len(found) < wanted:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in pieces.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += counts[word]
        (best, often), *rest = pairs.most_common(2)
        assert not rest or often > rest[0][1], "two pairs are equally frequent"
        found.append("".join(best))
        for word, parts in pieces.items():
            i, merged = 0, []
            while i < len(parts):
                both = tuple(parts[i : i + 2]) == best
                merged.append("".join(best) if both else parts[i])
                i += 1 + both
            pieces[word] = merged
    return found


def test_it_merges_what_is_most_frequent():
    words = ["ab"] * 50 + ["bc"] * 31 + ["abc"] * 13 + ["cab"] * 7 + ["ca"] * 3
    vocabulary = train(words, 256 + 5).get_vocab()
    merged = sorted((token for token, i in vocabulary.items() if i >= 256), key=vocabulary.get)
    assert merged == merges_of(words, 5) == ["ab", "bc", "abc", "cab", "ca"]


def test_command_writes_a_tokenizer_that_the_documents_take(library: Path, tmp_path: Path):
    flags = ["--corpus", library, "--vocab-size", 300]
    done = call_script(SCRIPT, *flags, "--out", tmp_path / "new" / "bpe300")
    texts = [path.read_text(encoding="utf-8") for path in sorted(library.iterdir())]
    assert f"bpe300: 300 tokens from {sum(map(len, texts)):,} characters" in done.stdout
    tokenizer = load_tokenizer(str(tmp_path / "new" / "bpe300"))
    assert tokenizer.size == 300
    other = "Not seen before: ⅷ \n\n 鯨𝄞\t."
    for text in (*texts, other):
        assert tokenizer.tokenizer.decode(tokenizer.ids(text)) == text
        assert len(tokenizer.ids(text)) < len(text.encode()) or text == other
    call_script(SCRIPT, *flags, "--out", tmp_path / "again")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "new" / "bpe300" / file).read_bytes()
    record = json.loads((tmp_path / "new" / "bpe300" / "train_bpe.json").read_text())
    assert record["settings"]["vocab_size"] == 300
    assert list(record["identity"]["files"]) == ["a.txt", "b.txt"]
    assert not list(tmp_path.rglob("*.parts"))

    documents = ["--boundaries", "book", "--min-tokens", 1, "--out", tmp_path / "documents"]
    done = call_script(
        "measure_mutual_info/prepare_dataset.py",
        *["--corpus", library, "--tokenizer", tmp_path / "new" / "bpe300", *documents],
    )
    assert done.returncode == 0, done.stderr
    rows = datasets.load_from_disk(str(tmp_path / "documents"))["input_ids"]
    assert [tokenizer.tokenizer.decode(ids) for ids in rows] == texts


def test_it_is_made_once_and_not_mixed(library: Path, tmp_path: Path):
    flags = ["--corpus", library, "--out", tmp_path / "bpe", "--vocab-size"]
    call_script(SCRIPT, *flags, 300)
    made = (tmp_path / "bpe" / "tokenizer.json").stat().st_mtime_ns
    assert "already exists" in call_script(SCRIPT, *flags, 300).stdout
    assert (tmp_path / "bpe" / "tokenizer.json").stat().st_mtime_ns == made
    assert "vocab_size 300 there, 310 here" in one_line_error(call_script(SCRIPT, *flags, 310))
    (library / "a.txt").write_text(prose(60, 9), encoding="utf-8")
    assert "files.a.txt" in one_line_error(call_script(SCRIPT, *flags, 300))


def test_texts_that_are_left_out(library: Path, tmp_path: Path):
    """Short texts are left out if asked for, texts that repeat another always."""
    read = sum(len(path.read_text(encoding="utf-8")) for path in library.iterdir())
    (library / "c.txt").write_text((library / "a.txt").read_text(encoding="utf-8"), encoding="utf-8")
    (library / "short.txt").write_text("zzzz " * 50, encoding="utf-8")
    flags = ["--corpus", library, "--vocab-size", 300, "--out", tmp_path / "bpe", "--min-book-words", 100]
    assert f" from {read:,} characters; 1 texts repeat another" in call_script(SCRIPT, *flags).stdout


def test_bad_input_is_one_line(library: Path, tmp_path: Path):
    (tmp_path / "tiny.txt").write_text("abc abd")
    for said, changes in (
        ("--vocab-size is 256: give more than 256, as the bytes take 256", {"vocab-size": 256}),
        ("its words make only 260 tokens: give a longer corpus", {"corpus": tmp_path / "tiny.txt"}),
    ):
        values = {"corpus": library, "vocab-size": 300, "out": tmp_path / "out"} | changes
        flags = itertools.chain(*((f"--{name}", value) for name, value in values.items()))
        assert said in one_line_error(call_script(SCRIPT, *flags))
        assert not list(tmp_path.glob("out*"))
