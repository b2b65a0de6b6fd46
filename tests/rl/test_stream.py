"""Collecting on several ranks: what fails on one fails on all, and drift is that of all."""

from dataclasses import replace
from itertools import chain
from random import Random
from types import SimpleNamespace

import pytest
from processes import in_ranks

from minimind import ranks, runtime
from minimind.data.prompts import Prompt
from minimind.errors import UsageError, UserError
from minimind.rl.batch import minibatches
from minimind.rl.metrics import Meter, PolicyDrift
from minimind.rl.settings import RlConfig
from minimind.rl.stream import Collector, RolloutStream
from minimind.tokenizer.bpe import Tokenizer
from minimind.train.job import Halt

PROMPTS = [Prompt([{"role": "user", "content": f"{n} + 1?"}]) for n in range(4)]


def failing(samples):
    if runtime.rank() == 1:
        raise UserError("the server of rank 1 is gone")


def asked():
    """What each rank is told when the engine of one fails: in a rollout, and in a validation."""
    weights = SimpleNamespace(update_weights=lambda model: None)
    collector = Collector(RlConfig(groups=2), PROMPTS, Tokenizer.load("default"), weights, failing, None, 0)
    told = []
    for act in (lambda: collector.collect(runtime.rank(), 2), lambda: collector.validate(None, PROMPTS)):
        with pytest.raises(UserError) as error:
            act()
        assert isinstance(error.value, Halt) == bool(told), "the loop saves before a validation ends the run"
        told.append(str(error.value))
    return told


def test_what_fails_on_one_rank_fails_on_all():
    assert in_ranks(2, asked) == [["the server of rank 1 is gone"] * 2] * 2


class Coin:
    """Judges three of five groups to be useful: whose answers differ in their reward."""

    names = ("coin",)

    def __call__(self, samples):
        for number, one in enumerate(samples):
            differs = Random(one.group).random() < 0.6
            one.reward = one.rewards["coin"] = float(differs and number % 2)


def answered(samples):
    for one in samples:
        one.append([5], [0.0])


def taken(filter_groups):
    """Of each of some rollouts: how many prompts it asked, and what its minibatches hold, on all ranks together."""
    config = RlConfig(groups=4, samples=2, filter_groups=filter_groups)
    tokenizer, weights = Tokenizer.load("default"), SimpleNamespace(version=0)
    collector = Collector(config, PROMPTS, tokenizer, weights, answered, Coin(), 0)
    rollouts = []
    for number in range(8):
        samples = collector.collect(runtime.rank(), runtime.world_size())
        parts = [
            sorted(chain.from_iterable(ranks.all_gather([samples[i].group for i in part])))
            for part in minibatches(samples, 2, (0, number))
        ]
        rollouts.append((collector.prompt_stream.position, parts))
    return rollouts


@pytest.mark.parametrize("filter_groups", ["keep", "drop", "resample"])
def test_a_rollout_is_the_same_on_any_number_of_ranks(filter_groups):
    (alone,) = in_ranks(1, taken, filter_groups)
    assert filter_groups != "resample" or all(sum(map(len, parts)) == 8 for _, parts in alone)
    for world in (2, 4):
        assert in_ranks(world, taken, filter_groups) == [alone] * world


def kept():
    """Drift of two ranks, before and after it was in a checkpoint."""
    place, engine = SimpleNamespace(position=0), SimpleNamespace(version=0)
    collector = SimpleNamespace(prompts=PROMPTS, prompt_stream=place, engine=engine, meter=Meter())
    drift = PolicyDrift()
    stream = RolloutStream(collector, None, None, drift)
    drift.parts = [(1.0, 4.0, 2)] if runtime.is_main() else [(5.0, 2.0, 4)]
    state = stream.state_dict()
    before = drift.take()
    stream.load_state_dict(state)
    return before, drift.take()


@pytest.mark.parametrize("world", [1, 2])
def test_drift_is_that_of_all_ranks_after_a_checkpoint_too(world):
    for before, after in in_ranks(world, kept):
        assert before == after == ((1.0, 1.0) if world == 2 else (0.5, 2.0))


def test_a_run_does_not_go_on_with_other_prompts():
    def stream(prompts):
        weights = SimpleNamespace(update_weights=lambda model: None, version=0)
        collector = Collector(RlConfig(), prompts, Tokenizer.load("default"), weights, failing, None, 0)
        return RolloutStream(collector, None, None, PolicyDrift())

    state = stream(PROMPTS).state_dict()
    stream(list(PROMPTS)).load_state_dict(state)
    for others in (PROMPTS[:3], [*PROMPTS[:3], replace(PROMPTS[3], gt=["4"])], PROMPTS[::-1]):
        with pytest.raises(UserError, match="prompts are other ones now"):
            stream(others).load_state_dict(state)


def test_a_validation_begins_no_episode_as_the_run_does():
    """What an environment draws depends on the group."""
    groups, weights = [], SimpleNamespace(update_weights=lambda model: None)
    fill = lambda samples: groups.extend(sample.group for sample in samples)  # noqa: E731
    judge = type("Judge", (), {"names": [], "__call__": lambda self, samples: None})()
    collector = Collector(RlConfig(), PROMPTS, Tokenizer.load("default"), weights, fill, judge, 0)
    collector.validate(None, PROMPTS)
    assert groups
    assert max(groups) < 0


def test_a_limit_that_cannot_be_reached_is_refused():
    with pytest.raises(UsageError, match="one step"):
        RlConfig(stop_kl=0.1).check()
    RlConfig(stop_kl=0.1, epochs=2).check()
    with pytest.raises(UsageError, match=r"importance_limit = 0\.5 must be 0 or at least 1"):
        RlConfig(importance="mask", importance_limit=0.5).check()
