"""Rollouts on the disk: everything of every sample, bounded in size, and shown as they were."""

import json

import pytest
import torch
from processes import in_ranks

from minimind.data.prompts import Prompt
from minimind.engine.dialogue import Call
from minimind.errors import UserError
from minimind.inspect import practice
from minimind.rl import dump
from minimind.rl.batch import pack
from minimind.rl.rollout import Sample
from minimind.tokenizer.bpe import Tokenizer


@pytest.fixture
def samples():
    """Two answers to one prompt, the second with a tool's words in the middle; and one that is not learned from."""
    tokenizer = Tokenizer.load("default")
    prompt = Prompt([{"role": "user", "content": "3 + 4?"}], gt=["7"])
    found = []
    for group, parts in (
        (0, ["It is 7.", None]),
        (0, ["call", "<tool_response>\n7\n</tool_response>"]),
        (5, ["8", None]),
    ):
        sample = Sample(prompt, [1, 2, 3], group=group)
        said = tokenizer.encode(parts[0])
        sample.append(said, [-0.5] * len(said), [4] * len(said))
        if parts[1]:
            sample.append(tokenizer.encode(parts[1]))
            sample.append(said, [-0.25] * len(said), [4] * len(said))
        sample.rewards, sample.reward = {"exact": float(group == 0), "closed": None}, float(group == 0)
        found.append(sample)
    return found


def packed(samples, old=None):
    found = pack(samples[:2], 64, "token", 32)
    found = found.with_columns(advantages=found.scatter([1.5, -1.5]))
    return found if old is None else found.with_columns(old_log_probs=found.scatter(old))


def test_every_sample_is_kept_with_what_was_learned_from_it(tmp_path, samples):
    both = packed(samples, old=[-0.5 + 0.1, -0.25])
    dump.write(tmp_path, 7, samples, [both, both])  # two epochs over one pack
    rows = [json.loads(line) for line in (tmp_path / "rollout-000007.jsonl").read_text().splitlines()]
    assert [row["group"] for row in rows] == [0, 0, 5]
    assert {row["rollout"] for row in rows} == {7}
    for row, sample in zip(rows, samples, strict=True):
        assert (row["ids"], row["mask"], row["log_probs"]) == (sample.ids, sample.trainable, sample.log_probs)
        assert (row["rewards"], row["reward"], row["versions"]) == (sample.rewards, sample.reward, sample.versions)
    assert rows[0]["advantages"] == [1.5] * len(samples[0].ids)
    assert rows[1]["advantages"] == [-1.5 * chosen for chosen in samples[1].trainable]
    assert rows[2]["advantages"] == rows[2]["old"] == [None] * len(samples[2].ids)
    assert rows[0]["old"] == pytest.approx([-0.4] * len(samples[0].ids))


def test_what_some_take_for_the_end_of_a_line_is_kept(tmp_path, samples):
    said = "one\u2028two\u2029three\u0085four\x0bfive\rsix"
    samples[0].message = {"role": "assistant", "content": said}
    dump.write(tmp_path, 0, samples, [packed(samples)])
    assert dump.read(tmp_path, 0, dump.sample)[0].message["content"] == said


def test_rollouts_of_a_run_that_was_started_anew_replace_the_later_ones(tmp_path, samples):
    for number in (0, 1, 2, 1):
        dump.write(tmp_path, number, samples, [packed(samples)])
    assert dump.numbers(tmp_path) == [0, 1]


def test_without_an_old_policy_there_is_no_ratio(tmp_path, samples):
    dump.write(tmp_path, 0, samples, [packed(samples)])
    rows = [json.loads(line) for line in (tmp_path / "rollout-000000.jsonl").read_text().splitlines()]
    assert rows[0]["old"] == [None] * len(samples[0].ids)
    assert rows[0]["advantages"][0] == 1.5


def test_the_first_and_the_newest_stay(tmp_path, samples, monkeypatch):
    dump.write(tmp_path, 0, samples, [packed(samples)])
    monkeypatch.setattr(dump, "MAX_BYTES", 4 * (tmp_path / "rollout-000000.jsonl").stat().st_size + 100)
    for number in range(1, 12):
        dump.write(tmp_path, number, samples, [packed(samples)])
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= dump.MAX_BYTES
    kept = dump.numbers(tmp_path)
    assert kept[0] == 0
    assert kept[-2:] == [10, 11]


def dump_into_a_file(folder, samples):
    with pytest.raises(UserError, match="cannot be written"):
        dump.write(folder, 0, samples, [])


def test_no_rank_waits_for_one_that_cannot_write(tmp_path, samples):
    (tmp_path / "file").write_text("")
    in_ranks(2, dump_into_a_file, tmp_path / "file", samples, seconds=60)


