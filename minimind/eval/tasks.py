"""The multiple-choice tasks: how each asks its questions, and where its questions are found.

The wording of a prompt moves a score by several points, so each task asks as lm-eval 0.4 does (zero-shot) and its
scores may stand beside published ones.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from minimind.data.corpus import BadLine, expand, parsed, read_batches, read_object
from minimind.errors import UsageError, UserError, did_you_mean
from minimind.eval import task_hub
from minimind.eval.task_hub import Row

LETTERS = "ABCDEFGHIJ"
ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst")


class Question(NamedTuple):
    """A question as the model meets it: each choice, after a space, continues the prompt."""

    prompt: str
    choices: list[str]
    answer: int


@dataclass(frozen=True)
class Task:
    """How to ask, and where from."""

    ask: Callable[[Row], Question]
    prefixes: tuple[str, ...] = ()
    """What the names of local files of this task begin with."""
    hub: task_hub.Source | None = None


def _examination(name: str, introduction: str) -> Callable[[Row], Question]:
    """The choices stand in the prompt, each with its letter, and the letters are what is scored."""

    def ask(row: Row) -> Question:
        letters = list(LETTERS[: len(row.choices)])
        listed = "".join(f"{letter}. {choice}\n" for letter, choice in zip(letters, row.choices, strict=True))
        subject = _subjects()[name].get(row.subject, row.subject)
        begin = introduction.format(subject) if subject else ""
        return Question(f"{begin}{row.question.strip()}\n{listed}答案：", letters, row.answer)

    return ask


def _after(template: str) -> Callable[[Row], Question]:
    """The question in a template; the text of each choice is scored."""

    def ask(row: Row) -> Question:
        return Question(template.format(row.question), row.choices, row.answer)

    return ask


def _hellaswag(row: Row) -> Question:
    return Question(_clean(row.question), [_clean(choice) for choice in row.choices], row.answer)


def _clean(text: str) -> str:
    """Take out what WikiHow's layout left in the texts of HellaSwag: [title], [step], [header]."""
    text = text.strip().replace(" [title]", ". ")
    return "\n".join(map(_without_brackets, text.split("\n"))).replace("  ", " ")


def _without_brackets(line: str) -> str:
    kept, done = "", 0
    while (start := line.find("[", done)) >= 0 and (end := line.find("]", start)) >= 0:
        kept, done = kept + line[done:start], end + 1
    return kept + line[done:]


GENERAL = Task(_after("Question: {}\nAnswer:"))
"""How any other file of questions is asked."""
TASKS = {
    "ceval-valid": Task(
        _examination("ceval-valid", "以下是中国关于{}的单项选择题，请选出其中的正确答案。\n\n"),
        ("ceval",),
        task_hub.CEVAL,
    ),
    "cmmlu": Task(
        _examination("cmmlu", "以下是关于{}的单项选择题，请直接给出正确答案的选项。\n\n"), ("cmmlu",), task_hub.CMMLU
    ),
    "arc_easy": Task(GENERAL.ask, ("arc_easy",), task_hub.ARC_EASY),
    "piqa": Task(GENERAL.ask, ("piqa",), task_hub.PIQA),
    "openbookqa": Task(_after("{}"), ("openbookqa", "obqa"), task_hub.OPENBOOKQA),
    "hellaswag": Task(_hellaswag, ("hellaswag",), task_hub.HELLASWAG),
    "social_iqa": Task(_after("Q: {}\nA:"), ("social_iqa", "socialiqa", "siqa"), task_hub.SOCIAL_IQA),
}
PUBLISHED = {
    "minimind-3": dict(zip(TASKS, (24.89, 25.38, 28.49, 50.65, 23.60, 28.28, 34.19), strict=True)),
    "minimind-3-moe": dict(zip(TASKS, (25.48, 24.32, 27.74, 50.71, 26.20, 27.43, 34.03), strict=True)),
}
"""What the source project reports of its own models, in per cent."""


def read_questions(names: list[str], folder: str | None, limit: int | None = None) -> dict[str, list[Question]]:
    """The questions of each task, at most `limit`: from the files of a folder, or without one from the hub.

    Raises:
        UsageError: an unknown task, or a name that fits several files.
        UserError: no such folder or file, nothing in it, a malformed line, or no hub.
    """
    if folder is not None and not Path(folder).is_dir():
        raise UserError(
            f"--data {folder}: there is no such folder; name one that holds a JSON Lines file for each task"
        )
    if not names:
        raise UsageError(f"--tasks names no task; valid names: {', '.join(TASKS)}")
    sources = {name: _find(name, folder) for name in names}
    questions = {}
    for name, (task, file) in sources.items():
        rows = _hub_rows(name, task) if file is None else _local_rows(file)
        questions[name] = [task.ask(row) for row in islice(rows, limit)]
        if not questions[name]:
            raise UserError(f"{file or name} holds no question")
    return questions


