"""Our models in llama.cpp's terms: which of its architectures computes the same, its metadata and tensor names.

Dense models are `qwen3`. A mixture of experts is `qwen3moe` only if it normalises the chosen probabilities, which that
graph always does. With `norm_topk_prob = false` (our presets: at top-1 a normalised gate is the constant 1) it would be
another model. llama.cpp's `bailingmoe2` computes what we need: per-head QK-norm, the same RoPE, a softmax router whose
normalisation is a flag. It also has a shared expert, which we give all zeros and the least width, one fused matrix for
queries, keys and values, and an output matrix of its own.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minimind.config import ModelConfig
from minimind.convert.tensors import Stored
from minimind.errors import UserError
from minimind.model.rope import attention_factor, context_length, yarn_factor

SHARED_WIDTH = 32
"""Width of the shared expert that does nothing: one block of the quantised formats."""


class Part(NamedTuple):
    """One tensor of a GGUF file."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def architecture(config: ModelConfig, source: str) -> str:
    """The llama.cpp architecture whose graph computes the same as this model; `source` names it in errors.

    Raises:
        UserError: there is none.
    """
    layers = range(config.num_hidden_layers)
    if config.attention_bias:
        raise UserError(f"{source}: attention_bias = true cannot be exported, llama.cpp's Qwen3 has no such bias")
    if not config.num_experts:
        return "qwen3"
    if not all(map(config.is_sparse, layers)):
        raise UserError(f"{source}: llama.cpp's Qwen3-MoE has experts in every layer, this model has not")
    if config.norm_topk_prob:
        return "qwen3moe"
    width = config.num_attention_heads * config.head_dim
    if width != config.hidden_size:
        raise UserError(
            f"{source}: norm_topk_prob = false with {config.num_attention_heads} heads of {config.head_dim} and a "
            f"hidden size of {config.hidden_size} cannot be exported: llama.cpp's qwen3moe always normalises, and its "
            "bailingmoe2, which does not have to, needs heads x head_dim = hidden_size"
        )
    return "bailingmoe2"


def add_metadata(writer: Any, config: ModelConfig) -> None:
    """Put the model's shape into a GGUF `writer`."""
    import gguf

    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(context_length(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    factor = yarn_factor(config)
    if factor != 1.0:
        scaling = config.rope_scaling or {}
        if not scaling.get("truncate", True):
            raise UserError("rope_scaling truncate = false cannot be exported: llama.cpp always rounds the ramp's ends")
        if (scaling.get("beta_fast") or 32, scaling.get("beta_slow") or 1) != (32, 1):
            raise UserError("rope_scaling beta_fast and beta_slow cannot be exported: llama.cpp takes 32 and 1")
        original = scaling.get("original_max_position_embeddings") or config.max_position_embeddings
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(factor)
        writer.add_rope_scaling_orig_ctx_len(original)
        # llama.cpp multiplies it with the paper's temperature.
        writer.add_rope_scaling_attn_factors(attention_factor(scaling, factor) / (0.1 * math.log(factor) + 1.0))
    if config.num_experts:
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
        if not config.norm_topk_prob:
            writer.add_expert_weights_norm(False)
            writer.add_expert_weights_scale(1.0)
            writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SOFTMAX)
            writer.add_expert_shared_count(1)
            writer.add_expert_shared_feed_forward_length(SHARED_WIDTH)
            writer.add_leading_dense_block_count(0)


def parts(config: ModelConfig, stored: Mapping[str, Stored]) -> Iterator[Part]:
    """The tensors of the GGUF file, in order."""
    fused = config.num_experts > 0 and not config.norm_topk_prob

    def one(name: str, source: str) -> Part:
        return Part(f"{name}.weight", stored[source].shape, stored[source].read)

    def together(name: str, sources: list[str], join: Callable[[list[Tensor]], Tensor]) -> Part:
        shape = join([torch.empty(stored[s].shape, device="meta") for s in sources]).shape
        return Part(f"{name}.weight", tuple(shape), lambda: join([stored[s].read() for s in sources]))

    def zeros(name: str, *shape: int) -> Part:
        return Part(f"{name}.weight", shape, lambda: torch.zeros(shape))

    yield one("token_embd", "model.embed_tokens.weight")
    for layer in range(config.num_hidden_layers):
        ours, theirs = f"model.layers.{layer}", f"blk.{layer}"
        yield one(f"{theirs}.attn_norm", f"{ours}.input_layernorm.weight")
        projections = [f"{ours}.self_attn.{matrix}_proj.weight" for matrix in "qkv"]
        if fused:
            yield together(f"{theirs}.attn_qkv", projections, torch.cat)
        else:
            for matrix, source in zip("qkv", projections, strict=True):
                yield one(f"{theirs}.attn_{matrix}", source)
        yield one(f"{theirs}.attn_output", f"{ours}.self_attn.o_proj.weight")
        yield one(f"{theirs}.attn_q_norm", f"{ours}.self_attn.q_norm.weight")
        yield one(f"{theirs}.attn_k_norm", f"{ours}.self_attn.k_norm.weight")
        yield one(f"{theirs}.ffn_norm", f"{ours}.post_attention_layernorm.weight")
        if not config.num_experts:
            for matrix in ("gate", "up", "down"):
                yield one(f"{theirs}.ffn_{matrix}", f"{ours}.mlp.{matrix}_proj.weight")
            continue
        yield one(f"{theirs}.ffn_gate_inp", f"{ours}.mlp.gate.weight")
        for matrix in ("gate", "up", "down"):
            experts = [f"{ours}.mlp.experts.{e}.{matrix}_proj.weight" for e in range(config.num_experts)]
            yield together(f"{theirs}.ffn_{matrix}_exps", experts, torch.stack)
        if fused:
            yield zeros(f"{theirs}.ffn_gate_shexp", SHARED_WIDTH, config.hidden_size)
            yield zeros(f"{theirs}.ffn_up_shexp", SHARED_WIDTH, config.hidden_size)
            yield zeros(f"{theirs}.ffn_down_shexp", config.hidden_size, SHARED_WIDTH)
    yield one("output_norm", "model.norm.weight")
    if not config.tie_word_embeddings or fused:
        yield one("output", "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight")
