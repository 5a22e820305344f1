"""How fast and in how much memory families.py draws sequences with their exact conditionals, beside dense algebra.

    python benchmarks/gaussian.py                     # two idle CPU cores: 4 minutes, 7 GB of memory, 1 GB of disk

The sub-volume family, float32: draws z and the means of z_t given z_<t. Dense: the Cholesky factor C of the covariance
is made before and not counted; z = C ε, and the means are z less C's diagonal times ε. The product is torch's with the
whole of C or the BLAS's triangular one, which has half the operations: the faster one is the baseline. Every
measurement is a process of its own, with a warm-up; seconds are medians of --rounds.

Writes results/benchmarks/gaussian.csv: a row a measure, ratio above 1 means ours is better.
  seconds, peak memory           4 draws × 64 copies at L = 1,024 … 16,384, against dense
  seconds of one draw            64 copies to L = 1,048,576, against linear growth, and the log-log slope

Expect: linear time, as fast as dense at L = 1,024, ten times as fast at 16,384; a draw at 65,536 in 0.2 seconds.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.linalg.blas
import torch
from tqdm import tqdm

from benchmarks.publish import in_a_process, median_seconds, peak_bytes, publish, row
from common.cli import UserError, run
from gaussian_synthetic.exact import dense, families

BATCH, COPIES = 4 * 64, 64


@dataclass(frozen=True)
class Settings:
    out: Path = Path("results/benchmarks/gaussian.csv")
    dense_layers: tuple[int, ...] = (5, 6, 7)  # L = 4^layers where dense algebra is the rival
    layers: tuple[int, ...] = (5, 6, 7, 8, 9, 10)  # L = 4^layers, two or more, ascending, of the growth of time
    rounds: int = 5

    def validate(self) -> None:
        if min(self.rounds, *self.layers, *self.dense_layers) < 1 or len(self.layers) < 2:
            raise UserError("--rounds and --dense-layers: give at least 1; --layers: two or more of at least 1")


def ours(layers: int, batch: int, rounds: int) -> dict:
    """Seconds of a draw with conditionals, seconds of the conditionals before it, and the peak of memory."""
    started = time.perf_counter()
    conditionals = families.prepare(families.named("subvolume", layers))
    prepared = time.perf_counter() - started
    random = torch.Generator().manual_seed(0)
    seconds = median_seconds(lambda: families.draw(conditionals, batch, random), rounds)
    return {"seconds": seconds, "prepared": prepared, "bytes": peak_bytes()}


def write_factor(layers: int, path: Path) -> dict:
    """The Cholesky factor of the covariance as a float32 .npy; seconds and peak of memory."""
    started = time.perf_counter()
    # By torch: numpy's fell over at L = 16,384 with the OpenBLAS that it came with.
    factor = torch.linalg.cholesky(torch.from_numpy(dense.covariance(families.named("subvolume", layers))))
    np.save(path, factor.float().numpy())
    return {"prepared": time.perf_counter() - started, "bytes": peak_bytes()}


def draw_by_dense(C: np.ndarray, batch: int, random: torch.Generator, triangular: bool) -> tuple[torch.Tensor, ...]:
    """z and the means, (L, batch) each, from the factor C by a triangular product or by a whole one."""
    noise = torch.empty(len(C), batch).normal_(generator=random)
    if triangular:  # BLAS stores columns one after the other, so it is given C and the noise transposed
        noise_t = torch.empty(batch, len(C)).copy_(noise.T)
        z = torch.from_numpy(scipy.linalg.blas.strmm(1.0, C.T, noise_t.numpy().T, trans_a=1)).contiguous()
    else:
        z = torch.from_numpy(C) @ noise
    return z, z - torch.from_numpy(C.diagonal().copy())[:, None] * noise


def by_dense(path: Path, batch: int, rounds: int, triangular: bool) -> dict:
    """As `ours`, from a factor on disk."""
    C, random = np.load(path), torch.Generator().manual_seed(0)
    seconds = median_seconds(lambda: draw_by_dense(C, batch, random, triangular), rounds)
    return {"seconds": seconds, "bytes": peak_bytes()}


def measure(cfg: Settings, folder: Path) -> pd.DataFrame:
    """The table; `folder` is for the dense factors."""
    rows: list[dict] = []
    bar = tqdm(total=4 * len(cfg.dense_layers) + len(cfg.layers), desc="gaussian")

    def measured(function: str, *arguments: object) -> dict:
        found = in_a_process(f"benchmarks.gaussian.{function}", *arguments)
        bar.update()
        return found

    def add(*of: Any) -> None:
        rows.append(row("gaussian", *of))

    for layers in cfg.dense_layers:
        path = folder / "factor.npy"
        made = measured("write_factor", layers, path)
        rivals = {
            "triangular product": measured("by_dense", path, BATCH, cfg.rounds, True),
            "product": measured("by_dense", path, BATCH, cfg.rounds, False),
        }
        path.unlink()
        found = measured("ours", layers, BATCH, cfg.rounds)
        best = min(rivals, key=lambda name: rivals[name]["seconds"])
        rival, setting = rivals[best], f"L = {4**layers:,}, 4 draws × {COPIES} copies, float32"
        what = f"{best} with a factor made before"
        add(setting, "seconds", "s", what, rival["seconds"], found["seconds"])
        add(setting, "peak memory", "GB", what, rival["bytes"] / 1e9, found["bytes"] / 1e9)
        what = "covariance and Cholesky factor"
        add(setting, "seconds before the first draw", "s", what, made["prepared"], found["prepared"])

    grown = [measured("ours", layers, COPIES, cfg.rounds)["seconds"] for layers in cfg.layers]
    shortest, of = f"L = {4 ** cfg.layers[0]:,}", f"one draw of {COPIES} copies, float32"
    for layers, seconds in zip(cfg.layers, grown, strict=True):
        linear = grown[0] * 4 ** (layers - cfg.layers[0])
        add(f"L = {4**layers:,}, {of}", "seconds", "s", f"linear from {shortest}", linear, seconds)
    slope = np.polyfit([layers * np.log(4) for layers in cfg.layers], np.log(grown), 1)[0]
    setting = f"{shortest} to {4 ** cfg.layers[-1]:,}, {of}"
    add(setting, "log-log slope of seconds against L", "", "limit", 1.1, slope)
    bar.close()
    return pd.DataFrame(rows)


def main(cfg: Settings) -> None:
    started = time.time()
    with tempfile.TemporaryDirectory(prefix="gaussian-") as folder:
        table = measure(cfg, Path(folder))
    publish(table, cfg, started, threads=torch.get_num_threads())


if __name__ == "__main__":
    run(main, Settings, __doc__)
