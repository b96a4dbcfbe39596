"""The page: files that are known by name from the start, so that no path leads anywhere else."""

from __future__ import annotations

import mimetypes
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse

INDEX = "index.html"
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def page_router(folder: Path) -> APIRouter:
    """`/` is the folder's index.html, and every other file has its own route."""
    routes = APIRouter()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and "__pycache__" not in path.parts:
            name = path.relative_to(folder).as_posix()
            _serve(routes, "/" if name == INDEX else f"/{name}", path)
    return routes


def _serve(routes: APIRouter, at: str, path: Path) -> None:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"

    @routes.get(at, include_in_schema=False)
    async def file() -> Response:
        return FileResponse(path, media_type=kind, headers=HEADERS)
