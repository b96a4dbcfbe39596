"""What a folder holds, read from its small files and the heads of its weights, without opening the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml

from newleaf.model import GPT
from newleaf.storage.folder import OWN_TYPE, describe, read_config, why_not_stock
from newleaf.storage.hub import MODEL_FILES, TOKENIZER_FILES, local_folder
from newleaf.storage.stored_weights import StoredWeights
from newleaf.text.tokenizer import Tokenizer


def facts(path: str | Path) -> dict[str, Any]:
    """Facts about a run, a model folder, a GGUF file or a model of the Hub, as `newleaf info` prints them.

    Raises InputError when it is none of them.
    """
    if Path(path).suffix == ".gguf":
        from newleaf.storage.gguf_read import gguf_facts

        return gguf_facts(path)
    folder = local_folder(path, (*MODEL_FILES, *TOKENIZER_FILES))
    found: dict[str, Any] = {}
    if (folder / "run.yaml").exists():
        found = _run_facts(folder)
        folder = folder / "model"
        if not folder.exists():
            return found
    return found | _model_facts(folder)


def _run_facts(folder: Path) -> dict[str, Any]:
    record = yaml.safe_load((folder / "run.yaml").read_text("utf-8"))
    made = record.get("record", {})
    found = {"run": str(folder), "source": ", ".join(record.get("source", [])), "begun": made.get("begun", "")}
    summary = folder / "summary.json"
    if not summary.exists():
        return found | {"state": f"not ended; newleaf pretrain --resume {folder}"}
    values = json.loads(summary.read_text("utf-8"))
    return found | {
        "state": "finished" if values["finished"] else f"stopped early; newleaf pretrain --resume {folder}",
        "bits_per_byte": round(values["val_bits_per_byte"], 4),
        "steps": values["steps"],
        "tokens_seen": values["tokens_seen"],
        "seconds": values["total_seconds"],
    }


def _model_facts(folder: Path) -> dict[str, Any]:
    values = read_config(folder)
    config, family = describe(values, folder)
    with torch.device("meta"):
        network = GPT(config)
    count = network.parameter_count()
    tokenizer = Tokenizer.load(folder)
    dtype, size = _stored(folder)
    cache = 2 * config.n_layer * config.n_kv_head * config.head_dim * config.context_length * size
    heads = f"{config.n_head} heads" + (f" ({config.n_kv_head} for keys and values)" if config.n_kv_head != config.n_head else "")
    return {
        "model": str(folder),
        "family": family.name if family else OWN_TYPE,
        "parameters": count,
        "of_these_embeddings": network.embedding.token.weight.numel() * (1 if config.tie_embeddings else 2),
        "shape": f"{config.n_layer} layers × {config.n_embd}, {heads}, feed-forward {config.n_inner}",
        "context": config.context_length,
        "stored_as": dtype,
        "tokenizer": f"{tokenizer.kind}, {tokenizer.vocab_size:,} tokens",
        "memory_to_run": f"{(count * size + cache) / 1e6:,.0f} MB (weights, and a full cache for one text)",
        "opens_in": why_not_stock(config) or f"stock transformers, as {family.architecture if family else ''}",
    }


def _stored(folder: Path) -> tuple[str, int]:
    """Number format of the weights, and its bytes."""
    weights = StoredWeights(folder)
    first = weights[next(iter(weights))]
    return str(first.dtype).removeprefix("torch.") + (", experts in MXFP4" if weights.packed else ""), first.element_size()
