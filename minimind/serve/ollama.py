"""ollama's interface: what a chat or a text says, in its lines, and what its clients ask before they ask anything."""

import hashlib
import json
import time
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from minimind.serve import embeddings
from minimind.serve.bodies import described, read
from minimind.serve.errors import DESCRIBED_OLLAMA, Json, ollama
from minimind.serve.events import lines
from minimind.serve.ollama_schema import (
    EmbedRequest,
    OllamaChatRequest,
    OllamaGenerateRequest,
    OllamaRequest,
    ShowRequest,
    SingleRequest,
)
from minimind.serve.replies import Kind, reply, translated
from minimind.serve.service import Service

VERSION = "0.12.0"
"""That of ollama whose interface this is: its clients refuse servers that are too old."""
Line = dict[str, Any]


class Writer:
    """Turns a chat's or a text's chunks into lines, and collects the answer that they add up to."""

    framing = lines(ollama)

    def __init__(self, body: OllamaRequest, model: str) -> None:
        self.model = model
        self.is_chat = isinstance(body, OllamaChatRequest)
        self.text, self.thinking = "", ""
        self.calls: list[dict[str, Any]] = []
        self.logprobs: list[Any] = []
        self.finish: str | None = None
        self.timings: dict[str, Any] = {}
        self.usage: dict[str, Any] = {}

    def begin(self, tokens: int) -> list[Line]:
        """Nothing is said before the first token."""
        self.start = time.perf_counter_ns()
        return []

    def line(self, text: str = "", thinking: str = "", calls: Any = (), logprobs: Any = ()) -> Line:
        """One line."""
        line: Line = {"model": self.model, "created_at": _stamp(time.time())}
        if self.is_chat:
            message: dict[str, Any] = {"role": "assistant", "content": text}
            message |= {"thinking": thinking} if thinking else {}
            line["message"] = message | ({"tool_calls": calls} if calls else {})
        else:
            line["response"] = text
            line |= {"thinking": thinking} if thinking else {}
        return line | ({"logprobs": logprobs} if logprobs else {}) | {"done": False}

    def take(self, chunk: dict[str, Any]) -> list[Line]:
        """What a chunk adds; the last one ends the answer."""
        said: list[Line] = []
        for choice in chunk["choices"]:
            delta = choice.get("delta") or {"content": choice.get("text")}
            text, thinking = delta.get("content") or "", delta.get("reasoning_content") or ""
            calls = [made for call in delta.get("tool_calls", []) if (made := self._call(call))]
            logprobs = (choice.get("logprobs") or {}).get("content") or []
            self.text, self.thinking = self.text + text, self.thinking + thinking
            self.calls, self.logprobs = self.calls + calls, self.logprobs + logprobs
            self.finish = choice["finish_reason"] or self.finish
            if text or thinking or calls or logprobs:
                said.append(self.line(text, thinking, calls, logprobs))
        self.timings = chunk.get("timings") or self.timings
        if usage := chunk.get("usage"):
            self.usage = usage
            said.append(self._end(self.line()))
        return said

    def whole(self) -> Line:
        """The whole answer."""
        return self._end(self.line(self.text, self.thinking, self.calls, self.logprobs))

    def _call(self, call: dict[str, Any]) -> dict[str, Any] | None:
        """A chat tells first who is called, then with what."""
        if "id" in call:
            self._head = {"id": call["id"], "function": {"index": call["index"], "name": call["function"]["name"]}}
            return None
        arguments = json.loads(call["function"]["arguments"] or "{}")
        return {**self._head, "function": self._head["function"] | {"arguments": arguments}}

    def _end(self, said: Line) -> Line:
        """The last line."""
        total = time.perf_counter_ns() - self.start
        read = min(total, int(self.timings.get("prompt_ms", 0) * 1e6))
        counts = {
            **{"total_duration": total, "load_duration": 0},
            **{"prompt_eval_count": self.usage.get("prompt_tokens", 0), "prompt_eval_duration": read},
            **{"eval_count": self.usage.get("completion_tokens", 0), "eval_duration": total - read},
        }
        reason = "length" if self.finish == "length" else "stop"
        return said | {"done": True, "done_reason": reason, **counts}


