"""Near-duplicate documents, by MinHash and locality-sensitive hashing."""

import re
from collections.abc import Callable
from typing import Any

from newleaf.errors import InputError

WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
SHINGLE_WORDS = 5
MIN_JACCARD = 0.8
N_HASHES = 128


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
