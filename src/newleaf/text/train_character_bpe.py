"""Byte-level BPE whose first merges put the text's frequent characters together, so that few tokens are part
of a character."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from newleaf.text.tokenizer_components import byte_alphabet

MIN_FREQUENCY = 2  # times that a character or a merge stands in the text
# a private sign that stands for the other characters while merges are learned; words end at it
RARE_CHARACTER = "\ue000"
COVERAGE, SPARE = 0.99, 1.25
MAX_SAMPLE_CHARS = 1 << 20  # characters of a text


def has_many_characters(texts: Iterable[str]) -> bool:
    """Whether at least half of a text's bytes belong to characters of three or more bytes, as in Chinese,
    Japanese and Korean; of the first million characters."""
    long, all_bytes, seen = 0, 0, 0
    for text in texts:
        part = text[: MAX_SAMPLE_CHARS - seen]
        sizes = [len(part.encode()), len(part)]
        two = sum("\x80" <= c < "\u0800" for c in part)
        # Every character has one byte, those of two one more; the rest of the bytes belongs to longer ones.
        long += sizes[0] - 2 * two - sum(c < "\x80" for c in part)
        all_bytes, seen = all_bytes + sizes[0], seen + sizes[1]
        if seen >= MAX_SAMPLE_CHARS:
            break
    return 2 * long >= max(1, all_bytes)


def tokens_for_characters(texts: Iterable[str]) -> int:
    """How many tokens hold the bytes and the characters that make 99 % of those beyond ASCII, of the first
    million characters; a quarter more, for the first two bytes that characters are put together from and for
    words."""
    counts, seen = Counter[str](), 0
    for text in texts:
        part = text[: MAX_SAMPLE_CHARS - seen]
        counts.update(part)
        seen += len(part)
        if seen >= MAX_SAMPLE_CHARS:
            break
    often = sorted((count for c, count in counts.items() if not c.isascii()), reverse=True)
    total, reached = sum(often), 0
    for kept, count in enumerate(often, 1):
        reached += count
        if reached >= COVERAGE * total:
            return int(SPARE * (256 + kept))
    return 256


def train_character_bpe(
    texts: list[str], size: int, words: str
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of at most `size` tokens in byte-level stand-ins: the 256 bytes, then characters
    in the order of how often they stand, and what BPE merges. `words` is the expression that cuts text into
    words.

    Merges of other scripts (words between Chinese text) have at most the share of the tokens beyond the bytes
    that those scripts have of the text's bytes. Characters have the rest, as far as they go, before long ones
    are merged with each other: while tokens are few, that predicts text better than tokens of rare pairs
    (docs/lab-notes.md)."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    bytes_first = sorted(byte_alphabet(), key=byte_alphabet().__getitem__)
    vocabulary, merges = (
        {symbol: number for number, symbol in enumerate(bytes_first)},
        list[tuple[str, str]](),
    )
    n_bytes = {c: len(c.encode()) * count for c, count in counts.items()}
    other = sum(n for c, n in n_bytes.items() if not _is_long(c)) / max(1, sum(n_bytes.values()))
    reserved = int(other * (size - len(vocabulary)))
    kept = _add_characters(counts, vocabulary, merges, size - reserved)
    short = {c for c in kept if not _is_long(c)}
    _add_merges(
        _merges_of_characters(texts, counts.keys(), short, len(short) + reserved, words),
        vocabulary,
        merges,
        size,
    )
    kept |= _add_characters(counts, vocabulary, merges, size)
    if len(vocabulary) < size:
        _add_merges(
            _merges_of_characters(texts, counts.keys(), kept, size + len(kept), words),
            vocabulary,
            merges,
            size,
        )
    return vocabulary, merges


def _is_long(character: str) -> bool:
    """Whether it has three or more bytes."""
    return character >= "\u0800"


def _add_merges(
    found: Iterable[tuple[str, str]], vocabulary: dict[str, int], merges: list[tuple[str, str]], size: int
) -> None:
    known = set(merges)
    for left, right in found:
        if len(vocabulary) >= size:
            return
        if (left, right) not in known:
            vocabulary.setdefault(left + right, len(vocabulary))
            merges.append((left, right))


def _add_characters(
    counts: Counter[str], vocabulary: dict[str, int], merges: list[tuple[str, str]], max_tokens: int
) -> set[str]:
    """The characters that are one token now, those of one byte among them, while there are fewer than
    `max_tokens` tokens. Each byte but the first is a merge with those before."""
    kept = {c for c in counts if c.isascii()}
    for character in sorted(counts.keys() - kept, key=lambda c: (-counts[c], c)):
        spelled = _byte_level(character)
        new = [
            (spelled[:end], spelled[end])
            for end in range(1, len(spelled))
            if spelled[: end + 1] not in vocabulary
        ]
        if counts[character] < MIN_FREQUENCY or len(vocabulary) + len(new) > max_tokens:
            break
        for left, right in new:
            vocabulary[left + right] = len(vocabulary)
            merges.append((left, right))
        kept.add(character)
    return kept


def _merges_of_characters(
    texts: list[str], all_of_them: Iterable[str], kept: set[str], size: int, words: str
) -> list[tuple[str, str]]:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(RARE_CHARACTER, "removed"), pre_tokenizers.Split(Regex(words), "isolated")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=MIN_FREQUENCY,
        initial_alphabet=sorted(kept),
        limit_alphabet=len(kept),
        show_progress=False,
    )
    table = str.maketrans(dict.fromkeys(set(all_of_them) - kept, RARE_CHARACTER))
    backend.train_from_iterator((text.translate(table) if table else text for text in texts), trainer)
    found = json.loads(backend.to_str())["model"]["merges"]
    return [(_byte_level(left), _byte_level(right)) for left, right in found]


def _byte_level(text: str) -> str:
    """The stand-ins of a text's bytes."""
    return "".join(_SYMBOLS[byte] for byte in text.encode())


_SYMBOLS = {byte: symbol for symbol, byte in byte_alphabet().items()}
