"""Which lower-variance options of the bipartite estimators (Eqs. 6, 7) are worth their tokens, by measurement.

    python benchmarks/variance.py          # two idle CPU cores: about 10 minutes of SmolLM2-135M, then 20 s

At each L = 2ℓ, on a language model and on a process of known information (noisy Santa Fe, its predictor wrong about
the first token behind BOS), beside what score_documents.py and estimate_bipartite.py do:

negatives    k texts X' for one Y in vCLUB. A document's term has a variance V_b between documents and V_w over X'. The
             scored documents lend X' to each other, so what a document adds as a Y and as an X' is counted together,
             V_d, and only the rest V_e falls: the mean over n documents has (V_d + V_e/k)/n.
             Cost: L_max + S + kS tokens a document, S those of all branches.
covariates   a regression on quantities whose mean over the corpus is known: a term's variance falls to 1 − R². Only for
             a corpus far larger than the scored sample: where all of it is scored, the sample's mean is the corpus's
             mean and nothing changes. "within books": terms and covariates less the means of their books, which leaves
             out what only tells books apart. logq_y, log q(Y|BOS), costs model tokens itself, about a third of a
             document's, and so pays only where R² > 1/3.
             Not offered: martingale covariates, Σ_i f(w_i) − E_q f(w_i). Their mean is 0 under q, but documents come
             from p: with any real model they carry the unknown distance of q from p into the estimate.
drop         leave the first k tokens of Y out of both terms of direct, which estimates I(X;Y) − I(X;Y_≤k): where BOS
             misleads the model about a Y that begins in mid-sentence. Beside it the 2-gram blend of Eq. B.7, and β of
             a power law plus a constant, which takes up a cost of BOS that is the same at every L.

Writes results/benchmarks/variance.csv. A ratio above 1 means that the option is better; intervals are 95%, by a
bootstrap over documents. Rows without L_tokens hold the geometric mean over L >= 32 and whether the option pays. The
model's log-probabilities stay in --store (a killed run goes on), so that all else can be run again in seconds.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from common.cli import UserError, run
from common.documents import open_documents
from common.powerlaw import NoFitError, covariance_of_mean, fit_law
from common.record import write_csv
from common.tokenizer import load_tokenizer
from measure_mutual_info import score_documents
from measure_mutual_info.calibration.processes import PREDICTORS, ExactBackend, NoisySantaFe
from measure_mutual_info.counting.entropy import grassberger_entropy
from measure_mutual_info.counting.windows import window_keys
from measure_mutual_info.scoring import passes, score_store
from measure_mutual_info.scoring.tables import read_scores

FROM_L = 32  # tokens: below it no error bar is decided
AT_DOCUMENTS = 1000  # at which bias and spread are added up to one error
K_NEGATIVES = (2, 4, 8)
DROPS = (1, 2, 4, 8)  # tokens, fewer than FROM_L / 2
NGRAM_WEIGHT = 0.8  # of the 2-gram blend (App. B.IV)
BREAK_EVEN = {"logq_y": 1.5}  # 1 / (1 − 1/3), see above; 1 for all else
COLUMNS = ["benchmark", "data", "option", "estimator", "L_tokens", "measure", "unit", "baseline", "baseline_value"]
COLUMNS += ["our_value", "our_lo95", "our_hi95", "ratio", "ratio_lo95", "ratio_hi95", "pays"]
EQUAL = "variance, equal documents"


@dataclass(frozen=True)
class Settings:
    documents: Path | None = Path("data/documents/books_2048")
    """documents of prepare_dataset.py; without them only the process is measured"""
    model: str = "data/sample/model/SmolLM2-135M-Instruct.Q4_1.gguf"
    """hub id, folder or .gguf file"""
    scores: Path | None = Path("results/fig2b/scores.csv")
    """scores.csv of these documents: covariates on more of them than are scored here"""
    out: Path = Path("results/benchmarks/variance.csv")
    store: Path = Path("data/benchmarks/variance")
    """folder for the model's log-probabilities"""
    L_max: int = 1024
    """tokens"""
    n_documents: int = 32
    """not in the paper: drawn at random, over all books"""
    negatives: int = 3
    """not in the paper: X' scored for each Y, at least 2"""
    process_documents: int = 4000
    """0: no process"""
    bos: str | None = None
    """as in score_documents.py"""
    bootstrap: int = 1000
    seed: int = 0

    @property
    def points(self) -> list[tuple[int, int]]:
        return passes.grid(self.L_max, self.L_max, ratios=(2,))

    def validate(self) -> None:
        if self.out.suffix != ".csv":
            raise UserError(f"--out {self.out}: give the name of a .csv file")
        if self.negatives < 2:
            raise UserError(f"--negatives {self.negatives}: a variance over X' needs at least 2")
        if self.L_max < 4 * FROM_L:
            raise UserError(f"--L-max {self.L_max}: a fit from L = {FROM_L} needs at least {4 * FROM_L}")
        if self.documents is None and self.process_documents < 2:
            raise UserError("nothing to measure: give --documents, or --process-documents of at least 2")


