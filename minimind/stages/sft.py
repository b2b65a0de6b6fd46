"""Supervised fine-tuning: the same loss, on conversations, counted on the assistant's words alone.

    loss = - Σ_{t in assistant turns} log p(token_{t+1} | everything before it)

The conversation's other tokens (system, user, tool results) are context: the model sees them but is not
asked to say them. Rendering marks what is supervised: from the end of the generation prompt up to and
including `<|im_end|>`, so that the model also learns to stop.
"""

from functools import partial
from pathlib import Path

from minimind.data.packing import Batch, PackedStream
from minimind.data.shard_reader import Shards
from minimind.errors import UsageError
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
    """Fine-tune `recipe.init` on the conversations in `recipe.data.files`; return `out`/model.

    Raises:
        UserError: bad data, recipe or checkpoint; no model to start from; a full disk.
    """
    if not recipe.init:
        raise UsageError(f"train {recipe.stage}: name the model to start from with --init MODEL_DIR")
    check_writable(out)
    tokenizer = setup.load_tokenizer(recipe)
    model = setup.make_model(recipe, tokenizer)

    # conversations -> ids and the mask of what is supervised, in shards
    training, validation = setup.shards(recipe, tokenizer, kind="sft")
    return setup.train(make_job(recipe, model, tokenizer, training, validation), recipe, out, resume)


def make_job(
    recipe: Recipe, model: Transformer, tokenizer: Tokenizer, training: Shards, validation: Shards | None = None
) -> Job:
    """Predict the assistant's tokens in `training`; those of `validation` are scored in bits per byte."""
    parallel.shard(model, model.layers, recipe.train)
    # shards -> rows of whole conversations
    stream = PackedStream(training, recipe.data.sequence_length, seed=recipe.train.seed)
    return Job(
        model=model,
        optimizers=make_optimizers(model, recipe.optim),
        stream=stream,
        loss=answer_loss,
        steps=setup.steps(recipe, stream.rows_per_epoch),
        flops_per_token=setup.flops_per_token(recipe, model, training),
        write_model=partial(setup.write_model, model, tokenizer, dtype=setup.save_dtype(recipe)),
        validate=partial(setup.valid_bpb, recipe, model, tokenizer, validation),
        sample=partial(setup.sample, recipe, model, tokenizer),
        compile=model.compile_blocks,
        data=training.summary,
    )


def answer_loss(model: Transformer, batch: Batch, compiled: bool = False) -> Loss:
    """- Σ log p(label) over the assistant's tokens: ids `[B, T]`, labels -100 on everything else."""
    hidden = model(batch.input_ids, batch.segments)
    nll = linear_cross_entropy(hidden.states, model.output_weight, batch.on_host.labels, sparse=True, compiled=compiled)
    return Loss(nll, {"loss": nll}, hidden.router)
