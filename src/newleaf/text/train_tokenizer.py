"""Training a new tokenizer: byte-level BPE, Unigram, characters or bytes, all of them lossless."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Literal, get_args

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from newleaf.errors import InputError
from newleaf.text.special_tokens import END_OF_TEXT
from newleaf.text.tokenizer import Tokenizer
from newleaf.text.tokenizer_components import byte_alphabet
from newleaf.text.train_character_bpe import train_character_bpe

Kind = Literal["bpe", "unigram", "char", "byte"]
N_BYTES = 256
MOST_SEEN = 64 * 2**20  # bytes of text that a trainer sees, where nobody says
MAX_VOCAB_SIZE = 2**20  # four times the largest published vocabulary
# The trainers keep a few hundred pieces in flight, each at some twenty times its size.
PIECE_CHARS = 16 * 2**10
# Qwen2's way to cut text into words (its tokenizer.json): llama.cpp knows it by name, and digits stand alone.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| "
    r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class TokenizerConfig:
    """Which tokenizer a run uses.

    `vocab_size` counts the special token; None leaves it to the caller (bpe, unigram) or to the text (char).
    `path` uses files that exist instead of training. The trainer sees at most `train_bytes` of the training
    text, spread evenly over it; None leaves that to the caller, who may know how much there is time for.
    `characters` has bpe make tokens of the frequent characters before it merges anything else; None leaves
    that to the caller, who looks at the text.
    """

    kind: Kind = "bpe"
    vocab_size: int | None = None
    path: str | None = None
    train_bytes: int | None = None
    characters: bool | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InputError(f"tokenizer.kind: {self.kind!r} is none of {', '.join(get_args(Kind))}")
        if self.characters and self.kind != "bpe":
            raise InputError(
                f"tokenizer.characters: is about bpe, and {self.kind} merges nothing by frequency; leave it "
                f"out"
            )
        if self.train_bytes is not None and self.train_bytes < 1:
            raise InputError(
                f"tokenizer.train_bytes: {self.train_bytes} is not positive; the trainer needs text"
            )
        if self.vocab_size is not None:
            _check_size(self.vocab_size)


def train_tokenizer(
    texts: Iterable[str], config: TokenizerConfig, vocab_size: int | None = None
) -> Tokenizer:
    """A tokenizer for these texts, with at most `vocab_size` ids (`config.vocab_size` when None).

    Every kind holds all 256 bytes, so any text decodes back exactly, and one special token, `<|endoftext|>`,
    which is bos, eos and pad and has the last id, as GPT-2's. Fewer ids than asked for come out when the text
    has no more to merge. char takes the most frequent characters when it may not take all; byte has always
    257 ids. Raises InputError for a size below 257, or a missing one.
    """
    size = vocab_size if vocab_size is not None else config.vocab_size
    if size is not None:
        _check_size(size)
    elif config.kind in ("bpe", "unigram"):
        raise InputError(f"tokenizer.vocab_size: missing, and {config.kind} cannot do without; try 4096")
    if config.kind == "byte":
        backend = _byte()
    elif config.kind == "char":
        backend = _char(texts, size)
    else:
        assert size is not None
        learn = _unigram if config.kind == "unigram" else _character_bpe if config.characters else _bpe
        backend = learn(_pieces(texts), size - 1)
    backend.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    last = backend.token_to_id(END_OF_TEXT)
    return Tokenizer(backend, bos_id=last, eos_id=last, pad_id=last)


def _check_size(size: int) -> None:
    if size < N_BYTES + 1:
        raise InputError(
            f"tokenizer.vocab_size: {size} is too small; 256 bytes and one special token make 257 the least"
        )
    if size > MAX_VOCAB_SIZE:
        raise InputError(
            f"tokenizer.vocab_size: {size:,} is too large; the trainer reserves memory for all of them, "
            f"{MAX_VOCAB_SIZE:,} at most"
        )


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    """The same text in small pieces, cut behind line ends where there are any."""
    for text in texts:
        start = 0
        while len(text) - start > PIECE_CHARS:
            end = text.rfind("\n", start, start + PIECE_CHARS) + 1 or start + PIECE_CHARS
            yield text[start:end]
            start = end
        yield text[start:]


def _alphabet() -> list[str]:
    """The 256 stand-in characters in the order of their bytes."""
    return sorted(byte_alphabet(), key=byte_alphabet().__getitem__)


def _byte_level_backend(model: models.Model) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(model)
    bytes_of_words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), "isolated"), bytes_of_words]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def _bpe(texts: Iterable[str], size: int) -> tokenizers.Tokenizer:
    backend = _byte_level_backend(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=_alphabet(), show_progress=False)
    backend.train_from_iterator(texts, trainer)
    return backend


def _character_bpe(texts: Iterable[str], size: int) -> tokenizers.Tokenizer:
    return _byte_level_backend(models.BPE(*train_character_bpe(list(texts), size, WORDS)))


def _unigram(texts: Iterable[str], size: int) -> tokenizers.Tokenizer:
    backend = _byte_level_backend(models.Unigram())
    trainer = trainers.UnigramTrainer(vocab_size=size, initial_alphabet=_alphabet(), show_progress=False)
    texts = iter(texts)
    first = next((text for text in texts if text), None)
    if first is None:
        raise InputError("tokenizer: there is no text to train on")
    backend.train_from_iterator(chain([first], texts), trainer)
    backend.model = models.Unigram(_deterministic_scores(json.loads(backend.to_str())["model"]["vocab"]))
    return backend


def _deterministic_scores(vocabulary: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """The trainer walks hash tables, so that scores differ in their last digits, and the bytes the text lacks
    take the lowest score and each next 1e-4 above it in any order. Rounding, and handing out those scores in
    order, makes one text give one tokenizer."""
    low, step = vocabulary[-1][1], 1e-4
    unseen_bytes: dict[str, float] = {}
    steps = 0
    for token, score in reversed(vocabulary):
        n = round((score - low) / step)
        if n > steps + 1:
            break
        if abs(score - low - n * step) < 1e-8:
            unseen_bytes[token] = score
            steps = n
    settled = dict(vocabulary) | dict(
        zip(sorted(unseen_bytes), sorted(unseen_bytes.values(), reverse=True), strict=True)
    )
    return sorted(
        ((token, round(score, 6)) for token, score in settled.items()), key=lambda pair: (-pair[1], pair[0])
    )


def _char(texts: Iterable[str], size: int | None) -> tokenizers.Tokenizer:
    counts = Counter[str]()
    for text in texts:
        counts.update(text)
    frequent = sorted(counts, key=lambda c: (-counts[c], c))
    kept = sorted(frequent if size is None else frequent[: size - 1 - N_BYTES])
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(N_BYTES)} | {
        c: N_BYTES + n for n, c in enumerate(kept)
    }
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return backend


def _byte() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE({c: byte for byte, c in enumerate(_alphabet())}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return backend
