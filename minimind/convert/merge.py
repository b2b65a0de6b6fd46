"""An adapter made part of its base: a model directory that needs neither."""

from pathlib import Path
from typing import Any

from minimind.convert.huggingface import kept_dtype
from minimind.convert.tensors import from_directory, new_directory
from minimind.model.adapter import base_of
from minimind.model.store import load_model, save_model
from minimind.tokenizer.bpe import Tokenizer


def merge_lora(adapter: Path, out: Path, base: Path | None = None, dtype: str = "keep") -> dict[str, Any]:
    """Write the base with the adapter's change added to it to `out`, which appears whole or not at all.

    The sum is made in float32 and rounded once, to the base's number format unless `dtype` names another.

    Args:
        adapter: an adapter's directory.
        out: folder to make.
        base: the model that it was trained on, if that is no longer where the adapter says.
        dtype: bfloat16, float16, float32, or keep.

    Returns:
        `{"model", "base", "parameters", "dtype"}`.

    Raises:
        UserError: no adapter, no base or another one, or `out` is there already or cannot be written.
    """
    base = base or base_of(adapter)
    model = load_model(base, adapter=adapter)
    tokenizer = Tokenizer.load(base)
    kind = kept_dtype(from_directory(base)["model.embed_tokens.weight"].dtype) if dtype == "keep" else dtype
    with new_directory(out) as folder:
        save_model(model, folder, kind)
        if (base / "generation_config.json").is_file():  # it may hold more than ids: temperature, several ends
            (folder / "generation_config.json").write_bytes((base / "generation_config.json").read_bytes())
        tokenizer.save(folder)
    return {"model": str(out), "base": str(base), "parameters": model.config.parameters(), "dtype": kind}
