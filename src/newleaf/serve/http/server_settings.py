"""Settings of a server: limits, API keys, and where files are stored."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from newleaf.errors import InputError
from newleaf.serve.http.api_keys import ApiKey


@dataclass(frozen=True)
class Limits:
    """Limits of requests and connections. Raises InputError naming the field."""

    body: int = 4 << 20  # bytes of a request body
    upload: int = 128 << 20  # bytes of an uploaded file
    prompt: int | None = None  # tokens; None: what fits the context
    reading: int = 300_000  # tokens of one request for embeddings or prompt scores, as OpenAI has it
    output: int = 4096  # tokens of one completion, also its default
    choices: int = 16  # completions of one request
    queue: int = 1024  # sequences running or waiting, per model
    requests_per_minute: int | None = None  # of a key, or of all requests where there are no keys
    tokens_per_minute: int | None = None  # prompt and completion tokens, likewise
    connections: int = 4096
    header_bytes: int = 32 << 10  # of a request line and its headers
    header_seconds: float = 15.0  # to receive them
    body_seconds: float = 60.0  # to receive a body
    stall_seconds: float = 60.0  # that a client may not read its response
    drain_seconds: float = 120.0  # of a graceful shutdown

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise InputError(f"{name}: must be above 0, not {value}")


@dataclass(frozen=True)
class Settings:
    """All settings but the models.

    `keys` are the accepted API keys (None: no authentication), `hosts` the accepted Host names (None: any),
    `state` the folder of files and batches.
    """

    limits: Limits = Limits()
    keys: Sequence[ApiKey] | None = None
    hosts: Collection[str] | None = None
    proxies: Sequence[str] = ()  # addresses and networks whose X-Forwarded-For and -Proto are trusted
    state: Path | None = None
    page: Path | None = None  # a folder of static files, in place of the page
    runs: Path | None = None  # a folder of training runs for the page
    strict: bool = False  # refuse unknown fields, instead of ignoring and naming them
