"""Fig. B.1 and the exponents against the loss, from made-up scores of two corpora and three models."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.conftest import call_script
from tests.measure_mutual_info.test_compare_models import made_scores, save
from tests.plots.made_up import assert_points, assert_texts_fit, gid, labels, refusal

# Imported after made_up has put plots/ on the path.
import models  # isort: skip

SCRIPT, CORPORA = "plots/models.py", ("novels", "articles")
LAWS = {"SmolLM2-135M-Instruct.Q4_1.gguf": (0.4, 1.2), "gemma-3-270m.Q4_K_M.gguf": (0.5, 1.0), "Qwen3-1B": (0.6, 0.8)}
SHORT = ["SmolLM2 135M", "gemma 3 270m", "Qwen3 1B"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with models.csv per corpus, and bipartite.csv and sweep.csv per model; four novels, three articles."""
    folder = tmp_path_factory.mktemp("made")
    for corpus, texts in zip(CORPORA, (4, 3), strict=True):
        files = []
        for i, (name, law) in enumerate(LAWS.items()):
            files.append(save(folder / corpus, name, made_scores(*law, texts, 5, seed=i), source=corpus))
            flags = ["--scores", files[-1], "--out", files[-1].parent, "--bootstrap", 0]
            assert call_script("measure_mutual_info/estimate_bipartite.py", *flags).returncode == 0
        flags = ["--scores", *files, "--out", folder / corpus, "--bootstrap", 5]
        assert call_script("measure_mutual_info/compare_models.py", *flags).returncode == 0
    return folder


def compared(folder: Path) -> list[Path]:
    return [folder / corpus / "models.csv" for corpus in CORPORA]


def results(folder: Path) -> list[Path]:
    return [folder / corpus / name for corpus in CORPORA for name in reversed(LAWS)]


def test_fig_b1(made):
    fig = models.draw_lines(models.read_compared(compared(made)), models.read_results(results(made)))
    assert_texts_fit(fig)
    assert labels(fig) == [*SHORT, "paper, PG19, Llama 3.1 405B: direct 0.76"]
    for ax, below, corpus in zip(fig.axes[:2], fig.axes[2:], CORPORA, strict=True):
        assert ax.get_title().startswith(f"{corpus}, {4 if corpus == 'novels' else 3} texts")
        assert len(ax.containers) == len(below.containers) == len(LAWS), "one line per model"
        for name, line, slopes in zip(LAWS, ax.containers, below.containers, strict=True):
            assert line.lines[0].get_linestyle() == "-"
            scores, of = pd.read_csv(made / corpus / name / "scores.csv"), made / corpus / name
            last = scores[scores["L_tokens"] == 2048]
            size = last["y_bytes"].sum() / (1024 * len(last))
            points = pd.read_csv(of / "bipartite.csv").query("estimator == 'direct'")
            mi, bars = points["mi_nats"], points["stderr_by_book_nats"]
            assert_points(line, points["L_tokens"] * size, mi, mi - bars, mi + bars)
            steps = pd.read_csv(of / "sweep.csv").query("estimator == 'direct' and dof == 0")
            x = np.sort(slopes.lines[0].get_xdata()) / np.sort(np.sqrt(steps["L_min"] * steps["L_max"]) * size)
            assert x == pytest.approx(x[0])
            assert 0.8 < x[0] < 1.25
            assert_points(slopes, x[0] * np.sqrt(steps["L_min"] * steps["L_max"]) * size, *of_interval(steps, "beta"))
        assert [line.get_ydata()[0] for line in gid(below, "paper")] == [0.76]
        assert ax.get_ylim() == fig.axes[0].get_ylim()


def of_interval(rows: pd.DataFrame, name: str) -> tuple[pd.Series, pd.Series, pd.Series]:
    return rows[name], rows["lo95"], rows["hi95"]


def test_errors_by_document_where_there_is_one_book(made, tmp_path):
    """Bars are errors by document if bipartite.csv has none by book, as for a corpus of a single text."""
    folder = tmp_path / "one"
    shutil.copytree(made / "novels" / "Qwen3-1B", folder)
    points = pd.read_csv(folder / "bipartite.csv").assign(stderr_by_book_nats=np.nan, stderr_nats=0.5)
    points.to_csv(folder / "bipartite.csv", index=False)
    paths = [path if path.name != "Qwen3-1B" or "novels" not in str(path) else folder for path in results(made)]
    fig = models.draw_lines(models.read_compared(compared(made)), models.read_results(paths))
    mi = points.query("estimator == 'direct'")["mi_nats"]
    ends = np.array(fig.axes[0].containers[2].lines[2][0].get_segments())[:, :, 1]
    assert ends == pytest.approx(np.stack([mi - 0.5, mi + 0.5], axis=1))


