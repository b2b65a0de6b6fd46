"""The section `[train]` of a recipe, and all that the loop is told of one."""

from dataclasses import dataclass, field
from typing import Any, Literal

from minimind.errors import UsageError
from minimind.limits import POSITIVE, UP_TO_INFINITY, at_least, check
from minimind.optim.settings import OptimConfig


@dataclass
class TrainConfig:
    """The loop: how long, how much at once, and what to keep."""

    epochs: float = 1.0
    """Passes over the data."""
    max_steps: int = 0
    """Optimizer steps; 0: as many as `epochs` need."""
    max_minutes: float = 0.0
    """Minutes after which the run stops; 0: never. A time budget makes a run's length depend on the machine: not
    exact."""
    tokens_per_step: int = 16384
    """Positions in one optimizer step, over all ranks and micro-batches; in RL the rollout decides."""
    micro_batch_tokens: int = 8192
    """Positions that one rank works on at a time; lower it if memory runs out: only the balance of experts changes."""
    log_every: int = 10
    """Steps between lines of `metrics.jsonl`."""
    valid_every: int = 200
    """Steps between validations; 0: only at the end."""
    sample_every: int = 0
    """Steps between sample texts in the log; 0: none."""
    sample_seconds: float = 0.0
    """Seconds between sample texts under the progress bar, each in the place of the last; 0: none."""
    save_every: int = 200
    """Steps between checkpoints; 0: only at the end."""
    keep: int = 2
    """Newest checkpoints to keep, besides the one with the best validation BPB."""
    seed: int = 42
    """Seed of the weights, the order of the data and the samples."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device; `auto`: a GPU if there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the matrix products; weights are float32. `auto`: bfloat16 where it is fast, float16 on older
    GPUs."""
    save_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the weights in the model directories that are written. `auto`: float32 where products are
    computed in float32, else bfloat16; rounding to 16 bits would undo updates at a small rate."""
    compile: Literal["auto", "always", "never"] = "auto"
    """Whether blocks are compiled. `auto`: where a compiler is there and the run is long enough to earn it back."""
    activation_checkpointing: bool = False
    """Recomputation of each layer in the backward pass: about 30 % slower, a fraction of the memory."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Layout under torchrun: every process holds the whole model, or a share of it (slower, less memory)."""
    deterministic: bool = False
    """On CUDA: only operations that give the same bits each time, so that an interrupted run ends in the same ones."""
    tracker: Literal["none", "tensorboard", "wandb", "swanlab", "trackio"] = "none"
    """Tool that shows metrics besides `metrics.jsonl`; files go to the run's folder (`pip install minimind[track]`)."""

    def check(self) -> None:
        """Raise a `UsageError` that names the field if a value cannot work."""
        check("train", self, POSITIVE, "epochs")
        check("train", self, at_least(0), "max_steps", "valid_every", "sample_every", "sample_seconds", "save_every")
        check("train", self, UP_TO_INFINITY, "max_minutes")
        check("train", self, at_least(0, bits=63), "seed")
        check("train", self, at_least(1), "keep", "log_every")


@dataclass
class RehearsalConfig:
    """What was learned before and must not be forgotten: every step learns some of it again.

    What a stage does not practise, it unlearns (Robins 1995); PPO-ptx is this with pretraining text (Ouyang et al.
    2022, https://arxiv.org/abs/2203.02155).
    """

    files: list[str] = field(default_factory=list)
    """Text or conversations of earlier stages, as in `data.files`; none: nothing is rehearsed."""
    tokens: int = 1024
    """Positions that a step rehearses, over all ranks, in rows of `data.sequence_length`."""
    weight: float = 1.0
    """What the mean loss of a rehearsed token counts beside the stage's own loss."""

    def check(self) -> None:
        """Raise a `UsageError` that names the field if a value cannot work."""
        check("rehearsal", self, at_least(1, bits=28), "tokens")
        check("rehearsal", self, POSITIVE, "weight")


@dataclass
class GuardConfig:
    """What must not be lost: after the last step the model is asked the same questions as the one it started from."""

    files: list[str] = field(default_factory=list)
    """Held-out conversations and texts; an ability is a line's field `ability`, or its file. None: nothing is asked."""
    limit: float = 0.0
    """Points that no ability may lose: beyond it the weights are averaged with those of the start, as little as will
    do. 0: nothing is averaged."""
    questions: int = 100
    """Conversations or texts of each ability, at most."""

    def check(self) -> None:
        """Raise a `UsageError` that names the field if a value cannot work."""
        check("guard", self, at_least(0), "limit")
        check("guard", self, at_least(1), "questions")
        if self.limit and not self.files:
            raise UsageError("recipe: guard.limit needs guard.files, the conversations that it is measured by")


@dataclass(frozen=True)
class RunConfig:
    """What the loop knows of a recipe."""

    stage: str
    train: TrainConfig
    optim: OptimConfig
    sequence_length: int
    """Positions of a row."""
    samples: bool
    """It learns from rollouts, which decide how many rows a step has."""
    recipe: dict[str, Any]
    """The whole recipe as plain values: saved with the run, and compared when the run is continued."""

    @property
    def tokens_at_once(self) -> int:
        """Positions that go through the model together, on one process."""
        train = self.train
        return train.micro_batch_tokens if self.samples else min(train.micro_batch_tokens, train.tokens_per_step)
