"""Adapter folders as peft lays them out, and a file of newleaf's own that tells which base they belong to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from newleaf.adapters.adapter import Adapter, weight_of
from newleaf.adapters.fingerprint import fingerprint, same_base
from newleaf.adapters.peft_fields import check_about
from newleaf.adapters.peft_format import read_peft, write_peft
from newleaf.errors import InputError
from newleaf.families import FAMILIES, family_for
from newleaf.families.weights import Rule, same
from newleaf.model import GPT, GPTConfig
from newleaf.quant.packed import Packed
from newleaf.storage.atomic_write import replace_directory, write_json
from newleaf.storage.build_network import empty_network
from newleaf.storage.checksums import Checksums
from newleaf.storage.hub import local_folder
from newleaf.storage.number_range import check_finite
from newleaf.storage.resolve_model import RUN_FILE, RUN_MODEL
from newleaf.storage.safetensors_file import write_safetensors
from newleaf.storage.weight_files import WEIGHT_FILES, index_name
from newleaf.text.tokenizer import Tokenizer
from newleaf.untrusted import check_regular, native_errors_as_input_errors, read_object

# peft warns of fields that it does not know, so what newleaf notes stands in a file beside its own.
CONFIG, WEIGHTS, NEWLEAF_FILE = "adapter_config.json", "adapter_model.safetensors", "newleaf.json"
ADAPTER_FILES = (CONFIG, WEIGHTS, NEWLEAF_FILE)
RUN_ADAPTER = "adapter"


def is_adapter(path: str | Path) -> bool:
    """Whether this is an adapter's folder on this disk."""
    return (Path(path) / CONFIG).is_file()


def means_adapter(path: str | Path) -> bool:
    """Whether who opens this means an adapter over its base: a folder with no weights of its own, or a run
    whose model is one."""
    folder = Path(path)
    if (folder / RUN_FILE).exists():
        return not (folder / RUN_MODEL).exists() and is_adapter(folder / RUN_ADAPTER)
    return is_adapter(folder) and not any(
        (folder / name).exists() for whole in WEIGHT_FILES for name in (whole, index_name(whole))
    )


def rules_of(config: GPTConfig, family: str | None = None) -> list[Rule]:
    """The weight map of the network's Hugging Face class, by its family's name where that is known; else
    newleaf's own names."""
    found = next((each for each in FAMILIES if each.name == family), None) or family_for(config)
    if found is not None:
        return found.rules(config)
    return [same(name, name) for name in empty_network(config).state_dict()]


def adapter_rules(config: GPTConfig, family: str | None = None) -> list[Rule]:
    """`rules_of`, with a head of its own, which an adapter may change where the base's is tied."""
    return rules_of(config.replace(tie_embeddings=False), family)


