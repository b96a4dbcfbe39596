"""Opening tokenizers that others wrote: tokenizer.json, a vocabulary with its merges, or o200k's ranks."""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from newleaf.errors import InputError
from newleaf.text.o200k import ENDS, read_o200k

END_OF_TEXT = "<|endoftext|>"
SPECIAL_NAMES = ("bos_token", "eos_token", "pad_token")
OTHER_NAMES = ("unk_token", "sep_token", "cls_token", "mask_token")  # which chat templates may read
# A vocabulary and its merges: Hugging Face's names, those of GPT-2's release, and of GPT-1's.
PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"), ("encoder_bpe_40000.json", "vocab_40000.bpe"))
O200K = "o200k_base.tiktoken"
# Taken when no file says which token is which: the names of GPT-2's line, then the usual ones.
USUAL = {"bos_token": (END_OF_TEXT, "<s>"), "eos_token": (END_OF_TEXT, "</s>"), "pad_token": (END_OF_TEXT, "<pad>")}


def read_tokenizer(path: Path) -> tuple[tokenizers.Tokenizer, dict[str, str | None], dict[str, Any]]:
    """The tokenizer at a path, its special tokens by name (bos_token, eos_token, pad_token), and its tokenizer_config.json."""
    ranks = path / O200K if path.is_dir() else path
    if ranks.suffix == ".tiktoken" and ranks.is_file() and not (path / "tokenizer.json").is_file():
        return read_o200k(ranks), ENDS, {}
    if path.is_dir():
        folder = path
        backend = _read_folder(folder)
    elif path.is_file():
        # Only the standard name says that the settings beside it belong to it.
        folder = path.parent if path.name == "tokenizer.json" else path / "none"
        backend = _read_json_tokenizer(path)
    else:
        raise InputError(f"{path}: no such tokenizer; give a folder with tokenizer.json, or vocab.json and merges.txt")
    config, mapped = _read_object(folder / "tokenizer_config.json"), _read_object(folder / "special_tokens_map.json")
    special = _special_tokens(backend, config, mapped)
    return backend, special, {name: mapped[name] for name in OTHER_NAMES if name in mapped} | config | _read_templates(folder)


def _read_templates(folder: Path) -> dict[str, Any]:
    """Chat templates in files of their own, which go before those of tokenizer_config.json."""
    files = {"default": folder / "chat_template.jinja"}
    files |= {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    found = []
    for name, path in files.items():
        if path.is_file():
            found.append({"name": name, "template": read_template(path)})
    if not found:
        return {}
    return {"chat_template": found[0]["template"] if [item["name"] for item in found] == ["default"] else found}


def read_template(path: Path) -> str:
    """A template's file. Raises InputError when it cannot be read as text."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or str(error)).lower()}") from None


def _read_folder(folder: Path) -> tokenizers.Tokenizer:
    if (folder / "tokenizer.json").is_file():
        return _read_json_tokenizer(folder / "tokenizer.json")
    pairs = [(folder / vocab, folder / merges) for vocab, merges in PAIRS]
    vocab, merges = next((pair for pair in pairs if all(file.is_file() for file in pair)), (None, None))
    if vocab is None or merges is None:
        raise InputError(f"{folder}: has no tokenizer.json and not both of vocab.json and merges.txt; name the folder that holds them")
    names = _read_object(vocab)
    try:
        return _gpt1(vocab, merges) if any(name.endswith("</w>") for name in names) else _gpt2(vocab, merges, names)
    except Exception as error:  # the Rust side raises plain Exception
        raise InputError(f"{folder}: {vocab.name} and {merges.name} do not fit together ({_first_line(error)})") from error


def _gpt2(vocab: Path, merges: Path, names: dict[str, Any]) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if END_OF_TEXT in names:
        backend.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return backend


def _gpt1(vocab: Path, merges: Path) -> tokenizers.Tokenizer:
    """GPT-1 as transformers reads it: lower-cased, words ending in </w>. The paper's own ftfy and spaCy are not needed for its ids."""
    backend = tokenizers.Tokenizer(models.BPE.from_file(str(vocab), str(merges), unk_token="<unk>", end_of_word_suffix="</w>"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.BPEDecoder(suffix="</w>")
    backend.add_special_tokens([AddedToken("<unk>", special=True, normalized=False)])
    return backend


def _read_json_tokenizer(path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:
        raise InputError(f"{path}: not a tokenizer.json ({_first_line(error)})") from error


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({_first_line(error)})") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds no JSON object")
    return found


def _special_tokens(backend: tokenizers.Tokenizer, config: dict[str, Any], mapped: dict[str, Any]) -> dict[str, str | None]:
    chosen: dict[str, str | None] = {}
    for name in SPECIAL_NAMES:
        token = config.get(name, mapped.get(name))
        token = token.get("content") if isinstance(token, dict) else token
        if token is None and not any(key in settings for settings in (config, mapped) for key in SPECIAL_NAMES):
            token = next((usual for usual in USUAL[name] if backend.token_to_id(usual) is not None), None)
        chosen[name] = token if token is not None and backend.token_to_id(token) is not None else None
    return chosen


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
