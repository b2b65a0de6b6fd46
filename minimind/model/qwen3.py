"""The model, from top to bottom: Qwen3 and Qwen3-MoE.

    x = embedding of the ids
    in every block:  x = x + attention(norm(x))
                     x = x + feed_forward(norm(x))        SwiGLU, or a mixture of them (`model/moe.py`)
    states = norm(x);  logits = states · output matrixᵀ

Which tokens see each other, and by which kernel that is computed, is the business of one object that the forward pass
is given (`model/attend.py`: packed documents; `model/cache.py`: sequences that grow token by token). How queries and
keys learn where they stand is in `model/rope.py`.

Names of modules and parameters are Hugging Face's Qwen3 names without the `model.` prefix. Shape letters: B rows, T
tokens of a row, C hidden, H query heads, K key/value heads, D head_dim.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from minimind.config import ModelConfig
from minimind.model.attend import AttentionOf, LayerAttention
from minimind.model.linear import Linear, linear
from minimind.model.moe import MixtureOfExperts, RouterCounts, RouterStatistics
from minimind.model.rope import RotaryEmbedding, Rotation, rotate


class RMSNorm(nn.Module):
    """Root-mean-square norm (Zhang & Sennrich 2019): y = weight · x / sqrt(mean(x²) + eps) over the last dimension.

    The mean of squares is taken in float32 whatever the input, because bfloat16 keeps only 8 bits; the output
    has the input's dtype.
    """

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., size]` to the same shape and dtype."""
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention (Ainslie et al. 2023) with QK-norm: H query heads share K key/value heads.

    Project to queries, keys and values, norm and rotate the first two, attend, project back.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.head_dim = config.head_dim
        hidden, bias = config.hidden_size, config.attention_bias
        queries = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        self.q_proj = Linear(hidden, queries, bias=bias)
        self.k_proj = Linear(hidden, keys, bias=bias)
        self.v_proj = Linear(hidden, keys, bias=bias)
        self.o_proj = Linear(queries, hidden, bias=bias)
        # QK-norm (Henry et al. 2020), one weight for all heads: bounds the attention logits.
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def forward(self, x_BTC: Tensor, rotation: Rotation, attention: LayerAttention) -> Tensor:
        """Map `[B, T, hidden]` to the same shape."""
        rows, time, _ = x_BTC.shape
        heads = (rows, time, -1, self.head_dim)
        q_BTHD = rotate(self.q_norm(self.q_proj(x_BTC).view(heads)), rotation)
        k_BTKD = rotate(self.k_norm(self.k_proj(x_BTC).view(heads)), rotation)
        v_BTKD = self.v_proj(x_BTC).view(heads)
        out_BTHD = attention.attend(q_BTHD, k_BTKD, v_BTKD)
        return self.o_proj(out_BTHD.reshape(rows, time, -1))


