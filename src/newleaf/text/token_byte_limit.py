"""How many bytes of a text one token may stand for, told from a tokenizer's parts."""

from __future__ import annotations

from typing import Any

from newleaf.text.tokenizer_components import byte_alphabet, parts_of

# How many bytes a normalizer may make one of. Composition: three jamo of 3 bytes to a syllable of 3, a letter
# with
# three marks to one letter. Compatibility: a mathematical letter of 4 bytes to an ASCII one. Lower case:
# Kelvin's sign.
NORMALIZER_SHRINKAGE = {
    "NFC": 4,
    "NFKC": 8,
    "NFD": 1,
    "NFKD": 4,
    "Lowercase": 3,
    "Prepend": 1,
    "ByteLevel": 1,
}
LOSSLESS_PRE_TOKENIZERS = ("ByteLevel", "Digits", "UnicodeScripts", "FixedLength", "Metaspace")


def max_normalizer_shrinkage(description: dict[str, Any]) -> int | None:
    """The factor by which normalizers may shorten a text, in bytes of UTF-8. None where that has no bound:
    where white space or accents are left out, or a run of characters that the vocabulary lacks becomes one
    token."""
    if any(token["lstrip"] or token["rstrip"] for token in description["added_tokens"]):
        return None  # such a token takes all white space beside it
    if not (_knows_every_byte(description) and all(map(_keeps, parts_of(description["pre_tokenizer"])))):
        return None
    factor = 1
    for part in parts_of(description["normalizer"]):
        found = 1 if _replaces(part) else NORMALIZER_SHRINKAGE.get(part["type"])
        if found is None:
            return None
        factor *= found
    return factor


def _replaces(part: dict[str, Any]) -> bool:
    """Whether it puts something no shorter in the place of a string, as SentencePiece's mark for a space."""
    pattern = part.get("pattern", {}).get("String") if part["type"] == "Replace" else None
    return (
        isinstance(pattern, str) and pattern != "" and len(part["content"].encode()) >= len(pattern.encode())
    )


def _keeps(part: dict[str, Any]) -> bool:
    """Whether a pre-tokenizer leaves nothing out."""
    return part["type"] in LOSSLESS_PRE_TOKENIZERS or (
        part["type"] in ("Split", "Punctuation") and part["behavior"] != "Removed"
    )


def _knows_every_byte(description: dict[str, Any]) -> bool:
    model = description["model"]
    if model["type"] not in ("BPE", "Unigram"):
        return False
    names = (
        set(model["vocab"]) if isinstance(model["vocab"], dict) else {entry[0] for entry in model["vocab"]}
    )
    steps = [*parts_of(description["pre_tokenizer"]), *parts_of(description["normalizer"])]
    if any(part["type"] == "ByteLevel" for part in steps):
        return names >= byte_alphabet().keys()
    return bool(model.get("byte_fallback")) and names >= {f"<0x{byte:02X}>" for byte in range(256)}
