"""Reinforcement learning without a critic: several answers to each prompt, and each learns from how it compares.

    A_i  = R_i - mean of its group                    (GRPO: divided by the group's σ; Shao et al. 2024)
    loss = - Σ_answers Σ_tokens f(r_t) A_i            r_t = π(token) / π_old(token)

What f is, and what the sum is divided by, is the algorithm: `rl.algorithm` = grpo, dr_grpo, dapo, gspo, cispo or
ppo_clip (`minimind/losses/policy.py`). A group whose answers are all right or all wrong has nothing to compare; it is
left out.
"""

from functools import partial
from pathlib import Path

from minimind.console import say
from minimind.errors import UsageError
from minimind.model.transformer import Transformer
from minimind.optim.groups import make_optimizers
from minimind.recipe import Recipe
from minimind.rl.batch import PolicyBatch
from minimind.rl.learner import GroupLearner
from minimind.rl.objective import PolicyLoss, chosen, score
from minimind.rl.session import Session, transcripts
from minimind.stages import common
from minimind.train import loop, parallel
from minimind.train.folder import check_writable


def run(recipe: Recipe, out: Path, resume: bool = True) -> Path:
    """Train `recipe.init` on answers to the prompts in `recipe.data.files`; return `out`/model.

    Raises:
        UserError: bad data, recipe, rewards, server or checkpoint; no model to start from; nothing to learn.
    """
    if not recipe.init:
        raise UsageError("train grpo: name the fine-tuned model to start from with --init MODEL_DIR")
    if recipe.rl.samples < 2:
        raise UsageError("recipe: rl.samples = 1 leaves nothing to compare an answer with; use 8, or train ppo")
    check_writable(out)
    tokenizer = common.load_tokenizer(recipe)
    model = common.make_model(recipe, tokenizer)
    parallel.shard(model, model.layers, recipe.train)

    # prompts -> answers of the policy -> rewards -> advantages within each group -> packed rows
    session = Session(recipe, model, tokenizer)
    algorithm = chosen(recipe.rl)
    learner = GroupLearner(recipe, model, session.scorer, algorithm, session.reference())
    loss = GroupLoss(session.loss(algorithm))
    stream = session.stream(loss.policy, learner)

    job = loop.Job(
        model=model,
        optimizers=make_optimizers(model, recipe.optim),
        stream=stream,
        loss=loss,
        steps=session.steps(),
        flops_per_token=model.config.flops_per_token(context=recipe.data.sequence_length / 2),
        write_model=partial(common.write_model, model, tokenizer),
        validate=session.validate,
        sample=lambda: transcripts(stream.newest),
        compile=model.compile_blocks,
        figures=session.meter.take,
    )
    say(
        f"grpo ({recipe.rl.algorithm}): {model.config.parameters() / 1e6:.2f} M parameters on "
        f"{model.output_weight.device.type}, {len(stream.prompts):,} prompts; {job.steps:,} steps, a rollout of "
        f"{recipe.rl.groups} × {recipe.rl.samples} answers for every {recipe.rl.epochs * recipe.rl.minibatches}"
    )
    return common.finish(job, recipe, out, resume)


class GroupLoss:
    """The policy's loss, summed over the tokens of a batch, each with its weight."""

    def __init__(self, loss: PolicyLoss) -> None:
        self.policy = loss

    def __call__(self, model: Transformer, batch: PolicyBatch) -> loop.Loss:
        """Score the answers anew and compare with what sampled them."""
        scored, hidden = score(model, batch, self.policy.sampling)
        total = (self.policy.tokens(scored, batch) * batch.weights).sum()
        return common.balanced(loop.Loss(total, {"loss": total}), model, hidden, batch)
