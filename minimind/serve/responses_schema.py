"""What OpenAI's newer interface sends, as a chat."""

from typing import Annotated, Any, Literal

from pydantic import Field

from minimind.serve.bodies import few, validated
from minimind.serve.errors import ApiError
from minimind.serve.sampled import MOST, Body
from minimind.serve.schema import ChatRequest, Effort

_PARTS = ("input_text", "output_text", "text", "reasoning_text", "summary_text")
LOGPROBS = "message.output_text.logprobs"


class Reasoning(Body):
    """`reasoning`."""

    effort: Effort | None = None


class TextOptions(Body):
    """`text`: the form of the answer."""

    format: dict[str, Any] | None = None


class ResponsesRequest(Body):
    """Body of `/v1/responses`."""

    model: str | None = None
    input: str | Annotated[list[dict[str, Any]], *few(MOST, 1)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = None
    tools: Annotated[list[dict[str, Any]], *few(512)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    text: TextOptions | None = None
    include: Annotated[list[str], *few(64)] | None = None
    top_logprobs: int | None = None
    metadata: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
    previous_response_id: Literal[None] = None
    conversation: Literal[None] = None
    background: Literal[False] | None = None

    def chat(self) -> ChatRequest:
        """The same as a chat.

        Raises:
            ApiError: 400, it holds what a chat has no word for.
        """
        turns = [{"role": "system", "content": self.instructions}] if self.instructions else []
        items = [{"role": "user", "content": self.input}] if isinstance(self.input, str) else self.input
        for item in items:
            _add(turns, item)
        tools, choice = self.tools or [], self.tool_choice
        if wrong := next((tool for tool in tools if tool.get("type") != "function"), None):
            raise ApiError(400, f"this server has no tool of type {str(wrong.get('type'))[:40]!r}", param="tools")
        if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
            allowed = [tool.get("name") for tool in choice.get("tools") or [] if isinstance(tool, dict)]
            tools, choice = [tool for tool in tools if tool.get("name") in allowed], choice.get("mode")
        if isinstance(choice, dict):
            choice = {"type": "function", "function": {"name": choice.get("name")}}
        form = (self.text and self.text.format) or {}
        if form.get("type") == "json_schema":
            form = {"type": "json_schema", "json_schema": {key: form[key] for key in ("name", "schema") if key in form}}
        scored = LOGPROBS in (self.include or ())
        body = {
            **self.model_dump(include={"model", "temperature", "top_p", "stream", "parallel_tool_calls"}),
            **{"messages": turns, "tools": tools or None, "tool_choice": choice, "response_format": form or None},
            **{"max_completion_tokens": self.max_output_tokens, "logprobs": scored},
            "top_logprobs": self.top_logprobs if scored else None,
            "reasoning_effort": self.reasoning.effort if self.reasoning else None,
        }
        return validated(ChatRequest, body)


def _add(turns: list[dict[str, Any]], item: dict[str, Any]) -> None:
    """Add one item; what an assistant thought, said and called one after the other is one turn."""
    kind = item.get("type", "message")
    if kind == "message" and item.get("role") != "assistant":
        turns.append({"role": item.get("role"), "content": _text(item.get("content"))})
        return
    if kind == "function_call_output":
        turns.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": _text(item.get("output"))})
        return
    if kind not in ("message", "function_call", "reasoning"):
        raise ApiError(400, f"input: this server keeps and knows nothing of type {str(kind)[:40]!r}", param="input")
    fresh = not turns or turns[-1]["role"] != "assistant" or (kind != "function_call" and "content" in turns[-1])
    turn: dict[str, Any] = {"role": "assistant"} if fresh else turns[-1]
    if fresh:
        turns.append(turn)
    if kind == "message":
        turn["content"] = _text(item.get("content"))
    elif kind == "reasoning":
        turn["reasoning_content"] = _text(item.get("content") or item.get("summary")) or " "
    else:
        function = {"name": item.get("name"), "arguments": item.get("arguments") or "{}"}
        turn.setdefault("tool_calls", []).append({"id": item.get("call_id"), "function": function})


def _text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise ApiError(400, "input: content must be a string or a list of parts", param="input")
    if wrong := next((part for part in content if part.get("type") not in _PARTS), None):
        raise ApiError(400, f"this model reads text only, and no {str(wrong.get('type'))[:40]!r}", param="input")
    return "".join(str(part.get("text") or "") for part in content)
