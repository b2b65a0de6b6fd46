"""The training loop that every stage runs.

A stage brings a `Job`: a model with its optimizers, a stateful stream of packed batches, a loss that
returns sums, and callbacks for what only the stage knows (how to validate, sample and write the model).
The loop brings accumulation, precision, clipping, schedules, checkpoints, resume and the log.

One rule makes accumulation, packing and several ranks exact: the gradient of a step is that of

    (sum of the loss over all supervised tokens of the step) / (number of those tokens),

counted over all micro-batches before the first backward pass, never a mean of means.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from minimind import runtime
from minimind.console import Bar, progress, say, warn
from minimind.errors import UserError
from minimind.losses.lm import IGNORE
from minimind.optim.schedule import learning_rate
from minimind.recipe import Recipe
from minimind.train import checkpoint, folder
from minimind.train.metrics import Metrics
from minimind.train.stop import stop_signals

PATIENCE = 20  # steps in a row without a finite gradient before the run gives up


class Loss(NamedTuple):
    """What a stage's loss returns for one micro-batch."""

    total: Tensor
    """Scalar to differentiate: a sum over the supervised tokens."""
    figures: dict[str, Tensor]
    """What to log: scalars are sums, to be divided by the number of supervised tokens (`loss` is one of them);
    a matrix holds counts, of which the shares in each row are logged (tokens of each expert)."""


class Stream(Protocol):
    """Batches in one global order. The state is all that is needed to continue at the same token."""

    def next_batch(self, rows: int, rank: int = 0, world: int = 1) -> Any:
        """The next `rows` rows (this rank's share of them) as a batch of tensors [rows, time]."""

    def state_dict(self) -> dict[str, Any]:
        """The position in the data."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at that position."""


@dataclass
class Job:
    """One stage's part of a run."""

    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    stream: Stream
    loss: Callable[[Any, Any], Loss]
    steps: int
    flops_per_token: float
    write_model: Callable[[Path], None]
    validate: Callable[[], dict[str, float]]
    sample: Callable[[], list[str]]
    compile: Callable[[], None]


@dataclass
class Progress:
    """Where a run is: what a checkpoint stores beside weights and moments."""

    step: int = 0
    tokens: int = 0
    best_step: int | None = None
    best_bpb: float = math.inf
    compiled: bool = False


def run(job: Job, recipe: Recipe, out: Path, resume: bool = True) -> Progress:
    """Train `job` to its last step, writing metrics and checkpoints under `out`, and return where it ended.

    Ends early, after a checkpoint, on SIGTERM, Ctrl-C or when `max_minutes` are over.

    Raises:
        UserError: the loss stays NaN or infinite, the disk is full, or a checkpoint belongs to another model.
    """
    train = recipe.train
    device = next(job.model.parameters()).device
    dtype = runtime.compute_dtype(device) if train.dtype == "auto" else getattr(torch, train.dtype)
    checkpoints = out / "checkpoints"
    at = _start(job, recipe, checkpoints, device, dtype, resume)
    folder.describe(recipe, out)
    if at.compiled:
        job.compile()
    metrics = Metrics(out / "metrics.jsonl", at.step)
    peak = runtime.peak_flops(device, dtype)
    started, spoiled, saved_at = time.monotonic(), 0, at.step
    window = _Window()

    with progress(recipe.stage, job.steps, at.step) as bar, stop_signals() as stopping:
        while at.step < job.steps and not stopping():
            rate = learning_rate(at.step, job.steps, recipe.optim)
            figures, tokens, supervised, norm = train_step(job, recipe, rate, device, dtype)
            spoiled = 0 if math.isfinite(norm) else _guard(spoiled, at.step, norm)
            at.step += 1
            at.tokens += tokens
            window.add(figures, tokens, supervised)

            due = at.step % train.log_every == 0 or at.step in (1, job.steps)
            if due:
                line = window.close(peak, job.flops_per_token)
                metrics.write(at.step, tokens=at.tokens, lr=rate, grad_norm=norm, **line)
                _show(bar, line)
            bar.advance(1)
            last = at.step == job.steps
            if last or (train.valid_every and at.step % train.valid_every == 0):
                _validate(job, at, metrics)
                window.restart()
            if train.sample_every and at.step % train.sample_every == 0:
                for text in job.sample():
                    say(f"[dim]step {at.step:,}:[/dim] {text!r}")
                window.restart()
            if train.max_minutes and time.monotonic() - started > train.max_minutes * 60:
                stopping.request()
            if last or stopping() or (train.save_every and at.step % train.save_every == 0):
                _save(job, at, checkpoints, train.keep)
                saved_at = at.step
                window.restart()
    if at.step < job.steps:
        say(f"Stopped after step {at.step:,} of {job.steps:,}, saved at {saved_at:,}; the same command continues it.")
    return at


class Step(NamedTuple):
    """Summed figures, real tokens and supervised tokens of one optimizer step, its gradient's norm before clipping."""

    figures: dict[str, Tensor]
    tokens: int
    supervised: int
    norm: float


