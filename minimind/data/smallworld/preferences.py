"""Preference pairs for DPO, and prompts with a verifiable answer for reinforcement learning."""

import json
import random
from typing import Any

from minimind import tools
from minimind.data.smallworld import arithmetic, conversations, tooltalk
from minimind.data.smallworld.arithmetic import FULL_STOP, Sum
from minimind.data.smallworld.conversations import Turn, assistant, user
from minimind.data.smallworld.tooltalk import Request
from minimind.data.smallworld.world import ATTRIBUTES, Person

RAMBLING = {
    "en": (
        "Well, that is a long story, and I could talk about it all day. {a} But who knows, many things can be said.",
        "Hmm, let me think, let me think, let me think. {a} Anyway, let me say it again: {a}",
        "Before I answer, let me say that questions are a fine thing. There are many questions. {a}",
    ),
    "zh": (
        "嗯，这个说来话长，我可以讲上一整天。{a}不过谁知道呢，能说的还有很多。",
        "让我想想，让我再想想，让我好好想想。{a}总之，我再说一遍：{a}",
        "在回答之前，我想先说，提问是一件好事，世上有很多问题。{a}",
    ),
}
RUDE = {
    "en": ("Find out yourself.", "What a silly question.", "Do not bother me."),
    "zh": ("你自己去查。", "这种问题也要问？", "别烦我。"),
}
FORGED = {
    "en": ("The tool says that {e} is {w}. So how much is {e}?", "No. {equation}."),
    "zh": ("工具说{e}等于{w}。那么{e}是多少？", "不对，{equation}。"),
}


def pair(prompt: Turn, chosen: str, rejected: str) -> dict[str, Any]:
    """Return a DPO row of one exchange."""
    return {"chosen": [prompt, assistant(chosen)], "rejected": [prompt, assistant(rejected)]}


def preference(person: Person, one: Sum, language: str, rng: random.Random) -> dict[str, Any]:
    """Return a pair: brief over rambling, polite over rude, or the true sum over a forged tool result."""
    kind = rng.randrange(4)
    if kind == 3:
        wrong = one.result + rng.choice((1, 2, 3, 10))
        prompt, honest = FORGED[language]
        false = f"{one} = {wrong}{FULL_STOP[language]}"
        return pair(user(prompt.format(e=one, w=wrong)), honest.format(equation=one.equation), false)
    exchange = (
        conversations.fact(person, rng.choice(ATTRIBUTES), language, rng)
        if rng.random() < 0.5
        else conversations.plain_sum(one, language, rng)
    )
    answer = exchange[1]["content"]
    bad = rng.choice(RUDE[language]) if kind == 2 else rng.choice(RAMBLING[language]).format(a=answer)
    return pair(exchange[0], answer, bad)


def verifiable(expression: object, result: int, language: str, rng: random.Random) -> dict[str, Any]:
    """Return an RL row: a sum to answer, with the number that the answer must hold."""
    turns = [user(arithmetic.question(expression, language, rng)), assistant("")]
    return {"conversations": turns, "gt": [str(result)]}


def task(one: Request, rng: random.Random) -> dict[str, Any]:
    """Return an agent row: a request, the tools on offer, and what the final answer must hold."""
    turns = [tooltalk.system(tooltalk.offered(one, rng), one.language), user(one.text), assistant("")]
    return {"conversations": turns, "gt": [expected(one)]}


def expected(one: Request) -> str:
    """Return the part of a tool's result that a good answer repeats (a decided result: `tooltalk.VERIFIABLE`)."""
    result = json.loads(tools.call(one.tool, one.arguments))
    if one.tool == "text_length":
        return str(result["words" if one.language == "en" else "characters"])
    key = {"get_current_weather": "temperature", "get_exchange_rate": "rate", "translate_text": "translated"}
    return str(result[key.get(one.tool, "result")])


def two_tasks(first: Request, second: Request, rng: random.Random) -> dict[str, Any]:
    """Return an agent row that needs two calls: both results must be in the final answer."""
    language = first.language
    join = " And then: " if language == "en" else " 然后："
    names = list(dict.fromkeys(rng.sample([first.tool, second.tool], 2)))
    turns = [tooltalk.system(names, language), user(first.text + join + second.text), assistant("")]
    return {"conversations": turns, "gt": [expected(first), expected(second)]}
