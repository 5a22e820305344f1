r"""Train a small byte-level BPE tokenizer, for the two-point information of a small corpus (Figs. 2c, B.4, B.5).

    python measure_mutual_info/train_bpe.py --corpus data/sample/books --vocab-size 512 --out data/tokenizers/bpe512
    python measure_mutual_info/prepare_dataset.py --corpus data/sample/books --boundaries book \
        --tokenizer data/tokenizers/bpe512 --out data/documents/books_bpe512

To estimate the entropy of pairs, each kind of pair should be seen several times. With a model's vocabulary of 50,000 to
130,000 tokens, this takes billions of tokens. A vocabulary of a few hundred tokens consists of syllables and short
words, with few enough kinds of pairs for a megabyte of text. Its first 256 are the bytes, so it can encode any text.

Hardware: one CPU core, a second for 4 MB; memory for the distinct words of the corpus.

Writes the folder `out`, which `--tokenizer` accepts: tokenizer.json and tokenizer_config.json (the same bytes for the
same corpus), and train_bpe.json with the settings and the outcome.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from common.cli import UserError, run
from common.record import replace_text, versions
from common.resume import RESUME_OK, begun
from measure_mutual_info.corpus.reading import CorpusSettings, books, open_corpus

RECORD = "train_bpe.json"


@dataclass(frozen=True, kw_only=True)
class Settings(CorpusSettings):
    out: Path = field(metadata=RESUME_OK)  # folder to write; its name is the tokenizer's name in every result
    vocab_size: int = 512  # not in the paper: number of tokens, 256 of which are the bytes

    def validate(self) -> None:
        super().validate()
        if self.vocab_size <= 256:
            raise UserError(f"--vocab-size is {self.vocab_size}: give more than 256, as the bytes take 256")


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE with at most `vocab_size` tokens, on words split as in GPT-2.

    It has fewer tokens if every word of the corpus becomes a single token before that.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def main(cfg: Settings) -> None:
    started = time.time()
    corpus = open_corpus(cfg)
    wanted = cfg.identity(corpus)
    if begun(cfg.out, wanted, RECORD):
        print(f"{cfg.out} already exists")
        return

    counts: Counter[str] = Counter()

    def texts() -> Iterable[str]:
        for _, text in tqdm(books(corpus.rows(), cfg, counts), "texts", corpus.total, unit="text"):
            counts["characters"] += len(text)
            yield text

    tokenizer = train(texts(), cfg.vocab_size)
    characters = counts["characters"]
    size = tokenizer.get_vocab_size()
    if size < cfg.vocab_size:
        raise UserError(
            f"{cfg.corpus}: its words make only {size} tokens: give a longer corpus, or --vocab-size {size} or less"
        )
    # Written under another name until it is complete: if `out` exists, it is a tokenizer.
    parts = cfg.out.with_name(cfg.out.name + ".parts")
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir(parents=True)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(parts)
    record = {"identity": wanted, "characters": characters, "versions": versions()}
    record |= {"settings": dataclasses.asdict(cfg) | {"out": str(cfg.out)}, "seconds": round(time.time() - started, 1)}
    replace_text(parts / RECORD, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    os.rename(parts, cfg.out)
    print(f"{cfg.out}: {size} tokens from {characters:,} characters; {counts['repeated']:,} texts repeat another")


if __name__ == "__main__":
    run(main, Settings, __doc__)
