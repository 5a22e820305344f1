"""NLL by position: against plain logits and score_documents.py; gaps; runs cut off or refused."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SMOLLM2, call_script, one_line_error, tiny_model, trained, write_documents
from transformers import AutoConfig, AutoModelForCausalLM

from common import pretrained
from train_on_pg19 import evaluate, train
from train_on_pg19.nll import curves
from train_on_pg19.training import books

SCRIPT = "train_on_pg19/evaluate.py"
L, IDS = 32, 60
# Gemma 2, because it does something to its logits after the head.
SMALL = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
SMALL |= dict(head_dim=8, final_logit_softcapping=3.0)


def random_model() -> torch.nn.Module:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma2", vocab_size=64, **SMALL)).eval()
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


@pytest.mark.parametrize(("rows", "length"), [(1, 1), (3, 19), (2, 300)])
def test_nll_is_that_of_the_logits_in_float64(rows, length):
    ids = torch.randint(64, (rows, length), generator=torch.Generator().manual_seed(1))
    given = torch.cat([torch.full((rows, 1), 5), ids[:, :-1]], dim=1)  # 5 is the start token
    found = evaluate.nll_of(random_model(), given, ids)
    assert (found.shape, found.dtype) == ((rows, length), torch.float32)
    np.testing.assert_allclose(found.numpy(), plain_nll(random_model(), ids, 5), atol=2e-5)


@pytest.mark.parametrize(("context", "length"), [(1, 6), (4, 16), (4, 19)])
def test_nll_with_the_last_tokens_only(context, length):
    """Against one call of the model for each token, given what its segment has before it."""
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
    """Four documents of 40 tokens in each of 10 books: words of 5 tokens from a list of 20, and a word of each book."""
    random = np.random.default_rng(0)
    words = random.integers(0, IDS, (20, 5))

    def text(book: int) -> list[int]:
        ids = words[random.integers(0, 20, 8)].flatten()
        return np.where(random.random(40) < 0.2, book, ids).tolist()

    ids = {f"book {i}": [text(i) for _ in range(4)] for i in range(10)}
    return write_documents(tmp_path_factory.mktemp("documents") / "words", ids, IDS)


def train_one(documents: Path, out: Path, *changes: object) -> Path:
    flags = ["--held-out", 0.3, "--warmup", 2, "--log-every", 2, "--checkpoint-every", 4, "--learning-rate", 3e-3]
    return trained("train_on_pg19/train.py", out, *flags, "--documents", documents, *changes)


@pytest.fixture(scope="module")
def runs(documents, tmp_path_factory) -> tuple[Path, Path, Path]:
    """Two seeds of one model, and a Mamba2."""
    folder = tmp_path_factory.mktemp("runs")
    return (
        train_one(documents, folder / "tiny_0"),
        train_one(documents, folder / "tiny_1", "--seed", 1),
        train_one(documents, folder / "mamba2_0", "--model", "mamba2-mini-small"),
    )


def last(run: Path) -> Path:
    """Its last checkpoint."""
    return list(train.checkpoints(run).values())[-1]


def call(documents: Path, out: Path, models: list, *changes: object):
    return call_script(SCRIPT, "--models", *models, "--documents", documents, "--out", out, "--device", "cpu", *changes)


@pytest.fixture(scope="module")
def candidates(documents, runs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("evaluated")
    done = call(documents, out, runs)
    assert done.returncode == 0, done.stderr
    return out


def names_of(out: Path) -> list[str]:
    """The documents whose NLL is stored, sorted."""
    return sorted({name for path in (out / "nll").glob("*.npz") for name in np.load(path)["documents"].tolist()})


def stored(out: Path, context: str = "") -> dict[str, np.ndarray]:
    """The NLL of each model, (documents, L), the documents sorted. context: e.g. "last8"."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for path in (out / "nll").glob("*.npz"):
        digest, *of = path.stem.split("-")
        if of[:-1] == [context] * bool(context):
            piece = np.load(path)
            found.setdefault(digest, {}).update(zip(piece["documents"].tolist(), piece["nll"], strict=True))
    return {digest: np.stack([one[name] for name in sorted(one)]) for digest, one in found.items()}


