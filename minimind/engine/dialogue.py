"""A dialogue with tools as token ids: the model speaks, tools answer, and what was sampled is never encoded again.

    prompt | what the model said | <tool_response> ... | what the model said | ...

The ids only ever grow. What stands between two turns of the model is the tail of a rendered dummy conversation, from
behind the end of its assistant's turn.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from minimind import tools
from minimind.engine import grammar
from minimind.engine.engine import Engine
from minimind.engine.generate import Ask, Completion, EnginePool, generate
from minimind.engine.sampling import Sampling, stream_of
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import render
from minimind.tokenizer.parse import parse

MAX_CALLS = 8
"""In one turn of the model; it is told that the others were not made."""
_DUMMY = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]


@dataclass
class Call:
    """One call that the model made; `arguments` is None where it could not be read."""

    name: str
    arguments: dict[str, Any] | None
    result: str

    @property
    def ok(self) -> bool:
        """Whether it was legal (a tool on offer, arguments that fit its schema) and gave a result."""
        return not tools.is_error(self.result)


@dataclass
class Turn:
    """What the model said at once: where it lies in the dialogue's ids, and how it is read."""

    start: int
    end: int
    message: dict[str, Any]
    calls: list[Call] = field(default_factory=list)
    closed: bool = True
    """It ended with the end of a turn, and every block that it opened is closed."""


class Dialogue:
    """Answers a conversation, calling tools on the way."""

    def __init__(
        self,
        messages: Sequence[Mapping[str, Any]],
        schemas: Sequence[dict[str, Any]],
        tokenizer: Tokenizer,
        *,
        thinking: bool = False,
        max_turns: int = 4,
        context: tools.Context | None = None,
        strict: bool = False,
    ) -> None:
        """`schemas` are the tools on offer, `max_turns` how often the model may speak, `context` clock and dice.

        strict: what is called is held to the schemas while it is written.

        Raises:
            UserError: the conversation cannot be rendered.
        """
        self.tokenizer, self.schemas, self.thinking, self.max_turns = tokenizer, list(schemas), thinking, max_turns
        self.context = context or tools.Context()
        self.ids, _ = render(messages, tokenizer, self.schemas or None, thinking, add_generation_prompt=True)
        self.prompt_length = len(self.ids)
        self.grammar = grammar.tool_calls(self.schemas, thinking) if strict and self.schemas else None
        self.turns: list[Turn] = []
        self.done = False

    def take(self, said: Sequence[int]) -> list[int]:
        """Take what the model said and return what it reads next: nothing once the dialogue is `done`.

        A turn that calls tools is answered by their results; any other is the last. One without its end
        (`<|im_end|>`) was cut off, and is the last too.
        """
        said = list(said)
        ended = bool(said) and said[-1] == self.tokenizer.control_id("<|im_end|>")
        turn = Turn(len(self.ids), len(self.ids) + len(said), parse(said, self.tokenizer, self.thinking))
        self.turns.append(turn)
        self.ids += said
        broken = self._broken_calls(said, turn.message["content"])
        turn.closed = ended and not broken and self._thought_closed(said)
        if ended:
            turn.calls = [self._call(call["function"]) for call in turn.message.get("tool_calls", [])[:MAX_CALLS]]
            left_out = len(turn.message.get("tool_calls", [])) - len(turn.calls)
            turn.calls += [_fault("", f"{left_out} more calls were left out, the most are {MAX_CALLS}")] * (
                left_out > 0
            )
            turn.calls += [_fault("", "the tool call is no JSON object with name and arguments")] * (broken > 0)
        self.done = not turn.calls or len(self.turns) == self.max_turns
        observed = [] if self.done else observation([call.result for call in turn.calls], self.tokenizer, self.thinking)
        self.ids += observed
        return observed

    @property
    def finished(self) -> bool:
        """Whether it came to an answer: the last turn is whole and calls nothing."""
        return self.done and bool(self.turns) and self.turns[-1].closed and not self.turns[-1].calls

    @property
    def answer(self) -> str:
        """The last turn's text; empty until the dialogue has finished."""
        return self.turns[-1].message["content"].strip() if self.finished else ""

    @property
    def calls(self) -> list[Call]:
        """All calls so far."""
        return [call for turn in self.turns for call in turn.calls]

    @property
    def mask(self) -> list[bool]:
        """True for each id that the model said, False for prompt and tools' results."""
        mask = [False] * len(self.ids)
        for turn in self.turns:
            mask[turn.start : turn.end] = [True] * (turn.end - turn.start)
        return mask

    def _call(self, function: Mapping[str, Any]) -> Call:
        arguments = function["arguments"]
        result = tools.call(function["name"], arguments, self.context, self.schemas)
        return Call(function["name"], json.loads(arguments) if isinstance(arguments, str) else arguments, result)

    def _broken_calls(self, said: Sequence[int], content: str) -> int:
        """How many calls were begun that are none; where the tokenizer has the marker, a spelled-out one is text."""
        marker = self.tokenizer.control_id("<tool_call>")
        return content.count("<tool_call>") if marker is None or marker in said else 0

    def _thought_closed(self, said: Sequence[int]) -> bool:
        opening, closing = (self.tokenizer.control_id(marker) for marker in ("<think>", "</think>"))
        if opening is None or closing is None:
            return True
        return said.count(opening) + self.thinking == said.count(closing)


