"""`ModelConfig` to and from the `config.json` of Hugging Face's Qwen3 and Qwen3-MoE."""

from typing import Any

from minimind.config import ModelConfig
from minimind.errors import UserError

# What transformers assumes where a file is silent, in so far as it differs from ModelConfig's defaults.
_DEFAULTS = {"head_dim": 128, "rope_theta": 10_000.0, "tie_word_embeddings": False, "max_position_embeddings": 32768}
_REQUIRED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_SAME_NAME = (
    *_REQUIRED,
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "attention_bias",
    "initializer_range",
    "bos_token_id",
    "pad_token_id",
)
_SPARSE_DEFAULTS: dict[str, Any] = {
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "norm_topk_prob": False,
    "router_aux_loss_coef": 1e-3,
    "decoder_sparse_step": 1,
    "mlp_only_layers": (),
}
_FIXED = {"hidden_act": "silu", "use_sliding_window": False}


def config_to_hf(config: ModelConfig, dtype: str = "bfloat16", task: str = "CausalLM") -> dict[str, Any]:
    """Return the content of `config.json`, RoPE in the older spelling, which every consumer reads.

    task: what the model's head is for, `CausalLM` or `SequenceClassification` (of one label).
    """
    sparse = config.num_experts > 0
    content: dict[str, Any] = {
        "architectures": [f"Qwen3{'Moe' if sparse else ''}For{task}"],
        "model_type": "qwen3_moe" if sparse else "qwen3",
        "torch_dtype": dtype,
        "attention_dropout": 0.0,
        "max_window_layers": config.num_hidden_layers,
        "sliding_window": None,
        "use_cache": True,
        **_FIXED,
        **{name: getattr(config, name) for name in _SAME_NAME},
        "eos_token_id": config.eos_token_id,
        "rope_theta": config.rope_theta,
        "rope_scaling": config.rope_scaling,
    }
    if sparse:
        content.update({name: getattr(config, name) for name in _SPARSE_DEFAULTS}, output_router_logits=False)
        content["mlp_only_layers"] = list(config.mlp_only_layers)
    if task == "SequenceClassification":
        content.update(id2label={"0": "reward"}, label2id={"reward": 0})
    return content


def scores_texts(content: dict[str, Any]) -> bool:
    """Whether a `config.json` is that of a model that scores texts and writes none."""
    return any(str(name).endswith("ForSequenceClassification") for name in content.get("architectures") or ())


def config_from_hf(content: dict[str, Any], source: str = "config.json") -> ModelConfig:
    """Read the content of a `config.json`, RoPE in either spelling; `source` names it in errors.

    Raises:
        UserError: another architecture, a field missing, or a variant of Qwen3 that is not implemented here.
    """
    kind = content.get("model_type")
    if kind == "minimind":
        raise UserError(
            f"{source}: MiniMind v1 / v2 weights have another architecture (no QK-norm) and cannot be loaded; "
            "use a MiniMind-3 model"
        )
    if kind not in ("qwen3", "qwen3_moe"):
        raise UserError(f"{source}: model_type is {kind!r}, but only 'qwen3' and 'qwen3_moe' are supported")
    for name in _REQUIRED:
        if not isinstance(content.get(name), int) or content[name] <= 0:
            raise UserError(f"{source}: {name} should be a positive whole number")
    for name, value in _FIXED.items():
        if content.get(name, value) != value:
            raise UserError(f"{source}: {name} {content[name]!r} is not supported, only {value!r}")

    fields: dict[str, Any] = {"num_key_value_heads": content["num_attention_heads"], "bos_token_id": None}
    fields.update(_DEFAULTS, pad_token_id=None, moe_intermediate_size=content["intermediate_size"])
    fields.update((name, content[name]) for name in _SAME_NAME if name in content)
    eos = content.get("eos_token_id")
    fields["eos_token_id"] = eos[0] if isinstance(eos, list) else eos
    fields.update(_rope(content))
    if kind == "qwen3_moe":
        sparse = {name: content.get(name, default) for name, default in _SPARSE_DEFAULTS.items()}
        sparse["num_experts"] = content.get("num_local_experts", sparse["num_experts"])
        fields.update(sparse, mlp_only_layers=tuple(sparse["mlp_only_layers"] or ()))
    if fields["num_attention_heads"] % fields["num_key_value_heads"]:
        raise UserError(f"{source}: num_attention_heads should be a multiple of num_key_value_heads")
    return ModelConfig(**fields)


def _rope(content: dict[str, Any]) -> dict[str, Any]:
    """Return `rope_theta` and `rope_scaling` from `rope_parameters` (newer) or from themselves."""
    parameters = dict(content.get("rope_parameters") or content.get("rope_scaling") or {})
    theta = parameters.pop("rope_theta", None) or content.get("rope_theta") or _DEFAULTS["rope_theta"]
    method = parameters.get("rope_type") or parameters.get("type") or "default"
    return {"rope_theta": float(theta), "rope_scaling": None if method == "default" else parameters}
