"""`report.html`: one file that says what was trained, how well it does, and how to talk to it.

The words and the layout are in `page.html`, the looks in `page.css`; here are the figures. Text from outside
(questions, answers, paths, names) reaches the page through `safe` only.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from minimind.errors import UserError
from minimind.files import write_text
from minimind.report import plots
from minimind.report.plots import safe
from minimind.train import metrics

HERE = Path(__file__).parent
ABILITIES = {
    "facts_en": ("facts, English", "英文事实"),
    "facts_zh": ("facts, Chinese", "中文事实"),
    "arithmetic": ("arithmetic", "算术"),
    "thinking": ("sums in two steps", "两步算术"),
    "thinking_t1": ("two steps, temperature 1", "两步算术，温度 1"),
    "countries": ("country of a person", "住在哪国"),
    "weekdays": ("days later", "几天以后"),
    "tools": ("tool calls", "工具调用"),
    "new_tools": ("tools never seen before", "从没见过的工具"),
    "errands": ("calls with a fact, thinking", "用事实调用，先思考"),
    "errands_at_once": ("calls with a fact, at once", "用事实调用，直接"),
    "small_talk": ("small talk", "寒暄"),
    "persona": ("persona", "人设"),
    "brief": ("brief when asked", "按要求简短"),
    "polite": ("polite when insulted", "受辱仍礼貌"),
    "honest": ("contradicts a forgery", "识破伪造"),
    "calculator": ("sums by calculator", "用计算器算"),
}
NOTHING = '<p class="none">Nothing was recorded here. <span lang="zh">没有记录。</span></p>'
QUICK = (
    '<div class="banner" role="note"><p><b>A quick run: its scores mean nothing.</b> Everything was shrunk to show in '
    "a minute that the pipeline works; run <code>minimind demo</code> for a model that answers.</p>"
    '<p lang="zh"><b>这是快速运行，分数没有意义。</b>'
    "所有规模都被缩小，只为在一分钟内证明流程可用；要得到会回答的模型，请运行 <code>minimind demo</code>。</p></div>"
)
HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003134f]")


def write_report(
    out: Path,
    report: Mapping[str, Any],
    runs: Mapping[str, Path],
    samples: Sequence[Mapping[str, Any]],
    notes: Sequence[str] = (),
) -> Path:
    """Write `out/report.html`, one self-contained page; it appears whole or not at all.

    Args:
        out: an existing folder or one to make.
        report: `report.json`'s content: `{"stages": {name: {"seconds", "tokens", "bpb", "scores", "model"}}, "model"}`,
            `"again"` in a stage for scores with other seeds, and `"quick"` and `"parameters"` where known. Whatever is
            missing, null or not finite is shown as a dash.
        runs: stage -> run directory, whose `metrics.jsonl` gives the curves.
        samples: `{"question": str, "answers": {stage: str}, "expected": str | None}`.
        notes: sentences for the reader, shown at the top.

    Returns:
        The path of the page.

    Raises:
        UserError: `out` cannot be written.
    """
    records = {stage: metrics.read(run / "metrics.jsonl") for stage, run in runs.items()}
    stages, model = report.get("stages", {}), str(report.get("model", "MODEL"))
    page = Template((HERE / "page.html").read_text(encoding="utf-8")).substitute(
        style=(HERE / "page.css").read_text(encoding="utf-8"),
        banner=QUICK if report.get("quick") else "",
        tiles=_tiles(report),
        notes=_notes(notes),
        table=_table(stages),
        bars=plots.bars(_by_ability(stages)) or NOTHING,
        samples="\n".join(_sample(sample) for sample in samples) or NOTHING,
        loss=_curves(records, "loss", "loss", smoothed=True),
        valid_bpb=_curves(records, "valid_bpb", "bits per byte"),
        lr=_curves(records, "lr", "learning rate", zero=True),
        tokens_per_second=_curves(records, "tokens_per_second", "tokens per second", zero=True),
        chat=safe("minimind chat " + (f'"{model}"' if re.search(r"\s", model) else model)),
        python=safe(
            f'import minimind\n\nlm = minimind.load({model!r})\nlm.chat([{{"role": "user", "content": "..."}}])'
        ),
    )
    return write_page(Path(out) / "report.html", page)


def _tiles(report: Mapping[str, Any]) -> str:
    """The four figures that a reader asks for first."""
    stages = list(report.get("stages", {}).values())
    figures = (
        ("parameters", "参数", _count(report.get("parameters"))),
        ("tokens trained on", "训练 token", _count(sum(_number(stage.get("tokens")) or 0 for stage in stages))),
        ("time", "用时", _duration(sum(_number(stage.get("seconds")) or 0 for stage in stages))),
        ("bits per byte", "每字节比特数", figure(stages[-1].get("bpb") if stages else None, ".3f")),
    )
    return "\n".join(
        f'<div><dt>{english} <span lang="zh">{chinese}</span></dt><dd>{figure}</dd></div>'
        for english, chinese, figure in figures
    )


def _notes(notes: Sequence[str]) -> str:
    return f'<ul class="notes">{"".join(f"<li>{safe(note)}</li>" for note in notes)}</ul>' if notes else ""


def _table(stages: Mapping[str, Mapping[str, Any]]) -> str:
    """Stages down, figures across."""
    if not stages:
        return NOTHING
    abilities = _abilities(stages)
    columns = [("stage", "阶段"), ("time", "用时"), ("tokens", "token 数"), ("bits per byte", "每字节比特数")]
    columns += [ABILITIES.get(ability, (ability, "")) for ability in abilities]
    rows = []
    for name, stage in stages.items():
        cells = [_duration(stage.get("seconds")), _count(stage.get("tokens")), figure(stage.get("bpb"), ".3f")]
        cells += [figure(_scores(stage).get(ability), ".0%") + _spread(stage, ability) for ability in abilities]
        rows.append([safe(name), *cells])
    return table(columns, rows)


def _spread(stage: Mapping[str, Any], ability: str) -> str:
    """Between which scores the runs with several seeds lie, where there are such."""
    runs = [_scores(stage), *(stage.get("again") or ())]
    found = [score for run in runs if (score := _number(run.get(ability))) is not None]
    return f"<small>{100 * min(found):.0f}–{max(found):.0%}</small>" if len(found) > 1 else ""


def _by_ability(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Turn stage -> ability -> score round, for the bars."""
    return {
        " ".join(ABILITIES.get(ability, (ability, ""))).strip(): {
            name: _number(_scores(stage).get(ability)) for name, stage in stages.items()
        }
        for ability in _abilities(stages)
    }


