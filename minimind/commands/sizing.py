"""Which model to train in a given time, in which steps and at which rate: for `plan` and the recipe `auto`."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from minimind.errors import UsageError
from minimind.recipe import Recipe, find, load, model_config, run_config

if TYPE_CHECKING:
    import torch

RECIPE = "laptop"
"""Whose recipe it is but for what is chosen here: short runs on real text."""
MICRO_BATCH_TOKENS = {"cuda": 32768}
"""More on a GPU than there are on a CPU, whose caches they must fit."""
LONGEST = 10 * 365 * 24 * 60
"""Minutes that anybody could spend."""
FRESH, ENOUGH = 4, 16
"""Epochs for which repeated text is nearly as good as new, and after which it has nothing more to give (Muennighoff et
al. 2023)."""
READ_AGAIN = 4
"""Epochs from which heavy weight decay was measured to be worth it; where text is read once, it costs."""
TRIAL_SECONDS = 3.0
"""Of steps of the choice, after the first."""
TRIAL_SHARE = 1 / 40
"""Of the time there is that such a trial may take."""


class Choice(NamedTuple):
    """One preset, trained for the time that there is."""

    preset: str
    parameters: int
    tokens: int
    epochs: float | None
    """How often that is the corpus; None if that is not known."""
    steps: int
    tokens_per_step: int
    micro_batch_tokens: int
    lr: float
    weight_decay: float
    embedding_decay: float
    tokens_per_second: float
    bpb: float
    """Bits per byte of mixed web text, as the scaling law expects them."""
    bpb_error: float
    """By how much that may be wrong."""

    def figures(self) -> dict[str, Any]:
        """What is known, as JSON can hold it."""
        return {name: value for name, value in self._asdict().items() if value is not None}

    def settings(self) -> dict[str, Any]:
        """What these choices change in `RECIPE`."""
        return {
            "preset": self.preset,
            "train.max_steps": self.steps,
            "train.tokens_per_step": self.tokens_per_step,
            "train.micro_batch_tokens": self.micro_batch_tokens,
            "optim.lr": self.lr,
            "optim.weight_decay": self.weight_decay,
            "optim.embedding_decay": self.embedding_decay,
        }

    def repeats(self, minutes: float) -> str:
        """What there is to say about how often the text is read; nothing where that is seldom."""
        if self.epochs is None or self.epochs <= FRESH:
            return ""
        used = self.tokens / self.tokens_per_second / 60
        longer = f", which takes {used:.2g} of the {minutes:g} minutes" if used < 0.99 * minutes else ""
        return f"The text is read {self.epochs:.3g} times{longer}; more text would teach more."


def choices(
    minutes: float, settings: dict[str, Any], data: Sequence[str], device: str, peak: float | None = None
) -> list[Choice]:
    """What each dense preset would do in the time on this machine, the smallest first.

    Of `settings` those of a run that are given stay as they are. `peak` is the speed of the machine's products in
    FLOP/s, and measured if it is not known.

    Raises:
        UserError: bad data or settings; more minutes than anybody has.
    """
    from minimind import runtime
    from minimind.config import PRESETS
    from minimind.model.hf_config import readable
    from minimind.plan import scaling
    from minimind.plan.budget import tokens_per_second
    from minimind.tokenizer.bpe import Tokenizer

    if minutes > LONGEST:
        raise UsageError(f"{minutes:g} minutes are more than ten years; name at most {LONGEST}")
    on = runtime.device(device)
    peak = peak or peak_flops(device)
    presets = [settings["preset"]] if "preset" in settings else PRESETS
    whole = dict.fromkeys(("train.tokens_per_step", "train.micro_batch_tokens"), scaling.LARGEST_STEP)
    corpus: tuple[int, float] | None = None
    found: list[Choice] = []
    for preset in presets:
        recipe = load(Recipe, find(RECIPE, "pretrain"), whole | settings | {"preset": preset})
        if recipe.optim.matrices != "muon" and "optim.lr" not in settings:
            raise UsageError("the rate that is chosen is Muon's; with optim.matrices another, give --set.optim.lr too")
        tokenizer = Tokenizer.load(recipe.tokenizer)
        config = readable(model_config(recipe, tokenizer.vocab_size))
        if config.num_experts and "preset" not in settings:
            continue
        corpus = corpus or count(data, "pretrain", recipe, tokenizer)
        epoch, row = corpus[0], recipe.data.sequence_length
        speed = tokens_per_second(config, config.flops_per_token(min(row, corpus[1]) / 2), peak, on.type)
        tokens = min(speed * minutes * 60, ENOUGH * epoch or math.inf)
        per_step = settings.get("train.tokens_per_step") or max(scaling.tokens_per_step(tokens), row)
        together = settings.get("train.micro_batch_tokens") or _at_once(recipe, config, per_step, on)
        lr = settings.get("optim.lr") or round(scaling.learning_rate(config.hidden_size), 6)
        steps = max(1, round(tokens / per_step))
        expected = scaling.expected(config.parameters(), scaling.effective_tokens(tokens, epoch or tokens))
        epochs, optim = round(tokens / epoch, 2) if epoch else None, recipe.optim
        if epochs and epochs >= READ_AGAIN:
            heavy = float(f"{scaling.weight_decay(lr, steps / epochs):.2g}")
            if "optim.weight_decay" not in settings:
                optim.weight_decay = max(optim.weight_decay, heavy)
            if "optim.embedding_decay" not in settings:  # at its own rate: the same memory, counted in steps
                optim.embedding_decay = float(f"{heavy / optim.embedding_lr:.2g}")
        sizes = (int(tokens), epochs, steps, per_step, together, lr, optim.weight_decay, optim.embedding_decay)
        found.append(Choice(preset, config.parameters(), *sizes, round(speed, 1), *(round(x, 3) for x in expected)))
    return sorted(found, key=lambda one: one.parameters)


def best(found: Sequence[Choice]) -> Choice:
    """The lowest loss by the law, which knows nothing of learning by heart.

    So where the smallest would read the text again and again, a model may have no more parameters than there are
    tokens to read.
    """
    smallest = found[0]
    if smallest.epochs and smallest.epochs > FRESH:
        unique = smallest.tokens / smallest.epochs
        found = [one for one in found if one.parameters <= unique] or [smallest]
    return min(found, key=lambda one: one.bpb)


def peak_flops(device: str) -> float:
    """FLOP/s of the products that a run on this device computes with."""
    from minimind import runtime

    on = runtime.device(device)
    return runtime.peak_flops(on, runtime.compute_dtype(on))


def trial(choice: Choice, settings: dict[str, Any]) -> float:
    """Tokens a second of a few real steps.

    Raises:
        UserError: as a run of it would.
    """
    import time

    from minimind import runtime
    from minimind.bench.ours import Ours
    from minimind.stages.setup import load_tokenizer, shards

    recipe = load(Recipe, find(RECIPE, "pretrain"), choice.settings() | settings)
    tokenizer = load_tokenizer(recipe)
    ours = Ours(recipe, tokenizer, shards(recipe, tokenizer, kind="text")[0])
    on = ours.precision.device
    ours.step()  # compiled, and its memory taken
    runtime.synchronize(on)
    before, began = ours.tokens, time.perf_counter()
    while time.perf_counter() - began < TRIAL_SECONDS:
        ours.step()
        runtime.synchronize(on)
    return (ours.tokens - before) / (time.perf_counter() - began)


def count(data: Sequence[str], stage: str, recipe: Recipe, tokenizer: Any) -> tuple[int, float]:
    """Tokens of one epoch of `data`, and of the document that a token is in on average; without any 0 and infinity."""
    if not data:
        return 0, math.inf
    from minimind.stages.setup import shards

    recipe.data.files = list(data)
    training, _ = shards(recipe, tokenizer, kind="sft" if stage in ("sft", "lora") else "text")
    return training.tokens, training.mean_length


def _at_once(recipe: Recipe, config: Any, per_step: int, on: "torch.device") -> int:
    """Tokens that go through the model together: on a GPU no more than its memory has room for."""
    from minimind import runtime
    from minimind.plan.budget import training_memory

    row = recipe.data.sequence_length
    together = int(max(row, min(per_step, MICRO_BATCH_TOKENS.get(on.type, 4096))))
    recipe.train.tokens_per_step = per_step
    while (free := runtime.free_memory(on)) is not None and together // 2 >= row:
        recipe.train.micro_batch_tokens = together
        if training_memory(config, run_config(recipe), recipe.lora, on_cpu=False, compiled=False).total < 0.9 * free:
            break
        together //= 2
    return together
