"""From generated ids back to a message, token by token: what `chat.render` wrote, read again.

The parser goes by control ids, so a `<think>` that the model spelled out in letters stays text. Newlines that belong to
the layout are held back until it is clear whose they are, and bytes until they are whole characters.
"""

import codecs
from collections.abc import Iterable
from typing import Any

from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import parse_call

Delta = dict[str, Any]  # one of {"content": str}, {"reasoning_content": str}, {"tool_calls": [call]}
_MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>")


def parse(ids: Iterable[int], tokenizer: Tokenizer, open_thinking: bool | None = None) -> dict[str, Any]:
    """The message in `ids`: what was generated after a generation prompt, or whole turns, of which the last counts.

    Returns `{"role", "content"}` and, where there is any, `reasoning_content` and `tool_calls` (as `chat.normalize`
    writes them). `open_thinking` says whether the generation prompt left `<think>` open; by default it did if a
    `</think>` comes first.
    """
    ids = list(ids)
    if open_thinking is None:
        first = next((i for i in ids if i in _control_ids(tokenizer, "<think>", "</think>")), None)
        open_thinking = first is not None and first == tokenizer.control_id("</think>")
    parser = MessageParser(tokenizer, open_thinking)
    for id in ids:
        parser.feed(id)
    parser.finish()
    return parser.message


class MessageParser:
    """Reads the ids of one message as they come; `message` is what has been read so far, `done` after its end."""

    def __init__(self, tokenizer: Tokenizer, open_thinking: bool = False) -> None:
        """`open_thinking`: the generation prompt ended inside `<think>`."""
        self._tokenizer = tokenizer
        self._markers = {tokenizer.control_id(marker): marker for marker in _MARKERS}
        self._spelled = [marker for marker in _MARKERS if tokenizer.control_id(marker) is None]
        self._start = tokenizer.control_id("<|im_start|>")
        self._ends = {tokenizer.control_id("<|im_end|>"), tokenizer.eos_id, tokenizer.pad_id}
        self._begin("reasoning_content" if open_thinking else "content")

    def _begin(self, state: str) -> None:
        self.message: dict[str, Any] = {"role": "assistant", "content": ""}
        self.done = False
        self._state = state  # header | content | reasoning_content | tool_call
        self._text = ""  # read but not yet given out
        self._skip = 0  # newlines of the layout that may still come
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    @property
    def field(self) -> str:
        """The field of the message that is being read: content, reasoning_content or tool_calls (or the header)."""
        return "tool_calls" if self._state == "tool_call" else self._state

    @property
    def held(self) -> str:
        """Content that was read and is held back: newlines that may turn out to be the layout's."""
        skipped = min(self._skip, len(self._text) - len(self._text.lstrip("\n")))
        return self._text[skipped:] if self._state == "content" and "tool_calls" not in self.message else ""

    def feed(self, id: int) -> list[Delta]:
        """Take one id and return what it adds to the message; concatenated, the deltas are the message."""
        if id == self._start:
            self._begin("header")
        if self.done or id == self._start:
            return []
        if id in self._ends:
            deltas = self.finish()
            self.done = True
            return deltas
        if id in self._markers:
            self._text += self._utf8.decode(b"", final=True)
            return self._mark(self._markers[id])
        if self._tokenizer.is_special(id):
            return []
        self._text += self._utf8.decode(self._tokenizer.token_bytes(id))
        return self._read()

    def finish(self) -> list[Delta]:
        """Return what was held back; call it when generation stops without `<|im_end|>`."""
        self._text += self._utf8.decode(b"", final=True)
        if self._state == "header":
            self._text = ""
        elif self._state == "tool_call":  # cut off: not a call, but nothing that was said is lost
            self._state, self._text = "content", "<tool_call>" + self._text
        elif self._state == "content" and "tool_calls" in self.message and not self._text.strip("\n"):
            self._text = ""
        return self._give(len(self._text))

    def _read(self) -> list[Delta]:
        """Give out what can no longer change, after markers that this tokenizer spells in letters."""
        deltas = []
        while found := min(((self._text.find(m), m) for m in self._spelled if m in self._text), default=None):
            at, marker = found
            rest, self._text = self._text[at + len(marker) :], self._text[:at]
            deltas += self._mark(marker)
            self._text = rest
        if self._state == "header" and "\n" in self._text:
            role, _, self._text = self._text.partition("\n")
            self.message["role"], self._state = role, "content"
        if self._state in ("content", "reasoning_content"):
            deltas += self._give(len(self._text) - self._held())
        return deltas

    def _held(self) -> int:
        """Characters at the end that may turn out to be layout: newlines, or the beginning of a spelled marker."""
        partial = max((n for m in self._spelled for n in range(1, len(m)) if self._text.endswith(m[:n])), default=0)
        before = self._text[: len(self._text) - partial]
        return partial + len(before) - len(before.rstrip("\n"))

    def _mark(self, marker: str) -> list[Delta]:
        """A marker came: give out what stood before it and change what is being read."""
        if marker == "</tool_call>" and self._state == "tool_call":
            return self._call()
        if marker == "</think>" and self._state == "reasoning_content":
            deltas = self._give(len(self._text.removesuffix("\n")))
            self._change("content", skip=2)
            return deltas
        if marker == "<think>" and self._state == "content":
            deltas = self._give(len(self._text))
            self._change("reasoning_content", skip=1)
            return deltas
        if marker == "<tool_call>" and self._state == "content":
            deltas = self._give(len(self._text.removesuffix("\n")))
            self._change("tool_call")
            return deltas
        self._text += marker  # out of place: it is what the model said
        return self._give(len(self._text)) if self._state != "tool_call" else []

    def _change(self, state: str, skip: int = 0) -> None:
        self._state, self._text, self._skip = state, "", skip

    def _call(self) -> list[Delta]:
        written, call = self._text, parse_call(self._text)
        self._change("content")
        if call is None:
            self._text = f"<tool_call>{written}</tool_call>"
            return self._give(len(self._text))
        self.message.setdefault("tool_calls", []).append(call)
        return [{"tool_calls": [call]}]

    def _give(self, length: int) -> list[Delta]:
        """Move `length` characters from what was read into the message."""
        while self._skip and self._text.startswith("\n"):
            self._text, self._skip, length = self._text[1:], self._skip - 1, length - 1
        given, self._text = self._text[: max(length, 0)], self._text[max(length, 0) :]
        if not given:
            return []
        self._skip = 0
        field = "reasoning_content" if self._state == "reasoning_content" else "content"
        self.message[field] = self.message.get(field, "") + given
        return [{field: given}]


def _control_ids(tokenizer: Tokenizer, *markers: str) -> set[int | None]:
    return {tokenizer.control_id(marker) for marker in markers}
