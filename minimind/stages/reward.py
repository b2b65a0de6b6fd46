"""A reward model: one number for an answer, so that the chosen one of two has the larger.

    P(chosen wins) = σ(r_chosen - r_rejected)               (Bradley & Terry 1952)
    loss = - Σ_pairs log σ(r_chosen - r_rejected)           (Ouyang et al. 2022, https://arxiv.org/abs/2203.02155)

r is what a new head of one row makes of the last token's state, the newline after `<|im_end|>`: there the whole answer
has been read. The head begins at zero, so the loss at ln 2: a coin. Only differences are learned, so the number by
itself means nothing; a reinforcement learner compares answers to one prompt.
"""

from functools import partial
from pathlib import Path

from minimind.data.pairs import PairBatch, PairStream
from minimind.errors import UsageError
from minimind.eval.pairs import pair_figures
from minimind.losses.preference import bradley_terry
from minimind.model.heads import Scorer
from minimind.model.store import load_scorer
from minimind.recipe import Recipe
from minimind.stages import common
from minimind.train import loop
from minimind.train.folder import check_writable
from minimind.train.precision import Precision


def run(recipe: Recipe, out: Path, resume: bool = True) -> Path:
    """Train a scorer on the pairs in `recipe.data.files`, its body that of `recipe.init`; return `out`/model.

    Raises:
        UserError: bad data, recipe or checkpoint; no model to start from; a full disk.
    """
    if not recipe.init:
        raise UsageError("train reward: name the fine-tuned model to start from with --init MODEL_DIR")
    if recipe.lora.rank:
        raise UsageError("train reward: its new head cannot be an adapter; leave lora.rank at 0")
    check_writable(out)
    tokenizer = common.load_tokenizer(recipe)

    # the language model's body, and a head that gives one number for a token
    model = common.make_model(recipe, tokenizer, read=load_scorer)
    assert isinstance(model, Scorer)

    # pairs -> ids, the prompt once and then both answers -> rows of whole pairs
    training, validation = common.shards(recipe, tokenizer, kind="dpo")
    length, seed = recipe.data.sequence_length, recipe.train.seed
    held_out = PairStream(validation, length, seed) if validation and validation.documents else None

    loss = RewardLoss()
    stream = PairStream(training, length, seed)
    lesson = {"stream": stream, "loss": loss, "validate": partial(validate, recipe, model, held_out, loss)}
    return common.train(recipe, out, model, tokenizer, training, validation, resume, **lesson)


class RewardLoss:
    """Bradley-Terry, summed over the pairs of a batch."""

    def compile(self) -> None:
        """Leave it: two numbers a pair."""

    def __call__(self, model: Scorer, batch: PairBatch) -> loop.Loss:
        """Score the last token of both answers of each pair and compare."""
        hidden = model(batch.input_ids, batch.segments)
        scores_P2 = batch.last_tokens(model.scores(hidden.states))
        total = bradley_terry(scores_P2).sum()
        chosen, rejected = scores_P2.detach().unbind(1)
        figures = {"accuracy": chosen > rejected, "margin": chosen - rejected}
        figures |= {"chosen_score": chosen, "rejected_score": rejected}
        sums = {name: values.sum() for name, values in figures.items()}
        return common.balanced(loop.Loss(total, {"loss": total, **sums}), model, hidden, batch)


def validate(recipe: Recipe, model: Scorer, held_out: PairStream | None, loss: RewardLoss) -> dict[str, float]:
    """Loss, accuracy and margin on pairs that are not trained on."""
    if held_out is None:
        return {}
    precision = Precision(model.output_weight.device, recipe.train.dtype)
    batches = (batch for _, batch in held_out.epoch(common.rows_at_a_time(recipe)))
    return pair_figures(model, batches, loss, precision, common.VALID_TOKENS)
