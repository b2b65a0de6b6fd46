"""`minimind bench train` and the pieces it is made of."""

import json
import sys

import pytest
import torch

from minimind.bench import gemm, train
from minimind.bench.race import LEAST_TURNS, race
from minimind.bench.reference import LENGTH, PaddedRows, Reference
from minimind.config import PRESETS
from minimind.data.shards import ensure
from minimind.losses.lm import IGNORE
from minimind.recipe import Recipe
from minimind.tokenizer.bpe import Tokenizer

CPU = torch.device("cpu")
FAST = ["--device", "cpu", "--seconds", "1", "--set.train.compile", "never", "--set.model.num_hidden_layers", "2"]
FAST += ["--set.data.sequence_length", "64", "--set.train.tokens_per_step", "512", "--json"]


def figures(ended):
    assert ended.code == 0, ended.err
    return json.loads(ended.out.splitlines()[-1])


def test_both_are_measured_on_the_same_text(minimind, world):
    found = figures(minimind("bench", "train", "--preset", "tiny", "--data", world / "pretrain.jsonl", "--moe", *FAST))
    assert found["tokens_per_second"] > 0
    assert found["reference"]["tokens_per_second"] > 0
    assert found["ratio"] == pytest.approx(
        found["tokens_per_second"] / found["reference"]["tokens_per_second"], rel=1e-2
    )
    rounded = 0.01 + 0.06 / found["model_gflops"] + 0.06 / found["gemm_gflops"]  # both to a tenth
    assert found["mfu"] == pytest.approx(found["model_gflops"] / found["gemm_gflops"], rel=rounded)
    assert 0 <= found["padding"] < 0.05 < 0.5 < found["reference"]["padding"] < 1, "the small world's texts are short"
    assert 0 < found["input_share"] < 0.5
    assert 0 < found["checkpoint_share"] < 0.5
    assert found["peak_memory_bytes"] > 12 * found["parameters"]
    assert found["moe"]["step_ratio"] > 0.5
    assert {len(turns) for turns in found["turns"].values()} == {len(found["turns"]["ours"])}


def test_without_data_and_reference(minimind, monkeypatch):
    monkeypatch.setattr(train, "WORLD_MB", 0.2)
    monkeypatch.setitem(sys.modules, "transformers", None)
    found = figures(minimind("bench", "train", "--preset", "tiny", "--no-reference", *FAST))
    assert found["reference"] is found["ratio"] is found["moe"] is None
    ended = minimind("bench", "train", "--preset", "tiny", *FAST)
    assert ended.code == 1
    assert "minimind[bench]" in ended.err
    assert "--no-reference" in ended.err


def test_contestants_take_turns():
    order = []

    class Runner:
        def __init__(self, name):
            self.name = name

        def step(self):
            order.append(self.name)
            return 10

    laps = race({name: Runner(name) for name in "ab"}, 1e-9, CPU)
    assert order == ["a", "b"] * LEAST_TURNS
    assert [turn.tokens for turn in laps["a"]] == [10] * LEAST_TURNS
    assert laps["a"].tokens_per_second == sorted(laps["a"].speeds)[LEAST_TURNS // 2]


@pytest.mark.parametrize("preset", ["laptop", "minimind-3", "minimind-3-moe"])
def test_gemm_shapes_add_up_to_the_models_operations(preset):
    config, tokens = PRESETS[preset], 8192
    flops = sum(times * product.flops for product, times in gemm.products(config, tokens).items())
    assert flops == pytest.approx(tokens * config.flops_per_token(0), rel=2e-3), "but for norms and router"


def test_gemm_rate_is_that_of_real_products():
    tiny = PRESETS["tiny"]
    assert 1e8 < gemm.rate(tiny, 64, CPU, torch.float32, tries=1) < 1e14


@pytest.fixture(scope="module")
def shards(world):
    return ensure([world / "few_pretrain.jsonl"], Tokenizer.load("default"))


def test_padded_rows_hold_one_document_each(shards):
    documents = {ids.tobytes(): ids for ids, _ in shards}
    rows = PaddedRows(shards, seed=1)
    ids, labels = rows.next_batch(shards.documents)
    seen = set()
    for row, label in zip(ids.numpy(), labels.numpy(), strict=True):
        real = row[label != IGNORE]
        assert (label[: len(real)] == real).all()
        seen.add(real.astype(next(iter(documents.values())).dtype).tobytes())
    assert seen == {(d if len(d) <= LENGTH else d[[*range(LENGTH - 1), -1]]).tobytes() for d in documents.values()}
    again, _ = rows.next_batch(shards.documents)
    assert not torch.equal(ids, again), "another epoch, another order"
    assert torch.equal(PaddedRows(shards, seed=1).next_batch(4)[0], ids[:4])


def test_the_reference_learns(shards):
    config = PRESETS["tiny"].with_(vocab_size=6400, num_hidden_layers=2)
    theirs = Reference(config, shards, CPU, lr=1e-3)
    first = [p.detach().clone() for p in theirs.model.parameters()]
    assert theirs.step() > 0
    assert all(not torch.equal(a, b) for a, b in zip(first, theirs.model.parameters(), strict=True))
    assert sum(p.numel() for p in theirs.model.parameters()) == config.parameters()
    assert 0 < theirs.padding < 1


def test_experts_are_switched_at_equal_active_size():
    for preset, experts in (("minimind-3", 4), ("minimind-3-moe", 0), ("tiny", 4)):
        recipe = train.with_experts_switched(Recipe(preset=preset))
        switched, plain = PRESETS[preset].with_(**recipe.model), PRESETS[preset]
        assert switched.num_experts == experts
        assert switched.parameters(active=True) == pytest.approx(plain.parameters(active=True), rel=2e-3), "router"
