"""Adapters under the names, and in the fusing, of Hugging Face's peft: adapter_config.json's fields and the
tensors beside it.

    base_model.model.<layer>.lora_A.weight [r, C]      one for all that Hugging Face stores as one tensor
(GPT-2's, GPT-NeoX's q, k and v)
    base_model.model.<layer>.lora_B.weight [R, r]      its rows in the stored tensor's order
    base_model.model.<layer>.lora_magnitude_vector [R] DoRA
    base_model.model.score.weight [L, C]               a classifier's head (SEQ_CLS), named in
`modules_to_save`
    base_model.model.<layer>.base_layer.weight         a copy of the base's weights under an update of the
head or the table of tokens
    base_model.model.<layer>.weight                    weights trained whole (`modules_to_save`)
    base_model.model.<table>.lora_embedding_A [r, V]   an update of the table of tokens, W + s (B A)ᵀ, with
lora_embedding_B [C, r]

Experts are parameters of one module: there A is [E·r, C] expert by expert, B is [R, r·E] rank by rank, and a
module of which several parameters are adapted is wrapped as often, the first innermost (`base_layer`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from newleaf.adapters.adapter import Adapter, Part
from newleaf.adapters.lora_config import AdapterConfig
from newleaf.adapters.peft_fields import check_about, check_rank, scale_of
from newleaf.errors import InputError
from newleaf.families.weights import Rule, from_hugging_face, to_hugging_face

TABLE = "embedding.token.weight"
PREFIX, INNER = "base_model.model.", "base_layer."
LANGUAGE, LABELS = "CAUSAL_LM", "SEQ_CLS"  # task types
SCORE = f"{PREFIX}score.weight"
Shapes = Mapping[str, torch.Size]


def new_about(
    config: AdapterConfig, rules: Sequence[Rule], shapes: Shapes, base: str | None
) -> dict[str, Any]:
    """The adapter_config.json of a new adapter of a language model on what these rules name."""
    layers = sorted(_layer(rule) for rule in rules if not _experts(rule, shapes))
    return {
        "peft_type": "LORA",
        "task_type": LANGUAGE,
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": int(config.alpha) if float(config.alpha).is_integer() else config.alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.rslora,
        "use_dora": config.dora,
        "target_modules": layers,
        "target_parameters": [rule.theirs for rule in rules if _experts(rule, shapes)] or None,
        "fan_in_fan_out": any(rule.transpose and not _experts(rule, shapes) for rule in rules),
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
    }


def read_peft(
    about: Mapping[str, Any], tensors: Mapping[str, Tensor], rules: Iterable[Rule], shapes: Shapes
) -> Adapter:
    """An adapter from peft's fields and tensors. `rules` and `shapes` are those of the network it is for.

    Raises InputError for a field that newleaf does not honour, and for tensors that the network has no place
    for.
    """
    check_about(about)
    parts: dict[str, Part] = {}
    used: set[str] = set()
    score = _score(about, tensors, shapes)
    if score is not None:
        used.add(SCORE)
    rules = list(rules)
    wanted = [rule for rule in rules if rule.theirs.endswith(".weight") or _experts(rule, shapes)]
    for rule, places in _places(wanted, about, shapes):
        for place in places:
            names = {kind: name for kind in KINDS if (name := f"{place}.{KINDS[kind]}") in tensors}
            if names:
                used |= set(names.values())
                parts |= _read(
                    rule, {kind: tensors[name] for kind, name in names.items()}, about, place, shapes
                )
                break
    table, mine = _embedding(wanted, tensors, about, shapes)
    whole, more = _whole(rules, tensors, shapes)
    left = sorted(set(tensors) - used - mine - more)
    if left:
        raise InputError(
            f"the adapter holds {left[0]}, and this network has no such layer: it belongs to another base"
        )
    if not parts and not table and not whole:
        raise InputError("the adapter holds no tensors")
    return Adapter(parts | table, dict(about), score=score, whole=whole)


def _embedding(
    rules: Sequence[Rule], tensors: Mapping[str, Tensor], about: Mapping[str, Any], shapes: Shapes
) -> tuple[dict[str, Part], set[str]]:
    """The update of the table of tokens, as one of its rows, and the names of the tensors that it stands
    in."""
    for rule in rules:
        if rule.ours != (TABLE,):
            continue
        for place in _either(_layer(rule)):
            names = [f"{place}.lora_embedding_{part}" for part in "AB"]
            if all(name in tensors for name in names):
                a, b = (tensors[name] for name in names)
                if (
                    a.ndim != 2
                    or b.ndim != 2
                    or not len(a)
                    or (a.shape[1], b.shape[0]) != tuple(shapes[TABLE])
                    or a.shape[0] != b.shape[1]
                ):
                    raise InputError(
                        f"{names[0]} is no update of a table of shape {tuple(shapes[TABLE])}: it belongs to "
                        f"another base"
                    )
                check_rank(about, layer := place.removeprefix(PREFIX), len(a))
                return {TABLE: Part(b.T.contiguous(), a.T.contiguous(), scale_of(about, layer, len(a)))}, set(
                    names
                )
    return {}, set()


def _whole(
    rules: Sequence[Rule], tensors: Mapping[str, Tensor], shapes: Shapes
) -> tuple[dict[str, Tensor], set[str]]:
    """Weights that stand in the adapter whole, trained or copied from its base, and the names of their
    tensors."""
    found: dict[str, Tensor] = {}
    used: set[str] = set()
    for rule in rules:
        if not rule.ours or rule.derived is not None:
            continue
        layer, _, leaf = rule.theirs.rpartition(".")
        for name in [f"{place}.{inner}{leaf}" for place in _either(layer) for inner in ("", INNER)]:
            if name in tensors:
                found |= dict(from_hugging_face([rule], {rule.theirs: tensors[name]}, shapes))
                used.add(name)
    return found, used


def _either(layer: str) -> list[str]:
    """Where a layer's tensors are: by its whole name, and by that of a bare network."""
    return [PREFIX + layer, PREFIX + layer.split(".", 1)[-1]]


