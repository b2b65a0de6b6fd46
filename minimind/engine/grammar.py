"""Constrained decoding: answers that cannot break a JSON schema, a regular expression or the form of a tool call.

The functions return a grammar as text, for `Sampling.grammar`; `llguidance` (https://github.com/guidance-ai/llguidance)
tells before each token which ones may come next.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from minimind.errors import UsageError
from minimind.tokenizer.bpe import Tokenizer

COMPILED = 32
"""Grammars that are kept ready: an agent's tools, a server's schemas."""
_THOUGHT = 'thought: /(.|\\n)*/ </think> "\\n\\n"\n'
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


def tool_call(tools: Sequence[Mapping[str, Any]], open_thinking: bool = False) -> str:
    """One call of one of `tools` (function schemas), with arguments that fit its parameters."""
    rules, names = "", []
    for i, tool in enumerate(tools):
        function = tool.get("function", tool)
        opening = '{"name": ' + json.dumps(function["name"], ensure_ascii=False) + ', "arguments": '
        rules += f'call_{i}: {json.dumps(opening)} arguments_{i} "}}"\n'
        rules += f"arguments_{i}: {_json({'type': 'object', **(function.get('parameters') or {})})}\n"
        names.append(f"call_{i}")
    rules += f'body: <tool_call> "\\n" ({" | ".join(names)}) "\\n" </tool_call>\n'
    return _grammar("body", rules, open_thinking)


class Grammars:
    """Grammars for one tokenizer; `vocabulary` is the number of scores that its model gives."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int) -> None:
        if tokenizer.eos_id is None:
            raise UsageError("a grammar needs a tokenizer with an end-of-text token")
        try:
            import llguidance
        except ImportError:
            raise UsageError("grammars need the package llguidance: pip install 'minimind[serve]'") from None
        self._tokenizer = llguidance.LLTokenizer(
            tokenizer.files["tokenizer.json"], n_vocab=vocabulary, eos_token=tokenizer.eos_id
        )
        self._vocabulary = vocabulary
        self._compiled = lru_cache(COMPILED)(self._compile)

    def matcher(self, grammar: str) -> Any:
        """Start one answer: an `LLMatcher`, to be told each token by `consume_token`.

        Raises:
            UsageError: the grammar is wrong, or uses a control token that the tokenizer does not have.
        """
        return self._compiled(grammar).deep_copy()

    def _compile(self, grammar: str) -> Any:
        import llguidance

        matcher = llguidance.LLMatcher(self._tokenizer, grammar)
        if error := matcher.get_error():
            raise UsageError(f"the grammar cannot be used: {' '.join(error.split())}")
        return matcher

    def allowed(self, matchers: Sequence[Any | None]) -> Tensor:
        """Which tokens may come next in each answer, bool `[B, vocabulary]`; None allows all."""
        import llguidance.torch

        bits = llguidance.torch.allocate_token_bitmask(len(matchers), self._vocabulary)
        for row, matcher in enumerate(matchers):
            if matcher:
                llguidance.torch.fill_next_token_bitmask(matcher, bits, row)
        places = torch.arange(32, dtype=torch.int32)
        return (bits[:, :, None] >> places & 1).bool().flatten(1)[:, : self._vocabulary]


def _grammar(body: str, rules: str, open_thinking: bool) -> str:
    if open_thinking:
        return f"start: thought {body}\n{_THOUGHT}{rules}"
    return f"start: {body}\n{rules}"


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
