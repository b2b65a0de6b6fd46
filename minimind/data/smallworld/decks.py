"""Decks: chance that leaves nothing out."""

import random
from collections.abc import Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Deck(Generic[T]):
    """Deals things out in random order, each once before any twice, so that all come about equally often."""

    def __init__(self, things: Sequence[T], rng: random.Random) -> None:
        self.things, self.rng, self.queue = things, rng, list[T]()

    def draw(self, count: int) -> list[T]:
        """Return the next `count`."""
        while len(self.queue) < count:
            self.queue = self.rng.sample(self.things, len(self.things)) + self.queue
        return [self.queue.pop() for _ in range(count)]
