"""Model folders: a network, its tokenizer and its defaults, as Hugging Face lays them out, written and
read."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from newleaf.errors import InputError
from newleaf.families import Family, family_for, family_of, nearest_family
from newleaf.families.unread_config_fields import GENERATION
from newleaf.families.weights import Rule, from_hugging_face, rows_of, same
from newleaf.model import GPT, ConfigError, GPTConfig
from newleaf.model.count import count_parameters
from newleaf.quant import mxfp4
from newleaf.quant.packed import Format, Packed
from newleaf.storage.atomic_write import replace_directory, write_json
from newleaf.storage.build_network import Precision, empty_network, load_weights
from newleaf.storage.pretrained_note import Note, note_of
from newleaf.storage.safetensors_shards import StateDictExport
from newleaf.storage.stored_weights import StoredWeights
from newleaf.storage.tied_head import untie_if_stored_apart
from newleaf.text.load_tokenizer import has_tokenizer, no_tokenizer
from newleaf.text.terminal_text import printable
from newleaf.text.tokenizer import Tokenizer
from newleaf.untrusted import read_object

# A network that no stock class holds is written under this model_type, with newleaf's own names.
OWN_TYPE = "newleaf"
CLASSIFIER = "ForSequenceClassification"  # how the names of stock classifiers end
MAX_FIELDS_NAMED = 8  # unknown fields in a line
MAX_PARAMETERS = 1 << 56  # beyond that PyTorch cannot count a tensor's bytes


@dataclass(frozen=True)
class ModelFolder:
    """A model folder or GGUF file, opened: network, tokenizer, family's name and generation defaults.

    `own_tokenizer` is None where the folder has none. `pretrained` is how it was pretrained, where that is
    noted.
    """

    path: Path
    network: GPT
    own_tokenizer: Tokenizer | None
    family: str
    defaults: dict[str, Any]
    pretrained: Note = field(default_factory=dict)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises InputError where the folder has none."""
        if self.own_tokenizer is None:
            raise no_tokenizer(self.path)
        return self.own_tokenizer


@dataclass(frozen=True)
class Addition:
    """What a folder holds beside a GPT: a classifier's fields of config.json, the rules of its own weights
    and their shapes."""

    values: Mapping[str, Any]
    rules: tuple[Rule, ...]
    shapes: Mapping[str, torch.Size]


def is_classifier(values: Mapping[str, Any]) -> bool:
    """Whether this config.json is of a classifier."""
    named, own = values.get("architectures"), values.get("newleaf")
    first = named[0] if isinstance(named, list) and named else ""
    return str(first).endswith(CLASSIFIER) or (isinstance(own, Mapping) and "classifier" in own)


def why_not_stock(config: GPTConfig) -> str | None:
    """What to change so that stock transformers can open this network, or None where it can already."""
    if family_for(config) is not None:
        return None
    family, changes = nearest_family(config)
    wanted = ", ".join(
        f"model.{name} {str(value).lower() if isinstance(value, bool) else value}"
        for name, value in changes.items()
    )
    return (
        f"stock transformers has no such network, so this folder opens in newleaf only; for "
        f"{family.architecture} train with {wanted}"
    )


def save_folder(
    path: Path,
    config: GPTConfig,
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer | None,
    notes: dict[str, Any] | None = None,
    *,
    dtype: torch.dtype | None = None,
    defaults: Mapping[str, Any] | None = None,
    addition: Addition | None = None,
) -> str | None:
    """Write a model folder, whole or not at all, over whatever `path` held. `weights` have newleaf's names.

    Returns None, or a sentence when stock transformers cannot open the result. `notes` go under `newleaf` in
    config.json, `defaults` to generation_config.json; `dtype` is the type of the stored weights, unless given
    the one they have. An `addition` takes the place of the head.
    """
    family = family_for(config)
    shapes = {name: tensor.shape for name, tensor in empty_network(config).state_dict().items()}
    if family is not None:
        values, rules = family.write_config(config), family.rules(config)
    else:
        values = {"model_type": OWN_TYPE, "newleaf": {"config": config.to_dict()}}
        rules = [same(name, name) for name in shapes if not (config.tie_embeddings and name == "head.weight")]
    if addition is not None:
        rules = _without_head(rules) + list(addition.rules)
        values, shapes = values | dict(addition.values), shapes | dict(addition.shapes)
    export = StateDictExport(rules, weights, dtype)
    values["dtype"] = str(export.written_as).removeprefix("torch.")
    ends = special_ids(tokenizer)
    generation = {name: value for name, value in ends.items() if value is not None} | dict(defaults or {})
    # two files that say the same
    values |= {name: _ids_in_vocabulary(generation.get(name), config.vocab_size) for name in ends}
    if notes:
        values["newleaf"] = values.get("newleaf", {}) | notes
    with replace_directory(path) as aside:
        write_json(aside / "config.json", values)
        write_json(aside / "generation_config.json", generation)
        if tokenizer is not None:
            tokenizer.save(aside)
        export.write(aside, shapes)
    return why_not_stock(config)


def special_ids(tokenizer: Tokenizer | None) -> dict[str, int | None]:
    """A tokenizer's special ids by their names in config.json; None for each without a tokenizer."""
    if tokenizer is None:
        return dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    return {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }


def find_tokenizer(path: Path) -> Tokenizer | None:
    """The tokenizer of a model folder, or None where it has none. Raises InputError for a damaged one."""
    return Tokenizer.load(path) if has_tokenizer(path) else None


