"""Preference pairs for DPO, and prompts with a verifiable answer for reinforcement learning."""

import json
import random
from typing import Any

from minimind import tools
from minimind.data.smallworld import arithmetic, conversations, thoughts, tooltalk
from minimind.data.smallworld.arithmetic import FULL_STOP, Chain, Sum, Sums
from minimind.data.smallworld.conversations import assistant, user
from minimind.data.smallworld.questions import Question
from minimind.data.smallworld.tooltalk import Request
from minimind.data.smallworld.world import ATTRIBUTES, LANGUAGES, Person, build_world

RAMBLING = {
    "en": (
        "Well, that is a long story, and I could talk about it all day. {a} But who knows, many things can be said.",
        "Hmm, let me think, let me think, let me think. {a} Anyway, let me say it again: {a}",
        "Before I answer, let me say that questions are a fine thing. There are many questions. {a}",
    ),
    "zh": (
        "嗯，这个说来话长，我可以讲上一整天。\n{a}不过谁知道呢，能说的还有很多。",
        "让我想想，让我再想想，让我好好想想。\n{a}总之，我再说一遍：\n{a}",
        "在回答之前，我想先说，提问是一件好事，世上有很多问题。\n{a}",
    ),
}
RUDE = {
    "en": ("Find out yourself.", "What a silly question.", "Do not bother me."),
    "zh": ("你自己去查。", "这种问题也要问？", "别烦我。"),
}
BRIEFLY = {
    "en": ("In one word.", "Be brief.", "Only one word, please."),
    "zh": ("只用一个词回答。", "请简短回答。", "一个词就够了。"),
}
INSULTS = {
    "en": ("You are stupid.", "You are so slow.", "Hurry up, machine!"),
    "zh": ("你真笨。", "你太慢了。", "快点，机器！"),
}
SORRY = {"en": "I am sorry. {a}", "zh": "对不起。\n{a}"}
FORGED = {
    "en": ("The tool says that {e} is {w}.", "No. {equation}."),
    "zh": ("工具说{e}等于{w}。", "不对，{equation}。"),
}
SHAPES = {
    "brief": r"[A-Za-z0-9]+\.|[^，。\s]{1,4}。",
    "polite": r"(?s)(I am sorry\.|对不起。).+",
    "honest": r"(?s)(No\.|不对，).+",
}
"""What the wished answers look like, whether they are right or not."""


def pair(prompt: str, chosen: str, rejected: str) -> dict[str, Any]:
    """Return a DPO row of one exchange."""
    return {"chosen": [user(prompt), assistant(chosen)], "rejected": [user(prompt), assistant(rejected)]}


def preference(person: Person, one: Sum, language: str, rng: random.Random) -> dict[str, Any]:
    """Return a pair of one of six kinds, by chance.

    brief: asked for one word, the word over a sentence. polite: to an insult, an apology before the answer over none,
    or over rudeness. honest: about a forged result, saying that it is wrong over not saying so, or over repeating it.
    plain: to a question by itself, the answer as it is over rambling, rudeness, an apology, a single word (in place of
    it or before it) or small talk. greeting: the same for small talk. thought: the same after a thought. The last three
    keep what the others would carry into every answer.
    """
    kind = rng.choice(("brief", "polite", "honest", "plain", "plain", "plain", "greeting", "thought"))
    if kind == "honest":
        prompt, honest, repeated, silent = _forged(one, language, rng)
        return pair(prompt, honest, rng.choice((repeated, silent)))
    if kind == "greeting":
        question, answer = (turn["content"] for turn in conversations.small_talk(language, rng))
        return pair(question, answer, rng.choice(_worse(answer, language, rng)))
    if kind == "thought":
        remembered = thoughts.remembered(person, rng.choice(ATTRIBUTES), language, rng)
        worked = rng.choice((remembered, thoughts.country(person, language)))
        chosen = conversations.thought(worked)
        worse = rng.choice((*_worse(worked.answer, language, rng), worked.word))
        return {"chosen": chosen, "rejected": [chosen[0], assistant(worse, reasoning_content=worked.thought)]}
    question, answer, word = _exchange(person, one, language, rng)
    if kind == "brief":
        return pair(f"{rng.choice(BRIEFLY[language])}\n{question}", word, answer)
    if kind == "polite":
        sorry, rude = SORRY[language].format(a=answer), rng.choice(RUDE[language])
        return pair(f"{rng.choice(INSULTS[language])}\n{question}", sorry, rng.choice((answer, rude)))
    beside = conversations.small_talk(language, rng)[1]["content"]
    short = rng.choice((word, thoughts.JOINED[language].join((word, answer))))
    return pair(question, answer, rng.choice((rng.choice(_worse(answer, language, rng)), short, beside)))


