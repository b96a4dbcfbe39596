"""Sources to documents: each kind of file cut into the texts it holds."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from newleaf.data.bad_documents import BadDocumentError, Problems
from newleaf.data.compression import decompressed_blocks, open_seekable
from newleaf.data.csv_tables import DELIMITERS, SourceRow, read_table
from newleaf.data.data_config import DataConfig
from newleaf.data.encodings import utf8_blocks
from newleaf.data.hub_datasets import hub_rows
from newleaf.data.row_files import file_rows, parse_row
from newleaf.data.sources import FileSource, HubSource, ResolvedSources
from newleaf.data.text_decoding import Line, decode_line, decode_text, split_lines
from newleaf.errors import InputError

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Document:
    """A text under its name (file, or file:line), in pieces, since one document may be larger than memory."""

    name: str
    pieces: Iterable[str]


@dataclass(frozen=True)
class ReadContext:
    """What every reader needs: the choices, where problems go, and whom to tell how many bytes of the file
    are read."""

    config: DataConfig
    problems: Problems
    on_read: Callable[[int], None]

    def blocks(self, source: FileSource) -> Iterator[bytes]:
        return utf8_blocks(
            decompressed_blocks(source.path, self.on_read),
            str(source.path),
            self.config.encoding,
            self.problems.encoding_detected,
        )


def documents(
    found: ResolvedSources, config: DataConfig, problems: Problems, on_progress: Progress | None = None
) -> Iterator[Document]:
    """Every document of the sources, in order. The pieces of one are to be used up before the next is asked
    for.

    What cannot be read goes to `problems`, except that a fault inside the pieces is raised there, as
    BadDocumentError, for whoever reads them: only they know what to take back.
    """
    done = 0
    for source in found.sources:

        def on_read(at: int, before: int = done) -> None:
            if on_progress is not None:
                on_progress("reading", before + at, found.total_bytes)

        reading = ReadContext(config, problems, on_read)
        try:
            if isinstance(source, HubSource):
                yield from _numbered_row_documents(hub_rows(source), str(source), reading)
            else:
                yield from _file_documents(source, reading)
                done += source.size
        except BadDocumentError as problem:
            problems.bad(problem)


def _file_documents(source: FileSource, reading: ReadContext) -> Iterator[Document]:
    if source.size == 0:
        if source.named:
            raise BadDocumentError("empty", f"{source.path}: the file is empty; give one that holds text")
        reading.problems.skipped["empty"] += 1  # a folder of code holds empty files as a matter of course
        return
    name = str(source.path)
    if source.format == ".jsonl":
        yield from _jsonl_documents(source, reading)
    elif source.format == ".json":
        yield from _row_documents(
            file_rows(source.path, reading.problems.bad, reading.config.encoding), reading
        )
    elif source.format in DELIMITERS:
        yield from _table_documents(source, reading)
    elif source.format == ".parquet":
        yield from _numbered_row_documents(_parquet_text_column(source, reading), name, reading)
    elif source.format == ".txt" and reading.config.document == "line":
        yield from _line_documents(source, reading)
    elif source.format == ".txt" and reading.config.document == "blank-line":
        yield from _paragraph_documents(source, reading)
    else:
        yield Document(name, decode_text(reading.blocks(source), name))


def _decoded_lines(source: FileSource, reading: ReadContext) -> Iterator[tuple[Line, str]]:
    """The lines that are text; the others go to the problems one by one."""
    for line in split_lines(reading.blocks(source)):
        try:
            text = decode_line(line, str(source.path))
        except BadDocumentError as problem:
            reading.problems.bad(problem)
        else:
            yield line, text


def _line_documents(source: FileSource, reading: ReadContext) -> Iterator[Document]:
    """Each line that is not blank, without its line end."""
    for line, text in _decoded_lines(source, reading):
        if text.strip():
            yield Document(f"{source.path}:{line.number}", [text.removesuffix("\n").removesuffix("\r")])


def _paragraph_documents(source: FileSource, reading: ReadContext) -> Iterator[Document]:
    """Runs of lines that are not blank; the last line end of each belongs to the gap."""
    kept: list[str] = []
    first = 1
    for line, text in _decoded_lines(source, reading):
        if text.strip():
            first = first if kept else line.number
            kept.append(text.removesuffix("\n").removesuffix("\r") + "\n")
        elif kept:
            yield Document(f"{source.path}:{first}", ["".join(kept).removesuffix("\n")])
            kept = []
    if kept:
        yield Document(f"{source.path}:{first}", ["".join(kept).removesuffix("\n")])


def _jsonl_documents(source: FileSource, reading: ReadContext) -> Iterator[Document]:
    for line, text in _decoded_lines(source, reading):
        if not text.strip():
            continue
        name = f"{source.path}:{line.number}"
        try:
            yield Document(name, [_text_field(parse_row(text, name), name, reading.config.field)])
        except BadDocumentError as problem:
            reading.problems.bad(problem)


def _text_field(row: dict[str, Any], name: str, field: str) -> str:
    """The row's text; escapes such as \\ud800 make strings that are no Unicode text."""
    if field not in row:
        has = ", ".join(list(row)[:8])
        raise BadDocumentError(
            "no text field",
            f"{name}: has no field {field!r} (it has: {has}); name the text field with --data.field",
        )
    value = row[field]
    if not isinstance(value, str):
        raise BadDocumentError(
            "not a string",
            f"{name}: field {field!r} is not a string but {type(value).__name__}; name the text field",
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadDocumentError(
            "not UTF-8", f"{name}: field {field!r} holds half of a surrogate pair at character {error.start}"
        ) from error
    return value


def _table_documents(source: FileSource, reading: ReadContext) -> Iterator[Document]:
    numbered = ((line.number, text) for line, text in _decoded_lines(source, reading))
    table = read_table(numbered, str(source.path), source.format, reading.problems.bad)
    if reading.config.field not in table.columns:
        has = ", ".join(table.columns[:8])
        message = (
            f"{source.path}: has no column {reading.config.field!r} (it has: {has}); name the text "
            f"column with --data.field"
        )
        raise BadDocumentError("no text field", message)
    yield from _row_documents(table.rows, reading)


def _row_documents(rows: Iterable[SourceRow], reading: ReadContext) -> Iterator[Document]:
    for row in rows:
        try:
            yield Document(row.where, [_text_field(row.values, row.where, reading.config.field)])
        except BadDocumentError as problem:
            reading.problems.bad(problem)


def _numbered_row_documents(
    rows: Iterable[dict[str, Any]], name: str, reading: ReadContext
) -> Iterator[Document]:
    """Documents of rows that are numbered from 1."""
    yield from _row_documents(
        (SourceRow(f"{name}: row {number}", row) for number, row in enumerate(rows, 1)), reading
    )


def _parquet_text_column(source: FileSource, reading: ReadContext) -> Iterator[dict[str, Any]]:
    """Rows with the text column alone; the others are never read."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(
            ".parquet files need the package pyarrow; run: pip install 'newleaf[data]'"
        ) from error
    field = reading.config.field
    try:
        with (
            open_seekable(source.path, reading.on_read) as file,
            parquet.ParquetFile(file, pre_buffer=False) as table,
        ):
            columns = table.schema_arrow.names
            if field not in columns:
                message = (
                    f"{source.path}: has no column {field!r} (it has: {', '.join(columns[:8])}); name the "
                    f"text column with --data.field"
                )
                raise BadDocumentError("no text field", message)
            for batch in table.iter_batches(batch_size=1024, columns=[field]):
                reading.on_read(min(file.tell(), source.size))
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise BadDocumentError(
            "broken file", f"{source.path}: not a readable Parquet file ({str(error).partition(chr(10))[0]})"
        ) from error
