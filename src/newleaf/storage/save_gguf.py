"""Writing GGUF files that llama.cpp opens: metadata, tokenizer, and the tensors one at a time in their number
format."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from newleaf.errors import InputError
from newleaf.families.weights import Rule, to_hugging_face
from newleaf.model import GPT, GPTConfig
from newleaf.storage.atomic_write import write_atomically
from newleaf.storage.checksums import bytes_checksum
from newleaf.storage.gguf_checksums import placeholder_checksums, write_checksums
from newleaf.storage.gguf_layout import Layout, layout_for
from newleaf.storage.gguf_package import import_gguf
from newleaf.storage.gguf_tokenizer import write_no_tokenizer, write_tokenizer
from newleaf.storage.number_range import check_range
from newleaf.storage.pretrained_note import Note, gguf_fields
from newleaf.text.tokenizer import Tokenizer

# Number formats of the matrices, with the number llama.cpp gives to a file of each.
FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q4_0": 2, "MXFP4": 38}
BLOCK_SIZE = 32
# below it the gguf package's exponent of a block wraps round, and the weights come back huge
MIN_MXFP4 = 2.0**-125
# Embedding and head lose more by four bits than the layers do.
HIGHER_PRECISION = {"token_embd.weight": "Q8_0", "output.weight": "Q8_0"}


def save_gguf(
    path: str | Path,
    config: GPTConfig,
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer | None,
    type: str = "F32",
    pretrained: Note | None = None,
) -> str | None:
    """Write a network with its tokenizer as one GGUF file, whole or not at all. `weights` have newleaf's
    names.

    `type` is the number format of the matrices: F32, F16, BF16, Q8_0 or Q4_0; vectors, biases and the routers
    of experts stay F32. Matrices whose rows do not fill blocks of 32 stay F16 in the last two. MXFP4 is for
    experts, beside which all else becomes BF16, as gpt-oss was published. `pretrained` is noted for whoever
    tunes the model. Returns None, or a sentence about what llama.cpp will do otherwise.

    Raises InputError for a network or a tokenizer that GGUF does not hold, before anything is written.
    """
    gguf = import_gguf()
    if type not in FILE_TYPES:
        raise InputError(f"type: {type!r} is not one of {', '.join(FILE_TYPES)}")
    if type == "MXFP4" and not config.n_expert:
        raise InputError("type: MXFP4 is for experts, and this network has none; choose Q4_0")
    layout = layout_for(config)
    held, sentence = (
        write_tokenizer(tokenizer, config.vocab_size)
        if tokenizer is not None
        else write_no_tokenizer(layout.name, config.vocab_size)
    )
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in GPT(config).state_dict().items()}
    rules = layout.rules(config, shapes)
    if layout.always_has_head and config.tie_embeddings:
        rules.append(Rule("output.weight", ("embedding.token.weight",)))
    formats = {rule.theirs: _format(rule, shapes, config, type) for rule in rules}
    with write_atomically(Path(path)) as aside:
        writer = gguf.GGUFWriter(aside, layout.name)
        try:
            about = layout.write(config) | held | gguf_fields(pretrained or {})
            about |= {"general.type": "model", "general.file_type": FILE_TYPES[type]}
            _write_metadata(
                writer, about | placeholder_checksums({name: kind for name, (_, kind) in formats.items()})
            )
            for name, (shape, kind) in formats.items():
                block, width = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
                size = int(np.prod(shape)) // block * width
                writer.add_tensor_info(
                    name, shape, np.dtype(np.float32), size, gguf.GGMLQuantizationType[kind]
                )
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            head, checksums = writer.fout[0].tell(), {}
            for rule in rules:
                kind = formats[rule.theirs][1]
                encoded = _quantized(rule, weights, layout, config, gguf.GGMLQuantizationType[kind])
                checksums[rule.theirs] = bytes_checksum(kind, encoded)
                writer.write_tensor_data(encoded)
            writer.close()
        except BaseException as error:
            with suppress(OSError):  # what is left in its buffer has no place on a full disk
                writer.close()
            # NumPy's, of fewer bytes written than there are
            if isinstance(error, OSError) and error.errno is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None
            raise
        write_checksums(aside, head, checksums)
    return "; ".join([*_differences(config), *([sentence] if sentence else [])]) or None


def _differences(config: GPTConfig) -> list[str]:
    """What llama.cpp computes otherwise than this network."""
    found = []
    if config.activation == "gelu":
        found.append("llama.cpp computes GELU by its tanh approximation, and this network has the exact one")
    if config.yarn_factor and not config.yarn_truncate:
        found.append(
            "llama.cpp rounds the range of dimensions that YaRN interpolates, and this network does not"
        )
    if config.yarn_factor and (config.yarn_beta_fast, config.yarn_beta_slow) != (32.0, 1.0):
        options = f"--yarn-beta-fast {config.yarn_beta_fast:g} --yarn-beta-slow {config.yarn_beta_slow:g}"
        found.append(f"llama.cpp does not read YaRN's betas from the file and wants {options}")
    return found


def _format(
    rule: Rule, shapes: Mapping[str, torch.Size], config: GPTConfig, type: str
) -> tuple[tuple[int, ...], str]:
    """A tensor's shape in the file, and its number format."""
    shape: tuple[int, ...] = (config.context_length, config.n_embd)
    if rule.ours:
        shape = (sum(shapes[name][0] for name in rule.ours), *shapes[rule.ours[0]][1:])
    if (
        len(shape) == 1
        or rule.theirs.endswith((".bias", "ffn_gate_inp.weight"))
        or rule.theirs == "position_embd.weight"
    ):
        return shape, "F32"
    if type == "Q4_0":
        type = HIGHER_PRECISION.get(rule.theirs, type)
    if type == "MXFP4":
        return shape, type if rule.theirs.endswith("_exps.weight") and not shape[-1] % BLOCK_SIZE else "BF16"
    return shape, "F16" if type.startswith("Q") and shape[-1] % BLOCK_SIZE else type


def _quantized(
    rule: Rule, weights: Mapping[str, Tensor], layout: Layout, config: GPTConfig, kind: Any
) -> np.ndarray[Any, Any]:
    """One tensor as the file's bytes lie."""
    tensor = to_hugging_face([rule], weights)[rule.theirs].detach().to("cpu", torch.float32)
    values = layout.permute_rotary_rows(rule.theirs, tensor, config, reading=False).contiguous().numpy()
    check_range(f"type: {rule.theirs}", tensor, kind.name)
    if kind.name == "MXFP4":
        values = np.where(np.abs(values) < MIN_MXFP4, np.float32(0), values)
    encoded: np.ndarray[Any, Any] = import_gguf().quants.quantize(values, kind)
    return encoded


def _write_metadata(writer: Any, values: Mapping[str, Any]) -> None:
    adders = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    for key, value in values.items():
        adders[value.__class__](key, value)
    writer.add_quantization_version(2)