def _abilities(stages: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(ability for stage in stages.values() for ability in _scores(stage)))


def _scores(stage: Mapping[str, Any]) -> Mapping[str, Any]:
    return stage.get("scores") or {}


def _sample(sample: Mapping[str, Any]) -> str:
    """One question, and what each stage's model said to it."""
    expected = sample.get("expected")
    parts = [f'<p class="question"{language(sample["question"])}>{safe(sample["question"])}</p>']
    if expected is not None:
        parts.append(
            f'<p class="expected">expected <span lang="zh">期望</span>: '
            f"<span{language(expected)}>{safe(expected)}</span></p>"
        )
    rows = []
    for stage, answer in sample["answers"].items():
        kind, mark = "", ""
        if expected is not None:
            kind, mark = ("right", "✓") if answer.strip() == expected.strip() else ("wrong", "✗")
        said = f"<span{language(answer)}>{safe(answer)}</span>"
        if not answer.strip():
            said = '<span class="empty">said nothing <span lang="zh">没有回答</span></span>'
        label = f' aria-label="{kind}"' if kind else ""
        rows.append(f'<li class="{kind}"><b>{safe(stage)}</b><i{label}>{mark}</i>{said}</li>')
    return f'<div class="talk">{"".join(parts)}<ul>{"".join(rows)}</ul></div>'


def _curves(
    records: Mapping[str, Sequence[Mapping[str, Any]]], key: str, unit: str, zero: bool = False, smoothed: bool = False
) -> str:
    """One small plot of `key` over the tokens for each stage that recorded it."""
    parts = []
    for stage, record in records.items():
        lines = [line for line in record if isinstance(line.get(key), int | float)]
        points = [(float(line.get("tokens", line["step"])), float(line[key])) for line in lines]
        series = [plots.Series(stage, points)]
        if smoothed and len(points) >= 24:
            series = [
                plots.Series("as logged", points, faint=True),
                plots.Series("running mean", plots.smooth(points)),
            ]
        if drawing := plots.lines(series, "tokens", unit, zero):
            last = f"{points[-1][1]:.4g}" if points[-1][1] < 1000 else _count(points[-1][1])
            parts.append(f"<div><h3>{safe(stage)}<span>last {last}</span></h3>{drawing}</div>")
    return f'<div class="plots">{"".join(parts)}</div>' if parts else NOTHING


def language(text: str) -> str:
    """The attribute that lets the browser choose Chinese glyphs; direction follows the text itself."""
    return ' lang="zh" dir="auto"' if HAN.search(text) else ' dir="auto"'


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _count(value: Any) -> str:
    number = _number(value)
    if number is None:
        return "–"
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {suffix}"
    return f"{number:.0f}"


def _duration(value: Any) -> str:
    seconds = _number(value)
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def figure(value: Any, form: str) -> str:
    """A number in a format, or a dash where it is missing or not finite."""
    number = _number(value)
    return "–" if number is None else format(number, form)


def table(heads: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells in HTML, the first of each row its name, under heads of English and Chinese text."""
    head = "".join(
        f'<th scope="col">{safe(english)}<small lang="zh">{chinese}</small></th>' for english, chinese in heads
    )
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>' for first, *rest in rows
    )
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def write_page(path: Path, page: str) -> Path:
    """Write a page whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, page)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another folder") from None
    return path
