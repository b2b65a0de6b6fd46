"""The model card: README.md of a model directory, filled in from the run that made it."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minimind.config import ModelConfig
from minimind.files import read_json, read_text
from minimind.model.rope import context_length
from minimind.text import write_toml
from minimind.tokenizer.bpe import Tokenizer
from minimind.train import metrics

_USE = """
## Use it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}")
messages = [{{"role": "user", "content": {question}}}]
ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**ids, max_new_tokens=200)[0][ids["input_ids"].shape[1]:]))
```

Or `minimind chat {name}`. `enable_thinking=True` in `apply_chat_template` lets the model reason before it answers;
`tools=[...]` lists functions that it may call.
"""


def model_card(
    name: str, config: ModelConfig, tokenizer: Tokenizer, run: Path, chat: Sequence[tuple[str, str]], kind: str
) -> str:
    """Markdown with the front matter that model hubs read.

    Args:
        name: what to call the model.
        config: its shape.
        tokenizer: its tokenizer.
        run: folder of the run that made it; what is not there is left out.
        chat: questions with the model's own answers.
        kind: number format of the weights.
    """
    sparse = "" if not config.num_experts else f" ({config.parameters(active=True) / 1e6:.1f} M active)"
    shape = [
        ("parameters", f"{config.parameters() / 1e6:.1f} M{sparse}"),
        ("architecture", "Qwen3-MoE" if config.num_experts else "Qwen3"),
        ("layers, hidden size", f"{config.num_hidden_layers}, {config.hidden_size}"),
        ("heads: query, key/value", f"{config.num_attention_heads}, {config.num_key_value_heads}"),
        ("experts", f"{config.num_experts}, {config.num_experts_per_tok} a token" if config.num_experts else "none"),
        ("context", f"{context_length(config):,} tokens"),
        ("vocabulary", f"{tokenizer.vocab_size:,} entries"),
        ("weights", kind),
    ]
    parts = [_front_matter(config), f"# {name}\n", "A language model trained with MiniMind.\n", _table("", shape)]
    recipe = _recipe(run)
    if recipe:
        parts.append(_training(recipe, run))
    if scores := _scores(run, recipe["stage"] if recipe else ""):
        parts.append(_table("## Scores", scores))
    question = chat[0][0] if chat else "你好！"
    parts.append(_USE.format(name=name, question=json.dumps(question, ensure_ascii=False)).lstrip("\n"))
    if chat:
        said = "\n\n".join(f"> {_quoted(asked)}\n\n{_fenced(answer)}" for asked, answer in chat)
        parts.append(f"## What it says\n\nMost likely words, nothing chosen by hand:\n\n{said}\n")
    return "\n".join(parts)


def _front_matter(config: ModelConfig) -> str:
    tags = f"[minimind, {'qwen3_moe' if config.num_experts else 'qwen3'}]"
    return f"---\nlibrary_name: transformers\npipeline_tag: text-generation\nlanguage: [zh, en]\ntags: {tags}\n---\n"


def _recipe(run: Path) -> dict[str, Any]:
    """The run's recipe, folders cut off the names in it: they are this machine's, and a card is for others."""
    if not (run / "recipe.toml").is_file():
        return {}
    try:
        recipe = tomllib.loads(read_text(run / "recipe.toml"))
    except tomllib.TOMLDecodeError:
        return {}
    if not {"stage", "data", "init", "tokenizer"} <= recipe.keys() or not {"files", "valid"} <= recipe["data"].keys():
        return {}  # somebody's own: a run keeps its recipe whole
    recipe["data"] |= {name: [_short(file) for file in recipe["data"][name]] for name in ("files", "valid")}
    return recipe | {name: _short(recipe[name]) for name in ("init", "tokenizer")}


def _short(path: str) -> str:
    """The last part of a path; of a run's `model` folder the run's name with it."""
    parts = path.replace("\\", "/").rstrip("/").split("/")
    return "/".join(parts[-2:]) if parts[-1] == "model" else path if path.startswith("hf:") else parts[-1]


def _training(recipe: dict[str, Any], run: Path) -> str:
    log = metrics.read(run / "metrics.jsonl")
    last = log[-1] if log else {}
    rows = [("stage", recipe["stage"]), ("data", ", ".join(recipe["data"]["files"]))]
    rows += [("started from", recipe["init"])] if recipe["init"] else []
    rows += [(label, f"{last[key]:{form}}") for key, label, form in _LOGGED if isinstance(last.get(key), int | float)]
    environment = run / "environment.json"
    if environment.is_file():
        facts = read_json(environment)
        rows.append(("software", f"minimind {facts.get('minimind')}, torch {facts.get('torch')}"))
    text = _fenced(write_toml(recipe).rstrip(), "toml")
    return _table("## Training", rows) + f"\n<details><summary>The whole recipe</summary>\n\n{text}\n\n</details>\n"


_LOGGED = (("step", "steps", ","), ("tokens", "tokens", ","), ("loss", "last loss", ".4f"))


def _scores(run: Path, stage: str) -> list[tuple[str, str]]:
    """Validation bits per byte from the log, and abilities from the report of a demo that the run is part of."""
    logged = [line["valid_bpb"] for line in metrics.read(run / "metrics.jsonl") if "valid_bpb" in line]
    found = [("bits per byte of held-out text", f"{logged[-1]:.4f}")] if logged else []
    report = run.parent / "report.json"
    if report.is_file():
        entry: dict[str, Any] = read_json(report).get("stages", {}).get(stage, {})
        found += [(name.replace("_", " "), f"{score:.1%}") for name, score in (entry.get("scores") or {}).items()]
    return found


def _table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    lines = [f"| {key} | {value.replace('|', chr(92) + '|')} |" for key, value in rows]
    return (f"{title}\n\n" if title else "") + "\n".join(["| | |", "|---|---|", *lines]) + "\n"


def _quoted(text: str) -> str:
    return text.replace("\n", "\n> ")


def _fenced(text: str, language: str = "text") -> str:
    """A code block that the text cannot end."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"
