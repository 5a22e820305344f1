"""Compare models on the same books, position by position (Fig. 4, G.9): CSVs of evaluate.py → tables.

    python train_on_pg19/compare.py --losses results/fig4/losses/*.csv --out results/fig4
    python train_on_pg19/compare.py --losses results/fig4/losses/*.csv --books "held_out/1*" --out results/mine

All files must cover the same documents; files of one model are its seeds. Runs of train.py are compared after the same
number of training tokens, at the last cosine end that all of them have reached. If there is none, each model is
compared at the last cosine end that all its seeds have reached. Writes into --out:
    smooth.csv       a row for each model, seed and window of positions first … last, a quarter of a doubling wide:
                     nll_nats, per token; nats_per_unit, per byte; position_units, the window's position in bytes from
                     the start of a document
    summary.csv      a row for each model and seed: means over all positions; kind (type of model), its parameters, …
    books.csv        a row for each model, seed and book: nats_per_unit
    gap.csv          a row for each pair and window: gap_nats = loss of model_a − loss of model_b on the same documents,
                     above 0 where model_b is better, with its 95% interval over books, and over seeds if a model has
                     several (seeds_a, seeds_b)
    crossover.csv    a row for each pair: the model that leads at the last positions, and the byte from which it leads
                     (overtakes_at; empty if the other leads nowhere). lo95 is the last position before it where the
                     other model leads significantly, hi95 the first after it where this one does; empty if none
    gains.csv        a row for each model, context c and doubling of the position: gain_nats, the model's loss given
                     only the last c to 2c − 1 tokens minus its loss given all tokens; growth_nats, the gain minus the
                     gain in the previous doubling, in each book, weighted by documents. Contexts that were not measured
                     at this cosine end are left out
    gain_gaps.csv    the same for each pair: the gain of model_a minus that of model_b
    information.csv  a row for each model, seed and ℓ: I(ℓ; 2ℓ) by block entropy, the NLL of the first ℓ tokens minus
                     that of the next ℓ
    tokens.csv       a row for each model of train.py and cosine end: the loss after that many training tokens;
                     fell_nats, how much it fell since the previous end; late_gain_nats, what the full context gains
                     over its last tokens alone (--reach of evaluate.py), in the last doubling of the position, and
                     late_gain_rose_nats, how much that rose since the previous end
    token_gaps.csv   the same for each pair and doubling of the position: gap_nats; gain_gap_nats, how much more model_a
                     than model_b gains from the full context over its last tokens alone; gain_gap_rose_nats, how much
                     that rose since the previous end; gain_gap_grew_nats, how much it grew from the first of these
                     doublings to this one
Everything except nll_nats and mi_nats is in nats per byte of text, or per token if the documents have no text (column
`unit`). Standard errors are computed from the sums by book.

One CPU core, seconds. The paper: Mamba leads at early positions, GPT2 at late ones; the gap closes as models grow.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from common.cli import UserError, run
from common.record import remove_csv, write_csv
from train_on_pg19.nll import sums, tables

TABLES = ("smooth", "summary", "books", "gap", "crossover", "gains", "gain_gaps", "information", "tokens", "token_gaps")


@dataclass(frozen=True)
class Settings:
    losses: tuple[Path, ...]  # CSVs of evaluate.py, one for each model and seed
    out: Path  # folder for the tables
    pairs: tuple[str, ...] = ()  # pairs to compare, model_a:model_b; default: all pairs
    books: tuple[str, ...] = ()  # books to use: names, or patterns of names ("held_out/1*"); default: all


def wanted_pairs(cfg: Settings, names: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs to compare, (model_a, model_b). UserError: a pair with an unknown model."""
    models = sorted(set(names))
    known = {f"{a}:{b}": (a, b) for a, b in itertools.permutations(models, 2)}
    for pair in cfg.pairs:
        if pair not in known:
            raise UserError(f"--pairs {pair}: give model_a:model_b, two of {', '.join(models)}")
    return [known[pair] for pair in cfg.pairs] or list(itertools.combinations(models, 2))


def compared_after(runs: Sequence[sums.Run]) -> list[int]:
    """The number of training tokens at which each run is compared. UserError: seeds of one model share no such number.

    For runs of train.py the last number that all have in common; otherwise the last that all seeds of the model have.
    """
    trained = [set(one.ends) for one in runs if one.facts["training"]]
    shared = set.intersection(*trained) if trained else set()
    if trained and not shared:
        print("the runs share no number of training tokens: each model is compared at its own last one")
    found = []
    for this in runs:
        ends = set.intersection(*(set(one.ends) for one in runs if one.name == this.name))
        if not ends:
            alike = "train them equally long, or compare them separately"
            raise UserError(f"--losses: the seeds of {this.name} share no number of training tokens: {alike}")
        tokens = max(shared if shared and this.facts["training"] else ends)
        if tokens < max(this.ends):
            left_out = [c for c in this.ends[max(this.ends)].with_last if c not in this.ends[tokens].with_last]
            said = f", without the gain over the last {', '.join(map(str, left_out))} tokens" * bool(left_out)
            print(f"{this.name}, seed {this.seed}: was trained further, and is compared after {tokens:,} tokens{said}")
        found.append(tokens)
    return found


def main(cfg: Settings) -> None:
    runs = [sums.read(path, cfg.books) for path in cfg.losses]
    sums.refuse_others(runs)
    pairs = wanted_pairs(cfg, [one.name for one in runs])
    text, reach = runs[0].text, runs[0].facts["reach"]
    done, models, ends = defaultdict(list), defaultdict(list), defaultdict(list)
    for this, tokens in zip(runs, compared_after(runs), strict=True):
        one, training = this.ends[tokens], this.facts["training"]
        models[one.name].append(one)
        facts = {"kind": this.facts["kind"], "parameters": this.facts["parameters"]}
        facts |= {"steps": tokens // training["batch_tokens"] if training else None}
        facts |= {"dtype": this.facts["dtype"], "source": this.facts["source"]}
        done["smooth"].append(tables.smooth(one, text))
        done["summary"].append(tables.summary(one, text, **facts))
        done["books"].append(tables.by_book(one, text))
        done["information"].append(tables.information(one, text))
        if training:
            ends[one.name].append(this.ends)
    for model in models.values():
        done["gains"] += tables.gains(model, text)
    for model in ends.values():
        done["tokens"].append(tables.tokens(model, reach, text))
    for a, b in pairs:
        done["gain_gaps"] += tables.gain_gaps(models[a], models[b], text)
        if a in ends and b in ends:
            done["token_gaps"].append(tables.token_gaps(ends[a], ends[b], reach, text))
        gap, crossing = tables.gap(models[a], models[b], text)
        done["gap"].append(gap)
        done["crossover"].append(crossing)
        at, leader = crossing.loc[0, "overtakes_at"], crossing.loc[0, "leads_at_the_end"]
        by = f"by {abs(gap['gap_nats'].iloc[-1]):.3g} nats per {text.unit} in the last window"
        print(f"{leader} leads {f'from {text.unit} {at:.4g} on' if at == at else 'everywhere'}; {by}")
    for name in TABLES:
        path = cfg.out / f"{name}.csv"
        if done[name] and len(table := pd.concat(done[name])):
            write_csv(path, table, cfg, cfg.losses)
        else:
            remove_csv(path)


if __name__ == "__main__":
    run(main, Settings, __doc__)
