"""The end of a stage: what it gave and what it took, and the mean of start and end where it took too much."""

from dataclasses import asdict
from pathlib import Path

from minimind import runtime
from minimind.console import say
from minimind.errors import UsageError
from minimind.eval import tax
from minimind.files import write_json, writing_to
from minimind.model.store import load_model, save_model
from minimind.recipe import Recipe
from minimind.tokenizer.bpe import Tokenizer


def check(recipe: Recipe) -> None:
    """Refuse a guard that has nothing to compare, before anything is trained.

    Raises:
        UsageError: no model that the run starts from; a limit for an adapter, which has no mean with nothing.
        UserError: bad data.
    """
    if not recipe.guard.files:
        return
    if not recipe.init or recipe.stage == "reward":
        raise UsageError("recipe: guard.files compares with the language model that a run starts from; leave it empty")
    if recipe.guard.limit and recipe.lora.rank:
        raise UsageError("recipe: guard.limit averages whole models, not adapters; set it to 0, or lower lora.alpha")
    tax.read_abilities(recipe.guard.files, 1, recipe.data.on_bad_line)


def after(recipe: Recipe, trained: Path, out: Path, dtype: str) -> bool:
    """Compare `trained`, the last checkpoint, with `recipe.init`: print the table, and write it to `out`/guard.json.

    With `guard.limit` the mean of both, the later one counting as much as it may, becomes `out`/model where that is not
    the whole change; returns whether it did.
    """
    guard, device = recipe.guard, runtime.device(recipe.train.device)
    if not guard.files or not runtime.is_main():
        return False
    tokenizer, products = Tokenizer.load(trained), runtime.compute_dtype(device)
    abilities = tax.read_abilities(guard.files, guard.questions, recipe.data.on_bad_line)
    start, end = (load_model(one, device=device) for one in (recipe.init, trained))
    if guard.limit:
        tried = list(tax.sweep(start, end, tokenizer, abilities, products, guard.limit))
        share, changes = tried[-1]
    else:
        was, now = (tax.standing(one, tokenizer, abilities, products) for one in (start, end))
        share, changes = 1.0, tax.compare(was, now)
    if share < 1:
        with writing_to(out):
            save_model(tax.between(start, end, share), out / "model", dtype)
            tokenizer.save(out / "model")
        say(f"The whole change cost more than {guard.limit:g} points: the model is {share:.0%} of it.")
    tax.show(f"{recipe.init} → {out / 'model'}", changes)
    figures = {"share": share, "abilities": {name: change.figures() for name, change in changes.items()}}
    with writing_to(out):
        write_json(out / "guard.json", figures | {"guard": asdict(guard)})
    return share < 1
