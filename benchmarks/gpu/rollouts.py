"""Answers a second for reinforcement learning, beside transformers, which answers all prompts as one padded batch."""

from pathlib import Path

from benchmarks.gpu.work import Tell, Work, message, timed
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
        try:
            run = make()
            first, second = (timed(lambda run=run: run(prompts, lengths), on) for _ in range(2))
        except Exception as error:
            tell({"engine": name, "error": message(error)})
            continue
        speeds = {"samples_per_second": len(prompts) / second, "tokens_per_second": sum(lengths) / second}
        tell(
            {
                "engine": name,
                **{key: round(speed, 2) for key, speed in speeds.items()},
                "first_seconds": round(first, 2),
            }
        )
