"""`chat` as a user types it: in a terminal, through a pipe, with one prompt."""

import io
import json
import sys

import pytest

from minimind.api import LanguageModel
from minimind.commands import terminal

CPU = ("--device", "cpu", "--max-new-tokens", "6")


@pytest.fixture
def typed(monkeypatch):
    """Feed lines to the command as a pipe, or as a terminal would."""

    def feed(text, at_terminal=False):
        stream = io.StringIO(text)
        stream.isatty = lambda: at_terminal
        monkeypatch.setattr(sys, "stdin", stream)

    return feed


@pytest.fixture
def model(monkeypatch):
    """Says the next of `answers` (lists of deltas) to every question; `asked` is what it was given."""

    class Model:
        answers, asked, options = [], [], []

    def stream(self, messages, tools, thinking, max_new_tokens, sampling):
        Model.asked.append([dict(message) for message in messages])
        Model.options.append((tools, thinking, max_new_tokens, sampling))
        for delta in Model.answers.pop(0) if Model.answers else [{"content": f"answer {len(Model.asked)}"}]:
            if delta is KeyboardInterrupt:
                raise KeyboardInterrupt
            yield delta

    Model.answers, Model.asked, Model.options = [], [], []
    monkeypatch.setattr(LanguageModel, "stream", stream)
    return Model


@pytest.fixture
def talk(minimind, tuned, typed, monkeypatch):
    """Type lines into a chat in a terminal; returns how it ended."""

    def talk(*lines, flags=()):
        typed("".join(f"{line}\n" for line in lines), at_terminal=True)
        ended = minimind("chat", tuned / "model", *CPU, *flags)
        assert ended.code == 0, ended.err
        return ended._replace(err=" ".join(ended.err.split()))

    return talk


def test_one_prompt(minimind, tuned, typed):
    typed("")
    ended = minimind("chat", tuned / "model", "--prompt", "Who are you?", *CPU)
    assert ended.code == 0, ended.err
    assert ended.out.endswith("\n")
    assert "<|im_" not in ended.out
    again = minimind("chat", tuned / "model", "--prompt", "Who are you?", *CPU)
    assert ended.out == again.out, "greedy is deterministic"
    warm = ("--temperature", "2", "--seed")
    one, same, other = (minimind("chat", tuned / "model", "--prompt", "Hi", *CPU, *warm, seed) for seed in "778")
    assert one == same != other


def test_through_a_pipe_every_line_is_a_question(minimind, tuned, typed, model):
    typed("first\n\n  second  \n")
    ended = minimind("chat", tuned / "model", "--system", "Be brief.", *CPU)
    assert ended.code == 0, ended.err
    assert ended.out == "answer 1\nanswer 2\n"
    first = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "first"}]
    assert model.asked[0] == first
    answer = {"role": "assistant", "content": "answer 1"}
    assert model.asked[1] == [*first, answer, {"role": "user", "content": "second"}]


CALL = {"type": "function", "function": {"name": "calculate_math", "arguments": {"expression": "12 * 3"}}}


def test_a_pipe_gets_answers_alone(minimind, tuned, typed, model):
    model.answers = [
        [{"reasoning_content": "Hm."}, {"content": "Wait."}, {"tool_calls": [CALL]}],
        [{"content": " It is 36."}],
    ]
    typed("12 * 3?\n")
    ended = minimind("chat", tuned / "model", "--tools", "all", "--thinking", *CPU)
    assert ended.out == "Wait. It is 36.\n"


def test_tools_are_run_and_their_results_read(talk, model):
    model.answers = [[{"tool_calls": [CALL]}], [{"content": "36."}]]
    talk("12 * 3?", flags=["--tools", "calculate_math"])
    result = {"role": "tool", "content": '{"result": "36"}'}
    assert model.asked[1][1:] == [{"role": "assistant", "content": "", "tool_calls": [CALL]}, result]
    schemas, *_ = model.options[0]
    assert [schema["function"]["name"] for schema in schemas] == ["calculate_math"]


def test_a_tool_that_is_not_allowed_is_not_run(talk, model):
    model.answers = [[{"tool_calls": [CALL]}], [{"content": "Sorry."}]]
    talk("12 * 3?", flags=["--tools", "text_length"])
    assert "unknown tool 'calculate_math'" in model.asked[1][-1]["content"]


def test_a_model_that_only_calls_tools_is_stopped(talk, model):
    model.answers = [[{"tool_calls": [CALL]}]] * 20
    talk("12 * 3?", flags=["--tools", "all"])
    assert len(model.asked) == 6


def test_unknown_tools_are_refused(minimind, tuned, typed):
    typed("")
    ended = minimind("chat", tuned / "model", "--tools", "calculate", *CPU)
    assert ended.code == 2
    assert "did you mean 'calculate_math'" in ended.err


