"""The held-out questions: what evaluation asks, and what the SFT validation file holds."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minimind.data.smallworld import conversations, tooltalk
from minimind.data.smallworld.arithmetic import Sums
from minimind.data.smallworld.conversations import Turn
from minimind.data.smallworld.tooltalk import Request
from minimind.data.smallworld.world import ATTRIBUTES, LANGUAGES, World, build_world


@dataclass(frozen=True)
class Question:
    """One held-out item: `messages` up to the assistant's turn, and what that turn must be.

    `answer` is the exact content expected, or `pattern` a regular expression for all of it, or `call` is the expected
    tool call: `{"name": ..., "arguments": {...}}`. With `open_thinking` the turn begins by thinking.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    answer: str | None = None
    call: dict[str, Any] | None = None
    pattern: str | None = None
    open_thinking: bool = False


def questions(seed: int = 0) -> dict[str, list[Question]]:
    """Return the held-out questions by ability: `facts_en`, `facts_zh`, `arithmetic`, `thinking`, `tools`.

    No question about the same person, and no such sum, occurs in any training file of `generate(..., seed=seed)`;
    `sft_valid.jsonl` holds exactly these items.
    """
    found: dict[str, list[Question]] = {}
    for ability, turns in held_out_conversations(build_world(seed), Sums(seed)):
        thinking = "reasoning_content" in turns[1]
        question = Question(messages=[turns[0]], answer=turns[1]["content"], open_thinking=thinking)
        found.setdefault(ability, []).append(question)
    for turns in held_out_dialogues(seed):
        (call,) = json.loads(turns[2]["tool_calls"])
        prompt = {"role": "system", "content": turns[0]["content"]}
        found.setdefault("tools", []).append(
            Question(messages=[prompt, turns[1]], tools=json.loads(turns[0]["tools"]), call=call)
        )
    return found


def tool_requests(seed: int) -> tuple[list[Request], Callable[[str, str], Request]]:
    """Return the held-out tool requests and the function that draws training ones."""
    return tooltalk.split(random.Random(f"tool requests {seed}"))


def held_out_dialogues(seed: int) -> list[list[Turn]]:
    """Return the tool dialogues of the held-out requests."""
    rng = random.Random(f"held-out dialogues {seed}")
    return [tooltalk.dialogue(one, rng) for one in tool_requests(seed)[0]]


def held_out_conversations(world: World, sums: Sums) -> list[tuple[str, list[Turn]]]:
    """Return (ability, conversation without tools) of every held-out fact and sum."""
    rows = [
        (f"facts_{language}", conversations.fact(person, attribute, language))
        for language in LANGUAGES
        for person in world.held_out
        for attribute in ATTRIBUTES
    ]
    for index, one in enumerate(sums.held_out):
        rows.append(("arithmetic", conversations.plain_sum(one, LANGUAGES[index % 2])))
    for index, chain in enumerate(sums.held_out_chains):
        rows.append(("thinking", conversations.thought_sum(chain, LANGUAGES[index % 2])))
    return rows
