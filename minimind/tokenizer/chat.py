"""A conversation as token ids and a mask of what is learned from, built segment by segment.

Qwen3's layout, with MiniMind's rule that every assistant turn keeps its think block, so that a conversation only ever
grows at its end:

    <|im_start|>system\\n...<|im_end|>\\n<|im_start|>user\\n...<|im_end|>\\n
    <|im_start|>assistant\\n<think>\\n...\\n</think>\\n\\n...<|im_end|>\\n

Text that follows a newline of the layout starts a run of its own (so that a prompt is a prefix, whatever comes next);
newlines of the layout that follow each other, or the end of a text, are encoded together with it.

Control ids come from the layout alone; what people and tools say is encoded as plain text and can not forge one. The
*generation prompt* is what the model is given before it speaks: `<|im_start|>assistant\\n<think>\\n` before a turn that
reasons (open), and the same with the empty block closed, `...<think>\\n\\n</think>\\n\\n`, before one that does not.
Supervision starts right after it and includes `<|im_end|>`, but not the newline that the layout puts behind it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from minimind.errors import UserError
from minimind.text import read_json
from minimind.tokenizer.bpe import Tokenizer

Message = Mapping[str, Any]
ROLES = ("system", "user", "assistant", "tool")

_MARKERS = re.compile(r"(<\|im_start\|>|<\|im_end\|>|</?think>|</?tool_call>|</?tool_response>)")
_TOOLS_HEAD = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
)
_TOOLS_TAIL = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within ",
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n',
)


def render(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    tools: Sequence[Mapping[str, Any]] | None = None,
    open_thinking: bool = False,
    add_generation_prompt: bool = False,
    keep_empty_think: bool = True,
) -> tuple[list[int], list[bool]]:
    """Turn a conversation into ids `[n]` and a mask `[n]`, True where a model learns to produce the id.

    `tools` are function schemas, listed in the system turn as they are (see `normalize_tool`). `open_thinking` chooses
    the generation prompt that `add_generation_prompt` appends. `keep_empty_think=False` leaves the empty blocks of
    turns without reasoning out (an augmentation of training data, so that a model also answers where other software
    gives it no block).

    Raises:
        UserError: a message has no valid role, content or tool call, or the tokenizer no chat tokens.
    """
    page = _Page(tokenizer)
    turns = [normalize(message) for message in messages]
    tool_lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools or [])
    if tool_lines:
        system = turns.pop(0)["content"] if turns and turns[0]["role"] == "system" else None
        page.layout("<|im_start|>system\n" + ("\n\n" if system == "" else ""))
        page.text((system + "\n\n" if system else "") + _TOOLS_HEAD + tool_lines + _TOOLS_TAIL[0])
        page.layout(_TOOLS_TAIL[1])
    for i, turn in enumerate(turns):
        if turn["role"] == "assistant":
            _assistant(page, turn, keep_empty_think)
        elif turn["role"] == "tool":
            first = i == 0 or turns[i - 1]["role"] != "tool"
            last = i + 1 == len(turns) or turns[i + 1]["role"] != "tool"
            opening = "<|im_start|>user\n<tool_response>\n" if first else "\n<tool_response>\n"
            page.layout(opening + ("" if turn["content"] else "\n"))
            page.text(turn["content"] + "\n" if turn["content"] else "")
            page.layout("</tool_response><|im_end|>\n" if last else "</tool_response>")
        else:
            page.layout(f"<|im_start|>{turn['role']}\n")
            page.text(turn["content"])
            page.layout("<|im_end|>\n")
    if add_generation_prompt:
        page.layout("<|im_start|>assistant\n<think>\n" + ("" if open_thinking else "\n</think>\n\n"))
    return page.ids, page.mask


def _assistant(page: "_Page", turn: dict[str, Any], keep_empty_think: bool) -> None:
    """One assistant turn: the generation prompt that fits it, then what is learned."""
    reasoning, content = turn.get("reasoning_content", ""), turn["content"]
    if reasoning:
        page.layout("<|im_start|>assistant\n<think>\n")
        page.supervised = True
        page.text(reasoning + "\n")
        page.layout("</think>\n\n")
    else:
        page.layout("<|im_start|>assistant\n" + ("<think>\n\n</think>\n\n" if keep_empty_think else ""))
        page.supervised = True
    calls = turn.get("tool_calls", [])
    page.text(content + "\n" if content and calls else content)
    for i, call in enumerate(calls):
        page.layout("\n<tool_call>\n" if i else "<tool_call>\n")
        page.text(_call_json(call["function"]) + "\n")
        page.layout("</tool_call>")
    page.layout("<|im_end|>")
    page.supervised = False
    page.layout("\n")


class _Page:
    """Ids and mask as they are written: `layout` may hold control tokens, `text` never becomes one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.mask: list[bool] = []
        self.supervised = False
        for marker in ("<|im_start|>", "<|im_end|>"):
            if tokenizer.control_id(marker) is None:
                raise UserError(
                    f"the tokenizer has no {marker} token; a conversation needs a tokenizer with ChatML tokens"
                )

    def text(self, text: str) -> None:
        self._add(self.tokenizer.encode(text))

    def layout(self, text: str) -> None:
        for part in _MARKERS.split(text):
            control = self.tokenizer.control_id(part)
            self._add([control] if control is not None else self.tokenizer.encode(part))

    def _add(self, ids: list[int]) -> None:
        self.ids += ids
        self.mask += [self.supervised] * len(ids)


