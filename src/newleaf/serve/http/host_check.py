"""Checks the Host and Origin of a request: accepted names only, and no pages of other sites.

A page in a browser can send requests to any server that the browser reaches. Its name may be made to
resolve to 127.0.0.1 (DNS rebinding), so that it counts as this server's own page; the Host header shows
that. A form of another site is sent without a preflight; Sec-Fetch-Site shows that, or else Origin.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from newleaf.serve.api_errors import ApiError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


def check_host(method: str, headers: Headers, hosts: Collection[str] | None) -> None:
    """Raises ApiError (403) unless Host is one of `hosts` (None: any) and the request is same-origin."""
    given = headers.getlist("host")
    if hosts is not None and (len(given) != 1 or host_name(given[0]) not in hosts):
        text = (
            f"Host: this server is {', '.join(sorted(hosts))}, and not "
            f"{', '.join(given)[:100] or 'nameless'}; --allowed-hosts names others"
        )
        raise ApiError(403, text, None, "host_not_allowed")
    if method not in SAFE_METHODS and _is_cross_origin(headers):
        raise ApiError(403, "pages of other sites may not use this server", None, "cross_origin")


def host_name(host: str) -> str | None:
    """The name in a Host header or netloc, without port and IPv6 brackets; None where there is none."""
    try:
        found = urlsplit(f"//{host}").hostname
    except ValueError:
        return None
    return None if found is None or set(host) & set("/@?#\\") else found.removesuffix(".")


def _is_cross_origin(headers: Headers) -> bool:
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site not in ("same-origin", "none")
    return origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower()
