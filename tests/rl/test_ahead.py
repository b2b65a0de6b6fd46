"""Rollouts ahead of the trainer: how far, how old, what is dropped, and how it ends."""

import threading
import time
from dataclasses import replace
from queue import SimpleQueue

import pytest
import torch
from toys import prompts

from minimind import runtime
from minimind.engine.generate import Completion
from minimind.engine.sampling import Sampling
from minimind.errors import UsageError, UserError
from minimind.model.attend import Segments
from minimind.model.qwen3 import Transformer
from minimind.rl.ahead import Ahead, BackgroundRollout, Producer
from minimind.rl.rollout import single_turn
from minimind.rl.settings import RlConfig
from minimind.stages import setup_rl


class Engine:
    """Answers when and by which weights the test says."""

    def __init__(self):
        self.ended, self.asked, self.version, self.closed = SimpleQueue(), {}, 0, False

    def submit(self, key, prompt_ids, sampling):
        assert key not in self.asked
        self.asked[key] = prompt_ids

    def update_weights(self, model):
        self.version += 1

    def close(self):
        self.closed = True

    def answer(self, key, versions=None):
        versions = [self.version] * 2 if versions is None else versions
        ids = [7 + key[1]] * len(versions)
        del self.asked[key]
        self.ended.put((key, Completion(ids, [-0.5] * len(ids), versions, "completed")))


class Judge:
    """Likes the later samples of a group; may fail."""

    names = ("late",)

    def __init__(self):
        self.error = None

    def __call__(self, samples):
        if self.error:
            raise self.error
        for number, sample in enumerate(samples):
            sample.rewards, sample.reward = {"late": float(number)}, float(number)


def ahead(tokenizer, staleness, groups=2, **changes):
    config = RlConfig(groups=groups, samples=2, staleness=staleness, **changes)
    return Ahead(config, prompts(*(f"{n} + 1?" for n in range(50))), tokenizer, Engine(), single_turn, Judge(), 0)


class Steps:
    """The producer's steps, made by the test instead of a thread."""

    def __init__(self, collector):
        self.collector, self.engine = collector, collector.engine
        collector.producer = self.producer = Producer(collector, self.engine, single_turn, collector._ready)
        self.new_weights()
        self.producer.begin_groups()

    def new_weights(self):
        self.engine.update_weights(None)

    @property
    def places(self):
        """Of the groups that are being answered."""
        return sorted({group.place for group, _ in self.engine.asked})

    def answer(self, place, versions=None):
        for key in [key for key in self.engine.asked if key[0].place == place]:
            self.engine.answer(key, versions)
        self.go_on()

    def go_on(self):
        while not self.engine.ended.empty():
            assert self.producer.advance(*self.engine.ended.get())

    def learn(self):
        """Take a rollout, hand over new weights; the places that were taken, and the figures."""
        samples = self.collector.collect(0, 1)
        self.go_on()
        self.new_weights()
        return sorted({sample.group for sample in samples}), self.collector.meter.take()


@pytest.mark.parametrize("staleness", [1, 2, 4])
def test_it_is_never_further_ahead_than_allowed(tokenizer, staleness):
    steps = Steps(ahead(tokenizer, staleness))
    expected = 2 * staleness
    for version in range(1, 8):
        assert len(steps.places) == expected
        for place in steps.places:
            steps.answer(place, [max(1, version - 1)] * 3)  # before the newest weights were there
        assert not steps.engine.asked, "nothing more is begun, however long the trainer takes"
        assert steps.producer.idle_since is not None
        taken, figures = steps.learn()
        assert taken == [2 * version - 2, 2 * version - 1]
        assert figures["staleness"] == min(staleness, version - 1)
        assert figures["stale_groups"] == 0
        assert figures["engine_wait_seconds"] > 0
        expected = 2  # as many as were taken


def test_an_episode_in_which_nothing_is_asked_is_over_at_once(tokenizer):
    collector = ahead(tokenizer, 1)

    def every_second(sample):
        if sample.group % 2:
            sample.status = "failed"
            return
        yield from single_turn(sample)

    Producer(collector, collector.engine, every_second, collector._ready).begin_groups()
    assert {group.place for group, _ in collector.engine.asked} == {0}
    assert collector._ready.get(timeout=1).place == 1


def test_a_token_has_the_version_that_drew_it(tokenizer):
    steps = Steps(ahead(tokenizer, 2, groups=1))
    steps.answer(0, [1, 1])
    taken, figures = steps.learn()
    assert (taken, figures["staleness"]) == ([0], 0)
    steps.answer(1, [1, 2, 2, 2])
    samples = steps.collector.collect(0, 1)
    assert [sample.versions for sample in samples] == [[1, 2, 2, 2]] * 2
    assert steps.collector.meter.take()["staleness"] == 0.25
    assert all(sample.log_probs == [-0.5] * 4 for sample in samples)


def test_a_validation_makes_nothing_older(tokenizer):
    """It brings the engine weights as well, which are no rollout's."""
    steps = Steps(ahead(tokenizer, 1, groups=1))
    steps.answer(0)
    assert steps.learn()[1]["staleness"] == 0
    steps.new_weights()
    steps.new_weights()
    steps.answer(1, [1, 2, 4])
    assert steps.learn()[1]["staleness"] == pytest.approx(2 / 3), "1 and 2 were there before this rollout, not three"


def test_what_others_overtook_is_dropped_and_counted(tokenizer):
    steps = Steps(ahead(tokenizer, 2, groups=1))
    prompt_stream = steps.collector.prompt_stream
    for place in (1, 2, 3):  # 0 is still being written
        steps.answer(place)
        assert steps.learn()[0] == [place]
    assert prompt_stream.position == 0, "a run that is continued asks it again"
    steps.answer(0, [1, 4])
    steps.answer(4)
    taken, figures = steps.learn()
    assert taken == [4]
    assert figures["stale_groups"] == 0.5
    assert prompt_stream.position == 5
    assert not steps.engine.asked.keys() - {key for key in steps.engine.asked if key[0].place in (5, 6)}


