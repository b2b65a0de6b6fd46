"""Episodes: what is said and what is read each in its place, rewards, and rows of data that can be run."""

import json
from functools import partial

import pytest

from minimind import tools
from minimind.data.prompts import Prompt, read_prompt
from minimind.engine.sampling import Sampling
from minimind.rl.environment import ToolUse, legality, multi_turn, outcome, repeatable
from minimind.rl.rollout import Completion, Sample, play
from minimind.tokenizer.chat import render

SCHEMAS = tools.schemas(["calculate_math", "random_number"])
PROMPT = Prompt([{"role": "user", "content": "What is 12 * 3?"}], SCHEMAS, ["36"])


def call(name, **arguments):
    return {"role": "assistant", "content": "", "tool_calls": [{"name": name, "arguments": arguments}]}


def answer(text):
    return {"role": "assistant", "content": text}


def said(tokenizer, message):
    ids, mask = render([{"role": "user", "content": "?"}, message], tokenizer)
    return [id for id, learned in zip(ids, mask, strict=True) if learned]


class Scripted:
    """A rollout engine that says what it is told to; a later request of a sample ends before those of others."""

    version = 3

    def __init__(self, lines):
        self.lines, self.waiting, self.asked = lines, [], []

    def submit(self, key, prompt_ids, sampling):
        self.asked.append((key, list(prompt_ids), sampling))
        self.waiting.insert(0, (key, sampling))

    def finished(self):
        while self.waiting:
            key, sampling = self.waiting.pop(0)
            line = self.lines[key].pop(0)
            if isinstance(line, str):
                yield key, Completion([], [], [], line)
                continue
            ids = line[: sampling.max_new_tokens]
            yield key, Completion(ids, [-0.5] * len(ids), [3] * len(ids), "completed" if ids == line else "truncated")


def episodes(tokenizer, scripts, prompt=PROMPT, max_tokens=400, row=4096):
    samples = [Sample(prompt, [], Sampling(seed=n * 100)) for n in range(len(scripts))]
    rollout = Scripted([[line if isinstance(line, str) else said(tokenizer, line) for line in s] for s in scripts])

    def tool_use(sample):
        return ToolUse(tokenizer, 3, False, repeatable(sample.sampling.seed))

    play(rollout, partial(multi_turn, make=tool_use, max_tokens=max_tokens, row=row), samples)
    for sample, script in zip(samples, scripts, strict=True):
        sample.message = [line for line in script if not isinstance(line, str)][-1]
    return samples, rollout


def test_tokens_in_are_tokens_out(tokenizer):
    right = [call("calculate_math", expression="12 * 3"), answer("It is 36.")]
    (sample,), rollout = episodes(tokenizer, [right])
    messages = [
        *PROMPT.messages,
        right[0],
        {"role": "tool", "content": tools.call("calculate_math", {"expression": "12 * 3"})},
        right[1],
    ]
    ids, mask = render(messages, tokenizer, SCHEMAS)
    whole = sample.prompt_ids + sample.ids
    assert ids[: len(whole)] == whole
    assert mask[: len(whole)] == [False] * len(sample.prompt_ids) + sample.trainable
    assert sample.sampled_ids == said(tokenizer, right[0]) + said(tokenizer, right[1])
    assert [p != 0 for p in sample.log_probs] == [v == 3 for v in sample.versions] == sample.trainable
    assert sample.status == "completed"
    assert sample.info["turns"] == 2
    second = rollout.asked[1]
    assert second[1] == whole[: len(second[1])]
    assert rollout.asked[0][2].seed != second[2].seed, "each turn draws anew"
    assert second[2].max_new_tokens == 400 - (len(second[1]) - len(sample.prompt_ids))


def test_episodes_do_not_wait_and_all_ends_are_known(tokenizer):
    calling = call("calculate_math", expression="1 + 1")
    samples, rollout = episodes(
        tokenizer,
        [
            [answer("36")],
            [calling, calling, calling],
            [calling, answer("It is 36, " * 200)],
            [calling, "failed"],
            [call("calculate_math", expression="1/0"), answer("36.")],
        ],
    )
    assert [sample.status for sample in samples] == ["completed", "truncated", "truncated", "failed", "completed"]
    assert [sample.info["turns"] for sample in samples] == [1, 3, 2, 1, 2]
    assert len(samples[2].ids) <= 400
    order = [key for key, *_ in rollout.asked]
    assert order[:5] == [0, 1, 2, 3, 4]
    assert len(order) == 10
    assert [[c.ok for c in sample.info["calls"]] for sample in samples] == [[], [True] * 3, [True], [True], [False]]
    assert outcome(samples)[0] == 1
    assert outcome(samples)[1] == 0
    assert outcome(samples)[4] == 1
    assert legality(samples) == [1, 1, 1, 1, 0]
    no_room, _ = episodes(tokenizer, [[calling]], max_tokens=len(said(tokenizer, calling)) + 2)
    assert no_room[0].status == "truncated"
    assert all(no_room[0].trainable)


