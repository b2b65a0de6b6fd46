"""What Anthropic's interface sends, as a chat."""

from typing import Annotated, Any, Literal

from pydantic import Field

from minimind.serve.bodies import few, validated
from minimind.serve.errors import ApiError
from minimind.serve.sampled import MOST, Body, StopString
from minimind.serve.schema import ChatRequest

Blocks = str | Annotated[list[dict[str, Any]], *few(MOST)]


class Turn(Body):
    """One turn."""

    role: Literal["user", "assistant"]
    content: Blocks


class Thinking(Body):
    """`thinking`."""

    type: Literal["enabled", "disabled", "adaptive"]


class ToolChoice(Body):
    """`tool_choice`."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Tool(Body):
    """An entry of `tools`."""

    type: Literal["custom"] = "custom"
    name: str
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None


class CountRequest(Body):
    """Body of `/v1/messages/count_tokens`."""

    model: str | None = None
    messages: Annotated[list[Turn], *few(MOST, 1)]
    system: Blocks | None = None
    tools: Annotated[list[Tool], *few(512)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None

    def chat(self, **more: Any) -> ChatRequest:
        """The same as a chat.

        Raises:
            ApiError: 400, it holds what a chat has no word for.
        """
        turns = [{"role": "system", "content": _text(self.system)}] if self.system else []
        for turn in self.messages:
            turns += _turns(turn.role, turn.content)
        choice = self.tool_choice
        chosen: Any = {"any": "required", "auto": "auto", "none": "none"}.get(choice.type) if choice else None
        if choice and choice.type == "tool":
            chosen = {"type": "function", "function": {"name": choice.name}}
        tools = [
            {"name": tool.name, "description": tool.description, "parameters": tool.input_schema, "strict": tool.strict}
            for tool in self.tools or []
        ]
        if turns and turns[-1]["role"] == "assistant":
            more["continue_final_message"] = True
        body = {
            **{"model": self.model, "messages": turns, "tools": tools or None, "tool_choice": chosen},
            "parallel_tool_calls": False if choice and choice.disable_parallel_tool_use else None,
            "open_thinking": self.thinking.type != "disabled" if self.thinking else None,
        }
        return validated(ChatRequest, body | more)


class MessagesRequest(CountRequest):
    """Body of `/v1/messages`."""

    max_tokens: Annotated[int, Field(ge=1)]
    stop_sequences: Annotated[list[StopString], *few(16)] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: float | None = None
    top_k: int | None = None

    def chat(self, **more: Any) -> ChatRequest:
        """The same as a chat."""
        alike = self.model_dump(include={"max_tokens", "temperature", "top_p", "top_k", "stream"})
        return super().chat(stop=self.stop_sequences, **alike, **more)


def _text(blocks: Any) -> str:
    if blocks is None or isinstance(blocks, str):
        return blocks or ""
    parts = [block if isinstance(block, dict) else {} for block in blocks] if isinstance(blocks, list) else [{}]
    if wrong := next((part for part in parts if part.get("type") != "text"), None):
        raise ApiError(400, f"this model reads text only, and no {str(wrong.get('type'))[:40]!r}", param="messages")
    return "".join(str(part.get("text") or "") for part in parts)


def _turns(role: str, content: Any) -> list[dict[str, Any]]:
    """The chat's turns of one of ours: the results of tools are turns of their own there."""
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    results = [block for block in blocks if block.get("type") == "tool_result"]
    calls = [block for block in blocks if block.get("type") == "tool_use" and role == "assistant"]
    thoughts = [block for block in blocks if block.get("type") in ("thinking", "redacted_thinking")]
    apart = ("tool_result", "thinking", "redacted_thinking", *(["tool_use"] if calls else []))
    said = [block for block in blocks if block.get("type") not in apart]
    turns: list[dict[str, Any]] = [
        {"role": "tool", "tool_call_id": one.get("tool_use_id"), "content": _text(one.get("content"))}
        for one in results
    ]
    if said or not results:
        turn: dict[str, Any] = {"role": role, "content": _text(said)}
        if thought := "".join(str(one.get("thinking") or "") for one in thoughts):
            turn["reasoning_content"] = thought
        if calls:
            functions = [{"name": one.get("name"), "arguments": one.get("input") or {}} for one in calls]
            turn["tool_calls"] = [{"id": c.get("id"), "function": f} for c, f in zip(calls, functions, strict=True)]
        turns.append(turn)
    return turns
