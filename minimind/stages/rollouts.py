"""What the stages share that learn from the model's own answers: the loop over rollouts."""

from functools import partial
from pathlib import Path
from typing import Any

from minimind.console import say
from minimind.optim.groups import make_optimizers
from minimind.rl.session import Session, transcripts
from minimind.rl.stream import RolloutStream
from minimind.stages import common
from minimind.train import loop


def train(session: Session, stream: RolloutStream, loss: Any, out: Path, resume: bool, who: str, **other: Any) -> Path:
    """Run the loop over `stream` and write the finished policy to `out`/model.

    who: begins the line that announces the run; other: fields of the job that are not those of a policy by itself.
    """
    recipe, model = session.recipe, session.model
    fields: dict[str, Any] = {
        "model": model,
        "optimizers": make_optimizers(model, recipe.optim),
        "stream": stream,
        "loss": loss,
        "steps": session.steps(),
        "flops_per_token": model.config.flops_per_token(context=recipe.data.sequence_length / 2),
        "write_model": partial(common.write_model, model, session.tokenizer, dtype=common.save_dtype(recipe)),
        "validate": session.validate,
        "sample": lambda: transcripts(stream.newest),
        "compile": model.compile_blocks,
        "figures": session.meter.take,
    }
    job = loop.Job(**(fields | other))
    rl = recipe.rl
    say(
        f"{who} of {model.config.parameters() / 1e6:.2f} M parameters on {model.output_weight.device.type}, "
        f"{len(stream.prompts):,} prompts; {job.steps:,} steps, a rollout of {rl.groups} × {rl.samples} answers for "
        f"every {rl.epochs * rl.minibatches}"
    )
    return common.finish(job, recipe, out, resume)
