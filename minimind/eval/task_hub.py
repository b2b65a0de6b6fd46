"""Where the hub keeps each task: the data set, its split, and which of its columns are question, choices and answer.

The splits are those that lm-eval scores.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from minimind.console import hushed
from minimind.errors import UserError, optional


class Row(NamedTuple):
    """A question as data: `answer` is the index of the right choice, `subject` one of an examination's."""

    question: str
    choices: list[str]
    answer: int
    subject: str = ""


class Source(NamedTuple):
    """A data set on the hub; an examination has one configuration a subject."""

    repository: str
    split: str
    read: Callable[[Mapping[str, Any]], Row]
    configuration: str | None = None


def rows(task: str, source: Source, subjects: Sequence[str]) -> Iterator[Row]:
    """The rows of a task, subject after subject; `subjects` is `[""]` where there are none.

    Raises:
        UserError: `datasets` is not installed, or the hub does not give the data.
    """
    library = f"{task}: the hub is read with a library; pip install 'minimind[data]', or name local files with --data"
    with optional(library):
        import datasets
    for subject in subjects:
        try:
            with hushed():
                table = datasets.load_dataset(source.repository, subject or source.configuration, split=source.split)
        except Exception as error:  # the library raises many kinds, all meaning that the data cannot be had
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(
                f"{task}: {source.repository} cannot be fetched ({reason}); connect, or name local files with --data"
            ) from error
        for line in table:
            yield source.read(line)._replace(subject=subject)


def _lettered(question: str, answer: str) -> Callable[[Mapping[str, Any]], Row]:
    """Columns A, B, C, D and a letter."""
    return lambda line: Row(line[question], [line[letter] for letter in "ABCD"], "ABCD".index(line[answer]))


def _labelled(question: str) -> Callable[[Mapping[str, Any]], Row]:
    """A table of labels and texts, and the label of the right one."""
    return lambda line: Row(
        line[question], line["choices"]["text"], line["choices"]["label"].index(line["answerKey"].strip())
    )


def _hellaswag(line: Mapping[str, Any]) -> Row:
    beginning = f"{line['activity_label']}: {line['ctx_a']} {line['ctx_b'].capitalize()}"
    return Row(beginning, line["endings"], int(line["label"]))


CEVAL = Source("ceval/ceval-exam", "val", _lettered("question", "answer"))
CMMLU = Source("haonan-li/cmmlu", "test", _lettered("Question", "Answer"))
ARC_EASY = Source("allenai/ai2_arc", "test", _labelled("question"), "ARC-Easy")
PIQA = Source("baber/piqa", "validation", lambda line: Row(line["goal"], [line["sol1"], line["sol2"]], line["label"]))
OPENBOOKQA = Source("allenai/openbookqa", "test", _labelled("question_stem"), "main")
HELLASWAG = Source("Rowan/hellaswag", "validation", _hellaswag)
SOCIAL_IQA = Source(
    "lighteval/siqa",
    "validation",
    lambda line: Row(
        f"{line['context']} {line['question']}", [line[f"answer{letter}"] for letter in "ABC"], int(line["label"]) - 1
    ),
)
