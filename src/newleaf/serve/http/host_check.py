"""Where a request may come from: under a name that is this server's own, and from no page of another site.

A page that a browser shows can ask any server that the browser reaches. Its name may be made to mean
127.0.0.1 (DNS rebinding), after which it counts as this server's own page; what gives it away is the Host
header. And a form of another site needs no permission to send: what gives that away is Sec-Fetch-Site, which
browsers send to secure and local addresses, or else Origin.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from newleaf.serve.api_errors import ApiError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


def check_host(method: str, headers: Headers, hosts: Collection[str] | None) -> None:
    """Raises ApiError (403) unless the request names one of these `hosts` (None: any), whatever the port, and
    no other site sent it."""
    given = headers.getlist("host")
    if hosts is not None and (len(given) != 1 or host_name(given[0]) not in hosts):
        text = (
            f"Host: this server is {', '.join(sorted(hosts))}, and not "
            f"{', '.join(given)[:100] or 'nameless'}; --allowed-hosts names others"
        )
        raise ApiError(403, text, None, "host_not_allowed")
    if method not in SAFE_METHODS and _from_elsewhere(headers):
        raise ApiError(403, "pages of other sites may not use this server", None, "cross_origin")


def host_name(host: str) -> str | None:
    """The name in a Host header or of a netloc, without its port and an IPv6 address's brackets; None where
    there is none."""
    try:
        found = urlsplit(f"//{host}").hostname
    except ValueError:
        return None
    return None if found is None or set(host) & set("/@?#\\") else found.removesuffix(".")


def _from_elsewhere(headers: Headers) -> bool:
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site not in ("same-origin", "none")
    return origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower()