def write_peft(adapter: Adapter, rules: Iterable[Rule], shapes: Shapes) -> dict[str, Tensor]:
    """The tensors of an adapter as peft names and fuses them."""
    found: dict[str, Tensor] = {}
    rules = list(rules)
    wanted = [rule for rule in rules if rule.ours and rule.ours[0] in adapter.parts and rule.ours != (TABLE,)]
    for rule, places in _places(wanted, adapter.about, shapes):
        place, parts = places[0], [adapter.parts[name] for name in rule.ours]
        rows = replace(rule, transpose=False)
        a, b = (
            parts[0].a,
            to_hugging_face([rows], {name: part.b for name, part in zip(rule.ours, parts, strict=True)})[
                rule.theirs
            ],
        )
        if _experts(rule, shapes):
            a, b = a.flatten(0, 1), b.permute(1, 2, 0).flatten(1)
        found[f"{place}.{KINDS['a']}"], found[f"{place}.{KINDS['b']}"] = a.contiguous(), b.contiguous()
        lengths = {
            name: part.magnitude.unsqueeze(1)
            for name, part in zip(rule.ours, parts, strict=True)
            if part.magnitude is not None
        }
        if lengths:
            found[f"{place}.{KINDS['magnitude']}"] = to_hugging_face([rows], lengths)[rule.theirs].squeeze(1)
    if adapter.score is not None:
        found[SCORE] = adapter.score.contiguous()
    for rule in rules:
        layer, _, leaf = rule.theirs.rpartition(".")
        if rule.ours == (TABLE,) and TABLE in adapter.parts:
            part = adapter.parts[TABLE]
            found[f"{PREFIX}{layer}.lora_embedding_A"] = part.b.T.contiguous()
            found[f"{PREFIX}{layer}.lora_embedding_B"] = part.a.T.contiguous()
        if rule.ours and set(rule.ours) <= adapter.whole.keys():
            inner = INNER if rule.ours[0] in adapter.parts else ""
            found[f"{PREFIX}{layer}.{inner}{leaf}"] = to_hugging_face([rule], adapter.whole)[rule.theirs]
    return found


def about_labels(about: Mapping[str, Any]) -> dict[str, Any]:
    """The adapter_config.json of an adapter that gives labels."""
    return {**about, "task_type": LABELS, "modules_to_save": ["score"]}


KINDS = {"a": "lora_A.weight", "b": "lora_B.weight", "magnitude": "lora_magnitude_vector"}


