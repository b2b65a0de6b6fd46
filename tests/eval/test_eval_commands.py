"""`eval choice` as a user calls it."""

import json

import pytest

QUESTIONS = [
    {"question": "Cats are", "choices": ["animals", "stones", "numbers"], "answer": 0},
    {"question": "水是", "choices": ["湿的", "干的"], "answer": 0},
]


@pytest.fixture
def questions(tmp_path):
    for name in ("arc_easy", "ceval-valid"):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in QUESTIONS)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8", newline="\n")
    return tmp_path


def test_choice_gives_figures(minimind, model_dir, questions):
    argv = ["eval", "choice", model_dir, "--tasks", "ceval-valid, arc_easy", "--data", questions, "--device", "cpu"]
    ended = minimind(*argv, "--json")
    assert ended.code == 0, ended.err
    figures = json.loads(ended.out.splitlines()[-1])["tasks"]
    assert list(figures) == ["ceval-valid", "arc_easy"]
    for one in figures.values():
        assert one.keys() == {"acc", "acc_norm", "stderr", "n", "random"}
        assert one["n"] == 2
        assert one["random"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    table = minimind(*argv, "--limit", "1")
    assert table.code == 0, table.err
    assert "| arc_easy    |         1 |" in table.out


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["--tasks", "arc_esy"], 2, ["did you mean 'arc_easy'"]),
        (["--tasks", "piqa"], 1, ["piqa.jsonl"]),
        (["--tasks", "arc_easy", "--limit", "0"], 2, ["--limit"]),
    ],
)
def test_choice_says_what_is_wrong(minimind, model_dir, questions, argv, code, words):
    ended = minimind("eval", "choice", model_dir, "--data", questions, *argv)
    assert ended.code == code
    sentence = ended.err.split("minimind: ")[1]
    assert sentence.strip().count("\n") == 0
    for word in words:
        assert word in sentence
