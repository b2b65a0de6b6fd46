"""Arithmetic with numbers too large to guess, for a model that can call a calculator; three levels of difficulty.

Level 1 is one operation, level 2 two of them, level 3 brackets and operations in words. A fixed set is held out for
evaluation and occurs in no training file.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minimind.data.smallworld import tooltalk
from minimind.data.smallworld.conversations import Turn, assistant, user
from minimind.data.smallworld.preferences import expected
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


@dataclass(frozen=True)
class Task:
    """A request for the calculator, and how hard it is."""

    level: int
    request: Request

    def turns(self, rng: random.Random) -> list[Turn]:
        """Return the system turn (the calculator and one other tool) and the user's."""
        return [tooltalk.system(tooltalk.offered(self.request, rng), self.request.language), user(self.request.text)]


def task(level: int, language: str, rng: random.Random) -> Task:
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
    return Task(level, Request(TOOL, language, text, {"expression": expression}, {"expression": expression}))


def held_out(seed: int = 0, count: int = HELD_OUT) -> list[Task]:
    """Return the first `count` held-out tasks, levels and languages by turns; a longer list begins with the shorter."""
    rng = random.Random(f"held-out tool tasks {seed}")
    tasks: dict[str, Task] = {}
    while len(tasks) < count:
        one = task(LEVELS[len(tasks) % 3], LANGUAGES[len(tasks) // 3 % 2], rng)
        tasks.setdefault(one.request.text, one)
    return list(tasks.values())


def training(seed: int = 0) -> Callable[[int, str, random.Random], Task]:
    """Return a function that draws a task (level, language, rng) in which no held-out expression occurs."""
    taken = {one.request.arguments["expression"] for one in held_out(seed)}

    def draw(level: int, language: str, rng: random.Random) -> Task:
        one = task(level, language, rng)
        while any(expression in one.request.arguments["expression"] for expression in taken):
            one = task(level, language, rng)
        return one

    return draw


def dialogue(one: Task, rng: random.Random) -> list[Turn]:
    """Return the whole dialogue: request, call, the tool's result, answer."""
    return [*one.turns(rng), *tooltalk.fulfil(one.request, rng)]


def row(one: Task, rng: random.Random) -> dict[str, Any]:
    """Return an agent row: what is asked, and the number that the answer must hold."""
    return {"conversations": [*one.turns(rng), assistant("")], "gt": [expected(one.request)]}