def several_x_donors(books: np.ndarray, count: int, seed: int) -> np.ndarray:
    """(count, n) x_donors as of `passes.x_donors`, no document twice the x_donor of another. UserError: too many."""
    found: list[np.ndarray] = []
    for attempt in range(1000 * count):
        candidate = passes.x_donors(books, seed + attempt)
        if all((candidate != other).all() for other in found):
            found.append(candidate)
        if len(found) == count:
            return np.array(found)
    raise UserError(f"--negatives {count}: {len(books)} documents are too few for so many different X' a Y")


def model_scorer(cfg: Settings) -> tuple[score_documents.Sample, np.ndarray, Callable]:
    """The drawn documents, their x_donors (k, n), and token_logprobs of all with x_donor r, stored group by group."""
    asked = {"documents": cfg.documents, "model": cfg.model, "out": cfg.out, "n_documents": cfg.n_documents}
    asked |= {"L_max": cfg.L_max, "ell_max": cfg.L_max, "ratios": (2,), "seed": cfg.seed, "bos": cfg.bos}
    asked = score_documents.Settings(**asked)
    sample = score_documents.draw_sample(asked)
    x_donor = several_x_donors(sample.books, cfg.negatives, cfg.seed)
    start, revision = score_documents.check_model(asked, sample)
    store = score_store.ScoreStore(cfg.store, score_documents.scoring_manifest(asked, sample, start.id, revision))
    store.begin()
    load = functools.cache(lambda: score_documents.load_backend(asked, sample, start.id))
    split = passes.branches(cfg.points)
    cuts = np.cumsum([end - ell for ell, end in split])

    def token_logprobs(r: int, documents: np.ndarray, y_recipients: np.ndarray) -> passes.TokenLogprobs:
        starts, parts = range(0, len(documents), asked.group_size), []
        for number, start in enumerate(tqdm(starts, desc=f"X' {r + 1} of {len(x_donor)}", unit="group")):
            rows, number = slice(start, start + asked.group_size), number + r * len(starts)
            if not store.done(number):
                got = load().token_logprobs(documents[rows], y_recipients[rows], split)
                stacked = {"own": got.own, "marginal": np.hstack(got.marginal), "other": np.hstack(got.other)}
                store.write(number, stacked)
            count = len(documents[rows])
            shapes = {"own": (count, cfg.L_max), "marginal": (count, cuts[-1]), "other": (count, cuts[-1])}
            parts.append(store.read(number, shapes))
        own, *branches = (np.concatenate([part[name] for part in parts]) for name in ("own", "marginal", "other"))
        return passes.TokenLogprobs(own, *(np.split(some, cuts[:-1], axis=1) for some in branches))

    return sample, x_donor, token_logprobs


def score(ids: np.ndarray, x_donor: np.ndarray, token_logprobs: Callable) -> list[passes.TokenLogprobs]:
    """Log-probabilities of the documents behind each of their k x_donors, every row in the order of the Ys."""
    scored = [token_logprobs(r, ids, ids[y_recipient]) for r, y_recipient in enumerate(np.argsort(x_donor, axis=1))]
    return [got._replace(other=[rows[p] for rows in got.other]) for got, p in zip(scored, x_donor, strict=True)]


