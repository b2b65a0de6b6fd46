"""How long the whole demo will still take: said under every progress bar."""

from collections.abc import Mapping, Sequence
from typing import Any

from minimind.console import Bar, duration

SHARES = {
    "pretrain": 1.0,
    "sft": 0.46,
    "distill": 0.26,
    "lora": 0.42,
    "dpo": 0.50,
    "grpo": 0.56,
    "agent": 0.85,
}
"""Time that each stage trains, in units of pretraining's: of whole runs on two cores. Other machines come near."""


class Outlook:
    """What is still to do after the bar that is on the screen."""

    def __init__(self, stages: Sequence[str], seeds: int, results: Mapping[str, Mapping[str, Any]]) -> None:
        """`stages` in order; `results` grows as they are finished: `seconds` of training, `asking` of evaluation."""
        self.stages, self.seeds, self.results = stages, seeds, results
        self.stage, self.asking = "", False

    def enter(self, stage: str, asking: bool = False) -> None:
        """Say that `stage` is trained now, or that its model is asked questions."""
        self.stage, self.asking = stage, asking

    def line(self, bar: Bar) -> str:
        """The sentence; empty until pretraining has told how fast this machine is."""
        left = bar.seconds_left()
        if self.stage == "pretrain" and not self.asking:
            whole = left / bar.part_left if left and bar.part_left else None
        else:
            whole = self.results["pretrain"]["seconds"] if "pretrain" in self.results else None
        if left is None or whole is None:
            return ""
        return f"the whole demo: about {duration(60 * max(1, round((left + self._later(whole)) / 60)))} left"

    def _later(self, whole: float) -> float:
        """Seconds of all that comes after this bar, where pretraining takes `whole`."""
        following = self.stages[self.stages.index(self.stage) + 1 :]
        measured = [result["asking"] for result in self.results.values()]
        runs = sum(self.seeds * SHARES[stage] for stage in following)
        questions = len(following) * self.seeds + (not self.asking)
        return whole * runs + questions * (measured[-1] if measured else 0.0)
