"""`/v1/messages`: what a chat says, in the events of Anthropic's interface."""

import json
import uuid
from typing import Any

from minimind.serve.errors import anthropic
from minimind.serve.events import named
from minimind.serve.messages_schema import MessagesRequest

Event = dict[str, Any]


class Writer:
    """Turns a chat's chunks into events, and collects the message that they add up to."""

    framing = named(anthropic)

    def __init__(self, body: MessagesRequest, model: str) -> None:
        usage = {"input_tokens": 0, "output_tokens": 0}
        usage |= {"cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
        self.message: dict[str, Any] = {
            **{"id": f"msg_{uuid.uuid4().hex}", "type": "message", "role": "assistant", "model": model, "content": []},
            **{"stop_reason": None, "stop_sequence": None, "usage": usage},
        }
        self.open, self.finish = "", ""
        self.stop: str | None = None

    def begin(self, tokens: int) -> list[Event]:
        """The first event, of a prompt of so many tokens."""
        self.message["usage"]["input_tokens"] = tokens
        return [{"type": "message_start", "message": self.message | {"content": []}}]

    def take(self, chunk: dict[str, Any]) -> list[Event]:
        """What a chunk of a chat adds; the last one ends the message."""
        events: list[Event] = []
        for choice in chunk["choices"]:
            events += self._add(choice["delta"])
            self.finish, self.stop = choice["finish_reason"] or self.finish, choice.get("stop_reason") or self.stop
        if usage := chunk.get("usage"):
            events += self._close() + self._end(usage)
        return events

    def whole(self) -> dict[str, Any]:
        """The whole message."""
        return self.message

    def _add(self, delta: dict[str, Any]) -> list[Event]:
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
        events, self.open = self._close(), kind
        self.message["content"].append({"type": kind, **fields})
        index = len(self.message["content"]) - 1
        return [*events, {"type": "content_block_start", "index": index, "content_block": {"type": kind, **fields}}]

    def _more(self, delta: dict[str, Any]) -> list[Event]:
        return [{"type": "content_block_delta", "index": len(self.message["content"]) - 1, "delta": delta}]

    def _close(self) -> list[Event]:
        if not self.open:
            return []
        if self.open == "tool_use":
            self.message["content"][-1]["input"] = json.loads(self.written or "{}")
        signed = self._more({"type": "signature_delta", "signature": ""}) if self.open == "thinking" else []
        self.open = ""
        return [*signed, {"type": "content_block_stop", "index": len(self.message["content"]) - 1}]

    def _end(self, usage: dict[str, Any]) -> list[Event]:
        said = {"tool_calls": "tool_use", "length": "max_tokens", "stop": "stop_sequence" if self.stop else "end_turn"}
        ended = {"stop_reason": said[self.finish], "stop_sequence": self.stop}
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        self.message["usage"] |= {
            "input_tokens": usage["prompt_tokens"] - cached,  # Anthropic counts no token twice
            "output_tokens": usage["completion_tokens"],
            "cache_read_input_tokens": cached,
        }
        self.message |= ended
        return [{"type": "message_delta", "delta": ended, "usage": self.message["usage"]}, {"type": "message_stop"}]
