"""One rule for text that UTF-8 cannot hold, and no second place where it is decided."""

import ast
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import minimind
from minimind.text import mend_json, read_json, utf8, well_formed, write_json

PACKAGE = Path(minimind.__file__).parent
ANY = st.text(st.one_of(st.characters(), st.characters(categories=["Cs"]), st.sampled_from('\\u"d8')))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY, inner, max_size=4),
    max_leaves=12,
)


@given(ANY)
def test_any_string_has_utf8_bytes(text):
    assert utf8(text).decode("utf-8") == well_formed(text)
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert utf8(text) == text.encode()


@given(st.lists(ANY, max_size=5), st.booleans())
def test_json_is_mended_escape_by_escape(texts, ascii):
    data = json.dumps(texts, ensure_ascii=ascii).encode("utf-8", "surrogatepass" if not ascii else "strict")
    if ascii:
        mended, lone = mend_json(data)
        assert len(mended) == len(data)
        # what stands alone in the JSON is what joins to nothing: a pair that was written apart is one character
        assert lone == sum(well_formed(text).count("\ufffd") - text.count("\ufffd") for text in texts)
    assert read_json(json.dumps(texts)) == [well_formed(text) for text in texts]


@pytest.mark.parametrize(
    ("written", "read", "lone"),
    [
        (r'"half \ud83d here"', "half \ufffd here", 1),
        (r'"\ud83d\ude42"', "🙂", 0),
        (r'"\uD83D\uD83D\uDE42\ude42"', "\ufffd🙂\ufffd", 2),
        (r'"\\ud83d"', r"\ud83d", 0),
        (r'"\\\ud83d"', "\\\ufffd", 1),
        (r'"\u4f60\n"', "你\n", 0),
    ],
)
def test_halves_of_pairs(written, read, lone):
    assert read_json(written) == read
    assert mend_json(written.encode())[1] == lone


@given(VALUES)
def test_what_is_written_is_strict_and_comes_back(value):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    text = write_json(value)
    text.encode("utf-8")
    json.loads(text, parse_constant=refuse)


def test_numbers_that_json_does_not_have_are_null():
    assert write_json({"a": [math.nan, 1.5, (-math.inf,)]}) == '{"a": [null, 1.5, [null]]}'


def test_bytes_of_a_stream_are_replaced():
    assert read_json(b'{"a": "\xc4\xe3"}') == {"a": "\ufffd\ufffd"}
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json("[" * 100_000)


def test_how_surrogates_are_treated_is_decided_in_one_module():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            decides = isinstance(node, ast.Constant) and node.value in ("surrogatepass", "surrogateescape")
            assert not decides or path.name == "text.py", f"{path}:{node.lineno}"
            writes = isinstance(node, ast.Attribute) and node.attr == "write_text"
            ours = writes and isinstance(node.value, ast.Name) and node.value.id == "files"
            assert ours or not writes, f"{path}:{node.lineno} writes a text; `minimind.files` does, whole or not at all"
