"""Models compared by made-up scores: known laws, intervals against a plain resampling, and what is left out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import linregress, t

from measure_mutual_info.compare_models import MODELS_COLUMNS, TREND_COLUMNS, slope, with_interval
from measure_mutual_info.scoring.tables import BYTES, START
from tests.conftest import call_script, one_line_error

SCRIPT = "measure_mutual_info/compare_models.py"
L = 2 ** np.arange(2, 12)


def made_scores(beta: float, loss: float, books: int = 24, documents: int = 3, seed: int = 0) -> pd.DataFrame:
    """Scores with noise around 2 · L^beta for direct and block_entropy, and around twice that for vclub.

    loss: nats per byte, also with noise. The noise of a book changes the loss, A and the exponent of all models alike;
    that of its documents depends on the seed. A token has about 3.5 bytes.
    """
    of_book, rng, tables = np.random.default_rng(99).standard_normal((books, 3)), np.random.default_rng(seed), []
    for book, (shift, bend, hard) in enumerate(of_book):
        for number in range(documents):
            noise = 0.1 * shift + 0.1 * bend * np.log(L / 90) / 3 + 0.1 * rng.standard_normal() * np.ones(len(L))
            term = 2 * L**beta * (1 + noise + 0.05 * rng.standard_normal(len(L)))
            size = np.round(3.5 * L / 2 * (1 + 0.1 * rng.standard_normal())) + 3
            given_x = -loss * size * (1 + 0.1 * hard + 0.05 * rng.standard_normal())
            values = {"document": f"book {book:02d}#{number:04d}", "book": f"book {book:02d}"}
            values |= {"ell_tokens": L // 2, "L_tokens": L, BYTES: size, "logq_y_given_x_nats": given_x}
            values |= {"logq_y_nats": given_x - term, "logq_y_first2_nats": -9 + rng.standard_normal()}
            values |= {START: given_x - term + 0.3 * rng.standard_normal(len(L))}
            values |= {"logq_y_given_other_x_nats": given_x - 2 * term, "x_donor": "book 00#0000"}
            tables.append(pd.DataFrame(values))
    return pd.concat(tables, ignore_index=True)


def save(
    folder: Path, model: str, scores: pd.DataFrame, documents: str = "", source: str = "toy", start: str = "<s>"
) -> Path:
    """Write scores.csv and its record. documents: hash of the scored documents; by default, one for each model."""
    path = folder / start.strip("<s>") / model / "scores.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    scores.to_csv(path, index=False)
    record = {"source": source, "settings": {"model": f"org/{model}"}, "identity": {"documents": documents or model}}
    record["start_token"] = start
    path.with_suffix(".json").write_text(json.dumps(record))
    return path


def compare(
    folder: Path, *files: Path, bootstrap: int = 60, flags: tuple = ()
) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """models.csv and trend.csv, indexed by their keys, with mi at the longest L only, and the output of the program."""
    done = call_script(SCRIPT, "--scores", *files, "--out", folder / "out", "--bootstrap", bootstrap, *flags)
    assert done.returncode == 0, done.stderr
    models, trend = (pd.read_csv(folder / "out" / f"{name}.csv", keep_default_na=False) for name in ("models", "trend"))
    assert (models.columns.tolist(), trend.columns.tolist()) == (MODELS_COLUMNS, TREND_COLUMNS)
    longest = models["L_max"].max()
    assert (models["quantity"] == "mi").sum() > (models["quantity"] == "beta").sum(), "at every L"
    models = models[models["L_max"] == longest].set_index(["model", "estimator", "quantity"])
    trend = trend[pd.to_numeric(trend["L_max"], errors="coerce").isin([np.nan, longest])]
    return models, trend.set_index(["kind", "model_a", "model_b", "estimator", "quantity"]), done.stdout


def refusal(folder: Path, *files: Path) -> str:
    line = one_line_error(call_script(SCRIPT, "--scores", *files, "--out", folder / "out"))
    assert not (folder / "out").exists()
    return line


def test_laws_that_are_known(tmp_path):
    """Exponents, differences and the slope of three models; those with lower loss have larger exponents."""
    laws = {"weak.gguf": (0.45, 1.2), "strong.gguf": (0.65, 0.8), "middle.gguf": (0.55, 1.0)}
    scores = {name: made_scores(*law, seed=i) for i, (name, law) in enumerate(laws.items())}
    models, trend, printed = compare(tmp_path, *(save(tmp_path, name, rows) for name, rows in scores.items()))
    assert models.index.unique("model").tolist() == ["weak.gguf", "middle.gguf", "strong.gguf"]
    assert len(models) == 3 * (3 * 4 + 4)
    for name, (beta, loss) in laws.items():
        for estimator in ("direct", "vclub", "block_entropy"):
            for quantity, ends in (("beta", [4, 2048]), ("beta_long", [256, 2048])):
                row = models.loc[(name, estimator, quantity)]
                assert row["lo95"] < beta < row["hi95"]
                assert row["hi95"] - row["lo95"] < 0.2
                assert row[["L_min", "L_max"]].tolist() == ends
                assert 0 < float(row["p_value"]) < 1
            bend = models.loc[(name, estimator, "bend")]
            assert bend["lo95"] < 0 < bend["hi95"] < bend["lo95"] + 0.1
        rows = scores[name][scores[name]["L_tokens"] == 2048]
        of = models.loc[name]
        term = rows["logq_y_given_x_nats"] - rows["logq_y_nats"]
        assert of.loc[("direct", "mi"), "value"] == pytest.approx(term.mean())
        assert of.loc[("vclub", "mi"), "value"] == pytest.approx(2 * term.mean())
        nats = -rows["logq_y_given_x_nats"].sum()
        assert of.loc[("", "loss_nats_per_byte"), "value"] == pytest.approx(nats / rows[BYTES].sum())
        assert of.loc[("", "loss_nats_per_token"), "value"] == pytest.approx(nats / (1024 * 72))
        assert of.loc[("", "bytes_per_token"), "value"] == pytest.approx(rows[BYTES].sum() / (1024 * 72))
        low, high = of.loc[("", "loss_nats_per_byte"), ["lo95", "hi95"]]
        assert low < loss < high
        assert (of["n_documents"] == 72).all()
        assert (of["n_books"] == 24).all()

    row = trend.loc[("difference", "weak.gguf", "strong.gguf", "direct", "beta")]
    of = models["value"].xs(("direct", "beta"), level=(1, 2))
    assert row["value"] == pytest.approx(of["strong.gguf"] - of["weak.gguf"])
    assert row["lo95"] < 0.2 < row["hi95"]
    assert row["paired"] == "books"
    assert len(trend.loc["difference"]) == 3 * (3 * 4 + 4)
    assert trend.loc["slope"].index.unique("quantity").tolist() == ["beta", "beta_long"]
    row = trend.loc[("slope", "", "", "direct", "beta")]
    loss = models["value"].xs(("", "loss_nats_per_byte"), level=(1, 2))
    assert row["value"] == pytest.approx(np.polyfit(loss[of.index], of, 1)[0])
    assert row["lo95"] < -0.5 < row["hi95"] < 0
    line = linregress(loss[of.index], of)
    half = t.ppf(0.975, 1) * line.stderr
    found = row[["models_lo95", "models_hi95"]].astype(float).tolist()
    assert found == pytest.approx([line.slope - half, line.slope + half])
    assert row["n_models"] == 3
    assert f"slope against the loss per byte: direct beta {row['value']:.3f} [{row['lo95']:.3f}, " in printed
    assert (tmp_path / "out" / "trend.json").exists()


def test_exponents_are_those_of_fit_csv(tmp_path):
    """Values and p-values are equal; intervals differ only by the draws of the resampling."""
    files = [save(tmp_path, f"m{i}", made_scores(0.5, 1.0, seed=i)) for i in range(2)]
    models, _, _ = compare(tmp_path, *files, bootstrap=200)
    flags = "--scores", files[0], "--out", tmp_path, "--bootstrap", 200
    done = call_script("measure_mutual_info/estimate_bipartite.py", *flags)
    assert done.returncode == 0, done.stderr
    fits = pd.read_csv(tmp_path / "fit.csv").query("law == 'power' and parameter == 'beta'").set_index("estimator")
    for estimator in ("direct", "vclub", "block_entropy"):
        mine, theirs = models.loc[("m0", estimator, "beta")], fits.loc[estimator]
        assert mine[["value", "p_value"]].astype(float).tolist() == pytest.approx(theirs[["value", "p_value"]].tolist())
        assert mine["hi95"] - mine["lo95"] == pytest.approx(theirs["boot_hi95"] - theirs["boot_lo95"], rel=0.2)


@pytest.mark.parametrize("books", [5, 24])
def test_intervals_are_those_of_a_plain_resampling(tmp_path, books):
    """Against a loop that draws the same books for both models; each book has one to three documents."""
    few = [number < 1 + book % 3 for book in range(books) for number in range(3) for _ in L]
    tables = [made_scores(beta, 1.0, books, seed=i)[few] for i, beta in enumerate((0.5, 0.6))]
    models, trend, _ = compare(tmp_path, *(save(tmp_path, f"m{i}", table) for i, table in enumerate(tables)))
    last = [table[table["L_tokens"] == 2048].set_index("book") for table in tables]
    rng, names = np.random.default_rng(0), sorted(set(tables[0]["book"]))

    def found(drawn: list[str]) -> list[float]:
        taken = [pd.concat([table.loc[[name]] for name in drawn]) for table in last]
        mi = [(table["logq_y_given_x_nats"] - table["logq_y_nats"]).mean() for table in taken]
        loss = [-table["logq_y_given_x_nats"].sum() / table[BYTES].sum() for table in taken]
        return [*mi, *loss, mi[1] - mi[0], loss[1] - loss[0]]

    here = found(names)
    spread = np.std([found([names[i] for i in rng.integers(books, size=books)]) for _ in range(60)], axis=0, ddof=1)
    half = t.ppf(0.975, books - 1) * spread * np.sqrt(books / (books - 1))
    a, b = trend.index[0][1:3]
    sign = 1 if (a, b) == ("m0", "m1") else -1
    keys = [(f"m{i}", *key) for key in (("direct", "mi"), ("", "loss_nats_per_byte")) for i in (0, 1)]
    for place, key in enumerate(keys):
        low, high = here[place] - half[place], here[place] + half[place]
        assert models.loc[key, ["value", "lo95", "hi95"]].tolist() == pytest.approx([here[place], low, high])
    for place, key in enumerate((("direct", "mi"), ("", "loss_nats_per_byte")), 4):
        ends = sorted([sign * here[place] - half[place], sign * here[place] + half[place]])
        row = trend.loc[("difference", a, b, *key)]
        assert row[["value", "lo95", "hi95"]].tolist() == pytest.approx([sign * here[place], *ends])


def test_the_same_documents_and_books_tell_differences_better(tmp_path):
    """Intervals of differences widen from the same documents to the same books, and again to unpaired books."""

    def width(name: str, other: pd.DataFrame, documents: str) -> float:
        one = save(tmp_path / name, "m0", made_scores(0.5, 1.1), "of both")
        _, trend, _ = compare(tmp_path / name, one, save(tmp_path / name, "m1", other, documents))
        row = trend.loc[("difference", "m0", "m1", "direct", "beta")]
        assert row["paired"] == ("documents" if documents == "of both" else "books")
        assert row["lo95"] < 0.1 < row["hi95"]
        return row["hi95"] - row["lo95"]

    by_documents = width("documents", made_scores(0.6, 1.0), "of both")
    by_books = width("books", made_scores(0.6, 1.0, seed=1), "")
    names = [f"book {book:02d}" for book in range(24)]
    moved = made_scores(0.6, 1.0, seed=1).replace({"book": dict(zip(names, names[1:] + names[:1], strict=True))})
    assert by_documents < 0.5 * by_books < 0.5 * width("unpaired", moved, "")


def test_slopes_and_replications_without_a_value():
    x, y = np.array([[1.0, 2.0, 4.0], [3.0, 5.0, 1.0]]), np.array([[1.0, 3.0, 2.0], [0.0, -2.0, 7.0]])
    assert slope(x, y) == pytest.approx([np.polyfit(*points, 1)[0] for points in zip(x, y, strict=True)])
    here, low, high = with_interval(np.array([1.0, 0.0, 2.0, np.nan, np.nan]), 4)
    assert (here, (low + high) / 2) == pytest.approx((1, 1))
    assert high - low == pytest.approx(2 * t.ppf(0.975, 3) * np.sqrt(2) * np.sqrt(4 / 3))
    assert np.isnan(with_interval(np.array([1.0, 0.0, np.nan, np.nan, 2.0, np.nan]), 4)[1:]).all()


# What is left out, and what is printed about it


def test_what_not_all_models_have_is_left_out_and_said(tmp_path):
    whole, short = made_scores(0.5, 1.0), made_scores(0.5, 0.9)
    lost = whole.copy()
    lost.loc[lost["document"] == "book 03#0001", "logq_y_nats"] = np.nan  # failed
    files = [
        save(tmp_path, "whole", whole, "same"),
        save(tmp_path, "lost", lost.assign(logq_y_given_x_nats=lost["logq_y_given_x_nats"] + 1), "same"),
        save(tmp_path, "other", made_scores(0.4, 1.1, books=22, seed=1)[lambda rows: rows["L_tokens"] != 64]),
        save(tmp_path, "short", short[short["L_tokens"] <= 1024]),
    ]
    models, trend, printed = compare(tmp_path, *files, bootstrap=5)
    for said in (
        "lost: 72 documents, 1 of them left out",
        "whole: 1 documents left out, for which another model has no scores\n",
        "short is left out: its longest L is 1024, that of others 2048\n",
        "left out, as not all models have it: L = 64\n",
        "2 books left out, as not all models have them (the first: book 22)\n",
    ):
        assert said in printed
    assert models.index.unique("model").tolist() == ["other", "whole", "lost"]
    assert models.xs("beta", level="quantity")["n_documents"].groupby("model").first().to_dict() == {
        "other": 66,
        "whole": 65,
        "lost": 65,
    }
    assert (models["n_books"] == 22).all()
    assert trend.loc[("slope", "", "", "block_entropy", "beta"), "n_models"] == 3
    kept = whole[(whole["book"] < "book 22") & (whole["document"] != "book 03#0001") & (whole["L_tokens"] != 64)]
    expected, _, _ = compare(tmp_path / "alone", save(tmp_path / "alone", "whole", kept), bootstrap=2)
    mine, alone = (table.xs("whole")["value"].tolist() for table in (models, expected))
    assert mine == pytest.approx(alone)


def test_one_model_behind_two_start_tokens(tmp_path):
    """On the same documents, differences are paired, and the loss of the first tokens shows which start token fits."""
    one = made_scores(0.5, 1.0)
    other = one.assign(**{START: one[START] - 7, "logq_y_nats": one["logq_y_nats"] - 2})
    files = [save(tmp_path, "m0", rows, "same", start=token) for rows, token in ((one, "<s>"), (other, "<bad>"))]
    models, trend, _ = compare(tmp_path, *files, bootstrap=5)
    assert set(models["start_token"]) == {"<s>", "<bad>"}
    sign = 1 if trend["start_b"].iloc[0] == "<bad>" else -1
    key = ("difference", "m0", "m0")
    for of, change in ((("direct", "mi"), 2), (("block_entropy", "mi"), 7), (("", "start_nats_per_token"), 7 / 1024)):
        row = trend.loc[(*key, *of)]
        assert (row["value"], row["paired"]) == (pytest.approx(sign * change), "documents")
        assert row["hi95"] - row["lo95"] < 1e-9
    start = models.loc[("m0", "", "start_nats_per_token")].set_index("start_token")["value"]
    assert start["<s>"] == pytest.approx(-one.loc[one["L_tokens"] == 2048, START].sum() / (1024 * 72))


def test_chosen_books_are_as_if_no_others_had_been_scored(tmp_path):
    whole = [made_scores(0.5, 1.0, seed=i) for i in (0, 1)]
    files = [save(tmp_path, f"m{i}", rows) for i, rows in enumerate(whole)]
    chosen = "--books", "book 0*", "book 1[0-2]", "--name", "teens"
    found = compare(tmp_path, *files, bootstrap=5, flags=chosen)
    few = [save(tmp_path / "few", f"m{i}", rows[rows["book"] < "book 13"]) for i, rows in enumerate(whole)]
    wanted = compare(tmp_path / "few", *few, bootstrap=5)
    for mine, other in zip(found[:2], wanted[:2], strict=True):
        assert set(mine["source"]) == {"teens"}
        pd.testing.assert_frame_equal(mine.assign(source="toy"), other)
    none = call_script(SCRIPT, "--scores", *files, "--out", tmp_path / "none", "--books", "poem*")
    assert "--books poem*: none of 24 books, the first of which is book 00" in one_line_error(none)


def test_one_model_alone(tmp_path):
    models, trend, _ = compare(tmp_path, save(tmp_path, "m0", made_scores(0.5, 1.0)), bootstrap=5)
    assert len(models) == 3 * 4 + 4
    assert trend.empty


def test_points_that_allow_no_fit(tmp_path):
    files = [save(tmp_path, f"m{i}", made_scores(0.5, 1, seed=i)[lambda rows: rows["L_tokens"] <= 512]) for i in (0, 1)]
    models, trend, printed = compare(tmp_path, *files, bootstrap=5)
    assert "m0, direct: no beta_long: 2 points, and 3 are needed\n" in printed
    assert "beta_long" not in {*models.index.unique("quantity"), *trend.index.unique("quantity")}
    assert "slope" not in trend.index.unique("kind"), "two models are too few"


# Bad input


@pytest.mark.parametrize(
    ("saved", "change", "said"),
    [
        ({"source": "other"}, lambda rows: rows, "m1/scores.csv of other: compare the models of one source"),
        ({"model": "folder/m0"}, lambda rows: rows, "are both of m0 with start token <s>: give each once"),
        ({}, lambda rows: rows.assign(**{BYTES: np.nan}), "m1/scores.csv lacks the bytes of each continuation ("),
        ({}, lambda rows: rows.assign(book="1" + rows["book"]), "the models share 0 books, two are needed: score the"),
        ({}, lambda rows: rows.assign(ell_tokens=1), "has no rows with L = 2 ell: score the documents again"),
        ({}, lambda rows: rows.drop(columns="x_donor"), "m1/scores.csv lacks the column x_donor"),
    ],
)
def test_scores_that_cannot_be_compared(tmp_path, saved, change, said):
    one = save(tmp_path, "m0", made_scores(0.5, 1.0, books=3))
    other = save(tmp_path, **{"model": "m1"} | saved, scores=change(made_scores(0.5, 1.0, books=3, seed=1)))
    assert said in refusal(tmp_path, one, other)


def test_bad_settings_and_records(tmp_path):
    one, other = (save(tmp_path, f"m{i}", made_scores(0.5, 1.0, books=3, seed=i)) for i in (0, 1))
    assert "--scores: give one or more" in refusal(tmp_path)
    flags = "--scores", one, other, "--out", tmp_path / "out"
    assert "--bootstrap 1: must be at least 2" in one_line_error(call_script(SCRIPT, *flags, "--bootstrap", 1))
    other.with_suffix(".json").unlink()
    assert "scores.json is not there, or names no source or no model" in refusal(tmp_path, one, other)
