"""Sums and differences of small numbers; a fixed tenth of them never occurs in a training file."""

import random
from dataclasses import dataclass

LARGEST = 20

QUESTIONS = {
    "en": ("What is {e}?", "How much is {e}?", "Please calculate {e}."),
    "zh": ("{e}等于多少？", "请计算{e}。", "{e}是多少？"),
}
FULL_STOP = {"en": ".", "zh": "。"}


@dataclass(frozen=True)
class Sum:
    """`left sign right`, with sign + or - and a result that is not negative."""

    left: int
    sign: str
    right: int

    @property
    def result(self) -> int:
        """Return the value."""
        return self.left + self.right if self.sign == "+" else self.left - self.right

    def __str__(self) -> str:
        return f"{self.left} {self.sign} {self.right}"

    @property
    def equation(self) -> str:
        """Return the sum with its value, such as `3 + 4 = 7`."""
        return f"{self} = {self.result}"


class Sums:
    """All sums with numbers up to `LARGEST`, split into `train` and `held_out`."""

    def __init__(self, seed: int) -> None:
        numbers = range(LARGEST + 1)
        every = [Sum(a, "+", b) for a in numbers for b in numbers]
        every += [Sum(a, "-", b) for a in numbers for b in range(a + 1)]
        random.Random(f"sums {seed}").shuffle(every)
        self.held_out, self.train = every[:60], every[60:]
        self._allowed = set(self.train)

    def chain(self, rng: random.Random) -> tuple[str, list[Sum]]:
        """Return a two-step expression of small numbers and its steps, both of them training sums."""
        while True:
            first = rng.choice(self.train)
            second = Sum(first.result, rng.choice("+-"), rng.randint(1, 9))
            if second in self._allowed:
                return f"{first} {second.sign} {second.right}", [first, second]


def question(expression: object, language: str, rng: random.Random | None = None) -> str:
    """Ask for the value of an expression: the canonical wording, or a random one when `rng` is given."""
    wordings = QUESTIONS[language]
    return (rng.choice(wordings) if rng else wordings[0]).format(e=expression)


def text(sums: Sums, language: str, rng: random.Random) -> str:
    """Return pretraining text: a few equations on one line, or questions and answers."""
    chosen = rng.sample(sums.train, rng.randint(2, 5))
    stop = FULL_STOP[language]
    if rng.random() < 0.4:
        return (" " if language == "en" else "").join(one.equation + stop for one in chosen)
    return "\n".join(f"{question(one, language, rng)}\n{one.equation}{stop}" for one in chosen)
