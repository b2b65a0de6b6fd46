"""Conversations: both ways of writing them become one form, are checked, varied a little and cut to fit a row.

MiniMind writes `{"conversations": [...]}` with `tools` and `tool_calls` as JSON strings, OpenAI
`{"messages": [...], "tools": [...]}` with lists. What chance decides about a conversation (a system prompt, an empty
think block) is decided by a hash of its content, so that it is the same in every build.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, TypeVar

from minimind.errors import UserError
from minimind.text import read_json
from minimind.tokenizer import chat
from minimind.tokenizer.bpe import Tokenizer

SYSTEM_PROMPTS = {
    "en": (
        "You are a helpful assistant.",
        "You are MiniMind, a small but useful language model.",
        "You are a friendly and reliable AI assistant.",
        "Answer the user's questions clearly and accurately.",
        "You are MiniMind, a careful assistant. Say so when you do not know.",
        "You are a knowledgeable assistant who explains things simply.",
    ),
    "zh": (
        "你是一个乐于助人的助手。",
        "你是MiniMind，一个小巧但有用的语言模型。",
        "你是一个友好可靠的AI助手。",
        "请清楚、准确地回答用户的问题。",
        "你是MiniMind，一个严谨的助手，不知道时请如实说明。",
        "你是一个知识丰富的助手，善于用简单的话解释问题。",
    ),
}
_HAN = re.compile("[\u4e00-\u9fff]")
Ids = TypeVar("Ids", bound=Sized)
Marks = TypeVar("Marks")


@dataclass(frozen=True)
class Conversation:
    """Turns in the form that `tokenizer.chat.render` takes, and the function schemas offered to the assistant."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]


def read_conversation(row: Mapping[str, Any]) -> Conversation:
    """Read `{"conversations": [...]}` or `{"messages": [...], "tools"?: [...]}`.

    Raises:
        UserError: what is wrong with it: a field, a role, their order, no assistant turn.
    """
    name = next((key for key in ("conversations", "messages") if key in row), None)
    if name is None:
        raise UserError(f"no field 'conversations' or 'messages' (it has {', '.join(map(repr, list(row)[:5]))})")
    return read_turns(row[name], name, row.get("tools"))


def read_turns(turns: Any, name: str, offered: Any = None) -> Conversation:
    """Read the list of turns in field `name`, and the tools offered: a list, its JSON, or on one of the turns.

    Raises:
        UserError: what is wrong with it: a turn, a role, their order, no assistant turn.
    """
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise UserError(f"{name!r} must be a list of objects with role and content")
    if not turns:
        raise UserError(f"{name!r} is empty")
    tools = _tools(offered)
    messages = []
    for index, turn in enumerate(turns):
        if turn.get("tools") and not tools:
            tools = _tools(turn["tools"])
        try:
            messages.append(chat.normalize(turn))
        except UserError as error:
            raise UserError(f"turn {index + 1}: {error}") from None
    _check_order(messages)
    return Conversation(messages, tools)


def _tools(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, str) and value.strip():
        try:
            value = read_json(value)
        except ValueError as error:
            raise UserError(f"'tools' is not valid JSON ({error})") from None
    if not value:
        return []
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise UserError("'tools' must be a list of function schemas")
    return [chat.normalize_tool(tool) for tool in value]


def _check_order(messages: list[dict[str, Any]]) -> None:
    """Refuse what no chat produces: a late system prompt, a beginning without the user, a tool after the user."""
    roles = [message["role"] for message in messages]
    if "system" in roles[1:]:
        raise UserError(f"turn {roles.index('system', 1) + 1}: a system turn can only be the first")
    spoken = roles[1:] if roles[0] == "system" else roles
    if spoken and spoken[0] != "user":
        raise UserError(f"the first turn after the system's is the {spoken[0]}'s, not the user's")
    if "assistant" not in roles:
        raise UserError("it has no assistant turn to learn from")
    for index in range(1, len(roles)):
        if roles[index] == "tool" and roles[index - 1] not in ("assistant", "tool"):
            raise UserError(f"turn {index + 1}: a tool turn follows a {roles[index - 1]} turn, not an assistant's call")


def check_answers(conversation: Conversation) -> None:
    """Refuse a conversation whose assistant never says anything: nothing could be learned from it.

    Raises:
        UserError: every assistant turn is empty.
    """
    said = ("content", "reasoning_content", "tool_calls")
    if not any(turn.get(key) for turn in conversation.messages if turn["role"] == "assistant" for key in said):
        raise UserError("every assistant turn is empty")


def chance(key: int, what: str) -> float:
    """A number in [0, 1) that depends on a document's content hash and on what it decides, and on nothing else."""
    digest = blake2b(f"{what} {key}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "little") / 2**56


def with_system_prompt(conversation: Conversation, key: int, fraction: float) -> Conversation:
    """Give `fraction` of the conversations without system prompt and tools a general one, in their language."""
    first = conversation.messages[0]
    if first["role"] == "system" or conversation.tools or chance(key, "system prompt") >= fraction:
        return conversation
    prompts = SYSTEM_PROMPTS["zh" if _HAN.search(first["content"]) else "en"]
    prompt = prompts[int(chance(key, "which prompt") * len(prompts))]
    return replace(conversation, messages=[{"role": "system", "content": prompt}, *conversation.messages])


def encode(
    conversation: Conversation,
    tokenizer: Tokenizer,
    max_length: int | None = None,
    drop_oldest: bool = True,
    keep_empty_think: bool = True,
) -> tuple[list[int], list[bool], int] | None:
    """Ids, mask of the supervised ones, and how many of the oldest turns were dropped to fit `max_length`.

    Turns go in whole exchanges (a user turn and everything up to the next one); the system turn stays. None where
    nothing fits, where `drop_oldest` is False and it is too long, or where nothing supervised would be left.
    """
    messages = conversation.messages
    has_system = messages[0]["role"] == "system"
    head = messages[:1] if has_system else []
    starts = [index for index, turn in enumerate(messages) if turn["role"] == "user"]

    def rendered(start: int) -> tuple[list[int], list[bool]]:
        kept = head + messages[start:]
        return chat.render(kept, tokenizer, conversation.tools, keep_empty_think=keep_empty_think)

    fitting = fit(rendered, starts, max_length, drop_oldest)
    return fitting if fitting and any(fitting[1][1:]) else None


def fit(
    rendered: Callable[[int], tuple[Ids, Marks]], starts: Sequence[int], max_length: int | None, drop_oldest: bool
) -> tuple[Ids, Marks, int] | None:
    """Render from the first of the turns `starts` on; from a later one, where only that fits `max_length`.

    Returns:
        Ids, marks, and how many turns were dropped; None where none fits, or without `drop_oldest` not the first.
    """
    ids, marks = rendered(starts[0])
    if max_length is None or len(ids) <= max_length:
        return ids, marks, 0
    if not drop_oldest:
        return None
    # The fewer exchanges, the shorter: so the first that fits is found by bisection.
    later = starts[bisect_left(starts, True, key=lambda start: len(rendered(start)[0]) <= max_length) :]
    return (*rendered(later[0]), later[0] - starts[0]) if later else None
