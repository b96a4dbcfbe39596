"""The page's static files, served from memory with a strict Content-Security-Policy."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response

INDEX = "index.html"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# Scripts, styles and requests of this server only; trusted types keep scripts from parsing text as markup.
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
    "Cache-Control": "no-cache",  # revalidated by its ETag
}


@dataclass(frozen=True)
class Asset:
    """A file of the page: bytes, media type, and ETag."""

    content: bytes
    type: str
    tag: str


def page_router(folder: Path) -> APIRouter:
    """`/` is index.html. Every file has its own route, so that no path leads out of the folder."""
    routes = APIRouter(include_in_schema=False)
    for name, asset in read_assets(folder).items():
        _serve(routes, "/" if name == INDEX else f"/{name}", asset)
    return routes


def read_assets(folder: Path) -> dict[str, Asset]:
    """The folder's files by path, such as "js/main.js", without symlinks and other file types."""
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
