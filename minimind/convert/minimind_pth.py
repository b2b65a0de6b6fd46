"""What people already have, as a model directory: MiniMind's `.pth` files and directories, and any Qwen3.

MiniMind-3 names its tensors as Qwen3 does, so nothing is renamed; what a `.pth` file lacks is its configuration, which
its shapes and the defaults of the source project give. A `.pth` file is a pickle, and a pickle is a program: it is read
with `weights_only=True`, which knows tensors and nothing else.
"""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minimind.config import ModelConfig
from minimind.console import say
from minimind.convert.huggingface import add_companions, number_format
from minimind.convert.tensors import Stored, from_directory, new_directory, parse_size, same, select, write_weights
from minimind.errors import UserError
from minimind.files import read_json
from minimind.model.hf_config import config_from_hf
from minimind.model.store import DTYPES, INDEX, WEIGHTS, save_config
from minimind.tokenizer.bpe import Tokenizer

PICKLES = (".pth", ".pt", ".bin")
OLDER = "MiniMind v1 / v2 weights have another architecture (no QK-norm) and cannot be imported; use a MiniMind-3 model"
# The source project's configuration, where its files are silent: only what differs from Qwen3's.
SOURCE_DEFAULTS: dict[str, Any] = {
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
    "num_experts": 4,
    "num_experts_per_tok": 1,
    "norm_topk_prob": True,
    "router_aux_loss_coef": 5e-4,
}


def import_model(
    source: Path, out: Path, tokenizer: str | None = None, dtype: str = "keep", max_shard_size: str = "4GB"
) -> dict[str, Any]:
    """Write the checkpoint `source` as the model directory `out`, which appears whole or not at all.

    Args:
        source: a `.pth` state dict of MiniMind-3, its transformers-format directory, or any Qwen3 directory.
        out: folder to make.
        tokenizer: tokenizer directory; by default the source's own.
        dtype: bfloat16, float16, float32, or keep.
        max_shard_size: most bytes of a weight file.

    Returns:
        `{"model", "parameters", "dtype", "files", "tensors", "vocab_size"}`.

    Raises:
        UserError: another architecture, a tensor is missing, unexpected or of another shape (all are named), a pickle
            that is more than tensors, no tokenizer, or `out` is there already or cannot be written.
    """
    size = parse_size(max_shard_size, "--max-shard-size")
    if source.is_dir():
        stored, config = _directory(source)
    elif source.is_file() and source.suffix in PICKLES:
        stored = from_pickle(source)
        config = config_of(stored, str(source))
    else:
        kind = "is no .pth file" if source.is_file() else "does not exist"
        raise UserError(f"{source} {kind}; give a .pth state dict, a model directory, or a hub's name as hf:user/name")
    chosen = select(stored, config, str(source))
    words = _tokenizer(source, tokenizer)
    if words.vocab_size > config.vocab_size:
        raise UserError(
            f"the tokenizer has {words.vocab_size} entries but {source} only {config.vocab_size}; "
            "name the tokenizer it was trained with by --tokenizer DIR"
        )
    if source.is_file():
        config = replace(config, bos_token_id=words.bos_id, eos_token_id=words.eos_id, pad_token_id=words.pad_id)
    kind = number_format(chosen, dtype)
    with new_directory(out) as folder:
        files = write_weights(chosen, folder, None if dtype == "keep" else DTYPES[dtype], size)
        save_config(config, folder, kind)
        add_companions(folder, source, words)
    return {
        "model": str(out),
        "parameters": config.parameters(),
        "dtype": kind,
        "files": files,
        "tensors": len(chosen),
        "vocab_size": words.vocab_size,
    }


