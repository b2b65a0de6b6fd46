"""ollama's routes."""

from functools import partial

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from minimind.serve import completions, embeddings, ollama
from minimind.serve.bodies import described, read
from minimind.serve.errors import DESCRIBED_OLLAMA, Json
from minimind.serve.ollama_schema import (
    EmbedRequest,
    OllamaChatRequest,
    OllamaGenerateRequest,
    ShowRequest,
    SingleRequest,
)
from minimind.serve.replies import Kind, reply, translated
from minimind.serve.service import Service


def router(service: Service) -> APIRouter:
    """`/api/...`, over one service."""
    routes = APIRouter(prefix="/api", tags=["ollama"], default_response_class=Json, responses=DESCRIBED_OLLAMA)

    @routes.post("/chat", **described(OllamaChatRequest))
    async def chat(http: Request) -> Response:
        """Answer a conversation, in lines unless `stream` is false."""
        body = await read(OllamaChatRequest, http, service.texts)
        if body.loads:
            service.check_model(body.model)
            return Json(ollama.loaded(body))
        return await translated(service, ollama, body, http)

    @routes.post("/generate", **described(OllamaGenerateRequest))
    async def generate(http: Request) -> Response:
        """Answer one question, or with `raw` continue a text."""
        body = await read(OllamaGenerateRequest, http, service.texts)
        if body.loads:
            service.check_model(body.model)
            return Json(ollama.loaded(body))
        if not body.raw:
            return await translated(service, ollama, body, http)
        stream, complete = partial(ollama.stream, body), partial(ollama.complete, body)
        request = await service.texts.run(body.text)
        return await reply(service, Kind(completions.jobs, stream, complete, ollama.FRAMING), request, http)

    @routes.post("/embed", **described(EmbedRequest))
    async def embed(http: Request) -> Response:
        """Turn texts into vectors."""
        body = await read(EmbedRequest, http, service.texts)
        return await reply(service, Kind(embeddings.jobs, None, embeddings.ollama), body.texts(), http)

    @routes.post("/embeddings", **described(SingleRequest))
    async def single(http: Request) -> Response:
        """Turn one text into a vector."""
        body = await read(SingleRequest, http, service.texts)
        return await reply(service, Kind(embeddings.jobs, None, embeddings.ollama_single), body.texts(), http)

    @routes.get("/tags")
    async def tags() -> Response:
        """List the models."""
        return Json({"models": [ollama.card(service, name) for name in service.models]})

    @routes.get("/ps")
    async def running() -> Response:
        """List the models that are loaded: all."""
        return Json(ollama.running(service))

    @routes.post("/show", **described(ShowRequest))
    async def show(http: Request) -> Response:
        """Describe a model."""
        body = await read(ShowRequest, http, service.texts)
        service.check_model((body.model or body.name or service.settings.model).removesuffix(":latest"))
        return Json(ollama.show(service))

    @routes.get("/version")
    async def version() -> Response:
        """Say which interface this is."""
        return Json({"version": ollama.VERSION})

    return routes
