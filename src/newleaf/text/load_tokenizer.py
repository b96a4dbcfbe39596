"""Opening tokenizers that others wrote: tokenizer.json, a vocabulary with its merges, or o200k's ranks."""

import zlib
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from newleaf.errors import InputError
from newleaf.text.normalizer_growth_limit import check_growth
from newleaf.text.o200k import ENDS, read_o200k
from newleaf.text.special_tokens import END_OF_TEXT, add_special_tokens, read_named_tokens
from newleaf.untrusted import (
    MAX_TOKENIZER_BYTES,
    check_regular,
    native_errors_as_input_errors,
    read_object,
    read_text,
)

OTHER_SPECIAL_TOKENS = ("unk_token", "sep_token", "cls_token", "mask_token")  # which chat templates may read
# A vocabulary and its merges: Hugging Face's names, those of GPT-2's release, and of GPT-1's.
VOCABULARY_FILES = (
    ("vocab.json", "merges.txt"),
    ("encoder.json", "vocab.bpe"),
    ("encoder_bpe_40000.json", "vocab_40000.bpe"),
)
O200K = "o200k_base.tiktoken"
CHECKSUM_FIELD = "newleaf_crc32"  # of tokenizer_config.json: that of tokenizer.json
MAX_IDS = 2**22  # the largest published vocabulary has 262,144; tables of all ids are made


def read_tokenizer(path: Path) -> tuple[tokenizers.Tokenizer, dict[str, str | None], dict[str, Any]]:
    """The tokenizer at a path, its special tokens by name (bos_token, eos_token, pad_token), and its
    tokenizer_config.json.

    Where two files say the same thing, the one that stock transformers takes holds: special_tokens_map.json
    before tokenizer_config.json, unless that lists its added tokens; a template's own file before
    tokenizer_config.json.
    """
    ranks = path / O200K if path.is_dir() else path
    if ranks.suffix == ".tiktoken" and ranks.is_file() and not (path / "tokenizer.json").is_file():
        return read_o200k(ranks), ENDS, {}
    if path.is_dir():
        folder = path
        backend = _read_folder(folder)
    elif path.exists():
        # Only the standard name says that the settings beside it belong to it.
        folder = path.parent if path.name == "tokenizer.json" else path / "none"
        check_checksum(path, folder)
        backend = _read_json_tokenizer(path)
    else:
        raise InputError(
            f"{path}: no such tokenizer; give a folder with tokenizer.json, or vocab.json and merges.txt"
        )
    named = read_named_tokens(folder, backend)
    add_special_tokens(backend, named, folder)
    _check_ids(backend, path)
    special = {
        name: None if token is None or backend.token_to_id(token) is None else token
        for name, token in named.ends.items()
    }
    kept = {
        name: named.settings[name] for name in OTHER_SPECIAL_TOKENS if named.settings.get(name) is not None
    }
    return backend, special, named.config | kept | _read_templates(folder)


def has_tokenizer(folder: Path) -> bool:
    """Whether this folder has a file of a tokenizer, sound or not."""
    names = ("tokenizer.json", O200K, *(name for pair in VOCABULARY_FILES for name in pair))
    return any((folder / name).exists() for name in names)


def no_tokenizer(where: object) -> InputError:
    """What is said where a model without a tokenizer is asked for text."""
    return InputError(
        f"{where}: has no tokenizer, which text needs; give one with --tokenizer FOLDER (in Python "
        f"tokenizer=…), or put its tokenizer.json into the model's folder"
    )


def checksum(data: bytes) -> str:
    """How many bytes these are, and their CRC-32: `4096:89abcdef`."""
    return f"{len(data)}:{zlib.crc32(data):08x}"


def check_checksum(path: Path, folder: Path) -> None:
    """Raises InputError where the bytes of a tokenizer.json are not those that newleaf wrote, as the folder's
    tokenizer_config.json says. A file of another length was written by some other program, which copied the
    settings that it does not know."""
    about = folder / "tokenizer_config.json"
    said = read_object(about).get(CHECKSUM_FIELD) if about.exists() else None
    if not isinstance(said, str):
        return
    check_regular(path, MAX_TOKENIZER_BYTES)
    found = checksum(path.read_bytes())
    if found != said and found.partition(":")[0] == said.partition(":")[0]:
        raise InputError(
            f"{path}: damaged, it does not have the checksum that was written with it; get the file anew, "
            f"or train or convert again (if it "
            f"was edited on purpose, take {CHECKSUM_FIELD} out of {about.name})"
        )


def _check_ids(backend: tokenizers.Tokenizer, path: Path) -> None:
    largest = max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
    if largest >= MAX_IDS:
        raise InputError(
            f"{path}: a token has the id {largest:,}, and newleaf reads vocabularies of at most {MAX_IDS:,}"
        )


def _read_templates(folder: Path) -> dict[str, Any]:
    """Chat templates in files of their own, which go before those of tokenizer_config.json."""
    files = {"default": folder / "chat_template.jinja"}
    files |= {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    found = [{"name": name, "template": read_template(path)} for name, path in files.items() if path.exists()]
    if not found:
        return {}
    return {
        "chat_template": found[0]["template"] if [item["name"] for item in found] == ["default"] else found
    }


def read_template(path: Path) -> str:
    """A template's file, its line ends as "\\n". Raises InputError when it cannot be read as text."""
    return read_text(path).replace("\r\n", "\n").replace("\r", "\n")


def _read_folder(folder: Path) -> tokenizers.Tokenizer:
    if (folder / "tokenizer.json").exists():
        check_checksum(folder / "tokenizer.json", folder)
        return _read_json_tokenizer(folder / "tokenizer.json")
    pairs = [(folder / vocab, folder / merges) for vocab, merges in VOCABULARY_FILES]
    vocab, merges = next((pair for pair in pairs if all(file.exists() for file in pair)), (None, None))
    if vocab is None or merges is None:
        raise InputError(
            f"{folder}: has no tokenizer.json and not both of vocab.json and merges.txt; name the folder "
            f"that holds them"
        )
    names = read_object(vocab, MAX_TOKENIZER_BYTES)
    check_regular(merges, MAX_TOKENIZER_BYTES)
    with native_errors_as_input_errors(f"{folder}: {vocab.name} and {merges.name} do not fit together"):
        return (
            _gpt1(vocab, merges)
            if any(name.endswith("</w>") for name in names)
            else _gpt2(vocab, merges, names)
        )


def _gpt2(vocab: Path, merges: Path, names: dict[str, Any]) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if END_OF_TEXT in names:
        backend.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return backend


def _gpt1(vocab: Path, merges: Path) -> tokenizers.Tokenizer:
    """GPT-1 as transformers reads it: lower-cased, words ending in </w>. The paper's own ftfy and spaCy are
    not needed for its ids."""
    backend = tokenizers.Tokenizer(
        models.BPE.from_file(str(vocab), str(merges), unk_token="<unk>", end_of_word_suffix="</w>")
    )
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.BPEDecoder(suffix="</w>")
    backend.add_special_tokens([AddedToken("<unk>", special=True, normalized=False)])
    return backend


def _read_json_tokenizer(path: Path) -> tokenizers.Tokenizer:
    check_regular(path, MAX_TOKENIZER_BYTES)
    with native_errors_as_input_errors(f"{path}: not a tokenizer.json"):
        backend = tokenizers.Tokenizer.from_file(str(path))
    check_growth(backend, path)
    return backend