def from_pickle(path: Path) -> dict[str, Stored]:
    """The tensors of a `.pth` state dict, left on the disk until they are read.

    Raises:
        UserError: it is damaged, or holds anything but named tensors.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that are not torch's; those are refused here in words
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} holds more than tensors and was not opened, because such a file can run any program; "
            "ask for its state dict, or for safetensors"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise UserError(f"{path} is damaged or no torch file ({type(error).__name__}); fetch it again") from None
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise UserError(f"{path} is no state dict (names with tensors); a training checkpoint cannot be imported")
    return {name: Stored(tuple(t.shape), t.dtype, t.detach) for name, t in content.items()}


def config_of(stored: Mapping[str, Stored], source: str) -> ModelConfig:
    """The configuration that a MiniMind-3 state dict's shapes tell, with the source project's defaults for the rest.

    Raises:
        UserError: an older version's weights, or none of MiniMind's at all.
    """
    first = "model.layers.0."
    if "tok_embeddings.weight" in stored or (
        f"{first}self_attn.q_proj.weight" in stored and f"{first}self_attn.q_norm.weight" not in stored
    ):
        raise UserError(f"{source}: {OLDER}")
    needed = {
        "embedding": "model.embed_tokens.weight",
        "q": f"{first}self_attn.q_proj.weight",
        "k": f"{first}self_attn.k_proj.weight",
        "norm": f"{first}self_attn.q_norm.weight",
    }
    router, expert = stored.get(f"{first}mlp.gate.weight"), f"{first}mlp.experts.0.gate_proj.weight"
    needed["ff"] = expert if router else f"{first}mlp.gate_proj.weight"
    missing = [name for name in needed.values() if name not in stored]
    if missing:
        raise UserError(f"{source} is no MiniMind-3 state dict: it has no {' and no '.join(missing)}")
    shapes = {key: stored[name].shape for key, name in needed.items()}
    (vocab_size, hidden_size), (head_dim,), ff = shapes["embedding"], shapes["norm"], shapes["ff"][0]
    layers = {int(found[1]) for name in stored if (found := re.match(r"model\.layers\.(\d+)\.", name))}
    head = stored.get("lm_head.weight")
    assumed = SOURCE_DEFAULTS | {"tie_word_embeddings": head is None or same(head, stored[needed["embedding"]])}
    assumed["num_experts"] = router.shape[0] if router else 0
    told = ["rope_theta", "rms_norm_eps"] + (["num_experts_per_tok", "norm_topk_prob"] if router else [])
    say(f"not in the file, so MiniMind's own: {', '.join(f'{name} {assumed[name]}' for name in told)}")
    return ModelConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=ff,
        moe_intermediate_size=ff,
        num_hidden_layers=max(layers) + 1,
        num_attention_heads=shapes["q"][0] // head_dim,
        num_key_value_heads=shapes["k"][0] // head_dim,
        head_dim=head_dim,
        **assumed,
    )


def _directory(source: Path) -> tuple[dict[str, Stored], ModelConfig]:
    """Tensors and configuration of a transformers-format directory."""
    path = source / "config.json"
    if not path.is_file():
        raise UserError(
            f"{source} is not a model directory: it has no config.json; of a .pth file, name the file itself"
        )
    content = read_json(path)
    if (source / WEIGHTS).is_file() or (source / INDEX).is_file():
        stored = from_directory(source)
    else:
        pickles = sorted(source.glob("pytorch_model*.bin"))
        if not pickles:
            raise UserError(f"{source} holds no weights: neither {WEIGHTS}, nor {INDEX}, nor pytorch_model.bin")
        stored = {name: one for file in pickles for name, one in from_pickle(file).items()}
    if content.get("model_type") == "minimind":  # the source project's own class around the same architecture
        if not any(name.endswith("q_norm.weight") for name in stored):
            raise UserError(f"{path}: {OLDER}")
        content = _as_qwen3(content)
    return stored, config_from_hf(content, str(path))


def _as_qwen3(content: dict[str, Any]) -> dict[str, Any]:
    """The source project's `config.json` with what it leaves to its class's defaults written out."""
    content = SOURCE_DEFAULTS | content | {"model_type": "qwen3_moe" if content.get("use_moe") else "qwen3"}
    heads, hidden = content.get("num_attention_heads"), content.get("hidden_size")
    if isinstance(heads, int) and isinstance(hidden, int) and heads > 0:
        content.setdefault("head_dim", hidden // heads)
    content.setdefault("moe_intermediate_size", content.get("intermediate_size"))
    return content


def _tokenizer(source: Path, named: str | None) -> Tokenizer:
    folder = source if source.is_dir() else source.parent
    if named is None and not (folder / "tokenizer.json").is_file():
        raise UserError(f"{folder} has no tokenizer.json; name the model's tokenizer directory with --tokenizer DIR")
    return Tokenizer.load(named or folder)