def gives_labels(about: Mapping[str, Any]) -> bool:
    """Whether this adapter makes a classifier of its base."""
    return about.get("task_type") == LABELS


def _score(about: Mapping[str, Any], tensors: Mapping[str, Tensor], shapes: Shapes) -> Tensor | None:
    """The head of a classifier's adapter."""
    if not gives_labels(about):
        return None
    score, columns = tensors.get(SCORE), shapes["embedding.token.weight"][1]
    if score is None or score.ndim != 2 or score.shape[1] != columns:
        raise InputError(
            f"{SCORE} is missing or does not read {columns} numbers, so it gives no labels over this base"
        )
    return score


def _read(
    rule: Rule, tensors: Mapping[str, Tensor], about: Mapping[str, Any], place: str, shapes: Shapes
) -> dict[str, Part]:
    """One layer of theirs as the parts of ours that it holds."""
    if "a" not in tensors or "b" not in tensors:
        raise InputError(f"the adapter has only one of lora_A and lora_B of {place}")
    a, b = tensors["a"], tensors["b"]
    if a.ndim != 2 or b.ndim != 2 or not a.numel() or not b.numel():
        raise InputError(
            f"{place} has shapes {tuple(a.shape)} and {tuple(b.shape)}, and lora_A and lora_B are matrices"
        )
    if _experts(rule, shapes):
        count = shapes[rule.ours[0]][0]
        if len(a) % count or b.shape[1] != len(a):
            raise InputError(
                f"{place} has shapes {tuple(a.shape)} and {tuple(b.shape)}, which {count} experts do not "
                f"divide"
            )
        a = torch.unflatten(a, 0, (count, -1))
        b = torch.unflatten(b, 1, (-1, count)).permute(2, 0, 1)
    rank, columns = a.shape[-2], shapes[rule.ours[0]][-1]
    if a.shape[-1] != columns or b.shape[-1] != rank:
        raise InputError(
            f"{place} has shapes {tuple(tensors['a'].shape)} and {tuple(tensors['b'].shape)}, and reads "
            f"{columns} numbers here: "
            "it belongs to another base"
        )
    layer = place.removeprefix(PREFIX)
    check_rank(about, layer, rank)
    scale = scale_of(about, layer, rank)
    rows = replace(rule, transpose=False)
    thin = {name: torch.Size((*shapes[name][:-1], rank)) for name in rule.ours}
    ups = dict(from_hugging_face([rows], {rule.theirs: b}, thin))
    lengths: dict[str, Tensor] = {}
    if "magnitude" in tensors:
        single = {name: torch.Size((shapes[name][0], 1)) for name in rule.ours}
        lengths = dict(from_hugging_face([rows], {rule.theirs: tensors["magnitude"].view(-1, 1)}, single))
    elif about.get("use_dora"):
        raise InputError(f"adapter_config.json says use_dora, and {place} has no magnitudes")
    return {
        name: Part(
            a, ups[name].contiguous(), scale, lengths[name].squeeze(1).contiguous() if lengths else None
        )
        for name in rule.ours
    }


def _places(
    rules: Sequence[Rule], about: Mapping[str, Any], shapes: Shapes
) -> Iterable[tuple[Rule, list[str]]]:
    """Where each rule's tensors are: the name to write, and then the one that a bare network's adapter
    has."""
    named = about.get("target_parameters") or []
    stacks: dict[str, list[Rule]] = {}
    for rule in rules:
        if _experts(rule, shapes) and any(
            rule.theirs == name or rule.theirs.endswith(f".{name}") for name in named
        ):
            stacks.setdefault(rule.theirs.rpartition(".")[0], []).append(rule)
    for rule in rules:
        layer = _layer(rule)
        if _experts(rule, shapes):
            group = stacks.get(layer := rule.theirs.rpartition(".")[0], [])
            if rule not in group:
                continue
            layer = ".".join([layer, *[INNER[:-1]] * (len(group) - 1 - group.index(rule))])
        yield rule, [PREFIX + layer, PREFIX + layer.split(".", 1)[-1]]


def _layer(rule: Rule) -> str:
    return rule.theirs.removesuffix(".weight")


def _experts(rule: Rule, shapes: Shapes) -> bool:
    return bool(rule.ours) and len(shapes[rule.ours[0]]) == 3
