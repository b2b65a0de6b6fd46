"""A model directory once more: in another number format, in shards, with a model card; or with an adapter in it.

Any model directory is what `transformers` reads as it is; this is for handing one on.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minimind.config import ModelConfig
from minimind.convert.card import model_card
from minimind.convert.tensors import Stored, from_directory, new_directory, parse_size, select, write_weights
from minimind.engine.generate import complete
from minimind.engine.sampling import GREEDY
from minimind.errors import UserError
from minimind.files import write_text
from minimind.model.adapter import base_of
from minimind.model.store import DTYPES, load_config, load_model, save_config, save_model
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import render

QUESTIONS = ("你好，请介绍一下你自己。", "What is the capital of France?")


def export_hf(
    model: Path, out: Path, dtype: str = "keep", max_shard_size: str = "4GB", questions: tuple[str, ...] = QUESTIONS
) -> dict[str, Any]:
    """Write a copy of the model directory `model` to `out`, which appears whole or not at all.

    Args:
        model: model directory; the card is filled in from the run that it lies in.
        out: folder to make.
        dtype: bfloat16, float16, float32, or keep.
        max_shard_size: most bytes of a weight file, such as `2GB`.
        questions: what the card's conversation asks; none leaves it out.

    Returns:
        `{"model", "parameters", "dtype", "files"}`.

    Raises:
        UsageError: not a size.
        UserError: `model` is broken, or `out` is there already or cannot be written.
    """
    size = parse_size(max_shard_size, "--max-shard-size")
    config, tokenizer = load_config(model), Tokenizer.load(model)
    stored = select(from_directory(model), config, str(model))
    kind = number_format(stored, dtype)
    chat = _conversation(model, config, tokenizer, questions)
    with new_directory(out) as folder:
        files = write_weights(stored, folder, None if dtype == "keep" else DTYPES[dtype], size)
        save_config(config, folder, kind)
        add_companions(folder, model, tokenizer)
        card = model_card(out.name, config, tokenizer, model.resolve().parent, chat, kind)
        write_text(folder / "README.md", card)
    return {"model": str(out), "parameters": config.parameters(), "dtype": kind, "files": files}


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
    tokenizer = Tokenizer.load(adapter if (adapter / "tokenizer.json").is_file() else base)
    kind = number_format(from_directory(base), dtype)
    with new_directory(out) as folder:
        save_model(model, folder, kind)
        add_companions(folder, base, tokenizer)
    return {"model": str(out), "base": str(base), "parameters": model.config.parameters(), "dtype": kind}


def number_format(stored: Mapping[str, Stored], dtype: str) -> str:
    """The format that `dtype` names; `keep` is that of the embedding, float32 where no model is saved in that."""
    own = stored["model.embed_tokens.weight"].dtype
    return next((name for name, one in DTYPES.items() if one == own), "float32") if dtype == "keep" else dtype


def add_companions(folder: Path, source: Path, tokenizer: Tokenizer) -> None:
    """Put beside the weights in `folder` a tokenizer, and how `source` generates: temperature, several ends."""
    generation = source / "generation_config.json"
    if generation.is_file():
        (folder / generation.name).write_bytes(generation.read_bytes())
    tokenizer.save(folder)


def _conversation(
    model: Path, config: ModelConfig, tokenizer: Tokenizer, questions: tuple[str, ...]
) -> list[tuple[str, str]]:
    """Each question with the model's likeliest answer."""
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{model}: the tokenizer has {tokenizer.vocab_size} entries but the model only {config.vocab_size}"
        )
    if not questions or tokenizer.control_id("<|im_start|>") is None:
        return []
    asked = [[{"role": "user", "content": question}] for question in questions]
    prompts = [render(messages, tokenizer, add_generation_prompt=True)[0] for messages in asked]
    answers = complete(load_model(model), prompts, GREEDY, tokenizer.eos, max_new_tokens=80)
    return [(q, tokenizer.decode(ids, skip_special=True).strip()) for q, ids in zip(questions, answers, strict=True)]
