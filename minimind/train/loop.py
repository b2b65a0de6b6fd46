"""The training loop that every stage runs.

A stage brings a `Job` (`train/job.py`): a model with its optimizers, a stateful stream of packed batches, a loss that
returns sums, and callbacks for what only the stage knows (how to validate, sample and write the model).
The loop brings accumulation, precision, clipping, schedules, checkpoints, resume and the log.

One rule makes accumulation, packing and several ranks exact: the gradient of a step is that of

    (sum of the loss over everything in the step) / (number of items in the step),

where a batch says how many items it has (`num_items`: supervised tokens, pairs of answers, in reinforcement learning
sampled tokens or answers). They are added up over all micro-batches and ranks before the first backward pass: never a
mean of means. Only experts are balanced within each micro-batch (`balanced` in `train/job.py`).
"""

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from minimind import ranks, runtime
from minimind.console import Bar, dim, progress, say, sparkline
from minimind.errors import UsageError, UserError
from minimind.optim.schedule import learning_rate
from minimind.train import checkpoint, folder, parallel, tracker
from minimind.train.failures import Patience, explained
from minimind.train.job import Halt, Job, Loss, Progress, Rehearsal, balanced, split, to_device
from minimind.train.metrics import Metrics, Window
from minimind.train.precision import Precision
from minimind.train.resume import start
from minimind.train.settings import RunConfig
from minimind.train.stop import stop_signals

SAMPLE_PAUSE = 50
"""Samples by the clock wait so many times as long as the last one took, so that they cost under 2 %."""


def run(job: Job, config: RunConfig, out: Path, resume: bool = True) -> Progress:
    """Train `job` to its last step, writing metrics and checkpoints under `out`, and return where it ended.

    Ends early, after a checkpoint, on SIGTERM, SIGHUP, Ctrl-C or when `max_minutes` are over. Under torchrun all ranks
    call it.

    Raises:
        UserError: the loss stays NaN or infinite, disk or memory is full, a rank has died, or there is a checkpoint
            of another run.
    """
    train = config.train
    checkpoints = out / "checkpoints"
    precision = Precision(next(job.model.parameters()).device, train.dtype)
    with explained(config):
        at = start(job, config, checkpoints, precision, resume)
        if at.step < job.steps:  # one that has ended keeps the recipe that it was made by
            folder.describe(config.recipe, out)
        if at.compiled:
            torch.compiler.reset()  # versions of one function are limited, and earlier runs of this process had theirs
            job.compile()
        replica = parallel.replicate(job.model)
        if parallel.needs_dry_run(replica):
            _dry_run(job, replica, config, precision)
        peak = runtime.peak_flops(precision.device, precision.dtype) * runtime.world_size()
        began, saved_at, stop = time.monotonic(), at.step, False
        sample_at = began + train.sample_seconds
        window, patience = Window(job.figures), Patience()
        with (
            progress(config.stage, job.steps, at.step) as bar,
            stop_signals() as stopping,
            tracker.opened(train.tracker, config.recipe, out, at.step) as shown,
        ):
            metrics = Metrics(out / "metrics.jsonl", at.step, shown)
            try:
                while at.step < job.steps and not stop:
                    rate = learning_rate(at.step, job.steps, config.optim)
                    figures, tokens, num_items, norm = train_step(job, replica, config, rate, precision, at.compiled)
                    at.step += 1
                    at.tokens += tokens
                    patience.check(norm, at.step, precision)
                    window.add(figures, tokens, num_items)

                    last = at.step == job.steps
                    saves = last or bool(train.save_every and at.step % train.save_every == 0)
                    if at.step % train.log_every == 0 or at.step == 1 or last:
                        line = window.close(peak, job.flops_per_token)
                        metrics.write(at.step, tokens=at.tokens, lr=rate, grad_norm=norm, **line)
                        _show(bar, line, metrics)
                    bar.advance(1)
                    if last or (train.valid_every and at.step % train.valid_every == 0):
                        _validate(job, at, metrics, saves)
                        window.restart()
                    if train.max_minutes and time.monotonic() - began > train.max_minutes * 60:
                        stopping.request()
                    stop = ranks.any_rank(stopping())
                    if saves or stop:
                        save(job, config, at, checkpoints, precision)
                        saved_at = at.step
                        window.restart()
                    if train.sample_every and not stop and at.step % train.sample_every == 0:
                        for text in job.sample():
                            say(dim(f"step {at.step:,}: "), repr(text))
                        window.restart()
                    elif train.sample_seconds and not stop and ranks.any_rank(time.monotonic() > sample_at):
                        since = time.monotonic()
                        bar.show([f"step {at.step:,}: {text!r}" for text in job.sample()])
                        took = time.monotonic() - since
                        window.since += took  # the clock's moment must not change what is logged of the steps around it
                        sample_at = time.monotonic() + max(train.sample_seconds, SAMPLE_PAUSE * took)
            except Halt as halt:
                save(job, config, at, checkpoints, precision)
                raise UserError(f"{halt}. Saved at step {at.step:,}; the same command continues it") from halt
    if at.step < job.steps:
        say(f"Stopped after step {at.step:,} of {job.steps:,}, saved at {saved_at:,}; the same command continues it.")
    return at


