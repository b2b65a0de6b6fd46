"""The sections `[rl]`, `[ppo]`, `[agent]` and `[scoring]` of a recipe."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from minimind.errors import UsageError
from minimind.limits import FRACTION, POSITIVE, Limit, at_least, check


@dataclass
class RlConfig:
    """Reinforcement learning on the model's own answers (`minimind/losses/policy.py`, `minimind/rl/`)."""

    algorithm: Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo", "ppo_clip"] = "cispo"
    """Policy loss. Its paper decides what is 0 of `clip_low`, `clip_high` and `ratio_max`, and what is "auto" of
    `normalise` and `divide_by_sigma`."""
    groups: int = 16
    """Prompts of a rollout, over all ranks."""
    samples: int = 8
    """Answers to each prompt, which are compared with each other."""
    epochs: int = 1
    """Passes over each rollout."""
    minibatches: int = 1
    """Optimizer steps into which each pass over a rollout is cut."""
    max_new_tokens: int = 256
    """Tokens after which an answer is cut off, and known as truncated."""
    temperature: float = 1.0
    """Sampling temperature."""
    top_k: int = 0
    """Number of likeliest tokens that are sampled from; 0: all."""
    top_p: float = 1.0
    """Probability mass of the likeliest tokens that are sampled from; 1: all."""
    min_p: float = 0.0
    """Smallest probability that is sampled, as a fraction of the largest; 0: all. Log-probabilities are filtered
    alike."""
    thinking_ratio: float = 0.0
    """Fraction of the prompts whose answers begin with thinking, all answers to a prompt or none. A line of data may
    say it for itself: `"open_thinking": true`."""
    clip_low: float = 0.0
    """Lower clip: the ratio of new to old probability counts down to 1 - clip_low."""
    clip_high: float = 0.0
    """Upper clip: the ratio counts up to 1 + clip_high."""
    ratio_max: float = 0.0
    """Largest ratio of new to old probability in CISPO."""
    normalise: Literal["auto", "sequence", "token", "constant"] = "auto"
    """What the loss averages over: sequences, tokens, or a constant, `max_new_tokens` times the answers."""
    divide_by_sigma: Literal["auto", "yes", "no"] = "auto"
    """Division of a group's advantages by the standard deviation of its rewards."""
    kl_coef: float = 0.0
    """Weight of the KL divergence from the model that the run started from; 0: no reference is kept."""
    kl: Literal["k1", "k2", "k3", "k3_weighted"] = "k3_weighted"
    """Estimator of that divergence."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where it is charged. In the loss k1 has no effect at all; in the reward it is the usual one."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    importance_limit: float = 2.0
    """Largest importance weight that corrects for an engine whose probabilities differ from the trainer's; 0: none."""
    importance: Literal["truncate", "mask"] = "truncate"
    """What is done with a larger weight: it is cut to the limit, or its token is left out, as one whose weight is below
    1 / `importance_limit` is then."""
    filter_groups: Literal["drop", "resample", "keep"] = "drop"
    """What is done with a group whose answers have the same `filter_metric`: dropped, replaced in further rounds of
    other prompts (DAPO's dynamic sampling), or kept."""
    filter_metric: str = ""
    """Reward by which a group is filtered, before weights; empty: the first one."""
    attempts: int = 10
    """Largest number of rounds of `groups` prompts for one rollout, until enough groups remain."""
    stop_kl: float = 0.0
    """KL divergence from the old policy above which the run stops, saved; 0: never."""
    stop_entropy: float = 0.0
    """Entropy in nats below which the run stops, saved; 0: never."""
    stop_length: float = 0.0
    """Mean tokens of an answer above which the run stops, saved; 0: never."""
    share_prompts: bool = False
    """Answers to a prompt trained on as branches of one document, so that the prompt is computed once. Worth it where
    prompts are longer than answers, as with tools; on a GPU it does without the flash kernel."""
    max_batch_size: int = 64
    """Answers that are generated at once."""
    staleness: int = 0
    """Versions of the policy, one a rollout, that an answer may be old when it is learned from; 0: sampling and
    learning take turns. Above 0 answers are written while the trainer learns, and groups that are older are dropped."""
    server: str = ""
    """Address of a server that speaks SGLang's rollout protocol; empty: the engine in this process."""
    server_folder: str = ""
    """Folder that the server can read too, as it calls it (`--rollout-root`): weights are handed over there."""
    server_timeout: float = 300.0
    """Seconds to wait for one reply of the server."""
    dump: str = ""
    """A folder in which every rollout is kept, with all that was said and what it was worth (`minimind inspect` shows
    it); up to 256 MB."""
    replay: str = ""
    """A folder of rollouts that were kept: they are learned from again, without an engine and without a judge."""

    def check(self) -> None:
        """Raise a `UsageError` that names the field if a value cannot work."""
        counts = ("groups", "samples", "epochs", "minibatches", "max_new_tokens", "attempts", "max_batch_size")
        check("rl", self, at_least(1, bits=20), *counts)
        check("rl", self, at_least(0), "clip_low", "clip_high", "ratio_max", "kl_coef", "entropy_coef")
        check("rl", self, at_least(0), "top_k", "stop_kl", "stop_entropy", "stop_length")
        check("rl", self, at_least(0, bits=20), "staleness")
        check("rl", self, POSITIVE, "server_timeout")
        check("rl", self, Limit(lambda x: x == 0 or x >= 1, "0 or at least 1"), "importance_limit")
        chance = Limit(POSITIVE.fine, "above 0 (there all answers are the same) and below 2**31")
        check("rl", self, chance, "temperature")
        check("rl", self, Limit(lambda x: 0 < x <= 1, "above 0 and at most 1"), "top_p")
        check("rl", self, FRACTION, "min_p", "thinking_ratio")
        answers = self.groups * self.samples
        check("rl", self, Limit(lambda x: x <= answers, f"at most rl.groups × rl.samples ({answers})"), "minibatches")
        if self.staleness and not self.importance_limit:
            raise UsageError(
                "recipe: rl.staleness needs rl.importance_limit above 0: answers of an older policy would count as if "
                "this one had given them"
            )
        if self.staleness and self.replay:
            raise UsageError("recipe: rl.replay has no engine that could be ahead; set rl.staleness = 0")
        if self.replay and self.dump and Path(self.replay).resolve() == Path(self.dump).resolve():
            raise UsageError("recipe: rl.dump and rl.replay are the same folder: keep the replay's rollouts elsewhere")
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
    """Discount of a reward per token."""
    lam: float = 0.95
    """GAE's λ: 1 trusts the rewards alone, 0 the critic alone."""
    value_coef: float = 0.5
    """Weight of the critic's loss beside the actor's; it has a learning rate of its own."""
    value_clip: float = 0.2
    """Largest change of a value in one rollout; 0: no limit."""
    critic_lr: float = 0.0
    """Learning rate of the critic at the peak; 0: the actor's."""
    critic: str = ""
    """Model directory, or reward model, that the critic starts from; empty: `init`."""
    warmup_rollouts: int = 0
    """Rollouts at the beginning in which only the critic learns."""
    whiten: bool = True
    """Advantages of a rollout brought to mean 0 and standard deviation 1."""
    whiten_rewards: bool = False
    """Rewards of a rollout brought to standard deviation 1."""
    target_kl: float = 0.0
    """KL divergence from the policy that sampled above which the rest of a rollout is dropped; 0: never."""

    def check(self) -> None:
        """Raise a `UsageError` that names the field if a value cannot work."""
        check("ppo", self, FRACTION, "gamma", "lam")
        check("ppo", self, at_least(0), "value_coef", "value_clip", "critic_lr", "warmup_rollouts", "target_kl")


