"""Where questions come from: local files, the hub, and everything that may be wrong with them."""

import json
import sys
import types

import pytest

from minimind.errors import UsageError, UserError
from minimind.eval import task_hub, tasks
from minimind.eval.task_hub import Row
from minimind.eval.tasks import TASKS, markdown, read_questions

LINE = {"question": "Why?", "choices": ["so", "not"], "answer": 1}


@pytest.fixture
def folder(tmp_path):
    def write(**files):
        for name, lines in files.items():
            text = lines if isinstance(lines, str) else "".join(json.dumps(line) + "\n" for line in lines)
            (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8", newline="\n")
        return str(tmp_path)

    return write


def test_every_task_asks_in_its_own_words(folder):
    rows = [{"question": " 天是 ", "choices": ["蓝", "绿"], "answer": "B"}]
    here = folder(**dict.fromkeys(("ceval_val", "cmmlu", "arc_easy", "piqa_x", "openbookqa", "siqa_dev"), rows))
    asked = {name: of_task[0] for name, of_task in read_questions([*(set(TASKS) - {"hellaswag"})], here).items()}
    assert asked["ceval-valid"] == asked["cmmlu"] == ("天是\nA. 蓝\nB. 绿\n答案：", ["A", "B"], 1)
    assert asked["arc_easy"] == asked["piqa"] == ("Question:  天是 \nAnswer:", ["蓝", "绿"], 1)
    assert asked["openbookqa"].prompt == " 天是 "
    assert asked["social_iqa"].prompt == "Q:  天是 \nA:"


def test_hellaswag_loses_the_marks_of_its_source(folder):
    row = {"question": "Cooking: Boil. [title] Then [step] eat", "choices": [" [substeps] a  b", "c"], "answer": 0}
    (question,) = read_questions(["hellaswag"], folder(hellaswag_val=[row]))["hellaswag"]
    assert question == ("Cooking: Boil.. Then eat", [" a b", "c"], 0)


def test_a_subject_introduces_itself(folder):
    rows = [LINE | {"subject": "law"}, LINE | {"subject": "围棋"}, LINE]
    prompts = [q.prompt for q in read_questions(["ceval-valid"], folder(ceval=rows))["ceval-valid"]]
    assert prompts[0].startswith("以下是中国关于法学的单项选择题，请选出其中的正确答案。\n\nWhy?\nA. so\n")
    assert prompts[1].startswith("以下是中国关于围棋的单项选择题")
    assert prompts[2].startswith("Why?")


def test_any_file_of_questions_is_a_task(folder):
    here = folder(mine=[LINE, LINE, LINE], ceval_val=[LINE])
    asked = read_questions(["mine", "ceval_val"], here, limit=2)
    assert [q.prompt for q in asked["mine"]] == ["Question: Why?\nAnswer:"] * 2
    assert asked["ceval_val"][0].choices == ["A", "B"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"question": "a', ["line 2", "not valid JSON"]),
        ("[1]", ["line 2", "not a JSON object"]),
        (json.dumps({"question": "a", "answer": 0}), ["line 2", "'choices'"]),
        (json.dumps(LINE | {"question": 3}), ["line 2", "'question'"]),
        (json.dumps(LINE | {"choices": ["one"]}), ["line 2", "1 entries"]),
        (json.dumps(LINE | {"choices": ["one", 2]}), ["line 2", "'choices'"]),
        (json.dumps(LINE | {"answer": 2}), ["line 2", "'answer'", "0 to 1", "A to B"]),
        (json.dumps(LINE | {"answer": -1}), ["line 2", "'answer'"]),
        (json.dumps(LINE | {"answer": True}), ["line 2", "'answer'"]),
        (json.dumps(LINE | {"answer": "C"}), ["line 2", "'answer'"]),
        (json.dumps(LINE | {"subject": 1}), ["line 2", "'subject'"]),
    ],
)
def test_a_bad_line_is_named(folder, line, words):
    here = folder(piqa=json.dumps(LINE) + "\n" + line + "\n")
    with pytest.raises(UserError) as error:
        read_questions(["piqa"], here)
    for word in ["piqa.jsonl", *words]:
        assert word in str(error.value)


