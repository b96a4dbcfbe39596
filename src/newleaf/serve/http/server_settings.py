"""What a server is told when it starts: its limits, keys, and where it keeps files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from newleaf.errors import InputError
from newleaf.serve.http.api_keys import ApiKey


@dataclass(frozen=True)
class Limits:
    """The most that is taken of each. Checked when built (InputError naming the field)."""

    body: int = 4 << 20  # bytes of a request
    upload: int = 128 << 20  # bytes of a file
    prompt: int | None = None  # tokens; None: what the context holds
    # tokens that are read for embeddings or prompt scores of one request, as OpenAI has it
    reading: int = 300_000
    output: int = 4096  # tokens of one text, and what is written where nobody says how many
    choices: int = 16  # texts of one request
    queue: int = 1024  # texts that wait or are being written, per model
    requests_per_minute: int | None = None  # of a key, or of everybody together where there are no keys
    tokens_per_minute: int | None = None  # read and written, likewise
    connections: int = 4096
    header_bytes: int = 32 << 10  # of a request line and its headers
    header_seconds: float = 15.0  # until they are there
    body_seconds: float = 60.0  # until a body is there
    stall_seconds: float = 60.0  # that a client may leave what was sent to it unread
    drain_seconds: float = 120.0  # for what is being answered, after the request to end

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise InputError(f"{name}: must be above 0, not {value}")


@dataclass(frozen=True)
class Settings:
    """Everything but the models. `keys` are those that are let in (None: everybody is), `hosts` the names
    under which the server may be asked (None: any), `state` is the folder of files and batches."""

    limits: Limits = Limits()
    keys: Sequence[ApiKey] | None = None
    hosts: Collection[str] | None = None
    proxies: Sequence[str] = ()  # addresses and networks whose X-Forwarded-For and -Proto are believed
    state: Path | None = None
    page: Path | None = None  # a folder of files that are served as they are
    runs: Path | None = None  # a folder of training runs for the page to show
    strict: bool = False  # whether unknown fields are refused; otherwise they are ignored and named
