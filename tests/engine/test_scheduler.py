"""The scheduler alone: who runs when, in which row, and what is not computed twice."""

import random

import pytest

from minimind.engine.request import Request, Token
from minimind.engine.sampling import Sampling
from minimind.engine.scheduler import Scheduler


class Rig:
    """A scheduler with a pretended model: it notes what lies in each cache slot and checks every read of it."""

    def __init__(self, max_batch_size=3, context=64, chunk=16, exclusive=False):
        self.cells = [[None] * context for _ in range(max_batch_size)]
        self.copies = []
        self.scheduler = Scheduler(max_batch_size, context, chunk, self.copy, exclusive)
        self.computed = 0

    def copy(self, source, target, length):
        self.copies.append((source, target, length))
        self.cells[target][:length] = self.cells[source][:length]

    def add(self, ids, new=4):
        request = Request(list(ids), Sampling(), 0, len(ids) + new)
        self.scheduler.add(request)
        return request

    def step(self):
        spans = self.scheduler.plan()
        for row, start, end in spans:
            request = self.scheduler.running[row]
            whole = request.prompt_ids + request.ids
            assert self.scheduler.ids(row, start, end) == whole[start:end]
            self.cells[row][start:end] = whole[start:end]
            assert self.cells[row][:end] == whole[:end]  # all that attention will look at
            self.computed += end - start
        for span in spans:
            if request := self.scheduler.advance(span):
                request.tokens.append(Token(len(request) % 7, 0.0, 0.0, [], 0))
                self.scheduler.append(request, span.row)
                if len(request) == request.limit:
                    request.finish_reason = "length"
                    self.scheduler.remove(request)
        return spans

    def run(self):
        while self.scheduler.waiting or self.scheduler.running:
            assert self.step(), "nothing to do, and yet somebody waits"


def test_prompts_share_a_chunk_and_newest_tokens_come_first():
    rig = Rig(chunk=16)
    rig.add(range(100, 110))
    assert rig.step() == [(0, 0, 10)]
    rig.add(range(200, 230))
    rig.add(range(300, 305))
    assert rig.step() == [(0, 10, 11), (1, 0, 16)]
    assert rig.step() == [(0, 11, 12), (1, 16, 30), (2, 0, 2)]
    assert rig.step() == [(0, 12, 13), (1, 30, 31), (2, 2, 5)]


def test_more_requests_than_rows_wait_and_a_cancelled_one_frees_its_row_at_once():
    rig = Rig(max_batch_size=2)
    first, second, third, fourth = (rig.add([i * 10, i], new=30) for i in range(4))
    rig.step()
    assert list(rig.scheduler.running.values()) == [first, second]
    rig.scheduler.remove(first)
    rig.scheduler.remove(third)
    rig.step()
    assert rig.scheduler.running == {1: second, 0: fourth}
    assert not rig.scheduler.waiting
    assert rig.scheduler.free_rows == 0


def test_the_next_turn_of_a_conversation_continues_in_its_row():
    rig = Rig()
    first = rig.add(range(100, 120))
    rig.run()
    rig.computed = 0
    second = rig.add(first.prompt_ids + first.ids + [1, 2, 3])
    rig.run()
    assert second.cached_tokens == 23  # all but the last of the answer, which nobody has computed
    assert rig.computed == 27 - 23 + 3
    assert not rig.copies


def test_a_shared_beginning_is_computed_once_and_copied():
    rig = Rig(max_batch_size=4, chunk=64)
    system = list(range(100, 120))
    requests = [rig.add([*system, i, i, i]) for i in range(4)]
    rig.run()
    assert [r.cached_tokens for r in requests] == [0, 20, 20, 20]
    assert [length for _, _, length in rig.copies] == [20, 20, 20]


def test_what_was_used_longest_ago_is_overwritten_first():
    rig = Rig(max_batch_size=2)
    a, b = list(range(100, 120)), list(range(200, 220))
    for prompt in (a, b, a):
        rig.add(prompt)
        rig.run()
    rig.add(range(300, 320))  # takes the row of b
    rig.run()
    again = [rig.add(a), rig.add(b)]
    rig.run()
    assert [r.cached_tokens for r in again] == [19, 0]


def test_after_a_flush_running_requests_compute_everything_again():
    rig = Rig()
    request = rig.add(range(100, 110), new=6)
    rig.step(), rig.step()
    rig.scheduler.flush()
    assert rig.step() == [(0, 0, 12)]
    rig.run()
    assert len(request.tokens) == 6
    assert rig.add(range(100, 110)).cached_tokens == 0


def test_exclusive_passes_hold_one_chunk_or_newest_tokens_only():
    rig = Rig(exclusive=True)
    for i in range(6):
        rig.add(range(100, 120 + i))
    while rig.scheduler.waiting or rig.scheduler.running:
        sizes = [end - start for _, start, end in rig.step()]
        assert len(sizes) == 1 or set(sizes) == {1}
    assert not rig.copies


@pytest.mark.parametrize("seed", range(20))
def test_any_history_ends_and_reads_only_what_was_written(seed):
    dice = random.Random(seed)
    rig = Rig(max_batch_size=dice.randint(1, 5), chunk=dice.choice([1, 5, 16, 64]))
    beginnings = [[dice.randrange(7) for _ in range(40)] for _ in range(3)]
    requests = []
    for _ in range(60):
        for _ in range(dice.choice([0, 0, 1, 3])):
            ids = dice.choice(beginnings)[: dice.randint(1, 40)] + [dice.randrange(7)] * dice.randint(1, 10)
            requests.append(rig.add(ids, dice.randint(1, 12)))
        if requests and dice.random() < 0.2:
            rig.scheduler.remove(dice.choice(requests))
        if dice.random() < 0.05:
            rig.scheduler.flush()
        rig.step()
    rig.run()
    assert sum(r.cached_tokens for r in requests) > 0