def held_out_ids(documents: Path, run: Path) -> tuple[torch.Tensor, np.ndarray]:
    table, _ = books.open_books(documents, L)
    chosen = [row for row in table if row["book"] in train.read_run(run)["held_out_books"]]
    return torch.tensor([row["input_ids"][:L] for row in chosen]), np.array([row["book"] for row in chosen])


def test_nll_by_position_is_that_of_the_held_out_documents(documents, runs, candidates):
    nll = pd.read_csv(candidates / "nll.csv")
    assert len(nll) == 3 * L
    ids, names = held_out_ids(documents, runs[0])
    assert len(ids) == 12  # three books of ten
    for run, model, seed in zip(runs, ["tiny", "tiny", "mamba2-mini-small"], [0, 1, 0], strict=True):
        saved = AutoModelForCausalLM.from_pretrained(last(run))
        expected = plain_nll(saved, ids, IDS)
        rows = nll[(nll["model"] == model) & (nll["seed"] == seed)]
        assert rows["position"].tolist() == list(range(1, L + 1))
        assert (rows["n_documents"] == 12).all()
        np.testing.assert_allclose(rows["nll_nats"], expected.mean(axis=0), atol=2e-5)
        by_book = np.stack([expected[names == name].mean(axis=0) for name in np.unique(names)])
        np.testing.assert_allclose(rows["stderr_nats"], by_book.std(axis=0, ddof=1) / np.sqrt(3), atol=2e-5)


def test_smooth_and_summary(runs, candidates):
    nll, smooth = (pd.read_csv(candidates / f"{name}.csv") for name in ("nll", "smooth"))
    summary = pd.read_csv(candidates / "summary.csv")
    one = nll[(nll["model"] == "tiny") & (nll["seed"] == 1)].set_index("position")["nll_nats"]
    rows = smooth[(smooth["model"] == "tiny") & (smooth["seed"] == 1)]
    assert rows[["first", "last"]].to_numpy().tolist() == curves.windows(L).tolist()
    for row in rows.itertuples():
        assert row.nll_nats == pytest.approx(one.loc[row.first : row.last].mean(), abs=2e-5)
    found = summary[(summary["model"] == "tiny") & (summary["seed"] == 1)].iloc[0]
    assert found["nll_nats"] == pytest.approx(one.mean(), abs=1e-5)
    assert found[["kind", "steps", "n_books", "source"]].tolist() == ["gpt2", 14, 3, "toy"]
    assert found["nats_per_unit"] == pytest.approx(found["nll_nats"], abs=2e-6)  # a token is a byte
    np.testing.assert_allclose(smooth["nats_per_unit"], smooth["nll_nats"], atol=2e-6)
    saved = AutoModelForCausalLM.from_pretrained(last(runs[1]))
    assert found["parameters"] == saved.num_parameters()


def test_the_other_tables(runs, candidates):
    """Against the stored NLL of each document."""
    ids = names_of(candidates)
    of = pd.factorize(np.array([name.split("#")[0] for name in ids]))[0]
    information, tokens, gains = (
        pd.read_csv(candidates / f"{name}.csv") for name in ("information", "tokens", "gains")
    )
    key, mamba = next((key, values) for key, values in stored(candidates).items() if is_of(candidates, values))
    with_last = stored(candidates, "last8")[key]
    i = mamba[:, :16].sum(axis=1) - mamba[:, 16:].sum(axis=1)
    found = information.query("model == 'mamba2-mini-small' and ell_tokens == 16").iloc[0]
    assert found["mi_nats"] == pytest.approx(i.mean(), abs=1e-4)
    by_book = [i[of == book].mean() for book in range(3)]
    assert found["stderr_nats"] == pytest.approx(np.std(by_book, ddof=1) / np.sqrt(3), abs=1e-4)
    found = gains.query("model == 'mamba2-mini-small'")
    assert found[["context", "first", "last"]].to_numpy().tolist() == [[8, 17, 32]]
    difference = with_last.mean(axis=1) - mamba[:, 16:].mean(axis=1)
    assert found["gain_nats"].iloc[0] == pytest.approx(difference.mean(), abs=1e-5)
    assert tokens["tokens"].tolist() == [14 * 128] * 3
    assert tokens["late_gain_nats"].iloc[2] == found["gain_nats"].iloc[0]


