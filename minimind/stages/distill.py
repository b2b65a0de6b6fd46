"""Distillation: a student learns from a teacher what could have been said, not only what was.

    loss = α · CE(next word) + (1 - α) · T² · D(teacher, student)         over the assistant's words

A conversation names one word at each place; the teacher gives every word a probability, and in the unlikely ones lies
how it generalises (Hinton et al. 2015, https://arxiv.org/abs/1503.02531). Both models read the same rows; the teacher
is not trained. D and its gradient are in `minimind/losses/distill.py`.

With `distill.on_policy` the rows are the student's own answers to the conversations' last questions:

    loss = E_{x ~ prompts, y ~ student(x)}  Σ_t D(teacher(· | x, y_<t), student(· | x, y_<t))

A student that only ever reads the teacher's text never sees its own mistakes, so it does not know how to go on after
one; here it learns in just the places that it comes to (Agarwal et al. 2023, https://arxiv.org/abs/2306.13649). It is
reinforcement learning with a reward at every word, and a whole distribution at that; the sampling itself is not
differentiated. With D = reverse it is the KL divergence between what both would say, whole answers of them.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from minimind import ranks, runtime
from minimind.data.packing import PackedStream
from minimind.data.shard_reader import Shards
from minimind.errors import UsageError, UserError
from minimind.losses.distill import CHUNK, Rule, TeacherStates, distillation_loss
from minimind.losses.lm import labelled_rows
from minimind.model.qwen3 import Transformer
from minimind.model.store import load_model
from minimind.optim.groups import make_optimizers
from minimind.recipe import Recipe
from minimind.rl.batch import Packed, minibatches, pack, pad_rows
from minimind.rl.metrics import PolicyDrift
from minimind.rl.rollout import Sample
from minimind.rl.stream import RolloutStream
from minimind.stages import setup, setup_rl
from minimind.tokenizer.bpe import Tokenizer
from minimind.train import parallel
from minimind.train.folder import check_writable
from minimind.train.job import Job, Loss


def run(recipe: Recipe, out: Path, resume: bool = True) -> Path:
    """Teach `recipe.init`, or a new student of `recipe.preset`, with conversations; return `out`/model.

    Raises:
        UserError: bad data, recipe or checkpoint; no teacher, or one that reads other tokens; a full disk.
    """
    if not recipe.distill.teacher:
        raise UsageError("train distill: name the model to learn from with --set.distill.teacher MODEL_DIR")
    check_writable(out)
    if not recipe.init:  # a student that is new speaks the teacher's language
        recipe = replace(recipe, tokenizer=recipe.distill.teacher)
    tokenizer = setup.load_tokenizer(recipe)
    teacher = load_teacher(recipe, tokenizer)
    model = setup.make_model(recipe, tokenizer)
    if model.config.vocab_size > teacher.config.vocab_size:
        raise UserError(
            f"the student has {model.config.vocab_size:,} words and the teacher {teacher.config.vocab_size:,}, of one "
            f"tokenizer; begin with a new student (without --init), or let the teacher write answers and train sft"
        )
    if recipe.distill.on_policy:
        return setup.train(make_on_policy_job(recipe, model, teacher, tokenizer), recipe, out, resume)

    # conversations -> ids and the mask of what is supervised, in shards
    training, validation = setup.shards(recipe, tokenizer, kind="sft")
    return setup.train(make_job(recipe, model, teacher, tokenizer, training, validation), recipe, out, resume)


def make_job(
    recipe: Recipe,
    model: Transformer,
    teacher: Transformer,
    tokenizer: Tokenizer,
    training: Shards,
    validation: Shards | None = None,
) -> Job:
    """Learn what the teacher says of the assistant's tokens in `training`."""
    parallel.shard(model, model.layers, recipe.train)
    # shards -> rows of whole conversations
    stream = PackedStream(training, recipe.data.sequence_length, seed=recipe.train.seed)
    return Job(
        model=model,
        optimizers=make_optimizers(model, recipe.optim),
        stream=stream,
        loss=partial(teacher_loss, teacher=teacher, rule=rule_of(recipe)),
        steps=setup.steps(recipe, stream.rows_per_epoch),
        flops_per_token=setup.flops_per_token(recipe, model, training),
        write_model=partial(setup.write_model, model, tokenizer, dtype=setup.save_dtype(recipe)),
        validate=partial(setup.valid_bpb, recipe, model, tokenizer, validation),
        sample=partial(setup.sample, recipe, model, tokenizer),
        compile=partial(compile_both, model, teacher),
        data=training.summary,
    )


