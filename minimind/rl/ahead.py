"""Rollouts that go on while the trainer learns: `rl.staleness` = N above 0.

    engine     writes answers with the newest weights that it was given; they may change between two tokens
    producer   a thread: begins a group wherever fewer than N · groups are on their way, and judges those that ended
    trainer    takes a rollout's groups in the order in which they ended, learns, and hands over new weights

A version of the policy is what it is when a rollout is taken. Fewer than N rollouts can come before a group that has
just been begun, so it is at most N versions old when it is learned from, unless its answers are so long that others
overtake it: such a group is dropped, and counted. Each token comes with the version and the log-probability of the
weights that drew it; what the policy has become since is made up for, token by token, by an importance weight
(`truncated_importance` or `masked_importance` of `losses/policy.py`).

The threads share two queues and little else: `ended` of the engine, by which the producer is told what to do as well,
and `ready`. What becomes of a group depends on the clock, so that such a run cannot be repeated to the bit.
"""

import time
from bisect import bisect_right
from collections.abc import Sequence
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol

import torch

from minimind.data.prompts import Prompt
from minimind.engine.background import EngineThread
from minimind.engine.engine import Engine
from minimind.engine.generate import Ask, Completion
from minimind.engine.request import Output
from minimind.engine.sampling import Sampling
from minimind.model.qwen3 import Transformer
from minimind.rl.rollout import Episode, Generate, Sample, Weights, following
from minimind.rl.settings import RlConfig
from minimind.rl.stream import Collector, Judge
from minimind.tokenizer.bpe import Tokenizer
from minimind.train import parallel

TAKEN, PLAY, STOP = "taken", "play", "stop"
"""What the producer can be told, in the place of an answer's key: a group was taken; fill this one; end."""
PATIENCE = 5.0
"""Seconds that the end of the thread is waited for: it may be in the middle of a reward."""


class Background(Weights, Protocol):
    """What answers prompts while somebody else does something else; all of it may be called from any thread.

    New weights take effect between two tokens: answers that are being written go on with them.
    """

    ended: SimpleQueue[tuple[Any, Any]]
    """Key and `Completion` of each answer that was asked for, as it ends, or the exception that came of it."""

    def submit(self, key: Any, prompt_ids: Sequence[int], sampling: Sampling) -> None:
        """Ask for a completion; it is put into `ended` with its key."""

    def close(self) -> None:
        """Answer nothing more."""


class BackgroundRollout:
    """The engine in a thread of this process, with weights of its own: those of the trainer change while it answers.

    Args:
        model: the policy.
        max_batch_size: how many answers are written at once.
        context: most tokens of a prompt with its answer.
        dtype: of the engine.
    """

    def __init__(self, model: Transformer, max_batch_size: int, context: int, dtype: torch.dtype) -> None:
        engine = Engine(parallel.plain_copy(model, dtype), max_batch_size=max_batch_size, context=context)
        self._thread = EngineThread(engine)
        self.ended: SimpleQueue[tuple[Any, Any]] = SimpleQueue()

    @property
    def version(self) -> int:
        """How often the weights were changed."""
        return self._thread.engine.version

    @version.setter
    def version(self, version: int) -> None:
        self._thread.engine.version = version

    def submit(self, key: Any, prompt_ids: Sequence[int], sampling: Sampling) -> None:
        """Ask for a completion; it is put into `ended` with its key."""
        self._thread.engine.check(prompt_ids, sampling)

        def hear(output: Output | BaseException) -> None:
            if isinstance(output, BaseException):
                self.ended.put((key, output))
            elif output.finish_reason:
                self.ended.put((key, Completion.of(output.request)))

        self._thread.submit(hear, prompt_ids, sampling)

    def update_weights(self, model: Transformer) -> None:
        """Answer with the weights of `model` from the next token on."""
        weights = parallel.plain_weights(model)
        self._thread.post(lambda engine: engine.update_weights(weights)).result()

    def close(self) -> None:
        """End the thread, and with it every answer."""
        self._thread.close()


class Group:
    """Samples that are filled together, by an episode each; then the group is put into `out`, or what went wrong."""

    def __init__(self, samples: Sequence[Sample], place: int | None, out: "Out") -> None:
        self.samples, self.place, self.out = samples, place, out
        self.episodes: list[Episode] = []
        self.open = len(samples)


Out = SimpleQueue[Group | BaseException]


