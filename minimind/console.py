"""Everything the user sees on a terminal: messages, tables and progress bars go to stderr, results to stdout.

So `minimind ... --json > figures.json` keeps the figures apart from the talk. All text is plain: names of files and
models, and what models say, may hold brackets and colons, which `rich` would read as markup. Lines are never broken:
a terminal does that itself, and in a pipe a path must stay whole.
"""

import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from minimind import runtime
from minimind.text import write_json

PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False, "soft_wrap": True}


class _Results(Console):
    """Lets the error of a pipe whose reader has gone through: it is no failure (`cli.main`)."""

    def on_broken_pipe(self) -> None:
        """Called by rich where it handles that error; its own way is to end the program as failed."""
        raise


class _Talk(Console):
    """Drops what cannot be written: the work does not end with the terminal or the `tee` that shows it."""

    def _write_buffer(self) -> None:
        try:
            super()._write_buffer()
        except (OSError, RuntimeError):  # the latter where a signal's handler speaks in the middle of a write
            del self._buffer[:]


console = _Talk(stderr=True, quiet=not runtime.is_main(), **PLAIN)
T = TypeVar("T")
UNLIMITED = 100_000
"""Columns of a table that goes to a file or a pipe."""
BLOCKS = "▁▂▃▄▅▆▇█"


def say(*parts: str | Text) -> None:
    """Print one message about what happens, put together from plain text and `bold` or `dim` parts."""
    console.print(Text.assemble(*parts))


def bold(text: object) -> Text:
    """The part of a message that counts most."""
    return Text(str(text), style="bold")


def dim(text: object) -> Text:
    """A message that can be passed over."""
    return Text(str(text), style="dim")


def warn(message: str) -> None:
    """Print one line that the user should read, without stopping."""
    say(Text("warning: ", style="yellow"), message)


@contextmanager
def hushed() -> Iterator[None]:
    """Let libraries log errors alone while the block runs: what they try again, or why it failed, is ours to say."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def print_json(figures: dict[str, Any]) -> None:
    """Print `figures` as one line of JSON, the last line of stdout; under torchrun rank 0 does."""
    if not runtime.is_main():
        return
    sys.stdout.write(write_json(figures) + "\n")
    sys.stdout.flush()


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on stdout; the first column is text, the others are figures."""
    grid = Table(header_style="bold", collapse_padding=True)  # the demo's eight stages fit 80 columns
    for index, column in enumerate(columns):
        grid.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        grid.add_row(*(format_figure(cell) for cell in row))
    out = results()
    out.print(title, style="italic")
    out.print(grid, soft_wrap=False)


def results() -> Console:
    """What prints on stdout; a file or a pipe has lines as long as they need to be."""
    return _Results(file=sys.stdout, width=None if sys.stdout.isatty() else UNLIMITED, **PLAIN)


def format_figure(value: object) -> str:
    """Format a number as people read it: 64,123,456 · 0.953 · 3.1e-05."""
    if isinstance(value, bool) or value is None:
        return "–" if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"
    return str(value)


