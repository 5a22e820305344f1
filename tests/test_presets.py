"""Each setting is in one place: hyperparameters in a program's presets, a figure's inputs in its shell file."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
from dataclasses import asdict, fields

import pandas as pd
import pytest

from common.cli import check_settings, parse
from common.resume import identity
from common.training import cosine_ends
from gaussian_synthetic import train
from measure_mutual_info import count_ngrams, score_documents
from tests.conftest import ROOT, call_script, one_line_error
from train_on_pg19 import train as train_books

# Flags that a shell file may give a program: what to measure, on which data, and where to write; never how.
INPUTS = """
    corpus tokenizer source config streaming boundaries min-tokens vocab-size min-book-words max-books
    max-documents-per-book shuffle-seed parts documents model models losses L L-max n-documents d d-max seed bos family
    layers rank-layers context pairs fit preset out store runs scores counts summary state state-information unpaired
    start capacity run held-out-books books name
"""
SHELLS = [*ROOT.glob("*/*.sh"), *ROOT.glob("*/calibration/*.sh")]
SHELLS = [file for file in SHELLS if file.parent.name not in ("benchmarks", "plots") and file.name != "environment.sh"]
PROGRAMS = sorted(
    path.relative_to(ROOT).as_posix().removesuffix(".py").replace("/", ".")
    for path in [*ROOT.glob("*/*.py"), *ROOT.glob("*/calibration/*.py")]
    if re.search(r"^    run\(.*PRESETS\)", path.read_text(encoding="utf-8"), re.MULTILINE)
)


def flags(text: str) -> set[str]:
    """The flags in the commands and variables of a shell file, without its comments and calls of plots/."""
    lines = [re.sub(r"(^|\s)#.*", "", line) for line in text.splitlines()]
    calls = "\n".join(lines).replace("\\\n", " ").splitlines()
    return set(re.findall(r"(?<![\w-])--([A-Za-z][\w-]*)", "\n".join(line for line in calls if "plots/" not in line)))


@pytest.mark.parametrize("file", SHELLS, ids=lambda file: str(file.relative_to(ROOT)))
def test_shell_files_hand_over_inputs_and_a_preset(file):
    text = file.read_text(encoding="utf-8")
    handed = flags(text)
    new = handed.difference(INPUTS.split())
    assert not new, f"{', '.join(sorted(new))}: put it into a preset of the program"
    for program in PROGRAMS:
        for call in re.findall(rf"{program.replace('.', '/')}\.py(?:.*\\\n)*.*", text):
            counts_no_pairs = file.name == "_bipartite.sh" and "count_ngrams" in call
            assert "--preset" in call or counts_no_pairs, call


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_preset_has_settings_that_fit_together(program):
    module = importlib.import_module(program)
    assert {"smoke", "cpu", "paper"} <= module.PRESETS.keys()
    needed = {"model": "x", "documents": "x", "runs": "x", "out": "x.csv", "d": 1}
    names = [one.name for one in fields(module.Settings)]
    given = [str(word) for name in names if name in needed for word in (f"--{name}", needed[name])]
    for name, values in module.PRESETS.items():
        assert values.keys() <= set(names)
        lengths = {L for value in values.values() if isinstance(value, dict) for L in value}
        for of_length in [["--L", str(L)] for L in lengths] or [[]]:
            cfg = parse(module.Settings, [*given, *of_length, "--preset", name], presets=module.PRESETS)
            check_settings(cfg)
            cfg.validate()


def preset_of(module, preset: str, L: int):
    given = ["--model", "x", "--out", "x", "--L", str(L), "--preset", preset]
    given += ["--documents", "x"] if module is train_books else []
    return parse(module.Settings, given, presets=module.PRESETS)


@pytest.mark.parametrize(("folder", "preset"), [("fig3", "cpu"), ("fig3/few_copies", "cpu-few")])
def test_the_preset_is_what_the_committed_models_of_gaussian_sequences_were_trained_with(folder, preset):
    training, summary = (pd.read_csv(ROOT / f"results/{folder}/{name}.csv") for name in ("training", "summary"))
    for L, rows in summary.groupby("L"):
        cfg = preset_of(train, preset, L)
        assert training.loc[training["L"] == L, "steps"].unique().tolist() == [cfg.steps]
        assert rows["copies"].unique().tolist() == [cfg.copies]


@pytest.mark.parametrize("figure", ["figG9", "fig4"])
def test_the_preset_is_what_the_committed_models_of_books_were_trained_with(figure):
    losses = ROOT / f"results/{figure}/losses/gpt_neox-mini-small_0.csv"
    made = json.loads(losses.with_suffix(".json").read_text(encoding="utf-8"))["evaluated"]["training"]
    cfg = preset_of(train_books, "cpu", made["L"])
    found = identity(cfg)
    assert {name for name in made if found.get(name) != made[name]} == {"model", "documents", "held_out_books"}
    ends = [steps * cfg.batch_tokens for steps in cosine_ends(cfg.steps, cfg.restarts)]
    assert pd.read_csv(losses)["tokens"].unique().tolist() == ends


@pytest.mark.parametrize("figure", ["figG9", "fig4"])
def test_the_committed_losses_are_those_of_the_grid(figure):
    shell = (ROOT / f"train_on_pg19/{figure}.sh").read_text(encoding="utf-8")
    grid = next(line for line in shell.splitlines() if line.startswith("inputs "))
    script = f'set -eu; PRESET=cpu results=results; . train_on_pg19/_books.sh; {grid}; run_list <<< "$grid"'
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    there = sorted(path.stem for path in (ROOT / f"results/{figure}/losses").glob("*.csv"))
    assert sorted(line.replace(" ", "_") for line in done.stdout.splitlines()) == there


@pytest.mark.parametrize(
    ("figure", "preset"),
    [
        ("fig2b/scores", "cpu"),
        ("figB1/books/Qwen2.5-Coder-0.5B/scores", "cpu-series"),
        ("figB1/wikipedia/SmolLM2-135M/scores", "cpu-single"),
        ("fig2c/counts", "cpu"),
        ("figB4/wikipedia/counts", "cpu"),
    ],
)
def test_the_preset_is_what_the_committed_results_were_made_with(figure, preset):
    """The preset supplies all settings that the shell file's flags do not, so that committed scores are reused."""
    path = ROOT / "results" / f"{figure}.json"
    module = score_documents if path.stem == "scores" else count_ngrams
    made = json.loads(path.read_text(encoding="utf-8"))["settings"]
    inputs = [("documents", "--documents"), ("model", "--model"), ("out", "--out"), ("L_max", "--L-max"), ("d", "--d")]
    inputs += [("n_documents", "--n-documents"), ("bos", "--bos")]
    given = [(flag, made[name]) for name, flag in inputs if made.get(name)]
    words = [str(word) for flag, value in given for word in (flag, *(value if isinstance(value, list) else [value]))]
    cfg = parse(module.Settings, [*words, "--preset", preset], presets=module.PRESETS)
    found = json.loads(json.dumps(asdict(cfg), default=str))
    for settings in (found, made):  # L_max limits ell_max if it is not given
        settings["ell_max"] = settings.get("ell_max") or settings.get("L_max", 0) // 2
    if found.get("dtype") == "auto":  # the record has the type that was chosen
        found["dtype"] = made["dtype"]
    assert found == {name: made[name] for name in found}


