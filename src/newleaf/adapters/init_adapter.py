"""A new adapter: which layers its targets name, and the values it starts from."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator

import torch
from torch import nn

from newleaf.adapters.adapted_layers import AdaptedLinear, AdaptedStack, row_lengths
from newleaf.adapters.adapter import Adapter, Part, weight_of
from newleaf.adapters.fingerprint import fingerprint_of
from newleaf.adapters.lora_config import AdapterConfig
from newleaf.adapters.peft_format import new_about
from newleaf.errors import InputError
from newleaf.families.weights import Rule
from newleaf.model import GPT
from newleaf.quant.packed_layers import PackedLinear, PackedStack


def new_adapter(network: GPT, config: AdapterConfig, rules: list[Rule], base: str | None = None) -> Adapter:
    """An adapter that changes nothing yet: A uniform within ±1/√C from torch's generator, B zero, magnitudes
    the rows' lengths.

    `rules` are those of the Hugging Face class that is to hold it, `base` is where others find the base.
    Raises InputError for targets that name no layer, that name part of what Hugging Face stores as one, or
    that cannot be adapted.
    """
    parts: dict[str, Part] = {}
    chosen = targeted(network, config, rules)
    for rule in chosen:
        weights = [weight_of(network, name) for name in rule.ours]
        lead, columns = weights[0].shape[:-2], weights[0].shape[-1]
        bound = 1 / math.sqrt(columns)
        a = torch.empty(*lead, config.rank, columns).uniform_(-bound, bound)
        if lead and (config.dora or config.dropout):
            raise InputError(
                f"lora.{'dora' if config.dora else 'dropout'}: PEFT has none for experts; leave them out of "
                f"the targets"
            )
        for name, weight in zip(rule.ours, weights, strict=True):
            b = torch.zeros(*lead, weight.shape[-2], config.rank)
            magnitude = row_lengths(weight) if config.dora else None
            parts[name] = Part(a, b, config.scale, magnitude)
    shapes = {name: torch.Size(weight_of(network, name).shape) for name in parts}
    return Adapter(parts, new_about(config, chosen, shapes, base), fingerprint_of(network))


def targeted(network: GPT, config: AdapterConfig, rules: list[Rule]) -> list[Rule]:
    """The rules whose weights the targets name. Raises InputError as `new_adapter` does."""
    adaptable = set(_matrices(network))
    found: list[Rule] = []
    used: set[str] = set()
    for rule in rules:
        if not rule.ours or not adaptable.issuperset(rule.ours):
            continue
        named: list[set[str]] = []
        experts = len(weight_of(network, rule.ours[0]).shape) == 3
        theirs = rule.theirs.removesuffix(".weight")
        for name in rule.ours:
            path = name.removesuffix(".weight")
            hits = {
                target for target in config.targets
                if any(fnmatch.fnmatchcase(each, pattern) for each in (path, theirs) for pattern in (target,
                f"*.{target}"))
                or (target == "all" and path.startswith("blocks.") and not experts)
                or (target == "experts" and experts)
            }  # fmt: skip
            named.append(hits)
            used |= hits
        if all(named):
            found.append(rule)
        elif any(named):
            left = [
                name.removesuffix(".weight") for name, hits in zip(rule.ours, named, strict=True) if not hits
            ]
            whole = theirs.rpartition(".")[2]
            raise InputError(
                f"lora.targets: Hugging Face stores {', '.join(left)} in one tensor with what is named; "
                f"name {whole}"
            )
    for target in config.targets:
        if target not in used:
            tied = network.config.tie_embeddings and target in ("head", "lm_head", "embed_out")
            why = "the head is the table of tokens here" if tied else "no layer has such a name"
            raise InputError(
                f'lora.targets: {target!r} names nothing to adapt ({why}); "all" is every Linear '
                f"inside the blocks"
            )
    return found


def _matrices(network: GPT) -> Iterator[str]:
    """Names of the weights that can be adapted."""
    for path, module in network.named_modules():
        if path.endswith(("router", ".base")) or (path == "head" and network.config.tie_embeddings):
            continue
        if isinstance(module, nn.Linear | PackedLinear | AdaptedLinear):
            yield f"{path}.weight"
        elif isinstance(module, PackedStack | AdaptedStack):
            yield path
        else:
            yield from (
                f"{path}.{name}" for name, value in module.named_parameters(recurse=False) if value.ndim == 3
            )
