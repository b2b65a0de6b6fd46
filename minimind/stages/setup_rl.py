"""The parts of a stage that samples, made from its recipe: prompts, engine, judge, and what scores answers."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from minimind import runtime
from minimind.data.prompts import Prompt, fitting, read_prompts
from minimind.engine.sampling import Sampling
from minimind.errors import UsageError, did_you_mean
from minimind.losses.policy import ALGORITHMS, Algorithm
from minimind.model import lora
from minimind.model.qwen3 import Transformer
from minimind.recipe import Recipe
from minimind.rl.ahead import Ahead, Background, BackgroundRollout
from minimind.rl.batch import LogProbRunner
from minimind.rl.judge import Rewards
from minimind.rl.replay import Replay
from minimind.rl.rewards import RewardContext
from minimind.rl.rollout import Generate, LocalRollout, Rollout, play, single_turn
from minimind.rl.rollout_http import HttpRollout
from minimind.rl.settings import RlConfig
from minimind.rl.stream import Collector
from minimind.stages import setup
from minimind.tokenizer.bpe import Tokenizer
from minimind.train import parallel

VALID_PROMPTS = 400
"""Validation during training asks so many."""


def make_collector(
    recipe: Recipe, model: Transformer, tokenizer: Tokenizer, generate: Generate = single_turn
) -> Collector:
    """The prompts of a run, the engine that answers them, and the judge.

    Raises:
        UserError: bad data, rewards or server.
    """
    rl, world = recipe.rl, runtime.world_size()
    if rl.staleness:
        _check_ahead(recipe)
    if rl.groups % world:
        raise UsageError(f"recipe: rl.groups = {rl.groups} cannot be shared evenly by {world} processes")
    prompts = read_prompts(recipe.data.files, recipe.data.on_bad_line)
    prompts = fitting(prompts, tokenizer, recipe.data.sequence_length, rl.max_new_tokens)
    weights, device, dtype = recipe.scoring.weights, model.output_weight.device, setup.precision(recipe).dtype
    judge: Replay | Rewards
    if rl.replay:
        judge = Replay(Path(rl.replay), weights)
    else:
        judge = Rewards(RewardContext(recipe.scoring, tokenizer, rl.max_new_tokens, device))
    if rl.filter_metric and rl.filter_metric not in weights:
        raise UsageError(
            f"recipe: rl.filter_metric = {rl.filter_metric!r} is none of the rewards in scoring.weights"
            f"{did_you_mean(rl.filter_metric, weights)}; name one of {', '.join(weights)}, or leave it empty for "
            f"the first"
        )
    if isinstance(judge, Replay):
        return Collector(rl, prompts, tokenizer, judge, judge.fill, judge, recipe.train.seed)
    by_http = partial(HttpRollout, rl, tokenizer, "float32" if dtype == torch.float32 else "bfloat16")
    size = min(rl.max_batch_size, max(1, rl.staleness) * rl.groups * rl.samples), recipe.data.sequence_length
    if rl.staleness:
        engine: Background = by_http(in_flight=True) if rl.server else BackgroundRollout(model, *size, dtype)
        return Ahead(rl, prompts, tokenizer, engine, generate, judge, recipe.train.seed)
    rollout: Rollout = by_http() if rl.server else LocalRollout(model, *size, dtype)
    return Collector(rl, prompts, tokenizer, rollout, partial(play, rollout, generate), judge, recipe.train.seed)


def _check_ahead(recipe: Recipe) -> None:
    """Refuse what rollouts ahead of the trainer cannot be combined with."""
    if runtime.world_size() > 1:
        raise UsageError(
            f"recipe: rl.staleness = {recipe.rl.staleness} is for one process; leave torchrun out, or set it to 0"
        )
    if recipe.train.deterministic:
        raise UsageError(
            "recipe: train.deterministic = true promises the same bits again, and with rl.staleness above 0 they "
            "depend on the clock; set one of them back"
        )
    if recipe.stage == "distill":
        raise UsageError("recipe: distill.on_policy corrects what the student says now, so that rl.staleness must be 0")


def valid_prompts(recipe: Recipe, tokenizer: Tokenizer) -> list[Prompt]:
    """Held-out prompts that validation during training asks."""
    if not recipe.data.valid or recipe.rl.replay:  # nobody is there to answer them
        return []
    prompts = read_prompts(recipe.data.valid, recipe.data.on_bad_line)
    return fitting(prompts, tokenizer, recipe.data.sequence_length, recipe.rl.max_new_tokens)[:VALID_PROMPTS]


def algorithm(rl: RlConfig) -> Algorithm:
    """The recipe's algorithm with the recipe's changes."""
    own = ALGORITHMS[rl.algorithm]
    return replace(
        own,
        normalise=own.normalise if rl.normalise == "auto" else rl.normalise,
        divide_by_sigma=own.divide_by_sigma if rl.divide_by_sigma == "auto" else rl.divide_by_sigma == "yes",
        clip_low=rl.clip_low or own.clip_low,
        clip_high=rl.clip_high or own.clip_high,
        ratio_max=rl.ratio_max or own.ratio_max,
        importance_limit=rl.importance_limit,
        importance=rl.importance,
        kl=rl.kl,
        kl_coef=rl.kl_coef if rl.kl_in == "loss" else 0.0,
        entropy_coef=rl.entropy_coef,
    )


def make_log_prob_runner(recipe: Recipe, model: Transformer, sampling: Sampling) -> LogProbRunner:
    """What scores sampled tokens by `model` and, with `rl.kl_coef`, by the model as it is now: call it before training.

    The latter is a frozen copy, or under an adapter the base.
    """
    rl, reference = recipe.rl, None
    if rl.kl_coef and lora.updates(model):
        reference = model
    elif rl.kl_coef:
        reference = parallel.plain_copy(model).requires_grad_(False)
        parallel.shard(reference, reference.layers, recipe.train)
    rows, single_step = setup.rows_at_a_time(recipe), rl.epochs * rl.minibatches == 1
    return LogProbRunner(model, reference, sampling, setup.precision(recipe), rows, single_step)


def steps(recipe: Recipe, prompts: Sequence[Prompt]) -> int:
    """Optimizer steps of a run of reinforcement learning."""
    rollouts = max(1, round(recipe.train.epochs * len(prompts) / recipe.rl.groups))
    return recipe.train.max_steps or rollouts * recipe.rl.epochs * recipe.rl.minibatches


def describe(recipe: Recipe, prompts: Sequence[Prompt]) -> str:
    """In words, what a run of reinforcement learning learns from."""
    rl = recipe.rl
    steps = rl.epochs * rl.minibatches
    return f"{len(prompts):,} prompts, a rollout of {rl.groups} × {rl.samples} answers for every {steps} steps"
