"""What a model is, read from its small files and the heads of its weights, without opening it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from newleaf.errors import InputError
from newleaf.families import Family
from newleaf.format_amounts import byte_size, counted
from newleaf.model import GPTConfig
from newleaf.model.count import count_parameters
from newleaf.quant.packed import FORMATS
from newleaf.storage.adapter_folder import means_adapter
from newleaf.storage.adapter_info import adapter_info
from newleaf.storage.check_shapes import shape_mismatch
from newleaf.storage.gguf_header import TensorInfo
from newleaf.storage.hub import MODEL_CARD, TOKENIZER_FILES
from newleaf.storage.model_folder import (
    OWN_TYPE,
    find_tokenizer,
    is_classifier,
    parse_config,
    read_config,
    unknown_fields,
    why_not_stock,
)
from newleaf.storage.opening_memory import (
    OpeningMemory,
    StoredMatrix,
    folder_opening_memory,
    gguf_opening_memory,
)
from newleaf.storage.resolve_model import is_gguf, resolve_model
from newleaf.storage.stored_weights import StoredWeights
from newleaf.storage.weight_files import WEIGHT_FILES, index_name, weight_files
from newleaf.text.tokenizer import Tokenizer
from newleaf.untrusted import open_regular, parse_yaml

FP32_BYTES, BF16_BYTES = 4, 2  # bytes
SCALE_BYTES = 2  # bytes of a group's scale
MAX_CARD_BYTES = 1 << 20  # of a README that are read


@dataclass(frozen=True)
class _ModelFacts:
    """One model's parts, wherever they stood."""

    path: Path
    family: str
    config: GPTConfig
    tokenizer: Tokenizer | None
    stored_as: str
    licence: str | None
    opens_in: str
    opening: OpeningMemory | None  # None where the weights are not here
    ignored: tuple[str, ...] = ()  # fields of config.json that newleaf does not know
    damage: str | None = None  # where the weights are not what config.json says


def model_info(name: str | Path) -> dict[str, Any]:
    """Facts about a run's model, a model folder, an adapter, a GGUF file or a model of the Hub, as `newleaf
    info --json` prints them.

    Of a model of the Hub only the small files are fetched; of an adapter's base those on this disk are read.
    Raises InputError when `name` is none of these.
    """
    if means_adapter(name):
        adapter = adapter_info(name)
        there = adapter["base"] is not None and Path(adapter["base"]).exists()
        return (
            adapter
            | (_base_model_info(adapter["base"]) if there else {})
            | {"opens_in": "stock peft, over the base"}
        )
    return _base_model_info(name)


def read_network_config(name: str | Path) -> tuple[str, GPTConfig]:
    """The family's name and the configuration of a run, a folder, a GGUF file or a Hub name, of which only
    config.json is fetched."""
    path = resolve_model(name, ("config.json",))
    if is_gguf(path):
        from newleaf.storage.load_gguf import read_gguf_config

        _, layout, config = read_gguf_config(path)
        return layout.family, config
    values = read_config(path)
    config, family = parse_config(values, path)
    if (
        _has_weights(path)
        and (damage := shape_mismatch(path, config, family, is_classifier(values))) is not None
    ):
        raise InputError(damage)
    return family.name if family else OWN_TYPE, config


def memory_to_run(config: GPTConfig) -> dict[str, int]:
    """Bytes for the weights in each precision and a cache that holds one text as long as the context.

    fp32 and bf16 take 4 and 2 bytes a weight. int8 and int4 pack the matrices, P of the N weights, with a
    scale of 2 bytes for each group of 64 or 32: P · (1 + 2/64) or P · (1/2 + 2/32), and 4 · (N − P) for the
    rest. The cache has 2 · L · K · D numbers a token, of 4 bytes with fp32 weights and 2 otherwise; layers
    with a window keep the whole context too, as PyTorch has it.
    """
    counts, cache = (
        count_parameters(config),
        2 * config.n_layer * config.n_kv_head * config.head_dim * config.context_length,
    )
    needed = {"fp32": FP32_BYTES * (counts.total + cache), "bf16": BF16_BYTES * (counts.total + cache)}
    for name, form in FORMATS.items():
        packed = counts.packable * form.bits // 8 + counts.packable * SCALE_BYTES // form.group
        needed[name] = packed + FP32_BYTES * (counts.total - counts.packable) + BF16_BYTES * cache
    return needed


def _base_model_info(name: str | Path) -> dict[str, Any]:
    path = resolve_model(name, ("config.json", *TOKENIZER_FILES, MODEL_CARD))
    return _info_fields(
        _gguf_facts(path) if is_gguf(path) else _folder_facts(path, fetched=not Path(name).exists())
    )


def _info_fields(found: _ModelFacts) -> dict[str, Any]:
    config, counts = found.config, count_parameters(found.config)
    heads = counted(config.n_head, "head") + (
        f" ({config.n_kv_head} for keys and values)" if config.n_kv_head != config.n_head else ""
    )
    experts = (
        f" × {counted(config.n_expert, 'expert')}, {config.n_expert_active} a token"
        if config.n_expert
        else ""
    )
    tokenizer = found.tokenizer
    notes: dict[str, Any] = {"ignored_fields": list(found.ignored)} if found.ignored else {}
    notes |= {"damage": found.damage} if found.damage else {}
    return {
        "model": str(found.path),
        "family": found.family,
        "parameters": counts.total,
        "active_parameters": counts.active,
        "embedding_parameters": counts.embedding,
        "shape": f"{counted(config.n_layer, 'layer')} × {config.n_embd}, {heads}, feed-forward "
        f"{config.n_inner}{experts}",
        "context": config.context_length,
        "stored_as": found.stored_as,
        "tokenizer": {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size}
        if tokenizer is not None
        else None,
        "licence": found.licence,
        "memory_to_run": memory_to_run(config),
        "memory_to_open": found.opening.open if found.opening else None,
        "memory_of_first_request": found.opening.first_request if found.opening else None,
        "opens_in": found.opens_in,
    } | notes


