"""What `minimind demo` prints at its end."""

from minimind.commands import demo


def test_an_answer_of_empty_lines_takes_few(capsys):
    results = {"sft": {"seconds": 1.0, "tokens": 0, "bpb": 1.0, "scores": {}}}
    demo._show(results, [{"question": "Who?", "answers": {"sft": "I am" + "\n" * 90 + "one.\n\nYes.\n\n"}}])
    assert capsys.readouterr().out.endswith("\n> Who?\nI am\n\none.\n\nYes.\n")
