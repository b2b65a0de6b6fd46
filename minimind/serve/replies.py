"""From a checked request to its reply: what all dialects have in common."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from minimind.serve import chat, completions
from minimind.serve.constraint import constraint
from minimind.serve.errors import Json
from minimind.serve.events import OPENAI, Framing, Stream, while_connected
from minimind.serve.service import Job, Service


class Kind(NamedTuple):
    """How requests of one kind become jobs, and what the engine says becomes a reply."""

    jobs: Callable[..., list[Job]]
    stream: Callable[..., Any] | None
    complete: Callable[..., Any]
    framing: Framing = OPENAI


CHAT = Kind(chat.jobs, chat.stream, chat.complete)
TEXT = Kind(completions.jobs, completions.stream, completions.complete)


async def reply(service: Service, kind: Kind, request: Any, http: Request, form: str | None = None) -> Response:
    """Answer a request, streamed or whole; `form` is a grammar."""
    service.check_model(request.model)
    check = service.engine.engine.check  # 503 comes before the work of rendering
    grammar = await service.form(form)

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


async def translated(service: Service, dialect: Any, body: Any, http: Request) -> Response:
    """Answer a request of another dialect as the chat that it amounts to."""
    request = await service.texts.run(body.chat)
    stream, complete = partial(dialect.stream, body), partial(dialect.complete, body)
    return await reply(service, Kind(chat.jobs, stream, complete, dialect.FRAMING), request, http, constraint(request))
