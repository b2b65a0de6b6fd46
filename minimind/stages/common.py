"""What the language-model stages share: from a recipe to a running loop and a finished model directory."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from minimind import ranks, runtime
from minimind import recipe as recipes
from minimind.console import say, warn
from minimind.data.corpus import Kind
from minimind.data.packing import Batch, PackedStream
from minimind.data.shard_reader import Shards
from minimind.data.shards import ensure
from minimind.engine.generate import complete
from minimind.engine.sampling import GREEDY
from minimind.errors import UsageError, UserError
from minimind.eval.bpb import Document, bits_per_byte
from minimind.losses.lm import linear_cross_entropy
from minimind.model import lora
from minimind.model.adapter import is_adapter, peft_trouble, save_adapter
from minimind.model.files import weights_checksum
from minimind.model.rope import context_length
from minimind.model.store import load_model, save_model
from minimind.model.transformer import Hidden, Transformer
from minimind.optim.groups import make_optimizers
from minimind.recipe import Recipe
from minimind.tokenizer.bpe import Tokenizer
from minimind.train import loop, parallel
from minimind.train.folder import locked
from minimind.train.precision import Precision

VALID_TOKENS = 200_000
"""Validation during training reads about this much; `minimind eval bpb` reads everything."""


def load_tokenizer(recipe: Recipe) -> Tokenizer:
    """The tokenizer of the model that the run starts from, else the recipe's."""
    return Tokenizer.load(recipe.init or recipe.tokenizer)


def make_model(recipe: Recipe, tokenizer: Tokenizer, read: Callable[..., Transformer] = load_model) -> Transformer:
    """The model to train, in float32 on the run's device: read from `init`, or drawn from the seed.

    `read` opens the directory: `load_model`, or `load_scorer` for a model that gives numbers instead of words.
    With `lora.rank` above 0 it is frozen but for a change of some matrices; `lora.off` then gives the base.

    Raises:
        UserError: `init` is no model directory, its vocabulary is smaller than the tokenizer's, or rows are longer
            than its context; LoRA without `init`, or of matrices that it has not.
    """
    device = runtime.device(recipe.train.device)
    if recipe.train.deterministic:
        runtime.be_deterministic()
    runtime.seed_everything(recipe.train.seed)
    if recipe.init:
        model = read(recipe.init, device=device)
        _stretch(model, recipe)
    else:
        ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_id") for name in ("bos", "eos", "pad")}
        model = Transformer(recipes.model_config(recipe, tokenizer.vocab_size, **ids)).to(device)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} entries but the model only {model.config.vocab_size}; "
            f"use the tokenizer that the model was trained with"
        )
    if recipe.data.sequence_length > (context := context_length(model.config)):
        raise UsageError(
            f"recipe: data.sequence_length = {recipe.data.sequence_length} must be at most the model's context of "
            f"{context}; shorten the rows or raise model.max_position_embeddings"
        )
    model.activation_checkpointing = recipe.train.activation_checkpointing
    if recipe.lora.rank:
        _adapt(model, recipe)
    return model.train()


def _stretch(model: Transformer, recipe: Recipe) -> None:
    """Teach a trained model longer contexts: of the recipe's shape only `rope_scaling` can still be changed."""
    if "rope_scaling" not in recipe.model:
        return
    if recipe.lora.rank:
        raise UsageError("recipe: model.rope_scaling is of the whole model, and an adapter cannot change it; drop one")
    scaling = recipe.model["rope_scaling"]
    model.config.with_(rope_scaling=scaling).check()
    model.use_rope_scaling(scaling)


def _adapt(model: Transformer, recipe: Recipe) -> None:
    """Freeze the model, in the format of its products, and put a trained change on the recipe's matrices."""
    base = Path(recipe.init)
    if not recipe.init:
        raise UsageError("LoRA changes a trained model: name it with --init MODEL_DIR")
    if is_adapter(base):
        raise UserError(
            f"{base} is an adapter, and one cannot be the base of another; make a model of it first: "
            f"minimind export merge-lora {base} OUT"
        )
    lora.attach(model, recipe.lora, base, weights_checksum(base))
    lora.freeze_in(model, Precision(model.output_weight.device, recipe.train.dtype).dtype)
    say(f"LoRA: {lora.report(model)}.")
    if trouble := peft_trouble(model):
        warn(f"peft cannot load this adapter ({trouble}); for others, hand on the merged model (export merge-lora)")


