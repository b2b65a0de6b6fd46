"""Token ids to text as they come: whole characters only, and nothing that may be part of a stop string."""

import codecs
from collections.abc import Sequence

from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.parse import Delta, MessageParser


class _Prefix:
    """How much of one stop string the end of a text is, told a character at a time (Knuth, Morris, Pratt 1977)."""

    def __init__(self, stop: str) -> None:
        self.stop, self.length = stop, 0
        self._shorter = [0] * len(stop)
        """By the length of a beginning, less one: the longest shorter beginning that it ends in."""
        for i in range(1, len(stop)):
            self._shorter[i] = self._next(self._shorter[i - 1], stop[i])

    def _next(self, length: int, character: str) -> int:
        while length and self.stop[length] != character:
            length = self._shorter[length - 1]
        return length + (self.stop[length] == character)

    def feed(self, text: str) -> int | None:
        """Take more text; return at which of its characters the stop string is complete."""
        if not self.length and self.stop[0] not in text:
            return None
        for i, character in enumerate(text):
            self.length = self._next(self.length, character)
            if self.length == len(self.stop):
                return i
        return None


class StopFinder:
    """Passes text on until a stop string comes; holds back an end that may be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._prefixes = [_Prefix(stop) for stop in stops]
        self._held = ""
        self.found: str | None = None
        """The stop string that came."""

    def feed(self, text: str) -> str:
        """Take more text; return what is certain not to be part of a stop string."""
        if self.found:
            return ""
        ends = [(i, prefix.stop) for prefix in self._prefixes if (i := prefix.feed(text)) is not None]
        text, before = self._held + text, len(self._held)
        if ends:
            at, self.found = min((before + i + 1 - len(stop), stop) for i, stop in ends)
            self._held = ""
            return text[:at]
        held = max((prefix.length for prefix in self._prefixes), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def completes(self, text: str) -> bool:
        """Whether a stop string would come with this text."""
        return any(prefix.stop in self._held + text for prefix in self._prefixes)

    def finish(self) -> str:
        """Return what was held back, when no more text will come."""
        held, self._held = self._held, ""
        return held


class Detokenizer:
    """Incremental decoding of one answer."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._finder = StopFinder(stops)
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    @property
    def found(self) -> str | None:
        """The stop string that came."""
        return self._finder.found

    def feed(self, id: int) -> str:
        """Take one id and return the text that became certain; special tokens have none."""
        if self._tokenizer.is_special(id):
            return self._finder.feed(self._utf8.decode(b"", final=True))
        return self._finder.feed(self._utf8.decode(self._tokenizer.token_bytes(id)))

    def finish(self) -> str:
        """Return what was held back; bytes that never became a character are U+FFFD."""
        return self._finder.feed(self._utf8.decode(b"", final=True)) + self._finder.finish()


class MessageReader:
    """A message token by token, up to a stop string.

    Stop strings apply to what the user sees, the content: a newline in the reasoning does not end an answer that
    should end at a newline. So they are looked for here, not by the engine.
    """

    def __init__(self, parser: MessageParser, stops: Sequence[str] = ()) -> None:
        self.parser = parser
        self._finder = StopFinder(stops)

    @property
    def found(self) -> str | None:
        """The stop string that came."""
        return self._finder.found

    def feed(self, id: int) -> list[Delta]:
        """Take one id and return what it adds to the message."""
        deltas = self._until_stop(self.parser.feed(id))
        if self.found is None and self._finder.completes(self.parser.held):
            deltas += self._until_stop(self.parser.finish())
        return deltas

    def finish(self) -> list[Delta]:
        """Return what was held back, when no more tokens will come."""
        deltas = self._until_stop(self.parser.finish())
        text = self._finder.finish()
        return [*deltas, {"content": text}] if text else deltas

    def _until_stop(self, deltas: Sequence[Delta]) -> list[Delta]:
        seen: list[Delta] = []
        for delta in deltas:
            if self.found is not None:
                break
            spoken = "content" in delta
            text = self._finder.feed(delta["content"]) if spoken else self._finder.finish()
            seen += [{"content": text}] if text else []
            seen += [] if spoken else [delta]
        return seen
