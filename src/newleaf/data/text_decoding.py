"""Bytes to text: UTF-8 with the place of the first fault, and lines."""

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from newleaf.data.bad_documents import BadDocumentError

BOM = codecs.BOM_UTF8


@dataclass(frozen=True)
class Line:
    """One line with its line end; `number` counts from 1, `offset` from the file's first byte."""

    number: int
    offset: int
    data: bytes


def decode_text(blocks: Iterable[bytes], name: str) -> Iterator[str]:
    """The text of a file piece by piece, without a byte order mark at its start and with "\\n" for "\\r\\n";
    raises BadDocumentError at the first fault."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    at, started, carriage_return = 0, False, ""
    for block in blocks:
        waiting = len(decoder.getstate()[0])
        _check_no_nul(block, at, name)
        try:
            text = decoder.decode(block)
        except UnicodeDecodeError as error:
            raise _not_utf8(name, at - waiting + error.start) from error
        text, carriage_return = _normalize_newlines(carriage_return + text)
        if text:
            yield text if started else text.removeprefix("\ufeff")
            started = True
        at += len(block)
    rest = decoder.getstate()[0]
    if rest:
        raise _not_utf8(name, at - len(rest))
    if carriage_return:
        yield carriage_return


def split_lines(blocks: Iterable[bytes]) -> Iterator[Line]:
    """The lines of a file, cut after each newline; the last one may lack it. A byte order mark at the start
    is dropped."""
    kept: list[bytes] = []
    number, offset, start = 1, 0, True
    for block in blocks:
        if start and block.startswith(BOM):
            block, offset = block[len(BOM) :], len(BOM)
        start = False
        parts = block.split(b"\n")
        for part in parts[:-1]:
            data = b"".join([*kept, part, b"\n"])
            kept = []
            yield Line(number, offset, data)
            number, offset = number + 1, offset + len(data)
        if parts[-1]:
            kept.append(parts[-1])
    if kept:
        yield Line(number, offset, b"".join(kept))


def decode_line(line: Line, name: str) -> str:
    """A line as text; raises BadDocumentError for NUL bytes and for bytes that are not UTF-8."""
    _check_no_nul(line.data, line.offset, name)
    try:
        return line.data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(name, line.offset + error.start) from error


def _normalize_newlines(text: str) -> tuple[str, str]:
    """The text with "\\n" for "\\r\\n", and a carriage return at its end, whose newline may follow."""
    carriage_return = "\r" if text.endswith("\r") else ""
    return text.removesuffix("\r").replace("\r\n", "\n"), carriage_return


def _check_no_nul(data: bytes, offset: int, name: str) -> None:
    found = data.find(0)
    if found >= 0:
        if offset == 0 and data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise _not_utf8(name, 0)
        raise BadDocumentError(
            "binary", f"{name}: binary file (a NUL byte at byte {offset + found}); give text"
        )


def _not_utf8(name: str, offset: int) -> BadDocumentError:
    hint = "name its encoding with --data.encoding, or convert it to UTF-8"
    return BadDocumentError("not UTF-8", f"{name}: not UTF-8 at byte {offset}", hint)
