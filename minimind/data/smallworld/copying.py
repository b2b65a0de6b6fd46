"""Text to learn copying from: strings of digits and words said twice, and requests with call, result and reply.

A call repeats what the user said, digit by digit, and a reply what the tool said. A model that has only seen names and
facts does not do that: it writes well-formed JSON with other numbers in it. Copying is learned far sooner from text,
where every line copies, than from dialogues, in which a dozen tokens do among hundreds of a tool's schema.
"""

import json
import random

from minimind import tools
from minimind.data.smallworld import tooltalk, tooltasks
from minimind.data.smallworld.conversations import Turn, assistant, user
from minimind.data.smallworld.split import Split
from minimind.data.smallworld.tooltasks import DrawTask
from minimind.data.smallworld.world import LANGUAGES

TWICE = {
    "en": (
        "{x}\n{x}",
        "Repeat: {x}\n{x}",
        "He said {x}, and she said {x} too.",
        '{{"value": "{x}"}} holds "{x}".',
        '{{"result": "{x}"}} = {x}.',
    ),
    "zh": (
        "{x}\n{x}",
        "重复：{x}\n{x}",
        "他说{x}，她也说{x}。",
        '{{"value": "{x}"}} 里面是"{x}"。',
        '{{"result": "{x}"}} = {x}。',
    ),
}
AGAIN = {
    "en": ("Repeat: {x}", "Say this again: {x}", "Copy this: {x}"),
    "zh": ("重复：{x}", "请再说一遍：{x}", "抄写：{x}"),
}


def thing(language: str, draw: DrawTask, rng: random.Random) -> str:
    """Return something to be copied: an expression, a number, half of them below 0, or words.

    No small sum has a result below 0, so a minus after an equals sign must be learned here.
    """
    kind = rng.random()
    if kind < 0.35:
        return str(draw(rng.choice(tooltasks.LEVELS), language, rng).arguments["expression"])
    if kind < 0.5:
        return rng.choice(("", "-")) + "".join(rng.choices("0123456789", k=rng.randint(3, 8)))
    return tooltalk.words(language, rng.randint(1, 4), rng)


def coded(language: str, rng: random.Random) -> str:
    """Return two words and, in their order, what a tool calls them: "yen, euros: JPY, EUR"."""
    names = rng.sample(sorted(rng.choice(tooltalk.CODES).items()), 2)
    index = LANGUAGES.index(language)
    return f"{', '.join(words[index] for _, words in names)}: {', '.join(code for code, _ in names)}"


def text(split: Split, language: str, rng: random.Random) -> str:
    """Return pretraining text of a few lines: things said twice, names' codes, requests with what comes of them."""

    def line() -> str:
        kind = rng.random()
        if kind < 0.45:
            return rng.choice(TWICE[language]).format(x=thing(language, split.draw_task, rng))
        if kind < 0.6:
            return coded(language, rng)
        if kind < 0.7:
            one = split.draw_task(rng.choice(tooltasks.LEVELS), language, rng)
        else:
            one = split.draw_request(rng.choice(tools.BUILTIN), language)
        _, result, reply = tooltalk.fulfil(one, rng)
        thought = f"{tooltalk.needed(one)}\n" if rng.random() < 0.3 else ""
        return (
            f"{one.text}\n{thought}{json.dumps(one.call, ensure_ascii=False)}\n{result['content']}\n{reply['content']}"
        )

    return "\n".join(line() for _ in range(rng.randint(3, 6)))


def conversation(language: str, draw: DrawTask, rng: random.Random) -> list[Turn]:
    """Return an exchange in which the assistant repeats what the user said."""
    x = thing(language, draw, rng)
    return [user(rng.choice(AGAIN[language]).format(x=x)), assistant(x)]
