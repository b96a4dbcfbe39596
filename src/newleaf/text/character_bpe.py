"""Byte-level BPE whose first merges put the text's frequent characters together, so that few tokens are part of a character."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from newleaf.text.components import byte_alphabet

LEAST = 2  # times that a character stands in the text
RARE = "\ue000"  # a private sign that stands for the other characters while merges are learned; it is no letter, so words end at it
LOOKED_AT = 1 << 20  # characters of a text


def has_many_characters(texts: Iterable[str]) -> bool:
    """Whether at least half of a text's bytes belong to characters of three or more bytes, as in Chinese, Japanese and Korean; of the
    first million characters."""
    long, all_bytes, seen = 0, 0, 0
    for text in texts:
        part = text[: LOOKED_AT - seen]
        sizes = [len(part.encode()), len(part)]
        two = sum("\x80" <= c < "\u0800" for c in part)
        # Every character has one byte, those of two one more; the rest of the bytes belongs to longer ones.
        long += sizes[0] - 2 * two - sum(c < "\x80" for c in part)
        all_bytes, seen = all_bytes + sizes[0], seen + sizes[1]
        if seen >= LOOKED_AT:
            break
    return 2 * long >= max(1, all_bytes)


def learned(texts: list[str], size: int, words: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of at most `size` tokens in byte-level stand-ins: the 256 bytes, the characters in the order of how often
    they stand, then what BPE over whole characters merges. `words` is the expression that cuts text into words.

    Of the tokens beyond the bytes, characters have at most the share that they have of the text's bytes: the words of another script
    beside them want merges."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    bytes_first = sorted(byte_alphabet(), key=byte_alphabet().__getitem__)
    vocabulary, merges = {symbol: number for number, symbol in enumerate(bytes_first)}, list[tuple[str, str]]()
    n_bytes = {c: len(c.encode()) * count for c, count in counts.items()}
    share = sum(n for c, n in n_bytes.items() if not c.isascii()) / max(1, sum(n_bytes.values()))
    kept = _add_characters(counts, vocabulary, merges, len(vocabulary) + int(share * (size - len(vocabulary))))
    for left, right in _merges_of_characters(texts, counts.keys(), kept, size, words):
        if len(vocabulary) >= size:
            break
        vocabulary.setdefault(left + right, len(vocabulary))
        merges.append((left, right))
    return vocabulary, merges


def _add_characters(counts: Counter[str], vocabulary: dict[str, int], merges: list[tuple[str, str]], most: int) -> set[str]:
    """The characters that are one token now, those of one byte among them. Each byte but the first is a merge with those before."""
    kept = {c for c in counts if c.isascii()}
    for character in sorted(counts.keys() - kept, key=lambda c: (-counts[c], c)):
        spelled = _spelled(character)
        new = [(spelled[:end], spelled[end]) for end in range(1, len(spelled)) if spelled[: end + 1] not in vocabulary]
        if counts[character] < LEAST or len(vocabulary) + len(new) > most:
            break
        for left, right in new:
            vocabulary[left + right] = len(vocabulary)
            merges.append((left, right))
        kept.add(character)
    return kept


def _merges_of_characters(texts: list[str], all_of_them: Iterable[str], kept: set[str], size: int, words: str) -> list[tuple[str, str]]:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(words), "isolated")
    trainer = trainers.BpeTrainer(vocab_size=size + len(kept), initial_alphabet=sorted(kept), limit_alphabet=len(kept), show_progress=False)
    table = str.maketrans(dict.fromkeys(set(all_of_them) - kept, RARE))
    backend.train_from_iterator((text.translate(table) if table else text for text in texts), trainer)
    found = json.loads(backend.to_str())["model"]["merges"]
    return [(_spelled(left), _spelled(right)) for left, right in found]


def _spelled(text: str) -> str:
    """The stand-ins of a text's bytes."""
    return "".join(_SYMBOLS[byte] for byte in text.encode())


_SYMBOLS = {byte: symbol for symbol, byte in byte_alphabet().items()}