def save_dtype(recipe: Recipe) -> str:
    """The number format in which the run writes its model; an adapter is always float32."""
    if recipe.train.save_dtype != "auto":
        return recipe.train.save_dtype
    products = Precision(runtime.device(recipe.train.device), recipe.train.dtype).dtype
    return "float32" if products == torch.float32 else "bfloat16"


def write_model(model: Transformer, tokenizer: Tokenizer, directory: Path, dtype: str = "bfloat16") -> None:
    """Write a complete model directory, weights in `dtype`, of an adapted model its adapter's.

    Rank 0 does, but under FSDP it needs the others' shares of the weights.

    Raises:
        UserError: the disk is full or not writable.
    """
    weights = parallel.whole_weights(model, trained_only=model.adaptation is not None)
    if not runtime.is_main():
        return
    for left in directory.glob(".*.tmp"):  # by a run that was killed while it wrote
        left.unlink()
    if model.adaptation:
        save_adapter(model, weights, directory)
    else:
        with torch.device("meta"):
            whole = type(model)(model.config)
        whole.load_state_dict(weights, assign=True)
        save_model(whole, directory, dtype)
    try:
        tokenizer.save(directory)
    except OSError as error:
        raise UserError(f"cannot write the tokenizer to {directory}: {error.strerror}; make room there") from None


class StageLoss(Protocol):
    """A stage's loss: sums over one micro-batch."""

    def compile(self) -> None:
        """Compile what is worth it, from now on."""

    def __call__(self, model: Any, batch: Any) -> loop.Loss:
        """Sum the loss over what the batch's weight counts."""


class LanguageModelLoss:
    """Next-token loss; for a mixture of experts plus `router_aux_loss_coef` times the load-balancing loss.

    `sparse`: of the tokens only some are supervised, as in conversations.
    """

    def __init__(self, sparse: bool = False) -> None:
        self.options = {"sparse": sparse, "compiled": False}

    def compile(self) -> None:
        """Compile the work on logits."""
        self.options["compiled"] = True

    def __call__(self, model: Transformer, batch: Batch) -> loop.Loss:
        """Sum the loss over the supervised tokens of `batch` (labels [B, T], -100 = not supervised)."""
        hidden = model(batch.input_ids, batch.segments)
        labels = (batch.on_host if self.options["sparse"] else batch).labels
        nll = linear_cross_entropy(hidden.states, model.output_weight, labels, **self.options)
        return balanced(loop.Loss(nll, {"loss": nll}), model, hidden, batch)


def balanced(loss: loop.Loss, model: Transformer, hidden: Hidden, batch: Any) -> loop.Loss:
    """Add the experts' load-balancing loss, if there are experts, and what there is to log of it."""
    if hidden.router is None:
        return loss
    # The balancing loss is a mean; times the batch's weight it counts as much as the rest in any batch. It is taken
    # over each micro-batch of each rank: experts are balanced everywhere, not only in the sum.
    balance = hidden.router.load_balancing_loss() * batch.weight
    figures = {**loss.figures, "balance_loss": balance, "expert_load": hidden.router.counts}
    return loop.Loss(loss.total + model.config.router_aux_loss_coef * balance, figures)


