"""Answers a second for reinforcement learning, beside transformers, which answers all prompts as one padded batch."""

from pathlib import Path

from benchmarks.gpu.work import Tell, Work, timed
from minimind import runtime
from minimind.bench import rollout
from minimind.bench.rivals import sampler
from minimind.model.store import load_config


def rollouts(work: Work, tell: Tell) -> None:
    """Both twice; the second time counts."""
    sizes, on = work.sizes, work.on
    directory, dtype = work.directory(sizes.dense), str(runtime.compute_dtype(on)).removeprefix("torch.")
    asked = rollout.Work(directory, dtype, sizes.groups, sizes.samples, sizes.prompt, sizes.new, work.device)
    prompts, lengths = asked.prompts(load_config(directory).vocab_size), asked.lengths()
    engines = {
        "minimind": lambda: rollout.ours(asked),
        "transformers": lambda: sampler(Path(directory), dtype, on, at_once=True),
    }
    for name, make in engines.items():
        run = make()
        first, second = (timed(lambda run=run: run(prompts, lengths), on) for _ in range(2))
        tell(
            {
                "engine": name,
                "samples_per_second": round(len(prompts) / second, 2),
                "tokens_per_second": round(sum(lengths) / second, 1),
                "first_seconds": round(first, 2),
            }
        )
