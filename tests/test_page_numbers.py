"""The numbers on the pages are those of the committed CSVs."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from docs.claims import falling


def results(name: str) -> pd.DataFrame:
    return pd.read_csv(ROOT / "results" / name)


def interval(row: pd.Series, value: str, lo: str = "lo95", hi: str = "hi95", digits: int = 2) -> str:
    return f"{row[value]:.{digits}f} [{row[lo]:.{digits}f}, {row[hi]:.{digits}f}]"


def quoted_windows() -> list[tuple[str, str]]:
    """Quotes of β of the power law in ranges of lengths, and of whether it fits."""
    sweep = results("fig2b/sweep.csv").query("L_over_ell == 2").set_index(["estimator", "L_min", "L_max"])
    page, quotes = "measure_mutual_info/README.md", []
    direct = sweep.loc["direct"]
    ends = [interval(direct.loc[window], "beta") for window in ((4, 128), (128, 2048))]
    assert (direct.loc[[(4, 128), (128, 2048)], "p_value"] >= 0.05).all()
    assert direct.loc[(4, 2048), "p_value"] < 0.05
    quotes.append(("README.md", f"L = 4 to 128: {ends[0]}, from 128 to 2,048: {ends[1]}"))
    fit = results("fig2b/fit.csv").query("law == 'broken_power' and estimator == 'direct' and L_over_ell == 2")
    assert fit["selected"].all()
    of = fit.set_index("parameter")["value"]
    quotes.append((page, f"{of['beta_1']:.2f} to {of['beta_2']:.2f} near {of['L_break']:.0f}"))
    short_memory = []
    for folder in ("fig2b", "figB1/books/Qwen2.5-Coder-0.5B", "figB1/books/Qwen2.5-Coder-1.5B"):
        fit = results(f"{folder}/fit.csv").query("law == 'saturating' and estimator == 'direct' and L_over_ell == 2")
        assert (fit["p_value"] >= 0.05).all()
        short_memory.append(interval(fit.set_index("parameter").loc["beta"], "value"))
    quotes.append((page, " ".join(short_memory)))
    # The front page says that I grows at every doubling, but more slowly than L.
    assert sweep[sweep["dof"] == 0]["beta"].loc[["direct", "vclub"]].between(0, 1, inclusive="neither").all()
    return quotes


KINDS = ("whole_books", "addresses")


def quoted_series() -> list[tuple[str, str]]:
    """Rows of the tables of models (a star means p < 0.05) and of start tokens."""
    page, quotes = "measure_mutual_info/README.md", []
    for corpus in ("books", "wikipedia"):
        table = results(f"figB1/{corpus}/models.csv").fillna({"estimator": ""})
        for model in table["model"].unique():
            of = table[table["model"] == model].set_index(["estimator", "quantity"])
            cells = [corpus, model.split(".Q")[0].removesuffix("-Instruct")]
            cells.append(interval(of.loc[("", "loss_nats_per_byte")], "value"))
            for quantity in ("beta", "beta_long"):
                for estimator in ("direct", "vclub", "block_entropy"):
                    if (estimator, quantity) not in of.index:
                        cells.append("no fit")
                        continue
                    row = of.loc[(estimator, quantity)]
                    cells.append(interval(row, "value").replace("-", "−") + ("*" if row["p_value"] < 0.05 else ""))
            quotes.append((page, f"| {' | '.join(cells)} |"))
    kinds = [results(f"figB1/{kind}/models.csv").set_index(["model", "quantity", "estimator"]) for kind in KINDS]
    for model in kinds[0].index.unique("model"):
        cells = [model.split(".Q")[0].removesuffix("-Instruct")]
        for quantity in ("beta", "beta_long"):
            for of in kinds:
                rows = [of.loc[(model, quantity, estimator)] for estimator in ("direct", "vclub")]
                cells += [interval(row, "value") + ("*" if row["p_value"] < 0.05 else "") for row in rows]
        quotes.append((page, f"| {' | '.join(cells)} |"))
    ends = [of.loc[(slice(None), "beta_long", ["direct", "vclub"]), "value"].agg(["min", "max"]) for of in kinds]
    quotes.append(("README.md", " and ".join(f"{of['min']:.2f} to {of['max']:.2f}" for of in ends)))
    bends = {
        kind: results(f"figB1/{kind}/models.csv").query("quantity == 'bend'") for kind in (*KINDS, "wikipedia", "books")
    }
    bends = {kind: of[of["estimator"].isin(["direct", "vclub"])] for kind, of in bends.items()}
    assert all((of["lo95"] > 0).all() for of in bends.values())
    of = pd.concat([bends[kind] for kind in (*KINDS, "wikipedia")])["value"]
    quotes.append(("README.md", f"{of.min():.2f} to {of.max():.2f} each time L doubles"))
    quotes.append((page, f"{bends['books']['value'].min():.2f} to {bends['books']['value'].max():.2f}"))
    long = results("figB1/books_8192/models.csv").set_index(["estimator", "quantity"])
    mi = long[long["L_max"] == 8192].loc[["direct", "vclub"]].query("quantity == 'mi'")
    ends = [interval(row, "value", digits=0) for _, row in mi.iterrows()]
    quotes.append((page, f"I(4,096; 8,192): {ends[0]} and {ends[1]}"))
    sweep = results("figB1/books_8192/Qwen2.5-Coder-0.5B/sweep.csv").query("L_over_ell == 2")
    sweep = sweep.set_index(["L_min", "L_max", "estimator"])
    for low, high in ((256, 2048), (2048, 8192)):
        both = [interval(sweep.loc[low, high, estimator], "beta") for estimator in ("direct", "vclub")]
        quotes.append((page, " ".join(both)))
    trend = results("figB1/books/trend.csv").query("kind == 'slope' and quantity == 'beta_long'").set_index("estimator")
    unpaired = results("fig2b/fit.csv").query("estimator == 'direct_unpaired' and law == 'power' and L_over_ell == 2")
    unpaired = unpaired.set_index("parameter").loc["beta"]
    assert unpaired["p_value"] >= 0.05
    quotes.append(("docs/claims.md", f"β = {unpaired['value']:.2f}"))
    assert long.loc[["direct", "vclub"]].query("quantity == 'beta'")["p_value"].isna().all()  # too few documents
    low, high = -trend.loc["direct", ["models_hi95", "models_lo95"]].astype(float)
    quotes.append((page, f"{-trend.loc['direct', 'value']:.2f} [{low:.2f}, {high:.2f}]".replace("-", "−")))
    quotes.append((page, interval(trend.loc["vclub"], "value", "models_lo95", "models_hi95").replace("-", "−")))
    shares = {}
    for folder in ("Qwen2.5-Coder-1.5B", "Qwen2.5-Coder-0.5B", "gemma-3-270m", "../../fig2b"):
        loss = results(f"figB1/books/{folder}/books.csv").set_index("book")["loss_nats_per_token"]
        shares[folder] = loss / loss.median()
    bible, *others = (share["more_books/king_james_bible"] for share in shares.values())
    assert min(share.min() for share in shares.values()) == bible
    quotes.append((page, f"{bible:.2f}; {min(others):.2f} to {max(others):.2f}"))
    for estimator, way in (("direct", "rises"), ("vclub", "falls")):
        row = trend.loc[estimator]  # slope against the loss: if negative, β rises as the loss falls
        low, high = sorted([abs(row["lo95"]), abs(row["hi95"])])
        assert (row["hi95"] < 0) if way == "rises" else (row["lo95"] > 0)
        quotes.append((page, f"{abs(row['value']):.2f} [{low:.2f}, {high:.2f}]"))
    for model in ("SmolLM2-135M", "gemma-3-270m", "Qwen2.5-Coder-0.5B", "Qwen2.5-Coder-1.5B"):
        table, change = results(f"start_token/{model}/models.csv"), results(f"start_token/{model}/trend.csv")
        loss = table[table["quantity"] == "start_nats_per_token"].set_index("start_token")["value"].sort_values()
        (best, first), (other, second) = loss.items()
        row = change.query("quantity == 'beta' and estimator == 'direct'").iloc[0]
        ends = [row["value"], row["lo95"], row["hi95"]]
        added = ends if row["start_b"] == other else [-ends[0], -ends[2], -ends[1]]
        said = "{:+.2f} [{:+.2f}, {:+.2f}]".format(*added).replace("-", "−")
        if model == "Qwen2.5-Coder-1.5B":
            row = change.query("quantity == 'mi' and estimator == 'direct' and L_max == 64").iloc[0]
            long = results(f"start_token/{model}/to_2048/trend.csv").query("estimator == 'direct'")
            long = -long.set_index("quantity").loc[["beta", "beta_long"], ["value", "hi95", "lo95"]]
            whole, late = ("{:.2f} [{:.2f}, {:.2f}]".format(*of).replace("-", "−") for of in long.to_numpy())
            quotes.append((page, f"{whole} over all L, {late} from 256 on"))
            quotes.append((page, f"{-row['value']:.1f} [{-row['hi95']:.1f}, {-row['lo95']:.1f}] at L = 64"))
        best, other = (token.replace("|", "\\|") for token in (best, other))  # a plain | ends a cell
        quotes.append((page, f"| {model} | `{best}` | {first:.2f} | `{other}` | {second:.2f} | {said} |"))
    return quotes


def quoted_models() -> list[tuple[str, str]]:
    """Rows of the table of Fig. 3: elements per copy, KL per token at each L (star: not all seeds converged), and U."""
    runs = results("fig3/summary.csv").query("model != 'independent'")
    cells = runs.groupby(["model", "L"])[["mean_kl_nats", "utilisation", "state_size"]].mean()
    cells["star"] = runs.groupby(["model", "L"])["converged"].all().map({True: "", False: "*"})
    done = (cells["star"] == "").sum()
    quotes = [("README.md", f"{len(cells)} pairs, {done}")]
    quotes.append(("gaussian_synthetic/README.md", f"{len(cells) - done} of {len(cells)}"))
    for model in cells.index.levels[0]:
        of = cells.loc[model]
        states = of["state_size"] / runs["copies"].iloc[0]
        state = f"{states[16]:,.0f}" if states.nunique() == 1 else f"{states[16]:,.0f} to {states[256]:,.0f}"
        row = [model, state, *(f"{kl:.2g}{star}" for kl, star in zip(of["mean_kl_nats"], of["star"], strict=True))]
        row += [f"{used:.3f}" if used > 0.98 else f"{used:.2f}".replace("-", "−") for used in of["utilisation"]]
        quotes.append(("gaussian_synthetic/README.md", f"| {' | '.join(row)} |"))
    return quotes


PAIRS = [("small", "fig4"), ("medium", "fig4"), ("small", "figG9"), ("small", "figG9_split2")]
PLACES = [("figG9", -1), ("figG9_split2", -1), ("fig4", -1), ("fig4", -2)]  # last restart, or the one before
GAIN, GREW, ROSE = ([f"gain_gap{of}_{end}" for end in ("nats", "lo95", "hi95")] for of in ("", "_grew", "_rose"))


def quoted_gaps() -> list[tuple[str, str]]:
    """Rows of the tables of models on books and of pairs of models, and the text on them."""
    page, quotes = "train_on_pg19/README.md", []

    def said(row: pd.Series, *names: str, digits: int = 4) -> str:
        return interval(row, *names, digits=digits).replace("-", "−")

    def ends(folder: str, size: str = "small", last: int | None = None) -> pd.DataFrame:
        """The pair in the doubling that ends at `last`, or in the last half, at the end of each cosine of training."""
        rows = results(f"{folder}/token_gaps.csv").query(f"model_b == 'mamba2-mini-{size}'")
        return rows[rows["last"] == (last or rows["L"])]

    def of_all(table: str) -> pd.DataFrame:
        """Rows of Fig. 4, and those of the model that only the earlier run in `sizes` has."""
        earlier = results(f"fig4/sizes/{table}.csv")
        return pd.concat([results(f"fig4/{table}.csv"), earlier[earlier["model"] == "mamba2-mini-small-state1"]])

    short = results("figG9/summary.csv").groupby("model")["nats_per_unit"].mean()
    for model, parameters in of_all("summary").drop_duplicates("model").set_index("model")["parameters"].items():
        cells = [model, f"{parameters / 1e6:.1f}"]
        for folder in ("", "addresses/"):
            margin = of_all(f"{folder}margin").set_index("model").loc[model]
            tokens = of_all(f"{folder}tokens").query("model == @model").iloc[-1]
            cells += [f"{tokens['nats_per_unit']:.2f}", said(margin, "margin_nats", digits=2)]
            cells.append(said(tokens, "fell_nats", "fell_lo95", "fell_hi95", digits=2))
        quotes.append((page, f"| {' | '.join(cells)} | {f'{short[model]:.2f}' if model in short else '–'} |"))
    for size, folder in PAIRS:
        end = ends(folder, size).iloc[-1]
        name = [size + ", other books" * folder.endswith("split2"), f"{end['L']:,}", f"{end['seeds_a']}"]
        for texts, books in (("ten", folder), ("addresses", f"{folder}/addresses")):
            at = [ends(books, size, last).iloc[-1] for last in (16, 64, 256, None)]
            quotes.append((page, f"| {' | '.join([*name, texts, *(said(row, 'gap_nats', digits=3) for row in at)])} |"))
        rows = [*ends(folder, size).tail(3).iloc, ends(f"{folder}/addresses", size).iloc[-1]]
        quotes.append((page, f"| {' | '.join([*name, *(said(row, *GAIN) for row in rows)])} |"))
    for model in ("SmolLM2-135M", "gemma-3-270m", "Qwen2.5-Coder-0.5B"):
        of, gains = (results(f"fig4/pretrained/{model}/{name}.csv") for name in ("summary", "gains"))
        at = gains.set_index(["context", "last"]).loc[[(64, 256), (64, 1024), (64, 4096), (512, 4096)]]
        cells = [model, f"{of['parameters'][0] / 1e6:.0f}", f"{of['nats_per_unit'][0]:.2f}"]
        quotes.append(
            (page, f"| {' | '.join(cells + [said(row, 'gain_nats', digits=3) for _, row in at.iterrows()])} |")
        )
    rises = [said(ends(folder).iloc[end], *ROSE) for folder, end in PLACES]
    for kind in ("gpt_neox", "mamba2"):
        for folder in ("figG9", "fig4"):
            own = results(f"{folder}/tokens.csv").query(f"model == '{kind}-mini-small'").iloc[-1]
            rises.append(said(own, *(f"late_gain_rose_{end}" for end in ("nats", "lo95", "hi95"))))
    quotes.append((page, " ".join(rises)))
    grew = [ends(folder, size).iloc[-1] for size in ("small", "medium") for folder in ("fig4", "fig4/addresses")]
    quotes.append((page, " ".join(said(row, *GREW) for row in grew)))
    for folder, context, last in (("fig4", 512, 2048), ("fig4/sizes", 64, 2048)):
        rows = results(f"{folder}/gain_gaps.csv").query(f"context == {context} and last == {last}").set_index("model_b")
        models = ["mamba2-mini-small", *(["mamba2-mini-small-state1"] if folder.endswith("sizes") else [])]
        quotes.append((page, " ".join(said(rows.loc[model], "gap_nats") for model in models)))
    state = results("fig4/sizes/state.csv").query("layer_kind == 'total'")["state_elements"]
    mi = (
        results("fig4/information.csv")
        .query("model == 'gpt_neox-mini-small' and seed == 0 and L_tokens == 512")
        .iloc[0]
    )
    quotes.append((page, f"{state.iloc[1]:,} {state.iloc[0]:,} {mi['mi_nats']:.0f} ± {mi['stderr_nats']:.0f}"))
    late = results("fig4/gains.csv").query("context == 64 and last == 2048").set_index("model")["gain_nats"]
    models = [f"{kind}-mini-{size}" for kind in ("gpt_neox", "mamba2") for size in ("small", "medium")]
    quotes.append((page, " ".join(f"{late[model]:.4f}" for model in models)))
    early = [said(ends("fig4", "small", last).iloc[-2], "gap_nats", digits=3) for last in (16, 64)]
    quotes.append((page, " ".join(early)))
    rounded = results("figG9/without_compile/tokens.csv").query("model == 'mamba2-mini-small'").iloc[-1]
    compiled = results("figG9/losses/mamba2-mini-small_0.csv").query(f"tokens == {rounded['tokens']}")
    loss = compiled["nll_nats"].sum() / compiled["units"].sum()
    quotes.append((page, f"{loss:.3f} and {rounded['nats_per_unit']:.3f}"))
    for figure in ("fig4", "figG9"):
        seeds = results(f"{figure}/summary.csv").set_index("model")["nats_per_unit"]
        of = [" and ".join(f"{end:.3f}" for end in seeds.loc[f"{kind}-mini-small"]) for kind in ("gpt_neox", "mamba2")]
        quotes.append((page, " ".join(of)))
    quotes.append((page, re.search(r"by (.*%)", falling(results("fig4/tokens.csv"))[1])[1]))
    counting = results("fig4/counting.csv").sort_values("nats_per_byte").iloc[0]
    quotes.append((page, f"{counting['order']:g} bytes: {counting['nats_per_byte']:.2f}"))
    front = [said(ends(folder).iloc[-1], *GAIN) for folder in ("figG9", "fig4", "figG9_split2")]
    return [*quotes, ("README.md", " ".join(front))]


def quoted_elsewhere() -> list[tuple[str, str]]:
    beta = results("fig2b/sweep.csv").query("L_over_ell == 2 and L_min == 256 and L_max == 2048")
    assert (beta["p_value"] > 0.05).all()
    half = beta.set_index("estimator").eval("(hi95 - lo95) / 2")
    direct, vclub = (np.ceil(38 * (half[name] / 0.02) ** 2) for name in ("direct", "vclub"))
    text = f"±{half['direct']:.3f} and ±{half['vclub']:.3f}; ±0.02: {direct:.0f} and {vclub:.0f}"
    faults = results("mutation/mutation.csv").set_index("module").loc["total"]
    score = f"{100 * faults['score']:.0f}% [{100 * faults['lo95']:.0f}, {100 * faults['hi95']:.0f}]"
    collapse = results("fig3/collapse.csv").query("left_out == 'cell' and degree == 2")
    collapse = collapse.set_index(["kl_of", "cells_of", "predictor"])
    curve = ["mi_per_state", "frontier", *(f"mi_per_state − {name}" for name in ("L", "state_size", "parameters"))]
    of_curve = [interval(collapse.loc["trained", "converged", name], "explained") for name in curve]
    decay = {}
    for folder in ("fig2b", "figB1/wikipedia/SmolLM2-135M"):
        fit = results(f"{folder}/entropy_rate_fit.csv").set_index("parameter")
        said = [interval(fit.loc[name], "value", "boot_lo95", "boot_hi95") for name in ("gamma", "beta")]
        decay[folder] = *(text.replace("-", "−") for text in said), f"(p = {fit['p_value'].iloc[0]:.2f})"
    exact = results("calibration/santa_fe_b0.75_e0.1/coverage.csv").query("n_documents == 1000")
    beta = exact[exact["quantity"] == "beta_gls"].set_index(["predictor", "estimator"])["mean"]
    books, articles = decay.values()
    independent = []
    for folder in ("fig2c", "fig2c/tokens_1024", "figB4/wikipedia"):
        last = results(f"{folder}/two_point.csv").query("estimator == 'grassberger'").iloc[-1]
        digits = 4 if folder == "fig2c" else 3
        independent.append(f"{last['independent_nats']:.{digits}f}")
        independent += [f"{last['mi_nats']:.3f}"] * (folder != "fig2c")
    return [
        ("measure_mutual_info/README.md", " ".join(independent)),
        ("docs/estimators.md", f"{books[2]} with γ = {books[0]}, which is β = {books[1]}"),
        ("docs/estimators.md", f"γ = {articles[0]} {articles[2]}, which is β = {articles[1]}"),
        ("measure_mutual_info/README.md", text),
        ("docs/tests.md", f"{faults['killed']:.0f} of {faults['sampled']:.0f}: {score} of {faults['mutants']:,.0f}"),
        *(("gaussian_synthetic/README.md", number) for number in of_curve),
        ("docs/estimators.md", f"a slope of {beta['exact', 'vclub']:.2f} where {beta['exact', 'direct']:.2f} is true"),
        ("docs/estimators.md", f"β = {beta['wrong_bos', 'direct']:.2f} where {beta['exact', 'direct']:.2f} is true"),
    ]


def quoted_calibration() -> list[tuple[str, str]]:
    """Rows of the table of coverage (direct estimator, exact predictor), and the text on block entropy."""
    processes = {"santa_fe_b0.5_e0.1": "Santa Fe, β = 0.5", "santa_fe_b0.75_e0.1": "Santa Fe, β = 0.75"}
    quotes = []
    for folder, name in {**processes, "markov": "Markov chain", "bernoulli": "Bernoulli(θ)"}.items():
        table = results(f"calibration/{folder}/coverage.csv").query("predictor == 'exact' and estimator == 'direct'")
        for n_documents, rows in table.groupby("n_documents"):
            mi = 100 * rows[rows["quantity"] == "mi"]["coverage"]
            gls = rows[rows["quantity"] == "beta_gls"].iloc[0]
            cells = [name, f"{n_documents:,}", f"{mi.min():.1f}% to {mi.max():.1f}%, mean {mi.mean():.1f}%"]
            cells += [f"{gls['truth']:.3f}", f"{gls['mean']:.3f}"]
            cells.append(f"{100 * gls['coverage']:.1f}% (± {gls['mean_half_width']:.3f})")
            quotes.append(("measure_mutual_info/README.md", f"| {' | '.join(cells)} |"))
    tables = {folder: results(f"calibration/{folder}/coverage.csv") for folder in (*processes, "markov", "bernoulli")}
    block = pd.concat(tables).query("predictor == 'exact' and estimator == 'block_entropy'").reset_index(level=0)
    mi = block[block["quantity"] == "mi"]
    assert (mi["bias"].abs() < 3 * mi["sd"] / np.sqrt(mi["replications"])).all()
    held = 100 * mi["coverage"]
    quotes.append(("measure_mutual_info/README.md", f"95% {held.min():.1f}% to {held.max():.1f}%"))
    errors = pd.concat(tables).query("predictor == 'exact' and quantity == 'mi'").reset_index(level=0)
    errors = errors.set_index(["level_0", "n_documents", "L_tokens", "estimator"])["mean_half_width"].unstack()
    times = errors.eval("block_entropy / direct").groupby("level_0").max()
    quotes.append(
        ("measure_mutual_info/README.md", f"{times['markov']:.0f} times, {times['santa_fe_b0.5_e0.1']:.0f} times")
    )
    assert times.idxmax() == "markov"
    two = results("calibration/two_point.csv").set_index(["process", "quantity"])
    high = two.loc["topics", "mi"].eval("bias / mean_stderr")
    quotes.append(("measure_mutual_info/README.md", f"{high.min():.1f} to {high.max():.1f} standard errors"))
    quotes.append(("measure_mutual_info/README.md", f"{two.loc['markov', 'mi_corrected']['bias'].iloc[-1]:.4f} nats"))
    return quotes


def quoted_contrast() -> list[tuple[str, str]]:
    """The estimates of vCLUB with eight X' (exact predictor), and the slopes with one and eight."""
    table = results("calibration/contrast.csv").query("predictor == 'exact'")
    eight = table[(table["donors"] == 8) & (table["quantity"] == "mi")].set_index(["L_tokens", "process"])["ratio"]
    near, far = 100 * (eight[16] - 1), eight[2048].drop("markov")
    ends = f"{near.min():.0f}% to {near.max():.0f}% L = 16 {far.min():.1f} to {far.max():.0f} L = 2,048"
    slopes = table[(table["quantity"] == "beta_gls") & (table["process"] == "santa_fe_b0.5_e0.1")].set_index("donors")
    said = f"{ends} {slopes['mean'][1]:.2f} {slopes['mean'][8]:.2f} {slopes['truth'][1]:.2f}"
    return [("docs/estimators.md", said)]


