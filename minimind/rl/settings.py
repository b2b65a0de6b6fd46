"""The sections `[rl]`, `[ppo]`, `[agent]` and `[scoring]` of a recipe."""

from dataclasses import dataclass, field
from typing import Literal

from minimind.errors import UsageError
from minimind.limits import POSITIVE, Limit, at_least, check

BETWEEN = Limit(lambda value: 0 <= value <= 1, "between 0 and 1")


@dataclass
class RlConfig:
    """Learning from the model's own answers (`minimind/losses/policy.py`, `minimind/rl/`)."""

    algorithm: Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo", "ppo_clip"] = "cispo"
    """Which loss; where a field below is `auto` or 0, its paper's choice."""
    groups: int = 16
    """Prompts of a rollout, over all ranks."""
    samples: int = 8
    """Answers to each; they are compared with each other."""
    epochs: int = 1
    """How often a rollout is learned from."""
    minibatches: int = 1
    """Into how many optimizer steps each pass over a rollout is cut."""
    max_new_tokens: int = 256
    """An answer that is not over by then is cut off, and known as such."""
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    """What the sampler filters, the scorer filters too; 1, 0, 1 and 0 leave the policy as it is."""
    thinking_ratio: float = 0.0
    """Share of the prompts whose answers are to begin with thinking; all answers to a prompt do, or none. A line of
    data may say it for itself: `"open_thinking": true`."""
    clip_low: float = 0.0
    clip_high: float = 0.0
    """The ratio of new to old probability counts between 1 - clip_low and 1 + clip_high."""
    ratio_max: float = 0.0
    """CISPO: the largest ratio that counts."""
    normalise: Literal["auto", "sequence", "token", "constant"] = "auto"
    """What is averaged: answers, tokens, or neither (a sum over `max_new_tokens` times the answers)."""
    divide_by_sigma: Literal["auto", "yes", "no"] = "auto"
    """Whether a group's advantages are divided by the spread of its rewards."""
    kl_coef: float = 0.0
    """Weight of the KL divergence from the model that the run started from; 0: no reference is kept."""
    kl: Literal["k1", "k2", "k3", "k3_weighted"] = "k3_weighted"
    kl_in: Literal["loss", "reward"] = "loss"
    """Where it is charged. As a loss k1 has no effect at all; in the reward it is the usual one."""
    entropy_coef: float = 0.0
    """Weight of the bonus for an undecided policy."""
    importance_limit: float = 2.0
    """Largest weight that corrects for an engine that samples from not quite the trainer's model; 0: no correction."""
    spread: Literal["drop", "resample", "keep"] = "drop"
    """A group whose answers are all right or all wrong teaches nothing: leave it out, or ask other prompts instead."""
    spread_by: str = ""
    """The reward that decides it, before weights and shaping; by default the first one."""
    attempts: int = 10
    """How many rollouts may follow each other in which there is too little to learn."""
    stop_kl: float = 0.0
    stop_entropy: float = 0.0
    stop_length: float = 0.0
    """Stop, saved, when the KL divergence from the old policy is above, the entropy below, or the mean answer longer
    than this; 0: never."""
    share_prompts: bool = False
    """Train on the answers to a prompt as branches of one document, so that the prompt is computed once. Worth it where
    prompts are longer than answers, as with tools; on a GPU it does without the flash kernel."""
    rows: int = 64
    """Answers that are written at once."""
    server: str = ""
    """Address of a server that speaks SGLang's rollout protocol; without one, the engine in this process."""
    server_folder: str = ""
    """A folder that the server can read too, as it calls it (`--rollout-root`): weights are handed over there."""
    server_timeout: float = 300.0
    """Seconds to wait for one reply of the server."""
    dump: str = ""
    """A folder in which every rollout is kept, with all that was said and what it was worth (`minimind inspect` shows
    it); up to 256 MB."""

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            UsageError: naming the field.
        """
        counts = ("groups", "samples", "epochs", "minibatches", "max_new_tokens", "attempts", "rows")
        check("rl", self, at_least(1), *counts)
        check("rl", self, at_least(0), "clip_low", "clip_high", "ratio_max", "kl_coef", "entropy_coef")
        check("rl", self, at_least(0), "importance_limit", "top_k", "min_p")
        if not self.temperature > 0:
            raise UsageError(
                f"recipe: rl.temperature = {self.temperature} must be above 0: without chance all answers are the same"
            )
        check("rl", self, Limit(lambda x: 0 < x <= 1, "above 0 and at most 1"), "top_p")
        check("rl", self, BETWEEN, "thinking_ratio")
        if self.stop_kl and self.epochs * self.minibatches == 1:
            raise UsageError(
                "recipe: rl.stop_kl has no effect where each rollout makes one step: the policy is the one that "
                "sampled; raise rl.epochs or rl.minibatches, or hold it with rl.kl_coef"
            )
        if self.kl == "k1" and self.kl_in == "loss" and self.kl_coef:
            raise UsageError('recipe: rl.kl = "k1" has no effect as a loss; use rl.kl_in = "reward", or kl = "k2"')
        if bool(self.server) != bool(self.server_folder):
            raise UsageError(
                "recipe: rl.server and rl.server_folder go together: weights are handed over in the folder"
            )


@dataclass
class PpoConfig:
    """PPO's critic (`minimind/stages/ppo.py`)."""

    gamma: float = 1.0
    """What a reward one token later is worth."""
    lam: float = 0.95
    """GAE's λ: 1 trusts the rewards alone, 0 the critic alone."""
    value_coef: float = 0.5
    """Weight of the critic's loss beside the actor's; it has a learning rate of its own."""
    value_clip: float = 0.2
    """How far a value may move in one rollout; 0: as far as it likes."""
    critic_lr: float = 0.0
    """Peak rate of the critic; 0: the actor's."""
    critic: str = ""
    """Model directory, or reward model, that the critic starts from; by default `init`."""
    warmup_rollouts: int = 0
    """Rollouts at the beginning in which only the critic learns."""
    whiten: bool = True
    """Bring the advantages of a rollout to mean 0 and spread 1."""
    whiten_rewards: bool = False
    """Bring the rewards of a rollout to spread 1."""
    target_kl: float = 0.0
    """Leave a rollout when the policy has moved so far from the one that wrote it; 0: never."""

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            UsageError: naming the field.
        """
        check("ppo", self, BETWEEN, "gamma", "lam")
        check("ppo", self, at_least(0), "value_coef", "value_clip", "critic_lr", "warmup_rollouts", "target_kl")


@dataclass
class ScoringConfig:
    """What an answer is worth (`minimind/rl/rewards.py`)."""

    weights: dict[str, float] = field(default_factory=lambda: {"exact": 1.0})
    """Name of each reward and its weight in the sum."""
    file: str = ""
    """A Python file with rewards of your own: functions under `@reward`."""
    timeout: float = 60.0
    """Seconds that a reward may take for all answers of a rollout."""
    clip: float = 0.0
    """Every component is cut to ± this; 0: not."""
    thinking_weight: float = 0.0
    """How much a judge or reward model's score of the thinking counts beside that of the answer."""
    overlong_buffer: int = 64
    """Tokens before `rl.max_new_tokens` over which `overlong` falls from 0 to -1."""
    ngram: int = 4
    """What `repetition` counts: runs of so many tokens."""
    judge: str = ""
    """Address of an OpenAI-compatible endpoint, up to /v1; its key is in OPENAI_API_KEY."""
    judge_model: str = ""
    judge_tries: int = 3
    reward_model: str = ""
    """Directory of a reward model, for `reward_model`."""
    trust_remote_code: bool = False
    """Let a reward model bring code of its own, such as internlm2-1_8b-reward; it can do anything."""
    service: str = ""
    """Address that `service` posts `{"samples": [{"messages", "answer", ...}]}` to; it answers `{"scores": [...]}`."""

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            UsageError: naming the field.
        """
        check("scoring", self, POSITIVE, "timeout")
        check("scoring", self, at_least(0), "clip", "thinking_weight", "overlong_buffer")
        check("scoring", self, at_least(1), "ngram", "judge_tries")


@dataclass
class AgentConfig:
    """Episodes in which tools answer (`minimind/rl/environment.py`); `[rl]` and `[scoring]` count here too."""

    most_turns: int = 4
    """How often the model may speak in an episode; the tools answer in between."""
    tools: list[str] = field(default_factory=list)
    """Python files with tools of your own: functions with type hints and a docstring. What is offered to the model
    stands in the data."""
    tool_seconds: float = 5.0
    """Longest run of one of those functions."""
    tool_memory_mb: int = 1024
    """Of the process that they run in (Linux)."""

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            UsageError: naming the field.
        """
        check("agent", self, POSITIVE, "most_turns", "tool_seconds", "tool_memory_mb")
