"""ollama's folder: its template says what ours says, and is built so that ollama finds the tags in it.

ollama itself is not run here; its template language is, in as much as the template needs.
"""

import itertools
import json
import re
import shutil

import pytest
from gotemplate import render as go
from small_models import ASKED, CALL, GREETED, THOUGHT, TOKENIZER, TOOL

from minimind.convert.ollama import TEMPLATE, export_ollama, make_modelfile
from minimind.errors import UserError
from minimind.tokenizer.chat import normalize, render

TEXT = TEMPLATE.read_text(encoding="utf-8").rstrip()
SYSTEM = {"role": "system", "content": "Be brief.\n简短。"}
ANSWER = {"role": "assistant", "content": "one\ntwo"}
TWO_CALLS = {
    "role": "assistant",
    "content": "Let me see.",
    "reasoning_content": "Two cities.",
    "tool_calls": [{"name": "get_current_weather", "arguments": {"city": city}} for city in ("Paris", "北京")],
}
RESULTS = [{"role": "tool", "content": '{"t": 20}'}, {"role": "tool", "content": "晴"}]
CONVERSATIONS = [
    ASKED,
    [SYSTEM, *GREETED],
    [*GREETED, ANSWER, *ASKED],
    [SYSTEM, *GREETED, THOUGHT, *ASKED],
    [*ASKED, CALL, RESULTS[0]],
    [*ASKED, TWO_CALLS, *RESULTS],
    [SYSTEM, *ASKED, TWO_CALLS, *RESULTS, ANSWER, *GREETED],
    [*ASKED, CALL, RESULTS[1], *GREETED],
]


def as_ollama(messages, tools, thinking):
    """What ollama hands to a template: system prompts apart, and Go's names."""
    turns = [normalize(message) for message in messages]
    return {
        "System": "\n\n".join(turn["content"] for turn in turns if turn["role"] == "system"),
        "Tools": tools,
        "Messages": [
            {
                "Role": turn["role"],
                "Content": turn["content"],
                "Thinking": turn.get("reasoning_content", ""),
                "ToolCalls": [
                    {"Function": {"Name": call["function"]["name"], "Arguments": call["function"]["arguments"]}}
                    for call in turn.get("tool_calls", [])
                ],
            }
            for turn in turns
        ],
        "IsThinkSet": thinking is not None,
        "Think": bool(thinking),
    }


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_the_go_template_gives_our_prompt(messages):
    for tools, thinking in itertools.product(([], [TOOL], [TOOL, {"name": "f"}]), (None, False, True)):
        ids, _ = render(messages, TOKENIZER, tools, open_thinking=bool(thinking), add_generation_prompt=True)
        assert go(TEXT, as_ollama(messages, tools, thinking)) == TOKENIZER.decode(ids)


def test_an_answer_that_was_begun_is_continued():
    begun = [*GREETED, {"role": "assistant", "content": "one"}]
    assert go(TEXT, as_ollama(begun, [], None)).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\none")


def test_ollama_finds_the_tags_of_thoughts_and_calls():
    """It reads them off the template: the text around `.Thinking`, and the first text of `if .ToolCalls`."""
    assert re.search(r"\{\{ if \.Thinking \}\}<think>\n\{\{ \.Thinking \}\}\n</think>\n\n\{\{ else", TEXT)
    assert re.findall(r"\{\{-? if [^}(]*\.ToolCalls[^}]*\}\}(\S*)", TEXT) == ["<tool_call>"]


def test_the_modelfile(taught):
    lines = make_modelfile(taught).splitlines()
    assert lines[0] == "FROM ./model.gguf"
    assert lines[1].startswith('TEMPLATE """{{- if or .System .Tools }}')
    assert '"""' not in TEXT
    assert [line for line in lines if line.startswith("PARAMETER stop")] == [
        f'PARAMETER stop "{stop}"' for stop in ("<|im_end|>", "<|im_start|>", "<|endoftext|>")
    ]
    assert "PARAMETER num_ctx 1024" in lines
    assert "PARAMETER repeat_penalty 1.0" in lines


def test_sampling_comes_from_the_model(taught, tmp_path):
    model = shutil.copytree(taught, tmp_path / "model")
    path = model / "generation_config.json"
    path.write_text(json.dumps({"temperature": 0.25, "repetition_penalty": 1.05}), encoding="utf-8")
    text = make_modelfile(model)
    assert "PARAMETER temperature 0.25\n" in text
    assert "PARAMETER repeat_penalty 1.05\n" in text
    path.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="not readable JSON"):
        make_modelfile(model)


def test_the_folder_is_complete_or_not_there(taught, tmp_path):
    pytest.importorskip("gguf")
    figures = export_ollama(taught, tmp_path / "out", "q4_0")
    assert figures["file"] == str(tmp_path / "out" / "Modelfile")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"Modelfile", "model.gguf"}
    with pytest.raises(UserError, match="is there already"):
        export_ollama(taught, tmp_path / "out")
    broken = shutil.copytree(taught, tmp_path / "model")
    (broken / "model.safetensors").unlink()
    with pytest.raises(UserError, match="neither"):
        export_ollama(broken, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]
