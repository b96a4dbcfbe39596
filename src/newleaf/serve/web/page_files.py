"""The page's files, read once and served from memory, with a policy that lets the browser run nothing
else."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response

INDEX = "index.html"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# Scripts and styles are files of this server, requests go to this server, and no script can turn text into
# markup (trusted types).
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # kept, and asked for again by its tag
}


@dataclass(frozen=True)
class Asset:
    """A file of the page: its bytes, their media type, and a tag that changes when they do."""

    content: bytes
    type: str
    tag: str


def page_router(folder: Path) -> APIRouter:
    """`/` is the folder's index.html, and every other file has a route of its own, so that no path leads out
    of the folder."""
    routes = APIRouter(include_in_schema=False)
    for name, asset in read_assets(folder).items():
        _serve(routes, "/" if name == INDEX else f"/{name}", asset)
    return routes


def read_assets(folder: Path) -> dict[str, Asset]:
    """The folder's files by their path in it, such as "js/main.js"; those of other kinds, and links to files
    elsewhere, are left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in TYPES and path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
            found[path.relative_to(folder).as_posix()] = Asset(
                content, f"{TYPES[path.suffix]}; charset=utf-8", tag
            )
    return found


def _serve(routes: APIRouter, at: str, asset: Asset) -> None:
    headers = {**HEADERS, "ETag": asset.tag}

    @routes.api_route(at, methods=["GET", "HEAD"])
    async def file(request: Request) -> Response:
        if asset.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(asset.content, headers=headers, media_type=asset.type)
