"""Texts to sequences of a classifier: start, delimiter and extract tokens round them (Radford et al. 2018, figure 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as Backend

from newleaf.storage.classifier_folder import Head, Label, Shape
from newleaf.text.tokenizer import Tokenizer

START, DELIMITER, EXTRACT = "<|start|>", "<|delimiter|>", "<|extract|>"


def with_label_tokens(
    tokenizer: Tokenizer, shape: Shape, labels: tuple[Label, ...], multi_label: bool, length: int
) -> tuple[Tokenizer, Head]:
    """A tokenizer whose post-processor puts the tokens round one text or two, and the head that knows their ids.

    The start token is the one that stood before documents in pretraining, where there is one; the ids of texts stay what they were.
    """
    backend = Backend.from_str(tokenizer.backend.to_str())
    names = tokenizer.backend
    before = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    start = START if before is None else str(names.id_to_token(before))
    new = [*([START] if before is None else []), EXTRACT, *([DELIMITER] if shape != "classify" else [])]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in new if backend.token_to_id(token) is None])
    ids = {token: int(backend.token_to_id(token) or 0) for token in (start, *new)}
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {EXTRACT}",
        pair=f"{start} $A {DELIMITER} $B {EXTRACT}" if shape != "classify" else None,
        special_tokens=list(ids.items()),
    )
    pad = tokenizer.pad_id if tokenizer.pad_id is not None else tokenizer.eos_id if tokenizer.eos_id is not None else ids[start]
    made = Tokenizer(backend, tokenizer.bos_id, tokenizer.eos_id, pad, tokenizer.settings | {"model_max_length": length})
    return made, Head(shape, labels, multi_label, ids[start], ids.get(DELIMITER), ids[EXTRACT], length)


@dataclass(frozen=True)
class Encoded:
    """An example's sequences; `cut` says whether its texts were too long."""

    sequences: tuple[list[int], ...]
    cut: bool

    @property
    def length(self) -> int:
        """Of the longest sequence."""
        return max(len(sequence) for sequence in self.sequences)


class Encoder:
    """Texts of one shape to sequences of at most `length` tokens."""

    def __init__(self, tokenizer: Tokenizer, head: Head, length: int) -> None:
        self.tokenizer, self.head, self.length = tokenizer, head, length

    def encode(self, examples: Sequence[Sequence[str]]) -> list[Encoded]:
        """One text, two, or a text and its continuations for each example."""
        if self.head.extract is None:  # a stock classifier's folder: one text, and whatever its tokenizer adds
            made = [self.tokenizer.encode(texts[0]) for texts in examples]
            return [Encoded((ids[: self.length],), len(ids) > self.length) for ids in made]
        flat = [text for texts in examples for text in texts]
        ids = iter(self.tokenizer.encode_batch(flat))
        return [self._example([next(ids) for _ in texts]) for texts in examples]

    def _example(self, texts: list[list[int]]) -> Encoded:
        if self.head.shape == "classify":
            made = [self._wrap(texts[0])]
        elif self.head.shape == "similarity":
            made = [self._wrap(texts[0], texts[1]), self._wrap(texts[1], texts[0])]
        else:
            made = [self._wrap(texts[0], other) for other in texts[1:]]
        return Encoded(tuple(ids for ids, _ in made), any(cut for _, cut in made))

    def _wrap(self, first: list[int], second: list[int] | None = None) -> tuple[list[int], bool]:
        head = self.head
        assert head.start is not None
        assert head.extract is not None
        room = self.length - 2 - (second is not None)
        kept_first, kept_second = _shares(len(first), len(second or ()), room)
        middle = [] if second is None else [int(head.delimiter or 0), *second[:kept_second]]
        cut = kept_first < len(first) or (second is not None and kept_second < len(second))
        return [head.start, *first[:kept_first], *middle, head.extract], cut


def _shares(first: int, second: int, room: int) -> tuple[int, int]:
    """How much of two texts to keep: the longer one is cut first."""
    if first + second <= room:
        return first, second
    half = room // 2
    if first <= half:
        return first, room - first
    if second <= room - half:
        return room - second, second
    return half, room - half