def test_what_cannot_be_found_is_named(folder, tmp_path):
    here = folder(piqa_a=[LINE], piqa_b=[LINE], arc_easy="", openbookqa="\n\n")
    for names, data, error, words in [
        (["arc_esy"], here, UsageError, ["'arc_esy'", "did you mean 'arc_easy'"]),
        (["cmmul"], None, UsageError, ["'cmmul'", "did you mean 'cmmlu'"]),
        (["piqa"], here, UsageError, ["piqa_a, piqa_b"]),
        (["cmmlu"], here, UserError, ["cmmlu.jsonl", "--data"]),
        (["arc_easy"], here, UserError, ["arc_easy.jsonl", "empty"]),
        (["openbookqa"], here, UserError, ["openbookqa.jsonl", "no question"]),
        (["piqa"], str(tmp_path / "gone"), UserError, ["gone", "no such folder"]),
        ([], here, UsageError, ["ceval-valid"]),
    ]:
        with pytest.raises(error) as raised:
            read_questions(names, data)
        for word in words:
            assert word in str(raised.value)


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for `datasets`; the real one is opened by `test_the_hub_offline`."""
    asked = []

    def serve(answer):
        def load_dataset(*args, split):
            asked.append((*args, split))
            if isinstance(answer, Exception):
                raise answer
            return [answer]

        monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
        return asked

    return serve


def test_an_examination_is_read_subject_by_subject(hub):
    asked = hub({"question": "q", "A": "a", "B": "b", "C": "c", "D": "d", "answer": "C"})
    questions = read_questions(["ceval-valid"], None)["ceval-valid"]
    assert len(questions) == 52
    assert asked[0] == ("ceval/ceval-exam", "accountant", "val")
    assert questions[0] == (
        "以下是中国关于注册会计师的单项选择题，请选出其中的正确答案。\n\nq\nA. a\nB. b\nC. c\nD. d\n答案：",
        ["A", "B", "C", "D"],
        2,
    )


def test_a_limit_fetches_no_more_than_it_needs(hub):
    asked = hub({"Question": "q", "A": "a", "B": "b", "C": "c", "D": "d", "Answer": "A"})
    assert len(read_questions(["cmmlu"], None, limit=2)["cmmlu"]) == 2
    assert len(asked) == 2


def test_columns_of_the_hub():
    labelled = {"choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2 "}
    swag = {"activity_label": "Go", "ctx_a": "He runs.", "ctx_b": "he Stops", "endings": ["x", "y"], "label": "1"}
    siqa = {"context": "c", "question": "q", "answerA": "a", "answerB": "b", "answerC": "d", "label": "3"}
    for source, line, row in [
        (task_hub.ARC_EASY, labelled | {"question": "q"}, Row("q", ["a", "b"], 1)),
        (task_hub.OPENBOOKQA, labelled | {"question_stem": "q"}, Row("q", ["a", "b"], 1)),
        (task_hub.PIQA, {"goal": "q", "sol1": "a", "sol2": "b", "label": 0}, Row("q", ["a", "b"], 0)),
        (task_hub.HELLASWAG, swag, Row("Go: He runs. He stops", ["x", "y"], 1)),
        (task_hub.SOCIAL_IQA, siqa, Row("c q", ["a", "b", "d"], 2)),
    ]:
        assert source.read(line) == row


def test_the_hub_offline(hub, monkeypatch):
    hub(ConnectionError("no route\nmore"))
    with pytest.raises(UserError, match=r"piqa: baber/piqa cannot be fetched \(no route\); connect, or .* --data"):
        read_questions(["piqa"], None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'minimind\[data\]'"):
        read_questions(["piqa"], None)


def test_the_table_stands_beside_the_published_one():
    figures = {"acc": 0.25, "acc_norm": 0.5, "stderr": None, "n": 1000, "random": 0.25}
    lines = markdown({"cmmlu": figures, "mine": figures}).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == [
        *("cmmlu", "1,000", "25.00", "–", "50.00", "25.00", "25.38", "24.32")
    ]
    assert lines[3].rstrip(" |").endswith("–")
    assert "28.49" in markdown({"arc_easy_test": figures}), "a file of a known task"
    assert "published" not in markdown({"mine": figures})


def test_subjects_are_complete():
    assert {name: len(subjects) for name, subjects in tasks._subjects().items()} == {"ceval-valid": 52, "cmmlu": 67}
