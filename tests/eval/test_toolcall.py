"""`eval tools`: held-out tasks, the right judgement of right and wrong dialogues, and the command."""

import json
import random

import pytest
import torch

from minimind import tools
from minimind.config import PRESETS
from minimind.data.smallworld import tooltasks
from minimind.engine import decode
from minimind.engine.grammar import Grammars
from minimind.eval import toolcall
from minimind.model.qwen3 import Transformer
from minimind.model.store import save_model
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import render

TOKENIZER = Tokenizer.load("default")


def said(message):
    ids, mask = render([{"role": "user", "content": "?"}, message], TOKENIZER)
    return [id for id, learned in zip(ids, mask, strict=True) if learned]


def play(case, wrong=False):
    """The ids of a model that does everything right, or has the last number or call wrong."""
    request = next((t for t in tooltasks.held_out() if t.text == case.messages[-1]["content"]), None)
    calls = [request.call] if request else list(case.calls)
    if case.max_turns == 1:
        calls = (
            [{**calls[0], "arguments": {f"no_{k}": v for k, v in calls[0]["arguments"].items()}}] if wrong else calls
        )
        return [said({"role": "assistant", "content": "", "tool_calls": calls})]
    if wrong:
        calls = [{"name": "text_length", "arguments": {"text": "wrong"}}, *calls[:-1]]
    answer = "no idea" if wrong else f"It is {', '.join(case.gt)}."
    asking = [said({"role": "assistant", "content": "", "tool_calls": calls})] if calls else []
    return [*asking, said({"role": "assistant", "content": answer})]


def judged(cases, monkeypatch, wrong=False):
    def converse(engine, dialogues, sampling, max_tokens):
        for case, dialogue in zip(cases, dialogues, strict=True):
            for ids in play(case, wrong):
                dialogue.take(ids)
            yield dialogue

    monkeypatch.setattr(toolcall, "converse", converse)
    monkeypatch.setattr(toolcall, "Engine", lambda *args, **options: None)
    return toolcall.run(None, TOKENIZER, cases, torch.float32)


@pytest.mark.parametrize("wrong", [False, True])
def test_right_and_wrong_are_told_apart(monkeypatch, wrong):
    cases = toolcall.arithmetic(24) + toolcall.choice() + toolcall.new()
    rows = judged(cases, monkeypatch, wrong)
    assert [row["ok"] for row in rows] == [not wrong] * len(cases)
    figures = toolcall.figures(rows)
    assert figures["score"] == float(not wrong)
    assert figures["by_kind"]["level 2"] == {"score": float(not wrong), "n": 8}
    assert figures["by_kind"]["no tool"]["n"] == figures["by_kind"]["two tools"]["n"] == 8
    assert set(tools.BUILTIN) <= set(figures["by_kind"])


def test_tasks_are_held_out_repeatable_and_not_guessable():
    every = tooltasks.held_out()
    assert len(every) == len({task.text for task in every}) == 240
    assert every[:20] == tooltasks.held_out(count=20)
    assert {task.level for task in every} == {1, 2, 3}
    assert {task.language for task in every} == {"en", "zh"}
    rng, draw = random.Random(0), tooltasks.training()
    held = {task.arguments["expression"] for task in every}
    drawn = [draw(1 + i % 3, ("en", "zh")[i % 2], rng) for i in range(500)]
    assert not held & {task.arguments["expression"] for task in drawn}
    for task in every:
        assert "error" not in tools.call(task.tool, task.arguments)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("untrained") / "model"
    torch.manual_seed(0)
    config = PRESETS["tiny"].with_(
        vocab_size=TOKENIZER.vocab_size, num_hidden_layers=1, hidden_size=32, intermediate_size=32
    )
    save_model(Transformer(config), folder)
    TOKENIZER.save(folder)
    return folder


def test_the_command_prints_figures_and_cases(minimind, untrained, monkeypatch):
    monkeypatch.setattr(decode, "make", lambda *_: None)  # not worth compiling for so little
    monkeypatch.setattr(toolcall, "NEW", 8)
    monkeypatch.setattr(toolcall, "MAX_TOKENS", 32)  # it does not know how to end
    argv = ["eval", "tools", untrained, "--count", "4", "--device", "cpu"]
    ended = minimind(*argv, "--json")
    assert ended.code == 0, ended.err
    figures = json.loads(ended.out.splitlines()[-1])
    assert figures["score"] == 0
    assert figures["n"] == len(figures["cases"]) == 4
    for case in figures["cases"]:
        assert {"prompt", "gt", "pred", "ok"} <= case.keys()
    assert figures["choice"]["n"] == 32
    assert figures["new"]["n"] == toolcall.NEW
    shown = minimind(*argv, "--tasks", "arithmetic")
    assert shown.out.count("✗") == 4
    assert "score 0.0%" in shown.out


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["--count", "0"], 2, "1 to 240"),
        (["--count", "999"], 2, "1 to 240"),
        (["--temperature", "-1"], 2, "temperature"),
    ],
)
def test_mistakes_are_one_sentence(minimind, untrained, argv, code, words):
    ended = minimind("eval", "tools", untrained, "--device", "cpu", *argv)
    assert ended.code == code
    assert words in ended.err
    assert "Traceback" not in ended.err


def test_a_short_context_is_said(minimind, model_dir):
    ended = minimind("eval", "tools", model_dir, "--device", "cpu")
    assert ended.code == 2
    assert "context is 256" in ended.err


def test_strict_lets_the_right_calls_be_written_and_no_wrong_tool(monkeypatch):
    cases, seen = toolcall.arithmetic(6) + toolcall.choice() + toolcall.new()[:20], []

    def converse(engine, dialogues, sampling, max_tokens):
        seen.extend(dialogues)
        return iter(())

    monkeypatch.setattr(toolcall, "converse", converse)
    monkeypatch.setattr(toolcall, "Engine", lambda *args, **options: None)
    toolcall.run(None, TOKENIZER, cases, torch.float32, strict=True)
    grammars = Grammars(TOKENIZER, TOKENIZER.vocab_size)
    for case, dialogue in zip(cases, seen, strict=True):
        for ids in play(case):
            assert grammars.matcher(dialogue.grammar).validate_tokens(ids) == len(ids), TOKENIZER.decode(ids)
    for ids in play(cases[-1], wrong=True):  # the name of an argument
        assert grammars.matcher(seen[-1].grammar).validate_tokens(ids) < len(ids)
    more = {"name": cases[-1].calls[0]["name"], "arguments": cases[-1].calls[0]["arguments"] | {"more": 1}}
    ids = said({"role": "assistant", "content": "", "tool_calls": [more]})
    assert grammars.matcher(seen[-1].grammar).validate_tokens(ids) < len(ids), "an argument that it does not have"
    unknown = said({"role": "assistant", "content": "", "tool_calls": [{"name": "nothing_such", "arguments": {}}]})
    assert grammars.matcher(seen[0].grammar).validate_tokens(unknown) < len(unknown)
