"""Records with an id, each a JSON file in a private folder. Damaged ones are skipped and logged."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from newleaf.serve.api_errors import ApiError
from newleaf.serve.http.logs import Logs
from newleaf.storage.atomic_write import write_text
from newleaf.storage.private_files import make_private_folder

Object = dict[str, Any]
Fields = Mapping[str, type | tuple[type, ...]]  # required fields and their types


class RecordStore:
    """Records of API keys (`owner`; None: none). `fields` are validated when a record is read."""

    def __init__(self, folder: Path, prefix: str, name: str, fields: Fields, logs: Logs) -> None:
        self.folder, self._prefix, self._name, self._logs = folder, prefix, name, logs
        self._fields: Fields = {"id": str, "owner": (str, type(None)), "created_at": int, **fields}
        self._damaged: set[str] = set()  # already logged

    def new_id(self) -> str:
        return f"{self._prefix}{secrets.token_hex(16)}"

    def put(self, value: Object) -> None:
        make_private_folder(self.folder)
        write_text(self._path(value["id"]), json.dumps(value, indent=2) + "\n", private=True)

    def get(self, id_: str, owner: str | None) -> Object:
        """Raises ApiError for a record that is missing, damaged, or another key's."""
        if not self.is_id(id_) or not self._path(id_).is_file():
            raise self._missing(id_)
        found = self._read(self._path(id_))
        if found is None:
            text = f"the {self._name} {id_!r} cannot be read: its record on the server's disk is damaged"
            raise ApiError(404, text, "id", "damaged_record")
        if found["owner"] != owner:
            raise self._missing(id_)
        return found

    def is_id(self, id_: Any) -> bool:
        """Whether this is an id of such a record: hexadecimal, so that no id leads out of the folder."""
        return isinstance(id_, str) and re.fullmatch(rf"{self._prefix}[0-9a-f]{{32}}", id_) is not None

    def remove(self, id_: str) -> None:
        self._path(id_).unlink(missing_ok=True)

    def all(self) -> Iterator[Object]:
        """All valid records, newest first."""
        paths = [path for path in self.folder.glob(f"{self._prefix}*.json") if path.is_file()]
        found = [value for path in paths if (value := self._read(path)) is not None]
        yield from sorted(found, key=lambda value: (-value["created_at"], value["id"]))

    def page(self, owner: str | None, after: str | None, limit: int) -> Object:
        """A page of this key's records, as OpenAI's lists."""
        own = [public(value) for value in self.all() if value["owner"] == owner]
        if after is not None:
            places = [place for place, value in enumerate(own) if value["id"] == after]
            if not places:
                raise self._missing(after)
            own = own[places[0] + 1 :]
        some = own[:limit]
        ends = {"first_id": some[0]["id"] if some else None, "last_id": some[-1]["id"] if some else None}
        return {"object": "list", "data": some, **ends, "has_more": len(own) > limit}

    def _path(self, id_: str) -> Path:
        return self.folder / f"{id_}.json"

    def _read(self, path: Path) -> Object | None:
        """The record; None where it is damaged, which is logged once."""
        try:
            found = json.loads(path.read_text("utf-8"))
            problem = self._problem(found, path.stem)
        except FileNotFoundError:
            return None  # removed meanwhile
        except (OSError, ValueError, RecursionError) as error:
            problem = (str(error).splitlines() or [type(error).__name__])[0]
        if problem is None:
            return dict(found)
        if path.name not in self._damaged:
            self._damaged.add(path.name)
            self._logs.write("damaged", file=str(path), problem=problem)
        return None

    def _problem(self, found: Any, id_: str) -> str | None:
        """What is wrong with a record."""
        if not isinstance(found, dict):
            return "it holds no JSON object"
        for name, kind in self._fields.items():
            if name not in found:
                return f"{name} is missing"
            if not isinstance(found[name], kind) or (kind is int and isinstance(found[name], bool)):
                return f"{name} is a value of type {type(found[name]).__name__}"
        if found["id"] != id_ or not self.is_id(id_):
            return "its id is not its file's name"
        return None

    def _missing(self, id_: str) -> ApiError:
        return ApiError(404, f"there is no {self._name} {id_[:80]!r}", "id", "not_found")


def public(value: Object) -> Object:
    """The fields of a record that clients see."""
    return {name: item for name, item in value.items() if name not in ("owner", "ending")}
