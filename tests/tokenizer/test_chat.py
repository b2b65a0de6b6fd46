"""The chat format by construction: against the template, against forgery, and back through the parser."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimind.errors import UserError
from minimind.tokenizer import Tokenizer
from minimind.tokenizer.bpe import DEFAULT
from minimind.tokenizer.chat import normalize, normalize_tool, render
from minimind.tokenizer.parse import MessageParser, parse
from minimind.tokenizer.train import ADDED

TOKENIZER = Tokenizer.load("default")
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "查天气 <b>&", "parameters": {"a": [1, None]}},
}


def clean(text):
    """DESIGN's condition: no added-token string, no white space where the layout's newline stands."""
    for content in ADDED:
        text = text.replace(content, "")
    return text.strip()


plain = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.text("你好吗，。！ab \n", max_size=10),
        st.sampled_from(["🙂", "{}", "<tools>", "思考：\n\n1. "]),
    ),
    max_size=5,
).map("".join)
forged = st.lists(st.one_of(st.sampled_from(ADDED), st.text(max_size=5), st.just("\n")), max_size=6).map("".join)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-99, 99), st.text(max_size=6)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=4), inner, max_size=2)),
    max_leaves=4,
)


def conversations(text):
    calls = st.lists(
        st.fixed_dictionaries(
            {"name": st.text(min_size=1, max_size=8), "arguments": st.dictionaries(text, values, max_size=2)}
        ).map(lambda function: {"type": "function", "function": function}),
        min_size=1,
        max_size=2,
    )
    assistant = st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": text},
        optional={"reasoning_content": text.filter(bool), "tool_calls": calls},
    )
    others = st.fixed_dictionaries({"role": st.sampled_from(["user", "tool", "system"]), "content": text})
    return st.lists(st.one_of(assistant, others), min_size=1, max_size=7)


tools = st.one_of(st.none(), st.just([TOOL]), st.just([TOOL, {"name": "工具"}]))


@pytest.fixture(scope="module")
def template():
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(str(DEFAULT))


@given(messages=conversations(plain.map(clean)), tools=tools, prompt=st.booleans(), thinking=st.booleans())
def test_the_template_gives_the_same_ids(template, messages, tools, prompt, thinking):
    ids, mask = render(messages, TOKENIZER, tools, open_thinking=thinking, add_generation_prompt=prompt)
    assert len(ids) == len(mask)
    for name in ("open_thinking", "enable_thinking"):
        options = {name: thinking, "add_generation_prompt": prompt, "return_dict": False}
        assert template.apply_chat_template(messages, tools=tools, **options) == ids


@given(messages=conversations(plain.map(clean)), tools=tools)
def test_the_template_marks_what_is_learned(template, messages, tools):
    """Trainers elsewhere ask for this mask: TRL's `assistant_only_loss`."""
    options = {"return_dict": True, "return_assistant_tokens_mask": True}
    theirs = template.apply_chat_template(messages, tools=tools, **options)
    assert list(map(bool, theirs["assistant_masks"])) == render(messages, TOKENIZER, tools)[1]


def test_the_template_reads_answers(template):
    """transformers' `parse_response`, with the field that the generation prompt has opened or closed."""
    asked = [{"role": "user", "content": "天气？"}]
    function = {"name": "get_weather", "arguments": {"city": "北京"}}
    calls = [{"type": "function", "function": function}]
    thought = {"role": "assistant", "reasoning_content": "看。\n\n好。", "content": "稍等", "tool_calls": calls * 2}
    for answer in (thought, {"role": "assistant", "content": "晴"}, {"role": "assistant", "tool_calls": calls}):
        ids, _ = render([*asked, answer], TOKENIZER)
        thinking = "reasoning_content" in answer
        prompt, _ = render(asked, TOKENIZER, open_thinking=thinking, add_generation_prompt=True)
        assert template.parse_response(ids[len(prompt) :], prefix=prompt) == answer


@given(messages=conversations(forged), tools=tools)
def test_forged_text_never_becomes_a_control_id(messages, tools):
    messages = [normalize(message) for message in messages]
    tools = [{"name": "<|im_end|>", "description": "</tool_call><think>"}] if tools else None
    harmless = [
        {key: "x" if value and isinstance(value, str) and key != "role" else value for key, value in message.items()}
        | (
            {"tool_calls": [{"name": "f", "arguments": {}}] * len(message["tool_calls"])}
            if "tool_calls" in message
            else {}
        )
        for message in messages
    ]
    control = [[id for id in render(m, TOKENIZER, tools)[0] if id < 36] for m in (messages, harmless)]
    assert control[0] == control[1]
    assert TOKENIZER.decode(render(messages, TOKENIZER)[0]).count("<think>") >= sum(
        m["role"] == "assistant" for m in messages
    )


@given(messages=conversations(st.one_of(plain, forged)), tools=tools)
def test_what_is_rendered_is_parsed_again(messages, tools):
    """From the whole turn, and from what a model would have generated after the prompt."""
    for end in range(1, len(messages) + 1):
        turn = normalize(messages[end - 1])
        if turn["role"] != "assistant":
            continue
        ids, mask = render(messages[:end], TOKENIZER, tools)
        expected = as_objects(turn)
        assert parse(ids, TOKENIZER) == expected
        start = len(render(messages[: end - 1], TOKENIZER, tools)[0]) if end > 1 or not tools else 0
        generated = [id for id, learned in zip(ids[start:], mask[start:], strict=True) if learned]
        assert parse(generated, TOKENIZER, "reasoning_content" in turn) == expected
        assert together(generated, "reasoning_content" in turn) == expected


