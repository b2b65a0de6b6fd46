"""Answers that end when the client leaves: whole ones, and streams of chunks, framed as a dialect wants them."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, NamedTuple, TypeVar

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


class Framing(NamedTuple):
    """How a stream's chunks are written."""

    chunk: Callable[[dict[str, Any]], str]
    failed: Callable[[ApiError], dict[str, Any]]
    """The last chunk where something went wrong."""
    end: str = ""
    """What follows the last chunk otherwise."""
    media_type: str = "text/event-stream"


def _event(chunk: dict[str, Any]) -> str:
    return f"data: {to_json(chunk)}\n\n"


OPENAI = Framing(_event, lambda error: error.body, "data: [DONE]\n\n")


def named(failed: Callable[[ApiError], dict[str, Any]]) -> Framing:
    """Events that are named by their types."""
    return Framing(lambda chunk: f"event: {chunk['type']}\n{_event(chunk)}", failed)


def lines(failed: Callable[[ApiError], dict[str, Any]]) -> Framing:
    """A JSON object a line."""
    return Framing(lambda chunk: f"{to_json(chunk)}\n", failed, media_type="application/x-ndjson")


class Stream(StreamingResponse):
    """Streams chunks; an exception becomes the last one.

    Args:
        chunks: what to send; closed at once when the client leaves.
        seconds: that the stream may take.
        release: called once when it is over, however it ends.
        framing: how the chunks are written.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[dict[str, Any], None],
        seconds: float,
        release: Callable[[], None],
        framing: Framing = OPENAI,
    ):
        # Proxies (nginx) must not collect the events into blocks.
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(_framed(chunks, framing), headers=headers, media_type=framing.media_type)
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


async def _framed(chunks: AsyncGenerator[dict[str, Any], None], framing: Framing) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                yield framing.chunk(chunk).encode()
    except Exception as error:  # the status line is long gone: the error must travel in the stream
        yield framing.chunk(framing.failed(as_api_error(error))).encode()
        return
    if framing.end:
        yield framing.end.encode()
