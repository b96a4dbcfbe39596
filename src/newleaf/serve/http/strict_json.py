"""Routes with strictly parsed JSON: by content type, valid UTF-8, no deep nesting, no NaN."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.concurrency import run_in_threadpool

from newleaf.generate.constraints.schema_limits import MAX_DIGITS
from newleaf.serve.api_errors import ApiError
from newleaf.serve.protocol.body_reader import BodyReader
from newleaf.serve.protocol.field_types import is_model, value_text

Result = TypeVar("Result")
INLINE_BYTES = 32 << 10  # larger bodies are read in a thread


class StrictRequest(Request):
    """A request whose JSON body pydantic's parser reads, and BodyReader prepares for the schema."""

    reader: BodyReader | None = None

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            body = await self.body()
            try:
                self._json = from_json(body, allow_inf_nan=False)
            except ValueError as error:
                long = "number out of range" in str(error)
                what = f"the body has a number of more than {MAX_DIGITS:,} digits"
                raise ApiError(
                    400, what if long else f"the body is not valid JSON: {error}", None, "invalid_json"
                ) from None
            if self.reader is not None and not isinstance(self._json, dict):
                raise ApiError(
                    400,
                    f"the body must be a JSON object, not {value_text(self._json)}",
                    None,
                    "invalid_value",
                )
            if self.reader is not None:
                self._json = await run_off_loop(self.reader.read, self._json, size=len(body))
                self.state.record.ignored += self.reader.ignored
        return self._json


class StrictRoute(APIRoute):
    """A route that takes JSON only with its content type.

    A page of another site cannot send that without a CORS preflight.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        takes_json = self.body_field is not None and not self.path.endswith("/files")
        model: Any = (
            self.body_field.field_info.annotation if takes_json and self.body_field is not None else None
        )

        async def strict(request: Request) -> Response:
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if takes_json and kind != "application/json":
                raise ApiError(
                    415,
                    "the body must be JSON, with Content-Type: application/json",
                    None,
                    "unsupported_media_type",
                )
            asked = StrictRequest(request.scope, request.receive)
            if is_model(model):
                asked.reader = BodyReader(model, strict=request.app.state.strict)
            try:
                return await handle(asked)
            except RequestValidationError:
                problem = None
                if asked.reader is not None:
                    problem = await run_off_loop(asked.reader.problem, size=len(await asked.body()))
                if problem is None:
                    raise
                raise problem from None

        return strict


async def run_off_loop(work: Callable[..., Result], *values: Any, size: int) -> Result:
    """Run work on a body: here if it is small, else in a thread, so that the event loop is not blocked."""
    return work(*values) if size < INLINE_BYTES else await run_in_threadpool(work, *values)


def strict_router() -> APIRouter:
    return APIRouter(route_class=StrictRoute)
