"""Which calls a grammar lets through: those that fit the schema, whatever JSON schema it is."""

import json

import pytest

from minimind.engine import grammar
from minimind.errors import UsageError
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


@pytest.mark.parametrize("name", ["add", 'a "quoted" 名字', "back\\slash"])
@pytest.mark.parametrize("form", [grammar.tool_call, grammar.tool_calls])
def test_a_schema_that_cannot_be_used_is_named_by_its_tool(form, name):
    tools = [{"name": "first", "parameters": POINT}, {"name": name, "parameters": {"properties": {"n": {"not": N}}}}]
    with pytest.raises(UsageError) as refused:
        GRAMMARS.compile(form(tools))
    assert str(refused.value) == f'the schema of tool {name!r} cannot be used: Unimplemented keys: ["not"]'


@pytest.mark.parametrize("form", [grammar.json_schema({"not": N}), 'start: "a" %json {"not": {}}'])
def test_a_schema_that_cannot_be_used_shows_nothing_of_the_grammar(form):
    with pytest.raises(UsageError, match=r'^the schema cannot be used: Unimplemented keys: \["not"\]$'):
        GRAMMARS.compile(form)


def test_a_grammar_that_cannot_be_used_shows_where():
    with pytest.raises(UsageError, match=r'^the grammar cannot be used: at 2\(4\): invalid regex "\("'):
        GRAMMARS.compile("start: a\na: /(/")
