"""Multiple choice: questions a second of `minimind eval choice` against lm-eval's `hf` model, in one run.

    python benchmarks/eval_choice.py runs/laptop/model --data questions --limit 20

Both sides begin with the same questions as text and end with one log-likelihood a choice; loading is not counted.
lm-eval runs as it comes (one text a batch) and set up better (several). `--compile` is what our command does by
itself for thousands of questions; compiling is not counted either.
"""

import argparse
import json
import time
from collections.abc import Callable

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from minimind import runtime
from minimind.api import load
from minimind.eval.choice import log_likelihoods, plant
from minimind.eval.tasks import TASKS, Question, read_questions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--data", help="folder of JSON Lines files; without it, the hub")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--limit", type=int, default=20, help="questions of each task")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16], help="batch sizes of lm-eval")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    options = parser.parse_args()
    questions = read_questions(options.tasks.split(","), options.data, options.limit)
    lm = load(options.model, "cpu")
    if options.compile:
        lm.model.compile_blocks(dynamic=True)
    print(f"{torch.get_num_threads()} threads, bfloat16 fast here: {runtime.compute_dtype(torch.device('cpu'))}")
    figures = {}
    for dtype in options.dtypes:
        lm.model.to(getattr(torch, dtype))
        figures[f"ours {dtype}"], answers = speeds(questions, ours_of(lm))
        for batch in options.batches:
            theirs = theirs_of(HFLM(pretrained=options.model, dtype=dtype, device="cpu", batch_size=batch))
            figures[f"hf {dtype} batch {batch}"], references = speeds(questions, theirs)
            apart = max(abs(a - b) for a, b in zip(answers, references, strict=True))
            print(f"{dtype}, batch {batch}: log-likelihoods differ by at most {apart:.1e} nats")
    for name, of_one in figures.items():
        print(f"{name:22}", "  ".join(f"{task} {speed:.1f}/s" for task, speed in of_one.items()))
    for dtype in options.dtypes:
        for batch in options.batches:
            ratio = figures[f"ours {dtype}"]["all"] / figures[f"hf {dtype} batch {batch}"]["all"]
            print(f"{dtype}: {ratio:.1f} times hf with batch {batch}")
    print(json.dumps(figures))


def ours_of(lm) -> Callable[[list[Question]], list[float]]:
    def score(asked: list[Question]) -> list[float]:
        trees = [plant(question, lm.tokenizer) for question in asked]
        return [s.logprob for of_one in log_likelihoods(lm.model, trees) for s in of_one]

    return score


def theirs_of(model: HFLM) -> Callable[[list[Question]], list[float]]:
    def score(asked: list[Question]) -> list[float]:
        pairs = [(question.prompt, " " + choice) for question in asked for choice in question.choices]
        requests = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
        return [logprob for logprob, _ in model.loglikelihood(requests, disable_tqdm=True)]

    return score


def speeds(
    questions: dict[str, list[Question]], score: Callable[[list[Question]], list[float]]
) -> tuple[dict[str, float], list[float]]:
    """Questions a second of each task and over all, and the log-likelihoods."""
    for asked in questions.values():
        score(asked[:2])  # first calls allocate, choose kernels and compile
    figures, answers, total = {}, [], 0.0
    for name, asked in questions.items():
        start = time.perf_counter()
        answers += score(asked)
        seconds = time.perf_counter() - start
        figures[name], total = len(asked) / seconds, total + seconds
    return figures | {"all": sum(map(len, questions.values())) / total}, answers


if __name__ == "__main__":
    main()
