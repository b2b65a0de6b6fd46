"""On-policy distillation: the student speaks, the teacher says at each word what it would have said.

    loss = E_{x ~ prompts, y ~ student(x)}  Σ_t D(teacher(· | x, y_<t), student(· | x, y_<t))

A student that only ever reads the teacher's text never sees its own mistakes, so it does not know how to go on after
one; here it learns in just the places that it comes to (Agarwal et al. 2023, https://arxiv.org/abs/2306.13649). It is
reinforcement learning with a reward at every word, and a whole distribution at that; the sampling itself is not
differentiated. With D = reverse it is the KL divergence between what both would say, whole answers of them.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from minimind.model.transformer import Transformer
from minimind.recipe import Recipe
from minimind.rl.batch import PolicyBatch
from minimind.rl.learner import Learner
from minimind.rl.objective import Algorithm
from minimind.rl.rollout import Sample
from minimind.rl.session import Session
from minimind.stages import common, rollouts
from minimind.tokenizer.bpe import Tokenizer
from minimind.train import parallel

ALGORITHM = Algorithm("clip", "token")
"""Of a policy's algorithm only the mean over tokens is taken."""


def train(
    recipe: Recipe, out: Path, model: Transformer, tokenizer: Tokenizer, loss: common.StageLoss, resume: bool
) -> Path:
    """Let `loss`, which holds the teacher, correct the model's answers to the prompts; return `out`/model.

    The prompts are the conversations in `recipe.data.files` up to their last answer. Nothing is rewarded, so no answer
    is left out; what share of them came to an end is logged. Held-out conversations are scored in bits per byte.

    Raises:
        UserError: bad data, server or checkpoint; a full disk.
    """
    recipe.scoring.weights, recipe.rl.spread = {"unfinished": 1.0}, "keep"
    _, validation = common.shards(recipe, tokenizer, kind="sft") if recipe.data.valid else (None, None)
    parallel.shard(model, model.layers, recipe.train)

    # prompts -> answers of the student -> packed rows -> the teacher reads them, too
    session = Session(recipe, model, tokenizer)
    learner = Learner(recipe, model, session.scorer, ALGORITHM, reference=None)

    def prepare(samples: Sequence[Sample], number: int) -> list[PolicyBatch]:
        return [packed.batch for _, packed in learner.packed(samples, number)] * recipe.rl.epochs

    stream = session.stream(session.loss(ALGORITHM), prepare)

    def compile_both() -> None:
        model.compile_blocks()
        loss.compile()

    other = {"validate": partial(common.valid_bpb, recipe, model, tokenizer, validation), "compile": compile_both}
    return rollouts.train(session, stream, loss, out, resume, "distill (on policy): a student", **other)