def save_adapter(
    path: Path,
    adapter: Adapter,
    config: GPTConfig,
    family: str | None = None,
    tokenizer: Tokenizer | None = None,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write an adapter's folder, whole or not at all: what stock peft opens over the same base; with a
    tokenizer if it has one.

    `notes` go to newleaf.json, beside what is known of the base.
    """
    about = dict(adapter.about)
    if about.get("base_model_name_or_path") and Path(about["base_model_name_or_path"]).exists():
        about["base_model_name_or_path"] = str(Path(about["base_model_name_or_path"]).resolve())
    tensors = write_peft(adapter, adapter_rules(config, family), shapes_of(config))
    for name, tensor in tensors.items():
        check_finite(name, tensor)
    with replace_directory(path) as aside:
        write_json(aside / CONFIG, about)
        write_safetensors(aside / WEIGHTS, tensors)
        own = dict(notes or {}) | ({"base": adapter.base} if adapter.base is not None else {})
        if own:
            write_json(aside / NEWLEAF_FILE, own)
        if tokenizer is not None:
            tokenizer.save(aside)


def load_adapter(path: str | Path, network: GPT, family: str | None = None) -> Adapter:
    """An adapter for this network, see `read_adapter`."""
    return read_adapter(path, network.config, family, lambda name: weight_of(network, name))


def read_adapter(
    path: str | Path, config: GPTConfig, family: str | None, weight: Callable[[str], Tensor | Packed]
) -> Adapter:
    """An adapter for a network whose base weights `weight` gives by name: a folder, a run that has one, or
    owner/name of the Hub.

    Raises InputError when it is damaged, uses what newleaf does not honour, or belongs to another base: by
    its fingerprint where it has one, and else where its shapes do not fit.
    """
    folder = adapter_folder(path)
    adapter = read_unchecked(folder, config, family)
    base = read_notes(folder).get("base")
    if base is not None:
        check_base(folder, base, fingerprint(config, weight))
    return replace(adapter, base=base)


def read_notes(folder: Path) -> dict[str, Any]:
    """What newleaf notes beside peft's files; empty where peft wrote the adapter."""
    return read_object(folder / NEWLEAF_FILE) if (folder / NEWLEAF_FILE).exists() else {}


def read_unchecked(folder: Path, config: GPTConfig, family: str | None = None) -> Adapter:
    """The adapter in this folder for such a network, whichever base it was trained on. Raises InputError as
    `read_adapter` does."""
    try:
        return read_peft(
            read_adapter_config(folder),
            _tensors(folder / WEIGHTS),
            adapter_rules(config, family),
            shapes_of(config),
        )
    except InputError as error:
        raise error if str(error).startswith(str(folder)) else InputError(f"{folder}: {error}") from None


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """What an adapter's folder holds, by peft's names. Raises InputError, naming the folder, when it is
    missing or damaged."""
    try:
        return _tensors(folder / WEIGHTS)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None


def check_base(folder: Path, base: Mapping[str, Any], own: dict[str, Any]) -> None:
    """Raises InputError, naming both fingerprints, where the network is not the base that the adapter was
    trained on."""
    try:
        fits = same_base(dict(base), own)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise InputError(f"{folder / NEWLEAF_FILE}: has no fingerprint of a base") from None
    if not fits:
        raise InputError(
            f"{folder}: was trained on another base, of fingerprint {str(base.get('id'))[:60]}, and this "
            f"one has {own['id']}"
        )


def adapter_folder(path: str | Path) -> Path:
    """The folder that holds the adapter: this one, a run's, or the Hub's."""
    folder = Path(path)
    if not folder.exists():
        folder = local_folder(path, ADAPTER_FILES)
    if not is_adapter(folder) and is_adapter(folder / RUN_ADAPTER):
        folder = folder / RUN_ADAPTER
    if not is_adapter(folder):
        raise InputError(f"{path}: not an adapter, it has no {CONFIG}")
    return folder


def base_of(path: str | Path) -> str:
    """Where the adapter's base is, as its configuration says. Raises InputError when it does not say."""
    folder = adapter_folder(path)
    name = read_adapter_config(folder).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise InputError(
            f"{folder}: {CONFIG} does not say which base it is for; give the base, and this as its adapter"
        )
    beside = (folder / name).resolve()
    return str(beside) if not Path(name).exists() and beside.exists() else name


def adapter_tokenizer(folder: Path, config: GPTConfig) -> Tokenizer | None:
    """The tokenizer beside an adapter, which may have a chat template that the base has not; None where there
    is none."""
    if not (folder / "tokenizer.json").exists():
        return None
    return Tokenizer.load(folder).fit_vocabulary(config.vocab_size, folder)


def read_adapter_config(folder: Path) -> dict[str, Any]:
    about = read_object(folder / CONFIG)
    try:
        check_about(about)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    return about


def shapes_of(config: GPTConfig) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in empty_network(config).state_dict().items()}


def _tensors(file: Path) -> dict[str, Tensor]:
    if not file.exists():
        raise InputError(f"{file.name} is missing")
    check_regular(file)
    with native_errors_as_input_errors(f"{file.name} is damaged or not safetensors"):
        with safe_open(file, framework="pt") as opened:
            found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (it is no dictionary)
            checksums = Checksums(opened.metadata())
        for name, tensor in found.items():
            checksums.check(name, tensor)
    return {name: _weights(name, tensor) for name, tensor in found.items()}


def _weights(name: str, tensor: Tensor) -> Tensor:
    """A tensor of an adapter; its number format one that sums can be made in. Raises InputError for what are
    no finite numbers."""
    if not tensor.is_floating_point():
        raise InputError(
            f"{name} is of type {str(tensor.dtype).removeprefix('torch.')}, and an adapter's tensors are "
            f"floating-point numbers"
        )
    usual = tensor if tensor.element_size() > 1 else tensor.float()  # fp8 is for storing
    if not bool(usual.isfinite().all()):
        raise InputError(
            f"{name} holds {'NaN' if bool(usual.isnan().any()) else 'infinity'}: the adapter is damaged, or "
            f"its training diverged"
        )
    return usual
