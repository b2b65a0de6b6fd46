"""Did it help? Arms that differ in a few fields of a recipe, with paired seeds, until the answer is clear.

    python benchmarks/ablation.py --data pretrain.jsonl --valid pretrain_valid.jsonl --arms \\
        "as it is" "AdamW: optim.matrices=adamw optim.lr=1e-3" "another seed: train.seed=+1000"

Runs with one seed begin with the same weights and read the same batches, in whichever arm: what differs between them is
the change and nothing else. Each arm is compared with the first by the differences of its pairs: their mean, a 95 %
interval and the p-value of the paired t-test. `another seed` changes nothing but chance; an arm like it shows how
often this procedure calls nothing something.

Looking at the results after every seed and stopping when they please would find effects that are not there; so a look
costs. The k-th may be wrong with a probability of a = `alpha` / (k (k + 1)); however many seeds are added, these
add up to `alpha` at most. An arm is decided when p < a, or when the whole interval of confidence 1 - a lies within
`smallest` of 0.

An arm that is slower or faster than the first is also compared at equal time: the first is then trained on as many more
or fewer tokens. Each run is a line of `runs.jsonl` in --out; what is there is not run again, so that a study goes on
where it was stopped, takes more seeds, or another arm. Arms of earlier calls stay in the table: what did not help was
tried, too. The last line is the result as JSON.
"""

import json
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import tyro
from scipy import stats
from training import Corpus, Log, train_ours

from minimind import runtime
from minimind.console import print_json, say, table
from minimind.files import sha256_of
from minimind.recipe import Recipe, find, load, parse_value

SAME_TIME = 0.02
"""Share of the time by which the first pairs must all differ, in one direction, or it is taken for noise."""
FIRST_LOOK = 3
"""Seeds of an arm before anybody looks: of two pairs the interval is far too wide to say anything."""


class Arm(NamedTuple):
    name: str
    changes: dict[str, Any]
    """Fields of the recipe, with values as `--set` takes them."""

    @classmethod
    def read(cls, text: str) -> "Arm":
        """`NAME` or `NAME: FIELD=VALUE FIELD=VALUE`."""
        name, _, changes = text.partition(":")
        fields = (change.partition("=") for change in changes.split())
        return cls(name.strip(), {field: parse_value(value) for field, _, value in fields})

    def seeded(self, seed: int) -> dict[str, Any]:
        """The changes of a run; `train.seed=+N` is N behind the seed of its pair."""
        return self.changes | {"train.seed": seed + int(self.changes.get("train.seed", 0))}


class Difference(NamedTuple):
    """Of an arm from the first one, in bits per byte; below 0 it is better."""

    mean: float
    error: float
    """Standard error of the mean; infinite where nothing is known: of a single pair."""
    pairs: int

    @classmethod
    def of(cls, first: Sequence[float], other: Sequence[float]) -> "Difference":
        """The differences of pairs, taken as a sample of a normal distribution."""
        pairs = [b - a for a, b in zip(first, other, strict=True)]
        if not all(map(math.isfinite, pairs)):
            return cls(math.nan, math.nan, len(pairs))
        error = statistics.stdev(pairs) / math.sqrt(len(pairs)) if len(pairs) > 1 else math.inf
        return cls(statistics.fmean(pairs), error, len(pairs))

    @property
    def p(self) -> float:
        """Of Student's t with n - 1 degrees."""
        if self.error == 0:
            return float(self.mean == 0)
        return float(2 * stats.t.sf(abs(self.mean / self.error), max(1, self.pairs - 1)))

    def interval(self, wrong: float = 0.05) -> tuple[float, float]:
        """Both ends of an interval that the truth lies outside of with that probability."""
        reach = self.error * float(stats.t.ppf(1 - wrong / 2, max(1, self.pairs - 1)))
        return self.mean - reach, self.mean + reach

    def verdict(self, alpha: float, smallest: float) -> str:
        """`better`, `worse`, `no difference` (that would matter), `diverged`, or nothing yet."""
        if math.isnan(self.mean):
            return "diverged"
        look = self.pairs - FIRST_LOOK + 1
        if look < 1:
            return ""
        wrong = alpha / (look * (look + 1))
        if self.p < wrong:
            return "better" if self.mean < 0 else "worse"
        low, high = self.interval(wrong)
        return "no difference" if -smallest < low and high < smallest else ""