def _folder_facts(path: Path, fetched: bool) -> _ModelFacts:
    values = read_config(path)
    config, family = parse_config(values, path)
    there, opening = _has_weights(path), None
    damage = shape_mismatch(path, config, family, is_classifier(values)) if there else None
    if there or not fetched:
        weights = StoredWeights(path)
        stored, opening = (
            weights.dtype_summary,
            _opening_memory(weights, config, family) if damage is None else None,
        )
    else:
        stored = (
            f"{values.get('dtype') or values.get('torch_dtype') or 'not said'}, as config.json says; "
            f"not fetched yet"
        )
    return _ModelFacts(
        path=path,
        family=family.name if family else OWN_TYPE,
        config=config,
        tokenizer=find_tokenizer(path),
        stored_as=stored,
        licence=_licence(path, values),
        opens_in=why_not_stock(config)
        or f"stock transformers, as "
        f"{(values.get('architectures') or [family.architecture if family else ''])[0]}",
        opening=opening,
        ignored=tuple(unknown_fields(values, family)),
        damage=damage,
    )


def _has_weights(path: Path) -> bool:
    return any((path / file).exists() for whole in WEIGHT_FILES for file in (whole, index_name(whole)))


def _gguf_facts(path: Path) -> _ModelFacts:
    from newleaf.storage.gguf_package import import_gguf
    from newleaf.storage.gguf_tokenizer import read_tokenizer
    from newleaf.storage.load_gguf import read_gguf_config

    file, layout, config = read_gguf_config(path)
    kinds = sorted({import_gguf().GGMLQuantizationType(stored.kind).name for stored in file.tensors.values()})
    size = sum(stored.size for stored in file.tensors.values())
    licence = file.metadata.get("general.license")
    return _ModelFacts(
        path=path,
        family=layout.family,
        config=config,
        tokenizer=read_tokenizer(file),
        stored_as=f"GGUF, {', '.join(kinds)}, {byte_size(size)}",
        licence=licence if isinstance(licence, str) else None,
        opens_in=f"llama.cpp, as {layout.name}",
        opening=gguf_opening_memory(
            config,
            [
                _matrix(name, tensor)
                for name, tensor in file.tensors.items()
                if not _is_duplicated_head(name, config)
            ],
        ),
    )


def _is_duplicated_head(name: str, config: GPTConfig) -> bool:
    """Whether this is the table of tokens again, as the head of a layout that has one for itself."""
    return name == "output.weight" and config.tie_embeddings


def _matrix(name: str, tensor: TensorInfo) -> StoredMatrix:
    from newleaf.storage.gguf_pack_blocks import CODE_BITS

    packs = (
        len(tensor.shape) > 1 and name != "position_embd.weight" and not name.endswith("ffn_gate_inp.weight")
    )
    return StoredMatrix(
        math.prod(tensor.shape), tensor.size, CODE_BITS.get(tensor.kind) if packs else None, packs
    )


def _opening_memory(stored: StoredWeights, config: GPTConfig, family: Family | None) -> OpeningMemory:
    """What opening a folder takes."""
    turned = {rule.theirs for rule in family.rules(config) if rule.transpose} if family is not None else set()
    types: Counter[str] = Counter()
    transposed = 0
    for name, kind, size in stored.sizes():
        types[kind] += size
        transposed += size if name in turned else 0
    largest = max((file.stat().st_size for file in weight_files(stored.folder)), default=0)
    compared = any(checksums.expected for checksums in stored.checksums.values())
    return folder_opening_memory(config, types, largest, transposed, compared)


def _licence(folder: Path, values: dict[str, Any]) -> str | None:
    """`license` of the model card's front matter, or of config.json, or the name of a licence file."""
    card = _front_matter(folder / MODEL_CARD)
    for license_field in (card.get("license"), values.get("license")):
        if isinstance(license_field, list):
            license_field = ", ".join(each for each in license_field if isinstance(each, str))
        if isinstance(license_field, str) and license_field:
            named = card.get("license_name")
            return (
                f"{license_field} ({named})"
                if license_field == "other" and isinstance(named, str)
                else license_field
            )
    return next((f"see {path.name}" for path in sorted(folder.glob("LICENSE*")) if path.is_file()), None)


def _front_matter(card: Path) -> dict[str, Any]:
    """The YAML between the first two lines of dashes; empty where there is none or it is broken."""
    if not card.is_file():
        return {}
    with open_regular(card) as file:
        parts = file.read(MAX_CARD_BYTES).decode("utf-8", "replace").replace("\r\n", "\n").split("---\n", 2)
    try:
        found = parse_yaml(card, parts[1]) if len(parts) == 3 and not parts[0].strip() else {}
    except InputError:
        return {}
    return found if isinstance(found, dict) else {}
