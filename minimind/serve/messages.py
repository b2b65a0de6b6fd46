"""`/v1/messages`: what a chat says, in the events of Anthropic's interface."""

import json
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from minimind.serve import chat
from minimind.serve.errors import anthropic
from minimind.serve.events import named
from minimind.serve.messages_schema import MessagesRequest
from minimind.serve.schema import ChatRequest
from minimind.serve.service import Job, Service

Event = dict[str, Any]


class _Writer:
    """Turns a chat's chunks into events, and collects the message that they add up to."""

    def __init__(self, model: str, tokens: int) -> None:
        usage = {"input_tokens": tokens, "output_tokens": 0}
        usage |= {"cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
        self.message: dict[str, Any] = {
            **{"id": f"msg_{uuid.uuid4().hex}", "type": "message", "role": "assistant", "model": model, "content": []},
            **{"stop_reason": None, "stop_sequence": None, "usage": usage},
        }
        self.open = ""

    def take(self, delta: dict[str, Any]) -> list[Event]:
        """What one delta of a chat adds."""
        events: list[Event] = []
        for call in delta.get("tool_calls", []):
            if "id" in call:
                head = {"id": call["id"], "name": call["function"]["name"], "input": {}}
                events += self._begin("tool_use", head)
                self.written = ""
            self.written += call["function"]["arguments"]
            events += self._more({"type": "input_json_delta", "partial_json": call["function"]["arguments"]})
        for field, kind, key in (("reasoning_content", "thinking", "thinking"), ("content", "text", "text")):
            if delta.get(field):
                if self.open != kind:
                    events += self._begin(kind, {key: ""} | ({"signature": ""} if kind == "thinking" else {}))
                self.message["content"][-1][key] += delta[field]
                events += self._more({"type": f"{kind}_delta", key: delta[field]})
        return events

    def _begin(self, kind: str, fields: dict[str, Any]) -> list[Event]:
        events, self.open = self.close(), kind
        self.message["content"].append({"type": kind, **fields})
        index = len(self.message["content"]) - 1
        return [*events, {"type": "content_block_start", "index": index, "content_block": {"type": kind, **fields}}]

    def _more(self, delta: dict[str, Any]) -> list[Event]:
        return [{"type": "content_block_delta", "index": len(self.message["content"]) - 1, "delta": delta}]

    def close(self) -> list[Event]:
        """End the open block."""
        if not self.open:
            return []
        if self.open == "tool_use":
            self.message["content"][-1]["input"] = json.loads(self.written or "{}")
        signed = self._more({"type": "signature_delta", "signature": ""}) if self.open == "thinking" else []
        self.open = ""
        return [*signed, {"type": "content_block_stop", "index": len(self.message["content"]) - 1}]

    def end(self, finish: str, stop: str | None, usage: dict[str, Any]) -> list[Event]:
        """The last events."""
        said = {"tool_calls": "tool_use", "length": "max_tokens", "stop": "stop_sequence" if stop else "end_turn"}
        ended = {"stop_reason": said[finish], "stop_sequence": stop}
        self.message["usage"] |= {
            "output_tokens": usage["completion_tokens"],
            "cache_read_input_tokens": usage["prompt_tokens_details"]["cached_tokens"],
        }
        self.message |= ended
        return [{"type": "message_delta", "delta": ended, "usage": self.message["usage"]}, {"type": "message_stop"}]


async def stream(
    body: MessagesRequest, request: ChatRequest, service: Service, jobs: Sequence[Job]
) -> AsyncGenerator[Event, None]:
    """The message in events."""
    writer = _Writer(request.model or service.settings.model, len(jobs[0].prompt_ids))
    yield {"type": "message_start", "message": writer.message | {"content": []}}
    async with aclosing(_events(writer, request, service, jobs)) as events:
        async for event in events:
            yield event


async def _events(
    writer: _Writer, request: ChatRequest, service: Service, jobs: Sequence[Job]
) -> AsyncGenerator[Event, None]:
    finish, stop = "", None
    async with aclosing(chat.stream(request, service, list(jobs), usage=True)) as chunks:
        async for chunk in chunks:
            for choice in chunk["choices"]:
                for event in writer.take(choice["delta"]):
                    yield event
                finish, stop = choice["finish_reason"] or finish, choice.get("stop_reason") or stop
            if usage := chunk.get("usage"):
                for event in [*writer.close(), *writer.end(finish, stop, usage)]:
                    yield event


async def complete(
    body: MessagesRequest, request: ChatRequest, service: Service, jobs: Sequence[Job]
) -> dict[str, Any]:
    """The whole message."""
    writer = _Writer(request.model or service.settings.model, len(jobs[0].prompt_ids))
    async with aclosing(_events(writer, request, service, jobs)) as events:
        async for _ in events:
            pass
    return writer.message


FRAMING = named(anthropic)
