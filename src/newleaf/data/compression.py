"""Files as blocks of bytes, whether stored plainly, as .gz or as .zst."""

import gzip
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from newleaf.data.bad_documents import BadDocumentError
from newleaf.data.zstd_frames import is_truncated
from newleaf.errors import InputError

BLOCK_BYTES = 4 * 2**20
COMPRESSED_SUFFIXES = (".gz", ".zst")
OnRead = Callable[[int], None]


def decompressed_blocks(path: Path, on_read: OnRead) -> Iterator[bytes]:
    """The file's bytes, unpacked, a block at a time; `on_read` hears how far into the stored file the reading
    is."""
    try:
        with path.open("rb") as raw, _decompressed(path, raw) as stream:
            while block := stream.read(BLOCK_BYTES):
                on_read(raw.tell())
                yield block
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        kind = "zstd" if path.suffix == ".zst" else "gzip"
        raise BadDocumentError("broken archive", f"{path}: broken {kind} file ({error})") from error
    except OSError as error:
        raise BadDocumentError("unreadable", f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # zstandard's and compression.zstd's own error share no base class
        if type(error).__name__ == "ZstdError":
            raise BadDocumentError("broken archive", f"{path}: broken zstd file ({error})") from error
        raise


@contextmanager
def open_seekable(path: Path, on_read: OnRead) -> Iterator[IO[bytes]]:
    """The file unpacked for random access; a packed one goes through a temporary file on disk, not through
    memory."""
    if path.suffix not in COMPRESSED_SUFFIXES:
        with path.open("rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as file:
        for block in decompressed_blocks(path, on_read):
            file.write(block)
        file.seek(0)
        yield file


@contextmanager
def _decompressed(path: Path, raw: IO[bytes]) -> Iterator[Any]:
    if path.suffix == ".gz":
        with gzip.GzipFile(fileobj=raw) as stream:
            yield stream
    elif path.suffix == ".zst":
        with _zstd(raw) as stream:
            yield stream
        if is_truncated(raw):  # told once all of it was asked for
            raise EOFError("it ends before its last frame does")
    else:
        yield raw


def _zstd(raw: IO[bytes]) -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd

        return zstd.ZstdFile(raw)
    try:
        import zstandard
    except ImportError as error:
        raise InputError(".zst files need the package zstandard; run: pip install 'newleaf[data]'") from error
    return zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True, closefd=False)
