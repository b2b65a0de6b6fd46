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
from minimind.losses.preference import bradley_terry
from minimind.model.heads import Scorer
from minimind.model.store import load_scorer
from minimind.optim.groups import make_optimizers
from minimind.recipe import Recipe
from minimind.stages import setup
from minimind.train import parallel
from minimind.train.folder import check_writable
from minimind.train.job import Job, Loss


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
    tokenizer = setup.load_tokenizer(recipe)

    # the language model's body, and a head that gives one number for a token
    model = setup.make_model(recipe, tokenizer, read=load_scorer)
    assert isinstance(model, Scorer)

    # pairs -> ids, the prompt once and then both answers -> rows of whole pairs
    training, validation = setup.shards(recipe, tokenizer, kind="dpo")
    length, seed = recipe.data.sequence_length, recipe.train.seed
    held_out = PairStream(validation, length, seed) if validation and validation.documents else None

    stream = PairStream(training, length, seed)

    parallel.shard(model, model.layers, recipe.train)
    job = Job(
        model=model,
        optimizers=make_optimizers(model, recipe.optim),
        stream=stream,
        loss=reward_loss,
        steps=setup.steps(recipe, stream.rows_per_epoch),
        flops_per_token=setup.flops_per_token(recipe, model, training),
        write_model=partial(setup.write_model, model, tokenizer, dtype=setup.save_dtype(recipe)),
        validate=partial(setup.valid_pairs, recipe, model, held_out, reward_loss),
        sample=list,
        compile=model.compile_blocks,
        data=training.summary,
    )
    return setup.train(job, recipe, out, resume)


def reward_loss(model: Scorer, batch: PairBatch, compiled: bool = False) -> Loss:
    """Score the last token of both answers of each pair and compare: Bradley-Terry, summed over pairs."""
    hidden = model(batch.input_ids, batch.segments)
    scores_P2 = batch.last_tokens(model.scores(hidden.states))
    total = bradley_terry(scores_P2).sum()
    chosen, rejected = scores_P2.detach().unbind(1)
    figures = {"accuracy": chosen > rejected, "margin": chosen - rejected}
    figures |= {"chosen_score": chosen, "rejected_score": rejected}
    sums = {name: values.sum() for name, values in figures.items()}
    return Loss(total, {"loss": total, **sums}, hidden.router)
