"""The encoding of a text file: what the user says, what a byte order mark says, or a guess that is told; what
comes out is UTF-8."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator

from newleaf.data.bad_documents import BadDocumentError
from newleaf.errors import InputError

UTF8 = "utf-8"
SAMPLE_BYTES = 64 * 2**10  # bytes from the first that is not ASCII on, by which an encoding is guessed
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, UTF8), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
# In this order where they explain the bytes equally well.
CANDIDATES = (
    "gb18030",
    "big5",
    "shift_jis",
    "euc_jp",
    "euc_kr",
    "utf_16_le",
    "utf_16_be",
    "cp1252",
    "latin_1",
)
WESTERN_ENCODINGS = ("cp1252", "latin_1")
CHAOS_TOLERANCE = 0.05  # charset-normalizer's measure of mess: two that are no further apart are equally good
UTF8_SEQUENCE = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
# What Latin-1 text has beyond ASCII: letters, and the marks of Western languages.
LATIN1 = frozenset([*range(0xC0, 0xFF), *b"\xa0\xa1\xa3\xa7\xa9\xab\xae\xb0\xb2\xb3\xb4\xb5\xb7\xba\xbb\xbf"])


def canonical_encoding(name: str) -> str:
    """Python's own name of a text encoding. Raises InputError for what is none."""
    try:
        found = codecs.lookup(name)
        "a".encode(name).decode(name)
    except (LookupError, ValueError, AttributeError):
        raise InputError(
            f"encoding: {name!r} is no text encoding; it is utf-8, gb18030, big5, shift_jis, utf-16, "
            f"latin-1 or the like"
        ) from None
    return found.name


def detect_encoding(head: bytes) -> str | None:
    """The encoding of a file that begins with these bytes, by Python's name; None where nothing explains
    them, or they are no text."""
    for mark, name in BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return name
    if b"\x00" in head[:SAMPLE_BYTES]:
        return _detect_utf16(head[: SAMPLE_BYTES // 2 * 2])
    first = next((match.start() for match in re.finditer(rb"[\x80-\xff]", head)), None)
    if first is None:
        return UTF8
    sample = head[head.rfind(b"\n", 0, first) + 1 :][:SAMPLE_BYTES]
    if _is_utf8_prefix(sample):
        return UTF8
    valid_sequences = UTF8_SEQUENCE.findall(sample)
    rest = sum(byte >= 0x80 for byte in UTF8_SEQUENCE.sub(b"", sample))
    if len(valid_sequences) > 4 * rest:  # UTF-8 that is damaged somewhere
        return UTF8
    return _detect_legacy_encoding(sample)


def utf8_blocks(
    blocks: Iterator[bytes], name: str, encoding: str | None, on_detected: Callable[[str, str], None]
) -> Iterator[bytes]:
    """The blocks of a file as UTF-8. Without an `encoding` the first block decides; `on_detected(name,
    encoding)` hears of a guess.

    Raises BadDocumentError at the first byte that the encoding does not have. UTF-8 itself goes through as it
    is.
    """
    head = next(blocks, b"")
    chosen = encoding or detect_encoding(head)
    if chosen is None or codecs.lookup(chosen).name in (UTF8, "utf-8-sig"):
        yield head
        yield from blocks
        return
    if encoding is None:
        on_detected(name, chosen)
    decoder = codecs.getincrementaldecoder(chosen)("strict")
    at = 0
    for block in _with_end_marker(head, blocks):
        waiting = _pending_bytes(decoder)
        try:
            text = decoder.decode(block or b"", final=block is None)
        except UnicodeDecodeError as error:
            raise BadDocumentError(
                "not in its encoding",
                f"{name}: not {chosen} at byte {at - waiting + error.start}",
                "name its encoding with --data.encoding",
            ) from error
        at += len(block or b"")
        if text:
            yield text.encode(UTF8, "surrogatepass")


def _with_end_marker(head: bytes, blocks: Iterator[bytes]) -> Iterator[bytes | None]:
    yield head
    yield from blocks
    yield None


def _pending_bytes(decoder: codecs.IncrementalDecoder) -> int:
    state = decoder.getstate()[0]
    return len(state) if isinstance(state, bytes) else 0


def _is_utf8_prefix(sample: bytes) -> bool:
    """Whether this is UTF-8 that may be cut within its last character."""
    try:
        codecs.getincrementaldecoder(UTF8)("strict").decode(sample)
    except UnicodeDecodeError:
        return False
    return True


def _detect_utf16(sample: bytes) -> str | None:
    """UTF-16 without a mark, told by where its NUL bytes are."""
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    name = "utf-16-le" if odd > 4 * even else "utf-16-be" if even > 4 * odd else None
    if name is None or even + odd < max(4, len(sample) // 50):
        return None
    try:
        text = sample[: len(sample) // 2 * 2].decode(name, "strict")
    except UnicodeDecodeError as error:
        if error.start < len(sample) - 4:
            return None
        text = sample[: error.start].decode(name)
    return (
        name
        if sum(character.isprintable() or character.isspace() for character in text) > 0.95 * len(text)
        else None
    )


def _detect_legacy_encoding(sample: bytes) -> str | None:
    from charset_normalizer import from_bytes

    # A sample ends anywhere: whole lines, where there are several.
    sample = sample[: sample.rfind(b"\n") + 1] or sample
    found = [(match.encoding, match.chaos) for match in from_bytes(sample, cp_isolation=list(CANDIDATES))]
    if not found:
        return None
    least = min(chaos for _, chaos in found)
    name = min(
        (encoding for encoding, chaos in found if chaos <= least + CHAOS_TOLERANCE), key=CANDIDATES.index
    )
    if name not in WESTERN_ENCODINGS:
        return name
    # Where there are bytes 0x80 to 0x9F, as many encodings of one byte explain them as there are.
    return "latin-1" if all(byte < 0x80 or byte in LATIN1 for byte in sample) else None
