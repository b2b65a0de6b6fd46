"""Rewards one by one, and what happens to a run when one of them misbehaves."""

import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from toys import said

from minimind.data.conversations import read_turns
from minimind.errors import UsageError
from minimind.model.qwen3 import Scorer
from minimind.model.store import save_model
from minimind.rl import rewards
from minimind.rl.judge import Rewards
from minimind.rl.rewards import RewardContext, reward
from minimind.rl.settings import RlConfig, ScoringConfig


def rewards_of(recipe, tokenizer):
    return Rewards(RewardContext(recipe.scoring, tokenizer, recipe.rl.max_new_tokens, torch.device("cpu")))


@pytest.fixture
def judged(recipe, tokenizer):
    """Reward of samples under one name."""

    def judge(name, *samples, **options):
        recipe.scoring.weights = {name: 1.0}
        for option, value in options.items():
            setattr(recipe.scoring, option, value)
        rewards_of(recipe, tokenizer)(samples)
        return [sample.rewards[name] for sample in samples]

    return judge


def test_answers_are_compared_with_what_is_expected(judged, tokenizer):
    def answers(name, *pairs):
        return judged(name, *(said(tokenizer, text, "<|im_end|>", gt=gt) for text, gt in pairs))

    assert answers("exact", ("7.", ["7"]), (" Seven。", ["7", "Seven"]), ("3 + 4 = 7", ["7"])) == [1, 1, 0]
    numeric = [("3 + 4 = 7.", "7"), ("7 or 8", "7"), ("1,234.50", "1234.5"), ("-3", "3"), ("none", "7"), ("", "7")]
    assert answers("numeric", *((text, [gt]) for text, gt in numeric)) == [1, 0, 1, 0, 0, 0]
    hostile = ["__import__('os').system('x')", "9**9**9", "1e999", "7" * 5000, "\\boxed{7}", "٣"]
    assert answers("numeric", *((text, ["7"]) for text in hostile)) == [0, 0, 0, 0, 1, 0]
    choices = [("The answer is (B).", "B"), ("A or B? B", "B"), ("Because", "B"), ("B, not C", "B"), ("选B。", "B")]
    assert answers("choice", *((text, [gt]) for text, gt in choices)) == [1, 1, 0, 0, 1]
    assert answers("exact", ("7", [])) == [None], "nothing is known"


def test_form(judged, tokenizer):
    end = "<|im_end|>"
    samples = [
        said(tokenizer, "Hello.", end),
        said(tokenizer, "Hello.", status="truncated"),
        said(tokenizer, "I think", "</think>", "\n\nHello.", end, thinking=True),
        said(tokenizer, "I think and think", end, thinking=True),
        said(tokenizer, "Well ", "<think>", "hm", end),
        said(tokenizer, end),
    ]
    assert judged("closed", *samples) == [1, 0, 1, 0, 0, 0]
    episode = said(tokenizer, "Call.", "</think>", end, "Done.", "</think>", "\n\n7", end, thinking=True)
    episode.info["turns"], episode.message = 2, {"role": "assistant", "content": "7"}
    assert judged("closed", episode) == [1], "each turn's prompt has opened a block"
    assert judged("unfinished", *samples) == [0, -1, 0, 0, 0, 0]
    assert judged(
        "same_language", said(tokenizer, "你好", question="你是谁？"), said(tokenizer, "Hi", question="你是谁？")
    ) == [1, 0]


def test_length_and_repetition(judged, recipe, tokenizer):
    recipe.rl.max_new_tokens = 20
    lengths = [said(tokenizer, *["<think>"] * n) for n in (5, 10, 15, 20)]
    assert judged("overlong", *lengths, overlong_buffer=10) == [0, 0, -0.5, -1]
    once, again = said(tokenizer, "春眠不觉晓，处处闻啼鸟。"), said(tokenizer, "好" * 30)
    values = judged("repetition", once, again, said(tokenizer, "a"), ngram=3)
    assert values[0] == values[2] == 0
    assert values[1] < -0.7


def test_tool_calls_must_fit_the_schema(judged, tokenizer):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    tools = [{"type": "function", "function": {"name": "roll", "parameters": schema}}]

    def call(text):
        return said(tokenizer, "<tool_call>", f"\n{text}\n", "</tool_call>", tools=tools)

    good, wrong = '{"name": "roll", "arguments": {"n": 3}}', '{"name": "roll", "arguments": {"n": "x"}}'
    samples = [call(good), call(wrong), call('{"name": "rm", "arguments": {}}'), call("{oops"), said(tokenizer, "Hi")]
    assert judged("legal_calls", *samples) == [1, 0, 0, 0, 1]
    for other in ({"name": "roll", "parameters": schema}, {"type": "function", "function": {"name": "roll"}}):
        (read,) = read_turns(
            [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}], "m", [other]
        ).tools
        assert read["function"]["name"] == "roll"
        assert judged("legal_calls", said(tokenizer, "Hi", tools=[other, {"type": "web_search"}])) == [1]


