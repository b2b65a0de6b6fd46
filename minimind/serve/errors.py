"""Everything that goes wrong leaves as OpenAI's body: `{"error": {"message", "type", "param", "code"}}`."""

import logging
import traceback
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from minimind.engine.background import QueueFull
from minimind.engine.request import PromptTooLong
from minimind.errors import UserError
from minimind.text import write_json

log = logging.getLogger("minimind.serve")
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An answer other than 200: a status, a sentence for a person, and a code for a program."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        **numbers: int,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code, **numbers}}


class Json(JSONResponse):
    """A JSON response, in the form of `minimind.text`."""

    def render(self, content: Any) -> bytes:
        """Return the bytes of `content`."""
        return to_json(content).encode()


def to_json(value: Any) -> str:
    """Compact JSON text."""
    return write_json(value, separators=(",", ":"))


def as_api_error(error: Exception) -> ApiError:
    """What a client is told about `error`; a bug of ours is logged, not shown."""
    match error:
        case ApiError():
            return error
        case PromptTooLong():
            message = f"{error}, or start a new conversation"
            where = (400, message, "context_length_exceeded", "messages")
            return ApiError(*where, n_prompt_tokens=error.tokens, n_ctx=error.context)
        case QueueFull():
            return ApiError(429, str(error), "queue_full", headers={"Retry-After": "1"})
        case UserError():
            return ApiError(400, str(error))
        case RecursionError():
            return ApiError(400, "the request is nested too deeply")
        case HTTPException():
            return ApiError(error.status_code, str(error.detail), headers=error.headers)
    log.error("%s", "".join(traceback.format_exception(error)))
    return ApiError(500, "the server made a mistake; its log says more", "internal_error")


def response(error: Exception) -> Json:
    """The HTTP response for `error`."""
    api = as_api_error(error)
    return Json(api.body, api.status, api.headers)


def install(app: FastAPI) -> None:
    """Send every exception that a route raises through `response`."""

    async def handle(request: Request, error: Exception) -> Json:
        return response(error)

    for kind in (ApiError, UserError, RecursionError, HTTPException, Exception):
        app.add_exception_handler(kind, handle)


_FIELDS: dict[str, Any] = {"message": {"type": "string"}, "type": {"type": "string"}}
_FIELDS |= {"param": {"type": ["string", "null"]}, "code": {"type": ["string", "null"]}}
_ERROR = {"type": "object", "properties": _FIELDS, "required": list(_FIELDS)}
_BODY = {"application/json": {"schema": {"type": "object", "properties": {"error": _ERROR}, "required": ["error"]}}}
DESCRIBED: dict[int | str, dict[str, Any]] = {
    "4XX": {
        "description": "The request is wrong (400), its API key (401), Host or Origin (403), model or path (404), size "
        "(413), type (415) or slowness (408); or the queue is full (429, see Retry-After).",
        "content": _BODY,
    },
    "5XX": {
        "description": "A mistake of the server (500); it is loading or shutting down (503); too slow (504).",
        "content": _BODY,
    },
}
"""What every route may answer besides, for the OpenAPI description."""
