"""NLL by position against plain logits; resuming; refusals. test_tokenizer.py compares it with score_documents.py."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY_RUN, call_script, one_line_error, tiny_model, trained, write_documents
from transformers import AutoModelForCausalLM

from common import pretrained
from train_on_pg19 import evaluate, train
from train_on_pg19.nll import curves
from train_on_pg19.training import books

SCRIPT = "train_on_pg19/evaluate.py"
L, IDS = 32, 60


def random_model() -> torch.nn.Module:
    """A random Gemma 2, because it caps the logits after the head."""
    return tiny_model("gemma2", 64, final_logit_softcapping=3.0)


def plain_nll(model: torch.nn.Module, ids: torch.Tensor, start: int) -> np.ndarray:
    """The slow reference: all logits at once, in float64. ids: (documents, L)."""
    given = torch.cat([torch.full((len(ids), 1), start), ids[:, :-1]], dim=1)
    with torch.inference_mode():
        logits = model(input_ids=given).logits.double()
    return -torch.log_softmax(logits, -1).gather(2, ids[..., None])[..., 0].numpy()


@pytest.mark.parametrize(("rows", "length"), [(1, 1), (3, 19), (2, 300)])
def test_nll_is_that_of_the_logits_in_float64(rows, length):
    ids = torch.randint(64, (rows, length), generator=torch.Generator().manual_seed(1))
    given = torch.cat([torch.full((rows, 1), 5), ids[:, :-1]], dim=1)  # 5 is the start token
    found = evaluate.nll_of(random_model(), given, ids)
    assert (found.shape, found.dtype) == ((rows, length), torch.float32)
    np.testing.assert_allclose(found.numpy(), plain_nll(random_model(), ids, 5), atol=2e-5)


@pytest.mark.parametrize(("context", "length"), [(1, 6), (4, 16), (4, 19)])
def test_nll_with_the_last_tokens_only(context, length):
    """Against one call of the model for each token, given the tokens before it in its segment."""
    model, ids = random_model(), torch.randint(64, (2, length), generator=torch.Generator().manual_seed(2))
    found = evaluate.nll_with_last(model, ids, 5, context, rows=3)
    expected = np.empty(found.shape)
    for i in range(found.shape[1]):
        at = 2 * context + i
        begin = (at // context - 1) * context
        expected[:, i] = plain_nll(model, ids[:, begin : at + 1], 5)[:, -1]
    assert found.shape == (2, length // context * context - 2 * context)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-5)


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten books of four 40-token documents: 5-token words from a list of 20, 20% of tokens set to the book's number."""
    random = np.random.default_rng(0)
    words = random.integers(0, IDS, (20, 5))

    def text(book: int) -> list[int]:
        ids = words[random.integers(0, 20, 8)].flatten()
        return np.where(random.random(40) < 0.2, book, ids).tolist()

    ids = {f"book {i}": [text(i) for _ in range(4)] for i in range(10)}
    return write_documents(tmp_path_factory.mktemp("documents") / "words", ids, IDS)


TRAIN = "train_on_pg19/train.py"
FLAGS = ["--held-out", 0.3, "--warmup", 2, "--log-every", 2, "--checkpoint-every", 4, "--learning-rate", 3e-3]


def train_one(documents: Path, out: Path, *changes: object) -> Path:
    return trained(TRAIN, out, *FLAGS, "--documents", documents, *changes)


@pytest.fixture(scope="module")
def runs(documents, tmp_path_factory) -> tuple[Path, Path, Path]:
    """Two seeds of one model, and a Mamba2 model."""
    folder = tmp_path_factory.mktemp("runs")
    return (
        train_one(documents, folder / "tiny_0"),
        train_one(documents, folder / "tiny_1", "--seed", 1),
        train_one(documents, folder / "mamba2_0", "--model", "mamba2-mini-small"),
    )


def last(run: Path) -> Path:
    """The last checkpoint of a run."""
    return list(train.checkpoints(run).values())[-1]


def call(documents: Path, out: Path, model: object, *changes: object):
    return call_script(SCRIPT, "--model", model, "--documents", documents, "--out", out, "--device", "cpu", *changes)


@pytest.fixture(scope="module")
def evaluated(documents, runs, tmp_path_factory) -> Path:
    """A folder with a CSV for each run, and a subfolder nll with the NLL of every token."""
    out = tmp_path_factory.mktemp("evaluated")
    for run in runs:
        done = call(documents, out / f"{run.name}.csv", run, "--store", out / "nll")
        assert done.returncode == 0, done.stderr
    return out


