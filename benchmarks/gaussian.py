"""Speed and memory of families.py when it draws sequences with exact conditionals, compared with dense algebra.

    python benchmarks/gaussian.py                     # two idle CPU cores: 4 minutes, 7 GB of memory, 1 GB of disk

Both draw z and the means of z_t given z_<t for the sub-volume family, in float32. Dense algebra uses a Cholesky factor
C of the covariance, made before and not part of the time: z = C ε, and the means are z minus C's diagonal times ε. The
product is either torch's with all of C, or the triangular one of BLAS, which has half the operations; the faster one is
the baseline. Every measurement runs in its own process, with a warm-up; seconds are medians of --rounds.

Writes results/benchmarks/gaussian.csv: one row per measurement; a ratio above 1 means that ours is better.
  seconds, peak memory           4 draws × 64 copies at L = 1,024 … 16,384, against dense algebra
  seconds before the first draw  our conditionals, against covariance and Cholesky factor
  seconds of one draw            64 copies up to L = 1,048,576, against linear growth; also the log-log slope

Expect linear time: as fast as dense at L = 1,024, ten times as fast at 16,384, and 0.2 seconds for a draw at 65,536.
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
    dense_layers: tuple[int, ...] = (5, 6, 7)  # L = 4^layers, compared with dense algebra
    layers: tuple[int, ...] = (5, 6, 7, 8, 9, 10)  # L = 4^layers for the growth of time; two or more, ascending
    rounds: int = 5

    def validate(self) -> None:
        if min(self.rounds, *self.layers, *self.dense_layers) < 1 or len(self.layers) < 2:
            raise UserError("--rounds and --dense-layers: give at least 1; --layers: two or more values of at least 1")


def ours(layers: int, batch: int, rounds: int) -> dict:
    """Seconds of a draw with conditionals, seconds to prepare the conditionals, and peak memory in bytes."""
    started = time.perf_counter()
    conditionals = families.prepare(families.named("subvolume", layers))
    prepared = time.perf_counter() - started
    random = torch.Generator().manual_seed(0)
    seconds = median_seconds(lambda: families.draw(conditionals, batch, random), rounds)
    return {"seconds": seconds, "prepared": prepared, "bytes": peak_bytes()}


def write_factor(layers: int, path: Path) -> dict:
    """Write the Cholesky factor of the covariance as a float32 .npy; returns seconds and peak memory in bytes."""
    started = time.perf_counter()
    # torch's, because numpy's failed at L = 16,384 with its bundled OpenBLAS.
    factor = torch.linalg.cholesky(torch.from_numpy(dense.covariance(families.named("subvolume", layers))))
    np.save(path, factor.float().numpy())
    return {"prepared": time.perf_counter() - started, "bytes": peak_bytes()}


def draw_by_dense(C: np.ndarray, batch: int, random: torch.Generator, triangular: bool) -> tuple[torch.Tensor, ...]:
    """z and the means, (L, batch) each, from the factor C by a triangular or a full product."""
    noise = torch.empty(len(C), batch).normal_(generator=random)
    if triangular:  # BLAS is column-major, so it gets C and the noise transposed
        noise_t = torch.empty(batch, len(C)).copy_(noise.T)
        z = torch.from_numpy(scipy.linalg.blas.strmm(1.0, C.T, noise_t.numpy().T, trans_a=1)).contiguous()
    else:
        z = torch.from_numpy(C) @ noise
    return z, z - torch.from_numpy(C.diagonal().copy())[:, None] * noise


def by_dense(path: Path, batch: int, rounds: int, triangular: bool) -> dict:
    """Seconds and peak bytes like `ours`, but by dense algebra with the factor in `path`."""
    C, random = np.load(path), torch.Generator().manual_seed(0)
    seconds = median_seconds(lambda: draw_by_dense(C, batch, random, triangular), rounds)
    return {"seconds": seconds, "bytes": peak_bytes()}


def measure(cfg: Settings, folder: Path) -> pd.DataFrame:
    """Run all measurements and return the table. `folder` holds the dense factors meanwhile."""
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
    with tempfile.TemporaryDirectory(prefix="gaussian-") as folder:
        table = measure(cfg, Path(folder))
    publish(table, cfg, threads=torch.get_num_threads())


if __name__ == "__main__":
    run(main, Settings, __doc__)
