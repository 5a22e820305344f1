"""The shell scripts of the figures, called as a user would, with a tiny model and made-up texts."""

from __future__ import annotations

import random
import re
import subprocess

import pandas as pd
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.conftest import call_shell, printer, recorded, recorder, tiny_model
from tests.plots.made_up import draw


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A folder with three texts, an untrained byte-level model, and its tokenizer."""
    folder = tmp_path_factory.mktemp("mine")
    rng = random.Random(0)
    (folder / "texts").mkdir()
    for name in "abc":
        sentences = [f"The {rng.choice(['cat', 'dog', 'fox'])} saw {rng.randint(0, 999)} birds." for _ in range(60)]
        (folder / "texts" / f"{name}.txt").write_text(" ".join(sentences), encoding="utf-8")

    letters = ["<s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>").save_pretrained(folder / "model")
    tiny_model("llama", len(letters)).save_pretrained(folder / "model")
    return folder


def figure(name: str, folder=None, *flags: str, **environment: str) -> subprocess.CompletedProcess:
    if folder is not None:
        own = {"MODEL": f"{folder}/model", "CORPUS": f"{folder}/texts", "OUT": f"{folder}/results"}
        environment = {"PRESET": "smoke", **own, **environment}
    return call_shell(f"measure_mutual_info/{name}.sh", *flags, **environment)


def test_from_texts_to_the_figures(mine, tmp_path):
    done = figure("fig2b", mine, PYTHON=printer(tmp_path, "plots/*"))
    assert done.returncode == 0, done.stderr
    draw(done.stdout)
    results = mine / "results"
    for made in (
        "scores.csv",
        "counts.csv",
        "bipartite.csv",
        "fit.csv",
        "sweep.csv",
        "books.csv",
        "entropy_rate.csv",
        "entropy_rate_fit.csv",
        "fig2b.png",
        "fig2b.pdf",
        "sweep.png",
    ):
        assert (results / made).stat().st_size > 0
    bipartite = pd.read_csv(results / "bipartite.csv")
    estimators = {"direct", "direct_corrected", "vclub", "block_entropy", "direct_unpaired"}
    assert set(bipartite["estimator"]) == estimators
    scores = pd.read_csv(results / "scores.csv")
    assert (scores["y_bytes"] == scores["L_tokens"] - scores["ell_tokens"]).all(), "a token is a byte"
    assert (bipartite["n_documents"].unique().tolist(), bipartite["L_tokens"].max()) == ([8], 128)
    assert "I(L/2; L) at L = " in done.stdout


def test_figs_b2_and_b3_are_drawn_from_the_run_of_fig_2b(mine, tmp_path):
    calls = {}
    for name in ("fig2b", "figB2", "figB3"):
        done = figure(name, mine, "--dtype", "float32", PYTHON=recorder(tmp_path), OUT=f"{tmp_path}/out")
        assert done.returncode == 0, done.stderr
        calls[name] = recorded(tmp_path)
    for name in ("B2", "B3"):
        assert calls[f"fig{name}"][:-1] == calls["fig2b"]
        drawn = f"plots/bipartite.py --figure B.{name[1]} --results {tmp_path}/out --out {tmp_path}/out/fig{name}"
        assert calls[f"fig{name}"][-1] == drawn


def test_all_of_figure_b1_goes_to_out(tmp_path):
    """The commands write to OUT; without OUT, the run of Fig. 2b is the committed one."""
    for out, results in (("", "results"), (f"{tmp_path}/again", f"{tmp_path}/again")):
        done = figure("figB1", None, "--dtype", "float32", PYTHON=recorder(tmp_path), PRESET="cpu", OUT=out)
        assert done.returncode == 0, done.stderr
        calls = recorded(tmp_path)
        made = [re.search(r"--out (\S+)", call)[1] for call in calls if " --out " in call]
        assert all(path.startswith((f"{results}/fig2b", f"{results}/figB1", "data/documents/")) for path in made)
        scored = [call for call in calls if "score_documents.py" in call]
        assert len(scored) == 7
        assert all(call.endswith("--dtype float32") for call in scored)
        compared = next(call for call in calls if f"--out {results}/figB1/books" in call and "compare" in call)
        assert f"--scores {results}/fig2b/scores.csv {results}/figB1/books/gemma-3-270m/scores.csv" in compared


def test_two_point_from_texts_to_the_figure(tmp_path):
    rng = random.Random(0)
    (tmp_path / "texts").mkdir()
    for name in "abcdef":
        (tmp_path / "texts" / f"{name}.txt").write_text("".join(rng.choices(["ab", "c"], k=3000)), encoding="utf-8")
    own = {"CORPUS": f"{tmp_path}/texts", "TOKENIZER": "characters", "PREPARE_FLAGS": "--source mine --min-tokens 3000"}
    few = "*/estimate_two_point.py --bootstrap 4"  # 200 take 40 seconds
    own |= {"PRESET": "smoke", "OUT": f"{tmp_path}/results", "PYTHON": printer(tmp_path, "plots/*", more=few)}
    done = figure("fig2c", None, "--n", "1", **own)
    assert done.returncode == 0, done.stderr
    draw(done.stdout)
    results = tmp_path / "results"
    for made in ("fit.csv", "two_point.json", "counts_by_book.csv", "fig2c.png", "fig2c.pdf"):
        assert (results / made).stat().st_size > 0
    counts = pd.read_csv(results / "counts.csv")
    assert counts.loc[counts["kind"] == "ngram", "n_or_d"].unique().tolist() == [1], "flags go to count_ngrams.py"
    points = pd.read_csv(results / "two_point.csv")
    assert points["d_tokens"].unique().tolist() == [2**k for k in range(9)]
    assert set(zip(points["source"], points["tokenizer"], strict=True)) == {("mine", "characters")}
    whole = sum(len((tmp_path / "texts" / f"{name}.txt").read_text()) - 1 for name in "abcdef")
    assert points.loc[points["d_tokens"] == 1, "n_pairs"].unique().tolist() == [whole]


def test_a_tokenizer_of_your_own_is_not_trained_whatever_its_name(mine, tmp_path):
    """Only a new name in _bpe384 is trained."""
    (mine / "model").rename(mine / "mine_bpe32000")
    for tokenizer, trained in ((mine / "mine_bpe32000", False), (tmp_path / "new_bpe500", True)):
        own = {"CORPUS": f"{mine}/texts", "TOKENIZER": str(tokenizer), "OUT": f"{tmp_path}/results"}
        done = figure("fig2c", None, PYTHON=recorder(tmp_path), PRESET="smoke", PREPARE_FLAGS="--min-tokens 9", **own)
        assert done.returncode == 0, done.stderr
        calls = " ".join(recorded(tmp_path))
        assert ("train_bpe.py" in calls, "--min-tokens 9" in calls) == (trained, True)
    (mine / "mine_bpe32000").rename(mine / "model")


def test_own_inputs_need_a_folder_for_their_results(tmp_path):
    own = [("fig2b", "MODEL"), ("fig2c", "TOKENIZER"), ("figB1", "MODELS"), ("fig2b", "PREPARE_FLAGS")]
    calls = [(name, (), {setting: "bytes"}) for name, setting in [*own, ("start_token", "OTHER_START")]]
    calls += [(name, ("--equal-pairs",), {}) for name in ("fig2c", "figB4", "figB5")]
    for name, flags, settings in calls:
        done = figure(name, None, *flags, PYTHON=recorder(tmp_path), **settings)
        assert done.returncode == 2, name
        assert done.stderr.startswith("error: set OUT, e.g. OUT=results/mine: with ")


def test_another_start_token_alone_is_used(tmp_path):
    own = {"OTHER_START": "<eos>", "OUT": f"{tmp_path}/mine"}
    done = figure("start_token", None, PYTHON=recorder(tmp_path), **own)
    assert done.returncode == 0, done.stderr
    of_other = [call for call in recorded(tmp_path) if "--bos" in call]
    assert [call.split("--out ")[1] for call in of_other] == [f"{tmp_path}/mine/other/scores.csv --bos <eos>"]


def test_figs_b4_and_b5_count_with_flags_into_out(tmp_path):
    """With flags, runs that are in OUT are made anew: count_ngrams.py keeps what has the same settings."""
    out = tmp_path / "mine"
    for run in ("fig2c", "figB4/wikipedia"):
        (out / run).mkdir(parents=True)
        (out / run / "two_point.csv").touch()
    for name in ("figB4", "figB5"):
        done = figure(name, None, "--equal-pairs", PYTHON=recorder(tmp_path), OUT=str(out))
        assert done.returncode == 0, done.stderr
        calls = recorded(tmp_path)
        counted = [call for call in calls if "count_ngrams.py" in call]
        assert [re.search(r"--out (\S+)/counts.csv", call)[1] for call in counted] == [
            f"{out}/fig2c",
            f"{out}/figB4/wikipedia",
        ]
        assert all(call.endswith("--equal-pairs") for call in counted)
        assert f"--out {out}/{name}/{name}" in calls[-1] + calls[-2]


def test_calibration_from_documents_to_pictures(tmp_path):
    """The three other calibrations have tests of whole runs: here only their calls are looked at."""
    folder = "measure_mutual_info/calibration"
    others = [f"{folder}/{name}.py" for name in ("two_point", "contrast", "clustered")]
    small = "--processes markov --replications 3 --replications-misspecified 2 --n-documents 20 --pool-documents 1000"
    settings = {"PYTHON": printer(tmp_path, "plots/*", *others), "PRESET": "smoke", "OUT": str(tmp_path)}
    done = figure("calibration/calibration", None, *small.split(), **settings)
    assert done.returncode == 0, done.stderr
    draw(done.stdout)
    for made in ("calibration.csv", "calibration_fit.csv", "coverage.csv", "coverage.json"):
        assert (tmp_path / "markov" / made).stat().st_size > 0
    calls = [line.split("\t") for line in done.stdout.splitlines() if line.startswith(folder)]
    assert calls == [[other, "--out", str(tmp_path), "--preset", "smoke"] for other in others]
    assert pd.read_csv(tmp_path / "markov" / "coverage.csv")["n_documents"].unique().tolist() == [20]
    assert (tmp_path / "calibration.png").stat().st_size > 0
