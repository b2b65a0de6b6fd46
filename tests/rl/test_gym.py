"""Environments in gymnasium's form: what they say is read, what the policy says is an action, their rewards add up."""

import sys
from functools import partial
from types import SimpleNamespace

import pytest

from minimind.data.prompts import Prompt
from minimind.engine.sampling import Sampling
from minimind.errors import UserError
from minimind.rl import gym
from minimind.rl.environment import multi_turn, returned
from minimind.rl.rollout import Sample, play
from minimind.tokenizer.chat import render

ECHO = """
class Echo:
    def reset(self, *, seed=None, options=None):
        self.said = []
        return f"seed {seed}, {options['prompt']}, {options['gt']}", {}

    def step(self, action):
        if action == "break":
            raise ZeroDivisionError("by nothing")
        if action in ("short", "nothing"):
            return ("x", 1.0, False, {}) if action == "short" else ("x", None, False, False, {})
        self.said.append(action)
        return f"you said {action}", 0.5, action == "stop", action == "cut", {}
"""


@pytest.fixture
def make(tmp_path):
    (tmp_path / "echo.py").write_text(ECHO, encoding="utf-8")
    return gym.load(f"{tmp_path / 'echo.py'}:Echo")


@pytest.fixture
def spoken(tokenizer):
    return lambda text: [*tokenizer.encode(text), tokenizer.control_id("<|im_end|>")]


def played(make, tokenizer, turns, thinking=False, max_turns=4):
    """An episode in which the policy says `turns`."""
    prompt = Prompt([{"role": "user", "content": "Play."}], gt=["7"])
    sample = Sample(prompt, [], Sampling(seed=3), thinking=thinking)

    class Policy:
        def __init__(self):
            self.turns, self.asked = iter(turns), []

        def submit(self, key, ids, sampling):
            self.asked.append((key, ids, sampling))

        def finished(self):
            while self.asked:
                key, _, _ = self.asked.pop(0)
                said = next(self.turns)
                scores, versions = [-1.0] * len(said), [0] * len(said)
                yield key, SimpleNamespace(ids=said, log_probs=scores, versions=versions, status="completed")

    def environment(sample):
        return gym.GymEnvironment(make, tokenizer, max_turns, sample.thinking, sample.sampling.seed)

    play(Policy(), partial(multi_turn, make=environment, max_tokens=500, row=4096), [sample])
    return sample


@pytest.mark.parametrize("thinking", [False, True])
def test_an_episode_is_a_conversation(make, tokenizer, spoken, thinking):
    thought = [*tokenizer.encode("hm\n"), tokenizer.control_id("</think>")] if thinking else []
    turns = [thought + spoken("\n\none" if thinking else "one"), thought + spoken("stop")]
    sample = played(make, tokenizer, turns, thinking)
    first = [{"role": "user", "content": "Play.\nseed 3, Play., ['7']"}]
    assert sample.prompt_ids == render(first, tokenizer, None, thinking, add_generation_prompt=True)[0]
    read = [id for id, chosen in zip(sample.ids, sample.trainable, strict=True) if not chosen]
    start, end = (tokenizer.control_id(f"<|im_{what}|>") for what in ("start", "end"))
    between = [*tokenizer.encode("\n"), start, *tokenizer.encode("user\nyou said one"), end, *tokenizer.encode("\n")]
    assert read[: len(between)] == between
    assert tokenizer.decode(read).endswith("<think>\n" if thinking else "</think>\n\n")
    assert sample.sampled_ids == turns[0] + turns[1]
    assert (sample.status, sample.info["turns"], returned([sample])) == ("completed", 2, [1.0])


@pytest.mark.parametrize(("turns", "most"), [(["cut"], 4), (["one", "two"], 2)])
def test_an_episode_may_be_cut_off(make, tokenizer, spoken, turns, most):
    sample = played(make, tokenizer, [spoken(turn) for turn in turns], max_turns=most)
    assert sample.status == "truncated"
    assert returned([sample]) == [0.5 * len(turns)]


def test_mistakes_are_one_sentence(make, tokenizer, spoken, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="step failed: ZeroDivisionError: by nothing"):
        played(make, tokenizer, [spoken("break")])
    for action, said in (("short", "step failed: ValueError: not enough"), ("nothing", "step failed: TypeError")):
        with pytest.raises(UserError, match=said):
            played(make, tokenizer, [spoken(action)])
    bare = type("Bare", (), {"reset": lambda self, seed, options: "the observation alone"})
    with pytest.raises(UserError, match="reset failed: ValueError"):
        played(bare, tokenizer, [])
    with pytest.raises(UserError, match=r"reset failed: TypeError: .*'size'"):
        played(lambda size: None, tokenizer, [])
    (tmp_path / "broken_game.py").write_text("1 / 0", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for place in (tmp_path / "broken_game.py", "broken_game"):
        with pytest.raises(UserError, match=r"broken_game.*: cannot be imported: ZeroDivisionError"):
            gym.load(f"{place}:Game")
    assert "user_broken_game" not in sys.modules
    for name, said in (
        ("nowhere.py:Echo", "agent.environment = 'nowhere.py' is no Python file"),
        (f"{tmp_path / 'echo.py'}:Ecko", "nothing called 'Ecko'"),
        ("no.such.module:Echo", "write FILE.py:NAME or MODULE:NAME"),
        ("Echo", "write FILE.py:NAME or MODULE:NAME"),
    ):
        with pytest.raises(UserError, match=said):
            gym.load(name)
    assert gym.load("collections:OrderedDict")() == {}


def test_a_file_may_hold_what_looks_its_own_module_up(tmp_path):
    lines = ("from __future__ import annotations", "from dataclasses import dataclass", "@dataclass", "class Board:")
    (tmp_path / "board.py").write_text("\n".join((*lines, "    stones: int = 3")), encoding="utf-8")
    assert gym.load(f"{tmp_path / 'board.py'}:Board")().stones == 3
