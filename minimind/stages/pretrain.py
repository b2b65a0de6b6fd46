"""Pretraining: predict the next token of ordinary text, and nothing else.

    loss = - Σ_t log p(token_{t+1} | token_1 … token_t)

Every document is bos + text + eos, packed with others into rows; each token sees only its own document.
Knowledge and language come from here; the model does not answer yet, it continues.
"""

from pathlib import Path

from minimind.recipe import Recipe
from minimind.stages import common
from minimind.train.folder import check_writable


def run(recipe: Recipe, out: Path, resume: bool = True) -> Path:
    """Train on `recipe.data.files` under `out`; return the finished model directory `out`/model.

    Raises:
        UserError: bad data, recipe or checkpoint; a full disk.
    """
    check_writable(out)
    tokenizer = common.load_tokenizer(recipe)
    model = common.make_model(recipe, tokenizer)

    # text -> token ids in memory-mapped shards, once -> rows of packed documents
    training, validation = common.shards(recipe, tokenizer, kind="text")
    return common.train(recipe, out, model, tokenizer, training, validation, resume)
