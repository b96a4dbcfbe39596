"""Opening GGUF files: the network dequantised, its tokenizer and chat template from the metadata."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from newleaf.errors import InputError
from newleaf.families.weights import Rule, from_hugging_face, rows_of
from newleaf.model import GPTConfig
from newleaf.quant.packed import Format, Packed
from newleaf.quant.packed_layers import packable
from newleaf.storage.build_network import Precision, empty_network, load_weights
from newleaf.storage.gguf_file import GGUFFile, open_gguf
from newleaf.storage.gguf_layout import Layout, layout_named
from newleaf.storage.gguf_pack_blocks import CODE_BITS, pack_blocks
from newleaf.storage.gguf_tokenizer import read_tokenizer
from newleaf.storage.model_folder import ModelFolder, special_ids
from newleaf.storage.pretrained_note import note_in_gguf
from newleaf.text.tokenizer import Tokenizer


def load_gguf(
    path: str | Path, precision: Precision | None = None, tokenizer: Tokenizer | None = None
) -> ModelFolder:
    """Open a GGUF file, with `tokenizer` in place of its own.

    Unless a precision is given, matrices in Q8_0, Q4_0, Q4_1 and MXFP4 stay packed, and the rest becomes
    fp32. Where one in fewer bits is asked for, those that have no more bits already stay as they are.

    Raises InputError, in one line, for a file that is damaged, whose numbers lie, or that holds what newleaf
    does not know.
    """
    file = open_gguf(
        Path(path), torch.float32 if isinstance(precision, Format) else precision or torch.float32
    )
    layout, config = _read_config(file)
    if tokenizer is not None:
        tokenizer = tokenizer.fit_vocabulary(config.vocab_size, path)
    else:
        tokenizer = read_tokenizer(file)
    if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
        raise InputError(
            f"{path}: the tokenizer has {tokenizer.vocab_size:,} tokens and the network only "
            f"{config.vocab_size:,}"
        )
    network = empty_network(config)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    rules = layout.rules(config, shapes)
    _check_tensors(file, rules, shapes, config)
    max_bits = 8 if precision is None else precision.bits if isinstance(precision, Format) else 0
    keep = packable(network)
    weights = (
        pair for rule in rules for pair in _read_rule(file, layout, config, rule, shapes, keep, max_bits)
    )
    network = load_weights(network, weights, precision)
    defaults = _defaults(file, tokenizer)
    return ModelFolder(Path(path), network, tokenizer, layout.family, defaults, note_in_gguf(file.metadata))


def _defaults(file: GGUFFile, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """The fields of a generation_config.json: special ids, those that end a turn too."""
    defaults: dict[str, Any] = {n: value for n, value in special_ids(tokenizer).items() if value is not None}
    turn = file.metadata.get("tokenizer.ggml.eot_token_id")
    if tokenizer is None or type(turn) is not int:
        return defaults
    if 0 <= turn < tokenizer.vocab_size and turn != tokenizer.eos_id:
        defaults["eos_token_id"] = [defaults["eos_token_id"], turn] if "eos_token_id" in defaults else turn
    return defaults


def _read_rule(
    file: GGUFFile,
    layout: Layout,
    config: GPTConfig,
    rule: Rule,
    shapes: dict[str, torch.Size],
    keep: set[str],
    max_bits: int,
) -> Iterator[tuple[str, Tensor | Packed]]:
    """The weights of one rule; those named in `keep` stay packed where they have no more than `max_bits`
    bits a code."""
    stored = file.tensors[rule.theirs]
    if CODE_BITS.get(stored.kind, 99) <= max_bits and keep.issuperset(rule.ours):
        data = file.block_rows(rule.theirs)
        packed = []
        for name, numbers in rows_of(rule, shapes):
            rows = layout.permute_rotary_rows(
                rule.theirs, numbers.unsqueeze(-1), config, reading=True
            ).squeeze(-1)
            packed.append((name, pack_blocks(data, stored.kind, rows, tuple(shapes[name]))))
        whole = [(name, weight) for name, weight in packed if weight is not None]
        if len(whole) == len(packed):
            yield from whole
            return
    for name, tensor in from_hugging_face([rule], file, shapes):
        yield name, layout.permute_rotary_rows(rule.theirs, tensor, config, reading=True)


def read_gguf_config(path: str | Path) -> tuple[GGUFFile, Layout, GPTConfig]:
    """A GGUF file's tensors, unread, its layout and its network. Raises InputError as `load_gguf` does."""
    file = open_gguf(Path(path))
    return file, *_read_config(file)


def _read_config(file: GGUFFile) -> tuple[Layout, GPTConfig]:
    """The layout and network of the metadata, with as many layers as the file has."""
    try:
        layout = layout_named(file.metadata.get("general.architecture"))
        if type(parts := file.metadata.get("split.count", 1)) is not int or parts > 1:
            raise InputError(
                f"it is one of {parts} parts, and newleaf reads GGUF files that are whole; llama.cpp's "
                f"gguf-split --merge joins them"
            )
        if "token_embd.weight" not in file:
            raise InputError("tensor token_embd.weight is missing")
        vocab_size = file.tensors["token_embd.weight"].shape[0]
        _check_layers(file, file.metadata.get(f"{layout.name}.block_count"))
        config = layout.read(file.metadata, file.tensors.keys(), vocab_size)
    except InputError as error:
        raise InputError(f"{file.path}: {error}") from None
    if layout.always_has_head and _same_bytes(file, "output.weight", "token_embd.weight"):
        # llama.cpp wants a head of its own, so a tied one is written twice
        config = config.replace(tie_embeddings=True)
    return layout, config


def _check_layers(file: GGUFFile, claimed: Any) -> None:
    """A first tensor for each layer, before anything is built of a number that may lie."""
    for i in range(claimed if type(claimed) is int else 0):
        if f"blk.{i}.attn_norm.weight" not in file:
            raise InputError(
                f"tensor blk.{i}.attn_norm.weight is missing, and the metadata claim {claimed:,} layers"
            )


def _same_bytes(file: GGUFFile, name: str, other: str) -> bool:
    one, two = file.tensors.get(name), file.tensors[other]
    if one is None or (one.shape, one.kind) != (two.shape, two.kind):
        return False
    first, second = (
        np.memmap(file.path, np.uint8, "r", stored.start, (stored.size,)) for stored in (one, two)
    )
    return bool(np.array_equal(first[:4096], second[:4096]) and np.array_equal(first, second))


def _check_tensors(
    file: GGUFFile, rules: list[Rule], shapes: dict[str, torch.Size], config: GPTConfig
) -> None:
    """Every tensor there with the shape it must have, and none besides, before any is dequantised."""
    known = {"output.weight"} if config.tie_embeddings else set()
    for rule in rules:
        known.add(rule.theirs)
        if rule.theirs not in file:
            raise InputError(f"{file.path}: tensor {rule.theirs} is missing")
        wanted: tuple[int, ...] = (config.context_length, config.n_embd)
        if rule.ours:
            wanted = (sum(shapes[name][0] for name in rule.ours), *shapes[rule.ours[0]][1:])
        if file.tensors[rule.theirs].shape != wanted:
            raise InputError(
                f"{file.path}: tensor {rule.theirs} has shape {file.tensors[rule.theirs].shape}, and the "
                f"metadata want {wanted}"
            )
    if left := [name for name in file if name not in known]:
        raise InputError(f"{file.path}: holds tensor {left[0][:60]}, which newleaf's layout does not honour")