class MLP(nn.Module):
    """The feed-forward network SwiGLU (Shazeer 2020): down(silu(gate(x)) · up(x)), three matrices without bias."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., hidden]` to the same shape."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """One layer: x + attention(norm(x)), then x + feed_forward(norm(x)) (pre-norm)."""

    def __init__(self, config: ModelConfig, sparse: bool):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp: MLP | MixtureOfExperts = MixtureOfExperts(config) if sparse else MLP(config)

    def forward(
        self, x_BTC: Tensor, rotation: Rotation, attention: LayerAttention, padding_BT: Tensor
    ) -> tuple[Tensor, RouterCounts | None]:
        """Return the residual stream `[B, T, hidden]` and, from a sparse layer, its routing."""
        x_BTC = x_BTC + self.self_attn(self.input_layernorm(x_BTC), rotation, attention)
        normed_BTC = self.post_attention_layernorm(x_BTC)
        if isinstance(self.mlp, MixtureOfExperts):
            out_BTC, counts = self.mlp(normed_BTC, padding_BT)
            return x_BTC + out_BTC, counts
        return x_BTC + self.mlp(normed_BTC), None


def run_block(block: nn.Module, *args: Any) -> tuple[Tensor, RouterCounts | None]:
    """Call a block; as a function, so that one compiled version of it serves all blocks."""
    return block(*args)


class Hidden(NamedTuple):
    """What a forward pass gives: `states` `[B, T, hidden]` after the final norm, and the routing (MoE only)."""

    states: Tensor
    router: RouterStatistics | None


class Transformer(nn.Module):
    """A language model; `output_weight` or `logits` turn its states into scores of tokens."""

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

    def forward(self, input_ids_BT: Tensor, attention: AttentionOf) -> Hidden:
        """Run the model over a batch of packed documents, or over the next tokens of cached sequences.

        Args:
            input_ids_BT: token ids, int64 `[B, T]`.
            attention: each token's position, which tokens are padding, and who sees whom.
        """
        x_BTC = self.embed_tokens(input_ids_BT)
        rotation, padding_BT = self.rope(attention.positions), attention.padding
        # A cache changes shape from pass to pass: what is compiled for training does not serve it.
        run = self.run_block if attention.repeats else run_block
        counts: list[RouterCounts] = []
        of_layers = attention.of_layers(len(self.layers), _compute_dtype(x_BTC))
        for layer, of_layer in zip(self.layers, of_layers, strict=True):
            args = (layer, x_BTC, rotation, of_layer, padding_BT)
            if self.activation_checkpointing and torch.is_grad_enabled():
                x_BTC, layer_counts = checkpoint(run, *args, use_reentrant=False)
            else:
                x_BTC, layer_counts = run(*args)
            if layer_counts is not None:
                counts.append(layer_counts)
        return Hidden(self.norm(x_BTC), self._statistics(counts, padding_BT) if counts else None)

    def _statistics(self, counts: list[RouterCounts], padding_BT: Tensor) -> RouterStatistics:
        return RouterStatistics(
            torch.stack([c.tokens for c in counts]),
            torch.stack([c.probability for c in counts]),
            (~padding_BT).sum(),
            self.config.router_aux_loss_coef,
        )

    @property
    def output_weight(self) -> Tensor:
        """The matrix `[vocab, hidden]` that turns states into logits; the embedding itself when tied."""
        return self.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight

    def logits(self, states: Tensor) -> Tensor:
        """Score every token: `[..., hidden] -> [..., vocab]`; training uses `losses.lm`, which never holds them all."""
        return linear(states, self.output_weight)

    def compile_blocks(self, **options: Any) -> None:
        """Compile one block for all layers (training and scoring; generation with a cache stays eager).

        Compiling a block instead of the model costs a fraction of the time and loses almost nothing.
        """
        self.run_block = torch.compile(run_block, **options)

    def use_rope_scaling(self, scaling: Mapping[str, Any] | None) -> None:
        """Turn queries and keys by other angles from now on (`rope.yarn`), or with None by the plain ones."""
        self.config = self.config.with_(rope_scaling=dict(scaling) if scaling else None)
        self.rope = RotaryEmbedding(self.config)


class Scorer(Transformer):
    """The same body with a head of one row, `score`: a number for each token. Reward models, and critics of PPO.

    On disk it is Hugging Face's `Qwen3ForSequenceClassification` with one label, whose score of a text is that of its
    last token. Started from a language model it scores everything 0 at first.
    """

    task = "SequenceClassification"

    def __init__(self, config: ModelConfig):
        super().__init__(config.with_(tie_word_embeddings=True))  # so that there is no head of words
        self.score = Linear(config.hidden_size, 1, bias=False)
        torch.nn.init.zeros_(self.score.weight)

    def scores(self, states: Tensor) -> Tensor:
        """Score every token by what has been read up to it: `[..., hidden] -> [...]`, float32, under autocast too."""
        return (states.float() * self.score.weight[0].float()).sum(-1)


def _compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype that queries and keys will have: autocast's, where it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
