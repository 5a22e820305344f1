"""The size of a model's history state (Sec. 5: dim z of Def. 5.1) by kind of layer, from its configuration alone.

    python l2m_condition/state_size.py --out results/mine/state.csv                          # 57 published models
    python l2m_condition/state_size.py --out state.csv --model Qwen/Qwen3-8B my_model/ mine.json Llama-3.1-8B
    python l2m_condition/state_size.py --out state.csv --cache-bits 4 --group 64             # a quantised cache

--model takes names of l2m_condition/configurations.json, ids of the Hugging Face hub, local folders, GGUF files, and
JSON files that hold a config.json. No weights are read; layers of unknown state are an error, not a guess.
Writes --out:
    model, layer_kind           a row for each kind of layer, and one with the kind `total`
    context_tokens              tokens read
    state_elements              numbers kept
    state_bytes                 the same at --cache-bits, --recurrent-bits and --input-bits
    beyond_maximum              whether context_tokens passes max_position_embeddings of the configuration
    growth_exponent, growth_logarithms    the elements grow as context^exponent · (ln context)^logarithms
common/history_state_layers.py says what is counted for each kind.

Hardware: any CPU, 10 seconds. Expect for Llama-3.1-8B 65,536 elements a token, and 131,072 bytes.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from transformers import PreTrainedConfig

from common.cli import UserError, run
from common.history_state import Bits, bits_by_kind, growth_exponent, parts, read_settings, state_by_kind
from common.pretrained import context_tokens, load_config
from common.record import write_csv

CONFIGURATIONS = Path(__file__).with_name("configurations.json")
COLUMNS = ["model", "layer_kind", "context_tokens", "state_elements", "state_bytes"]
COLUMNS += ["beyond_maximum", "growth_exponent", "growth_logarithms"]
UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


@dataclass(frozen=True)
class Settings:
    out: Path
    """the CSV to write"""
    model: tuple[str, ...] = ()
    """names of configurations.json, hub ids, folders, .json or .gguf files; all of configurations.json if not given"""
    context: tuple[int, ...] = (*(4**i for i in range(5, 12)), 10_485_760)
    """tokens; the last is what Llama 4 Scout announces"""
    cache_bits: int = 16
    """of an element of keys, values, latents and indexer keys"""
    recurrent_bits: int = 32
    """of an element of a recurrent state"""
    input_bits: int = 16
    """of an element of the last inputs that convolutions and token shifts keep"""
    group: int = 0
    """elements of a quantised cache that share a scale; 0: none"""
    group_overhead_bits: int = 32
    """of a group: a scale and a zero point of 16 each"""
    expand_latents: bool = False
    """count the keys and values of all heads of latent attention (MLA), not the latent from which they follow"""

    def validate(self) -> None:
        if self.out.suffix != ".csv" or self.out.is_dir():
            raise UserError(f"--out {self.out}: give a file that ends in .csv")
        if not self.context:
            raise UserError("--context names no length: give one or more, e.g. --context 1024 131072")
        for context in self.context:
            if context < 1:
                raise UserError(f"--context {context}: give at least 1 token")
        self.bits.validate()

    @property
    def bits(self) -> Bits:
        return Bits(self.cache_bits, self.recurrent_bits, self.input_bits, self.group, self.group_overhead_bits)


def published() -> dict[str, PreTrainedConfig]:
    """The configurations of configurations.json by name."""
    models = json.loads(CONFIGURATIONS.read_text(encoding="utf-8"))["models"]
    return {name: read_settings(entry["config"], f"{CONFIGURATIONS.name}, {name}") for name, entry in models.items()}


def load(model: str, listed: dict[str, PreTrainedConfig]) -> tuple[str, PreTrainedConfig]:
    """A name for the tables, and the configuration. UserError: none there, no JSON, unknown, or it makes no sense."""
    path = Path(model)
    if model in listed:
        return model, listed[model]
    if path.suffix == ".gguf":
        return path.stem, load_config(model)
    if path.suffix == ".json":
        name, settings = path.stem if path.stem != "config" else path.resolve().parent.name, _read_json(path)
    elif path.is_dir():
        name, settings = path.resolve().name, _read_json(path / "config.json")
    else:
        name, settings = model, _from_hub(model)
    return name, read_settings(settings, model)


def _read_json(path: Path) -> dict:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"no file {path}: give a model's config.json, or the folder that holds it") from error
    except (json.JSONDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(f"{path} is no JSON ({error}): give a model's config.json") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path} holds no settings by name: give a model's config.json")
    return settings


def _from_hub(model: str) -> dict:
    try:
        settings, _ = PreTrainedConfig.get_config_dict(model)
    except Exception as error:  # the hub's client raises almost anything
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{model}: no name of {CONFIGURATIONS.name}, no file or folder, and not to be had from the hub: check the "
            f"spelling, or that the hub can be reached ({type(error).__name__}: {reason})"
        ) from error
    return settings


def rows(model: str, config: PreTrainedConfig, cfg: Settings) -> list[tuple]:
    """The rows of state.csv for one model. UserError that names it: layers of unknown state."""
    try:
        growth = {part.kind: part.growth for part in parts(config, cfg.expand_latents)}
        text = config.get_text_config(decoder=True)
        # RWKV's bounds what one forward pass takes, not what the state carries on.
        maximum = None if text.model_type == "rwkv" else context_tokens(text)
        found = []
        for context in cfg.context:
            elements = state_by_kind(config, context, cfg.expand_latents)
            bits = bits_by_kind(config, context, cfg.bits, cfg.expand_latents)
            beyond = maximum is not None and context > maximum
            kinds = [(kind, elements[kind], -(-bits[kind] // 8), growth[kind]) for kind in elements]
            kinds.append(("total", sum(elements.values()), sum(row[2] for row in kinds), growth_exponent(config)))
            found += [(model, kind, context, size, of_bytes, beyond, *how) for kind, size, of_bytes, how in kinds]
    except UserError as error:
        raise UserError(f"{model}: {error}") from error
    return found


def readable(size: float) -> str:
    """1 234 567 bytes as 1.2 MB."""
    for unit in UNITS[:-1]:
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} {UNITS[-1]}"


def show(table: pd.DataFrame) -> None:
    """The totals, a line a model; a star behind those at lengths beyond what the model announces."""
    total = table[table["layer_kind"] == "total"].copy()
    stars = total["beyond_maximum"].map({True: "*", False: " "})
    total["state"] = total["state_bytes"].map(readable) + stars
    wide = total.pivot(index="model", columns="context_tokens", values="state").loc[total["model"].unique()]
    wide.columns = [f"{context:,} " for context in wide.columns]
    print(wide.rename_axis("bytes after … tokens").to_string())
    if total["beyond_maximum"].any():
        number = total.loc[total["beyond_maximum"], "model"].nunique()
        print(f"* beyond the maximum of the configuration (max_position_embeddings), in {number} of {len(wide)} models")


def main(cfg: Settings) -> None:
    started = time.time()
    cfg.validate()
    listed = published()
    loaded = [load(model, listed) for model in cfg.model] if cfg.model else list(listed.items())
    names = [name for name, _ in loaded]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two of --model are called {name}: rename a file or folder")
    table = pd.DataFrame([row for name, config in loaded for row in rows(name, config, cfg)], columns=COLUMNS)
    files = [path for path in map(Path, cfg.model) if path.suffix in (".json", ".gguf") and path.is_file()]
    write_csv(cfg.out, table, cfg, inputs=[CONFIGURATIONS, *files], started=started)
    show(table)
    print(f"wrote {cfg.out}")


if __name__ == "__main__":
    run(main, Settings, __doc__)