def test_exponents_against_the_loss(made):
    fig = models.draw_exponents(models.read_compared(compared(made)))
    assert_texts_fit(fig)
    estimators = {"direct": "direct", "vclub": "vCLUB", "block_entropy": "block entropy"}
    paper = [f"paper, PG19, Llama 3.1 405B: {name}" for name in ("direct 0.76", "vCLUB 0.71")]
    assert labels(fig) == [*estimators.values(), *paper, *SHORT]
    panels = [(corpus, quantity) for quantity in ("beta", "beta_long") for corpus in CORPORA]
    for ax, (corpus, quantity) in zip(fig.axes, panels, strict=True):
        start = 4 if quantity == "beta" else 256
        assert re.fullmatch(rf"{corpus}, \d texts\nL = {start} to 2048 tokens", ax.get_title())
        table = pd.read_csv(made / corpus / "models.csv", keep_default_na=False).set_index(["model", "quantity"])
        loss = table.loc[(slice(None), "loss_nats_per_byte"), "value"].droplevel(1)
        points = iter(one for one in ax.containers if len(one.lines[0].get_xdata()))
        colors, markers = {}, {}
        for estimator in estimators:
            for name in LAWS:
                drawn, row = next(points), table[table["estimator"] == estimator].loc[(name, quantity)]
                assert_points(drawn, drawn.lines[0].get_xdata(), *([row[end]] for end in ("value", "lo95", "hi95")))
                assert drawn.lines[0].get_xdata() == pytest.approx([loss[name]], abs=0.04 * (loss.max() - loss.min()))
                colors.setdefault(estimator, set()).add(drawn.lines[0].get_color())
                markers.setdefault(name, set()).add(drawn.lines[0].get_marker())
        for of in (colors, markers):
            assert len(set.union(*of.values())) == len(of) == 3
            assert all(len(one) == 1 for one in of.values())
        assert [line.get_ydata()[0] for line in gid(ax, "paper")] == [0.76, 0.71]


def test_without_a_fit_at_long_lengths(made, tmp_path):
    table = pd.read_csv(compared(made)[0], keep_default_na=False)
    table[table["quantity"] != "beta_long"].to_csv(tmp_path / "models.csv", index=False)
    fig = models.draw_exponents(models.read_compared([tmp_path / "models.csv"]))
    assert_texts_fit(fig)
    assert fig.axes[1].get_title() == "novels, 4 texts\nno fit"


def test_short_names():
    names = ["Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf", "tiny-Q8_0.gguf", "a.IQ2_XS.gguf", "b-F16.gguf"]
    short = ["Qwen2.5 Coder 0.5B", "tiny", "a", "b", "Llama 3.1 405B"]
    assert list(models.short_names([*names, "Llama-3.1-405B"]).values()) == short
    alike = ["tiny.Q4_0.gguf", "tiny.Q8_0.gguf"]
    assert list(models.short_names(alike).values()) == alike


def test_refusals(made, tmp_path):
    out, wanted = ["--out", tmp_path / "x"], compared(made)
    said = refusal(SCRIPT, "--compared", *wanted, "--results", *results(made)[1:], *out)
    assert "novels and Qwen3-1B: in models.csv and not in --results: give the folders of the models" in said
    said = refusal(SCRIPT, "--compared", wanted[0], "--results", *results(made), *out)
    assert "articles and Qwen3-1B: in --results and not in models.csv" in said
    shutil.copy(wanted[0], tmp_path / "models.csv")
    said = refusal(SCRIPT, "--compared", wanted[0], tmp_path / "models.csv", *out)
    assert "--compared names models.csv of the corpora novels, novels: give one of each" in said
    copy = shutil.copytree(made / "novels/Qwen3-1B", tmp_path / "copy")
    said = refusal(SCRIPT, "--compared", *wanted, "--results", *results(made), copy, *out)
    assert "copy: novels and Qwen3-1B are those of another folder of --results: give each once" in said
    pd.read_csv(wanted[0]).query("quantity != 'bytes_per_token'").to_csv(tmp_path / "models.csv", index=False)
    said = refusal(SCRIPT, "--compared", tmp_path / "models.csv", *out)
    assert "models.csv has no bytes_per_token of Qwen3-1B: make it with" in said
    pd.read_csv(wanted[0]).drop(columns="n_books").to_csv(tmp_path / "models.csv", index=False)
    assert "lacks the column n_books: make it with" in refusal(SCRIPT, "--compared", tmp_path / "models.csv", *out)
    assert f"no file {tmp_path}/bipartite.csv" in refusal(SCRIPT, "--compared", *wanted, "--results", tmp_path, *out)
    assert not list(tmp_path.glob("x*"))
