"""`/v1/responses`: what a chat says, in the events of OpenAI's newer interface. Nothing is stored."""

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from minimind.serve import chat
from minimind.serve.errors import ApiError
from minimind.serve.events import named
from minimind.serve.responses_schema import ResponsesRequest
from minimind.serve.schema import ChatRequest
from minimind.serve.service import Job, Service

Event = dict[str, Any]
_PARTS = {"reasoning": "reasoning_text", "message": "output_text"}


class _Writer:
    """Turns a chat's chunks into events, and collects the response that they add up to."""

    def __init__(self, body: ResponsesRequest) -> None:
        self.number, self.open = -1, ""
        self.response: dict[str, Any] = {
            **{"id": f"resp_{uuid.uuid4().hex}", "object": "response", "created_at": int(time.time())},
            **{"status": "in_progress", "error": None, "incomplete_details": None, "output": [], "usage": None},
            **{"model": body.model, "instructions": body.instructions, "max_output_tokens": body.max_output_tokens},
            **{"temperature": 1.0 if body.temperature is None else body.temperature, "store": False},
            **{"top_p": 1.0 if body.top_p is None else body.top_p, "truncation": "disabled"},
            **{"tools": body.tools or [], "tool_choice": body.tool_choice or "auto", "metadata": body.metadata or {}},
            **{"parallel_tool_calls": body.parallel_tool_calls is not False, "previous_response_id": None},
            "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
            "text": {"format": (body.text and body.text.format) or {"type": "text"}},
        }

    def event(self, type: str, **fields: Any) -> Event:
        """One event, numbered."""
        self.number += 1
        return {"type": f"response.{type}", "sequence_number": self.number, **fields}

    def whole(self, type: str) -> Event:
        """An event with the response so far."""
        return self.event(type, response=self.response | {"output": [dict(item) for item in self.response["output"]]})

    def take(self, delta: dict[str, Any], logprobs: list[Any]) -> list[Event]:
        """What one delta of a chat adds, with the log-probabilities of its text."""
        events: list[Event] = []
        for call in delta.get("tool_calls", []):
            if "id" in call:
                head = {"call_id": call["id"], "name": call["function"]["name"], "arguments": ""}
                events += self._close() + self._begin("function_call", head)
            events += self._more("function_call_arguments", "arguments", call["function"]["arguments"])
        for field, kind, part in (
            ("reasoning_content", "reasoning", "reasoning_text"),
            ("content", "message", "output_text"),
        ):
            if delta.get(field):
                if self.open != kind:
                    events += self._close() + self._begin(kind, {})
                events += self._more(part, "text", delta[field], logprobs)
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
        events = [self.event("output_item.added", output_index=self._at["output_index"], item=dict(self.item))]
        if kind != "function_call":
            part: dict[str, Any] = {"type": _PARTS[kind], "text": ""}
            part |= {"annotations": [], "logprobs": []} if kind == "message" else {}
            events.append(self.event("content_part.added", **self._at, content_index=0, part=dict(part)))
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
        return [self.event(f"{name}.delta", **self._at, **extra, delta=text)] if text else []

    def _close(self) -> list[Event]:
        if not self.open:
            return []
        target, extra = self._place()
        if self.open == "function_call":
            named = {"name": self.item["name"], "arguments": target["arguments"]}
            events = [self.event("function_call_arguments.done", **self._at, **named)]
        else:
            events = [self.event(f"{target['type']}.done", **self._at, **extra, text=target["text"])]
            events.append(self.event("content_part.done", **self._at, content_index=0, part=dict(target)))
        self.item["status"], self.open = "completed", ""
        return [*events, self.event("output_item.done", output_index=self._at["output_index"], item=dict(self.item))]

    def end(self, finish: str, usage: dict[str, Any]) -> list[Event]:
        """The last events."""
        events = self._close()
        cut = finish == "length"
        self.response["status"] = "incomplete" if cut else "completed"
        self.response["incomplete_details"] = {"reason": "max_output_tokens"} if cut else None
        if cut and self.response["output"]:
            self.item["status"] = "incomplete"
        self.response["usage"] = {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": usage["prompt_tokens_details"] | {"cache_write_tokens": 0},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": usage["completion_tokens_details"],
            "total_tokens": usage["total_tokens"],
        }
        return [*events, self.whole(self.response["status"])]


async def stream(
    body: ResponsesRequest, request: ChatRequest, service: Service, jobs: Sequence[Job]
) -> AsyncGenerator[Event, None]:
    """The response in events, the last with all of it."""
    writer, finish = _Writer(body), ""
    writer.response["model"] = request.model or service.settings.model
    yield writer.whole("created")
    yield writer.whole("in_progress")
    async with aclosing(chat.stream(request, service, list(jobs), usage=True)) as chunks:
        async for chunk in chunks:
            for choice in chunk["choices"]:
                for event in writer.take(choice["delta"], (choice["logprobs"] or {}).get("content", [])):
                    yield event
                finish = choice["finish_reason"] or finish
            if chunk.get("usage"):
                for event in writer.end(finish, chunk["usage"]):
                    yield event


async def complete(
    body: ResponsesRequest, request: ChatRequest, service: Service, jobs: Sequence[Job]
) -> dict[str, Any]:
    """The whole response."""
    last: Event = {}
    async with aclosing(stream(body, request, service, jobs)) as events:
        async for event in events:
            last = event
    return dict(last["response"])


def _failed(error: ApiError) -> Event:
    """An error that comes when the stream has begun."""
    told = error.body["error"]
    return {"type": "error", "code": told["code"], "message": told["message"], "param": told["param"]}


FRAMING = named(_failed)
