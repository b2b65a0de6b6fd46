"""lm-eval on our models: per item the log-likelihoods of its own `hf` model, and the scores of our command."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

if not find_spec("lm_eval") or not find_spec("accelerate"):
    pytest.skip("needs lm-eval: pip install 'minimind[eval]'", allow_module_level=True)

import lm_eval
import yaml
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import apply_template

from minimind.errors import UserError
from minimind.eval import task_hub
from minimind.eval.choice import evaluate, log_likelihoods, plant
from minimind.eval.lm_eval import MiniMindLM
from minimind.eval.tasks import TASKS, Question, read_questions

PAIRS = [
    ("Question: Why is the sky blue?\nAnswer:", " because of the air"),
    ("Question: Why is the sky blue?\nAnswer:", " 因为空气"),
    ("Question: Why is the sky blue?\nAnswer:", " B"),
    ("下列说法正确的是\nA. 水\nB. 火\n答案：", " A"),
    ("下列说法正确的是\nA. 水\nB. 火\n答案：", " B"),
    ("The end is spaced  ", "out"),
    ("", "no context at all"),
    ("word " * 400, " cut at the left, since it is longer than the model's context"),
]
LINES = [
    {"question": f"What is {a} plus {b}?", "choices": [str(a + b), str(a * b + 7), f"{a} and {b} 个"], "answer": 0}
    for a in range(4)
    for b in range(3)
]


@pytest.fixture(scope="module")
def theirs(model_dir):
    return HFLM(pretrained=str(model_dir), dtype="float32", device="cpu", batch_size=4)


@pytest.fixture(scope="module")
def ours(model_dir):
    return MiniMindLM(str(model_dir), device="cpu", dtype="float32")


def requests(kind, arguments):
    return [Instance(request_type=kind, doc={}, arguments=one, idx=0) for one in arguments]


def test_it_is_registered():
    assert get_model("minimind") is MiniMindLM
    with pytest.raises(UserError, match="dtype=int4: choose auto, float32"):
        MiniMindLM("nowhere", dtype="int4")


def test_every_log_likelihood_agrees(ours, theirs):
    expected = theirs.loglikelihood(requests("loglikelihood", PAIRS), disable_tqdm=True)
    got = ours.loglikelihood(requests("loglikelihood", PAIRS), disable_tqdm=True)
    for pair, (logprob, greedy), (reference, reference_greedy) in zip(PAIRS, got, expected, strict=True):
        assert logprob == pytest.approx(reference, abs=1e-3), pair
        assert greedy == reference_greedy


def test_rolling_log_likelihood_agrees(ours, theirs):
    texts = [("A short text. 短文。",), ("many words to fill windows " * 80,)]
    expected = theirs.loglikelihood_rolling(requests("loglikelihood_rolling", texts), disable_tqdm=True)
    got = ours.loglikelihood_rolling(requests("loglikelihood_rolling", texts))
    assert got == pytest.approx(expected, abs=1e-2, rel=1e-6)  # sums over hundreds of tokens


def test_generation_agrees(ours, theirs):
    asked = [
        ("Once upon a time", {"until": ["\n\n"], "max_gen_toks": 6}),
        ("从前", {"until": ["\n\n"], "max_gen_toks": 6}),
        ("Hello", {"until": [], "max_gen_toks": 3, "do_sample": False}),
    ]
    expected = theirs.generate_until(requests("generate_until", asked), disable_tqdm=True)
    assert ours.generate_until(requests("generate_until", asked)) == expected


def test_a_stop_string_ends_an_answer(ours):
    asked = [("Hello", {"max_gen_toks": 8})]
    (whole,) = ours.generate_until(requests("generate_until", asked))
    stop = whole[2:4]
    (cut,) = ours.generate_until(requests("generate_until", [("Hello", {"max_gen_toks": 8, "until": stop})]))
    assert cut == whole[: whole.index(stop)]
    with pytest.raises(UserError, match="max_gen_toks=256 leaves no room"):
        ours.generate_until(requests("generate_until", [("Hello", {})]))


def test_scores_agree_on_a_whole_task(ours, theirs, tmp_path):
    """The same local file: under lm-eval with either model, and by our command's own code."""
    file = tmp_path / "sums.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in LINES), encoding="utf-8")
    task = {
        "task": "sums",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "answer",
        "doc_to_choice": "choices",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_bytes"}],
    }
    manager = TaskManager(include_defaults=False)  # reading thousands of task files takes ten seconds
    run = {
        name: lm_eval.simple_evaluate(model=model, tasks=[task], task_manager=manager, bootstrap_iters=0)
        for name, model in (("ours", ours), ("theirs", theirs))
    }
    for one, other in zip(run["ours"]["samples"]["sums"], run["theirs"]["samples"]["sums"], strict=True):
        for (mine, _), (reference, _) in zip(one["filtered_resps"], other["filtered_resps"], strict=True):
            assert mine == pytest.approx(reference, abs=1e-3)

    questions = read_questions(["sums"], str(tmp_path))["sums"]
    scores = log_likelihoods(ours.model, [plant(q, ours.text) for q in questions])
    for of_one, sample in zip(scores, run["theirs"]["samples"]["sums"], strict=True):
        reference = [value for value, _ in sample["filtered_resps"]]
        assert [score.logprob for score in of_one] == pytest.approx(reference, abs=1e-3)
    figures = evaluate(ours.model, ours.text, {"sums": questions})["sums"]
    for results in (run["ours"]["results"]["sums"], run["theirs"]["results"]["sums"]):
        assert figures["acc"] == pytest.approx(results["acc,none"])
        assert figures["acc_norm"] == pytest.approx(results["acc_bytes,none"])


