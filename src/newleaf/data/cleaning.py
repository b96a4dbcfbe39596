"""Cleaning documents: normalisation, whitespace, length and duplicates, each off until asked for and counted
when on."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from newleaf.data.data_config import DataConfig
from newleaf.errors import InputError

TRAILING_WHITESPACE = re.compile(r"[ \t]+(?=\r?\n|\Z)")
BLANK_LINE_RUN = re.compile(r"(\r?\n){4,}")  # the end of a line and three blank ones
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
SHINGLE_WORDS = 5
MIN_JACCARD = 0.8
N_HASHES = 128


class Cleaner:
    """Applies the options of a DataConfig to one document after the other, remembering what it has seen;
    `counts` says what it did."""

    def __init__(self, config: DataConfig) -> None:
        self.counts: Counter[str] = Counter()
        self._config = config
        self._exact: set[bytes] = set()
        self._is_near_duplicate = near_duplicate_filter() if config.dedup == "near" else None

    def clean(self, pieces: Iterable[str]) -> Iterable[str] | None:
        """The cleaned text, or None when the document drops out. With everything off, pieces pass through as
        they come."""
        if not self._config.has_cleaning:
            return pieces
        text = self._normalize("".join(pieces))
        reason = self._reason_to_drop(text)
        if reason is None:
            return [text]
        self.counts[f"dropped: {reason}"] += 1
        return None

    def _reason_to_drop(self, text: str) -> str | None:
        if len(text) < self._config.min_length:
            return "too short"
        if not text:
            return "empty after cleaning"
        if self._config.dedup and self._is_exact_duplicate(text):
            return "exact duplicate"
        if self._is_near_duplicate is not None and self._is_near_duplicate(text):
            return "near duplicate"
        return None

    def _normalize(self, text: str) -> str:
        if self._config.normalize:
            normal = unicodedata.normalize("NFC" if self._config.normalize == "nfc" else "NFKC", text)
            self.counts["changed: normalize"] += normal != text
            text = normal
        if self._config.whitespace:
            tidy = BLANK_LINE_RUN.sub(lambda run: run[1] * 2, TRAILING_WHITESPACE.sub("", text))
            self.counts["changed: whitespace"] += tidy != text
            text = tidy
        return text

    def _is_exact_duplicate(self, text: str) -> bool:
        """16 bytes a document: two of a billion documents meet by chance once in 10^20 runs."""
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if digest in self._exact:
            return True
        self._exact.add(digest)
        return False


def near_duplicate_filter() -> Callable[[str], bool]:
    """MinHash with locality-sensitive hashing (Broder 1997) over runs of five words, alike from an estimated
    Jaccard index of 0.8 up, as in Lee et al. 2021, "Deduplicating Training Data Makes Language Models
    Better". Of each group the first stays."""
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError as error:
        raise InputError(
            "data.dedup: near needs the package datasketch; run: pip install 'newleaf[data]'"
        ) from error
    index = MinHashLSH(threshold=MIN_JACCARD, num_perm=N_HASHES)
    kept: list[Any] = []

    def is_near_duplicate(text: str) -> bool:
        signature = MinHash(num_perm=N_HASHES)
        signature.update_batch(_shingles(text))
        if any(signature.jaccard(kept[n]) >= MIN_JACCARD for n in index.query(signature)):
            return True
        index.insert(len(kept), signature)
        kept.append(signature)
        return False

    return is_near_duplicate


def _shingles(text: str) -> list[bytes]:
    """Runs of five words; a Chinese, Japanese or Korean character is a word."""
    words = WORD.findall(text.lower())
    runs = {
        " ".join(words[start : start + SHINGLE_WORDS])
        for start in range(max(1, len(words) - SHINGLE_WORDS + 1))
    }
    return [run.encode() for run in sorted(runs)]