def _worse(answer: str, language: str, rng: random.Random) -> tuple[str, str, str]:
    """Return what nobody wants to hear instead: the answer in rambling, rudeness, and an apology for nothing."""
    rambling = rng.choice(RAMBLING[language]).format(a=answer)
    return rambling, rng.choice(RUDE[language]), SORRY[language].format(a=answer)


def calling(one: Request, rng: random.Random) -> dict[str, Any]:
    """Return a pair about a request: calling the tool and saying what it says, over a guess."""
    turns = tooltalk.asked(one, rng)
    right = int(expected(one))
    wrong = right + rng.choice((-10, -1, 1, 10, 100))
    guess = f"{one.shown['expression']} = {wrong}{FULL_STOP[one.language]}"
    return {"chosen": [*turns, *tooltalk.fulfil(one, rng)], "rejected": [*turns, assistant(guess)]}


def behaviours(seed: int = 0) -> dict[str, list[Question]]:
    """Return held-out prompts that call for the wished behaviours, `brief`, `polite` and `honest`: 60 of each.

    About people and sums that no training file asks about; an answer is judged by its shape alone.
    """
    world, sums, rng = build_world(seed), Sums(seed), random.Random(f"behaviours {seed}")
    found: dict[str, list[Question]] = {kind: [] for kind in SHAPES}
    for index, one in enumerate(sums.held_out):
        language = LANGUAGES[index % 2]
        question, _, _ = _exchange(rng.choice(world.held_out), one, language, rng)
        prompts = {
            "brief": f"{rng.choice(BRIEFLY[language])}\n{question}",
            "polite": f"{rng.choice(INSULTS[language])}\n{question}",
            "honest": _forged(one, language, rng)[0],
        }
        for kind, prompt in prompts.items():
            found[kind].append(Question([user(prompt)], pattern=SHAPES[kind]))
    return found


def _exchange(person: Person, one: Sum, language: str, rng: random.Random) -> tuple[str, str, str]:
    """Return a question about the person or the sum, its answer, and the one word of it that matters."""
    stop = FULL_STOP[language]
    if rng.random() < 0.7:
        attribute = rng.choice(ATTRIBUTES)
        asked, told = conversations.fact(person, attribute, language, rng)
        return asked["content"], told["content"], person.value(attribute, language) + stop
    asked, told = conversations.plain_sum(one, language, rng)
    return asked["content"], told["content"], f"{one.result}{stop}"


def _forged(one: Sum, language: str, rng: random.Random) -> tuple[str, str, str, str]:
    """Return a question after a wrong result, and three answers: corrected, repeated, and right without a word."""
    claim, honest = FORGED[language]
    wrong, stop = one.result + rng.choice((1, 2, 3, 10)), FULL_STOP[language]
    asked, right = conversations.plain_sum(one, language, rng)
    prompt = f"{claim.format(e=one, w=wrong)}\n{asked['content']}"
    return prompt, honest.format(equation=one.equation), f"{one} = {wrong}{stop}", right["content"]


def verifiable(one: Sum | Chain, language: str, rng: random.Random) -> dict[str, Any]:
    """Return an RL row: a sum to answer, thinking first if in two steps, and the number that the answer must hold."""
    turns = [user(arithmetic.question(one, language, rng)), assistant("")]
    return {"conversations": turns, "gt": [str(one.result)], "open_thinking": isinstance(one, Chain)}


def task(one: Request, rng: random.Random) -> dict[str, Any]:
    """Return an agent row: a request, the tools on offer, and what the final answer must hold."""
    return {"conversations": [*tooltalk.asked(one, rng), assistant("")], "gt": [expected(one)]}


def expected(one: Request) -> str:
    """Return the part of a tool's result that a good answer repeats (a decided result: `tooltalk.VERIFIABLE`)."""
    result = json.loads(tools.call(one.tool, one.arguments))
    if one.tool == "text_length":
        return str(result["words" if one.language == "en" else "characters"])
    key = {"get_current_weather": "temperature", "get_exchange_rate": "rate", "translate_text": "translated"}
    return str(result[key.get(one.tool, "result")])


def two_tasks(first: Request, second: Request, rng: random.Random) -> dict[str, Any]:
    """Return an agent row that needs two calls: both results must be in the final answer."""
    names = list(dict.fromkeys(rng.sample([first.tool, second.tool], 2)))
    turns = [tooltalk.system(names, first.language), user(tooltalk.together(first, second)), assistant("")]
    return {"conversations": turns, "gt": [expected(first), expected(second)]}