def test_what_stands_in_a_preset_is_what_a_run_records(tmp_path, monkeypatch):
    """A changed preset changes the run and its record, and a run with another preset cannot resume it."""
    quick = ["--model", "tiny", "--L", 4, "--steps", 10, "--log-every", 5, "--checkpoint-every", 5, "--out", tmp_path]
    monkeypatch.setitem(train.PRESETS, "smoke", train.PRESETS["smoke"] | {"copies": 3, "batch": {1: 8}, "clip": 1.5})
    done = call_script("gaussian_synthetic/train.py", *quick, "--preset=smoke")
    assert done.returncode == 0, done.stderr
    settings = json.loads((tmp_path / "log.json").read_text(encoding="utf-8"))["settings"]
    wanted = {"copies": 3, "batch": 8, "clip": 1.5, "learning_rate": 8e-3, "steps": 10, "warmup": 5}
    assert wanted.items() <= settings.items()
    other = call_script("gaussian_synthetic/train.py", *quick, "--preset", "cpu", "--warmup", 5)
    assert "copies 3" in one_line_error(other)


@pytest.mark.parametrize("variable", ["smollm2", "gemma", "qwen_small", "qwen_large"])
def test_the_figures_name_the_start_token_that_costs_least(variable):
    script = f". measure_mutual_info/_bipartite.sh; model=elsewhere/${{{variable}##*/}}; find_start; "
    script += 'short "$model"; echo "${start[1]:-}"'
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    model, named = done.stdout.splitlines()
    folder = ROOT / "results/start_token" / model
    own = json.loads((folder / "tokenizer/scores.json").read_text(encoding="utf-8"))["start_token"]
    table = pd.read_csv(folder / "models.csv").query("quantity == 'start_nats_per_token'").set_index("start_token")
    assert (named or own) == table["value"].idxmin()
