"""`minimind chat MODEL`: talk to a model in the terminal."""

import sys
import time
from typing import Annotated, Any

import tyro

from minimind import console
from minimind.commands.arguments import at_least, call
from minimind.errors import UserError

HELP = (
    "/reset forgets the conversation, /think switches visible thinking, /exit or Ctrl-D ends, Ctrl-C stops an answer."
)


def main(argv: list[str]) -> int:
    """Start a chat."""
    return call(chat, argv, "minimind chat")


def chat(
    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]],
    prompt: str = "",
    system: str = "",
    thinking: bool = False,
    temperature: float = 0.0,
    top_p: float = 1.0,
    max_new_tokens: int = 512,
    device: str = "auto",
) -> int:
    """Talk to a model: answers stream as they are made, the conversation is remembered.

    Examples:
        minimind chat runs/demo/sft/model
        minimind chat runs/demo/sft/model --prompt "Who are you?"

    Args:
        model: model directory.
        prompt: ask this one question, print the answer and end.
        system: system prompt.
        thinking: let the model think before it answers.
        temperature: 0 always takes the likeliest word; higher is more varied.
        top_p: draw only among the likeliest words that together have this probability.
        max_new_tokens: longest answer.
        device: auto, cpu, cuda or mps.
    """
    from minimind.api import load
    from minimind.engine.sampling import Sampling

    at_least(1, max_new_tokens=max_new_tokens)
    lm = load(model, device)
    talk = Conversation(lm, system, thinking, max_new_tokens, Sampling(temperature=temperature, top_p=top_p))
    if prompt:
        talk.answer(prompt)
    elif sys.stdin.isatty():
        console.say(f"[bold]{model}[/bold], {lm.model.config.parameters() / 1e6:.1f} M parameters. {HELP}")
        talk.converse()
    else:
        for line in sys.stdin:  # a question a line, as in `echo hi | minimind chat MODEL`
            if line.strip():
                talk.answer(line.strip())
    return 0


class Conversation:
    """The turns so far, and how the next answer is made."""

    def __init__(self, lm: Any, system: str, thinking: bool, max_new_tokens: int, sampling: Any) -> None:
        self.lm, self.system, self.thinking = lm, system, thinking
        self.max_new_tokens, self.sampling = max_new_tokens, sampling
        self.reset()

    def reset(self) -> None:
        """Forget everything but the system prompt."""
        self.messages: list[dict[str, Any]] = [{"role": "system", "content": self.system}] if self.system else []

    def converse(self) -> None:
        """Read questions from the terminal until the user leaves."""
        while True:
            try:
                text = input("\n> ").strip()
            except (EOFError, KeyboardInterrupt):
                return
            if text in ("/exit", "/quit"):
                return
            if text == "/reset":
                self.reset()
            elif text == "/think":
                self.thinking = not self.thinking
                console.say(f"thinking is {'on' if self.thinking else 'off'}")
            elif text.startswith("/"):
                console.say(HELP)
            elif text:
                try:
                    self.answer(text)
                except UserError as error:
                    console.say(f"{error}; /reset starts a new conversation")

    def answer(self, question: str) -> None:
        """Print the answer as it comes and remember it, also where Ctrl-C stopped it."""
        asked = [*self.messages, {"role": "user", "content": question}]
        reply: dict[str, Any] = {"role": "assistant", "content": ""}
        pieces, start = 0, time.monotonic()
        try:
            for delta in self.lm.stream(asked, None, self.thinking, self.max_new_tokens, self.sampling):
                pieces += 1
                for field, piece in delta.items():
                    self._print(field, piece)
                    reply[field] = reply.get(field, type(piece)()) + piece
        except KeyboardInterrupt:
            pass
        print(flush=True)
        self.messages = [*asked, reply]
        if sys.stdout.isatty():
            console.say(f"[dim]{pieces / max(time.monotonic() - start, 1e-9):.0f} pieces/s[/dim]")

    def _print(self, field: str, piece: Any) -> None:
        if field == "reasoning_content" and sys.stdout.isatty():
            piece = f"\033[2m{piece}\033[0m"
        print(piece if isinstance(piece, str) else f"\n{piece}", end="", flush=True)
