"""Shared by the tests: tiny models and texts, folders of documents, and ways to run a script."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import json
import os
import random
import re
import subprocess
import sys
import unittest.mock
from pathlib import Path

# The tests compare with results computed on a CPU, in places to the byte. To run those that need a GPU, name one:
# CUDA_VISIBLE_DEVICES=0 python -m pytest tests/gaussian_synthetic/training/test_models.py
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import datasets
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from common import record
from common.cli import run

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "data" / "sample"
WORDS = ["the", "whale", "of", "sea", "a", "ship", "Ahab", "white", "deep", "Dr.", "Mr."]
WORDS += ["étoile", "鯨", "ocean's", "𝄞", "end<|end|>ing"]
SMOLLM2 = SAMPLE / "model" / "SmolLM2-135M-Instruct.Q4_1.gguf"


# Modules with long tests: run_tests.sh starts them first, so that none is alone at the end.
SLOW = ("test_killed", "test_figures", "test_damaged_files", "test_pictures", "test_book_figures")
SLOW += ("test_gaussian_figures", "test_training_steps")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in SLOW)


@pytest.fixture(scope="session", autouse=True)
def commit_asked_once():
    """The commit is asked of git once, instead of for each CSV."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "_commit", functools.cache(record._commit))
        yield


def call_script(script: str, *arguments: object) -> subprocess.CompletedProcess:
    """Run a script of the repository as from the command line, in this process, which saves the seconds of imports."""
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        unittest.mock.patch.object(sys, "argv", [script, *map(str, arguments)]),
    ):
        try:
            run(module.main, module.Settings, presets=getattr(module, "PRESETS", None))
        except SystemExit as stopped:
            code = stopped.code or 0
    return subprocess.CompletedProcess(sys.argv, code, out.getvalue(), err.getvalue())


def call_shell(script: str, *flags: object, **settings: str) -> subprocess.CompletedProcess:
    """Run a shell file as a user would, with these settings; those in the environment of the tests are removed."""
    environment = (ROOT / "common/environment.sh").read_text(encoding="utf-8")
    names = (*re.search(r'^settings="(.*)"', environment, re.MULTILINE)[1].split(), "PRESET")
    clean = {key: value for key, value in os.environ.items() if key not in names}
    command = ["bash", str(ROOT / script), *map(str, flags)]
    settings = {"PYTHON": sys.executable, **settings}
    return subprocess.run(command, env=clean | settings, capture_output=True, text=True, timeout=400)


def executable(path: Path, text: str) -> Path:
    """Write a shell script that can be run, e.g. in place of Python."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def recorder(folder: Path) -> str:
    """A script in place of Python, for PYTHON: appends its arguments to folder/calls, and fails for a model "gpt5"."""
    text = f'echo "$@" >> {folder}/calls; case "$*" in *"train.py --model gpt5"*) echo "no model gpt5"; exit 2 ;; esac'
    return str(executable(folder / "python", text))


def recorded(folder: Path) -> list[str]:
    """The calls of programs since the last reading."""
    calls = (folder / "calls").read_text(encoding="utf-8").splitlines()
    (folder / "calls").unlink()
    return [call for call in calls if ".py " in call]


def printer(folder: Path, *programs: str, more: str = "") -> str:
    """A script in place of Python, for PYTHON: prints calls of these programs, separated by tabs, and makes others.

    more: such as "PROGRAM FLAGS", which are added to the calls of this program.
    """
    program, _, flags = more.partition(" ")
    run = f'exec {sys.executable} "$@"'
    cases = [
        f"""{" | ".join(programs)}) IFS=$'\\t'; echo "$*" ;;""",
        f"{program or '-'}) {run} {flags} ;;",
        f"*) {run} ;;",
    ]
    return str(executable(folder / "python", f"case $1 in {' '.join(cases)} esac"))


def flags_of(out: Path, **settings: object) -> list[str]:
    """Settings as flags, e.g. --out OUT --n-documents 20 50."""
    given = {"out": out, **settings}.items()
    return [str(part) for name, of in given for part in (f"--{name.replace('_', '-')}", *np.atleast_1d(of))]


def one_line_error(done: subprocess.CompletedProcess) -> str:
    """The 'error:' line of a script that refused its input; asserts exit code 2, one such line and no traceback."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    return errors[0]