def test_rewards(tokenizer):
    def judged(text, gt, status="completed", calls=()):
        sample = Sample(Prompt(PROMPT.messages, gt=gt), [1], status=status, message={"content": text})
        sample.info["calls"] = list(calls)
        return outcome([sample])[0], legality([sample])[0]

    assert judged("It is 36.", ["36"]) == (1, 1)
    assert judged("It is 35.", ["36"]) == (0, 0)
    assert judged("36 and 20°C", ["36", "21°C"]) == (0.5, 0)
    assert judged("It is 36.", ["36"], status="truncated") == (0, 0)
    assert judged("Hello!", []) == (None, 1)


def test_chance_comes_from_the_seed(tokenizer):
    drawing = [call("random_number", min=1, max=10**9), answer("It is drawn.")]
    once, _ = episodes(tokenizer, [drawing, drawing])
    again, _ = episodes(tokenizer, [drawing, drawing])
    assert once[0].ids == again[0].ids
    assert once[0].ids != once[1].ids


@pytest.mark.parametrize("file", ["agent.jsonl", "agent_valid.jsonl", "agent_mixed.jsonl", "agent_mixed_valid.jsonl"])
def test_every_row_of_the_small_world_can_be_run(world, tokenizer, file):
    for line in (world / file).read_text(encoding="utf-8").splitlines()[:60]:
        prompt = read_prompt(json.loads(line))
        environment = ToolUse(tokenizer)
        assert environment.reset(prompt)
        for tool in prompt.tools[:1]:
            observed, done, info = environment.step(said(tokenizer, call(tool["function"]["name"])))
            assert observed
            assert not done
            assert len(info["calls"]) == 1
        observed, done, info = environment.step(said(tokenizer, answer(", ".join(prompt.gt))))
        assert (observed, done, info["finished"]) == ([], True, True)


def test_a_published_row_can_be_run(tokenizer):
    """The shape of MiniMind's agent_rl: tools as a JSON string, an answer to be ignored, an argument of their own."""
    weather = {
        "type": "function",
        "function": {
            "name": "get_current_weather",
            "description": "获取指定城市的当前天气信息",
            "parameters": {
                "type": "object",
                "properties": {
                    "location": {"type": "string", "description": "城市名称"},
                    "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
                },
                "required": ["location"],
            },
        },
    }
    row = {
        "conversations": [
            {"role": "system", "content": "", "tools": json.dumps([weather], ensure_ascii=False)},
            {"role": "user", "content": "北京天气怎么样？"},
            {"role": "assistant", "content": "无"},
        ],
        "gt": ["24°C"],
    }
    prompt = read_prompt(row)
    asking = call("get_current_weather", location="北京", unit="celsius")
    (sample,), _ = episodes(tokenizer, [[asking, answer("北京24°C，晴。")]], prompt)
    assert sample.status == "completed"
    assert outcome([sample]) == [1]
    assert legality([sample]) == [1]


def test_an_episode_that_outgrows_its_row_is_cut_off_and_one_without_room_is_left_out(tokenizer, capsys):
    right = [call("calculate_math", expression="12 * 3"), answer("It is 36.")]
    (whole,), _ = episodes(tokenizer, [right])
    size = len(whole.prompt_ids) + len(said(tokenizer, right[0]))
    (cut,), rollout = episodes(tokenizer, [right], row=size + 2)
    assert (cut.status, cut.info["turns"]) == ("truncated", 1)
    assert all(len(ids) + sampling.max_new_tokens <= size + 2 for _, ids, sampling in rollout.asked)
    (none,), rollout = episodes(tokenizer, [right], row=len(whole.prompt_ids))
    assert (none.status, none.ids, rollout.asked) == ("failed", [], [])
    assert "data.sequence_length" in " ".join(capsys.readouterr().err.split())
