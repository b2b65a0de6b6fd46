"""Direct preference optimisation: of two answers to a prompt, make the chosen one likelier than the rejected one.

    Δ    = log π(chosen) / π_ref(chosen) - log π(rejected) / π_ref(rejected)        sums over an answer's tokens
    loss = - Σ_pairs log σ(β Δ)                     (Rafailov et al. 2023, https://arxiv.org/abs/2305.18290)

The best policy for a reward r that may not leave π_ref for free, max E[r] - β KL(π ‖ π_ref), is π ∝ π_ref exp(r / β).
So a policy is a reward model too: r = β log π / π_ref + (what depends on the prompt alone, and cancels). Put into
Bradley-Terry's P(chosen wins) = σ(r_chosen - r_rejected), that is the loss: no reward model, no sampling.

π_ref is the model that the run starts from. It is asked once, before the first step, and its answers kept on the disk:
so only one model is ever in memory.
"""

import hashlib
import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minimind import ranks, runtime
from minimind.console import progress
from minimind.data.pairs import PairBatch, PairStream
from minimind.data.shard_reader import Shards
from minimind.errors import UsageError
from minimind.files import atomic_write, writing_to
from minimind.losses.lm import IGNORE
from minimind.losses.log_probs import token_log_probs
from minimind.losses.preference import Answers, preference_loss, rewards
from minimind.losses.settings import DpoConfig
from minimind.model.files import weights_checksum
from minimind.model.qwen3 import Hidden, Transformer
from minimind.optim.groups import make_optimizers
from minimind.recipe import Recipe
from minimind.stages import setup
from minimind.tokenizer.bpe import Tokenizer
from minimind.train import parallel
from minimind.train.folder import check_writable
from minimind.train.job import Job, Loss, to_device
from minimind.train.precision import Precision


def run(recipe: Recipe, out: Path, resume: bool = True) -> Path:
    """Train `recipe.init` on the pairs in `recipe.data.files`; return `out`/model.

    Raises:
        UserError: bad data, recipe or checkpoint; no model to start from; a full disk.
    """
    if not recipe.init:
        raise UsageError("train dpo: name the fine-tuned model to start from with --init MODEL_DIR")
    check_writable(out)
    tokenizer = setup.load_tokenizer(recipe)
    model = setup.make_model(recipe, tokenizer)

    # pairs -> ids, the prompt once and then both answers -> rows of whole pairs
    training, validation = setup.shards(recipe, tokenizer, kind="dpo")

    # what the model says of every answer before it has learned anything
    stream = with_reference(recipe, model, training)
    held_out = with_reference(recipe, model, validation) if validation and validation.documents else None

    job = make_job(recipe, model, tokenizer, training, stream, held_out)
    return setup.train(job, recipe, out, resume)


def make_job(
    recipe: Recipe,
    model: Transformer,
    tokenizer: Tokenizer,
    training: Shards,
    stream: PairStream,
    held_out: PairStream | None = None,
) -> Job:
    """Learn the preferences of `stream`; on those of `held_out` loss and accuracy are measured."""
    parallel.shard(model, model.layers, recipe.train)
    loss = partial(pair_loss, config=recipe.dpo)
    return Job(
        model=model,
        optimizers=make_optimizers(model, recipe.optim),
        stream=stream,
        loss=loss,
        steps=setup.steps(recipe, stream.rows_per_epoch),
        flops_per_token=setup.flops_per_token(recipe, model, training),
        write_model=partial(setup.write_model, model, tokenizer, dtype=setup.save_dtype(recipe)),
        validate=partial(setup.valid_pairs, recipe, model, held_out, loss),
        sample=partial(setup.sample, recipe, model, tokenizer),
        compile=model.compile_blocks,
        data=training.summary,
    )


