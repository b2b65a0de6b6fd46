"""Every script in examples/ does what it says, on a toy model (`openai_client.py`: tests/serve/test_clients.py)."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from minimind.api import LanguageModel

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """`run(script, *arguments)`: what the script printed; it works in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINIMIND_COMPILE", "0")

    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        return capfd.readouterr().out

    return run


def test_train_on_my_text(run, tmp_path):
    (tmp_path / "novel.txt").write_text("It was a dark night.\n\n天黑了。\n\nThe end.", encoding="utf-8")
    assert run("train_on_my_text.py", "novel.txt", 2).startswith("It was a dark night.")
    assert (tmp_path / "runs/my-text/model/model.safetensors").is_file()


def test_lora_persona(run, tuned, tmp_path):
    before = (tuned / "model/model.safetensors").read_bytes()
    lines = run("lora_persona.py", tuned / "model", 3).splitlines()
    assert [line.split("?")[0] for line in lines if "?" in line].count("Who are you") == 2
    assert (tmp_path / "runs/persona/model/adapter_model.safetensors").is_file()
    assert (tuned / "model/model.safetensors").read_bytes() == before


def test_custom_reward(run, tuned):
    assert re.findall(
        r"^step +(\d+) +mean reward -?\d\.\d{3}$", run("custom_reward.py", tuned / "model", 2), re.MULTILINE
    )


def test_nim(run, tuned, tmp_path):
    won = re.findall(r"^step +(\d+) +won +(\d+)%$", run("nim.py", tuned / "model", 4, 20), re.MULTILINE)
    assert [int(step) for step, _ in won] == [1, 3]
    assert "polyline" in (tmp_path / "runs/nim/won.svg").read_text(encoding="utf-8")


def test_nim_is_nim(monkeypatch):
    nim = runpy.run_path(str(EXAMPLES / "nim.py"))
    for seed in range(50):
        turns = nim["game"](seed)
        env, moves = nim["Nim"](), [turn["content"] for turn in turns if turn["role"] == "assistant"]
        left = int(env.reset(seed=seed)[0].split()[0])
        for move in moves:
            said, reward, over, _, _ = env.step(move)
        assert over
        assert reward in (1.0, -1.0)
        assert 0 <= env.left < left
        if reward == 1:
            assert (env.left, said) == (0, "You win.")
    for move in ("0", "4", "two", ""):
        env.reset(seed=0)
        assert env.step(move)[1:3] == (-1.0, True)


def test_custom_tool(run, tuned, monkeypatch):
    starts, seen = iter(["2024-01-01", "yesterday"]), []

    def chat(self, messages, tools, **_):  # a toy model calls nothing
        seen[:] = [*messages]
        start = next(starts, None)
        if start is None:
            return {"role": "assistant", "content": "I give up."}
        (tool,) = tools
        call = {"name": tool["function"]["name"], "arguments": json.dumps({"start": start, "end": "2024-12-31"})}
        return {"role": "assistant", "content": "", "tool_calls": [{"function": call}]}

    monkeypatch.setattr(LanguageModel, "chat", chat)
    lines = run("custom_tool.py", tuned / "model", "How many days?").splitlines()
    assert lines[0].endswith('-> {"days": 365}')
    assert "error" in lines[1]
    assert lines[2] == "I give up."
    assert [message["role"] for message in seen] == ["user", "assistant", "tool", "assistant", "tool"]


def test_a_tool_of_ones_own_in_chat(minimind, tuned):
    ended = minimind(
        "chat", tuned / "model", "--tools", EXAMPLES / "custom_tool.py", "--prompt", "hi", "--device", "cpu"
    )
    assert ended.code == 0, ended.err


def test_inside_transformers(run, tuned):
    pytest.importorskip("transformers")
    assert run("inside_transformers.py", tuned / "model").startswith("Qwen3ForCausalLM ")


def test_the_list_names_every_example():
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in EXAMPLES.rglob("*.*"):
        name = path.relative_to(EXAMPLES).as_posix()
        if name != "README.md" and "__pycache__" not in name:
            assert text.count(f"]({name})") == 2, f"{name}, in both languages"


def test_the_page_for_browsers_loads_nothing_from_elsewhere_and_looks_where_the_export_writes():
    """It was tried in Chromium by hand: transformers.js and its runtime are 475 MB of npm packages."""
    page = (EXAMPLES / "browser" / "index.html").read_text(encoding="utf-8")
    assert "http" not in page
    for place in re.findall(r'"(\./[^"]+)"', page):
        assert place.startswith("./node_modules/") or place == "./"
    assert 'from_pretrained("model"' in page
