"""Incremental text: whole characters, and nothing that belongs to a stop string."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.engine.text import Detokenizer, StopFinder
from minimind.tokenizer.bpe import Tokenizer

TOKENIZER = Tokenizer.load("default")


def pieces(ids, stops=()):
    detokenizer = Detokenizer(TOKENIZER, stops)
    texts = [detokenizer.feed(id) for id in ids]
    return [*texts, detokenizer.finish()], detokenizer.found


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_pieces_add_up_and_never_split_a_character(text):
    text = text.encode("utf-8", "replace").decode()
    given_out, _ = pieces(TOKENIZER.encode(text))
    assert "".join(given_out) == text


def test_a_character_comes_when_its_last_byte_does():
    ids = TOKENIZER.encode("🦜")
    assert len(ids) > 1
    given_out, _ = pieces(ids)
    assert given_out == [*[""] * (len(ids) - 1), "🦜", ""]
    cut, _ = pieces(ids[:-1])
    assert "".join(cut) == "�"


def test_special_tokens_have_no_text_but_added_ones_do():
    ids = [TOKENIZER.control_id("<think>"), *TOKENIZER.encode("hm"), TOKENIZER.eos_id]
    assert "".join(pieces(ids)[0]) == "<think>hm"


@settings(max_examples=200, deadline=None)
@given(st.text("ab", max_size=20), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_text_ends_before_the_first_stop_string_however_it_is_cut(text, stops, data):
    finder, out = StopFinder(stops), ""
    rest = text
    while rest:
        n = data.draw(st.integers(1, len(rest)))
        out, rest = out + finder.feed(rest[:n]), rest[n:]
        assert not any(stop in out for stop in stops)
        if finder.found:
            break
    out += finder.finish()
    # Cut into single characters, the first stop to be complete ends the text.
    ends = [(text.find(stop) + len(stop), stop) for stop in stops if stop in text]
    if not ends:
        assert (out, finder.found) == (text, None)
    else:
        assert finder.found in stops
        assert text.startswith(out + finder.found)


@pytest.mark.parametrize(("stop", "expected"), [("界", "你好，世"), ("世界。", "你好，"), ("。x", "你好，世界。")])
def test_stop_strings_in_chinese(stop, expected):
    given_out, found = pieces(TOKENIZER.encode("你好，世界。"), [stop])
    assert "".join(given_out) == expected
    assert (found is None) == (expected == "你好，世界。")
