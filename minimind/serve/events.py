"""Answers that end when the client leaves: whole ones, and streams of server-sent events (`data: {...}` blocks)."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from minimind.serve.errors import ApiError, as_api_error, to_json

T = TypeVar("T")

SLACK = 5.0
"""Seconds beyond a request's own time limit after which a client that does not read is cut off."""


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled if the client of `request` leaves before."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, leaving = asyncio.create_task(work), asyncio.create_task(gone())
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "the client has left", "client_left")  # nobody reads it, but the counters do
        return task.result()
    finally:
        task.cancel()
        leaving.cancel()


class EventStream(StreamingResponse):
    """Streams chunks as events, then `[DONE]`; an exception becomes one last event with an error body.

    Args:
        chunks: what to send; closed at once when the client leaves.
        seconds: that the stream may take.
        release: called once when it is over, however it ends.
        failed: the event that tells of an error; with it there is no `[DONE]`, and events have names, their types.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[dict[str, Any], None],
        seconds: float,
        release: Callable[[], None],
        failed: Callable[[ApiError], dict[str, Any]] | None = None,
    ):
        # Proxies (nginx) must not collect the events into blocks.
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(_events(chunks, failed), headers=headers, media_type="text/event-stream")
        self.seconds, self.release = seconds, release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all, or as much as the client takes."""
        try:
            async with asyncio.timeout(self.seconds + SLACK):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            pass  # it does not read: there is nobody to tell
        finally:
            self.release()

    async def stream_response(self, send: Send) -> None:
        """Send the events; closing the generator here, in its own task, cancels the engine's request now."""
        async with aclosing(self.body_iterator):  # type: ignore[type-var]  # it is the generator of __init__
            await super().stream_response(send)


async def _events(
    chunks: AsyncGenerator[dict[str, Any], None], failed: Callable[[ApiError], dict[str, Any]] | None
) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                yield event(chunk, named=failed is not None)
    except Exception as error:  # the status line is long gone: the error must travel in the stream
        told = as_api_error(error)
        yield event(failed(told), named=True) if failed else event(told.body)
        return
    if not failed:
        yield b"data: [DONE]\n\n"


def event(chunk: dict[str, Any], named: bool = False) -> bytes:
    """One event; `named` by its type."""
    name = f"event: {chunk['type']}\n" if named else ""
    return f"{name}data: {to_json(chunk)}\n\n".encode()
