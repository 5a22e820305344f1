"""One interface for tokenizers of the Hugging Face hub, a local folder or a GGUF file, and for bytes and characters.

tokenizer = load_tokenizer("HuggingFaceTB/SmolLM2-135M")
tokenizer.ids("Call me Ishmael.")
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import UserError, cause
from common.resume import read_identity

# What tokenizers are known to disagree about: digits, contractions, runs of blanks, line ends, marks, scripts.
PROBE = (
    "It's 1850; they'll pay $3,141.59 (27%)...  \n\n\tif (x != y):  # 10 000\r\n   We'D  re-enter “naïve” cafés—"
    "twice!\n\n\n1ST Samuel 12:7 ﬁne e\u0301 Ǆ STRASSE straße İ 東京は日本の首都です。 Привет, мир! मानव שלום 🙂🙂"
    "  a\u00a0b\u200b <s> </s> _x_ ~~ ### $$ ''' \"\"\" www.example.org/a_b?c=d&e=f 0x1F 1e-5 ½ ² ①"
    " \\n {'k': [1, 2]}     end "
)
PROBE_TOKENS = 20_000  # about how many tokens, spread over the vocabulary, a fingerprint tokenises again
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


class ByteTokenizer:
    """Tokens are UTF-8 bytes. The other tokenizers have the same attributes and methods."""

    size = 256  # number of ids
    hash = None  # the `fingerprint`; None for bytes and characters
    unknown = None  # id of the unknown token; None if there is none

    def ids(self, text: str) -> list[int]:
        """Token ids of `text` by itself, without special tokens."""
        return list(text.encode("utf-8"))

    def text(self, ids: list[int]) -> str:
        return bytes(ids).decode("utf-8", "replace")


class CharacterTokenizer:
    """Tokens are Unicode code points.

    A text uses only a hundred or so of them, so a million characters are enough to measure the entropy of pairs, while
    an ordinary tokenizer would need billions of tokens (Sec. B.VI). A letter outside ASCII is one token; as bytes it
    would be several, which are correlated only because they encode the same letter.
    """

    size = 0x110000
    hash = unknown = None

    def ids(self, text: str) -> list[int]:
        return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32).tolist()

    def text(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))


class HubTokenizer:
    """A tokenizer of transformers. Text that looks like a special token is treated as plain characters."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.size = len(tokenizer)
        self.unknown = tokenizer.unk_token_id

    @cached_property
    def hash(self) -> str:
        return fingerprint(self)

    def ids(self, text: str) -> list[int]:
        plain = {"add_special_tokens": False, "split_special_tokens": True, "return_attention_mask": False}
        return self.tokenizer(text, **plain, verbose=False).input_ids

    def text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)


Tokenizer = ByteTokenizer | CharacterTokenizer | HubTokenizer
NAMED = {"bytes": ByteTokenizer, "characters": CharacterTokenizer}


def bytes_upto(tokenizer: Tokenizer, ids: list[int], ends: Sequence[int]) -> list[int]:
    """UTF-8 bytes of the text of the first `end` tokens, for each end. A character cut off counts as three bytes."""
    return [len(tokenizer.text(ids[:end]).encode("utf-8", "replace")) for end in ends]


def load_tokenizer(name: str | Path) -> Tokenizer:
    """The tokenizer called `name`: a hub id, local folder, GGUF file, "bytes" or "characters".

    If train.py wrote the folder, its config.json says whether the tokens are bytes or characters. UserError: the
    tokenizer is missing or incomplete.
    """
    name = str(name)
    if name in NAMED:
        return NAMED[name]()
    path, is_file = Path(name), name.endswith(".gguf")
    if not (path.is_file() if is_file else path.is_dir() or (HUB_ID.fullmatch(name) and not path.exists())):
        raise UserError(f'no tokenizer at {name}: give a folder, a .gguf file, a hub id, "bytes" or "characters"')
    if path.is_dir() and (trained_on := read_identity(path / "config.json", "tokenizer")) in NAMED:
        return NAMED[trained_on]()
    from transformers import AutoTokenizer, logging

    logging.set_verbosity_error()
    try:
        where = {"gguf_file": path.name} if is_file else {}
        loaded = AutoTokenizer.from_pretrained(str(path.parent) if is_file else name, **where)
        # Given only a configuration, transformers makes up a tokenizer of a few ids.
        files = {"tokenizer.json", *(loaded.vocab_files_names.values() or ["tokenizer_config.json"])}
        tokenizer = HubTokenizer(loaded)
        if not tokenizer.ids("a b") or (path.is_dir() and not any((path / file).is_file() for file in files)):
            raise ValueError("it has no tokenizer files, or they are empty")
    except Exception as error:  # transformers may raise almost anything on a damaged file
        raise UserError(
            f"tokenizer {name} cannot be loaded: {cause(error)}; check the name and the network; a folder needs "
            "tokenizer.json (or tokenizer.model) and tokenizer_config.json"
        ) from error
    if is_file:
        from common import gguf_file

        gguf_file.complete_tokenizer(gguf_file.read(name), loaded)
    return tokenizer


def fingerprint(tokenizer: HubTokenizer) -> str:
    """16 hex digits of a hash of the vocabulary, the merges or scores, and the ids of probe texts.

    The probes are PROBE and tokens of the vocabulary, joined without and with spaces. So tokenizers that share a
    vocabulary but split text differently get different fingerprints, and a tokenizer gets the same one from whichever
    kind of file it is read.
    """
    vocabulary = sorted(tokenizer.tokenizer.get_vocab().items())
    digest = hashlib.sha256(json.dumps(vocabulary).encode("utf-8", "surrogatepass"))
    if backend := getattr(tokenizer.tokenizer, "backend_tokenizer", None):
        model = json.loads(backend.to_str())["model"]
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model.get("merges") or []]
        scores = model["vocab"] if isinstance(model.get("vocab"), list) else []
        digest.update(json.dumps([merges, scores]).encode("utf-8", "surrogatepass"))
    step = max(1, len(vocabulary) // PROBE_TOKENS)
    words = [tokenizer.text([number]) for _, number in vocabulary[::step]]
    for text in (PROBE, "".join(words), " ".join(words)):
        digest.update(np.array(tokenizer.ids(text), dtype=np.int64).tobytes())
    return digest.hexdigest()[:16]
