"""The scheduler alone: who runs when, in which pages, and what is not computed twice."""

import random

import pytest

from minimind.engine.pages import Pages
from minimind.engine.request import Request, Token
from minimind.engine.sampling import Sampling
from minimind.engine.scheduler import Scheduler
from minimind.model.cache import PAGE


class Rig:
    """A scheduler with a pretended model: it notes what lies in each slot of the cache and checks every read of it."""

    def __init__(self, max_batch_size=3, pages=30, chunk=16, exclusive=False):
        self.cells = [[None] * PAGE for _ in range(pages)]
        self.pages = Pages(pages)
        self.scheduler = Scheduler(self.pages, max_batch_size, chunk, exclusive)
        self.computed = self.preempted = 0

    def add(self, ids, new=4, variant=None):
        request = Request(list(ids), Sampling(), 0, len(ids) + new, variant)
        self.scheduler.add(request)
        return request

    def step(self):
        running = list(self.scheduler.running)
        plan = self.scheduler.plan()
        self.preempted += sum(request in self.scheduler.waiting for request in running)
        for request, (pages, start, end) in plan.items():
            whole = request.prompt_ids + request.ids
            assert request.ids_at(start, end) == whole[start:end]
            for at in range(start, end):
                self.cells[pages[at // PAGE]][at % PAGE] = whole[at], request.variant
            self.computed += end - start
        for request, (pages, _, end) in plan.items():  # all that attention looks at
            whole = request.prompt_ids + request.ids
            assert [self.cells[pages[at // PAGE]][at % PAGE] for at in range(end)] == [
                (id, request.variant) for id in whole[:end]
            ]
        for request, span in plan.items():
            if self.scheduler.advance(request, span):
                request.tokens.append(Token(len(request) % 7, 0.0, 0.0, [], 0))
                if len(request) == request.limit:
                    request.finish_reason = "length"
                    self.scheduler.remove(request)
        return [(start, end) for _, start, end in plan.values()]

    def run(self):
        while self.scheduler.waiting or self.scheduler.running:
            assert self.step(), "nothing to do, and yet somebody waits"
        assert self.pages.free == len(self.cells)


def test_prompts_share_a_chunk_and_newest_tokens_come_first():
    rig = Rig(chunk=16)
    rig.add(range(100, 110))
    assert rig.step() == [(0, 10)]
    rig.add(range(200, 230))
    rig.add(range(300, 305))
    assert rig.step() == [(10, 11), (0, 16)]
    assert rig.step() == [(11, 12), (16, 30), (0, 2)]
    assert rig.step() == [(12, 13), (30, 31), (2, 5)]


def test_more_requests_than_places_wait_and_a_cancelled_one_leaves_its_place_at_once():
    rig = Rig(max_batch_size=2)
    first, second, third, fourth = (rig.add([i * 10, i], new=30) for i in range(4))
    rig.step()
    assert rig.scheduler.running == [first, second]
    rig.scheduler.remove(first)
    rig.scheduler.remove(third)
    rig.step()
    assert rig.scheduler.running == [second, fourth]
    assert not rig.scheduler.waiting


def test_the_next_turn_of_a_conversation_finds_the_pages_of_those_before():
    rig = Rig()
    first = rig.add(range(100, 150), new=20)
    rig.run()
    rig.computed = 0
    second = rig.add(first.prompt_ids + first.ids + [1, 2, 3])
    rig.run()
    assert second.cached_tokens == 4 * PAGE  # what 69 tokens fill; nobody has computed the last of the answer
    assert rig.computed == 73 - 4 * PAGE + 3


def test_a_shared_beginning_is_computed_once_and_lies_in_the_same_pages():
    rig = Rig(max_batch_size=4, chunk=64)
    system = list(range(100, 140))
    requests = [rig.add([*system, i, i, i], new=9) for i in range(4)]
    rig.step()
    assert rig.scheduler.running == requests[:1], "the others wait for what it computes"
    rig.step()
    assert len({tuple(request.pages[:2]) for request in requests}) == 1
    assert len({request.pages[2] for request in requests}) == 4
    assert rig.pages.free == 30 - 2 - 4
    rig.run()
    assert [r.cached_tokens for r in requests] == [0, 2 * PAGE, 2 * PAGE, 2 * PAGE]
    assert rig.computed == 43 + 3 * (43 - 2 * PAGE) + 4 * 8


def test_what_was_used_longest_ago_is_overwritten_first():
    rig = Rig(pages=5)
    a, b = list(range(100, 140)), list(range(200, 240))
    for prompt in (a, b, a):
        rig.add(prompt)
        rig.run()
    rig.add(range(300, 320))  # in the page that nobody named, and in the last named one of b
    rig.run()
    again = [rig.add(prompt) for prompt in (a, b)]
    rig.run()
    assert [r.cached_tokens for r in again] == [2 * PAGE, PAGE]


def test_another_variant_shares_nothing():
    rig = Rig(chunk=64)
    requests = [rig.add(range(100, 140), variant=name) for name in (None, "red", "red", None)]
    rig.run()
    assert [r.cached_tokens for r in requests] == [0, 0, 2 * PAGE, 2 * PAGE]


def test_after_a_flush_running_requests_compute_everything_again():
    rig = Rig(chunk=64)
    request, other = (rig.add(range(100, 140), new=6) for _ in range(2))
    rig.step(), rig.step(), rig.step()
    rig.scheduler.flush()
    known = len(request)
    assert rig.step() == [(0, known)], "the other waits for what they share"
    rig.run()
    assert (len(request.tokens), len(other.tokens)) == (6, 6)
    assert rig.add(range(100, 140)).cached_tokens == 0


def test_who_came_last_gives_way_and_goes_on_later():
    rig = Rig(max_batch_size=4, pages=5, chunk=64)
    requests = [rig.add([i] * 20, new=40) for i in range(1, 4)]
    rig.step()
    assert rig.scheduler.running == requests[:2], "the third finds no two pages"
    while len(rig.scheduler.running) == 2:
        rig.step()
    assert rig.scheduler.running == requests[:1]
    assert list(rig.scheduler.waiting) == requests[1:], "first come, first served"
    before = len(requests[1].tokens)
    assert before > 0
    rig.run()
    assert rig.preempted > 0
    assert [len(request.tokens) for request in requests] == [40, 40, 40]


def test_in_exclusive_mode_nobody_has_to_give_way():
    rig = Rig(max_batch_size=4, pages=9, chunk=64, exclusive=True)
    requests = [rig.add([i] * 20, new=40) for i in range(1, 4)]
    rig.step()
    assert rig.scheduler.running == requests[:2]
    rig.run()
    assert rig.preempted == 0


def test_exclusive_passes_hold_one_chunk_or_newest_tokens_only():
    rig = Rig(exclusive=True)
    requests = [rig.add(range(100, 120 + i)) for i in range(6)]
    while rig.scheduler.waiting or rig.scheduler.running:
        sizes = [end - start for start, end in rig.step()]
        assert len(sizes) == 1 or set(sizes) == {1}
    assert not any(request.cached_tokens for request in requests)


@pytest.mark.parametrize("seed", range(20))
def test_any_history_ends_and_reads_only_what_was_written(seed):
    dice = random.Random(seed)
    pages = dice.choice([8, 12, 40])
    rig = Rig(max_batch_size=dice.randint(1, 8), pages=pages, chunk=dice.choice([1, 5, 16, 64]))
    beginnings = [[dice.randrange(7) for _ in range(70)] for _ in range(3)]
    requests = []
    for _ in range(60):
        for _ in range(dice.choice([0, 0, 1, 3])):
            ids = dice.choice(beginnings)[: dice.randint(1, 70)] + [dice.randrange(7)] * dice.randint(1, 10)
            requests.append(rig.add(ids, dice.randint(1, 40), dice.choice([None, None, "red"])))
        if requests and dice.random() < 0.2:
            rig.scheduler.remove(dice.choice(requests))
        if dice.random() < 0.05:
            rig.scheduler.flush()
        rig.step()
    rig.run()
    assert sum(r.cached_tokens for r in requests) > 0
