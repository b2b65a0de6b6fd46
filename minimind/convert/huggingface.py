"""A model directory once more: in another number format, in shards, with a model card.

Any model directory is what `transformers` reads as it is; this is for handing one on.
"""

from pathlib import Path
from typing import Any

from minimind.config import ModelConfig
from minimind.convert.card import model_card
from minimind.convert.tensors import from_directory, new_directory, parse_size, select, write_weights
from minimind.engine.generate import complete
from minimind.engine.sampling import GREEDY
from minimind.errors import UserError
from minimind.files import write_text
from minimind.model.store import DTYPES, load_config, load_model, save_config
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
    kind = kept_dtype(stored["model.embed_tokens.weight"].dtype) if dtype == "keep" else dtype
    chat = _conversation(model, config, tokenizer, questions)
    with new_directory(out) as folder:
        files = write_weights(stored, folder, None if dtype == "keep" else DTYPES[dtype], size)
        save_config(config, folder, kind)
        if (model / "generation_config.json").is_file():  # it may hold more than ids: temperature, several ends
            (folder / "generation_config.json").write_bytes((model / "generation_config.json").read_bytes())
        tokenizer.save(folder)
        card = model_card(out.name, config, tokenizer, model.resolve().parent, chat, kind)
        write_text(folder / "README.md", card)
    return {"model": str(out), "parameters": config.parameters(), "dtype": kind, "files": files}


def kept_dtype(dtype: Any) -> str:
    """The name by which `config.json` knows a number format; what no model is saved in counts as float32."""
    return next((name for name, one in DTYPES.items() if one == dtype), "float32")


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
