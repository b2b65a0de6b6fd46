"""What `grpo` and `agent` share: a run in which answers to one prompt are compared with each other."""

from functools import partial
from pathlib import Path

from minimind.errors import UsageError
from minimind.model.transformer import Transformer
from minimind.recipe import Recipe
from minimind.rl.batch import PolicyBatch
from minimind.rl.environment import Make, play
from minimind.rl.learner import GroupLearner
from minimind.rl.objective import PolicyLoss, chosen, score
from minimind.rl.session import Session
from minimind.stages import common, rollouts
from minimind.tokenizer.bpe import Tokenizer
from minimind.train import loop, parallel
from minimind.train.folder import check_writable


def check(recipe: Recipe, out: Path) -> None:
    """Refuse what cannot be run.

    Raises:
        UserError: no model to start from, nothing to compare with, or no place to write to.
    """
    if not recipe.init:
        raise UsageError(f"train {recipe.stage}: name the fine-tuned model to start from with --init MODEL_DIR")
    if recipe.rl.samples < 2:
        raise UsageError("recipe: rl.samples = 1 leaves nothing to compare an answer with; use 8, or train ppo")
    check_writable(out)


def train(
    recipe: Recipe, out: Path, model: Transformer, tokenizer: Tokenizer, resume: bool, make: Make | None = None
) -> Path:
    """Run the loop and write the finished model to `out`/model. `make`: the environment of each sample, if there is
    one; otherwise each prompt is answered once."""
    parallel.shard(model, model.layers, recipe.train)

    # prompts -> answers, or episodes, of the policy -> rewards -> advantages within each group -> packed rows
    session = Session(recipe, model, tokenizer)
    if make is not None:
        session.play = partial(play, session.rollout, make, most_tokens=recipe.rl.max_new_tokens)
    algorithm = chosen(recipe.rl)
    learner = GroupLearner(recipe, model, session.scorer, algorithm, session.reference())
    loss = GroupLoss(session.loss(algorithm))
    who = f"{recipe.stage} ({recipe.rl.algorithm}): a policy"
    return rollouts.train(session, session.stream(loss.policy, learner), loss, out, resume, who)


class GroupLoss:
    """The policy's loss, summed over the tokens that the policy chose, each with its weight."""

    def __init__(self, loss: PolicyLoss) -> None:
        self.policy = loss

    def __call__(self, model: Transformer, batch: PolicyBatch) -> loop.Loss:
        """Score the answers anew and compare with what sampled them."""
        scored, hidden = score(model, batch, self.policy.sampling)
        total = (self.policy.tokens(scored, batch) * batch.weights).sum()
        return common.balanced(loop.Loss(total, {"loss": total}), model, hidden, batch)
