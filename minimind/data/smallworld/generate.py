"""Write the small world to JSON Lines, in the format of every training stage."""

import json
import math
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from minimind import tools
from minimind.data.smallworld import (
    conversations,
    copying,
    invented,
    persona,
    preferences,
    pretraining,
    tooltalk,
    tooltasks,
)
from minimind.data.smallworld.arithmetic import Sum, Sums
from minimind.data.smallworld.conversations import user
from minimind.data.smallworld.questions import held_out
from minimind.data.smallworld.split import Split
from minimind.data.smallworld.tooltalk import Request
from minimind.data.smallworld.tooltasks import DrawTask
from minimind.data.smallworld.world import LANGUAGES, Person
from minimind.errors import UsageError, UserError
from minimind.files import atomic_write, existing

Row = dict[str, Any]

DEFAULT_MB = 9.0
VALID_DOCUMENTS = 500


def generate(out: Path, size_mb: float | None = None, seed: int = 0) -> dict[str, dict[str, int]]:
    """Write all files to the folder `out` and return `{file name: {"rows", "bytes"}}`.

    size_mb: size of everything together (default 9); chats and prompts shrink with it below the default, and above
    it the pretraining text grows and the dialogues in which tools are called, which a larger model learns. The same
    seed gives the same bytes, and `questions(seed)` belongs to it.
    Raises UsageError for a size that is not positive, UserError for one that the disk has no room for.
    """
    size_mb = DEFAULT_MB if size_mb is None else size_mb
    if not 0 < size_mb < math.inf:
        raise UsageError(
            f"the size of the small world must be above 0 MB, not {size_mb}; the default is {DEFAULT_MB:g}"
        )
    room = (shutil.disk_usage(existing(out)).free + sum(file.stat().st_size for file in out.glob("*.jsonl"))) / 1e6
    if size_mb > room:
        raise UserError(f"{size_mb:,.10g} MB do not fit into {out}: there is room for {room:,.0f} MB")
    out.mkdir(parents=True, exist_ok=True)
    split, size = Split(seed), size_mb / DEFAULT_MB
    scale = min(1.0, size)
    world, sums, draw, draw_task = split.world, split.sums, split.draw_request, split.draw_task
    files: dict[str, dict[str, int]] = {}

    def rng(name: str) -> random.Random:
        return random.Random(f"{name} {seed}")

    def write(name: str, rows: Iterable[Row]) -> None:
        files[name] = _write(out / name, rows)

    def chats(rows: Iterable[list[Row]]) -> list[Row]:
        return [{"conversations": turns} for turns in rows]

    talk = rng("sft tools")
    training = conversations.training(world, sums, split.calendar, scale, rng("sft"))
    training += [_tool_talk(draw, *pair, talk) for pair in _tool_pairs(8 * size, tools.BUILTIN)]
    # Few: what goes into the call is then practised, and not shown.
    training += _errands(world.asked[: max(1, round(10 * scale))], rng("errands"))
    odd = rng("invented tools")
    training += [invented.dialogue(language, odd) for _, language in _tool_pairs(10 * size, tools.BUILTIN)]
    training += _tool_lessons(draw_task, 10 * scale, rng("tool lessons"))
    write("sft.jsonl", chats(rng("sft order").sample(training, len(training))))
    asked = ({"ability": ability, "conversations": turns} for ability, turns in held_out(split))
    write("sft_valid.jsonl", asked)

    write("dpo.jsonl", _preferences(world.asked, sums.train, draw_task, 2000 * scale, rng("dpo")))
    tasks = iter(tooltasks.held_out(seed))
    write("dpo_valid.jsonl", _preferences(world.held_out, sums.held_out, lambda *_: next(tasks), 100, rng("dpo valid")))
    write("lora.jsonl", chats(persona.training(rng("lora"))))
    write("lora_valid.jsonl", chats(persona.held_out()))
    write("rl.jsonl", _sums(sums, 1000 * scale, rng("rl")))
    write("rl_valid.jsonl", _held_out_sums(sums, rng("rl valid")))
    write("agent.jsonl", _tasks(draw, 40 * scale, rng("agent")))
    checked = [one for one in split.requests if one.tool in tooltalk.VERIFIABLE]
    write("agent_valid.jsonl", _each_a_task(checked, rng("agent valid")))
    mixed, count = rng("agent mixed"), 200 * scale
    # Who is only ever given a calculator forgets how to do without.
    calculated = _each_a_task(tooltasks.by_turns(draw_task, count, mixed), mixed)
    write(
        "agent_mixed.jsonl", _by_turns(calculated, _sums(sums, count, mixed), _errand_tasks(world.asked, count, mixed))
    )
    mixed = rng("agent mixed valid")
    calculated = _each_a_task(tooltasks.held_out(seed)[:30], mixed)
    write("agent_mixed_valid.jsonl", _by_turns(calculated, _errand_tasks(world.held_out, 30, mixed)))

    valid = [text for _, text in islice(pretraining.documents(split, rng("valid")), VALID_DOCUMENTS)]
    unseen = set(valid)
    budget = max(0.3 * size_mb * 1e6, size_mb * 1e6 - sum(one["bytes"] for one in files.values()))
    texts = ({"text": text} for _, text in pretraining.documents(split, rng("pretrain")) if text not in unseen)
    write("pretrain.jsonl", _up_to(budget, texts))
    write("pretrain_valid.jsonl", ({"text": text} for text in dict.fromkeys(valid)))
    return files


