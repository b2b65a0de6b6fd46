"""Supervised fine-tuning: the same loss, on conversations, counted on the assistant's words alone.

    loss = - Σ_{t in assistant turns} log p(token_{t+1} | everything before it)

The conversation's other tokens (system, user, tool results) are context: the model sees them but is not
asked to say them. Rendering marks what is supervised: from the end of the generation prompt up to and
including `<|im_end|>`, so that the model also learns to stop.
"""

from pathlib import Path

from minimind.errors import UsageError
from minimind.recipe import Recipe
from minimind.stages import common
from minimind.train.folder import check_writable


def run(recipe: Recipe, out: Path, resume: bool = True) -> Path:
    """Fine-tune `recipe.init` on the conversations in `recipe.data.files`; return `out`/model.

    Raises:
        UserError: bad data, recipe or checkpoint; no model to start from; a full disk.
    """
    if not recipe.init:
        raise UsageError("train sft: name the pretrained model to start from with --init MODEL_DIR")
    check_writable(out)
    tokenizer = common.load_tokenizer(recipe)
    model = common.make_model(recipe, tokenizer)

    # conversations -> ids and the mask of what is supervised -> rows of whole conversations
    training, validation = common.shards(recipe, tokenizer, kind="sft")
    return common.train(recipe, out, model, tokenizer, training, validation, resume)