class Definition(yaml.SafeLoader):
    """A task file of lm-eval without the Python that it names."""


Definition.add_constructor("!function", lambda loader, node: node.value)
FILES = {
    "ceval-valid": ("ceval/_default_ceval_yaml", "ceval/ceval-valid_law.yaml"),
    "cmmlu": ("cmmlu/_default_template_yaml", "cmmlu/cmmlu_high_school_physics.yaml"),
    "arc_easy": ("arc/arc_easy.yaml",),
    "piqa": ("piqa/piqa.yaml",),
    "openbookqa": ("openbookqa/openbookqa.yaml",),
    "social_iqa": ("siqa/siqa.yaml",),
}
LABELLED = {"choices": {"text": ["red", "blue"], "label": ["A", "B"]}, "answerKey": "B"}
EXAMINATION = {"A": "甲", "B": "乙", "C": "丙", "D": "丁"}
DOCUMENTS = {
    "ceval-valid": EXAMINATION | {"question": " 问题____。\n", "answer": "C"},
    "cmmlu": EXAMINATION | {"Question": "问题 ", "Answer": "D"},
    "arc_easy": LABELLED | {"question": "Which {colour} is it?"},
    "piqa": {"goal": "Boil water ", "sol1": "a", "sol2": "b", "label": 1},
    "openbookqa": LABELLED | {"question_stem": "The sky is"},
    "social_iqa": {
        **{"context": "Alex left.", "question": "Why?", "answerA": "x", "answerB": "y", "answerC": "z", "label": "2"}
    },
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_prompts_are_those_of_the_published_task(name):
    folder = Path(lm_eval.__file__).parent / "tasks"
    task = {}
    for file in FILES[name]:
        task |= yaml.load((folder / file).read_text(encoding="utf-8"), Definition)
    document, hub = DOCUMENTS[name], TASKS[name].hub
    text = task["doc_to_text"]
    prompt = task.get("description", "") + (document[text] if text in document else apply_template(text, document))
    choices = task["doc_to_choice"]
    choices = choices if isinstance(choices, list) else yaml.safe_load(apply_template(choices, document))
    answer = task["doc_to_target"]
    answer = document[answer] if answer in document else int(apply_template(answer, document))

    row = hub.read(document)._replace(subject=task["dataset_name"] if name in ("ceval-valid", "cmmlu") else "")
    assert TASKS[name].ask(row) == Question(prompt, choices, answer)
    assert hub.repository == task["dataset_path"]
    assert hub.split == (task.get("test_split") or task["validation_split"])
    assert task.get("target_delimiter", " ") == " "


def test_hellaswag_is_cleaned_as_published():
    from lm_eval.tasks.hellaswag.utils import process_docs

    document = {
        "activity_label": "Cooking [header]",
        "ctx_a": "He boils. [title] Then",
        "ctx_b": "he [step] Eats",
        "endings": ["[substeps] rice", " a  pot "],
        "label": "1",
    }
    (expected,) = process_docs(FakeTable([document]))
    assert TASKS["hellaswag"].ask(task_hub.HELLASWAG.read(document)) == Question(
        expected["query"], expected["choices"], expected["gold"]
    )


class FakeTable(list):
    def map(self, function):
        return [function(document) for document in self]
