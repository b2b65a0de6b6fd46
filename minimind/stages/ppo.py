"""PPO: an actor that answers, and a critic that says at every token what reward it expects.

    A_t  = Σ_l (γλ)^l (r_{t+l} + γ V_{t+l+1} - V_{t+l})                  GAE, Schulman et al. 2016
    loss = - Σ_t min(r_t A_t, clip(r_t) A_t) + value_coef · ½ Σ_t (V_t - (A_t + V_old,t))²

An answer is compared with what the critic expected, not with other answers; so one answer to a prompt is enough, and
each token has an advantage of its own. The price is a second network. It starts from the same model, with a head of
zeros (`minimind/model/heads.py`), and has its own learning rate.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minimind.errors import UsageError, UserError
from minimind.losses import policy
from minimind.model.heads import Scorer
from minimind.model.store import load_scorer
from minimind.model.transformer import Transformer
from minimind.optim.groups import make_optimizers
from minimind.recipe import Recipe
from minimind.rl.batch import PolicyBatch
from minimind.rl.learner import CriticLearner
from minimind.rl.objective import PolicyLoss, chosen, score
from minimind.rl.session import Session
from minimind.stages import common, rollouts
from minimind.train import loop, parallel
from minimind.train.folder import check_writable


class ActorCritic(nn.Module):
    """Two networks that are trained side by side."""

    def __init__(self, actor: Transformer, critic: Scorer) -> None:
        super().__init__()
        self.actor, self.critic = actor, critic

    def compile_blocks(self) -> None:
        """Compile a block of each."""
        self.actor.compile_blocks()
        self.critic.compile_blocks()


class PpoLoss:
    """The policy's loss of each token and `value_coef` times the critic's, over the same tokens."""

    def __init__(self, recipe: Recipe, loss: PolicyLoss) -> None:
        self.ppo, self.policy = recipe.ppo, loss
        self.actor_learns = True
        """False in the critic's first rollouts: its guesses are worth nothing yet."""

    def __call__(self, model: ActorCritic, batch: PolicyBatch) -> loop.Loss:
        """Sum over the tokens, to be divided by the step's weight."""
        scored, hidden = score(model.actor, batch, self.policy.sampling)
        states = model.critic(batch.input_ids, batch.segments).states
        values, mask = model.critic.scores(states), batch.mask
        value = policy.value_loss(values, batch.values, batch.returns, mask, self.ppo.value_clip)
        value_total = (value.loss * batch.weights).sum()
        policy_total = (self.policy.tokens(scored, batch) * batch.weights).sum()
        total = policy_total * float(self.actor_learns) + self.ppo.value_coef * value_total
        self.measure(values.detach(), value, batch)
        figures = {"loss": total, "policy_loss": policy_total, "value_loss": value_total}
        return common.balanced(loop.Loss(total, figures), model.actor, hidden, batch)

    def measure(self, values: Tensor, value: policy.Terms, batch: PolicyBatch) -> None:
        """What there is to log of the critic."""
        meter, mask = self.policy.meter, batch.mask
        meter.over(mask, value=values, value_clipped=value.clipped.float(), returns=batch.returns)


def run(recipe: Recipe, out: Path, resume: bool = True) -> Path:
    """Train `recipe.init` on answers to the prompts in `recipe.data.files`; return `out`/model, the actor.

    Raises:
        UserError: bad data, recipe, rewards, server or checkpoint; no model to start from.
    """
    if not recipe.init:
        raise UsageError("train ppo: name the fine-tuned model to start from with --init MODEL_DIR")
    recipe.rl.algorithm, recipe.rl.spread = "ppo_clip", "keep"  # nothing is compared within groups
    check_writable(out)
    tokenizer = common.load_tokenizer(recipe)
    actor = common.make_model(recipe, tokenizer)
    critic = make_critic(recipe, actor)
    for network in (actor, critic):
        parallel.shard(network, network.layers, recipe.train)
    model = ActorCritic(actor, critic)

    # prompts -> answers of the actor -> rewards; values of the critic -> advantages -> packed rows
    session = Session(recipe, actor, tokenizer)
    algorithm = chosen(recipe.rl)
    optimizers = [make_optimizers(network, recipe.optim) for network in (actor, critic)]
    learner = CriticLearner(recipe, actor, critic, session.scorer, algorithm=algorithm, reference=session.reference())
    loss = PpoLoss(recipe, session.loss(algorithm))

    def begin_step(rollout: int) -> None:
        loss.actor_learns = rollout >= recipe.ppo.warmup_rollouts
        set_rates(optimizers, recipe, loss.actor_learns)

    begin_step(0)
    stream = session.stream(loss.policy, learner, recipe.ppo.target_kl, begin_step)
    pair: dict[str, Any] = {
        "model": model,
        "optimizers": [*optimizers[0], *optimizers[1]],
        "flops_per_token": 2 * actor.config.flops_per_token(context=recipe.data.sequence_length / 2),
        "compile": model.compile_blocks,
    }
    return rollouts.train(session, stream, loss, out, resume, "ppo: an actor and its critic, each", **pair)


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


def set_rates(optimizers: list[list[torch.optim.Optimizer]], recipe: Recipe, actor_learns: bool) -> None:
    """The critic has a rate of its own; the actor's is 0 while only the critic learns."""
    scales = (float(actor_learns), recipe.ppo.critic_lr / recipe.optim.lr if recipe.ppo.critic_lr else 1.0)
    for some, scale in zip(optimizers, scales, strict=True):
        for optimizer in some:
            for group in optimizer.param_groups:
                group["lr_scale"] = scale
