"""One self-contained page that shows what several models answer to the same prompts, and what a judge says of it.

Prompts, answers and names come from outside and reach the page through `safe` only.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from minimind.eval.judge import CRITERIA
from minimind.report.html import HERE, figure, language, table, write_page
from minimind.report.plots import safe

CHINESE = {"accuracy": "准确", "completeness": "完整", "logic": "逻辑", "language": "语言"}
HOW_GRADED = (
    '<div class="words"><p>{judge} graded every answer from 1 to 10 without seeing the others. Grades of one judge '
    "compare models with each other; they are no measure of their own.</p>"
    '<p lang="zh">评审模型 {judge} 逐个打分（1 到 10），打分时看不到其他回答。同一评审的分数只能用来比较模型，'
    "本身不是绝对的度量。</p></div>"
)
HOW_COMPARED = (
    '<div class="words"><p>Each pair of answers was judged twice, in either order. Only a verdict that both times '
    "prefers the same model is a win; one that turned with the order counts as a tie.</p>"
    '<p lang="zh">每对回答评审两次，先后顺序对调。只有两次都偏向同一个模型才算胜；随顺序反转的判断算作平局。</p></div>'
)


def write_side_by_side(
    path: Path,
    prompts: Sequence[str],
    answers: Mapping[str, Sequence[str]],
    judgement: Mapping[str, Any] | None = None,
    judge: str = "",
) -> Path:
    """Write the page; it appears whole or not at all.

    Args:
        path: the file to write.
        prompts: what was asked.
        answers: model -> its answer to each prompt.
        judgement: what `eval.judge.judge_answers` returned, if a judge was asked.
        judge: the judge's name.

    Raises:
        UserError: the file cannot be written.
    """
    cards = [
        _card(prompt, {name: of_model[n] for name, of_model in answers.items()}, _grades_of(judgement, n))
        for n, prompt in enumerate(prompts)
    ]
    page = Template((HERE / "side_by_side.html").read_text(encoding="utf-8")).substitute(
        style=(HERE / "page.css").read_text(encoding="utf-8"),
        judgement=_judgement(judgement, judge) if judgement else "",
        answers="\n".join(cards),
    )
    return write_page(path, page)


def _card(prompt: str, answers: Mapping[str, str], grades: Mapping[str, Mapping[str, float] | None]) -> str:
    columns = []
    for name, answer in answers.items():
        said = f"<p{language(answer)}>{safe(answer)}</p>"
        if not answer.strip():
            said = '<p class="empty">said nothing <span lang="zh">没有回答</span></p>'
        given = grades.get(name)
        marks = " · ".join(f"{criterion} {grade:g}" for criterion, grade in given.items()) if given else ""
        columns.append(f'<div class="answer"><b>{safe(name)}</b>{said}<small>{marks}</small></div>')
    question = f'<p class="question"{language(prompt)}>{safe(prompt)}</p>'
    return f'<div class="talk">{question}<div class="answers">{"".join(columns)}</div></div>'


def _grades_of(judgement: Mapping[str, Any] | None, prompt: int) -> dict[str, Mapping[str, float] | None]:
    return {name: of_model[prompt] for name, of_model in judgement["grades"].items()} if judgement else {}


def _judgement(judgement: Mapping[str, Any], judge: str) -> str:
    rows = []
    for name, of_model in judgement["mean"].items():
        values = [value for value in of_model.values() if value is not None]
        overall = sum(values) / len(values) if values else None
        grades = [*(of_model[criterion] for criterion in CRITERIA), overall]
        rows.append([safe(name), *(figure(grade, ".1f") for grade in grades)])
    heads = [("model", "模型"), *((criterion, CHINESE[criterion]) for criterion in CRITERIA), ("mean", "平均")]
    graded = table(heads, rows)
    parts = [
        f'<section><h2>Grades <span lang="zh">评分</span></h2>{HOW_GRADED.format(judge=safe(judge))}{graded}</section>'
    ]
    if judgement["pairs"]:
        keys = ("wins", "losses", "ties", "turned", "unclear")
        heads = [("pair", "一对"), *zip(keys, ("胜", "负", "平", "随顺序反转", "无法读懂"), strict=True)]
        rows = [
            [f"{safe(p['first'])} – {safe(p['second'])}", *(str(p[key]) for key in keys)] for p in judgement["pairs"]
        ]
        parts.append(
            f'<section><h2>Pairs <span lang="zh">两两比较</span></h2>{HOW_COMPARED}{table(heads, rows)}</section>'
        )
    return "\n".join(parts)
