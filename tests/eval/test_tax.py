"""What a stage gave and what it took: how it is counted, printed, and kept within a limit."""

import json

import pytest
import torch
from safetensors.torch import load_file

from minimind.data.smallworld import questions
from minimind.errors import UserError
from minimind.eval import tax
from minimind.eval.bpb import bits_per_byte, text_document
from minimind.eval.tax import Change, Standing
from minimind.model.qwen3 import Transformer
from minimind.model.store import load_model
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import render

CHAT = {"conversations": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}


def test_the_small_worlds_conversations_are_its_held_out_questions(world):
    abilities = tax.read_abilities([str(world / "sft_valid.jsonl")], 1000)
    expected = questions()
    assert {name: len(items) for name, items in abilities.items()} == {name: len(q) for name, q in expected.items()}
    for name, items in abilities.items():
        for got, want in zip(map(tax.question, items), expected[name], strict=True):
            assert got.messages[-1] == want.messages[-1]
            assert (got.calls, got.open_thinking) == (want.calls, want.open_thinking)
            assert want.calls or got.answer == want.answer


def test_an_ability_is_a_field_or_the_file(tmp_path):
    lines = [CHAT, CHAT | {"ability": "greeting"}, CHAT]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    found = tax.read_abilities([str(tmp_path / "chats.jsonl")], 1)
    assert {name: len(items) for name, items in found.items()} == {"chats": 1, "greeting": 1}


def test_text_is_an_ability_in_bits(tuned, tmp_path):
    lines = [{"text": "The home city of Olivia Foster is Berlin."}, CHAT | {"ability": "both"}, {"text": "你好"}]
    lines[2]["ability"] = "both"
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    found = tax.read_abilities([str(tmp_path / "text.jsonl")], 9)
    assert {name: len(items) for name, items in found.items()} == {"text": 1, "both": 2}
    model, tokenizer = load_model(tuned / "model"), Tokenizer.load(tuned / "model")
    standing = tax.standing(model, tokenizer, found, torch.float32)
    expected = bits_per_byte(model, [text_document(lines[0]["text"], tokenizer)], 512, torch.float32)["bpb"]
    assert standing["text"] == (0, pytest.approx(expected))
    assert tax.standing(model, tokenizer, {"text": found["text"]}, torch.float32)["text"] == standing["text"]
    (tmp_path / "text.jsonl").write_text('{"text": 7}\n', encoding="utf-8")
    with pytest.raises(UserError, match="line 1: 'text' is int"):
        tax.read_abilities([str(tmp_path / "text.jsonl")], 9)


def test_what_the_assistant_says_is_scored_without_control_tokens():
    tokenizer = Tokenizer.load("default")
    (conversation,) = [tax.read_conversation(CHAT)]
    ids, scored, size = tax.document(conversation, tokenizer)
    assert ids.tolist() == render(CHAT["conversations"], tokenizer)[0]
    assert tokenizer.decode(ids[scored].tolist()) == "Hello."
    assert size == len(b"Hello.")


def test_the_tax_is_in_points_or_in_percent_of_the_bits():
    assert Change(Standing(0.98, 1.0), Standing(0.94, 2.0)).tax == pytest.approx(4)
    assert Change(Standing(0.5, 1.0), Standing(0.6, 2.0)).tax == pytest.approx(-10)
    assert Change(Standing(0.0, 1.0), Standing(0.0, 1.03)).tax == pytest.approx(3)
    changes = {"a": Change(Standing(0.98, 1.0), Standing(0.96, 1.0)), "b": Change(Standing(0, 1.0), Standing(1, 0.5))}
    assert tax.within(changes, 2)
    assert not tax.within(changes, 1.9)


def test_a_model_whose_context_was_stretched_has_a_mean_with_the_one_before(tuned):
    before = load_model(tuned / "model")
    after = load_model(tuned / "model")
    after.use_rope_scaling({"rope_type": "yarn", "factor": 2.0})
    assert tax.between(before, after, 0.5).config == after.config
    with pytest.raises(UserError, match="different shapes"):
        tax.between(before, Transformer(before.config.with_(num_hidden_layers=1)), 0.5)


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory, minimind, dpo_flags, world):
    """DPO so fast that it spoils the model, guarded: the run's folder."""
    out = tmp_path_factory.mktemp("guarded") / "run"
    guard = ["--set.guard.files", world / "few_sft_valid.jsonl", "--set.guard.limit", "3", "--set.guard.questions", "8"]
    ended = minimind(*dpo_flags, "--set.optim.lr", "1e-2", "--out", out, *guard)
    assert ended.code == 0, ended.err
    assert "The whole change cost more than 3 points" in ended.err
    assert "gain" in ended.out
    return out