def test_components_are_weighted_and_kept_apart(recipe, tokenizer):
    recipe.scoring.weights = {"exact": 2.0, "unfinished": 0.5}
    right, cut = said(tokenizer, "7"), said(tokenizer, "8", status="truncated")
    lost = said(tokenizer, "7", status="aborted")
    rewards_of(recipe, tokenizer)([right, cut, lost])
    assert (right.rewards, right.reward) == ({"exact": 1, "unfinished": 0}, 2)
    assert (cut.rewards, cut.reward) == ({"exact": 0, "unfinished": -1}, -0.5)
    assert (lost.rewards, lost.reward) == ({}, None)
    recipe.scoring.clip = 0.4
    rewards_of(recipe, tokenizer)([right])
    assert right.reward == pytest.approx(0.8)


def test_a_reward_of_weight_0_is_switched_off(recipe, tokenizer):
    recipe.scoring = ScoringConfig({"numeric": 0.0, "unfinished": 1.0})
    judge = rewards_of(recipe, tokenizer)
    unknown = said(tokenizer, "7", gt=())
    judge([unknown])
    assert judge.names == ["unfinished"]
    assert (unknown.rewards, unknown.reward) == ({"unfinished": 0}, 0)


def test_a_reward_that_raises_or_hangs_spoils_only_its_own(recipe, tokenizer, capsys):
    calls = []

    def sometimes(samples):
        calls.append(len(samples))
        if any("bad" in sample.answer for sample in samples):
            raise ZeroDivisionError("division by zero")
        return [1.0] * len(samples)

    def slow(samples):
        time.sleep(0.5)
        return [1.0] * len(samples)

    def wrong(samples):
        return [1.0]

    def odd(samples):
        return [float("nan"), None, 3.0]

    def words(samples):
        return ["1.0" if len(samples) > 1 else 10**400] * len(samples)

    for function in (sometimes, slow, wrong, odd, words):
        reward(function)
    texts = ("good", "bad", "good")
    expected = {"sometimes": [1, None, 1], "slow": [None] * 3, "wrong": [1, 1, 1], "odd": [None, None, 3]}
    expected["words"] = [None] * 3
    try:
        for name, values in expected.items():
            recipe.scoring.timeout = 0.1 if name == "slow" else 30.0
            samples = [said(tokenizer, text) for text in texts]
            recipe.scoring.weights = {name: 1.0, "unfinished": 1.0}
            rewards_of(recipe, tokenizer)(samples)
            assert [sample.rewards[name] for sample in samples] == values, name
            assert [sample.reward for sample in samples] == values
    finally:
        for name in expected:
            del rewards.BUILDERS[name]
    assert calls == [3, 1, 1, 1]
    warnings = capsys.readouterr().err
    assert warnings.count("division by zero") == 1
    assert "scoring.timeout" in warnings


def test_a_reward_of_ones_own(recipe, tokenizer, folder):
    (folder / "mine.py").write_text(
        "from minimind.rl.rewards import reward\n\n@reward\ndef polite(samples):\n"
        "    return [float('please' in sample.answer) for sample in samples]\n",
        encoding="utf-8",
    )
    recipe.scoring.weights, recipe.scoring.file = {"polite": 1.0}, str(folder / "mine.py")
    sample = said(tokenizer, "Yes, please")
    rewards_of(recipe, tokenizer)([sample])
    assert sample.reward == 1
    recipe.scoring.weights, recipe.scoring.file = {"polit": 1.0}, ""
    with pytest.raises(UsageError, match="did you mean 'polite'"):
        rewards_of(recipe, tokenizer)
    recipe.scoring.file = "nowhere.py"
    with pytest.raises(UsageError, match="no Python file"):
        rewards_of(recipe, tokenizer)
    del rewards.BUILDERS["polite"]