def is_of(out: Path, values: np.ndarray) -> bool:
    """Whether these are the NLL of the Mamba2."""
    one = pd.read_csv(out / "nll.csv").query("model == 'mamba2-mini-small'")["nll_nats"]
    return np.allclose(values.mean(axis=0), one, atol=2e-5)


def test_gap_and_crossover(candidates):
    gap, crossover = (pd.read_csv(candidates / f"{name}.csv") for name in ("gap", "crossover"))
    pair = gap[["model_a", "model_b", "seeds_a", "seeds_b"]].drop_duplicates()
    assert pair.to_numpy().tolist() == [["mamba2-mini-small", "tiny", 1, 2]]
    smooth = pd.read_csv(candidates / "smooth.csv").groupby(["model", "first"])["nll_nats"].mean()
    np.testing.assert_allclose(gap["gap_nats"], smooth["mamba2-mini-small"] - smooth["tiny"], atol=2e-6)
    assert ((gap["lo95"] < gap["gap_nats"]) & (gap["gap_nats"] < gap["hi95"])).all()
    leader = "tiny" if gap["gap_nats"].iloc[-1] > 0 else "mamba2-mini-small"
    assert crossover["leads_at_the_end"].tolist() == [leader]


@pytest.mark.parametrize("length", [32, 44])
def test_no_document_that_the_run_was_trained_on_is_held_out(documents, tmp_path, length):
    """Documents of 48 tokens; one held-out document shares 32 with one trained on, others 40 or all."""
    ids: dict[str, list] = {}
    for row in books.open_books(documents, L)[0]:
        ids.setdefault(row["book"], []).append([*row["input_ids"], *row["input_ids"][:8]])
    folder = write_documents(tmp_path / "plain", ids, IDS)
    run = train_one(folder, tmp_path / "run", "--model", "mamba2-mini-small", "--L", 40, "--batch-tokens", 160)
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
    chosen = set(names_of(tmp_path / "out"))
    assert chosen >= {f"{one}#0002", f"{one}#0003", f"{other}#0000"}
    assert (f"{one}#0000" in chosen) == (length > 32)


def test_neither_batch_nor_order_changes_a_number(documents, runs, candidates, tmp_path):
    """And a pair asked for the other way round has the other sign."""
    done = call(documents, tmp_path, runs[::-1], "--batch-tokens", 5 * L, "--pairs", "tiny:mamba2-mini-small")
    assert done.returncode == 0, done.stderr
    keys = ["model", "seed", "position"]
    one, other = (pd.read_csv(at / "nll.csv").set_index(keys).sort_index() for at in (candidates, tmp_path))
    pd.testing.assert_series_equal(one["nll_nats"], other["nll_nats"], atol=3e-5, rtol=0)
    one, other = (pd.read_csv(at / "gap.csv")["gap_nats"] for at in (candidates, tmp_path))
    np.testing.assert_allclose(one, -other, atol=3e-5)


def test_what_is_stored_is_not_computed_again(documents, runs, candidates, tmp_path, monkeypatch):
    """At pieces of two documents, of which one is damaged."""
    monkeypatch.setattr(evaluate, "PIECE_TOKENS", 2 * L)
    again = functools.partial(call, documents, tmp_path, [runs[0]], "--store", tmp_path / "store")
    assert again().returncode == 0
    whole = (tmp_path / "nll.csv").read_bytes()
    one = pd.read_csv(candidates / "nll.csv").iloc[:L]["nll_nats"]
    np.testing.assert_allclose(pd.read_csv(tmp_path / "nll.csv")["nll_nats"], one, atol=3e-5)
    pieces = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("*.npz")}
    assert len(pieces) == 12  # and as many with the last 8 tokens only
    damaged = sorted(pieces)[2]
    damaged.write_bytes(damaged.read_bytes()[:-50])
    assert f"{damaged} is damaged" in one_line_error(again())
    damaged.unlink()
    assert again().returncode == 0
    assert (tmp_path / "nll.csv").read_bytes() == whole
    assert [path for path in sorted(pieces) if path.stat().st_mtime_ns != pieces[path]] == [damaged]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("*.npz")}
    book = names_of(candidates)[-1].split("#")[0]
    assert again("--books", book).returncode == 0
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("*.npz")}
    assert pd.read_csv(tmp_path / "books.csv")["book"].tolist() == [book]
    whole = stored(candidates).values()
    expected = [values[-4:].mean(axis=0) for values in whole]
    found = pd.read_csv(tmp_path / "nll.csv")["nll_nats"]
    assert sum(np.allclose(found, one, atol=3e-5) for one in expected) == 1
    assert "store was made with other settings (L 32 there, 31 here)" in one_line_error(again("--L", 31))


