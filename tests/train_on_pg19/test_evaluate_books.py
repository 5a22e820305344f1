"""NLL by position: against plain logits, the Trainer's loss and score_documents.py; runs cut off or refused."""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SMOLLM2, call_script, one_line_error, tiny_model, write_documents
from transformers import AutoConfig, AutoModelForCausalLM

from common import pretrained
from common.cli import UserError
from measure_mutual_info.scoring import backend_transformers
from train_on_pg19 import evaluate, train
from train_on_pg19.nll import curves, nll_store
from train_on_pg19.training import books

SCRIPT, COMPARE = "train_on_pg19/evaluate.py", "train_on_pg19/compare.py"
L, IDS = 32, 60
SMALL = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
KINDS = {
    "llama": SMALL,
    "gpt2": dict(n_embd=32, n_layer=2, n_head=4),
    "gpt_neox": {**SMALL, "num_key_value_heads": None},
    "mistral": {**SMALL, "sliding_window": 8},
    "gemma2": {**SMALL, "head_dim": 8, "final_logit_softcapping": 3.0},
    "cohere": {**SMALL, "logit_scale": 0.3},
    "granite": {**SMALL, "logits_scaling": 2.5},
    "qwen3": {**SMALL, "head_dim": 8},
    "phi": SMALL,
    "mamba": dict(hidden_size=32, num_hidden_layers=2, state_size=8),
    "mamba2": dict(hidden_size=32, num_hidden_layers=2, num_heads=8, head_dim=8, state_size=8, n_groups=2),
}


def random_model(kind: str, vocabulary: int = 64) -> torch.nn.Module:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=vocabulary, **KINDS[kind])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model


def plain_nll(model: torch.nn.Module, ids: torch.Tensor, start: int) -> np.ndarray:
    """The slow reference: all logits at once, in float64. ids: (documents, L)."""
    given = torch.cat([torch.full((len(ids), 1), start), ids[:, :-1]], dim=1)
    with torch.inference_mode():
        logits = model(input_ids=given).logits.double()
    return -torch.log_softmax(logits, -1).gather(2, ids[..., None])[..., 0].numpy()


def some_ids(rows: int = 3, length: int = 19) -> tuple[torch.Tensor, torch.Tensor]:
    """What is given, and what follows it; 5 is the start token."""
    targets = torch.randint(64, (rows, length), generator=torch.Generator().manual_seed(1))
    return torch.cat([torch.full((rows, 1), 5), targets[:, :-1]], dim=1), targets


@pytest.mark.parametrize("rows", [1, 7, 512])
@pytest.mark.parametrize("kind", KINDS)
def test_nll_in_pieces_is_that_of_all_logits_at_once(kind, rows):
    model, (given, targets) = random_model(kind), some_ids()
    found = evaluate.nll_in_pieces(model, given, targets, rows=rows)
    assert found.shape == (3, 19)
    assert found.dtype == torch.float32
    expected = plain_nll(model, targets, 5)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-5)
    np.testing.assert_allclose(evaluate.nll_at_once(model, given, targets).numpy(), expected, atol=2e-5)
    assert evaluate.nll_function(model, given, targets) is evaluate.nll_in_pieces
    np.testing.assert_allclose(plain_nll(model, targets, 5), expected)  # the model is as it was


