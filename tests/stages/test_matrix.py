"""Every stage, alone and on two ranks, under DDP and FSDP, dense and sparse, whole and with an adapter.

Each combination gives the update of one process, to float32's rounding, or is refused in one sentence. Optimizers are
plain gradient descent here: Adam's first step is the sign of a gradient, where a rounding is as large as a step.
Everything that a run may do besides is on: validation, samples, the distance to a reference, rehearsal, activation
checkpointing, checkpoints.
"""

import contextlib
import itertools
import shutil

import pytest
import torch
from processes import FORKS, in_ranks, kill_ranks
from safetensors.torch import load_file
from small_runs import STAGES, prepare, recipe_of

from minimind import ranks, runtime
from minimind.errors import UserError
from minimind.optim import groups
from minimind.train import metrics

KINDS = ("ddp", "fsdp")
FIGURES = ("step", "loss", "rehearsal_loss", "grad_norm")
CASES = list(itertools.product(STAGES, ("dense", "moe"), (0, 4)))
CASES = [
    case for case in CASES if not (case[0] in ("pretrain", "reward") and case[2]) and (case[0] != "lora" or case[2])
]
QUICK = [
    *(("pretrain", "moe", 0), ("sft", "dense", 4), ("distill", "dense", 0), ("distill on policy", "moe", 4)),
    *(("dpo", "moe", 0), ("dpo", "dense", 4), ("reward", "dense", 0), ("grpo", "dense", 0), ("grpo", "moe", 4)),
    *(("ppo", "dense", 0), ("agent", "moe", 0), ("lora", "moe", 4)),
]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("matrix"))


