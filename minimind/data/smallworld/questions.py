"""The held-out questions: what evaluation asks, and what the SFT validation file holds."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from minimind.data.smallworld import conversations, invented, thoughts, tooltalk
from minimind.data.smallworld.conversations import Turn
from minimind.data.smallworld.split import Split
from minimind.data.smallworld.world import ATTRIBUTES, LANGUAGES


@dataclass(frozen=True)
class Question:
    """One held-out item: `messages` up to the assistant's turn, and what that turn must be.

    `answer` is the exact content expected, or `pattern` a regular expression for all of it, or `calls` are the
    expected tool calls, in any order: `{"name": ..., "arguments": {...}}`. With `open_thinking` the turn begins by
    thinking.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    answer: str | None = None
    calls: list[dict[str, Any]] | None = None
    pattern: str | None = None
    open_thinking: bool = False


def questions(seed: int = 0) -> dict[str, list[Question]]:
    """Return the held-out questions by ability.

    `facts_en`, `facts_zh`, `arithmetic`; to be thought about: `thinking` (sums in two steps), `countries`,
    `weekdays`; to be answered by a call: `tools`, `new_tools`, of which only the schema is known, and `errands`, whose
    argument is a fact about somebody (`errands_at_once`: without a thought). No question about the same person, and no
    such sum, day, request or new tool, occurs in any training file of `generate(..., seed=seed)`; `sft_valid.jsonl`
    holds these items.
    """
    found: dict[str, list[Question]] = {}
    for ability, turns in held_out(Split(seed)):
        if "tools" in turns[0]:
            calls, thinking = json.loads(turns[2]["tool_calls"]), "reasoning_content" in turns[2]
            prompt = [{"role": "system", "content": turns[0]["content"]}, turns[1]]
            question = Question(prompt, tools=json.loads(turns[0]["tools"]), calls=calls, open_thinking=thinking)
        else:
            thinking = "reasoning_content" in turns[1]
            question = Question([turns[0]], answer=turns[1]["content"], open_thinking=thinking)
        found.setdefault(ability, []).append(question)
    return found


def small_talk_questions() -> dict[str, list[Question]]:
    """Return all small talk as the ability `small_talk`, each prompt to be answered at once and after a thought.

    There are too few ways to say hello to hold some out: it is asked in the words in which SFT teaches it.
    """
    asked = [
        Question([conversations.user(prompt)], answer=reply, open_thinking=thinking)
        for language in LANGUAGES
        for prompts, _, reply in conversations.SMALL_TALK[language]
        for prompt in prompts
        for thinking in (False, True)
    ]
    return {"small_talk": asked}


def held_out(split: Split) -> list[tuple[str, list[Turn]]]:
    """Return (ability, conversation) of every held-out question."""
    return [*_facts_and_sums(split), *_thoughts(split), *_calls(split)]


def _facts_and_sums(split: Split) -> Iterator[tuple[str, list[Turn]]]:
    for language in LANGUAGES:
        for person in split.world.held_out:
            for attribute in ATTRIBUTES:
                yield f"facts_{language}", conversations.fact(person, attribute, language)
    for one in split.sums.held_out:
        for language in LANGUAGES:
            yield "arithmetic", conversations.plain_sum(one, language)
    for index, chain in enumerate(split.sums.held_out_chains):
        yield "thinking", conversations.thought_sum(chain, LANGUAGES[index % 2])


def _thoughts(split: Split) -> Iterator[tuple[str, list[Turn]]]:
    """Yield questions to think about; all people in them are held out."""
    rng, people = random.Random(f"held-out thoughts {split.seed}"), split.world.held_out
    for language in LANGUAGES:
        for person in rng.sample(people, 30):
            yield "countries", conversations.thought(thoughts.country(person, language))
        for day, later in split.calendar.held_out:
            yield "weekdays", conversations.thought(thoughts.weekday(day, later, language))


def _calls(split: Split) -> Iterator[tuple[str, list[Turn]]]:
    """Yield requests for tools, one of two on offer: the built-in ones, and as many for new ones."""
    rng = random.Random(f"held-out dialogues {split.seed}")
    for one in split.requests:
        yield "tools", tooltalk.dialogue(one, rng)
    for one in split.requests:
        yield "new_tools", invented.dialogue(one.language, rng, held_out=True)
    for language in LANGUAGES:
        for index, person in enumerate(rng.sample(split.world.held_out, 40)):
            ability, thinking = (("errands", True), ("errands_at_once", False))[index % 2]
            yield ability, tooltalk.dialogue(tooltalk.errand(person, language, rng), rng, thinking)
