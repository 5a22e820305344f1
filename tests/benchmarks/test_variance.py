from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks import variance
from measure_mutual_info import score_documents
from measure_mutual_info.calibration.processes import PREDICTORS, ExactBackend, NoisySantaFe
from measure_mutual_info.estimate_bipartite import per_document_terms
from measure_mutual_info.scoring import passes
from tests.conftest import call_script, one_line_error, tiny_model, write_documents

SCRIPT = "benchmarks/variance.py"
PROCESS_ONLY = ("--documents", "None", "--L-max", 128, "--bootstrap", 50)


def terms_of_a_process(documents: int = 6, k: int = 2):
    process, cfg = NoisySantaFe(), variance.Settings(L_max=128)
    ids = process.sample(np.random.default_rng(0), documents, cfg.L_max)
    x_donor = variance.several_x_donors(np.arange(documents), k, 0)
    backend = ExactBackend(process, PREDICTORS["wrong_bos"])
    split = passes.branches(cfg.points)
    return process, cfg, ids, x_donor, variance.score(ids, x_donor, lambda _, *t: backend.token_logprobs(*t, split))


def test_rows_are_those_of_the_ys():
    """Every Y behind each of its x_donors, computed one pair at a time."""
    process, cfg, ids, x_donor, scored = terms_of_a_process()
    for r, got in enumerate(scored):
        for i, j in enumerate(x_donor[r]):
            for branch, (ell, L) in zip(got.other, cfg.points, strict=True):
                alone = process.logprobs(np.concatenate([ids[j, :ell], ids[i, ell:L]])[None], PREDICTORS["wrong_bos"])
                assert branch[i] == pytest.approx(alone[0, ell:], abs=1e-12)


def test_dropping_nothing_is_direct():
    _, cfg, ids, x_donor, scored = terms_of_a_process()
    values = passes.terms(scored[0], cfg.points)
    names = np.array([str(i) for i in range(len(ids))])
    scores = pd.DataFrame({"document": names.repeat(len(cfg.points))})
    scores["x_donor"] = names[x_donor[0]].repeat(len(cfg.points))
    scores["ell_tokens"], scores["L_tokens"] = np.tile(np.array(cfg.points).T, len(ids))
    for name, value in values.items():
        scores[f"{name}_nats"] = value.ravel()
    wanted = per_document_terms(scores, "direct").to_numpy()[:, -3:]
    assert variance.direct_without(scored[0], cfg.points, 0) == pytest.approx(wanted, abs=1e-9)
    # Without its first token Y loses exactly what that token adds to both terms.
    first = np.stack(
        [scored[0].own[:, ell] - scored[0].marginal[ell.bit_length() - 2][:, 0] for ell in (16, 32, 64)], 1
    )
    assert variance.direct_without(scored[0], cfg.points, 1) == pytest.approx(wanted - first, abs=1e-9)
    rows = list(variance.rows_of_drops(cfg, scored[0], 7.0))
    blend = [row["our_value"] for row in rows if row["option"] == "2-gram blend" and row["measure"] == "I"]
    assert blend == pytest.approx(per_document_terms(scores, "direct_corrected", 7.0).mean().to_numpy()[-3:], abs=1e-9)


class TestNegatives:
    def test_x_donors_differ(self):
        books = np.repeat(list("abc"), 4)
        x_donor = variance.several_x_donors(books, 3, 0)
        assert x_donor.shape == (3, 12)
        for row in x_donor:
            assert sorted(row) == list(range(12))
            assert (books[row] != books).all()
        assert all(len(set(column)) == 3 for column in x_donor.T)

    def test_variance_of_the_mean(self):
        """Terms of known parts: V_d + V_e/k is the variance of the mean over many samples, y and x correlated."""
        rng, n, k, samples = np.random.default_rng(0), 24, 3, 1500
        x_donor = variance.several_x_donors(np.arange(n), k, 0)
        weights, found, means = np.ones((1, n)), [], []
        for _ in range(samples):
            y, fresh = rng.normal(0, 2, n), rng.normal(0, 1, n)
            x = fresh - 0.5 * y  # V_b = 4, V_x = 2, covariance −2
            terms = (y + x[x_donor] + rng.normal(0, 3, (k, n)))[..., None]
            found.append(
                {name: part.item() for name, part in variance.vclub_variances(terms, x_donor, weights).items()}
            )
            means.append([terms[:some].mean() for some in (1, 2, 3)])
        parts = pd.DataFrame(found).mean()
        assert parts.to_dict() == pytest.approx({"V_b": 4, "V_w": 11, "V_d": 2, "V_e": 9}, abs=0.35)
        actual = np.var(means, axis=0) * n
        assert actual == pytest.approx([parts["V_d"] + parts["V_e"] / some for some in (1, 2, 3)], rel=0.15)