class Step(NamedTuple):
    """One optimizer step: this rank's summed figures; tokens and items of all ranks; the gradient's norm."""

    figures: dict[str, Tensor]
    tokens: int
    num_items: int
    norm: float


def train_step(
    job: Job, replica: nn.Module, config: RunConfig, rate: float, precision: Precision, compiled: bool
) -> Step:
    """Read this rank's rows, accumulate the gradient, clip it and update the weights, unless it is NaN or infinite."""
    rows, micro_rows = rows_of_a_step(config)
    batch = job.stream.next_batch(rows, runtime.rank(), runtime.world_size())
    tokens, num_items = count(batch)
    figures, loss = {}, partial(job.loss, compiled=compiled)
    if job.rehearsal:
        mean, again = _rehearse(job.rehearsal, replica, micro_rows, precision, compiled)
        figures, tokens = {"rehearsal_loss": mean * num_items}, tokens + again
    figures |= _backward(replica, loss, batch, micro_rows, 1 / max(1, num_items), precision)
    precision.unscale(job.model.parameters())
    norm = float(parallel.clip(job.model, config.optim.clip))
    if math.isfinite(norm) and num_items:  # where nothing counts, momentum alone would move the weights
        _update(job.optimizers, rate)
    precision.update(math.isfinite(norm))
    _forget_gradients(job)
    return Step(figures, tokens, num_items, norm)


