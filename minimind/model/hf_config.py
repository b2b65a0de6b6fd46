"""`ModelConfig` to and from the `config.json` of Hugging Face's Qwen3 and Qwen3-MoE; `generation_config.json`."""

from pathlib import Path
from typing import Any, NamedTuple

from minimind.config import ModelConfig
from minimind.errors import UserError
from minimind.fields import Fields
from minimind.files import read_json

LAYERS, EXPERTS, WIDTH, ENTRIES = 4096, 65536, 2**20, 2**24
"""The most that a file may ask for: beyond is no model but a mistake, which would fill the memory or never end."""
_REQUIRED = {
    "vocab_size": ENTRIES,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": WIDTH,
    "intermediate_size": WIDTH,
}
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
_SPARSE = (
    "num_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "norm_topk_prob",
    "router_aux_loss_coef",
    "decoder_sparse_step",
    "mlp_only_layers",
)
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
        content.update({name: getattr(config, name) for name in _SPARSE}, output_router_logits=False)
        content["mlp_only_layers"] = list(config.mlp_only_layers)
    if task == "SequenceClassification":
        content.update(id2label={"0": "reward"}, label2id={"reward": 0})
    return content


def scores_texts(content: dict[str, Any]) -> bool:
    """Whether a `config.json` is that of a model that scores texts and writes none."""
    names = content.get("architectures")
    return isinstance(names, list) and any(str(name).endswith("ForSequenceClassification") for name in names)


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
    read = Fields(content, source)
    for name, value in _FIXED.items():
        if read.given.get(name, value) != value:
            raise UserError(f"{source}: {name} {content[name]!r} is not supported, only {value!r}")

    fields: dict[str, Any] = {name: read.integer(name, 0, 1, most) for name, most in _REQUIRED.items()}
    if missing := [name for name, value in fields.items() if not value]:
        raise UserError(f"{source}: {missing[0]} should be a positive whole number")
    # What is silent, here and below, has transformers' default; it always writes the number of heads of keys and
    # values. Its mixture of experts has no default of head_dim, but divides.
    divided = max(1, fields["hidden_size"] // fields["num_attention_heads"])
    fields |= {
        "num_key_value_heads": read.integer("num_key_value_heads", fields["num_attention_heads"], 1, WIDTH),
        "head_dim": read.integer("head_dim", 128 if kind == "qwen3" else divided, 1, WIDTH),
        "max_position_embeddings": read.integer("max_position_embeddings", 32768, 1),
        "rms_norm_eps": read.number("rms_norm_eps", 1e-6, above=True),
        "tie_word_embeddings": read.flag("tie_word_embeddings"),
        "attention_bias": read.flag("attention_bias"),
        "initializer_range": read.number("initializer_range", 0.02, above=True),
        "moe_intermediate_size": fields["intermediate_size"],
    }
    fields |= {f"{name}_token_id": _first_id(read, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    fields |= _rope(read)
    if kind == "qwen3_moe":
        layers = read.items("mlp_only_layers")
        if not all(isinstance(layer, int) for layer in layers):
            raise read.wrong("mlp_only_layers", "a list of layers")
        fields |= {
            "num_experts": read.integer("num_local_experts", read.integer("num_experts", 128, 1, EXPERTS), 1, EXPERTS),
            "num_experts_per_tok": read.integer("num_experts_per_tok", 8, 1, EXPERTS),
            "moe_intermediate_size": read.integer("moe_intermediate_size", 768, 1, WIDTH),
            "norm_topk_prob": read.flag("norm_topk_prob"),
            "router_aux_loss_coef": read.number("router_aux_loss_coef", 1e-3),
            "decoder_sparse_step": read.integer("decoder_sparse_step", 1, 1),
            "mlp_only_layers": tuple(layers),
        }
    config = ModelConfig(**fields)
    for name, must in config.faults().items():
        raise UserError(f"{source}: {name} = {getattr(config, name)} should be {must}")
    return config


def readable(config: ModelConfig) -> ModelConfig:
    """Return a recipe's `config`, unless its `config.json` could not be read again: a model of it would be of no use.

    Raises:
        UserError: a field is out of bounds.
    """
    config_from_hf(config_to_hf(config), "recipe: [model]")
    return config


def _first_id(read: Fields, name: str) -> int | None:
    """A token's id; of several, as some models end their answers, the first."""
    value = read.given.get(name)
    if isinstance(value, list):
        return Fields({name: next(iter(value), None)}, read.source).integer(name, None)
    return read.integer(name, None)


def _rope(read: Fields) -> dict[str, Any]:
    """Return `rope_theta` and `rope_scaling` from `rope_parameters` (newer) or from themselves."""
    newer, older = read.fields("rope_parameters"), read.fields("rope_scaling")
    if newer.given and any(newer.given.get(name) != value for name, value in older.given.items()):
        raise UserError(f"{read.source}: rope_parameters and rope_scaling say different things; keep one of them")
    given = newer if newer.given else older
    theta = given.number("rope_theta", read.number("rope_theta", 10_000.0, above=True), above=True)
    method = given.text("rope_type", None) or given.text("type", "default")
    for name in ("factor", "beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim"):
        given.number(name, None)
    given.integer("original_max_position_embeddings", None, 1)
    given.flag("truncate", True)
    scaling = {name: value for name, value in given.given.items() if name != "rope_theta"}
    return {"rope_theta": theta, "rope_scaling": None if method == "default" else scaling}


class Generation(NamedTuple):
    """How a model directory's `generation_config.json` wants answers to be drawn; None where it does not say."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None


def read_generation(directory: Path) -> Generation:
    """Read `generation_config.json`, if there is one.

    Raises:
        UserError: it is broken, or a field of it is no number or out of range.
    """
    path = directory / "generation_config.json"
    if not path.is_file():
        return Generation()
    read = Fields(read_json(path), path)
    return Generation(
        temperature=read.number("temperature", None, most=100),
        top_p=read.number("top_p", None, most=1),
        top_k=read.integer("top_k", None),
        repetition_penalty=read.number("repetition_penalty", None, most=100, above=True),
    )
