"""Rollouts kept on the disk, one JSON-lines file each, to see what was practised (`minimind inspect`).

A line is a sample: `rollout`, `group`, `prompt` (messages), `tools`, `gt`, `thinking`, `prompt_ids`, what was said
after it (`ids`, and of each `mask`: chosen by the policy, `log_probs` of the engine, `versions` of its weights),
`status`, `message` (the last turn), `rewards` by name, `reward`; and for each id what the trainer made of it: its
log-probability `old` (null where it was not computed: each rollout makes a single step) and its `advantages` (null
where the sample was not learned from).
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minimind import files, ranks, runtime
from minimind.rl.batch import Packed
from minimind.rl.rollout import Sample
from minimind.text import write_json

MAX_BYTES = 256 * 2**20
"""Of all files. When they are more, every second one is deleted: what is left is dense at the end, and thinner the
further it goes back, but reaches to the beginning."""


def write(folder: Path, number: int, samples: Sequence[Sample], packs: Sequence[Packed]) -> None:
    """Keep rollout `number`: all ranks' samples, with what `packs` say of those that are learned from.

    Raises:
        UserError: the folder cannot be written.
    """
    learned: dict[Sample, tuple[list[float], list[float] | None]] = {}
    for packed in packs:
        batch = packed.batch
        old = packed.gather(batch.old_log_probs) if batch.old_log_probs.any() else None
        for nth, (sample, advantages) in enumerate(zip(packed.samples, packed.gather(batch.advantages), strict=True)):
            learned[sample] = advantages.tolist(), None if old is None else old[nth].tolist()
    lines = [_line(number, sample, *learned.get(sample, (None, None))) for sample in samples]
    everybodys = [line for some in ranks.all_gather(lines) for line in some]

    def keep() -> None:
        text = "".join(write_json(line, separators=(",", ":")) + "\n" for line in everybodys)
        with files.writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
            files.write_text(folder / f"rollout-{number:06d}.jsonl", text)
            _thin_out(folder)

    ranks.on_all_ranks(keep if runtime.is_main() else lambda: None)


def numbers(folder: Path) -> list[int]:
    """The rollouts that are kept there, in order."""
    found = (re.fullmatch(r"rollout-(\d+)\.jsonl", file.name) for file in folder.glob("rollout-*.jsonl"))
    return sorted(int(match[1]) for match in found if match)


def _line(number: int, sample: Sample, advantages: Any, old: Any) -> dict[str, Any]:
    nothing = [None] * len(sample.ids)
    return {
        "rollout": number,
        "group": sample.group,
        "prompt": sample.prompt.messages,
        "tools": sample.prompt.tools,
        "gt": sample.prompt.gt,
        "thinking": sample.thinking,
        "prompt_ids": list(sample.prompt_ids),
        "ids": sample.ids,
        "mask": sample.trainable,
        "log_probs": sample.log_probs,
        "versions": sample.versions,
        "status": sample.status,
        "message": sample.message,
        "rewards": sample.rewards,
        "reward": sample.reward,
        "old": nothing if old is None else old,
        "advantages": nothing if advantages is None else advantages,
    }


def _thin_out(folder: Path) -> None:
    kept = [folder / f"rollout-{number:06d}.jsonl" for number in numbers(folder)]
    if sum(file.stat().st_size for file in kept) > MAX_BYTES:
        for file in kept[1:-1:2]:
            file.unlink()
