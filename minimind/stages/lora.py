"""LoRA: the lesson of supervised fine-tuning, learned by a small change of some matrices.

    y = W₀ x + (alpha / rank) · B A x          W₀ is frozen; B [out, rank] and A [rank, in] are trained

Gradients and moments exist for a few percent of the parameters, and only those are saved: an adapter in PEFT's format,
which any number of can share one base (`minimind/model/lora.py`).

Data, loss and loop are those of `stages/sft.py`. With `lora.rank` above 0 the model that any stage trains is the base,
frozen, with B = 0 beside each chosen matrix: at first it computes exactly what it did before.
"""

from pathlib import Path

from minimind.errors import UsageError
from minimind.recipe import Recipe
from minimind.stages import sft


def run(recipe: Recipe, out: Path, resume: bool = True) -> Path:
    """Adapt `recipe.init` to the conversations in `recipe.data.files`; return the adapter's directory, `out`/model.

    Raises:
        UserError: bad data, recipe or checkpoint; no model to start from; a full disk.
    """
    if not recipe.lora.rank:
        raise UsageError("train lora: give the change a rank with --set.lora.rank N (8 is usual)")
    return sft.run(recipe, out, resume)