def markdown(figures: Mapping[str, Mapping[str, float | int | None]]) -> str:
    """A table of the tasks in Markdown, in per cent; beside known tasks, what the source project publishes."""
    known = {name: _task_of(name) for name in figures}
    published = PUBLISHED if any(known.values()) else {}
    rows = [["task", "questions", "acc", "±", "acc_norm", "guessing", *(f"{name} (published)" for name in published)]]
    for name, of_task in figures.items():
        ours = [of_task[key] for key in ("acc", "stderr", "acc_norm", "random")]
        cells = [f"{100 * value:.2f}" if value is not None else "–" for value in ours]
        theirs = [scores.get(known[name] or "") for scores in published.values()]
        cells += [f"{score:.2f}" if score is not None else "–" for score in theirs]
        rows.append([name, f"{of_task['n']:,}", *cells])
    first, *rest = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * first, *("-" * (width - 1) + ":" for width in rest)])
    aligned = ([name.ljust(first), *map(str.rjust, cells, rest)] for name, *cells in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in aligned)


def _find(name: str, folder: str | None) -> tuple[Task, Path | None]:
    """The task of that name and its file: `NAME.jsonl`, or the one file whose name begins like the task's."""
    if folder is None:
        if name not in TASKS:
            raise UsageError(f"--tasks: there is no task {name!r}{did_you_mean(name, TASKS)}")
        return TASKS[name], None
    files = {_stem(path): path for path in sorted(Path(folder).iterdir()) if path.name.endswith(ENDINGS)}
    if name in files:
        task = _task_of(name)
        return TASKS[task] if task else GENERAL, files[name]
    if name not in TASKS:
        raise UsageError(f"--tasks: there is no task or file {name!r}{did_you_mean(name, {*TASKS, *files})}")
    fitting = [stem for stem in files if _begins(stem, TASKS[name])]
    if not fitting:
        raise UserError(
            f"{folder} has no file for {name}; name it {name}.jsonl, or leave --data out to fetch the task from the hub"
        )
    if len(fitting) > 1:
        raise UsageError(f"{folder} has several files for {name}; name one of them in --tasks: {', '.join(fitting)}")
    return TASKS[name], files[fitting[0]]


def _task_of(name: str) -> str | None:
    """The task that a name or the name of a file means, if any."""
    return name if name in TASKS else next((task for task in TASKS if _begins(name, TASKS[task])), None)


def _stem(path: Path) -> str:
    return path.name[: path.name.index(".jsonl")]


def _begins(stem: str, task: Task) -> bool:
    stem = stem.lower().replace("-", "_") + "_"
    return any(stem.startswith(prefix + "_") for prefix in task.prefixes)


def _local_rows(file: Path) -> Iterator[Row]:
    for batch in read_batches(expand([file])):
        for row in parsed(batch, lambda line: _row(read_object(line))):
            if isinstance(row, BadLine):
                raise UserError(f"{row}; correct the line")
            yield row


def _hub_rows(name: str, task: Task) -> Iterator[Row]:
    assert task.hub is not None
    return task_hub.rows(name, task.hub, list(_subjects().get(name, {"": ""})))


def _row(line: dict[str, object]) -> Row:
    """Check a line: `question`, `choices` (two to ten), `answer` (index or letter), perhaps `subject`."""
    missing = [key for key in ("question", "choices", "answer") if key not in line]
    if missing:
        raise UserError(f"no field {missing[0]!r} (a question has 'question', 'choices' and 'answer')")
    question, choices, answer, subject = (line.get(key) for key in ("question", "choices", "answer", "subject"))
    if not isinstance(question, str) or not question.strip():
        raise UserError("'question' must be a text")
    if not isinstance(choices, list) or not all(isinstance(choice, str) and choice for choice in choices):
        raise UserError("'choices' must be a list of texts")
    if not 2 <= len(choices) <= len(LETTERS):
        raise UserError(f"'choices' has {len(choices)} entries, but should have 2 to {len(LETTERS)}")
    if isinstance(answer, str) and len(answer.strip()) == 1:
        answer = LETTERS.find(answer.strip().upper())
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        last = len(choices) - 1
        raise UserError(f"'answer' must be the index of a choice, 0 to {last}, or its letter, A to {LETTERS[last]}")
    if not isinstance(subject, str | None):
        raise UserError("'subject' must be a text")
    return Row(question, choices, answer, subject or "")


@cache
def _subjects() -> dict[str, dict[str, str]]:
    """The subjects of each examination: name on the hub -> Chinese name."""
    return json.loads((Path(__file__).parent / "subjects.json").read_text(encoding="utf-8"))