def direct_without(scored: passes.TokenLogprobs, points: list[tuple[int, int]], drop: int) -> np.ndarray:
    """The documents' terms of direct without the first `drop` tokens of Y, (n, points with L >= FROM_L), nats."""
    kept = [(i, ell, L) for i, (ell, L) in enumerate(points) if L >= FROM_L]
    given = [scored.own[:, ell + drop : L].sum(axis=1) for _, ell, L in kept]
    return np.stack(given, axis=1) - np.stack([scored.marginal[i][:, drop:].sum(axis=1) for i, _, _ in kept], axis=1)


def resamples(n: int, cfg: Settings) -> np.ndarray:
    """Weights (1 + bootstrap, n): the documents as they are, then each as often as drawn; every row sums to n."""
    rng = np.random.default_rng(cfg.seed)
    return np.vstack([np.ones((1, n)), rng.multinomial(n, np.full(n, 1 / n), cfg.bootstrap)])


def variance(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Variance over documents in each resample: weights (B, n), values (n, p) → (B, p)."""
    n, values = len(values), values - values.mean(axis=0)
    return (weights @ values**2 / n - (weights @ values / n) ** 2) * n / (n - 1)


def compare(what: dict, L: np.ndarray, baseline: np.ndarray, ours: np.ndarray, needed: float | None) -> Iterator[dict]:
    """A row for each L, and, given the ratio that is `needed`, one for their mean; baseline, ours: (B, L) resampled."""
    tiny = 1e-9 * np.abs(baseline).max()  # estimated from a handful of documents, a variance can come out below 0
    ratio = np.maximum(baseline, tiny) / np.maximum(ours, tiny)
    lo, hi = np.quantile(ratio[1:], [0.025, 0.975], axis=0)
    for i, length in enumerate(L.tolist()):
        values = {"baseline_value": baseline[0, i], "our_value": ours[0, i]}
        yield what | values | {"L_tokens": length, "ratio": ratio[0, i], "ratio_lo95": lo[i], "ratio_hi95": hi[i]}
    if needed is not None:
        mean = np.exp(np.log(ratio[:, L >= FROM_L]).mean(axis=1))
        lo, hi = np.quantile(mean[1:], [0.025, 0.975])
        pays = "yes" if lo > needed else "no" if mean[0] <= needed else "open"
        yield what | {"ratio": mean[0], "ratio_lo95": lo, "ratio_hi95": hi, "pays": pays}


def vclub_variances(vclub: np.ndarray, x_donor: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """V_b, V_w, V_d, V_e of the docstring on top, (B, p) nats² each. vclub: (k, n, p) terms, row a Y; x_donor: (k, n).

    A term is μ + y_i + x_j + e_ij: V_w = V_x + V_e, and V_d = Var(y + x) = V_b + V_x + 2 Cov(y, x) of one document.
    """
    k, n, _ = vclub.shape
    mean, V_w = vclub.mean(axis=0), weights @ vclub.var(axis=0, ddof=1) / n
    V_b = variance(weights, mean) - V_w / k
    # x shows in how the Ys that had this X' deviate from the means of their k terms, to which it gave 1/k itself.
    y_recipient = np.argsort(x_donor, axis=1)
    deviation = np.stack([(v - mean)[f] for v, f in zip(vclub, y_recipient, strict=True)]) / (1 - 1 / k)
    products = (deviation.sum(axis=0) ** 2 - (deviation**2).sum(axis=0)) / (k * (k - 1))
    V_x, x = weights @ products / n, deviation.mean(axis=0)
    covariance = (variance(weights, mean + x) - variance(weights, mean - x)) / 4
    return {"V_b": V_b, "V_w": V_w, "V_d": V_b + V_x + 2 * covariance, "V_e": V_w - V_x}


def rows_of_negatives(cfg: Settings, scored: list[passes.TokenLogprobs], x_donor: np.ndarray) -> Iterator[dict]:
    L = np.array(cfg.points)[:, 1]
    terms = [passes.terms(some, cfg.points) for some in scored]
    vclub = np.stack([some["logq_y_given_x"] - some["logq_y_given_other_x"] for some in terms])
    V = vclub_variances(vclub, x_donor, resamples(x_donor.shape[1], cfg))
    what = {"option": "negatives", "estimator": "vclub", "unit": "nats²"}
    now, quoted = V["V_d"] + V["V_e"], V["V_b"] + V["V_w"]
    lo, hi = np.quantile((V["V_w"] / quoted)[1:], [0.025, 0.975], axis=0)
    for row in zip(L.tolist(), (V["V_w"] / quoted)[0], lo, hi, strict=True):
        share = dict(zip(("L_tokens", "our_value", "our_lo95", "our_hi95"), row, strict=True))
        yield what | share | {"measure": "share of X' in a term's variance, V_w/(V_b + V_w)", "unit": "1"}
    measure = {"measure": "variance of the mean × documents", "baseline": "as quoted, V_b + V_w"}
    yield from compare(what | measure, L, quoted, now, None)
    for k in K_NEGATIVES:
        cost = 1 + (k - 1) * sum(L - ell for ell, L in cfg.points) / passes.tokens_a_document(cfg.points)
        what |= {"option": f"{k} negatives", "baseline": "1 negative"}
        ours = V["V_d"] + V["V_e"] / k
        yield from compare(what | {"measure": EQUAL}, L, now, ours, None)
        yield from compare(what | {"measure": f"variance, equal tokens ({cost:.2f} ×)"}, L, now, ours * cost, 1)


def residual_share(weights: np.ndarray, terms: np.ndarray, covariates: list[np.ndarray]) -> np.ndarray:
    """1 − R², adjusted for the number of covariates: terms and covariates (n, p) each → (B, p)."""
    z = np.stack([terms, *covariates], axis=2)
    z = (z - z.mean(axis=0)) / np.where(z.std(axis=0) > 0, z.std(axis=0), 1)
    n, p, q = z.shape
    mean = (weights @ z.reshape(n, -1) / n).reshape(-1, p, q)
    square = (weights @ (z[..., :, None] * z[..., None, :]).reshape(n, -1) / n).reshape(-1, p, q, q)
    covariance = square - mean[..., :, None] * mean[..., None, :]
    beside = covariance[..., 1:, 0]
    explained = np.einsum("bpi,bpij,bpj->bp", beside, np.linalg.pinv(covariance[..., 1:, 1:], hermitian=True), beside)
    return (1 - explained / covariance[..., 0, 0]) * (n - 1) / (n - q)


def free_covariates(ids: np.ndarray, others: np.ndarray, points, log_f: np.ndarray, letters: np.ndarray | None) -> dict:
    """Quantities that need no model, (n, points) each; ids, others: (n, L_max) documents, and those that lend X'.

    unigram: Σ_Y log f(w). characters: of Y, from those of each token. overlap: Σ −log f(w) over the tokens of Y that
    occur in X too; overlap_other: in X'.
    """

    def overlap(Y: np.ndarray, X: np.ndarray) -> np.ndarray:
        return -np.array([log_f[y[np.isin(y, x)]].sum() for y, x in zip(Y, X, strict=True)])

    split = [(ids[:, :ell], others[:, :ell], ids[:, ell:L]) for ell, L in points]
    found = {"unigram": [log_f[Y].sum(axis=1) for _, _, Y in split]}
    if letters is not None:
        found["characters"] = [letters[Y].sum(axis=1) for _, _, Y in split]
    found["overlap"] = [overlap(Y, X) for X, _, Y in split]
    found["overlap_other"] = [overlap(Y, X) for _, X, Y in split]
    return {name: np.stack(values, axis=1) for name, values in found.items()}


def rows_of_covariates(cfg: Settings, points: list, terms: dict, known: dict, books: np.ndarray) -> Iterator[dict]:
    """terms as of passes.terms, known as of `free_covariates`; books: the book of each document."""
    L, n = np.array(points)[:, 1], len(books)
    weights = resamples(n, cfg)
    free = [name for name in known if not name.startswith("overlap")]
    known = known | {"logq_y": terms["logq_y"]}
    for estimator, subtracted in (("direct", "logq_y"), ("vclub", "logq_y_given_other_x")):
        every = known | {"term": terms["logq_y_given_x"] - terms[subtracted]}
        among = {f"{n}": every}
        if len(set(books)) < n:
            means = {name: pd.DataFrame(rows).groupby(books).transform("mean") for name, rows in every.items()}
            among[f"{n}, within books"] = {name: rows - means[name].to_numpy() for name, rows in every.items()}
        overlap = ["overlap", "overlap_other"] if estimator == "vclub" else ["overlap"]
        for documents, values in among.items():
            spread = variance(weights, values["term"])
            for chosen in [*([name] for name in free), overlap, [*free, *overlap], ["logq_y"]]:
                rest = residual_share(weights, values["term"], [values[name] for name in chosen])
                what = {"option": " + ".join(chosen), "estimator": estimator, "measure": f"{EQUAL} ({documents})"}
                what |= {"unit": "nats²", "baseline": "no covariate"}
                yield from compare(what, L, spread, spread * rest, BREAK_EVEN.get(chosen[0], 1))


def rows_of_drops(cfg: Settings, scored: passes.TokenLogprobs, first2_nats: float, process=None) -> Iterator[dict]:
    """Direct with tokens dropped, and with the 2-gram blend, beside direct as it is; against the truth if known."""
    points = [(ell, L) for ell, L in cfg.points if L >= FROM_L]
    L, n = np.array(points)[:, 1], len(scored.own)
    weights = resamples(n, cfg)
    ways = {f"drop {drop}": direct_without(scored, cfg.points, drop) for drop in (0, *DROPS)}
    first2 = passes.terms(scored, cfg.points)["logq_y_first2"][:, -len(points) :]
    ways["2-gram blend"] = ways["drop 0"] + NGRAM_WEIGHT * (first2 + first2_nats)
    aim, name = ways["drop 0"].mean(axis=0), "drop 0"
    if process is not None:
        aim, name = np.array([process.mutual_information(ell, length) for ell, length in points]), "truth"
    before = variance(weights, ways["drop 0"])
    for option, values in ways.items():
        what = {"option": option, "estimator": "direct", "baseline": name}
        mean, half = values.mean(axis=0), 1.96 * values.std(axis=0, ddof=1) / np.sqrt(n)
        rows = [("I", "nats", *row) for row in zip(L.tolist(), aim, mean, mean - half, mean + half, strict=True)]
        covariance, shrinkage = covariance_of_mean(values)
        for law in ("power", "power_plus_constant"):
            try:
                fits = [fit_law(law, L, some, covariance, n, shrinkage) for some in (aim, mean)]
            except NoFitError as error:
                print(f"{option}: no {law} law fits: {error}")
                continue
            wanted, found = (fit.parameters["beta"] for fit in fits)
            rows.append((f"beta, {law}", "1", None, wanted[0], *found))
        for row in rows:
            names = ("measure", "unit", "L_tokens", "baseline_value", "our_value", "our_lo95", "our_hi95")
            yield what | dict(zip(names, row, strict=True))
        after, what = variance(weights, values), what | {"unit": "nats²", "baseline": "drop 0"}
        yield from compare(what | {"measure": EQUAL}, L, before, after, None)
        if process is not None and option != "drop 0":
            errors = [
                ((weights @ some / n - aim) ** 2 - spread / n).clip(0) + spread / AT_DOCUMENTS
                for some, spread in ((ways["drop 0"], before), (values, after))
            ]
            yield from compare(what | {"measure": f"squared error, {AT_DOCUMENTS} documents"}, L, *errors, 1)


def corpus_counts(rows: list, vocabulary: int) -> tuple[np.ndarray, float]:
    """log f of each token, (vocabulary,), and the 2-gram entropy in nats, from documents of tokens."""
    tokens = np.concatenate(rows)
    keys = [window_keys(np.asarray(row), (0, 1), vocabulary) for row in rows]
    _, bigrams = np.unique(np.concatenate(keys), return_counts=True)
    log_f = np.log(np.maximum(np.bincount(tokens, minlength=vocabulary), 1) / len(tokens))
    return log_f, grassberger_entropy(*np.unique(bigrams, return_counts=True))


def rows_of_model(cfg: Settings) -> Iterator[dict]:
    table, facts = open_documents(cfg.documents)
    rows = dict(zip(table["document"], table["input_ids"], strict=True))
    log_f, first2_nats = corpus_counts(list(rows.values()), facts["tokenizer_vocab_size"])
    if cfg.scores is not None:  # before the scoring, which a wrong file should not cost
        scores, _ = read_scores(cfg.scores)
        scores = scores[scores["L_tokens"] == 2 * scores["ell_tokens"]]
        lender = scores.drop_duplicates("document").set_index("document")["x_donor"].sort_index()
        if unknown := {*lender.index, *lender} - set(rows):
            raise UserError(f"{cfg.scores}: {min(unknown)} is no document of {cfg.documents}: give the scores of these")
    sample, x_donor, token_logprobs = model_scorer(cfg)
    scored = score(sample.ids, x_donor, token_logprobs)
    yield from rows_of_negatives(cfg, scored, x_donor)
    yield from rows_of_drops(cfg, scored[0], first2_nats)
    points, terms = cfg.points, passes.terms(scored[0], cfg.points)
    ids, others, books = sample.ids, sample.ids[x_donor[0]], sample.books
    if cfg.scores is not None:
        wide = scores.pivot(index="document", columns=["ell_tokens", "L_tokens"]).sort_index(axis=1)
        terms = {name: wide[f"{name}_nats"].to_numpy() for name in passes.TERMS}
        points = list(wide["logq_y_nats"].columns)
        ids, others = (np.array([rows[name][: points[-1][1]] for name in some]) for some in (lender.index, lender))
        books = wide["book"].iloc[:, 0].to_numpy()
    try:
        tokenizer = load_tokenizer(cfg.model)
        letters = np.array([len(tokenizer.text([i])) for i in range(len(log_f))], dtype=float)
    except UserError:  # a model without a tokenizer
        letters = None
    yield from rows_of_covariates(cfg, points, terms, free_covariates(ids, others, points, log_f, letters), books)


def rows_of_process(cfg: Settings, process: NoisySantaFe) -> Iterator[dict]:
    ids = process.sample(np.random.default_rng(cfg.seed), cfg.process_documents, cfg.L_max)
    x_donor = several_x_donors(np.arange(len(ids)), cfg.negatives, cfg.seed)
    backend, split = ExactBackend(process, PREDICTORS["wrong_bos"]), passes.branches(cfg.points)
    scored = score(ids, x_donor, lambda _, *texts: backend.token_logprobs(*texts, split))
    log_f, first2_nats = corpus_counts(list(ids), 2 * process.n_keys)
    known = free_covariates(ids, ids[x_donor[0]], cfg.points, log_f, None)
    yield from rows_of_negatives(cfg, scored, x_donor)
    yield from rows_of_covariates(cfg, cfg.points, passes.terms(scored[0], cfg.points), known, np.arange(len(ids)))
    yield from rows_of_drops(cfg, scored[0], first2_nats, process)


def main(cfg: Settings) -> None:
    started = time.time()
    cfg.validate()
    rows = []
    if cfg.documents is not None:
        rows += [{"data": Path(cfg.model).name} | row for row in rows_of_model(cfg)]
    if cfg.process_documents:
        process = NoisySantaFe()
        rows += [{"data": f"{process.name}, wrong_bos"} | row for row in rows_of_process(cfg, process)]
    table = pd.DataFrame(rows).assign(benchmark="variance")[COLUMNS].astype({"L_tokens": "Int64"})
    inputs = [path for path in (cfg.documents, cfg.scores) if cfg.documents is not None and path is not None]
    write_csv(cfg.out, table.round(5), cfg, inputs=inputs, started=started)
    shown = ["data", "option", "estimator", "measure", "ratio", "ratio_lo95", "ratio_hi95", "pays"]
    print(table.loc[table["pays"].notna(), shown].round(3).to_string(index=False))
    print(f"wrote {cfg.out}")


if __name__ == "__main__":
    run(main, Settings, __doc__)
