"""Who wrote what looks like a control token: the template, whose tokens become ids, or a message, whose
characters stay characters.

Before a template is rendered, one character of each control token in the messages is exchanged for a private
one (a *mask*) that the texts do not use, so that afterwards every whole control token is the template's.
Those are exchanged for secret twins that a copy of the tokenizer knows as tokens, the masks are taken back,
and one call of the tokenizer encodes it all. Its rules for what stands around a token hold, as twins have the
flags of theirs; text that looks like a token is text to the copy.
"""

from __future__ import annotations

import bisect
import json
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken

from newleaf.text.unmatchable_tokens import unmatchable_tokens, without_tokens
from newleaf.untrusted import native_errors_as_input_errors

PRIVATE = (*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE))
ANY_PRIVATE = re.compile("[\ue000-\uf8ff\U000f0000-\U000ffffd]")


class Patterns(NamedTuple):
    """What matches a whole token, and what matches the first character of one, wherever others begin."""

    whole: re.Pattern[str]
    starts: re.Pattern[str]


class Mask:
    """Exchanges characters for private ones that none of `texts` holds, and back. Lengths stay."""

    def __init__(self, texts: Iterable[str]) -> None:
        used = {character for text in texts for character in ANY_PRIVATE.findall(text)}
        self._free = (chr(code) for code in PRIVATE if chr(code) not in used)
        self._codes: dict[str, str] = {}

    def code(self, character: str) -> str:
        """What stands for this character."""
        if character not in self._codes:
            self._codes[character] = next(self._free)
        return self._codes[character]

    def hide(self, text: str, at: int) -> str:
        return text[:at] + self.code(text[at]) + text[at + 1 :]

    def restore(self, text: str) -> str:
        # few; each is one pass of C, where `translate` looks up every character
        for character, code in self._codes.items():
            text = text.replace(code, character)
        return text

    def __bool__(self) -> bool:
        return bool(self._codes)


