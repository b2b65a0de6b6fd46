"""Constrained decoding: answers that cannot break a JSON schema, a regular expression or the form of a tool call.

The functions return a grammar as text, for `Sampling.grammar`; `llguidance` (https://github.com/guidance-ai/llguidance)
tells before each token which ones may come next.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from minimind.engine import grammar_compile
from minimind.tokenizer.bpe import Tokenizer

COMPILED = 32
"""Grammars that are kept ready: an agent's tools, a server's schemas."""
_THOUGHT = 'thought: text </think> "\\n\\n"\n'
_TEXT = "text: /(.|\\n)*/\n"
# Blanks as the chat format has them. Were any allowed, a model could write blanks until its context is full.
_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def json_schema(schema: Mapping[str, Any], open_thinking: bool = False) -> str:
    """JSON that fits a JSON schema. `open_thinking`: the prompt ended inside `<think>`, a thought comes first."""
    return _grammar("body", f"body: {_json(schema)}\n", open_thinking)


def json_object(open_thinking: bool = False) -> str:
    """Any JSON object."""
    return json_schema({"type": "object"}, open_thinking)


def regex(pattern: str, open_thinking: bool = False) -> str:
    """Text that matches the whole of a regular expression (Rust's syntax, without look-around)."""
    escaped = "".join("\\/" if part == "/" else part for part in _characters(pattern))
    return _grammar("body", f"body: /{escaped}/\n", open_thinking)


def choice(texts: Sequence[str], open_thinking: bool = False) -> str:
    """One of these texts."""
    listed = " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)
    return _grammar("body", f"body: {listed}\n", open_thinking)


def lark(grammar: str, open_thinking: bool = False) -> str:
    """A grammar in Lark's syntax, whose first rule is `start`."""
    if not open_thinking:
        return grammar
    return f"start: thought body\n{_THOUGHT}{_TEXT}body: %lark {{\n{grammar}\n}}\n"


def tool_call(tools: Sequence[Mapping[str, Any]], open_thinking: bool = False) -> str:
    """One call of one of `tools` (function schemas), with arguments that fit its parameters."""
    return _grammar("call", _calls(tools), open_thinking)


def tool_calls(tools: Sequence[Mapping[str, Any]], open_thinking: bool = False) -> str:
    """Whatever the model says, and calls in it as many as it likes: but each as in `tool_call`."""
    return _grammar("said", f"said: text (call text)*\n{_calls(tools)}", open_thinking)


def _calls(tools: Sequence[Mapping[str, Any]]) -> str:
    """The rules of `call`, one of any of the tools."""
    rules, names = "", []
    for i, tool in enumerate(tools):
        function = tool.get("function", tool)
        opening = '{"name": ' + json.dumps(function["name"], ensure_ascii=False) + ', "arguments": '
        rules += f'call_{i}: {json.dumps(opening)} {_json(_closed(function.get("parameters") or {}))} "}}"\n'
        names.append(f"call_{i}")
    return rules + f'call: <tool_call> "\\n" ({" | ".join(names)}) "\\n" </tool_call>\n'


def _closed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that a schema does not list are none unless it says so, as when a call is checked (`tools.schema`).

    Not where other parts of it may list more.
    """
    others = {"allOf", "anyOf", "oneOf", "$ref"} & parameters.keys()
    listed = "properties" in parameters and set(parameters.get("required") or ()) <= set(parameters["properties"])
    return {"type": "object", **({"additionalProperties": False} if listed and not others else {}), **parameters}


class Compiled(NamedTuple):
    """A grammar made ready beforehand, which a `Sampling` may hold in place of its text."""

    start: Any
    """A matcher at the beginning of an answer; copied for each."""


class Grammars:
    """Grammars for one tokenizer; `vocabulary` is the number of scores that its model gives."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int) -> None:
        self._tokenizer = grammar_compile.load(grammar_compile.vocabulary_of(tokenizer, vocabulary))
        self._vocabulary = vocabulary
        self._compiled = lru_cache(COMPILED)(self.compile)

    def compile(self, grammar: str) -> Compiled:
        """Make a grammar ready; from any thread, and without holding up the others.

        Raises:
            UsageError: the grammar is wrong or too large, nothing fits it, or it needs a control token that is not
                there.
        """
        return Compiled(grammar_compile.compile(self._tokenizer, grammar))

    def matcher(self, grammar: str | Compiled) -> Any:
        """Start one answer: an `LLMatcher`, to be told each token by `consume_token`.

        Raises:
            UsageError: as `compile`.
        """
        return (grammar if isinstance(grammar, Compiled) else self._compiled(grammar)).start.deep_copy()

    def allowed(self, matchers: Sequence[Any | None]) -> Tensor:
        """Which tokens may come next in each answer, bool `[B, vocabulary]`; None allows all."""
        allowed = np.ones((len(matchers), self._vocabulary), dtype=bool)
        for row, matcher in enumerate(matchers):
            if matcher:
                bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
                allowed[row] = np.unpackbits(bits, bitorder="little", count=self._vocabulary)
        return torch.from_numpy(allowed)


def _grammar(body: str, rules: str, open_thinking: bool) -> str:
    if open_thinking:
        return f"start: thought {body}\n{_THOUGHT}{_TEXT}{rules}"
    return f"start: {body}\n{_TEXT}{rules}"


def _json(schema: Mapping[str, Any]) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": _LAYOUT}, ensure_ascii=False)


def _characters(pattern: str) -> list[str]:
    """Single characters of a pattern, an escaped one together with its backslash."""
    parts, i = [], 0
    while i < len(pattern):
        length = 2 if pattern[i] == "\\" else 1
        parts.append(pattern[i : i + length])
        i += length
    return parts