def duration(seconds: float) -> str:
    """Write a time as a clock does, 0:01:05, or from 100 hours on in days."""
    return str(timedelta(seconds=round(seconds))) if seconds < 360_000 else f"{seconds / 86_400:,.0f} days"


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """A curve of at most `width` characters: its lowest point is the lowest block, its highest the full one.

    What is not finite is left out.
    """
    values = [value for value in values if math.isfinite(value)]
    count = min(width, len(values))
    parts = [values[len(values) * i // count : len(values) * (i + 1) // count] for i in range(count)]
    means = [sum(part) / len(part) for part in parts]
    low, high = min(means, default=0.0), max(means, default=0.0)
    return "".join(BLOCKS[round((mean - low) / ((high - low) or 1) * (len(BLOCKS) - 1))] for mean in means)


class _Left(ProgressColumn):
    """The time that a bar still needs."""

    def render(self, task: Task) -> Text:
        left = task.fields["bar"].seconds_left()
        return Text("-:--:--" if left is None else duration(left), style="progress.remaining")


class _Bars(Progress):
    """A bar with lines under it, each cut where the terminal ends."""

    bar: "Bar"

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.tasks:
            yield from (Text(f"  {line}", "cyan", no_wrap=True, overflow="ellipsis") for line in self.bar.lines())


class Bar:
    """One progress bar. Where stderr is no terminal it prints a plain line every ten seconds instead."""

    def __init__(self, bars: _Bars, title: str, total: float | None, done: int, at_once: int) -> None:
        self._bars, self._title, self._total, self._at_once = bars, title, total, at_once
        self._note, self._ends = "", 0.0
        self._shown: list[str] = []
        self._done_before, self._first, self._warm = done, 0.0, 0.0
        self._start = self._last_line = time.monotonic()
        bars.bar = self
        self._task = bars.add_task(title, total=total, completed=done, bar=self)

    def advance(self, amount: float = 1, note: str | None = None) -> None:
        """Move the bar by `amount` and, if given, replace the text under it."""
        self._bars.update(self._task, advance=amount)
        if note is not None:
            self._note = note
        now = time.monotonic()
        if amount:
            self._estimate(now)
        if not console.is_terminal and now - self._last_line > 10:
            self._last_line = now
            say(self._plain_line())

    def show(self, lines: Sequence[str]) -> None:
        """Replace the lines under the text; where stderr is no terminal, print them."""
        self._shown = list(lines)
        if not console.is_terminal:
            for line in lines:
                say(dim(line))

    def lines(self) -> list[str]:
        """What stands under the bar."""
        return [line for line in (self._note, *self._shown, _in_all and _in_all(self)) if line]

    @property
    def part_left(self) -> float:
        """Share of the work that is still to be done, in [0, 1]."""
        return 1 - self._bars.tasks[self._task].completed / self._total if self._total else 1.0

    def seconds_left(self) -> float | None:
        """How long the rest will take; None while nothing is known."""
        return max(0.0, self._ends - time.monotonic()) if self._ends else None

    def _estimate(self, now: float) -> None:
        """When the bar will be full, at the pace so far of this process, not of a resumed run's first part.

        The first step warms up (it may compile), so the pace is that of the later ones. Where many are worked on
        `at_once`, they end late, too: until so many have ended, those that run count as half done.
        """
        if not self._total:
            return
        completed = self._bars.tasks[self._task].completed
        done, since = completed - self._done_before, self._start
        if self._at_once:
            rows = min(self._at_once, self._total)
            done += max(0.0, 1 - done / rows) * min(rows, self._total - completed) / 2
        elif not self._first:
            self._first, self._warm = now, done
        else:
            done, since = done - self._warm, self._first
        self._ends = now + (now - since) / done * (self._total - completed)

    def _plain_line(self) -> str:
        completed, left = self._bars.tasks[self._task].completed, self.seconds_left()
        known = f"{completed:,.0f} done" if left is None else f"{1 - self.part_left:.0%}, {left:.0f} s left"
        return "  ".join([f"{self._title}: {known}", *filter(None, [self._note, _in_all and _in_all(self)])])


_in_all: Callable[[Bar], str] | None = None


@contextmanager
def in_all(line: Callable[[Bar], str]) -> Iterator[None]:
    """While the block runs, every bar shows last what `line` says of the whole work that it is a part of."""
    global _in_all
    _in_all = line
    try:
        yield
    finally:
        _in_all = None


@contextmanager
def progress(title: str, total: float | None = None, done: int = 0, at_once: int = 0) -> Iterator[Bar]:
    """Show a progress bar with elapsed and remaining time while the block runs.

    `done` was finished before; `at_once` are worked on at the same time, where it is more than one.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        _Left(),
    )
    with _Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield Bar(bars, title, total, done, at_once)


def track(items: Iterable[T], title: str, total: int | None = None, at_once: int = 0) -> Iterator[T]:
    """Yield `items` one by one under a progress bar; `at_once` of them are worked on at the same time."""
    if total is None and isinstance(items, Sequence):
        total = len(items)
    with progress(title, total, at_once=at_once) as bar:
        for item in items:
            yield item
            bar.advance()
