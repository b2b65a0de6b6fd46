"""Using tools: arithmetic that needs the calculator, which of eight tools a request needs, and tools never seen before.

The model calls, the tool answers for real, the model goes on; all cases run at once. Tasks are drawn from a seed; those
of the small world's training files are others.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minimind import tools
from minimind.console import track
from minimind.data.smallworld import conversations, invented, tooltalk, tooltasks
from minimind.data.smallworld.preferences import expected
from minimind.data.smallworld.world import LANGUAGES
from minimind.engine.dialogue import Dialogue, converse
from minimind.engine.engine import Engine
from minimind.engine.sampling import GREEDY, Sampling
from minimind.errors import UsageError
from minimind.model.qwen3 import Transformer
from minimind.tokenizer.bpe import Tokenizer
from minimind.tools.answers import hits

BATCH_SIZE = 64
MAX_TOKENS = 384
"""That a dialogue may add to its prompt: some calls, their results and the answer."""
NO_TOOL = 4
"""Requests of each language that need no tool."""
NEW = 120
"""Requests for tools that no training file holds."""


@dataclass(frozen=True)
class Case:
    """One request and what must come of it."""

    kind: str
    """`level 1` … `level 3` for arithmetic; the tool's name, `no tool` or `two tools` for choice; `one argument` or
    `two arguments` for new tools."""
    messages: list[dict[str, Any]]
    schemas: list[dict[str, Any]]
    gt: list[str]
    """What the final answer must hold; empty where the calls decide."""
    calls: list[dict[str, Any]] | None = None
    """Exactly these calls, whatever their order; None where the answer decides."""
    max_turns: int = 4
    """1: nothing answers, and the first turn decides."""


def arithmetic(count: int = 20) -> list[Case]:
    """The first `count` held-out arithmetic tasks, levels and languages by turns.

    Raises:
        UsageError: there are not so many.
    """
    if not 1 <= count <= tooltasks.HELD_OUT:
        raise UsageError(f"eval tools: {count} tasks are asked for, there are 1 to {tooltasks.HELD_OUT}")
    rng = random.Random("tools on offer 0")
    cases = []
    for one in tooltasks.held_out(0)[:count]:
        system, user = tooltalk.asked(one, rng)
        schemas = json.loads(system.pop("tools"))
        cases.append(Case(f"level {one.level}", [system, user], schemas, [expected(one)]))
    return cases


def choice() -> list[Case]:
    """Requests with all eight tools on offer: each tool in each language, none needed, and two needed."""
    rng = random.Random("tool choice 0")
    held_out, draw = tooltalk.split(random.Random("tool requests 0"))
    every = tools.schemas(tools.BUILTIN)
    cases = []

    def add(kind: str, language: str, text: str, calls: list[dict[str, Any]]) -> None:
        messages = [{"role": "system", "content": tooltalk.SYSTEM[language]}, conversations.user(text)]
        cases.append(Case(kind, messages, every, [], calls))

    seen = set()
    for one in held_out:
        if (one.tool, one.language) not in seen:
            seen.add((one.tool, one.language))
            add(one.tool, one.language, one.text, [one.call])
    for language in LANGUAGES:
        for prompts, *_ in conversations.SMALL_TALK[language][:NO_TOOL]:
            add("no tool", language, prompts[0], [])
        for _ in range(NO_TOOL):
            first, second = (draw(name, language) for name in rng.sample(tooltalk.VERIFIABLE, 2))
            add("two tools", language, tooltalk.together(first, second), [first.call, second.call])
    return cases


def new() -> list[Case]:
    """Requests for a tool of which nothing but its schema is known, beside another like it, languages by turns."""
    rng, cases = random.Random("new tools 0"), []
    for number in range(NEW):
        language = LANGUAGES[number % len(LANGUAGES)]
        system, user, call, *_ = invented.dialogue(language, rng, held_out=True)
        schemas, calls = json.loads(system.pop("tools")), json.loads(call["tool_calls"])
        kind = ("one argument", "two arguments")[len(calls[0]["arguments"]) - 1]
        cases.append(Case(kind, [system, user], schemas, [], calls, max_turns=1))
    return cases


def run(
    model: Transformer,
    tokenizer: Tokenizer,
    cases: Sequence[Case],
    dtype: Any,
    sampling: Sampling = GREEDY,
    thinking: bool = False,
    strict: bool = False,
) -> list[dict[str, Any]]:
    """Carry all cases out; `strict` holds calls to the schemas.

    Returns:
        For each `{"kind", "prompt", "gt", "pred", "calls", "ok"}`; `pred` is the final answer, or where the calls
        decide, what was called.
    """
    dialogues = [
        Dialogue(
            case.messages,
            case.schemas,
            tokenizer,
            thinking=thinking,
            max_turns=case.max_turns,
            context=tooltalk.context(random.Random(f"clock and dice {number}")),
            strict=strict,
        )
        for number, case in enumerate(cases)
    ]
    longest = max((len(dialogue.ids) for dialogue in dialogues), default=1)
    engine = Engine(
        model, tokenizer, max_batch_size=min(BATCH_SIZE, len(cases)), context=longest + MAX_TOKENS, dtype=dtype
    )
    for _ in track(converse(engine, dialogues, sampling, MAX_TOKENS), "asking for tools", len(cases), BATCH_SIZE):
        pass
    return [_judge(case, dialogue) for case, dialogue in zip(cases, dialogues, strict=True)]


def _judge(case: Case, dialogue: Dialogue) -> dict[str, Any]:
    made = [{"name": call.name, "arguments": call.arguments} for call in dialogue.calls]
    row = {"kind": case.kind, "prompt": case.messages[-1]["content"], "calls": [_show(call) for call in made]}
    if case.calls is None:
        right = dialogue.finished and all(hits(case.gt, dialogue.answer))
        return row | {"gt": case.gt, "pred": dialogue.answer or _last_words(dialogue), "ok": right}
    wanted = sorted(map(_show, case.calls))
    whole = dialogue.finished or (case.max_turns == 1 and dialogue.done and dialogue.turns[-1].closed)
    right = whole and sorted(map(_show, made)) == wanted
    return row | {"gt": wanted, "pred": "; ".join(map(_show, made)) or dialogue.answer, "ok": right}


def _last_words(dialogue: Dialogue) -> str:
    """What a dialogue without an answer ended in."""
    return str(dialogue.turns[-1].message["content"]).strip() if dialogue.turns else ""


def _show(call: dict[str, Any]) -> str:
    """A call as one line, the same for equal calls: the order of arguments, and 3 or 3.0, make no difference."""
    arguments = call["arguments"]
    if isinstance(arguments, dict):
        numbers = {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in arguments.items()}
        arguments = json.dumps(numbers, ensure_ascii=False, sort_keys=True)
    return f"{call['name']}({arguments})"


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """`{"score", "n", "by_kind": {kind: {"score", "n"}}}` of judged cases."""
    kinds: dict[str, list[bool]] = {}
    for row in rows:
        kinds.setdefault(row["kind"], []).append(row["ok"])
    by_kind = {kind: {"score": sum(oks) / len(oks), "n": len(oks)} for kind, oks in kinds.items()}
    return {"score": sum(row["ok"] for row in rows) / max(1, len(rows)), "n": len(rows), "by_kind": by_kind}
