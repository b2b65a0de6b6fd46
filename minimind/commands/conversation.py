"""A conversation with a model: its turns so far, how it is asked, and the tools that run in between."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from minimind import files, tools
from minimind.api import LanguageModel
from minimind.engine.sampling import Sampling
from minimind.errors import UsageError, UserError, did_you_mean
from minimind.recipe import parse_value
from minimind.tokenizer.chat import normalize, render

MAX_ROUNDS = 6
"""Answers that call tools before the model has to stop: small models like to repeat themselves."""
PARAMETERS = (
    *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty"),
    *("seed", "max_new_tokens"),
)


class Result(NamedTuple):
    """What a tool answered to a call, `{"name", "arguments"}`."""

    call: dict[str, Any]
    text: str


class Conversation:
    """The turns so far; `ask` adds to them."""

    def __init__(
        self, lm: LanguageModel, system: str, tool_names: Sequence[str], thinking: bool, sampling: Sampling
    ) -> None:
        self.lm, self.system, self.tools, self.thinking, self.sampling = lm, system, tool_names, thinking, sampling
        self.turns: list[dict[str, Any]] = []
        """Without the system prompt."""

    def ask(self, question: str) -> Iterator[dict[str, Any] | Result]:
        """Yield the answer's deltas, and the results of the tools that it calls.

        Whatever stops it, what has been said until then is remembered.

        Raises:
            UserError: the conversation is too long for the model; the question is forgotten.
        """
        before = len(self.turns)
        self.turns.append({"role": "user", "content": question})
        for _ in range(MAX_ROUNDS):
            reply: dict[str, Any] = {"role": "assistant", "content": ""}
            try:
                yield from self._reply(reply)
            except UserError:
                del self.turns[before:]
                raise
            calls = [call["function"] for call in reply.get("tool_calls", [])]
            for function in calls:
                result = Result(function, self._run(function))
                self.turns.append({"role": "tool", "content": result.text})
                yield result
            if not calls:
                return

    def _reply(self, reply: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """One assistant turn, written into `reply` as it comes."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        asked, new = [*system, *self.turns], self.sampling.max_new_tokens
        assert new is not None
        self.turns.append(reply)
        for delta in self.lm.stream(asked, tools.schemas(self.tools), self.thinking, new, self.sampling):
            for field, piece in delta.items():
                reply[field] = reply.get(field, type(piece)()) + piece
            yield delta

    def _run(self, function: dict[str, Any]) -> str:
        if function["name"] not in self.tools:
            allowed = ", ".join(self.tools) or "none"
            return json.dumps({"error": f"unknown tool {function['name']!r}; there are: {allowed}"}, ensure_ascii=False)
        return tools.call(function["name"], function["arguments"])

    def tokens(self) -> int:
        """How many tokens the model has said since the last question."""
        start = max(i for i, turn in enumerate(self.turns) if turn["role"] == "user")
        _, said = render(self.turns[start:], self.lm.tokenizer)
        return sum(said)

    def take_back(self) -> str | None:
        """Forget the last question and its answer; return the question, None if there is none."""
        asked = [i for i, turn in enumerate(self.turns) if turn["role"] == "user"]
        if not asked:
            return None
        question = self.turns[asked[-1]]["content"]
        del self.turns[asked[-1] :]
        return question

    def set(self, name: str, value: str) -> None:
        """Change one of `PARAMETERS`.

        Raises:
            UsageError: there is no such parameter, or its value is not possible.
        """
        if name not in PARAMETERS:
            raise UsageError(f"no parameter {name!r}{did_you_mean(name, PARAMETERS)}")
        number: Any = None if (name, value) == ("seed", "none") else parse_value(value)
        kinds: tuple[type, ...] = (int,) if name in ("top_k", "seed", "max_new_tokens") else (int, float)
        if number is not None and type(number) not in kinds:
            raise UsageError(f"{name} is {value!r}, but should be {'a number' if float in kinds else 'an integer'}")
        self.sampling = replace(self.sampling, **{name: number})

    def save(self, path: Path) -> None:
        """Write the conversation as one JSON object, in the form that training data has too."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        try:
            files.write_json(path, {"messages": [*system, *self.turns]})
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror}); choose another file") from error

    def load(self, path: Path) -> None:
        """Go on from a conversation that `save` wrote.

        Raises:
            UserError: there is no such file, or no conversation in it.
        """
        try:
            turns = [normalize(message) for message in files.read_json(path)["messages"]]
        except (TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f'{path} holds no conversation: it should be {{"messages": [...]}}, as /save writes'
            ) from error
        self.system = turns.pop(0)["content"] if turns and turns[0]["role"] == "system" else ""
        self.turns = turns
