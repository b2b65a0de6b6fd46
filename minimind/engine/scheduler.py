"""Who runs in the next pass, and in which pages of the cache: plain Python, without a model.

A request runs while there are pages for all tokens that it has so far. It gets one more when its answer grows into it;
when there is none, the request that came last gives its pages back and waits (*preemption*): later it computes its
tokens again, but for those that are still in the cache, and goes on as if nothing had been.
"""

from collections import deque

from minimind.engine.pages import Pages, first_name, next_name
from minimind.engine.request import Request
from minimind.model.cache import PAGE, Span, pages_of


class Scheduler:
    """Queue, pages and chunks.

    Args:
        pages: of the cache; one sequence alone must find room in them.
        max_batch_size: how many requests run at once.
        chunk: most prompt tokens of a pass.
        exclusive: compute each chunk of a prompt in a pass of its own, and nothing twice or in another way: reuse no
            page, and admit a request only when there are pages for its longest answer.
    """

    def __init__(self, pages: Pages, max_batch_size: int, chunk: int, exclusive: bool = False) -> None:
        self.max_batch_size, self.chunk, self.exclusive = max_batch_size, chunk, exclusive
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        """In the order in which they were admitted."""
        self._pages = pages

    def add(self, request: Request) -> None:
        """Put a request at the end of the queue."""
        self.waiting.append(request)

    def remove(self, request: Request) -> None:
        """Forget a request that has finished or was cancelled; its pages are free at once."""
        if request in self.running:
            self.running.remove(request)
            self._pages.release(request.pages)
            request.pages = []
        elif request in self.waiting:
            self.waiting.remove(request)

    def plan(self) -> dict[Request, Span]:
        """Admit who finds a place and pages, and choose the tokens of the next pass.

        Every running sequence whose prompt is through gets its newest token; prompts share what `chunk` leaves, first
        come first served, so that a long one delays the others by no more than a chunk a token.
        """
        self._admit()
        newest: dict[Request, Span] = {}
        stretches: dict[Request, Span] = {}
        budget, place = self.chunk, 0
        while place < len(self.running):  # it shrinks at its end where somebody is preempted
            request = self.running[place]
            place += 1
            left = len(request) - request.computed
            if left == 1:
                if self._grow(request):
                    newest[request] = Span(request.pages, request.computed, len(request))
            elif budget:
                tokens = min(left, budget)
                stretches[request] = Span(request.pages, request.computed, request.computed + tokens)
                budget -= tokens
        if self.exclusive and stretches:
            return dict([next(iter(stretches.items()))])
        return newest | stretches

    def advance(self, request: Request, span: Span) -> bool:
        """Note that a span is in the cache; whether that was all its request had, so that it needs a token."""
        request.computed = span.end
        if not self.exclusive:
            full = span.end // PAGE
            self._name(request, full)
            for place in range(span.start // PAGE, full):
                self._pages.name(request.pages[place], request.page_names[place])
        return span.end == len(request)

    def flush(self) -> None:
        """Forget everything computed (the weights have changed); running requests compute their tokens again.

        What comes next is then done as by a new engine, in the same order and so with the same bits (a run of
        reinforcement learning that is resumed has a new one).
        """
        while self.running:
            self._preempt()
        self._pages.forget()

    def _admit(self) -> None:
        for request in list(self.waiting):
            if len(self.running) == self.max_batch_size:
                return
            found: list[int] = []
            if not (self.exclusive or request.reads_prompt):
                last = (len(request) - 1) // PAGE  # one token is left: what follows it is asked for
                self._name(request, last)
                found = self._pages.find(request.page_names[:last])
                if len(found) < last and self._is_coming(request.page_names[len(found)], len(found)):
                    continue
            tokens = request.limit if self.exclusive else len(request)
            pages = self._pages.take(pages_of(tokens) - len(found), found)
            if pages is None:
                return  # whoever came later waits too, or a long prompt would never find room
            self.waiting.remove(request)
            self.running.append(request)
            request.pages, request.computed = pages, len(found) * PAGE
            if not request.tokens:
                request.cached_tokens = request.computed

    def _is_coming(self, name: bytes, place: int) -> bool:
        """Whether the page of that name, the one at `place` in its table, is being computed for somebody who runs."""
        return any(
            request.page_names[place : place + 1] == [name] and request.computed < (place + 1) * PAGE
            for request in self.running
        )

    def _grow(self, request: Request) -> bool:
        """Give a request the page that its newest token goes into; False if it had to leave instead."""
        while len(request.pages) < pages_of(len(request)):
            if page := self._pages.take(1):
                request.pages += page
            elif self._preempt() is request:
                return False
        return True

    def _preempt(self) -> Request:
        """Let the request that was admitted last wait, before all others."""
        request = self.running.pop()
        self._pages.release(request.pages)
        request.pages, request.computed = [], 0
        self.waiting.appendleft(request)
        return request

    def _name(self, request: Request, count: int) -> None:
        """Name the first `count` pages of a request, all of which its tokens fill."""
        names = request.page_names
        for place in range(len(names), count):
            before = names[-1] if names else first_name((request.variant, request.salt))
            names.append(next_name(before, request.ids_at(place * PAGE, (place + 1) * PAGE)))
