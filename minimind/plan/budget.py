"""What a run will cost, from its recipe alone: memory, floating-point operations, time.

Memory is counted the way a step uses it. Always there are the weights and the optimizer's moments. On top of them a
step has two moments at which it needs most:

    the end of a forward pass    activations of every layer, the loss's logits, gradients of earlier micro-batches
    the update                   all gradients, and the optimizer's temporaries

The larger of the two counts. Letters: N tokens of a micro-batch, C hidden, Q and K widths of all query and key heads,
F feed-forward, V vocabulary.
"""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from minimind import runtime
from minimind.config import ModelConfig
from minimind.losses.lm import rows_of_logits
from minimind.model import lora
from minimind.model.attend import blocks_of_products
from minimind.model.qwen3 import Transformer
from minimind.model.settings import LoraConfig
from minimind.optim.muon import weights_at_once
from minimind.train.settings import RunConfig

USUAL_MFU = {
    "amx": ((2.8e6, 0.29), (6.1e6, 0.35), (63.9e6, 0.65)),
    "cpu": ((2.8e6, 0.54), (6.1e6, 0.55), (63.9e6, 0.57)),
    "cuda": ((6.1e6, 0.35), (63.9e6, 0.35)),
}
"""Share of the device's own matrix-product speed that training reaches, by active parameters: measured on two cores,
with AMX, whose products are so fast that all else counts, and without; CUDA: a guess, not measured."""

WIDE = 4
"""Bytes of float32: weights, gradients, moments, the residual stream and the loss."""
LOSS_COPIES = {False: 4.5, True: 2.0}
"""Tensors of the size of those logits, in float32, while their gradient is made: eager, compiled."""
ITERATION = 3
"""Matrices of the products' format that Muon's iteration holds beside gradient and update, which are float32."""
PROCESS_BYTES = {False: 300e6, True: 545e6}
"""The interpreter with torch and a tokenizer, eager and with the compiler loaded (Linux, measured)."""
CUDA_LIBRARIES = 380e6
"""Bytes more in a process whose torch is built for CUDA, which loads those libraries on a machine without a GPU, too:
measured 340e6 with torch 2.11, 420e6 with 2.15."""
FRAGMENTATION = {False: 1.75, True: 1.14}
"""Memory that a process has from the system for each byte of tensors on a CPU: the C library's heap has holes. They are
kept on purpose (`runtime.keep_memory`: giving them back costs a tenth of the time); fused kernels leave fewer. Measured
with benchmarks/memory.py; compiled runs lie within a tenth of it, eager ones, which vary, within a quarter."""
EXPERT_HOLES = 13
"""Bytes of further holes for each weight of an expert, whose stacked gradients are by far the largest blocks."""


@dataclass(frozen=True)
class Memory:
    """Bytes that one rank needs, by what needs them."""

    weights: float
    gradients: float
    moments: float
    activations: float
    """What the backward pass reads of all layers of one micro-batch."""
    working: float
    """The last states and their gradient, and either a chunk of logits or, recomputed, a block of the model."""
    update: float
    """The optimizer's temporaries."""
    early_gradients: bool
    """Whether gradients are there already when activations are most: with several micro-batches a step."""

    def figures(self) -> dict[str, int]:
        """The parts in whole bytes."""
        return {name: round(value) for name, value in asdict(self).items() if name != "early_gradients"}

    @property
    def total(self) -> int:
        """At the largest moment of a step."""
        forward = self.activations + self.working + self.early_gradients * self.gradients
        return round(self.weights + self.moments + max(forward, self.gradients + self.update))


def adapted(config: ModelConfig, about: LoraConfig) -> Transformer:
    """A model without memory, to look at its shapes; under LoRA with the change that it trains.

    Raises:
        UsageError: LoRA of matrices that it has not.
    """
    with torch.device("meta"):
        model = Transformer(config)
        if about.rank:
            lora.attach(model, about, Path())
    return model


