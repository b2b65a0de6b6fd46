"""Streams of ids: whole characters only, layout never shown, cut-off and broken output kept."""

import json

from minimind.tokenizer import Tokenizer
from minimind.tokenizer.chat import render
from minimind.tokenizer.parse import MessageParser, parse

TOKENIZER = Tokenizer.load("default")


def ids_of(text):
    """Ids of a text in which markers are control tokens, as a model generates them."""
    for marker in ("<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_end|>"):
        if marker in text:
            before, after = text.split(marker, 1)
            return [*ids_of(before), TOKENIZER.control_id(marker), *ids_of(after)]
    return TOKENIZER.encode(text)


def stream(text, open_thinking=False, tokenizer=TOKENIZER, ids=None):
    parser = MessageParser(tokenizer, open_thinking)
    deltas = [delta for id in ids or ids_of(text) for delta in parser.feed(id)] + parser.finish()
    return deltas, parser


def test_characters_come_whole():
    ids = TOKENIZER.encode("𠀀🙂")
    assert len(ids) > 4
    assert stream("", ids=ids)[0] == [{"content": "𠀀"}, {"content": "🙂"}]


def test_reasoning_streams_before_the_answer():
    deltas, parser = stream("想一想。\n</think>\n\n答案。<|im_end|>", open_thinking=True)
    fields = [next(iter(delta)) for delta in deltas]
    assert fields == sorted(fields, reverse=True)
    assert parser.message == {"role": "assistant", "content": "答案。", "reasoning_content": "想一想。"}
    assert parser.done


def test_nothing_is_lost_of_a_call_that_is_broken_or_cut_off():
    for text in ("<tool_call>\n{oops}\n</tool_call>", 'so <tool_call>\n{"name": "f"'):
        assert parse(ids_of(text), TOKENIZER)["content"] == text


def test_a_closing_mark_first_means_that_thinking_was_open():
    assert parse(ids_of("a\n</think>\n\nb"), TOKENIZER) == {
        "role": "assistant",
        "content": "b",
        "reasoning_content": "a",
    }
    assert parse(ids_of("a\n<think>\nb"), TOKENIZER)["reasoning_content"] == "b"


def test_the_last_turn_of_a_conversation_counts():
    messages = [{"role": "assistant", "content": "one"}, {"role": "user", "content": "two"}]
    assert parse(render(messages[:1], TOKENIZER)[0], TOKENIZER)["content"] == "one"
    assert parse(render(messages, TOKENIZER)[0], TOKENIZER) == {"role": "user", "content": "two"}


def test_letters_are_not_control_tokens():
    assert parse(TOKENIZER.encode("<think>x</think>"), TOKENIZER) == {
        "role": "assistant",
        "content": "<think>x</think>",
    }


def test_a_tokenizer_that_spells_its_markers():
    spec = json.loads(TOKENIZER.files["tokenizer.json"])
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["id"] < 21]
    spelling = Tokenizer(TOKENIZER.files | {"tokenizer.json": json.dumps(spec)})
    assert spelling.control_id("<think>") is None
    call = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    message = {"role": "assistant", "content": "a<b", "reasoning_content": "why <think", "tool_calls": [call]}
    ids, mask = render([message], spelling)
    assert parse(ids, spelling) == message
    generated = [id for id, learned in zip(ids, mask, strict=True) if learned]
    assert stream("", open_thinking=True, tokenizer=spelling, ids=generated)[1].message == message


def test_a_spelled_marker_out_of_place_loses_nothing():
    spec = TOKENIZER.files["tokenizer.json"].replace('"content": "<tool_call>', '"content": "<other>')
    spelled = Tokenizer(TOKENIZER.files | {"tokenizer.json": spec})
    text = "<tool_call>a<tool_call>b"
    assert parse(spelled.encode(text), spelled)["content"] == text