class Service(BaseHTTPRequestHandler):
    """A judge (`/v1/chat/completions`) and a scoring service (`/score`)."""

    asked: list = []  # noqa: RUF012

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Service.asked.append(body)
        if self.path == "/score":
            odd = {"?": None, "odd": "much"}
            reply = {"scores": [odd.get(row["answer"], len(row["answer"])) for row in body["samples"]]}
        else:
            grade = 10 if "good" in body["messages"][0]["content"].split("<answer>")[-1] else 1
            content = json.dumps(dict.fromkeys(("accuracy", "completeness", "logic", "language"), grade))
            reply = {"choices": [{"message": {"content": content}}]}
        data = json.dumps(reply).encode()
        self.send_response(400 if "refused" in str(body.get("messages")) else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def address():
    Service.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_judge_grades_each_answer_once(judged, tokenizer, address):
    samples = [said(tokenizer, text) for text in ("good", "poor", "good")]
    assert judged("judge", *samples, judge=f"{address}/v1", judge_model="m") == [1, 0, 1]
    assert len(Service.asked) == 2
    thought = said(tokenizer, "poor", "</think>", "\n\ngood", thinking=True)
    assert judged("judge", thought, thinking_weight=0.5) == [pytest.approx(1 / 1.5)]


def test_one_odd_sample_spoils_only_itself(judged, tokenizer, address, capsys):
    samples = [said(tokenizer, text) for text in ("good", "refused", "poor")]
    assert judged("judge", *samples, judge=f"{address}/v1", judge_model="m") == [1, None, 0]
    asked = len(Service.asked)
    assert asked == 3
    assert judged("judge", samples[1], judge=f"{address}/v1", judge_model="m") == [None], "all of them: said, once"
    assert "refuses a request" in capsys.readouterr().err
    assert len(Service.asked) == asked + 1
    odd = [said(tokenizer, "odd"), said(tokenizer, "fine")]
    assert judged("service", *odd, service=f"{address}/score") == [None, 4]


def test_a_scoring_service(judged, tokenizer, address):
    samples = [said(tokenizer, "four"), said(tokenizer, "?")]
    assert judged("service", *samples, service=f"{address}/score") == [4, None]
    row = Service.asked[0]["samples"][0]
    assert (row["answer"], row["gt"], row["messages"][0]["content"]) == ("four", ["7"], "3 + 4?")


def reward_model(model, tokenizer, folder):
    torch.manual_seed(3)
    scorer = Scorer(model.config)
    with torch.no_grad():
        scorer.score.weight.normal_()
    save_model(scorer, folder, "float32")
    tokenizer.save(folder)
    return scorer


def test_our_reward_model_is_that_of_transformers(judged, model, tokenizer, folder):
    transformers = pytest.importorskip("transformers")
    reward_model(model, tokenizer, folder / "rm")
    samples = [said(tokenizer, text) for text in ("Hello there.", "你好！", "1 2 3 4 5 6 7")]
    found = judged("reward_model", *samples, reward_model=str(folder / "rm"))
    assert max(found) - min(found) > 0.01
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "rm").eval()
    from minimind.tokenizer.chat import render

    for sample, value in zip(samples, found, strict=True):
        ids, _ = render([*sample.prompt.messages, {"role": "assistant", "content": sample.answer}], tokenizer)
        with torch.no_grad():
            hidden = theirs.model(torch.tensor([ids])).last_hidden_state[0, -1]
        assert value == pytest.approx(theirs.score(hidden)[0].item(), abs=1e-4)


def test_foreign_code_runs_only_when_it_is_trusted(judged, tokenizer, folder):
    config = {"model_type": "internlm2", "auto_map": {"AutoModel": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "evil.py").write_text("raise SystemExit('it ran')", encoding="utf-8")
    with pytest.raises(UsageError, match="trust_remote_code"):
        judged("reward_model", said(tokenizer, "x"), reward_model=str(folder))


def test_a_language_model_is_no_reward_model(judged, model, tokenizer, folder):
    save_model(model, folder, "float32")
    tokenizer.save(folder)
    with pytest.raises(UsageError, match="is a language model: it writes texts and scores none"):
        judged("reward_model", said(tokenizer, "x"), reward_model=str(folder))


@pytest.mark.parametrize("name", ["judge", "reward_model", "service"])
def test_what_a_reward_needs_is_asked_for(judged, tokenizer, name):
    with pytest.raises(UsageError, match=f"scoring.{name}"):
        judged(name, said(tokenizer, "x"))


@pytest.mark.parametrize(("replay", "dump", "same"), [("roll/", "roll", 1), ("./roll", "roll", 1), (".", "", 0)])
def test_a_replay_is_not_kept_over_what_it_reads(replay, dump, same):
    config = RlConfig(replay=replay, dump=dump)
    if not same:
        config.check()
        return
    with pytest.raises(UsageError, match="the same folder"):
        config.check()


HANGING = """
import time
from minimind.rl.settings import ScoringConfig
from minimind.rl.judge import Rewards
from minimind.rl.rewards import RewardContext, reward
from minimind.rl.rollout import Sample

@reward
def hangs(samples):
    time.sleep(100)

sample = Sample(None, [1])
Rewards(RewardContext(ScoringConfig(weights={"hangs": 1.0}, timeout=0.1), None, 8, None))([sample])
print(sample.reward)
"""


def test_a_reward_that_hangs_does_not_keep_the_program_from_ending():
    ended = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "None\n"), ended.stderr
