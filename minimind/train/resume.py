"""Where a run begins: at its newest whole checkpoint, or anew, and what may have changed in between."""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minimind import ranks, runtime
from minimind.compiler import can_compile
from minimind.console import say
from minimind.errors import UserError
from minimind.model.files import weights_checksum
from minimind.optim.settings import OptimConfig
from minimind.train import checkpoint
from minimind.train.job import Job, Progress, Stream
from minimind.train.precision import Precision
from minimind.train.settings import RehearsalConfig, RunConfig, TrainConfig

FIXED = (
    *("stage", "preset", "model", "data.sequence_length", "optim.matrices"),
    *("optim.embedding_lr", "optim.embedding_decay", "train.tokens_per_step", "train.seed"),
    *("distill", "dpo", "lora"),
    *("rl.epochs", "rl.minibatches", "rehearsal.tokens", "rehearsal.weight"),
)
"""What makes a run this run. Its data, as they are rendered, and its `init` are fixed too, but known by content: files
may be moved."""
SECTIONS: dict[str, Callable[[], Any]] = {"optim": OptimConfig, "train": TrainConfig, "rehearsal": RehearsalConfig}
"""Sections that a later version may have added to."""


def start(job: Job, config: RunConfig, checkpoints: Path, precision: Precision, resume: bool) -> Progress:
    """Load the newest whole checkpoint, or decide what is decided once a run.

    A run that starts anew deletes the old one's checkpoints, or it might be continued from those later.

    Raises:
        UserError: the checkpoint is of another run: model, data, or a field of the recipe that may not change.
    """
    if runtime.rank():  # all weights are drawn: from here on chance (dropout) may differ, as between rows
        runtime.seed_everything(config.train.seed + runtime.rank())
    if not resume and runtime.is_main():
        shutil.rmtree(checkpoints, ignore_errors=True)
    base = config.recipe["init"]
    init = ranks.broadcast(weights_checksum(Path(base)) if base and runtime.is_main() else 0)
    found = ranks.broadcast(checkpoint.newest(checkpoints) if runtime.is_main() else None)
    if found is None:
        return Progress(compiled=ranks.broadcast(_compiles(job, config, precision)), init=init)
    source, state = found
    check_recipe(source, state["recipe"], config.recipe, config.samples)
    if state["progress"]["init"] != init:
        raise UserError(
            f"{source}: init {base!r} has other weights than the run started from, "
            f"{state['recipe']['init']!r}; restore them, use another --out, or start anew with --resume never"
        )
    checkpoint.load(source, job.model, job.optimizers)
    _continue_stream(source, job.stream, state["stream"], "data", state["recipe"], config.recipe)
    if job.rehearsal:
        _continue_stream(source, job.rehearsal.stream, state["rehearsal"], "rehearsal", state["recipe"], config.recipe)
    precision.load_state_dict(state["precision"])
    if runtime.rank() < len(state["random"]):  # a rank that is new here has its generators as the seed left them
        runtime.set_random_state(state["random"][runtime.rank()])
    at = Progress(**state["progress"])
    if config.train.compile != "auto":
        at.compiled = ranks.broadcast(_compiles(job, config, precision))
    elif at.compiled:
        at.compiled = ranks.broadcast(
            runtime.is_main() and can_compile(precision.device.type)
        )  # it may have been moved
    if at.step >= job.steps:
        say(f"{source}: finished before, step {at.step:,} of {job.steps:,}; --resume never starts anew.")
    else:
        say(f"Continuing {source} at step {at.step:,} of {job.steps:,}.")
    return at


def check_recipe(source: Path, before: dict[str, Any], now: dict[str, Any], samples: bool = False) -> None:
    """Compare the checkpoint's recipe with this one: name what changed.

    samples: rollouts decide what a step holds, and not `train.tokens_per_step`.

    Raises:
        UserError: that may not change.
    """
    # What the version that wrote the checkpoint did not have yet, it did as the default does.
    defaults = {name: asdict(kind()) for name, kind in SECTIONS.items()}
    new = _fields(now)
    old = {name: value for name, value in _fields(defaults).items() if name in new} | _fields(before)
    changes = {name: (old.get(name), new.get(name)) for name in {**old, **new} if old.get(name) != new.get(name)}
    for name, (was, is_now) in changes.items():
        if samples and name == "train.tokens_per_step":
            continue
        if any(name == fixed or name.startswith(f"{fixed}.") for fixed in FIXED):
            raise UserError(
                f"{source}: {name} was {_spell(was)} and is {_spell(is_now)} now, which may not change in the course "
                f"of a run; restore it, use another --out, or start anew with --resume never"
            )
    if bool(old.get("rehearsal.files")) != bool(new.get("rehearsal.files")):
        raise UserError(
            f"{source}: a run rehearses from its first step to its last, or never; restore rehearsal.files, use "
            f"another --out, or start anew with --resume never"
        )
    if changes:
        listed = ", ".join(f"{name} {_spell(was)} → {_spell(is_now)}" for name, (was, is_now) in changes.items())
        say(f"Changed since the checkpoint: {listed}.")


def _continue_stream(
    source: Path, stream: Stream, state: dict[str, Any], section: str, then: dict[str, Any], now: dict[str, Any]
) -> None:
    try:
        stream.load_state_dict(state)
    except UserError as error:
        pairs = ((name, then[section].get(name), value) for name, value in now[section].items())
        listed = ", ".join(f"{section}.{name} {_spell(was)} → {_spell(new)}" for name, was, new in pairs if was != new)
        raise UserError(f"{source}: {error} ({listed or f'{section}.files have the same names'})") from None


def _compiles(job: Job, config: RunConfig, precision: Precision) -> bool:
    """Compiling costs some 30 s and saves about a third: it pays on runs longer than about two minutes.

    Raises:
        UserError: the recipe wants it always, and it does not work.
    """
    if config.train.compile == "never" or not runtime.is_main():
        return False
    if config.train.compile == "auto":
        flops = job.flops_per_token * config.train.tokens_per_step * job.steps / runtime.world_size()
        long = flops / (0.2 * runtime.peak_flops(precision.device, precision.dtype)) > 60
        return long and can_compile(precision.device.type)
    if not can_compile(precision.device.type):
        raise UserError('train.compile = "always", but nothing can be compiled here; use "auto", or see the warning')
    return True


def _fields(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a recipe to {"section.field": value}."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _fields(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _spell(value: Any) -> str:
    return "unset" if value is None else repr(value) if isinstance(value, str) else str(value)