def test_a_sample_comes_back_as_it_was(tmp_path, samples):
    samples[1].info = {
        "turns": 2,
        "calls": [Call("calculate_math", {"expression": "3+4"}, "7"), Call("x", None, "error")],
    }
    samples[2].status, samples[2].reward, samples[2].rewards = "failed", None, {}
    dump.write(tmp_path, 7, samples, [])
    for sample, back in zip(samples, dump.read(tmp_path, 7, dump.sample), strict=True):
        assert {**vars(back), "prompt": None} == {**vars(sample), "prompt": None}
        assert (back.prompt.messages, back.prompt.gt) == (sample.prompt.messages, sample.prompt.gt)
    with pytest.raises(UserError, match="rollout 8 was not kept; there are 1 from 7 to 7"):
        dump.read(tmp_path, 8, dump.sample)
    (tmp_path / "rollout-000008.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"rollout-000008.jsonl: line 1 is not a sample \('prompt'\)"):
        dump.read(tmp_path, 8, dump.sample)


def test_other_weights_turn_answers(minimind, tmp_path, samples):
    """In the first group the tool was called by the second answer; the third sample has nobody to be compared with."""
    for sample, exact, polite in zip(samples, (1.0, 0.0, 0.0), (0.0, 1.0, 0.5), strict=True):
        sample.rewards, sample.reward = {"exact": exact, "polite": polite}, exact
    dump.write(tmp_path / "kept", 0, samples, [])

    def judged(*more):
        ended = minimind("eval", "rewards", tmp_path / "kept", *more, "--json")
        assert ended.code == 0, ended.err
        return json.loads(ended.out)

    as_it_was = judged()
    assert as_it_was["then"] == as_it_was["now"] == {"reward": pytest.approx(1 / 3), "differ": 0.5}
    assert as_it_was["turned"] == 0
    other = judged("--weights", "polite=2")
    assert other["now"] == {"reward": 1.0, "differ": 0.5}
    assert other["turned"] == pytest.approx(2 / 3)
    Tokenizer.load("default").save(tmp_path / "model")
    new = judged("--weights", "exact=1, unfinished=1", "--model", tmp_path / "model")
    assert new["rewards"]["unfinished"] == 0
    assert new["now"] == as_it_was["now"]
    table = minimind("eval", "rewards", tmp_path / "kept", "--weights", "polite=2")
    assert "answers pushed another way" in table.out
    for more, said in (
        (["--weights", "unfinished=1"], "unfinished: not judged then"),
        (["--weights", "exact"], "write it as NAME=NUMBER"),
        (["--weights", "exakt=1", "--model", str(tmp_path / "model")], "did you mean 'exact'"),
    ):
        ended = minimind("eval", "rewards", tmp_path / "kept", *more)
        assert ended.code in (1, 2)
        assert said in " ".join(ended.err.split())


def test_the_looking_glass_shows_it(tmp_path, samples):
    dump.write(tmp_path / "rollouts", 3, samples, [packed(samples, old=[-0.4, -0.25])])
    (tmp_path / "recipe.toml").write_text('[rl]\ndump = "elsewhere/rollouts"\n[scoring.weights]\nexact = 2.0\n')
    tokenizer = Tokenizer.load("default")
    assert practice.divides(tmp_path)
    assert practice.rollouts(tmp_path) == [3]
    assert practice.weights(tmp_path) == {"exact": 2.0}
    found = practice.read_rollout(tmp_path, 3, tokenizer)
    first, second = found["groups"][0]["samples"]
    assert found["groups"][0]["prompt"][0]["content"] == "3 + 4?"
    assert first["advantage"] == 1.5
    assert first["completion"] == "It is 7."
    assert first["tokens"][0]["ratio"] == pytest.approx(2.718281828**0.1)
    assert [turn["role"] for turn in second["messages"]] == ["assistant", "tool", "assistant"]
    assert second["messages"][1]["content"] == "7"
    unlearned = found["groups"][1]["samples"][0]
    assert unlearned["advantage"] is None
    assert unlearned["tokens"][0]["ratio"] is None
    assert [token["mask"] for token in second["tokens"]] == samples[1].trainable
    assert torch.tensor([token["log_prob"] or 0 for token in second["tokens"]]).tolist() == samples[1].log_probs


def test_dr_grpo_does_not_divide(tmp_path):
    (tmp_path / "recipe.toml").write_text('[rl]\nalgorithm = "dr_grpo"\n')
    assert not practice.divides(tmp_path)
    (tmp_path / "recipe.toml").write_text('[rl]\nalgorithm = "dr_grpo"\ndivide_by_sigma = "yes"\n')
    assert practice.divides(tmp_path)
