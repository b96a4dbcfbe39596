"""/v1/files: files of batches, each visible to its own key only."""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, File, Form, Query, Request, UploadFile
from fastapi.responses import FileResponse

from newleaf.serve.api_errors import ApiError
from newleaf.serve.batches.record_store import Fields, Object, RecordStore, public
from newleaf.serve.http.logs import Logs
from newleaf.serve.http.strict_json import strict_router
from newleaf.serve.models.loaded_model import WorkerThreads
from newleaf.storage.atomic_write import remove_leftovers, write_atomically
from newleaf.storage.private_files import make_private_folder

CHUNK_BYTES = 1 << 20
FIELDS: Fields = {"object": str, "bytes": int, "filename": str, "purpose": str, "status": str}


class FileStore(RecordStore):
    """Files and their contents. A content is written before its record: recorded files are complete."""

    def __init__(self, folder: Path, logs: Logs) -> None:
        super().__init__(folder, "file-", "file", FIELDS, logs)

    def content(self, id_: str) -> Path:
        return self.folder / f"{id_}.data"

    def note(self, id_: str, filename: str, purpose: str, owner: str | None) -> Object:
        """Create a file's record; its content is there."""
        size = self.content(id_).stat().st_size
        found = {
            "id": id_,
            "object": "file",
            "bytes": size,
            "created_at": int(time.time()),
            "filename": filename,
            "purpose": purpose,
        }
        self.put({**found, "status": "processed", "owner": owner})
        return {**found, "status": "processed"}

    def take(self, id_: str, path: Path, filename: str, purpose: str, owner: str | None) -> None:
        """Make a file of `path`, which is renamed. Idempotent, so a restarted server can repeat it."""
        make_private_folder(self.folder)
        if path.exists():
            path.replace(self.content(id_))
        if self.content(id_).exists() and not self._path(id_).exists():
            self.note(id_, filename, purpose, owner)

    def remove(self, id_: str) -> None:
        super().remove(id_)
        self.content(id_).unlink(missing_ok=True)

    def sweep(self, keep: Collection[str]) -> None:
        """Remove what a killed server left half written, but the contents of the ids in `keep`."""
        if not self.folder.is_dir():
            return
        remove_leftovers(self.folder)
        for path in self.folder.glob("file-*.data"):
            if path.stem not in keep and not self._path(path.stem).exists():
                path.unlink(missing_ok=True)


def files_router(files: FileStore, threads: WorkerThreads) -> APIRouter:
    routes = strict_router()

    @routes.post("/v1/files")
    async def upload(
        request: Request, file: Annotated[UploadFile, File()], purpose: Annotated[str, Form()]
    ) -> Object:
        """Uploads a file of JSON lines for a batch."""
        if purpose != "batch":
            raise ApiError(400, "purpose: must be batch", "purpose", "invalid_value")

        def keep() -> Object:
            make_private_folder(files.folder)
            id_ = files.new_id()
            with write_atomically(files.content(id_), private=True) as temporary, temporary.open("wb") as out:
                while piece := file.file.read(CHUNK_BYTES):
                    out.write(piece)
            name = re.sub(r"[^\w.-]", "_", Path(file.filename or "").name)[:128] or "batch.jsonl"
            return files.note(id_, name, purpose, request.state.record.key)

        return await threads.run(keep)

    @routes.get("/v1/files")
    async def list_files(
        request: Request,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
        purpose: str | None = None,
    ) -> Object:
        found = await threads.run(lambda: files.page(request.state.record.key, after, limit))
        return {**found, "data": [value for value in found["data"] if purpose in (None, value["purpose"])]}

    @routes.get("/v1/files/{id}")
    async def file(request: Request, id: str) -> Object:
        return public(await threads.run(lambda: files.get(id, request.state.record.key)))

    @routes.get("/v1/files/{id}/content", response_class=FileResponse)
    async def content(request: Request, id: str) -> FileResponse:
        found = await threads.run(lambda: files.get(id, request.state.record.key))
        if not files.content(id).is_file():
            raise ApiError(
                404, f"the content of the file {id!r} is gone from the server's disk", "id", "not_found"
            )
        name = re.sub(r"[^\w.-]", "_", found["filename"])
        headers = {
            "content-disposition": f'attachment; filename="{name}"',
            "x-content-type-options": "nosniff",
        }
        return FileResponse(files.content(id), media_type="application/octet-stream", headers=headers)

    @routes.delete("/v1/files/{id}")
    async def delete(request: Request, id: str) -> Object:
        def remove() -> None:
            files.get(id, request.state.record.key)
            files.remove(id)

        await threads.run(remove)
        return {"id": id, "object": "file", "deleted": True}

    return routes
