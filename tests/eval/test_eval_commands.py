"""`eval choice` and `eval generate` as a user calls them."""

import json
import shutil

import pytest

from minimind.eval.generate import QUESTIONS
from minimind.eval.judge import CRITERIA, Judge

LINES = [
    {"question": "Cats are", "choices": ["animals", "stones", "numbers"], "answer": 0},
    {"question": "水是", "choices": ["湿的", "干的"], "answer": 0},
]


@pytest.fixture
def questions(tmp_path):
    for name in ("arc_easy", "ceval-valid"):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in LINES)
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


def test_two_models_side_by_side(minimind, model_dir, tmp_path):
    other, page = tmp_path / "other", tmp_path / "page.html"
    shutil.copytree(model_dir, other)
    argv = ["eval", "generate", model_dir, other, "--max-new-tokens", "3", "--device", "cpu"]
    ended = minimind(*argv, "--out", page, "--json")
    assert ended.code == 0, ended.err
    texts = json.loads(ended.out.splitlines()[-1])["texts"]
    assert [text["prompt"] for text in texts[::2]] == list(QUESTIONS)
    assert {text["model"] for text in texts} == {str(model_dir), str(other)}
    assert page.read_text(encoding="utf-8").count('class="answer"') == 2 * len(QUESTIONS)
    shown = minimind(*argv, "--prompts", "Once", "--temperature", "0")
    assert f"[{other}] " in shown.out


def test_answers_are_judged(minimind, model_dir, tmp_path, monkeypatch):
    def ask(self, messages):
        assert (self.endpoint, self.model, self.key) == ("http://judge/v1", "wise", "secret")
        return json.dumps(dict.fromkeys(CRITERIA, 3) | {"better": "tie"})

    monkeypatch.setattr(Judge, "ask", ask)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    other = tmp_path / "other"
    shutil.copytree(model_dir, other)
    argv = [
        "eval",
        "generate",
        model_dir,
        other,
        "--max-new-tokens",
        "3",
        "--device",
        "cpu",
        "--prompts",
        "Hi",
        "--chat",
    ]
    argv += ["--judge", "http://judge/v1", "--judge-model", "wise"]
    ended = minimind(*argv, "--json")
    assert ended.code == 0, ended.err
    judged = json.loads(ended.out.splitlines()[-1])["judge"]
    assert judged["mean"][str(other)] == dict.fromkeys(CRITERIA, 3)
    assert judged["pairs"][0]["ties"] == 1
    assert "grades, 1 to 10" in minimind(*argv).out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--judge", "http://judge/v1"], "--judge-model"),
        (["--max-new-tokens", "0"], "--max-new-tokens"),
        (["MODEL"], "named twice"),
    ],
)
def test_generate_says_what_is_wrong(minimind, model_dir, argv, words):
    ended = minimind("eval", "generate", model_dir, *[model_dir if part == "MODEL" else part for part in argv])
    assert ended.code == 2
    assert words in ended.err
