"""Checkpoints: a model directory that anybody can load, and beside it all that an exact continuation needs.

    checkpoints/step-00001000/
        config.json model.safetensors tokenizer.json ...   usable as it is
        trainer/                                           fp32 weights, optimizers (torch.distributed.checkpoint)
        trainer.json                                       step, data position, random states, decisions
        complete                                           checksums of the files above; written last

A checkpoint is written under a temporary name, flushed to the disk and renamed: it is there whole or not at all.
Every rank writes its share of trainer/, so a run may go on with another number of them; the rest is rank 0's.
"""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from minimind import ranks, runtime
from minimind.console import warn
from minimind.errors import UserError
from minimind.files import checksum, read_json, read_text, write_json, write_text

SCHEMA = 4
TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)
"""Weights that are not trained are those of `init`, which the checkpoint knows by their checksum. What is missing in a
file is noticed all the same: it is asked for by name."""


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    trainer: dict[str, Any],
    write_model: Callable[[Path], None],
) -> Path:
    """Write `folder`/step-N and return it; all ranks call this. `write_model` puts a model directory into a path.

    Raises:
        UserError: the disk is full or not writable; earlier checkpoints stay as they are.
    """
    final = folder / f"step-{step:08d}"
    draft = folder / f"{final.name}.tmp"
    try:
        if runtime.is_main():
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
        ranks.barrier()  # nobody goes on before the folder is there
        write_model(draft)
        weights, moments = get_state_dict(model, optimizers, options=TRAINED)
        with _quiet():
            # With one thread: DCP would not notice that another one met a full disk, and call the rest a checkpoint.
            state = {"model": weights, "optimizers": moments}
            dcp.save(state, checkpoint_id=draft / "trainer", no_dist=_alone())
        if runtime.is_main():
            _finish(draft, {"schema": SCHEMA, "step": step, **trainer})
            shutil.rmtree(final, ignore_errors=True)
            os.replace(draft, final)
        ranks.barrier()  # nor before it is there for good
    except (OSError, UserError, dcp.CheckpointException) as error:
        reason = _system_error(error) or str(error).splitlines()[0]
        if runtime.is_main():
            shutil.rmtree(draft, ignore_errors=True)
        free = shutil.disk_usage(folder).free if folder.exists() else 0
        raise UserError(
            f"{final}: the checkpoint could not be written ({reason}; {free / 1e6:,.0f} MB free); "
            f"make room or choose another --out, then run the same command again"
        ) from error
    return final


def _finish(draft: Path, trainer: dict[str, Any]) -> None:
    """Flush what all ranks wrote, and say with checksums that it is all there."""
    write_text(draft / "trainer.json", json.dumps(trainer))  # Python's own form: it may hold infinity
    sums = {file.relative_to(draft).as_posix(): checksum(file) for file in _files(draft)}
    for file in _files(draft):
        _flush(file)
    write_json(draft / "complete", sums, indent=None)


def load(folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
    """Put the weights and optimizer moments of checkpoint `folder` in place, however many ranks wrote it.

    What the optimizers are set to (weight decay, momentum, betas) stays: the recipe says it, which may have changed.

    Raises:
        UserError: the checkpoint belongs to another model or optimizer, or cannot be read.
    """
    asked = [{name: value for name, value in group.items() if name != "params"} for group in _groups(optimizers)]
    weights, moments = get_state_dict(model, optimizers, options=TRAINED)
    state: dict[str, Any] = {"model": weights, "optimizers": moments}
    try:
        with _quiet():
            dcp.load(state, checkpoint_id=folder / "trainer", no_dist=_alone())
        set_state_dict(
            model, optimizers, model_state_dict=state["model"], optim_state_dict=state["optimizers"], options=TRAINED
        )
    except (OSError, RuntimeError, ValueError, KeyError, dcp.CheckpointException) as error:
        if reason := _system_error(error):
            raise UserError(
                f"{folder}: the checkpoint could not be read ({reason}); mend that, then run the same command again"
            ) from error
        raise UserError(
            f"{folder}: a checkpoint of another model or optimizer than this recipe's; "
            f"use another --out, or --resume never to start anew"
        ) from error
    for group, own in zip(_groups(optimizers), asked, strict=True):
        group.update(own)


def newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint under `folder` and its trainer.json; damaged ones are passed over with a warning.

    Raises:
        UserError: another version of MiniMind wrote it.
    """
    for candidate in sorted(folder.glob("step-????????"), reverse=True):
        problem = damage(candidate)
        if problem is None:
            trainer = json.loads(read_text(candidate / "trainer.json"))
            if trainer["schema"] != SCHEMA:
                raise UserError(f"{candidate}: of another version of MiniMind; start anew with --resume never")
            return candidate, trainer
        warn(f"{candidate}: damaged ({problem}); going back to the checkpoint before it")
    return None


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None: every file must be there with its checksum."""
    try:
        sums = read_json(folder / "complete")
    except UserError:
        return "it was not finished"
    for name, expected in sums.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if checksum(folder / name) != expected:
            return f"{name} has changed"
    return None


def prune(folder: Path, keep: int, best: int | None) -> None:
    """Delete all but the `keep` newest checkpoints and the one of step `best`, and drafts of crashed runs."""
    steps = sorted(folder.glob("step-????????"))
    for old in steps[:-keep]:
        if best is None or old.name != f"step-{best:08d}":
            shutil.rmtree(old)
    for draft in folder.glob("*.tmp"):
        shutil.rmtree(draft)


def _groups(optimizers: list[torch.optim.Optimizer]) -> list[dict[str, Any]]:
    return [group for optimizer in optimizers for group in optimizer.param_groups]


def _alone() -> bool:
    return runtime.world_size() == 1


@contextmanager
def _quiet() -> Iterator[None]:
    """DCP warns that there is no process group, where one process is what is meant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _flush(file: Path) -> None:
    """Make sure that the bytes are on the disk, not only in the system's memory."""
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


def _system_error(error: BaseException) -> str | None:
    """The system's own words for what went wrong, wherever in the chain, on whichever rank; None: it said nothing.

    Raises:
        KeyboardInterrupt: that is what happened; DCP takes it for a failure like any other.
    """
    causes: list[BaseException] = [error]
    for cause in causes:  # which grows
        if isinstance(cause, KeyboardInterrupt):
            raise cause
        if isinstance(cause, dcp.CheckpointException):
            causes += [failure for failure, _ in cause.failures.values()]
        if before := cause.__cause__ or cause.__context__:
            causes.append(before)
    return next((cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror), None)
