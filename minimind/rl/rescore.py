"""What rollouts on the disk would have been worth by other rewards, or by other weights of the same."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from minimind.errors import UserError
from minimind.rl import dump
from minimind.rl.advantages import group_advantages
from minimind.rl.judge import Rewards, add_up
from minimind.rl.rewards import RewardContext
from minimind.rl.rollout import Sample
from minimind.rl.settings import ScoringConfig
from minimind.tokenizer.bpe import Tokenizer


def rescore(folder: Path, scoring: ScoringConfig, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Judge every sample in `folder` by `scoring.weights`; without any, tell what was said of them then.

    A reward that was given then is taken as it was given; only others are computed, with the longest answer as the
    longest possible one.

    Returns:
        `rewards` (the mean of each by name), `then` and `now` (each the mean `reward`, and the share of groups whose
        rewards `differ`), and `turned`, the share of answers that would be pushed the other way (made likelier instead
        of less likely, or not moved at all, or the reverse).

    Raises:
        UserError: no rollout lies there, one is damaged, or there is no tokenizer for a reward that is computed.
    """
    groups = _groups(folder)
    samples = [sample for group in groups for sample in group]
    judged = [sample for sample in samples if sample.rewards]
    known = set.intersection(*(set(sample.rewards) for sample in judged)) if judged else set()
    before, differed = _directions(groups), _differ(groups)
    then = [sample.reward for sample in samples if sample.reward is not None]
    new = {name: 1.0 for name in scoring.weights if name not in known}
    if new:
        if tokenizer is None:
            raise UserError(f"{', '.join(new)}: not judged then; to compute it name the run's model with --model")
        longest = max(len(sample.ids) for sample in samples)
        Rewards(RewardContext(replace(scoring, weights=new), tokenizer, longest, torch.device("cpu")))(judged)
    if scoring.weights:
        add_up(judged, scoring.weights)
    after = _directions(groups)
    names = list(dict.fromkeys(name for sample in judged for name in sample.rewards))
    return {
        "rollouts": len(dump.numbers(folder)),
        "answers": len(samples),
        "rewards": {name: _mean([sample.rewards.get(name) for sample in judged]) for name in names},
        "then": {"reward": _mean(then), "differ": differed},
        "now": {"reward": _mean([sample.reward for sample in samples]), "differ": _differ(groups)},
        "turned": mean(float(one != other) for one, other in zip(before, after, strict=True)),
    }


def _groups(folder: Path) -> list[list[Sample]]:
    groups: dict[int, list[Sample]] = {}
    for number in dump.numbers(folder):
        for sample in dump.read(folder, number, dump.sample):
            groups.setdefault(sample.group, []).append(sample)
    if not groups:
        raise UserError(f"{folder}: no rollout lies here; name the folder that rl.dump was")
    return list(groups.values())


def _directions(groups: list[list[Sample]]) -> list[float]:
    """The sign of each answer's advantage, 0 where it is not learned from."""
    found = []
    for group in groups:
        rewards_N = torch.tensor([torch.nan if one.reward is None else one.reward for one in group], dtype=torch.double)
        judged_N = ~rewards_N.isnan()
        advantages_N = torch.zeros_like(rewards_N)
        advantages_N[judged_N] = group_advantages(rewards_N[judged_N], [0] * int(judged_N.sum()), divide=False)
        found += advantages_N.sign().tolist()
    return found


def _differ(groups: list[list[Sample]]) -> float:
    return mean(float(len({one.reward for one in group if one.reward is not None}) > 1) for group in groups)


def _mean(values: Sequence[float | None]) -> float | None:
    given = [value for value in values if value is not None]
    return mean(given) if given else None
