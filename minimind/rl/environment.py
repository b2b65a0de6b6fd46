"""Environments: what a policy acts in, turn by turn, as token ids.

    ids = environment.reset(prompt)                     what the policy is given
    observed, done, info = environment.step(said)       what it reads next, after what it said

The built-in one is a dialogue with tools. What the policy said is trained on, what it read is not.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from minimind import tools
from minimind.data.prompts import Prompt
from minimind.engine.dialogue import Dialogue
from minimind.tokenizer.bpe import Tokenizer
from minimind.tools.answers import hits


class Step(NamedTuple):
    """What came of the policy's words: the ids that it reads next (none at the end), whether that was the end, and
    what happened, for the log."""

    observed: list[int]
    done: bool
    info: dict[str, Any]


class Environment(Protocol):
    """One episode at a time; every trajectory of a group has its own."""

    def reset(self, prompt: Prompt) -> list[int]:
        """Begin an episode; return the ids that the policy speaks after."""

    def step(self, said: Sequence[int]) -> Step:
        """Take the ids that the policy chose, the end token included."""

    def message(self) -> dict[str, Any]:
        """The last thing that the policy said, as it is read."""

    def scores(self) -> dict[str, float]:
        """What the episode was worth, part by part; asked for when it is over."""


class ToolUse:
    """Answer a user with the help of tools: calls are checked, made, and answered with their results.

    outcome      share of the expected things (`gt`) that the final answer holds; 0 without one
    legality     share of the calls that were legal and gave a result; 1 where none was made or needed
    closed       1 if every turn ended with `<|im_end|>` and every block that it opened is closed
    unfinished   -1 where the episode ended without a final answer: cut off, or still calling
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        most_turns: int = 4,
        thinking: bool = False,
        context: tools.Context | None = None,
    ) -> None:
        """`most_turns`: how often the policy may speak. `context`: the clock and dice that tools see."""
        self._tokenizer, self._most_turns, self._thinking, self._context = tokenizer, most_turns, thinking, context

    def reset(self, prompt: Prompt) -> list[int]:
        """Begin an episode.

        Raises:
            UserError: the conversation cannot be rendered.
        """
        self._prompt = prompt
        self.dialogue = Dialogue(
            prompt.messages,
            prompt.tools,
            self._tokenizer,
            thinking=self._thinking,
            most_turns=self._most_turns,
            context=self._context,
        )
        return list(self.dialogue.ids)

    def step(self, said: Sequence[int]) -> Step:
        """Take what the policy said; whatever that is, it is answered."""
        before = len(self.dialogue.calls)
        observed = self.dialogue.take(said)
        calls = self.dialogue.calls[before:]
        info = {"calls": len(calls), "errors": sum(not call.ok for call in calls)}
        return Step(observed, self.dialogue.done, info)

    def message(self) -> dict[str, Any]:
        """The last thing that the policy said."""
        return self.dialogue.turns[-1].message

    def scores(self) -> dict[str, float]:
        """See the class."""
        dialogue, gt = self.dialogue, self._prompt.gt
        calls = dialogue.calls
        found = hits(gt, dialogue.answer)
        return {
            "outcome": sum(found) / len(gt) if gt else float(dialogue.finished),
            "legality": sum(call.ok for call in calls) / len(calls) if calls else float(not gt or all(found)),
            "closed": float(all(turn.closed for turn in dialogue.turns)),
            "unfinished": float(dialogue.finished) - 1,
        }
