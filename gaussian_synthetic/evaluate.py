"""How far trained models are from the exact conditionals, position by position (Fig. 3, G.7, G.8): runs → CSVs.

    python gaussian_synthetic/evaluate.py --runs runs/gpt2_256_0 runs/mamba-130m_256_0 --draws 256 --out results/fig3

Reads checkpoint.pt of each run (train.py). All models with the same L get the same draws. Writes into --out:
    kl.csv       for each position i, summed over the copies of a token (App. F.IV):
                 kl_nats         D_i = E KL(p(W_i|W_<i) || q(W_i|W_<i))
                 nll_nats        E −log q(W_i|W_<i) over the drawn W_i: estimates entropy_nats + kl_nats, with noise
                 entropy_nats    exact entropy of W_i given W_<i
                 share_of_past   1 − D_i / I(W_i; W_<i), the share of the past's information that the model uses
    training.csv step, kl_nats: the rows of log.csv, KL per token during training; steps: of the first cosine (train.py)
    summary.csv  a row per run, and one per L for the model `independent`, which ignores the past (mean 0, deviation 1)
                 state_size      elements of the history state after L/2 tokens
                 mi_nats         exact I(L/2; L) of the token sequence
                 mean_kl_nats    mean of D_i over all positions
                 utilisation     1 − Σ_{i>L/2} D_i / I(L/2; L), see the function
                 last_gain       share of its KL that the last restart of the training removed (see train.py)
                 converged       whether the last two restarts each removed less than CONVERGED (train.py), or the KL is
                                 below NEGLIGIBLE times that of `independent`
                 frontier_lo_nats, frontier_hi_nats   bounds on the mean D_i of the best linear state of that many
                                 elements (--capacity); empty if the state grows or the table lacks this L
with standard errors over draws. All runs must have the same family and number of copies. --add keeps the rows of other
runs that the CSVs already hold, and does not need their checkpoints. A killed run resumes: the results of each
checkpoint are kept in <out>/kl.parts, 16 bytes per draw and position.

A CPU is enough for small models; those of the paper need a GPU. At L = 256, expect a mean D_i of 16 nats for
`independent` (64 copies of 0.25 nats), and 0 for an exact model.
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from common import training
from common.cli import UserError, at_least, run
from common.history_state import history_state
from common.record import ROOT, file_hash, read_csv, significant, write_csv
from common.resume import Pieces
from gaussian_synthetic import train
from gaussian_synthetic.capacity import read_capacity
from gaussian_synthetic.collapse import NEGLIGIBLE
from gaussian_synthetic.exact import families
from gaussian_synthetic.exact_mi import bipartite_information
from gaussian_synthetic.training import models

KEY = ["model", "L", "seed"]
COMMON = ["family", "k", "n", "copies", "draws", "draw_seed"]  # the same for all runs in a table
TABLES = {
    "kl": [*KEY, "position", "kl_nats", "nll_nats", "entropy_nats", "kl_stderr_nats", "share_of_past"],
    "training": [*KEY, "steps", "step", "kl_nats"],
    "summary": [
        *(*KEY, "state_size", "mi_nats", "mean_kl_nats", "steps", "mean_kl_stderr_nats", "utilisation"),
        *("utilisation_stderr", "mean_nll_nats", "mean_nll_stderr_nats", "mean_entropy_nats", "parameters"),
        *(*COMMON, "checkpoint", "last_gain", "converged", "frontier_lo_nats", "frontier_hi_nats"),
    ],
}
NOISE = math.log(2 * math.pi * math.e) / 2  # entropy of a standard normal, nats


@dataclass(frozen=True)
class Settings:
    runs: tuple[Path, ...]  # folders that train.py wrote
    out: Path  # folder for the CSVs
    add: bool = False  # keep the rows of other runs that the CSVs in --out hold
    draws: int = 256  # not in the paper: number of sequences of L tokens
    batch: int = 8  # sequences at a time: limits memory, changes nothing else
    capacity: Path = ROOT / "results/capacity/capacity.csv"  # capacity.csv of capacity.py
    seed: int = 0  # seed of the draws, which are never those of the training
    device: str = "auto"  # auto, cpu, cuda or cuda:1

    def validate(self) -> None:
        if self.add and not all((self.out / f"{name}.csv").is_file() for name in TABLES):
            raise UserError(f"--add: {', '.join(TABLES)}.csv are not all in {self.out}: evaluate all without it")
        at_least(2, self, "draws")
        at_least(1, self, "batch")


PRESETS = {"paper": {}, "gpu": {}, "cpu": {}, "smoke": {"draws": 16}}  # what --preset sets in place of the above


@dataclass(frozen=True)
class Run:
    """A run as its checkpoint describes it. settings: those of train.py that affect the results."""

    folder: Path
    settings: dict[str, Any]
    step: int
    checkpoint: str
    log: pd.DataFrame  # the rows of its log.csv

    @property
    def key(self) -> dict[str, Any]:
        return {name: self.settings[name] for name in KEY}

    @property
    def family(self) -> families.Family:
        name, L, k, n = (self.settings[name] for name in ("family", "L", "k", "n"))
        return families.named(name, families.layers_of_length(L, n), k, n)

    @property
    def law(self) -> dict[str, Any]:
        """Family and number of copies, which all runs in one kl.csv share."""
        of = {name: self.settings[name] for name in ("family", "k", "n", "copies")}
        return of | {"k": self.family.k}

    def convergence(self, independent_kl: float) -> dict[str, Any]:
        """last_gain (NaN until the first restart ends) and converged. independent_kl: nats per token."""
        losses = dict(zip(self.log["step"], self.log["kl_nats"], strict=True))
        ends = training.ends_of_cosines(losses, self.settings["steps"])
        gain = (ends[-2] - ends[-1]) / ends[-2] if len(ends) > 1 else math.nan
        done = bool(ends) and training.settled(ends, train.CONVERGED, NEGLIGIBLE * independent_kl)
        return {"last_gain": gain, "converged": done}

    def frontier(self, capacity: pd.DataFrame, state: int) -> tuple[float, float]:
        """Bounds on the KL per token of the best linear state of `state` elements; NaN if the table lacks this L.

        The loss is convex in the elements per copy; if these do not divide evenly, some copies have one more.
        """
        of = self.law | {"L": self.settings["L"]}
        same = [capacity[name] == of[name] for name in ("family", "k", "n", "L")]
        here = capacity[np.logical_and.reduce(same)].sort_values("d")
        if here.empty:
            return math.nan, math.nan
        each = (np.interp(state / of["copies"], here["d"], here[name]) for name in ("lower_nats", "attained_nats"))
        return tuple(of["copies"] * max(0.0, nats) / of["L"] for nats in each)


def read_run(folder: Path) -> Run:
    """Read the checkpoint of a run. UserError: no checkpoint in the folder, or a damaged one."""
    saved = training.read_checkpoint(folder / training.CHECKPOINT)
    settings, step = saved["identity"]["settings"], saved["step"]
    if step < settings["steps"]:
        print(f"{folder} is at step {step:,} of {settings['steps']:,}: evaluated as it is")
    log = training.log_table(saved["rows"], "kl_nats")
    return Run(folder, settings, step, file_hash(folder / training.CHECKPOINT)[:16], log)


def check_runs(runs: list[Run]) -> None:
    """UserError: two runs with the same model, L and seed, or with different families or numbers of copies."""
    for before, this in itertools.combinations(runs, 2):
        if before.key == this.key:
            raise UserError(f"{before.folder} and {this.folder} are both {this.key}: give one")
        if before.law != this.law:
            raise UserError(
                f"{before.folder} has {before.law}, {this.folder} has {this.law}: use a separate --out for each"
            )


@torch.inference_mode()
def measure(
    model: torch.nn.Module, conditionals: families.Conditionals, copies: int, draws: int, batch: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """D and −log q of every draw and position, (draws, L) float64 each, in nats per token (summed over copies).

    Each draw has its own random numbers, so neither `batch` nor the number of draws changes it.
    """
    device, std = conditionals.std.device, conditionals.std[:, None]
    kl, nll = np.empty((2, draws, conditionals.of.L))
    with tqdm(total=draws, unit="draw", desc=getattr(model, "name", "")) as bar:
        for first in range(0, draws, batch):
            rows = range(first, min(draws, first + batch))
            own = (train.generator(seed, "evaluate", row, device) for row in rows)
            drawn = [train.draw_tokens(conditionals, 1, copies, random) for random in own]
            z, mean_p = (torch.cat(values) for values in zip(*drawn, strict=True))
            mean_q, log_std_q = model(z)
            log_q = torch.distributions.Normal(mean_q, log_std_q.exp(), validate_args=False).log_prob(z)
            kl[rows] = train.conditional_kl(mean_q, log_std_q, mean_p, std).double().sum(dim=-1).cpu()
            nll[rows] = -log_q.double().sum(dim=-1).cpu()
            bar.update(len(rows))
    return kl, nll


def utilisation(kl: np.ndarray, mi_nats: float) -> tuple[float, float]:
    """U = 1 − Σ_{i>L/2} D_i / I(L/2; L) and its standard error over draws. kl: (draws, L), nats per token.

    Σ_{i>L/2} D_i is the excess cost of q(Y|X) over p(Y|X), so U · I = E log q(Y|X) − E log p(Y): the nats about the
    second half Y that the model extracts from the first half X, minus its other errors in Y. 1: exact. 0: no better
    than the exact law of Y alone. Below 0: worse than that.

    There is no such number for each position in O(L): the recursion of families.py does not give the law of W_i given
    W_{L/2+1} … W_{i−1} alone. share_of_past, which refers to the whole past, is known at each position.
    """
    mean, error = mean_and_error(kl[:, kl.shape[1] // 2 :].sum(axis=1))
    return 1 - mean / mi_nats, error / mi_nats


def mean_and_error(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the first axis (draws), and its standard error."""
    return values.mean(axis=0), values.std(axis=0, ddof=1) / math.sqrt(len(values))