def write_documents(
    folder: Path, ids: dict[str, list[list[int]]], vocabulary: int = 256, tokenizer: str = "bytes"
) -> Path:
    """Write a folder of documents as prepare_dataset.py does. ids: book → the token ids of its documents."""
    rows = [(f"{book}#{number:04d}", book, row) for book, rows in ids.items() for number, row in enumerate(rows)]
    columns = {"document": datasets.Value("string"), "book": datasets.Value("string")}
    columns["input_ids"] = datasets.List(datasets.Value("int32"))
    values = {name: [row[i] for row in rows] for i, name in enumerate(columns)}
    datasets.Dataset.from_dict(values, features=datasets.Features(columns)).save_to_disk(str(folder))
    facts = {"source": "toy", "tokenizer": tokenizer, "tokenizer_vocab_size": vocabulary}
    (folder / "prepare.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


def toy_books(folder: Path, tokens: int, documents: int, vocabulary: int = 60) -> Path:
    """Write six books, each of `documents` random documents of `tokens` tokens."""
    draw = random.Random(0)
    ids = {f"book {i}": [draw.choices(range(vocabulary), k=tokens) for _ in range(documents)] for i in range(6)}
    return write_documents(folder, ids, vocabulary)


def tiny_scoring(folder: Path, tokens: int, documents: int) -> list[object]:
    """Flags of score_documents.py, without --out, for a tiny model on `toy_books`."""
    tiny_model("llama", 60).save_pretrained(folder / "model")
    flags = ["--documents", toy_books(folder / "documents", tokens, documents), "--model", folder / "model"]
    return [*flags, "--bos", 0, "--device", "cpu", "--dtype", "float32"]


SHARED = ["--model", "tiny", "--device", "cpu", "--checkpoint-every", 5]
BOOKS = ["--L", 32, "--batch-tokens", 128, "--epochs", 2, "--held-out", 0.4, "--warmup", 1, "--log-every", 1]
TINY_RUN = {  # flags for a run of a second or two, without --out and --documents
    "gaussian_synthetic/train.py": ["--L", 16, "--copies", 2, "--steps", 20, "--warmup", 2, "--log-every", 5, *SHARED],
    "train_on_pg19/train.py": [*BOOKS, *SHARED],
}


def trained(script: str, out: Path, *changes: object) -> Path:
    """Train with the flags of TINY_RUN and `changes`; returns the folder of the run."""
    done = call_script(script, *TINY_RUN[script], "--out", out, *changes)
    assert done.returncode == 0, done.stderr
    return out


def tiny_model(kind: str, vocabulary: int = 260, **changes) -> torch.nn.Module:
    """A random model, with weights (not Mamba's) scaled up so that a wrong context matters far more than rounding."""
    from transformers import AutoConfig, AutoModelForCausalLM

    llama = dict(hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
    small = {
        "llama": dict(**llama, num_key_value_heads=2),
        "mistral": dict(**llama, num_key_value_heads=2, sliding_window=16),
        "gpt2": dict(n_embd=48, n_layer=2, n_head=4, n_positions=256, bos_token_id=0, eos_token_id=0),
        "gpt_neox": llama,
        "bert": llama,
        "gemma2": dict(**llama, num_key_value_heads=2, head_dim=12, sliding_window=16),
        "falcon": llama,
        "cohere": dict(**llama, num_key_value_heads=2, logit_scale=0.3),
        "granite": dict(**llama, num_key_value_heads=2, logits_scaling=3.0),
        "minimax": dict(**llama, num_key_value_heads=2),
        "mamba": dict(hidden_size=32, num_hidden_layers=2, state_size=8),
    }[kind]
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=vocabulary, **{**small, **changes})
    model = AutoModelForCausalLM.from_config(config).eval()
    if kind != "mamba":
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(8)
    return model


@pytest.fixture(scope="session")
def book_bytes() -> np.ndarray:
    """Real text as byte ids: Alice's Adventures in Wonderland."""
    path = SAMPLE / "books" / "alice.txt"
    if not path.exists():
        pytest.skip("the sample books are missing: python measure_mutual_info/fetch_sample.py")
    return np.frombuffer(path.read_bytes(), dtype=np.uint8).astype(np.int64)


def prose(sentences: int, seed: int) -> str:
    """Random sentences of 1 to 30 words, in lines and paragraphs, with abbreviations and characters of 1 to 4 bytes."""
    draw = random.Random(seed)
    text = ""
    for _ in range(sentences):
        words = " ".join(draw.choices(WORDS, k=draw.randint(1, 30)))
        text += (
            words[0].upper() + words[1:] + draw.choice([".", "!", "?", '."']) + draw.choice([" ", "  ", "\n", "\n\n"])
        )
    return text


@pytest.fixture(scope="session")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a byte-level BPE tokenizer of 320 ids, one of them special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<|end|>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([prose(300, 0)], trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>").save_pretrained(folder)
    return folder