def rows_at_a_time(recipe: Recipe) -> int:
    """Rows that fit into memory together, where nothing is trained."""
    return max(1, recipe.train.micro_batch_tokens // recipe.data.sequence_length)


def train(
    recipe: Recipe,
    out: Path,
    model: Transformer,
    tokenizer: Tokenizer,
    training: Shards,
    validation: Shards | None,
    resume: bool,
    **lesson: Any,
) -> Path:
    """Run the loop over packed `training` rows and write the finished model to `out`/model.

    lesson: what a stage teaches, as in `make_job`.
    """
    job = make_job(recipe, model, tokenizer, training, validation, **lesson)
    say(
        f"{recipe.stage}: {model.config.parameters() / 1e6:.2f} M parameters on {model.output_weight.device.type}, "
        f"{training.documents:,} documents, {training.tokens:,} tokens; {job.steps:,} steps of "
        f"{recipe.train.tokens_per_step:,}"
    )
    return finish(job, recipe, out, resume)


def finish(job: loop.Job, recipe: Recipe, out: Path, resume: bool) -> Path:
    """Run the loop to its end and write the finished model to `out`/model."""
    with locked(out):
        at = loop.run(job, recipe, out, resume)
        if at.step < job.steps and not recipe.train.max_minutes:
            raise UserError(f"{out}: stopped before the end; run the same command again to continue")
        job.write_model(out / "model")
    say(f"Weights are saved in {'float32' if recipe.lora.rank else save_dtype(recipe)}.")
    return out / "model"


def make_job(
    recipe: Recipe,
    model: Transformer,
    tokenizer: Tokenizer,
    training: Shards,
    validation: Shards | None,
    *,
    stream: PackedStream | None = None,
    loss: StageLoss | None = None,
    validate: Callable[[], dict[str, float]] | None = None,
) -> loop.Job:
    """What the loop needs to train `model` on packed rows of `training`.

    `stream`, `loss` and `validate` are what a stage teaches; left out, they are those of next-token prediction.
    """
    parallel.shard(model, model.layers, recipe.train)
    length = recipe.data.sequence_length
    stream = stream or PackedStream(training, length, seed=recipe.train.seed)
    loss = loss or LanguageModelLoss(sparse=training.has_mask)
    rows_per_step = max(1, recipe.train.tokens_per_step // length)
    steps = recipe.train.max_steps or max(1, math.ceil(recipe.train.epochs * stream.rows_per_epoch / rows_per_step))

    def compile_model() -> None:
        model.compile_blocks()
        loss.compile()

    return loop.Job(
        model=model,
        optimizers=make_optimizers(model, recipe.optim),
        stream=stream,
        loss=loss,
        steps=steps,
        flops_per_token=lora.flops_per_token(model, context=min(length, training.mean_length) / 2),
        write_model=partial(write_model, model, tokenizer, dtype=save_dtype(recipe)),
        validate=validate or partial(valid_bpb, recipe, model, tokenizer, validation),
        sample=partial(_sample, recipe, model, tokenizer),
        compile=compile_model,
    )


@ranks.main_first("shards")
def shards(recipe: Recipe, tokenizer: Tokenizer, kind: Kind) -> tuple[Shards, Shards | None]:
    """Token shards of the training and the validation documents, built by rank 0 unless they are there already."""
    data = recipe.data
    options: dict[str, Any] = {"tokenizer": tokenizer, "kind": kind, "on_bad_line": data.on_bad_line}
    if kind != "text":
        options |= {"max_length": data.sequence_length, "too_long": data.too_long}
        options |= {"random_system_prompt": data.random_system_prompt, "drop_empty_think": data.drop_empty_think}
    if data.valid:
        return ensure(data.files, **options), ensure(data.valid, **options)
    if not data.valid_fraction:
        return ensure(data.files, **options), None
    options["valid_fraction"] = data.valid_fraction
    return ensure(data.files, split="train", **options), ensure(data.files, split="valid", **options)


def valid_bpb(recipe: Recipe, model: Transformer, tokenizer: Tokenizer, validation: Shards | None) -> dict[str, float]:
    """Bits per byte of held-out documents; of conversations, only what the assistant says is scored."""
    if validation is None or not validation.documents:
        return {}
    documents, context = _documents(validation, tokenizer), recipe.data.sequence_length
    return {"bpb": bits_per_byte(model, documents, context, runtime.compute_dtype(model.output_weight.device))["bpb"]}


def _documents(validation: Shards, tokenizer: Tokenizer) -> Iterator[Document]:
    """Held-out documents, up to VALID_TOKENS; special tokens stand for no byte of the text and are not scored."""
    sizes = np.array(
        [0 if tokenizer.is_special(id) else len(tokenizer.token_bytes(id)) for id in range(tokenizer.vocab_size)]
    )
    read = 0
    for ids, supervised in validation:
        scored = supervised & (sizes[ids] > 0)
        scored[0] = False
        yield Document(ids.astype(np.int64), scored, int(sizes[ids[scored]].sum()))
        read += len(ids)
        if read > VALID_TOKENS:
            return


def _sample(recipe: Recipe, model: Transformer, tokenizer: Tokenizer) -> list[str]:
    """Continue the recipe's prompts greedily, to see in words what the loss says in numbers."""
    if not recipe.prompts or model.task != "CausalLM":
        return []
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    prompts = [start + tokenizer.encode(text) for text in recipe.prompts]
    stop = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    sharded = parallel.is_sharded(model)
    speaker = parallel.plain_copy(model) if sharded else model.eval()
    answers = complete(speaker, prompts, GREEDY, stop, max_new_tokens=40)
    model.train()
    return [text + tokenizer.decode(ids, skip_special=True) for text, ids in zip(recipe.prompts, answers, strict=True)]