def test_residual_share_equals_a_plain_regression():
    rng, n = np.random.default_rng(0), 40
    covariates = [rng.normal(size=(n, 2)) for _ in range(2)]
    terms = covariates[0] - 2 * covariates[1] + rng.normal(size=(n, 2)) + 100
    weights = variance.resamples(n, variance.Settings(bootstrap=3))
    assert weights.sum(axis=1) == pytest.approx(n)
    shares = variance.residual_share(weights, terms, covariates)
    for b, weight in enumerate(weights):
        drawn = np.repeat(np.arange(n), weight.astype(int))
        for point in range(2):
            design = np.column_stack([np.ones(n), *(some[drawn, point] for some in covariates)])
            y = terms[drawn, point]
            left = y - design @ np.linalg.lstsq(design, y)[0]
            assert shares[b, point] == pytest.approx((left @ left) / (n - 3) / y.var(ddof=1), rel=1e-9)
            assert variance.variance(weights, terms)[b, point] == pytest.approx(y.var(ddof=1), rel=1e-9)
    unrelated = variance.residual_share(np.ones((1, n)), terms, [np.zeros((n, 2))])
    assert unrelated == pytest.approx((n - 1) / (n - 2)), "a constant explains nothing"


def test_covariates_by_hand():
    log_f, letters = np.log([0.5, 0.3, 0.2]), np.array([1.0, 2.0, 4.0])
    ids, others = np.array([[0, 1, 1, 2]]), np.array([[2, 2, 0, 0]])
    found = variance.free_covariates(ids, others, [(2, 4)], log_f, letters)
    assert {name: rows.item() for name, rows in found.items()} == pytest.approx(
        {"unigram": np.log(0.06), "characters": 6, "overlap": -np.log(0.3), "overlap_other": -np.log(0.2)}
    )


def test_what_only_tells_books_apart_is_worth_nothing_within_them():
    rng, books = np.random.default_rng(0), np.repeat(["a", "b"], 200)
    offset = np.where(books == "a", 0.0, 10.0)[:, None]
    terms = {name: np.zeros((400, 1)) for name in passes.TERMS}
    terms["logq_y_given_x"] = offset + rng.normal(size=(400, 1))
    known = {name: offset + rng.normal(size=(400, 1)) for name in ("unigram", "overlap", "overlap_other")}
    rows = variance.rows_of_covariates(variance.Settings(bootstrap=20), [(16, 32)], terms, known, books)
    found = {row["measure"]: row["ratio"] for row in rows if (row["option"], row["estimator"]) == ("unigram", "direct")}
    assert found["variance, equal documents (400)"] > 10
    assert found["variance, equal documents (400, within books)"] == pytest.approx(1, abs=0.03)


def test_process_by_the_command_line(tmp_path):
    out = tmp_path / "variance.csv"
    done = call_script(SCRIPT, *PROCESS_ONLY, "--process-documents", 3000, "--out", out)
    assert done.returncode == 0, done.stderr
    assert out.with_suffix(".json").exists()
    table = pd.read_csv(out)
    assert list(table.columns) == variance.COLUMNS
    ratio = table["baseline_value"] / table["our_value"]
    shown = table["ratio"].notna() & table["L_tokens"].notna() & (table["our_value"] > 0.1)
    assert table.loc[shown, "ratio"].to_numpy() == pytest.approx(ratio[shown], rel=1e-3)
    assert (table["pays"].notna() == (table["ratio"].notna() & table["L_tokens"].isna())).all()

    process = NoisySantaFe()
    information = table[table["measure"] == "I"].set_index(["option", "L_tokens"])
    for L in (32, 64, 128):
        whole, (low, high) = process.mutual_information(L // 2, L), (0.6, 1.4)
        assert information.loc[("drop 0", L), "baseline_value"] == pytest.approx(whole, abs=1e-5)
        # A wrong first token costs KL(p || uniform) = ln 8192 − H; without it I(X; Y | Y_1) is left, exactly.
        p = process.key_probability
        missed = np.log(2 * process.n_keys) + p @ np.log(p) - np.log(2)
        left = whole - process.mutual_information(L // 2, L // 2 + 1)
        for option, wanted in (("drop 0", whole + missed), ("drop 1", left)):
            row = information.loc[(option, L)]
            half = row["our_hi95"] - row["our_value"]
            assert abs(row["our_value"] - wanted) < 2 * half, (option, L)
            assert low * half < row["our_value"] - row["our_lo95"] < high * half
    spread = table[table["measure"] == "variance, equal documents"].set_index(["option", "L_tokens"])["our_value"]
    for row in table[table["measure"].str.startswith("squared error") & table["L_tokens"].notna()].itertuples():
        for option, found in (("drop 0", row.baseline_value), (row.option, row.our_value)):
            one, V = information.loc[(option, row.L_tokens)], spread[option, row.L_tokens]
            squared_bias = (one["our_value"] - one["baseline_value"]) ** 2 - V / 3000
            assert found == pytest.approx(max(squared_bias, 0) + V / 1000, abs=2e-4)
    verdicts = table[table["pays"].notna()].set_index(["option", "estimator"])["pays"]
    assert verdicts["2 negatives", "vclub"] == "yes"
    assert verdicts["logq_y", "direct"] == "no"
    assert verdicts["drop 1", "direct"] == "yes"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, book_bytes):
    folder = tmp_path_factory.mktemp("variance")
    texts = book_bytes[20_000 : 20_000 + 16 * 160].reshape(16, 160).tolist()
    write_documents(folder / "documents", {"a": texts[:8], "b": texts[8:]})
    tiny_model("llama").save_pretrained(folder / "model")
    return folder


def on_model(folder, out, *more):
    flags = ("--documents", folder / "documents", "--model", folder / "model", "--bos", 257, "--store", out / "store")
    flags += ("--L-max", 128, "--n-documents", 12, "--negatives", 2, "--process-documents", 0, "--bootstrap", 50)
    return call_script(SCRIPT, *flags, "--out", out / "variance.csv", *more)


def test_model_by_the_command_line(inputs, tmp_path, monkeypatch):
    done = on_model(inputs, tmp_path, "--scores", "None")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "variance.csv")
    assert set(table["option"]) >= {
        "negatives",
        "2 negatives",
        "unigram",
        "overlap",
        "logq_y",
        "drop 8",
        "2-gram blend",
    }
    assert not table["measure"].str.contains("squared error").any(), "no truth is known"
    cost = 1 + 126 / passes.tokens_a_document(passes.grid(128, 64, (2,)))
    same, dearer = (
        table[(table["option"] == "2 negatives") & table["measure"].str.startswith(f"variance, equal {what}")]
        for what in ("documents", "tokens")
    )
    both = (same["baseline_value"].to_numpy() > 0) & (same["our_value"].to_numpy() > 0)
    assert both.sum() >= 3, "of so few documents a variance can come out below 0"
    found = same["ratio"].to_numpy() / dearer.loc[dearer["L_tokens"].notna(), "ratio"].to_numpy()
    assert found[both] == pytest.approx(cost, rel=1e-3)

    # Again, without the model: what is stored is not scored. A missing group is.
    def refuse(*_):
        raise AssertionError("scored again")

    first = (tmp_path / "variance.csv").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(score_documents, "load_backend", refuse)
        assert on_model(inputs, tmp_path, "--scores", "None").returncode == 0
    assert (tmp_path / "variance.csv").read_bytes() == first
    sorted((tmp_path / "store").glob("*.npz"))[-1].unlink()
    assert on_model(inputs, tmp_path, "--scores", "None").returncode == 0
    assert (tmp_path / "variance.csv").read_bytes() == first


