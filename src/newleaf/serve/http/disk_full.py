"""The error of a full disk (507): the fault of neither the client nor the program."""

from __future__ import annotations

import errno

from newleaf.serve.api_errors import ApiError

NO_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
WINDOWS_NO_SPACE = 112


def is_disk_full(error: BaseException | None) -> bool:
    """Whether this error, or one of its group, is that the disk is full."""
    if isinstance(error, BaseExceptionGroup):
        return any(is_disk_full(each) for each in error.exceptions)
    if not isinstance(error, OSError):
        return False
    return error.errno in NO_SPACE or getattr(error, "winerror", None) == WINDOWS_NO_SPACE


def disk_full_error() -> ApiError:
    """507, Insufficient Storage (RFC 4918)."""
    return ApiError(
        507, "the server's disk is full; nothing of this request was kept", None, "insufficient_storage"
    )