def training_memory(
    config: ModelConfig,
    run: RunConfig,
    about: LoraConfig,
    compute_bytes: int = 2,
    compiled: bool = True,
    on_cpu: bool = True,
    branches: bool = False,
) -> Memory:
    """Count the tensors of a training step.

    Args:
        config: the model.
        run: rows, micro-batches, optimizer and activation checkpointing.
        about: the change that is trained instead of the weights; of rank 0: none.
        compute_bytes: of an element of the matrix products (2: bfloat16).
        compiled: fused kernels keep less.
        on_cpu: where attention weights of short rows are kept; the GPU's kernel recomputes them.
        branches: whether rows hold several answers to one prompt, which needs a mask on any device.
    """
    train, length, weights = run.train, run.sequence_length, config.parameters()
    embedding = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    matrices = weights - embedding
    moments = 2 * embedding + (1 if run.optim.matrices == "muon" else 2) * matrices
    tokens = run.tokens_at_once
    masked = branches or (blocks_of_products(length) > 0 if on_cpu else compute_bytes == WIDE)
    layers = [
        tokens * _layer(config, layer, length, compute_bytes, compiled, on_cpu, masked)
        for layer in range(config.num_hidden_layers)
    ]
    stream = WIDE * config.hidden_size * tokens  # the residual stream at one place
    activations = sum(layers)
    chunk = LOSS_COPIES[compiled] * WIDE * rows_of_logits(tokens) * config.vocab_size
    if train.activation_checkpointing:
        # of each block only its input; the rest of one block, and gradients of that rest
        activations = stream * config.num_hidden_layers
        chunk = max(chunk, max(layers) + 3 * compute_bytes * _width(config, 0) * tokens)
    mask = compute_bytes * tokens * length if masked else 0
    copies = compute_bytes * matrices if compute_bytes < WIDE else 0  # autocast keeps each weight's copy
    output = config.vocab_size * config.hidden_size
    full = Memory(
        weights=WIDE * weights,
        gradients=WIDE * weights,
        moments=WIDE * moments,
        activations=activations + mask + copies,
        # the last norm's input and output, the states' gradient; the output matrix's gradient, its copy and a chunk's
        working=4 * stream + (2 * WIDE + compute_bytes) * output + chunk,
        update=_orthogonalising(matrices, compute_bytes) if run.optim.matrices == "muon" else 0,
        early_gradients=train.tokens_per_step > train.micro_batch_tokens,
    )
    return _under_lora(full, config, run, about, compute_bytes, compiled) if about.rank else full


def _under_lora(
    full: Memory, config: ModelConfig, run: RunConfig, about: LoraConfig, compute_bytes: int, compiled: bool
) -> Memory:
    """What changes when most weights are frozen: they are kept as they are multiplied, without gradient or moments."""
    model = adapted(config, about)
    changes = lora.trained_parameters(model)
    frozen = sum(math.prod(shape) for shape in lora.matrices(model).values())
    others = config.parameters() - frozen
    copies = compute_bytes * (frozen - changes) if compute_bytes < WIDE else 0
    output = config.vocab_size * config.hidden_size
    # the narrow product of each change, twice; DoRA's products before their length; what dropout let through, its mask
    kept = 0.0
    for name, shape in lora.matrices(model).items():
        assert model.adaptation
        if name in model.adaptation.names:
            rows = config.num_experts_per_tok if len(shape) == 3 else 1
            kept += rows * 2 * compute_bytes * about.rank
            kept += rows * compute_bytes * shape[-2] * about.dora
            kept += rows * (compute_bytes + 1) * shape[-1] * (about.dropout > 0)
    if not compiled:  # norms keep their normalised input for the gradient of their weight alone
        heads = (config.num_attention_heads + config.num_key_value_heads) * config.head_dim
        kept -= WIDE * (2 * config.hidden_size + heads) * config.num_hidden_layers
    tokens = run.tokens_at_once
    if run.train.activation_checkpointing:
        kept /= config.num_hidden_layers
    return replace(
        full,
        weights=compute_bytes * frozen + WIDE * (others + changes),
        gradients=WIDE * changes,
        moments=(1 if run.optim.matrices == "muon" else 2) * WIDE * changes,
        activations=full.activations - copies + kept * tokens,
        working=full.working - 2 * WIDE * output,
        update=_orthogonalising(changes, compute_bytes) if run.optim.matrices == "muon" else 0,
    )


