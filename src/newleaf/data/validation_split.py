"""The validation split: which end of the text is held out of training."""

from dataclasses import replace
from pathlib import Path

from newleaf.data.text_store import (
    TextRange,
    TextStoreWriter,
    character_offset,
    count_chars,
    next_character,
)
from newleaf.errors import InputError

LONG_DOCUMENT_BYTES = 10_000  # bytes of a document whose end is a text of its own
FEW_DOCUMENTS = 100  # documents of which the last need not be like the others


def split_validation(text: TextRange, val_fraction: float, folder: Path) -> tuple[TextRange, TextRange]:
    """One document: its end, to the character, so that the first int((1 - f) n) characters train. Several:
    the last ones, whole; but the end of each where that would hold back a far larger or smaller share, as
    with two books."""
    if text.n_documents == 1:
        n_first = int((1 - val_fraction) * text.n_chars)
        if n_first == 0:
            raise InputError(
                f"the text has {text.n_chars} character(s), too few to hold some back for validation; give "
                f"a longer text"
            )
        return _split_at_character(text, n_first)
    train, validation = _split_between_documents(
        text, min(max(1, round(val_fraction * text.n_documents)), text.n_documents - 1)
    )
    share = validation.n_bytes / text.n_bytes
    books = text.n_documents < FEW_DOCUMENTS and text.n_bytes > LONG_DOCUMENT_BYTES * text.n_documents
    if books and not val_fraction / 2 <= share <= 2 * val_fraction:
        return _split_each_document(text, val_fraction, folder / "train.bin", folder / "validation.bin") or (
            train,
            validation,
        )
    return train, validation


def _split_between_documents(text: TextRange, n_last: int) -> tuple[TextRange, TextRange]:
    """The text without its last `n_last` documents, and those."""
    n_first = text.n_documents - n_last
    cut = int(text.ends[n_first - 1])
    n_chars = count_chars(text.path, text.start, cut)
    first = replace(text, stop=cut, n_documents=n_first, n_chars=n_chars)
    return first, replace(
        text, start=cut, first_document=n_first, n_documents=n_last, n_chars=text.n_chars - n_chars
    )


def _split_at_character(text: TextRange, n_first: int) -> tuple[TextRange, TextRange]:
    """One document in two: its first `n_first` characters, and the rest."""
    cut = character_offset(text, n_first)
    return replace(text, stop=cut, n_chars=n_first), replace(text, start=cut, n_chars=text.n_chars - n_first)


def _split_each_document(
    text: TextRange, last_share: float, first: Path, last: Path
) -> tuple[TextRange, TextRange] | None:
    """Every document in two, at a character: all without their ends, written to `first`, and the ends, about
    `last_share` of each, to `last`. None where one of the two is empty."""
    with TextStoreWriter(first) as heads, TextStoreWriter(last) as tails:
        start = text.start
        for number, end in enumerate(text.ends.tolist()):
            whole = replace(
                text, start=start, stop=end, first_document=text.first_document + number, n_documents=1
            )
            cut = next_character(text.path, start + int((1 - last_share) * (end - start)), end)
            heads.add(piece for piece, _ in replace(whole, stop=cut).pieces())
            tails.add(piece for piece, _ in replace(whole, start=cut).pieces())
            start = end
    return (heads.text(), tails.text()) if heads.n_bytes and tails.n_bytes else None