def main(
    data: Path,
    valid: Path,
    arms: tuple[str, ...],
    out: Path = Path("runs/ablation"),
    preset: str = "tiny",
    tokens: float = 2e6,
    tokens_per_step: int = 4096,
    seeds: int = 5,
    alpha: float = 0.01,
    smallest: float = 0.005,
    budget_minutes: float = 60,
) -> None:
    """Run what is not there yet, as far as the answer is open, and print the table.

    Args:
        data: training text.
        valid: held-out text.
        arms: `NAME` or `NAME: FIELD=VALUE ...` each; the first is what the others are compared with.
        out: folder of the runs.
        preset: the model.
        tokens: that each run trains on.
        tokens_per_step: of an optimizer step, for arms that do not say otherwise.
        seeds: pairs of each arm, at most.
        alpha: probability of calling something better or worse that is neither, for each line of the table.
        smallest: difference in bits per byte that would matter.
        budget_minutes: no run is begun that would end later.
    """
    if len(arms) < 2:
        raise SystemExit("ablation: name two arms or more; the others are compared with the first")
    first, *others = [Arm.read(text) for text in arms]
    step = {"train.tokens_per_step": tokens_per_step, "train.micro_batch_tokens": tokens_per_step}
    for arm in (first, *others):  # or a mistyped field would be found after hours
        load(Recipe, find(preset, "pretrain"), step | arm.seeded(0))
    corpus, log = Corpus.read(data, valid, context=512), Log(out, budget_minutes)
    text = [corpus.shards.key, sha256_of(valid), str(runtime.device("auto"))]
    unchanged = asdict(load(Recipe, find(preset, "pretrain"), step))
    study = sha256(json.dumps([unchanged, tokens, text]).encode()).hexdigest()
    earlier: list[Arm] = []
    for one in log.runs().values():
        if one.get("study") == study and (arm := Arm(*one["arm"])) not in (first, *others, *earlier):
            earlier.append(arm)

    def run(arm: Arm, seed: int, amount: float = tokens, new: bool = True) -> dict[str, Any] | None:
        given = step | arm.seeded(seed)
        # The run is named after all that decides the result: an arm, recipe or corpus of the same name may change.
        recipe = asdict(load(Recipe, find(preset, "pretrain"), given))
        what = sha256(json.dumps([recipe, amount, text]).encode()).hexdigest()[:8]
        name = "-".join([*re.findall(r"[\w.]+", arm.name), f"seed{seed}", what])
        if not new and name not in log.runs():
            return None
        make = partial(train_ours, preset, corpus, amount, given, name)
        return log.run(arm.name, name, amount, make, arm=arm, study=study)

    def paired(arm: Arm) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The first arm's runs and the arm's, until it is decided or no time is left; no new ones of an earlier arm."""
        pairs: list[tuple[dict[str, Any], dict[str, Any]]] = []
        for seed in range(seeds):
            mine, its = (run(one, seed, new=arm in others) for one in (first, arm))
            if mine is None or its is None:
                break
            pairs.append((mine, its))
            found = Difference.of(*([one["bpb"] for one in side] for side in zip(*pairs, strict=True)))
            if found.verdict(alpha, smallest):
                break
        return [mine for mine, _ in pairs], [its for _, its in pairs]

    rows = []
    for arm in (*others, *earlier):
        mine, its = paired(arm)
        if not its:
            continue
        # of the pairs that are there first: with more of them the others would have to run anew
        ratios = [pace(other) / pace(one) for one, other in zip(mine[:FIRST_LOOK], its[:FIRST_LOOK], strict=True)]
        longer = statistics.median(ratios)
        rows.append(row(arm.name, "tokens", mine, its, longer, alpha, smallest))
        slower, faster = min(ratios) > 1 + SAME_TIME, max(ratios) < 1 - SAME_TIME
        if len(ratios) == FIRST_LOOK and (slower or faster):  # of fewer, the machine may have been busy
            amount = tokens * round(longer, 2)
            same_time = [run(first, seed, amount, new=arm in others) for seed in range(len(its))]
            timed = [(one, other) for one, other in zip(same_time, its, strict=True) if one]
            if timed:
                side = [one for one, _ in timed], [other for _, other in timed]
                rows.append(row(arm.name, "time", *side, longer, alpha, smallest))
    if not any(one["arm"] in (arm.name for arm in others) for one in rows):
        return say("no pair of runs is there yet; run again with more --budget-minutes")
    shown = [
        (
            one["arm"],
            one["equal"],
            one["pairs"],
            f"{one['first']:.4f}",
            f"{one['bpb']:.4f}",
            f"{one['difference']:+.4f}",
            "–" if one["low"] is None else f"{one['low']:+.4f} … {one['high']:+.4f}",
            f"{one['p']:.2g}",
            f"{one['time']:.2f}",
            one["verdict"] or "open",
        )
        for one in rows
    ]
    columns = ("arm", "equal", "pairs", first.name, "bpb", "difference", "95 % interval", "p", "time", "verdict")
    table(f"bits per byte after {tokens / 1e6:g} M tokens", columns, shown)
    (out / "ablation.svg").write_text(forest(rows), encoding="utf-8")
    print_json({"first": first.name, "alpha": alpha, "rows": rows})


def pace(run: dict[str, Any]) -> float:
    """Seconds a token, without the first step, which is compiled, where there are others."""
    if run["steps"] == 1:
        return float(run["seconds"] / run["tokens"])
    return float((run["seconds"] - run["first_step_seconds"]) / (run["tokens"] * (1 - 1 / run["steps"])))


def row(
    name: str,
    equal: str,
    first: Sequence[dict[str, Any]],
    other: Sequence[dict[str, Any]],
    longer: float,
    alpha: float,
    smallest: float,
) -> dict[str, Any]:
    """One comparison in figures."""
    mine, its = [one["bpb"] for one in first], [one["bpb"] for one in other]
    found = Difference.of(mine, its)
    low, high = found.interval()
    known = math.isfinite(low)
    return {
        "arm": name,
        "equal": equal,
        "pairs": len(its),
        "first": statistics.fmean(mine),
        "bpb": statistics.fmean(its),
        "difference": found.mean,
        "low": low if known else None,
        "high": high if known else None,
        "p": found.p,
        "time": longer,
        "verdict": found.verdict(alpha, smallest),
    }


def forest(rows: Sequence[dict[str, Any]], width: int = 640, left: int = 220) -> str:
    """Each difference as a point with its interval, beside the line where there is none."""
    known = [one for one in rows if one["low"] is not None]
    most = max([abs(one[end]) for one in known for end in ("low", "high")] + [1e-9])

    def x(value: float) -> float:
        return left + (width - left - 20) * (1 + value / most) / 2

    parts = [f'<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="8" y2="{24 * len(rows) + 12}" stroke="#888"/>']
    for number, one in enumerate(rows):
        y = 24 * number + 22
        parts.append(f'<text x="8" y="{y + 4}">{escape(one["arm"])}, equal {one["equal"]}</text>')
        if one in known:
            parts.append(
                f'<line x1="{x(one["low"]):.1f}" x2="{x(one["high"]):.1f}" y1="{y}" y2="{y}" stroke="#0072b2"/>'
            )
            parts.append(f'<circle cx="{x(one["difference"]):.1f}" cy="{y}" r="4" fill="#0072b2"/>')
    height = 24 * len(rows) + 36
    for value in (-most, 0, most):
        place = "start" if value < 0 else "end" if value > 0 else "middle"
        parts.append(f'<text x="{x(value):.1f}" y="{height - 8}" text-anchor="{place}">{value:+.3f} bpb</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">'
    return f"{head}<style>svg {{ background: #fff; font: 12px sans-serif }}</style>{''.join(parts)}</svg>\n"


if __name__ == "__main__":
    tyro.cli(main)