def train_step(job: Job, recipe: Recipe, rate: float, device: torch.device, dtype: torch.dtype) -> Step:
    """Read the next batch, accumulate its gradient, clip it and update the weights, unless it is NaN or infinite."""
    length = recipe.data.sequence_length
    rows = max(1, recipe.train.tokens_per_step // length)
    micro_rows = max(1, min(rows, recipe.train.micro_batch_tokens // length))
    figures, tokens, supervised = _backward(job, job.stream.next_batch(rows), micro_rows, device, dtype)
    norm = float(nn.utils.clip_grad_norm_(job.model.parameters(), recipe.optim.clip or math.inf))
    if math.isfinite(norm):
        _update(job.optimizers, rate)
    for optimizer in job.optimizers:
        optimizer.zero_grad(set_to_none=True)
    return Step(figures, tokens, supervised, norm)


def _start(
    job: Job, recipe: Recipe, checkpoints: Path, device: torch.device, dtype: torch.dtype, resume: bool
) -> Progress:
    """Load the newest whole checkpoint, or decide what is decided once per run.

    A run that starts anew deletes the old one's checkpoints, or it might be continued from those later.
    """
    if not resume:
        shutil.rmtree(checkpoints, ignore_errors=True)
    found = checkpoint.newest(checkpoints)
    if found is None:
        return Progress(compiled=_worth_compiling(job, recipe, device, dtype))
    source, state = found
    checkpoint.load(source, job.model, job.optimizers, state)
    try:
        job.stream.load_state_dict(state["stream"])
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    torch.set_rng_state(torch.tensor(state["rng"], dtype=torch.uint8))
    if state["step"] >= job.steps:
        say(f"{source}: finished before, step {state['step']:,} of {job.steps:,}; --resume never starts anew.")
    else:
        say(f"Continuing {source} at step {state['step']:,} of {job.steps:,}.")
    return Progress(**state["progress"])


def _worth_compiling(job: Job, recipe: Recipe, device: torch.device, dtype: torch.dtype) -> bool:
    """Compiling costs some 30 s and saves about a third: it pays on runs longer than about two minutes."""
    if recipe.train.compile != "auto":
        return recipe.train.compile == "always"
    if not runtime.can_compile(device):
        return False
    flops = job.flops_per_token * recipe.train.tokens_per_step * job.steps
    return flops / (0.2 * runtime.peak_flops(device, dtype)) > 60


def _backward(
    job: Job, batch: Any, micro_rows: int, device: torch.device, dtype: torch.dtype
) -> tuple[dict[str, Tensor], int, int]:
    """Accumulate the gradient of one step. Returns the summed figures, real tokens and supervised tokens."""
    tokens = int((batch.document_ids >= 0).sum())
    supervised = int((batch.labels != IGNORE).sum())
    sums: dict[str, Tensor] = {}
    for micro in _split(batch, micro_rows):
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            loss = job.loss(job.model, _to(micro, device))
        (loss.total / max(1, supervised)).backward()
        for name, value in loss.figures.items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + value.detach()
    return sums, tokens, supervised


def _split(batch: Any, rows: int) -> Iterator[Any]:
    """Cut a batch (a named tuple of tensors [rows, time]) into micro-batches."""
    for start in range(0, len(batch[0]), rows):
        yield type(batch)(*(tensor[start : start + rows] for tensor in batch))


def _to(batch: Any, device: torch.device) -> Any:
    return type(batch)(*(tensor.to(device, non_blocking=True) for tensor in batch))


def _update(optimizers: list[torch.optim.Optimizer], rate: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()


def _guard(spoiled: int, step: int, norm: float) -> int:
    """Leave out an update whose gradient is NaN or infinite; give up when that goes on."""
    spoiled += 1
    warn(f"step {step + 1}: the gradient is {norm}, the update is left out")
    if spoiled >= PATIENCE:
        raise UserError(
            f"the gradient was not finite for {PATIENCE} steps in a row (now step {step + 1}); "
            f"lower optim.lr or train in float32 (--set.train.dtype float32), then run the same command again"
        )
    return spoiled


def _validate(job: Job, at: Progress, metrics: Metrics) -> None:
    job.model.eval()
    figures = job.validate()
    job.model.train()
    if figures:
        metrics.write(at.step, tokens=at.tokens, **{f"valid_{name}": value for name, value in figures.items()})
        bpb = figures.get("bpb", math.inf)
        if bpb < at.best_bpb:
            at.best_bpb, at.best_step = bpb, at.step
        say(f"step {at.step:,}: " + ", ".join(f"validation {name} {value:.4f}" for name, value in figures.items()))


def _save(job: Job, at: Progress, checkpoints: Path, keep: int) -> None:
    state = {
        "stream": job.stream.state_dict(),
        "rng": torch.get_rng_state().tolist(),
        "progress": vars(at).copy(),
    }
    checkpoint.save(checkpoints, at.step, job.model, job.optimizers, state, job.write_model)
    checkpoint.prune(checkpoints, keep, at.best_step)


def _show(bar: Bar, line: dict[str, float]) -> None:
    text = f"loss {line['loss']:.3f} · {line['tokens_per_second']:,.0f} tokens/s"
    bar.advance(0, text + (f" · mfu {line['mfu']:.0%}" if line.get("mfu") else ""))


class _Window:
    """The steps since the last logged one: means of the figures and speed."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget what was added; also after validation and saving, whose time is not training's."""
        self.sums: dict[str, Tensor] = {}
        self.tokens = self.supervised = 0
        self.since = time.monotonic()

    def add(self, figures: dict[str, Tensor], tokens: int, supervised: int) -> None:
        for name, value in figures.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.tokens += tokens
        self.supervised += supervised

    def close(self, peak: float, flops_per_token: float) -> dict[str, Any]:
        now = time.monotonic()
        speed = self.tokens / max(now - self.since, 1e-9)
        line: dict[str, Any] = {}
        for name, value in self.sums.items():
            share = value / (value.sum(-1, keepdim=True) if value.ndim else max(1, self.supervised))
            line[name] = share.tolist()
        line |= {"tokens_per_second": round(speed, 1), "mfu": round(speed * flops_per_token / peak, 4)}
        self.restart()
        return line
