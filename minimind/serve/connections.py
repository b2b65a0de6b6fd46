"""Connections of clients that are slow, or many: a deadline for the head of a request, and a most for all of them.

A connection costs a file descriptor, and who holds them all shuts everybody out. So those that ask nothing have to go:
when the head of a request is late, and, with the server full, the one that has asked nothing for longest when another
comes. Where all are being answered, a few more are let in to ask for `/health`, and told to come back otherwise.
The deadline for bodies is in `guard`.
"""

import asyncio
import contextlib
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from minimind.serve.errors import ApiError, response
from minimind.serve.settings import Settings

BACKLOG = 128
"""Connections that may be taken in at once, before any is looked at."""
OTHERS = 64
"""File descriptors that are needed for everything else."""
RESERVE = 16
"""Connections beyond the most, for `/health`."""
STALL = 1.0
"""Seconds by which a deadline may be noticed late; beyond, this process stood still, and clients are not to blame."""


def max_connections(wanted: int) -> int:
    """So many connections at once, as far as this process may open files; it is allowed all that it can get."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        needed = wanted + RESERVE + BACKLOG + OTHERS
        if soft < needed:
            soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return max(1, min(wanted, soft - RESERVE - BACKLOG - OTHERS))
    return wanted


class Connections:
    """Makes the connections of one server, for uvicorn's `http`."""

    def __init__(self, settings: Settings) -> None:
        self.seconds, self.most = settings.header_seconds, max_connections(settings.max_connections)
        self.idle: dict[Connection, None] = {}
        """Those that have asked nothing, or have been answered; for longest first."""

    def __call__(self, **arguments: Any) -> "Connection":
        """Another connection."""
        return Connection(self, **arguments)


class Connection(HttpToolsProtocol):
    """One connection."""

    def __init__(self, all: Connections, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._all = all
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        if len(self.connections) > self._all.most:
            if oldest := next(iter(self._all.idle), None):
                oldest.leave()
            else:
                self.app = _only_health(self.app)
            if len(self.connections) > self._all.most + RESERVE:
                transport.abort()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has left."""
        self._attend()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """It has sent something: if it is a new head, all of it has to come in time."""
        if self._late is None and (self.cycle is None or self.cycle.response_complete):
            self._wait()
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """The head of a request is there."""
        self._attend()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """The request is answered; uvicorn closes the connection if no other one comes soon."""
        super().on_response_complete()
        if not self.pipeline and not self.transport.is_closing():
            self._all.idle[self] = None

    def leave(self) -> None:
        """Close it, whatever has been sent."""
        self._attend()
        self.connections.discard(self)
        self.transport.abort()

    def _wait(self) -> None:
        self._all.idle[self] = None
        self._late = self.loop.call_later(self._all.seconds, self._expire, self.loop.time() + self._all.seconds)

    def _expire(self, due: float) -> None:
        if self.loop.time() > due + STALL:
            self._wait()  # what has been sent meanwhile may lie unread
        else:
            self.leave()

    def _attend(self) -> None:
        self._all.idle.pop(self, None)
        if self._late:
            self._late.cancel()
            self._late = None


def _only_health(app: Any) -> Any:
    """`app` for a connection beyond the most: it answers `/health`, and says of all else to try again."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/health":
            return await app(scope, receive, send)
        message = "every connection of this server is in use: try again in a moment"
        headers = {"Retry-After": "1", "Connection": "close"}
        error = ApiError(503, message, "too_many_connections", headers=headers)
        await response(error, scope["path"])(scope, receive, send)

    return answer
