"""PPO: an actor that answers, and a critic that says at every token what reward it expects.

    prompts → answers → rewards R_t; values V_t of the critic → advantages A_t → packed rows → both losses

    A_t  = Σ_l (γλ)^l (r_{t+l} + γ V_{t+l+1} - V_{t+l})                  GAE, Schulman et al. 2016
    loss = - Σ_t min(r_t A_t, clip(r_t) A_t) + value_coef · ½ Σ_t (V_t - (A_t + V_old,t))²

An answer is compared with what the critic expected, not with other answers; so one answer to a prompt is enough, and
each token has an advantage of its own. The price is a second network. It starts from the same model, with a head of
zeros (`minimind/model/qwen3.py`), and has its own learning rate. Collecting and packing are those of `stages/grpo.py`.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minimind import ranks
from minimind.errors import UsageError, UserError
from minimind.losses.policy import kl_estimate, policy_loss, value_loss
from minimind.model.qwen3 import Scorer, Transformer
from minimind.model.store import load_scorer
from minimind.optim.groups import make_optimizers
from minimind.recipe import Recipe
from minimind.rl.advantages import gae_of_answers, whiten, whiten_answers
from minimind.rl.batch import Packed, PolicyBatch, compute_log_probs, minibatches, pack
from minimind.rl.metrics import PolicyDrift, measure_policy
from minimind.rl.rollout import Sample
from minimind.rl.stream import RolloutStream
from minimind.stages import setup, setup_rl
from minimind.tokenizer.bpe import Tokenizer
from minimind.train import parallel
from minimind.train.folder import check_writable
from minimind.train.job import Job, Loss


class ActorCritic(nn.Module):
    """Two networks that are trained side by side."""

    def __init__(self, actor: Transformer, critic: Scorer) -> None:
        super().__init__()
        self.actor, self.critic = actor, critic

    def compile_blocks(self) -> None:
        """Compile a block of each."""
        self.actor.compile_blocks()
        self.critic.compile_blocks()

    def values(self, batch: PolicyBatch) -> Tensor:
        """The reward that the critic expects at each token, `[rows, time]`."""
        return self.critic.scores(self.critic(batch.input_ids, batch.segments).states)


def run(recipe: Recipe, out: Path, resume: bool = True) -> Path:
    """Train `recipe.init` on answers to the prompts in `recipe.data.files`; return `out`/model, the actor.

    Raises:
        UserError: bad data, recipe, rewards, server or checkpoint; no model to start from.
    """
    if not recipe.init:
        raise UsageError("train ppo: name the fine-tuned model to start from with --init MODEL_DIR")
    # nothing is compared within groups
    recipe = replace(recipe, rl=replace(recipe.rl, algorithm="ppo_clip", filter_groups="keep"))
    check_writable(out)
    tokenizer = setup.load_tokenizer(recipe)
    actor = setup.make_model(recipe, tokenizer)
    critic = make_critic(recipe, actor)
    return setup.train(make_job(recipe, actor, critic, tokenizer), recipe, out, resume)


def make_job(recipe: Recipe, actor: Transformer, critic: Scorer, tokenizer: Tokenizer) -> Job:
    """Ask the actor the recipe's prompts, and make each token likelier that did better than the critic expected."""
    rl, ppo, length = recipe.rl, recipe.ppo, recipe.data.sequence_length
    for network in (actor, critic):
        parallel.shard(network, network.layers, recipe.train)
    model = ActorCritic(actor, critic)
    optimizers = [make_optimizers(network, recipe.optim) for network in (actor, critic)]

    # prompts → answers → rewards
    collector = setup_rl.make_collector(recipe, actor, tokenizer)
    held_out = setup_rl.valid_prompts(recipe, tokenizer)

    # what π_old, and the model that the run started from, say of every sampled token
    runner = setup_rl.make_log_prob_runner(recipe, actor, collector.sampling)
    algorithm, drift = setup_rl.algorithm(rl), PolicyDrift()

    def make_batches(samples: Sequence[Sample], number: int) -> list[Packed]:
        """Rewards of rollout `number`, values of the critic → advantages → the batches of its optimizer steps."""
        packs = []
        for part in minibatches(samples, rl.minibatches, (recipe.train.seed, number)):
            own = [samples[i] for i in part]
            packed = runner.with_log_probs(pack(own, length, algorithm.normalise, rl.max_new_tokens, rl.share_prompts))
            values = runner.run(critic, packed.batch, model.values).where(packed.batch.mask, 0)
            packs.append(packed.with_columns(values=values))
        advantages, returns = estimate(packs)
        batches, first = [], 0
        for packed in packs:
            mine = slice(first, first := first + len(packed.samples))
            columns = {"advantages": packed.scatter(advantages[mine]), "returns": packed.scatter(returns[mine])}
            batches.append(packed.with_columns(**columns))
        return batches * rl.epochs

    def estimate(packs: Sequence[Packed]) -> tuple[list[Tensor], list[Tensor]]:
        """Advantages and returns of every answer of a rollout, over its tokens."""
        samples = [sample for packed in packs for sample in packed.samples]
        masks = [torch.tensor(sample.trainable, dtype=torch.bool) for sample in samples]
        rewards = [torch.zeros(len(mask)) for mask in masks]
        if runner.reference is not None and rl.kl_in == "reward":
            kl = [kl_estimate(batch.old_log_probs, batch.reference_log_probs, batch.mask, rl.kl) for batch, *_ in packs]
            rewards = [
                -one for packed, column in zip(packs, kl, strict=True) for one in packed.gather(rl.kl_coef * column)
            ]
        reward_N = torch.tensor([sample.reward for sample in samples])
        if ppo.whiten_rewards:
            reward_N = whiten(reward_N, torch.ones_like(reward_N, dtype=torch.bool), False, ranks.all_reduce)
        for reward_T, mask_T, reward in zip(rewards, masks, reward_N, strict=True):
            reward_T[mask_T.nonzero()[-1]] += reward  # it comes with the last token that the policy chose
        values = [one for packed in packs for one in packed.gather(packed.batch.values)]
        advantages, returns = gae_of_answers(rewards, values, masks, ppo.gamma, ppo.lam)
        if ppo.whiten:
            advantages = whiten_answers(advantages, masks, ranks.all_reduce)
        return advantages, returns

    def loss(model: ActorCritic, batch: PolicyBatch, compiled: bool = False) -> Loss:
        """The actor's loss and `value_coef` times the critic's, summed over the same tokens, each with its weight."""
        scored, hidden = compute_log_probs(model.actor, batch, collector.sampling)
        old = scored.log_probs.detach() if runner.single_step else batch.old_log_probs
        terms = policy_loss(algorithm, scored.log_probs, scored.entropy, old, batch)
        values = model.values(batch)
        value = value_loss(values, batch.values, batch.returns, batch.mask, ppo.value_clip)
        policy_total, value_total = (terms.loss * batch.token_weights).sum(), (value.loss * batch.token_weights).sum()
        total = policy_total * float(stream.rollouts > ppo.warmup_rollouts) + ppo.value_coef * value_total
        measure_policy(collector.meter, drift, batch, scored, old, terms.clipped)
        of_critic = {"value": values.detach(), "value_clipped": value.clipped.float(), "returns": batch.returns}
        collector.meter.masked(batch.mask, **of_critic)
        return Loss(total, {"loss": total, "policy_loss": policy_total, "value_loss": value_total}, hidden.router)

    own_rates = rates(optimizers)

    def before_step(rollout: int) -> None:
        """While only the critic learns, its guesses being worth nothing yet, the actor's rate is 0."""
        set_rates(optimizers, own_rates, recipe, actor_learns=rollout >= ppo.warmup_rollouts)

    before_step(0)
    stream = RolloutStream(collector, actor, make_batches, drift, ppo.target_kl, before_step)
    return Job(
        model=model,
        optimizers=[*optimizers[0], *optimizers[1]],
        stream=stream,
        loss=loss,
        steps=setup_rl.steps(recipe, collector.prompts),
        flops_per_token=2 * actor.config.flops_per_token(context=length / 2),
        write_model=partial(setup.write_model, actor, tokenizer, dtype=setup.save_dtype(recipe)),
        validate=partial(collector.validate, actor, held_out),
        sample=collector.transcripts,
        compile=model.compile_blocks,
        figures=collector.meter.take,
        data=setup_rl.describe(recipe, collector.prompts),
        close=collector.close,
    )


