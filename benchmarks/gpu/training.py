"""Training speed, share of the device's speed, and memory, beside what `minimind plan` says beforehand."""

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.gpu.work import Row, Tell, Work, message, timed
from minimind import runtime
from minimind.bench import gemm
from minimind.bench.memory import peak_memory
from minimind.bench.ours import Ours
from minimind.model.qwen3 import run_block
from minimind.plan.budget import process_memory, tokens_per_second, training_memory
from minimind.stages import pretrain, sft

LEAST_SECONDS = 20
"""A measurement is not begun with less time left than a compiler takes."""
WARM_UP = 2
"""Steps: the first compiles and makes the moments, the second has all memory that training needs."""


@dataclass(frozen=True)
class Case:
    """One measurement."""

    preset: str
    micro_batch: int | None = None
    """None: the recipe's."""
    stage: str = "pretrain"
    how: str = "as the recipe says"
    changes: dict[str, Any] = field(default_factory=dict)
    """Of the recipe."""
    compile: Callable[[Ours], None] | None = None
    """Instead of the recipe's way."""


def training(work: Work, tell: Tell) -> None:
    """The recipes' own micro-batch first, then what differs from it, the least important last."""
    sizes = work.sizes
    own = sizes.micro_batches[0]
    cases = [Case(sizes.dense, own), Case(sizes.moe, sizes.moe_micro_batches[0]), Case(sizes.dense, stage="sft")]
    cases += [Case(sizes.dense, size) for size in sizes.micro_batches[1:]]
    cases += [Case(sizes.dense, own, how="recomputed", changes={"train.activation_checkpointing": True})]
    cases += [Case(sizes.moe, size) for size in sizes.moe_micro_batches[1:]]
    cases += [Case(sizes.dense, own, how="eager", changes={"train.compile": "never"})]
    cases += [Case(sizes.dense, own, how="whole model compiled", compile=whole_model)]
    cases += [Case(sizes.dense, own, how="tuned products", compile=tuned)]
    for case in cases:
        tell(
            {"preset": case.preset, "stage": case.stage, "how": case.how, "micro_batch": case.micro_batch}
            | attempt(work, case)
        )


def attempt(work: Work, case: Case) -> Row:
    """A measurement's figures; of one that fails, or for which no time is left, why there are none."""
    if case.compile and not work.sizes.compiled:
        return {"error": "needs CUDA"}
    if work.left < LEAST_SECONDS:
        return {"error": "no time left"}
    try:
        return measure(work, case)
    except Exception as error:  # out of memory most likely; the next one may be smaller
        return {"error": message(error)}
    finally:
        gc.collect()
        torch.compiler.reset()  # every case is compiled for itself, as a run would be
        if work.on.type == "cuda":
            torch.cuda.empty_cache()


def measure(work: Work, case: Case) -> Row:
    """Some optimizer steps of a stage's own job."""
    changes = dict(case.changes)
    if case.micro_batch:
        changes["train.micro_batch_tokens"] = case.micro_batch
    if case.stage != "pretrain":
        changes["init"] = work.directory(case.preset)
    recipe, on = work.recipe(case.preset, case.stage, **changes), work.on
    if on.type == "cuda":
        torch.cuda.reset_peak_memory_stats(on)
    make_job = sft.make_job if case.stage == "sft" else pretrain.make_job
    ours = Ours(recipe, work.tokenizer, work.shards(recipe), make_job)
    if case.compile:
        case.compile(ours)
    warm_up = timed(lambda: [ours.step() for _ in range(WARM_UP)], on)
    before = ours.tokens
    seconds = timed(lambda: [ours.step() for _ in range(work.sizes.steps)], on)
    speed, config = (ours.tokens - before) / seconds, ours.model.config
    peak = peak_memory(on) or 0
    flops, sheet = speed * ours.job.flops_per_token, gemm.published_rate(on)
    products = gemm.rate(config, ours.micro_batch_tokens, on, ours.precision.dtype)
    planned_memory, planned_speed = planned(ours)
    return {
        "micro_batch": ours.micro_batch_tokens,
        "tokens_per_second": round(speed, 1),
        "mfu": round(flops / products, 4),
        "mfu_of_data_sheet": round(flops / sheet, 4) if sheet else None,
        "peak_memory_bytes": peak,
        "planned_memory_bytes": planned_memory,
        "memory_over_plan": round(peak / planned_memory, 3),
        "planned_tokens_per_second": round(planned_speed, 1),
        "speed_over_plan": round(speed / planned_speed, 3),
        "warm_up_seconds": round(warm_up, 2),
        "padding": round(ours.padding, 4),
    }


def planned(ours: Ours) -> tuple[int, float]:
    """Bytes and tokens a second, as `minimind plan` computes them."""
    config, precision = ours.model.config, ours.precision
    cpu = precision.device.type == "cpu"
    memory = training_memory(config, ours.config, ours.recipe.lora, precision.dtype.itemsize, ours.compiled, on_cpu=cpu)
    without, with_one = config.flops_per_token(0), config.flops_per_token(1)
    context = (ours.job.flops_per_token - without) / (with_one - without)
    peak = runtime.peak_flops(precision.device, precision.dtype)
    speed = tokens_per_second(config, config.flops_per_token(context), peak, precision.device.type)
    return process_memory(config, memory, ours.compiled) if cpu else memory.total, speed


def whole_model(ours: Ours) -> None:
    """Compile the model as a whole instead of its blocks."""
    ours.model.run_block = run_block
    ours.model.compile()


def tuned(ours: Ours) -> None:
    """Compile its blocks, and let the compiler try several kernels for each product."""
    ours.model.compile_blocks(mode="max-autotune-no-cudagraphs")
