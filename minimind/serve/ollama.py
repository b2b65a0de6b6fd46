"""ollama's interface: what a chat or a text says, in its lines, and what its clients ask before they ask anything."""

import hashlib
import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from minimind.serve import chat, completions
from minimind.serve.errors import ollama
from minimind.serve.events import lines
from minimind.serve.ollama_schema import OllamaChatRequest, OllamaRequest
from minimind.serve.schema import ChatRequest, CompletionRequest
from minimind.serve.service import Job, Service

VERSION = "0.12.0"
"""That of ollama whose interface this is: its clients refuse servers that are too old."""
FRAMING = lines(ollama)
Line = dict[str, Any]


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class _Writer:
    """Turns chunks into lines, and collects the answer that they add up to."""

    def __init__(self, body: OllamaRequest) -> None:
        self.model, self.start = body.model, time.perf_counter_ns()
        self.is_chat = isinstance(body, OllamaChatRequest)
        self.text, self.thinking = "", ""
        self.calls: list[dict[str, Any]] = []
        self.logprobs: list[Any] = []
        self.finish: str | None = None
        self.timings: dict[str, Any] = {}
        self.usage: dict[str, Any] = {}

    def line(self, text: str, thinking: str, calls: list[Any], logprobs: list[Any], **more: Any) -> Line:
        """One line."""
        line: Line = {"model": self.model, "created_at": _now()}
        if self.is_chat:
            message: dict[str, Any] = {"role": "assistant", "content": text}
            message |= {"thinking": thinking} if thinking else {}
            line["message"] = message | ({"tool_calls": calls} if calls else {})
        else:
            line["response"] = text
            line |= {"thinking": thinking} if thinking else {}
        return line | ({"logprobs": logprobs} if logprobs else {}) | {"done": False, **more}

    def take(self, chunk: dict[str, Any]) -> list[Line]:
        """What a chunk adds."""
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
        self.timings, self.usage = chunk.get("timings") or self.timings, chunk.get("usage") or self.usage
        return said

    def _call(self, call: dict[str, Any]) -> dict[str, Any] | None:
        """A chat tells first who is called, then with what."""
        if "id" in call:
            self._head = {"id": call["id"], "function": {"index": call["index"], "name": call["function"]["name"]}}
            return None
        arguments = json.loads(call["function"]["arguments"] or "{}")
        return {**self._head, "function": self._head["function"] | {"arguments": arguments}}

    def end(self, *said: Any) -> Line:
        """The last line; `said`: everything, where there were no others."""
        total = time.perf_counter_ns() - self.start
        read = min(total, int(self.timings.get("prompt_ms", 0) * 1e6))
        counts = {
            **{"total_duration": total, "load_duration": 0},
            **{"prompt_eval_count": self.usage.get("prompt_tokens", 0), "prompt_eval_duration": read},
            **{"eval_count": self.usage.get("completion_tokens", 0), "eval_duration": total - read},
        }
        reason = "length" if self.finish == "length" else "stop"
        return self.line(*(said or ("", "", [], []))) | {"done": True, "done_reason": reason, **counts}


def loaded(body: OllamaRequest) -> Line:
    """The answer to who only asks for the model to be there."""
    return _Writer(body).line("", "", [], []) | {"done": True, "done_reason": "load"}


async def _chunks(
    writer: _Writer, request: ChatRequest | CompletionRequest, service: Service, jobs: Sequence[Job]
) -> AsyncGenerator[Line, None]:
    source = chat if isinstance(request, ChatRequest) else completions
    async with aclosing(source.stream(request, service, list(jobs), usage=True)) as chunks:
        async for chunk in chunks:
            for line in writer.take(chunk):
                yield line


async def stream(
    body: OllamaRequest, request: ChatRequest | CompletionRequest, service: Service, jobs: Sequence[Job]
) -> AsyncGenerator[Line, None]:
    """The answer in lines."""
    writer = _Writer(body)
    async with aclosing(_chunks(writer, request, service, jobs)) as said:
        async for line in said:
            yield line
    yield writer.end()


async def complete(
    body: OllamaRequest, request: ChatRequest | CompletionRequest, service: Service, jobs: Sequence[Job]
) -> Line:
    """The whole answer."""
    writer = _Writer(body)
    async with aclosing(_chunks(writer, request, service, jobs)) as said:
        async for _ in said:
            pass
    return writer.end(writer.text, writer.thinking, writer.calls, writer.logprobs)


def card(service: Service, name: str) -> dict[str, Any]:
    """One model of `/api/tags`. The digest is of what the model is called and made of, not of its weights."""
    model = service.engine.engine.model
    identity = f"{name} {service.tokenizer.fingerprint} {model.config}"
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return {
        **{"name": f"{name}:latest", "model": f"{name}:latest", "modified_at": _stamp(service), "size": size},
        **{"digest": hashlib.sha256(identity.encode()).hexdigest(), "details": _details(service)},
    }


def running(service: Service) -> dict[str, Any]:
    """`/api/ps`."""
    never = datetime.max.replace(tzinfo=UTC).isoformat()
    here = {"expires_at": never, "size_vram": 0, "context_length": service.engine.engine.context}
    return {"models": [card(service, name) | here for name in service.models]}


def show(service: Service) -> dict[str, Any]:
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
            "modified_at": _stamp(service),
        },
        **{"details": _details(service), "capabilities": ["completion", *can, "embedding"]},
        "model_info": {
            **{"general.architecture": family, "general.parameter_count": config.parameters()},
            **{f"{family}.{key}": value for key, value in info.items()},
        },
    }


def _stamp(service: Service) -> str:
    return datetime.fromtimestamp(service.created, UTC).isoformat().replace("+00:00", "Z")


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