def position_rows(kl: np.ndarray, nll: np.ndarray, log_std: np.ndarray, copies: int) -> pd.DataFrame:
    """The rows of kl.csv, without the key. kl, nll: (draws, L); log_std: (L,) for one copy given its past."""
    mean_kl, error = mean_and_error(kl)
    past = -copies * log_std  # I(W_i; W_<i): every variable has variance 1
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(past > 1e-9, 1 - mean_kl / past, np.nan)
    nats = {"kl_nats": significant(mean_kl, 5), "nll_nats": significant(nll.mean(axis=0), 6)}
    nats |= {"entropy_nats": significant(copies * (NOISE + log_std), 6), "kl_stderr_nats": significant(error, 3)}
    return pd.DataFrame({"position": np.arange(1, len(log_std) + 1), **nats, "share_of_past": share.round(4)})


def summary_row(kl: np.ndarray, nll: np.ndarray, log_std: np.ndarray, copies: int) -> dict[str, Any]:
    """Columns of summary.csv that the draws give: means over all positions, and U. Arguments: as `position_rows`."""
    mi = copies * bipartite_information(log_std, len(log_std) // 2)
    row: dict[str, Any] = {"mi_nats": mi, "mean_entropy_nats": copies * (NOISE + log_std.mean())}
    row["mean_kl_nats"], row["mean_kl_stderr_nats"] = mean_and_error(kl.mean(axis=1))
    row["mean_nll_nats"], row["mean_nll_stderr_nats"] = mean_and_error(nll.mean(axis=1))
    row["utilisation"], row["utilisation_stderr"] = utilisation(kl, mi)
    return row


def independent_row(log_std: np.ndarray, copies: int) -> dict[str, Any]:
    """As `summary_row`, exact, for the predictor that knows the variances but ignores the past: D_i = I(W_i; W_<i)."""
    past = -copies * log_std[None].repeat(2, axis=0)
    return summary_row(past, np.full_like(past, copies * NOISE), log_std, copies)


def with_others(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The rows of `table`, and unchanged those of all other runs in the CSV at `path`; all as text.

    UserError: no such CSV, or one with other draws, another family or another number of copies.
    """
    old = read_csv(path, list(table.columns), "evaluate all runs without --add")
    new = pd.read_csv(StringIO(table.to_csv(index=False)), dtype=str, keep_default_na=False)
    old_runs, new_runs = (pd.MultiIndex.from_frame(of[KEY]) for of in (old, new))
    both = pd.concat([old[~old_runs.isin(new_runs)], new])
    if COMMON[0] in both:
        different = both.loc[both["checkpoint"] != "", COMMON].drop_duplicates()
        if len(different) > 1:
            before, now = (row.to_dict() for _, row in different.iloc[[0, -1]].iterrows())
            raise UserError(f"--add: {path} is of {before}, these runs are of {now}: give another --out")
    return both


def evaluate(cfg: Settings, this: Run, device: torch.device) -> dict[str, np.ndarray]:
    """kl and nll of a run, (draws, L) each, and sizes: elements of its state after L/4 and L/2 tokens, and parameters.

    UserError: tensors of another model, a KL that is not finite, a batch that does not fit on the GPU.
    """
    L, copies, name = this.settings["L"], this.settings["copies"], this.settings["model"]
    model = models.build(name, copies, L)
    try:
        model.load_state_dict(training.read_checkpoint(this.folder / training.CHECKPOINT)["model"])
    except RuntimeError as error:
        raise UserError(f"the checkpoint in {this.folder} does not match model {name}: train again") from error
    model.to(device).eval()
    conditionals = families.prepare(this.family, device=device)
    try:
        kl, nll = measure(model, conditionals, copies, cfg.draws, cfg.batch, cfg.seed)
    except torch.OutOfMemoryError as error:
        what = f"{this.folder}: {cfg.batch} sequences of {L:,} tokens at a time do not fit the memory of {device}"
        raise UserError(f"{what}: lower --batch, which changes no number, or give --device cpu") from error
    if not np.isfinite(kl).all():
        raise UserError(f"{this.folder}: the KL of the model is not finite: train it again")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {
        "kl": kl,
        "nll": nll,
        "sizes": np.array([*(history_state(model.config, L // n) for n in (4, 2)), parameters]),
    }


def main(cfg: Settings) -> None:
    device = training.torch_device(cfg.device)
    training.allow_tf32(False)
    runs = [read_run(folder) for folder in cfg.runs]
    check_runs(runs)
    drawn = {"draws": cfg.draws, "draw_seed": cfg.seed}
    if cfg.add:  # before anything is computed
        mine = pd.DataFrame([this.key | this.law | drawn | {"checkpoint": this.checkpoint} for this in runs])
        with_others(mine, cfg.out / "summary.csv")
    pieces = Pieces(cfg.out / "kl.parts", drawn | {"device": device.type})  # CPU and GPU draw other numbers
    capacity = read_capacity(cfg.capacity)
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES}
    independent: dict[int, dict[str, Any]] = {}
    for this in runs:
        L, copies = this.settings["L"], this.settings["copies"]
        if not pieces.done(this.checkpoint):
            pieces.write(this.checkpoint, evaluate(cfg, this, device))
        found = pieces.read(this.checkpoint, {"kl": (cfg.draws, L), "nll": (cfg.draws, L), "sizes": (3,)})
        law = found["kl"], found["nll"], families.conditional_std(this.family).log().numpy(), copies
        earlier, size, parameters = found["sizes"].tolist()
        about = {"steps": this.step, "checkpoint": this.checkpoint} | drawn
        about |= {"state_size": size, "parameters": parameters} | this.key
        row = summary_row(*law) | this.law | about
        nothing = dict.fromkeys(about, 0) | {"model": "independent", "L": L, "checkpoint": "", "converged": True}
        independent[L] = independent_row(*law[2:]) | this.law | nothing
        row |= this.convergence(independent[L]["mean_kl_nats"])
        bounds = this.frontier(capacity, size) if earlier == size else (math.nan, math.nan)
        row["frontier_lo_nats"], row["frontier_hi_nats"] = bounds
        tables["kl"].append(position_rows(*law).assign(**this.key))
        logged = {"kl_nats": significant(this.log["kl_nats"], 4), "steps": this.settings["steps"]}
        tables["training"].append(this.log.assign(**logged, **this.key))
        tables["summary"].append(pd.DataFrame([row]))
        print(
            f"{this.folder}: mean KL {row['mean_kl_nats']:.4g} ± {row['mean_kl_stderr_nats']:.2g} nats per token, "
            f"utilisation {row['utilisation']:.3f} ± {row['utilisation_stderr']:.2g} of {row['mi_nats']:.4g} nats"
        )
    tables["summary"].append(pd.DataFrame(independent.values()))
    written: dict[str, pd.DataFrame] = {}
    for name, columns in TABLES.items():
        table = pd.concat(tables[name])[columns]
        if name == "summary":
            table = table.assign(**{column: significant(table[column], 7) for column in table.select_dtypes(float)})
        written[name] = with_others(table, cfg.out / f"{name}.csv") if cfg.add else table
    for name, table in written.items():
        path, facts = cfg.out / f"{name}.csv", {"device": str(device)}
        if cfg.add:
            facts["added_to"] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        order = [*KEY, *table.columns.intersection(["position", "step"])]
        table = table.sort_values(order, key=lambda of: of if of.name == "model" else pd.to_numeric(of))
        write_csv(path, table, cfg, **facts)
    print(f"{', '.join(f'{name}.csv' for name in TABLES)} are in {cfg.out}")


if __name__ == "__main__":
    run(main, Settings, __doc__, PRESETS)
