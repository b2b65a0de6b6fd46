"""What a dialogue's ids are: exactly what rendering the same conversation gives; nothing that a model says stops it."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind import tools
from minimind.config import PRESETS
from minimind.engine.dialogue import MAX_CALLS, Dialogue, converse
from minimind.engine.engine import Engine
from minimind.engine.sampling import GREEDY, Sampling
from minimind.model.qwen3 import Transformer
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import render
from minimind.tools.schema import fault

TOKENIZER = Tokenizer.load("default")
SCHEMAS = tools.schemas(tools.BUILTIN)
ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 12 * 3, and the weather?"}]
END = TOKENIZER.control_id("<|im_end|>")
OPEN, CLOSE = TOKENIZER.control_id("<tool_call>"), TOKENIZER.control_id("</tool_call>")


def call(name, **arguments):
    return {"name": name, "arguments": arguments}


def said(message, thinking=False):
    """The ids that a model would sample for a message: what rendering marks as learned."""
    ids, mask = render([ASK[1], message], TOKENIZER)
    return [id for id, learned in zip(ids, mask, strict=True) if learned]


def dialogue(**options):
    return Dialogue(ASK, SCHEMAS, TOKENIZER, **options)


@pytest.mark.parametrize("thinking", [False, True])
def test_what_a_strict_dialogue_calls_is_legal_even_from_a_random_model(thinking):
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "max_position_embeddings": 4096}
    model = Transformer(PRESETS["tiny"].with_(vocab_size=TOKENIZER.vocab_size, **shape))
    engine = Engine(model, TOKENIZER, max_batch_size=16, context=4096, dtype=torch.float32)
    soon = dict.fromkeys([*TOKENIZER.encode('"'), *TOKENIZER.encode('"}')], 8.0)  # or strings would never end
    begin = {OPEN: 100.0} | ({TOKENIZER.control_id("</think>"): 100.0} if thinking else {})

    def calls(strict):
        every = [dialogue(thinking=thinking, strict=strict, max_turns=1) for _ in range(16)]
        list(converse(engine, every, Sampling(temperature=1.0, seed=1, logit_bias=begin | soon), max_tokens=300))
        return [one["function"] for each in every for one in each.turns[0].message.get("tool_calls", [])]

    made = calls(strict=True)
    parameters = {schema["function"]["name"]: schema["function"]["parameters"] for schema in SCHEMAS}
    assert len({one["name"] for one in made}) > 2
    assert [fault(one["arguments"], parameters[one["name"]]) for one in made] == [None] * len(made)
    assert calls(strict=False) == []


def raw(text):
    """A call whose JSON is `text`, whatever that is."""
    return [OPEN, *TOKENIZER.encode("\n" + text + "\n"), CLOSE, END]


@pytest.mark.parametrize("thinking", [False, True])
def test_ids_are_those_of_the_rendered_conversation(thinking):
    thought = {"reasoning_content": "Let me see."} if thinking else {}
    turns = [
        {"role": "assistant", "content": "", "tool_calls": [call("calculate_math", expression="12 * 3")]} | thought,
        {
            "role": "assistant",
            "content": "And now the weather.",
            "tool_calls": [call("get_current_weather", location="巴黎"), call("text_length", text="")],
        }
        | thought,
        {"role": "assistant", "content": "36，多云。\n"} | thought,
    ]
    one, messages = dialogue(thinking=thinking), list(ASK)
    for turn in turns:
        messages.append(turn)
        observed = one.take(said(turn))
        assert bool(observed) == bool(turn.get("tool_calls"))
        messages += [
            {"role": "tool", "content": tools.call(c["name"], c["arguments"])} for c in turn.get("tool_calls", [])
        ]
    ids, mask = render(messages, TOKENIZER, SCHEMAS)
    assert ids[: len(one.ids)] == one.ids
    assert TOKENIZER.decode(ids[len(one.ids) :]) == "\n"
    assert mask[: len(one.ids)] == one.mask
    assert one.finished
    assert one.answer == "36，多云。"
    assert [c.ok for c in one.calls] == [True] * 3


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("not json", "no JSON object"),
        ('{"name": "calculate_math"}', "no JSON object"),
        ('{"name": 3, "arguments": {}}', "no JSON object"),
        ('{"name": "calculate_math", "arguments": [1]}', "no JSON object"),
        ('{"name": "rm", "arguments": {}}', "unknown tool"),
        ('{"name": "calculate_math", "arguments": {}}', "missing argument"),
        ('{"name": "calculate_math", "arguments": {"expression": 3}}', "type string"),
        ('{"name": "unit_converter", "arguments": {"value": "3", "from_unit": "km", "to_unit": "m"}}', "type number"),
        ('{"name": "calculate_math", "arguments": {"expression": "1/0"}}', "division by zero"),
        ('{"name": "random_number", "arguments": {"min": 1e400}}', "integer"),
        ('{"name": "random_number", "arguments": {"min": ' + "9" * 5000 + "}}", "no JSON object"),
        ("[" * 5000, "no JSON object"),
        ('{"name": "calculate_math", "arguments": {"\\ud800": 1}}', "missing"),
    ],
)
def test_a_bad_call_is_answered_with_an_error(text, why):
    one = dialogue()
    observed = TOKENIZER.decode(one.take(raw(text)))
    assert not one.done
    assert '{"error": ' in observed
    assert why in observed
    assert not one.calls[0].ok


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.text(max_size=60),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
            max_leaves=12,
        ).map(json.dumps),
        st.builds(
            lambda name, arguments: json.dumps({"name": name, "arguments": arguments}),
            st.sampled_from([*tools.BUILTIN, "nothing"]),
            st.dictionaries(
                st.sampled_from(
                    ["expression", "min", "max", "text", "value", "from_unit", "location", "timezone", "x"]
                ),
                st.none() | st.floats() | st.integers() | st.text(max_size=20) | st.lists(st.integers(), max_size=2),
                max_size=3,
            ),
        ),
    )
)
def test_any_text_in_a_call_is_survived(text):
    one = dialogue()
    one.take([OPEN, *TOKENIZER.encode(text), CLOSE, END])
    assert one.calls
    assert len(one.ids) == len(one.mask)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, TOKENIZER.vocab_size - 1) | st.sampled_from(range(36)), max_size=20), min_size=1)
)
def test_any_ids_are_survived(turns):
    one = dialogue(max_turns=3)
    for ids in turns:
        if not one.done:
            one.take(ids)
    assert sum(one.mask) == sum(turn.end - turn.start for turn in one.turns)


def test_parallel_calls_are_bounded():
    turn = {"role": "assistant", "content": "", "tool_calls": [call("text_length", text="a")] * (MAX_CALLS + 5)}
    one = dialogue()
    one.take(said(turn))
    assert [c.ok for c in one.calls] == [True] * MAX_CALLS + [False]


def test_ends():
    asking = said({"role": "assistant", "content": "", "tool_calls": [call("text_length", text="a")]})
    endless = dialogue(max_turns=2)
    assert endless.take(asking)
    assert not endless.take(asking)
    assert endless.done
    assert not endless.finished
    cut = dialogue()
    assert not cut.take(said({"role": "assistant", "content": "36"})[:-1])
    assert cut.done
    assert not cut.finished
    unread = dialogue()
    unread.take(asking[:-1])  # cut off behind a whole call: it is not made
    assert not unread.calls
    spelled = dialogue()
    spelled.take([*TOKENIZER.encode("Write <tool_call> like this."), END])
    assert spelled.finished
    assert dialogue().answer == ""


def test_arguments_that_only_the_offered_schema_knows_are_left_out():
    schema = json.loads(json.dumps(tools.schemas(["get_current_weather"])))
    schema[0]["function"]["parameters"]["properties"]["unit"] = {"type": "string", "enum": ["celsius"]}
    for unit, ok in (("celsius", True), ("kelvin", False)):
        one = Dialogue(ASK, schema, TOKENIZER)
        turn = {
            "role": "assistant",
            "content": "",
            "tool_calls": [call("get_current_weather", location="北京", unit=unit)],
        }
        one.take(said(turn))
        assert [c.ok for c in one.calls] == [ok]


class Scripted:
    """An engine whose model says what it is told to, one token a step, several dialogues at once."""

    context = 4096

    def __init__(self, lines):
        self.lines, self.live, self.submitted, self.dialogues = lines, [], [], {}

    def submit(self, ids, sampling):
        class Request:
            tokens, finish_reason = (), "stop"

        index = self.dialogues.setdefault(id(ids), len(self.dialogues))
        request = Request()
        request.ids, request.script = [], list(self.lines[index].pop(0))[: sampling.max_new_tokens]
        self.live.append(request)
        self.submitted.append((index, len(ids)))
        return request

    def step(self):
        from minimind.engine.request import Output

        for request in list(self.live):
            request.ids.append(request.script.pop(0))
            if not request.script:
                self.live.remove(request)
                yield Output(request, None, "", "stop")


def test_dialogues_run_at_once_and_none_waits():
    asking = said({"role": "assistant", "content": "", "tool_calls": [call("calculate_math", expression="6 * 7")]})
    answering = said({"role": "assistant", "content": "It is 42."})
    slow = said({"role": "assistant", "content": "word " * 200})
    dialogues = [dialogue(), dialogue(), dialogue()]
    engine = Scripted({0: [slow], 1: [asking, answering], 2: [asking] * 9})
    order = [dialogues.index(one) for one in converse(engine, dialogues, GREEDY, max_tokens=len(slow))]
    assert order[0] == 1
    assert dialogues[1].answer == "It is 42."
    assert dialogues[0].finished
    assert len(engine.submitted) >= 5
    tight = [dialogue()]
    list(converse(Scripted({0: [asking, answering]}), tight, GREEDY, max_tokens=len(asking) + 3))
    assert tight[0].done
    assert not tight[0].finished
