"""Everything the user sees on a terminal: messages, tables and progress bars go to stderr, results to stdout.

So `minimind ... --json > figures.json` keeps the figures apart from the talk. All text is plain: names of files and
models, and what models say, may hold brackets and colons, which `rich` would read as markup. Lines are never broken:
a terminal does that itself, and in a pipe a path must stay whole.
"""

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from minimind import runtime
from minimind.text import write_json

PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False, "soft_wrap": True}
console = Console(stderr=True, quiet=not runtime.is_main(), **PLAIN)
T = TypeVar("T")
UNLIMITED = 100_000
"""Columns of a table that goes to a file or a pipe."""


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
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else UNLIMITED, **PLAIN)


def format_figure(value: object) -> str:
    """Format a number as people read it: 64,123,456 · 0.953 · 3.1e-05."""
    if isinstance(value, bool) or value is None:
        return "–" if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"
    return str(value)


class _Note(ProgressColumn):
    """The text at the end of a bar: loss, tokens/s, whatever the worker says."""

    def render(self, task: Task) -> Text:
        return Text(task.fields.get("note", ""), style="cyan")


class Bar:
    """One progress bar. Where stderr is no terminal it prints a plain line every ten seconds instead."""

    def __init__(self, progress: Progress, title: str, total: float | None, done: int) -> None:
        self._progress = progress
        self._title = title
        self._done_before = done
        self._task = progress.add_task(title, total=total, completed=done, note="")
        self._start = self._last_line = time.monotonic()

    def advance(self, amount: float = 1, note: str | None = None) -> None:
        """Move the bar by `amount` and, if given, replace the text at its end."""
        self._progress.update(self._task, advance=amount)
        if note is not None:
            self._progress.update(self._task, note=note)
        now = time.monotonic()
        if not console.is_terminal and now - self._last_line > 10:
            self._last_line = now
            say(self._plain_line(now))

    def _plain_line(self, now: float) -> str:
        task = self._progress.tasks[self._task]
        done = task.completed - self._done_before  # the pace is that of this process, not of a resumed run's first part
        if not task.total or not done:
            return f"{self._title}: {task.completed:,.0f} done  {task.fields['note']}"
        left = (now - self._start) / done * (task.total - task.completed)
        return f"{self._title}: {task.completed / task.total:.0%}, {left:.0f} s left  {task.fields['note']}"


@contextmanager
def progress(title: str, total: float | None = None, done: int = 0) -> Iterator[Bar]:
    """Show a progress bar with elapsed and remaining time while the block runs; `done` was finished before."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        _Note(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield Bar(bars, title, total, done)


def track(items: Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` one by one under a progress bar."""
    if total is None and isinstance(items, Sequence):
        total = len(items)
    with progress(title, total) as bar:
        for item in items:
            yield item
            bar.advance()
