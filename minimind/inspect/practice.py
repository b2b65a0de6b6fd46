"""Practice: what happened in the rollouts of reinforcement learning, from the files that `rl.dump` leaves."""

import math
import re
import tomllib
from collections.abc import Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from minimind.errors import UserError
from minimind.files import read_text
from minimind.inspect.prompts import shown
from minimind.losses.policy import ALGORITHMS
from minimind.rl import dump
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.parse import parse

_RESPONSE = re.compile(r"<tool_response>\n?(.*?)\n?</tool_response>", re.DOTALL)


def rollouts(run: Path) -> list[int]:
    """Numbers of the rollouts that a run has kept."""
    folder = _folder(run)
    return dump.numbers(folder) if folder else []


def weights(run: Path) -> dict[str, float]:
    """The rewards of a run and what each counts."""
    given = _recipe(run).get("scoring", {}).get("weights", {})
    return {str(name): float(weight) for name, weight in given.items()}


def divides(run: Path) -> bool:
    """Whether a run divides its advantages by the spread of their group (Dr. GRPO does not)."""
    rl = _recipe(run).get("rl", {})
    said = rl.get("divide_by_sigma", "auto")
    return ALGORITHMS[rl.get("algorithm", "cispo")].divide_by_sigma if said == "auto" else said == "yes"


def read_rollout(run: Path, number: int, tokenizer: Tokenizer) -> dict[str, Any]:
    """One rollout: its groups, in each of them the prompt, and the samples as they were said, judged and learned from.

    Raises:
        UserError: it was not kept, or its file is broken.
    """
    groups: dict[int, dict[str, Any]] = {}

    def take(row: dict[str, Any]) -> None:
        about = {"group": row["group"], "prompt": row["prompt"], "gt": row["gt"], "samples": []}
        groups.setdefault(row["group"], about)["samples"].append(_sample(row, tokenizer))

    dump.read(_folder(run) or run, number, take)
    return {"rollout": number, "groups": list(groups.values())}


def _sample(row: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    columns = zip(row["ids"], row["mask"], row["log_probs"], row["old"], row["advantages"], strict=True)
    tokens = [
        {
            "id": id,
            "text": shown(tokenizer, id),
            "mask": chosen,
            "log_prob": said if chosen else None,
            "old": old if chosen else None,
            "ratio": math.exp(old - said) if chosen and old is not None else None,
            "advantage": advantage if chosen else None,
        }
        for id, chosen, said, old, advantage in columns
    ]
    learned = [token["advantage"] for token in tokens if token["advantage"] is not None]
    return {
        "reward": row["reward"],
        "components": row["rewards"],
        "advantage": sum(learned) / len(learned) if learned else None,
        "status": row["status"],
        "completion": tokenizer.decode(row["ids"]),
        "messages": _messages(row, tokenizer),
        "tokens": tokens,
    }


def _messages(row: Mapping[str, Any], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The turns of an episode: what the policy said, and what it read between."""
    found: list[dict[str, Any]] = []
    for chosen, turn in groupby(zip(row["ids"], row["mask"], strict=True), key=itemgetter(1)):
        ids = [id for id, _ in turn]
        if chosen:
            found.append(parse(ids, tokenizer, row["thinking"]))
        else:
            text = tokenizer.decode(ids)
            found += [{"role": "tool", "content": said} for said in _RESPONSE.findall(text) or [text]]
    return found


def _folder(run: Path) -> Path | None:
    """The folder of the dumps: where the recipe put it, or below the run, which may have been moved since."""
    given = _recipe(run).get("rl", {}).get("dump", "")
    places = [Path(given), run / Path(given).name] if given else []
    return next((place for place in places if place.is_dir()), None)


def _recipe(run: Path) -> dict[str, Any]:
    file = run / "recipe.toml"
    try:
        return tomllib.loads(read_text(file)) if file.is_file() else {}
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{file} is not readable TOML ({error})") from None