def make_critic(recipe: Recipe, actor: Transformer) -> Scorer:
    """The critic: the recipe's, or the actor's body, with a head that says 0 at first.

    Raises:
        UserError: it reads other tokens than the actor.
    """
    directory = recipe.ppo.critic or recipe.init
    critic = load_scorer(directory, device=actor.output_weight.device)
    if critic.config.vocab_size != actor.config.vocab_size:
        raise UserError(
            f"ppo.critic {directory} has a vocabulary of {critic.config.vocab_size}, the actor one of "
            f"{actor.config.vocab_size}; use a critic with the actor's tokenizer"
        )
    critic.activation_checkpointing = recipe.train.activation_checkpointing
    return critic.train()


def rates(optimizers: list[list[torch.optim.Optimizer]]) -> list[list[float]]:
    """The rate of each group of weights, of actor and critic, as a multiple of the others' (`optim.embedding_lr`)."""
    return [[group.get("lr_scale", 1.0) for group in groups(some)] for some in optimizers]


def set_rates(
    optimizers: list[list[torch.optim.Optimizer]], own: list[list[float]], recipe: Recipe, actor_learns: bool
) -> None:
    """The critic has a rate of its own; the actor's is 0 while only the critic learns. `own`: as of `rates`."""
    scales = (float(actor_learns), recipe.ppo.critic_lr / recipe.optim.lr if recipe.ppo.critic_lr else 1.0)
    for some, multiples, scale in zip(optimizers, own, scales, strict=True):
        for group, multiple in zip(groups(some), multiples, strict=True):
            group["lr_scale"] = scale * multiple


def groups(optimizers: list[torch.optim.Optimizer]) -> list[dict[str, Any]]:
    """All groups of weights."""
    return [group for optimizer in optimizers for group in optimizer.param_groups]
