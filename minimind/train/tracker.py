"""Experiment trackers: the lines of `metrics.jsonl` drawn as curves by a tool of the user's choice.

All of them write files under the run's folder, so none needs an account: `tensorboard --logdir RUN_DIR`,
`wandb sync`, `swanlab sync` or `trackio show` read those. With `WANDB_MODE=online` or `SWANLAB_MODE=online` they are
sent at once.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from minimind import runtime
from minimind.errors import UserError


class Tracker(Protocol):
    """Where figures go besides the log."""

    def log(self, step: int, figures: dict[str, Any]) -> None:
        """Draw the figures of `step` that are plain numbers."""

    def close(self) -> None:
        """Write what is still in memory."""


@contextmanager
def opened(name: str, recipe: dict[str, Any], out: Path, step: int) -> Iterator[Tracker | None]:
    """The tracker `name`, on rank 0, for a run of `recipe` that goes on from `step`; closed however the run ends.

    Raises:
        UserError: it is not installed.
    """
    if name == "none" or not runtime.is_main():
        yield None
        return
    tracker: Tracker = TensorBoard(out, step) if name == "tensorboard" else WandbLike(name, recipe, out)
    try:
        yield tracker
    finally:
        tracker.close()


class TensorBoard:
    """Event files in RUN_DIR/tensorboard; what an interrupted run wrote after `step` is taken back."""

    def __init__(self, out: Path, step: int) -> None:
        _load("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)

    def log(self, step: int, figures: dict[str, Any]) -> None:
        """One curve a figure."""
        for name, value in _numbers(figures).items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush the event file."""
        self.writer.close()


class WandbLike:
    """Weights & Biases, and SwanLab and trackio, which took over its interface. A continued run is a new one there."""

    def __init__(self, name: str, recipe: dict[str, Any], out: Path) -> None:
        if name == "trackio":
            runtime.set_trackio_folder(out / name)  # which it reads as it is imported
        self.tool = _load(name)
        where = {
            "wandb": {"dir": str(out), "mode": runtime.tracker_mode(name)},
            "swanlab": {"log_dir": str(out / name), "mode": runtime.tracker_mode(name)},
            "trackio": {},
        }[name]
        self.tool.init(project="minimind", name=out.name, config=recipe, **where)

    def log(self, step: int, figures: dict[str, Any]) -> None:
        """One line of figures."""
        self.tool.log(_numbers(figures), step=step)

    def close(self) -> None:
        """End the run there."""
        self.tool.finish()


def _load(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f'train.tracker = "{name}" is not installed: pip install "minimind[track]"') from None


def _numbers(figures: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if isinstance(value, int | float)}