def test_the_commands(talk, model, tmp_path):
    file = tmp_path / "chat.json"
    ended = talk(
        "/help", "/system Be kind.", "hi", f"/save {file}", "/reset", "again", f"/load {file}", "more", "/params",
        "/params temperature 0.5", "/params seed 3", "/tools text_length", "/tools", "/think", "last", "/exit",
        "unread",
    )  # fmt: skip
    assert sys.stdin.read() == "unread\n"
    for told in ("/retry", "thinking is on", "tools: text_length", "temperature 0.5"):
        assert told in ended.err
    system = {"role": "system", "content": "Be kind."}
    hi = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "answer 1"}]
    assert json.loads(file.read_text(encoding="utf-8")) == {"messages": [system, *hi]}
    assert model.asked[1] == [system, {"role": "user", "content": "again"}], "forgotten, but for the system prompt"
    assert model.asked[2] == [system, *hi, {"role": "user", "content": "more"}]
    assert "hi\nanswer 1" in ended.out, "a loaded conversation is shown"
    schemas, thinking, new, sampling = model.options[3]
    assert [schema["function"]["name"] for schema in schemas] == ["text_length"]
    assert (thinking, new, sampling.temperature, sampling.seed) == (True, 6, 0.5, 3)


def test_retry(talk, model):
    ended = talk("/retry", "one", "two", "/retry")
    assert "nothing has been asked yet" in ended.err
    assert model.asked[1] == model.asked[2]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/rest", "did you mean 'reset'"),
        ("/params temprature 1", "did you mean 'temperature'"),
        ("/params temperature hot", "should be a number"),
        ("/params temperature -1", "temperature is -1"),
        ("/params top_k 1.5", "should be an integer"),
        ("/tools calculator", "no such tool"),
        ("/save", "name a file"),
        ("/save /nowhere/at/all.json", "cannot be written"),
        ("/load /nowhere.json", "is missing"),
        ("/load FILE", "message role 'bot'"),
        ("/load NO", "JSON object"),
    ],
)
def test_mistakes_end_nothing(talk, model, tmp_path, line, told):
    for name, text in {"FILE": '{"messages": [{"role": "bot"}]}', "NO": "[]"}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        line = line.replace(name, str(tmp_path / name))
    ended = talk(line, "still there?")
    assert told in ended.err
    assert model.asked == [[{"role": "user", "content": "still there?"}]]


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(talk, model):
    model.answers = [[{"content": "I was"}, KeyboardInterrupt, {"content": " never said"}]]
    talk("tell me", "go on")
    assert model.asked[1][1:] == [{"role": "assistant", "content": "I was"}, {"role": "user", "content": "go on"}]


def test_ctrl_c_at_the_prompt_does_not_end_the_program(talk, model, monkeypatch):
    lines = iter([KeyboardInterrupt, "hi", EOFError])

    def line(prompt):
        if isinstance(item := next(lines), type):
            raise item
        return item

    monkeypatch.setattr("builtins.input", line)
    assert "Ctrl-D ends" in talk().err
    assert len(model.asked) == 1


def test_a_question_that_is_too_long_is_forgotten(talk, tuned):
    ended = talk("hi " * 3000, "hi", "/exit")
    assert "/reset starts a new conversation" in ended.err
    assert ended.out.strip()


def test_what_a_model_says_cannot_control_the_terminal(minimind, tuned, typed, model):
    model.answers = [[{"content": "\x1b[2J[bold]:smile:"}]]
    typed("hi\n")
    assert minimind("chat", tuned / "model", *CPU).out == "␛[2J[bold]:smile:\n"


def test_in_a_terminal_thoughts_and_calls_are_shown_and_speed_is_told(talk, model, monkeypatch):
    def screen(**options):
        model.answers = [
            [{"reasoning_content": "Hm."}, {"content": "Yes."}, {"tool_calls": [CALL]}],
            [{"content": "36"}],
        ]
        return talk("why?", flags=["--tools", "all", *options.get("flags", ())]).out

    always = property(lambda self: True, lambda self, value: None)
    monkeypatch.setattr(terminal.Terminal, "fancy", always, raising=False)
    shown = screen(flags=["--thinking"])
    for text in ("Hm.", "Yes.", "calculate_math", '{"result": "36"}', "tokens/s"):
        assert text in shown
    hidden = screen(flags=["--hide-thinking"])
    assert "Hm." not in hidden
    assert "Yes." in hidden
    assert model.options[-1][1] is True, "it thinks all the same"


def test_earlier_questions_are_recalled(tmp_path):
    readline = pytest.importorskip("readline")
    readline.clear_history()
    with terminal._line_history(tmp_path / "new" / "history"):
        readline.add_history("an earlier question")
    readline.clear_history()
    with terminal._line_history(tmp_path / "new" / "history"):
        assert readline.get_history_item(1) == "an earlier question"
    readline.clear_history()
