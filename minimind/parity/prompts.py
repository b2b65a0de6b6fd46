"""What every program is asked: plain text, chat, thinking and tools, in both languages."""

from dataclasses import dataclass
from typing import Any

from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import render


@dataclass(frozen=True)
class Prompt:
    """A text to go on with, or a conversation to answer."""

    name: str
    text: str = ""
    """Plain text; empty for a conversation."""
    messages: tuple[dict[str, Any], ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    thinking: bool = False

    def ids(self, tokenizer: Tokenizer) -> list[int]:
        """Token ids as we render them, those of a plain text without bos."""
        if self.text:
            return tokenizer.encode(self.text)
        options = {"open_thinking": self.thinking, "add_generation_prompt": True}
        return render(self.messages, tokenizer, self.tools, **options)[0]


def _function(name: str, description: str, parameter: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {parameter: {"type": "string"}}, "required": [parameter]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


_WEATHER = _function("get_current_weather", "查询天气", "location")
_MATH = _function("calculate_math", "Work out an expression.", "expression")


def _call(name: str, arguments: str) -> dict[str, Any]:
    """An assistant's turn with one call, as OpenAI's clients write it."""
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "type": "function", "function": function}]}


def _said(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


PROMPTS = (
    Prompt("plain en", text="The capital of France is"),
    Prompt("plain zh", text="从前有一个小村庄，"),
    Prompt("chat en", messages=(_said("system", "Be brief."), _said("user", "Who are you?"))),
    Prompt(
        "chat zh",
        messages=(_said("user", "你好！"), _said("assistant", "你好，有什么事？"), _said("user", "介绍一下你自己。")),
    ),
    Prompt("thinking en", messages=(_said("user", "What is 12 + 30?"),), thinking=True),
    Prompt("thinking zh", messages=(_said("user", "十二加三十等于多少？"),), thinking=True),
    Prompt("tools en", messages=(_said("user", "What is 3 * 7?"),), tools=(_MATH, _WEATHER)),
    Prompt(
        "tools zh",
        messages=(
            _said("user", "北京天气怎么样？"),
            _call("get_current_weather", '{"location": "北京"}'),
            {"role": "tool", "tool_call_id": "1", "content": '{"weather": "晴"}'},
        ),
        tools=(_WEATHER,),
    ),
)
