"""What the parts of a tokenizer.json mean: the bytes of each token, and whether text comes back exactly."""

import re
from typing import Any

import tokenizers

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in character for each byte: itself where it prints, otherwise the next free one
    from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in sorted(printable)} | {
        chr(0x100 + n): byte for n, byte in enumerate(others)
    }


def is_byte_token(token: str) -> bool:
    """Whether this is a byte-fallback token such as <0x0A>."""
    return BYTE_TOKEN.fullmatch(token) is not None


def is_byte_level(description: dict[str, Any]) -> bool:
    """Whether decoding is putting bytes together and nothing else."""
    return [part["type"] for part in parts_of(description["decoder"])] == ["ByteLevel"]


def parts_of(component: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A normalizer, pre-tokenizer or decoder as a flat list of its steps."""
    if component is None:
        return []
    if component["type"] != "Sequence":
        return [component]
    inner = next(value for key, value in component.items() if key != "type")
    return [part for child in inner for part in parts_of(child)]


def merges_of(model: dict[str, Any]) -> list[tuple[str, str]]:
    """A BPE's merges as pairs; older files have the two with a space between them."""
    pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"])
    return [(left, right) for left, right in pairs]


def kind_of(description: dict[str, Any]) -> str:
    """bpe, unigram, char, byte, or the model's name in lower case."""
    model = description["model"]
    if model["type"] == "BPE" and not model["merges"]:
        return "char" if model["byte_fallback"] else "byte"
    return str(model["type"]).lower()


def decodes_exactly(description: dict[str, Any]) -> bool:
    """Whether every Unicode text survives encoding and decoding; in doubt, no."""
    if any(part["type"] != "ByteLevel" for part in parts_of(description["normalizer"])):
        return False  # lower-casing, NFC, stripping, sentencepiece's marks
    if any(
        not token["special"] and (token["lstrip"] or token["rstrip"]) for token in description["added_tokens"]
    ):
        return False
    if not all(_keeps_text(part) for part in parts_of(description["pre_tokenizer"])):
        return False
    tokens = _model_tokens(description["model"])
    if is_byte_level(description):
        bytes_go_in = [*parts_of(description["pre_tokenizer"]), *parts_of(description["normalizer"])]
        return any(part["type"] == "ByteLevel" for part in bytes_go_in) and tokens >= byte_alphabet().keys()
    decoder = [part["type"] for part in parts_of(description["decoder"])]
    every_byte = {f"<0x{byte:02X}>" for byte in range(256)}
    return (
        decoder == ["ByteFallback", "Fuse"]
        and bool(description["model"].get("byte_fallback"))
        and tokens >= every_byte
    )


def byte_table(backend: tokenizers.Tokenizer, description: dict[str, Any], size: int) -> list[bytes]:
    """The bytes of every id: nothing for special tokens and for ids without a token."""
    added = {token["id"]: token for token in description["added_tokens"]}
    alphabet = byte_alphabet() if is_byte_level(description) else None
    decoders = {part["type"]: part for part in parts_of(description["decoder"])}
    table = [b""] * size
    for token, token_id in backend.get_vocab(with_added_tokens=True).items():
        if not (token_id in added and added[token_id]["special"]):
            table[token_id] = _bytes_of(token, alphabet, decoders)
    return table


def _bytes_of(token: str, alphabet: dict[str, int] | None, decoders: dict[str, dict[str, Any]]) -> bytes:
    if alphabet is not None:  # an added token may hold characters outside the alphabet: it stands for itself
        return bytes(alphabet[c] for c in token) if all(c in alphabet for c in token) else token.encode()
    byte = BYTE_TOKEN.fullmatch(token) if "ByteFallback" in decoders else None
    if byte:
        return bytes([int(byte[1], 16)])
    if "BPEDecoder" in decoders:
        token = token.replace(decoders["BPEDecoder"]["suffix"], " ")
    if "Replace" in decoders:
        token = token.replace(
            decoders["Replace"]["pattern"].get("String", ""), decoders["Replace"]["content"]
        )
    if "Metaspace" in decoders:
        token = token.replace(decoders["Metaspace"]["replacement"], " ")
    if "WordPiece" in decoders:
        prefix = decoders["WordPiece"]["prefix"]
        token = token.removeprefix(prefix) if token.startswith(prefix) else " " + token
    return token.encode()


def _keeps_text(part: dict[str, Any]) -> bool:
    if part["type"] == "ByteLevel":
        return not part["add_prefix_space"]
    if part["type"] in ("Split", "Punctuation"):
        return bool(part["behavior"] != "Removed")
    return part["type"] in ("Digits", "UnicodeScripts", "FixedLength")


def _model_tokens(model: dict[str, Any]) -> set[str]:
    vocabulary = model["vocab"]
    return set(vocabulary) if isinstance(vocabulary, dict) else {entry[0] for entry in vocabulary}
