"""The engine in a thread of its own: for servers, whose requests come from an event loop, and beside a trainer."""

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from minimind.engine.engine import Engine
from minimind.engine.request import Output, Request
from minimind.engine.sampling import Sampling
from minimind.errors import UserError

T = TypeVar("T")
Sink = Callable[[Output | BaseException], None]
"""Takes the outputs of a request as they come; an exception is the last."""


class QueueFull(UserError):
    """Too many requests are waiting; try again later."""


class EngineThread:
    """Owns an engine: everything that touches it happens in one thread, between its steps."""

    def __init__(self, engine: Engine, max_waiting: int = 1024) -> None:
        self.engine = engine
        self.max_waiting = max_waiting
        self.open_requests = 0
        """Requests that have not ended: running and waiting."""
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._sinks: dict[Request, Sink] = {}
        self._resumed = threading.Event()
        self._resumed.set()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling | None = None,
        index: int = 0,
        variant: str | None = None,
        salt: str = "",
    ) -> AsyncGenerator[Output, None]:
        """Yield a request's outputs as they come; leaving the loop early (or cancelling the task) cancels it.

        Close it with `contextlib.aclosing`, so that leaving early takes effect at once.

        Raises:
            QueueFull: too many requests are open.
            UsageError: as `Engine.submit`, before anything is queued.
        """
        self.engine.check(prompt_ids, sampling or Sampling())
        if self.open_requests >= self.max_waiting:
            raise QueueFull("too many requests are waiting: try again later")
        self.open_requests += 1
        loop = asyncio.get_running_loop()
        outputs: asyncio.Queue[Output | BaseException] = asyncio.Queue()

        def sink(output: Output | BaseException) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(outputs.put_nowait, output)

        request = self.submit(sink, prompt_ids, sampling, index, variant, salt)
        ended = False
        try:
            while not ended:
                output = await outputs.get()
                if isinstance(output, BaseException):
                    ended = True
                    raise output
                ended = output.finish_reason is not None
                yield output
        finally:
            self.open_requests -= 1
            if not ended:
                self.post(lambda engine: self._drop(engine, request))

    def submit(self, sink: Sink, *request: Any) -> "Future[Request]":
        """Queue a request, given as to `Engine.submit`; `sink` is called with its outputs, in the engine's thread."""

        def submit(engine: Engine) -> Request:
            queued = engine.submit(*request)
            self._sinks[queued] = sink
            return queued

        return self.post(submit)

    async def call(self, function: Callable[[Engine], T]) -> T:
        """Run `function(engine)` between two steps and return its result: new weights, a flush."""
        return await asyncio.wrap_future(self.post(function))

    def post(self, function: Callable[[Engine], T]) -> "Future[T]":
        """The same for who is no coroutine."""
        future: Future[T] = Future()

        def job() -> None:
            try:
                future.set_result(function(self.engine))
            except BaseException as error:
                future.set_exception(error)

        self._jobs.put(job)
        return future

    def pause(self) -> None:
        """Stop stepping; requests stay as they are."""
        self._resumed.clear()

    def resume(self) -> None:
        """Go on stepping."""
        self._resumed.set()
        self._jobs.put(lambda: None)

    @property
    def paused(self) -> bool:
        """Whether it has been told to stop stepping."""
        return not self._resumed.is_set()

    def close(self) -> None:
        """Abort what runs and end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _drop(self, engine: Engine, request: "Future[Request]") -> None:
        self._sinks.pop(request.result(), None)
        engine.cancel(request.result())

    def _work(self) -> None:
        while True:
            idle = not self.engine.has_work or not self._resumed.is_set()
            try:
                while True:
                    job = self._jobs.get(block=idle)
                    if job is None:
                        self._end(None)
                        return
                    job()
                    idle = False
            except queue.Empty:
                pass
            if self.engine.has_work and self._resumed.is_set():
                self._step()

    def _step(self) -> None:
        try:
            outputs = self.engine.step()
        except BaseException as error:  # a bug: every waiting client hears of it, and the next request may work
            self._end(error)
            return
        self._deliver(outputs)

    def _deliver(self, outputs: list[Output]) -> None:
        for output in outputs:
            sink = self._sinks.get(output.request)
            if sink:
                sink(output)
            if output.finish_reason:
                self._sinks.pop(output.request, None)

    def _end(self, error: BaseException | None) -> None:
        """Cancel every open request."""
        for request in list(self._sinks):
            if error:
                self._sinks.pop(request)(error)
            self.engine.cancel(request)
        self.engine.flush_cache()  # a pass that failed may have left anything in it
        self._deliver(self.engine.take_ended())
