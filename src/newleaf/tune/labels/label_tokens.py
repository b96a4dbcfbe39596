"""Texts to sequences of a classifier: start, delimiter and extract tokens round them (Radford et al. 2018,
figure 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as Backend

from newleaf.errors import InputError
from newleaf.storage.classifier_folder import Head, Label, Shape
from newleaf.text.tokenizer import Tokenizer

START, DELIMITER, EXTRACT = "<|start|>", "<|delimiter|>", "<|extract|>"
STAND_INS = ("\n", ".", " ")  # texts whose last token takes the place of one that cannot be added


def with_label_tokens(
    tokenizer: Tokenizer,
    shape: Shape,
    labels: tuple[Label, ...],
    multi_label: bool,
    length: int,
    adds: bool = True,
) -> tuple[Tokenizer, Head]:
    """A tokenizer whose post-processor puts the tokens round one text or two, and the head that knows their
    ids.

    The start token is the one that stood before documents in pretraining, where there is one; the ids of
    texts stay what they were. Unless it `adds` tokens, which an adapter's base has no rows for, the others
    are a line's end, or what there is of the kind.
    """
    backend = Backend.from_str(tokenizer.backend.to_str())
    before = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    wanted = [*([START] if before is None else []), EXTRACT, *([DELIMITER] if shape != "classify" else [])]
    if adds:
        missing = [token for token in wanted if backend.token_to_id(token) is None]
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in missing])
    ids = {token: _id_of(token, tokenizer, backend) for token in wanted}
    start = ids[START] if before is None else before
    names = {START: start} | ids
    backend.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {EXTRACT}",
        pair=f"{START} $A {DELIMITER} $B {EXTRACT}" if shape != "classify" else None,
        special_tokens=[
            {"id": name, "ids": [number], "tokens": [str(backend.id_to_token(number))]}
            for name, number in names.items()
        ],
    )
    pad = (
        tokenizer.pad_id
        if tokenizer.pad_id is not None
        else tokenizer.eos_id
        if tokenizer.eos_id is not None
        else start
    )
    made = Tokenizer(
        backend, tokenizer.bos_id, tokenizer.eos_id, pad, tokenizer.settings | {"model_max_length": length}
    )
    return made, Head(shape, labels, multi_label, start, ids.get(DELIMITER), ids[EXTRACT], length)


def _id_of(token: str, tokenizer: Tokenizer, backend: Backend) -> int:
    """A token's id, or that of one which stands for it.

    Stock classifiers look for the last token that is no padding: neither it nor what begins or ends documents
    will do.
    """
    known = backend.token_to_id(token)
    if known is not None:
        return int(known)
    taken = {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id}
    for text in STAND_INS:
        ids = tokenizer.encode(text, special_tokens=False)
        if ids and ids[-1] not in taken:
            return ids[-1]
    return next(number for number in range(backend.get_vocab_size()) if number not in taken)


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
        # a stock classifier's folder: one text, and whatever its tokenizer adds
        if self.head.extract is None:
            made = [self.tokenizer.encode(texts[0]) for texts in examples]
            for number, found in enumerate(made, 1):
                if not found:
                    raise InputError(
                        f"text {number} is empty and its tokenizer adds nothing, so there is nothing to label"
                    )
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
