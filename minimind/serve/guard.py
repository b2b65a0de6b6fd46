"""What every request passes before a route sees it: who calls, from where, and how large.

A page of another site that a user happens to visit can make their browser call a server on their own machine. Three
checks stop it: the `Host` header (DNS rebinding: the attacker's name resolves to 127.0.0.1), the `Origin` header, and
bodies only as `application/json` (which a browser sends elsewhere only after asking, and we do not consent). A body
without any type is taken for JSON where there is no `Origin` either: it comes from a program.
"""

import asyncio
import contextlib
import hmac
import ipaddress
import os

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from minimind.serve.connections import STALL
from minimind.serve.errors import ApiError, response
from minimind.serve.settings import Settings

LOOPBACK = ("localhost", "127.0.0.1", "::1")
OPEN_PATHS = ("/", "/health", "/docs", "/openapi.json", "/favicon.ico", "/inspect")
OPEN_FOLDERS = ("/page/", "/inspect/page/")
"""Answered without a key: they say nothing about the model or its users."""
LINGER_SECONDS, LINGER_BYTES = 5.0, 2**26
"""How much longer a body is read (and forgotten) whose request is already refused."""


class Guard:
    """ASGI middleware that applies `Settings` to every request."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings
        self.hosts = {host.lower() for host in (*LOOPBACK, *settings.allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on with its body limited."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(receive, send, self.settings)
        try:
            self._check(scope["method"], scope["path"], Headers(scope=scope))
        except ApiError as error:
            await response(error, scope["path"])(scope, receive, body.send)
            return
        await self.app(scope, body.receive, body.send)

    def _check(self, method: str, path: str, headers: Headers) -> None:
        host = headers.get("host", "")
        if not self._is_ours(host):
            raise ApiError(
                403,
                f"the Host header names {host!r}, which this server is not; start it with --allowed-host to accept it",
                "host_not_allowed",
            )
        origin = headers.get("origin")
        own = origin is not None and origin.partition("://")[2].lower() == host.lower()
        if origin is not None and not own and origin not in self.settings.cors_origins:
            raise ApiError(
                403,
                f"pages of {origin!r} may not call this server; start it with --cors-origin to let them",
                "origin_not_allowed",
            )
        key = self.settings.api_key
        if key and path not in OPEN_PATHS and not path.startswith(OPEN_FOLDERS) and method != "OPTIONS":
            given = headers.get("authorization") or f"Bearer {headers.get('x-api-key', '')}"  # Anthropic's
            # The whole header is compared, as the bytes that it was (latin-1 keeps them), in a time that does not
            # depend on where it differs.
            if not hmac.compare_digest(given.encode("latin-1"), os.fsencode(f"Bearer {key}")):
                message = "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'"
                raise ApiError(401, message, "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        length = headers.get("content-length", "0")
        has_body = length != "0" or "transfer-encoding" in headers
        if length.isdecimal() and int(length) > self.settings.max_bytes:
            raise _too_large(self.settings.max_bytes)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        silent = not kind and origin is None  # some programs do not say; browsers always say where they come from
        if has_body and kind != "application/json" and not silent:
            raise ApiError(
                415, f"send JSON: Content-Type is {kind!r}, not 'application/json'", "unsupported_media_type"
            )

    def _is_ours(self, host: str) -> bool:
        """Whether the header names this machine: a rebound name is a name, so any IP address will do."""
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        name = name.strip("[]").lower()
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.hosts
        return True


class _Body:
    """The body of a request: limited in size and time, and read to its end even where the answer does not need it."""

    def __init__(self, receive: Receive, send: Send, settings: Settings) -> None:
        self._receive, self._send, self._settings = receive, send, settings
        self._size, self._complete = 0, False
        self._until = asyncio.get_running_loop().time() + settings.body_seconds

    async def receive(self) -> Message:
        """The next part.

        Raises:
            HTTPException: 408, it is late; 413, it is too large.
        """
        if self._complete:
            return await self._receive()  # from now on it tells of a client that leaves
        try:
            async with asyncio.timeout_at(self._until):  # of all of it: a byte a minute is no progress
                message = await self._next()
        except TimeoutError:
            now = asyncio.get_running_loop().time()
            if now > self._until + STALL:
                self._until = now + self._settings.body_seconds
                return await self.receive()
            late = f"the body has not come within {self._settings.body_seconds:g} s"
            raise HTTPException(408, late, {"Connection": "close"}) from None
        if self._size > self._settings.max_bytes:
            raise HTTPException(413, str(_too_large(self._settings.max_bytes)), {"Connection": "close"})
        return message

    async def send(self, message: Message) -> None:
        """Send on; a connection that is closed while its client still sends is reset, and the answer is lost."""
        if message["type"] == "http.response.body" and not message.get("more_body") and not self._complete:
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body"}
        await self._send(message)

    async def _linger(self) -> None:
        most = self._size + LINGER_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while not self._complete and self._size < most:
                    await self._next()

    async def _next(self) -> Message:
        message = await self._receive()
        self._size += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        return message


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413, f"the body is larger than {limit:,} bytes; send less, or raise --max-body-mb", "body_too_large"
    )