def test_a_model_that_cannot_go_in_pieces_is_found_out(capsys):
    """OPT's head does not call the layers by the name that it gives them; another one looks at other positions."""
    shape = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48, word_embed_proj_dim=32)
    opt = AutoModelForCausalLM.from_config(AutoConfig.for_model("opt", vocab_size=64, **shape)).eval()
    other = random_model("llama")
    head = other.lm_head.forward
    other.lm_head.forward = lambda hidden: head(hidden - hidden.mean(dim=1, keepdim=True))
    given, targets = some_ids()
    for model in (opt, other):
        assert evaluate.nll_function(model, given, targets) is evaluate.nll_at_once
        assert f"{type(model).__name__}: all logits of a batch are held at once" in capsys.readouterr().out
        found = evaluate.nll_at_once(model, given, targets).numpy()
        np.testing.assert_allclose(found, plain_nll(model, targets, 5), atol=2e-5)


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four documents of 40 tokens in each of 10 books: words of 5 tokens from a list of 20, and a word of each book."""
    random = np.random.default_rng(0)
    words = random.integers(0, IDS, (20, 5))

    def text(book: int) -> list[int]:
        ids = words[random.integers(0, 20, 8)].flatten()
        return np.where(random.random(40) < 0.2, book, ids).tolist()

    ids = {f"book {i}": [text(i) for _ in range(4)] for i in range(10)}
    return write_documents(tmp_path_factory.mktemp("documents") / "words", ids, IDS)


def trained(documents: Path, out: Path, *changes: object) -> Path:
    flags = ["--L", L, "--batch-tokens", 4 * L, "--epochs", 2, "--held-out", 0.3, "--warmup", 2, "--log-every", 2]
    flags += ["--checkpoint-every", 4, "--learning-rate", 3e-3, "--device", "cpu", "--model", "tiny"]
    done = call_script("train_on_pg19/train.py", *flags, "--documents", documents, "--out", out, *changes)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def runs(documents, tmp_path_factory) -> tuple[Path, Path, Path]:
    """Two seeds of one model, and a Mamba2."""
    folder = tmp_path_factory.mktemp("runs")
    return (
        trained(documents, folder / "tiny_0"),
        trained(documents, folder / "tiny_1", "--seed", 1),
        trained(documents, folder / "mamba2_0", "--model", "mamba2-mini-small"),
    )


def call(documents: Path, out: Path, models: list, *changes: object):
    return call_script(SCRIPT, "--models", *models, "--documents", documents, "--out", out, "--device", "cpu", *changes)


@pytest.fixture(scope="module")
def candidates(documents, runs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("evaluated")
    done = call(documents, out, runs)
    assert done.returncode == 0, done.stderr
    return out


def held_out_ids(documents: Path, run: Path) -> tuple[torch.Tensor, np.ndarray]:
    table, _ = books.open_books(documents, L)
    chosen = [row for row in table if row["book"] in train.read_run(run)["held_out_books"]]
    return torch.tensor([row["input_ids"][:L] for row in chosen]), np.array([row["book"] for row in chosen])


def test_nll_by_position_is_that_of_the_held_out_documents(documents, runs, candidates):
    nll = pd.read_csv(candidates / "nll.csv")
    assert list(nll) == ["model", "L", "position", "nll_nats", "stderr_nats", "n_documents", "seed"]
    assert len(nll) == 3 * L
    ids, names = held_out_ids(documents, runs[0])
    assert len(ids) == 12  # three books of ten
    for run, model, seed in zip(runs, ["tiny", "tiny", "mamba2-mini-small"], [0, 1, 0], strict=True):
        saved = AutoModelForCausalLM.from_pretrained(train.last_checkpoint(run)[0])
        expected = plain_nll(saved, ids, IDS)
        rows = nll[(nll["model"] == model) & (nll["seed"] == seed)]
        assert rows["position"].tolist() == list(range(1, L + 1))
        assert (rows["n_documents"] == 12).all()
        np.testing.assert_allclose(rows["nll_nats"], expected.mean(axis=0), atol=2e-5)
        by_book = np.stack([expected[names == name].mean(axis=0) for name in np.unique(names)])
        np.testing.assert_allclose(rows["stderr_nats"], by_book.std(axis=0, ddof=1) / np.sqrt(3), atol=2e-5)


def test_smooth_and_summary(documents, runs, candidates):
    nll, smooth = (pd.read_csv(candidates / f"{name}.csv") for name in ("nll", "smooth"))
    summary = pd.read_csv(candidates / "summary.csv")
    assert len(summary) == 3
    one = nll[(nll["model"] == "tiny") & (nll["seed"] == 1)].set_index("position")["nll_nats"]
    rows = smooth[(smooth["model"] == "tiny") & (smooth["seed"] == 1)]
    assert rows[["first", "last"]].to_numpy().tolist() == curves.windows(L).tolist()
    for row in rows.itertuples():
        assert row.nll_nats == pytest.approx(one.loc[row.first : row.last].mean(), abs=2e-5)
    found = summary[(summary["model"] == "tiny") & (summary["seed"] == 1)].iloc[0]
    assert found["nll_nats"] == pytest.approx(one.mean(), abs=1e-5)
    assert found[["kind", "steps", "n_books", "source"]].tolist() == ["gpt2", 14, 3, "toy"]
    assert found["bits_per_byte"] == pytest.approx(found["nll_nats"] / np.log(2), abs=1e-5)  # a token is a byte
    saved = AutoModelForCausalLM.from_pretrained(train.last_checkpoint(runs[1])[0])
    assert found["parameters"] == saved.num_parameters()
    record = json.loads((candidates / "nll.json").read_text())
    assert record["settings"]["models"] == [run.name for run in runs]
    assert set(record["inputs"]) == {"state.json", "tiny_0.npy", "tiny_1.npy", "mamba2-mini-small_0.npy"}
    assert record["device"] == "cpu"


def test_the_trainers_loss_is_the_mean_over_positions(documents, tmp_path):
    """At a learning rate that moves nothing, one row of log.csv is the mean over all training sequences: to 1e-4."""
    still = ["--learning-rate", 1e-12, "--epochs", 1, "--log-every", 7, "--checkpoint-every", 7]
    run = trained(documents, tmp_path / "run", *still)
    logged = pd.read_csv(run / "log.csv")["nll_nats"]
    assert len(logged) == 1
    done = call(documents, tmp_path / "out", [run], "--books", "training")
    assert done.returncode == 0, done.stderr
    summary = pd.read_csv(tmp_path / "out" / "summary.csv").iloc[0]
    assert summary["n_documents"] == 28
    assert summary["nll_nats"] == pytest.approx(logged[0], abs=1e-4)


def test_books_of_the_runs(documents, runs, tmp_path):
    for of, documents_of, books_of in (("held_out", 12, 3), ("training", 28, 7), ("all", 40, 10)):
        done = call(documents, tmp_path / of, [runs[0]], "--books", of)
        assert done.stdout.startswith(f"{documents_of} documents of {books_of} books, 32 tokens each")
    held_out = set(pd.read_csv(tmp_path / "held_out" / "nll" / "documents.csv")["book"])
    assert held_out == set(train.read_run(runs[0])["held_out_books"])
    assert not held_out & set(pd.read_csv(tmp_path / "training" / "nll" / "documents.csv")["book"])


@pytest.mark.parametrize("length", [32, 40, 44])
def test_no_document_that_the_run_was_trained_on_is_held_out(documents, tmp_path, length):
    """Documents of 48 tokens; one held-out document shares 32 with one trained on, others 40 or all."""
    ids: dict[str, list] = {}
    for row in books.open_books(documents, L)[0]:
        ids.setdefault(row["book"], []).append([*row["input_ids"], *row["input_ids"][:8]])
    folder = write_documents(tmp_path / "plain", ids, IDS)
    run = trained(folder, tmp_path / "run", "--model", "mamba2-mini-small", "--L", 40, "--batch-tokens", 160)
    held_out = train.read_run(run)["held_out_books"]
    one, other, third = held_out
    trained_on = next(rows for name, rows in ids.items() if name not in held_out)
    ids[one][0] = trained_on[0][:32] + ids[one][0][32:]
    ids[one][1] = trained_on[1][:40] + ids[one][1][40:]
    ids[third] = ids[other]  # and a copy among those held out
    folder = write_documents(tmp_path / "repeats", ids, IDS)
    done = call(folder, tmp_path / "out", [run], "--L", length)
    kept = 6 if length == 32 else 7
    said = f"{12 - kept} documents of {folder} repeat another's first {min(length, 40)} tokens and are left out"
    assert said in done.stdout, done.stderr
    assert f"{kept} documents of 2 books, {length} tokens each" in done.stdout
    chosen = pd.read_csv(tmp_path / "out" / "nll" / "documents.csv")["document"]
    assert set(chosen) >= {f"{one}#0002", f"{one}#0003", f"{other}#0000"}
    assert (f"{one}#0000" in set(chosen)) == (length > 32)
    whole = call(folder, tmp_path / "all", [run], "--books", "all", "--L", 32)
    assert "34 documents of 9 books" in whole.stdout


def test_neither_the_batch_nor_the_order_changes_a_number(documents, runs, candidates, tmp_path):
    done = call(documents, tmp_path, runs[::-1], "--batch-tokens", 5 * L)
    assert done.returncode == 0, done.stderr
    one, other = (
        pd.read_csv(folder / "nll.csv").set_index(["model", "seed", "position"]).sort_index()["nll_nats"]
        for folder in (candidates, tmp_path)
    )
    pd.testing.assert_series_equal(one, other, atol=3e-5, rtol=0)


def test_a_draw_of_documents_is_the_same_for_all_models(documents, runs, tmp_path):
    for name, models in (("one", [runs[0]]), ("two", [runs[2]])):
        done = call(documents, tmp_path / name, models, "--n-documents", 5)
        assert done.returncode == 0, done.stderr
    one, two = (pd.read_csv(tmp_path / name / "nll" / "documents.csv") for name in ("one", "two"))
    assert len(one) == 5
    pd.testing.assert_frame_equal(one, two)
    done = call(documents, tmp_path / "other", [runs[0]], "--n-documents", 5, "--seed", 1)
    assert not pd.read_csv(tmp_path / "other" / "nll" / "documents.csv").equals(one), done.stderr


def test_a_run_that_is_cut_off_goes_on(documents, runs, candidates, tmp_path, monkeypatch):
    whole, seen = evaluate.nll_in_pieces, []

    def failing(model, input_ids, targets):
        seen.append(len(input_ids))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return whole(model, input_ids, targets)

    monkeypatch.setattr(evaluate, "nll_function", lambda *_: failing)
    flags = [documents, tmp_path, [runs[0]], "--batch-tokens", 2 * L]
    cut = call(*flags)
    assert cut.returncode == 130
    assert "interrupted: the same command again goes on" in cut.stderr
    assert not (tmp_path / "nll.csv").exists()
    again = call(*flags)
    assert again.returncode == 0, again.stderr
    assert seen == [2] * 7  # the third pair is done twice
    one = pd.read_csv(candidates / "nll.csv").iloc[:L]["nll_nats"]
    np.testing.assert_allclose(pd.read_csv(tmp_path / "nll.csv")["nll_nats"], one, atol=3e-5)


def test_what_is_there_is_not_computed_again_but_other_weights_are(documents, runs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    flags = [documents, tmp_path / "out", [run]]
    call(*flags)
    stored = nll_store.read(tmp_path / "out" / "nll")[0].nll
    first = np.array(stored)
    np.load(tmp_path / "out" / "nll" / "tiny_0.npy", mmap_mode="r+")[3] = 7.0
    assert "all 12 documents are there already" in call(*flags).stdout
    assert (nll_store.read(tmp_path / "out" / "nll")[0].nll[3] == 7).all()
    checkpoint = train.last_checkpoint(run)[0]
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    with torch.no_grad():
        model.transformer.wte.weight.mul_(3)
    model.save_pretrained(checkpoint)
    assert "already" not in call(*flags).stdout
    new = nll_store.read(tmp_path / "out" / "nll")[0].nll
    assert (new[3] != 7).all()
    assert not np.allclose(new, first, atol=1e-3)


class TestModelsOfOthers:
    def test_a_local_folder_without_tokenizer(self, documents, tmp_path):
        """Ids of bytes, DNA and the like: --bos gives the id to begin with."""
        random_model("llama").save_pretrained(tmp_path / "mine")
        done = call(documents, tmp_path / "out", [tmp_path / "mine"], "--L", 16, "--bos", 61)
        assert done.returncode == 0, done.stderr
        assert "so no book is held out: all are taken" in done.stdout
        table, _ = books.open_books(documents, 16)
        ids = torch.tensor([row["input_ids"][:16] for row in table])
        nll = pd.read_csv(tmp_path / "out" / "nll.csv")
        assert (nll["model"] == "mine").all()
        np.testing.assert_allclose(nll["nll_nats"], plain_nll(random_model("llama"), ids, 61).mean(axis=0), atol=2e-5)

    def test_beside_a_run_it_meets_the_same_documents(self, documents, runs, tmp_path):
        random_model("llama").save_pretrained(tmp_path / "mine")
        done = call(documents, tmp_path / "out", [runs[0], tmp_path / "mine"], "--bos", 61)
        assert done.returncode == 0, done.stderr
        assert (pd.read_csv(tmp_path / "out" / "nll.csv")["n_documents"] == 12).all()

    def test_refused(self, documents, runs, tmp_path):
        random_model("llama", vocabulary=59).save_pretrained(tmp_path / "small")
        tiny_model("gpt2", n_positions=20).save_pretrained(tmp_path / "short")
        cases = [
            (["small", "--L", 16, "--bos", 3], "outside the vocabulary of .*small"),
            (["small", "--L", 16], "it has no tokenizer files"),
            (["small", "--bos", 3], "--L: say how many tokens of each document"),
            (["short", "--L", 32, "--bos", 3], "its context is 20 tokens, shorter than L = 32"),
            (["nowhere", "--L", 16, "--bos", 3], "could not load the configuration"),
        ]
        for (name, *flags), said in cases:
            error = one_line_error(call(documents, tmp_path / "out", [tmp_path / name], *flags))
            assert re.search(said, error), error
        assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not SMOLLM2.exists(), reason="the sample model is missing: measure_mutual_info/fetch_sample.py")
def test_the_sample_model_gives_the_scores_of_score_documents(tmp_path, monkeypatch):
    """Sums over Y of the NLL = −log q(Y given X) of scores.csv, to 1e-3 nats a document."""
    load = functools.cache(pretrained.load_model)  # it takes half a minute
    for module in (pretrained, backend_transformers):
        monkeypatch.setattr(module, "load_model", load)
    prepare = ["--corpus", SMOLLM2.parents[1] / "books", "--tokenizer", SMOLLM2, "--min-tokens", 64]
    prepare += ["--max-documents-per-book", 2, "--max-books", 2, "--out", tmp_path / "documents"]
    assert call_script("measure_mutual_info/prepare_dataset.py", *prepare).returncode == 0
    flags = ["--documents", tmp_path / "documents", "--model", SMOLLM2, "--L-max", 64, "--ratios", 2]
    done = call_script("measure_mutual_info/score_documents.py", *flags, "--out", tmp_path / "scores.csv")
    assert done.returncode == 0, done.stderr
    done = call(tmp_path / "documents", tmp_path / "out", [SMOLLM2], "--L", 64)
    assert done.returncode == 0, done.stderr
    scores = pd.read_csv(tmp_path / "scores.csv")
    stored = nll_store.read(tmp_path / "out" / "nll")[0].nll
    names = pd.read_csv(tmp_path / "out" / "nll" / "documents.csv")["document"].tolist()
    assert len(scores) == 4 * 5
    for row in scores.itertuples():
        mine = stored[names.index(row.document), row.ell_tokens : row.L_tokens].astype(float).sum()
        assert mine == pytest.approx(-row.logq_y_given_x_nats, abs=1e-3)
    # The bytes that 64 tokens of the books stand for, counted on the texts themselves.
    summary = pd.read_csv(tmp_path / "out" / "summary.csv").iloc[0]
    bits = stored.astype(float).sum() / np.log(2) / summary["bits_per_byte"]
    assert 3 * 4 * 64 < bits < 5 * 4 * 64  # bytes: English has about four a token


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--L", 41], "40 of 40 documents have fewer than L = 41 tokens"),
        (["--L", 33], "its context is 32 tokens, shorter than L = 33"),
        (["--L", 0], "--L 0: at least 1"),
        (["--n-documents", 0], "--n-documents 0: at least 1"),
        (["--batch-tokens", 0], "--batch-tokens 0: at least 1"),
        (["--device", "tpu"], "--device tpu: give auto, cpu"),
    ],
)
def test_bad_settings(documents, runs, tmp_path, flags, said):
    assert said in one_line_error(call(documents, tmp_path / "out", [runs[0]], *flags))


def test_runs_and_documents_that_do_not_fit(documents, runs, tmp_path):
    other = trained(documents, tmp_path / "other", "--split-seed", 1, "--model", "gpt2-mini-small")
    said = one_line_error(call(documents, tmp_path / "out", [runs[0], other]))
    assert "held out different books" in said
    done = call(documents, tmp_path / "all", [runs[0], other], "--books", "all")
    assert done.returncode == 0, done.stderr
    assert set(pd.read_csv(tmp_path / "all" / "nll.csv")["n_documents"]) == {40}
    strangers = write_documents(tmp_path / "strangers", {f"new {i}": [[i] * 40] for i in range(4)}, IDS)
    assert "none of the books that the runs held out" in one_line_error(call(strangers, tmp_path / "out", [runs[0]]))
    wider = write_documents(tmp_path / "wider", {f"book {i}": [[i] * 40] for i in range(10)}, 256)
    assert "tokenised with bytes, and tiny was trained on tokens of bytes" in one_line_error(
        call(wider, tmp_path / "out", [runs[0]])
    )
    assert "is there twice" in one_line_error(call(documents, tmp_path / "out", [runs[0], f"{runs[0]}/"]))
    (tmp_path / "file").write_text("")
    assert "is a file: give a folder" in one_line_error(call(documents, tmp_path / "file", [runs[0]]))


def test_seeds_that_differ_in_more(documents, runs, tmp_path):
    other = trained(documents, tmp_path / "other", "--seed", 2, "--learning-rate", 1e-3)
    said = one_line_error(call(documents, tmp_path / "out", [runs[0], other]))
    assert "the runs of tiny differ in learning_rate, not in the seed alone: evaluate them apart" in said


def test_a_run_without_a_checkpoint(documents, runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs[0], folder)
    shutil.rmtree(train.last_checkpoint(folder)[0])
    assert "has no checkpoint yet" in one_line_error(call(documents, tmp_path / "out", [folder]))


def test_weights_that_are_not_finite(documents, runs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    checkpoint = train.last_checkpoint(run)[0]
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    with torch.no_grad():
        model.transformer.ln_f.weight[0] = float("nan")
    model.save_pretrained(checkpoint)
    assert "tiny: its NLL is not finite" in one_line_error(call(documents, tmp_path / "out", [run]))
    assert not (tmp_path / "out" / "nll.csv").exists()


class TestStore:
    def test_x_donors(self, documents, runs, tmp_path):
        assert call(documents, tmp_path, [runs[0]]).returncode == 0
        said = one_line_error(call(documents, tmp_path, [runs[0]], "--n-documents", 5))
        assert "holds the NLL of other documents: give another --store" in said

    def test_a_folder_of_something_else(self, documents, runs, tmp_path):
        (tmp_path / "nll").mkdir()
        (tmp_path / "nll" / "notes.txt").write_text("mine")
        assert "holds files and no documents.csv" in one_line_error(call(documents, tmp_path, [runs[0]]))
        assert (tmp_path / "nll" / "notes.txt").read_text() == "mine"

    def test_a_damaged_array(self, documents, runs, candidates, tmp_path):
        shutil.copytree(candidates, tmp_path / "out")
        array = tmp_path / "out" / "nll" / "tiny_1.npy"
        array.write_bytes(array.read_bytes()[:-50])
        said = one_line_error(call_script(COMPARE, "--store", array.parent, "--out", tmp_path))
        assert "tiny_1.npy is missing or damaged (ValueError): run evaluate.py to its end" in said
        done = call(documents, tmp_path / "out", runs)
        assert done.stdout.count("are there already") == 2
        assert (tmp_path / "out" / "nll.csv").read_bytes() == (candidates / "nll.csv").read_bytes()

    def test_an_unfinished_model_is_not_compared(self, candidates, tmp_path):
        shutil.copytree(candidates / "nll", tmp_path / "nll")
        np.load(tmp_path / "nll" / "tiny_0.npy", mmap_mode="r+")[3, 5] = np.nan
        said = one_line_error(call_script(COMPARE, "--store", tmp_path / "nll", "--out", tmp_path))
        assert "1 of 12 documents are still to do" in said


class TestCompare:
    def test_gap_and_crossover(self, candidates, tmp_path):
        done = call_script(COMPARE, "--store", candidates / "nll", "--out", tmp_path)
        assert done.returncode == 0, done.stderr
        gap, crossover = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("gap", "crossover"))
        assert gap[["model_a", "model_b", "seeds_a", "seeds_b"]].drop_duplicates().to_numpy().tolist() == [
            ["mamba2-mini-small", "tiny", 1, 2]
        ]
        smooth = pd.read_csv(candidates / "smooth.csv").groupby(["model", "first"])["nll_nats"].mean()
        expected = smooth["mamba2-mini-small"] - smooth["tiny"]
        np.testing.assert_allclose(gap["gap_nats"], expected, atol=2e-6)
        assert (gap["lo95"] < gap["gap_nats"]).all()
        assert (gap["gap_nats"] < gap["hi95"]).all()
        leader = "tiny" if gap["gap_nats"].iloc[-1] > 0 else "mamba2-mini-small"
        assert crossover["leads_at_the_end"].tolist() == [leader]
        assert f"{leader} leads" in done.stdout

    def test_chosen_pairs(self, candidates, tmp_path):
        flags = ["--store", candidates / "nll", "--out", tmp_path]
        leaders = []
        for pair in ("tiny:mamba2-mini-small", "mamba2-mini-small:tiny"):
            assert call_script(COMPARE, *flags, "--pairs", pair).returncode == 0
            gap = pd.read_csv(tmp_path / "gap.csv")
            assert set(gap["model_a"]) == {pair.split(":")[0]}
            leaders += pd.read_csv(tmp_path / "crossover.csv")["leads_at_the_end"].tolist()
            assert leaders[-1] == gap[["model_a", "model_b"]].iloc[0, int(gap["gap_nats"].iloc[-1] > 0)]
        assert leaders[0] == leaders[1]
        for bad in ("tiny", "tiny:tiny", "tiny:gpt5", ""):
            said = one_line_error(call_script(COMPARE, *flags, "--pairs", bad))
            assert f"--pairs {bad}: give model_a:model_b, two of mamba2-mini-small, tiny" in said

    def test_models_of_an_earlier_call_stay_out(self, documents, runs, tmp_path):
        assert call(documents, tmp_path, runs).returncode == 0
        assert call(documents, tmp_path, [runs[1], runs[2]]).returncode == 0
        assert (tmp_path / "nll" / "tiny_0.npy").is_file()
        assert call_script(COMPARE, "--store", tmp_path / "nll", "--out", tmp_path).returncode == 0
        assert set(pd.read_csv(tmp_path / "gap.csv")["seeds_b"]) == {1}

    def test_each_name_has_a_file_of_its_own(self, tmp_path):
        names = ["gpt2", "x_y", "x/y", "x y", "x//y", "鯨", "кит", "x" * 300, "x" * 301]
        nll_store.begin(tmp_path / "s", ["d"], ["b"])
        for number, name in enumerate(names):
            array = nll_store.open_to_write(tmp_path / "s", name, 0, (1, 2), {})
            assert np.isnan(array).all()
            array[:] = number
        nll_store.finish(tmp_path / "s", [(name, 0) for name in names])
        found = {one.model: (one.path.name, one.nll[0, 0]) for one in nll_store.read(tmp_path / "s")}
        assert [found[name][1] for name in names] == list(range(len(names)))
        assert [found[name][0] for name in ("gpt2", "x_y")] == ["gpt2_0.npy", "x_y_0.npy"]
        assert re.fullmatch(r"x_y-[0-9a-f]{8}_0\.npy", found["x/y"][0])

    def test_a_file_of_another_model(self, tmp_path, monkeypatch):
        """As on a disk that does not tell A from a."""
        nll_store.begin(tmp_path / "s", ["d"], ["b"])
        monkeypatch.setattr(nll_store, "_path", lambda folder, model, seed: folder / "a_0.npy")
        nll_store.open_to_write(tmp_path / "s", "A", 0, (1, 2), {})
        with pytest.raises(UserError, match="holds the NLL of A, not of a"):
            nll_store.open_to_write(tmp_path / "s", "a", 0, (1, 2), {})

    def test_a_full_disk_is_an_error_that_names_the_file(self, tmp_path, monkeypatch):
        """And no signal, as it is where what is mapped finds no room."""
        nll_store.begin(tmp_path / "s", ["d"], ["b"])
        monkeypatch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space") as stopped:
            nll_store.open_to_write(tmp_path / "s", "a", 0, (1, 2), {})
        assert stopped.value.filename == str(tmp_path / "s" / "a_0.npy")
        assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["documents.csv"]

    def test_refused(self, documents, runs, tmp_path):
        assert "no file" in one_line_error(call_script(COMPARE, "--store", tmp_path / "no", "--out", tmp_path))
        assert call(documents, tmp_path, [runs[0]]).returncode == 0
        store = ["--store", tmp_path / "nll", "--out", tmp_path]
        assert "has one model, tiny" in one_line_error(call_script(COMPARE, *store))
        assert "--per-doubling 0: at least 1" in one_line_error(call_script(COMPARE, *store, "--per-doubling", 0))
        (tmp_path / "nll" / "tiny_0.npy").unlink()
        assert "tiny_0.npy is missing or damaged" in one_line_error(call_script(COMPARE, *store))
