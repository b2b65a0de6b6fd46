"""Rollouts kept on the disk, one JSON-lines file each: to see what was practised (`minimind inspect`), to judge it by
other rewards (`minimind eval rewards`), and to learn from it again (`minimind/rl/replay.py`).

A line is a sample: `rollout`, `group`, `prompt` (messages), `tools`, `gt`, `thinking`, `prompt_ids`, what was said
after it (`ids`, and of each `mask`: chosen by the policy, `log_probs` of the engine, `versions` of its weights),
`status`, `message` (the last turn), `turns`, `calls` and `return` of an episode, `rewards` by name, `reward`; and for
each id what the trainer made of it: its log-probability `old` (null where it was not computed: each rollout makes a
single step) and its `advantages` (null where the sample was not learned from).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from minimind import files, ranks, runtime
from minimind.data.prompts import Prompt
from minimind.engine.dialogue import Call
from minimind.errors import UserError
from minimind.rl.batch import Packed
from minimind.rl.rollout import Sample
from minimind.text import read_json, write_json

T = TypeVar("T")

MAX_BYTES = 256 * 2**20
"""Of all files. When they are more, every second one is deleted: what is left is dense at the end, and thinner the
further it goes back, but reaches to the beginning."""


def write(folder: Path, number: int, samples: Sequence[Sample], packs: Sequence[Packed]) -> None:
    """Keep rollout `number`: all ranks' samples, with what `packs` say of those that are learned from.

    Later ones in the folder are of a run that went another way, and deleted.

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
            for later in (other for other in numbers(folder) if other > number):
                (folder / f"rollout-{later:06d}.jsonl").unlink()
            _thin_out(folder)

    ranks.on_all_ranks(keep if runtime.is_main() else lambda: None)


def numbers(folder: Path) -> list[int]:
    """The rollouts that are kept there, in order."""
    found = (re.fullmatch(r"rollout-(\d+)\.jsonl", file.name) for file in folder.glob("rollout-*.jsonl"))
    return sorted(int(match[1]) for match in found if match)


def read(folder: Path, number: int, each: Callable[[dict[str, Any]], T]) -> list[T]:
    """What `each` makes of the samples of rollout `number`, in their order.

    Raises:
        UserError: it was not kept, or its file is damaged.
    """
    file, found = folder / f"rollout-{number:06d}.jsonl", []
    if not file.is_file():
        raise UserError(f"{folder}: rollout {number} was not kept; there are {_some(numbers(folder))}")
    # no splitlines: what was said may hold characters that it takes for the end of a line, such as U+2028
    for place, line in enumerate(files.read_text(file).removesuffix("\n").split("\n"), 1):
        try:
            found.append(each(read_json(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}: line {place} is not a sample ({error}); train again with rl.dump") from None
    return found


def sample(row: dict[str, Any]) -> Sample:
    """A line as the sample that it was, judged."""
    prompt = Prompt(row["prompt"], row["tools"], row["gt"], row["thinking"])
    info: dict[str, Any] = {name: row[name] for name in ("turns", "return") if name in row}
    if "calls" in row:
        info["calls"] = [Call(**call) for call in row["calls"]]
    same = ("prompt_ids", "group", "thinking", "ids", "log_probs", "versions", "status", "message", "rewards", "reward")
    return Sample(prompt, trainable=row["mask"], info=info, **{name: row[name] for name in same})


def _some(kept: list[int]) -> str:
    return f"{len(kept)} from {kept[0]} to {kept[-1]}" if kept else "none"


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
        **_episode(sample),
        "rewards": sample.rewards,
        "reward": sample.reward,
        "old": nothing if old is None else old,
        "advantages": nothing if advantages is None else advantages,
    }


def _episode(sample: Sample) -> dict[str, Any]:
    if "turns" not in sample.info:
        return {}
    return sample.info | {"calls": [asdict(call) for call in sample.info["calls"]]}


def _thin_out(folder: Path) -> None:
    kept = [folder / f"rollout-{number:06d}.jsonl" for number in numbers(folder)]
    if sum(file.stat().st_size for file in kept) > MAX_BYTES:
        for file in kept[1:-1:2]:
            file.unlink()
