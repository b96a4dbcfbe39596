"""Authenticates a request by its API key, in the Authorization header."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers

from newleaf.serve.api_errors import ApiError
from newleaf.serve.http.api_keys import ApiKey, find_key


def authenticate(headers: Headers, keys: Sequence[ApiKey]) -> ApiKey:
    """The key of a request's Authorization header. Raises ApiError (401) for a missing or unknown key."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    key = find_key(keys, given.strip()) if scheme.lower() == "bearer" and given else None
    if key is None:
        what = "this API key is not known" if given else "an API key is needed: Authorization: Bearer KEY"
        raise ApiError(401, what, None, "invalid_api_key", {"WWW-Authenticate": "Bearer"})
    return key
