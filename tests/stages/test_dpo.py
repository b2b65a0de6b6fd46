"""DPO end to end: what a run logs and leaves, where its reference comes from, and that nothing changes the maths."""

import math
from dataclasses import replace
from statistics import mean

import numpy as np
import pytest
import torch
from flags import without
from processes import in_ranks
from test_bad_input import refused, state
from test_exact import killed_again_and_again
from test_stages import figures, weights

from minimind import runtime
from minimind.config import ModelConfig
from minimind.data.corpus import read_documents
from minimind.data.pairs import PairStream
from minimind.data.settings import DataConfig
from minimind.data.shards import ensure
from minimind.losses.settings import DpoConfig
from minimind.model.attend import Segments
from minimind.model.qwen3 import Transformer
from minimind.model.rope import yarn
from minimind.model.store import load_model, load_scorer, save_model
from minimind.optim.settings import OptimConfig
from minimind.recipe import Recipe, run_config
from minimind.stages import dpo
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import render
from minimind.train import loop, metrics, parallel
from minimind.train.settings import TrainConfig

TOKENIZER = Tokenizer.load("default")
SHAPE = ModelConfig(
    vocab_size=TOKENIZER.vocab_size,
    hidden_size=32,
    intermediate_size=48,
    moe_intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, minimind, dpo_flags):
    """The run folder of six steps of DPO."""
    run = tmp_path_factory.mktemp("dpo") / "run"
    ended = minimind(*dpo_flags, "--out", run)
    assert ended.code == 0, ended.err
    return run


def test_a_run_learns_the_preference_and_says_so(trained, tuned):
    lines = [line for line in figures(trained) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, 7))
    first, last = lines[0], lines[-1]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5), "the model is the reference still"
    assert abs(first["margin"]) < 1e-5
    assert first["kl"] < 1e-9
    assert last["loss"] < 0.8 * first["loss"]
    assert last["accuracy"] > 0.8
    assert last["margin"] == pytest.approx(last["chosen_reward"] - last["rejected_reward"], rel=1e-3)
    assert last["kl"] > 1e-4
    (valid,) = [line for line in figures(trained) if "valid_loss" in line]
    assert valid["step"] == 6
    assert valid["valid_accuracy"] > 0.5
    assert weights(trained) != weights(tuned)


