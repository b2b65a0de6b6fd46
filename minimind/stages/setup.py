"""What is no lesson of any stage: from a recipe to tokenizer, model, data and engine, and to a finished directory."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minimind import ranks, runtime
from minimind import recipe as recipes
from minimind.console import say, warn
from minimind.data.corpus import Kind
from minimind.data.packing import Batch, PackedStream
from minimind.data.pairs import PairStream
from minimind.data.shard_reader import Shards
from minimind.data.shards import ensure, kind_of
from minimind.engine.generate import complete
from minimind.engine.sampling import GREEDY
from minimind.errors import UsageError, UserError
from minimind.eval.bpb import Document, bits_per_byte
from minimind.eval.pairs import pair_figures
from minimind.files import remove_drafts
from minimind.losses.lm import linear_cross_entropy
from minimind.model import lora
from minimind.model.adapter import is_adapter, peft_trouble, save_adapter
from minimind.model.files import weights_checksum
from minimind.model.hf_config import readable
from minimind.model.qwen3 import Transformer
from minimind.model.rope import context_length
from minimind.model.store import load_model, save_model
from minimind.recipe import Recipe
from minimind.stages import guard
from minimind.tokenizer.bpe import Tokenizer
from minimind.train import loop, parallel
from minimind.train.folder import locked
from minimind.train.job import Job, Loss, LossFunction, Rehearsal
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
        model = Transformer(readable(recipes.model_config(recipe, tokenizer.vocab_size, **ids))).to(device)
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
    config = model.config.with_(rope_scaling=scaling)
    config.check()
    readable(config)
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
    lora.freeze_in(model, precision(recipe).dtype)  # first: DoRA measures the rows as they will be multiplied
    lora.attach(model, recipe.lora, base, weights_checksum(base))
    say(f"LoRA: {lora.report(model)}.")
    if trouble := peft_trouble(model):
        warn(f"peft cannot load this adapter ({trouble}); for others, hand on the merged model (export merge-lora)")


def save_dtype(recipe: Recipe) -> str:
    """The number format in which the run writes its model; an adapter is always float32."""
    if recipe.train.save_dtype != "auto":
        return recipe.train.save_dtype
    return "float32" if precision(recipe).dtype == torch.float32 else "bfloat16"


def write_model(model: Transformer, tokenizer: Tokenizer, directory: Path, dtype: str = "bfloat16") -> None:
    """Write a complete model directory, weights in `dtype`, of an adapted model its adapter's.

    Rank 0 does, but under FSDP it needs the others' shares of the weights.

    Raises:
        UserError: the disk is full or not writable.
    """
    weights = parallel.whole_weights(model, trained_only=model.adaptation is not None)
    if not runtime.is_main():
        return
    remove_drafts(directory)
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


def rows_at_a_time(recipe: Recipe) -> int:
    """Rows that fit into memory together, where nothing is trained."""
    return max(1, recipe.train.micro_batch_tokens // recipe.data.sequence_length)


def steps(recipe: Recipe, rows_per_epoch: int) -> int:
    """Optimizer steps of a run over packed rows."""
    rows_per_step = max(1, recipe.train.tokens_per_step // recipe.data.sequence_length)
    return recipe.train.max_steps or max(1, math.ceil(recipe.train.epochs * rows_per_epoch / rows_per_step))


def flops_per_token(recipe: Recipe, model: Transformer, training: Shards) -> float:
    """Of a training step on packed documents: a token attends to half of its own document on average."""
    return lora.flops_per_token(model, context=min(recipe.data.sequence_length, training.mean_length) / 2)


def train(job: Job, recipe: Recipe, out: Path, resume: bool) -> Path:
    """Run the loop to its end and write the finished model to `out`/model."""
    parameters = sum(parameter.numel() for parameter in job.model.parameters()) / 1e6
    say(
        f"{recipe.stage}: {parameters:.2f} M parameters on {runtime.device(recipe.train.device).type}, {job.data}; "
        f"{job.steps:,} step{'s' if job.steps > 1 else ''}"
    )
    guard.check(recipe)
    job.rehearsal = rehearsal(recipe)
    with locked(out), closing(job):
        began, minutes = time.monotonic(), recipe.train.max_minutes
        at = loop.run(job, recipes.run_config(recipe), out, resume)
        is_over = bool(minutes) and ranks.any_rank(time.monotonic() - began > minutes * 60)
        if at.step < job.steps and not is_over:
            raise UserError(f"{out}: stopped before the end; run the same command again to continue")
        # Whoever is interrupted in here finds the model of before, or none: never one that the guard would refuse.
        with ranks.main_first("guard"):
            written = guard.after(recipe, out / "checkpoints" / f"step-{at.step:08d}", out, save_dtype(recipe))
        if not ranks.broadcast(written):
            job.write_model(out / "model")
    say(f"Weights are saved in {'float32' if recipe.lora.rank else save_dtype(recipe)}.")
    return out / "model"


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


def rehearsal(recipe: Recipe) -> Rehearsal | None:
    """What the recipe rehearses, in rows of whole documents.

    Raises:
        UserError: bad data.
        UsageError: pairs, or what the ranks cannot share.
    """
    again, length, world = recipe.rehearsal, recipe.data.sequence_length, runtime.world_size()
    if not again.files:
        return None
    kind = kind_of(again.files)
    if kind == "dpo" or recipe.stage == "reward":
        raise UsageError(
            f"rehearsal.files: a language model rehearses text or conversations, and not "
            f"{'as a reward model' if recipe.stage == 'reward' else 'pairs'}; leave it empty"
        )
    if again.tokens % (length * world):
        raise UsageError(
            f"recipe: rehearsal.tokens = {again.tokens} must be a multiple of {length * world}: rows of "
            f"{length}, as many on each of {world} processes"
        )
    data = replace(recipe.data, files=again.files, valid=[], valid_fraction=0.0)
    documents, _ = shards(replace(recipe, data=data), load_tokenizer(recipe), kind)
    stream = PackedStream(documents, length, seed=recipe.train.seed)
    return Rehearsal(stream, rehearsal_loss, again.tokens // (length * world), again.weight)


def rehearsal_loss(model: Any, batch: Batch, compiled: bool = False) -> Loss:
    """- Σ log p(label) over all that text and conversations supervise, as when they were first learned."""
    speaker = getattr(model, "actor", model)  # PPO trains two models
    hidden = speaker(batch.input_ids, batch.segments)
    nll = linear_cross_entropy(
        hidden.states, speaker.output_weight, batch.on_host.labels, sparse=True, compiled=compiled
    )
    return Loss(nll, {"loss": nll}, hidden.router)


def valid_bpb(recipe: Recipe, model: Transformer, tokenizer: Tokenizer, validation: Shards | None) -> dict[str, float]:
    """Bits per byte of held-out documents; of conversations, only what the assistant says is scored."""
    if validation is None or not validation.documents:
        return {}
    documents, context = _documents(validation, tokenizer), recipe.data.sequence_length
    return {"bpb": bits_per_byte(model, documents, context, precision(recipe).dtype)["bpb"]}


def valid_pairs(recipe: Recipe, model: Transformer, pairs: PairStream | None, loss: LossFunction) -> dict[str, float]:
    """Loss, accuracy and margin on pairs that are not trained on."""
    if pairs is None:
        return {}
    batches = (batch for _, batch in pairs.epoch(rows_at_a_time(recipe)))
    return pair_figures(model, batches, loss, precision(recipe), VALID_TOKENS)


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


def sample(recipe: Recipe, model: Transformer, tokenizer: Tokenizer) -> list[str]:
    """Continue the recipe's prompts greedily, to see in words what the loss says in numbers."""
    if not recipe.prompts:
        return []
    prompts = [tokenizer.bos + tokenizer.encode(text) for text in recipe.prompts]
    speaker = parallel.plain_copy(model) if parallel.is_sharded(model) else model
    with runtime.evaluating(speaker):
        answers = complete(speaker, prompts, GREEDY, tokenizer.eos, max_new_tokens=40)
    return [text + tokenizer.decode(ids, skip_special=True) for text, ids in zip(recipe.prompts, answers, strict=True)]


def precision(recipe: Recipe) -> Precision:
    """The number format of the run's products, on its device."""
    return Precision(runtime.device(recipe.train.device), recipe.train.dtype)
