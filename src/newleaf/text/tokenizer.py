"""The tokenizer: text to ids and back, over a Hugging Face `tokenizer.json`."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from newleaf.errors import InputError
from newleaf.text.load_tokenizer import CHECKSUM_FIELD, OTHER_SPECIAL_TOKENS, checksum, read_tokenizer
from newleaf.text.stream_decoder import (
    ByteStreamDecoder,
    ComparingStreamDecoder,
    SpecialTokenStreamDecoder,
    StreamDecoder,
)
from newleaf.text.token_byte_limit import max_normalizer_shrinkage
from newleaf.text.tokenizer_components import BYTE_TOKEN, byte_table, decodes_exactly, is_byte_level, kind_of
from newleaf.text.unmatchable_tokens import unmatchable_tokens, with_unlikely_byte_tokens, without_tokens
from newleaf.text.utf8_validity import Utf8Validity
from newleaf.untrusted import native_errors_as_input_errors

LONG_TEXT = 10_000  # characters or ids: what takes milliseconds
SAVED_SETTINGS = ("chat_template", "model_max_length", *OTHER_SPECIAL_TOKENS)


@dataclass(eq=False)
class Tokenizer:
    """Text to ids and back.

    `bos_id`, `eos_id` and `pad_id` are None where the vocabulary has no such token. Text that looks like a
    special token is always plain text; the special tokens enter as ids only. `settings` are the fields of
    tokenizer_config.json that saving keeps.
    """

    backend: tokenizers.Tokenizer
    bos_id: int | None = None
    eos_id: int | None = None
    pad_id: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    rows: int | None = None  # of the network's embedding, where it has fewer than there are tokens
    # special tokens (bos_token, …) that the network has no row for
    beyond: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.backend.no_truncation()
        self.backend.no_padding()
        self.backend.encode_special_tokens = True
        self.settings = {name: self.settings[name] for name in SAVED_SETTINGS if name in self.settings}

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Opens a folder with tokenizer.json, vocab.json and merges.txt (GPT-1's or GPT-2's, under their
        first names too) or o200k_base.tiktoken (gpt-oss's); or a tokenizer.json or .tiktoken file itself.

        Raises InputError when there is nothing to open or it cannot be read.
        """
        backend, special, settings = read_tokenizer(Path(path))
        ids = {name: None if token is None else backend.token_to_id(token) for name, token in special.items()}
        return cls(backend, ids["bos_token"], ids["eos_token"], ids["pad_token"], settings)

    def fit_vocabulary(self, rows: int, where: str | Path) -> "Tokenizer":
        """This tokenizer for a network whose embedding has so many rows: added tokens beyond them cannot be
        read or written.

        Raises InputError, naming `where`, when tokens are missing that ordinary text is made of.
        """
        if self._all_ids <= rows:
            return self
        own = max(self.backend.get_vocab(with_added_tokens=False).values(), default=-1) + 1
        if own > rows:
            raise InputError(
                f"{where}: the tokenizer has {self._all_ids:,} tokens and the network only {rows:,}"
            )
        ids = {"bos_token": self.bos_id, "eos_token": self.eos_id, "pad_token": self.pad_id}
        beyond = {name: number for name, number in ids.items() if number is not None and number >= rows}
        bos, eos, pad = (None if name in beyond else number for name, number in ids.items())
        return Tokenizer(self.backend, bos, eos, pad, self.settings, rows, beyond)

    def check_ids(self, ids: Sequence[int]) -> None:
        """Raises InputError for the id of a token that the network has no row for."""
        if self.rows is not None and ids and max(ids) >= self.rows:
            worst = max(ids)
            raise InputError(
                f"the text has the token {self.backend.id_to_token(worst)!r} (id {worst:,}), and the "
                f"network has only {self.rows:,} rows; "
                "leave it out"
            )

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.json and tokenizer_config.json, which stock transformers opens; the caller makes
        the folder appear whole."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        written = (self.backend.to_str(pretty=True) + "\n").encode()
        (folder / "tokenizer.json").write_bytes(written)
        # Any other class name would let transformers rebuild the tokenizer from what the model type usually
        # has.
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
        }
        ids = {"bos_token": self.bos_id, "eos_token": self.eos_id, "pad_token": self.pad_id} | self.beyond
        for name, token_id in ids.items():
            if token_id is not None:
                config[name] = self.backend.id_to_token(token_id)
        settings = json.dumps(
            config | self.settings | {CHECKSUM_FIELD: checksum(written)}, indent=2, ensure_ascii=False
        )
        (folder / "tokenizer_config.json").write_text(settings + "\n", encoding="utf-8", newline="")

    def encode(self, text: str, special_tokens: bool = True) -> list[int]:
        """Ids of a text; with `special_tokens`, what the tokenizer's own post-processor adds (nothing for new
        tokenizers)."""
        with native_errors_as_input_errors("the tokenizer cannot encode this text"):
            ids = list(self._encoding(text, special_tokens).ids)
        self.check_ids(ids)
        return ids

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """`encode`, and the characters [start, end) of the text that each id stands for; (0, 0) for special
        tokens."""
        with native_errors_as_input_errors("the tokenizer cannot encode this text"):
            found = self._encoding(text, True)
        self.check_ids(found.ids)
        return list(found.ids), list(found.offsets)

    def _encoding(self, text: str, special_tokens: bool) -> tokenizers.Encoding:
        """A long text goes as a batch of one, during which other threads run: `encode` holds Python's lock
        for as long as it takes."""
        if len(text) < LONG_TEXT:
            return self._encoder(text).encode(text, add_special_tokens=special_tokens)
        return self._encoder(text).encode_batch([text], add_special_tokens=special_tokens)[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text in parallel, without special tokens."""
        if self.rows is not None or any(self._encoder(text) is not self._plain_backend for text in texts):
            return [self.encode(text, special_tokens=False) for text in texts]
        with native_errors_as_input_errors("the tokenizer cannot encode these texts"):
            return [
                encoding.ids
                for encoding in self._plain_backend.encode_batch_fast(list(texts), add_special_tokens=False)
            ]

    def _encoder(self, text: str) -> tokenizers.Tokenizer:
        """The backend for this text, to which the names of special tokens and of bytes are text."""
        if self._spells_bytes and BYTE_TOKEN.search(text):
            return self._unlikely_bytes
        return self._plain_backend

    @cached_property
    def _plain_backend(self) -> tokenizers.Tokenizer:
        special = {token["content"] for token in self._description["added_tokens"] if token["special"]}
        names = unmatchable_tokens(self._description, special)
        return _from_description(without_tokens(self._description, names)) if names else self.backend

    @cached_property
    def _spells_bytes(self) -> bool:
        model = self._description["model"]
        return bool(model["type"] == "Unigram" and model.get("byte_fallback"))

    @cached_property
    def _unlikely_bytes(self) -> tokenizers.Tokenizer:
        return _from_description(with_unlikely_byte_tokens(json.loads(self._plain_backend.to_str())))

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of the ids; bytes that are not UTF-8 become U+FFFD."""
        with native_errors_as_input_errors("the tokenizer cannot decode these ids"):
            if len(ids) < LONG_TEXT:
                return str(self.backend.decode(list(ids), skip_special_tokens=skip_special))
            # as `_encoding`
            return str(self.backend.decode_batch([list(ids)], skip_special_tokens=skip_special)[0])

    def decode_after(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """The text that `ids` add to that of `before`, without a character that they begin and do not
        complete. SentencePiece decodes a text's first token without the space that begins it; what goes on
        with a text keeps that space."""
        decoder = self.stream_decoder(after=before)
        return "".join(map(decoder.push, ids)) + decoder.finish()

    def stream_decoder(
        self, shown: Mapping[int, str] | None = None, after: Sequence[int] = (), inside: bool = False
    ) -> StreamDecoder:
        """Decodes id by id: the pieces put together are what the ids add to the text of the ids `after`, with
        the text of `shown` where those special tokens stand. `inside` says that a text stands before
        them, whatever it is."""
        after = [*self._some_token, *after] if inside else after
        plain: StreamDecoder
        if self._byte_level:
            plain = ByteStreamDecoder(self.bytes_of_tokens, after)
        else:
            plain = ComparingStreamDecoder(
                self.decode, lambda i: self.backend.id_to_token(i) if self.bytes_of_tokens[i] else None, after
            )
        return (
            SpecialTokenStreamDecoder(plain, lambda: self.stream_decoder(inside=True), shown)
            if shown
            else plain
        )

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes a token stands for; empty for special tokens."""
        return self.bytes_of_tokens[token_id]

    def token_name(self, token_id: int) -> str:
        """The token's characters, to be shown; where it is part of one, its bytes as OpenAI writes them,
        bytes:\\xe2\\x80, so that no two look alike; a special token's own name."""
        found = self.bytes_of_tokens[token_id]
        try:
            return found.decode() if found else str(self.backend.id_to_token(token_id) or "")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in found)

    @property
    def separator_id(self) -> int:
        """The id that stands before each document: bos, or eos where there is no bos."""
        found = self.bos_id if self.bos_id is not None else self.eos_id
        if found is None:
            raise InputError(
                "tokenizer: it has neither a bos nor an eos token to set documents apart; name one in "
                "tokenizer_config.json"
            )
        return found

    @cached_property
    def vocab_size(self) -> int:
        """Ids run from 0 to vocab_size - 1, special tokens included, as far as the network has rows for
        them."""
        return self._all_ids if self.rows is None else min(self.rows, self._all_ids)

    @cached_property
    def bytes_of_tokens(self) -> list[bytes]:
        """The bytes of every id, by id."""
        with native_errors_as_input_errors("the tokenizer's parts do not fit together"):
            return byte_table(self.backend, self._description, self._all_ids)

    @cached_property
    def utf8(self) -> Utf8Validity:
        """Which ids keep a text valid UTF-8."""
        return Utf8Validity(self.bytes_of_tokens)

    @cached_property
    def max_token_bytes(self) -> int | None:
        """The most bytes of UTF-8 that a token may stand for in a text; None where there is no such number,
        since the tokenizer leaves out parts of texts or takes any run of unknown characters as one token."""
        factor = max_normalizer_shrinkage(self._description)
        names = [
            len(str(token["content"]).encode("utf-8", "replace"))
            for token in self._description["added_tokens"]
        ]
        return None if factor is None else factor * max(1, *map(len, self.bytes_of_tokens), *names)

    @cached_property
    def lossless(self) -> bool:
        """Whether every text decodes back exactly, as the parts of the tokenizer say."""
        return decodes_exactly(self._description)

    @cached_property
    def kind(self) -> str:
        """bpe, unigram, char or byte, or the model's own name in lower case."""
        return kind_of(self._description)

    @cached_property
    def fingerprint(self) -> str:
        """Names the ids this tokenizer gives: the same vocabulary, rules and special tokens have the same
        one."""
        parts = [self._description, self.bos_id, self.eos_id, self.pad_id]
        canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()

    @cached_property
    def _all_ids(self) -> int:
        return max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @cached_property
    def _description(self) -> dict[str, Any]:
        description: dict[str, Any] = json.loads(self.backend.to_str())
        return description

    @cached_property
    def drops_first_space(self) -> bool:
        """Whether decoding leaves out the space that begins a text, which SentencePiece puts before each, or
        GPT-1's tokens end with."""
        spaced = next(
            (
                token
                for token, text in enumerate(self.bytes_of_tokens)
                if text.strip() and text.strip(b" ") != text
            ),
            None,
        )
        if spaced is None:
            return False
        before = [spaced] if self.bytes_of_tokens[spaced].endswith(b" ") else self._some_token
        return self.decode_after(before, [spaced]).startswith(" ") and not self.decode([spaced]).startswith(
            " "
        )

    @cached_property
    def _some_token(self) -> list[int]:
        """A token of letters or digits, if there is one."""
        return [token for token, text in enumerate(self.bytes_of_tokens) if text.isalnum()][:1]

    @cached_property
    def _byte_level(self) -> bool:
        return is_byte_level(self._description)


def _from_description(description: dict[str, Any]) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer.from_str(json.dumps(description))
    backend.encode_special_tokens = True
    return backend
