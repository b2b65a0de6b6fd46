"""Reinforcement learning without a critic: several answers to each prompt, and each learns from how it compares.

    prompts → a group of answers each → rewards R → advantages A → packed rows → policy loss

    A_i  = (R_i - mean of its group) / (σ of its group + 1e-4)       Shao et al. 2024; Dr. GRPO: without σ
    loss = (1 / num_items) Σ_answers Σ_tokens w_t [ρ_t ℓ(r_t, A_i) + kl_coef · KL_t - entropy_coef · H_t]

    r_t = π(token) / π_old(token)             π_old: the trainer's model before the first step of the rollout
    ρ_t = min(π_old / π_rollout, limit)       π_rollout: the engine's, whose rounding or weights may differ
    w_t, num_items                            what a token counts, and what all of them do, by `rl.normalise`

ℓ, w and num_items are the algorithm: `rl.algorithm` = cispo (the default), grpo, dr_grpo, dapo, gspo or ppo_clip
(`minimind/losses/policy.py`). Where a rollout makes a single step, every r is 1.

With `recipes/minimind-3/grpo.toml` a rollout is this:

    asked     32 prompts, in an order that follows from the run's seed and the epoch; 8 answers to each
    drawn     at temperature 1, unfiltered, each with a seed of its own that follows from the run's, its prompt's place
              in the run and its number in the group; half of the groups think first, by seed and place
    judged    R = a weighted sum of four rewards; an answer that failed, or that one of them cannot judge, is left out
    kept      the first 32 groups whose answers differ in the first reward (`numeric`), unweighted; rounds of 32 other
              prompts are asked until there are so many, ten at most: then fewer will do, and none ends the run
    packed    shuffled by the seed and the rollout's number, and halved; each answer whole, behind a copy of its prompt,
              best fit into rows of 1,024 tokens. π_old is computed over these rows before the first of two steps
    learned   A = R minus the group's mean (`divide_by_sigma` = "no"); ℓ = -min(r, 5) · A · log π without a gradient
              through the factor, ρ cut at 2; w = 1, num_items = sampled tokens; KL and entropy have no weight, so that
              there is no reference model
    moved     by AdamW, gradients clipped to norm 1

The loop (`minimind/train/loop.py`) asks `minimind/rl/stream.py` for each step's batch. When the last rollout is used
up, the stream gives the engine the newest weights, has prompts answered and judged, and calls `make_batches`. An answer
is a `Sample` (`minimind/rl/rollout.py`); how samples become rows is in `minimind/rl/batch.py`. With `rl.staleness` a
thread has prompts answered while the trainer learns (`minimind/rl/ahead.py`). For each step the loop sums the loss over
micro-batches and ranks, divides its gradient by num_items, clips it, and lets the optimizers move the weights. A
checkpoint keeps weights, moments and random states as in any stage, and of the stream the place in the prompts, the
numbers of rollout and weights, the batches that are left, and the policy's drift.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from minimind.errors import UsageError
from minimind.losses.policy import kl_estimate, policy_loss
from minimind.model.qwen3 import Transformer
from minimind.optim.groups import make_optimizers
from minimind.recipe import Recipe
from minimind.rl.advantages import group_advantages
from minimind.rl.batch import Packed, PolicyBatch, compute_log_probs, minibatches, pack
from minimind.rl.metrics import PolicyDrift, measure_policy
from minimind.rl.rollout import Generate, Sample, single_turn
from minimind.rl.stream import RolloutStream
from minimind.stages import setup, setup_rl
from minimind.tokenizer.bpe import Tokenizer
from minimind.train import parallel
from minimind.train.folder import check_writable
from minimind.train.job import Job, Loss


def run(recipe: Recipe, out: Path, resume: bool = True, generate: Generate = single_turn) -> Path:
    """Train `recipe.init` on answers to the prompts in `recipe.data.files`; return `out`/model.

    `generate` fills a sample: with one answer to its prompt, or with an episode.

    Raises:
        UserError: bad data, recipe, rewards, server or checkpoint; no model to start from; nothing to learn.
    """
    if not recipe.init:
        raise UsageError(f"train {recipe.stage}: name the fine-tuned model to start from with --init MODEL_DIR")
    if recipe.rl.samples < 2:
        raise UsageError("recipe: rl.samples = 1 leaves nothing to compare an answer with; use 8, or train ppo")
    check_writable(out)
    tokenizer = setup.load_tokenizer(recipe)
    model = setup.make_model(recipe, tokenizer)
    return setup.train(make_job(recipe, model, tokenizer, generate), recipe, out, resume)


def make_job(recipe: Recipe, model: Transformer, tokenizer: Tokenizer, generate: Generate = single_turn) -> Job:
    """Ask `model` the recipe's prompts, compare its answers, and make the better ones likelier."""
    rl, length = recipe.rl, recipe.data.sequence_length
    parallel.shard(model, model.layers, recipe.train)

    # prompts → answers → rewards: `rl.groups` prompts, `rl.samples` answers each, groups that differ
    collector = setup_rl.make_collector(recipe, model, tokenizer, generate)
    held_out = setup_rl.valid_prompts(recipe, tokenizer)

    # what π_old, and the model that the run started from, say of every sampled token
    runner = setup_rl.make_log_prob_runner(recipe, model, collector.sampling)
    algorithm, drift = setup_rl.algorithm(rl), PolicyDrift()

    def make_batches(samples: Sequence[Sample], number: int) -> list[Packed]:
        """Rewards of rollout `number` → advantages → the batches of its optimizer steps."""
        parts = minibatches(samples, rl.minibatches, (recipe.train.seed, number))
        rewards_N = torch.tensor([sample.reward for sample in samples], dtype=torch.float64)
        packs = []
        for indices in parts:
            packed = pack(
                [samples[i] for i in indices], length, algorithm.normalise, rl.max_new_tokens, rl.share_prompts
            )
            packed = runner.with_log_probs(packed)
            if runner.reference is not None and rl.kl_in == "reward":
                kl = kl_estimate(packed.batch.old_log_probs, packed.batch.reference_log_probs, packed.batch.mask, rl.kl)
                rewards_N[indices] -= torch.tensor([float(kl_T.sum()) for kl_T in packed.gather(rl.kl_coef * kl)])
            packs.append(packed)
        advantages_N = group_advantages(rewards_N, [sample.group for sample in samples], algorithm.divide_by_sigma)
        batches = [
            packed.with_columns(advantages=packed.scatter(advantages_N[indices]))
            for packed, indices in zip(packs, parts, strict=True)
        ]
        return batches * rl.epochs

    def loss(model: Transformer, batch: PolicyBatch, compiled: bool = False) -> Loss:
        """Score the answers anew and compare with π_old and π_rollout; a sum over tokens, each with its weight."""
        scored, hidden = compute_log_probs(model, batch, collector.sampling)
        old = scored.log_probs.detach() if runner.single_step else batch.old_log_probs
        terms = policy_loss(algorithm, scored.log_probs, scored.entropy, old, batch)
        measure_policy(collector.meter, drift, batch, scored, old, terms.clipped)
        total = (terms.loss * batch.token_weights).sum()
        return Loss(total, {"loss": total}, hidden.router)

    return Job(
        model=model,
        optimizers=make_optimizers(model, recipe.optim),
        stream=RolloutStream(collector, model, make_batches, drift),
        loss=loss,
        steps=setup_rl.steps(recipe, collector.prompts),
        flops_per_token=model.config.flops_per_token(context=length / 2),
        write_model=partial(setup.write_model, model, tokenizer, dtype=setup.save_dtype(recipe)),
        validate=partial(collector.validate, model, held_out),
        sample=collector.transcripts,
        compile=model.compile_blocks,
        figures=collector.meter.take,
        data=setup_rl.describe(recipe, collector.prompts),
        close=collector.close,
    )