def test_covariates_from_a_scores_file(inputs, tmp_path):
    """scores.csv of the same documents and x_donors gives the same rows, whatever else it holds."""
    scores = tmp_path / "scores.csv"
    flags = ("--documents", inputs / "documents", "--model", inputs / "model", "--bos", 257, "--out", scores)
    done = call_script("measure_mutual_info/score_documents.py", *flags, "--L-max", 128, "--ratios", 2, 3)
    assert done.returncode == 0, done.stderr
    tables = []
    for source in ("None", scores):
        done = on_model(inputs, tmp_path, "--n-documents", 16, "--scores", source)
        assert done.returncode == 0, done.stderr
        table = pd.read_csv(tmp_path / "variance.csv")
        tables.append(table[table["measure"].str.endswith(("(16)", "(16, within books)"))])
    assert len(tables[0]) == 2 * 2 * 4 * (6 + 1), "estimators, pools, sets of covariates, L and their mean"
    numbers = ["baseline_value", "our_value", "ratio", "ratio_lo95", "ratio_hi95"]
    pd.testing.assert_frame_equal(*(table.drop(columns=numbers).reset_index(drop=True) for table in tables))
    assert tables[0][numbers].to_numpy() == pytest.approx(
        tables[1][numbers].to_numpy(), rel=1e-3, abs=1e-3, nan_ok=True
    )


class TestBadInput:
    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (("--out", "table.txt"), "give the name of a .csv file"),
            (("--negatives", 1), "needs at least 2"),
            (("--L-max", 64), "needs at least 128"),
            (("--process-documents", 0), "nothing to measure"),
            (("--process-documents", 3, "--negatives", 3), "too few for so many different X'"),
        ],
    )
    def test_settings(self, tmp_path, flags, message):
        done = call_script(SCRIPT, *PROCESS_ONLY, "--out", tmp_path / "variance.csv", *flags)
        assert message in one_line_error(done)

    def test_scores_of_x_donors(self, inputs, tmp_path):
        scores = pd.DataFrame({"document": ["z#0", "z#1"], "book": "z", "ell_tokens": 2, "L_tokens": 4})
        for name in passes.TERMS:
            scores[f"{name}_nats"] = [-9.0, -8.0]
        scores.assign(x_donor=["z#1", "z#0"]).to_csv(tmp_path / "scores.csv", index=False)
        done = on_model(inputs, tmp_path, "--scores", tmp_path / "scores.csv")
        assert "z#0 is no document of" in one_line_error(done)

    def test_store_of_another_model(self, inputs, tmp_path):
        (tmp_path / "store").mkdir()
        (tmp_path / "store" / "manifest.json").write_text('{"identity": {"model": "another"}}')
        assert "made with other settings" in one_line_error(on_model(inputs, tmp_path, "--scores", "None"))
