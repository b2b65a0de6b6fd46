"""From a checked request to its reply: what all dialects have in common."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from minimind.serve import chat, completions
from minimind.serve.errors import Json
from minimind.serve.events import OPENAI, Framing, Stream, while_connected
from minimind.serve.schema import ChatRequest
from minimind.serve.service import Job, Service


class Kind(NamedTuple):
    """How requests of one kind become jobs, and what the engine says becomes a reply."""

    jobs: Callable[..., list[Job]]
    stream: Callable[..., Any] | None
    complete: Callable[..., Any]
    framing: Framing = OPENAI


CHAT = Kind(chat.jobs, chat.stream, chat.complete)
TEXT = Kind(completions.jobs, completions.stream, completions.complete)


async def reply(service: Service, kind: Kind, request: Any, http: Request) -> Response:
    """Answer a request, streamed or whole."""
    service.check_model(request.model)
    check = service.engine.engine.check  # 503 comes before the work of rendering
    grammar = await service.form(request.form(service.tokenizer))

    def prepare() -> list[Job]:
        jobs = kind.jobs(request, service, grammar)
        for job in jobs:
            if job.nth == 0:
                check(job.prompt_ids, job.sampling)
        return jobs

    jobs = await service.texts.run(prepare)
    release = service.take(jobs)
    if request.stream and kind.stream:
        return Stream(kind.stream(request, service, jobs), service.settings.seconds, release, kind.framing)
    try:
        return Json(await while_connected(http, kind.complete(request, service, jobs)))
    finally:
        release()


async def translated(service: Service, writer_of: Any, body: Any, http: Request) -> Response:
    """Answer a request of another dialect as the chat (or the text) that it amounts to.

    `writer_of` is the dialect's class that says what begins an answer, what each chunk of the chat adds, what the whole
    is, and what the `framing` of a stream.
    """
    request = await service.texts.run(body.chat)
    source = chat if isinstance(request, ChatRequest) else completions
    writer = writer_of(body, request.model or service.settings.model)

    async def stream(request: Any, service: Service, jobs: list[Job]) -> AsyncGenerator[Any, None]:
        for event in writer.begin(len(jobs[0].prompt_ids)):
            yield event
        async with aclosing(source.stream(request, service, jobs, usage=True)) as chunks:
            async for chunk in chunks:
                for event in writer.take(chunk):
                    yield event

    async def complete(request: Any, service: Service, jobs: list[Job]) -> Any:
        async with aclosing(stream(request, service, jobs)) as events:
            async for _ in events:
                pass
        return writer.whole()

    return await reply(service, Kind(source.jobs, stream, complete, writer.framing), request, http)