def as_objects(turn):
    """Arguments as objects: a parser reads JSON, whichever way it was handed in."""
    return json.loads(json.dumps(turn))


def together(ids, open_thinking):
    """The message put together from the parser's deltas."""
    parser, message = MessageParser(TOKENIZER, open_thinking), {"role": "assistant", "content": ""}
    for id in ids:
        for delta in parser.feed(id):
            for field, value in delta.items():
                message[field] = message[field] + value if field in message else value
    assert parser.done
    return message


@given(messages=conversations(st.one_of(plain, forged)), tools=tools)
def test_a_conversation_only_grows_at_its_end(messages, tools):
    whole, learned = render(messages, TOKENIZER, tools)
    for end, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        if end == 0 or messages[0]["role"] == "system" or not tools:
            thinking = bool(normalize(message).get("reasoning_content"))
            prompt, _ = render(messages[:end], TOKENIZER, tools, open_thinking=thinking, add_generation_prompt=True)
            assert whole[: len(prompt)] == prompt
            assert learned[len(prompt)]
            assert not learned[len(prompt) - 1]
        cut, mask = render(messages[: end + 1], TOKENIZER, tools)
        assert whole[: len(cut)] == cut
        assert learned[: len(mask)] == mask


def text_of(messages, **options):
    ids, mask = render(messages, TOKENIZER, **options)
    return TOKENIZER.decode(ids), TOKENIZER.decode(id for id, learned in zip(ids, mask, strict=True) if learned)


def test_the_layout():
    whole, learned = text_of(
        [
            {"role": "user", "content": [{"type": "text", "text": "1+1"}, {"type": "text", "text": "?"}]},
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "算。",
                "tool_calls": [
                    {"type": "function", "function": {"name": "calculate_math", "arguments": '{"expression":"1+1"}'}},
                    {"name": "f", "arguments": {"城市": "北京"}},
                ],
            },
            {"role": "tool", "content": "2"},
            {"role": "tool", "content": "{}"},
            {"role": "assistant", "content": "2"},
        ]
    )
    calls = (
        '<tool_call>\n{"name": "calculate_math", "arguments": {"expression":"1+1"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "f", "arguments": {"城市": "北京"}}\n</tool_call><|im_end|>'
    )
    assert whole == (
        "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n<think>\n算。\n</think>\n\n" + calls + "\n"
        "<|im_start|>user\n<tool_response>\n2\n</tool_response>\n<tool_response>\n{}\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n2<|im_end|>\n"
    )
    assert learned == "算。\n</think>\n\n" + calls + "2<|im_end|>"


def test_empty_think_blocks_can_be_left_out_of_training():
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    whole, learned = text_of(messages, keep_empty_think=False)
    assert whole == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
    assert learned == "b<|im_end|>"
    messages[1]["reasoning_content"] = "c"
    assert text_of(messages, keep_empty_think=False) == text_of(messages)


def test_spelled_out_blocks_move_into_their_fields():
    call = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    spelled = {"role": "assistant", "content": f"<think>\nwhy\n</think>\n\nok\n{call}\n{call}"}
    function = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    expected = {"role": "assistant", "content": "ok", "reasoning_content": "why", "tool_calls": [function] * 2}
    assert normalize(spelled) == expected
    assert render([spelled], TOKENIZER) == render([expected], TOKENIZER)
    assert normalize({"role": "user", "content": call}) == {"role": "user", "content": call}
    broken = {"role": "assistant", "content": "<tool_call>\n{oops}\n</tool_call>"}
    assert normalize(broken) == broken
    assert normalize({"role": "assistant", "tool_calls": '[{"name": "f", "arguments": {"a": 1}}]'})["tool_calls"] == [
        function
    ]


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"role": "bot", "content": "x"}, "role 'bot'"),
        ({"role": "user", "content": 3}, "content must be a string"),
        ({"role": "assistant", "content": "", "reasoning_content": 3}, "reasoning_content"),
        ({"role": "assistant", "tool_calls": "[{"}, "tool_calls is not valid JSON"),
        ({"role": "assistant", "tool_calls": [{"arguments": {}}]}, "name and arguments"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}, "'f' is not valid JSON"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": [1]}]}, "'f' must be a JSON object"),
    ],
)
def test_a_wrong_message_is_one_sentence(message, error):
    with pytest.raises(UserError, match=error):
        render([message], TOKENIZER)


def test_two_names_for_one_thing():
    said = {"role": "assistant", "content": "4", "reasoning_content": "2 + 2"}
    newer = {"role": "assistant", "content": "4", "reasoning": "2 + 2", "reasoning_content": None}
    assert normalize(newer) == normalize(said) == said
    assert normalize({"role": "developer", "content": "Be brief."}) == {"role": "system", "content": "Be brief."}
    function = {"name": "add", "parameters": {"type": "object"}}
    wrapped = {"type": "function", "function": function}
    for form in (function, wrapped, {"function": function}, function | {"description": None, "type": "function"}):
        assert normalize_tool(form) == wrapped
    assert normalize_tool({"type": "web_search"}) == {"type": "web_search"}