class ControlTokens:
    """The tokens that steer a chat: the tokenizer's special tokens, and the other added tokens that the
    template's source names."""

    def __init__(self, backend: tokenizers.Tokenizer, source: str) -> None:
        added = backend.get_added_tokens_decoder()
        self.special = [token for token in added.values() if token.special and token.content]
        self.named = [
            token
            for token in added.values()
            if not token.special and token.content.strip() and token.content in source
        ]
        numbers = {token.content: number for number, token in added.items()}
        self.ids = {token.content: numbers[token.content] for token in [*self.special, *self.named]}
        self._whole_special, self._whole_any = _pattern(self.special), _pattern([*self.special, *self.named])
        self._backend = backend
        self._copy: tuple[tokenizers.Tokenizer, dict[str, str], dict[int, int]] | None = None
        contents = list(self.ids)
        self._heads = tuple({text[:cut] for text in contents for cut in range(1, len(text))})
        self._tails = tuple({text[cut:] for text in contents for cut in range(1, len(text))})

    def mask(self, value: Any, mask: Mask) -> Any:
        """`value` with every special token in its strings masked."""
        return map_strings(value, lambda text: _hide_whole(text, self._whole_special, mask), keys=True)

    def mask_finely(self, value: Any, mask: Mask) -> Any:
        """Also the other control tokens but in what the assistant said, and ends of strings that a template
        could complete to a token.

        A template may look for these strings, so the caller compares what it makes of them with what it makes
        without.
        """
        if isinstance(value, list):
            return [self.mask_finely(item, mask) for item in value]
        if not isinstance(value, dict):
            return map_strings(
                value, lambda text: self._hide_ends(_hide_whole(text, self._whole_any, mask), mask)
            )
        pattern = self._whole_special if value.get("role") == "assistant" else self._whole_any
        hidden = {
            name: map_strings(item, lambda text: self._hide_ends(_hide_whole(text, pattern, mask), mask))
            for name, item in value.items()
        }
        return hidden | {name: value[name] for name in ("role", "type") if name in value}

    def encode(self, text: str, mask: Mask) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of a rendered text, still masked, and where in the text each token begins and ends."""
        backend, twins, ids = self._twins()
        pieces, at = [], 0
        # places behind a twin and behind its token; distances stay up to the next one
        theirs, ours = [0], [0]
        for match in self._whole_any.whole.finditer(text):
            pieces += [text[at : match.start()], twins[match[0]]]
            theirs.append(theirs[-1] + len(pieces[-2]) + len(pieces[-1]))
            ours.append(at := match.end())
        # A batch of one: `encode` alone would hold Python's lock for as long as it takes.
        with native_errors_as_input_errors("the tokenizer cannot encode this conversation"):
            found = backend.encode_batch(
                [mask.restore("".join([*pieces, text[at:]]))], add_special_tokens=False
            )[0]

        def place(there: int) -> int:
            number = bisect.bisect_right(theirs, there) - 1
            return ours[number] + there - theirs[number]

        return [ids.get(token, token) for token in found.ids], [
            (place(start), place(end)) for start, end in found.offsets
        ]

    def _hide_ends(self, text: str, mask: Mask) -> str:
        inner = text.strip()
        if not inner:
            return text
        start = len(text) - len(text.lstrip())
        end = start + len(inner) - 1
        if inner.startswith(self._tails) or any(inner in token for token in self.ids):
            text = mask.hide(text, start)
        return mask.hide(text, end) if inner.endswith(self._heads) else text

    def _twins(self) -> tuple[tokenizers.Tokenizer, dict[str, str], dict[int, int]]:
        """The copy of the tokenizer, a twin for each control token, and the ids of twins to those of the
        tokens."""
        if self._copy is None:
            description = json.loads(self._backend.to_str())
            description["post_processor"] = None  # it would only trim white space off the places of tokens
            for token in description["added_tokens"]:
                token["special"] = token["special"] or token["content"] in self.ids
            description = without_tokens(description, unmatchable_tokens(description, self.ids))
            backend = tokenizers.Tokenizer.from_str(json.dumps(description))
            # tokens called special are text to it, and the twins are not called so
            backend.encode_special_tokens = True
            secret = secrets.token_hex(12)
            twins = {
                token.content: f"{secret}{number:06}"
                for number, token in enumerate([*self.special, *self.named])
            }
            backend.add_tokens(
                [
                    AddedToken(
                        twins[t.content],
                        lstrip=t.lstrip,
                        rstrip=t.rstrip,
                        normalized=t.normalized,
                        special=False,
                    )
                    for t in [*self.special, *self.named]
                ]
            )
            numbers = backend.get_vocab(with_added_tokens=True)
            self._copy = backend, twins, {numbers[twin]: self.ids[content] for content, twin in twins.items()}
        return self._copy


def map_strings(value: Any, change: Callable[[str], str], keys: bool = False) -> Any:
    """A copy of JSON values with every string changed, and names of fields too where `keys` says so."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {
            change(name) if keys else name: map_strings(item, change, keys) for name, item in value.items()
        }
    return [map_strings(item, change, keys) for item in value] if isinstance(value, list) else value


def strings_of(value: Any) -> Iterator[str]:
    """All strings in JSON values, names of fields too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from strings_of(item)


def _pattern(tokens: list[AddedToken]) -> Patterns:
    """Of any of these tokens, the longest first, as the tokenizer does."""
    longest_first = sorted(tokens, key=lambda token: -len(token.content))
    parts = [
        rf"(?<!\w){re.escape(t.content)}(?!\w)" if t.single_word else re.escape(t.content)
        for t in longest_first
    ]
    either = "|".join(parts) or r"(?!)"
    return Patterns(re.compile(either), re.compile(f"(?={either})(?s:.)"))


def _hide_whole(text: str, pattern: Patterns, mask: Mask) -> str:
    """The text with the first character of every token in it hidden, also of tokens that overlap.

    Each pass is linear. A second one finds something only where a token that has to be a word of its own has
    become one, because what stood beside it is hidden.
    """
    while pattern.whole.search(text):
        text = pattern.starts.sub(lambda match: mask.code(match[0]), text)
    return text