def descent(model, config):
    """Every weight goes down the gradient."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [torch.optim.SGD(trained, lr=config.lr, momentum=0.5)]  # so that there is state to save


@contextlib.contextmanager
def plain_descent():
    """Gradient descent in all stages."""
    from minimind.stages import distill, dpo, grpo, ppo, pretrain, reward, sft

    homes = (distill, dpo, grpo, ppo, pretrain, reward, sft)
    for home in homes:
        home.make_optimizers = descent
    yield
    for home in homes:
        home.make_optimizers = groups.make_optimizers


def run(start, case, kind, out, **more):
    """What a run ends in: weights, and the figures of each step; or why it is refused."""
    import importlib

    if STAGES[case[0]][0] != "reward":
        more |= {"rehearsal.files": [str(start / "chat.jsonl")], "rehearsal.tokens": 256}
    recipe = recipe_of(start, case, kind, **more)
    stage = importlib.import_module(f"minimind.stages.{STAGES[case[0]][0]}")
    try:
        with plain_descent():
            model = stage.run(recipe, out)
    except UserError as error:
        return str(error), None
    ranks.barrier()
    lines = metrics.read(out / "metrics.jsonl")
    figures = [{name: line[name] for name in FIGURES if name in line} for line in lines]
    file = model / ("adapter_model.safetensors" if recipe.lora.rank else "model.safetensors")
    return load_file(file), figures


def run_all(start, cases, kinds, folder, cache):
    runtime.cache_dir = lambda: cache
    return {
        (case, kind): run(start, case, kind, folder / f"{n}-{kind}") for n, case in enumerate(cases) for kind in kinds
    }


def assert_same(case, kind, several, alone):
    assert isinstance(alone[0], dict), alone[0]
    assert isinstance(several[0], dict), f"{case} {kind}: {several[0]}"
    for line, expected in zip(several[1], alone[1], strict=True):
        for name, value in expected.items():
            assert line[name] == pytest.approx(value, rel=2e-4, abs=1e-6), (case, kind, name, line["step"])
    for name, weight in alone[0].items():
        torch.testing.assert_close(
            several[0][name], weight, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{case} {kind} {n} {m}"
        )


@pytest.mark.parametrize(
    "cases",
    [
        pytest.param(QUICK, id="some"),
        pytest.param([c for c in CASES if c not in QUICK], id="rest", marks=pytest.mark.slow),
    ],
)
def test_two_ranks_give_the_update_of_one(start, tmp_path, cases, monkeypatch):
    monkeypatch.setattr(runtime, "peak_flops", lambda *_: 1e11)
    monkeypatch.setattr(runtime, "cache_dir", lambda: tmp_path / "cache")
    alone = {case: run(start, case, "ddp", tmp_path / "alone" / str(n)) for n, case in enumerate(cases)}
    before = {shape: load_file(start / shape / "model.safetensors") for shape in ("dense", "moe")}
    for case, (weights, _) in alone.items():
        moved = [
            w for name, w in weights.items() if name in before[case[1]] and not torch.equal(w, before[case[1]][name])
        ]
        assert moved or case[2] or case[0] == "pretrain", f"{case}: nothing was learned"
    several = in_ranks(2, run_all, start, cases, KINDS, tmp_path / "two", tmp_path / "cache2", seconds=600)[0]
    for (case, kind), ended in several.items():
        assert_same(case, kind, ended, alone[case])


def continued(start, cases, folder, cache):
    """Two ranks go on with runs that one rank began, and begin runs that one rank goes on with."""
    runtime.cache_dir = lambda: cache
    for n, (case, kind) in enumerate(cases):
        run(start, case, kind, folder / f"two-one-{n}", **{"train.max_steps": 2, "train.max_minutes": 1e-9})
    return [run(start, case, kind, folder / f"one-two-{n}") for n, (case, kind) in enumerate(cases)]


def test_another_number_of_ranks_goes_on_with_it(start, tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "peak_flops", lambda *_: 1e11)
    monkeypatch.setattr(runtime, "cache_dir", lambda: tmp_path / "cache")
    cases = [
        (("grpo", "dense", 0), "fsdp"), (("ppo", "dense", 0), "fsdp"), (("grpo", "dense", 4), "fsdp"),
        (("dpo", "moe", 0), "fsdp"),
    ]  # fmt: skip
    stopped = {"train.max_steps": 2, "train.max_minutes": 1e-9}
    straight = [run(start, case, kind, tmp_path / f"straight-{n}") for n, (case, kind) in enumerate(cases)]
    for n, (case, kind) in enumerate(cases):
        run(start, case, kind, tmp_path / f"one-two-{n}", **stopped)
    ends = in_ranks(2, continued, start, cases, tmp_path, tmp_path / "cache2", seconds=300)[0]
    for n, (case, kind) in enumerate(cases):
        shutil.rmtree(tmp_path / f"two-one-{n}" / "model", ignore_errors=True)
        assert_same(case, f"{kind} after one rank", ends[n], straight[n])
        assert_same(case, f"one rank after {kind}", run(start, case, kind, tmp_path / f"two-one-{n}"), straight[n])


KILLED = [
    (("grpo", "dense", 0), "fsdp", 3),
    (("ppo", "moe", 0), "ddp", 20),
    (("lora", "moe", 4), "fsdp", 9),
    (("dpo", "dense", 0), "fsdp", 30),
    (("agent", "dense", 4), "fsdp", 1),
    (("distill on policy", "dense", 0), "ddp", 14),
]
"""And at which act of rank 0 after its first checkpoint it is killed."""


def killed(start, case, kind, out, cache):
    runtime.cache_dir = lambda: cache
    run(start, case, kind, out, **IN_16_BITS)


def run_each(start, cases, folder, cache):
    runtime.cache_dir = lambda: cache
    return [run(start, case, kind, folder / str(n), **IN_16_BITS) for n, (case, kind, _) in enumerate(cases)]


IN_16_BITS = {"train.dtype": "bfloat16", "train.save_dtype": "float32", "train.max_steps": 3}


@pytest.mark.skipif(not FORKS, reason="Windows has no SIGKILL")
@pytest.mark.parametrize(
    "cases", [pytest.param(KILLED[:2], id="some"), pytest.param(KILLED[2:], id="rest", marks=pytest.mark.slow)]
)
def test_killed_ranks_go_on_to_the_same_bits_in_bfloat16(start, tmp_path, cases):
    straight = in_ranks(2, run_each, start, cases, tmp_path / "straight", tmp_path / "cache", seconds=300)[0]
    for n, (case, kind, moment) in enumerate(cases):
        out = tmp_path / "killed" / str(n)
        kill_ranks(2, out / "checkpoints" / "step-00000001", moment, killed, start, case, kind, out, tmp_path / "cache")
        assert not (out / "model").exists(), f"{case}: it was killed too late"
    resumed = in_ranks(2, run_each, start, cases, tmp_path / "killed", tmp_path / "cache", seconds=300)[0]
    for (case, _, _), (weights, figures), (expected, lines) in zip(cases, resumed, straight, strict=True):
        assert figures == lines, case
        assert all(torch.equal(weights[name], weight) for name, weight in expected.items()), case
        assert all(weight.isfinite().all() for weight in expected.values()), case
