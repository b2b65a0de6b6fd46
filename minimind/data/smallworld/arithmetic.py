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

    def worked(self, language: str) -> str:
        """Return what leads to the answer: here the equation itself."""
        return self.equation + FULL_STOP[language]


@dataclass(frozen=True)
class Chain:
    """A sum in two steps, such as `9 + 4 - 6`; the second step starts from the result of the first."""

    first: Sum
    second: Sum

    @property
    def result(self) -> int:
        """Return the value."""
        return self.second.result

    def __str__(self) -> str:
        return f"{self.first} {self.second.sign} {self.second.right}"

    @property
    def equation(self) -> str:
        """Return the expression with its value."""
        return f"{self} = {self.result}"

    def worked(self, language: str) -> str:
        """Return both steps as equations."""
        return (" " if language == "en" else "").join(step.worked(language) for step in (self.first, self.second))


class Sums:
    """All sums with numbers up to `LARGEST` and those in two steps, split into `train` and `held_out`."""

    def __init__(self, seed: int) -> None:
        numbers = range(LARGEST + 1)
        every = [Sum(a, "+", b) for a in numbers for b in numbers]
        every += [Sum(a, "-", b) for a in numbers for b in range(a + 1)]
        random.Random(f"sums {seed}").shuffle(every)
        self.held_out, self.train = every[:60], every[60:]
        known = set(self.train)
        nexts = ((first, Sum(first.result, sign, n)) for first in self.train for sign in "+-" for n in range(1, 10))
        chains = [Chain(first, second) for first, second in nexts if second in known]
        random.Random(f"chains {seed}").shuffle(chains)
        self.held_out_chains, self.chains = chains[:60], chains[60:]


def question(expression: object, language: str, rng: random.Random | None = None) -> str:
    """Ask for the value of an expression: the canonical wording, or a random one when `rng` is given."""
    wordings = QUESTIONS[language]
    return (rng.choice(wordings) if rng else wordings[0]).format(e=expression)


def text(sums: Sums, language: str, rng: random.Random) -> str:
    """Return pretraining text: a few equations on one line, questions and answers, or sums in two steps worked out."""
    stop, kind = FULL_STOP[language], rng.random()
    if kind < 0.35:
        chains = rng.sample(sums.chains, rng.randint(1, 3))
        return "\n".join(
            f"{question(one, language, rng)}\n{one.worked(language)}\n{one.equation}{stop}" for one in chains
        )
    chosen = rng.sample(sums.train, rng.randint(2, 5))
    if kind < 0.6:
        return (" " if language == "en" else "").join(one.equation + stop for one in chosen)
    return "\n".join(f"{question(one, language, rng)}\n{one.equation}{stop}" for one in chosen)