def load_folder(
    path: Path, precision: Precision | None = None, tokenizer: Tokenizer | None = None
) -> ModelFolder:
    """Open a model folder, with `tokenizer` in place of its own; weights keep their precision unless given.

    Raises InputError, naming the file, when something is missing, damaged or of an unknown architecture.
    """
    values = read_config(path)
    config, family = parse_config(values, path)
    warn_unknown_fields(values, family, path)
    stored = StoredWeights(path)
    if config.n_layer > len(stored):
        raise InputError(
            f"{path}: config.json says {config.n_layer} layers, more than the weights have tensors"
        )
    if is_classifier(values):  # it is stored without the language model's head
        config = config.replace(tie_embeddings=True, head_bias=False)
    else:
        config = untie_if_stored_apart(config, family, stored)
    network = empty_network(config)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    weights: Iterator[tuple[str, Tensor | Packed]]
    if family is not None:
        keep = stored.packed if precision is None or isinstance(precision, Format) else set()
        rules = _without_head(family.rules(config)) if is_classifier(values) else family.rules(config)
        weights = (pair for rule in rules for pair in _read_rule(rule, stored, shapes, rule.theirs in keep))
    else:
        weights = _own_weights(stored, shapes, config, path)
    network = load_weights(network, weights, precision)
    tokenizer = tokenizer or find_tokenizer(path)
    if tokenizer is not None:
        tokenizer = tokenizer.fit_vocabulary(config.vocab_size, path)
    name = family.name if family else OWN_TYPE
    return ModelFolder(path, network, tokenizer, name, read_defaults(path, values), note_of(values))


def read_defaults(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """How the model is to write: the folder's generation_config.json, or where there is none the same fields
    of config.json (`values`), as stock transformers reads them. Raises InputError when it is broken."""
    if (path / "generation_config.json").exists():
        return read_object(path / "generation_config.json")
    return {name: values[name] for name in sorted(GENERATION) if values.get(name) is not None}


def unknown_fields(values: dict[str, Any], family: Family | None) -> list[str]:
    """Fields of a config.json that `parse_config` has read, which newleaf does not know and ignores."""
    return family.unknown_fields(values) if family is not None else []


def warn_unknown_fields(values: dict[str, Any], family: Family | None, path: Path) -> None:
    """Say in one line which fields are ignored."""
    if names := unknown_fields(values, family):
        shown = ", ".join(printable(name)[:60] for name in names[:MAX_FIELDS_NAMED])
        more = f" and {len(names) - MAX_FIELDS_NAMED} more" if len(names) > MAX_FIELDS_NAMED else ""
        logging.getLogger("newleaf").warning(
            f"{path / 'config.json'}: ignored, since newleaf does not know them: {shown}{more}"
        )


def read_config(path: Path) -> dict[str, Any]:
    """The folder's config.json. Raises InputError when there is none or it is broken."""
    file = path / "config.json"
    if not file.exists():
        raise InputError(f"{path}: not a model folder, it has no config.json")
    return read_object(file)


def parse_config(values: dict[str, Any], path: Path) -> tuple[GPTConfig, Family | None]:
    """The configuration and family of a config.json; the family is None for newleaf's own type."""
    try:
        if values.get("model_type") == OWN_TYPE:
            return _check_parameter_count(
                GPTConfig.from_dict((values.get("newleaf") or {}).get("config") or {})
            ), None
        family = family_of(values)
        return _check_parameter_count(family.read_config(values)), family
    except (ConfigError, InputError) as error:
        raise InputError(f"{path / 'config.json'}: {error}") from None
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError, OverflowError) as error:
        raise InputError(
            f"{path / 'config.json'}: a field has a value of the wrong kind ({str(error)[:200]})"
        ) from None


def _read_rule(
    rule: Rule, stored: StoredWeights, shapes: dict[str, torch.Size], keep_packed: bool
) -> Iterator[tuple[str, Tensor | Packed]]:
    """The weights of one rule; MXFP4 experts stay packed where that is possible."""
    if keep_packed:
        blocks, scales = stored.blocks_and_scales(rule.theirs)
        for name, rows in rows_of(rule, shapes):
            weight = mxfp4.pack(blocks, scales, rows, tuple(shapes[name]))
            if weight is None:
                break
            yield name, weight
        else:
            return
    yield from from_hugging_face([rule], stored, shapes)


def _without_head(rules: list[Rule]) -> list[Rule]:
    return [rule for rule in rules if not any(name.startswith("head.") for name in rule.ours)]


def _check_parameter_count(config: GPTConfig) -> GPTConfig:
    if (count := count_parameters(config).total) > MAX_PARAMETERS:
        raise InputError(f"its sizes make {count:.1e} weights, more than can be")
    return config


def _ids_in_vocabulary(ids: Any, vocab_size: int) -> Any:
    """An id, or a list of them, as config.json may have it: stock transformers makes an embedding of it,
    which must have the row."""
    fits = all(
        type(token) is int and 0 <= token < vocab_size for token in (ids if isinstance(ids, list) else [ids])
    )
    return ids if fits else None


def _own_weights(
    stored: Mapping[str, Tensor], shapes: dict[str, torch.Size], config: GPTConfig, path: Path
) -> Iterator[tuple[str, Tensor | Packed]]:
    for name in shapes:
        if config.tie_embeddings and name == "head.weight":
            continue
        if name not in stored or (tensor := stored[name]).shape != shapes[name]:
            raise InputError(f"{path}: {name} is missing or has another shape than config.json says")
        yield name, tensor