def names_of(store: Path) -> list[str]:
    """The documents whose NLL is stored, sorted."""
    return sorted({name for path in store.glob("*.npz") for name in np.load(path)["documents"].tolist()})


def stored(store: Path, context: str = "") -> dict[str, np.ndarray]:
    """The stored NLL of each model, (documents, L), by hash; documents sorted by name. context: e.g. "last8"."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for path in store.glob("*.npz"):
        digest, *of = path.stem.split("-")
        if of[:-1] == [context] * bool(context):
            piece = np.load(path)
            found.setdefault(digest, {}).update(zip(piece["documents"].tolist(), piece["nll"], strict=True))
    return {digest: np.stack([one[name] for name in sorted(one)]) for digest, one in found.items()}


def held_out_ids(documents: Path, run: Path) -> tuple[torch.Tensor, np.ndarray]:
    table, _ = books.open_books(documents, L)
    chosen = [row for row in table if row["book"] in train.read_run(run)["held_out_books"]]
    return torch.tensor([row["input_ids"][:L] for row in chosen]), np.array([row["book"] for row in chosen])


def test_what_is_written_are_sums_over_held_out_documents(documents, runs, evaluated):
    """Sums by book and part against plain logits of each document; those given the last 8 tokens against the store."""
    ids, names = held_out_ids(documents, runs[0])
    assert len(ids) == 12  # three books of ten
    for run, model, seed in zip(runs, ["tiny", "tiny", "mamba2-mini-small"], [0, 1, 0], strict=True):
        table = pd.read_csv(evaluated / f"{run.name}.csv")
        assert table[["model", "seed", "L", "tokens", "n_documents"]].drop_duplicates().to_numpy().tolist() == [
            [model, seed, L, 14 * 128, 4]
        ]
        saved = AutoModelForCausalLM.from_pretrained(last(run))
        nll = plain_nll(saved, ids, IDS)
        blocks = [
            nll[names == book, first - 1 : last].sum() for book in np.unique(names) for first, last in curves.parts(L)
        ]
        np.testing.assert_allclose(table["nll_nats"], blocks, atol=1e-3)
        assert (table["units"] == 4 * (table["last"] - table["first"] + 1)).all()  # a token is a byte
        assert (table["last8_nats"].notna() == (table["first"] > 16)).all()
        facts = json.loads((evaluated / f"{run.name}.json").read_text())["evaluated"]
        assert (facts["parameters"], facts["kind"]) == (saved.num_parameters(), saved.config.model_type)
    key = next(key for key, of in stored(evaluated / "nll").items() if np.allclose(of.sum(), nll.sum(), atol=1e-3))
    late = stored(evaluated / "nll", "last8")[key]
    assert table["last8_nats"].sum() == pytest.approx(late.astype(float).sum(), abs=1e-3)


def test_losses_that_are_there_are_not_trained_again(documents, evaluated, tmp_path):
    """Nothing is trained if --out has no run and --losses has its last step; losses of another training are refused."""
    losses, run = ["--losses", evaluated / "tiny_0.csv"], tmp_path / "run"
    done = call_script(TRAIN, *TINY_RUN[TRAIN], *FLAGS, "--documents", documents, *losses, "--out", run)
    assert done.returncode == 0, done.stderr
    assert f"not trained: {losses[1]} has the losses of this training" in done.stdout
    assert not run.exists()
    others = write_documents(tmp_path / "others", {f"book {i}": [[i] * 40, [i + 1] * 40] for i in range(10)}, IDS)
    for changes, said in (
        (["--seed", 1], "seed 0 there, 1 here"),
        (["--learning-rate", 4e-3], "learning_rate 0.003 there, 0.004 here): name another --losses, or delete it"),
        (["--documents", others], "documents "),
        (["--held-out-books", "book 0"], "held_out_books "),
    ):
        given = [*TINY_RUN[TRAIN], *FLAGS, "--documents", documents, *losses, *changes, "--out", run]
        assert said in one_line_error(call_script(TRAIN, *given))
    train_one(documents, run, *losses, "--restarts", 1)  # trains further than the losses go
    assert max(train.checkpoints(run)) == 3 * 14
    begun = call_script(TRAIN, *TINY_RUN[TRAIN], *FLAGS, "--documents", documents, *losses, "--out", run)
    assert "not trained" not in begun.stdout


def test_no_document_that_the_run_was_trained_on_is_held_out(documents, tmp_path):
    """Of 48-token held-out documents, one shares 32 tokens with a training document, one 40, and a book is a copy."""
    ids: dict[str, list] = {}
    for row in books.open_books(documents, L)[0]:
        ids.setdefault(row["book"], []).append([*row["input_ids"], *row["input_ids"][:8]])
    folder = write_documents(tmp_path / "plain", ids, IDS)
    run = train_one(folder, tmp_path / "run", "--model", "mamba-mini", "--L", 40, "--batch-tokens", 160)
    held_out = train.read_run(run)["held_out_books"]
    one, other, third = held_out
    trained_on = next(rows for name, rows in ids.items() if name not in held_out)
    ids[one][0] = trained_on[0][:32] + ids[one][0][32:]
    ids[one][1] = trained_on[1][:40] + ids[one][1][40:]
    ids[third] = ids[other]  # a copy of another held-out book
    folder = write_documents(tmp_path / "repeats", ids, IDS)
    for length, kept in ((32, 6), (44, 7)):
        done = call(folder, tmp_path / f"{length}.csv", run, "--L", length)
        said = f"{12 - kept} documents of {folder} repeat another's first {min(length, 40)} tokens and are left out"
        assert said in done.stdout, done.stderr
        assert f"{kept} documents of 2 books, {length} tokens each" in done.stdout
        chosen = set(names_of(tmp_path / f"{length}.parts"))
        assert chosen >= {f"{one}#0002", f"{one}#0003", f"{other}#0000"}
        assert (f"{one}#0000" in chosen) == (length > 32)


def test_the_batch_changes_no_number(documents, runs, evaluated, tmp_path):
    done = call(documents, tmp_path / "out.csv", runs[2], "--batch-tokens", 5 * L)
    assert done.returncode == 0, done.stderr
    one, other = (pd.read_csv(path) for path in (evaluated / f"{runs[2].name}.csv", tmp_path / "out.csv"))
    pd.testing.assert_frame_equal(one, other, atol=1e-3, rtol=0)


def test_what_is_stored_is_not_computed_again(documents, runs, evaluated, tmp_path, monkeypatch):
    """With pieces of two documents: a damaged one is refused and, once deleted, the only one to be computed again."""
    monkeypatch.setattr(evaluate, "PIECE_TOKENS", 2 * L)
    out, store = tmp_path / "out.csv", tmp_path / "out.parts"
    again = functools.partial(call, documents, out, runs[0])
    assert again().returncode == 0
    whole, table = out.read_bytes(), pd.read_csv(out)
    pd.testing.assert_frame_equal(table, pd.read_csv(evaluated / f"{runs[0].name}.csv"), atol=1e-3, rtol=0)
    pieces = {path: path.stat().st_mtime_ns for path in store.glob("*.npz")}
    assert len(pieces) == 12  # 6 with the full context, 6 with the last 8 tokens only
    damaged = sorted(pieces)[2]
    damaged.write_bytes(damaged.read_bytes()[:-50])
    assert f"{damaged} is damaged" in one_line_error(again())
    damaged.unlink()
    assert again().returncode == 0
    assert out.read_bytes() == whole
    assert [path for path in sorted(pieces) if path.stat().st_mtime_ns != pieces[path]] == [damaged]
    before = {path: path.stat().st_mtime_ns for path in store.glob("*.npz")}
    book = table["book"].iloc[-1]
    assert again("--books", book).returncode == 0
    assert before == {path: path.stat().st_mtime_ns for path in store.glob("*.npz")}
    pd.testing.assert_frame_equal(pd.read_csv(out), table[table["book"] == book].reset_index(drop=True))
    assert "out.parts was made with other settings (L 32 there, 31 here)" in one_line_error(again("--L", 31))


def test_other_weights_are_computed(documents, runs, tmp_path):
    """Other weights in the same folder are evaluated again; weights that are NaN are refused."""
    run = shutil.copytree(runs[0], tmp_path / "run")
    checkpoint = last(run)
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    for number, factor in enumerate((1, 3, np.nan)):
        model.transformer.wte.weight.data.mul_(factor)
        model.save_pretrained(checkpoint)
        done = call(documents, tmp_path / "out.csv", run)
        assert len(stored(tmp_path / "out.parts")) == min(number + 1, 2)
    assert "tiny: its NLL is not finite" in one_line_error(done)
    found = pd.read_csv(tmp_path / "out.csv")["nll_nats"].sum()
    both = stored(tmp_path / "out.parts").values()
    assert sorted(np.allclose(found, nll.astype(float).sum(), atol=1e-3) for nll in both) == [False, True]


def test_a_model_of_others(documents, tmp_path, monkeypatch):
    """A model folder without a tokenizer (for bytes, DNA and the like); --bos gives the id of the start token."""
    random_model().save_pretrained(tmp_path / "mine")
    mine = functools.partial(call, documents, tmp_path / "out.csv", tmp_path / "mine", "--bos", 61)
    done = mine("--L", 16, "--dtype", "float32")
    assert done.returncode == 0, done.stderr
    assert "40 documents of 10 books" in done.stdout
    table, _ = books.open_books(documents, 16)
    nll = pd.read_csv(tmp_path / "out.csv")
    assert nll[["model", "seed", "tokens"]].drop_duplicates().to_numpy().tolist() == [["mine", 0, 0]]
    expected = plain_nll(random_model(), torch.tensor(table["input_ids"])[:, :16], 61)
    assert nll["nll_nats"].sum() == pytest.approx(expected.sum(), abs=1e-2)
    shutil.rmtree(tmp_path / "out.parts")
    monkeypatch.setattr(pretrained, "_product_seconds", lambda dtype: 1 + (dtype == torch.float32))
    assert mine("--L", 16).returncode == 0
    facts = json.loads((tmp_path / "out.json").read_text())["evaluated"]
    assert (facts["dtype"], facts["training"]) == ("bfloat16", {})


def test_without_their_tokenizer_documents_are_measured_in_tokens(documents, tmp_path, capsys):
    table, _ = books.open_books(documents, L)
    sequences = books.Sequences(table, np.arange(8), L, IDS, 0)
    text = evaluate.text_of(sequences, {"tokenizer": str(tmp_path / "nowhere")}, np.repeat(["a", "b"], [3, 5]))
    assert "no nats per byte: " in capsys.readouterr().out
    assert (text.unit, text.documents.tolist()) == ("token", [3, 5])
    assert text.units.sum(axis=1).tolist() == [3 * L, 5 * L]
    assert text.within(np.array([[17, 32]])).tolist() == [[3 * 16], [5 * 16]]


def test_bad_input(documents, runs, tmp_path):
    tiny_model("gpt2", n_positions=20).save_pretrained(tmp_path / "short")
    empty = shutil.copytree(runs[0], tmp_path / "empty")
    shutil.rmtree(last(empty))
    strangers = write_documents(tmp_path / "strangers", {f"new {i}": [[i] * 40] for i in range(4)}, IDS)
    wider = write_documents(tmp_path / "wider", {f"book {i}": [[i] * 40] for i in range(10)}, 256)
    for folder, model, flags, said in [
        (documents, "short", ["--bos", 3], "--L: say how many tokens of each document"),
        (documents, "short", ["--L", 32, "--bos", 3], "its context is 20 tokens, shorter than L = 32"),
        (documents, runs[0], ["--L", 0], "--L 0: must be at least 1"),
        (documents, runs[0], ["--out", tmp_path], f"--out {tmp_path}: give a file that ends in .csv"),
        (documents, runs[0], ["--n-documents", 0], "--n-documents 0: must be at least 1"),
        (documents, runs[0], ["--max-documents-per-book", -1], "--max-documents-per-book -1: must be at least 0"),
        (documents, runs[0], ["--books", "none"], "--books none: none of 3 books"),
        (documents, empty, [], "has no checkpoint yet"),
        (strangers, runs[0], [], "none of the books that the run held out"),
        (wider, runs[0], [], "tokenised with bytes, and tiny was trained on tokens of bytes"),
    ]:
        assert said in one_line_error(call(folder, tmp_path / "out.csv", tmp_path / model, *flags))
    assert not list(tmp_path.glob("out*"))


def test_a_run_is_evaluated_at_the_end_of_each_cosine(documents, tmp_path):
    """After two cosines; and in the middle of the second, where the end of the first is evaluated."""
    run = train_one(documents, tmp_path / "run", "--steps", 4, "--checkpoint-every", 2, "--restarts", 1)
    assert call(documents, tmp_path / "out.csv", run, "--contexts", 4, 8, "--reach", 4).returncode == 0
    table = pd.read_csv(tmp_path / "out.csv")
    assert set(table["tokens"]) == {512, 1536}
    assert set(table.loc[table["last8_nats"].notna(), "tokens"]) == {1536}
    assert set(table.loc[table["last4_nats"].notna(), "tokens"]) == {512, 1536}
    saved = AutoModelForCausalLM.from_pretrained(run / "checkpoint-4")
    expected = plain_nll(saved, held_out_ids(documents, run)[0], IDS)
    assert table.loc[table["tokens"] == 512, "nll_nats"].sum() == pytest.approx(expected.sum(), abs=1e-2)
    (run / "checkpoint-12").rename(run / "checkpoint-8")
    done = call(documents, tmp_path / "out.csv", run)
    assert (
        "run is at step 8, in the middle of a cosine that ends at 12: taken at the end of the one before" in done.stdout
    )
    assert set(pd.read_csv(tmp_path / "out.csv")["tokens"]) == {512}
