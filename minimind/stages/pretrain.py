"""Pretraining: predict the next token of ordinary text, and nothing else.

    loss = - Σ_t log p(token_{t+1} | token_1 … token_t)

Every document is bos + text + eos, packed with others into rows; each token sees only its own document.
Knowledge and language come from here; the model does not answer yet, it continues.
"""

from functools import partial
from pathlib import Path

from minimind.data.packing import Batch, PackedStream
from minimind.data.shard_reader import Shards
from minimind.losses.lm import linear_cross_entropy
from minimind.model.transformer import Transformer
from minimind.optim.groups import make_optimizers
from minimind.recipe import Recipe
from minimind.stages import setup
from minimind.tokenizer.bpe import Tokenizer
from minimind.train import parallel
from minimind.train.folder import check_writable
from minimind.train.job import Job, Loss


def run(recipe: Recipe, out: Path, resume: bool = True) -> Path:
    """Train on `recipe.data.files` under `out`; return the finished model directory `out`/model.

    Raises:
        UserError: bad data, recipe or checkpoint; a full disk.
    """
    check_writable(out)
    tokenizer = setup.load_tokenizer(recipe)
    model = setup.make_model(recipe, tokenizer)

    # text -> token ids in memory-mapped shards, once
    training, validation = setup.shards(recipe, tokenizer, kind="text")
    return setup.train(make_job(recipe, model, tokenizer, training, validation), recipe, out, resume)


def make_job(
    recipe: Recipe, model: Transformer, tokenizer: Tokenizer, training: Shards, validation: Shards | None = None
) -> Job:
    """Predict every next token of `training`; `validation` is scored in bits per byte."""
    parallel.shard(model, model.layers, recipe.train)
    # shards -> rows of packed documents, in a new order each epoch
    stream = PackedStream(training, recipe.data.sequence_length, seed=recipe.train.seed)
    return Job(
        model=model,
        optimizers=make_optimizers(model, recipe.optim),
        stream=stream,
        loss=next_token_loss,
        steps=setup.steps(recipe, stream.rows_per_epoch),
        flops_per_token=setup.flops_per_token(recipe, model, training),
        write_model=partial(setup.write_model, model, tokenizer, dtype=setup.save_dtype(recipe)),
        validate=partial(setup.valid_bpb, recipe, model, tokenizer, validation),
        sample=partial(setup.sample, recipe, model, tokenizer),
        compile=model.compile_blocks,
        data=training.summary,
    )


def next_token_loss(model: Transformer, batch: Batch, compiled: bool = False) -> Loss:
    """- Σ log p(label) over the batch: ids `[B, T]`, each label the id that follows, -100 at a document's end."""
    hidden = model(batch.input_ids, batch.segments)
    nll = linear_cross_entropy(hidden.states, model.output_weight, batch.labels, compiled=compiled)
    return Loss(nll, {"loss": nll}, hidden.router)
