"""The guard of a refactoring: what a few steps of every stage end in, to the bit.

    python tests/stages/digests.py > before.json        ... change the code ...
    python tests/stages/digests.py before.json          says which runs end in other weights or metrics

Bits depend on the processor and on the version of torch, so the digests are not kept in the repository.
"""

import hashlib
import importlib
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does

from small_runs import STAGES, prepare, recipe_of

from minimind import runtime
from minimind.train import metrics

CLOCK = {"seconds", "tokens_per_second", "rollout_tokens_per_second", "mfu", "time", "data_seconds"}
SCHEDULE = {"optim.lr": 3e-3, "train.max_steps": 4, "rl.epochs": 2}
VARIANTS = {
    "dr_grpo, resampled": {"rl.algorithm": "dr_grpo", "rl.filter_groups": "resample", "rl.attempts": 20},
    "dapo, shared prompts": {"rl.algorithm": "dapo", "rl.share_prompts": True},
    "gspo, KL as a charge": {"rl.algorithm": "gspo", "rl.kl_in": "reward"},
    "cispo, one step, corrected": {
        **{"rl.algorithm": "cispo", "rl.epochs": 1, "rl.minibatches": 1, "rl.kl_coef": 0.0},
        **{"rl.importance_limit": 2.0, "rl.entropy_coef": 0.01, "rl.thinking_ratio": 0.5},
    },
}


def cases():
    """Name of a run, its place in the matrix of stages, what it changes."""
    for stage in STAGES:
        for shape in ("dense", "moe"):
            if stage != "lora":
                yield f"{stage} {shape}", (stage, shape, 0), {}
            if stage not in ("pretrain", "reward"):
                yield f"{stage} {shape} adapter", (stage, shape, 4), {}
    for name, changes in VARIANTS.items():
        yield f"grpo {name}", ("grpo", "dense", 0), changes
    yield "ppo whitened", ("ppo", "dense", 0), {"ppo.whiten": True, "ppo.whiten_rewards": True, "rl.kl_in": "reward"}
    yield "ppo warming up", ("ppo", "dense", 0), {"ppo.warmup_rollouts": 1, "ppo.target_kl": 1e-9}
    yield "ppo bfloat16", ("ppo", "dense", 0), {"train.dtype": "bfloat16"}
    yield "dpo simpo", ("dpo", "dense", 0), {"dpo.loss": "simpo"}


def digest(start, case, out, changes):
    """Of the weights, and of all figures but those of the clock."""
    recipe = recipe_of(start, case, "ddp", **SCHEDULE | changes)
    importlib.import_module(f"minimind.stages.{recipe.stage}").run(recipe, out)
    weights = hashlib.sha256()
    for file in sorted((out / "model").glob("*.safetensors")):
        weights.update(file.read_bytes())
    lines = [{k: v for k, v in line.items() if k not in CLOCK} for line in metrics.read(out / "metrics.jsonl")]
    figures = hashlib.sha256(json.dumps(lines, sort_keys=True).encode())
    return [weights.hexdigest()[:16], figures.hexdigest()[:16]]


def main(before=None):
    """Print the digests of all runs as JSON, or compare them with those in the file `before`."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        runtime.cache_dir = lambda: cache
        runtime.peak_flops = lambda *_: 1e11
        (Path(folder) / "start").mkdir()
        start = prepare(Path(folder) / "start")
        found = {name: digest(start, case, Path(folder) / name, more) for name, case, more in cases()}
    if before is None:
        return print(json.dumps(found, indent=1))
    expected = json.loads(Path(before).read_text(encoding="utf-8"))
    changed = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    print(f"{len(found)} runs, {len(changed)} of them changed: {', '.join(changed) or 'none'}")
    return sys.exit(bool(changed))


if __name__ == "__main__":
    main(*sys.argv[1:])
