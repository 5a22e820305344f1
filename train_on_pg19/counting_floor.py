r"""How well counting predicts the held-out books: a PPM model's loss in nats per byte, a baseline for Figs. 4 and G.9.

    python train_on_pg19/counting_floor.py --losses results/fig4/losses/gpt2_0.csv \
        --documents data/documents/pg19_4096 --out results/fig4

PPMd (variant H of 7-Zip, from pyppmd) predicts a byte from counts of up to `order` bytes before it, and keeps learning
from the document that it reads. It compresses the text of all training documents, followed by one held-out document;
the growth of the output is that document's loss. Every document follows the training text directly, without the other
held-out documents, as for the models of train.py.

Writes into --out, the folder of compare.py:
    counting.csv        a row for each order: nats_per_byte and its standard error over books
    counting_books.csv  a row for each book: nats_per_byte of the best order
    margin.csv          a row for each model of books.csv: margin_nats, the loss of the best order minus that of the
                        model, in nats per byte, with its 95% interval over books (and seeds if there are several);
                        n_books_better, the number of books on which the model is better
Give --max-documents-per-book, --n-documents and --seed the values used for evaluate.py, and --books as for compare.py.

Hardware: one CPU core, one second per megabyte and order; memory: --megabytes. Unix only (it forks).
"""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyppmd
from tqdm import tqdm

from common.cli import UserError, run
from common.record import read_csv, write_csv
from common.tokenizer import load_tokenizer
from train_on_pg19.nll import curves, sums
from train_on_pg19.training import books

BOOKS = ["model", "book", "unit", "seed", "nats_per_unit", "units"]  # columns of books.csv; numbers from the fourth on


@dataclass(frozen=True, kw_only=True)
class Settings(books.Choice):
    losses: Path  # CSV of evaluate.py for a run of train.py; gives its held-out books and its L
    documents: Path  # folder that prepare_dataset.py wrote, with the documents that the run was trained on
    out: Path  # the folder of compare.py
    orders: tuple[int, ...] = (4, 6, 8, 12, 16, 24)  # maximum bytes of context
    megabytes: int = 1024  # memory for the counts; if they do not fit, PPMd silently starts over

    def validate(self) -> None:
        if min(self.orders) < 2 or max(self.orders) > 64:
            raise UserError(f"--orders {' '.join(map(str, self.orders))}: from 2 to 64 bytes")
        if not 1 <= self.megabytes < 4096:
            raise UserError(f"--megabytes {self.megabytes}: from 1 to 4,095")
        super().validate()


def growth(training: bytes, documents: list[bytes], order: int, megabytes: int) -> np.ndarray:
    """Bytes by which PPMd's output for `training` grows if a document follows, for each document, (documents,).

    A process is forked for each document, so that all start from the counts of the training text. The few final bytes
    that an encoder always writes are included in what is subtracted.
    """
    encoder = pyppmd.Ppmd7Encoder(order, megabytes << 20)
    encoder.encode(training)
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)

    def size(text: bytes) -> int:
        def compress() -> None:
            send.send(len(encoder.encode(text)) + len(encoder.flush()))

        child = context.Process(target=compress)
        child.start()
        child.join()
        if child.exitcode:
            raise UserError(f"a process that compressed a document ended with {child.exitcode}: lower --megabytes")
        return receive.recv()

    nothing = size(b"")
    return np.array([size(text) - nothing for text in tqdm(documents, desc=f"order {order}", unit="document")])


def main(cfg: Settings) -> None:
    run = sums.read(cfg.losses).facts["training"]
    if not run:
        raise UserError(f"--losses {cfg.losses}: not of a run of train.py, so it does not say what is held out")
    L = run["L"]
    documents, facts = books.open_books(cfg.documents, L)
    if books.fingerprint(cfg.documents) != run["documents"]:
        raise UserError(f"{cfg.documents}: not the documents that the run of {cfg.losses} was trained on")
    training, evaluation = books.split(documents, run["held_out_books"], L)
    evaluation = books.drawn(documents, evaluation, cfg)
    tokenizer = load_tokenizer(facts["tokenizer"])
    ids = documents.with_format("numpy", columns=["input_ids"])

    def texts(rows: np.ndarray) -> list[bytes]:
        return [tokenizer.text(ids[int(row)]["input_ids"][:L].tolist()).encode() for row in rows]

    learned, held = b"".join(texts(training)), texts(evaluation)
    names = books.book_of_each(documents)[evaluation]
    lengths = curves.book_sums(np.array([[len(text)] for text in held]), names)[:, 0]
    evaluated = read_csv(cfg.out / "books.csv", BOOKS, "make it with train_on_pg19/compare.py", BOOKS[3:])
    wanted = dict(zip(np.unique(names), lengths, strict=True))
    units = evaluated.set_index("book")["units"]
    other = set(units.index) != set(wanted) or (units != units.index.map(wanted)).any()
    if other or set(evaluated["unit"]) != {"byte"}:
        raise UserError(
            f"{cfg.out / 'books.csv'}: not made from these documents: give --books, --n-documents, "
            "--max-documents-per-book and --seed as evaluate.py and compare.py had them"
        )
    print(f"{len(learned):,} bytes to count, {lengths.sum():,.0f} of {len(held):,} held-out documents")
    rows, by_order, of_each = [], [], np.unique(names)
    for order in cfg.orders:
        nats = growth(learned, held, order, cfg.megabytes) * 8 * np.log(2)
        by_order.append(curves.book_sums(nats[:, None], names))
        mean, error = curves.mean_by_book(by_order[-1][:, 0], lengths)
        rows.append({"order": order, "nats_per_byte": mean.round(5), "stderr_nats_per_byte": error.round(5)})
        print(f"order {order}: {mean:.4g} ± {error:.2g} nats per byte")
    table = pd.DataFrame(rows).assign(L=L, n_documents=len(held), n_books=len(lengths), training_bytes=len(learned))
    best = int(table["nats_per_byte"].argmin())
    rates, margins = by_order[best][:, 0] / lengths, []
    by_book = pd.DataFrame({"order": cfg.orders[best], "book": of_each, "nats_per_byte": rates.round(6)})
    for model, of in evaluated.groupby("model", sort=False):
        losses = of.pivot(index="seed", columns="book", values="nats_per_unit")[of_each].to_numpy()
        found = curves.gap([by_order[best]], [(one * lengths)[:, None] for one in losses], lengths)
        columns = {"margin_nats": found.gap, "stderr_nats": found.error, "lo95": found.lo95, "hi95": found.hi95}
        about = {"model": model, "L": L, "seeds": len(losses)} | {name: float(x[0]) for name, x in columns.items()}
        better = int((losses.mean(axis=0) < rates).sum())
        margins.append(about | {"n_books_better": better, "n_books": len(rates)})
    about = {"source": facts["source"], "tokenizer": facts["tokenizer"]}
    tables = {"counting": table, "counting_books": by_book, "margin": pd.DataFrame(margins).round(5)}
    for name, made in tables.items():
        write_csv(cfg.out / f"{name}.csv", made, cfg, [cfg.documents / "state.json"], **about)


if __name__ == "__main__":
    run(main, Settings, __doc__)
