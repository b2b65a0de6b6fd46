"""A game to learn: Nim against an opponent who plays at random. Nobody shows the model how to win.

python examples/nim.py runs/demo/sft/model

Sticks lie on the table; each player takes one, two or three, and who takes the last one wins. First the model reads
games of two random players, so that it knows the rules; then it plays, and learns from who won.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

from minimind.recipe import Recipe, find, load
from minimind.report.figure import save
from minimind.report.plots import Series
from minimind.stages import agent, sft
from minimind.train.metrics import read

RULES = "Nim: take 1, 2 or 3. Who takes the last one wins."


class Nim:
    """In the form of gymnasium's environments; the policy moves first."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Lay out 4 to 9 sticks."""
        self.dice = random.Random(seed)
        self.left = self.dice.randint(4, 9)
        return f"{self.left} sticks.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take the policy's sticks, then the opponent's. A move that the rules do not have loses."""
        if action not in ("1", "2", "3") or int(action) > self.left:
            return "That is no move.", -1.0, True, False, {}
        self.left -= int(action)
        if self.left == 0:
            return "You win.", 1.0, True, False, {}
        taken = self.dice.randint(1, min(3, self.left))
        self.left -= taken
        if self.left == 0:
            return f"I take {taken} and win.", -1.0, True, False, {}
        return f"I take {taken}. {self.left} sticks.", 0.0, False, False, {}


def game(seed: int) -> list[dict[str, str]]:
    """One game of two random players, as a conversation."""
    nim, dice = Nim(), random.Random(f"moves {seed}")
    said, _ = nim.reset(seed=seed)
    turns, over = [{"role": "user", "content": f"{RULES}\n{said}"}], False
    while not over:
        move = str(dice.randint(1, min(3, nim.left)))
        said, _, over, _, _ = nim.step(move)
        turns += [{"role": "assistant", "content": move}] + [{"role": "user", "content": said}] * (not over)
    return turns


def main(model: str, steps: int = 60, games: int = 600, out: Path = Path("runs/nim")) -> None:
    """Read games, play games, and print and draw how often the games of a rollout were won."""
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in (
        ("games", [{"conversations": game(seed)} for seed in range(games)]),
        ("table", [{"messages": [{"role": "user", "content": RULES}]}]),
    ):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (out / f"{name}.jsonl").write_text(text, encoding="utf-8")

    changes: dict[str, Any] = {"init": model, "data.files": [str(out / "games.jsonl")], "train.valid_every": 0}
    changes |= {"train.max_steps": max(1, steps // 2), "train.tokens_per_step": 4096, "data.sequence_length": 512}
    knows_the_rules = sft.run(load(Recipe, find("tiny/sft", "sft"), changes), out / "sft")

    changes = {"init": str(knows_the_rules), "data.files": [str(out / "table.jsonl")], "train.max_steps": steps}
    changes |= {"agent.environment": f"{__file__}:Nim", "agent.max_turns": 8, "scoring.weights": {"returned": 1.0}}
    changes |= {"rl.filter_groups": "keep", "rl.filter_metric": "returned", "rl.max_new_tokens": 256}
    changes |= {
        "optim.matrices": "muon",
        "optim.lr": 1e-3,
        "rl.kl_coef": 0.0,
        "rl.entropy_coef": 0.01,
        "data.sequence_length": 512,
    }
    changes |= {"train.log_every": 1, "train.valid_every": 0}
    agent.run(load(Recipe, find("tiny/agent", "agent"), changes), out / "agent")
    lines = read(out / "agent" / "metrics.jsonl")
    won = [(line["step"], (1 + line["reward"]) / 2) for line in lines if "reward" in line]
    for step, share in won:
        print(f"step {step:3}   won {share:4.0%}")
    save(out / "won.svg", [Series("won", won)], "step", "share of games", zero=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