def test_other_weights_are_computed(documents, runs, tmp_path):
    """And weights without a value are refused."""
    run = shutil.copytree(runs[0], tmp_path / "run")
    checkpoint = last(run)
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    for number, factor in enumerate((1, 3, np.nan)):
        model.transformer.wte.weight.data.mul_(factor)
        model.save_pretrained(checkpoint)
        done = call(documents, tmp_path / "out", [run])
        assert len(stored(tmp_path / "out")) == min(number + 1, 2)
    assert "tiny: its NLL is not finite" in one_line_error(done)
    one, other = stored(tmp_path / "out").values()
    found = pd.read_csv(tmp_path / "out" / "nll.csv")["nll_nats"]
    assert sorted(np.allclose(found, nll.mean(axis=0), atol=2e-5) for nll in (one, other)) == [False, True]


def test_a_model_of_others(documents, runs, tmp_path):
    """A folder without a tokenizer (ids of bytes, DNA and the like); --bos gives the id to begin with."""
    random_model().save_pretrained(tmp_path / "mine")
    done = call(documents, tmp_path / "out", [tmp_path / "mine"], "--L", 16, "--bos", 61, "--dtype", "float32")
    assert done.returncode == 0, done.stderr
    assert "40 documents of 10 books" in done.stdout
    table, _ = books.open_books(documents, 16)
    nll = pd.read_csv(tmp_path / "out" / "nll.csv")
    assert (nll["model"] == "mine").all()
    expected = plain_nll(random_model(), torch.tensor(table["input_ids"])[:, :16], 61).mean(axis=0)
    np.testing.assert_allclose(nll["nll_nats"], expected, atol=2e-5)
    done = call(documents, tmp_path / "both", [runs[0], tmp_path / "mine"], "--bos", 61)
    assert done.returncode == 0, done.stderr
    assert (pd.read_csv(tmp_path / "both" / "nll.csv")["n_documents"] == 12).all()
    found = pd.read_csv(tmp_path / "both" / "summary.csv").set_index("model")["dtype"].to_dict()
    assert found == {"tiny": "float32", "mine": pretrained.find_dtype("cpu")}


@pytest.mark.skipif(not SMOLLM2.exists(), reason="the sample model is missing: measure_mutual_info/fetch_sample.py")
def test_the_sample_model_gives_the_scores_of_score_documents(tmp_path, monkeypatch):
    """Sums over Y of the NLL = −log q(Y given X) of scores.csv, to 1e-3 nats per document."""
    monkeypatch.setattr(pretrained, "load_model", functools.cache(pretrained.load_model))  # it takes half a minute
    prepare = ["--corpus", SMOLLM2.parents[1] / "books", "--tokenizer", SMOLLM2, "--min-tokens", 64]
    prepare += ["--max-documents-per-book", 2, "--max-books", 2, "--out", tmp_path / "documents"]
    assert call_script("measure_mutual_info/prepare_dataset.py", *prepare).returncode == 0
    flags = ["--documents", tmp_path / "documents", "--model", SMOLLM2, "--L-max", 64, "--ratios", 2]
    done = call_script("measure_mutual_info/score_documents.py", *flags, "--out", tmp_path / "scores.csv")
    assert done.returncode == 0, done.stderr
    done = call(tmp_path / "documents", tmp_path / "out", [SMOLLM2], "--L", 64, "--dtype", "float32")
    assert done.returncode == 0, done.stderr
    scores = pd.read_csv(tmp_path / "scores.csv")
    (nll,) = stored(tmp_path / "out").values()
    names = names_of(tmp_path / "out")
    assert len(scores) == 4 * 5
    for row in scores.itertuples():
        mine = nll[names.index(row.document), row.ell_tokens : row.L_tokens].astype(float).sum()
        assert mine == pytest.approx(-row.logq_y_given_x_nats, abs=1e-3)
    summary = pd.read_csv(tmp_path / "out" / "summary.csv").iloc[0]
    in_bytes = nll.astype(float).sum() / summary["nats_per_unit"]
    assert 3 * 4 * 64 < in_bytes < 5 * 4 * 64  # English has about four a token


