"""Threads for what takes a while, a few for each kind: long texts do not wait for grammars, nor chats for tools."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from minimind.serve.errors import ApiError

P = ParamSpec("P")
T = TypeVar("T")


class Pool:
    """So many `threads`, and so many calls at most that run or wait; each is for `what`."""

    def __init__(self, what: str, threads: int, most: int) -> None:
        self.what, self.most, self.open = what, most, 0
        self._threads = ThreadPoolExecutor(threads, what)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of a call.

        Raises:
            ApiError: 429, too many are waiting.
        """
        if self.open >= self.most:
            message = f"{self.open} requests are waiting for their {self.what}: try again in a moment"
            raise ApiError(429, message, "queue_full", headers={"Retry-After": "1"})
        self.open += 1
        running = self._threads.submit(function, *args, **kwargs)
        loop = asyncio.get_running_loop()
        running.add_done_callback(lambda _: loop.is_closed() or loop.call_soon_threadsafe(self._done))
        return await asyncio.wrap_future(running)  # cancelled, it leaves the pool, or runs to its end there

    def _done(self) -> None:
        self.open -= 1
