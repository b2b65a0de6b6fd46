"""The shape of a model: `ModelConfig` with Hugging Face's field names, and the presets.

A preset is architecture only; how it is trained is a recipe (`minimind/recipe.py`).
"""

from dataclasses import dataclass, field, replace
from typing import Any

from minimind.errors import UsageError


@dataclass(frozen=True)
class ModelConfig:
    """A Qwen3 (dense) or Qwen3-MoE (`num_experts > 0`) decoder."""

    vocab_size: int = 6400
    hidden_size: int = 768
    intermediate_size: int = 2432
    num_hidden_layers: int = 8
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 96
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    rope_scaling: dict[str, Any] | None = None
    """YaRN: `{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048, ...}`."""
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    initializer_range: float = 0.02

    num_experts: int = 0
    num_experts_per_tok: int = 1
    moe_intermediate_size: int = 2432
    norm_topk_prob: bool = False
    """At top-1 a normalised gate is the constant 1, which leaves the router without a gradient: so False here."""
    router_aux_loss_coef: float = 5e-4
    decoder_sparse_step: int = 1
    mlp_only_layers: tuple[int, ...] = field(default=())

    bos_token_id: int | None = 1
    eos_token_id: int | None = 2
    pad_token_id: int | None = 0

    def check(self) -> None:
        """Refuse a recipe's shape that cannot be built.

        Raises:
            UsageError: a size is below 1, or two of them do not go together.
        """
        for name, must in self.faults().items():
            raise UsageError(f"recipe: model.{name} = {getattr(self, name)} must be {must}")

    def faults(self) -> dict[str, str]:
        """Fields that are wrong, and what they must be: sizes below 1, or two that do not go together."""
        sizes = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
        sizes += ["num_key_value_heads", "head_dim", "max_position_embeddings", "num_experts_per_tok"]
        sizes += ["moe_intermediate_size", "decoder_sparse_step"]
        wrong = {name: "at least 1" for name in sizes if getattr(self, name) < 1}
        if not wrong and self.num_attention_heads % self.num_key_value_heads:
            wrong["num_key_value_heads"] = f"a divisor of num_attention_heads ({self.num_attention_heads})"
        if self.head_dim % 2:
            wrong["head_dim"] = "even"
        for name in ("rms_norm_eps", "rope_theta", "initializer_range"):
            if not getattr(self, name) > 0:
                wrong[name] = "above 0"
        typed = self.rope_scaling is None or (
            isinstance(self.rope_scaling, dict) and bool({"rope_type", "type"} & set(self.rope_scaling))
        )
        if not typed:
            wrong["rope_scaling"] = 'a table such as { rope_type = "yarn", factor = 4.0 }'
        if not isinstance(self.mlp_only_layers, list | tuple):
            wrong["mlp_only_layers"] = "a list of layers"
        if self.num_experts < 0:
            wrong["num_experts"] = "at least 0"
        elif 0 < self.num_experts < self.num_experts_per_tok:
            wrong["num_experts_per_tok"] = f"at most num_experts ({self.num_experts})"
        return wrong

    def is_sparse(self, layer: int) -> bool:
        """Whether `layer` (from 0) has experts instead of one feed-forward network, as Qwen3-MoE decides it."""
        return (
            self.num_experts > 0 and layer not in self.mlp_only_layers and (layer + 1) % self.decoder_sparse_step == 0
        )

    def parameters(self, active: bool = False) -> int:
        """Count the parameters; with `active`, only those that one token passes through."""
        hidden, head = self.hidden_size, self.head_dim
        queries, keys = self.num_attention_heads * head, self.num_key_value_heads * head
        attention = hidden * (2 * queries + 2 * keys) + 2 * head  # projections, QK-norm
        if self.attention_bias:
            attention += queries + 2 * keys + hidden
        experts = self.num_experts_per_tok if active else self.num_experts
        total = self.vocab_size * hidden * (1 if self.tie_word_embeddings else 2) + hidden
        for layer in range(self.num_hidden_layers):
            if self.is_sparse(layer):
                feed_forward = experts * 3 * hidden * self.moe_intermediate_size + self.num_experts * hidden
            else:
                feed_forward = 3 * hidden * self.intermediate_size
            total += attention + feed_forward + 2 * hidden
        return total

    def flops_per_token(self, context: float) -> float:
        """Floating-point operations of training on one token (forward + backward).

        Six per weight of every matrix the token passes (the embedding look-up is free, the output
        product is not), plus attention over a mean of `context` keys: 12 · layers · heads · head_dim · context.
        """
        embedding = self.vocab_size * self.hidden_size
        matrices = self.parameters(active=True) - (0 if self.tie_word_embeddings else embedding)
        scores = self.num_hidden_layers * self.num_attention_heads * self.head_dim * context
        return 6.0 * matrices + 12.0 * scores

    def with_(self, **changes: Any) -> "ModelConfig":
        """Return a copy with some fields changed."""
        return replace(self, **changes)


def _small(hidden: int, layers: int, ff: int, heads: int, kv: int, head_dim: int, **rest: Any) -> ModelConfig:
    return ModelConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=ff,
        moe_intermediate_size=ff,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        head_dim=head_dim,
        **rest,
    )


PRESETS: dict[str, ModelConfig] = {
    "minimind-3": _small(768, 8, 2432, 8, 4, 96),
    "minimind-3-moe": _small(768, 8, 2432, 8, 4, 96, num_experts=4),
    "minimind2-small": _small(512, 8, 1408, 8, 2, 64),
    "minimind2-moe": _small(640, 8, 1728, 8, 2, 80, num_experts=5),
    "minimind2": _small(768, 16, 2048, 8, 2, 96),
    "laptop": _small(256, 6, 704, 4, 2, 64),
    "tiny": _small(192, 4, 512, 4, 2, 48, vocab_size=2048, max_position_embeddings=2048, rope_theta=1e4),
    "tiny-moe": _small(
        192, 4, 512, 4, 2, 48, vocab_size=2048, max_position_embeddings=2048, rope_theta=1e4, num_experts=4
    ),
}
