"""Games, and whatever else speaks text in gymnasium's form, as environments of token ids.

    observation, info = env.reset(seed=7, options={"prompt": "...", "gt": [...]})
    observation, reward, terminated, truncated, info = env.step("what the policy said")

An observation is what the user says next; the sum of the rewards is the episode's, under the name `returned`. The class
need not know gymnasium: two methods are enough (`examples/nim.py`).
"""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from minimind.data.prompts import Prompt
from minimind.engine.dialogue import between_turns
from minimind.errors import UsageError, UserError
from minimind.rl.environment import Step
from minimind.rl.judge import import_file
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import render
from minimind.tokenizer.parse import parse

T = TypeVar("T")


class Gym(Protocol):
    """What gymnasium calls an `Env`, with text as observations and actions."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin an episode. What is drawn in it depends on the seed alone, which the episodes of a group share."""

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take what the policy said: observation, reward, whether the episode is over, whether it was cut off."""


def load(name: str) -> Callable[[], Gym]:
    """What makes an environment: `FILE.py:NAME` or `MODULE:NAME`.

    Raises:
        UserError: there is no such file, module or name, or it cannot be imported.
    """
    place, _, attribute = name.rpartition(":")
    if place.endswith(".py"):
        module: Any = import_file(Path(place), "agent.environment")
    else:
        try:
            module = importlib.import_module(place)
        except (ImportError, ValueError) as error:
            raise UsageError(
                f"recipe: agent.environment = {name!r} cannot be imported ({error}); write FILE.py:NAME or MODULE:NAME"
            ) from None
        except Exception as error:  # the boundary to a user's code
            raise UserError(f"{place}: cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(getattr(module, attribute, None)):
        raise UsageError(f"recipe: agent.environment: {place} has nothing called {attribute!r} that makes environments")
    make: Callable[[], Gym] = getattr(module, attribute)
    return make


class GymEnvironment:
    """One episode: the prompt's last user turn goes on with the first observation, and the policy answers.

    Args:
        make: makes the environment that plays the episode.
        tokenizer: the policy's.
        max_turns: how often the policy may speak.
        thinking: whether it thinks first; that is not part of what it says to the environment.
        seed: of what is drawn in the episode.
    """

    env: Gym

    def __init__(
        self, make: Callable[[], Gym], tokenizer: Tokenizer, max_turns: int, thinking: bool, seed: int | None
    ) -> None:
        self.make, self.tokenizer, self.max_turns, self.thinking, self.seed = make, tokenizer, max_turns, thinking, seed
        self.turns = 0

    def reset(self, prompt: Prompt) -> list[int]:
        """Begin an episode.

        Raises:
            UserError: the environment failed.
        """
        options = {"prompt": prompt.question, "gt": list(prompt.gt)}

        def reset() -> str:
            self.env = self.make()
            observation, _ = self.env.reset(seed=self.seed, options=options)
            return str(observation)

        *before, last = prompt.messages
        asked = {**last, "content": "\n".join(filter(None, [last["content"], self._ask(reset, "reset")]))}
        return render([*before, asked], self.tokenizer, None, self.thinking, add_generation_prompt=True)[0]

    def step(self, said: Sequence[int]) -> Step:
        """Take what the policy said.

        Raises:
            UserError: the environment failed.
        """
        action = parse(said, self.tokenizer, self.thinking)["content"].strip()

        def step() -> tuple[str, float, bool, bool]:
            observation, reward, terminated, truncated, _ = self.env.step(action)
            return str(observation), float(reward), bool(terminated), bool(truncated)

        observation, reward, terminated, truncated = self._ask(step, "step")
        self.turns += 1
        info: dict[str, Any] = {"calls": [], "reward": reward}
        if terminated or truncated or self.turns == self.max_turns:
            return Step([], True, info | {"finished": terminated})
        turn = {"role": "user", "content": observation}
        return Step(between_turns([turn], self.tokenizer, self.thinking), False, info)

    def _ask(self, act: Callable[[], T], what: str) -> T:
        try:
            return act()
        except Exception as error:  # the boundary to a user's code
            raise UserError(f"agent.environment: {what} failed: {type(error).__name__}: {error}") from error