def make_on_policy_job(recipe: Recipe, model: Transformer, teacher: Transformer, tokenizer: Tokenizer) -> Job:
    """Let the teacher correct the model's answers to the prompts: the conversations up to their last answer.

    Nothing is rewarded, so no answer is left out; what share of them came to an end is logged.
    """
    own = replace(recipe.scoring, weights={"unfinished": 1.0}), replace(recipe.rl, filter_groups="keep")
    recipe = replace(recipe, scoring=own[0], rl=own[1])
    rl, length = recipe.rl, recipe.data.sequence_length
    held_out = replace(recipe.data, files=recipe.data.valid, valid=[], valid_fraction=0.0)  # prompts are no examples
    validation, _ = (
        setup.shards(replace(recipe, data=held_out), tokenizer, kind="sft") if recipe.data.valid else (None, None)
    )
    parallel.shard(model, model.layers, recipe.train)
    collector = setup_rl.make_collector(recipe, model, tokenizer)

    def make_batches(samples: Sequence[Sample], number: int) -> list[Packed]:
        """Answers of the student -> packed rows, that the teacher reads, too; as many on all ranks."""
        batches = []
        for part in minibatches(samples, rl.minibatches, (recipe.train.seed, number)):
            packed = pack([samples[i] for i in part], length, "token", rl.max_new_tokens, rl.share_prompts)
            most = max(ranks.all_gather(len(packed.batch.labels)))
            batches.append(packed._replace(batch=pad_rows(packed.batch, most)))
        return batches * rl.epochs

    return Job(
        model=model,
        optimizers=make_optimizers(model, recipe.optim),
        stream=RolloutStream(collector, model, make_batches, PolicyDrift()),
        loss=partial(teacher_loss, teacher=teacher, rule=rule_of(recipe)),
        steps=setup_rl.steps(recipe, collector.prompts),
        flops_per_token=model.config.flops_per_token(context=length / 2),
        write_model=partial(setup.write_model, model, tokenizer, dtype=setup.save_dtype(recipe)),
        validate=partial(setup.valid_bpb, recipe, model, tokenizer, validation),
        sample=collector.transcripts,
        compile=partial(compile_both, model, teacher),
        figures=collector.meter.take,
        data=setup_rl.describe(recipe, collector.prompts),
    )


def teacher_loss(model: Transformer, batch: Any, compiled: bool = False, *, teacher: Transformer, rule: Rule) -> Loss:
    """Let both read the batch; where the text goes on with a word that counts, compare them."""
    hidden = model(batch.input_ids, batch.segments)
    with torch.no_grad():
        seen_BTC = teacher(batch.input_ids, batch.segments).states
    rows_M, labels_M = labelled_rows(batch.on_host.labels.flatten(), CHUNK, seen_BTC.device)
    # A model may have more rows than its tokenizer has words, to round them up: those are nothing to learn.
    seen = TeacherStates(seen_BTC.flatten(0, 1)[rows_M], teacher.output_weight[: len(model.output_weight)])
    states_MC = hidden.states.flatten(0, 1)[rows_M]
    found = distillation_loss(states_MC, model.output_weight, labels_M, seen, rule, compiled=compiled)
    figures = {"loss": found.total, "cross_entropy": found.cross_entropy, "divergence": found.divergence}
    return Loss(found.total, figures, hidden.router)


def rule_of(recipe: Recipe) -> Rule:
    """How the two are compared; a student's own words are no example to itself."""
    config = recipe.distill
    return Rule(0.0 if config.on_policy else config.alpha, config.temperature, config.divergence, config.beta)


def compile_both(model: Transformer, teacher: Transformer) -> None:
    """Compile the student and the teacher, which may be most of the work."""
    model.compile_blocks()
    teacher.compile_blocks()


def load_teacher(recipe: Recipe, tokenizer: Tokenizer) -> Transformer:
    """The teacher, frozen, in the number format that it computes in.

    Raises:
        UserError: its tokens are not the student's, or its context is shorter than the rows.
    """
    directory = recipe.distill.teacher
    if Tokenizer.load(directory).fingerprint != tokenizer.fingerprint:
        raise UserError(
            f"the teacher {directory} has another tokenizer than the student, so that their words cannot be compared; "
            f"choose a teacher with the student's, or let it write answers and train sft on them"
        )
    device = runtime.device(recipe.train.device)
    teacher = load_model(directory, dtype=setup.precision(recipe).dtype, device=device)
    if recipe.data.sequence_length > teacher.config.max_position_embeddings:
        raise UsageError(
            f"recipe: data.sequence_length = {recipe.data.sequence_length} is beyond the teacher's context of "
            f"{teacher.config.max_position_embeddings}; shorten the rows"
        )
    return teacher.requires_grad_(False).eval()