def _orthogonalising(weights: int, compute_bytes: int) -> int:
    """Bytes that Muon needs for the weights that it orthogonalises together."""
    return (2 * WIDE + ITERATION * compute_bytes) * weights_at_once(weights)


def _layer(
    config: ModelConfig, layer: int, length: int, bytes: int, compiled: bool, on_cpu: bool, masked: bool
) -> float:
    """Bytes that the backward pass of a block reads, for one token."""
    hidden = config.hidden_size
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    attention: float = bytes * (2 * queries + 2 * keys)  # rotated queries and keys, values, what leaves the heads
    if on_cpu and (blocks := blocks_of_products(length)):
        # each keeps the keys and values that it sees, and its weights
        seen = (blocks + 1) / 2
        attention += bytes * (2 * keys * (seen - 1) + config.num_attention_heads * seen * length / blocks)
    if masked and not on_cpu:  # its kernels take a mask only where each head has keys and values of its own
        attention += bytes * 2 * (queries - keys)
    width = _width(config, layer)
    if compiled:
        residual = WIDE * hidden + 3 * bytes * hidden  # the stream; two norms' outputs; the attention's output
        heads = bytes * (queries + keys)  # before their norm
        feed_forward = 3 * bytes * width  # gate, up and their product
    else:
        # Both norms keep their input and its normalised copy, and each matrix that reads them a cast of its own.
        residual = 4 * WIDE * hidden + (5 * bytes if bytes < WIDE else 2 * WIDE) * hidden
        heads = 2 * WIDE * (queries + keys)
        feed_forward = 4 * bytes * width
    if config.is_sparse(layer):
        # what the experts read and give; eager, the router's input too, but no casts for gate and up
        chosen = config.num_experts_per_tok
        residual += (2 * chosen - 1) * bytes * hidden if compiled else (WIDE + (2 * chosen - 2) * bytes) * hidden
    return residual + heads + attention + feed_forward


def _width(config: ModelConfig, layer: int) -> int:
    """Of the feed-forward networks that one token passes through."""
    if config.is_sparse(layer):
        return config.moe_intermediate_size * config.num_experts_per_tok
    return config.intermediate_size


def program_memory(compiled: bool) -> float:
    """Resident bytes of a training process before there is a model."""
    return PROCESS_BYTES[compiled] + (CUDA_LIBRARIES if torch.version.cuda else 0)


def process_memory(config: ModelConfig, memory: Memory, compiled: bool) -> int:
    """Resident bytes of a training process on a CPU: its tensors, the holes between them, and the program itself."""
    sparse = sum(config.is_sparse(layer) for layer in range(config.num_hidden_layers))
    experts = sparse * config.num_experts * 3 * config.hidden_size * config.moe_intermediate_size
    holes = EXPERT_HOLES * experts * memory.gradients / memory.weights  # frozen ones have no gradients
    holes += max(0, WIDE * config.parameters() - memory.weights)  # frozen ones were read as float32, too
    return round(program_memory(compiled) + FRAGMENTATION[compiled] * memory.total + holes)


def usual_mfu(config: ModelConfig, device: str) -> float:
    """Share of the device's speed that a model of this size usually reaches: straight lines over log(parameters)."""
    kind = "amx" if device == "cpu" and "amx_tile" in runtime.processor() else device
    sizes, shares = zip(*USUAL_MFU.get(kind, USUAL_MFU["cuda"]), strict=True)
    return float(np.interp(math.log(config.parameters(active=True)), np.log(sizes), shares))


def tokens_per_second(config: ModelConfig, flops_per_token: float, peak_flops: float, device: str) -> float:
    """Training speed at the usual share of `peak_flops`, the speed of the device's matrix products."""
    return usual_mfu(config, device) * peak_flops / flops_per_token
