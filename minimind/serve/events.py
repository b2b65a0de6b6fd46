"""Server-sent events: one `data: {...}` block a chunk, and an end that is always told."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from minimind.serve.errors import as_api_error, to_json

SLACK = 5.0
"""Seconds beyond a request's own time limit after which a client that does not read is cut off."""


class EventStream(StreamingResponse):
    """Streams chunks as events, then `[DONE]`; an exception becomes one last event with an error body.

    Args:
        chunks: what to send; closed at once when the client leaves.
        seconds: that the stream may take.
        release: called once when it is over, however it ends.
    """

    def __init__(self, chunks: AsyncGenerator[dict[str, Any], None], seconds: float, release: Callable[[], None]):
        # Proxies (nginx) must not collect the events into blocks.
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(_events(chunks), headers=headers, media_type="text/event-stream")
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


async def _events(chunks: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                yield event(chunk)
    except Exception as error:  # the status line is long gone: the error must travel in the stream
        yield event(as_api_error(error).body)
        return
    yield b"data: [DONE]\n\n"


def event(chunk: dict[str, Any]) -> bytes:
    """One event."""
    return f"data: {to_json(chunk)}\n\n".encode("utf-8", "replace")
