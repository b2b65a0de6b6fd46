"""From generated ids back to a message, token by token: what `chat.render` wrote, read again.

The parser goes by control ids, so a `<think>` that the model spelled out in letters stays text. Newlines that belong to
the layout are held back until it is clear whose they are, and bytes until they are whole characters.
"""

import codecs
from collections.abc import Collection, Iterable
from typing import Any

from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import parse_call

Delta = dict[str, Any]  # one of {"content": str}, {"reasoning_content": str}, {"tool_calls": [call]}
_MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
# What comes after a marker in a state, and how many newlines of the layout stand first there.
_NEXT = {
    ("</think>", "reasoning_content"): ("content", 2),
    ("<think>", "content"): ("reasoning_content", 1),
    ("<tool_call>", "content"): ("tool_call", 0),
}


def parse(ids: Iterable[int], tokenizer: Tokenizer, open_thinking: bool | None = None) -> dict[str, Any]:
    """The message in `ids`: what was generated after a generation prompt, or whole turns, of which the last counts.

    Returns `{"role", "content"}` and, where there is any, `reasoning_content` and `tool_calls` (as `chat.normalize`
    writes them). `open_thinking` says whether the generation prompt left `<think>` open; by default it did if a
    `</think>` comes first.
    """
    ids = list(ids)
    if open_thinking is None:
        opening, closing = map(tokenizer.control_id, ("<think>", "</think>"))
        open_thinking = next((id == closing for id in ids if id in (opening, closing)), False)
    parser = MessageParser(tokenizer, open_thinking)
    for id in ids:
        parser.feed(id)
    parser.finish()
    return parser.message


class MessageParser:
    """Reads the ids of one message as they come; `message` is what has been read so far, `done` after its end."""

    def __init__(
        self, tokenizer: Tokenizer, open_thinking: bool = False, callable: Collection[str] | None = None
    ) -> None:
        """`open_thinking`: the generation prompt ended inside `<think>`. A call of none of `callable` is text."""
        self._callable = callable
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
        self._parts: list[str] = []  # read but not yet given out: joined only then, for there may be many
        self._tail = ""  # the end of it, where that may be the beginning of a spelled marker
        self._skip = 0  # newlines of the layout that may still come
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    @property
    def field(self) -> str:
        """The field of the message that is being read: content, reasoning_content or tool_calls (or the header)."""
        return "tool_calls" if self._state == "tool_call" else self._state

    @property
    def held(self) -> str:
        """Content that was read and is held back: newlines that may turn out to be the layout's."""
        text = "".join(self._parts) + self._tail
        skipped = min(self._skip, len(text) - len(text.lstrip("\n")))
        return text[skipped:] if self._state == "content" and "tool_calls" not in self.message else ""

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
            return self._flush() + self._mark(self._markers[id])
        if self._tokenizer.is_special(id):
            return []
        return self._read(self._utf8.decode(self._tokenizer.token_bytes(id)))

    def finish(self) -> list[Delta]:
        """Return what was held back; call it when generation stops without `<|im_end|>`."""
        deltas, text = self._flush(), self._taken()
        if self._state == "header":
            text = ""
        elif self._state == "tool_call":  # cut off: not a call, but nothing that was said is lost
            self._state, text = "content", "<tool_call>" + text
        elif self._state == "content" and "tool_calls" in self.message and not text.strip("\n"):
            text = ""
        return deltas + self._give(text)

    def _flush(self) -> list[Delta]:
        """What was waited for will not come: the end of a character, or of a spelled marker."""
        text, self._tail = self._tail + self._utf8.decode(b"", final=True), ""
        return self._take(text)

    def _taken(self) -> str:
        text, self._parts = "".join(self._parts), []
        return text

    def _read(self, text: str) -> list[Delta]:
        """Take more text, in which a tokenizer without the markers spells them in letters."""
        deltas, text = [], self._tail + text
        while found := min(((text.find(m), m) for m in self._spelled if m in text), default=None):
            at, marker = found
            deltas += self._take(text[:at]) + self._mark(marker)
            text = text[at + len(marker) :]
        partial = max((n for m in self._spelled for n in range(1, len(m)) if text.endswith(m[:n])), default=0)
        self._tail = text[len(text) - partial :]
        return deltas + self._take(text[: len(text) - partial])

    def _take(self, text: str) -> list[Delta]:
        """Take text without markers; give out what can no longer change: newlines at its end may be the layout's."""
        if self._state == "header" and "\n" in text:
            role, _, text = text.partition("\n")
            self.message["role"], self._state = self._taken() + role, "content"
        kept = text.rstrip("\n") if self._state in ("content", "reasoning_content") else ""
        deltas = self._give(self._taken() + kept) if kept else []
        self._parts.append(text[len(kept) :])
        return deltas

    def _mark(self, marker: str) -> list[Delta]:
        """A marker came: give out what stood before it and change what is being read."""
        if self._state == "tool_call":
            if marker == "</tool_call>":
                return self._call()
            self._parts.append(marker)
            return []
        text = self._taken()
        if (marker, self._state) not in _NEXT:
            return self._give(text + marker)  # out of place: it is what the model said
        deltas = self._give(text if marker == "<think>" else text.removesuffix("\n"))
        self._state, self._skip = _NEXT[marker, self._state]
        return deltas

    def _call(self) -> list[Delta]:
        written = self._taken()
        call = parse_call(written)
        self._state, self._skip = "content", 0
        if call is None or (self._callable is not None and call["function"]["name"] not in self._callable):
            return self._give(f"<tool_call>{written}</tool_call>")
        self.message.setdefault("tool_calls", []).append(call)
        return [{"tool_calls": [call]}]

    def _give(self, text: str) -> list[Delta]:
        """Move text into the message, without the layout's newlines before it."""
        while self._skip and text.startswith("\n"):
            text, self._skip = text[1:], self._skip - 1
        if not text:
            return []
        self._skip = 0
        field = "reasoning_content" if self._state == "reasoning_content" else "content"
        self.message[field] = self.message.get(field, "") + text
        return [{field: text}]
