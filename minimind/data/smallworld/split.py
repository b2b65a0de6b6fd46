"""What training files may show and what is held out: people, sums, days, requests and tasks of one seed."""

import random

from minimind.data.smallworld import tooltalk, tooltasks
from minimind.data.smallworld.arithmetic import Sums
from minimind.data.smallworld.thoughts import Calendar
from minimind.data.smallworld.world import build_world


class Split:
    """Both parts of everything. The same seed gives the same split, so that no file has to say what was held out."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.world, self.sums = build_world(seed), Sums(seed)
        self.calendar = Calendar(seed)
        self.requests, self.draw_request = tooltalk.split(random.Random(f"tool requests {seed}"))
        """Held-out requests for tools, and the function (tool, language) that draws others."""
        self.draw_task = tooltasks.training(seed)
        """Draws a task (level, language, rng) for the calculator that is not held out."""
