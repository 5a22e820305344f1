"""Fig. B.1 and the exponents against the loss, from the committed CSVs of two corpora."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pandas as pd
import pytest

from tests.plots.made_up import RESULTS, assert_points, assert_texts_fit, gid, labels, refusal

# Imported after made_up has put plots/ on the path.
import models  # isort: skip

SCRIPT, OF = "plots/models.py", RESULTS / "figB1"
SHORT = {  # in the order of models.csv
    "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf": "Qwen2.5 Coder 0.5B",
    "SmolLM2-135M-Instruct.Q4_1.gguf": "SmolLM2 135M",
    "gemma-3-270m.Q4_K_M.gguf": "gemma 3 270m",
    "Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf": "Qwen2.5 Coder 1.5B",
}
FOLDERS = {  # corpus → the folders of its models, in this order
    "books": [
        OF / "books/Qwen2.5-Coder-0.5B",
        RESULTS / "fig2b",
        OF / "books/gemma-3-270m",
        OF / "books/Qwen2.5-Coder-1.5B",
    ],
    "wikipedia": [OF / "wikipedia/Qwen2.5-Coder-0.5B", OF / "wikipedia/SmolLM2-135M"],
}
COMPARED = [OF / corpus / "models.csv" for corpus in FOLDERS]
RUNS = [folder for folders in FOLDERS.values() for folder in reversed(folders)]


def test_fig_b1():
    fig = models.draw_lines(models.read_compared(COMPARED), models.read_results(RUNS))
    assert_texts_fit(fig)
    assert labels(fig) == [*SHORT.values(), "paper, PG19, Llama 3.1 405B: direct 0.76"]
    for ax, below, (corpus, folders) in zip(fig.axes[:2], fig.axes[2:], FOLDERS.items(), strict=True):
        table = pd.read_csv(OF / corpus / "models.csv").query("quantity == 'bytes_per_token'")
        assert ax.get_title().startswith(f"{corpus}, {table['n_books'].iloc[0]} texts")
        assert len(ax.containers) == len(below.containers) == len(folders), "one line per model"
        for of, size, line, slopes in zip(folders, table["value"], ax.containers, below.containers, strict=True):
            assert line.lines[0].get_linestyle() == "-"
            points = pd.read_csv(of / "bipartite.csv").query("estimator == 'direct' and L_tokens == 2 * ell_tokens")
            mi, bars = points["mi_nats"], points["stderr_by_book_nats"]
            assert_points(line, points["L_tokens"] * size, mi, mi - bars, mi + bars)
            steps = pd.read_csv(of / "sweep.csv").query("estimator == 'direct' and L_over_ell == 2 and dof == 0")
            x = np.sort(slopes.lines[0].get_xdata()) / np.sort(np.sqrt(steps["L_min"] * steps["L_max"]) * size)
            assert x == pytest.approx(x[0])
            assert 0.8 < x[0] < 1.25
            assert_points(slopes, x[0] * np.sqrt(steps["L_min"] * steps["L_max"]) * size, *of_interval(steps, "beta"))
        assert [line.get_ydata()[0] for line in gid(below, "paper")] == [0.76]
        assert ax.get_ylim() == fig.axes[0].get_ylim()


def of_interval(rows: pd.DataFrame, name: str) -> tuple[pd.Series, pd.Series, pd.Series]:
    return rows[name], rows["lo95"], rows["hi95"]


def test_errors_by_document_where_there_is_one_book(tmp_path):
    """Bars are errors by document if bipartite.csv has none by book, as for a corpus of a single text."""
    folder = tmp_path / "one"
    shutil.copytree(FOLDERS["books"][-1], folder)
    points = pd.read_csv(folder / "bipartite.csv").assign(stderr_by_book_nats=np.nan, stderr_nats=0.5)
    points.to_csv(folder / "bipartite.csv", index=False)
    paths = [folder if path == FOLDERS["books"][-1] else path for path in RUNS]
    fig = models.draw_lines(models.read_compared(COMPARED), models.read_results(paths))
    mi = points.query("estimator == 'direct' and L_tokens == 2 * ell_tokens")["mi_nats"]
    ends = np.array(fig.axes[0].containers[3].lines[2][0].get_segments())[:, :, 1]
    assert ends == pytest.approx(np.stack([mi - 0.5, mi + 0.5], axis=1))


def test_exponents_against_the_loss():
    fig = models.draw_exponents(models.read_compared(COMPARED))
    assert_texts_fit(fig)
    estimators = {"direct": "direct", "vclub": "vCLUB", "block_entropy": "block entropy"}
    paper = [f"paper, PG19, Llama 3.1 405B: {name}" for name in ("direct 0.76", "vCLUB 0.71")]
    assert labels(fig) == [*estimators.values(), *paper, *SHORT.values()]
    panels = [(corpus, quantity) for quantity in ("beta", "beta_long") for corpus in FOLDERS]
    colors, markers = {}, {}
    for ax, (corpus, quantity) in zip(fig.axes, panels, strict=True):
        start = 4 if quantity == "beta" else 256
        assert re.fullmatch(rf"{corpus}, \d+ texts\nL = {start} to 2048 tokens", ax.get_title())
        table = pd.read_csv(OF / corpus / "models.csv", keep_default_na=False)
        loss = table[table["quantity"] == "loss_nats_per_byte"].set_index("model")["value"]
        points = [one for one in ax.containers if len(one.lines[0].get_xdata())]
        rows = [row for name in estimators for row in table[table["estimator"] == name].itertuples()]
        for drawn, row in zip(points, [row for row in rows if row.quantity == quantity], strict=True):
            assert_points(drawn, drawn.lines[0].get_xdata(), [row.value], [float(row.lo95)], [float(row.hi95)])
            assert drawn.lines[0].get_xdata() == pytest.approx([loss[row.model]], abs=0.04 * (loss.max() - loss.min()))
            colors.setdefault(row.estimator, set()).add(drawn.lines[0].get_color())
            markers.setdefault(row.model, set()).add(drawn.lines[0].get_marker())
        assert [line.get_ydata()[0] for line in gid(ax, "paper")] == [0.76, 0.71]
    for of, count in ((colors, len(estimators)), (markers, len(SHORT))):
        assert len(set.union(*of.values())) == len(of) == count
        assert all(len(one) == 1 for one in of.values())


def test_without_a_fit_at_long_lengths(tmp_path):
    table = pd.read_csv(COMPARED[0], keep_default_na=False)
    table[table["quantity"] != "beta_long"].to_csv(tmp_path / "models.csv", index=False)
    fig = models.draw_exponents(models.read_compared([tmp_path / "models.csv"]))
    assert_texts_fit(fig)
    assert fig.axes[1].get_title() == "books, 38 texts\nno fit"


def test_short_names():
    names = ["Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf", "tiny-Q8_0.gguf", "a.IQ2_XS.gguf", "b-F16.gguf"]
    short = ["Qwen2.5 Coder 0.5B", "tiny", "a", "b", "Llama 3.1 405B"]
    assert list(models.short_names([*names, "Llama-3.1-405B"]).values()) == short
    alike = ["tiny.Q4_0.gguf", "tiny.Q8_0.gguf"]
    assert list(models.short_names(alike).values()) == alike


def test_refusals(tmp_path):
    out = ["--out", tmp_path / "x"]
    said = refusal(SCRIPT, "--compared", *COMPARED, "--results", *RUNS[1:], *out)
    run, first = f"books and {list(SHORT)[-1]}", next(iter(SHORT))
    assert f"{run}: in models.csv and not in --results: give the folders of the models" in said
    said = refusal(SCRIPT, "--compared", COMPARED[0], "--results", *RUNS, *out)
    assert f"wikipedia and {first}: in --results and not in models.csv" in said
    shutil.copy(COMPARED[0], tmp_path / "models.csv")
    said = refusal(SCRIPT, "--compared", COMPARED[0], tmp_path / "models.csv", *out)
    assert "--compared names models.csv of the corpora books, books: give one of each" in said
    copy = shutil.copytree(RUNS[0], tmp_path / "copy")
    said = refusal(SCRIPT, "--compared", *COMPARED, "--results", *RUNS, copy, *out)
    assert f"copy: {run} are those of another folder of --results: give each once" in said
    pd.read_csv(COMPARED[0]).query("quantity != 'bytes_per_token'").to_csv(tmp_path / "models.csv", index=False)
    said = refusal(SCRIPT, "--compared", tmp_path / "models.csv", *out)
    assert f"models.csv has no bytes_per_token of {first}: make it with" in said
    pd.read_csv(COMPARED[0]).drop(columns="n_books").to_csv(tmp_path / "models.csv", index=False)
    assert "lacks the column n_books: make it with" in refusal(SCRIPT, "--compared", tmp_path / "models.csv", *out)
    assert f"no file {tmp_path}/bipartite.csv" in refusal(SCRIPT, "--compared", *COMPARED, "--results", tmp_path, *out)
    assert not list(tmp_path.glob("x*"))
