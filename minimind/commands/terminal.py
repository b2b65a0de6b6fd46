"""A conversation in a terminal: answers as they come, and commands that begin with a slash."""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minimind import console, runtime, tools
from minimind.commands.arguments import choose_tools
from minimind.commands.conversation import PARAMETERS, Conversation, Result
from minimind.engine.request import PromptTooLong
from minimind.errors import UserError, did_you_mean

COMMANDS = {
    "help": "what can be typed here",
    "reset": "forget the conversation",
    "system": "TEXT: a system prompt; alone: none",
    "save": "FILE: write the conversation as JSON",
    "load": "FILE: go on from a saved conversation",
    "params": "NAME VALUE: change temperature, top_p, ...; alone: show them",
    "tools": "all | none | NAME,FILE.py: which tools the model may call; alone: show them",
    "think": "switch visible thinking on or off",
    "retry": "take the last answer back and ask again",
    "exit": "end (Ctrl-D too)",
}
HISTORY_LINES = 1000


class Terminal:
    """Reads questions and commands, prints answers. Where stdout is no terminal, it gets the bare answers alone."""

    def __init__(self, talk: Conversation, show_thinking: bool = True) -> None:
        self.talk, self.show_thinking = talk, show_thinking
        self.fancy = sys.stdout.isatty()
        self._out = console.results()

    def converse(self) -> None:
        """Talk until the user leaves. Ctrl-C stops an answer, or clears a line, but never ends the program."""
        console.say("/help lists the commands; Ctrl-C stops an answer; /exit or Ctrl-D ends.")
        with _line_history(runtime.cache_dir() / "chat_history"):
            while True:
                try:
                    line = input("\n> ").strip()
                except EOFError:
                    return
                except KeyboardInterrupt:
                    console.say("\n/exit or Ctrl-D ends")
                    continue
                try:
                    if line in ("/exit", "/quit"):
                        return
                    if line.startswith("/"):
                        self.command(line)
                    elif line:
                        self.answer(line)
                except PromptTooLong as error:
                    console.say(f"{error}; /reset starts a new conversation, and --context lets one be longer")
                except UserError as error:
                    console.say(f"{error}; /help lists the commands")

    # Answers

    def answer(self, question: str) -> None:
        """Print the answer as it comes; Ctrl-C stops it, and what was said stays said."""
        start, first, stopped = time.monotonic(), 0.0, False
        self._thinks = False
        try:
            for event in self.talk.ask(question):
                first = first or time.monotonic()
                self._show(event)
        except KeyboardInterrupt:
            stopped = True
        print(flush=True)
        if self.fancy:
            seconds = max(time.monotonic() - (first or start), 1e-9)
            tokens = self.talk.tokens()
            facts = f"{tokens} tokens, {tokens / seconds:.0f} tokens/s{', stopped' if stopped else ''}"
            self._out.print(facts, style="dim")

    def _show(self, event: dict[str, Any] | Result) -> None:
        if isinstance(event, Result):
            self._aside(f"{event.call['name']} → {event.text}\n")
        for field, piece in event.items() if isinstance(event, dict) else ():
            if field == "reasoning_content":
                self._thinks = True
                if self.show_thinking:
                    self._aside(piece)
            elif field == "content":
                if self._thinks and self.show_thinking:
                    self._aside("\n\n")
                self._thinks = False
                self._write(piece)
            else:
                calls = [f"{call['function']['name']}({call['function']['arguments']})" for call in piece]
                self._aside("\n" + "\n".join(calls) + "\n")

    def _write(self, text: str, style: str = "") -> None:
        """Print a piece of text; what a model says must not control the terminal (ESC begins its commands)."""
        self._out.print(text.replace("\x1b", "␛"), style=style, end="")

    def _aside(self, text: str) -> None:
        """Thoughts and tool calls: dim in a terminal, left out where only answers are wanted."""
        if self.fancy:
            self._write(text, "dim")

    # Commands

    def command(self, line: str) -> None:
        """Do what a line like `/params temperature 0.7` says."""
        name, _, rest = line[1:].partition(" ")
        if name not in COMMANDS:
            raise UserError(f"no command /{name}{did_you_mean(name, COMMANDS)}")
        getattr(self, f"_{name}")(rest.strip())

    def _help(self, rest: str) -> None:
        for name, what in COMMANDS.items():
            console.say(f"  /{name:<8} {what}")

    def _reset(self, rest: str) -> None:
        self.talk.turns.clear()
        console.say("a new conversation")

    def _system(self, rest: str) -> None:
        self.talk.system = rest
        self._reset(rest)

    def _save(self, rest: str) -> None:
        self.talk.save(_path(rest))
        console.say(f"saved to {_path(rest)}")

    def _load(self, rest: str) -> None:
        self.talk.load(_path(rest))
        for turn in self.talk.turns:
            if turn["role"] != "tool":
                self._write(("\n> " if turn["role"] == "user" else "") + turn["content"] + "\n")

    def _params(self, rest: str) -> None:
        name, _, value = rest.partition(" ")
        if rest:
            self.talk.set(name, value.strip())
        shown = (f"{name} {getattr(self.talk.sampling, name)}" for name in PARAMETERS)
        console.say(", ".join(shown))

    def _tools(self, rest: str) -> None:
        if rest:
            self.talk.tools = () if rest == "none" else choose_tools(rest)
        console.say(f"tools: {', '.join(self.talk.tools) or 'none'} (of {', '.join(tools.names())})")

    def _think(self, rest: str) -> None:
        self.talk.thinking = not self.talk.thinking
        console.say(f"thinking is {'on' if self.talk.thinking else 'off'}")

    def _retry(self, rest: str) -> None:
        question = self.talk.take_back()
        if question is None:
            raise UserError("nothing has been asked yet")
        self.answer(question)


def _path(rest: str) -> Path:
    if not rest:
        raise UserError("name a file, as in /save chat.json")
    try:
        return Path(rest).expanduser()
    except RuntimeError:
        raise UserError(f"{rest}: there is no home directory; write the whole path") from None


@contextlib.contextmanager
def _line_history(path: Path) -> Iterator[None]:
    """Arrow keys recall earlier questions, also those of earlier chats; not on Windows, which has no readline."""
    try:
        import readline
    except ImportError:
        yield
        return
    with contextlib.suppress(OSError):  # the first chat, or a file that is not ours to read
        readline.read_history_file(path)
    readline.set_history_length(HISTORY_LINES)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)