def router(service: Service) -> APIRouter:
    """`/api/...`, over one service."""
    routes = APIRouter(prefix="/api", tags=["ollama"], default_response_class=Json, responses=DESCRIBED_OLLAMA)

    async def answer(kind: type[OllamaChatRequest | OllamaGenerateRequest], http: Request) -> Response:
        body = await read(kind, http, service.texts)
        if body.loads:
            service.check_model(body.model)
            return Json(Writer(body, body.model).line() | {"done": True, "done_reason": "load"})
        return await translated(service, Writer, body, http)

    @routes.post("/chat", **described(OllamaChatRequest))
    async def chat(http: Request) -> Response:
        """Answer a conversation, in lines unless `stream` is false."""
        return await answer(OllamaChatRequest, http)

    @routes.post("/generate", **described(OllamaGenerateRequest))
    async def generate(http: Request) -> Response:
        """Answer one question, or with `raw` continue a text."""
        return await answer(OllamaGenerateRequest, http)

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
        return Json({"models": [_card(service, name) for name in service.models]})

    @routes.get("/ps")
    async def running() -> Response:
        """List the models that are loaded: all."""
        never = datetime.max.replace(tzinfo=UTC).isoformat()
        here = {"expires_at": never, "size_vram": 0, "context_length": service.engine.engine.context}
        return Json({"models": [_card(service, name) | here for name in service.models]})

    @routes.post("/show", **described(ShowRequest))
    async def show(http: Request) -> Response:
        """Describe a model."""
        body = await read(ShowRequest, http, service.texts)
        service.check_model((body.model or body.name or service.settings.model).removesuffix(":latest"))
        return Json(_show(service))

    @routes.get("/version")
    async def version() -> Response:
        """Say which interface this is."""
        return Json({"version": VERSION})

    return routes


def _card(service: Service, name: str) -> dict[str, Any]:
    """One model of `/api/tags`. The digest is of what the model is called and made of, not of its weights."""
    model = service.engine.engine.model
    identity = f"{name} {service.tokenizer.fingerprint} {model.config}"
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return {
        **{"name": f"{name}:latest", "model": f"{name}:latest", "modified_at": _stamp(service.created), "size": size},
        **{"digest": hashlib.sha256(identity.encode()).hexdigest(), "details": _details(service)},
    }


def _show(service: Service) -> dict[str, Any]:
    """`/api/show`."""
    engine, tokenizer = service.engine.engine, service.tokenizer
    config, family = engine.model.config, _details(service)["family"]
    can = [name for name, marker in (("tools", "<tool_call>"), ("thinking", "<think>")) if tokenizer.control_id(marker)]
    info = {"context_length": engine.context, "embedding_length": config.hidden_size}
    info |= {"block_count": config.num_hidden_layers, "attention.head_count": config.num_attention_heads}
    return {
        **{
            "modelfile": "",
            "parameters": "",
            "template": tokenizer.chat_template or "",
            "modified_at": _stamp(service.created),
        },
        **{"details": _details(service), "capabilities": ["completion", *can, "embedding"]},
        "model_info": {
            **{"general.architecture": family, "general.parameter_count": config.parameters()},
            **{f"{family}.{key}": value for key, value in info.items()},
        },
    }


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _details(service: Service) -> dict[str, Any]:
    engine = service.engine.engine
    family = "qwen3moe" if engine.model.config.num_experts else "qwen3"
    return {
        **{"parent_model": "", "format": "safetensors", "family": family, "families": [family]},
        "parameter_size": f"{engine.model.config.parameters() / 1e6:.1f}M",
        "quantization_level": {"torch.float32": "F32", "torch.bfloat16": "BF16"}.get(
            str(engine.dtype), str(engine.dtype)
        ),
    }
