"""The model behind the server: its engine, who may use it now, and several answers at once as one stream."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import NamedTuple

from minimind.engine.background import EngineThread
from minimind.engine.grammar import Compiled
from minimind.engine.request import Output, PromptTooLong
from minimind.engine.sampling import Sampling
from minimind.serve.errors import ApiError
from minimind.serve.glass import Glass
from minimind.serve.grammars import PROCESSES, Grammars
from minimind.serve.metrics import Metrics
from minimind.serve.pools import Pool
from minimind.serve.settings import Settings
from minimind.tokenizer.bpe import Tokenizer

CACHE_GRAIN = 64


class Job(NamedTuple):
    """One answer to be written."""

    prompt_ids: Sequence[int]
    sampling: Sampling
    nth: int = 0
    """Which of several answers to the same prompt."""
    variant: str | None = None
    """The adapter that answers."""
    salt: str = ""
    """With whom computed prefixes are shared."""


def coarse(tokens: int) -> int:
    """A count of cached tokens as clients are told it: to the token, it would tell them what others have asked."""
    return tokens // CACHE_GRAIN * CACHE_GRAIN


class Service:
    """Holds the engine once it is loaded; until then, and after `close`, requests are refused with 503."""

    def __init__(self, settings: Settings, tokenizer: Tokenizer, glass: Glass | None = None) -> None:
        self.settings, self.tokenizer, self.glass = settings, tokenizer, glass
        tokenizer.takes_long_space = False  # 4 MB of it would keep a thread busy for 10 s
        self.created = int(time.time())
        self.metrics = Metrics()
        self.weights = ""
        """Where the present weights came from, if not from the directory that the server was started with."""
        self.texts, self.tools = Pool("texts", 4, 256), Pool("tools", 2, 64)
        """For what is computed from what clients send, and for tools."""
        self._forms = Pool("grammars", PROCESSES, 64)
        self._grammars: Grammars | None = None
        self._engine: EngineThread | None = None
        self._closing = False
        self._open = 0
        self.live: set[Answers] = set()
        """What is being written or waits."""

    @property
    def engine(self) -> EngineThread:
        """The engine.

        Raises:
            ApiError: 503, it is not there yet or no longer.
        """
        if self._closing:
            raise ApiError(503, "the server is shutting down", "shutting_down", headers={"Retry-After": "5"})
        if self._engine is None:
            raise ApiError(503, "the model is still being loaded", "loading", headers={"Retry-After": "1"})
        return self._engine

    def attach(self, engine: EngineThread) -> None:
        """Begin to answer."""
        self._grammars = Grammars(engine.engine)
        self._engine = engine
        self.metrics.open.set_function(lambda: self._open)

    def close(self) -> None:
        """Abort what is running and refuse everything from now on; called twice, it does nothing."""
        self._closing = True
        if self._engine:
            engine, self._engine = self._engine, None
            engine.close()
        if self._grammars:
            grammars, self._grammars = self._grammars, None
            grammars.close()

    @property
    def models(self) -> tuple[str, ...]:
        """The names that clients may ask for: the model's, then its adapters'."""
        return (self.settings.model, *self.settings.adapters)

    def check_model(self, name: str | None) -> None:
        """Raise `ApiError` 404 unless `name` is one of `models`; a request without a name gets the first."""
        if name is not None and name not in self.models:
            here = ", ".join(map(repr, self.models))
            message = f"there is no model {name!r} here; this server has {here}"
            raise ApiError(404, message, "model_not_found", "model")

    def variant(self, name: str | None) -> str | None:
        """The engine's variant for a model's name."""
        return name if name in self.settings.adapters else None

    async def form(self, grammar: str | None) -> Compiled | None:
        """A grammar made ready; nothing for nothing.

        Raises:
            UserError: it cannot be used.
        """
        if grammar is None:
            return None
        _ = self.engine
        assert self._grammars
        return await self._forms.run(self._grammars.compile, grammar)

    def check_length(self, texts: Iterable[str]) -> None:
        """Raise `PromptTooLong` for texts that no encoding brings into the context, before they are encoded."""
        context, least = self.engine.engine.context, 0
        for text in texts:
            least += len(text) // self.tokenizer.longest
        if least >= context:
            raise PromptTooLong(least, context)

    def take(self, jobs: Sequence[Job]) -> Callable[[], None]:
        """Reserve room for `jobs`, all of them or none; call what is returned when they are over.

        Raises:
            ApiError: 429, the server is full.
        """
        if self._open + len(jobs) > self.settings.max_open:
            self.metrics.rejected.inc()
            raise ApiError(
                429,
                f"{self._open} answers are being written or waiting, the most are {self.settings.max_open}: "
                f"try again in a moment",
                "queue_full",
                headers={"Retry-After": "1"},
            )
        self._open += len(jobs)

        def release() -> None:
            self._open -= len(jobs)

        return release

    def answers(self, jobs: Sequence[Job], partial: bool = False) -> "Answers":
        """Start the jobs; use the result with `async with`. `partial`: that some are aborted is no error."""
        return Answers(self, jobs, partial)

    def abort(self) -> None:
        """Abort every answer that is being written or waiting."""
        for answers in list(self.live):
            answers.abort()


class Answers:
    """Outputs of several requests as they come: `async for number_of_job, output in answers`."""

    def __init__(self, service: Service, jobs: Sequence[Job], partial: bool) -> None:
        self._service, self._engine, self._jobs = service, service.engine, jobs
        self._partial, self._aborted = partial, False
        self._outputs: asyncio.Queue[tuple[int, Output | Exception | None]] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Answers":
        self._deadline = asyncio.get_running_loop().time() + self._service.settings.seconds
        self._tasks = [asyncio.create_task(self._pump(i, job)) for i, job in enumerate(self._jobs)]
        self._left = set(range(len(self._jobs)))
        self._service.live.add(self)
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._service.live.discard(self)
        for task in self._tasks:
            task.cancel()

    def stop(self, job: int) -> None:
        """End one of the jobs: what comes after the present output is not wanted."""
        self._tasks[job].cancel()
        self._left.discard(job)
        self._outputs.put_nowait((job, None))  # wakes up who waits for it

    def abort(self) -> None:
        """End all of the jobs, although they are wanted."""
        self._aborted = bool(self._left)
        for job in list(self._left):
            self.stop(job)

    async def __aiter__(self) -> AsyncGenerator[tuple[int, Output], None]:
        """Yield until every job has ended.

        Raises:
            ApiError: 504, it took too long; 503, it was aborted; 400, it could not be held to its form.
        """
        while self._left:
            try:
                async with asyncio.timeout_at(self._deadline):
                    job, output = await self._outputs.get()
            except TimeoutError:
                seconds = self._service.settings.seconds
                message = f"the answer was not finished within {seconds:g} s, the limit of this server"
                raise ApiError(504, message, "timeout") from None
            if output is None or job not in self._left:
                continue
            if isinstance(output, Exception):
                raise output
            if output.finish_reason == "abort" and not self._partial:
                raise ApiError(503, "the answer was aborted: the server is shutting down", "aborted")
            if output.finish_reason == "error" and not self._partial:
                message = f"the answer cannot be held to its form: {output.request.error}"
                raise ApiError(400, message, "grammar_failed")
            if output.finish_reason is not None:
                self._left.discard(job)
            yield job, output
        if self._aborted and not self._partial:
            raise ApiError(503, "the answer was aborted by the server", "aborted")

    async def _pump(self, number: int, job: Job) -> None:
        start, first, metrics = time.perf_counter(), True, self._service.metrics
        try:
            async with aclosing(self._engine.generate(*job)) as outputs:
                async for output in outputs:
                    if first and output.token:
                        metrics.first(output.request, time.perf_counter() - start)
                        first = False
                    metrics.tokens.inc(output.token is not None)
                    self._outputs.put_nowait((number, output))
        except Exception as error:  # handed to whoever reads the answers
            self._outputs.put_nowait((number, error))
