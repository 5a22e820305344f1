r"""The effect of the start token on I(ell; L): scores of a model with several start tokens → start_token.csv.

    python measure_mutual_info/compare_start_tokens.py --scores results/start_token/tokenizer/scores.csv \
        results/start_token/other/scores.csv --out results/start_token

Reads scores.csv of the same documents, model and X' with different --bos (score_documents.py). Writes a row for each
estimator, start token and (ell, L): mi_nats, stderr_nats (the estimate and its error, by book), and difference_nats,
difference_stderr_nats (against the first file, paired by document, the error by book).

Hardware: one CPU core, seconds. Expect for SmolLM2 on the sample's books, at L = 2ℓ: <|endoftext|> gives 0.4 to 2.4
nats more than <|im_start|> in `direct`, and 0.5 to 1.6 nats more in `vclub`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from common.cli import UserError, run
from common.record import write_csv
from common.resume import refuse_other
from measure_mutual_info.estimate_bipartite import by_book, per_document_terms
from measure_mutual_info.scoring.tables import last_part, read_provenance, read_scores

ESTIMATORS = ("direct", "vclub")


@dataclass(frozen=True)
class Settings:
    scores: tuple[Path, ...]  # scores.csv of several start tokens; the differences are against the first
    out: Path  # folder for start_token.csv

    def validate(self) -> None:
        if len(self.scores) < 2:
            raise UserError("--scores: give the scores of two start tokens or more")


def main(cfg: Settings) -> None:
    started = time.time()
    cfg.validate()
    tables, first, same = [], {}, None
    for path in cfg.scores:
        scores, _ = read_scores(path)
        record = read_provenance(path)
        asked = record["identity"] | {"bos": "any"}
        same = same or asked
        refuse_other(asked, same, path, "score the same documents with the same settings but --bos")
        book = scores.drop_duplicates("document").set_index("document")["book"]
        model = last_part(str(record["settings"]["model"]))
        names = {"source": record["source"], "model": model, "start_token": record["start_token"]}
        for estimator in ESTIMATORS:
            terms = per_document_terms(scores, estimator)
            here, off = by_book(terms, book), by_book(terms - first.setdefault(estimator, terms), book)
            columns = {"mi_nats": here.mean(), "stderr_nats": here.sem(), "difference_nats": off.mean()}
            columns |= {"difference_stderr_nats": off.sem(), "n_documents": len(terms), "n_books": len(here)}
            tables.append(pd.DataFrame(columns).reset_index().assign(**names, estimator=estimator))
    table = pd.concat(tables, ignore_index=True)
    table = table[[*names, "estimator", *table.columns.difference([*names, "estimator"], sort=False)]]
    write_csv(cfg.out / "start_token.csv", table, cfg, cfg.scores, started)
    shown = table[(table["L_tokens"] == 2 * table["ell_tokens"]) & (table["start_token"] != table["start_token"][0])]
    for row in shown.itertuples():
        print(
            f"{row.start_token}, {row.estimator}, L = {row.L_tokens}: {row.mi_nats:.2f} nats, "
            f"{row.difference_nats:+.2f} ± {row.difference_stderr_nats:.2f} against {table['start_token'][0]}"
        )


if __name__ == "__main__":
    run(main, Settings, __doc__)
