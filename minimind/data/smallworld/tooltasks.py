"""Arithmetic with numbers too large to guess, for a model that can call a calculator; three levels of difficulty.

Level 1 is one operation, level 2 two of them, level 3 brackets and operations in words. A fixed set is held out for
evaluation and occurs in no training file.
"""

import random
from collections.abc import Callable, Iterator

from minimind.data.smallworld.requests import REQUESTS
from minimind.data.smallworld.tooltalk import Request
from minimind.data.smallworld.world import LANGUAGES

TOOL = "calculate_math"
LEVELS = (1, 2, 3)
HELD_OUT = 240
WORDS = {
    "en": {"+": " plus ", "-": " minus ", "*": " times "},
    "zh": {"+": "加", "-": "减", "*": "乘以"},
}


DrawTask = Callable[[int, str, random.Random], Request]
"""Draws a task of a level in a language."""


def task(level: int, language: str, rng: random.Random) -> Request:
    """Draw a task."""
    signs = rng.choices("+-*", k=1 if level == 1 else 2)
    a, b = rng.sample((rng.randint(100, 999), rng.randint(11, 99)), 2)  # the smaller one first: results below 0
    c = rng.randint(2, 99)
    expression = f"{a} {signs[0]} {b}"
    shown = expression
    if level == 2:
        expression = shown = f"{expression} {signs[1]} {c}"
    elif level == 3 and rng.random() < 0.5:
        expression = shown = f"({expression}) {signs[1]} {c}"
    elif level == 3:
        expression = f"{expression} {signs[1]} {c}"
        words = WORDS[language]
        shown = f"{a}{words[signs[0]]}{b}{words[signs[1]]}{c}"
    text = rng.choice(REQUESTS[language][TOOL]).format(expression=shown)
    return Request(TOOL, language, text, {"expression": expression}, {"expression": expression}, level)


def held_out(seed: int = 0, count: int = HELD_OUT) -> list[Request]:
    """Return the first `count` held-out tasks, levels and languages by turns; a longer list begins with the shorter."""
    rng = random.Random(f"held-out tool tasks {seed}")
    tasks: dict[str, Request] = {}
    while len(tasks) < count:
        one = task(LEVELS[len(tasks) % 3], LANGUAGES[len(tasks) // 3 % 2], rng)
        tasks.setdefault(one.text, one)
    return list(tasks.values())


def training(seed: int = 0) -> DrawTask:
    """Return a function that draws a task (level, language, rng) in which no held-out expression occurs."""
    taken = {one.arguments["expression"] for one in held_out(seed)}

    def draw(level: int, language: str, rng: random.Random) -> Request:
        one = task(level, language, rng)
        while any(expression in one.arguments["expression"] for expression in taken):
            one = task(level, language, rng)
        return one

    return draw


def by_turns(draw: DrawTask, count: float, rng: random.Random) -> Iterator[Request]:
    """Draw `count` tasks, levels and languages by turns."""
    for index in range(round(count)):
        yield draw(LEVELS[index % 3], LANGUAGES[index // 3 % 2], rng)
