"""Rewards: plain named functions of samples, weighted and added up.

    @reward
    def polite(samples: Sequence[Sample]) -> list[float | None]:
        return [float("please" in sample.answer) for sample in samples]

None means: cannot say; the sample then takes no part in learning. The same happens where a function raises or takes too
long: it is counted (`unjudged` in the log), and the run goes on. Nothing that a model wrote is ever evaluated.
"""

import importlib.util
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from math import isfinite
from pathlib import Path

from minimind.console import warn
from minimind.data.corpus import language
from minimind.errors import UsageError, UserError, did_you_mean
from minimind.recipe import Recipe, ScoringConfig
from minimind.rl.rollout import Sample
from minimind.tokenizer.bpe import Tokenizer
from minimind.tools import by_name, schema
from minimind.tools.answers import numbers

Reward = Callable[[Sequence[Sample]], list[float | None]]
Build = Callable[[Recipe, Tokenizer], Reward]
"""Makes a reward that needs to know the recipe or the tokenizer."""
_BUILDERS: dict[str, Build] = {}


def reward(function: Reward) -> Reward:
    """Register a function under its name."""
    _BUILDERS[function.__name__] = lambda _recipe, _tokenizer: function
    return function


def built(build: Build) -> Build:
    """Register a function that makes the reward of that name."""
    _BUILDERS[build.__name__] = build
    return build


