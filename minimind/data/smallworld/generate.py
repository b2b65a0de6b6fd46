"""Write the small world to JSON Lines, in the format of every training stage."""

import json
import random
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from minimind.data.smallworld import conversations, pretraining
from minimind.data.smallworld.arithmetic import Sums
from minimind.data.smallworld.questions import held_out_conversations
from minimind.data.smallworld.world import build_world
from minimind.errors import UsageError

DEFAULT_MB = 7.0
VALID_DOCUMENTS = 500


def generate(out: Path, size_mb: float | None = None, seed: int = 0) -> dict[str, dict[str, int]]:
    """Write all files to the folder `out` and return `{file name: {"rows", "bytes"}}`.

    size_mb: size of everything together (default 7); chats and prompts shrink with it below the default, and above
    it only the pretraining text grows. The same seed gives the same bytes, and `questions(seed)` belongs to it.
    Raises UsageError for a size that is not positive.
    """
    size_mb = DEFAULT_MB if size_mb is None else size_mb
    if not size_mb > 0:
        raise UsageError(
            f"the size of the small world must be above 0 MB, not {size_mb}; the default is {DEFAULT_MB:g}"
        )
    out.mkdir(parents=True, exist_ok=True)
    world, sums, scale = build_world(seed), Sums(seed), min(1.0, size_mb / DEFAULT_MB)
    files: dict[str, dict[str, int]] = {}

    def rng(name: str) -> random.Random:
        return random.Random(f"{name} {seed}")

    def write(name: str, rows: Iterable[dict[str, Any]]) -> None:
        files[name] = _write(out / name, rows)

    def chats(rows: Iterable[list[dict[str, Any]]]) -> list[dict[str, Any]]:
        return [{"conversations": turns} for turns in rows]

    training = conversations.training(world, sums, scale, rng("sft"))
    write("sft.jsonl", chats(_shuffled(training, rng("sft order"))))
    write("sft_valid.jsonl", chats(turns for _, turns in held_out_conversations(world, sums)))

    valid = [text for _, text in islice(pretraining.documents(world, sums, rng("valid")), VALID_DOCUMENTS)]
    unseen = set(valid)
    budget = max(0.3 * size_mb * 1e6, size_mb * 1e6 - sum(one["bytes"] for one in files.values()))
    texts = (text for _, text in pretraining.documents(world, sums, rng("pretrain")))
    write("pretrain.jsonl", _up_to(budget, ({"text": text} for text in texts if text not in unseen)))
    write("pretrain_valid.jsonl", ({"text": text} for text in dict.fromkeys(valid)))
    return files


def _shuffled(rows: list[Any], rng: random.Random) -> list[Any]:
    rng.shuffle(rows)
    return rows


def _up_to(budget: float, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield rows until their JSON fills the budget in bytes."""
    for row in rows:
        if budget <= 0:
            return
        yield row
        budget -= len(row["text"].encode()) + len('{"text": ""}\n')


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Write one JSON object a line, with the same bytes on every system."""
    count = size = 0
    with path.open("wb") as file:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
            file.write(line)
            count, size = count + 1, size + len(line)
    return {"rows": count, "bytes": size}
