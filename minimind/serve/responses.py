"""`/v1/responses`: what a chat says, in the events of OpenAI's newer interface. Nothing is stored."""

import time
import uuid
from collections.abc import Sequence
from typing import Any

from minimind.serve.errors import ApiError
from minimind.serve.events import named
from minimind.serve.responses_schema import ResponsesRequest

Event = dict[str, Any]
_KINDS = {"reasoning_content": "reasoning", "content": "message"}
_PARTS = {"reasoning": "reasoning_text", "message": "output_text"}


class Writer:
    """Turns a chat's chunks into events, and collects the response that they add up to."""

    def __init__(self, body: ResponsesRequest, model: str) -> None:
        self.framing = named(self._failed)
        self.number, self.open, self.finish = -1, "", ""
        self.response: dict[str, Any] = {
            **{"id": f"resp_{uuid.uuid4().hex}", "object": "response", "created_at": int(time.time())},
            **{"status": "in_progress", "error": None, "incomplete_details": None, "output": [], "usage": None},
            **{"model": model, "instructions": body.instructions, "max_output_tokens": body.max_output_tokens},
            **{"temperature": 1.0 if body.temperature is None else body.temperature, "store": False},
            **{"top_p": 1.0 if body.top_p is None else body.top_p, "truncation": "disabled"},
            **{"tools": body.tools or [], "tool_choice": body.tool_choice or "auto", "metadata": body.metadata or {}},
            **{"parallel_tool_calls": body.parallel_tool_calls is not False, "previous_response_id": None},
            "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
            "text": {"format": (body.text and body.text.format) or {"type": "text"}},
        }

    def begin(self, tokens: int) -> list[Event]:
        """The first events."""
        return [self._so_far("created"), self._so_far("in_progress")]

    def take(self, chunk: dict[str, Any]) -> list[Event]:
        """What a chunk of a chat adds; the last one ends the response."""
        events: list[Event] = []
        for choice in chunk["choices"]:
            events += self._add(choice["delta"], (choice["logprobs"] or {}).get("content", []))
            self.finish = choice["finish_reason"] or self.finish
        return events + (self._end(chunk["usage"]) if chunk.get("usage") else [])

    def whole(self) -> dict[str, Any]:
        """The whole response."""
        return self.response

    def _event(self, type: str, **fields: Any) -> Event:
        """One event, numbered."""
        self.number += 1
        return {"type": f"response.{type}", "sequence_number": self.number, **fields}

    def _failed(self, error: ApiError) -> Event:
        """An error that comes when the stream has begun."""
        told = {key: error.body["error"][key] for key in ("code", "message", "param")}
        return {"type": "error", "sequence_number": self.number + 1, **told}

    def _so_far(self, type: str) -> Event:
        """An event with the response so far."""
        return self._event(type, response=self.response | {"output": [dict(item) for item in self.response["output"]]})

    def _add(self, delta: dict[str, Any], logprobs: list[Any]) -> list[Event]:
        """What one delta of a chat adds, with the log-probabilities of its text."""
        events: list[Event] = []
        for call in delta.get("tool_calls", []):
            if "id" in call:
                head = {"call_id": call["id"], "name": call["function"]["name"], "arguments": ""}
                events += self._close() + self._begin("function_call", head)
            events += self._more("function_call_arguments", "arguments", call["function"]["arguments"])
        for field, kind in _KINDS.items():
            if delta.get(field):
                if self.open != kind:
                    events += self._close() + self._begin(kind, {})
                events += self._more(_PARTS[kind], "text", delta[field], logprobs)
                logprobs = []
        if logprobs and self.open == "message":  # of text that is held back, or of none
            part = self.item["content"][0]
            part["logprobs"] = [*part["logprobs"], *logprobs]
        return events

    @property
    def _at(self) -> dict[str, Any]:
        return {"item_id": self.item["id"], "output_index": len(self.response["output"]) - 1}

    def _begin(self, kind: str, fields: dict[str, Any]) -> list[Event]:
        self.open = kind
        prefix = {"function_call": "fc", "reasoning": "rs", "message": "msg"}[kind]
        self.item = {"type": kind, "id": f"{prefix}_{uuid.uuid4().hex}", "status": "in_progress", **fields}
        if kind != "function_call":
            self.item["content"] = []
            self.item |= {"role": "assistant"} if kind == "message" else {"summary": list[str]()}
        self.response["output"].append(self.item)
        events = [self._event("output_item.added", output_index=self._at["output_index"], item=dict(self.item))]
        if kind != "function_call":
            part: dict[str, Any] = {"type": _PARTS[kind], "text": ""}
            part |= {"annotations": [], "logprobs": []} if kind == "message" else {}
            events.append(self._event("content_part.added", **self._at, content_index=0, part=dict(part)))
            self.item["content"] = [part]
        return events

    def _place(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Where text is added, and what its events say besides."""
        if self.open == "function_call":
            return self.item, {}
        part = self.item["content"][0]
        return part, {"content_index": 0} | ({"logprobs": part["logprobs"]} if self.open == "message" else {})

    def _more(self, name: str, key: str, text: str, logprobs: Sequence[Any] = ()) -> list[Event]:
        target, extra = self._place()
        target[key] += text
        if self.open == "message":
            target["logprobs"] = [*target["logprobs"], *logprobs]
            extra["logprobs"] = list(logprobs)
        return [self._event(f"{name}.delta", **self._at, **extra, delta=text)] if text else []

    def _close(self, status: str = "completed") -> list[Event]:
        if not self.open:
            return []
        target, extra = self._place()
        if self.open == "function_call":
            named = {"name": self.item["name"], "arguments": target["arguments"]}
            events = [self._event("function_call_arguments.done", **self._at, **named)]
        else:
            events = [self._event(f"{target['type']}.done", **self._at, **extra, text=target["text"])]
            events.append(self._event("content_part.done", **self._at, content_index=0, part=dict(target)))
        self.item["status"], self.open = status, ""
        return [*events, self._event("output_item.done", output_index=self._at["output_index"], item=dict(self.item))]

    def _end(self, usage: dict[str, Any]) -> list[Event]:
        cut = self.finish == "length"
        self.response["status"] = "incomplete" if cut else "completed"
        self.response["incomplete_details"] = {"reason": "max_output_tokens"} if cut else None
        events = self._close(self.response["status"])
        self.response["usage"] = {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": usage["prompt_tokens_details"] | {"cache_write_tokens": 0},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": usage["completion_tokens_details"],
            "total_tokens": usage["total_tokens"],
        }
        return [*events, self._so_far(self.response["status"])]