def _fault(name: str, what: str) -> Call:
    return Call(name, None, json.dumps({"error": what}))


def observation(results: Sequence[str], tokenizer: Tokenizer, thinking: bool = False) -> list[int]:
    """The ids between a turn that called tools and the next one: the results, and the generation prompt."""
    return between_turns([{"role": "tool", "content": result} for result in results], tokenizer, thinking)


def between_turns(turns: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, thinking: bool = False) -> list[int]:
    """The ids from behind the `<|im_end|>` of what the model said to where it speaks again, with `turns` between."""
    ids, _ = render([*_DUMMY, *turns], tokenizer, None, thinking, add_generation_prompt=True)
    ends = [place for place, id in enumerate(ids) if id == tokenizer.control_id("<|im_end|>")]
    return ids[ends[len(_DUMMY) - 1] + 1 :]


def ends_of_turn(tokenizer: Tokenizer) -> list[int]:
    """The tokens that end what a model says at once."""
    ends = (tokenizer.control_id("<|im_end|>"), tokenizer.eos_id, tokenizer.pad_id)
    return [id for id in dict.fromkeys(ends) if id is not None]


def converse(engine: Engine, dialogues: Sequence[Dialogue], sampling: Sampling, max_tokens: int) -> Iterator[Dialogue]:
    """Carry all dialogues to their end at once, and yield each when it is done.

    `max_tokens` bounds what is added to a prompt. With a seed, dialogue i draws from the seed's i-th stream.

    Raises:
        PromptTooLong: a prompt fills the engine's context.
    """

    def ask(index: int) -> Ask | None:
        dialogue = dialogues[index]
        room = min(engine.context, dialogue.prompt_length + max_tokens) - len(dialogue.ids)
        dialogue.done |= room <= 0 and bool(dialogue.turns)
        seed = None if sampling.seed is None else stream_of(sampling.seed, index)
        stop = ends_of_turn(dialogue.tokenizer)
        form = dialogue.grammar or sampling.grammar
        rules = replace(sampling, max_new_tokens=max(room, 1), stop_ids=stop, seed=seed, grammar=form)
        return None if dialogue.done else (dialogue.ids, rules)

    def follow(index: int, completion: Completion) -> Ask | None:
        dialogues[index].take(completion.ids)
        return ask(index)

    first = [(index, question) for index in range(len(dialogues)) if (question := ask(index))]
    return (dialogues[index] for index in generate(EnginePool(engine), first, follow))
