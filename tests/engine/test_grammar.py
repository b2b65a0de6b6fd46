"""Which calls a grammar lets through: those that fit the schema, whatever JSON schema it is."""

import json

import pytest

from minimind.engine import grammar
from minimind.tokenizer.bpe import Tokenizer

TOKENIZER = Tokenizer.load("default")
GRAMMARS = grammar.Grammars(TOKENIZER, TOKENIZER.vocab_size)
N = {"type": "integer"}
POINT = {"type": "object", "properties": {"x": N}, "required": ["x"]}
SCHEMAS = {
    "listed": ({"type": "object", "properties": {"n": N}, "required": ["n"]}, {"n": 1}, {"n": 1, "m": 2}),
    "open": ({"properties": {"n": N}, "additionalProperties": True}, {"n": 1, "m": 2}, {"n": "1"}),
    "nothing said": ({}, {"n": 1}, None),
    "none": (None, {"n": 1}, None),
    "no arguments": ({"type": "object", "properties": {}}, {}, {"n": 1}),
    "required but not listed": ({"properties": {"n": N}, "required": ["n", "m"]}, {"n": 1, "m": "x"}, {"n": 1}),
    "elsewhere": ({"properties": {}, "$ref": "#/$defs/p", "$defs": {"p": POINT}}, {"x": 1}, {"x": "1"}),
    "any of": ({"properties": {"n": N}, "anyOf": [POINT]}, {"n": 1, "x": 2}, {"n": 1}),
}


@pytest.mark.parametrize("form", [grammar.tool_call, grammar.tool_calls])
@pytest.mark.parametrize(("parameters", "right", "wrong"), SCHEMAS.values(), ids=SCHEMAS)
def test_calls_fit_their_schemas(form, parameters, right, wrong):
    compiled = form([{"name": 'a "quoted" 名字', "parameters": parameters}])

    def ids(arguments):
        call = json.dumps({"name": 'a "quoted" 名字', "arguments": arguments}, ensure_ascii=False)
        opening, closing = (TOKENIZER.control_id(marker) for marker in ("<tool_call>", "</tool_call>"))
        return [opening, *TOKENIZER.encode(f"\n{call}\n"), closing]

    def fits(arguments):
        written = ids(arguments)
        return GRAMMARS.matcher(compiled).validate_tokens(written) == len(written)

    assert fits(right)
    assert wrong is None or not fits(wrong)
