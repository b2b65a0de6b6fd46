"""Every stage on the device, some steps of `tiny`: it learns, and killed and resumed it ends in the same bits."""

import pytest
import torch
from gpu_models import REHEARSED
from gpu_runs import DEVICE, REINFORCED, STAGES, STEPS, TOKENS, all_killed_and_resumed, recipe_of, run, write_start

from minimind.errors import UserError
from minimind.stages import pretrain, setup
from minimind.train import checkpoint, metrics
from minimind.train.precision import Precision

pytestmark = pytest.mark.gpu
WALL_CLOCK = {"tokens_per_second", "rollout_tokens_per_second", "mfu"}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    write_start(folder)
    return folder


@pytest.fixture(scope="module")
def ends(start, tmp_path_factory):
    """The folder of each stage's two runs, and how their three processes ended."""
    folder = tmp_path_factory.mktemp("runs")
    codes = all_killed_and_resumed(start, list(STAGES), folder)
    return {name: (folder / name, codes[name]) for name in STAGES}


def figures(run):
    lines = metrics.read(run / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in WALL_CLOCK} for line in lines]


@pytest.mark.parametrize("name", STAGES)
def test_it_learns_and_resumes_exactly(name, ends):
    folder, codes = ends[name]
    assert codes[0] == 0, "the run that nobody killed"
    lines = [line for line in figures(folder / "straight") if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    learned = [-line["reward"] for line in lines if "reward" in line] if name in REINFORCED else []
    learned = learned or [line["loss"] for line in lines]
    few = max(1, len(learned) // 5)
    assert sum(learned[-few:]) < sum(learned[:few]), learned
    assert codes[1:] == [-9, 0], "killed, and resumed"
    assert figures(folder / "killed") == figures(folder / "straight")
    (one,), (other,) = ((folder / way / "model").glob("*.safetensors") for way in ("killed", "straight"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_the_old_policy_is_the_one_of_the_first_step(name, ends):
    """The trainer scores a rollout by the same kernels as it trains on it: a ratio of exactly 1, no KL."""
    first = next(line for line in figures(ends[name][0] / "straight") if line["step"] == 1)
    assert first["ratio_max"] == 1
    assert first["kl"] == 0
    assert first["mismatch_kl"] < 1e-3, "the engine's policy, by its own kernels, is nearly the same"


def test_float16_learns_under_a_scale(start, tmp_path):
    recipe = recipe_of(start, "pretrain", **{"train.dtype": "float16"})
    losses = [line["loss"] for line in run(recipe, tmp_path / "run", tmp_path / "cache")]
    assert losses[-1] < losses[0] - 0.5
    state = checkpoint.newest(tmp_path / "run" / "checkpoints")[1]["precision"]
    assert state["scale"] >= 2.0**8
    assert state["good_steps"] > STEPS // 2


def test_an_overflow_leaves_the_weights_alone_and_halves_the_scale(start, tmp_path, monkeypatch):
    from minimind.bench.ours import Ours

    recipe = recipe_of(start, "pretrain", **{"train.dtype": "float16"})
    monkeypatch.setenv("MINIMIND_CACHE", str(tmp_path))
    tokenizer = setup.load_tokenizer(recipe)
    ours = Ours(recipe, tokenizer, setup.shards(recipe, tokenizer, kind="text")[0])
    assert isinstance(ours.precision, Precision)
    ours.precision.scale = 2.0**40
    before = [parameter.detach().clone() for parameter in ours.model.parameters()]
    ours.step()
    assert ours.precision.scale == 2.0**39
    assert all(map(torch.equal, before, ours.model.parameters()))


def test_out_of_memory_says_what_to_lower(start, tmp_path, monkeypatch):
    """The device's own error, met in the loss of the first step."""

    def greedy(model, batch, compiled=False):
        torch.empty(1 << 50, dtype=torch.uint8, device=DEVICE)

    monkeypatch.setattr(pretrain, "next_token_loss", greedy)
    with pytest.raises(
        UserError, match=rf"out of memory: lower train.micro_batch_tokens from {TOKENS // 2} to {TOKENS // 4}"
    ):
        run(recipe_of(start, "pretrain"), tmp_path / "run", tmp_path / "cache")


@pytest.mark.usefixtures("_on_cuda")
def test_out_of_memory_in_the_middle_of_training(start, tmp_path):
    torch.cuda.empty_cache()
    share = (torch.cuda.memory_reserved() + (400 << 20)) / torch.cuda.get_device_properties(0).total_memory
    large = {"train.micro_batch_tokens": 1 << 19, "train.tokens_per_step": 1 << 19}
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        with pytest.raises(UserError, match=r"out of memory: lower train.micro_batch_tokens"):
            run(recipe_of(start, "pretrain", **large), tmp_path / "run", tmp_path / "cache")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def test_a_compiled_run_learns(start, tmp_path):
    if REHEARSED:
        pytest.skip("needs CUDA")  # the CPU's compiler takes most of a minute
    recipe = recipe_of(start, "pretrain", **{"train.compile": "always"})
    losses = [line["loss"] for line in run(recipe, tmp_path / "run", tmp_path / "cache")]
    assert losses[-1] < losses[0] - 0.5
