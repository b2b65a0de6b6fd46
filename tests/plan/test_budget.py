"""Predicted memory against what a process really uses (RSS of a subprocess), and the speed that plans assume."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from minimind.config import PRESETS
from minimind.plan.budget import CUDA_LIBRARIES, tokens_per_second, training_memory, usual_mfu
from minimind.recipe import Recipe, override, run_config

MEMORY = Path(__file__).parents[2] / "benchmarks" / "memory.py"
linux = pytest.mark.skipif(sys.platform != "linux", reason="RSS and the C library's heap are those of Linux")


def measured(preset, changes, *flags):
    """What benchmarks/memory.py prints: a process of its own, with nothing of this one in its memory."""
    argv = [sys.executable, str(MEMORY), "--preset", preset, "--settings", json.dumps(changes), *flags]
    ended = subprocess.run(argv, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "2"})
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@linux
@pytest.mark.parametrize(("checkpointing", "flags"), [(False, []), (True, []), (False, ["--lora", "8"])])
def test_prediction_is_within_a_tenth_of_measured_rss(checkpointing, flags):
    changes = {"train.compile": "never", "train.tokens_per_step": 12288, "train.micro_batch_tokens": 12288}
    changes |= {
        "data.sequence_length": 128,
        "model.num_hidden_layers": 4,
        "train.activation_checkpointing": checkpointing,
    }
    found = measured("tiny", changes, "--exact", "--steps", "1", *flags)
    before = found["before"] - bool(torch.version.cuda) * CUDA_LIBRARIES
    assert found["tensors"] > 0.6 * before, "not only the process itself is compared"
    assert found["predicted"] == pytest.approx(found["peak"], rel=0.1), found


@linux
@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("preset", ["tiny", "tiny-moe", "laptop", "minimind2-small", "minimind-3", "minimind-3-moe"])
def test_prediction_of_a_compiled_run(preset, checkpointing):
    changes = {"train.compile": "always", "train.tokens_per_step": 8192, "train.micro_batch_tokens": 4096}
    found = measured(preset, changes | {"train.activation_checkpointing": checkpointing})
    assert found["predicted"] == pytest.approx(found["peak"], rel=0.1), found


@linux
@pytest.mark.slow
def test_lora_of_the_large_model_needs_less_than_its_fine_tuning():
    """Both at the settings of recipes/minimind-3/lora.toml."""
    changes = {"train.compile": "always", "train.tokens_per_step": 16384, "train.micro_batch_tokens": 2048}
    changes |= {"data.sequence_length": 1024, "train.activation_checkpointing": True}
    whole, change = (measured("minimind-3", changes, *flags) for flags in ([], ["--lora", "8"]))
    for found in (whole, change):
        assert found["predicted"] == pytest.approx(found["peak"], rel=0.1), found
    assert change["peak"] <= 0.6 * whole["peak"]


def memory(preset="laptop", compute_bytes=2, compiled=True, where=(), **changes):
    recipe = override(Recipe(preset=preset), {name.replace("__", "."): value for name, value in changes.items()})
    return training_memory(PRESETS[preset], run_config(recipe), recipe.lora, compute_bytes, compiled, *where)


def test_what_memory_depends_on():
    plain = memory()
    parameters = PRESETS["laptop"].parameters()
    assert plain.weights == plain.gradients == 4 * parameters
    embedding = 6400 * 256
    assert plain.moments == 4 * (2 * embedding + parameters - embedding)
    assert memory(optim__matrices="adamw").moments == 8 * parameters
    assert memory(train__activation_checkpointing=True).activations < plain.activations / 2
    assert memory(train__micro_batch_tokens=4096).activations == pytest.approx(plain.activations / 2, rel=0.02)
    assert memory(compiled=False).total > plain.total
    assert memory(compute_bytes=4).total > 1.3 * plain.total
    alone = memory(train__tokens_per_step=8192)
    assert plain.total - alone.total == pytest.approx(plain.gradients, rel=1e-6), "a second micro-batch meets gradients"
    assert memory("minimind-3-moe").activations > memory("minimind-3").activations


def test_on_a_gpu_answers_to_one_prompt_need_a_mask_and_keys_of_each_head():
    plain, masked = (memory(where=(False, branches)).activations for branches in (False, True))
    run, laptop = run_config(Recipe(preset="laptop")), PRESETS["laptop"]
    tokens, heads = run.train.micro_batch_tokens, laptop.num_attention_heads - laptop.num_key_value_heads
    keys = laptop.num_hidden_layers * 2 * heads * laptop.head_dim
    assert masked - plain == 2 * tokens * (run.sequence_length + keys)


def test_frozen_weights_need_neither_gradients_nor_moments():
    plain, changed = memory(), memory(lora__rank=8, optim__matrices="adamw")
    assert changed.gradients == 4 * 6 * 8 * (2 * 512 + 2 * 384 + 3 * 960)
    assert changed.moments == 2 * changed.gradients
    assert changed.weights < 0.7 * plain.weights  # the embedding stays float32
    assert memory(lora__rank=8, lora__dora=True).activations > changed.activations
    assert memory("minimind-3-moe", lora__rank=8).gradients > 2 * memory("minimind-3", lora__rank=8).gradients


def test_larger_models_use_the_machine_better_and_are_slower():
    tiny, laptop, large = (PRESETS[name] for name in ("tiny", "laptop", "minimind-3"))
    assert usual_mfu(tiny, "cpu") < usual_mfu(laptop, "cpu") < usual_mfu(large, "cpu") < 1
    assert usual_mfu(PRESETS["minimind-3-moe"], "cpu") == pytest.approx(usual_mfu(large, "cpu"), rel=1e-3), (
        "active ones"
    )
    speeds = [tokens_per_second(config, config.flops_per_token(256), 1e12, "cpu") for config in (tiny, laptop, large)]
    assert speeds == sorted(speeds, reverse=True)