def test_a_guarded_run_ends_at_the_furthest_mean_within_the_limit(spoiled, tuned, world):
    told = json.loads((spoiled / "guard.json").read_text(encoding="utf-8"))
    assert 0 <= told["share"] < 1
    assert all(one["tax"] <= 3 for one in told["abilities"].values())
    newest = max((spoiled / "checkpoints").iterdir())
    start, end = (load_model(one) for one in (tuned / "model", newest))
    mean = tax.between(start, end, told["share"])
    for name, weight in load_model(spoiled / "model").named_parameters():
        torch.testing.assert_close(weight, mean.get_parameter(name), atol=1e-6, rtol=0)

    tokenizer = Tokenizer.load(spoiled / "model")
    abilities = tax.read_abilities([str(world / "few_sft_valid.jsonl")], 8)
    was = tax.standing(start, tokenizer, abilities, torch.float32)
    further = tax.between(start, end, told["share"] + 0.1)
    assert not tax.within(tax.compare(was, tax.standing(further, tokenizer, abilities, torch.float32)), 3)


def test_a_guard_that_is_interrupted_leaves_the_guarded_model(spoiled, minimind, dpo_flags, monkeypatch):
    before = (spoiled / "model" / "model.safetensors").read_bytes()

    def stopped(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(tax, "sweep", stopped)
    guard = ["--set.guard.files", json.loads((spoiled / "guard.json").read_text(encoding="utf-8"))["guard"]["files"][0]]
    again = minimind(*dpo_flags, "--set.optim.lr", "1e-2", "--out", spoiled, *guard, "--set.guard.limit", "3")
    assert again.code == 130, again.err
    assert (spoiled / "model" / "model.safetensors").read_bytes() == before


def test_the_command_says_the_same_and_writes_the_mean(spoiled, tuned, world, minimind, tmp_path):
    newest = max((spoiled / "checkpoints").iterdir())
    flags = ["eval", "tax", tuned / "model", newest, "--data", world / "few_sft_valid.jsonl"]
    flags += ["--questions", "8"]
    table = minimind(*flags)
    assert table.code == 0, table.err
    assert "tax" in table.out
    ended = minimind(*flags, "--limit", "3", "--out", tmp_path / "mean", "--json")
    figures = json.loads(ended.out)
    told = json.loads((spoiled / "guard.json").read_text(encoding="utf-8"))
    assert figures["tried"][-1]["share"] == told["share"]
    assert [one["share"] for one in figures["tried"]] == sorted(
        {one["share"] for one in figures["tried"]}, reverse=True
    )
    ours, its = (load_file(one / "model.safetensors") for one in (tmp_path / "mean", spoiled / "model"))
    assert all(torch.equal(ours[name].float(), its[name].float().to(ours[name].dtype).float()) for name in its)
    assert {tensor.dtype for tensor in ours.values()} == {torch.float32}
    assert minimind(*flags, "--limit", "3").code == 2


def test_what_cannot_be_guarded_is_refused_before_training(minimind, dpo_flags, pretrain_flags, world, tmp_path):
    files = ["--set.guard.files", world / "few_sft_valid.jsonl", "--out", tmp_path / "run"]
    refused = {
        "starts from": [*pretrain_flags, *files],
        "not adapters": [*dpo_flags, *files, "--set.lora.rank", "4", "--set.guard.limit", "2"],
        "no such file": [*dpo_flags, "--set.guard.files", "none.jsonl", "--out", tmp_path / "run"],
        "guard.limit": [*dpo_flags, *files, "--set.guard.limit", "-1"],
    }
    empty = {"conversations": [CHAT["conversations"][0], {"role": "assistant", "content": ""}]}
    (tmp_path / "empty.jsonl").write_text(json.dumps(empty), encoding="utf-8")
    refused["every assistant turn is empty"] = [
        *(*dpo_flags, "--set.guard.files", tmp_path / "empty.jsonl", "--out", tmp_path / "run")
    ]
    for said, flags in refused.items():
        ended = minimind(*flags)
        assert ended.code in (1, 2)
        assert said in ended.err
    assert not (tmp_path / "run" / "model").exists()
