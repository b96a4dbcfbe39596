"""Cleaning documents: normalisation, whitespace, length and duplicates, each off until asked for and counted
when on."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

from newleaf.data.data_config import DataConfig
from newleaf.data.dedup import near_duplicate_filter

TRAILING_WHITESPACE = re.compile(r"[ \t]+(?=\r?\n|\Z)")
BLANK_LINE_RUN = re.compile(r"(\r?\n){4,}")  # the end of a line and three blank ones


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
