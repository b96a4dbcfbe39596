"""Routes whose bodies are read strictly: JSON by name, valid UTF-8, no deep nesting, no numbers without a value."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json

from newleaf.serve.errors import ApiError


class StrictRequest(Request):
    """A request whose JSON is read by pydantic's parser, which knows limits that Python's does not."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            body = await self.body()
            try:
                self._json = from_json(body, allow_inf_nan=False)
            except ValueError as error:
                raise ApiError(400, f"the body is not valid JSON: {error}", None, "invalid_json") from None
        return self._json


class StrictRoute(APIRoute):
    """Takes JSON only where a page of another site could not send it without being asked first: with its content type."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        takes_json = self.body_field is not None and not self.path.endswith("/files")

        async def strict(request: Request) -> Response:
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if takes_json and kind != "application/json":
                raise ApiError(415, "the body must be JSON, with Content-Type: application/json", None, "unsupported_media_type")
            return await handle(StrictRequest(request.scope, request.receive))

        return strict


def router() -> APIRouter:
    return APIRouter(route_class=StrictRoute)
