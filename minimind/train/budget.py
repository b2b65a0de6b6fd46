"""What a run will cost, from its recipe alone: memory, floating-point operations, time."""

from minimind.config import ModelConfig
from minimind.recipe import Recipe

USUAL_MFU = 0.35
"""Share of the machine's own matrix-product speed that training reaches; small models reach less."""


def training_memory(config: ModelConfig, recipe: Recipe) -> int:
    """Bytes of weights, gradients, optimizer moments and activations of one rank at its largest moment.

    Weights and gradients are float32. AdamW keeps two moments of each weight, Muon one. The activations are
    what the backward pass reads: counted per token and layer in the order in which a block makes them.
    """
    weights = config.parameters()
    embedding = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    moments = 2 * embedding + (1 if recipe.optim.matrices == "muon" else 2) * (weights - embedding)
    tokens = min(recipe.train.micro_batch_tokens, recipe.train.tokens_per_step)
    attention = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    feed_forward = config.intermediate_size
    if config.num_experts:
        feed_forward = config.moe_intermediate_size * config.num_experts_per_tok
    residual = 2 * 4 * config.hidden_size  # two float32 sums
    normed = 2 * 2 * config.hidden_size
    heads = 2 * (3 * attention + 5 * keys)  # before and after norm and rotation, and the output
    gates = 2 * 3 * feed_forward
    per_token = residual + normed + heads + gates
    if recipe.train.activation_checkpointing:
        per_token = 4 * config.hidden_size + per_token // config.num_hidden_layers
    logits = 2 * 4 * 1024 * config.vocab_size
    return 4 * (2 * weights + moments) + tokens * config.num_hidden_layers * per_token + logits


def training_seconds(config: ModelConfig, tokens: float, context: float, peak_flops: float) -> float:
    """Time for `tokens` at the usual share of `peak_flops`, the speed of the device's matrix products."""
    return tokens * config.flops_per_token(context) / (USUAL_MFU * peak_flops)