class Rewards:
    """Judges samples by the recipe's rewards: fills in each component, and their weighted sum.

    Raises:
        UserError: there is no such reward, or one cannot be made ready.
    """

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer) -> None:
        import minimind.rl.reward_models  # noqa: F401  (importing it registers them)

        self.config: ScoringConfig = recipe.scoring
        if self.config.file:
            _import(Path(self.config.file))
        for name in self.config.weights:
            if name not in _BUILDERS:
                raise UsageError(f"recipe: scoring.weights: no reward {name!r}{did_you_mean(name, _BUILDERS)}")
        if not self.config.weights:
            raise UsageError("recipe: scoring.weights is empty: name a reward and its weight, as in { exact = 1.0 }")
        self._rewards = {name: _BUILDERS[name](recipe, tokenizer) for name in self.config.weights}
        self._warned: set[str] = set()

    def __call__(self, samples: Sequence[Sample]) -> None:
        """Judge samples that have ended; those that were aborted or failed get no reward."""
        whole = [sample for sample in samples if sample.status in ("completed", "truncated")]
        for name, function in self._rewards.items():
            for sample, value in zip(whole, self._values(name, function, whole), strict=True):
                sample.rewards[name] = value
        for sample in whole:
            values = [sample.rewards[name] for name in self._rewards]
            weights = [float(weight) for weight in self.config.weights.values()]
            known = [w * v for w, v in zip(weights, values, strict=True) if v is not None]
            sample.reward = sum(known) if len(known) == len(values) else None

    def _values(self, name: str, function: Reward, samples: Sequence[Sample]) -> list[float | None]:
        """What one reward says of all samples; where that fails, of each by itself, so that one spoils only itself."""
        if not samples:
            return []
        values = self._attempt(name, function, samples)
        if values is None:
            alone = [self._attempt(name, function, [sample]) for sample in samples]
            values = [one[0] if one else None for one in alone]
        return [self._clipped(value) for value in values]

    def _attempt(self, name: str, function: Reward, samples: Sequence[Sample]) -> list[float | None] | None:
        pool = ThreadPoolExecutor(1, thread_name_prefix=f"reward {name}")
        try:
            values = pool.submit(function, samples).result(self.config.timeout)
            if len(values) != len(samples):
                raise ValueError(f"{len(values)} values for {len(samples)} samples")
            return values
        except UserError as error:  # the reward has tried each sample itself
            self._warn(name, str(error))
            return [None] * len(samples)
        except TimeoutError:
            self._warn(name, f"took longer than scoring.timeout = {self.config.timeout:g} s")
            return [None] * len(samples)
        except Exception as error:  # the boundary to whatever a user, a model or a server made of it
            self._warn(name, str(error) or type(error).__name__)
            return None
        finally:
            pool.shutdown(wait=False)

    def _clipped(self, value: float | None) -> float | None:
        if value is None or not isfinite(value):
            return None
        limit = self.config.clip
        return min(max(float(value), -limit), limit) if limit else float(value)

    def _warn(self, name: str, what: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            warn(f"reward {name!r}: {what}; those samples have no reward (said once)")


def _import(path: Path) -> None:
    spec = importlib.util.spec_from_file_location(f"rewards_of_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UsageError(f"recipe: scoring.file = {str(path)!r} is no Python file")
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except Exception as error:
        raise UserError(f"{path}: cannot be imported: {type(error).__name__}: {error}") from error


# What is expected


@reward
def exact(samples: Sequence[Sample]) -> list[float | None]:
    """1 where the answer is one of `gt`, full stops and spaces at its ends aside."""
    return [
        _any(sample, lambda sample: [_bare(sample.answer) == _bare(gt) for gt in sample.prompt.gt])
        for sample in samples
    ]


@reward
def numeric(samples: Sequence[Sample]) -> list[float | None]:
    """1 where the answer's last number is the first one of a `gt`: `3 + 4 = 7.` answers 7."""

    def judged(sample: Sample) -> list[bool]:
        said = numbers(sample.answer)[-1:]
        wanted = [numbers(gt)[:1] for gt in sample.prompt.gt]
        return [bool(said and one) and abs(said[0] - one[0]) <= 1e-6 * max(1, abs(one[0])) for one in wanted]

    return [_any(sample, judged) for sample in samples]


_CHOICE = re.compile(r"(?<![A-Za-z])\(?([A-H])\)?(?![A-Za-z'’])")


@reward
def choice(samples: Sequence[Sample]) -> list[float | None]:
    """1 where the last letter from A to H that stands alone is a `gt`."""
    return [
        _any(
            sample,
            lambda sample: [_CHOICE.findall(sample.answer)[-1:] == [gt.strip(" ().")] for gt in sample.prompt.gt],
        )
        for sample in samples
    ]


def _any(sample: Sample, judged: Callable[[Sample], list[bool]]) -> float | None:
    """None without `gt`: nothing is known."""
    return float(any(judged(sample))) if sample.prompt.gt else None


def _bare(text: str) -> str:
    return text.strip().strip(".。!！").strip()


# How it is said


@built
def closed(_recipe: Recipe, tokenizer: Tokenizer) -> Reward:
    """1 where the answer came to its end, with every block that it opened closed, and is not empty."""
    pairs = [("<think>", "</think>"), ("<tool_call>", "</tool_call>")]
    ids = [(tokenizer.control_id(opening), tokenizer.control_id(closing)) for opening, closing in pairs]

    def judge(sample: Sample) -> float:
        said = sample.chosen_ids
        opened = sample.info.get("turns", 1) if sample.thinking else 0  # by the prompt of each turn
        even = all(
            said.count(opening) + opened * (opening == ids[0][0]) == said.count(closing)
            for opening, closing in ids
            if opening is not None and closing is not None
        )
        return float(sample.status == "completed" and even and bool(sample.answer or sample.message.get("tool_calls")))

    return lambda samples: [judge(sample) for sample in samples]


@reward
def unfinished(samples: Sequence[Sample]) -> list[float | None]:
    """-1 where the answer was cut off, else 0."""
    return [-float(sample.status == "truncated") for sample in samples]


@built
def overlong(recipe: Recipe, _tokenizer: Tokenizer) -> Reward:
    """DAPO's soft punishment: 0, then over the last `overlong_buffer` tokens before the limit down to -1."""
    limit, buffer = recipe.rl.max_new_tokens, max(1, recipe.scoring.overlong_buffer)
    return lambda samples: [max(-1.0, min(0.0, (limit - buffer - len(s.ids)) / buffer)) for s in samples]


@built
def repetition(recipe: Recipe, _tokenizer: Tokenizer) -> Reward:
    """Minus the share of n-grams that occurred before; over tokens, so that it is right for Chinese too."""
    n = recipe.scoring.ngram

    def judge(sample: Sample) -> float:
        ids = sample.chosen_ids
        grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
        return len(set(grams)) / len(grams) - 1 if grams else 0.0

    return lambda samples: [judge(sample) for sample in samples]


@reward
def same_language(samples: Sequence[Sample]) -> list[float | None]:
    """1 where the answer is in the language of the question, 0.5 where either of them is mixed, else 0."""

    def judge(sample: Sample) -> float:
        asked, said = language(sample.prompt.question), language(sample.answer)
        return 1.0 if asked == said else 0.5 if "mixed" in (asked, said) else 0.0

    return [judge(sample) for sample in samples]


@reward
def legal_calls(samples: Sequence[Sample]) -> list[float | None]:
    """Share of the last turn's tool calls that name a tool on offer and fit its schema; 1 without any call."""
    return [_legal(sample) for sample in samples]


def _legal(sample: Sample) -> float:
    offered = {name: one.get("parameters") or {} for name, one in by_name(sample.prompt.tools).items()}
    calls = [call["function"] for call in sample.message.get("tool_calls", [])]
    fine = [call["name"] in offered and not schema.fault(call["arguments"], offered[call["name"]]) for call in calls]
    broken = "<tool_call>" in sample.answer
    return 0.0 if broken else sum(fine) / len(fine) if fine else 1.0
