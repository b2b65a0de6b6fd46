"""The decoder: embed, then blocks of attention and feed-forward around a residual stream, then a norm.

Names of modules and parameters are Hugging Face's Qwen3 names without the `model.` prefix.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minimind.config import ModelConfig
from minimind.model.attention import Attention, Layout, Segments, make_layout
from minimind.model.cache import FixedCache, LayerCache
from minimind.model.linear import Linear, linear
from minimind.model.mlp import MLP
from minimind.model.moe import MixtureOfExperts, RouterCounts, RouterStatistics
from minimind.model.norm import RMSNorm
from minimind.model.rope import RotaryEmbedding, Rotation


class Hidden(NamedTuple):
    """What a forward pass gives: `states` `[B, T, hidden]` after the final norm, and the routing (MoE only)."""

    states: Tensor
    router: RouterStatistics | None


class Block(nn.Module):
    """One layer: x + attention(norm(x)), then x + feed_forward(norm(x)) (pre-norm)."""

    def __init__(self, config: ModelConfig, sparse: bool):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp: MLP | MixtureOfExperts = MixtureOfExperts(config) if sparse else MLP(config)

    def forward(
        self,
        x_BTC: Tensor,
        rotation: Rotation,
        layout: Layout | None,
        segments: Segments,
        cache: LayerCache | FixedCache | None = None,
    ) -> tuple[Tensor, RouterCounts | None]:
        """Return the residual stream `[B, T, hidden]` and, from a sparse layer, its routing."""
        x_BTC = x_BTC + self.self_attn(self.input_layernorm(x_BTC), rotation, layout, cache)
        normed = self.post_attention_layernorm(x_BTC)
        if isinstance(self.mlp, MixtureOfExperts):
            out, counts = self.mlp(normed, segments.document_ids < 0)
            return x_BTC + out, counts
        return x_BTC + self.mlp(normed), None


def run_block(block: nn.Module, *args: Any) -> tuple[Tensor, RouterCounts | None]:
    """Call a block; as a function, so that one compiled version of it serves all blocks."""
    return block(*args)


class Transformer(nn.Module):
    """A Qwen3 or Qwen3-MoE language model; `output_weight` or `logits` turn its states into scores of tokens."""

    task = "CausalLM"
    """What Hugging Face calls a model with this head: the end of its architecture's name."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, config.is_sparse(i)) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.rope = RotaryEmbedding(config)
        self.activation_checkpointing = False
        """Recompute each block in the backward pass instead of keeping its activations: less memory, a third slower."""
        self.run_block: Callable[..., tuple[Tensor, RouterCounts | None]] = run_block
        self.adaptation: Any = None
        """A `lora.Adaptation` where some matrices have a trained change and all else is frozen (`lora.attach`)."""
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw every matrix from N(0, initializer_range²) with torch's global generator.

        The two that write to the residual stream are scaled by 1/√(2·layers), so that its variance does not grow
        with depth (GPT-2, Radford et al. 2019).
        """
        std = self.config.initializer_range
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.ndim == 1:
                parameter.fill_(1.0)
            else:
                writes = "o_proj" in name or "down_proj" in name
                parameter.normal_(0, std / math.sqrt(2 * self.config.num_hidden_layers) if writes else std)

    def compile_blocks(self, **options: Any) -> None:
        """Compile one block for all layers (training and scoring; generation with a cache stays eager).

        Compiling a block instead of the model costs a fraction of the time and loses almost nothing.
        """
        self.run_block = torch.compile(run_block, **options)

    def use_rope_scaling(self, scaling: Mapping[str, Any] | None) -> None:
        """Turn queries and keys by other angles from now on (`rope.yarn`), or with None by the plain ones."""
        self.config = self.config.with_(rope_scaling=dict(scaling) if scaling else None)
        self.rope = RotaryEmbedding(self.config)

    @property
    def output_weight(self) -> Tensor:
        """The matrix `[vocab, hidden]` that turns states into logits; the embedding itself when tied."""
        return self.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight

    def logits(self, states: Tensor) -> Tensor:
        """Score every token: `[..., hidden] -> [..., vocab]`; training uses `losses.lm`, which never holds them all."""
        return linear(states, self.output_weight)

    def forward(
        self,
        input_ids_BT: Tensor,
        segments: Segments,
        caches: Sequence[LayerCache | FixedCache] | None = None,
        layout: Layout | None = None,
    ) -> Hidden:
        """Run the model over a batch of packed documents, or over the next tokens of cached sequences.

        Args:
            input_ids_BT: token ids, int64 `[B, T]`.
            segments: documents and positions.
            caches: each layer's, for the tokens of one flat row (B = 1); padding may only be at its end.
            layout: who sees whom, if that is not what `segments` say.
        """
        x_BTC = self.embed_tokens(input_ids_BT)
        rotation = self.rope(segments.positions)
        if not caches and layout is None:
            layout = make_layout(segments, _compute_dtype(x_BTC))
        run = run_block if caches else self.run_block
        counts: list[RouterCounts] = []
        for i, layer in enumerate(self.layers):
            cache = caches[i] if caches else None
            args = (layer, x_BTC, rotation, layout, segments, cache)
            if self.activation_checkpointing and torch.is_grad_enabled():
                x_BTC, layer_counts = checkpoint(run, *args, use_reentrant=False)
            else:
                x_BTC, layer_counts = run(*args)
            if layer_counts is not None:
                counts.append(layer_counts)
        return Hidden(self.norm(x_BTC), self._statistics(counts, segments) if counts else None)

    def _statistics(self, counts: list[RouterCounts], segments: Segments) -> RouterStatistics:
        return RouterStatistics(
            torch.stack([c.tokens for c in counts]),
            torch.stack([c.probability for c in counts]),
            (segments.document_ids >= 0).sum(),
            self.config.router_aux_loss_coef,
        )


def _compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype that queries and keys will have: autocast's, where it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