class Producer(Thread):
    """Begins the groups of `collector`, carries them to their end, has them judged, and puts them into `ready`."""

    def __init__(self, collector: Collector, engine: Background, generate: Generate, ready: Out) -> None:
        super().__init__(name="producer", daemon=True)
        self.collector, self.engine, self.generate, self.ready = collector, engine, generate, ready
        self.place = collector.prompt_stream.position
        """Of the next group in the run."""
        self.room = collector.config.staleness * collector.config.groups
        """How many groups may be begun."""
        self.open: set[Group] = set()
        """Those that are being answered."""
        self.idle_since: float | None = None
        """When the engine was left without work, if it is."""

    def run(self) -> None:
        """Produce until told to stop. After something went wrong, whoever waits for a group is told what."""
        try:
            self.begin_groups()
            while self.advance(*self.engine.ended.get()):
                pass
        except BaseException as error:
            for out in {self.ready, *(group.out for group in self.open)}:
                out.put(error)
            while (told := self.engine.ended.get())[0] != STOP:
                if told[0] == PLAY:
                    told[1].out.put(error)

    def begin_groups(self) -> None:
        """Begin as many groups as there is room for."""
        for _ in range(self.room):
            self._begin(Group(self.collector.group(self.place), self.place, self.ready))
            self.place += 1
        self.room = 0

    def advance(self, key: Any, found: Any) -> bool:
        """Go on with what `ended` has held: an answer, or something to do; whether to go on after that."""
        if isinstance(found, BaseException):
            raise found
        if key == STOP:
            return False
        if key == TAKEN:
            self.room += 1
        elif key == PLAY:
            self._begin(found)
        else:
            group, number = key
            self._ask(group, number, following(group.episodes[number], found))
        self.begin_groups()
        if self.open:
            self.idle_since = None
        elif self.idle_since is None:
            self.idle_since = time.monotonic()
        return True

    def _begin(self, group: Group) -> None:
        self.open.add(group)
        for number, sample in enumerate(group.samples):
            group.episodes.append(self.generate(sample))
            self._ask(group, number, next(group.episodes[number], None))

    def _ask(self, group: Group, number: int, ask: Ask | None) -> None:
        """Go on with one episode of a group; None: it is over, and with the last of them the group."""
        if ask is not None:
            self.engine.submit((group, number), *ask)
            return
        group.open -= 1
        if not group.open:
            if group.place is not None:
                self.collector.judge(group.samples)
            self.open.remove(group)
            group.out.put(group)


class Ahead(Collector):
    """Collects judged samples that a thread has had answered ahead, by an `engine` that has weights of its own.

    The other arguments are those of `Collector`; `generate` says how one sample is filled.
    """

    engine: Background

    def __init__(
        self,
        config: RlConfig,
        prompts: Sequence[Prompt],
        tokenizer: Tokenizer,
        engine: Background,
        generate: Generate,
        rewards: Judge,
        seed: int,
    ) -> None:
        super().__init__(config, prompts, tokenizer, engine, self._play, rewards, seed)
        self.generate = generate
        self.producer: Producer | None = None
        self._ready: Out = SimpleQueue()
        self._versions: list[int] = []
        """What the engine called the weights at the beginning of each rollout: a validation brings it some, too."""
        self._taken: set[int] = set()
        """Places of groups that were taken before an earlier one."""
        self._taken_at = time.monotonic()

    def collect(self, rank: int, world: int) -> list[Sample]:
        """As `Collector.collect`, of samples that are not older than allowed."""
        self._versions.append(self.engine.version)
        return super().collect(rank, world)

    def next_groups(self, rank: int, share: int, world: int) -> list[list[Sample]]:
        """Groups in the order in which they ended; waits until there are so many that are not stale."""
        producer, since = self._running(), time.monotonic()
        idle = since - max(producer.idle_since or since, self._taken_at)
        groups: list[list[Sample]] = []
        stale = 0
        while len(groups) < share:
            group = self._next(self._ready)
            self.engine.ended.put((TAKEN, None))
            self._note(group)
            if max(self._ages(group.samples), default=0) > self.config.staleness:
                stale += 1
            else:
                groups.append(list(group.samples))
        now = time.monotonic()
        samples = [sample for group in groups for sample in group]
        ages = self._ages(samples)
        self.meter.add("staleness", sum(ages), len(ages))
        self.meter.add("stale_groups", stale, stale + len(groups))
        self.meter.add("trainer_wait_seconds", now - since, 1)
        self.meter.add("engine_wait_seconds", idle, 1)
        self.meter.add("rollout_tokens_per_second", len(ages), now - self._taken_at - idle)
        self._taken_at = now
        self.last_rollout += samples
        self.measure(samples)
        return groups

    def close(self) -> None:
        """End the thread and the engine."""
        if self.producer:
            self.engine.ended.put((STOP, None))
            self.producer.join(PATIENCE)
        self.engine.close()

    def _running(self) -> Producer:
        """The thread; it begins when it is first needed, where the prompts are then."""
        if self.producer is None:
            self.producer = Producer(self, self.engine, self.generate, self._ready)
            self.producer.start()
        return self.producer

    def _play(self, samples: Sequence[Sample]) -> None:
        """Have samples of a validation filled beside the others."""
        self._running()
        group = Group(samples, None, SimpleQueue())
        self.engine.ended.put((PLAY, group))
        self._next(group.out)

    def _next(self, out: Out) -> Group:
        found = out.get()
        if isinstance(found, BaseException):
            out.put(found)  # for whoever asks again
            raise found
        return found

    def _note(self, group: Group) -> None:
        """Move on to the first place of which no group was taken: a run that is continued begins there."""
        assert group.place is not None
        self._taken.add(group.place)
        while self.prompt_stream.position in self._taken:
            self._taken.remove(self.prompt_stream.position)
            self.prompt_stream.position += 1

    def _ages(self, samples: Sequence[Sample]) -> list[int]:
        """How many versions older than the policy each token is that it chose."""
        versions = [version for sample in samples for version in sample.versions if version >= 0]
        age = {version: len(self._versions) - bisect_right(self._versions, version) for version in set(versions)}
        return [age[version] for version in versions]