def rows_of_a_step(config: RunConfig) -> tuple[int, int]:
    """Rows of one step that each rank works on (0: the rollout decides), and how many of them at a time.

    Raises:
        UsageError: the ranks cannot share the rows of a step evenly.
    """
    train, length, world = config.train, config.sequence_length, runtime.world_size()
    at_once = max(1, train.micro_batch_tokens // length)
    if config.samples:
        return 0, at_once
    rows = train.tokens_per_step // length
    if rows % world:
        fitting = -(-rows // world) * world * length
        raise UsageError(
            f"recipe: train.tokens_per_step = {train.tokens_per_step} makes {rows} rows of {length}, which {world} "
            f"processes cannot share evenly; use {fitting}"
        )
    return rows // world, min(rows // world, at_once)


def count(batch: Any) -> tuple[int, int]:
    """Real tokens in all ranks' rows of a step, and what its sums are divided by."""
    here = torch.tensor([int((batch.document_ids >= 0).sum()), batch.num_items])
    tokens, num_items = ranks.all_reduce(here).tolist()
    return tokens, num_items


def _dry_run(job: Job, replica: nn.Module, config: RunConfig, precision: Precision) -> None:
    """Run one micro-batch forward and backward, and leave everything as it was."""
    place, random = job.stream.state_dict(), runtime.random_state()
    _, rows = rows_of_a_step(config)
    batch = job.stream.dry_batch(rows, runtime.rank(), runtime.world_size())
    _backward(replica, job.loss, batch, rows, 1.0, precision)
    _forget_gradients(job)
    job.stream.load_state_dict(place)
    runtime.set_random_state(random)


def _rehearse(
    rehearsal: Rehearsal, replica: nn.Module, micro_rows: int, precision: Precision, compiled: bool
) -> tuple[Tensor, int]:
    """Add the gradient of what was learned before; return its mean loss on this rank's rows and its tokens.

    It goes before the step's own batch: DDP reduces both together then, and in PPO the critic has no part in this.
    """
    batch = rehearsal.stream.next_batch(rehearsal.rows, runtime.rank(), runtime.world_size())
    tokens, num_items = count(batch)
    loss = partial(rehearsal.loss, compiled=compiled)
    figures = _backward(
        replica, loss, batch, micro_rows, rehearsal.weight / max(1, num_items), precision, more_to_come=True
    )
    return figures["loss"] / max(1, num_items), tokens


def _backward(
    replica: nn.Module,
    loss_of: Callable[[Any, Any], Loss],
    batch: Any,
    micro_rows: int,
    scale: float,
    precision: Precision,
    more_to_come: bool = False,
) -> dict[str, Tensor]:
    """Accumulate `scale` times the gradient over micro-batches and ranks; return this rank's summed figures."""
    factor = scale * precision.scale * runtime.world_size()  # ranks' gradients are averaged, the step's is their sum
    sums: dict[str, Tensor] = {}
    micro_batches = list(split(batch, micro_rows))
    for number, micro in enumerate(micro_batches, 1):
        with parallel.accumulating(replica, more_to_come or number < len(micro_batches)):
            with precision.autocast():
                loss = balanced(replica(to_device(micro, precision.device), loss_of), micro.num_items)
            (loss.total * factor).backward()
        for name, value in loss.figures.items():
            sums[name] = sums.get(name, torch.zeros((), device=precision.device)) + value.detach()
    return sums


def _update(optimizers: list[torch.optim.Optimizer], rate: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        optimizer.step()


def _forget_gradients(job: Job) -> None:
    for optimizer in job.optimizers:
        optimizer.zero_grad(set_to_none=True)


def _validate(job: Job, at: Progress, metrics: Metrics, saves: bool) -> None:
    """All ranks score the same text: nobody waits for rank 0, and under FSDP each pass needs all of them anyway.

    The best step is one that is saved: only that can be kept.
    """
    with runtime.evaluating(job.model):
        figures = job.validate()
    if figures:
        metrics.write(at.step, tokens=at.tokens, **{f"valid_{name}": value for name, value in figures.items()})
        score = figures.get("bpb", figures.get("loss", math.inf))
        if saves and score < at.best_score:
            at.best_score, at.best_step = score, at.step
        say(f"step {at.step:,}: " + ", ".join(f"validation {name} {value:.4f}" for name, value in figures.items()))


def save(job: Job, config: RunConfig, at: Progress, checkpoints: Path, precision: Precision) -> None:
    """Write a checkpoint of all ranks and delete those that are no longer kept."""
    parallel.settle(job.model)
    state = {
        "progress": vars(at).copy(),
        "recipe": config.recipe,
        "stream": job.stream.state_dict(),
        "rehearsal": job.rehearsal.stream.state_dict() if job.rehearsal else None,
        "precision": precision.state_dict(),
        "random": ranks.all_gather(runtime.random_state()),
    }
    checkpoint.save(checkpoints, at.step, job.model, job.optimizers, state, job.write_model)
    if runtime.is_main():
        checkpoint.prune(checkpoints, config.train.keep, at.best_step)


def _show(bar: Bar, line: dict[str, float], metrics: Metrics) -> None:
    text = f"loss {line['loss']:.3f} {sparkline(metrics.losses)} · {line['tokens_per_second']:,.0f} tokens/s"
    bar.advance(0, text + (f" · mfu {line['mfu']:.0%}" if line.get("mfu") else ""))