def pair_loss(model: Transformer, batch: PairBatch, compiled: bool = False, *, config: DpoConfig) -> Loss:
    """Score both answers of each pair with the model and compare: the preference loss, summed over pairs."""
    log_probs_BT, hidden = score(model, batch, compiled)
    answers = Answers(
        policy=batch.answer_sums(log_probs_BT),
        reference=batch.answer_sums(batch.reference),
        lengths=batch.answer_sums((batch.labels != IGNORE).float()),
    )
    total = preference_loss(answers, config).sum()
    drift_P2 = batch.answer_sums((log_probs_BT.detach() - batch.reference).square() / 2) / answers.lengths
    figures = {"loss": total, **describe(answers, config)}
    if config.loss != "simpo":
        figures["kl"] = drift_P2[:, 0].sum()
    return Loss(total, figures, hidden.router)


def score(model: Transformer, batch: PairBatch, compiled: bool = False) -> tuple[Tensor, Hidden]:
    """Log-probability [B, T] of each label, 0 where there is none, and the states that it comes from."""
    hidden = model(batch.input_ids, batch.segments)
    weight, labels = model.output_weight, batch.on_host.labels
    found = token_log_probs(hidden.states, weight, labels, entropy=False, compiled=compiled)
    return found.log_probs, hidden


def describe(answers: Answers, config: DpoConfig) -> dict[str, Tensor]:
    """Sums over pairs: rewards and log-probabilities of both answers, the margin, and how often it is right."""
    chosen, rejected = rewards(answers, config).unbind(1)
    figures = {"accuracy": chosen > rejected, "margin": chosen - rejected}
    figures |= {"chosen_reward": chosen, "rejected_reward": rejected}
    policy = answers.policy.detach()
    figures |= {"chosen_log_prob": policy[:, 0], "rejected_log_prob": policy[:, 1]}
    return {name: values.sum() for name, values in figures.items()}


def with_reference(recipe: Recipe, model: Transformer, pairs: Shards) -> PairStream:
    """The stream of `pairs`, each token with the log-probability that the untrained `model` gives it."""
    stream = PairStream(pairs, recipe.data.sequence_length, seed=recipe.train.seed)
    if recipe.dpo.loss != "simpo":
        stream.reference = reference_log_probs(recipe, model, stream)
    return stream


def reference_log_probs(recipe: Recipe, model: Transformer, stream: PairStream) -> np.ndarray:
    """Log-probability of each token of the corpus, float32: computed by all ranks together, once for these weights.

    Raises:
        UserError: the cache cannot be written.
    """
    precision = Precision(model.output_weight.device, recipe.train.dtype)
    identity = [weights_checksum(Path(recipe.init)), stream.state_dict()["shards"], str(precision.dtype)]
    identity += [recipe.data.sequence_length, recipe.train.seed]  # rounding depends on how pairs are packed
    identity += [model.config.rope_scaling]
    folder = runtime.cache_dir() / "reference"
    path = folder / f"{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]}.npy"
    if ranks.every_rank(path.is_file()):
        return np.load(path, mmap_mode="r")

    found = score_all(recipe, model, stream)
    if runtime.is_main():
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as draft, draft.open("wb") as file:
                np.save(file, found)
    return found


def score_all(recipe: Recipe, model: Transformer, stream: PairStream) -> np.ndarray:
    """Log-probability of each token of the corpus, float32, 0 where it is not supervised; ranks share the work."""
    precision = Precision(model.output_weight.device, recipe.train.dtype)
    starts, lengths = stream.shards.starts, stream.shards.lengths
    found = np.zeros(int((starts + lengths).max()), np.float32)
    with progress("scoring the reference", stream.rows_per_epoch) as bar, runtime.evaluating(model), torch.no_grad():
        for turn, (places, batch) in enumerate(stream.epoch(setup.rows_at_a_time(recipe))):
            if turn % runtime.world_size() == runtime.rank():
                with precision.autocast():
                    log_probs_BT, _ = score(model, to_device(batch, precision.device))
                for row_T, (pair_starts, pair_lengths) in zip(log_probs_BT.cpu().numpy(), places, strict=True):
                    begin = 0
                    for start, length in zip(pair_starts, pair_lengths, strict=True):
                        found[start : start + length] = row_T[begin : begin + length]
                        begin += length
            bar.advance(len(places))
    ranks.all_reduce(torch.from_numpy(found))  # each rank has the pairs that it scored, and 0 elsewhere
    return found
