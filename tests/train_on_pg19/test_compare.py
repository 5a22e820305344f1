"""The tables of compare.py against plain sums over a made-up NLL of every document and position."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import call_script, one_line_error
from scipy import stats

from common.record import write_csv
from train_on_pg19.nll import curves, sums

SCRIPT = "train_on_pg19/compare.py"
L = 40
NAMES, BOOKS = ["x", "y", "z"], np.repeat([0, 1, 2], [2, 3, 4])
BYTES = np.random.default_rng(5).integers(1, 9, (len(BOOKS), L))  # bytes of each token
FACTS = {"L": L, "documents": "d", "unit": "byte", "source": "toy", "contexts": [4, 8], "reach": 4, "kind": "gpt2"}
FACTS |= {"parameters": 7, "dtype": "float32", "training": {"batch_tokens": 2, "learning_rate": 1.0}}
RUNS = [("a", 0, (10, 30, 70)), ("a", 1, (10, 30, 70)), ("b", 0, (30, 70))]


def made_up(name: str, seed: int, tokens: int, context: int = 0) -> np.ndarray:
    """NLL of each document and position."""
    random = np.random.default_rng([ord(name), seed, tokens, context])
    return random.random((len(BOOKS), L)) + 2 - 0.1 * (name == "a")


def by_book(values: np.ndarray) -> np.ndarray:
    """Sums by book and part: (documents, L) → (books, parts)."""
    parts = [values[:, first - 1 : last].sum(axis=1) for first, last in curves.parts(L)]
    return np.stack([np.stack(parts, axis=1)[book == BOOKS].sum(axis=0) for book in range(3)])


def write(path: Path, name: str, seed: int, ends: tuple[int, ...], **facts: object) -> Path:
    text = sums.Text(L, np.array(NAMES), np.bincount(BOOKS), by_book(BYTES))
    every = {}
    for tokens in ends:
        contexts = (4, 8) if tokens == ends[-1] else (4,)
        last = {context: by_book(made_up(name, seed, tokens, context)) for context in contexts}
        every[tokens] = sums.Evaluated(name, seed, by_book(made_up(name, seed, tokens)), last)
    write_csv(path, sums.rows(every, text), {}, evaluated=FACTS | facts)
    return path


def call(out: Path, *given: object):
    return call_script(SCRIPT, "--losses", *given, "--out", out)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("losses")
    return [write(folder / f"{name}_{seed}.csv", name, seed, ends) for name, seed, ends in RUNS]


@pytest.fixture(scope="module")
def out(files, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    done = call(folder, *files)
    assert done.returncode == 0, done.stderr
    return folder


def rate(values: np.ndarray, first: int, last: int) -> float:
    """Nats per byte in positions first … last of all documents."""
    return values[:, first - 1 : last].sum() / BYTES[:, first - 1 : last].sum()


def test_what_is_written_is_read(files):
    run = sums.read(files[0])
    assert (run.name, run.seed, list(run.ends), run.text.unit) == ("a", 0, [10, 30, 70], "byte")
    np.testing.assert_array_equal(run.text.units, by_book(BYTES))
    for tokens, one in run.ends.items():
        np.testing.assert_allclose(one.nll, by_book(made_up("a", 0, tokens)), atol=1e-5)
        assert list(one.with_last) == ([4, 8] if tokens == 70 else [4])
    late, there = by_book(made_up("a", 0, 70, 8)), curves.parts(L)[:, 0] > 16
    np.testing.assert_allclose(run.ends[70].with_last[8], late * there, atol=1e-5)
    some = sums.read(files[0], ["[xz]"])
    assert some.text.books.tolist() == ["x", "z"]
    np.testing.assert_array_equal(some.ends[10].nll, run.ends[10].nll[[0, 2]])


def test_a_part_may_have_no_bytes(tmp_path):
    """A character that is cut off counts as three bytes (U+FFFD), so the part that completes it may add 0 or fewer."""
    path = write(tmp_path / "a.csv", "a", 0, (10,))
    table, parts = pd.read_csv(path), len(curves.parts(L))
    table.loc[1, "units"], table.loc[parts + 1, "units"] = 0, -1
    table.to_csv(path, index=False)
    assert sums.read(path).text.units[:2, 1].tolist() == [0, -1]
    assert call(tmp_path / "out", path).returncode == 0


def test_losses(out):
    smooth, summary, books = (pd.read_csv(out / f"{name}.csv") for name in ("smooth", "summary", "books"))
    assert summary[["model", "seed", "steps", "kind", "parameters", "n_documents", "n_books"]].to_numpy().tolist() == [
        [name, seed, 35, "gpt2", 7, 9, 3] for name, seed, _ in RUNS
    ]
    for (name, seed, _), row in zip(RUNS, summary.itertuples(), strict=True):
        nll = made_up(name, seed, 70)
        assert row.nll_nats == pytest.approx(nll.mean(), abs=1e-5)
        assert row.nats_per_unit == pytest.approx(rate(nll, 1, L), abs=1e-5)
        of = smooth.query("model == @name and seed == @seed")
        assert of[["first", "last"]].to_numpy().tolist() == curves.windows(L).tolist()
        for window in of.itertuples():
            first, end = window.first, window.last
            assert window.nll_nats == pytest.approx(nll[:, first - 1 : end].mean(), abs=1e-5)
            assert window.nats_per_unit == pytest.approx(rate(nll, first, end), abs=1e-5)
            start, upto = (BYTES[:, :at].sum() / 9 for at in (first - 1, end))
            assert window.position_units == pytest.approx(np.sqrt((start + 1) * upto), abs=0.01)
        each = books.query("model == @name and seed == @seed")
        expected = [nll[book == BOOKS].sum() / BYTES[book == BOOKS].sum() for book in range(3)]
        np.testing.assert_allclose(each["nats_per_unit"], expected, atol=1e-5)
    stderr = summary["stderr_nats"].iloc[2]
    residuals = np.array(
        [(made_up("b", 0, 70).mean(axis=1) - summary["nll_nats"].iloc[2])[BOOKS == k].sum() for k in range(3)]
    )
    assert stderr == pytest.approx(np.sqrt(1.5 * (residuals**2).sum()) / 9, abs=1e-5)


def test_gaps_and_information(out):
    gap, crossover, information = (pd.read_csv(out / f"{name}.csv") for name in ("gap", "crossover", "information"))
    pair = gap[["model_a", "model_b", "seeds_a", "seeds_b"]].drop_duplicates()
    assert pair.to_numpy().tolist() == [["a", "b", 2, 1]]
    difference = (made_up("a", 0, 70) + made_up("a", 1, 70)) / 2 - made_up("b", 0, 70)
    for row in gap.itertuples():
        assert row.gap_nats == pytest.approx(rate(difference, row.first, row.last), abs=1e-5)
    assert ((gap["lo95"] < gap["gap_nats"]) & (gap["gap_nats"] < gap["hi95"])).all()
    assert crossover["leads_at_the_end"].tolist() == ["b" if gap["gap_nats"].iloc[-1] > 0 else "a"]
    of = curves.Gap(*(gap[name].to_numpy() for name in ("gap_nats", "stderr_nats", "lo95", "hi95")))
    found = curves.crossover(of, gap["position_units"].to_numpy())  # in bytes
    assert crossover[["overtakes_at", "lo95", "hi95"]].iloc[0].tolist() == pytest.approx(
        [found.position, found.lo95, found.hi95], rel=1e-3, nan_ok=True
    )
    nll = made_up("b", 0, 70)
    found = information.query("model == 'b' and ell_tokens == 16").iloc[0]
    by_document = nll[:, :16].sum(axis=1) - nll[:, 16:32].sum(axis=1)
    assert found["mi_nats"] == pytest.approx(by_document.mean(), abs=1e-4)
    assert found["L_units"] == pytest.approx(BYTES[:, :32].sum() / 9, abs=0.1)


def test_what_context_gains(out):
    gains, gaps = (pd.read_csv(out / f"{name}.csv") for name in ("gains", "gain_gaps"))

    def gained(name: str, seed: int, context: int, first: int) -> float:
        return rate(made_up(name, seed, 70, context) - made_up(name, seed, 70), first, 2 * (first - 1))

    assert gains[["model", "context", "first", "last"]].to_numpy().tolist() == [
        [name, *where] for name in "ab" for where in ([4, 9, 16], [4, 17, 32], [8, 17, 32])
    ]
    for row in gains.itertuples():
        each = [gained(name, seed, row.context, row.first) for name, seed, _ in RUNS if name == row.model]
        assert row.gain_nats == pytest.approx(np.mean(each), abs=1e-5)
    for row in gaps.itertuples():
        of = gains[(gains["context"] == row.context) & (gains["first"] == row.first)]
        a, b = (of[of["model"] == name] for name in "ab")
        assert row.gap_nats == pytest.approx(a["gain_nats"].item() - b["gain_nats"].item(), abs=3e-6)

    def rate_of_books(name: str, seed: int, first: int) -> np.ndarray:
        """Gain in nats per byte in positions first … 2 · (first − 1) of each book."""
        part, gain = np.s_[first - 1 : 2 * first - 2], made_up(name, seed, 70, 4) - made_up(name, seed, 70)
        return np.array([gain[BOOKS == k, part].sum() / BYTES[BOOKS == k, part].sum() for k in range(3)])

    share = np.bincount(BOOKS) / len(BOOKS)
    for name in "ab":
        seeds = [seed for one, seed, _ in RUNS if one == name]
        each = np.array([rate_of_books(name, seed, 17) - rate_of_books(name, seed, 9) for seed in seeds])
        grown, of = share @ each.mean(axis=0), gains.query("model == @name and context == 4")
        assert of["growth_nats"].tolist() == pytest.approx([np.nan, grown], abs=1e-5, nan_ok=True)
        found = of.iloc[1]
        assert found["growth_lo95"] < grown < found["growth_hi95"]
        if len(seeds) == 1:
            error = np.sqrt(1.5 * ((share * (each[0] - grown)) ** 2).sum()) * stats.t.ppf(0.975, 2)
            assert found["growth_hi95"] - found["growth_lo95"] == pytest.approx(2 * error, abs=1e-5)


def test_the_tokens_of_training(out):
    tokens, gaps = (pd.read_csv(out / f"{name}.csv") for name in ("tokens", "token_gaps"))
    assert tokens[["model", "seeds", "tokens"]].to_numpy().tolist() == [
        *(["a", 2, count] for count in (10, 30, 70)),
        *(["b", 1, count] for count in (30, 70)),
    ]

    def late(name: str, seed: int, count: int) -> float:
        return rate(made_up(name, seed, count, 4) - made_up(name, seed, count), 17, 32)

    for row in tokens.itertuples():
        nll = [made_up(row.model, seed, row.tokens) for seed in range(row.seeds)]
        assert row.nats_per_unit == pytest.approx(rate(sum(nll) / len(nll), 1, L), abs=1e-5)
        gain = np.mean([late(row.model, seed, row.tokens) for seed in range(row.seeds)])
        assert row.late_gain_nats == pytest.approx(gain, abs=1e-5)
    falls = [rate(made_up("a", seed, 30) - made_up("a", seed, 70), 1, L) for seed in range(2)]
    assert tokens["fell_nats"].iloc[2] == pytest.approx(np.mean(falls), abs=1e-5)
    rises = [late("a", seed, 70) - late("a", seed, 30) for seed in range(2)]
    assert tokens["late_gain_rose_nats"].iloc[2] == pytest.approx(np.mean(rises), abs=1e-5)
    assert tokens["late_gain_rose_nats"].isna().tolist() == [True, False, False, True, False]
    last, rise = gaps.iloc[-1], np.mean(rises) - late("b", 0, 70) + late("b", 0, 30)
    assert last["gain_gap_rose_nats"] == pytest.approx(rise, abs=1e-5)
    assert last["gain_gap_rose_lo95"] < rise < last["gain_gap_rose_hi95"]
    assert gaps["gain_gap_grew_nats"].dropna().tolist()[::2] == [0, 0]

    def grown(name: str, seed: int) -> float:
        """From positions 9 to 16 to 17 to 32, in nats per byte of each book, weighted by documents."""
        gain = made_up(name, seed, 70, 4) - made_up(name, seed, 70)
        rates = [
            [gain[BOOKS == k, a:b].sum() / BYTES[BOOKS == k, a:b].sum() for k in range(3)]
            for a, b in ((8, 16), (16, 32))
        ]
        return np.average(np.diff(rates, axis=0)[0], weights=np.bincount(BOOKS))

    grew = np.mean([grown("a", seed) for seed in range(2)]) - grown("b", 0)
    assert last["gain_gap_grew_nats"] == pytest.approx(grew, abs=1e-5)
    assert gaps["gain_gap_rose_nats"].notna().tolist() == 5 * [False] + [False, False, False, True, True]
    # The error includes the variance over books, so it is larger than that over seeds alone.
    assert tokens["fell_stderr_nats"].iloc[2] > np.std(falls, ddof=1) / np.sqrt(2)
    assert gaps[["tokens", "last"]].to_numpy().tolist() == [[n, last] for n in (30, 70) for last in (2, 4, 8, 16, 32)]
    assert gaps["gain_gap_nats"].notna().tolist() == 2 * [False, False, False, True, True]
    for row in gaps.query("last == 32").itertuples():
        both = (made_up("a", 0, row.tokens) + made_up("a", 1, row.tokens)) / 2
        assert row.gap_nats == pytest.approx(rate(both - made_up("b", 0, row.tokens), 17, 32), abs=1e-5)
        gain = (late("a", 0, row.tokens) + late("a", 1, row.tokens)) / 2 - late("b", 0, row.tokens)
        assert row.gain_gap_nats == pytest.approx(gain, abs=1e-5)


def test_runs_are_compared_after_as_many_tokens(files, tmp_path):
    """With the contexts that all runs of a model have there; --pairs b:a gives the gap the opposite sign."""
    short = write(tmp_path / "short.csv", "b", 0, (10, 30))
    done = call(tmp_path / "out", *files[:2], short, "--pairs", "b:a", "--books", "[xy]")
    assert (
        "a, seed 1: was trained further, and is compared after 30 tokens, without the gain over the last 8 tokens"
        in done.stdout
    ), done.stderr
    gap, gains = (pd.read_csv(tmp_path / f"out/{name}.csv") for name in ("gap", "gains"))
    difference = made_up("b", 0, 30) - (made_up("a", 0, 30) + made_up("a", 1, 30)) / 2
    for row in gap.itertuples():
        where, of = BOOKS < 2, slice(row.first - 1, row.last)
        assert row.gap_nats == pytest.approx(difference[where, of].sum() / BYTES[where, of].sum(), abs=1e-5)
    leader = pd.read_csv(tmp_path / "out/crossover.csv")["leads_at_the_end"].item()
    assert leader == ("a" if gap["gap_nats"].iloc[-1] > 0 else "b")
    assert gains.groupby("model")["context"].agg(set).to_dict() == {"a": {4}, "b": {4, 8}}


def test_a_model_of_others_has_no_training(files, tmp_path):
    """It is compared as it is, without token_gaps.csv. Runs with no common number of tokens: each at its last one."""
    mine = write(tmp_path / "mine.csv", "c", 0, (0,), training={})
    assert call(tmp_path / "out", files[0], files[2]).returncode == 0
    assert (tmp_path / "out/token_gaps.csv").exists()  # it would not be of these models
    assert call(tmp_path / "out", files[0], mine).returncode == 0
    assert pd.read_csv(tmp_path / "out/summary.csv")["steps"].isna().tolist() == [False, True]
    assert set(pd.read_csv(tmp_path / "out/tokens.csv")["model"]) == {"a"}
    assert not (tmp_path / "out/token_gaps.csv").exists()
    other = write(tmp_path / "other.csv", "d", 0, (90,))
    done = call(tmp_path / "apart", files[0], other)
    assert "the runs share no number of training tokens: each model is compared at its own last one" in done.stdout
    assert pd.read_csv(tmp_path / "apart/summary.csv")["steps"].tolist() == [35, 45]


def test_bad_input(files, tmp_path):
    other = write(tmp_path / "other.csv", "c", 0, (70,), documents="e")
    rounded = write(tmp_path / "rounded.csv", "a", 2, (70,), dtype="bfloat16")
    twin = write(tmp_path / "twin.csv", "a", 0, (70,))
    slower = write(tmp_path / "slower.csv", "a", 2, (70,), training=FACTS["training"] | {"learning_rate": 0.5})
    table = pd.read_csv(files[2])
    bad = {"short": table[1:], "twice": pd.concat([table, table[:1]]), "two": pd.concat([table, table.assign(seed=1)])}
    bad["nan"], bad["text"] = (table.assign(nll_nats=[value, *table["nll_nats"][1:]]) for value in (np.nan, "x"))
    late = table["last4_nats"].first_valid_index()
    bad["hole"], bad["early"] = (table.copy() for _ in range(2))
    bad["hole"].loc[late, "last4_nats"], bad["early"].loc[0, "last4_nats"] = np.nan, 1.0
    bad["without"] = table.assign(last4_nats=np.nan)
    later = write(tmp_path / "later.csv", "b", 1, (90,))
    for name, rows in bad.items():
        write_csv(tmp_path / f"{name}.csv", rows, {}, evaluated=FACTS)
    bare = tmp_path / "bare.csv"
    bare.write_bytes(files[0].read_bytes())
    for given, said in [
        ([], "--losses: give one or more"),
        ([*files, "--pairs", "a:c"], "--pairs a:c: give model_a:model_b, two of a, b"),
        ([*files, "--books", "q"], "--books q: none of 3 books"),
        (
            [files[0], other],
            f'{other} was made with other settings (documents "e" there, "d" here): evaluate all models',
        ),
        ([files[0], slower], "training.learning_rate 0.5 there, 1.0 here"),
        ([files[0], rounded], 'dtype "bfloat16" there, "float32" here'),
        ([files[0], twin], "are both of a, seed 0"),
        ([tmp_path / "short.csv"], "short.csv lacks rows or numbers, or has rows that are there twice: make it with"),
        ([tmp_path / "twice.csv"], "twice.csv lacks rows or numbers"),
        ([tmp_path / "nan.csv"], "nan.csv lacks rows or numbers"),
        *(([tmp_path / f"{name}.csv"], f"{name}.csv lacks rows or numbers") for name in ("hole", "early", "without")),
        ([*files, later], "--losses: the seeds of b share no number of training tokens: train them equally long"),
        ([tmp_path / "two.csv"], "two.csv is not of one model, seed and L"),
        ([tmp_path / "text.csv"], "text.csv, line 2: nll_nats is 'x', not a number"),
        ([bare], f"{tmp_path / 'bare.json'} is not there, or is no record of evaluate.py"),
    ]:
        assert said in one_line_error(call(tmp_path / "out", *given))
    assert not (tmp_path / "out").exists()
    assert json.loads((files[0].with_suffix(".json")).read_text())["evaluated"] == FACTS
