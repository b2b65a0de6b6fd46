"""The routes that everybody knows: OpenAI's, their unprefixed aliases, and what other local servers add."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

import minimind
from minimind import tools
from minimind.serve import chat, embeddings, messages, responses
from minimind.serve.bodies import described, read
from minimind.serve.errors import DESCRIBED, DESCRIBED_ANTHROPIC, ApiError, Json
from minimind.serve.messages_schema import CountRequest, MessagesRequest
from minimind.serve.replies import CHAT, TEXT, Kind, reply, translated
from minimind.serve.responses_schema import ResponsesRequest
from minimind.serve.schema import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingsRequest,
    TemplateRequest,
    TokenizeRequest,
    ToolRequest,
)
from minimind.serve.service import Service
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import render


def router(service: Service) -> APIRouter:
    """All routes, over one service."""
    routes = APIRouter(default_response_class=Json, responses=DESCRIBED)
    settings, tokenizer = service.settings, service.tokenizer

    def aliased(method: str, path: str, **more: Any) -> Any:
        """Register a route as `/v1/...` and, unlisted, without the prefix."""

        def register(function: Any) -> Any:
            routes.api_route(f"/v1{path}", methods=[method], **more)(function)
            return routes.api_route(path, methods=[method], include_in_schema=False)(function)

        return register

    @aliased("POST", "/chat/completions", tags=["OpenAI"], **described(ChatRequest))
    async def chat_completions(http: Request) -> Response:
        """Answer a conversation; with `stream`, as server-sent events."""
        return await reply(service, CHAT, await read(ChatRequest, http, service.texts), http)

    @aliased("POST", "/responses", tags=["OpenAI"], **described(ResponsesRequest))
    async def response(http: Request) -> Response:
        """Answer items; with `stream`, as named events."""
        return await translated(service, responses.Writer, await read(ResponsesRequest, http, service.texts), http)

    @routes.post("/v1/messages", tags=["Anthropic"], responses=DESCRIBED_ANTHROPIC, **described(MessagesRequest))
    async def message(http: Request) -> Response:
        """Answer a conversation; with `stream`, as named events."""
        return await translated(service, messages.Writer, await read(MessagesRequest, http, service.texts), http)

    @routes.post(
        "/v1/messages/count_tokens", tags=["Anthropic"], responses=DESCRIBED_ANTHROPIC, **described(CountRequest)
    )
    async def count(http: Request) -> Response:
        """Count the tokens of a conversation as the model would see it."""
        body = await read(CountRequest, http, service.texts)
        service.check_model(body.model)
        ids = await service.texts.run(lambda: chat.prompt(body.chat(), service))
        return Json({"input_tokens": len(ids)})

    @aliased("POST", "/completions", tags=["OpenAI"], **described(CompletionRequest))
    async def text_completions(http: Request) -> Response:
        """Continue a text."""
        return await reply(service, TEXT, await read(CompletionRequest, http, service.texts), http)

    @aliased("POST", "/embeddings", tags=["OpenAI"], **described(EmbeddingsRequest))
    async def embed(http: Request) -> Response:
        """Turn texts into vectors of length 1."""
        kind = Kind(embeddings.jobs, None, embeddings.complete)
        return await reply(service, kind, await read(EmbeddingsRequest, http, service.texts), http)

    def card(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": service.created, "owned_by": "minimind"}

    @aliased("GET", "/models", tags=["OpenAI"])
    async def models() -> Response:
        """List the models: the one that is served, and each adapter on it."""
        return Json({"object": "list", "data": [card(name) for name in service.models]})

    @aliased("GET", "/models/{id:path}", tags=["OpenAI"])
    async def model(id: str) -> Response:
        """Describe a model."""
        service.check_model(id)
        return Json(card(id))

    @routes.get("/health", tags=["server"])
    async def health() -> Response:
        """Say whether requests are answered: 200, or 503 while the model is loaded and while the server stops."""
        _ = service.engine
        return Json({"status": "ok"})

    @routes.get("/metrics", tags=["server"])
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @routes.get("/props", tags=["server"])
    async def props() -> Response:
        """Say what this server has: the model, its context, the tools that it runs, whether /inspect is there."""
        engine = service.engine.engine
        return Json(
            {
                "model": settings.model,
                "n_ctx": engine.context,
                "total_slots": engine.max_batch_size,
                "default_generation_settings": {"n_ctx": engine.context},  # where llama.cpp's clients look for it
                "vocab_size": engine.model.config.vocab_size,
                "parameters": engine.model.config.parameters(),
                "max_tokens": settings.max_tokens,
                "tools": tools.schemas(settings.tools),
                "inspect": service.glass is not None,
            }
        )

    @aliased("GET", "/version", tags=["server"])
    async def version() -> Response:
        """Say which MiniMind this is."""
        return Json({"version": minimind.__version__})

    @routes.get("/slots", tags=["server"])
    async def slots() -> Response:
        """Say how many answers can be written at once, and how many are; not what is in them."""
        engine = service.engine.engine
        busy = engine.running
        return Json(
            [{"id": i, "n_ctx": engine.context, "is_processing": i < busy} for i in range(engine.max_batch_size)]
        )

    @routes.post("/apply-template", tags=["server"], **described(TemplateRequest))
    async def template(http: Request) -> Response:
        """Write a conversation as the model would see it."""
        request = await read(TemplateRequest, http, service.texts)
        ids = await service.texts.run(chat.prompt, request, service)
        return Json({"prompt": await service.texts.run(tokenizer.decode, ids)})

    @routes.post("/tokenize", tags=["server"], **described(TokenizeRequest))
    async def tokenize(http: Request) -> Response:
        """Turn a text (never into control tokens) or a conversation into token ids."""
        request = await read(TokenizeRequest, http, service.texts)
        context = service.engine.engine.context

        def encode() -> Response:
            ids = _encoded(request, tokenizer)
            pieces = [{"id": id, "piece": _piece(tokenizer.token_bytes(id))} for id in ids if request.with_pieces]
            return Json({"tokens": pieces if request.with_pieces else ids, "count": len(ids), "max_model_len": context})

        return await service.texts.run(encode)

    @routes.post("/detokenize", tags=["server"], **described(DetokenizeRequest))
    async def detokenize(http: Request) -> Response:
        """Turn token ids into text."""
        request = await read(DetokenizeRequest, http, service.texts)
        if max(request.tokens, default=0) >= tokenizer.vocab_size:
            raise ApiError(400, f"token ids end at {tokenizer.vocab_size - 1}", param="tokens")
        text = await service.texts.run(tokenizer.decode, request.tokens)
        return Json({"content": text, "prompt": text})

    @routes.post("/tools/{name}", tags=["server"], **described(ToolRequest))
    async def run_tool(name: str, http: Request) -> Response:
        """Run a built-in tool that `--tools` allows; a fault of the call is a result too."""
        request = await read(ToolRequest, http, service.texts)
        if name not in settings.tools:
            raise ApiError(404, f"the tool {name!r} is not allowed here; start the server with --tools", "no_tool")
        return Json({"result": await service.tools.run(tools.call, name, request.arguments)})

    return routes


def _encoded(request: TokenizeRequest, tokenizer: Tokenizer) -> list[int]:
    if request.messages is None:
        text = next(t for t in (request.content, request.prompt, request.text) if t is not None)
        return (tokenizer.bos if request.add_special else []) + tokenizer.encode(text)
    turns = [message.turn() for message in request.messages]
    specs = [tool.model_dump(exclude_none=True) for tool in request.tools or []]
    prompt = request.add_generation_prompt
    return render(turns, tokenizer, specs or None, add_generation_prompt=prompt, blocks=False)[0]


def _piece(bytes: bytes) -> str | list[int]:
    """As llama.cpp answers: text, or bytes where a token is part of a character."""
    try:
        return bytes.decode("utf-8")
    except UnicodeDecodeError:
        return list(bytes)
