"""`minimind demo`: the whole pipeline on the embedded small world, ending in a report and a chat."""

import re
from pathlib import Path
from typing import Any

from minimind import console
from minimind.commands.arguments import Device, call
from minimind.commands.pipeline import STAGES, Pipeline, write_json
from minimind.errors import UsageError, did_you_mean

SHOWN = ("facts_en", "facts_zh", "arithmetic")


def main(argv: list[str]) -> int:
    """Run the demo."""
    return call(demo, argv, "minimind demo")


def demo(
    out: str = "runs/demo",
    quick: bool = False,
    fresh: bool = False,
    device: Device = "auto",
    seeds: int = 1,
    until: str = STAGES[-1],
) -> None:
    """Make a bilingual assistant from nothing: data, tokenizer, every stage of training, evaluation, report.

    It takes 17 to 28 minutes on two CPU cores with AVX-512 and nothing else running, and can chat after 7 to 10; on two
    cores that have only AVX2, 24 and 10. With --quick it takes 20 to 90 seconds, and its scores mean nothing. What is
    finished is kept: run it again to continue or to see the results.

    Examples:
        minimind demo
        minimind demo --quick --out runs/quick
        minimind demo --until sft
        minimind demo --seeds 3

    Args:
        out: folder of everything that is made.
        quick: shrink everything, to see that it runs.
        fresh: delete OUT's demo and start over.
        seeds: train every stage after pretraining so many times, and show between which scores the runs lie.
        until: last stage to run: random, pretrain, sft, distill, lora, dpo, grpo or agent. Without it, a later demo
            goes on from there.
    """
    from minimind import runtime
    from minimind.report.html import write_report

    if runtime.world_size() > 1:
        raise UsageError("minimind demo is one process; torchrun is for minimind train")
    if seeds < 1:
        raise UsageError(f"--seeds {seeds}: every stage is trained at least once")
    if until not in STAGES:
        raise UsageError(f"--until {until}: no such stage{did_you_mean(until, STAGES)}")
    runtime.device(device)  # a wrong name is said now, not after the data
    folder = Path(out)
    pipeline = Pipeline(folder, quick, device, seeds, until)
    pipeline.begin(fresh)
    console.say("MiniMind demo in ", console.bold(folder), " (quick: its scores mean nothing)" if quick else "")
    pipeline.data()
    results = pipeline.run(pipeline.tokenizer())
    report = {
        "stages": {stage: {k: v for k, v in result.items() if k != "answers"} for stage, result in results.items()},
        "model": results[until]["model"],
        "parameters": results[until]["parameters"],
        "quick": quick,
    }
    write_json(folder / "report.json", report)
    samples = _samples(results)
    notes = [
        f"The small figures say between which scores the runs of a stage with {seeds} seeds lie.",
        f"小字是同一阶段用 {seeds} 个随机种子训练所得分数的范围。",
    ]
    runs = {stage: folder / stage for stage in results}
    page = write_report(folder, report, runs, samples, notes if seeds > 1 else ())

    _show(results, samples)
    console.say(f"\nReport:      {page}\nTalk to it:  ", console.bold(pipeline.talk(until)))
    served = console.bold(f"minimind serve {report['model']}")
    console.say("In a page:   ", served, ", then open http://127.0.0.1:8000/")
    inspected = console.bold(f"minimind inspect {folder}")
    console.say("Look inside: ", inspected, ", then open http://127.0.0.1:8001/inspect")


def _samples(results: dict[str, dict[str, Any]], count: int = 5) -> list[dict[str, Any]]:
    """The same held-out questions, answered by each stage's model."""
    samples = []
    for index in range(count):
        ability = SHOWN[index % len(SHOWN)]
        answers = {stage: result["answers"][ability][index // len(SHOWN)] for stage, result in results.items()}
        first = answers["random"]
        samples.append(
            {
                "question": first["question"],
                "expected": first["expected"],
                "answers": {stage: answer["answer"] for stage, answer in answers.items()},
            }
        )
    return samples


def _show(results: dict[str, dict[str, Any]], samples: list[dict[str, Any]]) -> None:
    rows: list[tuple[object, ...]] = [
        ("seconds", *(f"{result['seconds']:.0f}" for result in results.values())),
        ("M tokens", *(f"{result['tokens'] / 1e6:.1f}" for result in results.values())),
        ("bits per byte", *(f"{result['bpb']:.3f}" for result in results.values())),
    ]
    last = list(results)[-1]
    for ability in results[last]["scores"]:
        rows.append((ability, *(f"{result['scores'][ability]:.0%}" for result in results.values())))
    console.table("Held-out scores", ("", *results), rows)
    for sample in samples:
        answer = re.sub(r"\n{3,}", "\n\n", sample["answers"][last])  # of which a model that learned little says many
        print(f"\n> {sample['question']}\n{answer.strip()[:200]}")
