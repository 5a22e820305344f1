"""Opening a folder that measure_mutual_info/prepare_dataset.py wrote, the same way in every program that reads one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, load_from_disk

from common.cli import UserError

COLUMNS = ("document", "book", "input_ids")
FACTS = ("source", "tokenizer", "tokenizer_vocab_size")


def open_documents(folder: Path) -> tuple[Dataset, dict]:
    """The documents of a folder (memory-mapped), and its prepare.json.

    UserError: not a folder that prepare_dataset.py wrote and finished, or one without documents.
    """
    remedy = "give a folder written by prepare_dataset.py"
    description = folder / "prepare.json"
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: {remedy}")
    if not description.is_file():
        raise UserError(f"no prepare.json in {folder}: {remedy}")
    try:
        facts = json.loads(description.read_text(encoding="utf-8"))
        documents = load_from_disk(str(folder))
        if isinstance(documents, Dataset):
            documents.data.table.validate(full=True)  # offsets and names: quick, as any whole number may be a token
    except IndexError as error:  # what `datasets` raises for a table without rows
        raise UserError(f"no documents in {folder}: {remedy}") from error
    except (OSError, ValueError, KeyError, AttributeError, TypeError, pa.ArrowException) as error:
        raise UserError(
            f"cannot read the documents in {folder} ({(str(error) or type(error).__name__).splitlines()[0]}): {remedy}"
        ) from error
    lacking = [column for column in COLUMNS if column not in getattr(documents, "column_names", ())]
    if not isinstance(documents, Dataset) or lacking:
        raise UserError(f"the documents in {folder} have no column {lacking[0] if lacking else 'at all'}: {remedy}")
    lacking = [key for key in FACTS if not isinstance(facts, dict) or key not in facts]
    if lacking:
        raise UserError(f"{description} lacks {', '.join(lacking)}: {remedy}")
    return documents, facts


def document_lengths(documents: Dataset) -> np.ndarray:
    """Tokens of each document, shape (documents,), without reading the tokens themselves."""
    # Chunk by chunk: one Arrow list array ends at 2^31 tokens, and a large corpus has more.
    chunks = documents.data.column("input_ids").chunks
    return np.concatenate([np.asarray(chunk.value_lengths()) for chunk in chunks])
