"""Collecting on several ranks: what fails on one fails on all, and drift is that of all."""

from types import SimpleNamespace

import pytest
from processes import in_ranks

from minimind import runtime
from minimind.data.prompts import Prompt
from minimind.errors import UsageError, UserError
from minimind.rl.metrics import Meter, PolicyDrift
from minimind.rl.settings import RlConfig
from minimind.rl.stream import Collector, RolloutStream
from minimind.tokenizer.bpe import Tokenizer

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
        told.append(str(error.value))
    return told


def test_what_fails_on_one_rank_fails_on_all():
    assert in_ranks(2, asked) == [["the server of rank 1 is gone"] * 2] * 2


def kept():
    """Drift of two ranks, before and after it was in a checkpoint."""
    collector = SimpleNamespace(
        prompt_stream=SimpleNamespace(position=0), engine=SimpleNamespace(version=0), meter=Meter()
    )
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


def test_a_limit_that_cannot_be_reached_is_refused():
    with pytest.raises(UsageError, match="one step"):
        RlConfig(stop_kl=0.1).check()
    RlConfig(stop_kl=0.1, epochs=2).check()
