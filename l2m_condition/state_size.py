"""The size of a model's history state (Sec. 5: dim z of Def. 5.1) by kind of layer, from its configuration only.

    python l2m_condition/state_size.py --out results/mine/state.csv                          # 57 published models
    python l2m_condition/state_size.py --out state.csv --model Qwen/Qwen3-8B my_model/ mine.json Llama-3.1-8B

--model takes names from l2m_condition/configurations.json, ids on the Hugging Face hub, local folders, GGUF files, and
JSON files with the contents of a config.json. No weights are read; a layer with unknown state is an error, not a guess.
Writes --out:
    model, layer_kind           a row for each kind of layer, and one with the kind `total`
    context_tokens              tokens read
    state_elements              numbers kept in the state
    state_bytes                 their size, with recurrent states in 32 bits and everything else in 16
    beyond_maximum              whether context_tokens exceeds max_position_embeddings of the configuration
    growth_exponent             g in elements ~ context^g
common/history_state.py says what is counted for each kind.

Hardware: any CPU, 10 seconds. Expect 65,536 elements and 131,072 bytes per token for Llama-3.1-8B.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from transformers import PreTrainedConfig

from common.cli import UserError, at_least, check_csv, run
from common.history_state import parts, read_settings
from common.pretrained import context_tokens, load_config
from common.record import write_csv

CONFIGURATIONS = Path(__file__).with_name("configurations.json")
COLUMNS = ["model", "layer_kind", "context_tokens", "state_elements", "state_bytes", "beyond_maximum"]
COLUMNS += ["growth_exponent"]


@dataclass(frozen=True)
class Settings:
    out: Path  # the CSV to write
    model: tuple[str, ...] = ()
    """names in configurations.json, hub ids, folders, .json or .gguf files; all of configurations.json if not given"""
    context: tuple[int, ...] = (*(4**i for i in range(5, 12)), 10_485_760)
    """tokens; the last default is the length announced for Llama 4 Scout"""

    def validate(self) -> None:
        check_csv(self.out)
        at_least(1, self, "context")


def published() -> dict[str, PreTrainedConfig]:
    """The configurations in configurations.json by name."""
    models = json.loads(CONFIGURATIONS.read_text(encoding="utf-8"))["models"]
    return {name: read_settings(entry["config"], f"{CONFIGURATIONS.name}, {name}") for name, entry in models.items()}


def number(read: dict) -> dict | float:
    """What an object of a config.json means: transformers writes infinity as {"__float__": "Infinity"}."""
    return float(read["__float__"]) if read.keys() == {"__float__"} else read


def load(model: str, listed: dict[str, PreTrainedConfig]) -> tuple[str, PreTrainedConfig]:
    """A name for the tables, and the configuration. UserError: it is missing, not JSON, of unknown type, or invalid."""
    path = Path(model)
    if model in listed:
        return model, listed[model]
    if path.suffix == ".gguf":
        return path.stem, load_config(model)
    if path.suffix == ".json" and not path.is_file():
        raise UserError(f"no file {path}: check the name")
    file = path / "config.json" if path.is_dir() else path
    local = file.is_file()
    try:
        if local:
            settings = json.loads(file.read_text(encoding="utf-8"), object_hook=number)
        else:
            settings = PreTrainedConfig.get_config_dict(model)[0]
    except Exception as error:  # the hub's client raises almost anything
        if local:
            raise UserError(f"{file} is not valid JSON: {error}: correct it") from error
        places = f"a name in {CONFIGURATIONS.name}, a JSON file, a folder with a config.json or a model of the hub"
        near = difflib.get_close_matches(path.name, listed, n=3)
        raise UserError(
            f"{model}: not {places} that can be reached ({type(error).__name__}): check the spelling"
            + f"; listed: {', '.join(near)}" * bool(near)
        ) from error
    path = path.parent if path.name == "config.json" else path
    name = path.resolve().name if path.is_dir() else model
    return path.stem if path.suffix == ".json" else name, read_settings(settings, model)


def rows(model: str, config: PreTrainedConfig, contexts: tuple[int, ...]) -> pd.DataFrame:
    """The rows of state.csv for one model. UserError, which names the model: layers with unknown state."""
    try:
        kept = parts(config)
    except UserError as error:
        raise UserError(f"{model}: {error}") from error
    text = config.get_text_config(decoder=True)
    # RWKV's maximum limits the tokens of one forward pass, not the context that the state carries.
    maximum = None if text.model_type == "rwkv" else context_tokens(text)
    found = []
    for context in contexts:
        beyond = maximum is not None and context > maximum
        for kind in [*dict.fromkeys(part.kind for part in kept), "total"]:
            these = [part for part in kept if kind in (part.kind, "total")]
            sizes = [part.elements(context) for part in these]
            of_bytes = sum(size * part.bits // 8 for size, part in zip(sizes, these, strict=True))
            growth = max(part.growth for part in these)
            found.append((model, kind, context, sum(sizes), of_bytes, beyond, growth))
    return pd.DataFrame(found, columns=COLUMNS)


def main(cfg: Settings) -> None:
    listed = published()
    loaded = [load(model, listed) for model in cfg.model] if cfg.model else list(listed.items())
    for name, _ in loaded:
        same = [model for model, (other, _) in zip(cfg.model, loaded, strict=False) if other == name]
        if len(same) > 1:
            raise UserError(f"--model: {' and '.join(same)} are both called {name}: rename one, or give it once")
    table = pd.concat([rows(name, config, cfg.context) for name, config in loaded])
    files = [path for path in map(Path, cfg.model) if path.suffix in (".json", ".gguf") and path.is_file()]
    write_csv(cfg.out, table, cfg, inputs=[CONFIGURATIONS, *files])
    print(f"wrote {cfg.out}: history states of {len(loaded)} models")


if __name__ == "__main__":
    run(main, Settings, __doc__)
