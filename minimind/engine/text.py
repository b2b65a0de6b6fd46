"""Token ids to text as they come: whole characters only, and nothing that may be part of a stop string."""

import codecs
from collections.abc import Sequence

from minimind.tokenizer.bpe import Tokenizer


class StopFinder:
    """Passes text on until a stop string comes; holds back an end that may be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = list(stops)
        self._held = ""
        self.found: str | None = None
        """The stop string that came."""

    def feed(self, text: str) -> str:
        """Take more text; return what is certain not to be part of a stop string."""
        if self.found:
            return ""
        text = self._held + text
        found = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            at, self.found = min(found)
            self._held = ""
            return text[:at]
        held = max((n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def completes(self, text: str) -> bool:
        """Whether a stop string would come with this text."""
        return any(stop in self._held + text for stop in self._stops)

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
