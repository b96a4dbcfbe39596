"""Errors in OpenAI's schema: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Collection, Mapping
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from newleaf.errors import InputError, NotFiniteError
from newleaf.generate.options import SamplingConfig

ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
DEFAULT_CODES = {404: "not_found", 405: "method_not_allowed"}
# Options whose field in a request has another name.
REQUEST_NAMES = {"stop_ids": "stop_token_ids"}
OPTIONS = tuple(SamplingConfig.__dataclass_fields__)
REQUEST_FIELDS = (
    "messages",
    "prompt",
    "response_format",
    "tools",
    "continue_final_message",
    "chat_template_kwargs",
)  # fields of any request for text that an error may name
SHORT_REPR = reprlib.Repr()
SHORT_REPR.maxlevel, SHORT_REPR.maxstring, SHORT_REPR.maxlong, SHORT_REPR.maxother = 3, 100, 100, 100
MAX_MESSAGE_CHARACTERS = 1000  # a message quotes only the beginning of what was sent


class ApiError(HTTPException):
    """An error response for the client. `param` names the wrong parameter."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers) if headers else None)
        self.param, self.code = param, code

    @property
    def body(self) -> dict[str, Any]:
        return error_body(self.status_code, str(self.detail), self.param, self.code)


def error_body(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """The body of an error's response."""
    kind = ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    param = param[:MAX_MESSAGE_CHARACTERS] if param is not None else None
    message = message if len(message) <= MAX_MESSAGE_CHARACTERS else f"{message[:MAX_MESSAGE_CHARACTERS]}…"
    return {
        "error": {
            "message": encodable(message),
            "type": kind,
            "param": param,
            "code": code or DEFAULT_CODES.get(status),
        }
    }


def encodable(text: str) -> str:
    """The text with unpaired surrogates replaced, which UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode()


def input_error(
    error: InputError, fields: Collection[str] | None = None, default: str | None = None
) -> ApiError:
    """An InputError as a 400.

    `param` is the request's field that its text begins with, one of `fields` or REQUEST_FIELDS, or
    `default` where it names none.
    """
    text = " ".join(str(error).split()).replace("template variables", "chat_template_kwargs")
    named = re.match(r"([a-z_]+)((?:\[\d+\]|\.[a-z_]+)*)(?=[:,.\[])", text)
    known = {*(OPTIONS if fields is None else fields), *REQUEST_FIELDS}
    name = (
        REQUEST_NAMES.get(named[1], named[1])
        if named and (fields is None or named[1] not in fields)
        else named[1]
        if named
        else None
    )
    param = f"{name}{named[2]}" if named and name in known else default
    code = (
        "context_length_exceeded"
        if "the context is" in text or "do not fit this model" in text
        else "invalid_value"
    )
    return ApiError(400, text, param, code)


def too_many_requests(message: str, seconds: float = 1.0, code: str = "rate_limit_exceeded") -> ApiError:
    """429, with the seconds after which a retry makes sense."""
    return ApiError(429, message, None, code, {"Retry-After": str(max(1, round(seconds)))})


def error_response(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body, error.status_code, headers=error.headers)


def add_exception_handlers(app: FastAPI) -> None:
    """Answer every error of this application in OpenAI's schema."""

    @app.exception_handler(StarletteHTTPException)
    async def handle_http(request: Request, error: StarletteHTTPException) -> JSONResponse:
        if isinstance(error, ApiError):
            return error_response(error)
        if str(error.detail) == "Invalid multipart data.":
            what = "this form cannot be read: it is damaged, or the filename is too long"
            return error_response(ApiError(400, f"file: {what}", "file", "invalid_value"))
        return JSONResponse(
            error_body(error.status_code, f"{error.detail}: {request.method} {request.url.path}"),
            error.status_code,
            error.headers,
        )

    @app.exception_handler(NotFiniteError)
    async def handle_overflow(request: Request, error: NotFiniteError) -> JSONResponse:
        return error_response(ApiError(500, str(error), code="model_overflow"))

    @app.exception_handler(InputError)
    async def handle_input(request: Request, error: InputError) -> JSONResponse:
        return error_response(input_error(error))

    @app.exception_handler(RequestValidationError)
    async def handle_validation(request: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(validation_error(error.errors()))


def validation_error(problems: Any) -> ApiError:
    """The first of pydantic's errors, as a sentence that names the parameter."""
    problem = problems[0]
    place = [step for step in problem["loc"] if step not in ("body", "query", "path")]
    place = place if not _is_json_problem(problem) else []
    param = _path(place) or None
    given = (
        ""
        if problem["type"] in ("missing", "extra_forbidden") or param is None
        else f", not {_short(problem.get('input'))}"
    )
    if problem["type"] == "extra_forbidden":
        return ApiError(400, f"{param}: this parameter is not supported", param, "unsupported_parameter")
    if problem["type"] == "missing":
        return ApiError(400, f"{param or 'the body'}: is missing", param, "missing_required_parameter")
    text = str(problem["msg"]).removeprefix("Value error, ")
    reason = (problem.get("ctx") or {}).get("error")
    text = f"{text} ({reason})" if _is_json_problem(problem) and reason else text
    return ApiError(
        400, f"{param}: {text[:1].lower()}{text[1:]}{given}" if param else text, param, "invalid_value"
    )


def _is_json_problem(problem: Mapping[str, Any]) -> bool:
    return str(problem["type"]).startswith("json")


def _path(place: list[Any]) -> str:
    """The path of a field, as messages[0].content, without the names of union branches."""
    text = ""
    for step in place:
        if isinstance(step, int):
            text += f"[{step}]"
        elif re.fullmatch(r"[a-z_][a-z0-9_]{0,99}", step) and step not in ("str", "int", "float", "bool"):
            text += f".{step}" if text else step
        elif not text:
            text = step[:100]
    return encodable(text)


def _short(value: Any) -> str:
    """The beginning of a value's repr."""
    text = SHORT_REPR.repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
