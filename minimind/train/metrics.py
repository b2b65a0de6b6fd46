"""`metrics.jsonl`: one JSON object for every logged step of a run."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from minimind import ranks, runtime
from minimind.errors import UserError
from minimind.files import write_text
from minimind.text import write_json
from minimind.train.tracker import Tracker


class Metrics:
    """An append-only log, kept by rank 0. Opening it at step N cuts off what an interrupted run wrote after step N.

    Raises:
        UserError: the file cannot be written, as on a full disk.
    """

    def __init__(self, path: Path, step: int = 0, tracker: Tracker | None = None) -> None:
        self.path, self.tracker = path, tracker
        self.losses: list[float] = []
        if not runtime.is_main():
            return
        kept = [line for line in read(path) if line["step"] <= step]
        self.losses = [loss for line in kept if (loss := line.get("loss")) is not None]  # null is NaN
        with self._complaining():  # whole or not at all: a crash here must not lose the lines of the whole run
            write_text(path, "".join(write_json(line) + "\n" for line in kept))

    def write(self, step: int, **figures: Any) -> None:
        """Append the figures of `step`, and show them to the tracker."""
        if not runtime.is_main():
            return
        if "loss" in figures:
            self.losses.append(figures["loss"])
        line = write_json({"step": step, **figures})
        with self._complaining(), self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(line + "\n")
        if self.tracker is not None:
            self.tracker.log(step, figures)

    @contextmanager
    def _complaining(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); make room, then run the same command again"
            ) from None


def read(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a metrics file; a line that a crash cut short is left out.

    Raises:
        UserError: it is another kind of file.
    """
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            break
        if not isinstance(line, dict) or "step" not in line:
            raise UserError(f"{path} is not the log of a run; delete it or choose another --out")
        lines.append(line)
    return lines


class Window:
    """The steps since the last logged one: means of the figures over all ranks, and speed."""

    def __init__(self, more: Callable[[], dict[str, Any]] = dict) -> None:
        """`more` gives the figures that a stage collects itself, since it was last asked."""
        self._more = more
        self.restart()

    def restart(self) -> None:
        """Forget what was added; also after validation and saving, whose time is not training's. All ranks do."""
        self._more()
        self.sums: dict[str, Tensor] = {}
        self.tokens = self.num_items = 0
        self.since = time.monotonic()

    def add(self, figures: dict[str, Tensor], tokens: int, num_items: int) -> None:
        """Add one step: this rank's sums, and of all ranks the tokens and what the sums are divided by."""
        for name, value in figures.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.tokens += tokens
        self.num_items += num_items

    def close(self, peak_flops: float, flops_per_token: float) -> dict[str, Any]:
        """The figures to log, then restart; all ranks call this. `peak_flops` is that of all ranks together."""
        speed = self.tokens / max(time.monotonic() - self.since, 1e-9)
        line: dict[str, Any] = {}
        for name, value in self.sums.items():
            total = ranks.all_reduce(value)
            line[name] = (total / (total.sum(-1, keepdim=True) if total.ndim else max(1, self.num_items))).tolist()
        line |= {"tokens_per_second": round(speed, 1), "mfu": round(speed * flops_per_token / peak_flops, 4)}
        line |= self._more()
        self.restart()
        return line
