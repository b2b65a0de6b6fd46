"""As much of Go's text/template as ollama's templates use, so that ours can be rendered without Go."""

import json
import re

_ACTION = re.compile(r"\{\{(-\s)?\s*(.*?)\s*(\s-)?\}\}", re.DOTALL)
_WORD = re.compile(r'"[^"]*"|[()]|[^\s()]+')
_FUNCTIONS = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "gt": lambda a, b: a > b,
    "not": lambda a: not a,
    "and": lambda *values: next((value for value in values if not value), values[-1]),
    "or": lambda *values: next((value for value in values if value), values[-1]),
    "len": len,
    "slice": lambda items, start: items[start:],
}


def render(template, data):
    """Execute `template` on a dict whose keys are the fields that it names."""
    pieces, at, trim = [], 0, False
    for found in _ACTION.finditer(template):
        text = template[at : found.start()]
        text = text.lstrip() if trim else text
        pieces += [("text", text.rstrip() if found[1] else text), ("action", found[2])]
        at, trim = found.end(), bool(found[3])
    pieces.append(("text", template[at:].lstrip() if trim else template[at:]))
    nodes, rest = _parse(pieces)
    assert not rest, f"unexpected {rest[0]}"
    return _run(nodes, data, {"$": data})


def _parse(pieces):
    """Nodes up to an `end` or `else`, with which what is left begins."""
    nodes = []
    while pieces and not (pieces[0][0] == "action" and pieces[0][1].split(" ")[0] in ("end", "else")):
        kind, value = pieces[0]
        if kind == "action" and value.startswith(("if ", "range ")):
            node, pieces = _parse_block(pieces)
            nodes.append(node)
        else:
            nodes.append((kind, value, [], []))
            pieces = pieces[1:]
    return nodes, pieces


def _parse_block(pieces):
    """One `if` or `range` up to and with its `end`; `else if` is an `if` inside `else` that shares the `end`."""
    kind, _, head = pieces[0][1].partition(" ")
    body, pieces = _parse(pieces[1:])
    if pieces[0][1] == "end":
        return (kind, head, body, []), pieces[1:]
    if pieces[0][1] == "else":
        other, pieces = _parse(pieces[1:])
        assert pieces[0][1] == "end"
        return (kind, head, body, other), pieces[1:]
    other, pieces = _parse_block([("action", pieces[0][1].removeprefix("else ")), *pieces[1:]])
    return (kind, head, body, [other]), pieces


def _run(nodes, dot, variables):
    out = []
    for kind, value, body, other in nodes:
        if kind == "text":
            out.append(value)
        elif kind == "if":
            out.append(_run(body if _evaluate(value, dot, variables) else other, dot, variables))
        elif kind == "range":
            names, colon, source = value.rpartition(":=")
            for index, item in enumerate(_evaluate(source, dot, variables)):
                if colon:
                    variables |= dict(zip((name.strip() for name in names.split(",")), (index, item), strict=True))
                out.append(_run(body, item, variables))
        elif found := re.fullmatch(r"(\$\w+)\s*:?=\s*(.*)", value):
            variables[found[1]] = _evaluate(found[2], dot, variables)
        else:
            shown = _evaluate(value, dot, variables)
            out.append(shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False))
    return "".join(out)


def _evaluate(expression, dot, variables):
    values, rest = _values(_WORD.findall(expression), dot, variables)
    assert not rest
    return _call(values)


def _values(words, dot, variables):
    """The values of a command's words up to a closing parenthesis."""
    values = []
    while words and words[0] != ")":
        word, *words = words
        if word == "(":
            inner, words = _values(words, dot, variables)
            values.append(_call(inner))
            words = words[1:]
        else:
            values.append(_value(word, dot, variables))
    return values, words


def _value(word, dot, variables):
    if word in _FUNCTIONS:
        return _FUNCTIONS[word]
    if word[0] == '"':
        return word[1:-1]
    if word.isdigit():
        return int(word)
    start, *fields = word.split(".")
    value = variables[start or "$"] if word[0] == "$" else dot
    for field in filter(None, fields):
        value = value[field]
    return value


def _call(values):
    return values[0](*values[1:]) if callable(values[0]) else values[0]
