r"""A reward of your own for reinforcement learning: here, the shorter an answer the better.

python examples/custom_reward.py runs/demo/sft/model
minimind train grpo tiny --init MODEL --data FILE --set.scoring.file examples/custom_reward.py \
    --set.scoring.weights '{ brief = 1.0 }'
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from minimind.recipe import Recipe, find, load
from minimind.rl.rewards import reward
from minimind.rl.rollout import Sample
from minimind.stages import grpo
from minimind.train.metrics import read

QUESTIONS = ("Who are you?", "Tell me a story.", "What is rain?", "你是谁？", "讲个故事。", "什么是雨？")


@reward
def brief(samples: Sequence[Sample]) -> list[float | None]:
    """1 for no words, 0 for 100 characters, -1 for an answer that never ends; None would mean: cannot say."""
    return [1 - len(s.answer) / 100 if s.status == "completed" else -1.0 for s in samples]


def main(model: str, steps: int = 20, out: Path = Path("runs/brief")) -> None:
    """Ask the questions again and again: what earns more than the other answers to a question becomes likelier."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "prompts.jsonl").open("w", encoding="utf-8") as prompts:
        for question in QUESTIONS:
            prompts.write(json.dumps({"messages": [{"role": "user", "content": question}]}) + "\n")

    changes = {"init": model, "data.files": [str(out / "prompts.jsonl")], "scoring.weights": {"brief": 1.0}}
    changes |= {"rl.groups": 4, "train.max_steps": steps, "train.log_every": 2, "train.valid_every": 0}
    grpo.run(load(Recipe, find("tiny", "grpo"), changes), out)
    for line in read(out / "metrics.jsonl"):
        if "reward" in line:
            print(f"step {line['step']:3}   mean reward {line['reward']:.3f}")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
