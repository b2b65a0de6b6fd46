"""The judge of a run: all rewards of its recipe, made ready, applied to samples, and added up."""

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, TimeoutError
from math import isfinite
from pathlib import Path
from threading import Thread
from types import ModuleType

import minimind.rl.environment
import minimind.rl.reward_models  # noqa: F401  (registers those that ask a model)
from minimind.console import warn
from minimind.errors import UsageError, UserError, did_you_mean
from minimind.rl.rewards import BUILDERS, Reward, RewardContext
from minimind.rl.rollout import Sample


class Rewards:
    """Judges samples by the recipe's rewards: fills in each component, and their weighted sum.

    Raises:
        UserError: there is no such reward, or one cannot be made ready.
    """

    def __init__(self, context: RewardContext) -> None:
        self.config = context.scoring
        if self.config.file:
            import_file(Path(self.config.file), "scoring.file")
        for name in self.config.weights:
            if name not in BUILDERS:
                raise UsageError(f"recipe: scoring.weights: no reward {name!r}{did_you_mean(name, BUILDERS)}")
        if not self.config.weights:
            raise UsageError("recipe: scoring.weights is empty: name a reward and its weight, as in { exact = 1.0 }")
        self._rewards = {name: BUILDERS[name](context) for name in self.config.weights}
        self.names = list(self._rewards)
        self._warned: set[str] = set()

    def __call__(self, samples: Sequence[Sample]) -> None:
        """Judge samples that have ended; those that were aborted or failed get no reward."""
        whole = [sample for sample in samples if sample.status in ("completed", "truncated")]
        for name, function in self._rewards.items():
            for sample, value in zip(whole, self._values(name, function, whole), strict=True):
                sample.rewards[name] = value
        add_up(whole, self.config.weights)

    def _values(self, name: str, function: Reward, samples: Sequence[Sample]) -> list[float | None]:
        """What one reward says of all samples; where that fails, of each by itself, so that one spoils only itself."""
        if not samples:
            return []
        values = self._attempt(name, function, samples)
        if values is None:
            alone = [self._attempt(name, function, [sample]) for sample in samples]
            values = [one[0] if one else None for one in alone]
        return values

    def _attempt(self, name: str, function: Reward, samples: Sequence[Sample]) -> list[float | None] | None:
        try:
            values = _called(function, samples, self.config.timeout)
            if len(values) != len(samples):
                raise ValueError(f"{len(values)} values for {len(samples)} samples")
            return [self._clipped(value) for value in values]
        except UserError as error:  # the reward has tried each sample itself
            self._warn(name, str(error))
            return [None] * len(samples)
        except TimeoutError:
            self._warn(name, f"took longer than scoring.timeout = {self.config.timeout:g} s")
            return [None] * len(samples)
        except Exception as error:  # the boundary to whatever a user, a model or a server made of it
            self._warn(name, str(error) or type(error).__name__)
            return None

    def _clipped(self, value: float | None) -> float | None:
        if value is None or not isfinite(value):
            return None
        limit = self.config.clip
        return min(max(float(value), -limit), limit) if limit else float(value)

    def _warn(self, name: str, what: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            warn(f"reward {name!r}: {what}; those samples have no reward (said once)")


def add_up(samples: Sequence[Sample], weights: Mapping[str, float]) -> None:
    """Make the weighted sum of each sample's rewards its reward: None where one of them could not say."""
    for sample in samples:
        values = [sample.rewards[name] for name in weights]
        known = [float(w) * v for w, v in zip(weights.values(), values, strict=True) if v is not None]
        sample.reward = sum(known) if len(known) == len(values) else None


def _called(function: Reward, samples: Sequence[Sample], seconds: float) -> list[float | None]:
    """The values of a reward; one that hangs is left to itself, and does not keep the program from ending either.

    Raises:
        TimeoutError: it took longer; else what the reward raises.
    """
    found: Future[list[float | None]] = Future()

    def call() -> None:
        try:
            found.set_result(function(samples))
        except BaseException as error:
            found.set_exception(error)

    Thread(target=call, daemon=True).start()
    return found.result(seconds)


def import_file(path: Path, key: str) -> ModuleType:
    """A user's Python file as a module; `key` is where the recipe names it.

    Raises:
        UserError: there is none, or it cannot be imported.
    """
    spec = importlib.util.spec_from_file_location(f"user_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UsageError(f"recipe: {key} = {str(path)!r} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(spec.name, None)
        raise UserError(f"{path}: cannot be imported: {type(error).__name__}: {error}") from error
    return module