def normalize(message: Message) -> dict[str, Any]:
    """The message in one form: `role`, `content` (a string), and only where there is any, `reasoning_content` and
    `tool_calls` (a list of `{"type": "function", "function": {"name", "arguments"}}`).

    Accepts content as a string, as a list of text parts or None; tool calls as OpenAI writes them, as bare
    `{"name", "arguments"}`, or either as a JSON string; `reasoning`, the newer name of `reasoning_content`, and the
    role `developer`, that of `system`. `<think>` and `<tool_call>` blocks that an assistant's content spells out are
    moved into their fields.

    Raises:
        UserError: what is wrong with the message.
    """
    role = "system" if message.get("role") == "developer" else message.get("role")
    if role not in ROLES:
        raise UserError(f"message role {role!r} is none of {', '.join(ROLES)}")
    turn: dict[str, Any] = {"role": role, "content": plain_text(message.get("content"))}
    if role != "assistant":
        return turn
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    if not isinstance(reasoning, str):
        raise UserError("an assistant message's reasoning_content must be a string")
    calls = [_normalize_call(call) for call in _as_list(message.get("tool_calls"))]
    if not reasoning:
        reasoning, turn["content"] = _thought_in(turn["content"])
    if not calls and "<tool_call>" in turn["content"]:
        turn["content"], calls = _calls_in(turn["content"])
    return turn | ({"reasoning_content": reasoning} if reasoning else {}) | ({"tool_calls": calls} if calls else {})


def normalize_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A function schema in one form, `{"type": "function", "function": {"name", ...}}`; null fields are left out.

    Bare `{"name", "parameters"}` is put into it; what is neither stays as it is.
    """
    function = tool.get("function") if isinstance(tool.get("function"), Mapping) else None
    if function is None and not isinstance(tool.get("name"), str):
        return dict(tool)
    said = {key: value for key, value in (function or tool).items() if value is not None}
    if function is None:
        said.pop("type", None)
    return {"type": "function", **tool, "function": said} if function else {"type": "function", "function": said}


def parse_call(text: str) -> dict[str, Any] | None:
    """A tool call as a model writes it, `{"name": ..., "arguments": {...}}`, or None where it is not one."""
    try:
        call = read_json(text)
        return _normalize_call(call) if isinstance(call, dict) and isinstance(call.get("arguments"), dict) else None
    except (ValueError, UserError):  # ValueError: broken JSON, or a number of over 4,300 digits
        return None


def _thought_in(content: str) -> tuple[str, str]:
    """The think block that a text begins with (empty where there is none), and the text behind it."""
    opening, _, behind = content.partition("<think>")
    thought, closing, text = behind.partition("</think>")
    if opening.strip() or not closing:
        return "", content
    return thought.removeprefix("\n").removesuffix("\n"), text.removeprefix("\n").removeprefix("\n")


def _calls_in(content: str) -> tuple[str, list[dict[str, Any]]]:
    """Cut the well-formed tool-call blocks out of a text; a block that is no call stays in the text."""
    kept, calls, done = [], [], 0
    while (start := content.find("<tool_call>", done)) >= 0 and (end := content.find("</tool_call>", start)) >= 0:
        call = parse_call(content[start + len("<tool_call>") : end].strip())
        before, done = done, end + len("</tool_call>")
        if call is None:
            kept.append(content[before:done])
        else:
            kept.append(content[before:start].removesuffix("\n"))
            calls.append(call)
    return "".join(kept) + content[done:], calls


def plain_text(content: Any) -> str:
    """The text of a message's content: a string, a list of text parts, or None.

    Raises:
        UserError: it is something else.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list | tuple):
        texts = [part["text"] for part in content if isinstance(part, Mapping) and isinstance(part.get("text"), str)]
        if len(texts) == len(content):
            return "".join(texts)
    raise UserError("a message's content must be a string or a list of text parts")


def _as_list(calls: Any) -> list[Any]:
    if isinstance(calls, str) and calls.strip():
        calls = _read_json(calls, "tool_calls")
    calls = [calls] if isinstance(calls, Mapping) else calls or []
    if not isinstance(calls, list | tuple):
        raise UserError("an assistant message's tool_calls must be a list")
    return list(calls)


def _read_json(text: str, what: str) -> Any:
    try:
        return read_json(text)
    except ValueError as error:
        raise UserError(f"{what} is not valid JSON ({error}); write it as an object or as JSON text") from error


def _normalize_call(call: Any) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UserError("a tool call must be an object with a name and arguments, or hold one under 'function'")
    arguments = function.get("arguments") or {}
    what = f"the arguments of tool call {function['name']!r}"
    if not isinstance(_read_json(arguments, what) if isinstance(arguments, str) else arguments, Mapping):
        raise UserError(f"{what} must be a JSON object")
    return {"type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _call_json(function: Mapping[str, Any]) -> str:
    """`{"name": ..., "arguments": ...}`; arguments that come as a string stand as they are: they were sampled so."""
    arguments = function["arguments"]
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f'{{"name": {json.dumps(function["name"], ensure_ascii=False)}, "arguments": {written}}}'
