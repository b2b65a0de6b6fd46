"""Distillation: a student learns from a teacher what could have been said, not only what was.

    loss = α · CE(next word) + (1 - α) · T² · D(teacher, student)         over the assistant's words

A conversation names one word at each place; the teacher gives every word a probability, and in the unlikely ones lies
how it generalises (Hinton et al. 2015, https://arxiv.org/abs/1503.02531). Both models read the same rows; the teacher
is not trained. D and its gradient are in `minimind/losses/distill.py`.

With `distill.on_policy` the rows are the student's own answers (`minimind/stages/on_policy.py`).
"""

from pathlib import Path
from typing import Any

import torch

from minimind import runtime
from minimind.errors import UsageError, UserError
from minimind.losses.distill import CHUNK, Rule, TeacherStates, distillation_loss
from minimind.losses.lm import labelled_rows
from minimind.model.store import load_model
from minimind.model.transformer import Transformer
from minimind.recipe import Recipe
from minimind.stages import common, on_policy
from minimind.tokenizer.bpe import Tokenizer
from minimind.train import loop
from minimind.train.folder import check_writable
from minimind.train.precision import Precision


def run(recipe: Recipe, out: Path, resume: bool = True) -> Path:
    """Teach `recipe.init`, or a new student of `recipe.preset`, with conversations; return `out`/model.

    Raises:
        UserError: bad data, recipe or checkpoint; no teacher, or one that reads other tokens; a full disk.
    """
    if not recipe.distill.teacher:
        raise UsageError("train distill: name the model to learn from with --set.distill.teacher MODEL_DIR")
    check_writable(out)
    if not recipe.init:
        recipe.tokenizer = recipe.distill.teacher  # a student that is new speaks the teacher's language
    tokenizer = common.load_tokenizer(recipe)
    teacher = load_teacher(recipe, tokenizer)
    model = common.make_model(recipe, tokenizer)

    loss = DistillationLoss(recipe, teacher)
    if recipe.distill.on_policy:
        return on_policy.train(recipe, out, model, tokenizer, loss, resume)

    # conversations -> ids and the mask of what is supervised -> rows of whole conversations
    training, validation = common.shards(recipe, tokenizer, kind="sft")
    return common.train(recipe, out, model, tokenizer, training, validation, resume, loss=loss)


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
    teacher = load_model(directory, dtype=Precision(device, recipe.train.dtype).dtype, device=device)
    if recipe.data.sequence_length > teacher.config.max_position_embeddings:
        raise UsageError(
            f"recipe: data.sequence_length = {recipe.data.sequence_length} is beyond the teacher's context of "
            f"{teacher.config.max_position_embeddings}; shorten the rows"
        )
    return teacher.requires_grad_(False).eval()


class DistillationLoss:
    """Both losses, summed over the supervised tokens of a batch."""

    def __init__(self, recipe: Recipe, teacher: Transformer) -> None:
        config = recipe.distill
        alpha = 0.0 if config.on_policy else config.alpha  # a student's own words are no example to itself
        self.rule = Rule(alpha, config.temperature, config.divergence, config.beta)
        self.teacher = teacher
        self.compiled = False

    def compile(self) -> None:
        """Compile the teacher, which may be most of the work, and the work on logits."""
        self.teacher.compile_blocks()
        self.compiled = True

    def __call__(self, model: Transformer, batch: Any) -> loop.Loss:
        """Let both read the batch; where the text goes on with a word that counts, compare them."""
        hidden = model(batch.input_ids, batch.segments)
        with torch.no_grad():
            seen_BTC = self.teacher(batch.input_ids, batch.segments).states
        rows_M, labels_M = labelled_rows(batch.on_host.labels.flatten(), CHUNK, seen_BTC.device)
        teacher = TeacherStates(seen_BTC.flatten(0, 1)[rows_M], self.teacher.output_weight)
        states_MC = hidden.states.flatten(0, 1)[rows_M]
        found = distillation_loss(states_MC, model.output_weight, labels_M, teacher, self.rule, compiled=self.compiled)
        figures = {"loss": found.total, "cross_entropy": found.cross_entropy, "divergence": found.divergence}
        return common.balanced(loop.Loss(found.total, figures), model, hidden, batch)
