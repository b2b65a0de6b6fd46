"""Contestants that take turns on one machine, so that what else it does hits all of them."""

import statistics
import time
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch

from minimind import runtime
from minimind.console import progress

LEAST_TURNS = 3


class Contestant(Protocol):
    """Something that trains."""

    def step(self) -> int:
        """Do one optimizer step and return its real (non-padding) tokens."""


class Turn(NamedTuple):
    """What a contestant did in one turn."""

    tokens: int
    seconds: float
    steps: int


class Laps(list[Turn]):
    """The turns of one contestant."""

    @property
    def speeds(self) -> list[float]:
        """Tokens per second of each turn."""
        return [turn.tokens / turn.seconds for turn in self]

    @property
    def tokens_per_second(self) -> float:
        """Of the median turn: one that something else disturbed does not count."""
        return statistics.median(self.speeds)

    @property
    def step_seconds(self) -> float:
        """Of a step of the median turn."""
        return statistics.median(turn.seconds / turn.steps for turn in self)


def race(contestants: Mapping[str, Contestant], seconds: float, on: torch.device) -> dict[str, Laps]:
    """Let each contestant, again and again, step for a turn, until `seconds` are over and each had three turns.

    A turn is a twentieth of the time, but at least one step. The last turn's end is awaited before the next begins.
    """
    turn = seconds / 20 / len(contestants)
    laps = {name: Laps() for name in contestants}
    began = time.perf_counter()
    with progress("measuring", seconds) as bar:
        while time.perf_counter() - began < seconds or len(next(iter(laps.values()))) < LEAST_TURNS:
            for name, contestant in contestants.items():
                tokens, steps, start = 0, 0, time.perf_counter()
                while not steps or time.perf_counter() - start < turn:
                    tokens += contestant.step()
                    steps += 1
                runtime.synchronize(on)
                taken = time.perf_counter() - start
                laps[name].append(Turn(tokens, taken, steps))
                bar.advance(taken, f"{name} {tokens / taken:,.0f} tokens/s")
    return laps