@dataclass
class ScoringConfig:
    """What an answer is worth (`minimind/rl/rewards.py`)."""

    weights: dict[str, float] = field(default_factory=lambda: {"exact": 1.0})
    """Name of each reward and its weight in the sum; what weighs 0 is switched off."""
    file: str = ""
    """Python file with rewards of your own: functions under `@reward`."""
    timeout: float = 60.0
    """Seconds that a reward may take for all answers of a rollout."""
    clip: float = 0.0
    """Largest absolute value of each reward before its weight; 0: no limit."""
    thinking_weight: float = 0.0
    """Weight of a judge's or reward model's score of the thinking beside that of the answer."""
    overlong_buffer: int = 64
    """Tokens before `rl.max_new_tokens` over which `overlong` falls from 0 to -1."""
    ngram: int = 4
    """Tokens of the n-grams that `repetition` counts."""
    judge: str = ""
    """Address of an OpenAI-compatible endpoint, up to /v1; its key is in OPENAI_API_KEY."""
    judge_model: str = ""
    """Name of the model that judges."""
    judge_tries: int = 3
    """How often a judge that is busy, failing or silent is asked, before an answer goes without its grade."""
    reward_model: str = ""
    """Directory of a reward model, for `reward_model`."""
    trust_remote_code: bool = False
    """Permission for a reward model to bring code of its own, such as internlm2-1_8b-reward; it can do anything."""
    service: str = ""
    """Address that `service` posts `{"samples": [{"messages", "answer", ...}]}` to; it answers `{"scores": [...]}`."""

    def __post_init__(self) -> None:
        self.weights = {name: weight for name, weight in self.weights.items() if weight}

    def check(self) -> None:
        """Raise a `UsageError` that names the field if a value cannot work."""
        check("scoring", self, POSITIVE, "timeout")
        check("scoring", self, at_least(0), "clip", "thinking_weight", "overlong_buffer")
        check("scoring", self, at_least(1), "ngram", "judge_tries")
        if wrong := next((name for name, weight in self.weights.items() if not abs(weight) < 2**31), None):
            raise UsageError(f"recipe: scoring.weights.{wrong} = {self.weights[wrong]} must be within ±2**31")


@dataclass
class AgentConfig:
    """Episodes in which tools answer (`minimind/rl/environment.py`); `[rl]` and `[scoring]` count here too."""

    max_turns: int = 4
    """Turns of the model in an episode; the tools, or the environment, answer in between."""
    environment: str = ""
    """What is played instead of using tools: `FILE.py:NAME` or `MODULE:NAME` makes an environment in gymnasium's form,
    with text as observations and actions (`minimind/rl/gym.py`); `returned` is its reward."""
    tools: list[str] = field(default_factory=list)
    """Python files with tools of your own: functions with type hints and a docstring. What is offered to the model
    stands in the data."""
    tool_seconds: float = 5.0
    """Seconds that a call of one of those functions may take."""
    tool_memory_mb: int = 1024
    """Memory in MB of the process that they run in (Linux)."""

    def check(self) -> None:
        """Raise a `UsageError` that names the field if a value cannot work."""
        check("agent", self, POSITIVE, "max_turns", "tool_seconds", "tool_memory_mb")
