"""What the tests of the figures share: made-up CSVs, captions, error lines."""

from __future__ import annotations

import io
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest

matplotlib.use("Agg")
PLOTS = Path(__file__).resolve().parents[2] / "plots"
sys.path.insert(0, str(PLOTS))  # as when a script runs: its own folder comes first

from common.cli import run  # noqa: E402
from tests.conftest import ROOT, call_shell  # noqa: E402

ESTIMATORS = ["direct", "direct_corrected", "vclub"]


def tables(source: str = "books", model: str = "tiny-model") -> tuple[pd.DataFrame, pd.DataFrame]:
    """I = 2.3 · L^0.6 with 5% errors for L = 4 ... 2048, all estimators and ratios; numbers all different.

    Selected are a power law that is accepted (direct), one that is not (direct_corrected), a saturating one (vclub).
    """
    rng = np.random.default_rng(1)
    points, fits = [], []
    for index, estimator in enumerate(ESTIMATORS):
        for ratio in (2, 3, 4):
            ell = 2 ** np.arange(1, 11)
            L = ratio * ell[ratio * ell <= 2048]
            mi = (2.3 + 0.4 * index) * L**0.6 * (1 + 0.05 * rng.standard_normal(len(L)))
            names = {"source": source, "model": model, "estimator": estimator}
            values = {"ell_tokens": L // ratio, "L_tokens": L, "mi_nats": mi, "stderr_nats": 0.05 * mi}
            values |= {"n_documents": 1024, "correction_nats": np.nan, "correction_stderr_nats": np.nan}
            if estimator == "direct_corrected":
                values |= {"correction_nats": -4 + 0.01 * L**0.5, "correction_stderr_nats": 0.2 + 0.01 * L**0.5}
            # Upside down: the order of rows must not matter.
            points.append(pd.DataFrame(names | values)[::-1])
            beta = 0.6 + 0.01 * ratio + 0.1 * index
            shared = names | {"L_over_ell": float(ratio), "L_min": L[1], "L_max": L[-2], "scale": "log"}
            none = dict.fromkeys(("lo95", "hi95", "boot_lo95", "boot_hi95", "chi2", "p_value", "aicc"), np.nan)
            none |= {"dof": 6, "boot_clusters": "", "heldout_error": np.nan, "selected": False}
            books = {"boot_clusters": "4 books"}
            power = none | {"p_value": 0.04 if estimator == "direct_corrected" else 0.32} | books
            power |= {"selected": estimator != "vclub"}
            saturating = none | {"p_value": 0.4, "selected": estimator == "vclub"}
            for law, parameter, value, more in (
                ("power_ols", "A", 2.2, none | {"boot_lo95": 2.0, "boot_hi95": 2.4} | books),
                ("power_ols", "beta", 0.99, none | {"boot_lo95": 0.9, "boot_hi95": 1.1} | books),
                ("power", "A", 2.3 + index, power | {"lo95": 2.2, "hi95": 9.0, "boot_lo95": 2.0, "boot_hi95": 9.0}),
                (
                    "power",
                    "beta",
                    beta,
                    power
                    | {"lo95": beta - 0.031, "hi95": beta + 0.042}
                    | {"boot_lo95": beta - 0.1, "boot_hi95": beta + 0.11},
                ),
                # A law at the edge of its range claims no interval.
                ("saturating", "I_inf", 900.0, saturating | {"hi95": np.inf}),
                ("saturating", "L_0", 512.0, saturating),
                ("saturating", "beta", 0.8, saturating),
                ("logarithm", "B", 12.0, none | {"p_value": 1e-9}),
            ):
                fits.append(shared | {"law": law, "parameter": parameter, "value": value} | more)
    return pd.concat(points), pd.DataFrame(fits)


def save(folder: Path, bipartite: pd.DataFrame, fits: pd.DataFrame, windows: pd.DataFrame | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    bipartite.to_csv(folder / "bipartite.csv", index=False)
    fits.to_csv(folder / "fit.csv", index=False)
    windows = sweep_table() if windows is None else windows
    if len(bipartite):
        windows = windows.assign(**bipartite[["source", "model"]].iloc[0])
    windows.to_csv(folder / "sweep.csv", index=False)
    return folder


def sweep_table() -> pd.DataFrame:
    """A row for every window of L = 4 ... 2048, all estimators and ratios; numbers all different."""
    rows = []
    for index, estimator in enumerate(ESTIMATORS):
        for ratio in (2, 3):
            L = ratio * 2 ** np.arange(1, 11)
            windows = [(first, last) for last in range(1, 10) for first in range(last)]
            for first, last in windows:
                beta = 0.8 - 0.01 * first - 0.03 * last + 0.1 * index + 0.5 * (ratio - 2)
                low, high = beta - 0.1 / (last - first), beta + 0.12 / (last - first)
                names = {"source": "books", "model": "tiny-model", "estimator": estimator, "L_over_ell": float(ratio)}
                fit = {"L_min": L[first], "L_max": L[last], "A": 2.0, "beta": beta, "lo95": low, "hi95": high}
                rows.append(names | fit | {"chi2": 1.0, "dof": last - first - 1, "p_value": 0.5, "scale": "log"})
    return pd.DataFrame(rows)


def coverage_table(process: str) -> pd.DataFrame:
    """coverage.csv of a process: I = L^0.5, direct right with the exact predictor, vCLUB far above; all different."""
    L, rows = 2 ** np.arange(2, 12), []
    for n, (predictor, estimator, factor) in itertools.product(
        (1000, 100),
        (
            ("exact", "direct", 1.04),
            ("exact", "vclub", 8.0),
            ("tempered", "direct", 0.8),
            ("sharpened", "direct", 0.7),
            ("limited_context", "direct", 0.5),
            ("wrong_bos", "direct", 2.0),
            ("wrong_bos", "vclub", 9.0),
        ),
    ):
        if predictor != "exact" and n == 100:
            continue
        names = {"process": process, "predictor": predictor, "estimator": estimator, "n_documents": n}
        for i in range(10):
            truth, covered = L[i] ** 0.5, (0.93 + 0.004 * i + n / 1e5 if estimator == "direct" else 0.01 * i)
            row = {"quantity": "mi", "L_tokens": L[i], "truth": truth, "mean": factor * truth * (1 + 1e-5 * n)}
            row |= {"sd": 0.1 * truth, "mean_half_width": 0.2 * truth, "coverage": covered}
            rows.append(names | row | {"coverage_lo95": 0.99 * covered, "coverage_hi95": 0.5 + covered / 2})
        for quantity, covered in (("beta_ols", 0.6), ("beta_gls", 0.95)):
            row = {"quantity": quantity, "L_tokens": np.nan, "truth": 0.5, "mean": 0.5 * factor, "sd": 0.01}
            row |= {"mean_half_width": 0.04 * covered, "coverage": covered + n / 1e5}
            rows.append(names | row | {"coverage_lo95": covered - 0.05, "coverage_hi95": covered + 0.04})
    return pd.DataFrame(rows).assign(replications=400, bias=0.0)[::-1]


def save_coverage(
    folder: Path, processes: Sequence[str] = ("bernoulli", "markov", "santa_fe_b0.5_e0.1", "santa_fe_b0.75_e0.1")
) -> Path:
    for process in processes:
        (folder / process).mkdir(parents=True)
        coverage_table(process).to_csv(folder / process / "coverage.csv", index=False)
        facts = {"settings": {"ratio": 2}}
        (folder / process / "coverage.json").write_text(json.dumps(facts))
    return folder


def caption_of(fig) -> str:
    (text,) = fig.texts
    return text.get_text().replace("\n", " ").replace("\u00a0", " ")


def bars_of(container) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, y, and the lower and upper ends of the bars of what ax.errorbar drew."""
    points, _, (bars,) = container.lines
    ends = np.array(bars.get_segments())[:, :, 1]
    return points.get_xdata(), points.get_ydata(), ends[:, 0], ends[:, 1]


def gid(ax, name: str) -> list:
    """The lines of a panel that are called so."""
    return [line for line in ax.get_lines() if line.get_gid() == name]


def labels(ax) -> list[str]:
    """Of the legend."""
    return [text.get_text() for text in ax.get_legend().get_texts()]


def assert_texts_fit(fig, caption_lines: int = 2) -> None:
    """No text covers a panel or another text, leaves the figure, or is too small to read; the caption is short."""
    assert len(fig.texts[0].get_text().splitlines()) <= caption_lines
    fig.savefig(io.BytesIO())  # lays the texts out
    panels = [ax.get_window_extent() for ax in fig.axes]
    legends = [ax.get_legend().get_window_extent() for ax in fig.axes if ax.get_legend()]
    assert legends
    labels = [label for ax in fig.axes for label in (ax.xaxis.label, ax.yaxis.label, ax.title)]
    labels = [label.get_window_extent() for label in labels if label.get_text()]
    (caption,) = [text.get_window_extent() for text in fig.texts]
    boxes = [*legends, *labels, caption]
    for box in boxes:
        assert fig.bbox.x0 <= box.x0
        assert box.x1 <= fig.bbox.x1
        assert fig.bbox.y0 <= box.y0
        assert box.y1 <= fig.bbox.y1
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in [*panels, *boxes[:index]])
    for ax in fig.axes:
        ticks = [label for label in ax.get_xticklabels() if label.get_text()]
        ends = sorted((box.x0, box.x1) for box in (label.get_window_extent() for label in ticks))
        assert all(left[1] < right[0] for left, right in itertools.pairwise(ends))
    sizes = [text.get_fontsize() for text in fig.findobj(matplotlib.text.Text) if text.get_text()]
    assert min(sizes) >= 7


def make_all(root: Path) -> subprocess.CompletedProcess:
    """plots/make_all.sh of a checkout that holds the results in root and nothing else but what it needs."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PLOTS, root / "plots", ignore=ignored, dirs_exist_ok=True)
    shutil.copytree(ROOT / "common", root / "common", ignore=ignored, dirs_exist_ok=True)
    return call_shell(root / "plots" / "make_all.sh", PYTHONPATH=str(root))


def fails(monkeypatch, capsys, script, *arguments: object) -> str:
    """The one line on stderr of a command that ends with exit code 2."""
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        run(script.main, script.Settings)
    assert ended.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    return line