def quoted_clustered() -> list[tuple[str, str]]:
    """Rows of the table of documents in books, and the text below it."""
    page, table = "docs/estimators.md", results("calibration/clustered.csv").fillna({"L_fit_min": 0})
    key = ["estimator", "process", "books", "quantity", "L_fit_min", "interval"]
    table = table.set_index(key).sort_index()
    direct, quotes = table.loc["direct"], []
    columns = [("mi", 0, "documents"), ("mi", 0, "books")]
    columns += [("beta", 128, interval) for interval in ("documents", "books", "resampled_books")]
    for process, name in {"santa_fe_b0.5_e0.1": "Santa Fe, β = 0.5", "bernoulli": "Bernoulli(θ)"}.items():
        for books in (4, 12, 38):
            of = [direct.loc[(process, books, *column)] for column in columns]
            cells = [
                f"{100 * row['coverage']:.0f}% (± {row['median_half_width']:.{2 + (i > 1)}f})"
                for i, row in enumerate(of)
            ]
            quotes.append((page, f"| {name} | {books} | {' | '.join(cells)} |"))
    of = direct.loc["santa_fe_b0.5_e0.1"]["coverage"]
    by = [
        [f"{100 * of[books, 'beta', 4, how]:.0f}%" for books in (4, 12, 38)] for how in ("resampled_books", "documents")
    ]
    quotes.append((page, " ".join(by[0] + by[1])))
    without = direct.loc[("santa_fe_b0.5_e0.1", 4, "beta", 4, "books"), "failed"]
    quotes.append((page, f"L = 4: {without} of 300"))
    bent = direct.loc[("bernoulli", 38, "beta", 4, "resampled_books")]
    said = f"{bent['mean']:.3f} where {bent['truth']:.3f} is true, {100 * bent['coverage']:.0f}%"
    return [*quotes, (page, said)]


