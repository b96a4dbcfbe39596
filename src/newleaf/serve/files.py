"""/v1/files: what batches read and write, kept in a folder; nobody sees another key's."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Query, Request, UploadFile
from fastapi.responses import FileResponse

from newleaf.serve.errors import ApiError
from newleaf.serve.hosted import Threads
from newleaf.serve.routes import router
from newleaf.storage.files import write_atomically, write_json

PIECE = 1 << 20
Object = dict[str, Any]


class Shelf:
    """Things with an id, each a JSON file in one folder, that belong to a key (None: to nobody)."""

    def __init__(self, folder: Path, prefix: str, name: str) -> None:
        self.folder, self._prefix, self._name = folder, prefix, name

    def new_id(self) -> str:
        return f"{self._prefix}{secrets.token_hex(16)}"

    def put(self, value: Object) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / f"{value['id']}.json", value)

    def get(self, id_: str, owner: str | None) -> Object:
        """Raises ApiError for what is not there, or another's. Ids are hexadecimal digits, so that none leads out of the folder."""
        path = self.folder / f"{id_}.json"
        if not re.fullmatch(rf"{self._prefix}[0-9a-f]{{32}}", id_) or not path.is_file():
            raise self._missing(id_)
        found: Object = json.loads(path.read_text("utf-8"))
        if found.get("owner") != owner:
            raise self._missing(id_)
        return found

    def remove(self, id_: str) -> None:
        (self.folder / f"{id_}.json").unlink(missing_ok=True)

    def everything(self) -> Iterator[Object]:
        """All of them, newest first."""
        found = [json.loads(path.read_text("utf-8")) for path in self.folder.glob(f"{self._prefix}*.json")]
        yield from sorted(found, key=lambda value: (-value["created_at"], value["id"]))

    def page(self, owner: str | None, after: str | None, limit: int) -> Object:
        """OpenAI's list of what belongs to this key."""
        own = [public(value) for value in self.everything() if value.get("owner") == owner]
        if after is not None:
            places = [place for place, value in enumerate(own) if value["id"] == after]
            if not places:
                raise self._missing(after)
            own = own[places[0] + 1 :]
        some = own[:limit]
        ends = {"first_id": some[0]["id"] if some else None, "last_id": some[-1]["id"] if some else None}
        return {"object": "list", "data": some, **ends, "has_more": len(own) > limit}

    def _missing(self, id_: str) -> ApiError:
        return ApiError(404, f"there is no {self._name} {id_[:80]!r}", "id", "not_found")


class Files(Shelf):
    """Files and their contents."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "file-", "file")

    def content(self, id_: str) -> Path:
        return self.folder / f"{id_}.data"

    def add(self, path: Path, filename: str, purpose: str, owner: str | None) -> Object:
        """Take a file's content from a path beside ours, which it is renamed from."""
        id_ = self.new_id()
        self.folder.mkdir(parents=True, exist_ok=True)
        size = path.stat().st_size
        path.replace(self.content(id_))
        found = {"id": id_, "object": "file", "bytes": size, "created_at": int(time.time()), "filename": filename, "purpose": purpose}
        self.put({**found, "status": "processed", "owner": owner})
        return {**found, "status": "processed"}

    def remove(self, id_: str) -> None:
        super().remove(id_)
        self.content(id_).unlink(missing_ok=True)


def files_router(files: Files, threads: Threads) -> APIRouter:
    routes = router()

    @routes.post("/v1/files")
    async def upload(request: Request, file: Annotated[UploadFile, File()], purpose: Annotated[str, Form()]) -> Object:
        """Takes a file of JSON lines for a batch."""
        if purpose != "batch":
            raise ApiError(400, "purpose: must be batch", "purpose", "invalid_value")

        def keep() -> Object:
            files.folder.mkdir(parents=True, exist_ok=True)
            aside = files.folder / f".{secrets.token_hex(8)}.part"
            try:
                with write_atomically(aside) as temporary, temporary.open("wb") as out:
                    while piece := file.file.read(PIECE):
                        out.write(piece)
                name = re.sub(r"[^\w.-]", "_", Path(file.filename or "").name)[:128] or "batch.jsonl"
                return files.add(aside, name, purpose, request.state.record.key)
            finally:
                aside.unlink(missing_ok=True)

        return await threads.run(keep)

    @routes.get("/v1/files")
    async def list_files(
        request: Request, after: str | None = None, limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000, purpose: str | None = None
    ) -> Object:
        found = await threads.run(lambda: files.page(request.state.record.key, after, limit))
        return {**found, "data": [value for value in found["data"] if purpose in (None, value["purpose"])]}

    @routes.get("/v1/files/{id}")
    async def file(request: Request, id: str) -> Object:
        return public(files.get(id, request.state.record.key))

    @routes.get("/v1/files/{id}/content", response_class=FileResponse)
    async def content(request: Request, id: str) -> FileResponse:
        found = files.get(id, request.state.record.key)
        headers = {"content-disposition": f'attachment; filename="{found["filename"]}"', "x-content-type-options": "nosniff"}
        return FileResponse(files.content(id), media_type="application/octet-stream", headers=headers)

    @routes.delete("/v1/files/{id}")
    async def delete(request: Request, id: str) -> Object:
        files.get(id, request.state.record.key)
        files.remove(id)
        return {"id": id, "object": "file", "deleted": True}

    return routes


def public(value: Object) -> Object:
    """What a client sees of it."""
    return {name: item for name, item in value.items() if name != "owner"}
