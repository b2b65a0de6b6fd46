"""Preference pairs: two answers to one prompt, one of them chosen. No torch in here: workers read and encode them.

A line is `{"chosen": [turns], "rejected": [turns]}`. Both lists begin with the same turns, the prompt, and differ from
an assistant turn on. The prompt is stored, and later computed, once; after it come both answers:

    ids        prompt ...                  chosen answer ...         rejected answer ...
    branch     0 0 0 0 0                   1 1 1 1 1                 2 2 2 2
    mark       branch · 2, and 1 more where a token is supervised

Each answer begins with the last token of the generation prompt, which has to predict its first supervised token.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minimind.data.conversations import Conversation, check_answers, fit, read_turns, with_system_prompt
from minimind.errors import UserError
from minimind.tokenizer import chat
from minimind.tokenizer.bpe import Tokenizer


@dataclass(frozen=True)
class Pair:
    """Two conversations that are the same up to the answers that are compared."""

    chosen: Conversation
    rejected: Conversation

    @property
    def shared_turns(self) -> int:
        """How many turns both begin with."""
        pairs = zip(self.chosen.messages, self.rejected.messages, strict=False)
        equal = [a == b for a, b in pairs]
        return equal.index(False) if False in equal else len(equal)

    def with_system_prompt(self, key: int, fraction: float) -> "Pair":
        """Give both the same general system prompt, in `fraction` of the pairs without one."""
        return Pair(*(with_system_prompt(one, key, fraction) for one in (self.chosen, self.rejected)))


def read_pair(row: Mapping[str, Any]) -> Pair:
    """Read `{"chosen": [...], "rejected": [...], "tools"?: [...]}`.

    Raises:
        UserError: what is wrong with it: a field, a turn, no answer, another prompt, or nothing that differs.
    """
    sides = []
    for name in ("chosen", "rejected"):
        if name not in row:
            raise UserError(f"no field {name!r} (it has {', '.join(map(repr, list(row)[:5])) or 'no fields'})")
        try:
            sides.append(read_turns(row[name], name, row.get("tools")))
        except UserError as error:
            text = str(error)
            raise UserError(text if text.startswith(repr(name)) else f"{name!r}: {text}") from None
    pair = Pair(*sides)
    first = pair.shared_turns
    if pair.chosen == pair.rejected:
        raise UserError("'chosen' and 'rejected' are identical: nothing is preferred to anything")
    if pair.chosen.tools != pair.rejected.tools:
        raise UserError("'chosen' and 'rejected' are offered different tools; their prompts must be the same")
    named = list(zip(("chosen", "rejected"), sides, strict=True))
    for name, side in named:
        if first == len(side.messages):
            raise UserError(f"{name!r} ends after turn {first}, where the other goes on: it has no answer of its own")
    for name, side in named:
        if (role := side.messages[first]["role"]) != "assistant":
            raise UserError(
                f"'chosen' and 'rejected' differ in turn {first + 1}, which is the {role}'s in {name!r}; up to the "
                f"assistant's answer they must be the same"
            )
        try:
            check_answers(replace(side, messages=side.messages[first:]))
        except UserError:
            raise UserError(f"{name!r}: its answer is empty") from None
    return pair


def encode_pair(
    pair: Pair,
    tokenizer: Tokenizer,
    max_length: int | None = None,
    drop_oldest: bool = True,
    keep_empty_think: bool = True,
) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Ids and marks (uint8), both [n], and how many of the oldest turns were dropped to fit `max_length`.

    Prompt and both answers together must fit. Turns go in whole exchanges; the system turn, the last question and the
    answers stay. None where that is not enough, or where `drop_oldest` is False and it is too long.
    """
    turns = pair.shared_turns
    questions = [index for index, turn in enumerate(pair.chosen.messages[:turns]) if turn["role"] == "user"]
    head = pair.chosen.messages[: questions[0]]

    def rendered(start: int) -> tuple[np.ndarray, np.ndarray]:
        def render(messages: list[dict[str, Any]]) -> tuple[list[int], list[bool]]:
            kept = head + messages[start:]
            return chat.render(kept, tokenizer, pair.chosen.tools, keep_empty_think=keep_empty_think)

        prompt = len(render(pair.chosen.messages[:turns])[0])
        (chosen, chosen_mask), (rejected, rejected_mask) = render(pair.chosen.messages), render(pair.rejected.messages)
        last = min(chosen_mask.index(True, prompt), rejected_mask.index(True, prompt)) - 1
        shared = next((i for i in range(last) if chosen[i] != rejected[i]), last)
        marks = [0] * shared + [2 + bit for bit in chosen_mask[shared:]] + [4 + bit for bit in rejected_mask[shared:]]
        return np.array(chosen + rejected[shared:]), np.array(marks, np.uint8)

    return fit(rendered, questions, max_length, drop_oldest)