def _tool_pairs(each: float, names: Iterable[str]) -> list[tuple[str, str]]:
    """Return every (tool, language) `each` times."""
    return [(name, language) for name in names for language in LANGUAGES] * max(1, round(each))


def _tool_talk(draw: Callable[[str, str], Request], tool: str, language: str, rng: random.Random) -> list[Row]:
    """Return a dialogue in which two to six tools are on offer, and their schemas, most of its tokens, read once.

    Two requests, or one and something that needs no tool; beside six tools, a row's length, one has to do.
    """
    first, thinking = draw(tool, language), rng.random() < 0.4
    names = tooltalk.offered(first, rng, rng.choice((2, 2, 2, 4, 6)))
    exchanges = [[user(first.text), *tooltalk.fulfil(first, rng, thinking)]]
    if rng.random() < 0.3:
        exchanges.append(conversations.small_talk(language, rng))
    elif len(names) < 6:
        second = draw(rng.choice(names), language)
        exchanges.append([user(second.text), *tooltalk.fulfil(second, rng, thinking)])
    return [tooltalk.system(names, language), *(turn for one in rng.sample(exchanges, len(exchanges)) for turn in one)]


def _errands(people: Sequence[Person], rng: random.Random) -> Iterator[list[Row]]:
    """Yield dialogues in which a fact about somebody goes into a call, half of them with the thought that brings it."""
    for person in people:
        for language in rng.sample(LANGUAGES, 2):
            yield tooltalk.dialogue(tooltalk.errand(person, language, rng), rng, thinking=rng.random() < 0.5)


def _preferences(
    people: Sequence[Person], sums: Sequence[Sum], draw: DrawTask, count: float, rng: random.Random
) -> Iterator[Row]:
    """Yield pairs, languages by turns; every 35th is about calling the calculator or guessing."""
    for index in range(round(count)):
        language = LANGUAGES[index % 2]
        if index % 35 < 34:
            yield preferences.preference(rng.choice(people), rng.choice(sums), language, rng)
        else:
            yield preferences.calling(draw(tooltasks.LEVELS[index // 35 % 3], language, rng), rng)


def _sums(sums: Sums, count: float, rng: random.Random) -> Iterator[Row]:
    """Yield RL rows, languages by turns: what the model gets right only at times, or there is nothing to reinforce.

    Every fourth is a sum to be answered at once: who is only ever asked to think forgets how to answer without.
    """
    for index in range(round(count)):
        thinking = index // 2 % 4 > 0
        one = rng.choice(sums.chains) if thinking else rng.choice(sums.train)
        yield preferences.verifiable(one, LANGUAGES[index % 2], rng)


def _held_out_sums(sums: Sums, rng: random.Random) -> Iterator[Row]:
    for index, one in enumerate(sums.held_out_chains):
        yield preferences.verifiable(one, LANGUAGES[index % 2], rng)


def _tasks(draw: Callable[[str, str], Request], each: float, rng: random.Random) -> Iterator[Row]:
    """Yield agent rows: one call in most, two calls in every fourth."""
    for name, language in _tool_pairs(each, tooltalk.VERIFIABLE):
        first = draw(name, language)
        if rng.random() < 0.75:
            yield preferences.task(first, rng)
        else:
            yield preferences.two_tasks(first, draw(rng.choice(tooltalk.VERIFIABLE), language), rng)


def _by_turns(*kinds: Iterable[Row]) -> Iterator[Row]:
    """Yield a row of each kind in turn; there are equally many."""
    for rows in zip(*kinds, strict=True):
        yield from rows


def _each_a_task(requests: Iterable[Request], rng: random.Random) -> Iterator[Row]:
    for one in requests:
        yield preferences.task(one, rng)


def _errand_tasks(people: Sequence[Person], count: float, rng: random.Random) -> Iterator[Row]:
    """Yield agent rows that need a fact about somebody, languages by turns, to be thought about first."""
    for index in range(round(count)):
        one = tooltalk.errand(rng.choice(people), LANGUAGES[index % 2], rng)
        yield {**preferences.task(one, rng), "open_thinking": True}


def _tool_lessons(draw: DrawTask, count: float, rng: random.Random) -> list[list[Row]]:
    """Return dialogues with the calculator, which is alone on offer in every other one, and as many to copy."""
    lessons = []
    for index, one in enumerate(tooltasks.by_turns(draw, count, rng)):
        turns = tooltalk.dialogue(one, rng, thinking=index % 3 == 0)
        if index % 2:
            turns[0] = tooltalk.system([tooltasks.TOOL], one.language)
        lessons += [turns, copying.conversation(one.language, draw, rng)]
    return lessons


def _up_to(budget: float, rows: Iterator[Row]) -> Iterator[Row]:
    """Yield rows until their JSON fills the budget in bytes."""
    for row in rows:
        if budget <= 0:
            return
        yield row
        budget -= len(row["text"].encode()) + len('{"text": ""}\n')


def _write(path: Path, rows: Iterable[Row]) -> dict[str, int]:
    """Write one JSON object a line, with the same bytes on every system."""
    count = size = 0
    with atomic_write(path) as draft, draft.open("wb") as file:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
            file.write(line)
            count, size = count + 1, size + len(line)
    return {"rows": count, "bytes": size}