def test_groups_are_taken_as_they_end(tokenizer):
    steps = Steps(ahead(tokenizer, 2, groups=1))
    steps.answer(1, [1])
    assert steps.learn()[0] == [1]
    steps.answer(0, [1, 2])
    taken, figures = steps.learn()
    assert (taken, figures["staleness"], figures["stale_groups"]) == ([0], 0.5, 0)


def in_time(act, seconds=20):
    """What `act` gives or raises, in a thread of its own: nothing here may wait for ever."""
    found = []

    def call():
        try:
            found.append(act())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, "it hangs"
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def answering(collector):
    """Let the engine answer everything at once."""

    def submit(key, prompt_ids, sampling):
        collector.engine.asked[key] = prompt_ids
        collector.engine.answer(key)

    collector.engine.submit = submit


def test_the_thread_fills_what_a_validation_asks_and_ends(tokenizer):
    collector = ahead(tokenizer, 1)
    answering(collector)
    assert len(in_time(lambda: collector.collect(0, 1))) == 4
    assert in_time(lambda: collector.validate(None, collector.prompts[:3])) == {"late": 1.0, "greedy_late": 1.0}
    in_time(collector.close)
    assert not collector.producer.is_alive()
    assert collector.engine.closed


@pytest.mark.parametrize("where", ["judge", "engine"])
def test_what_fails_in_the_thread_is_said_by_the_trainer(tokenizer, where):
    collector = ahead(tokenizer, 1)
    answering(collector)
    in_time(lambda: collector.collect(0, 1))
    if where == "judge":
        collector.rewards.error = UserError("the judge is gone")
    else:
        collector.engine.ended.put((None, UserError("the judge is gone")))
    acts = [lambda: [collector.collect(0, 1) for _ in range(3)], lambda: collector.validate(None, collector.prompts)]
    for act in acts * 2:
        with pytest.raises(UserError, match="the judge is gone"):
            in_time(act)
    in_time(collector.close)
    assert not collector.producer.is_alive()


def test_it_ends_while_the_engine_says_nothing(tokenizer):
    collector = ahead(tokenizer, 1)
    waiting = threading.Thread(target=lambda: collector.collect(0, 1), daemon=True)
    waiting.start()
    while not collector.engine.asked:
        time.sleep(0.01)
    in_time(collector.close)
    assert not collector.producer.is_alive()


# The engine beside the trainer


def test_weights_change_between_two_tokens(model):
    """Each token has the log-probability that the weights of its version give it, after all that stands before it."""
    engine, prompt = BackgroundRollout(model, 2, 256, torch.float32), [1, 40, 41]
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    thread = engine._thread
    step = thread.engine.step

    def until_five():
        outputs = step()
        if any(len(one.tokens) == 5 for one in thread.engine._scheduler.running):
            thread.pause()
        return outputs

    thread.engine.step = until_five
    engine.submit("x", prompt, Sampling(max_new_tokens=200, seed=3))
    while not thread.paused:
        time.sleep(0.001)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    engine.update_weights(model)
    thread.resume()
    after = {name: weight.clone() for name, weight in model.state_dict().items()}
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()  # it goes on learning
    key, found = in_time(engine.ended.get)
    assert key == "x"
    assert found.versions == sorted(found.versions)
    assert set(found.versions) == {0, 1}
    assert found.versions[4] == 0
    ids_BT = torch.tensor([prompt + found.ids])
    for version, weights in enumerate((before, after)):
        policy = Transformer(model.config)
        policy.load_state_dict(weights)
        with torch.no_grad():
            log_probs_TV = policy.logits(policy(ids_BT, Segments.whole(ids_BT)).states)[0].log_softmax(-1)
        for place, (id, own) in enumerate(zip(found.ids, found.versions, strict=True)):
            near = pytest.approx(log_probs_TV[len(prompt) - 1 + place, id].item(), abs=1e-3)
            assert own != version or found.log_probs[place] == near
    engine.version = 7  # as a run that is continued says
    engine.update_weights(model)
    assert engine.version == 8
    in_time(engine.close)


def test_a_prompt_that_the_engine_cannot_take_is_refused_at_once(model):
    engine = BackgroundRollout(model, 2, 64, torch.float32)
    with pytest.raises(UsageError, match="64"):
        engine.submit("x", [1] * 64, Sampling())
    in_time(engine.close)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"staleness": -1}, "rl.staleness"),
        ({"staleness": 1, "importance_limit": 0.0}, "rl.staleness needs rl.importance_limit"),
        ({"staleness": 1, "replay": "kept"}, "rl.replay has no engine that could be ahead"),
    ],
)
def test_settings_that_do_not_go_together(changes, said):
    with pytest.raises(UsageError, match=said):
        RlConfig(**changes).check()


@pytest.mark.parametrize("what", ["ranks", "deterministic", "distill"])
def test_what_cannot_be_ahead_is_refused_before_anything_else(recipe, model, tokenizer, monkeypatch, what):
    recipe.rl = replace(recipe.rl, staleness=1)
    if what == "ranks":
        monkeypatch.setattr(runtime, "world_size", lambda: 2)
    elif what == "deterministic":
        recipe.train.deterministic = True
    else:
        recipe.stage = "distill"
    said = {
        "ranks": "is for one process",
        "deterministic": "depend on the clock",
        "distill": "what the student says now",
    }
    with pytest.raises(UsageError, match=said[what]):
        setup_rl.make_collector(recipe, model, tokenizer)
