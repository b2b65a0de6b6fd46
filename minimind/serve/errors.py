"""Everything that goes wrong leaves as OpenAI's body: `{"error": {"message", "type", "param", "code"}}`."""

import logging
import traceback
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from minimind.engine.background import QueueFull
from minimind.engine.request import PromptTooLong
from minimind.errors import UserError
from minimind.text import write_json

log = logging.getLogger("minimind.serve")
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_ANTHROPIC_TYPES = {413: "request_too_large", 503: "overloaded_error", 504: "timeout_error"}


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
        case ClientDisconnect():
            return ApiError(400, "the client left before its request was whole")  # nobody reads it
        case HTTPException():
            return ApiError(error.status_code, str(error.detail), headers=error.headers)
    log.error("%s", "".join(traceback.format_exception(error)))
    return ApiError(500, "the server made a mistake; its log says more", "internal_error")


def response(error: Exception, path: str) -> Json:
    """The HTTP response for `error` at a path, whose dialect it speaks."""
    api = as_api_error(error)
    if path.startswith("/api/"):
        return Json(ollama(api), api.status, api.headers)
    return Json(anthropic(api) if path.startswith("/v1/messages") else api.body, api.status, api.headers)


def anthropic(error: ApiError) -> dict[str, Any]:
    """An error in Anthropic's form."""
    told = error.body["error"]
    kind = _ANTHROPIC_TYPES.get(error.status, told["type"] if error.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": told["message"]}}


def ollama(error: ApiError) -> dict[str, Any]:
    """An error in ollama's form."""
    return {"error": error.body["error"]["message"]}


def install(app: FastAPI) -> None:
    """Send every exception that a route raises through `response`."""

    async def handle(request: Request, error: Exception) -> Json:
        return response(error, request.url.path)

    for kind in (ApiError, UserError, RecursionError, HTTPException, ClientDisconnect, Exception):
        app.add_exception_handler(kind, handle)


def _described(error: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    said = {"type": "object", "properties": {"error": error}, "required": ["error"]}
    body = {"application/json": {"schema": said}}
    return {
        "4XX": {
            "description": "The request is wrong (400), its API key (401), Host or Origin (403), model or path (404), "
            "size (413), type (415) or slowness (408); or the queue is full (429, see Retry-After).",
            "content": body,
        },
        "5XX": {
            "description": "A mistake of the server (500); it is loading or shutting down (503); too slow (504).",
            "content": body,
        },
    }


_FIELDS: dict[str, Any] = {"message": {"type": "string"}, "type": {"type": "string"}}
_MORE: dict[str, Any] = {"param": {"type": ["string", "null"]}, "code": {"type": ["string", "null"]}}
DESCRIBED = _described({"type": "object", "properties": _FIELDS | _MORE, "required": [*_FIELDS, *_MORE]})
"""What every route may answer besides, for the OpenAPI description."""
DESCRIBED_ANTHROPIC = _described({"type": "object", "properties": _FIELDS, "required": list(_FIELDS)})
DESCRIBED_OLLAMA = _described({"type": "string"})