@pytest.mark.parametrize(
    ("settings", "start"),
    [
        (["--set.dpo.loss", "ipo", "--set.dpo.beta", "0.25"], 4.0),  # (1 / 2β)²
        (["--set.dpo.loss", "simpo", "--set.dpo.beta", "2"], None),
        (["--set.dpo.label_smoothing", "0.1", "--set.dpo.length_normalised", "true"], math.log(2)),
        (["--set.lora.rank", "4", "--set.optim.lr", "2e-3"], math.log(2)),
    ],
    ids=["IPO", "SimPO", "cDPO", "LoRA"],
)
def test_every_way_learns(minimind, dpo_flags, tmp_path, settings, start):
    fast = ["--set.optim.lr", "5e-4"]  # so that what is learned exceeds how much batches differ
    ended = minimind(*dpo_flags, *fast, *settings, "--max-steps", "12", "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    lines = [line for line in figures(tmp_path / "run") if "loss" in line]
    assert start is None or lines[0]["loss"] == pytest.approx(start, rel=1e-5)
    first, last = (sum(line["loss"] for line in part) for part in (lines[:4], lines[-4:]))
    assert last < first
    # Beside a reference the margin begins at 0, and IPO's may be where it is to stay after a few steps.
    begun = lines[:4] if start is None else lines[:1]
    assert mean(line["margin"] for line in lines[-4:]) > mean(line["margin"] for line in begun)
    assert ("kl" in lines[0]) == (start is not None), "SimPO has no reference"


def toy(folder):
    """A model directory of random weights."""
    torch.manual_seed(0)
    save_model(Transformer(SHAPE), folder, "float32")
    return Recipe(
        init=str(folder),
        data=DataConfig(sequence_length=256),
        optim=OptimConfig(lr=0.05),
        dpo=DpoConfig(sft_coef=0.3),
        train=TrainConfig(device="cpu", dtype="float32", tokens_per_step=1024, micro_batch_tokens=1024, log_every=1),
    )


def test_the_reference_is_what_each_conversation_gets_by_itself_and_is_asked_once(world, tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "cache_dir", lambda: tmp_path / "cache")
    recipe, pairs = toy(tmp_path / "model"), list(read_documents([world / "few_dpo.jsonl"], "dpo"))
    model = load_model(recipe.init)
    stream = PairStream(ensure([world / "few_dpo.jsonl"], TOKENIZER, "dpo"), 256)
    stream.reference = dpo.reference_log_probs(recipe, model, stream)

    def alone(side):
        ids, mask = render(side.messages, TOKENIZER)
        ids_1T = torch.tensor([ids])
        log_probs = model.logits(model(ids_1T, Segments.whole(ids_1T)).states[0, :-1]).log_softmax(-1)
        return (log_probs.gather(1, ids_1T[0, 1:, None])[:, 0] * torch.tensor(mask[1:])).sum().item()

    found = torch.cat([batch.answer_sums(batch.reference) for _, batch in stream.epoch(3)]).tolist()
    expected = [[alone(pair.chosen), alone(pair.rejected)] for pair in pairs]
    torch.testing.assert_close(torch.tensor(sorted(found)), torch.tensor(sorted(expected)), atol=1e-3, rtol=1e-5)

    def refuse(*_):
        raise AssertionError("it is asked again")

    monkeypatch.setattr(dpo, "score", refuse)
    assert np.array_equal(dpo.reference_log_probs(recipe, model, stream), stream.reference)
    stretched = Transformer(SHAPE.with_(rope_scaling=yarn(SHAPE, 4.0)))
    stretched.load_state_dict(model.state_dict())
    with pytest.raises(AssertionError, match="asked again"):  # the same weights read otherwise
        dpo.reference_log_probs(recipe, stretched, stream)
    save_model(Transformer(SHAPE), tmp_path / "model", "float32")
    with pytest.raises(AssertionError, match="asked again"):
        dpo.reference_log_probs(recipe, model, stream)


def train(folder, data, experts=0, micro=1024):
    """Three steps of plain gradient descent, from weights and a reference that chance has drawn."""
    runtime.peak_flops = lambda *_: 1e11
    recipe = toy(folder / "model") if runtime.is_main() else toy(folder / f"model {runtime.rank()}")
    recipe.train = replace(recipe.train, micro_batch_tokens=micro, max_steps=3, valid_every=0, save_every=0)
    torch.manual_seed(1)
    model = Transformer(replace(SHAPE, num_experts=experts))
    pairs = ensure([data], TOKENIZER, "dpo", cache=folder / "cache")
    reference = -3 * np.random.default_rng(0).random(int(pairs.tokens), np.float32)
    stream = PairStream(pairs, 256)
    stream.reference = reference
    job = dpo.make_job(recipe, model, TOKENIZER, pairs, stream)
    job.optimizers, job.write_model = [torch.optim.SGD(model.parameters())], lambda _: None
    loop.run(job, run_config(recipe), folder / "run")
    lines = metrics.read(folder / "run" / "metrics.jsonl")
    return parallel.whole_weights(model), lines


@pytest.mark.parametrize("experts", [0, 4])
def test_accumulation_and_ranks_change_nothing(world, tmp_path, experts):
    data = world / "few_dpo.jsonl"
    whole, lines = train(tmp_path / "whole", data, experts)
    before = dict(Transformer(replace(SHAPE, num_experts=experts)).named_parameters())
    assert any((weight - before[name]).abs().max() > 1e-3 for name, weight in whole.items())
    others = [in_ranks(2, train, tmp_path / "two", data, experts, 512)[0]]
    if not experts:  # the balancing loss is one of each micro-batch
        others.append(train(tmp_path / "pieces", data, experts, 256))
    for other, its_lines in others:
        for line, its in zip(lines, its_lines, strict=True):
            for name in ("loss", "accuracy", "margin", "chosen_reward", "kl", "grad_norm"):
                assert its[name] == pytest.approx(line[name], rel=1e-4, abs=1e-6), name
        for name, weight in whole.items():
            torch.testing.assert_close(other[name], weight, atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("stage", ["dpo", "reward"])
def test_killed_at_any_instant(dpo_flags, tmp_path, stage):
    argv = ["train", stage, *dpo_flags[2:]]
    killed_again_and_again([*argv, "--set.train.dtype", "bfloat16"], tmp_path, f"killed {stage}")


def test_a_reward_model_tells_the_better_answer_and_transformers_agrees(minimind, dpo_flags, tmp_path):
    transformers = pytest.importorskip("transformers")
    assert minimind("data", "synth", "--out", tmp_path / "world").code == 0
    pairs = ["--data", tmp_path / "world" / "dpo.jsonl", "--valid", tmp_path / "world" / "dpo_valid.jsonl"]
    learn = ["--set.optim.lr", "1e-3", "--max-steps", "48", "--set.train.valid_every", "48"]
    ended = minimind("train", "reward", *dpo_flags[2:], *pairs, *learn, "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    lines = figures(tmp_path / "run")
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-5), "a coin"
    (valid,) = [line for line in lines if "valid_accuracy" in line]
    assert valid["valid_accuracy"] > 0.65, "a coin would be 0.5 ± 0.05"

    ours = load_scorer(tmp_path / "run" / "model").eval()
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model").float().eval()
    ids_1T = torch.randint(50, 1000, (1, 20))
    states = ours(ids_1T, Segments.whole(ids_1T)).states
    torch.testing.assert_close(ours.scores(states)[0, -1], theirs(ids_1T).logits[0, 0], atol=1e-4, rtol=1e-4)


def test_what_came_before_is_rehearsed(minimind, dpo_flags, world, tmp_path):
    """Conversations, and text as well: the loss of either falls while the preference is learned."""
    for name in ("few_sft.jsonl", "few_pretrain.jsonl"):
        flags = [*dpo_flags, "--out", tmp_path / name, "--set.rehearsal.files", world / name]
        flags += ["--set.rehearsal.tokens", "1024", "--set.rehearsal.weight", "20", "--set.train.log_every", "1"]
        flags += ["--max-steps", "12", "--set.optim.lr", "1e-3"]
        assert minimind(*flags).code == 0
        seen = [line["rehearsal_loss"] for line in metrics.read(tmp_path / name / "metrics.jsonl") if "loss" in line]
        assert len(seen) == 12
        assert sum(seen[-3:]) < sum(seen[:3]) - 1.0
    pairs = minimind(*dpo_flags, "--out", tmp_path / "pairs", "--set.rehearsal.files", world / "few_dpo.jsonl")
    refused(pairs, 2, "rehearsal.files", "pairs")
    odd = minimind(*flags, "--out", tmp_path / "odd", "--set.rehearsal.tokens", "300")
    refused(odd, 2, "rehearsal.tokens = 300", "256")


def test_mistakes_are_one_sentence_and_leave_nothing(minimind, dpo_flags, tmp_path):
    before = state(tmp_path)
    no_init = [*dpo_flags[: dpo_flags.index("--init")], "--out", tmp_path / "run"]
    refused(minimind(*no_init), 2, "--init MODEL_DIR")
    pair = '{"chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "rejected": %s}\n'
    for rejected, said in {
        '[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]': "identical",
        '[{"role": "user", "content": "a"}]': "assistant",
    }.items():
        data = tmp_path.parent / "pairs.jsonl"
        data.write_text(pair % rejected, encoding="utf-8")
        refused(
            minimind(*without(dpo_flags, "--data"), "--data", data, "--out", tmp_path / "run"),
            1,
            "pairs.jsonl",
            "line 1",
            said,
        )
    assert not (tmp_path / "run" / "model").exists()
    assert set(state(tmp_path)) >= set(before)