GROUPS = [quoted_windows, quoted_series, quoted_models, quoted_gaps, quoted_calibration]
GROUPS += [quoted_contrast, quoted_clustered, quoted_elsewhere]


NUMBER = re.compile(r"[−+±]?\d[\d,.]*(?:e[+-]?\d+)?%?(?: \[[^\]]*\])?")


@pytest.mark.parametrize("quotes", GROUPS)
def test_numbers_are_those_of_the_csvs(quotes):
    """A row of a table is quoted exactly; of a sentence, its numbers stand in this order in one paragraph or bullet."""
    for page, quote in quotes():
        pattern = re.escape(quote)
        if quote[0] != "|":
            numbers = (re.escape(number.rstrip(".,")) for number in NUMBER.findall(quote))
            pattern = ".*?".join(rf"(?<![\d.,−+±]){number}(?!\d|[.,]\d| \[)" for number in numbers)
        parts = re.split(r"\n\s*\n|\n- ", (ROOT / page).read_text(encoding="utf-8"))
        assert any(re.search(pattern, " ".join(part.split())) for part in parts), f"{page}: {quote}"


def test_numbers_of_the_benchmarks_are_in_their_csvs():
    """Every number of three or more digits is in a CSV, as shown or in millions, thousands or per cent."""
    cells = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "results/benchmarks").glob("*.csv"))
    quoted = re.findall(r"\d{1,3}(?:,\d{3})+", cells)  # in the text of a cell
    there = [*re.findall(r"\d+\.?\d*(?:e[+-]?\d+)?", cells), *(number.replace(",", "") for number in quoted)]
    there = np.array(there, dtype=float)
    shown = re.findall(
        r"(?<![\w^.·-])\d[\d,]*(?:\.\d+)?(?![\w^])", (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    )
    numbers = {number.replace(",", "") for number in shown}
    numbers = [number for number in numbers if len(number.replace(".", "").lstrip("0")) >= 3]
    assert len(numbers) > 60
    for number in numbers:
        decimals = len(number.partition(".")[2])
        close = 500 if number.endswith("000") and not decimals else 0.5001 * 10.0**-decimals
        scales = (1, 1e-6, 1e-3, 1e3, 100)
        assert any((np.abs(there * scale - float(number)) <= close).any() for scale in scales), number