def test_bad_input(documents, runs, tmp_path):
    tiny_model("gpt2", n_positions=20).save_pretrained(tmp_path / "short")
    other = train_one(documents, tmp_path / "other", "--split-seed", 1, "--model", "gpt2-mini-small")
    slower = train_one(documents, tmp_path / "slower", "--seed", 2, "--learning-rate", 1e-3)
    twin, empty = (shutil.copytree(runs[0], tmp_path / name) for name in ("twin", "empty"))
    shutil.rmtree(last(empty))
    strangers = write_documents(tmp_path / "strangers", {f"new {i}": [[i] * 40] for i in range(4)}, IDS)
    wider = write_documents(tmp_path / "wider", {f"book {i}": [[i] * 40] for i in range(10)}, 256)
    for folder, models, flags, said in [
        (documents, ["short"], ["--bos", 3], "--L: say how many tokens of each document"),
        (documents, ["short"], ["--L", 32, "--bos", 3], "its context is 20 tokens, shorter than L = 32"),
        (documents, [runs[0]], ["--L", 0], "--L 0: at least 1"),
        (documents, [runs[0]], ["--n-documents", 0], "--n-documents 0: at least 1"),
        (documents, [runs[0]], ["--max-documents-per-book", -1], "--max-documents-per-book -1: at least 0"),
        (documents, [runs[0]], ["--books", "none"], "--books none: none of 3 books"),
        (documents, [runs[0]], ["--pairs", "tiny:gpt5"], "--pairs tiny:gpt5: give model_a:model_b, two of tiny"),
        (documents, [runs[0], other], [], "held out different books"),
        (documents, [runs[0], twin], [], "two runs of tiny are the same"),
        (documents, [runs[0], slower], [], "two runs of tiny differ in seed, learning_rate"),
        (documents, [empty], [], "has no checkpoint yet"),
        (strangers, [runs[0]], [], "none of the books that the runs held out"),
        (wider, [runs[0]], [], "tokenised with bytes, and tiny was trained on tokens of bytes"),
    ]:
        error = one_line_error(call(folder, tmp_path / "out", [tmp_path / model for model in models], *flags))
        assert said in error
    assert not (tmp_path / "out").exists()


def test_runs_are_compared_after_as_many_tokens(documents, tmp_path):
    """One has two cosines; the other stands amid its second one."""
    flags = ["--steps", 4, "--checkpoint-every", 2, "--restarts", 1]
    long = train_one(documents, tmp_path / "long", *flags)
    short = train_one(documents, tmp_path / "short", *flags, "--model", "mamba2-mini-small")
    (short / "checkpoint-12").rename(short / "checkpoint-8")
    done = call(documents, tmp_path / "out", [long, short])
    assert "short stands at step 8, amid a cosine that ends at 12: taken at the end of the one before" in done.stdout
    assert "tiny, seed 0: has gone on, and is compared after 512 tokens, as others are" in done.stdout
    assert pd.read_csv(tmp_path / "out/summary.csv")["steps"].tolist() == [4, 4]
    tokens = pd.read_csv(tmp_path / "out/tokens.csv")[["model", "tokens"]]
    assert tokens.to_numpy().tolist() == [["tiny", 512], ["tiny", 1536], ["mamba2-mini-small", 512]]
    nll = pd.read_csv(tmp_path / "out/nll.csv")
    saved = AutoModelForCausalLM.from_pretrained(long / "checkpoint-4")
    expected = plain_nll(saved, held_out_ids(documents, long)[0], IDS).mean(axis=0)
    np.testing.assert_allclose(nll[nll["model"] == "tiny"]["nll_nats"], expected, atol=2e-5)
